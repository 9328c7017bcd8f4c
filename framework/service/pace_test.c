/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints that are learned to be slow, and the queue before the limit of
 * handlers, seen from the inside. */
#include "server.h"
#include "service_test.h"

/* ---------------------------------------------------- learned by simulation */

/* Calls on a loop of their own, one a task, of which some give the loop away
 * as a handler that blocks would. */
struct simulation {
	struct svc_task task;
	struct svc_executor *executor;
	struct svc_loop *loop;
	struct svc_pace pace;
	int left;
	unsigned seed;
	unsigned percent; /* of slow calls */
	int calls, off_loop;
	struct gate done;
};

static void
simulate_one(struct svc_task *task)
{
	struct simulation *sim = (struct simulation *)(void *)task;
	/* Of this thread, which may be another for each call. */
	svc_random_seed(sim->seed++);
	bool slow = svc_random_below(100) < sim->percent;
	svc_loop_enter(sim->loop);
	bool on_loop = svc_pace_begin(&sim->pace);
	if (slow)
		svc_will_block();
	svc_pace_end(&sim->pace, on_loop);
	sim->calls++;
	if (!on_loop)
		sim->off_loop++;
	bool last = --sim->left == 0;
	if (!last)
		svc_loop_post(sim->loop, &sim->task);
	svc_loop_leave(sim->loop);
	if (last)
		gate_add(&sim->done);
}

static void
simulate(struct simulation *sim, int calls, unsigned percent)
{
	sim->task.run = simulate_one;
	sim->left = calls;
	sim->percent = percent;
	sim->calls = sim->off_loop = 0;
	gate_init(&sim->done);
	svc_loop_post(sim->loop, &sim->task);
	gate_wait(&sim->done, 1);
}

static void
one_call_in_ten_is_the_border(void **state)
{
	(void)state;
	struct simulation sim = {.seed = 1};
	assert_int_equal(
	    svc_executor_create(NULL, &sim.executor, NULL), SVC_OK);
	sim.loop = svc_executor_loop(sim.executor);

	simulate(&sim, 4000, 4);
	assert_int_equal(sim.off_loop, 0);
	/* All slow: the first eight teach it. */
	simulate(&sim, 200, 100);
	assert_true(sim.off_loop > 150);
	/* Probes find out that it is fast, and it stays on its loop. */
	simulate(&sim, 2000, 0);
	assert_true(sim.off_loop < 1500);
	simulate(&sim, 1000, 0);
	assert_int_equal(sim.off_loop, 0);
	/* A third is more than a tenth. */
	simulate(&sim, 1000, 33);
	assert_true(sim.off_loop > 500);
	svc_executor_destroy(sim.executor);
}

/* ---------------------------------------------------------- learned for real
 */

struct stubborn {
	atomic_bool fast;
	atomic_int calls, began_on_loop;
};

/* A slow one keeps its thread until the monitor has given the loop away. */
static svc_err
stubborn(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct stubborn *s = arg;
	(void)call;
	(void)req;
	(void)rsp;
	atomic_fetch_add(&s->calls, 1);
	atomic_fetch_add(&s->began_on_loop, svc_loop_held() ? 1 : 0);
	int64_t deadline = svc_deadline(PATIENCE_MS);
	while (!atomic_load(&s->fast) && svc_loop_held() &&
	       svc_now_ms() < deadline)
		sched_yield();
	return SVC_OK;
}

static void
must_call(struct svc_service *s, const char *endpoint)
{
	assert_int_equal(svc_call(svc_client_of(s), "student", endpoint, NULL,
			     NULL, timeout_ms(PATIENCE_MS)),
	    SVC_OK);
}

