/* SPDX-License-Identifier: Apache-2.0 */
/* A call: options, wrappers, the choice of a node, and retries on others. */
#include "service.h"

#include <stdio.h>
#include <string.h>

#define MAX_RETRIES 100
#define MAX_AVOID 8
/* The budget in thousandths of a retry: a tenth per call, one a second for
 * clients that call rarely, and saved up enough for all the calls that a busy
 * client may have open on a node when it dies. */
#define BUDGET_MAX INT64_C(200000)
#define BUDGET_CALL INT64_C(100)
#define BUDGET_RETRY INT64_C(1000)
#define BACKOFF_MS 50
#define MAX_DIAL_MS INT64_C(5000)
#define MIN_DIAL_MS INT64_C(1000)

/* ---------------------------------------------------------- start and end */

static void
unlink_target(void *link, void *arg)
{
	(void)arg;
	svc_link_unref(link);
}

svc_err
svc_client_start(struct svc_service *service, struct svc_error *err)
{
	struct svc_client *client = &service->client;
	client->links =
	    svc_mem_calloc(client->n_wraps + 1, sizeof(*client->links));
	if (client->links == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	for (size_t i = 0; i <= client->n_wraps; i++)
		client->links[i] = (struct svc_call_link){client, i};
	atomic_store(&client->budget, BUDGET_MAX);
	struct svc_selector_config config = {
	    .registry = service->registry,
	    .strategy = service->values.selector,
	    .unlink = unlink_target,
	    .arg = client,
	};
	return svc_selector_create(&config, &client->selector, err);
}

void
svc_client_finish(struct svc_service *service)
{
	struct svc_client *client = &service->client;
	svc_selector_destroy(client->selector);
	svc_mem_free(client->wraps);
	svc_mem_free(client->links);
}

/* ------------------------------------------------------------------ budget */

static void
budget_earn(struct svc_client *client)
{
	/* Usually full, and then nothing is written. */
	int64_t now =
	    atomic_load_explicit(&client->budget, memory_order_relaxed);
	if (now < BUDGET_MAX)
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
	    atomic_load(&client->budget) < BUDGET_MAX)
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

struct call_options {
	int64_t timeout_ms;
	int64_t retries;
	struct svc_pick pick;
	const char *content_type;
	bool idempotent;
};

static svc_err
parse(const struct svc_client *client, const struct svc_option *option,
    struct call_options *ret, struct svc_error *err)
{
	const struct svc_values *v = &client->service->values;
	*ret = (struct call_options){
	    .timeout_ms = v->request_timeout_ms,
	    .retries = v->retries,
	};
	for (; option != NULL && option->kind != SVC_OPTION_END; option++) {
		switch (option->kind) {
		case SVC_OPTION_NONE:
		case SVC_OPTION_HEADER:
		case SVC_OPTION_DETAIL:
			break; /* seen to before the wrappers */
		case SVC_OPTION_TIMEOUT_MS:
			if (option->number < 1 && option->number != SVC_FOREVER)
				return svc_error_set(err, SVC_E_INVAL,
				    "timeout_ms(%lld) must be at least 1, or "
				    "SVC_FOREVER",
				    (long long)option->number);
			ret->timeout_ms = option->number;
			break;
		case SVC_OPTION_RETRIES:
			if (option->number < 0 || option->number > MAX_RETRIES)
				return svc_error_set(err, SVC_E_INVAL,
				    "retries(%lld) must be from 0 to %d",
				    (long long)option->number, MAX_RETRIES);
			ret->retries = option->number;
			break;
		case SVC_OPTION_VERSION:
			ret->pick.version = option->text;
			break;
		case SVC_OPTION_LABEL:
			if (ret->pick.label_name != NULL)
				return svc_error_set(err, SVC_E_INVAL,
				    "label() can be given once; "
				    "\"%s\" is the second",
				    option->text);
			ret->pick.label_name = option->text;
			ret->pick.label_value = option->text2;
			break;
		case SVC_OPTION_NODE:
			ret->pick.node = option->text;
			break;
		case SVC_OPTION_KEY:
			ret->pick.key = option->text;
			break;
		case SVC_OPTION_CONTENT_TYPE:
			ret->content_type = option->text;
			break;
		case SVC_OPTION_IDEMPOTENT:
			ret->idempotent = true;
			break;
		default:
			return svc_error_set(err, SVC_E_INVAL,
			    "option number %d is not one of a call",
			    option->kind);
		}
	}
	return SVC_OK;
}

/* ---------------------------------------------------------------- attempts */

struct attempts {
	struct svc_client *client;
	struct call_options options;
	struct svc_part first;
	int64_t deadline_at_ms;
	struct svc_target *tried[MAX_AVOID];
	size_t n_tried;
	bool idempotent; /* said by the caller or by the node's record */
	struct svc_exchange last;
};

static svc_err
link_of(struct svc_client *client, struct svc_target *target,
    struct svc_link **ret_link, struct svc_error *err)
{
	struct svc_link *link = svc_target_link(target);
	if (link != NULL) {
		*ret_link = link;
		return SVC_OK;
	}
	const struct svc_node *node = target->node;
	const char *transport = svc_headers_get(node->metadata, "transport");
	if (transport == NULL || transport[0] == '\0')
		transport = client->service->values.transport;
	struct svc_error why = {0};
	svc_err code = svc_link_create(
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
	if (exchange->code == SVC_OK)
		return SVC_OUTCOME_OK;
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

/* SVC_OK, or why not. `last` is set when a node was reached for. */
static svc_err
attempt(struct attempts *at, int64_t tries_left, struct svc_message *rsp,
    struct svc_error *err)
{
	struct svc_pick pick = at->options.pick;
	pick.avoid = (const struct svc_target *const *)at->tried;
	pick.n_avoid = at->n_tried;
	struct svc_target *target;
	struct svc_error why;
	why.text[0] = '\0';
	svc_err code =
	    svc_selector_pick(at->client->selector, &pick, &target, &why);
	if (code != SVC_OK) {
		/* What the last node said tells more than that no other is
		 * left. */
		if (at->n_tried == 0)
			*err = why;
		at->last.not_run = false;
		return at->n_tried == 0 ? code : at->last.code;
	}
	int64_t began_us = svc_now_us();
	int64_t left_ms = svc_remaining(at->deadline_at_ms);
	if (left_ms == 0) {
		svc_target_done(target, SVC_OUTCOME_NEUTRAL, 0);
		if (at->n_tried == 0)
			svc_error_set(err, SVC_E_TIMEDOUT,
			    "the deadline passed before a node was found");
		at->last = (struct svc_exchange){.code = SVC_E_TIMEDOUT};
		return SVC_E_TIMEDOUT;
	}
	at->first.timeout_ms = left_ms;
	/* One node that swallows packets must leave time for another. */
	int64_t dial_ms =
	    left_ms == SVC_FOREVER ? MAX_DIAL_MS : left_ms / (tries_left + 1);
	if (dial_ms < MIN_DIAL_MS)
		dial_ms = MIN_DIAL_MS;
	if (dial_ms > MAX_DIAL_MS)
		dial_ms = MAX_DIAL_MS;
	struct svc_link *link = NULL;
	code = link_of(at->client, target, &link, err);
	if (code == SVC_OK)
		svc_link_exchange(link, &at->first, at->deadline_at_ms, dial_ms,
		    rsp, &at->last, err);
	else
		at->last = (struct svc_exchange){.code = code, .not_run = true};
	code = at->last.code;
	if (code != SVC_OK) {
		at->idempotent =
		    at->idempotent || is_idempotent(target, at->first.endpoint);
		if (at->n_tried < MAX_AVOID) {
			svc_target_hold(target);
			at->tried[at->n_tried++] = target;
		}
	}
	svc_target_done(target, judge(&at->last), svc_now_us() - began_us);
	return code;
}

static bool
may_retry(const struct attempts *at)
{
	const struct svc_exchange *last = &at->last;
	if (last->code == SVC_E_NOMEM || last->code == SVC_E_INVAL)
		return false;
	if (last->not_run)
		return true;
	/* What a handler answered is the answer. */
	return at->idempotent && !last->replied &&
	       (last->code == SVC_E_UNAVAILABLE ||
		   last->code == SVC_E_CANCELLED);
}

/* The first retry comes at once; the next ones wait, longer each time. False
 * when the deadline would pass meanwhile. */
static bool
back_off(int64_t retry, int64_t deadline_at_ms)
{
	if (retry < 2)
		return true;
	int64_t most = (int64_t)BACKOFF_MS << (retry - 2 < 6 ? retry - 2 : 6);
	int64_t until_ms = svc_deadline(
	    most / 2 + (int64_t)svc_random_below((uint64_t)most / 2 + 1));
	if (until_ms >= deadline_at_ms)
		return false;
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t never;
	svc_cond_init(&never);
	svc_will_block();
	pthread_mutex_lock(&lock);
	while (svc_cond_wait(&never, &lock, until_ms) == SVC_OK)
		;
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&never);
	pthread_mutex_destroy(&lock);
	return true;
}

/* The end of the chain of wrappers. */
static svc_err
call(const struct svc_outgoing *out, void *arg)
{
	const struct svc_call_link *chain = arg;
	struct svc_client *client = chain->client;
	const struct svc_values *v = &client->service->values;
	struct attempts at;
	at.client = client;
	at.n_tried = 0;
	at.last = (struct svc_exchange){0};
	svc_err code = parse(client, out->options, &at.options, out->err);
	if (code != SVC_OK)
		return code;
	if (out->service == NULL || out->endpoint == NULL ||
	    out->endpoint[0] == '\0')
		return svc_error_set(out->err, SVC_E_INVAL,
		    "a call needs the names of a service and an endpoint");
	if (out->req->len > (uint64_t)v->max_message_size)
		return svc_error_set(out->err, SVC_E_EXHAUSTED,
		    "the request has %zu bytes, more than max_message_size "
		    "(%lld); raise --max_message_size",
		    out->req->len, (long long)v->max_message_size);
	at.idempotent = at.options.idempotent;
	at.deadline_at_ms = svc_deadline(at.options.timeout_ms);
	at.options.pick.service = out->service;
	at.options.pick.deadline_at_ms = at.deadline_at_ms;
	const char *type = at.options.content_type;
	if (type == NULL)
		type = out->req->content_type;
	at.first = (struct svc_part){
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = out->service,
	    .endpoint = out->endpoint,
	    .content_type = type != NULL ? type : v->codec,
	    .headers = out->req->headers,
	    .data = out->req->data,
	    .len = out->req->len,
	};
	budget_earn(client);
	for (int64_t retry = 0;; retry++) {
		code = attempt(
		    &at, at.options.retries - retry, out->rsp, out->err);
		if (code == SVC_OK || retry >= at.options.retries ||
		    at.n_tried == 0 || !may_retry(&at) ||
		    svc_remaining(at.deadline_at_ms) == 0)
			break;
		if (!budget_take(client)) {
			svc_log(SVC_LOG_DEBUG, "call.budget",
			    "no retry of %s of %s: retries are limited to a "
			    "tenth of the calls",
			    out->endpoint, out->service);
			break;
		}
		if (!back_off(retry + 1, at.deadline_at_ms))
			break;
	}
	for (size_t i = 0; i < at.n_tried; i++)
		svc_target_done(at.tried[i], SVC_OUTCOME_NEUTRAL, 0);
	return code;
}

/* ---------------------------------------------------------------- wrappers */

static svc_err
run_wrap(const struct svc_outgoing *out, void *arg)
{
	const struct svc_call_link *chain = arg;
	struct svc_client *client = chain->client;
	if (chain->index == client->n_wraps)
		return call(out, arg);
	const struct svc_call_wrap *wrap = &client->wraps[chain->index];
	return wrap->fn(
	    out, run_wrap, &client->links[chain->index + 1], wrap->arg);
}

/* A copy of the request's headers with those of the options. */
static svc_err
add_headers(const struct svc_option *option, struct svc_message *req,
    struct svc_headers **ret_made, struct svc_error *err)
{
	for (; option != NULL && option->kind != SVC_OPTION_END; option++) {
		if (option->kind != SVC_OPTION_HEADER)
			continue;
		if (*ret_made == NULL) {
			*ret_made = svc_headers_copy(req->headers);
			req->headers = *ret_made;
		}
		svc_err code = SVC_E_NOMEM;
		if (*ret_made != NULL)
			code = option->text == NULL || option->text2 == NULL
				   ? SVC_E_INVAL
				   : svc_headers_set(*ret_made, option->text,
					 option->text2);
		if (code != SVC_OK)
			return svc_error_set(err, code, "header(\"%s\"): %s",
			    option->text != NULL ? option->text : "",
			    svc_err_text(code));
	}
	return SVC_OK;
}

svc_err
svc_call_options(struct svc_client *client, const char *service,
    const char *endpoint, const struct svc_message *req,
    struct svc_message *rsp, const struct svc_option *options)
{
	struct svc_error local;
	local.code = SVC_OK;
	local.sys = 0;
	local.text[0] = '\0';
	struct svc_error *detail = NULL;
	bool has_headers = false;
	for (const struct svc_option *o = options;
	     o != NULL && o->kind != SVC_OPTION_END; o++) {
		if (o->kind == SVC_OPTION_DETAIL)
			detail = o->pointer;
		else if (o->kind == SVC_OPTION_HEADER)
			has_headers = true;
	}
	struct svc_message scratch = {0};
	if (rsp != NULL)
		*rsp = (struct svc_message){0};

	struct svc_message request = {0};
	if (req != NULL)
		request = *req;
	struct svc_headers *made = NULL;
	svc_err code = SVC_OK;
	if (client == NULL)
		code = svc_error_set(&local, SVC_E_PRECONDITION,
		    "there is no client: svc_init has not succeeded");
	else if (has_headers)
		code = add_headers(options, &request, &made, &local);
	if (code == SVC_OK) {
		struct svc_outgoing out = {
		    .service = service,
		    .endpoint = endpoint,
		    .req = &request,
		    .rsp = rsp != NULL ? rsp : &scratch,
		    .options = options,
		    .err = &local,
		};
		code = run_wrap(&out, &client->links[0]);
		if (code != SVC_OK)
			svc_message_free(out.rsp);
	}
	svc_message_free(&scratch);
	svc_headers_destroy(made);
	if (code != SVC_OK && detail != NULL) {
		*detail = local;
		detail->code = code;
		if (detail->text[0] == '\0')
			svc_error_set(detail, code, "%s", svc_err_text(code));
	}
	return code;
}
