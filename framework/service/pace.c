/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which endpoints are slow, learned from their calls.
 *
 * A handler runs on the loop that read its call, and when it blocks the loop
 * is taken over a little later. Where that happens often, the loop is given
 * away before the handler begins, so that nobody waits for the monitor.
 *
 * A score counts LOST up for each call that lost its loop and 1 down for each
 * that did not, so it climbs when more than one call in ten is slow. An
 * endpoint without slow calls stays at 0 and writes nothing that threads
 * share; the others count each SAMPLEth fast call as SAMPLE.
 *
 * Of a slow endpoint's calls, a probe now and then begins on the loop, to see
 * whether it has become fast; the more rarely, the more often that has failed.
 */
#include "server.h"

#define LOST 9
#define SLOW_AT (8 * LOST)
#define MOST (16 * LOST)
#define SAMPLE 16
#define PROBE_MIN 4
#define PROBE_MAX 1024

static bool
is_slow(const struct svc_pace *pace)
{
	return atomic_load_explicit(&pace->score, memory_order_relaxed) >=
	       SLOW_AT;
}

bool
svc_pace_begin(struct svc_pace *pace)
{
	if (!svc_loop_held())
		return false;
	if (!is_slow(pace))
		return true;
	uint32_t every =
	    atomic_load_explicit(&pace->probe_every, memory_order_relaxed);
	uint32_t turn = atomic_fetch_add_explicit(
	    &pace->since_probe, 1, memory_order_relaxed);
	if (turn + 1 >= every) {
		atomic_store_explicit(
		    &pace->since_probe, 0, memory_order_relaxed);
		return true;
	}
	svc_will_block();
	return false;
}

static void
count(struct svc_pace *pace, int32_t change)
{
	int32_t score =
	    atomic_load_explicit(&pace->score, memory_order_relaxed);
	int32_t next;
	do {
		next = score + change;
		if (next < 0)
			next = 0;
		if (next > MOST)
			next = MOST;
	} while (next != score &&
		 !atomic_compare_exchange_weak_explicit(&pace->score, &score,
		     next, memory_order_relaxed, memory_order_relaxed));
}

bool
svc_pace_end(struct svc_pace *pace, bool on_loop)
{
	if (!on_loop)
		return false;
	bool lost = !svc_loop_held();
	if (is_slow(pace)) {
		uint32_t every = atomic_load_explicit(
		    &pace->probe_every, memory_order_relaxed);
		every = !lost                       ? PROBE_MIN
			: every < PROBE_MAX / 2 + 1 ? 2 * every
						    : PROBE_MAX;
		atomic_store_explicit(
		    &pace->probe_every, every, memory_order_relaxed);
		/* A probe stands for more calls than itself. */
		count(pace, lost ? PROBE_MIN * LOST : -PROBE_MIN);
		return !lost;
	}
	if (lost) {
		count(pace, LOST);
		if (is_slow(pace))
			atomic_store_explicit(&pace->probe_every, 4 * PROBE_MIN,
			    memory_order_relaxed);
		return false;
	}
	if (atomic_load_explicit(&pace->score, memory_order_relaxed) > 0 &&
	    svc_random_below(SAMPLE) == 0)
		count(pace, -SAMPLE);
	return true;
}
