/* SPDX-License-Identifier: Apache-2.0 */
/* Against a real etcd, which this test starts, kills, empties and freezes. */
#include "fixture.h"

#include <svc/buf.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>

/* ----------------------------------------------------------------- tests */

static void
keys_and_values_are_those_of_go_micro(void **state)
{
	struct fixture *f = *state;
	char expected[512];
	announce(f, &f->a);
	char *out = ctl(server->address, "get", f->key, "--print-value-only");
	snprintf(expected, sizeof(expected),
	    "{\"name\":\"%s\",\"version\":\"1\",\"metadata\":null,"
	    "\"endpoints\":null,\"nodes\":[{\"id\":\"a\",\"address\":"
	    "\"127.0.0.1:1\",\"metadata\":{\"protocol\":\"mucp\","
	    "\"transport\":\"http\"}}]}\n",
	    f->name);
	assert_string_equal(out, expected);
	free(out);

	/* And what a go-micro service put there is seen. */
	char key[160], value[512];
	snprintf(key, sizeof(key), "/micro/registry/%s/go-1", f->name);
	snprintf(value, sizeof(value),
	    "{\"name\":\"%s\",\"version\":\"latest\",\"metadata\":null,"
	    "\"endpoints\":[],\"nodes\":[{\"metadata\":{\"protocol\":\"mucp\""
	    "},\"id\":\"go-1\",\"address\":\"10.0.0.1:80\"}]}",
	    f->name);
	watch(f);
	ctl_do("put", key, value);
	assert_true(recorder_wait(
	    f->recorder, SVC_CREATED, f->name, "go-1", WAIT_MS, NULL));
	ctl_do("del", key, NULL);
	assert_true(recorder_wait(
	    f->recorder, SVC_REMOVED, f->name, "go-1", WAIT_MS, NULL));
}

/* What go-micro writes until 4.10 (0) and since 4.10.2 (1), where only the
 * order of the keys has changed. */
static void
put_of_go_micro(struct svc_buf *buf, const char *service, int form)
{
	static const char *const endpoint[] = {
	    "{\"name\":\"Student.Get\",",
	    "{",
	};
	static const char *const endpoint_end[] = {
	    "\"metadata\":{}}",
	    "\"metadata\":{},\"name\":\"Student.Get\"}",
	};
	static const char metadata[] =
	    "\"metadata\":{\"broker\":\"http\",\"protocol\":\"mucp\","
	    "\"registry\":\"etcd\",\"server\":\"mucp\",\"transport\":"
	    "\"http\"}";
	svc_buf_init(buf, 4096);
	svc_buf_printf(buf,
	    "{\"name\":\"%s\",\"version\":\"1.0.0\",\"metadata\":null,"
	    "\"endpoints\":[%s\"request\":{\"name\":\"GetRequest\",\"type\":"
	    "\"GetRequest\",\"values\":[{\"name\":\"id\",\"type\":\"string\","
	    "\"values\":null}]},\"response\":{\"name\":\"GetResponse\","
	    "\"type\":\"GetResponse\",\"values\":[{\"name\":\"name\","
	    "\"type\":\"string\",\"values\":null}]},%s],\"nodes\":[{",
	    service, endpoint[form], endpoint_end[form]);
	if (form == 0)
		svc_buf_printf(buf,
		    "\"id\":\"%s-1\",\"address\":\"127.0.0.1:8080\",%s}]}",
		    service, metadata);
	else
		svc_buf_printf(buf,
		    "%s,\"id\":\"%s-1\",\"address\":\"127.0.0.1:8080\"}]}",
		    metadata, service);
	svc_buf_putc(buf, '\0');
	assert_int_equal(buf->failed, SVC_OK);
}

