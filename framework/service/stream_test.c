/* SPDX-License-Identifier: Apache-2.0 */
/* Streams from svc_open to the handler and back, over every transport. */
#include "service_test.h"

static struct svc_client *
client_of(struct svc_service **ret_service)
{
	*ret_service = make("caller", NULL);
	assert_int_equal(svc_init(*ret_service, 0, NULL), SVC_OK);
	return svc_client_of(*ret_service);
}

static svc_err
send_text(struct svc_stream *stream, const char *text)
{
	struct svc_message m = {.data = text, .len = strlen(text)};
	return svc_stream_send(stream, &m);
}

static void
must_send(struct svc_stream *stream, const char *text)
{
	svc_err code = send_text(stream, text);
	if (code != SVC_OK) {
		struct svc_error err;
		svc_stream_error(stream, &err);
		print_error("%s: %s\n", svc_err_name(code), err.text);
	}
	assert_int_equal(code, SVC_OK);
}

static void
must_receive(struct svc_stream *stream, const char *text)
{
	struct svc_message m;
	svc_err code = svc_stream_recv(stream, &m);
	if (code != SVC_OK) {
		struct svc_error err;
		svc_stream_error(stream, &err);
		print_error("%s: %s\n", svc_err_name(code), err.text);
	}
	assert_int_equal(code, SVC_OK);
	assert_string_equal(m.data, text);
	assert_int_equal(m.len, strlen(text));
	svc_message_free(&m); /* does no harm */
}

/* The stream ends with this code and text, for the receiver. */
static void
must_end(struct svc_stream *stream, svc_err code, const char *text)
{
	struct svc_message m = {.len = 1};
	struct svc_error err;
	assert_int_equal(svc_stream_recv(stream, &m), code);
	assert_null(m.data);
	assert_null(m.content_type);
	assert_int_equal(m.len, 0);
	assert_int_equal(svc_stream_error(stream, &err), code);
	assert_int_equal(err.code, code);
	if (text != NULL)
		assert_string_equal(err.text, text);
	else
		assert_string_not_equal(err.text, "");
}

/* ---------------------------------------------------------------- handlers */

static svc_err
echo(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message m;
	svc_err code;
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK) {
		code = svc_stream_send(stream, &m);
		if (code != SVC_OK)
			break;
	}
	return code;
}

/* Sends "1" to "n", which the client asks for. */
static svc_err
count_up(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_call *call = svc_stream_call(stream);
	struct svc_message m;
	svc_err code = svc_stream_recv(stream, &m);
	long n = code == SVC_OK ? strtol(m.data, NULL, 10) : 0;
	for (long i = 1; i <= n && code == SVC_OK; i++)
		code = send_text(stream, svc_printf(call, "%ld", i));
	return code;
}

/* Answers the sum of what it was sent, once. */
static svc_err
sum(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message m;
	svc_err code;
	long total = 0;
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK)
		total += strtol(m.data, NULL, 10);
	if (code != SVC_E_EOF)
		return code;
	return send_text(
	    stream, svc_printf(svc_stream_call(stream), "%ld", total));
}

static svc_err
fails(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message m;
	svc_err code = svc_stream_recv(stream, &m);
	if (code != SVC_OK)
		return code;
	send_text(stream, "one");
	send_text(stream, "two");
	if (m.len == 0)
		return SVC_E_ABORTED;
	return svc_fail(svc_stream_call(stream), SVC_E_PRECONDITION,
	    "no %s today", (const char *)m.data);
}

/* What a handler that waits for a message was told. */
struct seen {
	struct gate in, out;
	svc_err recv, send;
	struct svc_error err;
	bool cancelled;
};

static svc_err
waits(struct svc_stream *stream, void *arg)
{
	struct seen *seen = arg;
	struct svc_message m;
	gate_add(&seen->in);
	do
		seen->recv = svc_stream_recv(stream, &m);
	while (seen->recv == SVC_OK);
	svc_stream_error(stream, &seen->err);
	seen->send = send_text(stream, "too late");
	seen->cancelled = svc_stream_cancelled(stream);
	gate_add(&seen->out);
	return seen->recv;
}

