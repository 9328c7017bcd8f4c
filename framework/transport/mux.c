/* SPDX-License-Identifier: Apache-2.0 */
/* A connection and what is done to its streams from outside. */
#include "mux_private.h"

#include <string.h>
#include <sys/resource.h>

/* Storage that is the thread's; a larger one stays with a connection that needs
 * it. */
#define SMALL_OUTPUT 16384

SVC_THREAD_LOCAL struct svc_mux *mux_batch;

#define KEEP_DESCRIPTORS 256 /* or a quarter of all, if that is less */

/* Whoever connects must not leave the process without descriptors for its
 * registry and its own calls. */
static uint32_t
most_connections(void)
{
	struct rlimit all;
	if (getrlimit(RLIMIT_NOFILE, &all) != 0 || all.rlim_cur > UINT32_MAX)
		return UINT32_MAX;
	uint32_t n = (uint32_t)all.rlim_cur;
	return n - (n / 4 < KEEP_DESCRIPTORS ? n / 4 : KEEP_DESCRIPTORS);
}

struct svc_transport_limits
svc_transport_limits_fill(const struct svc_transport_limits *limits)
{
	struct svc_transport_limits filled = *limits;
	if (filled.max_message <= 0)
		filled.max_message = INT64_C(64) << 20;
	if (filled.max_message > UINT32_MAX - FRAME_MAX_HEAD)
		filled.max_message = UINT32_MAX - FRAME_MAX_HEAD;
	if (filled.max_headers == 0 || filled.max_headers > FRAME_MAX_HEAD)
		filled.max_headers = FRAME_MAX_HEAD;
	if (filled.max_streams == 0)
		filled.max_streams = 4096;
	if (filled.max_connections == 0)
		filled.max_connections = 65536;
	if (filled.max_connections > most_connections())
		filled.max_connections = most_connections();
	if (filled.handshake_ms <= 0)
		filled.handshake_ms = 10000;
	if (filled.stream_window == 0)
		filled.stream_window = 2u << 20;
	if (filled.conn_window == 0)
		filled.conn_window = 4u << 20;
	if (filled.stream_window < HELLO_MIN_WINDOW)
		filled.stream_window = HELLO_MIN_WINDOW;
	if (filled.conn_window < HELLO_MIN_WINDOW)
		filled.conn_window = HELLO_MIN_WINDOW;
	if (filled.stream_window > INT32_MAX)
		filled.stream_window = INT32_MAX;
	if (filled.conn_window > INT32_MAX)
		filled.conn_window = INT32_MAX;
	if (filled.keepalive_ms == 0)
		filled.keepalive_ms = 10000;
	if (filled.keepalive_ms < 0)
		filled.keepalive_ms = SVC_FOREVER;
	if (filled.idle_ms == 0)
		filled.idle_ms = 300000;
	if (filled.idle_ms < 0)
		filled.idle_ms = SVC_FOREVER;
	return filled;
}

