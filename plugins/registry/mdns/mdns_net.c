/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_net.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MDNS_PORT 5353
#define MDNS_GROUP "224.0.0.251"
#define RECEIVE_BUFFER (4 * 1024 * 1024)
#define LINKS_MAX 64

/* ---------------------------------------------------------------- setting */

static bool
link_usable(const struct ifaddrs *ifa)
{
	return ifa->ifa_addr != NULL && ifa->ifa_addr->sa_family == AF_INET &&
	       (ifa->ifa_flags & IFF_UP) != 0 &&
	       (ifa->ifa_flags & (IFF_MULTICAST | IFF_LOOPBACK)) != 0;
}

static struct in_addr
link_address(const struct ifaddrs *ifa)
{
	struct sockaddr_in in;
	memcpy(&in, ifa->ifa_addr, sizeof(in));
	return in.sin_addr;
}

static bool
link_wanted(const struct mdns_place *place, const struct ifaddrs *ifa)
{
	if (!link_usable(ifa))
		return false;
	if (place->want[0] != '\0')
		return strcmp(place->want, ifa->ifa_name) == 0;
	return place->address.s_addr == INADDR_ANY ||
	       place->address.s_addr == link_address(ifa).s_addr;
}

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
links_name(const struct ifaddrs *all, char *out, size_t size)
{
	size_t n = 0;
	out[0] = '\0';
	for (const struct ifaddrs *ifa = all; ifa != NULL;
	     ifa = ifa->ifa_next) {
		size_t len = strlen(ifa->ifa_name);
		if (!link_usable(ifa) || n + len + 3 > size ||
		    strstr(out, ifa->ifa_name) != NULL)
			continue;
		n += (size_t)snprintf(out + n, size - n, "%s%s",
		    n > 0 ? ", " : "", ifa->ifa_name);
	}
}

static svc_err
place_bad(const char *text, const struct ifaddrs *all, struct svc_error *err)
{
	char names[64], quoted[48];
	links_name(all, names, sizeof(names));
	return svc_error_set(err, SVC_E_INVAL,
	    "registry address %s is not one of mdns: allowed is nothing (all "
	    "interfaces), an interface (%s) or its IPv4 address, each also "
	    "with \":port\" from 1 to 65535",
	    svc_log_quote(text, strlen(text), quoted, sizeof(quoted)),
	    names[0] != '\0' ? names : "none is up");
}

svc_err
mdns_place_parse(
    const char *text, struct mdns_place *ret_place, struct svc_error *err)
{
	struct mdns_place place = {.port = MDNS_PORT};
	char
	    name[INET_ADDRSTRLEN > IF_NAMESIZE ? INET_ADDRSTRLEN : IF_NAMESIZE];
	if (text == NULL)
		text = "";
	struct ifaddrs *all = NULL;
	if (getifaddrs(&all) != 0)
		return svc_error_sys(err, SVC_E_UNAVAILABLE, errno,
		    "cannot list the network interfaces");
	const char *colon = strrchr(text, ':');
	size_t len = colon != NULL ? (size_t)(colon - text) : strlen(text);
	bool ok = len < sizeof(name) &&
		  (colon == NULL || port_parse(colon + 1, &place.port));
	if (ok && len > 0) {
		memcpy(name, text, len);
		name[len] = '\0';
		if (inet_pton(AF_INET, name, &place.address) == 1)
			ok = place.address.s_addr != INADDR_ANY;
		else if (len < sizeof(place.want))
			memcpy(place.want, name, len + 1);
		else
			ok = false;
		const struct ifaddrs *ifa = all;
		while (ok && ifa != NULL && !link_wanted(&place, ifa))
			ifa = ifa->ifa_next;
		ok = ok && ifa != NULL;
	}
	svc_err rc = SVC_OK;
	if (ok)
		*ret_place = place;
	else
		rc = place_bad(text, all, err);
	freeifaddrs(all);
	return rc;
}

/* ---------------------------------------------------------------- sockets */

void
mdns_net_init(struct mdns_net *net, const struct mdns_place *place)
{
	memset(net, 0, sizeof(*net));
	net->place = *place;
	net->group_fd = net->query_fd = -1;
}

