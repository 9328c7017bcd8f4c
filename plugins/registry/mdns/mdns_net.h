/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_NET_H
#define MDNS_NET_H

#include <svc/error.h>

#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/types.h>

/**
 * The sockets, on the interfaces that there are at the moment. For one thread.
 *
 * An interface takes part once by IPv4 and once by IPv6; each of these is a
 * link, with a socket at the group's port. Questions leave from those, and
 * also from a port of our own: many processes of a host share the group's
 * port, so a datagram that is sent to one host and that port reaches only one
 * of them, and some answer only in that way.
 */
#define MDNS_LINKS_MAX 64
#define MDNS_ALL_LINKS (-1)

/** What the address setting says. */
struct mdns_place {
	char want[IF_NAMESIZE]; /* an interface; "" for every one */
	int family;             /* or the one with this address; 0: any */
	uint8_t ip[16];
	uint16_t port;
};

struct mdns_link {
	int fd;     /* at the group's port; -1: no link has this place */
	int family; /* AF_INET or AF_INET6 */
	unsigned index;
	char name[IF_NAMESIZE];
	uint8_t ip[16]; /* an address of it */
	bool failed;    /* to send: perhaps its address is not ready yet */
};

/** A part of the network that is reached without a router. */
struct mdns_prefix {
	int family;
	uint8_t ip[16];
	uint8_t mask[16];
};

struct mdns_net {
	struct mdns_place place;
	int query_fd[2]; /* questions from a port of our own: IPv4, IPv6 */
	int news_fd;     /* netlink: something about interfaces changed */
	struct mdns_link links[MDNS_LINKS_MAX];
	size_t n_links;
	struct mdns_prefix *prefixes;
	size_t n_prefixes;
	struct svc_error why; /* of the last link that did not open */
};

/** Who sent a datagram. */
struct mdns_peer {
	int link; /* -1: it came to a port of our own */
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} address;
};
uint16_t mdns_peer_port(const struct mdns_peer *peer);
bool mdns_peer_same(const struct mdns_peer *a, const struct mdns_peer *b);

/** Reads an address setting; NULL and "" are the default.
 * Errors: SVC_E_INVAL with what is allowed */
svc_err mdns_place_parse(
    const char *text, struct mdns_place *ret_place, struct svc_error *err);

/** Not open yet. */
void mdns_net_init(struct mdns_net *net, const struct mdns_place *place);
/** Opens what needs no interface. Errors: SVC_E_UNAVAILABLE, SVC_E_DENIED */
svc_err mdns_net_open(struct mdns_net *net, struct svc_error *err);
bool mdns_net_is_open(const struct mdns_net *net);
void mdns_net_close(struct mdns_net *net);
/** Compares the links with the interfaces there are. Returns those that are
 * new, or as good as new, as bits. */
uint64_t mdns_net_scan(struct mdns_net *net);
/** Whether interfaces or addresses changed since the last call. */
bool mdns_net_changed(struct mdns_net *net);
/** Whether there is a link. Errors: SVC_E_UNAVAILABLE, SVC_E_DENIED, with why
 * there is none */
svc_err mdns_net_check(const struct mdns_net *net, struct svc_error *err);

/** What can be waited for; returns how many, at most MDNS_LINKS_MAX + 3. */
size_t mdns_net_poll(const struct mdns_net *net, struct pollfd *ret_fds);

/** To the group on one link or MDNS_ALL_LINKS, from the group's port or from
 * the one of our own. One link that takes it is enough.
 * Errors: SVC_E_UNAVAILABLE, SVC_E_DENIED */
svc_err mdns_net_multicast(struct mdns_net *net, int link, bool own_port,
    const void *data, size_t len, struct svc_error *err);
/** To whoever asked, from the group's port; what cannot be sent is lost, as
 * any datagram may be. */
void mdns_net_reply(struct mdns_net *net, const struct mdns_peer *to,
    const void *data, size_t len);
/** A datagram that is there, with the wall-clock time of its arrival in
 * microseconds; -1 when there is none. */
ssize_t mdns_net_receive(int fd, void *data, size_t size,
    struct mdns_peer *ret_from, int64_t *ret_unix_us);
/** Whether the sender is of this host or on a link, not behind a router. */
bool mdns_net_is_near(const struct mdns_net *net, const struct mdns_peer *peer);

#endif