static void
seen_init(struct seen *seen)
{
	*seen = (struct seen){0};
	gate_init(&seen->in);
	gate_init(&seen->out);
}

/* ------------------------------------------------------------------- basics */

static void
both_sides_send_and_receive(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	assert_int_equal(
	    svc_handle_stream(s, "Student.Echo", echo, NULL), SVC_OK);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream = svc_open(client, "student", "Student.Echo");
	assert_non_null(stream);
	assert_null(svc_stream_call(stream));
	assert_int_equal(svc_stream_error(stream, NULL), SVC_OK);
	for (int i = 0; i < 20; i++) {
		must_send(stream, "hello");
		must_send(stream, "");
		must_receive(stream, "hello");
		must_receive(stream, "");
	}
	/* Half closed: what was sent still comes back. */
	must_send(stream, "last");
	assert_int_equal(svc_stream_close_send(stream), SVC_OK);
	assert_int_equal(svc_stream_close_send(stream), SVC_OK);
	assert_int_equal(send_text(stream, "later"), SVC_E_INVAL);
	must_receive(stream, "last");
	must_end(stream, SVC_E_EOF, NULL);
	must_end(stream, SVC_E_EOF, NULL);
	assert_false(svc_stream_cancelled(stream));
	assert_int_equal(send_text(stream, "later"), SVC_E_INVAL);
	svc_stream_free(stream);
	svc_stream_free(NULL);
	svc_free(c);
	svc_free(s);
}

