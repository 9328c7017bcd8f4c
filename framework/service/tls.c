/* SPDX-License-Identifier: Apache-2.0 */
/* TLS as a service has it: its settings, what its record says of it, and who
 * may be called. The transports do the rest. */
#include "service.h"

#include <string.h>

#define SYSTEM_CA "system"

/* The files of one side, whose settings begin with `prefix`. */
struct files {
	const char *prefix; /* "" or "registry_" */
	const char *cert, *key, *ca, *name;
};

static svc_err
settle(const struct files *files, struct svc_tls_config *ret_config,
    bool *ret_has, struct svc_error *err)
{
	const char *p = files->prefix;
	if (files->name != NULL && files->name[0] == '\0')
		return svc_error_set(err, SVC_E_INVAL,
		    "%stls_name is empty: it must be a name or IP address", p);
	*ret_has =
	    files->cert != NULL || files->key != NULL || files->ca != NULL;
	if (!*ret_has) {
		if (files->name == NULL)
			return SVC_OK;
		return svc_error_set(err, SVC_E_INVAL,
		    "%stls_name is set, but nothing that turns TLS on: give "
		    "%stls_cert and %stls_key, or %stls_ca (\"" SYSTEM_CA
		    "\" for the CAs of this system) for a program that only "
		    "calls",
		    p, p, p, p);
	}
	if ((files->cert == NULL) != (files->key == NULL))
		return svc_error_set(err, SVC_E_INVAL,
		    "%s%s is set and %s%s is not: a certificate and its key go "
		    "together; a program that only calls may do with %stls_ca",
		    p, files->cert != NULL ? "tls_cert" : "tls_key", p,
		    files->cert != NULL ? "tls_key" : "tls_cert", p);
	bool own_ca = files->ca != NULL && strcmp(files->ca, SYSTEM_CA) != 0;
	*ret_config = (struct svc_tls_config){
	    .cert = files->cert,
	    .key = files->key,
	    .ca = own_ca ? files->ca : NULL,
	    .name = files->name,
	};
	return SVC_OK;
}

svc_err
svc_tls_settle(struct svc_service *service, struct svc_error *err)
{
	const struct svc_values *v = &service->values;
	const char *auth = v->tls_client_auth;
	const struct files registry = {"registry_", v->registry_tls_cert,
	    v->registry_tls_key, v->registry_tls_ca, v->registry_tls_name};
	const struct files files = {
	    "", v->tls_cert, v->tls_key, v->tls_ca, v->tls_name};
	svc_err code = settle(
	    &registry, &service->registry_tls, &service->registry_has_tls, err);
	if (code == SVC_OK)
		code = settle(&files, &service->tls, &service->has_tls, err);
	if (code != SVC_OK || auth == NULL)
		return code;
	if (!service->has_tls)
		return svc_error_set(err, SVC_E_INVAL,
		    "tls_client_auth is set, but nothing that turns TLS on: "
		    "give tls_cert and tls_key");
	if (strcmp(auth, "required") == 0 && service->tls.ca == NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "tls_client_auth is required, but by whom callers must be "
		    "certified is not said: give tls_ca a file");
	service->tls.anonymous = strcmp(auth, "none") == 0;
	return SVC_OK;
}

/* An address that is a URL says by its scheme what is spoken there, and within
 * a process there is nothing to encrypt. */
static bool
says_itself(const char *transport, const char *address)
{
	return strstr(address, "://") != NULL ||
	       strcmp(transport, svc_transport_memory.name) == 0;
}

bool
svc_tls_served(const struct svc_service *service)
{
	const char *address = service->advertised;
	if (service->tls.cert == NULL || address == NULL)
		return false;
	return !says_itself(service->values.transport, address) ||
	       strncmp(address, "tls+", 4) == 0 ||
	       strncmp(address, "wss", 3) == 0;
}

svc_err
svc_tls_check(const struct svc_service *service, const struct svc_node *node,
    const char *transport, struct svc_error *err)
{
	const char *said = svc_headers_get(node->metadata, "tls");
	bool theirs = said != NULL && strcmp(said, "true") == 0;
	if (theirs == service->has_tls || says_itself(transport, node->address))
		return SVC_OK;
	if (theirs)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "node %s speaks TLS, this client does not: give --tls_ca "
		    "(and --tls_cert, --tls_key where callers must show one)",
		    node->id);
	/* Who is no svc service does not say it; then trying tells. */
	if (svc_headers_get(node->metadata, "svc") == NULL)
		return SVC_OK;
	return svc_error_set(err, SVC_E_UNAVAILABLE,
	    "node %s does not speak TLS, which this client demands: give that "
	    "service --tls_cert and --tls_key",
	    node->id);
}

const char *
svc_call_identity(const struct svc_call *call)
{
	if (call == NULL)
		return "";
	const struct svc_transport_ops *ops = call->stream->ops;
	const char *name =
	    SVC_OPS_HAS(ops, identity) ? ops->identity(call->stream) : NULL;
	return name != NULL ? name : "";
}
