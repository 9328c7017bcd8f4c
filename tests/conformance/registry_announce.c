/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/registry.h>: a node comes, stays and goes. */
#include <conformance/registry_pair.h>

enum {
	SLACK_MS = 1000, /* the promise: gone within TTL + 1 s */
	EARLY_MS = 100,
};

void
an_announced_node_is_found_as_it_is(void **state)
{
	struct pair *f = *state;
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
	if (pair_setup->without_values)
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
	pair_announce(f, &a, TTL_LONG_MS);
	pair_expect_nodes(f, f->name, 1, &list);
	assert_int_equal(list.n_records, 1);
	assert_true(svc_record_equal(list.records[0], &a.record));
	svc_record_list_fini(&list);
	pair_withdraw(f, &a);
	svc_headers_destroy(endpoints[0].metadata);
	svc_headers_destroy(endpoints[1].metadata);
	sample_fini(&a);
}

void
an_unknown_service_is_not_found(void **state)
{
	struct pair *f = *state;
	struct svc_record_list list = {0};
	struct svc_error err = {0};
	assert_int_equal(svc_registry_lookup(f->there, f->name, &list, &err),
	    SVC_E_NOT_FOUND);
	assert_non_null(strstr(err.text, f->name));
	assert_int_equal(list.n_records, 0);
}

void
announcing_again_changes_nothing(void **state)
{
	struct pair *f = *state;
	struct sample a, b;
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, f->name, "1", "b", 2);
	pair_watch_synced(f, f->name);
	for (int i = 0; i < 5; i++)
		pair_announce(f, &a, TTL_LONG_MS);
	/* What comes after proves that no more came before. */
	pair_announce(f, &b, TTL_LONG_MS);
	CREATED(f, &b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, f->name, "a"), 1);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_UPDATED, NULL, NULL), 0);
	pair_expect_nodes(f, f->name, 2, NULL);
	pair_withdraw(f, &a);
	pair_withdraw(f, &b);
	sample_fini(&a);
	sample_fini(&b);
}

/* Watches under another name, so that nothing of before is seen. */
static void
begin_anew(struct pair *f)
{
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	recorder_destroy(f->recorder);
	f->recorder = recorder_create();
	pair_choose_name(f);
	pair_watch_synced(f, f->name);
}

/* Renews a node and tells whether that was in time, so that it must have been
 * there all along. On a starved machine it may be late. */
static bool
renew(struct pair *f, const struct sample *sample, int64_t *renewed_at_ms)
{
	int64_t before_ms = svc_now_ms();
	pair_announce(f, sample, pair_ttl_ms());
	bool in_time = svc_now_ms() - *renewed_at_ms < pair_ttl_ms() - EARLY_MS;
	*renewed_at_ms = before_ms;
	return in_time;
}

/* How long after its announcement a node went that is not renewed. */
static int64_t
time_to_go(struct pair *f)
{
	struct sample a, b;
	bool in_time = true;
	begin_anew(f);
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, f->name, "1", "b", 2);
	/* Another node of the same process lives on and keeps renewing. */
	int64_t renewed_at_ms = svc_now_ms();
	pair_announce(f, &b, pair_ttl_ms());
	int64_t before_ms = svc_now_ms();
	pair_announce(f, &a, pair_ttl_ms());
	int64_t after_ms = svc_now_ms();
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	CREATED(f, &a);
	while (!recorder_wait(
	    f->recorder, SVC_REMOVED, f->name, "a", pair_ttl_ms() / 4, NULL)) {
		assert_true(svc_now_ms() < deadline_at_ms);
		in_time &= renew(f, &b, &renewed_at_ms);
	}
	int64_t gone_at_ms = svc_now_ms();
	assert_true(gone_at_ms - before_ms >= pair_ttl_ms() - EARLY_MS);
	in_time &= renew(f, &b, &renewed_at_ms);
	if (in_time) {
		assert_int_equal(pair_looked_up(f, f->name, NULL), 1);
		assert_int_equal(
		    recorder_count(f->recorder, SVC_REMOVED, f->name, "b"), 0);
	}
	pair_withdraw(f, &b);
	sample_fini(&a);
	sample_fini(&b);
	return gone_at_ms - after_ms;
}

void
a_node_not_renewed_goes_in_time(void **state)
{
	int64_t took_ms = time_to_go(*state);
	/* A busy machine is late at times; a registry that is late is so each
	 * time. */
	for (int i = 0; i < 2 && took_ms > pair_ttl_ms() + SLACK_MS; i++)
		took_ms = time_to_go(*state);
	assert_true(took_ms <= pair_ttl_ms() + SLACK_MS);
}

/* Whether all renewals were in time; else this proves nothing. */
static bool
stays_while_renewed(struct pair *f)
{
	struct sample a;
	bool in_time = true;
	begin_anew(f);
	sample_init(&a, f->name, "1", "a", 1);
	int64_t renewed_at_ms = svc_now_ms();
	pair_announce(f, &a, pair_ttl_ms());
	CREATED(f, &a);
	int64_t until_ms = svc_deadline(2 * pair_ttl_ms() + SLACK_MS);
	while (in_time && svc_now_ms() < until_ms) {
		bool quiet = recorder_quiet(f->recorder, pair_ttl_ms() / 4);
		in_time = renew(f, &a, &renewed_at_ms);
		assert_true(quiet || !in_time);
	}
	if (in_time)
		assert_int_equal(pair_looked_up(f, f->name, NULL), 1);
	pair_withdraw(f, &a);
	REMOVED(f, &a);
	sample_fini(&a);
	return in_time;
}

void
a_node_that_renews_stays(void **state)
{
	while (!stays_while_renewed(*state))
		;
}

void
a_withdrawn_node_is_gone_at_once(void **state)
{
	struct pair *f = *state;
	const struct svc_record *last = NULL;
	struct sample a;
	sample_init(&a, f->name, "1", "a", 1);
	pair_watch_synced(f, f->name);
	/* Nobody there yet: fine. */
	pair_withdraw(f, &a);
	pair_announce(f, &a, TTL_LONG_MS);
	CREATED(f, &a);
	pair_withdraw(f, &a);
	assert_true(recorder_wait(
	    f->recorder, SVC_REMOVED, f->name, "a", WAIT_MS, &last));
	assert_true(svc_record_equal(last, &a.record));
	pair_expect_nodes(f, f->name, -1, NULL);
	pair_withdraw(f, &a);
	/* And it may come back. */
	pair_announce(f, &a, TTL_LONG_MS);
	CREATED(f, &a);
	pair_withdraw(f, &a);
	REMOVED(f, &a);
	sample_fini(&a);
}

void
bad_arguments_are_refused(void **state)
{
	struct pair *f = *state;
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
	assert_int_equal(pair_looked_up(f, f->name, NULL), -1);
	sample_fini(&a);
}
