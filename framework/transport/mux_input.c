/* SPDX-License-Identifier: Apache-2.0 */
/* What the peer sends. */
#include "mux_private.h"

#include <assert.h>
#include <string.h>

#define TOGETHER 64 /* messages, handed over in one call */
#define CHEAP 4     /* of them count as one other frame in a turn */

/* Why a message or head is above our limit; NULL when it is not. */
static const char *
too_large(
    const struct svc_mux *mux, const struct frame *frame, struct svc_error *why)
{
	uint32_t len = frame->length - frame->head;
	if (frame->head > mux->config.limits.max_headers)
		svc_error_set(why, SVC_E_EXHAUSTED,
		    "headers of %u bytes exceed the limit of %u "
		    "(--max_header_size)",
		    frame->head, mux->config.limits.max_headers);
	else if (len > mux->config.limits.max_message)
		svc_error_set(why, SVC_E_EXHAUSTED,
		    "message of %u bytes exceeds the limit of %lld "
		    "(--max_message_size)",
		    len, (long long)mux->config.limits.max_message);
	else
		return NULL;
	return why->text;
}

/* Without the lock: whether streams are refused at this moment. */
static bool
refuses(const struct svc_mux *mux)
{
	return MUX_GET(mux->failed) || MUX_GET(mux->draining) ||
	       MUX_GET(mux->n_held) >= mux->config.limits.max_streams ||
	       MUX_GET(mux->pending) > mux->most_pending;
}

static svc_mux_result
open_by_peer(struct svc_mux *mux, const struct frame *frame,
    const uint8_t *payload, struct svc_error *err)
{
	struct svc_part part;
	struct svc_headers *headers = NULL;
	struct svc_error why;
	bool more = (frame->flags & FRAME_MORE) != 0;
	const char *refused = too_large(mux, frame, &why);
	svc_err code = SVC_E_EXHAUSTED;
	svc_err rc = SVC_OK;
	if (!more && refused == NULL) {
		rc = part_decode_again(
		    &mux->memo, frame, true, payload, &part, &headers, err);
		if (rc != SVC_OK && rc != SVC_E_NOMEM)
			return SVC_MUX_FAILED;
	}
	struct svc_mux_stream *stream = NULL;
	if (!more && refused == NULL && rc == SVC_OK && mux_on_loop(mux) &&
	    (frame->flags & SVC_PART_END) && !refuses(mux))
		stream = mux_begin_whole(mux, frame);
	if (stream != NULL) {
		svc_mux_result result = mux_deliver_whole(stream, &part);
		if (headers != NULL)
			svc_headers_destroy(headers);
		return result;
	}
	svc_biased_lock_take(&mux->lock);
	if (refused == NULL && rc == SVC_OK)
		stream = mux_stream_create(mux, frame->stream, 0);
	if (refused != NULL) {
		;
	} else if (mux->failed || mux->draining) {
		refused = "the service is stopping";
		code = SVC_E_UNAVAILABLE;
	} else if (mux->n_held >= mux->config.limits.max_streams) {
		refused = "too many streams in this connection (--max_streams)";
	} else if (mux->pending > mux->most_pending) {
		refused = "too many answers wait for this connection";
	} else if (stream == NULL || mux_list(mux, stream) != SVC_OK) {
		refused = "out of memory";
		code = SVC_E_NOMEM;
	}
	if (refused == NULL) {
		stream->credit = mux->peer_window;
		stream->window = mux->first_window;
		stream->got_headers = true;
		mux_take(mux, stream, frame);
		if (!mux->ticking)
			mux_arm(mux);
		if (more &&
		    mux_assemble(stream, frame, payload, &why) != SVC_OK) {
			refused = why.text;
			code = why.code;
			mux_forget(stream);
		}
	} else {
		mux_take(mux, NULL, frame);
	}
	if (refused != NULL) {
		mux_queue_reset(mux, frame->stream, code, true, refused);
		if (stream != NULL)
			mux_stream_destroy(stream);
		mux_unlock_and_flush(mux);
		svc_headers_destroy(headers);
		return SVC_MUX_OK;
	}
	if (more) {
		mux_unlock_and_flush(mux);
		return SVC_MUX_OK;
	}
	mux_set_runner(stream, mux_self());
	stream->recv_end = (part.flags & SVC_PART_END) != 0;
	stream->got_end = stream->recv_end;
	stream->accepted = true;
	mux_consume(stream, stream->unconsumed);
	svc_biased_lock_leave(&mux->lock);
	svc_mux_result result = mux_deliver_part(stream, &part, true);
	svc_headers_destroy(headers);
	return result;
}

