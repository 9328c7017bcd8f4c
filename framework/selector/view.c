/* SPDX-License-Identifier: Apache-2.0 */
#include "selector_private.h"

#include <svc/clock.h>
#include <svc/executor.h>
#include <svc/log.h>

#include <string.h>

/*
 * selector->lock guards which entries there are, entry->lock the view of one.
 * Lock order: selector->lock, entry->lock. The registry, `unlink` and the
 * strategy's foreign code run under neither, except that a strategy makes its
 * state under entry->lock. A pick takes none of them once the view is there.
 */

/** Names nobody provides are watched too, so that they may appear. A caller
 * that asks for ever new ones must not fill the memory: beyond this number an
 * old one goes for each new one. */
#define GIVE_UP_MS 100
#define ENTRIES_BEFORE_EVICTION 256

/** How long picks wait for a node after the last one has gone. A registry that
 * stood still forgets all nodes in the moment in which it goes on, though they
 * live and register again at once; and a service of one instance that is
 * restarted is away for a moment, too. */
#define AWAY_MS 2000

svc_err
svc_view_no_memory(const char *service, struct svc_error *err)
{
	return svc_error_set(
	    err, SVC_E_NOMEM, "no memory for the nodes of \"%s\"", service);
}

/* --------------------------------------------------------------- entries */

uint32_t
svc_entry_hash(const char *text)
{
	uint32_t hash = 2166136261u;

	for (; *text != '\0'; text++)
		hash = (hash ^ (unsigned char)*text) * 16777619u;
	return hash ^ hash >> 16;
}

void
svc_snapshot_unref(struct svc_snapshot *snapshot)
{
	if (snapshot == NULL || atomic_fetch_sub(&snapshot->refs, 1) != 1)
		return;
	if (SVC_OPS_HAS(snapshot->strategy, destroy) &&
	    SVC_OPS_HAS(snapshot->strategy, create))
		snapshot->strategy->destroy(snapshot->state);
	for (size_t i = 0; i < snapshot->n; i++)
		svc_target_unref(snapshot->targets[i]);
	svc_mem_free(snapshot);
}

static void
snapshot_retired(struct svc_retired *object)
{
	svc_snapshot_unref((struct svc_snapshot *)object);
}

void
svc_entry_unref(struct svc_entry *entry)
{
	if (atomic_fetch_sub(&entry->refs, 1) != 1)
		return;
	while (entry->chunks != NULL) {
		struct svc_hold_chunk *chunk = entry->chunks;
		entry->chunks = chunk->next;
		svc_mem_free(chunk);
	}
	pthread_cond_destroy(&entry->cond);
	pthread_mutex_destroy(&entry->lock);
	svc_mem_free(entry->nodes);
	svc_mem_free(entry->service);
	svc_mem_free(entry);
}

/* The targets hold the entry too, so the table's own hold goes last. */
void
svc_entry_dissolve(struct svc_entry *entry)
{
	svc_snapshot_unref(atomic_exchange(&entry->snapshot, NULL));
	while (entry->n_nodes > 0)
		svc_target_unref(entry->nodes[--entry->n_nodes]);
	svc_entry_unref(entry);
}

static void
entry_retired(struct svc_retired *object)
{
	svc_entry_dissolve((struct svc_entry *)object);
}

static struct svc_entry *
entry_create(struct svc_selector *selector, const char *service, uint32_t hash)
{
	struct svc_entry *entry = svc_mem_calloc(1, sizeof(*entry));

	if (entry == NULL)
		return NULL;
	entry->service = svc_mem_strdup(service);
	if (entry->service == NULL) {
		svc_mem_free(entry);
		return NULL;
	}
	entry->retired.free = entry_retired;
	entry->selector = selector;
	entry->hash = hash;
	atomic_init(&entry->refs, 1);
	pthread_mutex_init(&entry->lock, NULL);
	svc_cond_init(&entry->cond);
	return entry;
}

/* In a read or under selector->lock. */
static struct svc_entry *
find(struct svc_selector *selector, const char *service, uint32_t hash)
{
	struct svc_entry *entry;

	entry = atomic_load(&selector->buckets[hash % SVC_SELECTOR_BUCKETS]);
	while (entry != NULL &&
	       (entry->hash != hash || strcmp(entry->service, service) != 0))
		entry = atomic_load(&entry->next);
	return entry;
}

