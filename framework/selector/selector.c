/* SPDX-License-Identifier: Apache-2.0 */
#include "selector_private.h"

#include <svc/clock.h>

#include <stdio.h>
#include <string.h>

/* How long a retry waits for the first full view. */
#define FULL_VIEW_MS 1000

/* -------------------------------------------------------------- the pick */

static bool
has_labels(const struct svc_node *node, const struct svc_pick *pick)
{
	for (size_t i = 0; i < pick->n_labels; i++) {
		const struct svc_label *label = &pick->labels[i];
		const char *value =
		    svc_headers_get(node->metadata, label->name);
		if (value == NULL ||
		    (label->value != NULL && strcmp(value, label->value) != 0))
			return false;
	}
	return true;
}

static bool
fits_but_for_node(
    const struct svc_held_target *target, const struct svc_pick *pick)
{
	return (pick->version == NULL ||
		   strcmp(target->seen.record->version, pick->version) == 0) &&
	       has_labels(target->seen.node, pick);
}

/* The number of the node of this id; that of all nodes when it is not there. */
static SVC_APART size_t
find_id(const struct svc_snapshot *snapshot, const char *id)
{
	uint32_t hash = svc_entry_hash(id);

	for (size_t place = hash;; place++) {
		uint32_t at = snapshot->by_id[place & (snapshot->n_places - 1)];
		const struct svc_held_target *target;
		if (at == 0)
			return snapshot->n;
		target = snapshot->targets[at - 1];
		if (target->id_hash == hash &&
		    strcmp(target->seen.node->id, id) == 0)
			return at - 1;
	}
}

static bool
is_named(const struct svc_node *node, const char *name)
{
	return strcmp(node->id, name) == 0 || strcmp(node->address, name) == 0;
}

/* `version "1", zone=north`: what is asked for, or, with a node, what that has
 * of it. Cut where `out` ends. */
static const char *
wishes_text(const struct svc_pick *pick, const struct svc_held_target *target,
    char *out, size_t size)
{
	size_t at = 0;

	out[0] = '\0';
	if (pick->version != NULL)
		at += (size_t)snprintf(out, size, "version \"%s\"",
		    target != NULL ? target->seen.record->version
				   : pick->version);
	for (size_t i = 0; i < pick->n_labels && at < size; i++) {
		const struct svc_label *label = &pick->labels[i];
		const char *value =
		    target != NULL
			? svc_headers_get(
			      target->seen.node->metadata, label->name)
		    : label->value != NULL ? label->value
					   : "*";
		at += (size_t)snprintf(out + at, size - at, "%s%s%s%s%s",
		    at > 0 ? ", " : "", value == NULL ? "no " : "", label->name,
		    value == NULL ? "" : "=", value == NULL ? "" : value);
	}
	return out;
}

/* Which wish was not met, when no node fits, and what there is. */
static SVC_COLD svc_err
no_fit(const struct svc_snapshot *snapshot, const struct svc_pick *pick,
    struct svc_error *err)
{
	const struct svc_held_target *named = NULL;
	struct svc_pick labels = *pick;
	size_t n_version = 0;
	char asked[100], has[100];

	for (size_t i = 0; i < snapshot->n; i++) {
		const struct svc_held_target *target = snapshot->targets[i];

		if (named == NULL && pick->node != NULL &&
		    is_named(target->seen.node, pick->node))
			named = target;
		if (pick->version == NULL ||
		    strcmp(target->seen.record->version, pick->version) == 0)
			n_version++;
	}
	if (named != NULL)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "node \"%s\" of service \"%s\" has %s; the call asks for "
		    "%s",
		    pick->node, pick->service,
		    wishes_text(pick, named, has, sizeof(has)),
		    wishes_text(pick, NULL, asked, sizeof(asked)));
	if (pick->node != NULL)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "service \"%s\" has no node with the id or address "
		    "\"%s\" (%zu others)",
		    pick->service, pick->node, snapshot->n);
	if (n_version == 0)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "service \"%s\" has no node of version \"%s\" (%zu of "
		    "other versions)",
		    pick->service, pick->version, snapshot->n);
	labels.version = NULL;
	return svc_error_set(err, SVC_E_UNAVAILABLE,
	    "service \"%s\" has no node%s%s%s with label %s (%zu without)",
	    pick->service, pick->version != NULL ? " of version \"" : "",
	    pick->version != NULL ? pick->version : "",
	    pick->version != NULL ? "\"" : "",
	    wishes_text(&labels, NULL, asked, sizeof(asked)), n_version);
}

