/* SPDX-License-Identifier: Apache-2.0 */
/* The table of streams and their callbacks. */
#include "mux_private.h"

#include <string.h>

#define MAX_SPARE 64

/* ------------------------------------------------------- the table of streams
 */

/* A client's numbers follow each other. Those of a peer are its choice: it must
 * not be able to choose some that all fall into one bucket (the mixing is the
 * end of MurmurHash3). */
static inline uint32_t
bucket_of(const struct svc_mux *mux, uint32_t id)
{
	if (mux->config.server) {
		id ^= mux->secret;
		id = (id ^ id >> 16) * 0x85ebca6bu;
		id = (id ^ id >> 13) * 0xc2b2ae35u;
		id ^= id >> 16;
	}
	return id & (mux->n_buckets - 1);
}

struct svc_mux_stream **
mux_place(struct svc_mux *mux, uint32_t id)
{
	struct svc_mux_stream **place = &mux->buckets[bucket_of(mux, id)];
	while (*place != NULL && (*place)->id != id)
		place = &(*place)->next;
	return place;
}

struct svc_mux_stream *
mux_find(struct svc_mux *mux, uint32_t id)
{
	return mux->n_buckets != 0 ? *mux_place(mux, id) : NULL;
}

/* Room for one more; false when there is none at all. */
static SVC_COLD bool
table_grow(struct svc_mux *mux)
{
	uint32_t n = mux->n_buckets != 0 ? mux->n_buckets * 2 : 4;
	struct svc_mux_stream **old = mux->buckets;
	uint32_t n_old = mux->n_buckets;
	struct svc_mux_stream **buckets =
	    svc_mem_calloc(n, sizeof(struct svc_mux_stream *));
	if (buckets == NULL) /* it is fuller than it should be then */
		return n_old != 0;
	mux->buckets = buckets;
	mux->n_buckets = n;
	for (uint32_t i = 0; i < n_old; i++) {
		while (old[i] != NULL) {
			struct svc_mux_stream *moved = old[i];
			old[i] = moved->next;
			struct svc_mux_stream **place =
			    &buckets[bucket_of(mux, moved->id)];
			moved->next = *place;
			*place = moved;
		}
	}
	svc_mem_free(old);
	return true;
}

SVC_HOT svc_err
mux_list(struct svc_mux *mux, struct svc_mux_stream *stream)
{
	if (mux->n_streams >= mux->n_buckets && !table_grow(mux))
		return SVC_E_NOMEM;
	struct svc_mux_stream **place =
	    &mux->buckets[bucket_of(mux, stream->id)];
	stream->next = *place;
	*place = stream;
	stream->listed = true;
	mux->n_streams++;
	if (mux->n_held == 0)
		svc_mux_ref(mux);
	MUX_SET(mux->n_held, mux->n_held + 1);
	return SVC_OK;
}

void
mux_unlist_at(struct svc_mux *mux, struct svc_mux_stream **place)
{
	struct svc_mux_stream *stream = *place;
	*place = stream->next;
	stream->listed = false;
	mux->n_streams--;
	if (mux->closing && mux->n_streams == 0)
		mux->close_due = true;
}

void
mux_unlist(struct svc_mux *mux, struct svc_mux_stream *stream)
{
	if (stream->listed)
		mux_unlist_at(mux, mux_place(mux, stream->id));
}

struct svc_mux_stream *
mux_stream_create(struct svc_mux *mux, uint32_t id, uintptr_t waiter)
{
	struct svc_mux_stream *stream = mux->spare;
	if (stream != NULL) {
		mux->spare = stream->next;
		mux->n_spare--;
	} else {
		stream = svc_mem_calloc(1, sizeof(*stream));
		if (stream == NULL)
			return NULL;
		stream->handle.ops = mux->config.transport;
		stream->mux = mux;
	}
	stream->handle.events = NULL;
	stream->handle.user = NULL;
	memset((char *)stream + MUX_ZEROED_FROM, 0,
	    MUX_ZEROED_TO - MUX_ZEROED_FROM);
	stream->id = id;
	stream->last_part = &stream->parts;
	stream->last_pending = &stream->pending;
	stream->waiter = waiter;
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
	if (stream->sleeps)
		pthread_cond_destroy(&stream->cond);
	if (mux->n_spare < MAX_SPARE) {
		stream->next = mux->spare;
		mux->spare = stream;
		mux->n_spare++;
	} else {
		svc_mem_free(stream);
	}
}

void
mux_free_spare(struct svc_mux *mux)
{
	while (mux->spare != NULL) {
		struct svc_mux_stream *stream = mux->spare;
		mux->spare = stream->next;
		svc_mem_free(stream);
	}
	mux->n_spare = 0;
	svc_mem_free(mux->handy);
	mux->handy = NULL;
}

