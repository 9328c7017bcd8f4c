/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of many and of large messages, slow readers, silent peers. */
#include "conformance/transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <svc/buf.h>
#include <svc/clock.h>
#include <sys/socket.h>
#include <unistd.h>

#include "support/lacks.h"

#define WAIT_MS 30000

static const struct svc_conformance_transport *setup;

static struct {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *listener;
	struct side *accepted; /* streams to "take", newest first */
	const struct svc_stream_events *events;
	uint64_t came; /* messages, of all sides */
} here;

/* One side of a stream. */
struct side {
	struct svc_stream_handle *stream;
	struct side *next;
	uint32_t count; /* messages that came */
	uint64_t bytes;
	size_t largest;
	size_t uncredited;
	bool room, ended, closed, not_run, silent;
	svc_err code;
	char text[256], trailer[64];
};

static void
side_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct side *side = stream->user;
	pthread_mutex_lock(&here.mutex);
	if (part->flags & SVC_PART_MESSAGE) {
		/* Each begins with its number, if it is long enough. */
		uint32_t number;
		if (part->len >= sizeof(number)) {
			memcpy(&number, part->data, sizeof(number));
			assert_int_equal(number, side->count);
		}
		side->count++;
		here.came++;
		side->bytes += part->len;
		side->uncredited += part->len;
		if (part->len > side->largest)
			side->largest = part->len;
	}
	if (part->flags & SVC_PART_END) {
		const char *value = svc_headers_get(part->headers, "sum");
		snprintf(side->trailer, sizeof(side->trailer), "%s",
		    value != NULL && !(part->flags & SVC_PART_HEADERS) ? value
								       : "");
		side->ended = true;
		side->code = part->status;
	}
	pthread_cond_broadcast(&here.changed);
	pthread_mutex_unlock(&here.mutex);
}

static void
side_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct side *side = stream->user;
	pthread_mutex_lock(&here.mutex);
	side->closed = true;
	side->not_run = end->not_run;
	side->silent = end->silent;
	side->code = end->code;
	snprintf(side->text, sizeof(side->text), "%s", end->text);
	pthread_cond_broadcast(&here.changed);
	pthread_mutex_unlock(&here.mutex);
}

static void
side_writable(struct svc_stream_handle *stream)
{
	struct side *side = stream->user;
	pthread_mutex_lock(&here.mutex);
	side->room = true;
	pthread_cond_broadcast(&here.changed);
	pthread_mutex_unlock(&here.mutex);
}

/* How it stands now. */
static struct side
look(const struct side *side)
{
	pthread_mutex_lock(&here.mutex);
	struct side now = *side;
	pthread_mutex_unlock(&here.mutex);
	return now;
}

static const struct svc_stream_events keeps = {.part = side_part,
    .closed = side_closed,
    .writable = side_writable,
    .holds = true};
static void
side_messages(
    struct svc_stream_handle *stream, const struct svc_span *messages, size_t n)
{
	assert_true(n > 0);
	for (size_t i = 0; i < n; i++)
		side_part(stream, &(struct svc_part){
				      .flags = SVC_PART_MESSAGE,
				      .data = messages[i].data,
				      .len = messages[i].len,
				  });
}
static const struct svc_stream_events keeps_many = {.part = side_part,
    .closed = side_closed,
    .writable = side_writable,
    .holds = true,
    .messages = side_messages};
static const struct svc_stream_events reads = {
    .part = side_part, .closed = side_closed, .writable = side_writable};

static void
flow_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	(void)arg;
	if (strcmp(first->endpoint, "take") != 0) {
		struct svc_part reply = {
		    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
		    .data = first->data,
		    .len = first->len};
		assert_int_equal(
		    stream->ops->send(stream, &reply, NULL), SVC_OK);
		stream->ops->release(stream, SVC_E_CANCELLED);
		return;
	}
	struct side *side = svc_mem_calloc(1, sizeof(*side));
	assert_non_null(side);
	side->stream = stream;
	stream->user = side;
	stream->events = here.events;
	pthread_mutex_lock(&here.mutex);
	side->next = here.accepted;
	here.accepted = side;
	pthread_cond_broadcast(&here.changed);
	pthread_mutex_unlock(&here.mutex);
}

