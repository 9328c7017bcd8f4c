/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One event loop on epoll. Everything of the operating system's event
 * notification is in this file.
 *
 * No lock: all fields belong to the thread that owns the loop, except the
 * atomic ones. Ownership passes by the token: the owner sets its lowest bit by
 * a plain release store when foreign code begins and clears it by a
 * compare-and-swap when that code returns; whoever wants to take the loop over
 * swaps the token meanwhile, and then the former owner's swap fails.
 */
#include "loop_private.h"

#include "clock_private.h"

#include <svc/busy_poll.h>

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS 64
#define MAX_ROUNDS 16 /* of tasks, while descriptors and yielders wait */
#define MAX_DEFERRED 16
#define DEFER_US 100

struct svc_loop {
	struct svc_executor *executor;
	int epoll;
	int wake;

	_Atomic uint64_t token;
	_Atomic bool sleeping;
	_Atomic bool stopping;
	_Atomic pid_t thread;             /* that runs it */
	_Atomic(struct svc_task *) inbox; /* newest first */

	uint64_t sequence;
	struct svc_source *current; /* whose `ready` runs */
	struct svc_task *tasks;     /* taken from the inbox, oldest first */
	/* Sources that gave way: those since the last look at the descriptors,
	 * and those whose turn has come. */
	struct svc_task *yielded, **last_yielded, *due;
	int rounds; /* of tasks since then */
	struct svc_task *deferred, **last_deferred;
	int n_deferred;
	int64_t deferred_at_us; /* the first of them */
	struct epoll_event events[EVENTS];
	int n_events, next_event;
	struct svc_busy_poll poll;
	const void *lone;          /* the only source of the wait before */
	struct svc_timer **timers; /* a heap, from index 1 */
	size_t n_timers, cap_timers;
};

/* What the calling thread runs. */
static SVC_THREAD_LOCAL struct {
	struct svc_loop *loop; /* NULL when it owns none */
	uint64_t token;        /* of the foreign code it is in */
	bool entered;
	int64_t looked_at_ms; /* at the descriptors */
} self;

static void
advanced(void *arg)
{
	struct svc_loop *loop = arg;
	uint64_t one = 1;
	ssize_t n = write(loop->wake, &one, sizeof(one));
	(void)n; /* a full counter wakes as well */
}

svc_err
svc_loop_create(struct svc_executor *executor, struct svc_loop **ret_loop,
    struct svc_error *err)
{
	struct svc_loop *loop = svc_mem_calloc(1, sizeof(*loop));
	if (loop == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	loop->executor = executor;
	loop->last_deferred = &loop->deferred;
	loop->last_yielded = &loop->yielded;
	atomic_store(&loop->sleeping, true);
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* Edge-triggered and never read: each write wakes once. */
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	if (loop->epoll < 0 || loop->wake < 0 ||
	    epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->wake, &event) != 0) {
		int sys = errno;
		svc_loop_destroy(loop);
		return svc_error_sys(
		    err, SVC_E_EXHAUSTED, sys, "cannot make an event loop");
	}
	svc_clock_on_advance(advanced, loop);
	*ret_loop = loop;
	return SVC_OK;
}

void
svc_loop_destroy(struct svc_loop *loop)
{
	svc_clock_off_advance(advanced, loop);
	if (loop->epoll >= 0)
		close(loop->epoll);
	if (loop->wake >= 0)
		close(loop->wake);
	svc_mem_free(loop->timers);
	svc_mem_free(loop);
}

void
svc_loop_stop(struct svc_loop *loop)
{
	atomic_store(&loop->stopping, true);
	advanced(loop);
}

uint64_t
svc_loop_token(const struct svc_loop *loop)
{
	return atomic_load_explicit(&loop->token, memory_order_acquire);
}

bool
svc_loop_asleep(const struct svc_loop *loop)
{
	return atomic_load(&loop->sleeping);
}

pid_t
svc_loop_thread(const struct svc_loop *loop)
{
	return atomic_load(&loop->thread);
}

bool
svc_loop_disown(struct svc_loop *loop, uint64_t token)
{
	uint64_t next = ((token >> 1) + 1) << 1;
	return (token & 1) != 0 &&
	       atomic_compare_exchange_strong(&loop->token, &token, next);
}

struct svc_loop *
svc_loop_current(void)
{
	return self.entered ? NULL : self.loop;
}

bool
svc_loop_kept(void)
{
	return self.loop != NULL &&
	       (!self.entered || svc_loop_token(self.loop) == self.token);
}

int64_t
svc_loop_time_ms(void)
{
	return self.loop != NULL && !svc_clock_is_manual() ? self.looked_at_ms
							   : svc_now_ms();
}

