/* SPDX-License-Identifier: Apache-2.0 */
#include "conn.h"

#include <stdio.h>
#include <string.h>

#define MIN_BLOCK 4096
#define MAX_BLOCK 65536
#define TLS_ALERT 0x15
#define TLS_HANDSHAKE 0x16

static struct conn *
conn_of(struct svc_mux *mux)
{
	return (struct conn *)(void *)mux;
}

struct conn_link *
conn_link(struct conn *conn)
{
	return &conn->link;
}

struct svc_mux *
conn_mux(struct conn *conn)
{
	return &conn->mux;
}

void
conn_kick(struct conn *conn)
{
	lock(conn);
	bool drop_it = false;
	if (conn->attached) {
		svc_mux_ref(&conn->mux);
		drop_it = !svc_source_kick(&conn->source);
	}
	unlock(conn);
	if (drop_it)
		svc_mux_unref(&conn->mux);
}

void
conn_lose(struct conn *conn, int rv)
{
	char text[240];
	bool closed = rv == NNG_ECONNSHUT || rv == NNG_ECLOSED;
	if (conn->tls == NULL || !secure_reason(conn, text, sizeof(text)))
		snprintf(text, sizeof(text), "connection to %s lost: %s",
		    conn->mux.peer,
		    closed ? "closed by the peer" : nng_strerror(rv));
	svc_mux_fail(&conn->mux, SVC_E_UNAVAILABLE, text);
}

/* ---------------------------------------------------------------- writing */

/* Before an operation is begun. nng never completes one that is begun on a
 * stream that was closed: so closing waits for `started`. */
static bool
may_start(struct conn *conn)
{
	lock(conn);
	bool may = !conn->closed;
	if (may) {
		/* The operation may end, and its reference, while it begins. */
		svc_mux_ref(&conn->mux);
		conn->starting++;
	}
	unlock(conn);
	return may;
}

static void
started(struct conn *conn)
{
	lock(conn);
	bool close = --conn->starting == 0 && conn->closed;
	unlock(conn);
	if (close)
		nng_stream_close(conn->stream);
	svc_mux_unref(&conn->mux);
}

bool
conn_send(struct conn *conn)
{
	if (!may_start(conn))
		return false;
	struct svc_buf *out = conn->tls != NULL ? &conn->cipher : &conn->output;
	nng_iov iov = {
	    .iov_buf = out->data + conn->written,
	    .iov_len = out->len - conn->written,
	};
	nng_aio_set_iov(conn->send_aio, 1, &iov); /* one always fits */
	nng_stream_send(conn->stream, conn->send_aio);
	started(conn);
	return true;
}

/* Nothing is begun on the stream any more, and what is under way on it
 * completes now. */
static void
close_stream(struct conn *conn)
{
	lock(conn);
	conn->closed = true;
	bool close = conn->stream != NULL && conn->starting == 0;
	unlock(conn);
	if (close)
		nng_stream_close(conn->stream);
}

/* Its read has ended so, and a client's writes are over. An end in good order
 * before anything was said means that nothing was run, but a write that failed
 * may have taken the error of a reset. */
static void
tell_end(struct conn *conn, int rv)
{
	bool silent = conn->tls == NULL && !conn->spoken;
	lock(conn);
	if (rv == NNG_ECONNSHUT && conn->gone == NNG_ECONNRESET)
		rv = conn->gone;
	unlock(conn);
	if (silent &&
	    (rv == NNG_ECONNSHUT || (rv == NNG_ECONNRESET && conn->local)))
		svc_mux_unheard(&conn->mux);
	conn_lose(conn, rv);
	lock(conn);
	conn->receiving = false;
	unlock(conn);
	conn_kick(conn);
}

/* How much has left is known only when nng has said so. */
static void
ended(struct conn *conn, int rv)
{
	bool bare = conn->listener == NULL && conn->tls == NULL;
	lock(conn);
	bool wait = bare && !conn->layered && conn->sends > 0;
	if (wait)
		conn->ended = rv;
	unlock(conn);
	if (wait)
		close_stream(conn);
	else
		tell_end(conn, rv);
}

