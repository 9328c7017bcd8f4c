/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_BATCH_H
#define MDNS_BATCH_H

#include "mdns_net.h"
#include "mdns_node.h"

#define MDNS_BATCH_MAX 32

/**
 * Responses about several nodes in as few packets as they need. A record that
 * two nodes have in common is said once. For one thread.
 */
struct mdns_batch {
	struct mdns_net *net;
	int link;                   /* where to, for the group */
	const struct mdns_peer *to; /* NULL: to the group */
	/* A plain DNS client asked (RFC 6762 section 6.7): it gets its
	 * question and id back and one packet only, short TTLs, and nothing
	 * that plain DNS does not know. */
	const struct mdns_question *question;
	uint16_t id;

	struct {
		const struct mdns_node *node;
		uint32_t ttl;
		unsigned answers;
		unsigned extras;
	} items[MDNS_BATCH_MAX];
	size_t n;
	size_t size; /* about that many bytes */
	bool cut;    /* there was more than one packet holds */
};

/** `to` and `question` may be NULL; they are borrowed until the end. */
void mdns_batch_begin(struct mdns_batch *batch, struct mdns_net *net, int link,
    const struct mdns_peer *to, const struct mdns_question *question,
    uint16_t id);
/** Sends what there is when this does not fit in. The node is borrowed until
 * the end. */
void mdns_batch_add(struct mdns_batch *batch, const struct mdns_node *node,
    uint32_t ttl, unsigned answers, unsigned extras);
/** Sends the rest. */
void mdns_batch_end(struct mdns_batch *batch);

#endif
