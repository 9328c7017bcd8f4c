/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services that come and go while others call them, hold streams with them,
 * publish and subscribe; and a client that ends with all that behind it.
 *
 * The owner makes and frees two services of one name again and again. The
 * workers call, stream and publish through a client that outlives them, and
 * make calls without waiting through clients that any of them may free with
 * what is open. Every handler and every such call has memory of its own that
 * goes with its service or client, so that one that runs too late is found by
 * the address sanitizer.
 */
#include "certificates.h"
#include "handlers.h"
#include "stress.h"
#include "wraps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVERS 2
#define STREAMS 6
#define GUESTS 2
#define ACTIONS 16 /* of a worker, at least */
#define STAYING 3  /* workers that do more if need be */

struct town {
	const char *transport, *broker;
	bool tls;
	char registry[32];
	struct svc_service *client;
	struct wraps *wraps; /* of the client */
	struct svc_client *caller;
	struct ending *started; /* of a client that is a service too */
	_Atomic bool over;      /* the owner has closed what he will */
	struct stress_slot *streams[STREAMS];
	struct stress_slot *guests[GUESTS];
};

/* ----------------------------------------------------------------- servers */

/* Half of them with wrappers, to be freed when the service is. */
static struct svc_service *
make(struct town *town, const char *of, struct stress_actor *actor,
    struct wraps **ret_wraps)
{
	struct svc_option list[8 + WRAPS + 1] = {
	    SVC_OPT_name(of),
	    {SVC_OPTION_REGISTRY, "memory", town->registry, 0, 0, 0, 0},
	    {SVC_OPTION_TRANSPORT, town->transport, 0, 0, 0, 0, 0},
	    {SVC_OPTION_BROKER, town->broker, town->registry, 0, 0, 0, 0},
	    SVC_OPT_log_level("off"),
	    SVC_OPT_,
	    SVC_OPT_,
	    {SVC_OPTION_SELECTOR,
		stress_chance(actor, 50) ? "random" : "round_robin", 0, 0, 0, 0,
		0},
	    SVC_OPT_end(),
	};
	*ret_wraps = stress_chance(actor, 50) ? wraps_create() : NULL;
	if (*ret_wraps != NULL)
		wraps_options(*ret_wraps, list + 8);
	if (strcmp(town->broker, "memory") != 0)
		list[3].text2 = NULL;
	if (strcmp(town->transport, "memory") != 0)
		list[5] = (struct svc_option)SVC_OPT_address("127.0.0.1:0");
	const struct certificates *files = certificates_get();
	if (town->tls)
		list[6] = (struct svc_option)SVC_OPT_tls(
		    files->cert, files->key, files->ca);
	struct svc_service *service = svc_new_options(list);
	STRESS_CHECK(service != NULL);
	char program[] = "stress";
	char cut[] = "--drain_timeout=0", wait[] = "--drain_timeout=0.05";
	char sleeps[] = "--busy_poll=0", looks[] = "--busy_poll=200";
	char few[] = "--max_handlers=3", patient[] = "--queue_timeout=20ms";
	char *argv[6] = {program, stress_chance(actor, 50) ? cut : wait};
	int argc = 2;
	if (stress_chance(actor, 40))
		argv[argc++] = stress_chance(actor, 50) ? sleeps : looks;
	if (stress_chance(actor, 15)) {
		argv[argc++] = few;
		argv[argc++] = patient;
	}
	stress_at(actor, "svc_init");
	if (svc_init(service, argc, argv) != SVC_OK)
		stress_fail("init: %s", svc_error_text(service));
	return service;
}

static void *
run(void *arg)
{
	struct server *server = arg;
	svc_err code = svc_run(server->service);
	if (code != SVC_OK)
		stress_fail("svc_run: %s", svc_error_text(server->service));
	return NULL;
}

static struct server *
open_server(struct stress_actor *owner, struct town *town)
{
	struct server *server = svc_mem_calloc(1, sizeof(*server));
	STRESS_CHECK(server != NULL);
	struct svc_service *s = server->service =
	    make(town, "stress", owner, &server->wraps);
	server->runs = stress_chance(owner, 40);
	handlers_add(server, owner);
	stress_at(owner, "svc_start");
	if (server->runs) {
		STRESS_CHECK(
		    pthread_create(&server->runner, NULL, run, server) == 0);
	} else if (svc_start(s) != SVC_OK) {
		stress_fail("start: %s", svc_error_text(s));
	}
	return server;
}

