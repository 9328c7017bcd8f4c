/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client's stream: opening it on a node, and moving it to another one.
 *
 * A stream may have been opened on a node that turns out not to take it: the
 * connection cannot be made, or the service is stopping. As long as nothing has
 * come back and what was sent is remembered, the thread that next sends or
 * receives opens it on another node, by the rules of any call's retries.
 */
#include "attempt.h"
#include "stream.h"

#include <string.h>

/* What may be sent before the first answer and still be sent again. */
#define MAX_REMEMBERED ((size_t)64 << 10)

struct client_stream {
	struct svc_stream base;
	struct svc_scoped scoped;
	struct svc_attempts at;
	struct svc_error why;      /* of the attempt that was lost */
	int64_t connect_ms;        /* for the choice of a node */
	struct svc_headers *sent;  /* the headers of the request */
	struct svc_buf remembered; /* each message behind its length */
	bool forgotten;            /* more was sent than is remembered */
	char texts[];
};

static struct client_stream *
client_of(struct svc_stream *stream)
{
	return (struct client_stream *)(void *)stream;
}

/* ------------------------------------------------------------------ events */

/* Another node may still take it; with the lock. */
static bool
may_move(const struct client_stream *client)
{
	const struct svc_stream *stream = &client->base;
	return !stream->heard && !stream->ended && !client->forgotten;
}

static void
lose(struct client_stream *client, struct svc_exchange how, const char *text)
{
	struct svc_stream *stream = &client->base;
	svc_err code = how.code;
	client->at.last = how;
	if (!may_move(client) || svc_attempt_is_final(&client->at)) {
		svc_stream_end(stream, code, text, false);
		return;
	}
	svc_error_set(&client->why, code, "%s",
	    text != NULL && text[0] != '\0' ? text : svc_err_text(code));
	stream->lost = true;
	svc_stream_close_gate(stream);
	svc_stream_wake(stream);
}

/* The first answer: this is the node. */
static void
settle(struct client_stream *client)
{
	struct svc_stream *stream = &client->base;
	stream->heard = true;
	client->forgotten = true;
	if (!stream->moving) /* otherwise it is being sent */
		svc_buf_fini(&client->remembered);
	if (client->at.target != NULL) {
		svc_target_hold(client->at.target);
		svc_target_done(client->at.target, SVC_OUTCOME_OK);
	}
}

static void
on_part(struct svc_stream_handle *handle, const struct svc_part *part)
{
	struct svc_stream *stream = handle->user;
	struct client_stream *client = client_of(stream);
	pthread_mutex_lock(&stream->lock);
	if (!stream->heard && (part->flags & SVC_PART_END) != 0 &&
	    svc_headers_get(part->headers, SVC_NOT_RUN_HEADER) != NULL) {
		lose(client,
		    (struct svc_exchange){
			.code = part->status, .replied = true, .not_run = true},
		    part->status_text);
		pthread_mutex_unlock(&stream->lock);
		return;
	}
	if ((part->flags & SVC_PART_HEADERS) != 0)
		svc_stream_take_headers(stream, part);
	if (!stream->heard)
		settle(client);
	if ((part->flags & SVC_PART_MESSAGE) != 0)
		svc_stream_take_messages(
		    stream, &(struct svc_span){part->data, part->len}, 1);
	if ((part->flags & SVC_PART_END) != 0) {
		svc_stream_take_trailers(stream, part);
		client->at.last = (struct svc_exchange){
		    .code = part->status, .replied = true};
		svc_stream_end(stream, part->status, part->status_text, false);
	}
	pthread_mutex_unlock(&stream->lock);
}

static void
on_messages(
    struct svc_stream_handle *handle, const struct svc_span *messages, size_t n)
{
	struct svc_stream *stream = handle->user;
	pthread_mutex_lock(&stream->lock);
	if (!stream->heard)
		settle(client_of(stream));
	svc_stream_take_messages(stream, messages, n);
	pthread_mutex_unlock(&stream->lock);
}

static void
on_closed(struct svc_stream_handle *handle, const struct svc_stream_end *end)
{
	struct svc_stream *stream = handle->user;
	svc_err code = end->code != SVC_OK ? end->code : SVC_E_UNAVAILABLE;
	pthread_mutex_lock(&stream->lock);
	/* A refused stream is also reset, which says no more. */
	if (!stream->ended && !stream->lost)
		lose(client_of(stream),
		    (struct svc_exchange){.code = code,
			.not_run = end->not_run,
			.silent = end->silent},
		    end->text);
	pthread_mutex_unlock(&stream->lock);
}