static void
start(const struct svc_transport_limits *limits,
    const struct svc_stream_events *events)
{
	struct svc_error err = {0};
	const void *ops;
	memset(&here, 0, sizeof(here));
	pthread_mutex_init(&here.mutex, NULL);
	svc_cond_init(&here.changed);
	here.events = events;
	if (svc_catalogue_find(
		&svc_transport_interface, setup->plugin, &ops, &err) != SVC_OK)
		fail_msg("%s", err.text);
	here.ops = ops;
	assert_int_equal(
	    svc_executor_create(NULL, &here.executor, &err), SVC_OK);
	struct svc_transport_config config = {
	    .executor = here.executor, .tls = setup->tls};
	if (limits != NULL)
		config.limits = *limits;
	if (config.limits.handshake_ms == 0)
		config.limits.handshake_ms = WAIT_MS;
	assert_int_equal(here.ops->create(&config, &here.self, &err), SVC_OK);
	if (here.ops->listen(here.self, setup->address, flow_accept, NULL,
		&here.listener, &err) != SVC_OK)
		fail_msg("%s", err.text);
}

static void
stop(void *conn)
{
	while (here.accepted != NULL) {
		struct side *side = here.accepted;
		here.accepted = side->next;
		here.ops->release(side->stream, SVC_E_CANCELLED);
		svc_mem_free(side);
	}
	if (conn != NULL)
		here.ops->conn_destroy(conn);
	here.ops->listener_destroy(here.listener);
	here.ops->destroy(here.self);
	svc_executor_destroy(here.executor);
	pthread_cond_destroy(&here.changed);
	pthread_mutex_destroy(&here.mutex);
}

static void *
dial(const char *address)
{
	struct svc_error err = {0};
	void *conn;
	if (here.ops->dial(here.self, address, WAIT_MS, &conn, &err) != SVC_OK)
		fail_msg("%s", err.text);
	return conn;
}

static svc_err
open_to(void *conn, const char *endpoint, unsigned flags, const void *data,
    size_t len, const struct svc_stream_events *events, struct side *side)
{
	struct svc_part first = {.flags = SVC_PART_HEADERS | flags,
	    .service = "s",
	    .endpoint = endpoint,
	    .timeout_ms = SVC_FOREVER,
	    .data = data,
	    .len = len};
	struct svc_error err = {0};
	memset(side, 0, sizeof(*side));
	svc_err rc =
	    here.ops->open(conn, &first, 0, events, side, &side->stream, &err);
	if (rc != SVC_OK)
		snprintf(side->text, sizeof(side->text), "%s", err.text);
	return rc;
}

