/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_KIT_H
#define MDNS_KIT_H

/**
 * What the plugin's tests share: other processes (this very program, started
 * again with arguments), watches that remember, and sockets as other mDNS
 * programs have them.
 */
#include <svc/clock.h>
#include <svc/registry.h>

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/types.h>

#include <cmocka.h>

#define GROUP "224.0.0.251"
#define PATIENCE_MS 10000
#define SKIPPED 77

extern char address[32]; /* "lo:PORT" */
extern uint16_t port;
/* What the nodes that are announced have. */
extern const char *node_address;
/* The network namespace of other processes; -1: this one. */
extern int other_network;

/** A port on which no other test of this host speaks. */
bool port_pick(void);

int udp_socket(const char *bind_to, uint16_t bind_port, bool share);
/** A socket as any other mDNS program of this host has it. */
int group_socket(void);
void send_to(
    int fd, const char *host, uint16_t to_port, const void *data, size_t len);
/** A datagram within `timeout_ms`, or -1. */
ssize_t receive(int fd, void *data, size_t size, struct sockaddr_in *from,
    int64_t timeout_ms);

struct svc_registry *registry_at(const char *where);
svc_err announce(struct svc_registry *registry, const char *service,
    const char *id, const char *color, int64_t ttl_ms);
svc_err withdraw(
    struct svc_registry *registry, const char *service, const char *id);
/** Nodes of a service; with list instead of lookup when `all`. */
size_t nodes_of(struct svc_registry *registry, const char *service, bool all);
/** Whether there are so many in time: answers are waited for so briefly that on
 * a busy machine some come after it. */
bool nodes_become(
    struct svc_registry *registry, const char *service, bool all, size_t n);

/** What a watch has told so far. */
struct seen {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	size_t counts[SVC_SYNCED + 1];
	char id[200];
	char color[64];
	char version[64];
	char address[64];
};

struct svc_watch *seen_start(
    struct seen *seen, struct svc_registry *registry, const char *service);
/** Whether that many of a kind came in time. */
bool seen_wait(
    struct seen *seen, svc_change change, size_t n, int64_t timeout_ms);
size_t seen_count(struct seen *seen, svc_change change);
/** What the last change said of its node. */
#define assert_seen(seen, field, value)                              \
	do {                                                         \
		char text_[200];                                     \
		pthread_mutex_lock(&(seen)->lock);                   \
		snprintf(text_, sizeof(text_), "%s", (seen)->field); \
		pthread_mutex_unlock(&(seen)->lock);                 \
		assert_string_equal(text_, value);                   \
	} while (0)

/** This program, started again with arguments. */
struct other {
	pid_t pid;
	int in;  /* its standard input */
	int out; /* its standard output */
};
struct other other_start(const char *const args[]);
/** Waits for its next line, one character long. */
void other_says(const struct other *other, char what);
/** Tells it something, which it says again when it is done. */
void other_do(const struct other *other, char what);
int other_end(struct other *other, int signal);
/** The other process: announces a node and renews it three times in its TTL;
 * does what standard input says. */
int other_announces(
    const char *where, const char *service, const char *id, int64_t ttl_ms);
/** Starts it. */
struct other announcer(const char *service, const char *id, const char *ttl_ms);

#endif
