/* SPDX-License-Identifier: Apache-2.0 */
#include "answer.h"

#include <address/hash.h>

#include "node.h"

#include <svc/log.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far beyond what one consul holds for one service, or for all. */
enum { NODES_MAX = 100000, NAMES_MAX = 100000 };

static svc_err
no_memory(struct svc_error *err)
{
	return svc_error_set(
	    err, SVC_E_NOMEM, "no memory for the registry's answer");
}

/* Only whole JSON of the right kind is an answer. */
static svc_err
parse(const void *data, size_t len, bool list, cJSON **ret_json,
    struct svc_error *err)
{
	cJSON *json = cJSON_ParseWithLength(len > 0 ? data : "", len);
	if (list ? cJSON_IsArray(json) : cJSON_IsObject(json)) {
		*ret_json = json;
		return SVC_OK;
	}
	cJSON_Delete(json);
	return svc_error_set(
	    err, SVC_E_UNAVAILABLE, "the answer is none of consul's");
}

static const char *
text_of(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
	return cJSON_IsString(item) ? item->valuestring : "";
}

/* ----------------------------------------------------------------- skipping */

/* An instance whose `n` tags (0: the whole) were passed over. */
static void
skip(struct skips *skips, const char *service, const char *instance, size_t n,
    const char *why)
{
	char quoted[2][100];
	size_t count;
	uint64_t hash =
	    hash_text(hash_text(HASH_START, service), instance) + (n > 0);
	if (!skips_add(skips, hash, &count))
		return;
	svc_log_quote(service, strlen(service), quoted[0], sizeof(quoted[0]));
	svc_log_quote(instance, strlen(instance), quoted[1], sizeof(quoted[1]));
	if (n > 0)
		svc_log(SVC_LOG_WARN, "consul.tags",
		    "passed over %zu tags of instance %s of service %s that do "
		    "not decode (number %zu)",
		    n, quoted[1], quoted[0], count);
	else
		svc_log(SVC_LOG_WARN, "consul.skipped",
		    "skipped instance %s of service %s: %s (number %zu)",
		    quoted[1], quoted[0], why, count);
}

/* --------------------------------------------------------------------- ids */

static int
id_compare(const void *a, const void *b)
{
	const struct id *x = a, *y = b;
	return strcmp(x->text, y->text);
}

void
ids_fini(struct ids *ids)
{
	for (size_t i = 0; i < ids->n; i++)
		svc_mem_free(ids->list[i].text);
	svc_mem_free(ids->list);
	*ids = (struct ids){0};
}

void
ids_gone(const char *service, const struct ids *before, const struct ids *now,
    svc_record_sink sink, void *arg)
{
	size_t k = 0;
	for (size_t i = 0; i < before->n; i++) {
		int order = 1;
		while (k < now->n && (order = id_compare(
					  &now->list[k], &before->list[i])) < 0)
			k++;
		if (k < now->n && order == 0)
			continue;
		struct svc_node node = {
		    .id = before->list[i].text, .address = ""};
		struct svc_record record = {.name = service,
		    .version = "",
		    .nodes = &node,
		    .n_nodes = 1};
		sink(&record, arg);
	}
}

/* ------------------------------------------------------------------- nodes */

struct entry {
	const cJSON *json;
	const char *instance;
	double changed;
};

/* Of all in an entry that a node is made of. */
static uint64_t
hash_entry(const cJSON *entry)
{
	const cJSON *home = cJSON_GetObjectItemCaseSensitive(entry, "Node");
	const cJSON *at = cJSON_GetObjectItemCaseSensitive(entry, "Service");
	const cJSON *port = cJSON_GetObjectItemCaseSensitive(at, "Port");
	const cJSON *tag;
	char number[32] = "";
	if (cJSON_IsNumber(port))
		snprintf(number, sizeof(number), "%.17g", port->valuedouble);
	uint64_t hash = hash_text(HASH_START, text_of(home, "Address"));
	hash = hash_text(hash, text_of(at, "Service"));
	hash = hash_text(hash, text_of(at, "ID"));
	hash = hash_text(hash, text_of(at, "Address"));
	hash = hash_text(hash, number);
	cJSON_ArrayForEach (tag, cJSON_GetObjectItemCaseSensitive(at, "Tags"))
		hash = hash_text(
		    hash, cJSON_IsString(tag) ? tag->valuestring : "");
	return hash;
}

static bool
is_same(const struct ids *before, const char *id, uint64_t hash)
{
	const struct id key = {.text = (char *)(uintptr_t)id};
	const struct id *found = NULL;
	if (before != NULL && before->n > 0)
		found = bsearch(&key, before->list, before->n,
		    sizeof(*before->list), id_compare);
	return found != NULL && found->hash == hash;
}

