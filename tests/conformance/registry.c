/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/registry.h>, for every registry. */
#include <conformance/registry.h>

#include <svc/clock.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <support/lacks.h>

enum {
	TTL_LONG_MS = 60000,
	WAIT_MS = 20000, /* for what comes at once, also on a busy machine */
	SLACK_MS = 1000, /* the promise: gone within TTL + 1 s */
	EARLY_MS = 100,
	CHANGES_MAX = 4096,
};

static const struct svc_conformance_registry *setup;

static int64_t
ttl_ms(void)
{
	return setup->ttl_ms > 0 ? setup->ttl_ms : 1000;
}

/* --------------------------------------------------------------- samples */

void
sample_init(struct sample *sample, const char *service, const char *version,
    const char *id, int port)
{
	memset(sample, 0, sizeof(*sample));
	snprintf(sample->service, sizeof(sample->service), "%s", service);
	snprintf(sample->id, sizeof(sample->id), "%s", id);
	snprintf(
	    sample->address, sizeof(sample->address), "127.0.0.1:%d", port);
	sample->node.id = sample->id;
	sample->node.address = sample->address;
	sample->node.metadata = svc_headers_create();
	svc_headers_set(sample->node.metadata, "transport", "http");
	svc_headers_set(sample->node.metadata, "protocol", "mucp");
	sample->record.name = sample->service;
	sample->record.version = version;
	sample->record.nodes = &sample->node;
	sample->record.n_nodes = 1;
}

void
sample_fini(struct sample *sample)
{
	svc_headers_destroy(sample->node.metadata);
	sample->node.metadata = NULL;
}

/* -------------------------------------------------------------- recorder */

struct recorder {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	size_t n, seen;
	struct {
		svc_change change;
		struct svc_record *record;
	} changes[CHANGES_MAX];
};

struct recorder *
recorder_create(void)
{
	struct recorder *recorder = svc_mem_calloc(1, sizeof(*recorder));
	assert_non_null(recorder);
	pthread_mutex_init(&recorder->lock, NULL);
	svc_cond_init(&recorder->cond);
	return recorder;
}

void
recorder_destroy(struct recorder *recorder)
{
	for (size_t i = 0; i < recorder->n; i++)
		svc_record_destroy(recorder->changes[i].record);
	pthread_cond_destroy(&recorder->cond);
	pthread_mutex_destroy(&recorder->lock);
	svc_mem_free(recorder);
}

void
recorder_change(svc_change change, const struct svc_record *record, void *arg)
{
	struct recorder *recorder = arg;
	struct svc_record *copy =
	    record != NULL ? svc_record_copy(record) : NULL;
	pthread_mutex_lock(&recorder->lock);
	if (recorder->n < CHANGES_MAX) {
		recorder->changes[recorder->n].change = change;
		recorder->changes[recorder->n++].record = copy;
		copy = NULL;
	}
	pthread_cond_broadcast(&recorder->cond);
	pthread_mutex_unlock(&recorder->lock);
	svc_record_destroy(copy);
}

static bool
is_change(const struct recorder *recorder, size_t i, svc_change change,
    const char *service, const char *id)
{
	const struct svc_record *record = recorder->changes[i].record;
	if (recorder->changes[i].change != change)
		return false;
	if (change == SVC_SYNCED)
		return record == NULL;
	return record != NULL && record->n_nodes == 1 &&
	       (service == NULL || strcmp(record->name, service) == 0) &&
	       (id == NULL || strcmp(record->nodes[0].id, id) == 0);
}

bool
recorder_wait(struct recorder *recorder, svc_change change, const char *service,
    const char *id, int64_t timeout_ms, const struct svc_record **ret_record)
{
	int64_t deadline_at_ms = svc_deadline(timeout_ms);
	bool found = false;
	pthread_mutex_lock(&recorder->lock);
	for (;;) {
		while (!found && recorder->seen < recorder->n) {
			size_t i = recorder->seen++;
			found = is_change(recorder, i, change, service, id);
			if (found && ret_record != NULL)
				*ret_record = recorder->changes[i].record;
		}
		if (found || svc_now_ms() >= deadline_at_ms)
			break;
		svc_cond_wait(&recorder->cond, &recorder->lock, deadline_at_ms);
	}
	pthread_mutex_unlock(&recorder->lock);
	return found;
}

