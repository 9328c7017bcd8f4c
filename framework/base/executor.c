/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads of the executor: who runs which loop, spare threads for take-overs
 * and jobs, and the monitor that notices handlers that do not return.
 *
 * Locks: executor->mutex guards the threads and what they are given to do.
 * Nothing is called under it. loop.c has the loops themselves, which need no
 * lock: the right to run one is its ownership token.
 */
#include "loop_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_LOOPS 64
#define DEFAULT_THREADS 256

/* The monitor looks every TICK; after it took a loop over, when more such work
 * is likely, every FAST_TICK for a while. Shorter ones find a handler little
 * sooner and cost more: each takes a processor from a loop. Handlers that say
 * themselves that they block need no faster looks. After QUIET ticks without
 * work it parks. */
#define TICK_NS 1000000
#define FAST_TICK_NS 40000
#define SLACK_NS \
	1000 /* of both; the system's own 50 us would double FAST_TICK */
#define FAST_TICKS 500
#define QUIET_TICKS 100
#define PROBES 4

/* A spare thread that was idle for so long ends. */
#define IDLE_MS 10000

/* One thread. While it has nothing to do it is in `idle`. */
struct worker {
	struct worker *next; /* in `idle` or `unused` */
	struct svc_executor *executor;
	pthread_t thread;
	pthread_cond_t wake;
	bool busy;             /* one of these is to be run: */
	struct svc_loop *loop; /* this loop, or */
	void (*job)(void *arg);
	void *arg;
};

struct svc_executor {
	pthread_mutex_t mutex;
	pthread_cond_t none_left; /* no thread runs any more */
	/* The last to become idle is the first to work again, so that those
	 * that are too many stay idle long enough to end. */
	struct worker *idle;
	struct worker *ended;  /* to be joined by the next that ends */
	struct worker *unused; /* have no thread */
	int n_idle;
	int n_threads;
	int max_threads;
	int busy_poll_us;
	int unstarted; /* loops without a thread: room is kept for them */
	bool stopping;

	struct svc_loop *loops[MAX_LOOPS];
	_Atomic bool started[MAX_LOOPS];
	int n_loops;
	_Atomic unsigned next_loop;
	_Atomic bool owed;    /* loop 0 was given out without a thread */
	_Atomic int off_loop; /* threads in jobs, or in code that lost a loop */

	pthread_t monitor;
	bool has_monitor;
	_Atomic uint32_t parked; /* futex */
	_Atomic uint64_t takeovers, looks;
	_Atomic bool monitor_stop;
};

static void *worker_thread(void *arg);
static void *monitor_thread(void *arg);

/* An idle thread, a new one if need be; NULL when there can be none. It stays
 * in `idle` until it is given something. Called with the mutex held. */
static struct worker *
find_idle(struct svc_executor *executor, int kept_free)
{
	if (executor->idle != NULL)
		return executor->idle;
	if (executor->n_threads + kept_free >= executor->max_threads)
		return NULL;
	struct worker *worker = executor->unused;
	if (worker == NULL) {
		worker = svc_mem_calloc(1, sizeof(*worker));
		if (worker == NULL)
			return NULL;
		worker->executor = executor;
		svc_cond_init(&worker->wake);
		executor->unused = worker;
	}
	if (svc_thread_start(
		&worker->thread, "svc-run", worker_thread, worker) != SVC_OK)
		return NULL;
	executor->unused = worker->next;
	worker->next = NULL;
	executor->n_threads++;
	executor->n_idle++;
	executor->idle = worker;
	return worker;
}

/* Gives the thread at the top of `idle` something to do. The caller wakes it
 * when it has left the mutex, for which the thread would have to wait else. */
static struct worker *
give(struct svc_executor *executor, struct svc_loop *loop,
    void (*job)(void *arg), void *arg)
{
	struct worker *worker = executor->idle;
	executor->idle = worker->next;
	executor->n_idle--;
	worker->loop = loop;
	worker->job = job;
	worker->arg = arg;
	worker->busy = true;
	return worker;
}

/* Also when it has been at work since: its memory stays. */
static void
wake(struct worker *worker)
{
	if (worker != NULL)
		pthread_cond_signal(&worker->wake);
}

