/* SPDX-License-Identifier: Apache-2.0 */
/* svc_call and svc_call_async up to where they part, and what waits. */
#include "attempt.h"

#include <string.h>

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
	client->wraps = &service->wraps[SVC_WRAP_CALL];
	struct svc_call_plan *plain = svc_mem_alloc(sizeof(*plain));
	if (plain != NULL)
		svc_call_plan_parse(client, NULL, plain, err);
	client->plain = plain;
	client->links =
	    svc_mem_calloc(client->wraps->n + 1, sizeof(*client->links));
	if (plain == NULL || client->links == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	for (size_t i = 0; i <= client->wraps->n; i++)
		client->links[i] = (struct svc_call_link){client, i};
	atomic_store(&client->budget, SVC_BUDGET_MAX);
	struct svc_selector_config config = {
	    .registry = service->registry,
	    .strategy = service->values.selector,
	    .unlink = unlink_target,
	    .arg = client,
	};
	svc_err code = svc_selector_create(&config, &client->selector, err);
	if (code == SVC_OK)
		code = svc_async_create(client, &client->async);
	if (code == SVC_E_NOMEM)
		svc_error_set(err, code, "out of memory");
	return code;
}

void
svc_client_close(struct svc_service *service)
{
	if (service->client.async != NULL)
		svc_async_close(service->client.async);
}

void
svc_client_finish(struct svc_service *service)
{
	struct svc_client *client = &service->client;
	svc_selector_destroy(client->selector);
	svc_mem_free(client->links);
	svc_mem_free(client->plain);
}

/* -------------------------------------------------------- a call that waits
 */

/* The deadline has passed. Perhaps nobody could read: then the node is not the
 * one to look at. */
static SVC_COLD void
explain_late(const struct svc_client *client, struct svc_error *err)
{
	const struct svc_executor *executor = client->service->executor;
	int others =
	    svc_executor_max_threads(executor) - svc_executor_loops(executor);
	if (err == NULL || svc_executor_off_loop(executor) < others)
		return;
	struct svc_error was = *err;
	svc_error_set(err, was.code,
	    "%s; all threads (--threads) are held by handlers or callbacks "
	    "that block",
	    was.text);
}

static SVC_HOT svc_err
call(struct svc_client *client, const struct svc_call_plan *plan,
    const struct svc_outgoing *out)
{
	struct svc_attempts at;
	int64_t now_ms = svc_now_ms();
	svc_err code = svc_attempts_begin(&at, client, plan, out, now_ms,
	    svc_call_plan_deadline(plan, now_ms), out->err);
	if (code != SVC_OK)
		return code;
	struct svc_reply reply;
	reply.block = NULL;
	for (;;) {
		struct svc_link *link;
		int64_t until_ms;
		svc_reply_init(&reply, out->err);
		code = svc_attempt_aim(&at, true, &link, out->err);
		if (code == SVC_E_AGAIN && at.target == NULL)
			code = svc_attempt_aim(&at, false, &link, out->err);
		if (code == SVC_OK) {
			svc_link_exchange(link, &at.first, at.deadline_at_ms,
			    &at.dial_time, plan->within, &reply, out->err);
			at.last = reply.result;
			code = svc_attempt_end(&at);
		}
		if (code == SVC_OK || !svc_attempts_more(&at, &until_ms))
			break;
		svc_reply_fini(&reply);
		svc_attempts_pause(&at, until_ms);
	}
	svc_attempts_finish(&at);
	if (code == SVC_E_TIMEDOUT)
		explain_late(client, out->err);
	if (plan->reply_headers != NULL &&
	    svc_reply_copy_headers(reply.headers, plan->reply_headers) !=
		SVC_OK &&
	    code == SVC_OK)
		code = svc_error_set(out->err, SVC_E_NOMEM, "out of memory");
	if (code == SVC_OK)
		*out->rsp = svc_reply_message(&reply);
	else
		svc_reply_fini(&reply);
	return code;
}

/* ---------------------------------------------------------------- wrappers */

