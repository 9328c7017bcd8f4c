/* SPDX-License-Identifier: Apache-2.0 */
#include "clock_private.h"

#include <linux/membarrier.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int
real_clock(void **state)
{
	(void)state;
	svc_clock_real();
	return 0;
}

static void
deadlines_saturate(void **state)
{
	(void)state;
	svc_clock_manual();
	int64_t now = svc_now_ms();
	assert_int_equal(svc_deadline(250), now + 250);
	assert_int_equal(svc_deadline(0), now);
	assert_int_equal(svc_deadline(-7), now);
	assert_true(svc_deadline(SVC_FOREVER) == INT64_MAX);
	assert_true(svc_deadline(INT64_MAX) == INT64_MAX);
	assert_int_equal(svc_remaining(now + 250), 250);
	assert_int_equal(svc_remaining(now - 1), 0);
	assert_int_equal(svc_remaining(INT64_MIN), 0);
	assert_int_equal(svc_remaining(INT64_MAX), SVC_FOREVER);
}

static void
manual_clock_stands_until_moved(void **state)
{
	(void)state;
	int64_t before = svc_now_ms(), unix_before = svc_now_unix_ms();
	svc_clock_advance(1000000);
	assert_true(svc_now_ms() - before < 1000000);
	svc_clock_manual();
	assert_true(svc_clock_is_manual());
	int64_t now = svc_now_us(), wall = svc_now_unix_ms();
	assert_true(now / 1000 >= before && wall >= unix_before);
	svc_clock_advance(3600 * 1000);
	assert_int_equal(svc_now_us(), now + INT64_C(3600000000));
	assert_int_equal(svc_now_unix_ms(), wall + 3600 * 1000);
	svc_clock_real();
	assert_false(svc_clock_is_manual());
	assert_true(svc_now_us() < now + INT64_C(3600000000));
}

static void
the_coarse_clock_follows(void **state)
{
	(void)state;
	int64_t now_ms = svc_now_ms();
	while (svc_now_coarse_ms() < now_ms) /* a tick */
		;
	int64_t coarse_ms = svc_now_coarse_ms();
	assert_true(coarse_ms <= svc_now_ms());
	svc_clock_manual();
	assert_int_equal(svc_now_coarse_ms(), svc_now_ms());
	svc_clock_advance(3600 * 1000);
	assert_int_equal(svc_now_coarse_ms(), svc_now_ms());
}

struct waiter {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	atomic_int timed_out;
	atomic_int waiting;
	bool signalled;
	int64_t timeout_ms;
};

static void
waiter_init(struct waiter *waiter, int64_t timeout_ms)
{
	*waiter = (struct waiter){.timeout_ms = timeout_ms};
	pthread_mutex_init(&waiter->mutex, NULL);
	svc_cond_init(&waiter->cond);
}

static void
waiter_fini(struct waiter *waiter)
{
	pthread_cond_destroy(&waiter->cond);
	pthread_mutex_destroy(&waiter->mutex);
}

static void *
wait_for_it(void *arg)
{
	struct waiter *waiter = arg;
	int64_t deadline = svc_deadline(waiter->timeout_ms);
	svc_err err = SVC_OK;
	pthread_mutex_lock(&waiter->mutex);
	waiter->waiting++;
	while (!waiter->signalled && err == SVC_OK)
		err = svc_cond_wait(&waiter->cond, &waiter->mutex, deadline);
	waiter->timed_out += err == SVC_E_TIMEDOUT;
	pthread_mutex_unlock(&waiter->mutex);
	return NULL;
}

/* Until `count` threads are inside their wait: they hold the mutex before. */
static void
await_waiting(struct waiter *waiter, int count)
{
	for (bool there = false; !there;) {
		pthread_mutex_lock(&waiter->mutex);
		there = waiter->waiting == count;
		pthread_mutex_unlock(&waiter->mutex);
	}
}

static void
real_wait_ends_at_its_deadline(void **state)
{
	(void)state;
	struct waiter waiter;
	waiter_init(&waiter, 20);
	int64_t before = svc_now_ms();
	wait_for_it(&waiter);
	assert_int_equal(waiter.timed_out, 1);
	assert_true(svc_now_ms() - before >= 20);
	pthread_mutex_lock(&waiter.mutex);
	assert_int_equal(
	    svc_cond_wait(&waiter.cond, &waiter.mutex, 0), SVC_E_TIMEDOUT);
	pthread_mutex_unlock(&waiter.mutex);
	waiter_fini(&waiter);
}

