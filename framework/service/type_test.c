/* SPDX-License-Identifier: Apache-2.0 */
/* A content type of more than one line, or of other bytes that are not for a
 * header, leaves neither side: over every transport. */
#include "stream_test.h"

#define RULE ": allowed are up to 255 characters from space to '~'"
static const char two_lines[] = "text/plain\r\nx: y";
static const char refused[] = "content type \"text/plain\\x0d\\x0ax: y\"" RULE;
static const struct svc_message bad = {
    .content_type = two_lines, .data = "x", .len = 1};
static const struct svc_message good = {.data = "x", .len = 1};

struct end {
	struct gate gate;
	svc_err code;
	struct svc_error err;
	char type[64];
};

static void
on_end(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct end *end = arg;
	end->code = code;
	end->err = *detail;
	snprintf(end->type, sizeof(end->type), "%s",
	    rsp->content_type != NULL ? rsp->content_type : "");
	gate_add(&end->gate);
}

static void
must_refuse(svc_err code, const struct svc_error *err, const char *text)
{
	assert_string_equal(err->text, text);
	assert_int_equal(err->code, SVC_E_INVAL);
	assert_int_equal(code, SVC_E_INVAL);
}

static svc_err
answers(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	if (svc_call_header(call, "bad") != NULL)
		rsp->content_type = two_lines;
	if (svc_call_header(call, "print") != NULL)
		return svc_reply_text(call, rsp, two_lines, "x");
	rsp->data = req->data;
	rsp->len = req->len;
	return SVC_OK;
}

static svc_err
spoils(const struct svc_outgoing *call, svc_call_next next, void *next_arg,
    void *arg)
{
	(void)arg;
	struct svc_outgoing changed = *call;
	changed.req = &bad;
	return next(&changed, next_arg);
}

static void
of_requests(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL),
			   *c = make("caller", MORE(wrap_call(spoils, NULL)));
	struct svc_error err = {0};
	struct svc_message rsp;
	struct end end = {0};
	int n = 0;
	gate_init(&end.gate);
	svc_handle(s, "Student.Echo", answers, NULL);
	must_start(s);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct svc_client *client = svc_client_of(s);
	must_refuse(svc_call(client, "student", "Student.Echo", &bad, NULL,
			detail(&err)),
	    &err, refused);
	must_refuse(svc_call(client, "student", "Student.Echo", &good, NULL,
			content_type(two_lines), detail(&err)),
	    &err, refused);
	must_refuse(svc_call(svc_client_of(c), "student", "Student.Echo", &good,
			NULL, detail(&err)),
	    &err, refused);
	/* The option is what counts. */
	assert_int_equal(svc_call(client, "student", "Student.Echo", &bad, &rsp,
			     content_type("text/x; a=b")),
	    SVC_OK);
	assert_string_equal(rsp.content_type, "text/x; a=b");
	svc_message_free(&rsp);
	/* The next one has the place of the one before. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(svc_call_async(client, "student",
				     "Student.Echo", &good, on_end, &end),
		    SVC_OK);
		gate_wait(&end.gate, ++n);
		assert_int_equal(end.code, SVC_OK);
		must_refuse(svc_call_async(client, "student", "Student.Echo",
				&bad, on_end, &end, detail(&err)),
		    &err, refused);
		must_refuse(
		    svc_call_async(client, "student", "Student.Echo", &good,
			on_end, &end, content_type(two_lines), detail(&err)),
		    &err, refused);
		must_refuse(
		    svc_call_async(svc_client_of(c), "student", "Student.Echo",
			&good, on_end, &end, detail(&err)),
		    &err, refused);
	}
	assert_int_equal(gate_count(&end.gate), n);
	svc_free(c);
	svc_free(s);
}

static void
of_replies(void **state)
{
	(void)state;
	static const char text[] = "the reply of Student.Echo: content type "
				   "\"text/plain\\x0d\\x0ax: y\"" RULE;
	struct svc_service *s = make("student", NULL);
	struct svc_error err = {0};
	struct end end = {0};
	gate_init(&end.gate);
	svc_handle(s, "Student.Echo", answers, NULL);
	must_start(s);
	struct svc_client *client = svc_client_of(s);
	must_refuse(svc_call(client, "student", "Student.Echo", &good, NULL,
			header("bad", "1"), detail(&err)),
	    &err, text);
	must_refuse(svc_call(client, "student", "Student.Echo", &good, NULL,
			header("print", "1"), detail(&err)),
	    &err, text);
	assert_int_equal(svc_call_async(client, "student", "Student.Echo",
			     &good, on_end, &end, header("bad", "1")),
	    SVC_OK);
	gate_wait(&end.gate, 1);
	must_refuse(end.code, &end.err, text);
	svc_free(s);
}

static svc_err
streams(struct svc_stream *stream, void *arg)
{
	struct svc_message m;
	struct svc_error *err = arg;
	svc_err code = svc_stream_recv(stream, &m);
	if (code != SVC_OK || svc_stream_send(stream, &bad) != SVC_E_INVAL)
		return SVC_E_INTERNAL;
	svc_stream_error(stream, err);
	return svc_stream_send(stream, &m);
}

static void
of_streams(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	struct svc_error err = {0}, far = {0};
	svc_handle_stream(s, "Student.Streams", streams, &far);
	must_start(s);
	struct svc_client *client = svc_client_of(s);
	assert_null(svc_open(client, "student", "Student.Streams",
	    content_type(two_lines), detail(&err)));
	must_refuse(err.code, &err, refused);
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Streams");
	assert_non_null(stream);
	svc_err code = svc_stream_send(stream, &bad);
	svc_stream_error(stream, &err);
	must_refuse(code, &err, refused);
	/* The stream goes on, here and there. */
	must_send(stream, "one");
	must_receive(stream, "one");
	must_refuse(far.code, &far, refused);
	svc_stream_free(stream);
	svc_free(s);
}

