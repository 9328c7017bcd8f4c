/* SPDX-License-Identifier: Apache-2.0 */
/* Handlers that never block: over the transport "memory" they run on the thread
 * of their caller, over others as any other. */
#include "service_test.h"

static bool
in_process(void)
{
	return strcmp(transport_name, "memory") == 0;
}

/* Answers with the thread that it ran on. */
static svc_err
tell_thread(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req, (void)arg;
	pthread_t self = pthread_self();
	assert_non_null(svc_call_peer(call));
	assert_false(svc_call_cancelled(call));
	rsp->data =
	    memcpy(svc_alloc_in(call, sizeof(self)), &self, sizeof(self));
	rsp->len = sizeof(self);
	return SVC_OK;
}

static pthread_t
thread_of(struct svc_service *s, const char *endpoint)
{
	struct svc_message rsp;
	struct svc_error err = {0};
	svc_err code = svc_call(svc_client_of(s), "student", endpoint, NULL,
	    &rsp, detail(&err), timeout_ms(PATIENCE_MS));
	assert_string_equal(err.text, "");
	assert_int_equal(code, SVC_OK);
	assert_int_equal(rsp.len, sizeof(pthread_t));
	pthread_t thread;
	memcpy(&thread, rsp.data, sizeof(thread));
	svc_message_free(&rsp);
	return thread;
}

static void
they_run_on_their_callers_thread(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Quick", tell_thread, NULL, never_blocks());
	svc_handle(s, "Student.Any", tell_thread, NULL);
	must_start(s);
	/* Another service of the process is nearer than none. */
	struct svc_service *client = make("client", NULL);
	assert_int_equal(svc_init(client, 0, NULL), SVC_OK);
	struct svc_service *callers[] = {s, client};
	for (int i = 0; i < 2; i++) {
		pthread_t quick = thread_of(callers[i], "Student.Quick");
		pthread_t any = thread_of(callers[i], "Student.Any");
		assert_int_equal(
		    pthread_equal(quick, pthread_self()) != 0, in_process());
		assert_false(pthread_equal(any, pthread_self()));
	}
	svc_free(client);
	svc_free(s);
}

/* ------------------------------------------------------- what goes both ways
 */

static svc_err
refuse_or_reply(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	const char *mood = svc_call_header(call, "Mood");
	svc_headers_set(rsp->headers, "Seen", mood != NULL ? mood : "none");
	assert_in_range(svc_call_remaining_ms(call), 1, PATIENCE_MS);
	if (req->len == 0)
		return svc_fail(call, SVC_E_NOT_FOUND, "nobody is named so");
	return svc_reply_text(call, rsp, "text/plain", "%.*s, %s",
	    (int)req->len, (const char *)req->data, req->content_type);
}

static void
replies_errors_and_headers_arrive(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Name", refuse_or_reply, NULL, never_blocks());
	must_start(s);
	struct svc_headers *headers = svc_headers_create();
	struct svc_message req = {"text/plain", "Ada", 3, NULL}, rsp;
	struct svc_error err = {0};
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Name",
			     &req, &rsp, header("mood", "good"),
			     reply_headers(headers), timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	assert_string_equal(rsp.data, "Ada, text/plain");
	assert_string_equal(rsp.content_type, "text/plain");
	assert_string_equal(svc_headers_get(rsp.headers, "Seen"), "good");
	assert_string_equal(svc_headers_get(headers, "Seen"), "good");
	svc_message_free(&rsp);
	req.len = 0;
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Name", &req, &rsp,
		detail(&err), reply_headers(headers), timeout_ms(PATIENCE_MS)),
	    SVC_E_NOT_FOUND);
	assert_string_equal(err.text, "nobody is named so");
	assert_string_equal(svc_headers_get(headers, "Seen"), "none");
	svc_headers_destroy(headers);
	svc_free(s);
}

static svc_err
no_code_of_ours(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call, (void)req, (void)rsp;
	return (svc_err)(*(int *)arg);
}

/* As over a connection: a number that is none of the list is unknown. */
static void
a_number_that_is_no_code_is_unknown(void **state)
{
	(void)state;
	static int numbers[] = {-1, 17, 999};
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		struct svc_service *s = make("student", NULL);
		struct svc_error err = {0};
		svc_handle(s, "Student.Name", no_code_of_ours, &numbers[i],
		    never_blocks());
		must_start(s);
		assert_int_equal(
		    svc_call(svc_client_of(s), "student", "Student.Name", NULL,
			NULL, detail(&err), timeout_ms(PATIENCE_MS)),
		    SVC_E_UNKNOWN);
		assert_int_equal(err.code, SVC_E_UNKNOWN);
		assert_string_equal(err.text, "unknown error");
		svc_free(s);
	}
}