/* Those that fit; when none does, `err` says which wish was not met. */
static svc_err
fit(const struct svc_snapshot *snapshot, const struct svc_pick *pick,
    struct svc_held_target **found, size_t *ret_n, struct svc_error *err)
{
	size_t n = 0, named = snapshot->n;

	/* A node that is named by its id need not be looked for. */
	if (pick->node != NULL)
		named = find_id(snapshot, pick->node);
	if (named < snapshot->n &&
	    fits_but_for_node(snapshot->targets[named], pick)) {
		found[0] = snapshot->targets[named];
		*ret_n = 1;
		return SVC_OK;
	}
	for (size_t i = 0; i < snapshot->n; i++) {
		struct svc_held_target *target = snapshot->targets[i];

		if (fits_but_for_node(target, pick) &&
		    (pick->node == NULL ||
			is_named(target->seen.node, pick->node)))
			found[n++] = target;
	}
	if (n == 0)
		return no_fit(snapshot, pick, err);
	*ret_n = n;
	return SVC_OK;
}

/* Leaves out the blacklisted, unless that is more than half of them: then the
 * fault is likely to be elsewhere. True when some may have been left in. */
static bool
leave_out_blacklisted(struct svc_held_target **found, size_t *n, int64_t now_ms)
{
	size_t kept = 0, out = 0;

	for (size_t i = 0; i < *n; i++)
		out += svc_peer_is_out(found[i]->peer, now_ms);
	if (out > *n / 2)
		return true;
	if (out == 0)
		return false;
	for (size_t i = 0; i < *n && kept < *n - out; i++)
		if (!svc_peer_is_out(found[i]->peer, now_ms))
			found[kept++] = found[i];
	/* Others may have gone out between the two looks. */
	if (kept > 0)
		*n = kept;
	return kept == 0;
}

static bool
is_avoided(const struct svc_pick *pick, const struct svc_held_target *target)
{
	for (size_t i = 0; i < pick->n_avoid; i++)
		if (svc_held_const(pick->avoid[i])->peer == target->peer)
			return true;
	return false;
}

static void
leave_out_avoided(
    const struct svc_pick *pick, struct svc_held_target **found, size_t *n)
{
	struct svc_held_target *swap;
	size_t kept = 0;

	for (size_t i = 0; i < *n; i++) {
		if (is_avoided(pick, found[i]))
			continue;
		swap = found[kept];
		found[kept++] = found[i];
		found[i] = swap;
	}
	if (kept > 0)
		*n = kept;
}

static inline bool
has_no_wish(const struct svc_pick *pick)
{
	return pick->version == NULL && pick->n_labels == 0 &&
	       pick->node == NULL && pick->n_avoid == 0;
}

/* In a read. */
static svc_err
choose(struct svc_reader *reader, struct svc_entry *entry,
    const struct svc_snapshot *snapshot, const struct svc_pick *pick,
    struct svc_target **ret_target, struct svc_error *err)
{
	struct svc_held_target *const *among;
	struct svc_held_target **found, *target;
	int64_t now_ms = 0;
	bool plain, all;
	size_t n, at;
	svc_err rc;

