/* SPDX-License-Identifier: Apache-2.0 */
/* Against a real redis, which this test starts, kills, empties and freezes. */
#include <conformance/registry.h>
#include <support/pki.h>
#include <support/servers.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A watch may take 2 s and a pull to notice a silence, 6 s between two attempts
 * and the 3 s of grace: WAIT_MS is far beyond. */
enum { TTL_MS = 60000, WAIT_MS = 30000, GRACE_MS = 3000 };

/* One for all tests; each uses names of its own. */
static struct test_server *server;

#define OK(call)                                                         \
	do {                                                             \
		struct svc_error err_ = {0};                             \
		struct svc_error *err = &err_;                           \
		svc_err rc_ = (call);                                    \
		if (rc_ != SVC_OK)                                       \
			fail_msg("%s: %s: %s", #call, svc_err_name(rc_), \
			    err_.text);                                  \
	} while (0)

/* ----------------------------------------------- redis-cli, a second client
 */

static char *
cli_at(const struct test_server *at, const char *const words[])
{
	char port[16];
	int status = -1;
	snprintf(port, sizeof(port), "%d", at->port);
	const char *argv[48] = {"redis-cli", "-p", port, "--no-auth-warning"};
	size_t n = 4;
	for (; *words != NULL && n < 47; words++)
		argv[n++] = *words;
	argv[n] = NULL;
	char *out = test_run(argv, &status);
	if (out == NULL || status != 0)
		fail_msg("redis-cli %s: status %d", argv[4], status);
	return out;
}

#define CLI(...) cli_at(server, (const char *const[]){__VA_ARGS__, NULL})
#define DO(...) free(CLI(__VA_ARGS__))

/* What redis-cli prints as a number. */
#define NUMBER(...) number_of(CLI(__VA_ARGS__))

static long long
number_of(char *out)
{
	long long number = strtoll(out, NULL, 10);
	free(out);
	return number;
}

/* --------------------------------------------------------------- fixture */

struct fixture {
	struct svc_registry *registry;
	struct recorder *recorder;
	struct svc_watch *watch;
	struct sample a, b;
	char name[48];
	char key[128], set[128]; /* of a, and of its service */
};

static struct svc_registry_config
config_of(const char *address)
{
	return (struct svc_registry_config){
	    .address = address, .timeout_ms = 4000, .grace_ms = GRACE_MS};
}

static struct svc_registry *
make(const struct svc_registry_config *config)
{
	struct svc_registry *registry = NULL;
	OK(svc_registry_create("redis", config, &registry, err));
	return registry;
}

static int
begin(void **state)
{
	struct fixture *f = svc_mem_calloc(1, sizeof(*f));
	struct svc_registry_config config = config_of(server->address);
	char uuid[37];
	assert_non_null(f);
	if (server->pid == 0)
		assert_true(test_server_start_again(server, false));
	svc_uuid(uuid);
	snprintf(f->name, sizeof(f->name), "t%.8s", uuid);
	sample_init(&f->a, f->name, "1", "a", 1);
	sample_init(&f->b, f->name, "1", "b", 2);
	snprintf(f->key, sizeof(f->key), "{svc}:node:%s/a", f->name);
	snprintf(f->set, sizeof(f->set), "{svc}:nodes:%s", f->name);
	f->registry = make(&config);
	f->recorder = recorder_create();
	*state = f;
	return 0;
}

static int
end(void **state)
{
	struct fixture *f = *state;
	/* A test that failed half way may have left it frozen. */
	test_server_thaw(server);
	svc_log_set_sink(NULL, NULL);
	svc_registry_unwatch(f->watch);
	svc_registry_destroy(f->registry);
	recorder_destroy(f->recorder);
	sample_fini(&f->a);
	sample_fini(&f->b);
	svc_mem_free(f);
	return 0;
}

static void
announce(struct fixture *f, const struct sample *sample)
{
	OK(svc_registry_announce(f->registry, &sample->record, TTL_MS, err));
}

static void
watch_with(struct fixture *f, struct svc_registry *registry)
{
	OK(svc_registry_watch(
	    registry, f->name, recorder_change, f->recorder, &f->watch, err));
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
}

static void
watch(struct fixture *f)
{
	watch_with(f, f->registry);
}

static void
expect(struct fixture *f, svc_change change, const struct sample *sample)
{
	if (!recorder_wait(
		f->recorder, change, f->name, sample->id, WAIT_MS, NULL))
		fail_msg("change %d of node %s did not come", (int)change,
		    sample->id);
}

