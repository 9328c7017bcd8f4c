/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_CLIENT_H
#define SVC_ETCD_CLIENT_H

#include "kv.h"

#include <http/http.h>

#include <stdatomic.h>

enum {
	IDLE_MAX = 4,
	ANSWER_MAX = 64 << 20,
	BODY_MAX = 4 << 20,
	TOKEN_SIZE = 1024,
};

/**
 * The servers of one etcd, asked through the JSON gateway of their v3 API. One
 * for all registries of this process that were made with the same config, so
 * that they share connections, a login and a lease.
 */
struct etcd {
	struct http_servers *servers;
	size_t n_servers;
	atomic_size_t current; /* the one that answered last */
	int64_t timeout_ms;
	char *username, *password;
	struct skips skips;
	struct keeper *keeper;
	struct watcher *watcher;

	pthread_mutex_t lock; /* guards what follows */
	struct http *idle[IDLE_MAX];
	size_t n_idle;
	char token[TOKEN_SIZE];
	bool no_users; /* a user is configured, but the server has none */

	/* Guarded by the lock of all: */
	char *identity; /* the config as one text */
	size_t users;
	struct etcd *next;
};

/** Makes it, or finds the one with this config.
 * Errors: SVC_E_INVAL (an address, with what is allowed), SVC_E_NOMEM */
svc_err etcd_obtain(const struct svc_registry_config *config,
    struct etcd **ret_etcd, struct svc_error *err);
void etcd_release(struct etcd *etcd);

/**
 * Ask one server after the other, beginning with the one that answered last,
 * until one answers or `deadline_at_ms` passes. Each gets its share of the
 * time, at most 2 s: a server may swallow a request when it loses its leader.
 *
 * path  "/v3/kv/range"
 *
 * Errors: SVC_E_UNAVAILABLE, SVC_E_TIMEDOUT, SVC_E_DENIED, SVC_E_NOT_FOUND,
 * SVC_E_RANGE (compacted), SVC_E_INVAL, SVC_E_EXHAUSTED, SVC_E_NOMEM
 */
svc_err etcd_ask(struct etcd *etcd, const char *path,
    const struct svc_buf *body, int64_t deadline_at_ms, cJSON **ret_answer,
    struct svc_error *err);
/** The same on a connection of one's own, until `stop` is set and http_wake
 * called. Errors: also SVC_E_CANCELLED */
svc_err etcd_ask_on(struct etcd *etcd, struct http *http, const char *path,
    const struct svc_buf *body, int64_t deadline_at_ms, const atomic_bool *stop,
    cJSON **ret_answer, struct svc_error *err);

/** How long one server may take of an op's time. */
int64_t etcd_try_ms(const struct etcd *etcd);

/** One question to one server, asked without waiting: first for a login, when
 * one is needed, then itself. */
struct etcd_call {
	struct etcd *etcd;
	struct http *http;
	size_t server;
	const char *path;
	const struct svc_buf *body;
	int64_t timeout_ms;
	bool open;
	bool logs_in;           /* under way: the login */
	bool shut_out;          /* the login failed */
	bool again;             /* with another token */
	char token[TOKEN_SIZE]; /* that it is asked with, "" is none */
	struct svc_headers *headers;
	struct svc_buf login, answer;
};
/**
 * Begin, on a request that runs nothing else. etcd_call_end must follow, also
 * after an error.
 *
 * body     JSON, borrowed until the end
 * open     a stream: it has no time limit, and no body before http_say, which
 *          must wait for the end of `logs_in`; its lines are to be taken out
 *          of `answer`
 *
 * Errors: SVC_E_NOMEM
 */
svc_err etcd_call_begin(struct etcd_call *call, struct etcd *etcd,
    struct http *http, size_t server, const char *path,
    const struct svc_buf *body, bool open, struct svc_error *err);
/** After the request has been run: SVC_E_AGAIN as long as it is under way.
 * Errors: as etcd_ask; a stream that ends is SVC_E_UNAVAILABLE */
svc_err etcd_call_look(
    struct etcd_call *call, cJSON **ret_answer, struct svc_error *err);
void etcd_call_end(struct etcd_call *call);
/** Whether another server may do better after this error. */
bool etcd_is_absent(svc_err rc);
/** Whether there is another token than this call was asked with. */
bool etcd_has_new_token(const struct etcd_call *call);

#endif
