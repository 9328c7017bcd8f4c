/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TCP_CONN_H
#define SVC_TCP_CONN_H

/* Between conn.c, which reads and writes a connection on its loop, caller.c,
 * where a thread that waits for a reply does, and life.c, which makes and ends
 * connections. */

#include "tcp.h"
#include <tls/tls.h>

#include <svc/busy_poll.h>

/* Bytes being handled. The connection holds one reference, and so does each
 * thread that handles some of them. One that has lost the loop meanwhile still
 * reads what it was given: then they are only added to. */
struct block {
	int refs;
	size_t cap, len;
	uint8_t data[];
};

enum reader {
	READER_NONE,
	READER_CALLER,
	READER_LOOP,    /* armed */
	READER_RUNNING, /* the loop is at it */
};

/* How far the TLS handshake is. */
enum shake {
	SHAKE_NONE,    /* no TLS, or not connected yet, or done */
	SHAKE_READ,    /* waits for bytes */
	SHAKE_WRITE,   /* waits for room */
	SHAKE_RUNNING, /* a step is with the shaker */
	SHAKE_DONE,
	SHAKE_FAILED,
};

#define CONN_NAP_MS 100 /* a waiting caller looks at the clock this often */

/* What every call needs comes first, as in svc_mux. */
struct conn {
	struct svc_mux mux;
	struct svc_source source;
	struct tcp *tcp;
	struct listener *listener; /* of a server's */
	struct tls *tls;           /* NULL: bare */

	/* of the loop */
	bool flush_due;
	bool kicked;
	bool shares; /* others come first, then the rest of the block */
	bool timed;
	bool finished;

	/* under mux.lock; `reader` may also be looked at without it */
	bool attached;
	bool connecting; /* until frames may move */
	bool sleeps;     /* since then: its socket may be read by sleeping */
	bool write_blocked;
	bool paused;  /* the peer does not read what we send; set by the loop */
	bool aborted; /* who dials a name reads it without the lock */
	_Atomic bool hung_up; /* the loop was told so */
	_Atomic(enum reader) reader;
	unsigned interest;

	/* of the reader */
	struct block *block;
	size_t offset;
	size_t block_size;

	/* of the flusher */
	struct svc_buf output;
	size_t written;

	struct svc_loop *loop;
	struct svc_task flush_task;   /* of the loop */
	_Atomic int64_t looked_at_us; /* a caller found the peer there */
	struct svc_busy_poll poll;    /* of callers */
	int gone; /* a client's write failed so: its reader tells the end */
	enum shake shake;           /* while `connecting` */
	struct svc_task shake_step; /* in the shaker's queue */
	struct conn_link link;
	char address[264];
};

static inline struct conn *
conn_of(struct svc_mux *mux)
{
	return (struct conn *)(void *)mux;
}

static inline void
lock(struct conn *conn)
{
	svc_biased_lock_take(&conn->mux.lock);
}

static inline void
unlock(struct conn *conn)
{
	svc_biased_lock_leave(&conn->mux.lock);
}

/* NULL is fine. */
void block_unref(struct block *block);
/* As svc_mux_ops.flush. */
void conn_flush(struct svc_mux *mux);
/* As svc_source.ready. */
void conn_ready(struct svc_source *source, unsigned events);
/* Brings what the loop watches in line with the state. With the lock. */
void conn_set_interest(struct conn *conn);
/* Makes the loop look at the connection. The lock is not held, nor for what
 * follows. */
void conn_kick(struct conn *conn);
/* The connection has failed with this errno; 0: its peer closed it. */
void conn_lose(struct conn *conn, int sys);
/* As the reader: handle what has been read. */
svc_mux_result conn_handle(struct conn *conn);
/* As the reader: bytes read; 0 when there are none now, with `sleep` (only if
 * conn->sleeps) none in CONN_NAP_MS; -1 when the connection has failed.
 * *ret_drained becomes true when another try would most likely find
 * none, so that whoever watches the socket need not make it. */
ssize_t conn_read(struct conn *conn, bool sleep, bool *ret_drained);
/* As the reader: an idle connection keeps no read storage. */
void conn_drop_block(struct conn *conn);
/* Frames may move: send what waited for this. On the loop. */
void conn_connected(struct conn *conn);

/* TLS, shake.c: on the loop, the connection is there or its socket is ready. */
void conn_shake(struct conn *conn, unsigned events);

/* For the reader: bytes that poll does not know of. */
static inline bool
conn_more(const struct conn *conn)
{
	return conn->tls != NULL && tls_more(conn->tls);
}

#endif
