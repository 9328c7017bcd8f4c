/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TRANSPORT_H
#define SVC_TRANSPORT_H

#include <svc/executor.h>
#include <svc/headers.h>
#include <svc/plugin.h>
#include <svc/tls.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Streams over connections. One model for every transport: an RPC is a stream
 * with a header block, messages and a trailer each way; a unary call is a
 * stream with one message each way, and its whole request or reply is one
 * part.
 */

/* What moves on a stream in one go. */
#define SVC_PART_HEADERS 1u /* the first part of each direction has them */
#define SVC_PART_MESSAGE 2u
#define SVC_PART_END 4u /* the last part of this direction */
/* With END, by a server whose stream was cut: what waits to be sent before it
 * is dropped. */
#define SVC_PART_CUT 16u

struct svc_part {
	unsigned flags;

	/* with HEADERS */
	const char *service;  /* of a request: whom it is for */
	const char *endpoint; /* of a request: "Student.Get" */
	const char *content_type;
	int64_t timeout_ms; /* of a request: what remains, or SVC_FOREVER */
	const struct svc_headers *headers; /* NULL when there are none. Also
					    * in an END without HEADERS: the
					    * trailers */

	/* with MESSAGE */
	const void *data;
	size_t len;

	/* with END, from the server */
	svc_err status;
	const char *status_text; /* NULL when there is none */

	/* of a request that was packed (see svc_part_pack), else NULL */
	const void *head;
	size_t head_len;
};

/** How a stream ended other than by its last part. */
struct svc_stream_end {
	svc_err code;     /* SVC_E_UNAVAILABLE: the connection; SVC_E_CANCELLED:
			   * the peer reset it; SVC_E_EXHAUSTED: a limit; ... */
	bool not_run;     /* certain: the peer's handler has not seen it */
	const char *text; /* borrowed for the call */
	bool silent;      /* the peer was asked and gave no sign of life for
			   * keepalive_ms: it is frozen or cut off */
};

struct svc_span {
	const void *data;
	size_t len;
};

struct svc_stream_handle;

/**
 * What a stream tells its holder. One call at a time for one stream, in order,
 * never inside the call that started the work, and none after `release`. The
 * callbacks may block (see svc/executor.h).
 */
struct svc_stream_events {
	/** A part came; it lives only for the call. After the peer's END no
	 * more follow. */
	void (*part)(
	    struct svc_stream_handle *stream, const struct svc_part *part);
	/** The stream ended early; nothing follows. Not called after the
	 * peer's END was delivered and ours was sent. */
	void (*closed)(
	    struct svc_stream_handle *stream, const struct svc_stream_end *end);
	/** After send returned SVC_E_AGAIN: there is room again. May be NULL
	 * for a holder that sends one part only. */
	void (*writable)(struct svc_stream_handle *stream);
	/** The holder keeps messages after `part` returned, and gives the
	 * peer credit for more itself, by the op `credit`. Otherwise a message
	 * is consumed by being delivered. */
	bool holds;
	/** Optional, for a holder that holds: messages that came in a row and
	 * have neither headers nor an end, instead of a `part` for each. It and
	 * the `writable` of such a holder must not block. */
	void (*messages)(struct svc_stream_handle *stream,
	    const struct svc_span *messages, size_t n);
};

struct svc_transport_ops;
/** The public head of a transport's stream; its own data follow. */
struct svc_stream_handle {
	const struct svc_transport_ops *ops;
	const struct svc_stream_events *events; /* the holder sets these two */
	void *user;
};

struct svc_transport_limits {
	int64_t max_message;  /* bytes of one message; 0: 64 MiB */
	uint32_t max_headers; /* bytes of one header block; 0: 64 KiB */
	uint32_t max_streams; /* open at once in a connection; 0: 4,096 */
	/* Bytes a peer may send that are not consumed yet, on one stream and
	 * on all streams of a connection. A stream begins with 512 KiB at most,
	 * and has more while its holder consumes quickly. 0: 2 and 4 MiB */
	uint32_t stream_window, conn_window;
	uint32_t max_connections; /* of a listener; 0: 65,536. Sockets take at
				   * most what RLIMIT_NOFILE allows, less 256
				   * or a quarter */
	int64_t handshake_ms;     /* until a new connection has said hello;
				   * 0: 10,000 */
	/* A peer that says nothing for so long while streams are open, though
	 * it is asked, is dead. 0: 10,000; SVC_FOREVER: never */
	int64_t keepalive_ms;
	/* A listener closes connections that had no stream for so long, and
	 * ends streams that were given back when their peer takes nothing of
	 * what is left of them for so long. 0: 300,000; SVC_FOREVER: never */
	int64_t idle_ms;
};

struct svc_transport_config {
	struct svc_executor *executor; /* borrowed until destroy */
	struct svc_transport_limits limits;
	/* NULL: bare; borrowed until destroy. A transport that cannot encrypt
	 * refuses it (SVC_E_UNIMPLEMENTED), unless nothing leaves the process
	 */
	const struct svc_tls_config *tls;
};

