/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <svc/clock.h>
#include <svc/executor.h>

#define WAIT_MS 20000

/* A count that a test waits for. */
struct count {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int value;
};

static void
count_init(struct count *count)
{
	pthread_mutex_init(&count->mutex, NULL);
	svc_cond_init(&count->changed);
	count->value = 0;
}

static void
count_fini(struct count *count)
{
	pthread_cond_destroy(&count->changed);
	pthread_mutex_destroy(&count->mutex);
}

static void
count_up(struct count *count)
{
	pthread_mutex_lock(&count->mutex);
	count->value++;
	pthread_cond_broadcast(&count->changed);
	pthread_mutex_unlock(&count->mutex);
}

static void
count_await(struct count *count, int value)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	pthread_mutex_lock(&count->mutex);
	while (count->value < value)
		assert_int_equal(
		    svc_cond_wait(&count->changed, &count->mutex, deadline),
		    SVC_OK);
	pthread_mutex_unlock(&count->mutex);
}

static struct svc_executor *
create(int loops, int threads)
{
	struct svc_executor_config config = {
	    .loops = loops, .max_threads = threads};
	struct svc_executor *executor;
	assert_int_equal(svc_executor_create(&config, &executor, NULL), SVC_OK);
	return executor;
}

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

struct numbered {
	struct svc_task task;
	int *expected;
	int number;
	struct count *count;
};

static void
numbered_run(struct svc_task *task)
{
	struct numbered *numbered = (struct numbered *)(void *)task;
	assert_int_equal(*numbered->expected, numbered->number);
	(*numbered->expected)++;
	count_up(numbered->count);
}

static void
tasks_run_in_order(void **state)
{
	(void)state;
	enum { TASKS = 1000 };
	static struct numbered tasks[TASKS];
	struct count count;
	int expected = 0;
	count_init(&count);
	struct svc_executor *executor = create(1, 4);
	struct svc_loop *loop = svc_executor_loop(executor);
	for (int i = 0; i < TASKS; i++) {
		tasks[i] = (struct numbered){.task.run = numbered_run,
		    .expected = &expected,
		    .number = i,
		    .count = &count};
		svc_loop_post(loop, &tasks[i].task);
	}
	count_await(&count, TASKS);
	svc_executor_destroy(executor);
	count_fini(&count);
}

/* Reads bytes one by one, each in a handler that may block: the state that has
 * to survive a take-over is in the source. */
struct reader {
	struct svc_source source;
	struct svc_task detach;
	struct svc_loop *loop;
	struct count done;    /* bytes whose handler has returned */
	struct count blocked; /* handlers that wait */
	struct count detached;
	struct count gate;
	_Atomic int lost;
	bool says_so;
};

static void
reader_ready(struct svc_source *source, unsigned events)
{
	struct reader *reader = (struct reader *)(void *)source;
	char byte;
	(void)events;
	while (read(source->fd, &byte, 1) == 1) {
		svc_loop_enter(reader->loop);
		assert_null(svc_loop_current());
		if (byte == 'b') {
			if (reader->says_so)
				svc_will_block();
			count_up(&reader->blocked);
			count_await(&reader->gate, 1);
		}
		bool owner = svc_loop_leave(reader->loop);
		if (!owner)
			atomic_fetch_add(&reader->lost, 1);
		count_up(&reader->done);
		if (!owner)
			return;
		assert_ptr_equal(svc_loop_current(), reader->loop);
	}
}

static void
reader_detach(struct svc_task *task)
{
	struct reader *reader =
	    (struct reader *)(void *)((char *)task -
				      offsetof(struct reader, detach));
	svc_source_detach(&reader->source);
	count_up(&reader->detached);
}

static void
blocked_handlers_lose_the_loop(bool says_so)
{
	struct reader reader = {.says_so = says_so};
	int ends[2];
	assert_int_equal(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
	struct svc_executor *executor = create(1, 64);
	reader.loop = svc_executor_loop(executor);
	reader.source.fd = ends[0];
	reader.source.ready = reader_ready;
	reader.detach.run = reader_detach;
	count_init(&reader.done);
	count_init(&reader.blocked);
	count_init(&reader.detached);
	count_init(&reader.gate);
	assert_int_equal(
	    svc_source_attach(reader.loop, &reader.source, SVC_IO_READ, NULL),
	    SVC_OK);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(write(ends[1], "xbxx", 4), 4);
		count_await(&reader.blocked, i + 1);
		count_await(&reader.done, 3 * (i + 1));
	}
	count_up(&reader.gate);
	count_await(&reader.done, 32);
	assert_int_equal(atomic_load(&reader.lost), 8);
	svc_loop_post(reader.loop, &reader.detach);
	count_await(&reader.detached, 1);
	svc_executor_destroy(executor);
	close(ends[0]);
	close(ends[1]);
	count_fini(&reader.done);
	count_fini(&reader.blocked);
	count_fini(&reader.detached);
	count_fini(&reader.gate);
}

