/* SPDX-License-Identifier: Apache-2.0 */
/* Which interfaces take part: the address setting, and what the system says
 * of them now. */
#include "mdns_links.h"

#include <svc/log.h>

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MDNS_PORT 5353
#define PREFIXES_MAX 256

static bool
ip_of(const struct sockaddr *address, uint8_t ret_ip[16])
{
	memset(ret_ip, 0, 16);
	if (address != NULL && address->sa_family == AF_INET) {
		struct sockaddr_in v4;
		memcpy(&v4, address, sizeof(v4));
		memcpy(ret_ip, &v4.sin_addr, 4);
		return true;
	}
	if (address != NULL && address->sa_family == AF_INET6) {
		struct sockaddr_in6 v6;
		memcpy(&v6, address, sizeof(v6));
		memcpy(ret_ip, &v6.sin6_addr, 16);
		return true;
	}
	return false;
}

/* Up, with a cable in it. On lo no IPv6 multicast is routed unless lo says
 * that it is capable of multicast. */
static bool
usable(const struct ifaddrs *ifa)
{
	const unsigned ready = IFF_UP | IFF_RUNNING;
	if (ifa->ifa_addr == NULL || (ifa->ifa_flags & ready) != ready)
		return false;
	if (ifa->ifa_addr->sa_family == AF_INET)
		return (ifa->ifa_flags & (IFF_MULTICAST | IFF_LOOPBACK)) != 0;
	return ifa->ifa_addr->sa_family == AF_INET6 &&
	       (ifa->ifa_flags & IFF_MULTICAST) != 0;
}

static bool
has_address(const struct mdns_place *place, const struct ifaddrs *ifa)
{
	uint8_t ip[16];
	return ip_of(ifa->ifa_addr, ip) &&
	       ifa->ifa_addr->sa_family == place->family &&
	       memcmp(ip, place->ip, sizeof(ip)) == 0;
}

/* An address in the setting stands for the interface that has it; of its own
 * family that address is the one to speak from. */
static bool
wanted(const struct mdns_place *place, const struct ifaddrs *all,
    const struct ifaddrs *ifa)
{
	if (place->want[0] != '\0')
		return strcmp(place->want, ifa->ifa_name) == 0;
	if (place->family == 0)
		return true;
	if (ifa->ifa_addr != NULL && ifa->ifa_addr->sa_family == place->family)
		return has_address(place, ifa);
	for (; all != NULL; all = all->ifa_next)
		if (strcmp(all->ifa_name, ifa->ifa_name) == 0 &&
		    has_address(place, all))
			return true;
	return false;
}

/* ---------------------------------------------------------------- setting */

static bool
port_parse(const char *text, uint16_t *ret_port)
{
	unsigned long port = 0;
	if (*text == '\0')
		return false;
	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '9')
			return false;
		port = port * 10 + (unsigned long)(*text - '0');
		if (port > UINT16_MAX)
			return false;
	}
	*ret_port = (uint16_t)port;
	return port > 0;
}

/* "lo, eth0", each once, as far as they fit. */
static void
names_of(const struct ifaddrs *all, char *out, size_t size)
{
	size_t n = 0;
	out[0] = '\0';
	for (const struct ifaddrs *ifa = all; ifa != NULL;
	     ifa = ifa->ifa_next) {
		const struct ifaddrs *before = all;
		while (before != ifa &&
		       strcmp(before->ifa_name, ifa->ifa_name) != 0)
			before = before->ifa_next;
		if (before != ifa || n + strlen(ifa->ifa_name) + 3 > size)
			continue;
		n += (size_t)snprintf(out + n, size - n, "%s%s",
		    n > 0 ? ", " : "", ifa->ifa_name);
	}
}

static svc_err
place_bad(const char *text, const struct ifaddrs *all, struct svc_error *err)
{
	char names[48], quoted[40];
	names_of(all, names, sizeof(names));
	return svc_error_set(err, SVC_E_INVAL,
	    "registry address %s is not one of mdns: allowed is nothing (all "
	    "interfaces), an interface (%s) or an address of one, then "
	    "\":port\"",
	    svc_log_quote(text, strlen(text), quoted, sizeof(quoted)),
	    names[0] != '\0' ? names : "there is none");
}

