/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_MUX_H
#define SVC_MUX_H

/**
 * The protocol of svc frames for transports: one connection's streams, fed with
 * bytes and yielding bytes, whatever moves them. A transport embeds a struct
 * svc_mux in its connection, reads bytes and gives them to svc_mux_input on
 * the connection's loop, and sends what svc_mux_begin_flush hands out. Its
 * open, send, wait, release and peer ops are then svc_mux_open and so on.
 * docs/wire.md describes the bytes.
 */

#include <svc/biased_lock.h>
#include <svc/buf.h>
#include <svc/clock.h>
#include <svc/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

struct svc_mux;
struct svc_mux_stream;

struct svc_mux_ops {
	/** Bytes wait to be sent. From any thread, without the lock, also
	 * while another thread is in it. */
	void (*flush)(struct svc_mux *mux);
	/** Nobody refers to the connection any more: free it. */
	void (*free)(struct svc_mux *mux);
	/** Close the connection soon, on its loop: it has failed (see
	 * svc_mux_failed), or the last stream of a closing one has ended. From
	 * any thread, without the lock, perhaps more than once. */
	void (*close)(struct svc_mux *mux);
};

struct svc_mux_config {
	const struct svc_mux_ops *ops;
	const struct svc_transport_ops *transport;
	struct svc_loop *loop; /* NULL: whoever calls input handles all */
	svc_accept_cb accept;  /* of a server */
	void *accept_arg;
	bool server;
	struct svc_transport_limits limits; /* 0 is filled with the default */
	/* Until the peer's hello must have come, from svc_mux_attach on;
	 * 0: limits.handshake_ms */
	int64_t hello_ms;
	/* A server's: atomic, until when svc_mux_linger may be true, see the
	 * op. NULL: no limit but its own. */
	const int64_t *linger_until_ms;
};

/* A stream's place in one of a connection's lists. */
struct svc_mux_node {
	struct svc_mux_node *prev, *next;
	struct svc_mux_list *list; /* NULL: in none */
};
struct svc_mux_list {
	struct svc_mux_node *first, *last;
};

/* A head without headers, and where its texts lie: what a peer sends next
 * mostly has the same. */
#define SVC_MUX_MEMO 88
struct svc_mux_memo {
	uint8_t flags; /* of the frame; 0: there is none */
	uint8_t len;
	uint8_t endpoint, content_type, status_text; /* 0: none */
	uint8_t bytes[SVC_MUX_MEMO];
};

/** All fields are private, except that a transport may hold `lock` to guard
 * small state of its own; it may not call the mux then.
 *
 * What every call needs comes first, with the rare behind it: among many
 * connections each line of the cache that a call touches is one to fetch. */
struct svc_mux {
	struct svc_biased_lock lock;
	struct svc_mux_config config;
	/* Of the reader on the loop: streams given back in their last callback,
	 * one for the next whole request, and (atomic) that of the request
	 * whose callback runs, while nobody else knows of it. */
	struct svc_mux_stream *returned, *handy, *current;
	uint32_t last_id;
	bool flushing;
	bool draining;  /* atomic: by us or by the peer: no new streams */
	bool closing;   /* close() when the last stream ends */
	bool close_due; /* whoever unlocks calls close() */
	bool failed;    /* atomic */
	bool unref_due; /* the last stream has gone: whoever unlocks unrefs */
	bool ticking, leaving; /* of the timer */
	struct svc_buf out;
	uint64_t queued, sent; /* bytes */
	size_t taken; /* by the flusher, who has not said yet what it sent */
	int64_t gathered_at_us; /* of a burst, since then; 0: there is none */
	/* What is sent in pieces, or waits for credit. */
	struct svc_mux_list sending, starved;
	int64_t credit;   /* that the peer gave the connection */
	uint64_t pending; /* atomic: bytes */
	uint64_t most_pending;
	int64_t most_message;  /* that both sides allow */
	uint32_t most_streams; /* likewise */
	uint32_t piece;
	/* The credit that each stream begins with, of the peer and of us. */
	uint32_t peer_window, first_window;
	int64_t window;  /* the credit we gave that the peer has not used */
	uint32_t freed;  /* consumed; the peer is not told yet */
	uint32_t n_held; /* atomic: streams that exist, also those that have
			  * ended; together they have one reference */
	/* of the reader; those marked are atomic, for the timer */
	bool greeted;
	bool half;   /* atomic: a frame has begun */
	bool paused; /* atomic: until the peer reads our answers */
	int share;   /* frames on the loop until it is the others' turn */
	size_t skip; /* of the hello */
	size_t need;
	size_t unchecked; /* bytes since the last look at the backlog */
	size_t left;      /* of what was given last */
	uint32_t received, frames; /* atomic: counts that only change */
	struct svc_mux_memo memo;  /* of the last head that came */
	/* Of a client. */
	uint32_t next_id;
	uint32_t n_buckets, n_streams;
	uint32_t n_unopened;
	struct svc_mux_stream **buckets;
	struct svc_mux_stream *spare; /* to be used again */
	uint32_t n_spare;
	bool write_posted; /* what the loop writes for callers in a row */
	int64_t called_at_us;

