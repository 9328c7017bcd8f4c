/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why two threads are never in at once. The owner says in a place of its own
 * that it goes inside, and then loads `owner`; who takes the bias away clears
 * `owner` and then looks at that place, with a barrier of all threads in
 * between. So either the owner sees that it is none any more, and goes by the
 * mutex, or the other one sees it inside and waits. The bias is given and taken
 * only by who holds the mutex. Nobody else writes to that place, so one that
 * was the owner long ago, and notices only now, is in nobody's way.
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

/* Threads are never freed, since a lock may be biased to one that has ended;
 * the next thread becomes it. */
SVC_THREAD_LOCAL struct svc_biased_thread *svc_biased_self;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;
/* This guards the list of those that no thread is. */
static pthread_mutex_t unused_lock = PTHREAD_MUTEX_INITIALIZER;
static struct svc_biased_thread *unused;

static void
forget(void *arg)
{
	struct svc_biased_thread *thread = arg;
	svc_biased_self = NULL;
	pthread_mutex_lock(&unused_lock);
	thread->next = unused;
	unused = thread;
	pthread_mutex_unlock(&unused_lock);
}

static void
make_key(void)
{
	have_key = pthread_key_create(&key, forget) == 0;
}

/* The calling thread; NULL when memory ran out: then it owns nothing. */
static struct svc_biased_thread *
join(void)
{
	pthread_once(&once, make_key);
	if (svc_biased_self != NULL || !have_key)
		return svc_biased_self;
	pthread_mutex_lock(&unused_lock);
	struct svc_biased_thread *thread = unused;
	if (thread != NULL)
		unused = thread->next;
	pthread_mutex_unlock(&unused_lock);
	if (thread == NULL)
		thread = svc_mem_calloc(1, sizeof(*thread));
	if (thread != NULL && pthread_setspecific(key, thread) != 0) {
		forget(thread);
		thread = NULL;
	}
	svc_biased_self = thread;
	return thread;
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
	struct svc_biased_thread *owner =
	    __atomic_load_n(&lock->owner, __ATOMIC_RELAXED);
	if (owner == NULL)
		return;
	__atomic_store_n(&lock->owner, NULL, __ATOMIC_RELAXED);
	/* The owner itself, who wants to wait, is not inside. */
	if (owner == svc_biased_self)
		return;
	svc_thread_fence_others();
	for (int i = 0;
	     __atomic_load_n(&owner->inside, __ATOMIC_ACQUIRE) == lock; i++)
		pause_before(i);
	if (lock->uses >= WORTH_IT)
		lock->patience = FIRST_PATIENCE;
	else if (lock->patience < MOST_PATIENCE)
		lock->patience *= 2;
	lock->uses = 0;
}

SVC_APART void
svc_biased_lock_take_slowly(struct svc_biased_lock *lock)
{
	struct svc_biased_thread *thread = join();
	pthread_mutex_lock(&lock->mutex);
	take_bias_away(lock);
	lock->in_a_row =
	    thread != NULL && lock->last == thread ? lock->in_a_row + 1 : 0;
	lock->last = thread;
}

SVC_APART void
svc_biased_lock_leave_slowly(struct svc_biased_lock *lock)
{
	if (lock->in_a_row >= lock->patience) {
		lock->in_a_row = 0;
		if (svc_thread_fence_others())
			__atomic_store_n(
			    &lock->owner, svc_biased_self, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&lock->mutex);
}

SVC_HOT void
svc_biased_lock_take(struct svc_biased_lock *lock)
{
	svc_biased_lock_take_hot(lock);
}

SVC_HOT void
svc_biased_lock_leave(struct svc_biased_lock *lock)
{
	svc_biased_lock_leave_hot(lock);
}

svc_err
svc_biased_lock_wait(
    struct svc_biased_lock *lock, pthread_cond_t *cond, int64_t deadline_at_ms)
{
	if (lock->by_bias) {
		/* What it waits for may happen in between: look again. */
		svc_biased_lock_leave(lock);
		svc_biased_lock_take_slowly(lock);
		return SVC_OK;
	}
	svc_err rc = svc_cond_wait(cond, &lock->mutex, deadline_at_ms);
	take_bias_away(lock);
	lock->last = NULL;
	return rc;
}
