/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MDNS_TXT_H
#define MDNS_TXT_H

#include <svc/buf.h>

/**
 * TXT data in go-micro's way: a JSON text, compressed by zlib, in hexadecimal
 * digits, cut into character strings of at most 255 bytes.
 */

/** Appends the data of a TXT record. Errors: SVC_E_EXHAUSTED, SVC_E_NOMEM */
svc_err mdns_txt_encode(const void *json, size_t len, struct svc_buf *out);
/** Appends `key` as it is and `text` as a JSON string. */
void mdns_json_text(struct svc_buf *json, const char *key, const char *text);
/** Appends the JSON text to `json`, whose maximum is the limit for what the
 * data may grow to. Errors: SVC_E_INVAL, SVC_E_EXHAUSTED, SVC_E_NOMEM */
svc_err mdns_txt_decode(const void *data, size_t len, struct svc_buf *json);

#endif
