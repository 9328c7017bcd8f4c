/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accepts connections. nng accepts on its own threads; the loop is there for
 * the pause after a failure. listener->mutex guards the list of connections
 * and the fields below it; no callback runs under it.
 */
#include "nng_private.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

/* When there are no descriptors left. */
#define PAUSE_MS 100
/* After one that is too many: nng closes it a little later, and takes the next
 * before. */
#define REFUSED_MS 10
#define SAY_MS 60000 /* so often at most */

struct listener {
	struct nng *self;
	nng_stream_listener *listener;
	nng_http_server *server; /* of websockets; NULL: of none */
	nng_aio *aio;
	struct svc_source source; /* only kicked */
	struct svc_timer pause;
	struct svc_task close_task;
	struct svc_loop *loop;
	svc_accept_cb accept;
	void *arg;
	struct address given;
	char address[URL_MAX_LEN]; /* with the real port */
	int64_t linger_until_ms;   /* atomic */
	int64_t say_at_ms;         /* of whoever accepts */

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct conn *conns;
	uint32_t n_conns;
	int64_t pause_ms; /* to come; 0: none */
	bool closing;     /* nothing is accepted any more */
	bool closed;      /* and the loop is through with it */
};

static void
lock(struct listener *listener)
{
	pthread_mutex_lock(&listener->mutex);
}

static void
unlock(struct listener *listener)
{
	pthread_mutex_unlock(&listener->mutex);
}

static void
log_full(const struct listener *listener)
{
	static struct svc_log_limit limit;
	svc_log_limited(&limit, SVC_LOG_WARN, "nng.full",
	    "%s has %u connections, which is its limit "
	    "(--max_connections, ulimit -n): further ones are closed",
	    listener->address, listener->self->config.limits.max_connections);
}

/* Counts one in, if there is room. */
static bool
count_conn(struct listener *listener)
{
	uint32_t most = listener->self->config.limits.max_connections;
	lock(listener);
	bool room = !listener->closing && listener->n_conns < most;
	bool full = !listener->closing && !room;
	if (room)
		listener->n_conns++;
	unlock(listener);
	if (full)
		log_full(listener);
	return room;
}

static void
discount_conn(struct listener *listener)
{
	lock(listener);
	listener->n_conns--;
	pthread_cond_broadcast(&listener->changed);
	unlock(listener);
}

static bool
add_conn(struct listener *listener, struct conn *conn)
{
	lock(listener);
	bool add = !listener->closing;
	if (add) {
		struct conn_link *link = conn_link(conn);
		link->next = listener->conns;
		if (link->next != NULL)
			conn_link(link->next)->prev = conn;
		listener->conns = conn;
	}
	unlock(listener);
	return add;
}

void
listener_forget(struct listener *listener, struct conn *conn)
{
	lock(listener);
	struct conn_link *link = conn_link(conn);
	if (link->prev != NULL)
		conn_link(link->prev)->next = link->next;
	else if (listener->conns == conn)
		listener->conns = link->next;
	if (link->next != NULL)
		conn_link(link->next)->prev = link->prev;
	unlock(listener);
	discount_conn(listener);
}

/* False when it is one too many. */
static bool
take_stream(struct listener *listener, nng_stream *stream)
{
	if (!count_conn(listener)) {
		nng_stream_free(stream);
		return false;
	}
	/* A peer on a unix socket has no address: it is named by ours. */
	nng_sockaddr from = {0};
	char peer[80] = "";
	if (nng_stream_get_addr(stream, NNG_OPT_REMADDR, &from) == 0)
		address_format(&from, peer, sizeof(peer));
	struct conn *conn;
	if (conn_accept(listener->self, listener, stream, &listener->given,
		listener->accept, listener->arg,
		peer[0] != 0 ? peer : listener->address, &conn) != SVC_OK) {
		discount_conn(listener);
		return true;
	}
	if (!add_conn(listener, conn))
		conn_abort(conn);
	conn_start(conn);
	return true;
}

/* Accepts again later. */
static void
pause_for(struct listener *listener, int64_t pause_ms)
{
	lock(listener);
	listener->pause_ms = pause_ms;
	unlock(listener);
	svc_source_kick(&listener->source);
}

static void
accepted(void *arg)
{
	struct listener *listener = arg;
	int rv = nng_aio_result(listener->aio);
	if (rv == NNG_ECLOSED || rv == NNG_ECANCELED)
		return;
	if (rv == 0) {
		if (take_stream(listener, nng_aio_get_output(listener->aio, 0)))
			nng_stream_listener_accept(
			    listener->listener, listener->aio);
		else
			pause_for(listener, REFUSED_MS);
		return;
	}
	if (svc_now_ms() >= listener->say_at_ms) {
		listener->say_at_ms = svc_deadline(SAY_MS);
		svc_log(SVC_LOG_WARN, "nng.accept",
		    "cannot accept on %s, where connections wait until it can: "
		    "%s",
		    listener->address, nng_strerror(rv));
	}
	pause_for(listener, PAUSE_MS);
}

