/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The codecs that need no format: the bytes of the body are the value of the
 * message's only field. A field that may be absent and is cannot be told from
 * an empty one in such a body, so encode refuses it.
 */
#include <svc/codec.h>

#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>
#include <string.h>

static svc_err
only_field(const ProtobufCMessageDescriptor *descriptor, ProtobufCType type,
    const char *content_type, const ProtobufCFieldDescriptor **ret_field,
    struct svc_error *err)
{
	if (descriptor->n_fields != 1 || descriptor->fields[0].type != type ||
	    descriptor->fields[0].label == PROTOBUF_C_LABEL_REPEATED)
		return svc_error_set(err, SVC_E_INVAL,
		    "%s carries messages with one field of type %s, which %s "
		    "is not",
		    content_type,
		    type == PROTOBUF_C_TYPE_BYTES ? "bytes" : "string",
		    descriptor->name);
	*ret_field = &descriptor->fields[0];
	return SVC_OK;
}

static const void *
member(const ProtobufCMessage *message, unsigned offset)
{
	return (const uint8_t *)message + offset;
}

static void *
member_to_set(ProtobufCMessage *message, unsigned offset)
{
	return (uint8_t *)message + offset;
}

static bool
is_oneof(const ProtobufCFieldDescriptor *field)
{
	return (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
}

static svc_err
absent(const ProtobufCFieldDescriptor *field, const char *content_type,
    struct svc_error *err)
{
	return svc_error_set(err, SVC_E_INVAL,
	    "%s: is not set, and %s cannot say so; set it, to \"\" if need be",
	    field->name, content_type);
}

static svc_err
create(const ProtobufCMessageDescriptor *descriptor,
    ProtobufCMessage **ret_message, struct svc_error *err)
{
	ProtobufCMessage *message = malloc(descriptor->sizeof_message);
	if (message == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "%s: out of memory", descriptor->name);
	protobuf_c_message_init(descriptor, message);
	*ret_message = message;
	return SVC_OK;
}

/* Notes that the field is present, where the message has room for that. */
static void
mark(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	void *quantifier = member_to_set(message, field->quantifier_offset);
	if (is_oneof(field))
		*(uint32_t *)quantifier = field->id;
	else if (field->label == PROTOBUF_C_LABEL_OPTIONAL &&
		 field->type == PROTOBUF_C_TYPE_BYTES)
		*(protobuf_c_boolean *)quantifier = 1;
}

static const char *const bytes_types[] = {"application/octet-stream", NULL};

static svc_err
bytes_encode(
    const ProtobufCMessage *message, struct svc_buf *out, struct svc_error *err)
{
	const ProtobufCFieldDescriptor *field = NULL;
	svc_err e = only_field(message->descriptor, PROTOBUF_C_TYPE_BYTES,
	    bytes_types[0], &field, err);
	if (e != SVC_OK)
		return e;
	const void *quantifier = member(message, field->quantifier_offset);
	if (is_oneof(field) ? *(const uint32_t *)quantifier != field->id
			    : field->label == PROTOBUF_C_LABEL_OPTIONAL &&
				  !*(const protobuf_c_boolean *)quantifier)
		return absent(field, bytes_types[0], err);
	const ProtobufCBinaryData *value = member(message, field->offset);
	if (value->len == 0)
		return SVC_OK;
	if (value->data == NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "%s: has a length of %zu but no data", field->name,
		    value->len);
	e = svc_buf_append(out, value->data, value->len);
	if (e != SVC_OK)
		return svc_error_set(err, e, "%s: %zu bytes do not fit",
		    field->name, value->len);
	return SVC_OK;
}

static svc_err
bytes_decode(const ProtobufCMessageDescriptor *descriptor, const void *data,
    size_t len, ProtobufCMessage **ret_message, struct svc_error *err)
{
	const ProtobufCFieldDescriptor *field = NULL;
	ProtobufCMessage *message = NULL;
	svc_err e = only_field(
	    descriptor, PROTOBUF_C_TYPE_BYTES, bytes_types[0], &field, err);
	if (e == SVC_OK)
		e = create(descriptor, &message, err);
	if (e != SVC_OK)
		return e;
	ProtobufCBinaryData value = {len, NULL};
	if (len > 0) {
		value.data = malloc(len);
		if (value.data == NULL) {
			svc_message_destroy(message);
			return svc_error_set(
			    err, SVC_E_NOMEM, "%s: out of memory", field->name);
		}
		memcpy(value.data, data, len);
	}
	*(ProtobufCBinaryData *)member_to_set(message, field->offset) = value;
	mark(message, field);
	*ret_message = message;
	return SVC_OK;
}

const struct svc_codec_ops svc_codec_bytes = {
    .abi = SVC_CODEC_ABI,
    .size = sizeof(struct svc_codec_ops),
    .name = "bytes",
    .content_types = bytes_types,
    .encode = bytes_encode,
    .decode = bytes_decode,
};

static const char *const text_types[] = {"text/plain", NULL};

static svc_err
text_check(const void *data, size_t len, struct svc_error *err)
{
	size_t good = svc_utf8_span(data, len);
	if (good < len)
		return svc_error_set(err, SVC_E_INVAL,
		    "byte %zu: not UTF-8, which text/plain must be", good);
	return SVC_OK;
}

static svc_err
text_encode(
    const ProtobufCMessage *message, struct svc_buf *out, struct svc_error *err)
{
	const ProtobufCFieldDescriptor *field = NULL;
	svc_err e = only_field(message->descriptor, PROTOBUF_C_TYPE_STRING,
	    text_types[0], &field, err);
	if (e != SVC_OK)
		return e;
	const char *value = NULL;
	if (!is_oneof(field) || *(const uint32_t *)member(message,
				    field->quantifier_offset) == field->id)
		value = *(char *const *)member(message, field->offset);
	if (field->label == PROTOBUF_C_LABEL_NONE && !is_oneof(field) &&
	    value == NULL)
		value = "";
	if (value == NULL ||
	    (field->label == PROTOBUF_C_LABEL_OPTIONAL && !is_oneof(field) &&
		value == field->default_value))
		return absent(field, text_types[0], err);
	size_t len = strlen(value);
	size_t good = svc_utf8_span(value, len);
	if (good < len)
		return svc_error_set(err, SVC_E_INVAL,
		    "%s: not UTF-8 from byte %zu on", field->name, good);
	e = svc_buf_append(out, value, len);
	if (e != SVC_OK)
		return svc_error_set(
		    err, e, "%s: %zu bytes do not fit", field->name, len);
	return SVC_OK;
}

static svc_err
text_decode(const ProtobufCMessageDescriptor *descriptor, const void *data,
    size_t len, ProtobufCMessage **ret_message, struct svc_error *err)
{
	const ProtobufCFieldDescriptor *field = NULL;
	ProtobufCMessage *message = NULL;
	svc_err e = only_field(
	    descriptor, PROTOBUF_C_TYPE_STRING, text_types[0], &field, err);
	if (e == SVC_OK)
		e = text_check(data, len, err);
	if (e == SVC_OK && len > 0) {
		const uint8_t *nul = memchr(data, 0, len);
		if (nul != NULL)
			e = svc_error_set(err, SVC_E_INVAL,
			    "byte %zu: a NUL, which a string field cannot hold",
			    (size_t)(nul - (const uint8_t *)data));
	}
	if (e == SVC_OK)
		e = create(descriptor, &message, err);
	if (e != SVC_OK)
		return e;
	char *value = malloc(len + 1);
	if (value == NULL) {
		svc_message_destroy(message);
		return svc_error_set(
		    err, SVC_E_NOMEM, "%s: out of memory", field->name);
	}
	if (len > 0)
		memcpy(value, data, len);
	value[len] = '\0';
	*(char **)member_to_set(message, field->offset) = value;
	mark(message, field);
	*ret_message = message;
	return SVC_OK;
}

const struct svc_codec_ops svc_codec_text = {
    .abi = SVC_CODEC_ABI,
    .size = sizeof(struct svc_codec_ops),
    .name = "text",
    .content_types = text_types,
    .encode = text_encode,
    .decode = text_decode,
    .check = text_check,
};

void
svc_message_destroy(struct ProtobufCMessage *message)
{
	if (message != NULL)
		protobuf_c_message_free_unpacked(message, NULL);
}
