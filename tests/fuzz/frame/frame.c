/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a peer, as a server and as a client reads them. The first byte
 * of the input chooses the side and how the rest is cut into reads. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <svc/mux.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
take_output(struct svc_mux *mux)
{
	struct svc_buf out;
	svc_buf_init(&out, SIZE_MAX / 2);
	while (svc_mux_begin_flush(mux, &out))
		svc_mux_end_flush(mux, &out, out.len);
	svc_buf_fini(&out);
}

static void
forget(struct svc_mux *mux)
{
	(void)mux;
}

static const struct svc_mux_ops mux_ops = {
    .flush = take_output,
    .free = forget,
    .close = forget,
};

static void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	if ((part->flags & SVC_PART_MESSAGE) && part->len > 0) {
		/* Every byte must be readable. */
		volatile uint8_t sum = 0;
		for (size_t i = 0; i < part->len; i++)
			sum = (uint8_t)(sum + ((const uint8_t *)part->data)[i]);
	}
	if (part->flags & SVC_PART_END)
		svc_mux_release(stream, SVC_E_CANCELLED);
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)end;
	svc_mux_release(stream, SVC_E_CANCELLED);
}

static const struct svc_stream_events events = {
    .part = on_part,
    .closed = on_closed,
};

static void
on_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	(void)arg;
	if (strlen(first->service) + strlen(first->endpoint) > SIZE_MAX / 2)
		abort();
	if (first->flags & SVC_PART_END) {
		struct svc_part reply = {
		    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
		    .headers = first->headers,
		    .data = first->data,
		    .len = first->len};
		svc_mux_send(stream, &reply, NULL);
		svc_mux_release(stream, SVC_E_CANCELLED);
		return;
	}
	stream->events = &events; /* until it is closed */
	on_part(stream, first);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct svc_transport_ops transport = {.name = "fuzz"};
	struct svc_mux mux;
	struct svc_error err;
	if (size < 1)
		return 0;
	bool server = (data[0] & 1) != 0;
	size_t piece = (data[0] >> 1) + 1u;
	struct svc_mux_config config = {.ops = &mux_ops,
	    .transport = &transport,
	    .limits.max_message = 4096,
	    .limits.max_headers = 512,
	    .limits.max_streams = 8,
	    .server = server,
	    .accept = on_accept};
	if (svc_mux_init(&mux, &config, "fuzz") != SVC_OK)
		return 0;
	struct svc_stream_handle *streams[3] = {NULL};
	for (int i = 0; i < 3 && !server; i++) {
		struct svc_part first = {
		    .flags = SVC_PART_HEADERS | (i != 1 ? SVC_PART_END : 0),
		    .service = "s",
		    .endpoint = "E.e",
		    .timeout_ms = 5};
		svc_mux_open(&mux, &first, SVC_OPEN_WAIT, &events, NULL,
		    &streams[i], NULL);
	}
	data++;
	size--;
	size_t offset = 0;
	svc_mux_result result = SVC_MUX_OK;
	for (size_t len = 0; len < size && result == SVC_MUX_OK;) {
		len = size - len > piece ? len + piece : size;
		uint8_t *read = malloc(len - offset + 1);
		size_t at = 0;
		if (read == NULL)
			break;
		memcpy(read, data + offset, len - offset);
		result = svc_mux_input(&mux, read, len - offset, &at, &err);
		free(read);
		offset += at;
		if (svc_mux_need(&mux) == 0)
			abort();
	}
	take_output(&mux);
	svc_mux_fail(&mux, SVC_E_UNAVAILABLE, "the end");
	svc_mux_close_streams(&mux);
	svc_mux_fini(&mux);
	return 0;
}
