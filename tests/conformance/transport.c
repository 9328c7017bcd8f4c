/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <svc/buf.h>
#include <svc/clock.h>

#define WAIT_MS 20000

static const struct svc_conformance_transport *setup;

/* ----------------------------------------------------------------- the server
 */

struct gate { /* a handler that waits until the test lets it go */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int waiting;
	bool open;
	bool saw_cancel;
};

struct server {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self;
	void *listener;
	struct gate gate;
	_Atomic int held; /* streams whose `closed` has not come */
};

static void
answer(struct svc_stream_handle *stream, svc_err status, const char *text,
    const struct svc_part *request)
{
	struct svc_part reply = {
	    .flags = SVC_PART_HEADERS | SVC_PART_END,
	    .content_type = request->content_type,
	    .headers = request->headers,
	    .status = status,
	    .status_text = text,
	};
	if (status == SVC_OK) {
		reply.flags |= SVC_PART_MESSAGE;
		reply.data = request->data;
		reply.len = request->len;
	}
	/* By turns, so that each test meets both ways. */
	static _Atomic unsigned turn;
	if (SVC_OPS_HAS(stream->ops, answer) && turn++ % 2 == 0) {
		assert_int_equal(
		    stream->ops->answer(stream, &reply, NULL), SVC_OK);
		return;
	}
	assert_int_equal(stream->ops->send(stream, &reply, NULL), SVC_OK);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static void
held_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	(void)stream;
	(void)part;
}

static void
held_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct server *server = stream->user;
	(void)end;
	stream->ops->release(stream, SVC_E_CANCELLED);
	pthread_mutex_lock(&server->gate.mutex);
	server->gate.saw_cancel = true;
	atomic_fetch_sub(&server->held, 1);
	pthread_cond_broadcast(&server->gate.changed);
	pthread_mutex_unlock(&server->gate.mutex);
}

static const struct svc_stream_events held_events = {
    .part = held_part,
    .closed = held_closed,
};

/* Echoes a stream part by part; what has no room waits for `writable`. */
struct echo {
	struct svc_buf waiting; /* messages as length and bytes */
	bool first, end;
};

static void
echo_push(struct svc_stream_handle *stream)
{
	struct echo *echo = stream->user;
	while (echo->waiting.len > 0) {
		uint32_t len;
		memcpy(&len, echo->waiting.data, sizeof(len));
		struct svc_part part = {
		    .flags =
			SVC_PART_MESSAGE | (echo->first ? SVC_PART_HEADERS : 0),
		    .data = echo->waiting.data + sizeof(len),
		    .len = len};
		svc_err rc = stream->ops->send(stream, &part, NULL);
		if (rc == SVC_E_AGAIN)
			return;
		assert_int_equal(rc, SVC_OK);
		echo->first = false;
		svc_buf_consume(&echo->waiting, sizeof(len) + len);
	}
	if (echo->end) {
		struct svc_part part = {.flags = SVC_PART_END};
		assert_int_equal(
		    stream->ops->send(stream, &part, NULL), SVC_OK);
		svc_buf_fini(&echo->waiting);
		svc_mem_free(echo);
		stream->ops->release(stream, SVC_E_CANCELLED);
	}
}

static void
echo_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct echo *echo = stream->user;
	if (part->flags & SVC_PART_MESSAGE) {
		uint32_t len = (uint32_t)part->len;
		svc_buf_append(&echo->waiting, &len, sizeof(len));
		svc_buf_append(&echo->waiting, part->data, part->len);
	}
	echo->end = (part->flags & SVC_PART_END) != 0;
	echo_push(stream);
}

static void
echo_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct echo *echo = stream->user;
	(void)end;
	svc_buf_fini(&echo->waiting);
	svc_mem_free(echo);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static const struct svc_stream_events echo_events = {
    .part = echo_part,
    .closed = echo_closed,
    .writable = echo_push,
};