static void
one_side_streams(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Count", count_up, NULL);
	svc_handle_stream(s, "Student.Sum", sum, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	char text[24];

	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Count", retries(0));
	must_send(stream, "1000");
	for (int i = 1; i <= 1000; i++) {
		snprintf(text, sizeof(text), "%d", i);
		must_receive(stream, text);
	}
	must_end(stream, SVC_E_EOF, NULL);
	/* The handler has ended: nobody takes it. */
	assert_int_equal(send_text(stream, "later"), SVC_E_EOF);
	svc_stream_free(stream);

	stream = svc_open(client, "student", "Student.Sum");
	for (int i = 1; i <= 1000; i++) {
		snprintf(text, sizeof(text), "%d", i);
		must_send(stream, text);
	}
	svc_stream_close_send(stream);
	must_receive(stream, "500500");
	must_end(stream, SVC_E_EOF, NULL);
	svc_stream_free(stream);

	/* Nothing at all is a stream too. */
	stream = svc_open(client, "student", "Student.Count");
	svc_stream_close_send(stream);
	must_end(stream, SVC_E_EOF, NULL);
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

/* ------------------------------------------------------- headers and types */

static svc_err
with_headers(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_call *call = svc_stream_call(stream);
	struct svc_message m;
	const char *token = svc_stream_header(stream, "Token");
	if (token == NULL || svc_call_header(call, "token") != token ||
	    strcmp(svc_call_endpoint(call), "Student.Headers") != 0 ||
	    svc_call_peer(call)[0] == '\0')
		return svc_fail(call, SVC_E_INVAL, "no token");
	svc_err code = svc_stream_recv(stream, &m);
	if (code != SVC_OK)
		return code;
	if (strcmp(svc_headers_get(m.headers, "token"), token) != 0)
		return svc_fail(call, SVC_E_INVAL, "no header with a message");
	/* Late, but before the first send. */
	svc_stream_set_header(stream, "Mood", "calm");
	m.content_type = "text/plain";
	code = svc_stream_send(stream, &m);
	if (code == SVC_OK &&
	    svc_stream_set_header(stream, "Mood", "gone") != SVC_E_PRECONDITION)
		code = SVC_E_INTERNAL;
	m.content_type = "text/html";
	if (code == SVC_OK && svc_stream_send(stream, &m) != SVC_E_INVAL)
		code = SVC_E_INTERNAL;
	m.content_type = NULL;
	if (code == SVC_OK)
		code = svc_stream_send(stream, &m);
	return code;
}

static void
headers_and_types_pass(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Headers", with_headers, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream = svc_open(client, "student",
	    "Student.Headers", header("token", "t"), content_type("a/b"));
	assert_non_null(stream);
	assert_int_equal(
	    svc_stream_set_header(stream, "x", "y"), SVC_E_PRECONDITION);
	assert_null(svc_stream_header(stream, "mood"));
	struct svc_message m = {.content_type = "c/d", .data = "hi", .len = 2};
	assert_int_equal(svc_stream_send(stream, &m), SVC_E_INVAL);
	struct svc_error err;
	svc_stream_error(stream, &err);
	assert_non_null(strstr(err.text, "\"c/d\""));
	assert_non_null(strstr(err.text, "\"a/b\""));
	m.content_type = "a/b";
	assert_int_equal(svc_stream_send(stream, &m), SVC_OK);
	assert_int_equal(svc_stream_recv(stream, &m), SVC_OK);
	assert_string_equal(m.content_type, "text/plain");
	assert_string_equal(svc_headers_get(m.headers, "mood"), "calm");
	assert_string_equal(svc_stream_header(stream, "mood"), "calm");
	assert_int_equal(svc_stream_recv(stream, &m), SVC_OK);
	assert_string_equal(m.content_type, "text/plain");
	assert_null(m.headers);
	must_end(stream, SVC_E_EOF, NULL);
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

static svc_err
with_trailers(struct svc_stream *stream, void *arg)
{
	struct svc_call *call = svc_stream_call(stream);
	struct svc_message m;
	svc_err code;
	int n = 0;
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK)
		n++;
	const char *sum = svc_stream_trailer(stream, "sum");
	if (code != SVC_E_EOF || sum == NULL || strcmp(sum, "7") != 0)
		return svc_fail(call, SVC_E_INVAL, "no sum");
	if (svc_stream_set_header(stream, "mood", "calm") != SVC_OK ||
	    svc_stream_set_trailer(
		stream, "count", svc_printf(call, "%d", n)) != SVC_OK)
		return SVC_E_INTERNAL;
	if (arg != NULL)
		return svc_fail(call, SVC_E_ABORTED, "%s", (const char *)arg);
	return n > 1 ? send_text(stream, "many") : SVC_OK;
}

static void
trailers_come_with_the_end(void **state)
{
	(void)state;
	if (!has_credit()) {
		test_lacks("trailers");
		return;
	}
	struct svc_service *s = make("student", NULL), *c;
	static char cause[] = "too few";
	svc_handle_stream(s, "Student.Trailers", with_trailers, NULL);
	svc_handle_stream(s, "Student.Fails", with_trailers, cause);
	must_start(s);
	struct svc_client *client = client_of(&c);
	for (int n = 0; n < 3; n++) {
		struct svc_stream *stream =
		    svc_open(client, "student", "Student.Trailers");
		for (int i = 0; i < n; i++)
			must_send(stream, "x");
		assert_int_equal(
		    svc_stream_set_trailer(stream, "a b", "7"), SVC_E_INVAL);
		assert_int_equal(
		    svc_stream_set_trailer(stream, "sum", "7"), SVC_OK);
		assert_int_equal(svc_stream_close_send(stream), SVC_OK);
		assert_int_equal(svc_stream_set_trailer(stream, "sum", "8"),
		    SVC_E_PRECONDITION);
		if (n > 1)
			must_receive(stream, "many");
		must_end(stream, SVC_E_EOF, NULL);
		char count[12];
		snprintf(count, sizeof(count), "%d", n);
		assert_string_equal(svc_stream_trailer(stream, "count"), count);
		assert_string_equal(svc_stream_header(stream, "mood"), "calm");
		assert_null(svc_stream_trailer(stream, "mood"));
		assert_null(svc_stream_header(stream, "count"));
		svc_stream_free(stream);
	}
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Fails");
	svc_stream_set_trailer(stream, "sum", "7");
	svc_stream_close_send(stream);
	must_end(stream, SVC_E_ABORTED, "too few");
	assert_string_equal(svc_stream_trailer(stream, "count"), "0");
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

/* ------------------------------------------------------------------- errors */

static void
errors_come_with_their_text(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Fails", fails, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Fails");
	must_send(stream, "milk");
	must_receive(stream, "one");
	must_receive(stream, "two");
	must_end(stream, SVC_E_PRECONDITION, "no milk today");
	assert_true(svc_stream_cancelled(stream));
	assert_int_equal(send_text(stream, "bread"), SVC_E_PRECONDITION);
	assert_int_equal(svc_stream_close_send(stream), SVC_E_PRECONDITION);
	svc_stream_free(stream);

	stream = svc_open(client, "student", "Student.Fails");
	must_send(stream, "");
	must_receive(stream, "one");
	must_receive(stream, "two");
	must_end(stream, SVC_E_ABORTED, svc_err_text(SVC_E_ABORTED));
	svc_stream_free(stream);

	stream = svc_open(client, "student", "Student.Nothing");
	must_end(stream, SVC_E_UNIMPLEMENTED,
	    "service \"student\" has no endpoint \"Student.Nothing\"; it has: "
	    "Student.Fails");
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

static void
opening_fails_with_the_reason(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct svc_client *client = client_of(&c);
	struct svc_error err = {0};
	assert_null(svc_open(NULL, "student", "Student.Echo", detail(&err)));
	assert_int_equal(err.code, SVC_E_PRECONDITION);
	assert_null(svc_open(client, NULL, "Student.Echo", detail(&err)));
	assert_int_equal(err.code, SVC_E_INVAL);
	assert_null(svc_open(client, "student", "", detail(&err)));
	assert_int_equal(err.code, SVC_E_INVAL);
	assert_null(svc_open(
	    client, "student", "Student.Echo", timeout_ms(0), detail(&err)));
	assert_int_equal(err.code, SVC_E_INVAL);
	assert_null(svc_open(client, "student", "Student.Echo",
	    header("a b", "c"), detail(&err)));
	assert_int_equal(err.code, SVC_E_INVAL);
	assert_non_null(strstr(err.text, "a b"));
	assert_null(svc_open(client, "nobody", "Student.Echo", detail(&err)));
	assert_int_equal(err.code, SVC_E_NOT_FOUND);
	assert_string_equal(err.text, "service not found: nobody");
	assert_null(svc_open(client, "nobody", "Student.Echo"));

	/* What is no stream says so. */
	struct svc_message m = {0};
	assert_int_equal(svc_stream_send(NULL, &m), SVC_E_INVAL);
	assert_int_equal(svc_stream_recv(NULL, &m), SVC_E_INVAL);
	assert_int_equal(svc_stream_close_send(NULL), SVC_E_INVAL);
	assert_int_equal(svc_stream_error(NULL, &err), SVC_E_INVAL);
	assert_int_equal(svc_stream_set_header(NULL, "a", "b"), SVC_E_INVAL);
	assert_int_equal(svc_stream_set_trailer(NULL, "a", "b"), SVC_E_INVAL);
	assert_null(svc_stream_header(NULL, "a"));
	assert_null(svc_stream_trailer(NULL, "a"));
	assert_null(svc_stream_call(NULL));
	svc_stream_cancel(NULL);
	svc_stream_forget(NULL);
	assert_true(svc_stream_cancelled(NULL));

	/* Handlers of both kinds share the names. */
	assert_int_equal(
	    svc_handle_stream(s, "Student.Echo", NULL, NULL), SVC_E_INVAL);
	assert_int_equal(
	    svc_handle_stream(s, "Student.Echo", echo, NULL), SVC_OK);
	assert_int_equal(
	    svc_handle_stream(s, "Student.Echo", echo, NULL), SVC_E_EXISTS);
	must_start(s);
	assert_int_equal(svc_handle_stream(s, "Student.More", echo, NULL),
	    SVC_E_PRECONDITION);
	svc_free(c);
	svc_free(s);
}

/* -------------------------------------------------------- cancel, deadlines */

static void *
cancel_it(void *arg)
{
	svc_stream_cancel(arg);
	return NULL;
}

static void
a_client_cancels(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Waits", waits, &seen);
	must_start(s);
	struct svc_client *client = client_of(&c);
	/* By freeing. */
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Waits");
	gate_wait(&seen.in, 1);
	svc_stream_free(stream);
	gate_wait(&seen.out, 1);
	assert_int_equal(seen.recv, SVC_E_CANCELLED);
	assert_int_equal(seen.send, SVC_E_CANCELLED);
	assert_string_equal(
	    seen.err.text, "the caller has cancelled the stream or is gone");
	assert_true(seen.cancelled);

	/* By another thread, while this one receives. */
	stream = svc_open(client, "student", "Student.Waits");
	gate_wait(&seen.in, 2);
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "cancel", cancel_it, stream), SVC_OK);
	must_end(stream, SVC_E_CANCELLED, "svc_stream_cancel was called");
	svc_thread_join(thread);
	svc_stream_cancel(stream);
	assert_true(svc_stream_cancelled(stream));
	assert_int_equal(send_text(stream, "x"), SVC_E_CANCELLED);
	gate_wait(&seen.out, 2);
	assert_int_equal(seen.recv, SVC_E_CANCELLED);
	svc_stream_free(stream);

	/* With the connection. */
	stream = svc_open(client, "student", "Student.Waits");
	gate_wait(&seen.in, 3);
	svc_stream_free(stream);
	svc_free(c);
	gate_wait(&seen.out, 3);
	assert_int_equal(seen.recv, SVC_E_CANCELLED);
	svc_free(s);
}

