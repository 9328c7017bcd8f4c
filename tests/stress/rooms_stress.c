/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registries with their watches, selectors, brokers and inboxes, ended while
 * others change what they show: two instances share one state, so that one can
 * be destroyed while the workers go on with the other.
 */
#include "broker_scene.h"
#include "registry_scene.h"
#include "stress.h"

#include <svc/broker.h>
#include <svc/clock.h>
#include <svc/codec.h>
#include <svc/inbox.h>
#include <svc/log.h>
#include <svc/registry.h>
#include <svc/selector.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WATCHES 6
#define ACTIONS 40

struct world {
	char address[40];
	struct registry_kind kind;
	struct svc_registry *lasting;
	struct stress_slot *watches[WATCHES];

	struct stress_slot *selector;
	_Atomic int64_t linked, unlinked;

	struct svc_inbox *inbox;
	_Atomic bool closed; /* svc_inbox_close has returned */
};

static void
begin(struct world *world)
{
	snprintf(world->address, sizeof(world->address), "stress-%llu",
	    (unsigned long long)stress_unique());
	world->kind = (struct registry_kind){.ops = &svc_registry_memory,
	    .address = world->address,
	    .brief_ms = 1};
}

static void
play_registry(struct stress_actor *owner, const struct stress_scene *scene)
{
	(void)scene;
	struct world world = {0};
	begin(&world);
	registry_play(owner, &world.kind);
}

/* ---------------------------------------------------------------- selector */

struct chooser { /* a selector and the registry it watches */
	struct svc_registry *registry;
	struct svc_selector *selector;
	_Atomic bool closing;
};

static void
on_unlink(void *link, void *arg)
{
	struct world *world = arg;
	atomic_fetch_add(&world->unlinked, 1);
	svc_mem_free(link);
}

static struct chooser *
make_chooser(struct stress_actor *actor, struct world *world)
{
	struct chooser *chooser = svc_mem_calloc(1, sizeof(*chooser));
	STRESS_CHECK(chooser != NULL);
	chooser->registry = registry_make(&world->kind, NULL, NULL);
	struct svc_selector_config config = {
	    .registry = chooser->registry,
	    .strategy = stress_chance(actor, 50) ? "round_robin" : "random",
	    .failures = 2,
	    .window_ms = 5,
	    .unlink = on_unlink,
	    .arg = world,
	};
	STRESS_CHECK(
	    svc_selector_create(&config, &chooser->selector, NULL) == SVC_OK);
	return chooser;
}

static void
free_chooser(struct stress_actor *actor, struct chooser *chooser)
{
	if (chooser == NULL)
		return;
	stress_at(actor, "svc_selector_destroy");
	svc_selector_destroy(chooser->selector);
	svc_registry_destroy(chooser->registry);
	svc_mem_free(chooser);
}

/* While others pick from it. */
static void
close_chooser(struct stress_actor *actor, struct stress_slot *slot)
{
	struct chooser *chooser = stress_slot_enter(slot);
	if (chooser == NULL)
		return;
	stress_at(actor, "svc_selector_close");
	atomic_store(&chooser->closing, true);
	svc_selector_close(chooser->selector);
	for (uint64_t k = stress_below(actor, 20); k > 0; k--)
		stress_dither(actor);
	stress_slot_leave(slot);
}

static void
on_each(const struct svc_target *target, bool blacklisted, void *arg)
{
	int *count = arg;
	(void)blacklisted;
	*count += (int)strlen(target->node->id);
}

static void
pick(struct stress_actor *actor, struct world *world)
{
	struct chooser *chooser = stress_slot_enter(world->selector);
	if (chooser == NULL)
		return;
	/* Mostly without patience for a service that has just gone. */
	bool brief = stress_chance(actor, 90);
	struct svc_pick want = {
	    .service = registry_services[stress_below(actor, 3)],
	    .deadline_at_ms =
		svc_deadline(brief ? (int64_t)stress_below(actor, 10) : 30000)};
	if (stress_chance(actor, 20))
		want.version = "2";
	struct svc_target *target;
	struct svc_error err = {0};
	int count = 0;
	stress_at(actor, "svc_selector_pick");
	svc_err code =
	    svc_selector_pick(chooser->selector, &want, &target, &err);
	if (code != SVC_OK && code != SVC_E_NOT_FOUND &&
	    code != SVC_E_UNAVAILABLE && (code != SVC_E_TIMEDOUT || !brief) &&
	    (code != SVC_E_CLOSED || !atomic_load(&chooser->closing)))
		stress_fail("pick: %s: %s", svc_err_name(code), err.text);
	if (code == SVC_OK) {
		STRESS_CHECK(strcmp(target->record->name, want.service) == 0);
		if (stress_chance(actor, 40)) {
			void *link = svc_mem_alloc(1);
			STRESS_CHECK(link != NULL);
			if (svc_target_relink(target, NULL, link))
				atomic_fetch_add(&world->linked, 1);
			else
				svc_mem_free(link);
		}
		bool twice = stress_chance(actor, 30);
		if (twice)
			svc_target_hold(target);
		stress_dither(actor);
		STRESS_CHECK(strlen(target->node->address) > 0);
		svc_target_done(target, (svc_outcome)stress_below(actor, 3));
		if (twice)
			svc_target_done(target, SVC_OUTCOME_NEUTRAL);
	}
	if (stress_chance(actor, 20))
		svc_selector_each(chooser->selector, want.service,
		    want.deadline_at_ms, on_each, &count, NULL);
	stress_slot_leave(world->selector);
}