/* The stream ends for our own reason. The lock is held; unlocks. */
static svc_mux_result
reset(struct svc_mux_stream *stream, svc_err code, const char *text)
{
	struct svc_mux *mux = stream->mux;
	bool not_run =
	    mux->config.server && !stream->accepted && mux_runner(stream) == 0;
	mux_queue_reset(mux, stream->id, code, not_run, text);
	bool deliver =
	    mux_end_stream(stream, code, not_run, text, strlen(text));
	mux_unlock_and_flush(mux);
	return deliver ? mux_deliver_closed(stream) : SVC_MUX_OK;
}

/* A part that is whole: to its holder, or to wait until a callback that runs
 * elsewhere returns. The lock is held; unlocks. */
static svc_mux_result
input_queued(struct svc_mux_stream *stream, struct queued_part *queued,
    struct svc_error *err)
{
	struct svc_mux *mux = stream->mux;
	if (!mux_try_run(stream)) {
		queued->next = NULL;
		*stream->last_part = queued;
		stream->last_part = &queued->next;
		mux_unlock_and_flush(mux);
		return SVC_MUX_OK;
	}
	struct svc_part part;
	struct svc_headers *headers = NULL;
	svc_err rc = mux_decode(stream, queued, &part, &headers, err);
	if (rc != SVC_OK) {
		svc_mem_free(queued);
		mux_set_runner(stream, 0);
		if (rc == SVC_E_NOMEM)
			return reset(stream, rc, "out of memory");
		svc_biased_lock_leave(&mux->lock);
		return SVC_MUX_FAILED;
	}
	bool accept = mux->config.server && !stream->accepted;
	stream->accepted = stream->accepted || accept;
	stream->got_end = (part.flags & SVC_PART_END) != 0;
	mux_consume_part(stream, &part, queued->cost);
	mux_unlock_and_flush(mux);
	svc_mux_result result = mux_deliver_part(stream, &part, accept);
	svc_headers_destroy(headers);
	svc_mem_free(queued);
	return result;
}

/* A message that comes in pieces. The lock is held; unlocks. */
static svc_mux_result
input_piece(struct svc_mux_stream *stream, const struct frame *frame,
    const uint8_t *payload, struct svc_error *err)
{
	struct svc_mux *mux = stream->mux;
	struct svc_error why;
	svc_err rc = mux_assemble(stream, frame, payload, &why);
	if (rc != SVC_OK)
		return reset(stream, why.code, why.text);
	if (frame->flags & FRAME_MORE) {
		mux_unlock_and_flush(mux);
		return SVC_MUX_OK;
	}
	return input_queued(stream, mux_assembled(stream), err);
}

/* What is wrong with a part at this point of its stream; NULL: nothing. */
static const char *
out_of_place(const struct svc_mux_stream *stream, const struct frame *frame)
{
	if (stream->recv_end)
		return "a part after a stream's end";
	if ((frame->flags & SVC_PART_HEADERS) && stream->got_headers)
		return "a second part with headers";
	if (stream->assembly == NULL)
		return NULL;
	if (!(frame->flags & SVC_PART_MESSAGE) ||
	    (frame->head != 0 && !(frame->flags & SVC_PART_END)))
		return "a part between the pieces of a message";
	return NULL;
}

#define PART_FLAGS \
	(SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END | FRAME_MORE)

/* What is wrong with a PART frame by itself. */
static const char *
part_wrong(const struct svc_mux *mux, const struct frame *frame)
{
	uint32_t body = frame->length - frame->head;
	if ((frame->flags & ~PART_FLAGS) != 0 ||
	    (frame->flags & (PART_FLAGS & ~FRAME_MORE)) == 0)
		return "flags that are not allowed";
	if (body > PIECE)
		return "a piece that is too large";
	if (body > 0 && !(frame->flags & SVC_PART_MESSAGE))
		return "a body without a message";
	if ((frame->flags & FRAME_MORE) &&
	    (body == 0 || (frame->flags & SVC_PART_END)))
		return "an empty or last piece that says there is more";
	if (mux->config.server && (frame->flags & SVC_PART_HEADERS) &&
	    frame->stream <= mux->last_id)
		return "a stream number out of order";
	return NULL;
}

