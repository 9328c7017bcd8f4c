/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CLOCK_H
#define SVC_CLOCK_H

#include <svc/error.h>

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Time, threads and timed waits: their only home. Everything in svc reads time
 * here and waits here, so a test can put a clock of its own in place and
 * advance it by hours in an instant.
 *
 * Durations are `x_ms`, monotonic points `x_at_ms`, wall-clock points
 * `x_unix_ms`. Threads: any.
 */
SVC_API int64_t svc_now_ms(void); /* monotonic */
SVC_API int64_t svc_now_us(void); /* monotonic */
/** As svc_now_ms at a fraction of its price, and behind it by up to a tick of
 * the system, some 4 ms. Under a manual clock it is svc_now_ms. */
SVC_API int64_t svc_now_coarse_ms(void);
SVC_API int64_t svc_now_unix_ms(void);

/** The point `timeout_ms` from now; INT64_MAX for SVC_FOREVER and for whatever
 * would overflow. 0 is now. */
SVC_API int64_t svc_deadline(int64_t timeout_ms);
/** Milliseconds until `deadline_at_ms`, at least 0; SVC_FOREVER for
 * INT64_MAX. */
SVC_API int64_t svc_remaining(int64_t deadline_at_ms);

/**
 * Replace the clock by one that stands still until svc_clock_advance moves it;
 * both clocks start at their present value. svc_clock_real puts the real one
 * back. Timed waits under a manual clock end only when it is advanced past
 * their deadline (or when they are signalled). For tests: call before the
 * threads that wait are started.
 */
SVC_API void svc_clock_manual(void);
SVC_API void svc_clock_advance(int64_t ms);
SVC_API void svc_clock_real(void);
/** Whether svc_clock_manual is in force: then a timed wait of the operating
 * system must not be used to wait for a point of svc's clock, and that no time
 * passes means nothing. */
SVC_API bool svc_clock_is_manual(void);

/**
 * Wait on a condition until it is signalled or `deadline_at_ms` passes, by the
 * clock above. Returns SVC_OK (signalled, or spuriously) or SVC_E_TIMEDOUT.
 * Initialise the condition with svc_cond_init: it must use CLOCK_MONOTONIC.
 */
SVC_API void svc_cond_init(pthread_cond_t *cond);
SVC_API svc_err svc_cond_wait(
    pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_at_ms);

/** A thread whose name (at most 15 bytes, "svc-etcd") shows in debuggers.
 * Signals are blocked in it, except those that report a fault. The first one
 * prepares svc_thread_fence_others, which costs nothing while the process has
 * one thread and milliseconds later on (sys_membarrier registers by an RCU
 * grace period, membarrier(2)). Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED */
SVC_API svc_err svc_thread_start(pthread_t *ret_thread, const char *name,
    void *(*run)(void *arg), void *arg);
/** Waits for its end. */
SVC_API void svc_thread_join(pthread_t thread);

/** A small number that the calling thread keeps, given out in the order in
 * which threads first ask: for counters that threads keep apart. */
SVC_API unsigned svc_thread_number(void);
/** How many processors the calling thread may use, at least 1. */
SVC_API int svc_thread_processors(void);

/**
 * The expensive half of a fence between threads of which one side is frequent
 * and the other rare: every thread of this process that runs passes a full
 * memory barrier before this returns. The frequent side then needs only
 * atomic_signal_fence(memory_order_seq_cst) in place of a full barrier. False
 * when the system cannot do it, from the first call on: then both sides need
 * full barriers.
 */
SVC_API bool svc_thread_fence_others(void);

/** A well-mixed random number from the kernel's generator; for ids, jitter and
 * choices, not for keys. Seeded per thread, so no lock. */
SVC_API uint64_t svc_random(void);
/** Evenly in 0 .. bound - 1; 0 for bound 0. */
SVC_API uint64_t svc_random_below(uint64_t bound);
/** Makes svc_random of the calling thread repeat from `seed`: for tests. */
SVC_API void svc_random_seed(uint64_t seed);
/** A random UUID (RFC 9562 version 4), 36 characters and NUL. */
SVC_API void svc_uuid(char ret_text[37]);

#ifdef __cplusplus
}
#endif
#endif