size_t
recorder_count(struct recorder *recorder, svc_change change,
    const char *service, const char *id)
{
	size_t count = 0;
	pthread_mutex_lock(&recorder->lock);
	for (size_t i = 0; i < recorder->n; i++)
		count += is_change(recorder, i, change, service, id);
	pthread_mutex_unlock(&recorder->lock);
	return count;
}

bool
recorder_quiet(struct recorder *recorder, int64_t timeout_ms)
{
	int64_t deadline_at_ms = svc_deadline(timeout_ms);
	pthread_mutex_lock(&recorder->lock);
	size_t had = recorder->n;
	while (recorder->n == had && svc_now_ms() < deadline_at_ms)
		svc_cond_wait(&recorder->cond, &recorder->lock, deadline_at_ms);
	bool quiet = recorder->n == had;
	pthread_mutex_unlock(&recorder->lock);
	return quiet;
}

int
recorder_nodes(struct recorder *recorder, const char *service)
{
	int nodes = 0;
	pthread_mutex_lock(&recorder->lock);
	for (size_t i = 0; i < recorder->n && nodes >= 0; i++) {
		const struct svc_record *record = recorder->changes[i].record;
		if (record == NULL ||
		    (service != NULL && strcmp(record->name, service) != 0))
			continue;
		/* What became of this node before? */
		bool there = false;
		for (size_t k = 0; k < i; k++) {
			if (is_change(recorder, k, SVC_CREATED, record->name,
				record->nodes[0].id))
				there = true;
			if (is_change(recorder, k, SVC_REMOVED, record->name,
				record->nodes[0].id))
				there = false;
		}
		svc_change change = recorder->changes[i].change;
		if (there == (change == SVC_CREATED))
			nodes = -1;
		else if (change == SVC_CREATED)
			nodes++;
		else if (change == SVC_REMOVED)
			nodes--;
	}
	pthread_mutex_unlock(&recorder->lock);
	return nodes;
}

/* --------------------------------------------------------------- fixture */

/* One registry that announces and one that looks, as two processes have. */
struct fixture {
	struct svc_registry *here, *there;
	struct recorder *recorder;
	struct svc_watch *watch;
	char name[48]; /* a service of this test only */
};

static svc_err
make(struct svc_registry **ret_registry, struct svc_error *err)
{
	if (setup->ops != NULL)
		return svc_registry_create_ops(
		    setup->ops, &setup->config, ret_registry, err);
	return svc_registry_create(
	    setup->plugin, &setup->config, ret_registry, err);
}

static void
choose_name(struct fixture *f)
{
	char uuid[37];
	svc_uuid(uuid);
	snprintf(f->name, sizeof(f->name), "t%.8s", uuid);
}

static int
begin(void **state)
{
	struct fixture *f = svc_mem_calloc(1, sizeof(*f));
	struct svc_error err = {0};
	if (f == NULL)
		return -1;
	if (make(&f->here, &err) != SVC_OK || make(&f->there, &err) != SVC_OK) {
		print_error("registry: %s\n", err.text);
		svc_registry_destroy(f->here);
		svc_mem_free(f);
		return -1;
	}
	choose_name(f);
	f->recorder = recorder_create();
	*state = f;
	return 0;
}

static int
end(void **state)
{
	struct fixture *f = *state;
	svc_registry_unwatch(f->watch);
	svc_registry_destroy(f->here);
	svc_registry_destroy(f->there);
	recorder_destroy(f->recorder);
	svc_mem_free(f);
	return 0;
}

#define OK(call)                                                         \
	do {                                                             \
		struct svc_error err_ = {0};                             \
		struct svc_error *err = &err_;                           \
		svc_err rc_ = (call);                                    \
		if (rc_ != SVC_OK)                                       \
			fail_msg("%s: %s: %s", #call, svc_err_name(rc_), \
			    err_.text);                                  \
	} while (0)

