/* SPDX-License-Identifier: Apache-2.0 */
#include "support/fake_http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

void
fake_http_send(int fd, const void *data, size_t len)
{
	const char *at = data;
	while (len > 0) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
		if (n <= 0)
			return;
		at += n;
		len -= (size_t)n;
	}
}

static struct fake_http_open *
keep(struct fake_http *fake, int fd)
{
	if (fake->n_open == FAKE_HTTP_OPEN_MAX) {
		close(fd);
		return NULL;
	}
	struct fake_http_open *open = &fake->open[fake->n_open++];
	open->fd = fd;
	open->more = NULL;
	open->len = 0;
	return open;
}

void
fake_http_keep(struct fake_http *fake, int fd)
{
	keep(fake, fd);
}

static void
take(struct fake_http *fake, struct fake_http_open *open)
{
	open->text[open->len] = '\0';
	size_t taken = open->more(open->fd, open->text, fake->arg);
	open->len -= taken;
	memmove(open->text, open->text + taken, open->len + 1);
}

void
fake_http_follow(
    struct fake_http *fake, int fd, const char *request, fake_http_more more)
{
	const char *body = strstr(request, "\r\n\r\n") + 4;
	struct fake_http_open *open = keep(fake, fd);
	if (open == NULL)
		return;
	open->more = more;
	open->len = strlen(body);
	memcpy(open->text, body, open->len);
	if (open->len > 0)
		take(fake, open);
}

/* False when the peer has closed it, or says more than is taken. */
static bool
receive(struct fake_http *fake, struct fake_http_open *open)
{
	ssize_t n = recv(open->fd, open->text + open->len,
	    sizeof(open->text) - 1 - open->len, 0);
	if (n <= 0)
		return false;
	open->len += (size_t)n;
	take(fake, open);
	return true;
}

static bool
read_request(int fd, char *text, size_t size)
{
	size_t len = 0;
	for (;;) {
		ssize_t n = recv(fd, text + len, size - 1 - len, 0);
		if (n <= 0)
			return false;
		len += (size_t)n;
		text[len] = '\0';
		const char *body = strstr(text, "\r\n\r\n");
		const char *length = strcasestr(text, "content-length:");
		if (body == NULL)
			continue;
		if (length == NULL || length > body ||
		    strlen(body + 4) >= strtoul(length + 15, NULL, 10))
			return true;
	}
}

static void
accept_one(struct fake_http *fake)
{
	char request[4096];
	int fd = accept(fake->listener, NULL, NULL);
	if (fd < 0)
		return;
	if (read_request(fd, request, sizeof(request)))
		fake->answer(fd, request, fake->arg);
	else
		close(fd);
}

static void *
serve(void *arg)
{
	struct fake_http *fake = arg;
	for (;;) {
		struct pollfd fds[FAKE_HTTP_OPEN_MAX + 1] = {
		    {.fd = fake->listener, .events = POLLIN}};
		size_t n = fake->n_open;
		for (size_t i = 0; i < n; i++)
			fds[i + 1] = (struct pollfd){
			    .fd = fake->open[i].more != NULL ? fake->open[i].fd
							     : -1,
			    .events = POLLIN};
		poll(fds, (nfds_t)n + 1, -1);
		if (atomic_load(&fake->ending))
			return NULL;
		for (size_t i = n; i-- > 0;) {
			struct fake_http_open *open = &fake->open[i];
			if (fds[i + 1].revents == 0 || receive(fake, open))
				continue;
			close(open->fd);
			*open = fake->open[--fake->n_open];
		}
		if (fds[0].revents != 0)
			accept_one(fake);
	}
}

void
fake_http_start(struct fake_http *fake,
    void (*answer)(int fd, const char *request, void *arg), void *arg)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);
	*fake = (struct fake_http){.answer = answer, .arg = arg};
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fake->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fake->listener >= 0);
	assert_int_equal(bind(fake->listener, (struct sockaddr *)&in, len), 0);
	assert_int_equal(listen(fake->listener, 16), 0);
	assert_int_equal(
	    getsockname(fake->listener, (struct sockaddr *)&in, &len), 0);
	snprintf(fake->address, sizeof(fake->address), "127.0.0.1:%d",
	    ntohs(in.sin_port));
	assert_int_equal(pthread_create(&fake->thread, NULL, serve, fake), 0);
}

void
fake_http_stop(struct fake_http *fake)
{
	atomic_store(&fake->ending, true);
	shutdown(fake->listener, SHUT_RDWR);
	pthread_join(fake->thread, NULL);
	close(fake->listener);
	for (size_t i = 0; i < fake->n_open; i++)
		close(fake->open[i].fd);
}
