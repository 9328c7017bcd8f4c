/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection's timer, on its loop: until the peer's hello, keepalive, idle
 * time, and lingering when it is closed.
 *
 * It ticks four times in keepalive_ms while streams are open, and a tick only
 * compares counts: no clock is read and no timer moved for a call. A
 * connection found without streams twice stops ticking; a listener's then waits
 * for its idle time only, and the next stream starts the ticking again.
 */
#include "mux_private.h"

#include <stdio.h>
#include <string.h>

#define TICKS 4 /* in keepalive_ms */
#define LINGER_MS 500
/* For a peer to say that it knows that it is left, when it has all answers. It
 * may have nobody who reads, so this makes a stop so much longer. */
#define LEAVE_MS 100
#define MAX_QUIET 10  /* times in a row, without a sign of life */
#define MAX_LINGER 40 /* times, however alive the peer is */
#define IDLE_PING 1u  /* value of the PING that follows an idle DRAIN */
#define LAST_PING 2u  /* and of the one behind the last answers */

/* Whether the connection must be watched. With the lock. */
static bool
is_busy(const struct svc_mux *mux)
{
	return mux->n_streams > 0 || mux->idle_asked ||
	       __atomic_load_n(&mux->half, __ATOMIC_RELAXED);
}

static uint32_t
newest_id(const struct svc_mux *mux)
{
	return mux->config.server
		   ? __atomic_load_n(&mux->last_id, __ATOMIC_RELAXED)
		   : mux->next_id;
}

/* 0: without keepalive. */
static int64_t
interval(const struct svc_mux *mux)
{
	int64_t keepalive_ms = mux->config.limits.keepalive_ms;
	if (keepalive_ms == SVC_FOREVER)
		return 0;
	return keepalive_ms > TICKS ? keepalive_ms / TICKS : 1;
}

/* How often it is looked at while it is busy; 0: never. */
static int64_t
pace(const struct svc_mux *mux)
{
	int64_t every_ms = interval(mux);
	if (every_ms == 0 && mux->config.server &&
	    mux->config.limits.idle_ms != SVC_FOREVER)
		every_ms = mux->config.limits.idle_ms;
	return every_ms;
}

static void
ask_for_life(struct svc_mux *mux)
{
	mux_queue_frame(mux, FRAME_PING, 0, 0, 0, NULL, 0);
}

/* Something is open: is the other side alive? */
static void
look_for_life(struct svc_mux *mux)
{
	char text[160];
	uint32_t received = __atomic_load_n(&mux->received, __ATOMIC_RELAXED);
	uint32_t frames = __atomic_load_n(&mux->frames, __ATOMIC_RELAXED);
	bool half = __atomic_load_n(&mux->half, __ATOMIC_RELAXED);
	bool paused = __atomic_load_n(&mux->paused, __ATOMIC_RELAXED);
	/* While we do not read, that the peer does is its sign of life. */
	bool lives = received != mux->seen_received ||
		     (paused && mux->sent != mux->seen_sent);
	mux->quiet = lives ? 0 : mux->quiet + 1;
	mux->stuck = half && frames == mux->seen_frames ? mux->stuck + 1 : 0;
	mux->seen_received = received;
	mux->seen_frames = frames;
	mux->seen_sent = mux->sent;
	if (mux->quiet >= TICKS) {
		snprintf(text, sizeof(text),
		    "no sign of life from %s for %lld ms", mux->peer,
		    (long long)mux->config.limits.keepalive_ms);
		mux->silent = true;
		mux_fail(mux, SVC_E_UNAVAILABLE, text);
	} else if (mux->stuck >= TICKS) {
		snprintf(text, sizeof(text),
		    "%s began a frame and did not end it in %lld ms", mux->peer,
		    (long long)mux->config.limits.keepalive_ms);
		mux_fail(mux, SVC_E_UNAVAILABLE, text);
	} else if (mux->quiet == 1) {
		ask_for_life(mux);
	}
}

/* A message that was granted more than the window holds up the next one. */
static void
look_at_granted(struct svc_mux *mux)
{
	struct svc_mux_stream *stream = mux->granted;
	if (stream == NULL || mux->ticks - stream->moved <= TICKS ||
	    stream->window <= 0 || mux->window <= 0)
		return;
	char text[120];
	snprintf(text, sizeof(text),
	    "a message was begun and not gone on with in %lld ms",
	    (long long)mux->config.limits.keepalive_ms);
	mux_queue_reset(mux, stream->id, SVC_E_TIMEDOUT,
	    !stream->accepted && mux->config.server, text);
	mux_end_later(stream, SVC_E_TIMEDOUT, false, text);
}

/* What was given back with something left to be sent, of which the peer takes
 * none. */
