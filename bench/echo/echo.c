/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_echo: an echo of 1 KiB over one connection, svc next to a raw epoll
 * server, client and server as two processes. The contestants take turns in
 * short rounds, so that they share whatever the machine does at the time; the
 * ratios of a round are compared, and their medians printed.
 *
 * Use: bench_echo [--rounds=N] [--ms=N] [--size=BYTES]
 */
#include "echo.h"

#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_ROUNDS 101

static const struct contestant *const contestants[] = {
    &raw_epoll, &svc_tcp, &svc_calls};
enum { CONTESTANTS = sizeof(contestants) / sizeof(contestants[0]) };

int64_t
now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void
times_add(struct times *times, int64_t ns)
{
	double step = log((double)(ns > 1 ? ns : 1)) / log(1.01);
	int i = step < 2399 ? (int)step : 2399;
	times->count++;
	times->sum_ns += (uint64_t)ns;
	times->buckets[i]++;
}

static double
percentile_us(const struct times *times, double part)
{
	uint64_t left = (uint64_t)((double)times->count * part);
	int i = 0;
	while (i < 2399 && left >= times->buckets[i])
		left -= times->buckets[i++];
	return pow(1.01, i + 0.5) / 1000;
}

struct server {
	pid_t pid;
	int in; /* ends it */
	int port;
};

static struct server
start(const char *program, int which)
{
	struct server server = {0};
	int in[2], out[2];
	char number[16] = "";
	snprintf(number, sizeof(number), "%d", which);
	if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
		exit(1);
	server.pid = fork();
	if (server.pid == 0) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		execl(program, program, "--serve", number, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	server.in = in[1];
	FILE *f = fdopen(out[0], "r");
	char line[32] = "";
	if (fgets(line, sizeof(line), f) != NULL)
		server.port = (int)strtol(line, NULL, 10);
	fclose(f);
	if (server.port == 0) {
		fprintf(stderr, "bench_echo: the server of %s did not start\n",
		    contestants[which]->name);
		exit(1);
	}
	return server;
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double
median(double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), compare);
	return values[n / 2];
}

static struct row {
	double rps[MAX_ROUNDS], p50[MAX_ROUNDS], p99[MAX_ROUNDS];
	double rps_ratio[MAX_ROUNDS], p50_ratio[MAX_ROUNDS];
} rows[CONTESTANTS];

static void
compete(const struct server *servers, int outstanding, int rounds, int ms,
    size_t size)
{
	void *clients[CONTESTANTS];
	int n = outstanding == 1 ? CONTESTANTS : 2;
	static struct times times;
	for (int c = 0; c < n; c++) {
		clients[c] = contestants[c]->open(servers[c].port, size);
		if (clients[c] == NULL) {
			fprintf(stderr, "bench_echo: %s cannot connect\n",
			    contestants[c]->name);
			exit(1);
		}
		contestants[c]->run(clients[c], outstanding, 50, &times);
	}
	for (int r = 0; r < rounds; r++) {
		if (isatty(STDERR_FILENO))
			fprintf(stderr, "\r%d outstanding: round %d of %d ",
			    outstanding, r + 1, rounds);
		for (int c = 0; c < n; c++) {
			memset(&times, 0, sizeof(times));
			int64_t began = now_ns();
			contestants[c]->run(
			    clients[c], outstanding, ms, &times);
			double s = (double)(now_ns() - began) / 1e9;
			rows[c].rps[r] = (double)times.count / s;
			rows[c].p50[r] = percentile_us(&times, 0.5);
			rows[c].p99[r] = percentile_us(&times, 0.99);
			rows[c].rps_ratio[r] = rows[c].rps[r] / rows[0].rps[r];
			rows[c].p50_ratio[r] = rows[c].p50[r] / rows[0].p50[r];
		}
	}
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r%40s\r", "");
	for (int c = 0; c < n; c++) {
		printf("| %d | %s | %.0f | %.1f | %.1f | %.2f | %.2f |\n",
		    outstanding, contestants[c]->name,
		    median(rows[c].rps, rounds), median(rows[c].p50, rounds),
		    median(rows[c].p99, rounds),
		    median(rows[c].rps_ratio, rounds),
		    median(rows[c].p50_ratio, rounds));
		contestants[c]->close(clients[c]);
	}
}

static bool
number_option(const char *arg, const char *name, long max, long *ret_value)
{
	size_t len = strlen(name);
	char *end;
	if (strncmp(arg, name, len) != 0 || arg[len] != '=')
		return false;
	*ret_value = strtol(arg + len + 1, &end, 10);
	if (*end != 0 || *ret_value < 1 || *ret_value > max) {
		fprintf(stderr, "bench_echo: %s takes a number from 1 to %ld\n",
		    name, max);
		exit(2);
	}
	return true;
}

int
main(int argc, char **argv)
{
	long rounds = 11, ms = 300, size = 1024;
	if (argc == 3 && strcmp(argv[1], "--serve") == 0) {
		long which = strtol(argv[2], NULL, 10);
		return which >= 0 && which < CONTESTANTS
			   ? contestants[which]->serve(STDOUT_FILENO)
			   : 2;
	}
	for (int i = 1; i < argc; i++) {
		if (!number_option(argv[i], "--rounds", MAX_ROUNDS, &rounds) &&
		    !number_option(argv[i], "--ms", 60000, &ms) &&
		    !number_option(argv[i], "--size", 2048, &size)) {
			fprintf(stderr,
			    "usage: bench_echo [--rounds=N] [--ms=N] "
			    "[--size=BYTES]\n");
			return 2;
		}
	}
	struct server servers[CONTESTANTS];
	for (int c = 0; c < CONTESTANTS; c++)
		servers[c] = start("/proc/self/exe", c);
	printf("Echo of %ld bytes, one connection, medians of %ld rounds of "
	       "%ld ms in turn.\n\n",
	    size, rounds, ms);
	printf("| outstanding | contestant | calls/s | p50 us | p99 us | "
	       "calls/s : raw | p50 : raw |\n");
	printf("|---|---|---|---|---|---|---|\n");
	compete(servers, 64, (int)rounds, (int)ms, (size_t)size);
	compete(servers, 1, (int)rounds, (int)ms, (size_t)size);
	for (int c = 0; c < CONTESTANTS; c++) {
		close(servers[c].in);
		waitpid(servers[c].pid, NULL, 0);
	}
	return 0;
}
