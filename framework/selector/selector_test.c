/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/clock.h>
#include <svc/selector.h>

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ------------------------------------------------------- a registry by hand */

/* It says what the test tells it to say, when the test does. Its lock is held
 * while a sink runs, so that unwatch waits for it. */
struct hand_watch {
	struct hand_watch *next;
	char service[160];
	svc_watch_sink sink;
	void *arg;
};

static struct hand {
	pthread_mutex_t lock;
	struct hand_watch *first;
	size_t n;
} hand = {.lock = PTHREAD_MUTEX_INITIALIZER};

static svc_err
hand_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	(void)config;
	(void)err;
	*ret_self = &hand;
	return SVC_OK;
}

static void
hand_destroy(void *self)
{
	(void)self;
	assert_null(hand.first);
}

static svc_err
hand_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	(void)self;
	(void)record;
	(void)ttl_ms;
	return svc_error_set(err, SVC_E_UNAVAILABLE, "not by hand");
}

static svc_err
hand_withdraw(
    void *self, const struct svc_record *record, struct svc_error *err)
{
	return hand_announce(self, record, 1, err);
}

static svc_err
hand_lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	(void)service;
	(void)sink;
	(void)arg;
	return hand_announce(self, NULL, 1, err);
}

static svc_err
hand_list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	return hand_lookup(self, NULL, sink, arg, err);
}

static svc_err
hand_watch(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	struct hand_watch *watch = svc_mem_calloc(1, sizeof(*watch));

	(void)self;
	if (watch == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "no memory by hand");
	snprintf(watch->service, sizeof(watch->service), "%s", service);
	watch->sink = sink;
	watch->arg = arg;
	pthread_mutex_lock(&hand.lock);
	watch->next = hand.first;
	hand.first = watch;
	hand.n++;
	pthread_mutex_unlock(&hand.lock);
	*ret_watch = watch;
	return SVC_OK;
}

static void
hand_unwatch(void *self, void *arg)
{
	struct hand_watch **at, *watch = arg;

	(void)self;
	pthread_mutex_lock(&hand.lock);
	for (at = &hand.first; *at != watch; at = &(*at)->next)
		continue;
	*at = watch->next;
	hand.n--;
	pthread_mutex_unlock(&hand.lock);
	svc_mem_free(watch);
}

static const struct svc_registry_ops hand_ops = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "hand",
    .create = hand_create,
    .destroy = hand_destroy,
    .announce = hand_announce,
    .withdraw = hand_withdraw,
    .lookup = hand_lookup,
    .list = hand_list,
    .watch = hand_watch,
    .unwatch = hand_unwatch,
};

static size_t
hand_watches(void)
{
	size_t n;

	pthread_mutex_lock(&hand.lock);
	n = hand.n;
	pthread_mutex_unlock(&hand.lock);
	return n;
}

/* Says it to every watch of the service; NULL is every watch. */
static void
say(svc_watch_event event, const char *service, const struct svc_record *record)
{
	pthread_mutex_lock(&hand.lock);
	for (struct hand_watch *w = hand.first; w != NULL; w = w->next)
		if (service == NULL || strcmp(w->service, service) == 0)
			w->sink(event, record, w->arg);
	pthread_mutex_unlock(&hand.lock);
}

struct one {
	struct svc_record record;
	struct svc_node node;
};

static void
say_node(svc_watch_event event, const char *service, const char *version,
    const char *id, const char *address, const char *label)
{
	struct svc_headers *metadata = NULL;
	struct one one = {
	    .record = {.name = service, .version = version},
	    .node = {.id = id, .address = address},
	};

	if (label != NULL) {
		metadata = svc_headers_create();
		assert_non_null(metadata);
		assert_int_equal(
		    svc_headers_set(metadata, "zone", label), SVC_OK);
	}
	one.node.metadata = metadata;
	one.record.nodes = &one.node;
	one.record.n_nodes = 1;
	say(event, service, &one.record);
	svc_headers_destroy(metadata);
}

