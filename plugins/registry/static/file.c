/* SPDX-License-Identifier: Apache-2.0 */
/* From the file's tree to records: what is found is checked with its line and
 * written as go-micro's JSON, which the registry room knows how to read. */
#include "file.h"

#include "tree.h"

#include <svc/buf.h>
#include <svc/log.h>

#include <stdio.h>
#include <string.h>

enum { JSON_MAX = 1 << 20, VALUE_DEPTH_MAX = 4 };

static const char a_service[] =
    "a service has name, version, metadata, endpoints and nodes";
static const char a_node[] = "a node has id, address and metadata";
static const char an_endpoint[] =
    "an endpoint has name, request, response and metadata";
static const char a_value[] = "a value has name, type and values";

struct file_reader {
	const char *file;
	struct svc_error *err;
	struct file_nodes *nodes;
	struct svc_headers *pairs; /* to try what a map may hold */
	struct svc_buf head;       /* a record's JSON up to its nodes */
	struct svc_buf json;
};

static svc_err SVC_PRINTF(3, 4) refuse(struct file_reader *reader,
    const struct item *item, const char *format, ...)
{
	char why[200];
	va_list args;
	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	return svc_error_set(reader->err, SVC_E_INVAL, "%s line %zu: %s",
	    reader->file, item->line, why);
}

static svc_err
no_memory(struct file_reader *reader)
{
	return svc_error_set(
	    reader->err, SVC_E_NOMEM, "no memory to read %s", reader->file);
}

static const char *
quote(const char *text, char out[64])
{
	return svc_log_quote(text, strlen(text), out, 64);
}

static void
put_text(struct svc_buf *buf, const char *text)
{
	svc_buf_json_string(buf, text, strlen(text));
}

/* ----------------------------------------------------------- parts of a map */

/* `allowed` are the keys, separated by spaces. */
static svc_err
check_keys(struct file_reader *reader, const struct item *map,
    const char *allowed, const char *what)
{
	char quoted[64], word[80];
	char list[128];
	snprintf(list, sizeof(list), " %s ", allowed);
	for (const struct item *i = map->items; i != NULL; i = i->next) {
		int n = snprintf(word, sizeof(word), " %s ", i->key);
		if (n < 0 || (size_t)n >= sizeof(word) ||
		    strchr(i->key, ' ') != NULL || strstr(list, word) == NULL)
			return refuse(reader, i, "unknown key %s: %s",
			    quote(i->key, quoted), what);
	}
	return SVC_OK;
}

/* The text of a member, or `otherwise`. */
static svc_err
member(struct file_reader *reader, const struct item *map, const char *key,
    const char *otherwise, const char **ret_text)
{
	const struct item *item = tree_find(map, key);
	if (item != NULL && item->kind != ITEM_TEXT)
		return refuse(reader, item, "\"%s\" must be a text", key);
	*ret_text = item != NULL ? item->text : otherwise;
	return SVC_OK;
}

/* The member as an object of strings. */
static svc_err
put_pairs(struct file_reader *reader, struct svc_buf *buf,
    const struct item *map, const char *key)
{
	const struct item *pairs = tree_find(map, key);
	char quoted[64];
	if (pairs != NULL && pairs->kind != ITEM_MAP)
		return refuse(
		    reader, pairs, "\"%s\" must be a map of texts", key);
	svc_buf_putc(buf, '{');
	svc_headers_clear(reader->pairs);
	for (const struct item *i = pairs != NULL ? pairs->items : NULL;
	     i != NULL; i = i->next) {
		if (i->kind != ITEM_TEXT && i->kind != ITEM_NULL)
			return refuse(reader, i,
			    "the value of %s must be a "
			    "text",
			    quote(i->key, quoted));
		const char *value = i->kind == ITEM_TEXT ? i->text : "";
		if (svc_headers_get(reader->pairs, i->key) != NULL)
			return refuse(reader, i,
			    "%s is there already: upper and lower case are the "
			    "same in metadata",
			    quote(i->key, quoted));
		switch (svc_headers_set(reader->pairs, i->key, value)) {
		case SVC_OK:
			break;
		case SVC_E_NOMEM:
			return no_memory(reader);
		case SVC_E_EXHAUSTED:
			return refuse(reader, i,
			    "there are more than 256 pairs of metadata");
		default:
			return refuse(reader, i,
			    "%s is not possible as metadata: a name has 1 to "
			    "255 printable characters without space, ':' and "
			    "'=', a value is one line of at most 64 KiB",
			    quote(i->key, quoted));
		}
		if (i != pairs->items)
			svc_buf_putc(buf, ',');
		put_text(buf, i->key);
		svc_buf_putc(buf, ':');
		put_text(buf, value);
	}
	svc_buf_putc(buf, '}');
	return SVC_OK;
}

