/* SPDX-License-Identifier: Apache-2.0 */
/* A peer that does not keep to the protocol. */
#include "mux_test.h"

#include <time.h>

/* ------------------------------------------------------- a peer of our own */

static void
put(struct svc_buf *out, uint8_t type, uint8_t flags, uint32_t stream,
    uint32_t value, const void *head, uint16_t head_len, size_t body)
{
	struct frame frame = {.length = (uint32_t)(head_len + body),
	    .type = type,
	    .flags = flags,
	    .head = head_len,
	    .stream = stream,
	    .value = value};
	assert_int_equal(
	    svc_buf_reserve(out, FRAME_SIZE + head_len + body), SVC_OK);
	frame_put(out->data + out->len, &frame);
	out->len += FRAME_SIZE;
	if (head_len > 0)
		memcpy(out->data + out->len, head, head_len);
	memset(out->data + out->len + head_len, 0, body);
	out->len += head_len + body;
}

static void
put_hello(struct svc_buf *out, const struct svc_transport_limits *limits)
{
	struct hello hello = {.version = 1,
	    .oldest = 1,
	    .max_message = 1 << 20,
	    .max_streams = 100,
	    .stream_window = limits->stream_window,
	    .conn_window = limits->conn_window,
	    .piece = PIECE_MIN};
	uint8_t bytes[HELLO_SIZE];
	hello_encode(&hello, bytes);
	svc_buf_append(out, bytes, sizeof(bytes));
}

static const char open_head[] = "\1\0s\0\3\0E.e\0\0\0"; /* and its own zero */

static void
put_open(struct svc_buf *out, uint8_t flags, uint32_t stream, size_t body)
{
	put(out, FRAME_PART, flags | SVC_PART_HEADERS, stream, 0, open_head,
	    sizeof(open_head), body);
}

static const struct svc_transport_limits tight = {.stream_window = 2000,
    .conn_window = 5000,
    .max_message = 100000,
    .max_headers = 100,
    .max_streams = 3};

/* What a server answers to these bytes: SVC_MUX_FAILED with this text, or NULL
 * when it goes on. */
static void
expect(void (*say)(struct svc_buf *out), const char *text)
{
	for (size_t step = 0; step < 2; step++) {
		struct end server;
		n_served = 0;
		server_holds = true;
		begin(&server, true, &tight);
		flush(&server.mux);
		put_hello(&server.in, &tight);
		say(&server.in);
		while (server.in.len > 0 && server.result == SVC_MUX_OK) {
			size_t before = server.in.len;
			read_some(&server, step == 0 ? SIZE_MAX : 300000);
			if (server.in.len == before)
				break;
		}
		assert_int_equal(
		    server.result, text ? SVC_MUX_FAILED : SVC_MUX_OK);
		if (text != NULL && strstr(server.err.text, text) == NULL)
			fail_msg("said: %s", server.err.text);
		svc_mux_fail(&server.mux, SVC_E_UNAVAILABLE, "broken");
		svc_mux_close_streams(&server.mux);
		for (size_t i = 0; i < n_served && i < 64; i++)
			if (served[i].stream != NULL)
				let_go(&served[i]);
		end_finish(&server);
	}
}

static void
say_too_much_on_a_stream(struct svc_buf *out)
{
	put_open(out, 0, 1, 0);
	for (int i = 0; i < 4; i++)
		put(out, FRAME_PART, SVC_PART_MESSAGE, 1, 0, NULL, 0, 800);
}

static void
say_too_much_on_a_connection(struct svc_buf *out)
{
	for (uint32_t id = 1; id <= 3; id++)
		put_open(out, 0, id, 0);
	for (int i = 0; i < 9; i++)
		put(out, FRAME_PART, SVC_PART_MESSAGE, 1 + (uint32_t)i % 3, 0,
		    NULL, 0, 600);
}

static void
say_too_much_to_a_dead_stream(struct svc_buf *out)
{
	for (uint32_t id = 1; id <= 3; id++)
		put_open(out, 0, id, 0);
	for (int i = 0; i < 9; i++)
		put(out, FRAME_PART, SVC_PART_MESSAGE, 1 + (uint32_t)i % 3, 0,
		    NULL, 0, 600);
	put(out, FRAME_PART, SVC_PART_MESSAGE, 99, 0, NULL, 0, 600);
}

static void
say_more_and_end(struct svc_buf *out)
{
	put_open(out, SVC_PART_MESSAGE | SVC_PART_END | FRAME_MORE, 1, 10);
}