static void
advance_wakes_those_that_are_due(void **state)
{
	(void)state;
	enum { THREADS = 4 };
	svc_clock_manual();
	struct waiter early, late;
	waiter_init(&early, 1000);
	waiter_init(&late, 5000);
	pthread_t threads[2 * THREADS];
	for (size_t i = 0; i < 2 * THREADS; i++)
		assert_int_equal(svc_thread_start(&threads[i], "svc-wait",
				     wait_for_it, i < THREADS ? &early : &late),
		    SVC_OK);
	await_waiting(&early, THREADS);
	await_waiting(&late, THREADS);
	svc_clock_advance(999);
	assert_int_equal(early.timed_out, 0);
	svc_clock_advance(1);
	for (size_t i = 0; i < THREADS; i++)
		svc_thread_join(threads[i]);
	assert_int_equal(early.timed_out, THREADS);
	assert_int_equal(late.timed_out, 0);
	/* The others can still be signalled. */
	pthread_mutex_lock(&late.mutex);
	late.signalled = true;
	pthread_cond_broadcast(&late.cond);
	pthread_mutex_unlock(&late.mutex);
	for (size_t i = THREADS; i < 2 * THREADS; i++)
		svc_thread_join(threads[i]);
	assert_int_equal(late.timed_out, 0);
	waiter_fini(&early);
	waiter_fini(&late);
}

static void
the_real_clock_ends_manual_waits(void **state)
{
	(void)state;
	struct waiter waiter;
	waiter_init(&waiter, 1);
	pthread_t thread;
	svc_clock_manual();
	svc_thread_start(&thread, "svc-wait", wait_for_it, &waiter);
	await_waiting(&waiter, 1);
	svc_clock_real();
	svc_thread_join(thread);
	assert_int_equal(waiter.timed_out, 1);
	waiter_fini(&waiter);
}

/* Waits and advances in a race: none may be missed, or this never ends. */
static void *
wait_again_and_again(void *arg)
{
	struct waiter *waiter = arg;
	pthread_mutex_lock(&waiter->mutex);
	for (int i = 0; i < 500; i++) {
		int64_t deadline = svc_deadline(1 + i % 3);
		while (svc_cond_wait(&waiter->cond, &waiter->mutex, deadline) ==
		       SVC_OK)
			;
	}
	pthread_mutex_unlock(&waiter->mutex);
	waiter->timed_out++;
	return NULL;
}

static void
no_advance_is_missed(void **state)
{
	(void)state;
	svc_clock_manual();
	struct waiter waiter;
	waiter_init(&waiter, 0);
	pthread_t threads[3];
	for (size_t i = 0; i < 3; i++)
		svc_thread_start(
		    &threads[i], "svc-wait", wait_again_and_again, &waiter);
	while (waiter.timed_out < 3)
		svc_clock_advance(1);
	for (size_t i = 0; i < 3; i++)
		svc_thread_join(threads[i]);
	waiter_fini(&waiter);
}

static void
count_call(void *arg)
{
	++*(int *)arg;
}

static void
listeners_hear_of_every_move(void **state)
{
	(void)state;
	int one = 0, other = 0;
	assert_int_equal(svc_clock_on_advance(count_call, &one), SVC_OK);
	assert_int_equal(svc_clock_on_advance(count_call, &other), SVC_OK);
	svc_clock_manual();
	svc_clock_advance(1);
	svc_clock_off_advance(count_call, &one);
	svc_clock_advance(1);
	svc_clock_real();
	svc_clock_off_advance(count_call, &other);
	svc_clock_off_advance(count_call, &other);
	svc_clock_manual();
	assert_int_equal(one, 2);
	assert_int_equal(other, 4);
}

static void *
look_around(void *arg)
{
	char *name = arg;
	sigset_t mask;
	pthread_getname_np(pthread_self(), name, 16);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	return sigismember(&mask, SIGTERM) && sigismember(&mask, SIGPIPE) &&
		       !sigismember(&mask, SIGSEGV)
		   ? arg
		   : NULL;
}

static void
threads_have_a_name_and_no_signals(void **state)
{
	(void)state;
	pthread_t thread;
	char name[16] = "";
	void *result = NULL;
	assert_int_equal(svc_thread_start(&thread, "svc-name-is-too-long",
			     look_around, name),
	    SVC_OK);
	pthread_join(thread, &result);
	assert_string_equal(name, "svc-name-is-too");
	assert_ptr_equal(result, name);
	sigset_t mask;
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	assert_false(sigismember(&mask, SIGTERM));
}

