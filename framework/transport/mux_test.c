/* SPDX-License-Identifier: Apache-2.0 */
/* The protocol engine by itself: two ends whose bytes the test carries, or one
 * end and a peer that the test plays. There is no loop and no other thread. */
#include "mux_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct end {
	struct svc_mux mux;
	struct end *other;
	struct svc_buf in; /* bytes that the other side sent */
	uint64_t came;     /* all of them */
	svc_mux_result result;
	struct svc_error err;
	bool closed, freed;
};

/* What a stream's holder saw. */
struct seen {
	struct svc_stream_handle *stream;
	uint32_t parts, messages, writable;
	uint64_t bytes;
	size_t last_len;
	uint8_t last_byte;
	bool ended, closed, not_run, answers;
	svc_err code;
	char text[160], trailer[32], header[32];
};
static struct seen served[64]; /* of streams that were accepted, in order */
static size_t n_served;
static bool server_holds;

static void
flush(struct svc_mux *mux)
{
	struct end *end = (struct end *)(void *)mux;
	struct svc_buf out;
	svc_buf_init(&out, SIZE_MAX / 2);
	while (svc_mux_begin_flush(mux, &out)) {
		if (end->other != NULL)
			svc_buf_append(&end->other->in, out.data, out.len);
		end->came += out.len;
		svc_mux_end_flush(mux, &out, out.len);
	}
	svc_buf_fini(&out);
}

static void
held(struct svc_mux *mux)
{
	(void)mux;
}

static void
freed(struct svc_mux *mux)
{
	((struct end *)(void *)mux)->freed = true;
}

static void
closed(struct svc_mux *mux)
{
	((struct end *)(void *)mux)->closed = true;
}

static const struct svc_mux_ops flushing = {
    .flush = flush, .free = freed, .close = closed};
/* The socket is full. */
static const struct svc_mux_ops holding = {
    .flush = held, .free = freed, .close = closed};

static void
saw_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct seen *seen = stream->user;
	seen->parts++;
	if (part->flags & SVC_PART_HEADERS) {
		const char *value = svc_headers_get(part->headers, "h");
		snprintf(seen->header, sizeof(seen->header), "%s",
		    value != NULL ? value : "");
	} else if (part->flags & SVC_PART_END) {
		const char *value = svc_headers_get(part->headers, "t");
		snprintf(seen->trailer, sizeof(seen->trailer), "%s",
		    value != NULL ? value : "");
	}
	if (part->flags & SVC_PART_MESSAGE) {
		const uint8_t *data = part->data;
		seen->messages++;
		seen->bytes += part->len;
		seen->last_len = part->len;
		seen->last_byte = part->len > 0 ? data[part->len - 1] : 0;
		for (size_t i = 0; i + 1 < part->len; i += 4093)
			assert_int_equal(data[i], (uint8_t)(i / 4093));
	}
	if (part->flags & SVC_PART_END) {
		assert_false(seen->ended);
		seen->ended = true;
		seen->code = part->status;
	}
}

static void
saw_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct seen *seen = stream->user;
	assert_false(seen->closed);
	seen->closed = true;
	seen->not_run = end->not_run;
	seen->code = end->code;
	snprintf(seen->text, sizeof(seen->text), "%s", end->text);
}

static void
saw_writable(struct svc_stream_handle *stream)
{
	((struct seen *)stream->user)->writable++;
}

static const struct svc_stream_events events = {
    .part = saw_part, .closed = saw_closed, .writable = saw_writable};
static const struct svc_stream_events holder = {.part = saw_part,
    .closed = saw_closed,
    .writable = saw_writable,
    .holds = true};

static void
accept_stream(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	(void)arg;
	struct seen *seen = &served[n_served++ % 64];
	memset(seen, 0, sizeof(*seen));
	seen->stream = stream;
	stream->user = seen;
	stream->events = server_holds ? &holder : &events;
	saw_part(stream, first);
}

