/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A real avahi-daemon on the other host lists and resolves what is announced
 * here and, beside it, there.
 */
#include "mdns_hosts.h"
#include "mdns_kit.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/svc-avahi-XXXXXX";
static pid_t bus, avahi;
static const char *lack;

static void
file_write(const char *name, const char *text)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static const char bus_config[] =
    "<busconfig><type>system</type><listen>unix:path=%s/bus</listen>"
    "<auth>EXTERNAL</auth><policy context=\"default\"><allow user=\"*\"/>"
    "<allow own=\"*\"/><allow send_type=\"method_call\"/>"
    "<allow send_type=\"signal\"/>"
    "<allow send_requested_reply=\"true\" send_type=\"method_return\"/>"
    "<allow send_requested_reply=\"true\" send_type=\"error\"/>"
    "<allow receive_type=\"method_call\"/>"
    "<allow receive_type=\"method_return\"/>"
    "<allow receive_type=\"error\"/><allow receive_type=\"signal\"/>"
    "</policy></busconfig>\n";
static const char avahi_config[] =
    "[server]\nhost-name=other\nallow-interfaces=v2\nenable-dbus=yes\n"
    "[wide-area]\nenable-wide-area=no\n"
    "[publish]\npublish-workstation=no\n";

/* avahi's programs speak to the daemon over D-Bus, so it gets a bus of its
 * own; its folder in /run is fixed, so it gets that, too. */
static int
avahi_start(void **state)
{
	char text[2048];
	(void)state;
	if (hosts_lack() != NULL) {
		lack = hosts_lack();
		return 0;
	}
	if (system("command -v avahi-daemon avahi-browse dbus-daemon "
		   ">/dev/null") != 0) {
		lack = "avahi-daemon, avahi-utils or dbus is not installed";
		return 0;
	}
	hosts_connect_settled(true);
	assert_non_null(mkdtemp(dir));
	snprintf(text, sizeof(text), bus_config, dir);
	file_write("dbus.conf", text);
	file_write("avahi.conf", avahi_config);
	snprintf(text, sizeof(text), "unix:path=%s/bus", dir);
	setenv("DBUS_SYSTEM_BUS_ADDRESS", text, 1);
	bus = host_start(THERE,
	    "exec dbus-daemon --config-file=%s/dbus.conf --nofork --nopidfile "
	    ">%s/bus.log 2>&1",
	    dir, dir);
	host_run(THERE,
	    "i=0; until [ -S %s/bus ]; do i=$((i + 1)); [ $i -lt 300 ] || "
	    "{ cat %s/bus.log; exit 1; }; sleep 0.05; done",
	    dir, dir);
	avahi = host_start(THERE,
	    "exec unshare -m sh -c 'mount -t tmpfs tmpfs /run && "
	    "mkdir /run/avahi-daemon && exec avahi-daemon --no-drop-root "
	    "--no-rlimits --no-chroot --debug -f %s/avahi.conf' "
	    ">%s/avahi.log 2>&1",
	    dir, dir);
	host_run(THERE,
	    "i=0; until grep -q 'Server startup complete' %s/avahi.log; do "
	    "i=$((i + 1)); [ $i -lt 300 ] || { cat %s/avahi.log; exit 1; }; "
	    "sleep 0.05; done",
	    dir, dir);
	return 0;
}

static int
avahi_stop(void **state)
{
	(void)state;
	if (avahi > 0)
		host_end(avahi);
	if (bus > 0)
		host_end(bus);
	if (lack == NULL)
		host_run(THERE, "rm -rf %s", dir);
	return hosts_cut(NULL);
}

/* Asks avahi-browse until its output holds `part`, or holds it not. */
static char *
browse(const char *arguments, const char *part, bool present)
{
	int64_t deadline = svc_deadline(3 * PATIENCE_MS);
	for (;;) {
		char *text = host_output(
		    THERE, "timeout 20 avahi-browse -pt %s 2>&1", arguments);
		if (text != NULL && (strstr(text, part) != NULL) == present)
			return text;
		if (svc_remaining(deadline) == 0)
			fail_msg("avahi-browse %s: %s '%s' in:\n%s", arguments,
			    present ? "no" : "still", part,
			    text != NULL ? text : "(it failed)");
		free(text);
	}
}

