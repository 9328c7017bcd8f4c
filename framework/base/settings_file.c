/* SPDX-License-Identifier: Apache-2.0 */
/* The config file: YAML, and so JSON. A map inside a map is a prefix. */
#include "settings_private.h"

#include <svc/log.h>

#include <stdio.h>
#include <string.h>
#include <yaml.h>

#define MAX_DEPTH 8
#define MAX_KEY 256
#define MAX_LIST (64 * 1024)

struct reader {
	struct svc_settings *settings;
	const char *file;
	struct svc_error *err;
	yaml_parser_t parser;
	yaml_event_t event; /* the one that is being looked at */
	struct svc_buf key; /* of the present place: "registry_ttl" */
	int depth;
};

static size_t
line_of(const struct reader *reader)
{
	return reader->event.start_mark.line + 1;
}

static svc_err
refuse_at(struct reader *reader, size_t line, svc_err code, const char *why)
{
	return svc_error_set(
	    reader->err, code, "%s line %zu: %s", reader->file, line, why);
}

static svc_err
refuse(struct reader *reader, const char *why)
{
	return refuse_at(reader, line_of(reader), SVC_E_INVAL, why);
}

static svc_err
out_of_memory(struct reader *reader)
{
	return refuse_at(reader, line_of(reader), SVC_E_NOMEM, "out of memory");
}

static svc_err
next(struct reader *reader)
{
	yaml_parser_t *parser = &reader->parser;
	yaml_event_delete(&reader->event);
	if (yaml_parser_parse(parser, &reader->event) == 0) {
		memset(&reader->event, 0, sizeof(reader->event));
		size_t line = parser->problem_mark.line + 1;
		if (parser->error == YAML_MEMORY_ERROR)
			return refuse_at(
			    reader, line, SVC_E_NOMEM, "out of memory");
		return refuse_at(reader, line, SVC_E_INVAL,
		    parser->problem != NULL ? parser->problem : "no YAML");
	}
	if (reader->event.type == YAML_ALIAS_EVENT)
		return refuse(reader, "aliases (*name) are not supported");
	if (reader->event.type == YAML_SCALAR_EVENT &&
	    memchr(reader->event.data.scalar.value, 0,
		reader->event.data.scalar.length) != NULL)
		return refuse(reader, "a text holds a zero byte");
	return SVC_OK;
}

static const char *
scalar(const struct reader *reader)
{
	return (const char *)reader->event.data.scalar.value;
}

