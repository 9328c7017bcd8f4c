/* SPDX-License-Identifier: Apache-2.0 */
/* svc_call_async: calls that nobody waits for. async.h says who owns one. */
#include "async.h"

#include <string.h>

#define MIN_SPACE 256u
#define MAX_KEPT_HEAD 128u
#define SERVICE_AT 2 /* behind its length */

static void advance(struct svc_async_call *call, bool dont_wait);
static void retry(struct svc_async_call *call);

/* ----------------------------------------------------- copying the request */

#define MAX_TEXTS (3 + 2 * SVC_MAX_LABELS)

/* Those of the options that were given; usually none. */
static size_t
plan_texts(struct svc_call_plan *plan, const char **texts[])
{
	size_t n = 0;
	if (plan->version != NULL)
		texts[n++] = &plan->version;
	if (plan->node != NULL)
		texts[n++] = &plan->node;
	if (plan->key != NULL)
		texts[n++] = &plan->key;
	for (size_t i = 0; i < plan->n_labels; i++) {
		texts[n++] = &plan->labels[i].name;
		if (plan->labels[i].value != NULL)
			texts[n++] = &plan->labels[i].value;
	}
	return n;
}

static bool
make_space(struct svc_async_call *call, size_t size)
{
	size_t cap = MIN_SPACE;
	while (cap < size && cap < SVC_ASYNC_KEPT_SPACE)
		cap *= 2;
	if (cap < size)
		cap = size;
	svc_mem_free(call->space);
	call->cap = 0;
	call->head_len = 0;
	call->space = svc_mem_alloc(cap);
	if (call->space == NULL)
		return false;
	call->cap = cap;
	return true;
}

/* Everything anew. */
static bool
pack_request(struct svc_async_call *call)
{
	struct svc_part *first = &call->at.first;
	const char **texts[MAX_TEXTS];
	size_t sizes[MAX_TEXTS], lens[3];
	size_t size = svc_part_packed_size(first, lens);
	size_t n = plan_texts(&call->at.plan, texts);
	for (size_t i = 0; i < n; i++) {
		sizes[i] = strlen(*texts[i]) + 1;
		size += sizes[i];
	}
	const char *codec = call->at.client->service->values.codec;
	call->type = first->content_type == codec ? codec : NULL;
	call->head_len = 0;
	if (size > call->cap && !make_space(call, size))
		return false;
	char *at = svc_part_pack(first, call->space, lens);
	if (first->head_len <= MAX_KEPT_HEAD) {
		call->head_len = (uint32_t)first->head_len;
		call->endpoint_at = (uint32_t)(first->endpoint - call->space);
		call->type_at = (uint32_t)(first->content_type - call->space);
	}
	for (size_t i = 0; i < n; i++) {
		*texts[i] = memcpy(at, *texts[i], sizes[i]);
		at += sizes[i];
	}
	return true;
}

/* Whether the packed head of the call before is that of this one too, with room
 * for `len` bytes behind it. */
static bool
has_head(const struct svc_async_call *call, const char *service,
    const char *endpoint, const char *type, size_t len)
{
	const char *space = call->space;
	return call->head_len != 0 && call->cap - call->head_len >= len &&
	       strcmp(endpoint, space + call->endpoint_at) == 0 &&
	       strcmp(service, space + SERVICE_AT) == 0 &&
	       /* Mostly it is the client's own, which does not change. */
	       (type == call->type || strcmp(type, space + call->type_at) == 0);
}

/* What the node's id takes. */
static size_t
id_size(const struct svc_call_plan *plan)
{
	return plan->node != NULL ? strlen(plan->node) + 1 : 0;
}

/* The message and the node's id, behind the head. */
static void
put_behind_head(
    struct svc_async_call *call, const void *data, size_t len, size_t id_len)
{
	struct svc_part *first = &call->at.first;
	char *place = call->space + call->head_len;
	if (len > 0)
		memcpy(place, data, len);
	first->data = place;
	first->len = len;
	if (id_len > 0)
		call->at.plan.node =
		    memcpy(place + len, call->at.plan.node, id_len);
}

