/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_HTTP_H
#define SVC_REGISTRY_HTTP_H

/* HTTP/1.1 for the registries that are reached by it. */

#include <svc/buf.h>
#include <svc/registry.h>

#include <stdatomic.h>

/* ---------------------------------------------------------------- servers */

/** The servers of one registry and how they are reached: addresses, and the
 * files of TLS. Never changed once made. Threads: any. */
struct http_servers;

/**
 * registry  its name, for texts; a literal
 * config    address: "host", "host:port", "http://host:port" or
 *           "https://host:port", several separated by commas, NULL is
 *           127.0.0.1; tls: see struct svc_registry_config
 * port      for addresses without one
 *
 * Errors: SVC_E_INVAL (an address, with what is allowed; a file that cannot be
 * read), SVC_E_NOMEM
 */
svc_err http_servers_create(const char *registry,
    const struct svc_registry_config *config, unsigned port,
    struct http_servers **ret_servers, struct svc_error *err);
/** NULL is fine. */
void http_servers_destroy(struct http_servers *servers);
/** At least 1. */
size_t http_servers_count(const struct http_servers *servers);
/** "https://host:port" of one of them, for texts. Lives as long as they do. */
const char *http_servers_url(const struct http_servers *servers, size_t server);

/* ------------------------------------------------------------- connections */

/** Requests that one thread runs together, over connections that they share.
 * Threads: one at a time, but for http_set_wake. */
struct http_set;

/** connections: how many are kept, those under way included
 * Errors: SVC_E_NOMEM */
svc_err http_set_create(size_t connections, struct http_set **ret_set);
/** All of its requests have been destroyed before. NULL is fine. */
void http_set_destroy(struct http_set *set);
/** Go on with all of them until something was received, http_set_wake was
 * called or wait_ms have passed. Then http_look tells what came of each. */
void http_set_run(struct http_set *set, int64_t wait_ms);
/** Makes the present or next http_set_run return. Threads: any. */
void http_set_wake(struct http_set *set);

/** What makes one request at a time. */
struct http;

/** set: NULL is one of its own, with a connection that is kept between
 * requests to the same server. Errors: SVC_E_NOMEM */
svc_err http_create(struct http_set *set, struct http **ret_http);
/** NULL is fine. */
void http_destroy(struct http *http);

/** Everything is borrowed until http_end. */
struct http_request {
	const char *method;                /* "GET", "PUT", "POST", "DELETE" */
	const char *path;                  /* "/v1/kv/a?index=3", escaped */
	const struct svc_headers *headers; /* NULL: none */
	const void *body;                  /* JSON; NULL: none */
	size_t len;
	const char *username; /* for HTTP's own ("basic") login; NULL: none */
	const char *password;
	/** For all of it. SVC_FOREVER: only connecting has a limit, and the
	 * connection is kept under watch by TCP keepalive. */
	int64_t timeout_ms;
	/** The body is only the beginning of what is to be said, see http_say;
	 * answers may come meanwhile. It has a connection to itself: a server
	 * written in Go goes on to read only what is the last request there,
	 * and throws away what it has not read when it begins to answer else.
	 */
	bool open;
};

/**
 * Begin a request. The answer's body is appended to `answer` as it comes, and
 * may be consumed between calls of http_run.
 * Errors: SVC_E_NOMEM
 */
svc_err http_begin(struct http *http, const struct http_servers *servers,
    size_t server, const struct http_request *request, struct svc_buf *answer,
    struct svc_error *err);
/**
 * Go on until something was received, http_wake was called or wait_ms have
 * passed (SVC_E_AGAIN), or the answer is complete (SVC_OK and its status).
 * Texts of errors begin with the registry and the server.
 * Errors: SVC_E_UNAVAILABLE (no connection, or it broke, or the server's
 * certificate is not trusted), SVC_E_TIMEDOUT, SVC_E_INVAL (our own TLS files),
 * SVC_E_EXHAUSTED (a bigger answer than its buffer may become), SVC_E_NOMEM
 */
svc_err http_run(
    struct http *http, int64_t wait_ms, int *ret_status, struct svc_error *err);
/** The same without going on, after http_set_run. */
svc_err http_look(struct http *http, int *ret_status, struct svc_error *err);
/** Adds to what an open request says. The data is copied.
 * Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED (64 MiB that are not sent yet) */
svc_err http_say(struct http *http, const void *data, size_t len);
/** A header of the answer, once http_run has returned SVC_OK and until
 * http_end; NULL when it is not there. */
const char *http_header(struct http *http, const char *name);
/** End the request, whatever its state. */
void http_end(struct http *http);
/** Without a request: wait until wait_ms have passed or http_wake is called. */
void http_wait(struct http *http, int64_t wait_ms);
/** Makes the present or next wait in http_run or http_wait return. Threads:
 * any. */
void http_wake(struct http *http);

/**
 * Begin, and run until the answer is complete, or until `stop` (may be NULL) is
 * set before http_wake is called. http_end must follow, also after an error.
 * Errors: of http_begin and http_run; SVC_E_CANCELLED
 */
svc_err http_ask(struct http *http, const struct http_servers *servers,
    size_t server, const struct http_request *request, const atomic_bool *stop,
    struct svc_buf *answer, int *ret_status, struct svc_error *err);

#endif