static void
a_slow_endpoint_leaves_the_loop_and_comes_back(void **state)
{
	(void)state;
	struct stubborn slow = {.fast = false}, other = {.fast = true};
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Slow", stubborn, &slow);
	svc_handle(s, "Student.Fast", stubborn, &other);
	must_start(s);
	/*
	 * On a busy machine a call may lose its loop before its handler begins;
	 * it says nothing about the handler. The eighth one that counts
	 * decides.
	 */
	for (int i = 0; i < 20000 && slow.began_on_loop < 8; i++)
		must_call(s, "Student.Slow");
	assert_int_equal(slow.began_on_loop, 8);
	for (int i = 0; i < 8; i++)
		must_call(s, "Student.Slow");
	assert_int_equal(slow.began_on_loop, 8);
	/* The others are judged by themselves: one of 16 would be a probe. */
	for (int i = 0; i < 8; i++)
		must_call(s, "Student.Fast");
	assert_true(other.began_on_loop > 2);

	atomic_store(&slow.fast, true);
	int before_fast = slow.calls, calls = 0, in_a_row = 0;
	/* On a busy machine even a fast one may lose its loop now and then. */
	while (in_a_row < 30 && calls < 20000) {
		int before = slow.began_on_loop;
		must_call(s, "Student.Slow");
		calls++;
		in_a_row = slow.began_on_loop > before ? in_a_row + 1 : 0;
	}
	assert_int_equal(in_a_row, 30);
	assert_int_equal(atomic_load(&slow.calls), before_fast + calls);
	svc_free(s);
}

/* ------------------------------------------------------------------ the queue
 */

struct held {
	struct gate entered, go;
};

static svc_err
hold(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct held *held = arg;
	(void)call;
	rsp->data = req->data;
	rsp->len = req->len;
	gate_add(&held->entered);
	gate_wait(&held->go, 1);
	return SVC_OK;
}

struct caller {
	pthread_t thread;
	struct svc_service *service;
	struct svc_message req, rsp;
	int timeout;
	svc_err code;
	struct svc_error err;
};

static void *
call_in_thread(void *arg)
{
	struct caller *caller = arg;
	caller->code =
	    svc_call(svc_client_of(caller->service), "student", "Student.Hold",
		&caller->req, &caller->rsp, timeout_ms(caller->timeout),
		header("x", "y"), detail(&caller->err));
	return NULL;
}

static void
start_caller(struct caller *caller, struct svc_service *service,
    const void *data, size_t len, int timeout)
{
	memset(caller, 0, sizeof(*caller));
	caller->service = service;
	caller->req.data = data;
	caller->req.len = len;
	caller->timeout = timeout;
	assert_int_equal(
	    svc_thread_start(&caller->thread, "caller", call_in_thread, caller),
	    SVC_OK);
}

static void
await_waiting(struct svc_service *s, int64_t n)
{
	int64_t deadline = svc_deadline(PATIENCE_MS);
	while (atomic_load(&s->server->admission.n_waiting) != n) {
		assert_true(svc_now_ms() < deadline);
		sched_yield();
	}
}

/* With one handler running, called through `client`, or itself when NULL. */
static struct svc_service *
start_full(struct held *held, struct caller *first, struct svc_service *client)
{
	gate_init(&held->entered);
	gate_init(&held->go);
	struct svc_service *s = make("student", NULL);
	s->values.max_handlers = 1;
	s->values.queue_timeout_ms = PATIENCE_MS;
	svc_handle(s, "Student.Hold", hold, held);
	must_start(s);
	start_caller(first, client != NULL ? client : s, "0", 1, PATIENCE_MS);
	gate_wait(&held->entered, 1);
	return s;
}

static void
join_ok(struct caller *caller, const char *data, size_t len)
{
	svc_thread_join(caller->thread);
	assert_string_equal(caller->err.text, "");
	assert_int_equal(caller->code, SVC_OK);
	assert_int_equal(caller->rsp.len, len);
	assert_memory_equal(caller->rsp.data, data, len);
	svc_message_free(&caller->rsp);
}

