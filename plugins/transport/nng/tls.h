/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_NNG_TLS_H
#define SVC_NNG_TLS_H

/* The certificates of a transport, for nng's TLS, which is mbedTLS. */

#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>
#include <svc/transport.h>

struct certificates;
/* Reads the files. Errors: SVC_E_INVAL (which file, why), SVC_E_NOMEM.
 * `config` is borrowed until destroyed. */
svc_err certificates_create(const struct svc_tls_config *config,
    struct certificates **ret, struct svc_error *err);
void certificates_destroy(struct certificates *self); /* NULL is fine */
/* A configuration of the newest usable files, to be freed by
 * nng_tls_config_free. `host` is the one dialled; NULL for a listener.
 * `generation` counts the changes of the files. 0, or an error of nng. */
int certificates_config(struct certificates *self, const char *host,
    nng_tls_config **ret_config, unsigned *ret_generation);
/* Looks at the files, once a second at most. True when they have changed since
 * `generation` and are good. */
bool certificates_changed(struct certificates *self, unsigned generation);

#endif
