/* SPDX-License-Identifier: Apache-2.0 */
/* Two ends that keep to the protocol: windows, pieces, and memory that runs
 * short. */
#include "mux_test.h"

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

enum { KILO = 1024, FRAME = 16 * KILO };

/* Of a stream that is not read: the frames that it takes. Then `ms` pass, and
 * it is read. */
static uint32_t
fill_and_read(struct end *client, struct end *server, struct seen *from,
    struct seen *to, int64_t ms)
{
	uint8_t *data = pattern(FRAME - FRAME_SIZE);
	uint32_t n = 0;
	while (send_part(from, SVC_PART_MESSAGE, data, FRAME - FRAME_SIZE) ==
	       SVC_OK)
		n++;
	free(data);
	exchange(client, server);
	/* One that was taken without credit may wait. */
	assert_true(n - to->messages <= 1);
	to->messages = 0;
	svc_clock_advance(ms);
	svc_mux_credit(to->stream, SIZE_MAX);
	exchange(client, server);
	n -= to->messages;
	to->messages = 0;
	svc_mux_credit(to->stream, SIZE_MAX);
	exchange(client, server);
	return n;
}

static void
a_window_grows_with_a_quick_reader(void **state)
{
	(void)state;
	struct end client, server;
	struct seen mine;
	svc_clock_manual();
	pair(&client, &server, NULL);
	server_holds = true;
	assert_int_equal(
	    open_with(&client, &mine, &events, 0, NULL, 0), SVC_OK);
	exchange(&client, &server);
	struct seen *theirs = &served[0];
	const uint32_t first = 512 * KILO / FRAME, most = 4 * first;
	assert_int_equal(
	    fill_and_read(&client, &server, &mine, theirs, 5), first);
	/* A look at the time, then it doubles, up to the limit. */
	uint32_t n = first, before = 0;
	for (int i = 0; i < 6; i++) {
		before = n;
		n = fill_and_read(&client, &server, &mine, theirs, 5);
		assert_in_range(n, before, 2 * before);
	}
	assert_int_equal(before, most);
	assert_int_equal(n, most);
	/* Neither quick nor slow. */
	for (int i = 0; i < 3; i++)
		assert_int_equal(
		    fill_and_read(&client, &server, &mine, theirs, 50), most);
	/* Slow: it becomes what it was, and no less. */
	for (int i = 0; i < 8; i++) {
		before = n;
		n = fill_and_read(&client, &server, &mine, theirs, 200);
		assert_in_range(n, first, before);
	}
	assert_int_equal(before, first);
	assert_int_equal(n, first);
	assert_int_equal(server.mux.grown, 0);
	let_go(theirs);
	let_go(&mine);
	end_finish(&client);
	end_finish(&server);
	svc_clock_real();
}

static void
windows_grow_within_bounds(void **state)
{
	(void)state;
	enum { STREAMS = 4, SMALL = 128 * KILO };
	struct end client, server;
	struct seen mine[STREAMS];
	svc_clock_manual();
	pair(&client, &server, NULL);
	server_holds = true;
	uint32_t together = 0;
	for (int i = 0; i < STREAMS; i++) {
		assert_int_equal(
		    open_with(&client, &mine[i], &events, 0, NULL, 0), SVC_OK);
		exchange(&client, &server);
		uint32_t n = 0;
		for (int turn = 0; turn < 6; turn++)
			n = fill_and_read(
			    &client, &server, &mine[i], &served[i], 1);
		together += n * FRAME;
	}
	/* Half of the connection's 4 MiB more than the first windows. */
	assert_int_equal(together, (STREAMS * 512 + 2048) * KILO);
	/* What one had is free when it has ended. */
	uint32_t grown = server.mux.grown;
	let_go(&served[0]);
	let_go(&mine[0]);
	assert_int_equal(server.mux.grown, grown - 1536 * KILO);
	for (int i = 1; i < STREAMS; i++) {
		let_go(&served[i]);
		let_go(&mine[i]);
	}
	assert_int_equal(server.mux.grown, 0);
	end_finish(&client);
	end_finish(&server);
	/* A limit below the first window is what it begins and ends with. */
	static const struct svc_transport_limits limits = {
	    .stream_window = SMALL};
	pair(&client, &server, &limits);
	server_holds = true;
	assert_int_equal(
	    open_with(&client, &mine[0], &events, 0, NULL, 0), SVC_OK);
	exchange(&client, &server);
	/* A frame that waited may have some of it. */
	for (int turn = 0; turn < 4; turn++)
		assert_in_range(
		    fill_and_read(&client, &server, &mine[0], &served[0], 1),
		    SMALL / FRAME - 1, SMALL / FRAME);
	assert_int_equal(server.mux.grown, 0);
	let_go(&served[0]);
	let_go(&mine[0]);
	end_finish(&client);
	end_finish(&server);
	svc_clock_real();
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

/* As long as an error's text may be: why a handshake failed names a peer and
 * what to do. */
static void
a_reason_is_told_whole(void **state)
{
	(void)state;
	struct end client, server;
	struct seen mine;
	char reason[sizeof(((struct svc_error *)0)->text)];
	memset(reason, 'r', sizeof(reason) - 1);
	reason[sizeof(reason) - 1] = '\0';
	pair(&client, &server, NULL);
	assert_int_equal(
	    open_with(&client, &mine, &events, 0, NULL, 0), SVC_OK);
	svc_mux_fail(&client.mux, SVC_E_UNAVAILABLE, reason);
	svc_mux_close_streams(&client.mux);
	assert_true(mine.closed);
	assert_string_equal(mine.text, reason);
	let_go(&mine);
	end_finish(&client);
	end_finish(&server);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_writer_stops_when_its_reader_does),
	    cmocka_unit_test(a_burst_waits_for_credit),
	    cmocka_unit_test(a_window_grows_with_a_quick_reader),
	    cmocka_unit_test(windows_grow_within_bounds),
	    cmocka_unit_test(credit_costs_a_unary_call_nothing),
	    cmocka_unit_test(large_messages_pass_small_windows),
	    cmocka_unit_test(both_ways_at_once_with_slow_readers),
	    cmocka_unit_test(a_small_call_passes_a_huge_one),
	    cmocka_unit_test(answers_with_trailers),
	    cmocka_unit_test(a_reason_is_told_whole),
	    cmocka_unit_test(every_allocation_may_fail),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
