/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_table.h"

#include "mdns_name.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <string.h>

#define BUCKETS (sizeof(((struct mdns_table *)0)->buckets) / sizeof(void *))
/* A clock set back by more makes a node's stamp worthless. */
#define STAMP_SPAN_US (5 * INT64_C(1000000))
#define DOUBT_MS 1000

struct mdns_known {
	struct mdns_known *next;
	char *instance;
	struct svc_record *record;
	uint64_t content;
	int64_t unix_us; /* when the newest packet about it arrived */
	int64_t ttl_ms;
	int64_t expires_at_ms;
	int64_t refresh_at_ms;
	int refreshes;
};

void
mdns_table_init(
    struct mdns_table *table, const struct mdns_table_ops *ops, void *arg)
{
	memset(table, 0, sizeof(*table));
	table->ops = ops;
	table->arg = arg;
	table->due_at_ms = INT64_MAX;
}

static void
known_destroy(struct mdns_known *known)
{
	svc_record_destroy(known->record);
	svc_mem_free(known->instance);
	svc_mem_free(known);
}

void
mdns_table_fini(struct mdns_table *table)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		while (table->buckets[i] != NULL) {
			struct mdns_known *known = table->buckets[i];
			table->buckets[i] = known->next;
			known_destroy(known);
		}
	}
	if (table->skipped > 0)
		svc_log(SVC_LOG_DEBUG, "mdns.skipped",
		    "%llu records of other programs did not decode",
		    (unsigned long long)table->skipped);
}

static struct mdns_known **
bucket_of(struct mdns_table *table, const char *instance)
{
	uint32_t h = 2166136261u;
	for (; *instance != '\0'; instance++)
		h = (h ^ (uint8_t)*instance) * 16777619u;
	return &table->buckets[h % BUCKETS];
}

static void
due_at(struct mdns_table *table, int64_t at_ms)
{
	if (at_ms < table->due_at_ms)
		table->due_at_ms = at_ms;
}

static void
renew(struct mdns_table *table, struct mdns_known *known, uint32_t ttl)
{
	int64_t now = svc_now_ms();
	known->ttl_ms = (int64_t)ttl * 1000;
	known->expires_at_ms = now + known->ttl_ms;
	known->refresh_at_ms =
	    now + known->ttl_ms / 10 * 8 +
	    (int64_t)svc_random_below((uint64_t)known->ttl_ms / 50 + 1);
	known->refreshes = 0;
	due_at(table, known->refresh_at_ms);
	due_at(table, known->expires_at_ms);
}

/* Takes it out of the table, then tells. */
static void
drop(struct mdns_table *table, struct mdns_known **at, bool tell)
{
	struct mdns_known *known = *at;
	*at = known->next;
	table->n--;
	if (tell)
		table->ops->changed(SVC_WATCH_GONE, known->record, table->arg);
	known_destroy(known);
}

static void
lack(struct mdns_table *table)
{
	static struct svc_log_limit limit;
	table->lacked++;
	svc_log_limited(&limit, SVC_LOG_ERROR, "mdns.memory",
	    "no memory for a node that was heard of: it is asked for again");
}

/* Whether the packet is older than what is known already: answers and
 * announcements arrive by two sockets, so they may be read out of order. */
static bool
stale(const struct mdns_known *known, int64_t unix_us)
{
	return unix_us < known->unix_us &&
	       known->unix_us - unix_us < STAMP_SPAN_US;
}

/* It may have left: asked now, it has a second to answer. */
static void
doubt(struct mdns_table *table, struct mdns_known *known)
{
	int64_t now = svc_now_ms();
	known->refresh_at_ms = now;
	if (known->expires_at_ms > now + DOUBT_MS)
		known->expires_at_ms = now + DOUBT_MS;
	due_at(table, now);
}