static void
begin(struct end *end, bool server, const struct svc_transport_limits *limits)
{
	static const struct svc_transport_ops transport = {.name = "test"};
	struct svc_mux_config config = {.ops = &flushing,
	    .transport = &transport,
	    .server = server,
	    .accept = accept_stream};
	if (limits != NULL)
		config.limits = *limits;
	memset(end, 0, sizeof(*end));
	svc_buf_init(&end->in, SIZE_MAX / 2);
	assert_int_equal(
	    svc_mux_init(&end->mux, &config, server ? "client" : "server"),
	    SVC_OK);
}

static void
pair(struct end *client, struct end *server,
    const struct svc_transport_limits *limits)
{
	n_served = 0;
	server_holds = false;
	begin(client, false, limits);
	begin(server, true, limits);
	client->other = server;
	server->other = client;
	flush(&client->mux);
	flush(&server->mux);
}

static void
end_finish(struct end *end)
{
	svc_mux_fail(&end->mux, SVC_E_UNAVAILABLE, "the end");
	svc_mux_close_streams(&end->mux);
	svc_mux_unref(&end->mux);
	assert_true(end->freed);
	svc_mux_fini(&end->mux);
	svc_buf_fini(&end->in);
}

/* Reads at most `most` bytes, or what a whole frame needs. */
static void
read_some(struct end *end, size_t most)
{
	size_t at = 0, len = 0;
	while (end->result == SVC_MUX_OK && at == 0) {
		size_t need = svc_mux_need(&end->mux);
		size_t next = most > need ? most : need;
		if (next > end->in.len)
			next = end->in.len;
		if (next <= len)
			break;
		len = next;
		end->result =
		    svc_mux_input(&end->mux, end->in.data, len, &at, &end->err);
	}
	svc_buf_consume(&end->in, at);
	flush(&end->mux);
	mux_due_here(&end->mux);
}

static void
exchange(struct end *a, struct end *b)
{
	uint64_t before;
	do {
		before = a->came + b->came + a->in.len + b->in.len;
		read_some(a, SIZE_MAX);
		read_some(b, SIZE_MAX);
	} while (a->came + b->came + a->in.len + b->in.len != before);
	assert_int_equal(a->result, SVC_MUX_OK);
	assert_int_equal(b->result, SVC_MUX_OK);
}

static uint8_t *
pattern(size_t len)
{
	uint8_t *data = malloc(len + 1);
	assert_non_null(data);
	memset(data, 0x55, len + 1);
	for (size_t i = 0; i + 1 < len; i += 4093)
		data[i] = (uint8_t)(i / 4093);
	return data;
}

static svc_err
open_with(struct end *client, struct seen *seen,
    const struct svc_stream_events *with, unsigned flags, const void *data,
    size_t len)
{
	struct svc_part first = {.flags = SVC_PART_HEADERS | flags,
	    .service = "s",
	    .endpoint = "E.e",
	    .timeout_ms = 1234,
	    .data = data,
	    .len = len};
	struct svc_error err;
	memset(seen, 0, sizeof(*seen));
	return svc_mux_open(
	    &client->mux, &first, 0, with, seen, &seen->stream, &err);
}

static svc_err
send_part(struct seen *seen, unsigned flags, const void *data, size_t len)
{
	struct svc_part part = {.flags = flags, .data = data, .len = len};
	return svc_mux_send(seen->stream, &part, NULL);
}

static void
let_go(struct seen *seen)
{
	svc_mux_release(seen->stream, SVC_E_CANCELLED);
	seen->stream = NULL;
}

/* -------------------------------------------------------------- windows */