static int
nodes_of(struct svc_registry *registry, const char *name)
{
	struct svc_record_list list = {0};
	struct svc_error err = {0};
	int nodes = 0;
	svc_err rc = svc_registry_lookup(registry, name, &list, &err);
	if (rc != SVC_OK && rc != SVC_E_NOT_FOUND)
		fail_msg("%s", err.text);
	for (size_t i = 0; i < list.n_records; i++)
		nodes += (int)list.records[i]->n_nodes;
	svc_record_list_fini(&list);
	return nodes;
}

/* ----------------------------------------------------------------- tests */

static int conformance_failures = -1;

static void
it_keeps_the_promises(void **state)
{
	(void)state;
	assert_int_equal(conformance_failures, 0);
}

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
		others[i] = make(&config);
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

static void
an_emptied_server_heals_and_nobody_is_forgotten(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	announce(f, &f->b);
	watch(f);
	test_server_kill(server);
	assert_true(test_server_start_again(server, false));
	/* a lives and announces itself at its next interval; b does not. */
	announce(f, &f->a);
	assert_int_equal(nodes_of(f->registry, f->name), 1);
	expect(f, SVC_REMOVED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, f->name, "a"), 0);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, f->name, "a"), 1);
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
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
	struct svc_registry *eager = make(&config);
	svc_headers_destroy(options);
	announce(f, &f->a);
	OK(svc_registry_announce(f->registry, &f->b.record, 3000, err));
	watch_with(f, eager);
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

static atomic_int skipped_lines;

static void
count_line(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "redis.skipped") == 0)
		atomic_fetch_add(&skipped_lines, 1);
}

static void
what_is_no_record_is_skipped(void **state)
{
	struct fixture *f = *state;
	static const char *const ids[] = {"bad", "other", "lacks", "list"};
	char key[160], value[256], other[160];
	announce(f, &f->a);
	svc_log_set_sink(count_line, NULL);
	atomic_store(&skipped_lines, 0);
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
	assert_int_equal(atomic_load(&skipped_lines), 4);
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
an_absent_server_is_an_error_of_the_ops(void **state)
{
	struct fixture *f = *state;
	char address[32];
	struct svc_error err = {0};
	struct svc_record_list list = {0};
	snprintf(address, sizeof(address), "127.0.0.1:%d", test_free_port());
	struct svc_registry_config config = config_of(address);
	struct svc_registry *registry = make(&config);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &err),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, address));
	assert_int_equal(svc_registry_lookup(registry, f->name, &list, NULL),
	    SVC_E_UNAVAILABLE);
	assert_int_equal(svc_registry_withdraw(registry, &f->a.record, NULL),
	    SVC_E_UNAVAILABLE);
	svc_registry_destroy(registry);
}

static void
a_frozen_server_costs_no_more_than_the_timeout(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	watch(f);
	test_server_freeze(server);
	int64_t before_ms = svc_now_ms();
	assert_int_equal(
	    svc_registry_announce(f->registry, &f->a.record, TTL_MS, NULL),
	    SVC_E_TIMEDOUT);
	assert_true(svc_now_ms() - before_ms >= 3900);
	/* An end must not wait for it. */
	struct svc_watch *brief = NULL;
	OK(svc_registry_watch(
	    f->registry, NULL, recorder_change, f->recorder, &brief, err));
	before_ms = svc_now_ms();
	svc_registry_unwatch(brief);
	assert_true(svc_now_ms() - before_ms < WAIT_MS);
	test_server_thaw(server);
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
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
	struct svc_registry *registry = make(&config);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	watch_with(f, registry);
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
	registry = make(&config);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "it is a replica"));
	svc_registry_destroy(registry);
	test_server_stop(second);
}

static svc_err
announce_as(struct fixture *f, const char *address, const char *username,
    const char *password, struct svc_error *err)
{
	struct svc_registry_config config = config_of(address);
	config.username = username;
	config.password = password;
	struct svc_registry *registry = make(&config);
	svc_err rc = svc_registry_announce(registry, &f->a.record, TTL_MS, err);
	svc_registry_destroy(registry);
	return rc;
}