svc_err
svc_mux_init(
    struct svc_mux *mux, const struct svc_mux_config *config, const char *peer)
{
	memset(mux, 0, sizeof(*mux));
	mux->config = *config;
	mux->config.limits = svc_transport_limits_fill(&config->limits);
	if (mux->config.hello_ms <= 0)
		mux->config.hello_ms = mux->config.limits.handshake_ms;
	mux->refs = 1;
	mux->next_id = 1;
	mux->secret = config->server ? (uint32_t)svc_random() : 0;
	mux->most_streams = mux->config.limits.max_streams;
	mux->most_message = mux->config.limits.max_message;
	mux->most_pending = 2 * (uint64_t)mux->config.limits.conn_window;
	if (mux->most_pending < (uint64_t)mux->most_message)
		mux->most_pending = (uint64_t)mux->most_message;
	mux->piece = PIECE_MIN;
	mux->window = mux->config.limits.conn_window;
	mux->first_window = FIRST_WINDOW;
	if (mux->first_window > mux->config.limits.stream_window)
		mux->first_window = mux->config.limits.stream_window;
	mux->need = HELLO_SIZE;
	mux->share = SHARE;
	svc_buf_init(&mux->out, 2 * (size_t)MAX_CONTROL);
	struct hello hello = {
	    .version = FRAME_VERSION,
	    .oldest = FRAME_VERSION,
	    .max_message = (uint32_t)mux->config.limits.max_message,
	    .max_streams = mux->config.limits.max_streams,
	    .stream_window = mux->first_window,
	    .conn_window = mux->config.limits.conn_window,
	    .piece = PIECE,
	};
	uint8_t bytes[HELLO_SIZE];
	hello_encode(&hello, bytes);
	if (svc_buf_append(&mux->out, bytes, sizeof(bytes)) != SVC_OK)
		return SVC_E_NOMEM;
	mux->queued = sizeof(bytes);
	size_t len = strlen(peer);
	if (len >= sizeof(mux->peer))
		len = sizeof(mux->peer) - 1;
	memcpy(mux->peer, peer, len);
	mux->peer[len] = 0;
	svc_biased_lock_init(&mux->lock);
	svc_cond_init(&mux->changed);
	return SVC_OK;
}

void
svc_mux_fini(struct svc_mux *mux)
{
	mux_free_spare(mux);
	svc_buf_fini(&mux->out);
	svc_mem_free(mux->buckets);
	pthread_cond_destroy(&mux->changed);
	svc_biased_lock_destroy(&mux->lock);
}

void
svc_mux_ref(struct svc_mux *mux)
{
	__atomic_add_fetch(&mux->refs, 1, __ATOMIC_RELAXED);
}

void
svc_mux_unref(struct svc_mux *mux)
{
	if (__atomic_sub_fetch(&mux->refs, 1, __ATOMIC_ACQ_REL) == 0)
		mux->config.ops->free(mux);
}

/* -------------------------------------------------------------------- output
 */

void
mux_queue_frame(struct svc_mux *mux, uint8_t type, uint8_t flags,
    uint32_t stream, uint32_t value, const void *body, size_t len)
{
	if (mux->failed)
		return;
	struct frame frame = {
	    .type = type, .flags = flags, .stream = stream, .value = value};
	size_t before = mux->out.len;
	if (before > MAX_CONTROL)
		mux_fail(mux, SVC_E_UNAVAILABLE,
		    "the peer asks for more answers than it reads");
	else if (frame_encode(mux_output(mux), &frame, body, len) != SVC_OK)
		mux_fail(mux, SVC_E_NOMEM, "out of memory");
	else
		mux->queued += mux->out.len - before;
}

void
mux_queue_reset(struct svc_mux *mux, uint32_t stream, svc_err code,
    bool not_run, const char *text)
{
	mux_queue_frame(mux, FRAME_RESET, not_run ? FRAME_NOT_RUN : 0, stream,
	    (uint32_t)code, text, strlen(text));
}

static bool
has_output(const struct svc_mux *mux)
{
	return mux->out.len > 0 || mux_sendable(mux);
}

/* There is something to be done without the lock. Unlocks. */
static SVC_APART void
unlock_and_act(struct svc_mux *mux, bool flush)
{
	bool close = mux->close_due;
	bool unref = mux->unref_due;
	mux->close_due = false;
	mux->unref_due = false;
	/* Without the lock the streams that hold the connection may go. */
	if ((flush || close) && !unref)
		svc_mux_ref(mux);
	svc_biased_lock_leave(&mux->lock);
	if (flush)
		mux->config.ops->flush(mux);
	if (close)
		mux->config.ops->close(mux);
	if (flush || close || unref)
		svc_mux_unref(mux);
}

SVC_HOT void
mux_unlock_and_flush(struct svc_mux *mux)
{
	/* A callback that lost the loop does not delay what it sends till it
	 * returns: it may wait for the answer. Looked at after the output was
	 * queued, since a new owner begins with a flush. */
	bool flush = !mux->flushing && !(mux_batch == mux && svc_loop_kept()) &&
		     has_output(mux);
	if (flush || mux->close_due || mux->unref_due)
		unlock_and_act(mux, flush);
	else
		svc_biased_lock_leave_hot(&mux->lock);
}

