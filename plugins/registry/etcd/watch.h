/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_WATCH_H
#define SVC_ETCD_WATCH_H

#include "client.h"

struct watch;

/** As the op watch. Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED */
svc_err watch_start(struct etcd *etcd, const char *service, svc_watch_sink sink,
    void *arg, struct watch **ret_watch, struct svc_error *err);
void watch_stop(struct watch *watch);

#endif
