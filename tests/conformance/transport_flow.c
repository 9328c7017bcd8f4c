/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of many and of large messages, slow readers. */
#include "conformance/transport_sides.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <svc/buf.h>

#include "support/lacks.h"

static const struct svc_conformance_transport *setup;

static svc_err
push(struct side *side, unsigned flags, uint32_t number, uint8_t *data,
    size_t len)
{
	struct svc_part part = {.flags = flags, .data = data, .len = len};
	if (len >= sizeof(number))
		memcpy(data, &number, sizeof(number));
	pthread_mutex_lock(&sides.mutex);
	side->room = false;
	pthread_mutex_unlock(&sides.mutex);
	return sides.ops->send(side->stream, &part, NULL);
}

/* What came is read: the peer may send as much again. */
static void
read_all(struct side *side)
{
	pthread_mutex_lock(&sides.mutex);
	size_t bytes = side->uncredited;
	side->uncredited = 0;
	pthread_mutex_unlock(&sides.mutex);
	sides.ops->credit(side->stream, bytes);
}

static bool
has_credit(void)
{
	return SVC_OPS_HAS(sides.ops, credit);
}

/* ------------------------------------------------------------------ the tests
 */

static void
a_slow_reader_stops_the_writer(void **state)
{
	(void)state;
	static const struct svc_transport_limits limits = {
	    .stream_window = 65536};
	enum { LEN = 1000, MESSAGES = 5000 };
	struct side mine;
	static uint8_t data[LEN];
	sides_start(setup, &limits, &side_keeps_many);
	if (!has_credit()) {
		sides_stop(NULL);
		test_lacks("credit");
	}
	void *conn = sides_dial(sides.ops->listener_address(sides.listener));
	assert_int_equal(
	    side_open(conn, "take", 0, NULL, 0, &side_reads, &mine), SVC_OK);
	AWAIT(sides.accepted != NULL);
	struct side *theirs = sides.accepted;
	uint32_t sent = 0;
	while (sent < MESSAGES) {
		uint32_t before = sent;
		/* Nobody reads: the window, and one message that waits. */
		while (sent < MESSAGES &&
		       push(&mine, SVC_PART_MESSAGE, sent, data, LEN) == SVC_OK)
			sent++;
		assert_true(sent - before <= 65536 / LEN + 2);
		/* It all arrives, and no more. */
		uint32_t least = sent > 2 ? sent - 2 : 0;
		if (sent == MESSAGES)
			break;
		AWAIT(theirs->count >= least);
		assert_true(side_look(theirs).uncredited <= 65536 + LEN);
		read_all(theirs);
		AWAIT(mine.room);
	}
	uint32_t count;
	while ((count = side_look(theirs).count) < MESSAGES) {
		read_all(theirs);
		AWAIT(theirs->count > count);
	}
	assert_int_equal(theirs->bytes, (uint64_t)MESSAGES * LEN);
	sides.ops->release(mine.stream, SVC_E_CANCELLED);
	sides_stop(conn);
}

/* Who sends many in a row may leave writing them to the loop, which leaves
 * none of them behind. */
static void
a_burst_arrives_though_nothing_follows(void **state)
{
	(void)state;
	enum { BURSTS = 40 };
	struct side mine;
	uint8_t data[100] = {0};
	sides_start(setup, NULL, &side_reads);
	void *conn = sides_dial(sides.ops->listener_address(sides.listener));
	assert_int_equal(
	    side_open(conn, "take", 0, NULL, 0, &side_reads, &mine), SVC_OK);
	AWAIT(sides.accepted != NULL);
	struct side *theirs = sides.accepted;
	for (int way = 0; way < 2; way++) {
		struct side *from = way == 0 ? &mine : theirs;
		struct side *to = way == 0 ? theirs : &mine;
		uint32_t sent = 0;
		for (uint32_t burst = 1; burst <= BURSTS; burst++) {
			for (uint32_t i = 0; i < burst; i++, sent++) {
				unsigned flags = SVC_PART_MESSAGE;
				if (way == 1 && sent == 0)
					flags |= SVC_PART_HEADERS;
				svc_err rc;
				/* Before the hello there is no credit. */
				while ((rc = push(from, flags, sent, data,
					    sizeof(data))) == SVC_E_AGAIN)
					AWAIT(from->room);
				assert_int_equal(rc, SVC_OK);
			}
			AWAIT(to->count == sent);
		}
	}
	sides.ops->release(mine.stream, SVC_E_CANCELLED);
	sides_stop(conn);
}

struct writer {
	pthread_t thread;
	struct side *side;
	uint32_t messages;
};

