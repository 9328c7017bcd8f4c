/* SPDX-License-Identifier: Apache-2.0 */
/* Which address of this host others are told. */
#include "service.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { HOST_SIZE = 256 };

/* ---------------------------------------------------------------- hosts */

static bool
is_private(const struct in_addr *address)
{
	uint32_t ip = ntohl(address->s_addr);
	return ip >> 24 == 10 || ip >> 20 == 0xAC1 || ip >> 16 == 0xC0A8;
}

static bool
is_link_local(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET) {
		struct sockaddr_in in;
		memcpy(&in, address, sizeof(in));
		return ntohl(in.sin_addr.s_addr) >> 16 == 0xA9FE;
	}
	struct sockaddr_in6 in6;
	memcpy(&in6, address, sizeof(in6));
	return IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr);
}

/* Whether this host sends from the address by default: what it would use to
 * reach somebody far away. Nothing is sent. */
static bool
is_default(const struct in_addr *address)
{
	struct sockaddr_in far = {.sin_family = AF_INET}, own;
	socklen_t len = sizeof(own);
	far.sin_port = htons(9);
	far.sin_addr.s_addr = htonl(0xC6336401); /* 198.51.100.1: an example */
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool same = fd >= 0 &&
		    connect(fd, (struct sockaddr *)&far, sizeof(far)) == 0 &&
		    getsockname(fd, (struct sockaddr *)&own, &len) == 0 &&
		    own.sin_addr.s_addr == address->s_addr;
	if (fd >= 0)
		close(fd);
	return same;
}

/* How well it serves to be dialled by others; 0: not at all. Private ones
 * come first, for services are mostly called from the same network. */
static int
rank_of(const struct ifaddrs *at)
{
	bool running = (at->ifa_flags & IFF_RUNNING) != 0;
	if (at->ifa_addr == NULL || (at->ifa_flags & IFF_UP) == 0 ||
	    (at->ifa_addr->sa_family != AF_INET &&
		at->ifa_addr->sa_family != AF_INET6) ||
	    is_link_local(at->ifa_addr))
		return 0;
	if ((at->ifa_flags & IFF_LOOPBACK) != 0)
		return at->ifa_addr->sa_family == AF_INET ? 2 : 1;
	if (at->ifa_addr->sa_family == AF_INET6)
		return running ? 4 : 3;
	struct sockaddr_in in;
	memcpy(&in, at->ifa_addr, sizeof(in));
	return 5 + (running ? 4 : 0) + (is_private(&in.sin_addr) ? 2 : 0) +
	       (is_default(&in.sin_addr) ? 1 : 0);
}

static void
write_address(const struct sockaddr *address, char *out, size_t size)
{
	if (address->sa_family == AF_INET) {
		struct sockaddr_in in;
		memcpy(&in, address, sizeof(in));
		inet_ntop(AF_INET, &in.sin_addr, out, (socklen_t)size);
	} else {
		struct sockaddr_in6 in6;
		memcpy(&in6, address, sizeof(in6));
		inet_ntop(AF_INET6, &in6.sin6_addr, out, (socklen_t)size);
	}
}

/* The best address of an interface, or of all for NULL; the first of those
 * that are as good. False when there is none. */
static bool
best_address(const char *interface, bool v6, char *out, size_t size)
{
	struct ifaddrs *all = NULL;
	int best = 0;
	if (getifaddrs(&all) != 0)
		return false;
	for (struct ifaddrs *at = all; at != NULL; at = at->ifa_next) {
		if (interface != NULL && strcmp(at->ifa_name, interface) != 0)
			continue;
		int rank = rank_of(at);
		if (rank <= best ||
		    (at->ifa_addr->sa_family == AF_INET6 && !v6))
			continue;
		best = rank;
		write_address(at->ifa_addr, out, size);
	}
	freeifaddrs(all);
	return best > 0;
}

static bool
is_wildcard(const char *host)
{
	struct in6_addr any;
	return host[0] == '\0' || strcmp(host, "*") == 0 ||
	       strcmp(host, "0.0.0.0") == 0 ||
	       (inet_pton(AF_INET6, host, &any) == 1 &&
		   IN6_IS_ADDR_UNSPECIFIED(&any));
}

