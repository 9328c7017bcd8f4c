/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_browser.h"

#include "mdns_name.h"

#include <svc/clock.h>

#include <string.h>

/* Questions are repeated after 1 s, 2 s, 4 s, ... */
#define QUERY_FIRST_MS 1000
#define QUERY_LAST_MS (60 * 60 * 1000)
#define OWNERS_MAX 4096
#define OWNER_GAP_MS 500

/** A service that was seen in a list, by the name that owns its nodes. */
struct owner {
	struct owner *next;
	int64_t asked_at_ms;
	char name[];
};

/** A question and what is known of its answers, in packets. */
struct asking {
	struct mdns_browser *browser;
	struct mdns_writer writer;
	bool own_port;
	bool full; /* the rest does not fit one packet */
	svc_err rc;
	struct svc_error *err;
};

static void
asking_send(struct asking *asking)
{
	svc_err rc = mdns_write_end(&asking->writer);
	if (asking->rc == SVC_OK && rc != SVC_OK)
		asking->rc =
		    svc_error_set(asking->err, rc, "cannot write a packet");
	if (asking->rc == SVC_OK)
		asking->rc = mdns_net_multicast(asking->browser->net,
		    MDNS_ALL_LINKS, asking->own_port, asking->writer.data,
		    asking->writer.len, asking->err);
}

/* go-micro passes over a question of which more is to come, so from our own
 * port there is one packet with what fits in. */
static void
asking_known(
    const char *owner, const char *instance, uint32_t ttl_left, void *arg)
{
	struct asking *asking = arg;
	struct mdns_record record = {.name = owner,
	    .type = MDNS_TYPE_PTR,
	    .ttl = ttl_left,
	    .target = instance};
	if (asking->full)
		return;
	if (asking->writer.len + strlen(instance) + 16 > MDNS_PAYLOAD_SOFT) {
		if (asking->own_port) {
			asking->full = true;
			return;
		}
		asking->writer.header.flags |= MDNS_FLAG_TRUNCATED;
		asking_send(asking);
		mdns_write(&asking->writer, 0, 0);
	}
	mdns_write_record(&asking->writer, MDNS_ANSWER, &record, false);
}

/* Twice: mDNS peers answer to the group when they are asked from its port;
 * go-micro answers only to the port it was asked from, which then has to be
 * our own. That is also the quicker way. */
static svc_err
ask(struct mdns_browser *browser, const char *name, struct svc_error *err)
{
	struct asking asking = {.browser = browser, .err = err};
	for (int own_port = 1; own_port >= 0 && asking.rc == SVC_OK;
	     own_port--) {
		asking.own_port = own_port != 0;
		asking.full = false;
		mdns_write(&asking.writer, 0, 0);
		mdns_write_question(
		    &asking.writer, name, MDNS_TYPE_PTR, MDNS_CLASS_IN);
		mdns_table_known(&browser->table, name, asking_known, &asking);
		asking_send(&asking);
	}
	return asking.rc;
}

static struct mdns_browse *
browse_find(struct mdns_browser *browser, const char *service)
{
	struct mdns_browse *browse = browser->browses;
	while (
	    browse != NULL && (service == NULL || browse->service == NULL
				      ? service != browse->service
				      : strcmp(browse->service, service) != 0))
		browse = browse->next;
	return browse;
}

struct mdns_browse *
mdns_browser_ref(struct mdns_browser *browser, const char *service)
{
	struct mdns_browse *browse = browse_find(browser, service);
	if (browse != NULL) {
		browse->refs++;
		return browse;
	}
	browse = svc_mem_calloc(1, sizeof(*browse));
	if (browse == NULL)
		return NULL;
	if (service == NULL) {
		memcpy(browse->name, MDNS_LIST, sizeof(MDNS_LIST));
	} else {
		browse->service = svc_mem_strdup(service);
		if (browse->service == NULL) {
			svc_mem_free(browse);
			return NULL;
		}
		mdns_service_name(service, browse->name);
	}
	browse->refs = 1;
	browse->query_at_ms = svc_now_ms();
	browse->interval_ms = QUERY_FIRST_MS;
	browse->sync_at_ms = INT64_MAX;
	browse->next = browser->browses;
	browser->browses = browse;
	return browse;
}

static void
owners_clear(struct mdns_browse *browse)
{
	while (browse->owners != NULL) {
		struct owner *owner = browse->owners;
		browse->owners = owner->next;
		svc_mem_free(owner);
	}
	browse->n_owners = 0;
}

static void
browse_destroy(struct mdns_browse *browse)
{
	owners_clear(browse);
	svc_mem_free(browse->service);
	svc_mem_free(browse);
}

