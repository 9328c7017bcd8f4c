/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/log.h>
#include <svc/transport.h>

#include <string.h>

#define REQUIRED(member) SVC_REQUIRED(struct svc_transport_ops, member)

static const struct svc_required required[] = {
    REQUIRED(create),
    REQUIRED(destroy),
    REQUIRED(listen),
    REQUIRED(listener_address),
    REQUIRED(drain),
    REQUIRED(listener_destroy),
    REQUIRED(dial),
    REQUIRED(conn_destroy),
    REQUIRED(open),
    REQUIRED(send),
    REQUIRED(wait),
    REQUIRED(release),
    {NULL, 0},
};

static const void *const embedded[] = {&svc_transport_memory, NULL};

const struct svc_interface svc_transport_interface = {
    .name = "transport",
    .abi = SVC_TRANSPORT_ABI,
    .min_size = offsetof(struct svc_transport_ops, peer),
    .required = required,
    .embedded = embedded,
};

static svc_err
bad_address(struct svc_error *err, const char *address, const char *why)
{
	char quoted[96];
	return svc_error_set(err, SVC_E_INVAL,
	    "address %s %s; allowed are host:port, :port and [v6]:port",
	    svc_log_quote(address, strlen(address), quoted, sizeof(quoted)),
	    why);
}

svc_err
svc_address_split(const char *address, char *host, size_t host_size,
    uint16_t *ret_port, struct svc_error *err)
{
	const char *start = address, *end, *colon;
	if (*address == '[') {
		start = address + 1;
		end = strchr(start, ']');
		if (end == NULL)
			return bad_address(err, address, "has no closing ]");
		colon = end + 1;
		if (*colon != ':')
			return bad_address(err, address, "has no port");
	} else {
		colon = strrchr(address, ':');
		if (colon == NULL)
			return bad_address(err, address, "has no port");
		end = colon;
		if (memchr(start, ':', (size_t)(end - start)) != NULL)
			return bad_address(
			    err, address, "has more than one colon");
	}
	size_t len = (size_t)(end - start);
	if (len >= host_size)
		return bad_address(err, address, "has too long a host");
	for (const char *p = start; p < end; p++)
		if ((unsigned char)*p <= ' ' || *p == '/')
			return bad_address(
			    err, address, "has a character no host has");

	uint32_t port = 0;
	const char *digit = colon + 1;
	if (*digit == 0)
		return bad_address(err, address, "has no port");
	for (; *digit != 0; digit++) {
		if (*digit < '0' || *digit > '9' || port > 65535)
			return bad_address(err, address,
			    "has a port that is not a number up to 65535");
		port = port * 10 + (uint32_t)(*digit - '0');
	}
	if (port > 65535)
		return bad_address(err, address,
		    "has a port that is not a number up to 65535");
	memcpy(host, start, len);
	host[len] = 0;
	*ret_port = (uint16_t)port;
	return SVC_OK;
}
