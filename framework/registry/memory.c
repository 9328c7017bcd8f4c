/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry "memory": nodes of this process. Instances with the same
 * address share one store, which has one thread: it takes away nodes whose TTL
 * has passed and calls the watches.
 *
 * Locks: stores_lock guards the list of stores and their refs; store.lock all
 * else in a store. stores_lock may be held when store.lock is taken, not the
 * other way round. No lock is held while a sink is called.
 */
#include "hash.h"
#include "record.h"

#include <svc/clock.h>

#include <pthread.h>
#include <utlist.h>

/* A record that the store, answers and events share; refs by store.lock. */
struct held {
	int refs;
	struct svc_record *record;
};

struct entry {
	UT_hash_handle hh;
	struct held *held;
	int64_t gone_at_ms;
	char key[];
};

struct event {
	struct event *prev, *next;
	svc_watch_event kind;
	struct held *held; /* NULL for BEGIN and SYNC */
};

struct memory_watch {
	struct memory_watch *prev, *next;
	char *service;
	svc_watch_sink sink;
	void *arg;
	struct event *events;
};

struct store {
	struct store *prev, *next;
	char *address;
	int refs;
	pthread_mutex_t lock;
	pthread_cond_t wake;      /* the thread has something to do */
	pthread_cond_t delivered; /* `calling` has changed */
	pthread_t thread;
	bool ending;
	struct entry *entries;
	int64_t next_at_ms; /* no entry is gone before */
	struct memory_watch *watches;
	struct memory_watch *calling;
};

static pthread_mutex_t stores_lock = PTHREAD_MUTEX_INITIALIZER;
static struct store *stores;

/* ---------------------------------------------------- events (with lock) */

static struct held *
held_create(const struct svc_record *record)
{
	struct held *held = svc_mem_calloc(1, sizeof(*held));
	if (held == NULL)
		return NULL;
	held->refs = 1;
	held->record = svc_record_copy(record);
	if (held->record == NULL) {
		svc_mem_free(held);
		return NULL;
	}
	return held;
}

static void
held_unref(struct held *held)
{
	if (held == NULL || --held->refs > 0)
		return;
	svc_record_destroy(held->record);
	svc_mem_free(held);
}

static struct event *
event_create(svc_watch_event kind, struct held *held)
{
	struct event *event = svc_mem_calloc(1, sizeof(*event));
	if (event == NULL)
		return NULL;
	event->kind = kind;
	event->held = held;
	if (held != NULL)
		held->refs++;
	return event;
}

static void
events_free(struct event *events)
{
	while (events != NULL) {
		struct event *event = events;
		events = event->next;
		held_unref(event->held);
		svc_mem_free(event);
	}
}

static bool
is_of(const char *service, const struct svc_record *record)
{
	return service == NULL || text_equal(service, record->name);
}

/*
 * One event for every watch of the record's service, made before anything
 * changes, so that running out of memory changes nothing.
 */
struct fan {
	struct fan *next;
	struct memory_watch *watch;
	struct event *event;
};

static void
fan_drop(struct fan *fan)
{
	while (fan != NULL) {
		struct fan *next = fan->next;
		events_free(fan->event);
		svc_mem_free(fan);
		fan = next;
	}
}

static bool
fan_make(struct store *store, svc_watch_event kind, struct held *held,
    struct fan **ret_fan)
{
	struct memory_watch *watch;
	struct fan *all = NULL;
	DL_FOREACH (store->watches, watch) {
		if (!is_of(watch->service, held->record))
			continue;
		struct fan *fan = svc_mem_calloc(1, sizeof(*fan));
		if (fan == NULL) {
			fan_drop(all);
			return false;
		}
		fan->next = all;
		fan->watch = watch;
		fan->event = event_create(kind, held);
		all = fan;
		if (fan->event == NULL) {
			fan_drop(all);
			return false;
		}
	}
	*ret_fan = all;
	return true;
}

