/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages that go in pieces or wait for credit.
 *
 * What fits into one frame and has credit goes to the output at once and never
 * comes here. A stream with anything else has it in `pending` and is in one
 * of two lists: `sending`, whose streams are served in turn, a piece each; or
 * `starved`, when only the connection's credit is missing. One that waits for
 * its own credit is in neither until that comes.
 */
#include "mux_private.h"

#include <string.h>

bool
mux_may_send(const struct svc_mux_stream *stream, unsigned flags)
{
	if (!(flags & SVC_PART_MESSAGE) || (flags & SVC_PART_HEADERS))
		return true;
	return stream->credit > 0 &&
	       ((flags & SVC_PART_END) || stream->exempt ||
		   stream->mux->credit > 0);
}

void
mux_offer_room(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	if (!stream->want_writable || stream->pending != NULL || mux->choked)
		return;
	if (mux_may_send(stream, SVC_PART_MESSAGE))
		mux_due(stream);
	else if (stream->credit > 0)
		mux->choked = true; /* until the connection has credit */
}

void
mux_charge(struct svc_mux_stream *stream, size_t len)
{
	int64_t cost = (int64_t)(FRAME_SIZE + len);
	stream->credit -= cost;
	stream->mux->credit -= cost;
}

svc_err
mux_pend(struct svc_mux_stream *stream, const struct svc_part *part,
    struct svc_error *err)
{
	struct svc_mux *mux = stream->mux;
	bool request = !mux->config.server;
	size_t len = part->flags & SVC_PART_MESSAGE ? part->len : 0;
	bool whole = len <= mux->piece;
	unsigned first = part->flags, last = 0;
	if (!whole) {
		first &= ~SVC_PART_END;
		last = part->flags & SVC_PART_END;
	}
	size_t first_head = part_head_size(part, first, request);
	size_t last_head = part_head_size(part, last, request);
	svc_err rc =
	    part_head_check(first_head > last_head ? first_head : last_head,
		mux->config.limits.max_headers, err);
	if (rc != SVC_OK)
		return rc;
	struct pending_part *pending =
	    svc_mem_alloc(sizeof(*pending) + first_head + last_head + len);
	if (pending == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	*pending = (struct pending_part){
	    .flags = part->flags,
	    .first_value = part_value(part, first, request),
	    .last_value = part_value(part, last, request),
	    .first_head = (uint16_t)first_head,
	    .last_head = (uint16_t)last_head,
	    .whole = whole,
	    .len = len,
	};
	part_head_put(pending->bytes, part, first, request);
	part_head_put(pending->bytes + first_head, part, last, request);
	if (len > 0)
		memcpy(
		    pending->bytes + first_head + last_head, part->data, len);
	*stream->last_pending = pending;
	stream->last_pending = &pending->next;
	MUX_SET(mux->pending, mux->pending + len);
	if (stream->send_node.list == NULL)
		mux_append(&mux->sending, &stream->send_node);
	return SVC_OK;
}

/* Streams that were refused for what is pending may try again. */
static void
relieve(struct svc_mux *mux)
{
	if (!mux->choked || mux->credit <= 0 ||
	    mux->pending > mux->most_pending / 2)
		return;
	mux->choked = false;
	for (uint32_t i = 0; i < mux->n_buckets; i++)
		for (struct svc_mux_stream *stream = mux->buckets[i];
		     stream != NULL; stream = stream->next)
			mux_offer_room(stream);
}

static void
drop_first(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	struct pending_part *part = stream->pending;
	stream->pending = part->next;
	stream->exempt = false;
	if (stream->pending == NULL)
		stream->last_pending = &stream->pending;
	MUX_SET(mux->pending, mux->pending - part->len);
	svc_mem_free(part);
}

void
mux_drop_pending(struct svc_mux_stream *stream)
{
	mux_remove(&stream->send_node);
	if (stream->unopened) {
		stream->unopened = false;
		stream->mux->n_unopened--;
	}
	while (stream->pending != NULL)
		drop_first(stream);
	relieve(stream->mux);
}

bool
mux_sendable(const struct svc_mux *mux)
{
	return mux->sending.first != NULL ||
	       (mux->credit > 0 && mux->starved.first != NULL);
}

/* The last byte of what was pending has gone to the output. The stream may be
 * destroyed by it. */
static void
all_sent(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	if (stream->lingering) {
		if (!stream->recv_end)
			mux_queue_reset(
			    mux, stream->id, stream->release_code, false, "");
		mux_forget(stream);
		mux_stream_destroy(stream);
	} else if (stream->sent_end && stream->done) {
		mux_unlist(mux, stream);
	} else if (stream->want_writable) {
		mux_due(stream);
	}
}

/* Whole frames of the stream's first part to the output, until its turn is
 * over: one piece. */
static void
send_piece(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	struct pending_part *part = stream->pending;
	bool first = !part->begun;
	size_t len = part->len - part->sent;
	if (len > mux->piece)
		len = mux->piece;
	bool final = part->whole || (!first && part->sent + len == part->len);
	size_t head = first ? part->first_head : final ? part->last_head : 0;
	unsigned flags = part->flags & SVC_PART_MESSAGE;
	if (first)
		flags |= part->flags & SVC_PART_HEADERS;
	flags |= final ? part->flags & SVC_PART_END : FRAME_MORE;
	if (!mux_may_send(stream, flags)) {
		mux_remove(&stream->send_node);
		if (stream->credit > 0)
			mux_append(&mux->starved, &stream->send_node);
		return;
	}
	if (svc_buf_reserve(mux_output(mux), FRAME_SIZE + head + len) !=
	    SVC_OK) {
		mux_fail(mux, SVC_E_NOMEM, "out of memory");
		return;
	}
	struct frame frame = {
	    .length = (uint32_t)(head + len),
	    .type = FRAME_PART,
	    .flags = (uint8_t)flags,
	    .head = (uint16_t)head,
	    .stream = stream->id,
	    .value = first   ? part->first_value
		     : final ? part->last_value
			     : 0,
	};
	uint8_t *out = mux->out.data + mux->out.len;
	frame_put(out, &frame);
	memcpy(out + FRAME_SIZE,
	    part->bytes + (first ? 0 : (size_t)part->first_head), head);
	memcpy(out + FRAME_SIZE + head,
	    part->bytes + part->first_head + part->last_head + part->sent, len);
	mux->out.len += FRAME_SIZE + head + len;
	mux->queued += FRAME_SIZE + head + len;
	mux_charge(stream, head + len);
	part->begun = true;
	part->sent += len;
	if (stream->lingering)
		stream->moved = mux->ticks;
	if (stream->unopened) {
		stream->unopened = false;
		mux->n_unopened--;
	}
	if (final) {
		if (stream->queued_to == UINT64_MAX)
			stream->queued_to = mux->queued;
		drop_first(stream);
		relieve(mux);
	}
	/* Behind the others. */
	mux_remove(&stream->send_node);
	if (stream->pending != NULL)
		mux_append(&mux->sending, &stream->send_node);
	else
		all_sent(stream);
}

void
mux_pump(struct svc_mux *mux)
{
	while (mux->out.len < ENOUGH && !mux->failed && mux_sendable(mux)) {
		struct svc_mux_node *node =
		    mux->credit > 0 && mux->starved.first != NULL
			? mux->starved.first
			: mux->sending.first;
		send_piece(MUX_STREAM_OF(node, send_node));
	}
}

/* ------------------------------------------------------------ credit given
 */

void
mux_greet(struct svc_mux *mux, const struct hello *hello)
{
	mux->heard = true;
	if (mux->most_streams > hello->max_streams)
		mux->most_streams = hello->max_streams;
	if (mux->most_message > hello->max_message)
		mux->most_message = hello->max_message;
	mux->peer_window = hello->stream_window;
	mux->credit += hello->conn_window;
	mux->piece = hello->piece < PIECE ? hello->piece : PIECE;
	/* What was opened meanwhile had only its first frame free. */
	for (uint32_t i = 0; i < mux->n_buckets; i++)
		for (struct svc_mux_stream *stream = mux->buckets[i];
		     stream != NULL; stream = stream->next) {
			stream->credit += hello->stream_window;
			if (stream->pending != NULL &&
			    stream->send_node.list == NULL)
				mux_append(&mux->sending, &stream->send_node);
			mux_offer_room(stream);
		}
	relieve(mux);
}

bool
mux_credit(struct svc_mux *mux, const struct frame *frame)
{
	if (frame->stream == 0) {
		mux->credit += frame->value;
		relieve(mux);
		return mux->credit <= UINT32_MAX;
	}
	struct svc_mux_stream *stream = mux_find(mux, frame->stream);
	if (stream == NULL) /* it has ended here */
		return true;
	stream->credit += frame->value;
	if (stream->pending != NULL) {
		stream->exempt =
		    stream->exempt || (frame->flags & FRAME_GRANT) != 0;
		if (stream->send_node.list != &mux->sending) {
			mux_remove(&stream->send_node);
			mux_append(&mux->sending, &stream->send_node);
		}
	}
	mux_offer_room(stream);
	return stream->credit <= UINT32_MAX;
}
