/* SPDX-License-Identifier: Apache-2.0 */
/* Wrappers around calls of both kinds, handlers and events. */
#include "service_test.h"

static char order[128];
static pthread_mutex_t order_lock = PTHREAD_MUTEX_INITIALIZER;

static void
add_order(const char *who)
{
	pthread_mutex_lock(&order_lock);
	size_t len = strlen(order);
	snprintf(order + len, sizeof(order) - len, "%s", who);
	pthread_mutex_unlock(&order_lock);
}

struct end {
	struct gate gate;
	svc_err code;
	char text[256], data[64];
};

static void
on_end(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct end *end = arg;
	add_order("!");
	end->code = code;
	snprintf(end->text, sizeof(end->text), "%s", detail->text);
	snprintf(end->data, sizeof(end->data), "%.*s", (int)rsp->len,
	    rsp->data != NULL ? (const char *)rsp->data : "");
	gate_add(&end->gate);
}

static svc_err
echo(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	add_order("*");
	const char *text = svc_call_header(call, "fail");
	if (text != NULL)
		return svc_fail(call, SVC_E_ABORTED, "%s", text);
	const char *token = svc_call_header(call, "token");
	if (token != NULL)
		return svc_reply_text(call, rsp, NULL, "%s", token);
	rsp->data = req->data;
	rsp->len = req->len;
	return SVC_OK;
}

/* ------------------------------------------------------------------ calls */

/* Sees begin and end of every call. */
static svc_err
trace_end(svc_err code, const struct svc_message *rsp, struct svc_error *err,
    void *arg)
{
	(void)rsp;
	add_order(arg);
	if (code != SVC_E_ABORTED || ((const char *)arg)[0] != 'y')
		return code;
	/* It may change what the caller hears. */
	return strcmp(err->text, "nothing") == 0
		   ? SVC_OK
		   : svc_error_set(err, SVC_E_RANGE, "changed by y");
}

static svc_err
trace(const struct svc_outgoing *call, svc_call_next next, void *next_arg,
    void *arg)
{
	add_order(arg);
	return svc_call_then(call, next, next_arg, trace_end, arg);
}

/* Adds a header to every call. */
static svc_err
sign(const struct svc_outgoing *call, svc_call_next next, void *next_arg,
    void *arg)
{
	struct svc_headers *headers = svc_headers_copy(call->req->headers);
	assert_int_equal(svc_headers_set(headers, "token", arg), SVC_OK);
	struct svc_message req = *call->req;
	req.headers = headers;
	struct svc_outgoing signed_call = *call;
	signed_call.req = &req;
	svc_err code = next(&signed_call, next_arg);
	svc_headers_destroy(headers);
	return code;
}

static svc_err
stop(const struct svc_outgoing *call, svc_call_next next, void *next_arg,
    void *arg)
{
	(void)arg;
	if (svc_headers_get(call->req->headers, "stop") == NULL)
		return next(call, next_arg);
	return svc_error_set(call->err, SVC_E_DENIED, "stopped on its way");
}

