/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_txt.h"

#include <string.h>
#define ZLIB_CONST
#include <zlib.h>

#define STRING_MAX 255

/* zlib allocates through svc too, so that a test can make it fail. */
static voidpf
z_alloc(voidpf arg, uInt count, uInt size)
{
	(void)arg;
	return svc_mem_calloc(count, size);
}

static void
z_free(voidpf arg, voidpf block)
{
	(void)arg;
	svc_mem_free(block);
}

static svc_err
compress_all(const void *data, size_t len, struct svc_buf *out)
{
	z_stream z = {.zalloc = z_alloc, .zfree = z_free};
	if (deflateInit(&z, Z_DEFAULT_COMPRESSION) != Z_OK)
		return SVC_E_NOMEM;
	z.next_in = data;
	z.avail_in = (uInt)len;
	svc_err rc = svc_buf_reserve(out, deflateBound(&z, (uLong)len));
	if (rc == SVC_OK) {
		z.next_out = out->data + out->len;
		z.avail_out = (uInt)(out->cap - out->len);
		rc = deflate(&z, Z_FINISH) == Z_STREAM_END ? SVC_OK
							   : SVC_E_EXHAUSTED;
		out->len += (size_t)z.total_out;
	}
	deflateEnd(&z);
	return rc;
}

void
mdns_json_text(struct svc_buf *json, const char *key, const char *text)
{
	svc_buf_puts(json, key);
	svc_buf_json_string(json, text, strlen(text));
}

svc_err
mdns_txt_encode(const void *json, size_t len, struct svc_buf *out)
{
	static const char digits[] = "0123456789abcdef";
	if (len > UINT32_MAX / 2)
		return SVC_E_EXHAUSTED;
	struct svc_buf packed;
	svc_buf_init(&packed, len + len / 100 + 1024);
	svc_err rc = compress_all(json, len, &packed);
	size_t left = packed.len * 2;
	for (size_t i = 0; i < packed.len * 2 && rc == SVC_OK; i++, left--) {
		if (i % STRING_MAX == 0)
			svc_buf_putc(
			    out, (char)(left < STRING_MAX ? left : STRING_MAX));
		unsigned byte = packed.data[i / 2];
		rc = svc_buf_putc(
		    out, digits[i % 2 == 0 ? byte >> 4 : byte & 15]);
	}
	svc_buf_fini(&packed);
	return rc != SVC_OK ? rc : out->failed;
}

static int
digit(unsigned c)
{
	if (c >= '0' && c <= '9')
		return (int)(c - '0');
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? (int)(c - 'a') + 10 : -1;
}

/* The bytes behind the digits of all character strings. */
static svc_err
unhex(const uint8_t *data, size_t len, struct svc_buf *out)
{
	int high = -1;
	for (size_t at = 0; at < len;) {
		size_t n = data[at++];
		if (len - at < n)
			return SVC_E_INVAL;
		for (; n > 0; n--, at++) {
			int low = digit(data[at]);
			if (low < 0)
				return SVC_E_INVAL;
			if (high < 0) {
				high = low;
				continue;
			}
			svc_buf_putc(out, (char)(high << 4 | low));
			high = -1;
		}
	}
	return high >= 0 ? SVC_E_INVAL : out->failed;
}

static svc_err
inflate_all(const struct svc_buf *packed, struct svc_buf *out)
{
	z_stream z = {.zalloc = z_alloc, .zfree = z_free};
	z.next_in = packed->data;
	z.avail_in = (uInt)packed->len;
	if (inflateInit(&z) != Z_OK)
		return SVC_E_NOMEM;
	svc_err rc = SVC_OK;
	int state = Z_OK;
	while (state == Z_OK && rc == SVC_OK) {
		uint8_t part[4096];
		z.next_out = part;
		z.avail_out = sizeof(part);
		state = inflate(&z, Z_NO_FLUSH);
		rc = svc_buf_append(out, part, sizeof(part) - z.avail_out);
	}
	inflateEnd(&z);
	if (rc != SVC_OK)
		return rc;
	if (state == Z_MEM_ERROR)
		return SVC_E_NOMEM;
	return state == Z_STREAM_END ? SVC_OK : SVC_E_INVAL;
}

svc_err
mdns_txt_decode(const void *data, size_t len, struct svc_buf *json)
{
	struct svc_buf packed;
	svc_buf_init(&packed, len / 2 + 1);
	svc_err rc = unhex(data, len, &packed);
	if (rc == SVC_OK && packed.len == 0)
		rc = SVC_E_INVAL;
	if (rc == SVC_OK)
		rc = inflate_all(&packed, json);
	svc_buf_fini(&packed);
	return rc;
}
