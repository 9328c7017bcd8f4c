/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections, listeners and streams of a transport, ended while others use
 * them. What svc/transport.h says of threads is all that is kept to: nobody
 * opens a stream on a connection that is being destroyed, nobody uses a stream
 * that is being released, and that is it.
 */
#include "stress.h"

#include "certificates.h"

#include <svc/clock.h>
#include <svc/log.h>
#include <svc/transport.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define CONNS 4
#define STREAMS 8
#define LISTENERS 2
#define ACTIONS 24
#define BIG 100000 /* bytes, of some messages */

static bool
has_tls(const struct stress_scene *scene)
{
	return strstr(scene->name, "_tls") != NULL;
}

/* ------------------------------------------------------------------ server */

/* A stream that the server keeps. Who takes it from the list gives it back:
 * somebody who answers it later, or the event that ends it. */
struct held {
	struct svc_stream_handle *stream;
	struct world *world;
	struct held *next;
	_Atomic bool closed;
};

struct listener {
	void *handle;
	char address[80];
};

struct world {
	const struct svc_transport_ops *ops;
	struct svc_executor *executors[2];
	void *server, *client;
	struct svc_tls_config tls[2]; /* of these */
	const char *bind;

	struct stress_slot *listeners[LISTENERS];
	pthread_mutex_t lock; /* of what follows */
	struct held *held;
	char address[80]; /* of the listener made last */

	struct stress_slot *conns[CONNS];
	struct stress_slot *streams[STREAMS];
	struct stress_slot
	    *waits[STRESS_WORKERS];   /* streams that one waits for */
	_Atomic int64_t begun, ended; /* streams that a client opened */
};

static void
held_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct held *held = stream->user;
	STRESS_CHECK(!atomic_load(&held->closed));
	if (part->flags & SVC_PART_MESSAGE)
		STRESS_CHECK(part->len <= BIG);
}

static void
held_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct held *held = stream->user;
	struct world *world = held->world;
	(void)end;
	STRESS_CHECK(!atomic_exchange(&held->closed, true));
	pthread_mutex_lock(&world->lock);
	struct held **place = &world->held;
	while (*place != NULL && *place != held)
		place = &(*place)->next;
	bool mine = *place != NULL;
	if (mine)
		*place = held->next;
	pthread_mutex_unlock(&world->lock);
	if (mine) {
		stream->ops->release(stream, SVC_E_CANCELLED);
		svc_mem_free(held);
	}
}

static void
held_writable(struct svc_stream_handle *stream)
{
	struct held *held = stream->user;
	STRESS_CHECK(!atomic_load(&held->closed));
}

static const struct svc_stream_events held_events = {
    .part = held_part, .closed = held_closed, .writable = held_writable};

/* A stream that lives by its events alone: it echoes, as long as there is
 * room, and gives itself back in the event that ends it. */
static void
own_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	_Atomic int *parts = stream->user;
	bool first = atomic_fetch_add(parts, 1) == 0;
	struct svc_part out = {.flags = first ? SVC_PART_HEADERS : 0};
	out.flags |= part->flags & (SVC_PART_MESSAGE | SVC_PART_END);
	out.data = part->data;
	out.len = part->len;
	svc_err code = stream->ops->send(stream, &out, NULL);
	if (code == SVC_OK && (part->flags & SVC_PART_END) == 0)
		return;
	svc_mem_free(parts);
	stream->ops->release(
	    stream, code == SVC_E_AGAIN ? SVC_E_EXHAUSTED : SVC_E_CANCELLED);
}

static void
own_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)end;
	svc_mem_free(stream->user);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static const struct svc_stream_events own_events = {
    .part = own_part, .closed = own_closed};