	int refs;        /* atomic */
	uint32_t secret; /* of a server, whose peer chooses the numbers */
	uint32_t drained_id;
	bool silent;  /* it failed because the peer said nothing */
	bool foreign; /* the peer is no svc service, or has run nothing */
	bool heard;   /* the peer's hello */
	bool choked;  /* streams wait for less pending, or for credit of all */
	bool due_posted, sweeping;
	uint32_t n_lingering;
	uint64_t loaned; /* credit given for what is not consumed */
	uint32_t grown;  /* what the streams' windows have grown by, together */
	struct svc_mux_list assembling;
	struct svc_mux_stream *granted;
	/* Streams that have a callback to come: by due_task. */
	struct svc_mux_list due;
	struct svc_task due_task;
	/* What bursts gather in the output; see mux_burst.c. */
	struct svc_timer sweep;
	struct svc_task sweep_task;
	uint64_t swept; /* `queued` then */
	struct svc_task write_task;
	/* The timer; see mux_timer.c. */
	struct svc_timer timer;
	struct svc_task arm_task;
	bool attached, arm_posted;
	bool idle_asked, leave_asked, leave_pinged;
	uint8_t quiet, stuck;
	uint32_t ticks;
	int64_t hello_at_ms, idle_at_ms;
	uint32_t seen_received, seen_frames, seen_id;
	uint64_t seen_sent;
	pthread_cond_t changed;
	struct svc_error failure;
	char peer[64];
};

typedef enum svc_mux_result {
	SVC_MUX_OK,    /* every whole frame was handled */
	SVC_MUX_LOST,  /* the loop was taken over: touch nothing of the reader's
			* state and return up to the loop */
	SVC_MUX_YIELD, /* on a server's loop: too much waits to be sent, go on
			* when it is; elsewhere: the next frame needs the loop
			*/
	SVC_MUX_FAILED, /* the peer broke the protocol; call svc_mux_fail */
	SVC_MUX_SHARE, /* on the loop: there may be more frames, but others come
			* first; go on after svc_mux_yield or its like */
} svc_mux_result;

/** With one reference, and the hello waiting to be sent. Errors: SVC_E_NOMEM */
SVC_API svc_err svc_mux_init(
    struct svc_mux *mux, const struct svc_mux_config *config, const char *peer);
/** Frees what it holds; only from ops->free. */
SVC_API void svc_mux_fini(struct svc_mux *mux);
SVC_API void svc_mux_ref(struct svc_mux *mux);
SVC_API void svc_mux_unref(struct svc_mux *mux);
/** On the loop, when the connection is first looked at there: its timer (until
 * the hello, keepalive, idle time) begins. */
SVC_API void svc_mux_attach(struct svc_mux *mux);
/** On the loop, when it is done with the connection: nothing of the mux runs
 * there any more but tasks that hold a reference. */
SVC_API void svc_mux_detach(struct svc_mux *mux);
/** Default limits in place of zeros, and not more connections than the process
 * has descriptors for. */
SVC_API struct svc_transport_limits svc_transport_limits_fill(
    const struct svc_transport_limits *limits);

/**
 * Handle the whole frames in data[*offset .. len); `data` is not NULL, even
 * where there are none. *offset is advanced before any callback runs, so that
 * after a take-over the new owner of the loop can continue there; the bytes
 * before it must stay in place until this returns.
 * On the loop's own thread callbacks that may block run between enter and
 * leave, and after some 64 frames it is the others' turn (SVC_MUX_SHARE). From
 * another thread (one that waits for its reply) only frames of streams opened
 * with SVC_OPEN_WAIT are handled, others give SVC_MUX_YIELD. `err` is set with
 * SVC_MUX_FAILED, and otherwise left as it is.
 */
SVC_API svc_mux_result svc_mux_input(struct svc_mux *mux, const uint8_t *data,
    size_t len, size_t *offset, struct svc_error *err);