static inline void
no_longer_held(struct svc_mux *mux)
{
	MUX_SET(mux->n_held, mux->n_held - 1);
	if (mux->n_held == 0)
		mux->unref_due = true;
}

SVC_HOT void
mux_forget(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	if (stream->lingering) {
		stream->lingering = false;
		mux->n_lingering--;
	}
	mux_unlist(mux, stream);
	if (stream->pending != NULL)
		mux_drop_pending(stream);
	mux_remove(&stream->due_node);
	mux_drop_assembly(stream);
	if (stream->unconsumed > 0)
		mux_consume(stream, stream->unconsumed);
	mux_drop_window(stream);
	no_longer_held(mux);
}

SVC_HOT void
mux_take_back(struct svc_mux *mux)
{
	while (mux->returned != NULL) {
		struct svc_mux_stream *stream = mux->returned;
		mux->returned = stream->next;
		no_longer_held(mux);
		mux_stream_destroy(stream);
	}
}

struct svc_mux_stream *
mux_begin_whole(struct svc_mux *mux, const struct frame *frame)
{
	struct svc_mux_stream *stream = mux->handy;
	if (stream == NULL) {
		svc_biased_lock_take(&mux->lock);
		stream = mux_stream_create(mux, 0, 0);
		/* So that it can be listed whenever it must be. */
		if (stream != NULL && mux->n_buckets == 0 && !table_grow(mux)) {
			mux_stream_destroy(stream);
			stream = NULL;
		}
		svc_biased_lock_leave(&mux->lock);
		if (stream == NULL)
			return NULL;
		stream->accepted = true;
		stream->got_headers = true;
		stream->recv_end = true;
		stream->got_end = true;
	}
	mux->handy = NULL;
	stream->handle.events = NULL;
	stream->handle.user = NULL;
	stream->id = frame->stream;
	stream->cancel_task = NULL;
	stream->left = false;
	stream->answered = false;
	stream->credit = mux->peer_window;
	stream->window = mux->first_window;
	stream->cost = FRAME_SIZE + (size_t)frame->length;
	mux_set_runner(stream, mux_self());
	MUX_SET(mux->current, stream);
	return stream;
}

void
mux_adopt(struct svc_mux *mux, struct svc_mux_stream *stream)
{
	if (MUX_GET(mux->current) != stream)
		return;
	MUX_SET(mux->current, NULL);
	mux_list(mux, stream);
	mux_take_whole(mux, stream->cost);
	if (!mux->ticking)
		mux_arm(mux);
}

void
mux_adopt_left(struct svc_mux *mux)
{
	struct svc_mux_stream *stream = MUX_GET(mux->current);
	if (stream != NULL)
		mux_adopt(mux, stream);
}

void
mux_append(struct svc_mux_list *list, struct svc_mux_node *node)
{
	node->list = list;
	node->next = NULL;
	node->prev = list->last;
	if (list->last != NULL)
		list->last->next = node;
	else
		list->first = node;
	list->last = node;
}

void
mux_remove(struct svc_mux_node *node)
{
	struct svc_mux_list *list = node->list;
	if (list == NULL)
		return;
	if (node->prev != NULL)
		node->prev->next = node->next;
	else
		list->first = node->next;
	if (node->next != NULL)
		node->next->prev = node->prev;
	else
		list->last = node->prev;
	node->list = NULL;
}

/* ----------------------------------------------------------------- callbacks
 */

static void
run_closed(struct svc_mux_stream *stream)
{
	const struct svc_stream_events *events = stream->handle.events;
	if (events != NULL && events->closed != NULL && !stream->released)
		events->closed(&stream->handle, &stream->end);
}

static void
run_part(struct svc_mux_stream *stream, const struct svc_part *part)
{
	if (stream->handle.events != NULL)
		stream->handle.events->part(&stream->handle, part);
}

/* What came while a callback ran. With the lock, which is let go meanwhile. */
static void
run_queued(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	struct queued_part *queued = stream->parts;
	struct svc_part part;
	struct svc_headers *headers = NULL;
	struct svc_error err;
	stream->parts = queued->next;
	if (stream->parts == NULL)
		stream->last_part = &stream->parts;
	svc_err rc = mux_decode(stream, queued, &part, &headers, &err);
	if (rc != SVC_OK) {
		mux_fail(
		    mux, rc == SVC_E_NOMEM ? rc : SVC_E_UNAVAILABLE, err.text);
		svc_mem_free(queued);
		return;
	}
	mux_consume_part(stream, &part, queued->cost);
	if (part.flags & SVC_PART_END)
		stream->got_end = true;
	mux_unlock_and_flush(mux);
	run_part(stream, &part);
	svc_headers_destroy(headers);
	svc_mem_free(queued);
	svc_biased_lock_take(&mux->lock);
}

