/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/busy_poll.h>
#include <svc/clock.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { LIMIT = 20 };

struct place {
	struct svc_busy_poll poll;
	int64_t now_us;
	bool crowd;
	int looks, misses;
};

/* One wait for what comes after so long. */
static void
wait_for(struct place *place, int64_t after_us, bool come)
{
	int64_t began_us = place->now_us;
	int64_t until_us = svc_busy_poll_begin(&place->poll, LIMIT, began_us);
	bool looks = until_us > began_us, found = looks && after_us <= LIMIT;
	assert_true(!looks || until_us == began_us + LIMIT);
	place->looks += looks;
	place->misses += looks && !found;
	place->now_us += after_us;
	svc_busy_poll_looked(&place->poll, found, found && place->crowd,
	    found ? place->now_us : until_us);
	if (!found)
		svc_busy_poll_slept(
		    &place->poll, come, place->crowd, place->now_us);
}

static void
wait_often(struct place *place, int times, int64_t after_us)
{
	place->looks = place->misses = 0;
	for (int i = 0; i < times; i++)
		wait_for(place, after_us, true);
}

/* Waits between which it works. */
static void
wait_and_work(struct place *place, int times, int64_t after_us, int64_t work_us)
{
	for (int i = 0; i < times; i++) {
		wait_for(place, after_us, true);
		place->now_us += work_us;
	}
}

static int
begin(void **state)
{
	static struct place place;
	memset(&place, 0, sizeof(place));
	place.now_us = 1000;
	*state = &place;
	return 0;
}

static void
short_waits_are_looked_through(void **state)
{
	struct place *place = *state;
	wait_often(place, 100, 5);
	assert_int_equal(place->looks, 99);
	/* A longer one now and then changes nothing. */
	for (int i = 0; i < 10; i++) {
		wait_often(place, 1, 90);
		wait_often(place, 9, 5);
		assert_int_equal(place->looks, 9);
	}
}

static void
long_waits_are_slept_through(void **state)
{
	struct place *place = *state;
	wait_often(place, 1000, 100);
	assert_int_equal(place->looks, 0);
	/* What was learned is forgotten after a few. */
	wait_often(place, 100, 5);
	wait_often(place, 1000, 100);
	assert_in_range(place->looks, 1, 8);
	assert_int_equal(place->misses, place->looks);
}

static void
who_is_wrong_tries_more_rarely(void **state)
{
	struct place *place = *state;
	/* Too long for a look, and short enough to hope. */
	wait_often(place, 1000, 45);
	int first = place->looks;
	wait_often(place, 1000, 45);
	assert_in_range(place->looks, 1, first);
	wait_often(place, 10000, 45);
	assert_in_range(place->looks, 1, 10000 / 15);
	/* It learns anew as soon as it is right. */
	wait_often(place, 600, 5);
	assert_true(place->looks > 300);
}

/* Either would be wrong by itself: it waits for the other one's wake-up. */
static void
two_that_wait_by_turns_begin_together(void **state)
{
	struct place *one = *state;
	struct place other = *one;
	for (int i = 0; i < 10000; i++) {
		bool both = one->poll.score > 0 && other.poll.score > 0;
		int64_t us = both ? 6 : 30;
		wait_for(one, us, true);
		wait_for(&other, us, true);
	}
	one->looks = other.looks = 0;
	for (int i = 0; i < 100; i++) {
		wait_for(one, 6, true);
		wait_for(&other, 6, true);
	}
	assert_int_equal(one->looks + other.looks, 200);
}

static void
who_works_for_many_by_turns_sleeps(void **state)
{
	struct place *place = *state;
	wait_and_work(place, 100, 2, 6);
	assert_in_range(place->looks, 90, 100);
	place->crowd = true;
	wait_and_work(place, 10, 2, 6);
	place->looks = 0;
	wait_and_work(place, 1000, 2, 6);
	assert_int_equal(place->looks, 0);
	/* With time to spare it serves each as soon as it can. */
	wait_and_work(place, 100, 6, 2);
	place->looks = 0;
	wait_and_work(place, 100, 6, 2);
	assert_int_equal(place->looks, 100);
	/* And where there is but one to wait for. */
	wait_and_work(place, 100, 2, 6);
	place->looks = 0;
	place->crowd = false;
	wait_and_work(place, 200, 2, 6);
	assert_in_range(place->looks, 100, 200);
}

