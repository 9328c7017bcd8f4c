/* SPDX-License-Identifier: Apache-2.0 */
#include "service.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/lacks.h"

static void
expect(const char *bound, const char *wanted, const char *address)
{
	char *got = NULL;
	struct svc_error err = {0};
	if (svc_advertise_address(bound, wanted, &got, &err) != SVC_OK)
		fail_msg("%s, %s: %s", bound, wanted, err.text);
	assert_string_equal(got, address);
	svc_mem_free(got);
}

static void
every_form_is_understood(void **state)
{
	(void)state;
	static const char any[] = "0.0.0.0:4000";
	expect("10.1.2.3:4000", NULL, "10.1.2.3:4000");
	expect("[fd00::1]:4000", NULL, "[fd00::1]:4000");
	expect(any, "student.example", "student.example:4000");
	expect(any, "student.example:80", "student.example:80");
	expect(any, "203.0.113.7", "203.0.113.7:4000");
	expect(any, "203.0.113.7:80", "203.0.113.7:80");
	expect(any, "2001:db8::7", "[2001:db8::7]:4000");
	expect(any, "[2001:db8::7]", "[2001:db8::7]:4000");
	expect(any, "[2001:db8::7]:80", "[2001:db8::7]:80");
	expect(any, "lo", "127.0.0.1:4000");
	expect(any, "lo:80", "127.0.0.1:80");
	expect("10.1.2.3:4000", "lo", "127.0.0.1:4000");
	/* Of another scheme. */
	expect("ws://10.1.2.3:4000/x", NULL, "ws://10.1.2.3:4000/x");
	expect("ws://0.0.0.0:4000/x", "lo", "ws://127.0.0.1:4000/x");
	expect("tcp://[::]:4000", "2001:db8::7", "tcp://[2001:db8::7]:4000");
	expect(
	    "tcp://*:4000", "student.example:80", "tcp://student.example:80");
	expect(any, "169.254.3.3", "169.254.3.3:4000");
	/* What is no network address is taken as it is. */
	expect("ipc:///run/x", NULL, "ipc:///run/x");
	expect(any, "tls+tcp://a:1", "tls+tcp://a:1");
	expect("memory-name", "example:1", "example:1");
}

