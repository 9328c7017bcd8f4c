/* SPDX-License-Identifier: Apache-2.0 */
/* From cJSON's tree to a message. What belongs to the message is allocated as
 * protobuf_c_message_unpack does: by malloc. */
#include "json_private.h"

#include <svc/log.h>

#include <cjson/cJSON.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
	struct svc_error *err;
};

static svc_err read_message(const struct reader *r,
    const ProtobufCMessageDescriptor *descriptor, const cJSON *json,
    const struct json_place *place, unsigned level,
    ProtobufCMessage **ret_message);

static const char *
kind(const cJSON *json)
{
	if (cJSON_IsNull(json))
		return "null";
	if (cJSON_IsBool(json))
		return "a boolean";
	if (cJSON_IsString(json))
		return "a string";
	if (cJSON_IsArray(json))
		return "an array";
	if (cJSON_IsObject(json))
		return "an object";
	return "a number";
}

static svc_err
wrong_kind(const struct reader *r, const struct json_place *place,
    const char *expected, const cJSON *json)
{
	char at[JSON_PLACE_MAX];
	return svc_error_set(r->err, SVC_E_INVAL, "%s: expected %s, got %s",
	    json_place_text(place, at, sizeof(at)), expected, kind(json));
}

static svc_err
no_memory(const struct reader *r, const struct json_place *place)
{
	char at[JSON_PLACE_MAX];
	return svc_error_set(r->err, SVC_E_NOMEM, "%s: out of memory",
	    json_place_text(place, at, sizeof(at)));
}

/* Says a value is not what was expected. */
static svc_err
wrong_text(const struct reader *r, const struct json_place *place,
    const char *expected, const char *text)
{
	char at[JSON_PLACE_MAX], quoted[48];
	return svc_error_set(r->err, SVC_E_INVAL, "%s: expected %s, got %s",
	    json_place_text(place, at, sizeof(at)), expected,
	    svc_log_quote(text, strlen(text), quoted, sizeof(quoted)));
}

static void *
member(ProtobufCMessage *message, unsigned offset)
{
	return (uint8_t *)message + offset;
}

/* Numbers */

/* A whole number by sign and magnitude, so that both 64-bit types fit. */
struct whole {
	bool negative;
	uint64_t magnitude;
};

/* Reads a JSON number exactly; 1.50e2 is whole, 1.5 is not. False when it is
 * not a number, not whole, or past 64 bits. */
static bool
whole_from_text(const char *text, struct whole *ret)
{
	size_t len = strlen(text);
	if (len == 0 || json_number_len(text, len) != len)
		return false;
	bool negative = text[0] == '-';
	size_t start = negative ? 1 : 0;
	size_t mantissa = strcspn(text, "eE");
	/* Beyond this every number but zero is too large or not whole. */
	const long bound = (long)len + 32;
	long shift = 0;
	if (mantissa < len) {
		const char *p = text + mantissa + 1;
		bool down = *p == '-';
		if (*p == '-' || *p == '+')
			p++;
		for (; *p != '\0'; p++) {
			if (shift < bound)
				shift = shift * 10 + (*p - '0');
		}
		if (down)
			shift = -shift;
	}
	long n_digits = 0;
	for (size_t i = start; i < mantissa; i++) {
		if (text[i] == '.')
			shift -= (long)(mantissa - i - 1);
		else
			n_digits++;
	}
	/* With a negative shift the last digits are a fraction. */
	long whole_digits = n_digits + (shift < 0 ? shift : 0);
	uint64_t value = 0;
	long seen = 0;
	for (size_t i = start; i < mantissa; i++) {
		if (text[i] == '.')
			continue;
		uint64_t digit = (uint64_t)(text[i] - '0');
		if (seen++ >= whole_digits) {
			if (digit != 0)
				return false;
		} else if (__builtin_mul_overflow(value, 10, &value) ||
			   __builtin_add_overflow(value, digit, &value)) {
			return false;
		}
	}
	for (long i = 0; i < shift && value != 0; i++) {
		if (__builtin_mul_overflow(value, 10, &value))
			return false;
	}
	ret->negative = negative && value != 0;
	ret->magnitude = value;
	return true;
}

