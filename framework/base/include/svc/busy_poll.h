/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_BUSY_POLL_H
#define SVC_BUSY_POLL_H

#include <svc/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Whether to look for input a moment longer before sleeping for it.
 *
 * To fall asleep and to be woken costs a thread, and whoever wakes it, more
 * than a short look does. So a wait that is mostly a short one is better spent
 * with looking: at most as long as sleeping would have cost. With that bound a
 * wrong guess costs twice the best choice, as competitive spinning of locks has
 * it (Karlin et al., "Empirical studies of competitive spinning", SOSP 1991).
 *
 * Each place that waits learns from its own waits. It looks while most looks
 * find something within the limit; otherwise it sleeps at once, and tries again
 * only after waits that were short, more rarely each time it was wrong. So what
 * is idle, or waits for a distant peer, never looks. Neither does who has many
 * sources by turns and works longer than it waits: while it slept, several of
 * them would gather, and share what a wake-up costs. Nobody looks while half as
 * many other loops and callers of the process as it has processors are awake:
 * who looks would take the place of one that has work, and the other half is
 * for those who are to send what is looked for. On one processor nobody looks.
 *
 *	int64_t now_us = svc_now_us();
 *	int64_t until_us = svc_busy_poll_begin(&poll, limit_us, now_us);
 *	while (!come && now_us < until_us) {
 *		come = look();
 *		now_us = svc_now_us();
 *	}
 *	svc_busy_poll_looked(&poll, come, crowd, now_us);
 *	if (!come)
 *		svc_busy_poll_slept(&poll, sleep(), crowd, svc_now_us());
 *
 * Of one place that waits, zeroed at first. Threads: whoever waits there.
 */
struct svc_busy_poll {
	bool looks, adds; /* all private */
	int64_t began_us, ended_us, limit_us;
	int score;         /* above 0: it looks */
	unsigned to_begin; /* short waits until it tries to */
	unsigned pause;    /* of these, the next time it was wrong */
};

/** The calling thread, which runs a loop, is awake, or sleeps or runs none any
 * more. Twice is once. */
SVC_API void svc_busy_poll_awake(bool awake);
/** A wait begins: until when to look. A time that is over: not at all, as also
 * under a manual clock or when `limit_us` is 0. Times are those of svc_now_us.
 * Each needs its svc_busy_poll_looked. */
SVC_API int64_t svc_busy_poll_begin(
    struct svc_busy_poll *poll, int64_t limit_us, int64_t now_us);
/** The look is over; `come` when it found anything, `crowd` when that was from
 * other sources than at the wait before. */
SVC_API void svc_busy_poll_looked(
    struct svc_busy_poll *poll, bool come, bool crowd, int64_t now_us);
/** And so is the sleep that followed; `come` when it did not end for another
 * reason. */
SVC_API void svc_busy_poll_slept(
    struct svc_busy_poll *poll, bool come, bool crowd, int64_t now_us);

#ifdef __cplusplus
}
#endif

#endif
