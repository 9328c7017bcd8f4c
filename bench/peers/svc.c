/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc as applications use it: a service with a handler, and a client that finds
 * it in a registry. The address "memory" is the memory transport, with client
 * and service in this process.
 *
 * A client has one connection to each node, so many connections are many nodes
 * at one address.
 */
#include "../common/bench.h"
#include "announce.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <svc/svc.h>
#include <time.h>

/* ---------------------------------------------------------------- service */

static svc_err
echo(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	const struct timespec sleep = {.tv_nsec = BENCH_SLOW_MS * 1000000L};
	(void)call, (void)arg;
	if (*(const uint8_t *)req->data != 0)
		nanosleep(&sleep, NULL);
	rsp->data = req->data;
	rsp->len = req->len;
	return SVC_OK;
}

/* Asks the service behind this one. */
static svc_err
relay(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct svc_message answer;
	(void)arg;
	svc_err code = svc_call(svc_client_of(svc_call_service(call)), "echo",
	    "Echo.Echo", req, &answer);
	if (code != SVC_OK)
		return code;
	void *copy = svc_alloc_in(call, answer.len);
	if (copy == NULL)
		code = SVC_E_NOMEM;
	else
		rsp->data = memcpy(copy, answer.data, answer.len);
	rsp->len = answer.len;
	svc_message_free(&answer);
	return code;
}

static struct svc_service *
service_start(const struct bench_options *options, const char *address,
    const char *transport)
{
	const struct svc_option list[] = {
	    SVC_OPT_name("echo"),
	    SVC_OPT_registry(memory),
	    SVC_OPT_broker(memory),
	    SVC_OPT_address(address),
	    SVC_OPT_log_level("error"),
	    {.kind = SVC_OPTION_TRANSPORT, .text = transport},
	    SVC_OPT_end(),
	};
	struct svc_service *service = svc_new_options(list);
	bool last = options->next == NULL;
	if (svc_handle(service, "Echo.Echo", last ? echo : relay, NULL,
		idempotent()) != SVC_OK ||
	    svc_init(service, 0, NULL) != SVC_OK ||
	    svc_start(service) != SVC_OK)
		bench_die("%s", svc_error_text(service));
	return service;
}

static int
serve(const struct bench_options *options)
{
	struct svc_service *service =
	    service_start(options, options->address, "tcp");
	if (options->next != NULL)
		bench_announce(service, options->next, "echo-next");
	bench_ready(svc_options_of(service)->address, NULL);
	return bench_wait();
}

/* ---------------------------------------------------------------- client */

struct client {
	struct svc_client *client;
	const struct bench_options *options;
	struct bench_load *load;
	char (*ids)[24]; /* of the nodes, one for each connection */
	uint8_t *data, *slow;
};

static void
call(struct client *client, int slot)
{
	struct svc_error err = {0};
	struct svc_message rsp,
	    req = {
		.data = bench_is_slow(client->load, slot) ? client->slow
							  : client->data,
		.len = client->options->size,
	    };
	int n = client->options->connections;
	svc_err code =
	    n > 1 ? svc_call(client->client, "echo", "Echo.Echo", &req, &rsp,
			node(client->ids[slot % n]), detail(&err))
		  : svc_call(client->client, "echo", "Echo.Echo", &req, &rsp,
			detail(&err));
	if (code != SVC_OK)
		bench_die("%s", err.text);
	if (rsp.len != client->options->size)
		bench_die("a reply of %zu bytes", rsp.len);
	svc_message_free(&rsp);
}

static void *
drive_blocking(void *arg)
{
	struct client *client = arg;
	int slot;
	while ((slot = bench_begin(client->load, bench_now())) >= 0) {
		call(client, slot);
		bench_end(client->load, slot, bench_now());
	}
	return NULL;
}

static int
drive(const struct bench_options *options, struct bench_load *load)
{
	bool here = strcmp(options->address, "memory") == 0;
	int n = options->connections;
	char(*ids)[24] = bench_alloc((size_t)n * sizeof(*ids));
	struct svc_service *service;
	if (here) {
		service = service_start(options, "echo:0", "memory");
	} else {
		service = bench_caller();
		for (int i = 0; i < n; i++) {
			snprintf(ids[i], sizeof(ids[i]), "echo-%d", i);
			bench_announce(service, options->address, ids[i]);
		}
	}
	struct client client = {
	    .client = svc_client_of(service),
	    .options = options,
	    .load = load,
	    .ids = ids,
	    .data = bench_alloc(options->size),
	    .slow = bench_alloc(options->size),
	};
	client.slow[0] = 1;
	int slots = n * options->outstanding;
	pthread_t *threads = bench_alloc((size_t)slots * sizeof(*threads));
	for (int i = 1; i < slots; i++)
		pthread_create(&threads[i], NULL, drive_blocking, &client);
	drive_blocking(&client);
	for (int i = 1; i < slots; i++)
		pthread_join(threads[i], NULL);
	free(threads);
	free(ids);
	svc_free(service);
	free(client.data);
	free(client.slow);
	return 0;
}

int
main(int argc, char *argv[])
{
	static const struct bench_peer peer = {
	    .name = "svc",
	    .abilities = BENCH_NEXT | BENCH_SLOW | BENCH_PIPELINE,
	    .serve = serve,
	    .drive = drive,
	};
	return bench_main(argc, argv, &peer);
}
