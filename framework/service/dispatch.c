/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From an accepted stream to its handler and back.
 *
 * A call runs on the thread that read it, with everything it needs on that
 * thread's stack. Only a request that comes in several parts needs memory of
 * its own.
 */
#include "server.h"

#include <stdio.h>
#include <string.h>

/* A field of a part is const because the transport owns it; a message has no
 * const map, but the handler's request is const as a whole. */
static struct svc_headers *
unconst(const struct svc_headers *headers)
{
	union {
		const struct svc_headers *in;
		struct svc_headers *out;
	} u = {headers};
	return u.out;
}

/* --------------------------------------------------------- counting calls */

struct svc_server_shard *
svc_server_count_in(struct svc_server *server, uint64_t counts)
{
	struct svc_server_shard *shard =
	    &server->shards[svc_thread_number() % SVC_SERVER_SHARDS];
	atomic_fetch_add(&shard->counts, counts);
	return shard;
}

/* The last touch of the server: it is freed only after the transport has
 * waited for its callbacks. */
void
svc_server_count_out(
    struct svc_server *server, struct svc_server_shard *shard, uint64_t counts)
{
	atomic_fetch_sub(&shard->counts, counts);
	if (counts >= SVC_COUNT_HANDLER)
		svc_admission_left(server);
	if (!atomic_load(&server->draining))
		return;
	pthread_mutex_lock(&server->lock);
	pthread_cond_broadcast(&server->idle);
	pthread_mutex_unlock(&server->lock);
}

/* ----------------------------------------------------------------- answers */

static svc_err
give(struct svc_stream_handle *stream, const struct svc_part *part,
    struct svc_error *why)
{
	const struct svc_transport_ops *ops = stream->ops;
	if (SVC_OPS_HAS(ops, answer))
		return ops->answer(stream, part, why);
	svc_err code = ops->send(stream, part, why);
	if (code == SVC_OK)
		ops->release(stream, SVC_OK);
	return code;
}

/* Sends the answer and gives the stream and the count back. An answer is one
 * part, for which a transport always has room. */
static SVC_HOT void
answer(struct svc_server *server, struct svc_server_shard *shard,
    struct svc_stream_handle *stream, const struct svc_part *part,
    uint64_t counts)
{
	struct svc_error why;
	struct svc_part instead;
	why.text[0] = '\0';
	svc_err code = give(stream, part, &why);
	if (code == SVC_E_EXHAUSTED &&
	    ((part->flags & SVC_PART_MESSAGE) || part->headers != NULL)) {
		/* More than the caller takes, by what it said itself. */
		instead = (struct svc_part){
		    .flags = SVC_PART_HEADERS | SVC_PART_END,
		    .status = code,
		    .status_text = why.text,
		};
		code = give(stream, &instead, &why);
	}
	if (code != SVC_OK)
		stream->ops->release(stream, SVC_E_INTERNAL);
	svc_server_count_out(server, shard, counts);
}

void
svc_server_refuse(struct svc_server *server, struct svc_server_shard *shard,
    struct svc_stream_handle *stream, svc_err code, bool not_run,
    const char *text)
{
	struct svc_part part = {
	    .flags = SVC_PART_HEADERS | SVC_PART_END,
	    .headers = not_run ? server->not_run : NULL,
	    .status = code,
	    .status_text = text,
	};
	answer(server, shard, stream, &part, SVC_COUNT_CALL);
}

/* --------------------------------------------------------- running a call */

static void
call_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	(void)stream;
	(void)part;
}

static void
call_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)stream;
	(void)end;
}

/* Nothing comes while the handler runs: it asks svc_call_cancelled. */
static const struct svc_stream_events call_events = {
    .part = call_part,
    .closed = call_closed,
};

static const char *
no_endpoint_text(const struct svc_server *server, const char *endpoint,
    char *out, size_t size)
{
	char quoted[80];
	svc_log_quote(endpoint, strlen(endpoint), quoted, sizeof(quoted));
	int n = snprintf(out, size, "service \"%s\" has no endpoint %s; it has",
	    server->service->values.name, quoted);
	size_t at = n > 0 && (size_t)n < size ? (size_t)n : size - 1;
	bool any = false;
	for (size_t i = 0; i < server->n_endpoints; i++) {
		const struct svc_server_endpoint *e = server->endpoints[i];
		if (e->internal)
			continue;
		size_t need = strlen(e->name) + 2;
		/* Room for the sign that there are more. */
		if (at + need + 5 >= size) {
			snprintf(out + at, size - at, ", ...");
			return out;
		}
		snprintf(
		    out + at, size - at, "%s %s", any ? "," : ":", e->name);
		at += need;
		any = true;
	}
	if (!any)
		snprintf(out + at, size - at, " none");
	return out;
}