/* Of a flusher, with or without a write that ended so. True: tell the loop. */
static bool
writing_over(struct conn *conn, bool wrote, int rv)
{
	lock(conn);
	bool last = --conn->sends == 0;
	bool wake = wrote ? conn->paused || conn->aborted || rv != 0
			  : conn->paused && last;
	if (wake) /* nothing is under way whose end would tell the reader */
		conn->paused = false;
	int end = last ? conn->ended : 0;
	if (last)
		conn->ended = 0;
	unlock(conn);
	if (end != 0)
		tell_end(conn, end);
	return wake;
}

void
conn_flush(struct svc_mux *mux)
{
	struct conn *conn = conn_of(mux);
	lock(conn);
	bool can = conn->stream != NULL && !conn->closed && !conn->shaking;
	if (can) {
		svc_mux_ref(&conn->mux);
		conn->sends++;
	}
	unlock(conn);
	if (!can)
		return;
	if (svc_mux_begin_flush(mux, &conn->output)) {
		conn->written = 0;
		if (secure_output(conn) && conn_send(conn))
			return;
		svc_mux_end_flush(mux, &conn->output, 0);
	}
	if (writing_over(conn, false, 0))
		conn_kick(conn);
	svc_mux_unref(&conn->mux);
}

/* A client's peer that is gone has mostly said something before, which is still
 * to be read: replies, or an end in good order. A websocket that fails cannot
 * be read any more. With TLS the reader also comes upon why. With the lock. */
static bool
reader_tells(struct conn *conn, int rv)
{
	if (conn->listener != NULL)
		return conn->tls != NULL && conn->receiving;
	if (conn->layered ||
	    (rv != NNG_ECLOSED && rv != NNG_ECONNRESET && rv != NNG_ECONNSHUT))
		return false;
	if (conn->gone == 0) /* later ones fail alike whatever it was */
		conn->gone = rv;
	return true;
}

static void
sent(void *arg)
{
	struct conn *conn = arg;
	struct svc_mux *mux = &conn->mux;
	struct svc_buf *out = conn->tls != NULL ? &conn->cipher : &conn->output;
	int rv = nng_aio_result(conn->send_aio);
	bool more = false;
	if (rv == 0) {
		conn->written += nng_aio_count(conn->send_aio);
		if (conn->written < out->len && conn_send(conn))
			return;
	}
	lock(conn);
	bool shaking = conn->shaking;
	bool told = rv != 0 && !shaking && reader_tells(conn, rv);
	unlock(conn);
	if (!shaking) {
		/* A websocket and TLS may have sent more than they told. */
		size_t n = conn->layered || conn->tls != NULL ? conn->output.len
							      : conn->written;
		more = svc_mux_end_flush(mux, &conn->output, n);
		if (rv != 0 && !told)
			conn_lose(conn, rv);
		more = more && rv == 0;
	}
	bool wake = writing_over(conn, true, rv);
	if (shaking)
		secure_sent(conn, rv);
	else if (more)
		conn_flush(mux);
	if (wake)
		conn_kick(conn);
	svc_mux_unref(&conn->mux);
}

/* ---------------------------------------------------------------- reading */

static void
block_unref(struct block *block)
{
	if (block != NULL &&
	    __atomic_sub_fetch(&block->refs, 1, __ATOMIC_ACQ_REL) == 0)
		svc_mem_free(block);
}

static struct block *
block_create(size_t cap, const uint8_t *data, size_t len)
{
	struct block *block = svc_mem_alloc(sizeof(*block) + cap);
	if (block == NULL)
		return NULL;
	block->refs = 1;
	block->cap = cap;
	block->len = len;
	if (len > 0)
		memcpy(block->data, data, len);
	return block;
}

/* Makes room for what the next frame needs. False without memory. */
static bool
make_room(struct conn *conn)
{
	struct block *block = conn->block;
	size_t left = block != NULL ? block->len - conn->offset : 0;
	size_t need = svc_mux_need(&conn->mux);
	size_t cap = conn->block_size > need ? conn->block_size : need;
	if (block != NULL && left == 0) {
		block->len = 0;
		conn->offset = 0;
	}
	/* A block that a large frame needed is not kept for small ones. */
	if (block != NULL && block->cap - conn->offset >= need &&
	    block->len < block->cap && (left > 0 || block->cap <= MAX_BLOCK))
		return true;
	struct block *fresh = block_create(
	    cap, left > 0 ? block->data + conn->offset : NULL, left);
	if (fresh == NULL)
		return false;
	conn->block = fresh;
	conn->offset = 0;
	block_unref(block);
	return true;
}

