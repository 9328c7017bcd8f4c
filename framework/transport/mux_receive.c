/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages that come in pieces, and the credit that the peer has.
 *
 * Each PART frame costs its length. The cost is taken from the window of its
 * stream and of the connection when the frame comes, and given back (by WINDOW
 * frames, when half a window is due) when what it carried is consumed: when it
 * is delivered, or when a holder that keeps messages says so.
 *
 * With a small window the sender of a quick stream waits for credit again and
 * again, and each time both sides have threads to wake. So a window grows, up
 * to limits.stream_window, while its holder consumes half of it in 10 ms, that
 * is to what it takes in 20 ms or so; and becomes smaller again, by credit that
 * is not given back, when half of it lasts for 100 ms. Together the windows of
 * a connection grow by half of the connection's at most, so that a few that
 * were quick and are not read any more do not take all of it.
 *
 * A message larger than the window could never be whole that way. So one stream
 * at a time, the oldest that has nothing but such a message waiting and no
 * credit left for it, is granted more: its pieces need no credit of the
 * connection, which others may have used up, and are given back as they come,
 * as a loan that what is consumed of it later pays off first. While more than
 * one largest message is out on loan nobody is granted more, so that what a
 * connection can make us keep is bounded by its window and two largest
 * messages.
 */
#include "mux_private.h"

#include <string.h>

/* To consume half a window; see above. */
#define QUICK_US 10000
#define SLOW_US 100000

static size_t
cost_of(const struct frame *frame)
{
	return FRAME_SIZE + (size_t)frame->length;
}

/* The connection's credit for so much may be given back. */
static void
give_back(struct svc_mux *mux, size_t bytes)
{
	mux->freed += (uint32_t)bytes;
	if (mux->freed < mux->config.limits.conn_window / 2)
		return;
	mux_queue_frame(mux, FRAME_WINDOW, 0, 0, mux->freed, NULL, 0);
	mux->window += mux->freed;
	mux->freed = 0;
}

static void
tell(struct svc_mux_stream *stream, uint8_t flags)
{
	if (!stream->listed || stream->recv_end)
		return;
	mux_queue_frame(stream->mux, FRAME_WINDOW, flags, stream->id,
	    stream->freed, NULL, 0);
	stream->window += stream->freed;
	stream->freed = 0;
}

static uint32_t
window_of(const struct svc_mux_stream *stream)
{
	return stream->mux->first_window + stream->grown;
}

/* Half of the window is about to be given back: how long did its holder take to
 * consume that? */
static void
fit_window(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	const struct svc_transport_limits *limits = &mux->config.limits;
	int64_t now_us = svc_now_us(), took_us = now_us - stream->fitted_at_us;
	bool first = stream->fitted_at_us == 0;
	stream->fitted_at_us = now_us;
	if (first || took_us <= 0) /* or the clock is a manual one */
		return;
	uint32_t window = window_of(stream), change = 0;
	if (took_us <= QUICK_US) {
		uint32_t room = limits->stream_window - window;
		uint32_t free = limits->conn_window / 2 - mux->grown;
		change = window < room ? window : room;
		change = change < free ? change : free;
		stream->grown += change;
		mux->grown += change;
		stream->freed += change;
	} else if (took_us > SLOW_US) {
		/* Of the half some is left to be given back. */
		change =
		    window / 4 < stream->grown ? window / 4 : stream->grown;
		stream->grown -= change;
		mux->grown -= change;
		stream->freed -= change;
	}
}

static void
give_back_both(struct svc_mux_stream *stream, size_t bytes, bool consumed)
{
	give_back(stream->mux, bytes);
	stream->freed += (uint32_t)bytes;
	if (stream->freed < window_of(stream) / 2 || !stream->listed ||
	    stream->recv_end)
		return;
	if (consumed)
		fit_window(stream);
	tell(stream, 0);
}

void
mux_drop_window(struct svc_mux_stream *stream)
{
	stream->mux->grown -= stream->grown;
	stream->grown = 0;
}

/* ---------------------------------------------------------------- granting */

static void
lend(struct svc_mux_stream *stream, size_t bytes)
{
	stream->loan += bytes;
	stream->mux->loaned += bytes;
	give_back_both(stream, bytes, false);
}

/* Only a stream that has nothing else unconsumed: who does not read what came
 * before gets no more. And only when its peer can send no more of the message
 * than it has: so it cannot be at the next one when it reads this. */
