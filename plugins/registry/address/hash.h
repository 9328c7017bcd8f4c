/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_HASH_H
#define SVC_REGISTRY_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* FNV-1a: to tell apart what a registry says from what it said before. */

#define HASH_START UINT64_C(0xcbf29ce484222325)

/** Goes on from `hash`, at first HASH_START. */
static inline uint64_t
hash_bytes(uint64_t hash, const void *data, size_t len)
{
	const uint8_t *p = data;
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
	return hash;
}

/** With the NUL, so that texts do not run together. */
static inline uint64_t
hash_text(uint64_t hash, const char *text)
{
	return hash_bytes(hash, text, strlen(text) + 1);
}

#endif
