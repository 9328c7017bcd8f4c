/* SPDX-License-Identifier: Apache-2.0 */
/* Which address of this host others are told. */
#include "service.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static bool
is_private(uint32_t ip)
{
	return ip >> 24 == 10 || ip >> 20 == 0xAC1 || ip >> 16 == 0xC0A8;
}

/* The first private address of an interface that is up and not loopback, else
 * the first other one of such an interface, else 127.0.0.1. */
static void
host_address(char *out, size_t out_size)
{
	uint32_t best = INADDR_LOOPBACK;
	bool found = false;
	struct ifaddrs *all = NULL;
	if (getifaddrs(&all) != 0)
		all = NULL;
	for (struct ifaddrs *at = all; at != NULL; at = at->ifa_next) {
		if (at->ifa_addr == NULL ||
		    at->ifa_addr->sa_family != AF_INET ||
		    (at->ifa_flags & IFF_UP) == 0 ||
		    (at->ifa_flags & IFF_LOOPBACK) != 0)
			continue;
		struct sockaddr_in in;
		memcpy(&in, at->ifa_addr, sizeof(in));
		uint32_t ip = ntohl(in.sin_addr.s_addr);
		if (ip >> 16 == 0xA9FE) /* link-local */
			continue;
		if (is_private(ip)) {
			best = ip;
			break;
		}
		if (!found)
			best = ip;
		found = true;
	}
	if (all != NULL)
		freeifaddrs(all);
	struct in_addr address = {.s_addr = htonl(best)};
	inet_ntop(AF_INET, &address, out, (socklen_t)out_size);
}

static char *
join(const char *host, const char *port)
{
	bool bare_v6 = strchr(host, ':') != NULL && host[0] != '[';
	size_t size = strlen(host) + strlen(port) + 4;
	char *text = svc_mem_alloc(size);
	if (text != NULL)
		snprintf(text, size, bare_v6 ? "[%s]:%s" : "%s:%s", host, port);
	return text;
}

char *
svc_advertise_address(const char *bound, const char *wanted)
{
	char host[256];
	char port_text[8];
	uint16_t port;
	bool is_network =
	    svc_address_split(bound, host, sizeof(host), &port, NULL) == SVC_OK;
	if (wanted != NULL) {
		char wanted_host[256];
		uint16_t wanted_port;
		if (!is_network ||
		    svc_address_split(wanted, wanted_host, sizeof(wanted_host),
			&wanted_port, NULL) == SVC_OK)
			return svc_mem_strdup(wanted);
		snprintf(port_text, sizeof(port_text), "%u", (unsigned)port);
		return join(wanted, port_text);
	}
	if (!is_network || (host[0] != '\0' && strcmp(host, "0.0.0.0") != 0 &&
			       strcmp(host, "::") != 0))
		return svc_mem_strdup(bound);
	host_address(host, sizeof(host));
	snprintf(port_text, sizeof(port_text), "%u", (unsigned)port);
	return join(host, port_text);
}