static void
announce(struct fixture *f, const struct sample *sample, int64_t for_ms)
{
	OK(svc_registry_announce(f->here, &sample->record, for_ms, err));
}

static void
withdraw(struct fixture *f, const struct sample *sample)
{
	OK(svc_registry_withdraw(f->here, &sample->record, err));
}

static void
watch(struct fixture *f, const char *service)
{
	OK(svc_registry_watch(
	    f->there, service, recorder_change, f->recorder, &f->watch, err));
}

static void
watch_synced(struct fixture *f, const char *service)
{
	watch(f, service);
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
}

/* How many nodes an answer has; -1 for none. An announced node may take as
 * long as an event until others can look it up. */
static int
looked_up(
    struct fixture *f, const char *service, struct svc_record_list *ret_list)
{
	struct svc_record_list list = {0};
	int nodes = 0;
	svc_err rc = svc_registry_lookup(f->there, service, &list, NULL);
	if (rc == SVC_E_NOT_FOUND)
		return -1;
	assert_int_equal(rc, SVC_OK);
	for (size_t i = 0; i < list.n_records; i++) {
		assert_string_equal(list.records[i]->name, service);
		nodes += (int)list.records[i]->n_nodes;
	}
	if (ret_list != NULL)
		*ret_list = list;
	else
		svc_record_list_fini(&list);
	return nodes;
}

static void
expect_nodes(struct fixture *f, const char *service, int nodes,
    struct svc_record_list *ret_list)
{
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	struct svc_record_list list = {0};
	int got;
	while ((got = looked_up(f, service, &list)) != nodes) {
		svc_record_list_fini(&list);
		if (svc_now_ms() >= deadline_at_ms)
			break;
		recorder_quiet(f->recorder, 20);
	}
	if (ret_list != NULL)
		*ret_list = list;
	else
		svc_record_list_fini(&list);
	assert_int_equal(got, nodes);
}

#define CREATED(f, sample)                                    \
	assert_true(recorder_wait((f)->recorder, SVC_CREATED, \
	    (sample)->service, (sample)->id, WAIT_MS, NULL))
#define REMOVED(f, sample)                                    \
	assert_true(recorder_wait((f)->recorder, SVC_REMOVED, \
	    (sample)->service, (sample)->id, WAIT_MS, NULL))

/* ----------------------------------------------------------------- tests */

static void
an_announced_node_is_found_as_it_is(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	struct sample a;
	const struct svc_value fields[] = {
	    {.name = "id", .type = "string"},
	    {.name = "n", .type = "int64"},
	};
	const struct svc_value request = {
	    "GetRequest", "GetRequest", fields, 2};
	const struct svc_value response = {
	    .name = "GetResponse", .type = "GetResponse"};
	struct svc_endpoint endpoints[] = {
	    {.name = "Student.Get", .request = &request, .response = &response},
	    {.name = "Student.List", .request = &request},
	};
	if (setup->without_values)
		for (size_t i = 0; i < 2; i++)
			endpoints[i].request = endpoints[i].response = NULL;
	sample_init(&a, f->name, "1.0.0", "a", 8080);
	endpoints[0].metadata = svc_headers_create();
	endpoints[1].metadata = svc_headers_create();
	svc_headers_set(endpoints[1].metadata, "stream", "true");
	svc_headers_set(a.node.metadata, "zone", "k\xc3\xb6ln \"1\" <&>");
	svc_headers_set(a.node.metadata, "empty", "");
	a.record.endpoints = endpoints;
	a.record.n_endpoints = 2;
	announce(f, &a, TTL_LONG_MS);
	expect_nodes(f, f->name, 1, &list);
	assert_int_equal(list.n_records, 1);
	assert_true(svc_record_equal(list.records[0], &a.record));
	svc_record_list_fini(&list);
	withdraw(f, &a);
	svc_headers_destroy(endpoints[0].metadata);
	svc_headers_destroy(endpoints[1].metadata);
	sample_fini(&a);
}

static void
an_unknown_service_is_not_found(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	struct svc_error err = {0};
	assert_int_equal(svc_registry_lookup(f->there, f->name, &list, &err),
	    SVC_E_NOT_FOUND);
	assert_non_null(strstr(err.text, f->name));
	assert_int_equal(list.n_records, 0);
}

