/* SPDX-License-Identifier: Apache-2.0 */
/* What nearly all that comes to a client is: whole replies. */
#include "mux_private.h"

/* Whether the stream has sent all it had to, and waits for its reply with
 * nothing of it anywhere but in the table. With the lock. */
static inline bool
awaits_reply(const struct svc_mux_stream *stream)
{
	if (mux_runner(stream) != 0)
		return false;
	/* Only its holder's callback, were one running, would change these. */
	const struct svc_stream_events *events = stream->handle.events;
	return mux_all_sent(stream) && !stream->got_headers && events != NULL &&
	       !events->holds && stream->due_node.list == NULL;
}

bool
mux_is_reply(const struct svc_mux_stream *stream, const struct frame *frame)
{
	const unsigned whole = SVC_PART_HEADERS | SVC_PART_END;
	if ((frame->flags & (whole | FRAME_MORE)) != whole ||
	    !awaits_reply(stream))
		return false;
	return stream->waiter == 0
		   ? mux_on_loop(stream->mux)
		   : stream->waiter == mux_self() && !stream->sleeps &&
			 stream->mux->config.loop != NULL;
}

SVC_HOT svc_mux_result
mux_input_reply(struct svc_mux *mux, struct svc_mux_stream **place,
    const struct frame *frame, const struct svc_part *part)
{
	struct svc_mux_stream *stream = *place;
	stream->recv_end = stream->got_headers = stream->got_end = true;
	mux_take_whole(mux, FRAME_SIZE + (size_t)frame->length);
	mux_unlist_at(mux, place);
	if (stream->waiter != 0) {
		stream->done = true;
		mux_unlock_and_flush(mux);
		return mux_deliver_own(stream, part);
	}
	mux_set_runner(stream, mux_self());
	mux_take_back(mux);
	mux_unlock_in_batch(mux);
	return mux_deliver_last(stream, part);
}

SVC_HOT svc_mux_result
mux_input_replies(struct svc_mux *mux, struct mux_input *in)
{
	svc_mux_result result = SVC_MUX_OK;
	struct svc_part part = PART_NONE;
	while (result == SVC_MUX_OK && mux->share > 0 &&
	       in->len - *in->offset >= FRAME_SIZE) {
		const uint8_t *at = in->data + *in->offset;
		size_t left = in->len - *in->offset - FRAME_SIZE;
		struct frame frame;
		frame_decode(at, &frame);
		if (frame.length > left ||
		    !part_decode_known(
			&mux->memo, &frame, at + FRAME_SIZE, &part) ||
		    part.len > PIECE ||
		    (int64_t)part.len > mux->config.limits.max_message)
			break;
		svc_biased_lock_take_hot(&mux->lock);
		struct svc_mux_stream **place = mux_place(mux, frame.stream);
		struct svc_mux_stream *stream = *place;
		if (stream == NULL || stream->waiter != 0 ||
		    !awaits_reply(stream)) {
			svc_biased_lock_leave(&mux->lock);
			break;
		}
		*in->offset += FRAME_SIZE + (size_t)frame.length;
		mux->left = in->len - *in->offset;
		mux->share--;
		mux_count(&mux->frames);
		result = mux_input_reply(mux, place, &frame, &part);
		if (result == SVC_MUX_OK && mux->share == HALF)
			mux_burst_half(mux, in);
	}
	return result;
}