static bool
whole_from_double(double d, struct whole *ret)
{
	/* Only numbers of fifteen digits come here; others have a text. */
	if (!(fabs(d) < 1e15) || d != trunc(d))
		return false;
	ret->negative = d < 0;
	ret->magnitude = (uint64_t)fabs(d);
	return true;
}

/* The text of a number that has one, of a string, or NULL. */
static const char *
text_of(const cJSON *json)
{
	return cJSON_IsString(json) || cJSON_IsRaw(json) ? json->valuestring
							 : NULL;
}

static svc_err
read_whole(const struct reader *r, const cJSON *json,
    const struct json_place *place, int64_t min, uint64_t max,
    struct whole *ret)
{
	if (!cJSON_IsNumber(json) && text_of(json) == NULL)
		return wrong_kind(r, place, "a number", json);
	struct whole value = {false, 0};
	const char *text = text_of(json);
	bool good = text != NULL ? whole_from_text(text, &value)
				 : whole_from_double(json->valuedouble, &value);
	if (good) {
		uint64_t limit =
		    value.negative ? UINT64_C(0) - (uint64_t)min : max;
		good = value.magnitude <= limit;
	}
	if (good) {
		*ret = value;
		return SVC_OK;
	}
	char expected[80], number[32];
	snprintf(expected, sizeof(expected), "a whole number from %lld to %llu",
	    (long long)min, (unsigned long long)max);
	if (text == NULL) {
		snprintf(number, sizeof(number), "%.15g", json->valuedouble);
		text = number;
	}
	return wrong_text(r, place, expected, text);
}

static svc_err
read_signed(const struct reader *r, const cJSON *json,
    const struct json_place *place, int64_t min, int64_t max, int64_t *ret)
{
	struct whole value;
	svc_err e = read_whole(r, json, place, min, (uint64_t)max, &value);
	if (e != SVC_OK)
		return e;
	/* By way of ~: the magnitude of INT64_MIN is no int64_t. */
	*ret = value.negative ? (int64_t) ~(value.magnitude - 1)
			      : (int64_t)value.magnitude;
	return SVC_OK;
}

static svc_err
read_real(const struct reader *r, const cJSON *json,
    const struct json_place *place, double limit, double *ret)
{
	const char *text = cJSON_IsString(json) ? json->valuestring : NULL;
	double value = json->valuedouble;
	if (text == NULL && !cJSON_IsNumber(json) && !cJSON_IsRaw(json))
		return wrong_kind(r, place, "a number", json);
	if (text != NULL) {
		static const struct {
			const char *text;
			double value;
		} special[] = {{"NaN", NAN}, {"Infinity", INFINITY},
		    {"-Infinity", -INFINITY}};
		for (size_t i = 0; i < 3; i++) {
			if (strcmp(text, special[i].text) == 0) {
				*ret = special[i].value;
				return SVC_OK;
			}
		}
		size_t len = strlen(text);
		if (len == 0 || len > JSON_MAX_NUMBER ||
		    json_number_len(text, len) != len)
			return wrong_text(r, place,
			    "a number, \"NaN\", \"Infinity\" or \"-Infinity\"",
			    text);
		/* The parser knows the locale's decimal point. */
		cJSON *number = cJSON_ParseWithLength(text, len);
		if (number == NULL)
			return no_memory(r, place);
		value = number->valuedouble;
		cJSON_Delete(number);
	}
	if (fabs(value) >= limit) {
		char number[32];
		if (text == NULL)
			text = text_of(json);
		if (text == NULL) {
			snprintf(number, sizeof(number), "%.15g", value);
			text = number;
		}
		return wrong_text(r, place,
		    limit > FLT_MAX * 2.0 ? "a number within double's range"
					  : "a number within float's range",
		    text);
	}
	*ret = value;
	return SVC_OK;
}