/* With the head of the call before, if that is the same; false: it is not. */
static bool
pack_behind_head(struct svc_async_call *call)
{
	struct svc_part *first = &call->at.first;
	const struct svc_call_plan *plan = &call->at.plan;
	char *space = call->space;
	size_t id_len = id_size(plan);
	if (plan->described || plan->key != NULL ||
	    !has_head(call, first->service, first->endpoint,
		first->content_type, first->len + id_len))
		return false;
	put_behind_head(call, first->data, first->len, id_len);
	first->service = space + SERVICE_AT;
	first->endpoint = space + call->endpoint_at;
	first->content_type = space + call->type_at;
	first->head = space;
	first->head_len = call->head_len;
	return true;
}

/* What the call needs for other tries becomes its own. */
static bool
own_request(struct svc_async_call *call)
{
	struct svc_part *first = &call->at.first;
	if (!pack_behind_head(call) && !pack_request(call))
		return false;
	if (first->headers == NULL)
		return true;
	if (svc_headers_count(first->headers) > 0) {
		call->headers = svc_headers_copy(first->headers);
		if (call->headers == NULL)
			return false;
	}
	first->headers = call->headers;
	return true;
}

/* Nothing differs from the call before but the message and what may in a plain
 * plan; false: something does, and nothing has happened. */
static bool
begin_again(struct svc_async_call *call, const struct svc_call_plan *plan,
    const struct svc_outgoing *out, int64_t now_ms, int64_t deadline_at_ms)
{
	const struct svc_message *req = out->req;
	if (!call->plain || !plan->plain || req->headers != NULL)
		return false;
	const struct svc_values *values = &call->at.client->service->values;
	const char *type =
	    req->content_type != NULL ? req->content_type : values->codec;
	size_t id_len = id_size(plan);
	if (req->len > (uint64_t)values->max_message_size ||
	    !has_head(
		call, out->service, out->endpoint, type, req->len + id_len))
		return false;
	svc_attempts_begin_again(&call->at, plan, now_ms, deadline_at_ms);
	put_behind_head(call, req->data, req->len, id_len);
	return true;
}

static SVC_APART svc_err
begin(struct svc_async_call *call, struct svc_client *client,
    const struct svc_call_plan *plan, const struct svc_outgoing *out,
    int64_t now_ms, int64_t deadline_at_ms)
{
	call->at.n_tried = 0;
	call->plain = false;
	svc_err code = svc_attempts_begin(
	    &call->at, client, plan, out, now_ms, deadline_at_ms, out->err);
	if (code != SVC_OK)
		return code;
	call->at.plan.within = NULL; /* it may end before this call */
	if (plan->within != NULL)
		call->at.left = &call->left;
	if (!own_request(call))
		return svc_error_set(out->err, SVC_E_NOMEM, "out of memory");
	call->plain =
	    plan->plain && out->req->headers == NULL && call->head_len != 0;
	return SVC_OK;
}

/* ------------------------------------------------------------- telling the end
 */

static SVC_COLD void
describe(struct svc_async_call *call, svc_err code)
{
	struct svc_error *err = &call->err;
	if (err->text[0] == '\0')
		svc_error_set(err, code, "%s", svc_err_text(code));
	err->code = code;
	if (call->at.plan.detail != NULL)
		*call->at.plan.detail = *err;
}

static void
forget_reply(struct svc_async_call *call)
{
	svc_reply_fini(&call->reply);
	svc_reply_init(&call->reply, &call->err);
}

static inline void
forget_error(struct svc_async_call *call)
{
	call->err.code = SVC_OK;
	call->err.sys = 0;
	call->err.text[0] = '\0';
}

/* By the owner, with the call's err and reply as they are to be told. */
static void
tell(struct svc_async_call *call, svc_err code)
{
	struct svc_error *err = &call->err;
	struct svc_call_plan *plan = &call->at.plan;
	if (plan->reply_headers != NULL &&
	    svc_reply_copy_headers(call->reply.headers, plan->reply_headers) !=
		SVC_OK &&
	    code == SVC_OK)
		code = svc_error_set(err, SVC_E_NOMEM, "out of memory");
	if (code == SVC_OK)
		err->text[0] = '\0';
	else
		describe(call, code);
	err->code = code;
	call->reply.result.code = code;
	struct svc_message rsp = svc_reply_message(&call->reply);
	call->done(code, &rsp, err, call->arg);
	forget_reply(call);
	forget_error(call);
}

static void
post(struct svc_async_call *call, enum step step)
{
	call->next_step = step;
	svc_loop_post(call->shard->loop, &call->task);
}

