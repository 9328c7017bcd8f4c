/* SPDX-License-Identifier: Apache-2.0 */
/*
 * application/protobuf through protobuf-c. The library packs and unpacks; what
 * it does not do is done here before: it follows nested messages without end,
 * cuts a string at a NUL byte, does not mind text that is not UTF-8, fails
 * without saying where, and cannot tell bad input from missing memory. Unknown
 * fields are kept by the message and written again.
 */
#include <svc/codec.h>

#include <protobuf-c/protobuf-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Messages within messages, as many as other protobuf readers allow. */
#define MAX_LEVELS 100u
/* Two bytes on the wire are a whole struct in memory, so they are counted. */
#define MAX_MESSAGES (4u << 20)
#define MAX_TAG ((1u << 29) - 1)

/* Where in a message something is: "courses[3].name". */
struct place {
	const struct place *up;
	const char *name;
	size_t index; /* SIZE_MAX: not of a list */
};

static size_t
add(char *out, size_t size, size_t at, const char *text)
{
	size_t len = strlen(text);
	if (len >= size - at)
		len = size - at - 1;
	memcpy(out + at, text, len);
	out[at + len] = '\0';
	return at + len;
}

static size_t
add_place(const struct place *place, char *out, size_t size)
{
	size_t at = 0;
	if (place->up != NULL) {
		at = add_place(place->up, out, size);
		at = add(out, size, at, ".");
	}
	at = add(out, size, at, place->name);
	if (place->index != SIZE_MAX) {
		char index[32];
		snprintf(index, sizeof(index), "[%zu]", place->index);
		at = add(out, size, at, index);
	}
	return at;
}

static svc_err
refuse(struct svc_error *err, const struct place *place, const char *reason)
{
	char at[160] = "";
	if (err != NULL)
		add_place(place, at, sizeof(at));
	return svc_error_set(err, SVC_E_INVAL, "%s: %s", at, reason);
}

/* Encode */

static const void *
member(const ProtobufCMessage *message, unsigned offset)
{
	return (const uint8_t *)message + offset;
}

static svc_err check_message(const ProtobufCMessage *message,
    const struct place *place, unsigned level, struct svc_error *err);

/* Only what can be wrong in memory: texts, bytes and messages. */
static svc_err
check_value(const ProtobufCFieldDescriptor *field, const void *storage,
    const struct place *place, unsigned level, struct svc_error *err)
{
	if (field->type == PROTOBUF_C_TYPE_BYTES) {
		const ProtobufCBinaryData *bytes = storage;
		if (bytes->len > 0 && bytes->data == NULL)
			return refuse(err, place, "has a length but no data");
		return SVC_OK;
	}
	const void *pointer = *(const void *const *)storage;
	if (pointer == NULL)
		return refuse(err, place, "is NULL, a value is needed");
	if (field->type == PROTOBUF_C_TYPE_MESSAGE)
		return check_message(pointer, place, level + 1, err);
	size_t len = strlen(pointer);
	if (svc_utf8_span(pointer, len) < len)
		return refuse(err, place, "is not UTF-8");
	return SVC_OK;
}

static svc_err
check_message(const ProtobufCMessage *message, const struct place *place,
    unsigned level, struct svc_error *err)
{
	if (level > MAX_LEVELS)
		return refuse(err, place, "messages are nested too deep");
	const ProtobufCMessageDescriptor *descriptor = message->descriptor;
	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
		if (field->type != PROTOBUF_C_TYPE_STRING &&
		    field->type != PROTOBUF_C_TYPE_BYTES &&
		    field->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		const void *quantifier =
		    member(message, field->quantifier_offset);
		const void *storage = member(message, field->offset);
		struct place here = {
		    level > 1 ? place : NULL, field->name, SIZE_MAX};
		svc_err e = SVC_OK;
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(const size_t *)quantifier;
			size_t size = field->type == PROTOBUF_C_TYPE_BYTES
					  ? sizeof(ProtobufCBinaryData)
					  : sizeof(void *);
			const uint8_t *list = *(const uint8_t *const *)storage;
			for (size_t k = 0; k < n && e == SVC_OK; k++) {
				here.index = k;
				e = check_value(
				    field, list + k * size, &here, level, err);
			}
		} else if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0
			       ? *(const uint32_t *)quantifier == field->id
			       : field->label == PROTOBUF_C_LABEL_REQUIRED ||
				     field->type == PROTOBUF_C_TYPE_BYTES ||
				     *(const void *const *)storage != NULL) {
			e = check_value(field, storage, &here, level, err);
		}
		if (e != SVC_OK)
			return e;
	}
	return SVC_OK;
}

