/* SPDX-License-Identifier: Apache-2.0 */
#include "settings_private.h"

#include "text_private.h"

#include <svc/log.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NAME 64
#define MAX_FILE (1024 * 1024)

static svc_err
out_of_memory(struct svc_error *err)
{
	return svc_error_set(err, SVC_E_NOMEM, "out of memory");
}

struct svc_settings *
svc_settings_create(const char *program)
{
	struct svc_settings *settings = svc_mem_calloc(1, sizeof(*settings));
	if (settings == NULL)
		return NULL;
	settings->program = svc_mem_strdup(program != NULL ? program : "svc");
	if (settings->program == NULL) {
		svc_mem_free(settings);
		return NULL;
	}
	return settings;
}

/* The texts of an entry, to be copied and freed alike. */
#define TEXTS 6
static void
list_texts(struct svc_setting *setting, const char **list[TEXTS])
{
	list[0] = &setting->name;
	list[1] = &setting->aliases;
	list[2] = &setting->value;
	list[3] = &setting->help;
	list[4] = &setting->choices;
	list[5] = &setting->group;
}

static void
free_texts(struct svc_setting *setting)
{
	const char **texts[TEXTS];
	list_texts(setting, texts);
	for (int i = 0; i < TEXTS; i++) {
		char *text;
		memcpy(&text, texts[i], sizeof(text));
		svc_mem_free(text);
	}
}

void
svc_settings_destroy(struct svc_settings *settings)
{
	if (settings == NULL)
		return;
	for (size_t i = 0; i < settings->count; i++)
		free_texts(&settings->list[i].is);
	for (size_t i = 0; i < settings->kept_count; i++)
		svc_mem_free(settings->kept[i]);
	svc_mem_free(settings->kept);
	svc_mem_free(settings->list);
	svc_mem_free(settings->program);
	svc_mem_free(settings);
}

const char *
svc_settings_word(const char **at, size_t *ret_len)
{
	if (*at == NULL)
		return NULL;
	const char *word = *at + strspn(*at, " ");
	*ret_len = strcspn(word, " ");
	*at = word + *ret_len;
	return *ret_len > 0 ? word : NULL;
}

static char
plain(char c)
{
	return c == '-' ? '_' : c;
}

static bool
same_name(const char *a, size_t a_len, const char *b)
{
	size_t i = 0;
	while (i < a_len && b[i] != '\0' && plain(a[i]) == plain(b[i]))
		i++;
	return i == a_len && b[i] == '\0';
}

/* Walks all names of a setting: `*at` NULL asks for the first. */
static const char *
next_name(const struct setting *setting, const char **at, size_t *ret_len)
{
	if (*at == NULL) {
		*at = setting->is.aliases != NULL ? setting->is.aliases : "";
		*ret_len = strlen(setting->is.name);
		return setting->is.name;
	}
	return svc_settings_word(at, ret_len);
}

struct setting *
svc_settings_find(const struct svc_settings *settings, const char *name)
{
	for (size_t i = 0; i < settings->count; i++) {
		const char *own, *at = NULL;
		size_t len;
		while ((own = next_name(&settings->list[i], &at, &len)) != NULL)
			if (same_name(own, len, name))
				return &settings->list[i];
	}
	return NULL;
}

bool
svc_settings_nearest(const struct svc_settings *settings, const char *typed,
    char *ret_name, size_t size)
{
	size_t best = 0;
	for (size_t i = 0; i < settings->count; i++) {
		const char *own, *at = NULL;
		size_t len;
		while (
		    (own = next_name(&settings->list[i], &at, &len)) != NULL) {
			char name[MAX_NAME + 1];
			snprintf(name, sizeof(name), "%.*s", (int)len, own);
			if (svc_text_nearer(typed, name, &best))
				snprintf(ret_name, size, "%s", name);
		}
	}
	return best != 0;
}

static bool
name_ok(const char *name, size_t len)
{
	if (len == 0 || len > MAX_NAME || name[0] < 'a' || name[0] > 'z')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!((name[i] >= 'a' && name[i] <= 'z') ||
			(name[i] >= '0' && name[i] <= '9') ||
			plain(name[i]) == '_'))
			return false;
	return true;
}

