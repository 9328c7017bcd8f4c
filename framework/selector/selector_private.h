/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SELECTOR_PRIVATE_H
#define SVC_SELECTOR_PRIVATE_H

#include <svc/reclaim.h>
#include <svc/selector.h>

/**
 * What stays the same of a node while its metadata changes: the client's link
 * and how its calls went. Shared by all targets made for it.
 */
struct svc_peer {
	atomic_size_t refs;
	struct svc_entry *entry; /* held */
	_Atomic(void *) link;
	uint64_t round; /* of the entry in which it was last seen */

	/* When it may be tried again; 0: not blacklisted. Whoever moves it
	 * from the past into the future holds the one try of its probation. */
	_Atomic int64_t out_until_at_ms;
	atomic_bool probing;
	atomic_bool troubled; /* there is something to forget on success */
	pthread_mutex_t
	    lock; /* guards what follows, and changes of the above */
	size_t n_failed;
	size_t oldest;
	int64_t failed_at_ms[]; /* a ring of selector->failures */
};

/*
 * The holds of picks, counted apart by thread: a count for each of 64 targets
 * in each row, and a row for each place, with a cache line's room behind it.
 */
#define SVC_HOLD_TARGETS 64
struct svc_hold_chunk {
	struct svc_hold_chunk *next;
	uint64_t used; /* a bit for each target */
	struct svc_hold_row {
		_Atomic int32_t counts[SVC_HOLD_TARGETS];
		char room[64];
	} rows[SVC_PLACES];
};

/*
 * `refs` counts who can find it: the view and the snapshots. While there are
 * any, a hold is counted in `holds`, by the row of its thread, and given back
 * in that of the thread that does so; only the sum means something, and nobody
 * asks for it. When the last of refs goes, `dying` is set, and holds are
 * counted in `late` from then on; once no reader is left that has not seen
 * this, the rows are summed up into it. `late` is kept from reaching 0 before
 * by SVC_HOLD_BIAS.
 */
#define SVC_HOLD_BIAS (INT64_C(1) << 40)
struct svc_held_target {
	struct svc_target seen; /* first: what the world sees */
	struct svc_peer *peer;  /* held */
	struct svc_hold_row *holds;
	unsigned index;   /* in a row */
	uint32_t id_hash; /* of the node's */
	bool draining;    /* as its record says */
	atomic_bool dying;
	_Atomic int64_t late;
	atomic_size_t refs;
	struct svc_hold_chunk *chunk;
	struct svc_record *own;       /* seen.record */
	struct svc_held_target *next; /* of those to be let go */
	struct svc_retired retired;
};

/** The nodes of one service at one moment. Immutable. */
struct svc_snapshot {
	struct svc_retired retired; /* first */
	atomic_size_t refs;
	const struct svc_strategy_ops *strategy;
	void *state;
	/* A table of the targets' numbers, plus 1, by their id_hash; 0: a free
	 * place. There are n_places, a power of 2, and at least as many free
	 * as not. It lies behind the targets. */
	uint32_t *by_id;
	size_t n_places;
	size_t n;
	struct svc_held_target *targets[]; /* held; sorted by node id */
};

/** One service. Stays in its table until it is evicted. */
struct svc_entry {
	struct svc_retired retired; /* first */
	struct svc_selector *selector;
	char *service;
	uint32_t hash;
	_Atomic(struct svc_entry *) next; /* in its bucket */

	/* NULL until there is a node or the full first view. */
	_Atomic(struct svc_snapshot *) snapshot;
	atomic_bool attention;         /* lost or unpublished */
	_Atomic int64_t away_until_ms; /* its last node has just gone */
	atomic_size_t n_out;           /* blacklisted peers */
	atomic_size_t refs;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t cond;
	struct svc_watch *watch;
	bool starting; /* a thread is making the watch */
	bool synced;
	bool lost;        /* a change could not be taken in: no memory */
	bool unpublished; /* nodes is newer than snapshot */
	uint64_t round;   /* counts the watches */
	struct svc_held_target **nodes; /* sorted by node id */
	size_t n_nodes, cap_nodes;
	struct svc_hold_chunk *chunks;
};

