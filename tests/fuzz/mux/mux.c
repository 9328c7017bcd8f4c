/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that says whatever it likes, frame by frame, while streams are open
 * and messages of ours wait for its credit.
 *
 * The first byte chooses the side, the second how the bytes are cut. The rest
 * are orders: one byte, then what it needs. Most make a frame that is nearly
 * right, so that the fuzzer gets behind the first checks; one gives raw bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <svc/mux.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_STREAMS 8
static struct svc_stream_handle *open_streams[64];
static size_t n_open;

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
nothing(struct svc_mux *mux)
{
	(void)mux;
}

static const struct svc_mux_ops mux_ops = {
    .flush = take_output, .free = nothing, .close = nothing};

static void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	(void)stream;
	volatile uint8_t sum = 0;
	for (size_t i = 0; i < part->len; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)part->data)[i]);
	if (part->len > 4096) /* of the limit below */
		abort();
}

static void
on_messages(
    struct svc_stream_handle *stream, const struct svc_span *messages, size_t n)
{
	if (n == 0)
		abort();
	for (size_t i = 0; i < n; i++)
		on_part(stream, &(struct svc_part){
				    .data = messages[i].data,
				    .len = messages[i].len,
				});
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	if (strlen(end->text) > 4096)
		abort();
	(void)stream;
}

static void
on_writable(struct svc_stream_handle *stream)
{
	struct svc_part part = {
	    .flags = SVC_PART_MESSAGE, .data = "again", .len = 5};
	svc_mux_send(stream, &part, NULL);
}

static const struct svc_stream_events kinds[3] = {
    {.part = on_part, .closed = on_closed, .writable = on_writable},
    {.part = on_part,
	.closed = on_closed,
	.writable = on_writable,
	.holds = true},
    {.part = on_part,
	.closed = on_closed,
	.writable = on_writable,
	.holds = true,
	.messages = on_messages},
};

static void
on_accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	(void)arg;
	on_part(stream, first);
	stream->events = &kinds[first->len % 3];
	if (n_open < sizeof(open_streams) / sizeof(open_streams[0]))
		open_streams[n_open++] = stream;
	else
		svc_mux_release(stream, SVC_E_CANCELLED);
}

struct input {
	const uint8_t *data;
	size_t left;
};

static uint32_t
number(struct input *in, size_t bytes)
{
	uint32_t value = 0;
	for (; bytes > 0 && in->left > 0; bytes--, in->left--)
		value = value << 8 | *in->data++;
	return value;
}

static void
frame(struct svc_buf *out, uint8_t type, uint8_t flags, uint32_t stream,
    uint32_t value, const void *head, size_t head_len, size_t body)
{
	uint8_t bytes[16] = {0};
	uint32_t length = (uint32_t)(head_len + body);
	for (int i = 0; i < 4; i++) {
		bytes[i] = (uint8_t)(length >> 8 * i);
		bytes[8 + i] = (uint8_t)(stream >> 8 * i);
		bytes[12 + i] = (uint8_t)(value >> 8 * i);
	}
	bytes[4] = type;
	bytes[5] = flags;
	bytes[6] = (uint8_t)head_len;
	svc_buf_append(out, bytes, sizeof(bytes));
	svc_buf_append(out, head, head_len);
	for (; body > 0; body--)
		svc_buf_putc(out, 'x');
}

static const uint8_t hello[32] = {0xf5, 's', 'v', 'c', 1, 1, 32, 0, 0, 16, 0, 0,
    8, 0, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 64, 0, 0};

