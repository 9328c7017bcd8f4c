/* SPDX-License-Identifier: Apache-2.0 */
/* A call: wrappers, and waiting for its attempts. */
#include "attempt.h"

#define BUDGET_MAX INT64_C(200000)

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

/* -------------------------------------------------------------------- call */

void
svc_pause(int64_t until_ms)
{
	if (until_ms == 0)
		return;
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
}

/* The end of the chain of wrappers. */
static svc_err
call(const struct svc_outgoing *out, void *arg)
{
	const struct svc_call_link *chain = arg;
	struct svc_call_plan plan;
	struct svc_attempts at;
	svc_err code =
	    svc_call_plan_parse(chain->client, out->options, &plan, out->err);
	if (code == SVC_OK)
		code = svc_attempts_begin(
		    &at, chain->client, &plan, out, out->err);
	if (code != SVC_OK)
		return code;
	int64_t until_ms = 0;
	do {
		struct svc_link *link;
		int64_t dial_ms;
		svc_pause(until_ms);
		code = svc_attempt_aim(&at, false, &link, &dial_ms, out->err);
		if (code == SVC_OK) {
			svc_link_exchange(link, &at.first, at.deadline_at_ms,
			    dial_ms, out->rsp, &at.last, out->err);
			code = svc_attempt_end(&at);
		}
	} while (code != SVC_OK && svc_attempts_more(&at, &until_ms));
	svc_attempts_finish(&at);
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
