/* SPDX-License-Identifier: Apache-2.0 */
/*
 * go-micro's JSON of a service. Written in the key order of its releases up to
 * 4.10, maps sorted by name as Go does; read in any order.
 */
#include "record.h"

#include <svc/buf.h>

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
	WRITE_MAX_BYTES = 16 << 20,
	/* Far beyond what a record needs, far below what could hurt. */
	NESTING_MAX = 64,
	MAP_MAX = 256,
};

/* --------------------------------------------------------------- writing */

static void
put_string(struct svc_buf *buf, const char *text)
{
	if (text == NULL)
		text = "";
	svc_buf_json_string(buf, text, strlen(text));
}

struct pair {
	const char *name;
	const char *value;
};

static int
pair_compare(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;
	return strcmp(x->name, y->name);
}

static void
put_map(struct svc_buf *buf, const struct svc_headers *map)
{
	struct pair pairs[MAP_MAX];
	size_t n = 0;
	if (map == NULL) {
		svc_buf_puts(buf, "null");
		return;
	}
	while (n < MAP_MAX &&
	       svc_headers_at(map, n, &pairs[n].name, &pairs[n].value))
		n++;
	qsort(pairs, n, sizeof(pairs[0]), pair_compare);
	svc_buf_putc(buf, '{');
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			svc_buf_putc(buf, ',');
		put_string(buf, pairs[i].name);
		svc_buf_putc(buf, ':');
		put_string(buf, pairs[i].value);
	}
	svc_buf_putc(buf, '}');
}

static void
put_value(struct svc_buf *buf, const struct svc_value *value)
{
	if (value == NULL) {
		svc_buf_puts(buf, "null");
		return;
	}
	svc_buf_puts(buf, "{\"name\":");
	put_string(buf, value->name);
	svc_buf_puts(buf, ",\"type\":");
	put_string(buf, value->type);
	svc_buf_puts(buf, ",\"values\":");
	if (value->n_values == 0)
		svc_buf_puts(buf, "null");
	for (size_t i = 0; i < value->n_values; i++) {
		svc_buf_putc(buf, i == 0 ? '[' : ',');
		put_value(buf, &value->values[i]);
	}
	svc_buf_puts(buf, value->n_values > 0 ? "]}" : "}");
}

static void
put_endpoint(struct svc_buf *buf, const struct svc_endpoint *endpoint)
{
	/* Readers expect a map here, never null. */
	bool none = endpoint->metadata == NULL;
	svc_buf_puts(buf, "{\"name\":");
	put_string(buf, endpoint->name);
	svc_buf_puts(buf, ",\"request\":");
	put_value(buf, endpoint->request);
	svc_buf_puts(buf, ",\"response\":");
	put_value(buf, endpoint->response);
	svc_buf_puts(buf, ",\"metadata\":");
	if (none)
		svc_buf_puts(buf, "{}");
	else
		put_map(buf, endpoint->metadata);
	svc_buf_putc(buf, '}');
}

static void
put_node(struct svc_buf *buf, const struct svc_node *node)
{
	svc_buf_puts(buf, "{\"id\":");
	put_string(buf, node->id);
	svc_buf_puts(buf, ",\"address\":");
	put_string(buf, node->address);
	svc_buf_puts(buf, ",\"metadata\":");
	put_map(buf, node->metadata);
	svc_buf_putc(buf, '}');
}

static char *
finish(struct svc_buf *buf)
{
	char *text = NULL;
	if (buf->failed == SVC_OK)
		text = svc_buf_take(buf, NULL);
	svc_buf_fini(buf);
	return text;
}

char *
svc_record_encode(const struct svc_record *record)
{
	struct svc_buf buf;
	svc_buf_init(&buf, WRITE_MAX_BYTES);
	svc_buf_puts(&buf, "{\"name\":");
	put_string(&buf, record->name);
	svc_buf_puts(&buf, ",\"version\":");
	put_string(&buf, record->version);
	svc_buf_puts(&buf, ",\"metadata\":");
	put_map(&buf, record->metadata);
	svc_buf_puts(&buf, ",\"endpoints\":");
	if (record->n_endpoints == 0)
		svc_buf_puts(&buf, "null");
	for (size_t i = 0; i < record->n_endpoints; i++) {
		svc_buf_putc(&buf, i == 0 ? '[' : ',');
		put_endpoint(&buf, &record->endpoints[i]);
	}
	svc_buf_puts(
	    &buf, record->n_endpoints > 0 ? "],\"nodes\":" : ",\"nodes\":");
	if (record->n_nodes == 0)
		svc_buf_puts(&buf, "null");
	for (size_t i = 0; i < record->n_nodes; i++) {
		svc_buf_putc(&buf, i == 0 ? '[' : ',');
		put_node(&buf, &record->nodes[i]);
	}
	svc_buf_puts(&buf, record->n_nodes > 0 ? "]}" : "}");
	return finish(&buf);
}

