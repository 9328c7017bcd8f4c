/* SPDX-License-Identifier: Apache-2.0 */
#include "out.h"
#include "json.h"

#include <svc/codec.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const codes[] = {
    [OUT_PLAIN] = "",
    [OUT_HEAD] = "\033[1m",
    [OUT_NAME] = "\033[36m",
    [OUT_GOOD] = "\033[32m",
    [OUT_BAD] = "\033[31m",
    [OUT_DIM] = "\033[2m",
};

bool
out_is_terminal(void)
{
	return isatty(STDOUT_FILENO) == 1;
}

bool
out_colour(void)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return out_is_terminal() && (no == NULL || no[0] == '\0') &&
	       (term == NULL || strcmp(term, "dumb") != 0);
}

/* How many columns out_text fills. */
static size_t
width(const char *text)
{
	size_t n = 0;

	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c < 0x20 || c == 0x7f)
			n += 4;
		else if ((c & 0xc0) != 0x80)
			n++;
	}
	return n;
}

void
out_text(enum out_style style, const char *text)
{
	bool colour = style != OUT_PLAIN && out_colour();

	if (colour)
		fputs(codes[style], stdout);
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c < 0x20 || c == 0x7f)
			printf("\\x%02x", c);
		else
			putchar(c);
	}
	if (colour)
		fputs("\033[0m", stdout);
}

bool
out_flush(void)
{
	return fflush(stdout) == 0 && ferror(stdout) == 0;
}

static bool errors_in_json;

void
out_errors_in_json(bool on)
{
	errors_in_json = on;
}

/* By one write, so that no other line gets in between. */
static void
put_json_error(svc_err code, const char *text)
{
	struct svc_buf line;

	svc_buf_init(&line, SIZE_MAX);
	svc_buf_puts(&line, "{\"error\":");
	out_json_text(&line, text);
	svc_buf_printf(&line, ",\"code\":\"%s\"}\n", svc_err_name(code));
	if (line.failed == SVC_OK)
		fwrite(line.data, 1, line.len, stdout);
	svc_buf_fini(&line);
}

void
out_error(svc_err code, const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (errors_in_json)
		put_json_error(code, text);
	fflush(stdout);
	/* Lines of the settings name the program themselves. */
	if (strncmp(text, "svc: ", 5) == 0)
		fprintf(stderr, "%s\n", text);
	else
		fprintf(stderr, "svc: %s\n", text);
}

void
out_cell(struct out_table *table, enum out_style style, const char *format, ...)
{
	struct svc_buf text;
	va_list args;
	char *formatted = NULL;
	int len;

	if (table->n_cells == table->cap_cells) {
		size_t cap = table->cap_cells * 2 + 16;
		struct out_cell *more =
		    svc_mem_realloc(table->cells, cap * sizeof(*more));

		if (more == NULL) {
			table->failed = true;
			return;
		}
		table->cells = more;
		table->cap_cells = cap;
	}
	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	svc_buf_init(&text, SIZE_MAX);
	if (len >= 0 && svc_buf_reserve(&text, (size_t)len + 1) == SVC_OK) {
		va_start(args, format);
		vsnprintf((char *)text.data, (size_t)len + 1, format, args);
		va_end(args);
		text.len = (size_t)len;
		formatted = svc_buf_take(&text, NULL);
	}
	svc_buf_fini(&text);
	if (formatted == NULL) {
		table->failed = true;
		return;
	}
	table->cells[table->n_cells++] =
	    (struct out_cell){.style = style, .text = formatted};
}

svc_err
out_table_end(struct out_table *table, int indent)
{
	svc_err rc = table->failed ? SVC_E_NOMEM : SVC_OK;
	size_t *widths = svc_mem_calloc(table->columns, sizeof(*widths));

	if (widths == NULL)
		rc = SVC_E_NOMEM;
	for (size_t i = 0; rc == SVC_OK && i < table->n_cells; i++) {
		size_t w = width(table->cells[i].text);

		if (w > widths[i % table->columns])
			widths[i % table->columns] = w;
	}
	for (size_t i = 0; i < table->n_cells; i++) {
		size_t column = i % table->columns;
		struct out_cell *cell = &table->cells[i];

		if (rc == SVC_OK) {
			if (column == 0)
				printf("%*s", indent, "");
			out_text(cell->style, cell->text);
			if (column + 1 == table->columns)
				putchar('\n');
			else
				printf("%*s",
				    (int)(widths[column] - width(cell->text)) +
					2,
				    "");
		}
		svc_mem_free(cell->text);
	}
	svc_mem_free(widths);
	svc_mem_free(table->cells);
	*table = (struct out_table){.columns = table->columns};
	return rc;
}

void
out_pairs(struct svc_buf *out, const struct svc_headers *headers)
{
	const char *name, *value;

	if (svc_headers_count(headers) == 0)
		svc_buf_putc(out, '-');
	for (size_t i = 0; svc_headers_at(headers, i, &name, &value); i++)
		svc_buf_printf(out, "%s%s=%s", i > 0 ? " " : "", name, value);
}

void
out_json_text(struct svc_buf *out, const char *text)
{
	svc_buf_json_string(out, text, strlen(text));
}

void
out_json_pairs(struct svc_buf *out, const struct svc_headers *headers)
{
	const char *name, *value;

	svc_buf_putc(out, '{');
	for (size_t i = 0; svc_headers_at(headers, i, &name, &value); i++) {
		if (i > 0)
			svc_buf_putc(out, ',');
		out_json_text(out, name);
		svc_buf_putc(out, ':');
		out_json_text(out, value);
	}
	svc_buf_putc(out, '}');
}

bool
out_is_text(const void *data, size_t len)
{
	const unsigned char *at = data;

	for (size_t i = 0; i < len; i++)
		if (at[i] < 0x20 && at[i] != '\n' && at[i] != '\t' &&
		    at[i] != '\r')
			return false;
	return svc_utf8_span(data, len) == len;
}

static void
put_base64(struct svc_buf *out, const unsigned char *data, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				     "abcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < len; i += 3) {
		uint32_t bits = (uint32_t)data[i] << 16;

		if (i + 1 < len)
			bits |= (uint32_t)data[i + 1] << 8;
		if (i + 2 < len)
			bits |= data[i + 2];
		svc_buf_putc(out, digits[bits >> 18]);
		svc_buf_putc(out, digits[bits >> 12 & 63]);
		svc_buf_putc(out, i + 1 < len ? digits[bits >> 6 & 63] : '=');
		svc_buf_putc(out, i + 2 < len ? digits[bits & 63] : '=');
	}
}

void
out_json_body(struct svc_buf *out, const struct svc_message *message)
{
	const char *type =
	    message->content_type != NULL ? message->content_type : "";

	if (message->len == 0) {
		svc_buf_puts(out, "null");
	} else if (strncmp(type, "text/", 5) != 0 &&
		   json_check(message->data, message->len, NULL) == SVC_OK) {
		json_format(out, message->data, message->len, false);
	} else if (out_is_text(message->data, message->len)) {
		svc_buf_json_string(out, message->data, message->len);
	} else {
		svc_buf_puts(out, "{\"base64\":\"");
		put_base64(out, message->data, message->len);
		svc_buf_puts(out, "\"}");
	}
}