static svc_err
read_enum(const struct reader *r, const ProtobufCEnumDescriptor *descriptor,
    const cJSON *json, const struct json_place *place, int32_t *ret)
{
	int64_t number;
	if (!cJSON_IsString(json)) {
		if (!cJSON_IsNumber(json) && !cJSON_IsRaw(json))
			return wrong_kind(
			    r, place, "a name or number of the enum", json);
		/* A number of a newer peer is kept though it has no name. */
		svc_err e =
		    read_signed(r, json, place, INT32_MIN, INT32_MAX, &number);
		if (e == SVC_OK)
			*ret = (int32_t)number;
		return e;
	}
	const ProtobufCEnumValue *value =
	    protobuf_c_enum_descriptor_get_value_by_name(
		descriptor, json->valuestring);
	if (value != NULL) {
		*ret = value->value;
		return SVC_OK;
	}
	struct svc_buf allowed;
	svc_buf_init(&allowed, 120);
	svc_buf_puts(&allowed, "one of ");
	for (unsigned i = 0; i < descriptor->n_value_names; i++) {
		if (svc_buf_printf(&allowed, "%s%s", i > 0 ? ", " : "",
			descriptor->values_by_name[i].name) != SVC_OK)
			break;
	}
	svc_err e = wrong_text(r, place,
	    allowed.data != NULL ? (const char *)allowed.data
				 : "a name of the enum",
	    json->valuestring);
	svc_buf_fini(&allowed);
	return e;
}

/* Texts and bytes */

static char *
copy_text(const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = malloc(size);
	if (copy != NULL)
		memcpy(copy, text, size);
	return copy;
}

static int
base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || c == '-')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return -1;
}

/* Both alphabets, padded or not. */
static svc_err
read_bytes(const struct reader *r, const cJSON *json,
    const struct json_place *place, ProtobufCBinaryData *ret)
{
	if (!cJSON_IsString(json))
		return wrong_kind(r, place, "a string of base64", json);
	const char *text = json->valuestring;
	size_t len = strlen(text), padding = 0;
	while (padding < 2 && padding < len && text[len - padding - 1] == '=')
		padding++;
	bool good = padding == 0 || len % 4 == 0;
	len -= padding;
	good = good && len % 4 != 1;
	for (size_t i = 0; good && i < len; i++)
		good = base64_value(text[i]) >= 0;
	if (!good)
		return wrong_text(r, place, "base64", text);
	ProtobufCBinaryData value = {len / 4 * 3, NULL};
	if (len % 4 != 0)
		value.len += len % 4 - 1;
	if (value.len > 0) {
		value.data = malloc(value.len);
		if (value.data == NULL)
			return no_memory(r, place);
	}
	uint32_t bits = 0;
	unsigned n_bits = 0;
	size_t at = 0;
	for (size_t i = 0; i < len; i++) {
		bits = bits << 6 | (uint32_t)base64_value(text[i]);
		n_bits += 6;
		if (n_bits >= 8) {
			n_bits -= 8;
			value.data[at++] = (uint8_t)(bits >> n_bits);
		}
	}
	*ret = value;
	return SVC_OK;
}

/* Fields */

/* One value of the field's type into its storage, untouched on failure. */
static svc_err
read_value(const struct reader *r, const ProtobufCFieldDescriptor *field,
    const cJSON *json, const struct json_place *place, unsigned level,
    void *storage)
{
	svc_err e;
	int64_t number = 0;
	double real = 0;
	struct whole whole = {false, 0};
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		e = read_signed(r, json, place, INT32_MIN, INT32_MAX, &number);
		if (e == SVC_OK)
			*(int32_t *)storage = (int32_t)number;
		return e;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		e = read_signed(r, json, place, INT64_MIN, INT64_MAX, &number);
		if (e == SVC_OK)
			*(int64_t *)storage = number;
		return e;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		e = read_whole(r, json, place, 0, UINT32_MAX, &whole);
		if (e == SVC_OK)
			*(uint32_t *)storage = (uint32_t)whole.magnitude;
		return e;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		e = read_whole(r, json, place, 0, UINT64_MAX, &whole);
		if (e == SVC_OK)
			*(uint64_t *)storage = whole.magnitude;
		return e;
	case PROTOBUF_C_TYPE_FLOAT:
		/* Half a unit past FLT_MAX is where rounding gives infinity. */
		e = read_real(r, json, place, 0x1.ffffffp127, &real);
		if (e == SVC_OK)
			*(float *)storage = (float)real;
		return e;
	case PROTOBUF_C_TYPE_DOUBLE:
		e = read_real(r, json, place, INFINITY, &real);
		if (e == SVC_OK)
			*(double *)storage = real;
		return e;
	case PROTOBUF_C_TYPE_BOOL:
		if (!cJSON_IsBool(json))
			return wrong_kind(r, place, "true or false", json);
		*(protobuf_c_boolean *)storage = cJSON_IsTrue(json);
		return SVC_OK;
	case PROTOBUF_C_TYPE_ENUM:
		return read_enum(r, field->descriptor, json, place, storage);
	case PROTOBUF_C_TYPE_STRING: {
		if (!cJSON_IsString(json))
			return wrong_kind(r, place, "a string", json);
		char *text = copy_text(json->valuestring);
		if (text == NULL)
			return no_memory(r, place);
		*(char **)storage = text;
		return SVC_OK;
	}
	case PROTOBUF_C_TYPE_BYTES:
		return read_bytes(r, json, place, storage);
	case PROTOBUF_C_TYPE_MESSAGE:
		return read_message(
		    r, field->descriptor, json, place, level + 1, storage);
	default:
		return wrong_kind(r, place, "a field of a known type", json);
	}
}