/* One that is not that of the last time. */
static SVC_APART struct svc_entry *
find_other(struct svc_reader *reader, struct svc_selector *selector,
    const char *service, uint64_t version)
{
	struct svc_reader_slot *slot;
	struct svc_entry *entry;

	for (unsigned i = 1; i < SVC_READER_SLOTS; i++) {
		unsigned at = (reader->last + i) % SVC_READER_SLOTS;

		slot = &reader->slots[at];
		if (slot->owner != selector->id || slot->version != version)
			continue;
		entry = slot->found;
		if (strcmp(entry->service, service) == 0) {
			reader->last = at;
			return entry;
		}
	}
	entry = find(selector, service, svc_entry_hash(service));
	if (entry != NULL) {
		reader->last =
		    (reader->last + SVC_READER_SLOTS - 1) % SVC_READER_SLOTS;
		slot = &reader->slots[reader->last];
		slot->owner = selector->id;
		slot->version = version;
		slot->found = entry;
	}
	return entry;
}

struct svc_entry *
svc_entry_find(struct svc_reader *reader, struct svc_selector *selector,
    const char *service)
{
	uint64_t version = atomic_load(&selector->version);
	struct svc_reader_slot *slot = &reader->slots[reader->last];
	struct svc_entry *entry = slot->found;

	/* Nearly always it is the one of the last time. */
	if (slot->owner == selector->id && slot->version == version &&
	    strcmp(entry->service, service) == 0)
		return entry;
	return find_other(reader, selector, service, version);
}

/* Under selector->lock. Takes the longest known entry that has no nodes and
 * that nobody uses out of the table; NULL when there is none. */
static struct svc_entry *
evict(struct svc_selector *selector)
{
	struct svc_entry *entry;
	bool idle;

	for (size_t i = 0; i < SVC_SELECTOR_BUCKETS; i++) {
		_Atomic(struct svc_entry *) *at = &selector->buckets[i];
		_Atomic(struct svc_entry *) *last = NULL;

		/* New ones are put first, so the last one is the oldest. */
		for (; (entry = atomic_load(at)) != NULL; at = &entry->next) {
			pthread_mutex_lock(&entry->lock);
			idle = entry->synced && entry->n_nodes == 0 &&
			       atomic_load(&entry->refs) == 1;
			pthread_mutex_unlock(&entry->lock);
			if (idle)
				last = at;
		}
		if (last == NULL)
			continue;
		entry = atomic_load(last);
		atomic_store(last, atomic_load(&entry->next));
		atomic_fetch_add(&selector->version, 1);
		selector->n_entries--;
		return entry;
	}
	return NULL;
}

/* Finds or makes the entry and holds it. */
static svc_err
obtain(struct svc_selector *selector, const char *service,
    struct svc_entry **ret_entry, struct svc_error *err)
{
	uint32_t hash = svc_entry_hash(service);
	struct svc_entry *entry, *old = NULL;
	_Atomic(struct svc_entry *) *bucket;
	svc_err rc = SVC_OK;

	rc = svc_service_name_check(service, err);
	if (rc != SVC_OK)
		return rc;
	pthread_mutex_lock(&selector->lock);
	entry = find(selector, service, hash);
	if (entry == NULL) {
		entry = entry_create(selector, service, hash);
		if (entry == NULL) {
			rc = SVC_E_NOMEM;
		} else {
			if (selector->n_entries >= ENTRIES_BEFORE_EVICTION)
				old = evict(selector);
			bucket =
			    &selector->buckets[hash % SVC_SELECTOR_BUCKETS];
			atomic_init(&entry->next, atomic_load(bucket));
			atomic_store(bucket, entry);
			selector->n_entries++;
		}
	}
	if (entry != NULL)
		atomic_fetch_add(&entry->refs, 1);
	pthread_mutex_unlock(&selector->lock);

	if (old != NULL) {
		svc_registry_unwatch(old->watch);
		svc_retire(&selector->retirement, &old->retired);
	}
	if (rc != SVC_OK)
		return svc_view_no_memory(service, err);
	*ret_entry = entry;
	return SVC_OK;
}

/* ------------------------------------------------- from watch to snapshot */

/* An empty one with room for `n`. NULL when memory ran out. */
static struct svc_snapshot *
snapshot_create(const struct svc_strategy_ops *strategy, size_t n)
{
	struct svc_snapshot *snapshot;
	size_t n_places = 1, size;

	while (n_places < 2 * n)
		n_places *= 2;
	size = sizeof(*snapshot) + n * sizeof(snapshot->targets[0]);
	snapshot = svc_mem_calloc(1, size + n_places * sizeof(uint32_t));
	if (snapshot == NULL)
		return NULL;
	snapshot->retired.free = snapshot_retired;
	snapshot->strategy = strategy;
	snapshot->by_id = (uint32_t *)(void *)((char *)snapshot + size);
	snapshot->n_places = n_places;
	atomic_init(&snapshot->refs, 1);
	return snapshot;
}