/* -------------------------------------------------------------- endpoints */

static svc_err
put_value(struct file_reader *reader, const struct item *value, int depth)
{
	struct svc_buf *buf = &reader->head;
	const char *name = "", *type = "";
	if (value->kind != ITEM_MAP)
		return refuse(
		    reader, value, "a value must be a map: %s", a_value);
	svc_err rc = check_keys(reader, value, "name type values", a_value);
	if (rc == SVC_OK)
		rc = member(reader, value, "name", "", &name);
	if (rc == SVC_OK)
		rc = member(reader, value, "type", "", &type);
	if (rc != SVC_OK)
		return rc;
	svc_buf_puts(buf, "{\"name\":");
	put_text(buf, name);
	svc_buf_puts(buf, ",\"type\":");
	put_text(buf, type);
	svc_buf_puts(buf, ",\"values\":[");
	const struct item *values = tree_find(value, "values");
	if (values != NULL && values->kind != ITEM_LIST)
		return refuse(reader, values, "\"values\" must be a list");
	if (values != NULL && values->items != NULL && depth == VALUE_DEPTH_MAX)
		return refuse(reader, values,
		    "values are nested more than %d deep", VALUE_DEPTH_MAX);
	for (const struct item *i = values != NULL ? values->items : NULL;
	     i != NULL; i = i->next) {
		if (i != values->items)
			svc_buf_putc(buf, ',');
		rc = put_value(reader, i, depth + 1);
		if (rc != SVC_OK)
			return rc;
	}
	svc_buf_puts(buf, "]}");
	return SVC_OK;
}

static svc_err
put_endpoint(struct file_reader *reader, const struct item *endpoint)
{
	static const char *const sides[] = {"request", "response"};
	struct svc_buf *buf = &reader->head;
	const char *name = "";
	if (endpoint->kind != ITEM_MAP)
		return refuse(reader, endpoint, "an endpoint must be a map: %s",
		    an_endpoint);
	svc_err rc = check_keys(
	    reader, endpoint, "name request response metadata", an_endpoint);
	if (rc == SVC_OK)
		rc = member(reader, endpoint, "name", "", &name);
	if (rc != SVC_OK)
		return rc;
	if (name[0] == '\0')
		return refuse(reader, endpoint, "an endpoint needs a name");
	svc_buf_puts(buf, "{\"name\":");
	put_text(buf, name);
	for (size_t i = 0; i < 2; i++) {
		const struct item *side = tree_find(endpoint, sides[i]);
		svc_buf_printf(buf, ",\"%s\":", sides[i]);
		if (side == NULL)
			svc_buf_puts(buf, "null");
		else
			rc = put_value(reader, side, 1);
		if (rc != SVC_OK)
			return rc;
	}
	svc_buf_puts(buf, ",\"metadata\":");
	rc = put_pairs(reader, buf, endpoint, "metadata");
	svc_buf_putc(buf, '}');
	return rc;
}

/* ------------------------------------------------------------------ nodes */

const struct file_node *
file_find(const struct file_nodes *nodes, const struct file_node *like)
{
	struct file_node *found;
	HASH_FIND(hh, nodes->table, like->key, like->hh.keylen, found);
	return found;
}