static svc_err
cancels(struct svc_stream *stream, void *arg)
{
	(void)arg;
	send_text(stream, "one");
	svc_stream_cancel(stream);
	svc_stream_free(stream); /* does nothing */
	struct svc_message m;
	if (svc_stream_recv(stream, &m) != SVC_E_CANCELLED ||
	    send_text(stream, "two") != SVC_E_CANCELLED ||
	    svc_call_peer(svc_stream_call(stream))[0] == '\0')
		return SVC_E_INTERNAL;
	return SVC_OK;
}

static svc_err
ends_at_once(struct svc_stream *stream, void *arg)
{
	(void)arg;
	(void)stream;
	return SVC_OK;
}

static void
a_handler_ends_before_its_client(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Cancels", cancels, NULL);
	svc_handle_stream(s, "Student.Ends", ends_at_once, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Cancels");
	must_receive(stream, "one");
	must_end(stream, SVC_E_CANCELLED, "svc_stream_cancel was called");
	svc_stream_free(stream);

	/* A client that only sends learns it too, though nobody takes
	 * what it sends. */
	stream = svc_open(client, "student", "Student.Ends");
	svc_err code;
	while ((code = send_text(stream, "more and more")) == SVC_OK)
		;
	assert_int_equal(code, SVC_E_EOF);
	must_end(stream, SVC_E_EOF, NULL);
	assert_int_equal(svc_stream_close_send(stream), SVC_OK);
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

static void
a_deadline_ends_both_sides(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Waits", waits, &seen);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Waits", timeout_ms(100));
	must_send(stream, "early");
	must_end(stream, SVC_E_TIMEDOUT, "the deadline of the stream passed");
	assert_int_equal(send_text(stream, "late"), SVC_E_TIMEDOUT);
	assert_true(svc_stream_cancelled(stream));
	gate_wait(&seen.out, 1);
	assert_int_equal(seen.recv, SVC_E_TIMEDOUT);
	assert_int_equal(seen.send, SVC_E_TIMEDOUT);
	svc_stream_free(stream);

	/* The handler watches it as well, though its client sleeps. */
	stream = svc_open(client, "student", "Student.Waits", timeout_ms(100));
	gate_wait(&seen.out, 2);
	assert_int_equal(seen.recv, SVC_E_TIMEDOUT);
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

static void
a_stopping_service_ends_its_streams(void **state)
{
	(void)state;
	static char flag[] = "--drain_timeout=50ms";
	char *argv[] = {flag, flag, NULL};
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Waits", waits, &seen);
	assert_int_equal(svc_init(s, 2, argv), SVC_OK);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Waits");
	gate_wait(&seen.in, 1);
	svc_free(s);
	assert_int_equal(seen.recv, SVC_E_UNAVAILABLE);
	assert_int_equal(seen.send, SVC_E_UNAVAILABLE);
	must_end(stream, SVC_E_UNAVAILABLE, "the service is stopping");
	svc_stream_free(stream);
	svc_free(c);
}

static void *
free_service(void *arg)
{
	svc_free(arg);
	return NULL;
}

static void
a_stopping_service_finishes_its_streams(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream = svc_open(client, "student", "Student.Echo");
	must_send(stream, "before");
	must_receive(stream, "before");
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "free", free_service, s), SVC_OK);
	/* New ones are refused once it drains; this one goes on. */
	struct svc_stream *other;
	while ((other = svc_open(client, "student", "Student.Echo")) != NULL) {
		struct svc_message m;
		svc_err code = send_text(other, "x");
		if (code == SVC_OK)
			code = svc_stream_recv(other, &m);
		svc_stream_free(other);
		if (code != SVC_OK)
			break;
	}
	must_send(stream, "after");
	must_receive(stream, "after");
	svc_stream_close_send(stream);
	must_end(stream, SVC_E_EOF, NULL);
	svc_stream_free(stream);
	svc_thread_join(thread);
	svc_free(c);
}

