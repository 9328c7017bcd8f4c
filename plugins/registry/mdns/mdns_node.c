/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_node.h"

#include "mdns_found.h"
#include "mdns_txt.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#define LABEL_MAX 63
#define LIST_PORT 9999 /* go-micro's, nobody dials it */
#define STRING_MAX 255
/** So that a DNS-SD packet about the node fits an Ethernet frame. */
#define SD_TXT_MAX 900

/* -------------------------------------------------------------- addresses */

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
	char host[MDNS_NAME_SIZE], again[64];
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
	} else if (mdns_labels_ok(host, MDNS_NAME_SIZE - 1) &&
		   strpbrk(host, ":[]") == NULL) {
		/* A host that the network's own DNS knows. */
		memcpy(node->sd_host, host, len + 1);
	}
	if (!node->has_v4 && !node->has_v6)
		return false;
	int family = node->has_v4 ? AF_INET : AF_INET6;
	mdns_sd_host_name(family, node->ip, node->sd_host);
	mdns_address_format(family, node->ip, node->port, again);
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
	mdns_json_text(&json, "{\"Service\":", record->name);
	mdns_json_text(&json, ",\"Version\":", record->version);
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
		mdns_json_text(&json, ",\"Id\":", node->id);
	if (!address_is_plain)
		mdns_json_text(
		    &json, ",\"Address\":", record->nodes[0].address);
	svc_buf_putc(&json, '}');
	svc_err rc = json.failed;
	if (rc == SVC_OK)
		rc = mdns_txt_encode(json.data, json.len, &node->txt);
	svc_buf_fini(&json);
	return rc;
}

/* One string of a DNS-SD TXT record, when it may stand there and fits. */
static void
sd_pair(struct svc_buf *txt, const char *key, const char *value)
{
	size_t len = strlen(key) + 1 + strlen(value);
	if (key[0] == '\0' || len > STRING_MAX ||
	    txt->len + 1 + len > SD_TXT_MAX)
		return;
	for (const char *p = key; *p != '\0'; p++)
		if (*p < ' ' || *p > '~' || *p == '=')
			return;
	svc_buf_putc(txt, (char)len);
	svc_buf_puts(txt, key);
	svc_buf_putc(txt, '=');
	svc_buf_puts(txt, value);
}

/* A reader keeps the first of two equal keys, so the metadata cannot change
 * what stands before it. */
