/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <string.h>

static const uint8_t magic[4] = {0xf5, 's', 'v', 'c'};

static void
put16(uint8_t *out, uint16_t value)
{
	out[0] = (uint8_t)value;
	out[1] = (uint8_t)(value >> 8);
}

static void
put32(uint8_t *out, uint32_t value)
{
	out[0] = (uint8_t)value;
	out[1] = (uint8_t)(value >> 8);
	out[2] = (uint8_t)(value >> 16);
	out[3] = (uint8_t)(value >> 24);
}

static void
put64(uint8_t *out, uint64_t value)
{
	out[0] = (uint8_t)value;
	out[1] = (uint8_t)(value >> 8);
	out[2] = (uint8_t)(value >> 16);
	out[3] = (uint8_t)(value >> 24);
	out[4] = (uint8_t)(value >> 32);
	out[5] = (uint8_t)(value >> 40);
	out[6] = (uint8_t)(value >> 48);
	out[7] = (uint8_t)(value >> 56);
}

static uint16_t
get16(const uint8_t *data)
{
	return (uint16_t)(data[0] | data[1] << 8);
}

static uint32_t
get32(const uint8_t *data)
{
	return data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
	       (uint32_t)data[3] << 24;
}

void
hello_encode(const struct hello *hello, uint8_t out[HELLO_SIZE])
{
	memcpy(out, magic, sizeof(magic));
	out[4] = hello->version;
	out[5] = hello->oldest;
	put16(out + 6, HELLO_SIZE);
	put32(out + 8, hello->max_message);
	put32(out + 12, hello->max_streams);
	put32(out + 16, hello->stream_window);
	put32(out + 20, hello->conn_window);
	put32(out + 24, hello->piece);
	put32(out + 28, hello->features);
}

svc_err
hello_decode(
    const uint8_t *data, struct hello *ret_hello, struct svc_error *err)
{
	if (memcmp(data, magic, sizeof(magic)) != 0)
		return svc_error_set(
		    err, SVC_E_INVAL, "the peer does not speak svc frames");
	struct hello hello = {
	    .version = data[4],
	    .oldest = data[5],
	    .size = get16(data + 6),
	    .max_message = get32(data + 8),
	    .max_streams = get32(data + 12),
	    .stream_window = get32(data + 16),
	    .conn_window = get32(data + 20),
	    .piece = get32(data + 24),
	    .features = get32(data + 28),
	};
	if (hello.oldest > FRAME_VERSION || hello.version < FRAME_VERSION)
		return svc_error_set(err, SVC_E_UNIMPLEMENTED,
		    "the peer speaks versions %u to %u of svc frames, "
		    "this release speaks %d",
		    hello.oldest, hello.version, FRAME_VERSION);
	if (hello.size < HELLO_SIZE || hello.size > HELLO_MAX)
		return svc_error_set(err, SVC_E_INVAL,
		    "the peer's hello has %u bytes; %d to %d are allowed",
		    hello.size, HELLO_SIZE, HELLO_MAX);
	if (hello.stream_window < HELLO_MIN_WINDOW ||
	    hello.conn_window < HELLO_MIN_WINDOW || hello.piece < PIECE_MIN)
		return svc_error_set(err, SVC_E_INVAL,
		    "the peer's hello has windows of %u and %u bytes and "
		    "pieces of %u; at least %d, %d and %u are allowed",
		    hello.stream_window, hello.conn_window, hello.piece,
		    HELLO_MIN_WINDOW, HELLO_MIN_WINDOW, PIECE_MIN);
	*ret_hello = hello;
	return SVC_OK;
}

void
frame_decode(const uint8_t *data, struct frame *ret_frame)
{
	ret_frame->length = get32(data);
	ret_frame->type = data[4];
	ret_frame->flags = data[5];
	ret_frame->head = get16(data + 6);
	ret_frame->stream = get32(data + 8);
	ret_frame->value = get32(data + 12);
}

void
frame_put(uint8_t *out, const struct frame *frame)
{
	/* Two stores, and not one for each field. */
	put64(out, frame->length | (uint64_t)frame->type << 32 |
		       (uint64_t)frame->flags << 40 |
		       (uint64_t)frame->head << 48);
	put64(out + 8, frame->stream | (uint64_t)frame->value << 32);
}

