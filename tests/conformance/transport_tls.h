/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONFORMANCE_TRANSPORT_TLS_H
#define SVC_CONFORMANCE_TRANSPORT_TLS_H

#include <svc/transport.h>

struct svc_conformance_tls {
	const char *plugin;  /* found by its name */
	const char *address; /* on 127.0.0.1, port 0 */
};

/** Proves the promises of struct svc_tls_config. Returns the number that
 * failed. */
int svc_conformance_tls(const struct svc_conformance_tls *setup);
/** The suite of transport.h over mutual TLS; `base` says with what. */
struct svc_conformance_transport;
int svc_conformance_transport_over_tls(
    const struct svc_conformance_transport *base);

#endif