static void
close_server(struct stress_actor *owner, struct server *server)
{
	if (server->runs) {
		stress_at(owner, "svc_stop");
		svc_stop(server->service);
		if (stress_chance(owner, 30))
			svc_stop(server->service);
		stress_at(owner, "waits for svc_run");
		pthread_join(server->runner, NULL);
	}
	stress_at(owner, "svc_free");
	svc_free(server->service);
	STRESS_CHECK(atomic_load(&server->handling) == 0);
	atomic_store(&server->over, true);
	wraps_destroy(server->wraps);
	svc_mem_free(server);
}

/* ----------------------------------------------------------------- callers */

static void
call(struct stress_actor *actor, struct town *town)
{
	const char *endpoint = call_endpoints[stress_below(actor, 9)];
	char data[200];
	memset(data, (int)stress_below(actor, 256), sizeof(data));
	struct svc_message req = {.data = data,
	    .len = 1 + (size_t)stress_below(actor, sizeof(data) - 1)};
	struct svc_message rsp;
	struct svc_error err = {0};
	int64_t limit_ms = stress_chance(actor, 20)
			       ? 1 + (int64_t)stress_below(actor, 5)
			       : 5000;
	/* Plain ones take other ways than those with something to say. */
	struct svc_headers *headers =
	    stress_chance(actor, 30) ? svc_headers_create() : NULL;
	const struct svc_option options[] = {
	    SVC_CALL_OPT_timeout_ms(limit_ms),
	    SVC_CALL_OPT_detail(&err),
	    headers != NULL
		? (struct svc_option)SVC_CALL_OPT_reply_headers(headers)
		: (struct svc_option)SVC_OPT_,
	    stress_chance(actor, 30)
		? (struct svc_option)SVC_CALL_OPT_header("from", "stress")
		: (struct svc_option)SVC_OPT_,
	    stress_chance(actor, 20)
		? (struct svc_option)SVC_CALL_OPT_retries(3)
		: (struct svc_option)SVC_OPT_,
	    SVC_OPT_end(),
	};
	stress_at(actor, endpoint);
	svc_err code = svc_call_options(
	    town->caller, "stress", endpoint, &req, &rsp, options);
	check_code(endpoint, code, err.text);
	const char *by = svc_headers_get(headers, "by");
	STRESS_CHECK(by == NULL || strcmp(by, "stress") == 0);
	svc_headers_destroy(headers);
	if (code == SVC_OK &&
	    (endpoint == call_endpoints[0] || endpoint == call_endpoints[1])) {
		STRESS_CHECK(rsp.len == req.len &&
			     memcmp(rsp.data, req.data, rsp.len) == 0);
	}
	svc_message_free(&rsp);
}

/* ------------------------------------------------ calls that nobody waits for
 */

/* A client that will be freed with the calls that it has open. */
struct guest {
	struct svc_service *service;
	struct wraps *wraps;
	struct svc_client *client;
	_Atomic int open;
	_Atomic bool over; /* svc_free has returned */
};

struct open_call {
	struct guest *guest;
	int more;      /* calls to begin in its `done` */
	unsigned dice; /* for them */
};

static svc_err begin_call(struct open_call *open);

static void
told(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct open_call *open = arg;
	struct guest *guest = open->guest;
	STRESS_CHECK(!atomic_load(&guest->over));
	if (code != SVC_E_AGAIN)
		check_code("svc_call_async", code, detail->text);
	size_t sum = 0;
	for (size_t i = 0; i < rsp->len; i++)
		sum += ((const unsigned char *)rsp->data)[i];
	STRESS_CHECK(sum <= SIZE_MAX / 2);
	if (open->dice % 7 == 0)
		stress_yield(open->dice % 50);
	open->dice = open->dice * 31 + 7;
	if (open->more-- > 0 && begin_call(open) == SVC_OK)
		return;
	svc_mem_free(open);
	atomic_fetch_sub(&guest->open, 1);
}

static svc_err
begin_call(struct open_call *open)
{
	char data[100];
	const char *endpoint = call_endpoints[open->dice % 9];
	struct svc_message req = {
	    .data = data, .len = 1 + open->dice / 9 % (sizeof(data) - 1)};
	memset(data, (int)(open->dice % 256), sizeof(data));
	return svc_call_async(open->guest->client, "stress", endpoint, &req,
	    told, open, timeout_ms(open->dice % 5 == 0 ? 1 : 3000));
}

static void
free_guest(struct stress_actor *actor, struct guest *guest)
{
	stress_at(actor, "svc_free of a client with open calls");
	svc_free(guest->service);
	STRESS_CHECK(atomic_load(&guest->open) == 0);
	atomic_store(&guest->over, true);
	wraps_destroy(guest->wraps);
	svc_mem_free(guest);
}

