/* SPDX-License-Identifier: Apache-2.0 */
#include "registry_scene.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WATCHES 6
#define RECORDS 4
#define ACTIONS 40

const char *const registry_services[3] = {"alpha", "beta", "gamma"};
static char folder[] = "/tmp/svc-stress-XXXXXX"; /* of snapshots */

struct world {
	const struct registry_kind *kind;
	struct svc_registry *lasting;
	struct stress_slot *watches[WATCHES];
	struct stress_slot *records[RECORDS]; /* held beyond their watches */
};

bool
registry_scene_begin(void)
{
	return mkdtemp(folder) != NULL;
}

void
registry_scene_end(void)
{
	rmdir(folder);
}

struct svc_registry *
registry_make(const struct registry_kind *kind, const char *snapshot,
    const char *fallback)
{
	struct svc_registry_config config = {.address = kind->address,
	    .snapshot = snapshot,
	    .fallback = fallback};
	struct svc_registry *registry;
	struct svc_error err = {0};
	if (svc_registry_create_ops(kind->ops, &config, &registry, &err) !=
	    SVC_OK)
		stress_fail("registry: %s", err.text);
	return registry;
}

/* A server may be slow, no more. */
static void
check(const struct registry_kind *kind, const char *what, svc_err code,
    const char *text)
{
	bool late = code == SVC_E_TIMEDOUT || code == SVC_E_UNAVAILABLE;
	if (code != SVC_OK && !(late && kind->has_server))
		stress_fail("%s: %s: %s", what, svc_err_name(code), text);
}

/* Announces or withdraws one of a few nodes. */
void
registry_change(struct stress_actor *actor, struct svc_registry *registry,
    const struct registry_kind *kind)
{
	const char *service = registry_services[stress_below(actor, 3)];
	char id[40], address[40];
	uint64_t n = stress_below(actor, 4);
	snprintf(id, sizeof(id), "%s-%llu", service, (unsigned long long)n);
	/* It moves now and then. */
	uint64_t port = 1000 + n + 10 * stress_below(actor, 2);
	snprintf(address, sizeof(address), "127.0.0.1:%llu",
	    (unsigned long long)port);
	struct svc_node node = {.id = id, .address = address};
	struct svc_record record = {.name = service,
	    .version = stress_chance(actor, 80) ? "1" : "2",
	    .nodes = &node,
	    .n_nodes = 1};
	struct svc_error err = {0};
	stress_at(actor, "announce");
	svc_err code =
	    stress_chance(actor, 60)
		? svc_registry_announce(registry, &record,
		      stress_chance(actor, 20) ? kind->brief_ms : 60000, &err)
		: svc_registry_withdraw(registry, &record, &err);
	check(kind, "announce", code, err.text);
}

static void
look(struct stress_actor *actor, struct world *world)
{
	struct svc_registry *registry = world->lasting;
	struct svc_record_list list = {0};
	struct svc_error err = {0};
	stress_at(actor, "lookup");
	svc_err code =
	    stress_chance(actor, 50)
		? svc_registry_lookup(registry,
		      registry_services[stress_below(actor, 3)], &list, &err)
		: svc_registry_list(registry, &list, &err);
	if (code == SVC_OK)
		svc_record_list_fini(&list);
	else if (code != SVC_E_NOT_FOUND)
		check(world->kind, "lookup", code, err.text);
}

/* ----------------------------------------------------------------- watches */

struct watching {
	struct svc_watch *watch;
	struct world *world; /* to keep records in; may be NULL */
	_Atomic int inside;  /* one call at a time */
	_Atomic bool over;
	int64_t nodes; /* that it was told of */
	bool synced;
};

/* Whoever wants may read it, until one gives it back. */
static void
keep(struct world *world, const struct svc_record *record)
{
	struct stress_slot *slot = world->records[stress_unique() % RECORDS];
	struct svc_record *held = svc_record_hold(record);
	if (!stress_slot_put(slot, held))
		svc_record_destroy(held);
}

static void
read_record(struct stress_actor *actor, struct stress_slot *slot)
{
	struct svc_record *record;
	stress_at(actor, "reads a record");
	if (stress_chance(actor, 40)) {
		svc_record_destroy(stress_slot_take(slot));
		return;
	}
	record = stress_slot_enter(slot);
	if (record == NULL)
		return;
	struct svc_record *again = svc_record_hold(record);
	struct svc_record *copy = svc_record_copy(record);
	stress_slot_leave(slot); /* `again` keeps it */
	stress_dither(actor);
	STRESS_CHECK(copy != NULL && svc_record_equal(copy, again));
	svc_record_destroy(again);
	svc_record_destroy(copy);
}

