/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SETTINGS_PRIVATE_H
#define SVC_SETTINGS_PRIVATE_H

#include <svc/buf.h>
#include <svc/settings.h>

/** What the files settings*.c share: the set itself in settings.c, the texts
 * of values in settings_value.c, the config file in settings_file.c, help and
 * JSON in settings_help.c. */

struct setting {
	struct svc_setting is; /* its texts belong to it */
	size_t line;           /* where the file has set it, or 0 */
};

struct svc_settings {
	char *program;
	struct setting *list;
	size_t count, cap;
	/* Texts handed to variables of the application. */
	char **kept;
	size_t kept_count;
};

/** By name or alias, '-' being the same as '_'; NULL when there is none. */
struct setting *svc_settings_find(
    const struct svc_settings *settings, const char *name);

/** The name or alias nearest to `typed` in `ret_name`, which has room for
 * `size` bytes; false when none is near. */
bool svc_settings_nearest(const struct svc_settings *settings,
    const char *typed, char *ret_name, size_t size);

/** Walks the words of a list separated by spaces: `*at` is moved behind the
 * word that is returned, NULL at the end. */
const char *svc_settings_word(const char **at, size_t *ret_len);

/** Puts the value that `text` stands for into the target. The text of `err`
 * says what is wrong with it and what is allowed, but not where it stood. */
svc_err svc_settings_assign(struct svc_settings *settings,
    struct setting *setting, const char *text, svc_setting_source source,
    struct svc_error *err);

/** Appends the present value, as it may be written in a flag. */
void svc_settings_show(const struct setting *setting, struct svc_buf *out);
/** The same as JSON. */
void svc_settings_show_json(const struct setting *setting, struct svc_buf *out);

/** Reads a config file from memory; `name` is what errors call it. */
svc_err svc_settings_read(struct svc_settings *settings, const char *name,
    const void *data, size_t len, struct svc_error *err);

#endif
