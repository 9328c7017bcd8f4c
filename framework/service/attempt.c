/* SPDX-License-Identifier: Apache-2.0 */
/* A call's options, the choice of a node, and whether another is tried. */
#include "attempt.h"

#include <string.h>

#define MAX_RETRIES 100
/* The budget in thousandths of a retry: a tenth per call, one a second for
 * clients that call rarely, and saved up enough for all the calls that a busy
 * client may have open on a node when it dies. */
#define BUDGET_CALL INT64_C(100)
#define BUDGET_RETRY INT64_C(1000)
#define BACKOFF_MS 50
#define LOOK_MS 100 /* whether the caller has left */

/* ------------------------------------------------------------------ budget */

static void
budget_earn(struct svc_client *client)
{
	/* Usually full, and then nothing is written. */
	int64_t now =
	    atomic_load_explicit(&client->budget, memory_order_relaxed);
	if (now < SVC_BUDGET_MAX)
		atomic_fetch_add(&client->budget, BUDGET_CALL);
}

static bool
budget_take(struct svc_client *client)
{
	int64_t now_ms = svc_now_ms();
	int64_t since = atomic_load(&client->budget_at_ms);
	if (now_ms - since >= 1000 &&
	    atomic_compare_exchange_strong(
		&client->budget_at_ms, &since, now_ms) &&
	    atomic_load(&client->budget) < SVC_BUDGET_MAX)
		atomic_fetch_add(&client->budget, BUDGET_RETRY);
	int64_t have = atomic_load(&client->budget);
	while (have >= BUDGET_RETRY) {
		if (atomic_compare_exchange_weak(
			&client->budget, &have, have - BUDGET_RETRY))
			return true;
	}
	return false;
}

/* ----------------------------------------------------------------- options */

static svc_err
need_text(const char *option, const char *text, struct svc_error *err)
{
	if (text != NULL && text[0] != '\0')
		return SVC_OK;
	return svc_error_set(err, SVC_E_INVAL,
	    "option %s() needs a text that is not empty", option);
}

static svc_err
take_text(const char *option, const char *text, const char **field,
    struct svc_error *err)
{
	*field = text;
	return need_text(option, text, err);
}

static svc_err
take_label(struct svc_call_plan *plan, const struct svc_option *option,
    struct svc_error *err)
{
	if (need_text("label", option->text, err) != SVC_OK)
		return SVC_E_INVAL;
	if (plan->n_labels == SVC_MAX_LABELS)
		return svc_error_set(err, SVC_E_INVAL,
		    "label(\"%s\") is one too many: a call takes %d",
		    option->text, SVC_MAX_LABELS);
	plan->labels[plan->n_labels++] =
	    (struct svc_label){option->text, option->text2};
	return SVC_OK;
}

static svc_err
take_option(struct svc_call_plan *plan, const struct svc_option *option,
    struct svc_error *err)
{
	switch (option->kind) {
	case SVC_OPTION_NONE:
		return SVC_OK;
	case SVC_OPTION_HEADER:
		plan->has_headers = true;
		return SVC_OK;
	case SVC_OPTION_DETAIL:
		plan->detail = option->pointer;
		return SVC_OK;
	case SVC_OPTION_REPLY_HEADERS:
		plan->reply_headers = option->pointer;
		return SVC_OK;
	case SVC_OPTION_WITHIN:
		plan->within = option->pointer;
		return SVC_OK;
	case SVC_OPTION_TIMEOUT_MS:
		if (option->number < 1 && option->number != SVC_FOREVER)
			return svc_error_set(err, SVC_E_INVAL,
			    "timeout_ms(%lld) must be at least 1, or "
			    "SVC_FOREVER",
			    (long long)option->number);
		plan->timeout_ms = option->number;
		return SVC_OK;
	case SVC_OPTION_RETRIES:
		if (option->number < 0 || option->number > MAX_RETRIES)
			return svc_error_set(err, SVC_E_INVAL,
			    "retries(%lld) must be from 0 to %d",
			    (long long)option->number, MAX_RETRIES);
		plan->retries = option->number;
		return SVC_OK;
	case SVC_OPTION_VERSION:
		return take_text("version", option->text, &plan->version, err);
	case SVC_OPTION_LABEL:
		return take_label(plan, option, err);
	case SVC_OPTION_NODE:
		return take_text("node", option->text, &plan->node, err);
	case SVC_OPTION_KEY:
		/* An empty key is one like any other. */
		plan->key = option->text;
		return SVC_OK;
	case SVC_OPTION_CONTENT_TYPE:
		return take_text(
		    "content_type", option->text, &plan->content_type, err);
	case SVC_OPTION_IDEMPOTENT:
		plan->idempotent = true;
		return SVC_OK;
	default:
		return svc_error_set(err, SVC_E_INVAL,
		    "option number %d is not one of a call", option->kind);
	}
}