static svc_err
ids_add(struct ids *ids, const char *id, uint64_t hash)
{
	char *text = svc_mem_strdup(id);
	if (text == NULL)
		return SVC_E_NOMEM;
	ids->list[ids->n++] = (struct id){text, hash};
	return SVC_OK;
}

static int
entry_compare(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	int order = strcmp(x->instance, y->instance);
	return order != 0
		   ? order
		   : (x->changed > y->changed) - (x->changed < y->changed);
}

/* Those that are worth reading, sorted; of each instance the latest last. */
static svc_err
sort_entries(const cJSON *list, struct entry **ret_entries, size_t *ret_n,
    struct svc_error *err)
{
	const cJSON *item;
	size_t n = 0, count = 0;
	cJSON_ArrayForEach (item, list)
		count++;
	if (count > NODES_MAX)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "the answer has %zu nodes: at most %d are read", count,
		    NODES_MAX);
	struct entry *entries = svc_mem_calloc(count + 1, sizeof(*entries));
	if (entries == NULL)
		return no_memory(err);
	cJSON_ArrayForEach (item, list) {
		const cJSON *at =
		    cJSON_GetObjectItemCaseSensitive(item, "Service");
		const cJSON *changed =
		    cJSON_GetObjectItemCaseSensitive(at, "ModifyIndex");
		if (!node_is_ours(cJSON_GetObjectItemCaseSensitive(at, "Tags")))
			continue;
		entries[n++] = (struct entry){
		    .json = item,
		    .instance = text_of(at, "ID"),
		    .changed =
			cJSON_IsNumber(changed) ? changed->valuedouble : 0,
		};
	}
	if (n > 0)
		qsort(entries, n, sizeof(*entries), entry_compare);
	*ret_entries = entries;
	*ret_n = n;
	return SVC_OK;
}

/* Delivers one that is not as it was; only want of memory is an error. */
static svc_err
deliver(struct skips *skips, const char *service, const struct entry *entry,
    const struct ids *before, svc_record_sink sink, void *arg, struct ids *ids)
{
	struct node node;
	struct svc_error why = {0};
	const char *id = node_id(service, entry->instance);
	uint64_t hash = hash_entry(entry->json);
	if (is_same(before, id, hash))
		return ids_add(ids, id, hash);
	svc_err rc = node_decode(&node, service, entry->json, &why);
	if (rc == SVC_E_INVAL) {
		skip(skips, service, entry->instance, 0, why.text);
		rc = SVC_OK;
	} else if (rc == SVC_OK) {
		if (node.n_bad > 0)
			skip(skips, service, entry->instance, node.n_bad, "");
		rc = ids_add(ids, id, hash);
		if (rc == SVC_OK)
			sink(&node.record, arg);
	}
	node_fini(&node);
	return rc;
}

/* They came sorted by instance, among which some have the service in front. */
static void
ids_settle(struct ids *ids)
{
	size_t kept = 0;
	if (ids->n > 0)
		qsort(ids->list, ids->n, sizeof(*ids->list), id_compare);
	for (size_t i = 0; i < ids->n; i++) {
		if (kept > 0 &&
		    id_compare(&ids->list[kept - 1], &ids->list[i]) == 0)
			svc_mem_free(ids->list[i].text);
		else
			ids->list[kept++] = ids->list[i];
	}
	ids->n = kept;
}

svc_err
answer_nodes(struct skips *skips, const char *service, const void *data,
    size_t len, const struct ids *before, svc_record_sink sink, void *arg,
    struct ids *ret_ids, struct svc_error *err)
{
	struct entry *entries = NULL;
	struct ids ids = {0};
	size_t n = 0;
	cJSON *json = NULL;
	svc_err rc = parse(data, len, true, &json, err);
	if (rc == SVC_OK)
		rc = sort_entries(json, &entries, &n, err);
	if (rc == SVC_OK) {
		ids.list = svc_mem_calloc(n + 1, sizeof(*ids.list));
		if (ids.list == NULL)
			rc = no_memory(err);
	}
	for (size_t i = 0; i < n && rc == SVC_OK; i++) {
		if (i + 1 < n &&
		    strcmp(entries[i].instance, entries[i + 1].instance) == 0)
			continue;
		rc = deliver(
		    skips, service, &entries[i], before, sink, arg, &ids);
		if (rc != SVC_OK)
			no_memory(err);
	}
	svc_mem_free(entries);
	cJSON_Delete(json);
	if (rc != SVC_OK || ret_ids == NULL) {
		ids_fini(&ids);
		return rc;
	}
	ids_settle(&ids);
	*ret_ids = ids;
	return SVC_OK;
}

/* ------------------------------------------------------------------- marks */

void
marks_fini(struct marks *marks)
{
	for (size_t i = 0; i < marks->n; i++)
		svc_mem_free(marks->list[i].name);
	svc_mem_free(marks->list);
	*marks = (struct marks){0};
}

