/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is JSON stays JSON when it is written anew, and one line stays as it
 * is. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct svc_buf lines, line;

	if (json_check((const char *)data, size, NULL) != SVC_OK)
		return 0;
	svc_buf_init(&lines, SIZE_MAX);
	svc_buf_init(&line, SIZE_MAX);
	if (json_format(&lines, (const char *)data, size, true) != SVC_OK ||
	    json_check((const char *)lines.data, lines.len, NULL) != SVC_OK ||
	    json_format(&line, (const char *)lines.data, lines.len, false) !=
		SVC_OK ||
	    json_check((const char *)line.data, line.len, NULL) != SVC_OK ||
	    line.len > size)
		abort();
	svc_buf_fini(&line);
	svc_buf_fini(&lines);
	return 0;
}
