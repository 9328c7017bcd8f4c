/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A handler's stream: from the accepted stream to the handler's return.
 *
 * The transport delivers nothing of a stream while its accept callback runs,
 * so a handler gets a thread of its own. server->lock guards the list of
 * streams; a stream's own lock may be taken under it.
 */
#include "server.h"
#include "stream.h"

#include <string.h>

#define CUT_WAIT_MS INT64_C(1000)

struct svc_server_stream {
	struct svc_stream base;
	struct svc_server *server;
	struct svc_server_shard *shard;
	struct svc_server_endpoint *endpoint;
	struct svc_message opened; /* the request as svc_call_header sees it */
	struct svc_server_stream *prev, *next;
};

/* ------------------------------------------------------------------ events */

/* With the lock. */
static void
take(struct svc_stream *stream, const struct svc_span *messages, size_t n)
{
	bool over = stream->ended;
	svc_stream_take_messages(stream, messages, n);
	if (over || !stream->ended)
		return;
	/* Too much, or no memory: the handler may take long to see it. What
	 * might have to wait is left out. */
	if (!stream->sent_status) {
		svc_headers_destroy(stream->own_trailers);
		stream->own_trailers = NULL;
	}
	svc_stream_put_end(stream, stream->end.code, stream->end.text);
}

static void
on_part(struct svc_stream_handle *handle, const struct svc_part *part)
{
	struct svc_stream *stream = handle->user;
	pthread_mutex_lock(&stream->lock);
	if ((part->flags & SVC_PART_MESSAGE) != 0)
		take(stream, &(struct svc_span){part->data, part->len}, 1);
	if ((part->flags & SVC_PART_END) != 0 && !stream->in_done) {
		svc_stream_take_trailers(stream, part);
		stream->in_done = true;
		svc_stream_wake(stream);
	}
	pthread_mutex_unlock(&stream->lock);
}

static void
on_messages(
    struct svc_stream_handle *handle, const struct svc_span *messages, size_t n)
{
	struct svc_stream *stream = handle->user;
	pthread_mutex_lock(&stream->lock);
	take(stream, messages, n);
	pthread_mutex_unlock(&stream->lock);
}

static void
on_closed(struct svc_stream_handle *handle, const struct svc_stream_end *end)
{
	struct svc_stream *stream = handle->user;
	/* To a handler it makes no difference how its caller left. */
	bool late = end->code == SVC_E_TIMEDOUT;
	bool limit = end->code == SVC_E_EXHAUSTED;
	pthread_mutex_lock(&stream->lock);
	svc_stream_end(stream,
	    late    ? SVC_E_TIMEDOUT
	    : limit ? SVC_E_EXHAUSTED
		    : SVC_E_CANCELLED,
	    limit  ? end->text
	    : late ? "the deadline of the stream passed"
		   : "the caller has cancelled the stream or is gone",
	    !limit);
	if (atomic_load(&stream->cut))
		svc_stream_credit_all(stream);
	pthread_mutex_unlock(&stream->lock);
}

static const struct svc_stream_events events = {
    .part = on_part,
    .closed = on_closed,
    .writable = svc_stream_writable,
    .holds = true,
    .messages = on_messages,
};

/* --------------------------------------------------------------------- list */

/* False when no more may run: a quarter of the handlers' places is left to
 * calls, which come and go. */
static bool
enlist(struct svc_server_stream *stream)
{
	struct svc_server *server = stream->server;
	int64_t limit = server->admission.limit;
	pthread_mutex_lock(&server->lock);
	bool room =
	    limit == 0 || (int64_t)server->n_streams < limit - limit / 4;
	if (room) {
		server->n_streams++;
		stream->next = server->streams;
		if (stream->next != NULL)
			stream->next->prev = stream;
		server->streams = stream;
	}
	pthread_mutex_unlock(&server->lock);
	return room;
}

static void
unlist(struct svc_server_stream *stream)
{
	struct svc_server *server = stream->server;
	pthread_mutex_lock(&server->lock);
	server->n_streams--;
	if (stream->prev != NULL)
		stream->prev->next = stream->next;
	else
		server->streams = stream->next;
	if (stream->next != NULL)
		stream->next->prev = stream->prev;
	if (server->cut)
		pthread_cond_broadcast(&server->idle);
	pthread_mutex_unlock(&server->lock);
}

void
svc_server_cut_streams(struct svc_server *server)
{
	int64_t deadline_at_ms = svc_deadline(CUT_WAIT_MS);
	struct svc_scope *within = NULL;
	pthread_mutex_lock(&server->lock);
	server->cut = true;
	for (struct svc_server_stream *s = server->streams; s != NULL;
	     s = s->next) {
		pthread_mutex_lock(&s->base.lock);
		svc_stream_cut(&s->base, SVC_E_UNAVAILABLE,
		    "the service is stopping", &within);
		pthread_mutex_unlock(&s->base.lock);
	}
	pthread_mutex_unlock(&server->lock);
	svc_scope_cancel(within);
	pthread_mutex_lock(&server->lock);
	/* They tell their clients themselves. */
	svc_err code = SVC_OK;
	while (server->n_streams > 0 && code == SVC_OK)
		code =
		    svc_cond_wait(&server->idle, &server->lock, deadline_at_ms);
	pthread_mutex_unlock(&server->lock);
}