/* Where an entry's key or value goes, marked as present if it can be. */
static void *
entry_member(ProtobufCMessage *entry, const ProtobufCFieldDescriptor *field)
{
	if (field->label == PROTOBUF_C_LABEL_OPTIONAL &&
	    field->type != PROTOBUF_C_TYPE_STRING &&
	    field->type != PROTOBUF_C_TYPE_MESSAGE)
		*(protobuf_c_boolean *)member(entry, field->quantifier_offset) =
		    1;
	return member(entry, field->offset);
}

static svc_err
read_map_key(const struct reader *r, const ProtobufCFieldDescriptor *field,
    const char *name, const struct json_place *place, void *storage)
{
	if (field->type == PROTOBUF_C_TYPE_BOOL) {
		bool yes = strcmp(name, "true") == 0;
		if (!yes && strcmp(name, "false") != 0)
			return wrong_text(
			    r, place, "the key true or false", name);
		*(protobuf_c_boolean *)storage = yes;
		return SVC_OK;
	}
	char *text = copy_text(name);
	if (text == NULL)
		return no_memory(r, place);
	/* Numbers in a text are read as such anyway. */
	const cJSON json = {.type = cJSON_String, .valuestring = text};
	svc_err e = read_value(r, field, &json, place, 0, storage);
	free(text);
	return e;
}

static svc_err
read_entry(const struct reader *r, const ProtobufCMessageDescriptor *descriptor,
    const cJSON *json, const struct json_place *place, unsigned level,
    ProtobufCMessage **ret_entry)
{
	ProtobufCMessage *entry = malloc(descriptor->sizeof_message);
	if (entry == NULL)
		return no_memory(r, place);
	protobuf_c_message_init(descriptor, entry);
	const ProtobufCFieldDescriptor *key = &descriptor->fields[0];
	const ProtobufCFieldDescriptor *value = &descriptor->fields[1];
	svc_err e =
	    read_map_key(r, key, json->string, place, entry_member(entry, key));
	if (e == SVC_OK)
		e = read_value(r, value, json, place, level + 1,
		    entry_member(entry, value));
	if (e != SVC_OK) {
		protobuf_c_message_free_unpacked(entry, NULL);
		return e;
	}
	*ret_entry = entry;
	return SVC_OK;
}

static svc_err
read_list(const struct reader *r, ProtobufCMessage *message,
    const ProtobufCFieldDescriptor *field, const cJSON *json,
    const struct json_place *place, unsigned level)
{
	bool map =
	    cJSON_IsObject(json) && json_is_map(message->descriptor, field);
	if (!map && !cJSON_IsArray(json))
		return wrong_kind(r, place,
		    json_is_map(message->descriptor, field) ? "an object"
							    : "an array",
		    json);
	size_t n = 0;
	const cJSON *item;
	cJSON_ArrayForEach (item, json)
		n++;
	if (n == 0)
		return SVC_OK;
	size_t size = json_element_size(field->type);
	uint8_t *list = calloc(n, size);
	if (list == NULL)
		return no_memory(r, place);
	*(void **)member(message, field->offset) = list;
	/* Counted one by one, so that what there is can be freed. */
	size_t *count = member(message, field->quantifier_offset);
	cJSON_ArrayForEach (item, json) {
		struct json_place here = {
		    place, NULL, map ? item->string : NULL, *count};
		void *storage = list + *count * size;
		svc_err e =
		    map ? read_entry(
			      r, field->descriptor, item, &here, level, storage)
			: read_value(r, field, item, &here, level, storage);
		if (e != SVC_OK)
			return e;
		++*count;
	}
	return SVC_OK;
}

