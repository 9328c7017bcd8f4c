/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_WHEEL_H
#define SVC_WHEEL_H

/*
 * Points in time for very many things that mostly end before: a ring of slots
 * of SVC_WHEEL_TICK_MS each. Putting and removing cost the same however many
 * there are; what lies further ahead than one turn of the ring is looked at
 * once a turn, and so may be put off by changing its `due_at_ms`. No locks: the
 * owner has one.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SVC_WHEEL_TICK_MS 4
#define SVC_WHEEL_SLOTS 256u
/* Each entry is looked at within so long. */
#define SVC_WHEEL_TURN_MS ((SVC_WHEEL_SLOTS + 1) * SVC_WHEEL_TICK_MS)

struct svc_wheel_entry {
	struct svc_wheel_entry *next;
	struct svc_wheel_entry **link; /* what points to it */
	_Atomic int64_t due_at_ms;
};

struct svc_wheel {
	int64_t tick; /* the last one that was turned to */
	uint64_t used[SVC_WHEEL_SLOTS / 64]; /* slots that may have entries */
	/* The last one is for INT64_MAX, which never comes. */
	struct svc_wheel_entry *slots[SVC_WHEEL_SLOTS + 1];
};

/* Nothing is in it: it need not be turned for the time that has passed. A
 * zeroed wheel is an empty one. */
void svc_wheel_start(struct svc_wheel *wheel, int64_t now_ms);
/* Returns when the wheel must be turned for it at the latest. */
int64_t svc_wheel_put(
    struct svc_wheel *wheel, struct svc_wheel_entry *entry, int64_t due_at_ms);
void svc_wheel_remove(struct svc_wheel_entry *entry);
/* When it is to be turned next; INT64_MAX: no need. */
int64_t svc_wheel_next(struct svc_wheel *wheel);
/* Put an entry off without the owner's lock: to a time that is more than
 * SVC_WHEEL_TURN_MS ahead. */
static inline void
svc_wheel_put_off(struct svc_wheel_entry *entry, int64_t due_at_ms)
{
	atomic_store_explicit(
	    &entry->due_at_ms, due_at_ms, memory_order_relaxed);
}
/* Calls `due` for the entries whose time has come, never before it and at most
 * a tick and a turn's lateness after. `due` may remove or put that entry. */
void svc_wheel_turn(struct svc_wheel *wheel, int64_t now_ms,
    void (*due)(struct svc_wheel_entry *entry, void *arg), void *arg);
/* Calls `each` for all, which may remove or put that entry: then some may be
 * seen twice. */
void svc_wheel_each(struct svc_wheel *wheel,
    void (*each)(struct svc_wheel_entry *entry, void *arg), void *arg);

#endif
