/* SPDX-License-Identifier: Apache-2.0 */
/* Listening and connecting. */
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct sockaddr_in
parse(const char *address)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	char host[64];
	const char *colon = strrchr(address, ':');
	size_t len = colon != NULL ? (size_t)(colon - address) : 0;
	if (colon == NULL || len >= sizeof(host))
		bench_die("address \"%s\": give host:port", address);
	memcpy(host, address, len);
	host[len] = '\0';
	if (inet_pton(AF_INET, host, &in.sin_addr) != 1)
		bench_die("address \"%s\": the host must be IPv4", address);
	in.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
	return in;
}

static void
no_delay(int fd)
{
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int
bench_listen(const char *address, char ret_address[64])
{
	struct sockaddr_in in = parse(address);
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&in, len) != 0 ||
	    listen(fd, 1024) != 0 ||
	    getsockname(fd, (struct sockaddr *)&in, &len) != 0)
		bench_die("listening on %s: %s", address, strerror(errno));
	char host[INET_ADDRSTRLEN] = "";
	inet_ntop(AF_INET, &in.sin_addr, host, sizeof(host));
	snprintf(ret_address, 64, "%s:%d", host, ntohs(in.sin_port));
	return fd;
}

int
bench_connect(const char *address)
{
	struct sockaddr_in in = parse(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&in, sizeof(in)) != 0)
		bench_die("connecting to %s: %s", address, strerror(errno));
	no_delay(fd);
	return fd;
}

bool
bench_listens(const char *address)
{
	struct sockaddr_in in = parse(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool does = connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0;
	close(fd);
	return does;
}

int
bench_free_port(void)
{
	char address[64];
	close(bench_listen("127.0.0.1:0", address));
	return (int)strtol(strrchr(address, ':') + 1, NULL, 10);
}
