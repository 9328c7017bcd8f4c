/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_NNG_PRIVATE_H
#define SVC_NNG_PRIVATE_H

/* The parts of the nng transport: nng.c has the ops, address.c the addresses,
 * listener.c accepts, websocket.c ends those of websockets, dial.c connects,
 * conn.c moves the frames of one connection, secure.c has its TLS. */

#include <nng/nng.h>
#include <nng/supplemental/http/http.h>
#include <svc/clock.h>
#include <svc/log.h>
#include <svc/mux.h>

#define URL_MAX_LEN 320

struct tls_files;
struct tls_shaker;

struct nng {
	struct svc_transport_config config;
	struct tls_files *tls;     /* NULL: without TLS */
	struct tls_shaker *shaker; /* with it */
	void *inside;              /* the memory transport, for inproc:// */

	/* Connections that are not freed yet. */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	size_t n_conns;
};

struct listener;
struct conn;

extern const struct svc_transport_ops nng_ops;

void nng_conn_made(struct nng *self);
void nng_conn_gone(struct nng *self);
/* The code for one of nng's. */
svc_err nng_err(int rv);

struct address {
	char url[URL_MAX_LEN]; /* for nng, which sees no TLS */
	bool plain;            /* was given as host:port */
	bool has_port;
	bool layered; /* more than bytes into a socket: websocket */
	bool any;     /* every interface */
	bool tls;
	bool inproc;    /* within the process: not nng's business */
	bool is_path;   /* a socket in the file system */
	char host[256]; /* of one with a port */
};
/* From "host:port", which means TLS when there is TLS, or one of nng's URLs,
 * which must be of the kind that is configured unless it is local to the host.
 * Errors: SVC_E_INVAL with what is wrong and what is allowed */
svc_err address_parse(const char *address, bool to_listen, bool with_tls,
    struct address *ret_address, struct svc_error *err);
/* "host:port", "[v6]:port"; "" for what has no port. */
void address_format(const nng_sockaddr *address, char *out, size_t size);

svc_err listener_create(struct nng *self, const char *address,
    svc_accept_cb accept, void *arg, struct listener **ret_listener,
    struct svc_error *err);
const char *listener_address(struct listener *listener);
void listener_drain(struct listener *listener);
/* Until when its connections may linger; atomic. */
int64_t *listener_linger(struct listener *listener);
void listener_destroy(struct listener *listener);
/* A connection of it is being freed. */
void listener_forget(struct listener *listener, struct conn *conn);

/* The HTTP server of a listener of websockets that listens on this URL; it is
 * to be stopped after the listener was closed. NULL without memory. */
nng_http_server *websocket_server(
    nng_stream_listener *listener, const char *url);
/* Waits until its handshakes have ended, and gives it back. */
void websocket_server_stop(nng_http_server *server);
/* Frees a listener of websockets, or leaves it to a thread of its own when that
 * takes too long. */
void websocket_listener_free(nng_stream_listener *listener);

/* In the listener's list, under its mutex. */
struct conn_link {
	struct conn *prev, *next;
};
struct conn_link *conn_link(struct conn *conn);
struct svc_mux *conn_mux(struct conn *conn);

/* A server's connection. The stream is taken, also on failure. */
svc_err conn_accept(struct nng *self, struct listener *listener,
    nng_stream *stream, const struct address *address, svc_accept_cb accept,
    void *arg, const char *peer, struct conn **ret_conn);
/* Begin to read; it may be freed any time after. */
void conn_start(struct conn *conn);
svc_err conn_dial(struct nng *self, const char *address, int64_t timeout_ms,
    struct conn **ret_conn, struct svc_error *err);
/* Close it soon, whatever is open. Any thread that holds a reference. */
void conn_abort(struct conn *conn);
const char *conn_identity(struct svc_stream_handle *stream);

#endif
