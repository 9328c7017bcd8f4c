/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream: what both sides share.
 *
 * stream->lock guards what struct svc_stream does not give to the receiver
 * alone. No op of the transport is called under it: a thread that calls one
 * counts itself in `busy`, and the handle is given back only when nobody is.
 * The events take the lock too, so giving back, which waits for them, is done
 * without it.
 *
 * A sender that has nothing else to look at, which is most of them, goes by the
 * gate without the lock. Its lowest bit is set by a message sent with the lock
 * that found the next one to be a matter of the transport alone, and cleared
 * with the lock by whatever changes that; the rest of it counts who is inside.
 *
 * A thread that waits says so (reader_waits, writers_waiting) and is woken only
 * then: a message for a receiver that is at work, or behind another message,
 * wakes nobody.
 */
#include "stream.h"

#include <stdio.h>
#include <string.h>

/* Credit is given in steps of so many bytes, and before waiting. */
#define CREDIT_STEP ((size_t)16 << 10)

/* A receiver that has waited for so long gives storage back. */
#define SLIM_MS 50

#define GATE_OPEN 1u
#define GATE_ONE 2u

svc_err
svc_stream_init(struct svc_stream *stream, struct svc_service *service,
    bool server, int64_t deadline_at_ms)
{
	stream->service = service;
	stream->server = server;
	stream->deadline_at_ms = deadline_at_ms;
	stream->max_message = service->values.max_message_size;
	atomic_init(&stream->cut, false);
	atomic_init(&stream->gate, 0);
	pthread_mutex_init(&stream->lock, NULL);
	svc_cond_init(&stream->readable);
	svc_cond_init(&stream->writable);
	svc_cond_init(&stream->calm);
	stream->type = svc_reply_alloc(1, false);
	if (stream->type == NULL)
		return SVC_E_NOMEM;
	stream->type[0] = '\0';
	return SVC_OK;
}

void
svc_stream_fini(struct svc_stream *stream)
{
	svc_stream_queue_fini(&stream->queue);
	svc_reply_release(stream->type);
	svc_mem_free(stream->sent_type);
	svc_headers_destroy(stream->headers);
	svc_headers_destroy(stream->trailers);
	svc_headers_destroy(stream->own_headers);
	svc_headers_destroy(stream->own_trailers);
	pthread_cond_destroy(&stream->readable);
	pthread_cond_destroy(&stream->writable);
	pthread_cond_destroy(&stream->calm);
	pthread_mutex_destroy(&stream->lock);
}

/* --------------------------------------------------------- ends and errors */

void
svc_stream_wake(struct svc_stream *stream)
{
	if (stream->reader_waits)
		pthread_cond_signal(&stream->readable);
	if (stream->writers_waiting > 0)
		pthread_cond_broadcast(&stream->writable);
}

void
svc_stream_end(
    struct svc_stream *stream, svc_err code, const char *text, bool cut)
{
	if (stream->ended)
		return;
	stream->ended = true;
	stream->in_done = true;
	svc_stream_close_gate(stream);
	svc_error_set(&stream->end, code, "%s",
	    text != NULL && text[0] != '\0' ? text : svc_err_text(code));
	if (cut) {
		atomic_store(&stream->cut, true);
		svc_stream_queue_drop(&stream->queue);
	}
	svc_stream_wake(stream);
}

void
svc_stream_cut(struct svc_stream *stream, svc_err code, const char *text,
    struct svc_scope **held)
{
	svc_stream_end(stream, code, text, true);
	if (stream->call == NULL)
		return;
	atomic_store(&stream->call->cut, true);
	svc_scope_hold(stream->call, held);
}

svc_err
svc_stream_fail(
    struct svc_stream *stream, svc_err code, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	svc_error_vset(&stream->last, code, format, args);
	va_end(args);
	return code;
}

static svc_err
mistake(struct svc_stream *stream, const char *text)
{
	if (stream == NULL)
		return SVC_E_INVAL;
	pthread_mutex_lock(&stream->lock);
	svc_stream_fail(stream, SVC_E_INVAL, "%s", text);
	pthread_mutex_unlock(&stream->lock);
	return SVC_E_INVAL;
}

/* How the stream ended, for whoever still wants to send or receive. */
static svc_err
fail_ended(struct svc_stream *stream)
{
	if (stream->end.code == SVC_OK)
		return svc_stream_fail(
		    stream, SVC_E_EOF, "the stream has ended");
	stream->last = stream->end;
	return stream->end.code;
}

