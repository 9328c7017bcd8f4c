/* SPDX-License-Identifier: Apache-2.0 */
#include "kv.h"

#include <address/hash.h>

#include <svc/log.h>

#include <inttypes.h>
#include <string.h>

enum { PAGE = 500 };

static const char prefix[] = "/micro/registry/";

/* -------------------------------------------------------------------- keys */

char *
kv_key(const char *service, const char *id)
{
	struct svc_buf buf;
	svc_buf_init(&buf, 1024);
	svc_buf_printf(&buf, "%s%s/%s", prefix, service, id);
	char *key = buf.failed == SVC_OK ? svc_buf_take(&buf, NULL) : NULL;
	svc_buf_fini(&buf);
	return key;
}

/* The end of a range is the first key that does not begin with it: '0'
 * follows '/'. */
static void
put_range_from(struct svc_buf *body, const char *service, const char *from,
    size_t from_len)
{
	struct svc_buf text;
	svc_buf_init(&text, 1024);
	svc_buf_puts(&text, prefix);
	if (service != NULL)
		svc_buf_printf(&text, "%s/", service);
	svc_buf_puts(body, "\"key\":");
	if (from != NULL)
		message_put_bytes(body, from, from_len);
	else
		message_put_bytes(body, text.data, text.len);
	svc_buf_puts(body, ",\"range_end\":");
	if (text.failed == SVC_OK) {
		text.data[text.len - 1] = '0';
		message_put_bytes(body, text.data, text.len);
	} else {
		body->failed = text.failed;
	}
	svc_buf_fini(&text);
}

void
kv_put_range(struct svc_buf *body, const char *service)
{
	put_range_from(body, service, NULL, 0);
}

void
kv_put_first(struct svc_buf *body, const char *service)
{
	struct svc_buf text;
	svc_buf_init(&text, 1024);
	svc_buf_puts(&text, prefix);
	if (service != NULL)
		svc_buf_printf(&text, "%s/", service);
	svc_buf_puts(body, "\"key\":");
	message_put_bytes(body, text.data, text.len);
	if (text.failed != SVC_OK)
		body->failed = text.failed;
	svc_buf_fini(&text);
}

/* Cuts a key in place into the names of service and node. */
static bool
split_key(char *key, size_t len, const char **ret_service, const char **ret_id)
{
	size_t at = sizeof(prefix) - 1;
	if (strlen(key) != len || strncmp(key, prefix, at) != 0)
		return false;
	char *slash = strchr(key + at, '/');
	if (slash == NULL || slash == key + at || slash[1] == '\0' ||
	    strchr(slash + 1, '/') != NULL)
		return false;
	*slash = '\0';
	*ret_service = key + at;
	*ret_id = slash + 1;
	return true;
}

/* In keys, go-micro writes '-' for every '/' of a name. */
static bool
is_in_key(const char *name, const char *part)
{
	for (; *name != '\0' && *part != '\0'; name++, part++)
		if (*part != (*name == '/' ? '-' : *name))
			return false;
	return *name == *part;
}

/* ----------------------------------------------------------------- records */

static void
skip(struct skips *skips, const char *key, size_t len, const char *why)
{
	char quoted[160];
	size_t count;
	if (skips_add(skips, hash_bytes(HASH_START, key, len), &count))
		svc_log(SVC_LOG_WARN, "etcd.skipped",
		    "skipped key %s: %s (number %zu)",
		    svc_log_quote(key, len, quoted, sizeof(quoted)), why,
		    count);
}

/* Finds in a value the node that its key names, and delivers it; else `why`
 * is told. Errors: SVC_E_NOMEM */
static svc_err
deliver_value(const char *service, const char *id, const cJSON *kv,
    svc_record_sink sink, void *arg, struct svc_error *detail,
    const char **ret_why)
{
	size_t len = 0;
	struct svc_record *record = NULL;
	char *value = NULL;
	svc_err rc = message_bytes(kv, "value", &value, &len);
	*ret_why = "its value cannot be read";
	if (rc == SVC_OK) {
		rc = svc_record_decode(value, len, &record, detail);
		svc_mem_free(value);
		*ret_why = detail->text;
	}
	if (rc != SVC_OK)
		return rc == SVC_E_NOMEM ? rc : SVC_OK;
	const char *why = NULL;
	const struct svc_node *node = NULL;
	for (size_t i = 0; i < record->n_nodes; i++)
		if (is_in_key(record->nodes[i].id, id))
			node = &record->nodes[i];
	if (!is_in_key(record->name, service)) {
		why = "its value is of another service";
	} else if (node == NULL) {
		why = "its value lacks that node";
	} else if (node->address[0] == '\0') {
		why = "its node has no address";
	} else {
		struct svc_record one = *record;
		one.nodes = node;
		one.n_nodes = 1;
		sink(&one, arg);
	}
	svc_record_destroy(record);
	*ret_why = why;
	return SVC_OK;
}