/* The part before the port: an interface, an IPv4 address, or an IPv6 address
 * in brackets. */
static bool
where_parse(const char *text, size_t len, struct mdns_place *place)
{
	char name[INET6_ADDRSTRLEN + 2];
	if (len == 0)
		return true;
	if (len >= sizeof(name))
		return false;
	memcpy(name, text, len);
	name[len] = '\0';
	if (inet_pton(AF_INET, name, place->ip) == 1) {
		place->family = AF_INET;
	} else if (name[0] == '[' && name[len - 1] == ']') {
		name[len - 1] = '\0';
		if (inet_pton(AF_INET6, name + 1, place->ip) != 1)
			return false;
		place->family = AF_INET6;
	} else if (len < sizeof(place->want)) {
		memcpy(place->want, name, len + 1);
	} else {
		return false;
	}
	return true;
}

svc_err
mdns_place_parse(
    const char *text, struct mdns_place *ret_place, struct svc_error *err)
{
	struct mdns_place place = {.port = MDNS_PORT};
	if (text == NULL)
		text = "";
	struct ifaddrs *all = NULL;
	if (getifaddrs(&all) != 0)
		return svc_error_sys(err, SVC_E_UNAVAILABLE, errno,
		    "cannot list the network interfaces");
	const char *bracket = strrchr(text, ']');
	const char *colon = strrchr(bracket != NULL ? bracket : text, ':');
	size_t len = colon != NULL ? (size_t)(colon - text) : strlen(text);
	bool ok = (colon == NULL || port_parse(colon + 1, &place.port)) &&
		  where_parse(text, len, &place);
	/* It may be down now, but it has to exist. */
	bool found = len == 0;
	for (const struct ifaddrs *ifa = all; ok && !found && ifa != NULL;
	     ifa = ifa->ifa_next)
		found = wanted(&place, all, ifa);
	svc_err rc = SVC_OK;
	if (ok && found)
		*ret_place = place;
	else
		rc = place_bad(text, all, err);
	freeifaddrs(all);
	return rc;
}

/* ------------------------------------------------------------------ links */

static struct mdns_link *
link_find(struct mdns_net *net, int family, unsigned index)
{
	for (size_t i = 0; i < MDNS_LINKS_MAX; i++)
		if (net->links[i].fd >= 0 && net->links[i].family == family &&
		    net->links[i].index == index)
			return &net->links[i];
	return NULL;
}

static struct mdns_link *
link_free(struct mdns_net *net)
{
	for (size_t i = 0; i < MDNS_LINKS_MAX; i++)
		if (net->links[i].fd < 0)
			return &net->links[i];
	return NULL;
}

static void
link_close(struct mdns_net *net, struct mdns_link *link)
{
	svc_log(SVC_LOG_DEBUG, "mdns.link", "interface %s left (%s)",
	    link->name, link->family == AF_INET ? "IPv4" : "IPv6");
	close(link->fd);
	link->fd = -1;
	net->n_links--;
}

/* Whether the system still has what the link is made of. */
static bool
link_stands(const struct mdns_net *net, const struct mdns_link *link,
    const struct ifaddrs *all)
{
	for (const struct ifaddrs *ifa = all; ifa != NULL;
	     ifa = ifa->ifa_next) {
		uint8_t ip[16];
		if (!usable(ifa) || !wanted(&net->place, all, ifa) ||
		    ifa->ifa_addr->sa_family != link->family ||
		    strcmp(ifa->ifa_name, link->name) != 0 ||
		    if_nametoindex(ifa->ifa_name) != link->index)
			continue;
		/* IPv6 chooses among its addresses by itself. */
		if (link->family == AF_INET6 ||
		    (ip_of(ifa->ifa_addr, ip) &&
			memcmp(ip, link->ip, sizeof(ip)) == 0))
			return true;
	}
	return false;
}

