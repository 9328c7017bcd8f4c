/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_found.h"

#include "mdns_name.h"
#include "mdns_txt.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#define FOUND_MAX 64

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
	size_t n;
	struct found items[FOUND_MAX];
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
		    !mdns_ends_with(name, "." MDNS_DOMAIN))
			continue;
		if (rr.type != MDNS_TYPE_PTR) {
			if (!mdns_ends_with(name, "." MDNS_LIST))
				found_add(founds, &rr);
		} else if (strcmp(name, MDNS_LIST) == 0) {
			char owner[MDNS_NAME_SIZE];
			const char *list = rr.target.text;
			if (rr.ttl == 0 || !rr.target.plain ||
			    !mdns_ends_with(list, "." MDNS_LIST))
				continue;
			snprintf(owner, sizeof(owner), "%.*s." MDNS_DOMAIN,
			    (int)(strlen(list) - strlen("." MDNS_LIST)), list);
			sink->listed(owner, arg);
		} else if (strcmp(name, MDNS_ENUMERATION) != 0 &&
			   mdns_ends_with(rr.target.text, name)) {
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
			mdns_address_format(
			    AF_INET, rr.data, found->port, ret_text);
			return;
		}
		if (rr.type == MDNS_TYPE_AAAA && rr.len == 16 && !has_v6) {
			has_v6 = true;
			mdns_address_format(
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
	struct founds founds; /* 35 KB; a goodbye needs no memory */
	founds.n = 0;
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
}

uint64_t
mdns_found_hash(const struct mdns_found *found)
{
	uint64_t h = mdns_hash(
	    MDNS_HASH_START, found->instance, strlen(found->instance) + 1);
	h = mdns_hash(h, found->address, strlen(found->address) + 1);
	return mdns_hash(h, found->txt, found->txt_len);
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
	mdns_json_text(out, "{\"name\":", service);
	mdns_json_text(out, ",\"version\":", version);
	json_append(
	    out, ",\"metadata\":", cJSON_GetObjectItem(txt, "ServiceMetadata"));
	json_append(
	    out, ",\"endpoints\":", cJSON_GetObjectItem(txt, "Endpoints"));
	mdns_json_text(out, ",\"nodes\":[{\"id\":", id);
	mdns_json_text(out, ",\"address\":", address);
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
