/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_MUX_TEST_H
#define SVC_MUX_TEST_H

/* The protocol engine by itself: two ends whose bytes the test carries, or one
 * end and a peer that the test plays. There is no loop and no other thread. */

#include "mux_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define UNUSED __attribute__((unused))

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
	char text[256], trailer[32], header[32];
};
static struct seen served[64]; /* of streams that were accepted, in order */
static size_t n_served;
static bool server_holds;

static UNUSED void
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

static UNUSED void
held(struct svc_mux *mux)
{
	(void)mux;
}

static UNUSED void
freed(struct svc_mux *mux)
{
	((struct end *)(void *)mux)->freed = true;
}

static UNUSED void
closed(struct svc_mux *mux)
{
	((struct end *)(void *)mux)->closed = true;
}

static const struct svc_mux_ops flushing = {
    .flush = flush, .free = freed, .close = closed};
/* The socket is full. */
static const struct svc_mux_ops holding = {
    .flush = held, .free = freed, .close = closed};

static UNUSED void
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

static UNUSED void
saw_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct seen *seen = stream->user;
	assert_false(seen->closed);
	seen->closed = true;
	seen->not_run = end->not_run;
	seen->code = end->code;
	snprintf(seen->text, sizeof(seen->text), "%s", end->text);
}

static UNUSED void
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

static UNUSED void
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

static UNUSED void
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

static UNUSED void
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

static UNUSED void
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
static UNUSED void
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

static UNUSED void
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

static UNUSED uint8_t *
pattern(size_t len)
{
	uint8_t *data = malloc(len + 1);
	assert_non_null(data);
	memset(data, 0x55, len + 1);
	for (size_t i = 0; i + 1 < len; i += 4093)
		data[i] = (uint8_t)(i / 4093);
	return data;
}

static UNUSED svc_err
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

static UNUSED svc_err
send_part(struct seen *seen, unsigned flags, const void *data, size_t len)
{
	struct svc_part part = {.flags = flags, .data = data, .len = len};
	return svc_mux_send(seen->stream, &part, NULL);
}

static UNUSED void
let_go(struct seen *seen)
{
	svc_mux_release(seen->stream, SVC_E_CANCELLED);
	seen->stream = NULL;
}

#endif
