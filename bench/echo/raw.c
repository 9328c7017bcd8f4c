/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ceiling: an echo on bare sockets that does the least a server and a
 * client of many outstanding calls can do. Messages have a header of 16 bytes
 * with length and number; all that has arrived is answered by one write.
 */
#include "echo.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEADER 16
#define BUFFER (1 << 18)

static void
write_all(int fd, const uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		data += n;
		len -= (size_t)n;
	}
}

/* The whole messages at the front of `data`: their bytes. */
static size_t
whole(const uint8_t *data, size_t len)
{
	size_t done = 0;
	while (len - done >= HEADER) {
		uint32_t size;
		memcpy(&size, data + done, sizeof(size));
		if (len - done < HEADER + (size_t)size)
			break;
		done += HEADER + size;
	}
	return done;
}

static int
serve(int out)
{
	int on = 1;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in address = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	if (listener < 0 ||
	    bind(listener, (struct sockaddr *)&address, len) != 0 ||
	    listen(listener, 16) != 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &len) != 0)
		return 1;
	dprintf(out, "%d\n", ntohs(address.sin_port));

	int ep = epoll_create1(0);
	struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
	epoll_ctl(ep, EPOLL_CTL_ADD, listener, &event);
	event.data.fd = STDIN_FILENO;
	epoll_ctl(ep, EPOLL_CTL_ADD, STDIN_FILENO, &event);
	static struct {
		uint8_t *data;
		size_t len;
	} conns[1024];
	for (;;) {
		struct epoll_event events[64];
		int n = epoll_wait(ep, events, 64, -1);
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd == STDIN_FILENO)
				return 0;
			if (fd == listener) {
				int conn = accept(listener, NULL, NULL);
				if (conn < 0 || conn >= 1024)
					return 1;
				setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &on,
				    sizeof(on));
				conns[conn].data = malloc(BUFFER);
				conns[conn].len = 0;
				event.data.fd = conn;
				epoll_ctl(ep, EPOLL_CTL_ADD, conn, &event);
				continue;
			}
			uint8_t *data = conns[fd].data;
			ssize_t got = recv(fd, data + conns[fd].len,
			    BUFFER - conns[fd].len, MSG_DONTWAIT);
			if (got < 0 && errno == EAGAIN)
				continue;
			if (got <= 0) {
				free(data);
				close(fd);
				continue;
			}
			conns[fd].len += (size_t)got;
			size_t done = whole(data, conns[fd].len);
			write_all(fd, data, done);
			conns[fd].len -= done;
			memmove(data, data + done, conns[fd].len);
		}
	}
}

struct client {
	int fd;
	size_t size;
	uint8_t *in, *out;
};

static void *
client_open(int port, size_t size)
{
	struct client *client = calloc(1, sizeof(*client));
	struct sockaddr_in address = {.sin_family = AF_INET,
	    .sin_port = htons((uint16_t)port),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int on = 1;
	client->fd = socket(AF_INET, SOCK_STREAM, 0);
	client->size = size;
	client->in = malloc(BUFFER);
	client->out = calloc(1, BUFFER);
	if (connect(client->fd, (struct sockaddr *)&address, sizeof(address)) !=
	    0) {
		free(client);
		return NULL;
	}
	setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return client;
}

static void
client_run(void *arg, int outstanding, int ms, struct times *times)
{
	struct client *client = arg;
	size_t message = HEADER + client->size;
	int64_t *began = calloc((size_t)outstanding, sizeof(*began));
	int64_t until = now_ns() + (int64_t)ms * 1000000;
	size_t have = 0;
	int open = 0;
	/* The number in the header says whose reply it is. */
	for (int i = 0; i < outstanding; i++) {
		uint32_t head[4] = {(uint32_t)client->size, (uint32_t)i};
		memcpy(client->out + (size_t)i * message, head, sizeof(head));
		began[i] = now_ns();
		open++;
	}
	write_all(client->fd, client->out, (size_t)outstanding * message);
	while (open > 0) {
		ssize_t n =
		    recv(client->fd, client->in + have, BUFFER - have, 0);
		if (n <= 0)
			break;
		have += (size_t)n;
		size_t done = whole(client->in, have), back = 0;
		int64_t now = now_ns();
		for (size_t at = 0; at < done; at += message) {
			uint32_t number;
			memcpy(&number, client->in + at + 4, sizeof(number));
			times_add(times, now - began[number]);
			if (now < until) {
				began[number] = now;
				memcpy(client->out + back, client->in + at,
				    message);
				back += message;
			} else {
				open--;
			}
		}
		write_all(client->fd, client->out, back);
		have -= done;
		memmove(client->in, client->in + done, have);
	}
	free(began);
}

static void
client_close(void *arg)
{
	struct client *client = arg;
	close(client->fd);
	free(client->in);
	free(client->out);
	free(client);
}

const struct contestant raw_epoll = {
    .name = "raw epoll",
    .serve = serve,
    .open = client_open,
    .run = client_run,
    .close = client_close,
};