svc_err
kv_deliver(
    struct skips *skips, const cJSON *kv, svc_record_sink sink, void *arg)
{
	struct svc_error detail = {0};
	const char *service = NULL, *id = NULL, *why = "it names no node";
	size_t len = 0;
	char *key = NULL;
	svc_err rc = message_bytes(kv, "key", &key, &len);
	if (rc != SVC_OK)
		return rc == SVC_E_NOMEM ? rc : SVC_OK;
	uint8_t cut = split_key(key, len, &service, &id);
	if (cut)
		rc = deliver_value(service, id, kv, sink, arg, &detail, &why);
	if (rc == SVC_OK && why != NULL) {
		if (cut)
			key[strlen(key)] = '/';
		skip(skips, key, len, why);
	}
	svc_mem_free(key);
	return rc;
}

/* Tells a watch of one record. */
struct event_sink {
	svc_watch_sink sink;
	void *arg;
	svc_watch_event event;
};

static void
sink_event(const struct svc_record *record, void *arg)
{
	const struct event_sink *to = arg;
	to->sink(to->event, record, to->arg);
}

static svc_err
kv_deliver_gone(
    const cJSON *kv, const cJSON *old, svc_record_sink sink, void *arg)
{
	struct svc_error detail = {0};
	const char *service = NULL, *id = NULL, *why = "";
	size_t len = 0;
	char *key = NULL;
	svc_err rc = message_bytes(kv, "key", &key, &len);
	if (rc != SVC_OK)
		return rc == SVC_E_NOMEM ? rc : SVC_OK;
	bool known = split_key(key, len, &service, &id);
	if (known && old != NULL)
		rc = deliver_value(service, id, old, sink, arg, &detail, &why);
	if (known && (rc != SVC_OK || why != NULL)) {
		struct svc_node node = {.id = id, .address = ""};
		struct svc_record one = {.name = service,
		    .version = "",
		    .nodes = &node,
		    .n_nodes = 1};
		sink(&one, arg);
	}
	svc_mem_free(key);
	return SVC_OK;
}

svc_err
kv_deliver_event(
    struct skips *skips, const cJSON *event, svc_watch_sink sink, void *arg)
{
	const cJSON *kv = message_get(event, "kv");
	const cJSON *type = message_get(event, "type");
	struct event_sink to = {sink, arg, SVC_WATCH_NODE};
	if (cJSON_IsString(type) && strcmp(type->valuestring, "DELETE") == 0) {
		to.event = SVC_WATCH_GONE;
		return kv_deliver_gone(
		    kv, message_get(event, "prev_kv"), sink_event, &to);
	}
	return kv_deliver(skips, kv, sink_event, &to);
}

/* ------------------------------------------------------------------ ranges */

void
kv_range_begin(struct kv_range *range, const char *service)
{
	kv_range_fini(range);
	*range = (struct kv_range){.service = service};
}

void
kv_range_fini(struct kv_range *range)
{
	svc_mem_free(range->from);
	range->from = NULL;
}

void
kv_range_put(const struct kv_range *range, struct svc_buf *body)
{
	svc_buf_putc(body, '{');
	put_range_from(body, range->service, range->from, range->from_len);
	/* Answered by any member, also without a majority. */
	svc_buf_printf(body, ",\"limit\":\"%d\",\"serializable\":true", PAGE);
	if (range->revision > 0)
		svc_buf_printf(
		    body, ",\"revision\":\"%" PRId64 "\"", range->revision);
	svc_buf_putc(body, '}');
}

svc_err
kv_range_take(struct kv_range *range, struct skips *skips, const cJSON *answer,
    svc_record_sink sink, void *arg, struct svc_error *err)
{
	svc_err rc = SVC_OK;
	const cJSON *kv, *last = NULL;
	if (range->revision == 0)
		range->revision = message_revision(answer);
	cJSON_ArrayForEach (kv, message_get(answer, "kvs")) {
		if (rc == SVC_OK)
			rc = kv_deliver(skips, kv, sink, arg);
		last = kv;
	}
	range->more = message_true(answer, "more") && last != NULL;
	svc_mem_free(range->from);
	range->from = NULL;
	if (rc == SVC_OK && range->more) {
		/* Goes on with the least key behind the last: its own text and
		 * the NUL that stands behind it. */
		rc = message_bytes(last, "key", &range->from, &range->from_len);
		range->from_len++;
	}
	return rc == SVC_OK ? rc
			    : svc_error_set(err, rc,
				  "no memory for the registry's answer");
}

svc_err
kv_range(struct skips *skips, const char *service, kv_asker ask, void *ask_arg,
    svc_record_sink sink, void *arg, struct svc_error *err)
{
	struct kv_range range = {.service = service};
	svc_err rc = SVC_OK;
	do {
		struct svc_buf body;
		cJSON *answer = NULL;
		svc_buf_init(&body, KV_RANGE_MAX);
		kv_range_put(&range, &body);
		rc = ask(ask_arg, "/v3/kv/range", &body, &answer, err);
		svc_buf_fini(&body);
		if (rc == SVC_OK)
			rc = kv_range_take(
			    &range, skips, answer, sink, arg, err);
		cJSON_Delete(answer);
	} while (rc == SVC_OK && range.more);
	kv_range_fini(&range);
	return rc;
}
