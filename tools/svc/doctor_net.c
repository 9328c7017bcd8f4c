/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: whether their names resolve and their ports are open, and what
 * time it is there. */
#include "doctor.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DIAL_MS 2000

/* --------------------------------------------------------------- addresses */

struct target {
	char host[256], port[8];
	bool tls;
	int fd; /* -1: not connected, then the next two say why */
	char why[160], advice[400];
	double ms;
};

static bool
has_tls(const struct doctor *doctor)
{
	static const char *const flags[] = {"registry_tls_ca",
	    "registry_tls_cert", "registry_tls_key", "registry_tls_name"};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (svc_settings_source(svc_settings_of(doctor->tool->service),
			flags[i]) != SVC_SOURCE_CODE)
			return true;
	return false;
}

/* One part of a list, "[scheme://]host[:port][/path]". False when it is no
 * address of the network, or the plugin's port is not known. */
static bool
read_target(
    const char *plugin, const char *text, size_t len, struct target *target)
{
	static const struct {
		const char *plugin, *scheme, *port;
		bool tls;
	} known[] = {
	    {"etcd", "https://", "2379", true},
	    {"etcd", "", "2379", false},
	    {"consul", "https://", "8500", true},
	    {"consul", "", "8500", false},
	    {"redis", "rediss://", "6379", true},
	    {"redis", "", "6379", false},
	    {"mqtt", "ssl://", "8883", true},
	    {"mqtt", "mqtts://", "8883", true},
	    {"mqtt", "ws://", "80", false},
	    {"mqtt", "wss://", "443", true},
	    {"mqtt", "", "1883", false},
	};
	char *end, *port;

	*target = (struct target){.fd = -1};
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		size_t n = strlen(known[i].scheme);

		if (strcmp(known[i].plugin, plugin) == 0 && len >= n &&
		    strncasecmp(text, known[i].scheme, n) == 0) {
			target->tls = known[i].tls;
			snprintf(target->port, sizeof(target->port), "%s",
			    known[i].port);
			break;
		}
	}
	const char *mark = memmem(text, len, "://", 3);
	if (mark != NULL) {
		len -= (size_t)(mark + 3 - text);
		text = mark + 3;
	}
	const char *slash = memchr(text, '/', len);
	if (slash != NULL)
		len = (size_t)(slash - text);
	snprintf(target->host, sizeof(target->host), "%.*s", (int)len, text);
	end = target->host;
	if (end[0] == '[' && strchr(end, ']') != NULL) {
		memmove(end, end + 1, strlen(end));
		end = strchr(end, ']');
		*end++ = '\0';
	}
	port = strchr(end, ':');
	if (port != NULL && strchr(port + 1, ':') == NULL) {
		snprintf(target->port, sizeof(target->port), "%.7s", port + 1);
		*port = '\0';
	}
	return target->host[0] != '\0' && target->port[0] != '\0';
}

