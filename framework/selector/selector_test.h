/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SELECTOR_TEST_H
#define SVC_SELECTOR_TEST_H

/* What the tests of this room share: a registry that says what a test tells it
 * to say, and selectors that follow it. */

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

#define UNUSED __attribute__((unused))

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

static UNUSED svc_err
hand_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	(void)config;
	(void)err;
	*ret_self = &hand;
	return SVC_OK;
}

static UNUSED void
hand_destroy(void *self)
{
	(void)self;
	assert_null(hand.first);
}

static UNUSED svc_err
hand_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	(void)self;
	(void)record;
	(void)ttl_ms;
	return svc_error_set(err, SVC_E_UNAVAILABLE, "not by hand");
}

static UNUSED svc_err
hand_withdraw(
    void *self, const struct svc_record *record, struct svc_error *err)
{
	return hand_announce(self, record, 1, err);
}

static UNUSED svc_err
hand_lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	(void)service;
	(void)sink;
	(void)arg;
	return hand_announce(self, NULL, 1, err);
}

static UNUSED svc_err
hand_list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	return hand_lookup(self, NULL, sink, arg, err);
}

static UNUSED svc_err
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

static UNUSED void
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

static UNUSED size_t
hand_watches(void)
{
	size_t n;

	pthread_mutex_lock(&hand.lock);
	n = hand.n;
	pthread_mutex_unlock(&hand.lock);
	return n;
}

/* Says it to every watch of the service; NULL is every watch. */
static UNUSED void
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

static UNUSED void
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

static UNUSED void
say_number(svc_watch_event event, const char *service, int number)
{
	char id[32], address[32];

	snprintf(id, sizeof(id), "%s-%04d", service, number);
	snprintf(address, sizeof(address), "10.0.0.1:%d", 1000 + number);
	say_node(event, service, "1", id, address, NULL);
}

/* ------------------------------------------------------------------ fixture */

static atomic_int unlinked;

static UNUSED void
count_unlink(void *link, void *arg)
{
	assert_non_null(link);
	assert_ptr_equal(arg, &unlinked);
	atomic_fetch_add(&unlinked, 1);
}

static UNUSED struct svc_registry *
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

static UNUSED struct svc_selector *
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
static UNUSED void
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

static UNUSED struct svc_target *
must_pick(struct svc_selector *selector, const struct svc_pick *pick)
{
	struct svc_target *target = NULL;
	struct svc_error err;

	if (svc_selector_pick(selector, pick, &target, &err) != SVC_OK)
		fail_msg("%s", err.text);
	return target;
}

static UNUSED void
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

static UNUSED int
number_of(const struct svc_target *target)
{
	int number = 0;

	for (const char *c = strrchr(target->node->id, '-') + 1; *c != '\0';
	     c++)
		number = number * 10 + (*c - '0');
	return number;
}

/* Counts who is picked; all calls end well. */
static UNUSED void
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

static UNUSED void
end_one(struct svc_selector *selector, const char *node, svc_outcome outcome)
{
	struct svc_pick pick = {.service = "a", .node = node};

	svc_target_done(must_pick(selector, &pick), outcome);
}

struct waiter {
	struct svc_selector *selector;
	struct svc_pick pick;
	svc_err result;
	pthread_t thread;
};

static UNUSED void *
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

static UNUSED void
count_each(const struct svc_target *target, bool blacklisted, void *arg)
{
	(void)target;
	assert_false(blacklisted);
	++*(int *)arg;
}

#endif
