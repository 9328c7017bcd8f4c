/* SPDX-License-Identifier: Apache-2.0 */
/* What runs on loops: tasks, timers, descriptors, and handlers that block. */
#include "executor_test.h"

static atomic_bool no_memory;

static bool
allow(size_t size, void *arg)
{
	(void)size;
	(void)arg;
	return !atomic_load(&no_memory);
}

struct counted_task {
	struct svc_task task; /* first */
	struct count *count;
};

static void
counted_run(struct svc_task *task)
{
	count_up(((struct counted_task *)(void *)task)->count);
}

static void
a_loop_runs_once_there_is_memory(void **state)
{
	(void)state;
	struct count ran;
	count_init(&ran);
	svc_mem_set_hook(allow, NULL); /* before there are threads */
	struct svc_executor *executor = create(2, 4);
	struct svc_executor_counts counts;
	atomic_store(&no_memory, true);
	struct svc_loop *loop = svc_executor_loop(executor);
	assert_non_null(loop);
	struct counted_task task = {{.run = counted_run}, &ran};
	svc_loop_post(loop, &task.task);
	svc_executor_count(executor, &counts);
	assert_int_equal(counts.threads, 0);
	atomic_store(&no_memory, false);
	count_await(&ran, 1);
	svc_executor_destroy(executor);
	svc_mem_set_hook(NULL, NULL);
	count_fini(&ran);
}

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
	_Atomic int lost; /* loops, by handlers that blocked */
	/* By others: on a busy machine any handler may look stuck. */
	_Atomic int lost_by_chance;
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
		assert_true(svc_loop_held());
		if (byte == 'b') {
			if (reader->says_so)
				svc_will_block();
			count_up(&reader->blocked);
			count_await(&reader->gate, 1);
		}
		bool held = svc_loop_held();
		bool owner = svc_loop_leave(reader->loop);
		assert_true(held || !owner);
		assert_false(byte == 'b' && reader->says_so && held);
		assert_false(svc_loop_held());
		if (!owner)
			atomic_fetch_add(byte == 'b' ? &reader->lost
						     : &reader->lost_by_chance,
			    1);
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

/* Handlers that block although no thread is left keep their loop, and it goes
 * on when they return; no thread is made beyond the limit meanwhile, however
 * often the monitor tries. */