svc_err
frame_encode(struct svc_buf *out, const struct frame *frame, const void *body,
    size_t len)
{
	struct frame whole = *frame;
	whole.length = (uint32_t)len;
	svc_err rc = svc_buf_reserve(out, FRAME_SIZE + len);
	if (rc != SVC_OK)
		return rc;
	frame_put(out->data + out->len, &whole);
	if (len > 0)
		memcpy(out->data + out->len + FRAME_SIZE, body, len);
	out->len += FRAME_SIZE + len;
	return SVC_OK;
}

/* A text in a head: its length in two bytes, its bytes, a zero. The zero lets
 * the reader use it in place. */
static size_t
text_size(size_t len)
{
	return 2 + len + 1;
}

static inline uint8_t *
put_text(uint8_t *out, const char *text, size_t len)
{
	put16(out, (uint16_t)len);
	if (len > 0)
		memcpy(out + 2, text, len);
	out[2 + len] = 0;
	return out + text_size(len);
}

/* The texts that come before the headers. */
static int
part_texts(const struct svc_part *part, unsigned flags, bool request,
    const char *texts[4])
{
	int n = 0;
	if (flags & SVC_PART_HEADERS) {
		if (request) {
			texts[n++] = part->service;
			texts[n++] = part->endpoint;
		}
		texts[n++] = part->content_type;
	}
	if (!request && (flags & SVC_PART_END))
		texts[n++] = part->status_text;
	return n;
}

/* Headers go with HEADERS; what comes with END alone is the trailers. */
static size_t
part_pairs(const struct svc_part *part, unsigned flags)
{
	unsigned with =
	    part->flags & SVC_PART_HEADERS ? SVC_PART_HEADERS : SVC_PART_END;
	return flags & with ? svc_headers_count(part->headers) : 0;
}

static size_t
length(const char *text)
{
	return text != NULL ? strlen(text) : 0;
}

size_t
part_head_size(const struct svc_part *part, unsigned flags, bool request)
{
	const char *texts[4], *name, *value;
	int n = part_texts(part, flags, request, texts);
	size_t head = 0, pairs = part_pairs(part, flags);
	for (int i = 0; i < n; i++)
		head += text_size(length(texts[i]));
	for (size_t i = 0; i < pairs; i++) {
		svc_headers_at(part->headers, i, &name, &value);
		head += text_size(strlen(name)) + text_size(strlen(value));
	}
	return head;
}

void
part_head_put(
    uint8_t *out, const struct svc_part *part, unsigned flags, bool request)
{
	const char *texts[4], *name, *value;
	int n = part_texts(part, flags, request, texts);
	size_t pairs = part_pairs(part, flags);
	for (int i = 0; i < n; i++)
		out = put_text(out, texts[i], length(texts[i]));
	for (size_t i = 0; i < pairs; i++) {
		svc_headers_at(part->headers, i, &name, &value);
		out = put_text(out, name, strlen(name));
		out = put_text(out, value, strlen(value));
	}
}

uint32_t
part_value(const struct svc_part *part, unsigned flags, bool request)
{
	if (request && (flags & SVC_PART_HEADERS) &&
	    part->timeout_ms != SVC_FOREVER)
		return part->timeout_ms <= 0 ? 1
		       : part->timeout_ms > UINT32_MAX
			   ? UINT32_MAX
			   : (uint32_t)part->timeout_ms;
	if (!request && (flags & SVC_PART_END))
		return (uint32_t)part->status;
	return 0;
}

svc_err
part_head_check(size_t head, size_t max_head, struct svc_error *err)
{
	if (head <= max_head && head <= FRAME_MAX_HEAD)
		return SVC_OK;
	return svc_error_set(err, SVC_E_EXHAUSTED,
	    "headers of %zu bytes exceed the limit of %zu "
	    "(--max_header_size)",
	    head, max_head);
}

