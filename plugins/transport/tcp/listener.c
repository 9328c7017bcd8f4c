/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Accepts connections. listener->mutex guards the list of its connections; no
 * callback runs under it.
 */
#include "tcp.h"
#include <names/names.h>

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

/* In one turn of the loop: more of a crowd than it ends in the same time would
 * pile up. */
#define ACCEPT_BATCH 4
/* When there are no descriptors left. */
#define PAUSE_MS 100
#define SAY_MS 60000 /* so often at most */

struct listener {
	struct tcp *tcp;
	struct svc_source source;
	struct svc_timer pause;
	struct svc_task close_task;
	struct svc_loop *loop;
	svc_accept_cb accept;
	void *arg;
	char address[80];
	int64_t linger_until_ms; /* atomic */
	int64_t say_at_ms;       /* of the loop */

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct conn *conns;
	uint32_t n_conns;
	bool closing; /* the close task was posted */
	bool closed;  /* and has run */
};

static struct listener *
listener_of_source(struct svc_source *source)
{
	return (struct listener *)(void *)((char *)source -
					   offsetof(struct listener, source));
}

static bool
add_conn(struct listener *listener, struct conn *conn)
{
	pthread_mutex_lock(&listener->mutex);
	bool add = !listener->closing;
	if (add) {
		struct conn_link *link = conn_link(conn);
		link->prev = NULL;
		link->next = listener->conns;
		if (link->next != NULL)
			conn_link(link->next)->prev = conn;
		listener->conns = conn;
	}
	pthread_mutex_unlock(&listener->mutex);
	return add;
}

void
listener_forget(struct listener *listener, struct conn *conn)
{
	pthread_mutex_lock(&listener->mutex);
	struct conn_link *link = conn_link(conn);
	if (link->prev != NULL)
		conn_link(link->prev)->next = link->next;
	else if (listener->conns == conn)
		listener->conns = link->next;
	if (link->next != NULL)
		conn_link(link->next)->prev = link->prev;
	listener->n_conns--;
	pthread_cond_broadcast(&listener->changed);
	pthread_mutex_unlock(&listener->mutex);
}

static void
log_full(const struct listener *listener)
{
	static struct svc_log_limit limit;
	svc_log_limited(&limit, SVC_LOG_WARN, "tcp.full",
	    "%s has %u connections, which is its limit "
	    "(--max_connections, ulimit -n): further ones are closed",
	    listener->address, listener->tcp->config.limits.max_connections);
}

static void
take_socket(
    struct listener *listener, int fd, const struct sockaddr_storage *from)
{
	pthread_mutex_lock(&listener->mutex);
	bool room =
	    !listener->closing &&
	    listener->n_conns < listener->tcp->config.limits.max_connections;
	bool full = !listener->closing && !room;
	if (room)
		listener->n_conns++;
	pthread_mutex_unlock(&listener->mutex);
	if (!room) {
		if (full)
			log_full(listener);
		/* What it has sent would make the end a reset, and its calls
		 * could not go elsewhere. */
		shutdown(fd, SHUT_WR);
		close(fd);
		return;
	}
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	char peer[80];
	names_format(from, peer, sizeof(peer));
	struct conn *conn;
	if (conn_accept(listener->tcp, listener, fd, listener->accept,
		listener->arg, peer, &conn) != SVC_OK) {
		pthread_mutex_lock(&listener->mutex);
		listener->n_conns--;
		pthread_cond_broadcast(&listener->changed);
		pthread_mutex_unlock(&listener->mutex);
		return;
	}
	if (!add_conn(listener, conn))
		conn_abort(conn);
	conn_start(conn);
}

/* Those who come wait with the system until there are descriptors again. */
static void
wait_for_descriptors(struct listener *listener, int sys)
{
	if (svc_now_ms() >= listener->say_at_ms) {
		listener->say_at_ms = svc_deadline(SAY_MS);
		svc_log(SVC_LOG_WARN, "tcp.accept",
		    "cannot accept on %s, where connections wait until it can: "
		    "%s",
		    listener->address, strerror(sys));
	}
	svc_source_interest(&listener->source, 0);
	svc_timer_start(
	    listener->loop, &listener->pause, svc_deadline(PAUSE_MS));
}

static void
listener_ready(struct svc_source *source, unsigned events)
{
	struct listener *listener = listener_of_source(source);
	(void)events;
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		struct sockaddr_storage from;
		socklen_t len = sizeof(from);
		int fd = accept4(source->fd, (struct sockaddr *)&from, &len,
		    SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			take_socket(listener, fd, &from);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
		    errno == ENOMEM)
			wait_for_descriptors(listener, errno);
		return;
	}
}

static void
listener_continue(struct svc_timer *timer)
{
	struct listener *listener =
	    (struct listener *)(void *)((char *)timer -
					offsetof(struct listener, pause));
	svc_source_interest(&listener->source, SVC_IO_READ);
}

static void
listener_close(struct svc_task *task)
{
	struct listener *listener =
	    (struct listener *)(void *)((char *)task -
					offsetof(struct listener, close_task));
	svc_source_detach(&listener->source);
	svc_timer_stop(listener->loop, &listener->pause);
	close(listener->source.fd);
	pthread_mutex_lock(&listener->mutex);
	listener->closed = true;
	pthread_cond_broadcast(&listener->changed);
	pthread_mutex_unlock(&listener->mutex);
}

