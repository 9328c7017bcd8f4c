/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_KV_H
#define SVC_ETCD_KV_H

/* Keys and values as go-micro makes them: under /micro/registry/<service>/
 * <node id> the JSON of a service with that node. */

#include "message.h"

#include <address/skips.h>

#include <svc/registry.h>

enum { KV_RANGE_MAX = 1 << 14 };

/** The key of a node, to be freed with svc_mem_free; NULL when memory ran out.
 */
char *kv_key(const char *service, const char *id);
/** Appends "key":..,"range_end":.. of a service's nodes, or of all for NULL.
 */
void kv_put_range(struct svc_buf *body, const char *service);
/** Appends "key":.. of the first key that this range might have. It never is
 * there, so asking for it costs next to nothing. */
void kv_put_first(struct svc_buf *body, const char *service);

/**
 * Calls `sink` with the one node that a kv of an answer describes. What is no
 * record of that key is skipped, counted and logged once.
 * Errors: SVC_E_NOMEM
 */
svc_err kv_deliver(
    struct skips *skips, const cJSON *kv, svc_record_sink sink, void *arg);
/** The same for an event of a watch: SVC_WATCH_NODE or SVC_WATCH_GONE. */
svc_err kv_deliver_event(
    struct skips *skips, const cJSON *event, svc_watch_sink sink, void *arg);

/** Everything of a service, page by page at one revision. Begins as zero or
 * with kv_range_begin. */
struct kv_range {
	const char *service; /* borrowed; NULL: all */
	char *from; /* where the next page begins; NULL: at the first */
	size_t from_len;
	int64_t revision; /* 0: not known before the first page */
	bool more;        /* pages are left */
};
void kv_range_begin(struct kv_range *range, const char *service);
void kv_range_fini(struct kv_range *range);
/** Appends the question for the next page, of at most KV_RANGE_MAX. */
void kv_range_put(const struct kv_range *range, struct svc_buf *body);
/** Takes the page. `sink` may have been called when it fails.
 * Errors: SVC_E_NOMEM */
svc_err kv_range_take(struct kv_range *range, struct skips *skips,
    const cJSON *answer, svc_record_sink sink, void *arg,
    struct svc_error *err);

typedef svc_err (*kv_asker)(void *arg, const char *path,
    const struct svc_buf *body, cJSON **ret_answer, struct svc_error *err);
/** All pages at once. `sink` may have been called when it fails.
 * Errors: of `ask`; SVC_E_NOMEM */
svc_err kv_range(struct skips *skips, const char *service, kv_asker ask,
    void *ask_arg, svc_record_sink sink, void *arg, struct svc_error *err);

#endif