static void
both_forms_of_go_micro_are_read_and_the_first_is_written(void **state)
{
	struct fixture *f = *state;
	char key[160];
	struct svc_record *wanted = NULL;
	struct svc_record_list list = {0};
	snprintf(key, sizeof(key), "/micro/registry/%s/%s-1", f->name, f->name);
	for (int form = 0; form < 2; form++) {
		struct svc_buf text;
		put_of_go_micro(&text, f->name, form);
		ctl_do("put", key, (const char *)text.data);
		if (form == 0)
			OK(svc_record_decode(
			    text.data, text.len - 1, &wanted, err));
		OK(svc_registry_lookup(f->registry, f->name, &list, err));
		assert_int_equal(list.n_records, 1);
		assert_true(svc_record_equal(list.records[0], wanted));
		assert_string_equal(
		    list.records[0]->endpoints[0].request->values[0].name,
		    "id");
		svc_record_list_fini(&list);
		svc_buf_fini(&text);
	}
	/* The same, announced by us, is the same to the byte. */
	ctl_do("del", key, NULL);
	OK(svc_registry_announce(f->registry, wanted, TTL_MS, err));
	struct svc_buf text;
	put_of_go_micro(&text, f->name, 0);
	char *out = ctl(server->address, "get", key, "--print-value-only");
	out[strlen(out) - 1] = '\0'; /* the end of the line */
	assert_string_equal(out, (const char *)text.data);
	free(out);
	svc_buf_fini(&text);
	OK(svc_registry_withdraw(f->registry, wanted, err));
	svc_record_destroy(wanted);
}

static void
a_key_has_a_lease_of_its_ttl(void **state)
{
	struct fixture *f = *state;
	char id[32];
	OK(svc_registry_announce(f->registry, &f->a.record, 45500, err));
	long long lease = lease_of(f);
	snprintf(id, sizeof(id), "%llx", lease);
	char *out = ctl(server->address, "lease", "timetolive", id);
	assert_non_null(strstr(out, "granted with TTL(46s)"));
	free(out);
	/* Renewing keeps it, another TTL takes another. */
	OK(svc_registry_announce(f->registry, &f->a.record, 45500, err));
	assert_true(lease_of(f) == lease);
	OK(svc_registry_announce(f->registry, &f->a.record, 90000, err));
	assert_true(lease_of(f) != lease);
	/* The old one is not left behind, the key stays. */
	out = ctl(server->address, "lease", "list", NULL);
	assert_null(strstr(out, id));
	free(out);
	assert_int_equal(lookup(f->registry, f->name), SVC_OK);
}

static void
renewing_writes_nothing(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	char *out = ctl(server->address, "get", f->key, "--write-out=json");
	long long revision = ctl_number(out, "revision");
	free(out);
	for (int i = 0; i < 3; i++)
		announce(f, &f->a);
	out = ctl(server->address, "get", f->key, "--write-out=json");
	assert_true(ctl_number(out, "revision") == revision);
	free(out);
}

static void
a_key_deleted_by_hand_comes_back(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	watch(f);
	ctl_do("del", f->key, NULL);
	expect(f, SVC_REMOVED, &f->a);
	announce(f, &f->a);
	expect(f, SVC_CREATED, &f->a);
	/* So does one whose value was overwritten, and one whose lease was
	 * revoked. */
	ctl_do("put", f->key, "rubbish");
	announce(f, &f->a);
	assert_int_equal(lookup(f->registry, f->name), SVC_OK);
	char id[32];
	snprintf(id, sizeof(id), "%llx", lease_of(f));
	ctl_do("lease", "revoke", id);
	expect(f, SVC_REMOVED, &f->a);
	announce(f, &f->a);
	expect(f, SVC_CREATED, &f->a);
}

static void
changes_during_an_outage_are_told_after_it(void **state)
{
	struct fixture *f = *state;
	char key[160];
	announce(f, &f->a);
	announce(f, &f->b);
	watch(f);
	snprintf(key, sizeof(key), "/micro/registry/%s/b", f->name);
	test_server_end(server);
	assert_true(recorder_quiet(f->recorder, 300));
	assert_true(test_server_start_again(server, true));
	svc_headers_set(f->a.node.metadata, "weight", "9");
	announce(f, &f->a);
	expect(f, SVC_UPDATED, &f->a);
	ctl_do("del", key, NULL);
	expect(f, SVC_REMOVED, &f->b);
	assert_int_equal(recorder_nodes(f->recorder, f->name), 1);
}