/* Of an output and an empty one. */
static inline void
swap_storage(struct svc_mux *mux, struct svc_buf *buf)
{
	struct svc_buf empty = *buf;
	empty.max = mux->out.max;
	*buf = mux->out;
	mux->out = empty;
}

SVC_HOT bool
svc_mux_begin_flush(struct svc_mux *mux, struct svc_buf *into)
{
	svc_biased_lock_take_hot(&mux->lock);
	bool begin = false;
	if (!mux->flushing) {
		mux_pump(mux);
		begin = mux->out.len > 0;
	}
	if (begin) {
		mux->gathered_at_us = 0;
		swap_storage(mux, into);
		mux->taken = into->len;
		mux->flushing = true;
	}
	bool close = mux->close_due;
	bool unref = mux->unref_due;
	mux->close_due = false;
	mux->unref_due = false;
	svc_biased_lock_leave_hot(&mux->lock);
	if (close)
		mux->config.ops->close(mux);
	if (unref) /* not the last: whoever flushes has one */
		svc_mux_unref(mux);
	return begin;
}

SVC_HOT bool
svc_mux_end_flush(struct svc_mux *mux, struct svc_buf *from, size_t sent)
{
	svc_biased_lock_take_hot(&mux->lock);
	mux->sent += sent;
	mux->taken = 0;
	mux->flushing = false;
	bool more = has_output(mux);
	/* A server has no stream after each batch, so what it sent tells. */
	bool drop = from->len <= SMALL_OUTPUT && mux->n_streams == 0;
	svc_buf_clear(from);
	if (!more) {
		if (from->cap <= SMALL_OUTPUT)
			mux_give_storage(from);
		else if (drop)
			svc_buf_fini(from);
		/* The same storage again: it is in the processor's cache. */
		if (mux->out.data == NULL)
			swap_storage(mux, from);
	}
	bool close = mux->close_due || (mux->leaving && !more);
	mux->close_due = false;
	svc_biased_lock_leave_hot(&mux->lock);
	if (close)
		mux->config.ops->close(mux);
	return more;
}

size_t
svc_mux_backlog(struct svc_mux *mux)
{
	svc_biased_lock_take(&mux->lock);
	size_t len = mux->out.len;
	svc_biased_lock_leave(&mux->lock);
	return len;
}

/* ------------------------------------------------------------------- failing
 */

static void
set_failed(struct svc_mux *mux, svc_err code, const char *text)
{
	if (mux->failed)
		return;
	svc_error_set(&mux->failure, code, "%s", text);
	MUX_SET(mux->failed, true);
	svc_buf_clear(&mux->out);
}

void
mux_fail(struct svc_mux *mux, svc_err code, const char *text)
{
	mux->close_due = mux->close_due || !mux->failed;
	set_failed(mux, code, text);
}

void
svc_mux_fail(struct svc_mux *mux, svc_err code, const char *text)
{
	svc_biased_lock_take(&mux->lock);
	set_failed(mux, code, text);
	svc_biased_lock_leave(&mux->lock);
}

void
svc_mux_unheard(struct svc_mux *mux)
{
	svc_biased_lock_take(&mux->lock);
	mux->foreign = true;
	svc_biased_lock_leave(&mux->lock);
}

SVC_HOT bool
svc_mux_failed(struct svc_mux *mux)
{
	return __atomic_load_n(&mux->failed, __ATOMIC_ACQUIRE);
}

/* With the lock held. */
static bool
end_by_failure(struct svc_mux *mux, struct svc_mux_stream *stream)
{
	/* Without its last byte the peer cannot have run it. */
	uint64_t left = mux->sent + mux->taken;
	bool not_run = mux->foreign || stream->queued_to > left;
	return mux_end_stream(stream, mux->failure.code, not_run,
	    mux->failure.text, strlen(mux->failure.text));
}

