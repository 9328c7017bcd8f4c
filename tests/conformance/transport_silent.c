/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that fall silent, connections without streams, servers that stop. */
#include "conformance/transport_sides.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/lacks.h"

static const struct svc_conformance_transport *setup;

static const uint8_t hello[32] = {0xf5, 's', 'v', 'c', 1, 1, 32, 0, 0, 0, 16, 0,
    0, 16, 0, 0, 0, 0, 4, 0, 0, 0, 64, 0, 0, 0, 1, 0};

static int
listen_raw(char *address, size_t size)
{
	struct sockaddr_in in = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&in, len), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	snprintf(address, size, "127.0.0.1:%u", ntohs(in.sin_port));
	return fd;
}

static int
connect_raw(void)
{
	const char *address = sides.ops->listener_address(sides.listener);
	struct sockaddr_in in = {.sin_family = AF_INET,
	    .sin_port =
		htons((uint16_t)strtol(strrchr(address, ':') + 1, NULL, 10)),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval limit = {.tv_sec = WAIT_MS / 1000};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

/* Reads until the other side closes; false when it does not. */
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

static void
a_peer_that_falls_silent_is_noticed(void **state)
{
	(void)state;
	/* Long enough that a busy machine does not look dead. */
	static const struct svc_transport_limits limits = {
	    .keepalive_ms = 1000};
	if (!setup->sockets)
		test_lacks("sockets");
	sides_start(setup, &limits, &side_reads);
	/* A server that says hello, and then nothing. */
	char address[64];
	struct side mine;
	int listener = listen_raw(address, sizeof(address));
	void *conn = sides_dial(address);
	assert_int_equal(
	    side_open(conn, "echo", SVC_PART_MESSAGE | SVC_PART_END, "x", 1,
		&side_reads, &mine),
	    SVC_OK);
	int frozen = accept(listener, NULL, NULL);
	assert_true(frozen >= 0);
	assert_int_equal(
	    send(frozen, hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	AWAIT(mine.closed);
	assert_int_equal(mine.code, SVC_E_UNAVAILABLE);
	assert_false(mine.not_run);
	assert_true(mine.silent);
	assert_non_null(strstr(mine.text, "no sign of life from 127.0.0.1"));
	assert_non_null(strstr(mine.text, "1000 ms"));
	assert_true(is_closed(frozen));
	sides.ops->release(mine.stream, SVC_E_CANCELLED);
	sides.ops->conn_destroy(conn);
	close(listener);
	/* A client that opens a stream, and then says nothing; and one that
	 * begins a frame and does not end it. */
	static const uint8_t opened[29] = {13, 0, 0, 0, 1, 1, 13, 0, 1, 0, 0, 0,
	    0, 0, 0, 0, 0, 0, 0, 4, 0, 't', 'a', 'k', 'e', 0, 0, 0, 0};
	int mute = connect_raw(), slow = connect_raw();
	assert_int_equal(
	    send(mute, hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	assert_int_equal(send(mute, opened, 29, MSG_NOSIGNAL), 29);
	assert_int_equal(
	    send(slow, hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	assert_int_equal(send(slow, opened, 20, MSG_NOSIGNAL), 20);
	assert_true(is_closed(mute));
	assert_true(is_closed(slow));
	/* Who answers lives on, however long nothing else is said. */
	conn = sides_dial(sides.ops->listener_address(sides.listener));
	assert_int_equal(
	    side_open(conn, "take", 0, NULL, 0, &side_reads, &mine), SVC_OK);
	pthread_mutex_lock(&sides.mutex);
	int64_t until = svc_deadline(2500);
	while (svc_cond_wait(&sides.changed, &sides.mutex, until) == SVC_OK)
		;
	assert_false(mine.closed);
	pthread_mutex_unlock(&sides.mutex);
	sides.ops->release(mine.stream, SVC_E_CANCELLED);
	sides_stop(conn);
}

static void
an_idle_connection_is_closed_and_no_call_fails(void **state)
{
	(void)state;
	static const struct svc_transport_limits limits = {
	    .keepalive_ms = SVC_FOREVER,
	    .handshake_ms = 1000000,
	    .idle_ms = 10000};
	svc_clock_manual();
	sides_start(setup, &limits, &side_reads);
	void *conn = sides_dial(sides.ops->listener_address(sides.listener));
	/* Calls go on well until the connection says that it takes no more. */
	svc_err rc = SVC_OK;
	int calls = 0;
	while (rc == SVC_OK) {
		struct side mine;
		rc = side_open(conn, "echo", SVC_PART_MESSAGE | SVC_PART_END,
		    "x", 1, &side_reads, &mine);
		if (rc != SVC_OK)
			break;
		AWAIT(mine.ended || mine.closed);
		assert_true(mine.ended);
		sides.ops->release(mine.stream, SVC_E_CANCELLED);
		assert_true(++calls < 100000);
		/* Short of its idle time nothing happens to it. */
		if (calls < 50) {
			svc_clock_advance(500);
			continue;
		}
		/* Its timer finds that out in steps. */
		for (int i = 0; i < 100; i++)
			svc_clock_advance(500);
	}
	assert_int_equal(rc, SVC_E_CLOSED);
	assert_true(calls >= 50);
	sides.ops->conn_destroy(conn);
	conn = sides_dial(sides.ops->listener_address(sides.listener));
	struct side mine;
	assert_int_equal(
	    side_open(conn, "echo", SVC_PART_MESSAGE | SVC_PART_END, "x", 1,
		&side_reads, &mine),
	    SVC_OK);
	AWAIT(mine.ended);
	sides.ops->release(mine.stream, SVC_E_CANCELLED);
	sides_stop(conn);
	svc_clock_real();
}

/* An answer that was given is delivered, though its service stops at once. */
static void
a_stop_loses_no_answer(void **state)
{
	(void)state;
	enum { LEN = 3 << 20, STREAMS = 4 };
	static struct side mine[STREAMS];
	uint8_t *data = svc_mem_calloc(1, LEN);
	sides_start(setup, NULL, &side_reads);
	void *conn = sides_dial(sides.ops->listener_address(sides.listener));
	for (int i = 0; i < STREAMS; i++) {
		struct side *last = sides.accepted;
		assert_int_equal(side_open(conn, "take", SVC_PART_END, NULL, 0,
				     &side_reads, &mine[i]),
		    SVC_OK);
		AWAIT(sides.accepted != last || mine[i].closed);
		if (mine[i].closed)
			fail_msg("%s", mine[i].text);
	}
	sides.ops->drain(sides.listener);
	struct svc_part reply = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .data = data,
	    .len = LEN};
	while (sides.accepted != NULL) {
		struct side *side = sides.accepted;
		sides.accepted = side->next;
		assert_int_equal(
		    sides.ops->send(side->stream, &reply, NULL), SVC_OK);
		sides.ops->release(side->stream, SVC_OK);
		svc_mem_free(side);
	}
	sides.ops->listener_destroy(sides.listener);
	for (int i = 0; i < STREAMS; i++) {
		AWAIT(mine[i].ended || mine[i].closed);
		if (mine[i].closed)
			fail_msg("%s", mine[i].text);
		assert_int_equal(mine[i].bytes, LEN);
		sides.ops->release(mine[i].stream, SVC_E_CANCELLED);
	}
	sides.ops->conn_destroy(conn);
	sides.ops->destroy(sides.self);
	svc_executor_destroy(sides.executor);
	pthread_cond_destroy(&sides.changed);
	pthread_mutex_destroy(&sides.mutex);
	svc_mem_free(data);
}

int
svc_conformance_transport_silent(const struct svc_conformance_transport *with)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_peer_that_falls_silent_is_noticed),
	    cmocka_unit_test(an_idle_connection_is_closed_and_no_call_fails),
	    cmocka_unit_test(a_stop_loses_no_answer),
	};
	setup = with;
	return cmocka_run_group_tests_name(with->plugin, tests, NULL, NULL);
}