static bool
expired(struct svc_stream *stream)
{
	if (stream->ended || stream->deadline_at_ms == INT64_MAX ||
	    svc_now_ms() < stream->deadline_at_ms)
		return false;
	svc_stream_end(
	    stream, SVC_E_TIMEDOUT, "the deadline of the stream passed", true);
	if (!stream->server)
		svc_stream_release(stream, SVC_E_TIMEDOUT);
	return true;
}

/* --------------------------------------------------------------- the handle */

void
svc_stream_close_gate(struct svc_stream *stream)
{
	atomic_fetch_and(&stream->gate, ~GATE_OPEN);
}

static bool
is_busy(struct svc_stream *stream)
{
	return stream->busy > 0 || atomic_load(&stream->gate) >= GATE_ONE;
}

void
svc_stream_await_calm(struct svc_stream *stream)
{
	/* Who leaves an open one tells nobody. */
	svc_stream_close_gate(stream);
	stream->calm_awaited = true;
	while (is_busy(stream))
		svc_cond_wait(&stream->calm, &stream->lock, INT64_MAX);
	stream->calm_awaited = false;
}

static void
left(struct svc_stream *stream)
{
	if (is_busy(stream))
		return;
	/* Who waits for this gives the handle back itself, if another's wish
	 * was that meanwhile. */
	if (stream->calm_awaited)
		pthread_cond_signal(&stream->calm);
	else if (stream->release_due)
		svc_stream_release(stream, stream->release_code);
}

static void
leave(struct svc_stream *stream)
{
	stream->busy--;
	left(stream);
}

void
svc_stream_release(struct svc_stream *stream, svc_err code)
{
	struct svc_stream_handle *handle = stream->handle;
	if (handle == NULL)
		return;
	svc_stream_close_gate(stream);
	if (is_busy(stream)) {
		stream->release_due = true;
		stream->release_code = code;
		return;
	}
	stream->release_due = false;
	stream->handle = NULL;
	pthread_mutex_unlock(&stream->lock);
	handle->ops->release(handle, code);
	pthread_mutex_lock(&stream->lock);
}

svc_err
svc_stream_put(struct svc_stream *stream, const struct svc_part *part,
    struct svc_error *err)
{
	struct svc_stream_handle *handle = stream->handle;
	if (handle == NULL)
		return SVC_E_CLOSED;
	bool heading = (part->flags & SVC_PART_HEADERS) != 0;
	stream->heading = stream->heading || heading;
	stream->busy++;
	stream->room = false;
	pthread_mutex_unlock(&stream->lock);
	svc_err code = handle->ops->send(handle, part, err);
	pthread_mutex_lock(&stream->lock);
	if (heading) {
		stream->heading = false;
		stream->sent_headers = stream->sent_headers || code == SVC_OK;
		if (stream->end_due)
			svc_stream_put_end(
			    stream, stream->end.code, stream->end.text);
	}
	leave(stream);
	return code;
}

void
svc_stream_credit_all(struct svc_stream *stream)
{
	struct svc_stream_handle *handle = stream->handle;
	if (handle == NULL || !SVC_OPS_HAS(handle->ops, credit))
		return;
	stream->busy++;
	pthread_mutex_unlock(&stream->lock);
	handle->ops->credit(handle, SIZE_MAX);
	pthread_mutex_lock(&stream->lock);
	leave(stream);
}

/* ----------------------------------------------------------------- arriving */

static void
no_memory(struct svc_stream *stream, const char *what)
{
	char text[64];
	snprintf(text, sizeof(text), "out of memory for %s", what);
	svc_stream_end(stream, SVC_E_NOMEM, text, false);
}

void
svc_stream_take_headers(struct svc_stream *stream, const struct svc_part *part)
{
	/* Once: the receiver reads them without the lock. */
	if (stream->heard || stream->ended)
		return;
	size_t size =
	    part->content_type != NULL ? strlen(part->content_type) + 1 : 0;
	if (size > 1) {
		char *type = svc_reply_alloc(size, false);
		if (type == NULL) {
			no_memory(stream, "headers");
			return;
		}
		memcpy(type, part->content_type, size);
		svc_reply_release(stream->type);
		stream->type = type;
	}
	if (svc_headers_count(part->headers) == 0)
		return;
	stream->headers = svc_headers_copy(part->headers);
	if (stream->headers == NULL)
		no_memory(stream, "headers");
}

