/* SPDX-License-Identifier: Apache-2.0 */
/* Streams that are opened here. */
#include "mux_private.h"

static inline int64_t
size_limit(const struct svc_mux *mux)
{
	return mux->config.limits.max_message < mux->peer_message
		   ? mux->config.limits.max_message
		   : mux->peer_message;
}

svc_err
mux_check_size(const struct svc_mux *mux, const struct svc_part *part,
    struct svc_error *err)
{
	int64_t limit = size_limit(mux);
	if ((part->flags & SVC_PART_MESSAGE) && (int64_t)part->len > limit)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "message of %zu bytes exceeds the limit of %lld "
		    "(--max_message_size)",
		    part->len, (long long)limit);
	return SVC_OK;
}

/* Whether a stream may be opened; mostly so. */
static inline bool
may_open(const struct svc_mux *mux, const struct svc_part *first)
{
	return !mux->failed && !mux->draining && mux->next_id != 0 &&
	       mux->out.len <= BACKLOG &&
	       mux->pending <= mux_pending_limit(mux) &&
	       mux->n_streams < mux->config.limits.max_streams &&
	       mux->n_streams < mux->peer_streams &&
	       (!(first->flags & SVC_PART_MESSAGE) ||
		   (int64_t)first->len <= size_limit(mux));
}

/* Why it may not. */
static SVC_COLD svc_err
not_open(const struct svc_mux *mux, const struct svc_part *first,
    struct svc_error *err)
{
	if (mux->failed || mux->draining || mux->next_id == 0)
		return svc_error_set(err, SVC_E_CLOSED, "%s",
		    mux->failed ? mux->failure.text : "the peer is stopping");
	if (mux->out.len > BACKLOG || mux->pending > mux_pending_limit(mux))
		return svc_error_set(err, SVC_E_AGAIN,
		    "%llu bytes are waiting to be sent to %s",
		    (unsigned long long)mux->out.len + mux->pending, mux->peer);
	if (mux->n_streams >= mux->config.limits.max_streams ||
	    mux->n_streams >= mux->peer_streams)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "%u calls are open on the connection to %s, %u are allowed "
		    "(--max_streams)",
		    mux->n_streams, mux->peer,
		    mux->peer_streams < mux->config.limits.max_streams
			? mux->peer_streams
			: mux->config.limits.max_streams);
	return mux_check_size(mux, first, err);
}

/* What most streams begin with: a packed request that goes to the output as it
 * is. False when there is more to look at. */
static inline bool
give_request(struct svc_mux_stream *stream, const struct svc_part *part)
{
	const unsigned whole = SVC_PART_HEADERS | SVC_PART_MESSAGE;
	struct svc_mux *mux = stream->mux;
	struct svc_buf *out = &mux->out;
	size_t size = part->head_len + part->len;
	if (part->head == NULL || (part->flags & whole) != whole ||
	    part->headers != NULL || part->len > mux->piece ||
	    part->head_len > mux->config.limits.max_headers ||
	    out->cap - out->len <= FRAME_SIZE + size)
		return false;
	part_put_packed(out->data + out->len, stream->id, part);
	out->len += FRAME_SIZE + size;
	mux->queued += FRAME_SIZE + size;
	mux_charge(stream, size);
	return true;
}

/* The first part of a stream that was just listed. */
static inline svc_err
begin_stream(struct svc_mux_stream *stream, const struct svc_part *first,
    struct svc_error *err)
{
	struct svc_mux *mux = stream->mux;
	/* Streams must begin in the order of their numbers. */
	bool at_once = mux->n_unopened == 0;
	if (!at_once || !give_request(stream, first)) {
		svc_err rc = mux_give_part(stream, first, at_once, err);
		if (rc != SVC_OK)
			return rc;
	}
	mux->next_id++;
	stream->queued_to = mux->queued;
	if (stream->pending != NULL) {
		stream->queued_to = UINT64_MAX;
		stream->unopened = true;
		mux->n_unopened++;
	}
	if (!mux->ticking)
		mux_arm(mux);
	return SVC_OK;
}

SVC_HOT svc_err
svc_mux_open(struct svc_mux *mux, const struct svc_part *first, unsigned flags,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err)
{
	svc_biased_lock_take_hot(&mux->lock);
	if (!may_open(mux, first)) {
		svc_err why = not_open(mux, first, err);
		mux_unlock_and_flush(mux);
		return why;
	}
	svc_err rc;
	struct svc_mux_stream *stream = mux_stream_create(
	    mux, mux->next_id, (flags & SVC_OPEN_WAIT) ? mux_self() : 0);
	if (stream == NULL || mux_list(mux, stream) != SVC_OK) {
		rc = svc_error_set(err, SVC_E_NOMEM, "out of memory");
	} else {
		stream->handle.events = events;
		stream->handle.user = user;
		stream->sent_end = (first->flags & SVC_PART_END) != 0;
		stream->credit = mux->peer_window;
		stream->window = mux->first_window;
		rc = begin_stream(stream, first, err);
		if (rc == SVC_OK)
			*ret_stream = &stream->handle;
		else
			mux_forget(stream);
	}
	if (rc != SVC_OK && stream != NULL)
		mux_stream_destroy(stream);
	if (rc == SVC_OK && !(flags & SVC_OPEN_WAIT) && mux_burst_of_calls(mux))
		svc_biased_lock_leave(&mux->lock);
	else
		mux_unlock_and_flush(mux);
	return rc;
}