static void
work_selector(struct stress_actor *actor, void *arg)
{
	struct world *world = arg;
	for (int i = 0; i < ACTIONS; i++) {
		stress_dither(actor);
		if (stress_chance(actor, 70))
			pick(actor, world);
		else
			registry_change(actor, world->lasting, &world->kind);
	}
}

static void
play_selector(struct stress_actor *owner, const struct stress_scene *scene)
{
	(void)scene;
	struct world world = {0};
	begin(&world);
	world.lasting = registry_make(&world.kind, NULL, NULL);
	world.selector = stress_slot_create();
	stress_slot_put(world.selector, make_chooser(owner, &world));
	stress_go(work_selector, &world);
	for (uint64_t n = stress_below(owner, 6); n > 0; n--) {
		for (uint64_t k = stress_below(owner, 20); k > 0; k--)
			stress_dither(owner);
		if (stress_chance(owner, 50))
			close_chooser(owner, world.selector);
		free_chooser(owner, stress_slot_take(world.selector));
		stress_slot_put(world.selector, make_chooser(owner, &world));
	}
	stress_join(owner);
	free_chooser(owner, stress_slot_take(world.selector));
	STRESS_CHECK(world.linked == world.unlinked);
	stress_slot_destroy(world.selector);
	svc_registry_destroy(world.lasting);
}

/* ------------------------------------------------------------------ broker */

static void
play_broker(struct stress_actor *owner, const struct stress_scene *scene)
{
	char address[40];
	(void)scene;
	snprintf(address, sizeof(address), "stress-%llu",
	    (unsigned long long)stress_unique());
	broker_play(owner, &(struct broker_kind){
			       .ops = &svc_broker_memory, .address = address});
}

/* ------------------------------------------------------------------- inbox */

struct member {
	struct svc_inbox_member *member;
	struct listening listening;
};

static void
on_room(void *arg)
{
	atomic_fetch_add((_Atomic int64_t *)arg, 1);
}

/* Joins, or leaves by whoever takes it: its handler has run its last then. */
static void
join_or_leave(
    struct stress_actor *actor, struct world *world, struct stress_slot *slot)
{
	struct member *member = stress_slot_take(slot);
	if (member == NULL) {
		member = svc_mem_calloc(1, sizeof(*member));
		STRESS_CHECK(member != NULL);
		member->listening.fails = stress_chance(actor, 30);
		stress_at(actor, "svc_inbox_join");
		STRESS_CHECK(
		    svc_inbox_join(world->inbox, listening_event,
			&member->listening, &member->member) == SVC_OK);
		if (stress_slot_put(slot, member))
			return;
	}
	stress_at(actor, "svc_inbox_leave");
	svc_inbox_leave(member->member);
	atomic_store(&member->listening.over, true);
	svc_mem_free(member);
}

static void
put(struct stress_actor *actor, struct world *world)
{
	char data[64] = "";
	struct svc_message message = {
	    .data = data, .len = (size_t)stress_below(actor, sizeof(data))};
	bool full = false, was_closed = atomic_load(&world->closed);
	stress_at(actor, "svc_inbox_put");
	svc_err code =
	    stress_chance(actor, 30)
		? svc_inbox_force(world->inbox, "alpha", &message, &full)
		: svc_inbox_put(world->inbox, "alpha", &message,
		      svc_deadline((int64_t)stress_below(actor, 3)));
	if (was_closed)
		STRESS_CHECK(code == SVC_E_CLOSED);
	STRESS_CHECK(
	    code == SVC_OK || code == SVC_E_TIMEDOUT || code == SVC_E_CLOSED);
}

static void
work_inbox(struct stress_actor *actor, void *arg)
{
	struct world *world = arg;
	for (int i = 0; i < ACTIONS; i++) {
		stress_dither(actor);
		uint64_t dice = stress_below(actor, 100);
		if (dice < 70) {
			put(actor, world);
		} else if (dice < 95) {
			join_or_leave(actor, world,
			    world->watches[stress_below(actor, WATCHES)]);
		} else {
			stress_at(actor, "svc_inbox_drain");
			(void)svc_inbox_drain(world->inbox, svc_deadline(1));
		}
	}
}