#define SVC_SELECTOR_BUCKETS 256

struct svc_selector {
	uint64_t id; /* never used again by another */
	struct svc_registry *registry;
	const struct svc_strategy_ops *strategy;
	size_t failures;
	int64_t window_ms;
	void (*unlink)(void *link, void *arg);
	void *arg;

	_Atomic uint64_t version; /* changes when an entry goes */
	_Atomic(struct svc_entry *) buckets[SVC_SELECTOR_BUCKETS];
	struct svc_retirement retirement;
	atomic_bool closed;   /* nothing waits any more */
	pthread_mutex_t lock; /* guards changes of the buckets */
	size_t n_entries;
};

svc_err svc_view_no_memory(const char *service, struct svc_error *err);
void svc_snapshot_unref(struct svc_snapshot *snapshot);
void svc_entry_unref(struct svc_entry *entry);
/** The entry has no watch any more and nobody reads it: its targets go, and
 * with them and the other holds it goes itself. */
void svc_entry_dissolve(struct svc_entry *entry);
/** Of a service's name or a node's id, for the tables of both. */
uint32_t svc_entry_hash(const char *text);
/** In a read: the entry of the service through what this thread remembers;
 * NULL when there is none yet. */
struct svc_entry *svc_entry_find(struct svc_reader *reader,
    struct svc_selector *selector, const char *service);
/** Whether all nodes have gone so lately that one may well come back. In a
 * read or under entry->lock. */
bool svc_entry_is_away(
    const struct svc_entry *entry, const struct svc_snapshot *snapshot);
/** Makes sure that there is a view, waiting for the first one, and, if
 * `patient`, for a node while svc_entry_is_away; holds the entry. `pick` may
 * give up waiting; NULL: for nobody who would.
 * Errors: as svc_selector_pick */
svc_err svc_entry_prepare(struct svc_selector *selector, const char *service,
    bool patient, int64_t deadline_at_ms, const struct svc_pick *pick,
    struct svc_entry **ret_entry, struct svc_error *err);
/** Waits for the first full view of the pick's service; false when it did not
 * come. Who saw less before this was called looks again: the view may have
 * become full in between. */
bool svc_entry_await_full(struct svc_selector *selector,
    const struct svc_pick *pick, int64_t deadline_at_ms);
/** Whether that wait would end at once. */
bool svc_entry_is_full(struct svc_selector *selector, const char *service);

/** `previous`, when not NULL, is the same node before: its peer is shared.
 * Under entry->lock. */
struct svc_held_target *svc_target_create(struct svc_entry *entry,
    const struct svc_record *record, const struct svc_held_target *previous);
/** Without a lock. */
void svc_target_unref(struct svc_held_target *target);
/** Changes the holds of a target that cannot be dropped, since a read goes on
 * that found it or saw that it is not dying. */
static inline void
svc_target_count(
    struct svc_reader *reader, struct svc_held_target *target, int32_t change)
{
	_Atomic int32_t *count =
	    &target->holds[reader->place].counts[target->index];
	if (reader->alone)
		atomic_store_explicit(count,
		    atomic_load_explicit(count, memory_order_relaxed) + change,
		    memory_order_release);
	else
		atomic_fetch_add_explicit(count, change, memory_order_release);
}

/** A hold for a target found in a read that still goes on. */
static inline void
svc_target_hold_in_read(
    struct svc_reader *reader, struct svc_held_target *target)
{
	svc_target_count(reader, target, 1);
}

static inline struct svc_held_target *
svc_held(struct svc_target *target)
{
	return (struct svc_held_target *)target;
}

static inline const struct svc_held_target *
svc_held_const(const struct svc_target *target)
{
	return (const struct svc_held_target *)target;
}

static inline bool
svc_peer_is_out(struct svc_peer *peer, int64_t now_ms)
{
	return atomic_load_explicit(
		   &peer->out_until_at_ms, memory_order_relaxed) > now_ms;
}

/** Take the one try of a peer whose time is over; true also for a peer that
 * is not blacklisted. */
bool svc_peer_claim(struct svc_peer *peer, int64_t now_ms);

#endif