/* ----------------------------------------------------------------- wrappers */

static svc_err
count_handler(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, svc_handler next, void *next_arg, void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
	return next(call, req, rsp, next_arg);
}

static svc_err
count_call(const struct svc_outgoing *out, svc_call_next next, void *next_arg,
    void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
	return next(out, next_arg);
}

static void
wrappers_of_both_sides_see_them(void **state)
{
	(void)state;
	atomic_int handled = 0, called = 0;
	struct svc_service *s =
	    make("student", MORE(wrap_handler(count_handler, &handled),
				wrap_call(count_call, &called), end()));
	svc_handle(s, "Student.Quick", tell_thread, NULL, never_blocks());
	must_start(s);
	thread_of(s, "Student.Quick");
	thread_of(s, "Student.Quick");
	assert_int_equal(handled, 2);
	assert_int_equal(called, 2);
	svc_free(s);
}

/* ---------------------------------------------------------- calls in calls */

#define DEEP 30

struct descent {
	pthread_t caller;
	atomic_int here; /* of the calls on the caller's thread */
};

/* Calls itself as often as the request says. */
static svc_err
descend(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct descent *descent = arg;
	if (pthread_equal(descent->caller, pthread_self()))
		atomic_fetch_add(&descent->here, 1);
	uint8_t left = *(const uint8_t *)req->data;
	if (left == 0)
		return svc_reply_text(call, rsp, "text/plain", "ground");
	uint8_t less = left - 1;
	struct svc_message inner = {NULL, &less, 1, NULL}, answer;
	svc_err code = svc_call(svc_client_of(svc_call_service(call)),
	    "student", "Student.Descend", &inner, &answer, within(call));
	if (code == SVC_OK)
		code = svc_reply_text(
		    call, rsp, "text/plain", "%s", (const char *)answer.data);
	svc_message_free(&answer);
	return code;
}

/* A thread's stack ends somewhere. */
static void
calls_within_calls_leave_the_stack_in_time(void **state)
{
	(void)state;
	struct descent descent = {.caller = pthread_self()};
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Descend", descend, &descent, never_blocks());
	must_start(s);
	uint8_t left = DEEP;
	struct svc_message req = {NULL, &left, 1, NULL}, rsp;
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Descend", &req, &rsp,
		timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	assert_string_equal(rsp.data, "ground");
	svc_message_free(&rsp);
	if (in_process())
		assert_in_range(descent.here, 2, DEEP / 2);
	else
		assert_int_equal(descent.here, 0);
	svc_free(s);
}

/* Says by its answer whether the loop that it began on is still its own after
 * a call within. */
static svc_err
call_quick(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req, (void)arg;
	struct svc_message answer;
	svc_err code = svc_call(svc_client_of(svc_call_service(call)),
	    "student", "Student.Quick", NULL, &answer, within(call));
	svc_message_free(&answer);
	if (code != SVC_OK)
		return code;
	return svc_reply_text(
	    call, rsp, "text/plain", svc_loop_held() ? "kept" : "lost");
}

static void
a_handler_that_calls_one_keeps_its_loop(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Quick", tell_thread, NULL, never_blocks());
	svc_handle(s, "Student.Outer", call_quick, NULL);
	must_start(s);
	/* A machine short of processors makes any handler look stuck. */
	int kept = 0;
	for (int i = 0; i < 200 && (kept == 0 || !in_process()); i++) {
		struct svc_message rsp;
		assert_int_equal(
		    svc_call(svc_client_of(s), "student", "Student.Outer", NULL,
			&rsp, timeout_ms(PATIENCE_MS)),
		    SVC_OK);
		kept += strcmp(rsp.data, "kept") == 0;
		svc_message_free(&rsp);
	}
	assert_int_equal(kept > 0, in_process());
	svc_free(s);
}

/* ------------------------------------------------------- limits and the end */

struct stay {
	struct gate entered, go;
	struct svc_service *service;
	svc_err code;
};

static svc_err
stay(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct stay *at = arg;
	(void)call, (void)req, (void)rsp;
	gate_add(&at->entered);
	gate_wait(&at->go, 1);
	return SVC_OK;
}

static void *
call_to_stay(void *arg)
{
	struct stay *at = arg;
	at->code = svc_call(svc_client_of(at->service), "student",
	    "Student.Stay", NULL, NULL, timeout_ms(PATIENCE_MS), retries(0));
	return NULL;
}

