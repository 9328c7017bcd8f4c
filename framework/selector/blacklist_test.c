/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that fail are left out, all of them never, and none for ever. */
#include "selector_test.h"

static void
count_blacklisted(const struct svc_target *target, bool blacklisted, void *arg)
{
	(void)target;
	*(int *)arg += blacklisted;
}

static int
blacklisted(struct svc_selector *selector)
{
	int n = 0;

	assert_int_equal(svc_selector_each(selector, "a", INT64_MAX,
			     count_blacklisted, &n, NULL),
	    SVC_OK);
	return n;
}

static void
test_blacklist(void **state)
{
	struct svc_registry *registry;
	struct svc_selector *selector;
	struct svc_pick pick = {.service = "a"};
	struct svc_target *held[3], *early;
	int counts[3], probes = 0;

	(void)state;
	svc_clock_manual();
	registry = make_registry();
	selector = make_selector(registry, NULL);
	open_service(selector, "a", 3);
	early = must_pick(
	    selector, &(struct svc_pick){.service = "a", .node = "a-0000"});

	/* A success in between, or too long a time, and it stays. */
	end_one(selector, "a-0000", SVC_OUTCOME_FAILED);
	end_one(selector, "a-0000", SVC_OUTCOME_FAILED);
	end_one(selector, "a-0000", SVC_OUTCOME_NEUTRAL);
	end_one(selector, "a-0000", SVC_OUTCOME_OK);
	end_one(selector, "a-0000", SVC_OUTCOME_FAILED);
	end_one(selector, "a-0000", SVC_OUTCOME_FAILED);
	assert_int_equal(blacklisted(selector), 0);
	svc_clock_advance(30001);
	end_one(selector, "a-0000", SVC_OUTCOME_FAILED);
	svc_clock_advance(29000);
	end_one(selector, "a-0000", SVC_OUTCOME_FAILED);
	assert_int_equal(blacklisted(selector), 0);
	count_picks(selector, &pick, 300, counts, 3);
	assert_true(counts[0] > 0);

	/* The third within 30 s: out, for others only. */
	end_one(selector, "a-0000", SVC_OUTCOME_FAILED);
	assert_int_equal(blacklisted(selector), 1);
	count_picks(selector, &pick, 300, counts, 3);
	assert_int_equal(counts[0], 0);
	assert_true(counts[1] > 0 && counts[2] > 0);

	/* A late answer of a call that began before changes nothing. */
	svc_clock_advance(20000);
	svc_target_done(early, SVC_OUTCOME_FAILED);
	svc_clock_advance(9999);
	count_picks(selector, &pick, 300, counts, 3);
	assert_int_equal(counts[0], 0);

	/* Its time is over: one try at a time, until it says something. */
	svc_clock_advance(1);
	for (int i = 0; i < 200; i++) {
		held[0] = must_pick(selector, &pick);
		if (number_of(held[0]) == 0) {
			probes++;
			break;
		}
		svc_target_done(held[0], SVC_OUTCOME_OK);
	}
	assert_int_equal(probes, 1);
	count_picks(selector, &pick, 300, counts, 3);
	assert_int_equal(counts[0], 0);
	svc_target_done(held[0], SVC_OUTCOME_NEUTRAL);
	do {
		held[0] = must_pick(selector, &pick);
		if (number_of(held[0]) != 0)
			svc_target_done(held[0], SVC_OUTCOME_OK);
	} while (number_of(held[0]) != 0);
	svc_target_done(held[0], SVC_OUTCOME_FAILED);
	count_picks(selector, &pick, 300, counts, 3);
	assert_int_equal(counts[0], 0);

	/* The next try succeeds: it is back, and three failures are needed
	 * again. */
	svc_clock_advance(30000);
	do {
		held[0] = must_pick(selector, &pick);
		svc_target_done(held[0], SVC_OUTCOME_OK);
	} while (number_of(held[0]) != 0);
	assert_int_equal(blacklisted(selector), 0);
	end_one(selector, "a-0000", SVC_OUTCOME_FAILED);
	count_picks(selector, &pick, 300, counts, 3);
	assert_true(counts[0] > 50);

	/* One that gives no sign of life is out at once. */
	end_one(selector, "a-0000", SVC_OUTCOME_OK);
	end_one(selector, "a-0000", SVC_OUTCOME_SILENT);
	assert_int_equal(blacklisted(selector), 1);
	count_picks(selector, &pick, 300, counts, 3);
	assert_int_equal(counts[0], 0);

	/* To who has tried the others in vain it is better than one of them. */
	held[1] = must_pick(
	    selector, &(struct svc_pick){.service = "a", .node = "a-0001"});
	held[2] = must_pick(
	    selector, &(struct svc_pick){.service = "a", .node = "a-0002"});
	const struct svc_target *tried[] = {held[1], held[2]};
	pick.avoid = tried;
	pick.n_avoid = 2;
	count_picks(selector, &pick, 30, counts, 3);
	assert_int_equal(counts[0], 30);
	svc_target_done(held[1], SVC_OUTCOME_NEUTRAL);
	svc_target_done(held[2], SVC_OUTCOME_NEUTRAL);

	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
	svc_clock_real();
}