svc_mux_result
svc_mux_close_streams(struct svc_mux *mux)
{
	uint32_t at = 0;
	for (int share = SHARE;; share--) {
		svc_biased_lock_take(&mux->lock);
		mux_adopt_left(mux);
		/* None is added behind us but by an adoption. */
		while (mux->n_streams > 0 && mux->buckets[at] == NULL)
			at = at + 1 < mux->n_buckets ? at + 1 : 0;
		struct svc_mux_stream *stream =
		    mux->n_streams > 0 ? mux->buckets[at] : NULL;
		bool deliver = stream != NULL && end_by_failure(mux, stream);
		svc_biased_lock_leave(&mux->lock);
		if (stream == NULL)
			return SVC_MUX_OK;
		if (deliver && mux_deliver_closed(stream) == SVC_MUX_LOST)
			return SVC_MUX_LOST;
		if (share == 1 && mux->config.loop != NULL)
			return SVC_MUX_SHARE;
	}
}

/* Requests that are not whole yet, and never will be run. */
static void
refuse_assembling(struct svc_mux *mux)
{
	static const char text[] = "the service is stopping";
	struct svc_mux_node *node = mux->assembling.first;
	while (node != NULL) {
		struct svc_mux_stream *stream =
		    MUX_STREAM_OF(node, assembly_node);
		node = node->next;
		if (stream->accepted || !mux->config.server)
			continue;
		mux_queue_reset(mux, stream->id, SVC_E_UNAVAILABLE, true, text);
		mux_forget(stream);
		mux_stream_destroy(stream);
	}
}

void
svc_mux_drain(struct svc_mux *mux)
{
	svc_biased_lock_take(&mux->lock);
	if (!mux->draining) {
		MUX_SET(mux->draining, true);
		/* What the peer sent before it reads this is refused one by
		 * one. */
		mux_queue_frame(mux, FRAME_DRAIN, 0, UINT32_MAX, 0, NULL, 0);
		refuse_assembling(mux);
	}
	mux_unlock_and_flush(mux);
}

void
svc_mux_finish(struct svc_mux *mux)
{
	svc_biased_lock_take(&mux->lock);
	MUX_SET(mux->draining, true);
	mux->closing = true;
	bool idle = mux->n_streams == 0;
	svc_biased_lock_leave(&mux->lock);
	if (idle)
		mux->config.ops->close(mux);
}

/* ------------------------------------------------------------------- streams
 */

SVC_HOT svc_err
mux_give_part(struct svc_mux_stream *stream, const struct svc_part *part,
    bool at_once, struct svc_error *err)
{
	struct svc_mux *mux = stream->mux;
	size_t len = part->flags & SVC_PART_MESSAGE ? part->len : 0;
	if (!at_once || len > mux->piece || stream->pending != NULL ||
	    mux->out.len > BACKLOG || !mux_may_send(stream, part->flags))
		return mux_pend(stream, part, err);
	size_t before = mux->out.len;
	svc_err rc = part_encode(mux_output(mux), stream->id,
	    !mux->config.server, part, mux->config.limits.max_headers, err);
	size_t added = mux->out.len - before;
	if (rc == SVC_OK) {
		mux->queued += added;
		mux_charge(stream, added - FRAME_SIZE);
	}
	return rc;
}

/* Whether what is no end must be sent later. With the lock. */
static bool
must_wait(struct svc_mux_stream *stream, const struct svc_part *part)
{
	struct svc_mux *mux = stream->mux;
	if (stream->pending != NULL)
		return true;
	if (mux->pending > mux->most_pending) {
		mux->choked = true;
		return true;
	}
	/* One message more is taken without credit, so that a sender of one
	 * need not know of it; in a burst that would only be a copy, and a
	 * write of its own when the credit comes. */
	if (part->flags != SVC_PART_MESSAGE || !mux_in_burst(stream) ||
	    mux_may_send(stream, part->flags))
		return false;
	if (stream->credit > 0)
		mux->choked = true;
	return true;
}