static void
say_empty_piece(struct svc_buf *out)
{
	put_open(out, SVC_PART_MESSAGE | FRAME_MORE, 1, 0);
}

static void
say_only_more(struct svc_buf *out)
{
	put(out, FRAME_PART, FRAME_MORE, 1, 0, NULL, 0, 0);
}

static void
say_unknown_flag(struct svc_buf *out)
{
	put_open(out, SVC_PART_MESSAGE | 0x40, 1, 3);
}

static void
say_unknown_flag_of_window(struct svc_buf *out)
{
	put(out, FRAME_WINDOW, FRAME_GRANT << 1, 0, 5, NULL, 0, 0);
}

static void
say_unknown_flag_of_reset(struct svc_buf *out)
{
	put(out, FRAME_RESET, FRAME_NOT_RUN | 1, 77, 1, NULL, 0, 0);
}

static void
say_unknown_flag_of_ping(struct svc_buf *out)
{
	put(out, FRAME_PING, 1, 0, 0, NULL, 0, 0);
}

static void
say_body_without_message(struct svc_buf *out)
{
	put_open(out, SVC_PART_END, 1, 3);
}

static void
say_huge_piece(struct svc_buf *out)
{
	put_open(out, SVC_PART_MESSAGE | SVC_PART_END, 1, PIECE + 1);
}

static void
say_end_between_pieces(struct svc_buf *out)
{
	put_open(out, SVC_PART_MESSAGE | FRAME_MORE, 1, 10);
	put(out, FRAME_PART, SVC_PART_END, 1, 0, NULL, 0, 0);
}

static void
say_head_between_pieces(struct svc_buf *out)
{
	put_open(out, SVC_PART_MESSAGE | FRAME_MORE, 1, 10);
	put(out, FRAME_PART, SVC_PART_MESSAGE, 1, 0, "\0\0", 3, 10);
}

static void
say_part_after_end(struct svc_buf *out)
{
	put_open(out, SVC_PART_END, 1, 0);
	put(out, FRAME_PART, SVC_PART_MESSAGE, 1, 0, NULL, 0, 10);
}

static void
say_open_twice(struct svc_buf *out)
{
	put_open(out, 0, 2, 0);
	put_open(out, 0, 2, 0);
}

static void
say_credit_of_nothing(struct svc_buf *out)
{
	put(out, FRAME_WINDOW, 0, 0, 0, NULL, 0, 0);
}

static void
say_endless_credit(struct svc_buf *out)
{
	put_open(out, 0, 1, 0);
	put(out, FRAME_WINDOW, 0, 1, UINT32_MAX, NULL, 0, 0);
}

static void
say_endless_credit_to_all(struct svc_buf *out)
{
	put(out, FRAME_WINDOW, 0, 0, UINT32_MAX, NULL, 0, 0);
}

static void
say_unknown_type(struct svc_buf *out)
{
	put(out, 7, 0, 1, 0, NULL, 0, 0);
}

static void
say_malformed_end(struct svc_buf *out)
{
	put_open(out, SVC_PART_MESSAGE | FRAME_MORE, 1, 10);
	put(out, FRAME_PART, SVC_PART_MESSAGE | SVC_PART_END, 1, 0, "\3\0abc",
	    6, 10);
}

/* Allowed: what has ended, credit for nobody, a last piece without bytes. */
static void
say_odd_but_right(struct svc_buf *out)
{
	put(out, FRAME_RESET, 0, 77, 1, "gone", 0, 4);
	put(out, FRAME_WINDOW, 0, 99, 5, NULL, 0, 0);
	put(out, FRAME_PONG, 0, 0, 5, NULL, 0, 0);
	put(out, FRAME_DRAIN, 0, 5, 0, NULL, 0, 0);
	put(out, FRAME_PART, SVC_PART_MESSAGE | SVC_PART_END, 50, 0, NULL, 0,
	    5);
	put_open(out, SVC_PART_MESSAGE | FRAME_MORE, 1, 10);
	put(out, FRAME_PART, SVC_PART_MESSAGE | SVC_PART_END, 1, 0, NULL, 0, 0);
}