static void
what_is_no_record_is_skipped(void **state)
{
	struct fixture *f = *state;
	char key[160], value[256];
	announce(f, &f->a);
	watch(f);
	lines_count("etcd.skipped");
	snprintf(key, sizeof(key), "/micro/registry/%s/bad", f->name);
	ctl_do("put", key, "{\"name\":");
	snprintf(key, sizeof(key), "/micro/registry/%s/x/y", f->name);
	ctl_do("put", key, "{}");
	snprintf(key, sizeof(key), "/micro/registry/%s/other", f->name);
	ctl_do("put", key,
	    "{\"name\":\"elsewhere\",\"nodes\":[{\"id\":\"other\"}]}");
	snprintf(key, sizeof(key), "/micro/registry/%s/lacks", f->name);
	snprintf(value, sizeof(value),
	    "{\"name\":\"%s\",\"nodes\":[{\"id\":\"z\"}]}", f->name);
	ctl_do("put", key, value);
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
		svc_record_list_fini(&list);
	}
	assert_int_equal(lines_counted(), 4);
	/* A bad value that goes takes nobody along. */
	snprintf(key, sizeof(key), "/micro/registry/%s", f->name);
	ctl_do("del", key, "--prefix");
	expect(f, SVC_REMOVED, &f->b);
	assert_int_equal(recorder_nodes(f->recorder, f->name), 0);
}

static void
a_compacted_history_is_no_obstacle(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	watch(f);
	/* While the watch is away, its history goes. */
	test_server_end(server);
	assert_true(test_server_start_again(server, true));
	for (int i = 0; i < 20; i++) {
		char weight[16];
		snprintf(weight, sizeof(weight), "%d", i);
		svc_headers_set(f->a.node.metadata, "weight", weight);
		announce(f, &f->a);
	}
	char *out = ctl(server->address, "get", f->key, "--write-out=json");
	char revision[32];
	snprintf(
	    revision, sizeof(revision), "%lld", ctl_number(out, "revision"));
	free(out);
	ctl_do("compaction", revision, NULL);
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
	assert_int_equal(recorder_nodes(f->recorder, f->name), 2);
}

static void
another_server_takes_over(void **state)
{
	struct fixture *f = *state;
	char list[96];
	struct svc_record_list found = {0};
	struct test_server *second = start_etcd(NULL);
	assert_non_null(second);
	snprintf(list, sizeof(list), "%s,http://%s", server->address,
	    second->address);
	/* A frozen one costs 2 s, and what follows some on a busy machine. */
	struct svc_registry_config config = config_of(list);
	config.timeout_ms = 12000;
	struct svc_registry *registry = make_with(&config);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	OK(svc_registry_watch(
	    registry, f->name, recorder_change, f->recorder, &f->watch, err));
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
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
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	svc_headers_set(f->b.node.metadata, "weight", "3");
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_UPDATED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
	svc_registry_destroy(registry);
	f->watch = NULL;
	test_server_stop(second);
}

static void
addresses_are_checked(void **state)
{
	(void)state;
	struct svc_registry *registry = NULL;
	struct svc_registry_config config = {.address = "ftp://a"};
	struct svc_error why = {0};
	assert_int_equal(
	    svc_registry_create("etcd", &config, &registry, &why), SVC_E_INVAL);
	assert_string_equal(why.text,
	    "etcd address \"ftp://a\" has an unknown scheme: use \"host\", "
	    "\"host:port\" or \"http(s)://host:port\", several separated by "
	    "commas");
	svc_registry_destroy(make(NULL));
}