static void
wrappers_see_both_kinds_of_calls(void **state)
{
	(void)state;
	static char y[] = "y", z[] = "z", secret[] = "secret";
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_service *c =
	    make("caller", MORE(wrap_call(trace, y), wrap_call(trace, z),
			       wrap_call(stop, NULL), wrap_call(sign, secret)));
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct svc_client *client = svc_client_of(c);
	struct end end = {0};
	gate_init(&end.gate);
	struct svc_error err = {0};
	struct svc_message rsp;

	order[0] = '\0';
	assert_int_equal(
	    svc_call(client, "student", "Student.Echo", NULL, &rsp), SVC_OK);
	assert_string_equal(rsp.data, "secret");
	svc_message_free(&rsp);
	assert_string_equal(order, "yz*zy");
	order[0] = '\0';
	assert_int_equal(svc_call_async(client, "student", "Student.Echo", NULL,
			     on_end, &end),
	    SVC_OK);
	gate_wait(&end.gate, 1);
	assert_string_equal(end.data, "secret");
	assert_string_equal(order, "yz*zy!");

	order[0] = '\0';
	assert_int_equal(svc_call(client, "student", "Student.Echo", NULL, NULL,
			     header("fail", "1"), detail(&err)),
	    SVC_E_RANGE);
	assert_string_equal(err.text, "changed by y");
	assert_string_equal(order, "yz*zy");
	order[0] = '\0';
	err.text[0] = '\0';
	assert_int_equal(svc_call_async(client, "student", "Student.Echo", NULL,
			     on_end, &end, header("fail", "1"), detail(&err)),
	    SVC_OK);
	gate_wait(&end.gate, 2);
	assert_int_equal(end.code, SVC_E_RANGE);
	assert_string_equal(end.text, "changed by y");
	assert_string_equal(err.text, "changed by y");
	assert_int_equal(err.code, SVC_E_RANGE);
	assert_string_equal(order, "yz*zy!");
	/* Also to the better. */
	assert_int_equal(svc_call_async(client, "student", "Student.Echo", NULL,
			     on_end, &end, header("fail", "nothing")),
	    SVC_OK);
	gate_wait(&end.gate, 3);
	assert_int_equal(end.code, SVC_OK);
	assert_string_equal(end.text, "");

	/* What is stopped has ended for those further out, and `done` of the
	 * call never runs. */
	order[0] = '\0';
	assert_int_equal(svc_call(client, "student", "Student.Echo", NULL, NULL,
			     header("stop", "1"), detail(&err)),
	    SVC_E_DENIED);
	assert_string_equal(err.text, "stopped on its way");
	assert_string_equal(order, "yzzy");
	order[0] = '\0';
	err.text[0] = '\0';
	assert_int_equal(svc_call_async(client, "student", "Student.Echo", NULL,
			     on_end, &end, header("stop", "1"), detail(&err)),
	    SVC_E_DENIED);
	assert_string_equal(err.text, "stopped on its way");
	assert_string_equal(order, "yzzy");
	/* What is no call at all does not come to them. */
	order[0] = '\0';
	assert_int_equal(
	    svc_call(client, "student", NULL, NULL, NULL), SVC_E_INVAL);
	assert_int_equal(
	    svc_call_async(client, NULL, "Student.Echo", NULL, on_end, &end),
	    SVC_E_INVAL);
	assert_string_equal(order, "");
	svc_free(c);
	assert_int_equal(gate_count(&end.gate), 3);
	svc_free(s);
}

/* ------------------------------------------------------------------- events
 */

struct heard {
	struct gate gate;
	char text[64];
};

static svc_err
hear(struct svc_event *event, void *arg)
{
	struct heard *heard = arg;
	const struct svc_message *message = svc_event_message(event);
	add_order("*");
	snprintf(heard->text, sizeof(heard->text), "%.*s %s", (int)message->len,
	    (const char *)message->data,
	    svc_event_header(event, "token") != NULL
		? svc_event_header(event, "token")
		: "unsigned");
	gate_add(&heard->gate);
	return SVC_OK;
}

static svc_err
around_event(
    struct svc_event *event, svc_event_handler next, void *next_arg, void *arg)
{
	add_order(arg);
	svc_err code = next(event, next_arg);
	add_order(arg);
	return code;
}

static struct gate dropped;

static svc_err
drop(struct svc_event *event, svc_event_handler next, void *next_arg, void *arg)
{
	(void)arg;
	if (svc_event_header(event, "drop") == NULL)
		return next(event, next_arg);
	gate_add(&dropped);
	return SVC_OK; /* acknowledged, and nobody has heard it */
}

static char sent[16]; /* the wrappers that events passed on their way out */

static svc_err
sign_event(const struct svc_publishing *event, svc_publish_next next,
    void *next_arg, void *arg)
{
	size_t len = strlen(sent);
	snprintf(sent + len, sizeof(sent) - len, "%s", (const char *)arg);
	if (strcmp(event->topic, "secret") == 0)
		return svc_error_set(
		    event->err, SVC_E_DENIED, "not to be told");
	struct svc_headers *headers = svc_headers_copy(event->message->headers);
	assert_int_equal(svc_headers_set(headers, "token", arg), SVC_OK);
	struct svc_message message = *event->message;
	message.headers = headers;
	struct svc_publishing changed = *event;
	changed.message = &message;
	svc_err code = next(&changed, next_arg);
	svc_headers_destroy(headers);
	return code;
}

