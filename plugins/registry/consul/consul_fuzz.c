/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of consul, which anybody may have filled. The first byte says which:
 * 'n' the nodes of service "s", 's' the services, 'c' the checks. */
#include "answer.h"
#include "node.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool ok)
{
	if (!ok)
		abort();
}

/* What the register body of a node makes consul answer about it. */
static cJSON *
entry_of(const struct svc_buf *body)
{
	static const char *const same[] = {"ID", "Tags", "Port", "Address"};
	cJSON *made =
	    cJSON_ParseWithLength((const char *)body->data, body->len);
	cJSON *entry = cJSON_CreateObject();
	cJSON *service = cJSON_AddObjectToObject(entry, "Service");
	check(made != NULL);
	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
		cJSON_AddItemToObject(service, same[i],
		    cJSON_DetachItemFromObject(made, same[i]));
	cJSON_AddItemToObject(
	    service, "Service", cJSON_DetachItemFromObject(made, "Name"));
	cJSON_Delete(made);
	return entry;
}

/* What was read must come out the same after it was written and read. */
static void
on_node(const struct svc_record *record, void *arg)
{
	struct svc_buf body;
	struct node again;
	size_t *count = arg;
	(*count)++;
	check(strcmp(record->name, "s") == 0 && record->n_nodes == 1);
	check(svc_record_check(record, NULL) == SVC_OK);
	svc_buf_init(&body, 64 << 20);
	check(node_encode(record, 1500, NULL, 0, &body) == SVC_OK);
	cJSON *entry = entry_of(&body);
	check(node_decode(&again, "s", entry, NULL) == SVC_OK);
	check(again.n_bad == 0 && svc_record_equal(&again.record, record));
	node_fini(&again);
	cJSON_Delete(entry);
	svc_buf_fini(&body);
}

static void
on_gone(const struct svc_record *record, void *arg)
{
	size_t *count = arg;
	check(record->n_nodes == 1);
	(*count)++;
}

static void
on_version(const struct svc_record *record, void *arg)
{
	(void)arg;
	check(record->n_nodes == 0 && record->version[0] != '\0');
}

static void
on_difference(const char *name, void *arg)
{
	(void)name;
	(*(size_t *)arg)++;
}

static void
try_nodes(const uint8_t *data, size_t size)
{
	struct skips skips;
	struct ids ids = {0}, none = {0};
	size_t nodes = 0, gone = 0;
	skips_init(&skips);
	if (answer_nodes(&skips, "s", data, size, NULL, on_node, &nodes, &ids,
		NULL) == SVC_OK) {
		check(ids.n <= nodes);
		size_t told = nodes;
		check(answer_nodes(&skips, "s", data, size, &ids, on_node,
			  &nodes, NULL, NULL) == SVC_OK);
		/* Of those that share an id, all but one. */
		check(nodes - told == told - ids.n);
		ids_gone("s", &ids, &none, on_gone, &gone);
		check(gone == ids.n);
		ids_gone("s", &ids, &ids, on_gone, &gone);
		check(gone == ids.n);
	}
	ids_fini(&ids);
	skips_fini(&skips);
}

static void
try_marks(const uint8_t *data, size_t size, bool services)
{
	struct marks marks = {0}, none = {0};
	size_t count = 0;
	svc_err rc = services ? answer_services(data, size, &marks, NULL)
			      : answer_checks(data, size, &marks, NULL);
	if (rc == SVC_OK) {
		marks_compare(&marks, &none, on_difference, &count);
		check(count == marks.n);
		marks_compare(&marks, &marks, on_difference, &count);
		check(count == marks.n);
	}
	marks_fini(&marks);
	if (services)
		answer_versions(data, size, on_version, NULL, NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] == 'n')
		try_nodes(data + 1, size - 1);
	else
		try_marks(data + 1, size - 1, data[0] == 's');
	return 0;
}
