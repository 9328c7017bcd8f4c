/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_ADDRESS_H
#define SVC_REGISTRY_ADDRESS_H

#include <svc/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** One server: the host as it is resolved, an IPv6 address without brackets. */
struct address {
	char *host;
	unsigned port;
	bool secure;
};

/** What an address of a registry may be. Texts are borrowed. */
struct address_form {
	const char *registry; /* for texts: "etcd" */
	const char *scheme;   /* "http"; with an "s" behind it is that of TLS */
	unsigned port;        /* where none is given */
	bool tls;             /* TLS is asked for apart from the scheme */
};

/**
 * Read "[SCHEME://]HOST[:PORT][/]", several separated by commas; NULL and ""
 * are 127.0.0.1. Schemes may be written in capitals (RFC 3986, 3.1). On success
 * `*ret_list` is to be freed with address_list_free.
 * Errors: SVC_E_INVAL (with what is allowed), SVC_E_NOMEM
 */
svc_err address_list_read(const struct address_form *form, const char *text,
    struct address **ret_list, size_t *ret_n, struct svc_error *err);
/** NULL is fine. */
void address_list_free(struct address *list, size_t n);

/** How many attempts an op makes at most: one at each server, and two when
 * there is but one, which may only have been slow. */
size_t address_tries(size_t n_servers);
/** How long, in ms, each of them may take, so that all fit into `timeout_ms`:
 * from 200 to 2,000. */
int64_t address_try_ms(int64_t timeout_ms, size_t n_servers);

/** How long, in ms, a watch waits before it tries one of `n_servers` again,
 * having failed `failures` times in a row: not at all until each of them has
 * had its turn, then from 0.1 s on 8/5 as long in each round, up to 5 s; of
 * each a random fifth more or less, so that watches which lost the same server
 * do not come back together. */
int64_t address_pause_ms(size_t failures, size_t n_servers);

#endif