static void
look_at_lingering(struct svc_mux *mux)
{
	int64_t idle_ms = mux->config.limits.idle_ms, every_ms = pace(mux);
	if (mux->n_lingering == 0 || idle_ms == SVC_FOREVER || every_ms == 0)
		return;
	int64_t ticks = idle_ms / every_ms;
	char text[120];
	snprintf(text, sizeof(text),
	    "the end of the stream was not read in %lld ms",
	    (long long)idle_ms);
	for (uint32_t i = 0; i < mux->n_buckets && ticks < UINT32_MAX; i++)
		for (struct svc_mux_stream *stream = mux->buckets[i], *next;
		     stream != NULL; stream = next) {
			next = stream->next;
			if (!stream->lingering ||
			    mux->ticks - stream->moved <= (uint32_t)ticks)
				continue;
			mux_queue_reset(
			    mux, stream->id, SVC_E_TIMEDOUT, false, text);
			mux_end_later(stream, SVC_E_TIMEDOUT, false, text);
		}
}

/* A listener's connection that had no stream for idle_ms: streams that the peer
 * opens before it reads this are served still. */
static void
ask_to_leave(struct svc_mux *mux)
{
	mux->idle_asked = true;
	mux->quiet = 0;
	mux_queue_frame(mux, FRAME_DRAIN, 0, UINT32_MAX, 0, NULL, 0);
	mux_queue_frame(mux, FRAME_PING, 0, 0, IDLE_PING, NULL, 0);
}

void
mux_pong(struct svc_mux *mux, uint32_t value)
{
	if (value == LAST_PING && mux->leave_asked) {
		mux->leave_asked = false;
		mux->close_due = true;
	}
	if (value != IDLE_PING || !mux->idle_asked)
		return;
	MUX_SET(mux->draining, true);
	mux->closing = true;
	mux->close_due = mux->close_due || mux->n_streams == 0;
}

static int64_t
linger_until(const struct svc_mux *mux)
{
	const int64_t *until_ms = mux->config.linger_until_ms;
	return until_ms != NULL ? __atomic_load_n(until_ms, __ATOMIC_RELAXED)
				: INT64_MAX;
}

/* A peer on a busy machine, or behind a slow line, pauses now and then. */
static void
linger_on(struct svc_mux *mux)
{
	uint32_t received = __atomic_load_n(&mux->received, __ATOMIC_RELAXED);
	bool lives =
	    mux->sent != mux->seen_sent || received != mux->seen_received;
	mux->seen_sent = mux->sent;
	mux->seen_received = received;
	mux->quiet = lives ? 0 : mux->quiet + 1;
	if (mux->quiet >= MAX_QUIET || ++mux->stuck >= MAX_LINGER ||
	    svc_now_ms() >= linger_until(mux))
		mux_fail(mux, SVC_E_CLOSED, "closed");
}

static void
start(struct svc_mux *mux, int64_t at_ms)
{
	/* Without memory for it there is no keepalive until the next stream. */
	if (svc_timer_start(mux->config.loop, &mux->timer, at_ms) != SVC_OK)
		mux->ticking = false;
}

static void
tick(struct svc_timer *timer)
{
	struct svc_mux *mux =
	    (struct svc_mux *)(void *)((char *)timer -
				       offsetof(struct svc_mux, timer));
	svc_biased_lock_take(&mux->lock);
	if (!mux->attached || mux->failed) {
		svc_biased_lock_leave(&mux->lock);
		return;
	}
	int64_t now_ms = svc_now_ms(), next_ms = INT64_MAX;
	int64_t every_ms = interval(mux);
	mux->ticks++;
	mux_adopt_left(mux);
	if (mux->leaving) {
		linger_on(mux);
		next_ms = now_ms + LINGER_MS;
	} else if (!mux->heard) {
		next_ms = mux->hello_at_ms;
		if (pace(mux) > 0 && now_ms + pace(mux) < next_ms)
			next_ms = now_ms + pace(mux);
		if (now_ms >= mux->hello_at_ms) {
			char text[160];
			snprintf(text, sizeof(text),
			    mux->config.server || mux->sent > 0
				? "%s sent no hello in %lld ms"
				: "cannot connect to %s in %lld ms",
			    mux->peer, (long long)mux->config.hello_ms);
			mux_fail(mux, SVC_E_UNAVAILABLE, text);
		}
	} else if (is_busy(mux) || newest_id(mux) != mux->seen_id) {
		mux->seen_id = newest_id(mux);
		mux->idle_at_ms = INT64_MAX;
		look_at_lingering(mux);
		if (every_ms > 0) {
			if (is_busy(mux))
				look_for_life(mux);
			look_at_granted(mux);
			next_ms = now_ms + every_ms;
		} else if (mux->config.server) {
			next_ms = svc_deadline(mux->config.limits.idle_ms);
			/* It does not answer. */
			if (mux->idle_asked && mux->n_streams == 0)
				mux_fail(mux, SVC_E_UNAVAILABLE, "idle");
		}
	} else {
		mux->ticking = false;
		mux->quiet = mux->stuck = 0;
		mux_free_spare(mux);
		if (mux->config.server) {
			if (mux->idle_at_ms == INT64_MAX)
				mux->idle_at_ms =
				    svc_deadline(mux->config.limits.idle_ms);
			next_ms = mux->idle_at_ms;
			if (next_ms <= now_ms) {
				ask_to_leave(mux);
				mux->ticking = true;
				next_ms =
				    now_ms +
				    (every_ms > 0
					    ? every_ms
					    : mux->config.limits.handshake_ms);
			}
		}
	}
	if (next_ms == INT64_MAX)
		mux->ticking = false;
	else if (!mux->failed)
		start(mux, next_ms);
	mux_unlock_and_flush(mux);
}

