/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/busy_poll.h>

#include <svc/clock.h>

#include <pthread.h>
#include <stdatomic.h>

/* A look that finds nothing, or too little, costs what four save. */
#define SCORE_MAX 32
#define SCORE_TRIAL 12
#define SCORE_MISS 4

#define PAUSE_MIN 8
#define PAUSE_MAX 64

/* When both sides sleep, either's wait has two wake-ups that it would not have
 * if both looked. */
#define SHORT 3

/* Loops that are awake, and others that look. */
static atomic_int busy, max_busy;
static SVC_THREAD_LOCAL bool counted; /* this one is a loop's */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
count_processors(void)
{
	atomic_store(&max_busy, svc_thread_processors() / 2);
}

void
svc_busy_poll_awake(bool awake)
{
	if (counted == awake)
		return;
	counted = awake;
	atomic_fetch_add(&busy, awake ? 1 : -1);
}

static bool
may_look(struct svc_busy_poll *poll)
{
	if (poll->score <= 0 || poll->limit_us <= 0 || svc_clock_is_manual())
		return false;
	pthread_once(&once, count_processors);
	int max = atomic_load_explicit(&max_busy, memory_order_relaxed);
	poll->adds = !counted;
	if (counted)
		return atomic_load(&busy) - 1 < max;
	if (atomic_fetch_add(&busy, 1) < max)
		return true;
	atomic_fetch_sub(&busy, 1);
	return false;
}

SVC_HOT int64_t
svc_busy_poll_begin(
    struct svc_busy_poll *poll, int64_t limit_us, int64_t now_us)
{
	poll->limit_us = limit_us;
	poll->began_us = now_us;
	poll->looks = may_look(poll);
	return poll->looks ? now_us + limit_us : now_us;
}

/* At the end of a wait: whether more would have come together in a longer one,
 * and there is too much work to wait for each. */
static bool
gathers(struct svc_busy_poll *poll, bool crowd, int64_t now_us)
{
	int64_t worked_us = poll->began_us - poll->ended_us;
	poll->ended_us = now_us;
	return crowd && now_us - poll->began_us < worked_us;
}

SVC_HOT void
svc_busy_poll_looked(
    struct svc_busy_poll *poll, bool come, bool crowd, int64_t now_us)
{
	if (!poll->looks)
		return;
	if (poll->adds)
		atomic_fetch_sub(&busy, 1);
	if (come && !gathers(poll, crowd, now_us)) {
		if (poll->score < SCORE_MAX)
			poll->score++;
		else
			poll->pause = 0;
		return;
	}
	poll->score -= SCORE_MISS;
	if (poll->score > 0)
		return;
	poll->pause = poll->pause < PAUSE_MIN   ? PAUSE_MIN
		      : poll->pause < PAUSE_MAX ? poll->pause * 2
						: PAUSE_MAX;
	/* By chance: two sides that wait by turns, and would be right only if
	 * both looked, must not miss each other for ever. */
	poll->to_begin = poll->pause / 2 + (unsigned)(now_us % poll->pause);
}

SVC_HOT void
svc_busy_poll_slept(
    struct svc_busy_poll *poll, bool come, bool crowd, int64_t now_us)
{
	if (gathers(poll, crowd, now_us) || poll->score > 0 || !come ||
	    now_us - poll->began_us > SHORT * poll->limit_us)
		return;
	if (poll->to_begin > 0)
		poll->to_begin--;
	else
		poll->score = SCORE_TRIAL;
}
