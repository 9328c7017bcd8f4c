/* SPDX-License-Identifier: Apache-2.0 */
#include "node.h"

#include <pack/pack.h>

#include <svc/log.h>

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	TAGS_MAX = 2048,
	ENDPOINTS_MAX = 1000,
	ENDPOINT_MAX = 256 << 10, /* bytes, unpacked */
	PAIR_MAX = 128 << 10,
	VERSION_MAX = 64,
	HOST_MAX = 255,
	NODE_MAX = 4 << 20, /* all that the tags of one node hold, unpacked */
	/* Consul itself never deregisters earlier than after a minute. */
	DEREGISTER_LEAST_MS = 65000,
	DEREGISTER_AFTER_MS = 5000,
};

/* ------------------------------------------------------------------ naming */

static bool
begins_with(const char *text, const char *first, char then)
{
	size_t len = strlen(first);
	return strncmp(text, first, len) == 0 && text[len] == then;
}

char *
node_instance(const char *service, const char *id)
{
	struct svc_buf buf;
	if (begins_with(id, service, '-'))
		return svc_mem_strdup(id);
	svc_buf_init(&buf, 1024);
	svc_buf_printf(&buf, "%s/%s", service, id);
	char *instance = buf.failed == SVC_OK ? svc_buf_take(&buf, NULL) : NULL;
	svc_buf_fini(&buf);
	return instance;
}

const char *
node_id(const char *service, const char *instance)
{
	return begins_with(instance, service, '/')
		   ? instance + strlen(service) + 1
		   : instance;
}

/* Cuts "host:port" into what consul has apart. What it cannot hold so that it
 * would come out the same goes whole into the host, without a port. */
static void
split_address(
    const char *address, char ret_host[HOST_MAX + 1], unsigned *ret_port)
{
	const char *colon = strrchr(address, ':');
	size_t len = colon != NULL ? (size_t)(colon - address) : 0;
	unsigned port = 0;
	struct in6_addr ip;
	*ret_port = 0;
	snprintf(ret_host, HOST_MAX + 1, "%s", address);
	if (len == 0 || colon[1] == '0' || strlen(colon + 1) > 5)
		return;
	for (const char *p = colon + 1; *p != '\0'; p++) {
		if (*p < '0' || *p > '9')
			return;
		port = port * 10 + (unsigned)(*p - '0');
	}
	if (port < 1 || port > UINT16_MAX || strlen(address) > HOST_MAX)
		return;
	char host[HOST_MAX + 1];
	memcpy(host, address, len);
	host[len] = '\0';
	if (host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = '\0';
		memmove(host, host + 1, len - 1);
		if (inet_pton(AF_INET6, host, &ip) != 1)
			return;
	} else if (strchr(host, ':') != NULL) {
		return;
	}
	memcpy(ret_host, host, sizeof(host));
	*ret_port = port;
}

static char *
join_address(const char *host, unsigned port)
{
	struct in6_addr ip;
	struct svc_buf buf;
	if (port == 0)
		return svc_mem_strdup(host);
	svc_buf_init(&buf, HOST_MAX + 64);
	svc_buf_printf(&buf,
	    inet_pton(AF_INET6, host, &ip) == 1 ? "[%s]:%u" : "%s:%u", host,
	    port);
	char *address = svc_buf_take(&buf, NULL);
	svc_buf_fini(&buf);
	return address;
}

/* ----------------------------------------------------------------- writing */

static void
put_text(struct svc_buf *body, const char *text)
{
	svc_buf_json_string(body, text, strlen(text));
}

/* As Go writes a duration: "1m30s", "1h0m0s", "1.5s", "500ms". */
static void
put_duration(struct svc_buf *body, int64_t ms)
{
	int64_t s = ms / 1000, rest = ms % 1000;
	svc_buf_putc(body, '"');
	if (ms < 1000) {
		svc_buf_printf(body, "%" PRId64 "ms\"", ms);
		return;
	}
	if (s >= 3600)
		svc_buf_printf(body, "%" PRId64 "h", s / 3600);
	if (s >= 60)
		svc_buf_printf(body, "%" PRId64 "m", s / 60 % 60);
	svc_buf_printf(body, "%" PRId64, s % 60);
	if (rest != 0) {
		svc_buf_printf(body, ".%03d", (int)rest);
		while (body->len > 0 && body->data[body->len - 1] == '0')
			body->len--;
	}
	svc_buf_puts(body, "s\"");
}

