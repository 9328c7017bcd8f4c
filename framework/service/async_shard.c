/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of calls that nobody waits for, and their time. */
#include "async.h"

#define MAX_POOL 64 /* calls that a shard keeps */

static struct svc_async_call *
call_of_entry(struct svc_wheel_entry *entry)
{
	return (struct svc_async_call *)(void *)entry;
}

/* ------------------------------------------------------------------ shards */

struct claimed {
	struct svc_shard *shard;
	struct svc_async_call *calls;
	int64_t now_ms;
};

static void
claim_due(struct svc_wheel_entry *entry, void *arg)
{
	struct claimed *claimed = arg;
	struct svc_async_call *call = call_of_entry(entry);
	/* The deadline is looked at once more, as that of this state. */
	unsigned state = atomic_load(&call->state);
	if ((state & CLAIMED) != 0 ||
	    atomic_load(&entry->due_at_ms) > claimed->now_ms)
		return;
	if ((state & FLAGS) == 0 && atomic_compare_exchange_strong(&call->state,
					&state, state | CLAIMED)) {
		call->next_step = STEP_DUE;
		call->next = claimed->calls;
		claimed->calls = call;
	} else if ((state & CLAIMED) == 0) {
		/* It is being sent: look again soon. */
		svc_wheel_remove(entry);
		svc_wheel_put(&claimed->shard->wheel, entry,
		    claimed->now_ms + SVC_WHEEL_TICK_MS);
	}
}

static void
post_all(struct claimed *claimed)
{
	while (claimed->calls != NULL) {
		struct svc_async_call *call = claimed->calls;
		claimed->calls = call->next;
		svc_loop_post(claimed->shard->loop, &call->task);
	}
}

static void
call_free(struct svc_async_call *call)
{
	svc_mem_free(call->space);
	svc_mem_free(call);
}

static bool
is_open(const struct svc_shard *shard)
{
	return shard->n_calls > shard->n_pool;
}

/* With the lock: a call that has ended leaves the wheel. */
static void
put_away(struct svc_shard *shard, struct svc_async_call *call)
{
	svc_wheel_remove(&call->entry);
	if (call->cap <= SVC_ASYNC_KEPT_SPACE && shard->n_pool < MAX_POOL) {
		call->next = shard->pool;
		shard->pool = call;
		shard->n_pool++;
	} else {
		shard->n_calls--;
		call_free(call);
	}
}

/* With the lock. NULL when there is none. */
static struct svc_async_call *
take_spare(struct svc_shard *shard)
{
	struct svc_async_call *call = shard->spare;
	shard->spare = NULL;
	return call;
}

/* On the shard's loop: turn the wheel and set the timer. When the timer calls
 * this, and the task is posted, it is the task's to do: only when that runs may
 * it be posted again. */
static void
shard_turn(struct svc_shard *shard, bool by_task)
{
	struct claimed claimed = {.shard = shard, .now_ms = svc_now_ms()};
	svc_biased_lock_take(&shard->lock);
	if (shard->arming && !by_task) {
		svc_biased_lock_leave(&shard->lock);
		return;
	}
	shard->arming = false;
	/* When no more calls are made nothing is to be listed. */
	struct svc_async_call *spare = take_spare(shard);
	if (spare != NULL)
		put_away(shard, spare);
	svc_wheel_turn(&shard->wheel, claimed.now_ms, claim_due, &claimed);
	int64_t at_ms = svc_wheel_next(&shard->wheel);
	bool stop = shard->closed && !is_open(shard);
	bool again = false;
	if (stop || at_ms == INT64_MAX)
		svc_timer_stop(shard->loop, &shard->timer);
	else
		again = svc_timer_start(shard->loop, &shard->timer, at_ms) !=
			SVC_OK;
	shard->armed_at_ms = stop ? INT64_MIN : again ? INT64_MAX : at_ms;
	if (again)
		shard->arming = true;
	pthread_cond_broadcast(&shard->idle);
	svc_biased_lock_leave(&shard->lock);
	if (again) /* without memory there is nothing to do but this */
		svc_loop_post(shard->loop, &shard->arm);
	post_all(&claimed);
}

static void
task_run(struct svc_task *task)
{
	shard_turn(
	    (struct svc_shard *)(void *)((char *)task -
					 offsetof(struct svc_shard, arm)),
	    true);
}

static void
timer_fired(struct svc_timer *timer)
{
	shard_turn(
	    (struct svc_shard *)(void *)((char *)timer -
					 offsetof(struct svc_shard, timer)),
	    false);
}

static struct svc_shard *
shard_create(struct svc_async *async)
{
	struct svc_shard *shard = svc_mem_calloc(1, sizeof(*shard));
	if (shard == NULL)
		return NULL;
	shard->async = async;
	shard->loop = svc_executor_loop(async->client->service->executor);
	svc_biased_lock_init(&shard->lock);
	svc_cond_init(&shard->idle);
	shard->arm.run = task_run;
	shard->timer.fire = timer_fired;
	shard->armed_at_ms = INT64_MAX;
	return shard;
}