static void
announcing_again_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct sample a, b;
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, f->name, "1", "b", 2);
	watch_synced(f, f->name);
	for (int i = 0; i < 5; i++)
		announce(f, &a, TTL_LONG_MS);
	/* What comes after proves that no more came before. */
	announce(f, &b, TTL_LONG_MS);
	CREATED(f, &b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, f->name, "a"), 1);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_UPDATED, NULL, NULL), 0);
	expect_nodes(f, f->name, 2, NULL);
	withdraw(f, &a);
	withdraw(f, &b);
	sample_fini(&a);
	sample_fini(&b);
}

/* Watches under another name, so that nothing of before is seen. */
static void
begin_anew(struct fixture *f)
{
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	recorder_destroy(f->recorder);
	f->recorder = recorder_create();
	choose_name(f);
	watch_synced(f, f->name);
}

/* Renews a node and tells whether that was in time, so that it must have been
 * there all along. On a starved machine it may be late. */
static bool
renew(struct fixture *f, const struct sample *sample, int64_t *renewed_at_ms)
{
	int64_t before_ms = svc_now_ms();
	announce(f, sample, ttl_ms());
	bool in_time = svc_now_ms() - *renewed_at_ms < ttl_ms() - EARLY_MS;
	*renewed_at_ms = before_ms;
	return in_time;
}

/* How long after its announcement a node went that is not renewed. */
static int64_t
time_to_go(struct fixture *f)
{
	struct sample a, b;
	bool in_time = true;
	begin_anew(f);
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, f->name, "1", "b", 2);
	/* Another node of the same process lives on and keeps renewing. */
	int64_t renewed_at_ms = svc_now_ms();
	announce(f, &b, ttl_ms());
	int64_t before_ms = svc_now_ms();
	announce(f, &a, ttl_ms());
	int64_t after_ms = svc_now_ms();
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	CREATED(f, &a);
	while (!recorder_wait(
	    f->recorder, SVC_REMOVED, f->name, "a", ttl_ms() / 4, NULL)) {
		assert_true(svc_now_ms() < deadline_at_ms);
		in_time &= renew(f, &b, &renewed_at_ms);
	}
	int64_t gone_at_ms = svc_now_ms();
	assert_true(gone_at_ms - before_ms >= ttl_ms() - EARLY_MS);
	in_time &= renew(f, &b, &renewed_at_ms);
	if (in_time) {
		assert_int_equal(looked_up(f, f->name, NULL), 1);
		assert_int_equal(
		    recorder_count(f->recorder, SVC_REMOVED, f->name, "b"), 0);
	}
	withdraw(f, &b);
	sample_fini(&a);
	sample_fini(&b);
	return gone_at_ms - after_ms;
}

static void
a_node_not_renewed_goes_in_time(void **state)
{
	int64_t took_ms = time_to_go(*state);
	/* A busy machine is late at times; a registry that is late is so each
	 * time. */
	for (int i = 0; i < 2 && took_ms > ttl_ms() + SLACK_MS; i++)
		took_ms = time_to_go(*state);
	assert_true(took_ms <= ttl_ms() + SLACK_MS);
}

/* Whether all renewals were in time; else this proves nothing. */
static bool
stays_while_renewed(struct fixture *f)
{
	struct sample a;
	bool in_time = true;
	begin_anew(f);
	sample_init(&a, f->name, "1", "a", 1);
	int64_t renewed_at_ms = svc_now_ms();
	announce(f, &a, ttl_ms());
	CREATED(f, &a);
	int64_t until_ms = svc_deadline(2 * ttl_ms() + SLACK_MS);
	while (in_time && svc_now_ms() < until_ms) {
		bool quiet = recorder_quiet(f->recorder, ttl_ms() / 4);
		in_time = renew(f, &a, &renewed_at_ms);
		assert_true(quiet || !in_time);
	}
	if (in_time)
		assert_int_equal(looked_up(f, f->name, NULL), 1);
	withdraw(f, &a);
	REMOVED(f, &a);
	sample_fini(&a);
	return in_time;
}