char *
svc_endpoint_encode(const struct svc_endpoint *endpoint)
{
	struct svc_buf buf;
	svc_buf_init(&buf, WRITE_MAX_BYTES);
	put_endpoint(&buf, endpoint);
	return finish(&buf);
}

/* ------------------------------------------------- cleaning before reading */

/* Length of the UTF-8 sequence at `p`, 0 when it is none. */
static size_t
utf8_length(const uint8_t *p, size_t left)
{
	if (p[0] < 0x80)
		return 1;
	size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
	if (p[0] < 0xc2 || p[0] > 0xf4 || left < n)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates, beyond U+10FFFF. */
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

/* The number of an escape \uXXXX at `p`, -1 when it is none. */
static long
unicode_escape(const uint8_t *p, size_t left)
{
	if (left < 6 || p[0] != '\\' || p[1] != 'u')
		return -1;
	long code = 0;
	for (size_t i = 2; i < 6; i++) {
		int c = p[i] | 0x20;
		if (p[i] >= '0' && p[i] <= '9')
			code = code * 16 + (p[i] - '0');
		else if (c >= 'a' && c <= 'f')
			code = code * 16 + (c - 'a' + 10);
		else
			return -1;
	}
	return code;
}

/* Copies one escape and gives its length in the source. Halves of surrogate
 * pairs and NUL, which C texts cannot hold, become U+FFFD. */
static size_t
clean_escape(struct svc_buf *clean, const uint8_t *p, size_t left)
{
	long code = unicode_escape(p, left);
	size_t n = code >= 0 ? 6 : left > 1 ? 2 : 1;
	if (code >= 0xd800 && code <= 0xdbff) {
		long low = unicode_escape(p + 6, left - 6);
		if (low >= 0xdc00 && low <= 0xdfff) {
			svc_buf_append(clean, p, 12);
			return 12;
		}
	}
	if (code == 0 || (code >= 0xd800 && code <= 0xdfff))
		svc_buf_puts(clean, "\\ufffd");
	else
		svc_buf_append(clean, p, n);
	return n;
}

/* Makes the text one that the parser takes: whole UTF-8, no NUL, nested no
 * deeper than is good for its stack. */
static svc_err
clean_text(struct svc_buf *clean, const uint8_t *data, size_t len,
    struct svc_error *err)
{
	bool in_string = false;
	size_t depth = 0, done = 0, i = 0;
	while (i < len) {
		uint8_t c = data[i];
		if (in_string && (c == '\\' || c >= 0x80)) {
			svc_buf_append(clean, data + done, i - done);
			size_t n;
			if (c == '\\') {
				n = clean_escape(clean, data + i, len - i);
			} else if ((n = utf8_length(data + i, len - i)) > 0) {
				svc_buf_append(clean, data + i, n);
			} else {
				svc_buf_puts(clean, "\xef\xbf\xbd");
				n = 1;
			}
			i += n;
			done = i;
			continue;
		}
		if (c == '"')
			in_string = !in_string;
		else if (!in_string && (c == '{' || c == '['))
			depth++;
		else if (!in_string && (c == '}' || c == ']') && depth > 0)
			depth--;
		if (depth > NESTING_MAX)
			return svc_error_set(err, SVC_E_INVAL,
			    "the record is nested more than %d deep",
			    NESTING_MAX);
		if (c == '\0')
			return svc_error_set(err, SVC_E_INVAL,
			    "the record is not JSON: NUL at byte %zu", i);
		i++;
	}
	svc_buf_append(clean, data + done, len - done);
	if (clean->failed != SVC_OK)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory to read a record");
	return SVC_OK;
}

/* --------------------------------------------------------------- reading */

/*
 * What is read lies in scratch blocks and points into the parsed JSON, until
 * record_copy_take makes one block of it.
 */
struct scratch {
	struct scratch_block {
		struct scratch_block *next;
		struct svc_headers *map;
	} * blocks;
	struct svc_error *err;
};

static void *
scratch_array(struct scratch *scratch, size_t count, size_t size)
{
	struct scratch_block *block;
	if (count > (SIZE_MAX - sizeof(*block)) / size)
		return NULL;
	block = svc_mem_calloc(1, sizeof(*block) + count * size);
	if (block == NULL)
		return NULL;
	block->next = scratch->blocks;
	scratch->blocks = block;
	return block + 1;
}

static void
scratch_fini(struct scratch *scratch, bool maps_taken)
{
	while (scratch->blocks != NULL) {
		struct scratch_block *block = scratch->blocks;
		scratch->blocks = block->next;
		if (!maps_taken)
			svc_headers_destroy(block->map);
		svc_mem_free(block);
	}
}

static svc_err
no_memory(struct scratch *scratch)
{
	return svc_error_set(
	    scratch->err, SVC_E_NOMEM, "no memory to read a record");
}

/* As Go: case does not matter and the last of several wins. */
static const cJSON *
field(const cJSON *object, const char *name)
{
	const cJSON *found = NULL, *item;
	/* Nearly all are told apart by the first letter. */
	cJSON_ArrayForEach (item, object)
		if (item->string != NULL &&
		    (item->string[0] | 0x20) == name[0] &&
		    strcasecmp(item->string, name) == 0)
			found = item;
	return found != NULL && !cJSON_IsNull(found) ? found : NULL;
}

static svc_err
wrong_type(struct scratch *scratch, const char *what, const char *wanted)
{
	return svc_error_set(scratch->err, SVC_E_INVAL,
	    "\"%s\" in the record must be %s or null", what, wanted);
}

static svc_err
read_text(struct scratch *scratch, const cJSON *object, const char *name,
    const char **ret_text)
{
	const cJSON *item = field(object, name);
	if (item == NULL) {
		*ret_text = "";
		return SVC_OK;
	}
	if (!cJSON_IsString(item))
		return wrong_type(scratch, name, "a string");
	*ret_text = item->valuestring;
	return SVC_OK;
}

static svc_err
read_pairs(struct scratch *scratch, const cJSON *map, const char *name,
    struct svc_headers *into)
{
	const cJSON *item;
	cJSON_ArrayForEach (item, map) {
		const char *value = "";
		if (cJSON_IsString(item))
			value = item->valuestring;
		else if (!cJSON_IsNull(item))
			return wrong_type(
			    scratch, name, "an object of strings");
		/* Pairs that a header map cannot hold are left out: they
		 * should not hide the node. */
		if (svc_headers_set(into, item->string, value) == SVC_E_NOMEM)
			return no_memory(scratch);
	}
	return SVC_OK;
}

static svc_err
read_map(struct scratch *scratch, const cJSON *object, const char *name,
    struct svc_headers **ret_map)
{
	const cJSON *map = field(object, name);
	if (map == NULL)
		return SVC_OK;
	if (!cJSON_IsObject(map))
		return wrong_type(scratch, name, "an object of strings");
	struct scratch_block *block = scratch_array(scratch, 0, 1);
	if (block == NULL)
		return no_memory(scratch);
	block--;
	block->map = svc_headers_create();
	if (block->map == NULL)
		return no_memory(scratch);
	svc_err rc = read_pairs(scratch, map, name, block->map);
	if (rc == SVC_OK)
		*ret_map = block->map;
	return rc;
}

/* The items of a list; 0 of them for null. */
static svc_err
list_size(struct scratch *scratch, const cJSON *object, const char *name,
    size_t max, const cJSON **ret_list, size_t *ret_count)
{
	const cJSON *list = field(object, name), *item;
	size_t count = 0;
	if (list != NULL && !cJSON_IsArray(list))
		return wrong_type(scratch, name, "a list");
	cJSON_ArrayForEach (item, list) {
		if (!cJSON_IsObject(item))
			return wrong_type(scratch, name, "a list of objects");
		count++;
	}
	if (count > max)
		return svc_error_set(scratch->err, SVC_E_INVAL,
		    "the record has %zu %s: at most %zu are allowed", count,
		    name, max);
	*ret_list = list;
	*ret_count = count;
	return SVC_OK;
}

static svc_err
read_value(struct scratch *scratch, const cJSON *object,
    struct svc_value *value, int depth)
{
	const cJSON *list, *item;
	struct svc_value *values;
	size_t count, n = 0;
	svc_err rc = read_text(scratch, object, "name", &value->name);
	if (rc == SVC_OK)
		rc = read_text(scratch, object, "type", &value->type);
	if (rc == SVC_OK)
		rc = list_size(
		    scratch, object, "values", SIZE_MAX, &list, &count);
	/* What lies deeper only describes, so it is dropped. */
	if (rc != SVC_OK || count == 0 || depth == RECORD_MAX_DEPTH)
		return rc;
	values = scratch_array(scratch, count, sizeof(*values));
	if (values == NULL)
		return no_memory(scratch);
	cJSON_ArrayForEach (item, list) {
		rc = read_value(scratch, item, &values[n++], depth + 1);
		if (rc != SVC_OK)
			return rc;
	}
	value->values = values;
	value->n_values = n;
	return SVC_OK;
}

static svc_err
read_value_at(struct scratch *scratch, const cJSON *object, const char *name,
    const struct svc_value **ret_value)
{
	const cJSON *item = field(object, name);
	if (item == NULL)
		return SVC_OK;
	if (!cJSON_IsObject(item))
		return wrong_type(scratch, name, "an object");
	struct svc_value *value = scratch_array(scratch, 1, sizeof(*value));
	if (value == NULL)
		return no_memory(scratch);
	*ret_value = value;
	return read_value(scratch, item, value, 1);
}

static svc_err
read_endpoint(
    struct scratch *scratch, const cJSON *object, struct svc_endpoint *endpoint)
{
	svc_err rc = read_text(scratch, object, "name", &endpoint->name);
	if (rc == SVC_OK)
		rc = read_value_at(
		    scratch, object, "request", &endpoint->request);
	if (rc == SVC_OK)
		rc = read_value_at(
		    scratch, object, "response", &endpoint->response);
	if (rc == SVC_OK)
		rc = read_map(scratch, object, "metadata", &endpoint->metadata);
	return rc;
}

/* Nodes of go-micro before 1.8 have the port apart. */
static svc_err
join_port(struct scratch *scratch, const cJSON *object, const char **address)
{
	const cJSON *port = field(object, "port");
	if (port == NULL || !cJSON_IsNumber(port) || port->valuedouble < 1 ||
	    port->valuedouble > 65535 || **address == '\0')
		return SVC_OK;
	const char *bracket = strrchr(*address, ']');
	const char *first = strchr(*address, ':');
	bool bare_v6 =
	    bracket == NULL && first != NULL && strchr(first + 1, ':') != NULL;
	if (!bare_v6 && strchr(bracket != NULL ? bracket : *address, ':'))
		return SVC_OK;
	struct svc_buf buf;
	svc_buf_init(&buf, RECORD_MAX_BYTES + 64);
	svc_buf_printf(&buf, bare_v6 ? "[%s]:%d" : "%s:%d", *address,
	    (int)port->valuedouble);
	char *joined = NULL;
	if (buf.failed == SVC_OK)
		joined = scratch_array(scratch, buf.len + 1, 1);
	if (joined != NULL) {
		memcpy(joined, buf.data, buf.len + 1);
		*address = joined;
	}
	svc_buf_fini(&buf);
	return joined != NULL ? SVC_OK : no_memory(scratch);
}

static svc_err
read_node(struct scratch *scratch, const cJSON *object, struct svc_node *node)
{
	svc_err rc = read_text(scratch, object, "id", &node->id);
	if (rc == SVC_OK)
		rc = read_text(scratch, object, "address", &node->address);
	if (rc == SVC_OK)
		rc = join_port(scratch, object, &node->address);
	if (rc == SVC_OK)
		rc = read_map(scratch, object, "metadata", &node->metadata);
	return rc;
}

static svc_err
read_record(
    struct scratch *scratch, const cJSON *root, struct svc_record *record)
{
	const cJSON *list, *item;
	size_t count, n = 0;
	svc_err rc = read_text(scratch, root, "name", &record->name);
	if (rc == SVC_OK)
		rc = read_text(scratch, root, "version", &record->version);
	if (rc == SVC_OK)
		rc = read_map(scratch, root, "metadata", &record->metadata);
	if (rc == SVC_OK)
		rc = list_size(scratch, root, "endpoints", RECORD_MAX_ENDPOINTS,
		    &list, &count);
	if (rc != SVC_OK)
		return rc;
	struct svc_endpoint *endpoints =
	    scratch_array(scratch, count, sizeof(*endpoints));
	if (endpoints == NULL)
		return no_memory(scratch);
	cJSON_ArrayForEach (item, list) {
		rc = read_endpoint(scratch, item, &endpoints[n++]);
		if (rc != SVC_OK)
			return rc;
	}
	record->endpoints = endpoints;
	record->n_endpoints = n;

	rc = list_size(scratch, root, "nodes", RECORD_MAX_NODES, &list, &count);
	if (rc != SVC_OK)
		return rc;
	struct svc_node *nodes = scratch_array(scratch, count, sizeof(*nodes));
	if (nodes == NULL)
		return no_memory(scratch);
	n = 0;
	cJSON_ArrayForEach (item, list) {
		rc = read_node(scratch, item, &nodes[n++]);
		if (rc != SVC_OK)
			return rc;
	}
	record->nodes = nodes;
	record->n_nodes = n;
	return SVC_OK;
}

static bool
only_space(const char *p, const char *end)
{
	while (p < end && strchr(" \t\r\n", *p) != NULL)
		p++;
	return p >= end;
}

static svc_err
parse(const void *data, size_t len, cJSON **ret_root, struct svc_error *err)
{
	struct svc_buf clean;
	if (len > RECORD_MAX_BYTES)
		return svc_error_set(err, SVC_E_INVAL,
		    "the record has %zu bytes: at most %d are allowed", len,
		    RECORD_MAX_BYTES);
	/* The worst byte becomes three. */
	svc_buf_init(&clean, 3 * RECORD_MAX_BYTES + 64);
	svc_err rc = clean_text(&clean, data, len, err);
	cJSON *root = NULL;
	if (rc == SVC_OK) {
		const char *text = clean.len > 0 ? (char *)clean.data : "";
		const char *end = NULL;
		root = cJSON_ParseWithLengthOpts(text, clean.len, &end, false);
		if (root == NULL || !cJSON_IsObject(root) ||
		    !only_space(end, text + clean.len))
			rc = svc_error_set(err, SVC_E_INVAL,
			    "the record is not a JSON object (byte %zu)",
			    end != NULL ? (size_t)(end - text) : 0);
	}
	svc_buf_fini(&clean);
	if (rc != SVC_OK) {
		cJSON_Delete(root);
		return rc;
	}
	*ret_root = root;
	return SVC_OK;
}

static svc_err
decode(const void *data, size_t len, bool endpoint,
    struct svc_record **ret_record, struct svc_error *err)
{
	struct scratch scratch = {NULL, err};
	struct svc_record record = {0};
	struct svc_endpoint one = {0};
	cJSON *root = NULL;
	svc_err rc = parse(data, len, &root, err);
	if (rc != SVC_OK)
		return rc;
	if (endpoint) {
		rc = read_endpoint(&scratch, root, &one);
		record.name = "";
		record.version = "";
		record.endpoints = &one;
		record.n_endpoints = 1;
	} else {
		rc = read_record(&scratch, root, &record);
	}
	bool taken = false;
	if (rc == SVC_OK) {
		struct svc_record *copy = record_copy_take(&record);
		if (copy != NULL) {
			*ret_record = copy;
			taken = true;
		} else {
			rc = no_memory(&scratch);
		}
	}
	scratch_fini(&scratch, taken);
	cJSON_Delete(root);
	return rc;
}

svc_err
svc_record_decode(const void *data, size_t len, struct svc_record **ret_record,
    struct svc_error *err)
{
	return decode(data, len, false, ret_record, err);
}

svc_err
svc_endpoint_decode(const void *data, size_t len,
    struct svc_record **ret_record, struct svc_error *err)
{
	return decode(data, len, true, ret_record, err);
}

svc_err
svc_metadata_decode(const void *data, size_t len, struct svc_headers *into,
    struct svc_error *err)
{
	struct scratch scratch = {NULL, err};
	cJSON *root = NULL;
	svc_err rc = parse(data, len, &root, err);
	if (rc == SVC_OK)
		rc = read_pairs(&scratch, root, "metadata", into);
	scratch_fini(&scratch, false);
	cJSON_Delete(root);
	return rc;
}
