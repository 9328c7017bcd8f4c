/* SPDX-License-Identifier: Apache-2.0 */
/*
 * application/json by a message's descriptor.
 *
 * Written are the names of the .proto file, 64-bit integers as exact numbers,
 * enums as numbers, bytes in base64, maps as objects, a oneof as its member,
 * NaN and infinities as texts; a field at its zero value that has no presence
 * is left out. Read is what proto-JSON allows, so also camelCase names,
 * numbers in texts and names of enum values, and the object that Go's
 * encoding/json writes around a oneof's member. Unknown names are skipped, so
 * that a newer peer can be understood; an empty body is an empty message.
 */
#include "json_private.h"

#include <svc/log.h>

#include <stdio.h>
#include <string.h>

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
add_place(const struct json_place *place, char *out, size_t size)
{
	char part[64];
	size_t at = 0;
	if (place->up != NULL)
		at = add_place(place->up, out, size);
	if (place->name != NULL) {
		if (at > 0)
			at = add(out, size, at, ".");
		return add(out, size, at, place->name);
	}
	if (place->key == NULL) {
		snprintf(part, sizeof(part), "[%zu]", place->index);
		return add(out, size, at, part);
	}
	svc_log_quote(place->key, strlen(place->key), part, sizeof(part));
	at = add(out, size, at, "[");
	at = add(out, size, at, part);
	return add(out, size, at, "]");
}

const char *
json_place_text(const struct json_place *place, char *out, size_t size)
{
	out[0] = '\0';
	add_place(place, out, size);
	return out;
}

size_t
json_element_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_STRING:
		return sizeof(char *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(ProtobufCMessage *);
	default:
		return 4;
	}
}

/* protobuf-c says nowhere that a field was written as map<>; but protoc made
 * its entry type with this name, fields and numbers. Who wrote such a type by
 * hand gets an object, too, and it is read back as it was. */
bool
json_is_map(const ProtobufCMessageDescriptor *descriptor,
    const ProtobufCFieldDescriptor *field)
{
	if (field->label != PROTOBUF_C_LABEL_REPEATED ||
	    field->type != PROTOBUF_C_TYPE_MESSAGE)
		return false;
	const ProtobufCMessageDescriptor *entry = field->descriptor;
	if (entry->n_fields != 2 || entry->fields[0].id != 1 ||
	    entry->fields[1].id != 2 ||
	    strcmp(entry->fields[0].name, "key") != 0 ||
	    strcmp(entry->fields[1].name, "value") != 0)
		return false;
	for (unsigned i = 0; i < 2; i++) {
		const ProtobufCFieldDescriptor *f = &entry->fields[i];
		if ((f->label != PROTOBUF_C_LABEL_NONE &&
			f->label != PROTOBUF_C_LABEL_OPTIONAL) ||
		    (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
			return false;
	}
	ProtobufCType key = entry->fields[0].type;
	if (key == PROTOBUF_C_TYPE_FLOAT || key == PROTOBUF_C_TYPE_DOUBLE ||
	    key == PROTOBUF_C_TYPE_ENUM || key == PROTOBUF_C_TYPE_BYTES ||
	    key == PROTOBUF_C_TYPE_MESSAGE)
		return false;

	/* Within the type that has the field, and called as it in CamelCase
	 * with "Entry" behind. */
	size_t outer = strlen(descriptor->name);
	if (strncmp(entry->name, descriptor->name, outer) != 0 ||
	    entry->name[outer] != '.')
		return false;
	const char *have = entry->name + outer + 1;
	bool up = true;
	for (const char *p = field->name; *p != '\0'; p++) {
		if (*p == '_') {
			up = true;
			continue;
		}
		char want = *p;
		if (up && want >= 'a' && want <= 'z')
			want = (char)(want - 'a' + 'A');
		if (*have++ != want)
			return false;
		up = false;
	}
	return strcmp(have, "Entry") == 0;
}

static svc_err
json_check(const void *data, size_t len, struct svc_error *err)
{
	return len == 0 ? SVC_OK : json_scan(data, len, NULL, err);
}

static const char *const content_types[] = {"application/json", NULL};

static const struct svc_codec_ops json_ops = {
    .abi = SVC_CODEC_ABI,
    .size = sizeof(struct svc_codec_ops),
    .name = "json",
    .content_types = content_types,
    .encode = json_encode,
    .decode = json_decode,
    .check = json_check,
};

SVC_PLUGIN(json_ops);
