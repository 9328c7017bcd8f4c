/* SPDX-License-Identifier: Apache-2.0 */
#include "text_private.h"

#include <svc/settings.h>

#include <string.h>

bool
svc_text_same(const char *a, const char *b)
{
	while (*a != '\0' && svc_text_lower(*a) == svc_text_lower(*b)) {
		a++;
		b++;
	}
	return svc_text_lower(*a) == svc_text_lower(*b);
}

size_t
svc_text_char(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	if (len == 0)
		return 0;
	if (p[0] < 0x80)
		return 1;
	/* The second byte has a narrower range after some first bytes: that
	 * keeps out overlong forms, surrogates and what is past U+10FFFF. */
	uint8_t low = 0x80, high = 0xbf;
	size_t need;
	if (p[0] >= 0xc2 && p[0] <= 0xdf) {
		need = 2;
	} else if (p[0] >= 0xe0 && p[0] <= 0xef) {
		need = 3;
		if (p[0] == 0xe0)
			low = 0xa0;
		if (p[0] == 0xed)
			high = 0x9f;
	} else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		need = 4;
		if (p[0] == 0xf0)
			low = 0x90;
		if (p[0] == 0xf4)
			high = 0x8f;
	} else {
		return 0;
	}
	if (len < need || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < need; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return need;
}

size_t
svc_text_cut(const char *text, size_t len)
{
	/* Step back over what may be the beginning of a character. */
	size_t start = len;
	for (size_t back = 1; back <= 4 && back <= len; back++) {
		uint8_t c = (uint8_t)text[len - back];
		if ((c & 0xc0) == 0x80)
			continue;
		start = len - back;
		break;
	}
	if (start == len || (uint8_t)text[start] < 0x80)
		return len;
	return svc_text_char(text + start, len - start) == len - start ? len
								       : start;
}

void
svc_text_one_line(char *text)
{
	for (; *text != '\0'; text++)
		if ((uint8_t)*text < 0x20 || *text == 0x7f)
			*text = ' ';
}

/* Levenshtein's distance, by one row of his table. */
static size_t
distance(const char *a, const char *b)
{
	size_t row[64];
	size_t b_len = strlen(b);
	if (b_len >= sizeof(row) / sizeof(row[0]))
		return SIZE_MAX;
	for (size_t i = 0; i <= b_len; i++)
		row[i] = i;
	for (; *a != '\0'; a++) {
		size_t diagonal = row[0]++;
		for (size_t i = 1; i <= b_len; i++) {
			size_t cost = diagonal + (*a != b[i - 1]);
			diagonal = row[i];
			if (row[i] + 1 < cost)
				cost = row[i] + 1;
			if (row[i - 1] + 1 < cost)
				cost = row[i - 1] + 1;
			row[i] = cost;
		}
	}
	return row[b_len];
}

bool
svc_text_nearer(const char *typed, const char *candidate, size_t *best)
{
	/* One slip in three characters is a typo, more is another word. */
	size_t limit = strlen(candidate) / 3 + 1;
	size_t apart = distance(typed, candidate);
	if (apart > limit || (*best != 0 && apart >= *best))
		return false;
	*best = apart > 0 ? apart : 1;
	return true;
}