static void
server_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	struct server *server = arg;
	const char *endpoint = first->endpoint;
	if (strcmp(endpoint, "echo") == 0) {
		answer(stream, SVC_OK, NULL, first);
	} else if (strcmp(endpoint, "fail") == 0) {
		answer(stream, SVC_E_NOT_FOUND, "no such student", first);
	} else if (strcmp(endpoint, "block") == 0) {
		pthread_mutex_lock(&server->gate.mutex);
		server->gate.waiting++;
		pthread_cond_broadcast(&server->gate.changed);
		while (!server->gate.open)
			pthread_cond_wait(
			    &server->gate.changed, &server->gate.mutex);
		server->gate.waiting--;
		pthread_mutex_unlock(&server->gate.mutex);
		answer(stream, SVC_OK, NULL, first);
	} else if (strcmp(endpoint, "hold") == 0) {
		stream->events = &held_events;
		stream->user = server;
		atomic_fetch_add(&server->held, 1);
	} else {
		struct echo *echo = svc_mem_calloc(1, sizeof(*echo));
		assert_non_null(echo);
		svc_buf_init(&echo->waiting, SIZE_MAX / 2);
		echo->first = true;
		stream->events = &echo_events;
		stream->user = echo;
		struct svc_part rest = *first;
		echo_part(stream, &rest);
	}
}

static void
server_start(struct server *server, int64_t max_message)
{
	struct svc_error err = {0};
	const void *ops;
	memset(server, 0, sizeof(*server));
	if (svc_catalogue_find(
		&svc_transport_interface, setup->plugin, &ops, &err) != SVC_OK)
		fail_msg("%s", err.text);
	server->ops = ops;
	pthread_mutex_init(&server->gate.mutex, NULL);
	svc_cond_init(&server->gate.changed);
	assert_int_equal(
	    svc_executor_create(NULL, &server->executor, &err), SVC_OK);
	/* A keepalive wakes both sides now and then, and so would help over a
	 * wake-up that was lost. */
	struct svc_transport_config config = {.executor = server->executor,
	    .limits.max_message = max_message,
	    .limits.keepalive_ms = -1,
	    .tls = setup->tls};
	assert_int_equal(
	    server->ops->create(&config, &server->self, &err), SVC_OK);
	if (server->ops->listen(server->self, setup->address, server_accept,
		server, &server->listener, &err) != SVC_OK)
		fail_msg("%s", err.text);
}

static void
server_stop(struct server *server)
{
	if (server->listener != NULL)
		server->ops->listener_destroy(server->listener);
	server->ops->destroy(server->self);
	svc_executor_destroy(server->executor);
	pthread_cond_destroy(&server->gate.changed);
	pthread_mutex_destroy(&server->gate.mutex);
}

static void
gate_await(struct server *server, int waiting)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	pthread_mutex_lock(&server->gate.mutex);
	while (server->gate.waiting != waiting)
		if (svc_cond_wait(&server->gate.changed, &server->gate.mutex,
			deadline) != SVC_OK)
			fail_msg("%d handlers wait, not %d",
			    server->gate.waiting, waiting);
	pthread_mutex_unlock(&server->gate.mutex);
}

static void
gate_open(struct server *server)
{
	pthread_mutex_lock(&server->gate.mutex);
	server->gate.open = true;
	pthread_cond_broadcast(&server->gate.changed);
	pthread_mutex_unlock(&server->gate.mutex);
}

/* ----------------------------------------------------------------- the client
 */

struct reply {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool done, closed, not_run;
	svc_err code;
	char text[256];
	char header[64];
	char content_type[64];
	struct svc_buf body;
};

static void
reply_done(struct reply *reply)
{
	pthread_mutex_lock(&reply->mutex);
	assert_false(reply->done);
	reply->done = true;
	pthread_cond_broadcast(&reply->changed);
	pthread_mutex_unlock(&reply->mutex);
}

static void
reply_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct reply *reply = stream->user;
	if (part->flags & SVC_PART_HEADERS) {
		const char *value = svc_headers_get(part->headers, "trace");
		snprintf(reply->header, sizeof(reply->header), "%s",
		    value != NULL ? value : "");
		snprintf(reply->content_type, sizeof(reply->content_type), "%s",
		    part->content_type != NULL ? part->content_type : "");
	}
	if (part->flags & SVC_PART_MESSAGE)
		assert_int_equal(
		    svc_buf_append(&reply->body, part->data, part->len),
		    SVC_OK);
	if (part->flags & SVC_PART_END) {
		reply->code = part->status;
		snprintf(reply->text, sizeof(reply->text), "%s",
		    part->status_text != NULL ? part->status_text : "");
		reply_done(reply);
	}
}

static void
reply_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct reply *reply = stream->user;
	reply->closed = true;
	reply->not_run = end->not_run;
	reply->code = end->code;
	snprintf(reply->text, sizeof(reply->text), "%s", end->text);
	reply_done(reply);
}

