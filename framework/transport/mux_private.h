/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_MUX_PRIVATE_H
#define SVC_MUX_PRIVATE_H

/*
 * Between mux.c (a connection and what is done to its streams from outside),
 * mux_stream.c (the table of streams and their callbacks), mux_send.c (messages
 * in pieces, and the credit that the peer gives), mux_burst.c (when messages
 * are written), mux_open.c (streams that are opened here), mux_input.c (what
 * the peer sends), mux_reply.c (the replies among it), mux_receive.c (messages
 * that come in pieces, and the credit that we give) and mux_timer.c (the
 * hello's time, keepalive, idle time, lingering).
 *
 * mux->lock guards the table of streams, their state and the output; no
 * callback runs under it. What belongs to the reader (greeted, skip, need) is
 * used only by the thread that reads the connection at the time.
 *
 * A request that comes whole is mostly answered before its callback returns.
 * Until then, or until anybody else wants to know of it, its stream is in no
 * table: mux->current is all there is, and what the loop's thread does for it
 * takes the lock once. Whoever takes the loop over, or uses the stream
 * otherwise, lists it first (mux_adopt).
 *
 * Callbacks of a stream run one at a time: `runner` is the thread in one. What
 * comes for the stream meanwhile (its handler was taken over and still runs)
 * is queued in the stream and delivered by that thread.
 */
#include "frame.h"

#include <stdatomic.h>
#include <svc/mux.h>

#define SHARE 64 /* frames of one connection, then its loop looks at others */
#define HALF (SHARE / 2)
#define BACKLOG (1u << 20) /* more than this waiting: senders get AGAIN */
#define ENOUGH (1u << 17)  /* pieces are added up to here */
#define FIRST_WINDOW (512u << 10) /* of a stream, if stream_window is more */
/* Answers to the peer's control frames that it does not read: beyond this it
 * loses its connection. */
#define MAX_CONTROL (4u << 20)

/* A part that came: in one frame while a callback ran, or in pieces. */
struct queued_part {
	struct queued_part *next;
	struct frame first; /* its length is that of the whole head and body */
	struct frame last;  /* of the last piece if that had END, else zero */
	size_t cost;        /* in credit */
	size_t len, cap;    /* of what follows: head, body, head of the last */
	uint8_t payload[];
};

/* A part that goes in pieces, or waits for credit. */
struct pending_part {
	struct pending_part *next;
	unsigned flags;
	uint32_t first_value, last_value;
	uint16_t first_head, last_head;
	bool whole; /* in one frame */
	bool begun;
	size_t len, sent; /* of the message */
	uint8_t bytes[];  /* the heads, then the message */
};

struct svc_mux_stream {
	struct svc_stream_handle handle;
	struct svc_mux *mux;
	struct svc_mux_stream *next; /* in the bucket, or where it is kept */
	/* Zeroed when it is used: from here */
	/* The thread in a callback; 0: none. Set with the lock; a thread may
	 * ask without it whether it is the one. */
	_Atomic(uintptr_t) runner;
	_Atomic bool cancelled;
	bool sleeps;      /* `cond` is there: its waiter may sleep on it */
	bool interrupted; /* a wait is to end */
	bool listed;      /* in the table */
	bool accepted;    /* the server's accept runs or has run */
	bool released;    /* by its holder, inside a callback; or it has none */
	bool lingering;   /* released, but its answer is not sent yet */
	bool got_headers;
	bool recv_end;   /* the peer's END has come */
	bool got_end;    /* and was delivered */
	bool sent_end;   /* our END was given */
	bool unopened;   /* nothing of it was sent */
	bool close_due;  /* `closed` is to be called */
	bool got_closed; /* and has returned; only its runner writes it */
	bool done;       /* the end was delivered */
	bool left;       /* the loop, by svc_mux_answer */
	bool answered;   /* by it, while only the loop's thread knew of it */
	bool want_writable;
	bool failed; /* our END says so and waits; see mux_keep_failure */
	bool exempt; /* its first pending part, from the connection's credit */
	svc_err release_code;
	struct svc_task *cancel_task; /* of its holder, once it is cancelled */
	uint64_t queued_to;           /* mux->queued behind its first part */
	size_t unconsumed, loan;
	uint32_t freed;
	uint32_t held_messages; /* of a holder that holds */
	size_t held;            /* and their bytes */
	uint32_t moved; /* mux->ticks at the last piece: of what comes, or of
			 * what goes when it is lingering */
	uint32_t grown; /* what its window has grown by */
	int64_t fitted_at_us; /* when that was looked at; 0: never */
	/* Messages sent in a row, and when that was looked at; see mux_burst.c.
	 */
	uint32_t ahead;
	_Atomic int64_t looked_at_us;
	/* to here; what follows is set, or NULL when it is forgotten. */
	uint32_t id;
	uintptr_t waiter;       /* the thread that waits for its end; 0: none */
	int64_t credit, window; /* of the peer's, and of ours that it has */
	size_t cost;            /* of the request, while it is mux->current */
	struct pending_part *pending, **last_pending; /* to the peer */
	struct queued_part *parts, **last_part;       /* from the peer */
	struct queued_part *assembly;
	struct svc_mux_node send_node; /* in sending or starved */
	struct svc_mux_node due_node;
	struct svc_mux_node assembly_node;
	pthread_cond_t cond; /* only with `sleeps` */
	struct svc_stream_end end;
	char end_text[sizeof(((struct svc_error *)0)->text)];
};
#define MUX_ZEROED_FROM offsetof(struct svc_mux_stream, runner)
#define MUX_ZEROED_TO offsetof(struct svc_mux_stream, id)