void
mdns_browser_unref(struct mdns_browser *browser, struct mdns_browse *browse)
{
	if (--browse->refs > 0)
		return;
	struct mdns_browse **at = &browser->browses;
	while (*at != browse)
		at = &(*at)->next;
	*at = browse->next;
	browse_destroy(browse);
	mdns_table_purge(&browser->table);
}

svc_err
mdns_browser_ask(struct mdns_browser *browser, struct mdns_browse *browse,
    struct svc_error *err)
{
	int64_t now = svc_now_ms();
	svc_err rc = ask(browser, browse->name, err);
	if (rc != SVC_OK) {
		browse->query_at_ms = now + QUERY_FIRST_MS;
		return rc;
	}
	if (browse->sync_at_ms == INT64_MAX) {
		browse->sync_at_ms =
		    now + (browse->service != NULL ? MDNS_SERVICE_WINDOW_MS
						   : MDNS_ALL_WINDOW_MS);
		browse->last_at_ms = now + MDNS_LONG_WINDOW_MS;
	}
	browse->query_at_ms = now + browse->interval_ms;
	browse->interval_ms *= 2;
	if (browse->interval_ms > QUERY_LAST_MS)
		browse->interval_ms = QUERY_LAST_MS;
	return SVC_OK;
}

/* What memory was lacking for is unknown, and so it is answered. */
static void
ask_soon(struct mdns_browser *browser)
{
	int64_t at_ms = svc_now_ms() + QUERY_FIRST_MS;
	browser->lacked = browser->table.lacked;
	for (struct mdns_browse *browse = browser->browses; browse != NULL;
	     browse = browse->next)
		if (browse->query_at_ms > at_ms)
			browse->query_at_ms = at_ms;
}

static void
count_node(const struct svc_record *record, void *arg)
{
	(void)record;
	++*(size_t *)arg;
}

size_t
mdns_browser_count(struct mdns_browser *browser, const char *service)
{
	size_t n = 0;
	mdns_table_each(&browser->table, service, count_node, &n);
	return n;
}

/* Answers were waited for. For a watch without any it is asked once more: a
 * packet may be lost, and a busy host be late. */
static void
sync_or_ask(struct mdns_browser *browser, struct mdns_browse *browse)
{
	bool watched = false;
	for (struct mdns_watch *watch = browser->watches; watch != NULL;
	     watch = watch->next)
		watched = watched || watch->browse == browse;
	if (!watched || browse->sync_at_ms == browse->last_at_ms ||
	    mdns_browser_count(browser, browse->service) > 0) {
		browse->synced = true;
		return;
	}
	ask(browser, browse->name, NULL);
	browse->sync_at_ms = browse->last_at_ms;
}

int64_t
mdns_browser_tick(struct mdns_browser *browser)
{
	int64_t due = INT64_MAX;
	mdns_table_tick(&browser->table);
	if (browser->lacked != browser->table.lacked)
		ask_soon(browser);
	for (struct mdns_browse *browse = browser->browses; browse != NULL;
	     browse = browse->next) {
		int64_t now = svc_now_ms();
		if (browse->query_at_ms <= now)
			mdns_browser_ask(browser, browse, NULL);
		if (!browse->synced && browse->sync_at_ms <= now)
			sync_or_ask(browser, browse);
		if (!browse->synced && browse->sync_at_ms < due)
			due = browse->sync_at_ms;
		if (browse->query_at_ms < due)
			due = browse->query_at_ms;
	}
	for (struct mdns_watch *watch = browser->watches; watch != NULL;
	     watch = watch->next) {
		if (watch->synced || !watch->browse->synced)
			continue;
		watch->synced = true;
		watch->sink(SVC_WATCH_SYNC, NULL, watch->arg);
	}
	return due < browser->table.due_at_ms ? due : browser->table.due_at_ms;
}

void
mdns_browser_links(struct mdns_browser *browser)
{
	int64_t now = svc_now_ms();
	for (struct mdns_browse *browse = browser->browses; browse != NULL;
	     browse = browse->next) {
		browse->query_at_ms = now;
		browse->interval_ms = QUERY_FIRST_MS;
		for (struct owner *owner = browse->owners; owner != NULL;
		     owner = owner->next)
			owner->asked_at_ms = now - OWNER_GAP_MS;
	}
}

