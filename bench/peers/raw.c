/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ceiling: an echo on bare sockets that does the least a server and a
 * client of many calls can do. Messages have a header of 16 bytes; all that has
 * arrived is answered by one write. With TLS it is OpenSSL on the same sockets.
 * With --next what arrives is passed on to another such server, and its replies
 * back.
 */
#include "common/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER ((size_t)1 << 18)

struct header {
	uint32_t size, slot;
	uint32_t last; /* of a stream: answer with the header */
	uint32_t unused;
};

/* The bytes of the whole messages at the front, and the last one's header. */
static size_t
whole(const uint8_t *data, size_t len, struct header *ret_last)
{
	size_t done = 0;
	struct header header;
	while (len - done >= sizeof(header)) {
		memcpy(&header, data + done, sizeof(header));
		if (len - done < sizeof(header) + header.size)
			break;
		done += sizeof(header) + header.size;
		*ret_last = header;
	}
	return done;
}

/* ---------------------------------------------------------------- server */

struct conn {
	struct bench_link link;
	struct conn *to; /* who gets what comes: itself, or the next server */
	uint8_t *in;
	size_t have;
};

static struct conn *
conn_create(int epoll, int fd, void *tls)
{
	struct conn *conn = bench_alloc(sizeof(*conn));
	bench_link_open(&conn->link, fd, tls);
	conn->to = conn;
	conn->in = malloc(BUFFER); /* not touched before it is used */
	if (conn->in == NULL)
		bench_die("out of memory");
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		bench_die("epoll: %s", strerror(errno));
	return conn;
}

/* A pair ends together: the other one hears of it by its socket. */
static void
conn_destroy(struct conn *conn)
{
	if (conn->to != conn) {
		shutdown(conn->to->link.fd, SHUT_RDWR);
		conn->to->to = conn->to;
	}
	bench_link_close(&conn->link);
	free(conn->in);
	free(conn);
}

static bool
receive(const struct bench_options *options, struct conn *conn)
{
	do {
		ssize_t n = bench_link_read(&conn->link, conn->in + conn->have,
		    BUFFER - conn->have, false);
		if (n < 0 && errno == EAGAIN)
			return true;
		if (n <= 0)
			return false;
		conn->have += (size_t)n;
		struct header last = {0};
		size_t done = whole(conn->in, conn->have, &last);
		bool answer = !options->stream || last.last != 0;
		size_t from = options->stream ? done - sizeof(last) : 0;
		if (answer && !bench_link_write_all(&conn->to->link,
				  conn->in + from, done - from))
			return false;
		conn->have -= done;
		memmove(conn->in, conn->in + done, conn->have);
	} while (bench_link_pending(&conn->link));
	return true;
}

static int
serve(const struct bench_options *options)
{
	char address[64];
	int listener = bench_listen(options->address, address);
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	void *tls = bench_tls_create(options, true);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0)
		bench_die("epoll: %s", strerror(errno));
	bench_ready(address, NULL);
	for (;;) {
		struct epoll_event events[64];
		int n = epoll_wait(epoll, events, 64, -1);
		for (int i = 0; i < n; i++) {
			struct conn *conn = events[i].data.ptr;
			if (conn == NULL) {
				int fd = accept(listener, NULL, NULL);
				if (fd < 0)
					bench_die(
					    "accept: %s", strerror(errno));
				conn = conn_create(epoll, fd, tls);
				if (options->next == NULL)
					continue;
				conn->to = conn_create(
				    epoll, bench_connect(options->next), NULL);
				conn->to->to = conn;
			} else if (!receive(options, conn)) {
				conn_destroy(conn);
			}
		}
	}
}

/* ---------------------------------------------------------------- client */

static size_t
write_request(
    uint8_t *out, const struct bench_options *options, int slot, bool slow)
{
	(void)slow; /* the ceiling answers at once */
	struct header header = {
	    .size = (uint32_t)options->size, .slot = (uint32_t)slot};
	memcpy(out, &header, sizeof(header));
	memset(out + sizeof(header), 0, options->size);
	return sizeof(header) + options->size;
}

static size_t
read_reply(const uint8_t *in, size_t len, int *slot)
{
	struct header header;
	if (len < sizeof(header))
		return 0;
	memcpy(&header, in, sizeof(header));
	if (len < sizeof(header) + header.size)
		return 0;
	*slot = (int)header.slot;
	return sizeof(header) + header.size;
}

static int
drive_stream(const struct bench_options *options, struct bench_load *load)
{
	struct bench_link link;
	void *tls = bench_tls_create(options, false);
	size_t message = sizeof(struct header) + options->size;
	int batch = bench_batch(options);
	uint8_t *out = bench_alloc((size_t)batch * message);
	bench_link_open(&link, bench_connect(options->address), tls);
	for (int i = 0; i < batch; i++)
		write_request(out + (size_t)i * message, options, 0, false);
	do {
		if (!bench_link_write_all(&link, out, (size_t)batch * message))
			bench_die("sending: %s", strerror(errno));
	} while (bench_sent(load, batch));
	struct header header = {.last = 1};
	if (!bench_link_write_all(&link, &header, sizeof(header)) ||
	    bench_link_read(&link, &header, sizeof(header), true) !=
		(ssize_t)sizeof(header))
		bench_die("the stream was not answered");
	bench_delivered(load);
	bench_link_close(&link);
	bench_tls_destroy(tls);
	free(out);
	return 0;
}

static int
drive(const struct bench_options *options, struct bench_load *load)
{
	const struct bench_wire wire = {
	    .request = sizeof(struct header) + options->size,
	    .write = write_request,
	    .read = read_reply,
	};
	if (options->stream)
		return drive_stream(options, load);
	return bench_drive_sockets(options, load, &wire);
}

int
main(int argc, char *argv[])
{
	static const struct bench_peer peer = {
	    .name = "raw",
	    .abilities = BENCH_STREAM | BENCH_TLS | BENCH_NEXT | BENCH_SLOW |
			 BENCH_PIPELINE | BENCH_OPEN_LOOP,
	    .serve = serve,
	    .drive = drive,
	};
	return bench_main(argc, argv, &peer);
}