/* One order: bytes of the peer, or something done on our side. */
static void
order(struct input *in, struct svc_buf *out, bool server)
{
	static const char texts[] = "\1\0s\0\3\0E.e\0\0\0";
	uint32_t what = number(in, 1), id = what >> 4;
	struct svc_stream_handle *stream =
	    n_open > 0 ? open_streams[id % n_open] : NULL;
	static uint8_t data[9000];
	struct svc_part part = {.flags = SVC_PART_MESSAGE, .data = data};
	switch (what & 15) {
	case 0:
		svc_buf_append(out, hello, sizeof(hello));
		break;
	case 1: /* opens, or the first of a reply */
		frame(out, 1, (uint8_t)(number(in, 1) | 1), id, 9,
		    server ? texts : "\0\0\0\0\0\0", server ? sizeof(texts) : 3,
		    number(in, 1) * 4);
		break;
	case 2:
		frame(out, 1, (uint8_t)number(in, 1), id, 0, NULL, 0,
		    number(in, 1) * 8);
		break;
	case 3: /* the end, with a trailer */
		frame(out, 1, 4, id, number(in, 1),
		    server ? "\1\0t\0\1\0v\0" : "\0\0\0\1\0t\0\1\0v\0",
		    server ? 8 : 11, 0);
		break;
	case 4:
		frame(out, 2, (uint8_t)number(in, 1), id, number(in, 1), "why",
		    3, 0);
		out->data[out->len - 13] = 0; /* it has no head */
		break;
	case 5:
		frame(out, 3, 0, number(in, 1), 0, NULL, 0, 0);
		break;
	case 6:
		frame(out, (uint8_t)(4 + id % 2), 0, 0, number(in, 1), NULL, 0,
		    0);
		break;
	case 7:
		frame(out, 6, (uint8_t)number(in, 1), id, number(in, 2), NULL,
		    0, 0);
		break;
	case 8:
		for (uint32_t n = number(in, 1); n > 0 && in->left > 0; n--)
			svc_buf_putc(out, (char)number(in, 1));
		break;
	case 9:
		part.len = number(in, 1) * 20;
		if (stream != NULL)
			svc_mux_send(stream, &part, NULL);
		break;
	case 10:
		part.flags = number(in, 1) & 7;
		part.len = number(in, 2) % sizeof(data);
		if (stream != NULL && part.flags != 0)
			svc_mux_send(stream, &part, NULL);
		break;
	case 11:
		if (stream != NULL) {
			svc_mux_release(stream, SVC_E_CANCELLED);
			open_streams[id % n_open] = open_streams[n_open - 1];
			n_open--;
		}
		break;
	case 12:
		if (stream != NULL)
			svc_mux_credit(stream, number(in, 2));
		break;
	default:
		break;
	}
}

/* Gives it all that has come, cut into pieces. */
static svc_mux_result
feed(struct svc_mux *mux, struct svc_buf *in, size_t piece)
{
	struct svc_error err;
	size_t given = 0;
	while (given < in->len) {
		size_t at = 0;
		given = in->len - given > piece ? given + piece : in->len;
		uint8_t *read = malloc(given + 1);
		if (read == NULL)
			abort();
		memcpy(read, in->data, given);
		svc_mux_result result =
		    svc_mux_input(mux, read, given, &at, &err);
		free(read);
		svc_buf_consume(in, at);
		given -= at;
		if (svc_mux_need(mux) == 0)
			abort();
		if (result != SVC_MUX_OK)
			return result;
	}
	return SVC_MUX_OK;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct svc_transport_ops transport = {.name = "fuzz"};
	struct svc_mux mux;
	struct input in = {.data = data, .left = size};
	bool server = (number(&in, 1) & 1) != 0;
	size_t piece = number(&in, 1) * 16 + 1;
	struct svc_mux_config config = {.ops = &mux_ops,
	    .transport = &transport,
	    .limits.max_message = 4096,
	    .limits.max_headers = 512,
	    .limits.max_streams = MAX_STREAMS,
	    .limits.stream_window = 1024,
	    .limits.conn_window = 2048,
	    .server = server,
	    .accept = on_accept};
	n_open = 0;
	if (svc_mux_init(&mux, &config, "fuzz") != SVC_OK)
		return 0;
	for (int i = 0; i < 4 && !server; i++) {
		struct svc_part first = {
		    .flags = SVC_PART_HEADERS | (i != 1 ? SVC_PART_END : 0),
		    .service = "s",
		    .endpoint = "E.e",
		    .timeout_ms = 5};
		if (svc_mux_open(&mux, &first, 0, &kinds[i % 2], NULL,
			&open_streams[n_open], NULL) == SVC_OK)
			n_open++;
	}
	struct svc_buf bytes;
	svc_buf_init(&bytes, 1 << 20);
	svc_mux_result result = SVC_MUX_OK;
	while (in.left > 0 && result == SVC_MUX_OK && !svc_mux_failed(&mux)) {
		order(&in, &bytes, server);
		result = feed(&mux, &bytes, piece);
	}
	take_output(&mux);
	svc_mux_fail(&mux, SVC_E_UNAVAILABLE, "the end");
	svc_mux_close_streams(&mux);
	while (n_open > 0)
		svc_mux_release(open_streams[--n_open], SVC_E_CANCELLED);
	if (mux.n_held != 0 || mux.loaned != 0 || mux.pending != 0)
		abort();
	svc_buf_fini(&bytes);
	svc_mux_fini(&mux);
	return 0;
}