/** As the reader on the loop: all that came is handled and others come next, so
 * the 64 frames of the connection's turn are counted anew. */
SVC_API void svc_mux_rest(struct svc_mux *mux);
/** On the loop. Others come first: svc_source_yield of the connection's source.
 * When that calls `ready` anew it has a reference, as after a kick. */
SVC_API void svc_mux_yield(struct svc_mux *mux, struct svc_source *source);
/** How many bytes from *offset on the next frame needs: at least 1. For the
 * reader. */
SVC_API size_t svc_mux_need(const struct svc_mux *mux);

/** Take the bytes to be sent into the empty `into` and become their only
 * sender; false when there are none or somebody else is. Large messages come
 * piece by piece. */
SVC_API bool svc_mux_begin_flush(struct svc_mux *mux, struct svc_buf *into);
/** `sent` bytes of it are with the operating system, or may be. The rest is
 * dropped (the connection failed) or was nothing. Until then all of it may
 * have left, so who knows how much did says so before svc_mux_close_streams:
 * calls of which something did not leave are ended as not run. `from` is empty
 * then, and what it was stored in is mostly used elsewhere. True when more
 * waits meanwhile. */
SVC_API bool svc_mux_end_flush(
    struct svc_mux *mux, struct svc_buf *from, size_t sent);
/** Bytes waiting to be taken. */
SVC_API size_t svc_mux_backlog(struct svc_mux *mux);

/** The connection is gone: no stream may be opened, and those that are open
 * are closed by svc_mux_close_streams. The first call's error counts. */
SVC_API void svc_mux_fail(struct svc_mux *mux, svc_err code, const char *text);
/** Before that: the peer has ended its side of the connection without a byte of
 * its hello, which goes before all else, so it has run nothing. Not after a
 * reset, which may overtake a hello that was lost on its way, nor with TLS,
 * where somebody between may take away what it said. */
SVC_API void svc_mux_unheard(struct svc_mux *mux);
SVC_API bool svc_mux_failed(struct svc_mux *mux);
/** Tells every stream that the connection failed. On the loop's thread;
 * SVC_MUX_LOST as with input: the new owner calls it again. SVC_MUX_SHARE, on a
 * loop: there are more, and others come first. */
SVC_API svc_mux_result svc_mux_close_streams(struct svc_mux *mux);
/** Refuse new streams and tell the peer. */
SVC_API void svc_mux_drain(struct svc_mux *mux);
/** Refuse new streams; close() comes as soon as none is open, perhaps before
 * this returns. */
SVC_API void svc_mux_finish(struct svc_mux *mux);
/** On the loop, when a connection is to be closed whatever is open: true while
 * answers that were given still wait to be sent and the peer takes them, up to
 * config.linger_until_ms. close() comes again when that has changed. */
SVC_API bool svc_mux_linger(struct svc_mux *mux);

/* The ops of these names. */
SVC_API svc_err svc_mux_open(struct svc_mux *mux, const struct svc_part *first,
    unsigned flags, const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err);
SVC_API svc_err svc_mux_send(struct svc_stream_handle *stream,
    const struct svc_part *part, struct svc_error *err);
SVC_API svc_err svc_mux_answer(struct svc_stream_handle *stream,
    const struct svc_part *part, struct svc_error *err);
SVC_API svc_err svc_mux_wait(
    struct svc_stream_handle *stream, int64_t deadline_at_ms);
SVC_API void svc_mux_release(struct svc_stream_handle *stream, svc_err code);
SVC_API void svc_mux_credit(struct svc_stream_handle *stream, size_t bytes);
SVC_API void svc_mux_flush(struct svc_stream_handle *stream);
SVC_API bool svc_mux_cancelled(struct svc_stream_handle *stream);
/** Needs a loop. */
SVC_API bool svc_mux_on_cancel(
    struct svc_stream_handle *stream, struct svc_task *task);
SVC_API void svc_mux_interrupt(struct svc_stream_handle *stream);
SVC_API const char *svc_mux_peer(struct svc_stream_handle *stream);
SVC_API struct svc_mux *svc_mux_of(struct svc_stream_handle *stream);
/** Whether the end was delivered. The lock is held. */
SVC_API bool svc_mux_done(struct svc_stream_handle *stream);
/** Whether svc_mux_interrupt was called. The lock is held. */
SVC_API bool svc_mux_interrupted(struct svc_stream_handle *stream);

#ifdef __cplusplus
}
#endif
#endif