/* The connection whose frames this thread handles on its loop: what it sends
 * there goes out in one write at the end. */
extern SVC_THREAD_LOCAL struct svc_mux *mux_batch;

/* The calling thread: the address of what each has for itself. */
static inline uintptr_t
mux_self(void)
{
	return (uintptr_t)&mux_batch;
}

static inline struct svc_mux_stream *
stream_of(struct svc_stream_handle *handle)
{
	return (struct svc_mux_stream *)(void *)handle;
}

/* Unless said otherwise these want the lock held. */

static inline uintptr_t
mux_runner(const struct svc_mux_stream *stream)
{
	return atomic_load_explicit(&stream->runner, memory_order_relaxed);
}

static inline void
mux_set_runner(struct svc_mux_stream *stream, uintptr_t runner)
{
	atomic_store_explicit(&stream->runner, runner, memory_order_relaxed);
}

/* Fields that are also looked at without the lock. */
#define MUX_SET(field, value) \
	__atomic_store_n(&(field), (value), __ATOMIC_RELAXED)
#define MUX_GET(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

/* Becomes the runner unless there is one. */
static inline bool
mux_try_run(struct svc_mux_stream *stream)
{
	if (mux_runner(stream) != 0)
		return false;
	mux_set_runner(stream, mux_self());
	return true;
}

/* What svc_mux_input was given. */
struct mux_input {
	const uint8_t *data;
	size_t len;
	size_t begin;
	size_t *offset; /* behind the frame at hand */
};

/* Whether this thread runs the connection's loop; within svc_mux_input. */
static inline bool
mux_on_loop(const struct svc_mux *mux)
{
	return mux_batch == mux && mux->config.loop != NULL;
}

/* For the timer, which only compares it. */
static inline void
mux_count(uint32_t *number)
{
	__atomic_store_n(number, *number + 1, __ATOMIC_RELAXED);
}

/* --------------------------------------------------------------- mux_stream.c
 */
struct svc_mux_stream *mux_find(struct svc_mux *mux, uint32_t id);
svc_err mux_list(struct svc_mux *mux, struct svc_mux_stream *stream);
/* What points to it in the table; *place is NULL when it is not there. There is
 * a table. */
struct svc_mux_stream **mux_place(struct svc_mux *mux, uint32_t id);
void mux_unlist_at(struct svc_mux *mux, struct svc_mux_stream **place);
/* Nothing happens when it is not in the table. */
void mux_unlist(struct svc_mux *mux, struct svc_mux_stream *stream);
/* Takes it out of the table and all lists, with what is under way. */
void mux_forget(struct svc_mux_stream *stream);
/* NULL when memory ran out. `waiter`: as in the stream. */
struct svc_mux_stream *mux_stream_create(
    struct svc_mux *mux, uint32_t id, uintptr_t waiter);
/* The stream is in no table or list, or was forgotten. */
void mux_stream_destroy(struct svc_mux_stream *stream);
/* With `handy` or `returned` by the loop's thread. A stream for a whole request
 * whose callback is to run now, or NULL. Without the lock. */
struct svc_mux_stream *mux_begin_whole(
    struct svc_mux *mux, const struct frame *frame);
/* Lists the stream if it is mux->current. */
void mux_adopt(struct svc_mux *mux, struct svc_mux_stream *stream);
/* On the loop, outside callbacks: what a callback that lost the loop has left
 * there. */
void mux_adopt_left(struct svc_mux *mux);
/* On the loop: frees the streams in `returned`, of which nothing is left. */
void mux_take_back(struct svc_mux *mux);
/* Streams that are kept for further use. With or without the lock, by whoever
 * is alone with it. */
void mux_free_spare(struct svc_mux *mux);

/* The stream ended early. True when the caller, who became its runner, is to
 * deliver that after unlocking; otherwise whoever runs a callback will. */