/** A stream was opened by a peer. `first` has HEADERS. The callee sets
 * `events` and `user`, may answer before it returns, may block, and owns the
 * stream until it calls release. */
typedef void (*svc_accept_cb)(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg);

/** Asked on the thread of a caller in this process, see `call` below: serve the
 * stream here and now if that is sure not to block. True when it was answered,
 * by one part, and released; false when it was not touched. */
typedef bool (*svc_direct_cb)(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg);
/** The answer to a `call`; it lives only for the call. */
typedef void (*svc_answer_cb)(const struct svc_part *answer, void *user);

#define SVC_OPEN_WAIT 1u /* the caller will call `wait` at once */

#define SVC_TRANSPORT_ABI SVC_ABI(4, 5)

/**
 * What a transport plugin provides: static const, never freed.
 *
 * Promises, proved by tests/conformance/transport*.c: messages arrive in order,
 * whole or not at all; a slow reader stops the writer, so memory is bounded;
 * sizes have limits, and what passes them ends one stream and not the
 * connection; a closing peer drains first; a reset frees everything; what is
 * not svc's protocol loses its own connection and nothing else.
 *
 * Threads: every op from any thread, concurrently, except the destroying ones.
 * No op blocks, except `wait` and the destroying ones. All parts are borrowed
 * for the call.
 */
struct svc_transport_ops {
	uint32_t abi;
	uint32_t size;
	const char *name;

	svc_err (*create)(const struct svc_transport_config *config,
	    void **ret_self, struct svc_error *err);
	/** Listeners and connections have been destroyed before. */
	void (*destroy)(void *self);

	/** Listen on `address` ("host:port"; port 0 takes a free one; an empty
	 * host is every interface) and hand over streams until `drain`.
	 * Errors: SVC_E_INVAL (address: say what is allowed), SVC_E_EXISTS (in
	 * use), SVC_E_DENIED, SVC_E_EXHAUSTED, SVC_E_NOMEM */
	svc_err (*listen)(void *self, const char *address, svc_accept_cb accept,
	    void *arg, void **ret_listener, struct svc_error *err);
	/** The bound address with its real port; lives as long as the
	 * listener. */
	const char *(*listener_address)(void *listener);
	/** Take no new connection and no new stream, and tell the peers, who
	 * go elsewhere; streams that are open go on. */
	void (*drain)(void *listener);
	/** Close all its connections, wait until their callbacks have returned
	 * and the streams still held, which get `closed`, were released; then
	 * free it. Not from a callback. */
	void (*listener_destroy)(void *listener);

	/** A connection to `address`, made in the background; streams opened
	 * meanwhile wait for it, and end with not_run when it fails.
	 * Errors: SVC_E_INVAL (address), SVC_E_NOMEM, SVC_E_EXHAUSTED */
	svc_err (*dial)(void *self, const char *address, int64_t timeout_ms,
	    void **ret_conn, struct svc_error *err);
	/** Closes it once its open streams have ended; then it is freed. No
	 * new stream may be opened. */
	void (*conn_destroy)(void *conn);

	/**
	 * Open a stream by its first part. With SVC_OPEN_WAIT the caller
	 * promises to call wait next from this thread.
	 * A message that the peer has no room for yet is copied and waits.
	 * Errors: SVC_E_CLOSED (the connection is gone or draining: nothing
	 * was sent, dial anew), SVC_E_AGAIN (too much is waiting to be sent),
	 * SVC_E_EXHAUSTED (a limit; the text names it), SVC_E_NOMEM
	 */
	svc_err (*open)(void *conn, const struct svc_part *first,
	    unsigned flags, const struct svc_stream_events *events, void *user,
	    struct svc_stream_handle **ret_stream, struct svc_error *err);
	/** Send one more part, or the answer. A part that cannot go at once is
	 * copied and waits; a part with END is always taken, also when the
	 * stream is released next.
	 * Errors: SVC_E_AGAIN (one waits already, or after many in a row there
	 * is no credit for this one: nothing was taken, `writable` follows),
	 * SVC_E_CLOSED (the stream has ended),
	 * SVC_E_EXHAUSTED (a limit), SVC_E_INVAL (after our END), SVC_E_NOMEM
	 */
	svc_err (*send)(struct svc_stream_handle *stream,
	    const struct svc_part *part, struct svc_error *err);
	/** Run the connection on the calling thread, if nobody else does, or
	 * sleep, until the peer's END or `closed` was delivered (SVC_OK) or
	 * the deadline passed (SVC_E_TIMEDOUT). Calls svc_will_block before it
	 * sleeps. */
	svc_err (*wait)(
	    struct svc_stream_handle *stream, int64_t deadline_at_ms);
	/** Give the stream back. If it has not ended in both directions the
	 * peer is told `code` (SVC_E_CANCELLED). What was given with an END and
	 * could not be sent yet goes on by itself, until the peer has taken
	 * none of it for idle_ms. No event runs or comes after this returns,
	 * except the one that calls it. */
	void (*release)(struct svc_stream_handle *stream, svc_err code);

