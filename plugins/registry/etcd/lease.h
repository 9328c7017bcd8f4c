/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_LEASE_H
#define SVC_ETCD_LEASE_H

#include "client.h"

/**
 * Put `value` under `key` with a lease of at least ttl_ms, or renew it. Each
 * key has a lease of its own: what is not announced any more must go although
 * the same process goes on announcing others.
 * Errors: as etcd_ask
 */
svc_err lease_announce(struct etcd *etcd, const char *key, const char *value,
    int64_t ttl_ms, struct svc_error *err);
/** Delete the key and forget its lease. Errors: as etcd_ask */
svc_err lease_withdraw(
    struct etcd *etcd, const char *key, struct svc_error *err);
void lease_forget_all(struct etcd *etcd);

#endif