/* ---------------------------------------------------- streams among calls */

static svc_err
greet(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	return svc_reply_text(call, rsp, "text/plain", "hello %.*s",
	    (int)req->len, (const char *)req->data);
}

static void
a_call_reaches_a_stream_and_back(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Count", count_up, NULL);
	svc_handle_stream(s, "Student.Fails", fails, NULL);
	svc_handle(s, "Student.Greet", greet, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_message req = {.data = "1", .len = 1}, rsp;
	struct svc_error err = {0};
	assert_int_equal(
	    svc_call(client, "student", "Student.Count", &req, &rsp), SVC_OK);
	assert_string_equal(rsp.data, "1");
	svc_message_free(&rsp);
	req.data = "0";
	assert_int_equal(
	    svc_call(client, "student", "Student.Count", &req, &rsp), SVC_OK);
	assert_int_equal(rsp.len, 0);
	svc_message_free(&rsp);
	req.data = "3";
	assert_int_equal(svc_call(client, "student", "Student.Count", &req,
			     &rsp, detail(&err)),
	    SVC_E_INVAL);
	assert_string_equal(err.text,
	    "the endpoint answers with a stream of messages: use svc_open");
	assert_null(rsp.data);

	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Greet");
	must_send(stream, "bob");
	svc_stream_close_send(stream);
	must_receive(stream, "hello bob");
	must_end(stream, SVC_E_EOF, NULL);
	svc_stream_free(stream);
	stream = svc_open(client, "student", "Student.Greet");
	must_send(stream, "bob");
	must_send(stream, "eve");
	must_end(stream, SVC_E_INVAL,
	    "this endpoint takes one message, two were sent");
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

static svc_err
keeps_clean(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_call *call = svc_stream_call(stream);
	struct svc_message m, answer = {0};
	svc_err code;
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK) {
		char *first = svc_alloc_in(call, 64);
		char *big = svc_alloc_in(call, 100000);
		if (first == NULL || big == NULL)
			return SVC_E_NOMEM;
		memset(big, 'x', 100000);
		code = svc_reply_text(call, &answer, NULL, "%p", (void *)first);
		if (code == SVC_OK)
			code = svc_stream_send(stream, &answer);
		if (code != SVC_OK)
			return code;
		svc_stream_forget(stream);
	}
	return code;
}

static void
a_handler_forgets_its_memory(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Clean", keeps_clean, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Clean");
	char first[40] = "";
	for (int i = 0; i < 100; i++) {
		struct svc_message m;
		must_send(stream, "go");
		assert_int_equal(svc_stream_recv(stream, &m), SVC_OK);
		if (i == 0)
			snprintf(
			    first, sizeof(first), "%s", (const char *)m.data);
		assert_string_equal(m.data, first);
	}
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

static void
an_endpoint_has_its_limit(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(
	    s, "Student.Waits", waits, &seen, limit(1), metadata("room", "7"));
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *one = svc_open(client, "student", "Student.Waits");
	gate_wait(&seen.in, 1);
	struct svc_stream *two =
	    svc_open(client, "student", "Student.Waits", retries(0));
	must_end(two, SVC_E_EXHAUSTED,
	    "endpoint \"Student.Waits\" runs 1 calls, its limit");
	svc_stream_free(two);
	svc_stream_free(one);
	gate_wait(&seen.out, 1);
	svc_free(c);
	svc_free(s);
}

static svc_err
stays(struct svc_stream *stream, void *arg)
{
	struct seen *seen = arg;
	struct svc_message m;
	svc_err code;
	gate_add(&seen->in);
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK)
		;
	gate_add(&seen->out);
	return code;
}

