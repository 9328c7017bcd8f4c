/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ASYNC_TEST_H
#define SVC_ASYNC_TEST_H

/* What the tests of calls that nobody waits for share. */

#include "nodes_test.h"

/* The ends of calls, as `done` was told them. */
struct ends {
	struct gate gate; /* counts them */
	svc_err code;     /* of the last one */
	char text[256];
	char data[64];
	size_t len;
	char type[64];
	char header[64];
	bool in_caller; /* told on the thread that called */
	pthread_t caller;
};

static UNUSED void
ends_init(struct ends *ends)
{
	memset(ends, 0, sizeof(*ends));
	gate_init(&ends->gate);
	ends->caller = pthread_self();
}

static UNUSED void
on_end(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct ends *ends = arg;
	assert_non_null(rsp);
	assert_non_null(detail);
	assert_int_equal(detail->code, code);
	/* Several may end at once. */
	pthread_mutex_lock(&ends->gate.lock);
	if (pthread_equal(pthread_self(), ends->caller))
		ends->in_caller = true;
	ends->code = code;
	snprintf(ends->text, sizeof(ends->text), "%s", detail->text);
	ends->len = rsp->len;
	if (code == SVC_OK)
		assert_int_equal(((const char *)rsp->data)[rsp->len], '\0');
	else
		assert_null(rsp->data);
	snprintf(ends->data, sizeof(ends->data), "%s",
	    rsp->data != NULL ? (const char *)rsp->data : "");
	snprintf(ends->type, sizeof(ends->type), "%s",
	    rsp->content_type != NULL ? rsp->content_type : "");
	const char *header = svc_headers_get(rsp->headers, "seen");
	snprintf(ends->header, sizeof(ends->header), "%s",
	    header != NULL ? header : "");
	pthread_mutex_unlock(&ends->gate.lock);
	gate_add(&ends->gate);
}

static UNUSED svc_err
greet(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	const char *user = svc_call_header(call, "user");
	if (user != NULL)
		svc_headers_set(rsp->headers, "Seen", user);
	if (req->len == 0)
		return svc_fail(call, SVC_E_PRECONDITION, "nobody to greet");
	return svc_reply_text(call, rsp, "text/plain", "hello %.*s",
	    (int)req->len, (const char *)req->data);
}

static UNUSED struct svc_service *
make_client(void)
{
	struct svc_service *c = make("caller", NULL);
	svc_err code = svc_init(c, 0, NULL);
	assert_string_equal(svc_error_text(c), "");
	assert_int_equal(code, SVC_OK);
	return c;
}

/* Of a handler that runs until it is told to end. */
struct slow {
	struct gate entered, go, left;
	atomic_bool cancelled;
};

static UNUSED void
slow_init(struct slow *slow)
{
	memset(slow, 0, sizeof(*slow));
	gate_init(&slow->entered);
	gate_init(&slow->go);
	gate_init(&slow->left);
}

/* Ends when told to, or when its caller has gone. */
static UNUSED svc_err
waits(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct slow *slow = arg;
	(void)req;
	(void)rsp;
	gate_add(&slow->entered);
	svc_will_block();
	while (gate_count(&slow->go) == 0 && !svc_call_cancelled(call))
		sched_yield();
	bool cancelled = svc_call_cancelled(call);
	slow->cancelled = cancelled;
	gate_add(&slow->left);
	/* It may see the deadline pass before its caller does. */
	return cancelled ? svc_fail(call, SVC_E_TIMEDOUT, "too late") : SVC_OK;
}

#endif
