/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin between two hosts, which are network namespaces with a cable
 * between them, on its default port and, if not said otherwise, on all
 * interfaces. Run with arguments, this program is a process of the other host.
 */
#include "mdns_hosts.h"
#include "mdns_kit.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct other
announcer_there(const char *service, const char *id, const char *ttl_ms)
{
	other_network = hosts_network(THERE);
	return announcer(service, id, ttl_ms);
}

/* ------------------------------------------------------------------ tests */

/* Three tries, because a busy machine may sleep through one second. */
static void
hosts_find_each_other_within_a_second(void **state)
{
	(void)state;
	if (hosts_lack() != NULL)
		LACKING(hosts_lack());
	hosts_connect_settled(true);
	int64_t heard_ms = INT64_MAX, asked_ms = INT64_MAX;
	for (int i = 0; i < 3 && (heard_ms > 1000 || asked_ms > 1000); i++) {
		struct seen seen, late;
		struct svc_registry *registry = registry_at("");
		struct svc_watch *watch = seen_start(&seen, registry, "ours");
		assert_true(seen_wait(&seen, SVC_SYNCED, 1, PATIENCE_MS));
		struct other other = announcer_there("ours", "ours-1", "30000");
		int64_t from = svc_now_ms();
		assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
		heard_ms = svc_now_ms() - from;
		assert_seen(&seen, address, "10.99.0.2:4242");

		/* Somebody who comes later has to ask. */
		struct svc_registry *newcomer = registry_at("10.99.0.1");
		from = svc_now_ms();
		struct svc_watch *asking = seen_start(&late, newcomer, "ours");
		assert_true(seen_wait(&late, SVC_CREATED, 1, PATIENCE_MS));
		asked_ms = svc_now_ms() - from;
		assert_true(nodes_become(newcomer, "ours", true, 1));
		svc_registry_unwatch(asking);
		svc_registry_destroy(newcomer);

		/* And in the other direction. */
		assert_int_equal(
		    announce(registry, "theirs", "x", "red", 30000), SVC_OK);
		other_do(&other, 'l');
		other_do(&other, 'w');
		assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
		assert_int_equal(other_end(&other, 0), 0);
		svc_registry_unwatch(watch);
		svc_registry_destroy(registry);
	}
	print_message("heard of after %d ms, found by asking after %d ms\n",
	    (int)heard_ms, (int)asked_ms);
	assert_true(heard_ms <= 1000);
	assert_true(asked_ms <= 1000);
}

/* How long after its death a node of another host, with a TTL of two seconds,
 * is said to be gone. */
static int64_t
time_to_go(struct svc_registry *registry)
{
	struct seen seen;
	struct svc_watch *watch = seen_start(&seen, registry, "ours");
	struct other other = announcer_there("ours", "ours-1", "2000");
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	assert_false(seen_wait(&seen, SVC_REMOVED, 1, 3000));
	int64_t from = svc_now_ms();
	other_end(&other, SIGKILL);
	assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
	int64_t gone_ms = svc_now_ms() - from;
	svc_registry_unwatch(watch);
	print_message(
	    "gone %d ms after its death, its TTL was 2000 ms\n", (int)gone_ms);
	return gone_ms;
}

static void
a_killed_process_is_gone_in_time(void **state)
{
	(void)state;
	if (hosts_lack() != NULL)
		LACKING(hosts_lack());
	hosts_connect_settled(true);
	struct svc_registry *registry = registry_at("");
	int64_t gone_ms = time_to_go(registry);
	/* A busy machine may sleep through one second, but not three times. */
	for (int i = 0; i < 2 && gone_ms > 3000; i++)
		gone_ms = time_to_go(registry);
	assert_true(gone_ms <= 3000);
	svc_registry_destroy(registry);
}

/* While the cable is out a node is announced; it is known as soon as the cable
 * is back, long before its renewal. Who was known stays known. */