static bool
lacks_data(const struct svc_outgoing *out)
{
	if (out->req->data != NULL || out->req->len == 0)
		return false;
	svc_error_set(out->err, SVC_E_INVAL,
	    "the request has %zu bytes but no data", out->req->len);
	return true;
}

/* What svc_call_then keeps of an asynchronous call: until its end was told, and
 * until svc_call_then has returned. */
struct then {
	svc_call_ended end;
	void *arg;
	svc_done_cb done;
	void *done_arg;
	struct svc_error *detail; /* of the caller, by an option */
	atomic_int holds;
	atomic_bool begun;
};

static void then_done(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg);

/* Those that wait for the end of this call, the innermost first. */
static struct then *
then_first(const struct svc_outgoing *out)
{
	return out->done == then_done ? out->done_arg : NULL;
}

static struct then *
then_next(const struct then *then)
{
	return then->done == then_done ? then->done_arg : NULL;
}

static bool
has_begun(const struct svc_outgoing *out)
{
	struct then *then = then_first(out);
	while (then != NULL && !atomic_load(&then->begun))
		then = then_next(then);
	return then != NULL;
}

static void
set_begun(const struct svc_outgoing *out, bool begun)
{
	for (struct then *at = then_first(out); at != NULL; at = then_next(at))
		atomic_store(&at->begun, begun);
}

/* Wrapped or with headers by options; see is_simple for the others. A wrapper
 * that comes a second time would have one end told twice. */
static SVC_APART svc_err
call_async(struct svc_client *client, const struct svc_call_plan *plan,
    const struct svc_outgoing *out)
{
	if (has_begun(out))
		return svc_error_set(out->err, SVC_E_PRECONDITION,
		    "the call has begun already, and its end is told once");
	set_begun(out, true);
	svc_err code = svc_async_call(client->async, plan, out);
	if (code != SVC_OK)
		set_begun(out, false);
	return code;
}

static svc_err
go(struct svc_client *client, const struct svc_call_plan *plan,
    const struct svc_outgoing *out)
{
	return out->done == NULL ? call(client, plan, out)
				 : call_async(client, plan, out);
}

/* A wrapper may have changed all of it, may have left away what a caller may,
 * and may come a second time with an answer that it does not want. */
static svc_err
run_wrapped(struct svc_client *client, const struct svc_outgoing *out)
{
	struct svc_call_plan plan;
	struct svc_message none = {0}, unwanted = {0};
	struct svc_error untold = {0};
	struct svc_outgoing whole = *out;
	if (whole.req == NULL)
		whole.req = &none;
	if (whole.rsp == NULL)
		whole.rsp = &unwanted;
	if (whole.err == NULL)
		whole.err = &untold;
	if (!svc_call_is_named(whole.service, whole.endpoint, whole.err) ||
	    lacks_data(&whole))
		return SVC_E_INVAL;
	svc_err code =
	    svc_call_plan_parse(client, whole.options, &plan, whole.err);
	if (code != SVC_OK)
		return code;
	svc_message_free(whole.rsp);
	code = go(client, &plan, &whole);
	svc_message_free(&unwanted);
	return code;
}

static svc_err
run_wrap(const struct svc_outgoing *out, void *arg)
{
	const struct svc_call_link *chain = arg;
	struct svc_client *client = chain->client;
	if (chain->index < client->wraps->n) {
		const struct svc_wrap *wrap =
		    &client->wraps->list[chain->index];
		return ((svc_call_wrapper)wrap->fn)(
		    out, run_wrap, &client->links[chain->index + 1], wrap->arg);
	}
	return run_wrapped(client, out);
}

static svc_err
as_it_ended(svc_err code, const struct svc_message *rsp, struct svc_error *err,
    void *arg)
{
	(void)rsp;
	(void)err;
	(void)arg;
	return code;
}

/* Whatever wrappers do, the caller's `done` runs once or the call has failed
 * to begin. */
