/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_node.h"

#include "mdns_txt.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LABEL_MAX 63
#define SHORT_PREFIX 40
#define FOUND_MAX 64
#define LIST_PORT 9999 /* go-micro's, nobody dials it */

/* ------------------------------------------------------------------ names */

static uint64_t
hash(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;
	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}
#define HASH_START UINT64_C(0xcbf29ce484222325)

/* Whether a text can stand as labels as it is. */
static bool
labels_ok(const char *text, size_t max)
{
	if (strlen(text) > max)
		return false;
	for (;;) {
		size_t len = strcspn(text, ".");
		if (len == 0 || len > LABEL_MAX)
			return false;
		for (size_t i = 0; i < len; i++) {
			unsigned char c = (unsigned char)text[i];
			if (c <= ' ' || c == 0x7f)
				return false;
		}
		if (text[len] == '\0')
			return true;
		text += len + 1;
	}
}

static void
shorten(const char *text, char ret_label[LABEL_MAX + 1])
{
	size_t n = 0;
	for (; n < SHORT_PREFIX && text[n] != '\0'; n++) {
		unsigned char c = (unsigned char)text[n];
		bool plain = c > ' ' && c < 0x7f && c != '.';
		ret_label[n] = plain ? text[n] : '-';
	}
	snprintf(ret_label + n, LABEL_MAX + 1 - n, "~%016" PRIx64,
	    hash(HASH_START, text, strlen(text)));
}

static bool
ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);
	return n >= m && strcmp(text + n - m, end) == 0;
}

/* A service's labels without the domain. Names that are DNS-SD's own are
 * shortened too, so that the nodes of such a service are not taken for lists.
 */
static void
service_labels(const char *service, char ret_labels[MDNS_NAME_SIZE])
{
	bool reserved = strcmp(service, "_services") == 0 ||
			ends_with(service, "._services") ||
			ends_with(service, "._dns-sd._udp");
	if (!reserved && labels_ok(service, 130))
		snprintf(ret_labels, MDNS_NAME_SIZE, "%s", service);
	else
		shorten(service, ret_labels);
}

void
mdns_service_name(const char *service, char ret_name[MDNS_NAME_SIZE])
{
	char labels[MDNS_NAME_SIZE];
	service_labels(service, labels);
	snprintf(ret_name, MDNS_NAME_SIZE, "%.*s." MDNS_DOMAIN, 140, labels);
}

void
mdns_list_name(const char *service, char ret_name[MDNS_NAME_SIZE])
{
	char labels[MDNS_NAME_SIZE];
	service_labels(service, labels);
	snprintf(ret_name, MDNS_NAME_SIZE, "%.*s." MDNS_LIST, 140, labels);
}

void
mdns_instance_name(
    const char *service, const char *id, char ret_name[MDNS_NAME_SIZE])
{
	char owner[MDNS_NAME_SIZE], label[LABEL_MAX + 1];
	mdns_service_name(service, owner);
	if (!labels_ok(id, MDNS_NAME_SIZE - 2 - strlen(owner))) {
		shorten(id, label);
		id = label;
	}
	/* The owner's part is shorter than that; saying so quiets gcc. */
	snprintf(ret_name, MDNS_NAME_SIZE, "%s.%.*s", id, 160, owner);
}

/* -------------------------------------------------------------- addresses */

static void
address_format(
    int family, const uint8_t ip[16], uint16_t port, char ret_text[64])
{
	char host[INET6_ADDRSTRLEN];
	if (inet_ntop(family, ip, host, sizeof(host)) == NULL)
		host[0] = '\0';
	snprintf(ret_text, 64, family == AF_INET6 ? "[%s]:%u" : "%s:%u", host,
	    (unsigned)port);
}

/* The digits behind the last colon; 0 when there are none. */
static uint16_t
port_parse(const char *text)
{
	unsigned port = 0;
	if (*text == '\0')
		return 0;
	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '9')
			return 0;
		port = port * 10 + (unsigned)(*text - '0');
		if (port > UINT16_MAX)
			return 0;
	}
	return (uint16_t)port;
}

/* Fills port and ip as far as the address has them; returns whether they say
 * all there is in it. */
