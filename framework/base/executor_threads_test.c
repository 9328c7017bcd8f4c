/* SPDX-License-Identifier: Apache-2.0 */
/* The threads of an executor: how many there are, and when the monitor looks.
 */
#include "executor_test.h"

static void
job_run(void *arg)
{
	count_up(arg);
}

static void
jobs_run_once_each(void **state)
{
	(void)state;
	struct count count;
	count_init(&count);
	struct svc_executor *executor = create(1, 4);
	int queued = 0;
	for (int i = 0; i < 100; i++)
		if (svc_executor_run(executor, job_run, &count) == SVC_OK)
			queued++;
	assert_true(queued > 0);
	count_await(&count, queued);
	svc_executor_destroy(executor);
	assert_int_equal(count.value, queued);
	count_fini(&count);
	struct svc_executor_config bad = {.loops = 4, .max_threads = 4};
	struct svc_error err;
	assert_int_equal(
	    svc_executor_create(&bad, &executor, &err), SVC_E_INVAL);
}

static void
idle_threads_end(void **state)
{
	(void)state;
	enum { JOBS = 40 };
	struct waiting waiting;
	waiting_init(&waiting);
	svc_clock_manual();
	struct svc_executor *executor = create(1, 64);
	for (int i = 0; i < JOBS; i++)
		assert_int_equal(
		    svc_executor_run(executor, waiting_run, &waiting), SVC_OK);
	await_counts(executor, JOBS, 0);
	assert_int_equal(svc_executor_off_loop(executor), JOBS);
	count_up(&waiting.gate);
	await_counts(executor, JOBS, JOBS);
	assert_int_equal(svc_executor_off_loop(executor), 0);
	svc_clock_advance(5000);
	/* Whoever is used again is used first, so that the others can end. */
	for (int i = 0; i < 5; i++) {
		assert_int_equal(
		    svc_executor_run(executor, waiting_run, &waiting), SVC_OK);
		await_counts(executor, JOBS, JOBS);
	}
	svc_clock_advance(5000);
	await_counts(executor, 1, 1);
	svc_clock_advance(5000);
	await_counts(executor, 0, 0);
	/* And new ones come when there is work. */
	assert_int_equal(
	    svc_executor_run(executor, waiting_run, &waiting), SVC_OK);
	await_counts(executor, 1, 1);
	assert_int_equal(waiting.ended.value, JOBS + 6);
	svc_executor_destroy(executor);
	svc_clock_real();
	waiting_fini(&waiting);
}

static void
jobs_leave_threads_for_the_loops(void **state)
{
	(void)state;
	struct waiting waiting;
	struct count ran;
	waiting_init(&waiting);
	count_init(&ran);
	struct svc_executor *executor = create(2, 5);
	assert_int_equal(svc_executor_loops(executor), 2);
	assert_int_equal(svc_executor_max_threads(executor), 5);
	for (int i = 0; i < 3; i++)
		assert_int_equal(
		    svc_executor_run(executor, waiting_run, &waiting), SVC_OK);
	assert_int_equal(
	    svc_executor_run(executor, waiting_run, &waiting), SVC_E_EXHAUSTED);
	struct numbered tasks[2];
	for (int i = 0; i < 2; i++) {
		tasks[i] =
		    (struct numbered){.task.run = task_count, .count = &ran};
		svc_loop_post(svc_executor_loop(executor), &tasks[i].task);
	}
	count_await(&ran, 2);
	assert_int_equal(
	    svc_executor_run(executor, waiting_run, &waiting), SVC_E_EXHAUSTED);
	count_up(&waiting.gate);
	count_await(&waiting.ended, 3);
	svc_executor_destroy(executor);
	waiting_fini(&waiting);
	count_fini(&ran);
}

/* Of all threads of this process but the calling one. */
static long
switches(void)
{
	struct rusage all, own;
	getrusage(RUSAGE_SELF, &all);
	getrusage(RUSAGE_THREAD, &own);
	return all.ru_nvcsw - own.ru_nvcsw;
}