static void
fan_send(struct store *store, struct fan *fan)
{
	while (fan != NULL) {
		struct fan *next = fan->next;
		DL_APPEND(fan->watch->events, fan->event);
		svc_mem_free(fan);
		fan = next;
	}
	pthread_cond_signal(&store->wake);
}

/* ------------------------------------------------------------- the store */

static void
entry_free(struct store *store, struct entry *entry)
{
	HASH_DELETE(hh, store->entries, entry);
	held_unref(entry->held);
	svc_mem_free(entry);
}

/* False when memory ran out: the entry stays, and goes at the next attempt. */
static bool
remove_entry(struct store *store, struct entry *entry)
{
	struct fan *fan;
	if (!fan_make(store, SVC_WATCH_GONE, entry->held, &fan))
		return false;
	fan_send(store, fan);
	entry_free(store, entry);
	return true;
}

static void
expire(struct store *store)
{
	struct entry *entry, *next;
	int64_t now_ms = svc_now_ms();
	if (now_ms < store->next_at_ms)
		return;
	store->next_at_ms = INT64_MAX;
	HASH_ITER (hh, store->entries, entry, next) {
		if (entry->gone_at_ms <= now_ms) {
			if (remove_entry(store, entry))
				continue;
			entry->gone_at_ms = now_ms + 100;
		}
		if (entry->gone_at_ms < store->next_at_ms)
			store->next_at_ms = entry->gone_at_ms;
	}
}

static struct memory_watch *
watch_with_events(struct store *store)
{
	struct memory_watch *watch;
	DL_FOREACH (store->watches, watch)
		if (watch->events != NULL)
			return watch;
	return NULL;
}

static void *
store_run(void *arg)
{
	struct store *store = arg;
	pthread_mutex_lock(&store->lock);
	while (!store->ending) {
		expire(store);
		struct memory_watch *watch = watch_with_events(store);
		if (watch == NULL) {
			svc_cond_wait(
			    &store->wake, &store->lock, store->next_at_ms);
			continue;
		}
		struct event *event = watch->events;
		DL_DELETE(watch->events, event);
		event->next = NULL;
		store->calling = watch;
		pthread_mutex_unlock(&store->lock);
		watch->sink(event->kind,
		    event->held != NULL ? event->held->record : NULL,
		    watch->arg);
		pthread_mutex_lock(&store->lock);
		store->calling = NULL;
		pthread_cond_broadcast(&store->delivered);
		events_free(event);
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}

static void
store_free(struct store *store)
{
	struct entry *entry, *next;
	HASH_ITER (hh, store->entries, entry, next)
		entry_free(store, entry);
	pthread_cond_destroy(&store->wake);
	pthread_cond_destroy(&store->delivered);
	pthread_mutex_destroy(&store->lock);
	svc_mem_free(store->address);
	svc_mem_free(store);
}

static svc_err
store_create(const char *address, struct store **ret_store)
{
	struct store *store = svc_mem_calloc(1, sizeof(*store));
	if (store == NULL)
		return SVC_E_NOMEM;
	pthread_mutex_init(&store->lock, NULL);
	svc_cond_init(&store->wake);
	svc_cond_init(&store->delivered);
	store->refs = 1;
	store->next_at_ms = INT64_MAX;
	store->address = svc_mem_strdup(address);
	svc_err rc = SVC_E_NOMEM;
	if (store->address != NULL)
		rc = svc_thread_start(
		    &store->thread, "svc-memory", store_run, store);
	if (rc != SVC_OK) {
		store_free(store);
		return rc;
	}
	*ret_store = store;
	return SVC_OK;
}

static svc_err
memory_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	const char *address = config->address;
	struct store *store;
	svc_err rc = SVC_OK;
	if (address == NULL || *address == '\0')
		address = "default";
	pthread_mutex_lock(&stores_lock);
	DL_FOREACH (stores, store)
		if (strcmp(store->address, address) == 0)
			break;
	if (store != NULL) {
		store->refs++;
	} else {
		rc = store_create(address, &store);
		if (rc == SVC_OK)
			DL_APPEND(stores, store);
	}
	pthread_mutex_unlock(&stores_lock);
	if (rc != SVC_OK)
		return svc_error_set(
		    err, rc, "no memory or thread for registry memory");
	*ret_self = store;
	return SVC_OK;
}