static svc_err
keep(struct file_reader *reader, const struct item *item,
    struct svc_record *record)
{
	const char *id = record->nodes[0].id;
	size_t name_size = strlen(record->name) + 1, id_len = strlen(id);
	struct file_nodes *nodes = reader->nodes;
	struct file_node *node, *before;
	char quoted[64];
	node = svc_mem_calloc(1, sizeof(*node) + name_size + id_len);
	if (node == NULL)
		return no_memory(reader);
	memcpy(node->key, record->name, name_size);
	memcpy(node->key + name_size, id, id_len);
	node->line = item->line;
	size_t len = name_size + id_len;
	HASH_FIND(hh, nodes->table, node->key, len, before);
	if (before != NULL) {
		svc_mem_free(node);
		return refuse(reader, item,
		    "service %s has node %s already, in line %zu", record->name,
		    quote(id, quoted), before->line);
	}
	if (HASH_COUNT(nodes->table) == NODES_MAX) {
		svc_mem_free(node);
		return refuse(
		    reader, item, "there are more than %d nodes", NODES_MAX);
	}
	HASH_ADD_KEYPTR(hh, nodes->table, node->key, len, node);
	if (node->hh.tbl == NULL) {
		svc_mem_free(node);
		return no_memory(reader);
	}
	node->record = record;
	return SVC_OK;
}

/* Why nobody could dial it, or NULL. With a slash it is of a transport that
 * knows better, as "unix:/run/x". */
static const char *
address_fault(const char *address)
{
	const char *colon = strrchr(address, ':');
	long port = 0;
	if (strchr(address, '/') != NULL)
		return colon != NULL ? NULL : "has no port";
	if (colon == NULL)
		return "has no port";
	for (const char *p = colon + 1; *p != '\0' && port <= 65535; p++)
		port = *p >= '0' && *p <= '9' ? port * 10 + (*p - '0') : 65536;
	if (port < 1 || port > 65535)
		return "has no port from 1 to 65535";
	if (colon == address)
		return "has no host";
	if (memchr(address, ':', (size_t)(colon - address)) != NULL &&
	    (address[0] != '[' || colon[-1] != ']'))
		return "lacks the brackets of an IPv6 address";
	return NULL;
}

/* An id that stays the same as long as the address does. */
static void
put_default_id(struct svc_buf *buf, const char *name, const char *address)
{
	size_t start = buf->len;
	svc_buf_putc(buf, '"');
	svc_buf_puts(buf, name);
	svc_buf_putc(buf, '-');
	svc_buf_puts(buf, address);
	svc_buf_putc(buf, '"');
	if (buf->failed != SVC_OK)
		return;
	for (size_t i = start; i < buf->len; i++)
		if (buf->data[i] == '/')
			buf->data[i] = '-';
}