static void
the_monitor_takes_blocked_loops_over(void **state)
{
	(void)state;
	blocked_handlers_lose_the_loop(false);
}

static void
a_handler_may_say_that_it_will_block(void **state)
{
	(void)state;
	blocked_handlers_lose_the_loop(true);
}

struct ticking {
	struct svc_task start;
	struct svc_timer timers[5];
	struct svc_loop *loop;
	struct count started, fired;
	int order[5];
};
static struct ticking *ticking;

static void
timer_fire(struct svc_timer *timer)
{
	ticking->order[ticking->fired.value] = (int)(timer - ticking->timers);
	count_up(&ticking->fired);
}

static void
timers_start(struct svc_task *task)
{
	(void)task;
	static const int64_t delays[5] = {5000, 1000, 3000, 2000, 4000};
	for (int i = 0; i < 5; i++) {
		ticking->timers[i].fire = timer_fire;
		svc_timer_start(ticking->loop, &ticking->timers[i],
		    svc_deadline(delays[i]));
	}
	svc_timer_stop(ticking->loop, &ticking->timers[2]);
	/* Moving a running one. */
	svc_timer_start(ticking->loop, &ticking->timers[1], svc_deadline(4500));
	count_up(&ticking->started);
}

static void
timers_fire_in_order_by_the_clock(void **state)
{
	(void)state;
	struct ticking here = {.start.run = timers_start};
	svc_clock_manual();
	count_init(&here.started);
	count_init(&here.fired);
	struct svc_executor *executor = create(1, 4);
	here.loop = svc_executor_loop(executor);
	ticking = &here;
	svc_loop_post(here.loop, &here.start);
	pthread_mutex_lock(&here.started.mutex);
	while (here.started.value == 0)
		pthread_cond_wait(&here.started.changed, &here.started.mutex);
	pthread_mutex_unlock(&here.started.mutex);
	svc_clock_advance(1999);
	assert_int_equal(here.fired.value, 0);
	static const int expected[] = {3, 4, 1, 0};
	static const int64_t steps[] = {1, 2000, 500, 500};
	for (int i = 0; i < 4; i++) {
		svc_clock_advance(steps[i]);
		pthread_mutex_lock(&here.fired.mutex);
		while (here.fired.value < i + 1)
			pthread_cond_wait(
			    &here.fired.changed, &here.fired.mutex);
		assert_int_equal(here.fired.value, i + 1);
		assert_int_equal(here.order[i], expected[i]);
		pthread_mutex_unlock(&here.fired.mutex);
	}
	svc_executor_destroy(executor);
	svc_clock_real();
	count_fini(&here.started);
	count_fini(&here.fired);
}

struct kicked {
	struct svc_source source;
	struct count ready;
	struct count hold;
};

static void
kicked_ready(struct svc_source *source, unsigned events)
{
	struct kicked *kicked = (struct kicked *)(void *)source;
	assert_int_equal(events, SVC_IO_KICK);
	count_up(&kicked->ready);
	count_await(&kicked->hold, kicked->ready.value);
}

static void
kicks_between_two_runs_are_one(void **state)
{
	(void)state;
	struct kicked kicked = {.source = {.fd = -1, .ready = kicked_ready}};
	count_init(&kicked.ready);
	count_init(&kicked.hold);
	struct svc_executor *executor = create(1, 4);
	assert_int_equal(svc_source_attach(svc_executor_loop(executor),
			     &kicked.source, 0, NULL),
	    SVC_OK);
	assert_true(svc_source_kick(&kicked.source));
	count_await(&kicked.ready, 1);
	assert_true(svc_source_kick(&kicked.source));
	for (int i = 0; i < 10; i++)
		assert_false(svc_source_kick(&kicked.source));
	count_up(&kicked.hold);
	count_await(&kicked.ready, 2);
	count_up(&kicked.hold);
	svc_executor_destroy(executor);
	assert_int_equal(kicked.ready.value, 2);
	count_fini(&kicked.ready);
	count_fini(&kicked.hold);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(jobs_run_once_each),
	    cmocka_unit_test(tasks_run_in_order),
	    cmocka_unit_test(the_monitor_takes_blocked_loops_over),
	    cmocka_unit_test(a_handler_may_say_that_it_will_block),
	    cmocka_unit_test(timers_fire_in_order_by_the_clock),
	    cmocka_unit_test(kicks_between_two_runs_are_one),
	};
	return cmocka_run_group_tests_name("executor", tests, NULL, NULL);
}