static void
many_nodes_come_page_by_page(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	struct sample sample;
	char id[32];
	/* More than two pages. */
	for (int i = 0; i < 1100; i++) {
		snprintf(id, sizeof(id), "n%d", i);
		sample_init(&sample, f->name, "1", id, i + 1);
		announce(f, &sample);
		sample_fini(&sample);
	}
	OK(svc_registry_lookup(f->registry, f->name, &list, err));
	assert_int_equal(list.n_records, 1);
	assert_int_equal(list.records[0]->n_nodes, 1100);
	svc_record_list_fini(&list);
	watch(f);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, NULL, NULL), 1100);
}

/* How many entries of a folder of /proc/self there are; with a port, only the
 * sockets that are connected to it. */
static int
entries(const char *folder, int port)
{
	struct dirent *entry;
	int count = 0;
	DIR *dir = opendir(folder);
	assert_non_null(dir);
	while ((entry = readdir(dir)) != NULL) {
		struct sockaddr_in in = {0};
		socklen_t len = sizeof(in);
		if (entry->d_name[0] == '.')
			continue;
		if (port == 0)
			count++;
		else if (getpeername((int)strtol(entry->d_name, NULL, 10),
			     (struct sockaddr *)&in, &len) == 0 &&
			 in.sin_family == AF_INET)
			count += ntohs(in.sin_port) == port;
	}
	closedir(dir);
	return count;
}

/* One to announce on and one to renew the lease on; then one stream and eight
 * to ask on. */
enum { MANY = 500, CONNECTIONS = 2 + 9 };

/* Each is changed, and told of it. */
static void
change_each(struct fixture *f, struct sample samples[MANY], const char *weight)
{
	for (int i = 0; i < MANY; i++) {
		svc_headers_set(samples[i].node.metadata, "weight", weight);
		announce(f, &samples[i]);
		if (!recorder_wait(f->recorder, SVC_UPDATED, samples[i].service,
			samples[i].id, WAIT_MS, NULL))
			fail_msg("the change of service %d did not come", i);
	}
}