static void
reply(struct svc_stream_handle *stream, const struct svc_part *request,
    svc_err status)
{
	struct svc_part out = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .content_type = "text/plain",
	    .data = request != NULL ? request->data : "later",
	    .len = request != NULL ? request->len : 5,
	    .status = status,
	    .status_text = status == SVC_OK ? NULL : "as asked",
	};
	if (status != SVC_OK)
		out.flags &= ~SVC_PART_MESSAGE;
	svc_err code = stream->ops->send(stream, &out, NULL);
	STRESS_CHECK(code == SVC_OK || code == SVC_E_CLOSED ||
		     code == SVC_E_AGAIN || code == SVC_E_EXHAUSTED);
}

struct told {
	struct svc_task task;
	_Atomic bool ran;
};

static void
tell(struct svc_task *task)
{
	struct told *told = (struct told *)(void *)task;
	STRESS_CHECK(!atomic_exchange(&told->ran, true));
}

/* Some of the time by a handler that wants to be told when its peer goes. */
static void
be_slow(struct svc_stream_handle *stream, const struct svc_part *first)
{
	struct told told = {.task.run = tell};
	bool asks = SVC_OPS_HAS(stream->ops, on_cancel) && first->len % 2 == 0;
	svc_will_block();
	if (asks)
		stream->ops->on_cancel(stream, &told.task);
	stress_yield(60);
	if (asks && !stream->ops->on_cancel(stream, NULL))
		while (!atomic_load(&told.ran))
			stress_yield(1);
}

/* With its last part in the same call. */
static bool
answer(struct svc_stream_handle *stream, const struct svc_part *first)
{
	struct svc_part out = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .data = first->data,
	    .len = first->len};
	return SVC_OPS_HAS(stream->ops, answer) && first->len % 2 == 0 &&
	       stream->ops->answer(stream, &out, NULL) == SVC_OK;
}

static void
on_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	struct world *world = arg;
	const char *how = first->endpoint;
	if (strcmp(how, "hold") == 0) {
		struct held *held = svc_mem_calloc(1, sizeof(*held));
		STRESS_CHECK(held != NULL);
		held->stream = stream;
		held->world = world;
		stream->user = held;
		stream->events = &held_events;
		pthread_mutex_lock(&world->lock);
		held->next = world->held;
		world->held = held;
		pthread_mutex_unlock(&world->lock);
		return;
	}
	if (strcmp(how, "own") == 0) {
		stream->user = svc_mem_calloc(1, sizeof(_Atomic int));
		STRESS_CHECK(stream->user != NULL);
		stream->events = &own_events;
		own_part(stream, first);
		return;
	}
	if (strcmp(how, "slow") == 0)
		be_slow(stream, first);
	if (strcmp(how, "echo") == 0 && answer(stream, first))
		return;
	if (strcmp(how, "drop") != 0)
		reply(stream, first,
		    strcmp(how, "fail") == 0 ? SVC_E_NOT_FOUND : SVC_OK);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static struct held *
pop_held(struct world *world)
{
	pthread_mutex_lock(&world->lock);
	struct held *held = world->held;
	if (held != NULL)
		world->held = held->next;
	pthread_mutex_unlock(&world->lock);
	return held;
}

/* Ends a stream that the server keeps, in one of three ways. */
static bool
end_held(struct stress_actor *actor, struct world *world)
{
	struct held *held = pop_held(world);
	if (held == NULL)
		return false;
	const struct svc_transport_ops *ops = world->ops;
	stress_at(actor, "ends a held stream");
	switch (stress_below(actor, 4)) {
	case 0:
		break;
	case 1: {
		struct svc_part part = {
		    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE,
		    .data = "some",
		    .len = 4};
		ops->send(held->stream, &part, NULL);
		break;
	}
	default:
		if (SVC_OPS_HAS(ops, cancelled))
			(void)ops->cancelled(held->stream);
		if (SVC_OPS_HAS(ops, peer))
			STRESS_CHECK(ops->peer(held->stream) != NULL);
		reply(held->stream, NULL, SVC_OK);
	}
	stress_dither(actor);
	ops->release(held->stream, SVC_E_CANCELLED);
	svc_mem_free(held);
	return true;
}

