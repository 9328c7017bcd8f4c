/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers.h"

#include <string.h>

const char *const call_endpoints[9] = {"Stress.Echo", "Stress.Quick",
    "Stress.Slow", "Stress.Fork", "Stress.Few", "Stress.Relay", "Stress.Tell",
    "Stress.Pipe", "Stress.Brief"};
/* Some of them are no streams, and one of the calls is none. */
const char *const stream_endpoints[6] = {"Stress.Both", "Stress.Both",
    "Stress.Many", "Stress.Brief", "Stress.Echo", "Stress.Slow"};

void
check_code(const char *what, svc_err code, const char *text)
{
	switch (code) {
	case SVC_OK:
	case SVC_E_ABORTED:     /* the handler */
	case SVC_E_NOT_FOUND:   /* nobody is there */
	case SVC_E_UNAVAILABLE: /* gone, or going */
	case SVC_E_TIMEDOUT:
	case SVC_E_CANCELLED:
	case SVC_E_EXHAUSTED: /* limit(1) */
	case SVC_E_CLOSED:    /* a relay cut off, whose client is closing */
	case SVC_E_EOF:       /* streams only */
		return;
	default:
		stress_fail("%s: %s: %s", what, svc_err_name(code), text);
	}
}

static void
enter(struct server *server)
{
	STRESS_CHECK(!atomic_load(&server->over));
	atomic_fetch_add(&server->handling, 1);
}

static svc_err
leave(struct server *server, svc_err code)
{
	atomic_fetch_sub(&server->handling, 1);
	return code;
}

/* Everything that may be asked of a call. */
static void
look_at(struct svc_call *call)
{
	const char *from = svc_call_header(call, "from");
	int64_t left_ms = svc_call_remaining_ms(call);
	STRESS_CHECK(from == NULL || strcmp(from, "stress") == 0);
	STRESS_CHECK(left_ms >= 0 || left_ms == SVC_FOREVER);
	char *text = svc_printf(call, "%s %s %s", svc_call_endpoint(call),
	    svc_call_peer(call), svc_call_identity(call));
	STRESS_CHECK(text != NULL && strncmp(text, "Stress.", 7) == 0);
	STRESS_CHECK(svc_alloc_in(call, 10) != NULL);
}

/* ------------------------------------------------------------------- calls */

static svc_err
on_echo(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct server *server = arg;
	enter(server);
	if (req->len % 4 == 0)
		look_at(call);
	rsp->data = req->data;
	rsp->len = req->len;
	return leave(server, SVC_OK);
}

static svc_err
on_slow(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct server *server = arg;
	enter(server);
	unsigned char dice =
	    req->len > 0 ? *(const unsigned char *)req->data : 0;
	if (dice & 1)
		svc_will_block();
	for (int i = dice % 64; i > 0 && !svc_call_cancelled(call); i--)
		stress_yield(1);
	look_at(call); /* the caller may have gone, and the loop */
	if (dice % 5 == 0)
		return leave(server,
		    svc_fail(call, SVC_E_ABORTED, "as asked: %d", dice));
	STRESS_CHECK(svc_headers_set(rsp->headers, "by", "stress") == SVC_OK);
	return leave(server, svc_reply_text(call, rsp, NULL, "%d", dice));
}

static void
forked(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	(void)code, (void)rsp, (void)detail;
	leave(arg, SVC_OK);
}

/* Leaves a call behind, which ends with that of its caller or later. */
static svc_err
on_fork(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct server *server = arg;
	(void)rsp;
	enter(server);
	enter(server);
	svc_err code = svc_call_async(svc_client_of(svc_call_service(call)),
	    "stress", "Stress.Slow", req, forked, server, within(call));
	if (code != SVC_OK)
		leave(server, code);
	for (size_t i = req->len % 40; i > 0 && !svc_call_cancelled(call); i--)
		stress_yield(1);
	return leave(server, code);
}

/* Calls its own kind, perhaps itself, while it may be being freed. */
static svc_err
on_relay(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct server *server = arg;
	enter(server);
	struct svc_message answer;
	struct svc_error err = {0};
	const struct svc_option options[] = {
	    SVC_CALL_OPT_timeout_ms(500),
	    SVC_CALL_OPT_detail(&err),
	    req->len % 3 > 0 ? (struct svc_option)SVC_CALL_OPT_within(call)
			     : (struct svc_option)SVC_OPT_,
	    SVC_OPT_end(),
	};
	svc_err code = svc_call_options(svc_client_of(svc_call_service(call)),
	    "stress", "Stress.Slow", req, &answer, options);
	if (code != SVC_OK)
		return leave(server, svc_fail(call, code, "%s", err.text));
	code = svc_reply_text(call, rsp, NULL, "%.*s", (int)answer.len,
	    (const char *)answer.data);
	svc_message_free(&answer);
	return leave(server, code);
}

