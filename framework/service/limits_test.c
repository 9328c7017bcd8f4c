/* SPDX-License-Identifier: Apache-2.0 */
/* Handlers that run at once: their limit, and what happens beyond it, over
 * every transport at hand. */
#include "service_test.h"

/* Handlers that wait until they are let go, and how many were at it at once. */
struct crowd {
	struct gate entered, go;
	atomic_int now, most;
};

static void
crowd_init(struct crowd *crowd)
{
	memset(crowd, 0, sizeof(*crowd));
	gate_init(&crowd->entered);
	gate_init(&crowd->go);
}

static svc_err
join_crowd(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct crowd *crowd = arg;
	(void)call;
	(void)req;
	(void)rsp;
	int now = atomic_fetch_add(&crowd->now, 1) + 1;
	int most = atomic_load(&crowd->most);
	while (now > most &&
	       !atomic_compare_exchange_weak(&crowd->most, &most, now))
		;
	gate_add(&crowd->entered);
	gate_wait(&crowd->go, 1);
	atomic_fetch_sub(&crowd->now, 1);
	return SVC_OK;
}

struct caller {
	pthread_t thread;
	struct svc_client *client;
	const char *endpoint;
	int timeout;
	struct svc_message req;
	svc_err code;
	struct svc_error err;
};

static void *
call_in_thread(void *arg)
{
	struct caller *caller = arg;
	caller->code = svc_call(caller->client, "student", caller->endpoint,
	    &caller->req, NULL, timeout_ms(caller->timeout), retries(0),
	    detail(&caller->err));
	return NULL;
}

static void
start_caller(
    struct caller *caller, struct svc_service *service, const char *endpoint)
{
	memset(caller, 0, sizeof(*caller));
	caller->client = svc_client_of(service);
	caller->endpoint = endpoint;
	caller->timeout = PATIENCE_MS;
	assert_int_equal(
	    svc_thread_start(&caller->thread, "caller", call_in_thread, caller),
	    SVC_OK);
}

static struct svc_service *
make_limited(const char *const flags[])
{
	char *argv[8] = {0};
	int argc = 1;
	argv[0] = strdup("program");
	for (; flags[argc - 1] != NULL; argc++)
		argv[argc] = strdup(flags[argc - 1]);
	struct svc_service *s = make("student", NULL);
	assert_int_equal(svc_init(s, argc, argv), SVC_OK);
	for (int i = 0; i < argc; i++)
		free(argv[i]);
	return s;
}
#define LIMITED(...) make_limited((const char *const[]){__VA_ARGS__, NULL})

static void
calls_beyond_the_limit_wait(void **state)
{
	(void)state;
	enum { CALLS = 12, LIMIT = 3 };
	struct crowd crowd;
	crowd_init(&crowd);
	struct svc_service *s =
	    LIMITED("--max_handlers=3", "--queue_timeout=20");
	svc_handle(s, "Student.Join", join_crowd, &crowd);
	must_start(s);
	struct caller callers[CALLS];
	for (int i = 0; i < CALLS; i++)
		start_caller(&callers[i], s, "Student.Join");
	gate_wait(&crowd.entered, LIMIT);
	gate_add(&crowd.go);
	for (int i = 0; i < CALLS; i++) {
		svc_thread_join(callers[i].thread);
		assert_string_equal(callers[i].err.text, "");
		assert_int_equal(callers[i].code, SVC_OK);
	}
	assert_int_equal(crowd.entered.count, CALLS);
	assert_true(crowd.most <= LIMIT);
	svc_free(s);
}

static void
refused_calls_go_to_other_nodes(void **state)
{
	(void)state;
	struct crowd full, free_one;
	crowd_init(&full);
	crowd_init(&free_one);
	gate_add(&free_one.go);
	struct svc_service *a =
	    LIMITED("--max_handlers=2", "--queue_timeout=0", "--id=a");
	struct svc_service *b = LIMITED("--id=b");
	svc_handle(a, "Student.Join", join_crowd, &full);
	svc_handle(b, "Student.Join", join_crowd, &free_one);
	must_start(a);
	struct caller callers[2];
	for (int i = 0; i < 2; i++)
		start_caller(&callers[i], a, "Student.Join");
	gate_wait(&full.entered, 2);
	struct svc_error err = {0};
	assert_int_equal(svc_call(svc_client_of(a), "student", "Student.Join",
			     NULL, NULL, detail(&err)),
	    SVC_E_EXHAUSTED);
	assert_string_equal(err.text,
	    "the service runs 2 handlers, its limit (--max_handlers), and no "
	    "call may wait for one to end");
	must_start(b);
	/* A client of its own sees both from the start. */
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	for (int i = 0; i < 30; i++) {
		err.text[0] = '\0';
		svc_err code = svc_call(svc_client_of(c), "student",
		    "Student.Join", NULL, NULL, detail(&err));
		assert_string_equal(err.text, "");
		assert_int_equal(code, SVC_OK);
	}
	assert_int_equal(free_one.entered.count, 30);
	assert_int_equal(full.entered.count, 2);
	gate_add(&full.go);
	for (int i = 0; i < 2; i++) {
		svc_thread_join(callers[i].thread);
		assert_int_equal(callers[i].code, SVC_OK);
	}
	svc_free(c);
	svc_free(b);
	svc_free(a);
}

