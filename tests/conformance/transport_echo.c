/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport_echo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ----------------------------------------------------------------- the server
 */

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

void
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

void
server_start(struct server *server,
    const struct svc_conformance_transport *setup, int64_t max_message)
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

void
server_stop(struct server *server)
{
	if (server->listener != NULL)
		server->ops->listener_destroy(server->listener);
	server->ops->destroy(server->self);
	svc_executor_destroy(server->executor);
	pthread_cond_destroy(&server->gate.changed);
	pthread_mutex_destroy(&server->gate.mutex);
}

void
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

void
gate_open(struct server *server)
{
	pthread_mutex_lock(&server->gate.mutex);
	server->gate.open = true;
	pthread_cond_broadcast(&server->gate.changed);
	pthread_mutex_unlock(&server->gate.mutex);
}

/* ----------------------------------------------------------------- the client
 */

void
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

const struct svc_stream_events reply_events = {
    .part = reply_part,
    .closed = reply_closed,
};

void
reply_init(struct reply *reply)
{
	memset(reply, 0, sizeof(*reply));
	pthread_mutex_init(&reply->mutex, NULL);
	svc_cond_init(&reply->changed);
	svc_buf_init(&reply->body, SIZE_MAX / 2);
}

void
reply_fini(struct reply *reply)
{
	svc_buf_fini(&reply->body);
	pthread_cond_destroy(&reply->changed);
	pthread_mutex_destroy(&reply->mutex);
}

void
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

void *
server_dial(struct server *server)
{
	struct svc_error err = {0};
	void *conn;
	if (server->ops->dial(server->self,
		server->ops->listener_address(server->listener), WAIT_MS, &conn,
		&err) != SVC_OK)
		fail_msg("%s", err.text);
	return conn;
}

struct svc_part
request_to(const char *endpoint, const void *data, size_t len)
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

svc_err
call_and_wait(const struct svc_transport_ops *ops, void *conn,
    const char *endpoint, const void *data, size_t len, struct reply *reply)
{
	struct svc_part first = request_to(endpoint, data, len);
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
