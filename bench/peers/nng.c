/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nng's request and reply protocol over TCP: a context for each call in the
 * air on both sides, asynchronous; one call at a time is sent and received by
 * blocking calls.
 */
#include "common/bench.h"

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVER_CONTEXTS 128

static void
check(int rc, const char *what)
{
	if (rc != 0)
		bench_die("%s: %s", what, nng_strerror(rc));
}

/* One context: a call of the client, or a handler of the server. */
struct context {
	nng_ctx ctx;
	nng_aio *aio;
	const struct bench_options *options;
	struct bench_load *load;
	int slot;
	enum { SENDING, RECEIVING, SLEEPING } state;
	nng_msg *slept; /* to be sent after the sleep */
};

/* ---------------------------------------------------------------- server */

static void
answer(struct context *c, nng_msg *message)
{
	nng_aio_set_msg(c->aio, message);
	c->state = SENDING;
	nng_ctx_send(c->ctx, c->aio);
}

static void
server_event(void *arg)
{
	struct context *c = arg;
	check(nng_aio_result(c->aio), "serving");
	if (c->state == SLEEPING) {
		answer(c, c->slept);
	} else if (c->state == RECEIVING) {
		nng_msg *message = nng_aio_get_msg(c->aio);
		if (*(const uint8_t *)nng_msg_body(message) == 0) {
			answer(c, message);
			return;
		}
		c->slept = message;
		c->state = SLEEPING;
		nng_sleep_aio(BENCH_SLOW_MS, c->aio);
	} else {
		c->state = RECEIVING;
		nng_ctx_recv(c->ctx, c->aio);
	}
}

static int
serve(const struct bench_options *options)
{
	nng_socket socket;
	nng_listener listener;
	nng_sockaddr bound;
	char url[96], address[64];
	snprintf(url, sizeof(url), "tcp://%s", options->address);
	check(nng_rep0_open(&socket), "rep");
	nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, 0);
	for (int i = 0; i < SERVER_CONTEXTS; i++) {
		struct context *c = bench_alloc(sizeof(*c));
		check(nng_ctx_open(&c->ctx, socket), "context");
		check(nng_aio_alloc(&c->aio, server_event, c), "aio");
		c->state = RECEIVING;
		nng_ctx_recv(c->ctx, c->aio);
	}
	check(nng_listener_create(&listener, socket, url), url);
	check(nng_listener_start(listener, 0), url);
	check(nng_listener_get_addr(listener, NNG_OPT_LOCADDR, &bound),
	    "address");
	const uint8_t *ip = (const uint8_t *)&bound.s_in.sa_addr;
	const uint8_t *port = (const uint8_t *)&bound.s_in.sa_port;
	snprintf(address, sizeof(address), "%d.%d.%d.%d:%d", ip[0], ip[1],
	    ip[2], ip[3], port[0] * 256 + port[1]);
	bench_ready(address, NULL);
	return bench_wait();
}

/* ---------------------------------------------------------------- client */

static nng_msg *
request(const struct bench_options *options, bool slow)
{
	nng_msg *message;
	check(nng_msg_alloc(&message, options->size), "message");
	memset(nng_msg_body(message), 0, options->size);
	*(uint8_t *)nng_msg_body(message) = slow;
	return message;
}

static void
start(void *arg, int slot)
{
	struct context *c = (struct context *)arg + slot;
	c->slot = slot;
	c->state = SENDING;
	nng_aio_set_msg(
	    c->aio, request(c->options, bench_is_slow(c->load, slot)));
	nng_ctx_send(c->ctx, c->aio);
}

static void
client_event(void *arg)
{
	struct context *c = arg;
	check(nng_aio_result(c->aio), "calling");
	if (c->state == SENDING) {
		c->state = RECEIVING;
		nng_ctx_recv(c->ctx, c->aio);
		return;
	}
	nng_msg_free(nng_aio_get_msg(c->aio));
	int slot = bench_again(c->load, c->slot);
	if (slot >= 0)
		start(c - c->slot, slot);
}

static void
drive_blocking(const struct bench_options *options, struct bench_load *load,
    nng_socket socket)
{
	int slot;
	while ((slot = bench_begin(load, bench_now())) >= 0) {
		nng_msg *message = request(options, bench_is_slow(load, slot));
		check(nng_sendmsg(socket, message, 0), "sending");
		check(nng_recvmsg(socket, &message, 0), "receiving");
		nng_msg_free(message);
		bench_end(load, slot, bench_now());
	}
}

static int
drive(const struct bench_options *options, struct bench_load *load)
{
	int n = options->connections, slots = n * options->outstanding;
	nng_socket *sockets = bench_alloc((size_t)n * sizeof(*sockets));
	struct context *contexts =
	    bench_alloc((size_t)slots * sizeof(*contexts));
	char url[96];
	snprintf(url, sizeof(url), "tcp://%s", options->address);
	for (int i = 0; i < n; i++) {
		check(nng_req0_open(&sockets[i]), "req");
		nng_socket_set_size(sockets[i], NNG_OPT_RECVMAXSZ, 0);
		check(nng_dial(sockets[i], url, NULL, 0), url);
	}
	if (slots == 1 && options->rate <= 0) {
		drive_blocking(options, load, sockets[0]);
	} else {
		for (int i = 0; i < slots; i++) {
			struct context *c = &contexts[i];
			c->options = options;
			c->load = load;
			check(nng_ctx_open(&c->ctx, sockets[i % n]), "context");
			check(nng_aio_alloc(&c->aio, client_event, c), "aio");
		}
		bench_run(load, start, contexts);
		for (int i = 0; i < slots; i++) {
			nng_aio_free(contexts[i].aio);
			nng_ctx_close(contexts[i].ctx);
		}
	}
	for (int i = 0; i < n; i++)
		nng_close(sockets[i]);
	free(contexts);
	free(sockets);
	return 0;
}

int
main(int argc, char *argv[])
{
	static const struct bench_peer peer = {
	    .name = "nng",
	    .abilities = BENCH_SLOW | BENCH_PIPELINE | BENCH_OPEN_LOOP,
	    .serve = serve,
	    .drive = drive,
	};
	return bench_main(argc, argv, &peer);
}
