/* SPDX-License-Identifier: Apache-2.0 */
/* Who is picked, of which view. */
#include "selector_test.h"

static void
say_draining(const char *service, const char *id, const char *address)
{
	struct one one = {
	    .record = {.name = service, .version = "1"},
	    .node = {.id = id, .address = address},
	};

	one.node.metadata = svc_headers_create();
	assert_non_null(one.node.metadata);
	assert_int_equal(
	    svc_headers_set(one.node.metadata, SVC_DRAINING, "true"), SVC_OK);
	one.record.nodes = &one.node;
	one.record.n_nodes = 1;
	say(SVC_WATCH_NODE, service, &one.record);
	svc_headers_destroy(one.node.metadata);
}

static void
test_draining(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, "round_robin");
	struct svc_pick pick = {.service = "a"};
	int counts[3];

	(void)state;
	open_service(selector, "a", 3);
	say_draining("a", "a-0001", "10.0.0.1:1001");
	count_picks(selector, &pick, 60, counts, 3);
	assert_int_equal(counts[1], 0);
	assert_int_equal(counts[0], 30);
	assert_int_equal(counts[2], 30);
	/* One that stays after all is back. */
	say_number(SVC_WATCH_NODE, "a", 1);
	count_picks(selector, &pick, 60, counts, 3);
	assert_int_equal(counts[1], 20);
	/* When all are about to go, they are better than nobody. */
	say_draining("a", "a-0000", "10.0.0.1:1000");
	say_draining("a", "a-0001", "10.0.0.1:1001");
	say_draining("a", "a-0002", "10.0.0.1:1002");
	count_picks(selector, &pick, 60, counts, 3);
	assert_int_equal(counts[0] + counts[1] + counts[2], 60);
	assert_true(counts[0] > 0 && counts[1] > 0 && counts[2] > 0);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

static void
test_bad_use(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL), *none;
	struct svc_selector_config config = {.registry = registry};
	struct svc_target *target;
	struct svc_error err;

	(void)state;
	must_fail(selector, &(struct svc_pick){.service = NULL}, SVC_E_INVAL,
	    "no service was named");
	assert_int_equal(
	    svc_selector_pick(selector, &(struct svc_pick){.service = "../etc"},
		&target, &err),
	    SVC_E_INVAL);
	config.strategy = "no_such";
	assert_int_equal(
	    svc_selector_create(&config, &none, &err), SVC_E_NOT_FOUND);
	assert_non_null(strstr(err.text, "no_such"));
	assert_non_null(strstr(err.text, "round_robin"));
	config.strategy = NULL;
	config.failures = -1;
	assert_int_equal(
	    svc_selector_create(&config, &none, &err), SVC_E_INVAL);
	svc_selector_destroy(NULL);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

static void
test_silent_registry(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL);
	int64_t began = svc_now_ms();

	(void)state;
	must_fail(selector,
	    &(struct svc_pick){
		.service = "a", .deadline_at_ms = svc_deadline(50)},
	    SVC_E_TIMEDOUT,
	    "registry hand has given no view of service \"a\" in time");
	assert_true(svc_now_ms() - began >= 50);
	assert_int_equal(hand_watches(), 1);
	svc_selector_destroy(selector);
	assert_int_equal(hand_watches(), 0);
	svc_registry_destroy(registry);
}

static void
test_absent_then_there(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL);
	struct svc_pick pick = {.service = "late", .deadline_at_ms = INT64_MAX};

	(void)state;
	open_service(selector, "late", 0);
	must_fail(selector, &pick, SVC_E_NOT_FOUND, "service not found: late");
	say_number(SVC_WATCH_NODE, "late", 0);
	svc_target_done(must_pick(selector, &pick), SVC_OUTCOME_OK);
	say_number(SVC_WATCH_GONE, "late", 0);
	must_fail(selector, &pick, SVC_E_NOT_FOUND, "service not found: late");
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

/* A registry that stood still may forget all nodes for a moment, and so may a
 * service of one instance that is restarted. */
