/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_BROWSER_H
#define MDNS_BROWSER_H

#include "mdns_net.h"
#include "mdns_table.h"

/**
 * Asks for nodes, knows those that answered or announced themselves, and tells
 * watches. Nothing is kept that nobody wants to know of. For one thread.
 */
struct owner;

/** How long answers are waited for. When there were none it is asked again, and
 * waited until the last figure. */
#define MDNS_SERVICE_WINDOW_MS 120
#define MDNS_ALL_WINDOW_MS 160
#define MDNS_LONG_WINDOW_MS 245

/** What somebody wants to know of: a service or all. */
struct mdns_browse {
	struct mdns_browse *next;
	char *service; /* NULL: all */
	char name[MDNS_NAME_SIZE];
	size_t refs;
	int64_t query_at_ms;
	int64_t interval_ms;
	int64_t sync_at_ms;   /* INT64_MAX until the question was asked */
	int64_t last_at_ms;   /* when it is in sync without any answer */
	bool synced;          /* the first answers are in, changes follow */
	struct owner *owners; /* services that were listed; only of all */
	size_t n_owners;
};

/** The first members are the caller's. */
struct mdns_watch {
	char *service; /* NULL: all */
	svc_watch_sink sink;
	void *arg;
	struct mdns_watch *next;
	struct mdns_browse *browse;
	bool synced;
};

struct mdns_browser {
	struct mdns_net *net;
	struct mdns_browse *browses;
	struct mdns_watch *watches;
	struct mdns_table table;
	uint64_t lacked; /* what the table's was at the last tick */
};

void mdns_browser_init(struct mdns_browser *browser, struct mdns_net *net);
/** Watches must have ended. */
void mdns_browser_fini(struct mdns_browser *browser);

/** Wants to know of a service, or of all when NULL; the question is asked by
 * the next tick, or by mdns_browser_ask. NULL when memory ran out. */
struct mdns_browse *mdns_browser_ref(
    struct mdns_browser *browser, const char *service);
void mdns_browser_unref(
    struct mdns_browser *browser, struct mdns_browse *browse);
/** Asks now. The first question opens the window in which answers are
 * collected. Errors: of mdns_net_multicast, SVC_E_NOMEM */
svc_err mdns_browser_ask(struct mdns_browser *browser,
    struct mdns_browse *browse, struct svc_error *err);

/** How many nodes are known of a service, or of all when NULL. */
size_t mdns_browser_count(struct mdns_browser *browser, const char *service);

/** BEGIN and what is known are told at once. Errors: SVC_E_NOMEM */
svc_err mdns_browser_watch(
    struct mdns_browser *browser, struct mdns_watch *watch);
void mdns_browser_unwatch(
    struct mdns_browser *browser, struct mdns_watch *watch);

/** Takes what a packet that arrived at `unix_us` tells. */
void mdns_browser_hear(struct mdns_browser *browser, const void *data,
    size_t len, int64_t unix_us);
/** There are new links: everything is asked for again. */
void mdns_browser_links(struct mdns_browser *browser);
/** Asks what is due, drops what has expired. Returns when to come again. */
int64_t mdns_browser_tick(struct mdns_browser *browser);

#endif