/* What most of a stream is: a message in one frame, without a head, that goes
 * to the output as it is. False when there is more to look at; with the lock.
 */
static bool
give_message(struct svc_mux_stream *stream, const struct svc_part *part)
{
	struct svc_mux *mux = stream->mux;
	struct svc_buf *out = mux_output(mux);
	if (part->flags != SVC_PART_MESSAGE || stream->sent_end ||
	    !stream->listed || mux->failed || stream->pending != NULL ||
	    part->len > mux->piece || (int64_t)part->len > mux->most_message ||
	    out->len > BACKLOG ||
	    out->cap - out->len <= FRAME_SIZE + part->len ||
	    mux->pending > mux->most_pending ||
	    !mux_may_send(stream, part->flags))
		return false;
	struct frame frame = {
	    .length = (uint32_t)part->len,
	    .type = FRAME_PART,
	    .flags = SVC_PART_MESSAGE,
	    .stream = stream->id,
	};
	uint8_t *at = out->data + out->len;
	frame_put(at, &frame);
	if (part->len > 0)
		memcpy(at + FRAME_SIZE, part->data, part->len);
	out->len += FRAME_SIZE + part->len;
	mux->queued += FRAME_SIZE + part->len;
	mux_charge(stream, part->len);
	return true;
}

svc_err
svc_mux_send(struct svc_stream_handle *handle, const struct svc_part *part,
    struct svc_error *err)
{
	struct svc_mux_stream *stream = stream_of(handle);
	struct svc_mux *mux = stream->mux;
	svc_err rc;
	bool end = (part->flags & SVC_PART_END) != 0;
	bool cut = (part->flags & SVC_PART_CUT) != 0;
	struct svc_part last;
	if (cut) {
		last = *part;
		last.flags &= ~SVC_PART_CUT;
		part = &last;
	}
	svc_biased_lock_take(&mux->lock);
	mux_adopt(mux, stream);
	bool given = give_message(stream, part);
	if (given) {
		rc = SVC_OK;
	} else if (stream->sent_end) {
		rc = svc_error_set(
		    err, SVC_E_INVAL, "the stream's end has been sent");
	} else if (!stream->listed || mux->failed) {
		rc = svc_error_set(err, SVC_E_CLOSED, "the stream has ended");
	} else if (!end && must_wait(stream, part)) {
		stream->want_writable = true;
		mux_burst_waits(stream);
		rc = SVC_E_AGAIN;
	} else {
		rc = mux_check_size(mux, part, err);
	}
	if (rc == SVC_OK && !given &&
	    !(cut && stream->pending != NULL && mux_overtake(stream, part)))
		rc = mux_give_part(stream, part, true, err);
	if (rc == SVC_OK && end) {
		stream->sent_end = true;
		if (part->status != SVC_OK && stream->pending != NULL)
			mux_keep_failure(stream, part);
		if (stream->done && stream->pending == NULL)
			mux_unlist(mux, stream);
	}
	bool message = rc == SVC_OK && !end;
	if (message && mux_burst_gathers(stream, FRAME_SIZE + part->len)) {
		svc_biased_lock_leave(&mux->lock);
		return rc;
	}
	mux_unlock_and_flush(mux);
	if (message)
		mux_burst_written(stream);
	return rc;
}

