/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads of the executor: who runs which loop, spare threads for take-overs
 * and jobs, and the monitor that notices handlers that do not return.
 *
 * Locks: executor->mutex guards the work queue and the threads. Nothing is
 * called under it. loop.c has the loops themselves, which need no lock: the
 * right to run one is its ownership token.
 */
#include "loop_private.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_LOOPS 64
#define DEFAULT_THREADS 256

/* The monitor looks every TICK; after a take-over, when more are likely, every
 * FAST_TICK for a while. After QUIET ticks without work it parks. */
#define TICK_NS 1000000
#define FAST_TICK_NS 50000
#define FAST_TICKS 400
#define QUIET_TICKS 100

struct work {
	struct work *next;
	struct svc_loop *loop; /* run this loop, or */
	void (*job)(void *arg);
	void *arg;
};

struct svc_executor {
	pthread_mutex_t mutex;
	pthread_cond_t wake; /* spare threads wait here */
	struct work *first, **last;
	int queued;
	int spare;    /* threads waiting for work */
	int reserved; /* spare or new threads promised to take-overs */
	int n_threads;
	int max_threads;
	pthread_t *threads;
	bool stopping;

	struct svc_loop *loops[MAX_LOOPS];
	_Atomic int started[MAX_LOOPS];
	int n_loops;
	_Atomic unsigned next_loop;

	pthread_t monitor;
	bool has_monitor;
	_Atomic uint32_t parked;    /* futex */
	_Atomic uint32_t takeovers; /* tells the monitor to look faster */
	_Atomic bool monitor_stop;
};

static void *spare_thread(void *arg);
static void *monitor_thread(void *arg);

/* Called with the mutex held. */
static svc_err
add_thread(struct svc_executor *executor)
{
	if (executor->n_threads == executor->max_threads)
		return SVC_E_EXHAUSTED;
	svc_err rc = svc_thread_start(&executor->threads[executor->n_threads],
	    "svc-run", spare_thread, executor);
	if (rc == SVC_OK)
		executor->n_threads++;
	return rc;
}

static void
push_work(struct svc_executor *executor, struct work *work)
{
	work->next = NULL;
	*executor->last = work;
	executor->last = &work->next;
	executor->queued++;
	pthread_cond_signal(&executor->wake);
}

/* Makes sure that a thread will take one more piece of work soon. Called with
 * the mutex held. */
static bool
reserve_thread(struct svc_executor *executor)
{
	if (executor->stopping)
		return false;
	if (executor->spare <= executor->queued + executor->reserved &&
	    add_thread(executor) != SVC_OK)
		return false;
	executor->reserved++;
	return true;
}

static svc_err
queue_work(struct svc_executor *executor, struct svc_loop *loop,
    void (*job)(void *arg), void *arg)
{
	struct work *work = svc_mem_calloc(1, sizeof(*work));
	if (work == NULL)
		return SVC_E_NOMEM;
	work->loop = loop;
	work->job = job;
	work->arg = arg;
	pthread_mutex_lock(&executor->mutex);
	svc_err rc = executor->stopping         ? SVC_E_CLOSED
		     : reserve_thread(executor) ? SVC_OK
						: SVC_E_EXHAUSTED;
	if (rc == SVC_OK) {
		executor->reserved--;
		push_work(executor, work);
	}
	pthread_mutex_unlock(&executor->mutex);
	if (rc != SVC_OK)
		svc_mem_free(work);
	return rc;
}

static void *
spare_thread(void *arg)
{
	struct svc_executor *executor = arg;
	pthread_mutex_lock(&executor->mutex);
	for (;;) {
		executor->spare++;
		while (executor->first == NULL && !executor->stopping)
			pthread_cond_wait(&executor->wake, &executor->mutex);
		executor->spare--;
		struct work *work = executor->first;
		if (work == NULL)
			break;
		executor->first = work->next;
		if (executor->first == NULL)
			executor->last = &executor->first;
		executor->queued--;
		pthread_mutex_unlock(&executor->mutex);
		if (work->loop != NULL)
			svc_loop_run(work->loop);
		else
			work->job(work->arg);
		svc_mem_free(work);
		pthread_mutex_lock(&executor->mutex);
	}
	pthread_mutex_unlock(&executor->mutex);
	return NULL;
}

svc_err
svc_executor_create(const struct svc_executor_config *config,
    struct svc_executor **ret_executor, struct svc_error *err)
{
	int loops = config != NULL ? config->loops : 0;
	int threads = config != NULL ? config->max_threads : 0;
	if (loops == 0) {
		cpu_set_t set;
		loops = sched_getaffinity(0, sizeof(set), &set) == 0
			    ? CPU_COUNT(&set)
			    : 1;
		if (loops > MAX_LOOPS)
			loops = MAX_LOOPS;
	}
	if (threads == 0)
		threads = DEFAULT_THREADS;
	if (loops < 1 || loops > MAX_LOOPS)
		return svc_error_set(err, SVC_E_INVAL,
		    "executor: %d loops, must be 1 to %d", loops, MAX_LOOPS);
	if (threads <= loops)
		return svc_error_set(err, SVC_E_INVAL,
		    "executor: %d threads, must be more than the %d loops",
		    threads, loops);

