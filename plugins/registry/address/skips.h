/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_SKIPS_H
#define SVC_REGISTRY_SKIPS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SKIPS_WARNED_MAX = 64 };

/** Counts what in a registry is no record, and remembers of what that was said,
 * so that it is said once for each, and of the first 64. Threads: any. */
struct skips {
	pthread_mutex_t lock; /* guards what follows */
	size_t count;
	uint64_t warned[SKIPS_WARNED_MAX];
	size_t n_warned;
};
void skips_init(struct skips *skips);
void skips_fini(struct skips *skips);

/** Counts one; true when it is to be said. `hash` (hash.h) tells it from
 * others. `ret_count` gets how many there are with this one. */
bool skips_add(struct skips *skips, uint64_t hash, size_t *ret_count);

#endif
