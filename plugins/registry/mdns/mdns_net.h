/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_NET_H
#define MDNS_NET_H

#include <svc/error.h>

#include <net/if.h>
#include <netinet/in.h>
#include <sys/types.h>

/**
 * The sockets. Two, because many processes of a host share the group's port:
 * a datagram to the group reaches each of them, but one that is sent to a
 * single host and that port reaches only one of them. So questions are asked
 * from a port of our own, and the answers come back to it alone.
 */
struct mdns_place {
	char want[IF_NAMESIZE]; /* an interface; "" for every one */
	struct in_addr address; /* or the one with this address */
	uint16_t port;
};

struct mdns_link {
	unsigned index;
	struct in_addr address;
};

struct mdns_net {
	struct mdns_place place;
	int group_fd; /* announcements, and questions of others */
	int query_fd; /* our questions and the answers to them */
	struct mdns_link *links;
	size_t n_links;
};

/** Reads an address setting; NULL and "" are the default.
 * Errors: SVC_E_INVAL with what is allowed */
svc_err mdns_place_parse(
    const char *text, struct mdns_place *ret_place, struct svc_error *err);

/** Not open yet. */
void mdns_net_init(struct mdns_net *net, const struct mdns_place *place);
/** Errors: SVC_E_UNAVAILABLE, SVC_E_DENIED, SVC_E_NOMEM */
svc_err mdns_net_open(struct mdns_net *net, struct svc_error *err);
bool mdns_net_is_open(const struct mdns_net *net);
void mdns_net_close(struct mdns_net *net);

/** To the group on every interface, as a question (from the port of our own)
 * or as a response (from the group's). One interface that takes it is enough.
 * Errors: SVC_E_UNAVAILABLE, SVC_E_DENIED */
svc_err mdns_net_multicast(struct mdns_net *net, bool question,
    const void *data, size_t len, struct svc_error *err);
/** To one peer; what cannot be sent is lost, as any datagram may be. */
void mdns_net_reply(struct mdns_net *net, const struct sockaddr_in *to,
    const void *data, size_t len);
/** A datagram that is there, with its sender and the wall-clock time of its
 * arrival in microseconds; -1 when there is none. */
ssize_t mdns_net_receive(int fd, void *data, size_t size,
    struct sockaddr_in *ret_from, int64_t *ret_unix_us);

#endif