static void
play_inbox(struct stress_actor *owner, const struct stress_scene *scene)
{
	(void)scene;
	struct world world = {0};
	struct svc_inbox_config config = {
	    .name = "alpha",
	    .max_events = 1 + (size_t)stress_below(owner, 16),
	    .room = on_room,
	    .arg = &world.linked,
	};
	STRESS_CHECK(svc_inbox_create(&config, &world.inbox) == SVC_OK);
	for (int i = 0; i < WATCHES; i++)
		world.watches[i] = stress_slot_create();
	stress_go(work_inbox, &world);
	for (uint64_t k = stress_below(owner, 200); k > 0; k--)
		stress_dither(owner);
	stress_at(owner, "svc_inbox_close");
	svc_inbox_close(world.inbox);
	atomic_store(&world.closed, true);
	stress_join(owner);
	for (int i = 0; i < WATCHES; i++) {
		struct member *member = stress_slot_take(world.watches[i]);
		if (member != NULL) {
			svc_inbox_leave(member->member);
			svc_mem_free(member);
		}
		stress_slot_destroy(world.watches[i]);
	}
	stress_at(owner, "svc_inbox_destroy");
	svc_inbox_destroy(world.inbox);
}

/* ------------------------------------------------------------------ codecs */

static void
on_name(const char *name, void *arg)
{
	*(size_t *)arg += strlen(name);
}

/* Brokers that programs bring along: the catalogue keeps them for ever. */
static struct svc_broker_ops brought[8];

static void
bring(struct stress_actor *actor)
{
	struct svc_broker_ops *ops = &brought[stress_below(actor, 8)];
	const void *found;
	stress_at(actor, "svc_catalogue_add");
	STRESS_CHECK(
	    svc_catalogue_add(&svc_broker_interface, ops, NULL) == SVC_OK);
	STRESS_CHECK(svc_catalogue_find(&svc_broker_interface, ops->name,
			 &found, NULL) == SVC_OK &&
		     found == ops);
}

/* Looked for in the tables of all and in one of the worker's own, while others
 * make and free theirs and load modules for it. */
static void
work_codecs(struct stress_actor *actor, void *arg)
{
	static const char *const types[] = {
	    "text/plain; charset=utf-8", "APPLICATION/OCTET-STREAM", "no/such"};
	static const struct svc_interface *const interfaces[] = {
	    &svc_codec_interface, &svc_registry_interface,
	    &svc_broker_interface};
	struct svc_codecs *shared = arg, *own;
	const struct svc_codec_ops *codec;
	for (int i = 0; i < ACTIONS; i++) {
		const char *type = types[stress_below(actor, 3)];
		svc_err must = type == types[2] ? SVC_E_UNIMPLEMENTED : SVC_OK;
		const void *ops;
		size_t len = 0;
		stress_dither(actor);
		stress_at(actor, "svc_codecs_find");
		STRESS_CHECK(
		    svc_codecs_find(shared, type, &codec, NULL) == must);
		if (stress_chance(actor, 80))
			continue;
		stress_at(actor, "svc_codecs_create");
		STRESS_CHECK(svc_codecs_create(&own, NULL) == SVC_OK);
		STRESS_CHECK(svc_codecs_find(own, type, &codec, NULL) == must);
		svc_codecs_destroy(own);
		bring(actor);
		const struct svc_interface *interface =
		    interfaces[stress_below(actor, 3)];
		stress_at(actor, "svc_catalogue_find");
		STRESS_CHECK(
		    svc_catalogue_list(interface, on_name, &len) == SVC_OK &&
		    len > 0);
		STRESS_CHECK(svc_catalogue_find(interface,
				 interface == interfaces[0] ? "text" : "memory",
				 &ops, NULL) == SVC_OK);
	}
}

static void
play_codecs(struct stress_actor *owner, const struct stress_scene *scene)
{
	(void)scene;
	static const char *const names[8] = {
	    "one", "two", "three", "four", "five", "six", "seven", "eight"};
	struct svc_codecs *shared;
	for (int i = 0; i < 8 && brought[i].name == NULL; i++) {
		brought[i] = svc_broker_memory;
		brought[i].name = names[i];
	}
	STRESS_CHECK(svc_codecs_create(&shared, NULL) == SVC_OK);
	stress_all(owner, work_codecs, shared);
	svc_codecs_destroy(shared);
}

int
main(int argc, char *argv[])
{
	static const struct stress_scene scenes[] = {
	    {"registry", 60, play_registry, NULL, NULL},
	    {"selector", 60, play_selector, NULL, NULL},
	    {"broker", 40, play_broker, NULL, NULL},
	    {"inbox", 60, play_inbox, NULL, NULL},
	    {"codecs", 20, play_codecs, NULL, NULL},
	    {0},
	};
	svc_log_set_level(SVC_LOG_OFF);
	if (!registry_scene_begin())
		return 1;
	int status = stress_main(argc, argv, scenes);
	registry_scene_end();
	return status;
}