static void
what_nobody_can_dial_is_refused(void **state)
{
	(void)state;
	static const struct {
		const char *wanted, *text;
	} bad[] = {
	    {"0.0.0.0", "names every address, so nobody can dial it"},
	    {"0.0.0.0:80", "names every address"},
	    {"[::]:80", "names every address"},
	    {"::", "names every address"},
	    {"*:80", "names every address"},
	    {":80", "names every address"},
	    {"[::ffff:0.0.0.0]:80", "names every address"},
	    {"tls+tcp://0.0.0.0:80", "names every address"},
	    {"ws://*:80/x", "names every address"},
	    {"fe80::1", "is a link-local IPv6 address, which each host reaches "
			"by an interface of its own, so nobody can dial it"},
	    {"[fe80::1]", "is a link-local IPv6 address"},
	    {"[fe80::1]:80", "is a link-local IPv6 address"},
	    {"fe80::1%eth0", "is a link-local IPv6 address"},
	    {"[febf::1%eth0]:80", "is a link-local IPv6 address"},
	    {"tcp://[fe80::1]:80", "is a link-local IPv6 address"},
	    {"fd00::1%eth0", "has no valid IPv6 address"},
	    {"224.0.0.1", "is not the address of one host"},
	    {"ff02::1", "is not the address of one host"},
	    {"255.255.255.255", "is not the address of one host"},
	    {"a:0", "has port 0, which nobody can dial"},
	    {"a:65536", "has no port from 1 to 65535, or no host"},
	    {"a:", "has no port from 1 to 65535, or no host"},
	    {"a:b", "has no port"},
	    {"1:2:3", "has no port"},
	    {"[1:2:3]", "has no valid IPv6 address"},
	    {"[fd00::1", "has no port"},
	    {"a b", "has a character that no host has"},
	    {"a/24", "has a character that no host has"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *got = NULL;
		struct svc_error err = {0};
		assert_int_equal(svc_advertise_address(
				     "0.0.0.0:4000", bad[i].wanted, &got, &err),
		    SVC_E_INVAL);
		if (strstr(err.text, bad[i].text) == NULL)
			fail_msg("\"%s\" does not say \"%s\"", err.text,
			    bad[i].text);
		assert_non_null(strstr(err.text,
		    ": give HOST, INTERFACE or an IP address, each also with "
		    ":PORT"));
	}
}

static void
what_is_listened_on_may_be_for_nobody(void **state)
{
	(void)state;
	char *got = NULL;
	struct svc_error err = {0};
	assert_int_equal(
	    svc_advertise_address("[fe80::1]:4000", NULL, &got, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text,
	    "address \"[fe80::1]:4000\" is a link-local IPv6 address"));
	assert_non_null(strstr(err.text, ": give --advertise="));
	assert_int_equal(
	    svc_advertise_address("[fe80::1%eth0]:4000", NULL, &got, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text,
	    "address \"[fe80::1%eth0]:4000\" is a link-local IPv6 address"));
	expect("[fe80::1%eth0]:4000", "2001:db8::7", "[2001:db8::7]:4000");
	expect("[fe80::1]:4000", "2001:db8::7", "[2001:db8::7]:4000");
}

static char said[512];

static void
sink(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	snprintf(said, sizeof(said), "%s: %s", line->id, line->text);
}

/* What is logged begins with `id`; NULL: nothing is. */
static void
warns(const char *advertised, const char *servers, const char *id)
{
	said[0] = '\0';
	svc_advertise_warn(advertised, servers);
	if (id == NULL
		? said[0] != '\0'
		: strncmp(said, id, strlen(id)) != 0 ||
		      strstr(said, advertised) == NULL ||
		      strstr(said, ": give --advertise=HOST, INTERFACE or "
				   "another IP address") == NULL)
		fail_msg("%s, %s: %s", advertised, servers, said);
}

static void
what_some_cannot_dial_is_said(void **state)
{
	(void)state;
	static const char *const local[] = {"127.0.0.1:4000", "127.3.2.1:4000",
	    "[::1]:4000", "localhost:4000", "ws://127.0.0.1:4000/x",
	    "[::ffff:127.0.0.1]:4000"};
	static const char *const here[] = {"127.0.0.1", "localhost:2379",
	    "http://127.0.0.1:2379/", "[::1]:2379", "rediss://[::1]",
	    "127.0.0.1:1, 127.0.0.1:2"};
	static const char *const elsewhere[] = {"203.0.113.7", "etcd:2379",
	    "https://etcd.example", "[2001:db8::7]:2379",
	    "rediss://[2001:db8::7]/", "127.0.0.1, 203.0.113.7:2379"};
	char host[256] = "";
	svc_log_set_sink(sink, NULL);
	svc_log_set_level(SVC_LOG_INFO);
	for (size_t i = 0; i < 6; i++) {
		warns(local[i], elsewhere[i], "advertise.loopback: ");
		assert_non_null(strstr(said, elsewhere[i]));
		warns(local[i], here[i], NULL);
		warns(local[i], NULL, NULL);
		warns("10.1.2.3:4000", elsewhere[i], NULL);
		warns("student.example:4000", elsewhere[i], NULL);
	}
	gethostname(host, sizeof(host) - 1);
	warns("127.0.0.1:4000", host, NULL);
	warns("169.254.3.3:4000", NULL, "advertise.link_local: ");
	warns("tcp://169.254.3.3:4000", "etcd", "advertise.link_local: ");
	warns("ipc:///run/x", "etcd", NULL);
	svc_log_set_sink(NULL, NULL);
}

/* ------------------------------------------- hosts with other interfaces */

static int
run(const char *const words[])
{
	pid_t pid = fork();
	if (pid == 0) {
		char *argv[16] = {0};
		for (size_t i = 0; words[i] != NULL; i++)
			argv[i] = strdup(words[i]);
		execvp(argv[0], argv);
		_exit(127);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	return status;
}

/* In a child with a network of its own: the address that is chosen. */
static void
choose(const char *const setup[][10], const char *bound, const char *wanted,
    const char *address)
{
	int ends[2];
	char got[256] = "";
	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char *chosen = NULL;
		struct svc_error err = {0};
		if (unshare(CLONE_NEWNET) != 0)
			_exit(77);
		for (size_t i = 0; setup[i][0] != NULL; i++)
			if (run(setup[i]) != 0)
				_exit(77);
		svc_err rc =
		    svc_advertise_address(bound, wanted, &chosen, &err);
		const char *text = rc == SVC_OK ? chosen : err.text;
		_exit(write(ends[1], text, strlen(text)) < 0);
	}
	close(ends[1]);
	size_t len = 0;
	ssize_t n;
	while ((n = read(ends[0], got + len, sizeof(got) - 1 - len)) > 0)
		len += (size_t)n;
	close(ends[0]);
	int status = -1;
	waitpid(pid, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		test_lacks("network namespaces");
	if (strncmp(got, address, strlen(address)) != 0)
		fail_msg("chosen: %s; expected: %s", got, address);
}

static void
the_address_of_a_host_is_chosen(void **state)
{
	(void)state;
#define ADD(name)                                                          \
	{                                                                  \
		"ip", "link", "add", name, "type", "veth", "peer", "name", \
		    name "p"                                               \
	}
#define UP(name)                                \
	{                                       \
		"ip", "link", "set", name, "up" \
	}
#define UP_BOTH(name) UP(name), UP(name "p")
#define ADDRESS(name, address)                            \
	{                                                 \
		"ip", "addr", "add", address, "dev", name \
	}
	static const char *const nothing[][10] = {{NULL}};
	static const char *const loopback[][10] = {UP("lo"), {NULL}};
	/* A public, a private and one more private address; the last one is
	 * where packets go by default. */
	static const char *const three[][10] = {UP("lo"), ADD("d0"),
	    ADDRESS("d0", "203.0.113.5/24"), UP_BOTH("d0"), ADD("d1"),
	    ADDRESS("d1", "10.9.0.5/24"), UP_BOTH("d1"), ADD("d2"),
	    ADDRESS("d2", "192.168.9.5/24"), UP_BOTH("d2"),
	    {"ip", "route", "add", "default", "dev", "d2"}, {NULL}};
	static const char *const public[][10] = {UP("lo"), ADD("d0"),
	    ADDRESS("d0", "169.254.3.3/16"), UP_BOTH("d0"), ADD("d1"),
	    ADDRESS("d1", "203.0.113.5/24"), UP_BOTH("d1"), {NULL}};
	static const char *const down[][10] = {
	    UP("lo"), ADD("d0"), ADDRESS("d0", "10.9.0.5/24"), {NULL}};
	static const char *const v6[][10] = {UP("lo"), ADD("d0"),
	    {"ip", "addr", "add", "fd00::5/64", "dev", "d0", "nodad"},
	    UP_BOTH("d0"), {NULL}};
	choose(nothing, ":4000", NULL, "127.0.0.1:4000");
	choose(loopback, "0.0.0.0:4000", NULL, "127.0.0.1:4000");
	choose(three, ":4000", NULL, "192.168.9.5:4000");
	choose(three, "tcp://0.0.0.0:4000", NULL, "tcp://192.168.9.5:4000");
	choose(three, "ws://*:4000/x", NULL, "ws://192.168.9.5:4000/x");
	choose(three, ":4000", "d0", "203.0.113.5:4000");
	choose(three, ":4000", "d1:80", "10.9.0.5:80");
	choose(public, ":4000", NULL, "203.0.113.5:4000");
	choose(down, ":4000", NULL, "127.0.0.1:4000");
	choose(down, ":4000", "d0",
	    "\"d0\" is an interface without an address that others "
	    "can dial: give HOST");
	choose(v6, "[::]:4000", NULL, "[fd00::5]:4000");
	choose(v6, "0.0.0.0:4000", NULL, "127.0.0.1:4000");
	choose(v6, ":4000", "d0", "[fd00::5]:4000");
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_form_is_understood),
	    cmocka_unit_test(what_nobody_can_dial_is_refused),
	    cmocka_unit_test(what_is_listened_on_may_be_for_nobody),
	    cmocka_unit_test(what_some_cannot_dial_is_said),
	    cmocka_unit_test(the_address_of_a_host_is_chosen),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
