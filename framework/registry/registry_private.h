/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_PRIVATE_H
#define SVC_REGISTRY_PRIVATE_H

#include <svc/registry.h>

#include <pthread.h>

enum {
	TIMEOUT_DEFAULT_MS = 5000,
	GRACE_DEFAULT_MS = 15000,
	POLL_MS = 500,
	RETRY_MS = 100,
};

struct svc_registry {
	const struct svc_registry_ops *ops;
	void *self;
	int64_t grace_ms;
	pthread_mutex_t lock; /* guards watches */
	struct svc_watch *watches;
};

/** Copies of an answer's records. */
struct collector {
	struct svc_record **records;
	size_t n, cap;
	bool no_memory;
	const char *service; /* others are left out; NULL takes all */
};
/** A svc_record_sink; `arg` is the collector. */
void collect(const struct svc_record *record, void *arg);
void collector_fini(struct collector *collector);

#endif
