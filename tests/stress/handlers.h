/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STRESS_HANDLERS_H
#define SVC_STRESS_HANDLERS_H

#include "stress.h"

#include <svc/svc.h>

/* What the services of the service scenes serve. A handler that runs when its
 * service has been freed uses freed memory. */

struct server {
	struct svc_service *service;
	struct wraps *wraps;
	_Atomic bool over; /* svc_free has returned */
	_Atomic int handling;
	pthread_t runner;
	bool runs; /* svc_run, on that thread */
};

/* Of calls, then of streams. */
extern const char *const call_endpoints[9];
extern const char *const stream_endpoints[6];

/** Gives the service its endpoints, not started. */
void handlers_add(struct server *server, struct stress_actor *actor);

/** What a call, a stream or an event may end with while services vanish;
 * anything else fails the scene. */
void check_code(const char *what, svc_err code, const char *text);

#endif
