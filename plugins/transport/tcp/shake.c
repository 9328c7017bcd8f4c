/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS handshakes. Their arithmetic would hold up the other connections of a
 * loop, a signature for a millisecond and a flood of them for as long as it
 * lasts. So a step is put into the shaker's queue, which a few threads work
 * off beside the loops, and its outcome comes back by a kick. Half the cores
 * are left for calls, however many peers ask for a handshake at once.
 *
 * shaker->mutex guards the queue and `workers`; it is taken under no other
 * lock and none is taken under it.
 */
#include "conn.h"

#define MAX_WORKERS 8

struct tcp_shaker {
	struct svc_executor *executor;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct conn *first, **last;
	int workers, most;
};

struct tcp_shaker *
tcp_shaker_create(struct svc_executor *executor)
{
	struct tcp_shaker *shaker = svc_mem_calloc(1, sizeof(*shaker));
	if (shaker == NULL)
		return NULL;
	int n = svc_thread_processors() / 2;
	shaker->executor = executor;
	shaker->last = &shaker->first;
	shaker->most = n < 1 ? 1 : n > MAX_WORKERS ? MAX_WORKERS : n;
	pthread_mutex_init(&shaker->mutex, NULL);
	svc_cond_init(&shaker->changed);
	return shaker;
}

void
tcp_shaker_destroy(struct tcp_shaker *shaker)
{
	if (shaker == NULL)
		return;
	/* The last worker may be on its way out still. */
	pthread_mutex_lock(&shaker->mutex);
	while (shaker->workers > 0)
		pthread_cond_wait(&shaker->changed, &shaker->mutex);
	pthread_mutex_unlock(&shaker->mutex);
	pthread_cond_destroy(&shaker->changed);
	pthread_mutex_destroy(&shaker->mutex);
	svc_mem_free(shaker);
}

static struct conn *
next(struct tcp_shaker *shaker)
{
	pthread_mutex_lock(&shaker->mutex);
	struct conn *conn = shaker->first;
	if (conn != NULL) {
		shaker->first = conn->shakes_next;
		if (shaker->first == NULL)
			shaker->last = &shaker->first;
	} else {
		shaker->workers--;
		pthread_cond_broadcast(&shaker->changed);
	}
	pthread_mutex_unlock(&shaker->mutex);
	return conn;
}

static void
run_step(struct conn *conn)
{
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
work(void *arg)
{
	struct tcp_shaker *shaker = arg;
	struct conn *conn;
	while ((conn = next(shaker)) != NULL)
		run_step(conn);
}

static void
queue_step(struct conn *conn)
{
	struct tcp_shaker *shaker = conn->tcp->shaker;
	svc_mux_ref(&conn->mux);
	lock(conn);
	conn->shake = SHAKE_RUNNING;
	conn_set_interest(conn);
	unlock(conn);
	pthread_mutex_lock(&shaker->mutex);
	conn->shakes_next = NULL;
	*shaker->last = conn;
	shaker->last = &conn->shakes_next;
	bool start = shaker->workers < shaker->most;
	if (start)
		shaker->workers++;
	pthread_mutex_unlock(&shaker->mutex);
	/* Without a thread to spare it is done here. */
	if (start && svc_executor_run(shaker->executor, work, shaker) != SVC_OK)
		work(shaker);
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
