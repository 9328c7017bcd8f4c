/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a client's connection is made. nng tries the first address of a name
 * only, what it says of a name without one does not help, and a try that is
 * given up may leave it confused. So names are looked up here, and of several
 * addresses nng gets the one that has just answered.
 */
#include "conn.h"

#include <errno.h>
#include <names/names.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct route {
	struct address address;
	struct addrinfo *found;     /* NULL: it is no name, or not looked up */
	struct sockaddr_storage to; /* of family 0: what nng finds */
	bool given_up;              /* atomic */
	bool by_number;             /* that is how a websocket is asked for */
};

static void
fail(struct conn *conn, const char *why)
{
	char text[480];
	snprintf(text, sizeof(text), "cannot connect to %s: %s", conn->mux.peer,
	    why);
	svc_mux_fail(&conn->mux, SVC_E_UNAVAILABLE, text);
	conn_kick(conn);
}

/* What nng is to dial: the URL with an address in the place of the name. */
static void
write_url(const struct route *route, char *out, size_t size)
{
	const char *given = strstr(route->address.url, "://") + 3;
	bool v6 = route->to.ss_family == AF_INET6;
	char host[NI_MAXHOST], port[NI_MAXSERV];
	if (route->to.ss_family == 0 ||
	    getnameinfo((const struct sockaddr *)&route->to, sizeof(route->to),
		host, sizeof(host), port, sizeof(port),
		NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(out, size, "%s", route->address.url);
	else
		snprintf(out, size, "%s%s%s%s:%s%s",
		    route->address.layered ? "ws://" : "tcp://", v6 ? "[" : "",
		    host, v6 ? "]" : "", port, given + strcspn(given, "/?#"));
}

/* Whoever serves a websocket goes by the host that was asked for. */
static int
set_host(nng_stream_dialer *dialer, const struct route *route)
{
	char number[NI_MAXHOST + URL_MAX_LEN];
	const char *url = route->address.url;
	char header[sizeof(number) + sizeof("Host: \r\n")];
	if (!route->address.layered)
		return 0;
	if (route->by_number) {
		write_url(route, number, sizeof(number));
		url = number;
	}
	url = strstr(url, "://") + 3;
	snprintf(header, sizeof(header), "Host: %.*s\r\n",
	    (int)strcspn(url, "/?#"), url);
	return nng_stream_dialer_set_string(
	    dialer, NNG_OPT_WS_REQUEST_HEADERS, header);
}

/* A websocket that listens on a number is not served by any name of it. */
static bool
ask_by_number(struct conn *conn)
{
	struct route *route = conn->route;
	if (route->by_number || route->to.ss_family == 0)
		return false;
	route->by_number = true;
	return set_host(conn->dialer, route) == 0;
}

static int
make_dialer(struct conn *conn)
{
	char url[NI_MAXHOST + URL_MAX_LEN];
	nng_stream_dialer *dialer;
	write_url(conn->route, url, sizeof(url));
	int rv = nng_stream_dialer_alloc(&dialer, url);
	if (rv != 0)
		return rv;
	/* Those that are not of TCP do not know the option. */
	nng_stream_dialer_set_bool(dialer, NNG_OPT_TCP_NODELAY, true);
	rv = set_host(dialer, conn->route);
	if (rv != 0) {
		nng_stream_dialer_free(dialer);
		return rv;
	}
	lock(conn);
	conn->dialer = dialer;
	unlock(conn);
	return 0;
}

static void
begin(struct conn *conn)
{
	svc_mux_ref(&conn->mux); /* until it is dialled */
	nng_stream_dialer_dial(conn->dialer, conn->dial_aio);
}

static bool
is_given_up(struct conn *conn)
{
	lock(conn);
	bool closed = conn->closed;
	unlock(conn);
	return closed;
}

static void
connected(struct conn *conn)
{
	lock(conn);
	conn->stream = nng_aio_get_output(conn->dial_aio, 0);
	bool late = conn->closed;
	unlock(conn);
	if (late)
		nng_stream_close(conn->stream);
	if (conn->tls != NULL)
		secure_shake(conn);
	else
		conn_flush(&conn->mux); /* the hello goes first */
	conn_kick(conn);
}

static void
dialed(void *arg)
{
	struct conn *conn = arg;
	int rv = nng_aio_result(conn->dial_aio);
	if (rv == 0) {
		connected(conn);
	} else if (is_given_up(conn)) {
		fail(conn, nng_strerror(rv));
	} else if (rv == NNG_ETIMEDOUT && conn->layered) {
		/* nng gives a websocket's handshake 2 s, whatever was asked. */
		nng_stream_dialer_dial(conn->dialer, conn->dial_aio);
		return;
	} else if (rv == NNG_EPERM && conn->layered && ask_by_number(conn)) {
		nng_stream_dialer_dial(conn->dialer, conn->dial_aio);
		return;
	} else if (rv == NNG_EPERM && conn->layered) {
		fail(conn,
		    "it is served there by another name of the host: call it "
		    "by the name or number that it listens on");
	} else if (rv == NNG_ECONNREFUSED && conn->layered) {
		fail(conn,
		    "refused, by the system or because no websocket is served "
		    "there at this path");
	} else {
		fail(conn, nng_strerror(rv));
	}
	svc_mux_unref(&conn->mux);
}

/* ------------------------------------------------------------ the addresses */

static int
look_up(const struct address *address, int flags, struct addrinfo **ret_found)
{
	const char *given = strstr(address->url, "://") + 3;
	char port[8], authority[URL_MAX_LEN];
	size_t len = strcspn(given, "/?#");
	struct addrinfo hints = {
	    .ai_family = strncmp(address->url, "tcp4", 4) == 0   ? AF_INET
			 : strncmp(address->url, "tcp6", 4) == 0 ? AF_INET6
								 : AF_UNSPEC,
	    .ai_socktype = SOCK_STREAM,
	    .ai_flags = AI_NUMERICSERV | flags,
	};
	memcpy(authority, given, len);
	authority[len] = 0;
	snprintf(port, sizeof(port), "%s", strrchr(authority, ':') + 1);
	return getaddrinfo(address->host, port, &hints, ret_found);
}

/* The one that answers, when there are several. False: none does. */
static bool
choose(struct conn *conn)
{
	struct route *route = conn->route;
	const struct addrinfo *first = route->found;
	socklen_t len = sizeof(route->to);
	int sys = 0;
	if (first->ai_next == NULL) {
		memcpy(&route->to, first->ai_addr, first->ai_addrlen);
		return true;
	}
	int fd = names_connect_any(first,
	    svc_deadline(conn->mux.config.hello_ms), &route->given_up, &sys);
	bool known = fd >= 0;
	if (known &&
	    getpeername(fd, (struct sockaddr *)&route->to, &len) != 0) {
		sys = errno; /* it has left again */
		known = false;
	}
	if (fd >= 0)
		close(fd);
	if (!known)
		fail(conn, strerror(sys));
	return known;
}

/* On a thread that may block: the host is a name. */
static void
resolve_and_dial(void *arg)
{
	struct conn *conn = arg;
	struct route *route = conn->route;
	char text[200];
	int sys = look_up(&route->address, 0, &route->found);
	if (sys != 0) {
		snprintf(text, sizeof(text), "its host cannot be resolved: %s",
		    gai_strerror(sys));
		fail(conn, text);
	} else if (choose(conn) && !is_given_up(conn)) {
		int rv = make_dialer(conn);
		if (rv == 0)
			begin(conn);
		else
			fail(conn, nng_strerror(rv));
	}
	svc_mux_unref(&conn->mux);
}

static void
resolve(struct conn *conn)
{
	svc_mux_ref(&conn->mux);
	if (svc_executor_run(
		conn->self->config.executor, resolve_and_dial, conn) == SVC_OK)
		return;
	fail(conn, "no thread to resolve the name");
	svc_mux_unref(&conn->mux);
}

/* ---------------------------------------------------------- making, ending */

svc_err
dial_init(struct conn *conn, const struct address *address)
{
	conn->route = svc_mem_calloc(1, sizeof(*conn->route));
	if (conn->route == NULL ||
	    nng_aio_alloc(&conn->dial_aio, dialed, conn) != 0)
		return SVC_E_NOMEM;
	conn->route->address = *address;
	return SVC_OK;
}

void
dial_give_up(struct conn *conn)
{
	if (conn->route != NULL)
		__atomic_store_n(
		    &conn->route->given_up, true, __ATOMIC_RELAXED);
}

void
dial_end(struct conn *conn)
{
	struct route *route = conn->route;
	if (route == NULL)
		return;
	nng_stream_dialer_free(conn->dialer);
	if (route->found != NULL)
		freeaddrinfo(route->found);
	svc_mem_free(route);
}

svc_err
conn_dial(struct nng *self, const char *given, int64_t timeout_ms,
    struct conn **ret_conn, struct svc_error *err)
{
	struct address address;
	svc_err rc =
	    address_parse(given, false, self->tls != NULL, &address, err);
	if (rc != SVC_OK)
		return rc;
	struct conn *conn = conn_create(self, NULL, &address,
	    timeout_ms > 0 ? timeout_ms : 5000, NULL, NULL, given);
	if (conn == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	/* Only for the websockets, which are not closed: see finish. */
	int64_t most_ms = conn->mux.config.hello_ms + 1000;
	nng_aio_set_timeout(conn->dial_aio, most_ms < INT32_MAX
						? (nng_duration)most_ms
						: NNG_DURATION_INFINITE);
	bool named = address.has_port && look_up(&address, AI_NUMERICHOST,
					     &conn->route->found) != 0;
	int rv = named ? 0 : make_dialer(conn);
	if (rv != 0) {
		svc_mux_unref(&conn->mux);
		return svc_error_set(err, nng_err(rv),
		    "address \"%s\" cannot be called: %s", given,
		    nng_strerror(rv));
	}
	conn_attach(conn);
	if (named)
		resolve(conn);
	else
		begin(conn);
	conn_kick(conn); /* starts the timer, which may close the dialer */
	*ret_conn = conn;
	return SVC_OK;
}