static const struct svc_stream_events events = {
    .part = on_part,
    .closed = on_closed,
    .writable = svc_stream_writable,
    .holds = true,
    .messages = on_messages,
};

/* ---------------------------------------------------------------- attempts */

/* A stream may live for ever, the search for its node may not. */
static void
limit_search(struct client_stream *client)
{
	int64_t until_ms = svc_deadline(client->connect_ms);
	client->at.deadline_at_ms = until_ms < client->base.deadline_at_ms
					? until_ms
					: client->base.deadline_at_ms;
}

/* One attempt; without the lock, for nobody else touches the handle. */
static svc_err
attempt(struct client_stream *client, struct svc_error *err)
{
	struct svc_attempts *at = &client->at;
	struct svc_stream *stream = &client->base;
	struct svc_link *link;
	svc_err code = svc_attempt_aim(at, false, &link, err);
	if (code != SVC_OK)
		return code;
	at->first.timeout_ms = svc_remaining(stream->deadline_at_ms);
	struct svc_stream_handle *handle;
	code = svc_link_open(
	    link, &at->first, 0, &at->dial_time, &events, stream, &handle, err);
	if (code != SVC_OK) {
		at->last = (struct svc_exchange){.code = code, .not_run = true};
		return svc_attempt_end(at);
	}
	pthread_mutex_lock(&stream->lock);
	stream->handle = handle;
	pthread_mutex_unlock(&stream->lock);
	return SVC_OK;
}

static svc_err
attempts(struct client_stream *client, struct svc_error *err)
{
	int64_t until_ms = 0;
	svc_err code;
	do {
		svc_attempts_pause(&client->at, until_ms);
		code = attempt(client, err);
	} while (code != SVC_OK && svc_attempts_more(&client->at, &until_ms));
	return code;
}

/* False when the stream ended or this attempt is lost, too. */
static bool
wait_for_room(struct svc_stream *stream)
{
	while (!stream->ended && !stream->lost) {
		if (stream->room)
			return true;
		stream->writers_waiting++;
		svc_err code = svc_cond_wait(
		    &stream->writable, &stream->lock, stream->deadline_at_ms);
		stream->writers_waiting--;
		if (code == SVC_E_TIMEDOUT)
			break;
	}
	return false;
}

/* Sends again what the lost attempt was sent. With the lock. */
static svc_err
replay(struct client_stream *client)
{
	struct svc_stream *stream = &client->base;
	size_t at = 0;
	while (at < client->remembered.len) {
		size_t len;
		memcpy(&len, client->remembered.data + at, sizeof(len));
		struct svc_part part = {
		    .flags = SVC_PART_MESSAGE,
		    .data = client->remembered.data + at + sizeof(len),
		    .len = len,
		};
		svc_err code = svc_stream_put(stream, &part, NULL);
		if (code == SVC_E_AGAIN && wait_for_room(stream))
			continue;
		if (code != SVC_OK)
			return code;
		at += sizeof(len) + len;
	}
	if (!stream->sent_end)
		return SVC_OK;
	struct svc_part end = {
	    .flags = SVC_PART_END, .headers = stream->own_trailers};
	return svc_stream_put(stream, &end, NULL);
}

void
svc_stream_move(struct svc_stream *stream)
{
	struct client_stream *client = client_of(stream);
	stream->moving = true;
	svc_stream_await_calm(stream);
	svc_stream_release(stream, SVC_E_CANCELLED);
	struct svc_error why = client->why;
	stream->lost = false;
	bool another = !stream->ended;
	pthread_mutex_unlock(&stream->lock);

	int64_t until_ms = 0;
	svc_err code = svc_attempt_end(&client->at);
	limit_search(client);
	another = another && svc_attempts_more(&client->at, &until_ms);
	if (another) {
		svc_attempts_pause(&client->at, until_ms);
		code = attempts(client, &why);
	}
	pthread_mutex_lock(&stream->lock);
	if (!another || code != SVC_OK) {
		svc_stream_end(stream, code, why.text, false);
	} else if (stream->ended) {
		/* Cancelled meanwhile. */
		svc_stream_release(stream, stream->end.code);
	} else {
		code = replay(client);
		/* A handle that ended again tells so by an event, and a
		 * deadline shows by itself. */
		if (code != SVC_OK && code != SVC_E_CLOSED &&
		    code != SVC_E_AGAIN)
			svc_stream_end(stream, code,
			    "the stream could not be moved to another node",
			    false);
	}
	stream->moving = false;
	if (client->forgotten)
		svc_buf_fini(&client->remembered);
	svc_stream_wake(stream);
}

