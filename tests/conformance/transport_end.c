/* SPDX-License-Identifier: Apache-2.0 */
/* How streams, connections and listeners end. */
#include "conformance/transport_echo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct svc_conformance_transport *setup;

static void
a_deadline_ends_the_wait_and_a_release_the_stream(void **state)
{
	(void)state;
	struct server server;
	struct reply reply;
	server_start(&server, setup, 0);
	void *conn = server_dial(&server);
	struct svc_part first = request_to("hold", "x", 1);
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
	    call_and_wait(server.ops, conn, "echo", "x", 1, &reply), SVC_OK);
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
	server_start(&server, setup, 0);
	assert_int_equal(
	    server.ops->dial(server.self, setup->nobody, 2000, &conn, &err),
	    SVC_OK);
	reply_init(&reply);
	svc_err rc = call_and_wait(server.ops, conn, "echo", "x", 1, &reply);
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
	server_start(&server, setup, 0);
	void *conn = server_dial(&server);
	struct svc_part first = request_to("block", "b", 1);
	struct svc_stream_handle *stream;
	reply_init(&slow);
	assert_int_equal(server.ops->open(conn, &first, 0, &reply_events, &slow,
			     &stream, NULL),
	    SVC_OK);
	gate_await(&server, 1);
	server.ops->drain(server.listener);
	reply_init(&reply);
	svc_err rc = call_and_wait(server.ops, conn, "echo", "x", 1, &reply);
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
	server_start(&server, setup, 0);
	void *conn = server_dial(&server);
	for (int i = 0; i < HELD; i++) {
		struct svc_part first = request_to("hold", "x", 1);
		reply_init(&replies[i]);
		assert_int_equal(
		    server.ops->open(conn, &first, 0, &reply_events,
			&replies[i], &streams[i], NULL),
		    SVC_OK);
	}
	struct reply reply;
	reply_init(&reply);
	assert_int_equal(
	    call_and_wait(server.ops, conn, "echo", "x", 1, &reply), SVC_OK);
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
	    call_and_wait(server.ops, conn, "echo", "x", 1, &reply),
	    SVC_E_CLOSED);
	reply_fini(&reply);
	server.ops->conn_destroy(conn);
	server_stop(&server);
}

static void
no_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	(void)stream;
	(void)part;
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
	    .part = no_part,
	    .closed = slow_closed,
	};
	struct server server;
	server_start(&server, setup, 0);
	void *conn = server_dial(&server);
	struct svc_part first = request_to("hold", "x", 1);
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

int
svc_conformance_transport_end(const struct svc_conformance_transport *with)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_deadline_ends_the_wait_and_a_release_the_stream),
	    cmocka_unit_test(nobody_there_is_certain_not_to_have_run),
	    cmocka_unit_test(draining_finishes_what_is_open),
	    cmocka_unit_test(closing_ends_every_stream_once),
	    cmocka_unit_test(a_wait_lasts_until_the_end_was_delivered),
	};
	setup = with;
	return cmocka_run_group_tests_name(with->plugin, tests, NULL, NULL);
}
