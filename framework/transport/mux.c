/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of one connection.
 *
 * mux->mutex guards the table of streams, their state and the output; no
 * callback runs under it. What belongs to the reader (greeted, skip, need) is
 * used only by the thread that reads the connection at the time.
 *
 * Callbacks of a stream run one at a time: `runner` is the thread in one. What
 * comes for the stream meanwhile (its handler was taken over and still runs)
 * is queued in the stream and delivered by that thread.
 */
#include "frame.h"

#include <stdatomic.h>
#include <string.h>
#include <svc/mux.h>

#define BACKLOG (1u << 20)  /* more than this waiting: senders get AGAIN */
#define MAX_KEPT (8u << 20) /* for a stream whose callback does not return */
#define KEEP_OUTPUT 4096    /* output storage an idle connection keeps */

struct queued_part {
	struct queued_part *next;
	struct frame frame;
	uint8_t payload[];
};

struct svc_mux_stream {
	struct svc_stream_handle handle;
	struct svc_mux *mux;
	struct svc_mux_stream *next; /* in the bucket */
	_Atomic(uintptr_t) runner;   /* the thread in a callback; 0: none */
	_Atomic bool cancelled;
	uint32_t id;
	bool waits;
	bool listed;   /* in the table */
	bool accepted; /* the server's accept has run */
	bool released; /* by its holder, inside a callback */
	bool got_end, sent_end;
	bool close_due; /* `closed` is to be called */
	bool done;      /* the end was delivered */
	bool want_writable;
	svc_err release_code;
	struct svc_stream_end end;
	char end_text[120];
	uint64_t queued_to; /* mux->queued behind its last part */
	struct queued_part *parts, **last_part;
	size_t kept;         /* bytes in parts */
	pthread_cond_t cond; /* only with `waits` */
};

/* The connection whose frames this thread handles on its loop: what it sends
 * there goes out in one write at the end. */
static _Thread_local struct svc_mux *batch;

static uintptr_t
self(void)
{
	return (uintptr_t)pthread_self();
}

static struct svc_mux_stream *
stream_of(struct svc_stream_handle *handle)
{
	return (struct svc_mux_stream *)(void *)handle;
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
	if (filled.handshake_ms <= 0)
		filled.handshake_ms = 10000;
	return filled;
}