static void *
write_all(void *arg)
{
	struct writer *writer = arg;
	size_t most = 200000;
	uint8_t *data = svc_mem_calloc(1, most);
	for (uint32_t i = 0; i < writer->messages;) {
		size_t len = i % 50 == 7 ? most : i * 37 % 3000;
		svc_err rc = push(writer->side, SVC_PART_MESSAGE, i, data, len);
		if (rc == SVC_OK) {
			i++;
			continue;
		}
		assert_int_equal(rc, SVC_E_AGAIN);
		AWAIT(writer->side->room);
	}
	svc_mem_free(data);
	return NULL;
}

static void
both_sides_pour(const struct svc_transport_limits *limits,
    const struct svc_stream_events *events)
{
	enum { STREAMS = 3, MESSAGES = 300 };
	static struct side mine[STREAMS];
	struct side *theirs[STREAMS];
	struct writer writers[2 * STREAMS];
	sides_start(setup, limits, events);
	if (!has_credit()) {
		sides_stop(NULL);
		test_lacks("credit");
	}
	void *conn = sides_dial(sides.ops->listener_address(sides.listener));
	for (int i = 0; i < STREAMS; i++) {
		assert_int_equal(
		    side_open(conn, "take", 0, NULL, 0, events, &mine[i]),
		    SVC_OK);
		struct side *last = i > 0 ? theirs[i - 1] : NULL;
		AWAIT(sides.accepted != last);
		theirs[i] = sides.accepted;
	}
	for (int i = 0; i < 2 * STREAMS; i++) {
		writers[i].side = i % 2 == 0 ? &mine[i / 2] : theirs[i / 2];
		writers[i].messages = MESSAGES;
		assert_int_equal(svc_thread_start(&writers[i].thread, "writer",
				     write_all, &writers[i]),
		    SVC_OK);
	}
	/* One reader for all, which reads a message at a time. */
	for (bool all = false; !all;) {
		all = true;
		pthread_mutex_lock(&sides.mutex);
		uint64_t came = sides.came;
		pthread_mutex_unlock(&sides.mutex);
		for (int i = 0; i < 2 * STREAMS; i++) {
			struct side *side = writers[i].side;
			pthread_mutex_lock(&sides.mutex);
			all = all && side->count == MESSAGES;
			pthread_mutex_unlock(&sides.mutex);
			read_all(side);
		}
		if (!all)
			AWAIT(sides.came != came);
	}
	for (int i = 0; i < 2 * STREAMS; i++)
		svc_thread_join(writers[i].thread);
	for (int i = 0; i < STREAMS; i++) {
		assert_int_equal(mine[i].largest, 200000);
		assert_int_equal(theirs[i]->largest, 200000);
		assert_int_equal(mine[i].bytes, theirs[i]->bytes);
		sides.ops->release(mine[i].stream, SVC_E_CANCELLED);
	}
	sides_stop(conn);
}

static void
both_sides_pour_through_tiny_windows(void **state)
{
	(void)state;
	static const struct svc_transport_limits limits = {
	    .stream_window = 1024, .conn_window = 2048};
	both_sides_pour(&limits, &side_keeps);
	both_sides_pour(&limits, &side_keeps_many);
}

/* With room for many, they come many at a time. */
static void
both_sides_pour_through_wide_windows(void **state)
{
	(void)state;
	both_sides_pour(NULL, &side_keeps);
	both_sides_pour(NULL, &side_keeps_many);
}

static void
a_small_call_does_not_wait_for_a_huge_message(void **state)
{
	(void)state;
	enum { HUGE = 16 << 20 };
	struct side mine, small;
	uint8_t *data = svc_mem_calloc(1, HUGE);
	sides_start(setup, NULL, &side_keeps);
	if (!has_credit()) {
		svc_mem_free(data);
		sides_stop(NULL);
		test_lacks("credit");
	}
	void *conn = sides_dial(sides.ops->listener_address(sides.listener));
	assert_int_equal(
	    side_open(conn, "take", 0, NULL, 0, &side_reads, &mine), SVC_OK);
	AWAIT(sides.accepted != NULL);
	struct side *theirs = sides.accepted;
	assert_int_equal(push(&mine, SVC_PART_MESSAGE, 0, data, 10), SVC_OK);
	AWAIT(theirs->count == 1);
	/* The first is not read: so the second is under way until it is. */
	assert_int_equal(push(&mine, SVC_PART_MESSAGE, 1, data, HUGE), SVC_OK);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(
		    side_open(conn, "echo", SVC_PART_MESSAGE | SVC_PART_END,
			"\0\0\0\0hello", 9, &side_reads, &small),
		    SVC_OK);
		AWAIT(small.ended || small.closed);
		assert_true(small.ended);
		assert_int_equal(small.bytes, 9);
		sides.ops->release(small.stream, SVC_E_CANCELLED);
	}
	pthread_mutex_lock(&sides.mutex);
	assert_int_equal(theirs->count, 1);
	pthread_mutex_unlock(&sides.mutex);
	assert_int_equal(
	    push(&mine, SVC_PART_MESSAGE, 2, data, 10), SVC_E_AGAIN);
	read_all(theirs);
	AWAIT(theirs->count == 2);
	assert_int_equal(theirs->largest, HUGE);
	AWAIT(mine.room);
	sides.ops->release(mine.stream, SVC_E_CANCELLED);
	sides_stop(conn);
	svc_mem_free(data);
}

