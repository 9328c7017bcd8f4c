/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"

#include <support/scarce.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <svc/clock.h>
#include <svc/log.h>
#include <sys/socket.h>
#include <unistd.h>

/* A server that echoes, and one good client of it. */
static struct {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *listener, *conn;
} here;

static void
echo(struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	(void)arg;
	struct svc_part reply = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .data = first->data,
	    .len = first->len};
	stream->ops->send(stream, &reply, NULL);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static int
set_up(void **state)
{
	(void)state;
	const void *ops;
	struct svc_error err;
	if (svc_catalogue_find(&svc_transport_interface, "tcp", &ops, &err) !=
		SVC_OK ||
	    svc_executor_create(NULL, &here.executor, &err) != SVC_OK)
		return -1;
	here.ops = ops;
	struct svc_transport_config config = {.executor = here.executor,
	    .limits.handshake_ms = 1000,
	    .limits.max_message = 1 << 20};
	if (here.ops->create(&config, &here.self, &err) != SVC_OK ||
	    here.ops->listen(here.self, "127.0.0.1:0", echo, NULL,
		&here.listener, &err) != SVC_OK ||
	    here.ops->dial(here.self, here.ops->listener_address(here.listener),
		5000, &here.conn, &err) != SVC_OK)
		return -1;
	return 0;
}

static int
tear_down(void **state)
{
	(void)state;
	here.ops->conn_destroy(here.conn);
	here.ops->listener_destroy(here.listener);
	here.ops->destroy(here.self);
	svc_executor_destroy(here.executor);
	return 0;
}

static void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	*(bool *)stream->user = part->len == 5;
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)stream;
	(void)end;
}

static bool
good_client_is_served(void)
{
	static const struct svc_stream_events events = {
	    .part = on_part, .closed = on_closed};
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "s",
	    .endpoint = "E.e",
	    .timeout_ms = SVC_FOREVER,
	    .data = "hello",
	    .len = 5};
	struct svc_stream_handle *stream;
	bool good = false;
	if (here.ops->open(here.conn, &first, SVC_OPEN_WAIT, &events, &good,
		&stream, NULL) != SVC_OK)
		return false;
	here.ops->wait(stream, svc_deadline(10000));
	here.ops->release(stream, SVC_E_CANCELLED);
	return good;
}

static int
connect_raw(void)
{
	const char *address = here.ops->listener_address(here.listener);
	struct sockaddr_in in = {.sin_family = AF_INET,
	    .sin_port =
		htons((uint16_t)strtol(strrchr(address, ':') + 1, NULL, 10)),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = 10};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

/* Whether the server ends the connection, whatever it says before. */
static bool
is_closed(int fd)
{
	char bytes[256];
	ssize_t n;
	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
		;
	close(fd);
	return n == 0 || errno == ECONNRESET;
}

/* 1 MiB messages, 4,096 streams, windows of 256 KiB and 4 MiB, 64 KiB pieces */
#define HELLO                                       \
	"\xf5svc\x01\x01\x20\0\0\0\x10\0\0\x10\0\0" \
	"\0\0\x04\0\0\0\x40\0\0\0\x01\0\0\0\0\0"

static void
strangers_lose_only_their_own_connection(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		size_t len;
	} said[] = {
#define SAY(text) {text, sizeof(text) - 1}
	    SAY("GET / HTTP/1.1\r\nHost: student\r\n\r\n"),
	    SAY("\x16\x03\x01\x02\0\x01\0"),            /* TLS */
	    SAY("\xf5svc\x09\x09\x20\0\0\0\0\0\0\0\0\0" /* version 9 */
		"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
	    SAY("\xf5svc\x01\x01\xff\xff\0\0\0\0\0\0\0\0"
		"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
	    SAY(HELLO "\0\0\0\0\x63\0\0\0\x01\0\0\0\0\0\0\0"), /* type 99 */
	    SAY(HELLO "\x05\0\0\0\x01\x07\xff\0\x01\0\0\0\0\0\0\0hello"),
	    SAY(HELLO "\x05\0\0\0\x01\x07\x05\0\x01\0\0\0\0\0\0\0hello"),
	    SAY(HELLO "\xff\xff\xff\xff\x04\0\0\0\x01\0\0\0\0\0\0\0"),
	    SAY(HELLO "\0\0\0\0\x01\x01\0\0\0\0\0\0\0\0\0\0"), /* stream 0 */
	};
	for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++) {
		int fd = connect_raw();
		assert_int_equal(
		    send(fd, said[i].bytes, said[i].len, MSG_NOSIGNAL),
		    said[i].len);
		assert_true(is_closed(fd));
		assert_true(good_client_is_served());
	}
}

static void
a_peer_without_a_hello_is_dropped(void **state)
{
	(void)state;
	int silent = connect_raw(), slow = connect_raw();
	assert_int_equal(send(slow, HELLO, 3, MSG_NOSIGNAL), 3);
	assert_true(is_closed(silent));
	assert_true(is_closed(slow));
	assert_true(good_client_is_served());
}

static atomic_int lines;

static void
count_lines(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "tcp.protocol") == 0)
		atomic_fetch_add(&lines, 1);
}

