/* SPDX-License-Identifier: Apache-2.0 */
/* Built for this interface, but one required function is missing: refused. */
#include <svc/registry.h>

static svc_err
create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	(void)config;
	(void)err;
	*ret_self = NULL;
	return SVC_OK;
}

static void
destroy(void *self)
{
	(void)self;
}

static svc_err
announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	(void)self;
	(void)record;
	(void)ttl_ms;
	(void)err;
	return SVC_OK;
}

static svc_err
withdraw(void *self, const struct svc_record *record, struct svc_error *err)
{
	(void)self;
	(void)record;
	(void)err;
	return SVC_OK;
}

static svc_err
list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	(void)self;
	(void)sink;
	(void)arg;
	(void)err;
	return SVC_OK;
}

static const struct svc_registry_ops ops = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "half",
    .create = create,
    .destroy = destroy,
    .announce = announce,
    .withdraw = withdraw,
    .list = list,
};
SVC_PLUGIN(ops);
