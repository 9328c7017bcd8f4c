/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CLOCK_PRIVATE_H
#define SVC_CLOCK_PRIVATE_H

#include <svc/clock.h>

/**
 * Call `fn(arg)` whenever the clock was moved by hand or exchanged, so that
 * what waits by other means than svc_cond_wait can look at it again. `fn` may
 * do no more than wake somebody: it runs under a lock of the clock.
 * Errors: SVC_E_NOMEM
 */
svc_err svc_clock_on_advance(void (*fn)(void *arg), void *arg);
/** Takes that back. `fn` does not run any more once this returns. */
void svc_clock_off_advance(void (*fn)(void *arg), void *arg);

#endif