void
svc_stream_remember(struct svc_stream *stream, const void *data, size_t len)
{
	struct client_stream *client = client_of(stream);
	if (client->forgotten)
		return;
	if (svc_buf_append(&client->remembered, &len, sizeof(len)) == SVC_OK &&
	    svc_buf_append(&client->remembered, data, len) == SVC_OK)
		return;
	svc_buf_fini(&client->remembered);
	client->forgotten = true;
}

bool
svc_stream_is_forgotten(struct svc_stream *stream)
{
	return client_of(stream)->forgotten;
}

/* ------------------------------------------------------------ open and free */

/* The outer caller has left. */
static void
leave(struct svc_scoped *scoped)
{
	struct client_stream *client =
	    (struct client_stream *)(void *)((char *)scoped -
					     offsetof(
						 struct client_stream, scoped));
	struct svc_stream *stream = &client->base;
	pthread_mutex_lock(&stream->lock);
	svc_stream_end(stream, SVC_E_CANCELLED, svc_cancelled_within, true);
	svc_stream_release(stream, SVC_E_CANCELLED);
	pthread_mutex_unlock(&stream->lock);
}

/* What the options point to is the caller's: a copy of each text. */
struct texts {
	char *at;
	size_t size;
};

static const char *
copy_text(struct texts *texts, const char *text)
{
	if (text == NULL)
		return NULL;
	size_t size = strlen(text) + 1;
	if (texts->at != NULL) {
		char *copy = texts->at;
		memcpy(copy, text, size);
		texts->at += size;
		return copy;
	}
	texts->size += size;
	return text;
}

static void
copy_texts(struct texts *texts, struct svc_call_plan *plan,
    const char **service, const char **endpoint)
{
	*service = copy_text(texts, *service);
	*endpoint = copy_text(texts, *endpoint);
	plan->version = copy_text(texts, plan->version);
	plan->node = copy_text(texts, plan->node);
	plan->key = copy_text(texts, plan->key);
	plan->content_type = copy_text(texts, plan->content_type);
	for (size_t i = 0; i < plan->n_labels; i++) {
		plan->labels[i].name = copy_text(texts, plan->labels[i].name);
		plan->labels[i].value = copy_text(texts, plan->labels[i].value);
	}
}

static svc_err
begin(struct client_stream *client, struct svc_client *of,
    struct svc_call_plan *plan, const char *service, const char *endpoint,
    const struct svc_option *options, struct svc_error *err)
{
	struct svc_stream *stream = &client->base;
	svc_err code = SVC_OK;
	if (plan->has_headers)
		code = svc_call_plan_headers(options, NULL, &client->sent, err);
	if (code != SVC_OK)
		return code;
	struct svc_message nothing = {.headers = client->sent};
	struct svc_outgoing out = {
	    .service = service,
	    .endpoint = endpoint,
	    .req = &nothing,
	    .options = options,
	    .err = err,
	};
	int64_t now_ms = svc_now_ms();
	code = svc_attempts_begin(&client->at, of, plan, &out, now_ms,
	    svc_call_plan_deadline(plan, now_ms), err);
	if (code != SVC_OK)
		return code;
	client->at.first.flags = SVC_PART_HEADERS;
	stream->sent_headers = true;
	stream->sent_type = svc_mem_strdup(client->at.first.content_type);
	stream->type_given = plan->content_type != NULL;
	if (stream->sent_type == NULL)
		code = svc_error_set(err, SVC_E_NOMEM, "out of memory");
	limit_search(client);
	if (code == SVC_OK)
		code = attempts(client, err);
	/* The handler may end before its stream. Who ends the stream from now
	 * on, the scope included, cuts it. */
	client->at.plan.within = NULL;
	client->at.left = &stream->cut;
	if (code != SVC_OK) {
		svc_attempts_finish(&client->at);
	} else if (plan->within != NULL) {
		client->scoped.cancel = leave;
		svc_scope_join(plan->within, &client->scoped);
	}
	return code;
}

static void
destroy(struct client_stream *client)
{
	svc_headers_destroy(client->sent);
	svc_buf_fini(&client->remembered);
	svc_stream_fini(&client->base);
	svc_mem_free(client);
}

