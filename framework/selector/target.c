/* SPDX-License-Identifier: Apache-2.0 */
#include "selector_private.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <string.h>

/*
 * peer->lock guards how the calls of one node failed. It is taken when a call
 * failed and for the first success after that, never by a pick. Innermost.
 */

/* ------------------------------------------------- counters for the holds */

/* Under entry->lock. */
static bool
find_counters(struct svc_entry *entry, struct svc_held_target *target)
{
	struct svc_hold_chunk *chunk = entry->chunks;

	while (chunk != NULL && chunk->used == UINT64_MAX)
		chunk = chunk->next;
	if (chunk == NULL) {
		chunk = svc_mem_calloc(1, sizeof(*chunk));
		if (chunk == NULL)
			return false;
		chunk->next = entry->chunks;
		entry->chunks = chunk;
	}
	target->index = (unsigned)__builtin_ctzll(~chunk->used);
	chunk->used |= UINT64_C(1) << target->index;
	target->chunk = chunk;
	target->holds = chunk->rows;
	return true;
}

/* Under entry->lock. What the counters held, which then are 0 again. */
static int64_t
drop_counters(struct svc_held_target *target)
{
	int64_t sum = 0;

	for (unsigned i = 0; i < SVC_PLACES; i++)
		sum +=
		    atomic_exchange(&target->holds[i].counts[target->index], 0);
	target->chunk->used &= ~(UINT64_C(1) << target->index);
	return sum;
}

/* -------------------------------------------------------------- the targets
 */

static struct svc_peer *
peer_create(struct svc_entry *entry)
{
	size_t failures = entry->selector->failures;
	struct svc_peer *peer = svc_mem_calloc(
	    1, sizeof(*peer) + failures * sizeof(peer->failed_at_ms[0]));

	if (peer == NULL)
		return NULL;
	atomic_init(&peer->refs, 1);
	pthread_mutex_init(&peer->lock, NULL);
	atomic_fetch_add(&entry->refs, 1);
	peer->entry = entry;
	return peer;
}

static void
peer_unref(struct svc_peer *peer)
{
	struct svc_entry *entry = peer->entry;
	struct svc_selector *selector = entry->selector;
	void *link;

	if (atomic_fetch_sub(&peer->refs, 1) != 1)
		return;
	if (atomic_load(&peer->out_until_at_ms) != 0)
		atomic_fetch_sub(&entry->n_out, 1);
	link = atomic_load(&peer->link);
	if (link != NULL && selector->unlink != NULL)
		selector->unlink(link, selector->arg);
	pthread_mutex_destroy(&peer->lock);
	svc_mem_free(peer);
	svc_entry_unref(entry);
}

struct svc_held_target *
svc_target_create(struct svc_entry *entry, const struct svc_record *record,
    const struct svc_held_target *previous)
{
	struct svc_held_target *target = svc_mem_calloc(1, sizeof(*target));

	if (target == NULL)
		return NULL;
	target->own = svc_record_hold(record);
	if (!find_counters(entry, target))
		goto fail;
	if (previous != NULL) {
		target->peer = previous->peer;
		atomic_fetch_add(&target->peer->refs, 1);
	} else {
		target->peer = peer_create(entry);
		if (target->peer == NULL)
			goto fail;
	}
	atomic_init(&target->refs, 1);
	atomic_init(&target->late, SVC_HOLD_BIAS);
	target->seen.record = target->own;
	target->seen.node = &target->own->nodes[0];
	target->id_hash = svc_entry_hash(target->seen.node->id);
	const char *draining =
	    svc_headers_get(target->seen.node->metadata, SVC_DRAINING);
	target->draining = draining != NULL && strcmp(draining, "true") == 0;
	return target;
fail:
	if (target->chunk != NULL)
		drop_counters(target);
	svc_record_destroy(target->own);
	svc_mem_free(target);
	return NULL;
}

static void
count_late(struct svc_held_target *target, int64_t change)
{
	if (atomic_fetch_add(&target->late, change) + change != 0)
		return;
	peer_unref(target->peer);
	svc_record_destroy(target->own);
	svc_mem_free(target);
}

/* Nobody counts in the rows any more. */
static void
unfound(struct svc_retired *object)
{
	struct svc_held_target *target =
	    (struct svc_held_target *)(void *)((char *)object -
					       offsetof(struct svc_held_target,
						   retired));
	struct svc_entry *entry = target->peer->entry;
	int64_t sum;

	pthread_mutex_lock(&entry->lock);
	sum = drop_counters(target);
	pthread_mutex_unlock(&entry->lock);
	count_late(target, sum - SVC_HOLD_BIAS);
}

void
svc_target_unref(struct svc_held_target *target)
{
	if (atomic_fetch_sub(&target->refs, 1) != 1)
		return;
	atomic_store(&target->dying, true);
	target->retired.free = unfound;
	svc_retire(
	    &target->peer->entry->selector->retirement, &target->retired);
}