	/** "host:port" of the other side, valid while the stream is; optional.
	 */
	const char *(*peer)(struct svc_stream_handle *stream);
	/** Whether the peer has reset the stream or is gone, for a handler
	 * that runs long; optional. */
	bool (*cancelled)(struct svc_stream_handle *stream);
	/** `bytes` of messages are consumed: the peer may send as many more.
	 * Once for each message, also an empty one; several at once only when
	 * nothing is left. With more than there is to consume all of it is.
	 * The message that came with the first part to accept is consumed
	 * already. For a holder with `holds`; optional, and without it a peer
	 * is held up by nothing but the transport's own means. */
	void (*credit)(struct svc_stream_handle *stream, size_t bytes);
	/** The name in the peer's verified certificate: its first DNS name,
	 * else its common name; NULL when it showed none or the connection is
	 * bare. Valid while the stream is; optional. */
	const char *(*identity)(struct svc_stream_handle *stream);

	/**
	 * A whole exchange on the calling thread: for a request that is one
	 * part, of whose stream nobody waits but the caller. True when the peer
	 * is in this process and took it (see `direct`): `answer` has been
	 * called, once. False when not, for whatever reason: nothing happened,
	 * and `open` does it or tells why not. Optional, together with
	 * `direct`.
	 */
	bool (*call)(void *conn, const struct svc_part *request,
	    svc_answer_cb answer, void *user);
	/** From now on `call` asks this listener's side by `direct`, with the
	 * `arg` of its accept. Several calls run at once, and listener_destroy
	 * waits for them. */
	void (*direct)(void *listener, svc_direct_cb direct);

	/**
	 * For a holder that is busy in a callback, who is told by no other:
	 * `task` is run on a loop, once, when the peer has reset the stream or
	 * is gone (see `cancelled`); soon, if that has happened already. NULL
	 * takes it back, before the stream is released: true when it had not
	 * been given to the loop, otherwise it runs, or has run. Optional.
	 */
	bool (*on_cancel)(
	    struct svc_stream_handle *stream, struct svc_task *task);
	/** Makes a `wait` for the stream return SVC_E_CANCELLED within 0.1 s,
	 * also one that begins later. Any thread, before the stream is
	 * released. Optional, together with `on_cancel`. */
	void (*interrupt)(struct svc_stream_handle *stream);
	/** Send the last part of an accepted stream and give it back, in one:
	 * as `send` and then `release`, for which it stands where it is
	 * missing. In `accept` or `part` it ends the part of the callback that
	 * may block; what follows must be short. Optional.
	 * Errors: as send, and the stream is still the caller's */
	svc_err (*answer)(struct svc_stream_handle *stream,
	    const struct svc_part *part, struct svc_error *err);

	/** Messages that were sent in a quick row may wait a moment for more,
	 * at most 2 ms. For a holder that is about to wait itself: write them
	 * now. Optional. */
	void (*flush)(struct svc_stream_handle *stream);

	/** Before `listener_destroy`: until then at the latest it waits for
	 * peers that have not taken all that they were sent, but always half a
	 * second. Optional; without it, and up to then, it waits for 20 s, and
	 * for a peer that says nothing 5 s. */
	void (*linger_until)(void *listener, int64_t until_at_ms);
};

extern SVC_API const struct svc_interface svc_transport_interface;
/** Within this process: an address is a name of 1 to 64 characters, or
 * "host:port"; an empty one, or one that ends in ":0", gets a free name. */
extern SVC_API const struct svc_transport_ops svc_transport_memory;

/** A request is packed when its names, its content type and its message lie
 * behind each other as a frame has them (docs/wire.md): it is its own copy, and
 * a transport of frames sends it by copying it once, as often as it is tried.
 * Returns the bytes that packing `part` takes; `ret_lens` gets the lengths of
 * its texts. Threads: any. */
SVC_API size_t svc_part_packed_size(
    const struct svc_part *part, size_t ret_lens[3]);
/** Copies the texts and the message of `part` to `space`, points `part` to
 * them, and returns where they end. `lens` and the size of the space are from
 * svc_part_packed_size; the space must live as long as the part, its headers
 * stay where they are. */
SVC_API char *svc_part_pack(
    struct svc_part *part, char *space, const size_t lens[3]);

/** Splits "host:port", "[v6]:port", ":port"; the host may be empty.
 * Errors: SVC_E_INVAL with what is wrong and what is allowed */
SVC_API svc_err svc_address_split(const char *address, char *host,
    size_t host_size, uint16_t *ret_port, struct svc_error *err);

#ifdef __cplusplus
}
#endif
#endif