/* ---------------------------------------------------------- waiting for views
 */

static void
leave_waiters(struct svc_async_call *call)
{
	struct svc_async *async = call->shard->async;
	pthread_mutex_lock(&async->lock);
	if (call->waiter_link != NULL) {
		*call->waiter_link = call->next_waiter;
		if (call->next_waiter != NULL)
			call->next_waiter->waiter_link = call->waiter_link;
		else
			async->last_waiter = call->waiter_link;
		call->waiter_link = NULL;
	}
	pthread_mutex_unlock(&async->lock);
}

/* With the lock: the next one for this service, taken over. */
static struct svc_async_call *
next_waiter(struct svc_async *async, const char *service)
{
	struct svc_async_call *call = async->waiters;
	for (; call != NULL; call = call->next_waiter) {
		if (strcmp(call->at.first.service, service) == 0 &&
		    svc_async_take(call, BUSY))
			return call;
	}
	return NULL;
}

static void
view(void *arg)
{
	struct viewer *viewer = arg;
	struct svc_async *async = viewer->async;
	pthread_mutex_lock(&async->lock);
	struct svc_async_call *call;
	while ((call = next_waiter(async, viewer->service)) != NULL) {
		pthread_mutex_unlock(&async->lock);
		leave_waiters(call);
		advance(call, false);
		pthread_mutex_lock(&async->lock);
	}
	struct viewer **place = &async->viewers;
	while (*place != viewer)
		place = &(*place)->next;
	*place = viewer->next;
	pthread_cond_broadcast(&async->changed);
	pthread_mutex_unlock(&async->lock);
	svc_mem_free(viewer);
}

/* Choosing a node would block: let a job do it, one for each service. */
static SVC_COLD void
wait_for_view(struct svc_async_call *call)
{
	struct svc_async *async = call->shard->async;
	const char *service = call->at.first.service;
	size_t size = strlen(service) + 1;
	struct viewer *made = svc_mem_alloc(sizeof(*made) + size);
	if (made == NULL) {
		svc_error_set(&call->err, SVC_E_NOMEM, "out of memory");
		call->at.last = (struct svc_exchange){.code = SVC_E_NOMEM};
		svc_async_own(call, CLAIMED);
		post(call, STEP_FAIL);
		return;
	}
	made->async = async;
	memcpy(made->service, service, size);
	pthread_mutex_lock(&async->lock);
	call->next_waiter = NULL;
	call->waiter_link = async->last_waiter;
	*async->last_waiter = call;
	async->last_waiter = &call->next_waiter;
	struct viewer *viewer = async->viewers;
	while (viewer != NULL && strcmp(viewer->service, service) != 0)
		viewer = viewer->next;
	bool start = viewer == NULL;
	if (start) {
		made->next = async->viewers;
		async->viewers = made;
	}
	/* Under the lock, so that the viewer that was found does not look at it
	 * before, and end. */
	svc_async_rest(call);
	pthread_mutex_unlock(&async->lock); /* after this it may be gone */
	struct svc_executor *executor = async->client->service->executor;
	if (!start) {
		svc_mem_free(made);
		return;
	}
	svc_err code = svc_executor_run(executor, view, made);
	/* No thread to wait on: nobody is to wait in vain. */
	while (code != SVC_OK) {
		pthread_mutex_lock(&async->lock);
		call = next_waiter(async, made->service);
		if (call == NULL) {
			struct viewer **place = &async->viewers;
			while (*place != made)
				place = &(*place)->next;
			*place = made->next;
			pthread_cond_broadcast(&async->changed);
		}
		pthread_mutex_unlock(&async->lock);
		if (call == NULL) {
			svc_mem_free(made);
			break;
		}
		leave_waiters(call);
		svc_error_set(&call->err, code,
		    "no thread is free to look for the service");
		call->at.last = (struct svc_exchange){.code = code};
		svc_async_own(call, CLAIMED);
		post(call, STEP_FAIL);
	}
}

/* ---------------------------------------------------------------- the stream
 */

/* As the owner, after a try: the next one begins or the pause before it. */
static SVC_COLD void
retry(struct svc_async_call *call)
{
	forget_reply(call);
	call->stream = NULL;
	svc_async_own(call, BUSY);
	if (call->until_ms == 0) {
		advance(call, true);
		return;
	}
	call->pausing = true;
	svc_async_due(call, call->until_ms);
	svc_async_rest(call);
}