/* A websocket reads ahead. When it finds the end between two reads, the next
 * one is never completed, for only what waits is told; but by then the stream
 * has lost its peer. */
static bool
has_ended(const struct conn *conn)
{
	nng_sockaddr address;
	return nng_stream_get_addr(conn->stream, NNG_OPT_REMADDR, &address) !=
	       0;
}

bool
conn_receive(struct conn *conn, void *data, size_t size)
{
	if (!may_start(conn))
		return false;
	lock(conn);
	conn->receiving = true;
	unlock(conn);
	svc_mux_ref(&conn->mux);
	nng_iov iov = {.iov_buf = data, .iov_len = size};
	nng_aio_set_iov(conn->recv_aio, 1, &iov);
	nng_stream_recv(conn->stream, conn->recv_aio);
	if (conn->layered && has_ended(conn))
		nng_stream_close(conn->stream); /* completes the read */
	started(conn);
	return true;
}

static bool
receive_more(struct conn *conn)
{
	struct block *block = conn->block;
	if (conn->tls != NULL)
		return conn_receive(conn, conn->came, COME_SIZE);
	return conn_receive(
	    conn, block->data + block->len, block->cap - block->len);
}

/* Nothing is handled until it completes. */
static void
receive(struct conn *conn)
{
	if (!make_room(conn))
		svc_mux_fail(&conn->mux, SVC_E_NOMEM, "out of memory");
	else if (conn->tls != NULL && secure_more(conn))
		conn_kick(conn);
	else
		receive_more(conn);
}

/* To nng a reset is the end of the stream, whatever came before it lies unread.
 * But it still reads from the socket when it is asked again, which then never
 * waits: first comes what is left, and then the end itself. */
static bool
read_rest(struct conn *conn, int rv)
{
	if (rv != NNG_ECONNSHUT || conn->rest || conn->layered ||
	    conn->listener != NULL)
		return false;
	conn->rest = true;
	return receive_more(conn);
}

static void
received(void *arg)
{
	struct conn *conn = arg;
	int rv = nng_aio_result(conn->recv_aio);
	size_t n = nng_aio_count(conn->recv_aio);
	if (rv != 0) {
		if (!read_rest(conn, rv))
			ended(conn, rv);
		svc_mux_unref(&conn->mux);
		return;
	} else if (conn->tls == NULL) {
		conn->spoken = true;
		struct block *block = conn->block;
		if (n == block->cap - block->len &&
		    conn->block_size < MAX_BLOCK)
			conn->block_size *= 2;
		block->len += n;
	} else if (!secure_received(conn, n)) {
		svc_mux_unref(&conn->mux);
		return;
	}
	lock(conn);
	conn->receiving = false;
	unlock(conn);
	conn_kick(conn);
	svc_mux_unref(&conn->mux);
}

static svc_mux_result
handle(struct conn *conn)
{
	struct svc_error err = {0};
	struct block *block = conn->block;
	if (block == NULL || conn->offset == block->len)
		return SVC_MUX_OK;
	__atomic_add_fetch(&block->refs, 1, __ATOMIC_RELAXED);
	svc_mux_result result = svc_mux_input(
	    &conn->mux, block->data, block->len, &conn->offset, &err);
	if (result == SVC_MUX_FAILED) {
		/* Only one of the two has TLS? Its first byte tells. */
		uint8_t first = conn->mux.foreign && conn->tls == NULL
				    ? block->data[conn->offset]
				    : 0;
		if (first == TLS_ALERT)
			svc_error_set(&err, SVC_E_UNAVAILABLE,
			    "%s speaks TLS, this client does not: give "
			    "--tls_ca (and --tls_cert, --tls_key)",
			    conn->mux.peer);
		else if (first == TLS_HANDSHAKE)
			svc_error_set(&err, SVC_E_UNAVAILABLE,
			    "%s speaks TLS, this service does not: give "
			    "--tls_cert and --tls_key",
			    conn->mux.peer);
		static struct svc_log_limit limit;
		svc_log_limited(&limit, SVC_LOG_WARN, "nng.protocol",
		    "closing the connection of %s: %s", conn->mux.peer,
		    err.text);
		svc_mux_fail(&conn->mux, SVC_E_UNAVAILABLE, err.text);
	}
	block_unref(block);
	return result;
}