static svc_err
put_tag(struct svc_buf *body, char kind, const char *text, size_t len)
{
	bool first = body->len > 0 && body->data[body->len - 1] == '[';
	svc_buf_printf(body, "%s\"%c-", first ? "" : ",", kind);
	svc_err rc = pack_encode(text, len, body);
	svc_buf_putc(body, '"');
	return rc;
}

struct pair {
	const char *name, *value;
};

static int
pair_compare(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;
	return strcmp(x->name, y->name);
}

/* Sorted, so that the same metadata makes the same body. */
static svc_err
put_metadata(struct svc_buf *body, const struct svc_headers *metadata)
{
	size_t n = svc_headers_count(metadata);
	struct pair *pairs = svc_mem_calloc(n + 1, sizeof(*pairs));
	struct svc_buf text;
	svc_err rc = SVC_OK;
	if (pairs == NULL)
		return SVC_E_NOMEM;
	svc_buf_init(&text, 1 << 20);
	for (size_t i = 0; i < n; i++)
		svc_headers_at(metadata, i, &pairs[i].name, &pairs[i].value);
	qsort(pairs, n, sizeof(*pairs), pair_compare);
	for (size_t i = 0; i < n && rc == SVC_OK; i++) {
		svc_buf_clear(&text);
		svc_buf_putc(&text, '{');
		put_text(&text, pairs[i].name);
		svc_buf_putc(&text, ':');
		put_text(&text, pairs[i].value);
		rc = svc_buf_putc(&text, '}');
		if (text.failed != SVC_OK)
			rc = text.failed;
		if (rc == SVC_OK)
			rc = put_tag(body, 't', (char *)text.data, text.len);
	}
	svc_buf_fini(&text);
	svc_mem_free(pairs);
	return rc;
}

static svc_err
put_tags(struct svc_buf *body, const struct svc_record *record,
    char *const *extra, size_t n_extra)
{
	svc_buf_puts(body, ",\"Tags\":[");
	svc_err rc = put_metadata(body, record->nodes[0].metadata);
	for (size_t i = 0; i < record->n_endpoints && rc == SVC_OK; i++) {
		char *text = svc_endpoint_encode(&record->endpoints[i]);
		rc = text != NULL ? put_tag(body, 'e', text, strlen(text))
				  : SVC_E_NOMEM;
		svc_mem_free(text);
	}
	if (rc == SVC_OK)
		rc = put_tag(
		    body, 'v', record->version, strlen(record->version));
	/* At the end: go-micro lets the first tag that begins with t, e or v
	 * decide how it reads the others. */
	for (size_t i = 0; i < n_extra; i++) {
		svc_buf_putc(body, ',');
		put_text(body, extra[i]);
	}
	svc_buf_putc(body, ']');
	return rc;
}

svc_err
node_encode(const struct svc_record *record, int64_t ttl_ms, char *const *extra,
    size_t n_extra, struct svc_buf *body)
{
	const struct svc_node *node = &record->nodes[0];
	char host[HOST_MAX + 1];
	unsigned port;
	int64_t after_ms = ttl_ms < 60000 ? DEREGISTER_LEAST_MS
			   : ttl_ms > INT64_MAX - DEREGISTER_AFTER_MS
			       ? INT64_MAX
			       : ttl_ms + DEREGISTER_AFTER_MS;
	char *instance = node_instance(record->name, node->id);
	if (instance == NULL)
		return SVC_E_NOMEM;
	split_address(node->address, host, &port);
	svc_buf_puts(body, "{\"ID\":");
	put_text(body, instance);
	svc_mem_free(instance);
	svc_buf_puts(body, ",\"Name\":");
	put_text(body, record->name);
	svc_err rc = put_tags(body, record, extra, n_extra);
	svc_buf_printf(body, ",\"Port\":%u,\"Address\":", port);
	put_text(body, host);
	svc_buf_puts(body, ",\"Check\":{\"TTL\":");
	put_duration(body, ttl_ms);
	svc_buf_puts(body, ",\"DeregisterCriticalServiceAfter\":");
	put_duration(body, after_ms);
	svc_buf_puts(body, ",\"Status\":\"passing\"}}");
	return rc != SVC_OK ? rc : body->failed;
}