static void
a_broken_cable_heals(void **state)
{
	(void)state;
	if (hosts_lack() != NULL)
		LACKING(hosts_lack());
	hosts_connect_settled(true);
	struct seen seen;
	struct svc_registry *registry = registry_at("");
	struct svc_watch *watch = seen_start(&seen, registry, "ours");
	struct other first = announcer_there("ours", "ours-1", "60000");
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	for (int i = 0; i < 2; i++) {
		/* One end and the other: either side notices by itself. */
		enum host host = i == 0 ? HERE : THERE;
		const char *device = i == 0 ? "v1" : "v2";
		char id[16];
		snprintf(id, sizeof(id), "ours-%d", i + 2);
		host_run(host, "ip link set %s down", device);
		struct other other = announcer_there("ours", id, "60000");
		/* All three announcements are lost. */
		assert_false(
		    seen_wait(&seen, SVC_CREATED, (size_t)i + 2, 3500));
		host_run(host, "ip link set %s up", device);
		if (i == 1)
			host_run(host, "ip addr replace 10.99.0.2/24 dev %s",
			    device);
		assert_true(
		    seen_wait(&seen, SVC_CREATED, (size_t)i + 2, PATIENCE_MS));
		assert_int_equal(seen_count(&seen, SVC_REMOVED), 0);
		other_do(&other, 'w');
		assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
		assert_seen(&seen, id, id);
		other_end(&other, 0);
		svc_registry_unwatch(watch);
		watch = seen_start(&seen, registry, "ours");
		assert_true(seen_wait(&seen, SVC_SYNCED, 1, PATIENCE_MS));
		assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
		/* The count starts anew with the watch. */
		pthread_mutex_lock(&seen.lock);
		seen.counts[SVC_CREATED] = (size_t)i + 2;
		pthread_mutex_unlock(&seen.lock);
	}
	other_end(&first, 0);
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
}

/* The registry is made while there is nothing but lo; the interface comes
 * later, and later still an address. */