static bool
grant(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	if (mux->granted != NULL || stream->assembly == NULL ||
	    stream->unconsumed != stream->assembly->cost ||
	    (stream->window > 0 && mux->window > 0) ||
	    mux->loaned > (uint64_t)mux->config.limits.max_message)
		return false;
	mux->granted = stream;
	stream->moved = mux->ticks;
	size_t due = stream->unconsumed - stream->loan;
	stream->loan += due;
	mux->loaned += due;
	stream->freed += (uint32_t)due;
	tell(stream, FRAME_GRANT);
	give_back(mux, due);
	return true;
}

static void
grant_next(struct svc_mux *mux)
{
	for (struct svc_mux_node *node = mux->assembling.first;
	     node != NULL && mux->granted == NULL; node = node->next)
		if (grant(MUX_STREAM_OF(node, assembly_node)))
			return;
}

bool
mux_take(struct svc_mux *mux, struct svc_mux_stream *stream,
    const struct frame *frame)
{
	size_t cost = cost_of(frame);
	if ((frame->flags & SVC_PART_MESSAGE) &&
	    !(frame->flags & SVC_PART_HEADERS)) {
		if (stream != NULL && stream->window <= 0)
			return false;
		if (!(frame->flags & SVC_PART_END) && mux->window <= 0 &&
		    (stream == NULL || mux->granted != stream))
			return false;
	}
	bool had = mux->window > 0;
	mux->window -= (int64_t)cost;
	if (stream != NULL) {
		stream->window -= (int64_t)cost;
		stream->unconsumed += cost;
	} else {
		give_back(mux, cost);
	}
	/* Those in pieces wait for the connection from here on. */
	if (had && mux->window <= 0)
		grant_next(mux);
	return true;
}

void
mux_take_whole(struct svc_mux *mux, size_t cost)
{
	bool had = mux->window > 0;
	mux->window -= (int64_t)cost;
	give_back(mux, cost);
	if (had && mux->window <= 0)
		grant_next(mux);
}

void
mux_consume(struct svc_mux_stream *stream, size_t bytes)
{
	struct svc_mux *mux = stream->mux;
	if (bytes > stream->unconsumed)
		bytes = stream->unconsumed;
	stream->unconsumed -= bytes;
	size_t paid = bytes < stream->loan ? bytes : stream->loan;
	stream->loan -= paid;
	mux->loaned -= paid;
	if (bytes > paid)
		give_back_both(stream, bytes - paid, true);
	if (stream->assembly != NULL)
		grant(stream);
	if (paid > 0)
		grant_next(mux);
}

void
mux_consume_part(
    struct svc_mux_stream *stream, const struct svc_part *part, size_t cost)
{
	const struct svc_stream_events *events = stream->handle.events;
	if (events != NULL && events->holds &&
	    (part->flags & SVC_PART_MESSAGE)) {
		stream->held += part->len;
		stream->held_messages++;
		cost -= part->len + FRAME_SIZE;
	}
	mux_consume(stream, cost);
}

void
svc_mux_credit(struct svc_stream_handle *handle, size_t bytes)
{
	struct svc_mux_stream *stream = stream_of(handle);
	struct svc_mux *mux = stream->mux;
	svc_biased_lock_take(&mux->lock);
	mux_adopt(mux, stream);
	bool all = bytes > stream->held;
	if (all)
		bytes = stream->held;
	stream->held -= bytes;
	/* Each message has the cost of a frame's header too. Who gives credit
	 * for several at once gives all of it with the last. */
	uint32_t messages = stream->held_messages > 0 ? 1 : 0;
	if (all || (stream->held == 0 && bytes > 0))
		messages = stream->held_messages;
	stream->held_messages -= messages;
	mux_consume(stream, bytes + (size_t)messages * FRAME_SIZE);
	mux_unlock_and_flush(mux);
}

/* ------------------------------------------------------------------- pieces
 */

struct queued_part *
mux_queued(const struct frame *frame, const uint8_t *payload)
{
	struct queued_part *queued =
	    svc_mem_alloc(sizeof(*queued) + frame->length);
	if (queued == NULL)
		return NULL;
	*queued = (struct queued_part){
	    .first = *frame,
	    .cost = cost_of(frame),
	    .len = frame->length,
	    .cap = frame->length,
	};
	if (frame->length > 0)
		memcpy(queued->payload, payload, frame->length);
	return queued;
}