static void
idle_loops_wake_nobody(void **state)
{
	(void)state;
	struct svc_executor_counts counts, later;
	struct count ran;
	count_init(&ran);
	struct svc_executor *executor = create(2, 8);
	for (int round = 1; round <= 2; round++) {
		struct numbered task = {.task.run = task_count, .count = &ran};
		svc_loop_post(svc_executor_loop(executor), &task.task);
		count_await(&ran, round);
		/* Nothing is waited for in the poll: being idle is what is
		 * measured. It may take a few looks to get there. */
		int64_t deadline = svc_deadline(WAIT_MS);
		long more;
		do {
			assert_true(svc_now_ms() < deadline);
			svc_executor_count(executor, &counts);
			more = -switches();
			poll(NULL, 0, 200);
			more += switches();
			svc_executor_count(executor, &later);
		} while (
		    !later.parked || later.looks != counts.looks || more > 2);
	}
	svc_executor_destroy(executor);
	count_fini(&ran);
}

struct opener {
	struct svc_task task;
	struct waiting *waiting;
};

static void
blocking_run(struct svc_task *task)
{
	struct opener *opener = (struct opener *)(void *)task;
	struct svc_loop *loop = svc_loop_current();
	svc_loop_enter(loop);
	count_up(&opener->waiting->began);
	count_await(&opener->waiting->gate, 1);
	svc_loop_leave(loop);
	count_up(&opener->waiting->ended);
}

static void
opener_run(struct svc_task *task)
{
	struct opener *opener = (struct opener *)(void *)task;
	count_up(&opener->waiting->gate);
}

/* The first that a loop does, before it has ever waited, may block, though the
 * monitor has parked: it is told that a loop begins. */
static void
a_loop_may_begin_with_a_handler_that_blocks(void **state)
{
	(void)state;
	enum { LOOPS = 10 };
	struct svc_executor *executor = create(LOOPS, 2 * LOOPS);
	for (int i = 0; i < LOOPS; i++) {
		struct waiting waiting;
		struct svc_executor_counts counts;
		struct opener tasks[2] = {
		    {.task.run = blocking_run, .waiting = &waiting},
		    {.task.run = opener_run, .waiting = &waiting},
		};
		waiting_init(&waiting);
		int64_t deadline = svc_deadline(WAIT_MS);
		do {
			assert_true(svc_now_ms() < deadline);
			poll(NULL, 0, 1);
			svc_executor_count(executor, &counts);
		} while (!counts.parked);
		/* The next loop, whose thread takes longer to come than its
		 * work. */
		struct svc_loop *loop = svc_executor_loop(executor);
		svc_loop_post(loop, &tasks[0].task);
		svc_loop_post(loop, &tasks[1].task);
		count_await(&waiting.ended, 1);
		svc_executor_count(executor, &counts);
		assert_int_equal(counts.takeovers, i + 1);
		waiting_fini(&waiting);
	}
	svc_executor_destroy(executor);
}

/* --------------------------------------------------------------- the monitor
 */

struct computing {
	struct svc_task task; /* first */
	atomic_bool *until;
	struct count *ended;
};

static void
computing_run(struct svc_task *task)
{
	struct computing *computing = (struct computing *)(void *)task;
	struct svc_loop *loop = svc_loop_current();
	svc_loop_enter(loop);
	while (!atomic_load(computing->until))
		;
	svc_loop_leave(loop);
	count_up(computing->ended);
}

static void
release_run(struct svc_task *task)
{
	struct computing *computing = (struct computing *)(void *)task;
	atomic_store(computing->until, true);
	count_up(computing->ended);
}