SVC_HOT svc_err
svc_call_plan_parse(const struct svc_client *client,
    const struct svc_option *option, struct svc_call_plan *plan,
    struct svc_error *err)
{
	const struct svc_values *v = &client->service->values;
	plan->timeout_ms = v->request_timeout_ms;
	plan->retries = v->retries;
	plan->version = plan->node = plan->key = plan->content_type = NULL;
	plan->detail = NULL;
	plan->reply_headers = NULL;
	plan->within = NULL;
	plan->idempotent = false;
	plan->has_headers = false;
	plan->n_labels = 0;
	svc_err code = SVC_OK;
	for (;
	     option != NULL && option->kind != SVC_OPTION_END && code == SVC_OK;
	     option++)
		code = take_option(plan, option, err);
	plan->described = plan->version != NULL || plan->n_labels > 0;
	plan->plain = !plan->described && plan->key == NULL &&
		      plan->content_type == NULL && plan->detail == NULL &&
		      plan->reply_headers == NULL && plan->within == NULL;
	return code;
}

struct svc_error *
svc_call_plan_detail(const struct svc_option *option)
{
	struct svc_error *detail = NULL;
	for (; option != NULL && option->kind != SVC_OPTION_END; option++)
		if (option->kind == SVC_OPTION_DETAIL)
			detail = option->pointer;
	return detail;
}

svc_err
svc_call_plan_headers(const struct svc_option *option,
    const struct svc_headers *headers, struct svc_headers **ret_made,
    struct svc_error *err)
{
	struct svc_headers *made = svc_headers_copy(headers);
	svc_err code = SVC_OK;
	if (made == NULL)
		code = svc_error_set(err, SVC_E_NOMEM, "out of memory");
	for (; code == SVC_OK && option->kind != SVC_OPTION_END; option++) {
		if (option->kind != SVC_OPTION_HEADER)
			continue;
		code = option->text == NULL || option->text2 == NULL
			   ? SVC_E_INVAL
			   : svc_headers_set(made, option->text, option->text2);
		if (code != SVC_OK)
			svc_error_set(err, code, "header(\"%s\"): %s",
			    option->text != NULL ? option->text : "",
			    svc_pair_rule(code));
	}
	if (code == SVC_OK)
		*ret_made = made;
	else
		svc_headers_destroy(made);
	return code;
}

/* ------------------------------------------------------------- a call begins
 */

int64_t
svc_call_plan_deadline(const struct svc_call_plan *plan, int64_t now_ms)
{
	int64_t at_ms = plan->timeout_ms == SVC_FOREVER ||
				plan->timeout_ms > INT64_MAX - now_ms
			    ? INT64_MAX
			    : now_ms + plan->timeout_ms;
	/* What is left of the handler's time is all that a call within it
	 * has. */
	if (plan->within != NULL && plan->within->deadline_at_ms < at_ms)
		at_ms = plan->within->deadline_at_ms;
	return at_ms;
}

static svc_err
check_within(const struct svc_call *outer, struct svc_error *err)
{
	if (svc_remaining(outer->deadline_at_ms) == 0)
		return svc_error_set(err, SVC_E_TIMEDOUT,
		    "the deadline of the call that is being handled has "
		    "passed");
	if (svc_call_cancelled(outer))
		return svc_error_set(
		    err, SVC_E_CANCELLED, "%s", svc_cancelled_within);
	return SVC_OK;
}

