/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TLS_H
#define SVC_TLS_H

#include <svc/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Certificates and keys are PEM files, read again when they have changed. */
struct svc_tls_config {
	const char *cert, *key; /* shown to peers; a listener needs them */
	const char *ca;         /* peers are verified against it; NULL: dialled
				 * peers against the system's, accepted ones
				 * not at all */
	const char *name;       /* that a dialled peer's certificate must have;
				 * NULL: the host it was dialled by */
	bool anonymous;         /* accept peers without a certificate although
				 * `ca` is set */
};

#ifdef __cplusplus
}
#endif
#endif