static void
test_panic(void **state)
{
	static const char *const ids[] = {
	    "a-0000", "a-0001", "a-0002", "a-0003"};
	struct svc_registry *registry;
	struct svc_selector *selector;
	struct svc_pick pick = {.service = "a"};
	int counts[4];

	(void)state;
	svc_clock_manual();
	registry = make_registry();
	selector = make_selector(registry, NULL);
	open_service(selector, "a", 4);
	for (size_t node = 0; node < 4; node++) {
		for (int i = 0; i < 3; i++)
			end_one(selector, ids[node], SVC_OUTCOME_FAILED);
		count_picks(selector, &pick, 400, counts, 4);
		/* Half of them out: they are left out. More: all take part. */
		for (int i = 0; i < 4; i++)
			assert_int_equal(
			    counts[i] == 0, node < 2 && i <= (int)node);
	}
	/* The only one that fits a wish is given though blacklisted. */
	pick.node = "a-0000";
	count_picks(selector, &pick, 10, counts, 4);
	assert_int_equal(counts[0], 10);

	/* One by one they recover. */
	for (size_t node = 0; node < 4; node++)
		end_one(selector, ids[node], SVC_OUTCOME_OK);
	assert_int_equal(blacklisted(selector), 0);
	pick.node = NULL;
	count_picks(selector, &pick, 400, counts, 4);
	for (int i = 0; i < 4; i++)
		assert_true(counts[i] > 0);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
	svc_clock_real();
}

/* Many threads see one try of a node on probation. */
struct prober {
	struct svc_selector *selector;
	struct svc_target *target;
	pthread_t thread;
};

static void *
probe(void *arg)
{
	struct prober *prober = arg;
	struct svc_pick pick = {.service = "a"};

	prober->target = must_pick(prober->selector, &pick);
	return NULL;
}

static void
test_one_probe(void **state)
{
	struct svc_registry *registry;
	struct svc_selector *selector;
	struct prober probers[8];

	(void)state;
	svc_clock_manual();
	registry = make_registry();
	selector = make_selector(registry, NULL);
	open_service(selector, "a", 2);
	for (int i = 0; i < 3; i++)
		end_one(selector, "a-0000", SVC_OUTCOME_FAILED);
	for (int round = 0; round < 20; round++) {
		int tries = 0;

		svc_clock_advance(30000);
		for (size_t i = 0; i < 8; i++) {
			probers[i].selector = selector;
			assert_int_equal(svc_thread_start(&probers[i].thread,
					     "probe", probe, &probers[i]),
			    SVC_OK);
		}
		for (size_t i = 0; i < 8; i++)
			svc_thread_join(probers[i].thread);
		for (size_t i = 0; i < 8; i++) {
			bool bad = number_of(probers[i].target) == 0;

			tries += bad;
			svc_target_done(probers[i].target,
			    bad ? SVC_OUTCOME_FAILED : SVC_OUTCOME_OK);
		}
		assert_in_range(tries, 0, 1);
	}
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
	svc_clock_real();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_blacklist),
	    cmocka_unit_test(test_panic),
	    cmocka_unit_test(test_one_probe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
