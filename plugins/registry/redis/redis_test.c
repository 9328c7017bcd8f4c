/* SPDX-License-Identifier: Apache-2.0 */
/* Against a real redis, which this test starts, kills, empties and freezes. */
#include "redis_test.h"

/* ----------------------------------------------- redis-cli, a second client */

#define CLI(...) cli_at(server, (const char *const[]){__VA_ARGS__, NULL})
#define DO(...) free(CLI(__VA_ARGS__))

/* What redis-cli prints as a number. */
#define NUMBER(...) number_of(CLI(__VA_ARGS__))

/* ----------------------------------------------------------------- tests */

static void
keys_and_values_are_as_documented(void **state)
{
	struct fixture *f = *state;
	char expected[512], channel[128], key[160], word[64];
	OK(svc_registry_announce(f->registry, &f->a.record, 45500, err));
	char *out = CLI("get", f->key);
	snprintf(expected, sizeof(expected),
	    "{\"name\":\"%s\",\"version\":\"1\",\"metadata\":null,"
	    "\"endpoints\":null,\"nodes\":[{\"id\":\"a\",\"address\":"
	    "\"127.0.0.1:1\",\"metadata\":{\"protocol\":\"mucp\","
	    "\"transport\":\"http\"}}]}\n",
	    f->name);
	assert_string_equal(out, expected);
	free(out);
	long long left_ms = NUMBER("pttl", f->key);
	assert_true(left_ms > 45500 - WAIT_MS && left_ms <= 45500);
	/* Nothing is left behind when nobody is there any more. */
	assert_true(NUMBER("pttl", f->set) <= 45500);
	assert_true(NUMBER("pttl", f->set) > 0);
	assert_true(NUMBER("pttl", "{svc}:services") > 0);
	assert_int_equal(NUMBER("zcard", f->set), 1);
	/* What somebody else puts there is seen. */
	watch(f);
	snprintf(key, sizeof(key), "{svc}:node:%s/go-1", f->name);
	snprintf(channel, sizeof(channel), "{svc}:change:0:%s", f->name);
	snprintf(word, sizeof(word), "%s/go-1", f->name);
	snprintf(expected, sizeof(expected),
	    "{\"nodes\":[{\"id\":\"go-1\",\"address\":\"10.0.0.1:80\"}],"
	    "\"version\":\"latest\",\"name\":\"%s\"}",
	    f->name);
	DO("set", key, expected);
	DO("zadd", f->set, "9999999999999", "go-1");
	DO("publish", channel, word);
	assert_true(recorder_wait(
	    f->recorder, SVC_CREATED, f->name, "go-1", WAIT_MS, NULL));
	DO("del", key);
	DO("publish", channel, word);
	assert_true(recorder_wait(
	    f->recorder, SVC_REMOVED, f->name, "go-1", WAIT_MS, NULL));
	/* And a word that makes no sense is nothing. */
	static const char *const words[] = {
	    "", "/", "x", "x/", "/y", "x/y/z", "a b/c", "other/y"};
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		DO("publish", channel, words[i]);
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
}

static void
withdrawing_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	announce(f, &f->b);
	OK(svc_registry_withdraw(f->registry, &f->a.record, err));
	assert_int_equal(NUMBER("exists", f->key), 0);
	assert_int_equal(NUMBER("zcard", f->set), 1);
	OK(svc_registry_withdraw(f->registry, &f->b.record, err));
	assert_int_equal(NUMBER("exists", f->set), 0);
	char *out = CLI("zscore", "{svc}:services", f->name);
	assert_string_equal(out, "\n");
	free(out);
}

/* One that died is taken out of the sets by those that live. */
static void
what_has_expired_is_cleared_away(void **state)
{
	struct fixture *f = *state;
	OK(svc_registry_announce(f->registry, &f->a.record, 300, err));
	announce(f, &f->b);
	watch(f);
	assert_int_equal(NUMBER("zcard", f->set), 2);
	expect(f, SVC_REMOVED, &f->a);
	announce(f, &f->b);
	assert_int_equal(NUMBER("zcard", f->set), 1);
}

static void
clusters_do_not_mix(void **state)
{
	struct fixture *f = *state;
	struct svc_registry_config config = config_of(server->address);
	static const char *const spaces[] = {
	    "game/dev/1", "game/dev", "game/dev/1/nodes", "svc/node", NULL};
	struct svc_registry *others[5];
	char id[16];
	for (size_t i = 0; i < 5; i++) {
		config.options = svc_headers_create();
		struct svc_headers *options =
		    (struct svc_headers *)(uintptr_t)config.options;
		if (spaces[i] != NULL)
			svc_headers_set(options, "namespace", spaces[i]);
		else /* the same namespace in another database */
			svc_headers_set(options, "database", "3");
		others[i] = make_with(&config);
		svc_headers_destroy(options);
	}
	announce(f, &f->a);
	watch(f);
	for (size_t i = 0; i < 5; i++) {
		struct sample other;
		struct svc_record_list list = {0};
		snprintf(id, sizeof(id), "other-%zu", i);
		sample_init(&other, f->name, "1", id, 9);
		OK(svc_registry_announce(
		    others[i], &other.record, TTL_MS, err));
		assert_int_equal(nodes_of(others[i], f->name), 1);
		OK(svc_registry_list(others[i], &list, err));
		assert_int_equal(list.n_records, 1);
		svc_record_list_fini(&list);
		OK(svc_registry_withdraw(others[i], &other.record, err));
		sample_fini(&other);
	}
	assert_int_equal(nodes_of(f->registry, f->name), 1);
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, NULL, NULL), 2);
	for (size_t i = 0; i < 5; i++)
		svc_registry_destroy(others[i]);
}

