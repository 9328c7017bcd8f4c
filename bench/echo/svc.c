/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc's contestants: the tcp transport by itself, and svc_call from client to
 * handler through everything.
 */
#include "echo.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <svc/svc.h>
#include <unistd.h>

static const struct svc_transport_ops *
find_tcp(void)
{
	const void *ops;
	struct svc_error err;
	if (svc_catalogue_find(&svc_transport_interface, "tcp", &ops, &err) !=
	    SVC_OK) {
		fprintf(stderr, "bench_echo: %s\n", err.text);
		exit(1);
	}
	return ops;
}

static void *
make_transport(
    const struct svc_transport_ops *ops, struct svc_executor **ret_executor)
{
	/* As the raw peer: one thread a side. */
	struct svc_executor_config one = {.loops = 1};
	struct svc_error err;
	void *self;
	if (svc_executor_create(&one, ret_executor, &err) != SVC_OK)
		return NULL;
	struct svc_transport_config config = {.executor = *ret_executor};
	return ops->create(&config, &self, &err) == SVC_OK ? self : NULL;
}

static void
wait_for_end_of_input(void)
{
	char c;
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
}

/* ------------------------------------------------------ the transport by
 * itself */

static void
echo_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	(void)arg;
	struct svc_part reply = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .data = first->data,
	    .len = first->len,
	};
	stream->ops->send(stream, &reply, NULL);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static int
tcp_serve(int out)
{
	const struct svc_transport_ops *ops = find_tcp();
	struct svc_executor *executor;
	void *listener, *self = make_transport(ops, &executor);
	struct svc_error err;
	if (self == NULL || ops->listen(self, "127.0.0.1:0", echo_accept, NULL,
				&listener, &err) != SVC_OK)
		return 1;
	dprintf(out, "%s\n", strrchr(ops->listener_address(listener), ':') + 1);
	wait_for_end_of_input();
	ops->listener_destroy(listener);
	ops->destroy(self);
	svc_executor_destroy(executor);
	return 0;
}

struct client {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *conn;
	uint8_t *data;
	size_t size;
	/* of the run */
	struct times *times;
	int64_t until;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int open;
};

struct one {
	struct client *client;
	int64_t began;
};

static void one_begin(struct one *one);

static void
one_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct one *one = stream->user;
	struct client *client = one->client;
	if (part->len != client->size) {
		fprintf(
		    stderr, "bench_echo: a reply of %zu bytes\n", part->len);
		exit(1);
	}
	int64_t now = now_ns();
	times_add(client->times, now - one->began);
	client->ops->release(stream, SVC_E_CANCELLED);
	if (now < client->until) {
		one_begin(one);
		return;
	}
	pthread_mutex_lock(&client->mutex);
	client->open--;
	pthread_cond_signal(&client->changed);
	pthread_mutex_unlock(&client->mutex);
}

static void
one_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)stream;
	fprintf(stderr, "bench_echo: %s\n", end->text);
	exit(1);
}

static const struct svc_stream_events one_events = {
    .part = one_part,
    .closed = one_closed,
};

static struct svc_part
request_part(const struct client *client)
{
	return (struct svc_part){
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "echo",
	    .endpoint = "Echo.Echo",
	    .timeout_ms = 5000,
	    .data = client->data,
	    .len = client->size,
	};
}

static void
one_begin(struct one *one)
{
	struct client *client = one->client;
	struct svc_part first = request_part(client);
	struct svc_stream_handle *stream;
	struct svc_error err;
	one->began = now_ns();
	if (client->ops->open(client->conn, &first, 0, &one_events, one,
		&stream, &err) != SVC_OK) {
		fprintf(stderr, "bench_echo: %s\n", err.text);
		exit(1);
	}
}

static void *
tcp_open(int port, size_t size)
{
	struct client *client = calloc(1, sizeof(*client));
	char address[32];
	struct svc_error err;
	snprintf(address, sizeof(address), "127.0.0.1:%d", port);
	client->ops = find_tcp();
	client->self = make_transport(client->ops, &client->executor);
	client->size = size;
	client->data = calloc(1, size);
	pthread_mutex_init(&client->mutex, NULL);
	svc_cond_init(&client->changed);
	if (client->self == NULL || client->ops->dial(client->self, address,
					5000, &client->conn, &err) != SVC_OK)
		return NULL;
	return client;
}

struct blocking {
	struct client *client;
	bool done;
};

static void
blocking_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct blocking *blocking = stream->user;
	blocking->done = part->len == blocking->client->size;
}

static const struct svc_stream_events blocking_events = {
    .part = blocking_part,
    .closed = one_closed,
};