static void
calls_beyond_a_connection_are_told_the_limit(void **state)
{
	(void)state;
	struct crowd crowd;
	crowd_init(&crowd);
	struct svc_service *s = LIMITED("--max_streams=1");
	svc_handle(s, "Student.Join", join_crowd, &crowd);
	must_start(s);
	struct caller first;
	start_caller(&first, s, "Student.Join");
	gate_wait(&crowd.entered, 1);
	struct svc_error err = {0};
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Join",
			     NULL, NULL, detail(&err), retries(0)),
	    SVC_E_EXHAUSTED);
	assert_non_null(strstr(err.text, "1 are allowed (--max_streams)"));
	gate_add(&crowd.go);
	svc_thread_join(first.thread);
	assert_int_equal(first.code, SVC_OK);
	svc_free(s);
}

static void
a_call_waits_only_so_long(void **state)
{
	(void)state;
	struct crowd crowd;
	crowd_init(&crowd);
	struct svc_service *s =
	    LIMITED("--max_handlers=1", "--queue_timeout=40ms");
	svc_handle(s, "Student.Join", join_crowd, &crowd);
	must_start(s);
	struct caller first, others[3];
	start_caller(&first, s, "Student.Join");
	gate_wait(&crowd.entered, 1);
	int64_t began = svc_now_ms();
	for (int i = 0; i < 3; i++)
		start_caller(&others[i], s, "Student.Join");
	for (int i = 0; i < 3; i++) {
		svc_thread_join(others[i].thread);
		assert_int_equal(others[i].code, SVC_E_EXHAUSTED);
		assert_string_equal(others[i].err.text,
		    "the service runs 1 handlers, its limit (--max_handlers), "
		    "and none ended in 40 ms (--queue_timeout)");
	}
	assert_true(svc_now_ms() - began >= 40);
	assert_int_equal(crowd.entered.count, 1);
	gate_add(&crowd.go);
	svc_thread_join(first.thread);
	assert_int_equal(first.code, SVC_OK);
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Join", NULL, NULL),
	    SVC_OK);
	svc_free(s);
}

/* A stream takes a place for as long as its handler runs, and does not wait for
 * one. */
static svc_err
join_by_stream(struct svc_stream *stream, void *arg)
{
	(void)stream;
	return join_crowd(NULL, NULL, NULL, arg);
}

static void
streams_take_places_too(void **state)
{
	(void)state;
	struct crowd crowd;
	crowd_init(&crowd);
	struct svc_service *s =
	    LIMITED("--max_handlers=1", "--queue_timeout=0");
	svc_handle_stream(s, "Student.Stream", join_by_stream, &crowd);
	svc_handle(s, "Student.Join", join_crowd, &crowd);
	must_start(s);
	struct svc_client *client = svc_client_of(s);
	struct svc_stream *first =
	    svc_open(client, "student", "Student.Stream");
	assert_non_null(first);
	gate_wait(&crowd.entered, 1);
	struct svc_message message;
	struct svc_error err = {0};
	struct svc_stream *second =
	    svc_open(client, "student", "Student.Stream", retries(0));
	assert_non_null(second);
	assert_int_equal(svc_stream_recv(second, &message), SVC_E_EXHAUSTED);
	svc_stream_free(second);
	assert_int_equal(svc_call(client, "student", "Student.Join", NULL, NULL,
			     retries(0), detail(&err)),
	    SVC_E_EXHAUSTED);
	assert_non_null(strstr(err.text, "--max_handlers"));
	gate_add(&crowd.go);
	assert_int_equal(svc_stream_recv(first, &message), SVC_E_EOF);
	svc_stream_free(first);
	assert_int_equal(crowd.entered.count, 1);
	/* The place is free a moment before the stream's end is sent. */
	assert_int_equal(
	    svc_call(client, "student", "Student.Join", NULL, NULL), SVC_OK);
	svc_free(s);
}