/* Room for `more` bytes; it grows with what has come and by no promise. */
static struct queued_part *
reserve(struct svc_mux *mux, struct queued_part *part, size_t more)
{
	size_t need = part->len + more;
	if (need <= part->cap)
		return part;
	size_t most =
	    (size_t)mux->config.limits.max_message + 2 * (size_t)FRAME_MAX_HEAD;
	size_t cap = part->cap * 2;
	if (cap > most)
		cap = most;
	if (cap < need)
		cap = need;
	part = svc_mem_realloc(part, sizeof(*part) + cap);
	if (part != NULL)
		part->cap = cap;
	return part;
}

svc_err
mux_assemble(struct svc_mux_stream *stream, const struct frame *frame,
    const uint8_t *payload, struct svc_error *err)
{
	struct svc_mux *mux = stream->mux;
	struct queued_part *part = stream->assembly;
	size_t body = frame->length - frame->head;
	size_t had = part != NULL ? part->first.length - part->first.head : 0;
	if (had + body > (uint64_t)mux->config.limits.max_message)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "message of more than %lld bytes, the limit "
		    "(--max_message_size)",
		    (long long)mux->config.limits.max_message);
	if (part == NULL) {
		part = mux_queued(frame, payload);
		if (part == NULL)
			return svc_error_set(err, SVC_E_NOMEM, "out of memory");
		part->first.flags &= (uint8_t)~FRAME_MORE;
		mux_append(&mux->assembling, &stream->assembly_node);
	} else {
		part = reserve(mux, part, frame->length);
		if (part == NULL)
			return svc_error_set(err, SVC_E_NOMEM, "out of memory");
		memcpy(part->payload + part->len, payload + frame->head, body);
		part->len += body;
		memcpy(part->payload + part->len, payload, frame->head);
		part->len += frame->head;
		part->first.length += (uint32_t)body;
		part->cost += cost_of(frame);
		if (frame->flags & SVC_PART_END) {
			part->last = *frame;
			part->last.flags = SVC_PART_END;
			part->last.length = frame->head;
		}
	}
	stream->assembly = part;
	stream->moved = mux->ticks;
	if (mux->granted == stream)
		lend(stream, cost_of(frame));
	else
		grant(stream);
	return SVC_OK;
}

struct queued_part *
mux_assembled(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	struct queued_part *part = stream->assembly;
	stream->assembly = NULL;
	mux_remove(&stream->assembly_node);
	if (mux->granted == stream) {
		mux->granted = NULL;
		grant_next(mux);
	}
	return part;
}

void
mux_drop_assembly(struct svc_mux_stream *stream)
{
	if (stream->assembly == NULL)
		return;
	struct queued_part *part = mux_assembled(stream);
	mux_consume(stream, part->cost);
	svc_mem_free(part);
}

svc_err
mux_decode(struct svc_mux_stream *stream, const struct queued_part *queued,
    struct svc_part *ret_part, struct svc_headers **ret_headers,
    struct svc_error *err)
{
	bool request = stream->mux->config.server;
	struct svc_part part, end;
	struct svc_headers *headers = NULL, *trailers = NULL;
	svc_err rc = part_decode(
	    &queued->first, request, queued->payload, &part, &headers, err);
	if (rc == SVC_OK && queued->last.flags != 0) {
		const uint8_t *head = queued->payload + queued->first.length;
		rc = part_decode(
		    &queued->last, request, head, &end, &trailers, err);
		if (rc == SVC_OK && trailers != NULL &&
		    (part.flags & SVC_PART_HEADERS)) {
			/* They are decoded once more on their turn. */
			svc_headers_destroy(trailers);
			trailers = NULL;
			struct queued_part *rest =
			    mux_queued(&queued->last, head);
			if (rest == NULL) {
				rc = svc_error_set(
				    err, SVC_E_NOMEM, "out of memory");
			} else {
				rest->cost = 0;
				rest->next = stream->parts;
				if (stream->parts == NULL)
					stream->last_part = &rest->next;
				stream->parts = rest;
			}
		} else if (rc == SVC_OK) {
			part.flags |= SVC_PART_END;
			part.status = end.status;
			part.status_text = end.status_text;
			if (trailers != NULL) {
				part.headers = trailers;
				headers = trailers;
			}
		}
	}
	if (rc != SVC_OK) {
		svc_headers_destroy(headers);
		if (trailers != headers)
			svc_headers_destroy(trailers);
		return rc;
	}
	*ret_part = part;
	*ret_headers = headers;
	return SVC_OK;
}
