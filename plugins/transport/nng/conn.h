/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_NNG_CONN_H
#define SVC_NNG_CONN_H

/*
 * One connection, between conn.c, which moves its bytes, dial.c, which makes a
 * client's, and secure.c, which has its TLS. nng reads and writes on threads of
 * its own; what has come is handled on the connection's loop, where handlers
 * may block. One read is under way while nothing is being handled, so a peer
 * that sends more than is handled is stopped by the stream. Whoever has bytes
 * to send and finds nobody sending starts a write; its completion starts the
 * next. Until the TLS handshake is done one operation at a time is under way,
 * and its completion makes the next step.
 *
 * mux.lock guards the fields marked so. A reference is held by whoever
 * may still call: the loop, an operation under way, a kick, a stream. The
 * operations and the stream below are freed with the last reference.
 */
#include "nng_private.h"

#include <tls/tls.h>

/* Bytes being handled. The connection holds one reference, and so does the
 * thread that handles them, which may lose the loop meanwhile. */
struct block {
	int refs;
	size_t cap, len;
	uint8_t data[];
};

struct conn {
	struct svc_mux mux;
	struct svc_source source; /* only kicked */
	struct svc_task free_task;
	struct svc_loop *loop;
	struct nng *self;
	struct listener *listener; /* of a server's */
	struct conn_link link;
	bool layered;
	bool local; /* a unix socket: no reset overtakes what was sent */
	struct route *route; /* of a client's; see dial.c */
	nng_aio *dial_aio, *send_aio, *recv_aio;

	/* under mux.lock */
	nng_stream_dialer *dialer; /* of a client's, the one that is at it */
	nng_stream *stream;        /* NULL until connected */
	bool shaking; /* the TLS handshake is not done: no frames yet */
	bool attached;
	bool closed; /* no operation is begun any more */
	bool aborted;
	bool running;   /* its bytes are being handled */
	bool receiving; /* nng has the block */
	bool spoken;    /* of `received`: something has come */
	bool rest;      /* of `received`: it reads what nng left */
	bool paused;    /* the peer does not read what we send */
	int gone;  /* a client's write failed so: its reader tells the end */
	int ended; /* its read did, and waits for what a write says */
	int sends;
	int starting; /* calls that begin an operation on the stream */

	/* of the flusher */
	struct svc_buf output;
	size_t written; /* of the output, or of the cipher */

	/* of the reader */
	struct block *block;
	size_t offset;
	size_t block_size;

	/* With TLS; see secure.c. */
	struct tls *tls;
	struct svc_buf cipher; /* of whoever sends */
	uint8_t *came;         /* room for COME_SIZE bytes, of the reader */
	struct svc_task shake_step; /* in the shaker's queue */
	tls_step step;              /* the last one's outcome */
	size_t discarded;           /* of a peer that was refused */

	/* of the loop */
	int kicks;
	bool timed;
	bool finished;
};

#define COME_SIZE ((size_t)16384)

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

/* --------------------------------------------------------------------- conn.c
 */
/* Without what it is connected by; with one reference. */
struct conn *conn_create(struct nng *self, struct listener *listener,
    const struct address *address, int64_t hello_ms, svc_accept_cb accept,
    void *arg, const char *peer);
/* Hands the connection to its loop. */
void conn_attach(struct conn *conn);
void conn_kick(struct conn *conn);
void conn_flush(struct svc_mux *mux);
/* The connection has failed, by an error of nng. */
void conn_lose(struct conn *conn, int rv);
/* Begins to send what is left of the output, or the cipher; its completion
 * gives the caller's count in `sends` and a reference back. False: it is
 * closed, and nothing happened. */
bool conn_send(struct conn *conn);
/* Begins to read so many bytes to there; false: it is closed. */
bool conn_receive(struct conn *conn, void *data, size_t size);

/* --------------------------------------------------------------------- dial.c
 */
/* Makes what a client's connection is dialled with. */
svc_err dial_init(struct conn *conn, const struct address *address);
/* Frees it; nothing of it is under way. */
void dial_end(struct conn *conn);
/* Whatever it waits for. */
void dial_give_up(struct conn *conn);

/* ------------------------------------------------------------------- secure.c
 */
/* A step of the handshake with what has come, at first nothing. Nothing else is
 * under way. */
void secure_shake(struct conn *conn);
/* Frames to the cipher; false when that failed, and the connection with it. */
bool secure_output(struct conn *conn);
/* What the handshake had to send is sent, or `rv` says why not. */
void secure_sent(struct conn *conn, int rv);
/* So many bytes have come. True when there are frames in the block now, or the
 * connection has failed; false when that will be said later. */
bool secure_received(struct conn *conn, size_t n);
/* As the reader: frames that have come already to the block; true when there
 * are some, or the connection has failed. */
bool secure_more(struct conn *conn);
/* Why the connection ended, if that was TLS's doing. */
bool secure_reason(struct conn *conn, char *text, size_t size);

#endif
