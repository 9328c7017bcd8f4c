/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_JSON_PRIVATE_H
#define SVC_JSON_PRIVATE_H

#include <svc/codec.h>

#include <protobuf-c/protobuf-c.h>

/* Messages within messages, as many as other protobuf readers allow; with a
 * list around each, and room for what is only skipped. */
#define JSON_MAX_LEVELS 100u
#define JSON_MAX_DEPTH 256u
/* A parsed value takes 64 bytes whatever its text, so they are counted. */
#define JSON_MAX_VALUES (4u << 20)
/* What the parser's buffer for a number holds. */
#define JSON_MAX_NUMBER 63u

/* A number whose value a double may not hold: the `ordinal`th number of the
 * text, counted from 0. */
struct json_number {
	size_t ordinal;
	size_t at;
	size_t len;
};

struct json_numbers {
	struct json_number *items;
	size_t n, cap;
};

/* Whether the text is one JSON value by RFC 8259 and within the limits above.
 * With `numbers`, also whether it can be read: a NUL in a string cannot; and
 * the numbers to be read from their text are listed there, to be freed with
 * svc_mem_free whatever comes back. */
svc_err json_scan(const void *data, size_t len, struct json_numbers *numbers,
    struct svc_error *err);
/* The length of the number at the start of the text, 0 when there is none. */
size_t json_number_len(const char *text, size_t len);

/* Where in a message something is: "courses[3].name". */
struct json_place {
	const struct json_place *up;
	const char *name; /* NULL: an element of `up` */
	const char *key;  /* of a map; NULL: by index */
	size_t index;
};
#define JSON_PLACE_MAX 160
const char *json_place_text(
    const struct json_place *place, char *out, size_t size);

/* The size of one element of a list of this type. */
size_t json_element_size(ProtobufCType type);
/* Whether a repeated message field is the list of a map's entries. */
bool json_is_map(const ProtobufCMessageDescriptor *descriptor,
    const ProtobufCFieldDescriptor *field);

svc_err json_encode(const ProtobufCMessage *message, struct svc_buf *out,
    struct svc_error *err);
svc_err json_decode(const ProtobufCMessageDescriptor *descriptor,
    const void *data, size_t len, ProtobufCMessage **ret_message,
    struct svc_error *err);

#endif
