/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SERVER_PRIVATE_H
#define SVC_SERVER_PRIVATE_H

/* Between the table of endpoints and what runs the calls. */

#include "service.h"

struct svc_server_endpoint *svc_server_find(
    const struct svc_server *server, const char *name);
/* The accept callback; `arg` is the server. */
void svc_server_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg);
/* The handler of SVC_EVENT_ENDPOINT. */
svc_err svc_event_receive(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg);

#endif