static svc_err
node_sd_txt(struct mdns_node *node, const struct svc_record *record)
{
	const char *name, *value;
	sd_pair(&node->sd_txt, "txtvers", "1");
	sd_pair(&node->sd_txt, "service", record->name);
	sd_pair(&node->sd_txt, "version", record->version);
	sd_pair(&node->sd_txt, "id", node->id);
	for (size_t i = 0;
	     svc_headers_at(record->nodes[0].metadata, i, &name, &value); i++)
		sd_pair(&node->sd_txt, name, value);
	return node->sd_txt.failed;
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
	    mdns_go_response(node, MDNS_GO_NODE, 1, 0, &question, &writer);
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
	svc_buf_init(&node->sd_txt, SD_TXT_MAX);
	node->service = svc_mem_strdup(record->name);
	node->id = svc_mem_strdup(record->nodes[0].id);
	svc_err rc =
	    node->service == NULL || node->id == NULL ? SVC_E_NOMEM : SVC_OK;
	if (rc == SVC_OK) {
		mdns_service_name(record->name, node->owner);
		mdns_instance_name(record->name, node->id, node->instance);
		mdns_list_name(record->name, node->list);
		if (mdns_labels_ok(host, LABEL_MAX))
			snprintf(node->host, sizeof(node->host), "%s", host);
		else
			mdns_shorten(host, node->host);
		rc = node_txt(node, record,
		    address_parse(record->nodes[0].address, node));
	}
	if (rc == SVC_OK && node->port != 0 && node->sd_host[0] != '\0') {
		mdns_sd_instance_name(
		    record->name, node->id, node->sd_instance);
		mdns_sd_subtype_name(record->name, node->sd_subtype);
		rc = node_sd_txt(node, record);
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
	svc_buf_fini(&node->sd_txt);
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

/* ---------------------------------------------------------------- records */

/* NSEC: the types that a name has, as bits. */
static const uint8_t has_txt_srv[] = {0, 5, 0, 0, 0x80, 0, 0x40};
static const uint8_t has_a[] = {0, 1, 0x40};
static const uint8_t has_aaaa[] = {0, 4, 0, 0, 0, 0x08};

bool
mdns_node_record(const struct mdns_node *node, enum mdns_kind kind,
    uint32_t ttl, struct mdns_record *ret_record)
{
	struct mdns_record r = {.type = MDNS_TYPE_PTR, .ttl = ttl};
	bool has_ip = node->has_v4 || node->has_v6;
	bool has_sd = node->sd_instance[0] != '\0';
	bool ok = kind < MDNS_SD_PTR || has_sd;
	switch (kind) {
	case MDNS_GO_PTR:
		r.name = node->owner;
		r.target = node->instance;
		break;
	case MDNS_GO_LIST:
		r.name = MDNS_LIST;
		r.target = node->list;
		break;
	case MDNS_GO_ENUM:
		r.name = MDNS_ENUMERATION;
		r.target = node->owner;
		break;
	case MDNS_SD_PTR:
		r.name = MDNS_SD_TYPE;
		r.target = node->sd_instance;
		break;
	case MDNS_SD_SUBPTR:
		r.name = node->sd_subtype;
		r.target = node->sd_instance;
		break;
	case MDNS_SD_ENUM:
		r.name = MDNS_SD_ENUMERATION;
		r.target = MDNS_SD_TYPE;
		break;
	case MDNS_GO_SRV:
		r.name = node->instance;
		r.target = node->host;
		r.priority = 10;
		r.weight = 1;
		break;
	case MDNS_SD_SRV:
		r.name = node->sd_instance;
		r.target = node->sd_host;
		break;
	case MDNS_GO_TXT:
		r.name = node->instance;
		r.data = node->txt.data;
		r.len = node->txt.len;
		break;
	case MDNS_SD_TXT:
		r.name = node->sd_instance;
		r.data = node->sd_txt.data;
		r.len = node->sd_txt.len;
		break;
	case MDNS_GO_ADDRESS:
	case MDNS_SD_ADDRESS:
		r.name = kind == MDNS_GO_ADDRESS ? node->host : node->sd_host;
		r.type = node->has_v4 ? MDNS_TYPE_A : MDNS_TYPE_AAAA;
		r.data = node->ip;
		r.len = node->has_v4 ? 4 : 16;
		ok = ok && has_ip;
		break;
	case MDNS_SD_NSEC:
		r.name = r.target = node->sd_instance;
		r.data = has_txt_srv;
		r.len = sizeof(has_txt_srv);
		break;
	case MDNS_SD_HOST_NSEC:
		r.name = r.target = node->sd_host;
		r.data = node->has_v4 ? has_a : has_aaaa;
		r.len = node->has_v4 ? sizeof(has_a) : sizeof(has_aaaa);
		ok = ok && has_ip;
		break;
	default:
		return false;
	}
	if (kind == MDNS_GO_SRV || kind == MDNS_SD_SRV) {
		r.type = MDNS_TYPE_SRV;
		r.port = node->port;
	} else if (kind == MDNS_GO_TXT || kind == MDNS_SD_TXT) {
		r.type = MDNS_TYPE_TXT;
	} else if (kind == MDNS_SD_NSEC || kind == MDNS_SD_HOST_NSEC) {
		r.type = MDNS_TYPE_NSEC;
	}
	r.unique = kind >= MDNS_SD_SRV;
	*ret_record = r;
	return ok;
}

/* A question of a name by its types: what they mean where the name has none
 * of them is told by NSEC. */
static unsigned
typed(unsigned have_type, uint16_t have, unsigned nsec, uint16_t asked)
{
	if (asked == have || asked == MDNS_TYPE_ANY)
		return have_type;
	return nsec;
}

unsigned
mdns_node_answers(const struct mdns_node *node, const char *name, uint16_t type)
{
	unsigned bits = 0;
	bool any = type == MDNS_TYPE_ANY;
	if (type == MDNS_TYPE_PTR || any) {
		if (strcmp(name, node->owner) == 0)
			bits |= MDNS_BIT(MDNS_GO_PTR);
		if (strcmp(name, MDNS_LIST) == 0)
			bits |= MDNS_BIT(MDNS_GO_LIST);
		if (strcmp(name, MDNS_ENUMERATION) == 0)
			bits |= MDNS_BIT(MDNS_GO_ENUM);
	}
	if (strcmp(name, node->instance) == 0) {
		if (type == MDNS_TYPE_SRV || any)
			bits |= MDNS_BIT(MDNS_GO_SRV);
		if (type == MDNS_TYPE_TXT || any)
			bits |= MDNS_BIT(MDNS_GO_TXT);
	}
	if (node->sd_instance[0] == '\0')
		return bits;
	if (type == MDNS_TYPE_PTR || any) {
		if (mdns_name_same(name, MDNS_SD_TYPE))
			bits |= MDNS_BIT(MDNS_SD_PTR);
		if (mdns_name_same(name, node->sd_subtype))
			bits |= MDNS_BIT(MDNS_SD_SUBPTR);
		if (mdns_name_same(name, MDNS_SD_ENUMERATION))
			bits |= MDNS_BIT(MDNS_SD_ENUM);
	}
	if (mdns_name_same(name, node->sd_instance)) {
		if (any)
			bits |= MDNS_BIT(MDNS_SD_SRV) | MDNS_BIT(MDNS_SD_TXT);
		else if (type == MDNS_TYPE_TXT)
			bits |= MDNS_BIT(MDNS_SD_TXT);
		else
			bits |= typed(MDNS_BIT(MDNS_SD_SRV), MDNS_TYPE_SRV,
			    MDNS_BIT(MDNS_SD_NSEC), type);
	}
	if ((node->has_v4 || node->has_v6) &&
	    mdns_name_same(name, node->sd_host))
		bits |= typed(MDNS_BIT(MDNS_SD_ADDRESS),
		    node->has_v4 ? MDNS_TYPE_A : MDNS_TYPE_AAAA,
		    MDNS_BIT(MDNS_SD_HOST_NSEC), type);
	return bits;
}

unsigned
mdns_node_extras(unsigned answers)
{
	unsigned bits = 0;
	if ((answers & MDNS_BIT(MDNS_GO_PTR)) != 0)
		bits |= MDNS_BIT(MDNS_GO_SRV) | MDNS_BIT(MDNS_GO_TXT);
	if (((answers | bits) & MDNS_BIT(MDNS_GO_SRV)) != 0)
		bits |= MDNS_BIT(MDNS_GO_ADDRESS);
	if ((answers & (MDNS_BIT(MDNS_SD_PTR) | MDNS_BIT(MDNS_SD_SUBPTR))) != 0)
		bits |= MDNS_BIT(MDNS_SD_SRV) | MDNS_BIT(MDNS_SD_TXT);
	if (((answers | bits) & MDNS_BIT(MDNS_SD_SRV)) != 0)
		bits |= MDNS_BIT(MDNS_SD_ADDRESS);
	if (((answers | bits) & MDNS_BIT(MDNS_SD_ADDRESS)) != 0)
		bits |= MDNS_BIT(MDNS_SD_HOST_NSEC);
	return bits & ~answers;
}

void
mdns_node_write(const struct mdns_node *node, unsigned kinds, uint32_t ttl,
    enum mdns_section section, bool flush, struct mdns_writer *writer)
{
	struct mdns_record record;
	for (int kind = 0; kind < MDNS_KINDS; kind++)
		if ((kinds & MDNS_BIT(kind)) != 0 &&
		    mdns_node_record(node, (enum mdns_kind)kind, ttl, &record))
			mdns_write_record(writer, section, &record, flush);
}

/* A list entry looks like a node with an address that leads nowhere. */
static void
go_list_write(
    const struct mdns_node *node, uint32_t ttl, struct mdns_writer *writer)
{
	static const uint8_t nowhere[4], empty[1];
	const struct mdns_record records[] = {
	    {.name = node->list,
		.type = MDNS_TYPE_SRV,
		.ttl = ttl,
		.priority = 10,
		.weight = 1,
		.port = LIST_PORT,
		.target = node->host},
	    {.name = node->host,
		.type = MDNS_TYPE_A,
		.ttl = ttl,
		.data = nowhere,
		.len = sizeof(nowhere)},
	    {.name = node->list,
		.type = MDNS_TYPE_TXT,
		.ttl = ttl,
		.data = empty,
		.len = sizeof(empty)},
	};
	for (size_t i = 0; i < sizeof(records) / sizeof(records[0]); i++)
		mdns_write_record(writer, MDNS_ANSWER, &records[i], false);
}

svc_err
mdns_go_response(const struct mdns_node *node, unsigned kinds, uint32_t ttl,
    uint16_t id, const struct mdns_question *question,
    struct mdns_writer *writer)
{
	mdns_write(writer, id, MDNS_FLAG_RESPONSE | MDNS_FLAG_AUTHORITATIVE);
	if (question != NULL)
		mdns_write_question(writer, question->name.text, question->type,
		    question->class);
	mdns_node_write(
	    node, kinds & MDNS_GO_ALL, ttl, MDNS_ANSWER, false, writer);
	if ((kinds & MDNS_BIT(MDNS_GO_LIST)) != 0)
		go_list_write(node, ttl, writer);
	return mdns_write_end(writer);
}
