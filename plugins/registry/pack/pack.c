/* SPDX-License-Identifier: Apache-2.0 */
#include "pack.h"

#define ZLIB_CONST
#include <zlib.h>

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

svc_err
pack_encode(const void *data, size_t len, struct svc_buf *digits)
{
	static const char sixteen[] = "0123456789abcdef";
	if (len > UINT32_MAX / 2)
		return SVC_E_EXHAUSTED;
	struct svc_buf packed;
	svc_buf_init(&packed, len + len / 100 + 1024);
	svc_err rc = compress_all(data, len, &packed);
	if (rc == SVC_OK)
		rc = svc_buf_reserve(digits, packed.len * 2);
	if (rc == SVC_OK) {
		uint8_t *to = digits->data + digits->len;
		for (size_t i = 0; i < packed.len; i++) {
			*to++ = (uint8_t)sixteen[packed.data[i] >> 4];
			*to++ = (uint8_t)sixteen[packed.data[i] & 15];
		}
		*to = '\0';
		digits->len += packed.len * 2;
	}
	svc_buf_fini(&packed);
	return rc;
}

static int
digit(unsigned c)
{
	if (c >= '0' && c <= '9')
		return (int)(c - '0');
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? (int)(c - 'a') + 10 : -1;
}

/* Turns up to `size` bytes' worth of digits into bytes; -1 for what is none. */
static int
unhex(const uint8_t *digits, size_t left, uint8_t *out, size_t size)
{
	size_t n = left / 2 < size ? left / 2 : size;
	for (size_t i = 0; i < n; i++) {
		int high = digit(digits[2 * i]), low = digit(digits[2 * i + 1]);
		if (high < 0 || low < 0)
			return -1;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return (int)n;
}

svc_err
pack_decode(const void *digits, size_t len, struct svc_buf *text)
{
	z_stream z = {.zalloc = z_alloc, .zfree = z_free};
	const uint8_t *at = digits;
	uint8_t packed[1024], part[4096];
	if (len == 0 || len % 2 != 0)
		return SVC_E_INVAL;
	if (inflateInit(&z) != Z_OK)
		return SVC_E_NOMEM;
	svc_err rc = SVC_OK;
	int state = Z_OK;
	while (state == Z_OK && rc == SVC_OK) {
		/* Without digits left zlib may still hold bytes back. */
		if (z.avail_in == 0 && len > 0) {
			int n = unhex(at, len, packed, sizeof(packed));
			if (n < 0) {
				rc = SVC_E_INVAL;
				break;
			}
			at += 2 * (size_t)n;
			len -= 2 * (size_t)n;
			z.next_in = packed;
			z.avail_in = (uInt)n;
		}
		z.next_out = part;
		z.avail_out = sizeof(part);
		state = inflate(&z, Z_NO_FLUSH);
		rc = svc_buf_append(text, part, sizeof(part) - z.avail_out);
	}
	inflateEnd(&z);
	if (rc != SVC_OK)
		return rc;
	if (state == Z_MEM_ERROR)
		return SVC_E_NOMEM;
	return state == Z_STREAM_END ? SVC_OK : SVC_E_INVAL;
}
