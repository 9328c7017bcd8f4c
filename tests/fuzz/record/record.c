/* SPDX-License-Identifier: Apache-2.0 */
/* Records as other programs put them into a registry. Whatever is read must
 * come out the same after it was written and read again. */
#include <svc/registry.h>

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool ok)
{
	if (!ok)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct svc_record *record = NULL, *again = NULL;
	struct svc_error err = {0};
	svc_err rc = svc_record_decode(data, size, &record, &err);
	if (rc == SVC_OK) {
		char *text = svc_record_encode(record);
		check(text != NULL);
		/* Escapes may make it longer than what may be read. */
		if (strlen(text) <= 1 << 20) {
			check(svc_record_decode(
				  text, strlen(text), &again, &err) == SVC_OK);
			check(svc_record_equal(record, again));
		}
		svc_record_check(record, &err);
		svc_mem_free(text);
		svc_record_destroy(again);
		svc_record_destroy(record);
	} else {
		check(record == NULL && err.text[0] != '\0');
	}
	record = NULL;
	if (svc_endpoint_decode(data, size, &record, &err) == SVC_OK) {
		check(record->n_endpoints == 1);
		svc_record_destroy(record);
	}
	return 0;
}
