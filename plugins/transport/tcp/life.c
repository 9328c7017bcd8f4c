/* SPDX-License-Identifier: Apache-2.0 */
/* How a connection is made, by accepting or dialling, and how it ends. */
#include "conn.h"

#include <errno.h>
#include <names/names.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIN_BLOCK 4096 /* storage for the first read */

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

static void
conn_free(struct svc_mux *mux)
{
	struct conn *conn = conn_of(mux);
	struct tcp *tcp = conn->tcp;
	if (conn->listener != NULL)
		listener_forget(conn->listener, conn);
	if (conn->source.fd >= 0)
		close(conn->source.fd);
	tls_destroy(conn->tls);
	block_unref(conn->block);
	svc_buf_fini(&conn->output);
	svc_mux_fini(mux);
	svc_mem_free(conn);
	pthread_mutex_lock(&tcp->mutex);
	tcp->n_conns--;
	pthread_cond_broadcast(&tcp->changed);
	pthread_mutex_unlock(&tcp->mutex);
}

void
conn_abort(struct conn *conn)
{
	lock(conn);
	__atomic_store_n(&conn->aborted, true, __ATOMIC_RELAXED);
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

static struct conn *
conn_create(struct tcp *tcp, struct listener *listener, int fd,
    int64_t hello_ms, svc_accept_cb accept, void *arg, const char *peer,
    const char *host)
{
	struct conn *conn = svc_mem_calloc(1, sizeof(*conn));
	if (conn == NULL)
		return NULL;
	conn->loop = svc_executor_loop(tcp->config.executor);
	struct svc_mux_config config = {
	    .ops = &mux_ops,
	    .transport = &tcp_ops,
	    .loop = conn->loop,
	    .limits = tcp->config.limits,
	    .hello_ms = hello_ms,
	    .server = listener != NULL,
	    .accept = accept,
	    .accept_arg = arg,
	    .linger_until_ms =
		listener != NULL ? listener_linger(listener) : NULL,
	};
	if (svc_mux_init(&conn->mux, &config, peer) != SVC_OK) {
		svc_mem_free(conn);
		return NULL;
	}
	if (tcp->tls != NULL) {
		conn->tls = tls_create(tcp->tls, host, peer);
		if (conn->tls == NULL) {
			svc_mux_fini(&conn->mux);
			svc_mem_free(conn);
			return NULL;
		}
		if (listener != NULL) {
			tls_use_socket(conn->tls, fd);
			conn->shake = SHAKE_READ;
		}
		conn->connecting = true;
		conn->mux.flushing = true; /* until the handshake is done */
	}
	conn->tcp = tcp;
	conn->listener = listener;
	conn->source.fd = fd;
	conn->source.ready = conn_ready;
	conn->reader = READER_LOOP;
	conn->block_size = MIN_BLOCK;
	svc_buf_init(&conn->output, conn->mux.out.max);
	pthread_mutex_lock(&tcp->mutex);
	tcp->n_conns++;
	pthread_mutex_unlock(&tcp->mutex);
	return conn;
}

/* Hands the connection to its loop. */
static void
conn_attach(struct conn *conn)
{
	struct svc_error err;
	svc_mux_ref(&conn->mux); /* of the loop, until finish */
	lock(conn);
	conn->interest = conn->connecting && conn->shake == SHAKE_NONE
			     ? SVC_IO_WRITE
			     : SVC_IO_READ;
	if (svc_source_attach(
		conn->loop, &conn->source, conn->interest, &err) != SVC_OK) {
		/* Without being watched it can only be closed, by a kick. */
		close(conn->source.fd);
		conn->source.fd = -1;
		svc_source_attach(conn->loop, &conn->source, 0, NULL);
		unlock(conn);
		svc_mux_fail(&conn->mux, err.code, err.text);
		lock(conn);
	}
	conn->attached = true;
	unlock(conn);
	conn_kick(conn);
}

svc_err
conn_accept(struct tcp *tcp, struct listener *listener, int fd,
    svc_accept_cb accept, void *arg, const char *peer, struct conn **ret_conn)
{
	struct conn *conn =
	    conn_create(tcp, listener, fd, 0, accept, arg, peer, NULL);
	if (conn == NULL) {
		close(fd);
		return SVC_E_NOMEM;
	}
	*ret_conn = conn;
	return SVC_OK;
}

void
conn_start(struct conn *conn)
{
	conn_flush(&conn->mux); /* our hello goes first */
	conn_attach(conn);
	svc_mux_unref(&conn->mux); /* the loop's is left */
}

/* Goes on with a socket that is connected or about to be, or, without one, with
 * the reason why not. */
static void
conn_use(struct conn *conn, int fd, int sys)
{
	char text[320];
	if (fd < 0) {
		snprintf(text, sizeof(text), "cannot connect to %s: %s",
		    conn->address, strerror(sys));
		svc_mux_fail(&conn->mux, SVC_E_UNAVAILABLE, text);
	}
	conn->source.fd = fd;
	conn_attach(conn);
}

/* On a thread that may block: the address is a name. */
static void
resolve_and_connect(void *arg)
{
	struct conn *conn = arg;
	struct addrinfo *found = NULL;
	struct svc_error err = {0};
	int64_t deadline_at_ms = svc_deadline(conn->mux.config.hello_ms);
	if (tcp_look_up(conn->address, false, false, &found, &err) == SVC_OK) {
		int sys = 0;
		int fd = names_connect_any(
		    found, deadline_at_ms, &conn->aborted, &sys);
		freeaddrinfo(found);
		conn_use(conn, fd, sys);
	} else {
		svc_mux_fail(&conn->mux, SVC_E_UNAVAILABLE, err.text);
		conn_attach(conn);
	}
	svc_mux_unref(&conn->mux);
}

svc_err
conn_dial(struct tcp *tcp, const char *address, int64_t timeout_ms,
    struct conn **ret_conn, struct svc_error *err)
{
	struct addrinfo *found = NULL; /* of a name: later */
	svc_err rc = tcp_look_up(address, false, true, &found, err);
	if (rc != SVC_OK && rc != SVC_E_AGAIN)
		return rc;
	char host[256];
	uint16_t port;
	struct conn *conn = NULL;
	rc = svc_address_split(address, host, sizeof(host), &port, err);
	if (rc == SVC_OK)
		conn = conn_create(tcp, NULL, -1,
		    timeout_ms > 0 ? timeout_ms : 5000, NULL, NULL, address,
		    host);
	if (conn == NULL) {
		if (found != NULL)
			freeaddrinfo(found);
		return rc != SVC_OK
			   ? rc
			   : svc_error_set(err, SVC_E_NOMEM, "out of memory");
	}
	snprintf(conn->address, sizeof(conn->address), "%s", address);
	conn->connecting = true;
	conn->mux.flushing = true; /* until it is connected */
	if (found != NULL) {
		int fd = names_connect(found);
		conn_use(conn, fd, fd < 0 ? errno : 0);
		freeaddrinfo(found);
	} else {
		svc_mux_ref(&conn->mux);
		rc = svc_executor_run(
		    tcp->config.executor, resolve_and_connect, conn);
		if (rc != SVC_OK) {
			svc_mux_unref(&conn->mux);
			svc_mux_unref(&conn->mux);
			return svc_error_set(
			    err, rc, "no thread to resolve \"%s\"", address);
		}
	}
	*ret_conn = conn;
	return SVC_OK;
}

void
conn_release(struct conn *conn)
{
	svc_mux_finish(&conn->mux);
	svc_mux_unref(&conn->mux);
}
