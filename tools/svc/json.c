/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

#include <svc/codec.h>

#include <string.h>

#define MAX_DEPTH 512

struct reader {
	const char *start, *at, *end;
	const char *wrong; /* what was wrong at `at`; NULL: nothing yet */
};

static bool
refuse(struct reader *r, const char *wrong)
{
	r->wrong = wrong;
	return false;
}

static void
skip_space(struct reader *r)
{
	while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' ||
				     *r->at == '\n' || *r->at == '\r'))
		r->at++;
}

static bool
is_digit(const struct reader *r)
{
	return r->at < r->end && *r->at >= '0' && *r->at <= '9';
}

static bool
is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') ||
	       (c >= 'A' && c <= 'F');
}

static bool
read_string(struct reader *r)
{
	for (r->at++; r->at < r->end; r->at++) {
		if (*r->at == '"') {
			r->at++;
			return true;
		}
		if ((unsigned char)*r->at < 0x20)
			return refuse(r,
			    "a control character in a text; write \\n or "
			    "\\u0000");
		if (*r->at != '\\')
			continue;
		r->at++;
		if (r->at == r->end)
			break;
		if (*r->at == 'u') {
			for (int i = 0; i < 4; i++) {
				r->at++;
				if (r->at == r->end || !is_hex(*r->at))
					return refuse(r, "\\u needs four "
							 "hexadecimal digits");
			}
		} else if (strchr("\"\\/bfnrt", *r->at) == NULL ||
			   *r->at == '\0') {
			return refuse(r, "no such escape in a text");
		}
	}
	return refuse(r, "a text without its closing \"");
}

static bool
read_digits(struct reader *r)
{
	if (!is_digit(r))
		return refuse(r, "a digit is missing in a number");
	while (is_digit(r))
		r->at++;
	return true;
}

static bool
read_number(struct reader *r)
{
	if (*r->at == '-')
		r->at++;
	if (r->at < r->end && *r->at == '0') {
		r->at++;
		if (is_digit(r))
			return refuse(r, "a number begins with 0");
	} else if (!read_digits(r)) {
		return false;
	}
	if (r->at < r->end && *r->at == '.') {
		r->at++;
		if (!read_digits(r))
			return false;
	}
	if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
		r->at++;
		if (r->at < r->end && (*r->at == '+' || *r->at == '-'))
			r->at++;
		return read_digits(r);
	}
	return true;
}

static bool
read_word(struct reader *r, const char *word)
{
	size_t len = strlen(word);

	if ((size_t)(r->end - r->at) < len || memcmp(r->at, word, len) != 0)
		return refuse(r,
		    "expected a value: a text in \"\", a number, {, [, true, "
		    "false or null");
	r->at += len;
	return true;
}

static bool
read_scalar(struct reader *r)
{
	switch (*r->at) {
	case '"':
		return read_string(r);
	case 't':
		return read_word(r, "true");
	case 'f':
		return read_word(r, "false");
	case 'n':
		return read_word(r, "null");
	default:
		if (*r->at == '-' || is_digit(r))
			return read_number(r);
		return read_word(r, "null");
	}
}

static bool
read_name(struct reader *r)
{
	skip_space(r);
	if (r->at == r->end || *r->at != '"')
		return refuse(r, "expected a name in \"\"");
	if (!read_string(r))
		return false;
	skip_space(r);
	if (r->at == r->end || *r->at != ':')
		return refuse(r, "expected : after a name");
	r->at++;
	return true;
}

/* The containers that are open are in `open`, so the depth needs no stack. */
static bool
read_value(struct reader *r)
{
	char open[MAX_DEPTH];
	size_t depth = 0;

	for (;;) {
		skip_space(r);
		if (r->at == r->end)
			return refuse(r, "a value is missing");
		if (*r->at == '{' || *r->at == '[') {
			if (depth == MAX_DEPTH)
				return refuse(r, "nested too deep (512)");
			open[depth++] = *r->at == '{' ? '}' : ']';
			r->at++;
			skip_space(r);
			if (r->at < r->end && *r->at == open[depth - 1]) {
				r->at++;
				depth--;
			} else if (open[depth - 1] == ']' || read_name(r)) {
				continue;
			} else {
				return false;
			}
		} else if (!read_scalar(r)) {
			return false;
		}
		/* A value has ended: close what ends here. */
		for (;;) {
			if (depth == 0)
				return true;
			skip_space(r);
			if (r->at < r->end && *r->at == ',') {
				r->at++;
				if (open[depth - 1] == '}' && !read_name(r))
					return false;
				break;
			}
			if (r->at == r->end || *r->at != open[depth - 1])
				return refuse(r, open[depth - 1] == '}'
						     ? "expected , or }"
						     : "expected , or ]");
			r->at++;
			depth--;
		}
	}
}

svc_err
json_check(const char *text, size_t len, struct svc_error *err)
{
	struct reader r = {.start = text, .at = text, .end = text + len};
	size_t line = 1, column = 1;

	if (read_value(&r)) {
		size_t good = svc_utf8_span(text, len);

		skip_space(&r);
		if (r.at == r.end && good == len)
			return SVC_OK;
		refuse(&r, "something follows the value");
		if (good < len) {
			r.at = text + good;
			refuse(&r, "bytes that are not UTF-8");
		}
	}
	for (const char *c = r.start; c < r.at; c++) {
		if (*c == '\n') {
			line++;
			column = 1;
		} else if (((unsigned char)*c & 0xc0) != 0x80) {
			column++;
		}
	}
	return svc_error_set(err, SVC_E_INVAL, "line %zu, column %zu: %s", line,
	    column, r.wrong);
}

static void
new_line(struct svc_buf *out, size_t depth)
{
	svc_buf_putc(out, '\n');
	while (depth-- > 0)
		svc_buf_puts(out, "  ");
}

svc_err
json_format(struct svc_buf *out, const char *text, size_t len, bool pretty)
{
	struct reader r = {.start = text, .at = text, .end = text + len};
	size_t depth = 0;

	while (skip_space(&r), r.at < r.end) {
		const char *from = r.at;

		switch (*r.at) {
		case '{':
		case '[':
			svc_buf_putc(out, *r.at++);
			skip_space(&r);
			if (r.at < r.end && (*r.at == '}' || *r.at == ']')) {
				svc_buf_putc(out, *r.at++);
				break;
			}
			depth++;
			if (pretty)
				new_line(out, depth);
			break;
		case '}':
		case ']':
			depth -= depth > 0;
			if (pretty)
				new_line(out, depth);
			svc_buf_putc(out, *r.at++);
			break;
		case ',':
			svc_buf_putc(out, *r.at++);
			if (pretty)
				new_line(out, depth);
			break;
		case ':':
			svc_buf_puts(out, pretty ? ": " : ":");
			r.at++;
			break;
		default:
			if (!read_scalar(&r))
				return SVC_E_INVAL;
			svc_buf_append(out, from, (size_t)(r.at - from));
			break;
		}
	}
	return out->failed;
}
