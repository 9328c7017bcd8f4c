/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REDIS_H
#define SVC_REDIS_H

#include <address/skips.h>

#include <svc/registry.h>

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
	IDLE_MAX = 4,
	PULL_MS = 4000,
	PULL_MIN_MS = 100,
	PULL_MAX_MS = 60000,
	/* For one question of a watch, however many answers that takes. */
	ASK_MAX_MS = 30000,
	NAMESPACE_MAX = 128,
};

struct redis_server {
	char *host;
	char port[8];
	bool secure;
	char *text; /* "host:port", for texts */
};

struct link;

/** The registry: what every connection needs to know, and idle ones. */
struct redis {
	struct redis_server *servers;
	size_t n_servers;
	atomic_size_t current; /* the one that answered last */
	int64_t timeout_ms;
	int64_t try_ms; /* of silence, until another attempt is made */
	int64_t pull_ms;
	char *username, *password; /* NULL: none */
	char *space;               /* the namespace */
	char database[12];
	/* For the servers that are `secure`; texts are own. */
	char *cert, *key, *ca, *name;
	struct skips skips; /* keys that hold something else */

	pthread_mutex_t lock; /* guards what follows */
	struct link *idle[IDLE_MAX];
	size_t n_idle;
};

/** Errors: SVC_E_INVAL (address, options, TLS files), SVC_E_NOMEM */
svc_err redis_create(const struct svc_registry_config *config,
    struct redis **ret_redis, struct svc_error *err);
/** NULL and half-made ones are fine. */
void redis_destroy(struct redis *redis);

/** A context with the files as they are now. Errors: SVC_E_INVAL, SVC_E_NOMEM
 */
svc_err redis_tls(
    const struct redis *redis, SSL_CTX **ret_context, struct svc_error *err);

/**
 * Run `op` on a connection, on one server after the other until one does it or
 * `timeout_ms` is over. It may run more than once.
 * Errors: those of link_open and of `op`
 */
typedef svc_err (*redis_op)(struct redis *redis, struct link *link,
    int64_t deadline_at_ms, void *arg, struct svc_error *err);
svc_err redis_run(struct redis *redis, redis_op op, void *arg,
    int64_t timeout_ms, struct svc_error *err);
/** The same on one server, once, within ASK_MAX_MS and until `wake_fd` can be
 * read (-1: none). Errors: also SVC_E_CANCELLED */
svc_err redis_run_at(struct redis *redis, size_t server, redis_op op, void *arg,
    int wake_fd, struct svc_error *err);

/** Wait until then, or until `wake_fd` can be read. */
void redis_wait(int wake_fd, int64_t at_ms);

#endif
