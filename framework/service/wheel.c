/* SPDX-License-Identifier: Apache-2.0 */
#include "wheel.h"

void
svc_wheel_start(struct svc_wheel *wheel, int64_t now_ms)
{
	int64_t tick = now_ms / SVC_WHEEL_TICK_MS;
	if (tick > wheel->tick)
		wheel->tick = tick;
}

/* The first tick after the present one that turns to this slot. */
static int64_t
visit(const struct svc_wheel *wheel, unsigned slot)
{
	int64_t next = wheel->tick + 1;
	unsigned ahead = (slot - (unsigned)next) % SVC_WHEEL_SLOTS;
	return next + ahead;
}

int64_t
svc_wheel_put(
    struct svc_wheel *wheel, struct svc_wheel_entry *entry, int64_t due_at_ms)
{
	unsigned slot = SVC_WHEEL_SLOTS;
	int64_t at_ms = INT64_MAX;
	if (due_at_ms != INT64_MAX) {
		/* Never early: the tick that begins at it or after. */
		int64_t tick = due_at_ms / SVC_WHEEL_TICK_MS +
			       (due_at_ms % SVC_WHEEL_TICK_MS != 0);
		if (tick <= wheel->tick)
			tick = wheel->tick + 1;
		slot = (unsigned)((uint64_t)tick % SVC_WHEEL_SLOTS);
		wheel->used[slot / 64] |= UINT64_C(1) << slot % 64;
		at_ms = visit(wheel, slot) * SVC_WHEEL_TICK_MS;
	}
	struct svc_wheel_entry **head = &wheel->slots[slot];
	svc_wheel_put_off(entry, due_at_ms);
	entry->next = *head;
	entry->link = head;
	if (*head != NULL)
		(*head)->link = &entry->next;
	*head = entry;
	return at_ms;
}

void
svc_wheel_remove(struct svc_wheel_entry *entry)
{
	*entry->link = entry->next;
	if (entry->next != NULL)
		entry->next->link = entry->link;
}

int64_t
svc_wheel_next(struct svc_wheel *wheel)
{
	unsigned first = (unsigned)((uint64_t)(wheel->tick + 1));
	for (unsigned i = 0; i < SVC_WHEEL_SLOTS;) {
		unsigned slot = (first + i) % SVC_WHEEL_SLOTS;
		uint64_t bits = wheel->used[slot / 64] >> slot % 64;
		if (bits == 0) {
			i += 64 - slot % 64;
			continue;
		}
		unsigned skip = (unsigned)__builtin_ctzll(bits);
		i += skip;
		slot += skip;
		if (i >= SVC_WHEEL_SLOTS)
			break;
		if (wheel->slots[slot] != NULL)
			return visit(wheel, slot) * SVC_WHEEL_TICK_MS;
		/* What was there has been removed. */
		wheel->used[slot / 64] &= ~(UINT64_C(1) << slot % 64);
		i++;
	}
	return INT64_MAX;
}

void
svc_wheel_turn(struct svc_wheel *wheel, int64_t now_ms,
    void (*due)(struct svc_wheel_entry *entry, void *arg), void *arg)
{
	int64_t last = now_ms / SVC_WHEEL_TICK_MS;
	int64_t tick = wheel->tick + 1;
	if (last - tick >= SVC_WHEEL_SLOTS)
		tick = last - SVC_WHEEL_SLOTS + 1;
	if (last < tick)
		return;
	/* First, so that what is put meanwhile goes to a tick to come. */
	wheel->tick = last;
	for (; tick <= last; tick++) {
		unsigned slot = (unsigned)((uint64_t)tick % SVC_WHEEL_SLOTS);
		struct svc_wheel_entry *entry = wheel->slots[slot];
		while (entry != NULL) {
			struct svc_wheel_entry *next = entry->next;
			int64_t at_ms = atomic_load_explicit(
			    &entry->due_at_ms, memory_order_relaxed);
			if (at_ms <= now_ms) {
				due(entry, arg);
			} else { /* perhaps it was put off */
				svc_wheel_remove(entry);
				svc_wheel_put(wheel, entry, at_ms);
			}
			entry = next;
		}
	}
}

void
svc_wheel_each(struct svc_wheel *wheel,
    void (*each)(struct svc_wheel_entry *entry, void *arg), void *arg)
{
	for (unsigned slot = 0; slot <= SVC_WHEEL_SLOTS; slot++) {
		struct svc_wheel_entry *entry = wheel->slots[slot];
		while (entry != NULL) {
			struct svc_wheel_entry *next = entry->next;
			each(entry, arg);
			entry = next;
		}
	}
}