static void
test_away_for_a_moment(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_pick pick = {.service = "a", .dont_wait = true};
	struct svc_selector *selector;
	struct svc_target *target;
	struct waiter waiter;

	(void)state;
	svc_clock_manual();
	selector = make_selector(registry, NULL);
	open_service(selector, "a", 2);
	say_number(SVC_WATCH_GONE, "a", 0);
	svc_target_done(must_pick(selector, &pick), SVC_OUTCOME_OK);
	say_number(SVC_WATCH_GONE, "a", 1);
	assert_int_equal(
	    svc_selector_pick(selector, &pick, &target, NULL), SVC_E_AGAIN);
	/* One that may wait no longer is told at once. */
	pick.dont_wait = false;
	must_fail(selector, &pick, SVC_E_NOT_FOUND, "service not found: a");
	/* One that may waits until somebody comes, */
	waiter = (struct waiter){.selector = selector,
	    .pick = {.service = "a", .deadline_at_ms = svc_deadline(60000)}};
	assert_int_equal(
	    svc_thread_start(&waiter.thread, "wait", wait_for_pick, &waiter),
	    SVC_OK);
	say_number(SVC_WATCH_NODE, "a", 2);
	svc_thread_join(waiter.thread);
	assert_int_equal(waiter.result, SVC_OK);
	/* or until the moment is over. */
	say_number(SVC_WATCH_GONE, "a", 2);
	waiter.pick.deadline_at_ms = INT64_MAX;
	assert_int_equal(
	    svc_thread_start(&waiter.thread, "wait", wait_for_pick, &waiter),
	    SVC_OK);
	svc_clock_advance(2000);
	svc_thread_join(waiter.thread);
	assert_int_equal(waiter.result, SVC_E_NOT_FOUND);
	pick.dont_wait = true;
	must_fail(selector, &pick, SVC_E_NOT_FOUND, "service not found: a");
	svc_selector_destroy(selector);
	svc_clock_real();
	svc_registry_destroy(registry);
}

static void
test_first_view(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL);
	struct waiter waiters[8];

	(void)state;
	/* Half of them wait for a service that has a node, and that is
	 * enough; the others for one whose full view is empty. */
	for (size_t i = 0; i < 8; i++) {
		waiters[i] = (struct waiter){.selector = selector,
		    .pick = {.service = i % 2 == 0 ? "some" : "none",
			.deadline_at_ms = svc_deadline(20000)}};
		assert_int_equal(svc_thread_start(&waiters[i].thread, "wait",
				     wait_for_pick, &waiters[i]),
		    SVC_OK);
	}
	while (hand_watches() < 2)
		sched_yield();
	say(SVC_WATCH_BEGIN, NULL, NULL);
	say_number(SVC_WATCH_NODE, "some", 1);
	say(SVC_WATCH_SYNC, "none", NULL);
	for (size_t i = 0; i < 8; i++) {
		svc_thread_join(waiters[i].thread);
		assert_int_equal(
		    waiters[i].result, i % 2 == 0 ? SVC_OK : SVC_E_NOT_FOUND);
	}
	assert_int_equal(hand_watches(), 2);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

/* A pick that finds only what does not fit, or what was tried already, waits
 * for the rest of the first view. */
static void
test_first_view_in_pieces(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL);
	struct svc_pick pick = {.service = "bits"};
	struct svc_target *first, *none;

	(void)state;
	assert_int_equal(
	    svc_selector_pick(selector, &pick, &none, NULL), SVC_E_TIMEDOUT);
	say(SVC_WATCH_BEGIN, "bits", NULL);
	say_number(SVC_WATCH_NODE, "bits", 0);
	pick.deadline_at_ms = svc_deadline(20000);
	first = must_pick(selector, &pick);

	struct waiter waiters[2] = {
	    {.selector = selector, .pick = pick},
	    {.selector = selector, .pick = pick},
	};
	waiters[0].pick.node = "bits-0001";
	waiters[1].pick.node = "bits-0002";
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(svc_thread_start(&waiters[i].thread, "wait",
				     wait_for_pick, &waiters[i]),
		    SVC_OK);
	say_number(SVC_WATCH_NODE, "bits", 1);
	say(SVC_WATCH_SYNC, "bits", NULL);
	for (size_t i = 0; i < 2; i++)
		svc_thread_join(waiters[i].thread);
	assert_int_equal(waiters[0].result, SVC_OK);
	assert_int_equal(waiters[1].result, SVC_E_UNAVAILABLE);

	pick.avoid = (const struct svc_target *const[]){first};
	pick.n_avoid = 1;
	struct svc_target *second = must_pick(selector, &pick);
	assert_string_equal(second->node->id, "bits-0001");
	svc_target_done(second, SVC_OUTCOME_OK);
	svc_target_done(first, SVC_OUTCOME_OK);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

