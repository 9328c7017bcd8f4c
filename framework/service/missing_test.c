/* SPDX-License-Identifier: Apache-2.0 */
/* What a program leaves out is an error that says so, and never a crash. */
#include "stream_test.h"

#include <svc/codec.h>

static const struct svc_message no_data = {.data = NULL, .len = 10};
static const struct svc_message x = {.data = "x", .len = 1};

static svc_err
answers_nothing(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call, (void)req, (void)arg;
	rsp->len = 77;
	return SVC_OK;
}

static svc_err
sends_nothing(struct svc_stream *stream, void *arg)
{
	(void)arg;
	/* The code and text of what failed last are the stream's end. */
	return svc_stream_send(stream, &no_data);
}

static svc_err
hears(struct svc_event *event, void *arg)
{
	(void)event, (void)arg;
	return SVC_OK;
}

static svc_err
spoils(const struct svc_outgoing *call, svc_call_next next, void *next_arg,
    void *arg)
{
	(void)arg;
	struct svc_outgoing changed = *call;
	if (svc_headers_get(call->req->headers, "spoil") != NULL)
		changed.req = &no_data;
	return next(&changed, next_arg);
}

struct end {
	struct gate gate;
	svc_err code;
	struct svc_error err;
};

static void
on_end(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct end *end = arg;
	(void)rsp;
	end->code = code;
	end->err = *detail;
	gate_add(&end->gate);
}

static void
must_be(svc_err code, const struct svc_error *err, const char *text)
{
	assert_int_equal(code, SVC_E_INVAL);
	assert_int_equal(err->code, SVC_E_INVAL);
	assert_string_equal(err->text, text);
}

static void
must_say(svc_err code, struct svc_stream *stream, const char *text)
{
	struct svc_error err;
	svc_stream_error(stream, &err);
	must_be(code, &err, text);
}

static void
messages_without_data(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL),
			   *c = make("caller", MORE(wrap_call(spoils, NULL)));
	struct svc_error err = {0};
	struct svc_message rsp;
	struct end end;
	gate_init(&end.gate);
	svc_handle(s, "Student.Nothing", answers_nothing, NULL);
	svc_handle_stream(s, "Student.Sends", sends_nothing, NULL);
	must_start(s);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct svc_client *clients[] = {svc_client_of(s), svc_client_of(c)};
	for (size_t i = 0; i < 2; i++) {
		struct svc_client *client = clients[i];
		static const char asked[] =
		    "the request has 10 bytes but no data";
		static const char answered[] =
		    "the reply of Student.Nothing has 77 bytes but no data";
		must_be(svc_call(client, "student", "Student.Nothing", &no_data,
			    &rsp, detail(&err)),
		    &err, asked);
		must_be(svc_call_async(client, "student", "Student.Nothing",
			    &no_data, on_end, &end, detail(&err)),
		    &err, asked);
		must_be(svc_call(client, "student", "Student.Nothing", &x, &rsp,
			    detail(&err)),
		    &err, answered);
		int before = gate_count(&end.gate);
		/* The second time it takes the short way. */
		for (int n = 1; n <= 2; n++) {
			assert_int_equal(
			    svc_call_async(client, "student", "Student.Nothing",
				&x, on_end, &end),
			    SVC_OK);
			gate_wait(&end.gate, before + n);
			must_be(end.code, &end.err, answered);
		}
		struct svc_stream *stream =
		    svc_open(client, "student", "Student.Sends");
		must_say(svc_stream_send(stream, &no_data), stream,
		    "the message has 10 bytes but no data");
		must_say(svc_stream_recv(stream, &rsp), stream,
		    "the message has 10 bytes but no data");
		svc_stream_free(stream);
	}
	must_be(svc_call(clients[1], "student", "Student.Nothing", &x, &rsp,
		    header("spoil", "1"), detail(&err)),
	    &err, "the request has 10 bytes but no data");
	must_be(svc_publish_detail(s, "topic", &no_data, &err), &err,
	    "event has 10 bytes but no data");
	svc_free(c);
	svc_free(s);
}

static svc_err
echoes(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call, (void)arg;
	rsp->data = req->data;
	rsp->len = req->len;
	return SVC_OK;
}