/* Takes a place in the limit of the endpoint, which is NULL when there is none
 * of that name, or says why not. */
static SVC_HOT bool
admit(struct svc_server *server, struct svc_server_endpoint *endpoint,
    const struct svc_part *first, svc_err *ret_code, bool *ret_not_run,
    char *text, size_t size)
{
	const char *name = server->service->values.name;
	*ret_not_run = true;
	if (first->service != NULL && first->service[0] != '\0' &&
	    strcmp(first->service, name) != 0) {
		char quoted[80];
		snprintf(text, size,
		    "service \"%s\" lives at this address, not %s", name,
		    svc_log_quote(first->service, strlen(first->service),
			quoted, sizeof(quoted)));
		*ret_code = SVC_E_UNAVAILABLE;
		return false;
	}
	if (first->timeout_ms == 0) {
		snprintf(text, size,
		    "the deadline had passed before the call was run");
		*ret_code = SVC_E_TIMEDOUT;
		return false;
	}
	if (endpoint == NULL) {
		no_endpoint_text(server,
		    first->endpoint != NULL ? first->endpoint : "", text, size);
		*ret_code = SVC_E_UNIMPLEMENTED;
		/* The other nodes most likely have none either. */
		*ret_not_run = false;
		return false;
	}
	if (endpoint->limit == 0)
		return true;
	if (atomic_fetch_add(&endpoint->running, 1) < endpoint->limit)
		return true;
	atomic_fetch_sub(&endpoint->running, 1);
	snprintf(text, size, "endpoint \"%s\" runs %lld calls, its limit",
	    endpoint->name, (long long)endpoint->limit);
	*ret_code = SVC_E_EXHAUSTED;
	return false;
}

SVC_HOT void
svc_server_serve(struct svc_server *server, struct svc_server_shard *shard,
    struct svc_server_endpoint *endpoint, struct svc_stream_handle *stream,
    const struct svc_part *first, const void *data, size_t len, int64_t came_ms)
{
	svc_err code = SVC_OK;
	bool not_run;
	char text[sizeof(((struct svc_error *)0)->text)];
	if (!admit(
		server, endpoint, first, &code, &not_run, text, sizeof(text))) {
		svc_admission_leave(server, shard);
		svc_server_refuse(server, shard, stream, code, not_run, text);
		return;
	}

	struct svc_call call;
	struct svc_message rsp;
	struct svc_message req = {
	    .content_type = first->content_type,
	    .data = data,
	    .len = len,
	    .headers = unconst(first->headers),
	};
	code = svc_call_begin(&call, server->service, &rsp);
	call.endpoint = endpoint->name;
	call.stream = stream;
	call.req = &req;
	if (first->timeout_ms > 0)
		call.deadline_at_ms = came_ms + first->timeout_ms;

	bool held = false;
	if (code == SVC_OK) {
		bool on_loop = svc_pace_begin(&endpoint->pace);
		code = endpoint->fn(&call, &req, &rsp, endpoint->arg);
		held = svc_pace_end(&endpoint->pace, on_loop);
		if (code != SVC_OK)
			code = svc_err_from_number((uint32_t)code);
	}
	if (endpoint->limit != 0)
		atomic_fetch_sub(&endpoint->running, 1);
	/* On the loop the answer goes out after both are counted out. */
	uint64_t counts = SVC_COUNT_CALL + SVC_COUNT_HANDLER;
	if (!held) {
		svc_admission_leave(server, shard);
		counts = SVC_COUNT_CALL;
	}
	/* Who was told to give up has not finished, and the caller's clock may
	 * be a moment behind. */
	if (code == SVC_OK &&
	    atomic_load_explicit(&call.late, memory_order_relaxed))
		code = svc_fail(&call, SVC_E_TIMEDOUT,
		    "the deadline passed while %s ran", endpoint->name);
	if (code == SVC_OK && rsp.data == NULL && rsp.len > 0)
		code = svc_fail(&call, SVC_E_INVAL,
		    "the reply of %s has %zu bytes but no data", endpoint->name,
		    rsp.len);
	int64_t most = server->service->values.max_message_size;
	if (code == SVC_OK && rsp.len > (uint64_t)most)
		code = svc_fail(&call, SVC_E_EXHAUSTED,
		    "the reply of %s has %zu bytes, more than "
		    "max_message_size (%lld); raise --max_message_size",
		    endpoint->name, rsp.len, (long long)most);

	struct svc_error why;
	if (code == SVC_OK && rsp.content_type != NULL &&
	    svc_content_type_check(rsp.content_type, &why) != SVC_OK)
		code = svc_fail(&call, SVC_E_INVAL, "the reply of %s: %s",
		    endpoint->name, why.text);

	struct svc_part part = {
	    .flags = SVC_PART_HEADERS | SVC_PART_END,
	    .headers = svc_headers_count(rsp.headers) > 0 ? rsp.headers : NULL,
	    .status = code,
	};
	if (code == SVC_OK) {
		part.flags |= SVC_PART_MESSAGE;
		part.content_type = svc_says_type(rsp.content_type)
					? rsp.content_type
					: req.content_type;
		part.data = rsp.data;
		part.len = rsp.len;
	} else {
		if (call.fail.text[0] != '\0')
			part.status_text = call.fail.text;
		/* It has run, and its caller must not take it elsewhere. */
		if (part.headers != NULL)
			svc_headers_remove(rsp.headers, SVC_NOT_RUN_HEADER);
	}
	svc_scope_end(&call);
	answer(server, shard, stream, &part, counts);
	svc_call_end(&call);
}