/* The same of any other frame. */
static const char *
control_wrong(const struct frame *frame)
{
	unsigned known = frame->type == FRAME_RESET    ? FRAME_NOT_RUN
			 : frame->type == FRAME_WINDOW ? FRAME_GRANT
						       : 0;
	if (frame->length > 1024 || frame->head != 0)
		return "a control frame that is too long";
	if ((frame->flags & ~known) != 0)
		return "flags that are not allowed";
	if (frame->type == FRAME_WINDOW && frame->value == 0)
		return "a credit of 0";
	return NULL;
}

static bool
frame_valid(
    const struct svc_mux *mux, const struct frame *frame, struct svc_error *err)
{
	const char *what = NULL;
	if (frame->type < FRAME_PART || frame->type > FRAME_WINDOW)
		what = "an unknown type";
	else if (frame->head > frame->length)
		what = "a head longer than the frame";
	else if ((frame->type == FRAME_PART || frame->type == FRAME_RESET) &&
		 frame->stream == 0)
		what = "stream number 0";
	else
		what = frame->type == FRAME_PART ? part_wrong(mux, frame)
						 : control_wrong(frame);
	if (what == NULL)
		return true;
	svc_error_set(err, SVC_E_INVAL, "the peer sent a frame with %s", what);
	return false;
}

/* A message alone, in one frame. */
static bool
is_plain(const struct frame *frame)
{
	return frame->type == FRAME_PART && frame->flags == SVC_PART_MESSAGE &&
	       frame->head == 0;
}

/* The next frame of `rest` if it is whole and one more message of the same
 * stream that may be taken: then it is, and its body returned. */
static const uint8_t *
next_message(struct svc_mux_stream *stream, struct mux_input *rest,
    struct frame *ret_frame)
{
	struct svc_mux *mux = stream->mux;
	size_t left = rest->len - *rest->offset;
	const uint8_t *at = rest->data + *rest->offset;
	struct svc_error unused;
	if (left < FRAME_SIZE)
		return NULL;
	frame_decode(at, ret_frame);
	if (ret_frame->stream != stream->id || !is_plain(ret_frame) ||
	    ret_frame->length > left - FRAME_SIZE ||
	    !frame_valid(mux, ret_frame, &unused) ||
	    ret_frame->length > mux->config.limits.max_message ||
	    !mux_take(mux, stream, ret_frame))
		return NULL;
	*rest->offset += FRAME_SIZE + ret_frame->length;
	return at + FRAME_SIZE;
}

/* A message and those that follow it, to a holder that takes them together.
 * The lock is held, and this thread is the stream's runner; unlocks. */
static svc_mux_result
input_messages(struct svc_mux_stream *stream, const struct frame *first,
    const uint8_t *payload, struct mux_input *rest)
{
	struct svc_mux *mux = stream->mux;
	struct svc_span messages[TOGETHER];
	struct frame frame = *first;
	size_t n = 0, before = *rest->offset;
	do {
		messages[n++] = (struct svc_span){payload, frame.length};
		stream->held += frame.length;
		if (n == TOGETHER)
			break;
		payload = next_message(stream, rest, &frame);
	} while (payload != NULL);
	stream->held_messages += (uint32_t)n;
	mux->left = rest->len - *rest->offset;
	mux->unchecked += *rest->offset - before;
	mux->share -= (int)n / CHEAP;
	mux_unlock_and_flush(mux);
	stream->handle.events->messages(&stream->handle, messages, n);
	mux_callback_done(stream);
	return SVC_MUX_OK;
}