static bool
address_parse(const char *address, struct mdns_node *node)
{
	char host[INET6_ADDRSTRLEN + 2], again[64];
	const char *colon = strrchr(address, ':');
	if (colon == NULL)
		return false;
	node->port = port_parse(colon + 1);
	size_t len = (size_t)(colon - address);
	if (len == 0 || len >= sizeof(host))
		return false;
	memcpy(host, address, len);
	host[len] = '\0';
	if (inet_pton(AF_INET, host, node->ip) == 1) {
		node->has_v4 = true;
	} else if (host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = '\0';
		node->has_v6 = inet_pton(AF_INET6, host + 1, node->ip) == 1;
	}
	if (!node->has_v4 && !node->has_v6)
		return false;
	address_format(
	    node->has_v4 ? AF_INET : AF_INET6, node->ip, node->port, again);
	return strcmp(again, address) == 0;
}

/* ---------------------------------------------------------------- writing */

static void
json_headers(struct svc_buf *json, const struct svc_headers *headers)
{
	const char *name, *value;
	svc_buf_putc(json, '{');
	for (size_t i = 0; svc_headers_at(headers, i, &name, &value); i++) {
		if (i > 0)
			svc_buf_putc(json, ',');
		svc_buf_json_string(json, name, strlen(name));
		svc_buf_putc(json, ':');
		svc_buf_json_string(json, value, strlen(value));
	}
	svc_buf_putc(json, '}');
}

static void
json_text(struct svc_buf *json, const char *key, const char *text)
{
	svc_buf_puts(json, key);
	svc_buf_json_string(json, text, strlen(text));
}

static void
json_endpoints(struct svc_buf *json, const struct svc_record *record)
{
	svc_buf_puts(json, ",\"Endpoints\":");
	if (record->n_endpoints == 0) {
		svc_buf_puts(json, "null");
		return;
	}
	for (size_t i = 0; i < record->n_endpoints; i++) {
		char *text = svc_endpoint_encode(&record->endpoints[i]);
		svc_buf_putc(json, i == 0 ? '[' : ',');
		if (text == NULL)
			json->failed = SVC_E_NOMEM;
		else
			svc_buf_puts(json, text);
		svc_mem_free(text);
	}
	svc_buf_putc(json, ']');
}

/* go-micro's four keys; and, only where needed, three that it does not know
 * and passes over. */
static svc_err
node_txt(struct mdns_node *node, const struct svc_record *record,
    bool address_is_plain)
{
	struct svc_buf json;
	svc_buf_init(&json, MDNS_TXT_MAX);
	json_text(&json, "{\"Service\":", record->name);
	json_text(&json, ",\"Version\":", record->version);
	json_endpoints(&json, record);
	svc_buf_puts(&json, ",\"Metadata\":");
	json_headers(&json, record->nodes[0].metadata);
	if (svc_headers_count(record->metadata) > 0) {
		svc_buf_puts(&json, ",\"ServiceMetadata\":");
		json_headers(&json, record->metadata);
	}
	size_t n = strlen(node->id);
	if (strncmp(node->instance, node->id, n) != 0 ||
	    node->instance[n] != '.' ||
	    strcmp(node->instance + n + 1, node->owner) != 0)
		json_text(&json, ",\"Id\":", node->id);
	if (!address_is_plain)
		json_text(&json, ",\"Address\":", record->nodes[0].address);
	svc_buf_putc(&json, '}');
	svc_err rc = json.failed;
	if (rc == SVC_OK)
		rc = mdns_txt_encode(json.data, json.len, &node->txt);
	svc_buf_fini(&json);
	return rc;
}

/* Whether the largest packet about the node is small enough. */
static svc_err
node_fits(const struct mdns_node *node)
{
	struct mdns_writer writer;
	struct mdns_question question = {
	    .type = MDNS_TYPE_ANY, .class = MDNS_CLASS_IN};
	memcpy(question.name.text, node->instance, sizeof(node->instance));
	svc_err rc =
	    mdns_node_write(node, MDNS_WITH_ALL, 1, 0, &question, &writer);
	mdns_write_fini(&writer);
	return rc;
}