/* ----------------------------------------------------------------- reading */

static const char *
text_of(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
	return cJSON_IsString(item) ? item->valuestring : "";
}

static bool
is_tag(const char *tag, char kind)
{
	return tag[0] == kind && (tag[1] == '-' || tag[1] == '=');
}

svc_err
node_tag_check(const char *tag, struct svc_error *err)
{
	char quoted[64];
	size_t len = strlen(tag);
	bool bad = len == 0 || len > HOST_MAX || is_tag(tag, 't') ||
		   is_tag(tag, 'e') || is_tag(tag, 'v') ||
		   (len == 1 && strchr("tev", tag[0]) != NULL);
	for (const char *p = tag; *p != '\0'; p++)
		bad = bad || *p <= ' ' || *p > '~';
	if (!bad)
		return SVC_OK;
	return svc_error_set(err, SVC_E_INVAL,
	    "consul tag %s: use 1 to %d of printable ASCII without space that "
	    "does not begin as a record's own (t- e- v- t= e= v=)",
	    svc_log_quote(tag, len, quoted, sizeof(quoted)), HOST_MAX);
}

bool
node_is_ours(const cJSON *tags)
{
	const cJSON *tag;
	cJSON_ArrayForEach (tag, tags)
		if (cJSON_IsString(tag) && is_tag(tag->valuestring, 'v'))
			return true;
	return false;
}

/* What a tag holds, in `text`; false when it does not decode. */
static svc_err
unpack(const char *tag, struct svc_buf *text)
{
	svc_buf_clear(text);
	if (tag[1] == '=')
		return svc_buf_puts(text, tag + 2);
	return pack_decode(tag + 2, strlen(tag + 2), text);
}

/* A text in a buffer, without NUL inside. */
static bool
is_text(const struct svc_buf *text)
{
	return text->len > 0 && memchr(text->data, '\0', text->len) == NULL;
}

void
node_versions(
    const char *service, const cJSON *tags, svc_record_sink sink, void *arg)
{
	struct svc_buf text;
	const cJSON *tag;
	svc_buf_init(&text, VERSION_MAX);
	cJSON_ArrayForEach (tag, tags) {
		if (!cJSON_IsString(tag) || !is_tag(tag->valuestring, 'v') ||
		    unpack(tag->valuestring, &text) != SVC_OK ||
		    !is_text(&text))
			continue;
		struct svc_record record = {
		    .name = service, .version = (const char *)text.data};
		sink(&record, arg);
	}
	svc_buf_fini(&text);
}

/* Which form of tags counts, for each kind: that of the first there is. */
struct forms {
	char t, e, v;
};

static bool
counts(const char *tag, char kind, char *form)
{
	if (!is_tag(tag, kind))
		return false;
	if (*form == '\0')
		*form = tag[1];
	return *form == tag[1];
}

static svc_err
take_version(struct node *node, const struct svc_buf *text)
{
	if (node->version != NULL)
		return SVC_OK;
	if (!is_text(text) || text->len > VERSION_MAX)
		return SVC_E_INVAL;
	node->version = svc_mem_strdup((const char *)text->data);
	return node->version != NULL ? SVC_OK : SVC_E_NOMEM;
}

static svc_err
take_endpoint(struct node *node, const struct svc_buf *text)
{
	struct svc_record *part = NULL;
	size_t n = node->record.n_endpoints;
	if (n == ENDPOINTS_MAX)
		return SVC_E_INVAL;
	svc_err rc = svc_endpoint_decode(text->data, text->len, &part, NULL);
	if (rc == SVC_OK && part->endpoints[0].name[0] == '\0')
		rc = SVC_E_INVAL;
	if (rc != SVC_OK) {
		svc_record_destroy(part);
		return rc;
	}
	node->parts[n] = part;
	node->endpoints[n] = part->endpoints[0];
	node->record.n_endpoints++;
	return SVC_OK;
}

