/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc's tcp transport by itself: frames, streams, deadlines and limits, without
 * choice of node, headers, handlers and retries. What svc has above it costs
 * the difference to the peer svc.
 */
#include "common/bench.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <svc/svc.h>
#include <time.h>

struct side {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *transport;
};

static void
side_create(struct side *side)
{
	/* As the raw peer: one thread a side. */
	struct svc_executor_config one = {.loops = 1};
	struct svc_error err;
	const void *ops;
	if (svc_catalogue_find(&svc_transport_interface, "tcp", &ops, &err) !=
		SVC_OK ||
	    svc_executor_create(&one, &side->executor, &err) != SVC_OK)
		bench_die("%s", err.text);
	struct svc_transport_config config = {.executor = side->executor};
	side->ops = ops;
	if (side->ops->create(&config, &side->transport, &err) != SVC_OK)
		bench_die("%s", err.text);
}

static void
side_destroy(struct side *side)
{
	side->ops->destroy(side->transport);
	svc_executor_destroy(side->executor);
}

/* ---------------------------------------------------------------- server */

static void
reply(struct svc_stream_handle *stream, const struct svc_part *request)
{
	struct svc_part part = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .data = request->data,
	    .len = request->len,
	};
	if (stream->ops->answer(stream, &part, NULL) != SVC_OK)
		stream->ops->release(stream, SVC_E_CANCELLED);
}

static void
streamed_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	if (part->flags & SVC_PART_END)
		reply(stream, &(struct svc_part){0});
}

static void
streamed_closed(
    struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	stream->ops->release(stream, end->code);
}

static const struct svc_stream_events streamed_events = {
    .part = streamed_part,
    .closed = streamed_closed,
};

static void
accept_call(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	const struct timespec sleep = {.tv_nsec = BENCH_SLOW_MS * 1000000L};
	(void)arg;
	if ((first->flags & SVC_PART_END) == 0) {
		stream->events = &streamed_events;
		return;
	}
	if (*(const uint8_t *)first->data != 0)
		nanosleep(&sleep, NULL);
	reply(stream, first);
}

static int
serve(const struct bench_options *options)
{
	struct side side;
	struct svc_error err;
	void *listener;
	side_create(&side);
	if (side.ops->listen(side.transport, options->address, accept_call,
		NULL, &listener, &err) != SVC_OK)
		bench_die("%s", err.text);
	bench_ready(side.ops->listener_address(listener), NULL);
	return bench_wait();
}

/* ---------------------------------------------------------------- client */

struct client {
	struct side side;
	const struct bench_options *options;
	struct bench_load *load;
	void **conns;
	struct one *ones;
	uint8_t *data, *slow;
};

struct one {
	struct client *client;
	int slot;
	bool done; /* of a caller that waits */
};

static void
closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)stream;
	bench_die("%s", end->text);
}

static struct svc_stream_handle *
open_stream(struct client *client, int slot, unsigned without, unsigned flags,
    const struct svc_stream_events *events, void *user)
{
	struct svc_part first = {
	    .flags =
		(SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END) & ~without,
	    .service = "echo",
	    .endpoint = "Echo.Echo",
	    .timeout_ms = 5000,
	    .data =
		bench_is_slow(client->load, slot) ? client->slow : client->data,
	    .len = client->options->size,
	};
	struct svc_stream_handle *stream;
	struct svc_error err;
	if (client->side.ops->open(
		client->conns[slot % client->options->connections], &first,
		flags, events, user, &stream, &err) != SVC_OK)
		bench_die("%s", err.text);
	return stream;
}

static void start(void *arg, int slot);

static void
replied(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct one *one = stream->user;
	struct client *client = one->client;
	if (part->len != client->options->size)
		bench_die("a reply of %zu bytes", part->len);
	stream->ops->release(stream, SVC_E_CANCELLED);
	int slot = bench_again(client->load, one->slot);
	if (slot >= 0)
		start(client, slot);
}

static void
start(void *arg, int slot)
{
	static const struct svc_stream_events events = {
	    .part = replied,
	    .closed = closed,
	};
	struct client *client = arg;
	open_stream(client, slot, 0, 0, &events, &client->ones[slot]);
}

static void
waited_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct one *one = stream->user;
	one->done = part->len == one->client->options->size;
}