/* Waits for something to do; false when it is time to end. */
static bool
await(struct svc_executor *executor, struct worker *worker)
{
	int64_t deadline_at_ms = svc_deadline(IDLE_MS);
	while (!worker->busy && !executor->stopping &&
	       svc_cond_wait(&worker->wake, &executor->mutex, deadline_at_ms) ==
		   SVC_OK)
		;
	if (worker->busy)
		return true;
	struct worker **place = &executor->idle;
	while (*place != worker)
		place = &(*place)->next;
	*place = worker->next;
	executor->n_idle--;
	return false;
}

/* Whoever gave it something may be about to wake it still, so its memory stays
 * as long as the executor. */
static void
join(struct svc_executor *executor, struct worker *ended)
{
	if (ended == NULL)
		return;
	svc_thread_join(ended->thread);
	pthread_mutex_lock(&executor->mutex);
	ended->next = executor->unused;
	executor->unused = ended;
	pthread_mutex_unlock(&executor->mutex);
}

static SVC_HOT void *
worker_thread(void *arg)
{
	struct worker *worker = arg;
	struct svc_executor *executor = worker->executor;
	pthread_mutex_lock(&executor->mutex);
	while (await(executor, worker)) {
		pthread_mutex_unlock(&executor->mutex);
		bool off_loop = true;
		if (worker->loop != NULL)
			off_loop = svc_loop_run(worker->loop);
		else
			worker->job(worker->arg);
		if (off_loop)
			atomic_fetch_sub(&executor->off_loop, 1);
		pthread_mutex_lock(&executor->mutex);
		worker->busy = false;
		worker->next = executor->idle;
		executor->idle = worker;
		executor->n_idle++;
	}
	/* Each that ends joins the one before, and so all stacks but one are
	 * given back at once. */
	struct worker *before = executor->ended;
	executor->ended = worker;
	if (--executor->n_threads == 0)
		pthread_cond_signal(&executor->none_left);
	pthread_mutex_unlock(&executor->mutex);
	join(executor, before);
	return NULL;
}