/* `item` is a text, the address, or a map. */
static svc_err
read_node(struct file_reader *reader, const char *name, const struct item *item)
{
	struct svc_buf *buf = &reader->json;
	const char *id = NULL, *address = NULL;
	struct svc_record *record = NULL;
	struct svc_error why = {0};
	svc_err rc = SVC_OK;
	if (item->kind == ITEM_TEXT) {
		address = item->text;
	} else if (item->kind == ITEM_MAP) {
		rc = check_keys(reader, item, "id address metadata", a_node);
		if (rc == SVC_OK)
			rc = member(reader, item, "id", NULL, &id);
		if (rc == SVC_OK)
			rc = member(reader, item, "address", NULL, &address);
		if (rc != SVC_OK)
			return rc;
	}
	if (address == NULL)
		return refuse(reader, item,
		    "a node needs an address: write \"host:port\" or a map, %s",
		    a_node);
	/* Checked before anything is built of them: any text may stand here. */
	const struct svc_node node = {
	    .id = id != NULL ? id : "x", .address = address};
	const struct svc_record bare = {
	    .name = name, .version = "x", .nodes = &node, .n_nodes = 1};
	if (svc_record_check(&bare, &why) != SVC_OK)
		return refuse(reader, item, "%s", why.text);
	const char *fault = address_fault(address);
	if (fault != NULL) {
		char quoted[64];
		return refuse(reader, item,
		    "address %s %s: write \"host:port\"",
		    quote(address, quoted), fault);
	}
	svc_buf_clear(buf);
	svc_buf_append(buf, reader->head.data, reader->head.len);
	svc_buf_puts(buf, "{\"id\":");
	if (id != NULL)
		put_text(buf, id);
	else
		put_default_id(buf, name, address);
	svc_buf_puts(buf, ",\"address\":");
	put_text(buf, address);
	svc_buf_puts(buf, ",\"metadata\":");
	if (item->kind == ITEM_MAP)
		rc = put_pairs(reader, buf, item, "metadata");
	else
		svc_buf_puts(buf, "{}");
	svc_buf_puts(buf, "}]}");
	if (rc != SVC_OK)
		return rc;
	if (buf->failed == SVC_E_EXHAUSTED)
		return refuse(
		    reader, item, "the record of %s has more than 1 MiB", name);
	if (buf->failed != SVC_OK)
		return no_memory(reader);
	rc = svc_record_decode(buf->data, buf->len, &record, &why);
	if (rc == SVC_OK)
		rc = svc_record_check(record, &why);
	if (rc == SVC_OK) {
		rc = keep(reader, item, record);
		if (rc == SVC_OK)
			return SVC_OK;
	} else if (rc == SVC_E_NOMEM) {
		no_memory(reader);
	} else {
		refuse(reader, item, "%s", why.text);
	}
	svc_record_destroy(record);
	return rc;
}

/* ----------------------------------------------------------------- services */

static svc_err
read_nodes(
    struct file_reader *reader, const char *name, const struct item *nodes)
{
	if (nodes == NULL || nodes->kind == ITEM_NULL)
		return SVC_OK;
	if (nodes->kind == ITEM_TEXT)
		return read_node(reader, name, nodes);
	if (nodes->kind != ITEM_LIST)
		return refuse(reader, nodes,
		    "the nodes of a service must be a list of addresses or "
		    "maps");
	for (const struct item *i = nodes->items; i != NULL; i = i->next) {
		svc_err rc = read_node(reader, name, i);
		if (rc != SVC_OK)
			return rc;
	}
	return SVC_OK;
}

/* A record's JSON up to where its nodes begin. What is no map has a name only.
 */
static svc_err
put_head(struct file_reader *reader, const char *name, const struct item *item)
{
	struct svc_buf *buf = &reader->head;
	const struct item *endpoints = NULL, *metadata = NULL;
	const char *version = "latest";
	svc_err rc = SVC_OK;
	if (item->kind == ITEM_MAP) {
		rc = member(reader, item, "version", version, &version);
		endpoints = tree_find(item, "endpoints");
		metadata = tree_find(item, "metadata");
	}
	if (rc == SVC_OK && endpoints != NULL && endpoints->kind != ITEM_LIST)
		rc = refuse(reader, endpoints, "\"endpoints\" must be a list");
	if (rc != SVC_OK)
		return rc;
	svc_buf_clear(buf);
	svc_buf_puts(buf, "{\"name\":");
	put_text(buf, name);
	svc_buf_puts(buf, ",\"version\":");
	put_text(buf, version);
	svc_buf_puts(buf, ",\"metadata\":");
	if (metadata == NULL)
		svc_buf_puts(buf, "null");
	else
		rc = put_pairs(reader, buf, item, "metadata");
	svc_buf_puts(buf, ",\"endpoints\":[");
	for (const struct item *i = endpoints != NULL ? endpoints->items : NULL;
	     rc == SVC_OK && i != NULL; i = i->next) {
		if (i != endpoints->items)
			svc_buf_putc(buf, ',');
		rc = put_endpoint(reader, i);
	}
	svc_buf_puts(buf, "],\"nodes\":[");
	if (rc == SVC_OK && buf->failed == SVC_E_EXHAUSTED)
		rc = refuse(
		    reader, item, "the record of %s has more than 1 MiB", name);
	else if (rc == SVC_OK && buf->failed != SVC_OK)
		rc = no_memory(reader);
	return rc;
}

