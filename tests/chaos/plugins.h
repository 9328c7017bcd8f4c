/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CHAOS_PLUGINS_H
#define SVC_CHAOS_PLUGINS_H

#include "world.h"

/* For the faults that only etcd has. */

/** The answer to a request, to be freed with free; NULL: none. */
char *etcd_post(int port, const char *path, const char *body);
/** Of three: the number of the one that leads, -1 when nobody does. */
int cluster_leader(struct world *world);
/** Starts a member, for the first time or again with its data. */
bool cluster_start_member(struct world *world, int member);

#endif
