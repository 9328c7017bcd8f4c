/* SPDX-License-Identifier: Apache-2.0 */
/* What the registry mdns needs of this machine: a question is sent by multicast
 * on every link and must come back to its sender. */
#include "doctor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MDNS_PORT 5353
#define HEAR_MS 1000

struct place {
	char want[64]; /* an interface or an address; "" for all */
	uint16_t port;
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* The plugin has checked it: [INTERFACE or address][:port]. */
static void
read_place(const char *text, struct place *place)
{
	const char *bracket, *colon;
	size_t len;

	*place = (struct place){.port = MDNS_PORT};
	if (text == NULL)
		return;
	bracket = strrchr(text, ']');
	colon = strrchr(bracket != NULL ? bracket : text, ':');
	len = colon != NULL ? (size_t)(colon - text) : strlen(text);
	if (colon != NULL)
		place->port = (uint16_t)strtoul(colon + 1, NULL, 10);
	if (len >= 2 && text[0] == '[') {
		text++;
		len -= 2;
	}
	if (len < sizeof(place->want))
		memcpy(place->want, text, len);
}

static bool
has_address(const struct ifaddrs *at, const char *wanted)
{
	char text[INET6_ADDRSTRLEN] = "";
	union address address;

	if (at->ifa_addr->sa_family == AF_INET) {
		memcpy(&address.v4, at->ifa_addr, sizeof(address.v4));
		inet_ntop(AF_INET, &address.v4.sin_addr, text, sizeof(text));
	} else if (at->ifa_addr->sa_family == AF_INET6) {
		memcpy(&address.v6, at->ifa_addr, sizeof(address.v6));
		inet_ntop(AF_INET6, &address.v6.sin6_addr, text, sizeof(text));
	}
	return strcmp(text, wanted) == 0;
}

/* Those the plugin uses; of each interface and family the first. */
static bool
usable(const struct ifaddrs *all, const struct ifaddrs *at,
    const struct place *place)
{
	const unsigned ready = IFF_UP | IFF_RUNNING;
	bool fits = place->want[0] == '\0';
	int family;

	if (at->ifa_addr == NULL || (at->ifa_flags & ready) != ready)
		return false;
	family = at->ifa_addr->sa_family;
	if (!(family == AF_INET &&
		(at->ifa_flags & (IFF_MULTICAST | IFF_LOOPBACK)) != 0) &&
	    !(family == AF_INET6 && (at->ifa_flags & IFF_MULTICAST) != 0))
		return false;
	for (const struct ifaddrs *other = all; other != NULL;
	     other = other->ifa_next) {
		if (other->ifa_addr == NULL ||
		    strcmp(other->ifa_name, at->ifa_name) != 0)
			continue;
		fits = fits || strcmp(other->ifa_name, place->want) == 0 ||
		       has_address(other, place->want);
	}
	for (const struct ifaddrs *before = all; before != at;
	     before = before->ifa_next)
		if (before->ifa_addr != NULL &&
		    before->ifa_addr->sa_family == family &&
		    strcmp(before->ifa_name, at->ifa_name) == 0)
			return false;
	return fits;
}

static bool
option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

/* Bound to the group as the plugin is, and joined on the one link. */
static int
open_link(const struct ifaddrs *at, const struct place *place,
    union address *group, socklen_t *len, const char **ret_step)
{
	int family = at->ifa_addr->sa_family;
	unsigned index = if_nametoindex(at->ifa_name);
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool ok;