static void
users_are_known_by_their_password(void **state)
{
	struct fixture *f = *state;
	struct svc_error why = {0};
	struct test_server *closed = start_redis("--requirepass secret");
	assert_non_null(closed);
	/* What docs/redis.md says that a user needs. */
	free(cli_at(
	    closed, (const char *const[]){"-a", "secret", "acl", "setuser",
			"student", "on", ">pass", "~{svc}:*", "&{svc}:*",
			"+eval", "+get", "+set", "+del", "+exists", "+type",
			"+ttl", "+pttl", "+pexpire", "+time", "+mget", "+zadd",
			"+zrem", "+zrange", "+zscore", "+zremrangebyscore",
			"+publish", "+subscribe", "+ping", "+role", NULL}));
	assert_int_equal(
	    announce_as(f, closed->address, NULL, NULL, &why), SVC_E_DENIED);
	assert_int_equal(
	    announce_as(f, closed->address, NULL, "wrong", &why), SVC_E_DENIED);
	assert_null(strstr(why.text, "wrong"));
	assert_int_equal(
	    announce_as(f, closed->address, NULL, "secret", &why), SVC_OK);
	assert_int_equal(
	    announce_as(f, closed->address, "student", "nopass", &why),
	    SVC_E_DENIED);
	OK(announce_as(f, closed->address, "student", "pass", err));
	struct svc_registry_config config = config_of(closed->address);
	config.username = "student";
	config.password = "pass";
	struct svc_registry *registry = make(&config);
	struct svc_watch *all = NULL;
	struct recorder *recorder = recorder_create();
	watch_with(f, registry);
	OK(svc_registry_watch(
	    registry, NULL, recorder_change, recorder, &all, err));
	assert_true(
	    recorder_wait(recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	assert_true(
	    recorder_wait(recorder, SVC_CREATED, f->name, "b", WAIT_MS, NULL));
	assert_int_equal(nodes_of(registry, f->name), 2);
	OK(svc_registry_withdraw(registry, &f->b.record, err));
	expect(f, SVC_REMOVED, &f->b);
	svc_registry_unwatch(all);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	recorder_destroy(recorder);
	svc_registry_destroy(registry);
	/* A user that may not ask for the role, or do anything else. */
	free(cli_at(closed, (const char *const[]){"-a", "secret", "acl",
				"setuser", "student", "-role", NULL}));
	OK(announce_as(f, closed->address, "student", "pass", err));
	free(cli_at(closed, (const char *const[]){"-a", "secret", "acl",
				"setuser", "student", "-eval", NULL}));
	assert_int_equal(
	    announce_as(f, closed->address, "student", "pass", &why),
	    SVC_E_DENIED);
	assert_non_null(strstr(why.text, "NOPERM"));
	test_server_stop(closed);
}

static void
it_goes_by_tls(void **state)
{
	struct fixture *f = *state;
	struct test_pki pki;
	char args[512], address[40], named[40];
	struct svc_error why = {0};
	assert_true(test_pki_create(&pki));
	assert_true(
	    test_pki_issue(&pki, &(struct test_certificate){.name = "server",
				     .issuer = "ca",
				     .san = "DNS:registry.test,IP:127.0.0.1"}));
	assert_true(test_pki_issue(&pki,
	    &(struct test_certificate){.name = "client", .issuer = "ca"}));
	int port = test_free_port();
	snprintf(args, sizeof(args),
	    "--tls-port %d --tls-cert-file %s --tls-key-file %s "
	    "--tls-ca-cert-file %s --tls-auth-clients yes",
	    port, test_pki_path(&pki, "server", "pem"),
	    test_pki_path(&pki, "server", "key"),
	    test_pki_path(&pki, "ca", "pem"));
	struct test_server *secure = start_redis(args);
	assert_non_null(secure);
	snprintf(address, sizeof(address), "127.0.0.1:%d", port);
	snprintf(named, sizeof(named), "rediss://localhost:%d", port);
	struct svc_tls_config tls = {.ca = test_pki_path(&pki, "ca", "pem"),
	    .cert = test_pki_path(&pki, "client", "pem"),
	    .key = test_pki_path(&pki, "client", "key")};
	struct svc_registry_config config = config_of(address);
	config.tls = &tls;
	struct svc_registry *registry = make(&config);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	watch_with(f, registry);
	/* Records that take many TLS records. */
	char big[8192];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	for (int i = 0; i < 8; i++) {
		char name[8];
		snprintf(name, sizeof(name), "big%d", i);
		svc_headers_set(f->b.node.metadata, name, big);
	}
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	assert_int_equal(nodes_of(registry, f->name), 2);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	svc_registry_destroy(registry);

	/* By a name that the certificate has, whatever was dialled. */
	config.address = named;
	tls.name = "registry.test";
	registry = make(&config);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	svc_registry_destroy(registry);
	tls.name = NULL;
	registry = make(&config);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "hostname mismatch"));
	svc_registry_destroy(registry);
	/* Without a certificate, with the system's CAs, and without TLS. */
	config.address = address;
	tls.cert = tls.key = NULL;
	registry = make(&config);
	assert_int_not_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_OK);
	svc_registry_destroy(registry);
	tls.ca = NULL;
	registry = make(&config);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "certificate"));
	svc_registry_destroy(registry);
	config.tls = NULL;
	registry = make(&config);
	assert_int_not_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_OK);
	svc_registry_destroy(registry);
	/* Files that are none are an error of the start. */
	config.tls = &tls;
	tls.ca = "/nowhere";
	registry = NULL;
	assert_int_equal(svc_registry_create("redis", &config, &registry, &why),
	    SVC_E_INVAL);
	assert_non_null(strstr(why.text, "registry_tls_ca /nowhere cannot"));
	test_server_stop(secure);
	test_pki_remove(&pki);
}