static struct svc_stream *
open_stream(struct svc_client *of, const char *service, const char *endpoint,
    const struct svc_option *options, struct svc_error *err)
{
	struct svc_call_plan plan;
	if (of == NULL) {
		svc_error_set(err, SVC_E_PRECONDITION,
		    "there is no client: svc_init has not succeeded");
		return NULL;
	}
	if (svc_call_plan_parse(of, options, &plan, err) != SVC_OK)
		return NULL;
	if (plan.reply_headers != NULL) {
		svc_error_set(err, SVC_E_INVAL,
		    "reply_headers() is not for a stream: svc_stream_header "
		    "and svc_stream_trailer read what the handler sent");
		return NULL;
	}
	int64_t timeout_ms = SVC_FOREVER;
	for (const struct svc_option *o = options;
	     o != NULL && o->kind != SVC_OPTION_END; o++)
		if (o->kind == SVC_OPTION_TIMEOUT_MS)
			timeout_ms = o->number;
	plan.timeout_ms = timeout_ms;
	struct texts texts = {0};
	struct svc_call_plan counted = plan;
	const char *name = service, *at = endpoint;
	copy_texts(&texts, &counted, &name, &at);
	struct client_stream *client =
	    svc_mem_calloc(1, sizeof(*client) + texts.size);
	if (client == NULL) {
		svc_error_set(err, SVC_E_NOMEM, "out of memory");
		return NULL;
	}
	texts.at = client->texts;
	copy_texts(&texts, &plan, &service, &endpoint);
	plan.detail = NULL;
	client->connect_ms = of->service->values.request_timeout_ms;
	svc_buf_init(&client->remembered, MAX_REMEMBERED);
	svc_err code = svc_stream_init(&client->base, of->service, false,
	    svc_call_plan_deadline(&plan, svc_now_ms()));
	if (code != SVC_OK)
		svc_error_set(err, code, "out of memory");
	else
		code =
		    begin(client, of, &plan, service, endpoint, options, err);
	if (code != SVC_OK) {
		destroy(client);
		return NULL;
	}
	return &client->base;
}

/* A stream on its way through the wrappers: which is next, and where to say why
 * it is not opened when one of them has left that away. */
struct open_step {
	struct svc_client *client;
	size_t index;
	struct svc_error *err;
};

static struct svc_stream *
run_open_wrap(const struct svc_opening *opening, void *arg)
{
	const struct open_step *step = arg;
	struct svc_client *client = step->client;
	const struct svc_wraps *wraps =
	    client != NULL ? &client->service->wraps[SVC_WRAP_OPEN] : NULL;
	struct svc_opening whole = *opening;
	if (whole.err == NULL)
		whole.err = step->err;
	if (wraps == NULL || step->index == wraps->n)
		return open_stream(client, whole.service, whole.endpoint,
		    whole.options, whole.err);
	const struct svc_wrap *wrap = &wraps->list[step->index];
	struct open_step next = {client, step->index + 1, whole.err};
	return ((svc_open_wrapper)wrap->fn)(
	    &whole, run_open_wrap, &next, wrap->arg);
}

struct svc_stream *
svc_open_options(struct svc_client *client, const char *service,
    const char *endpoint, const struct svc_option *options)
{
	struct svc_error err = {0};
	struct svc_error *detail = svc_call_plan_detail(options);
	struct svc_opening opening = {service, endpoint, options, &err};
	struct open_step first = {client, 0, &err};
	struct svc_stream *stream = NULL;
	if (svc_call_is_named(service, endpoint, &err))
		stream = run_open_wrap(&opening, &first);
	if (stream == NULL && err.code == SVC_OK) /* a wrapper says nothing */
		err.code = SVC_E_UNKNOWN;
	if (stream == NULL && detail != NULL) {
		*detail = err;
		if (err.text[0] == '\0')
			svc_error_set(
			    detail, err.code, "%s", svc_err_text(err.code));
	}
	return stream;
}

void
svc_stream_client_free(struct svc_stream *stream)
{
	struct client_stream *client = client_of(stream);
	svc_scope_leave(&client->scoped);
	pthread_mutex_lock(&stream->lock);
	svc_stream_end(stream, SVC_E_CANCELLED, NULL, true);
	svc_stream_release(stream, SVC_E_CANCELLED);
	pthread_mutex_unlock(&stream->lock);
	if (client->at.target != NULL) {
		/* Who was not asked to the end has neither failed nor done
		 * well. */
		if (client->at.last.code == SVC_OK && !client->at.last.replied)
			client->at.last.code = SVC_E_CANCELLED;
		svc_attempt_end(&client->at);
	}
	svc_attempts_finish(&client->at);
	destroy(client);
}
