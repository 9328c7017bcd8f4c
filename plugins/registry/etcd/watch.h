/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_WATCH_H
#define SVC_ETCD_WATCH_H

#include "client.h"

/** All watches of one etcd: a thread, which begins with the first of them, a
 * connection on which all changes come and a few to ask on. */
struct watcher;
struct watch;

/** Errors: SVC_E_NOMEM */
svc_err watcher_create(
    struct etcd *etcd, struct watcher **ret_watcher, struct svc_error *err);
/** All watches have been stopped. NULL is fine. */
void watcher_destroy(struct watcher *watcher);

/** As the op watch. Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED */
svc_err watch_start(struct watcher *watcher, const char *service,
    svc_watch_sink sink, void *arg, struct watch **ret_watch,
    struct svc_error *err);
/** As the op unwatch. It waits for a call of this watch's sink only. */
void watch_stop(struct watcher *watcher, struct watch *watch);

#endif
