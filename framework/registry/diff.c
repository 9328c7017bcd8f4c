/* SPDX-License-Identifier: Apache-2.0 */
#include "diff.h"

#include "hash.h"
#include "record.h"

#include <svc/clock.h>

#include <string.h>

/* What nodes of a service have in common, kept once. */
struct diff_service {
	UT_hash_handle hh; /* not in the table when another has its hash */
	uint64_t hash;
	struct svc_record *record; /* without nodes */
	size_t n_nodes;
};

struct diff_entry {
	UT_hash_handle hh;
	struct diff_service *service;
	struct svc_record *record; /* shares that of the service */
	uint64_t round;
	bool assumed;         /* the registry has not told of it */
	int64_t remove_at_ms; /* INT64_MAX unless it waits */
	char key[];
};

void
diff_init(struct diff *diff, const char *service, svc_change_cb cb, void *arg)
{
	*diff = (struct diff){
	    .service = service,
	    .cb = cb,
	    .arg = arg,
	    .incomplete = true,
	    .next_at_ms = INT64_MAX,
	};
}

/* ---------------------------------------------------------------- keeping */

static void
service_drop(struct diff *diff, struct diff_service *service)
{
	if (--service->n_nodes > 0)
		return;
	if (service->hh.tbl != NULL)
		HASH_DELETE(hh, diff->services, service);
	svc_record_destroy(service->record);
	svc_mem_free(service);
}

/* With one more node; NULL when memory ran out. */
static struct diff_service *
service_take(struct diff *diff, const struct svc_record *record)
{
	struct diff_service *service, *other;
	struct svc_record alone = *record;
	uint64_t hash = record_hash_but_nodes(record);
	HASH_FIND(hh, diff->services, &hash, sizeof(hash), other);
	if (other != NULL && record_equal_but_nodes(other->record, record)) {
		other->n_nodes++;
		return other;
	}
	alone.nodes = NULL;
	alone.n_nodes = 0;
	service = svc_mem_calloc(1, sizeof(*service));
	if (service == NULL)
		return NULL;
	service->hash = hash;
	service->n_nodes = 1;
	service->record = svc_record_copy(&alone);
	if (service->record == NULL) {
		svc_mem_free(service);
		return NULL;
	}
	/* Without memory for the table it is not shared, and that is all. */
	if (other == NULL)
		HASH_ADD(hh, diff->services, hash, sizeof(hash), service);
	return service;
}

/* Replaces what the entry has, or leaves it as it was. */
static svc_err
keep(struct diff *diff, struct diff_entry *entry,
    const struct svc_record *record)
{
	struct diff_service *service = service_take(diff, record);
	if (service == NULL)
		return SVC_E_NOMEM;
	struct svc_record *made =
	    record_of_node(service->record, &record->nodes[0]);
	if (made == NULL) {
		service_drop(diff, service);
		return SVC_E_NOMEM;
	}
	svc_record_destroy(entry->record);
	if (entry->service != NULL)
		service_drop(diff, entry->service);
	entry->service = service;
	entry->record = made;
	return SVC_OK;
}

static void
entry_free(struct diff *diff, struct diff_entry *entry)
{
	svc_record_destroy(entry->record);
	if (entry->service != NULL)
		service_drop(diff, entry->service);
	svc_mem_free(entry);
}

static void
forget(struct diff *diff, struct diff_entry *entry)
{
	HASH_DELETE(hh, diff->entries, entry);
	entry_free(diff, entry);
}

void
diff_fini(struct diff *diff)
{
	struct diff_entry *entry, *next;
	HASH_ITER (hh, diff->entries, entry, next)
		forget(diff, entry);
}

static void
report(struct diff *diff, svc_change change, const struct svc_record *record)
{
	diff->cb(change, record, diff->arg);
}

static void
report_removed(struct diff *diff, struct diff_entry *entry)
{
	report(diff, SVC_REMOVED, entry->record);
	forget(diff, entry);
}

void
diff_begin(struct diff *diff)
{
	diff->round++;
	diff->incomplete = true;
}

void
diff_repeat(const struct diff *diff, svc_change_cb cb, void *arg)
{
	const struct diff_entry *entry;
	for (entry = diff->entries; entry != NULL; entry = entry->hh.next)
		cb(SVC_CREATED, entry->record, arg);
	if (diff->synced)
		cb(SVC_SYNCED, NULL, arg);
}

static struct diff_entry *
find(const struct diff *diff, const struct node_key *key)
{
	struct diff_entry *entry;
	HASH_FIND(hh, diff->entries, key->text, key->len, entry);
	return entry;
}

/* Another service's record has no business here, whatever brought it. */
static bool
is_watched(const struct diff *diff, const struct svc_record *record)
{
	return diff->service == NULL || text_equal(diff->service, record->name);
}

