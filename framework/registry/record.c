/* SPDX-License-Identifier: Apache-2.0 */
#include "record.h"

#include <svc/log.h>

#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>

/* ---------------------------------------------------------------- copies */

/*
 * A record with its arrays and texts lies in one block; only the header maps,
 * which own their memory, are apart. The record of a node of many shares all
 * else with a record without nodes. place_record runs twice: without a base it
 * adds up the size, with one it fills the block in the same order.
 */
struct kept {
	atomic_size_t refs;
	/* Held: whose texts, metadata and endpoints these are; NULL: its own.
	 */
	struct svc_record *service;
	struct svc_record record;
};

static struct kept *
kept_of(const struct svc_record *record)
{
	return (
	    struct kept *)((uintptr_t)record - offsetof(struct kept, record));
}

struct block {
	char *base;
	size_t used;
};

static void *
place(struct block *block, size_t size, size_t align)
{
	block->used = (block->used + align - 1) / align * align;
	void *at = block->base != NULL ? block->base + block->used : NULL;
	block->used += size;
	return at;
}

static const char *
place_text(struct block *block, const char *text)
{
	if (text == NULL)
		return NULL;
	size_t size = strlen(text) + 1;
	char *at = place(block, size, 1);
	if (at != NULL)
		memcpy(at, text, size);
	return at;
}

static void
place_value(
    struct block *block, struct svc_value *to, const struct svc_value *from)
{
	const char *name = place_text(block, from->name);
	const char *type = place_text(block, from->type);
	struct svc_value *values = NULL;
	if (from->n_values > 0)
		values = place(block, from->n_values * sizeof(*values),
		    alignof(struct svc_value));
	for (size_t i = 0; i < from->n_values; i++)
		place_value(block, values != NULL ? &values[i] : NULL,
		    &from->values[i]);
	if (to == NULL)
		return;
	to->name = name;
	to->type = type;
	to->values = values;
	to->n_values = from->n_values;
}

static const struct svc_value *
place_value_at(struct block *block, const struct svc_value *from)
{
	if (from == NULL)
		return NULL;
	struct svc_value *to =
	    place(block, sizeof(*to), alignof(struct svc_value));
	place_value(block, to, from);
	return to;
}

static void
place_endpoint(struct block *block, struct svc_endpoint *to,
    const struct svc_endpoint *from)
{
	const char *name = place_text(block, from->name);
	const struct svc_value *request = place_value_at(block, from->request);
	const struct svc_value *response =
	    place_value_at(block, from->response);
	if (to == NULL)
		return;
	to->name = name;
	to->request = request;
	to->response = response;
	to->metadata = NULL;
}

static void
place_node(
    struct block *block, struct svc_node *to, const struct svc_node *from)
{
	const char *id = place_text(block, from->id);
	const char *address = place_text(block, from->address);
	if (to == NULL)
		return;
	to->id = id;
	to->address = address;
	to->metadata = NULL;
}

static struct svc_record *
kept_init(struct kept *kept)
{
	if (kept == NULL)
		return NULL;
	atomic_init(&kept->refs, 1);
	kept->service = NULL;
	return &kept->record;
}

/* The maps of the copy are NULL afterwards. */
static struct svc_record *
place_record(struct block *block, const struct svc_record *from)
{
	struct svc_record *to =
	    kept_init(place(block, sizeof(struct kept), alignof(struct kept)));
	struct svc_endpoint *endpoints = NULL;
	struct svc_node *nodes = NULL;
	if (from->n_endpoints > 0)
		endpoints = place(block, from->n_endpoints * sizeof(*endpoints),
		    alignof(struct svc_endpoint));
	if (from->n_nodes > 0)
		nodes = place(block, from->n_nodes * sizeof(*nodes),
		    alignof(struct svc_node));
	for (size_t i = 0; i < from->n_endpoints; i++)
		place_endpoint(block, endpoints != NULL ? &endpoints[i] : NULL,
		    &from->endpoints[i]);
	for (size_t i = 0; i < from->n_nodes; i++)
		place_node(
		    block, nodes != NULL ? &nodes[i] : NULL, &from->nodes[i]);
	const char *name = place_text(block, from->name);
	const char *version = place_text(block, from->version);
	if (to == NULL)
		return NULL;
	to->name = name;
	to->version = version;
	to->metadata = NULL;
	to->endpoints = endpoints;
	to->n_endpoints = from->n_endpoints;
	to->nodes = nodes;
	to->n_nodes = from->n_nodes;
	return to;
}

