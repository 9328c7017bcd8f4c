/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEXT_PRIVATE_H
#define SVC_TEXT_PRIVATE_H

/**
 * Small helpers for text. They know ASCII and UTF-8 only: the C library's
 * depend on the locale that the program has set.
 */

#include <svc/base.h>

static inline char
svc_text_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
}

static inline char
svc_text_upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

/** Whether two texts are the same but for ASCII case. */
bool svc_text_same(const char *a, const char *b);

/** The length of the UTF-8 character at `bytes`; 0 when there is none. */
size_t svc_text_char(const void *bytes, size_t len);

/** The largest cut, at most `len`, that splits no UTF-8 character. */
size_t svc_text_cut(const char *text, size_t len);

/** Make it one line: control characters become spaces. */
void svc_text_one_line(char *text);

#endif