static void
test_filters(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL);
	struct svc_pick pick = {.service = "a", .version = "1"};
	struct svc_target *tried[3], *target;
	bool seen[3] = {false};

	(void)state;
	open_service(selector, "a", 0);
	say_node(SVC_WATCH_NODE, "a", "1", "a-0", "h0:1", "north");
	say_node(SVC_WATCH_NODE, "a", "1", "a-1", "h1:1", "south");
	say_node(SVC_WATCH_NODE, "a", "2", "a-2", "h2:1", NULL);

	for (int i = 0; i < 50; i++) {
		target = must_pick(selector, &pick);
		assert_string_equal(target->record->version, "1");
		assert_string_equal(target->record->name, "a");
		svc_target_done(target, SVC_OUTCOME_OK);
	}
	pick.version = "3";
	must_fail(selector, &pick, SVC_E_UNAVAILABLE,
	    "service \"a\" has no node of version \"3\" (3 of other "
	    "versions)");
	struct svc_label labels[] = {{"zone", "south"}, {"rack", "7"}};
	pick =
	    (struct svc_pick){.service = "a", .labels = labels, .n_labels = 1};
	target = must_pick(selector, &pick);
	assert_string_equal(target->node->id, "a-1");
	svc_target_done(target, SVC_OUTCOME_OK);
	pick.n_labels = 2;
	must_fail(selector, &pick, SVC_E_UNAVAILABLE,
	    "service \"a\" has no node with label zone=south, rack=7 (3 "
	    "without)");
	pick.n_labels = 1;
	pick.version = "2";
	must_fail(selector, &pick, SVC_E_UNAVAILABLE,
	    "service \"a\" has no node of version \"2\" with label zone=south "
	    "(1 without)");
	pick = (struct svc_pick){.service = "a", .node = "h2:1"};
	target = must_pick(selector, &pick);
	assert_string_equal(target->node->id, "a-2");
	svc_target_done(target, SVC_OUTCOME_OK);
	for (int i = 0; i < 3; i++) {
		static const char *const ids[] = {"a-0", "a-1", "a-2"};
		pick.node = ids[i];
		target = must_pick(selector, &pick);
		assert_string_equal(target->node->id, ids[i]);
		svc_target_done(target, SVC_OUTCOME_OK);
	}
	pick.version = "1"; /* which that node does not have */
	must_fail(selector, &pick, SVC_E_UNAVAILABLE,
	    "node \"a-2\" of service \"a\" has version \"2\"; the call asks "
	    "for version \"1\"");
	/* Others have the label; this one has another value, and no rack. */
	pick.labels = labels;
	pick.n_labels = 2;
	pick.node = "h0:1";
	must_fail(selector, &pick, SVC_E_UNAVAILABLE,
	    "node \"h0:1\" of service \"a\" has version \"1\", zone=north, no "
	    "rack; the call asks for version \"1\", zone=south, rack=7");
	pick.n_labels = 1;
	pick.version = NULL;
	pick.node = "a-2";
	must_fail(selector, &pick, SVC_E_UNAVAILABLE,
	    "node \"a-2\" of service \"a\" has no zone; the call asks for "
	    "zone=south");
	pick.node = "a-1";
	target = must_pick(selector, &pick);
	assert_string_equal(target->node->id, "a-1");
	svc_target_done(target, SVC_OUTCOME_OK);
	pick.node = "a-9";
	must_fail(selector, &pick, SVC_E_UNAVAILABLE,
	    "service \"a\" has no node with the id or address \"a-9\" (3 "
	    "others)");

	/* Three tries reach three nodes, a fourth any of them. */
	pick = (struct svc_pick){
	    .service = "a", .avoid = (const struct svc_target *const *)tried};
	for (size_t i = 0; i < 3; i++) {
		pick.n_avoid = i;
		tried[i] = must_pick(selector, &pick);
		assert_false(seen[number_of(tried[i])]);
		seen[number_of(tried[i])] = true;
	}
	pick.n_avoid = 3;
	svc_target_done(must_pick(selector, &pick), SVC_OUTCOME_OK);
	for (size_t i = 0; i < 3; i++)
		svc_target_done(tried[i], SVC_OUTCOME_OK);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

