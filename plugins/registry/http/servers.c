/* SPDX-License-Identifier: Apache-2.0 */
#include "servers.h"

#include <svc/log.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { HOST_MAX = 253, URL_MAX = 1024 };

static svc_err
bad_address(const struct http_servers *servers, const char *text, size_t len,
    const char *why, struct svc_error *err)
{
	char quoted[64];
	svc_log_quote(text, len, quoted, sizeof(quoted));
	return svc_error_set(err, SVC_E_INVAL,
	    "%s address %s %s: use \"host\", \"host:port\" or "
	    "\"http(s)://host:port\", several separated by commas",
	    servers->registry, quoted, why);
}

static svc_err
no_memory(const struct http_servers *servers, struct svc_error *err)
{
	return svc_error_set(
	    err, SVC_E_NOMEM, "no memory for registry %s", servers->registry);
}

static bool
is_host_char(char c, bool v6)
{
	if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') ||
	    (c >= 'A' && c <= 'F') || c == '.')
		return true;
	if (v6)
		return c == ':';
	return (c >= 'g' && c <= 'z') || (c >= 'G' && c <= 'Z') || c == '-' ||
	       c == '_';
}

/* "<before><host>:<port>"; an IPv6 address that lacks them gets brackets. */
static char *
join(const char *before, const char *host, int len, unsigned port)
{
	struct svc_buf buf;
	bool v6 = *host != '[' && memchr(host, ':', (size_t)len) != NULL;
	svc_buf_init(&buf, URL_MAX);
	svc_buf_printf(&buf, "%s%s%.*s%s:%u", before, v6 ? "[" : "", len, host,
	    v6 ? "]" : "", port);
	char *text = buf.failed == SVC_OK ? svc_buf_take(&buf, NULL) : NULL;
	svc_buf_fini(&buf);
	return text;
}

static bool
skip_scheme(const char **at, const char *end, const char *scheme)
{
	size_t len = strlen(scheme);
	if ((size_t)(end - *at) < len || memcmp(*at, scheme, len) != 0)
		return false;
	*at += len;
	return true;
}

/* One of the list: [text, text + len). */
static svc_err
parse_address(struct http_servers *servers, const char *text, size_t len,
    const struct svc_tls_config *tls, unsigned port, struct svc_error *err)
{
	const char *host = text, *end = text + len;
	bool secure = tls != NULL;
	if (skip_scheme(&host, end, "https://"))
		secure = true;
	else if (skip_scheme(&host, end, "http://")) {
		if (tls != NULL)
			return bad_address(servers, text, len,
			    "is without the TLS that registry_tls_* asks for",
			    err);
	} else if (memmem(text, len, "://", 3) != NULL)
		return bad_address(
		    servers, text, len, "has an unknown scheme", err);
	if (end > host && end[-1] == '/')
		end--;
	bool v6 = host < end && *host == '[';
	const char *first = host + (v6 ? 1 : 0), *p = first;
	while (p < end && is_host_char(*p, v6))
		p++;
	size_t host_len = (size_t)(p - first);
	if (host_len == 0 || host_len > HOST_MAX ||
	    (v6 && (p == end || *p++ != ']')))
		return bad_address(
		    servers, text, len, "has no valid host", err);
	int whole_len = (int)(p - host);
	if (p < end) {
		if (*p++ != ':')
			return bad_address(
			    servers, text, len, "has no valid host", err);
		port = 0;
		const char *digits = p;
		while (p < end && *p >= '0' && *p <= '9' && p - digits < 6)
			port = port * 10 + (unsigned)(*p++ - '0');
		if (p < end || p == digits || port < 1 || port > 65535)
			return bad_address(servers, text, len,
			    "has no port from 1 to 65535", err);
	}
	struct http_server *server = &servers->list[servers->n++];
	const char *scheme = secure ? "https://" : "http://";
	const char *name = secure && tls != NULL ? tls->name : NULL;
	server->url = join(scheme, host, whole_len, port);
	if (name != NULL) {
		/* That is looked for in the certificate; the host is dialled.
		 */
		server->base = join(scheme, name, (int)strlen(name), port);
		server->connect_to = join("::", host, whole_len, port);
	} else {
		server->base = svc_mem_strdup(server->url);
	}
	if (server->url == NULL || server->base == NULL ||
	    (name != NULL && server->connect_to == NULL))
		return no_memory(servers, err);
	return SVC_OK;
}