static void
listen_at(struct stress_actor *actor, struct world *world, int i)
{
	struct svc_error err = {0};
	struct listener *listener = svc_mem_calloc(1, sizeof(*listener));
	STRESS_CHECK(listener != NULL);
	stress_at(actor, "listens");
	if (world->ops->listen(world->server, world->bind, on_accept, world,
		&listener->handle, &err) != SVC_OK)
		stress_fail("listen: %s", err.text);
	const char *address = world->ops->listener_address(listener->handle);
	snprintf(listener->address, sizeof(listener->address), "%s", address);
	pthread_mutex_lock(&world->lock);
	snprintf(world->address, sizeof(world->address), "%s", address);
	pthread_mutex_unlock(&world->lock);
	STRESS_CHECK(stress_slot_put(world->listeners[i], listener));
}

static bool
close_listener(struct stress_actor *actor, struct world *world, int i)
{
	struct listener *listener = stress_slot_take(world->listeners[i]);
	if (listener == NULL)
		return false;
	stress_at(actor, "listener_destroy");
	world->ops->listener_destroy(listener->handle);
	svc_mem_free(listener);
	return true;
}

/* ------------------------------------------------------------------ client */

struct opened {
	struct svc_stream_handle *stream;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool whole; /* its first part is its last */
	bool got_end, closed;
	size_t held; /* bytes of messages that nobody gave credit for */
	_Atomic bool interrupted;
	char wants[16];
	struct world *world;
};

static void
client_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct opened *opened = stream->user;
	pthread_mutex_lock(&opened->lock);
	STRESS_CHECK(!opened->got_end && !opened->closed);
	opened->held += part->len;
	if (part->flags & SVC_PART_END) {
		opened->got_end = true;
		bool fails = strcmp(opened->wants, "fail") == 0;
		STRESS_CHECK(
		    part->status == (fails ? SVC_E_NOT_FOUND : SVC_OK));
	}
	pthread_cond_broadcast(&opened->changed);
	pthread_mutex_unlock(&opened->lock);
}

static void
client_closed(
    struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct opened *opened = stream->user;
	pthread_mutex_lock(&opened->lock);
	STRESS_CHECK(!opened->closed);
	STRESS_CHECK(!(opened->got_end && opened->whole));
	/* `answer` wants no more of a stream that is not whole. */
	if ((end->code != SVC_OK || !opened->got_end) &&
	    end->code != SVC_E_UNAVAILABLE && end->code != SVC_E_CANCELLED &&
	    end->code != SVC_E_EXHAUSTED && end->code != SVC_E_CLOSED &&
	    end->code != SVC_E_TIMEDOUT)
		stress_fail("a stream ended with %s: %s",
		    svc_err_name(end->code), end->text);
	opened->closed = true;
	pthread_cond_broadcast(&opened->changed);
	pthread_mutex_unlock(&opened->lock);
}

static void
client_writable(struct svc_stream_handle *stream)
{
	struct opened *opened = stream->user;
	pthread_mutex_lock(&opened->lock);
	STRESS_CHECK(!opened->closed);
	pthread_mutex_unlock(&opened->lock);
}

static const struct svc_stream_events client_events = {
    .part = client_part,
    .closed = client_closed,
    .writable = client_writable,
};
static const struct svc_stream_events holding_events = {
    .part = client_part,
    .closed = client_closed,
    .writable = client_writable,
    .holds = true,
};

static char big[BIG];

