/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_net.h"

#include "mdns_links.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECEIVE_BUFFER (4 * 1024 * 1024)

uint16_t
mdns_peer_port(const struct mdns_peer *peer)
{
	return ntohs(peer->address.any.sa_family == AF_INET6
			 ? peer->address.v6.sin6_port
			 : peer->address.v4.sin_port);
}

bool
mdns_peer_same(const struct mdns_peer *a, const struct mdns_peer *b)
{
	if (a->link != b->link ||
	    a->address.any.sa_family != b->address.any.sa_family ||
	    mdns_peer_port(a) != mdns_peer_port(b))
		return false;
	if (a->address.any.sa_family == AF_INET6)
		return memcmp(&a->address.v6.sin6_addr,
			   &b->address.v6.sin6_addr, 16) == 0;
	return a->address.v4.sin_addr.s_addr == b->address.v4.sin_addr.s_addr;
}

static struct mdns_peer
group_of(const struct mdns_net *net, int family, unsigned index)
{
	struct mdns_peer group = {.link = -1};
	if (family == AF_INET) {
		group.address.v4.sin_family = AF_INET;
		group.address.v4.sin_port = htons(net->place.port);
		inet_pton(AF_INET, "224.0.0.251", &group.address.v4.sin_addr);
	} else {
		group.address.v6.sin6_family = AF_INET6;
		group.address.v6.sin6_port = htons(net->place.port);
		group.address.v6.sin6_scope_id = index;
		inet_pton(AF_INET6, "ff02::fb", &group.address.v6.sin6_addr);
	}
	return group;
}

static socklen_t
address_len(const struct mdns_peer *peer)
{
	return peer->address.any.sa_family == AF_INET6
		   ? sizeof(peer->address.v6)
		   : sizeof(peer->address.v4);
}

/* ---------------------------------------------------------------- opening */

static bool
option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

static bool
options_set(int fd, int family)
{
	if (!option(fd, SOL_SOCKET, SO_TIMESTAMP, 1))
		return false;
	/* The kernel cuts this to its limit; a smaller one only loses more
	 * when very many nodes answer at once. */
	option(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER);
	if (family == AF_INET6)
		return option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) &&
		       option(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 1) &&
		       option(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 255) &&
		       option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 255);
#ifdef IP_MULTICAST_ALL
	/* Only what was joined by this socket, not by the whole host: so what
	 * a link's socket receives came by that link. */
	if (!option(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0))
		return false;
#endif
	return option(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 1) &&
	       option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 255) &&
	       option(fd, IPPROTO_IP, IP_TTL, 255);
}

static svc_err
open_failed(int fd, struct svc_error *err, const char *what)
{
	int sys = errno;
	if (fd >= 0)
		close(fd);
	return svc_error_sys(err,
	    sys == EPERM || sys == EACCES ? SVC_E_DENIED : SVC_E_UNAVAILABLE,
	    sys, "cannot open %s", what);
}

static bool
join(int fd, const struct mdns_peer *group, const struct mdns_link *link)
{
	if (link->family == AF_INET6) {
		struct ipv6_mreq request = {.ipv6mr_interface = link->index};
		request.ipv6mr_multiaddr = group->address.v6.sin6_addr;
		return setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &request,
			   sizeof(request)) == 0;
	}
	struct ip_mreqn request = {.imr_ifindex = (int)link->index};
	request.imr_multiaddr = group->address.v4.sin_addr;
	memcpy(&request.imr_address, link->ip, 4);
	return setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request,
		   sizeof(request)) == 0;
}

/* It is bound to the group and not to every address, so that it takes no
 * datagram that another mDNS responder of this host waits for. */
