/* SPDX-License-Identifier: Apache-2.0 */
/* From a message straight to text. There is no tree between, so an integer
 * never becomes a double. */
#include "json_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An append that fails is remembered by the buffer; it is looked at once, at
 * the end, and wherever much work would follow. */
struct writer {
	struct svc_buf *out;
	struct svc_error *err;
	size_t values;
};

static svc_err write_message(struct writer *w, const ProtobufCMessage *message,
    const struct json_place *place, unsigned level);

static svc_err
refuse(
    const struct writer *w, const struct json_place *place, const char *reason)
{
	char at[JSON_PLACE_MAX];
	return svc_error_set(w->err, SVC_E_INVAL, "%s: %s",
	    json_place_text(place, at, sizeof(at)), reason);
}

static const void *
member(const ProtobufCMessage *message, unsigned offset)
{
	return (const uint8_t *)message + offset;
}

static void
write_unsigned(struct writer *w, uint64_t value, bool negative)
{
	char text[24];
	size_t at = sizeof(text);
	do {
		text[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value != 0);
	if (negative)
		text[--at] = '-';
	svc_buf_append(w->out, text + at, sizeof(text) - at);
}

static void
write_signed(struct writer *w, int64_t value)
{
	uint64_t magnitude = (uint64_t)value;
	write_unsigned(
	    w, value < 0 ? UINT64_C(0) - magnitude : magnitude, value < 0);
}

/* The fewest digits that are read back as the same number. */
static void
write_real(struct writer *w, double value, bool is_float)
{
	if (isnan(value)) {
		svc_buf_puts(w->out, "\"NaN\"");
		return;
	}
	if (isinf(value)) {
		svc_buf_puts(
		    w->out, value < 0 ? "\"-Infinity\"" : "\"Infinity\"");
		return;
	}
	char text[40];
	int last = is_float ? 9 : 17;
	for (int digits = is_float ? 6 : 15; digits <= last; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, value);
		double back = strtod(text, NULL);
		if (is_float ? (float)back == (float)value : back == value)
			break;
	}
	/* The C library writes the locale's decimal point, which may even be
	 * several bytes. */
	bool point = false;
	for (const char *p = text; *p != '\0'; p++) {
		if ((*p >= '0' && *p <= '9') || *p == '-' || *p == '+' ||
		    *p == 'e') {
			svc_buf_putc(w->out, *p);
		} else if (!point) {
			svc_buf_putc(w->out, '.');
			point = true;
		}
	}
}