static void
events_have_wrappers_on_both_sides(void **state)
{
	(void)state;
	static char a[] = "a", b[] = "b", p[] = "p", q[] = "q";
	struct heard heard = {0};
	gate_init(&heard.gate);
	gate_init(&dropped);
	struct svc_option more[] = {
	    {SVC_OPTION_BROKER, "memory", registry_name, 0, 0, 0, 0},
	    SVC_OPT_wrap_publish(sign_event, p),
	    SVC_OPT_wrap_publish(sign_event, q),
	    SVC_OPT_wrap_subscribe(drop, NULL),
	    SVC_OPT_wrap_subscribe(around_event, a),
	    SVC_OPT_wrap_subscribe(around_event, b), SVC_OPT_end()};
	struct svc_service *s = make("student", more);
	assert_int_equal(svc_subscribe(s, "greet", hear, &heard), SVC_OK);
	must_start(s);
	struct svc_message message = {.data = "hi", .len = 2};
	struct svc_error err = {0};
	order[0] = sent[0] = '\0';
	assert_int_equal(
	    svc_publish_detail(s, "greet", &message, &err), SVC_OK);
	gate_wait(&heard.gate, 1);
	assert_string_equal(heard.text, "hi q"); /* the inner one was last */
	struct svc_headers *headers = svc_headers_create();
	svc_headers_set(headers, "drop", "1");
	message.headers = headers;
	assert_int_equal(
	    svc_publish_detail(s, "greet", &message, &err), SVC_OK);
	gate_wait(&dropped, 1);
	svc_headers_destroy(headers);
	message.headers = NULL;
	assert_int_equal(
	    svc_publish_detail(s, "secret", &message, &err), SVC_E_DENIED);
	assert_string_equal(err.text, "not to be told");
	svc_free(s);
	assert_int_equal(gate_count(&heard.gate), 1);
	assert_string_equal(order, "ab*ba");
	assert_string_equal(sent, "pqpqp");
}

/* ------------------------------------------------------------------ streams
 */

static svc_err
echo_stream(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message m;
	svc_err code;
	add_order("*");
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK &&
	       (code = svc_stream_send(stream, &m)) == SVC_OK)
		;
	return code;
}

static svc_err
around_stream(struct svc_stream *stream, svc_stream_handler next,
    void *next_arg, void *arg)
{
	add_order(arg);
	if (svc_stream_header(stream, "token") == NULL)
		return svc_fail(
		    svc_stream_call(stream), SVC_E_UNAUTHENTICATED, "no token");
	svc_err code = next(stream, next_arg);
	add_order(arg);
	return code;
}

static struct svc_stream *
around_open(const struct svc_opening *opening, svc_open_next next,
    void *next_arg, void *arg)
{
	add_order(arg);
	if (strcmp(opening->endpoint, "Student.Secret") == 0) {
		svc_error_set(opening->err, SVC_E_DENIED, "not for you");
		return NULL;
	}
	struct svc_option options[] = {
	    SVC_CALL_OPT_header("token", arg), SVC_OPT_end()};
	struct svc_opening changed = *opening;
	if (((const char *)arg)[0] == 'q')
		changed.options = options;
	return next(&changed, next_arg);
}

