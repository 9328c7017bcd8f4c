/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/codec.h>

#include <string.h>

/* The length of the character at `p`, 0 when it is none. Table 3-7 of the
 * Unicode standard: only the second byte's range depends on the first. */
static size_t
character(const uint8_t *p, size_t left)
{
	uint8_t low = 0x80, high = 0xbf;
	size_t len;
	if (p[0] < 0x80)
		return 1;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	if (p[0] < 0xe0) {
		len = 2;
	} else if (p[0] < 0xf0) {
		len = 3;
		if (p[0] == 0xe0)
			low = 0xa0;
		else if (p[0] == 0xed)
			high = 0x9f;
	} else {
		len = 4;
		if (p[0] == 0xf0)
			low = 0x90;
		else if (p[0] == 0xf4)
			high = 0x8f;
	}
	if (left < len || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return len;
}

size_t
svc_utf8_span(const void *text, size_t len)
{
	const uint8_t *p = text;
	size_t at = 0;
	while (at < len) {
		uint64_t eight;
		if (len - at >= sizeof(eight)) {
			memcpy(&eight, p + at, sizeof(eight));
			if ((eight & UINT64_C(0x8080808080808080)) == 0) {
				at += sizeof(eight);
				continue;
			}
		}
		size_t n = character(p + at, len - at);
		if (n == 0)
			break;
		at += n;
	}
	return at;
}