bool
mux_overtake(struct svc_mux_stream *stream, const struct svc_part *end)
{
	struct svc_mux *mux = stream->mux;
	/* Half a message cannot be taken back, nor can headers be left out. */
	const struct pending_part *part = stream->pending;
	bool reset = part->begun || (part->flags & SVC_PART_HEADERS) != 0;
	mux_drop_pending(stream);
	if (!reset)
		return false;
	mux_queue_reset(mux, stream->id, end->status, false,
	    end->status_text != NULL ? end->status_text : "");
	mux_unlist(mux, stream);
	return true;
}

static void
keep_end(
    struct svc_mux_stream *stream, svc_err code, const char *text, size_t len)
{
	if (len >= sizeof(stream->end_text))
		len = sizeof(stream->end_text) - 1;
	memcpy(stream->end_text, text, len);
	stream->end_text[len] = 0;
	stream->end.code = code;
	stream->end.text = stream->end_text;
}

void
mux_keep_failure(struct svc_mux_stream *stream, const struct svc_part *end)
{
	const char *text = end->status_text != NULL ? end->status_text : "";
	stream->failed = true;
	keep_end(stream, end->status, text, strlen(text));
}

void
mux_reset_failed(struct svc_mux *mux)
{
	for (uint32_t i = 0; i < mux->n_buckets && mux->n_lingering > 0; i++)
		for (struct svc_mux_stream *stream = mux->buckets[i], *next;
		     stream != NULL; stream = next) {
			next = stream->next;
			if (!stream->lingering || !stream->failed)
				continue;
			mux_queue_reset(mux, stream->id, stream->end.code,
			    false, stream->end_text);
			mux_forget(stream);
			mux_stream_destroy(stream);
		}
}

SVC_HOT void
mux_end_released(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	if (stream->listed && mux->config.server && stream->sent_end &&
	    stream->pending != NULL && !mux->failed) {
		/* Its answer goes on by itself. */
		stream->lingering = true;
		stream->moved = mux->ticks;
		mux->n_lingering++;
		mux_drop_assembly(stream);
		if (stream->unconsumed > 0)
			mux_consume(stream, stream->unconsumed);
		mux_remove(&stream->due_node);
		mux_set_runner(stream, 0);
		mux_unlock_and_flush(mux);
		return;
	}
	if (stream->listed && !stream->unopened &&
	    !(stream->recv_end && mux_all_sent(stream)))
		mux_queue_reset(
		    mux, stream->id, stream->release_code, false, "");
	mux_forget(stream);
	mux_stream_destroy(stream);
	mux_unlock_and_flush(mux);
}