int
mdns_link_open(const struct mdns_net *net, const struct mdns_link *link,
    struct svc_error *err)
{
	char what[64];
	struct mdns_peer group = group_of(net, link->family, link->index);
	int fd = socket(link->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(what, sizeof(what), "UDP port %u of %s on %s",
	    (unsigned)net->place.port,
	    link->family == AF_INET ? "224.0.0.251" : "ff02::fb", link->name);
	if (fd >= 0 && option(fd, SOL_SOCKET, SO_REUSEADDR, 1) &&
	    option(fd, SOL_SOCKET, SO_REUSEPORT, 1) &&
	    options_set(fd, link->family) &&
	    bind(fd, &group.address.any, address_len(&group)) == 0 &&
	    join(fd, &group, link))
		return fd;
	open_failed(fd, err, what);
	return -1;
}

static int
query_open(int family, struct svc_error *err)
{
	struct mdns_peer any = {.link = -1};
	any.address.any.sa_family = (sa_family_t)family;
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && options_set(fd, family) &&
	    bind(fd, &any.address.any, address_len(&any)) == 0)
		return fd;
	open_failed(fd, err, "a UDP port");
	return -1;
}

static int
news_open(void)
{
	struct sockaddr_nl name = {.nl_family = AF_NETLINK,
	    .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof(name)) != 0) {
		close(fd);
		fd = -1;
	}
	if (fd < 0)
		svc_log(SVC_LOG_WARN, "mdns.news",
		    "changes of network interfaces will not be noticed: %s",
		    strerror(errno));
	return fd;
}

void
mdns_net_init(struct mdns_net *net, const struct mdns_place *place)
{
	memset(net, 0, sizeof(*net));
	net->place = *place;
	net->query_fd[0] = net->query_fd[1] = net->news_fd = -1;
	for (size_t i = 0; i < MDNS_LINKS_MAX; i++)
		net->links[i].fd = -1;
}

bool
mdns_net_is_open(const struct mdns_net *net)
{
	return net->query_fd[0] >= 0 || net->query_fd[1] >= 0;
}

/* A host may have one of the two families only. */
svc_err
mdns_net_open(struct mdns_net *net, struct svc_error *err)
{
	struct svc_error why = {.code = SVC_OK};
	net->query_fd[1] = query_open(AF_INET6, &why);
	net->query_fd[0] = query_open(AF_INET, &why);
	if (!mdns_net_is_open(net)) {
		if (err != NULL)
			*err = why;
		return why.code;
	}
	net->news_fd = news_open();
	return SVC_OK;
}

void
mdns_net_close(struct mdns_net *net)
{
	for (size_t i = 0; i < MDNS_LINKS_MAX; i++)
		if (net->links[i].fd >= 0)
			close(net->links[i].fd);
	for (size_t i = 0; i < 2; i++)
		if (net->query_fd[i] >= 0)
			close(net->query_fd[i]);
	if (net->news_fd >= 0)
		close(net->news_fd);
	svc_mem_free(net->prefixes);
	mdns_net_init(net, &net->place);
}

bool
mdns_net_changed(struct mdns_net *net)
{
	char message[8192];
	bool changed = false;
	if (net->news_fd < 0)
		return false;
	for (;;) {
		ssize_t n =
		    recv(net->news_fd, message, sizeof(message), MSG_DONTWAIT);
		/* ENOBUFS: there was more than could be kept. */
		if (n <= 0 && errno != ENOBUFS && errno != EINTR)
			return changed;
		changed = true;
	}
}

svc_err
mdns_net_check(const struct mdns_net *net, struct svc_error *err)
{
	if (net->n_links > 0)
		return SVC_OK;
	if (net->why.code != SVC_OK) {
		if (err != NULL)
			*err = net->why;
		return net->why.code;
	}
	return svc_error_set(err, SVC_E_UNAVAILABLE,
	    "%s%s takes part in mdns: it must be up, have an address, and be "
	    "lo or capable of multicast",
	    net->place.want[0] != '\0' ? "interface " : "no network interface",
	    net->place.want);
}