svc_err
svc_mux_init(
    struct svc_mux *mux, const struct svc_mux_config *config, const char *peer)
{
	memset(mux, 0, sizeof(*mux));
	mux->config = *config;
	mux->config.limits = svc_transport_limits_fill(&config->limits);
	mux->refs = 1;
	mux->next_id = 1;
	mux->peer_streams = UINT32_MAX;
	mux->peer_message = mux->config.limits.max_message;
	mux->need = HELLO_SIZE;
	svc_buf_init(&mux->out, (size_t)mux->config.limits.max_message +
				    FRAME_MAX_HEAD + 8 * (size_t)BACKLOG);
	struct hello hello = {
	    .version = FRAME_VERSION,
	    .oldest = FRAME_VERSION,
	    .max_message = (uint32_t)mux->config.limits.max_message,
	    .max_streams = mux->config.limits.max_streams,
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
	pthread_mutex_init(&mux->mutex, NULL);
	svc_cond_init(&mux->changed);
	return SVC_OK;
}

void
svc_mux_fini(struct svc_mux *mux)
{
	svc_buf_fini(&mux->out);
	svc_mem_free(mux->buckets);
	pthread_cond_destroy(&mux->changed);
	pthread_mutex_destroy(&mux->mutex);
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

/* ------------------------------------------------------- the table of streams
 */

static struct svc_mux_stream **
find_place(struct svc_mux *mux, uint32_t id)
{
	struct svc_mux_stream **place =
	    &mux->buckets[id & (mux->n_buckets - 1)];
	while (*place != NULL && (*place)->id != id)
		place = &(*place)->next;
	return place;
}

static struct svc_mux_stream *
find_stream(struct svc_mux *mux, uint32_t id)
{
	return mux->n_buckets != 0 ? *find_place(mux, id) : NULL;
}

static svc_err
list_stream(struct svc_mux *mux, struct svc_mux_stream *stream)
{
	if (mux->n_streams >= mux->n_buckets) {
		uint32_t n = mux->n_buckets != 0 ? mux->n_buckets * 2 : 4;
		struct svc_mux_stream **old = mux->buckets;
		uint32_t n_old = mux->n_buckets;
		struct svc_mux_stream **buckets =
		    svc_mem_calloc(n, sizeof(struct svc_mux_stream *));
		if (buckets == NULL)
			return SVC_E_NOMEM;
		mux->buckets = buckets;
		mux->n_buckets = n;
		for (uint32_t i = 0; i < n_old; i++) {
			while (old[i] != NULL) {
				struct svc_mux_stream *moved = old[i];
				old[i] = moved->next;
				struct svc_mux_stream **place =
				    &buckets[moved->id & (n - 1)];
				moved->next = *place;
				*place = moved;
			}
		}
		svc_mem_free(old);
	}
	struct svc_mux_stream **place =
	    &mux->buckets[stream->id & (mux->n_buckets - 1)];
	stream->next = *place;
	*place = stream;
	stream->listed = true;
	mux->n_streams++;
	return SVC_OK;
}

static void
unlist_stream(struct svc_mux *mux, struct svc_mux_stream *stream)
{
	if (!stream->listed)
		return;
	struct svc_mux_stream **place = find_place(mux, stream->id);
	*place = stream->next;
	stream->listed = false;
	mux->n_streams--;
}

static struct svc_mux_stream *
stream_create(struct svc_mux *mux, uint32_t id, bool waits)
{
	struct svc_mux_stream *stream = svc_mem_calloc(1, sizeof(*stream));
	if (stream == NULL)
		return NULL;
	stream->handle.ops = mux->config.transport;
	stream->mux = mux;
	stream->id = id;
	stream->last_part = &stream->parts;
	stream->waits = waits;
	if (waits)
		svc_cond_init(&stream->cond);
	svc_mux_ref(mux);
	return stream;
}

/* The caller holds no lock; the stream is in no table. */
static void
stream_destroy(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	while (stream->parts != NULL) {
		struct queued_part *part = stream->parts;
		stream->parts = part->next;
		svc_mem_free(part);
	}
	if (stream->waits)
		pthread_cond_destroy(&stream->cond);
	svc_mem_free(stream);
	svc_mux_unref(mux);
}

/* -------------------------------------------------------------------- output
 */

/* With the mutex held. Control frames are small: that one cannot be queued is
 * only possible without memory, and then the stream is lost anyway. */
static void
queue_frame(struct svc_mux *mux, uint8_t type, uint8_t flags, uint32_t stream,
    uint32_t value, const void *body, size_t len)
{
	if (mux->failed)
		return;
	struct frame frame = {
	    .type = type, .flags = flags, .stream = stream, .value = value};
	size_t before = mux->out.len;
	if (frame_encode(&mux->out, &frame, body, len) == SVC_OK)
		mux->queued += mux->out.len - before;
}

static void
queue_reset(struct svc_mux *mux, uint32_t stream, svc_err code, bool not_run,
    const char *text)
{
	queue_frame(mux, FRAME_RESET, not_run ? FRAME_NOT_RUN : 0, stream,
	    (uint32_t)code, text, strlen(text));
}

/* Unlocks, then sends what waits unless this thread is in a batch. */
static void
unlock_and_flush(struct svc_mux *mux)
{
	bool flush = mux->out.len > 0 && !mux->flushing && batch != mux;
	pthread_mutex_unlock(&mux->mutex);
	if (flush)
		mux->config.ops->flush(mux);
}

bool
svc_mux_begin_flush(struct svc_mux *mux, struct svc_buf *into)
{
	pthread_mutex_lock(&mux->mutex);
	bool begin = !mux->flushing && mux->out.len > 0;
	if (begin) {
		struct svc_buf empty = *into;
		empty.max = mux->out.max;
		*into = mux->out;
		mux->out = empty;
		mux->flushing = true;
	}
	pthread_mutex_unlock(&mux->mutex);
	return begin;
}

static void writable_run(struct svc_task *task);

bool
svc_mux_end_flush(struct svc_mux *mux, struct svc_buf *from, size_t sent)
{
	pthread_mutex_lock(&mux->mutex);
	mux->sent += sent;
	mux->flushing = false;
	bool more = mux->out.len > 0;
	if (from->cap > KEEP_OUTPUT && mux->n_streams == 0 && !more) {
		size_t max = from->max;
		svc_buf_fini(from);
		svc_buf_init(from, max);
	} else {
		svc_buf_clear(from);
	}
	bool post = mux->want_writable && !mux->writable_posted &&
		    mux->out.len <= BACKLOG / 2;
	if (post) {
		mux->writable_posted = true;
		mux->writable_task.run = writable_run;
		svc_mux_ref(mux);
	}
	pthread_mutex_unlock(&mux->mutex);
	if (post)
		svc_loop_post(mux->config.loop, &mux->writable_task);
	return more;
}

size_t
svc_mux_backlog(struct svc_mux *mux)
{
	pthread_mutex_lock(&mux->mutex);
	size_t len = mux->out.len;
	pthread_mutex_unlock(&mux->mutex);
	return len;
}

/* ----------------------------------------------------------------- callbacks
 */

static void
run_closed(struct svc_mux_stream *stream)
{
	const struct svc_stream_events *events = stream->handle.events;
	if (events != NULL && events->closed != NULL)
		events->closed(&stream->handle, &stream->end);
}

static void
run_part(struct svc_mux_stream *stream, const struct svc_part *part)
{
	if (stream->handle.events != NULL)
		stream->handle.events->part(&stream->handle, part);
}

/* After a callback, in its thread: deliver what was queued meanwhile, then let
 * go of the stream. */
static void
callback_done(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	pthread_mutex_lock(&mux->mutex);
	while (!stream->released) {
		struct queued_part *queued = stream->parts;
		if (queued != NULL) {
			stream->parts = queued->next;
			if (stream->parts == NULL)
				stream->last_part = &stream->parts;
			stream->kept -= queued->frame.length;
			if (queued->frame.flags & SVC_PART_END)
				stream->got_end = true;
			pthread_mutex_unlock(&mux->mutex);
			struct svc_part part;
			struct svc_headers *headers = NULL;
			if (part_decode(&queued->frame, mux->config.server,
				queued->payload, &part, &headers,
				NULL) == SVC_OK)
				run_part(stream, &part);
			svc_headers_destroy(headers);
			svc_mem_free(queued);
			pthread_mutex_lock(&mux->mutex);
		} else if (stream->close_due) {
			stream->close_due = false;
			stream->done = true;
			pthread_mutex_unlock(&mux->mutex);
			run_closed(stream);
			pthread_mutex_lock(&mux->mutex);
		} else {
			break;
		}
	}
	atomic_store(&stream->runner, 0);
	if (stream->got_end)
		stream->done = true;
	if (!stream->released) {
		if (stream->got_end && stream->sent_end)
			unlist_stream(mux, stream);
		if (stream->done && stream->waits)
			pthread_cond_signal(&stream->cond);
		pthread_cond_broadcast(&mux->changed);
		unlock_and_flush(mux);
		return;
	}
	if (stream->listed && !(stream->got_end && stream->sent_end))
		queue_reset(mux, stream->id, stream->release_code, false, "");
	unlist_stream(mux, stream);
	bool idle = mux->closing && mux->n_streams == 0;
	unlock_and_flush(mux);
	if (idle)
		mux->config.ops->idle(mux);
	stream_destroy(stream);
}

/* Between enter and leave when this thread runs the connection's loop. */
struct entry {
	struct svc_loop *loop;
	struct svc_mux *batch;
};

static struct entry
enter(struct svc_mux *mux)
{
	struct entry entry = {NULL, batch};
	if (mux->config.loop != NULL &&
	    svc_loop_current() == mux->config.loop) {
		entry.loop = mux->config.loop;
		svc_loop_enter(entry.loop);
	}
	return entry;
}

/* False when the loop was taken over: then what this thread still sends is not
 * part of the new owner's batch. */
static bool
leave(const struct entry *entry)
{
	if (entry->loop == NULL)
		return true;
	bool owner = svc_loop_leave(entry->loop);
	if (!owner)
		batch = NULL;
	return owner;
}

static svc_mux_result
deliver_part(struct svc_mux_stream *stream, const struct svc_part *part)
{
	struct svc_mux *mux = stream->mux;
	struct entry entry = enter(mux);
	if (mux->config.server && !stream->accepted) {
		stream->accepted = true;
		mux->config.accept(
		    &stream->handle, part, mux->config.accept_arg);
	} else {
		run_part(stream, part);
	}
	bool owner = leave(&entry);
	callback_done(stream);
	return owner ? SVC_MUX_OK : SVC_MUX_LOST;
}

static svc_mux_result
deliver_closed(struct svc_mux_stream *stream)
{
	struct entry entry = enter(stream->mux);
	run_closed(stream);
	bool owner = leave(&entry);
	callback_done(stream);
	return owner ? SVC_MUX_OK : SVC_MUX_LOST;
}

/* With the mutex held: the stream ended early. True when the caller is to
 * deliver that after unlocking; otherwise whoever runs a callback will. */
static bool
end_stream(struct svc_mux_stream *stream, svc_err code, bool not_run,
    const char *text, size_t len)
{
	unlist_stream(stream->mux, stream);
	atomic_store(&stream->cancelled, true);
	if (stream->got_end && stream->sent_end)
		return false;
	if (len >= sizeof(stream->end_text))
		len = sizeof(stream->end_text) - 1;
	memcpy(stream->end_text, text, len);
	stream->end_text[len] = 0;
	stream->end.code = code;
	stream->end.not_run = not_run;
	stream->end.text = stream->end_text;
	uintptr_t nobody = 0;
	if (!atomic_compare_exchange_strong(&stream->runner, &nobody, self())) {
		stream->close_due = true;
		return false;
	}
	stream->done = true;
	return true;
}

static void
writable_run(struct svc_task *task)
{
	struct svc_mux *mux =
	    (struct svc_mux *)(void *)((char *)task -
				       offsetof(struct svc_mux, writable_task));
	struct svc_mux_stream *found = NULL;
	bool again = false;
	pthread_mutex_lock(&mux->mutex);
	for (uint32_t i = 0; i < mux->n_buckets; i++) {
		struct svc_mux_stream *stream = mux->buckets[i];
		for (; stream != NULL; stream = stream->next) {
			uintptr_t nobody = 0;
			if (!stream->want_writable)
				continue;
			if (found != NULL) {
				again = true;
			} else if (atomic_compare_exchange_strong(
				       &stream->runner, &nobody, self())) {
				stream->want_writable = false;
				found = stream;
			} else {
				again = true;
			}
		}
	}
	mux->want_writable = again;
	/* One stream a turn: its callback may cost this thread the loop. */
	mux->writable_posted = again && found != NULL;
	again = mux->writable_posted;
	if (again)
		svc_mux_ref(mux);
	pthread_mutex_unlock(&mux->mutex);
	if (again)
		svc_loop_post(mux->config.loop, &mux->writable_task);
	if (found != NULL) {
		struct entry entry = enter(mux);
		if (found->handle.events->writable != NULL)
			found->handle.events->writable(&found->handle);
		leave(&entry);
		callback_done(found);
	}
	svc_mux_unref(mux);
}

/* --------------------------------------------------------------------- input
 */

static svc_mux_result
refuse(struct svc_mux *mux, uint32_t id, svc_err code, const char *text)
{
	pthread_mutex_lock(&mux->mutex);
	queue_reset(mux, id, code, true, text);
	unlock_and_flush(mux);
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
	    stream_create(mux, frame->stream, false);
	svc_mux_result result;
	pthread_mutex_lock(&mux->mutex);
	const char *refused =
	    stream == NULL                 ? "out of memory"
	    : mux->draining || mux->failed ? "the service is stopping"
	    : mux->n_streams >= mux->config.limits.max_streams
		? "too many streams in this connection"
	    : list_stream(mux, stream) != SVC_OK ? "out of memory"
						 : NULL;
	if (refused == NULL) {
		atomic_store(&stream->runner, self());
		stream->got_end = (part.flags & SVC_PART_END) != 0;
		pthread_mutex_unlock(&mux->mutex);
		result = deliver_part(stream, &part);
	} else {
		svc_err code = mux->draining || mux->failed ? SVC_E_UNAVAILABLE
							    : SVC_E_EXHAUSTED;
		pthread_mutex_unlock(&mux->mutex);
		if (stream != NULL)
			stream_destroy(stream);
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
		queue_reset(
		    stream->mux, stream->id, SVC_E_EXHAUSTED, false, slow);
		end_stream(
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
	if (!atomic_compare_exchange_strong(&stream->runner, &nobody, self())) {
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
	svc_mux_result result = deliver_part(stream, &part);
	svc_headers_destroy(headers);
	return result;
}

static svc_mux_result
input_reset(struct svc_mux *mux, struct svc_mux_stream *stream,
    const struct frame *frame, const uint8_t *payload)
{
	bool deliver = end_stream(stream, svc_err_from_number(frame->value),
	    (frame->flags & FRAME_NOT_RUN) != 0, (const char *)payload,
	    frame->length);
	bool idle = mux->closing && mux->n_streams == 0;
	pthread_mutex_unlock(&mux->mutex);
	svc_mux_result result = deliver ? deliver_closed(stream) : SVC_MUX_OK;
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
	struct svc_mux_stream *stream = find_stream(mux, frame->stream);
	bool deliver = stream != NULL && end_stream(stream, why.code, false,
					     why.text, strlen(why.text));
	queue_reset(mux, frame->stream, why.code, opens, why.text);
	unlock_and_flush(mux);
	return deliver ? deliver_closed(stream) : SVC_MUX_OK;
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
		    found != NULL && end_stream(found, SVC_E_UNAVAILABLE, true,
					 text, sizeof(text) - 1);
		pthread_mutex_unlock(&mux->mutex);
		if (found == NULL)
			return SVC_MUX_OK;
		/* After a take-over the rest is refused by the peer one by
		 * one. */
		if (deliver && deliver_closed(found) == SVC_MUX_LOST)
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
		queue_frame(mux, FRAME_PONG, 0, frame->stream, frame->value,
		    payload, frame->length);
		unlock_and_flush(mux);
		return SVC_MUX_OK;
	}
	struct svc_mux_stream *stream = find_stream(mux, frame->stream);
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
	struct svc_mux_stream *stream = find_stream(mux, frame->stream);
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
		batch = mux;
	while (result == SVC_MUX_OK) {
		/* Who does not read our answers gets no more of them. */
		if (on_loop && mux->unchecked > BACKLOG / 64) {
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
		batch = NULL;
	return result;
}

size_t
svc_mux_need(const struct svc_mux *mux)
{
	return mux->need;
}

/* ------------------------------------------------------------------- failing
 */

void
svc_mux_fail(struct svc_mux *mux, svc_err code, const char *text)
{
	pthread_mutex_lock(&mux->mutex);
	if (!mux->failed) {
		mux->failed = true;
		svc_error_set(&mux->failure, code, "%s", text);
		svc_buf_clear(&mux->out);
	}
	pthread_mutex_unlock(&mux->mutex);
}

bool
svc_mux_failed(struct svc_mux *mux)
{
	pthread_mutex_lock(&mux->mutex);
	bool failed = mux->failed;
	pthread_mutex_unlock(&mux->mutex);
	return failed;
}

/* With the mutex held. */
static bool
end_by_failure(struct svc_mux *mux, struct svc_mux_stream *stream)
{
	/* Without its last byte the peer cannot have run it. */
	bool not_run = mux->foreign || stream->queued_to > mux->sent;
	return end_stream(stream, mux->failure.code, not_run, mux->failure.text,
	    strlen(mux->failure.text));
}

svc_mux_result
svc_mux_close_streams(struct svc_mux *mux)
{
	for (;;) {
		struct svc_mux_stream *stream = NULL;
		pthread_mutex_lock(&mux->mutex);
		for (uint32_t i = 0; i < mux->n_buckets && stream == NULL; i++)
			stream = mux->buckets[i];
		bool deliver = stream != NULL && end_by_failure(mux, stream);
		pthread_mutex_unlock(&mux->mutex);
		if (stream == NULL)
			return SVC_MUX_OK;
		if (deliver && deliver_closed(stream) == SVC_MUX_LOST)
			return SVC_MUX_LOST;
	}
}

void
svc_mux_drain(struct svc_mux *mux)
{
	pthread_mutex_lock(&mux->mutex);
	if (!mux->draining) {
		mux->draining = true;
		/* What the peer sent before it reads this is refused one by
		 * one. */
		queue_frame(mux, FRAME_DRAIN, 0, UINT32_MAX, 0, NULL, 0);
	}
	unlock_and_flush(mux);
}

void
svc_mux_finish(struct svc_mux *mux)
{
	pthread_mutex_lock(&mux->mutex);
	mux->draining = true;
	mux->closing = true;
	bool idle = mux->n_streams == 0;
	pthread_mutex_unlock(&mux->mutex);
	if (idle)
		mux->config.ops->idle(mux);
}

/* ------------------------------------------------------------------- streams
 */

static svc_err
check_size(
    struct svc_mux *mux, const struct svc_part *part, struct svc_error *err)
{
	int64_t limit = mux->config.limits.max_message < mux->peer_message
			    ? mux->config.limits.max_message
			    : mux->peer_message;
	if ((part->flags & SVC_PART_MESSAGE) && (int64_t)part->len > limit)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "message of %zu bytes exceeds the limit of %lld "
		    "(--max_message_size)",
		    part->len, (long long)limit);
	return SVC_OK;
}

svc_err
svc_mux_open(struct svc_mux *mux, const struct svc_part *first, unsigned flags,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err)
{
	struct svc_mux_stream *stream =
	    stream_create(mux, 0, (flags & SVC_OPEN_WAIT) != 0);
	if (stream == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	stream->handle.events = events;
	stream->handle.user = user;

	svc_err rc = SVC_OK;
	pthread_mutex_lock(&mux->mutex);
	if (mux->failed || mux->draining || mux->next_id == 0)
		rc = svc_error_set(err, SVC_E_CLOSED, "%s",
		    mux->failed ? mux->failure.text : "the peer is stopping");
	else if (mux->out.len > BACKLOG)
		rc = svc_error_set(err, SVC_E_AGAIN,
		    "%zu bytes are waiting to be sent to %s", mux->out.len,
		    mux->peer);
	else if (mux->n_streams >= mux->config.limits.max_streams ||
		 mux->n_streams >= mux->peer_streams)
		rc = svc_error_set(err, SVC_E_EXHAUSTED,
		    "%u calls are open on the connection to %s, the limit",
		    mux->n_streams, mux->peer);
	else
		rc = check_size(mux, first, err);
	if (rc == SVC_OK) {
		stream->id = mux->next_id;
		stream->sent_end = (first->flags & SVC_PART_END) != 0;
		rc = list_stream(mux, stream);
		if (rc != SVC_OK)
			svc_error_set(err, rc, "out of memory");
	}
	if (rc == SVC_OK) {
		size_t before = mux->out.len;
		rc = part_encode(&mux->out, stream->id, true, first,
		    mux->config.limits.max_headers, err);
		if (rc == SVC_OK) {
			mux->next_id++;
			mux->queued += mux->out.len - before;
			stream->queued_to = mux->queued;
			*ret_stream = &stream->handle;
		} else {
			unlist_stream(mux, stream);
		}
	}
	unlock_and_flush(mux);
	if (rc != SVC_OK)
		stream_destroy(stream);
	return rc;
}

svc_err
svc_mux_send(struct svc_stream_handle *handle, const struct svc_part *part,
    struct svc_error *err)
{
	struct svc_mux_stream *stream = stream_of(handle);
	struct svc_mux *mux = stream->mux;
	svc_err rc;
	pthread_mutex_lock(&mux->mutex);
	if (stream->sent_end) {
		rc = svc_error_set(
		    err, SVC_E_INVAL, "the stream's end has been sent");
	} else if (!stream->listed || mux->failed) {
		rc = svc_error_set(err, SVC_E_CLOSED, "the stream has ended");
	} else if (mux->out.len > BACKLOG && !(part->flags & SVC_PART_END)) {
		stream->want_writable = true;
		mux->want_writable = true;
		rc = SVC_E_AGAIN;
	} else {
		rc = check_size(mux, part, err);
	}
	if (rc == SVC_OK) {
		size_t before = mux->out.len;
		rc = part_encode(&mux->out, stream->id, !mux->config.server,
		    part, mux->config.limits.max_headers, err);
		mux->queued += mux->out.len - before;
		stream->queued_to = mux->queued;
	}
	if (rc == SVC_OK && (part->flags & SVC_PART_END)) {
		stream->sent_end = true;
		if (stream->done)
			unlist_stream(mux, stream);
	}
	unlock_and_flush(mux);
	return rc;
}

svc_err
svc_mux_wait(struct svc_stream_handle *handle, int64_t deadline_at_ms)
{
	struct svc_mux_stream *stream = stream_of(handle);
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&stream->mux->mutex);
	while (!stream->done && rc == SVC_OK)
		rc = svc_cond_wait(
		    &stream->cond, &stream->mux->mutex, deadline_at_ms);
	if (stream->done)
		rc = SVC_OK;
	pthread_mutex_unlock(&stream->mux->mutex);
	return rc;
}

void
svc_mux_release(struct svc_stream_handle *handle, svc_err code)
{
	struct svc_mux_stream *stream = stream_of(handle);
	struct svc_mux *mux = stream->mux;
	stream->release_code = code;
	if (atomic_load(&stream->runner) == self()) {
		stream->released = true; /* callback_done sees it */
		return;
	}
	pthread_mutex_lock(&mux->mutex);
	uintptr_t nobody = 0;
	while (
	    !atomic_compare_exchange_strong(&stream->runner, &nobody, self())) {
		nobody = 0;
		pthread_cond_wait(&mux->changed, &mux->mutex);
	}
	stream->released = true;
	pthread_mutex_unlock(&mux->mutex);
	callback_done(stream);
}

bool
svc_mux_cancelled(struct svc_stream_handle *handle)
{
	return atomic_load(&stream_of(handle)->cancelled);
}

const char *
svc_mux_peer(struct svc_stream_handle *handle)
{
	return stream_of(handle)->mux->peer;
}

struct svc_mux *
svc_mux_of(struct svc_stream_handle *handle)
{
	return stream_of(handle)->mux;
}

bool
svc_mux_done(struct svc_stream_handle *handle)
{
	return stream_of(handle)->done;
}