/* A stream within a call, given back before the handler returns. */
static svc_err
on_pipe(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct server *server = arg;
	struct svc_error err = {0};
	struct svc_message m;
	(void)rsp;
	enter(server);
	struct svc_stream *stream =
	    svc_open(svc_client_of(svc_call_service(call)), "stress",
		req->len % 2 != 0 ? "Stress.Both" : "Stress.Many",
		timeout_ms(500), detail(&err), within(call));
	if (stream == NULL)
		return leave(server, svc_fail(call, err.code, "%s", err.text));
	svc_err code = svc_stream_send(stream, req);
	if (req->len % 3 != 0)
		(void)svc_stream_close_send(stream);
	for (size_t i = req->len % 5; i > 0 && code == SVC_OK; i--)
		code = svc_stream_recv(stream, &m);
	svc_stream_error(stream, &err);
	svc_stream_free(stream);
	check_code("Stress.Pipe", code, err.text);
	/* An end is as good as a message here. */
	return leave(server, code == SVC_E_EOF ? SVC_OK : code);
}

/* Publishes, and stops its service now and then. */
static svc_err
on_tell(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct server *server = arg;
	(void)rsp;
	enter(server);
	struct svc_error err = {0};
	if (server->runs && req->len % 64 == 63)
		svc_stop(svc_call_service(call));
	svc_err code =
	    svc_publish_detail(svc_call_service(call), "news", req, &err);
	if (code != SVC_OK)
		svc_fail(call, code, "%s", err.text);
	return leave(server, code);
}

/* ----------------------------------------------------------------- streams */

static svc_err
on_stream_echo(struct svc_stream *stream, void *arg)
{
	struct server *server = arg;
	struct svc_message m;
	svc_err code;
	enter(server);
	struct svc_call *call = svc_stream_call(stream);
	const char *from = svc_stream_header(stream, "from");
	STRESS_CHECK(from == NULL || strcmp(from, "stress") == 0);
	svc_stream_set_header(stream, "by", "stress");
	svc_stream_set_trailer(stream, "said", "all");
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK) {
		look_at(call);
		code = svc_stream_send(stream, &m);
		if (code != SVC_OK)
			break;
		svc_stream_forget(stream);
	}
	/* Its last word may need another service. */
	if (code == SVC_E_EOF && from != NULL)
		(void)svc_call(svc_client_of(svc_call_service(call)), "stress",
		    "Stress.Slow", NULL, NULL, timeout_ms(200), within(call));
	return leave(server, code);
}

static svc_err
on_stream_source(struct svc_stream *stream, void *arg)
{
	struct server *server = arg;
	char data[3000];
	struct svc_message m = {.data = data};
	svc_err code = SVC_OK;
	enter(server);
	memset(data, 'x', sizeof(data));
	/* More than a stream's window: small ones, then large ones. */
	for (int i = 0; i < 500 && code == SVC_OK; i++) {
		m.len = i < 250 ? sizeof(data) / 10 : sizeof(data);
		code = svc_stream_send(stream, &m);
	}
	return leave(server, code);
}

static svc_err
on_stream_brief(struct svc_stream *stream, void *arg)
{
	struct server *server = arg;
	struct svc_message m = {.data = "bye", .len = 3};
	enter(server);
	svc_err code = svc_stream_send(stream, &m);
	return leave(server, code);
}

/* ------------------------------------------------------------------ events */

static svc_err
on_news(struct svc_event *event, void *arg)
{
	struct server *server = arg;
	enter(server);
	size_t len = svc_event_message(event)->len;
	const char *from = svc_event_header(event, "from");
	STRESS_CHECK(strcmp(svc_event_topic(event), "news") == 0);
	STRESS_CHECK(from == NULL || strcmp(from, "stress") == 0);
	stress_yield((unsigned)(len % 7));
	return leave(server, SVC_OK);
}

void
handlers_add(struct server *server, struct stress_actor *actor)
{
	struct svc_service *s = server->service;
	svc_err code = svc_handle(s, "Stress.Echo", on_echo, server);
	code |= svc_handle(s, "Stress.Quick", on_echo, server, never_blocks());
	code |= svc_handle(s, "Stress.Slow", on_slow, server, idempotent());
	code |= svc_handle(s, "Stress.Few", on_slow, server, limit(1));
	code |= svc_handle(s, "Stress.Relay", on_relay, server);
	code |= svc_handle(s, "Stress.Fork", on_fork, server);
	code |= svc_handle(s, "Stress.Pipe", on_pipe, server);
	code |= svc_handle(s, "Stress.Tell", on_tell, server);
	code |= svc_handle_stream(s, "Stress.Both", on_stream_echo, server);
	code |= svc_handle_stream(s, "Stress.Many", on_stream_source, server);
	code |= svc_handle_stream(s, "Stress.Brief", on_stream_brief, server);
	code |= svc_subscribe(s, "news", on_news, server);
	if (stress_chance(actor, 50))
		code |=
		    svc_subscribe(s, "news", on_news, server, queue("workers"));
	STRESS_CHECK(code == SVC_OK);
}