/* What is left of a try, in a callback of the stream with the call claimed.
 * `busy`: the sender has not let go of it yet. */
static inline void
finish(struct svc_async_call *call, enum step after, bool busy)
{
	if (busy) {
		call->after = after;
		if (atomic_fetch_or(&call->state, HANDED) & BUSY)
			return;
	}
	if (after == STEP_RETRY)
		retry(call);
	else
		svc_async_release(call);
}

/* In a callback of the stream, with the call claimed. */
static SVC_APART void
ended(struct svc_async_call *call, struct svc_stream_handle *stream, bool busy)
{
	call->at.last = call->reply.result;
	svc_err code = svc_attempt_end(&call->at);
	stream->ops->release(stream, SVC_E_CANCELLED);
	enum step after = STEP_RELEASE;
	if (code != SVC_OK && svc_attempts_more(&call->at, &call->until_ms))
		after = STEP_RETRY;
	else
		tell(call, code);
	finish(call, after, busy);
}

/* What nearly every reply is: whole, good and without headers. Its content type
 * is told where it lies in the part, its message from the room of the request,
 * which is not needed again, with a zero byte behind it. False: it is not like
 * that, and nothing has happened. */
static inline bool
is_answer(const struct svc_async_call *call, const struct svc_part *part,
    struct svc_message *ret_rsp)
{
	const unsigned whole = SVC_PART_HEADERS | SVC_PART_END;
	const struct svc_reply *reply = &call->reply;
	size_t len = part->flags & SVC_PART_MESSAGE ? part->len : 0;
	size_t kept = (call->head_len + 15u) & ~15u;
	if ((part->flags & whole) != whole || part->status != SVC_OK ||
	    part->headers != NULL || call->at.plan.reply_headers != NULL ||
	    reply->block != NULL || reply->result.code != SVC_OK ||
	    kept + len >= call->cap)
		return false;
	char *data = call->space + kept;
	if (len > 0)
		memcpy(data, part->data, len);
	data[len] = '\0';
	*ret_rsp = (struct svc_message){
	    .content_type =
		part->content_type != NULL ? part->content_type : "",
	    .data = data,
	    .len = len,
	};
	return true;
}

static SVC_HOT void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct svc_async_call *call = stream->user;
	struct svc_message rsp;
	if ((part->flags & SVC_PART_END) == 0) {
		/* Who claims it meanwhile waits for this to return before he
		 * touches the reply. */
		svc_reply_part(&call->reply, part);
		return;
	}
	unsigned state = atomic_fetch_or(&call->state, CLAIMED);
	if (state & CLAIMED)
		return;
	bool busy = (state & BUSY) != 0;
	if (!is_answer(call, part, &rsp)) {
		svc_reply_part(&call->reply, part);
		ended(call, stream, busy);
		return;
	}
	svc_target_done(call->at.target, SVC_OUTCOME_OK);
	call->at.target = NULL;
	stream->ops->release(stream, SVC_E_CANCELLED);
	forget_error(call); /* of a try before */
	call->done(SVC_OK, &rsp, &call->err, call->arg);
	finish(call, STEP_RELEASE, busy);
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct svc_async_call *call = stream->user;
	unsigned state = atomic_fetch_or(&call->state, CLAIMED);
	if (state & CLAIMED)
		return;
	svc_reply_closed(&call->reply, end);
	ended(call, stream, (state & BUSY) != 0);
}

static const struct svc_stream_events events = {
    .part = on_part, .closed = on_closed};

/* As the sender: make tries until one is under way or there are no more. */
static SVC_HOT void
advance(struct svc_async_call *call, bool dont_wait)
{
	struct svc_attempts *at = &call->at;
	for (;;) {
		struct svc_link *link;
		svc_err code =
		    svc_attempt_aim(at, dont_wait, &link, &call->err);
		if (code == SVC_E_AGAIN && dont_wait && at->target == NULL) {
			wait_for_view(call);
			return;
		}
		dont_wait = true;
		if (code == SVC_OK) {
			struct svc_stream_handle *stream;
			code = svc_link_open(link, &at->first, 0,
			    &at->dial_time, &events, call, &stream, &call->err);
			if (code == SVC_OK) {
				call->stream = stream;
				break;
			}
			at->last = (struct svc_exchange){
			    .code = code, .not_run = true};
			svc_attempt_end(at);
		}
		if (!svc_attempts_more(at, &call->until_ms)) {
			svc_async_own(call, CLAIMED);
			post(call, STEP_FAIL);
			return;
		}
		if (call->until_ms != 0) {
			retry(call);
			return;
		}
	}
	if ((svc_async_rest(call) & HANDED) == 0)
		return;
	/* It has ended already, and nobody else has it any more. */
	if (call->after == STEP_RETRY)
		retry(call);
	else
		svc_async_release(call);
}

