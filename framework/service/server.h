/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SERVER_PRIVATE_H
#define SVC_SERVER_PRIVATE_H

/* Between the table of endpoints and what runs the calls. */

#include "service.h"

struct svc_server_endpoint *svc_server_find(
    const struct svc_server *server, const char *name);
/* The same for a call; most are for the endpoint of the one before. */
struct svc_server_endpoint *svc_server_find_again(
    const struct svc_server *server, struct svc_server_shard *shard,
    const char *name);
/* The accept callback; `arg` is the server. */
void svc_server_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg);
/* A svc_direct_cb: serves calls of endpoints that never block. */
bool svc_server_direct(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg);
/* The first touch of the server by a call or stream, and the last: it is
 * SVC_COUNT_CALL, with its place as a handler if it has that. */
struct svc_server_shard *svc_server_count_in(
    struct svc_server *server, uint64_t counts);
void svc_server_count_out(
    struct svc_server *server, struct svc_server_shard *shard, uint64_t counts);
/* Runs the handler of a stream endpoint, on a thread of its own, which counts
 * out. When it fails nothing has happened, and *ret_why says why. */
svc_err svc_server_stream_start(struct svc_server *server,
    struct svc_server_shard *shard, struct svc_server_endpoint *endpoint,
    struct svc_stream_handle *handle, const struct svc_part *first,
    const char **ret_why);
/* Runs a call that was let in, on the calling thread, and answers it; without
 * an endpoint it is refused. Its time counts from `came_ms` on. */
void svc_server_serve(struct svc_server *server, struct svc_server_shard *shard,
    struct svc_server_endpoint *endpoint, struct svc_stream_handle *stream,
    const struct svc_part *first, const void *data, size_t len,
    int64_t came_ms);
/* Answers with an error and gives the stream and the count back. */
void svc_server_refuse(struct svc_server *server,
    struct svc_server_shard *shard, struct svc_stream_handle *stream,
    svc_err code, bool not_run, const char *text);

/* Around a handler. `begin` gives the loop away if the endpoint is known to be
 * slow; what it returns is for `end`. */
bool svc_pace_begin(struct svc_pace *pace);
/* True when the thread has its loop still. */
bool svc_pace_end(struct svc_pace *pace, bool on_loop);

void svc_admission_init(struct svc_admission *admission);
/* Once the settings are known. */
void svc_admission_start(
    struct svc_admission *admission, struct svc_service *service);
void svc_admission_fini(struct svc_admission *admission);
/* A place for one more handler; true when there is one, which is given back by
 * leave. */
bool svc_admission_enter(
    struct svc_server *server, struct svc_server_shard *shard);
/* The same for who has counted itself as a handler already; when there is no
 * place it is so no longer. */
bool svc_admission_enter_counted(
    struct svc_server *server, struct svc_server_shard *shard);
/* For who has taken itself off the count: others may wait for the place. */
void svc_admission_left(struct svc_server *server);
void svc_admission_leave(
    struct svc_server *server, struct svc_server_shard *shard);
/* Lets a call wait that found no place: svc_server_serve or svc_server_refuse
 * follows. What is passed is copied.
 * Errors: SVC_E_EXHAUSTED, with the reason in `text`: it may not wait */
svc_err svc_admission_wait(struct svc_server *server,
    struct svc_server_shard *shard, struct svc_server_endpoint *endpoint,
    struct svc_stream_handle *stream, const struct svc_part *first,
    const void *data, size_t len, char *text, size_t size);

/* The handler of SVC_EVENT_ENDPOINT. */
svc_err svc_event_receive(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg);

#endif
