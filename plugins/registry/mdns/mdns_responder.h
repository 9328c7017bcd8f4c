/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_RESPONDER_H
#define MDNS_RESPONDER_H

#include "mdns_net.h"
#include "mdns_node.h"

/**
 * The nodes that are announced here: tells of them and answers for them until
 * they are withdrawn or not renewed. For one thread.
 */
struct local;
struct deferred;
struct mdns_responder {
	struct mdns_net *net;
	struct local *locals;
	struct deferred *deferred; /* questions of which more is to come */
	size_t n_deferred;
	int64_t due_at_ms[MDNS_LINKS_MAX]; /* of answers to the group */
};

void mdns_responder_init(
    struct mdns_responder *responder, struct mdns_net *net);
/** Says no goodbye: others keep the nodes until their TTL passes. */
void mdns_responder_fini(struct mdns_responder *responder);
/** A new or changed node is told of three times within three seconds, one that
 * is renewed once. `node` belongs to the responder, also on failure.
 * Errors: of mdns_net_multicast, SVC_E_NOMEM */
svc_err mdns_responder_announce(struct mdns_responder *responder,
    struct mdns_node *node, int64_t ttl_ms, struct svc_error *err);
/** Says goodbye; nothing happens when it is not announced here. */
void mdns_responder_withdraw(
    struct mdns_responder *responder, const char *service, const char *id);
/** These links (bits) are new: the nodes are announced there. */
void mdns_responder_links(struct mdns_responder *responder, uint64_t fresh);
/** Answers what is a question, at once or by a later tick. */
void mdns_responder_hear(struct mdns_responder *responder, const void *data,
    size_t len, const struct mdns_peer *from);
/** Tells what is due to be told, and says goodbye for nodes that were not
 * renewed. Returns when to come again. */
int64_t mdns_responder_tick(struct mdns_responder *responder);

#endif
