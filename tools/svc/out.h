/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TOOL_OUT_H
#define SVC_TOOL_OUT_H

#include <svc/buf.h>
#include <svc/message.h>

#include <stdio.h>

/** How text looks on a terminal; nothing of it when there is none. */
enum out_style { OUT_PLAIN, OUT_HEAD, OUT_NAME, OUT_GOOD, OUT_BAD, OUT_DIM };

/** Standard output is a terminal and wants colours. */
bool out_colour(void);
bool out_is_terminal(void);
/** Text from elsewhere: control characters are shown as \xNN, so that it
 * cannot steer the terminal. */
void out_text(enum out_style style, const char *text);
/** Flushes; false once standard output cannot be written. */
bool out_flush(void);
/** One line on standard error, "svc: ...", and for programs, as with --json,
 * {"error", "code"} on standard output. The last that is said. */
void out_error(svc_err code, const char *format, ...) SVC_PRINTF(2, 3);
void out_errors_in_json(bool on);

/** Rows of text whose columns line up. */
struct out_table {
	size_t columns;
	struct out_cell {
		enum out_style style;
		char *text;
	} * cells;
	size_t n_cells, cap_cells;
	bool failed;
};
void out_cell(struct out_table *table, enum out_style style, const char *format,
    ...) SVC_PRINTF(3, 4);
/** Prints and frees the rows, each behind `indent` spaces.
 * Errors: SVC_E_NOMEM */
svc_err out_table_end(struct out_table *table, int indent);

/** "k=v k=v", or "-" for none. */
void out_pairs(struct svc_buf *out, const struct svc_headers *headers);
/** {"k":"v"} */
void out_json_pairs(struct svc_buf *out, const struct svc_headers *headers);
void out_json_text(struct svc_buf *out, const char *text);
/** The body as a JSON value: itself when it is JSON, a text when it is text,
 * else {"base64":"..."}. On one line. */
void out_json_body(struct svc_buf *out, const struct svc_message *message);
bool out_is_text(const void *data, size_t len);

#endif