static svc_err
check_names(const struct svc_settings *settings, const struct setting *setting,
    struct svc_error *err)
{
	const char *own, *at = NULL;
	size_t len;
	while ((own = next_name(setting, &at, &len)) != NULL) {
		char quoted[MAX_NAME + 16], name[MAX_NAME + 1];
		if (!name_ok(own, len))
			return svc_error_set(err, SVC_E_INVAL,
			    "%s is no name of a setting: a letter, then "
			    "letters, digits, _ and -, all lower case, at most "
			    "%d",
			    svc_log_quote(own, len, quoted, sizeof(quoted)),
			    MAX_NAME);
		snprintf(name, sizeof(name), "%.*s", (int)len, own);
		if (svc_settings_find(settings, name) != NULL)
			return svc_error_set(err, SVC_E_EXISTS,
			    "there are two settings \"%s\"", name);
	}
	return SVC_OK;
}

svc_err
svc_settings_add(struct svc_settings *settings,
    const struct svc_setting *setting, struct svc_error *err)
{
	if (setting->name == NULL || setting->target == NULL)
		return svc_error_set(
		    err, SVC_E_INVAL, "a setting needs a name and a target");
	struct setting new = {.is = *setting};
	new.is.source = SVC_SOURCE_CODE;
	svc_err failed = check_names(settings, &new, err);
	if (failed != SVC_OK)
		return failed;

	if (settings->count == settings->cap) {
		size_t cap = settings->cap > 0 ? settings->cap * 2 : 32;
		struct setting *list =
		    svc_mem_realloc(settings->list, cap * sizeof(*list));
		if (list == NULL)
			return out_of_memory(err);
		settings->list = list;
		settings->cap = cap;
	}
	const char **texts[TEXTS];
	list_texts(&new.is, texts);
	bool complete = true;
	for (int i = 0; i < TEXTS; i++) {
		const char *text = *texts[i];
		*texts[i] = svc_mem_strdup(text);
		complete = complete && (*texts[i] != NULL || text == NULL);
	}
	if (!complete) {
		free_texts(&new.is);
		return out_of_memory(err);
	}
	settings->list[settings->count++] = new;
	return SVC_OK;
}

svc_setting_source
svc_settings_source(const struct svc_settings *settings, const char *name)
{
	const struct setting *setting = svc_settings_find(settings, name);
	return setting != NULL ? setting->is.source : SVC_SOURCE_CODE;
}

/* Flags */

/* What the arguments say, before anything of it is carried out. */
struct flag {
	struct setting *setting;
	const char *value;
};
struct flags {
	struct flag *list;
	size_t count;
};

static bool
is_flag(const char *arg)
{
	/* "-" is a name for standard input, "-5" a number. */
	return arg[0] == '-' && arg[1] != '\0' &&
	       !(arg[1] >= '0' && arg[1] <= '9');
}

static svc_err
unknown_flag(const struct svc_settings *settings, const char *arg,
    const char *name, struct svc_error *err)
{
	char quoted[80], near[MAX_NAME + 1], hint[MAX_NAME + 32] = "";
	svc_log_quote(arg, strcspn(arg, "="), quoted, sizeof(quoted));
	if (svc_settings_nearest(settings, name, near, sizeof(near)))
		snprintf(hint, sizeof(hint), ", did you mean --%s?", near);
	else if (svc_settings_find(settings, "help") != NULL)
		snprintf(hint, sizeof(hint), "; --help lists all");
	return svc_error_set(
	    err, SVC_E_INVAL, "unknown flag %s%s", quoted, hint);
}

static bool
is_truth(const char *word)
{
	return strcmp(word, "true") == 0 || strcmp(word, "false") == 0;
}

/* Reads the flag argv[*at], and moves *at to its last word. */
static svc_err
read_flag(struct svc_settings *settings, int argc, char *argv[], int *at,
    struct flags *flags, struct svc_error *err)
{
	const char *arg = argv[*at];
	char name[MAX_NAME + 2];
	const char *text = arg + (arg[1] == '-' ? 2 : 1);
	size_t len = strcspn(text, "=");
	snprintf(name, sizeof(name), "%.*s",
	    (int)(len < sizeof(name) ? len : sizeof(name)), text);
	if (strcmp(arg, "-h") == 0)
		snprintf(name, sizeof(name), "help");
	else if (arg[1] != '-')
		return unknown_flag(settings, arg, name, err);
	struct setting *setting = svc_settings_find(settings, name);
	if (setting == NULL)
		return unknown_flag(settings, arg, name, err);

