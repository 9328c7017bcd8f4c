/* SPDX-License-Identifier: Apache-2.0 */
/* What every service answers about itself, under go-micro's name. Like there
 * it is not published with the endpoints. */
#include "service.h"

#include <string.h>

/* go-micro's HealthResponse: field 1 is the status. */
static svc_err
reply_protobuf(
    struct svc_call *call, struct svc_message *rsp, const char *status)
{
	size_t len = strlen(status);
	unsigned char *data = svc_alloc_in(call, len + 2);
	if (data == NULL)
		return SVC_E_NOMEM;
	data[0] = 1 << 3 | 2;
	data[1] = (unsigned char)len;
	memcpy(data + 2, status, len);
	rsp->content_type = call->req->content_type;
	rsp->data = data;
	rsp->len = len + 2;
	return SVC_OK;
}

static svc_err
health(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	const char *status = svc_registrar_status(arg);
	if (req->content_type != NULL &&
	    strstr(req->content_type, "proto") != NULL)
		return reply_protobuf(call, rsp, status);
	return svc_reply_text(
	    call, rsp, "application/json", "{\"status\":\"%s\"}", status);
}

svc_err
svc_debug_add(struct svc_service *service, struct svc_error *err)
{
	svc_err code = svc_server_add(service->server, "Debug.Health", health,
	    &service->registrar, NULL, true, err);
	/* A service may have one of its own. */
	return code == SVC_E_EXISTS ? SVC_OK : code;
}