static void
test_random_is_even(void **state)
{
	enum { NODES = 20, EACH = 5000 };
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, "random");
	struct svc_pick pick = {.service = "a"};
	int counts[NODES];
	double chi2 = 0;

	(void)state;
	svc_random_seed(7);
	open_service(selector, "a", NODES);
	count_picks(selector, &pick, NODES * EACH, counts, NODES);
	for (int i = 0; i < NODES; i++)
		chi2 += (double)(counts[i] - EACH) * (counts[i] - EACH) / EACH;
	/* 19 degrees of freedom: above 43.8 once in a thousand seeds. */
	assert_true(chi2 < 43.8);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

enum { RR_NODES = 7, RR_ROUNDS = 3000, RR_THREADS = 4 };

struct turner {
	struct svc_selector *selector;
	int counts[RR_NODES];
	pthread_t thread;
};

static void *
take_turns(void *arg)
{
	struct turner *turner = arg;
	struct svc_pick pick = {.service = "a"};

	count_picks(turner->selector, &pick, RR_NODES * RR_ROUNDS,
	    turner->counts, RR_NODES);
	return NULL;
}

static void
test_round_robin_is_exact(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, "round_robin");
	struct svc_pick pick = {.service = "a"};
	struct svc_pick one = {.service = "a", .version = "1"};
	struct turner turners[RR_THREADS];
	int sum[RR_NODES] = {0}, starts[RR_NODES] = {0}, different = 0;

	(void)state;
	open_service(selector, "a", RR_NODES);
	for (size_t t = 0; t < RR_THREADS; t++) {
		turners[t].selector = selector;
		assert_int_equal(svc_thread_start(&turners[t].thread, "turn",
				     take_turns, &turners[t]),
		    SVC_OK);
	}
	for (size_t t = 0; t < RR_THREADS; t++) {
		svc_thread_join(turners[t].thread);
		for (int i = 0; i < RR_NODES; i++)
			sum[i] += turners[t].counts[i];
	}
	for (int i = 0; i < RR_NODES; i++)
		assert_int_equal(sum[i], RR_THREADS * RR_ROUNDS);

	/* Two kinds of calls in turn: each is even for itself. */
	memset(sum, 0, sizeof(sum));
	for (int i = 0; i < 2 * RR_NODES; i++) {
		struct svc_target *target = must_pick(selector, &pick);

		svc_target_done(target, SVC_OUTCOME_OK);
		target = must_pick(selector, &one);
		sum[number_of(target)]++;
		svc_target_done(target, SVC_OUTCOME_OK);
	}
	for (int i = 0; i < RR_NODES; i++)
		assert_int_equal(sum[i], 2);
	svc_selector_destroy(selector);

	/* Clients that start together do not all begin at the same node. */
	for (int i = 0; i < 64; i++) {
		struct svc_target *target;

		selector = make_selector(registry, "round_robin");
		open_service(selector, "a", RR_NODES);
		target = must_pick(selector, &pick);
		starts[number_of(target)]++;
		svc_target_done(target, SVC_OUTCOME_OK);
		svc_selector_destroy(selector);
	}
	for (int i = 0; i < RR_NODES; i++)
		different += starts[i] > 0;
	assert_true(different >= 4);
	svc_registry_destroy(registry);
}

/* A change of the nodes does not send round robin back to its start. */
static void
test_round_robin_goes_on(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, "round_robin");
	struct svc_pick pick = {.service = "a"};
	int counts[4] = {0};

	(void)state;
	open_service(selector, "a", 4);
	for (int i = 0; i < 40; i++) {
		struct svc_target *target = must_pick(selector, &pick);

		counts[number_of(target)]++;
		svc_target_done(target, SVC_OUTCOME_OK);
		say_node(SVC_WATCH_NODE, "a", "1", "a-0001", "10.0.0.1:1001",
		    i % 2 == 0 ? "x" : "y");
	}
	for (int i = 0; i < 4; i++)
		assert_int_equal(counts[i], 10);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