	*ret_step = "bind";
	memset(group, 0, sizeof(*group));
	group->any.sa_family = (sa_family_t)family;
	if (family == AF_INET) {
		struct ip_mreqn join = {.imr_ifindex = (int)index};

		*len = sizeof(group->v4);
		group->v4.sin_port = htons(place->port);
		inet_pton(AF_INET, "224.0.0.251", &group->v4.sin_addr);
		join.imr_multiaddr = group->v4.sin_addr;
		ok = fd >= 0 && option(fd, SOL_SOCKET, SO_REUSEADDR, 1) &&
		     option(fd, SOL_SOCKET, SO_REUSEPORT, 1) &&
		     bind(fd, &group->any, *len) == 0;
		if (ok)
			*ret_step = "join";
		ok = ok && option(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0) &&
		     option(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 1) &&
		     option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 255) &&
		     setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &join,
			 sizeof(join)) == 0 &&
		     setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join,
			 sizeof(join)) == 0;
	} else {
		struct ipv6_mreq join = {.ipv6mr_interface = index};

		*len = sizeof(group->v6);
		group->v6.sin6_port = htons(place->port);
		group->v6.sin6_scope_id = index;
		inet_pton(AF_INET6, "ff02::fb", &group->v6.sin6_addr);
		join.ipv6mr_multiaddr = group->v6.sin6_addr;
		ok = fd >= 0 && option(fd, SOL_SOCKET, SO_REUSEADDR, 1) &&
		     option(fd, SOL_SOCKET, SO_REUSEPORT, 1) &&
		     option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) &&
		     bind(fd, &group->any, *len) == 0;
		if (ok)
			*ret_step = "join";
		ok = ok && option(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 1) &&
		     option(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 255) &&
		     option(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)index) &&
		     setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &join,
			 sizeof(join)) == 0;
	}
	if (!ok && fd >= 0) {
		int sys = errno;

		close(fd);
		errno = sys;
	}
	return ok ? fd : -1;
}

/* A question for PTR of a name that nobody has: svc-doctor-XXXXXXXX.local. */
static size_t
write_question(unsigned char out[64])
{
	unsigned char head[12] = {0, 0, 0, 0, 0, 1};
	unsigned char tail[] = {5, 'l', 'o', 'c', 'a', 'l', 0, 0, 12, 0, 1};
	char uuid[37], label[24];
	size_t n = sizeof(head);

	svc_uuid(uuid);
	snprintf(label, sizeof(label), "svc-doctor-%.8s", uuid);
	memcpy(out, head, sizeof(head));
	out[n++] = (unsigned char)strlen(label);
	memcpy(out + n, label, strlen(label));
	n += strlen(label);
	memcpy(out + n, tail, sizeof(tail));
	return n + sizeof(tail);
}

static bool
hear(int fd, const unsigned char *question, size_t len)
{
	int64_t deadline_at_ms = svc_deadline(HEAR_MS);
	unsigned char heard[9000];

	while (svc_remaining(deadline_at_ms) > 0 && !doctor_interrupted()) {
		struct pollfd polled = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (poll(&polled, 1, (int)svc_remaining(deadline_at_ms)) <= 0)
			continue;
		n = recv(fd, heard, sizeof(heard), MSG_DONTWAIT);
		if (n == (ssize_t)len && memcmp(heard, question, len) == 0)
			return true;
	}
	return false;
}

static const char *
container(void)
{
	return access("/.dockerenv", F_OK) == 0 ||
		       access("/run/.containerenv", F_OK) == 0
		   ? " This is a container, whose own network carries no "
		     "multicast to others: run it with the host's "
		     "(--network=host), or take another registry."
		   : "";
}

static const char *
advise(const char *step, int sys)
{
	if (strcmp(step, "bind") == 0 && sys == EADDRINUSE)
		return "another program keeps the UDP port to itself: let it "
		       "share (avahi: disallow-other-stacks=no in "
		       "avahi-daemon.conf; systemd-resolved: MulticastDNS=no "
		       "in resolved.conf), see `ss -lunp`.";
	if (sys == ENETUNREACH || sys == EHOSTUNREACH)
		return "there is no route for multicast: ip route add "
		       "224.0.0.0/4 dev INTERFACE (IPv6: ip -6 route add "
		       "ff00::/8 dev INTERFACE table local).";
	if (sys == EPERM || sys == EACCES)
		return "a firewall or a security policy of this host forbids "
		       "it: allow UDP 5353 out to 224.0.0.251 and ff02::fb.";
	return "allow UDP 5353 in and out, to 224.0.0.251 and ff02::fb, in the "
	       "firewall of this host (nft list ruleset), or name a better "
	       "interface with --registry_address=INTERFACE.";
}