/* That of the calling thread; NULL when memory ran out or it is too late. */
static struct svc_shard *
shard_get(struct svc_async *async)
{
	_Atomic(struct svc_shard *) *place =
	    &async->shards[svc_thread_number() % SVC_ASYNC_SHARDS];
	struct svc_shard *shard =
	    atomic_load_explicit(place, memory_order_acquire);
	if (shard != NULL)
		return shard;
	pthread_mutex_lock(&async->lock);
	shard = atomic_load(place);
	if (shard == NULL && !atomic_load(&async->closing)) {
		shard = shard_create(async);
		atomic_store(place, shard);
	}
	pthread_mutex_unlock(&async->lock);
	return shard;
}

/* With the lock: true when the task `arm` must be posted for it. */
static bool
put(struct svc_shard *shard, struct svc_async_call *call, int64_t due_at_ms)
{
	int64_t at_ms = svc_wheel_put(&shard->wheel, &call->entry, due_at_ms);
	if (at_ms >= shard->armed_at_ms || shard->arming)
		return false;
	shard->arming = true;
	return true;
}

void
svc_async_due(struct svc_async_call *call, int64_t due_at_ms)
{
	struct svc_shard *shard = call->shard;
	svc_biased_lock_take(&shard->lock);
	svc_wheel_remove(&call->entry);
	/* Whatever was to come next, it is due now. */
	if (atomic_load(&call->left))
		due_at_ms = 0;
	bool arm = put(shard, call, due_at_ms);
	svc_biased_lock_leave(&shard->lock);
	if (arm)
		svc_loop_post(shard->loop, &shard->arm);
}

/* Who closes the client looks at all calls, and if he found this one BUSY, then
 * `closing` is seen here, and he looks again. */
SVC_TAKEN_IN unsigned
svc_async_rest(struct svc_async_call *call)
{
	struct svc_shard *shard = call->shard;
	unsigned state = atomic_fetch_and(&call->state, ~BUSY);
	if (atomic_load(&shard->async->closing)) {
		svc_biased_lock_take(&shard->lock);
		pthread_cond_broadcast(&shard->idle);
		svc_biased_lock_leave(&shard->lock);
	}
	return state;
}

/* ------------------------------------------------------------ making calls */

/* From the pool, or a new one, and listed.
 * Errors: SVC_E_CLOSED, SVC_E_NOMEM */
static SVC_APART svc_err
list_call(struct svc_shard *shard, int64_t now_ms, int64_t deadline_at_ms,
    struct svc_async_call **ret_call)
{
	svc_biased_lock_take(&shard->lock);
	struct svc_async_call *call = shard->pool;
	if (call == NULL) {
		svc_biased_lock_leave(&shard->lock);
		call = svc_mem_calloc(1, sizeof(*call));
		if (call == NULL)
			return SVC_E_NOMEM;
		call->shard = shard;
		svc_reply_init(&call->reply, &call->err);
		call->task.run = svc_async_run_task;
		svc_biased_lock_take(&shard->lock);
		shard->n_calls++;
		shard->n_pool++;
	} else {
		shard->pool = call->next;
	}
	if (shard->closed) {
		shard->n_calls--;
		shard->n_pool--;
		svc_biased_lock_leave(&shard->lock);
		call_free(call);
		return SVC_E_CLOSED;
	}
	if (!is_open(shard))
		svc_wheel_start(&shard->wheel, now_ms);
	shard->n_pool--;
	svc_async_own(call, BUSY);
	bool arm = put(shard, call, deadline_at_ms);
	svc_biased_lock_leave(&shard->lock);
	if (arm)
		svc_loop_post(shard->loop, &shard->arm);
	*ret_call = call;
	return SVC_OK;
}

svc_err
svc_async_make(struct svc_async *async, int64_t now_ms, int64_t deadline_at_ms,
    struct svc_async_call **ret_call)
{
	if (atomic_load_explicit(&async->closing, memory_order_relaxed))
		return SVC_E_CLOSED;
	struct svc_shard *shard = shard_get(async);
	if (shard == NULL)
		return atomic_load(&async->closing) ? SVC_E_CLOSED
						    : SVC_E_NOMEM;
	svc_biased_lock_take_hot(&shard->lock);
	struct svc_async_call *call = take_spare(shard);
	svc_biased_lock_leave_hot(&shard->lock);
	if (call == NULL)
		return list_call(shard, now_ms, deadline_at_ms, ret_call);
	bool far = deadline_at_ms - SVC_WHEEL_TURN_MS > now_ms;
	if (far)
		svc_wheel_put_off(&call->entry, deadline_at_ms);
	unsigned state =
	    atomic_load_explicit(&call->state, memory_order_relaxed);
	atomic_store_explicit(&call->state,
	    ((state & ~FLAGS) + GENERATION) | BUSY, memory_order_release);
	if (!far)
		svc_async_due(call, deadline_at_ms);
	*ret_call = call;
	return SVC_OK;
}