/* Strategies of a program's own, one of them wrong. */
static size_t
last_pick(void *strategy, const struct svc_target *const *candidates, size_t n,
    const struct svc_pick *pick)
{
	(void)strategy;
	(void)candidates;
	(void)pick;
	return n - 1;
}

static size_t
wrong_pick(void *strategy, const struct svc_target *const *candidates, size_t n,
    const struct svc_pick *pick)
{
	(void)strategy;
	(void)candidates;
	(void)pick;
	return n;
}

static void
test_own_strategy(void **state)
{
	static const struct svc_strategy_ops last = {
	    .abi = SVC_STRATEGY_ABI,
	    .size = sizeof(last),
	    .name = "last",
	    .pick = last_pick,
	};
	static const struct svc_strategy_ops wrong = {
	    .abi = SVC_STRATEGY_ABI,
	    .size = sizeof(wrong),
	    .name = "wrong",
	    .pick = wrong_pick,
	};
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector;
	struct svc_pick pick = {.service = "a"};
	int counts[5];

	(void)state;
	assert_int_equal(
	    svc_catalogue_add(&svc_strategy_interface, &last, NULL), SVC_OK);
	assert_int_equal(
	    svc_catalogue_add(&svc_strategy_interface, &wrong, NULL), SVC_OK);
	selector = make_selector(registry, "last");
	open_service(selector, "a", 5);
	count_picks(selector, &pick, 20, counts, 5);
	assert_int_equal(counts[4], 20);
	svc_selector_destroy(selector);

	selector = make_selector(registry, "wrong");
	open_service(selector, "a", 5);
	must_fail(selector, &pick, SVC_E_INTERNAL,
	    "strategy wrong has chosen number 5 of 5 nodes");
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

static struct svc_pick seen_pick;

static size_t
seeing_pick(void *strategy, const struct svc_target *const *candidates,
    size_t n, const struct svc_pick *pick)
{
	(void)strategy;
	(void)candidates;
	seen_pick = *pick;
	return n / 2;
}

/* A pick without any wish but the key. */
static void
test_pick_at_once(void **state)
{
	static const struct svc_strategy_ops seeing = {
	    .abi = SVC_STRATEGY_ABI,
	    .size = sizeof(seeing),
	    .name = "seeing",
	    .pick = seeing_pick,
	};
	static const char *const ids[] = {"a-0000", "a-0001", "a-0002"};
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector;
	struct svc_pick pick = {.service = "a"};
	struct svc_pick_memo memo = {.found = NULL};
	struct svc_target *target;

	(void)state;
	assert_int_equal(
	    svc_catalogue_add(&svc_strategy_interface, &seeing, NULL), SVC_OK);
	selector = make_selector(registry, "seeing");
	assert_null(
	    svc_selector_pick_at_once(selector, "a", NULL, NULL, &memo));
	open_service(selector, "a", 3);
	svc_target_done(must_pick(selector, &pick), SVC_OUTCOME_OK);
	for (int i = 0; i < 2; i++) {
		const char *key = i == 0 ? NULL : "k";
		target =
		    svc_selector_pick_at_once(selector, "a", NULL, key, &memo);
		assert_non_null(target);
		assert_int_equal(number_of(target), 1);
		svc_target_done(target, SVC_OUTCOME_OK);
		assert_string_equal(seen_pick.service, "a");
		assert_ptr_equal(seen_pick.key, key);
		assert_null(seen_pick.version);
		assert_null(seen_pick.node);
		assert_int_equal(seen_pick.n_labels, 0);
		assert_int_equal(seen_pick.n_avoid, 0);
	}
	/* One that is named needs no strategy. */
	for (size_t i = 0; i < 3; i++) {
		seen_pick.service = NULL;
		target = svc_selector_pick_at_once(
		    selector, "a", ids[i], NULL, &memo);
		assert_non_null(target);
		assert_string_equal(target->node->id, ids[i]);
		svc_target_done(target, SVC_OUTCOME_OK);
		assert_null(seen_pick.service);
	}
	assert_null(
	    svc_selector_pick_at_once(selector, "a", "nobody", NULL, &memo));
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

static void
test_each_and_resync(void **state)
{
	struct svc_registry *registry = make_registry();
	struct svc_selector *selector = make_selector(registry, NULL);
	struct svc_error err;
	int n = 0;

	(void)state;
	assert_int_equal(
	    svc_selector_each(selector, "a", 0, count_each, &n, &err),
	    SVC_E_TIMEDOUT);
	open_service(selector, "b", 3000);
	assert_int_equal(
	    svc_selector_each(selector, "b", 0, count_each, &n, &err), SVC_OK);
	assert_int_equal(n, 3000);
	/* After a break: what is not repeated is gone. */
	say(SVC_WATCH_BEGIN, "b", NULL);
	for (int i = 100; i < 3010; i++)
		say_number(SVC_WATCH_NODE, "b", i);
	say(SVC_WATCH_SYNC, "b", NULL);
	for (n = 0; n != 2910; sched_yield()) {
		n = 0;
		assert_int_equal(
		    svc_selector_each(selector, "b", 0, count_each, &n, &err),
		    SVC_OK);
		assert_in_range(n, 2910, 3010);
	}
	say(SVC_WATCH_BEGIN, "b", NULL);
	say(SVC_WATCH_SYNC, "b", NULL);
	while (
	    svc_selector_each(selector, "b", 0, count_each, &n, &err) == SVC_OK)
		sched_yield();
	assert_int_equal(err.code, SVC_E_NOT_FOUND);
	assert_string_equal(err.text, "service not found: b");
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

static void
test_memory_registry(void **state)
{
	struct svc_registry_config config = {
	    .timeout_ms = 1000, .address = "selector_test"};
	struct svc_node node = {.id = "m-1", .address = "127.0.0.1:1"};
	struct svc_record record = {
	    .name = "m", .version = "1", .nodes = &node, .n_nodes = 1};
	struct svc_pick pick = {
	    .service = "m", .deadline_at_ms = svc_deadline(10000)};
	struct svc_registry *registry = NULL;
	struct svc_selector *selector;
	struct svc_target *target;
	svc_err rc;

	(void)state;
	assert_int_equal(
	    svc_registry_create("memory", &config, &registry, NULL), SVC_OK);
	selector = make_selector(registry, NULL);
	must_fail(selector, &pick, SVC_E_NOT_FOUND, "service not found: m");
	assert_int_equal(
	    svc_registry_announce(registry, &record, 60000, NULL), SVC_OK);
	while ((rc = svc_selector_pick(selector, &pick, &target, NULL)) !=
	       SVC_OK) {
		assert_int_equal(rc, SVC_E_NOT_FOUND);
		assert_true(svc_remaining(pick.deadline_at_ms) > 0);
		sched_yield();
	}
	assert_string_equal(target->node->address, "127.0.0.1:1");
	svc_target_done(target, SVC_OUTCOME_OK);
	assert_int_equal(
	    svc_registry_withdraw(registry, &record, NULL), SVC_OK);
	while ((rc = svc_selector_pick(selector, &pick, &target, NULL)) ==
	       SVC_OK) {
		svc_target_done(target, SVC_OUTCOME_OK);
		assert_true(svc_remaining(pick.deadline_at_ms) > 0);
		sched_yield();
	}
	assert_int_equal(rc, SVC_E_NOT_FOUND);
	svc_selector_destroy(selector);
	svc_registry_destroy(registry);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_bad_use),
	    cmocka_unit_test(test_draining),
	    cmocka_unit_test(test_silent_registry),
	    cmocka_unit_test(test_absent_then_there),
	    cmocka_unit_test(test_away_for_a_moment),
	    cmocka_unit_test(test_first_view),
	    cmocka_unit_test(test_first_view_in_pieces),
	    cmocka_unit_test(test_filters),
	    cmocka_unit_test(test_random_is_even),
	    cmocka_unit_test(test_round_robin_is_exact),
	    cmocka_unit_test(test_round_robin_goes_on),
	    cmocka_unit_test(test_own_strategy),
	    cmocka_unit_test(test_pick_at_once),
	    cmocka_unit_test(test_each_and_resync),
	    cmocka_unit_test(test_memory_registry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
