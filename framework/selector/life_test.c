/* SPDX-License-Identifier: Apache-2.0 */
/* What selectors keep and free, whoever uses them meanwhile. */
#include "selector_test.h"

#include <support/scarce.h>

static void
test_links(void **state)
{
	static int first, second, third;
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL);
	struct svc_pick pick = {.service = "a"};
	struct svc_target *old, *target;

	(void)state;
	open_service(selector, "a", 0);
	say_node(SVC_WATCH_NODE, "a", "1", "a-0", "h:1", "north");
	old = must_pick(selector, &pick);
	assert_null(svc_target_link(old));
	assert_true(svc_target_relink(old, NULL, &first));
	assert_false(svc_target_relink(old, NULL, &second));
	assert_true(svc_target_relink(old, &first, &second));

	/* Other metadata, and even another version: the same connection. */
	say_node(SVC_WATCH_NODE, "a", "1", "a-0", "h:1", "south");
	target = must_pick(selector, &pick);
	assert_ptr_not_equal(target, old);
	assert_string_equal(
	    svc_headers_get(old->node->metadata, "zone"), "north");
	assert_string_equal(
	    svc_headers_get(target->node->metadata, "zone"), "south");
	assert_ptr_equal(svc_target_link(target), &second);
	svc_target_done(old, SVC_OUTCOME_OK);
	assert_int_equal(unlinked, 0);

	/* Another address: a new one; the old goes with its last hold. */
	say_node(SVC_WATCH_NODE, "a", "1", "a-0", "h:2", "south");
	svc_target_hold(target);
	svc_target_done(target, SVC_OUTCOME_NEUTRAL);
	assert_int_equal(unlinked, 0);
	assert_ptr_equal(svc_target_link(target), &second);
	svc_target_done(target, SVC_OUTCOME_OK);
	assert_int_equal(unlinked, 1);
	target = must_pick(selector, &pick);
	assert_null(svc_target_link(target));
	assert_true(svc_target_relink(target, NULL, &third));
	svc_target_done(target, SVC_OUTCOME_OK);

	/* Gone without a hold: at once. */
	say_node(SVC_WATCH_GONE, "a", "1", "a-0", "h:2", NULL);
	assert_int_equal(unlinked, 2);

	/* The same id comes back: nothing of before sticks to it. */
	say_node(SVC_WATCH_NODE, "a", "1", "a-0", "h:2", NULL);
	target = must_pick(selector, &pick);
	assert_null(svc_target_link(target));
	assert_true(svc_target_relink(target, NULL, &first));
	svc_target_done(target, SVC_OUTCOME_OK);
	svc_selector_destroy(selector);
	assert_int_equal(unlinked, 3);
	svc_registry_destroy(registry);
}

/* A thread that has picked and now does something else. */
struct idler {
	struct svc_selector *selector;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool picked, leave;
};

static void *
idle(void *arg)
{
	struct idler *idler = arg;
	struct svc_pick pick = {.service = "a"};
	struct svc_target *target = must_pick(idler->selector, &pick);

	assert_true(svc_target_relink(target, NULL, idler));
	svc_target_done(target, SVC_OUTCOME_OK);
	pthread_mutex_lock(&idler->lock);
	idler->picked = true;
	pthread_cond_broadcast(&idler->cond);
	while (!idler->leave)
		svc_cond_wait(&idler->cond, &idler->lock, INT64_MAX);
	pthread_mutex_unlock(&idler->lock);
	return NULL;
}

static void
test_idle_threads_keep_nothing(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL);
	struct idler idler = {.selector = selector};
	pthread_t thread;

	(void)state;
	pthread_mutex_init(&idler.lock, NULL);
	svc_cond_init(&idler.cond);
	open_service(selector, "a", 1);
	assert_int_equal(
	    svc_thread_start(&thread, "idle", idle, &idler), SVC_OK);
	pthread_mutex_lock(&idler.lock);
	while (!idler.picked)
		svc_cond_wait(&idler.cond, &idler.lock, INT64_MAX);
	pthread_mutex_unlock(&idler.lock);

	say_number(SVC_WATCH_GONE, "a", 0);
	assert_int_equal(unlinked, 1);
	/* The thread outlives the selector, too. */
	svc_selector_destroy(selector);
	pthread_mutex_lock(&idler.lock);
	idler.leave = true;
	pthread_cond_broadcast(&idler.cond);
	pthread_mutex_unlock(&idler.lock);
	svc_thread_join(thread);
	pthread_cond_destroy(&idler.cond);
	pthread_mutex_destroy(&idler.lock);
	svc_registry_destroy(registry);
}

/* What threads remember of a selector does not fit the next one, though it
 * may lie at the same place. */
