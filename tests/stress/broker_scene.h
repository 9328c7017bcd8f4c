/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STRESS_BROKER_SCENE_H
#define SVC_STRESS_BROKER_SCENE_H

#include "stress.h"

#include <svc/broker.h>

/* Brokers with their subscriptions, ended while others publish: of any plugin.
 */

struct broker_kind {
	const struct svc_broker_ops *ops;
	const char *address;
};

/** A round. */
void broker_play(struct stress_actor *owner, const struct broker_kind *kind);

/** A handler that finds out when it runs twice at a time, or too late. */
struct listening {
	struct svc_subscription *subscription;
	_Atomic int inside; /* one subscription's handler runs once at a time */
	_Atomic bool over;
	bool fails;
};
svc_err listening_event(
    const char *topic, const struct svc_message *message, void *arg);

#endif
