/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_FOUND_H
#define MDNS_FOUND_H

#include "mdns_packet.h"

#include <svc/registry.h>

/** How nodes are read from responses in MDNS_DOMAIN, in go-micro's way. Pure
 * functions. */

/** What the TXT data may grow to when it is decompressed. */
#define MDNS_TXT_MAX (1024 * 1024)

/** A node found in a response; lives only for the call. */
struct mdns_found {
	const char *instance;
	uint32_t ttl;     /* 0: it says goodbye */
	char address[64]; /* "" when there is none, as in goodbyes */
	const uint8_t *txt;
	size_t txt_len; /* 0 when there is none, as in goodbyes */
};
struct mdns_sink {
	void (*node)(const struct mdns_found *found, void *arg);
	/** A listed service, as the name that owns its nodes. */
	void (*listed)(const char *owner, void *arg);
};
/** Reports what a packet tells of nodes in MDNS_DOMAIN: nothing when it is no
 * response or garbage. At most 64 nodes of a packet. */
void mdns_response_read(
    const void *data, size_t len, const struct mdns_sink *sink, void *arg);

/** The node as a record with one node. Errors: SVC_E_INVAL, SVC_E_NOMEM */
svc_err mdns_found_decode(const struct mdns_found *found,
    struct svc_record **ret_record, struct svc_error *err);
/** A number for the content of what was found, to see changes by. */
uint64_t mdns_found_hash(const struct mdns_found *found);

#endif