static bool
link_add(struct mdns_net *net, const struct ifaddrs *ifa)
{
	struct mdns_link link = {.family = ifa->ifa_addr->sa_family,
	    .index = if_nametoindex(ifa->ifa_name)};
	struct mdns_link *place = link_free(net);
	if (place == NULL || link.index == 0 ||
	    link_find(net, link.family, link.index) != NULL)
		return false;
	snprintf(link.name, sizeof(link.name), "%s", ifa->ifa_name);
	ip_of(ifa->ifa_addr, link.ip);
	link.fd = mdns_link_open(net, &link, &net->why);
	if (link.fd < 0) {
		svc_log(SVC_LOG_DEBUG, "mdns.link",
		    "interface %s cannot take part: %s", link.name,
		    net->why.text);
		return false;
	}
	svc_log(SVC_LOG_DEBUG, "mdns.link", "interface %s takes part (%s)",
	    link.name, link.family == AF_INET ? "IPv4" : "IPv6");
	*place = link;
	net->n_links++;
	return true;
}

static void
prefixes_take(struct mdns_net *net, const struct ifaddrs *all)
{
	net->n_prefixes = 0;
	if (net->prefixes == NULL)
		net->prefixes =
		    svc_mem_calloc(PREFIXES_MAX, sizeof(*net->prefixes));
	for (const struct ifaddrs *ifa = all;
	     ifa != NULL && net->prefixes != NULL &&
	     net->n_prefixes < PREFIXES_MAX;
	     ifa = ifa->ifa_next) {
		struct mdns_prefix prefix;
		if (ip_of(ifa->ifa_addr, prefix.ip) &&
		    ip_of(ifa->ifa_netmask, prefix.mask)) {
			prefix.family = ifa->ifa_addr->sa_family;
			net->prefixes[net->n_prefixes++] = prefix;
		}
	}
}

bool
mdns_net_is_near(const struct mdns_net *net, const struct mdns_peer *peer)
{
	uint8_t ip[16];
	if (!ip_of(&peer->address.any, ip))
		return false;
	int family = peer->address.any.sa_family;
	if (family == AF_INET6 && ip[0] == 0xfe && (ip[1] & 0xc0) == 0x80)
		return true; /* link-local */
	for (size_t i = 0; i < net->n_prefixes; i++) {
		const struct mdns_prefix *prefix = &net->prefixes[i];
		bool same = prefix->family == family;
		for (size_t at = 0; at < sizeof(ip) && same; at++)
			same =
			    ((ip[at] ^ prefix->ip[at]) & prefix->mask[at]) == 0;
		if (same)
			return true;
	}
	return false;
}

uint64_t
mdns_net_scan(struct mdns_net *net)
{
	struct ifaddrs *all = NULL;
	uint64_t fresh = 0;
	if (getifaddrs(&all) != 0) {
		svc_error_sys(&net->why, SVC_E_UNAVAILABLE, errno,
		    "cannot list the network interfaces");
		return 0;
	}
	net->why.code = SVC_OK;
	prefixes_take(net, all);
	for (size_t i = 0; i < MDNS_LINKS_MAX; i++) {
		struct mdns_link *link = &net->links[i];
		if (link->fd >= 0 && !link_stands(net, link, all)) {
			link_close(net, link);
		} else if (link->fd >= 0 && link->failed) {
			link->failed = false;
			fresh |= UINT64_C(1) << i;
		}
	}
	for (const struct ifaddrs *ifa = all; ifa != NULL; ifa = ifa->ifa_next)
		if (usable(ifa) && wanted(&net->place, all, ifa) &&
		    link_add(net, ifa))
			fresh |= UINT64_C(1)
				 << (link_find(net, ifa->ifa_addr->sa_family,
					 if_nametoindex(ifa->ifa_name)) -
					net->links);
	freeifaddrs(all);
	return fresh;
}