static svc_err
protobuf_encode(
    const ProtobufCMessage *message, struct svc_buf *out, struct svc_error *err)
{
	const struct place root = {NULL, message->descriptor->name, SIZE_MAX};
	svc_err e = check_message(message, &root, 1, err);
	if (e != SVC_OK)
		return e;
	size_t size = protobuf_c_message_get_packed_size(message);
	e = svc_buf_reserve(out, size);
	if (e != SVC_OK)
		return svc_error_set(err, e, "%s: %zu bytes as protobuf: %s",
		    root.name, size, svc_err_text(e));
	protobuf_c_message_pack(message, out->data + out->len);
	out->len += size;
	out->data[out->len] = 0;
	return SVC_OK;
}

/* Decode */

struct scan {
	const uint8_t *data;
	size_t at, end;
	size_t messages;
	struct svc_error *err;
};

static svc_err
fault(const struct scan *s, const struct place *place, const char *reason)
{
	char at[160] = "";
	if (s->err != NULL)
		add_place(place, at, sizeof(at));
	return svc_error_set(
	    s->err, SVC_E_INVAL, "%s: byte %zu: %s", at, s->at, reason);
}

static svc_err
scan_varint(struct scan *s, const struct place *place, uint64_t *ret)
{
	uint64_t value = 0;
	for (unsigned shift = 0; shift < 70; shift += 7) {
		if (s->at == s->end)
			return fault(s, place, "the number is cut off");
		uint8_t byte = s->data[s->at++];
		value |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80) {
			*ret = value;
			return SVC_OK;
		}
	}
	return fault(s, place, "the number has more than 10 bytes");
}

static svc_err
scan_skip(struct scan *s, const struct place *place, uint64_t len)
{
	if (len > s->end - s->at)
		return fault(s, place, "the value is cut off");
	s->at += (size_t)len;
	return SVC_OK;
}

static ProtobufCWireType
wire_type_of(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_FIXED32:
	case PROTOBUF_C_TYPE_FLOAT:
		return PROTOBUF_C_WIRE_TYPE_32BIT;
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return PROTOBUF_C_WIRE_TYPE_64BIT;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_BYTES:
	case PROTOBUF_C_TYPE_MESSAGE:
		return PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
	default:
		return PROTOBUF_C_WIRE_TYPE_VARINT;
	}
}

static svc_err scan_message(struct scan *s,
    const ProtobufCMessageDescriptor *descriptor, const struct place *place,
    unsigned level);

/* The content of a length-prefixed value of this field, up to s->end. */
static svc_err
scan_content(struct scan *s, const ProtobufCFieldDescriptor *field,
    const struct place *place, unsigned level)
{
	const uint8_t *content = s->data + s->at;
	size_t len = s->end - s->at;
	svc_err e = SVC_OK;
	switch (field->type) {
	case PROTOBUF_C_TYPE_MESSAGE:
		return scan_message(s, field->descriptor, place, level + 1);
	case PROTOBUF_C_TYPE_STRING:
		if (memchr(content, 0, len) != NULL)
			return fault(s, place,
			    "a NUL, which a string field cannot hold");
		if (svc_utf8_span(content, len) < len)
			return fault(s, place, "the string is not UTF-8");
		break;
	case PROTOBUF_C_TYPE_BYTES:
		break;
	default: /* a packed list */
		switch (wire_type_of(field->type)) {
		case PROTOBUF_C_WIRE_TYPE_32BIT:
			if (len % 4 != 0)
				e = fault(s, place, "the value is cut off");
			break;
		case PROTOBUF_C_WIRE_TYPE_64BIT:
			if (len % 8 != 0)
				e = fault(s, place, "the value is cut off");
			break;
		default:
			while (s->at < s->end && e == SVC_OK) {
				uint64_t number;
				e = scan_varint(s, place, &number);
			}
		}
	}
	if (e == SVC_OK)
		s->at = s->end;
	return e;
}

static svc_err
scan_value(struct scan *s, const ProtobufCFieldDescriptor *field,
    unsigned wire_type, const struct place *place, unsigned level)
{
	uint64_t number = 0;
	if (field != NULL) {
		unsigned expected = wire_type_of(field->type);
		bool packed = field->label == PROTOBUF_C_LABEL_REPEATED &&
			      wire_type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
		if (wire_type != expected && !packed) {
			char reason[64];
			snprintf(reason, sizeof(reason),
			    "expected wire type %u, got %u", expected,
			    wire_type);
			return fault(s, place, reason);
		}
	}
	switch (wire_type) {
	case PROTOBUF_C_WIRE_TYPE_VARINT:
		return scan_varint(s, place, &number);
	case PROTOBUF_C_WIRE_TYPE_64BIT:
		return scan_skip(s, place, 8);
	case PROTOBUF_C_WIRE_TYPE_32BIT:
		return scan_skip(s, place, 4);
	case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED: {
		svc_err e = scan_varint(s, place, &number);
		if (e != SVC_OK || field == NULL)
			return e != SVC_OK ? e : scan_skip(s, place, number);
		if (number > s->end - s->at)
			return fault(s, place, "the value is cut off");
		size_t end = s->end;
		s->end = s->at + (size_t)number;
		e = scan_content(s, field, place, level);
		s->end = end;
		return e;
	}
	default:
		return fault(s, place,
		    "wire types are 0, 1, 2 and 5; groups are not supported");
	}
}

