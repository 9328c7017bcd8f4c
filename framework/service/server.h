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
/* The last touch of the server by a call or stream. */
void svc_server_count_out(
    struct svc_server *server, struct svc_server_shard *shard);
/* Runs the handler of a stream endpoint, on a thread of its own, which counts
 * out. When it fails nothing has happened, and *ret_why says why. */
svc_err svc_server_stream_start(struct svc_server *server,
    struct svc_server_shard *shard, struct svc_server_endpoint *endpoint,
    struct svc_stream_handle *handle, const struct svc_part *first,
    const char **ret_why);
/* The handler of SVC_EVENT_ENDPOINT. */
svc_err svc_event_receive(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg);

#endif
