/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONSUL_CLIENT_H
#define SVC_CONSUL_CLIENT_H

#include "answer.h"

#include <http/http.h>

#include <stdatomic.h>

enum {
	IDLE_MAX = 2,
	ANSWER_MAX = 64 << 20,
	BODY_MAX = 8 << 20,
	SERVERS_MAX = 64,
};

/** Agents of one consul, asked through its HTTP API. */
struct consul {
	struct http_servers *servers;
	size_t n_servers;
	atomic_size_t current; /* the one that answered last */
	int64_t timeout_ms;
	int64_t try_ms;              /* for one attempt at one agent */
	struct svc_headers *headers; /* of every request */
	char *datacenter;            /* "&dc=NAME", or "" */
	char **tags;                 /* that every node gets besides its own */
	size_t n_tags;
	struct skips skips;

	pthread_mutex_t lock; /* guards what follows */
	struct http *idle[IDLE_MAX];
	size_t n_idle;
	struct registration *registrations;
};

/** The keys of the options, as the ops have them. */
#define CONSUL_OPTIONS "datacenter tags token"

/** Errors: SVC_E_INVAL (an address or an option, with what is allowed),
 * SVC_E_NOMEM */
svc_err consul_create(const struct svc_registry_config *config,
    struct consul **ret_consul, struct svc_error *err);
void consul_destroy(struct consul *consul);

struct question {
	const char *method;         /* "GET", "PUT" */
	const char *path;           /* "/v1/catalog/services", escaped */
	const struct svc_buf *body; /* NULL: none */
};

/**
 * Ask one agent after the other, beginning with the one that answered last,
 * until one answers or `deadline_at_ms` passes; `answer` is made empty before.
 *
 * http  a connection to use; NULL: one that is kept for that
 * stop  until when, with `http`; NULL: to the end
 *
 * Errors: SVC_E_UNAVAILABLE, SVC_E_TIMEDOUT, SVC_E_DENIED, SVC_E_NOT_FOUND
 * (what the question is about), SVC_E_INVAL, SVC_E_EXHAUSTED, SVC_E_NOMEM,
 * SVC_E_CANCELLED
 */
svc_err consul_ask(struct consul *consul, struct http *http,
    const atomic_bool *stop, const struct question *question,
    int64_t deadline_at_ms, struct svc_buf *answer, struct svc_error *err);
/** The same at one agent, once; ret_next tells whether another may do better.
 */
svc_err consul_ask_at(struct consul *consul, struct http *http, size_t server,
    const atomic_bool *stop, const struct question *question,
    int64_t deadline_at_ms, struct svc_buf *answer, bool *ret_next,
    struct svc_error *err);
/** What an answer with this status is: SVC_OK for 200. Errors: as consul_ask */
svc_err consul_status(struct consul *consul, size_t server, int status,
    const struct svc_buf *answer, bool *ret_next, struct svc_error *err);

/** Appends a text as part of a path or of a query. */
void consul_put_escaped(struct svc_buf *path, const char *text);

#endif
