/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_KV_H
#define SVC_ETCD_KV_H

#include "client.h"

/* Keys as go-micro makes them: /micro/registry/<service>/<node id>. */

/** The key of a node, to be freed with svc_mem_free; NULL when memory ran out.
 */
char *kv_key(const char *service, const char *id);
/** Appends "key":..,"range_end":.. of a service's nodes, or of all for NULL.
 */
void kv_put_range(struct svc_buf *body, const char *service);
/** Appends the base64 of `data` as a JSON string. */
void kv_put_base64(struct svc_buf *body, const void *data, size_t len);

/**
 * Calls `sink` with the one node that a kv of an answer describes. What is no
 * record of that key is skipped, counted and logged once.
 */
void kv_deliver(
    struct etcd *etcd, const cJSON *kv, svc_record_sink sink, void *arg);
/** The same for a key that was deleted; `old` is its last value, if known. */
void kv_deliver_gone(struct etcd *etcd, const cJSON *kv, const cJSON *old,
    svc_record_sink sink, void *arg);

/** How a range asks: etcd_ask, or a watch on its own connection. */
typedef svc_err (*kv_asker)(void *arg, const char *path,
    const struct svc_buf *body, cJSON **ret_answer, struct svc_error *err);
/**
 * Everything of a service (NULL: of all), page by page at one revision, which
 * is given back. `sink` may have been called when it fails.
 * Errors: of `ask`
 */
svc_err kv_range(struct etcd *etcd, const char *service, kv_asker ask,
    void *ask_arg, svc_record_sink sink, void *arg, int64_t *ret_revision,
    struct svc_error *err);

#endif