static void
on_change(svc_change what, const struct svc_record *record, void *arg)
{
	struct watching *watching = arg;
	STRESS_CHECK(!atomic_load(&watching->over));
	STRESS_CHECK(atomic_fetch_add(&watching->inside, 1) == 0);
	if (what == SVC_SYNCED) {
		STRESS_CHECK(!watching->synced && record == NULL);
		watching->synced = true;
	} else {
		STRESS_CHECK(record->n_nodes == 1);
		if (watching->world != NULL)
			keep(watching->world, record);
		watching->nodes += what == SVC_CREATED   ? 1
				   : what == SVC_REMOVED ? -1
							 : 0;
		STRESS_CHECK(watching->nodes >= 0);
	}
	stress_yield(1);
	atomic_fetch_sub(&watching->inside, 1);
}

static void
watch(struct stress_actor *actor, struct world *world, struct stress_slot *slot)
{
	struct watching *watching = stress_slot_take(slot);
	if (watching != NULL) {
		stress_at(actor, "svc_registry_unwatch");
		svc_registry_unwatch(watching->watch);
		atomic_store(&watching->over, true);
		svc_mem_free(watching);
		return;
	}
	watching = svc_mem_calloc(1, sizeof(*watching));
	STRESS_CHECK(watching != NULL);
	watching->world = world;
	stress_at(actor, "svc_registry_watch");
	STRESS_CHECK(
	    svc_registry_watch(world->lasting,
		stress_chance(actor, 30)
		    ? NULL
		    : registry_services[stress_below(actor, 3)],
		on_change, watching, &watching->watch, NULL) == SVC_OK);
	if (!stress_slot_put(slot, watching)) {
		svc_registry_unwatch(watching->watch);
		svc_mem_free(watching);
	}
}

/* A registry of its own with watches that its end ends. */
static void
pass(struct stress_actor *actor, struct world *world)
{
	enum { N = 3 };
	struct watching watching[N] = {0};
	char snapshot[80];
	snprintf(snapshot, sizeof(snapshot), "%s/%llu", folder,
	    (unsigned long long)stress_unique());
	struct svc_registry *registry = registry_make(world->kind,
	    stress_chance(actor, 50) ? snapshot : NULL, "memory:spare");
	for (int i = 0; i < N; i++)
		STRESS_CHECK(
		    svc_registry_watch(registry,
			i == 0 ? NULL : registry_services[i], on_change,
			&watching[i], &watching[i].watch, NULL) == SVC_OK);
	for (uint64_t n = stress_below(actor, 5); n > 0; n--)
		stress_dither(actor);
	registry_change(actor, registry, world->kind);
	stress_at(actor, "svc_registry_destroy");
	svc_registry_destroy(registry);
	for (int i = 0; i < N; i++)
		atomic_store(&watching[i].over, true);
	unlink(snapshot);
}

static void
work_registry(struct stress_actor *actor, void *arg)
{
	struct world *world = arg;
	for (int i = 0; i < ACTIONS; i++) {
		stress_dither(actor);
		uint64_t dice = stress_below(actor, 100);
		if (dice < 40)
			registry_change(actor, world->lasting, world->kind);
		else if (dice < 50)
			look(actor, world);
		else if (dice < 60)
			read_record(actor,
			    world->records[stress_below(actor, RECORDS)]);
		else if (dice < 90)
			watch(actor, world,
			    world->watches[stress_below(actor, WATCHES)]);
		else
			pass(actor, world);
	}
}

void
registry_play(struct stress_actor *owner, const struct registry_kind *kind)
{
	struct world world = {
	    .kind = kind, .lasting = registry_make(kind, NULL, NULL)};
	for (int i = 0; i < WATCHES; i++)
		world.watches[i] = stress_slot_create();
	for (int i = 0; i < RECORDS; i++)
		world.records[i] = stress_slot_create();
	stress_all(owner, work_registry, &world);
	/* The watches that are left end with it. */
	stress_at(owner, "svc_registry_destroy");
	svc_registry_destroy(world.lasting);
	for (int i = 0; i < WATCHES; i++) {
		struct watching *watching = stress_slot_take(world.watches[i]);
		svc_mem_free(watching);
		stress_slot_destroy(world.watches[i]);
	}
	/* The records are theirs who hold them. */
	for (int i = 0; i < RECORDS; i++) {
		svc_record_destroy(stress_slot_take(world.records[i]));
		stress_slot_destroy(world.records[i]);
	}
}
