/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc as applications use it: a service with handlers, and a client that finds
 * it in a registry. One call at a time is a blocking svc_call; more are
 * svc_call_async. The addresses "memory" and "memory-loop" are the memory
 * transport, with client and service in this process; for the first the handler
 * says that it never blocks.
 *
 * Both have one loop, as the others have one thread a side.
 *
 * A client has one connection to each node, so many connections are many nodes
 * at one address.
 */
#include "announce.h"
#include "common/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <svc/svc.h>
#include <time.h>

#define SERVICE "echo"
#define ECHO "Echo.Echo"
#define TAKE "Echo.Take"
#define NEXT "echo-next" /* the id of a relay's next node */

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

/* Asks the service behind this one, which has the same name. */
static svc_err
relay(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct svc_message answer;
	(void)arg;
	svc_err code = svc_call(svc_client_of(svc_call_service(call)), SERVICE,
	    ECHO, req, &answer, node(NEXT));
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

/* Takes all messages of a stream; its end says that they have come. */
static svc_err
take(struct svc_stream *stream, void *arg)
{
	struct svc_message message;
	svc_err code;
	(void)arg;
	while ((code = svc_stream_recv(stream, &message)) == SVC_OK)
		;
	return code;
}

static struct svc_service *
service_start(const struct bench_options *options, const char *address,
    const char *transport)
{
	const struct svc_option list[] = {
	    SVC_OPT_name(SERVICE),
	    SVC_OPT_registry(memory),
	    SVC_OPT_broker(memory),
	    SVC_OPT_address(address),
	    SVC_OPT_log_level("error"),
	    {.kind = SVC_OPTION_TRANSPORT, .text = transport},
	    options->cert != NULL ? (struct svc_option)SVC_OPT_tls(
					options->cert, options->key, NULL)
				  : (struct svc_option)SVC_OPT_,
	    SVC_OPT_end(),
	};
	struct svc_service *service = svc_new_options(list);
	bool last = options->next == NULL;
	const struct svc_option said[] = {
	    SVC_HANDLE_OPT_idempotent(),
	    options->address != NULL && strcmp(options->address, "memory") == 0
		? (struct svc_option)SVC_HANDLE_OPT_never_blocks()
		: (struct svc_option)SVC_OPT_,
	    SVC_OPT_end(),
	};
	if (svc_handle_options(
		service, ECHO, last ? echo : relay, NULL, said) != SVC_OK ||
	    svc_handle_stream(service, TAKE, take, NULL) != SVC_OK ||
	    bench_init(service) != SVC_OK || svc_start(service) != SVC_OK)
		bench_die("%s", svc_error_text(service));
	return service;
}

static int
serve(const struct bench_options *options)
{
	struct svc_service *service =
	    service_start(options, options->address, "tcp");
	if (options->next != NULL)
		bench_announce(
		    service, options->next, NEXT, options->cert != NULL);
	bench_ready(svc_options_of(service)->address, NULL);
	return bench_wait();
}

/* ---------------------------------------------------------------- client */

struct client {
	struct svc_client *client;
	const struct bench_options *options;
	struct bench_load *load;
	struct one *ones; /* one for each slot */
	uint8_t *data, *slow;
};

struct one {
	struct client *client;
	int slot;
	char id[24];                       /* of its node */
	struct svc_option node_or_none[2]; /* a connection each, or the one */
};

static struct svc_message
request(const struct one *one)
{
	const struct client *client = one->client;
	return (struct svc_message){
	    .data = bench_is_slow(client->load, one->slot) ? client->slow
							   : client->data,
	    .len = client->options->size,
	};
}

static void
check(const struct one *one, svc_err code, const struct svc_error *err,
    const struct svc_message *rsp)
{
	if (code != SVC_OK)
		bench_die("%s", err->text);
	if (rsp->len != one->client->options->size)
		bench_die("a reply of %zu bytes", rsp->len);
}

static void
drive_blocking(struct client *client)
{
	const struct one *one = &client->ones[0];
	int slot;
	while ((slot = bench_begin(client->load, bench_now())) >= 0) {
		struct svc_error err = {0};
		struct svc_message rsp, req = request(one);
		svc_err code = svc_call(
		    client->client, SERVICE, ECHO, &req, &rsp, detail(&err));
		check(one, code, &err, &rsp);
		svc_message_free(&rsp);
		bench_end(client->load, slot, bench_now());
	}
}

static void start(void *arg, int slot);

static void
replied(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct one *one = arg;
	struct client *client = one->client;
	int slot = one->slot;
	/* Too much waits to be sent: it is the same call that waits on. */
	if (code != SVC_E_AGAIN) {
		check(one, code, detail, rsp);
		slot = bench_again(client->load, slot);
	}
	if (slot >= 0)
		start(client, slot);
}

static void
start(void *arg, int slot)
{
	struct client *client = arg;
	struct one *one = &client->ones[slot];
	struct svc_message req = request(one);
	svc_err code = svc_call_async_options(client->client, SERVICE, ECHO,
	    &req, replied, one, one->node_or_none);
	if (code != SVC_OK)
		bench_die("svc_call_async: %s", svc_err_text(code));
}

static void
drive_stream(struct client *client)
{
	struct svc_error err = {0};
	struct svc_message rsp, message = {
				    .data = client->data,
				    .len = client->options->size,
				};
	struct svc_stream *stream =
	    svc_open(client->client, SERVICE, TAKE, detail(&err));
	if (stream == NULL)
		bench_die("%s", err.text);
	svc_err code;
	int n = bench_batch(client->options);
	do {
		code = SVC_OK;
		for (int i = 0; i < n && code == SVC_OK; i++)
			code = svc_stream_send(stream, &message);
	} while (code == SVC_OK && bench_sent(client->load, n));
	if (code == SVC_OK)
		code = svc_stream_close_send(stream);
	if (code == SVC_OK)
		code = svc_stream_recv(stream, &rsp);
	if (code != SVC_E_EOF) {
		svc_stream_error(stream, &err);
		bench_die("%s", err.text);
	}
	bench_delivered(client->load);
	svc_stream_free(stream);
}

static int
drive(const struct bench_options *options, struct bench_load *load)
{
	bool here = strncmp(options->address, "memory", 6) == 0;
	int n = options->connections, slots = n * options->outstanding;
	struct svc_service *service =
	    here ? service_start(options, "echo:0", "memory")
		 : bench_caller(options->cert);
	struct client client = {
	    .client = svc_client_of(service),
	    .options = options,
	    .load = load,
	    .ones = bench_alloc((size_t)slots * sizeof(*client.ones)),
	    .data = bench_alloc(options->size),
	    .slow = bench_alloc(options->size),
	};
	client.slow[0] = 1;
	for (int i = 0; i < slots; i++) {
		struct one *one = &client.ones[i];
		one->client = &client;
		one->slot = i;
		snprintf(one->id, sizeof(one->id), "echo-%d", i % n);
		if (n > 1)
			one->node_or_none[0] =
			    (struct svc_option)SVC_CALL_OPT_node(one->id);
		if (i < n && !here)
			bench_announce(service, options->address, one->id,
			    options->cert != NULL);
	}
	if (options->stream)
		drive_stream(&client);
	else if (slots == 1 && options->rate <= 0)
		drive_blocking(&client);
	else
		bench_run(load, start, &client);
	svc_free(service);
	free(client.ones);
	free(client.data);
	free(client.slow);
	return 0;
}

int
main(int argc, char *argv[])
{
	static const struct bench_peer peer = {
	    .name = "svc",
	    .abilities = BENCH_STREAM | BENCH_TLS | BENCH_NEXT | BENCH_SLOW |
			 BENCH_PIPELINE | BENCH_OPEN_LOOP,
	    .serve = serve,
	    .drive = drive,
	};
	return bench_main(argc, argv, &peer);
}