/* Every interface, where there is no IPv6: those of IPv4. */
static bool
becomes_v4(struct sockaddr_storage *where, socklen_t *len)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6;
	memcpy(&in6, where, sizeof(in6));
	if (where->ss_family != AF_INET6 ||
	    !IN6_IS_ADDR_UNSPECIFIED(&in6.sin6_addr))
		return false;
	in.sin_port = in6.sin6_port;
	memcpy(where, &in, sizeof(in));
	*len = sizeof(in);
	return true;
}

static svc_err
bind_socket(const char *address, int *ret_fd,
    struct sockaddr_storage *ret_bound, struct svc_error *err)
{
	struct addrinfo *found;
	svc_err rc = tcp_look_up(address, true, false, &found, err);
	if (rc != SVC_OK)
		return rc;
	struct sockaddr_storage where;
	socklen_t len = found->ai_addrlen;
	memcpy(&where, found->ai_addr, len);
	freeaddrinfo(found);
	int fd = socket(
	    where.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 && errno == EAFNOSUPPORT && becomes_v4(&where, &len))
		fd = socket(
		    AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return svc_error_sys(err,
		    errno == EAFNOSUPPORT ? SVC_E_INVAL : SVC_E_EXHAUSTED,
		    errno, "cannot make a socket for address \"%s\"", address);
	int on = 1, off = 0;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (where.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, (struct sockaddr *)&where, len) != 0 ||
	    listen(fd, SOMAXCONN) != 0) {
		int sys = errno;
		close(fd);
		if (sys == EADDRINUSE)
			return svc_error_set(err, SVC_E_EXISTS,
			    "address \"%s\" is in use by another program; "
			    "choose another port, or port 0 for a free one",
			    address);
		return svc_error_sys(err,
		    sys == EACCES          ? SVC_E_DENIED
		    : sys == EADDRNOTAVAIL ? SVC_E_INVAL
					   : SVC_E_UNAVAILABLE,
		    sys, "cannot listen on address \"%s\"", address);
	}
	socklen_t bound_len = sizeof(*ret_bound);
	getsockname(fd, (struct sockaddr *)ret_bound, &bound_len);
	*ret_fd = fd;
	return SVC_OK;
}

svc_err
listener_create(struct tcp *tcp, const char *address, svc_accept_cb accept,
    void *arg, struct listener **ret_listener, struct svc_error *err)
{
	struct sockaddr_storage bound;
	int fd = -1;
	svc_err rc = bind_socket(address, &fd, &bound, err);
	if (rc != SVC_OK)
		return rc;
	struct listener *listener = svc_mem_calloc(1, sizeof(*listener));
	if (listener == NULL) {
		close(fd);
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	}
	listener->tcp = tcp;
	listener->accept = accept;
	listener->arg = arg;
	listener->linger_until_ms = INT64_MAX;
	listener->source.fd = fd;
	listener->source.ready = listener_ready;
	listener->pause.fire = listener_continue;
	listener->close_task.run = listener_close;
	listener->loop = svc_executor_loop(tcp->config.executor);
	names_format(&bound, listener->address, sizeof(listener->address));
	pthread_mutex_init(&listener->mutex, NULL);
	svc_cond_init(&listener->changed);
	rc = svc_source_attach(
	    listener->loop, &listener->source, SVC_IO_READ, err);
	if (rc != SVC_OK) {
		close(fd);
		pthread_cond_destroy(&listener->changed);
		pthread_mutex_destroy(&listener->mutex);
		svc_mem_free(listener);
		return rc;
	}
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

/* The first from this one on that is not about to go, with a reference. */
static struct conn *
first_alive(struct conn *conn)
{
	while (conn != NULL && !try_ref(conn_mux(conn)))
		conn = conn_link(conn)->next;
	return conn;
}

/* Takes no memory: the end of a listener may not fail. */
static void
each_conn(struct listener *listener, void (*act)(struct conn *conn))
{
	pthread_mutex_lock(&listener->mutex);
	struct conn *conn = first_alive(listener->conns), *next;
	while (conn != NULL) {
		pthread_mutex_unlock(&listener->mutex);
		act(conn);
		pthread_mutex_lock(&listener->mutex);
		/* The reference keeps this one in the list. */
		next = first_alive(conn_link(conn)->next);
		pthread_mutex_unlock(&listener->mutex);
		svc_mux_unref(conn_mux(conn));
		pthread_mutex_lock(&listener->mutex);
		conn = next;
	}
	pthread_mutex_unlock(&listener->mutex);
}

static void
drain_conn(struct conn *conn)
{
	svc_mux_drain(conn_mux(conn));
}

/* Closes the listening socket and waits until it is: a new connection is then
 * refused by the system, so its client goes elsewhere at once. */
static void
stop_accepting(struct listener *listener)
{
	pthread_mutex_lock(&listener->mutex);
	if (!listener->closing) {
		listener->closing = true;
		svc_loop_post(listener->loop, &listener->close_task);
	}
	while (!listener->closed)
		pthread_cond_wait(&listener->changed, &listener->mutex);
	pthread_mutex_unlock(&listener->mutex);
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
	pthread_mutex_lock(&listener->mutex);
	while (listener->n_conns > 0)
		pthread_cond_wait(&listener->changed, &listener->mutex);
	pthread_mutex_unlock(&listener->mutex);
	pthread_cond_destroy(&listener->changed);
	pthread_mutex_destroy(&listener->mutex);
	svc_mem_free(listener);
}