	if (snapshot->n == 0)
		return svc_error_set(err, SVC_E_NOT_FOUND,
		    "service not found: %s", pick->service);
again:
	among = snapshot->targets;
	n = snapshot->n;
	all = true;
	plain = has_no_wish(pick) &&
		atomic_load_explicit(&entry->n_out, memory_order_relaxed) == 0;
	if (!plain) {
		found = (struct svc_held_target **)svc_reader_scratch(
		    reader, snapshot->n);
		if (found == NULL)
			return svc_view_no_memory(pick->service, err);
		rc = fit(snapshot, pick, found, &n, err);
		if (rc != SVC_OK)
			return rc;
		leave_out_avoided(pick, found, &n);
		if (atomic_load_explicit(&entry->n_out, memory_order_relaxed) !=
		    0) {
			now_ms = svc_now_ms();
			all = leave_out_blacklisted(found, &n, now_ms);
		}
		among = found;
	}
	at = n == 1 ? 0
		    : snapshot->strategy->pick(snapshot->state,
			  (const struct svc_target *const *)among, n, pick);
	if (at >= n)
		return svc_error_set(err, SVC_E_INTERNAL,
		    "strategy %s has chosen number %zu of %zu nodes",
		    snapshot->strategy->name, at, n);
	target = among[at];
	/* A node on probation is for one; another may just have taken it. */
	if (!all && !svc_peer_claim(target->peer, now_ms))
		goto again;
	svc_target_hold_in_read(reader, target);
	*ret_target = &target->seen;
	return SVC_OK;
}

/* Ends a read, and frees what waited for its end. */
static void
leave(struct svc_selector *selector, struct svc_reader *reader)
{
	svc_reader_leave(reader);
	if (atomic_load_explicit(
		&selector->retirement.waiting, memory_order_relaxed))
		svc_retirement_collect(&selector->retirement);
}

static svc_err
pick_now(struct svc_selector *selector, const struct svc_pick *pick,
    struct svc_target **ret_target, struct svc_error *err)
{
	struct svc_entry *entry, *prepared = NULL;
	const struct svc_snapshot *snapshot;
	struct svc_reader *reader;
	svc_err rc;

	for (;;) {
		reader = svc_reader_enter();
		if (reader == NULL)
			return svc_view_no_memory(pick->service, err);
		entry = svc_entry_find(reader, selector, pick->service);
		snapshot = entry != NULL ? atomic_load(&entry->snapshot) : NULL;
		if (snapshot != NULL &&
		    (prepared != NULL ||
			(!atomic_load_explicit(
			     &entry->attention, memory_order_relaxed) &&
			    !svc_entry_is_away(entry, snapshot))))
			break;
		svc_reader_leave(reader);
		if (prepared != NULL)
			svc_entry_unref(prepared);
		prepared = NULL;
		if (pick->dont_wait)
			return SVC_E_AGAIN;
		rc = svc_entry_prepare(selector, pick->service, true,
		    pick->deadline_at_ms, pick, &prepared, err);
		if (rc != SVC_OK)
			return rc;
	}
	rc = choose(reader, entry, snapshot, pick, ret_target, err);
	leave(selector, reader);
	if (prepared != NULL)
		svc_entry_unref(prepared);
	return rc;
}

/* In a read. An entry that was found is there as long as the version is the
 * same. */
static inline struct svc_entry *
remembered(struct svc_reader *reader, struct svc_selector *selector,
    const char *service, struct svc_pick_memo *memo)
{
	uint64_t version = atomic_load(&selector->version);

	if (memo->found == NULL || memo->version != version) {
		memo->found = svc_entry_find(reader, selector, service);
		memo->version = version;
	}
	return memo->found;
}

/* The number of a target among all of the view. */
static SVC_APART size_t
choose_any(
    const struct svc_snapshot *snapshot, const char *service, const char *key)
{
	const struct svc_pick any = {.service = service, .key = key};

	return snapshot->strategy->pick(snapshot->state,
	    (const struct svc_target *const *)snapshot->targets, snapshot->n,
	    &any);
}

