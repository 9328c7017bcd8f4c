/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport_sides.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct sides sides;

static void
side_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct side *side = stream->user;
	pthread_mutex_lock(&sides.mutex);
	if (part->flags & SVC_PART_MESSAGE) {
		/* Each begins with its number, if it is long enough. */
		uint32_t number;
		if (part->len >= sizeof(number)) {
			memcpy(&number, part->data, sizeof(number));
			assert_int_equal(number, side->count);
		}
		side->count++;
		sides.came++;
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
	pthread_cond_broadcast(&sides.changed);
	pthread_mutex_unlock(&sides.mutex);
}

static void
side_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct side *side = stream->user;
	pthread_mutex_lock(&sides.mutex);
	side->closed = true;
	side->not_run = end->not_run;
	side->silent = end->silent;
	side->code = end->code;
	snprintf(side->text, sizeof(side->text), "%s", end->text);
	pthread_cond_broadcast(&sides.changed);
	pthread_mutex_unlock(&sides.mutex);
}

static void
side_writable(struct svc_stream_handle *stream)
{
	struct side *side = stream->user;
	pthread_mutex_lock(&sides.mutex);
	side->room = true;
	pthread_cond_broadcast(&sides.changed);
	pthread_mutex_unlock(&sides.mutex);
}

struct side
side_look(const struct side *side)
{
	pthread_mutex_lock(&sides.mutex);
	struct side now = *side;
	pthread_mutex_unlock(&sides.mutex);
	return now;
}

const struct svc_stream_events side_keeps = {.part = side_part,
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
const struct svc_stream_events side_keeps_many = {.part = side_part,
    .closed = side_closed,
    .writable = side_writable,
    .holds = true,
    .messages = side_messages};
const struct svc_stream_events side_reads = {
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
	stream->events = sides.events;
	pthread_mutex_lock(&sides.mutex);
	side->next = sides.accepted;
	sides.accepted = side;
	pthread_cond_broadcast(&sides.changed);
	pthread_mutex_unlock(&sides.mutex);
}

void
sides_start(const struct svc_conformance_transport *setup,
    const struct svc_transport_limits *limits,
    const struct svc_stream_events *events)
{
	struct svc_error err = {0};
	const void *ops;
	memset(&sides, 0, sizeof(sides));
	pthread_mutex_init(&sides.mutex, NULL);
	svc_cond_init(&sides.changed);
	sides.events = events;
	if (svc_catalogue_find(
		&svc_transport_interface, setup->plugin, &ops, &err) != SVC_OK)
		fail_msg("%s", err.text);
	sides.ops = ops;
	assert_int_equal(
	    svc_executor_create(NULL, &sides.executor, &err), SVC_OK);
	struct svc_transport_config config = {
	    .executor = sides.executor, .tls = setup->tls};
	if (limits != NULL)
		config.limits = *limits;
	if (config.limits.handshake_ms == 0)
		config.limits.handshake_ms = WAIT_MS;
	assert_int_equal(sides.ops->create(&config, &sides.self, &err), SVC_OK);
	if (sides.ops->listen(sides.self, setup->address, flow_accept, NULL,
		&sides.listener, &err) != SVC_OK)
		fail_msg("%s", err.text);
}

void
sides_stop(void *conn)
{
	while (sides.accepted != NULL) {
		struct side *side = sides.accepted;
		sides.accepted = side->next;
		sides.ops->release(side->stream, SVC_E_CANCELLED);
		svc_mem_free(side);
	}
	if (conn != NULL)
		sides.ops->conn_destroy(conn);
	sides.ops->listener_destroy(sides.listener);
	sides.ops->destroy(sides.self);
	svc_executor_destroy(sides.executor);
	pthread_cond_destroy(&sides.changed);
	pthread_mutex_destroy(&sides.mutex);
}

void *
sides_dial(const char *address)
{
	struct svc_error err = {0};
	void *conn;
	if (sides.ops->dial(sides.self, address, WAIT_MS, &conn, &err) !=
	    SVC_OK)
		fail_msg("%s", err.text);
	return conn;
}

svc_err
side_open(void *conn, const char *endpoint, unsigned flags, const void *data,
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
	    sides.ops->open(conn, &first, 0, events, side, &side->stream, &err);
	if (rc != SVC_OK)
		snprintf(side->text, sizeof(side->text), "%s", err.text);
	return rc;
}