static void
waiting_calls_hold_no_thread_and_are_run(void **state)
{
	(void)state;
	struct held held;
	struct caller first, callers[4];
	struct svc_service *s = start_full(&held, &first, NULL);
	static const char *const texts[] = {"1", "2", "3", "4"};
	struct svc_executor_counts before, counts;
	svc_executor_count(s->executor, &before);
	for (int i = 0; i < 4; i++) {
		start_caller(&callers[i], s, texts[i], 1, PATIENCE_MS);
		await_waiting(s, i + 1);
	}
	svc_executor_count(s->executor, &counts);
	/* The one that runs, and nobody for those that wait. */
	assert_true(counts.threads - counts.idle <=
		    1 + svc_executor_loops(s->executor));
	assert_int_equal(held.entered.count, 1);
	gate_add(&held.go);
	join_ok(&first, "0", 1);
	for (int i = 0; i < 4; i++)
		join_ok(&callers[i], texts[i], 1);
	assert_int_equal(held.entered.count, 5);
	svc_free(s);
}

static void
a_caller_that_leaves_leaves_the_queue(void **state)
{
	(void)state;
	struct held held;
	struct caller first, second;
	struct svc_service *s = start_full(&held, &first, NULL);
	start_caller(&second, s, "1", 1, 50);
	svc_thread_join(second.thread);
	assert_int_equal(second.code, SVC_E_TIMEDOUT);
	await_waiting(s, 0);
	gate_add(&held.go);
	join_ok(&first, "0", 1);
	svc_free(s);
	assert_int_equal(held.entered.count, 1);
}

static void
the_queue_has_a_limit_of_bytes(void **state)
{
	(void)state;
	enum { LARGE = 7 << 20 };
	struct held held;
	struct caller first, callers[2];
	struct svc_service *s = start_full(&held, &first, NULL);
	char *large = calloc(1, LARGE);
	for (int i = 0; i < 2; i++) {
		start_caller(&callers[i], s, large, LARGE, PATIENCE_MS);
		await_waiting(s, i + 1);
	}
	struct svc_message req = {.data = large, .len = LARGE};
	struct svc_error err = {0};
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Hold",
			     &req, NULL, detail(&err)),
	    SVC_E_EXHAUSTED);
	assert_string_equal(err.text,
	    "the service runs 1 handlers, its limit (--max_handlers), and has "
	    "no room for calls to wait");
	await_waiting(s, 2);
	gate_add(&held.go);
	join_ok(&first, "0", 1);
	for (int i = 0; i < 2; i++)
		join_ok(&callers[i], large, LARGE);
	free(large);
	svc_free(s);
}

static void *
free_in_thread(void *arg)
{
	svc_free(arg);
	return NULL;
}

/* A stop waits for those in the queue too: they were accepted. */
static void
a_stop_runs_those_that_wait(void **state)
{
	(void)state;
	struct held held;
	struct caller first, second;
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct svc_service *s = start_full(&held, &first, c);
	start_caller(&second, c, "1", 1, PATIENCE_MS);
	await_waiting(s, 1);
	pthread_t thread;
	struct svc_server *server = s->server;
	assert_int_equal(
	    svc_thread_start(&thread, "stop", free_in_thread, s), SVC_OK);
	int64_t deadline = svc_deadline(PATIENCE_MS);
	while (!atomic_load(&server->draining)) {
		assert_true(svc_now_ms() < deadline);
		sched_yield();
	}
	gate_add(&held.go);
	join_ok(&first, "0", 1);
	join_ok(&second, "1", 1);
	svc_thread_join(thread);
	svc_free(c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(one_call_in_ten_is_the_border),
	    TEST(a_slow_endpoint_leaves_the_loop_and_comes_back),
	    TEST(waiting_calls_hold_no_thread_and_are_run),
	    TEST(a_caller_that_leaves_leaves_the_queue),
	    TEST(the_queue_has_a_limit_of_bytes),
	    TEST(a_stop_runs_those_that_wait),
	};
	/* Private parts and plugins as modules do not go together. */
	transport_name = "memory";
	return cmocka_run_group_tests_name("pace", tests, NULL, NULL);
}