static svc_err
write_bytes(struct writer *w, const ProtobufCBinaryData *value,
    const struct json_place *place)
{
	static const char alphabet[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	if (value->len > 0 && value->data == NULL)
		return refuse(w, place, "has a length but no data");
	svc_buf_putc(w->out, '"');
	for (size_t at = 0; at < value->len; at += 3) {
		size_t n = value->len - at < 3 ? value->len - at : 3;
		uint32_t bits = (uint32_t)value->data[at] << 16;
		if (n > 1)
			bits |= (uint32_t)value->data[at + 1] << 8;
		if (n > 2)
			bits |= value->data[at + 2];
		char four[4] = {
		    alphabet[bits >> 18], alphabet[bits >> 12 & 63], '=', '='};
		if (n > 1)
			four[2] = alphabet[bits >> 6 & 63];
		if (n > 2)
			four[3] = alphabet[bits & 63];
		if (svc_buf_append(w->out, four, sizeof(four)) != SVC_OK)
			break;
	}
	svc_buf_putc(w->out, '"');
	return SVC_OK;
}

static svc_err
write_text(struct writer *w, const char *text, const struct json_place *place)
{
	if (text == NULL)
		return refuse(w, place, "is NULL, a string is needed");
	size_t len = strlen(text);
	if (svc_utf8_span(text, len) < len)
		return refuse(w, place, "is not UTF-8");
	svc_buf_json_string(w->out, text, len);
	return SVC_OK;
}

/* One value from its storage. */
static svc_err
write_value(struct writer *w, const ProtobufCFieldDescriptor *field,
    const void *storage, const struct json_place *place, unsigned level)
{
	if (++w->values > JSON_MAX_VALUES) {
		char at[JSON_PLACE_MAX];
		return svc_error_set(w->err, SVC_E_INVAL,
		    "%s: more than %u values",
		    json_place_text(place, at, sizeof(at)), JSON_MAX_VALUES);
	}
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
	case PROTOBUF_C_TYPE_ENUM:
		write_signed(w, *(const int32_t *)storage);
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		write_signed(w, *(const int64_t *)storage);
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		write_unsigned(w, *(const uint32_t *)storage, false);
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		write_unsigned(w, *(const uint64_t *)storage, false);
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		write_real(w, (double)*(const float *)storage, true);
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		write_real(w, *(const double *)storage, false);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		svc_buf_puts(w->out,
		    *(const protobuf_c_boolean *)storage ? "true" : "false");
		break;
	case PROTOBUF_C_TYPE_STRING:
		return write_text(w, *(const char *const *)storage, place);
	case PROTOBUF_C_TYPE_BYTES:
		return write_bytes(w, storage, place);
	case PROTOBUF_C_TYPE_MESSAGE: {
		const ProtobufCMessage *message =
		    *(const ProtobufCMessage *const *)storage;
		if (message == NULL)
			return refuse(w, place, "is NULL, a message is needed");
		return write_message(w, message, place, level + 1);
	}
	default:
		return refuse(w, place, "is of an unknown type");
	}
	return SVC_OK;
}

/* A key of any type is a text in JSON. */
static svc_err
write_map_key(struct writer *w, const ProtobufCFieldDescriptor *field,
    const void *storage, const struct json_place *place)
{
	if (field->type == PROTOBUF_C_TYPE_STRING) {
		const char *text = *(const char *const *)storage;
		return write_text(w, text != NULL ? text : "", place);
	}
	svc_buf_putc(w->out, '"');
	svc_err e = write_value(w, field, storage, place, 0);
	svc_buf_putc(w->out, '"');
	return e;
}

static svc_err
write_entry(struct writer *w, const ProtobufCMessage *entry,
    const struct json_place *place, unsigned level)
{
	if (entry == NULL)
		return refuse(w, place, "is NULL, an entry is needed");
	const ProtobufCFieldDescriptor *key = &entry->descriptor->fields[0];
	const ProtobufCFieldDescriptor *value = &entry->descriptor->fields[1];
	const void *storage = member(entry, value->offset);
	svc_err e = write_map_key(w, key, member(entry, key->offset), place);
	if (e != SVC_OK)
		return e;
	svc_buf_putc(w->out, ':');
	/* An entry without a value has the zero value. */
	if (value->type == PROTOBUF_C_TYPE_MESSAGE &&
	    *(const ProtobufCMessage *const *)storage == NULL) {
		svc_buf_puts(w->out, "{}");
		return SVC_OK;
	}
	if (value->type == PROTOBUF_C_TYPE_STRING &&
	    *(const char *const *)storage == NULL) {
		svc_buf_puts(w->out, "\"\"");
		return SVC_OK;
	}
	return write_value(w, value, storage, place, level + 1);
}

static svc_err
write_list(struct writer *w, const ProtobufCMessage *message,
    const ProtobufCFieldDescriptor *field, const struct json_place *place,
    unsigned level)
{
	bool map = json_is_map(message->descriptor, field);
	size_t n = *(const size_t *)member(message, field->quantifier_offset);
	const uint8_t *list =
	    *(const uint8_t *const *)member(message, field->offset);
	size_t size = json_element_size(field->type);
	svc_buf_putc(w->out, map ? '{' : '[');
	for (size_t i = 0; i < n; i++) {
		struct json_place here = {place, NULL, NULL, i};
		const void *storage = list + i * size;
		if (i > 0)
			svc_buf_putc(w->out, ',');
		svc_err e = map ? write_entry(w,
				      *(const ProtobufCMessage *const *)storage,
				      &here, level)
				: write_value(w, field, storage, &here, level);
		if (e == SVC_OK)
			e = w->out->failed;
		if (e != SVC_OK)
			return e;
	}
	svc_buf_putc(w->out, map ? '}' : ']');
	return SVC_OK;
}

