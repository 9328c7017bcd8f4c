/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STATIC_TREE_H
#define SVC_STATIC_TREE_H

#include <svc/error.h>

/** What a YAML or JSON file holds, with the lines it came from. */
typedef enum item_kind {
	ITEM_NULL, /* nothing, "~" or null */
	ITEM_TEXT,
	ITEM_LIST,
	ITEM_MAP,
} item_kind;

struct item {
	item_kind kind;
	size_t line;
	const char *text;   /* of ITEM_TEXT */
	const char *key;    /* of a member of a map */
	struct item *items; /* of a list or a map, in order */
	struct item *next;
	struct item *all; /* to free them */
};

enum {
	FILE_MAX = 16 << 20,
	ITEMS_MAX = 1000000,
	DEPTH_MAX = 16,
};

/**
 * Strict, so that no slip goes unseen: one document, no aliases, each key of a
 * map once, UTF-8 without zero bytes, within the limits above. A file without
 * anything in it is NULL.
 *
 * file  its name, for errors; borrowed for the call
 *
 * Errors: SVC_E_INVAL with file, line and what is wrong; SVC_E_NOMEM
 */
svc_err tree_read(const char *file, const void *data, size_t len,
    struct item **ret_root, struct svc_error *err);
/** NULL is fine. */
void tree_free(struct item *root);

/** The member of a map; NULL when there is none or it is null. */
const struct item *tree_find(const struct item *map, const char *key);

#endif