static void
listener_ready(struct svc_source *source, unsigned events)
{
	struct listener *listener =
	    (struct listener *)(void *)((char *)source -
					offsetof(struct listener, source));
	(void)events;
	lock(listener);
	int64_t pause_ms = listener->closing ? 0 : listener->pause_ms;
	listener->pause_ms = 0;
	unlock(listener);
	if (pause_ms > 0)
		svc_timer_start(
		    listener->loop, &listener->pause, svc_deadline(pause_ms));
}

/* Behind every kick: nothing is accepted any more when this is posted. */
static void
listener_close(struct svc_task *task)
{
	struct listener *listener =
	    (struct listener *)(void *)((char *)task -
					offsetof(struct listener, close_task));
	svc_timer_stop(listener->loop, &listener->pause);
	svc_source_detach(&listener->source);
	lock(listener);
	listener->closed = true;
	pthread_cond_broadcast(&listener->changed);
	unlock(listener);
}

static void
go_on(struct svc_timer *timer)
{
	struct listener *listener =
	    (struct listener *)(void *)((char *)timer -
					offsetof(struct listener, pause));
	nng_stream_listener_accept(listener->listener, listener->aio);
}

/* Begins to listen on the URL. */
static int
open_listener(const char *url, nng_stream_listener **ret)
{
	nng_stream_listener *listener;
	int rv = nng_stream_listener_alloc(&listener, url);
	if (rv != 0)
		return rv;
	/* nng's streams wait for more to send, other than its sockets. Those
	 * that are not of TCP do not know the option. */
	nng_stream_listener_set_bool(listener, NNG_OPT_TCP_NODELAY, true);
	rv = nng_stream_listener_listen(listener);
	if (rv != 0)
		nng_stream_listener_free(listener);
	else
		*ret = listener;
	return rv;
}

/* Every interface is of both families, unless the scheme says which; a host
 * without IPv6 has the other only. The URL becomes the one it listens on. */
static int
open_address(struct address *address, nng_stream_listener **ret)
{
	const char *host = strstr(address->url, "://") + 3;
	char every[URL_MAX_LEN];
	int len = snprintf(every, sizeof(every), "%.*s[::]%s",
	    (int)(host - address->url), address->url,
	    host + strlen(address->host));
	if (!address->any || strncmp(address->url, "tcp4:", 5) == 0 ||
	    len >= (int)sizeof(every))
		return open_listener(address->url, ret);
	int rv = open_listener(every, ret);
	if (rv == 0)
		memcpy(address->url, every, (size_t)len + 1);
	else if (rv == NNG_EADDRINVAL || rv == NNG_ENOTSUP)
		rv = open_listener(address->url, ret);
	return rv;
}

/* Where it listens, with the real port: as it was given, host:port or URL. */
static void
describe(
    struct listener *listener, const struct address *address, const char *given)
{
	nng_sockaddr bound = {0};
	char real[80] = "";
	snprintf(listener->address, sizeof(listener->address), "%s", given);
	if (!address->has_port ||
	    nng_stream_listener_get_addr(
		listener->listener, NNG_OPT_LOCADDR, &bound) != 0)
		return;
	address_format(&bound, real, sizeof(real));
	if (real[0] == 0)
		return;
	if (address->plain) {
		snprintf(
		    listener->address, sizeof(listener->address), "%s", real);
		return;
	}
	const char *begin = strstr(given, "://") + 3, *new = real;
	const char *path = begin + strcspn(begin, "/?#");
	/* Whoever calls a websocket by another name is told that there is none.
	 */
	if (address->layered && !address->any) {
		begin = memrchr(begin, ':', (size_t)(path - begin));
		new = strrchr(real, ':');
	}
	snprintf(listener->address, sizeof(listener->address), "%.*s%s%s",
	    (int)(begin - given), given, new, path);
}

/* Where a socket cannot be bound nng removes what it cannot connect to, as the
 * socket of one who was killed; a file that is none must not be lost so. */
static bool
is_taken_by_a_file(const struct address *address)
{
	struct stat there;
	const char *path = strstr(address->url, "://") + 3;
	return address->is_path && stat(path, &there) == 0 &&
	       !S_ISSOCK(there.st_mode);
}

/* What nng says is in the words of its interface. */
static svc_err
explain(int rv, const struct address *address, const char *given,
    struct svc_error *err)
{
	const char *why = nng_strerror(rv);
	struct sockaddr_un un;
	if (rv == NNG_EADDRINUSE)
		return svc_error_set(err, nng_err(rv),
		    "address \"%s\" is in use by another program; choose "
		    "another%s (%s)",
		    given,
		    address->has_port ? " port, or port 0 for a free one" : "",
		    why);
	if (rv == NNG_ENOENT && address->is_path)
		why = "the folder of its path does not exist";
	else if (rv == NNG_EADDRINVAL && address->has_port)
		why = "its host is no address of this machine, nor a name of "
		      "one; leave it out to listen on all";
	if (rv == NNG_EADDRINVAL && !address->has_port)
		return svc_error_set(err, nng_err(rv),
		    "cannot listen on address \"%.40s...\": it is too long; "
		    "allowed are %zu bytes behind \"://\"",
		    given, sizeof(un.sun_path) - 1);
	return svc_error_set(err, nng_err(rv),
	    "cannot listen on address \"%s\": %s", given, why);
}

