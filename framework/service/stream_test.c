/* SPDX-License-Identifier: Apache-2.0 */
/* Streams from svc_open to the handler and back, over every transport. */
#include "stream_test.h"

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
	};
	int failed = 0;
	EACH_TRANSPORT(failed, tests);
	return failed;
}