/* The resolved line of a node by one protocol, which ends where it says. */
static char *
line_of(char *text, const char *begin)
{
	char *line = strstr(text, begin);
	if (line == NULL)
		fail_msg("no line '%s' in:\n%s", begin, text);
	char *end = strchr(line, '\n');
	if (end != NULL)
		*end = '\0';
	return line;
}

static void
avahi_lists_and_resolves_nodes(void **state)
{
	(void)state;
	if (lack != NULL)
		LACKING(lack);
	node_address = "10.99.0.1:4242";
	struct svc_registry *registry = registry_at("");
	assert_int_equal(
	    announce(registry, "student", "student-1", "red", 60000), SVC_OK);

	/* The type is found by asking which there are. */
	free(browse("-a", "_svc._tcp", true));

	/* '@' is \064 in avahi's parsable output. */
	static const char line4[] =
	    "=;v2;IPv4;student-1\\064student;_svc._tcp;local;";
	char *text = browse("-r _svc._tcp", line4, true);
	char *line = line_of(text, line4);
	assert_non_null(strstr(line, ";svc-10-99-0-1.local;10.99.0.1;4242;"));
	assert_non_null(strstr(line, "\"service=student\""));
	assert_non_null(strstr(line, "\"version=1.0.0\""));
	assert_non_null(strstr(line, "\"id=student-1\""));
	assert_non_null(strstr(line, "\"color=red\""));
	free(text);
	free(browse("-r _svc._tcp", "=;v2;IPv6;student-1", true));

	/* By its subtype, among other services. */
	assert_int_equal(
	    announce(registry, "teacher", "teacher-1", "red", 60000), SVC_OK);
	free(browse("_svc._tcp", "teacher-1", true));
	text = browse("_student._sub._svc._tcp", "student-1", true);
	assert_null(strstr(text, "teacher-1"));
	free(text);

	/* A change is seen, and so is the goodbye. */
	assert_int_equal(
	    announce(registry, "student", "student-1", "blue", 60000), SVC_OK);
	free(browse("-r _svc._tcp", "\"color=blue\"", true));
	assert_int_equal(withdraw(registry, "student", "student-1"), SVC_OK);
	free(browse("_svc._tcp", "student-1", false));
	free(browse("_svc._tcp", "teacher-1", true));
	svc_registry_destroy(registry);
}

/* Both on one host: they share the port, and neither takes from the other. */
static void
avahi_and_svc_share_a_host(void **state)
{
	(void)state;
	struct seen seen;
	if (lack != NULL)
		LACKING(lack);
	node_address = "10.99.0.2:4242";
	setenv("NODE_ADDRESS", node_address, 1);
	other_network = hosts_network(THERE);
	struct other other = announcer("neighbour", "neighbour-1", "60000");
	free(browse(
	    "-r _svc._tcp", ";svc-10-99-0-2.local;10.99.0.2;4242;", true));
	/* avahi's own name still resolves there, and svc is seen here. */
	char *text =
	    host_output(THERE, "timeout 20 avahi-resolve -4n other.local");
	assert_non_null(text);
	assert_non_null(strstr(text, "10.99.0.2"));
	free(text);
	struct svc_registry *registry = registry_at("");
	struct svc_watch *watch = seen_start(&seen, registry, "neighbour");
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	other_do(&other, 'w');
	assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
	free(browse("_svc._tcp", "neighbour-1", false));
	other_end(&other, 0);
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
}

int
main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(avahi_lists_and_resolves_nodes),
	    cmocka_unit_test(avahi_and_svc_share_a_host),
	};
	const char *node = getenv("NODE_ADDRESS");
	if (node != NULL)
		node_address = node;
	if (argc == 6 && strcmp(argv[1], "announce") == 0)
		return other_announces(
		    argv[2], argv[3], argv[4], strtol(argv[5], NULL, 10));
	hosts_start();
	return cmocka_run_group_tests_name(
	    "mdns_avahi", tests, avahi_start, avahi_stop);
}