void
svc_loop_enter(struct svc_loop *loop)
{
	self.token = ++loop->sequence << 1 | 1;
	self.entered = true;
	atomic_store_explicit(&loop->token, self.token, memory_order_release);
}

bool
svc_loop_leave(struct svc_loop *loop)
{
	uint64_t token = self.token;
	self.entered = false;
	if (self.loop != NULL &&
	    atomic_compare_exchange_strong_explicit(&loop->token, &token,
		token & ~UINT64_C(1), memory_order_acq_rel,
		memory_order_relaxed))
		return true;
	self.loop = NULL;
	return false;
}

bool
svc_loop_held(void)
{
	return self.entered && self.loop != NULL &&
	       atomic_load_explicit(&self.loop->token, memory_order_relaxed) ==
		   self.token;
}

SVC_HOT void
svc_will_block(void)
{
	if (self.loop == NULL || !self.entered)
		return;
	/* False also when the monitor was faster; either way leave finds out.
	 */
	if (svc_executor_take_over(
		self.loop->executor, self.loop, self.token)) {
		self.loop = NULL;
		svc_busy_poll_awake(false);
	}
}

/* ------------------------------------------------------------ descriptors */

static uint32_t
epoll_bits(unsigned interest)
{
	uint32_t bits = 0;
	if (interest & SVC_IO_READ)
		bits |= EPOLLIN | EPOLLRDHUP;
	if (interest & SVC_IO_WRITE)
		bits |= EPOLLOUT;
	if (interest & SVC_IO_HANGUP)
		bits |= EPOLLRDHUP;
	if (interest & SVC_IO_ONESHOT)
		bits |= EPOLLONESHOT;
	return bits;
}

svc_err
svc_source_attach(struct svc_loop *loop, struct svc_source *source,
    unsigned interest, struct svc_error *err)
{
	source->loop = loop;
	source->kick_loop = loop;
	struct epoll_event event = {
	    .events = epoll_bits(interest), .data.ptr = source};
	if (source->fd < 0)
		return SVC_OK;
	if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, source->fd, &event) != 0) {
		int sys = errno;
		source->loop = NULL;
		return svc_error_sys(err,
		    sys == ENOMEM ? SVC_E_NOMEM : SVC_E_EXHAUSTED, sys,
		    "cannot watch a descriptor");
	}
	return SVC_OK;
}

void
svc_source_interest(struct svc_source *source, unsigned interest)
{
	struct epoll_event event = {
	    .events = epoll_bits(interest), .data.ptr = source};
	epoll_ctl(source->loop->epoll, EPOLL_CTL_MOD, source->fd, &event);
}

void
svc_source_detach(struct svc_source *source)
{
	struct svc_loop *loop = source->loop;
	if (loop == NULL)
		return;
	if (source->fd >= 0)
		epoll_ctl(loop->epoll, EPOLL_CTL_DEL, source->fd, NULL);
	source->loop = NULL;
	if (loop->current == source)
		loop->current = NULL;
	for (int i = loop->next_event; i < loop->n_events; i++)
		if (loop->events[i].data.ptr == source)
			loop->events[i].data.ptr = NULL;
}

/* ------------------------------------------------------- tasks and timers */

void
svc_loop_post(struct svc_loop *loop, struct svc_task *task)
{
	struct svc_task *head =
	    atomic_load_explicit(&loop->inbox, memory_order_relaxed);
	do {
		task->next = head;
	} while (!atomic_compare_exchange_weak(&loop->inbox, &head, task));
	/* Only the push that makes it non-empty wakes, and only a sleeper:
	 * the loop says that it sleeps before it looks a last time. */
	if (head == NULL && atomic_load(&loop->sleeping))
		advanced(loop);
}

static void
kick_run(struct svc_task *task)
{
	struct svc_source *source =
	    (struct svc_source *)(void *)((char *)task -
					  offsetof(struct svc_source, kick));
	struct svc_loop *loop = source->kick_loop;
	/* After this a further kick is posted anew. */
	__atomic_store_n(&source->kicked, 0, __ATOMIC_SEQ_CST);
	loop->current = source;
	source->ready(source, SVC_IO_KICK);
	if (self.loop != NULL)
		loop->current = NULL;
}

bool
svc_source_kick(struct svc_source *source)
{
	if (__atomic_exchange_n(&source->kicked, 1, __ATOMIC_SEQ_CST) != 0)
		return false;
	source->kick.run = kick_run;
	svc_loop_post(source->kick_loop, &source->kick);
	return true;
}

static void
append(struct svc_task **list, struct svc_task *tasks)
{
	while (*list != NULL)
		list = &(*list)->next;
	*list = tasks;
}

bool
svc_source_yield(struct svc_source *source)
{
	if (__atomic_exchange_n(&source->kicked, 1, __ATOMIC_SEQ_CST) != 0)
		return false;
	source->kick.run = kick_run;
	source->kick.next = NULL;
	struct svc_loop *loop = source->kick_loop;
	*loop->last_yielded = &source->kick;
	loop->last_yielded = &source->kick.next;
	return true;
}

