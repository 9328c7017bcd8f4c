/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONFORMANCE_TRANSPORT_H
#define SVC_CONFORMANCE_TRANSPORT_H

#include <svc/transport.h>

struct svc_conformance_transport {
	const char *plugin; /* found by its name */
	const char
	    *address; /* to listen on, with a port or name of its choice */
	const char *nobody;               /* an address nothing listens on */
	const char *bad;                  /* one that is not an address */
	const struct svc_tls_config *tls; /* NULL: bare */
	const char *title; /* of the group of tests; NULL: the plugin */
	bool sockets;      /* an address is "127.0.0.1:port" of a TCP socket, to
			    * which a peer of the test's own can be bound */
};

/** Proves the promises of svc/transport.h. Returns the number that failed. */
int svc_conformance_transport(const struct svc_conformance_transport *setup);

/* Of it: how streams, connections and listeners end. */
int svc_conformance_transport_end(
    const struct svc_conformance_transport *setup);
/* What a stream of many or large messages promises. */
int svc_conformance_transport_flow(
    const struct svc_conformance_transport *setup);
/* What becomes of peers that fall silent, and of what a service that stops has
 * still to say. */
int svc_conformance_transport_silent(
    const struct svc_conformance_transport *setup);
/* Which addresses of the host a listener takes. */
int svc_conformance_transport_address(
    const struct svc_conformance_transport *setup);
/* What a server said that is gone when its client writes, and what it has
 * read. */
int svc_conformance_transport_gone(
    const struct svc_conformance_transport *setup);
/* And what a call on its caller's thread promises. */
int svc_conformance_transport_call(
    const struct svc_conformance_transport *setup);

#endif