/* After a take-over: the former owner still uses the block. */
static void
leave_block(struct conn *conn)
{
	struct block *block = conn->block;
	if (block == NULL)
		return;
	size_t left = block->len - conn->offset;
	conn->block = NULL;
	if (left > 0) {
		conn->block =
		    block_create(left, block->data + conn->offset, left);
		if (conn->block == NULL)
			svc_mux_fail(&conn->mux, SVC_E_NOMEM, "out of memory");
	}
	conn->offset = 0;
	block_unref(block);
}

/* --------------------------------------------------------------- the loop */

static void
finish(struct conn *conn)
{
	if (conn->finished)
		return;
	conn->finished = true;
	svc_mux_detach(&conn->mux);
	dial_give_up(conn);
	svc_source_detach(&conn->source);
	lock(conn);
	conn->attached = false;
	unlock(conn);
	close_stream(conn);
	lock(conn);
	nng_stream_dialer *dialer = conn->dialer;
	unlock(conn);
	/* A websocket's dialer that is closed may never tell the end of what it
	 * is about: that ends by itself, in the time it was given. */
	if (dialer != NULL && !conn->layered)
		nng_stream_dialer_close(dialer);
	svc_mux_unref(&conn->mux); /* the loop's; whoever kicked has one more */
}

/* False when the loop was lost. */
static bool
read_on_loop(struct conn *conn)
{
	svc_mux_result result = handle(conn);
	if (result == SVC_MUX_LOST)
		return false;
	lock(conn);
	conn->running = false;
	conn->paused = result == SVC_MUX_YIELD;
	unlock(conn);
	conn_flush(&conn->mux); /* unless it waits it ends the pause */
	if (result == SVC_MUX_SHARE)
		svc_mux_yield(&conn->mux, &conn->source);
	if (result == SVC_MUX_OK && !svc_mux_failed(&conn->mux))
		receive(conn);
	return true;
}

static void
conn_ready(struct svc_source *source, unsigned events)
{
	struct conn *conn =
	    (struct conn *)(void *)((char *)source -
				    offsetof(struct conn, source));
	bool resume = (events & SVC_IO_RESUME) != 0;
	if (events & SVC_IO_KICK)
		conn->kicks++;

	lock(conn);
	bool connected = conn->stream != NULL && !conn->shaking;
	bool run = connected && !conn->receiving && !conn->paused &&
		   !conn->closed && conn->running == resume;
	if (run)
		conn->running = true;
	bool aborted = conn->aborted;
	unlock(conn);

	if (!conn->timed && !conn->finished) {
		conn->timed = true;
		svc_mux_attach(&conn->mux);
	}
	if (resume) {
		if (run)
			leave_block(conn);
		conn_flush(&conn->mux);
	}
	if (run && !read_on_loop(conn))
		return;
	if (aborted && !conn->finished && !svc_mux_linger(&conn->mux))
		svc_mux_fail(&conn->mux, SVC_E_CLOSED, "closed");
	if (svc_mux_failed(&conn->mux)) {
		svc_mux_result closed = svc_mux_close_streams(&conn->mux);
		if (closed == SVC_MUX_LOST)
			return;
		if (closed == SVC_MUX_SHARE)
			svc_mux_yield(&conn->mux, &conn->source);
		else
			finish(conn);
	}
	/* The last of these may free it. */
	for (int kicks = conn->kicks; kicks > 0; kicks--) {
		conn->kicks--;
		svc_mux_unref(&conn->mux);
	}
}

/* ------------------------------------------------------- making and ending */

static void
free_on_loop(struct svc_task *task)
{
	struct conn *conn =
	    (struct conn *)(void *)((char *)task -
				    offsetof(struct conn, free_task));
	struct nng *self = conn->self;
	struct listener *listener = conn->listener;
	/* Perhaps their callbacks are just returning. */
	nng_aio_reap(conn->dial_aio);
	nng_aio_reap(conn->send_aio);
	nng_aio_reap(conn->recv_aio);
	dial_end(conn); /* the stream still refers to it */
	nng_stream_free(conn->stream);
	block_unref(conn->block);
	svc_buf_fini(&conn->output);
	svc_buf_fini(&conn->cipher);
	svc_mem_free(conn->came);
	tls_destroy(conn->tls);
	svc_mux_fini(&conn->mux);
	if (listener != NULL)
		listener_forget(listener, conn);
	svc_mem_free(conn);
	nng_conn_gone(self);
}