static SVC_HOT svc_mux_result
input_part(struct svc_mux *mux, struct svc_mux_stream *stream,
    const struct frame *frame, const uint8_t *payload, struct mux_input *rest,
    struct svc_error *err)
{
	/* The lock is held; the stream is listed. */
	struct svc_error why;
	struct svc_part part;
	struct svc_headers *headers = NULL;
	svc_mux_result result;
	if (mux_is_reply(stream, frame) &&
	    too_large(mux, frame, &why) == NULL &&
	    part_decode_again(&mux->memo, frame, false, payload, &part,
		&headers, err) == SVC_OK) {
		result = mux_input_reply(
		    mux, mux_place(mux, frame->stream), frame, &part);
		if (headers != NULL)
			svc_headers_destroy(headers);
		return result;
	}
	const char *wrong = out_of_place(stream, frame);
	if (wrong == NULL && !mux_take(mux, stream, frame))
		wrong = "more than it had credit for";
	if (wrong != NULL) {
		svc_biased_lock_leave(&mux->lock);
		svc_error_set(err, SVC_E_INVAL, "the peer sent %s", wrong);
		return SVC_MUX_FAILED;
	}
	stream->ahead = 0;
	stream->recv_end = (frame->flags & SVC_PART_END) != 0;
	if (frame->flags & SVC_PART_HEADERS)
		stream->got_headers = true;
	if (stream->lingering) { /* nobody wants it */
		mux_consume(stream, stream->unconsumed);
		mux_unlock_and_flush(mux);
		return SVC_MUX_OK;
	}
	const char *refused = too_large(mux, frame, &why);
	if (refused != NULL)
		return reset(stream, why.code, refused);
	if ((frame->flags & FRAME_MORE) || stream->assembly != NULL)
		return input_piece(stream, frame, payload, err);
	if (!mux_try_run(stream)) {
		struct queued_part *queued = mux_queued(frame, payload);
		if (queued == NULL)
			return reset(stream, SVC_E_NOMEM, "out of memory");
		*stream->last_part = queued;
		stream->last_part = &queued->next;
		svc_biased_lock_leave(&mux->lock);
		return SVC_MUX_OK;
	}
	const struct svc_stream_events *events = stream->handle.events;
	if (rest != NULL && is_plain(frame) && events != NULL &&
	    events->holds && events->messages != NULL)
		return input_messages(stream, frame, payload, rest);
	svc_err rc = part_decode(
	    frame, mux->config.server, payload, &part, &headers, err);
	if (rc != SVC_OK) {
		mux_set_runner(stream, 0);
		if (rc == SVC_E_NOMEM)
			return reset(stream, rc, "out of memory");
		svc_biased_lock_leave(&mux->lock);
		return SVC_MUX_FAILED;
	}
	stream->got_end = stream->recv_end;
	mux_consume_part(stream, &part, FRAME_SIZE + (size_t)frame->length);
	mux_unlock_and_flush(mux);
	result = mux_deliver_part(stream, &part, false);
	if (headers != NULL)
		svc_headers_destroy(headers);
	return result;
}

static svc_mux_result
input_reset(struct svc_mux *mux, struct svc_mux_stream *stream,
    const struct frame *frame, const uint8_t *payload)
{
	bool deliver = mux_end_stream(stream, svc_err_from_number(frame->value),
	    (frame->flags & FRAME_NOT_RUN) != 0, (const char *)payload,
	    frame->length);
	mux_unlock_and_flush(mux);
	return deliver ? mux_deliver_closed(stream) : SVC_MUX_OK;
}

/* The peer takes no more streams; those after frame->stream it will not run. */
static svc_mux_result
input_drain(struct svc_mux *mux, const struct frame *frame)
{
	/* A client's says nothing: a server opens no streams. One that says
	 * no more than the last is not worth a look at all streams. */
	if (mux->config.server ||
	    (mux->drained_id != 0 && frame->stream >= mux->drained_id))
		return SVC_MUX_OK;
	mux->drained_id = frame->stream != 0 ? frame->stream : 1;
	uint32_t at = 0; /* none is opened any more */
	for (;;) {
		struct svc_mux_stream *found = NULL;
		svc_biased_lock_take(&mux->lock);
		MUX_SET(mux->draining, true);
		while (found == NULL && at < mux->n_buckets &&
		       frame->stream != UINT32_MAX) {
			found = mux->buckets[at];
			while (found != NULL && found->id <= frame->stream)
				found = found->next;
			if (found == NULL)
				at++;
		}
		static const char text[] = "the service is stopping";
		bool deliver =
		    found != NULL && mux_end_stream(found, SVC_E_UNAVAILABLE,
					 true, text, sizeof(text) - 1);
		mux_unlock_and_flush(mux);
		if (found == NULL)
			return SVC_MUX_OK;
		/* After a take-over the rest is refused by the peer one by
		 * one. */
		if (deliver && mux_deliver_closed(found) == SVC_MUX_LOST)
			return SVC_MUX_LOST;
	}
}