static void
hear_goodbye(
    struct mdns_table *table, const struct mdns_found *found, int64_t unix_us)
{
	struct mdns_known **at = bucket_of(table, found->instance);
	size_t same = 0;
	for (struct mdns_known *known = *at; known != NULL; known = known->next)
		same += strcmp(known->instance, found->instance) == 0;
	/* Node "a" of service "b.c" has the name of node "a.b" of service "c":
	 * then the data has to say which of them leaves. */
	struct svc_record *record = NULL;
	svc_err rc = SVC_OK;
	if (same > 1 && found->txt_len > 0)
		rc = mdns_found_decode(found, &record, NULL);
	if (rc == SVC_E_NOMEM)
		lack(table);
	while (*at != NULL) {
		struct mdns_known *known = *at;
		bool leaves = strcmp(known->instance, found->instance) == 0 &&
			      !stale(known, unix_us) &&
			      (record == NULL || strcmp(record->name,
						     known->record->name) == 0);
		if (leaves && rc != SVC_E_NOMEM) {
			drop(table, at, true);
			continue;
		}
		if (leaves)
			doubt(table, known);
		at = &known->next;
	}
	svc_record_destroy(record);
}

static void
skip(struct mdns_table *table, const struct mdns_found *found,
    const struct svc_error *why)
{
	char quoted[96];
	if (table->skipped++ == 0)
		svc_log(SVC_LOG_WARN, "mdns.skipped",
		    "the record of %s does not decode: %s; it and others like "
		    "it are skipped",
		    svc_log_quote(found->instance, strlen(found->instance),
			quoted, sizeof(quoted)),
		    why->text);
}

static void
known_insert(struct mdns_table *table, struct mdns_known **bucket,
    const struct mdns_found *found, struct svc_record *record, uint64_t content,
    int64_t unix_us)
{
	struct mdns_known *known = NULL;
	if (table->n < MDNS_TABLE_MAX) {
		known = svc_mem_calloc(1, sizeof(*known));
		if (known != NULL)
			known->instance = svc_mem_strdup(found->instance);
		if (known == NULL || known->instance == NULL)
			lack(table);
	} else if (!table->full_logged) {
		table->full_logged = true;
		svc_log(SVC_LOG_WARN, "mdns.full",
		    "more than %d nodes answer; the others are ignored",
		    MDNS_TABLE_MAX);
	}
	if (known == NULL || known->instance == NULL) {
		svc_mem_free(known);
		svc_record_destroy(record);
		return;
	}
	known->record = record;
	known->content = content;
	known->unix_us = unix_us;
	known->next = *bucket;
	*bucket = known;
	table->n++;
	renew(table, known, found->ttl);
	table->ops->changed(SVC_WATCH_NODE, record, table->arg);
}

/* A node is its service and id; its content may have changed. */
static void
hear_record(struct mdns_table *table, const struct mdns_found *found,
    struct svc_record *record, uint64_t content, int64_t unix_us)
{
	struct mdns_known **bucket = bucket_of(table, found->instance);
	for (struct mdns_known *known = *bucket; known != NULL;
	     known = known->next) {
		if (strcmp(known->record->name, record->name) != 0 ||
		    strcmp(known->record->nodes[0].id, record->nodes[0].id) !=
			0)
			continue;
		if (stale(known, unix_us)) {
			svc_record_destroy(record);
			return;
		}
		bool same = svc_record_equal(known->record, record);
		svc_record_destroy(known->record);
		known->record = record;
		known->content = content;
		known->unix_us = unix_us;
		renew(table, known, found->ttl);
		if (!same)
			table->ops->changed(SVC_WATCH_NODE, record, table->arg);
		return;
	}
	known_insert(table, bucket, found, record, content, unix_us);
}