static const struct svc_stream_events reply_events = {
    .part = reply_part,
    .closed = reply_closed,
};

static void
reply_init(struct reply *reply)
{
	memset(reply, 0, sizeof(*reply));
	pthread_mutex_init(&reply->mutex, NULL);
	svc_cond_init(&reply->changed);
	svc_buf_init(&reply->body, SIZE_MAX / 2);
}

static void
reply_fini(struct reply *reply)
{
	svc_buf_fini(&reply->body);
	pthread_cond_destroy(&reply->changed);
	pthread_mutex_destroy(&reply->mutex);
}

static void
reply_await(struct reply *reply)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	pthread_mutex_lock(&reply->mutex);
	while (!reply->done)
		assert_int_equal(
		    svc_cond_wait(&reply->changed, &reply->mutex, deadline),
		    SVC_OK);
	pthread_mutex_unlock(&reply->mutex);
}

static void *
dial(struct server *server)
{
	struct svc_error err = {0};
	void *conn;
	if (server->ops->dial(server->self,
		server->ops->listener_address(server->listener), WAIT_MS, &conn,
		&err) != SVC_OK)
		fail_msg("%s", err.text);
	return conn;
}

static struct svc_part
request(const char *endpoint, const void *data, size_t len)
{
	return (struct svc_part){
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "student",
	    .endpoint = endpoint,
	    .content_type = "text/plain",
	    .timeout_ms = SVC_FOREVER,
	    .data = data,
	    .len = len,
	};
}

/* One blocking call; the code is that of open, the end or the answer. */
static svc_err
call(const struct svc_transport_ops *ops, void *conn, const char *endpoint,
    const void *data, size_t len, struct reply *reply)
{
	struct svc_part first = request(endpoint, data, len);
	struct svc_stream_handle *stream;
	struct svc_error err = {0};
	svc_err rc = ops->open(
	    conn, &first, SVC_OPEN_WAIT, &reply_events, reply, &stream, &err);
	if (rc != SVC_OK) {
		snprintf(reply->text, sizeof(reply->text), "%s", err.text);
		return rc;
	}
	rc = ops->wait(stream, svc_deadline(WAIT_MS));
	ops->release(stream, SVC_E_CANCELLED);
	return rc != SVC_OK ? rc : reply->code;
}

/* ------------------------------------------------------------------- the tests
 */

static void
a_reply_comes_as_it_was_given(void **state)
{
	(void)state;
	struct server server;
	struct reply reply;
	server_start(&server, 0);
	void *conn = dial(&server);
	struct svc_headers *headers = svc_headers_create();
	svc_headers_set(headers, "Trace", "abc");
	struct svc_part first = request("echo", "hello", 5);
	first.headers = headers;
	struct svc_stream_handle *stream;
	reply_init(&reply);
	assert_int_equal(server.ops->open(conn, &first, SVC_OPEN_WAIT,
			     &reply_events, &reply, &stream, NULL),
	    SVC_OK);
	assert_int_equal(
	    server.ops->wait(stream, svc_deadline(WAIT_MS)), SVC_OK);
	server.ops->release(stream, SVC_E_CANCELLED);
	assert_int_equal(reply.code, SVC_OK);
	assert_int_equal(reply.body.len, 5);
	assert_memory_equal(reply.body.data, "hello", 5);
	assert_string_equal(reply.header, "abc");
	assert_string_equal(reply.content_type, "text/plain");
	reply_fini(&reply);
	svc_headers_destroy(headers);

	reply_init(&reply);
	assert_int_equal(
	    call(server.ops, conn, "fail", "x", 1, &reply), SVC_E_NOT_FOUND);
	assert_string_equal(reply.text, "no such student");
	assert_false(reply.closed);
	reply_fini(&reply);

	reply_init(&reply);
	assert_int_equal(
	    call(server.ops, conn, "echo", NULL, 0, &reply), SVC_OK);
	assert_int_equal(reply.body.len, 0);
	reply_fini(&reply);
	server.ops->conn_destroy(conn);
	server_stop(&server);
}

