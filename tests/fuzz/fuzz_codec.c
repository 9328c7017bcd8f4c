/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes for the codec that is linked in: whatever is taken for a message must
 * be well formed, and come back the same when it is written and read again. */
#include <svc/codec.h>

#include <codec_types.pb-c.h>
#include <codec_types2.pb-c.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const void *svc_plugin(void);

static void
try(const struct svc_codec_ops *ops,
    const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
    size_t size)
{
	ProtobufCMessage *message = NULL, *copy = NULL;
	struct svc_error err;
	struct svc_buf first, second;
	if (ops->decode(descriptor, data, size, &message, &err) != SVC_OK)
		return;
	svc_buf_init(&first, SIZE_MAX / 2);
	svc_buf_init(&second, SIZE_MAX / 2);
	if (ops->check(data, size, &err) != SVC_OK ||
	    ops->encode(message, &first, &err) != SVC_OK ||
	    ops->decode(descriptor, first.data, first.len, &copy, &err) !=
		SVC_OK ||
	    ops->encode(copy, &second, &err) != SVC_OK ||
	    first.len != second.len ||
	    memcmp(first.data, second.data, first.len) != 0)
		abort();
	svc_message_destroy(message);
	svc_message_destroy(copy);
	svc_buf_fini(&first);
	svc_buf_fini(&second);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct svc_codec_ops *ops = svc_plugin();
	try(ops, &codec__everything__descriptor, data, size);
	try(ops, &codec2__presence__descriptor, data, size);
	return 0;
}
