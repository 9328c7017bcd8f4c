/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONFORMANCE_TRANSPORT_SIDES_H
#define SVC_CONFORMANCE_TRANSPORT_SIDES_H

/* A server that takes streams and lets the test act for them, and streams that
 * count what came, for the suite of transport.h. One at a time. */

#include "conformance/transport.h"

#include <pthread.h>

#include <svc/clock.h>

#define WAIT_MS 30000

struct side;
extern struct sides {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *listener;
	struct side *accepted; /* streams to "take", newest first */
	const struct svc_stream_events *events;
	uint64_t came; /* messages, of all sides */
} sides;

/* One side of a stream. */
struct side {
	struct svc_stream_handle *stream;
	struct side *next;
	uint32_t count; /* messages that came */
	uint64_t bytes;
	size_t largest;
	size_t uncredited;
	bool room, ended, closed, not_run, silent;
	svc_err code;
	char text[256], trailer[64];
};
/* Streams whose holder keeps messages, one or many at a time, or reads them. */
extern const struct svc_stream_events side_keeps, side_keeps_many, side_reads;
/* How it stands now. */
struct side side_look(const struct side *side);
/* A stream to "take" is put into sides.accepted, with `events` as its own; any
 * other endpoint answers with what it was sent. */
svc_err side_open(void *conn, const char *endpoint, unsigned flags,
    const void *data, size_t len, const struct svc_stream_events *events,
    struct side *side);

/* Listens as the suite's setup says; limits NULL: the default. */
void sides_start(const struct svc_conformance_transport *setup,
    const struct svc_transport_limits *limits,
    const struct svc_stream_events *events);
/* Ends it with the streams that were accepted and this connection, unless it
 * is NULL. */
void sides_stop(void *conn);
void *sides_dial(const char *address);

/* Waits until it is so. */
#define AWAIT(condition)                                                \
	do {                                                            \
		int64_t deadline = svc_deadline(WAIT_MS);               \
		pthread_mutex_lock(&sides.mutex);                       \
		while (!(condition))                                    \
			if (svc_cond_wait(&sides.changed, &sides.mutex, \
				deadline) != SVC_OK)                    \
				fail_msg("in vain: %s", #condition);    \
		pthread_mutex_unlock(&sides.mutex);                     \
	} while (0)

#endif
