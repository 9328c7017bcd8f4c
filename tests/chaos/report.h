/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CHAOS_REPORT_H
#define SVC_CHAOS_REPORT_H

#include "world.h"

struct row {
	const struct plugin *plugin;
	const struct fault *fault;
	struct result result;
};

void report_head(void);
void report_row(const struct row *row);
/** One object a line. */
void report_json(const struct row *row);
/** Puts the table between the two marks of a markdown file; false with the
 * reason on standard error. */
bool report_write(const char *path, const struct row *rows, size_t n);

#endif
