/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONSUL_WATCH_H
#define SVC_CONSUL_WATCH_H

#include "client.h"

/**
 * The op watch, once for one service and once for all; the ops of the plugin
 * choose. Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED
 */
struct watch_one;
svc_err watch_one_start(struct consul *consul, const char *service,
    svc_watch_sink sink, void *arg, struct watch_one **ret_watch,
    struct svc_error *err);
void watch_one_stop(struct watch_one *watch);

struct watch_all;
svc_err watch_all_start(struct consul *consul, svc_watch_sink sink, void *arg,
    struct watch_all **ret_watch, struct svc_error *err);
void watch_all_stop(struct watch_all *watch);

/** Appends the path of the question for the healthy nodes of a service. */
void watch_put_path(
    struct consul *consul, const char *service, struct svc_buf *path);

#endif