void
svc_stream_take_messages(
    struct svc_stream *stream, const struct svc_span *messages, size_t n)
{
	struct svc_stream_queue *queue = &stream->queue;
	bool first = queue->first == NULL;
	size_t most = SVC_STREAM_HELD + (size_t)stream->max_message;
	for (size_t i = 0; i < n && !stream->in_done; i++) {
		size_t cost = svc_stream_queue_cost(messages[i].len);
		if (queue->held > most)
			svc_stream_end(stream, SVC_E_EXHAUSTED,
			    "more arrived than may wait to be received", false);
		else if (cost == SIZE_MAX ||
			 !svc_stream_queue_push(
			     queue, messages[i].data, messages[i].len))
			no_memory(stream, "a message");
	}
	if (first && queue->first != NULL && stream->reader_waits)
		pthread_cond_signal(&stream->readable);
}

void
svc_stream_take_trailers(struct svc_stream *stream, const struct svc_part *part)
{
	if ((part->flags & SVC_PART_HEADERS) != 0 ||
	    svc_headers_count(part->headers) == 0 || stream->trailers != NULL)
		return;
	stream->trailers = svc_headers_copy(part->headers);
	if (stream->trailers == NULL)
		no_memory(stream, "trailers");
}

void
svc_stream_writable(struct svc_stream_handle *handle)
{
	struct svc_stream *stream = handle->user;
	pthread_mutex_lock(&stream->lock);
	stream->room = true;
	if (stream->writers_waiting > 0)
		pthread_cond_broadcast(&stream->writable);
	pthread_mutex_unlock(&stream->lock);
}

/* ------------------------------------------------------------------ receive */

/* What was received may be replaced. With the lock, which is let go
 * meanwhile; false when there was nothing to say. */
static bool
give_credit(struct svc_stream *stream)
{
	struct svc_stream_handle *handle = stream->handle;
	if (stream->n_consumed == 0 || handle == NULL || stream->in_done ||
	    !SVC_OPS_HAS(handle->ops, credit))
		return false;
	size_t bytes = stream->consumed, n = stream->n_consumed;
	stream->consumed = 0;
	stream->n_consumed = 0;
	stream->busy++;
	pthread_mutex_unlock(&stream->lock);
	/* A message without bytes counts too, by a call of its own. */
	do
		handle->ops->credit(handle, bytes);
	while (bytes == 0 && --n > 0);
	pthread_mutex_lock(&stream->lock);
	leave(stream);
	return true;
}

/* The thread is going to wait: what it sent goes out, and the loop it may be on
 * is given away. With the lock, which is let go meanwhile. */
static void
prepare_to_wait(struct svc_stream *stream)
{
	struct svc_stream_handle *handle = stream->handle;
	bool flush = handle != NULL && SVC_OPS_HAS(handle->ops, flush);
	stream->busy += flush;
	pthread_mutex_unlock(&stream->lock);
	if (flush)
		handle->ops->flush(handle);
	svc_will_block();
	pthread_mutex_lock(&stream->lock);
	if (flush)
		leave(stream);
}

static void
wait_for_message(struct svc_stream *stream)
{
	bool fat = svc_stream_queue_is_fat(&stream->queue);
	int64_t until_ms = fat ? svc_deadline(SLIM_MS) : stream->deadline_at_ms;
	if (until_ms > stream->deadline_at_ms)
		until_ms = stream->deadline_at_ms;
	stream->reader_waits = true;
	svc_err code =
	    svc_cond_wait(&stream->readable, &stream->lock, until_ms);
	stream->reader_waits = false;
	if (fat && code == SVC_E_TIMEDOUT)
		svc_stream_queue_slim(&stream->queue);
}

