/* SPDX-License-Identifier: Apache-2.0 */
#include "nng_private.h"

#include <names/names.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define INPROC "inproc://"
#define IPC "ipc://"
#define UNIX "unix://"

static const struct scheme {
	const char *prefix;
	bool has_port, layered, tls;
} schemes[] = {
    {"tcp://", true, false, false},
    {"tcp4://", true, false, false},
    {"tcp6://", true, false, false},
    {"tls+tcp://", true, false, true},
    {"tls+tcp4://", true, false, true},
    {"tls+tcp6://", true, false, true},
    {IPC, false, false, false},
    {UNIX, false, false, false},
    {"abstract://", false, false, false},
    {INPROC, false, false, false},
    {"ws://", true, true, false},
};

static svc_err
refuse(struct svc_error *err, const char *address, const char *why)
{
	char quoted[96];
	return svc_error_set(err, SVC_E_INVAL,
	    "address %s %s; allowed are host:port, tcp://host:port, "
	    "tls+tcp://host:port, ipc:///path, abstract://name, inproc://name "
	    "and ws://host:port/path",
	    svc_log_quote(address, strlen(address), quoted, sizeof(quoted)),
	    why);
}

static const struct scheme *
scheme_of(const char *address)
{
	for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++)
		if (strncmp(address, schemes[i].prefix,
			strlen(schemes[i].prefix)) == 0)
			return &schemes[i];
	return NULL;
}

/* A whole URL, or host:port as it stands in one. */
static svc_err
parse_port(const char *authority, const char *address, bool to_listen,
    struct address *ret, struct svc_error *err)
{
	char host[256];
	uint16_t port;
	struct svc_error why = {0};
	if (svc_address_split(authority, host, sizeof(host), &port, &why) !=
	    SVC_OK)
		return authority == address
			   ? svc_error_set(err, why.code, "%s", why.text)
			   : refuse(err, address,
				 "has no host:port that is valid");
	ret->any = names_every(host);
	snprintf(ret->host, sizeof(ret->host), "%s", host);
	if (!to_listen && (ret->any || port == 0))
		return refuse(err, address,
		    "cannot be called, as that needs a host and a port above "
		    "0");
	return names_check_link(host, address, err);
}

svc_err
address_parse(const char *address, bool to_listen, bool with_tls,
    struct address *ret_address, struct svc_error *err)
{
	struct address ret = {.plain = strstr(address, "://") == NULL};
	svc_err rc = SVC_OK;
	if (strlen(address) > sizeof(ret.url) - sizeof("tcp://"))
		return refuse(err, address, "is too long");
	if (ret.plain) {
		rc = parse_port(address, address, to_listen, &ret, err);
		ret.has_port = true;
		ret.tls = with_tls;
		snprintf(ret.url, sizeof(ret.url), "tcp://%s", address);
		*ret_address = ret;
		return rc;
	}
	const struct scheme *scheme = scheme_of(address);
	if (scheme == NULL)
		return refuse(err, address, "has a scheme that is not served");
	ret.has_port = scheme->has_port;
	ret.layered = scheme->layered;
	ret.tls = scheme->tls;
	ret.inproc = strcmp(scheme->prefix, INPROC) == 0;
	ret.is_path = strcmp(scheme->prefix, IPC) == 0 ||
		      strcmp(scheme->prefix, UNIX) == 0;
	if (ret.has_port && ret.tls && !with_tls)
		return refuse(err, address,
		    "needs TLS, which is not set up (--tls_cert and --tls_key, "
		    "or --tls_ca)");
	if (ret.has_port && !ret.tls && with_tls)
		return refuse(
		    err, address, "has no TLS, which is demanded (--tls_...)");
	snprintf(ret.url, sizeof(ret.url), "%s",
	    ret.tls ? address + strlen("tls+") : address);
	const char *rest = address + strlen(scheme->prefix);
	if (!scheme->has_port) {
		if (*rest == 0)
			return refuse(err, address, "has no name");
	} else {
		char authority[URL_MAX_LEN];
		size_t len = strcspn(rest, "/?#");
		if (!scheme->layered && rest[len] != 0)
			return refuse(err, address, "has a path");
		memcpy(authority, rest, len);
		authority[len] = 0;
		rc = parse_port(authority, address, to_listen, &ret, err);
	}
	if (rc == SVC_OK)
		*ret_address = ret;
	return rc;
}

void
address_format(const nng_sockaddr *address, char *out, size_t size)
{
	struct sockaddr_storage at = {0};
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	if (address->s_family == NNG_AF_INET) {
		in.sin_addr.s_addr = address->s_in.sa_addr;
		in.sin_port = address->s_in.sa_port;
		memcpy(&at, &in, sizeof(in));
	} else if (address->s_family == NNG_AF_INET6) {
		memcpy(&in6.sin6_addr, address->s_in6.sa_addr,
		    sizeof(in6.sin6_addr));
		in6.sin6_port = address->s_in6.sa_port;
		in6.sin6_scope_id = address->s_in6.sa_scope;
		memcpy(&at, &in6, sizeof(in6));
	}
	names_format(&at, out, size);
}
