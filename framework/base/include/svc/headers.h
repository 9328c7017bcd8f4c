/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_HEADERS_H
#define SVC_HEADERS_H

#include <svc/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * An ordered map from names to texts: message headers and metadata.
 *
 * Names compare without regard to ASCII case and keep the spelling they were
 * first set with; order is that of first setting. A name is 1 to 255 bytes of
 * printable ASCII without space, ':' and '='; a value is any text without
 * NUL, CR and LF, up to 64 KiB; a map holds at most 256 pairs.
 * Where a function takes `const struct svc_headers *`, NULL is an empty map.
 * Not thread-safe while it is being changed.
 */
struct svc_headers;

/** An empty map, or NULL when memory ran out. */
SVC_API struct svc_headers *svc_headers_create(void);
SVC_API void svc_headers_destroy(struct svc_headers *headers);
/** A deep copy, in one block without room to spare; of NULL an empty map. NULL
 * when memory ran out. */
SVC_API struct svc_headers *svc_headers_copy(const struct svc_headers *headers);

/** Sets or replaces; both texts are copied.
 * Errors: SVC_E_INVAL (a name or value that is not allowed), SVC_E_EXHAUSTED
 * (too many pairs), SVC_E_NOMEM. */
SVC_API svc_err svc_headers_set(
    struct svc_headers *headers, const char *name, const char *value);
/** The same for texts with a length, not NUL-terminated. */
SVC_API svc_err svc_headers_set_n(struct svc_headers *headers, const char *name,
    size_t name_len, const char *value, size_t value_len);
/** Sets every pair of `from`, replacing those that are there. */
SVC_API svc_err svc_headers_merge(
    struct svc_headers *headers, const struct svc_headers *from);
/** The value, valid until the map changes, or NULL. */
SVC_API const char *svc_headers_get(
    const struct svc_headers *headers, const char *name);
/** Nothing happens when there is no such name. */
SVC_API void svc_headers_remove(struct svc_headers *headers, const char *name);
SVC_API void svc_headers_clear(struct svc_headers *headers);
SVC_API size_t svc_headers_count(const struct svc_headers *headers);
/** The pair at `index` in order; false past the end. */
SVC_API bool svc_headers_at(const struct svc_headers *headers, size_t index,
    const char **ret_name, const char **ret_value);
/** Same pairs, whatever their order. */
SVC_API bool svc_headers_equal(
    const struct svc_headers *a, const struct svc_headers *b);

/**
 * Whether a text may be the content type of a message, which becomes a header
 * on many ways: up to 255 bytes of printable ASCII, space included. NULL and an
 * empty one say nothing and are allowed.
 * Errors: SVC_E_INVAL, with a text that quotes it and says what is allowed
 */
SVC_API svc_err svc_content_type_check(const char *type, struct svc_error *err);

#ifdef __cplusplus
}
#endif
#endif