/* The arrays of a record from place_record, which made them writable. */
static struct svc_endpoint *
own_endpoints(struct svc_record *record)
{
	return (struct svc_endpoint *)(uintptr_t)record->endpoints;
}

static struct svc_node *
own_nodes(struct svc_record *record)
{
	return (struct svc_node *)(uintptr_t)record->nodes;
}

static bool
copy_map(struct svc_headers **to, const struct svc_headers *from)
{
	/* No map and an empty one are different JSON. */
	if (from == NULL)
		return true;
	*to = svc_headers_copy(from);
	return *to != NULL;
}

static struct svc_record *
record_in_block(const struct svc_record *src)
{
	struct block block = {NULL, 0};
	place_record(&block, src);
	block.base = svc_mem_alloc(block.used);
	if (block.base == NULL)
		return NULL;
	block.used = 0;
	return place_record(&block, src);
}

struct svc_record *
svc_record_copy(const struct svc_record *record)
{
	struct svc_record *copy = record_in_block(record);
	if (copy == NULL)
		return NULL;
	bool ok = copy_map(&copy->metadata, record->metadata);
	for (size_t i = 0; ok && i < copy->n_endpoints; i++)
		ok = copy_map(&own_endpoints(copy)[i].metadata,
		    record->endpoints[i].metadata);
	for (size_t i = 0; ok && i < copy->n_nodes; i++)
		ok = copy_map(
		    &own_nodes(copy)[i].metadata, record->nodes[i].metadata);
	if (ok)
		return copy;
	svc_record_destroy(copy);
	return NULL;
}

struct svc_record *
record_copy_take(const struct svc_record *src)
{
	struct svc_record *copy = record_in_block(src);
	if (copy == NULL)
		return NULL;
	copy->metadata = src->metadata;
	for (size_t i = 0; i < copy->n_endpoints; i++)
		own_endpoints(copy)[i].metadata = src->endpoints[i].metadata;
	for (size_t i = 0; i < copy->n_nodes; i++)
		own_nodes(copy)[i].metadata = src->nodes[i].metadata;
	return copy;
}

struct svc_record *
record_of_node(struct svc_record *service, const struct svc_node *node)
{
	const char *address = node->address != NULL ? node->address : "";
	size_t id_size = strlen(node->id) + 1;
	size_t address_size = strlen(address) + 1;
	struct {
		struct kept kept;
		struct svc_node node;
		char texts[];
	} *one = svc_mem_alloc(sizeof(*one) + id_size + address_size);
	if (one == NULL)
		return NULL;
	struct svc_record *record = kept_init(&one->kept);
	one->node = (struct svc_node){
	    .id = one->texts, .address = one->texts + id_size};
	if (!copy_map(&one->node.metadata, node->metadata)) {
		svc_mem_free(one);
		return NULL;
	}
	memcpy(one->texts, node->id, id_size);
	memcpy(one->texts + id_size, address, address_size);
	*record = *service;
	record->nodes = &one->node;
	record->n_nodes = 1;
	one->kept.service = svc_record_hold(service);
	return record;
}

struct svc_record *
svc_record_hold(const struct svc_record *record)
{
	struct kept *kept = kept_of(record);
	atomic_fetch_add_explicit(&kept->refs, 1, memory_order_relaxed);
	return &kept->record;
}