/* "key:" with nothing behind it, "~" and "null" set nothing. */
static bool
is_null(const struct reader *reader)
{
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
	if (reader->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	for (size_t i = 0; i < sizeof(nulls) / sizeof(nulls[0]); i++)
		if (strcmp(scalar(reader), nulls[i]) == 0)
			return true;
	return false;
}

static svc_err
unknown_key(struct reader *reader)
{
	char quoted[80], near[80], why[240];
	const char *key = (const char *)reader->key.data;
	svc_log_quote(key, reader->key.len, quoted, sizeof(quoted));
	if (svc_settings_nearest(reader->settings, key, near, sizeof(near)))
		snprintf(why, sizeof(why), "unknown key %s, did you mean %s?",
		    quoted, near);
	else
		snprintf(why, sizeof(why), "unknown key %s", quoted);
	return refuse(reader, why);
}

static svc_err
assign(struct reader *reader, struct setting *setting, const char *text)
{
	struct svc_error why;
	svc_err failed = svc_settings_assign(
	    reader->settings, setting, text, SVC_SOURCE_FILE, &why);
	if (failed == SVC_OK)
		return SVC_OK;
	char line[sizeof(why.text) + 80];
	snprintf(line, sizeof(line), "%s: %s", setting->is.name, why.text);
	return refuse_at(reader, line_of(reader), failed, line);
}

/* Each setting once, under whatever name. */
static svc_err
claim(struct reader *reader, struct setting *setting)
{
	if (setting->line != 0) {
		char why[160];
		snprintf(why, sizeof(why), "%s is set again, first in line %zu",
		    setting->is.name, setting->line);
		return refuse(reader, why);
	}
	/* Nobody would read it. */
	if (strcmp(setting->is.name, "config") == 0)
		return refuse(
		    reader, "config: a config file cannot name another");
	setting->line = line_of(reader);
	return SVC_OK;
}

/* Texts in a list are joined by commas, as a flag would have them. */
static svc_err
read_list(struct reader *reader, struct setting *setting)
{
	bool pairs = setting->is.kind == SVC_SETTING_PAIRS;
	if (!pairs && setting->is.kind != SVC_SETTING_TEXT &&
	    setting->is.kind != SVC_SETTING_APP_TEXT) {
		char why[120];
		snprintf(why, sizeof(why), "%s takes one value, not a list",
		    setting->is.name);
		return refuse(reader, why);
	}
	struct svc_buf joined;
	svc_buf_init(&joined, MAX_LIST);
	svc_buf_puts(&joined, "");
	svc_err failed;
	bool first = true;
	while ((failed = next(reader)) == SVC_OK &&
	       reader->event.type == YAML_SCALAR_EVENT) {
		if (pairs) {
			failed = assign(reader, setting, scalar(reader));
			if (failed != SVC_OK)
				break;
			continue;
		}
		svc_buf_puts(&joined, first ? "" : ",");
		svc_buf_puts(&joined, scalar(reader));
		first = false;
	}
	if (failed == SVC_OK && reader->event.type != YAML_SEQUENCE_END_EVENT)
		failed = refuse(reader, "a list holds something but texts");
	else if (failed == SVC_OK && joined.failed == SVC_E_EXHAUSTED)
		failed = refuse(reader, "a list has more than 64k of text");
	else if (failed == SVC_OK && joined.failed != SVC_OK)
		failed = out_of_memory(reader);
	else if (failed == SVC_OK && !pairs)
		failed = assign(reader, setting, (const char *)joined.data);
	svc_buf_fini(&joined);
	return failed;
}

static svc_err
read_pairs(struct reader *reader, struct setting *setting)
{
	svc_err failed;
	struct svc_buf pair;
	svc_buf_init(&pair, 2 * MAX_LIST);
	while ((failed = next(reader)) == SVC_OK &&
	       reader->event.type == YAML_SCALAR_EVENT) {
		svc_buf_clear(&pair);
		svc_buf_puts(&pair, scalar(reader));
		if (strchr(scalar(reader), '=') != NULL) {
			failed = refuse(reader, "a key holds a =");
			break;
		}
		failed = next(reader);
		if (failed != SVC_OK)
			break;
		if (reader->event.type != YAML_SCALAR_EVENT) {
			failed = refuse(reader, "the value of a pair must be "
						"a text");
			break;
		}
		svc_buf_putc(&pair, '=');
		svc_buf_puts(&pair, scalar(reader));
		if (pair.failed == SVC_E_EXHAUSTED)
			failed = refuse(reader, "a pair has more than 64k");
		else if (pair.failed != SVC_OK)
			failed = out_of_memory(reader);
		else
			failed =
			    assign(reader, setting, (const char *)pair.data);
		if (failed != SVC_OK)
			break;
	}
	if (failed == SVC_OK && reader->event.type != YAML_MAPPING_END_EVENT)
		failed = refuse(reader, "a key must be a text");
	svc_buf_fini(&pair);
	return failed;
}

static svc_err read_value(struct reader *reader);

/* Reads the members of a map, up to its end. Their names are put behind the
 * key that the reader is at. */
static svc_err
read_map(struct reader *reader)
{
	size_t prefix = reader->key.len;
	if (++reader->depth > MAX_DEPTH)
		return refuse(reader, "maps are nested more than 8 deep");
	for (;;) {
		svc_err failed = next(reader);
		if (failed != SVC_OK)
			return failed;
		if (reader->event.type == YAML_MAPPING_END_EVENT)
			break;
		if (reader->event.type != YAML_SCALAR_EVENT)
			return refuse(reader, "a key must be a text");
		if (prefix > 0)
			svc_buf_putc(&reader->key, '_');
		svc_buf_puts(&reader->key, scalar(reader));
		if (reader->key.failed == SVC_E_EXHAUSTED)
			return refuse(reader, "a key is longer than 256 bytes");
		if (reader->key.failed != SVC_OK)
			return out_of_memory(reader);
		failed = read_value(reader);
		if (failed != SVC_OK)
			return failed;
		reader->key.len = prefix;
		reader->key.data[prefix] = '\0';
	}
	reader->depth--;
	return SVC_OK;
}

static svc_err
read_value(struct reader *reader)
{
	struct setting *setting =
	    svc_settings_find(reader->settings, (const char *)reader->key.data);
	/* The line of the key counts, should there be no such setting. */
	if (setting == NULL) {
		yaml_event_t key = reader->event;
		memset(&reader->event, 0, sizeof(reader->event));
		svc_err failed = next(reader);
		bool map = reader->event.type == YAML_MAPPING_START_EVENT;
		if (failed == SVC_OK && !map) {
			yaml_event_delete(&reader->event);
			reader->event = key;
			return unknown_key(reader);
		}
		yaml_event_delete(&key);
		return failed == SVC_OK ? read_map(reader) : failed;
	}

	svc_err failed = next(reader);
	if (failed != SVC_OK)
		return failed;
	bool pairs = setting->is.kind == SVC_SETTING_PAIRS;
	switch (reader->event.type) {
	case YAML_SCALAR_EVENT:
		if (is_null(reader))
			return SVC_OK;
		failed = claim(reader, setting);
		if (failed == SVC_OK)
			failed = assign(reader, setting, scalar(reader));
		return failed;
	case YAML_SEQUENCE_START_EVENT:
		failed = claim(reader, setting);
		return failed == SVC_OK ? read_list(reader, setting) : failed;
	case YAML_MAPPING_START_EVENT:
		if (!pairs)
			return read_map(reader);
		failed = claim(reader, setting);
		return failed == SVC_OK ? read_pairs(reader, setting) : failed;
	default:
		return refuse(reader, "a value is missing");
	}
}

static svc_err
read_document(struct reader *reader)
{
	svc_err failed = next(reader); /* the start of the stream */
	if (failed == SVC_OK)
		failed = next(reader);
	if (failed != SVC_OK || reader->event.type == YAML_STREAM_END_EVENT)
		return failed;
	failed = next(reader);
	if (failed != SVC_OK)
		return failed;
	if (reader->event.type == YAML_MAPPING_START_EVENT)
		failed = read_map(reader);
	else if (reader->event.type != YAML_SCALAR_EVENT || !is_null(reader))
		failed = refuse(reader, "the file must be a map of settings");
	if (failed == SVC_OK)
		failed = next(reader); /* the end of the document */
	if (failed == SVC_OK)
		failed = next(reader);
	if (failed == SVC_OK && reader->event.type != YAML_STREAM_END_EVENT)
		failed = refuse(reader, "there is a second document");
	return failed;
}

svc_err
svc_settings_read(struct svc_settings *settings, const char *name,
    const void *data, size_t len, struct svc_error *err)
{
	struct reader reader = {.settings = settings, .file = name, .err = err};
	if (yaml_parser_initialize(&reader.parser) == 0)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	svc_buf_init(&reader.key, MAX_KEY);
	const void *text = len > 0 ? data : "";
	yaml_parser_set_input_string(&reader.parser, text, len);
	svc_err failed = read_document(&reader);
	yaml_event_delete(&reader.event);
	yaml_parser_delete(&reader.parser);
	svc_buf_fini(&reader.key);
	return failed;
}
