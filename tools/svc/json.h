/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TOOL_JSON_H
#define SVC_TOOL_JSON_H

#include <svc/buf.h>

/**
 * Checks that the text is one JSON value (RFC 8259) in UTF-8, at most 512
 * deep.
 * Errors: SVC_E_INVAL "line 1, column 7: ..."
 */
svc_err json_check(const char *text, size_t len, struct svc_error *err);
/** Appends checked JSON: on one line without spaces, or, when `pretty`, broken
 * into lines. Numbers and texts stay as they are. */
svc_err json_format(
    struct svc_buf *out, const char *text, size_t len, bool pretty);

#endif