static void
loops_come_back_when_no_thread_was_left(void **state)
{
	(void)state;
	struct reader reader = {.says_so = false};
	struct svc_executor_counts before, counts;
	int ends[2];
	assert_int_equal(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
	struct svc_executor *executor = create(1, 3);
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
	/* Two lose the loop, the third keeps it: it has no thread to go to. */
	assert_int_equal(write(ends[1], "xbbbxx", 6), 6);
	count_await(&reader.blocked, 3);
	assert_int_equal(reader.done.value, 1);
	svc_executor_count(executor, &before);
	assert_int_equal(before.threads, 3);
	do
		svc_executor_count(executor, &counts);
	while (counts.looks < before.looks + 20);
	assert_int_equal(counts.threads, 3);
	assert_int_equal(
	    counts.takeovers, 2 + atomic_load(&reader.lost_by_chance));
	assert_int_equal(svc_executor_off_loop(executor), 2);
	count_up(&reader.gate);
	count_await(&reader.done, 6);
	/* As soon as the two are back their threads take part again. */
	svc_loop_post(reader.loop, &reader.detach);
	count_await(&reader.detached, 1);
	await_counts(executor, 3, 2);
	svc_executor_destroy(executor);
	close(ends[0]);
	close(ends[1]);
	count_fini(&reader.done);
	count_fini(&reader.blocked);
	count_fini(&reader.detached);
	count_fini(&reader.gate);
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

/* ------------------------------------------------------- many descriptors */

/* A loop that is kept busy until all that is to be ready at once is. */
struct held_loop {
	struct svc_task task;
	struct waiting waiting;
};

static void
held_run(struct svc_task *task)
{
	struct held_loop *held = (struct held_loop *)(void *)task;
	waiting_run(&held->waiting);
}

static void
held_begin(struct held_loop *held, struct svc_loop *loop)
{
	waiting_init(&held->waiting);
	held->task.run = held_run;
	svc_loop_post(loop, &held->task);
	count_await(&held->waiting.began, 1);
}

static void
held_end(struct held_loop *held)
{
	count_up(&held->waiting.gate);
	count_await(&held->waiting.ended, 1);
}

struct rival {
	struct svc_source source;
	int write_end;
	struct rival *other;
	struct count *ready;
	int left;         /* turns it asks for */
	char *order, own; /* who had a turn, in order */
};

static void
rival_init(struct rival *rival, struct svc_loop *loop, struct count *ready,
    void (*fn)(struct svc_source *source, unsigned events))
{
	int ends[2];
	assert_int_equal(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
	rival->source.fd = ends[0];
	rival->source.ready = fn;
	rival->write_end = ends[1];
	rival->ready = ready;
	assert_int_equal(
	    svc_source_attach(loop, &rival->source, SVC_IO_READ, NULL), SVC_OK);
}

static void
detach_the_other(struct svc_source *source, unsigned events)
{
	struct rival *rival = (struct rival *)(void *)source;
	(void)events;
	svc_source_detach(&rival->other->source);
	svc_source_detach(source);
	count_up(rival->ready);
}

/* Both are ready in the same look at the descriptors; the first one closes the
 * second, whose event is waiting. */
static void
events_of_a_detached_source_are_dropped(void **state)
{
	(void)state;
	struct rival rivals[2] = {{.left = 0}, {.left = 0}};
	struct held_loop held;
	struct count ready, after;
	count_init(&ready);
	count_init(&after);
	struct svc_executor *executor = create(1, 4);
	struct svc_loop *loop = svc_executor_loop(executor);
	held_begin(&held, loop);
	for (int i = 0; i < 2; i++) {
		rivals[i].other = &rivals[1 - i];
		rival_init(&rivals[i], loop, &ready, detach_the_other);
		assert_int_equal(write(rivals[i].write_end, "x", 1), 1);
	}
	held_end(&held);
	count_await(&ready, 1);
	for (int i = 1; i <= 3; i++) {
		struct numbered task = {
		    .task.run = task_count, .count = &after};
		svc_loop_post(loop, &task.task);
		count_await(&after, i);
	}
	svc_executor_destroy(executor);
	assert_int_equal(ready.value, 1);
	for (int i = 0; i < 2; i++) {
		close(rivals[i].source.fd);
		close(rivals[i].write_end);
	}
	waiting_fini(&held.waiting);
	count_fini(&ready);
	count_fini(&after);
}

/* Takes one byte a turn, or, without bytes, one of the turns it has. */
static void
take_a_turn(struct svc_source *source, unsigned events)
{
	struct rival *rival = (struct rival *)(void *)source;
	char byte;
	(void)events;
	bool has_byte = read(source->fd, &byte, 1) == 1;
	if (!has_byte && rival->left == 0)
		return;
	size_t n = strlen(rival->order);
	rival->order[n] = rival->own;
	rival->order[n + 1] = '\0';
	if (rival->left > 0 && --rival->left > 0)
		assert_true(svc_source_yield(source));
	count_up(rival->ready);
}

/* One source has work for six turns, the other one a byte at a time, which is
 * always there when the loop looks: they alternate. */
static void
who_yields_comes_after_the_others(void **state)
{
	(void)state;
	char order[32] = "";
	struct rival busy = {.left = 6, .order = order, .own = 'a'};
	struct rival other = {.left = 0, .order = order, .own = 'b'};
	struct held_loop held;
	struct count turns;
	count_init(&turns);
	struct svc_executor *executor = create(1, 4);
	struct svc_loop *loop = svc_executor_loop(executor);
	held_begin(&held, loop);
	rival_init(&busy, loop, &turns, take_a_turn);
	rival_init(&other, loop, &turns, take_a_turn);
	assert_true(svc_source_kick(&busy.source));
	assert_int_equal(write(other.write_end, "xxxxx", 5), 5);
	held_end(&held);
	count_await(&turns, 11);
	assert_string_equal(order, "abababababa");
	svc_executor_destroy(executor);
	close(busy.source.fd);
	close(busy.write_end);
	close(other.source.fd);
	close(other.write_end);
	waiting_fini(&held.waiting);
	count_fini(&turns);
}

#define CROWD 256 /* of which a look finds a part */
static struct {
	struct rival rivals[CROWD];
	struct count done;
	int shares, longest; /* since the first of them was found ready */
	int turns;           /* of the first */
} crowd;

static void
crowd_ready(struct svc_source *source, unsigned events)
{
	struct rival *rival = (struct rival *)(void *)source;
	bool over = crowd.turns == 10;
	char byte;
	if (events & SVC_IO_KICK) {
		crowd.shares++;
		if (!over)
			assert_true(svc_source_yield(source));
	}
	if (!(events & SVC_IO_READ))
		return;
	if (over)
		assert_int_equal(read(source->fd, &byte, 1), 1);
	if (over || rival != &crowd.rivals[0])
		return;
	if (crowd.turns > 0 && crowd.shares > crowd.longest)
		crowd.longest = crowd.shares;
	crowd.shares = 0;
	if (++crowd.turns == 10)
		count_up(&crowd.done);
}

/* It takes several looks to find all that is ready: meanwhile who yields has no
 * more turns than that. */
static void
a_crowd_that_yields_has_a_turn_each(void **state)
{
	(void)state;
	struct held_loop held;
	count_init(&crowd.done);
	struct svc_executor *executor = create(1, 4);
	struct svc_loop *loop = svc_executor_loop(executor);
	held_begin(&held, loop);
	for (int i = 0; i < CROWD; i++) {
		struct rival *rival = &crowd.rivals[i];
		rival_init(rival, loop, NULL, crowd_ready);
		assert_int_equal(write(rival->write_end, "x", 1), 1);
		assert_true(svc_source_kick(&rival->source));
	}
	held_end(&held);
	count_await(&crowd.done, 1);
	svc_executor_destroy(executor);
	assert_true(crowd.longest <= 2 * CROWD);
	for (int i = 0; i < CROWD; i++) {
		close(crowd.rivals[i].source.fd);
		close(crowd.rivals[i].write_end);
	}
	waiting_fini(&held.waiting);
	count_fini(&crowd.done);
}

/* ---------------------------------------------------------- deferred tasks */

/* A task that defers another one; who ran is noted, in order. */
struct deferring {
	struct svc_task task; /* first */
	struct svc_task deferred;
	struct svc_loop *loop;
	struct count *ran;
	char *order, own; /* 'a' for the task, 'A' for what it defers */
};

static void
note(struct deferring *deferring, char who)
{
	size_t n = strlen(deferring->order);
	deferring->order[n] = who;
	deferring->order[n + 1] = '\0';
	count_up(deferring->ran);
}

static void
deferred_run(struct svc_task *task)
{
	struct deferring *deferring =
	    (struct deferring *)(void *)((char *)task -
					 offsetof(struct deferring, deferred));
	note(deferring, (char)(deferring->own - 'a' + 'A'));
}

static void
deferring_run(struct svc_task *task)
{
	struct deferring *deferring = (struct deferring *)(void *)task;
	deferring->deferred.run = deferred_run;
	svc_loop_defer(deferring->loop, &deferring->deferred);
	note(deferring, deferring->own);
}

/* They wait for the tasks at hand, but for no more than 16 of them, nor for
 * one that takes long. */
static void
deferred_tasks_come_together(void **state)
{
	(void)state;
	enum { TASKS = 20 };
	char order[64] = "";
	struct deferring tasks[TASKS];
	struct held_loop held, again, slow;
	struct count ran;
	count_init(&ran);
	svc_clock_manual();
	struct svc_executor *executor = create(1, 4);
	struct svc_loop *loop = svc_executor_loop(executor);
	for (int i = 0; i < TASKS; i++)
		tasks[i] = (struct deferring){.task.run = deferring_run,
		    .loop = loop,
		    .ran = &ran,
		    .order = order,
		    .own = 'a'};
	held_begin(&held, loop);
	for (int i = 0; i < TASKS; i++)
		svc_loop_post(loop, &tasks[i].task);
	held_end(&held);
	count_await(&ran, 2 * TASKS);
	assert_string_equal(order, "aaaaaaaaaaaaaaaaAAAAAAAAAAAAAAAA"
				   "aaaaAAAA");

	order[0] = '\0';
	tasks[1].own = 'b';
	held_begin(&again, loop);
	svc_loop_post(loop, &tasks[0].task);
	waiting_init(&slow.waiting);
	slow.task.run = held_run;
	svc_loop_post(loop, &slow.task);
	svc_loop_post(loop, &tasks[1].task);
	held_end(&again);
	count_await(&slow.waiting.began, 1);
	assert_string_equal(order, "a");
	svc_clock_advance(1);
	held_end(&slow);
	count_await(&ran, 2 * TASKS + 4);
	assert_string_equal(order, "aAbB");
	svc_executor_destroy(executor);
	svc_clock_real();
	waiting_fini(&held.waiting);
	waiting_fini(&again.waiting);
	waiting_fini(&slow.waiting);
	count_fini(&ran);
}

struct blocker {
	struct svc_task task; /* first */
	struct svc_loop *loop;
	struct count *until, *ended;
};

static void
blocker_run(struct svc_task *task)
{
	struct blocker *blocker = (struct blocker *)(void *)task;
	svc_loop_enter(blocker->loop);
	count_await(blocker->until, 2);
	svc_loop_leave(blocker->loop);
	count_up(blocker->ended);
}

/* What was deferred does not wait for a handler that blocks. */
static void
a_new_owner_runs_what_was_deferred(void **state)
{
	(void)state;
	char order[8] = "";
	struct held_loop held;
	struct count ran, ended;
	count_init(&ran);
	count_init(&ended);
	struct svc_executor *executor = create(1, 4);
	struct svc_loop *loop = svc_executor_loop(executor);
	struct deferring task = {.task.run = deferring_run,
	    .loop = loop,
	    .ran = &ran,
	    .order = order,
	    .own = 'a'};
	struct blocker blocker = {.task.run = blocker_run,
	    .loop = loop,
	    .until = &ran,
	    .ended = &ended};
	held_begin(&held, loop);
	svc_loop_post(loop, &task.task);
	svc_loop_post(loop, &blocker.task);
	held_end(&held);
	count_await(&ended, 1);
	assert_string_equal(order, "aA");
	svc_executor_destroy(executor);
	waiting_fini(&held.waiting);
	count_fini(&ran);
	count_fini(&ended);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_loop_runs_once_there_is_memory),
	    cmocka_unit_test(tasks_run_in_order),
	    cmocka_unit_test(the_monitor_takes_blocked_loops_over),
	    cmocka_unit_test(a_handler_may_say_that_it_will_block),
	    cmocka_unit_test(loops_come_back_when_no_thread_was_left),
	    cmocka_unit_test(timers_fire_in_order_by_the_clock),
	    cmocka_unit_test(kicks_between_two_runs_are_one),
	    cmocka_unit_test(events_of_a_detached_source_are_dropped),
	    cmocka_unit_test(who_yields_comes_after_the_others),
	    cmocka_unit_test(a_crowd_that_yields_has_a_turn_each),
	    cmocka_unit_test(deferred_tasks_come_together),
	    cmocka_unit_test(a_new_owner_runs_what_was_deferred),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
