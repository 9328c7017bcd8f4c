/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When the messages of a stream, and requests, are written.
 *
 * A message is written at once by who sends it. But when more than a few are
 * sent in a row, without an answer and less than 20 us apart, they gather in
 * the output, and who sends them writes it once 64 KiB or 0.1 ms have come
 * together: a system call for many messages, and no other thread is woken for
 * it. What is left of a burst goes with whatever is written next on the
 * connection, or when the sender says that it waits (svc_mux_flush), or else
 * the loop sweeps it up within two milliseconds.
 *
 * A request is written at once by its caller. But when a caller that does not
 * wait for the answer comes less than 20 us after another one, the loop is
 * asked to write, and what is called until it comes to that goes in the same
 * write: a caller on its own is not delayed, and one with many calls is not
 * slowed by a system call for each.
 */
#include "mux_private.h"

#define AHEAD 16   /* in a row, written one by one */
#define BUSY_US 20 /* apart at most, in the mean */
#define LOOK 8     /* messages: then the clock is read */
#define GATHER_US 100
#define MUCH 65536
#define SWEEP_MS 1

static void
sweep_fire(struct svc_timer *timer)
{
	struct svc_mux *mux =
	    (struct svc_mux *)(void *)((char *)timer -
				       offsetof(struct svc_mux, sweep));
	svc_biased_lock_take(&mux->lock);
	bool more = mux->queued != mux->swept && !mux->failed;
	mux->swept = mux->queued;
	if (!more || svc_timer_start(mux->config.loop, &mux->sweep,
			 svc_deadline(SWEEP_MS)) != SVC_OK)
		mux->sweeping = false;
	mux_unlock_and_flush(mux);
}

static void
sweep_run(struct svc_task *task)
{
	struct svc_mux *mux =
	    (struct svc_mux *)(void *)((char *)task -
				       offsetof(struct svc_mux, sweep_task));
	svc_biased_lock_take(&mux->lock);
	mux->sweep.fire = sweep_fire;
	if (!mux->attached || svc_timer_start(mux->config.loop, &mux->sweep,
				  svc_deadline(SWEEP_MS)) != SVC_OK)
		mux->sweeping = false;
	bool swept = mux->sweeping;
	if (swept)
		svc_biased_lock_leave(&mux->lock);
	else
		mux_unlock_and_flush(mux);
	svc_mux_unref(mux);
}

/* False when nobody would sweep up what is left. */
static bool
begin_gathering(struct svc_mux *mux, int64_t now_us)
{
	if (svc_clock_is_manual())
		return false;
	mux->gathered_at_us = now_us;
	if (mux->sweeping)
		return true;
	mux->sweeping = true;
	mux->sweep_task.run = sweep_run;
	svc_mux_ref(mux); /* of the task */
	svc_loop_post(mux->config.loop, &mux->sweep_task);
	return true;
}

/* Looks at the clock now and then: false when the messages are too far apart.
 */
static bool
is_quick(struct svc_mux_stream *stream)
{
	uint32_t messages = stream->ahead <= AHEAD ? 1 : LOOK;
	if (messages == LOOK && stream->ahead % LOOK != 0)
		return true;
	int64_t now_us = svc_now_us();
	int64_t before_us = atomic_exchange_explicit(
	    &stream->looked_at_us, now_us, memory_order_relaxed);
	return before_us == 0 ||
	       now_us - before_us <= BUSY_US * (int64_t)messages;
}

bool
mux_in_burst(const struct svc_mux_stream *stream)
{
	return stream->ahead > AHEAD;
}

bool
mux_burst_gathers(struct svc_mux_stream *stream, size_t size)
{
	struct svc_mux *mux = stream->mux;
	/* One more small message would make a second read of it, and another
	 * record of TLS. */
	size_t next = size <= MUCH / 16 ? size : 0;
	stream->ahead++;
	if (!is_quick(stream)) {
		stream->ahead = 0;
		return false;
	}
	if (!mux_in_burst(stream) || stream->pending != NULL ||
	    mux->out.len + next >= MUCH || mux->close_due ||
	    mux->config.loop == NULL || svc_loop_kept())
		return false;
	int64_t now_us =
	    atomic_load_explicit(&stream->looked_at_us, memory_order_relaxed);
	if (mux->gathered_at_us == 0 && !begin_gathering(mux, now_us))
		return false;
	return now_us - mux->gathered_at_us < GATHER_US;
}

static void
write_run(struct svc_task *task)
{
	struct svc_mux *mux =
	    (struct svc_mux *)(void *)((char *)task -
				       offsetof(struct svc_mux, write_task));
	svc_biased_lock_take(&mux->lock);
	mux->write_posted = false;
	mux_unlock_and_flush(mux);
	svc_mux_unref(mux);
}

bool
mux_burst_of_calls(struct svc_mux *mux)
{
	if (mux->write_posted)
		return mux->out.len < MUCH;
	if (mux->config.loop == NULL || mux_batch == mux ||
	    svc_clock_is_manual())
		return false;
	int64_t now_us = svc_now_us();
	bool quick = now_us - mux->called_at_us <= BUSY_US;
	mux->called_at_us = now_us;
	if (!quick || !mux->attached || mux->close_due || mux->unref_due)
		return false;
	mux->write_posted = true;
	mux->write_task.run = write_run;
	svc_mux_ref(mux);
	svc_loop_post(mux->config.loop, &mux->write_task);
	return true;
}

void
mux_burst_written(struct svc_mux_stream *stream)
{
	atomic_store_explicit(
	    &stream->looked_at_us, svc_now_us(), memory_order_relaxed);
}

void
mux_burst_waits(struct svc_mux_stream *stream)
{
	atomic_store_explicit(&stream->looked_at_us, 0, memory_order_relaxed);
}

/* Of a large batch the first half's answers go when they are made, so that the
 * peer works on them while we make the others: both are busy at once, and not
 * by turns. A write for the few that may follow would cost more than it brings.
 */
void
mux_burst_half(struct svc_mux *mux, const struct mux_input *in)
{
	size_t handled = *in->offset - in->begin;
	if (in->len - *in->offset >= handled / 2)
		mux->config.ops->flush(mux);
}

void
mux_burst_detach(struct svc_mux *mux)
{
	svc_timer_stop(mux->config.loop, &mux->sweep);
}

void
svc_mux_flush(struct svc_stream_handle *handle)
{
	struct svc_mux *mux = svc_mux_of(handle);
	svc_biased_lock_take(&mux->lock);
	mux_unlock_and_flush(mux);
}