/* Connects within the time; the error otherwise. */
static int
dial_one(const struct addrinfo *at, int *ret_sys)
{
	int fd = socket(
	    at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd polled = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(*ret_sys);

	*ret_sys = 0;
	if (fd < 0 || connect(fd, at->ai_addr, at->ai_addrlen) != 0)
		*ret_sys = errno;
	if (*ret_sys == EINPROGRESS) {
		int n = poll(&polled, 1, DIAL_MS);

		if (n == 0)
			*ret_sys = ETIMEDOUT;
		else if (n < 0)
			*ret_sys = errno;
		else
			getsockopt(fd, SOL_SOCKET, SO_ERROR, ret_sys, &len);
	}
	if (*ret_sys == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static void
dial(struct target *target)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all;
	char *why = target->why, *advice = target->advice;
	int64_t from_us = svc_now_us();
	int code = getaddrinfo(target->host, target->port, &hints, &all);
	int sys = 0;

	if (code != 0) {
		target->ms = doctor_since_ms(from_us);
		snprintf(why, sizeof(target->why),
		    "the host name does not resolve: %s", gai_strerror(code));
		snprintf(advice, sizeof(target->advice),
		    "check its spelling, /etc/hosts and /etc/resolv.conf "
		    "(getent hosts %s).",
		    target->host);
		return;
	}
	for (struct addrinfo *at = all;
	     at != NULL && target->fd < 0 && !doctor_interrupted();
	     at = at->ai_next)
		target->fd = dial_one(at, &sys);
	freeaddrinfo(all);
	target->ms = doctor_since_ms(from_us);
	if (sys == ECONNREFUSED) {
		snprintf(why, sizeof(target->why),
		    "refused: the host is there, and nothing listens on the "
		    "port");
		snprintf(advice, sizeof(target->advice),
		    "start the server there, or name the right address and "
		    "port.");
	} else if (sys == ETIMEDOUT) {
		snprintf(why, sizeof(target->why), "no answer within %d ms",
		    DIAL_MS);
		snprintf(advice, sizeof(target->advice),
		    "a firewall drops the packets, or the host is down: allow "
		    "TCP port %s on both sides.",
		    target->port);
	} else {
		snprintf(
		    why, sizeof(target->why), "unreachable: %s", strerror(sys));
		snprintf(advice, sizeof(target->advice),
		    "check the route to it (ip route get %s) and that no "
		    "firewall rejects the packets.",
		    target->host);
	}
}

bool
doctor_dial(const char *address, char *why, size_t size, double *ret_ms)
{
	struct target target;

	if (!read_target("", address, strlen(address), &target)) {
		snprintf(why, size, "it is no HOST:PORT");
		return false;
	}
	dial(&target);
	*ret_ms = target.ms;
	if (target.fd < 0)
		snprintf(why, size, "%s", target.why);
	else
		close(target.fd);
	return target.fd >= 0;
}

/* Whether the other end is on another host: its address is not our own. */
static bool
is_elsewhere(int fd)
{
	struct sockaddr_in6 own = {0}, peer = {0};
	socklen_t own_len = sizeof(own), peer_len = sizeof(peer);
	struct sockaddr_in own4, peer4;

	if (getsockname(fd, (struct sockaddr *)&own, &own_len) != 0 ||
	    getpeername(fd, (struct sockaddr *)&peer, &peer_len) != 0)
		return false;
	if (own.sin6_family == AF_INET6)
		return memcmp(&own.sin6_addr, &peer.sin6_addr, 16) != 0;
	memcpy(&own4, &own, sizeof(own4));
	memcpy(&peer4, &peer, sizeof(peer4));
	return own4.sin_addr.s_addr != peer4.sin_addr.s_addr;
}

/* --------------------------------------------------------------- the clock */

/* The seconds that an HTTP server's clock is ahead of ours; its time is told
 * in whole seconds. False when it tells none. */
static bool
ask_clock(const struct target *target, double *ret_ahead)
{
	char text[2048], *date;
	int64_t deadline_at_ms = svc_deadline(DIAL_MS);
	struct tm tm = {0};
	size_t n;

	n = (size_t)snprintf(text, sizeof(text),
	    "HEAD /version HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
	    target->host);
	int64_t before = svc_now_unix_ms();
	if (send(target->fd, text, n, MSG_NOSIGNAL) != (ssize_t)n)
		return false;
	n = 0;
	while (!doctor_interrupted() && n < sizeof(text) - 1 &&
	       svc_remaining(deadline_at_ms) > 0) {
		struct pollfd polled = {.fd = target->fd, .events = POLLIN};
		ssize_t got;

		if (poll(&polled, 1, (int)svc_remaining(deadline_at_ms)) <= 0)
			continue;
		got = recv(target->fd, text + n, sizeof(text) - 1 - n, 0);
		if (got <= 0)
			break;
		n += (size_t)got;
		text[n] = '\0';
		if (strstr(text, "\r\n\r\n") != NULL)
			break;
	}
	text[n] = '\0';
	date = strcasestr(text, "\r\nDate: ");
	if (date == NULL ||
	    strptime(date + 8, "%a, %d %b %Y %H:%M:%S GMT", &tm) == NULL)
		return false;
	double from = (double)before / 1000;
	double to = (double)svc_now_unix_ms() / 1000;
	double told = (double)timegm(&tm);
	*ret_ahead = told > to         ? told - to
		     : told + 1 < from ? told + 1 - from
				       : 0;
	return true;
}

static void
check_clock(struct doctor *doctor, const struct target *target)
{
	bool http = strcmp(doctor->options->registry, "etcd") == 0 ||
		    strcmp(doctor->options->registry, "consul") == 0;
	double ahead;

	if (!http || target->tls || has_tls(doctor) ||
	    !ask_clock(target, &ahead))
		doctor_say(doctor, DOCTOR_SKIPPED, "clock", -1, NULL,
		    "not compared: only a registry that speaks HTTP "
		    "without TLS tells its time");
	else if (ahead > 1 || ahead < -1)
		doctor_say(doctor, DOCTOR_WARNING, "clock", -1,
		    "let both hosts keep their time (chrony or "
		    "systemd-timesyncd; timedatectl shows it): leases do not "
		    "suffer, but certificates and logs do.",
		    "the registry's is %.0f s %s ours",
		    ahead > 0 ? ahead : -ahead,
		    ahead > 0 ? "ahead of" : "behind");
	else
		doctor_say(doctor, DOCTOR_OK, "clock", -1, NULL,
		    "within a second of the registry's");
}

bool
doctor_addresses(struct doctor *doctor, const char *room, const char *plugin,
    const char *list)
{
	struct target targets[16], *first = NULL;
	const size_t max = sizeof(targets) / sizeof(targets[0]);
	size_t n = 0;

	if (list == NULL || list[0] == '\0')
		list = "127.0.0.1";
	while (n < max && *list != '\0' && !doctor_interrupted()) {
		size_t len;

		list += strspn(list, ", ");
		len = strcspn(list, ", ");
		if (len > 0 && read_target(plugin, list, len, &targets[n])) {
			dial(&targets[n]);
			if (targets[n].fd >= 0 && first == NULL)
				first = &targets[n];
			n++;
		}
		list += len;
	}
	/* One that answers is enough: then the others are warnings. */
	for (size_t i = 0; i < n; i++) {
		const struct target *at = &targets[i];
		char what[320];

		snprintf(what, sizeof(what), "%s %.255s port %.7s", room,
		    at->host, at->port);
		if (at->fd >= 0)
			doctor_say(doctor, DOCTOR_OK, what, at->ms, NULL,
			    "the port is open");
		else
			doctor_say(doctor,
			    first != NULL ? DOCTOR_WARNING : DOCTOR_FAILED,
			    what, at->ms, at->advice, "%s", at->why);
	}
	if (first != NULL && strcmp(room, "registry") == 0) {
		doctor->elsewhere = is_elsewhere(first->fd);
		check_clock(doctor, first);
	}
	for (size_t i = 0; i < n; i++)
		if (targets[i].fd >= 0)
			close(targets[i].fd);
	return n == 0 || first != NULL;
}
