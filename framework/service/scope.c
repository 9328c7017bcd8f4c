/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calls and streams that a handler has begun within its own call, so that
 * they end when its caller leaves or its stream is ended under its hands.
 *
 * A scope belongs to the handler's call, to each call within that has not
 * ended, to the task by which the transport tells that the caller has left, and
 * to who holds it to cancel it. `lock` guards the list. Nothing is called under
 * it: `telling` is the one whose `cancel` runs, and who wants to leave waits
 * for its end.
 */
#include "service.h"

const char svc_cancelled_within[] =
    "the call that is being handled was cancelled";

struct svc_scope {
	_Atomic int refs;
	atomic_bool held; /* once, to be cancelled */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool cancelled;
	struct svc_scoped *first, *telling;
	struct svc_task task;
	struct svc_scope *next; /* of those held to be cancelled */
};

static void
unref(struct svc_scope *scope)
{
	if (atomic_fetch_sub(&scope->refs, 1) != 1)
		return;
	pthread_cond_destroy(&scope->changed);
	pthread_mutex_destroy(&scope->lock);
	svc_mem_free(scope);
}

static void
cancel(struct svc_scope *scope)
{
	pthread_mutex_lock(&scope->lock);
	bool first = !scope->cancelled;
	scope->cancelled = true;
	while (first) {
		struct svc_scoped *inner = scope->first;
		while (inner != NULL && inner->told)
			inner = inner->next;
		if (inner == NULL)
			break;
		inner->told = true;
		scope->telling = inner;
		pthread_mutex_unlock(&scope->lock);
		inner->cancel(inner);
		pthread_mutex_lock(&scope->lock);
		scope->telling = NULL;
		pthread_cond_broadcast(&scope->changed);
	}
	pthread_mutex_unlock(&scope->lock);
	unref(scope);
}

static void
caller_left(struct svc_task *task)
{
	cancel((struct svc_scope *)(void *)((char *)task -
					    offsetof(struct svc_scope, task)));
}

/* NULL without memory, or where nobody would tell. */
static struct svc_scope *
scope_of(struct svc_call *outer)
{
	const struct svc_transport_ops *ops = outer->stream->ops;
	struct svc_scope *scope = atomic_load(&outer->scope), *none = NULL;
	if (scope != NULL || !SVC_OPS_HAS(ops, on_cancel))
		return scope;
	scope = svc_mem_calloc(1, sizeof(*scope));
	if (scope == NULL)
		return NULL;
	pthread_mutex_init(&scope->lock, NULL);
	svc_cond_init(&scope->changed);
	scope->task.run = caller_left;
	atomic_init(&scope->refs, 2); /* of the call and of the task */
	if (atomic_compare_exchange_strong(&outer->scope, &none, scope)) {
		ops->on_cancel(outer->stream, &scope->task);
		return scope;
	}
	atomic_store(&scope->refs, 1);
	unref(scope); /* another thread was faster */
	return none;
}

void
svc_scope_join(struct svc_call *outer, struct svc_scoped *inner)
{
	struct svc_scope *scope = scope_of(outer);
	inner->scope = scope;
	if (scope == NULL)
		return;
	atomic_fetch_add(&scope->refs, 1);
	inner->prev = NULL;
	pthread_mutex_lock(&scope->lock);
	bool tell = inner->told = scope->cancelled || atomic_load(&outer->cut);
	inner->next = scope->first;
	if (inner->next != NULL)
		inner->next->prev = inner;
	scope->first = inner;
	pthread_mutex_unlock(&scope->lock);
	if (tell)
		inner->cancel(inner);
}

SVC_HOT void
svc_scope_leave(struct svc_scoped *inner)
{
	struct svc_scope *scope = inner->scope;
	if (scope == NULL)
		return;
	pthread_mutex_lock(&scope->lock);
	while (scope->telling == inner)
		svc_cond_wait(&scope->changed, &scope->lock, INT64_MAX);
	if (inner->prev != NULL)
		inner->prev->next = inner->next;
	else
		scope->first = inner->next;
	if (inner->next != NULL)
		inner->next->prev = inner->prev;
	pthread_mutex_unlock(&scope->lock);
	inner->scope = NULL;
	unref(scope);
}

void
svc_scope_hold(struct svc_call *outer, struct svc_scope **held)
{
	struct svc_scope *scope = atomic_load(&outer->scope);
	if (scope == NULL || atomic_exchange(&scope->held, true))
		return;
	atomic_fetch_add(&scope->refs, 1);
	scope->next = *held;
	*held = scope;
}

void
svc_scope_cancel(struct svc_scope *held)
{
	while (held != NULL) {
		struct svc_scope *scope = held;
		held = scope->next;
		cancel(scope);
	}
}

SVC_HOT void
svc_scope_end(struct svc_call *outer)
{
	struct svc_scope *scope =
	    atomic_load_explicit(&outer->scope, memory_order_acquire);
	if (scope == NULL)
		return;
	if (outer->stream->ops->on_cancel(outer->stream, NULL))
		unref(scope); /* its task never runs */
	atomic_store(&outer->scope, NULL);
	unref(scope);
}