static void
say_number(svc_watch_event event, const char *service, int number)
{
	char id[32], address[32];

	snprintf(id, sizeof(id), "%s-%04d", service, number);
	snprintf(address, sizeof(address), "10.0.0.1:%d", 1000 + number);
	say_node(event, service, "1", id, address, NULL);
}

/* ------------------------------------------------------------------ fixture */

static atomic_int unlinked;

static void
count_unlink(void *link, void *arg)
{
	assert_non_null(link);
	assert_ptr_equal(arg, &unlinked);
	atomic_fetch_add(&unlinked, 1);
}

static struct svc_registry *
make_registry(void)
{
	/* What a full view does not repeat is gone as soon as may be. */
	struct svc_registry_config config = {.timeout_ms = 1000, .grace_ms = 1};
	struct svc_registry *registry = NULL;
	struct svc_error err;

	assert_int_equal(
	    svc_registry_create_ops(&hand_ops, &config, &registry, &err),
	    SVC_OK);
	return registry;
}

static struct svc_selector *
make_selector(struct svc_registry *registry, const char *strategy)
{
	struct svc_selector_config config = {
	    .registry = registry,
	    .strategy = strategy,
	    .unlink = count_unlink,
	    .arg = &unlinked,
	};
	struct svc_selector *selector = NULL;
	struct svc_error err;

	atomic_store(&unlinked, 0);
	if (svc_selector_create(&config, &selector, &err) != SVC_OK)
		fail_msg("%s", err.text);
	return selector;
}

/* Starts the watch, and tells it a full first view of n nodes. */
static void
open_service(struct svc_selector *selector, const char *service, int n)
{
	struct svc_pick pick = {.service = service};
	struct svc_target *target;

	assert_int_equal(
	    svc_selector_pick(selector, &pick, &target, NULL), SVC_E_TIMEDOUT);
	say(SVC_WATCH_BEGIN, service, NULL);
	for (int i = 0; i < n; i++)
		say_number(SVC_WATCH_NODE, service, i);
	say(SVC_WATCH_SYNC, service, NULL);
}

static struct svc_target *
must_pick(struct svc_selector *selector, const struct svc_pick *pick)
{
	struct svc_target *target = NULL;
	struct svc_error err;

	if (svc_selector_pick(selector, pick, &target, &err) != SVC_OK)
		fail_msg("%s", err.text);
	return target;
}

static void
must_fail(struct svc_selector *selector, const struct svc_pick *pick,
    svc_err code, const char *text)
{
	struct svc_target *target = NULL;
	struct svc_error err = {.text = ""};

	assert_int_equal(
	    svc_selector_pick(selector, pick, &target, &err), code);
	assert_int_equal(err.code, code);
	assert_string_equal(err.text, text);
	assert_null(target);
}

static int
number_of(const struct svc_target *target)
{
	int number = 0;

	for (const char *c = strrchr(target->node->id, '-') + 1; *c != '\0';
	     c++)
		number = number * 10 + (*c - '0');
	return number;
}

/* Counts who is picked; all calls end well. */
static void
count_picks(struct svc_selector *selector, const struct svc_pick *pick,
    int times, int *counts, int n)
{
	memset(counts, 0, (size_t)n * sizeof(*counts));
	for (int i = 0; i < times; i++) {
		struct svc_target *target = must_pick(selector, pick);

		assert_in_range(number_of(target), 0, n - 1);
		counts[number_of(target)]++;
		svc_target_done(target, SVC_OUTCOME_NEUTRAL);
	}
}

static void
end_one(struct svc_selector *selector, const char *node, svc_outcome outcome)
{
	struct svc_pick pick = {.service = "a", .node = node};

	svc_target_done(must_pick(selector, &pick), outcome);
}

/* -------------------------------------------------------------------- tests */

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