static void
streams_have_wrappers_on_both_sides(void **state)
{
	(void)state;
	static char a[] = "a", b[] = "b", p[] = "p", q[] = "q";
	struct svc_service *s =
	    make("student", MORE(wrap_stream_handler(around_stream, a),
				wrap_stream_handler(around_stream, b)));
	svc_handle_stream(s, "Student.Echo", echo_stream, NULL);
	must_start(s);
	struct svc_service *c = make("caller",
	    MORE(wrap_open(around_open, p), wrap_open(around_open, q)));
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	order[0] = '\0';
	struct svc_error err = {0};
	struct svc_stream *stream =
	    svc_open(svc_client_of(c), "student", "Student.Echo", detail(&err));
	assert_string_equal(err.text, "");
	assert_non_null(stream);
	struct svc_message m = {.data = "hi", .len = 2};
	assert_int_equal(svc_stream_send(stream, &m), SVC_OK);
	assert_int_equal(svc_stream_recv(stream, &m), SVC_OK);
	assert_string_equal(m.data, "hi");
	assert_int_equal(svc_stream_close_send(stream), SVC_OK);
	assert_int_equal(svc_stream_recv(stream, &m), SVC_E_EOF);
	svc_stream_free(stream);
	assert_string_equal(order, "pqab*ba");
	/* Either side may refuse. */
	assert_null(svc_open(
	    svc_client_of(c), "student", "Student.Secret", detail(&err)));
	assert_int_equal(err.code, SVC_E_DENIED);
	assert_string_equal(err.text, "not for you");
	stream = svc_open(svc_client_of(s), "student", "Student.Echo");
	assert_non_null(stream);
	assert_int_equal(svc_stream_recv(stream, &m), SVC_E_UNAUTHENTICATED);
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

/* ------------------------------------- what is left away, changed or doubled
 */

enum left { LEFT_REQ, LEFT_ERR, LEFT_RSP, LEFT_ALL, LEFT_END };

/* Leaves away what svc_call need not have either. */
static svc_err
leave_away(const struct svc_outgoing *call, svc_call_next next, void *next_arg,
    void *arg)
{
	enum left left = *(enum left *)arg;
	struct svc_outgoing changed = *call;
	if (left == LEFT_REQ || left == LEFT_ALL)
		changed.req = NULL;
	if (left == LEFT_ERR || left == LEFT_ALL)
		changed.err = NULL;
	if (left == LEFT_RSP || left == LEFT_ALL)
		changed.rsp = NULL;
	return next(&changed, next_arg);
}

static struct svc_stream *
leave_open(const struct svc_opening *opening, svc_open_next next,
    void *next_arg, void *arg)
{
	struct svc_opening changed = *opening;
	changed.err = NULL;
	return arg != NULL ? NULL : next(&changed, next_arg);
}

static svc_err
leave_event(const struct svc_publishing *event, svc_publish_next next,
    void *next_arg, void *arg)
{
	(void)arg;
	struct svc_publishing changed = {.topic = event->topic};
	return next(&changed, next_arg);
}

static void
a_wrapper_may_leave_away_what_a_caller_may(void **state)
{
	(void)state;
	static char stops[] = "stops";
	enum left left;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_option more[] = {
	    {SVC_OPTION_BROKER, "memory", registry_name, 0, 0, 0, 0},
	    SVC_OPT_wrap_call(leave_away, &left),
	    SVC_OPT_wrap_open(leave_open, NULL),
	    SVC_OPT_wrap_publish(leave_event, NULL), SVC_OPT_end()};
	struct svc_service *c = make("caller", more);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct svc_client *client = svc_client_of(c);
	struct svc_message req = {.data = "Ada", .len = 3}, rsp;
	struct svc_error err;
	struct end end = {0};
	gate_init(&end.gate);
	for (left = LEFT_REQ; left < LEFT_END; left++) {
		assert_int_equal(
		    svc_call(client, "student", "Student.Echo", &req, &rsp),
		    SVC_OK);
		svc_message_free(&rsp);
		assert_int_equal(svc_call(client, "student", "Student.None",
				     &req, &rsp, detail(&err)),
		    SVC_E_UNIMPLEMENTED);
		assert_int_equal(err.code, SVC_E_UNIMPLEMENTED);
		assert_int_equal(svc_call_async(client, "student",
				     "Student.Echo", &req, on_end, &end),
		    SVC_OK);
		gate_wait(&end.gate, (int)left + 1);
		assert_int_equal(end.code, SVC_OK);
	}
	struct svc_stream *stream = svc_open(client, "student", "Student.Echo");
	assert_non_null(stream);
	svc_stream_free(stream);
	assert_null(svc_open(client, "nobody", "Student.Echo", detail(&err)));
	assert_int_not_equal(err.code, SVC_OK);
	assert_int_equal(svc_publish_detail(c, "greet", &req, &err), SVC_OK);
	svc_free(c);

	/* Who stops a stream and does not say why has not opened it well. */
	c = make("caller", MORE(wrap_open(leave_open, stops)));
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	assert_null(svc_open(
	    svc_client_of(c), "student", "Student.Echo", detail(&err)));
	assert_int_equal(err.code, SVC_E_UNKNOWN);
	svc_free(c);
	svc_free(s);
}

/* Hands on another request than the one that came. */
static svc_err
translate(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, svc_handler next, void *next_arg, void *arg)
{
	struct svc_headers *headers = svc_headers_copy(req->headers);
	assert_int_equal(svc_headers_set(headers, "token", arg), SVC_OK);
	struct svc_message changed = *req;
	changed.headers = headers;
	svc_err code = next(call, &changed, rsp, next_arg);
	svc_headers_destroy(headers);
	/* The call is again what it was. */
	assert_ptr_equal(svc_call_header(call, "token"),
	    svc_headers_get(req->headers, "token"));
	return code;
}

static void
a_handler_sees_the_request_that_it_was_handed(void **state)
{
	(void)state;
	static char outer[] = "outer", inner[] = "inner";
	struct svc_service *s =
	    make("student", MORE(wrap_handler(translate, outer),
				wrap_handler(translate, inner)));
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_message rsp;
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Echo",
			     NULL, &rsp, header("token", "mine")),
	    SVC_OK);
	assert_string_equal(rsp.data, "inner");
	svc_message_free(&rsp);
	svc_free(s);
}