static void
violations_are_found(void **state)
{
	(void)state;
	expect(say_odd_but_right, NULL);
	expect(say_too_much_on_a_stream, "more than it had credit for");
	expect(say_too_much_on_a_connection, "more than it had credit for");
	expect(say_too_much_to_a_dead_stream, "more than it had credit for");
	expect(say_more_and_end, "says there is more");
	expect(say_empty_piece, "says there is more");
	expect(say_only_more, "flags that are not allowed");
	expect(say_unknown_flag, "flags that are not allowed");
	expect(say_unknown_flag_of_window, "flags that are not allowed");
	expect(say_unknown_flag_of_reset, "flags that are not allowed");
	expect(say_unknown_flag_of_ping, "flags that are not allowed");
	expect(say_body_without_message, "a body without a message");
	expect(say_huge_piece, "a piece that is too large");
	expect(say_end_between_pieces, "between the pieces");
	expect(say_head_between_pieces, "between the pieces");
	expect(say_part_after_end, "after a stream's end");
	expect(say_open_twice, "out of order");
	expect(say_credit_of_nothing, "a credit of 0");
	expect(say_endless_credit, "more credit than there can be");
	expect(say_endless_credit_to_all, "more credit than there can be");
	expect(say_unknown_type, "an unknown type");
	expect(say_malformed_end, "malformed header");
}

/* Counts the frames of a kind that the server sent. */
static uint32_t
answers(struct svc_buf *out, uint8_t type, struct frame *ret_last, char *text)
{
	uint32_t n = 0;
	for (size_t at = HELLO_SIZE; at + FRAME_SIZE <= out->len;) {
		struct frame frame;
		frame_decode(out->data + at, &frame);
		if (frame.type == type) {
			n++;
			*ret_last = frame;
			memcpy(text, out->data + at + FRAME_SIZE, frame.length);
			text[frame.length] = 0;
		}
		at += FRAME_SIZE + frame.length;
	}
	return n;
}

static void
limits_end_one_stream(void **state)
{
	(void)state;
	struct end server, peer = {0};
	struct frame frame;
	char text[1100];
	n_served = 0;
	server_holds = false;
	begin(&server, true, &tight);
	svc_buf_init(&peer.in, SIZE_MAX / 2);
	server.other = &peer;
	put_hello(&server.in, &tight);
	/* A message of 100,000 bytes is the largest. It is granted more than
	 * the window as it comes. */
	put_open(&server.in, SVC_PART_MESSAGE | FRAME_MORE, 1, 65536);
	read_some(&server, SIZE_MAX);
	put(&server.in, FRAME_PART, SVC_PART_MESSAGE | FRAME_MORE, 1, 0, NULL,
	    0, 100000 - 65536);
	read_some(&server, SIZE_MAX);
	assert_int_equal(server.result, SVC_MUX_OK);
	assert_true(answers(&peer.in, FRAME_WINDOW, &frame, text) > 0);
	assert_int_equal(answers(&peer.in, FRAME_RESET, &frame, text), 0);
	put(&server.in, FRAME_PART, SVC_PART_MESSAGE, 1, 0, NULL, 0, 1);
	read_some(&server, SIZE_MAX);
	assert_int_equal(server.result, SVC_MUX_OK);
	assert_int_equal(answers(&peer.in, FRAME_RESET, &frame, text), 1);
	assert_int_equal(frame.stream, 1);
	assert_int_equal(frame.value, SVC_E_EXHAUSTED);
	assert_int_equal(frame.flags, FRAME_NOT_RUN);
	assert_non_null(strstr(text, "--max_message_size"));
	assert_int_equal(server.mux.n_held, 0);
	assert_int_equal(server.mux.loaned, 0);
	/* A head above the limit. */
	char head[200] = {0};
	put(&server.in, FRAME_PART, SVC_PART_HEADERS | SVC_PART_END, 2, 0, head,
	    101, 0);
	/* The limit of streams counts those whose holder has not let go: a
	 * flood of streams reset at once runs no more handlers than that. */
	for (uint32_t id = 10; id < 1000; id++) {
		put_open(&server.in, SVC_PART_END, id, 0);
		put(&server.in, FRAME_RESET, 0, id, 1, NULL, 0, 0);
	}
	read_some(&server, SIZE_MAX);
	/* A head like that may be malformed as well. */
	if (server.result != SVC_MUX_OK)
		fail_msg("%s", server.err.text);
	assert_int_equal(n_served, 3);
	assert_int_equal(
	    answers(&peer.in, FRAME_RESET, &frame, text), 1 + 1 + 990 - 3);
	assert_int_equal(frame.flags, FRAME_NOT_RUN);
	for (int i = 0; i < 3; i++) {
		assert_true(served[i].closed || served[i].ended);
		let_go(&served[i]);
	}
	svc_buf_fini(&peer.in);
	end_finish(&server);
}

