/* SPDX-License-Identifier: Apache-2.0 */
/* What the peer sends. */
#include "mux_private.h"

#include <string.h>

#define MAX_KEPT (8u << 20) /* for a stream whose callback does not return */

/* --------------------------------------------------------------------- input
 */

static svc_mux_result
refuse(struct svc_mux *mux, uint32_t id, svc_err code, const char *text)
{
	pthread_mutex_lock(&mux->mutex);
	mux_queue_reset(mux, id, code, true, text);
	mux_unlock_and_flush(mux);
	return SVC_MUX_OK;
}

static svc_mux_result
open_by_peer(struct svc_mux *mux, const struct frame *frame,
    const uint8_t *payload, struct svc_error *err)
{
	struct svc_part part;
	struct svc_headers *headers = NULL;
	svc_err rc = part_decode(frame, true, payload, &part, &headers, err);
	if (rc == SVC_E_NOMEM)
		return refuse(mux, frame->stream, rc, "out of memory");
	if (rc != SVC_OK)
		return SVC_MUX_FAILED;
	struct svc_mux_stream *stream =
	    mux_stream_create(mux, frame->stream, false);
	svc_mux_result result;
	pthread_mutex_lock(&mux->mutex);
	const char *refused =
	    stream == NULL                 ? "out of memory"
	    : mux->draining || mux->failed ? "the service is stopping"
	    : mux->n_streams >= mux->config.limits.max_streams
		? "too many streams in this connection"
	    : mux_list(mux, stream) != SVC_OK ? "out of memory"
					      : NULL;
	if (refused == NULL) {
		atomic_store(&stream->runner, mux_self());
		stream->got_end = (part.flags & SVC_PART_END) != 0;
		pthread_mutex_unlock(&mux->mutex);
		result = mux_deliver_part(stream, &part);
	} else {
		svc_err code = mux->draining || mux->failed ? SVC_E_UNAVAILABLE
							    : SVC_E_EXHAUSTED;
		pthread_mutex_unlock(&mux->mutex);
		if (stream != NULL)
			mux_stream_destroy(stream);
		result = refuse(mux, frame->stream, code, refused);
	}
	svc_headers_destroy(headers);
	return result;
}

/* The stream's callback runs elsewhere: keep the part for that thread. With
 * the mutex held. */
static void
keep_part(struct svc_mux_stream *stream, const struct frame *frame,
    const uint8_t *payload)
{
	static const char slow[] = "the receiver is too slow";
	struct queued_part *queued =
	    stream->kept + frame->length <= MAX_KEPT
		? svc_mem_alloc(sizeof(*queued) + frame->length)
		: NULL;
	if (queued == NULL) {
		mux_queue_reset(
		    stream->mux, stream->id, SVC_E_EXHAUSTED, false, slow);
		mux_end_stream(
		    stream, SVC_E_EXHAUSTED, false, slow, sizeof(slow) - 1);
		return;
	}
	stream->kept += frame->length;
	queued->next = NULL;
	queued->frame = *frame;
	memcpy(queued->payload, payload, frame->length);
	*stream->last_part = queued;
	stream->last_part = &queued->next;
}

static svc_mux_result
input_part(struct svc_mux *mux, struct svc_mux_stream *stream,
    const struct frame *frame, const uint8_t *payload, struct svc_error *err)
{
	/* The mutex is held; the stream is listed. */
	if (stream->got_end) {
		pthread_mutex_unlock(&mux->mutex);
		svc_error_set(err, SVC_E_INVAL, "a part after a stream's end");
		return SVC_MUX_FAILED;
	}
	uintptr_t nobody = 0;
	if (!atomic_compare_exchange_strong(
		&stream->runner, &nobody, mux_self())) {
		keep_part(stream, frame, payload);
		pthread_mutex_unlock(&mux->mutex);
		return SVC_MUX_OK;
	}
	struct svc_part part;
	struct svc_headers *headers = NULL;
	svc_err rc = part_decode(
	    frame, mux->config.server, payload, &part, &headers, err);
	if (rc != SVC_OK) {
		atomic_store(&stream->runner, 0);
		pthread_mutex_unlock(&mux->mutex);
		return SVC_MUX_FAILED;
	}
	stream->got_end = (part.flags & SVC_PART_END) != 0;
	pthread_mutex_unlock(&mux->mutex);
	svc_mux_result result = mux_deliver_part(stream, &part);
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
	bool idle = mux->closing && mux->n_streams == 0;
	pthread_mutex_unlock(&mux->mutex);
	svc_mux_result result =
	    deliver ? mux_deliver_closed(stream) : SVC_MUX_OK;
	if (idle && result == SVC_MUX_OK)
		mux->config.ops->idle(mux);
	return result;
}

