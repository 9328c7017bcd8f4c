/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_CLIENT_H
#define SVC_ETCD_CLIENT_H

#include <http/http.h>

#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
	IDLE_MAX = 4,
	ANSWER_MAX = 64 << 20,
	BODY_MAX = 4 << 20,
	TOKEN_SIZE = 1024,
	WARNED_MAX = 64,
};

/** A group of etcd servers, asked through the JSON gateway of their v3 API. */
struct etcd {
	struct http_servers *servers;
	size_t n_servers;
	atomic_size_t current; /* the one that answered last */
	int64_t timeout_ms;
	int64_t try_ms; /* for one attempt at one server */
	char *username, *password;

	pthread_mutex_t lock; /* guards what follows */
	struct http *idle[IDLE_MAX];
	size_t n_idle;
	char token[TOKEN_SIZE];
	struct lease *leases;
	size_t skipped; /* keys and values that were none of a service */
	uint64_t warned[WARNED_MAX];
	size_t n_warned;
};

/** Errors: SVC_E_INVAL (an address, with what is allowed), SVC_E_NOMEM */
svc_err etcd_create(const struct svc_registry_config *config,
    struct etcd **ret_etcd, struct svc_error *err);
void etcd_destroy(struct etcd *etcd);

/**
 * Ask one server after the other, beginning with the one that answered last,
 * until one answers or `deadline_at_ms` passes.
 *
 * path  "/v3/kv/range"
 *
 * Errors: SVC_E_UNAVAILABLE, SVC_E_TIMEDOUT, SVC_E_DENIED, SVC_E_NOT_FOUND,
 * SVC_E_RANGE (compacted), SVC_E_INVAL, SVC_E_EXHAUSTED, SVC_E_NOMEM
 */
svc_err etcd_ask(struct etcd *etcd, const char *path,
    const struct svc_buf *body, int64_t deadline_at_ms, cJSON **ret_answer,
    struct svc_error *err);

/**
 * Ask one server on one connection, until `stop` (may be NULL) is set.
 * ret_next tells whether another server may do better. Errors: as etcd_ask;
 * SVC_E_CANCELLED
 */
svc_err etcd_ask_at(struct etcd *etcd, struct http *http, size_t server,
    const char *path, const struct svc_buf *body, int64_t timeout_ms,
    const atomic_bool *stop, cJSON **ret_answer, bool *ret_next,
    struct svc_error *err);

/** The token for requests, empty without a user name. With `refresh` a new
 * one is fetched even when there is one. Errors: as etcd_ask */
svc_err etcd_token(struct etcd *etcd, struct http *http, size_t server,
    bool refresh, char ret_token[TOKEN_SIZE], int64_t timeout_ms,
    const atomic_bool *stop, struct svc_error *err);

/** The headers of a request: the token, unless it is "". To be freed with
 * svc_headers_destroy; NULL when memory ran out. */
struct svc_headers *etcd_headers(const char *token);

/** An integer that may be a JSON string, as the gateway writes 64 bits; 0 when
 * it is left out. */
int64_t etcd_int(const cJSON *object, const char *name);
/** header.revision of an answer. */
int64_t etcd_revision(const cJSON *answer);

#endif