/* A timer's end, or a look at the clock, is nothing to wait for. */
static void
what_did_not_come_is_not_hoped_for(void **state)
{
	struct place *place = *state;
	for (int i = 0; i < 100; i++)
		wait_for(place, 30, false);
	assert_int_equal(place->looks, 0);
}

static void
a_limit_of_0_and_a_manual_clock_never_look(void **state)
{
	struct place *place = *state;
	wait_often(place, 10, 5);
	assert_true(place->looks > 0);
	assert_int_equal(svc_busy_poll_begin(&place->poll, 0, 50), 50);
	svc_clock_manual();
	assert_int_equal(svc_busy_poll_begin(&place->poll, LIMIT, 50), 50);
	svc_clock_real();
	assert_int_equal(
	    svc_busy_poll_begin(&place->poll, LIMIT, 50), 50 + LIMIT);
	svc_busy_poll_looked(&place->poll, true, false, 51);
}

static void
half_of_the_processors_are_left_to_others(void **state)
{
	enum { MANY = 1000 };
	struct place *one = *state;
	static struct svc_busy_poll polls[MANY];
	int looks = 0;
	wait_often(one, 10, 5);
	for (int i = 0; i < MANY; i++) {
		polls[i] = one->poll;
		looks += svc_busy_poll_begin(&polls[i], LIMIT, 50) > 50;
	}
	assert_int_equal(looks, svc_thread_processors() / 2);
	for (int i = 0; i < MANY; i++)
		svc_busy_poll_looked(&polls[i], true, false, 51);
	wait_often(one, 10, 5);
	assert_int_equal(one->looks, looks > 0 ? 10 : 0);
}

struct loops {
	pthread_barrier_t begin, end;
};

static void *
run_loop(void *arg)
{
	struct loops *loops = arg;
	svc_busy_poll_awake(true);
	pthread_barrier_wait(&loops->begin);
	pthread_barrier_wait(&loops->end);
	svc_busy_poll_awake(false);
	return NULL;
}

static void
who_would_take_the_place_of_a_loop_that_works_sleeps(void **state)
{
	enum { MANY = 64 };
	struct place *place = *state;
	unsigned n = (unsigned)svc_thread_processors() / 2;
	pthread_t threads[MANY];
	struct loops loops;
	if (n > MANY)
		skip();
	pthread_barrier_init(&loops.begin, NULL, n + 1);
	pthread_barrier_init(&loops.end, NULL, n + 1);
	wait_often(place, 10, 5);
	assert_true(place->looks > 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(
		    svc_thread_start(&threads[i], "loop", run_loop, &loops),
		    SVC_OK);
	pthread_barrier_wait(&loops.begin);
	wait_often(place, 10, 5);
	assert_int_equal(place->looks, 0);
	pthread_barrier_wait(&loops.end);
	for (unsigned i = 0; i < n; i++)
		svc_thread_join(threads[i]);
	wait_often(place, 10, 5);
	assert_int_equal(place->looks, 10);
	/* A loop's own being awake is not in its way. */
	svc_busy_poll_awake(true);
	wait_often(place, 10, 5);
	assert_int_equal(place->looks, 10);
	svc_busy_poll_awake(false);
	pthread_barrier_destroy(&loops.begin);
	pthread_barrier_destroy(&loops.end);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, begin)
	const struct CMUnitTest tests[] = {
	    TEST(short_waits_are_looked_through),
	    TEST(long_waits_are_slept_through),
	    TEST(who_is_wrong_tries_more_rarely),
	    TEST(two_that_wait_by_turns_begin_together),
	    TEST(who_works_for_many_by_turns_sleeps),
	    TEST(what_did_not_come_is_not_hoped_for),
	    TEST(a_limit_of_0_and_a_manual_clock_never_look),
	    TEST(half_of_the_processors_are_left_to_others),
	    TEST(who_would_take_the_place_of_a_loop_that_works_sleeps),
	};
	const struct CMUnitTest alone[] = {
	    TEST(half_of_the_processors_are_left_to_others),
	};
	return svc_thread_processors() > 1
		   ? cmocka_run_group_tests_name("busy_poll", tests, NULL, NULL)
		   : cmocka_run_group_tests_name(
			 "on one processor", alone, NULL, NULL);
#undef TEST
}