	struct svc_executor *executor = svc_mem_calloc(1, sizeof(*executor));
	if (executor == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	pthread_mutex_init(&executor->mutex, NULL);
	svc_cond_init(&executor->wake);
	executor->last = &executor->first;
	executor->max_threads = threads;
	svc_err rc = SVC_OK;
	executor->threads =
	    svc_mem_calloc((size_t)threads, sizeof(*executor->threads));
	if (executor->threads == NULL)
		rc = svc_error_set(err, SVC_E_NOMEM, "out of memory");
	while (rc == SVC_OK && executor->n_loops < loops) {
		rc = svc_loop_create(
		    executor, &executor->loops[executor->n_loops], err);
		if (rc == SVC_OK)
			executor->n_loops++;
	}
	if (rc == SVC_OK) {
		rc = svc_thread_start(&executor->monitor, "svc-monitor",
		    monitor_thread, executor);
		executor->has_monitor = rc == SVC_OK;
		if (rc != SVC_OK)
			svc_error_set(err, rc, "cannot start a thread");
	}
	if (rc != SVC_OK) {
		svc_executor_destroy(executor);
		return rc;
	}
	*ret_executor = executor;
	return SVC_OK;
}

static void
futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void
unpark(struct svc_executor *executor)
{
	if (atomic_exchange(&executor->parked, 0) != 0)
		futex_wake(&executor->parked);
}

void
svc_executor_destroy(struct svc_executor *executor)
{
	if (executor == NULL)
		return;
	pthread_mutex_lock(&executor->mutex);
	executor->stopping = true;
	pthread_cond_broadcast(&executor->wake);
	int n = executor->n_threads;
	pthread_mutex_unlock(&executor->mutex);
	for (int i = 0; i < executor->n_loops; i++)
		svc_loop_stop(executor->loops[i]);
	/* No thread is added any more, and the last to run a loop ends it. */
	for (int i = 0; i < n; i++)
		svc_thread_join(executor->threads[i]);
	if (executor->has_monitor) {
		atomic_store(&executor->monitor_stop, true);
		unpark(executor);
		svc_thread_join(executor->monitor);
	}
	for (int i = 0; i < executor->n_loops; i++)
		svc_loop_destroy(executor->loops[i]);
	pthread_cond_destroy(&executor->wake);
	pthread_mutex_destroy(&executor->mutex);
	svc_mem_free(executor->threads);
	svc_mem_free(executor);
}

struct svc_loop *
svc_executor_loop(struct svc_executor *executor)
{
	unsigned turn = atomic_fetch_add(&executor->next_loop, 1);
	int i = (int)(turn % (unsigned)executor->n_loops);
	if (atomic_load(&executor->started[i]) == 0 &&
	    atomic_exchange(&executor->started[i], 1) == 0 &&
	    queue_work(executor, executor->loops[i], NULL, NULL) != SVC_OK) {
		/* No thread for it: the first loop has one, or will get it at
		 * the next try. */
		atomic_store(&executor->started[i], 0);
		i = 0;
	}
	return executor->loops[i];
}

svc_err
svc_executor_run(
    struct svc_executor *executor, void (*job)(void *arg), void *arg)
{
	return queue_work(executor, NULL, job, arg);
}

bool
svc_executor_take_over(
    struct svc_executor *executor, struct svc_loop *loop, uint64_t token)
{
	struct work *work = svc_mem_calloc(1, sizeof(*work));
	if (work == NULL)
		return false;
	work->loop = loop;
	pthread_mutex_lock(&executor->mutex);
	bool taken = reserve_thread(executor);
	if (taken) {
		executor->reserved--;
		taken = svc_loop_disown(loop, token);
		if (taken)
			push_work(executor, work);
	}
	pthread_mutex_unlock(&executor->mutex);
	if (!taken) {
		svc_mem_free(work);
		return false;
	}
	atomic_fetch_add(&executor->takeovers, 1);
	return true;
}

void
svc_executor_busy(struct svc_executor *executor)
{
	/* The loop's exchange of `sleeping` is before this load, as the
	 * monitor's exchange of `parked` is before its look at the loops. */
	if (atomic_load(&executor->parked) != 0)
		unpark(executor);
}

static bool
all_asleep(struct svc_executor *executor)
{
	for (int i = 0; i < executor->n_loops; i++)
		if (!svc_loop_asleep(executor->loops[i]))
			return false;
	return true;
}

/* A handler that has the same token at two looks is stuck. The tokens need no
 * time stamps: a call that began in between has another one. */
static void *
monitor_thread(void *arg)
{
	struct svc_executor *executor = arg;
	uint64_t seen[MAX_LOOPS] = {0};
	uint32_t known = 0;
	int fast = 0, quiet = 0;

	while (!atomic_load(&executor->monitor_stop)) {
		bool active = false;
		for (int i = 0; i < executor->n_loops; i++) {
			struct svc_loop *loop = executor->loops[i];
			uint64_t token = svc_loop_token(loop);
			if (token != seen[i])
				active = true;
			else if (token & 1)
				svc_executor_take_over(executor, loop, token);
			seen[i] = token;
			active = active || !svc_loop_asleep(loop);
		}
		uint32_t takeovers = atomic_load(&executor->takeovers);
		if (takeovers != known)
			fast = FAST_TICKS;
		known = takeovers;
		quiet = active ? 0 : quiet + 1;
		if (quiet > QUIET_TICKS) {
			atomic_exchange(&executor->parked, 1);
			if (all_asleep(executor) &&
			    !atomic_load(&executor->monitor_stop))
				syscall(SYS_futex, &executor->parked,
				    FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
			atomic_store(&executor->parked, 0);
			quiet = 0;
			continue;
		}
		struct timespec tick = {0, fast > 0 ? FAST_TICK_NS : TICK_NS};
		if (fast > 0)
			fast--;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
	}
	return NULL;
}