/* Calls twice; of two answers the caller gets the second. */
static svc_err
call_twice(const struct svc_outgoing *call, svc_call_next next, void *next_arg,
    void *arg)
{
	(void)arg;
	svc_err code = next(call, next_arg);
	return code == SVC_OK ? next(call, next_arg) : code;
}

static void
a_wrapper_may_call_twice(void **state)
{
	(void)state;
	struct svc_service *s =
	    make("student", MORE(wrap_call(call_twice, NULL)));
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_message rsp;
	order[0] = '\0';
	/* The leak checker looks at the first answer. */
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Echo",
			     NULL, &rsp, header("token", "mine")),
	    SVC_OK);
	assert_string_equal(rsp.data, "mine");
	assert_string_equal(order, "**");
	svc_message_free(&rsp);
	svc_free(s);
}

/* Goes on, and says all the same that it has failed. */
static svc_err
begin_and_fail(const struct svc_outgoing *call, svc_call_next next,
    void *next_arg, void *arg)
{
	(void)arg;
	svc_err code = next(call, next_arg);
	return code == SVC_OK ? svc_error_set(call->err, SVC_E_ABORTED, "no")
			      : code;
}

static int
times(char who)
{
	int n = 0;
	for (const char *at = order; *at != '\0'; at++)
		n += *at == who;
	return n;
}

static void
must_be_told_once(const struct svc_option *wrappers)
{
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_service *c = make("caller", wrappers);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct end end = {0};
	gate_init(&end.gate);
	order[0] = '\0';
	assert_int_equal(
	    svc_call_async(svc_client_of(c), "student", "Student.Echo", NULL,
		on_end, &end, header("token", "mine")),
	    SVC_OK);
	gate_wait(&end.gate, 1);
	svc_free(c);
	svc_free(s);
	assert_int_equal(end.code, SVC_OK);
	assert_string_equal(end.data, "mine");
	assert_int_equal(times('*'), 1);
	assert_int_equal(times('!'), 1);
}

static void
an_asynchronous_call_is_begun_and_told_once(void **state)
{
	(void)state;
	static char y[] = "y", z[] = "z";
	must_be_told_once(MORE(wrap_call(call_twice, NULL)));
	must_be_told_once(MORE(wrap_call(begin_and_fail, NULL)));
	must_be_told_once(
	    MORE(wrap_call(trace, z), wrap_call(call_twice, NULL)));
	assert_int_equal(times('z'), 2);
	must_be_told_once(
	    MORE(wrap_call(trace, z), wrap_call(begin_and_fail, NULL)));
	assert_int_equal(times('z'), 2);
	must_be_told_once(MORE(wrap_call(trace, z), wrap_call(call_twice, NULL),
	    wrap_call(trace, y)));
	assert_int_equal(times('z'), 2);
	assert_int_equal(times('y'), 4);
}