svc_err
svc_executor_create(const struct svc_executor_config *config,
    struct svc_executor **ret_executor, struct svc_error *err)
{
	int loops = config != NULL ? config->loops : 0;
	int threads = config != NULL ? config->max_threads : 0;
	int busy_poll_us = config != NULL ? config->busy_poll_us : 0;
	if (loops == 0) {
		loops = svc_thread_processors();
		if (loops > MAX_LOOPS)
			loops = MAX_LOOPS;
		if (threads > 1 && loops >= threads)
			loops = threads - 1;
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
	pthread_cond_init(&executor->none_left, NULL);
	executor->max_threads = threads;
	if (busy_poll_us == 0)
		busy_poll_us = SVC_BUSY_POLL_US;
	executor->busy_poll_us = busy_poll_us > 0 ? busy_poll_us : 0;
	svc_err rc = SVC_OK;
	while (rc == SVC_OK && executor->n_loops < loops) {
		rc = svc_loop_create(
		    executor, &executor->loops[executor->n_loops], err);
		if (rc == SVC_OK)
			executor->n_loops++;
	}
	executor->unstarted = executor->n_loops;
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
	for (struct worker *at = executor->idle; at != NULL; at = at->next)
		pthread_cond_signal(&at->wake);
	pthread_mutex_unlock(&executor->mutex);
	for (int i = 0; i < executor->n_loops; i++)
		svc_loop_stop(executor->loops[i]);
	/* No thread is added any more, and the last to run a loop ends it. */
	pthread_mutex_lock(&executor->mutex);
	while (executor->n_threads > 0)
		pthread_cond_wait(&executor->none_left, &executor->mutex);
	pthread_mutex_unlock(&executor->mutex);
	join(executor, executor->ended);
	if (executor->has_monitor) {
		atomic_store(&executor->monitor_stop, true);
		unpark(executor);
		svc_thread_join(executor->monitor);
	}
	for (int i = 0; i < executor->n_loops; i++)
		svc_loop_destroy(executor->loops[i]);
	while (executor->unused != NULL) {
		struct worker *worker = executor->unused;
		executor->unused = worker->next;
		pthread_cond_destroy(&worker->wake);
		svc_mem_free(worker);
	}
	pthread_cond_destroy(&executor->none_left);
	pthread_mutex_destroy(&executor->mutex);
	svc_mem_free(executor);
}

static bool
start_loop(struct svc_executor *executor, int i)
{
	struct worker *given = NULL;
	pthread_mutex_lock(&executor->mutex);
	bool started = atomic_load(&executor->started[i]);
	if (!started && !executor->stopping &&
	    find_idle(executor, executor->unstarted - 1) != NULL) {
		given = give(executor, executor->loops[i], NULL, NULL);
		executor->unstarted--;
		started = true;
		atomic_store(&executor->started[i], true);
	}
	pthread_mutex_unlock(&executor->mutex);
	wake(given);
	return started;
}

struct svc_loop *
svc_executor_loop(struct svc_executor *executor)
{
	unsigned turn = atomic_fetch_add(&executor->next_loop, 1);
	int first = (int)(turn % (unsigned)executor->n_loops);
	for (int i = 0; i < executor->n_loops; i++) {
		int at = (first + i) % executor->n_loops;
		if (atomic_load(&executor->started[at]) ||
		    start_loop(executor, at))
			return executor->loops[at];
	}
	/* The system gives no thread at all now: the monitor tries again. */
	atomic_store(&executor->owed, true);
	unpark(executor);
	return executor->loops[0];
}

svc_err
svc_executor_run(
    struct svc_executor *executor, void (*job)(void *arg), void *arg)
{
	svc_err rc = SVC_OK;
	struct worker *given = NULL;
	pthread_mutex_lock(&executor->mutex);
	if (executor->stopping) {
		rc = SVC_E_CLOSED;
	} else if (find_idle(executor, executor->unstarted) == NULL) {
		rc = SVC_E_EXHAUSTED;
	} else {
		atomic_fetch_add(&executor->off_loop, 1);
		given = give(executor, NULL, job, arg);
	}
	pthread_mutex_unlock(&executor->mutex);
	wake(given);
	return rc;
}

bool
svc_executor_take_over(
    struct svc_executor *executor, struct svc_loop *loop, uint64_t token)
{
	struct worker *given = NULL;
	pthread_mutex_lock(&executor->mutex);
	bool taken = !executor->stopping &&
		     find_idle(executor, executor->unstarted) != NULL &&
		     svc_loop_disown(loop, token);
	if (taken) {
		/* Counted before anybody can see what follows from it. */
		atomic_fetch_add(&executor->off_loop, 1);
		atomic_fetch_add(&executor->takeovers, 1);
		given = give(executor, loop, NULL, NULL);
	}
	pthread_mutex_unlock(&executor->mutex);
	wake(given);
	return taken;
}

int
svc_executor_off_loop(const struct svc_executor *executor)
{
	return atomic_load(&executor->off_loop);
}

int
svc_executor_loops(const struct svc_executor *executor)
{
	return executor->n_loops;
}

int
svc_executor_busy_poll_us(const struct svc_executor *executor)
{
	return executor->busy_poll_us;
}

int
svc_executor_max_threads(const struct svc_executor *executor)
{
	return executor->max_threads;
}

void
svc_executor_count(
    struct svc_executor *executor, struct svc_executor_counts *ret_counts)
{
	pthread_mutex_lock(&executor->mutex);
	ret_counts->threads = executor->n_threads;
	ret_counts->idle = executor->n_idle;
	pthread_mutex_unlock(&executor->mutex);
	ret_counts->takeovers = atomic_load(&executor->takeovers);
	ret_counts->looks = atomic_load(&executor->looks);
	ret_counts->parked = atomic_load(&executor->parked) != 0;
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

/* What the monitor saw of a loop. */
struct look {
	uint64_t token;
	int64_t cpu_ns; /* used by its thread till then */
};

/* Of a thread of this process; 0: it has ended. */
static int64_t
thread_cpu_ns(pid_t thread)
{
	/* What pthread_getcpuclockid makes of a thread that is sure to live. */
	clockid_t clock = (clockid_t)(~(unsigned)thread << 3 | 6);
	struct timespec used;
	return clock_gettime(clock, &used) == 0
		   ? (int64_t)used.tv_sec * 1000000000 + used.tv_nsec
		   : 0;
}

/* Where the system says how a thread does. To open it takes longer than to read
 * it, and the same few threads have the loops in turn, so in a crowd of
 * handlers that block they stay open. */
struct probes {
	struct probe {
		pid_t thread; /* 0: unused */
		int fd;
	} all[PROBES];
	unsigned next; /* to be replaced */
};

static ssize_t
read_probe(struct probe *probe, char *text, size_t size)
{
	ssize_t n = pread(probe->fd, text, size, 0);
	if (n <= 0) { /* that thread has ended */
		close(probe->fd);
		probe->thread = 0;
	}
	return n;
}

static struct probe *
open_probe(struct probes *probes, pid_t thread)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)thread);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	struct probe *probe = &probes->all[probes->next++ % PROBES];
	if (probe->thread != 0)
		close(probe->fd);
	*probe = (struct probe){.thread = thread, .fd = fd};
	return probe;
}