/* Waits for messages and takes them, or says why there are none. */
static svc_err
await(struct svc_stream *stream)
{
	svc_err code = SVC_OK;
	bool told = false;
	pthread_mutex_lock(&stream->lock);
	for (;;) {
		expired(stream);
		if (atomic_load(&stream->cut)) {
			code = fail_ended(stream);
			break;
		}
		if (svc_stream_queue_take(&stream->queue))
			break;
		if (stream->ended) {
			code = fail_ended(stream);
			/* Nothing comes or goes any more. */
			if (!stream->server)
				svc_stream_release(stream, code);
			break;
		}
		if (stream->in_done) {
			code = svc_stream_fail(stream, SVC_E_EOF,
			    "the client has closed its sending side");
			break;
		}
		if (stream->lost && !stream->moving) {
			svc_stream_move(stream);
		} else if (give_credit(stream)) {
			continue; /* something may have come meanwhile */
		} else if (!told) {
			told = true;
			prepare_to_wait(stream);
		} else {
			wait_for_message(stream);
		}
	}
	pthread_mutex_unlock(&stream->lock);
	return code;
}

svc_err
svc_stream_recv(struct svc_stream *stream, struct svc_message *ret_message)
{
	if (ret_message == NULL)
		return mistake(stream, "there is no place for the message");
	*ret_message = (struct svc_message){0};
	if (stream == NULL)
		return SVC_E_INVAL;
	const void *data;
	size_t len;
	while (atomic_load_explicit(&stream->cut, memory_order_relaxed) ||
	       !svc_stream_queue_next(&stream->queue, &data, &len)) {
		svc_err code = await(stream);
		if (code != SVC_OK)
			return code;
	}
	stream->consumed += len;
	stream->n_consumed++;
	if (stream->consumed >= CREDIT_STEP) {
		pthread_mutex_lock(&stream->lock);
		give_credit(stream);
		pthread_mutex_unlock(&stream->lock);
	}
	ret_message->content_type = stream->type;
	ret_message->data = data;
	ret_message->len = len;
	if (!stream->first_was_given) {
		stream->first_was_given = true;
		ret_message->headers = stream->headers;
	}
	return SVC_OK;
}

/* --------------------------------------------------------------------- send */

static void
wait_for_room(struct svc_stream *stream, bool closed, bool *told)
{
	if (!*told) {
		*told = true;
		pthread_mutex_unlock(&stream->lock);
		svc_will_block();
		pthread_mutex_lock(&stream->lock);
	}
	while (!stream->ended && !stream->lost && !stream->moving &&
	       (closed || !stream->room)) {
		stream->writers_waiting++;
		svc_err code = svc_cond_wait(
		    &stream->writable, &stream->lock, stream->deadline_at_ms);
		stream->writers_waiting--;
		if (code == SVC_E_TIMEDOUT)
			break;
	}
}

void
svc_stream_put_end(struct svc_stream *stream, svc_err code, const char *text)
{
	if (stream->sent_status)
		return;
	stream->end_due = stream->heading;
	if (stream->heading) /* headers go once, and first */
		return;
	stream->sent_status = true;
	stream->sent_end = true;
	svc_stream_close_gate(stream);
	struct svc_part part = {
	    .flags = SVC_PART_HEADERS,
	    .content_type = stream->sent_type,
	    .headers = stream->own_headers,
	};
	struct svc_error why = {0};
	/* Trailers come in a part without headers. */
	bool trailers = svc_headers_count(stream->own_trailers) > 0;
	bool told = false;
	while (!stream->sent_headers && trailers) {
		svc_err put = svc_stream_put(stream, &part, &why);
		if (put != SVC_E_AGAIN || stream->ended || expired(stream))
			break;
		wait_for_room(stream, false, &told);
	}
	if (stream->sent_headers)
		part = (struct svc_part){.headers = stream->own_trailers};
	part.flags |= SVC_PART_END;
	/* What a handler returns comes behind what it sent; what has ended the
	 * stream under its hands does not wait. */
	if (stream->ended && stream->end.code != SVC_OK)
		part.flags |= SVC_PART_CUT;
	part.status = code;
	part.status_text = code != SVC_OK ? text : NULL;
	if (svc_stream_put(stream, &part, &why) == SVC_E_EXHAUSTED) {
		/* More headers or trailers than fit. */
		part.headers = NULL;
		part.status = SVC_E_EXHAUSTED;
		part.status_text = why.text;
		svc_stream_put(stream, &part, NULL);
	}
	/* The handler may go on for long. */
	if (atomic_load(&stream->cut))
		svc_stream_credit_all(stream);
}

