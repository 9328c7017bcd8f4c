/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_LEASE_H
#define SVC_ETCD_LEASE_H

#include "client.h"

/**
 * Keeps keys in etcd: all with the same TTL hang on one lease, which a thread
 * renews at a third of it, whatever the interval of the announcements. What
 * was lost in etcd is put again at once; a key that is not announced within
 * its TTL is deleted, since the lease lives on for the others. A process that
 * dies renews nothing, so its lease ends.
 *
 * Threads: any, except creating and destroying.
 */
struct keeper;

/** Errors: SVC_E_NOMEM */
svc_err keeper_create(
    struct etcd *etcd, struct keeper **ret_keeper, struct svc_error *err);
/** What is there stays until its TTL passes. NULL is fine. */
void keeper_destroy(struct keeper *keeper);

/** Sees to it, within `timeout_ms`, that `key` has `value` now, and for ttl_ms.
 * Errors: of etcd_ask; SVC_E_EXHAUSTED (no thread) */
svc_err keeper_announce(struct keeper *keeper, const char *key,
    const char *value, int64_t ttl_ms, int64_t timeout_ms,
    struct svc_error *err);
/** Deletes it, within `timeout_ms`. When that fails, it is tried again for as
 * long as the keeper lives. Errors: of etcd_ask */
svc_err keeper_withdraw(struct keeper *keeper, const char *key,
    int64_t timeout_ms, struct svc_error *err);

#endif
