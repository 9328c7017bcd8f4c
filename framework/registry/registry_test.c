/* SPDX-License-Identifier: Apache-2.0 */
/* What the framework adds to a plugin: grace, polling, groups. */
#include <conformance/registry.h>

#include <svc/clock.h>

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { WAIT_MS = 20000 };

/* --------------------------------------- a plugin that does as it is told */

/* Only faults that a real registry does not give on demand. */
struct puppet {
	pthread_mutex_t lock;
	svc_watch_sink sink;
	void *arg;
	int watched;
	struct sample *nodes[4];
	atomic_bool down;
	atomic_int asked;
};
static struct puppet puppet = {.lock = PTHREAD_MUTEX_INITIALIZER};

static svc_err
puppet_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	(void)err;
	assert_true(config->timeout_ms > 0);
	*ret_self = &puppet;
	return SVC_OK;
}

static void
puppet_destroy(void *self)
{
	(void)self;
}

static svc_err
puppet_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	(void)self;
	(void)record;
	(void)ttl_ms;
	return svc_error_set(err, SVC_E_DENIED, "no");
}

static svc_err
puppet_withdraw(
    void *self, const struct svc_record *record, struct svc_error *err)
{
	return puppet_announce(self, record, 0, err);
}

static svc_err
puppet_lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	struct puppet *p = self;
	(void)service;
	atomic_fetch_add(&p->asked, 1);
	if (atomic_load(&p->down))
		return svc_error_set(err, SVC_E_UNAVAILABLE, "down");
	pthread_mutex_lock(&p->lock);
	for (size_t i = 0; i < 4; i++)
		if (p->nodes[i] != NULL)
			sink(&p->nodes[i]->record, arg);
	pthread_mutex_unlock(&p->lock);
	return SVC_OK;
}

/* Names only, as registries do that would need a question for each. */
static svc_err
puppet_list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	const struct svc_record bare = {.name = "s", .version = "1"};
	(void)self;
	(void)err;
	sink(&bare, arg);
	return SVC_OK;
}

static svc_err
puppet_watch(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	struct puppet *p = self;
	(void)service;
	(void)err;
	p->watched++;
	p->sink = sink;
	p->arg = arg;
	*ret_watch = p;
	return SVC_OK;
}

static void
puppet_unwatch(void *self, void *watch)
{
	struct puppet *p = self;
	(void)watch;
	p->watched--;
	p->sink = NULL;
}

static const struct svc_registry_ops puppet_ops = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "puppet",
    .create = puppet_create,
    .destroy = puppet_destroy,
    .announce = puppet_announce,
    .withdraw = puppet_withdraw,
    .lookup = puppet_lookup,
    .list = puppet_list,
    .watch = puppet_watch,
    .unwatch = puppet_unwatch,
};

static void
full_state(struct sample *a, struct sample *b)
{
	puppet.sink(SVC_WATCH_BEGIN, NULL, puppet.arg);
	if (a != NULL)
		puppet.sink(SVC_WATCH_NODE, &a->record, puppet.arg);
	if (b != NULL)
		puppet.sink(SVC_WATCH_NODE, &b->record, puppet.arg);
	puppet.sink(SVC_WATCH_SYNC, NULL, puppet.arg);
}

