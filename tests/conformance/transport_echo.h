/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONFORMANCE_TRANSPORT_ECHO_H
#define SVC_CONFORMANCE_TRANSPORT_ECHO_H

/* A server that answers, and calls of it, for the suite of transport.h. */

#include "conformance/transport.h"

#include <pthread.h>
#include <stdatomic.h>

#include <svc/buf.h>
#include <svc/clock.h>

/* A test waits for other threads at most this long. */
#define WAIT_MS 20000

struct gate { /* a handler that waits until the test lets it go */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int waiting;
	bool open;
	bool saw_cancel;
};

struct server {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self;
	void *listener;
	struct gate gate;
	_Atomic int held; /* streams whose `closed` has not come */
};

/* Listens as the suite's setup says. Endpoints: "echo" answers with what it was
 * sent, "fail" with SVC_E_NOT_FOUND, "block" waits in its handler for
 * gate_open, "hold" keeps the stream until it is closed; all others echo a
 * stream message by message. max_message 0: the default. */
void server_start(struct server *server,
    const struct svc_conformance_transport *setup, int64_t max_message);
void server_stop(struct server *server);
void server_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg);
/* Until so many handlers wait at the gate; and letting all go. */
void gate_await(struct server *server, int waiting);
void gate_open(struct server *server);

/* A connection to the server, by its own transport. */
void *server_dial(struct server *server);

/* What came back on a stream. */
struct reply {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool done, closed, not_run;
	svc_err code;
	char text[256];
	char header[64];
	char content_type[64];
	struct svc_buf body;
};

void reply_init(struct reply *reply);
void reply_fini(struct reply *reply);
/* The end has come: once, and by a callback. */
void reply_done(struct reply *reply);
void reply_await(struct reply *reply);
/* Of a stream whose user is a reply. */
extern const struct svc_stream_events reply_events;

/* The only part of a call. */
struct svc_part request_to(const char *endpoint, const void *data, size_t len);
/* One blocking call; the code is that of open, the end or the answer. */
svc_err call_and_wait(const struct svc_transport_ops *ops, void *conn,
    const char *endpoint, const void *data, size_t len, struct reply *reply);

#endif
