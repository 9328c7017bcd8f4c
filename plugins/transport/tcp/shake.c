/* SPDX-License-Identifier: Apache-2.0 */
/* TLS handshakes: their steps are computed by the shaker, beside the loops, and
 * an outcome comes back by a kick. */
#include "conn.h"

static void
run_step(struct svc_task *task)
{
	struct conn *conn =
	    (struct conn *)(void *)((char *)task -
				    offsetof(struct conn, shake_step));
	static const enum shake after[] = {
	    [TLS_DONE] = SHAKE_DONE,
	    [TLS_WANT_READ] = SHAKE_READ,
	    [TLS_WANT_WRITE] = SHAKE_WRITE,
	    [TLS_FAILED] = SHAKE_FAILED,
	};
	/* It may have been given up while it waited here. */
	enum shake shake = svc_mux_failed(&conn->mux)
			       ? SHAKE_FAILED
			       : after[tls_shake(conn->tls)];
	lock(conn);
	conn->shake = shake;
	unlock(conn);
	conn_kick(conn);
	svc_mux_unref(&conn->mux);
}

static void
queue_step(struct conn *conn)
{
	svc_mux_ref(&conn->mux);
	lock(conn);
	conn->shake = SHAKE_RUNNING;
	conn_set_interest(conn);
	unlock(conn);
	conn->shake_step.run = run_step;
	tls_shaker_run(conn->tcp->shaker, &conn->shake_step);
}

static void
fail(struct conn *conn)
{
	static struct svc_log_limit limit;
	struct tls_failure why;
	if (!tls_reason(conn->tls, &why))
		return; /* it had failed before */
	if (conn->listener != NULL && !why.gone)
		svc_log_limited(
		    &limit, SVC_LOG_WARN, "tls.refused", "%s", why.text);
	svc_mux_fail(&conn->mux, SVC_E_UNAVAILABLE, why.text);
}

void
conn_shake(struct conn *conn, unsigned events)
{
	lock(conn);
	enum shake shake = conn->shake;
	unlock(conn);
	switch (shake) {
	case SHAKE_NONE:
		queue_step(conn);
		break;
	case SHAKE_READ:
	case SHAKE_WRITE:
		if (events & (SVC_IO_READ | SVC_IO_WRITE | SVC_IO_HANGUP))
			queue_step(conn);
		break;
	case SHAKE_RUNNING:
		break;
	case SHAKE_DONE:
		conn_connected(conn);
		conn_kick(conn); /* frames may have come along already */
		break;
	case SHAKE_FAILED:
		fail(conn);
		break;
	}
}

const char *
conn_identity(struct svc_stream_handle *stream)
{
	struct conn *conn = conn_of(svc_mux_of(stream));
	return conn->tls != NULL ? tls_identity(conn->tls) : NULL;
}
