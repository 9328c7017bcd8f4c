/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONSUL_ANNOUNCE_H
#define SVC_CONSUL_ANNOUNCE_H

#include "client.h"

/**
 * Register the one node of `record`, or pass its check if it is registered as
 * it should be, within `timeout_ms`. Errors: as consul_ask
 */
svc_err consul_announce(struct consul *consul, const struct svc_record *record,
    int64_t ttl_ms, int64_t timeout_ms, struct svc_error *err);
/** Deregister it wherever it was registered, within `timeout_ms`. Errors: as
 * consul_ask */
svc_err consul_withdraw(struct consul *consul, const struct svc_record *record,
    int64_t timeout_ms, struct svc_error *err);
void registrations_forget(struct consul *consul);

#endif