static void
call_and_leave(struct stress_actor *actor, struct town *town)
{
	struct stress_slot *slot = town->guests[stress_below(actor, GUESTS)];
	struct guest *guest;
	if (stress_chance(actor, 10)) {
		guest = stress_slot_take(slot);
		if (guest != NULL)
			free_guest(actor, guest);
		return;
	}
	guest = stress_slot_enter(slot);
	if (guest == NULL) {
		guest = svc_mem_calloc(1, sizeof(*guest));
		STRESS_CHECK(guest != NULL);
		guest->service = make(town, "guest", actor, &guest->wraps);
		guest->client = svc_client_of(guest->service);
		if (!stress_slot_put(slot, guest))
			free_guest(actor, guest);
		return;
	}
	stress_at(actor, "svc_call_async");
	for (uint64_t n = 1 + stress_below(actor, 8); n > 0; n--) {
		struct open_call *open = svc_mem_calloc(1, sizeof(*open));
		STRESS_CHECK(open != NULL);
		open->guest = guest;
		open->more = (int)stress_below(actor, 4);
		open->dice = (unsigned)stress_below(actor, 1 << 20);
		atomic_fetch_add(&guest->open, 1);
		svc_err code = begin_call(open);
		if (code == SVC_OK)
			continue;
		svc_mem_free(open);
		atomic_fetch_sub(&guest->open, 1);
		if (code != SVC_E_ABORTED) /* by a wrapper */
			stress_fail("svc_call_async: %s", svc_err_name(code));
	}
	stress_slot_leave(slot);
}

/* ----------------------------------------------------------------- streams */

/* One may send and another receive; anybody may cancel or ask. */
struct shared {
	struct svc_stream *stream;
	pthread_mutex_t sending, receiving;
};

static void
give_back(struct stress_actor *actor, struct shared *shared)
{
	stress_at(actor, "svc_stream_free");
	svc_stream_free(shared->stream);
	pthread_mutex_destroy(&shared->sending);
	pthread_mutex_destroy(&shared->receiving);
	svc_mem_free(shared);
}

static void
open_stream(
    struct stress_actor *actor, struct town *town, struct stress_slot *slot)
{
	const char *endpoint = stream_endpoints[stress_below(actor, 6)];
	int64_t limit_ms = stress_chance(actor, 30)
			       ? 1 + (int64_t)stress_below(actor, 20)
			       : 300;
	struct svc_error err = {0};
	stress_at(actor, "svc_open");
	struct svc_stream *stream =
	    stress_chance(actor, 50)
		? svc_open(town->caller, "stress", endpoint,
		      timeout_ms(limit_ms), detail(&err))
		: svc_open(town->caller, "stress", endpoint,
		      timeout_ms(limit_ms), detail(&err),
		      header("from", "stress"));
	if (stream == NULL) {
		check_code("svc_open", err.code, err.text);
		STRESS_CHECK(err.code != SVC_OK);
		return;
	}
	struct shared *shared = svc_mem_calloc(1, sizeof(*shared));
	STRESS_CHECK(shared != NULL);
	shared->stream = stream;
	pthread_mutex_init(&shared->sending, NULL);
	pthread_mutex_init(&shared->receiving, NULL);
	if (!stress_slot_put(slot, shared))
		give_back(actor, shared);
}

static void
send_some(struct stress_actor *actor, struct shared *shared)
{
	struct svc_error err = {0};
	char data[2000] = "";
	struct svc_message m = {.data = data};
	svc_err code = SVC_OK;
	stress_at(actor, "svc_stream_send");
	for (uint64_t n = stress_below(actor, 6); n > 0 && code == SVC_OK;
	     n--) {
		m.len = (size_t)stress_below(actor, sizeof(data));
		code = svc_stream_send(shared->stream, &m);
	}
	if (code == SVC_OK && stress_chance(actor, 40))
		code = svc_stream_close_send(shared->stream);
	svc_stream_error(shared->stream, &err);
	if (code != SVC_E_INVAL) /* after close_send */
		check_code("svc_stream_send", code, err.text);
}

