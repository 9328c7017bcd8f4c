/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin between processes, all on lo and a port of their own. Run with
 * arguments, this program is the other process.
 */
#include "mdns_kit.h"

#include <conformance/registry.h>

#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* In a network of its own that has nothing but lo, and with the default
 * address and port. */
static int
other_alone(void)
{
	struct ifreq lo = {.ifr_name = "lo"};
	if (unshare(CLONE_NEWNET) != 0 &&
	    unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
		return SKIPPED;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	lo.ifr_flags = IFF_UP | IFF_RUNNING;
	if (fd < 0)
		return 1;

	/* Nothing to speak on yet: that is an error of the op, and it passes
	 * when there is. */
	struct svc_registry *first = registry_at(NULL);
	if (first == NULL || announce(first, "lonely", "lonely-1", "red",
				 5000) != SVC_E_UNAVAILABLE)
		return 1;
	if (ioctl(fd, SIOCSIFFLAGS, &lo) != 0)
		return SKIPPED;
	close(fd);
	if (announce(first, "lonely", "lonely-1", "red", 5000) != SVC_OK)
		return 1;
	struct svc_registry *second = registry_at("");
	if (second == NULL)
		return 1;
	if (nodes_of(second, "lonely", false) != 1 ||
	    nodes_of(second, "lonely", true) != 1)
		return 1;
	svc_registry_destroy(first);
	svc_registry_destroy(second);
	return 0;
}
static void
bad_addresses_are_named(void **state)
{
	(void)state;
	static const char *const bad[] = {"nosuch0", "lo:", "lo:0", "lo:65536",
	    "lo:x", "203.0.113.77", "0.0.0.0", "[::7]:5353", "[::1", "::1",
	    "a-very-long-interface-name", "127.0.0.1:5353:1", " lo"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct svc_registry_config config = {
		    .address = bad[i], .timeout_ms = 1000};
		struct svc_registry *registry = NULL;
		struct svc_error err = {.code = SVC_OK};
		assert_int_equal(
		    svc_registry_create("mdns", &config, &registry, &err),
		    SVC_E_INVAL);
		assert_null(registry);
		assert_non_null(strstr(err.text, "allowed"));
		assert_non_null(strstr(err.text, "lo"));
	}
	char text[32];
	snprintf(text, sizeof(text), "127.0.0.1:%u", (unsigned)port);
	struct svc_registry *registry = registry_at(text);
	assert_non_null(registry);
	svc_registry_destroy(registry);
}

static void
processes_see_each_other(void **state)
{
	(void)state;
	struct svc_registry *registry = registry_at(address);
	struct other first = announcer("ours", "ours-1", "30000");
	struct other second = announcer("ours", "ours-2", "30000");
	struct other third = announcer("a.b.ours", "ours-1", "30000");
	assert_true(nodes_become(registry, "ours", false, 2));
	assert_true(nodes_become(registry, "a.b.ours", false, 1));
	assert_true(nodes_become(registry, "ours", true, 2));
	assert_true(nodes_become(registry, "a.b.ours", true, 1));
	assert_int_equal(nodes_of(registry, "our", false), 0);
	assert_int_equal(
	    announce(registry, "theirs", "x", "red", 30000), SVC_OK);
	other_do(&first, 'l');
	other_do(&second, 'l');
	other_do(&third, 'l');
	assert_true(nodes_become(registry, "theirs", false, 1));
	assert_int_equal(other_end(&first, 0), 0);
	assert_int_equal(other_end(&second, 0), 0);
	assert_int_equal(other_end(&third, 0), 0);
	svc_registry_destroy(registry);
}

static void
watch_follows_changes(void **state)
{
	(void)state;
	struct seen one, all;
	struct svc_registry *registry = registry_at(address);
	struct other other = announcer("ours", "ours-1", "30000");
	struct svc_watch *watch = seen_start(&one, registry, "ours");
	struct svc_watch *watch_all = seen_start(&all, registry, NULL);
	assert_true(seen_wait(&one, SVC_SYNCED, 1, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_SYNCED, 1, PATIENCE_MS));
	assert_true(seen_wait(&one, SVC_CREATED, 1, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_CREATED, 1, PATIENCE_MS));
	assert_seen(&one, id, "ours-1");
	assert_seen(&one, color, "red");
	assert_seen(&one, address, "127.0.0.1:4242");

	other_do(&other, 'b');
	assert_true(seen_wait(&one, SVC_UPDATED, 1, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_UPDATED, 1, PATIENCE_MS));
	assert_seen(&one, color, "blue");

	/* A watch of what is known already has it at once. */
	struct seen late;
	struct svc_watch *watch_late = seen_start(&late, registry, "ours");
	assert_true(seen_wait(&late, SVC_SYNCED, 1, PATIENCE_MS));
	assert_int_equal(seen_count(&late, SVC_CREATED), 1);
	svc_registry_unwatch(watch_late);

	struct other second = announcer("ours", "ours-2", "30000");
	assert_true(seen_wait(&one, SVC_CREATED, 2, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_CREATED, 2, PATIENCE_MS));

	other_do(&other, 'w');
	assert_true(seen_wait(&one, SVC_REMOVED, 1, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_REMOVED, 1, PATIENCE_MS));
	assert_seen(&one, id, "ours-1");
	assert_int_equal(nodes_of(registry, "ours", false), 1);

	/* Another's service is no business of this watch. */
	assert_int_equal(
	    announce(registry, "theirs", "x", "red", 30000), SVC_OK);
	assert_true(seen_wait(&all, SVC_CREATED, 3, PATIENCE_MS));
	assert_int_equal(seen_count(&one, SVC_CREATED), 2);
	assert_int_equal(seen_count(&one, SVC_UPDATED), 1);
	assert_int_equal(seen_count(&all, SVC_UPDATED), 1);
	assert_int_equal(seen_count(&all, SVC_REMOVED), 1);

	svc_registry_unwatch(watch);
	svc_registry_unwatch(watch_all);
	other_end(&other, 0);
	other_end(&second, 0);
	svc_registry_destroy(registry);
}

/* How soon, the conformance suite times. */
static void
the_killed_are_gone(void **state)
{
	(void)state;
	struct seen seen;
	struct svc_registry *registry = registry_at(address);
	struct svc_registry *asking = registry_at(address);
	struct svc_watch *watch = seen_start(&seen, registry, "ours");
	struct other other = announcer("ours", "ours-1", "2000");
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	/* While it renews, it stays. */
	assert_false(seen_wait(&seen, SVC_REMOVED, 1, 3000));
	int64_t killed_at = svc_now_ms();
	other_end(&other, SIGKILL);
	/* Those who remember keep it until its TTL passes; those who ask
	 * now have no answer. */
	assert_int_equal(nodes_of(asking, "ours", false), 0);
	size_t removed = seen_count(&seen, SVC_REMOVED);
	if (svc_now_ms() - killed_at < 500)
		assert_int_equal(removed, 0);
	assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
	assert_int_equal(nodes_of(registry, "ours", false), 0);
	assert_int_equal(seen_count(&seen, SVC_CREATED), 1);
	assert_int_equal(seen_count(&seen, SVC_UPDATED), 0);
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	svc_registry_destroy(asking);
}

static void
the_unrenewed_are_gone(void **state)
{
	(void)state;
	struct seen seen;
	struct svc_registry *registry = registry_at(address);
	struct svc_watch *watch = seen_start(&seen, registry, "ours");
	struct other other = announcer("ours", "ours-1", "1500");
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	other_do(&other, 's');
	assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
	/* Though it still runs and could answer. */
	assert_int_equal(nodes_of(registry, "ours", false), 0);
	svc_registry_unwatch(watch);
	assert_int_equal(nodes_of(registry, "ours", false), 0);
	other_end(&other, 0);
	svc_registry_destroy(registry);
}

/* A goodbye must not be overtaken by an answer that was sent before it. */
static void
withdrawn_nodes_stay_away(void **state)
{
	(void)state;
	struct svc_registry *ours = registry_at(address);
	struct svc_registry *theirs = registry_at(address);
	for (int i = 0; i < 20; i++) {
		struct seen seen;
		assert_int_equal(
		    announce(theirs, "ours", "x", "red", 30000), SVC_OK);
		struct svc_watch *watch = seen_start(&seen, ours, "ours");
		if (i % 2 == 0)
			assert_true(
			    seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
		assert_int_equal(withdraw(theirs, "ours", "x"), SVC_OK);
		assert_true(seen_wait(&seen, SVC_SYNCED, 1, PATIENCE_MS));
		assert_true(seen_wait(&seen, SVC_REMOVED,
		    seen_count(&seen, SVC_CREATED), PATIENCE_MS));
		assert_int_equal(nodes_of(ours, "ours", false), 0);
		svc_registry_unwatch(watch);
	}
	svc_registry_destroy(ours);
	svc_registry_destroy(theirs);
}

static void
many_nodes_are_found(void **state)
{
	(void)state;
	struct svc_registry *ours = registry_at(address);
	struct svc_registry *theirs = registry_at(address);
	for (int i = 0; i < 100; i++) {
		char id[32];
		snprintf(id, sizeof(id), "many-%d", i);
		assert_int_equal(
		    announce(theirs, "many", id, "red", 60000), SVC_OK);
	}
	assert_true(nodes_become(ours, "many", false, 100));
	assert_true(nodes_become(ours, "many", true, 100));
	svc_registry_destroy(ours);
	svc_registry_destroy(theirs);
}

static void *
busy_run(void *arg)
{
	struct svc_registry *registry = arg;
	char id[32];
	snprintf(id, sizeof(id), "busy-%u", (unsigned)svc_random_below(1000));
	for (int i = 0; i < 15; i++) {
		struct seen seen;
		struct svc_watch *watch = seen_start(&seen, registry, "busy");
		announce(
		    registry, "busy", id, i % 2 == 0 ? "red" : "blue", 30000);
		nodes_of(registry, "busy", false);
		seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS);
		withdraw(registry, "busy", id);
		svc_registry_unwatch(watch);
	}
	return NULL;
}

static void
ops_run_from_many_threads(void **state)
{
	(void)state;
	struct svc_registry *registry = registry_at(address);
	pthread_t threads[4];
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(
		    svc_thread_start(&threads[i], "busy", busy_run, registry),
		    SVC_OK);
	for (size_t i = 0; i < 4; i++)
		svc_thread_join(threads[i]);
	assert_int_equal(nodes_of(registry, "busy", false), 0);
	svc_registry_destroy(registry);
}

static void
lo_alone_is_enough(void **state)
{
	(void)state;
	const char *args[] = {"alone", NULL};
	struct other other = other_start(args);
	int status = other_end(&other, 0);
	if (status == SKIPPED) {
		print_message("no network namespace to be had\n");
		skip();
	}
	assert_int_equal(status, 0);
}

int
main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(bad_addresses_are_named),
	    cmocka_unit_test(processes_see_each_other),
	    cmocka_unit_test(watch_follows_changes),
	    cmocka_unit_test(the_killed_are_gone),
	    cmocka_unit_test(the_unrenewed_are_gone),
	    cmocka_unit_test(withdrawn_nodes_stay_away),
	    cmocka_unit_test(many_nodes_are_found),
	    cmocka_unit_test(ops_run_from_many_threads),
	    cmocka_unit_test(lo_alone_is_enough),
	};
	if (argc == 6 && strcmp(argv[1], "announce") == 0)
		return other_announces(
		    argv[2], argv[3], argv[4], strtol(argv[5], NULL, 10));
	if (argc == 2 && strcmp(argv[1], "alone") == 0)
		return other_alone();
	if (!port_pick())
		return 1;
	const struct svc_conformance_registry promises = {
	    .plugin = "mdns",
	    .config = {.address = address, .timeout_ms = 5000},
	};
	int failed = cmocka_run_group_tests_name("mdns", tests, NULL, NULL);
	return failed + svc_conformance_registry(&promises);
}