static void
large_messages_are_whole_and_too_large_ones_end_one_stream(void **state)
{
	(void)state;
	struct server server;
	struct reply reply;
	size_t limit = 4u << 20;
	server_start(&server, (int64_t)limit);
	void *conn = dial(&server);
	uint8_t *data = svc_mem_alloc(limit + 1);
	assert_non_null(data);
	for (size_t i = 0; i <= limit; i++)
		data[i] = (uint8_t)(i * 31 + (i >> 8));
	for (size_t len = 1000; len <= limit; len = len * 8 + 1) {
		reply_init(&reply);
		assert_int_equal(
		    call(server.ops, conn, "echo", data, len, &reply), SVC_OK);
		assert_int_equal(reply.body.len, len);
		assert_memory_equal(reply.body.data, data, len);
		reply_fini(&reply);
	}
	reply_init(&reply);
	assert_int_equal(
	    call(server.ops, conn, "echo", data, limit, &reply), SVC_OK);
	assert_memory_equal(reply.body.data, data, limit);
	reply_fini(&reply);
	reply_init(&reply);
	assert_int_equal(
	    call(server.ops, conn, "echo", data, limit + 1, &reply),
	    SVC_E_EXHAUSTED);
	assert_non_null(strstr(reply.text, "--max_message_size"));
	reply_fini(&reply);

	/* A client with a smaller limit than the server. */
	struct svc_transport_config config = {.executor = server.executor,
	    .limits.max_message = 100,
	    .tls = setup->tls};
	void *small, *small_conn;
	assert_int_equal(server.ops->create(&config, &small, NULL), SVC_OK);
	assert_int_equal(server.ops->dial(small,
			     server.ops->listener_address(server.listener),
			     5000, &small_conn, NULL),
	    SVC_OK);
	reply_init(&reply);
	assert_int_equal(
	    call(server.ops, small_conn, "echo", data, 101, &reply),
	    SVC_E_EXHAUSTED);
	reply_fini(&reply);
	reply_init(&reply);
	assert_int_equal(
	    call(server.ops, small_conn, "echo", data, 100, &reply), SVC_OK);
	reply_fini(&reply);
	server.ops->conn_destroy(small_conn);
	svc_mem_free(data);
	server.ops->conn_destroy(conn);
	server.ops->listener_destroy(server.listener);
	server.listener = NULL;
	server.ops->destroy(small);
	server_stop(&server);
}

static void
many_calls_on_one_connection(void **state)
{
	(void)state;
	enum { CALLS = 200, ROUNDS = 10 };
	struct server server;
	static struct reply replies[CALLS];
	struct svc_stream_handle *streams[CALLS];
	server_start(&server, 0);
	void *conn = dial(&server);
	for (int round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < CALLS; i++) {
			struct svc_part first = request("echo", &i, sizeof(i));
			reply_init(&replies[i]);
			assert_int_equal(
			    server.ops->open(conn, &first, 0, &reply_events,
				&replies[i], &streams[i], NULL),
			    SVC_OK);
		}
		for (uint32_t i = 0; i < CALLS; i++) {
			reply_await(&replies[i]);
			server.ops->release(streams[i], SVC_E_CANCELLED);
			assert_int_equal(replies[i].code, SVC_OK);
			assert_int_equal(replies[i].body.len, sizeof(i));
			assert_memory_equal(
			    replies[i].body.data, &i, sizeof(i));
			reply_fini(&replies[i]);
		}
	}
	server.ops->conn_destroy(conn);
	server_stop(&server);
}

struct caller {
	pthread_t thread;
	struct server *server;
	void *conn;
	uint32_t number;
	uint32_t good;
};

static void *
call_often(void *arg)
{
	struct caller *caller = arg;
	for (uint32_t i = 0; i < 300; i++) {
		struct reply reply;
		uint32_t sent[2] = {caller->number, i};
		reply_init(&reply);
		if (call(caller->server->ops, caller->conn, "echo", sent,
			sizeof(sent), &reply) == SVC_OK &&
		    reply.body.len == sizeof(sent) &&
		    memcmp(reply.body.data, sent, sizeof(sent)) == 0)
			caller->good++;
		reply_fini(&reply);
	}
	return NULL;
}

static void
many_threads_on_one_connection(void **state)
{
	(void)state;
	enum { THREADS = 8 };
	struct server server;
	struct caller callers[THREADS];
	server_start(&server, 0);
	void *conn = dial(&server);
	for (uint32_t i = 0; i < THREADS; i++) {
		callers[i] = (struct caller){
		    .server = &server, .conn = conn, .number = i};
		assert_int_equal(svc_thread_start(&callers[i].thread, "caller",
				     call_often, &callers[i]),
		    SVC_OK);
	}
	for (int i = 0; i < THREADS; i++) {
		svc_thread_join(callers[i].thread);
		assert_int_equal(callers[i].good, 300);
	}
	server.ops->conn_destroy(conn);
	server_stop(&server);
}