/* ------------------------------------------------------ handlers that call */

static atomic_int inner_runs;

static svc_err
inner(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call;
	(void)req;
	(void)rsp;
	(void)arg;
	atomic_fetch_add(&inner_runs, 1);
	return SVC_OK;
}

struct outer {
	struct gate entered, go;
	int64_t inner_timeout_ms;
};

/* Calls its own service once all the handlers are at it. */
static svc_err
outer(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct outer *o = arg;
	(void)req;
	(void)rsp;
	gate_add(&o->entered);
	gate_wait(&o->go, 1);
	return svc_call(svc_client_of(svc_call_service(call)), "student",
	    "Student.Inner", NULL, NULL, retries(0),
	    timeout_ms(o->inner_timeout_ms));
}

/* Without a limit of handlers they may take every thread, the last one that of
 * the loop. Then nobody serves the calls they make; these end by their
 * deadlines, and after that the service is as good as new. */
static void
without_threads_calls_time_out_and_loops_come_back(void **state)
{
	(void)state;
	struct outer o = {.inner_timeout_ms = 200};
	gate_init(&o.entered);
	gate_init(&o.go);
	struct svc_service *s =
	    LIMITED("--threads=4", "--loops=1", "--max_handlers=0");
	svc_handle(s, "Student.Outer", outer, &o);
	svc_handle(s, "Student.Inner", inner, NULL);
	must_start(s);
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	assert_int_equal(
	    svc_call(svc_client_of(c), "student", "Student.Inner", NULL, NULL),
	    SVC_OK);
	atomic_store(&inner_runs, 0);
	struct caller callers[4];
	for (int i = 0; i < 4; i++)
		start_caller(&callers[i], c, "Student.Outer");
	gate_wait(&o.entered, 4);
	gate_add(&o.go);
	for (int i = 0; i < 4; i++) {
		svc_thread_join(callers[i].thread);
		assert_true(callers[i].code == SVC_OK ||
			    callers[i].code == SVC_E_TIMEDOUT);
	}
	for (int i = 0; i < 20; i++)
		assert_int_equal(svc_call(svc_client_of(c), "student",
				     "Student.Inner", NULL, NULL),
		    SVC_OK);
	assert_true(atomic_load(&inner_runs) >= 20);
	svc_free(c);
	svc_free(s);
}

/* With the default limit the loops stay free: the inner calls are refused at
 * once, long before their deadline. */
static void
with_a_limit_inner_calls_are_refused_instead(void **state)
{
	(void)state;
	struct outer o = {.inner_timeout_ms = PATIENCE_MS};
	gate_init(&o.entered);
	gate_init(&o.go);
	struct svc_service *s = LIMITED("--threads=4", "--loops=1");
	assert_int_equal(svc_options_of(s)->max_handlers, 3);
	svc_handle(s, "Student.Outer", outer, &o);
	svc_handle(s, "Student.Inner", inner, NULL);
	must_start(s);
	struct caller callers[3];
	for (int i = 0; i < 3; i++)
		start_caller(&callers[i], s, "Student.Outer");
	gate_wait(&o.entered, 3);
	gate_add(&o.go);
	int64_t began = svc_now_ms();
	for (int i = 0; i < 3; i++) {
		svc_thread_join(callers[i].thread);
		assert_true(callers[i].code == SVC_OK ||
			    callers[i].code == SVC_E_EXHAUSTED);
	}
	assert_true(svc_now_ms() - began < PATIENCE_MS);
	svc_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(calls_beyond_the_limit_wait),
	    TEST(refused_calls_go_to_other_nodes),
	    TEST(calls_beyond_a_connection_are_told_the_limit),
	    TEST(a_call_waits_only_so_long),
	    TEST(streams_take_places_too),
	    TEST(without_threads_calls_time_out_and_loops_come_back),
	    TEST(with_a_limit_inner_calls_are_refused_instead),
	};
	transport_name = "memory";
	int failed = cmocka_run_group_tests_name("memory", tests, NULL, NULL);
	transport_name = "tcp";
	return failed + cmocka_run_group_tests_name("tcp", tests, NULL, NULL);
}