/* An open stream goes on after a mistake. */
static void
streams(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	struct svc_error err;
	struct svc_message m;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_stream *stream =
	    svc_open(svc_client_of(s), "student", "Student.Echo");
	must_say(svc_stream_send(stream, NULL), stream, "there is no message");
	must_say(svc_stream_recv(stream, NULL), stream,
	    "there is no place for the message");
	must_say(svc_stream_set_trailer(stream, NULL, "x"), stream,
	    "trailer \"\": a name has 1 to 255 printable characters without "
	    "space, ':' and '=', a value is one line");
	assert_null(svc_stream_header(stream, NULL));
	assert_null(svc_stream_trailer(stream, NULL));
	must_send(stream, "x");
	must_receive(stream, "x");
	assert_null(svc_stream_header(stream, NULL));
	svc_stream_free(stream);
	svc_free(s);

	assert_int_equal(svc_stream_send(NULL, &x), SVC_E_INVAL);
	assert_int_equal(svc_stream_recv(NULL, &m), SVC_E_INVAL);
	assert_int_equal(svc_stream_recv(NULL, NULL), SVC_E_INVAL);
	assert_int_equal(svc_stream_close_send(NULL), SVC_E_INVAL);
	assert_int_equal(svc_stream_set_header(NULL, "a", "b"), SVC_E_INVAL);
	assert_int_equal(svc_stream_set_trailer(NULL, "a", "b"), SVC_E_INVAL);
	must_be(svc_stream_error(NULL, &err), &err, "there is no stream");
	assert_int_equal(svc_stream_error(NULL, NULL), SVC_E_INVAL);
	assert_true(svc_stream_cancelled(NULL));
	assert_null(svc_stream_header(NULL, "a"));
	assert_null(svc_stream_trailer(NULL, "a"));
	assert_null(svc_stream_call(NULL));
	svc_stream_forget(NULL);
	svc_stream_cancel(NULL);
	svc_stream_free(NULL);
}

static void
names_and_functions(void **state)
{
	(void)state;
	static const char names[] =
	    "a call needs the names of a service and an endpoint";
	struct svc_service *s = make("student", NULL);
	struct svc_error err = {0};
	assert_int_equal(svc_handle(s, NULL, echoes, NULL), SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s), "endpoint \"\" must be"));
	assert_int_equal(svc_handle(s, "A.B", NULL, NULL), SVC_E_INVAL);
	assert_string_equal(
	    svc_error_text(s), "endpoint \"A.B\" needs a function");
	assert_int_equal(svc_handle_stream(s, NULL, echo, NULL), SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s), "endpoint \"\" must be"));
	assert_int_equal(svc_handle_stream(s, "A.B", NULL, NULL), SVC_E_INVAL);
	assert_string_equal(
	    svc_error_text(s), "endpoint \"A.B\" needs a function");
	assert_int_equal(
	    svc_handle(s, "A.B", echoes, NULL, metadata("a", NULL)),
	    SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s), "metadata(\"a\")"));
	assert_int_equal(svc_subscribe(s, NULL, hears, NULL), SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s), "topic \"\" must be"));
	assert_int_equal(svc_subscribe(s, "t", NULL, NULL), SVC_E_INVAL);
	assert_string_equal(
	    svc_error_text(s), "the subscription to \"t\" needs a function");
	must_start(s);

	struct svc_client *client = svc_client_of(s);
	must_be(
	    svc_call(client, NULL, "A.B", &x, NULL, detail(&err)), &err, names);
	must_be(
	    svc_call(client, "a", NULL, &x, NULL, detail(&err)), &err, names);
	must_be(
	    svc_call_async(client, NULL, "A.B", &x, on_end, NULL, detail(&err)),
	    &err, names);
	must_be(
	    svc_call_async(client, "a", NULL, &x, on_end, NULL, detail(&err)),
	    &err, names);
	must_be(
	    svc_call_async(client, "a", "A.B", &x, NULL, NULL, detail(&err)),
	    &err, "svc_call_async needs a function that is told the end");
	assert_null(svc_open(client, NULL, "A.B", detail(&err)));
	must_be(err.code, &err, names);
	err = (struct svc_error){0};
	assert_null(svc_open(client, "a", NULL, detail(&err)));
	must_be(err.code, &err, names);
	must_be(svc_call(client, "a", "A.B", &x, NULL, header("a", NULL),
		    detail(&err)),
	    &err,
	    "header(\"a\"): a name has 1 to 255 printable characters without "
	    "space, ':' and '=', a value is one line");
	must_be(svc_publish_detail(s, NULL, &x, &err), &err,
	    "an event needs a topic");
	assert_int_equal(svc_publish(s, NULL, NULL), SVC_E_INVAL);
	svc_free(s);
}

