/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STREAM_PRIVATE_H
#define SVC_STREAM_PRIVATE_H

/*
 * Between stream_queue.c (what has arrived), stream.c (what both sides share),
 * stream_meta.c (headers and trailers), stream_client.c (opening, and moving to
 * another node) and stream_server.c (from an accepted stream to its handler and
 * back).
 */

#include "service.h"

/* ------------------------------------------------------------------- queue */

struct svc_chunk;
/*
 * Messages that wait to be received, packed into chunks, so that they cost no
 * allocation each. Who pushes and who takes hold the stream's lock; the chunks
 * in `reading` belong to the receiver alone. Zeroed memory is an empty queue.
 */
struct svc_stream_queue {
	struct svc_chunk *first, *last; /* pushed, not taken */
	struct svc_chunk *spare;        /* empty ones */
	unsigned n_spare;
	size_t held;                /* memory of messages not yet given back */
	struct svc_chunk *reading;  /* taken; its first is being read */
	struct svc_chunk *finished; /* read to the end */
	size_t at;                  /* in the first of `reading` */
};
/* Memory a message takes in a queue. */
size_t svc_stream_queue_cost(size_t len);
/* False when memory ran out. With the lock. */
bool svc_stream_queue_push(
    struct svc_stream_queue *queue, const void *data, size_t len);
/* Gives back what the receiver has read and hands it the next few messages;
 * false when there are none. With the lock. */
bool svc_stream_queue_take(struct svc_stream_queue *queue);
/* The next message of those taken; false when there is none. Of the receiver,
 * without the lock; the message is valid until the next call. */
bool svc_stream_queue_next(
    struct svc_stream_queue *queue, const void **ret_data, size_t *ret_len);
/* Whether it keeps more storage than one that waits should, and giving that
 * back. By the receiver, with the lock. */
bool svc_stream_queue_is_fat(const struct svc_stream_queue *queue);
void svc_stream_queue_slim(struct svc_stream_queue *queue);
/* Drops what was not taken. With the lock. */
void svc_stream_queue_drop(struct svc_stream_queue *queue);
void svc_stream_queue_fini(struct svc_stream_queue *queue);

/* ------------------------------------------------------------------ stream */

struct svc_stream {
	pthread_mutex_t lock; /* see stream.c */
	pthread_cond_t readable, writable;
	pthread_cond_t calm; /* nobody is busy; see svc_stream_await_calm */
	bool calm_awaited;
	bool reader_waits;
	int writers_waiting; /* one sends, another may move the stream */
	bool server;
	struct svc_service *service;
	int64_t deadline_at_ms;
	int64_t max_message;

	/* NULL for a client between two attempts, and once given back. Who
	 * uses it without the lock counts itself in `busy`, or, who only sends
	 * one more message, in `gate`. */
	struct svc_stream_handle *handle;
	int busy;
	_Atomic unsigned gate; /* see stream.c */
	bool release_due;      /* once nobody is busy, with this code: */
	svc_err release_code;
	bool lost;   /* a client's: this attempt failed, another may follow */
	bool moving; /* a client's: a thread makes the next attempt */

	bool room; /* `writable` was called */
	bool sent_headers;
	bool heading;     /* a part with headers is being sent */
	bool end_due;     /* behind it: a handler's end, which is `end` */
	bool sent_end;    /* the user's sending side is closed */
	bool sent_status; /* a handler's end was sent */
	bool heard;       /* the peer has sent something */
	bool in_done;     /* no message comes any more */
	bool ended;       /* as a whole, by `end`; implies in_done */
	struct svc_error end;
	struct svc_error last; /* of what failed last */
	_Atomic bool cut;      /* ended, and what has arrived is dropped */
	bool first_was_given;  /* of the receiver */
	/* Of the receiver: bytes and messages that no credit was given for. */
	size_t consumed, n_consumed;
	struct svc_stream_queue queue;

	char *type;       /* of the peer, by svc_reply_alloc */
	char *sent_type;  /* of ours; a handler's is set by its first message */
	bool type_given;  /* by content_type(), or by a handler's message */
	bool mislabelled; /* that a message has another was said */
	struct svc_headers *headers, *trailers;         /* the peer's */
	struct svc_headers *own_headers, *own_trailers; /* to be sent */

	struct svc_call *call; /* of a handler, until it returns */
};

/* What waits to be received may take so much more than one message. */
#define SVC_STREAM_HELD ((size_t)8 << 20)

svc_err svc_stream_init(struct svc_stream *stream, struct svc_service *service,
    bool server, int64_t deadline_at_ms);
/* The handle has been given back. */
void svc_stream_fini(struct svc_stream *stream);

/* With the lock; the first end counts. `code` SVC_OK: well. */
void svc_stream_end(
    struct svc_stream *stream, svc_err code, const char *text, bool cut);
/* The same of a handler's stream, under its hands: what it has begun within is
 * to be cancelled, once the lock is let go. */
void svc_stream_cut(struct svc_stream *stream, svc_err code, const char *text,
    struct svc_scope **held);
void svc_stream_wake(struct svc_stream *stream);
/* What the user did was not done, for this reason. With the lock; returns
 * `code`. */
svc_err SVC_PRINTF(3, 4) svc_stream_fail(
    struct svc_stream *stream, svc_err code, const char *format, ...);
/* What came in; from the events, with the lock. What fails for want of memory
 * ends the stream. */
void svc_stream_take_headers(
    struct svc_stream *stream, const struct svc_part *part);
void svc_stream_take_messages(
    struct svc_stream *stream, const struct svc_span *messages, size_t n);
void svc_stream_take_trailers(
    struct svc_stream *stream, const struct svc_part *part);
/* The `writable` event of both sides. */
void svc_stream_writable(struct svc_stream_handle *handle);
/* With the lock: sends take the long way again, and whoever is in an op. */
void svc_stream_close_gate(struct svc_stream *stream);
/* With the lock, which is let go meanwhile: until nobody is in an op. */
void svc_stream_await_calm(struct svc_stream *stream);
/* With the lock, which is let go meanwhile: give the handle back now or when
 * the last thread in an op leaves it. */
void svc_stream_release(struct svc_stream *stream, svc_err code);
/* Sends a part and leaves the stream unlocked meanwhile; for a handle that
 * nobody gives back at the same time. With the lock. */
svc_err svc_stream_put(struct svc_stream *stream, const struct svc_part *part,
    struct svc_error *err);
/* What has come was dropped: the peer may send as much again, on other streams.
 * With the lock, as above. */
void svc_stream_credit_all(struct svc_stream *stream);
/* Sends the end of a handler's side, once; with the lock, as above. */
void svc_stream_put_end(
    struct svc_stream *stream, svc_err code, const char *text);

/* stream_client.c; each with the lock, which is let go meanwhile. */

/* Another attempt for a stream that is `lost`, or its end. */
void svc_stream_move(struct svc_stream *stream);
/* A message was sent: keep it for another attempt. */
void svc_stream_remember(
    struct svc_stream *stream, const void *data, size_t len);
/* It will not be sent again to another node: nothing need be remembered. */
bool svc_stream_is_forgotten(struct svc_stream *stream);
void svc_stream_client_free(struct svc_stream *stream);

#endif
