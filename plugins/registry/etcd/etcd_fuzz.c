/* SPDX-License-Identifier: Apache-2.0 */
/* What etcd's gateway says, by the first byte: an answer to a range, a line of
 * a watch, or any other answer. */
#include "kv.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(const struct svc_record *record, bool whole)
{
	if (record->n_nodes != 1 || record->nodes[0].id[0] == '\0' ||
	    strlen(record->name) == 0)
		abort();
	if (!whole)
		return;
	if (record->nodes[0].address[0] == '\0')
		abort();
	/* What was read can be written, and means the same then. */
	char *text = svc_record_encode(record);
	struct svc_record *again = NULL;
	if (text != NULL &&
	    svc_record_decode(text, strlen(text), &again, NULL) != SVC_OK &&
	    strlen(text) < 1 << 20)
		abort();
	svc_record_destroy(again);
	svc_mem_free(text);
}

static void
found(const struct svc_record *record, void *arg)
{
	(void)arg;
	check(record, true);
}

static void
changed(svc_watch_event event, const struct svc_record *record, void *arg)
{
	(void)arg;
	if (event != SVC_WATCH_NODE && event != SVC_WATCH_GONE)
		abort();
	check(record, event == SVC_WATCH_NODE);
}

static void
range(const char *text, size_t len, struct skips *skips)
{
	cJSON *json = cJSON_ParseWithLength(text, len);
	const cJSON *kv;
	size_t key_len;
	cJSON_ArrayForEach (kv, message_get(json, "kvs")) {
		kv_deliver(skips, kv, found, NULL);
		char *key = NULL;
		message_bytes(kv, "key", &key, &key_len);
		svc_mem_free(key);
	}
	message_revision(json);
	message_true(json, "more");
	cJSON_Delete(json);
}

static void
watch(const char *text, size_t len, struct skips *skips)
{
	struct message_watch said;
	const cJSON *event;
	if (message_watch_read(text, len, &said) == SVC_OK) {
		cJSON_ArrayForEach (event, said.events)
			kv_deliver_event(skips, event, changed, NULL);
	}
	message_watch_fini(&said);
}

static void
other(const char *text, size_t len)
{
	char quoted[120];
	cJSON *json = cJSON_ParseWithLength(text, len);
	message_error(200, json, text, len, quoted, sizeof(quoted));
	if (message_error(500, json, text, len, quoted, sizeof(quoted)) ==
	    SVC_OK)
		abort();
	message_keepalive_ttl(json);
	message_int(json, "ID");
	cJSON_Delete(json);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct skips skips;
	if (size == 0)
		return 0;
	const char *text = (const char *)data + 1;
	skips_init(&skips);
	switch (data[0]) {
	case 'r':
		range(text, size - 1, &skips);
		break;
	case 'w':
		watch(text, size - 1, &skips);
		break;
	default:
		other(text, size - 1);
		break;
	}
	skips_fini(&skips);
	return 0;
}