static void
memory_destroy(void *self)
{
	struct store *store = self;
	pthread_mutex_lock(&stores_lock);
	bool last = --store->refs == 0;
	if (last)
		DL_DELETE(stores, store);
	pthread_mutex_unlock(&stores_lock);
	if (!last)
		return;
	pthread_mutex_lock(&store->lock);
	store->ending = true;
	pthread_cond_signal(&store->wake);
	pthread_mutex_unlock(&store->lock);
	svc_thread_join(store->thread);
	store_free(store);
}

/* ------------------------------------------------------- announce, answer */

/* A new entry in the table, without a record yet. */
static struct entry *
entry_add(struct store *store, const struct node_key *key)
{
	struct entry *entry = svc_mem_calloc(1, sizeof(*entry) + key->len);
	if (entry == NULL)
		return NULL;
	memcpy(entry->key, key->text, key->len);
	HASH_ADD_KEYPTR(hh, store->entries, entry->key, key->len, entry);
	if (entry->hh.tbl != NULL)
		return entry;
	svc_mem_free(entry);
	return NULL;
}

static svc_err
put(struct store *store, const struct node_key *key,
    const struct svc_record *record, int64_t gone_at_ms)
{
	struct entry *entry;
	struct fan *fan;
	HASH_FIND(hh, store->entries, key->text, key->len, entry);
	if (entry == NULL || !svc_record_equal(entry->held->record, record)) {
		struct held *held = held_create(record);
		if (held == NULL)
			return SVC_E_NOMEM;
		if (!fan_make(store, SVC_WATCH_NODE, held, &fan)) {
			held_unref(held);
			return SVC_E_NOMEM;
		}
		if (entry == NULL)
			entry = entry_add(store, key);
		if (entry == NULL) {
			fan_drop(fan);
			held_unref(held);
			return SVC_E_NOMEM;
		}
		held_unref(entry->held);
		entry->held = held;
		fan_send(store, fan);
	}
	entry->gone_at_ms = gone_at_ms;
	if (gone_at_ms < store->next_at_ms) {
		store->next_at_ms = gone_at_ms;
		pthread_cond_signal(&store->wake);
	}
	return SVC_OK;
}

static svc_err
memory_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	struct store *store = self;
	struct node_key key;
	svc_err rc = SVC_E_INVAL;
	if (!node_key_set(&key, record->name, record->nodes[0].id))
		return svc_error_set(err, rc, "the node has no usable id");
	pthread_mutex_lock(&store->lock);
	expire(store);
	rc = put(store, &key, record, svc_deadline(ttl_ms));
	pthread_mutex_unlock(&store->lock);
	if (rc != SVC_OK)
		return svc_error_set(
		    err, rc, "no memory to announce %s", record->name);
	return SVC_OK;
}

static svc_err
memory_withdraw(
    void *self, const struct svc_record *record, struct svc_error *err)
{
	struct store *store = self;
	struct node_key key;
	struct entry *entry;
	bool ok = true;
	if (!node_key_set(&key, record->name, record->nodes[0].id))
		return SVC_OK;
	pthread_mutex_lock(&store->lock);
	HASH_FIND(hh, store->entries, key.text, key.len, entry);
	if (entry != NULL)
		ok = remove_entry(store, entry);
	pthread_mutex_unlock(&store->lock);
	if (!ok)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory to withdraw %s", record->name);
	return SVC_OK;
}