/* Lets the call in, which is counted as a handler, queues or refuses it. */
static SVC_HOT void
serve(struct svc_server *server, struct svc_server_shard *shard,
    struct svc_server_endpoint *endpoint, struct svc_stream_handle *stream,
    const struct svc_part *first, const void *data, size_t len)
{
	if (svc_admission_enter_counted(server, shard)) {
		svc_server_serve(server, shard, endpoint, stream, first, data,
		    len, svc_loop_time_ms());
		return;
	}
	char text[sizeof(((struct svc_error *)0)->text)];
	svc_err code = svc_admission_wait(server, shard, endpoint, stream,
	    first, data, len, text, sizeof(text));
	if (code != SVC_OK)
		svc_server_refuse(server, shard, stream, code, true, text);
}

/* ---------------------------------------------- requests in several parts */

struct gather {
	struct svc_server *server;
	struct svc_server_shard *shard;
	struct svc_server_endpoint *of; /* NULL: there is none */
	char *service, *endpoint, *content_type;
	struct svc_headers *headers;
	int64_t deadline_at_ms;
	void *data;
	size_t len;
	bool has_message;
};

static void
gather_free(struct gather *gather)
{
	svc_mem_free(gather->service);
	svc_mem_free(gather->endpoint);
	svc_mem_free(gather->content_type);
	svc_headers_destroy(gather->headers);
	svc_mem_free(gather->data);
	svc_mem_free(gather);
}

static void
gather_serve(struct svc_stream_handle *stream, struct gather *gather,
    const void *data, size_t len)
{
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS,
	    .service = gather->service,
	    .endpoint = gather->endpoint,
	    .content_type = gather->content_type,
	    .timeout_ms = svc_remaining(gather->deadline_at_ms),
	    .headers = gather->headers,
	};
	stream->user = NULL;
	stream->events = &call_events;
	atomic_fetch_add(&gather->shard->counts, SVC_COUNT_HANDLER);
	serve(gather->server, gather->shard, gather->of, stream, &first, data,
	    len);
	gather_free(gather);
}

static void
gather_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct gather *gather = stream->user;
	bool second =
	    gather->has_message && (part->flags & SVC_PART_MESSAGE) != 0;
	bool nomem = false;
	if ((part->flags & SVC_PART_MESSAGE) != 0 && !second) {
		gather->has_message = true;
		if ((part->flags & SVC_PART_END) != 0) {
			gather_serve(stream, gather, part->data, part->len);
			return;
		}
		gather->data = svc_mem_alloc(part->len > 0 ? part->len : 1);
		nomem = gather->data == NULL;
		if (!nomem && part->len > 0)
			memcpy(gather->data, part->data, part->len);
		gather->len = part->len;
	}
	if (second || nomem) {
		stream->user = NULL;
		stream->events = &call_events;
		svc_server_refuse(gather->server, gather->shard, stream,
		    second ? SVC_E_INVAL : SVC_E_NOMEM, true,
		    second ? "this endpoint takes one message, two were sent"
			   : "out of memory");
		gather_free(gather);
		return;
	}
	if ((part->flags & SVC_PART_END) != 0)
		gather_serve(stream, gather, gather->data, gather->len);
}

static void
gather_closed(
    struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)end;
	struct gather *gather = stream->user;
	stream->ops->release(stream, SVC_E_CANCELLED);
	struct svc_server *server = gather->server;
	struct svc_server_shard *shard = gather->shard;
	gather_free(gather);
	svc_server_count_out(server, shard, SVC_COUNT_CALL);
}