struct finding {
	char what[64], found[160];
	const char *advice; /* NULL: all is well */
	double ms;
};

static void
examine(const struct ifaddrs *at, const struct place *place,
    struct finding *finding)
{
	bool v4 = at->ifa_addr->sa_family == AF_INET;
	const char *group_text = v4 ? "224.0.0.251" : "ff02::fb";
	unsigned char question[64];
	size_t n = write_question(question);
	int64_t from_us = svc_now_us();
	const char *step;
	union address group;
	socklen_t len;
	int fd = open_link(at, place, &group, &len, &step);

	*finding = (struct finding){.ms = -1};
	snprintf(finding->what, sizeof(finding->what), "mdns %s %s",
	    at->ifa_name, v4 ? "IPv4" : "IPv6");
	if (fd >= 0)
		step = "send to";
	if (fd < 0 || sendto(fd, question, n, 0, &group.any, len) < 0) {
		finding->advice = advise(step, errno);
		snprintf(finding->found, sizeof(finding->found),
		    "cannot %s UDP port %u of %s: %s", step,
		    (unsigned)place->port, group_text, strerror(errno));
	} else if (!hear(fd, question, n)) {
		finding->advice = advise("hear", 0);
		snprintf(finding->found, sizeof(finding->found),
		    "a question sent to %s port %u does not come back within "
		    "%d ms",
		    group_text, (unsigned)place->port, HEAR_MS);
	} else {
		finding->ms = (double)(svc_now_us() - from_us) / 1000;
		snprintf(finding->found, sizeof(finding->found),
		    "%s port %u is shared, and multicast comes back",
		    group_text, (unsigned)place->port);
	}
	if (fd >= 0)
		close(fd);
}

void
doctor_mdns(struct doctor *doctor)
{
	enum { MAX = 64 };
	struct finding *findings = svc_mem_calloc(MAX, sizeof(*findings));
	struct ifaddrs *all = NULL;
	struct place place;
	size_t n = 0, n_well = 0;
	char advice[400];
	bool beyond = false;

	read_place(doctor->options->registry_address, &place);
	if (findings == NULL || getifaddrs(&all) != 0) {
		doctor_say(doctor, DOCTOR_FAILED, "mdns", -1, NULL,
		    "cannot list the network interfaces");
		svc_mem_free(findings);
		return;
	}
	for (struct ifaddrs *at = all; at != NULL && n < MAX;
	     at = at->ifa_next) {
		if (doctor_interrupted() || !usable(all, at, &place))
			continue;
		beyond = beyond || (at->ifa_flags & IFF_LOOPBACK) == 0;
		examine(at, &place, &findings[n]);
		n_well += findings[n++].advice == NULL;
	}
	freeifaddrs(all);
	/* One link that works is enough to be found on it. */
	for (size_t i = 0; i < n; i++) {
		const struct finding *at = &findings[i];
		doctor_say(doctor,
		    at->advice == NULL ? DOCTOR_OK
		    : n_well > 0       ? DOCTOR_WARNING
				       : DOCTOR_FAILED,
		    at->what, at->ms, at->advice, "%s", at->found);
	}
	svc_mem_free(findings);
	if (n == 0 && !doctor_interrupted())
		doctor_say(doctor, DOCTOR_FAILED, "mdns", -1,
		    "bring an interface up (ip link set INTERFACE up "
		    "multicast on), or take a registry with a server, as "
		    "--registry=etcd.",
		    "no interface that is up and capable of multicast%s%s",
		    place.want[0] != '\0' ? " is " : "", place.want);
	snprintf(advice, sizeof(advice),
	    "bring an interface up, or take a registry with a server, as "
	    "--registry=etcd.%s",
	    container());
	if (n > 0 && !beyond && place.want[0] == '\0')
		doctor_say(doctor, DOCTOR_WARNING, "mdns", -1, advice,
		    "there is only the loopback interface: nobody outside this "
		    "host is found");
	doctor->elsewhere = beyond;
}
