/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_LOOP_PRIVATE_H
#define SVC_LOOP_PRIVATE_H

/* Between executor.c, which has the threads, and loop.c, which has the loops.
 */

#include <stdatomic.h>
#include <svc/clock.h>
#include <svc/executor.h>
#include <sys/types.h>

svc_err svc_loop_create(struct svc_executor *executor,
    struct svc_loop **ret_loop, struct svc_error *err);
void svc_loop_destroy(struct svc_loop *loop);
/* Run it on the calling thread until it stops or, then true, is taken over. */
bool svc_loop_run(struct svc_loop *loop);
void svc_loop_stop(struct svc_loop *loop);

/* The ownership token: a number unique to each run of foreign code, shifted
 * left by one, with the lowest bit set while that code runs. */
uint64_t svc_loop_token(const struct svc_loop *loop);
/* The system's number of the thread that runs it, or was the last to. */
pid_t svc_loop_thread(const struct svc_loop *loop);
bool svc_loop_asleep(const struct svc_loop *loop);
/* Take the loop from the thread that still runs code of this token. */
bool svc_loop_disown(struct svc_loop *loop, uint64_t token);

/* Disown the loop and let a spare thread run it; false when the code returned
 * meanwhile or there is no thread. */
bool svc_executor_take_over(
    struct svc_executor *executor, struct svc_loop *loop, uint64_t token);
/* A loop woke up: the monitor must not stay parked. */
void svc_executor_busy(struct svc_executor *executor);

#endif
