/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_MUX_PRIVATE_H
#define SVC_MUX_PRIVATE_H

/*
 * Between mux.c (a connection and what is done to its streams from outside),
 * mux_stream.c (the table of streams and their callbacks) and mux_input.c (what
 * the peer sends).
 *
 * mux->mutex guards the table of streams, their state and the output; no
 * callback runs under it. What belongs to the reader (greeted, skip, need) is
 * used only by the thread that reads the connection at the time.
 *
 * Callbacks of a stream run one at a time: `runner` is the thread in one. What
 * comes for the stream meanwhile (its handler was taken over and still runs)
 * is queued in the stream and delivered by that thread.
 */
#include "frame.h"

#include <stdatomic.h>
#include <svc/mux.h>

#define SHARE 64 /* frames of one connection, then its loop looks at others */
#define BACKLOG (1u << 20) /* more than this waiting: senders get AGAIN */

struct queued_part {
	struct queued_part *next;
	struct frame frame;
	uint8_t payload[];
};

struct svc_mux_stream {
	struct svc_stream_handle handle;
	struct svc_mux *mux;
	struct svc_mux_stream *next; /* in the bucket */
	_Atomic(uintptr_t) runner;   /* the thread in a callback; 0: none */
	_Atomic bool cancelled;
	uint32_t id;
	bool waits;
	bool listed;   /* in the table */
	bool accepted; /* the server's accept has run */
	bool released; /* by its holder, inside a callback */
	bool got_end, sent_end;
	bool close_due; /* `closed` is to be called */
	bool done;      /* the end was delivered */
	bool want_writable;
	svc_err release_code;
	struct svc_stream_end end;
	char end_text[120];
	uint64_t queued_to; /* mux->queued behind its last part */
	struct queued_part *parts, **last_part;
	size_t kept;         /* bytes in parts */
	pthread_cond_t cond; /* only with `waits` */
};

/* The connection whose frames this thread handles on its loop: what it sends
 * there goes out in one write at the end. */
extern _Thread_local struct svc_mux *mux_batch;

static inline uintptr_t
mux_self(void)
{
	return (uintptr_t)pthread_self();
}

static inline struct svc_mux_stream *
stream_of(struct svc_stream_handle *handle)
{
	return (struct svc_mux_stream *)(void *)handle;
}

/* Unless said otherwise these want the mutex held. */

struct svc_mux_stream *mux_find(struct svc_mux *mux, uint32_t id);
svc_err mux_list(struct svc_mux *mux, struct svc_mux_stream *stream);
/* Nothing happens when it is not in the table. */
void mux_unlist(struct svc_mux *mux, struct svc_mux_stream *stream);
/* Without the mutex. NULL when memory ran out. */
struct svc_mux_stream *mux_stream_create(
    struct svc_mux *mux, uint32_t id, bool waits);
/* Without the mutex; the stream is in no table. */
void mux_stream_destroy(struct svc_mux_stream *stream);

/* Control frames are small: that one cannot be queued is only possible without
 * memory, and then the stream is lost anyway. */
void mux_queue_frame(struct svc_mux *mux, uint8_t type, uint8_t flags,
    uint32_t stream, uint32_t value, const void *body, size_t len);
void mux_queue_reset(struct svc_mux *mux, uint32_t stream, svc_err code,
    bool not_run, const char *text);
/* Unlocks, then sends what waits unless this thread is in a batch. */
void mux_unlock_and_flush(struct svc_mux *mux);

/* The stream ended early. True when the caller, who became its runner, is to
 * deliver that after unlocking; otherwise whoever runs a callback will. */
bool mux_end_stream(struct svc_mux_stream *stream, svc_err code, bool not_run,
    const char *text, size_t len);
/* Without the mutex, by the stream's runner: run a callback, between enter and
 * leave if this thread runs the connection's loop, and let go of the stream. */
svc_mux_result mux_deliver_part(
    struct svc_mux_stream *stream, const struct svc_part *part);
svc_mux_result mux_deliver_closed(struct svc_mux_stream *stream);
/* Without the mutex, by the runner, after a callback: deliver what was queued
 * meanwhile, then let go of the stream. */
void mux_callback_done(struct svc_mux_stream *stream);
/* True when streams are to be told that there is room: then the caller posts
 * mux->writable_task after unlocking. */
bool mux_writable_due(struct svc_mux *mux);
/* A task: tells streams that there is room to send again. */
void mux_writable_run(struct svc_task *task);

#endif