static void
a_seed_repeats(void **state)
{
	(void)state;
	uint64_t first[8];
	svc_random_seed(42);
	for (int i = 0; i < 8; i++)
		first[i] = svc_random();
	svc_random_seed(42);
	for (int i = 0; i < 8; i++)
		assert_true(svc_random() == first[i]);
	svc_random_seed(43);
	assert_true(svc_random() != first[0]);
}

static void
below_is_even(void **state)
{
	(void)state;
	svc_random_seed(1);
	assert_int_equal(svc_random_below(0), 0);
	assert_int_equal(svc_random_below(1), 0);
	int count[10] = {0};
	for (int i = 0; i < 100000; i++)
		count[svc_random_below(10)]++;
	/* 10,000 each; the deviation is 95, so this is more than five. */
	for (int i = 0; i < 10; i++)
		assert_in_range(count[i], 9500, 10500);
	int upper = 0;
	uint64_t bound = UINT64_C(3) << 62;
	for (int i = 0; i < 30000; i++) {
		uint64_t number = svc_random_below(bound);
		assert_true(number < bound);
		upper += number >= bound / 3 * 2;
	}
	assert_in_range(upper, 9500, 10500);
}

static void
uuids_have_their_form(void **state)
{
	(void)state;
	char one[37], other[37];
	svc_uuid(one);
	svc_uuid(other);
	assert_int_equal(strlen(one), 36);
	assert_int_equal(strspn(one, "0123456789abcdef-"), 36);
	for (size_t i = 0; i < 36; i++)
		assert_int_equal(
		    one[i] == '-', i == 8 || i == 13 || i == 18 || i == 23);
	assert_int_equal(one[14], '4');
	assert_non_null(strchr("89ab", one[19]));
	assert_string_not_equal(one, other);
}

/* Threads and children do not repeat each other. */
static void *
draw(void *arg)
{
	*(uint64_t *)arg = svc_random();
	return NULL;
}

static void
nobody_draws_alike(void **state)
{
	(void)state;
	uint64_t drawn[3];
	pthread_t threads[2];
	for (size_t i = 0; i < 2; i++)
		svc_thread_start(&threads[i], "svc-draw", draw, &drawn[i]);
	for (size_t i = 0; i < 2; i++)
		svc_thread_join(threads[i]);
	assert_true(drawn[0] != drawn[1]);

	int pipes[2];
	assert_int_equal(pipe(pipes), 0);
	draw(&drawn[0]);
	pid_t child = fork();
	assert_true(child >= 0);
	draw(&drawn[0]);
	if (child == 0)
		_exit(write(pipes[1], drawn, sizeof(drawn[0])) !=
		      (ssize_t)sizeof(drawn[0]));
	assert_int_equal(
	    read(pipes[0], &drawn[1], sizeof(drawn[1])), sizeof(drawn[1]));
	assert_true(drawn[0] != drawn[1]);
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	close(pipes[0]);
	close(pipes[1]);
}

static void *
do_nothing(void *arg)
{
	return arg;
}

/* Whoever needs a fence later, in the middle of calls, need not register. */
static void
the_first_thread_prepares_fences(void **state)
{
	(void)state;
	long can = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
	if (can < 0 || (can & MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0)
		skip(); /* a system without */
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "svc-first", do_nothing, NULL), SVC_OK);
	svc_thread_join(thread);
	assert_int_equal(
	    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_first_thread_prepares_fences),
	    cmocka_unit_test_teardown(deadlines_saturate, real_clock),
	    cmocka_unit_test_teardown(
		manual_clock_stands_until_moved, real_clock),
	    cmocka_unit_test_teardown(the_coarse_clock_follows, real_clock),
	    cmocka_unit_test(real_wait_ends_at_its_deadline),
	    cmocka_unit_test_teardown(
		advance_wakes_those_that_are_due, real_clock),
	    cmocka_unit_test_teardown(
		the_real_clock_ends_manual_waits, real_clock),
	    cmocka_unit_test_teardown(no_advance_is_missed, real_clock),
	    cmocka_unit_test_teardown(listeners_hear_of_every_move, real_clock),
	    cmocka_unit_test(threads_have_a_name_and_no_signals),
	    cmocka_unit_test(a_seed_repeats),
	    cmocka_unit_test(below_is_even),
	    cmocka_unit_test(uuids_have_their_form),
	    cmocka_unit_test(nobody_draws_alike),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
