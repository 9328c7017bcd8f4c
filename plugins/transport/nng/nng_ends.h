/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_NNG_ENDS_H
#define SVC_NNG_ENDS_H

/* Servers and clients of a transport, for the tests of this one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <svc/clock.h>
#include <svc/transport.h>

#define WAIT_MS 60000

/* A transport of its own executor, and a listener that echoes. */
struct end {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *listener;
};

struct got {
	svc_err code;
	size_t len;
	bool closed, not_run;
	char text[256];
};

void echo(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg);
/* Without an address it does not listen. */
void start_with(struct end *end, const char *plugin, struct svc_tls_config *tls,
    const struct svc_transport_limits *limits, const char *address);
void start(struct end *end, const char *plugin,
    const struct svc_transport_limits *limits, const char *address);
void stop(struct end *end);
/* One blocking call of `len` bytes. */
struct got call(const struct svc_transport_ops *ops, void *conn, size_t len);
/* The same in a connection of its own to this address. */
struct got call_at(const struct end *end, const char *address);
/* A plain socket to the listener. */
int connect_raw(const struct end *end);
/* Reads until the other side closes; false when it does not. */
bool is_closed(int fd);

#endif
