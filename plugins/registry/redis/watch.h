/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REDIS_WATCH_H
#define SVC_REDIS_WATCH_H

#include "redis.h"

struct watch;
/** Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED */
svc_err watch_start(struct redis *redis, const char *service,
    svc_watch_sink sink, void *arg, struct watch **ret_watch,
    struct svc_error *err);
void watch_stop(struct watch *watch);

#endif
