/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets for the peers that need nothing else: bare or under OpenSSL, and a
 * client on one thread that does the least a client of many calls can do.
 */
#include "bench.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef BENCH_OPENSSL
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

static void
no_delay(int fd)
{
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ------------------------------------------------------------------- TLS */

#ifdef BENCH_OPENSSL

static _Noreturn void
die_of_tls(const char *what)
{
	char text[160];
	ERR_error_string_n(ERR_get_error(), text, sizeof(text));
	bench_die("%s: %s", what, text);
}

void *
bench_tls_create(const struct bench_options *options, bool server)
{
	if (options->cert == NULL)
		return NULL;
	SSL_CTX *context =
	    SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (context == NULL)
		die_of_tls("TLS");
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
				      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (server &&
	    (SSL_CTX_use_certificate_chain_file(context, options->cert) != 1 ||
		SSL_CTX_use_PrivateKey_file(
		    context, options->key, SSL_FILETYPE_PEM) != 1))
		die_of_tls(options->cert);
	if (!server) {
		SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
		if (SSL_CTX_load_verify_file(context, options->cert) != 1)
			die_of_tls(options->cert);
	}
	return context;
}

void
bench_tls_destroy(void *context)
{
	SSL_CTX_free(context);
}

void
bench_link_open(struct bench_link *link, int fd, void *context)
{
	*link = (struct bench_link){.fd = fd};
	no_delay(fd);
	if (context == NULL)
		return;
	SSL *ssl = SSL_new(context);
	if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 ||
	    (SSL_CTX_get_verify_mode(context) == SSL_VERIFY_NONE
		    ? SSL_accept(ssl)
		    : SSL_connect(ssl)) != 1)
		die_of_tls("TLS handshake");
	link->tls = ssl;
}

static ssize_t
tls_result(struct bench_link *link, int n)
{
	if (n > 0)
		return n;
	switch (SSL_get_error(link->tls, n)) {
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		errno = EAGAIN;
		return -1;
	default:
		errno = EPROTO;
		return -1;
	}
}

/* OpenSSL knows no MSG_DONTWAIT: what may block must be known to be ready. */
static bool
ready(const struct bench_link *link, short events)
{
	struct pollfd one = {.fd = link->fd, .events = events};
	return poll(&one, 1, 0) == 1;
}

static ssize_t
tls_read(struct bench_link *link, void *data, size_t size, bool block)
{
	if (!block && !bench_link_pending(link) && !ready(link, POLLIN)) {
		errno = EAGAIN;
		return -1;
	}
	return tls_result(link, SSL_read(link->tls, data, (int)size));
}

static ssize_t
tls_write(struct bench_link *link, const void *data, size_t size, bool block)
{
	/* A socket that is writable takes one record at least. */
	if (!block && !ready(link, POLLOUT)) {
		errno = EAGAIN;
		return -1;
	}
	return tls_result(link, SSL_write(link->tls, data, (int)size));
}

bool
bench_link_pending(const struct bench_link *link)
{
	return link->tls != NULL && SSL_has_pending(link->tls) != 0;
}

static void
tls_close(struct bench_link *link)
{
	SSL_free(link->tls);
}

#else

void *
bench_tls_create(const struct bench_options *options, bool server)
{
	(void)server;
	if (options->cert != NULL)
		bench_die("built without OpenSSL, so there is no TLS");
	return NULL;
}

void
bench_tls_destroy(void *context)
{
	(void)context;
}

void
bench_link_open(struct bench_link *link, int fd, void *context)
{
	(void)context;
	*link = (struct bench_link){.fd = fd};
	no_delay(fd);
}

static ssize_t
tls_read(struct bench_link *link, void *data, size_t size, bool block)
{
	(void)link, (void)data, (void)size, (void)block;
	return -1;
}

static ssize_t
tls_write(struct bench_link *link, const void *data, size_t size, bool block)
{
	(void)link, (void)data, (void)size, (void)block;
	return -1;
}

bool
bench_link_pending(const struct bench_link *link)
{
	(void)link;
	return false;
}

static void
tls_close(struct bench_link *link)
{
	(void)link;
}

#endif

ssize_t
bench_link_read(struct bench_link *link, void *data, size_t size, bool block)
{
	if (link->tls != NULL)
		return tls_read(link, data, size, block);
	return recv(link->fd, data, size, block ? 0 : MSG_DONTWAIT);
}

ssize_t
bench_link_write(
    struct bench_link *link, const void *data, size_t size, bool block)
{
	if (link->tls != NULL)
		return tls_write(link, data, size, block);
	return send(link->fd, data, size, block ? 0 : MSG_DONTWAIT);
}

bool
bench_link_write_all(struct bench_link *link, const void *data, size_t size)
{
	const uint8_t *at = data;
	while (size > 0) {
		ssize_t n = bench_link_write(link, at, size, true);
		if (n <= 0)
			return false;
		at += n;
		size -= (size_t)n;
	}
	return true;
}

void
bench_link_close(struct bench_link *link)
{
	if (link->tls != NULL)
		tls_close(link);
	close(link->fd);
}

/* ---------------------------------------------------------------- client */

struct conn {
	struct bench_link link;
	uint8_t *in, *out;
	size_t have, queued, sent;
	bool full;  /* waits until the socket takes more */
	bool begun; /* has requests since the last flush */
};