static svc_err
loses_topic(const struct svc_publishing *event, svc_publish_next next,
    void *next_arg, void *arg)
{
	struct svc_publishing changed = *event;
	(void)arg;
	changed.topic = NULL;
	return next(&changed, next_arg);
}

static void
a_topic_behind_the_wrappers(void **state)
{
	(void)state;
	static const char empty[] = "topic \"\" is empty; ";
	struct svc_service *s = svc_new(registry(memory), transport(memory),
	    broker(memory), wrap_publish(loses_topic, NULL));
	struct svc_error err = {0};
	assert_int_equal(svc_init(s, 0, NULL), SVC_OK);
	assert_int_equal(svc_publish_detail(s, "news", &x, &err), SVC_E_INVAL);
	assert_memory_equal(err.text, empty, sizeof(empty) - 1);
	/* And without them. */
	assert_int_equal(
	    svc_broker_publish(svc_broker_of(s), NULL, &x, 0, &err),
	    SVC_E_INVAL);
	svc_free(s);
}

static void
a_service_or_a_client(void **state)
{
	(void)state;
	static const char none[] =
	    "there is no client: svc_init has not succeeded";
	struct svc_error err = {0};
	char name[] = "program";
	char *argv[] = {name, NULL, name, NULL};
	assert_int_equal(svc_init(NULL, 0, NULL), SVC_E_NOMEM);
	assert_int_equal(svc_start(NULL), SVC_E_NOMEM);
	assert_int_equal(svc_run(NULL), SVC_E_NOMEM);
	assert_int_equal(svc_handle(NULL, "A.B", echoes, NULL), SVC_E_NOMEM);
	assert_int_equal(
	    svc_handle_stream(NULL, "A.B", echo, NULL), SVC_E_NOMEM);
	assert_int_equal(svc_subscribe(NULL, "t", hears, NULL), SVC_E_NOMEM);
	assert_int_equal(svc_publish(NULL, "t", &x), SVC_E_NOMEM);
	assert_string_equal(svc_error_text(NULL), "out of memory");
	assert_null(svc_options_of(NULL));
	assert_null(svc_client_of(NULL));
	assert_null(svc_server_of(NULL));
	assert_null(svc_registry_of(NULL));
	assert_null(svc_broker_of(NULL));
	assert_null(svc_settings_of(NULL));
	assert_false(svc_registered(NULL));
	assert_int_equal(svc_plugin_add(NULL), SVC_E_INVAL);
	svc_stop(NULL);
	svc_free(NULL);
	svc_message_free(NULL);
	assert_int_equal(svc_call(NULL, "a", "A.B", &x, NULL, detail(&err)),
	    SVC_E_PRECONDITION);
	assert_string_equal(err.text, none);
	assert_int_equal(
	    svc_call_async(NULL, "a", "A.B", &x, on_end, NULL, detail(&err)),
	    SVC_E_PRECONDITION);
	assert_string_equal(err.text, none);
	assert_null(svc_open(NULL, "a", "A.B", detail(&err)));
	assert_int_equal(err.code, SVC_E_PRECONDITION);
	assert_string_equal(err.text, none);
	/* Arguments end where the list of them does. */
	struct svc_service *s = make("student", NULL);
	assert_int_equal(svc_init(s, 3, argv), SVC_OK);
	svc_free(s);
}

static svc_err
never_next(const struct svc_outgoing *call, void *arg)
{
	(void)call, (void)arg;
	return SVC_OK;
}

static svc_err
never_ended(svc_err code, const struct svc_message *rsp, struct svc_error *err,
    void *arg)
{
	(void)rsp, (void)err, (void)arg;
	return code;
}