/* The choice for a pick of any node or of one by its id, which nearly all are,
 * if it takes no waiting and no thinking; else NULL, and nothing has happened.
 */
static inline struct svc_target *
pick_at_once(struct svc_selector *selector, const char *service,
    const char *node, const char *key, struct svc_pick_memo *memo)
{
	struct svc_reader *reader = svc_reader_enter();
	struct svc_held_target *target = NULL;
	const struct svc_snapshot *snapshot = NULL;
	struct svc_entry *entry;
	size_t at = 0;

	if (reader == NULL)
		return NULL;
	entry = remembered(reader, selector, service, memo);
	if (entry != NULL &&
	    !atomic_load_explicit(&entry->attention, memory_order_relaxed) &&
	    atomic_load_explicit(&entry->n_out, memory_order_relaxed) == 0)
		snapshot = atomic_load(&entry->snapshot);
	if (snapshot != NULL && node != NULL)
		at = find_id(snapshot, node);
	else if (snapshot != NULL && snapshot->n > 1)
		at = choose_any(snapshot, service, key);
	if (snapshot != NULL && at < snapshot->n) {
		target = snapshot->targets[at];
		svc_target_hold_in_read(reader, target);
	}
	leave(selector, reader);
	return target != NULL ? &target->seen : NULL;
}

SVC_HOT struct svc_target *
svc_selector_pick_at_once(struct svc_selector *selector, const char *service,
    const char *node, const char *key, struct svc_pick_memo *memo)
{
	return pick_at_once(selector, service, node, key, memo);
}

/* A choice that has something to think about. Errors: as svc_selector_pick */
static SVC_APART svc_err
pick_with_thought(struct svc_selector *selector, const struct svc_pick *pick,
    struct svc_target **ret_target, struct svc_error *err)
{
	struct svc_target *target = NULL;
	int64_t until_ms = pick->deadline_at_ms;
	svc_err rc;

	rc = pick_now(selector, pick, &target, err);
	/* The first view comes node by node: one that fits, or that was not
	 * tried yet, may only be a moment away. A caller that could go on
	 * with one tried already waits less. */
	if (rc == SVC_OK && pick->n_avoid > 0 &&
	    is_avoided(pick, svc_held_const(target))) {
		if (until_ms > svc_deadline(FULL_VIEW_MS))
			until_ms = svc_deadline(FULL_VIEW_MS);
	} else if (rc != SVC_E_UNAVAILABLE) {
		if (rc == SVC_OK)
			*ret_target = target;
		return rc;
	}
	if (pick->dont_wait && !svc_entry_is_full(selector, pick->service)) {
		if (rc == SVC_OK)
			svc_target_done(target, SVC_OUTCOME_NEUTRAL);
		return SVC_E_AGAIN;
	}
	if (pick->dont_wait || svc_entry_await_full(selector, pick, until_ms)) {
		if (rc == SVC_OK)
			svc_target_done(target, SVC_OUTCOME_NEUTRAL);
		rc = pick_now(selector, pick, &target, err);
	}
	if (rc == SVC_OK)
		*ret_target = target;
	return rc;
}

SVC_HOT svc_err
svc_selector_pick(struct svc_selector *selector, const struct svc_pick *pick,
    struct svc_target **ret_target, struct svc_error *err)
{
	struct svc_target *target;

	if (pick->service == NULL)
		return svc_error_set(err, SVC_E_INVAL, "no service was named");
	if (has_no_wish(pick)) {
		struct svc_pick_memo none = {.found = NULL};
		target = pick_at_once(
		    selector, pick->service, NULL, pick->key, &none);
		if (target != NULL) {
			*ret_target = target;
			return SVC_OK;
		}
	}
	return pick_with_thought(selector, pick, ret_target, err);
}