/* Waits until it is so. */
#define AWAIT(condition)                                              \
	do {                                                          \
		int64_t deadline = svc_deadline(WAIT_MS);             \
		pthread_mutex_lock(&here.mutex);                      \
		while (!(condition))                                  \
			if (svc_cond_wait(&here.changed, &here.mutex, \
				deadline) != SVC_OK)                  \
				fail_msg("in vain: %s", #condition);  \
		pthread_mutex_unlock(&here.mutex);                    \
	} while (0)

static svc_err
push(struct side *side, unsigned flags, uint32_t number, uint8_t *data,
    size_t len)
{
	struct svc_part part = {.flags = flags, .data = data, .len = len};
	if (len >= sizeof(number))
		memcpy(data, &number, sizeof(number));
	pthread_mutex_lock(&here.mutex);
	side->room = false;
	pthread_mutex_unlock(&here.mutex);
	return here.ops->send(side->stream, &part, NULL);
}

/* What came is read: the peer may send as much again. */
static void
read_all(struct side *side)
{
	pthread_mutex_lock(&here.mutex);
	size_t bytes = side->uncredited;
	side->uncredited = 0;
	pthread_mutex_unlock(&here.mutex);
	here.ops->credit(side->stream, bytes);
}

static bool
has_credit(void)
{
	return SVC_OPS_HAS(here.ops, credit);
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
	start(&limits, &keeps_many);
	if (!has_credit()) {
		stop(NULL);
		test_lacks("credit");
	}
	void *conn = dial(here.ops->listener_address(here.listener));
	assert_int_equal(
	    open_to(conn, "take", 0, NULL, 0, &reads, &mine), SVC_OK);
	AWAIT(here.accepted != NULL);
	struct side *theirs = here.accepted;
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
		assert_true(look(theirs).uncredited <= 65536 + LEN);
		read_all(theirs);
		AWAIT(mine.room);
	}
	uint32_t count;
	while ((count = look(theirs).count) < MESSAGES) {
		read_all(theirs);
		AWAIT(theirs->count > count);
	}
	assert_int_equal(theirs->bytes, (uint64_t)MESSAGES * LEN);
	here.ops->release(mine.stream, SVC_E_CANCELLED);
	stop(conn);
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
	start(NULL, &reads);
	void *conn = dial(here.ops->listener_address(here.listener));
	assert_int_equal(
	    open_to(conn, "take", 0, NULL, 0, &reads, &mine), SVC_OK);
	AWAIT(here.accepted != NULL);
	struct side *theirs = here.accepted;
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
	here.ops->release(mine.stream, SVC_E_CANCELLED);
	stop(conn);
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
	start(limits, events);
	if (!has_credit()) {
		stop(NULL);
		test_lacks("credit");
	}
	void *conn = dial(here.ops->listener_address(here.listener));
	for (int i = 0; i < STREAMS; i++) {
		assert_int_equal(
		    open_to(conn, "take", 0, NULL, 0, events, &mine[i]),
		    SVC_OK);
		struct side *last = i > 0 ? theirs[i - 1] : NULL;
		AWAIT(here.accepted != last);
		theirs[i] = here.accepted;
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
		pthread_mutex_lock(&here.mutex);
		uint64_t came = here.came;
		pthread_mutex_unlock(&here.mutex);
		for (int i = 0; i < 2 * STREAMS; i++) {
			struct side *side = writers[i].side;
			pthread_mutex_lock(&here.mutex);
			all = all && side->count == MESSAGES;
			pthread_mutex_unlock(&here.mutex);
			read_all(side);
		}
		if (!all)
			AWAIT(here.came != came);
	}
	for (int i = 0; i < 2 * STREAMS; i++)
		svc_thread_join(writers[i].thread);
	for (int i = 0; i < STREAMS; i++) {
		assert_int_equal(mine[i].largest, 200000);
		assert_int_equal(theirs[i]->largest, 200000);
		assert_int_equal(mine[i].bytes, theirs[i]->bytes);
		here.ops->release(mine[i].stream, SVC_E_CANCELLED);
	}
	stop(conn);
}

static void
both_sides_pour_through_tiny_windows(void **state)
{
	(void)state;
	static const struct svc_transport_limits limits = {
	    .stream_window = 1024, .conn_window = 2048};
	both_sides_pour(&limits, &keeps);
	both_sides_pour(&limits, &keeps_many);
}

/* With room for many, they come many at a time. */
static void
both_sides_pour_through_wide_windows(void **state)
{
	(void)state;
	both_sides_pour(NULL, &keeps);
	both_sides_pour(NULL, &keeps_many);
}

