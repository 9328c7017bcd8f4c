/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS as the transport calls it. A service without certificates would pay for
 * OpenSSL with a third of its memory and half of its start, so the module that
 * uses it is found like any plugin when it is first needed. It stays loaded.
 */
#include "tls.h"

#include <stdatomic.h>

static const struct svc_interface interface = {
    .name = "tls",
    .abi = TLS_ABI,
    .min_size = sizeof(struct tls_ops),
};

/* Set before there is anything that the other functions could be called with.
 */
static _Atomic(const struct tls_ops *) loaded;

static const struct tls_ops *
ops(void)
{
	return atomic_load_explicit(&loaded, memory_order_acquire);
}

svc_err
tls_files_create(const struct svc_tls_config *config,
    struct tls_files **ret_files, struct svc_error *err)
{
	const void *found;
	svc_err code = svc_catalogue_find(&interface, "openssl", &found, err);
	if (code != SVC_OK)
		return code;
	atomic_store_explicit(&loaded, found, memory_order_release);
	return ops()->files_create(config, ret_files, err);
}

void
tls_files_destroy(struct tls_files *files)
{
	if (files != NULL)
		ops()->files_destroy(files);
}

struct tls *
tls_create(struct tls_files *files, const char *host, const char *peer)
{
	return ops()->create(files, host, peer);
}

void
tls_destroy(struct tls *tls)
{
	if (tls != NULL)
		ops()->destroy(tls);
}

void
tls_use_socket(struct tls *tls, int fd)
{
	ops()->use_socket(tls, fd);
}

tls_step
tls_shake(struct tls *tls)
{
	return ops()->shake(tls);
}

ssize_t
tls_write(struct tls *tls, const void *data, size_t len)
{
	return ops()->write(tls, data, len);
}

ssize_t
tls_read(struct tls *tls, void *data, size_t room)
{
	return ops()->read(tls, data, room);
}

bool
tls_more(const struct tls *tls)
{
	return ops()->more(tls);
}

void
tls_close(struct tls *tls)
{
	ops()->close(tls);
}

bool
tls_reason(struct tls *tls, struct tls_failure *ret)
{
	return ops()->reason(tls, ret);
}

const char *
tls_identity(const struct tls *tls)
{
	return ops()->identity(tls);
}

svc_err
tls_put(struct tls *tls, const void *data, size_t len)
{
	return ops()->put(tls, data, len);
}

svc_err
tls_take(struct tls *tls, struct svc_buf *into)
{
	return ops()->take(tls, into);
}