static void
of_events(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	struct svc_error err = {0};
	must_start(s);
	must_refuse(svc_publish_detail(s, "topic", &bad, &err), &err, refused);
	assert_int_equal(svc_publish(s, "topic", &good), SVC_OK);
	svc_free(s);
}

/* Says the type that it was sent, and none itself. */
static svc_err
says_type(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	rsp->content_type = "";
	rsp->data = svc_printf(
	    call, "%s", req->content_type != NULL ? req->content_type : "none");
	rsp->len = strlen(rsp->data);
	return SVC_OK;
}

static svc_err
says_stream_type(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message m;
	svc_err code;
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK) {
		m.content_type = "";
		code = svc_stream_send(stream, &m);
		if (code != SVC_OK)
			break;
	}
	return code;
}

static void
an_empty_one_says_nothing(void **state)
{
	(void)state;
	struct svc_service *s =
	    make("student", MORE(codec("application/octet-stream")));
	struct svc_message req = {.content_type = ""}, rsp;
	svc_handle(s, "Student.Type", says_type, NULL);
	svc_handle_stream(s, "Student.Types", says_stream_type, NULL);
	must_start(s);
	struct svc_client *client = svc_client_of(s);
	assert_int_equal(
	    svc_call(client, "student", "Student.Type", &req, &rsp), SVC_OK);
	assert_string_equal(rsp.data, "application/octet-stream");
	assert_string_equal(rsp.content_type, "application/octet-stream");
	svc_message_free(&rsp);
	struct svc_stream *stream = svc_open(
	    client, "student", "Student.Types", content_type("text/plain"));
	for (int i = 0; i < 2; i++) {
		must(stream, svc_stream_send(stream, &req));
		must(stream, svc_stream_recv(stream, &rsp));
		assert_string_equal(rsp.content_type, "text/plain");
	}
	svc_stream_free(stream);
	svc_free(s);
}

static void
of_a_program(void **state)
{
	(void)state;
	static char flag[] = "--codec=application/json;\nx: y";
	char *argv[] = {flag, flag, NULL};
	struct svc_service *s = make("student", NULL);
	assert_int_equal(svc_init(s, 2, argv), SVC_E_INVAL);
	assert_string_equal(svc_error_text(s),
	    "--codec: content type \"application/json;\\x0ax: y\"" RULE);
	svc_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(of_requests),
	    TEST(of_replies),
	    TEST(of_streams),
	    TEST(of_events),
	    TEST(an_empty_one_says_nothing),
	    TEST(of_a_program),
	};
	int failed = 0;
	EACH_TRANSPORT(failed, tests);
	return failed;
}