/* `descriptor` NULL: only the outermost fields are looked at. */
static svc_err
scan_message(struct scan *s, const ProtobufCMessageDescriptor *descriptor,
    const struct place *place, unsigned level)
{
	if (level > MAX_LEVELS)
		return fault(s, place, "messages are nested too deep");
	if (++s->messages > MAX_MESSAGES)
		return fault(s, place, "too many messages");
	const struct place *up = level > 1 ? place : NULL;
	/* A bit for each of the first fields; the library looks at all. */
	uint64_t seen[4] = {0};
	while (s->at < s->end) {
		uint64_t key = 0;
		size_t start = s->at;
		svc_err e = scan_varint(s, place, &key);
		if (e != SVC_OK)
			return e;
		if (key >> 3 == 0 || key >> 3 > MAX_TAG || s->at - start > 5) {
			s->at = start;
			return fault(s, place,
			    "a field's number must be 1 to 536870911");
		}
		const ProtobufCFieldDescriptor *field = NULL;
		struct place here = *place;
		if (descriptor != NULL)
			field = protobuf_c_message_descriptor_get_field(
			    descriptor, (unsigned)(key >> 3));
		if (field != NULL) {
			size_t index = (size_t)(field - descriptor->fields);
			if (index < 256)
				seen[index / 64] |= UINT64_C(1) << index % 64;
			here = (struct place){up, field->name, SIZE_MAX};
		}
		e = scan_value(s, field, (unsigned)(key & 7), &here, level);
		if (e != SVC_OK)
			return e;
	}
	if (descriptor == NULL)
		return SVC_OK;
	for (unsigned i = 0; i < descriptor->n_fields && i < 256; i++) {
		if (descriptor->fields[i].label != PROTOBUF_C_LABEL_REQUIRED ||
		    (seen[i / 64] >> i % 64 & 1) != 0)
			continue;
		struct place here = {up, descriptor->fields[i].name, SIZE_MAX};
		return refuse(s->err, &here, "is required, and not there");
	}
	return SVC_OK;
}

static svc_err
scan(const ProtobufCMessageDescriptor *descriptor, const char *name,
    const void *data, size_t len, struct svc_error *err)
{
	struct scan s = {.data = data, .end = len, .err = err};
	const struct place root = {NULL, name, SIZE_MAX};
	return len == 0 && descriptor == NULL
		   ? SVC_OK
		   : scan_message(&s, descriptor, &root, 1);
}

/* The system's allocator, which svc_message_destroy frees with; it notes
 * whether memory ran out. */
static void *
noting_alloc(void *arg, size_t size)
{
	void *block = malloc(size);
	if (block == NULL)
		*(bool *)arg = true;
	return block;
}

static void
noting_free(void *arg, void *block)
{
	(void)arg;
	free(block);
}

static svc_err
protobuf_decode(const ProtobufCMessageDescriptor *descriptor, const void *data,
    size_t len, ProtobufCMessage **ret_message, struct svc_error *err)
{
	static const uint8_t nothing[1];
	bool no_memory = false;
	ProtobufCAllocator allocator = {noting_alloc, noting_free, &no_memory};
	svc_err e = scan(descriptor, descriptor->name, data, len, err);
	if (e != SVC_OK)
		return e;
	ProtobufCMessage *message = protobuf_c_message_unpack(
	    descriptor, &allocator, len, len > 0 ? data : nothing);
	if (message == NULL)
		return no_memory
			   ? svc_error_set(err, SVC_E_NOMEM,
				 "%s: out of memory", descriptor->name)
			   : svc_error_set(err, SVC_E_INVAL,
				 "%s: not a protobuf message of this type",
				 descriptor->name);
	*ret_message = message;
	return SVC_OK;
}

static svc_err
protobuf_check(const void *data, size_t len, struct svc_error *err)
{
	return scan(NULL, "protobuf", data, len, err);
}

static const char *const content_types[] = {
    "application/protobuf", "application/x-protobuf", NULL};

static const struct svc_codec_ops protobuf_ops = {
    .abi = SVC_CODEC_ABI,
    .size = sizeof(struct svc_codec_ops),
    .name = "protobuf",
    .content_types = content_types,
    .encode = protobuf_encode,
    .decode = protobuf_decode,
    .check = protobuf_check,
};

SVC_PLUGIN(protobuf_ops);
