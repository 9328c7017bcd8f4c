/* SPDX-License-Identifier: Apache-2.0 */
/* Handshakes that are not finished, and many at once. */
#include "conformance/transport_tls_end.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static int
connect_raw(struct tls_end *server)
{
	const char *address = tls_end_address(server);
	const char *host = strstr(address, "127.0.0.1:");
	assert_non_null(host);
	struct sockaddr_in in = {.sin_family = AF_INET,
	    .sin_port =
		htons((uint16_t)strtol(strchr(host, ':') + 1, NULL, 10)),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

static void
half_handshakes_harm_nobody(void **state)
{
	(void)state;
	/* The head of a client's first message, and what is none. */
	static const char said[][32] = {
	    "",
	    "\x16",
	    "\x16\x03\x01\x02",
	    "\x16\x03\x01\x01\x04\x01",
	    "\x16\x03\x01\xff\xff\x01\xff\xff",
	    "GET / HTTP/1.1\r\n\r\n",
	    "\xf5svc\x01\x01\x10",
	    "\x15\x03\x03",
	    "\x17\x03\x03\x7f\xff",
	};
	enum { MANY = 90 };
	int fds[MANY];
	struct tls_end *server, *client;
	struct svc_tls_config tls = tls_of("server", "ca");
	server = tls_end_serve(&tls);
	tls = tls_of("client", "ca");
	client = tls_end_start(&tls);
	void *conn = tls_dial(client, tls_end_address(server), NULL);
	struct tls_got got = tls_call_on(client, conn);
	assert_answered(&got);
	for (int i = 0; i < MANY; i++) {
		const char *text =
		    said[(size_t)i % (sizeof(said) / sizeof(said[0]))];
		fds[i] = connect_raw(server);
		send(fds[i], text, strlen(text), MSG_NOSIGNAL);
		if (i % 10 == 0) {
			got = tls_call_on(client, conn);
			assert_answered(&got);
		}
	}
	got = tls_call(client, server);
	assert_answered(&got);
	got = tls_call_on(client, conn);
	assert_answered(&got);
	for (int i = 0; i < MANY; i++)
		close(fds[i]);
	got = tls_call_on(client, conn);
	assert_answered(&got);
	tls_hang_up(client, conn);
	tls_end_stop(client);
	tls_end_stop(server);
}

static bool
is_closed(int fd)
{
	struct timeval limit = {.tv_sec = WAIT_MS / 1000};
	char bytes[256];
	ssize_t n;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
		;
	bool closed = n == 0 || errno == ECONNRESET;
	close(fd);
	return closed;
}

/* Whether one that does finish it was served: on a slow machine an honest
 * handshake may come too late as well. */
static bool
drops_who_does_not_finish(int64_t within_ms)
{
	struct tls_end *server, *client;
	struct svc_tls_config tls = tls_of("server", "ca");
	tls_suite.handshake_ms = within_ms;
	server = tls_end_serve(&tls);
	tls_suite.handshake_ms = 0;
	int silent = connect_raw(server), half = connect_raw(server);
	assert_int_equal(
	    send(half, "\x16\x03\x01\x02\x00\x01", 6, MSG_NOSIGNAL), 6);
	assert_true(is_closed(silent));
	assert_true(is_closed(half));
	tls = tls_of("client", "ca");
	client = tls_end_start(&tls);
	struct tls_got got = tls_call(client, server);
	tls_end_stop(client);
	tls_end_stop(server);
	return got.answered;
}

static void
who_does_not_finish_a_handshake_is_dropped(void **state)
{
	(void)state;
	int64_t within_ms = 300;
	while (!drops_who_does_not_finish(within_ms)) {
		within_ms *= 2;
		assert_true(within_ms < WAIT_MS);
	}
}

static void
a_rush_of_handshakes_is_served(void **state)
{
	(void)state;
	enum { MANY = 64 };
	void *conns[MANY];
	struct tls_end *server, *client;
	struct svc_tls_config tls = tls_of("server", "ca");
	server = tls_end_serve(&tls);
	tls = tls_of("client", "ca");
	client = tls_end_start(&tls);
	const char *address = tls_end_address(server);
	void *kept = tls_dial(client, address, NULL);
	struct tls_got got = tls_call_on(client, kept);
	assert_answered(&got);
	for (int i = 0; i < MANY; i++)
		conns[i] = tls_dial(client, address, NULL);
	for (int i = 0; i < MANY; i++) {
		got = tls_call_on(client, kept);
		assert_answered(&got);
		got = tls_call_on(client, conns[i]);
		assert_answered(&got);
		tls_hang_up(client, conns[i]);
	}
	tls_hang_up(client, kept);
	tls_end_stop(client);
	tls_end_stop(server);
}

static void
a_server_that_closes_ends_its_connections(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		struct tls_end *server, *client;
		struct svc_tls_config tls = tls_of("server", "ca");
		server = tls_end_serve(&tls);
		tls = tls_of("client", "ca");
		client = tls_end_start(&tls);
		void *conn = tls_dial(client, tls_end_address(server), NULL);
		struct tls_got got = tls_call_on(client, conn);
		assert_answered(&got);
		server->ops->listener_destroy(server->listener);
		server->listener = NULL;
		got = tls_call_on(client, conn);
		assert_refused(&got, NULL);
		tls_hang_up(client, conn);
		tls_end_stop(client);
		tls_end_stop(server);
	}
}

int
svc_conformance_tls_handshake(const char *title)
{
	static const struct CMUnitTest tests[] = {
	    tls_test(half_handshakes_harm_nobody),
	    tls_test(who_does_not_finish_a_handshake_is_dropped),
	    tls_test(a_rush_of_handshakes_is_served),
	    tls_test(a_server_that_closes_ends_its_connections),
	};
	return cmocka_run_group_tests_name(title, tests, NULL, NULL);
}