void
mdns_table_hear(
    struct mdns_table *table, const struct mdns_found *found, int64_t unix_us)
{
	if (found->ttl == 0) {
		hear_goodbye(table, found, unix_us);
		return;
	}
	/* Most of what is heard repeats what is known: no need to decode. */
	uint64_t content = mdns_found_hash(found);
	for (struct mdns_known *known = *bucket_of(table, found->instance);
	     known != NULL; known = known->next) {
		if (known->content == content &&
		    strcmp(known->instance, found->instance) == 0) {
			if (!stale(known, unix_us)) {
				known->unix_us = unix_us;
				renew(table, known, found->ttl);
			}
			return;
		}
	}
	if (!table->ops->wanted(found->instance, table->arg))
		return;
	struct svc_record *record = NULL;
	struct svc_error why = {.code = SVC_OK};
	svc_err rc = mdns_found_decode(found, &record, &why);
	if (rc == SVC_E_NOMEM)
		lack(table);
	else if (rc != SVC_OK)
		skip(table, found, &why);
	if (rc != SVC_OK)
		return;
	if (table->ops->wanted_service(record->name, table->arg))
		hear_record(table, found, record, content, unix_us);
	else
		svc_record_destroy(record);
}

/* One question refreshes all nodes of a service. */
static void
refreshed(struct mdns_table *table, const char *service, int64_t now)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		for (struct mdns_known *known = table->buckets[i];
		     known != NULL; known = known->next) {
			if (known->refresh_at_ms > now + known->ttl_ms / 50 ||
			    strcmp(known->record->name, service) != 0)
				continue;
			known->refreshes++;
			known->refresh_at_ms = known->refreshes > 3
						   ? INT64_MAX
						   : now + known->ttl_ms / 20;
		}
	}
}

void
mdns_table_tick(struct mdns_table *table)
{
	int64_t now = svc_now_ms();
	if (now < table->due_at_ms)
		return;
	table->due_at_ms = INT64_MAX;
	for (size_t i = 0; i < BUCKETS; i++) {
		struct mdns_known **at = &table->buckets[i];
		while (*at != NULL) {
			struct mdns_known *known = *at;
			if (known->expires_at_ms <= now) {
				drop(table, at, true);
				continue;
			}
			if (known->refresh_at_ms <= now) {
				table->ops->refresh(
				    known->record->name, table->arg);
				refreshed(table, known->record->name, now);
			}
			at = &known->next;
		}
	}
	for (size_t i = 0; i < BUCKETS; i++) {
		for (const struct mdns_known *known = table->buckets[i];
		     known != NULL; known = known->next) {
			due_at(table, known->expires_at_ms);
			due_at(table, known->refresh_at_ms);
		}
	}
}

void
mdns_table_purge(struct mdns_table *table)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		struct mdns_known **at = &table->buckets[i];
		while (*at != NULL) {
			struct mdns_known *known = *at;
			if (table->ops->wanted_service(
				known->record->name, table->arg))
				at = &known->next;
			else
				drop(table, at, false);
		}
	}
}

void
mdns_table_known(const struct mdns_table *table, const char *owner,
    void (*each)(
	const char *owner, const char *instance, uint32_t ttl_left, void *arg),
    void *arg)
{
	int64_t now = svc_now_ms();
	size_t m = strlen(owner);
	for (size_t i = 0; i < BUCKETS; i++) {
		for (const struct mdns_known *known = table->buckets[i];
		     known != NULL; known = known->next) {
			char name[MDNS_NAME_SIZE];
			size_t n = strlen(known->instance);
			int64_t left = known->expires_at_ms - now;
			if (left * 2 <= known->ttl_ms || n < m ||
			    memcmp(known->instance + n - m, owner, m) != 0)
				continue;
			/* "a.b.micro" ends like "b.micro", too. */
			mdns_service_name(known->record->name, name);
			if (strcmp(name, owner) == 0)
				each(owner, known->instance,
				    (uint32_t)(left / 1000), arg);
		}
	}
}

void
mdns_table_each(const struct mdns_table *table, const char *service,
    void (*each)(const struct svc_record *record, void *arg), void *arg)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		for (const struct mdns_known *known = table->buckets[i];
		     known != NULL; known = known->next) {
			if (service == NULL ||
			    strcmp(known->record->name, service) == 0)
				each(known->record, arg);
		}
	}
}