static void
many_services_share_a_thread_and_a_stream(void **state)
{
	struct fixture *f = *state;
	static struct sample samples[MANY];
	static struct svc_watch *watches[MANY];
	static char names[MANY][64];
	for (int i = 0; i < MANY; i++) {
		snprintf(names[i], sizeof(names[i]), "%s-%d", f->name, i);
		sample_init(&samples[i], names[i], "1", "a", i + 1);
		announce(f, &samples[i]);
	}
	int threads = entries("/proc/self/task", 0);
	for (int i = 0; i < MANY; i++)
		OK(svc_registry_watch(f->registry, names[i], recorder_change,
		    f->recorder, &watches[i], err));
	for (int i = 0; i < MANY; i++)
		assert_true(recorder_wait(
		    f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
	for (int i = 0; i < MANY; i++)
		assert_int_equal(recorder_count(f->recorder, SVC_CREATED,
				     names[i], samples[i].id),
		    1);
	change_each(f, samples, "2");
	assert_in_range(entries("/proc/self/task", 0), threads, threads + 2);
	assert_in_range(entries("/proc/self/fd", server->port), 2, CONNECTIONS);
	/* What was missed is told, and nothing is missed afterwards. */
	test_server_kill(server);
	assert_true(test_server_start_again(server, true));
	change_each(f, samples, "3");
	change_each(f, samples, "4");
	assert_in_range(entries("/proc/self/task", 0), threads, threads + 2);
	assert_in_range(entries("/proc/self/fd", server->port), 2, CONNECTIONS);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
	/* One that leaves takes nobody along, and may come back. */
	svc_registry_unwatch(watches[0]);
	OK(svc_registry_watch(f->registry, names[0], recorder_change,
	    f->recorder, &watches[0], err));
	assert_true(recorder_wait(
	    f->recorder, SVC_CREATED, names[0], "a", WAIT_MS, NULL));
	change_each(f, samples, "5");
	for (int i = 0; i < MANY; i++) {
		svc_registry_unwatch(watches[i]);
		withdraw(f, &samples[i]);
		sample_fini(&samples[i]);
	}
}

enum { SOME = 8 };

struct going {
	struct fixture *f;
	char names[SOME][64];
	struct svc_watch *watches[SOME];
	pthread_t thread;
	atomic_bool enough;
	svc_err rc;
};

static void *
come_and_go(void *arg)
{
	struct going *going = arg;
	for (int i = 0; i < SOME || !atomic_load(&going->enough); i++) {
		struct svc_watch **watch = &going->watches[i % SOME];
		svc_registry_unwatch(*watch);
		*watch = NULL;
		going->rc = svc_registry_watch(going->f->registry,
		    going->names[i % SOME], recorder_change, going->f->recorder,
		    watch, NULL);
		if (going->rc != SVC_OK)
			break;
		poll(NULL, 0, 10); /* or the last of them alone are seen */
	}
	return NULL;
}

/* So that some do while the stream is opened or has just been broken. */
static void
watches_come_and_go_while_the_server_does(void **state)
{
	struct fixture *f = *state;
	struct going going = {.f = f};
	struct sample samples[SOME];
	for (int i = 0; i < SOME; i++) {
		snprintf(going.names[i], sizeof(going.names[i]), "%s-%d",
		    f->name, i);
		sample_init(&samples[i], going.names[i], "1", "a", i + 1);
	}
	assert_int_equal(
	    svc_thread_start(&going.thread, "goes", come_and_go, &going),
	    SVC_OK);
	for (int i = 0; i < 4; i++) {
		test_server_kill(server);
		assert_true(test_server_start_again(server, true));
	}
	atomic_store(&going.enough, true);
	svc_thread_join(going.thread);
	assert_int_equal(going.rc, SVC_OK);
	/* Who is there follows it. */
	for (int i = 0; i < SOME; i++) {
		announce(f, &samples[i]);
		if (!recorder_wait(f->recorder, SVC_CREATED, going.names[i],
			"a", WAIT_MS, NULL))
			fail_msg("watch %d does not see what came", i);
	}
	for (int i = 0; i < SOME; i++) {
		svc_registry_unwatch(going.watches[i]);
		withdraw(f, &samples[i]);
		sample_fini(&samples[i]);
	}
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_etcd, end)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(it_keeps_the_promises),
	    TEST(keys_and_values_are_those_of_go_micro),
	    TEST(both_forms_of_go_micro_are_read_and_the_first_is_written),
	    TEST(a_key_has_a_lease_of_its_ttl),
	    TEST(renewing_writes_nothing),
	    TEST(a_key_deleted_by_hand_comes_back),
	    TEST(an_emptied_registry_heals_and_nobody_is_forgotten),
	    TEST(changes_during_an_outage_are_told_after_it),
	    TEST(what_is_no_record_is_skipped),
	    TEST(a_compacted_history_is_no_obstacle),
	    TEST(another_server_takes_over),
	    TEST(an_absent_server_is_an_error_of_the_ops),
	    TEST(a_frozen_server_costs_no_more_than_the_timeout),
	    TEST(addresses_are_checked),
	    TEST(many_nodes_come_page_by_page),
	    TEST(many_services_share_a_thread_and_a_stream),
	    TEST(watches_come_and_go_while_the_server_does),
	};
#undef TEST
	if (!test_server_have("etcd") || !test_server_have("etcdctl")) {
		fprintf(stderr, "SKIPPED: etcd and etcdctl are needed\n");
		return 77;
	}
	server = start_etcd(NULL);
	if (server == NULL)
		return 1;
	conformance_failures =
	    svc_conformance_registry(&(struct svc_conformance_registry){
		.plugin = "etcd",
		.config = {.address = server->address, .grace_ms = 3000},
		.ttl_ms = 2000,
	    });
	int failed = cmocka_run_group_tests_name("etcd", tests, NULL, NULL);
	test_server_stop(server);
	return failed;
}
