/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many idle connections to one service: how fast they are taken, each until it
 * was greeted, what memory each costs the service, and whether it still answers
 * a call afterwards.
 *
 * The greeting is what svc's own transport sends when it connects to a listener
 * of ours, so that nothing here knows the protocol but the place of the
 * greeting's size (docs/wire.md).
 */
#include "common/bench.h"
#include "peers/announce.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define HEAD 8 /* of a greeting, with its size in the last two bytes */
#define MOST 1024

struct greeting {
	uint8_t data[MOST];
	size_t size;
};

static void
read_all(int fd, uint8_t *data, size_t size)
{
	while (size > 0) {
		ssize_t n = recv(fd, data, size, 0);
		if (n <= 0)
			bench_die("no greeting: %s",
			    n < 0 ? strerror(errno) : "the peer has closed");
		data += n;
		size -= (size_t)n;
	}
}

static void
read_greeting(int fd, struct greeting *greeting)
{
	read_all(fd, greeting->data, HEAD);
	greeting->size = (size_t)(greeting->data[6] | greeting->data[7] << 8);
	if (greeting->size < HEAD || greeting->size > MOST)
		bench_die("a greeting of %zu bytes", greeting->size);
	read_all(fd, greeting->data + HEAD, greeting->size - HEAD);
}

static void
learn_greeting(struct greeting *greeting)
{
	char address[64];
	struct svc_error err = {0};
	struct svc_executor *executor;
	const void *found;
	void *transport, *conn;
	int listener = bench_listen("127.0.0.1:0", address);
	if (svc_catalogue_find(&svc_transport_interface, "tcp", &found, &err) !=
		SVC_OK ||
	    svc_executor_create(NULL, &executor, &err) != SVC_OK)
		bench_die("%s", err.text);
	const struct svc_transport_ops *ops = found;
	struct svc_transport_config config = {.executor = executor};
	if (ops->create(&config, &transport, &err) != SVC_OK ||
	    ops->dial(transport, address, 5000, &conn, &err) != SVC_OK)
		bench_die("%s", err.text);
	int fd = accept(listener, NULL, NULL);
	read_greeting(fd, greeting);
	close(fd);
	close(listener);
	ops->conn_destroy(conn);
	ops->destroy(transport);
	svc_executor_destroy(executor);
}

/* Room for `n` connections in this process and in the service's. */
static int
raise_limit(int n)
{
	struct rlimit limit;
	rlim_t wanted = (rlim_t)n + 64;
	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < wanted) {
		limit.rlim_cur =
		    wanted < limit.rlim_max ? wanted : limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	if (limit.rlim_cur >= wanted)
		return n;
	fprintf(stderr, "bench_conns: open files are limited to %llu\n",
	    (unsigned long long)limit.rlim_cur);
	return (int)limit.rlim_cur - 64;
}

static void
call_once(const char *address)
{
	struct svc_error err = {0};
	struct svc_message rsp, req = {.data = "\0\0\0\0\0\0\0", .len = 8};
	struct svc_service *caller = bench_caller(NULL);
	bench_announce(caller, address, "echo-0", false);
	if (svc_call(svc_client_of(caller), "echo", "Echo.Echo", &req, &rsp,
		detail(&err)) != SVC_OK)
		bench_die("a call among idle connections: %s", err.text);
	svc_message_free(&rsp);
	svc_free(caller);
}

static int
drive(const struct bench_options *options, struct bench_load *load)
{
	int n = raise_limit(options->connections);
	int *fds = bench_alloc((size_t)n * sizeof(*fds));
	char address[64], pids[16];
	struct greeting ours, theirs;
	learn_greeting(&ours);
	pid_t pid = bench_spawn_peer(options, "svc", "127.0.0.1:0", address);
	snprintf(pids, sizeof(pids), "%d", (int)pid);
	/* The memory of its first call and connection is not theirs. */
	call_once(address);
	int64_t before = bench_status_kib(pids, "RssAnon");
	for (int i = 0; i < n; i++) {
		int64_t began = bench_now();
		fds[i] = bench_connect(address);
		if (send(fds[i], ours.data, ours.size, 0) != (ssize_t)ours.size)
			bench_die("sending: %s", strerror(errno));
		read_greeting(fds[i], &theirs);
		bench_note(load, bench_now() - began);
	}
	int64_t after = bench_status_kib(pids, "RssAnon");
	bench_extra(load, (double)(after - before) * 1024 / n);
	call_once(address);
	for (int i = 0; i < n; i++)
		close(fds[i]);
	free(fds);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return 0;
}

static int
serve(const struct bench_options *options)
{
	(void)options;
	bench_die("it starts the service by itself");
}

int
main(int argc, char *argv[])
{
	static const struct bench_peer peer = {
	    .name = "svc",
	    .serve = serve,
	    .drive = drive,
	};
	return bench_main(argc, argv, &peer);
}
