/* SPDX-License-Identifier: Apache-2.0 */
/* Against a real consul, which this test starts, kills, empties and freezes. */
#include "consul_test.h"

static void
put(const char *path, const char *body)
{
	free(ask(server->address, "PUT", path, body));
}

/* ----------------------------------------------------------------- tests */

static void
instances_are_those_of_go_micro(void **state)
{
	struct fixture *f = *state;
	char path[256], expected[512], body[1024];
	announce(f, &f->a);
	snprintf(path, sizeof(path), "/v1/agent/service/%s", f->a.id);
	char *out = ask(server->address, "GET", path, NULL);
	snprintf(expected, sizeof(expected), "\"ID\": \"%s\"", f->a.id);
	assert_non_null(strstr(out, expected));
	assert_non_null(strstr(out,
	    "\"Tags\": [\n"
	    "        \"t-789cab562a28ca2fc94fcecf51b252ca2d4d2e50aa050046a906e2"
	    "\",\n"
	    "        \"t-789cab562a294acc2b2ec82f2a51b252ca28292950aa05004f9307"
	    "68\",\n"
	    "        \"v-789c33d433d033000002ce00ee\"\n"
	    "    ]"));
	assert_non_null(strstr(out, "\"Port\": 1,"));
	assert_non_null(strstr(out, "\"Address\": \"127.0.0.1\""));
	free(out);
	snprintf(path, sizeof(path), "/v1/health/checks/%s", f->name);
	out = ask(server->address, "GET", path, NULL);
	snprintf(
	    expected, sizeof(expected), "\"CheckID\": \"service:%s\"", f->a.id);
	assert_non_null(strstr(out, expected));
	assert_non_null(strstr(out, "\"Status\": \"passing\""));
	assert_non_null(strstr(out, "\"Type\": \"ttl\""));
	free(out);

	/* And what a go-micro service put there is seen, once it passes. */
	watch(f);
	snprintf(body, sizeof(body),
	    "{\"ID\":\"%s-go\",\"Name\":\"%s\",\"Tags\":["
	    "\"t-789caa562a28ca2fc94fcecf51b252ca2d4d2e50aa05040000ffff46a906e2"
	    "\",\"v-789cca492c492d2e01040000ffff08cc028e\"],\"Port\":80,"
	    "\"Address\":\"10.0.0.1\",\"Check\":{\"TTL\":\"1m30s\","
	    "\"DeregisterCriticalServiceAfter\":\"1m35s\"}}",
	    f->name, f->name);
	put("/v1/agent/service/register", body);
	snprintf(
	    path, sizeof(path), "/v1/agent/check/pass/service:%s-go", f->name);
	put(path, NULL);
	const struct svc_record *seen = NULL;
	char id[64];
	snprintf(id, sizeof(id), "%s-go", f->name);
	assert_true(recorder_wait(
	    f->recorder, SVC_CREATED, f->name, id, WAIT_MS, &seen));
	assert_string_equal(seen->version, "latest");
	assert_string_equal(seen->nodes[0].address, "10.0.0.1:80");
	assert_string_equal(
	    svc_headers_get(seen->nodes[0].metadata, "protocol"), "mucp");
	snprintf(path, sizeof(path), "/v1/agent/check/fail/service:%s", id);
	put(path, NULL);
	assert_true(recorder_wait(
	    f->recorder, SVC_REMOVED, f->name, id, WAIT_MS, NULL));
	assert_int_equal(recorder_nodes(f->recorder, f->name), 1);
}

static void
renewing_writes_nothing(void **state)
{
	struct fixture *f = *state;
	char path[256];
	announce(f, &f->a);
	assert_int_equal(lookup(f->registry, f->name), SVC_OK);
	snprintf(path, sizeof(path), "/v1/health/service/%s", f->name);
	char *before = ask(server->address, "GET", path, NULL);
	/* The first pass gives the check its output, which is all that may
	 * change. */
	for (int i = 0; i < 3; i++)
		announce(f, &f->a);
	char *after = ask(server->address, "GET", path, NULL);
	const char *service[2] = {
	    strstr(before, "\"Service\": {"), strstr(after, "\"Service\": {")};
	assert_non_null(service[0]);
	assert_non_null(service[1]);
	size_t len = (size_t)(strstr(service[0], "\"Checks\"") - service[0]);
	assert_memory_equal(service[0], service[1], len);
	assert_non_null(strstr(service[0], "\"ModifyIndex\""));
	free(before);
	free(after);
}