static inline void
change_holds(struct svc_held_target *target, int32_t change)
{
	struct svc_reader *reader = svc_reader_enter_briefly();

	if (reader != NULL && !atomic_load(&target->dying)) {
		svc_target_count(reader, target, change);
		svc_reader_leave(reader);
		return;
	}
	if (reader != NULL)
		svc_reader_leave(reader);
	/* Without memory to become a reader this is right as well. */
	count_late(target, change);
}

void
svc_target_hold(struct svc_target *target)
{
	change_holds(svc_held(target), 1);
}

void *
svc_target_link(const struct svc_target *target)
{
	return atomic_load_explicit(
	    &svc_held_const(target)->peer->link, memory_order_acquire);
}

bool
svc_target_relink(struct svc_target *target, void *expected, void *link)
{
	return atomic_compare_exchange_strong(
	    &svc_held(target)->peer->link, &expected, link);
}

bool
svc_peer_claim(struct svc_peer *peer, int64_t now_ms)
{
	int64_t until = atomic_load(&peer->out_until_at_ms);

	if (until == 0)
		return true;
	if (until > now_ms ||
	    !atomic_compare_exchange_strong(&peer->out_until_at_ms, &until,
		now_ms + peer->entry->selector->window_ms))
		return false;
	atomic_store(&peer->probing, true);
	return true;
}

static void
succeeded(struct svc_peer *peer)
{
	bool was_out;

	pthread_mutex_lock(&peer->lock);
	peer->n_failed = 0;
	peer->oldest = 0;
	was_out = atomic_exchange(&peer->out_until_at_ms, 0) != 0;
	atomic_store(&peer->probing, false);
	atomic_store(&peer->troubled, false);
	pthread_mutex_unlock(&peer->lock);
	if (was_out)
		atomic_fetch_sub(&peer->entry->n_out, 1);
}

/* True when the node goes out by this. */
static bool
failed(struct svc_peer *peer, bool at_once)
{
	const struct svc_selector *selector = peer->entry->selector;
	int64_t now_ms = svc_now_ms();
	bool goes_out = false;

	pthread_mutex_lock(&peer->lock);
	atomic_store(&peer->troubled, true);
	if (atomic_load(&peer->out_until_at_ms) != 0) {
		/* Calls that began before it went out tell nothing new. */
		goes_out = atomic_exchange(&peer->probing, false);
	} else {
		peer->failed_at_ms[(peer->oldest + peer->n_failed) %
				   selector->failures] = now_ms;
		if (peer->n_failed < selector->failures)
			peer->n_failed++;
		else
			peer->oldest = (peer->oldest + 1) % selector->failures;
		if (at_once || (peer->n_failed == selector->failures &&
				   now_ms - peer->failed_at_ms[peer->oldest] <=
				       selector->window_ms)) {
			goes_out = true;
			atomic_store(&peer->probing, false);
			atomic_fetch_add(&peer->entry->n_out, 1);
		}
	}
	if (goes_out)
		atomic_store(
		    &peer->out_until_at_ms, now_ms + selector->window_ms);
	pthread_mutex_unlock(&peer->lock);
	return goes_out;
}

/* The one try said nothing: let another have it. */
static void
undecided(struct svc_peer *peer)
{
	pthread_mutex_lock(&peer->lock);
	if (atomic_exchange(&peer->probing, false) &&
	    atomic_load(&peer->out_until_at_ms) != 0)
		atomic_store(&peer->out_until_at_ms, svc_now_ms());
	pthread_mutex_unlock(&peer->lock);
}

/* What a call tells of its node. */
static SVC_APART void
note(struct svc_target *target, svc_outcome outcome)
{
	struct svc_peer *peer = svc_held(target)->peer;
	char quoted[128];
	bool silent;

	switch (outcome) {
	case SVC_OUTCOME_OK:
		succeeded(peer);
		break;
	case SVC_OUTCOME_FAILED:
	case SVC_OUTCOME_SILENT:
		silent = outcome == SVC_OUTCOME_SILENT;
		if (failed(peer, silent) && svc_log_enabled(SVC_LOG_WARN))
			svc_log(SVC_LOG_WARN, "selector.out",
			    "node %s of \"%s\" %s and is left out",
			    svc_log_quote(target->node->id,
				strlen(target->node->id), quoted,
				sizeof(quoted)),
			    target->record->name,
			    silent ? "gives no sign of life" : "keeps failing");
		break;
	case SVC_OUTCOME_NEUTRAL:
		if (atomic_load_explicit(&peer->probing, memory_order_relaxed))
			undecided(peer);
		break;
	}
}

SVC_HOT void
svc_target_done(struct svc_target *target, svc_outcome outcome)
{
	struct svc_held_target *held = svc_held(target);

	/* Mostly it did well, and has before. */
	if (outcome != SVC_OUTCOME_OK ||
	    atomic_load_explicit(&held->peer->troubled, memory_order_relaxed))
		note(target, outcome);
	change_holds(held, -1);
}