static void
a_small_call_does_not_wait_for_a_huge_message(void **state)
{
	(void)state;
	enum { HUGE = 16 << 20 };
	struct side mine, small;
	uint8_t *data = svc_mem_calloc(1, HUGE);
	start(NULL, &keeps);
	if (!has_credit()) {
		svc_mem_free(data);
		stop(NULL);
		test_lacks("credit");
	}
	void *conn = dial(here.ops->listener_address(here.listener));
	assert_int_equal(
	    open_to(conn, "take", 0, NULL, 0, &reads, &mine), SVC_OK);
	AWAIT(here.accepted != NULL);
	struct side *theirs = here.accepted;
	assert_int_equal(push(&mine, SVC_PART_MESSAGE, 0, data, 10), SVC_OK);
	AWAIT(theirs->count == 1);
	/* The first is not read: so the second is under way until it is. */
	assert_int_equal(push(&mine, SVC_PART_MESSAGE, 1, data, HUGE), SVC_OK);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(
		    open_to(conn, "echo", SVC_PART_MESSAGE | SVC_PART_END,
			"\0\0\0\0hello", 9, &reads, &small),
		    SVC_OK);
		AWAIT(small.ended || small.closed);
		assert_true(small.ended);
		assert_int_equal(small.bytes, 9);
		here.ops->release(small.stream, SVC_E_CANCELLED);
	}
	pthread_mutex_lock(&here.mutex);
	assert_int_equal(theirs->count, 1);
	pthread_mutex_unlock(&here.mutex);
	assert_int_equal(
	    push(&mine, SVC_PART_MESSAGE, 2, data, 10), SVC_E_AGAIN);
	read_all(theirs);
	AWAIT(theirs->count == 2);
	assert_int_equal(theirs->largest, HUGE);
	AWAIT(mine.room);
	here.ops->release(mine.stream, SVC_E_CANCELLED);
	stop(conn);
	svc_mem_free(data);
}

static void
trailers_arrive(void **state)
{
	(void)state;
	struct side mine;
	start(NULL, &reads);
	void *conn = dial(here.ops->listener_address(here.listener));
	struct svc_headers *trailers = svc_headers_create();
	svc_headers_set(trailers, "sum", "4711");
	assert_int_equal(
	    open_to(conn, "take", 0, NULL, 0, &reads, &mine), SVC_OK);
	AWAIT(here.accepted != NULL);
	struct side *theirs = here.accepted;
	struct svc_part part = {.flags = SVC_PART_HEADERS};
	assert_int_equal(here.ops->send(theirs->stream, &part, NULL), SVC_OK);
	part = (struct svc_part){.flags = SVC_PART_END,
	    .status = SVC_E_ABORTED,
	    .headers = trailers};
	assert_int_equal(here.ops->send(theirs->stream, &part, NULL), SVC_OK);
	AWAIT(mine.ended);
	assert_string_equal(mine.trailer, "4711");
	assert_int_equal(mine.code, SVC_E_ABORTED);
	/* And the other way. */
	part.status = SVC_OK;
	assert_int_equal(here.ops->send(mine.stream, &part, NULL), SVC_OK);
	AWAIT(theirs->ended);
	assert_string_equal(theirs->trailer, "4711");
	svc_headers_destroy(trailers);
	here.ops->release(mine.stream, SVC_E_CANCELLED);
	stop(conn);
}

static void
a_cut_does_not_wait_for_a_reader(void **state)
{
	(void)state;
	enum { SIZE = 60000 };
	struct side mine;
	start(NULL, &reads);
	if (!has_credit()) {
		stop(NULL);
		test_lacks("credit");
	}
	uint8_t *data = svc_mem_calloc(1, SIZE);
	void *conn = dial(here.ops->listener_address(here.listener));
	assert_int_equal(
	    open_to(conn, "take", 0, NULL, 0, &keeps, &mine), SVC_OK);
	AWAIT(here.accepted != NULL);
	struct side *theirs = here.accepted;
	struct svc_part part = {.flags = SVC_PART_HEADERS};
	assert_int_equal(here.ops->send(theirs->stream, &part, NULL), SVC_OK);
	uint32_t sent = 0;
	while (push(theirs, SVC_PART_MESSAGE, sent, data, SIZE) == SVC_OK)
		sent++;
	/* The last one waits: it is dropped. */
	part = (struct svc_part){.flags = SVC_PART_END | SVC_PART_CUT,
	    .status = SVC_E_ABORTED,
	    .status_text = "cut"};
	assert_int_equal(here.ops->send(theirs->stream, &part, NULL), SVC_OK);
	AWAIT(mine.ended || mine.closed);
	assert_int_equal(mine.code, SVC_E_ABORTED);
	assert_int_equal(mine.count, sent - 1);
	/* Nothing is left to wait for. */
	here.accepted = NULL;
	here.ops->release(theirs->stream, SVC_E_ABORTED);
	svc_mem_free(theirs);
	here.ops->release(mine.stream, SVC_E_CANCELLED);
	svc_mem_free(data);
	stop(conn);
}