bool
mdns_net_is_open(const struct mdns_net *net)
{
	return net->group_fd >= 0;
}

void
mdns_net_close(struct mdns_net *net)
{
	if (net->group_fd >= 0)
		close(net->group_fd);
	if (net->query_fd >= 0)
		close(net->query_fd);
	net->group_fd = net->query_fd = -1;
	svc_mem_free(net->links);
	net->links = NULL;
	net->n_links = 0;
}

static struct sockaddr_in
group_address(const struct mdns_net *net)
{
	struct sockaddr_in in = {
	    .sin_family = AF_INET, .sin_port = htons(net->place.port)};
	inet_pton(AF_INET, MDNS_GROUP, &in.sin_addr);
	return in;
}

static bool
option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

/* The group's socket is bound to the group and not to every address, so that
 * it takes no datagram that another mDNS responder of this host waits for. */
static int
socket_open(const struct mdns_net *net, bool group, struct svc_error *err)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (group)
		in = group_address(net);
	if (fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
		goto fail;
	if (group && (!option(fd, SOL_SOCKET, SO_REUSEADDR, 1) ||
			 !option(fd, SOL_SOCKET, SO_REUSEPORT, 1)))
		goto fail;
	if (!option(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 1) ||
	    !option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 255) ||
	    !option(fd, SOL_SOCKET, SO_TIMESTAMP, 1))
		goto fail;
#ifdef IP_MULTICAST_ALL
	/* Only what was joined by this socket, not by the whole host. */
	if (!option(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0))
		goto fail;
#endif
	/* The kernel cuts this to its limit; a smaller one only loses more
	 * when very many nodes answer at once. */
	option(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER);
	if (bind(fd, (struct sockaddr *)&in, sizeof(in)) == 0)
		return fd;
fail:;
	int sys = errno;
	if (fd >= 0)
		close(fd);
	svc_error_sys(err,
	    sys == EPERM || sys == EACCES ? SVC_E_DENIED : SVC_E_UNAVAILABLE,
	    sys, "cannot open UDP port %u of " MDNS_GROUP,
	    group ? (unsigned)net->place.port : 0u);
	return -1;
}

static bool
link_known(const struct mdns_net *net, unsigned index)
{
	for (size_t i = 0; i < net->n_links; i++)
		if (net->links[i].index == index)
			return true;
	return false;
}

static void
links_join(struct mdns_net *net, const struct ifaddrs *all)
{
	for (const struct ifaddrs *ifa = all;
	     ifa != NULL && net->n_links < LINKS_MAX; ifa = ifa->ifa_next) {
		struct mdns_link link = {
		    .index = if_nametoindex(ifa->ifa_name)};
		if (!link_wanted(&net->place, ifa) || link.index == 0 ||
		    link_known(net, link.index))
			continue;
		link.address = link_address(ifa);
		struct ip_mreqn join = {
		    .imr_multiaddr = group_address(net).sin_addr,
		    .imr_address = link.address,
		    .imr_ifindex = (int)link.index};
		if (setsockopt(net->group_fd, IPPROTO_IP, IP_ADD_MEMBERSHIP,
			&join, sizeof(join)) != 0) {
			svc_log(SVC_LOG_DEBUG, "mdns.join",
			    "interface %s cannot join " MDNS_GROUP ": %s",
			    ifa->ifa_name, strerror(errno));
			continue;
		}
		net->links[net->n_links++] = link;
	}
}