/* Room for `more` bytes behind the `have` that are not counted yet. */
static svc_err
room_for(struct svc_buf *out, size_t have, size_t more, struct svc_error *err)
{
	if (out->cap - out->len > have + more)
		return SVC_OK;
	svc_err rc = svc_buf_reserve(out, have + more);
	if (rc != SVC_OK)
		svc_error_set(err, rc,
		    rc == SVC_E_NOMEM ? "out of memory"
				      : "too much is waiting to be sent");
	return rc;
}

/* Those of the part, behind `head` bytes of its head.
 * Errors: SVC_E_EXHAUSTED, SVC_E_NOMEM */
static svc_err
put_headers(struct svc_buf *out, const struct svc_part *part, size_t *head,
    size_t len, size_t max_head, struct svc_error *err)
{
	const char *name, *value;
	size_t pairs = svc_headers_count(part->headers);
	for (size_t i = 0; i < pairs; i++) {
		svc_headers_at(part->headers, i, &name, &value);
		size_t name_len = strlen(name), value_len = strlen(value);
		size_t had = FRAME_SIZE + *head;
		*head += text_size(name_len) + text_size(value_len);
		svc_err rc = part_head_check(*head, max_head, err);
		if (rc == SVC_OK)
			rc = room_for(out, FRAME_SIZE + *head, len, err);
		if (rc != SVC_OK)
			return rc;
		uint8_t *p =
		    put_text(out->data + out->len + had, name, name_len);
		put_text(p, value, value_len);
	}
	return SVC_OK;
}

size_t
svc_part_packed_size(const struct svc_part *part, size_t ret_lens[3])
{
	ret_lens[0] = length(part->service);
	ret_lens[1] = length(part->endpoint);
	ret_lens[2] = length(part->content_type);
	return text_size(ret_lens[0]) + text_size(ret_lens[1]) +
	       text_size(ret_lens[2]) + part->len;
}

char *
svc_part_pack(struct svc_part *part, char *space, const size_t lens[3])
{
	uint8_t *head = (uint8_t *)space, *p = head;
	const char **texts[3] = {
	    &part->service, &part->endpoint, &part->content_type};
	for (int i = 0; i < 3; i++) {
		uint8_t *end = put_text(p, *texts[i], lens[i]);
		if (*texts[i] != NULL)
			*texts[i] = (const char *)p + 2;
		p = end;
	}
	part->head = head;
	part->head_len = (size_t)(p - head);
	if (part->len > 0)
		memcpy(p, part->data, part->len);
	part->data = p;
	return (char *)p + part->len;
}

void
part_put_packed(uint8_t *out, uint32_t stream, const struct svc_part *part)
{
	size_t size = part->head_len + part->len;
	struct frame frame = {
	    .length = (uint32_t)size,
	    .type = FRAME_PART,
	    .flags = (uint8_t)part->flags,
	    .head = (uint16_t)part->head_len,
	    .stream = stream,
	    .value = part_value(part, part->flags, true),
	};
	frame_put(out, &frame);
	memcpy(out + FRAME_SIZE, part->head, size);
}

/* In one pass, without the loops over texts: each call comes here twice. The
 * frame's header goes in last. */
svc_err
part_encode(struct svc_buf *out, uint32_t stream, bool request,
    const struct svc_part *part, size_t max_head, struct svc_error *err)
{
	unsigned flags = part->flags;
	bool names = request && (flags & SVC_PART_HEADERS);
	bool type = (flags & SVC_PART_HEADERS) != 0;
	bool status = !request && (flags & SVC_PART_END);
	size_t len = flags & SVC_PART_MESSAGE ? part->len : 0;
	size_t service_len = 0, endpoint_len = 0, head = 0;
	if (names) {
		service_len = length(part->service);
		endpoint_len = length(part->endpoint);
		head = text_size(service_len) + text_size(endpoint_len);
	}
	size_t type_len = type ? length(part->content_type) : 0;
	if (type)
		head += text_size(type_len);
	size_t status_len = status ? length(part->status_text) : 0;
	if (status)
		head += text_size(status_len);
	svc_err rc = SVC_OK;
	if (head > max_head || head > FRAME_MAX_HEAD)
		return part_head_check(head, max_head, err);
	if (out->cap - out->len <= FRAME_SIZE + head + len)
		rc = room_for(out, FRAME_SIZE + head, len, err);
	if (rc != SVC_OK)
		return rc;
	uint8_t *p = out->data + out->len + FRAME_SIZE;
	if (names) {
		p = put_text(p, part->service, service_len);
		p = put_text(p, part->endpoint, endpoint_len);
	}
	if (type)
		p = put_text(p, part->content_type, type_len);
	if (status)
		put_text(p, part->status_text, status_len);
	if (part->headers != NULL && part_pairs(part, flags) > 0) {
		rc = put_headers(out, part, &head, len, max_head, err);
		if (rc != SVC_OK)
			return rc;
	}
	struct frame frame = {
	    .length = (uint32_t)(head + len),
	    .type = FRAME_PART,
	    .flags = (uint8_t)flags,
	    .head = (uint16_t)head,
	    .stream = stream,
	    .value = part_value(part, flags, request),
	};
	p = out->data + out->len;
	frame_put(p, &frame);
	if (len > 0)
		memcpy(p + FRAME_SIZE + head, part->data, len);
	out->len += FRAME_SIZE + head + len;
	return SVC_OK;
}