void
svc_record_destroy(struct svc_record *record)
{
	if (record == NULL)
		return;
	struct kept *kept = kept_of(record);
	if (atomic_fetch_sub(&kept->refs, 1) != 1)
		return;
	for (size_t i = 0; i < record->n_nodes; i++)
		svc_headers_destroy(record->nodes[i].metadata);
	if (kept->service != NULL) {
		svc_record_destroy(kept->service);
	} else {
		svc_headers_destroy(record->metadata);
		for (size_t i = 0; i < record->n_endpoints; i++)
			svc_headers_destroy(record->endpoints[i].metadata);
	}
	svc_mem_free(kept);
}

/* -------------------------------------------------------------- equality */

int
text_compare(const char *a, const char *b)
{
	return strcmp(a != NULL ? a : "", b != NULL ? b : "");
}

bool
text_equal(const char *a, const char *b)
{
	return text_compare(a, b) == 0;
}

static bool
value_equal(const struct svc_value *a, const struct svc_value *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	if (!text_equal(a->name, b->name) || !text_equal(a->type, b->type) ||
	    a->n_values != b->n_values)
		return false;
	for (size_t i = 0; i < a->n_values; i++)
		if (!value_equal(&a->values[i], &b->values[i]))
			return false;
	return true;
}

static bool
endpoint_equal(const struct svc_endpoint *a, const struct svc_endpoint *b)
{
	return text_equal(a->name, b->name) &&
	       value_equal(a->request, b->request) &&
	       value_equal(a->response, b->response) &&
	       svc_headers_equal(a->metadata, b->metadata);
}

bool
node_equal(const struct svc_node *a, const struct svc_node *b)
{
	return text_equal(a->id, b->id) && text_equal(a->address, b->address) &&
	       svc_headers_equal(a->metadata, b->metadata);
}

bool
record_equal_but_nodes(const struct svc_record *a, const struct svc_record *b)
{
	if (!text_equal(a->name, b->name) ||
	    !text_equal(a->version, b->version) ||
	    a->n_endpoints != b->n_endpoints ||
	    !svc_headers_equal(a->metadata, b->metadata))
		return false;
	for (size_t i = 0; i < a->n_endpoints; i++)
		if (!endpoint_equal(&a->endpoints[i], &b->endpoints[i]))
			return false;
	return true;
}

bool
svc_record_equal(const struct svc_record *a, const struct svc_record *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	if (a->n_nodes != b->n_nodes || !record_equal_but_nodes(a, b))
		return false;
	for (size_t i = 0; i < a->n_nodes; i++)
		if (!node_equal(&a->nodes[i], &b->nodes[i]))
			return false;
	return true;
}

/* ---------------------------------------------------------------- hashing */

static uint64_t
hash_text(uint64_t hash, const char *text)
{
	for (; text != NULL && *text != '\0'; text++)
		hash = (hash ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
	return (hash ^ 0xff) * UINT64_C(0x100000001b3);
}

static uint64_t
hash_value(uint64_t hash, const struct svc_value *value)
{
	if (value == NULL)
		return hash;
	hash = hash_text(hash_text(hash, value->name), value->type);
	for (size_t i = 0; i < value->n_values; i++)
		hash = hash_value(hash, &value->values[i]);
	return hash;
}

/* Maps are equal whatever the order of their pairs and the case of names, so
 * only values count, and they are added up. */
static uint64_t
hash_map(uint64_t hash, const struct svc_headers *map)
{
	const char *name, *value;
	uint64_t sum = 0;
	for (size_t i = 0; svc_headers_at(map, i, &name, &value); i++)
		sum += hash_text(UINT64_C(0xcbf29ce484222325), value);
	return hash ^ sum;
}

uint64_t
record_hash_but_nodes(const struct svc_record *record)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	hash = hash_text(hash_text(hash, record->name), record->version);
	hash = hash_map(hash, record->metadata);
	for (size_t i = 0; i < record->n_endpoints; i++) {
		const struct svc_endpoint *endpoint = &record->endpoints[i];
		hash = hash_text(hash, endpoint->name);
		hash = hash_value(hash, endpoint->request);
		hash = hash_value(hash, endpoint->response);
		hash = hash_map(hash, endpoint->metadata);
	}
	return hash;
}

/* ---------------------------------------------------------------- checks */