/* A message or head above our limit: the stream ends, its bytes are skipped. */
static svc_mux_result
input_too_large(struct svc_mux *mux, const struct frame *frame)
{
	struct svc_error why;
	if (frame->head > mux->config.limits.max_headers)
		svc_error_set(&why, SVC_E_EXHAUSTED,
		    "headers of %u bytes exceed the limit of %u", frame->head,
		    mux->config.limits.max_headers);
	else
		svc_error_set(&why, SVC_E_EXHAUSTED,
		    "message of %u bytes exceeds the limit of %lld "
		    "(--max_message_size)",
		    frame->length - frame->head,
		    (long long)mux->config.limits.max_message);
	bool opens = mux->config.server && (frame->flags & SVC_PART_HEADERS);
	if (opens && frame->stream > mux->last_id)
		mux->last_id = frame->stream;
	pthread_mutex_lock(&mux->mutex);
	struct svc_mux_stream *stream = mux_find(mux, frame->stream);
	bool deliver = stream != NULL && mux_end_stream(stream, why.code, false,
					     why.text, strlen(why.text));
	mux_queue_reset(mux, frame->stream, why.code, opens, why.text);
	mux_unlock_and_flush(mux);
	return deliver ? mux_deliver_closed(stream) : SVC_MUX_OK;
}

/* The peer takes no more streams; those after frame->stream it will not run. */
static svc_mux_result
input_drain(struct svc_mux *mux, const struct frame *frame)
{
	for (;;) {
		struct svc_mux_stream *found = NULL;
		pthread_mutex_lock(&mux->mutex);
		mux->draining = true;
		for (uint32_t i = 0; i < mux->n_buckets && found == NULL; i++)
			for (struct svc_mux_stream *stream = mux->buckets[i];
			     stream != NULL; stream = stream->next)
				if (stream->id > frame->stream) {
					found = stream;
					break;
				}
		static const char text[] = "the service is stopping";
		bool deliver =
		    found != NULL && mux_end_stream(found, SVC_E_UNAVAILABLE,
					 true, text, sizeof(text) - 1);
		pthread_mutex_unlock(&mux->mutex);
		if (found == NULL)
			return SVC_MUX_OK;
		/* After a take-over the rest is refused by the peer one by
		 * one. */
		if (deliver && mux_deliver_closed(found) == SVC_MUX_LOST)
			return SVC_MUX_LOST;
	}
}

static bool
frame_valid(
    const struct svc_mux *mux, const struct frame *frame, struct svc_error *err)
{
	const char *what = NULL;
	if (frame->type < FRAME_PART || frame->type > FRAME_PONG)
		what = "an unknown type";
	else if (frame->head > frame->length)
		what = "a head longer than the frame";
	else if (frame->type != FRAME_PART &&
		 (frame->length > 1024 || frame->head != 0))
		what = "a control frame that is too long";
	else if ((frame->type == FRAME_PART || frame->type == FRAME_RESET) &&
		 frame->stream == 0)
		what = "stream number 0";
	else if (frame->type == FRAME_PART && mux->config.server &&
		 (frame->flags & SVC_PART_HEADERS) &&
		 frame->stream <= mux->last_id)
		what = "a stream number out of order";
	if (what == NULL)
		return true;
	svc_error_set(err, SVC_E_INVAL, "the peer sent a frame with %s", what);
	return false;
}

static svc_mux_result
input_frame(struct svc_mux *mux, const struct frame *frame,
    const uint8_t *payload, struct svc_error *err)
{
	if (frame->type == FRAME_PART && mux->config.server &&
	    (frame->flags & SVC_PART_HEADERS)) {
		mux->last_id = frame->stream;
		return open_by_peer(mux, frame, payload, err);
	}
	if (frame->type == FRAME_DRAIN)
		return input_drain(mux, frame);
	if (frame->type == FRAME_PONG)
		return SVC_MUX_OK;
	pthread_mutex_lock(&mux->mutex);
	if (frame->type == FRAME_PING) {
		mux_queue_frame(mux, FRAME_PONG, 0, frame->stream, frame->value,
		    payload, frame->length);
		mux_unlock_and_flush(mux);
		return SVC_MUX_OK;
	}
	struct svc_mux_stream *stream = mux_find(mux, frame->stream);
	if (stream == NULL) { /* it has ended here */
		pthread_mutex_unlock(&mux->mutex);
		return SVC_MUX_OK;
	}
	if (frame->type == FRAME_RESET)
		return input_reset(mux, stream, frame, payload);
	return input_part(mux, stream, frame, payload, err);
}