static const struct svc_stream_events gather_events = {
    .part = gather_part,
    .closed = gather_closed,
};

static void
gather_start(struct svc_server *server, struct svc_server_shard *shard,
    struct svc_server_endpoint *endpoint, struct svc_stream_handle *stream,
    const struct svc_part *first)
{
	struct gather *gather = svc_mem_calloc(1, sizeof(*gather));
	if (gather == NULL)
		goto nomem;
	gather->server = server;
	gather->shard = shard;
	gather->of = endpoint;
	gather->deadline_at_ms = first->timeout_ms >= 0
				     ? svc_deadline(first->timeout_ms)
				     : INT64_MAX;
	gather->service = svc_mem_strdup(first->service);
	gather->endpoint = svc_mem_strdup(first->endpoint);
	gather->content_type = svc_mem_strdup(first->content_type);
	gather->headers = svc_headers_copy(first->headers);
	if ((first->service != NULL && gather->service == NULL) ||
	    (first->endpoint != NULL && gather->endpoint == NULL) ||
	    (first->content_type != NULL && gather->content_type == NULL) ||
	    gather->headers == NULL)
		goto nomem;
	stream->user = gather;
	stream->events = &gather_events;
	if ((first->flags & SVC_PART_MESSAGE) != 0) {
		struct svc_part message = {.flags = SVC_PART_MESSAGE,
		    .data = first->data,
		    .len = first->len};
		gather_part(stream, &message);
	}
	return;

nomem:
	if (gather != NULL)
		gather_free(gather);
	svc_server_refuse(
	    server, shard, stream, SVC_E_NOMEM, true, "out of memory");
}

/* -------------------------------------------------------------- stream calls
 */

static void
stream_start(struct svc_server *server, struct svc_server_shard *shard,
    struct svc_server_endpoint *endpoint, struct svc_stream_handle *stream,
    const struct svc_part *first)
{
	svc_err code = SVC_OK;
	bool not_run;
	char text[sizeof(((struct svc_error *)0)->text)];
	/* A stream does not wait for a place: it would be kept for long. */
	if (!svc_admission_enter(server, shard)) {
		snprintf(text, sizeof(text),
		    "the service runs %lld handlers, its limit "
		    "(--max_handlers)",
		    (long long)server->admission.limit);
		svc_server_refuse(
		    server, shard, stream, SVC_E_EXHAUSTED, true, text);
		return;
	}
	const char *why = text;
	if (admit(
		server, endpoint, first, &code, &not_run, text, sizeof(text))) {
		not_run = true;
		code = svc_server_stream_start(
		    server, shard, endpoint, stream, first, &why);
		if (code == SVC_OK)
			return; /* `stream` is the handler's now */
		if (endpoint->limit != 0)
			atomic_fetch_sub(&endpoint->running, 1);
		stream->user = NULL;
		stream->events = &call_events;
	}
	svc_admission_leave(server, shard);
	svc_server_refuse(server, shard, stream, code, not_run, why);
}

/* A caller that knew the address was faster than the start. */
static void
wait_open(struct svc_server *server)
{
	svc_will_block();
	pthread_mutex_lock(&server->lock);
	while (!atomic_load(&server->open))
		svc_cond_wait(&server->idle, &server->lock, INT64_MAX);
	pthread_mutex_unlock(&server->lock);
}

SVC_HOT void
svc_server_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	struct svc_server *server = arg;
	bool whole = (first->flags & SVC_PART_END) != 0;
	/* What runs at once is counted once. */
	struct svc_server_shard *shard = svc_server_count_in(server,
	    whole ? SVC_COUNT_CALL + SVC_COUNT_HANDLER : SVC_COUNT_CALL);
	stream->user = NULL;
	stream->events = &call_events;
	if (!atomic_load_explicit(&server->open, memory_order_acquire))
		wait_open(server);
	struct svc_server_endpoint *endpoint = svc_server_find_again(
	    server, shard, first->endpoint != NULL ? first->endpoint : "");
	/* What has more parts to come and no endpoint is refused at once. */
	if (endpoint != NULL ? endpoint->stream_fn != NULL : !whole) {
		if (whole)
			svc_admission_leave(server, shard);
		stream_start(server, shard, endpoint, stream, first);
	} else if (whole)
		serve(server, shard, endpoint, stream, first,
		    (first->flags & SVC_PART_MESSAGE) != 0 ? first->data : NULL,
		    (first->flags & SVC_PART_MESSAGE) != 0 ? first->len : 0);
	else
		gather_start(server, shard, endpoint, stream, first);
}