void
svc_attempts_begin_again(struct svc_attempts *at,
    const struct svc_call_plan *plan, int64_t now_ms, int64_t deadline_at_ms)
{
	memcpy(&at->plan, plan, offsetof(struct svc_call_plan, plain));
	at->retry = 0;
	at->last = (struct svc_exchange){0};
	at->target = NULL;
	at->n_tried = 0;
	at->now_ms = now_ms;
	at->deadline_at_ms = deadline_at_ms;
	budget_earn(at->client);
}

bool
svc_call_is_named(
    const char *service, const char *endpoint, struct svc_error *err)
{
	if (service != NULL && endpoint != NULL && endpoint[0] != '\0')
		return true;
	svc_error_set(err, SVC_E_INVAL,
	    "a call needs the names of a service and an endpoint");
	return false;
}

SVC_HOT svc_err
svc_attempts_begin(struct svc_attempts *at, struct svc_client *client,
    const struct svc_call_plan *plan, const struct svc_outgoing *out,
    int64_t now_ms, int64_t deadline_at_ms, struct svc_error *err)
{
	const struct svc_values *v = &client->service->values;
	if (!svc_call_is_named(out->service, out->endpoint, err))
		return SVC_E_INVAL;
	if (out->req->len > (uint64_t)v->max_message_size)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "the request has %zu bytes, more than max_message_size "
		    "(%lld); raise --max_message_size",
		    out->req->len, (long long)v->max_message_size);
	if (plan->within != NULL && check_within(plan->within, err) != SVC_OK)
		return err->code;
	at->client = client;
	memcpy(&at->plan, plan, offsetof(struct svc_call_plan, labels));
	if (plan->n_labels > 0)
		memcpy(at->plan.labels, plan->labels,
		    plan->n_labels * sizeof(plan->labels[0]));
	svc_attempts_begin_again(at, plan, now_ms, deadline_at_ms);
	at->left = NULL;
	at->memo.found = NULL;
	const char *type = plan->content_type;
	if (type == NULL)
		type = out->req->content_type;
	if (type != NULL && svc_content_type_check(type, err) != SVC_OK)
		return SVC_E_INVAL;
	at->first = (struct svc_part){
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = out->service,
	    .endpoint = out->endpoint,
	    .content_type = svc_says_type(type) ? type : v->codec,
	    .headers = out->req->headers,
	    .data = out->req->data,
	    .len = out->req->len,
	};
	return SVC_OK;
}

/* ------------------------------------------------------------------- a try */

static svc_err
make_link(struct svc_client *client, struct svc_target *target,
    struct svc_link **ret_link, struct svc_error *err)
{
	struct svc_link *link;
	const struct svc_node *node = target->node;
	const char *transport = svc_headers_get(node->metadata, "transport");
	if (transport == NULL || transport[0] == '\0')
		transport = client->service->values.transport;
	struct svc_error why = {0};
	svc_err code = svc_tls_check(client->service, node, transport, err);
	if (code != SVC_OK)
		return code;
	code = svc_link_create(
	    client->service, transport, node->address, &link, &why);
	if (code != SVC_OK)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "node %s cannot be reached: %s", node->id, why.text);
	if (!svc_target_relink(target, NULL, link)) {
		svc_link_unref(link); /* another thread was faster */
		link = svc_target_link(target);
	}
	*ret_link = link;
	return SVC_OK;
}

static svc_err
nobody_left(struct svc_attempts *at, svc_err code, const struct svc_error *why,
    struct svc_error *err)
{
	/* What the last node said tells more than that no other is left. */
	if (at->n_tried == 0) {
		*err = *why;
		at->last = (struct svc_exchange){.code = code};
	}
	at->last.not_run = false;
	return at->last.code;
}

/* For a choice that waits, too. */
static bool
has_left(const void *arg)
{
	const struct svc_attempts *at = arg;
	return (at->left != NULL && atomic_load(at->left)) ||
	       (at->plan.within != NULL && svc_call_cancelled(at->plan.within));
}

static bool
may_be_left(const struct svc_attempts *at)
{
	return at->left != NULL || at->plan.within != NULL;
}