/* One tag; what does not decode is passed over, as go-micro does. */
static svc_err
take_tag(struct node *node, const char *tag, struct forms *forms,
    struct svc_buf *text)
{
	svc_err rc = SVC_OK;
	if (counts(tag, 't', &forms->t)) {
		text->max = PAIR_MAX;
		rc = unpack(tag, text);
		if (rc == SVC_OK)
			rc = svc_metadata_decode(
			    text->data, text->len, node->node.metadata, NULL);
	} else if (counts(tag, 'e', &forms->e)) {
		text->max = ENDPOINT_MAX;
		rc = unpack(tag, text);
		if (rc == SVC_OK)
			rc = take_endpoint(node, text);
	} else if (counts(tag, 'v', &forms->v)) {
		text->max = PAIR_MAX;
		rc = unpack(tag, text);
		if (rc == SVC_OK)
			rc = take_version(node, text);
	}
	if (rc == SVC_E_INVAL || rc == SVC_E_EXHAUSTED) {
		node->n_bad++;
		rc = SVC_OK;
	}
	return rc;
}

static svc_err
take_tags(struct node *node, const cJSON *tags)
{
	struct forms forms = {0};
	struct svc_buf text;
	const cJSON *tag;
	size_t n = 0, n_endpoints = 0, bytes = 0;
	svc_err rc = SVC_OK;
	cJSON_ArrayForEach (tag, tags)
		n_endpoints += cJSON_IsString(tag) &&
			       is_tag(tag->valuestring, 'e') &&
			       n_endpoints < ENDPOINTS_MAX;
	node->node.metadata = svc_headers_create();
	node->endpoints =
	    svc_mem_calloc(n_endpoints + 1, sizeof(*node->endpoints));
	node->parts =
	    svc_mem_calloc(n_endpoints + 1, sizeof(struct svc_record *));
	if (node->node.metadata == NULL || node->endpoints == NULL ||
	    node->parts == NULL)
		return SVC_E_NOMEM;
	svc_buf_init(&text, ENDPOINT_MAX);
	cJSON_ArrayForEach (tag, tags) {
		if (!cJSON_IsString(tag))
			continue;
		if (n++ == TAGS_MAX || bytes > NODE_MAX) {
			node->n_bad++;
			break;
		}
		rc = take_tag(node, tag->valuestring, &forms, &text);
		if (rc != SVC_OK)
			break;
		bytes += text.len;
	}
	svc_buf_fini(&text);
	return rc;
}

svc_err
node_decode(struct node *node, const char *service, const cJSON *entry,
    struct svc_error *err)
{
	const cJSON *home = cJSON_GetObjectItemCaseSensitive(entry, "Node");
	const cJSON *at = cJSON_GetObjectItemCaseSensitive(entry, "Service");
	const cJSON *port = cJSON_GetObjectItemCaseSensitive(at, "Port");
	const char *host = text_of(at, "Address");
	double number = cJSON_IsNumber(port) ? port->valuedouble : 0;
	*node = (struct node){0};
	if (*host == '\0')
		host = text_of(home, "Address");
	if (strcmp(text_of(at, "Service"), service) != 0)
		return svc_error_set(
		    err, SVC_E_INVAL, "it is of another service");
	if (*host == '\0' || strlen(host) > HOST_MAX || !(number >= 0) ||
	    number > UINT16_MAX)
		return svc_error_set(
		    err, SVC_E_INVAL, "it has no usable address");
	svc_err rc =
	    take_tags(node, cJSON_GetObjectItemCaseSensitive(at, "Tags"));
	node->address = join_address(host, (unsigned)number);
	if (rc != SVC_OK || node->address == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory to read a node");
	if (node->version == NULL)
		return svc_error_set(
		    err, SVC_E_INVAL, "none of its tags is a version");
	node->node.id = node_id(service, text_of(at, "ID"));
	node->node.address = node->address;
	node->record.name = service;
	node->record.version = node->version;
	node->record.endpoints = node->endpoints;
	node->record.nodes = &node->node;
	node->record.n_nodes = 1;
	return svc_record_check(&node->record, err);
}

void
node_fini(struct node *node)
{
	for (size_t i = 0; i < node->record.n_endpoints; i++)
		svc_record_destroy(node->parts[i]);
	svc_mem_free(node->parts);
	svc_mem_free(node->endpoints);
	svc_headers_destroy(node->node.metadata);
	svc_mem_free(node->version);
	svc_mem_free(node->address);
	*node = (struct node){0};
}
