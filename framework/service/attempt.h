/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ATTEMPT_H
#define SVC_ATTEMPT_H

/*
 * A call from its options to its outcome, over as many nodes as it takes: the
 * rules of svc_call and svc_call_async alike. The two differ only in who waits
 * for the reply and for a pause, so neither is done here.
 *
 *     svc_attempts_begin(&at, &plan, ...)
 *     for each try:
 *         svc_attempt_aim(&at, ..., &link)   choose a node
 *         ... exchange with the link, fill at.last ...
 *         svc_attempt_end(&at)               tell the selector how it went
 *         svc_attempts_more(&at, &until_ms)  shall there be another try?
 *     svc_attempts_finish(&at)
 */

#include "service.h"

#define SVC_MAX_AVOID 8
#define SVC_MAX_LABELS 8

/* What the options of a call said. */
struct svc_call_plan {
	/* These may differ from call to call of plain plans. */
	int64_t timeout_ms;
	int64_t retries;
	const char *node;
	bool idempotent; /* while it is tried also: by a node's record */
	/* To here; see svc_attempts_begin_again. */
	bool plain; /* no option but for these and for the request's headers */
	bool described; /* the node is, by a version or labels */
	bool has_headers;
	uint8_t n_labels;
	const char *version, *key, *content_type;
	struct svc_error *detail;
	struct svc_headers *reply_headers;
	struct svc_call *within;
	struct svc_label labels[SVC_MAX_LABELS]; /* last: the rest is unset */
};

struct svc_attempts {
	struct svc_client *client;
	struct svc_call_plan plan;
	struct svc_part first;
	int64_t deadline_at_ms;
	int64_t now_ms; /* when the last try was aimed, or the call began */
	int64_t retry;  /* how many there were */
	struct svc_dial_time dial_time; /* of the try that was aimed */
	/* Set by another thread once nobody wants the call any more; or NULL.
	 * While `plan.within` is set, its caller's leaving says so too. */
	const atomic_bool *left;
	struct svc_exchange last;
	struct svc_target *target; /* of the try that is under way */
	struct svc_pick_memo memo; /* of first.service */
	size_t n_tried;
	struct svc_target *tried[SVC_MAX_AVOID];
};

/* No options at all: then client->plain is the plan. */
static inline bool
svc_call_is_plain(const struct svc_option *option)
{
	return option == NULL || option->kind == SVC_OPTION_END;
}
/* Errors: SVC_E_INVAL with what is wrong and what is allowed */
svc_err svc_call_plan_parse(const struct svc_client *client,
    const struct svc_option *option, struct svc_call_plan *ret_plan,
    struct svc_error *err);
/* False, with SVC_E_INVAL, when a name is missing. */
bool svc_call_is_named(
    const char *service, const char *endpoint, struct svc_error *err);
/* Where options ask for the detail of a failure; NULL when they do not. */
struct svc_error *svc_call_plan_detail(const struct svc_option *option);
/* A copy of `headers` with those of the options.
 * Errors: SVC_E_INVAL, SVC_E_NOMEM */
svc_err svc_call_plan_headers(const struct svc_option *option,
    const struct svc_headers *headers, struct svc_headers **ret_made,
    struct svc_error *err);

/* Everything is borrowed until svc_attempts_finish, which need not be called
 * when this fails. Errors: SVC_E_INVAL, SVC_E_EXHAUSTED (the request is too
 * large), and for a call within another SVC_E_CANCELLED, SVC_E_TIMEDOUT */
svc_err svc_attempts_begin(struct svc_attempts *at, struct svc_client *client,
    const struct svc_call_plan *plan, const struct svc_outgoing *out,
    int64_t now_ms, int64_t deadline_at_ms, struct svc_error *err);
/* The same for a call with a plain plan by the same client, to the endpoint of
 * the call that `at` was used for before, whose plan was plain too: what is the
 * same stays. The request's message is at->first's. */
void svc_attempts_begin_again(struct svc_attempts *at,
    const struct svc_call_plan *plan, int64_t now_ms, int64_t deadline_at_ms);
/* When a call that begins now is to have ended. */
int64_t svc_call_plan_deadline(
    const struct svc_call_plan *plan, int64_t now_ms);
/* The link of a node for the next try. With `dont_wait`, SVC_E_AGAIN says that
 * choosing would have to wait, and nothing has happened. Any other failure
 * ended the try. */
svc_err svc_attempt_aim(struct svc_attempts *at, bool dont_wait,
    struct svc_link **ret_link, struct svc_error *err);
/* The try has ended as `at->last` says; returns its code. */
svc_err svc_attempt_end(struct svc_attempts *at);
/* Whether no other try can follow one that ends as `at->last` says, before
 * svc_attempt_end. */
bool svc_attempt_is_final(const struct svc_attempts *at);
/* After a try that failed: whether to try again, counting that and taking it
 * from the budget. *ret_until_ms is when; 0: at once. */
bool svc_attempts_more(struct svc_attempts *at, int64_t *ret_until_ms);
/* Until then, or until nobody wants the call any more; 0: not at all. */
void svc_attempts_pause(const struct svc_attempts *at, int64_t until_ms);
void svc_attempts_finish(struct svc_attempts *at);

#endif