bool mux_end_stream(struct svc_mux_stream *stream, svc_err code, bool not_run,
    const char *text, size_t len);
/* The same, delivered later by the loop. */
void mux_end_later(struct svc_mux_stream *stream, svc_err code, bool not_run,
    const char *text);
/* Without the lock, by the stream's runner: run a callback, between enter and
 * leave if this thread runs the connection's loop, and let go of the stream.
 * With `accept` it is the server's, for a stream just marked as accepted. */
svc_mux_result mux_deliver_part(
    struct svc_mux_stream *stream, const struct svc_part *part, bool accept);
svc_mux_result mux_deliver_closed(struct svc_mux_stream *stream);
/* On the loop: the last part of a stream that is listed no more, nor anywhere
 * else. */
svc_mux_result mux_deliver_last(
    struct svc_mux_stream *stream, const struct svc_part *part);
/* The last part of a stream that is listed no more and done, on the thread that
 * waits for it. */
svc_mux_result mux_deliver_own(
    struct svc_mux_stream *stream, const struct svc_part *part);
/* The callback of mux->current. */
svc_mux_result mux_deliver_whole(
    struct svc_mux_stream *stream, const struct svc_part *part);
/* Without the lock, by the runner, after a callback: deliver what was queued
 * meanwhile, then let go of the stream. */
void mux_callback_done(struct svc_mux_stream *stream);
/* A server's stream is cut, by this part, while something of it waits to be
 * sent: drops that. True when the part must not be sent, because a reset was.
 */
bool mux_overtake(struct svc_mux_stream *stream, const struct svc_part *end);
/* It has failed, by this part, which waits with what is before it. */
void mux_keep_failure(
    struct svc_mux_stream *stream, const struct svc_part *end);
/* A server stops: streams that were given back and have failed are reset. */
void mux_reset_failed(struct svc_mux *mux);
/* By the runner: the holder has given the stream back. Unlocks. */
void mux_end_released(struct svc_mux_stream *stream);
/* The stream has a callback to come, from the loop. */
void mux_due(struct svc_mux_stream *stream);
/* Without the lock, where there is no loop: run them. */
void mux_due_here(struct svc_mux *mux);

void mux_append(struct svc_mux_list *list, struct svc_mux_node *node);
void mux_remove(struct svc_mux_node *node); /* from its list, if any */

/* ---------------------------------------------------------------------- mux.c
 */
/* Control frames are small: one that cannot be queued fails the connection. */
void mux_queue_frame(struct svc_mux *mux, uint8_t type, uint8_t flags,
    uint32_t stream, uint32_t value, const void *body, size_t len);
SVC_COLD void mux_queue_reset(struct svc_mux *mux, uint32_t stream,
    svc_err code, bool not_run, const char *text);
SVC_COLD void mux_fail(struct svc_mux *mux, svc_err code, const char *text);
/* Unlocks, then sends what waits unless this thread is in a batch. After a
 * stream was forgotten the connection may be gone. */
void mux_unlock_and_flush(struct svc_mux *mux);

/* The same in a batch, by the loop's thread: at its end what waits is sent. */
static inline void
mux_unlock_in_batch(struct svc_mux *mux)
{
	if (mux->close_due || mux->unref_due)
		mux_unlock_and_flush(mux);
	else
		svc_biased_lock_leave_hot(&mux->lock);
}

/* The part to the output if it can go in one frame and `at_once`, else to what
 * is pending. */
svc_err mux_give_part(struct svc_mux_stream *stream,
    const struct svc_part *part, bool at_once, struct svc_error *err);

/* -------------------------------------------------------------- mux_storage.c
 */
/* An output that has no storage gets one that this thread keeps, if any. */
void mux_take_storage(struct svc_buf *out);
/* Of an empty output, which has none then. */
void mux_give_storage(struct svc_buf *out);

/* Where to add to the output. */
static inline struct svc_buf *
mux_output(struct svc_mux *mux)
{
	if (mux->out.data == NULL)
		mux_take_storage(&mux->out);
	return &mux->out;
}

/* ----------------------------------------------------------------- mux_open.c
 */
/* Errors: SVC_E_EXHAUSTED, when the message is too large for one of us. */
svc_err mux_check_size(const struct svc_mux *mux, const struct svc_part *part,
    struct svc_error *err);

/* ---------------------------------------------------------------- mux_reply.c
 */
/* Whether the frame is a whole reply to a whole request that nothing is in the
 * way of: nobody else is going to deliver anything of the stream, since it came
 * on the loop and nobody waits for it, or on the thread that does. With the
 * lock. */
bool mux_is_reply(
    const struct svc_mux_stream *stream, const struct frame *frame);
