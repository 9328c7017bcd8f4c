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
};

/** Proves the promises of svc/transport.h. Returns the number that failed. */
int svc_conformance_transport(const struct svc_conformance_transport *setup);

#endif