/* Each holds a thread, so their number has a limit, which leaves room for
 * calls. */
static void
a_service_runs_so_many_streams(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Stays", stays, &seen);
	svc_handle(s, "Student.Greet", greet, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *streams[256];
	const int64_t handlers = svc_options_of(s)->max_handlers;
	const int most = (int)(handlers - handlers / 4);
	assert_in_range(most, 1, 255);
	for (int i = 0; i < most; i++) {
		streams[i] = svc_open(client, "student", "Student.Stays");
		assert_non_null(streams[i]);
	}
	gate_wait(&seen.in, most);
	streams[most] =
	    svc_open(client, "student", "Student.Stays", retries(0));
	must_end(streams[most], SVC_E_EXHAUSTED,
	    "streams take three quarters of the handlers that may run "
	    "(--max_handlers)");
	svc_stream_free(streams[most]);
	assert_int_equal(svc_call(client, "student", "Student.Greet", NULL,
			     NULL, timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	svc_stream_free(streams[0]);
	gate_wait(&seen.out, 1);
	for (int i = 1; i < most; i++)
		svc_stream_free(streams[i]);
	gate_wait(&seen.out, most);
	svc_free(c);
	svc_free(s);
}

static void
the_registry_knows_of_streams(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle_stream(s, "Student.Echo", echo, NULL, metadata("room", "7"));
	svc_handle(s, "Student.Greet", greet, NULL);
	must_start(s);
	struct svc_record_list list = {0};
	assert_int_equal(
	    svc_registry_lookup(svc_registry_of(s), "student", &list, NULL),
	    SVC_OK);
	assert_int_equal(list.n_records, 1);
	const struct svc_record *record = list.records[0];
	assert_int_equal(record->n_endpoints, 2);
	assert_string_equal(record->endpoints[0].name, "Student.Echo");
	assert_string_equal(
	    svc_headers_get(record->endpoints[0].metadata, "stream"), "true");
	assert_string_equal(
	    svc_headers_get(record->endpoints[0].metadata, "room"), "7");
	assert_null(svc_headers_get(record->endpoints[1].metadata, "stream"));
	svc_record_list_fini(&list);
	svc_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(both_sides_send_and_receive),
	    TEST(one_side_streams),
	    TEST(headers_and_types_pass),
	    TEST(trailers_come_with_the_end),
	    TEST(errors_come_with_their_text),
	    TEST(opening_fails_with_the_reason),
	    TEST(a_client_cancels),
	    TEST(a_handler_ends_before_its_client),
	    TEST(a_deadline_ends_both_sides),
	    TEST(a_stopping_service_ends_its_streams),
	    TEST(a_stopping_service_finishes_its_streams),
	    TEST(a_call_reaches_a_stream_and_back),
	    TEST(a_handler_forgets_its_memory),
	    TEST(an_endpoint_has_its_limit),
	    TEST(a_service_runs_so_many_streams),
	    TEST(the_registry_knows_of_streams),
	};
	int failed = 0;
	EACH_TRANSPORT(failed, tests);
	return failed;
}
