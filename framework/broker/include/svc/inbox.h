/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_INBOX_H
#define SVC_INBOX_H

#include <svc/broker.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * For the authors of broker plugins: the events that wait for the handlers of
 * one subscription, or of one queue. Each member has a thread on which its
 * handler may block and runs once at a time; an event goes to one member. An
 * event that fails comes again after a growing pause (SVC_INBOX_FIRST_MS,
 * doubled up to SVC_INBOX_LONGEST_MS) while others go on, and is given up with
 * an error in the log after SVC_INBOX_ATTEMPTS.
 *
 * Threads: any, unless said otherwise.
 */
struct svc_inbox;
struct svc_inbox_member;

#define SVC_INBOX_ATTEMPTS 10
#define SVC_INBOX_FIRST_MS 50
#define SVC_INBOX_LONGEST_MS 5000

struct svc_inbox_config {
	const char *name;  /* for the log: the topic; copied */
	size_t max_events; /* 0: 1,024 */
	size_t max_bytes;  /* 0: 64 MiB */
	/** Called once when there is room again (half of it) after it had been
	 * full; under no lock. Optional. */
	void (*room)(void *arg);
	void *arg;
};

/** Errors: SVC_E_NOMEM */
SVC_API svc_err svc_inbox_create(
    const struct svc_inbox_config *config, struct svc_inbox **ret_inbox);
/** All members must have left and nobody may be in svc_inbox_put. Events that
 * still wait are dropped, and counted in the log. NULL is fine. */
SVC_API void svc_inbox_destroy(struct svc_inbox *inbox);
/** Puts a copy. When it is full it waits for room until `deadline_at_ms`.
 * Errors: SVC_E_TIMEDOUT (full), SVC_E_CLOSED, SVC_E_NOMEM */
SVC_API svc_err svc_inbox_put(struct svc_inbox *inbox, const char *topic,
    const struct svc_message *message, int64_t deadline_at_ms);
/** Puts a copy even when it is full, and says whether it is now. For those who
 * cannot wait but can make the flow stop. Errors: SVC_E_CLOSED, SVC_E_NOMEM */
SVC_API svc_err svc_inbox_force(struct svc_inbox *inbox, const char *topic,
    const struct svc_message *message, bool *ret_full);
/** No more puts: those that wait return. */
SVC_API void svc_inbox_close(struct svc_inbox *inbox);
/** A handler joins. Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED */
SVC_API svc_err svc_inbox_join(struct svc_inbox *inbox,
    svc_broker_handler handler, void *arg,
    struct svc_inbox_member **ret_member);
/** Waits until the events that have not failed yet are handled, or until
 * `deadline_at_ms`. Errors: SVC_E_TIMEDOUT */
SVC_API svc_err svc_inbox_drain(
    struct svc_inbox *inbox, int64_t deadline_at_ms);
/** The handler does not run after this returns. Not from a handler. */
SVC_API void svc_inbox_leave(struct svc_inbox_member *member);

#ifdef __cplusplus
}
#endif
#endif
