/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REDIS_STORE_H
#define SVC_REDIS_STORE_H

#include "link.h"

/*
 * What lies in redis, for the namespace "svc":
 *
 *   {svc}:node:student/student-1   the node's record in go-micro's JSON, a
 *                                  string that expires with the TTL
 *   {svc}:nodes:student            sorted set of the ids of its nodes, with
 *                                  the time at which each expires (the
 *                                  server's clock, milliseconds)
 *   {svc}:services                 sorted set of service names, likewise
 *
 * and who changes a node publishes "student/student-1" on the channels
 * {svc}:change:<database>:student and {svc}:change:<database>. The braces keep
 * all keys of a namespace in one slot of a cluster. Ids and names hold no '/',
 * and a namespace no ':' nor brace, so keys of two namespaces, services or
 * nodes are never the same.
 */

struct store_key {
	char text[1024]; /* more than names may need */
};

/** Where the changes of `service`, or of all when NULL, are told; `key` is
 * filled in and its text returned. */
const char *store_channel(
    const struct redis *redis, const char *service, struct store_key *key);

svc_err store_announce(struct redis *redis, struct link *link,
    const struct svc_record *record, const char *json, int64_t ttl_ms,
    int64_t deadline_at_ms, struct svc_error *err);
svc_err store_withdraw(struct redis *redis, struct link *link,
    const struct svc_record *record, int64_t deadline_at_ms,
    struct svc_error *err);

/** One node with its value, which store_record reads; NULL when it is not
 * there. `expires_at_ms` is by our own clock. */
typedef void (*store_sink)(const char *service, const char *id,
    const void *value, size_t len, int64_t expires_at_ms, void *arg);
/** The record, if the value is one of this very node; else NULL, and the log
 * says so once for each key. To be freed with svc_record_destroy.
 * Errors: SVC_E_NOMEM */
svc_err store_record(struct redis *redis, const char *service, const char *id,
    const void *value, size_t len, struct svc_record **ret_record);
/** Every node of `service`, or of all when NULL. Those that are not there are
 * left out. */
svc_err store_pull(struct redis *redis, struct link *link, const char *service,
    int64_t deadline_at_ms, store_sink sink, void *arg, struct svc_error *err);

struct store_name {
	char *service, *id;
};
/** These nodes. */
svc_err store_look(struct redis *redis, struct link *link,
    const struct store_name *names, size_t n, int64_t deadline_at_ms,
    store_sink sink, void *arg, struct svc_error *err);

#endif