static void
receive_some(struct stress_actor *actor, struct shared *shared)
{
	struct svc_error err = {0};
	struct svc_message m;
	svc_err code = SVC_OK;
	stress_at(actor, "svc_stream_recv");
	for (uint64_t n = stress_below(actor, 4); n > 0 && code == SVC_OK;
	     n--) {
		code = svc_stream_recv(shared->stream, &m);
		size_t sum = 0;
		for (size_t i = 0; code == SVC_OK && i < m.len; i++)
			sum += ((const unsigned char *)m.data)[i];
		STRESS_CHECK(sum <= SIZE_MAX / 2);
	}
	if (code == SVC_OK)
		(void)svc_stream_header(shared->stream, "by");
	if (code == SVC_E_EOF)
		(void)svc_stream_trailer(shared->stream, "said");
	svc_stream_error(shared->stream, &err);
	/* A unary endpoint that is spoken to by a stream may see no message,
	 * or more than one. */
	if (code != SVC_E_INVAL)
		check_code("svc_stream_recv", code, err.text);
}

static void
use_stream(struct stress_actor *actor, struct town *town)
{
	struct stress_slot *slot = town->streams[stress_below(actor, STREAMS)];
	struct shared *shared;
	if (stress_chance(actor, 15)) {
		/* Who still receives is freed from it by the cancel. */
		shared = stress_slot_enter(slot);
		if (shared == NULL)
			return;
		svc_stream_cancel(shared->stream);
		stress_slot_leave(slot);
		shared = stress_slot_take(slot);
		if (shared != NULL)
			give_back(actor, shared);
		return;
	}
	shared = stress_slot_enter(slot);
	if (shared == NULL) {
		open_stream(actor, town, slot);
		return;
	}
	uint64_t dice = stress_below(actor, 100);
	if (dice < 10) {
		stress_at(actor, "svc_stream_cancel");
		svc_stream_cancel(shared->stream);
	} else if (dice < 25) {
		(void)svc_stream_cancelled(shared->stream);
		(void)svc_stream_error(shared->stream, NULL);
	} else if (dice < 65) {
		if (pthread_mutex_trylock(&shared->sending) == 0) {
			send_some(actor, shared);
			pthread_mutex_unlock(&shared->sending);
		}
	} else if (pthread_mutex_trylock(&shared->receiving) == 0) {
		receive_some(actor, shared);
		pthread_mutex_unlock(&shared->receiving);
	}
	stress_slot_leave(slot);
}

static void
publish(struct stress_actor *actor, struct town *town)
{
	char data[64] = "";
	struct svc_error err = {0};
	struct svc_message m = {
	    .data = data, .len = (size_t)stress_below(actor, sizeof(data))};
	stress_at(actor, "svc_publish");
	if (stress_chance(actor, 50)) {
		m.headers = svc_headers_create();
		STRESS_CHECK(
		    svc_headers_set(m.headers, "from", "stress") == SVC_OK);
	}
	svc_err code = svc_publish_detail(town->client, "news", &m, &err);
	svc_headers_destroy(m.headers);
	check_code("svc_publish", code, err.text);
}

struct ending {
	_Atomic bool over;
};

static svc_err
on_client_news(struct svc_event *event, void *arg)
{
	struct ending *ending = arg;
	(void)event;
	STRESS_CHECK(!atomic_load(&ending->over));
	return SVC_OK;
}

/* What may be asked of a running service, and one subscription more. */
static void
ask(struct stress_actor *actor, struct town *town)
{
	stress_at(actor, "asks");
	STRESS_CHECK(strcmp(svc_options_of(town->client)->name, "caller") == 0);
	STRESS_CHECK(svc_client_of(town->client) == town->caller);
	STRESS_CHECK(strcmp(svc_string(town->client), "svc") == 0);
	STRESS_CHECK(strcmp(svc_broker_name(svc_broker_of(town->client)),
			 town->broker) == 0);
	struct svc_record_list list = {0};
	svc_err looked = svc_registry_lookup(
	    svc_registry_of(town->client), "stress", &list, NULL);
	check_code("svc_registry_lookup", looked, "");
	if (looked == SVC_OK)
		svc_record_list_fini(&list);
	bool registered = svc_registered(town->client);
	STRESS_CHECK(!registered || town->started != NULL);
	if (town->started == NULL || !stress_chance(actor, 30))
		return;
	stress_at(actor, "svc_subscribe");
	svc_err code = stress_chance(actor, 50)
			   ? svc_subscribe(town->client, "news", on_client_news,
				 town->started)
			   : svc_subscribe(town->client, "news", on_client_news,
				 town->started, queue("late"));
	check_code("svc_subscribe", code, "");
}

/* Some go on for as long as there is something to be closed under them. */
static void
work(struct stress_actor *actor, void *arg)
{
	struct town *town = arg;
	bool stays = actor->index < STAYING;
	for (int i = 0; i < ACTIONS || (stays && !atomic_load(&town->over));
	     i++) {
		stress_dither(actor);
		uint64_t dice = stress_below(actor, 100);
		if (dice < 35)
			call(actor, town);
		else if (dice < 60)
			call_and_leave(actor, town);
		else if (dice < 90)
			use_stream(actor, town);
		else if (dice < 92)
			ask(actor, town);
		else
			publish(actor, town);
	}
}

