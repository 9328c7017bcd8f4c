/* SPDX-License-Identifier: Apache-2.0 */
#ifndef STUDENT_ROSTER_H
#define STUDENT_ROSTER_H

#include <svc/svc.h>

#include "student.pb-c.h"

/**
 * The students of a school, from a file with one JSON object a line. It does
 * not change once it is loaded, so any thread may read it.
 */
struct roster_entry {
	School__Student *student;
	char *line; /* as it is in the file: the student as JSON */
	size_t len;
};
struct roster {
	struct roster_entry *entries; /* in the order of the file */
	size_t n;
	const struct roster_entry **by_name; /* sorted */
};

/** Names are unique and not empty.
 * Errors: SVC_E_NOT_FOUND, SVC_E_INVAL with file and line, SVC_E_NOMEM, ... */
svc_err roster_load(
    struct roster *roster, const char *path, struct svc_error *err);
void roster_free(struct roster *roster);
/** NULL when nobody has this name. */
const struct roster_entry *roster_find(
    const struct roster *roster, const char *name);

#endif