/* ------------------------------------------------------------------- tasks */

/* As the owner: the call has ended without a reply. */
static void
cut(struct svc_async_call *call, svc_err code)
{
	struct svc_attempts *at = &call->at;
	leave_waiters(call);
	call->pausing = false;
	if (call->stream != NULL) {
		/* Waits at most for a callback that has lost the race. */
		call->stream->ops->release(call->stream,
		    code == SVC_E_TIMEDOUT ? code : SVC_E_CANCELLED);
		call->stream = NULL;
	}
	bool tried = at->n_tried > 0;
	if (code == SVC_E_CANCELLED)
		svc_error_set(&call->err, code, "%s", svc_cancelled_within);
	else if (code == SVC_E_CLOSED)
		svc_error_set(&call->err, code, "the client is closing");
	else if (at->target != NULL)
		svc_error_set(&call->err, code,
		    "no reply from %s before the deadline",
		    at->target->node->address);
	else if (!tried)
		svc_error_set(&call->err, code,
		    "the deadline passed before a node was found");
	at->last = (struct svc_exchange){.code = code};
	if (at->target != NULL)
		svc_attempt_end(at);
}

void
svc_async_run_task(struct svc_task *task)
{
	struct svc_async_call *call =
	    (struct svc_async_call *)(void *)((char *)task -
					      offsetof(
						  struct svc_async_call, task));
	svc_err code = call->at.last.code;
	bool left = atomic_load(&call->left);
	if (call->next_step == STEP_DUE && call->pausing && !left) {
		call->pausing = false;
		svc_async_due(call, svc_async_end_ms(call->at.deadline_at_ms));
		svc_async_own(call, BUSY);
		advance(call, true);
		return;
	}
	if (call->next_step == STEP_DUE || call->next_step == STEP_CANCEL) {
		code = call->next_step == STEP_CANCEL ? SVC_E_CLOSED
		       : left                         ? SVC_E_CANCELLED
						      : SVC_E_TIMEDOUT;
		cut(call, code);
	}
	struct svc_loop *loop = svc_loop_current();
	if (loop != NULL)
		svc_loop_enter(loop);
	tell(call, code);
	if (loop != NULL)
		svc_loop_leave(loop);
	svc_async_release(call);
}

/* ------------------------------------------------------------- from outside */

/* The wheel takes it over as soon as it rests. */
static void
leave(struct svc_scoped *scoped)
{
	struct svc_async_call *call =
	    (struct svc_async_call *)(void *)((char *)scoped -
					      offsetof(struct svc_async_call,
						  scoped));
	atomic_store(&call->left, true);
	svc_async_due(call, 0);
}

SVC_TAKEN_IN svc_err
svc_async_call(struct svc_async *async, const struct svc_call_plan *plan,
    const struct svc_outgoing *out)
{
	struct svc_async_call *call;
	int64_t now_ms =
	    plan->within == NULL ? svc_now_coarse_ms() : svc_now_ms();
	int64_t deadline_at_ms = svc_call_plan_deadline(plan, now_ms);
	svc_err code = svc_async_make(
	    async, now_ms, svc_async_end_ms(deadline_at_ms), &call);
	if (code != SVC_OK)
		return svc_error_set(out->err, code, "%s",
		    code == SVC_E_CLOSED ? "the client is closing"
					 : "out of memory");
	if (!begin_again(call, plan, out, now_ms, deadline_at_ms)) {
		code = begin(
		    call, async->client, plan, out, now_ms, deadline_at_ms);
		if (code != SVC_OK) {
			svc_async_release(call);
			return code;
		}
	}
	call->done = out->done;
	call->arg = out->done_arg;
	call->stream = NULL;
	if (plan->within != NULL) {
		call->scoped.cancel = leave;
		svc_scope_join(plan->within, &call->scoped);
	}
	advance(call, true);
	return SVC_OK;
}
