/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TCP_H
#define SVC_TCP_H

/* The parts of the tcp transport: tcp.c has the ops and addresses, listener.c
 * accepts, conn.c moves the frames of one connection, through tls.c when there
 * is TLS. */

#include <netdb.h>
#include <svc/clock.h>
#include <svc/log.h>
#include <svc/mux.h>
#include <sys/socket.h>

#define TCP_KEPT 4

struct tcp {
	struct svc_transport_config config;
	/* Storage for reading, which idle connections leave to others; atomic,
	 * each used by some of the threads. */
	struct block *kept[TCP_KEPT];
	struct tls_files *tls;     /* NULL: connections are bare */
	struct tls_shaker *shaker; /* with tls */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int n_conns; /* not yet freed */
};

struct listener;
struct conn;

extern const struct svc_transport_ops tcp_ops;

/* What "host:port" stands for, to listen at (`passive`) or to call; for
 * freeaddrinfo. A name may block, or be SVC_E_AGAIN if only numbers will do.
 * Errors: SVC_E_INVAL, SVC_E_UNAVAILABLE (the name does not resolve) */
svc_err tcp_look_up(const char *address, bool passive, bool numeric_only,
    struct addrinfo **ret_found, struct svc_error *err);

svc_err listener_create(struct tcp *tcp, const char *address,
    svc_accept_cb accept, void *arg, struct listener **ret_listener,
    struct svc_error *err);
const char *listener_address(struct listener *listener);
void listener_drain(struct listener *listener);
/* Until when its connections may linger; atomic. */
int64_t *listener_linger(struct listener *listener);
void listener_destroy(struct listener *listener);
/* A connection of it has been freed. */
void listener_forget(struct listener *listener, struct conn *conn);

/* In the listener's list, under its mutex. */
struct conn_link {
	struct conn *prev, *next;
};
struct conn_link *conn_link(struct conn *conn);
struct svc_mux *conn_mux(struct conn *conn);

/* A server's connection from an accepted socket, which it takes. */
svc_err conn_accept(struct tcp *tcp, struct listener *listener, int fd,
    svc_accept_cb accept, void *arg, const char *peer, struct conn **ret_conn);
/* Begin to read; it may be freed any time after. */
void conn_start(struct conn *conn);
svc_err conn_dial(struct tcp *tcp, const char *address, int64_t timeout_ms,
    struct conn **ret_conn, struct svc_error *err);
/* Close it soon, whatever is open. Any thread that holds a reference. */
void conn_abort(struct conn *conn);
/* The client gives it up: close it when its streams have ended. */
void conn_release(struct conn *conn);
svc_err conn_open(struct conn *conn, const struct svc_part *first,
    unsigned flags, const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err);
/* The name in the peer's certificate, or NULL. */
const char *conn_identity(struct svc_stream_handle *stream);
svc_err conn_wait(struct svc_stream_handle *stream, int64_t deadline_at_ms);

#endif
