/* SPDX-License-Identifier: Apache-2.0 */
#include "support/fake_http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
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

void
fake_http_keep(struct fake_http *fake, int fd)
{
	if (fake->n_open < FAKE_HTTP_OPEN_MAX)
		fake->open[fake->n_open++] = fd;
	else
		close(fd);
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

static void *
serve(void *arg)
{
	struct fake_http *fake = arg;
	char request[4096];
	for (;;) {
		int fd = accept(fake->listener, NULL, NULL);
		if (fd < 0 || atomic_load(&fake->ending)) {
			if (fd >= 0)
				close(fd);
			return NULL;
		}
		if (read_request(fd, request, sizeof(request)))
			fake->answer(fd, request, fake->arg);
		else
			close(fd);
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
		close(fake->open[i]);
}