	const char *next = *at + 1 < argc ? argv[*at + 1] : NULL;
	const char *value;
	if (text[len] == '=') {
		value = text + len + 1;
	} else if (setting->is.kind == SVC_SETTING_BOOL) {
		value = "true";
		if (next != NULL && is_truth(next)) {
			value = next;
			++*at;
		}
	} else if (next == NULL || strncmp(next, "--", 2) == 0) {
		return svc_error_set(err, SVC_E_INVAL,
		    "--%s needs a value: --%s=%s", name, name,
		    setting->is.value != NULL ? setting->is.value : "VALUE");
	} else {
		value = next;
		++*at;
	}
	flags->list[flags->count++] = (struct flag){setting, value};
	return SVC_OK;
}

/* Splits the arguments into flags and words; words go to the front of argv. */
static svc_err
read_arguments(struct svc_settings *settings, int argc, char *argv[],
    int *ret_argc, struct flags *flags, struct svc_error *err)
{
	if (argc <= 1) {
		if (ret_argc != NULL)
			*ret_argc = argc;
		return SVC_OK;
	}
	size_t count = (size_t)argc;
	flags->list = svc_mem_calloc(count, sizeof(*flags->list));
	char **words = svc_mem_calloc(count, sizeof(*words));
	svc_err failed = SVC_OK;
	if (flags->list == NULL || words == NULL) {
		failed = out_of_memory(err);
		goto out;
	}
	int kept = 1;
	bool only_words = false;
	for (int i = 1; i < argc; i++) {
		if (!only_words && strcmp(argv[i], "--") == 0) {
			only_words = true;
		} else if (!only_words && is_flag(argv[i])) {
			failed =
			    read_flag(settings, argc, argv, &i, flags, err);
			if (failed != SVC_OK)
				goto out;
		} else if (ret_argc != NULL) {
			words[kept++] = argv[i];
		} else {
			char quoted[80];
			failed = svc_error_set(err, SVC_E_INVAL,
			    "unexpected argument %s; flags begin with --",
			    svc_log_quote(argv[i], strlen(argv[i]), quoted,
				sizeof(quoted)));
			goto out;
		}
	}
	if (ret_argc != NULL) {
		for (int i = 1; i < kept; i++)
			argv[i] = words[i];
		if (kept < argc)
			argv[kept] = NULL;
		*ret_argc = kept;
	}
out:
	svc_mem_free(words);
	return failed;
}

/* Carries out the flags of `only`, or of all settings. */
static svc_err
apply_flags(struct svc_settings *settings, const struct flags *flags,
    const struct setting *only, struct svc_error *err)
{
	for (size_t i = 0; i < flags->count; i++) {
		struct flag *flag = &flags->list[i];
		if (only != NULL && flag->setting != only)
			continue;
		struct svc_error why;
		svc_err failed = svc_settings_assign(settings, flag->setting,
		    flag->value, SVC_SOURCE_FLAG, &why);
		if (failed == SVC_OK)
			continue;
		char where[MAX_NAME + 8];
		snprintf(where, sizeof(where), "--%s", flag->setting->is.name);
		return svc_error_set(err, failed, "%s: %s", where, why.text);
	}
	return SVC_OK;
}

/* The environment */

#define MAX_VARIABLE (MAX_NAME + 8)

/* The value of the first variable of the setting that is set and not empty;
 * its name in `variable`. */
static const char *
read_variable(const struct setting *setting, char variable[MAX_VARIABLE])
{
	static const char *const prefixes[] = {"SVC_", "MICRO_"};
	for (int i = 0; i < 2; i++) {
		const char *own, *at = NULL;
		size_t len;
		while ((own = next_name(setting, &at, &len)) != NULL) {
			snprintf(variable, MAX_VARIABLE, "%s%.*s", prefixes[i],
			    (int)len, own);
			for (char *c = variable; *c != '\0'; c++)
				*c = svc_text_upper(plain(*c));
			const char *value = getenv(variable);
			if (value != NULL && value[0] != '\0')
				return value;
		}
	}
	return NULL;
}

bool
svc_settings_place(const struct svc_settings *settings, const char *name,
    char *ret_place, size_t size)
{
	const struct setting *setting = svc_settings_find(settings, name);
	const struct setting *config = svc_settings_find(settings, "config");
	char variable[MAX_VARIABLE];
	struct svc_buf path;
	switch (svc_settings_source(settings, name)) {
	case SVC_SOURCE_FLAG:
		snprintf(ret_place, size, "--%s", setting->is.name);
		return true;
	case SVC_SOURCE_ENVIRONMENT:
		read_variable(setting, variable);
		snprintf(ret_place, size, "%s", variable);
		return true;
	case SVC_SOURCE_FILE:
		svc_buf_init(&path, MAX_FILE);
		svc_settings_show(config, &path);
		snprintf(ret_place, size, "%s line %zu: %s",
		    path.failed == SVC_OK ? (const char *)path.data
					  : "the config file",
		    setting->line, setting->is.name);
		svc_buf_fini(&path);
		return true;
	case SVC_SOURCE_CODE:
		break;
	}
	return false;
}