static svc_err
start_wrapped(struct svc_client *client, const struct svc_outgoing *out)
{
	void *first = &client->links[0];
	return out->done == NULL
		   ? run_wrap(out, first)
		   : svc_call_then(out, run_wrap, first, as_it_ended, NULL);
}

/* What no call can have never reaches a wrapper. `out` has
 * everything but the headers of the options. */
static SVC_HOT svc_err
start(struct svc_client *client, struct svc_outgoing *out,
    struct svc_message *request)
{
	struct svc_call_plan parsed;
	const struct svc_call_plan *plan = &parsed;
	svc_err code = SVC_OK;
	if (client == NULL)
		return svc_error_set(out->err, SVC_E_PRECONDITION,
		    "there is no client: svc_init has not succeeded");
	if (!svc_call_is_named(out->service, out->endpoint, out->err) ||
	    lacks_data(out))
		return SVC_E_INVAL;
	if (svc_call_is_plain(out->options))
		plan = client->plain;
	else
		code = svc_call_plan_parse(
		    client, out->options, &parsed, out->err);
	struct svc_headers *made = NULL;
	if (code == SVC_OK && plan->has_headers) {
		code = svc_call_plan_headers(
		    out->options, request->headers, &made, out->err);
		request->headers = made;
	}
	if (code == SVC_OK && plan->reply_headers != NULL)
		svc_headers_clear(plan->reply_headers);
	if (code == SVC_OK && client->wraps->n == 0)
		code = go(client, plan, out);
	else if (code == SVC_OK)
		code = start_wrapped(client, out);
	if (made != NULL)
		svc_headers_destroy(made);
	return code;
}

static void
tell_detail(
    const struct svc_option *options, svc_err code, const struct svc_error *err)
{
	struct svc_error *detail = svc_call_plan_detail(options);
	if (detail == NULL)
		return;
	*detail = *err;
	detail->code = code;
	if (detail->text[0] == '\0')
		svc_error_set(detail, code, "%s", svc_err_text(code));
}

SVC_HOT svc_err
svc_call_options(struct svc_client *client, const char *service,
    const char *endpoint, const struct svc_message *req,
    struct svc_message *rsp, const struct svc_option *options)
{
	struct svc_error err;
	err.code = SVC_OK;
	err.sys = 0;
	err.text[0] = '\0';
	struct svc_message scratch = {0}, request = {0};
	if (req != NULL)
		request = *req;
	if (rsp != NULL) /* which may be `req` */
		*rsp = scratch;
	struct svc_outgoing out = {
	    .service = service,
	    .endpoint = endpoint,
	    .req = &request,
	    .rsp = rsp != NULL ? rsp : &scratch,
	    .options = options,
	    .err = &err,
	};
	svc_err code = start(client, &out, &request);
	if (code != SVC_OK) {
		svc_message_free(out.rsp);
		tell_detail(options, code, &err);
	}
	svc_message_free(&scratch);
	return code;
}

/* Whatever it has. */
static SVC_APART svc_err
begin_async(struct svc_client *client, const struct svc_outgoing *given)
{
	struct svc_message scratch = {0}, request = {0};
	struct svc_outgoing out = *given;
	if (given->req != NULL)
		request = *given->req;
	out.req = &request;
	out.rsp = &scratch;
	svc_err code =
	    out.done != NULL
		? start(client, &out, &request)
		: svc_error_set(out.err, SVC_E_INVAL,
		      "svc_call_async needs a function that is told the end");
	svc_message_free(&scratch);
	return code;
}

/* What nearly every asynchronous call is: nobody wraps it, and its options say
 * nothing of headers. False: it is not like that, and nothing has happened. */
static inline bool
is_simple(const struct svc_client *client, const struct svc_outgoing *out,
    struct svc_call_plan *parsed, const struct svc_call_plan **ret_plan)
{
	if (client == NULL || client->wraps->n > 0 || out->req == NULL ||
	    out->done == NULL)
		return false;
	*ret_plan = client->plain;
	if (svc_call_is_plain(out->options))
		return true;
	*ret_plan = parsed;
	return svc_call_plan_parse(client, out->options, parsed, out->err) ==
		   SVC_OK &&
	       !parsed->has_headers && parsed->reply_headers == NULL;
}