/* `item` is the service, a map; its name is within it unless it is given. */
static svc_err
read_service(
    struct file_reader *reader, const char *name, const struct item *item)
{
	struct svc_record named = {0};
	struct svc_error why = {0};
	svc_err rc = check_keys(reader, item,
	    name == NULL ? "name version metadata endpoints nodes"
			 : "version metadata endpoints nodes",
	    a_service);
	if (rc == SVC_OK && name == NULL)
		rc = member(reader, item, "name", "", &name);
	if (rc == SVC_OK)
		rc = member(reader, item, "version", "x", &named.version);
	if (rc != SVC_OK)
		return rc;
	named.name = name;
	if (svc_record_check(&named, &why) != SVC_OK)
		return refuse(reader, item, "%s", why.text);
	rc = put_head(reader, name, item);
	if (rc == SVC_OK)
		rc = read_nodes(reader, name, tree_find(item, "nodes"));
	return rc;
}

/* A member of the map of services: NAME: what it has. */
static svc_err
read_named(struct file_reader *reader, const struct item *item)
{
	struct svc_error why = {0};
	if (svc_service_name_check(item->key, &why) != SVC_OK)
		return refuse(reader, item, "%s", why.text);
	if (item->kind == ITEM_MAP)
		return read_service(reader, item->key, item);
	svc_err rc = put_head(reader, item->key, item);
	if (rc == SVC_OK)
		rc = read_nodes(reader, item->key, item);
	return rc;
}

static svc_err
read_root(struct file_reader *reader, const struct item *root)
{
	const struct item first = {.line = 1};
	if (root == NULL || root->kind == ITEM_NULL)
		return refuse(reader, root != NULL ? root : &first,
		    "there is nothing in it: {} would say that there are no "
		    "services");
	if (root->kind == ITEM_TEXT)
		return refuse(reader, root,
		    "it must be a map, as \"NAME: [HOST:PORT, ...]\", or a "
		    "list of services");
	/* One service by itself, as go-micro writes it. */
	if (root->kind == ITEM_MAP && tree_find(root, "name") != NULL &&
	    tree_find(root, "nodes") != NULL)
		return read_service(reader, NULL, root);
	for (const struct item *i = root->items; i != NULL; i = i->next) {
		svc_err rc;
		if (root->kind == ITEM_MAP)
			rc = read_named(reader, i);
		else if (i->kind == ITEM_MAP)
			rc = read_service(reader, NULL, i);
		else
			rc = refuse(reader, i, "a service must be a map: %s",
			    a_service);
		if (rc != SVC_OK)
			return rc;
	}
	return SVC_OK;
}

/* -------------------------------------------------------------------- whole */

void
file_free(struct file_nodes *nodes)
{
	struct file_node *node, *next;
	if (nodes == NULL)
		return;
	HASH_ITER (hh, nodes->table, node, next) {
		HASH_DELETE(hh, nodes->table, node);
		svc_record_destroy(node->record);
		svc_mem_free(node);
	}
	svc_mem_free(nodes);
}

svc_err
file_read(const char *file, const void *data, size_t len,
    struct file_nodes **ret_nodes, struct svc_error *err)
{
	struct file_reader reader = {.file = file, .err = err};
	struct item *root = NULL;
	svc_err rc = tree_read(file, data, len, &root, err);
	if (rc != SVC_OK)
		return rc;
	svc_buf_init(&reader.head, JSON_MAX);
	svc_buf_init(&reader.json, JSON_MAX);
	reader.pairs = svc_headers_create();
	reader.nodes = svc_mem_calloc(1, sizeof(*reader.nodes));
	if (reader.pairs == NULL || reader.nodes == NULL)
		rc = no_memory(&reader);
	else
		rc = read_root(&reader, root);
	if (rc == SVC_OK) {
		reader.nodes->refs = 1;
		*ret_nodes = reader.nodes;
	} else {
		file_free(reader.nodes);
	}
	svc_headers_destroy(reader.pairs);
	svc_buf_fini(&reader.head);
	svc_buf_fini(&reader.json);
	tree_free(root);
	return rc;
}
