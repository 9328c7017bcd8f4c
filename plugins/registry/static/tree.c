/* SPDX-License-Identifier: Apache-2.0 */
#include "tree.h"

#include <svc/log.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct reader {
	const char *file;
	struct svc_error *err;
	yaml_parser_t parser;
	yaml_event_t event; /* the one that is being looked at */
	struct item *all;
	size_t n_items;
};

static svc_err
refuse(struct reader *reader, size_t line, const char *why)
{
	return svc_error_set(reader->err, SVC_E_INVAL, "%s line %zu: %s",
	    reader->file, line, why);
}

static svc_err
no_memory(struct reader *reader)
{
	return svc_error_set(
	    reader->err, SVC_E_NOMEM, "no memory to read %s", reader->file);
}

static size_t
line_of(const struct reader *reader)
{
	return reader->event.start_mark.line + 1;
}

static svc_err
next(struct reader *reader)
{
	yaml_parser_t *parser = &reader->parser;
	yaml_event_delete(&reader->event);
	if (yaml_parser_parse(parser, &reader->event) == 0) {
		memset(&reader->event, 0, sizeof(reader->event));
		if (parser->error == YAML_MEMORY_ERROR)
			return no_memory(reader);
		return refuse(reader, parser->problem_mark.line + 1,
		    parser->problem != NULL ? parser->problem : "no YAML");
	}
	if (reader->event.type == YAML_ALIAS_EVENT)
		return refuse(reader, line_of(reader),
		    "aliases (*name) are not supported");
	if (reader->event.type == YAML_SCALAR_EVENT &&
	    memchr(reader->event.data.scalar.value, 0,
		reader->event.data.scalar.length) != NULL)
		return refuse(
		    reader, line_of(reader), "a text holds a zero byte");
	return SVC_OK;
}