static void
close_probes(struct probes *probes)
{
	for (int i = 0; i < PROBES; i++)
		if (probes->all[i].thread != 0)
			close(probes->all[i].fd);
	*probes = (struct probes){0};
}

/* Whether a thread runs, or would if it had a processor. False when the system
 * does not say. */
static bool
is_runnable(struct probes *probes, pid_t thread)
{
	char text[128];
	ssize_t n = 0;
	struct probe *probe = NULL;
	for (int i = 0; i < PROBES && probe == NULL && thread != 0; i++)
		if (probes->all[i].thread == thread)
			probe = &probes->all[i];
	if (probe != NULL)
		n = read_probe(probe, text, sizeof(text) - 1);
	/* Another thread may have got the number of one that has ended. */
	if (n <= 0 && (probe = open_probe(probes, thread)) != NULL)
		n = read_probe(probe, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	/* "NUMBER (NAME) STATE ..." */
	const char *state = strrchr(text, ')');
	return state != NULL && strncmp(state, ") R", 3) == 0;
}

/* A handler that has the same token at two looks, though it could go on, waits
 * for a processor: to give its loop to another thread would be one more that
 * does. If it has been running, it computes. */
static bool
is_stuck(struct probes *probes, const struct svc_loop *loop,
    const struct look *before, int tick_ns)
{
	pid_t thread = svc_loop_thread(loop);
	return !is_runnable(probes, thread) ||
	       thread_cpu_ns(thread) - before->cpu_ns >= tick_ns / 2;
}

/* Handlers that sleep come in crowds: while they do, one look that finds a
 * handler asleep is enough. It still has time to return until its loop is
 * taken, and has lost it then for no more than a take-over costs. */
static bool
is_asleep(struct probes *probes, const struct svc_loop *loop)
{
	return !is_runnable(probes, svc_loop_thread(loop));
}

/* The tokens need no time stamps: a call that began in between has another one.
 */
static void *
monitor_thread(void *arg)
{
	struct svc_executor *executor = arg;
	struct look seen[MAX_LOOPS] = {{0}};
	struct probes probes = {0};
	int fast = 0, quiet = 0, tick_ns = TICK_NS;
	prctl(PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0);

	while (!atomic_load(&executor->monitor_stop)) {
		bool active = atomic_load(&executor->owed);
		if (active && start_loop(executor, 0))
			atomic_store(&executor->owed, false);
		for (int i = 0; i < executor->n_loops; i++) {
			struct svc_loop *loop = executor->loops[i];
			uint64_t token = svc_loop_token(loop);
			bool same = token == seen[i].token;
			bool in_handler = (token & 1) != 0;
			bool stuck =
			    in_handler &&
			    (same ? is_stuck(&probes, loop, &seen[i], tick_ns)
				  : fast > 0 && is_asleep(&probes, loop));
			if (stuck &&
			    svc_executor_take_over(executor, loop, token))
				fast = FAST_TICKS;
			if (!same && in_handler)
				seen[i].cpu_ns =
				    thread_cpu_ns(svc_loop_thread(loop));
			seen[i].token = token;
			active = active || !same;
			active = active || !svc_loop_asleep(loop);
		}
		atomic_fetch_add_explicit(
		    &executor->looks, 1, memory_order_relaxed);
		quiet = active ? 0 : quiet + 1;
		if (quiet > QUIET_TICKS) {
			atomic_exchange(&executor->parked, 1);
			if (all_asleep(executor) &&
			    !atomic_load(&executor->owed) &&
			    !atomic_load(&executor->monitor_stop))
				syscall(SYS_futex, &executor->parked,
				    FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
			atomic_store(&executor->parked, 0);
			quiet = 0;
			continue;
		}
		tick_ns = fast > 0 ? FAST_TICK_NS : TICK_NS;
		struct timespec tick = {0, tick_ns};
		if (fast > 0)
			fast--;
		else
			close_probes(&probes);
		clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL);
	}
	close_probes(&probes);
	return NULL;
}
