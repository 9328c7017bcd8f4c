/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_EXECUTOR_H
#define SVC_EXECUTOR_H

#include <svc/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Event loops whose work may block.
 *
 * A loop watches descriptors, runs tasks and timers. All of its state lives in
 * the loop and none on the stack of the thread that runs it. A callback that
 * is about to run foreign code (a handler) marks it by svc_loop_enter and
 * svc_loop_leave; when that code does not return soon, or says
 * svc_will_block, a spare thread takes the loop over and goes on with it, and
 * the slow code finishes on its old thread, which then no longer owns the
 * loop. So short handlers pay nothing for slow ones and no call is handed from
 * thread to thread.
 *
 * The rule for code between enter and leave: whatever it needs afterwards must
 * be its own; when leave returns false, return at once up to the loop and
 * touch nothing of the source. The new owner calls `ready` of the same source
 * with SVC_IO_RESUME, so that it can continue where its own state says.
 */
struct svc_executor;
struct svc_loop;

struct svc_executor_config {
	int loops;       /* 0: one a core that this process may use */
	int max_threads; /* 0: 256; beyond it nothing is taken over */
	/* How long a loop looks for input before it sleeps (svc/busy_poll.h);
	 * 0: SVC_BUSY_POLL_US, below 0: not at all. */
	int busy_poll_us;
};
/** About what a sleep and a wake-up cost on a virtual machine. */
#define SVC_BUSY_POLL_US 20

/**
 * `config` may be NULL. Threads are started on first use, and one that had
 * nothing to do for 10 seconds ends. Their stacks have the size that the
 * system gives to threads (with glibc `ulimit -s`, mostly 8 MiB); only what a
 * handler has touched of it takes memory.
 *
 * When max_threads are busy, a handler that blocks keeps its loop until it
 * returns or another thread becomes free, so what blocks must have a deadline.
 * Each loop has a thread kept for it.
 * Errors: SVC_E_INVAL, SVC_E_NOMEM, SVC_E_EXHAUSTED */
SVC_API svc_err svc_executor_create(const struct svc_executor_config *config,
    struct svc_executor **ret_executor, struct svc_error *err);
/** Stops the loops, waits for jobs and handlers that still run, and frees.
 * Sources must have been detached. NULL is fine; not from a svc thread. */
SVC_API void svc_executor_destroy(struct svc_executor *executor);
/** The next loop in turn. Threads: any. */
SVC_API struct svc_loop *svc_executor_loop(struct svc_executor *executor);
/** Runs `job` once on a thread where it may block.
 * Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED (max_threads are busy), SVC_E_CLOSED */
SVC_API svc_err svc_executor_run(
    struct svc_executor *executor, void (*job)(void *arg), void *arg);

/** As created: never 0. */
SVC_API int svc_executor_loops(const struct svc_executor *executor);
SVC_API int svc_executor_max_threads(const struct svc_executor *executor);
/** For others who wait for what a loop would bring them; 0: not at all. */
SVC_API int svc_executor_busy_poll_us(const struct svc_executor *executor);
/** How many threads run a job, or foreign code that lost its loop. Those in
 * foreign code on a loop, at most one a loop, are not among them. Cheap: it is
 * written only when such work begins or ends. Threads: any. */
SVC_API int svc_executor_off_loop(const struct svc_executor *executor);

struct svc_executor_counts {
	int threads;        /* that exist, without the monitor */
	int idle;           /* of those */
	uint64_t takeovers; /* since it was created */
	uint64_t looks;     /* of the monitor; none while all loops sleep */
	bool parked;        /* the monitor sleeps until a loop wakes up */
};
/** For metrics and tests. Threads: any. */
SVC_API void svc_executor_count(
    struct svc_executor *executor, struct svc_executor_counts *ret_counts);

/* Descriptors */

#define SVC_IO_READ 1u
#define SVC_IO_WRITE 2u
#define SVC_IO_HANGUP 4u  /* the peer has closed; reported though not asked */
#define SVC_IO_ONESHOT 8u /* interest only: disarmed once it has fired */
#define SVC_IO_RESUME 16u /* event only: continue after a take-over */
#define SVC_IO_KICK 32u   /* event only: svc_source_kick was called */

struct svc_task {
	struct svc_task *next; /* private */
	void (*run)(struct svc_task *task);
};