static svc_err
add(struct diff *diff, const struct node_key *key,
    const struct svc_record *record, bool assumed)
{
	struct diff_entry *entry = svc_mem_calloc(1, sizeof(*entry) + key->len);
	if (entry == NULL)
		return SVC_E_NOMEM;
	if (keep(diff, entry, record) != SVC_OK) {
		entry_free(diff, entry);
		return SVC_E_NOMEM;
	}
	/* A full state may be under way, which has not repeated it. */
	entry->round = assumed ? diff->round - 1 : diff->round;
	entry->assumed = assumed;
	entry->remove_at_ms = INT64_MAX;
	memcpy(entry->key, key->text, key->len);
	HASH_ADD_KEYPTR(hh, diff->entries, entry->key, key->len, entry);
	if (entry->hh.tbl == NULL) {
		entry_free(diff, entry);
		return SVC_E_NOMEM;
	}
	report(diff, SVC_CREATED, entry->record);
	return SVC_OK;
}

static svc_err
update(struct diff *diff, struct diff_entry *entry,
    const struct svc_record *record)
{
	if (svc_record_equal(entry->record, record))
		return SVC_OK;
	svc_err rc = keep(diff, entry, record);
	if (rc == SVC_OK)
		report(diff, SVC_UPDATED, entry->record);
	return rc;
}

static svc_err
one_node(struct diff *diff, const struct svc_record *record, bool assumed)
{
	struct node_key key;
	if (!node_key_set(&key, record->name, record->nodes[0].id))
		return SVC_OK;
	struct diff_entry *entry = find(diff, &key);
	if (entry == NULL)
		return add(diff, &key, record, assumed);
	if (assumed && !entry->assumed)
		return SVC_OK;
	if (!assumed) {
		entry->round = diff->round;
		entry->assumed = false;
		entry->remove_at_ms = INT64_MAX;
	}
	return update(diff, entry, record);
}

static svc_err
each_node(struct diff *diff, const struct svc_record *record, bool assumed)
{
	struct svc_record one = *record;
	if (!is_watched(diff, record))
		return SVC_OK;
	one.n_nodes = 1;
	for (size_t i = 0; i < record->n_nodes; i++) {
		one.nodes = &record->nodes[i];
		svc_err rc = one_node(diff, &one, assumed);
		if (rc != SVC_OK)
			return rc;
	}
	return SVC_OK;
}

svc_err
diff_node(struct diff *diff, const struct svc_record *record)
{
	return each_node(diff, record, false);
}

svc_err
diff_assume(struct diff *diff, const struct svc_record *record)
{
	return each_node(diff, record, true);
}

static void
gone(struct diff *diff, const struct svc_record *record, bool assumed)
{
	if (!is_watched(diff, record))
		return;
	for (size_t i = 0; i < record->n_nodes; i++) {
		struct node_key key;
		if (!node_key_set(&key, record->name, record->nodes[i].id))
			continue;
		struct diff_entry *entry = find(diff, &key);
		if (entry != NULL && (entry->assumed || !assumed))
			report_removed(diff, entry);
	}
}

void
diff_gone(struct diff *diff, const struct svc_record *record)
{
	gone(diff, record, false);
}

void
diff_unassume(struct diff *diff, const struct svc_record *record)
{
	gone(diff, record, true);
}

bool
diff_has(const struct diff *diff, const char *service, const char *id)
{
	struct node_key key;
	return node_key_set(&key, service, id) && find(diff, &key) != NULL;
}

static void
report_synced(struct diff *diff)
{
	if (diff->synced)
		return;
	diff->synced = true;
	report(diff, SVC_SYNCED, NULL);
}

void
diff_assumed(struct diff *diff)
{
	if (diff->entries != NULL)
		report_synced(diff);
}

void
diff_sync(struct diff *diff, int64_t grace_ms)
{
	struct diff_entry *entry, *next;
	int64_t remove_at_ms = svc_deadline(grace_ms);
	diff->incomplete = false;
	diff->next_at_ms = INT64_MAX;
	HASH_ITER (hh, diff->entries, entry, next) {
		if (entry->round != diff->round) {
			if (grace_ms > 0) {
				entry->remove_at_ms = remove_at_ms;
			} else if (entry->remove_at_ms == INT64_MAX) {
				report_removed(diff, entry);
				continue;
			}
		}
		if (entry->remove_at_ms < diff->next_at_ms)
			diff->next_at_ms = entry->remove_at_ms;
	}
	report_synced(diff);
}

void
diff_expire(struct diff *diff, bool all)
{
	struct diff_entry *entry, *next;
	int64_t now_ms = svc_now_ms();
	if (diff->incomplete || (!all && now_ms < diff->next_at_ms))
		return;
	diff->next_at_ms = INT64_MAX;
	HASH_ITER (hh, diff->entries, entry, next) {
		if (entry->remove_at_ms == INT64_MAX)
			continue;
		if (all || entry->remove_at_ms <= now_ms)
			report_removed(diff, entry);
		else if (entry->remove_at_ms < diff->next_at_ms)
			diff->next_at_ms = entry->remove_at_ms;
	}
}

int64_t
diff_next_at(const struct diff *diff)
{
	return diff->incomplete ? INT64_MAX : diff->next_at_ms;
}