/* As many as a look finds descriptors: else hundreds would each have a turn
 * between two looks, of which it takes several to find all that is ready. */
static struct svc_task *
take_yielded(struct svc_loop *loop)
{
	struct svc_task *first = loop->yielded, *last = first;
	if (first == NULL)
		return NULL;
	for (int n = 1; n < EVENTS && last->next != NULL; n++)
		last = last->next;
	loop->yielded = last->next;
	if (loop->yielded == NULL)
		loop->last_yielded = &loop->yielded;
	last->next = NULL;
	return first;
}

void
svc_loop_defer(struct svc_loop *loop, struct svc_task *task)
{
	task->next = NULL;
	*loop->last_deferred = task;
	loop->last_deferred = &task->next;
	if (loop->n_deferred++ == 0)
		loop->deferred_at_us = svc_now_us();
}

static void
run_deferred(struct svc_loop *loop)
{
	while (loop->deferred != NULL) {
		struct svc_task *task = loop->deferred;
		loop->deferred = task->next;
		if (loop->deferred == NULL)
			loop->last_deferred = &loop->deferred;
		task->run(task);
	}
	loop->n_deferred = 0;
}

/* Between two events: what is deferred is not to wait for many of them. */
static void
run_deferred_in_time(struct svc_loop *loop)
{
	if (loop->n_deferred >= MAX_DEFERRED ||
	    (loop->n_deferred > 0 &&
		svc_now_us() - loop->deferred_at_us > DEFER_US))
		run_deferred(loop);
}

/* Moves what is in the inbox behind the tasks at hand, oldest first. */
static void
take_inbox(struct svc_loop *loop)
{
	struct svc_task *list = atomic_exchange(&loop->inbox, NULL);
	struct svc_task *oldest_first = NULL;
	while (list != NULL) {
		struct svc_task *next = list->next;
		list->next = oldest_first;
		oldest_first = list;
		list = next;
	}
	append(&loop->tasks, oldest_first);
}

static void
put_timer(struct svc_loop *loop, size_t i, struct svc_timer *timer)
{
	loop->timers[i] = timer;
	timer->index = i;
}

static void
sift(struct svc_loop *loop, size_t i, struct svc_timer *timer)
{
	while (i > 1 && loop->timers[i / 2]->at_ms > timer->at_ms) {
		put_timer(loop, i, loop->timers[i / 2]);
		i /= 2;
	}
	for (;;) {
		size_t child = 2 * i;
		if (child > loop->n_timers)
			break;
		if (child < loop->n_timers &&
		    loop->timers[child + 1]->at_ms < loop->timers[child]->at_ms)
			child++;
		if (loop->timers[child]->at_ms >= timer->at_ms)
			break;
		put_timer(loop, i, loop->timers[child]);
		i = child;
	}
	put_timer(loop, i, timer);
}

svc_err
svc_timer_start(struct svc_loop *loop, struct svc_timer *timer, int64_t at_ms)
{
	svc_timer_stop(loop, timer);
	if (loop->n_timers + 1 >= loop->cap_timers) {
		size_t cap = loop->cap_timers != 0 ? loop->cap_timers * 2 : 16;
		struct svc_timer **timers = svc_mem_realloc(
		    loop->timers, cap * sizeof(struct svc_timer *));
		if (timers == NULL)
			return SVC_E_NOMEM;
		loop->timers = timers;
		loop->cap_timers = cap;
	}
	timer->at_ms = at_ms;
	loop->n_timers++;
	sift(loop, loop->n_timers, timer);
	return SVC_OK;
}

void
svc_timer_stop(struct svc_loop *loop, struct svc_timer *timer)
{
	size_t i = timer->index;
	if (i == 0)
		return;
	timer->index = 0;
	struct svc_timer *last = loop->timers[loop->n_timers--];
	if (last != timer)
		sift(loop, i, last);
}

/* -------------------------------------------------------------------- run */