struct waiter {
	struct svc_selector *selector;
	struct svc_pick pick;
	svc_err result;
	pthread_t thread;
};

static void *
wait_for_pick(void *arg)
{
	struct waiter *waiter = arg;
	struct svc_target *target = NULL;

	waiter->result =
	    svc_selector_pick(waiter->selector, &waiter->pick, &target, NULL);
	if (waiter->result == SVC_OK)
		svc_target_done(target, SVC_OUTCOME_OK);
	return NULL;
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
	    "service \"a\" has no node with label zone=south (1 without)");
	pick = (struct svc_pick){.service = "a", .node = "h2:1"};
	target = must_pick(selector, &pick);
	assert_string_equal(target->node->id, "a-2");
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
	struct svc_target *target;
	char name[32];

	(void)state;
	open_service(selector, "a", 2);
	for (int i = 0; i < 1500; i++) {
		snprintf(name, sizeof(name), "nobody-%d", i);
		open_service(selector, name, 0);
	}
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
count_each(const struct svc_target *target, bool blacklisted, void *arg)
{
	(void)target;
	assert_false(blacklisted);
	++*(int *)arg;
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

/* ------------------------------------------------------- memory runs short */

struct budget {
	long left; /* allocations until one fails */
	bool failed;
};

static bool
spend(size_t size, void *arg)
{
	struct budget *budget = arg;

	(void)size;
	if (budget->left-- != 0)
		return true;
	budget->failed = true;
	return false;
}

static void
test_allocation_failures(void **state)
{
	struct svc_pick pick = {.service = "a"};
	struct svc_pick one = {.service = "a", .version = "1"};
	struct svc_registry *registry = make_registry();
	struct budget budget = {.failed = true};
	struct svc_target *target;

	(void)state;
	/* This thread's own part is made once. */
	{
		struct svc_selector *selector = make_selector(registry, NULL);

		open_service(selector, "a", 1);
		svc_target_done(must_pick(selector, &pick), SVC_OUTCOME_OK);
		svc_selector_destroy(selector);
	}
	for (long nth = 0; budget.failed; nth++) {
		struct svc_selector_config config = {
		    .registry = registry, .strategy = "round_robin"};
		struct svc_selector *selector = NULL;
		int n = 0, tries = 0;
		svc_err rc;

		budget = (struct budget){.left = nth};
		svc_mem_set_hook(spend, &budget);
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
		svc_mem_set_hook(NULL, NULL);

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

/* ------------------------------------------------------------------- churn */

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
churn_threads(void *arg)
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
		assert_int_equal(
		    svc_thread_start(&threads[i], "churn",
			i < 3 ? churn_picks : churn_threads, &churn),
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

/* --------------------------------------------- with the registry in memory */

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
	    cmocka_unit_test(test_silent_registry),
	    cmocka_unit_test(test_absent_then_there),
	    cmocka_unit_test(test_away_for_a_moment),
	    cmocka_unit_test(test_first_view),
	    cmocka_unit_test(test_first_view_in_pieces),
	    cmocka_unit_test(test_filters),
	    cmocka_unit_test(test_random_is_even),
	    cmocka_unit_test(test_round_robin_is_exact),
	    cmocka_unit_test(test_round_robin_goes_on),
	    cmocka_unit_test(test_blacklist),
	    cmocka_unit_test(test_panic),
	    cmocka_unit_test(test_one_probe),
	    cmocka_unit_test(test_links),
	    cmocka_unit_test(test_idle_threads_keep_nothing),
	    cmocka_unit_test(test_selectors_come_and_go),
	    cmocka_unit_test(test_unknown_names_are_bounded),
	    cmocka_unit_test(test_each_and_resync),
	    cmocka_unit_test(test_own_strategy),
	    cmocka_unit_test(test_allocation_failures),
	    cmocka_unit_test(test_churn),
	    cmocka_unit_test(test_memory_registry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