static void
trailers_arrive(void **state)
{
	(void)state;
	struct side mine;
	sides_start(setup, NULL, &side_reads);
	void *conn = sides_dial(sides.ops->listener_address(sides.listener));
	struct svc_headers *trailers = svc_headers_create();
	svc_headers_set(trailers, "sum", "4711");
	assert_int_equal(
	    side_open(conn, "take", 0, NULL, 0, &side_reads, &mine), SVC_OK);
	AWAIT(sides.accepted != NULL);
	struct side *theirs = sides.accepted;
	struct svc_part part = {.flags = SVC_PART_HEADERS};
	assert_int_equal(sides.ops->send(theirs->stream, &part, NULL), SVC_OK);
	part = (struct svc_part){.flags = SVC_PART_END,
	    .status = SVC_E_ABORTED,
	    .headers = trailers};
	assert_int_equal(sides.ops->send(theirs->stream, &part, NULL), SVC_OK);
	AWAIT(mine.ended);
	assert_string_equal(mine.trailer, "4711");
	assert_int_equal(mine.code, SVC_E_ABORTED);
	/* And the other way. */
	part.status = SVC_OK;
	assert_int_equal(sides.ops->send(mine.stream, &part, NULL), SVC_OK);
	AWAIT(theirs->ended);
	assert_string_equal(theirs->trailer, "4711");
	svc_headers_destroy(trailers);
	sides.ops->release(mine.stream, SVC_E_CANCELLED);
	sides_stop(conn);
}

static void
a_cut_does_not_wait_for_a_reader(void **state)
{
	(void)state;
	enum { SIZE = 60000 };
	struct side mine;
	sides_start(setup, NULL, &side_reads);
	if (!has_credit()) {
		sides_stop(NULL);
		test_lacks("credit");
	}
	uint8_t *data = svc_mem_calloc(1, SIZE);
	void *conn = sides_dial(sides.ops->listener_address(sides.listener));
	assert_int_equal(
	    side_open(conn, "take", 0, NULL, 0, &side_keeps, &mine), SVC_OK);
	AWAIT(sides.accepted != NULL);
	struct side *theirs = sides.accepted;
	struct svc_part part = {.flags = SVC_PART_HEADERS};
	assert_int_equal(sides.ops->send(theirs->stream, &part, NULL), SVC_OK);
	uint32_t sent = 0;
	while (push(theirs, SVC_PART_MESSAGE, sent, data, SIZE) == SVC_OK)
		sent++;
	/* The last one waits: it is dropped. */
	part = (struct svc_part){.flags = SVC_PART_END | SVC_PART_CUT,
	    .status = SVC_E_ABORTED,
	    .status_text = "cut"};
	assert_int_equal(sides.ops->send(theirs->stream, &part, NULL), SVC_OK);
	AWAIT(mine.ended || mine.closed);
	assert_int_equal(mine.code, SVC_E_ABORTED);
	assert_int_equal(mine.count, sent - 1);
	/* Nothing is left to wait for. */
	sides.accepted = NULL;
	sides.ops->release(theirs->stream, SVC_E_ABORTED);
	svc_mem_free(theirs);
	sides.ops->release(mine.stream, SVC_E_CANCELLED);
	svc_mem_free(data);
	sides_stop(conn);
}

int
svc_conformance_transport_flow(const struct svc_conformance_transport *with)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_slow_reader_stops_the_writer),
	    cmocka_unit_test(a_burst_arrives_though_nothing_follows),
	    cmocka_unit_test(both_sides_pour_through_tiny_windows),
	    cmocka_unit_test(both_sides_pour_through_wide_windows),
	    cmocka_unit_test(a_small_call_does_not_wait_for_a_huge_message),
	    cmocka_unit_test(trailers_arrive),
	    cmocka_unit_test(a_cut_does_not_wait_for_a_reader),
	};
	setup = with;
	return cmocka_run_group_tests_name(with->plugin, tests, NULL, NULL);
}