static svc_err
read_field(const struct reader *r, ProtobufCMessage *message,
    const ProtobufCFieldDescriptor *field, const cJSON *json,
    const struct json_place *place, unsigned level)
{
	if (field->label == PROTOBUF_C_LABEL_REPEATED)
		return read_list(r, message, field, json, place, level);

	void *quantifier = member(message, field->quantifier_offset);
	bool oneof = (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
	if (oneof && *(uint32_t *)quantifier != 0) {
		const ProtobufCFieldDescriptor *other =
		    protobuf_c_message_descriptor_get_field(
			message->descriptor, *(uint32_t *)quantifier);
		char at[JSON_PLACE_MAX];
		return svc_error_set(r->err, SVC_E_INVAL,
		    "%s: only one of it and %s may be set",
		    json_place_text(place, at, sizeof(at)),
		    other != NULL ? other->name : "another field");
	}
	svc_err e = read_value(
	    r, field, json, place, level, member(message, field->offset));
	if (e != SVC_OK)
		return e;
	if (oneof)
		*(uint32_t *)quantifier = field->id;
	else if (field->label == PROTOBUF_C_LABEL_OPTIONAL &&
		 field->type != PROTOBUF_C_TYPE_STRING &&
		 field->type != PROTOBUF_C_TYPE_MESSAGE)
		*(protobuf_c_boolean *)quantifier = 1;
	return SVC_OK;
}

/* Whether `name` is the field's in camelCase; `first` is the case of its first
 * letter: proto-JSON writes it as it is, Go's structs in upper case. */
static bool
is_camel(const char *name, const char *field, bool upper_first)
{
	bool up = upper_first;
	for (; *field != '\0'; field++) {
		if (*field == '_') {
			up = true;
			continue;
		}
		char want = *field;
		if (up && want >= 'a' && want <= 'z')
			want = (char)(want - 'a' + 'A');
		if (*name++ != want)
			return false;
		up = false;
	}
	return *name == '\0';
}

static const ProtobufCFieldDescriptor *
find_field(const ProtobufCMessageDescriptor *descriptor, const char *name)
{
	const ProtobufCFieldDescriptor *field =
	    protobuf_c_message_descriptor_get_field_by_name(descriptor, name);
	for (unsigned i = 0; field == NULL && i < descriptor->n_fields; i++) {
		if (is_camel(name, descriptor->fields[i].name, false))
			field = &descriptor->fields[i];
	}
	return field;
}

/* The member of a oneof within the object that Go's encoding/json writes
 * around it: {"Kind": {"PhoneNumber": "1"}}. The oneof's own name is not known
 * here, but it can only be one when no field has it. */
static const ProtobufCFieldDescriptor *
find_wrapped(const ProtobufCMessageDescriptor *descriptor, const cJSON *json)
{
	if (!cJSON_IsObject(json) || json->child == NULL ||
	    json->child->next != NULL)
		return NULL;
	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
		if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
		    is_camel(json->child->string, field->name, true))
			return field;
	}
	return NULL;
}

static svc_err
read_members(const struct reader *r, ProtobufCMessage *message,
    const cJSON *json, const struct json_place *place, unsigned level,
    uint8_t *seen)
{
	const ProtobufCMessageDescriptor *descriptor = message->descriptor;
	/* At the top the message's own name would only be noise. */
	const struct json_place *up = level > 1 ? place : NULL;
	char at[JSON_PLACE_MAX];
	const cJSON *item;
	cJSON_ArrayForEach (item, json) {
		const cJSON *value = item;
		const ProtobufCFieldDescriptor *field =
		    find_field(descriptor, item->string);
		if (field == NULL) {
			field = find_wrapped(descriptor, item);
			value = item->child;
		}
		if (field == NULL || cJSON_IsNull(value))
			continue;
		struct json_place here = {up, field->name, NULL, 0};
		size_t index = (size_t)(field - descriptor->fields);
		if (seen[index])
			return svc_error_set(r->err, SVC_E_INVAL,
			    "%s: is there twice",
			    json_place_text(&here, at, sizeof(at)));
		seen[index] = 1;
		svc_err e = read_field(r, message, field, value, &here, level);
		if (e != SVC_OK)
			return e;
	}
	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
		if (field->label != PROTOBUF_C_LABEL_REQUIRED || seen[i])
			continue;
		struct json_place here = {up, field->name, NULL, 0};
		return svc_error_set(r->err, SVC_E_INVAL,
		    "%s: is required, and not there",
		    json_place_text(&here, at, sizeof(at)));
	}
	return SVC_OK;
}