static void
call_echo(struct server *server, void *conn)
{
	struct reply reply;
	reply_init(&reply);
	svc_err rc = call(server->ops, conn, "echo", "x", 1, &reply);
	if (rc != SVC_OK)
		fail_msg("error %d: %s", (int)rc, reply.text);
	reply_fini(&reply);
}

static void
blocking_handlers_stop_nobody(void **state)
{
	(void)state;
	enum { BLOCKED = 16 };
	struct server server;
	static struct reply blocked[BLOCKED];
	struct svc_stream_handle *streams[BLOCKED];
	server_start(&server, 0);
	void *conn = dial(&server), *other = dial(&server);
	for (int i = 0; i < BLOCKED; i++) {
		struct svc_part first = request("block", "b", 1);
		reply_init(&blocked[i]);
		assert_int_equal(
		    server.ops->open(conn, &first, 0, &reply_events,
			&blocked[i], &streams[i], NULL),
		    SVC_OK);
		gate_await(&server, i + 1);
		call_echo(&server, conn);
		call_echo(&server, other);
	}
	gate_open(&server);
	for (int i = 0; i < BLOCKED; i++) {
		reply_await(&blocked[i]);
		assert_int_equal(blocked[i].code, SVC_OK);
		server.ops->release(streams[i], SVC_E_CANCELLED);
		reply_fini(&blocked[i]);
	}
	server.ops->conn_destroy(conn);
	server.ops->conn_destroy(other);
	server_stop(&server);
}

static void
a_deadline_ends_the_wait_and_a_release_the_stream(void **state)
{
	(void)state;
	struct server server;
	struct reply reply;
	server_start(&server, 0);
	void *conn = dial(&server);
	struct svc_part first = request("hold", "x", 1);
	struct svc_stream_handle *stream;
	reply_init(&reply);
	assert_int_equal(server.ops->open(conn, &first, SVC_OPEN_WAIT,
			     &reply_events, &reply, &stream, NULL),
	    SVC_OK);
	assert_int_equal(
	    server.ops->wait(stream, svc_deadline(50)), SVC_E_TIMEDOUT);
	server.ops->release(stream, SVC_E_TIMEDOUT);
	int64_t deadline = svc_deadline(WAIT_MS);
	pthread_mutex_lock(&server.gate.mutex);
	while (!server.gate.saw_cancel)
		assert_int_equal(svc_cond_wait(&server.gate.changed,
				     &server.gate.mutex, deadline),
		    SVC_OK);
	pthread_mutex_unlock(&server.gate.mutex);
	assert_false(reply.done);
	reply_fini(&reply);
	reply_init(&reply);
	assert_int_equal(
	    call(server.ops, conn, "echo", "x", 1, &reply), SVC_OK);
	reply_fini(&reply);
	server.ops->conn_destroy(conn);
	server_stop(&server);
}

static void
nobody_there_is_certain_not_to_have_run(void **state)
{
	(void)state;
	struct server server;
	struct reply reply;
	struct svc_error err = {0};
	void *conn;
	server_start(&server, 0);
	assert_int_equal(
	    server.ops->dial(server.self, setup->nobody, 2000, &conn, &err),
	    SVC_OK);
	reply_init(&reply);
	svc_err rc = call(server.ops, conn, "echo", "x", 1, &reply);
	assert_true(rc == SVC_E_CLOSED ||
		    (rc == SVC_E_UNAVAILABLE && reply.closed && reply.not_run));
	assert_string_not_equal(reply.text, "");
	reply_fini(&reply);
	server.ops->conn_destroy(conn);

	assert_int_equal(
	    server.ops->dial(server.self, setup->bad, 2000, &conn, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text, "allowed"));
	void *listener;
	assert_int_equal(server.ops->listen(server.self, setup->bad,
			     server_accept, &server, &listener, &err),
	    SVC_E_INVAL);
	assert_int_equal(server.ops->listen(server.self,
			     server.ops->listener_address(server.listener),
			     server_accept, &server, &listener, &err),
	    SVC_E_EXISTS);
	assert_non_null(strstr(err.text, "in use"));
	server_stop(&server);
}