static void
a_node_that_renews_stays(void **state)
{
	while (!stays_while_renewed(*state))
		;
}

static void
a_withdrawn_node_is_gone_at_once(void **state)
{
	struct fixture *f = *state;
	const struct svc_record *last = NULL;
	struct sample a;
	sample_init(&a, f->name, "1", "a", 1);
	watch_synced(f, f->name);
	/* Nobody there yet: fine. */
	withdraw(f, &a);
	announce(f, &a, TTL_LONG_MS);
	CREATED(f, &a);
	withdraw(f, &a);
	assert_true(recorder_wait(
	    f->recorder, SVC_REMOVED, f->name, "a", WAIT_MS, &last));
	assert_true(svc_record_equal(last, &a.record));
	expect_nodes(f, f->name, -1, NULL);
	withdraw(f, &a);
	/* And it may come back. */
	announce(f, &a, TTL_LONG_MS);
	CREATED(f, &a);
	withdraw(f, &a);
	REMOVED(f, &a);
	sample_fini(&a);
}

static void
a_watch_tells_what_is_there_then_syncs(void **state)
{
	struct fixture *f = *state;
	struct sample nodes[5];
	char id[16];
	for (int i = 0; i < 5; i++) {
		snprintf(id, sizeof(id), "n%d", i);
		sample_init(&nodes[i], f->name, i < 3 ? "1" : "2", id, i + 1);
		announce(f, &nodes[i], TTL_LONG_MS);
	}
	expect_nodes(f, f->name, 5, NULL);
	watch_synced(f, f->name);
	for (int i = 0; i < 5; i++)
		assert_true(recorder_count(f->recorder, SVC_CREATED, f->name,
				nodes[i].id) == 1 ||
			    recorder_wait(f->recorder, SVC_CREATED, f->name,
				nodes[i].id, WAIT_MS, NULL));
	assert_int_equal(
	    recorder_count(f->recorder, SVC_SYNCED, NULL, NULL), 1);
	for (int i = 0; i < 5; i++) {
		withdraw(f, &nodes[i]);
		REMOVED(f, &nodes[i]);
		sample_fini(&nodes[i]);
	}
	assert_int_equal(recorder_nodes(f->recorder, NULL), 0);
}

static void
a_watch_tells_every_change(void **state)
{
	struct fixture *f = *state;
	const struct svc_record *now = NULL;
	struct sample a;
	struct svc_endpoint endpoint = {.name = "A.B"};
	sample_init(&a, f->name, "1", "a", 1);
	watch_synced(f, f->name);
	announce(f, &a, TTL_LONG_MS);
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
		announce(f, &a, TTL_LONG_MS);
		assert_true(recorder_wait(
		    f->recorder, SVC_UPDATED, f->name, "a", WAIT_MS, &now));
		assert_true(svc_record_equal(now, &a.record));
		svc_headers_destroy(endpoint.metadata);
		endpoint.metadata = NULL;
	}
	assert_int_equal(looked_up(f, f->name, NULL), 1);
	withdraw(f, &a);
	REMOVED(f, &a);
	sample_fini(&a);
}

static void
services_with_a_common_beginning_do_not_mix(void **state)
{
	struct fixture *f = *state;
	struct sample a, b, c;
	char longer[64], deeper[64];
	snprintf(longer, sizeof(longer), "%s2", f->name);
	snprintf(deeper, sizeof(deeper), "%s.x", f->name);
	/* The same id in all, as wilful a choice as can be. */
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, longer, "1", "a", 2);
	sample_init(&c, deeper, "1", "a", 3);
	watch_synced(f, f->name);
	announce(f, &b, TTL_LONG_MS);
	announce(f, &c, TTL_LONG_MS);
	announce(f, &a, TTL_LONG_MS);
	CREATED(f, &a);
	expect_nodes(f, f->name, 1, NULL);
	expect_nodes(f, longer, 1, NULL);
	expect_nodes(f, deeper, 1, NULL);
	withdraw(f, &b);
	withdraw(f, &c);
	expect_nodes(f, longer, -1, NULL);
	expect_nodes(f, f->name, 1, NULL);
	withdraw(f, &a);
	REMOVED(f, &a);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, NULL, NULL), 1);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 1);
	sample_fini(&a);
	sample_fini(&b);
	sample_fini(&c);
}