/* The type of a direction, which a handler's first message decides. */
static svc_err
settle_type(struct svc_stream *stream, const char *type, bool *mislabelled)
{
	if (stream->sent_type != NULL &&
	    (!svc_says_type(type) || strcmp(type, stream->sent_type) == 0))
		return SVC_OK;
	struct svc_error why;
	if (svc_content_type_check(type, &why) != SVC_OK)
		return svc_stream_fail(stream, SVC_E_INVAL, "%s", why.text);
	if (stream->sent_type == NULL) {
		stream->sent_type =
		    svc_mem_strdup(svc_says_type(type) ? type : stream->type);
		stream->type_given = true;
		return stream->sent_type != NULL
			   ? SVC_OK
			   : svc_stream_fail(
				 stream, SVC_E_NOMEM, "out of memory");
	}
	if (stream->type_given)
		return svc_stream_fail(stream, SVC_E_INVAL,
		    "the message is \"%s\", but this stream sends \"%s\": a "
		    "direction has one content type",
		    type, stream->sent_type);
	/* It was nobody's wish but the default, and has been sent: to be said
	 * once. */
	*mislabelled = !stream->mislabelled;
	stream->mislabelled = true;
	return SVC_OK;
}

static void
wait_for_move(struct svc_stream *stream)
{
	while (stream->moving && !stream->ended) {
		stream->writers_waiting++;
		svc_cond_wait(
		    &stream->writable, &stream->lock, stream->deadline_at_ms);
		stream->writers_waiting--;
		/* After it there is nothing to sleep on: whoever went round
		 * would keep the lock from the one who moves. */
		expired(stream);
	}
}

/* After a message was sent. With the lock. */
static void
open_gate(struct svc_stream *stream)
{
	if (stream->handle != NULL && !stream->release_due && !stream->ended &&
	    !stream->sent_end && !stream->lost && !stream->moving &&
	    (stream->server || svc_stream_is_forgotten(stream)))
		atomic_fetch_or(&stream->gate, GATE_OPEN);
}

/* Sends it by the gate; false when it must go the long way. */
static bool
send_quickly(struct svc_stream *stream, const struct svc_message *message)
{
	unsigned was = atomic_fetch_add(&stream->gate, GATE_ONE);
	bool sent = false;
	if ((was & GATE_OPEN) != 0 &&
	    message->len <= (uint64_t)stream->max_message &&
	    (message->data != NULL || message->len == 0) &&
	    (message->content_type == NULL ||
		strcmp(message->content_type, stream->sent_type) == 0) &&
	    (stream->deadline_at_ms == INT64_MAX ||
		svc_now_ms() < stream->deadline_at_ms)) {
		struct svc_part part = {
		    .flags = SVC_PART_MESSAGE,
		    .data = message->data,
		    .len = message->len,
		};
		struct svc_stream_handle *handle = stream->handle;
		sent = handle->ops->send(handle, &part, NULL) == SVC_OK;
	}
	was = atomic_fetch_sub(&stream->gate, GATE_ONE);
	if (was == GATE_ONE) { /* closed meanwhile; somebody may wait */
		pthread_mutex_lock(&stream->lock);
		left(stream);
		pthread_mutex_unlock(&stream->lock);
	}
	return sent;
}

static svc_err
send(struct svc_stream *stream, const struct svc_message *message,
    bool *mislabelled)
{
	struct svc_part part = {
	    .flags = SVC_PART_MESSAGE,
	    .data = message->data,
	    .len = message->len,
	};
	bool told = false;
	for (;;) {
		/* A mistake of the caller's, whether or not the peer has
		 * ended the stream meanwhile. */
		if (stream->sent_end && !stream->sent_status)
			return svc_stream_fail(stream, SVC_E_INVAL,
			    "the sending side was closed by "
			    "svc_stream_close_send");
		expired(stream);
		if (stream->ended)
			return fail_ended(stream);
		if (stream->moving) {
			wait_for_move(stream);
			continue;
		}
		if (stream->lost) {
			svc_stream_move(stream);
			continue;
		}
		svc_err code =
		    settle_type(stream, message->content_type, mislabelled);
		if (code != SVC_OK)
			return code;
		if (!stream->sent_headers) {
			part.flags |= SVC_PART_HEADERS;
			part.content_type = stream->sent_type;
			part.headers = stream->own_headers;
		}
		struct svc_error why = {0};
		code = svc_stream_put(stream, &part, &why);
		if (code == SVC_OK) {
			if (!stream->server)
				svc_stream_remember(
				    stream, message->data, message->len);
			open_gate(stream);
			return SVC_OK;
		}
		if (code != SVC_E_AGAIN && code != SVC_E_CLOSED &&
		    !stream->ended)
			return svc_stream_fail(stream, code, "%s",
			    why.text[0] != '\0' ? why.text
						: svc_err_text(code));
		wait_for_room(stream, code == SVC_E_CLOSED, &told);
	}
}