void
marks_compare(const struct marks *a, const struct marks *b,
    void (*differ)(const char *name, void *arg), void *arg)
{
	size_t i = 0, k = 0;
	while (i < a->n || k < b->n) {
		int order = i == a->n ? 1
			    : k == b->n
				? -1
				: strcmp(a->list[i].name, b->list[k].name);
		if (order < 0)
			differ(a->list[i++].name, arg);
		else if (order > 0)
			differ(b->list[k++].name, arg);
		else {
			if (a->list[i].hash != b->list[k].hash)
				differ(a->list[i].name, arg);
			i++;
			k++;
		}
	}
}

static int
mark_compare(const void *a, const void *b)
{
	const struct mark *x = a, *y = b;
	return strcmp(x->name, y->name);
}

/* Sorts, and makes one of those with the same name: by a sum, so that their
 * order does not count. */
static void
marks_settle(struct marks *marks)
{
	size_t kept = 0;
	if (marks->n > 0)
		qsort(
		    marks->list, marks->n, sizeof(*marks->list), mark_compare);
	for (size_t i = 0; i < marks->n; i++) {
		if (kept > 0 && strcmp(marks->list[kept - 1].name,
				    marks->list[i].name) == 0) {
			marks->list[kept - 1].hash += marks->list[i].hash;
			svc_mem_free(marks->list[i].name);
		} else {
			marks->list[kept++] = marks->list[i];
		}
	}
	marks->n = kept;
}

/* Room for as many marks as `json` has children. */
static svc_err
marks_make(const cJSON *json, struct marks *marks, struct svc_error *err)
{
	const cJSON *item;
	size_t count = 0;
	cJSON_ArrayForEach (item, json)
		count++;
	*marks = (struct marks){0};
	if (count > NAMES_MAX)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "the answer has %zu entries: at most %d are read", count,
		    NAMES_MAX);
	marks->list = svc_mem_calloc(count + 1, sizeof(*marks->list));
	return marks->list != NULL ? SVC_OK : no_memory(err);
}

static svc_err
marks_add(
    struct marks *marks, const char *name, uint64_t hash, struct svc_error *err)
{
	char *copy = svc_mem_strdup(name);
	if (copy == NULL)
		return no_memory(err);
	marks->list[marks->n++] = (struct mark){copy, hash};
	return SVC_OK;
}

static bool
is_service_of_ours(const cJSON *tags)
{
	return tags->string != NULL &&
	       svc_service_name_check(tags->string, NULL) == SVC_OK &&
	       node_is_ours(tags);
}

svc_err
answer_services(const void *data, size_t len, struct marks *ret_marks,
    struct svc_error *err)
{
	struct marks marks = {0};
	const cJSON *tags, *tag;
	cJSON *json = NULL;
	svc_err rc = parse(data, len, false, &json, err);
	if (rc == SVC_OK)
		rc = marks_make(json, &marks, err);
	if (rc == SVC_OK) {
		cJSON_ArrayForEach (tags, json) {
			uint64_t hash = 0;
			if (!is_service_of_ours(tags))
				continue;
			cJSON_ArrayForEach (tag, tags)
				if (cJSON_IsString(tag))
					hash += hash_text(
					    HASH_START, tag->valuestring);
			rc = marks_add(&marks, tags->string, hash, err);
			if (rc != SVC_OK)
				break;
		}
	}
	cJSON_Delete(json);
	marks_settle(&marks);
	if (rc == SVC_OK)
		*ret_marks = marks;
	else
		marks_fini(&marks);
	return rc;
}

svc_err
answer_checks(const void *data, size_t len, struct marks *ret_marks,
    struct svc_error *err)
{
	struct marks marks = {0};
	const cJSON *check;
	cJSON *json = NULL;
	svc_err rc = parse(data, len, true, &json, err);
	if (rc == SVC_OK)
		rc = marks_make(json, &marks, err);
	if (rc == SVC_OK) {
		cJSON_ArrayForEach (check, json) {
			const char *status = text_of(check, "Status");
			if (strcmp(status, "passing") == 0)
				continue;
			uint64_t hash =
			    hash_text(HASH_START, text_of(check, "Node"));
			hash = hash_text(hash, text_of(check, "CheckID"));
			rc = marks_add(
			    &marks, text_of(check, "ServiceName"), hash, err);
			if (rc != SVC_OK)
				break;
		}
	}
	cJSON_Delete(json);
	marks_settle(&marks);
	if (rc == SVC_OK)
		*ret_marks = marks;
	else
		marks_fini(&marks);
	return rc;
}

svc_err
answer_versions(const void *data, size_t len, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	const cJSON *tags;
	cJSON *json = NULL;
	svc_err rc = parse(data, len, false, &json, err);
	if (rc != SVC_OK)
		return rc;
	cJSON_ArrayForEach (tags, json)
		if (is_service_of_ours(tags))
			node_versions(tags->string, tags, sink, arg);
	cJSON_Delete(json);
	return SVC_OK;
}