struct svc_source {
	int fd; /* -1: none, it is only kicked */
	void (*ready)(struct svc_source *source, unsigned events);
	struct svc_loop *loop; /* set by attach */
	struct svc_task kick;  /* private, as what follows */
	struct svc_loop *kick_loop;
	int kicked;
};

/** Watch `source->fd` for `interest` (level-triggered). The source is borrowed
 * until detached. Threads: any. Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED */
SVC_API svc_err svc_source_attach(struct svc_loop *loop,
    struct svc_source *source, unsigned interest, struct svc_error *err);
/** Change what it is watched for; with SVC_IO_ONESHOT, also re-arm it.
 * Threads: any, several at once too (the last one counts), while it is
 * attached. */
SVC_API void svc_source_interest(struct svc_source *source, unsigned interest);
/** Stop watching. `ready` is not called again after this returns,
 * except for a kick.
 * Threads: only the one that runs the loop, outside enter/leave. */
SVC_API void svc_source_detach(struct svc_source *source);

/**
 * Make the loop call `ready` with SVC_IO_KICK, once for any number of kicks
 * until then. True when this call posted it: that one call of `ready` comes in
 * any case, even after a detach, and the source must live until then.
 * Threads: any, after attach.
 */
SVC_API bool svc_source_kick(struct svc_source *source);
/** The same from within `ready`, for a source that has had its share and wants
 * to go on: the call comes after the loop has looked at the other descriptors
 * and served those that were ready.
 * Threads: only the one that runs the loop. */
SVC_API bool svc_source_yield(struct svc_source *source);

/* Tasks and timers */

/** Run a task on the loop, after those posted before. It must not block and
 * may free itself. It must not be posted again before it ran.
 * Threads: any; wakes the loop only when it sleeps. */
SVC_API void svc_loop_post(struct svc_loop *loop, struct svc_task *task);

/** Run a task when the loop has served the tasks and descriptors at hand, or 16
 * tasks are deferred, or after the one during which 0.1 ms have passed; and
 * before all else when the loop is taken over. It is for what costs less when
 * it is done for several at once, as writes that wake the same peer. It must
 * not block, enter foreign code or defer another one, and may free itself. It
 * must not be deferred again before it ran.
 * Threads: only the one that runs the loop, outside enter/leave. */
SVC_API void svc_loop_defer(struct svc_loop *loop, struct svc_task *task);

struct svc_timer {
	void (*fire)(struct svc_timer *timer);
	int64_t at_ms;
	size_t index; /* private: 0 when not running */
};
/** Fire once at the monotonic `at_ms`; a running timer is moved. `fire` must
 * not block. Threads: only the one that runs the loop (post a task to get
 * there). Errors: SVC_E_NOMEM */
SVC_API svc_err svc_timer_start(
    struct svc_loop *loop, struct svc_timer *timer, int64_t at_ms);
SVC_API void svc_timer_stop(struct svc_loop *loop, struct svc_timer *timer);

/** When the loop that the calling thread runs last had a look at its
 * descriptors: monotonic milliseconds, for what came then. On other threads,
 * and with a manual clock, the time now. */
SVC_API int64_t svc_loop_time_ms(void);

/* Foreign code on a loop */

/** The loop that the calling thread runs and owns, or NULL. */
SVC_API struct svc_loop *svc_loop_current(void);
/** Whether the calling thread still owns the loop that it runs, in foreign code
 * too. What was done for the loop before this returned true is seen by whoever
 * takes it over later. */
SVC_API bool svc_loop_kept(void);
/** Before foreign code. Only on the thread that owns the loop. Does not nest.
 */
SVC_API void svc_loop_enter(struct svc_loop *loop);
/** After it: true when the thread still owns the loop. */
SVC_API bool svc_loop_leave(struct svc_loop *loop);

/** Whether the calling thread is in foreign code on a loop and still owns that
 * loop: false also when it never did. */
SVC_API bool svc_loop_held(void);

/**
 * Say that the calling handler is about to block: its loop is given to another
 * thread now instead of after the monitor noticed. Cheap, and without effect
 * outside a handler or when said twice. svc's own blocking calls say it by
 * themselves.
 */
SVC_API void svc_will_block(void);

#ifdef __cplusplus
}
#endif
#endif
