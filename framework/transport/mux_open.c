/* SPDX-License-Identifier: Apache-2.0 */
/* Streams that are opened here. */
#include "mux_private.h"

svc_err
mux_check_size(const struct svc_mux *mux, const struct svc_part *part,
    struct svc_error *err)
{
	if ((part->flags & SVC_PART_MESSAGE) &&
	    (int64_t)part->len > mux->most_message)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "message of %zu bytes exceeds the limit of %lld "
		    "(--max_message_size)",
		    part->len, (long long)mux->most_message);
	return SVC_OK;
}

static inline bool
is_over(const struct svc_mux *mux)
{
	return mux->failed || mux->draining || mux->next_id == 0;
}

static inline bool
is_choked(const struct svc_mux *mux)
{
	return mux->out.len > BACKLOG || mux->pending > mux->most_pending;
}

static inline bool
is_full(const struct svc_mux *mux)
{
	return mux->n_streams >= mux->most_streams;
}

/* Why no stream may be opened. */
static SVC_COLD svc_err
not_open(const struct svc_mux *mux, struct svc_error *err)
{
	if (is_over(mux))
		return svc_error_set(err, SVC_E_CLOSED, "%s",
		    mux->failed ? mux->failure.text : "the peer is stopping");
	if (is_choked(mux))
		return svc_error_set(err, SVC_E_AGAIN,
		    "%llu bytes are waiting to be sent to %s",
		    (unsigned long long)mux->out.len + mux->pending, mux->peer);
	return svc_error_set(err, SVC_E_EXHAUSTED,
	    "%u calls are open on the connection to %s, %u are allowed "
	    "(--max_streams)",
	    mux->n_streams, mux->peer, mux->most_streams);
}

/* Whether a stream may be opened; mostly so. */
static inline svc_err
check_open(const struct svc_mux *mux, const struct svc_part *first,
    struct svc_error *err)
{
	if (is_over(mux) || is_choked(mux) || is_full(mux))
		return not_open(mux, err);
	return mux_check_size(mux, first, err);
}

/* What most streams begin with: a packed request that goes to the output as it
 * is. False when there is more to look at. */
static inline bool
give_request(struct svc_mux_stream *stream, const struct svc_part *part)
{
	const unsigned whole = SVC_PART_HEADERS | SVC_PART_MESSAGE;
	struct svc_mux *mux = stream->mux;
	struct svc_buf *out = mux_output(mux);
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
	svc_err rc = check_open(mux, first, err);
	if (rc != SVC_OK) {
		mux_unlock_and_flush(mux);
		return rc;
	}
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
