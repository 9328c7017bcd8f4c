/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_KNOWNS_H
#define MDNS_KNOWNS_H

#include "mdns_packet.h"

/** The answers that packets list: in questions, what need not be answered
 * (RFC 6762 section 7.1); in responses, what others have just said. */
struct mdns_knowns {
	struct mdns_said {
		uint64_t hash;
		uint32_t ttl;
	} * items;
	size_t n;
	size_t cap;
	bool sorted;
};

void mdns_knowns_init(struct mdns_knowns *knowns);
void mdns_knowns_fini(struct mdns_knowns *knowns);
/** Adds the answers of a packet; what is too much, or malformed, is left out:
 * then there is only more to say. */
void mdns_knowns_add(struct mdns_knowns *knowns, const void *data, size_t len);
/** Whether the record is there with at least this TTL. */
bool mdns_knowns_have(
    struct mdns_knowns *knowns, const struct mdns_record *record, uint32_t ttl);

#endif
