/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CHAOS_CHILD_H
#define SVC_CHAOS_CHILD_H

#include <svc/svc.h>

#define CHAOS_SERVICE "chaos"
#define CHAOS_ENDPOINT "Chaos.Ping"
/** Set for children that live by a clock which can be told to run fast. */
#define CHAOS_CLOCK "CHAOS_CLOCK"

/** The file that the preloaded library wall_clock.c reads. */
#define CHAOS_WALL_CLOCK "CHAOS_WALL_CLOCK"

/** The programs that the suite starts: the same executable with "node" or
 * "client" and the flags of a service. They take the line "clock N" on
 * standard input (with CHAOS_CLOCK): from then on the framework's clock runs N
 * times as fast. */
int chaos_node(int argc, char *argv[]);
int chaos_client(int argc, char *argv[]);

/** Before any thread: puts the framework's manual clock in place if
 * CHAOS_CLOCK is set, and a thread that moves it; reads standard input. */
void chaos_child_begin(void);

#endif