/* `locked`: the lock is held, see may_handle. Unlocks. */
static svc_mux_result
input_frame(struct svc_mux *mux, const struct frame *frame,
    const uint8_t *payload, bool locked, struct mux_input *rest,
    struct svc_error *err)
{
	if (frame->type == FRAME_PART && mux->config.server &&
	    (frame->flags & SVC_PART_HEADERS)) {
		__atomic_store_n(
		    &mux->last_id, frame->stream, __ATOMIC_RELAXED);
		return open_by_peer(mux, frame, payload, err);
	}
	if (frame->type == FRAME_DRAIN)
		return input_drain(mux, frame);
	if (!locked)
		svc_biased_lock_take(&mux->lock);
	if (frame->type == FRAME_PART || frame->type == FRAME_RESET) {
		struct svc_mux_stream *stream = mux_find(mux, frame->stream);
		if (stream != NULL && frame->type == FRAME_PART)
			return input_part(
			    mux, stream, frame, payload, rest, err);
		if (stream != NULL)
			return input_reset(mux, stream, frame, payload);
		/* It has ended here. */
		if (frame->type == FRAME_PART && !mux_take(mux, NULL, frame)) {
			svc_biased_lock_leave(&mux->lock);
			svc_error_set(err, SVC_E_INVAL,
			    "the peer sent more than it had credit for");
			return SVC_MUX_FAILED;
		}
	} else if (frame->type == FRAME_WINDOW) {
		if (!mux_credit(mux, frame)) {
			svc_biased_lock_leave(&mux->lock);
			svc_error_set(err, SVC_E_INVAL,
			    "the peer gave more credit than there can be");
			return SVC_MUX_FAILED;
		}
	} else if (frame->type == FRAME_PING) {
		mux_queue_frame(mux, FRAME_PONG, 0, frame->stream, frame->value,
		    payload, frame->length);
	} else {
		mux_pong(mux, frame->value);
	}
	mux_unlock_and_flush(mux);
	return SVC_MUX_OK;
}

/* Whether a thread that only waits for its own reply may handle the frame; then
 * the lock is held for a frame of a stream. */
static bool
may_handle(struct svc_mux *mux, const struct frame *frame, bool *ret_locked)
{
	if (frame->type == FRAME_PING || frame->type == FRAME_PONG ||
	    frame->type == FRAME_WINDOW)
		return true;
	if (mux->config.server)
		return false;
	svc_biased_lock_take(&mux->lock);
	bool may;
	if (frame->type == FRAME_DRAIN) {
		may = mux->n_streams == 0;
	} else {
		struct svc_mux_stream *stream = mux_find(mux, frame->stream);
		may = stream == NULL || stream->waiter != 0;
		*ret_locked = may;
	}
	if (!*ret_locked)
		svc_biased_lock_leave(&mux->lock);
	return may;
}

/* The peer's hello, if it is whole; then *offset is behind what is known of
 * it. */
static svc_mux_result
input_hello(struct svc_mux *mux, const uint8_t *at, size_t left, size_t *offset,
    struct svc_error *err)
{
	struct hello hello;
	mux->need = HELLO_SIZE;
	if (left < HELLO_SIZE) {
		/* A stranger shows in its first bytes. */
		if (left == 0 || at[0] == 0xf5)
			return SVC_MUX_OK;
		svc_error_set(
		    err, SVC_E_INVAL, "the peer does not speak svc frames");
		mux->foreign = true;
		return SVC_MUX_FAILED;
	}
	if (hello_decode(at, &hello, err) != SVC_OK) {
		mux->foreign = true;
		return SVC_MUX_FAILED;
	}
	*offset += HELLO_SIZE;
	mux->skip = hello.size - (size_t)HELLO_SIZE;
	mux->greeted = true;
	svc_biased_lock_take(&mux->lock);
	mux_greet(mux, &hello);
	mux_unlock_and_flush(mux);
	return SVC_MUX_OK;
}