/* The text at *p, which is moved behind it; false when it is malformed. */
static inline bool
get_text(const uint8_t **p, const uint8_t *end, const char **ret_text,
    size_t *ret_len)
{
	if (end - *p < 3)
		return false;
	size_t len = get16(*p);
	const char *text = (const char *)*p + 2;
	if ((size_t)(end - *p) < text_size(len) || text[len] != 0 ||
	    (len > 0 && strlen(text) != len))
		return false;
	*p += text_size(len);
	*ret_text = text;
	*ret_len = len;
	return true;
}

/* An empty one is none. */
static inline bool
get_optional(const uint8_t **p, const uint8_t *end, const char **ret_text)
{
	size_t len;
	if (!get_text(p, end, ret_text, &len))
		return false;
	if (len == 0)
		*ret_text = NULL;
	return true;
}

/* What comes before the headers. */
static bool
get_texts(const struct frame *frame, bool request, const uint8_t **p,
    const uint8_t *end, struct svc_part *part)
{
	size_t len;
	if ((frame->flags & SVC_PART_HEADERS) && request) {
		if (!get_text(p, end, &part->service, &len) ||
		    !get_text(p, end, &part->endpoint, &len))
			return false;
		if (frame->value != 0)
			part->timeout_ms = frame->value;
	}
	if ((frame->flags & SVC_PART_HEADERS) &&
	    (!get_optional(p, end, &part->content_type) ||
		svc_content_type_check(part->content_type, NULL) != SVC_OK))
		return false;
	if ((frame->flags & SVC_PART_END) && !request) {
		part->status = svc_err_from_number(frame->value);
		return get_optional(p, end, &part->status_text);
	}
	return true;
}

static svc_err
malformed(struct svc_error *err, const char *what)
{
	return svc_error_set(err, SVC_E_INVAL, "malformed %s in a frame", what);
}

svc_err
part_decode(const struct frame *frame, bool request, const uint8_t *payload,
    struct svc_part *ret_part, struct svc_headers **ret_headers,
    struct svc_error *err)
{
	const uint8_t *p = payload, *end = payload + frame->head;
	struct svc_headers *headers = NULL;
	size_t pairs = 0;

	*ret_part = (struct svc_part){
	    .flags = frame->flags,
	    .timeout_ms = SVC_FOREVER,
	};
	if (frame->head > frame->length ||
	    (frame->flags &
		~(SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END)) != 0 ||
	    (frame->flags == 0))
		return malformed(err, "part");
	if (!get_texts(frame, request, &p, end, ret_part))
		return malformed(err, "text");
	if (!(frame->flags & (SVC_PART_HEADERS | SVC_PART_END)) && p != end)
		return malformed(err, "head");
	while (p != end) {
		const char *name, *value;
		size_t name_len, value_len;
		/* Each is looked for among those before it. */
		if (++pairs > FRAME_MAX_PAIRS ||
		    !get_text(&p, end, &name, &name_len) ||
		    !get_text(&p, end, &value, &value_len)) {
			svc_headers_destroy(headers);
			return malformed(err, "header");
		}
		if (headers == NULL)
			headers = svc_headers_create();
		svc_err rc = headers == NULL ? SVC_E_NOMEM
					     : svc_headers_set_n(headers, name,
						   name_len, value, value_len);
		if (rc != SVC_OK) {
			svc_headers_destroy(headers);
			return rc == SVC_E_NOMEM
				   ? svc_error_set(err, rc, "out of memory")
				   : malformed(err, "header");
		}
	}
	if (frame->flags & SVC_PART_MESSAGE) {
		ret_part->data = end;
		ret_part->len = frame->length - frame->head;
	} else if (frame->length != frame->head) {
		svc_headers_destroy(headers);
		return malformed(err, "body");
	}
	ret_part->headers = headers;
	*ret_headers = headers;
	return SVC_OK;
}