static void
arm_here(struct svc_mux *mux)
{
	mux->ticking = true;
	mux->quiet = mux->stuck = 0;
	mux->seen_received = __atomic_load_n(&mux->received, __ATOMIC_RELAXED);
	int64_t every_ms = pace(mux);
	if (every_ms > 0)
		start(mux, svc_deadline(every_ms));
}

static void
arm_run(struct svc_task *task)
{
	struct svc_mux *mux =
	    (struct svc_mux *)(void *)((char *)task -
				       offsetof(struct svc_mux, arm_task));
	svc_biased_lock_take(&mux->lock);
	mux->arm_posted = false;
	if (mux->attached && !mux->failed && !mux->ticking)
		arm_here(mux);
	svc_biased_lock_leave(&mux->lock);
	svc_mux_unref(mux);
}

void
mux_arm(struct svc_mux *mux)
{
	if (!mux->attached || mux->ticking || mux->arm_posted)
		return;
	if (svc_loop_current() == mux->config.loop) {
		arm_here(mux);
		return;
	}
	mux->arm_posted = true;
	mux->arm_task.run = arm_run;
	svc_mux_ref(mux); /* of the task */
	svc_loop_post(mux->config.loop, &mux->arm_task);
}

void
svc_mux_attach(struct svc_mux *mux)
{
	svc_biased_lock_take(&mux->lock);
	mux->attached = true;
	mux->timer.fire = tick;
	mux->idle_at_ms = INT64_MAX;
	mux->hello_at_ms = svc_deadline(mux->config.hello_ms);
	/* Once it is heard the next tick finds out what is to be watched. */
	int64_t at_ms = mux->hello_at_ms, every_ms = pace(mux);
	if (every_ms > 0 && svc_deadline(every_ms) < at_ms)
		at_ms = svc_deadline(every_ms);
	mux->ticking = true;
	start(mux, at_ms);
	svc_biased_lock_leave(&mux->lock);
}

void
svc_mux_detach(struct svc_mux *mux)
{
	svc_biased_lock_take(&mux->lock);
	if (mux->attached) {
		svc_timer_stop(mux->config.loop, &mux->timer);
		mux_burst_detach(mux);
	}
	mux->attached = false;
	mux_adopt_left(mux);
	mux_take_back(mux);
	mux_unlock_and_flush(mux);
}

bool
svc_mux_linger(struct svc_mux *mux)
{
	svc_biased_lock_take(&mux->lock);
	mux_adopt_left(mux);
	bool first = !mux->leaving;
	if (first)
		mux_reset_failed(mux);
	bool unsent = mux->out.len > 0 || mux->flushing || mux->n_lingering > 0;
	bool told = mux->config.server && mux->draining && !mux->failed;
	if (first && told)
		/* What came before this was run or refused; what comes behind
		 * it never will be. */
		mux_queue_frame(mux, FRAME_DRAIN, 0, mux->last_id, 0, NULL, 0);
	MUX_SET(mux->draining, true);
	mux->leaving = true;
	bool able =
	    mux->config.server && mux->heard && mux->attached && !mux->failed;
	if (first && able && (unsent || told))
		mux->leave_asked = true;
	if (mux->leave_asked && !mux->leave_pinged && mux->n_lingering == 0) {
		/* A system may throw away what the peer has not read yet when
		 * there is something that we have not, and a peer that writes
		 * fails before it reads: so see it answer. */
		mux->leave_pinged = true;
		mux_queue_frame(mux, FRAME_PING, 0, 0, LAST_PING, NULL, 0);
	}
	bool wait = able && (mux->out.len > 0 || mux->flushing ||
				mux->n_lingering > 0 || mux->leave_asked);
	if (first && wait) {
		mux->seen_sent = unsent ? mux->sent : mux->queued;
		mux->seen_received =
		    __atomic_load_n(&mux->received, __ATOMIC_RELAXED);
		mux->stuck = 0;
		mux->quiet = unsent ? 0 : MAX_QUIET - 1;
		if (svc_timer_start(mux->config.loop, &mux->timer,
			svc_deadline(unsent ? LINGER_MS : LEAVE_MS)) != SVC_OK)
			wait = false;
	}
	mux_unlock_and_flush(mux);
	return wait;
}
