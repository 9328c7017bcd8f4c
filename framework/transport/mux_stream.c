/* SPDX-License-Identifier: Apache-2.0 */
/* The table of streams and their callbacks. */
#include "mux_private.h"

#include <string.h>

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

struct svc_mux_stream *
mux_find(struct svc_mux *mux, uint32_t id)
{
	return mux->n_buckets != 0 ? *find_place(mux, id) : NULL;
}

svc_err
mux_list(struct svc_mux *mux, struct svc_mux_stream *stream)
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

void
mux_unlist(struct svc_mux *mux, struct svc_mux_stream *stream)
{
	if (!stream->listed)
		return;
	struct svc_mux_stream **place = find_place(mux, stream->id);
	*place = stream->next;
	stream->listed = false;
	mux->n_streams--;
}

struct svc_mux_stream *
mux_stream_create(struct svc_mux *mux, uint32_t id, bool waits)
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

void
mux_stream_destroy(struct svc_mux_stream *stream)
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

void
mux_callback_done(struct svc_mux_stream *stream)
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
			mux_unlist(mux, stream);
		if (stream->done && stream->waits)
			pthread_cond_signal(&stream->cond);
		pthread_cond_broadcast(&mux->changed);
		/* It may have been passed over meanwhile. */
		bool post = stream->want_writable && mux_writable_due(mux);
		mux_unlock_and_flush(mux);
		if (post)
			svc_loop_post(mux->config.loop, &mux->writable_task);
		return;
	}
	if (stream->listed && !(stream->got_end && stream->sent_end))
		mux_queue_reset(
		    mux, stream->id, stream->release_code, false, "");
	mux_unlist(mux, stream);
	bool idle = mux->closing && mux->n_streams == 0;
	mux_unlock_and_flush(mux);
	if (idle)
		mux->config.ops->idle(mux);
	mux_stream_destroy(stream);
}

/* The loop that this thread runs for the connection, now in foreign code; or
 * NULL. */
static struct svc_loop *
enter(struct svc_mux *mux)
{
	struct svc_loop *loop = mux->config.loop;
	if (loop == NULL || svc_loop_current() != loop)
		return NULL;
	svc_loop_enter(loop);
	return loop;
}

/* False when the loop was taken over: then what this thread still sends is not
 * part of the new owner's batch. */
static bool
leave(struct svc_loop *entered)
{
	bool owner = entered == NULL || svc_loop_leave(entered);
	if (!owner)
		mux_batch = NULL;
	return owner;
}

svc_mux_result
mux_deliver_part(struct svc_mux_stream *stream, const struct svc_part *part)
{
	struct svc_mux *mux = stream->mux;
	struct svc_loop *entered = enter(mux);
	if (mux->config.server && !stream->accepted) {
		stream->accepted = true;
		mux->config.accept(
		    &stream->handle, part, mux->config.accept_arg);
	} else {
		run_part(stream, part);
	}
	bool owner = leave(entered);
	mux_callback_done(stream);
	return owner ? SVC_MUX_OK : SVC_MUX_LOST;
}

svc_mux_result
mux_deliver_closed(struct svc_mux_stream *stream)
{
	struct svc_loop *entered = enter(stream->mux);
	run_closed(stream);
	bool owner = leave(entered);
	mux_callback_done(stream);
	return owner ? SVC_MUX_OK : SVC_MUX_LOST;
}

bool
mux_end_stream(struct svc_mux_stream *stream, svc_err code, bool not_run,
    const char *text, size_t len)
{
	mux_unlist(stream->mux, stream);
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
	if (!atomic_compare_exchange_strong(
		&stream->runner, &nobody, mux_self())) {
		stream->close_due = true;
		return false;
	}
	stream->done = true;
	return true;
}

void
mux_writable_run(struct svc_task *task)
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
				       &stream->runner, &nobody, mux_self())) {
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
		struct svc_loop *entered = enter(mux);
		if (found->handle.events->writable != NULL)
			found->handle.events->writable(&found->handle);
		leave(entered);
		mux_callback_done(found);
	}
	svc_mux_unref(mux);
}
