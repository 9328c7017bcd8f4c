/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS of a connection: nng moves the bytes and knows nothing of it, so it is
 * the same TLS as that of the transport "tcp". Its arithmetic is done on nng's
 * threads, beside the loops.
 */
#include "conn.h"

#include <errno.h>
#include <stdio.h>

#define KEEP_CIPHER 16384u
#define MAX_BLOCK 65536
#define MAX_DISCARD ((size_t)1 << 20) /* of what a refused peer still sends */

static void
out_of_memory(struct conn *conn)
{
	svc_mux_fail(&conn->mux, SVC_E_NOMEM, "out of memory");
	conn_kick(conn);
}

/* What the last step wrote is sent. */
static void
go_on(struct conn *conn)
{
	static struct svc_log_limit limit;
	struct tls_failure why;
	switch (conn->step) {
	case TLS_DONE:
		lock(conn);
		conn->shaking = false;
		unlock(conn);
		conn_flush(&conn->mux); /* our hello goes first */
		conn_kick(conn);        /* frames may have come along already */
		break;
	case TLS_FAILED:
		if (conn->listener == NULL || !tls_reason(conn->tls, &why)) {
			conn_lose(conn, NNG_ECLOSED);
			conn_kick(conn);
			break;
		}
		svc_log_limited(
		    &limit, SVC_LOG_WARN, "tls.refused", "%s", why.text);
		/* A stream that is closed with bytes unread is reset, and then
		 * the peer does not read why. So it is the peer who closes it,
		 * or the time for a handshake ends. */
		conn_receive(conn, conn->came, COME_SIZE);
		break;
	default:
		conn_receive(conn, conn->came, COME_SIZE);
	}
}

static void
run_step(struct svc_task *task)
{
	struct conn *conn =
	    (struct conn *)(void *)((char *)task -
				    offsetof(struct conn, shake_step));
	if (svc_mux_failed(&conn->mux)) { /* while it waited here */
		svc_mux_unref(&conn->mux);
		return;
	}
	conn->step = tls_shake(conn->tls);
	svc_buf_clear(&conn->cipher);
	conn->written = 0;
	svc_err taken = tls_take(conn->tls, &conn->cipher);
	if (taken == SVC_OK && conn->cipher.len > 0) {
		lock(conn);
		conn->sends++;
		unlock(conn);
		if (conn_send(conn))
			return; /* whose completion has the reference now */
		lock(conn);
		conn->sends--;
		unlock(conn);
	} else if (taken == SVC_OK) {
		go_on(conn);
	} else {
		out_of_memory(conn);
	}
	svc_mux_unref(&conn->mux);
}

void
secure_shake(struct conn *conn)
{
	svc_mux_ref(&conn->mux);
	conn->shake_step.run = run_step;
	tls_shaker_run(conn->self->shaker, &conn->shake_step);
}

void
secure_sent(struct conn *conn, int rv)
{
	if (rv == 0)
		go_on(conn);
	else
		conn_lose(conn, rv);
}

bool
secure_output(struct conn *conn)
{
	const struct svc_buf *out = &conn->output;
	struct svc_buf *cipher = &conn->cipher;
	size_t done = 0;
	if (conn->tls == NULL)
		return true;
	/* What a burst needed is not kept for single frames. */
	if (cipher->cap > KEEP_CIPHER && out->len < KEEP_CIPHER / 2) {
		svc_buf_fini(cipher);
		svc_buf_init(cipher, SIZE_MAX / 2);
	}
	svc_buf_clear(cipher);
	while (done < out->len) {
		ssize_t n =
		    tls_write(conn->tls, out->data + done, out->len - done);
		if (n < 0) {
			conn_lose(conn, NNG_ECRYPTO);
			conn_kick(conn);
			return false;
		}
		done += (size_t)n;
	}
	if (tls_take(conn->tls, cipher) == SVC_OK)
		return true;
	out_of_memory(conn);
	return false;
}

bool
secure_more(struct conn *conn)
{
	struct block *block = conn->block;
	size_t room = block->cap - block->len;
	ssize_t n = tls_read(conn->tls, block->data + block->len, room);
	if (n > 0) {
		if ((size_t)n == room && conn->block_size < MAX_BLOCK)
			conn->block_size *= 2;
		block->len += (size_t)n;
		return true;
	}
	if (n < 0 && errno == EAGAIN)
		return false;
	conn_lose(conn, n == 0 ? NNG_ECONNSHUT : NNG_ECRYPTO);
	return true;
}

bool
secure_received(struct conn *conn, size_t n)
{
	lock(conn);
	bool shaking = conn->shaking;
	if (shaking)
		conn->receiving = false;
	unlock(conn);
	if (shaking && conn->step == TLS_FAILED) {
		conn->discarded += n;
		if (conn->discarded > MAX_DISCARD) {
			conn_lose(conn, NNG_ECLOSED);
			return true;
		}
	} else if (tls_put(conn->tls, conn->came, n) != SVC_OK) {
		svc_mux_fail(&conn->mux, SVC_E_NOMEM, "out of memory");
		return true;
	} else if (shaking) {
		secure_shake(conn);
		return false;
	} else if (secure_more(conn)) {
		return true;
	}
	conn_receive(conn, conn->came, COME_SIZE);
	return false;
}

bool
secure_reason(struct conn *conn, char *text, size_t size)
{
	struct tls_failure why;
	bool known = tls_reason(conn->tls, &why);
	lock(conn);
	bool shaking = conn->shaking;
	if (known && why.unheard) /* then no handler has seen anything */
		conn->mux.foreign = true;
	unlock(conn);
	static struct svc_log_limit limit;
	if (known && why.broke)
		svc_log_limited(&limit, SVC_LOG_WARN, "nng.protocol",
		    "closing the connection of %s: %s", conn->mux.peer,
		    why.text);
	if (known)
		snprintf(text, size, "%s", why.text);
	else if (shaking)
		snprintf(text, size,
		    "%s left the TLS handshake: closed by the peer",
		    conn->mux.peer);
	return known || shaking;
}

const char *
conn_identity(struct svc_stream_handle *stream)
{
	struct conn *conn = (struct conn *)(void *)svc_mux_of(stream);
	return conn->tls != NULL ? tls_identity(conn->tls) : NULL;
}