/* Whether a field without presence holds its zero value, bit by bit: -0.0 is
 * not zero. */
static bool
is_zero(const ProtobufCFieldDescriptor *field, const void *storage)
{
	static const uint8_t zero[8];
	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING: {
		const char *text = *(const char *const *)storage;
		return text == NULL || text[0] == '\0';
	}
	case PROTOBUF_C_TYPE_BYTES:
		return ((const ProtobufCBinaryData *)storage)->len == 0;
	case PROTOBUF_C_TYPE_MESSAGE:
		return *(const ProtobufCMessage *const *)storage == NULL;
	default:
		return memcmp(storage, zero, json_element_size(field->type)) ==
		       0;
	}
}

static bool
is_present(
    const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	const void *quantifier = member(message, field->quantifier_offset);
	const void *storage = member(message, field->offset);
	if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
		return *(const uint32_t *)quantifier == field->id;
	switch (field->label) {
	case PROTOBUF_C_LABEL_REQUIRED:
		return true;
	case PROTOBUF_C_LABEL_REPEATED:
		return *(const size_t *)quantifier > 0;
	case PROTOBUF_C_LABEL_OPTIONAL:
		if (field->type == PROTOBUF_C_TYPE_STRING ||
		    field->type == PROTOBUF_C_TYPE_MESSAGE) {
			const void *pointer = *(const void *const *)storage;
			return pointer != NULL &&
			       pointer != field->default_value;
		}
		return *(const protobuf_c_boolean *)quantifier != 0;
	default:
		return !is_zero(field, storage);
	}
}

static svc_err
write_message(struct writer *w, const ProtobufCMessage *message,
    const struct json_place *place, unsigned level)
{
	const ProtobufCMessageDescriptor *descriptor = message->descriptor;
	if (level > JSON_MAX_LEVELS) {
		char at[JSON_PLACE_MAX];
		return svc_error_set(w->err, SVC_E_INVAL,
		    "%s: messages are nested deeper than %u",
		    json_place_text(place, at, sizeof(at)), JSON_MAX_LEVELS);
	}
	bool first = true;
	svc_buf_putc(w->out, '{');
	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
		if (!is_present(message, field))
			continue;
		struct json_place here = {
		    level > 1 ? place : NULL, field->name, NULL, 0};
		svc_buf_puts(w->out, first ? "\"" : ",\"");
		svc_buf_puts(w->out, field->name);
		svc_buf_puts(w->out, "\":");
		first = false;
		svc_err e =
		    field->label == PROTOBUF_C_LABEL_REPEATED
			? write_list(w, message, field, &here, level)
			: write_value(w, field, member(message, field->offset),
			      &here, level);
		if (e == SVC_OK)
			e = w->out->failed;
		if (e != SVC_OK)
			return e;
	}
	svc_buf_putc(w->out, '}');
	return w->out->failed;
}

svc_err
json_encode(
    const ProtobufCMessage *message, struct svc_buf *out, struct svc_error *err)
{
	struct writer w = {out, err, 0};
	const struct json_place root = {
	    NULL, message->descriptor->name, NULL, 0};
	size_t start = out->len;
	svc_err e = write_message(&w, message, &root, 1);
	if (e == SVC_OK)
		return SVC_OK;
	if (out->failed != SVC_OK)
		e = svc_error_set(err, out->failed, "%s: as JSON: %s",
		    message->descriptor->name, svc_err_text(out->failed));
	out->len = start;
	if (out->data != NULL)
		out->data[start] = 0;
	return e;
}
