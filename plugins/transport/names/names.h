/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TRANSPORT_NAMES_H
#define SVC_TRANSPORT_NAMES_H

/* Connects to whichever address of a name answers, for the transports. */

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>

/* A socket that is connected to it or about to be, or -1 and errno. */
int names_connect(const struct addrinfo *to);
/* A socket that is connected to one of them, whichever answers first, or -1 and
 * *ret_sys: ETIMEDOUT at the deadline, ECANCELED when *given_up (atomic) has
 * become true, else why the last one did not. They are tried in their order,
 * each NAMES_STAGGER_MS after the one before or when that has failed (RFC
 * 8305). It blocks. */
#define NAMES_STAGGER_MS 250
int names_connect_any(const struct addrinfo *found, int64_t deadline_at_ms,
    const bool *given_up, int *ret_sys);

#endif