static void
snapshot_add(struct svc_snapshot *snapshot, struct svc_held_target *target)
{
	size_t place = target->id_hash;

	while (snapshot->by_id[place & (snapshot->n_places - 1)] != 0)
		place++;
	snapshot->targets[snapshot->n++] = target;
	snapshot->by_id[place & (snapshot->n_places - 1)] =
	    (uint32_t)snapshot->n;
}

/* Under entry->lock. Makes a snapshot of the nodes; the one before is to be
 * retired by the caller when the lock is free. */
static svc_err
publish(struct svc_entry *entry, struct svc_snapshot **ret_old)
{
	const struct svc_strategy_ops *strategy = entry->selector->strategy;
	struct svc_snapshot *old = atomic_load(&entry->snapshot);
	struct svc_snapshot *snapshot;
	size_t n_staying = 0;
	svc_err rc;

	entry->unpublished = true;
	if (!entry->synced && entry->n_nodes == 0) {
		/* What was known has gone; the full view is still to come. */
		atomic_store(&entry->snapshot, NULL);
		entry->unpublished = false;
		*ret_old = old;
		return SVC_OK;
	}
	/* Those that are about to go are left out, unless all are. */
	for (size_t i = 0; i < entry->n_nodes; i++)
		n_staying += !entry->nodes[i]->draining;
	snapshot = snapshot_create(strategy, entry->n_nodes);
	if (snapshot == NULL)
		goto nomem;
	for (size_t i = 0; i < entry->n_nodes; i++)
		if (n_staying == 0 || !entry->nodes[i]->draining)
			snapshot_add(snapshot, entry->nodes[i]);
	if (SVC_OPS_HAS(strategy, create)) {
		rc = strategy->create(
		    (const struct svc_target *const *)snapshot->targets,
		    snapshot->n, old != NULL ? old->state : NULL,
		    &snapshot->state);
		if (rc != SVC_OK) {
			svc_mem_free(snapshot);
			goto nomem;
		}
	}
	for (size_t i = 0; i < snapshot->n; i++)
		atomic_fetch_add_explicit(
		    &snapshot->targets[i]->refs, 1, memory_order_relaxed);
	if (snapshot->n == 0 && old != NULL && old->n > 0)
		atomic_store(&entry->away_until_ms, svc_deadline(AWAY_MS));
	atomic_store(&entry->snapshot, snapshot);
	entry->unpublished = false;
	atomic_store(&entry->attention, entry->lost);
	*ret_old = old;
	return SVC_OK;
nomem:
	/* The next pick tries again. */
	atomic_store(&entry->attention, true);
	return SVC_E_NOMEM;
}

