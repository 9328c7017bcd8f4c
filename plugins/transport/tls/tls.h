/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TRANSPORT_TLS_H
#define SVC_TRANSPORT_TLS_H

/*
 * TLS between the frames and what moves their bytes, for the transports that
 * have it: tls_files.c keeps the certificates of a transport and reads them
 * again when they change, tls.c is one connection's session. OpenSSL is seen by
 * these two only, which are a module of their own: it is loaded, and OpenSSL
 * with it, by the first transport that has certificates. tls_load.c does this;
 * it and shaker.c, which computes handshakes beside the loops, are the part
 * that each transport is built of.
 *
 * A session either uses a socket by itself (tls_use_socket), or it has none:
 * then tls_put gives it what has come, and tls_take what is to be sent.
 */

#include <svc/buf.h>
#include <svc/plugin.h>
#include <svc/transport.h>
#include <sys/types.h>

/* ------------------------------------------------- certificates, tls_files.c
 */

struct tls_files;
/* Reads the files. Errors: SVC_E_INVAL (which file, why, what to do),
 * SVC_E_NOMEM. `config` is borrowed until destroyed. */
svc_err tls_files_create(const struct svc_tls_config *config,
    struct tls_files **ret_files, struct svc_error *err);
/* NULL is fine. */
void tls_files_destroy(struct tls_files *files);
const struct svc_tls_config *tls_files_config(const struct tls_files *files);
/* The SSL_CTX of the newest usable files, which are looked at once a second at
 * most; with a reference that is the caller's. May block on the disk. */
void *tls_files_context(struct tls_files *files);

/* ------------------------------------------------------- one session, tls.c
 */

struct tls;
typedef enum tls_step {
	TLS_DONE,
	TLS_WANT_READ,
	TLS_WANT_WRITE,
	TLS_FAILED, /* tls_reason says why */
} tls_step;

/* The other side is called `peer` in texts. `host` is the host dialled; NULL
 * for an accepted connection. NULL without memory. */
struct tls *tls_create(
    struct tls_files *files, const char *host, const char *peer);
void tls_destroy(struct tls *tls); /* NULL is fine */
/* Once, before the first step. */
void tls_use_socket(struct tls *tls, int fd);
/* Without a socket: bytes of the peer's, for the next steps and reads.
 * Errors: SVC_E_NOMEM */
svc_err tls_put(struct tls *tls, const void *data, size_t len);
/* Without a socket, after any other call: moves what is to be sent to the end
 * of `into`. Errors: SVC_E_NOMEM */
svc_err tls_take(struct tls *tls, struct svc_buf *into);
/* One step of the handshake; its arithmetic takes a millisecond or so. Nobody
 * else may use the session meanwhile. */
tls_step tls_shake(struct tls *tls);

/* As send: bytes that are with the operating system, or without a socket to be
 * taken; -1 with errno, EAGAIN when the socket is full, and then the next call
 * must begin with the same bytes. Any one thread at a time, while another
 * reads.
 */
ssize_t tls_write(struct tls *tls, const void *data, size_t len);
/* As recv: 0 when the peer has closed; without a socket EAGAIN says that more
 * must be put. Any one thread at a time. */
ssize_t tls_read(struct tls *tls, void *data, size_t room);
/* For the reader: the last read left bytes that poll does not know of. */
bool tls_more(const struct tls *tls);
/* Tell the peer that no more follows, if the socket takes that. */
void tls_close(struct tls *tls);

struct tls_failure {
	char text[248];
	bool unheard; /* the peer refused the session: it has not looked at
		       * what it was sent */
	bool gone;    /* the peer went away, that was all */
	bool broke;   /* the peer does what nobody may */
};
/* Why it failed; false when it was not TLS's doing. */
bool tls_reason(struct tls *tls, struct tls_failure *ret);
/* The name in the peer's verified certificate; NULL when it showed none. */
const char *tls_identity(const struct tls *tls);

/* ------------------------------------------ threads for handshakes, shaker.c
 */

struct tls_shaker;
/* NULL without memory. */
struct tls_shaker *tls_shaker_create(struct svc_executor *executor);
/* After the last step. NULL is fine. */
void tls_shaker_destroy(struct tls_shaker *shaker);
/* Runs a step's task on one of the threads, or if none can be had on this one.
 */
void tls_shaker_run(struct tls_shaker *shaker, struct svc_task *step);

/* ------------------------------------------------------ the module, tls_load.c
 */

#define TLS_ABI SVC_ABI(6, 3)
/* The functions above that the transport calls. */
struct tls_ops {
	uint32_t abi;
	uint32_t size;
	const char *name;
	svc_err (*files_create)(const struct svc_tls_config *config,
	    struct tls_files **ret_files, struct svc_error *err);
	void (*files_destroy)(struct tls_files *files);
	struct tls *(*create)(
	    struct tls_files *files, const char *host, const char *peer);
	void (*destroy)(struct tls *tls);
	void (*use_socket)(struct tls *tls, int fd);
	tls_step (*shake)(struct tls *tls);
	ssize_t (*write)(struct tls *tls, const void *data, size_t len);
	ssize_t (*read)(struct tls *tls, void *data, size_t room);
	bool (*more)(const struct tls *tls);
	void (*close)(struct tls *tls);
	bool (*reason)(struct tls *tls, struct tls_failure *ret);
	const char *(*identity)(const struct tls *tls);
	svc_err (*put)(struct tls *tls, const void *data, size_t len);
	svc_err (*take)(struct tls *tls, struct svc_buf *into);
};

#endif