/* Whether a thread that only waits for its own reply may handle the frame. */
static bool
may_handle(struct svc_mux *mux, const struct frame *frame)
{
	if (frame->type == FRAME_PING || frame->type == FRAME_PONG)
		return true;
	if (mux->config.server || frame->type == FRAME_DRAIN)
		return false;
	pthread_mutex_lock(&mux->mutex);
	struct svc_mux_stream *stream = mux_find(mux, frame->stream);
	bool may = stream == NULL || stream->waits;
	pthread_mutex_unlock(&mux->mutex);
	return may;
}

svc_mux_result
svc_mux_input(struct svc_mux *mux, const uint8_t *data, size_t len,
    size_t *offset, struct svc_error *err)
{
	bool on_loop =
	    mux->config.loop == NULL || svc_loop_current() == mux->config.loop;
	svc_mux_result result = SVC_MUX_OK;
	if (on_loop)
		mux_batch = mux;
	while (result == SVC_MUX_OK) {
		/* Who does not read our answers gets no more of them. Only a
		 * server stops reading: if both sides did, neither would ever
		 * go on. */
		if (on_loop && mux->config.server &&
		    mux->unchecked > BACKLOG / 64) {
			mux->unchecked = 0;
			if (svc_mux_backlog(mux) > BACKLOG) {
				result = SVC_MUX_YIELD;
				break;
			}
		}
		size_t left = len - *offset;
		const uint8_t *at = data + *offset;
		if (mux->skip > 0) {
			size_t n = left < mux->skip ? left : (size_t)mux->skip;
			mux->skip -= n;
			*offset += n;
			mux->need = 1;
			if (mux->skip > 0)
				break;
			continue;
		}
		if (!mux->greeted) {
			mux->need = HELLO_SIZE;
			/* A stranger shows in its first bytes. */
			struct hello hello;
			if (left < HELLO_SIZE) {
				if (left > 0 && at[0] != 0xf5) {
					mux->foreign = true;
					svc_error_set(err, SVC_E_INVAL,
					    "the peer does not speak svc "
					    "frames");
					result = SVC_MUX_FAILED;
				}
				break;
			}
			if (hello_decode(at, &hello, err) != SVC_OK) {
				mux->foreign = true;
				result = SVC_MUX_FAILED;
				break;
			}
			*offset += HELLO_SIZE;
			mux->greeted = true;
			pthread_mutex_lock(&mux->mutex);
			mux->peer_streams = hello.max_streams;
			mux->peer_message = hello.max_message;
			pthread_mutex_unlock(&mux->mutex);
			continue;
		}
		mux->need = FRAME_SIZE;
		if (left < FRAME_SIZE)
			break;
		struct frame frame;
		frame_decode(at, &frame);
		if (!frame_valid(mux, &frame, err)) {
			result = SVC_MUX_FAILED;
			break;
		}
		if (on_loop && mux->config.loop != NULL && mux->share-- <= 0) {
			mux->share = SHARE;
			result = SVC_MUX_SHARE;
			break;
		}
		if (!on_loop && !may_handle(mux, &frame)) {
			result = SVC_MUX_YIELD;
			break;
		}
		if (frame.type == FRAME_PART &&
		    (frame.length - frame.head >
			    mux->config.limits.max_message ||
			frame.head > mux->config.limits.max_headers)) {
			*offset += FRAME_SIZE;
			mux->skip = frame.length;
			result = input_too_large(mux, &frame);
			continue;
		}
		mux->need = FRAME_SIZE + frame.length;
		if (left < mux->need)
			break;
		*offset += mux->need;
		mux->unchecked += mux->need;
		mux->need = FRAME_SIZE;
		result = input_frame(mux, &frame, at + FRAME_SIZE, err);
	}
	if (on_loop)
		mux_batch = NULL;
	return result;
}

size_t
svc_mux_need(const struct svc_mux *mux)
{
	return mux->need;
}
