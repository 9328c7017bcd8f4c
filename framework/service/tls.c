/* SPDX-License-Identifier: Apache-2.0 */
/* TLS as a service has it: its settings, what its record says of it, and who
 * may be called. The transports do the rest. */
#include "service.h"

#include <string.h>

#define SYSTEM_CA "system"

svc_err
svc_tls_settle(struct svc_service *service, struct svc_error *err)
{
	const struct svc_values *v = &service->values;
	const char *auth = v->tls_client_auth;
	service->has_tls =
	    v->tls_cert != NULL || v->tls_key != NULL || v->tls_ca != NULL;
	if (!service->has_tls) {
		const char *lone = v->tls_name != NULL ? "tls_name"
				   : auth != NULL      ? "tls_client_auth"
						       : NULL;
		if (lone == NULL)
			return SVC_OK;
		return svc_error_set(err, SVC_E_INVAL,
		    "%s is set, but nothing that turns TLS on: give tls_cert "
		    "and tls_key, or tls_ca (\"" SYSTEM_CA "\" for the CAs of "
		    "this system) for a program that only calls",
		    lone);
	}
	if ((v->tls_cert == NULL) != (v->tls_key == NULL))
		return svc_error_set(err, SVC_E_INVAL,
		    "%s is set and %s is not: a certificate and its key go "
		    "together; a program that only calls may do with tls_ca",
		    v->tls_cert != NULL ? "tls_cert" : "tls_key",
		    v->tls_cert != NULL ? "tls_key" : "tls_cert");
	bool own_ca = v->tls_ca != NULL && strcmp(v->tls_ca, SYSTEM_CA) != 0;
	if (auth != NULL && strcmp(auth, "required") == 0 && !own_ca)
		return svc_error_set(err, SVC_E_INVAL,
		    "tls_client_auth is required, but by whom callers must be "
		    "certified is not said: give tls_ca a file");
	service->tls = (struct svc_tls_config){
	    .cert = v->tls_cert,
	    .key = v->tls_key,
	    .ca = own_ca ? v->tls_ca : NULL,
	    .name = v->tls_name,
	    .anonymous = auth != NULL && strcmp(auth, "none") == 0,
	};
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
	const struct svc_transport_ops *ops = call->stream->ops;
	const char *name =
	    SVC_OPS_HAS(ops, identity) ? ops->identity(call->stream) : NULL;
	return name != NULL ? name : "";
}