static void
a_writer_stops_when_its_reader_does(void **state)
{
	(void)state;
	static const struct svc_transport_limits limits = {
	    .stream_window = 32768};
	struct end client, server;
	struct seen mine;
	uint8_t *data = pattern(1000);
	pair(&client, &server, &limits);
	server_holds = true;
	assert_int_equal(
	    open_with(&client, &mine, &events, 0, NULL, 0), SVC_OK);
	exchange(&client, &server);
	uint64_t taken = 0;
	while (send_part(&mine, SVC_PART_MESSAGE, data, 1000) == SVC_OK) {
		taken += 1000;
		exchange(&client, &server);
	}
	/* The window, the frame that begins with the last of it, and one
	 * message that waits. */
	assert_true(taken >= 32000 && taken <= 32768 + 2 * 1016);
	assert_true(served[0].bytes <= 32768 + 1000);
	assert_int_equal(mine.writable, 0);
	/* What is read makes room again, for as much. */
	uint64_t before = served[0].bytes;
	svc_mux_credit(served[0].stream, (size_t)before);
	exchange(&client, &server);
	assert_int_equal(mine.writable, 1);
	assert_int_equal(served[0].bytes, taken);
	while (send_part(&mine, SVC_PART_MESSAGE, data, 1000) == SVC_OK) {
		taken += 1000;
		exchange(&client, &server);
	}
	assert_true(taken - before >= 32000);
	assert_true(taken - before <= 32768 + 2 * 1016);
	/* More than was held is no credit. */
	svc_mux_credit(served[0].stream, SIZE_MAX);
	exchange(&client, &server);
	assert_int_equal(served[0].bytes, taken);
	assert_true(served[0].stream != NULL);
	/* Empty messages cost something too. */
	svc_mux_credit(served[0].stream, SIZE_MAX);
	uint32_t empty = 0;
	while (send_part(&mine, SVC_PART_MESSAGE, NULL, 0) == SVC_OK) {
		empty++;
		exchange(&client, &server);
	}
	assert_true(empty <= 32768 / 16 + 2);
	for (uint32_t i = 0; i < empty; i++)
		svc_mux_credit(served[0].stream, 0);
	exchange(&client, &server);
	assert_int_equal(send_part(&mine, SVC_PART_MESSAGE, data, 1), SVC_OK);
	let_go(&served[0]);
	let_go(&mine);
	end_finish(&client);
	end_finish(&server);
	free(data);
}

/* Sends until it is made to wait; the messages that were taken. */
static uint32_t
send_many(struct seen *seen, const uint8_t *data, size_t len)
{
	uint32_t n = 0;
	while (send_part(seen, SVC_PART_MESSAGE, data, len) == SVC_OK)
		n++;
	assert_null(stream_of(seen->stream)->pending);
	return n;
}

/* Under a clock that stands still all that is sent is one burst. */
static void
a_burst_waits_for_credit(void **state)
{
	(void)state;
	enum { LEN = 984, COST = LEN + 16, WINDOW = 40 * COST };
	static const struct svc_transport_limits limits = {
	    .stream_window = WINDOW, .conn_window = 60 * COST};
	struct end client, server;
	struct seen first, second;
	uint8_t *data = pattern(LEN);
	svc_clock_manual();
	pair(&client, &server, &limits);
	server_holds = true;
	assert_int_equal(
	    open_with(&client, &first, &events, 0, NULL, 0), SVC_OK);
	assert_int_equal(
	    open_with(&client, &second, &events, 0, NULL, 0), SVC_OK);
	exchange(&client, &server);
	/* The stream's own credit is used up. */
	uint32_t n = send_many(&first, data, LEN);
	assert_in_range(n, 39, 40);
	exchange(&client, &server);
	assert_int_equal(first.writable, 0);
	assert_int_equal(served[0].messages, n);
	/* The connection's, while the stream has some. */
	uint32_t rest = send_many(&second, data, LEN);
	assert_in_range(n + rest, 59, 60);
	exchange(&client, &server);
	exchange(&client, &server);
	assert_int_equal(first.writable, 0);
	assert_int_equal(second.writable, 0);
	/* Both are told once, when there is credit for them. */
	svc_mux_credit(served[0].stream, SIZE_MAX);
	exchange(&client, &server);
	assert_int_equal(first.writable, 1);
	assert_int_equal(second.writable, 1);
	assert_true(send_many(&second, data, LEN) > 0);
	assert_true(send_many(&first, data, LEN) > 0);
	exchange(&client, &server);
	exchange(&client, &server);
	assert_int_equal(first.writable, 1);
	assert_int_equal(second.writable, 1);
	/* An end waits for nothing. */
	assert_int_equal(send_part(&first, SVC_PART_END, NULL, 0), SVC_OK);
	exchange(&client, &server);
	assert_true(served[0].ended);
	let_go(&served[0]);
	let_go(&served[1]);
	let_go(&first);
	let_go(&second);
	end_finish(&client);
	end_finish(&server);
	svc_clock_real();
	free(data);
}