size_t
mdns_net_poll(const struct mdns_net *net, struct pollfd *ret_fds)
{
	size_t n = 0;
	ret_fds[n++] = (struct pollfd){.fd = net->news_fd, .events = POLLIN};
	for (size_t i = 0; i < 2; i++)
		ret_fds[n++] =
		    (struct pollfd){.fd = net->query_fd[i], .events = POLLIN};
	for (size_t i = 0; i < MDNS_LINKS_MAX; i++)
		if (net->links[i].fd >= 0)
			ret_fds[n++] = (struct pollfd){
			    .fd = net->links[i].fd, .events = POLLIN};
	return n;
}

/* ------------------------------------------------------ sending, receiving */

static bool
send_on(int fd, const struct mdns_link *link, const struct mdns_peer *group,
    const void *data, size_t len)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(struct in_pktinfo))];
	} control;
	struct mdns_peer to = *group;
	struct iovec part = {.iov_len = len};
	memcpy(&part.iov_base, &data, sizeof(data));
	struct msghdr message = {.msg_name = &to.address,
	    .msg_namelen = address_len(&to),
	    .msg_iov = &part,
	    .msg_iovlen = 1};
	if (link->family == AF_INET) {
		/* The address is said too: of lo alone the kernel would
		 * choose none. IPv6 has the interface in the group's
		 * address. */
		struct in_pktinfo info = {.ipi_ifindex = (int)link->index};
		memcpy(&info.ipi_spec_dst, link->ip, 4);
		memset(&control, 0, sizeof(control));
		message.msg_control = control.space;
		message.msg_controllen = sizeof(control.space);
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = IPPROTO_IP;
		head->cmsg_type = IP_PKTINFO;
		head->cmsg_len = CMSG_LEN(sizeof(info));
		memcpy(CMSG_DATA(head), &info, sizeof(info));
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)len;
}

svc_err
mdns_net_multicast(struct mdns_net *net, int link, bool own_port,
    const void *data, size_t len, struct svc_error *err)
{
	size_t sent = 0;
	int sys = 0;
	if (net->n_links == 0)
		return mdns_net_check(net, err);
	for (int i = 0; i < MDNS_LINKS_MAX; i++) {
		struct mdns_link *on = &net->links[i];
		if (on->fd < 0 || (link != MDNS_ALL_LINKS && link != i))
			continue;
		struct mdns_peer group = group_of(net, on->family, on->index);
		int fd =
		    own_port ? net->query_fd[on->family == AF_INET6] : on->fd;
		if (send_on(fd, on, &group, data, len)) {
			sent++;
			continue;
		}
		sys = errno;
		on->failed = true;
	}
	if (sent > 0)
		return SVC_OK;
	return svc_error_sys(err,
	    sys == EPERM || sys == EACCES ? SVC_E_DENIED : SVC_E_UNAVAILABLE,
	    sys, "cannot send to the mdns group on any of %zu links",
	    net->n_links);
}

void
mdns_net_reply(struct mdns_net *net, const struct mdns_peer *to,
    const void *data, size_t len)
{
	if (to->link < 0 || net->links[to->link].fd < 0)
		return;
	if (sendto(net->links[to->link].fd, data, len, MSG_NOSIGNAL,
		&to->address.any, address_len(to)) < 0)
		svc_log(SVC_LOG_DEBUG, "mdns.reply",
		    "an answer was not sent: %s", strerror(errno));
}

ssize_t
mdns_net_receive(int fd, void *data, size_t size, struct mdns_peer *ret_from,
    int64_t *ret_unix_us)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(struct timeval)) + 64];
	} control;
	struct iovec part = {.iov_base = data, .iov_len = size};
	struct msghdr message = {.msg_name = &ret_from->address,
	    .msg_namelen = sizeof(ret_from->address),
	    .msg_iov = &part,
	    .msg_iovlen = 1,
	    .msg_control = control.space,
	    .msg_controllen = sizeof(control.space)};
	ssize_t n;
	if (fd < 0)
		return -1;
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