/* Of a text in the head; 0 when there is none. */
static uint8_t
place_of(const char *text, const uint8_t *payload)
{
	return text != NULL ? (uint8_t)((const uint8_t *)text - payload) : 0;
}

static const char *
text_at(const uint8_t *payload, uint8_t place)
{
	return place != 0 ? (const char *)payload + place : NULL;
}

/* Decodes a head that is not that of the memo, and keeps it there. */
static SVC_APART svc_err
decode_anew(struct svc_mux_memo *memo, const struct frame *frame, bool request,
    const uint8_t *payload, struct svc_part *ret_part,
    struct svc_headers **ret_headers, struct svc_error *err)
{
	size_t head = frame->head;
	svc_err rc =
	    part_decode(frame, request, payload, ret_part, ret_headers, err);
	memo->flags = 0;
	if (rc != SVC_OK || *ret_headers != NULL || head > SVC_MUX_MEMO ||
	    (frame->flags & (SVC_PART_HEADERS | SVC_PART_MESSAGE)) !=
		(SVC_PART_HEADERS | SVC_PART_MESSAGE))
		return rc;
	memo->flags = frame->flags;
	memo->len = (uint8_t)head;
	memo->endpoint = place_of(ret_part->endpoint, payload);
	memo->content_type = place_of(ret_part->content_type, payload);
	memo->status_text = place_of(ret_part->status_text, payload);
	memcpy(memo->bytes, payload, head);
	return rc;
}

static inline bool
is_known(const struct svc_mux_memo *memo, const struct frame *frame,
    const uint8_t *payload)
{
	return memo->flags == frame->flags && memo->len == frame->head &&
	       frame->type == FRAME_PART && frame->head <= frame->length &&
	       memcmp(memo->bytes, payload, frame->head) == 0;
}

SVC_HOT svc_err
part_decode_again(struct svc_mux_memo *memo, const struct frame *frame,
    bool request, const uint8_t *payload, struct svc_part *ret_part,
    struct svc_headers **ret_headers, struct svc_error *err)
{
	size_t head = frame->head;
	if (!is_known(memo, frame, payload))
		return decode_anew(
		    memo, frame, request, payload, ret_part, ret_headers, err);
	*ret_headers = NULL;
	*ret_part = (struct svc_part){
	    .flags = frame->flags,
	    .timeout_ms = SVC_FOREVER,
	    .content_type = text_at(payload, memo->content_type),
	    .data = payload + head,
	    .len = frame->length - head,
	};
	if (request) { /* the service is the first text */
		ret_part->service = (const char *)payload + 2;
		ret_part->endpoint = text_at(payload, memo->endpoint);
		if (frame->value != 0)
			ret_part->timeout_ms = frame->value;
	} else if (frame->flags & SVC_PART_END) {
		ret_part->status = svc_err_from_number(frame->value);
		ret_part->status_text = text_at(payload, memo->status_text);
	}
	return SVC_OK;
}

bool
part_decode_known(const struct svc_mux_memo *memo, const struct frame *frame,
    const uint8_t *payload, struct svc_part *part)
{
	if (frame->value != (uint32_t)SVC_OK || !is_known(memo, frame, payload))
		return false;
	part->flags = frame->flags;
	part->content_type = text_at(payload, memo->content_type);
	part->status_text = text_at(payload, memo->status_text);
	part->data = payload + frame->head;
	part->len = frame->length - frame->head;
	return true;
}