/* A handler that does not sleep holds the loop up as well. */
static void
a_handler_that_computes_loses_the_loop(void **state)
{
	(void)state;
	struct svc_executor_counts counts;
	struct count ended;
	atomic_bool until = false;
	count_init(&ended);
	struct svc_executor *executor = create(1, 4);
	struct computing tasks[2] = {
	    {.task.run = computing_run, .until = &until, .ended = &ended},
	    {.task.run = release_run, .until = &until, .ended = &ended},
	};
	struct svc_loop *loop = svc_executor_loop(executor);
	svc_loop_post(loop, &tasks[0].task);
	svc_loop_post(loop, &tasks[1].task);
	count_await(&ended, 2);
	svc_executor_count(executor, &counts);
	assert_int_equal(counts.takeovers, 1);
	svc_executor_destroy(executor);
	count_fini(&ended);
}

#define RIVALS 4 /* for the one processor of the loop */

struct starved {
	struct svc_task task; /* first */
	struct svc_executor *executor;
	struct count *ended;
	cpu_set_t *processor;
	uint64_t looks; /* of the monitor, while the handler ran */
};

static void
starved_run(struct svc_task *task)
{
	struct starved *starved = (struct starved *)(void *)task;
	struct svc_executor_counts before, after;
	sched_setaffinity(0, sizeof(cpu_set_t), starved->processor);
	struct svc_loop *loop = svc_loop_current();
	svc_executor_count(starved->executor, &before);
	svc_loop_enter(loop);
	for (int i = 0; i < 3; i++)
		sched_yield(); /* to the rivals */
	svc_loop_leave(loop);
	svc_executor_count(starved->executor, &after);
	starved->looks = after.looks - before.looks;
	count_up(starved->ended);
}

struct rivals {
	cpu_set_t processor;
	atomic_bool stop;
};

static void *
rival_thread(void *arg)
{
	struct rivals *rivals = arg;
	sched_setaffinity(0, sizeof(cpu_set_t), &rivals->processor);
	while (!atomic_load(&rivals->stop))
		;
	return NULL;
}

/* A handler that takes little time, but gets it late, keeps the loop: another
 * thread would get it no sooner. */
static void
a_handler_without_a_processor_keeps_the_loop(void **state)
{
	(void)state;
	enum { LATE = 5 };
	struct svc_executor_counts counts;
	struct rivals rivals = {.stop = false};
	pthread_t threads[RIVALS];
	struct count ended;
	cpu_set_t allowed;
	size_t processor = 0;
	assert_int_equal(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
	while (!CPU_ISSET(processor, &allowed))
		processor++;
	CPU_ZERO(&rivals.processor);
	CPU_SET(processor, &rivals.processor);
	for (int i = 0; i < RIVALS; i++)
		assert_int_equal(svc_thread_start(&threads[i], "rival",
				     rival_thread, &rivals),
		    SVC_OK);
	count_init(&ended);
	struct svc_executor *executor = create(1, 4);
	struct svc_loop *loop = svc_executor_loop(executor);
	int64_t deadline = svc_deadline(WAIT_MS);
	for (int runs = 0, late = 0; late < LATE; runs++) {
		assert_true(svc_now_ms() < deadline);
		struct starved starved = {
		    .task.run = starved_run,
		    .executor = executor,
		    .ended = &ended,
		    .processor = &rivals.processor,
		};
		svc_loop_post(loop, &starved.task);
		count_await(&ended, runs + 1);
		late += starved.looks > 2;
	}
	svc_executor_count(executor, &counts);
	atomic_store(&rivals.stop, true);
	for (int i = 0; i < RIVALS; i++)
		svc_thread_join(threads[i]);
	svc_executor_destroy(executor);
	assert_int_equal(counts.takeovers, 0);
	count_fini(&ended);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(jobs_run_once_each),
	    cmocka_unit_test(idle_threads_end),
	    cmocka_unit_test(jobs_leave_threads_for_the_loops),
	    cmocka_unit_test(idle_loops_wake_nobody),
	    cmocka_unit_test(a_loop_may_begin_with_a_handler_that_blocks),
	    cmocka_unit_test(a_handler_that_computes_loses_the_loop),
	    cmocka_unit_test(a_handler_without_a_processor_keeps_the_loop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