static void
draining_finishes_what_is_open(void **state)
{
	(void)state;
	struct server server;
	struct reply slow, reply;
	server_start(&server, 0);
	void *conn = dial(&server);
	struct svc_part first = request("block", "b", 1);
	struct svc_stream_handle *stream;
	reply_init(&slow);
	assert_int_equal(server.ops->open(conn, &first, 0, &reply_events, &slow,
			     &stream, NULL),
	    SVC_OK);
	gate_await(&server, 1);
	server.ops->drain(server.listener);
	reply_init(&reply);
	svc_err rc = call(server.ops, conn, "echo", "x", 1, &reply);
	assert_true(
	    rc == SVC_E_CLOSED || (rc == SVC_E_UNAVAILABLE && reply.not_run));
	reply_fini(&reply);
	gate_open(&server);
	reply_await(&slow);
	assert_int_equal(slow.code, SVC_OK);
	server.ops->release(stream, SVC_E_CANCELLED);
	reply_fini(&slow);
	server.ops->conn_destroy(conn);
	server_stop(&server);
}

static void
closing_ends_every_stream_once(void **state)
{
	(void)state;
	enum { HELD = 20 };
	struct server server;
	static struct reply replies[HELD];
	struct svc_stream_handle *streams[HELD];
	server_start(&server, 0);
	void *conn = dial(&server);
	for (int i = 0; i < HELD; i++) {
		struct svc_part first = request("hold", "x", 1);
		reply_init(&replies[i]);
		assert_int_equal(
		    server.ops->open(conn, &first, 0, &reply_events,
			&replies[i], &streams[i], NULL),
		    SVC_OK);
	}
	struct reply reply;
	reply_init(&reply);
	assert_int_equal(
	    call(server.ops, conn, "echo", "x", 1, &reply), SVC_OK);
	reply_fini(&reply);
	assert_int_equal(atomic_load(&server.held), HELD);
	server.ops->listener_destroy(server.listener);
	server.listener = NULL;
	assert_int_equal(atomic_load(&server.held), 0);
	for (int i = 0; i < HELD; i++) {
		reply_await(&replies[i]);
		assert_true(replies[i].closed);
		assert_int_equal(replies[i].code, SVC_E_UNAVAILABLE);
		assert_false(replies[i].not_run);
		server.ops->release(streams[i], SVC_E_CANCELLED);
		reply_fini(&replies[i]);
	}
	reply_init(&reply);
	assert_int_equal(
	    call(server.ops, conn, "echo", "x", 1, &reply), SVC_E_CLOSED);
	reply_fini(&reply);
	server.ops->conn_destroy(conn);
	server_stop(&server);
}

/* A holder whose `closed` takes its time. */
static void
slow_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct server *server = stream->user;
	(void)end;
	pthread_mutex_lock(&server->gate.mutex);
	server->gate.waiting++;
	pthread_cond_broadcast(&server->gate.changed);
	while (!server->gate.open)
		pthread_cond_wait(&server->gate.changed, &server->gate.mutex);
	server->gate.waiting--;
	pthread_mutex_unlock(&server->gate.mutex);
}

static void
a_wait_lasts_until_the_end_was_delivered(void **state)
{
	(void)state;
	static const struct svc_stream_events events = {
	    .part = held_part,
	    .closed = slow_closed,
	};
	struct server server;
	server_start(&server, 0);
	void *conn = dial(&server);
	struct svc_part first = request("hold", "x", 1);
	struct svc_stream_handle *stream;
	assert_int_equal(server.ops->open(conn, &first, SVC_OPEN_WAIT, &events,
			     &server, &stream, NULL),
	    SVC_OK);
	server.ops->listener_destroy(server.listener);
	server.listener = NULL;
	gate_await(&server, 1);
	assert_int_equal(
	    server.ops->wait(stream, svc_deadline(50)), SVC_E_TIMEDOUT);
	gate_open(&server);
	assert_int_equal(
	    server.ops->wait(stream, svc_deadline(WAIT_MS)), SVC_OK);
	server.ops->release(stream, SVC_E_CANCELLED);
	server.ops->conn_destroy(conn);
	server_stop(&server);
}

/* A stream of many messages each way. */
struct pour {
	struct reply reply;
	_Atomic uint32_t next; /* expected */
	bool room;
};