/* An IP address as it is written here or there: with or without brackets, with
 * or without a zone, and mapped into IPv6. AF_UNSPEC: it is none. */
static int
parse_ip(const char *text, struct in_addr *v4, struct in6_addr *v6)
{
	char plain[INET6_ADDRSTRLEN];
	text += *text == '[';
	size_t len = strcspn(text, "%]");
	if (len >= sizeof(plain))
		return AF_UNSPEC;
	memcpy(plain, text, len);
	plain[len] = '\0';
	if (inet_pton(AF_INET, plain, v4) == 1)
		return AF_INET;
	if (inet_pton(AF_INET6, plain, v6) != 1)
		return AF_UNSPEC;
	if (!IN6_IS_ADDR_V4MAPPED(v6))
		return AF_INET6;
	memcpy(v4, &v6->s6_addr[12], sizeof(*v4));
	return AF_INET;
}

static bool
is_loopback(int family, const struct in_addr *v4, const struct in6_addr *v6)
{
	return family == AF_INET    ? ntohl(v4->s_addr) >> 24 == 127
	       : family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(v6)
				    : false;
}

/* Why nobody could ever dial the host, or NULL. */
static const char *
why_never(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;
	int family = parse_ip(host, &v4, &v6);
	if (is_wildcard(host) ||
	    (family == AF_INET && v4.s_addr == htonl(INADDR_ANY)))
		return "names every address, so nobody can dial it";
	if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&v6))
		return "is a link-local IPv6 address, which each host reaches "
		       "by an interface of its own, so nobody can dial it";
	if ((family == AF_INET && (IN_MULTICAST(ntohl(v4.s_addr)) ||
				      v4.s_addr == htonl(INADDR_BROADCAST))) ||
	    (family == AF_INET6 && IN6_IS_ADDR_MULTICAST(&v6)))
		return "is not the address of one host, so nobody can dial it";
	return NULL;
}

/* An address on the network: HOST:PORT, or of a scheme, as ws://HOST:PORT/PATH.
 */
struct place {
	char before[32]; /* "ws://" */
	char host[HOST_SIZE];
	uint16_t port;
	const char *behind; /* "/PATH", within the text */
};

static bool
read_place(const char *text, struct place *place)
{
	char address[HOST_SIZE + 16];
	const char *mark = strstr(text, "://");
	size_t before = mark != NULL ? (size_t)(mark + 3 - text) : 0;
	size_t len = strcspn(text + before, before > 0 ? "/" : "");
	if (before >= sizeof(place->before) || len >= sizeof(address))
		return false;
	memcpy(place->before, text, before);
	place->before[before] = '\0';
	memcpy(address, text + before, len);
	address[len] = '\0';
	place->behind = text + before + len;
	return svc_address_split(address, place->host, HOST_SIZE, &place->port,
		   NULL) == SVC_OK;
}

/* ------------------------------------------------------------- advertising */

/* At another host or port than `place`. */
static svc_err
join(const struct place *place, const char *host, uint16_t port,
    char **ret_address)
{
	bool v6 = strchr(host, ':') != NULL;
	size_t size = strlen(place->before) + strlen(host) +
		      strlen(place->behind) + sizeof("[]:65535");
	char *text = svc_mem_alloc(size);
	if (text == NULL)
		return SVC_E_NOMEM;
	snprintf(text, size, v6 ? "%s[%s]:%u%s" : "%s%s:%u%s", place->before,
	    host, (unsigned)port, place->behind);
	*ret_address = text;
	return SVC_OK;
}

static svc_err
copy(const char *text, char **ret_address)
{
	*ret_address = svc_mem_strdup(text);
	return *ret_address != NULL ? SVC_OK : SVC_E_NOMEM;
}