static struct opened *
open_on(struct stress_actor *actor, struct world *world, void *conn,
    const char *how, unsigned flags, bool whole)
{
	struct opened *opened = svc_mem_calloc(1, sizeof(*opened));
	STRESS_CHECK(opened != NULL);
	pthread_mutex_init(&opened->lock, NULL);
	svc_cond_init(&opened->changed);
	snprintf(opened->wants, sizeof(opened->wants), "%s", how);
	opened->world = world;
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE,
	    .service = "stress",
	    .endpoint = how,
	    .content_type = "text/plain",
	    .timeout_ms = SVC_FOREVER,
	    .data = big,
	    .len = stress_chance(actor, 10) ? (size_t)stress_below(actor, BIG)
					    : (size_t)stress_below(actor, 64),
	};
	opened->whole = whole;
	if (whole)
		first.flags |= SVC_PART_END;
	struct svc_error err = {0};
	bool holds = SVC_OPS_HAS(world->ops, credit) && !whole &&
		     stress_chance(actor, 50);
	stress_at(actor, "open");
	svc_err code = world->ops->open(conn, &first, flags,
	    holds ? &holding_events : &client_events, opened, &opened->stream,
	    &err);
	if (code == SVC_OK) {
		atomic_fetch_add(&world->begun, 1);
		return opened;
	}
	if (code != SVC_E_CLOSED && code != SVC_E_AGAIN &&
	    code != SVC_E_EXHAUSTED)
		stress_fail("open: %s: %s", svc_err_name(code), err.text);
	STRESS_CHECK(!opened->closed && !opened->got_end);
	pthread_cond_destroy(&opened->changed);
	pthread_mutex_destroy(&opened->lock);
	svc_mem_free(opened);
	return NULL;
}

/* Gives it back. `ended`: it must have ended. */
static void
give_back(struct stress_actor *actor, struct opened *opened)
{
	struct world *world = opened->world;
	stress_at(actor, "release");
	world->ops->release(opened->stream, SVC_E_CANCELLED);
	atomic_fetch_add(&world->ended, 1);
	pthread_cond_destroy(&opened->changed);
	pthread_mutex_destroy(&opened->lock);
	svc_mem_free(opened); /* what comes later writes into freed memory */
}

static void
unary(struct stress_actor *actor, struct world *world, void *conn,
    struct stress_slot *slot)
{
	static const char *const ways[] = {
	    "echo", "echo", "fail", "drop", "slow", "hold", "own"};
	const char *how = ways[stress_below(actor, 7)];
	/* Held ones may be answered late. */
	bool short_wait = strcmp(how, "hold") == 0 || stress_chance(actor, 20);
	struct opened *opened =
	    open_on(actor, world, conn, how, SVC_OPEN_WAIT, true);
	stress_slot_leave(slot); /* it may be destroyed now */
	if (opened == NULL)
		return;
	/* Others may interrupt it. */
	struct stress_slot *waits = world->waits[actor->index];
	STRESS_CHECK(stress_slot_put(waits, opened));
	stress_at(actor, short_wait ? "waits a little" : "waits for a reply");
	svc_err code = world->ops->wait(opened->stream,
	    svc_deadline(
		short_wait ? (int64_t)stress_below(actor, 4) : SVC_FOREVER));
	STRESS_CHECK(stress_slot_take(waits) == opened);
	pthread_mutex_lock(&opened->lock);
	if (code == SVC_OK)
		STRESS_CHECK(opened->got_end || opened->closed);
	else if (code == SVC_E_CANCELLED)
		STRESS_CHECK(atomic_load(&opened->interrupted));
	else
		STRESS_CHECK(code == SVC_E_TIMEDOUT && short_wait);
	pthread_mutex_unlock(&opened->lock);
	give_back(actor, opened);
}

static void
interrupt(struct stress_actor *actor, struct world *world)
{
	struct stress_slot *slot =
	    world->waits[stress_below(actor, STRESS_WORKERS)];
	struct opened *opened = stress_slot_enter(slot);
	if (opened == NULL)
		return;
	stress_at(actor, "interrupts");
	if (SVC_OPS_HAS(world->ops, interrupt)) {
		atomic_store(&opened->interrupted, true);
		world->ops->interrupt(opened->stream);
	}
	stress_slot_leave(slot);
}