svc_err
svc_selector_each(struct svc_selector *selector, const char *service,
    int64_t deadline_at_ms,
    void (*each)(const struct svc_target *target, bool blacklisted, void *arg),
    void *arg, struct svc_error *err)
{
	struct svc_entry *entry;
	struct svc_snapshot *snapshot;
	int64_t now_ms;
	svc_err rc;

	if (service == NULL)
		return svc_error_set(err, SVC_E_INVAL, "no service was named");
	rc = svc_entry_prepare(
	    selector, service, false, deadline_at_ms, NULL, &entry, err);
	if (rc != SVC_OK)
		return rc;
	pthread_mutex_lock(&entry->lock);
	snapshot = atomic_load(&entry->snapshot);
	if (snapshot != NULL)
		atomic_fetch_add(&snapshot->refs, 1);
	pthread_mutex_unlock(&entry->lock);

	if (snapshot == NULL || snapshot->n == 0)
		rc = svc_error_set(
		    err, SVC_E_NOT_FOUND, "service not found: %s", service);
	now_ms = svc_now_ms();
	for (size_t i = 0; rc == SVC_OK && i < snapshot->n; i++)
		each(&snapshot->targets[i]->seen,
		    svc_peer_is_out(snapshot->targets[i]->peer, now_ms), arg);
	svc_snapshot_unref(snapshot);
	svc_entry_unref(entry);
	return rc;
}

/* --------------------------------------------------------- life and death */

svc_err
svc_selector_create(const struct svc_selector_config *config,
    struct svc_selector **ret_selector, struct svc_error *err)
{
	static _Atomic uint64_t last_id;
	struct svc_selector *selector;
	const void *ops;
	svc_err rc;

	if (config->failures < 0 || config->failures > 1000 ||
	    config->window_ms < 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "a selector takes 0 to 1000 failures (not %d) and no "
		    "negative window (%lld ms)",
		    config->failures, (long long)config->window_ms);
	rc = svc_catalogue_find(&svc_strategy_interface,
	    config->strategy != NULL ? config->strategy : "random", &ops, err);
	if (rc != SVC_OK)
		return rc;
	selector = svc_mem_calloc(1, sizeof(*selector));
	if (selector == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a selector");
	selector->id = atomic_fetch_add(&last_id, 1) + 1;
	selector->registry = config->registry;
	selector->strategy = ops;
	selector->failures =
	    config->failures != 0 ? (size_t)config->failures : 3;
	selector->window_ms =
	    config->window_ms != 0 ? config->window_ms : 30000;
	selector->unlink = config->unlink;
	selector->arg = config->arg;
	svc_retirement_init(&selector->retirement);
	pthread_mutex_init(&selector->lock, NULL);
	*ret_selector = selector;
	return SVC_OK;
}

void
svc_selector_close(struct svc_selector *selector)
{
	struct svc_entry *entry;

	pthread_mutex_lock(&selector->lock);
	atomic_store(&selector->closed, true);
	for (size_t i = 0; i < SVC_SELECTOR_BUCKETS; i++) {
		entry = atomic_load(&selector->buckets[i]);
		for (; entry != NULL; entry = atomic_load(&entry->next)) {
			pthread_mutex_lock(&entry->lock);
			pthread_cond_broadcast(&entry->cond);
			pthread_mutex_unlock(&entry->lock);
		}
	}
	pthread_mutex_unlock(&selector->lock);
}

void
svc_selector_destroy(struct svc_selector *selector)
{
	struct svc_entry *entry, *next;

	if (selector == NULL)
		return;
	for (size_t i = 0; i < SVC_SELECTOR_BUCKETS; i++) {
		entry = atomic_load(&selector->buckets[i]);
		for (; entry != NULL; entry = next) {
			next = atomic_load(&entry->next);
			svc_registry_unwatch(entry->watch);
			entry->watch = NULL;
			svc_entry_dissolve(entry);
		}
	}
	svc_retirement_fini(&selector->retirement);
	pthread_mutex_destroy(&selector->lock);
	svc_mem_free(selector);
}