static void
they_count_among_the_handlers(void **state)
{
	(void)state;
	struct stay at = {0};
	gate_init(&at.entered);
	gate_init(&at.go);
	char *argv[] = {(char[]){"program"}, (char[]){"--max_handlers=1"},
	    (char[]){"--queue_timeout=0"}, NULL};
	struct svc_service *s = at.service = make("student", NULL);
	assert_int_equal(svc_init(s, 3, argv), SVC_OK);
	svc_handle(s, "Student.Stay", stay, &at, never_blocks());
	svc_handle(s, "Student.Quick", tell_thread, NULL, never_blocks());
	must_start(s);
	pthread_t thread;
	svc_thread_start(&thread, "caller", call_to_stay, &at);
	gate_wait(&at.entered, 1);
	struct svc_error err = {0};
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Quick", NULL, NULL,
		detail(&err), retries(0), timeout_ms(PATIENCE_MS)),
	    SVC_E_EXHAUSTED);
	assert_non_null(strstr(err.text, "runs 1 handlers, its limit"));
	gate_add(&at.go);
	svc_thread_join(thread);
	assert_int_equal(at.code, SVC_OK);
	thread_of(s, "Student.Quick");
	svc_free(s);
}

static void *
stop_service(void *arg)
{
	struct stay *at = arg;
	svc_free(at->service);
	gate_add(&at->entered);
	return NULL;
}

static void
stopping_waits_for_them(void **state)
{
	(void)state;
	struct stay at = {0}, caller;
	gate_init(&at.entered);
	gate_init(&at.go);
	struct svc_service *s = at.service = make("student", NULL);
	svc_handle(s, "Student.Stay", stay, &at, never_blocks());
	must_start(s);
	struct svc_service *client = make("client", NULL);
	assert_int_equal(svc_init(client, 0, NULL), SVC_OK);
	caller = at;
	caller.service = client;
	pthread_t calling, stopping;
	svc_thread_start(&calling, "caller", call_to_stay, &caller);
	gate_wait(&at.entered, 1);
	svc_thread_start(&stopping, "stopper", stop_service, &at);
	/* Until it takes no new calls. */
	struct svc_error err = {0};
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	svc_err code;
	do {
		code = svc_call(svc_client_of(client), "student",
		    "Student.None", NULL, NULL, detail(&err), retries(0),
		    timeout_ms(PATIENCE_MS));
	} while (code == SVC_E_UNIMPLEMENTED && svc_remaining(until_ms) > 0);
	assert_int_not_equal(code, SVC_E_UNIMPLEMENTED);
	assert_int_equal(gate_count(&at.entered), 1);
	gate_add(&at.go);
	svc_thread_join(calling);
	assert_int_equal(caller.code, SVC_OK);
	svc_thread_join(stopping);
	assert_int_equal(gate_count(&at.entered), 2);
	svc_free(client);
}

/* --------------------------------------------------------------- other calls
 */

struct ended {
	struct gate gate;
	pthread_t thread;
	svc_err code;
};

static void
told(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct ended *ended = arg;
	(void)rsp, (void)detail;
	ended->code = code;
	ended->thread = pthread_self();
	gate_add(&ended->gate);
}

static void
calls_that_do_not_wait_take_the_loops(void **state)
{
	(void)state;
	struct ended ended = {0};
	gate_init(&ended.gate);
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Quick", tell_thread, NULL, never_blocks());
	must_start(s);
	assert_int_equal(
	    svc_call_async(svc_client_of(s), "student", "Student.Quick", NULL,
		told, &ended, timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	gate_wait(&ended.gate, 1);
	assert_int_equal(ended.code, SVC_OK);
	assert_false(pthread_equal(ended.thread, pthread_self()));
	svc_free(s);
}

static svc_err
no_stream(struct svc_stream *stream, void *arg)
{
	(void)stream, (void)arg;
	return SVC_OK;
}

static void
streams_cannot_say_it(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	assert_int_equal(svc_handle_stream(s, "Student.Stream", no_stream, NULL,
			     never_blocks()),
	    SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s), "never_blocks()"));
	svc_free(s);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(they_run_on_their_callers_thread),
	    TEST(replies_errors_and_headers_arrive),
	    TEST(a_number_that_is_no_code_is_unknown),
	    TEST(wrappers_of_both_sides_see_them),
	    TEST(calls_within_calls_leave_the_stack_in_time),
	    TEST(a_handler_that_calls_one_keeps_its_loop),
	    TEST(they_count_among_the_handlers),
	    TEST(stopping_waits_for_them),
	    TEST(calls_that_do_not_wait_take_the_loops),
	    TEST(streams_cannot_say_it),
	};
	int failed = 0;
	EACH_TRANSPORT(failed, tests);
	return failed;
}
