/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_PACK_H
#define SVC_REGISTRY_PACK_H

#include <svc/buf.h>

/**
 * Texts as go-micro puts them where a registry wants short and plain ones
 * (consul's tags, mdns TXT data): compressed by zlib, in lower-case
 * hexadecimal digits. Compiled into each plugin that has such records.
 */

/** Appends the digits. Errors: SVC_E_EXHAUSTED, SVC_E_NOMEM */
svc_err pack_encode(const void *data, size_t len, struct svc_buf *digits);
/** Appends what the digits (of either case) hold to `text`, whose maximum is
 * the limit for what they may grow to. What stands behind the end of the
 * compressed data is ignored. After an error `text` may have grown.
 * Errors: SVC_E_INVAL, SVC_E_EXHAUSTED, SVC_E_NOMEM */
svc_err pack_decode(const void *digits, size_t len, struct svc_buf *text);

#endif
