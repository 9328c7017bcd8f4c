/* SPDX-License-Identifier: Apache-2.0 */
/* The file of the registry static. Whatever it holds, it is refused with a line
 * that names it, or every node that comes of it is one that may be used. */
#include "file.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool truth)
{
	if (!truth)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct file_nodes *nodes = NULL;
	struct svc_error err = {0};
	svc_err rc = file_read("file", data, size, &nodes, &err);
	if (rc != SVC_OK) {
		check(rc == SVC_E_INVAL && nodes == NULL);
		check(strncmp(err.text, "file line ", 10) == 0);
		return 0;
	}
	for (struct file_node *n = nodes->table; n != NULL; n = n->hh.next) {
		check(n->record->n_nodes == 1 && n->line > 0);
		check(svc_record_check(n->record, NULL) == SVC_OK);
		check(file_find(nodes, n) == n);
		char *json = svc_record_encode(n->record);
		check(json != NULL);
		svc_mem_free(json);
	}
	file_free(nodes);
	return 0;
}