static void
stranger_comes(void)
{
	int fd = connect_raw();
	assert_int_equal(send(fd, "GET / ", 6, MSG_NOSIGNAL), 6);
	assert_true(is_closed(fd));
}

static void
strangers_do_not_fill_the_log(void **state)
{
	tear_down(state); /* its threads wait by the other clock */
	svc_clock_manual();
	svc_clock_advance(1000);
	assert_int_equal(set_up(state), 0);
	svc_log_set_sink(count_lines, NULL);
	for (int i = 0; i < 100; i++)
		stranger_comes();
	assert_int_equal(lines, SVC_LOG_BURST);
	/* How many were left out, and the next one. */
	svc_clock_advance(1000);
	stranger_comes();
	assert_int_equal(lines, SVC_LOG_BURST + 2);
	svc_log_set_sink(NULL, NULL);
	assert_true(good_client_is_served());
	tear_down(state);
	svc_clock_real();
	assert_int_equal(set_up(state), 0);
}

static atomic_int full_lines;

static void
count_full(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "tcp.full") == 0 &&
	    strstr(line->text, "--max_connections") != NULL)
		atomic_fetch_add(&full_lines, 1);
}

/* Whether it is greeted; the listener closes those that are too many. */
static bool
is_greeted(int fd)
{
	char hello[32];
	return recv(fd, hello, sizeof(hello), MSG_WAITALL) == sizeof(hello);
}

static void
connections_beyond_the_limit_are_closed(void **state)
{
	(void)state;
	struct svc_transport_config config = {
	    .executor = here.executor, .limits.max_connections = 2};
	void *self, *listener, *before = here.listener;
	assert_int_equal(here.ops->create(&config, &self, NULL), SVC_OK);
	assert_int_equal(
	    here.ops->listen(self, "127.0.0.1:0", echo, NULL, &listener, NULL),
	    SVC_OK);
	here.listener = listener;
	int first = connect_raw(), second = connect_raw();
	assert_true(is_greeted(first));
	assert_true(is_greeted(second));
	svc_log_set_sink(count_full, NULL);
	for (int i = 0; i < 1000; i++)
		assert_true(is_closed(connect_raw()));
	svc_log_set_sink(NULL, NULL);
	assert_true(full_lines > 0);
	/* When one has gone there is room for one. */
	close(first);
	int64_t deadline = svc_deadline(10000);
	bool greeted = false;
	while (!greeted && svc_remaining(deadline) > 0) {
		int fd = connect_raw();
		greeted = is_greeted(fd);
		close(fd);
	}
	assert_true(greeted);
	close(second);
	here.listener = before;
	here.ops->listener_destroy(listener);
	here.ops->destroy(self);
}