static void
give_credit(const struct svc_transport_ops *ops, struct opened *opened)
{
	pthread_mutex_lock(&opened->lock);
	size_t held = opened->held;
	opened->held = 0;
	pthread_mutex_unlock(&opened->lock);
	if (SVC_OPS_HAS(ops, credit))
		ops->credit(opened->stream, held);
}

static void
use_conn(struct stress_actor *actor, struct world *world)
{
	struct stress_slot *slot = world->conns[stress_below(actor, CONNS)];
	void *conn = stress_slot_enter(slot);
	if (conn == NULL) {
		char address[80];
		struct svc_error err = {0};
		pthread_mutex_lock(&world->lock);
		memcpy(address, world->address, sizeof(address));
		pthread_mutex_unlock(&world->lock);
		stress_at(actor, "dials");
		svc_err code = world->ops->dial(
		    world->client, address, 10000, &conn, &err);
		/* Time is short where seconds are skipped. */
		if (code == SVC_E_TIMEDOUT && svc_clock_is_manual())
			return;
		if (code != SVC_OK)
			stress_fail("dial: %s", err.text);
		if (!stress_slot_put(slot, conn))
			world->ops->conn_destroy(conn);
		return;
	}
	if (stress_chance(actor, 60)) {
		unary(actor, world, conn, slot);
		return;
	}
	static const char *const ways[] = {"hold", "own", "echo", "hold"};
	struct opened *opened = open_on(actor, world, conn,
	    ways[stress_below(actor, 4)], 0, stress_chance(actor, 30));
	stress_slot_leave(slot);
	if (opened != NULL &&
	    !stress_slot_put(
		world->streams[stress_below(actor, STREAMS)], opened))
		give_back(actor, opened);
}

static void
use_stream(struct stress_actor *actor, struct world *world)
{
	struct stress_slot *slot = world->streams[stress_below(actor, STREAMS)];
	const struct svc_transport_ops *ops = world->ops;
	struct opened *opened;
	if (stress_chance(actor, 25)) {
		opened = stress_slot_take(slot);
		if (opened != NULL)
			give_back(actor, opened);
		return;
	}
	opened = stress_slot_enter(slot);
	if (opened == NULL)
		return;
	if (SVC_OPS_HAS(ops, cancelled) && stress_chance(actor, 30))
		(void)ops->cancelled(opened->stream);
	if (SVC_OPS_HAS(ops, peer) && stress_chance(actor, 30))
		STRESS_CHECK(ops->peer(opened->stream) != NULL);
	if (stress_chance(actor, 30))
		give_credit(ops, opened);
	if (SVC_OPS_HAS(ops, flush) && stress_chance(actor, 10))
		ops->flush(opened->stream);
	struct svc_part part = {.flags = SVC_PART_MESSAGE,
	    .data = big,
	    .len = (size_t)stress_below(
		actor, stress_chance(actor, 5) ? BIG : 64)};
	if (stress_chance(actor, 15))
		part.flags = SVC_PART_END;
	stress_at(actor, "sends");
	svc_err code = ops->send(opened->stream, &part, NULL);
	if (code != SVC_OK && code != SVC_E_AGAIN && code != SVC_E_CLOSED &&
	    code != SVC_E_INVAL && code != SVC_E_EXHAUSTED)
		stress_fail("send: %s", svc_err_name(code));
	stress_slot_leave(slot);
}

static void
work(struct stress_actor *actor, void *arg)
{
	struct world *world = arg;
	/* Connections are to be made before and after each renewal. */
	int actions = svc_clock_is_manual() ? 4 * ACTIONS : ACTIONS;
	for (int i = 0; i < actions; i++) {
		stress_dither(actor);
		uint64_t dice = stress_below(actor, 100);
		if (dice < 57) {
			use_conn(actor, world);
		} else if (dice < 60) {
			interrupt(actor, world);
		} else if (dice < 80) {
			use_stream(actor, world);
		} else if (dice < 88) {
			end_held(actor, world);
		} else if (dice < 94) {
			void *conn = stress_slot_take(
			    world->conns[stress_below(actor, CONNS)]);
			stress_at(actor, "conn_destroy");
			if (conn != NULL)
				world->ops->conn_destroy(conn);
		} else {
			struct stress_slot *slot =
			    world->listeners[stress_below(actor, LISTENERS)];
			struct listener *listener = stress_slot_enter(slot);
			if (listener == NULL)
				continue;
			const char *address =
			    world->ops->listener_address(listener->handle);
			STRESS_CHECK(strcmp(address, listener->address) == 0);
			stress_at(actor, "drain");
			if (stress_chance(actor, 30))
				world->ops->drain(listener->handle);
			stress_slot_leave(slot);
		}
	}
}

