/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STRESS_REGISTRY_SCENE_H
#define SVC_STRESS_REGISTRY_SCENE_H

#include "stress.h"

#include <svc/registry.h>

/* Registries with their watches, ended while others change what they show: of
 * any plugin. */

struct registry_kind {
	const struct svc_registry_ops *ops;
	const char *address;
	int64_t brief_ms; /* the shortest time a node can be announced for */
	bool has_server;
};

/** Nodes of these come and go. */
extern const char *const registry_services[3];

/** A folder for snapshots, before the first scene. */
bool registry_scene_begin(void);
void registry_scene_end(void);

struct svc_registry *registry_make(const struct registry_kind *kind,
    const char *snapshot, const char *fallback);
/** Announces or withdraws one of a few nodes. */
void registry_change(struct stress_actor *actor, struct svc_registry *registry,
    const struct registry_kind *kind);
/** A round. */
void registry_play(
    struct stress_actor *owner, const struct registry_kind *kind);

#endif