static void
credit_costs_a_unary_call_nothing(void **state)
{
	(void)state;
	struct end client, server;
	struct seen mine;
	uint8_t *data = pattern(1000);
	pair(&client, &server, NULL);
	exchange(&client, &server);
	uint64_t came = client.came;
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(
		    open_with(&client, &mine, &events,
			SVC_PART_MESSAGE | SVC_PART_END, data, 1000),
		    SVC_OK);
		exchange(&client, &server);
		struct seen *theirs = &served[(n_served - 1) % 64];
		assert_int_equal(
		    send_part(theirs, SVC_PART_HEADERS | SVC_PART_END, NULL, 0),
		    SVC_OK);
		let_go(theirs);
		exchange(&client, &server);
		assert_true(mine.ended);
		let_go(&mine);
	}
	/* 1000 frames of requests each way and no others. */
	assert_int_equal(client.came - came, 1000 * (16 + 13 + 1000));
	end_finish(&client);
	end_finish(&server);
	free(data);
}

static void
large_messages_pass_small_windows(void **state)
{
	(void)state;
	static const struct svc_transport_limits limits = {
	    .stream_window = 1024, .conn_window = 1024, .max_message = 1 << 20};
	struct end client, server;
	struct seen mine[3];
	uint8_t *data = pattern(1 << 20);
	pair(&client, &server, &limits);
	/* Three at once, before the hello is read, in full and at the limit. */
	for (int i = 0; i < 3; i++) {
		/* More than a largest message is pending after two. */
		unsigned flags = SVC_PART_MESSAGE | SVC_PART_END;
		size_t len = (1u << 20) - (size_t)i;
		client.mux.config.ops = &holding;
		svc_err rc =
		    open_with(&client, &mine[i], &events, flags, data, len);
		assert_int_equal(rc, i < 2 ? SVC_OK : SVC_E_AGAIN);
		client.mux.config.ops = &flushing;
		if (i < 2)
			continue;
		flush(&client.mux);
		exchange(&client, &server);
		assert_int_equal(
		    open_with(&client, &mine[i], &events, flags, data, len),
		    SVC_OK);
	}
	exchange(&client, &server);
	assert_int_equal(n_served, 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(served[i].parts, 1);
		assert_true(served[i].ended);
	}
	assert_int_equal(served[0].bytes + served[1].bytes + served[2].bytes,
	    3 * (1u << 20) - 3);
	/* And the answers, given before the streams are let go. */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(
		    send_part(&served[i],
			SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
			data, 1 << 20),
		    SVC_OK);
		let_go(&served[i]);
	}
	exchange(&client, &server);
	for (int i = 0; i < 3; i++) {
		assert_true(mine[i].ended);
		assert_false(mine[i].closed);
		assert_int_equal(mine[i].parts, 1);
		assert_int_equal(mine[i].bytes, 1 << 20);
		let_go(&mine[i]);
	}
	assert_int_equal(server.mux.n_held, 0);
	assert_int_equal(server.mux.n_lingering, 0);
	assert_int_equal(server.mux.loaned, 0);
	assert_int_equal(server.mux.pending, 0);
	assert_int_equal(client.mux.loaned, 0);
	end_finish(&client);
	end_finish(&server);
	free(data);
}

