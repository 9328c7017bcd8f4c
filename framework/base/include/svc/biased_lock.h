/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_BIASED_LOCK_H
#define SVC_BIASED_LOCK_H

#include <svc/error.h>

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * A mutex for what mostly one thread uses.
 *
 * When one thread has taken it often enough in a row the lock is biased to it:
 * from then on that thread takes it by a plain store, and the first other
 * thread that wants it takes the bias away, by making all threads pass a
 * barrier, which costs it some microseconds. When the bias was not worth that
 * the lock becomes slower to trust a thread, so one that is shared is soon a
 * plain mutex (biased locking: Russell and Detlefs, "Eliminating
 * synchronization-related atomic operations with biased locking and bulk
 * rebiasing", OOPSLA 2006).
 * Where the system has no such barrier (see svc_thread_fence_others) it always
 * is a plain mutex.
 *
 * All fields are private. Threads: any. It is not recursive. Who waits for it
 * while its owner is inside spins, then naps: hold it briefly. A thread that
 * holds one by its bias takes another one by its mutex.
 */
struct svc_biased_thread {
	struct svc_biased_lock *inside; /* atomic: by the bias; or NULL */
	struct svc_biased_thread *next;
};
struct svc_biased_lock {
	pthread_mutex_t mutex;
	/* atomic: the thread that it is biased to, or NULL */
	struct svc_biased_thread *owner;
	bool by_bias;      /* of whoever holds it: he has not the mutex */
	uint32_t uses;     /* of the bias, by its owner */
	uint32_t in_a_row; /* under the mutex: taken so by `last` */
	uint32_t patience; /* how often that must be */
	struct svc_biased_thread *last;
};

/** Free, and biased to nobody. */
SVC_API void svc_biased_lock_init(struct svc_biased_lock *lock);
/** Nobody holds it. */
SVC_API void svc_biased_lock_destroy(struct svc_biased_lock *lock);
SVC_API void svc_biased_lock_take(struct svc_biased_lock *lock);
SVC_API void svc_biased_lock_leave(struct svc_biased_lock *lock);
/** As svc_cond_wait, by whoever holds it; SVC_OK may be spurious. */
SVC_API svc_err svc_biased_lock_wait(
    struct svc_biased_lock *lock, pthread_cond_t *cond, int64_t deadline_at_ms);

/* By the mutex; internal. */
void svc_biased_lock_take_slowly(struct svc_biased_lock *lock);
void svc_biased_lock_leave_slowly(struct svc_biased_lock *lock);

#ifdef __cplusplus
}
#else
/* The calling thread; NULL before its first lock. */
extern SVC_THREAD_LOCAL struct svc_biased_thread *svc_biased_self;

/** The same for what each call runs through: without the call of a function
 * while the lock is biased to the thread. Internal to libsvc. */
static inline void
svc_biased_lock_take_hot(struct svc_biased_lock *lock)
{
	struct svc_biased_thread *thread = svc_biased_self;
	if (thread != NULL &&
	    __atomic_load_n(&lock->owner, __ATOMIC_RELAXED) == thread &&
	    __atomic_load_n(&thread->inside, __ATOMIC_RELAXED) == NULL) {
		__atomic_store_n(&thread->inside, lock, __ATOMIC_RELAXED);
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&lock->owner, __ATOMIC_RELAXED) == thread) {
			lock->by_bias = true;
			lock->uses++;
			return;
		}
		__atomic_store_n(&thread->inside, NULL, __ATOMIC_RELEASE);
	}
	svc_biased_lock_take_slowly(lock);
}

static inline void
svc_biased_lock_leave_hot(struct svc_biased_lock *lock)
{
	if (!lock->by_bias) {
		svc_biased_lock_leave_slowly(lock);
		return;
	}
	lock->by_bias = false;
	__atomic_store_n(&svc_biased_self->inside, NULL, __ATOMIC_RELEASE);
}
#endif

#endif
