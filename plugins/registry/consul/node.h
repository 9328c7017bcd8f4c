/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONSUL_NODE_H
#define SVC_CONSUL_NODE_H

#include <svc/buf.h>
#include <svc/registry.h>

#include <cjson/cJSON.h>

/*
 * A node as go-micro keeps it in consul: a service instance with tags.
 *
 *     t-<packed {"key":"value"}>   one for each pair of the node's metadata
 *     e-<packed JSON>              one for each endpoint
 *     v-<packed text>              the version
 *
 * "packed" is said in pack.h. Releases of old wrote t={...}, e={...} and
 * v=text.
 */

/**
 * The id of a node's instance, to be freed with svc_mem_free; NULL when memory
 * ran out. An agent has one space of ids for all services, hence it is
 * "<id>" as go-micro has it only where the id begins with "<service>-", and
 * "<service>/<id>" else ('/' is in no id).
 */
char *node_instance(const char *service, const char *id);
/** The id of the node of an instance: all of it, or its end. */
const char *node_id(const char *service, const char *instance);

/** The tags that a node may not have besides: they would be read as its own.
 * Errors: SVC_E_INVAL */
svc_err node_tag_check(const char *tag, struct svc_error *err);

/**
 * Appends the body that registers the one node of `record`: with a TTL check,
 * passing from the start.
 *
 * extra  more tags
 *
 * Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED
 */
svc_err node_encode(const struct svc_record *record, int64_t ttl_ms,
    char *const *extra, size_t n_extra, struct svc_buf *body);

/** Whether these tags are those of a node of go-micro's, so that it is worth
 * reading. */
bool node_is_ours(const cJSON *tags);
/** Calls `sink` with each version that tags name, and no nodes. */
void node_versions(
    const char *service, const cJSON *tags, svc_record_sink sink, void *arg);

/** A node that was read, as a record. */
struct node {
	struct svc_record record;
	size_t n_bad; /* tags that do not decode and were passed over */
	/* The rest is private. */
	struct svc_node node;
	struct svc_endpoint *endpoints;
	struct svc_record **parts;
	char *version, *address;
};

/**
 * Reads one entry of /v1/health/service/<service>, which must outlive the node.
 * node_fini must follow, also after an error.
 * Errors: SVC_E_INVAL with what is wrong, SVC_E_NOMEM
 */
svc_err node_decode(struct node *node, const char *service, const cJSON *entry,
    struct svc_error *err);
void node_fini(struct node *node);

#endif
