/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ASYNC_H
#define SVC_ASYNC_H

/*
 * Between async.c, which makes calls that nobody waits for, and async_shard.c,
 * which has their memory and their time.
 *
 * Who owns a call says its `state`. BUSY: the thread that sends it, which may
 * not know its stream yet. CLAIMED: the thread that ends a try or the call:
 * the stream's callback, or a task after the deadline or on closing. Neither:
 * it rests, with a stream (sent), among the waiters for a view, or in a pause
 * between tries. A claim while it is BUSY is possible only for the callback of
 * the stream just opened; what is to be done then when both are through is
 * left to the sender in `after`, with HANDED. So nothing waits for a lock, and
 * a call is used by one thread at a time.
 *
 * Each thread uses a shard, which has the deadlines of its calls, and calls to
 * use again. shard->lock guards these, async->lock the shards' making and the
 * waiters for a view. Lock order: async->lock, shard->lock. Nothing foreign is
 * called under them.
 *
 * The next call is mostly made when the last one ends, and mostly its deadline
 * is far away. So one call of a shard is kept in `spare`, and it stays listed
 * with its old deadline: the wheel looks at it in time to find the new one. The
 * generation in its state keeps the wheel from taking the one for the other.
 */

#include "attempt.h"
#include "wheel.h"

#include <svc/biased_lock.h>

#define SVC_ASYNC_SHARDS 16
#define SVC_ASYNC_KEPT_SPACE 2048u /* of each, for texts and request */

#define BUSY 1u
#define CLAIMED 2u
#define HANDED 4u
#define FLAGS (BUSY | CLAIMED | HANDED)
#define GENERATION 8u /* what is above the flags counts these */

enum step {
	STEP_NOTHING,
	STEP_RELEASE, /* give the call back */
	STEP_RETRY,   /* the next try, perhaps after a pause */
	STEP_FAIL,    /* tell that it failed, by a task */
	STEP_DUE,     /* its deadline or the end of its pause has come */
	STEP_CANCEL,  /* the client is closing */
};

struct svc_async_call {
	struct svc_wheel_entry entry; /* first */
	struct svc_shard *shard;
	_Atomic unsigned state;
	enum step after;     /* the sender's, when handed */
	enum step next_step; /* the task's */
	bool pausing;
	_Atomic bool left; /* by the caller of the call that it is within */
	struct svc_scoped scoped;
	struct svc_task task;
	int64_t until_ms; /* of the pause */
	svc_done_cb done;
	void *arg;
	struct svc_stream_handle *stream; /* NULL unless sent */
	struct svc_async_call *next_waiter,
	    **waiter_link;           /* for a view, or NULL */
	struct svc_async_call *next; /* of a list at hand */
	struct svc_headers *headers; /* of the request */
	/* The packed request (see svc_part_pack), then other texts. Its head is
	 * kept for the next call, which mostly has the same: so many bytes (0:
	 * there is none), and where its texts are. */
	char *space;
	size_t cap;
	uint32_t head_len, endpoint_at, type_at;
	const char *type; /* the client's default, if the head has that */
	/* The call before had a plain plan and no headers, so `at` can serve
	 * another one to the same endpoint; see svc_attempts_begin_again. */
	bool plain;
	/* These two are empty when the call begins: whoever tells its end
	 * leaves them so. */
	struct svc_reply reply;
	struct svc_error err;
	struct svc_attempts at;
};

struct svc_shard {
	struct svc_async *async;
	struct svc_loop *loop;
	struct svc_biased_lock lock;
	pthread_cond_t idle; /* no call is open, or the timer has stopped */
	struct svc_wheel wheel;
	struct svc_async_call
	    *spare; /* has ended and is listed still, or NULL */
	struct svc_async_call *pool; /* these are not listed */
	size_t n_pool, n_calls;      /* all that exist */
	struct svc_task arm;         /* sets the timer */
	struct svc_timer timer;
	int64_t armed_at_ms;
	bool arming; /* the task is posted */
	bool closed;
};

/* A job that waits for the view of a service for all who need it. */
struct viewer {
	struct svc_async *async;
	struct viewer *next;
	char service[];
};

struct svc_async {
	struct svc_client *client;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* there is no viewer */
	_Atomic(struct svc_shard *) shards[SVC_ASYNC_SHARDS];
	struct svc_async_call *waiters, **last_waiter;
	struct viewer *viewers;
	_Atomic bool closing;
};

/* As the owner: the flags of the state become this. */
static inline void
svc_async_own(struct svc_async_call *call, unsigned flags)
{
	unsigned state =
	    atomic_load_explicit(&call->state, memory_order_relaxed);
	atomic_store(&call->state, (state & ~FLAGS) | flags);
}
/* Takes a call over that rests. */
static inline bool
svc_async_take(struct svc_async_call *call, unsigned flag)
{
	unsigned state = atomic_load(&call->state);
	return (state & FLAGS) == 0 && atomic_compare_exchange_strong(
					   &call->state, &state, state | flag);
}

/* When a call with this deadline is told that it has passed. Its time is that
 * of the coarse clock, and no call ends early. */
static inline int64_t
svc_async_end_ms(int64_t deadline_at_ms)
{
	return deadline_at_ms == INT64_MAX || svc_clock_is_manual()
		   ? deadline_at_ms
		   : deadline_at_ms + SVC_WHEEL_TICK_MS;
}

/* A call that is BUSY and listed with its deadline; `now_ms` is now.
 * Errors: SVC_E_CLOSED, SVC_E_NOMEM */
svc_err svc_async_make(struct svc_async *async, int64_t now_ms,
    int64_t deadline_at_ms, struct svc_async_call **ret_call);
/* The last step of a call, by whoever owns it. */
void svc_async_release(struct svc_async_call *call);
/* By the owner of a call that pauses or that goes on: when the task is to be
 * run for it. */
void svc_async_due(struct svc_async_call *call, int64_t due_at_ms);
/* As the sender: leave the call alone; it may be gone when this returns, with
 * the state as it was. */
unsigned svc_async_rest(struct svc_async_call *call);
/* The task of each call; call->next_step says what. */
void svc_async_run_task(struct svc_task *task);

#endif
