/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_H
#define BENCH_H

/*
 * What all benchmark programs share: one command line, one way to offer load
 * and to take times, one line of results.
 *
 *     bench_PEER server ADDRESS [OPTION...]  prints "ready ADDRESS PID[,PID]"
 *     bench_PEER client ADDRESS [OPTION...]  prints one line of results
 *     bench_PEER header                      prints the names of its fields
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bench_options {
	const char *address; /* host:port; port 0 takes a free one */
	size_t size;         /* bytes of a request and of its reply */
	int outstanding;     /* calls in the air on each connection */
	int connections;
	double rate;     /* calls begun each second; 0: a closed loop */
	double duration; /* seconds that are measured, after `warmup` */
	double warmup;
	int64_t calls; /* end after so many; 0: by the clock */
	int slow;      /* the handler sleeps in one call of so many; 0: none */
	bool stream;   /* messages one way, without replies */
	const char *next; /* a server that asks this one before it answers */
	const char *cert, *key; /* PEM files: TLS */
	const char *pids;       /* of the server, to measure its cost */
	const char *program;    /* this one */
};

/* What a peer can do besides calls. */
#define BENCH_STREAM 1u
#define BENCH_TLS 2u
#define BENCH_NEXT 4u
#define BENCH_SLOW 8u
#define BENCH_PIPELINE 16u /* more than one outstanding on a connection */
#define BENCH_OPEN_LOOP 32u

/* How long a slow handler sleeps. */
#define BENCH_SLOW_MS 5

struct bench_load;
struct bench_peer {
	const char *name;
	unsigned abilities;
	/* Runs until it is killed. */
	int (*serve)(const struct bench_options *options);
	/* Offers the load until it is over. */
	int (*drive)(
	    const struct bench_options *options, struct bench_load *load);
};

/* The whole of a peer's main. */
int bench_main(int argc, char *argv[], const struct bench_peer *peer);
/* Says that the server can be called, and which processes it consists of:
 * "PID,PID", or NULL for this one. */
void bench_ready(const char *address, const char *pids);
/* Waits for the signal that ends this server. */
int bench_wait(void);
/* A server as a child process, once it listens at `address`; it ends with this
 * one, and its output is not heard. */
pid_t bench_spawn(const char *const argv[], const char *address);
/* The same for a program bench_NAME beside this one, run as "server ADDRESS";
 * it says its address itself. */
pid_t bench_spawn_peer(const struct bench_options *options, const char *name,
    const char *address, char ret_address[64]);
/* Prints the reason and ends the program with status 1. */
void bench_die(const char *format, ...)
    __attribute__((format(printf, 1, 2), noreturn));
int64_t bench_now(void);        /* nanoseconds */
void *bench_alloc(size_t size); /* zeroed; never NULL */

/* ------------------------------------------------------------------ load */

/*
 * A slot is one call at a time: connections x outstanding of them. In a closed
 * loop a call begins when its slot is free. In an open loop calls are due at a
 * fixed rate, whatever became of those before; a call that finds no free slot
 * waits, and its latency counts from when it was due (no coordinated omission).
 * At high rates calls begin when others end, and by the clock alone only 1 ms
 * after they were due.
 * Any thread may use these. A call that follows another one in its slot, by the
 * clock, takes no lock.
 */

/* A slot whose call shall begin now, or -1. */
int bench_begin(struct bench_load *load, int64_t now);
/* The call of the slot is answered. */
void bench_end(struct bench_load *load, int slot, int64_t now);
/* bench_end, then bench_begin. */
int bench_next(struct bench_load *load, int slot, int64_t now);
/* The same now, for a callback that starts the next call; in an open loop it
 * has begun all others that are due by the `start` of bench_run. */
int bench_again(struct bench_load *load, int slot);
/* Whether the handler of the slot's call shall sleep. */
bool bench_is_slow(struct bench_load *load, int slot);
bool bench_over(struct bench_load *load, int64_t now);
/* Nanoseconds until calls are to begin though no reply has come; -1: none are.
 */
int64_t bench_idle_ns(struct bench_load *load, int64_t now);
/* For peers whose replies come as callbacks: begin calls by `start`, here and
 * on the threads of the callbacks, until it is over. The callbacks use
 * bench_again. */
void bench_run(
    struct bench_load *load, void (*start)(void *arg, int slot), void *arg);
/* For streams: how many messages to send, about 64 KiB of them, before they are
 * counted: the counting is not what is measured. */
int bench_batch(const struct bench_options *options);
/* For streams: count messages that were sent; false once it is over. */
bool bench_sent(struct bench_load *load, int messages);
/* For streams: the peer has got all. */
void bench_delivered(struct bench_load *load);

/* For programs that measure something else: one duration. */
void bench_note(struct bench_load *load, int64_t ns);
/* A number for the field `extra`. */
void bench_extra(struct bench_load *load, double extra);

struct bench_load *bench_load_create(const struct bench_options *options);
void bench_load_destroy(struct bench_load *load);
/* Prints the line of results. */
void bench_print(const struct bench_load *load, const char *peer);
void bench_print_header(void);

/* What processes have used, given as "PID,PID" or NULL for this one: CPU
 * seconds, and kibibytes of a field of /proc/PID/status. Those that are gone
 * count nothing. */
double bench_cpu(const char *pids);
int64_t bench_status_kib(const char *pids, const char *field);

/* --------------------------------------------------------------- sockets */

/* A bound, listening socket; `ret_address` gets the address with its port. */
int bench_listen(const char *address, char ret_address[64]);
int bench_connect(const char *address);
bool bench_listens(const char *address);
/* A port of the loopback interface that was free a moment ago. */
int bench_free_port(void);

/* A connected socket, with TLS or bare. */
struct bench_link {
	int fd;
	void *tls;
};
/* The context for one side, or NULL when `options` ask for no TLS. */
void *bench_tls_create(const struct bench_options *options, bool server);
void bench_tls_destroy(void *context);
void bench_link_open(struct bench_link *link, int fd, void *context);
void bench_link_close(struct bench_link *link);
/* As recv and send: > 0 bytes, 0 the end, -1 with EAGAIN or another error. */
ssize_t bench_link_read(
    struct bench_link *link, void *data, size_t size, bool block);
ssize_t bench_link_write(
    struct bench_link *link, const void *data, size_t size, bool block);
bool bench_link_write_all(
    struct bench_link *link, const void *data, size_t size);
/* Bytes that have been read from the socket already. */
bool bench_link_pending(const struct bench_link *link);

/* A request and reply protocol on a socket. */
struct bench_wire {
	size_t request; /* bytes of one, at most */
	/* Writes a request; returns its bytes. */
	size_t (*write)(uint8_t *out, const struct bench_options *options,
	    int slot, bool slow);
	/* The bytes of the reply at the front, 0 when it is not whole, and
	 * whose reply it is: `slot` comes with the connection's number. */
	size_t (*read)(const uint8_t *in, size_t len, int *slot);
};
/* Drives a load over sockets by one thread; what is ready goes in one write. */
int bench_drive_sockets(const struct bench_options *options,
    struct bench_load *load, const struct bench_wire *wire);

#ifdef __cplusplus
}
#endif
#endif