static void
a_call_or_an_event(void **state)
{
	(void)state;
	struct svc_message rsp = {0};
	struct svc_error err = {0};
	struct svc_outgoing out = {.err = &err};
	assert_null(svc_alloc_in(NULL, 1));
	assert_null(svc_printf(NULL, "x"));
	assert_int_equal(svc_fail(NULL, SVC_E_DENIED, "x"), SVC_E_DENIED);
	assert_int_equal(svc_reply_text(NULL, &rsp, NULL, "x"), SVC_E_INVAL);
	assert_int_equal(svc_read(NULL, &x, NULL, NULL), SVC_E_INVAL);
	assert_int_equal(svc_write(NULL, &rsp, NULL), SVC_E_INVAL);
	assert_null(svc_call_service(NULL));
	assert_string_equal(svc_call_endpoint(NULL), "");
	assert_null(svc_call_header(NULL, "a"));
	assert_int_equal(svc_call_remaining_ms(NULL), 0);
	assert_true(svc_call_cancelled(NULL));
	assert_string_equal(svc_call_peer(NULL), "");
	assert_string_equal(svc_call_identity(NULL), "");
	assert_null(svc_event_topic(NULL));
	assert_null(svc_event_message(NULL));
	assert_null(svc_event_header(NULL, "a"));
	assert_int_equal(
	    svc_call_then(NULL, never_next, NULL, never_ended, NULL),
	    SVC_E_INVAL);
	must_be(svc_call_then(&out, NULL, NULL, never_ended, NULL), &err,
	    "svc_call_then needs a call and two functions");
	err = (struct svc_error){0};
	must_be(svc_call_then(&out, never_next, NULL, NULL, NULL), &err,
	    "svc_call_then needs a call and two functions");
}

/* Each way of a handler to leave something out, and the text of that. */
static const char *const handlers_texts[] = {
    "svc_reply_text needs a message to fill",
    "svc_reply_text needs a format",
    "svc_read needs a request, a type and a place for the message",
    "svc_read needs a request, a type and a place for the message",
    "svc_read needs a request, a type and a place for the message",
    "svc_write needs an answer and a message",
    "svc_write needs an answer and a message",
};
enum { WAYS = sizeof(handlers_texts) / sizeof(handlers_texts[0]) };

static svc_err
leaves_out(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	const int *way = arg;
	/* Never looked at, because another argument is missing. */
	static const char some[64];
	const void *any = some;
	struct ProtobufCMessage *message;
	/* Without their attributes, by which the compiler refuses it. */
	char *(*print)(struct svc_call *, const char *, ...) = svc_printf;
	svc_err (*reply)(struct svc_call *, struct svc_message *, const char *,
	    const char *, ...) = svc_reply_text;
	if (svc_call_header(call, NULL) != NULL || print(call, NULL) != NULL)
		return SVC_E_INTERNAL;
	switch (*way) {
	case 0:
		return svc_reply_text(call, NULL, NULL, "x");
	case 1:
		return reply(call, rsp, NULL, NULL);
	case 2:
		return svc_read(call, NULL, any, &message);
	case 3:
		return svc_read(call, req, NULL, &message);
	case 4:
		return svc_read(call, req, any, NULL);
	case 5:
		return svc_write(call, NULL, any);
	default:
		return svc_write(call, rsp, NULL);
	}
}

static void
arguments_in_a_handler(void **state)
{
	(void)state;
	int way = 0;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Leaves", leaves_out, &way);
	must_start(s);
	for (way = 0; way < WAYS; way++) {
		struct svc_error err = {0};
		must_be(svc_call(svc_client_of(s), "student", "Student.Leaves",
			    &x, NULL, detail(&err)),
		    &err, handlers_texts[way]);
	}
	svc_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(messages_without_data),
	    TEST(streams),
	    TEST(names_and_functions),
	    TEST(a_topic_behind_the_wrappers),
	    TEST(a_service_or_a_client),
	    TEST(a_call_or_an_event),
	    TEST(arguments_in_a_handler),
	};
	int failed = 0;
	EACH_TRANSPORT(failed, tests);
	return failed;
}