SVC_HOT svc_err
svc_call_async_options(struct svc_client *client, const char *service,
    const char *endpoint, const struct svc_message *req, svc_done_cb done,
    void *arg, const struct svc_option *options)
{
	struct svc_call_plan parsed;
	const struct svc_call_plan *plan;
	struct svc_error err;
	err.code = SVC_OK;
	err.sys = 0;
	err.text[0] = '\0';
	struct svc_outgoing out = {
	    .service = service,
	    .endpoint = endpoint,
	    .req = req,
	    .options = options,
	    .err = &err,
	    .done = done,
	    .done_arg = arg,
	};
	svc_err code = SVC_E_INVAL;
	if (!is_simple(client, &out, &parsed, &plan))
		code = begin_async(client, &out);
	else if (svc_call_is_named(service, endpoint, &err) &&
		 !lacks_data(&out))
		code = svc_async_call(client->async, plan, &out);
	if (code != SVC_OK)
		tell_detail(options, code, &err);
	return code;
}

/* As the caller is to have it. */
static void
then_tell(svc_err code, const struct svc_message *rsp, struct svc_error *err,
    const struct then *then)
{
	struct svc_message headers = {.headers = rsp->headers};
	err->code = code;
	if (code == SVC_OK)
		err->text[0] = '\0';
	else if (err->text[0] == '\0')
		svc_error_set(err, code, "%s", svc_err_text(code));
	if (code != SVC_OK && then->detail != NULL)
		*then->detail = *err;
	then->done(code, code == SVC_OK ? rsp : &headers, err, then->done_arg);
}

static void
then_drop(struct then *then)
{
	if (atomic_fetch_sub(&then->holds, 1) == 1)
		svc_mem_free(then);
}

static void
then_done(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct then *then = arg;
	struct svc_error err = *detail;
	code = then->end(code, rsp, &err, then->arg);
	then_tell(code, rsp, &err, then);
	then_drop(then);
}

/* Of an asynchronous call. *ret_begun says that the end is told to `then`,
 * whatever a wrapper further in has made of that. */
static svc_err
then_begin(const struct svc_outgoing *out, svc_call_next next, void *next_arg,
    struct then *made, bool *ret_begun)
{
	struct then *then = svc_mem_alloc(sizeof(*then));
	*ret_begun = false;
	if (then == NULL)
		return svc_error_set(out->err, SVC_E_NOMEM, "out of memory");
	*then = *made;
	atomic_init(&then->holds, 2);
	atomic_init(&then->begun, false);
	struct svc_outgoing chained = *out;
	chained.done = then_done;
	chained.done_arg = then;
	svc_err code = next(&chained, next_arg);
	*ret_begun = code == SVC_OK || atomic_load(&then->begun);
	if (!*ret_begun)
		then_drop(then);
	then_drop(then);
	return code;
}

svc_err
svc_call_then(const struct svc_outgoing *out, svc_call_next next,
    void *next_arg, svc_call_ended end, void *arg)
{
	static const struct svc_message none = {0};
	svc_err code;
	if (out == NULL || next == NULL || end == NULL)
		return svc_error_set(out != NULL ? out->err : NULL, SVC_E_INVAL,
		    "svc_call_then needs a call and two functions");
	if (out->done == NULL) {
		code = next(out, next_arg);
		return end(
		    code, code == SVC_OK ? out->rsp : &none, out->err, arg);
	}
	struct then made = {.end = end,
	    .arg = arg,
	    .done = out->done,
	    .done_arg = out->done_arg,
	    .detail = svc_call_plan_detail(out->options)};
	bool begun;
	code = then_begin(out, next, next_arg, &made, &begun);
	if (begun)
		return SVC_OK;
	/* It did not begin, and so it has ended. */
	svc_err other = end(code, &none, out->err, arg);
	return other != SVC_OK ? other : code;
}