static svc_err
parse_addresses(struct http_servers *servers,
    const struct svc_registry_config *config, unsigned port,
    struct svc_error *err)
{
	const char *list = config->address;
	size_t count = 1;
	if (list == NULL || *list == '\0')
		list = "127.0.0.1";
	for (const char *p = list; *p != '\0'; p++)
		count += *p == ',';
	servers->list = svc_mem_calloc(count, sizeof(*servers->list));
	if (servers->list == NULL)
		return no_memory(servers, err);
	for (const char *p = list;;) {
		size_t len = strcspn(p, ",");
		const char *next = p + len;
		while (len > 0 && *p == ' ') {
			p++;
			len--;
		}
		while (len > 0 && p[len - 1] == ' ')
			len--;
		if (len == 0)
			return bad_address(servers, list, strlen(list),
			    "has an empty part", err);
		svc_err rc =
		    parse_address(servers, p, len, config->tls, port, err);
		if (rc != SVC_OK)
			return rc;
		if (*next == '\0')
			return SVC_OK;
		p = next + 1;
	}
}

/* Early, so that a slip ends the start and is not taken for a registry that is
 * not there. */
static svc_err
take_file(const struct http_servers *servers, const char *path,
    const char *flag, char **ret_path, struct svc_error *err)
{
	if (path == NULL)
		return SVC_OK;
	if (access(path, R_OK) != 0) {
		int sys = errno;
		char quoted[96];
		svc_log_quote(path, strlen(path), quoted, sizeof(quoted));
		svc_error_set(err, SVC_E_INVAL, "%s (--%s): %s", quoted, flag,
		    strerror(sys));
		if (err != NULL)
			err->sys = sys;
		return SVC_E_INVAL;
	}
	*ret_path = svc_mem_strdup(path);
	return *ret_path != NULL ? SVC_OK : no_memory(servers, err);
}

svc_err
http_servers_create(const char *registry,
    const struct svc_registry_config *config, unsigned port,
    struct http_servers **ret_servers, struct svc_error *err)
{
	struct http_servers *servers = svc_mem_calloc(1, sizeof(*servers));
	if (servers == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry %s", registry);
	servers->registry = registry;
	svc_err rc = parse_addresses(servers, config, port, err);
	const struct svc_tls_config *tls = config->tls;
	if (rc == SVC_OK && tls != NULL)
		rc = take_file(
		    servers, tls->ca, "registry_tls_ca", &servers->ca, err);
	if (rc == SVC_OK && tls != NULL)
		rc = take_file(servers, tls->cert, "registry_tls_cert",
		    &servers->cert, err);
	if (rc == SVC_OK && tls != NULL)
		rc = take_file(
		    servers, tls->key, "registry_tls_key", &servers->key, err);
	if (rc != SVC_OK) {
		http_servers_destroy(servers);
		return rc;
	}
	*ret_servers = servers;
	return SVC_OK;
}

void
http_servers_destroy(struct http_servers *servers)
{
	if (servers == NULL)
		return;
	for (size_t i = 0; i < servers->n; i++) {
		svc_mem_free(servers->list[i].url);
		svc_mem_free(servers->list[i].base);
		svc_mem_free(servers->list[i].connect_to);
	}
	svc_mem_free(servers->list);
	svc_mem_free(servers->ca);
	svc_mem_free(servers->cert);
	svc_mem_free(servers->key);
	svc_mem_free(servers);
}

size_t
http_servers_count(const struct http_servers *servers)
{
	return servers->n;
}

const char *
http_servers_url(const struct http_servers *servers, size_t server)
{
	return servers->list[server].url;
}