static void
both_ways_at_once_with_slow_readers(void **state)
{
	(void)state;
	static const struct svc_transport_limits limits = {
	    .stream_window = 1024, .conn_window = 4096};
	enum { STREAMS = 8, MESSAGES = 300 };
	struct end client, server;
	static struct seen mine[STREAMS];
	static uint32_t sent[2][STREAMS];
	uint8_t *data = pattern(100000);
	pair(&client, &server, &limits);
	server_holds = true;
	memset(sent, 0, sizeof(sent));
	for (int i = 0; i < STREAMS; i++)
		assert_int_equal(
		    open_with(&client, &mine[i], &holder, 0, NULL, 0), SVC_OK);
	exchange(&client, &server);
	assert_int_equal(n_served, STREAMS);
	/* Sizes vary up to far above the windows; readers read one message
	 * now and then. Each round must bring something forward. */
	unsigned seed = 1;
	static uint32_t read[2][STREAMS];
	memset(read, 0, sizeof(read));
	for (int round = 0;; round++) {
		bool all = true, moved = false;
		for (int side = 0; side < 2; side++)
			for (int i = 0; i < STREAMS; i++) {
				struct seen *from =
				    side == 0 ? &mine[i] : &served[i];
				struct seen *to =
				    side == 0 ? &served[i] : &mine[i];
				while (sent[side][i] < MESSAGES) {
					seed = seed * 1103515245 + 12345;
					size_t len = (seed >> 16) % 100 == 0
							 ? 99999
							 : (seed >> 16) % 2000;
					if (send_part(from, SVC_PART_MESSAGE,
						data, len) != SVC_OK)
						break;
					sent[side][i]++;
					moved = true;
				}
				if (read[side][i] < to->messages) {
					read[side][i] = to->messages;
					svc_mux_credit(to->stream, SIZE_MAX);
					svc_mux_credit(to->stream, 0);
					moved = true;
				}
				all = all && read[side][i] == MESSAGES;
			}
		moved = moved || client.in.len > 0 || server.in.len > 0;
		read_some(&client, 5000);
		read_some(&server, 7000);
		if (client.result != SVC_MUX_OK || server.result != SVC_MUX_OK)
			fail_msg("%s %s", client.err.text, server.err.text);
		if (all)
			break;
		assert_true(moved);
		assert_true(round < 1000000);
	}
	for (int i = 0; i < STREAMS; i++) {
		assert_int_equal(mine[i].messages, MESSAGES);
		assert_int_equal(served[i].messages, MESSAGES);
		let_go(&mine[i]);
		let_go(&served[i]);
	}
	end_finish(&client);
	end_finish(&server);
	free(data);
}

/* Who does not read what came before is not sent a message beyond its window,
 * and a small call passes it by. */
static void
a_small_call_passes_a_huge_one(void **state)
{
	(void)state;
	struct end client, server;
	struct seen huge, small;
	uint8_t *data = pattern(8 << 20);
	pair(&client, &server, NULL);
	server_holds = true;
	assert_int_equal(
	    open_with(&client, &huge, &events, 0, NULL, 0), SVC_OK);
	exchange(&client, &server);
	assert_int_equal(send_part(&huge, SVC_PART_MESSAGE, data, 10), SVC_OK);
	assert_int_equal(
	    send_part(&huge, SVC_PART_MESSAGE, data, 8 << 20), SVC_OK);
	assert_int_equal(
	    send_part(&huge, SVC_PART_MESSAGE, data, 1), SVC_E_AGAIN);
	exchange(&client, &server);
	assert_int_equal(served[0].messages, 1);
	assert_int_equal(open_with(&client, &small, &events,
			     SVC_PART_MESSAGE | SVC_PART_END, data, 10),
	    SVC_OK);
	exchange(&client, &server);
	assert_int_equal(n_served, 2);
	assert_int_equal(
	    send_part(&served[1],
		SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END, data, 10),
	    SVC_OK);
	let_go(&served[1]);
	exchange(&client, &server);
	assert_true(small.ended);
	assert_int_equal(served[0].messages, 1);
	/* The first is read. */
	svc_mux_credit(served[0].stream, 10);
	exchange(&client, &server);
	assert_int_equal(served[0].messages, 2);
	assert_int_equal(served[0].last_len, 8 << 20);
	assert_int_equal(huge.writable, 1);
	/* Pieces go in turn: a call made while one is under way does not wait
	 * for its end. */
	svc_mux_credit(served[0].stream, 8 << 20);
	client.mux.config.ops = &holding;
	assert_int_equal(
	    send_part(&huge, SVC_PART_MESSAGE, data, 200 << 10), SVC_OK);
	let_go(&small);
	assert_int_equal(open_with(&client, &small, &events,
			     SVC_PART_MESSAGE | SVC_PART_END, data, 100 << 10),
	    SVC_OK);
	client.mux.config.ops = &flushing;
	flush(&client.mux);
	size_t order[8] = {0}, n = 0;
	for (size_t at = 0; at < server.in.len && n < 8;) {
		struct frame frame;
		frame_decode(server.in.data + at, &frame);
		order[n++] = frame.stream;
		at += FRAME_SIZE + frame.length;
	}
	assert_true(n >= 4);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 3);
	assert_int_equal(order[2], 1);
	assert_int_equal(order[3], 3);
	exchange(&client, &server);
	assert_int_equal(served[2].last_len, 100 << 10);
	let_go(&huge);
	let_go(&small);
	let_go(&served[0]);
	let_go(&served[2]);
	end_finish(&client);
	end_finish(&server);
	free(data);
}