void
mux_callback_done(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	svc_biased_lock_take(&mux->lock);
	mux_adopt(mux, stream);
	while (!stream->released) {
		if (stream->parts != NULL) {
			run_queued(stream);
		} else if (stream->close_due) {
			stream->close_due = false;
			if (stream->got_end && stream->sent_end)
				continue; /* it ended well before that */
			svc_biased_lock_leave(&mux->lock);
			run_closed(stream);
			svc_biased_lock_take(&mux->lock);
			stream->got_closed = true;
		} else {
			break;
		}
	}
	if (stream->released) {
		mux_end_released(stream);
		return;
	}
	mux_set_runner(stream, 0);
	if (stream->got_end || stream->got_closed)
		stream->done = true;
	if (stream->got_end && mux_all_sent(stream))
		mux_unlist(mux, stream);
	if (stream->done && stream->sleeps)
		pthread_cond_signal(&stream->cond);
	/* The loop may have passed it over while the callback ran. */
	mux_offer_room(stream);
	pthread_cond_broadcast(&mux->changed);
	mux_unlock_and_flush(mux);
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
mux_deliver_part(
    struct svc_mux_stream *stream, const struct svc_part *part, bool accept)
{
	struct svc_mux *mux = stream->mux;
	struct svc_loop *entered = enter(mux);
	if (accept) {
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
mux_deliver_last(struct svc_mux_stream *stream, const struct svc_part *part)
{
	struct svc_mux *mux = stream->mux;
	svc_loop_enter(mux->config.loop);
	run_part(stream, part);
	bool owner = leave(mux->config.loop);
	if (owner && stream->released) {
		stream->next = mux->returned;
		mux->returned = stream;
		return SVC_MUX_OK;
	}
	mux_callback_done(stream);
	return owner ? SVC_MUX_OK : SVC_MUX_LOST;
}

svc_mux_result
mux_deliver_own(struct svc_mux_stream *stream, const struct svc_part *part)
{
	run_part(stream, part);
	return SVC_MUX_OK;
}

svc_mux_result
mux_deliver_whole(struct svc_mux_stream *stream, const struct svc_part *part)
{
	struct svc_mux *mux = stream->mux;
	struct svc_loop *loop = mux->config.loop;
	svc_loop_enter(loop);
	mux->config.accept(&stream->handle, part, mux->config.accept_arg);
	bool owner = stream->left || leave(loop);
	if (stream->answered) {
		mux->handy = stream;
		return SVC_MUX_OK;
	}
	mux_callback_done(stream);
	return owner ? SVC_MUX_OK : SVC_MUX_LOST;
}

svc_mux_result
mux_deliver_closed(struct svc_mux_stream *stream)
{
	struct svc_loop *entered = enter(stream->mux);
	run_closed(stream);
	stream->got_closed = true; /* as its runner */
	bool owner = leave(entered);
	mux_callback_done(stream);
	return owner ? SVC_MUX_OK : SVC_MUX_LOST;
}

/* False when nothing is to be told any more. */
static bool
set_end(struct svc_mux_stream *stream, svc_err code, bool not_run,
    const char *text, size_t len)
{
	mux_unlist(stream->mux, stream);
	atomic_store(&stream->cancelled, true);
	if (stream->cancel_task != NULL) {
		svc_loop_post(stream->mux->config.loop, stream->cancel_task);
		stream->cancel_task = NULL;
	}
	if (stream->pending != NULL)
		mux_drop_pending(stream);
	mux_drop_assembly(stream);
	/* One that has no holder just goes. */
	if (stream->lingering ||
	    (stream->mux->config.server && !stream->accepted &&
		mux_runner(stream) == 0))
		stream->released = true;
	else if (stream->got_end && stream->sent_end)
		return false;
	keep_end(stream, code, text, len);
	stream->end.not_run = not_run;
	stream->end.silent = stream->mux->silent;
	return true;
}

bool
mux_end_stream(struct svc_mux_stream *stream, svc_err code, bool not_run,
    const char *text, size_t len)
{
	if (!set_end(stream, code, not_run, text, len))
		return false;
	if (!mux_try_run(stream)) {
		stream->close_due = true;
		return false;
	}
	return true;
}

void
mux_end_later(
    struct svc_mux_stream *stream, svc_err code, bool not_run, const char *text)
{
	if (!set_end(stream, code, not_run, text, strlen(text)))
		return;
	if (stream->released) { /* nobody is to be told */
		mux_forget(stream);
		mux_stream_destroy(stream);
		return;
	}
	stream->close_due = true;
	mux_due(stream);
}

/* ------------------------------------------------------- callbacks to come */

/* Runs one; false when there is none that may run. */
static bool
run_due(struct svc_mux *mux)
{
	struct svc_mux_stream *stream = NULL;
	svc_biased_lock_take(&mux->lock);
	while (mux->due.first != NULL && stream == NULL) {
		stream = MUX_STREAM_OF(mux->due.first, due_node);
		mux_remove(&stream->due_node);
		/* Whoever runs it tells it himself: see mux_callback_done. */
		if (!mux_try_run(stream))
			stream = NULL;
	}
	bool writable = false;
	if (stream != NULL) {
		writable = stream->want_writable && stream->listed &&
			   !stream->sent_end;
		stream->want_writable = false;
	}
	svc_biased_lock_leave(&mux->lock);
	if (stream == NULL)
		return false;
	const struct svc_stream_events *events = stream->handle.events;
	bool quick =
	    events != NULL && events->messages != NULL && stream->parts == NULL;
	struct svc_loop *entered = quick ? NULL : enter(mux);
	if (writable && events != NULL && events->writable != NULL)
		events->writable(&stream->handle);
	mux_callback_done(stream);
	leave(entered);
	return true;
}

static void
due_run(struct svc_task *task)
{
	struct svc_mux *mux =
	    (struct svc_mux *)(void *)((char *)task -
				       offsetof(struct svc_mux, due_task));
	/* One stream a turn: its callback may cost this thread the loop. So the
	 * next turn is posted first. */
	svc_biased_lock_take(&mux->lock);
	bool again = mux->due.first != NULL && mux->due.first->next != NULL;
	mux->due_posted = again;
	if (again) {
		svc_mux_ref(mux);
		svc_loop_post(mux->config.loop, &mux->due_task);
	}
	svc_biased_lock_leave(&mux->lock);
	run_due(mux);
	svc_mux_unref(mux);
}

void
mux_due(struct svc_mux_stream *stream)
{
	struct svc_mux *mux = stream->mux;
	if (stream->due_node.list == NULL)
		mux_append(&mux->due, &stream->due_node);
	if (mux->due_posted || mux->config.loop == NULL)
		return;
	mux->due_posted = true;
	mux->due_task.run = due_run;
	svc_mux_ref(mux); /* of the task */
	svc_loop_post(mux->config.loop, &mux->due_task);
}

void
mux_due_here(struct svc_mux *mux)
{
	while (run_due(mux))
		;
}
