/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_HASH_H
#define SVC_REGISTRY_HASH_H

/* uthash on svc's memory, and the key of a node in it. */

#include "record.h"

#include <string.h>

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) svc_mem_alloc(size)
#define uthash_free(block, size) svc_mem_free(block)
#include <uthash.h>

/** A node is known by its service and its id: the version may change. */
struct node_key {
	unsigned len;
	char text[2 * (SERVICE_NAME_MAX + NODE_ID_MAX)];
};

/** False when there is no such node: a text is missing or too long. */
static inline bool
node_key_set(struct node_key *key, const char *service, const char *id)
{
	size_t s = service != NULL ? strlen(service) : 0;
	size_t n = id != NULL ? strlen(id) : 0;
	if (s == 0 || n == 0 || s + 1 + n > sizeof(key->text))
		return false;
	/* The NUL between them keeps ("a", "bc") and ("ab", "c") apart. */
	memcpy(key->text, service, s + 1);
	memcpy(key->text + s + 1, id, n);
	key->len = (unsigned)(s + 1 + n);
	return true;
}

#endif
