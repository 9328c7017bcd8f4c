/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TRANSPORT_NAMES_H
#define SVC_TRANSPORT_NAMES_H

/* Hosts and their addresses, for the transports: how they are written, and how
 * whichever address of a name answers is connected to. */

#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>
#include <svc/error.h>
#include <sys/socket.h>

/* "host:port" or "[v6]:port"; an address of a link with its interface, as
 * "[fe80::1%eth0]:80", for it says nothing without. "" for other families. */
void names_format(
    const struct sockaddr_storage *address, char *out, size_t size);
/* No host, or *: every interface, of both families. */
bool names_every(const char *host);
/* That `host`, of `address`, is not of a link that nobody knows.
 * Errors: SVC_E_INVAL */
svc_err names_check_link(
    const char *host, const char *address, struct svc_error *err);

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