static void
a_killed_server_that_kept_its_data_is_gone_back_to(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	announce(f, &f->b);
	watch(f);
	test_server_kill(server);
	assert_int_equal(
	    svc_registry_announce(f->registry, &f->a.record, TTL_MS, NULL),
	    SVC_E_UNAVAILABLE);
	assert_true(recorder_quiet(f->recorder, 300));
	assert_true(test_server_start_again(server, true));
	svc_headers_set(f->a.node.metadata, "weight", "9");
	announce(f, &f->a);
	expect(f, SVC_UPDATED, &f->a);
	OK(svc_registry_withdraw(f->registry, &f->b.record, err));
	expect(f, SVC_REMOVED, &f->b);
	assert_int_equal(recorder_nodes(f->recorder, f->name), 1);
}

/* Without a break of the connection. */
static void
deleted_data_heals_and_nobody_is_forgotten(void **state)
{
	struct fixture *f = *state;
	struct svc_registry_config config = config_of(server->address);
	struct svc_headers *options = svc_headers_create();
	svc_headers_set(options, "pull", "200ms");
	config.options = options;
	struct svc_registry *eager = make_with(&config);
	svc_headers_destroy(options);
	announce(f, &f->a);
	OK(svc_registry_announce(f->registry, &f->b.record, 3000, err));
	watch_with(f, eager, f->name);
	DO("flushall");
	/* Pulls find nothing, several times; nobody is taken away. */
	assert_true(recorder_quiet(f->recorder, 600));
	assert_int_equal(nodes_of(f->registry, f->name), 0);
	announce(f, &f->a);
	/* Its time is over, and it did not come back. */
	expect(f, SVC_REMOVED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, f->name, "a"), 0);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	svc_registry_destroy(eager);
}

/* A change that nobody told of is found by the next pull. */
static void
a_silent_change_is_pulled(void **state)
{
	struct fixture *f = *state;
	char value[512];
	announce(f, &f->a);
	watch(f);
	snprintf(value, sizeof(value),
	    "{\"name\":\"%s\",\"version\":\"2\",\"nodes\":[{\"id\":\"a\","
	    "\"address\":\"10.0.0.1:80\"}]}",
	    f->name);
	DO("set", f->key, value, "KEEPTTL");
	expect(f, SVC_UPDATED, &f->a);
}

static void
what_is_no_record_is_skipped(void **state)
{
	struct fixture *f = *state;
	static const char *const ids[] = {"bad", "other", "lacks", "list"};
	char key[160], value[256], other[160];
	announce(f, &f->a);
	lines_count("redis.skipped");
	watch(f);
	for (size_t i = 0; i < 4; i++) {
		snprintf(key, sizeof(key), "{svc}:node:%s/%s", f->name, ids[i]);
		snprintf(value, sizeof(value),
		    i == 0   ? "{\"name\":"
		    : i == 1 ? "{\"name\":\"%s\",\"version\":\"1\",\"nodes\":"
			       "[{\"id\":\"z\",\"address\":\"x:1\"}]}"
			     : "{\"name\":\"%s\",\"nodes\":[{\"id\":\"z\"}]}",
		    f->name);
		if (i == 3)
			DO("lpush", key, value);
		else
			DO("set", key, value);
		DO("zadd", f->set, "9999999999999", ids[i]);
	}
	DO("zadd", f->set, "9999999999999", "x/y");
	DO("zadd", f->set, "9999999999999", "");
	DO("zadd", f->set, "inf", "endless");
	DO("zadd", "{svc}:services", "9999999999999", "no service");
	/* A service whose set is something else. */
	snprintf(other, sizeof(other), "{svc}:nodes:%s-x", f->name);
	snprintf(value, sizeof(value), "%s-x", f->name);
	DO("set", other, "rubbish");
	DO("zadd", "{svc}:services", "9999999999999", value);
	/* They stop neither the watch nor a lookup nor a list. */
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
	for (int i = 0; i < 3; i++) {
		struct svc_record_list list = {0};
		assert_int_equal(nodes_of(f->registry, f->name), 2);
		assert_int_equal(nodes_of(f->registry, value), 0);
		OK(svc_registry_list(f->registry, &list, err));
		svc_record_list_fini(&list);
	}
	/* Each once: three values and the set. */
	assert_int_equal(lines_counted(), 4);
	/* Announcing takes the place of what is none of ours. */
	struct sample c;
	sample_init(&c, value, "1", "list", 3);
	OK(svc_registry_announce(f->registry, &c.record, TTL_MS, err));
	assert_int_equal(nodes_of(f->registry, value), 1);
	sample_fini(&c);
	sample_init(&c, f->name, "1", "list", 3);
	announce(f, &c);
	expect(f, SVC_CREATED, &c);
	sample_fini(&c);
	DO("del", "{svc}:services", f->set, other);
}