/* ------------------------------------------------------------------- round */

static void
begin(struct world *world, struct stress_actor *owner,
    const struct stress_scene *scene)
{
	const char *plugin = scene->variant;
	struct svc_error err = {0};
	const void *ops;
	if (svc_catalogue_find(&svc_transport_interface, plugin, &ops, &err) !=
	    SVC_OK)
		stress_fail("%s", err.text);
	world->ops = ops;
	world->bind = strcmp(plugin, "memory") == 0 ? ""
		      : strcmp(scene->name, "nng_ws") == 0
			  ? "ws://127.0.0.1:0/stress"
			  : "127.0.0.1:0";
	pthread_mutex_init(&world->lock, NULL);
	bool shared = stress_chance(owner, 50);
	for (int i = 0; i < (shared ? 1 : 2); i++) {
		struct svc_executor_config config = {
		    .loops = 1 + (int)stress_below(owner, 3)};
		STRESS_CHECK(svc_executor_create(&config, &world->executors[i],
				 &err) == SVC_OK);
	}
	/* Borrowed until the transports are destroyed. */
	const struct certificates *files = certificates_get();
	world->tls[0].cert = files->cert;
	world->tls[0].key = files->key;
	world->tls[1].ca = files->ca;
	struct svc_transport_config config = {
	    .executor = world->executors[0],
	    .tls = has_tls(scene) ? &world->tls[0] : NULL,
	};
	if (world->ops->create(&config, &world->server, &err) != SVC_OK)
		stress_fail("create: %s", err.text);
	config.executor = world->executors[shared ? 0 : 1];
	config.tls = has_tls(scene) ? &world->tls[1] : NULL;
	if (world->ops->create(&config, &world->client, &err) != SVC_OK)
		stress_fail("create: %s", err.text);
	for (int i = 0; i < CONNS; i++)
		world->conns[i] = stress_slot_create();
	for (int i = 0; i < STREAMS; i++)
		world->streams[i] = stress_slot_create();
	for (int i = 0; i < STRESS_WORKERS; i++)
		world->waits[i] = stress_slot_create();
	for (int i = 0; i < LISTENERS; i++) {
		world->listeners[i] = stress_slot_create();
		listen_at(owner, world, i);
	}
}

static void
close_conns(struct stress_actor *owner, struct world *world)
{
	for (int i = 0; i < CONNS; i++) {
		void *conn = stress_slot_take(world->conns[i]);
		stress_at(owner, "conn_destroy");
		if (conn != NULL)
			world->ops->conn_destroy(conn);
	}
}

/* Every stream that is still open ends by itself once the listeners are gone.
 */
static void
await_streams(struct stress_actor *owner, struct world *world)
{
	for (int i = 0; i < STREAMS; i++) {
		struct opened *opened = stress_slot_take(world->streams[i]);
		if (opened == NULL)
			continue;
		stress_at(owner, "waits for the end of a stream");
		pthread_mutex_lock(&opened->lock);
		while (!opened->got_end && !opened->closed)
			pthread_cond_wait(&opened->changed, &opened->lock);
		pthread_mutex_unlock(&opened->lock);
		give_back(owner, opened);
	}
}

/* The files are looked at when a second has passed. */
static void
renew(struct stress_actor *owner)
{
	stress_at(owner, "renews the certificates");
	certificates_renew();
	svc_clock_advance(1000);
}