/* Nodes of a service, or all. */
static svc_err
answer(struct store *store, const char *service, svc_record_sink sink,
    void *arg, struct svc_error *err)
{
	struct entry *entry, *next;
	struct held **found = NULL;
	size_t n = 0;
	pthread_mutex_lock(&store->lock);
	expire(store);
	size_t count = HASH_COUNT(store->entries);
	if (count > 0) {
		found = svc_mem_calloc(count, sizeof(struct held *));
		if (found == NULL) {
			pthread_mutex_unlock(&store->lock);
			return svc_error_set(err, SVC_E_NOMEM,
			    "no memory for the registry's answer");
		}
	}
	HASH_ITER (hh, store->entries, entry, next)
		if (is_of(service, entry->held->record)) {
			entry->held->refs++;
			found[n++] = entry->held;
		}
	pthread_mutex_unlock(&store->lock);
	for (size_t i = 0; i < n; i++)
		sink(found[i]->record, arg);
	pthread_mutex_lock(&store->lock);
	for (size_t i = 0; i < n; i++)
		held_unref(found[i]);
	pthread_mutex_unlock(&store->lock);
	svc_mem_free(found);
	return SVC_OK;
}

static svc_err
memory_lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	return answer(self, service, sink, arg, err);
}

static svc_err
memory_list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	return answer(self, NULL, sink, arg, err);
}

/* ----------------------------------------------------------------- watch */

static bool
prepend(struct memory_watch *watch, svc_watch_event kind, struct held *held)
{
	struct event *event = event_create(kind, held);
	if (event == NULL)
		return false;
	DL_PREPEND(watch->events, event);
	return true;
}

/* The full state, put together from its end because a list is quickest to
 * fill at its head. */
static bool
full_state(struct store *store, struct memory_watch *watch)
{
	struct entry *entry, *next;
	bool ok = prepend(watch, SVC_WATCH_SYNC, NULL);
	HASH_ITER (hh, store->entries, entry, next)
		if (ok && is_of(watch->service, entry->held->record))
			ok = prepend(watch, SVC_WATCH_NODE, entry->held);
	return ok && prepend(watch, SVC_WATCH_BEGIN, NULL);
}

static svc_err
memory_watch(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	struct store *store = self;
	struct memory_watch *watch = svc_mem_calloc(1, sizeof(*watch));
	bool ok = watch != NULL;
	if (ok) {
		watch->sink = sink;
		watch->arg = arg;
		watch->service = svc_mem_strdup(service);
		ok = service == NULL || watch->service != NULL;
	}
	if (ok) {
		pthread_mutex_lock(&store->lock);
		expire(store);
		ok = full_state(store, watch);
		if (ok) {
			/* Before the thread can call, so that the caller has
			 * it when the first event comes. */
			*ret_watch = watch;
			DL_APPEND(store->watches, watch);
			pthread_cond_signal(&store->wake);
		} else {
			events_free(watch->events);
		}
		pthread_mutex_unlock(&store->lock);
	}
	if (ok)
		return SVC_OK;
	if (watch != NULL)
		svc_mem_free(watch->service);
	svc_mem_free(watch);
	return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
}

static void
memory_unwatch(void *self, void *which)
{
	struct store *store = self;
	struct memory_watch *watch = which;
	pthread_mutex_lock(&store->lock);
	DL_DELETE(store->watches, watch);
	while (store->calling == watch)
		svc_cond_wait(&store->delivered, &store->lock, INT64_MAX);
	events_free(watch->events);
	pthread_mutex_unlock(&store->lock);
	svc_mem_free(watch->service);
	svc_mem_free(watch);
}

const struct svc_registry_ops svc_registry_memory = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "memory",
    .create = memory_create,
    .destroy = memory_destroy,
    .announce = memory_announce,
    .withdraw = memory_withdraw,
    .lookup = memory_lookup,
    .list = memory_list,
    .watch = memory_watch,
    .unwatch = memory_unwatch,
};
