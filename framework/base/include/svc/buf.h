/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_BUF_H
#define SVC_BUF_H

#include <svc/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * A growing byte buffer with a mandatory maximum. The storage belongs to the
 * buffer until svc_buf_fini or svc_buf_take. One byte past `len` is always
 * allocated and zero once anything was appended, so text can be read as a
 * string. Not thread-safe.
 *
 * Every append returns SVC_OK, SVC_E_EXHAUSTED when `max` would be passed, or
 * SVC_E_NOMEM; a failed append changes nothing and sets `failed`, so a run of
 * appends may be checked once at its end.
 */
struct svc_buf {
	uint8_t *data;
	size_t len;
	size_t cap;
	size_t max;
	svc_err failed;
};

/** Empty, and without storage; `max` bytes are the most it will hold. */
SVC_API void svc_buf_init(struct svc_buf *buf, size_t max);
/** Frees the storage; the buffer may be initialised again. */
SVC_API void svc_buf_fini(struct svc_buf *buf);
/** Empties it and clears `failed`, keeping the storage. */
SVC_API void svc_buf_clear(struct svc_buf *buf);
/** Makes room for `more` bytes beyond len; they may be written at data + len
 * and then counted by raising len. */
SVC_API svc_err svc_buf_reserve(struct svc_buf *buf, size_t more);
SVC_API svc_err svc_buf_append(
    struct svc_buf *buf, const void *data, size_t len);
SVC_API svc_err svc_buf_puts(struct svc_buf *buf, const char *text);
SVC_API svc_err svc_buf_putc(struct svc_buf *buf, char c);
SVC_API svc_err svc_buf_printf(struct svc_buf *buf, const char *format, ...)
    SVC_PRINTF(2, 3);
/** Appends `text` as a JSON string with its quotes; bytes that are not UTF-8
 * become U+FFFD. */
SVC_API svc_err svc_buf_json_string(
    struct svc_buf *buf, const char *text, size_t len);
/** Removes `n` bytes (at most len) from the front. */
SVC_API void svc_buf_consume(struct svc_buf *buf, size_t n);
/** Hands the storage to the caller (svc_mem_free); "" becomes an allocated
 * empty string. NULL when memory ran out, now or in an append before. The
 * buffer is empty afterwards. */
SVC_API char *svc_buf_take(struct svc_buf *buf, size_t *ret_len);

#ifdef __cplusplus
}
#endif
#endif
