/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_RECORD_H
#define SVC_REGISTRY_RECORD_H

#include <svc/registry.h>

/* What a record may hold, ours and those that come from outside. */
enum {
	RECORD_MAX_BYTES = 1 << 20,
	RECORD_MAX_NODES = 1000,
	RECORD_MAX_ENDPOINTS = 1000,
	RECORD_MAX_DEPTH = 4,
	SERVICE_NAME_MAX = 128,
	VERSION_MAX = 64,
	NODE_ID_MAX = 192,
	ADDRESS_MAX = 255,
};

/**
 * As svc_record_copy, but the header maps of `src` become the copy's: on
 * success `src` must not destroy them. NULL when memory ran out; then nothing
 * has changed hands.
 */
struct svc_record *record_copy_take(const struct svc_record *src);

/**
 * A record with this one node, which shares all else with `service`: a record
 * without nodes, from svc_record_copy, of which it has a hold. The node has an
 * id. NULL when memory ran out.
 */
struct svc_record *record_of_node(
    struct svc_record *service, const struct svc_node *node);
/** Whether two records differ in their nodes at most. */
bool record_equal_but_nodes(
    const struct svc_record *a, const struct svc_record *b);
/** The same number for records that are equal so. */
uint64_t record_hash_but_nodes(const struct svc_record *record);

/** NULL counts as "". */
int text_compare(const char *a, const char *b);
bool text_equal(const char *a, const char *b);

bool node_equal(const struct svc_node *a, const struct svc_node *b);

/** Checks the id of a node alone. */
svc_err node_id_check(const char *id, struct svc_error *err);

#endif