/* A scene in which no call succeeds would prove nothing. */
static void
prove(struct stress_actor *owner, struct town *town)
{
	struct svc_message req = {.data = "echo", .len = 4};
	struct svc_error err = {0};
	int64_t until_ms = svc_deadline(20000);
	svc_err code;
	stress_at(owner, "waits for an echo");
	do {
		code = svc_call(town->caller, "stress", "Stress.Echo", &req,
		    NULL, detail(&err));
	} while (code != SVC_OK && svc_remaining(until_ms) > 0);
	if (code != SVC_OK)
		stress_fail("no echo: %s", err.text);
}

static void
pass_time(struct stress_actor *owner)
{
	stress_at(owner, "passes time");
	for (uint64_t k = stress_below(owner, 60); k > 0; k--)
		stress_dither(owner);
}

static void
play(struct stress_actor *owner, const struct stress_scene *scene)
{
	struct town town = {
	    .transport = scene->variant,
	    .tls = strstr(scene->name, "_tls") != NULL,
	};
	town.broker = stress_chance(owner, 50) ? "p2p" : "memory";
	snprintf(town.registry, sizeof(town.registry), "stress-%llu",
	    (unsigned long long)stress_unique());
	/* Half of the clients are services too, with a subscription that is
	 * open when they are freed. */
	struct ending *ending = svc_mem_calloc(1, sizeof(*ending));
	STRESS_CHECK(ending != NULL);
	town.client = make(&town, "caller", owner, &town.wraps);
	bool starts = stress_chance(owner, 50);
	if (starts) {
		STRESS_CHECK(svc_subscribe(town.client, "news", on_client_news,
				 ending) == SVC_OK);
		if (svc_start(town.client) != SVC_OK)
			stress_fail("start: %s", svc_error_text(town.client));
		town.started = ending;
	}
	town.caller = svc_client_of(town.client);
	for (int i = 0; i < STREAMS; i++)
		town.streams[i] = stress_slot_create();
	for (int i = 0; i < GUESTS; i++)
		town.guests[i] = stress_slot_create();
	struct server *servers[SERVERS];
	for (int i = 0; i < SERVERS; i++)
		servers[i] = open_server(owner, &town);

	prove(owner, &town);
	stress_go(work, &town);
	for (uint64_t n = stress_below(owner, 4); n > 0; n--) {
		int i = (int)stress_below(owner, SERVERS);
		pass_time(owner);
		close_server(owner, servers[i]);
		servers[i] = open_server(owner, &town);
	}
	int open = SERVERS;
	if (stress_chance(owner, 50)) {
		pass_time(owner);
		while (open > 0)
			close_server(owner, servers[--open]);
		pass_time(owner);
		/* Calls wait two seconds for a service that is gone, or until
		 * it comes back. */
		if (stress_chance(owner, 95))
			servers[open++] = open_server(owner, &town);
	}
	atomic_store(&town.over, true);
	stress_join(owner);

	/* The client may end before the servers that its streams were at. */
	for (int i = 0; i < STREAMS; i++) {
		struct shared *shared = stress_slot_take(town.streams[i]);
		if (shared != NULL)
			give_back(owner, shared);
		stress_slot_destroy(town.streams[i]);
	}
	for (int i = 0; i < GUESTS; i++) {
		struct guest *guest = stress_slot_take(town.guests[i]);
		if (guest != NULL)
			free_guest(owner, guest);
		stress_slot_destroy(town.guests[i]);
	}
	bool client_first = stress_chance(owner, 50);
	for (int turn = 0; turn < 2; turn++) {
		if ((turn == 0) == client_first) {
			stress_at(owner, "svc_free of the client");
			svc_free(town.client);
			atomic_store(&ending->over, true);
			wraps_destroy(town.wraps);
			svc_mem_free(ending);
		} else {
			while (open > 0)
				close_server(owner, servers[--open]);
		}
	}
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
	    {"memory", 20, play, "memory", NULL},
	    {"tcp", 20, play, "tcp", have},
	    {"nng", 5, play, "nng", have},
	    {"tcp_tls", 10, play, "tcp", have},
	    {"nng_tls", 3, play, "nng", have},
	    {0},
	};
	if (!certificates_make())
		return 1;
	svc_log_set_level(SVC_LOG_OFF);
	int status = stress_main(argc, argv, scenes);
	certificates_remove();
	return status;
}