static void
run_blocking(struct client *client)
{
	struct blocking blocking = {.client = client};
	for (int64_t now = now_ns(); now < client->until;) {
		struct svc_part first = request_part(client);
		struct svc_stream_handle *stream;
		struct svc_error err;
		blocking.done = false;
		if (client->ops->open(client->conn, &first, SVC_OPEN_WAIT,
			&blocking_events, &blocking, &stream, &err) != SVC_OK ||
		    client->ops->wait(stream, svc_deadline(5000)) != SVC_OK ||
		    !blocking.done) {
			fprintf(stderr, "bench_echo: a call failed\n");
			exit(1);
		}
		client->ops->release(stream, SVC_E_CANCELLED);
		int64_t end = now_ns();
		times_add(client->times, end - now);
		now = end;
	}
}

static void
tcp_run(void *arg, int outstanding, int ms, struct times *times)
{
	struct client *client = arg;
	client->times = times;
	client->until = now_ns() + (int64_t)ms * 1000000;
	if (outstanding == 1) {
		run_blocking(client);
		return;
	}
	struct one *ones = calloc((size_t)outstanding, sizeof(*ones));
	client->open = outstanding;
	for (int i = 0; i < outstanding; i++) {
		ones[i].client = client;
		one_begin(&ones[i]);
	}
	pthread_mutex_lock(&client->mutex);
	while (client->open > 0)
		pthread_cond_wait(&client->changed, &client->mutex);
	pthread_mutex_unlock(&client->mutex);
	free(ones);
}

static void
tcp_close(void *arg)
{
	struct client *client = arg;
	client->ops->conn_destroy(client->conn);
	client->ops->destroy(client->self);
	svc_executor_destroy(client->executor);
	pthread_cond_destroy(&client->changed);
	pthread_mutex_destroy(&client->mutex);
	free(client->data);
	free(client);
}

const struct contestant svc_tcp = {
    .name = "svc tcp transport",
    .serve = tcp_serve,
    .open = tcp_open,
    .run = tcp_run,
    .close = tcp_close,
};

/* -------------------------------------------------------------------- svc_call
 */

static svc_err
echo_handler(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call;
	(void)arg;
	rsp->data = req->data;
	rsp->len = req->len;
	return SVC_OK;
}

static int
calls_serve(int out)
{
	struct svc_service *s = svc_new(name("echo"), registry(memory),
	    broker(memory), address("127.0.0.1:0"), log_level("error"));
	svc_handle(s, "Echo.Echo", echo_handler, NULL, idempotent());
	if (svc_init(s, 0, NULL) != SVC_OK || svc_start(s) != SVC_OK) {
		fprintf(stderr, "bench_echo: %s\n", svc_error_text(s));
		return 1;
	}
	dprintf(out, "%s\n", strrchr(svc_options_of(s)->address, ':') + 1);
	wait_for_end_of_input();
	svc_free(s);
	return 0;
}

struct caller {
	struct svc_service *service;
	uint8_t *data;
	size_t size;
};

static void *
calls_open(int port, size_t size)
{
	struct caller *caller = calloc(1, sizeof(*caller));
	char address[32];
	caller->service = svc_new(name("caller"), registry(memory),
	    broker(memory), log_level("error"));
	caller->size = size;
	caller->data = calloc(1, size);
	if (svc_init(caller->service, 0, NULL) != SVC_OK) {
		free(caller);
		return NULL;
	}
	/* The server is in another process: make it known here by hand. */
	snprintf(address, sizeof(address), "127.0.0.1:%d", port);
	struct svc_headers *metadata = svc_headers_create();
	svc_headers_set(metadata, "transport", "tcp");
	svc_headers_set(metadata, "svc", "1");
	struct svc_node node = {
	    .id = "echo-1", .address = address, .metadata = metadata};
	struct svc_record record = {
	    .name = "echo", .version = "latest", .nodes = &node, .n_nodes = 1};
	svc_err rc = svc_registry_announce(
	    svc_registry_of(caller->service), &record, 3600000, NULL);
	svc_headers_destroy(metadata);
	if (rc != SVC_OK) {
		free(caller);
		return NULL;
	}
	return caller;
}

static void
calls_run(void *arg, int outstanding, int ms, struct times *times)
{
	struct caller *caller = arg;
	int64_t until = now_ns() + (int64_t)ms * 1000000;
	(void)outstanding; /* a blocking caller has one */
	for (int64_t now = now_ns(); now < until;) {
		struct svc_error err = {0};
		struct svc_message req = {
		    .data = caller->data, .len = caller->size};
		struct svc_message rsp;
		if (svc_call(svc_client_of(caller->service), "echo",
			"Echo.Echo", &req, &rsp, detail(&err)) != SVC_OK ||
		    rsp.len != caller->size) {
			fprintf(stderr, "bench_echo: %s\n", err.text);
			exit(1);
		}
		svc_message_free(&rsp);
		int64_t end = now_ns();
		times_add(times, end - now);
		now = end;
	}
}

static void
calls_close(void *arg)
{
	struct caller *caller = arg;
	svc_free(caller->service);
	free(caller->data);
	free(caller);
}

const struct contestant svc_calls = {
    .name = "svc_call",
    .serve = calls_serve,
    .open = calls_open,
    .run = calls_run,
    .close = calls_close,
};