/* Delivers it to the stream at this place of the table. Unlocks. */
svc_mux_result mux_input_reply(struct svc_mux *mux,
    struct svc_mux_stream **place, const struct frame *frame,
    const struct svc_part *part);
/* On a client's loop, without the lock: replies to calls that nobody waits for,
 * each with the head of the one before. Leaves what is not like that where it
 * is. */
svc_mux_result mux_input_replies(struct svc_mux *mux, struct mux_input *in);

/* ----------------------------------------------------------------- mux_send.c
 */
/* Whether a frame with these flags may be sent now. */
bool mux_may_send(const struct svc_mux_stream *stream, unsigned flags);
/* If the stream's sender was made to wait: tells it that it may go on, once
 * there is credit. */
void mux_offer_room(struct svc_mux_stream *stream);
/* Counts a frame of `len` bytes with its header. */
void mux_charge(struct svc_mux_stream *stream, size_t len);
/* Keeps a part to be sent in pieces.
 * Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED (its head) */
svc_err mux_pend(struct svc_mux_stream *stream, const struct svc_part *part,
    struct svc_error *err);
void mux_drop_pending(struct svc_mux_stream *stream);
/* Whether mux_pump has something to do. */
bool mux_sendable(const struct svc_mux *mux);
/* Moves pieces to the output, of the streams in turn, up to ENOUGH. */
void mux_pump(struct svc_mux *mux);
/* The peer's hello and its WINDOW frames; false: more than there can be. */
void mux_greet(struct svc_mux *mux, const struct hello *hello);
bool mux_credit(struct svc_mux *mux, const struct frame *frame);

/* ---------------------------------------------------------------- mux_burst.c
 */
/* A message of so many bytes was added to the output: whether it waits there
 * for more. */
bool mux_burst_gathers(struct svc_mux_stream *stream, size_t size);
/* Whether what it sends gathers. */
bool mux_in_burst(const struct svc_mux_stream *stream);
/* A request was added to the output by a caller who does not wait: whether the
 * loop writes it. */
bool mux_burst_of_calls(struct svc_mux *mux);
/* What the stream sent was written. Without the lock. */
void mux_burst_written(struct svc_mux_stream *stream);
/* The stream's sender is made to wait. */
void mux_burst_waits(struct svc_mux_stream *stream);
/* On the loop in the middle of its turn, without the lock. */
void mux_burst_half(struct svc_mux *mux, const struct mux_input *in);
void mux_burst_detach(struct svc_mux *mux);

/* -------------------------------------------------------------- mux_receive.c
 */
/* A PART frame came, of a stream that is known or not (NULL): counts it. False
 * when the peer had no credit for it. */
bool mux_take(struct svc_mux *mux, struct svc_mux_stream *stream,
    const struct frame *frame);
void mux_consume(struct svc_mux_stream *stream, size_t bytes);
/* What the stream's window has grown by is free for others. */
void mux_drop_window(struct svc_mux_stream *stream);
/* A whole request of this cost has come and is consumed. */
void mux_take_whole(struct svc_mux *mux, size_t cost);
/* A part is about to be delivered, in frames of this cost. */
void mux_consume_part(
    struct svc_mux_stream *stream, const struct svc_part *part, size_t cost);
/* A frame as a part to be delivered later. NULL when memory ran out. */
struct queued_part *mux_queued(
    const struct frame *frame, const uint8_t *payload);
/* Adds a piece. Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED (max_message) */
svc_err mux_assemble(struct svc_mux_stream *stream, const struct frame *frame,
    const uint8_t *payload, struct svc_error *err);
/* The part whose last piece has come. */
struct queued_part *mux_assembled(struct svc_mux_stream *stream);
void mux_drop_assembly(struct svc_mux_stream *stream);
/* As part_decode. Trailers that do not fit into the part become one of their
 * own, first in stream->parts. */
svc_err mux_decode(struct svc_mux_stream *stream,
    const struct queued_part *queued, struct svc_part *ret_part,
    struct svc_headers **ret_headers, struct svc_error *err);

/* ---------------------------------------------------------------- mux_timer.c
 */
/* A stream was opened: the timer must run. */
void mux_arm(struct svc_mux *mux);
/* PONG of a ping with this value. */
void mux_pong(struct svc_mux *mux, uint32_t value);

/* Of the streams whose node this is. */
#define MUX_STREAM_OF(node, member)                                 \
	((struct svc_mux_stream *)(void *)((char *)(node)-offsetof( \
	    struct svc_mux_stream, member)))

/* Everything we had to send was given and has gone to the output. */
static inline bool
mux_all_sent(const struct svc_mux_stream *stream)
{
	return stream->sent_end && stream->pending == NULL;
}

#endif
