/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON of an event, as anybody may publish it. What was read must be
 * written and read again unchanged. */
#include <svc/broker.h>

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
	struct svc_event_data event, again;
	struct svc_error err;
	if (svc_event_decode(data, size, &event, &err) != SVC_OK)
		return 0;
	char *json;
	size_t len;
	check(svc_event_encode(&event.message, &json, &len) == SVC_OK);
	/* The content type may be the 257th header then. */
	if (svc_headers_count(event.message.headers) < 256) {
		check(svc_event_decode(json, len, &again, &err) == SVC_OK);
		check(again.message.len == event.message.len);
		check(again.message.len == 0 ||
		      memcmp(again.message.data, event.message.data,
			  again.message.len) == 0);
		check(svc_headers_count(again.message.headers) ==
		      svc_headers_count(event.message.headers));
		check((again.message.content_type == NULL) ==
		      (event.message.content_type == NULL));
		svc_event_data_fini(&again);
	}
	svc_mem_free(json);
	svc_event_data_fini(&event);
	return 0;
}