static void
what_is_changed_by_hand_is_put_right(void **state)
{
	struct fixture *f = *state;
	char path[256], body[512];
	announce(f, &f->a);
	watch(f);
	/* Deregistered. */
	snprintf(
	    path, sizeof(path), "/v1/agent/service/deregister/%s", f->a.id);
	put(path, NULL);
	expect(f, SVC_REMOVED, &f->a);
	announce(f, &f->a);
	expect(f, SVC_CREATED, &f->a);
	/* Only its check. Without one it would never go. */
	snprintf(path, sizeof(path), "/v1/agent/check/deregister/service:%s",
	    f->a.id);
	put(path, NULL);
	announce(f, &f->a);
	snprintf(path, sizeof(path), "/v1/health/checks/%s", f->name);
	char *out = ask(server->address, "GET", path, NULL);
	assert_non_null(strstr(out, "service:"));
	free(out);
	/* Registered with another port and other tags. */
	snprintf(body, sizeof(body),
	    "{\"ID\":\"%s\",\"Name\":\"%s\",\"Port\":4,\"Tags\":[\"v=2\"],"
	    "\"Address\":\"10.0.0.1\",\"Check\":{\"TTL\":\"90s\",\"Status\":"
	    "\"passing\"}}",
	    f->a.id, f->name);
	put("/v1/agent/service/register", body);
	const struct svc_record *seen = expect(f, SVC_UPDATED, &f->a);
	assert_string_equal(seen->nodes[0].address, "10.0.0.1:4");
	announce(f, &f->a);
	seen = expect(f, SVC_UPDATED, &f->a);
	assert_true(svc_record_equal(seen, &f->a.record));
	/* Failed: the next renewal says better. */
	snprintf(
	    path, sizeof(path), "/v1/agent/check/fail/service:%s", f->a.id);
	put(path, NULL);
	expect(f, SVC_REMOVED, &f->a);
	announce(f, &f->a);
	expect(f, SVC_CREATED, &f->a);
}

static void
changes_during_an_outage_are_told_after_it(void **state)
{
	struct fixture *f = *state;
	/* One that keeps its data. */
	struct test_server *lasting = start_consul("server = true\n");
	assert_non_null(lasting);
	struct svc_registry *registry = make(lasting->address);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	watch_with(f, registry, f->name);
	if (recorder_nodes(f->recorder, f->name) < 2)
		expect(f, SVC_CREATED, &f->b);
	test_server_kill(lasting);
	assert_true(recorder_quiet(f->recorder, 300));
	assert_true(test_server_start_again(lasting, true));
	svc_headers_set(f->a.node.metadata, "weight", "9");
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	expect(f, SVC_UPDATED, &f->a);
	OK(svc_registry_withdraw(registry, &f->b.record, err));
	expect(f, SVC_REMOVED, &f->b);
	assert_int_equal(recorder_nodes(f->recorder, f->name), 1);
	/* Without its data, once more: the indexes begin anew. */
	test_server_kill(lasting);
	assert_true(test_server_start_again(lasting, false));
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, f->name, f->a.id), 0);
	svc_registry_destroy(registry);
	f->watch = NULL;
	test_server_stop(lasting);
}

static void
what_other_programs_have_there_stops_nothing(void **state)
{
	struct fixture *f = *state;
	char body[512];
	static const char *const tags[] = {"[]", "[\"master\",\"t\",\"e\"]",
	    "[\"v-00\"]", "[\"v-789c\",\"t-zz\"]"};
	announce(f, &f->a);
	watch(f);
	lines_count("consul.skipped");
	for (int i = 0; i < 4; i++) {
		snprintf(body, sizeof(body),
		    "{\"ID\":\"%s-x%d\",\"Name\":\"%s\",\"Port\":80,\"Tags\":%"
		    "s}",
		    f->name, i, f->name, tags[i]);
		put("/v1/agent/service/register", body);
	}
	snprintf(body, sizeof(body),
	    "{\"ID\":\"other\",\"Name\":\"%s_other\",\"Tags\":[\"v=1\"]}",
	    f->name);
	put("/v1/agent/service/register", body);
	/* They stop neither the watch nor a lookup nor a list. */
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
	for (int i = 0; i < 3; i++) {
		struct svc_record_list list = {0};
		OK(svc_registry_lookup(f->registry, f->name, &list, err));
		assert_int_equal(list.n_records, 1);
		assert_int_equal(list.records[0]->n_nodes, 2);
		svc_record_list_fini(&list);
		OK(svc_registry_list(f->registry, &list, err));
		for (size_t k = 0; k < list.n_records; k++)
			assert_string_not_equal(
			    list.records[k]->name, "consul");
		svc_record_list_fini(&list);
	}
	assert_int_equal(lines_counted(), 2);
	withdraw(f, &f->b);
	expect(f, SVC_REMOVED, &f->b);
	assert_int_equal(recorder_nodes(f->recorder, f->name), 1);
}

