/* SPDX-License-Identifier: Apache-2.0 */
/* What can be listened on and called, and what is said of what cannot. */
#include "nng_ends.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void
addresses_are_checked(void **state)
{
	(void)state;
	static const struct {
		const char *address;
		bool listens, calls;
		const char *says;
	} cases[] = {
	    {"", false, false, "allowed"},
	    {"host", false, false, "allowed"},
	    {"127.0.0.1:65536", false, false, "allowed"},
	    {"tcp://", false, false, "allowed"},
	    {"tcp://127.0.0.1", false, false, "allowed"},
	    {"tcp://127.0.0.1:1/path", false, false, "has a path"},
	    {"tcp://127.0.0.1:x", false, false, "allowed"},
	    {"ipc://", false, false, "has no name"},
	    {"ws://127.0.0.1/x", false, false, "allowed"},
	    {"inproc://", false, false, "has no name"},
	    {"tls+tcp://127.0.0.1:1", false, false, "needs TLS"},
	    {"wss://127.0.0.1:1/", false, false, "not served"},
	    {"http://127.0.0.1:1", false, false, "not served"},
	    {"127.0.0.1:0", true, false, "needs a host and a port"},
	    {":0", true, false, "needs a host and a port"},
	    {"tcp://*:0", true, false, "needs a host and a port"},
	    {"[::1]:0", true, false, "needs a host and a port"},
	};
	struct end end;
	start(&end, "nng", NULL, NULL);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct svc_error err = {0};
		void *made;
		svc_err rc = end.ops->listen(
		    end.self, cases[i].address, echo, NULL, &made, &err);
		assert_int_equal(rc, cases[i].listens ? SVC_OK : SVC_E_INVAL);
		if (rc == SVC_OK) {
			/* The real port is known. */
			const char *real = end.ops->listener_address(made);
			assert_non_null(strrchr(real, ':'));
			assert_string_not_equal(strrchr(real, ':'), ":0");
			end.ops->listener_destroy(made);
		} else if (strstr(err.text, cases[i].says) == NULL) {
			fail_msg("%s: %s", cases[i].address, err.text);
		}
		rc = end.ops->dial(
		    end.self, cases[i].address, 1000, &made, &err);
		assert_int_equal(rc, SVC_E_INVAL);
		if (strstr(err.text, cases[i].says) == NULL)
			fail_msg("%s: %s", cases[i].address, err.text);
	}
	stop(&end);
}

static void
it_is_said_what_is_wrong_with_an_address(void **state)
{
	(void)state;
	char longest[200] = "ipc:///tmp/";
	memset(longest + strlen(longest), 'x', 110);
	const struct {
		const char *address, *says;
	} cases[] = {
	    {longest, "too long; allowed are 107 bytes"},
	    {"ipc:///tmp/svc-no-such-folder/socket", "does not exist"},
	    {"192.0.2.1:0", "no address of this machine"},
	    {"nobody.invalid:0", "no address of this machine"},
	};
	struct end end;
	start(&end, "nng", NULL, NULL);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct svc_error err = {0};
		void *made;
		assert_int_equal(end.ops->listen(end.self, cases[i].address,
				     echo, NULL, &made, &err),
		    SVC_E_INVAL);
		if (strstr(err.text, cases[i].says) == NULL)
			fail_msg("%s: %s", cases[i].address, err.text);
	}
	stop(&end);
}

/* Who serves a websocket looks at the name that was called. */
static void
a_websocket_is_called_as_it_says(void **state)
{
	(void)state;
	static const char *const addresses[] = {
	    "ws://localhost:0/svc", "ws://127.0.0.1:0/svc", "ws://:0/svc"};
	for (size_t i = 0; i < sizeof(addresses) / sizeof(*addresses); i++) {
		struct end end;
		start(&end, "nng", NULL, addresses[i]);
		const char *address = end.ops->listener_address(end.listener);
		struct got got = call_at(&end, address);
		if (got.code != SVC_OK)
			fail_msg("%s: %s", address, got.text);
		stop(&end);
	}
	struct end end;
	start(&end, "nng", NULL, "ws://127.0.0.1:0/svc");
	char other[80];
	snprintf(other, sizeof(other), "ws://127.0.0.1%.6s/other",
	    strrchr(end.ops->listener_address(end.listener), ':'));
	struct got got = call_at(&end, other);
	assert_int_not_equal(got.code, SVC_OK);
	if (strstr(got.text, "at this path") == NULL)
		fail_msg("%s", got.text);
	stop(&end);
}