/* It ends its connections, which would stay else, and waits for them. */
static void
a_listener_ends_without_memory(void **state)
{
	tear_down(state); /* no threads while the hook is set */
	scarce_begin();
	assert_int_equal(set_up(state), 0);
	assert_true(good_client_is_served());
	scarce_at(0);
	here.ops->listener_destroy(here.listener);
	scarce_at(-1);
	assert_false(good_client_is_served());
	here.ops->conn_destroy(here.conn);
	here.ops->destroy(here.self);
	svc_executor_destroy(here.executor);
	scarce_end();
	assert_int_equal(set_up(state), 0);
}

static void
half_frames_and_sudden_ends_harm_nobody(void **state)
{
	(void)state;
	static const char request[] =
	    HELLO "\x18\0\0\0\x01\x07\x13\0\x01\0\0\0\0\0\0\0"
		  "\x01\0s\0\x03\0E.e\0\0\0\0hello1234";
	for (size_t len = 0; len < sizeof(request) - 1; len++) {
		int fd = connect_raw();
		if (len > 0)
			assert_int_equal(
			    send(fd, request, len, MSG_NOSIGNAL), len);
		struct linger reset = {1, 0};
		if (len % 2 == 0)
			setsockopt(
			    fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
	assert_true(good_client_is_served());
}

static void
who_does_not_read_is_not_read_from(void **state)
{
	(void)state;
	/* Requests of 64 KiB whose answers nobody reads: at some point the
	 * server stops to take more, so a writer that never blocks for long
	 * comes to an end of what it can send. */
	int fd = connect_raw();
	struct timeval limit = {.tv_usec = 500000};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	assert_int_equal(send(fd, HELLO, 32, MSG_NOSIGNAL), 32);
	static uint8_t request[16 + 13 + 65536];
	uint32_t length = 13 + 65536;
	size_t sent = 0, cap = (size_t)512 << 20;
	for (uint32_t id = 1; sent < cap; id++) {
		memcpy(request, &length, 4);
		memcpy(request + 4, "\x01\x07\x0d\0", 4);
		memcpy(request + 8, &id, 4);
		memcpy(request + 16, "\x01\0s\0\x03\0E.e\0\0\0\0", 13);
		size_t at = 0;
		while (at < sizeof(request)) {
			ssize_t n = send(fd, request + at, sizeof(request) - at,
			    MSG_NOSIGNAL);
			if (n <= 0)
				break;
			at += (size_t)n;
		}
		sent += at;
		if (at < sizeof(request))
			break;
	}
	assert_true(sent < cap);
	assert_true(good_client_is_served());
	close(fd);
}

static void
a_host_is_dialled_by_its_name(void **state)
{
	(void)state;
	void *listener, *conn, *numeric = here.conn;
	char address[32];
	assert_int_equal(
	    here.ops->listen(here.self, ":0", echo, NULL, &listener, NULL),
	    SVC_OK);
	snprintf(address, sizeof(address), "localhost%s",
	    strrchr(here.ops->listener_address(listener), ':'));
	assert_int_equal(
	    here.ops->dial(here.self, address, 5000, &conn, NULL), SVC_OK);
	here.conn = conn;
	assert_true(good_client_is_served());
	here.conn = numeric;
	here.ops->conn_destroy(conn);
	here.ops->listener_destroy(listener);
}

int
main(void)
{
	static const struct svc_conformance_transport setup = {
	    .plugin = "tcp",
	    .address = "127.0.0.1:0",
	    .nobody = "127.0.0.1:1",
	    .bad = "127.0.0.1",
	    .sockets = true,
	};
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(strangers_lose_only_their_own_connection),
	    cmocka_unit_test(strangers_do_not_fill_the_log),
	    cmocka_unit_test(a_peer_without_a_hello_is_dropped),
	    cmocka_unit_test(connections_beyond_the_limit_are_closed),
	    cmocka_unit_test(a_listener_ends_without_memory),
	    cmocka_unit_test(half_frames_and_sudden_ends_harm_nobody),
	    cmocka_unit_test(who_does_not_read_is_not_read_from),
	    cmocka_unit_test(a_host_is_dialled_by_its_name),
	};
	int failed = svc_conformance_transport(&setup);
	return failed +
	       cmocka_run_group_tests_name("tcp", tests, set_up, tear_down);
}