/* Where the node with this id is or would be. */
static size_t
position(const struct svc_entry *entry, const char *id, bool *ret_found)
{
	size_t low = 0, high = entry->n_nodes, middle;
	int order;

	*ret_found = false;
	while (low < high) {
		middle = low + (high - low) / 2;
		order = strcmp(entry->nodes[middle]->seen.node->id, id);
		if (order == 0) {
			*ret_found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The node at `at` leaves and joins those to be let go. */
static void
take_out(struct svc_entry *entry, size_t at, struct svc_held_target **gone)
{
	entry->nodes[at]->next = *gone;
	*gone = entry->nodes[at];
	entry->n_nodes--;
	memmove(&entry->nodes[at], &entry->nodes[at + 1],
	    (entry->n_nodes - at) * sizeof(entry->nodes[0]));
}

static svc_err
put_in(struct svc_entry *entry, const struct svc_record *record,
    bool *ret_changed, struct svc_held_target **gone)
{
	const struct svc_node *node = &record->nodes[0];
	const struct svc_held_target *same = NULL;
	struct svc_held_target **more, *target, *old;
	bool found;
	size_t at = position(entry, node->id, &found), cap;

	if (found) {
		old = entry->nodes[at];
		if (svc_record_equal(old->own, record)) {
			old->peer->round = entry->round;
			return SVC_OK;
		}
		if (strcmp(old->seen.node->address, node->address) == 0)
			same = old;
	} else if (entry->n_nodes == entry->cap_nodes) {
		cap = entry->cap_nodes * 2 + 4;
		more = svc_mem_realloc(entry->nodes, cap * sizeof(*more));
		if (more == NULL)
			return SVC_E_NOMEM;
		entry->nodes = more;
		entry->cap_nodes = cap;
	}
	target = svc_target_create(entry, record, same);
	if (target == NULL)
		return SVC_E_NOMEM;
	target->peer->round = entry->round;
	if (found) {
		entry->nodes[at]->next = *gone;
		*gone = entry->nodes[at];
	} else {
		memmove(&entry->nodes[at + 1], &entry->nodes[at],
		    (entry->n_nodes - at) * sizeof(entry->nodes[0]));
		entry->n_nodes++;
	}
	entry->nodes[at] = target;
	*ret_changed = true;
	return SVC_OK;
}

/* True when the view has changed. */
static bool
apply(struct svc_entry *entry, svc_change change,
    const struct svc_record *record, struct svc_held_target **gone)
{
	bool found, changed = false;
	size_t at;

	switch (change) {
	case SVC_CREATED:
	case SVC_UPDATED:
		if (record->n_nodes == 0)
			break;
		if (put_in(entry, record, &changed, gone) != SVC_OK)
			entry->lost = true;
		break;
	case SVC_REMOVED:
		if (record->n_nodes == 0)
			break;
		at = position(entry, record->nodes[0].id, &found);
		/* A node that changed its version comes as one that is new and
		 * one that is gone, in any order. */
		if (!found || strcmp(entry->nodes[at]->seen.record->version,
				  record->version) != 0)
			break;
		take_out(entry, at, gone);
		changed = true;
		break;
	case SVC_SYNCED:
		/* After a second watch: what it did not repeat is gone. */
		for (at = entry->n_nodes; at-- > 0;) {
			if (entry->nodes[at]->peer->round == entry->round)
				continue;
			take_out(entry, at, gone);
			changed = true;
		}
		if (!entry->synced)
			changed = true;
		entry->synced = true;
		break;
	}
	return changed;
}

static void
on_change(svc_change change, const struct svc_record *record, void *arg)
{
	struct svc_entry *entry = arg;
	struct svc_held_target *gone = NULL, *target;
	struct svc_snapshot *now, *old = NULL;
	bool lost;

	pthread_mutex_lock(&entry->lock);
	lost = !entry->lost;
	if (apply(entry, change, record, &gone))
		entry->unpublished = true;
	lost = lost && entry->lost;
	if (lost)
		atomic_store(&entry->attention, true);
	now = atomic_load(&entry->snapshot);
	/* The first view of a big service comes node by node. A snapshot at
	 * each doubling keeps the work linear. */
	if (entry->unpublished &&
	    (entry->synced || change != SVC_CREATED || now == NULL ||
		entry->n_nodes >= 2 * now->n))
		publish(entry, &old);
	pthread_cond_broadcast(&entry->cond);
	pthread_mutex_unlock(&entry->lock);

	if (lost)
		svc_log(SVC_LOG_WARN, "selector.lost",
		    "no memory for a change of \"%s\": its nodes will be "
		    "asked for again",
		    entry->service);
	if (old != NULL)
		svc_retire(&entry->selector->retirement, &old->retired);
	while ((target = gone) != NULL) {
		gone = target->next;
		svc_target_unref(target);
	}
}

/* Under entry->lock, which is released meanwhile. The watch is made by one
 * thread; a view that lost a change gets a new watch. */
static svc_err
start_watch(struct svc_entry *entry, struct svc_error *err)
{
	struct svc_watch *old = entry->watch, *watch = NULL;
	svc_err rc;

	entry->starting = true;
	entry->watch = NULL;
	pthread_mutex_unlock(&entry->lock);
	svc_registry_unwatch(old);
	pthread_mutex_lock(&entry->lock);
	entry->lost = false;
	entry->synced = false; /* what was lost is still to come */
	entry->round++;
	atomic_store(&entry->attention, entry->unpublished);
	pthread_mutex_unlock(&entry->lock);
	rc = svc_registry_watch(entry->selector->registry, entry->service,
	    on_change, entry, &watch, err);
	pthread_mutex_lock(&entry->lock);
	entry->starting = false;
	entry->watch = watch;
	if (rc != SVC_OK) {
		entry->lost = true;
		atomic_store(&entry->attention, true);
	}
	pthread_cond_broadcast(&entry->cond);
	return rc;
}

bool
svc_entry_is_away(
    const struct svc_entry *entry, const struct svc_snapshot *snapshot)
{
	return snapshot->n == 0 &&
	       svc_now_ms() < atomic_load_explicit(
				  &entry->away_until_ms, memory_order_relaxed);
}

/* With entry->lock. Errors: SVC_E_TIMEDOUT, SVC_E_CANCELLED */
static svc_err
wait_for_change(
    struct svc_entry *entry, const struct svc_pick *pick, int64_t until_ms)
{
	bool may_give_up = pick != NULL && pick->given_up != NULL;
	int64_t look_ms = may_give_up ? svc_deadline(GIVE_UP_MS) : until_ms;
	if (may_give_up && pick->given_up(pick->arg))
		return SVC_E_CANCELLED;
	svc_err rc = svc_cond_wait(&entry->cond, &entry->lock,
	    look_ms < until_ms ? look_ms : until_ms);
	return look_ms < until_ms ? SVC_OK : rc;
}

svc_err
svc_entry_prepare(struct svc_selector *selector, const char *service,
    bool patient, int64_t deadline_at_ms, const struct svc_pick *pick,
    struct svc_entry **ret_entry, struct svc_error *err)
{
	struct svc_entry *entry = NULL;
	struct svc_snapshot *old = NULL, *known;
	bool started = false, away;
	int64_t until_ms;
	svc_err rc;

	rc = obtain(selector, service, &entry, err);
	if (rc != SVC_OK)
		return rc;
	svc_will_block();
	pthread_mutex_lock(&entry->lock);
	for (;;) {
		rc = SVC_OK;
		if (!entry->starting && entry->lost && started)
			rc = svc_view_no_memory(service, err);
		else if (!entry->starting &&
			 (entry->watch == NULL || entry->lost)) {
			started = true;
			rc = start_watch(entry, err);
		}
		if (rc == SVC_OK && entry->unpublished && old == NULL &&
		    publish(entry, &old) != SVC_OK)
			rc = svc_view_no_memory(service, err);
		known = atomic_load(&entry->snapshot);
		if (known != NULL)
			rc = SVC_OK; /* an older view is better than none */
		away =
		    patient && known != NULL && svc_entry_is_away(entry, known);
		if ((known != NULL && !away) || rc != SVC_OK)
			break;
		if (atomic_load(&selector->closed)) {
			rc = svc_error_set(
			    err, SVC_E_CLOSED, "the client is closing");
			break;
		}
		until_ms = deadline_at_ms;
		if (away && until_ms > atomic_load(&entry->away_until_ms))
			until_ms = atomic_load(&entry->away_until_ms);
		rc = wait_for_change(entry, pick, until_ms);
		if (rc == SVC_E_CANCELLED) {
			svc_error_set(err, rc, "given up");
			break;
		}
		if (rc != SVC_OK && away) {
			rc = SVC_OK; /* nobody came, and so it is told */
			break;
		}
		if (rc != SVC_OK && atomic_load(&entry->snapshot) == NULL) {
			rc = svc_error_set(err, SVC_E_TIMEDOUT,
			    "registry %s has given no view of service \"%s\" "
			    "in time",
			    svc_registry_name(selector->registry), service);
			break;
		}
	}
	pthread_mutex_unlock(&entry->lock);
	if (old != NULL)
		svc_retire(&selector->retirement, &old->retired);
	if (rc == SVC_OK)
		*ret_entry = entry;
	else
		svc_entry_unref(entry);
	return rc;
}

bool
svc_entry_await_full(struct svc_selector *selector, const struct svc_pick *pick,
    int64_t deadline_at_ms)
{
	struct svc_entry *entry;
	bool full;

	if (svc_entry_prepare(selector, pick->service, false, deadline_at_ms,
		pick, &entry, NULL) != SVC_OK)
		return false;
	pthread_mutex_lock(&entry->lock);
	while (
	    !entry->synced && !entry->lost && !atomic_load(&selector->closed)) {
		if (wait_for_change(entry, pick, deadline_at_ms) != SVC_OK)
			break;
	}
	full = entry->synced;
	pthread_mutex_unlock(&entry->lock);
	svc_entry_unref(entry);
	return full;
}

bool
svc_entry_is_full(struct svc_selector *selector, const char *service)
{
	struct svc_entry *entry;
	bool full = false;

	pthread_mutex_lock(&selector->lock);
	entry = find(selector, service, svc_entry_hash(service));
	if (entry != NULL) {
		pthread_mutex_lock(&entry->lock);
		full = entry->synced || entry->lost;
		pthread_mutex_unlock(&entry->lock);
	}
	pthread_mutex_unlock(&selector->lock);
	return full;
}
