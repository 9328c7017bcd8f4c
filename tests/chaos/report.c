/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEGIN_MARK "<!-- chaos: begin (written by make chaos REPORT=1) -->\n"
#define END_MARK "<!-- chaos: end -->\n"

static const char *
verdict(const struct result *result)
{
	return !result->ran ? "left out" : result->passed ? "pass" : "FAIL";
}

/* "3.2 of 4.0" seconds; "-" when there was nothing to measure. */
static const char *
times(char *text, size_t size, int64_t ms, int64_t bound_ms)
{
	if (ms < 0)
		snprintf(text, size, "-");
	else
		snprintf(text, size, "%.1f of %.1f", (double)ms / 1000,
		    (double)bound_ms / 1000);
	return text;
}

void
report_head(void)
{
	printf("%-8s %-14s %7s %7s  %-12s %-12s %s\n", "plugin", "fault",
	    "calls", "failed", "gone after", "back after", "result");
	fflush(stdout);
}

void
report_row(const struct row *row)
{
	const struct result *r = &row->result;
	char gone[32], back[32];
	if (r->ran)
		printf("%-8s %-14s %7lld %7lld  %-12s %-12s %s",
		    row->plugin->label, row->fault->name, (long long)r->calls,
		    (long long)r->failed,
		    times(gone, sizeof(gone), r->gone_ms, r->gone_bound_ms),
		    times(back, sizeof(back), r->back_ms, r->back_bound_ms),
		    verdict(r));
	else
		printf("%-8s %-14s %7s %7s  %-12s %-12s %s", row->plugin->label,
		    row->fault->name, "-", "-", "-", "-", verdict(r));
	const char *why = r->reason;
	printf("%s%s\n", why[0] != '\0' ? ": " : "", why);
	fflush(stdout);
}

static void
put_json_text(const char *text)
{
	putchar('"');
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

void
report_json(const struct row *row)
{
	const struct result *r = &row->result;
	printf("{\"plugin\":\"%s\",\"fault\":\"%s\",\"result\":\"%s\","
	       "\"calls\":%lld,\"failed\":%lld,\"codes\":\"%s\","
	       "\"gone_ms\":%lld,\"gone_bound_ms\":%lld,"
	       "\"back_ms\":%lld,\"back_bound_ms\":%lld,"
	       "\"dropped\":%d,\"reason\":",
	    row->plugin->label, row->fault->name, verdict(r),
	    (long long)r->calls, (long long)r->failed, r->codes,
	    (long long)r->gone_ms, (long long)r->gone_bound_ms,
	    (long long)r->back_ms, (long long)r->back_bound_ms, r->dropped);
	put_json_text(r->reason);
	printf("}\n");
	fflush(stdout);
}

/* ---------------------------------------------------------------- markdown */

static void
write_table(FILE *f, const struct row *rows, size_t n)
{
	char gone[32], back[32];
	fprintf(f,
	    "| plugin | fault | calls | failed | gone after, s | back after, "
	    "s | result |\n"
	    "|---|---|---:|---:|---|---|---|\n");
	for (size_t i = 0; i < n; i++) {
		const struct result *r = &rows[i].result;
		fprintf(f, "| %s | `%s` | ", rows[i].plugin->label,
		    rows[i].fault->name);
		if (r->ran)
			fprintf(f, "%lld | %lld | %s | %s | %s",
			    (long long)r->calls, (long long)r->failed,
			    times(gone, sizeof(gone), r->gone_ms,
				r->gone_bound_ms),
			    times(back, sizeof(back), r->back_ms,
				r->back_bound_ms),
			    verdict(r));
		else
			fprintf(f, "- | - | - | - | left out");
		const char *why = r->reason;
		fprintf(f, "%s%s |\n", why[0] != '\0' ? ": " : "", why);
	}
}

static char *
read_file(const char *path)
{
	enum { MOST = 1 << 20 };
	FILE *f = fopen(path, "r");
	if (f == NULL)
		return NULL;
	char *text = calloc(1, MOST);
	if (text != NULL && fread(text, 1, MOST - 1, f) == 0) {
		free(text);
		text = NULL;
	}
	fclose(f);
	return text;
}

bool
report_write(const char *path, const struct row *rows, size_t n)
{
	char *text = read_file(path);
	char *begin = text != NULL ? strstr(text, BEGIN_MARK) : NULL;
	char *end = begin != NULL ? strstr(begin, END_MARK) : NULL;
	if (end == NULL) {
		fprintf(stderr, "%s has no place for the table\n", path);
		free(text);
		return false;
	}
	char *rest = strdup(end);
	begin[strlen(BEGIN_MARK)] = '\0'; /* where the rest may begin */
	FILE *f = rest != NULL ? fopen(path, "w") : NULL;
	bool ok = f != NULL;
	if (ok) {
		fputs(text, f);
		fputc('\n', f);
		write_table(f, rows, n);
		fputc('\n', f);
		fputs(rest, f);
		ok = fclose(f) == 0;
	}
	if (!ok)
		perror(path);
	free(rest);
	free(text);
	return ok;
}