static void
floods_end_a_connection_that_does_not_read(void **state)
{
	(void)state;
	/* A server stops reading. */
	struct end server, client;
	n_served = 0;
	begin(&server, true, &tight);
	server.mux.config.ops = &holding;
	put_hello(&server.in, &tight);
	for (int i = 0; i < 300000; i++)
		put(&server.in, FRAME_PING, 0, 0, 0, NULL, 0, 0);
	size_t at = 0;
	assert_int_equal(svc_mux_input(&server.mux, server.in.data,
			     server.in.len, &at, &server.err),
	    SVC_MUX_YIELD);
	assert_true(svc_mux_backlog(&server.mux) < 2 * BACKLOG);
	end_finish(&server);
	/* A client never stops: so its server loses the connection. */
	begin(&client, false, &tight);
	client.mux.config.ops = &holding;
	put_hello(&client.in, &tight);
	for (int i = 0; i < 300000; i++)
		put(&client.in, FRAME_PING, 0, 0, 0, NULL, 0, 0);
	at = 0;
	svc_mux_input(
	    &client.mux, client.in.data, client.in.len, &at, &client.err);
	assert_true(svc_mux_failed(&client.mux));
	assert_true(client.closed);
	assert_non_null(strstr(client.mux.failure.text, "than it reads"));
	end_finish(&client);
}

/* Of each 4096th stream, which is what a table of so many would put together:
 * whoever chooses the numbers must not choose how long they are looked for. */
static void
numbers_that_were_chosen_do_not_meet(void **state)
{
	(void)state;
	enum { STREAMS = 1000, LONGEST = 20 };
	static const struct svc_transport_limits limits = {
	    .stream_window = 2000, .conn_window = 2000};
	struct end server;
	n_served = 0;
	begin(&server, true, &limits);
	put_hello(&server.in, &limits);
	for (uint32_t i = 1; i <= STREAMS; i++)
		put(&server.in, FRAME_PART,
		    SVC_PART_HEADERS | SVC_PART_MESSAGE | FRAME_MORE, 4096 * i,
		    0, open_head, sizeof(open_head), 1);
	read_some(&server, SIZE_MAX);
	assert_int_equal(server.mux.n_streams, STREAMS);
	for (uint32_t i = 0; i < server.mux.n_buckets; i++) {
		int length = 0;
		for (const struct svc_mux_stream *stream =
			 server.mux.buckets[i];
		     stream != NULL; stream = stream->next)
			length++;
		assert_true(length <= LONGEST);
	}
	end_finish(&server);
}

static void
end_by_closing(struct svc_mux *mux)
{
	svc_mux_fail(mux, SVC_E_UNAVAILABLE, "broken");
	svc_mux_close_streams(mux);
}

/* What this thread worked to end so many streams, in ns; the least of some. */
static int64_t
work_to_end(uint32_t streams, void (*end)(struct svc_mux *mux))
{
	const struct svc_transport_limits limits = {.stream_window = 2000,
	    .conn_window = 2 * streams,
	    .max_streams = streams};
	int64_t least = INT64_MAX;
	for (int i = 0; i < 3; i++) {
		struct end server;
		struct timespec from, to;
		begin(&server, true, &limits);
		put_hello(&server.in, &limits);
		for (uint32_t id = 1; id <= streams; id++)
			put(&server.in, FRAME_PART,
			    SVC_PART_HEADERS | SVC_PART_MESSAGE | FRAME_MORE,
			    id, 0, open_head, sizeof(open_head), 1);
		read_some(&server, SIZE_MAX);
		assert_int_equal(server.mux.n_streams, streams);
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
		end(&server.mux);
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
		assert_int_equal(server.mux.n_streams, 0);
		int64_t ns = (to.tv_sec - from.tv_sec) * 1000000000 +
			     (to.tv_nsec - from.tv_nsec);
		least = ns < least ? ns : least;
		end_finish(&server);
	}
	return least;
}

/* All that one connection may have: a walk through the table for each would
 * take 64 times as long for each of 64 times as many. */
static void
many_streams_end_in_one_walk(void **state)
{
	(void)state;
	enum { FEW = 1024, TIMES = 64, MOST = 16 };
	static void (*const ends[])(struct svc_mux * mux) = {
	    end_by_closing, svc_mux_drain};
	for (size_t i = 0; i < 2; i++) {
		int64_t few = work_to_end(FEW, ends[i]);
		int64_t many = work_to_end(FEW * TIMES, ends[i]);
		assert_true(many < few * TIMES * MOST);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(violations_are_found),
	    cmocka_unit_test(limits_end_one_stream),
	    cmocka_unit_test(floods_end_a_connection_that_does_not_read),
	    cmocka_unit_test(numbers_that_were_chosen_do_not_meet),
	    cmocka_unit_test(many_streams_end_in_one_walk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