/* An answer is taken whatever waits, and goes on when its stream was let go;
 * with headers, trailers and a large message in one part or in several. */
static void
answers_with_trailers(void **state)
{
	(void)state;
	static const struct svc_transport_limits limits = {
	    .stream_window = 1024};
	struct end client, server;
	struct seen mine;
	uint8_t *data = pattern(300000);
	struct svc_headers *headers = svc_headers_create();
	svc_headers_set(headers, "h", "head");
	struct svc_headers *trailers = svc_headers_create();
	svc_headers_set(trailers, "t", "trail");
	for (int way = 0; way < 2; way++) {
		pair(&client, &server, &limits);
		assert_int_equal(
		    open_with(&client, &mine, &events, SVC_PART_END, NULL, 0),
		    SVC_OK);
		exchange(&client, &server);
		struct svc_part part = {
		    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE,
		    .headers = headers,
		    .data = data,
		    .len = 300000};
		struct svc_part end = {.flags = SVC_PART_END,
		    .headers = trailers,
		    .status = SVC_E_ABORTED,
		    .status_text = "done for"};
		if (way == 0) { /* the message with the end */
			part.flags = SVC_PART_HEADERS;
			part.len = 0;
			end.flags |= SVC_PART_MESSAGE;
			end.data = data;
			end.len = 300000;
		}
		assert_int_equal(
		    svc_mux_send(served[0].stream, &part, NULL), SVC_OK);
		assert_int_equal(
		    svc_mux_send(served[0].stream, &end, NULL), SVC_OK);
		let_go(&served[0]);
		exchange(&client, &server);
		assert_true(mine.ended);
		assert_int_equal(mine.parts, 2);
		assert_int_equal(mine.code, SVC_E_ABORTED);
		assert_int_equal(mine.bytes, 300000);
		assert_string_equal(mine.header, "head");
		assert_string_equal(mine.trailer, "trail");
		assert_int_equal(server.mux.n_held, 0);
		let_go(&mine);
		end_finish(&client);
		end_finish(&server);
	}
	svc_headers_destroy(headers);
	svc_headers_destroy(trailers);
	free(data);
}

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

/* -------------------------------------------------------------- allocation */

static size_t allocations, fails_at;

static bool
may_allocate(size_t size, void *arg)
{
	(void)size;
	(void)arg;
	return ++allocations != fails_at;
}

/* Calls and streams with an allocation that fails: an error or an end, and
 * nothing is left. True when all went well. */