svc_err
mdns_node_create(const struct svc_record *record, const char *host,
    struct mdns_node **ret_node, struct svc_error *err)
{
	if (record->n_nodes != 1)
		return svc_error_set(err, SVC_E_INVAL,
		    "a record with %zu nodes cannot be announced, it must have "
		    "one",
		    record->n_nodes);
	struct mdns_node *node = svc_mem_calloc(1, sizeof(*node));
	if (node == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	svc_buf_init(&node->txt, UINT16_MAX);
	node->service = svc_mem_strdup(record->name);
	node->id = svc_mem_strdup(record->nodes[0].id);
	svc_err rc =
	    node->service == NULL || node->id == NULL ? SVC_E_NOMEM : SVC_OK;
	if (rc == SVC_OK) {
		mdns_service_name(record->name, node->owner);
		mdns_instance_name(record->name, node->id, node->instance);
		mdns_list_name(record->name, node->list);
		if (labels_ok(host, LABEL_MAX))
			snprintf(node->host, sizeof(node->host), "%s", host);
		else
			shorten(host, node->host);
		rc = node_txt(node, record,
		    address_parse(record->nodes[0].address, node));
	}
	if (rc == SVC_OK)
		rc = node_fits(node);
	if (rc == SVC_OK) {
		*ret_node = node;
		return SVC_OK;
	}
	if (rc == SVC_E_EXHAUSTED)
		rc = svc_error_set(err, SVC_E_INVAL,
		    "the record of service \"%s\" does not fit one packet of "
		    "at most %d bytes, with its %zu endpoints and %zu metadata "
		    "compressed: describe fewer",
		    record->name, MDNS_PACKET_MAX, record->n_endpoints,
		    svc_headers_count(record->metadata) +
			svc_headers_count(record->nodes[0].metadata));
	else
		svc_error_set(err, rc,
		    "cannot write the record of service "
		    "\"%s\": %s",
		    record->name, svc_err_text(rc));
	mdns_node_destroy(node);
	return rc;
}

void
mdns_node_destroy(struct mdns_node *node)
{
	if (node == NULL)
		return;
	svc_buf_fini(&node->txt);
	svc_mem_free(node->service);
	svc_mem_free(node->id);
	svc_mem_free(node);
}

bool
mdns_node_equal(const struct mdns_node *a, const struct mdns_node *b)
{
	return strcmp(a->service, b->service) == 0 &&
	       strcmp(a->id, b->id) == 0 && a->port == b->port &&
	       a->has_v4 == b->has_v4 && a->has_v6 == b->has_v6 &&
	       memcmp(a->ip, b->ip, sizeof(a->ip)) == 0 &&
	       a->txt.len == b->txt.len &&
	       memcmp(a->txt.data, b->txt.data, a->txt.len) == 0;
}

static void
response_begin(struct mdns_writer *writer, uint16_t id,
    const struct mdns_question *question)
{
	mdns_write(writer, id, MDNS_FLAG_RESPONSE | MDNS_FLAG_AUTHORITATIVE);
	if (question != NULL)
		mdns_write_question(writer, question->name.text, question->type,
		    question->class);
}

svc_err
mdns_node_write(const struct mdns_node *node, unsigned with, uint32_t ttl,
    uint16_t id, const struct mdns_question *question,
    struct mdns_writer *writer)
{
	response_begin(writer, id, question);
	if ((with & MDNS_WITH_PTR) != 0)
		mdns_write_ptr(writer, node->owner, ttl, node->instance);
	if ((with & MDNS_WITH_SRV) != 0)
		mdns_write_srv(
		    writer, node->instance, ttl, node->port, node->host);
	if ((with & MDNS_WITH_ADDRESS) != 0 && node->has_v4)
		mdns_write_data(
		    writer, node->host, MDNS_TYPE_A, ttl, node->ip, 4);
	if ((with & MDNS_WITH_ADDRESS) != 0 && node->has_v6)
		mdns_write_data(
		    writer, node->host, MDNS_TYPE_AAAA, ttl, node->ip, 16);
	if ((with & MDNS_WITH_TXT) != 0)
		mdns_write_data(writer, node->instance, MDNS_TYPE_TXT, ttl,
		    node->txt.data, node->txt.len);
	return mdns_write_end(writer);
}

svc_err
mdns_list_write(const struct mdns_node *node, uint32_t ttl, uint16_t id,
    const struct mdns_question *question, struct mdns_writer *writer)
{
	static const uint8_t nowhere[4], empty[1];
	response_begin(writer, id, question);
	mdns_write_ptr(writer, MDNS_LIST, ttl, node->list);
	mdns_write_srv(writer, node->list, ttl, LIST_PORT, node->host);
	mdns_write_data(writer, node->host, MDNS_TYPE_A, ttl, nowhere, 4);
	mdns_write_data(writer, node->list, MDNS_TYPE_TXT, ttl, empty, 1);
	return mdns_write_end(writer);
}

/* ---------------------------------------------------------------- reading */

struct found {
	struct mdns_name instance;
	struct mdns_name target;
	bool has_srv;
	bool goodbye;
	uint16_t port;
	uint32_t ttl;
	const uint8_t *txt;
	size_t txt_len;
};
struct founds {
	struct found *items;
	size_t n;
};

static struct found *
found_of(struct founds *founds, const struct mdns_name *instance)
{
	for (size_t i = 0; i < founds->n; i++)
		if (strcmp(founds->items[i].instance.text, instance->text) == 0)
			return &founds->items[i];
	if (founds->n == FOUND_MAX || !instance->plain)
		return NULL;
	struct found *found = &founds->items[founds->n++];
	memset(found, 0, sizeof(*found));
	found->instance = *instance;
	found->ttl = UINT32_MAX;
	return found;
}

static void
found_add(struct founds *founds, const struct mdns_rr *rr)
{
	struct found *found = found_of(
	    founds, rr->type == MDNS_TYPE_PTR ? &rr->target : &rr->name);
	if (found == NULL)
		return;
	if (rr->ttl == 0)
		found->goodbye = true;
	if (rr->type == MDNS_TYPE_PTR)
		return;
	if (rr->ttl < found->ttl)
		found->ttl = rr->ttl;
	if (rr->type == MDNS_TYPE_SRV) {
		found->has_srv = true;
		found->port = rr->port;
		found->target = rr->target;
	} else {
		found->txt = rr->data;
		found->txt_len = rr->len;
	}
}

/* Go through once for the nodes; lists are reported on the way. */
static void
founds_collect(struct mdns_reader *reader, struct founds *founds,
    const struct mdns_sink *sink, void *arg)
{
	struct mdns_rr rr;
	while (mdns_read_record(reader, &rr)) {
		const char *name = rr.name.text;
		if ((rr.class & ~MDNS_CLASS_TOP) != MDNS_CLASS_IN ||
		    (rr.type != MDNS_TYPE_PTR && rr.type != MDNS_TYPE_SRV &&
			rr.type != MDNS_TYPE_TXT) ||
		    !ends_with(name, "." MDNS_DOMAIN))
			continue;
		if (rr.type != MDNS_TYPE_PTR) {
			if (!ends_with(name, "." MDNS_LIST))
				found_add(founds, &rr);
		} else if (strcmp(name, MDNS_LIST) == 0) {
			char owner[MDNS_NAME_SIZE];
			const char *list = rr.target.text;
			if (rr.ttl == 0 || !rr.target.plain ||
			    !ends_with(list, "." MDNS_LIST))
				continue;
			snprintf(owner, sizeof(owner), "%.*s." MDNS_DOMAIN,
			    (int)(strlen(list) - strlen("." MDNS_LIST)), list);
			sink->listed(owner, arg);
		} else if (strcmp(name, MDNS_ENUMERATION) != 0 &&
			   ends_with(rr.target.text, name)) {
			found_add(founds, &rr);
		}
	}
}

/* The first address of the node's host, IPv4 before IPv6. */
static void
found_address(
    const void *data, size_t len, const struct found *found, char ret_text[64])
{
	struct mdns_reader reader;
	struct mdns_rr rr;
	bool has_v6 = false;
	ret_text[0] = '\0';
	if (!found->has_srv || !mdns_read(&reader, data, len))
		return;
	while (mdns_read_record(&reader, &rr)) {
		if (strcmp(rr.name.text, found->target.text) != 0)
			continue;
		if (rr.type == MDNS_TYPE_A && rr.len == 4) {
			address_format(AF_INET, rr.data, found->port, ret_text);
			return;
		}
		if (rr.type == MDNS_TYPE_AAAA && rr.len == 16 && !has_v6) {
			has_v6 = true;
			address_format(
			    AF_INET6, rr.data, found->port, ret_text);
		}
	}
}

void
mdns_response_read(
    const void *data, size_t len, const struct mdns_sink *sink, void *arg)
{
	struct mdns_reader reader;
	if (!mdns_read(&reader, data, len) ||
	    (reader.header.flags & MDNS_FLAG_RESPONSE) == 0 ||
	    (reader.header.flags & (MDNS_MASK_OPCODE | MDNS_MASK_RCODE)) != 0)
		return;
	struct founds founds = {.n = 0};
	founds.items = svc_mem_alloc(FOUND_MAX * sizeof(*founds.items));
	if (founds.items == NULL)
		return;
	founds_collect(&reader, &founds, sink, arg);
	for (size_t i = 0; i < founds.n; i++) {
		const struct found *found = &founds.items[i];
		struct mdns_found out = {.instance = found->instance.text,
		    .ttl = found->goodbye ? 0 : found->ttl,
		    .txt = found->txt,
		    .txt_len = found->txt_len};
		if (!found->goodbye && (!found->has_srv || out.txt == NULL))
			continue;
		found_address(data, len, found, out.address);
		sink->node(&out, arg);
	}
	svc_mem_free(founds.items);
}

uint64_t
mdns_found_hash(const struct mdns_found *found)
{
	uint64_t h =
	    hash(HASH_START, found->instance, strlen(found->instance) + 1);
	h = hash(h, found->address, strlen(found->address) + 1);
	return hash(h, found->txt, found->txt_len);
}

static const char *
json_get(const cJSON *object, const char *key)
{
	return cJSON_GetStringValue(cJSON_GetObjectItem(object, key));
}

/* The id: as the TXT data gives it, when the instance name was made from it;
 * else what stands before the service in the instance name. */
static bool
found_id(const struct mdns_found *found, const char *service,
    const char *full_id, char *ret_id, size_t size)
{
	char name[MDNS_NAME_SIZE];
	if (full_id != NULL) {
		mdns_instance_name(service, full_id, name);
		snprintf(ret_id, size, "%s", full_id);
		return strlen(full_id) < size &&
		       strcmp(name, found->instance) == 0;
	}
	mdns_service_name(service, name);
	size_t n = strlen(found->instance), m = strlen(name);
	if (n < m + 2 || n - m - 1 >= size ||
	    found->instance[n - m - 1] != '.' ||
	    strcmp(found->instance + n - m, name) != 0)
		return false;
	memcpy(ret_id, found->instance, n - m - 1);
	ret_id[n - m - 1] = '\0';
	return true;
}

static void
json_append(struct svc_buf *json, const char *key, const cJSON *value)
{
	char *text = value == NULL ? NULL : cJSON_PrintUnformatted(value);
	svc_buf_puts(json, key);
	if (value != NULL && text == NULL)
		json->failed = SVC_E_NOMEM;
	svc_buf_puts(json, text == NULL ? "null" : text);
	cJSON_free(text);
}

static svc_err
found_json(const struct mdns_found *found, const cJSON *txt,
    struct svc_buf *out, struct svc_error *err)
{
	char id[MDNS_NAME_SIZE];
	const char *service = json_get(txt, "Service");
	const char *address = json_get(txt, "Address");
	const char *version = json_get(txt, "Version");
	if (service == NULL || version == NULL)
		return svc_error_set(
		    err, SVC_E_INVAL, "TXT data has no Service or no Version");
	if (!found_id(found, service, json_get(txt, "Id"), id, sizeof(id)))
		return svc_error_set(err, SVC_E_INVAL,
		    "TXT data is of another service than the name");
	if (address == NULL)
		address = found->address;
	json_text(out, "{\"name\":", service);
	json_text(out, ",\"version\":", version);
	json_append(
	    out, ",\"metadata\":", cJSON_GetObjectItem(txt, "ServiceMetadata"));
	json_append(
	    out, ",\"endpoints\":", cJSON_GetObjectItem(txt, "Endpoints"));
	json_text(out, ",\"nodes\":[{\"id\":", id);
	json_text(out, ",\"address\":", address);
	json_append(
	    out, ",\"metadata\":", cJSON_GetObjectItem(txt, "Metadata"));
	svc_buf_puts(out, "}]}");
	return out->failed;
}

svc_err
mdns_found_decode(const struct mdns_found *found,
    struct svc_record **ret_record, struct svc_error *err)
{
	struct svc_buf text, json;
	struct svc_record *record = NULL;
	cJSON *txt = NULL;
	svc_buf_init(&text, MDNS_TXT_MAX);
	svc_buf_init(&json, MDNS_TXT_MAX);
	svc_err rc = mdns_txt_decode(found->txt, found->txt_len, &text);
	if (rc != SVC_OK) {
		svc_error_set(err, rc, "TXT data is not compressed JSON: %s",
		    svc_err_text(rc));
		goto out;
	}
	txt = cJSON_ParseWithLength((const char *)text.data, text.len);
	if (!cJSON_IsObject(txt)) {
		rc = svc_error_set(err, SVC_E_INVAL, "TXT data is not JSON");
		goto out;
	}
	rc = found_json(found, txt, &json, err);
	if (rc == SVC_OK)
		rc = svc_record_decode(json.data, json.len, &record, err);
	if (rc == SVC_OK)
		rc = svc_record_check(record, err);
	if (rc == SVC_OK && record->n_nodes != 1)
		rc = svc_error_set(err, SVC_E_INVAL, "not one node");
	if (rc == SVC_OK) {
		*ret_record = record;
		record = NULL;
	}
out:
	svc_record_destroy(record);
	cJSON_Delete(txt);
	svc_buf_fini(&json);
	svc_buf_fini(&text);
	return rc == SVC_E_EXHAUSTED ? SVC_E_INVAL : rc;
}