static void
a_late_interface_takes_part(void **state)
{
	(void)state;
	if (hosts_lack() != NULL)
		LACKING(hosts_lack());
	struct seen seen;
	struct svc_registry *registry = registry_at("");
	struct svc_watch *watch = seen_start(&seen, registry, "ours");
	assert_true(seen_wait(&seen, SVC_SYNCED, 1, PATIENCE_MS));
	struct other other = announcer_there("ours", "ours-1", "60000");
	/* Its announcements by lo are over. */
	assert_false(seen_wait(&seen, SVC_CREATED, 1, 3500));
	host_run(HERE, "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
	hosts_connect(false);
	host_run(THERE, "ip addr add 10.99.0.2/24 dev v2");
	host_run(HERE, "ip addr add 10.99.0.1/24 dev v1");
	host_run(HERE, "echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);

	/* One that is chosen by name may go and come back, too. */
	registry = registry_at("v1");
	assert_non_null(registry);
	hosts_disconnect();
	struct svc_error err = {.code = SVC_OK};
	struct svc_record_list list = {.n_records = 0};
	int64_t deadline = svc_deadline(PATIENCE_MS);
	svc_err rc;
	do {
		rc = svc_registry_lookup(registry, "ours", &list, &err);
		svc_record_list_fini(&list);
	} while (rc != SVC_E_UNAVAILABLE && svc_remaining(deadline) > 0);
	assert_int_equal(rc, SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, "v1"));
	watch = seen_start(&seen, registry, "ours");
	hosts_connect(true);
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	assert_true(seen_wait(&seen, SVC_SYNCED, 1, PATIENCE_MS));
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	other_end(&other, 0);
}

static void
ipv6_alone_is_enough(void **state)
{
	(void)state;
	if (hosts_lack() != NULL)
		LACKING(hosts_lack());
	hosts_connect_settled(false);
	struct seen seen;
	struct svc_registry *registry = registry_at("");
	struct svc_watch *watch = seen_start(&seen, registry, "ours");
	setenv("NODE_ADDRESS", "[fd00:99::2]:4242", 1);
	struct other other = announcer_there("ours", "ours-1", "30000");
	unsetenv("NODE_ADDRESS");
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	assert_seen(&seen, address, "[fd00:99::2]:4242");
	/* One-shot questions are answered by IPv6 as well. */
	struct svc_registry *newcomer = registry_at("v1");
	assert_true(nodes_become(newcomer, "ours", false, 1));
	svc_registry_destroy(newcomer);
	other_do(&other, 'b');
	assert_true(seen_wait(&seen, SVC_UPDATED, 1, PATIENCE_MS));
	other_do(&other, 'w');
	assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
	other_end(&other, 0);
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
}

/* A fifth of all packets is lost each way, the others are late and out of
 * order: everybody is found, nobody is lost, and who leaves is gone. */
static void
bad_networks_are_borne(void **state)
{
	(void)state;
	enum { N = 5 };
	static const char *const rules[] = {"iptables", "ip6tables"};
	if (hosts_lack() != NULL)
		LACKING(hosts_lack());
	char delay[4096];
	const char *build = getenv("SVC_BUILD_DIR");
	snprintf(delay, sizeof(delay), "%s/bin/nfq_delay",
	    build != NULL ? build : "");
	if (access(delay, X_OK) != 0 ||
	    system("iptables -L >/dev/null 2>&1") != 0)
		LACKING("iptables or libnetfilter_queue is not there");
	hosts_connect_settled(true);
	pid_t delays[2];
	for (int host = HERE; host <= THERE; host++) {
		for (size_t i = 0; i < 2; i++)
			host_run((enum host)host,
			    "%s -A OUTPUT -p udp ! -o lo -j NFQUEUE "
			    "--queue-num 0",
			    rules[i]);
		delays[host] = host_start(
		    (enum host)host, "exec %s 0 20 40 20 >/dev/null", delay);
	}
	struct seen seen;
	struct svc_registry *registry = registry_at("");
	struct svc_watch *watch = seen_start(&seen, registry, "ours");
	struct other others[N];
	for (int i = 0; i < N; i++) {
		char id[16];
		snprintf(id, sizeof(id), "ours-%d", i);
		others[i] = announcer_there("ours", id, "6000");
	}
	int64_t from = svc_now_ms();
	assert_true(seen_wait(&seen, SVC_CREATED, N, PATIENCE_MS));
	print_message("the last of %d was found after %d ms\n", N,
	    (int)(svc_now_ms() - from));
	assert_false(seen_wait(&seen, SVC_REMOVED, 1, 15000));
	assert_int_equal(seen_count(&seen, SVC_CREATED), N);
	for (int i = 0; i < N; i++)
		other_do(&others[i], 'w');
	assert_true(seen_wait(&seen, SVC_REMOVED, N, PATIENCE_MS));
	for (int i = 0; i < N; i++)
		other_end(&others[i], 0);
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	for (int host = HERE; host <= THERE; host++) {
		host_end(delays[host]);
		for (size_t i = 0; i < 2; i++)
			host_run((enum host)host, "%s -F", rules[i]);
	}
}

int
main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_teardown(
		hosts_find_each_other_within_a_second, hosts_cut),
	    cmocka_unit_test_teardown(
		a_killed_process_is_gone_in_time, hosts_cut),
	    cmocka_unit_test_teardown(a_broken_cable_heals, hosts_cut),
	    cmocka_unit_test_teardown(a_late_interface_takes_part, hosts_cut),
	    cmocka_unit_test_teardown(ipv6_alone_is_enough, hosts_cut),
	    cmocka_unit_test_teardown(bad_networks_are_borne, hosts_cut),
	};
	const char *node = getenv("NODE_ADDRESS");
	node_address = node != NULL ? node : "10.99.0.2:4242";
	if (argc == 6 && strcmp(argv[1], "announce") == 0)
		return other_announces(
		    argv[2], argv[3], argv[4], strtol(argv[5], NULL, 10));
	hosts_start();
	return cmocka_run_group_tests_name("mdns_hosts", tests, NULL, NULL);
}