/* The choice of a node that needs thought. Errors: as svc_attempt_aim */
static SVC_APART svc_err
pick(struct svc_attempts *at, bool dont_wait, struct svc_error *err)
{
	struct svc_pick pick = {
	    .service = at->first.service,
	    .version = at->plan.version,
	    .labels = at->plan.labels,
	    .n_labels = at->plan.n_labels,
	    .node = at->plan.node,
	    .key = at->plan.key,
	    .avoid = (const struct svc_target *const *)at->tried,
	    .n_avoid = at->n_tried,
	    .deadline_at_ms = at->deadline_at_ms,
	    .dont_wait = dont_wait,
	    .given_up = may_be_left(at) ? has_left : NULL,
	    .arg = at,
	};
	struct svc_error why;
	why.text[0] = '\0';
	svc_err code = SVC_E_CANCELLED;
	/* He may have left in a pause. */
	if (at->retry == 0 || !has_left(at))
		code = svc_selector_pick(
		    at->client->selector, &pick, &at->target, &why);
	if (code == SVC_OK || (code == SVC_E_AGAIN && dont_wait))
		return code;
	if (code == SVC_E_CANCELLED) {
		at->last = (struct svc_exchange){.code = code};
		return svc_error_set(err, code, "%s", svc_cancelled_within);
	}
	return nobody_left(at, code, &why, err);
}

static SVC_COLD svc_err
too_late(struct svc_attempts *at, struct svc_error *err)
{
	svc_target_done(at->target, SVC_OUTCOME_NEUTRAL);
	at->target = NULL;
	if (at->n_tried == 0)
		svc_error_set(err, SVC_E_TIMEDOUT,
		    "the deadline passed before a node was found");
	at->last = (struct svc_exchange){.code = SVC_E_TIMEDOUT};
	return SVC_E_TIMEDOUT;
}

/* A link for the target, which has none; on failure the try has ended. */
static SVC_COLD svc_err
link_of(
    struct svc_attempts *at, struct svc_link **ret_link, struct svc_error *err)
{
	svc_err code = make_link(at->client, at->target, ret_link, err);
	if (code == SVC_OK)
		return SVC_OK;
	at->last = (struct svc_exchange){.code = code, .not_run = true};
	return svc_attempt_end(at);
}

/* Nearly always any node will do, or one that is named by its id, and the
 * choice is made at once. */
static inline bool
pick_at_once(struct svc_attempts *at)
{
	const struct svc_call_plan *plan = &at->plan;
	if (plan->described || at->retry > 0)
		return false;
	at->target = svc_selector_pick_at_once(at->client->selector,
	    at->first.service, plan->node, plan->key, &at->memo);
	return at->target != NULL;
}

SVC_TAKEN_IN svc_err
svc_attempt_aim(struct svc_attempts *at, bool dont_wait,
    struct svc_link **ret_link, struct svc_error *err)
{
	if (!pick_at_once(at)) {
		svc_err code = pick(at, dont_wait, err);
		if (code != SVC_OK)
			return code;
	}
	/* The first try is aimed right after the call began. */
	if (at->retry > 0 || !dont_wait)
		at->now_ms = svc_now_ms();
	int64_t left_ms = SVC_FOREVER;
	if (at->deadline_at_ms != INT64_MAX) {
		left_ms = at->deadline_at_ms - at->now_ms;
		if (left_ms <= 0)
			return too_late(at, err);
	}
	at->first.timeout_ms = at->dial_time.left_ms = left_ms;
	at->dial_time.tries = at->plan.retries - at->retry + 1;
	*ret_link = svc_target_link(at->target);
	if (*ret_link != NULL)
		return SVC_OK;
	return link_of(at, ret_link, err);
}

static bool
is_idempotent(const struct svc_target *target, const char *endpoint)
{
	const struct svc_record *record = target->record;
	for (size_t i = 0; i < record->n_endpoints; i++) {
		const struct svc_endpoint *e = &record->endpoints[i];
		const char *said;
		if (strcmp(e->name, endpoint) != 0)
			continue;
		said = svc_headers_get(e->metadata, "idempotent");
		return said != NULL && strcmp(said, "true") == 0;
	}
	return false;
}

