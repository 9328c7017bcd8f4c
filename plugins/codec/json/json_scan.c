/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The strict look at a text before it is parsed. cJSON is lenient (control
 * characters and bytes that are not UTF-8 in strings, "01", "1."), cuts a
 * string at \u0000, says nothing of the place of a fault, takes 64 bytes for
 * each value however small, and keeps numbers as doubles. So what it is given
 * has passed here, and what it would lose is noted or refused.
 */
#include "json_private.h"

#include <svc/log.h>

#include <stdio.h>
#include <string.h>

struct scan {
	const char *text;
	size_t len;
	size_t at;
	size_t values;
	size_t n_numbers;
	struct json_numbers *numbers;
	struct svc_error *err;
};

static svc_err
fault(const struct scan *s, size_t at, const char *expected)
{
	if (s->err == NULL)
		return SVC_E_INVAL;
	size_t line = 1, start = 0;
	for (size_t i = 0; i < at; i++) {
		if (s->text[i] == '\n') {
			line++;
			start = i + 1;
		}
	}
	char got[24];
	if (at >= s->len)
		snprintf(got, sizeof(got), "the end");
	else
		svc_log_quote(s->text + at, 1, got, sizeof(got));
	return svc_error_set(s->err, SVC_E_INVAL,
	    "JSON line %zu column %zu: expected %s, got %s", line,
	    at - start + 1, expected, got);
}