/* A service was listed: ask for its nodes, unless that was done just now. */
static void
heard_list(const char *name, void *arg)
{
	struct mdns_browser *browser = arg;
	struct mdns_browse *all = browse_find(browser, NULL);
	int64_t now = svc_now_ms();
	if (all == NULL)
		return;
	struct owner *owner = all->owners;
	while (owner != NULL && strcmp(owner->name, name) != 0)
		owner = owner->next;
	if (owner == NULL) {
		size_t len = strlen(name) + 1;
		if (all->n_owners == OWNERS_MAX)
			owners_clear(all);
		owner = svc_mem_calloc(1, sizeof(*owner) + len);
		if (owner != NULL) {
			memcpy(owner->name, name, len);
			owner->next = all->owners;
			all->owners = owner;
			all->n_owners++;
		}
	} else if (owner->asked_at_ms + OWNER_GAP_MS > now) {
		return;
	}
	/* Without memory it is asked for whenever it is listed. */
	if (owner != NULL)
		owner->asked_at_ms = now;
	ask(browser, name, NULL);
}

static bool
table_wanted(const char *instance, void *arg)
{
	struct mdns_browser *browser = arg;
	size_t n = strlen(instance);
	for (const struct mdns_browse *browse = browser->browses;
	     browse != NULL; browse = browse->next) {
		size_t m = strlen(browse->name);
		if (browse->service == NULL)
			return true;
		if (n > m + 1 && instance[n - m - 1] == '.' &&
		    strcmp(instance + n - m, browse->name) == 0)
			return true;
	}
	return false;
}

static bool
table_wanted_service(const char *service, void *arg)
{
	struct mdns_browser *browser = arg;
	return browse_find(browser, NULL) != NULL ||
	       browse_find(browser, service) != NULL;
}

static void
table_changed(svc_watch_event event, const struct svc_record *record, void *arg)
{
	struct mdns_browser *browser = arg;
	for (struct mdns_watch *watch = browser->watches; watch != NULL;
	     watch = watch->next) {
		if (watch->service == NULL ||
		    strcmp(watch->service, record->name) == 0)
			watch->sink(event, record, watch->arg);
	}
}

static void
table_refresh(const char *service, void *arg)
{
	char name[MDNS_NAME_SIZE];
	mdns_service_name(service, name);
	ask(arg, name, NULL);
}

static const struct mdns_table_ops table_ops = {
    .wanted = table_wanted,
    .wanted_service = table_wanted_service,
    .changed = table_changed,
    .refresh = table_refresh,
};

/** The packet that is being read. */
struct hearing {
	struct mdns_browser *browser;
	int64_t unix_us;
};

static void
heard_node(const struct mdns_found *found, void *arg)
{
	const struct hearing *hearing = arg;
	mdns_table_hear(&hearing->browser->table, found, hearing->unix_us);
}

static void
heard_listed(const char *name, void *arg)
{
	const struct hearing *hearing = arg;
	heard_list(name, hearing->browser);
}

void
mdns_browser_hear(
    struct mdns_browser *browser, const void *data, size_t len, int64_t unix_us)
{
	static const struct mdns_sink sink = {
	    .node = heard_node,
	    .listed = heard_listed,
	};
	struct hearing hearing = {.browser = browser, .unix_us = unix_us};
	if (browser->browses != NULL)
		mdns_response_read(data, len, &sink, &hearing);
}

static void
watch_tell(const struct svc_record *record, void *arg)
{
	struct mdns_watch *watch = arg;
	watch->sink(SVC_WATCH_NODE, record, watch->arg);
}

svc_err
mdns_browser_watch(struct mdns_browser *browser, struct mdns_watch *watch)
{
	watch->browse = mdns_browser_ref(browser, watch->service);
	if (watch->browse == NULL)
		return SVC_E_NOMEM;
	watch->next = browser->watches;
	browser->watches = watch;
	watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
	mdns_table_each(&browser->table, watch->service, watch_tell, watch);
	return SVC_OK;
}

void
mdns_browser_unwatch(struct mdns_browser *browser, struct mdns_watch *watch)
{
	struct mdns_watch **at = &browser->watches;
	while (*at != watch)
		at = &(*at)->next;
	*at = watch->next;
	mdns_browser_unref(browser, watch->browse);
}

void
mdns_browser_init(struct mdns_browser *browser, struct mdns_net *net)
{
	browser->net = net;
	browser->browses = NULL;
	browser->watches = NULL;
	browser->lacked = 0;
	mdns_table_init(&browser->table, &table_ops, browser);
}

void
mdns_browser_fini(struct mdns_browser *browser)
{
	while (browser->browses != NULL) {
		struct mdns_browse *browse = browser->browses;
		browser->browses = browse->next;
		browse_destroy(browse);
	}
	mdns_table_fini(&browser->table);
}
