/* SPDX-License-Identifier: Apache-2.0 */
/* Streams among calls: what they share with them, over every transport. */
#include "stream_test.h"

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

/* As many headers and trailers as are asked for. */
static svc_err
decorates(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_call *call = svc_stream_call(stream);
	struct svc_message m;
	svc_err code = svc_stream_recv(stream, &m);
	long n = code == SVC_OK ? strtol(m.data, NULL, 10) : 0;
	for (long i = 0; i < n && code == SVC_OK; i++) {
		code = svc_stream_set_header(
		    stream, svc_printf(call, "head-%ld", i), "v");
		if (code == SVC_OK)
			code = svc_stream_set_trailer(
			    stream, svc_printf(call, "trail-%ld", i), "v");
	}
	return code == SVC_OK ? send_text(stream, "decorated") : code;
}

static void
headers_and_trailers_fit_into_one_reply(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Decorate", decorates, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_message req = {.data = "128", .len = 3}, rsp;
	struct svc_error err = {0};
	assert_int_equal(
	    svc_call(client, "student", "Student.Decorate", &req, &rsp),
	    SVC_OK);
	assert_int_equal(svc_headers_count(rsp.headers), 256);
	svc_message_free(&rsp);
	req.data = "129";
	assert_int_equal(svc_call(client, "student", "Student.Decorate", &req,
			     &rsp, detail(&err)),
	    SVC_E_EXHAUSTED);
	assert_string_equal(err.text,
	    "the reply has more headers and trailers than the 256 that a "
	    "message takes: use svc_open");
	svc_free(c);
	svc_free(s);
}

static void
a_stream_tells_its_headers_itself(void **state)
{
	(void)state;
	struct svc_service *c;
	struct svc_client *client = client_of(&c);
	struct svc_headers *headers = svc_headers_create();
	struct svc_error err = {0};
	assert_null(svc_open(client, "student", "Student.Echo",
	    reply_headers(headers), detail(&err)));
	assert_int_equal(err.code, SVC_E_INVAL);
	assert_string_equal(err.text,
	    "reply_headers() is not for a stream: svc_stream_header and "
	    "svc_stream_trailer read what the handler sent");
	svc_headers_destroy(headers);
	svc_free(c);
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
	    TEST(a_call_reaches_a_stream_and_back),
	    TEST(a_handler_forgets_its_memory),
	    TEST(an_endpoint_has_its_limit),
	    TEST(a_service_runs_so_many_streams),
	    TEST(headers_and_trailers_fit_into_one_reply),
	    TEST(a_stream_tells_its_headers_itself),
	    TEST(the_registry_knows_of_streams),
	};
	int failed = 0;
	EACH_TRANSPORT(failed, tests);
	return failed;
}