static void
another_agent_takes_over(void **state)
{
	struct fixture *f = *state;
	char list[96];
	struct svc_record_list found = {0};
	struct test_server *second = start_consul(NULL);
	assert_non_null(second);
	snprintf(list, sizeof(list), "%s,http://%s", server->address,
	    second->address);
	struct svc_registry *registry = make(list);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	watch_with(f, registry, f->name);
	test_server_kill(server);
	/* The second knows nothing: it is told, and the watch stays calm. */
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	OK(svc_registry_lookup(registry, f->name, &found, err));
	assert_int_equal(found.n_records, 1);
	svc_record_list_fini(&found);
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
	/* A frozen one is left as well. */
	assert_true(test_server_start_again(server, false));
	test_server_freeze(second);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	svc_headers_set(f->b.node.metadata, "weight", "3");
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_UPDATED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
	/* Withdrawn at both: the first must agree, the frozen one need not. */
	OK(svc_registry_withdraw(registry, &f->a.record, err));
	expect(f, SVC_REMOVED, &f->a);
	svc_registry_destroy(registry);
	f->watch = NULL;
	test_server_stop(second);
}

static void
a_watch_of_all_misses_nothing(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	announce(f, &f->b);
	watch_with(f, f->registry, NULL);
	assert_int_equal(recorder_nodes(f->recorder, f->name), 2);
	/* A node moves: neither names nor tags nor checks tell of it. */
	f->a.node.address = "127.0.0.1:4711";
	announce(f, &f->a);
	const struct svc_record *seen = expect(f, SVC_UPDATED, &f->a);
	assert_true(svc_record_equal(seen, &f->a.record));
	/* One comes that is like the others but for its id. */
	struct sample c;
	char id[64];
	snprintf(id, sizeof(id), "%s-c", f->name);
	sample_init(&c, f->name, "1.0.0", id, 3);
	OK(svc_registry_announce(f->registry, &c.record, 2000, err));
	expect(f, SVC_CREATED, &c);
	/* And is not renewed. */
	expect(f, SVC_REMOVED, &c);
	sample_fini(&c);
	/* A whole host is taken out and comes back. */
	put("/v1/agent/maintenance?enable=true", NULL);
	expect(f, SVC_REMOVED, &f->a);
	put("/v1/agent/maintenance?enable=false", NULL);
	expect(f, SVC_CREATED, &f->a);
	withdraw(f, &f->a);
	expect(f, SVC_REMOVED, &f->a);
	/* It outlives the server, too. */
	test_server_kill(server);
	assert_true(test_server_start_again(server, false));
	announce(f, &f->b);
	announce(f, &f->a);
	expect(f, SVC_CREATED, &f->a);
	assert_int_equal(recorder_nodes(f->recorder, f->name), 2);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_SYNCED, NULL, NULL), 1);
}

static void
a_node_goes_from_a_watch_of_all_in_time(void **state)
{
	struct fixture *f = *state;
	int64_t took_ms = INT64_MAX;
	watch_with(f, f->registry, NULL);
	/* A busy machine is late at times; a registry that is late is so each
	 * time. */
	for (int i = 0; i < 3 && took_ms > 2000 + 1000; i++) {
		OK(svc_registry_announce(f->registry, &f->a.record, 2000, err));
		int64_t since_ms = svc_now_ms();
		expect(f, SVC_CREATED, &f->a);
		expect(f, SVC_REMOVED, &f->a);
		took_ms = svc_now_ms() - since_ms;
	}
	assert_true(took_ms <= 2000 + 1000);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(it_keeps_the_promises),
	    TEST(instances_are_those_of_go_micro),
	    TEST(renewing_writes_nothing),
	    TEST(what_is_changed_by_hand_is_put_right),
	    TEST(an_emptied_registry_heals_and_nobody_is_forgotten),
	    TEST(changes_during_an_outage_are_told_after_it),
	    TEST(what_other_programs_have_there_stops_nothing),
	    TEST(another_agent_takes_over),
	    TEST(an_absent_server_is_an_error_of_the_ops),
	    TEST(a_frozen_server_costs_no_more_than_the_timeout),
	    TEST(a_watch_of_all_misses_nothing),
	    TEST(a_node_goes_from_a_watch_of_all_in_time),
	};
#undef TEST
	if (!test_server_have("consul") || !test_server_have("curl")) {
		fprintf(stderr,
		    "SKIPPED: consul (tools/get-consul) and curl are needed\n");
		return 77;
	}
	fixture_of("consul", "1.0.0", true);
	server = start_consul(NULL);
	if (server == NULL)
		return 1;
	conformance_failures =
	    svc_conformance_registry(&(struct svc_conformance_registry){
		.plugin = "consul",
		.config = {.address = server->address, .grace_ms = 3000},
		.ttl_ms = 2000,
		.list_without_nodes = true,
	    });
	int failed = cmocka_run_group_tests_name("consul", tests, NULL, NULL);
	test_server_stop(server);
	return failed;
}