static void
test_selectors_come_and_go(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_pick pick = {.service = "a"};

	(void)state;
	for (int i = 0; i < 200; i++) {
		struct svc_selector *selector = make_selector(registry, NULL);
		struct svc_target *target;

		open_service(selector, "a", 0);
		say_number(SVC_WATCH_NODE, "a", i);
		target = must_pick(selector, &pick);
		assert_int_equal(number_of(target), i);
		svc_target_done(target, SVC_OUTCOME_OK);
		svc_selector_destroy(selector);
	}
	svc_registry_destroy(registry);
}

static void
test_unknown_names_are_bounded(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL);
	struct svc_pick pick = {.service = "a"};
	struct svc_pick_memo memo = {.found = NULL};
	struct svc_target *target;
	char name[32];

	(void)state;
	open_service(selector, "a", 2);
	for (int i = 0; i < 1500; i++) {
		snprintf(name, sizeof(name), "nobody-%d", i);
		open_service(selector, name, 0);
		if (i == 0)
			assert_int_equal(
			    svc_selector_pick(selector,
				&(struct svc_pick){.service = "nobody-0"},
				&target, NULL),
			    SVC_E_NOT_FOUND);
		if (i == 0)
			assert_null(svc_selector_pick_at_once(
			    selector, "nobody-0", NULL, NULL, &memo));
	}
	assert_non_null(memo.found);
	assert_null(
	    svc_selector_pick_at_once(selector, "nobody-0", NULL, NULL, &memo));
	assert_null(memo.found);
	assert_in_range(hand_watches(), 2, 257);
	target = must_pick(selector, &pick);
	svc_target_done(target, SVC_OUTCOME_OK);
	/* One that was forgotten is asked for again. */
	open_service(selector, "nobody-0", 1);
	pick.service = "nobody-0";
	svc_target_done(must_pick(selector, &pick), SVC_OUTCOME_OK);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

static void
test_allocation_failures(void **state)
{
	struct svc_pick pick = {.service = "a"};
	struct svc_pick one = {.service = "a", .version = "1"};
	struct svc_registry *registry = make_registry();
	bool hit = true;
	struct svc_target *target;

	(void)state;
	/* This thread's own part is made once. */
	{
		struct svc_selector *selector = make_selector(registry, NULL);

		open_service(selector, "a", 1);
		svc_target_done(must_pick(selector, &pick), SVC_OUTCOME_OK);
		svc_selector_destroy(selector);
	}
	for (long nth = 0; hit; nth++) {
		struct svc_selector_config config = {
		    .registry = registry, .strategy = "round_robin"};
		struct svc_selector *selector = NULL;
		int n = 0, tries = 0;
		svc_err rc;

		scarce_begin();
		scarce_at(nth);
		rc = svc_selector_create(&config, &selector, NULL);
		if (rc == SVC_OK) {
			rc = svc_selector_pick(selector, &pick, &target, NULL);
			assert_true(rc == SVC_E_TIMEDOUT || rc == SVC_E_NOMEM);
			say(SVC_WATCH_BEGIN, "a", NULL);
			for (int i = 0; i < 6; i++)
				say_number(SVC_WATCH_NODE, "a", i);
			say(SVC_WATCH_SYNC, "a", NULL);
			rc = svc_selector_pick(selector, &one, &target, NULL);
			if (rc == SVC_OK)
				svc_target_done(target, SVC_OUTCOME_OK);
			say_number(SVC_WATCH_GONE, "a", 3);
			say_number(SVC_WATCH_NODE, "a", 9);
		} else {
			assert_int_equal(rc, SVC_E_NOMEM);
		}
		scarce_end();
		hit = scarce_hit();

		/* With memory again, the view becomes whole. */
		while (selector != NULL && n != 6) {
			assert_true(tries++ < 3);
			svc_selector_pick(selector, &pick, &target, NULL) ==
				SVC_OK
			    ? svc_target_done(target, SVC_OUTCOME_OK)
			    : (void)0;
			say(SVC_WATCH_BEGIN, "a", NULL);
			for (int i = 0; i < 10; i++)
				if (i < 3 || i == 4 || i == 5 || i == 9)
					say_number(SVC_WATCH_NODE, "a", i);
			say(SVC_WATCH_SYNC, "a", NULL);
			n = 0;
			svc_selector_each(
			    selector, "a", 0, count_each, &n, NULL);
		}
		svc_selector_destroy(selector);
	}
	svc_registry_destroy(registry);
}

/* A view that lost a node to want of memory is not full until it is told
 * again. */