svc_err
mdns_net_open(struct mdns_net *net, struct svc_error *err)
{
	struct ifaddrs *all = NULL;
	struct svc_error why = {.code = SVC_OK};
	svc_err rc = SVC_OK;
	net->links = svc_mem_calloc(LINKS_MAX, sizeof(*net->links));
	if (net->links == NULL) {
		rc = svc_error_set(err, SVC_E_NOMEM, "out of memory");
		goto fail;
	}
	net->query_fd = socket_open(net, false, &why);
	if (net->query_fd >= 0)
		net->group_fd = socket_open(net, true, &why);
	if (net->group_fd < 0) {
		rc = svc_error_set(err, why.code, "%s", why.text);
		if (err != NULL)
			err->sys = why.sys;
		goto fail;
	}
	if (getifaddrs(&all) != 0) {
		rc = svc_error_sys(err, SVC_E_UNAVAILABLE, errno,
		    "cannot list the network interfaces");
		goto fail;
	}
	links_join(net, all);
	freeifaddrs(all);
	if (net->n_links > 0)
		return SVC_OK;
	rc = svc_error_set(err, SVC_E_UNAVAILABLE,
	    "no network interface takes part in mdns: one must be up, have an "
	    "IPv4 address, and be lo or capable of multicast");
fail:
	mdns_net_close(net);
	return rc;
}

static bool
send_on(int fd, const struct mdns_link *link, const struct sockaddr_in *to,
    const void *data, size_t len)
{
	/* The address is said too: of lo alone the kernel would choose none. */
	struct in_pktinfo info = {
	    .ipi_ifindex = (int)link->index, .ipi_spec_dst = link->address};
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(struct in_pktinfo))];
	} control;
	memset(&control, 0, sizeof(control));
	struct sockaddr_in name = *to;
	struct iovec part = {.iov_len = len};
	memcpy(&part.iov_base, &data, sizeof(data));
	struct msghdr message = {.msg_name = &name,
	    .msg_namelen = sizeof(name),
	    .msg_iov = &part,
	    .msg_iovlen = 1,
	    .msg_control = control.space,
	    .msg_controllen = sizeof(control.space)};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = IPPROTO_IP;
	head->cmsg_type = IP_PKTINFO;
	head->cmsg_len = CMSG_LEN(sizeof(info));
	memcpy(CMSG_DATA(head), &info, sizeof(info));
	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)len;
}

svc_err
mdns_net_multicast(struct mdns_net *net, bool question, const void *data,
    size_t len, struct svc_error *err)
{
	struct sockaddr_in group = group_address(net);
	int fd = question ? net->query_fd : net->group_fd;
	size_t sent = 0;
	int sys = 0;
	for (size_t i = 0; i < net->n_links; i++) {
		if (send_on(fd, &net->links[i], &group, data, len))
			sent++;
		else
			sys = errno;
	}
	if (sent > 0)
		return SVC_OK;
	return svc_error_sys(err,
	    sys == EPERM || sys == EACCES ? SVC_E_DENIED : SVC_E_UNAVAILABLE,
	    sys, "cannot send to " MDNS_GROUP " on any of %zu interfaces",
	    net->n_links);
}

void
mdns_net_reply(struct mdns_net *net, const struct sockaddr_in *to,
    const void *data, size_t len)
{
	if (sendto(net->group_fd, data, len, MSG_NOSIGNAL,
		(const struct sockaddr *)to, sizeof(*to)) < 0)
		svc_log(SVC_LOG_DEBUG, "mdns.reply",
		    "an answer was not sent: "
		    "%s",
		    strerror(errno));
}

ssize_t
mdns_net_receive(int fd, void *data, size_t size, struct sockaddr_in *ret_from,
    int64_t *ret_unix_us)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(struct timeval)) + 64];
	} control;
	struct iovec part = {.iov_base = data, .iov_len = size};
	struct msghdr message = {.msg_name = ret_from,
	    .msg_namelen = sizeof(*ret_from),
	    .msg_iov = &part,
	    .msg_iovlen = 1,
	    .msg_control = control.space,
	    .msg_controllen = sizeof(control.space)};
	ssize_t n;
	do {
		n = recvmsg(fd, &message, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -1;
	*ret_unix_us = svc_now_unix_ms() * 1000;
	for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head != NULL;
	     head = CMSG_NXTHDR(&message, head)) {
		struct timeval stamp;
		if (head->cmsg_level != SOL_SOCKET ||
		    head->cmsg_type != SCM_TIMESTAMP)
			continue;
		memcpy(&stamp, CMSG_DATA(head), sizeof(stamp));
		*ret_unix_us =
		    (int64_t)stamp.tv_sec * 1000000 + (int64_t)stamp.tv_usec;
	}
	return n;
}
