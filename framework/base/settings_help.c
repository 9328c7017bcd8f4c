/* SPDX-License-Identifier: Apache-2.0 */
#include "settings_private.h"

#include <stdlib.h>
#include <string.h>

#define WIDTH 80
#define COLUMN 32 /* where the sentences begin */
#define MAX_TEXT (1024 * 1024)

/* Appends `text` word by word, each line beginning at COLUMN. */
static void
wrap(struct svc_buf *out, size_t at, const char *text)
{
	size_t len;
	const char *word;
	bool first = true;
	while ((word = svc_settings_word(&text, &len)) != NULL) {
		if (!first && at + 1 + len > WIDTH) {
			svc_buf_putc(out, '\n');
			at = 0;
			first = true;
		}
		size_t gap = first ? COLUMN - at : 1;
		svc_buf_printf(out, "%*s", (int)gap, "");
		at += gap;
		first = false;
		svc_buf_append(out, word, len);
		at += len;
	}
}

static const char *
placeholder(const struct setting *setting)
{
	if (setting->is.value != NULL)
		return setting->is.value;
	switch (setting->is.kind) {
	case SVC_SETTING_BOOL:
		return NULL;
	case SVC_SETTING_INT:
	case SVC_SETTING_APP_INT:
	case SVC_SETTING_REAL:
		return "NUMBER";
	case SVC_SETTING_DURATION:
		return "TIME";
	case SVC_SETTING_SIZE:
		return "BYTES";
	case SVC_SETTING_PAIRS:
		return "KEY=VALUE";
	case SVC_SETTING_TEXT:
	case SVC_SETTING_APP_TEXT:
		break;
	}
	return "TEXT";
}

/* Begins another remark behind the sentence: " (one; other". */
static void
begin_remark(struct svc_buf *out, int *count)
{
	svc_buf_puts(out, (*count)++ == 0 ? " (" : "; ");
}

static void
put_words(struct svc_buf *out, const char *words, const char *before)
{
	size_t len;
	const char *word, *comma = "";
	while ((word = svc_settings_word(&words, &len)) != NULL) {
		svc_buf_printf(out, "%s%s%.*s", comma, before, (int)len, word);
		comma = ", ";
	}
}

/* A number below what may be given is the program's sign for "none". */
static bool
is_none(const struct setting *setting)
{
	switch (setting->is.kind) {
	case SVC_SETTING_INT:
	case SVC_SETTING_DURATION:
	case SVC_SETTING_SIZE:
		return setting->is.source == SVC_SOURCE_CODE &&
		       setting->is.min > *(const int64_t *)setting->is.target;
	default:
		return false;
	}
}

/* "default: 10s", "10s, from the environment"; nothing for what is empty. */
static void
put_present(struct svc_buf *out, const struct setting *setting, int *count)
{
	static const char *const from[] = {
	    [SVC_SOURCE_FILE] = "from the config file",
	    [SVC_SOURCE_ENVIRONMENT] = "from the environment",
	    [SVC_SOURCE_FLAG] = "from a flag",
	};
	struct svc_buf value;
	svc_buf_init(&value, MAX_TEXT);
	if (!is_none(setting))
		svc_settings_show(setting, &value);
	if (value.failed != SVC_OK)
		out->failed = value.failed;
	if (value.failed == SVC_OK && value.len > 0) {
		begin_remark(out, count);
		if (setting->is.source == SVC_SOURCE_CODE)
			svc_buf_printf(out, "default: %s", value.data);
		else
			svc_buf_printf(out, "%s, %s", value.data,
			    from[setting->is.source]);
	}
	svc_buf_fini(&value);
}

static void
put_setting(struct svc_buf *out, const struct setting *setting)
{
	size_t start = out->len;
	const char *value = placeholder(setting);
	svc_buf_printf(out, "  --%s", setting->is.name);
	if (value != NULL)
		svc_buf_printf(out, "=%s", value);
	if (out->len - start + 2 > COLUMN) {
		svc_buf_putc(out, '\n');
		start = out->len;
	}

	struct svc_buf text;
	int remarks = 0;
	svc_buf_init(&text, MAX_TEXT);
	svc_buf_puts(&text, setting->is.help != NULL ? setting->is.help : "");
	if (setting->is.choices != NULL) {
		begin_remark(&text, &remarks);
		put_words(&text, setting->is.choices, "");
	}
	if (setting->is.aliases != NULL && setting->is.aliases[0] != '\0') {
		begin_remark(&text, &remarks);
		svc_buf_puts(&text, "also ");
		put_words(&text, setting->is.aliases, "--");
	}
	put_present(&text, setting, &remarks);
	svc_buf_puts(&text, remarks > 0 ? ")" : "");
	if (text.failed == SVC_OK)
		wrap(out, out->len - start, (const char *)text.data);
	else
		out->failed = text.failed;
	svc_buf_putc(out, '\n');
	svc_buf_fini(&text);
}

static const char *
group_of(const struct setting *setting)
{
	return setting->is.group != NULL ? setting->is.group : "Flags";
}

char *
svc_settings_help(
    const struct svc_settings *settings, const char *usage, const char *about)
{
	struct svc_buf out;
	svc_buf_init(&out, MAX_TEXT);
	if (usage != NULL)
		svc_buf_printf(&out, "Usage: %s\n", usage);
	else
		svc_buf_printf(&out, "Usage: %s [flags]\n", settings->program);
	if (about != NULL && about[0] != '\0')
		svc_buf_printf(&out, "\n%s\n", about);

	/* Groups in the order of their first setting. */
	for (size_t i = 0; i < settings->count; i++) {
		const char *group = group_of(&settings->list[i]);
		bool seen = false;
		for (size_t j = 0; j < i && !seen; j++)
			seen = strcmp(group, group_of(&settings->list[j])) == 0;
		if (seen)
			continue;
		svc_buf_printf(&out, "\n%s:\n", group);
		for (size_t j = i; j < settings->count; j++)
			if (strcmp(group, group_of(&settings->list[j])) == 0)
				put_setting(&out, &settings->list[j]);
	}
	svc_buf_puts(&out,
	    "\n"
	    "Each flag --some_name is also the environment variable "
	    "SVC_SOME_NAME (or\n"
	    "MICRO_SOME_NAME) and the key some_name of the config file. "
	    "Flags win over the\n"
	    "environment, and that over the file.\n");
	return svc_buf_take(&out, NULL);
}

static int
by_name(const void *a, const void *b)
{
	const struct setting *const *one = a, *const *other = b;
	return strcmp((*one)->is.name, (*other)->is.name);
}

char *
svc_settings_json(const struct svc_settings *settings)
{
	const struct setting **sorted =
	    svc_mem_calloc(settings->count, sizeof(const struct setting *));
	if (sorted == NULL)
		return NULL;
	for (size_t i = 0; i < settings->count; i++)
		sorted[i] = &settings->list[i];
	qsort(sorted, settings->count, sizeof(*sorted), by_name);

	struct svc_buf out;
	svc_buf_init(&out, SIZE_MAX);
	svc_buf_putc(&out, '{');
	for (size_t i = 0; i < settings->count; i++) {
		const char *name = sorted[i]->is.name;
		svc_buf_puts(&out, i > 0 ? "," : "");
		svc_buf_json_string(&out, name, strlen(name));
		svc_buf_putc(&out, ':');
		svc_settings_show_json(sorted[i], &out);
	}
	svc_buf_putc(&out, '}');
	svc_mem_free(sorted);
	return svc_buf_take(&out, NULL);
}