/* Pairs are the one kind of which a variable can hold several. */
static svc_err
assign_pairs(struct svc_settings *settings, struct setting *setting,
    const char *list, struct svc_error *why)
{
	svc_err failed = SVC_OK;
	while (failed == SVC_OK && *list != '\0') {
		size_t len = strcspn(list, ",");
		char *pair = svc_mem_alloc(len + 1);
		if (pair == NULL)
			return svc_error_set(why, SVC_E_NOMEM, "out of memory");
		memcpy(pair, list, len);
		pair[len] = '\0';
		if (len > 0)
			failed = svc_settings_assign(settings, setting, pair,
			    SVC_SOURCE_ENVIRONMENT, why);
		svc_mem_free(pair);
		list += len + (list[len] == ',');
	}
	return failed;
}

static svc_err
apply_variable(struct svc_settings *settings, struct setting *setting,
    struct svc_error *err)
{
	char variable[MAX_VARIABLE];
	const char *value = read_variable(setting, variable);
	if (value == NULL)
		return SVC_OK;
	struct svc_error why;
	svc_err failed = setting->is.kind == SVC_SETTING_PAIRS
			     ? assign_pairs(settings, setting, value, &why)
			     : svc_settings_assign(settings, setting, value,
				   SVC_SOURCE_ENVIRONMENT, &why);
	if (failed == SVC_OK)
		return SVC_OK;
	return svc_error_set(err, failed, "%s: %s", variable, why.text);
}

/* The config file */

static svc_err
apply_file(
    struct svc_settings *settings, const char *path, struct svc_error *err)
{
	struct svc_buf text;
	svc_err failed = SVC_OK;
	svc_buf_init(&text, MAX_FILE);
	FILE *file = fopen(path, "rbe");
	if (file == NULL)
		return svc_error_sys(
		    err, SVC_OK, errno, "cannot open the config file %s", path);
	char part[4096];
	size_t size;
	while (
	    failed == SVC_OK && (size = fread(part, 1, sizeof(part), file)) > 0)
		failed = svc_buf_append(&text, part, size);
	if (failed == SVC_E_EXHAUSTED)
		svc_error_set(err, failed = SVC_E_INVAL,
		    "the config file %s has more than %d bytes", path,
		    MAX_FILE);
	else if (failed != SVC_OK)
		out_of_memory(err);
	else if (ferror(file))
		failed = svc_error_sys(
		    err, SVC_OK, errno, "cannot read the config file %s", path);
	fclose(file);
	if (failed == SVC_OK)
		failed =
		    svc_settings_read(settings, path, text.data, text.len, err);
	svc_buf_fini(&text);
	return failed;
}

static svc_err
apply_config(struct svc_settings *settings, const struct flags *flags,
    struct svc_error *err)
{
	for (size_t i = 0; i < settings->count; i++)
		settings->list[i].line = 0;
	struct setting *config = svc_settings_find(settings, "config");
	if (config == NULL)
		return SVC_OK;
	/* Its own name cannot come from the file. */
	svc_err failed = apply_variable(settings, config, err);
	if (failed == SVC_OK)
		failed = apply_flags(settings, flags, config, err);
	if (failed != SVC_OK)
		return failed;
	struct svc_buf path;
	svc_buf_init(&path, MAX_FILE);
	svc_settings_show(config, &path);
	if (path.failed != SVC_OK)
		failed = out_of_memory(err);
	else if (path.len > 0)
		failed = apply_file(settings, (const char *)path.data, err);
	svc_buf_fini(&path);
	return failed;
}

svc_err
svc_settings_load(struct svc_settings *settings, int argc, char *argv[],
    int *ret_argc, struct svc_error *err)
{
	struct flags flags = {0};
	svc_err failed =
	    read_arguments(settings, argc, argv, ret_argc, &flags, err);
	if (failed == SVC_OK)
		failed = apply_config(settings, &flags, err);
	for (size_t i = 0; failed == SVC_OK && i < settings->count; i++)
		failed = apply_variable(settings, &settings->list[i], err);
	if (failed == SVC_OK)
		failed = apply_flags(settings, &flags, NULL, err);
	svc_mem_free(flags.list);
	return failed;
}
