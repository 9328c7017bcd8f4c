/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_SUPPORT_SCARCE_H
#define SVC_TEST_SUPPORT_SCARCE_H

#include <stdbool.h>

/**
 * Allocations of svc that fail: between begin and end, which are called while
 * there are no other threads, scarce_at(n) makes the one after n others fail,
 * in whatever thread, and none when n is negative, as at the begin. scarce_hit
 * tells whether that one was reached, also after the end. Those of a thread
 * that is exempt do not count. A sweep goes on until one is not reached:
 *
 *	bool hit = true;
 *	scarce_begin();
 *	for (long n = 0; hit; n++) {
 *		scarce_at(n);
 *		...
 *		hit = scarce_hit();
 *	}
 *	scarce_end();
 */
void scarce_begin(void);
void scarce_end(void);
void scarce_at(long n);
bool scarce_hit(void);
void scarce_exempt(bool on); /* of the calling thread; it nests */

#endif
