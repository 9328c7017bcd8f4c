/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STATIC_FILE_H
#define SVC_STATIC_FILE_H

#include <svc/registry.h>

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) svc_mem_alloc(size)
#define uthash_free(block, size) svc_mem_free(block)
#include <uthash.h>

enum { NODES_MAX = 100000 };

/** One node of the file, known by its service and id. */
struct file_node {
	UT_hash_handle hh;
	struct svc_record *record; /* with this node only */
	size_t line;
	char key[]; /* service, NUL, id */
};

/** What a file said; never changed once it is read. */
struct file_nodes {
	int refs; /* for whoever shares it */
	struct file_node *table;
};

/**
 * Read services from YAML or JSON: either a list of services in go-micro's
 * shape, or a map from names of services to what they have: an address, a list
 * of addresses and nodes, or a service without name. docs/static.md has it in
 * full.
 *
 * file  its name, for errors; borrowed for the call
 *
 * Errors: SVC_E_INVAL with file, line and what is allowed; SVC_E_NOMEM
 */
svc_err file_read(const char *file, const void *data, size_t len,
    struct file_nodes **ret_nodes, struct svc_error *err);
/** NULL is fine. */
void file_free(struct file_nodes *nodes);

/** NULL when there is no such node. */
const struct file_node *file_find(
    const struct file_nodes *nodes, const struct file_node *like);

#endif