svc_err
listener_create(struct nng *self, const char *given, svc_accept_cb accept,
    void *arg, struct listener **ret_listener, struct svc_error *err)
{
	struct address address;
	svc_err rc =
	    address_parse(given, true, self->tls != NULL, &address, err);
	if (rc != SVC_OK)
		return rc;
	if (address.tls && self->config.tls->cert == NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "a service that speaks TLS needs a certificate: give "
		    "--tls_cert and --tls_key");
	if (is_taken_by_a_file(&address))
		return svc_error_set(err, SVC_E_EXISTS,
		    "address \"%s\" names a file that is no socket; choose "
		    "another path",
		    given);
	struct listener *listener = svc_mem_calloc(1, sizeof(*listener));
	if (listener == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	int rv = nng_aio_alloc(&listener->aio, accepted, listener);
	if (rv == 0)
		rv = open_address(&address, &listener->listener);
	if (rv != 0) {
		nng_aio_free(listener->aio);
		svc_mem_free(listener);
		return explain(rv, &address, given, err);
	}
	listener->self = self;
	listener->accept = accept;
	listener->arg = arg;
	listener->linger_until_ms = INT64_MAX;
	listener->given = address;
	listener->source.fd = -1;
	listener->source.ready = listener_ready;
	listener->close_task.run = listener_close;
	listener->pause.fire = go_on;
	listener->loop = svc_executor_loop(self->config.executor);
	pthread_mutex_init(&listener->mutex, NULL);
	svc_cond_init(&listener->changed);
	describe(listener, &address, given);
	if (address.layered)
		listener->server =
		    websocket_server(listener->listener, address.url);
	/* Without a descriptor to be watched it cannot fail. */
	svc_source_attach(listener->loop, &listener->source, 0, NULL);
	nng_stream_listener_accept(listener->listener, listener->aio);
	*ret_listener = listener;
	return SVC_OK;
}

const char *
listener_address(struct listener *listener)
{
	return listener->address;
}

/* Takes a reference unless the last one is gone already. */
static bool
try_ref(struct svc_mux *mux)
{
	int refs = __atomic_load_n(&mux->refs, __ATOMIC_ACQUIRE);
	while (refs > 0)
		if (__atomic_compare_exchange_n(&mux->refs, &refs, refs + 1,
			true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return true;
	return false;
}

/* Once for each that is there now; the list may change meanwhile. */
static void
each_conn(struct listener *listener, void (*act)(struct conn *conn))
{
	struct conn *conn, *next;
	lock(listener);
	for (conn = listener->conns; conn != NULL; conn = conn_link(conn)->next)
		if (try_ref(conn_mux(conn)))
			break;
	while (conn != NULL) {
		unlock(listener);
		act(conn);
		lock(listener);
		/* The reference keeps this one in the list. */
		for (next = conn_link(conn)->next; next != NULL;
		     next = conn_link(next)->next)
			if (try_ref(conn_mux(next)))
				break;
		unlock(listener);
		svc_mux_unref(conn_mux(conn));
		lock(listener);
		conn = next;
	}
	unlock(listener);
}

static void
drain_conn(struct conn *conn)
{
	svc_mux_drain(conn_mux(conn));
}

/* After this the system refuses new connections. */
static void
stop_accepting(struct listener *listener)
{
	lock(listener);
	bool first = !listener->closing;
	listener->closing = true;
	unlock(listener);
	if (first) {
		nng_stream_listener_close(listener->listener);
		if (listener->server != NULL)
			websocket_server_stop(listener->server);
		nng_aio_stop(listener->aio);
		svc_loop_post(listener->loop, &listener->close_task);
	}
	lock(listener);
	while (!listener->closed)
		pthread_cond_wait(&listener->changed, &listener->mutex);
	unlock(listener);
}

void
listener_drain(struct listener *listener)
{
	stop_accepting(listener);
	each_conn(listener, drain_conn);
}

int64_t *
listener_linger(struct listener *listener)
{
	return &listener->linger_until_ms;
}

void
listener_destroy(struct listener *listener)
{
	stop_accepting(listener);
	each_conn(listener, conn_abort);
	lock(listener);
	while (listener->n_conns > 0)
		pthread_cond_wait(&listener->changed, &listener->mutex);
	unlock(listener);
	if (listener->server != NULL)
		websocket_listener_free(listener->listener);
	else
		nng_stream_listener_free(listener->listener);
	nng_aio_free(listener->aio);
	pthread_cond_destroy(&listener->changed);
	pthread_mutex_destroy(&listener->mutex);
	svc_mem_free(listener);
}