SVC_HOT svc_mux_result
svc_mux_input(struct svc_mux *mux, const uint8_t *data, size_t len,
    size_t *offset, struct svc_error *err)
{
	bool here =
	    mux->config.loop == NULL || svc_loop_current() == mux->config.loop;
	struct mux_input rest = {data, len, *offset, offset};
	svc_mux_result result = SVC_MUX_OK;
	assert(data != NULL); /* which has no offsets, not even 0 */
	if (here) {
		mux_batch = mux;
		if (MUX_GET(mux->current) != NULL) {
			svc_biased_lock_take(&mux->lock);
			mux_adopt_left(mux);
			svc_biased_lock_leave(&mux->lock);
		}
	}
	if (len - *offset != mux->left)
		mux_count(&mux->received);
	bool replies = here && mux->config.loop != NULL && !mux->config.server;
	bool paused = false;
	while (result == SVC_MUX_OK) {
		/* Who does not read our answers gets no more of them. Only a
		 * server stops reading: if both sides did, neither would ever
		 * go on. */
		if (here && mux->config.server &&
		    mux->unchecked > BACKLOG / 64) {
			mux->unchecked = 0;
			if (svc_mux_backlog(mux) > BACKLOG) {
				paused = true;
				result = SVC_MUX_YIELD;
				break;
			}
		}
		size_t left = len - *offset;
		const uint8_t *at = data + *offset;
		if (!mux->greeted) {
			size_t before = *offset;
			result = input_hello(mux, at, left, offset, err);
			if (*offset == before)
				break;
			continue;
		}
		if (mux->skip > 0) {
			size_t n = left < mux->skip ? left : mux->skip;
			mux->skip -= n;
			*offset += n;
			mux->need = 1;
			if (mux->skip > 0)
				break;
			continue;
		}
		mux->need = FRAME_SIZE;
		if (replies && mux->memo.flags != 0) {
			result = mux_input_replies(mux, &rest);
			if (result != SVC_MUX_OK)
				break;
			left = len - *offset;
			at = data + *offset;
		}
		if (left < FRAME_SIZE)
			break;
		struct frame frame;
		frame_decode(at, &frame);
		if (!frame_valid(mux, &frame, err)) {
			result = SVC_MUX_FAILED;
			break;
		}
		if (here && mux->config.loop != NULL && mux->share-- <= 0) {
			mux->share = SHARE;
			result = SVC_MUX_SHARE;
			break;
		}
		mux->need = FRAME_SIZE + frame.length;
		if (left < mux->need && here)
			break;
		bool locked = false;
		if (!here && !may_handle(mux, &frame, &locked)) {
			result = SVC_MUX_YIELD;
			break;
		}
		if (left < mux->need) {
			if (locked)
				svc_biased_lock_leave(&mux->lock);
			break;
		}
		*offset += mux->need;
		mux->left = len - *offset;
		mux->unchecked += mux->need;
		mux->need = FRAME_SIZE;
		mux_count(&mux->frames);
		result = input_frame(mux, &frame, at + FRAME_SIZE, locked,
		    here ? &rest : NULL, err);
		if (result == SVC_MUX_OK && here && mux->share == HALF)
			mux_burst_half(mux, &rest);
	}
	if (result == SVC_MUX_LOST) {
		mux_batch = NULL;
		return result;
	}
	if (here && mux->returned != NULL) {
		svc_biased_lock_take_hot(&mux->lock);
		mux_take_back(mux);
		mux_unlock_in_batch(mux);
	}
	if (here)
		mux_batch = NULL;
	mux->left = len - *offset;
	bool half = result == SVC_MUX_OK && mux->left > 0;
	__atomic_store_n(&mux->half, half, __ATOMIC_RELAXED);
	__atomic_store_n(&mux->paused, paused, __ATOMIC_RELAXED);
	if (half) {
		svc_biased_lock_take(&mux->lock);
		if (!mux->ticking)
			mux_arm(mux);
		svc_biased_lock_leave(&mux->lock);
	}
	if (mux->config.loop == NULL)
		mux_due_here(mux);
	return result;
}

SVC_HOT void
svc_mux_rest(struct svc_mux *mux)
{
	mux->share = SHARE;
}

void
svc_mux_yield(struct svc_mux *mux, struct svc_source *source)
{
	svc_mux_ref(mux);
	if (!svc_source_yield(source))
		svc_mux_unref(mux);
}

SVC_HOT size_t
svc_mux_need(const struct svc_mux *mux)
{
	return mux->need;
}