static bool
name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

svc_err
svc_service_name_check(const char *name, struct svc_error *err)
{
	char quoted[64];
	size_t len = name != NULL ? strnlen(name, SERVICE_NAME_MAX + 1) : 0;
	if (len == 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "the service name is empty: it must be 1 to %d of "
		    "A-Z a-z 0-9 . _ -",
		    SERVICE_NAME_MAX);
	svc_log_quote(name, len, quoted, sizeof(quoted));
	if (len > SERVICE_NAME_MAX)
		return svc_error_set(err, SVC_E_INVAL,
		    "service name %s is too long: at most %d characters are "
		    "allowed",
		    quoted, SERVICE_NAME_MAX);
	for (size_t i = 0; i < len; i++)
		if (!name_char(name[i]))
			return svc_error_set(err, SVC_E_INVAL,
			    "service name %s has a character that is not "
			    "allowed at position %zu: use A-Z a-z 0-9 . _ -",
			    quoted, i + 1);
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "service name %s is not allowed: \".\" and \"..\" are "
		    "folders",
		    quoted);
	return SVC_OK;
}

/* Printable ASCII without space, and without '/' unless it is allowed. */
static svc_err
text_check(const char *what, const char *text, size_t max, bool slash,
    struct svc_error *err)
{
	char quoted[64];
	size_t len = text != NULL ? strnlen(text, max + 1) : 0;
	if (len == 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "the %s is empty: it must have 1 to %zu characters", what,
		    max);
	svc_log_quote(text, len, quoted, sizeof(quoted));
	if (len > max)
		return svc_error_set(err, SVC_E_INVAL,
		    "%s %s is too long: at most %zu characters are allowed",
		    what, quoted, max);
	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~' ||
		    (!slash && text[i] == '/'))
			return svc_error_set(err, SVC_E_INVAL,
			    "%s %s has a character that is not allowed at "
			    "position %zu: use printable ASCII without %s",
			    what, quoted, i + 1,
			    slash ? "space" : "space and '/'");
	return SVC_OK;
}

svc_err
node_id_check(const char *id, struct svc_error *err)
{
	svc_err rc = text_check("node id", id, NODE_ID_MAX, false, err);
	if (rc == SVC_OK && (strcmp(id, ".") == 0 || strcmp(id, "..") == 0))
		return svc_error_set(err, SVC_E_INVAL,
		    "node id \"%s\" is not allowed: \".\" and \"..\" are "
		    "folders",
		    id);
	return rc;
}

svc_err
svc_record_check(const struct svc_record *record, struct svc_error *err)
{
	if (record == NULL)
		return svc_error_set(
		    err, SVC_E_INVAL, "there is no record to check");
	svc_err rc = svc_service_name_check(record->name, err);
	if (rc == SVC_OK)
		rc = text_check(
		    "version", record->version, VERSION_MAX, false, err);
	if (rc != SVC_OK)
		return rc;
	if (record->n_nodes > RECORD_MAX_NODES)
		return svc_error_set(err, SVC_E_INVAL,
		    "service %s has %zu nodes: at most %d are allowed",
		    record->name, record->n_nodes, RECORD_MAX_NODES);
	if (record->n_endpoints > RECORD_MAX_ENDPOINTS)
		return svc_error_set(err, SVC_E_INVAL,
		    "service %s has %zu endpoints: at most %d are allowed",
		    record->name, record->n_endpoints, RECORD_MAX_ENDPOINTS);
	for (size_t i = 0; i < record->n_endpoints; i++)
		if (text_equal(record->endpoints[i].name, ""))
			return svc_error_set(err, SVC_E_INVAL,
			    "endpoint %zu of service %s has no name", i + 1,
			    record->name);
	for (size_t i = 0; i < record->n_nodes; i++) {
		rc = node_id_check(record->nodes[i].id, err);
		if (rc == SVC_OK)
			rc = text_check("address", record->nodes[i].address,
			    ADDRESS_MAX, true, err);
		if (rc != SVC_OK)
			return rc;
	}
	return SVC_OK;
}