static svc_outcome
judge(const struct svc_exchange *exchange)
{
	if (exchange->silent)
		return SVC_OUTCOME_SILENT;
	if (exchange->replied)
		/* It answers, so it lives; but a node that says that another
		 * service lives there is no use to anybody. */
		return exchange->not_run && exchange->code == SVC_E_UNAVAILABLE
			   ? SVC_OUTCOME_FAILED
			   : SVC_OUTCOME_NEUTRAL;
	return exchange->code == SVC_E_UNAVAILABLE ||
		       exchange->code == SVC_E_TIMEDOUT
		   ? SVC_OUTCOME_FAILED
		   : SVC_OUTCOME_NEUTRAL;
}

/* The try has failed: what the next one must know. */
static SVC_COLD svc_outcome
end_failed(struct svc_attempts *at)
{
	struct svc_target *target = at->target;
	at->plan.idempotent =
	    at->plan.idempotent || is_idempotent(target, at->first.endpoint);
	if (at->n_tried < SVC_MAX_AVOID) {
		svc_target_hold(target);
		at->tried[at->n_tried++] = target;
	}
	return judge(&at->last);
}

SVC_HOT svc_err
svc_attempt_end(struct svc_attempts *at)
{
	svc_outcome outcome = SVC_OUTCOME_OK;
	if (at->last.code != SVC_OK)
		outcome = end_failed(at);
	svc_target_done(at->target, outcome);
	at->target = NULL;
	return at->last.code;
}

/* ----------------------------------------------------------------- another */

static bool
may_retry(const struct svc_attempts *at, bool idempotent)
{
	const struct svc_exchange *last = &at->last;
	if (last->code == SVC_E_NOMEM || last->code == SVC_E_INVAL)
		return false;
	if (last->not_run)
		return true;
	/* What a handler answered is the answer. */
	return idempotent && !last->replied &&
	       (last->code == SVC_E_UNAVAILABLE ||
		   last->code == SVC_E_CANCELLED);
}

bool
svc_attempt_is_final(const struct svc_attempts *at)
{
	return !may_retry(at, at->plan.idempotent || is_idempotent(at->target,
							 at->first.endpoint));
}

bool
svc_attempts_more(struct svc_attempts *at, int64_t *ret_until_ms)
{
	if (at->retry >= at->plan.retries || at->n_tried == 0 ||
	    !may_retry(at, at->plan.idempotent) ||
	    svc_remaining(at->deadline_at_ms) == 0 || has_left(at))
		return false;
	if (!budget_take(at->client)) {
		svc_log(SVC_LOG_DEBUG, "call.budget",
		    "no retry of %s of %s: retries are limited to a tenth of "
		    "the calls",
		    at->first.endpoint, at->first.service);
		return false;
	}
	/* The first one comes at once; the next ones wait, longer each time. */
	int64_t retry = ++at->retry;
	*ret_until_ms = 0;
	if (retry < 2)
		return true;
	int64_t most = (int64_t)BACKOFF_MS << (retry - 2 < 6 ? retry - 2 : 6);
	*ret_until_ms = svc_deadline(
	    most / 2 + (int64_t)svc_random_below((uint64_t)most / 2 + 1));
	return *ret_until_ms < at->deadline_at_ms;
}

void
svc_attempts_pause(const struct svc_attempts *at, int64_t until_ms)
{
	if (until_ms == 0)
		return;
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t never;
	svc_cond_init(&never);
	svc_will_block();
	pthread_mutex_lock(&lock);
	while (svc_remaining(until_ms) > 0 && !has_left(at)) {
		int64_t look_ms = svc_deadline(LOOK_MS);
		svc_cond_wait(&never, &lock,
		    may_be_left(at) && look_ms < until_ms ? look_ms : until_ms);
	}
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&never);
	pthread_mutex_destroy(&lock);
}

SVC_HOT void
svc_attempts_finish(struct svc_attempts *at)
{
	for (size_t i = 0; i < at->n_tried; i++)
		svc_target_done(at->tried[i], SVC_OUTCOME_NEUTRAL);
	at->n_tried = 0;
}
