/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_HTTP_H
#define SVC_ETCD_HTTP_H

#include <svc/buf.h>

/**
 * One HTTP connection that posts JSON, one request at a time, and can be
 * woken from another thread.
 */
struct http;

svc_err http_create(struct http **ret_http);
/** NULL is fine. */
void http_destroy(struct http *http);

/**
 * Begin a request; `url`, `body` and `answer` are borrowed until http_end. The
 * answer is appended as it comes and may be consumed between calls of
 * http_run. timeout_ms SVC_FOREVER: only connecting has a limit, and the
 * connection is kept under watch by TCP keepalive.
 * Errors: SVC_E_NOMEM
 */
svc_err http_begin(struct http *http, const char *url, const char *token,
    const struct svc_buf *body, int64_t timeout_ms, struct svc_buf *answer,
    struct svc_error *err);
/**
 * Go on until something was received, http_wake was called or wait_ms have
 * passed (SVC_E_AGAIN), or the answer is complete (SVC_OK and its status).
 * Errors: SVC_E_UNAVAILABLE, SVC_E_TIMEDOUT, SVC_E_EXHAUSTED (a bigger answer
 * than its buffer may become), SVC_E_NOMEM
 */
svc_err http_run(
    struct http *http, int64_t wait_ms, int *ret_status, struct svc_error *err);
/** End the request, whatever its state. */
void http_end(struct http *http);
/** Makes the present or next wait in http_run return. Threads: any. */
void http_wake(struct http *http);

#endif
