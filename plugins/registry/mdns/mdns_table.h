/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_TABLE_H
#define MDNS_TABLE_H

#include "mdns_found.h"

/**
 * The nodes that were heard of, each until the TTL of its records passes. For
 * one thread. It takes only what `wanted` says, so that its size is that of
 * what is being watched, and at most MDNS_TABLE_MAX nodes.
 */
#define MDNS_TABLE_MAX 10000

struct mdns_table_ops {
	/** Whether the node of this name is to be kept at all. */
	bool (*wanted)(const char *instance, void *arg);
	/** The same for the service that the record is of. */
	bool (*wanted_service)(const char *service, void *arg);
	/** SVC_WATCH_NODE or SVC_WATCH_GONE, with a record of one node. */
	void (*changed)(
	    svc_watch_event event, const struct svc_record *record, void *arg);
	/** The service's nodes will expire unless they answer a question. */
	void (*refresh)(const char *service, void *arg);
};

struct mdns_known;
struct mdns_table {
	struct mdns_known *buckets[1024];
	size_t n;
	int64_t due_at_ms; /* when mdns_table_tick has something to do */
	uint64_t skipped;  /* records that did not decode */
	/* Grows when memory ran out for something that was heard: what is
	 * wanted has to be asked for again. */
	uint64_t lacked;
	bool full_logged;
	const struct mdns_table_ops *ops;
	void *arg;
};

void mdns_table_init(
    struct mdns_table *table, const struct mdns_table_ops *ops, void *arg);
void mdns_table_fini(struct mdns_table *table);
/** Take what a packet that arrived at `unix_us` says. */
void mdns_table_hear(
    struct mdns_table *table, const struct mdns_found *found, int64_t unix_us);
/** Drop what has expired and ask for what is about to. */
void mdns_table_tick(struct mdns_table *table);
/** Drop, without a word, what is no longer wanted. */
void mdns_table_purge(struct mdns_table *table);
/** Those of the service that owns `owner` whose TTL has passed less than half:
 * no need to tell us of them. */
void mdns_table_known(const struct mdns_table *table, const char *owner,
    void (*each)(
	const char *owner, const char *instance, uint32_t ttl_left, void *arg),
    void *arg);
/** Every node of `service`, or of all when NULL. */
void mdns_table_each(const struct mdns_table *table, const char *service,
    void (*each)(const struct svc_record *record, void *arg), void *arg);

#endif