static void
play(struct stress_actor *owner, const struct stress_scene *scene)
{
	struct world world = {0};
	begin(&world, owner, scene);
	stress_go(work, &world);
	uint64_t least = svc_clock_is_manual() ? 2 : 0;
	for (uint64_t n = least + stress_below(owner, 4); n > 0; n--) {
		int i = (int)stress_below(owner, LISTENERS);
		for (uint64_t k = stress_below(owner, 20); k > 0; k--)
			stress_dither(owner);
		if (svc_clock_is_manual())
			renew(owner);
		else if (close_listener(owner, &world, i))
			listen_at(owner, &world, i);
	}
	stress_join(owner);

	bool conns_first = stress_chance(owner, 50);
	if (conns_first)
		close_conns(owner, &world);
	for (int i = 0; i < LISTENERS; i++)
		close_listener(owner, &world, i);
	await_streams(owner, &world);
	if (!conns_first)
		close_conns(owner, &world);
	while (end_held(owner, &world))
		;
	STRESS_CHECK(world.begun == world.ended);

	stress_at(owner, "transport destroy");
	world.ops->destroy(world.client);
	world.ops->destroy(world.server);
	stress_at(owner, "svc_executor_destroy");
	svc_executor_destroy(world.executors[1]);
	svc_executor_destroy(world.executors[0]);
	for (int i = 0; i < CONNS; i++)
		stress_slot_destroy(world.conns[i]);
	for (int i = 0; i < STREAMS; i++)
		stress_slot_destroy(world.streams[i]);
	for (int i = 0; i < STRESS_WORKERS; i++)
		stress_slot_destroy(world.waits[i]);
	for (int i = 0; i < LISTENERS; i++)
		stress_slot_destroy(world.listeners[i]);
	pthread_mutex_destroy(&world.lock);
}

static void *
tick(void *arg)
{
	const _Atomic bool *over = arg;
	const struct itimerspec each_ms = {
	    .it_value.tv_nsec = 1000000, .it_interval.tv_nsec = 1000000};
	uint64_t passed;
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	STRESS_CHECK(timerfd_settime(timer, 0, &each_ms, NULL) == 0);
	while (!atomic_load(over) &&
	       read(timer, &passed, sizeof(passed)) == sizeof(passed))
		svc_clock_advance((int64_t)passed);
	close(timer);
	return NULL;
}

/* The same by a clock that can skip a second. */
static void
play_renewing(struct stress_actor *owner, const struct stress_scene *scene)
{
	_Atomic bool over = false;
	pthread_t ticker;
	svc_clock_manual();
	STRESS_CHECK(svc_thread_start(&ticker, "tick", tick, &over) == SVC_OK);
	play(owner, scene);
	atomic_store(&over, true);
	svc_thread_join(ticker);
	svc_clock_real();
}

static bool
have(const char *plugin)
{
	const void *ops;
	return svc_catalogue_find(
		   &svc_transport_interface, plugin, &ops, NULL) == SVC_OK;
}

int
main(int argc, char *argv[])
{
	static const struct stress_scene scenes[] = {
	    {"memory", 60, play, "memory", NULL},
	    {"tcp", 60, play, "tcp", have},
	    {"tcp_tls", 20, play, "tcp", have},
	    {"nng", 20, play, "nng", have},
	    {"nng_tls", 10, play, "nng", have},
	    {"tcp_tls_renew", 10, play_renewing, "tcp", have},
	    {"nng_tls_renew", 5, play_renewing, "nng", have},
#ifndef __SANITIZE_ADDRESS__
	    /* nng 1.5 loses websockets of which a peer left during the
	     * handshake, which the leak checker would report. */
	    {"nng_ws", 5, play, "nng", have},
#endif
	    {0},
	};
	if (!certificates_make())
		return 1;
	int status = stress_main(argc, argv, scenes);
	certificates_remove();
	return status;
}
