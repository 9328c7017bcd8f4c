/* SPDX-License-Identifier: Apache-2.0 */
#include "kv.h"

#include <svc/log.h>

#include <inttypes.h>
#include <string.h>

enum { PAGE = 500 };

static const char prefix[] = "/micro/registry/";

/* ------------------------------------------------------------------ base64 */

static const char alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void
kv_put_base64(struct svc_buf *body, const void *data, size_t len)
{
	const uint8_t *p = data;
	if (svc_buf_reserve(body, len / 3 * 4 + 8) != SVC_OK)
		return;
	svc_buf_putc(body, '"');
	for (size_t i = 0; i < len; i += 3) {
		size_t n = len - i < 3 ? len - i : 3;
		uint32_t bits = (uint32_t)p[i] << 16;
		if (n > 1)
			bits |= (uint32_t)p[i + 1] << 8;
		if (n > 2)
			bits |= p[i + 2];
		char out[4] = {alphabet[bits >> 18], alphabet[bits >> 12 & 63],
		    n > 1 ? alphabet[bits >> 6 & 63] : '=',
		    n > 2 ? alphabet[bits & 63] : '='};
		svc_buf_append(body, out, sizeof(out));
	}
	svc_buf_putc(body, '"');
}

static int
sextet(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* The bytes of a base64 text with a NUL behind them, to be freed with
 * svc_mem_free; NULL when it is none or memory ran out. */
static char *
from_base64(const cJSON *item, size_t *ret_len)
{
	const char *text = cJSON_IsString(item) ? item->valuestring : "";
	size_t len = strlen(text), used = 0;
	char *out = svc_mem_alloc(len / 4 * 3 + 4);
	uint32_t bits = 0;
	unsigned have = 0;
	if (out == NULL)
		return NULL;
	while (len > 0 && text[len - 1] == '=')
		len--;
	for (size_t i = 0; i < len; i++) {
		int six = sextet(text[i]);
		if (six < 0) {
			svc_mem_free(out);
			return NULL;
		}
		bits = bits << 6 | (uint32_t)six;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[used++] = (char)(bits >> have & 0xff);
		}
	}
	out[used] = '\0';
	*ret_len = used;
	return out;
}

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
		kv_put_base64(body, from, from_len);
	else
		kv_put_base64(body, text.data, text.len);
	svc_buf_puts(body, ",\"range_end\":");
	if (text.failed == SVC_OK) {
		text.data[text.len - 1] = '0';
		kv_put_base64(body, text.data, text.len);
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

static uint64_t
hash_text(const char *text, size_t len)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static void
skip(struct etcd *etcd, const char *key, size_t len, const char *why)
{
	char quoted[160];
	uint64_t hash = hash_text(key, len);
	bool known = false;
	pthread_mutex_lock(&etcd->lock);
	size_t skipped = ++etcd->skipped;
	for (size_t i = 0; i < etcd->n_warned; i++)
		known = known || etcd->warned[i] == hash;
	if (etcd->n_warned == WARNED_MAX)
		known = true;
	else if (!known)
		etcd->warned[etcd->n_warned++] = hash;
	pthread_mutex_unlock(&etcd->lock);
	if (!known)
		svc_log(SVC_LOG_WARN, "etcd.skipped",
		    "skipped key %s: %s (number %zu)",
		    svc_log_quote(key, len, quoted, sizeof(quoted)), why,
		    skipped);
}

/* Finds in a value the node that its key names, and delivers it. */
static const char *
deliver_value(const char *service, const char *id, const cJSON *kv,
    svc_record_sink sink, void *arg, struct svc_error *detail)
{
	size_t len = 0;
	struct svc_record *record = NULL;
	char *value =
	    from_base64(cJSON_GetObjectItemCaseSensitive(kv, "value"), &len);
	if (value == NULL)
		return "its value cannot be read";
	svc_err rc = svc_record_decode(value, len, &record, detail);
	svc_mem_free(value);
	if (rc != SVC_OK)
		return detail->text;
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
	return why;
}

void
kv_deliver(struct etcd *etcd, const cJSON *kv, svc_record_sink sink, void *arg)
{
	struct svc_error detail = {0};
	const char *service = NULL, *id = NULL, *why = "it names no node";
	size_t len = 0;
	char *key =
	    from_base64(cJSON_GetObjectItemCaseSensitive(kv, "key"), &len);
	if (key == NULL)
		return;
	uint8_t cut = split_key(key, len, &service, &id);
	if (cut)
		why = deliver_value(service, id, kv, sink, arg, &detail);
	if (why != NULL) {
		if (cut)
			key[strlen(key)] = '/';
		skip(etcd, key, len, why);
	}
	svc_mem_free(key);
}

void
kv_deliver_gone(struct etcd *etcd, const cJSON *kv, const cJSON *old,
    svc_record_sink sink, void *arg)
{
	struct svc_error detail = {0};
	const char *service = NULL, *id = NULL;
	size_t len = 0;
	char *key =
	    from_base64(cJSON_GetObjectItemCaseSensitive(kv, "key"), &len);
	(void)etcd;
	if (key == NULL)
		return;
	if (split_key(key, len, &service, &id) &&
	    (old == NULL ||
		deliver_value(service, id, old, sink, arg, &detail) != NULL)) {
		struct svc_node node = {.id = id, .address = ""};
		struct svc_record one = {.name = service,
		    .version = "",
		    .nodes = &node,
		    .n_nodes = 1};
		sink(&one, arg);
	}
	svc_mem_free(key);
}

/* ------------------------------------------------------------------ ranges */

svc_err
kv_range(struct etcd *etcd, const char *service, kv_asker ask, void *ask_arg,
    svc_record_sink sink, void *arg, int64_t *ret_revision,
    struct svc_error *err)
{
	int64_t revision = 0;
	char *from = NULL;
	size_t from_len = 0;
	for (bool more = true; more;) {
		struct svc_buf body;
		cJSON *answer = NULL;
		const cJSON *kv, *last = NULL;
		svc_buf_init(&body, BODY_MAX);
		svc_buf_putc(&body, '{');
		put_range_from(&body, service, from, from_len);
		/* Answered by any member, also without a majority. */
		svc_buf_printf(
		    &body, ",\"limit\":\"%d\",\"serializable\":true", PAGE);
		if (revision > 0)
			svc_buf_printf(
			    &body, ",\"revision\":\"%" PRId64 "\"", revision);
		svc_buf_putc(&body, '}');
		svc_err rc = ask(ask_arg, "/v3/kv/range", &body, &answer, err);
		svc_buf_fini(&body);
		svc_mem_free(from);
		from = NULL;
		if (rc != SVC_OK)
			return rc;
		if (revision == 0)
			revision = etcd_revision(answer);
		cJSON_ArrayForEach (
		    kv, cJSON_GetObjectItemCaseSensitive(answer, "kvs")) {
			kv_deliver(etcd, kv, sink, arg);
			last = kv;
		}
		more = cJSON_IsTrue(
			   cJSON_GetObjectItemCaseSensitive(answer, "more")) &&
		       last != NULL;
		if (more) {
			/* Goes on with the least key behind the last: its own
			 * text and the NUL that stands behind it. */
			from = from_base64(
			    cJSON_GetObjectItemCaseSensitive(last, "key"),
			    &from_len);
			from_len++;
		}
		cJSON_Delete(answer);
		if (more && from == NULL)
			return svc_error_set(err, SVC_E_NOMEM,
			    "no memory for the registry's answer");
	}
	*ret_revision = revision;
	return SVC_OK;
}
