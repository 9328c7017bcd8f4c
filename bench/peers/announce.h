/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_ANNOUNCE_H
#define BENCH_ANNOUNCE_H

#include <svc/svc.h>

/* Makes a node of the service "echo" known to `service` that is in another
 * process. */
void bench_announce(
    struct svc_service *service, const char *address, const char *id, bool tls);
/* svc_init with one loop, as the other contestants have one thread a side. */
svc_err bench_init(struct svc_service *service);
/* A service that only calls; `ca` is NULL without TLS. */
struct svc_service *bench_caller(const char *ca);

#endif
