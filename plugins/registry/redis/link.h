/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REDIS_LINK_H
#define SVC_REDIS_LINK_H

#include "redis.h"

#include <hiredis/hiredis.h>

/** One connection. Used by one thread at a time. */
struct link;

/**
 * Connect, with TLS where the server has it, log in, choose the database, and
 * see that it is a master: a replica would refuse announcements.
 *
 * wake_fd  when it can be read, waiting ends with SVC_E_CANCELLED; -1: none
 *
 * Errors: SVC_E_UNAVAILABLE, SVC_E_TIMEDOUT, SVC_E_DENIED, SVC_E_CANCELLED,
 * SVC_E_INVAL, SVC_E_NOMEM
 */
svc_err link_open(struct redis *redis, size_t server, int64_t deadline_at_ms,
    int wake_fd, struct link **ret_link, struct svc_error *err);
/** NULL is fine. */
void link_close(struct link *link);
size_t link_server(const struct link *link);
void link_set_wake(struct link *link, int wake_fd);
/** Silence is no failure from now on, as where changes are told. Otherwise a
 * wait ends with SVC_E_TIMEDOUT when nothing has come for `try_ms`. */
void link_be_patient(struct link *link);
/** It had an error or an answer is outstanding: of no further use. */
bool link_is_bad(const struct link *link);

/** Adds a command to those that the next link_receive sends. What fails here
 * is told there. `lens` may be NULL for texts. */
void link_send(
    struct link *link, int argc, const char *const argv[], const size_t lens[]);
/**
 * The next reply, to be freed with freeReplyObject. An error that the server
 * replies with is a failure. SVC_E_TIMEDOUT leaves the connection as it is, so
 * that the wait may go on.
 * Errors: SVC_E_TIMEDOUT, SVC_E_UNAVAILABLE, SVC_E_DENIED, SVC_E_EXHAUSTED,
 * SVC_E_UNIMPLEMENTED, SVC_E_PRECONDITION (a key of another type),
 * SVC_E_CANCELLED, SVC_E_NOMEM
 */
svc_err link_receive(struct link *link, int64_t deadline_at_ms,
    redisReply **ret_reply, struct svc_error *err);

#endif