/* By each scheme that does not say which family. */
static void
every_interface_is_of_both_families(void **state)
{
	(void)state;
	static const char *const given[] = {"tcp://*:0", "tcp://:0",
	    "tcp://[::]:0", "tcp6://*:0", "ws://*:0/svc", "ws://:0/svc"};
	static const char *const hosts[] = {"127.0.0.1", "[::1]"};
	for (size_t i = 0; i < sizeof(given) / sizeof(*given); i++) {
		struct end end;
		start(&end, "nng", NULL, given[i]);
		const char *port =
		    strrchr(end.ops->listener_address(end.listener), ':');
		for (size_t j = 0; j < 2; j++) {
			char address[80];
			snprintf(address, sizeof(address), "%.*s%s%s",
			    given[i][0] == 'w' ? 5 : 6,
			    given[i][0] == 'w' ? "ws://" : "tcp://", hosts[j],
			    port);
			struct got got = call_at(&end, address);
			if (got.code != SVC_OK)
				fail_msg("%s at %s: %s", given[i], address,
				    got.text);
		}
		stop(&end);
	}
}

static void
a_file_that_is_no_socket_stays(void **state)
{
	(void)state;
	char folder[] = "/tmp/svc-nng-XXXXXX", path[64], address[72];
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/letter", folder);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fclose(file);
	struct end end;
	start(&end, "nng", NULL, NULL);
	static const char *const schemes[] = {"ipc", "unix"};
	for (size_t i = 0; i < 2; i++) {
		struct svc_error err = {0};
		void *made;
		snprintf(address, sizeof(address), "%s://%s", schemes[i], path);
		assert_int_equal(
		    end.ops->listen(end.self, address, echo, NULL, &made, &err),
		    SVC_E_EXISTS);
		assert_non_null(strstr(err.text, "no socket"));
		assert_int_equal(access(path, F_OK), 0);
	}
	/* A folder neither. */
	struct svc_error err = {0};
	void *made;
	snprintf(address, sizeof(address), "ipc://%s", folder);
	assert_int_equal(
	    end.ops->listen(end.self, address, echo, NULL, &made, &err),
	    SVC_E_EXISTS);
	assert_non_null(strstr(err.text, "no socket"));
	/* The socket of one who was killed is in nobody's way. */
	assert_int_equal(unlink(path), 0);
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	close(fd);
	snprintf(address, sizeof(address), "ipc://%s", path);
	assert_int_equal(
	    end.ops->listen(end.self, address, echo, NULL, &made, &err),
	    SVC_OK);
	end.ops->listener_destroy(made);
	stop(&end);
	rmdir(folder);
}

static void
every_interface_is_reached(void **state)
{
	(void)state;
	struct end end;
	void *conn;
	char address[64];
	start(&end, "nng", NULL, ":0");
	const char *port =
	    strrchr(end.ops->listener_address(end.listener), ':');
	snprintf(address, sizeof(address), "localhost%s", port);
	assert_int_equal(
	    end.ops->dial(end.self, address, 5000, &conn, NULL), SVC_OK);
	assert_int_equal(call(end.ops, conn, 10).code, SVC_OK);
	end.ops->conn_destroy(conn);
	snprintf(address, sizeof(address), "127.0.0.1%s", port);
	assert_int_equal(
	    end.ops->dial(end.self, address, 5000, &conn, NULL), SVC_OK);
	assert_int_equal(call(end.ops, conn, 10).code, SVC_OK);
	end.ops->conn_destroy(conn);
	stop(&end);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(addresses_are_checked),
	    cmocka_unit_test(it_is_said_what_is_wrong_with_an_address),
	    cmocka_unit_test(a_websocket_is_called_as_it_says),
	    cmocka_unit_test(every_interface_is_of_both_families),
	    cmocka_unit_test(a_file_that_is_no_socket_stays),
	    cmocka_unit_test(every_interface_is_reached),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