static bool
is_null(const yaml_event_t *event)
{
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
	if (event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	for (size_t i = 0; i < sizeof(nulls) / sizeof(nulls[0]); i++)
		if (strcmp((char *)event->data.scalar.value, nulls[i]) == 0)
			return true;
	return false;
}

/* The item and its two texts lie in one block. */
static struct item *
add(struct reader *reader, const char *key, const char *text)
{
	size_t key_size = key != NULL ? strlen(key) + 1 : 0;
	size_t text_size = text != NULL ? strlen(text) + 1 : 0;
	struct item *item =
	    svc_mem_calloc(1, sizeof(*item) + key_size + text_size);
	if (item == NULL)
		return NULL;
	char *at = (char *)(item + 1);
	if (key != NULL)
		item->key = memcpy(at, key, key_size);
	if (text != NULL)
		item->text = memcpy(at + key_size, text, text_size);
	item->line = line_of(reader);
	item->all = reader->all;
	reader->all = item;
	return item;
}

static int
key_compare(const void *a, const void *b)
{
	const struct item *const *x = a, *const *y = b;
	int order = strcmp((*x)->key, (*y)->key);
	if (order != 0)
		return order;
	return ((*x)->line > (*y)->line) - ((*x)->line < (*y)->line);
}

static svc_err
keys_once(struct reader *reader, const struct item *map, size_t count)
{
	char quoted[80], why[160];
	const struct item **sorted;
	svc_err rc = SVC_OK;
	size_t n = 0;
	if (count < 2)
		return SVC_OK;
	sorted = svc_mem_calloc(count, sizeof(*sorted));
	if (sorted == NULL)
		return no_memory(reader);
	for (const struct item *i = map->items; i != NULL; i = i->next)
		sorted[n++] = i;
	qsort(sorted, n, sizeof(*sorted), key_compare);
	for (size_t i = 1; i < n && rc == SVC_OK; i++) {
		const struct item *one = sorted[i - 1], *two = sorted[i];
		if (strcmp(one->key, two->key) != 0)
			continue;
		svc_log_quote(
		    two->key, strlen(two->key), quoted, sizeof(quoted));
		snprintf(why, sizeof(why),
		    "%s is there again, first in line "
		    "%zu",
		    quoted, one->line);
		rc = refuse(reader, two->line, why);
	}
	svc_mem_free(sorted);
	return rc;
}

/* Reads what the present event begins. `key` is borrowed. */
static svc_err
read_item(
    struct reader *reader, const char *key, int depth, struct item **ret_item)
{
	const yaml_event_t *event = &reader->event;
	bool map = event->type == YAML_MAPPING_START_EVENT;
	struct item *item, **end;
	size_t count = 0;
	if (++reader->n_items > ITEMS_MAX)
		return refuse(reader, line_of(reader),
		    "there are more than 1,000,000 "
		    "texts, lists and maps");
	if (depth > DEPTH_MAX)
		return refuse(
		    reader, line_of(reader), "it is nested more than 16 deep");
	if (event->type == YAML_SCALAR_EVENT) {
		bool null = is_null(event);
		item = add(reader, key,
		    null ? NULL : (char *)event->data.scalar.value);
		if (item == NULL)
			return no_memory(reader);
		item->kind = null ? ITEM_NULL : ITEM_TEXT;
		*ret_item = item;
		return SVC_OK;
	}
	if (!map && event->type != YAML_SEQUENCE_START_EVENT)
		return refuse(reader, line_of(reader), "a value is missing");
	item = add(reader, key, NULL);
	if (item == NULL)
		return no_memory(reader);
	item->kind = map ? ITEM_MAP : ITEM_LIST;
	end = &item->items;
	for (;;) {
		svc_err rc = next(reader);
		if (rc != SVC_OK)
			return rc;
		if (event->type == YAML_MAPPING_END_EVENT ||
		    event->type == YAML_SEQUENCE_END_EVENT)
			break;
		char *name = NULL;
		size_t line = line_of(reader);
		if (map) {
			if (event->type != YAML_SCALAR_EVENT)
				return refuse(reader, line_of(reader),
				    "a key must be a text");
			name = svc_mem_strdup((char *)event->data.scalar.value);
			if (name == NULL)
				return no_memory(reader);
			rc = next(reader);
		}
		if (rc == SVC_OK)
			rc = read_item(reader, name, depth + 1, end);
		svc_mem_free(name);
		if (rc != SVC_OK)
			return rc;
		(*end)->line = line; /* that of its key */
		end = &(*end)->next;
		count++;
	}
	*ret_item = item;
	return map ? keys_once(reader, item, count) : SVC_OK;
}

static svc_err
read_document(struct reader *reader, struct item **ret_root)
{
	struct item *root = NULL;
	svc_err rc = next(reader); /* the start of the stream */
	if (rc == SVC_OK)
		rc = next(reader);
	if (rc == SVC_OK && reader->event.type == YAML_STREAM_END_EVENT) {
		*ret_root = NULL;
		return SVC_OK;
	}
	if (rc == SVC_OK)
		rc = next(reader);
	if (rc == SVC_OK)
		rc = read_item(reader, NULL, 1, &root);
	if (rc == SVC_OK)
		rc = next(reader); /* the end of the document */
	if (rc == SVC_OK)
		rc = next(reader);
	if (rc == SVC_OK && reader->event.type != YAML_STREAM_END_EVENT)
		rc = refuse(
		    reader, line_of(reader), "there is a second document");
	if (rc == SVC_OK)
		*ret_root = root;
	return rc;
}

static void
free_all(struct item *all)
{
	while (all != NULL) {
		struct item *before = all->all;
		svc_mem_free(all);
		all = before;
	}
}

svc_err
tree_read(const char *file, const void *data, size_t len,
    struct item **ret_root, struct svc_error *err)
{
	struct reader reader = {.file = file, .err = err};
	struct item *root = NULL;
	if (len > FILE_MAX)
		return svc_error_set(err, SVC_E_INVAL,
		    "%s has %zu bytes: at most %d are allowed", file, len,
		    FILE_MAX);
	if (yaml_parser_initialize(&reader.parser) == 0)
		return no_memory(&reader);
	yaml_parser_set_input_string(
	    &reader.parser, len > 0 ? data : (const void *)"", len);
	svc_err rc = read_document(&reader, &root);
	yaml_event_delete(&reader.event);
	yaml_parser_delete(&reader.parser);
	if (rc == SVC_OK && root != NULL) {
		/* The root was added first, so it is the last of the chain;
		 * it keeps the chain's head from now on. */
		root->next = reader.all;
		*ret_root = root;
	} else {
		free_all(reader.all);
		if (rc == SVC_OK)
			*ret_root = NULL;
	}
	return rc;
}

void
tree_free(struct item *root)
{
	if (root != NULL)
		free_all(root->next);
}

const struct item *
tree_find(const struct item *map, const char *key)
{
	for (const struct item *i = map->items; i != NULL; i = i->next)
		if (strcmp(i->key, key) == 0)
			return i->kind != ITEM_NULL ? i : NULL;
	return NULL;
}