static void
settings_are_checked(void **state)
{
	(void)state;
	static const struct {
		const char *address, *key, *value, *says;
	} cases[] = {
	    {"127.0.0.1:x", NULL, NULL, "has no port from 1 to 65535"},
	    {"a,,b", NULL, NULL, "has an empty part"},
	    {"http://a", NULL, NULL, "has a path"},
	    {"redis://u:p@a", NULL, NULL, "holds a login"},
	    {"redis://a/3", NULL, NULL, "option \"database\""},
	    {"[::1", NULL, NULL, "has no valid host"},
	    {NULL, "namespace", "", "1 to 128 printable characters"},
	    {NULL, "namespace", "a*", "1 to 128 printable characters"},
	    {NULL, "namespace", "a:b", "1 to 128 printable characters"},
	    {NULL, "database", "-1", "a number from 0 to 999999"},
	    {NULL, "database", "1x", "a number from 0 to 999999"},
	    {NULL, "pull", "1ms", "a time from 100ms to 60s"},
	    {NULL, "pull", "soon", "a time from 100ms to 60s"},
	    {NULL, "ttl", "1", "allowed: namespace database pull"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct svc_headers *options = svc_headers_create();
		struct svc_registry_config config = config_of(cases[i].address);
		struct svc_registry *registry = NULL;
		struct svc_error err = {0};
		if (cases[i].key != NULL)
			svc_headers_set(options, cases[i].key, cases[i].value);
		config.options = options;
		svc_err rc =
		    svc_registry_create("redis", &config, &registry, &err);
		svc_headers_destroy(options);
		if (rc != SVC_E_INVAL ||
		    strstr(err.text, cases[i].says) == NULL)
			fail_msg("%s: %s", cases[i].says, err.text);
	}
	struct svc_registry_config config =
	    config_of("localhost, [::1]:6380 ,redis://a.b:1/,rediss://c");
	svc_registry_destroy(make(&config));
	config.username = "u";
	struct svc_registry *registry = NULL;
	assert_int_equal(svc_registry_create("redis", &config, &registry, NULL),
	    SVC_E_INVAL);
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
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(it_keeps_the_promises),
	    TEST(keys_and_values_are_as_documented),
	    TEST(withdrawing_leaves_nothing),
	    TEST(what_has_expired_is_cleared_away),
	    TEST(clusters_do_not_mix),
	    TEST(a_killed_server_that_kept_its_data_is_gone_back_to),
	    TEST(an_emptied_server_heals_and_nobody_is_forgotten),
	    TEST(deleted_data_heals_and_nobody_is_forgotten),
	    TEST(a_silent_change_is_pulled),
	    TEST(what_is_no_record_is_skipped),
	    TEST(an_absent_server_is_an_error_of_the_ops),
	    TEST(a_frozen_server_costs_no_more_than_the_timeout),
	    TEST(a_replica_is_passed_over),
	    TEST(users_are_known_by_their_password),
	    TEST(it_goes_by_tls),
	    TEST(settings_are_checked),
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
		.config = {.address = server->address},
		.ttl_ms = 1000,
	    });
	int failed = cmocka_run_group_tests_name("redis", tests, NULL, NULL);
	test_server_stop(server);
	return failed;
}