/* ----------------------------------------------------------- silent peers */

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
	const char *address = here.ops->listener_address(here.listener);
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
	start(&limits, &reads);
	/* A server that says hello, and then nothing. */
	char address[64];
	struct side mine;
	int listener = listen_raw(address, sizeof(address));
	void *conn = dial(address);
	assert_int_equal(open_to(conn, "echo", SVC_PART_MESSAGE | SVC_PART_END,
			     "x", 1, &reads, &mine),
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
	here.ops->release(mine.stream, SVC_E_CANCELLED);
	here.ops->conn_destroy(conn);
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
	conn = dial(here.ops->listener_address(here.listener));
	assert_int_equal(
	    open_to(conn, "take", 0, NULL, 0, &reads, &mine), SVC_OK);
	pthread_mutex_lock(&here.mutex);
	int64_t until = svc_deadline(2500);
	while (svc_cond_wait(&here.changed, &here.mutex, until) == SVC_OK)
		;
	assert_false(mine.closed);
	pthread_mutex_unlock(&here.mutex);
	here.ops->release(mine.stream, SVC_E_CANCELLED);
	stop(conn);
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
	start(&limits, &reads);
	void *conn = dial(here.ops->listener_address(here.listener));
	/* Calls go on well until the connection says that it takes no more. */
	svc_err rc = SVC_OK;
	int calls = 0;
	while (rc == SVC_OK) {
		struct side mine;
		rc = open_to(conn, "echo", SVC_PART_MESSAGE | SVC_PART_END, "x",
		    1, &reads, &mine);
		if (rc != SVC_OK)
			break;
		AWAIT(mine.ended || mine.closed);
		assert_true(mine.ended);
		here.ops->release(mine.stream, SVC_E_CANCELLED);
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
	here.ops->conn_destroy(conn);
	conn = dial(here.ops->listener_address(here.listener));
	struct side mine;
	assert_int_equal(open_to(conn, "echo", SVC_PART_MESSAGE | SVC_PART_END,
			     "x", 1, &reads, &mine),
	    SVC_OK);
	AWAIT(mine.ended);
	here.ops->release(mine.stream, SVC_E_CANCELLED);
	stop(conn);
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
	start(NULL, &reads);
	void *conn = dial(here.ops->listener_address(here.listener));
	for (int i = 0; i < STREAMS; i++) {
		struct side *last = here.accepted;
		assert_int_equal(open_to(conn, "take", SVC_PART_END, NULL, 0,
				     &reads, &mine[i]),
		    SVC_OK);
		AWAIT(here.accepted != last || mine[i].closed);
		if (mine[i].closed)
			fail_msg("%s", mine[i].text);
	}
	here.ops->drain(here.listener);
	struct svc_part reply = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .data = data,
	    .len = LEN};
	while (here.accepted != NULL) {
		struct side *side = here.accepted;
		here.accepted = side->next;
		assert_int_equal(
		    here.ops->send(side->stream, &reply, NULL), SVC_OK);
		here.ops->release(side->stream, SVC_OK);
		svc_mem_free(side);
	}
	here.ops->listener_destroy(here.listener);
	for (int i = 0; i < STREAMS; i++) {
		AWAIT(mine[i].ended || mine[i].closed);
		if (mine[i].closed)
			fail_msg("%s", mine[i].text);
		assert_int_equal(mine[i].bytes, LEN);
		here.ops->release(mine[i].stream, SVC_E_CANCELLED);
	}
	here.ops->conn_destroy(conn);
	here.ops->destroy(here.self);
	svc_executor_destroy(here.executor);
	pthread_cond_destroy(&here.changed);
	pthread_mutex_destroy(&here.mutex);
	svc_mem_free(data);
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
	    cmocka_unit_test(a_peer_that_falls_silent_is_noticed),
	    cmocka_unit_test(an_idle_connection_is_closed_and_no_call_fails),
	    cmocka_unit_test(a_stop_loses_no_answer),
	};
	setup = with;
	return cmocka_run_group_tests_name(with->plugin, tests, NULL, NULL);
}