static bool
run_with_failures(const uint8_t *data)
{
	static const struct svc_transport_limits limits = {
	    .stream_window = 1024};
	static const struct svc_transport_ops transport = {.name = "test"};
	struct end ends[2];
	struct seen mine[2];
	bool good = true;
	n_served = 0;
	server_holds = false;
	memset(ends, 0, sizeof(ends));
	memset(served, 0, sizeof(served));
	int made = 0;
	for (int i = 0; i < 2; i++) {
		struct svc_mux_config config = {.ops = &flushing,
		    .transport = &transport,
		    .limits = limits,
		    .server = i == 1,
		    .accept = accept_stream};
		svc_buf_init(&ends[i].in, SIZE_MAX / 2);
		if (svc_mux_init(&ends[i].mux, &config, "peer") != SVC_OK)
			break;
		made++;
	}
	struct end *client = &ends[0], *server = &ends[1];
	if (made == 2) {
		client->other = server;
		server->other = client;
		for (int i = 0; i < 2; i++) {
			struct svc_headers *headers = svc_headers_create();
			if (headers != NULL)
				svc_headers_set(headers, "h", "head");
			struct svc_part first = {.flags = SVC_PART_HEADERS |
							  SVC_PART_MESSAGE |
							  SVC_PART_END,
			    .service = "s",
			    .endpoint = "E.e",
			    .timeout_ms = SVC_FOREVER,
			    .headers = headers,
			    .data = data,
			    .len = i == 0 ? 10 : 150000};
			memset(&mine[i], 0, sizeof(mine[i]));
			if (svc_mux_open(&client->mux, &first, 0, &events,
				&mine[i], &mine[i].stream, NULL) != SVC_OK)
				good = false;
			svc_headers_destroy(headers);
		}
		uint64_t before, now = 0;
		size_t answered = 0;
		do {
			before = now;
			for (int i = 0; i < 2; i++) {
				flush(&ends[i].mux);
				read_some(&ends[i], 40000);
				if (ends[i].result != SVC_MUX_OK ||
				    svc_mux_failed(&ends[i].mux)) {
					svc_mux_fail(&ends[i].mux,
					    SVC_E_UNAVAILABLE, "failed");
					svc_mux_fail(&ends[1 - i].mux,
					    SVC_E_UNAVAILABLE, "lost");
					good = false;
				}
				/* What the other sent is lost with it. */
				if (ends[i].in.failed != SVC_OK) {
					svc_mux_fail(&ends[i].mux,
					    SVC_E_UNAVAILABLE, "lost");
					good = false;
				}
			}
			for (; answered < n_served; answered++) {
				struct seen *one = &served[answered];
				if (send_part(one,
					SVC_PART_HEADERS | SVC_PART_MESSAGE |
					    SVC_PART_END,
					data, 150000) != SVC_OK)
					good = false;
				let_go(one);
			}
			now = client->came * 3 + server->came * 3 + answered -
			      client->in.len - server->in.len;
		} while (now != before);
	}
	for (int i = 0; i < made; i++) {
		svc_mux_fail(&ends[i].mux, SVC_E_UNAVAILABLE, "the end");
		svc_mux_close_streams(&ends[i].mux);
	}
	for (int i = 0; i < 2 && made == 2; i++) {
		if (mine[i].stream == NULL)
			continue;
		/* Each ended, one way or the other. */
		assert_true(mine[i].ended || mine[i].closed);
		good = good && mine[i].ended && mine[i].bytes == 150000;
		let_go(&mine[i]);
	}
	for (int i = 0; i < made; i++)
		end_finish(&ends[i]);
	for (int i = made; i < 2; i++)
		svc_buf_fini(&ends[i].in);
	return good && made == 2;
}

static void
every_allocation_may_fail(void **state)
{
	(void)state;
	uint8_t *data = pattern(150000);
	svc_mem_set_hook(may_allocate, NULL);
	allocations = 0;
	fails_at = 0;
	bool good = run_with_failures(data);
	size_t count = allocations;
	size_t ended_well = 0;
	for (size_t i = 1; i <= count; i++) {
		allocations = 0;
		fails_at = i;
		if (run_with_failures(data))
			ended_well++;
	}
	svc_mem_set_hook(NULL, NULL);
	free(data);
	assert_true(good);
	assert_true(count > 20);
	/* Nearly all of them are needed. */
	assert_true(ended_well < count / 2);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_writer_stops_when_its_reader_does),
	    cmocka_unit_test(a_burst_waits_for_credit),
	    cmocka_unit_test(credit_costs_a_unary_call_nothing),
	    cmocka_unit_test(large_messages_pass_small_windows),
	    cmocka_unit_test(both_ways_at_once_with_slow_readers),
	    cmocka_unit_test(a_small_call_passes_a_huge_one),
	    cmocka_unit_test(answers_with_trailers),
	    cmocka_unit_test(violations_are_found),
	    cmocka_unit_test(limits_end_one_stream),
	    cmocka_unit_test(floods_end_a_connection_that_does_not_read),
	    cmocka_unit_test(every_allocation_may_fail),
	};
	return cmocka_run_group_tests_name("mux", tests, NULL, NULL);
}
