/* SPDX-License-Identifier: Apache-2.0 */
/* A name may have many addresses, and some of them may not answer: the next one
 * is tried beside those that have not answered yet. */
#include "names.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <svc/clock.h>
#include <svc/log.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 8     /* addresses of a name that are tried */
#define NAP_MS 100 /* it looks this often whether it is given up */

struct tries {
	struct pollfd fds[MOST];
	int n; /* under way */
	int sys;
	const struct addrinfo *next; /* NULL: all were begun */
	int left;                    /* of MOST */
};

static void
format_v6(const struct sockaddr_in6 *in6, char *out, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "", link[IF_NAMESIZE + 1] = "";
	unsigned port = ntohs(in6->sin6_port);
	if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
		inet_ntop(
		    AF_INET, &in6->sin6_addr.s6_addr[12], host, sizeof(host));
		snprintf(out, size, "%s:%u", host, port);
		return;
	}
	inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
	if (IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr) && in6->sin6_scope_id != 0) {
		link[0] = '%';
		if (if_indextoname(in6->sin6_scope_id, link + 1) == NULL)
			snprintf(link + 1, sizeof(link) - 1, "%u",
			    (unsigned)in6->sin6_scope_id);
	}
	snprintf(out, size, "[%s%s]:%u", host, link, port);
}

void
names_format(const struct sockaddr_storage *address, char *out, size_t size)
{
	char host[INET_ADDRSTRLEN] = "";
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	out[0] = '\0';
	if (address->ss_family == AF_INET6) {
		memcpy(&in6, address, sizeof(in6));
		format_v6(&in6, out, size);
	} else if (address->ss_family == AF_INET) {
		memcpy(&in, address, sizeof(in));
		inet_ntop(AF_INET, &in.sin_addr, host, sizeof(host));
		snprintf(
		    out, size, "%s:%u", host, (unsigned)ntohs(in.sin_port));
	}
}

bool
names_every(const char *host)
{
	return host[0] == '\0' || strcmp(host, "*") == 0;
}

svc_err
names_check_link(const char *host, const char *address, struct svc_error *err)
{
	struct in6_addr in6;
	char quoted[96];
	/* One with its interface is none for inet_pton. */
	if (inet_pton(AF_INET6, host, &in6) != 1 ||
	    !IN6_IS_ADDR_LINKLOCAL(&in6))
		return SVC_OK;
	return svc_error_set(err, SVC_E_INVAL,
	    "address %s is of a link and does not say which; allowed is "
	    "[%s%%INTERFACE]:port",
	    svc_log_quote(address, strlen(address), quoted, sizeof(quoted)),
	    host);
}

int
names_connect(const struct addrinfo *to)
{
	int on = 1;
	int fd = socket(
	    to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, to->ai_addr, to->ai_addrlen) == 0 ||
	    errno == EINPROGRESS)
		return fd;
	int sys = errno;
	close(fd);
	errno = sys;
	return -1;
}

/* Begins with the next address that can be begun with. */
static void
begin_next(struct tries *tries)
{
	int before = tries->n;
	while (tries->next != NULL && tries->n == before) {
		int fd = names_connect(tries->next);
		if (fd >= 0)
			tries->fds[tries->n++] =
			    (struct pollfd){.fd = fd, .events = POLLOUT};
		else
			tries->sys = errno;
		tries->next = --tries->left > 0 ? tries->next->ai_next : NULL;
	}
}

/* The first that is connected, taken out; those that failed are closed. */
static int
take_connected(struct tries *tries)
{
	int connected = -1, kept = 0;
	for (int i = 0; i < tries->n; i++) {
		struct pollfd one = tries->fds[i];
		int sys = 0;
		socklen_t len = sizeof(sys);
		if (one.revents != 0)
			getsockopt(one.fd, SOL_SOCKET, SO_ERROR, &sys, &len);
		if (sys != 0) {
			tries->sys = sys;
			close(one.fd);
		} else if (one.revents != 0 && connected < 0) {
			connected = one.fd;
		} else {
			tries->fds[kept++] = one;
		}
	}
	tries->n = kept;
	return connected;
}

int
names_connect_any(const struct addrinfo *found, int64_t deadline_at_ms,
    const bool *given_up, int *ret_sys)
{
	struct tries tries = {.next = found, .left = MOST};
	int64_t next_at_ms = svc_now_ms();
	int fd = -1;
	for (;;) {
		if (tries.n == 0 || svc_remaining(next_at_ms) == 0) {
			begin_next(&tries);
			next_at_ms = svc_deadline(NAMES_STAGGER_MS);
		}
		if (tries.n == 0)
			break;
		if (svc_remaining(deadline_at_ms) == 0)
			tries.sys = ETIMEDOUT;
		else if (__atomic_load_n(given_up, __ATOMIC_RELAXED))
			tries.sys = ECANCELED;
		else if (poll(tries.fds, (nfds_t)tries.n, NAP_MS) <= 0 ||
			 (fd = take_connected(&tries)) < 0)
			continue;
		break;
	}
	for (int i = 0; i < tries.n; i++)
		close(tries.fds[i].fd);
	*ret_sys = tries.sys;
	return fd;
}
