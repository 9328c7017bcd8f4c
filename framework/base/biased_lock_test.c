/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/biased_lock.h>
#include <svc/clock.h>

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { OFTEN = 1000, ROUNDS = 300, THREADS = 4 };

struct shared {
	struct svc_biased_lock lock;
	pthread_cond_t changed;
	int64_t count; /* plain: only the lock guards it */
	int64_t other;
	_Atomic bool ready;
	bool done;
};

static void
set_up(struct shared *shared)
{
	memset(shared, 0, sizeof(*shared));
	svc_biased_lock_init(&shared->lock);
	svc_cond_init(&shared->changed);
}

static void
tear_down(struct shared *shared)
{
	pthread_cond_destroy(&shared->changed);
	svc_biased_lock_destroy(&shared->lock);
}

static void
count_up(struct shared *shared, int times)
{
	for (int i = 0; i < times; i++) {
		svc_biased_lock_take(&shared->lock);
		int64_t count = shared->count;
		shared->other++;
		shared->count = count + 1;
		svc_biased_lock_leave(&shared->lock);
	}
}

static bool
is_biased(const struct shared *shared)
{
	return __atomic_load_n(&shared->lock.owner, __ATOMIC_RELAXED) != NULL;
}

static void
becomes_biased_to_one_thread(void **state)
{
	(void)state;
	struct shared shared;
	set_up(&shared);
	assert_false(is_biased(&shared));
	count_up(&shared, OFTEN);
	assert_int_equal(is_biased(&shared), svc_thread_fence_others());
	assert_int_equal(shared.count, OFTEN);
	tear_down(&shared);
}

static void *
take_once(void *arg)
{
	count_up(arg, 1);
	return NULL;
}

static void
loses_its_bias_to_another(void **state)
{
	(void)state;
	struct shared shared;
	set_up(&shared);
	for (int round = 1; round <= 5; round++) {
		while (svc_thread_fence_others() && !is_biased(&shared))
			count_up(&shared, 1);
		int64_t before = shared.count;
		pthread_t thread;
		assert_int_equal(
		    svc_thread_start(&thread, "other", take_once, &shared),
		    SVC_OK);
		svc_thread_join(thread);
		assert_false(is_biased(&shared));
		assert_int_equal(shared.count, before + 1);
	}
	/* Each time it took longer. */
	count_up(&shared, OFTEN);
	assert_false(is_biased(&shared));
	tear_down(&shared);
}

/* Runs of one thread, long enough for a bias, that others break into. */
static void *
count_in_runs(void *arg)
{
	struct shared *shared = arg;
	for (int round = 0; round < ROUNDS; round++) {
		count_up(shared, OFTEN / 10);
	}
	return NULL;
}

static void
excludes_whatever_its_bias(void **state)
{
	(void)state;
	struct shared shared;
	set_up(&shared);
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(svc_thread_start(&threads[i], "counter",
				     count_in_runs, &shared),
		    SVC_OK);
	for (int i = 0; i < THREADS; i++)
		svc_thread_join(threads[i]);
	assert_int_equal(shared.count, THREADS * ROUNDS * OFTEN / 10);
	assert_int_equal(shared.other, shared.count);
	tear_down(&shared);
}

/* The biased thread and one that takes the bias away again and again. */
static void *
break_in(void *arg)
{
	struct shared *shared = arg;
	bool done = false;
	while (!done) {
		svc_biased_lock_take(&shared->lock);
		int64_t count = shared->count;
		shared->other++;
		shared->count = count + 1;
		done = shared->done;
		/* As patient as at first, so that the bias comes back. */
		shared->lock.patience = 4;
		svc_biased_lock_leave(&shared->lock);
	}
	return NULL;
}

static void
excludes_while_the_bias_goes_to_and_fro(void **state)
{
	(void)state;
	struct shared shared;
	set_up(&shared);
	shared.lock.patience = 4;
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(
		    svc_thread_start(&threads[i], "other", break_in, &shared),
		    SVC_OK);
	count_up(&shared, 20 * OFTEN);
	svc_biased_lock_take(&shared.lock);
	shared.done = true;
	svc_biased_lock_leave(&shared.lock);
	for (int i = 0; i < THREADS; i++)
		svc_thread_join(threads[i]);
	assert_true(shared.count >= 20 * OFTEN);
	assert_int_equal(shared.other, shared.count);
	tear_down(&shared);
}

/* By its bias it can hold only one. */
static void
holds_two_at_once(void **state)
{
	(void)state;
	struct shared one, other;
	set_up(&one);
	set_up(&other);
	count_up(&one, OFTEN);
	count_up(&other, OFTEN);
	for (int i = 0; i < OFTEN; i++) {
		svc_biased_lock_take(&one.lock);
		count_up(&other, 1);
		one.count++;
		svc_biased_lock_leave(&one.lock);
	}
	assert_int_equal(one.count, 2 * OFTEN);
	assert_int_equal(other.count, 2 * OFTEN);
	tear_down(&one);
	tear_down(&other);
}

static void *
tell(void *arg)
{
	struct shared *shared = arg;
	while (!atomic_load(&shared->ready))
		sched_yield();
	count_up(shared, OFTEN); /* biased to it while the other one waits */
	svc_biased_lock_take(&shared->lock);
	shared->done = true;
	pthread_cond_signal(&shared->changed);
	svc_biased_lock_leave(&shared->lock);
	return NULL;
}

static void
waits_with_a_bias_and_without(void **state)
{
	(void)state;
	for (int times = 0; times <= OFTEN; times += OFTEN) {
		struct shared shared;
		set_up(&shared);
		count_up(&shared, times);
		pthread_t thread;
		assert_int_equal(
		    svc_thread_start(&thread, "teller", tell, &shared), SVC_OK);
		svc_biased_lock_take(&shared.lock);
		atomic_store(&shared.ready, true);
		while (!shared.done)
			assert_int_equal(
			    svc_biased_lock_wait(&shared.lock, &shared.changed,
				svc_deadline(60000)),
			    SVC_OK);
		shared.count++; /* it is held again */
		svc_biased_lock_leave(&shared.lock);
		svc_thread_join(thread);
		assert_int_equal(shared.count, times + OFTEN + 1);
		tear_down(&shared);
	}
}

static void
gives_up_waiting_in_time(void **state)
{
	(void)state;
	struct shared shared;
	set_up(&shared);
	count_up(&shared, OFTEN);
	svc_biased_lock_take(&shared.lock);
	svc_err code = SVC_OK;
	while (code == SVC_OK)
		code = svc_biased_lock_wait(
		    &shared.lock, &shared.changed, svc_deadline(1));
	assert_int_equal(code, SVC_E_TIMEDOUT);
	svc_biased_lock_leave(&shared.lock);
	tear_down(&shared);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(becomes_biased_to_one_thread),
	    cmocka_unit_test(loses_its_bias_to_another),
	    cmocka_unit_test(excludes_whatever_its_bias),
	    cmocka_unit_test(excludes_while_the_bias_goes_to_and_fro),
	    cmocka_unit_test(holds_two_at_once),
	    cmocka_unit_test(waits_with_a_bias_and_without),
	    cmocka_unit_test(gives_up_waiting_in_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
