/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONFORMANCE_REGISTRY_H
#define SVC_CONFORMANCE_REGISTRY_H

#include <svc/registry.h>

/** Which registry is to keep the promises, and what it is able to do. */
struct svc_conformance_registry {
	const char *plugin;                 /* found by name, or */
	const struct svc_registry_ops *ops; /* handed over */
	struct svc_registry_config config;
	/** The shortest TTL that it keeps exactly; 0: 1000. */
	int64_t ttl_ms;
	/** `list` gives names and versions only. */
	bool list_without_nodes;
	/** Values of endpoints are not carried. */
	bool without_values;
	/** What is there is given, and announcing changes nothing. */
	bool fixed;
};

/** Runs the suite as a cmocka group; returns how many tests failed. */
int svc_conformance_registry(const struct svc_conformance_registry *setup);

/* ------------------------------ what a plugin's own tests can use as well */

/** A record with one node, whose texts live in this struct. */
struct sample {
	struct svc_record record;
	struct svc_node node;
	char service[64];
	char id[128];
	char address[32];
};
/** To be ended with sample_fini; `version` is borrowed. */
void sample_init(struct sample *sample, const char *service,
    const char *version, const char *id, int port);
void sample_fini(struct sample *sample);

/** Remembers what a watch reports. */
struct recorder;
struct recorder *recorder_create(void);
/** After the watch has ended. */
void recorder_destroy(struct recorder *recorder);
/** The callback; `arg` is the recorder. */
void recorder_change(
    svc_change change, const struct svc_record *record, void *arg);
/**
 * Wait for a change of the node (NULL: any; for SYNCED both are ignored) that
 * comes after those already waited for; changes in between are passed over
 * but counted. True when it came within timeout_ms. ret_record (may be NULL)
 * lives as long as the recorder.
 */
bool recorder_wait(struct recorder *recorder, svc_change change,
    const char *service, const char *id, int64_t timeout_ms,
    const struct svc_record **ret_record);
/** How many changes of this kind came for the node until now. */
size_t recorder_count(struct recorder *recorder, svc_change change,
    const char *service, const char *id);
/** Waits timeout_ms and tells whether nothing at all came in that time. */
bool recorder_quiet(struct recorder *recorder, int64_t timeout_ms);
/** How many nodes are there now, as the changes say; -1 when they contradict
 * each other (created twice, removed without having been there). */
int recorder_nodes(struct recorder *recorder, const char *service);

#endif