/* As long as messages come: a busy machine takes its time for many. */
static void
pour_await(struct pour *pour, const bool *what)
{
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&pour->reply.mutex);
	while (!*what && rc == SVC_OK) {
		uint32_t before = atomic_load(&pour->next);
		rc = svc_cond_wait(&pour->reply.changed, &pour->reply.mutex,
		    svc_deadline(WAIT_MS));
		if (atomic_load(&pour->next) != before)
			rc = SVC_OK;
	}
	pthread_mutex_unlock(&pour->reply.mutex);
	assert_int_equal(rc, SVC_OK);
}

static void
pour_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct pour *pour = stream->user;
	if (part->flags & SVC_PART_MESSAGE) {
		uint32_t number;
		assert_true(part->len >= sizeof(number));
		memcpy(&number, part->data, sizeof(number));
		assert_int_equal(number, pour->next);
		pour->next++;
	}
	if (part->flags & SVC_PART_END)
		reply_done(&pour->reply);
}

static void
pour_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct pour *pour = stream->user;
	pour->reply.closed = true;
	pour->reply.code = end->code;
	reply_done(&pour->reply);
}

static void
pour_writable(struct svc_stream_handle *stream)
{
	struct pour *pour = stream->user;
	pthread_mutex_lock(&pour->reply.mutex);
	pour->room = true;
	pthread_cond_broadcast(&pour->reply.changed);
	pthread_mutex_unlock(&pour->reply.mutex);
}

static void
streams_keep_order_and_count(void **state)
{
	(void)state;
	static const struct svc_stream_events events = {
	    .part = pour_part,
	    .closed = pour_closed,
	    .writable = pour_writable,
	};
	enum { MESSAGES = 20000 };
	struct server server;
	struct pour pour = {0};
	server_start(&server, 0);
	void *conn = dial(&server);
	struct svc_part first = request("stream", NULL, 0);
	first.flags = SVC_PART_HEADERS;
	struct svc_stream_handle *stream;
	reply_init(&pour.reply);
	assert_int_equal(
	    server.ops->open(conn, &first, 0, &events, &pour, &stream, NULL),
	    SVC_OK);
	uint8_t message[300] = {0};
	for (uint32_t i = 0; i < MESSAGES;) {
		memcpy(message, &i, sizeof(i));
		struct svc_part part = {.flags = SVC_PART_MESSAGE,
		    .data = message,
		    .len = sizeof(message)};
		pthread_mutex_lock(&pour.reply.mutex);
		pour.room = false;
		pthread_mutex_unlock(&pour.reply.mutex);
		svc_err rc = server.ops->send(stream, &part, NULL);
		if (rc == SVC_OK) {
			i++;
			continue;
		}
		assert_int_equal(rc, SVC_E_AGAIN);
		pour_await(&pour, &pour.room);
	}
	struct svc_part end = {.flags = SVC_PART_END};
	assert_int_equal(server.ops->send(stream, &end, NULL), SVC_OK);
	assert_int_equal(server.ops->send(stream, &end, NULL), SVC_E_INVAL);
	pour_await(&pour, &pour.reply.done);
	assert_false(pour.reply.closed);
	assert_int_equal(pour.next, MESSAGES);
	server.ops->release(stream, SVC_E_CANCELLED);
	reply_fini(&pour.reply);
	server.ops->conn_destroy(conn);
	server_stop(&server);
}

int
svc_conformance_transport(const struct svc_conformance_transport *with)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_reply_comes_as_it_was_given),
	    cmocka_unit_test(
		large_messages_are_whole_and_too_large_ones_end_one_stream),
	    cmocka_unit_test(many_calls_on_one_connection),
	    cmocka_unit_test(many_threads_on_one_connection),
	    cmocka_unit_test(blocking_handlers_stop_nobody),
	    cmocka_unit_test(a_deadline_ends_the_wait_and_a_release_the_stream),
	    cmocka_unit_test(nobody_there_is_certain_not_to_have_run),
	    cmocka_unit_test(draining_finishes_what_is_open),
	    cmocka_unit_test(closing_ends_every_stream_once),
	    cmocka_unit_test(a_wait_lasts_until_the_end_was_delivered),
	    cmocka_unit_test(streams_keep_order_and_count),
	};
	setup = with;
	int failed = cmocka_run_group_tests_name(
	    with->title != NULL ? with->title : with->plugin, tests, NULL,
	    NULL);
	return failed + svc_conformance_transport_flow(with) +
	       svc_conformance_transport_call(with);
}