static void
skip_blank(struct scan *s)
{
	while (s->at < s->len &&
	       (s->text[s->at] == ' ' || s->text[s->at] == '\n' ||
		   s->text[s->at] == '\r' || s->text[s->at] == '\t'))
		s->at++;
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static size_t
digits(const char *text, size_t len, size_t at)
{
	while (at < len && is_digit(text[at]))
		at++;
	return at;
}

size_t
json_number_len(const char *text, size_t len)
{
	size_t at = len > 0 && text[0] == '-' ? 1 : 0;
	if (at == len || !is_digit(text[at]))
		return 0;
	at = text[at] == '0' ? at + 1 : digits(text, len, at);
	if (at < len && text[at] == '.') {
		size_t end = digits(text, len, at + 1);
		if (end == at + 1)
			return 0;
		at = end;
	}
	if (at < len && (text[at] == 'e' || text[at] == 'E')) {
		size_t exponent = at + 1;
		if (exponent < len &&
		    (text[exponent] == '+' || text[exponent] == '-'))
			exponent++;
		at = digits(text, len, exponent);
		if (at == exponent)
			return 0;
	}
	return at;
}

static svc_err
scan_number(struct scan *s)
{
	const char *text = s->text + s->at;
	size_t len = json_number_len(text, s->len - s->at);
	if (len == 0)
		return fault(s, s->at, "a number such as -1.5e3");
	if (len > JSON_MAX_NUMBER)
		return svc_error_set(s->err, SVC_E_INVAL,
		    "JSON byte %zu: a number of %zu characters, at most %u are "
		    "allowed",
		    s->at, len, JSON_MAX_NUMBER);
	/* Fifteen digits without an exponent are always exact as a double. */
	if (s->numbers != NULL && (len > 15 || memchr(text, 'e', len) != NULL ||
				      memchr(text, 'E', len) != NULL)) {
		struct json_numbers *list = s->numbers;
		if (list->n == list->cap) {
			size_t cap = list->cap == 0 ? 16 : list->cap * 2;
			struct json_number *items =
			    svc_mem_realloc(list->items, cap * sizeof(*items));
			if (items == NULL)
				return svc_error_set(
				    s->err, SVC_E_NOMEM, "JSON: out of memory");
			list->items = items;
			list->cap = cap;
		}
		list->items[list->n++] =
		    (struct json_number){s->n_numbers, s->at, len};
	}
	s->n_numbers++;
	s->at += len;
	return SVC_OK;
}

/* The value of four hexadecimal digits at `at`, or -1. */
static long
hex4(const struct scan *s, size_t at)
{
	long value = 0;
	if (s->len - at < 4)
		return -1;
	for (size_t i = at; i < at + 4; i++) {
		char c = s->text[i];
		int digit;
		if (is_digit(c))
			digit = c - '0';
		else if (c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			digit = c - 'A' + 10;
		else
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

static svc_err
scan_escape(struct scan *s)
{
	size_t start = s->at++;
	char c = s->at < s->len ? s->text[s->at] : '\0';
	if (c != 'u') {
		if (c == '\0' || strchr("\"\\/bfnrt", c) == NULL)
			return fault(
			    s, s->at, "one of \"\\/bfnrtu after a backslash");
		s->at++;
		return SVC_OK;
	}
	long unit = hex4(s, s->at + 1);
	if (unit < 0)
		return fault(s, start, "four hexadecimal digits after \\u");
	if (unit == 0 && s->numbers != NULL)
		return fault(
		    s, start, "text without \\u0000, which no field can hold");
	s->at += 5;
	if (unit >= 0xd800 && unit <= 0xdfff) {
		long second = -1;
		if (unit <= 0xdbff && s->len - s->at >= 6 &&
		    s->text[s->at] == '\\' && s->text[s->at + 1] == 'u')
			second = hex4(s, s->at + 2);
		if (second < 0xdc00 || second > 0xdfff)
			return fault(s, start, "a surrogate to have its pair");
		s->at += 6;
	}
	return SVC_OK;
}

static svc_err
scan_string(struct scan *s)
{
	size_t open = s->at++;
	while (s->at < s->len) {
		size_t start = s->at;
		uint8_t c = 0;
		while (s->at < s->len) {
			c = (uint8_t)s->text[s->at];
			if (c == '"' || c == '\\' || c < ' ')
				break;
			s->at++;
		}
		size_t good = svc_utf8_span(s->text + start, s->at - start);
		if (good < s->at - start)
			return fault(s, start + good, "UTF-8");
		if (s->at == s->len)
			break;
		if (c == '"') {
			s->at++;
			return SVC_OK;
		}
		if (c != '\\')
			return fault(
			    s, s->at, "control characters to be escaped");
		svc_err e = scan_escape(s);
		if (e != SVC_OK)
			return e;
	}
	s->at = s->len;
	char expected[64];
	snprintf(expected, sizeof(expected),
	    "the end of the string begun at byte %zu", open);
	return fault(s, s->at, expected);
}

static svc_err
scan_word(struct scan *s, const char *word)
{
	size_t len = strlen(word);
	if (s->len - s->at < len || memcmp(s->text + s->at, word, len) != 0)
		return fault(s, s->at, "a value");
	s->at += len;
	return SVC_OK;
}

/* A string, number or word; not an object or a list. */
static svc_err
scan_scalar(struct scan *s)
{
	char c = s->at < s->len ? s->text[s->at] : '\0';
	switch (c) {
	case '"':
		return scan_string(s);
	case 't':
		return scan_word(s, "true");
	case 'f':
		return scan_word(s, "false");
	case 'n':
		return scan_word(s, "null");
	default:
		if (c == '-' || is_digit(c))
			return scan_number(s);
		return fault(s, s->at, "a value");
	}
}

/* A member's name and its colon. */
static svc_err
scan_name(struct scan *s, const char *expected)
{
	if (s->at == s->len || s->text[s->at] != '"')
		return fault(s, s->at, expected);
	svc_err e = scan_string(s);
	if (e != SVC_OK)
		return e;
	skip_blank(s);
	if (s->at == s->len || s->text[s->at] != ':')
		return fault(s, s->at, "':'");
	s->at++;
	skip_blank(s);
	return SVC_OK;
}

svc_err
json_scan(const void *data, size_t len, struct json_numbers *numbers,
    struct svc_error *err)
{
	struct scan s = {
	    .text = data, .len = len, .numbers = numbers, .err = err};
	char closing[JSON_MAX_DEPTH];
	size_t depth = 0;
	svc_err e;

	skip_blank(&s);
	for (;;) {
		/* Here a value begins. */
		if (++s.values > JSON_MAX_VALUES)
			return svc_error_set(err, SVC_E_INVAL,
			    "JSON byte %zu: more than %u values", s.at,
			    JSON_MAX_VALUES);
		char c = s.at < len ? s.text[s.at] : '\0';
		if (c == '{' || c == '[') {
			if (depth == JSON_MAX_DEPTH)
				return svc_error_set(err, SVC_E_INVAL,
				    "JSON byte %zu: nested deeper than %u",
				    s.at, JSON_MAX_DEPTH);
			closing[depth++] = c == '{' ? '}' : ']';
			s.at++;
			skip_blank(&s);
			if (s.at == len || s.text[s.at] != closing[depth - 1]) {
				if (c == '{') {
					e = scan_name(&s, "a name or '}'");
					if (e != SVC_OK)
						return e;
				}
				continue;
			}
		} else {
			e = scan_scalar(&s);
			if (e != SVC_OK)
				return e;
			skip_blank(&s);
		}
		/* Here a value, or all but the bracket of one, has ended. */
		for (;;) {
			if (depth == 0) {
				if (s.at != len)
					return fault(&s, s.at,
					    "nothing after the value");
				return SVC_OK;
			}
			char close = closing[depth - 1];
			char next = s.at < len ? s.text[s.at] : '\0';
			if (next == ',') {
				s.at++;
				skip_blank(&s);
				if (close == '}') {
					e = scan_name(&s, "a name");
					if (e != SVC_OK)
						return e;
				}
				break;
			}
			if (next != close)
				return fault(&s, s.at,
				    close == '}' ? "',' or '}'" : "',' or ']'");
			depth--;
			s.at++;
			skip_blank(&s);
		}
	}
}