svc_err
svc_stream_send(struct svc_stream *stream, const struct svc_message *message)
{
	svc_err code;
	bool mislabelled = false;
	if (stream == NULL || message == NULL)
		return mistake(stream, "there is no message");
	if ((atomic_load_explicit(&stream->gate, memory_order_relaxed) &
		GATE_OPEN) != 0 &&
	    send_quickly(stream, message))
		return SVC_OK;
	pthread_mutex_lock(&stream->lock);
	if (message->data == NULL && message->len > 0)
		code = svc_stream_fail(stream, SVC_E_INVAL,
		    "the message has %zu bytes but no data", message->len);
	else if (message->len > (uint64_t)stream->max_message)
		code = svc_stream_fail(stream, SVC_E_EXHAUSTED,
		    "the message has %zu bytes, more than max_message_size "
		    "(%lld); raise --max_message_size",
		    message->len, (long long)stream->max_message);
	else
		code = send(stream, message, &mislabelled);
	pthread_mutex_unlock(&stream->lock);
	if (mislabelled)
		svc_log(SVC_LOG_WARN, "stream.type",
		    "a stream was opened with the default content type, but "
		    "sends \"%s\": give content_type(...) to svc_open",
		    message->content_type);
	return code;
}

svc_err
svc_stream_close_send(struct svc_stream *stream)
{
	if (stream == NULL)
		return SVC_E_INVAL;
	svc_err code = SVC_OK;
	pthread_mutex_lock(&stream->lock);
	while (stream->moving && !stream->ended)
		wait_for_move(stream);
	bool closed = stream->sent_end;
	stream->sent_end = true;
	if (stream->ended && stream->end.code != SVC_OK) {
		code = fail_ended(stream);
	} else if (!closed && !stream->ended) {
		/* A handler's end goes with its status, when it returns. */
		svc_stream_close_gate(stream);
		struct svc_part part = {
		    .flags = SVC_PART_END,
		    .headers = stream->own_trailers,
		};
		struct svc_error why = {0};
		if (!stream->server && !stream->lost)
			code = svc_stream_put(stream, &part, &why);
		if (code == SVC_E_CLOSED || code == SVC_E_AGAIN)
			code = SVC_OK; /* its end is about to be told */
		if (code != SVC_OK) {
			/* Without this end both sides would wait for ever. */
			svc_stream_end(stream, code,
			    why.text[0] != '\0' ? why.text : svc_err_text(code),
			    true);
			svc_stream_release(stream, SVC_E_CANCELLED);
			code = fail_ended(stream);
		}
	}
	pthread_mutex_unlock(&stream->lock);
	return code;
}

/* ------------------------------------------------------------ cancel, free */

void
svc_stream_cancel(struct svc_stream *stream)
{
	if (stream == NULL)
		return;
	struct svc_scope *within = NULL;
	pthread_mutex_lock(&stream->lock);
	if (!stream->ended) {
		svc_stream_cut(stream, SVC_E_CANCELLED,
		    "svc_stream_cancel was called", &within);
		/* A handler keeps its handle until it returns; what it ends
		 * with is sent now. */
		if (stream->server)
			svc_stream_put_end(
			    stream, stream->end.code, stream->end.text);
		else
			svc_stream_release(stream, SVC_E_CANCELLED);
	}
	pthread_mutex_unlock(&stream->lock);
	svc_scope_cancel(within);
}

bool
svc_stream_cancelled(struct svc_stream *stream)
{
	if (stream == NULL)
		return true;
	pthread_mutex_lock(&stream->lock);
	expired(stream);
	bool cancelled = stream->ended && stream->end.code != SVC_OK;
	pthread_mutex_unlock(&stream->lock);
	return cancelled;
}

void
svc_stream_free(struct svc_stream *stream)
{
	/* A handler's is the framework's. */
	if (stream != NULL && !stream->server)
		svc_stream_client_free(stream);
}
