/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_txt.h"

#include <pack/pack.h>
#include <string.h>

#define STRING_MAX 255

void
mdns_json_text(struct svc_buf *json, const char *key, const char *text)
{
	svc_buf_puts(json, key);
	svc_buf_json_string(json, text, strlen(text));
}

svc_err
mdns_txt_encode(const void *json, size_t len, struct svc_buf *out)
{
	struct svc_buf digits;
	svc_buf_init(&digits, SIZE_MAX / 2);
	svc_err rc = pack_encode(json, len, &digits);
	for (size_t at = 0, n; at < digits.len && rc == SVC_OK; at += n) {
		n = digits.len - at < STRING_MAX ? digits.len - at : STRING_MAX;
		svc_buf_putc(out, (char)n);
		rc = svc_buf_append(out, digits.data + at, n);
	}
	svc_buf_fini(&digits);
	return rc != SVC_OK ? rc : out->failed;
}

svc_err
mdns_txt_decode(const void *data, size_t len, struct svc_buf *json)
{
	const uint8_t *bytes = data;
	struct svc_buf digits;
	svc_err rc = SVC_OK;
	svc_buf_init(&digits, len);
	for (size_t at = 0; at < len && rc == SVC_OK;) {
		size_t n = bytes[at++];
		if (n > len - at)
			rc = SVC_E_INVAL;
		else
			rc = svc_buf_append(&digits, bytes + at, n);
		at += n;
	}
	if (rc == SVC_OK)
		rc = pack_decode(digits.data, digits.len, json);
	svc_buf_fini(&digits);
	return rc;
}
