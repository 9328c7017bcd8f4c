/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"
#include "nng_ends.h"
#include "support/pki.h"

#include <stdatomic.h>
#include <svc/log.h>
#include <sys/socket.h>
#include <unistd.h>

static void
each_calls_the_other(const char *server_plugin, const char *client_plugin,
    struct svc_tls_config *tls)
{
	struct end server, client;
	void *conn;
	start_with(&server, server_plugin, tls, NULL, "127.0.0.1:0");
	start_with(&client, client_plugin, tls, NULL, NULL);
	assert_int_equal(client.ops->dial(client.self,
			     server.ops->listener_address(server.listener),
			     5000, &conn, NULL),
	    SVC_OK);
	for (size_t len = 1; len < 3000000; len *= 7) {
		struct got got = call(client.ops, conn, len);
		assert_int_equal(got.code, SVC_OK);
		assert_int_equal(got.len, len);
	}
	client.ops->conn_destroy(conn);
	stop(&client);
	stop(&server);
}

static void
speaks_with_the_tcp_transport(void **state)
{
	(void)state;
	each_calls_the_other("tcp", "nng", NULL);
	each_calls_the_other("nng", "tcp", NULL);
}

static void
speaks_with_the_tcp_transport_over_tls(void **state)
{
	(void)state;
	static const struct test_certificate both = {
	    .name = "both", .issuer = "ca", .san = "IP:127.0.0.1"};
	struct test_pki pki;
	assert_true(test_pki_create(&pki));
	assert_true(test_pki_issue(&pki, &both));
	struct svc_tls_config tls = {
	    .ca = test_pki_path(&pki, "ca", "pem"),
	    .cert = test_pki_path(&pki, "both", "pem"),
	    .key = test_pki_path(&pki, "both", "key"),
	};
	each_calls_the_other("tcp", "nng", &tls);
	each_calls_the_other("nng", "tcp", &tls);
	test_pki_remove(&pki);
}

static void
a_stranger_loses_its_own_connection_only(void **state)
{
	(void)state;
	static const char *const lines[] = {"GET / HTTP/1.1\r\n\r\n",
	    "\x16\x03\x01\x02\x00",
	    ("\xf5garbage that is no hello, "
	     "but long enough to be taken for one")};
	struct end end;
	void *conn;
	start(&end, "nng", NULL, "127.0.0.1:0");
	assert_int_equal(
	    end.ops->dial(end.self, end.ops->listener_address(end.listener),
		5000, &conn, NULL),
	    SVC_OK);
	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		int fd = connect_raw(&end);
		assert_int_equal(
		    send(fd, lines[i], strlen(lines[i]), MSG_NOSIGNAL),
		    strlen(lines[i]));
		assert_true(is_closed(fd));
		close(fd);
		assert_int_equal(call(end.ops, conn, 10).code, SVC_OK);
	}
	end.ops->conn_destroy(conn);
	stop(&end);
}

static atomic_int log_lines;

static void
count_lines(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "nng.protocol") == 0)
		atomic_fetch_add(&log_lines, 1);
}

static void
stranger_comes(const struct end *end)
{
	int fd = connect_raw(end);
	assert_int_equal(send(fd, "GET / ", 6, MSG_NOSIGNAL), 6);
	assert_true(is_closed(fd));
	close(fd);
}

static void
strangers_do_not_fill_the_log(void **state)
{
	(void)state;
	struct end end;
	svc_clock_manual();
	svc_clock_advance(1000);
	start(&end, "nng", NULL, "127.0.0.1:0");
	svc_log_set_sink(count_lines, NULL);
	for (int i = 0; i < 100; i++)
		stranger_comes(&end);
	assert_int_equal(log_lines, SVC_LOG_BURST);
	/* How many were left out, and the next one. */
	svc_clock_advance(1000);
	stranger_comes(&end);
	assert_int_equal(log_lines, SVC_LOG_BURST + 2);
	svc_log_set_sink(NULL, NULL);
	stop(&end);
	svc_clock_real();
}

static atomic_int full_lines;

static void
count_full(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "nng.full") == 0 &&
	    strstr(line->text, "--max_connections") != NULL)
		atomic_fetch_add(&full_lines, 1);
}

static void
limits_of_a_listener(void **state)
{
	(void)state;
	static const struct svc_transport_limits limits = {
	    .handshake_ms = 1000, .max_connections = 2};
	struct end end;
	start(&end, "nng", &limits, "127.0.0.1:0");
	/* Who says nothing is closed after a while. */
	int mute = connect_raw(&end);
	assert_true(is_closed(mute));
	close(mute);
	/* One too many is closed at once; when one has gone there is room. */
	void *first, *second, *third;
	const char *address = end.ops->listener_address(end.listener);
	assert_int_equal(
	    end.ops->dial(end.self, address, 5000, &first, NULL), SVC_OK);
	assert_int_equal(call(end.ops, first, 1).code, SVC_OK);
	assert_int_equal(
	    end.ops->dial(end.self, address, 5000, &second, NULL), SVC_OK);
	assert_int_equal(call(end.ops, second, 1).code, SVC_OK);
	svc_log_set_sink(count_full, NULL);
	for (int i = 0; i < 100; i++) {
		int fd = connect_raw(&end);
		assert_true(is_closed(fd));
		close(fd);
	}
	svc_log_set_sink(NULL, NULL);
	assert_true(full_lines > 0);
	end.ops->conn_destroy(first);
	int64_t deadline = svc_deadline(WAIT_MS);
	svc_err code = SVC_E_UNKNOWN;
	while (code != SVC_OK && svc_remaining(deadline) > 0) {
		assert_int_equal(
		    end.ops->dial(end.self, address, 5000, &third, NULL),
		    SVC_OK);
		code = call(end.ops, third, 1).code;
		end.ops->conn_destroy(third);
	}
	assert_int_equal(code, SVC_OK);
	end.ops->conn_destroy(second);
	stop(&end);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(speaks_with_the_tcp_transport),
	    cmocka_unit_test(speaks_with_the_tcp_transport_over_tls),
	    cmocka_unit_test(a_stranger_loses_its_own_connection_only),
	    cmocka_unit_test(strangers_do_not_fill_the_log),
	    cmocka_unit_test(limits_of_a_listener),
	};
	char folder[] = "/tmp/svc-nng-XXXXXX";
	char ipc[64], nobody[64];
	if (mkdtemp(folder) == NULL)
		return 1;
	snprintf(ipc, sizeof(ipc), "ipc://%s/socket", folder);
	snprintf(nobody, sizeof(nobody), "ipc://%s/nobody", folder);
	const struct svc_conformance_transport setups[] = {
	    {.plugin = "nng",
		.address = "127.0.0.1:0",
		.nobody = "127.0.0.1:1",
		.bad = "127.0.0.1:http",
		.sockets = true},
	    {.plugin = "nng",
		.address = ipc,
		.nobody = nobody,
		.bad = "ipc://"},
	    {.plugin = "nng",
		.address = "inproc://conformance",
		.nobody = "inproc://nobody",
		.bad = "inproc://"},
	    {.plugin = "nng",
		.address = "ws://127.0.0.1:0/svc",
		.nobody = "ws://127.0.0.1:1/svc",
		.bad = "ws://127.0.0.1:http/"},
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	for (size_t i = 0; i < sizeof(setups) / sizeof(*setups); i++)
		failed += svc_conformance_transport(&setups[i]);
	rmdir(folder);
	return failed;
}