struct client {
	const struct bench_options *options;
	const struct bench_wire *wire;
	struct bench_load *load;
	struct conn *conns;
	size_t in_size, out_size;
	struct conn **begun; /* connections with requests to send */
	int n_begun;
	int epoll;
};

static void
watch(struct client *client, struct conn *conn, int how)
{
	struct epoll_event event = {
	    .events = EPOLLIN | (conn->full ? EPOLLOUT : 0u),
	    .data.ptr = conn,
	};
	if (epoll_ctl(client->epoll, how, conn->link.fd, &event) != 0)
		bench_die("epoll: %s", strerror(errno));
}

static void
flush(struct client *client, struct conn *conn)
{
	while (conn->sent < conn->queued) {
		ssize_t n = bench_link_write(&conn->link,
		    conn->out + conn->sent, conn->queued - conn->sent, false);
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0)
			bench_die("sending: %s", strerror(errno));
		conn->sent += (size_t)n;
	}
	bool full = conn->sent < conn->queued;
	if (!full)
		conn->sent = conn->queued = 0;
	if (full != conn->full) {
		conn->full = full;
		watch(client, conn, EPOLL_CTL_MOD);
	}
}

static void
begin_call(struct client *client, int slot)
{
	struct conn *conn = &client->conns[slot % client->options->connections];
	if (!conn->begun) {
		conn->begun = true;
		client->begun[client->n_begun++] = conn;
	}
	if (conn->sent > 0) {
		conn->queued -= conn->sent;
		memmove(conn->out, conn->out + conn->sent, conn->queued);
		conn->sent = 0;
	}
	conn->queued += client->wire->write(conn->out + conn->queued,
	    client->options, slot, bench_is_slow(client->load, slot));
}

/* Begins the calls that are due, and sends all that have begun. */
static void
begin_due(struct client *client, int64_t now)
{
	int slot;
	while ((slot = bench_begin(client->load, now)) >= 0)
		begin_call(client, slot);
	for (int i = 0; i < client->n_begun; i++) {
		client->begun[i]->begun = false;
		flush(client, client->begun[i]);
	}
	client->n_begun = 0;
}

static void
take_replies(struct client *client, struct conn *conn, bool block)
{
	do {
		ssize_t n = bench_link_read(&conn->link, conn->in + conn->have,
		    client->in_size - conn->have, block);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0)
			bench_die("the server has closed the connection");
		conn->have += (size_t)n;
		int64_t now = bench_now();
		size_t at = 0, len;
		int slot = (int)(conn - client->conns);
		while ((len = client->wire->read(
			    conn->in + at, conn->have - at, &slot)) > 0) {
			at += len;
			int next = bench_next(client->load, slot, now);
			if (next >= 0)
				begin_call(client, next);
		}
		conn->have -= at;
		memmove(conn->in, conn->in + at, conn->have);
		block = false;
	} while (bench_link_pending(&conn->link));
}

static void
wait_for_replies(struct client *client, int64_t idle_ns)
{
	struct epoll_event events[64];
	struct timespec timeout = {
	    .tv_sec = (time_t)(idle_ns / 1000000000),
	    .tv_nsec = (long)(idle_ns % 1000000000),
	};
	int n = epoll_pwait2(
	    client->epoll, events, 64, idle_ns >= 0 ? &timeout : NULL, NULL);
	for (int i = 0; i < n; i++) {
		struct conn *conn = events[i].data.ptr;
		if (events[i].events & EPOLLOUT)
			flush(client, conn);
		if (events[i].events & ~(unsigned)EPOLLOUT)
			take_replies(client, conn, false);
	}
}

int
bench_drive_sockets(const struct bench_options *options,
    struct bench_load *load, const struct bench_wire *wire)
{
	int n = options->connections;
	struct client client = {
	    .options = options,
	    .wire = wire,
	    .load = load,
	    .conns = bench_alloc((size_t)n * sizeof(*client.conns)),
	    .in_size = ((size_t)1 << 18) + 2 * wire->request,
	    .out_size = (size_t)options->outstanding * wire->request,
	    .begun = bench_alloc((size_t)n * sizeof(struct conn *)),
	    .epoll = epoll_create1(EPOLL_CLOEXEC),
	};
	void *tls = bench_tls_create(options, false);
	for (int i = 0; i < n; i++) {
		struct conn *conn = &client.conns[i];
		bench_link_open(
		    &conn->link, bench_connect(options->address), tls);
		conn->in = bench_alloc(client.in_size);
		conn->out = bench_alloc(client.out_size);
		watch(&client, conn, EPOLL_CTL_ADD);
	}
	/* One connection in a closed loop has nothing else to wait for. */
	bool alone = n == 1 && options->rate <= 0;
	for (int64_t now = bench_now(); !bench_over(load, now);
	     now = bench_now()) {
		begin_due(&client, now);
		if (alone && !client.conns[0].full)
			take_replies(&client, &client.conns[0], true);
		else
			wait_for_replies(
			    &client, bench_idle_ns(load, bench_now()));
	}
	for (int i = 0; i < n; i++) {
		bench_link_close(&client.conns[i].link);
		free(client.conns[i].in);
		free(client.conns[i].out);
	}
	bench_tls_destroy(tls);
	close(client.epoll);
	free(client.begun);
	free(client.conns);
	return 0;
}
