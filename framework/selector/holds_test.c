/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds are counted apart by thread, and a hold taken on one thread may be
 * given back on another: a node that has gone keeps its link until the last
 * hold is back, and then loses it once.
 */
#include <svc/clock.h>
#include <svc/selector.h>

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define PICKERS 3
#define NODES 8
#define ROUNDS 400
#define ON_THE_WAY 32 /* holds between two threads */

/* What a target has as its link. */
struct mark {
	atomic_int holders;
	atomic_bool gone;
};

static struct {
	struct svc_selector *selector;
	atomic_bool stop;
	atomic_int linked, unlinked;
	_Atomic(struct svc_target *) passed[ON_THE_WAY];
	atomic_long moved;
} here;

static void
unlink_mark(void *link, void *arg)
{
	struct mark *mark = link;
	(void)arg;
	assert_int_equal(atomic_load(&mark->holders), 0);
	assert_false(atomic_exchange(&mark->gone, true));
	atomic_fetch_add(&here.unlinked, 1);
	svc_mem_free(mark);
}

static struct mark *
mark_of(struct svc_target *target)
{
	struct mark *mark = svc_target_link(target);
	if (mark != NULL)
		return mark;
	mark = svc_mem_calloc(1, sizeof(*mark));
	assert_non_null(mark);
	if (svc_target_relink(target, NULL, mark)) {
		atomic_fetch_add(&here.linked, 1);
		return mark;
	}
	svc_mem_free(mark);
	return svc_target_link(target);
}

static void
give_back(struct svc_target *target)
{
	struct mark *mark = svc_target_link(target);
	assert_false(atomic_load(&mark->gone));
	atomic_fetch_sub(&mark->holders, 1);
	svc_target_done(target, SVC_OUTCOME_OK);
}

/* Picks, doubles some holds, and swaps its hold for one of another thread. */
static void *
pick_and_pass(void *arg)
{
	(void)arg;
	while (!atomic_load(&here.stop)) {
		struct svc_pick pick = {.service = "a"};
		struct svc_target *target;
		svc_err rc =
		    svc_selector_pick(here.selector, &pick, &target, NULL);
		if (rc == SVC_E_NOT_FOUND)
			continue;
		assert_int_equal(rc, SVC_OK);
		atomic_fetch_add(&mark_of(target)->holders, 1);
		if (svc_random_below(4) == 0) {
			svc_target_hold(target);
			atomic_fetch_add(&mark_of(target)->holders, 1);
			give_back(target);
		}
		target = atomic_exchange(
		    &here.passed[svc_random_below(ON_THE_WAY)], target);
		if (target != NULL)
			give_back(target);
		atomic_fetch_add(&here.moved, 1);
	}
	return NULL;
}

static void
set_node(struct svc_registry *registry, int number, bool there)
{
	char id[16], address[32];
	struct svc_error err = {0};
	snprintf(id, sizeof(id), "a-%d", number);
	snprintf(address, sizeof(address), "127.0.0.1:%d", number + 1);
	struct svc_node node = {.id = id, .address = address};
	struct svc_record record = {
	    .name = "a", .version = "1", .nodes = &node, .n_nodes = 1};
	svc_err rc =
	    there ? svc_registry_announce(registry, &record, 3600 * 1000, &err)
		  : svc_registry_withdraw(registry, &record, &err);
	assert_string_equal(err.text, "");
	assert_int_equal(rc, SVC_OK);
}

static void
links_outlive_the_last_hold(const char *strategy)
{
	memset(&here, 0, sizeof(here));
	struct svc_registry_config config = {
	    .timeout_ms = 1000, .address = "holds_test"};
	struct svc_registry *registry;
	assert_int_equal(
	    svc_registry_create("memory", &config, &registry, NULL), SVC_OK);
	struct svc_selector_config selector = {
	    .registry = registry, .strategy = strategy, .unlink = unlink_mark};
	assert_int_equal(
	    svc_selector_create(&selector, &here.selector, NULL), SVC_OK);
	for (int i = 0; i < NODES; i++)
		set_node(registry, i, true);
	/* The view has begun before the pickers come. */
	struct svc_pick pick = {
	    .service = "a", .deadline_at_ms = svc_deadline(20000)};
	struct svc_target *target;
	svc_err rc;
	while ((rc = svc_selector_pick(here.selector, &pick, &target, NULL)) !=
	       SVC_OK) {
		assert_int_equal(rc, SVC_E_NOT_FOUND);
		assert_true(svc_remaining(pick.deadline_at_ms) > 0);
		sched_yield();
	}
	svc_target_done(target, SVC_OUTCOME_NEUTRAL);
	pthread_t threads[PICKERS];
	for (int i = 0; i < PICKERS; i++)
		assert_int_equal(
		    svc_thread_start(&threads[i], "pick", pick_and_pass, NULL),
		    SVC_OK);
	for (int i = 0; i < ROUNDS || atomic_load(&here.moved) < 20000; i++) {
		int number = i % NODES;
		set_node(registry, number, false);
		sched_yield();
		set_node(registry, number, true);
	}
	atomic_store(&here.stop, true);
	for (int i = 0; i < PICKERS; i++)
		svc_thread_join(threads[i]);
	for (int i = 0; i < ON_THE_WAY; i++) {
		target = atomic_exchange(&here.passed[i], NULL);
		if (target != NULL)
			give_back(target);
	}
	svc_selector_destroy(here.selector);
	assert_true(atomic_load(&here.linked) > 0);
	assert_int_equal(
	    atomic_load(&here.unlinked), atomic_load(&here.linked));
	svc_registry_destroy(registry);
}

static void
with_random(void **state)
{
	(void)state;
	links_outlive_the_last_hold("random");
}

static void
with_round_robin(void **state)
{
	(void)state;
	links_outlive_the_last_hold("round_robin");
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(with_random),
	    cmocka_unit_test(with_round_robin),
	};
	return cmocka_run_group_tests_name("holds", tests, NULL, NULL);
}