static void
drive_blocking(struct client *client)
{
	static const struct svc_stream_events events = {
	    .part = waited_part,
	    .closed = closed,
	};
	struct one *one = &client->ones[0];
	int slot;
	while ((slot = bench_begin(client->load, bench_now())) >= 0) {
		one->done = false;
		struct svc_stream_handle *stream =
		    open_stream(client, slot, 0, SVC_OPEN_WAIT, &events, one);
		if (stream->ops->wait(stream, svc_deadline(5000)) != SVC_OK ||
		    !one->done)
			bench_die("a call failed");
		stream->ops->release(stream, SVC_E_CANCELLED);
		bench_end(client->load, slot, bench_now());
	}
}

/* Of the stream that is sent. */
struct flow {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool room, done;
};

static void
flow_set(struct flow *flow, bool *what)
{
	pthread_mutex_lock(&flow->lock);
	*what = true;
	pthread_cond_signal(&flow->changed);
	pthread_mutex_unlock(&flow->lock);
}

static void
flow_wait(struct flow *flow, bool *what)
{
	pthread_mutex_lock(&flow->lock);
	while (!*what)
		pthread_cond_wait(&flow->changed, &flow->lock);
	*what = false;
	pthread_mutex_unlock(&flow->lock);
}

static void
flow_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct flow *flow = stream->user;
	if (part->flags & SVC_PART_END)
		flow_set(flow, &flow->done);
}

static void
flow_writable(struct svc_stream_handle *stream)
{
	struct flow *flow = stream->user;
	flow_set(flow, &flow->room);
}

static void
drive_stream(struct client *client)
{
	static const struct svc_stream_events events = {
	    .part = flow_part,
	    .closed = closed,
	    .writable = flow_writable,
	};
	struct flow flow = {
	    .lock = PTHREAD_MUTEX_INITIALIZER,
	    .changed = PTHREAD_COND_INITIALIZER,
	};
	struct svc_part part = {
	    .flags = SVC_PART_MESSAGE,
	    .data = client->data,
	    .len = client->options->size,
	};
	struct svc_error err;
	svc_err code;
	bool more = true;
	int n = 0, batch = bench_batch(client->options);
	struct svc_stream_handle *stream =
	    open_stream(client, 0, SVC_PART_END, 0, &events, &flow);
	while (part.flags != 0) {
		code = stream->ops->send(stream, &part, &err);
		if (code == SVC_E_AGAIN) {
			flow_wait(&flow, &flow.room);
			continue;
		}
		if (code != SVC_OK)
			bench_die("%s", err.text);
		if (part.flags & SVC_PART_END)
			break;
		if (++n < batch)
			continue;
		more = bench_sent(client->load, n);
		n = 0;
		if (!more)
			part.flags = SVC_PART_END;
	}
	flow_wait(&flow, &flow.done);
	bench_delivered(client->load);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static int
drive(const struct bench_options *options, struct bench_load *load)
{
	int n = options->connections, slots = n * options->outstanding;
	struct client client = {
	    .options = options,
	    .load = load,
	    .conns = bench_alloc((size_t)n * sizeof(void *)),
	    .ones = bench_alloc((size_t)slots * sizeof(struct one)),
	    .data = bench_alloc(options->size),
	    .slow = bench_alloc(options->size),
	};
	struct svc_error err;
	client.slow[0] = 1;
	side_create(&client.side);
	for (int i = 0; i < n; i++) {
		if (client.side.ops->dial(client.side.transport,
			options->address, 5000, &client.conns[i],
			&err) != SVC_OK)
			bench_die("%s", err.text);
	}
	for (int i = 0; i < slots; i++)
		client.ones[i] = (struct one){.client = &client, .slot = i};
	if (options->stream)
		drive_stream(&client);
	else if (slots == 1 && options->rate <= 0)
		drive_blocking(&client);
	else
		bench_run(load, start, &client);
	for (int i = 0; i < n; i++)
		client.side.ops->conn_destroy(client.conns[i]);
	side_destroy(&client.side);
	free(client.conns);
	free(client.ones);
	free(client.data);
	free(client.slow);
	return 0;
}

int
main(int argc, char *argv[])
{
	static const struct bench_peer peer = {
	    .name = "tcp",
	    .abilities =
		BENCH_STREAM | BENCH_SLOW | BENCH_PIPELINE | BENCH_OPEN_LOOP,
	    .serve = serve,
	    .drive = drive,
	};
	return bench_main(argc, argv, &peer);
}