static void
a_replica_is_passed_over(void **state)
{
	struct fixture *f = *state;
	struct test_server *second = start_redis(NULL);
	char list[96], port[16];
	struct svc_error why = {0};
	assert_non_null(second);
	snprintf(port, sizeof(port), "%d", server->port);
	free(cli_at(second,
	    (const char *const[]){"replicaof", "127.0.0.1", port, NULL}));
	snprintf(
	    list, sizeof(list), "%s, %s", second->address, server->address);
	struct svc_registry_config config = config_of(list);
	struct svc_registry *registry = make_with(&config);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	watch_with(f, registry, f->name);
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	while (number_of(cli_at(second,
		   (const char *const[]){"exists", f->key, NULL})) == 0 &&
	       svc_now_ms() < deadline_at_ms)
		recorder_quiet(f->recorder, 20);
	/* The other one is made the master: both sides go over to it. */
	test_server_kill(server);
	free(cli_at(
	    second, (const char *const[]){"replicaof", "no", "one", NULL}));
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	assert_int_equal(nodes_of(registry, f->name), 2);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	svc_registry_destroy(registry);
	/* Alone it is an error that says so. */
	assert_true(test_server_start_again(server, true));
	free(cli_at(second,
	    (const char *const[]){"replicaof", "127.0.0.1", port, NULL}));
	config = config_of(second->address);
	registry = make_with(&config);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "it is a replica"));
	svc_registry_destroy(registry);
	test_server_stop(second);
}

static void
a_full_server_keeps_whom_it_has(void **state)
{
	struct fixture *f = *state;
	struct svc_error why = {0};
	OK(svc_registry_announce(f->registry, &f->a.record, 30000, err));
	watch(f);
	DO("config", "set", "maxmemory-policy", "noeviction");
	DO("config", "set", "maxmemory", "1");
	/* A renewal passes, whether or not the node has changed. */
	announce(f, &f->a);
	assert_true(NUMBER("pttl", f->key) > 30000);
	assert_true(NUMBER("pttl", f->set) > 30000);
	svc_headers_set(f->a.node.metadata, "weight", "9");
	announce(f, &f->a);
	expect(f, SVC_UPDATED, &f->a);
	/* A new node does not, and leaves nothing behind. */
	assert_int_equal(
	    svc_registry_announce(f->registry, &f->b.record, TTL_MS, &why),
	    SVC_E_EXHAUSTED);
	assert_non_null(strstr(why.text, server->address));
	assert_non_null(strstr(why.text, "is full: raise its maxmemory"));
	assert_int_equal(NUMBER("zcard", f->set), 1);
	OK(svc_registry_withdraw(f->registry, &f->a.record, err));
	expect(f, SVC_REMOVED, &f->a);
	DO("config", "set", "maxmemory", "0");
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
}

static void
many_nodes_come_in_pieces(void **state)
{
	enum { MANY = 700 };
	struct fixture *f = *state;
	char id[16];
	for (int i = 0; i < MANY; i++) {
		struct sample sample;
		snprintf(id, sizeof(id), "n%d", i);
		sample_init(&sample, f->name, "1", id, i + 1);
		announce(f, &sample);
		sample_fini(&sample);
	}
	assert_int_equal(nodes_of(f->registry, f->name), MANY);
	watch(f);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, NULL, NULL), MANY);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_redis, end)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(it_keeps_the_promises),
	    TEST(keys_and_values_are_as_documented),
	    TEST(withdrawing_leaves_nothing),
	    TEST(what_has_expired_is_cleared_away),
	    TEST(clusters_do_not_mix),
	    TEST(a_killed_server_that_kept_its_data_is_gone_back_to),
	    TEST(an_emptied_registry_heals_and_nobody_is_forgotten),
	    TEST(deleted_data_heals_and_nobody_is_forgotten),
	    TEST(a_silent_change_is_pulled),
	    TEST(what_is_no_record_is_skipped),
	    TEST(an_absent_server_is_an_error_of_the_ops),
	    TEST(a_frozen_server_costs_no_more_than_the_timeout),
	    TEST(a_replica_is_passed_over),
	    TEST(a_full_server_keeps_whom_it_has),
	    TEST(many_nodes_come_in_pieces),
	};
#undef TEST
	if (!test_server_have("redis-server") ||
	    !test_server_have("redis-cli")) {
		fprintf(
		    stderr, "SKIPPED: redis-server and redis-cli are needed\n");
		return 77;
	}
	server = start_redis(NULL);
	if (server == NULL)
		return 1;
	conformance_failures =
	    svc_conformance_registry(&(struct svc_conformance_registry){
		.plugin = "redis",
		.config = {.address = server->address, .grace_ms = 3000},
		.ttl_ms = 1000,
	    });
	int failed = cmocka_run_group_tests_name("redis", tests, NULL, NULL);
	test_server_stop(server);
	return failed;
}