static void
versions_and_ids_do_not_mix(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	struct sample a, b, c;
	sample_init(&a, f->name, "2", "a", 1);
	sample_init(&b, f->name, "1", "c", 2);
	sample_init(&c, f->name, "1", "b", 3);
	announce(f, &a, TTL_LONG_MS);
	announce(f, &b, TTL_LONG_MS);
	announce(f, &c, TTL_LONG_MS);
	expect_nodes(f, f->name, 3, &list);
	assert_int_equal(list.n_records, 2);
	assert_string_equal(list.records[0]->version, "1");
	assert_int_equal(list.records[0]->n_nodes, 2);
	assert_string_equal(list.records[0]->nodes[0].id, "b");
	assert_string_equal(list.records[0]->nodes[0].address, "127.0.0.1:3");
	assert_string_equal(list.records[0]->nodes[1].id, "c");
	assert_string_equal(list.records[1]->version, "2");
	assert_int_equal(list.records[1]->n_nodes, 1);
	assert_string_equal(list.records[1]->nodes[0].id, "a");
	svc_record_list_fini(&list);
	withdraw(f, &b);
	expect_nodes(f, f->name, 2, NULL);
	withdraw(f, &a);
	withdraw(f, &c);
	sample_fini(&a);
	sample_fini(&b);
	sample_fini(&c);
}

static void
a_watch_of_all_sees_all(void **state)
{
	struct fixture *f = *state;
	struct sample a, b;
	char other[64];
	snprintf(other, sizeof(other), "%s-other", f->name);
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, other, "1", "a", 2);
	announce(f, &a, TTL_LONG_MS);
	expect_nodes(f, f->name, 1, NULL);
	watch_synced(f, NULL);
	announce(f, &b, TTL_LONG_MS);
	CREATED(f, &b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, f->name, "a"), 1);
	withdraw(f, &a);
	REMOVED(f, &a);
	withdraw(f, &b);
	REMOVED(f, &b);
	sample_fini(&a);
	sample_fini(&b);
}

static void
a_list_has_everything(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	struct sample a, b, c;
	char other[64];
	size_t found = 0;
	snprintf(other, sizeof(other), "%s-other", f->name);
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, f->name, "1", "b", 2);
	sample_init(&c, other, "1", "a", 3);
	announce(f, &a, TTL_LONG_MS);
	announce(f, &b, TTL_LONG_MS);
	announce(f, &c, TTL_LONG_MS);
	expect_nodes(f, f->name, 2, NULL);
	expect_nodes(f, other, 1, NULL);
	OK(svc_registry_list(f->there, &list, err));
	for (size_t i = 0; i < list.n_records; i++) {
		const struct svc_record *record = list.records[i];
		bool first = strcmp(record->name, f->name) == 0;
		if (!first && strcmp(record->name, other) != 0)
			continue;
		found++;
		if (!setup->list_without_nodes)
			assert_int_equal(record->n_nodes, first ? 2 : 1);
		if (i > 0)
			assert_true(strcmp(list.records[i - 1]->name,
					record->name) <= 0);
	}
	assert_int_equal(found, 2);
	svc_record_list_fini(&list);
	withdraw(f, &a);
	withdraw(f, &b);
	withdraw(f, &c);
	sample_fini(&a);
	sample_fini(&b);
	sample_fini(&c);
}