static unsigned
io_bits(uint32_t bits)
{
	unsigned events = 0;
	if (bits & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		events |= SVC_IO_READ;
	if (bits & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		events |= SVC_IO_WRITE;
	if (bits & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		events |= SVC_IO_HANGUP;
	return events;
}

static bool
has_posts(struct svc_loop *loop)
{
	return atomic_load(&loop->inbox) != NULL ||
	       atomic_load(&loop->stopping);
}

static int
sleep_for_events(struct svc_loop *loop, int timeout)
{
	atomic_exchange(&loop->sleeping, true);
	if (has_posts(loop))
		timeout = 0;
	svc_busy_poll_awake(false);
	int n = epoll_wait(loop->epoll, loop->events, EVENTS, timeout);
	svc_busy_poll_awake(true);
	atomic_exchange(&loop->sleeping, false);
	svc_executor_busy(loop->executor);
	return n;
}

/* How long it may sleep, in milliseconds; -1: for ever. */
static int
until_due(const struct svc_loop *loop, int64_t now_ms)
{
	if (loop->tasks != NULL || loop->yielded != NULL)
		return 0;
	if (loop->n_timers == 0)
		return -1;
	int64_t at_ms = loop->timers[1]->at_ms;
	if (at_ms <= now_ms)
		return 0;
	if (svc_clock_is_manual())
		return -1;
	return at_ms - now_ms > 60000 ? 60000 : (int)(at_ms - now_ms);
}

/* Whether others than at the wait before have something. */
static bool
is_crowd(struct svc_loop *loop, int n)
{
	const void *before = loop->lone;
	loop->lone = n == 1 ? loop->events[0].data.ptr : NULL;
	return n > 1 || (n == 1 && loop->lone != before);
}

static void
wait_for_events(struct svc_loop *loop)
{
	int64_t now_us = svc_now_us();
	int timeout = until_due(loop, now_us / 1000);
	int n = 0;
	loop->rounds = 0;
	if (timeout == 0) {
		/* Only a look: it does not go to sleep. */
		n = epoll_wait(loop->epoll, loop->events, EVENTS, 0);
		now_us = svc_now_us();
	} else {
		int64_t until_us = svc_busy_poll_begin(&loop->poll,
		    svc_executor_busy_poll_us(loop->executor), now_us);
		bool come = false;
		while (!come && now_us < until_us) {
			n = epoll_wait(loop->epoll, loop->events, EVENTS, 0);
			come = n > 0 || has_posts(loop);
			now_us = svc_now_us();
		}
		svc_busy_poll_looked(
		    &loop->poll, come, come && is_crowd(loop, n), now_us);
		if (!come) {
			n = sleep_for_events(loop, timeout);
			now_us = svc_now_us();
			svc_busy_poll_slept(
			    &loop->poll, n > 0, is_crowd(loop, n), now_us);
		}
	}
	self.looked_at_ms = now_us / 1000;
	loop->n_events = n > 0 ? n : 0;
	loop->next_event = 0;
}

/* Returns when the loop stops, or with self.loop NULL when it was lost. */
static SVC_HOT void
run(struct svc_loop *loop)
{
	run_deferred(loop); /* by the owner before */
	if (loop->current != NULL) {
		loop->current->ready(loop->current, SVC_IO_RESUME);
		if (self.loop == NULL)
			return;
		loop->current = NULL;
	}
	for (;;) {
		while (loop->tasks != NULL) {
			struct svc_task *task = loop->tasks;
			loop->tasks = task->next;
			task->run(task);
			if (self.loop == NULL)
				return;
			run_deferred_in_time(loop);
		}
		while (loop->next_event < loop->n_events) {
			struct epoll_event *event =
			    &loop->events[loop->next_event++];
			struct svc_source *source = event->data.ptr;
			if (source == NULL) /* detached, or the wake-up */
				continue;
			loop->current = source;
			source->ready(source, io_bits(event->events));
			if (self.loop == NULL)
				return;
			loop->current = NULL;
			run_deferred_in_time(loop);
		}
		run_deferred(loop);
		while (loop->n_timers > 0 &&
		       loop->timers[1]->at_ms <= svc_now_ms()) {
			struct svc_timer *timer = loop->timers[1];
			svc_timer_stop(loop, timer);
			timer->fire(timer);
			if (self.loop == NULL)
				return;
		}
		run_deferred(loop);
		append(&loop->tasks, loop->due);
		loop->due = NULL;
		take_inbox(loop);
		if (loop->tasks != NULL && ++loop->rounds < MAX_ROUNDS)
			continue;
		if (loop->tasks == NULL && loop->yielded == NULL &&
		    atomic_load(&loop->stopping))
			break;
		wait_for_events(loop);
		/* Behind the events that came meanwhile. */
		loop->due = take_yielded(loop);
		take_inbox(loop);
	}
	atomic_store(&loop->sleeping, true);
}

bool
svc_loop_run(struct svc_loop *loop)
{
	self.loop = loop;
	self.looked_at_ms = svc_now_ms();
	atomic_store(&loop->thread, gettid());
	loop->sequence = atomic_load(&loop->token) >> 1;
	atomic_store(&loop->sleeping, false);
	/* A loop that begins may have work already and never sleep before it
	 * runs a handler. */
	svc_executor_busy(loop->executor);
	svc_busy_poll_awake(true);
	run(loop);
	svc_busy_poll_awake(false);
	bool lost = self.loop == NULL;
	self.loop = NULL;
	return lost;
}
