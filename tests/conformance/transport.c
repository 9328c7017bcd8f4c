/* SPDX-License-Identifier: Apache-2.0 */
/* Calls and streams: what is sent comes whole and in order, whatever goes on
 * beside it. */
#include "conformance/transport_echo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct svc_conformance_transport *setup;

static void
a_reply_comes_as_it_was_given(void **state)
{
	(void)state;
	struct server server;
	struct reply reply;
	server_start(&server, setup, 0);
	void *conn = server_dial(&server);
	struct svc_headers *headers = svc_headers_create();
	svc_headers_set(headers, "Trace", "abc");
	struct svc_part first = request_to("echo", "hello", 5);
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
	    call_and_wait(server.ops, conn, "fail", "x", 1, &reply),
	    SVC_E_NOT_FOUND);
	assert_string_equal(reply.text, "no such student");
	assert_false(reply.closed);
	reply_fini(&reply);

	reply_init(&reply);
	assert_int_equal(
	    call_and_wait(server.ops, conn, "echo", NULL, 0, &reply), SVC_OK);
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
	server_start(&server, setup, (int64_t)limit);
	void *conn = server_dial(&server);
	uint8_t *data = svc_mem_alloc(limit + 1);
	assert_non_null(data);
	for (size_t i = 0; i <= limit; i++)
		data[i] = (uint8_t)(i * 31 + (i >> 8));
	for (size_t len = 1000; len <= limit; len = len * 8 + 1) {
		reply_init(&reply);
		assert_int_equal(
		    call_and_wait(server.ops, conn, "echo", data, len, &reply),
		    SVC_OK);
		assert_int_equal(reply.body.len, len);
		assert_memory_equal(reply.body.data, data, len);
		reply_fini(&reply);
	}
	reply_init(&reply);
	assert_int_equal(
	    call_and_wait(server.ops, conn, "echo", data, limit, &reply),
	    SVC_OK);
	assert_memory_equal(reply.body.data, data, limit);
	reply_fini(&reply);
	reply_init(&reply);
	assert_int_equal(
	    call_and_wait(server.ops, conn, "echo", data, limit + 1, &reply),
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
	    call_and_wait(server.ops, small_conn, "echo", data, 101, &reply),
	    SVC_E_EXHAUSTED);
	reply_fini(&reply);
	reply_init(&reply);
	assert_int_equal(
	    call_and_wait(server.ops, small_conn, "echo", data, 100, &reply),
	    SVC_OK);
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
	server_start(&server, setup, 0);
	void *conn = server_dial(&server);
	for (int round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < CALLS; i++) {
			struct svc_part first =
			    request_to("echo", &i, sizeof(i));
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
		if (call_and_wait(caller->server->ops, caller->conn, "echo",
			sent, sizeof(sent), &reply) == SVC_OK &&
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
	server_start(&server, setup, 0);
	void *conn = server_dial(&server);
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
call_echo(struct server *server, void *conn, const void *data, size_t len)
{
	struct reply reply;
	reply_init(&reply);
	svc_err rc =
	    call_and_wait(server->ops, conn, "echo", data, len, &reply);
	if (rc != SVC_OK)
		fail_msg("error %d: %s", (int)rc, reply.text);
	reply_fini(&reply);
}

/* And each finds its request as it came, though others are read meanwhile. */
static void
blocking_handlers_stop_nobody(void **state)
{
	(void)state;
	enum { BLOCKED = 16, LEN = 700 };
	struct server server;
	static uint8_t data[BLOCKED][LEN], other_data[LEN];
	static struct reply blocked[BLOCKED];
	struct svc_stream_handle *streams[BLOCKED];
	server_start(&server, setup, 0);
	void *conn = server_dial(&server), *other = server_dial(&server);
	for (int i = 0; i < BLOCKED; i++) {
		memset(data[i], 'a' + i, LEN);
		struct svc_part first = request_to("block", data[i], LEN);
		reply_init(&blocked[i]);
		assert_int_equal(
		    server.ops->open(conn, &first, 0, &reply_events,
			&blocked[i], &streams[i], NULL),
		    SVC_OK);
		call_echo(&server, conn, other_data, LEN);
		gate_await(&server, i + 1);
		call_echo(&server, conn, "x", 1);
		call_echo(&server, other, "x", 1);
	}
	gate_open(&server);
	for (int i = 0; i < BLOCKED; i++) {
		reply_await(&blocked[i]);
		assert_int_equal(blocked[i].code, SVC_OK);
		assert_int_equal(blocked[i].body.len, LEN);
		assert_memory_equal(blocked[i].body.data, data[i], LEN);
		server.ops->release(streams[i], SVC_E_CANCELLED);
		reply_fini(&blocked[i]);
	}
	server.ops->conn_destroy(conn);
	server.ops->conn_destroy(other);
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
	server_start(&server, setup, 0);
	void *conn = server_dial(&server);
	struct svc_part first = request_to("stream", NULL, 0);
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
	    cmocka_unit_test(streams_keep_order_and_count),
	};
	setup = with;
	/* A failure ends the program, by its own message: threads that a test
	 * has left behind, or in which it failed, would crash the next one. */
	setenv("CMOCKA_TEST_ABORT", "1", 0);
	int failed = cmocka_run_group_tests_name(
	    with->title != NULL ? with->title : with->plugin, tests, NULL,
	    NULL);
	return failed + svc_conformance_transport_end(with) +
	       svc_conformance_transport_flow(with) +
	       svc_conformance_transport_silent(with) +
	       svc_conformance_transport_address(with) +
	       svc_conformance_transport_gone(with) +
	       svc_conformance_transport_call(with);
}
