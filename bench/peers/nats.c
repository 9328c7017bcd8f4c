/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NATS request and reply by its own server and C client: the server program is
 * nats-server with a responder beside it, and both are counted. One call at a
 * time is a blocking natsConnection_Request; more are messages with a reply
 * subject each, which a subscription takes.
 */
#include "common/bench.h"

#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUBJECT "bench.echo"

static void
check(natsStatus status, const char *what)
{
	if (status != NATS_OK)
		bench_die("%s: %s", what, natsStatus_GetText(status));
}

static natsConnection *
connect_to(const struct bench_options *options, const char *address)
{
	natsOptions *how;
	natsConnection *connection;
	char url[96];
	snprintf(url, sizeof(url), "nats://%s", address);
	check(natsOptions_Create(&how), "options");
	check(natsOptions_SetURL(how, url), url);
	/* With one call in the air there is nothing to gather for a write. */
	check(natsOptions_SetSendAsap(how, options->outstanding == 1), url);
	check(natsConnection_Connect(&connection, how), url);
	natsOptions_Destroy(how);
	return connection;
}

static void
answer(natsConnection *connection, natsSubscription *subscription,
    natsMsg *message, void *arg)
{
	(void)subscription, (void)arg;
	check(natsConnection_Publish(connection, natsMsg_GetReply(message),
		  natsMsg_GetData(message), natsMsg_GetDataLength(message)),
	    "answering");
	natsMsg_Destroy(message);
}

static int
serve(const struct bench_options *options)
{
	char address[64], port[16], pids[32];
	natsConnection *connection;
	natsSubscription *subscription;
	/* On a free port, which it cannot tell by itself. */
	snprintf(port, sizeof(port), "%d", bench_free_port());
	snprintf(address, sizeof(address), "127.0.0.1:%s", port);
	const char *const command[] = {
	    "nats-server", "-a", "127.0.0.1", "-p", port, NULL};
	snprintf(pids, sizeof(pids), "%d,%d", (int)getpid(),
	    (int)bench_spawn(command, address));
	connection = connect_to(options, address);
	check(natsConnection_Subscribe(
		  &subscription, connection, SUBJECT, answer, NULL),
	    "subscribing");
	check(natsConnection_Flush(connection), "subscribing");
	bench_ready(address, pids);
	return bench_wait();
}

struct client {
	const struct bench_options *options;
	struct bench_load *load;
	natsConnection **connections;
	natsInbox **inboxes;
	uint8_t *data;
};

static void
start(void *arg, int slot)
{
	struct client *client = arg;
	int i = slot % client->options->connections;
	char reply[96];
	snprintf(reply, sizeof(reply), "%s.%d", client->inboxes[i], slot);
	check(natsConnection_PublishRequest(client->connections[i], SUBJECT,
		  reply, client->data, (int)client->options->size),
	    "calling");
}

static void
replied(natsConnection *connection, natsSubscription *subscription,
    natsMsg *message, void *arg)
{
	struct client *client = arg;
	(void)connection, (void)subscription;
	const char *dot = strrchr(natsMsg_GetSubject(message), '.');
	int slot = (int)strtol(dot + 1, NULL, 10);
	natsMsg_Destroy(message);
	slot = bench_again(client->load, slot);
	if (slot >= 0)
		start(client, slot);
}

static void
drive_blocking(struct client *client)
{
	int slot;
	while ((slot = bench_begin(client->load, bench_now())) >= 0) {
		natsMsg *reply;
		check(natsConnection_Request(&reply, client->connections[0],
			  SUBJECT, client->data, (int)client->options->size,
			  5000),
		    "calling");
		natsMsg_Destroy(reply);
		bench_end(client->load, slot, bench_now());
	}
}

static int
drive(const struct bench_options *options, struct bench_load *load)
{
	int n = options->connections;
	struct client client = {
	    .options = options,
	    .load = load,
	    .connections = bench_alloc((size_t)n * sizeof(natsConnection *)),
	    .inboxes = bench_alloc((size_t)n * sizeof(natsInbox *)),
	    .data = bench_alloc(options->size),
	};
	bool blocking =
	    n == 1 && options->outstanding == 1 && options->rate <= 0;
	natsSubscription **subscriptions =
	    bench_alloc((size_t)n * sizeof(*subscriptions));
	for (int i = 0; i < n; i++) {
		char all[96];
		client.connections[i] = connect_to(options, options->address);
		if (blocking)
			continue;
		check(natsInbox_Create(&client.inboxes[i]), "inbox");
		snprintf(all, sizeof(all), "%s.*", client.inboxes[i]);
		check(natsConnection_Subscribe(&subscriptions[i],
			  client.connections[i], all, replied, &client),
		    "subscribing");
	}
	if (blocking)
		drive_blocking(&client);
	else
		bench_run(load, start, &client);
	for (int i = 0; i < n; i++) {
		natsSubscription_Destroy(subscriptions[i]);
		natsConnection_Destroy(client.connections[i]);
		natsInbox_Destroy(client.inboxes[i]);
	}
	free(subscriptions);
	free(client.connections);
	free(client.inboxes);
	free(client.data);
	nats_Close();
	return 0;
}

int
main(int argc, char *argv[])
{
	static const struct bench_peer peer = {
	    .name = "nats",
	    .abilities = BENCH_PIPELINE | BENCH_OPEN_LOOP,
	    .serve = serve,
	    .drive = drive,
	};
	return bench_main(argc, argv, &peer);
}