/* -------------------------------------------------------------- the handler */

static void
destroy(struct svc_server_stream *stream)
{
	svc_stream_fini(&stream->base);
	svc_mem_free(stream);
}

/* What the client is told: the handler's code and text, except that a stream
 * which had ended before ends as it did. */
static void
finish(struct svc_server_stream *at, struct svc_call *call, svc_err code)
{
	struct svc_stream *stream = &at->base;
	/* What svc_stream_recv says at a clean end is none of the client's
	 * errors. */
	if (code == SVC_E_EOF)
		code = SVC_OK;
	pthread_mutex_lock(&stream->lock);
	/* Whoever has ended it may still be telling so. */
	svc_stream_await_calm(stream);
	struct svc_error end = {.code = code};
	if (stream->ended) {
		end = stream->end;
	} else if (code != SVC_OK && call->fail.text[0] != '\0') {
		end = call->fail;
		end.code = code;
	} else if (code != SVC_OK && stream->last.code == code) {
		end = stream->last;
	}
	svc_stream_put_end(stream, end.code, end.text);
	struct svc_stream_handle *handle = stream->handle;
	stream->handle = NULL;
	pthread_mutex_unlock(&stream->lock);
	handle->ops->release(handle, end.code);
}

static void
set_call(struct svc_stream *stream, struct svc_call *call)
{
	pthread_mutex_lock(&stream->lock);
	stream->call = call;
	if (call != NULL && stream->ended && stream->end.code != SVC_OK)
		atomic_store(&call->cut, true);
	pthread_mutex_unlock(&stream->lock);
}

static void
run(void *arg)
{
	struct svc_server_stream *at = arg;
	struct svc_stream *stream = &at->base;
	struct svc_server_endpoint *endpoint = at->endpoint;
	struct svc_server *server = at->server;
	struct svc_server_shard *shard = at->shard;
	struct svc_call call;
	struct svc_message unused;
	svc_err code = svc_call_begin(&call, server->service, &unused);
	call.endpoint = endpoint->name;
	call.stream = stream->handle;
	call.req = &at->opened;
	call.deadline_at_ms = stream->deadline_at_ms;
	set_call(stream, &call);
	if (code == SVC_OK)
		code = endpoint->stream_fn(stream, endpoint->arg);
	set_call(stream, NULL);
	if (endpoint->limit != 0)
		atomic_fetch_sub(&endpoint->running, 1);
	svc_admission_leave(server, shard);
	svc_scope_end(&call);
	finish(at, &call, code);
	svc_call_end(&call);
	unlist(at);
	destroy(at);
	svc_server_count_out(server, shard, SVC_COUNT_CALL);
}

/* ------------------------------------------------------------------- accept */

svc_err
svc_server_stream_start(struct svc_server *server,
    struct svc_server_shard *shard, struct svc_server_endpoint *endpoint,
    struct svc_stream_handle *handle, const struct svc_part *first,
    const char **ret_why)
{
	*ret_why = "out of memory";
	struct svc_server_stream *at = svc_mem_calloc(1, sizeof(*at));
	if (at == NULL)
		return SVC_E_NOMEM;
	struct svc_stream *stream = &at->base;
	svc_err code = svc_stream_init(stream, server->service, true,
	    first->timeout_ms >= 0 ? svc_deadline(first->timeout_ms)
				   : INT64_MAX);
	at->server = server;
	at->shard = shard;
	at->endpoint = endpoint;
	stream->handle = handle;
	if (code == SVC_OK) {
		pthread_mutex_lock(&stream->lock);
		svc_stream_take_headers(stream, first);
		if ((first->flags & SVC_PART_MESSAGE) != 0)
			svc_stream_take_messages(stream,
			    &(struct svc_span){first->data, first->len}, 1);
		code = stream->end.code;
		stream->heard = true;
		stream->in_done = (first->flags & SVC_PART_END) != 0;
		pthread_mutex_unlock(&stream->lock);
	}
	if (code == SVC_OK) {
		at->opened.content_type = stream->type;
		at->opened.headers = stream->headers;
		if (!enlist(at)) {
			*ret_why = "streams take three quarters of the "
				   "handlers that may run (--max_handlers)";
			code = SVC_E_EXHAUSTED;
		}
	}
	if (code != SVC_OK) {
		destroy(at);
		return code;
	}
	handle->user = stream;
	handle->events = &events;
	code = svc_executor_run(server->service->executor, run, at);
	if (code != SVC_OK) {
		*ret_why = code == SVC_E_NOMEM
			       ? "out of memory"
			       : "no thread is free for another stream";
		unlist(at);
		destroy(at);
	}
	return code;
}
