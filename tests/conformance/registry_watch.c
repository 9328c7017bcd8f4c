/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/registry.h>: what a watch tells. */
#include <conformance/registry_pair.h>

void
a_watch_tells_what_is_there_then_syncs(void **state)
{
	struct pair *f = *state;
	struct sample nodes[5];
	char id[16];
	for (int i = 0; i < 5; i++) {
		snprintf(id, sizeof(id), "n%d", i);
		sample_init(&nodes[i], f->name, i < 3 ? "1" : "2", id, i + 1);
		pair_announce(f, &nodes[i], TTL_LONG_MS);
	}
	pair_expect_nodes(f, f->name, 5, NULL);
	pair_watch_synced(f, f->name);
	for (int i = 0; i < 5; i++)
		assert_true(recorder_count(f->recorder, SVC_CREATED, f->name,
				nodes[i].id) == 1 ||
			    recorder_wait(f->recorder, SVC_CREATED, f->name,
				nodes[i].id, WAIT_MS, NULL));
	assert_int_equal(
	    recorder_count(f->recorder, SVC_SYNCED, NULL, NULL), 1);
	for (int i = 0; i < 5; i++) {
		pair_withdraw(f, &nodes[i]);
		REMOVED(f, &nodes[i]);
		sample_fini(&nodes[i]);
	}
	assert_int_equal(recorder_nodes(f->recorder, NULL), 0);
}

void
a_watch_tells_every_change(void **state)
{
	struct pair *f = *state;
	const struct svc_record *now = NULL;
	struct sample a;
	struct svc_endpoint endpoint = {.name = "A.B"};
	sample_init(&a, f->name, "1", "a", 1);
	pair_watch_synced(f, f->name);
	pair_announce(f, &a, TTL_LONG_MS);
	CREATED(f, &a);
	for (int step = 0; step < 4; step++) {
		if (step == 0)
			svc_headers_set(a.node.metadata, "weight", "7");
		else if (step == 1)
			a.node.address = "127.0.0.1:4711";
		else if (step == 2)
			a.record.version = "2";
		endpoint.metadata = svc_headers_create();
		if (step == 3) {
			a.record.endpoints = &endpoint;
			a.record.n_endpoints = 1;
		}
		pair_announce(f, &a, TTL_LONG_MS);
		assert_true(recorder_wait(
		    f->recorder, SVC_UPDATED, f->name, "a", WAIT_MS, &now));
		assert_true(svc_record_equal(now, &a.record));
		svc_headers_destroy(endpoint.metadata);
		endpoint.metadata = NULL;
	}
	assert_int_equal(pair_looked_up(f, f->name, NULL), 1);
	pair_withdraw(f, &a);
	REMOVED(f, &a);
	sample_fini(&a);
}

void
a_watch_of_all_sees_all(void **state)
{
	struct pair *f = *state;
	struct sample a, b;
	char other[64];
	snprintf(other, sizeof(other), "%s-other", f->name);
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, other, "1", "a", 2);
	pair_announce(f, &a, TTL_LONG_MS);
	pair_expect_nodes(f, f->name, 1, NULL);
	pair_watch_synced(f, NULL);
	pair_announce(f, &b, TTL_LONG_MS);
	CREATED(f, &b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, f->name, "a"), 1);
	pair_withdraw(f, &a);
	REMOVED(f, &a);
	pair_withdraw(f, &b);
	REMOVED(f, &b);
	sample_fini(&a);
	sample_fini(&b);
}

void
an_ended_watch_is_silent(void **state)
{
	struct pair *f = *state;
	struct sample a;
	sample_init(&a, f->name, "1", "a", 1);
	pair_watch_synced(f, f->name);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	pair_announce(f, &a, TTL_LONG_MS);
	/* A second watch, to know that the change is through. */
	struct recorder *second = recorder_create();
	struct svc_watch *other = NULL;
	OK(svc_registry_watch(
	    f->there, f->name, recorder_change, second, &other, err));
	assert_true(
	    recorder_wait(second, SVC_CREATED, f->name, "a", WAIT_MS, NULL));
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, NULL, NULL), 0);
	/* Ended at once, perhaps before it has begun. */
	for (int i = 0; i < 10; i++) {
		struct svc_watch *brief = NULL;
		OK(svc_registry_watch(f->there, f->name, recorder_change,
		    f->recorder, &brief, err));
		svc_registry_unwatch(brief);
	}
	pair_withdraw(f, &a);
	svc_registry_unwatch(other);
	recorder_destroy(second);
	sample_fini(&a);
}

/* Threads that announce, look up and withdraw nodes of one service. */
struct worker {
	struct pair *f;
	pthread_t thread;
	int number;
	svc_err failed;
	struct svc_error err;
};

enum { WORKERS = 4, ROUNDS = 12 };

static void *
work(void *arg)
{
	struct worker *worker = arg;
	struct sample sample;
	char id[32];
	for (int i = 0; i < ROUNDS && worker->failed == SVC_OK; i++) {
		struct svc_record_list list = {0};
		snprintf(id, sizeof(id), "w%d-%d", worker->number, i);
		sample_init(&sample, worker->f->name, "1", id, i + 1);
		worker->failed = svc_registry_announce(
		    worker->f->here, &sample.record, TTL_LONG_MS, &worker->err);
		if (worker->failed == SVC_OK) {
			svc_err rc = svc_registry_lookup(worker->f->there,
			    worker->f->name, &list, &worker->err);
			if (rc != SVC_E_NOT_FOUND)
				worker->failed = rc;
			svc_record_list_fini(&list);
		}
		/* The last one stays. */
		if (worker->failed == SVC_OK && i < ROUNDS - 1)
			worker->failed = svc_registry_withdraw(
			    worker->f->here, &sample.record, &worker->err);
		sample_fini(&sample);
	}
	return NULL;
}

void
many_threads_may_use_it(void **state)
{
	struct pair *f = *state;
	struct worker workers[WORKERS];
	struct sample last;
	char id[32];
	pair_watch_synced(f, f->name);
	for (int i = 0; i < WORKERS; i++) {
		workers[i] = (struct worker){.f = f, .number = i};
		assert_int_equal(svc_thread_start(&workers[i].thread, "worker",
				     work, &workers[i]),
		    SVC_OK);
	}
	for (int i = 0; i < WORKERS; i++)
		svc_thread_join(workers[i].thread);
	for (int i = 0; i < WORKERS; i++)
		if (workers[i].failed != SVC_OK)
			fail_msg("%s: %s", svc_err_name(workers[i].failed),
			    workers[i].err.text);
	/* What the watch says becomes what a lookup says. */
	pair_expect_nodes(f, f->name, WORKERS, NULL);
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	while (recorder_nodes(f->recorder, f->name) != WORKERS &&
	       svc_now_ms() < deadline_at_ms)
		recorder_quiet(f->recorder, 20);
	assert_int_equal(recorder_nodes(f->recorder, f->name), WORKERS);
	for (int i = 0; i < WORKERS; i++) {
		snprintf(id, sizeof(id), "w%d-%d", i, ROUNDS - 1);
		sample_init(&last, f->name, "1", id, 1);
		pair_withdraw(f, &last);
		sample_fini(&last);
	}
}