static void
test_a_lost_node_is_waited_for(void **state)
{
	struct svc_registry *registry = make_registry();
	bool hit = true;
	struct svc_pick at_once = {.service = "a"};
	struct svc_target *target;

	(void)state;
	for (long nth = 0; hit; nth++) {
		struct svc_selector *selector = make_selector(registry, NULL);
		struct waiter waiter = {
		    .selector = selector,
		    .pick = {.service = "a",
			.node = "a-0001",
			.deadline_at_ms = INT64_MAX},
		};

		svc_selector_pick(selector, &at_once, &target, NULL);
		say(SVC_WATCH_BEGIN, "a", NULL);
		say_number(SVC_WATCH_NODE, "a", 0);
		scarce_begin();
		scarce_at(nth);
		say_number(SVC_WATCH_NODE, "a", 1);
		scarce_end();
		hit = scarce_hit();
		say(SVC_WATCH_SYNC, "a", NULL);
		svc_thread_start(
		    &waiter.thread, "waiter", wait_for_pick, &waiter);
		while (pthread_tryjoin_np(waiter.thread, NULL) != 0) {
			say(SVC_WATCH_BEGIN, "a", NULL);
			say_number(SVC_WATCH_NODE, "a", 0);
			say_number(SVC_WATCH_NODE, "a", 1);
			say(SVC_WATCH_SYNC, "a", NULL);
			sched_yield();
		}
		assert_int_equal(waiter.result, SVC_OK);
		svc_selector_destroy(selector);
	}
	svc_registry_destroy(registry);
}

struct churn {
	struct svc_selector *selector;
	atomic_bool stop;
	atomic_int linked;
	atomic_long picked;
};

static void *
churn_picks(void *arg)
{
	struct churn *churn = arg;
	static int mark;

	while (!atomic_load(&churn->stop)) {
		uint64_t dice = svc_random();
		struct svc_pick pick = {
		    .service = dice & 1 ? "a" : "b",
		    .version = dice & 6 ? NULL : "1",
		};
		struct svc_target *target;
		svc_err rc;

		rc = svc_selector_pick(churn->selector, &pick, &target, NULL);
		if (rc == SVC_E_NOT_FOUND)
			continue;
		assert_int_equal(rc, SVC_OK);
		assert_int_equal(target->node->id[0], pick.service[0]);
		if (svc_target_relink(target, NULL, &mark))
			atomic_fetch_add(&churn->linked, 1);
		svc_target_done(
		    target, dice & 0x300 ? SVC_OUTCOME_OK : SVC_OUTCOME_FAILED);
		atomic_fetch_add(&churn->picked, 1);
	}
	return NULL;
}

/* Short-lived threads, each with a memory of its own to clean up. */
static void *
churnreads(void *arg)
{
	struct churn *churn = arg;
	struct svc_pick pick = {.service = "a"};
	struct waiter waiter;

	while (!atomic_load(&churn->stop)) {
		waiter =
		    (struct waiter){.selector = churn->selector, .pick = pick};
		assert_int_equal(svc_thread_start(&waiter.thread, "short",
				     wait_for_pick, &waiter),
		    SVC_OK);
		svc_thread_join(waiter.thread);
		assert_true(waiter.result == SVC_OK ||
			    waiter.result == SVC_E_NOT_FOUND);
	}
	return NULL;
}

static void
test_churn(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, "round_robin");
	struct churn churn = {.selector = selector};
	pthread_t threads[4];

	(void)state;
	open_service(selector, "a", 20);
	open_service(selector, "b", 0);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(svc_thread_start(&threads[i], "churn",
				     i < 3 ? churn_picks : churnreads, &churn),
		    SVC_OK);
	for (int i = 0; i < 3000 || atomic_load(&churn.picked) < 20000; i++) {
		const char *service = i % 3 ? "a" : "b";

		say_number(svc_random() & 1 ? SVC_WATCH_NODE : SVC_WATCH_GONE,
		    service, (int)svc_random_below(30));
		if (i % 100 == 0)
			say_node(SVC_WATCH_NODE, "a", "2", "a-0001",
			    i % 200 ? "h:1" : "h:2", "z");
	}
	atomic_store(&churn.stop, true);
	for (size_t i = 0; i < 4; i++)
		svc_thread_join(threads[i]);
	svc_selector_destroy(selector);
	assert_int_equal(atomic_load(&unlinked), atomic_load(&churn.linked));
	svc_registry_destroy(registry);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_links),
	    cmocka_unit_test(test_idle_threads_keep_nothing),
	    cmocka_unit_test(test_selectors_come_and_go),
	    cmocka_unit_test(test_unknown_names_are_bounded),
	    cmocka_unit_test(test_allocation_failures),
	    cmocka_unit_test(test_a_lost_node_is_waited_for),
	    cmocka_unit_test(test_churn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