/* `json` NULL is an empty body. */
static svc_err
read_message(const struct reader *r,
    const ProtobufCMessageDescriptor *descriptor, const cJSON *json,
    const struct json_place *place, unsigned level,
    ProtobufCMessage **ret_message)
{
	if (json != NULL && !cJSON_IsObject(json))
		return wrong_kind(r, place, "an object", json);
	if (level > JSON_MAX_LEVELS) {
		char at[JSON_PLACE_MAX];
		return svc_error_set(r->err, SVC_E_INVAL,
		    "%s: messages are nested deeper than %u",
		    json_place_text(place, at, sizeof(at)), JSON_MAX_LEVELS);
	}
	uint8_t few[32] = {0};
	uint8_t *seen = few;
	if (descriptor->n_fields > sizeof(few)) {
		seen = svc_mem_calloc(descriptor->n_fields, 1);
		if (seen == NULL)
			return no_memory(r, place);
	}
	svc_err e = SVC_OK;
	ProtobufCMessage *message = malloc(descriptor->sizeof_message);
	if (message == NULL) {
		e = no_memory(r, place);
	} else {
		protobuf_c_message_init(descriptor, message);
		e = read_members(r, message, json, place, level, seen);
	}
	if (seen != few)
		svc_mem_free(seen);
	if (e != SVC_OK) {
		svc_message_destroy(message);
		return e;
	}
	*ret_message = message;
	return SVC_OK;
}

/* Walks the tree in the order of the text and gives each listed number its
 * text; a number with one becomes cJSON_Raw. Recursion is bounded by
 * JSON_MAX_DEPTH. */
static bool
give_texts(cJSON *json, const char *text, const struct json_numbers *numbers,
    size_t *ordinal, size_t *next)
{
	for (; json != NULL && *next < numbers->n; json = json->next) {
		if (json->child != NULL) {
			if (!give_texts(
				json->child, text, numbers, ordinal, next))
				return false;
			continue;
		}
		if (!cJSON_IsNumber(json))
			continue;
		const struct json_number *number = &numbers->items[*next];
		if ((*ordinal)++ != number->ordinal)
			continue;
		++*next;
		char *copy = cJSON_malloc(number->len + 1);
		if (copy == NULL)
			return false;
		memcpy(copy, text + number->at, number->len);
		copy[number->len] = '\0';
		json->valuestring = copy;
		json->type = cJSON_Raw;
	}
	return true;
}

svc_err
json_decode(const ProtobufCMessageDescriptor *descriptor, const void *data,
    size_t len, ProtobufCMessage **ret_message, struct svc_error *err)
{
	const struct reader r = {err};
	const struct json_place root = {NULL, descriptor->name, NULL, 0};
	if (len == 0)
		return read_message(
		    &r, descriptor, NULL, &root, 1, ret_message);
	struct json_numbers numbers = {NULL, 0, 0};
	cJSON *json = NULL;
	svc_err e = json_scan(data, len, &numbers, err);
	if (e != SVC_OK)
		goto out;
	/* What was scanned is well formed, so only memory can be missing. */
	json = cJSON_ParseWithLength(data, len);
	size_t ordinal = 0, next = 0;
	if (json == NULL ||
	    !give_texts(json, data, &numbers, &ordinal, &next)) {
		e = svc_error_set(err, SVC_E_NOMEM, "JSON: out of memory");
		goto out;
	}
	e = read_message(&r, descriptor, json, &root, 1, ret_message);
out:
	cJSON_Delete(json);
	svc_mem_free(numbers.items);
	return e;
}