SVC_HOT svc_err
svc_mux_answer(struct svc_stream_handle *handle, const struct svc_part *part,
    struct svc_error *err)
{
	struct svc_mux_stream *stream = stream_of(handle);
	struct svc_mux *mux = stream->mux;
	if (mux_batch == mux && !stream->left &&
	    MUX_GET(mux->current) == stream &&
	    svc_loop_leave(mux->config.loop)) {
		/* The loop is still ours, so nobody else knows of it. */
		stream->left = true;
		svc_biased_lock_take(&mux->lock);
		svc_err rc = mux->failed ? svc_error_set(err, SVC_E_CLOSED,
					       "the stream has ended")
					 : mux_check_size(mux, part, err);
		if (rc == SVC_OK)
			rc = mux_give_part(stream, part, true, err);
		if (rc == SVC_OK && stream->pending == NULL) {
			MUX_SET(mux->current, NULL);
			mux_take_whole(mux, stream->cost);
			stream->answered = true;
		} else if (rc == SVC_OK) {
			mux_adopt(mux, stream);
			stream->sent_end = true;
			stream->released = true;
		}
		if (mux->close_due)
			mux_unlock_and_flush(mux);
		else
			svc_biased_lock_leave(&mux->lock);
		return rc;
	}
	svc_err rc = svc_mux_send(handle, part, err);
	if (rc == SVC_OK)
		svc_mux_release(handle, SVC_OK);
	return rc;
}

svc_err
svc_mux_wait(struct svc_stream_handle *handle, int64_t deadline_at_ms)
{
	struct svc_mux_stream *stream = stream_of(handle);
	svc_err rc = SVC_OK;
	svc_will_block();
	svc_biased_lock_take(&stream->mux->lock);
	mux_adopt(stream->mux, stream);
	if (!stream->sleeps && !stream->done && !stream->interrupted) {
		svc_cond_init(&stream->cond);
		stream->sleeps = true;
	}
	while (!stream->done && !stream->interrupted && rc == SVC_OK)
		rc = svc_biased_lock_wait(
		    &stream->mux->lock, &stream->cond, deadline_at_ms);
	if (stream->done)
		rc = SVC_OK;
	else if (stream->interrupted)
		rc = SVC_E_CANCELLED;
	svc_biased_lock_leave(&stream->mux->lock);
	return rc;
}

/* Outside its callbacks. */
static SVC_APART void
release(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	svc_biased_lock_take(&mux->lock);
	mux_adopt(mux, stream);
	while (!mux_try_run(stream))
		svc_biased_lock_wait(&mux->lock, &mux->changed, INT64_MAX);
	stream->released = true;
	mux_end_released(stream);
}

SVC_HOT void
svc_mux_release(struct svc_stream_handle *handle, svc_err code)
{
	struct svc_mux_stream *stream = stream_of(handle);
	stream->release_code = code;
	if (mux_runner(stream) == mux_self())
		stream->released = true; /* mux_callback_done sees it */
	else
		release(stream);
}

bool
svc_mux_cancelled(struct svc_stream_handle *handle)
{
	return atomic_load(&stream_of(handle)->cancelled);
}

bool
svc_mux_on_cancel(struct svc_stream_handle *handle, struct svc_task *task)
{
	struct svc_mux_stream *stream = stream_of(handle);
	struct svc_mux *mux = stream->mux;
	svc_biased_lock_take(&mux->lock);
	bool had = stream->cancel_task != NULL;
	stream->cancel_task = task;
	if (task != NULL && atomic_load(&stream->cancelled)) {
		svc_loop_post(mux->config.loop, task);
		stream->cancel_task = NULL;
	}
	svc_biased_lock_leave(&mux->lock);
	return had;
}

void
svc_mux_interrupt(struct svc_stream_handle *handle)
{
	struct svc_mux_stream *stream = stream_of(handle);
	svc_biased_lock_take(&stream->mux->lock);
	stream->interrupted = true;
	if (stream->sleeps)
		pthread_cond_signal(&stream->cond);
	svc_biased_lock_leave(&stream->mux->lock);
}

const char *
svc_mux_peer(struct svc_stream_handle *handle)
{
	return stream_of(handle)->mux->peer;
}

SVC_HOT struct svc_mux *
svc_mux_of(struct svc_stream_handle *handle)
{
	return stream_of(handle)->mux;
}

SVC_HOT bool
svc_mux_done(struct svc_stream_handle *handle)
{
	return stream_of(handle)->done;
}

SVC_HOT bool
svc_mux_interrupted(struct svc_stream_handle *handle)
{
	return stream_of(handle)->interrupted;
}
