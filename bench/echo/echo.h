/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_ECHO_H
#define BENCH_ECHO_H

#include <stddef.h>
#include <stdint.h>

/* Latencies in a histogram of 1 % steps. */
struct times {
	uint64_t count;
	uint64_t sum_ns;
	uint32_t buckets[2400];
};
void times_add(struct times *times, int64_t ns);
int64_t now_ns(void);

/* One contestant: a server to be run in a process of its own, and a client
 * that makes calls on one connection for a while. */
struct contestant {
	const char *name;
	/* Serves on a free port of 127.0.0.1, writes "PORT\n" to `out` and
	 * runs until its standard input ends. */
	int (*serve)(int out);
	/* A client of the server on that port; NULL when it failed. */
	void *(*open)(int port, size_t size);
	/* Makes calls for `ms` with `outstanding` at once, each of `size`
	 * bytes, putting the time of each into `times`. */
	void (*run)(void *client, int outstanding, int ms, struct times *times);
	void (*close)(void *client);
};

extern const struct contestant raw_epoll;
extern const struct contestant svc_tcp;
extern const struct contestant svc_calls;

#endif