SVC_HOT void
svc_async_release(struct svc_async_call *call)
{
	struct svc_shard *shard = call->shard;
	if (call->scoped.scope != NULL) {
		svc_scope_leave(&call->scoped);
		/* Not later: it would make the next deadline one that has
		 * passed. */
		atomic_store_explicit(&call->left, false, memory_order_relaxed);
	}
	if (call->headers != NULL) {
		svc_headers_destroy(call->headers);
		call->headers = NULL;
	}
	if (call->at.n_tried > 0)
		svc_attempts_finish(&call->at);
	unsigned state =
	    atomic_load_explicit(&call->state, memory_order_relaxed);
	atomic_store_explicit(
	    &call->state, state | CLAIMED, memory_order_relaxed);
	/* Without a deadline it is where the wheel does not look. */
	bool timed = atomic_load_explicit(&call->entry.due_at_ms,
			 memory_order_relaxed) != INT64_MAX;
	svc_biased_lock_take_hot(&shard->lock);
	if (timed && call->cap <= SVC_ASYNC_KEPT_SPACE &&
	    shard->spare == NULL && !shard->closed) {
		shard->spare = call;
	} else {
		put_away(shard, call);
		if (shard->closed && !is_open(shard))
			pthread_cond_broadcast(&shard->idle);
	}
	svc_biased_lock_leave_hot(&shard->lock);
}

/* --------------------------------------------------------- start and end */

svc_err
svc_async_create(struct svc_client *client, struct svc_async **ret_async)
{
	struct svc_async *async = svc_mem_calloc(1, sizeof(*async));
	if (async == NULL)
		return SVC_E_NOMEM;
	async->client = client;
	async->last_waiter = &async->waiters;
	pthread_mutex_init(&async->lock, NULL);
	svc_cond_init(&async->changed);
	*ret_async = async;
	return SVC_OK;
}

static void
claim_rest(struct svc_wheel_entry *entry, void *arg)
{
	struct claimed *claimed = arg;
	struct svc_async_call *call = call_of_entry(entry);
	if (!svc_async_take(call, CLAIMED))
		return;
	call->next_step = STEP_CANCEL;
	call->next = claimed->calls;
	claimed->calls = call;
}

static void
shard_close(struct svc_shard *shard)
{
	struct claimed claimed = {.shard = shard};
	svc_biased_lock_take(&shard->lock);
	shard->closed = true;
	struct svc_async_call *spare = take_spare(shard);
	if (spare != NULL)
		put_away(shard, spare);
	while (is_open(shard)) {
		svc_wheel_each(&shard->wheel, claim_rest, &claimed);
		if (claimed.calls == NULL) {
			svc_biased_lock_wait(
			    &shard->lock, &shard->idle, INT64_MAX);
			continue;
		}
		svc_biased_lock_leave(&shard->lock);
		post_all(&claimed);
		svc_biased_lock_take(&shard->lock);
	}
	/* The timer is stopped by its loop. */
	bool post = !shard->arming && shard->armed_at_ms != INT64_MIN;
	if (post) {
		shard->arming = true;
		svc_biased_lock_leave(&shard->lock);
		svc_loop_post(shard->loop, &shard->arm);
		svc_biased_lock_take(&shard->lock);
	}
	while (shard->arming)
		svc_biased_lock_wait(&shard->lock, &shard->idle, INT64_MAX);
	svc_biased_lock_leave(&shard->lock);
}

void
svc_async_close(struct svc_async *async)
{
	pthread_mutex_lock(&async->lock);
	atomic_store(&async->closing, true);
	pthread_mutex_unlock(&async->lock);
	svc_selector_close(async->client->selector);
	for (size_t i = 0; i < SVC_ASYNC_SHARDS; i++) {
		struct svc_shard *shard = atomic_load(&async->shards[i]);
		if (shard != NULL)
			shard_close(shard);
	}
	pthread_mutex_lock(&async->lock);
	while (async->viewers != NULL)
		svc_cond_wait(&async->changed, &async->lock, INT64_MAX);
	pthread_mutex_unlock(&async->lock);
}

void
svc_async_destroy(struct svc_async *async)
{
	if (async == NULL)
		return;
	for (size_t i = 0; i < SVC_ASYNC_SHARDS; i++) {
		struct svc_shard *shard = atomic_load(&async->shards[i]);
		if (shard == NULL)
			continue;
		struct svc_async_call *spare = take_spare(shard);
		if (spare != NULL)
			call_free(spare);
		while (shard->pool != NULL) {
			struct svc_async_call *call = shard->pool;
			shard->pool = call->next;
			call_free(call);
		}
		pthread_cond_destroy(&shard->idle);
		svc_biased_lock_destroy(&shard->lock);
		svc_mem_free(shard);
	}
	pthread_cond_destroy(&async->changed);
	pthread_mutex_destroy(&async->lock);
	svc_mem_free(async);
}