/* The last reference may go on a thread of nng, and to free a dialer waits for
 * another of these threads: when all of them did so, none would be left. */
static void
conn_free(struct svc_mux *mux)
{
	struct conn *conn = conn_of(mux);
	struct nng *self = conn->self;
	conn->free_task.run = free_on_loop;
	/* The connection may be gone before this thread is done with the loop,
	 * which is to outlive that. */
	nng_conn_made(self);
	svc_loop_post(conn->loop, &conn->free_task);
	nng_conn_gone(self);
}

void
conn_abort(struct conn *conn)
{
	lock(conn);
	conn->aborted = true;
	unlock(conn);
	conn_kick(conn);
}

static void
conn_close(struct svc_mux *mux)
{
	conn_abort(conn_of(mux));
}

static const struct svc_mux_ops mux_ops = {
    .flush = conn_flush,
    .free = conn_free,
    .close = conn_close,
};

struct conn *
conn_create(struct nng *self, struct listener *listener,
    const struct address *address, int64_t hello_ms, svc_accept_cb accept,
    void *arg, const char *peer)
{
	struct conn *conn = svc_mem_calloc(1, sizeof(*conn));
	if (conn == NULL)
		return NULL;
	if (address->tls) {
		conn->tls = tls_create(
		    self->tls, listener != NULL ? NULL : address->host, peer);
		conn->came = svc_mem_alloc(COME_SIZE);
	}
	conn->loop = svc_executor_loop(self->config.executor);
	struct svc_mux_config config = {
	    .ops = &mux_ops,
	    .transport = &nng_ops,
	    .loop = conn->loop,
	    .limits = self->config.limits,
	    .hello_ms = hello_ms,
	    .server = listener != NULL,
	    .accept = accept,
	    .accept_arg = arg,
	    .linger_until_ms =
		listener != NULL ? listener_linger(listener) : NULL,
	};
	if ((address->tls && (conn->tls == NULL || conn->came == NULL)) ||
	    nng_aio_alloc(&conn->send_aio, sent, conn) != 0 ||
	    nng_aio_alloc(&conn->recv_aio, received, conn) != 0 ||
	    (listener == NULL && dial_init(conn, address) != SVC_OK) ||
	    svc_mux_init(&conn->mux, &config, peer) != SVC_OK) {
		nng_aio_free(conn->dial_aio);
		dial_end(conn);
		nng_aio_free(conn->recv_aio);
		nng_aio_free(conn->send_aio);
		tls_destroy(conn->tls);
		svc_mem_free(conn->came);
		svc_mem_free(conn);
		return NULL;
	}
	conn->self = self;
	conn->listener = listener;
	conn->layered = address->layered;
	conn->local = !address->has_port;
	conn->shaking = address->tls;
	conn->source.fd = -1;
	conn->source.ready = conn_ready;
	conn->block_size = MIN_BLOCK;
	svc_buf_init(&conn->output, conn->mux.out.max);
	svc_buf_init(&conn->cipher, SIZE_MAX / 2);
	nng_conn_made(self);
	return conn;
}

void
conn_attach(struct conn *conn)
{
	svc_mux_ref(&conn->mux); /* of the loop, until finish */
	lock(conn);
	/* Without a descriptor to be watched it cannot fail. */
	svc_source_attach(conn->loop, &conn->source, 0, NULL);
	conn->attached = true;
	unlock(conn);
}

svc_err
conn_accept(struct nng *self, struct listener *listener, nng_stream *stream,
    const struct address *address, svc_accept_cb accept, void *arg,
    const char *peer, struct conn **ret_conn)
{
	struct conn *conn =
	    conn_create(self, listener, address, 0, accept, arg, peer);
	if (conn == NULL) {
		nng_stream_free(stream);
		return SVC_E_NOMEM;
	}
	conn->stream = stream;
	*ret_conn = conn;
	return SVC_OK;
}

void
conn_start(struct conn *conn)
{
	conn_attach(conn);
	if (conn->tls != NULL)
		secure_shake(conn);
	else
		conn_flush(&conn->mux); /* our hello goes first */
	conn_kick(conn);
	svc_mux_unref(&conn->mux); /* the loop's is left */
}