static void
bad_arguments_are_refused(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {
	    "", ".", "..", "a/b", "a b", "\xc3\xb6", "a\n"};
	struct svc_record_list list = {0};
	struct svc_watch *none = NULL;
	struct sample a;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct svc_error err = {0};
		sample_init(&a, names[i], "1", "a", 1);
		assert_int_equal(svc_registry_announce(
				     f->here, &a.record, TTL_LONG_MS, &err),
		    SVC_E_INVAL);
		assert_int_not_equal(strlen(err.text), 0);
		assert_int_equal(
		    svc_registry_lookup(f->here, names[i], &list, NULL),
		    SVC_E_INVAL);
		assert_int_equal(svc_registry_watch(f->here, names[i],
				     recorder_change, f->recorder, &none, NULL),
		    SVC_E_INVAL);
		sample_fini(&a);
	}
	sample_init(&a, f->name, "1", "a/b", 1);
	assert_int_equal(
	    svc_registry_announce(f->here, &a.record, TTL_LONG_MS, NULL),
	    SVC_E_INVAL);
	a.node.id = "a";
	assert_int_equal(
	    svc_registry_announce(f->here, &a.record, 0, NULL), SVC_E_INVAL);
	assert_int_equal(
	    svc_registry_announce(f->here, &a.record, SVC_FOREVER, NULL),
	    SVC_E_INVAL);
	a.node.address = "";
	assert_int_equal(
	    svc_registry_announce(f->here, &a.record, TTL_LONG_MS, NULL),
	    SVC_E_INVAL);
	a.record.n_nodes = 0;
	assert_int_equal(
	    svc_registry_announce(f->here, &a.record, TTL_LONG_MS, NULL),
	    SVC_E_INVAL);
	assert_int_equal(looked_up(f, f->name, NULL), -1);
	sample_fini(&a);
}

static void
an_ended_watch_is_silent(void **state)
{
	struct fixture *f = *state;
	struct sample a;
	sample_init(&a, f->name, "1", "a", 1);
	watch_synced(f, f->name);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	announce(f, &a, TTL_LONG_MS);
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
	withdraw(f, &a);
	svc_registry_unwatch(other);
	recorder_destroy(second);
	sample_fini(&a);
}

/* Threads that announce, look up and withdraw nodes of one service. */
struct worker {
	struct fixture *f;
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

static void
many_threads_may_use_it(void **state)
{
	struct fixture *f = *state;
	struct worker workers[WORKERS];
	struct sample last;
	char id[32];
	watch_synced(f, f->name);
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
	expect_nodes(f, f->name, WORKERS, NULL);
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	while (recorder_nodes(f->recorder, f->name) != WORKERS &&
	       svc_now_ms() < deadline_at_ms)
		recorder_quiet(f->recorder, 20);
	assert_int_equal(recorder_nodes(f->recorder, f->name), WORKERS);
	for (int i = 0; i < WORKERS; i++) {
		snprintf(id, sizeof(id), "w%d-%d", i, ROUNDS - 1);
		sample_init(&last, f->name, "1", id, 1);
		withdraw(f, &last);
		sample_fini(&last);
	}
}

static void
is_not_able(void **state)
{
	(void)state;
	test_lacks("taking announcements");
}

int
svc_conformance_registry(const struct svc_conformance_registry *with)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
#define ANNOUNCES(name)                                                   \
	{                                                                 \
#name, with->fixed ? is_not_able : name, begin, end, NULL \
	}
	const struct CMUnitTest tests[] = {
	    ANNOUNCES(an_announced_node_is_found_as_it_is),
	    TEST(an_unknown_service_is_not_found),
	    ANNOUNCES(announcing_again_changes_nothing),
	    ANNOUNCES(a_node_not_renewed_goes_in_time),
	    ANNOUNCES(a_node_that_renews_stays),
	    ANNOUNCES(a_withdrawn_node_is_gone_at_once),
	    ANNOUNCES(a_watch_tells_what_is_there_then_syncs),
	    ANNOUNCES(a_watch_tells_every_change),
	    ANNOUNCES(services_with_a_common_beginning_do_not_mix),
	    ANNOUNCES(versions_and_ids_do_not_mix),
	    ANNOUNCES(a_watch_of_all_sees_all),
	    ANNOUNCES(a_list_has_everything),
	    TEST(bad_arguments_are_refused),
	    ANNOUNCES(an_ended_watch_is_silent),
	    ANNOUNCES(many_threads_may_use_it),
	};
#undef TEST
#undef ANNOUNCES
	setup = with;
	return cmocka_run_group_tests_name("registry", tests, NULL, NULL);
}