static svc_err SVC_PRINTF(3, 4)
    bad_wish(struct svc_error *err, const char *wanted, const char *why, ...)
{
	char quoted[64], text[120];
	va_list args;
	va_start(args, why);
	vsnprintf(text, sizeof(text), why, args);
	va_end(args);
	svc_log_quote(wanted, strlen(wanted), quoted, sizeof(quoted));
	return svc_error_set(err, SVC_E_INVAL,
	    "%s %s: give HOST, INTERFACE or an IP address, each "
	    "also with :PORT",
	    quoted, text);
}

static svc_err
bad_address(struct svc_error *err, const char *bound, const char *why)
{
	char quoted[80];
	svc_log_quote(bound, strlen(bound), quoted, sizeof(quoted));
	return svc_error_set(err, SVC_E_INVAL,
	    "address %s %s: give --advertise=HOST, INTERFACE or another IP "
	    "address, or another --address",
	    quoted, why);
}

static bool
is_host_name(const char *host)
{
	for (const char *p = host; *p != '\0'; p++) {
		bool letter =
		    (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
		bool digit = *p >= '0' && *p <= '9';
		if (!letter && !digit && strchr("._-", *p) == NULL)
			return false;
	}
	return host[0] != '\0';
}

static bool
is_bare_v6_with_zone(const char *wanted)
{
	struct in_addr v4;
	struct in6_addr v6;
	return wanted[0] != '[' && strchr(wanted, '%') != NULL &&
	       parse_ip(wanted, &v4, &v6) == AF_INET6;
}

/* The host, and the port where one is given. An IPv6 address without brackets
 * is one as a whole. */
static svc_err
split_wish(const char *wanted, char host[HOST_SIZE], uint16_t *port,
    struct svc_error *err)
{
	struct in6_addr in6;
	struct svc_error why = {0};
	size_t len = strlen(wanted);
	if (len >= HOST_SIZE)
		return bad_wish(err, wanted, "is too long");
	memcpy(host, wanted, len + 1);
	if (wanted[0] == '[' && wanted[len - 1] == ']') {
		memmove(host, wanted + 1, len - 2);
		host[len - 2] = '\0';
	} else if (inet_pton(AF_INET6, wanted, &in6) != 1 &&
		   strchr(wanted, ':') != NULL &&
		   !is_bare_v6_with_zone(wanted)) {
		uint16_t own;
		if (svc_address_split(wanted, host, HOST_SIZE, &own, &why) !=
		    SVC_OK)
			return bad_wish(err, wanted,
			    "has no port from 1 to 65535, or no host");
		if (own == 0)
			return bad_wish(
			    err, wanted, "has port 0, which nobody can dial");
		*port = own;
	}
	bool v6 = strchr(host, ':') != NULL;
	const char *never = why_never(host);
	if (never != NULL)
		return bad_wish(err, wanted, "%s", never);
	if (v6 && inet_pton(AF_INET6, host, &in6) != 1)
		return bad_wish(err, wanted, "has no valid IPv6 address");
	if (!v6 && !is_host_name(host))
		return bad_wish(
		    err, wanted, "has a character that no host has");
	return SVC_OK;
}

static svc_err
from_wish(const char *wanted, const struct place *bound, char **ret_address,
    struct svc_error *err)
{
	char host[HOST_SIZE];
	uint16_t port = bound->port;
	svc_err code = split_wish(wanted, host, &port, err);
	if (code != SVC_OK)
		return code;
	if (if_nametoindex(host) != 0) {
		char address[INET6_ADDRSTRLEN];
		if (!best_address(host, true, address, sizeof(address)))
			return bad_wish(err, wanted,
			    "is an interface without an address that others "
			    "can dial");
		return join(bound, address, port, ret_address);
	}
	return join(bound, host, port, ret_address);
}

svc_err
svc_advertise_address(const char *bound, const char *wanted, char **ret_address,
    struct svc_error *err)
{
	struct place here, there;
	bool whole = wanted != NULL && strstr(wanted, "://") != NULL;
	/* What is no network address has no other form. */
	bool network = read_place(bound, &here);
	if (wanted != NULL && network && !whole)
		return from_wish(wanted, &here, ret_address, err);
	if (wanted == NULL && network && is_wildcard(here.host)) {
		char address[INET6_ADDRSTRLEN];
		bool v6 = strcmp(here.host, "0.0.0.0") != 0;
		if (!best_address(NULL, v6, address, sizeof(address)))
			snprintf(address, sizeof(address), "127.0.0.1");
		return join(&here, address, here.port, ret_address);
	}
	/* As it is. */
	const char *text = wanted != NULL ? wanted : bound;
	const char *never =
	    read_place(text, &there) ? why_never(there.host) : NULL;
	if (never != NULL && wanted != NULL)
		return bad_wish(err, text, "%s", never);
	if (never != NULL)
		return bad_address(err, bound, never);
	return copy(text, ret_address);
}

/* ---------------------------------------------------------------- warnings */

/* Whether the host is this one, as far as its text says: a name that is not
 * this host's is not looked up, and taken for another's. */
static bool
is_this_host(const char *host)
{
	char name[HOST_NAME_MAX + 1] = "";
	struct in_addr v4;
	struct in6_addr v6;
	int family = parse_ip(host, &v4, &v6);
	if (family == AF_UNSPEC) {
		gethostname(name, sizeof(name) - 1);
		return strcasecmp(host, "localhost") == 0 ||
		       strcasecmp(host, name) == 0;
	}
	if (is_loopback(family, &v4, &v6))
		return true;
	struct ifaddrs *all = NULL;
	bool own = false;
	/* What cannot be found out is no reason for a warning. */
	if (getifaddrs(&all) != 0)
		return true;
	for (struct ifaddrs *at = all; at != NULL && !own; at = at->ifa_next) {
		if (at->ifa_addr == NULL || at->ifa_addr->sa_family != family)
			continue;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		if (family == AF_INET) {
			memcpy(&in, at->ifa_addr, sizeof(in));
			own = in.sin_addr.s_addr == v4.s_addr;
		} else {
			memcpy(&in6, at->ifa_addr, sizeof(in6));
			own = IN6_ARE_ADDR_EQUAL(&in6.sin6_addr, &v6);
		}
	}
	freeifaddrs(all);
	return own;
}

/* Whether one of the servers, "[SCHEME://]HOST[:PORT][/],...", is on another
 * host. NULL is this one. */
static bool
is_elsewhere(const char *servers)
{
	if (servers == NULL)
		return false;
	for (const char *at = servers; *at != '\0';) {
		char host[HOST_SIZE];
		at += strspn(at, ", ");
		size_t len = strcspn(at, ", ");
		const char *end = at + len;
		const char *mark = memmem(at, len, "://", 3);
		if (mark != NULL)
			at = mark + 3;
		bool v6 = at < end && *at == '[';
		at += v6;
		size_t n = strcspn(at, v6 ? "]" : ":/, ");
		if (n > (size_t)(end - at))
			n = (size_t)(end - at);
		if (n > 0 && n < sizeof(host)) {
			memcpy(host, at, n);
			host[n] = '\0';
			if (!is_this_host(host))
				return true;
		}
		at = end;
	}
	return false;
}

void
svc_advertise_warn(const char *advertised, const char *servers)
{
	struct place place;
	struct in_addr v4;
	struct in6_addr v6;
	if (!read_place(advertised, &place))
		return;
	int family = parse_ip(place.host, &v4, &v6);
	if (family == AF_INET && ntohl(v4.s_addr) >> 16 == 0xA9FE)
		svc_log(SVC_LOG_WARN, "advertise.link_local",
		    "others are told %s, a link-local address that only hosts "
		    "on the same link can dial: give --advertise=HOST, "
		    "INTERFACE or another IP address",
		    advertised);
	else if ((is_loopback(family, &v4, &v6) ||
		     strcasecmp(place.host, "localhost") == 0) &&
		 is_elsewhere(servers))
		svc_log(SVC_LOG_WARN, "advertise.loopback",
		    "others are told %s, which only this host can dial, while "
		    "the registry is at %s: give --advertise=HOST, INTERFACE "
		    "or another IP address, and an --address that is not of "
		    "the loopback",
		    advertised, servers);
}