static void
a_call_that_is_stopped_has_no_headers_of_another(void **state)
{
	(void)state;
	struct svc_service *s = make("student", MORE(wrap_call(stop, NULL)));
	must_start(s);
	struct svc_headers *headers = svc_headers_create();
	assert_int_equal(svc_headers_set(headers, "old", "1"), SVC_OK);
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Echo", NULL, NULL,
		header("stop", "1"), reply_headers(headers)),
	    SVC_E_DENIED);
	assert_int_equal(svc_headers_count(headers), 0);
	svc_headers_destroy(headers);
	svc_free(s);
}

static svc_err
leaves_request_away(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, svc_handler next, void *next_arg, void *arg)
{
	(void)req, (void)arg;
	return next(call, NULL, rsp, next_arg);
}

static svc_err
has_request(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	assert_non_null(req);
	return svc_reply_text(
	    call, rsp, NULL, "%zu %d", req->len, req->data != NULL);
}

static void
a_handler_has_always_a_request(void **state)
{
	(void)state;
	struct svc_service *s =
	    make("student", MORE(wrap_handler(leaves_request_away, NULL),
				wrap_handler(leaves_request_away, NULL)));
	struct svc_message req = {"text/plain", "Ada", 3, NULL}, rsp;
	svc_handle(s, "Student.Has", has_request, NULL);
	must_start(s);
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Has", &req, &rsp),
	    SVC_OK);
	assert_string_equal(rsp.data, "0 0");
	svc_message_free(&rsp);
	svc_free(s);
}

static struct svc_stream *
leaves_error_away(const struct svc_opening *opening, svc_open_next next,
    void *next_arg, void *arg)
{
	(void)arg;
	struct svc_opening changed = *opening;
	changed.err = NULL;
	return next(&changed, next_arg);
}

static void
why_a_stream_is_not_opened_is_told(void **state)
{
	(void)state;
	struct svc_service *c =
	    make("caller", MORE(wrap_open(leaves_error_away, NULL),
			       wrap_open(leaves_error_away, NULL)));
	struct svc_error err = {0};
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	assert_null(
	    svc_open(svc_client_of(c), "nobody", "Student.Echo", detail(&err)));
	assert_int_equal(err.code, SVC_E_NOT_FOUND);
	assert_string_equal(err.text, "service not found: nobody");
	svc_free(c);
}

static void
a_wrapper_needs_a_function(void **state)
{
	(void)state;
	static const struct {
		int kind;
		const char *text;
	} kinds[] = {
	    {SVC_OPTION_WRAP_CALL, "option wrap_call() needs a function"},
	    {SVC_OPTION_WRAP_HANDLER, "option wrap_handler() needs a function"},
	    {SVC_OPTION_WRAP_PUBLISH, "option wrap_publish() needs a function"},
	    {SVC_OPTION_WRAP_SUBSCRIBE,
		"option wrap_subscribe() needs a function"},
	    {SVC_OPTION_WRAP_STREAM_HANDLER,
		"option wrap_stream_handler() needs a function"},
	    {SVC_OPTION_WRAP_OPEN, "option wrap_open() needs a function"},
	};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct svc_option more[] = {
		    {kinds[i].kind, 0, 0, 0, 0, 0, 0}, SVC_OPT_end()};
		struct svc_service *s = make("student", more);
		assert_int_equal(svc_init(s, 0, NULL), SVC_E_INVAL);
		assert_string_equal(svc_error_text(s), kinds[i].text);
		svc_free(s);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(wrappers_see_both_kinds_of_calls),
	    TEST(events_have_wrappers_on_both_sides),
	    TEST(streams_have_wrappers_on_both_sides),
	    TEST(a_wrapper_may_leave_away_what_a_caller_may),
	    TEST(a_handler_sees_the_request_that_it_was_handed),
	    TEST(a_wrapper_may_call_twice),
	    TEST(an_asynchronous_call_is_begun_and_told_once),
	    TEST(a_call_that_is_stopped_has_no_headers_of_another),
	    TEST(a_handler_has_always_a_request),
	    TEST(why_a_stream_is_not_opened_is_told),
	    TEST(a_wrapper_needs_a_function),
	};
	static const char *const transports[] = {"memory", "tcp", "nng"};
	int failed = 0;
	for (size_t i = 0; i < 3; i++) {
		transport_name = transports[i];
		failed += cmocka_run_group_tests_name(
		    transport_name, tests, NULL, NULL);
	}
	return failed;
}
