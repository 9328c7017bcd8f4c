/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks: `waits_lock` guards the list of waits, `listeners_lock` the list of
 * listeners. The mutex of a wait may be held while `waits_lock` is taken, so
 * nobody takes such a mutex under it; the two locks never meet.
 */
#include "clock_private.h"

#include <stdatomic.h>
#include <time.h>

#define US_PER_MS 1000

/* The manual clock; both points in microseconds. */
static atomic_bool manual;
static _Atomic int64_t manual_us;
static _Atomic int64_t manual_unix_us;

static int64_t
read_us(clockid_t id)
{
	struct timespec now;
	clock_gettime(id, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

bool
svc_clock_is_manual(void)
{
	return atomic_load_explicit(&manual, memory_order_acquire);
}

SVC_HOT int64_t
svc_now_us(void)
{
	return svc_clock_is_manual() ? atomic_load(&manual_us)
				     : read_us(CLOCK_MONOTONIC);
}

int64_t
svc_now_ms(void)
{
	return svc_now_us() / US_PER_MS;
}

#ifndef CLOCK_MONOTONIC_COARSE
#define CLOCK_MONOTONIC_COARSE CLOCK_MONOTONIC
#endif

int64_t
svc_now_coarse_ms(void)
{
	struct timespec now;
	if (svc_clock_is_manual())
		return svc_now_ms();
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t
svc_now_unix_ms(void)
{
	int64_t us = svc_clock_is_manual() ? atomic_load(&manual_unix_us)
					   : read_us(CLOCK_REALTIME);
	return us / US_PER_MS;
}

int64_t
svc_deadline(int64_t timeout_ms)
{
	int64_t now_ms = svc_now_ms();
	if (timeout_ms == SVC_FOREVER || timeout_ms > INT64_MAX - now_ms)
		return INT64_MAX;
	return timeout_ms > 0 ? now_ms + timeout_ms : now_ms;
}

SVC_HOT int64_t
svc_remaining(int64_t deadline_at_ms)
{
	if (deadline_at_ms == INT64_MAX)
		return SVC_FOREVER;
	int64_t now_ms = svc_now_ms();
	return deadline_at_ms > now_ms ? deadline_at_ms - now_ms : 0;
}

/* Waits under the manual clock */

struct wait {
	struct wait *next;
	struct wait **link; /* what points to this one */
	pthread_cond_t *cond;
	pthread_mutex_t *mutex;
	int64_t deadline_at_ms;
	bool woken;
	bool held; /* by wake_due: must not go away */
};

static pthread_mutex_t waits_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t let_go = PTHREAD_COND_INITIALIZER;
static struct wait *waits;

static void
enlist(struct wait *wait)
{
	pthread_mutex_lock(&waits_lock);
	wait->next = waits;
	wait->link = &waits;
	if (waits != NULL)
		waits->link = &wait->next;
	waits = wait;
	pthread_mutex_unlock(&waits_lock);
}

static void
delist(struct wait *wait)
{
	pthread_mutex_lock(&waits_lock);
	while (wait->held)
		pthread_cond_wait(&let_go, &waits_lock);
	*wait->link = wait->next;
	if (wait->next != NULL)
		wait->next->link = wait->link;
	pthread_mutex_unlock(&waits_lock);
}

/* Wakes whoever waits for a point up to `now_ms`. A wait is broadcast to under
 * its own mutex: so it either sleeps already and is woken, or has not looked at
 * the clock yet and will find it moved. */
static void
wake_due(int64_t now_ms)
{
	pthread_mutex_lock(&waits_lock);
	struct wait *wait = waits;
	while (wait != NULL) {
		if (wait->woken || wait->deadline_at_ms > now_ms) {
			wait = wait->next;
			continue;
		}
		wait->woken = true;
		wait->held = true;
		pthread_mutex_unlock(&waits_lock);
		pthread_mutex_lock(wait->mutex);
		pthread_cond_broadcast(wait->cond);
		pthread_mutex_unlock(wait->mutex);
		pthread_mutex_lock(&waits_lock);
		wait->held = false;
		pthread_cond_broadcast(&let_go);
		/* The list may have changed meanwhile. */
		wait = waits;
	}
	pthread_mutex_unlock(&waits_lock);
}

static svc_err
manual_wait(
    pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_at_ms)
{
	struct wait wait = {
	    .cond = cond, .mutex = mutex, .deadline_at_ms = deadline_at_ms};
	enlist(&wait);
	if (svc_clock_is_manual() && svc_now_ms() < deadline_at_ms)
		pthread_cond_wait(cond, mutex);
	/* Whoever holds the wait may be asking for the mutex. */
	pthread_mutex_unlock(mutex);
	delist(&wait);
	pthread_mutex_lock(mutex);
	return svc_now_ms() < deadline_at_ms ? SVC_OK : SVC_E_TIMEDOUT;
}

void
svc_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attributes);
	pthread_condattr_destroy(&attributes);
}

svc_err
svc_cond_wait(
    pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_at_ms)
{
	if (deadline_at_ms == INT64_MAX) {
		pthread_cond_wait(cond, mutex);
		return SVC_OK;
	}
	if (svc_clock_is_manual())
		return manual_wait(cond, mutex, deadline_at_ms);
	if (svc_now_ms() >= deadline_at_ms)
		return SVC_E_TIMEDOUT;
	struct timespec until = {
	    .tv_sec = (time_t)(deadline_at_ms / 1000),
	    .tv_nsec = (long)(deadline_at_ms % 1000) * 1000000,
	};
	return pthread_cond_timedwait(cond, mutex, &until) == 0
		   ? SVC_OK
		   : SVC_E_TIMEDOUT;
}

/* Listeners to the manual clock */

struct listener {
	struct listener *next;
	void (*fn)(void *arg);
	void *arg;
};

static pthread_mutex_t listeners_lock = PTHREAD_MUTEX_INITIALIZER;
static struct listener *listeners;

svc_err
svc_clock_on_advance(void (*fn)(void *arg), void *arg)
{
	struct listener *listener = svc_mem_alloc(sizeof(*listener));
	if (listener == NULL)
		return SVC_E_NOMEM;
	listener->fn = fn;
	listener->arg = arg;
	pthread_mutex_lock(&listeners_lock);
	listener->next = listeners;
	listeners = listener;
	pthread_mutex_unlock(&listeners_lock);
	return SVC_OK;
}

void
svc_clock_off_advance(void (*fn)(void *arg), void *arg)
{
	struct listener *gone = NULL;
	pthread_mutex_lock(&listeners_lock);
	for (struct listener **at = &listeners; *at != NULL;
	     at = &(*at)->next) {
		if ((*at)->fn != fn || (*at)->arg != arg)
			continue;
		gone = *at;
		*at = gone->next;
		break;
	}
	pthread_mutex_unlock(&listeners_lock);
	svc_mem_free(gone);
}

static void
tell_listeners(void)
{
	pthread_mutex_lock(&listeners_lock);
	for (struct listener *at = listeners; at != NULL; at = at->next)
		at->fn(at->arg);
	pthread_mutex_unlock(&listeners_lock);
}

void
svc_clock_manual(void)
{
	if (svc_clock_is_manual())
		return;
	atomic_store(&manual_us, read_us(CLOCK_MONOTONIC));
	atomic_store(&manual_unix_us, read_us(CLOCK_REALTIME));
	atomic_store(&manual, true);
	tell_listeners();
}

void
svc_clock_advance(int64_t ms)
{
	if (!svc_clock_is_manual())
		return;
	atomic_fetch_add(&manual_unix_us, ms * US_PER_MS);
	int64_t us = atomic_fetch_add(&manual_us, ms * US_PER_MS);
	wake_due(us / US_PER_MS + ms);
	tell_listeners();
}

void
svc_clock_real(void)
{
	atomic_store(&manual, false);
	wake_due(INT64_MAX);
	tell_listeners();
}
