/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why two threads are never in at once. The owner stores `inside` and then
 * loads `owner`; who takes the bias away clears `owner` and then loads
 * `inside`, with a barrier of all threads in between. So either the owner sees
 * that it is none any more, and goes by the mutex, or the other one sees it
 * inside and waits. The bias is given and taken only by who holds the mutex.
 */
#include <svc/biased_lock.h>
#include <svc/clock.h>

#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#define FIRST_PATIENCE 32u
#define MOST_PATIENCE (1u << 20)
#define WORTH_IT 4096u /* uses pay for a barrier ten times */
#define YIELDS 64
#define NAP_NS 50000L

/* Its address is the thread's number; cheaper than pthread_self. */
static SVC_THREAD_LOCAL char mark;

static inline uintptr_t
self(void)
{
	return (uintptr_t)&mark;
}

void
svc_biased_lock_init(struct svc_biased_lock *lock)
{
	*lock = (struct svc_biased_lock){.patience = FIRST_PATIENCE};
	pthread_mutex_init(&lock->mutex, NULL);
}

void
svc_biased_lock_destroy(struct svc_biased_lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

static void
pause_before(int look)
{
	const struct timespec nap = {.tv_nsec = NAP_NS};
	if (look < YIELDS)
		sched_yield();
	else
		nanosleep(&nap, NULL);
}

/* With the mutex: until the next take by the mutex nobody else is in. */
static void
take_bias_away(struct svc_biased_lock *lock)
{
	uintptr_t owner = __atomic_load_n(&lock->owner, __ATOMIC_RELAXED);
	if (owner == 0)
		return;
	__atomic_store_n(&lock->owner, 0, __ATOMIC_RELAXED);
	/* The owner itself, who wants to wait, is not inside. */
	if (owner == self())
		return;
	svc_thread_fence_others();
	for (int i = 0; __atomic_load_n(&lock->inside, __ATOMIC_ACQUIRE); i++)
		pause_before(i);
	if (lock->uses >= WORTH_IT)
		lock->patience = FIRST_PATIENCE;
	else if (lock->patience < MOST_PATIENCE)
		lock->patience *= 2;
	lock->uses = 0;
}

/* By the mutex. */
static SVC_APART void
take_slowly(struct svc_biased_lock *lock)
{
	pthread_mutex_lock(&lock->mutex);
	take_bias_away(lock);
	lock->in_a_row = lock->last == self() ? lock->in_a_row + 1 : 0;
	lock->last = self();
}

SVC_HOT void
svc_biased_lock_take(struct svc_biased_lock *lock)
{
	if (__atomic_load_n(&lock->owner, __ATOMIC_RELAXED) == self()) {
		__atomic_store_n(&lock->inside, true, __ATOMIC_RELAXED);
		atomic_signal_fence(memory_order_seq_cst);
		if (__atomic_load_n(&lock->owner, __ATOMIC_RELAXED) == self()) {
			lock->by_bias = true;
			lock->uses++;
			return;
		}
		__atomic_store_n(&lock->inside, false, __ATOMIC_RELEASE);
	}
	take_slowly(lock);
}

SVC_HOT void
svc_biased_lock_leave(struct svc_biased_lock *lock)
{
	if (lock->by_bias) {
		lock->by_bias = false;
		__atomic_store_n(&lock->inside, false, __ATOMIC_RELEASE);
		return;
	}
	if (lock->in_a_row >= lock->patience) {
		lock->in_a_row = 0;
		if (svc_thread_fence_others())
			__atomic_store_n(
			    &lock->owner, self(), __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&lock->mutex);
}

svc_err
svc_biased_lock_wait(
    struct svc_biased_lock *lock, pthread_cond_t *cond, int64_t deadline_at_ms)
{
	if (lock->by_bias) {
		/* What it waits for may happen in between: look again. */
		svc_biased_lock_leave(lock);
		take_slowly(lock);
		return SVC_OK;
	}
	svc_err rc = svc_cond_wait(cond, &lock->mutex, deadline_at_ms);
	take_bias_away(lock);
	lock->last = 0;
	return rc;
}
