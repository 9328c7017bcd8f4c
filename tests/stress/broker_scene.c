/* SPDX-License-Identifier: Apache-2.0 */
#include "broker_scene.h"

#include <string.h>

#define SUBSCRIPTIONS 6
#define ACTIONS 40

static const char *const topics[] = {"alpha", "beta", "gamma"};

struct world {
	const struct broker_kind *kind;
	struct svc_broker *broker;
	struct stress_slot *subscriptions[SUBSCRIPTIONS];
};

svc_err
listening_event(const char *topic, const struct svc_message *message, void *arg)
{
	struct listening *listening = arg;
	STRESS_CHECK(!atomic_load(&listening->over));
	STRESS_CHECK(atomic_fetch_add(&listening->inside, 1) == 0);
	STRESS_CHECK(strlen(topic) > 0 && message->len <= 64);
	stress_yield((unsigned)message->len % 5);
	atomic_fetch_sub(&listening->inside, 1);
	return listening->fails && message->len % 7 == 0 ? SVC_E_ABORTED
							 : SVC_OK;
}

static struct svc_broker *
make_broker(const struct broker_kind *kind)
{
	struct svc_broker_config config = {.address = kind->address};
	struct svc_broker *broker;
	struct svc_error err = {0};
	if (svc_broker_create_ops(kind->ops, &config, &broker, &err) !=
		SVC_OK ||
	    svc_broker_connect(broker, &err) != SVC_OK)
		stress_fail("broker: %s", err.text);
	return broker;
}

static void
listen(struct stress_actor *actor, struct svc_broker *broker,
    struct listening *listening)
{
	listening->fails = stress_chance(actor, 30);
	stress_at(actor, "svc_broker_subscribe");
	STRESS_CHECK(
	    svc_broker_subscribe(broker, topics[stress_below(actor, 3)],
		stress_chance(actor, 40) ? "workers" : NULL, listening_event,
		listening, &listening->subscription, NULL) == SVC_OK);
}

static void
tell(struct stress_actor *actor, struct svc_broker *broker)
{
	char data[64] = "";
	struct svc_message message = {
	    .data = data, .len = (size_t)stress_below(actor, sizeof(data))};
	struct svc_error err = {0};
	stress_at(actor, "svc_broker_publish");
	svc_err code =
	    svc_broker_publish(broker, topics[stress_below(actor, 3)], &message,
		stress_chance(actor, 30) ? SVC_PUBLISH_NOWAIT : 0, &err);
	if (code != SVC_OK && code != SVC_E_AGAIN && code != SVC_E_TIMEDOUT)
		stress_fail("publish: %s: %s", svc_err_name(code), err.text);
}

static void
subscribe(
    struct stress_actor *actor, struct world *world, struct stress_slot *slot)
{
	struct listening *listening = stress_slot_take(slot);
	if (listening != NULL) {
		stress_at(actor, "svc_broker_unsubscribe");
		svc_broker_unsubscribe(listening->subscription);
		atomic_store(&listening->over, true);
		svc_mem_free(listening);
		return;
	}
	listening = svc_mem_calloc(1, sizeof(*listening));
	STRESS_CHECK(listening != NULL);
	listen(actor, world->broker, listening);
	if (!stress_slot_put(slot, listening)) {
		svc_broker_unsubscribe(listening->subscription);
		svc_mem_free(listening);
	}
}

/* A broker of its own with subscriptions that its end ends. */
static void
pass_broker(struct stress_actor *actor, struct world *world)
{
	enum { N = 3 };
	struct listening listening[N] = {0};
	struct svc_broker *broker = make_broker(world->kind);
	for (int i = 0; i < N; i++)
		listen(actor, broker, &listening[i]);
	tell(actor, broker);
	for (uint64_t n = stress_below(actor, 5); n > 0; n--)
		stress_dither(actor);
	stress_at(actor, "svc_broker_destroy");
	svc_broker_destroy(broker);
	for (int i = 0; i < N; i++)
		atomic_store(&listening[i].over, true);
}

static void
work_broker(struct stress_actor *actor, void *arg)
{
	struct world *world = arg;
	for (int i = 0; i < ACTIONS; i++) {
		stress_dither(actor);
		uint64_t dice = stress_below(actor, 100);
		if (dice < 55)
			tell(actor, world->broker);
		else if (dice < 92)
			subscribe(actor, world,
			    world->subscriptions[stress_below(
				actor, SUBSCRIPTIONS)]);
		else
			pass_broker(actor, world);
	}
}

void
broker_play(struct stress_actor *owner, const struct broker_kind *kind)
{
	struct world world = {.kind = kind, .broker = make_broker(kind)};
	for (int i = 0; i < SUBSCRIPTIONS; i++)
		world.subscriptions[i] = stress_slot_create();
	stress_all(owner, work_broker, &world);
	stress_at(owner, "svc_broker_destroy");
	svc_broker_destroy(world.broker);
	for (int i = 0; i < SUBSCRIPTIONS; i++) {
		svc_mem_free(stress_slot_take(world.subscriptions[i]));
		stress_slot_destroy(world.subscriptions[i]);
	}
}
