/* SPDX-License-Identifier: Apache-2.0 */
#include "roster.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STUDENTS 100000
#define MAX_LINE 65536

static int
compare(const void *a, const void *b)
{
	const struct roster_entry *const *left = a, *const *right = b;
	return strcmp((*left)->student->name, (*right)->student->name);
}

static int
compare_name(const void *name, const void *entry)
{
	const struct roster_entry *const *at = entry;
	return strcmp(name, (*at)->student->name);
}

const struct roster_entry *
roster_find(const struct roster *roster, const char *name)
{
	const struct roster_entry **found = bsearch(name, roster->by_name,
	    roster->n, sizeof(roster->by_name[0]), compare_name);
	return found != NULL ? *found : NULL;
}

static svc_err
add(struct roster *roster, const struct svc_codec_ops *json, const char *line,
    size_t len, struct svc_error *err)
{
	struct ProtobufCMessage *message = NULL;
	if (roster->n == MAX_STUDENTS)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "more than %d students", MAX_STUDENTS);
	if (len > MAX_LINE)
		return svc_error_set(
		    err, SVC_E_EXHAUSTED, "longer than %d bytes", MAX_LINE);
	/* Powers of two, so that n tells when there is no room. */
	if ((roster->n & (roster->n - 1)) == 0) {
		size_t cap = roster->n == 0 ? 1 : 2 * roster->n;
		struct roster_entry *grown = svc_mem_realloc(
		    roster->entries, cap * sizeof(roster->entries[0]));
		if (grown == NULL)
			return svc_error_set(err, SVC_E_NOMEM, "out of memory");
		roster->entries = grown;
	}
	svc_err code = json->decode(
	    &school__student__descriptor, line, len, &message, err);
	if (code != SVC_OK)
		return code;
	struct roster_entry *entry = &roster->entries[roster->n];
	entry->student = (School__Student *)message;
	entry->line = svc_mem_alloc(len + 1);
	if (entry->student->name[0] == '\0' || entry->line == NULL) {
		code = svc_error_set(err,
		    entry->line != NULL ? SVC_E_INVAL : SVC_E_NOMEM,
		    entry->line != NULL ? "the name is empty"
					: "out of memory");
		svc_mem_free(entry->line);
		svc_message_destroy(message);
		return code;
	}
	memcpy(entry->line, line, len);
	entry->line[len] = '\0';
	entry->len = len;
	roster->n++;
	return SVC_OK;
}

static svc_err
read_lines(struct roster *roster, const struct svc_codec_ops *json,
    const char *path, FILE *f, struct svc_error *err)
{
	char *line = NULL;
	size_t cap = 0;
	unsigned long number = 0;
	ssize_t len;
	svc_err code = SVC_OK;
	while (code == SVC_OK && (len = getline(&line, &cap, f)) >= 0) {
		struct svc_error why = {0};
		number++;
		while (
		    len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
			len--;
		if (len == 0)
			continue;
		code = add(roster, json, line, (size_t)len, &why);
		if (code != SVC_OK)
			svc_error_set(err, code, "roster %s line %lu: %s", path,
			    number, why.text);
	}
	if (code == SVC_OK && ferror(f))
		code = svc_error_sys(
		    err, SVC_OK, errno, "roster %s cannot be read", path);
	free(line);
	return code;
}

static svc_err
sort(struct roster *roster, const char *path, struct svc_error *err)
{
	if (roster->n == 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "roster %s has no students; it needs one JSON object a "
		    "line, with name, classes, grade and phone",
		    path);
	roster->by_name = svc_mem_calloc(roster->n, sizeof(roster->by_name[0]));
	if (roster->by_name == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	for (size_t i = 0; i < roster->n; i++)
		roster->by_name[i] = &roster->entries[i];
	qsort(roster->by_name, roster->n, sizeof(roster->by_name[0]), compare);
	for (size_t i = 1; i < roster->n; i++) {
		if (compare(&roster->by_name[i - 1], &roster->by_name[i]) == 0)
			return svc_error_set(err, SVC_E_INVAL,
			    "roster %s has \"%s\" twice", path,
			    roster->by_name[i]->student->name);
	}
	return SVC_OK;
}

svc_err
roster_load(struct roster *roster, const char *path, struct svc_error *err)
{
	struct svc_codecs *codecs = NULL;
	const struct svc_codec_ops *json;
	*roster = (struct roster){0};
	if (path[0] == '\0')
		return svc_error_set(err, SVC_E_INVAL,
		    "--roster is empty; it needs the name of a file");
	FILE *f = fopen(path, "re");
	/* To name a file that is not there is bad usage, as of --config. */
	if (f == NULL)
		return svc_error_sys(err,
		    errno == ENOENT ? SVC_E_INVAL : SVC_OK, errno,
		    "roster %s cannot be opened", path);
	svc_err code = svc_codecs_create(&codecs, err);
	if (code == SVC_OK)
		code = svc_codecs_find(codecs, "application/json", &json, err);
	if (code == SVC_OK)
		code = read_lines(roster, json, path, f, err);
	if (code == SVC_OK)
		code = sort(roster, path, err);
	svc_codecs_destroy(codecs);
	fclose(f);
	if (code != SVC_OK)
		roster_free(roster);
	return code;
}

void
roster_free(struct roster *roster)
{
	for (size_t i = 0; i < roster->n; i++) {
		svc_message_destroy(&roster->entries[i].student->base);
		svc_mem_free(roster->entries[i].line);
	}
	svc_mem_free(roster->entries);
	svc_mem_free(roster->by_name);
	*roster = (struct roster){0};
}
