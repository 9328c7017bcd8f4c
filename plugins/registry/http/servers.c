/* SPDX-License-Identifier: Apache-2.0 */
#include "servers.h"

#include <address/address.h>

#include <svc/log.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { URL_MAX = 1024 };

static svc_err
no_memory(const struct http_servers *servers, struct svc_error *err)
{
	return svc_error_set(
	    err, SVC_E_NOMEM, "no memory for registry %s", servers->registry);
}

/* "<before><host>:<port>"; an IPv6 address that lacks them gets brackets. */
static char *
join(const char *before, const char *host, unsigned port)
{
	struct svc_buf buf;
	bool v6 = *host != '[' && strchr(host, ':') != NULL;
	svc_buf_init(&buf, URL_MAX);
	svc_buf_printf(&buf, "%s%s%s%s:%u", before, v6 ? "[" : "", host,
	    v6 ? "]" : "", port);
	char *text = buf.failed == SVC_OK ? svc_buf_take(&buf, NULL) : NULL;
	svc_buf_fini(&buf);
	return text;
}

/* The URLs of one server. */
static svc_err
add_server(struct http_servers *servers, const struct address *from,
    const struct svc_tls_config *tls, struct svc_error *err)
{
	struct http_server *server = &servers->list[servers->n++];
	const char *scheme = from->secure ? "https://" : "http://";
	const char *name = from->secure && tls != NULL ? tls->name : NULL;
	server->url = join(scheme, from->host, from->port);
	if (name != NULL) {
		/* That is looked for in the certificate; the host is dialled.
		 */
		server->base = join(scheme, name, from->port);
		server->connect_to = join("::", from->host, from->port);
	} else {
		server->base = svc_mem_strdup(server->url);
	}
	if (server->url == NULL || server->base == NULL ||
	    (name != NULL && server->connect_to == NULL))
		return no_memory(servers, err);
	return SVC_OK;
}

static svc_err
take_addresses(struct http_servers *servers,
    const struct svc_registry_config *config, unsigned port,
    struct svc_error *err)
{
	const struct address_form form = {.registry = servers->registry,
	    .scheme = "http",
	    .port = port,
	    .tls = config->tls != NULL};
	struct address *list = NULL;
	size_t n = 0;
	svc_err rc = address_list_read(&form, config->address, &list, &n, err);
	if (rc != SVC_OK)
		return rc;
	servers->list = svc_mem_calloc(n, sizeof(*servers->list));
	if (servers->list == NULL)
		rc = no_memory(servers, err);
	for (size_t i = 0; rc == SVC_OK && i < n; i++)
		rc = add_server(servers, &list[i], config->tls, err);
	address_list_free(list, n);
	return rc;
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
	svc_err rc = take_addresses(servers, config, port, err);
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
