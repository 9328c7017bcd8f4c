/* SPDX-License-Identifier: Apache-2.0 */
/* The file of what a registry said last. Whatever it holds, it is refused with
 * a reason, or every node that comes of it is one that may be used. */
#include "snapshot.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool truth)
{
	if (!truth)
		abort();
}

static void
node(const struct svc_record *record, void *arg)
{
	check(svc_record_check(record, NULL) == SVC_OK);
	(*(size_t *)arg)++;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = 0, skipped = 0;
	int64_t saved_unix_ms = -1;
	struct svc_error err = {0};
	svc_err rc = snapshot_parse(
	    "etcd", data, size, node, &n, &saved_unix_ms, &skipped, &err);
	if (rc != SVC_OK)
		check((rc == SVC_E_INVAL || rc == SVC_E_PRECONDITION) &&
		      err.text[0] != '\0' && n == 0);
	else
		check(saved_unix_ms >= 0 && n + skipped <= size);
	return 0;
}