static void
a_watch_keeps_nodes_for_its_grace(void **state)
{
	(void)state;
	struct svc_registry *registry = NULL;
	struct svc_watch *watch = NULL;
	struct recorder *recorder = recorder_create();
	struct svc_registry_config config = {.grace_ms = 300};
	struct sample a, b;
	sample_init(&a, "s", "1", "a", 1);
	sample_init(&b, "s", "1", "b", 2);
	svc_clock_manual();
	assert_int_equal(
	    svc_registry_create_ops(&puppet_ops, &config, &registry, NULL),
	    SVC_OK);
	assert_int_equal(svc_registry_watch(registry, NULL, recorder_change,
			     recorder, &watch, NULL),
	    SVC_OK);
	full_state(&a, &b);
	assert_true(
	    recorder_wait(recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
	/* Empty, then one of the two announces itself again. */
	full_state(NULL, NULL);
	puppet.sink(SVC_WATCH_NODE, &a.record, puppet.arg);
	svc_clock_advance(299);
	/* What comes after proves that nothing came before. */
	svc_headers_set(a.node.metadata, "weight", "2");
	puppet.sink(SVC_WATCH_NODE, &a.record, puppet.arg);
	assert_true(
	    recorder_wait(recorder, SVC_UPDATED, "s", "a", WAIT_MS, NULL));
	assert_int_equal(recorder_count(recorder, SVC_REMOVED, NULL, NULL), 0);
	svc_clock_advance(1);
	assert_true(
	    recorder_wait(recorder, SVC_REMOVED, "s", "b", WAIT_MS, NULL));
	assert_int_equal(recorder_count(recorder, SVC_CREATED, NULL, NULL), 2);
	assert_int_equal(recorder_count(recorder, SVC_REMOVED, NULL, NULL), 1);
	/* A single GONE is immediate, and later breaks work as well. */
	puppet.sink(SVC_WATCH_GONE, &a.record, puppet.arg);
	assert_true(recorder_wait(recorder, SVC_REMOVED, "s", "a", 0, NULL));
	full_state(&b, NULL);
	full_state(NULL, NULL);
	svc_clock_advance(300);
	assert_true(
	    recorder_wait(recorder, SVC_REMOVED, "s", "b", WAIT_MS, NULL));
	svc_registry_unwatch(watch);
	assert_null(puppet.sink);
	svc_registry_destroy(registry);
	svc_clock_real();
	recorder_destroy(recorder);
	sample_fini(&a);
	sample_fini(&b);
}

static struct svc_watch *
start(struct svc_registry *registry, const char *service,
    struct recorder *recorder)
{
	struct svc_watch *watch = NULL;
	assert_int_equal(svc_registry_watch(registry, service, recorder_change,
			     recorder, &watch, NULL),
	    SVC_OK);
	return watch;
}

static void
watches_of_one_service_share_what_they_hear_by(void **state)
{
	(void)state;
	struct svc_registry *registry = NULL;
	struct recorder *first = recorder_create();
	struct recorder *second = recorder_create();
	struct recorder *all = recorder_create();
	struct sample a, b;
	sample_init(&a, "s", "1", "a", 1);
	sample_init(&b, "s", "1", "b", 2);
	assert_int_equal(
	    svc_registry_create_ops(&puppet_ops, NULL, &registry, NULL),
	    SVC_OK);
	struct svc_watch *watch = start(registry, "s", first);
	puppet.sink(SVC_WATCH_BEGIN, NULL, puppet.arg);
	puppet.sink(SVC_WATCH_NODE, &a.record, puppet.arg);
	/* One that comes within the first full state, and is told once what is
	 * there and what is still to come. */
	struct svc_watch *other = start(registry, "s", second);
	assert_true(
	    recorder_wait(second, SVC_CREATED, "s", "a", WAIT_MS, NULL));
	assert_int_equal(puppet.watched, 1);
	assert_int_equal(recorder_count(second, SVC_SYNCED, NULL, NULL), 0);
	puppet.sink(SVC_WATCH_NODE, &b.record, puppet.arg);
	puppet.sink(SVC_WATCH_SYNC, NULL, puppet.arg);
	for (int i = 0; i < 2; i++) {
		struct recorder *one = i == 0 ? first : second;
		assert_int_equal(recorder_count(one, SVC_CREATED, "s", "a"), 1);
		assert_int_equal(recorder_count(one, SVC_CREATED, "s", "b"), 1);
		assert_int_equal(
		    recorder_count(one, SVC_SYNCED, NULL, NULL), 1);
	}
	/* The first may go; the second hears on. */
	svc_registry_unwatch(watch);
	assert_int_equal(puppet.watched, 1);
	puppet.sink(SVC_WATCH_GONE, &a.record, puppet.arg);
	assert_int_equal(recorder_count(first, SVC_REMOVED, NULL, NULL), 0);
	assert_int_equal(recorder_count(second, SVC_REMOVED, "s", "a"), 1);
	/* One that comes later does not need the registry. */
	watch = start(registry, "s", all);
	assert_true(recorder_wait(all, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
	assert_int_equal(recorder_count(all, SVC_CREATED, NULL, NULL), 1);
	assert_int_equal(recorder_count(all, SVC_CREATED, "s", "b"), 1);
	svc_registry_unwatch(other);
	svc_registry_unwatch(watch);
	assert_int_equal(puppet.watched, 0);
	/* Another service, or all of them, is another thing. */
	(void)start(registry, "s", first);
	(void)start(registry, NULL, second);
	assert_int_equal(puppet.watched, 2);
	svc_registry_destroy(registry);
	assert_int_equal(puppet.watched, 0);
	recorder_destroy(first);
	recorder_destroy(second);
	recorder_destroy(all);
	sample_fini(&a);
	sample_fini(&b);
}

/* Watchers come and go while a node changes: each is told all or nothing. */
struct crowd {
	struct svc_registry *registry;
	atomic_bool over;
};

static void *
come_and_go(void *arg)
{
	struct crowd *crowd = arg;
	while (!atomic_load(&crowd->over)) {
		struct recorder *recorder = recorder_create();
		struct svc_watch *watch = NULL;
		assert_int_equal(svc_registry_watch(crowd->registry, "s",
				     recorder_change, recorder, &watch, NULL),
		    SVC_OK);
		assert_true(recorder_wait(
		    recorder, SVC_SYNCED, NULL, NULL, 30000, NULL));
		assert_int_equal(
		    recorder_count(recorder, SVC_CREATED, "s", "a"), 1);
		svc_registry_unwatch(watch);
		recorder_destroy(recorder);
	}
	return NULL;
}

static void
watchers_may_come_and_go(void **state)
{
	(void)state;
	struct svc_registry_config config = {.address = "crowd"};
	struct crowd crowd = {.registry = NULL};
	pthread_t threads[3];
	struct sample a;
	sample_init(&a, "s", "1", "a", 1);
	assert_int_equal(svc_registry_create_ops(&svc_registry_memory, &config,
			     &crowd.registry, NULL),
	    SVC_OK);
	assert_int_equal(
	    svc_registry_announce(crowd.registry, &a.record, 60000, NULL),
	    SVC_OK);
	for (int i = 0; i < 3; i++)
		assert_int_equal(
		    svc_thread_start(&threads[i], "crowd", come_and_go, &crowd),
		    SVC_OK);
	for (int i = 0; i < 300; i++) {
		char weight[16];
		snprintf(weight, sizeof(weight), "%d", i);
		svc_headers_set(a.node.metadata, "weight", weight);
		assert_int_equal(svc_registry_announce(
				     crowd.registry, &a.record, 60000, NULL),
		    SVC_OK);
		sched_yield();
	}
	atomic_store(&crowd.over, true);
	for (int i = 0; i < 3; i++)
		svc_thread_join(threads[i]);
	svc_registry_destroy(crowd.registry);
	sample_fini(&a);
}

static void
set_node(size_t i, struct sample *sample)
{
	pthread_mutex_lock(&puppet.lock);
	puppet.nodes[i] = sample;
	pthread_mutex_unlock(&puppet.lock);
}

static void
a_plugin_without_watch_is_asked(void **state)
{
	(void)state;
	struct svc_registry_ops ops = puppet_ops;
	struct svc_registry *registry = NULL;
	struct svc_watch *watch = NULL;
	struct recorder *recorder = recorder_create();
	struct svc_registry_config config = {.grace_ms = 60000};
	struct sample a, b;
	sample_init(&a, "s", "1", "a", 1);
	sample_init(&b, "s", "1", "b", 2);
	/* As a plugin that was compiled before there were watches. */
	ops.size = (uint32_t)offsetof(struct svc_registry_ops, watch);
	set_node(0, &a);
	set_node(1, &b);
	assert_int_equal(
	    svc_registry_create_ops(&ops, &config, &registry, NULL), SVC_OK);
	assert_int_equal(svc_registry_watch(registry, NULL, recorder_change,
			     recorder, &watch, NULL),
	    SVC_OK);
	assert_true(
	    recorder_wait(recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
	assert_int_equal(recorder_count(recorder, SVC_CREATED, NULL, NULL), 2);
	set_node(0, NULL);
	assert_true(
	    recorder_wait(recorder, SVC_REMOVED, "s", "a", WAIT_MS, NULL));
	/* Down for some questions, then back and empty: b is kept. */
	atomic_store(&puppet.down, true);
	int asked = atomic_load(&puppet.asked);
	while (atomic_load(&puppet.asked) < asked + 2)
		recorder_quiet(recorder, 50);
	set_node(1, NULL);
	atomic_store(&puppet.down, false);
	asked = atomic_load(&puppet.asked);
	while (atomic_load(&puppet.asked) < asked + 3)
		recorder_quiet(recorder, 50);
	assert_int_equal(recorder_count(recorder, SVC_REMOVED, "s", "b"), 0);
	/* It announces itself again, and then really goes. */
	set_node(1, &b);
	asked = atomic_load(&puppet.asked);
	while (atomic_load(&puppet.asked) < asked + 2)
		recorder_quiet(recorder, 50);
	set_node(1, NULL);
	assert_true(
	    recorder_wait(recorder, SVC_REMOVED, "s", "b", WAIT_MS, NULL));
	assert_int_equal(recorder_count(recorder, SVC_CREATED, NULL, NULL), 2);
	/* Ends the watch by itself. */
	svc_registry_destroy(registry);
	recorder_destroy(recorder);
	sample_fini(&a);
	sample_fini(&b);
}

static void
answers_are_grouped(void **state)
{
	(void)state;
	struct svc_registry *registry = NULL;
	struct svc_record_list list = {0};
	struct svc_error err = {0};
	struct sample a, b, c, d;
	sample_init(&a, "s", "2", "b", 1);
	sample_init(&b, "s", "1", "x", 2);
	sample_init(&c, "s", "2", "a", 3);
	/* The same node again: the last word counts. */
	sample_init(&d, "s", "2", "b", 4);
	set_node(0, &a);
	set_node(1, &b);
	set_node(2, &c);
	set_node(3, &d);
	assert_int_equal(
	    svc_registry_create_ops(&puppet_ops, NULL, &registry, NULL),
	    SVC_OK);
	assert_string_equal(svc_registry_name(registry), "puppet");
	assert_int_equal(
	    svc_registry_lookup(registry, "s", &list, NULL), SVC_OK);
	assert_int_equal(list.n_records, 2);
	assert_string_equal(list.records[0]->version, "1");
	assert_int_equal(list.records[1]->n_nodes, 2);
	assert_string_equal(list.records[1]->nodes[0].id, "a");
	assert_string_equal(list.records[1]->nodes[1].address, "127.0.0.1:4");
	svc_record_list_fini(&list);
	assert_int_equal(
	    svc_registry_lookup(registry, "t", &list, NULL), SVC_E_NOT_FOUND);
	assert_int_equal(svc_registry_list(registry, &list, NULL), SVC_OK);
	assert_int_equal(list.n_records, 1);
	assert_int_equal(list.records[0]->n_nodes, 0);
	svc_record_list_fini(&list);
	/* The plugin's errors come through. */
	assert_int_equal(svc_registry_announce(registry, &a.record, 1000, &err),
	    SVC_E_DENIED);
	assert_string_equal(err.text, "no");
	svc_registry_destroy(registry);
	for (size_t i = 0; i < 4; i++)
		set_node(i, NULL);
	sample_fini(&a);
	sample_fini(&b);
	sample_fini(&c);
	sample_fini(&d);
}

static void
unfit_plugins_are_refused(void **state)
{
	(void)state;
	struct svc_registry_ops ops = puppet_ops;
	struct svc_registry *registry = NULL;
	struct svc_error err = {0};
	ops.lookup = NULL;
	assert_int_equal(
	    svc_registry_create_ops(&ops, NULL, &registry, &err), SVC_E_ABI);
	assert_non_null(strstr(err.text, "lookup"));
	ops = puppet_ops;
	ops.abi = SVC_ABI(1, 99);
	assert_int_equal(
	    svc_registry_create_ops(&ops, NULL, &registry, &err), SVC_E_ABI);
	assert_int_equal(svc_registry_create("nosuch", NULL, &registry, &err),
	    SVC_E_NOT_FOUND);
	assert_non_null(strstr(err.text, "memory"));
	svc_registry_destroy(NULL);
	svc_registry_unwatch(NULL);
}

/* A watch of the registry memory whose nodes a test waits for: "+a" is created,
 * "=" synced. */
struct seen {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char text[256];
};

static void
see(svc_change change, const struct svc_record *record, void *arg)
{
	struct seen *seen = arg;
	pthread_mutex_lock(&seen->lock);
	size_t len = strlen(seen->text);
	snprintf(seen->text + len, sizeof(seen->text) - len, "%c%s",
	    "+~-="[change], record != NULL ? record->nodes[0].id : "");
	pthread_cond_broadcast(&seen->changed);
	pthread_mutex_unlock(&seen->lock);
}

static void
await_seen(struct seen *seen, const char *text)
{
	int64_t deadline_at_ms = svc_deadline(20000);
	pthread_mutex_lock(&seen->lock);
	while (strcmp(seen->text, text) != 0)
		if (svc_cond_wait(
			&seen->changed, &seen->lock, deadline_at_ms) != SVC_OK)
			fail_msg("%s instead of %s", seen->text, text);
	pthread_mutex_unlock(&seen->lock);
}

static atomic_bool scarce;
static atomic_int failed;

/* Fails the allocations of other threads: those of the watch. */
static bool
fail_others(size_t size, void *arg)
{
	pthread_t *self = arg;
	(void)size;
	if (!atomic_load(&scarce) || pthread_equal(pthread_self(), *self))
		return true;
	atomic_fetch_add(&failed, 1);
	return false;
}

static void
a_watch_loses_no_node_for_want_of_memory(void **state)
{
	(void)state;
	struct seen seen = {.lock = PTHREAD_MUTEX_INITIALIZER};
	svc_cond_init(&seen.changed);
	pthread_t self = pthread_self();
	svc_mem_set_hook(fail_others, &self); /* before there are threads */
	struct svc_registry_config config = {.address = "scarce"};
	struct svc_registry *registry;
	struct svc_watch *watch;
	assert_int_equal(
	    svc_registry_create("memory", &config, &registry, NULL), SVC_OK);
	assert_int_equal(
	    svc_registry_watch(registry, "s", see, &seen, &watch, NULL),
	    SVC_OK);
	await_seen(&seen, "=");
	struct sample a, b;
	sample_init(&a, "s", "1", "a", 1);
	sample_init(&b, "s", "1", "b", 2);
	atomic_store(&failed, 0);
	atomic_store(&scarce, true);
	assert_int_equal(
	    svc_registry_announce(registry, &a.record, 60000, NULL), SVC_OK);
	while (atomic_load(&failed) < 2)
		sched_yield();
	atomic_store(&scarce, false);
	await_seen(&seen, "=+a");
	/* It may end while it waits. */
	atomic_store(&failed, 0);
	atomic_store(&scarce, true);
	assert_int_equal(
	    svc_registry_announce(registry, &b.record, 60000, NULL), SVC_OK);
	while (atomic_load(&failed) == 0)
		sched_yield();
	svc_registry_unwatch(watch);
	atomic_store(&scarce, false);
	await_seen(&seen, "=+a");
	svc_registry_destroy(registry);
	svc_mem_set_hook(NULL, NULL);
	sample_fini(&a);
	sample_fini(&b);
	pthread_cond_destroy(&seen.changed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_watch_keeps_nodes_for_its_grace),
	    cmocka_unit_test(watches_of_one_service_share_what_they_hear_by),
	    cmocka_unit_test(watchers_may_come_and_go),
	    cmocka_unit_test(a_plugin_without_watch_is_asked),
	    cmocka_unit_test(answers_are_grouped),
	    cmocka_unit_test(unfit_plugins_are_refused),
	    cmocka_unit_test(a_watch_loses_no_node_for_want_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
