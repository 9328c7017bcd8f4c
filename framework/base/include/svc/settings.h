/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SETTINGS_H
#define SVC_SETTINGS_H

#include <svc/headers.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Layered settings: a flag wins over the environment, that over the config
 * file, that over what the program set in code (the value found in the
 * target). One table describes every setting once; flags, variables, file
 * keys, help and error texts all come from it.
 *
 * A setting "registry_ttl" is the flag --registry_ttl, the environment
 * variables SVC_REGISTRY_TTL and MICRO_REGISTRY_TTL (the second when the first
 * is unset), and the key registry_ttl of the file, which is also reached as
 * ttl inside a map registry. Each alias is a full second name in all of these.
 * An empty environment variable is unset. In a name '-' is the same as '_'.
 * Pairs of several layers are put together; of one key the upper layer's
 * counts. In the file, a list of texts is joined by commas, and a key without
 * a value (or null) sets nothing.
 */
typedef enum svc_setting_kind {
	SVC_SETTING_TEXT,     /* char **, allocated with svc_mem */
	SVC_SETTING_BOOL,     /* bool *; a bare flag means true */
	SVC_SETTING_INT,      /* int64_t *, from min to max */
	SVC_SETTING_DURATION, /* int64_t * in ms; "500ms" "5s" "1m30s" "2h", or
			       * a plain number counted in `unit_ms` */
	SVC_SETTING_SIZE,     /* int64_t * in bytes; plain or with k, m, g */
	SVC_SETTING_REAL,     /* double * */
	SVC_SETTING_PAIRS,    /* struct svc_headers **; repeatable k=v, in the
			       * environment comma-separated, in the file a map */
	/* The application's own variables (option flag()): */
	SVC_SETTING_APP_INT,  /* int * */
	SVC_SETTING_APP_TEXT, /* const char **; the text lives as long as the
			       * settings */
} svc_setting_kind;

typedef enum svc_setting_source {
	SVC_SOURCE_CODE,
	SVC_SOURCE_FILE,
	SVC_SOURCE_ENVIRONMENT,
	SVC_SOURCE_FLAG,
} svc_setting_source;

struct svc_setting {
	const char *name;
	const char *aliases; /* separated by spaces, or NULL */
	svc_setting_kind kind;
	void *target;
	const char *value; /* what --help calls the value: "SECONDS" */
	const char *help;  /* one sentence; --help appends the present value */
	const char *choices; /* allowed words separated by spaces, or NULL */
	int64_t min, max;    /* numbers; both 0 means no limit */
	int64_t unit_ms;     /* durations: what a plain number counts in */
	const char *group;   /* heading in --help */
	svc_setting_source source; /* who set it last; filled in */
};

struct svc_settings;

/** An empty set. `program` is named in help; error lines leave it to whoever
 * prints them. */
SVC_API struct svc_settings *svc_settings_create(const char *program);
SVC_API void svc_settings_destroy(struct svc_settings *settings);
/** Adds a copy of the entry; its texts are copied, the target is borrowed
 * until destroy.
 * Errors: SVC_E_EXISTS (a name twice), SVC_E_INVAL (a bad name), SVC_E_NOMEM */
SVC_API svc_err svc_settings_add(struct svc_settings *settings,
    const struct svc_setting *setting, struct svc_error *err);
/**
 * Reads all layers into the targets: the arguments (both --flag=value and
 * --flag value; "--" ends them; argv[0] is the program), the environment, and
 * the YAML or JSON file named by the setting "config", if there is one of that
 * name. "-h" is --help. What is not a flag is left in argv[1 .. *ret_argc - 1]
 * in order; ret_argc NULL means that such words are an error.
 * Errors: SVC_E_INVAL with one line that names the flag, variable or file and
 * line, what was wrong, what is allowed, and for an unknown flag the nearest
 * right one; SVC_E_NOT_FOUND (no such file); SVC_E_NOMEM. Targets may have
 * been partly written then.
 */
SVC_API svc_err svc_settings_load(struct svc_settings *settings, int argc,
    char *argv[], int *ret_argc, struct svc_error *err);
/** Who set the setting of this name (or alias) last; CODE for an unknown. */
SVC_API svc_setting_source svc_settings_source(
    const struct svc_settings *settings, const char *name);
/** Where the value in effect stood, as error lines name it: "--name",
 * "SVC_NAME" or "FILE line 3: name", cut to `size` bytes. False, and nothing is
 * written, when it is the program's own. */
SVC_API bool svc_settings_place(const struct svc_settings *settings,
    const char *name, char *ret_place, size_t size);
/** The text of --help: every setting by group with its present value. `usage`
 * is the first line ("PROGRAM [flags]" for NULL), `about` may be NULL. To be
 * freed with svc_mem_free. */
SVC_API char *svc_settings_help(
    const struct svc_settings *settings, const char *usage, const char *about);
/** All names and present values as one JSON object, names sorted; values of
 * settings whose name contains "password", "token" or "secret" are "***". To
 * be freed with svc_mem_free. */
SVC_API char *svc_settings_json(const struct svc_settings *settings);

/**
 * Whether `candidate` is near enough to what was typed to be suggested, and
 * nearer than the best so far; then *best is updated. Start with *best 0.
 * Threads: any.
 */
SVC_API bool svc_text_nearer(
    const char *typed, const char *candidate, size_t *best);

/** "1m30s" and its like to milliseconds. Errors: SVC_E_INVAL */
SVC_API svc_err svc_duration_parse(
    const char *text, int64_t unit_ms, int64_t *ret_ms);

#ifdef __cplusplus
}
#endif
#endif
