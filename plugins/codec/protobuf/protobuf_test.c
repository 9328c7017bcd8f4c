/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/codec.h"

#include <codec_types.pb-c.h>
#include <codec_types2.pb-c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BAD(type, text, says)                                     \
	{                                                         \
		&type##__descriptor, text, sizeof(text) - 1, says \
	}

static const struct svc_conformance_bad bad[] = {
    BAD(codec__student, "\x0a", "name: byte 1: the number is cut off"),
    BAD(codec__student,
	"\x0a\x05"
	"ab",
	"name: byte 2: the value is cut off"),
    BAD(codec__student,
	"\x0a\x03"
	"a\0b",
	"name: byte 2: a NUL"),
    BAD(codec__student,
	"\x0a\x02"
	"a\xff",
	"name: byte 2: the string is not"),
    BAD(codec__student, "\x08\x01",
	"name: byte 1: expected wire type 2, got 0"),
    BAD(codec__student, "\x11\x01\x02", "grade: byte 1: the value is cut off"),
    BAD(codec__student, "\x1d\x01\x02\x03\x04",
	"id: byte 1: expected wire type 0, got 5"),
    BAD(codec__student, "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
	"id: byte 11: the number has more than 10 bytes"),
    BAD(codec__student, "\x00\x00", "byte 0: a field's number must be 1 to"),
    BAD(codec__student, "\x80\x80\x80\x80\x10\x00", "a field's number must be"),
    BAD(codec__student, "\x80\x80\x80\x80\x80\x01\x00", "a field's number"),
    BAD(codec__student, "\x7b\x7c", "groups are not supported"),
    BAD(codec__student, "\x7f", "wire types are 0, 1, 2 and 5"),
    BAD(codec__student, "\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
	"the value is cut off"),
    BAD(codec__everything, "\x8a\x01\x04\x12\x02\x0a\x05",
	"leaf_field.next.name: byte 7: the value is cut off"),
    BAD(codec__everything, "\xaa\x01\x02\x01\x80",
	"int32_list: byte 5: the number is cut off"),
    BAD(codec__everything, "\xba\x01\x03\x01\x02\x03",
	"sfixed32_list: byte 3: the value is cut off"),
    BAD(codec__everything, "\x82\x02\x04\x01\x02\x03\x04",
	"double_list: byte 3: the value is cut off"),
    BAD(codec__everything,
	"\x9a\x03\x04\x0a\x02"
	"a\xff",
	"count_by_name.key: byte 5: the string is not UTF-8"),
    BAD(codec2__presence, "", "id: is required, and not there"),
    BAD(codec2__presence, "\x08\x01", "name: is required, and not there"),
    BAD(codec2__presence, "\x08\x01\x12\x00\x4a\x00",
	"inner.id: is required, and not there"),
    {NULL, NULL, 0, NULL},
};

static const struct svc_codec_ops *ops;

static int
find(void **state)
{
	(void)state;
	const void *found = NULL;
	if (svc_catalogue_find(
		&svc_codec_interface, "protobuf", &found, NULL) != SVC_OK)
		return -1;
	ops = found;
	return 0;
}

/* The bytes are those of bare protobuf-c; behind what was there already. */
static void
test_bytes_are_those_of_protobuf_c(void **state)
{
	(void)state;
	static char name[] = "Ann";
	static int32_t numbers[] = {1, -1, 300};
	Codec2__Presence message = CODEC2__PRESENCE__INIT;
	message.id = -5;
	message.name = name;
	message.has_real = 1;
	message.real = 0.5;
	message.n_packed = message.n_loose = 3;
	message.packed = message.loose = numbers;
	message.choice_case = CODEC2__PRESENCE__CHOICE_CHOICE_NUMBER;
	message.choice_number = 7;
	uint8_t bare[256];
	size_t len = codec2__presence__pack(&message, bare);
	struct svc_buf out;
	svc_buf_init(&out, 1000);
	assert_int_equal(svc_buf_puts(&out, "x"), SVC_OK);
	assert_int_equal(ops->encode(&message.base, &out, NULL), SVC_OK);
	assert_int_equal(out.len, len + 1);
	assert_memory_equal(out.data + 1, bare, len);
	svc_buf_fini(&out);
}

static void
test_reads_known_bytes(void **state)
{
	(void)state;
	/* As any protobuf library writes {name: "Ann", grade: 1.5, id: -1,
	 * courses: ["a"]}, then a field 15 that this release does not know. */
	static const char bytes[] =
	    "\x0a\x03"
	    "Ann\x11\0\0\0\0\0\0\xf8\x3f\x18\xff\xff\xff\xff\xff\xff"
	    "\xff\xff\xff\x01\x22\x01"
	    "a\x7a\x02zz";
	ProtobufCMessage *message = NULL;
	assert_int_equal(ops->decode(&codec__student__descriptor, bytes,
			     sizeof(bytes) - 1, &message, NULL),
	    SVC_OK);
	const Codec__Student *student = (const Codec__Student *)message;
	assert_string_equal(student->name, "Ann");
	assert_true(student->grade == 1.5);
	assert_int_equal(student->id, -1);
	assert_int_equal(student->n_courses, 1);
	assert_string_equal(student->courses[0], "a");
	/* And writes the unknown one again. */
	struct svc_buf out;
	svc_buf_init(&out, 1000);
	assert_int_equal(ops->encode(message, &out, NULL), SVC_OK);
	assert_int_equal(out.len, sizeof(bytes) - 1);
	assert_memory_equal(out.data, bytes, out.len);
	svc_buf_fini(&out);
	svc_message_destroy(message);
}

static void
test_lists_packed_or_not(void **state)
{
	(void)state;
	/* Field 21 packed, loose, packed again; then 16 of the other message,
	 * declared loose, packed. */
	static const char mixed[] =
	    "\xaa\x01\x02\x01\x02\xa8\x01\x03\xaa\x01\x00";
	static const char loose[] = "\x08\x01\x12\x00\x82\x01\x02\x07\x08";
	ProtobufCMessage *message = NULL;
	assert_int_equal(ops->decode(&codec__everything__descriptor, mixed,
			     sizeof(mixed) - 1, &message, NULL),
	    SVC_OK);
	const Codec__Everything *all = (const Codec__Everything *)message;
	assert_int_equal(all->n_int32_list, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(all->int32_list[i], i + 1);
	svc_message_destroy(message);
	assert_int_equal(ops->decode(&codec2__presence__descriptor, loose,
			     sizeof(loose) - 1, &message, NULL),
	    SVC_OK);
	const Codec2__Presence *presence = (const Codec2__Presence *)message;
	assert_int_equal(presence->n_loose, 2);
	assert_int_equal(presence->loose[1], 8);
	assert_int_equal(presence->number_with_default, 42);
	svc_message_destroy(message);
}

static void
test_last_of_a_oneof_wins(void **state)
{
	(void)state;
	static const char bytes[] = "\xd2\x02\x01"
				    "a\xe2\x02\x03\x0a\x01"
				    "b"
				    "\xc8\x02\x05";
	ProtobufCMessage *message = NULL;
	assert_int_equal(ops->decode(&codec__everything__descriptor, bytes,
			     sizeof(bytes) - 1, &message, NULL),
	    SVC_OK);
	const Codec__Everything *all = (const Codec__Everything *)message;
	assert_int_equal(
	    all->choice_case, CODEC__EVERYTHING__CHOICE_CHOICE_NUMBER);
	assert_int_equal(all->choice_number, 5);
	svc_message_destroy(message);
}

static void
test_refuses_messages_it_cannot_write(void **state)
{
	(void)state;
	static char bad_text[] = "a\xff";
	static Codec__Leaf leaf = CODEC__LEAF__INIT;
	static Codec__Leaf *leaves[] = {&leaf, NULL};
	Codec__Everything all = CODEC__EVERYTHING__INIT;
	Codec2__Presence presence = CODEC2__PRESENCE__INIT;
	struct svc_error err = {0};
	struct svc_buf out;
	svc_buf_init(&out, 10000);

	all.n_leaf_list = 2;
	all.leaf_list = leaves;
	assert_int_equal(ops->encode(&all.base, &out, &err), SVC_E_INVAL);
	assert_string_equal(
	    err.text, "leaf_list[1]: is NULL, a value is needed");
	leaves[1] = &leaf;
	leaf.name = bad_text;
	assert_int_equal(ops->encode(&all.base, &out, &err), SVC_E_INVAL);
	assert_string_equal(err.text, "leaf_list[0].name: is not UTF-8");
	all.n_leaf_list = 0;
	all.bytes_field.len = 1;
	assert_int_equal(ops->encode(&all.base, &out, &err), SVC_E_INVAL);
	assert_string_equal(err.text, "bytes_field: has a length but no data");
	assert_int_equal(ops->encode(&presence.base, &out, &err), SVC_E_INVAL);
	assert_string_equal(err.text, "name: is NULL, a value is needed");
	assert_int_equal(out.len, 0);
	svc_buf_fini(&out);
}

static void
test_check(void **state)
{
	(void)state;
	struct svc_error err = {0};
	assert_int_equal(ops->check("", 0, NULL), SVC_OK);
	assert_int_equal(ops->check(NULL, 0, NULL), SVC_OK);
	assert_int_equal(ops->check("\x0a\x01"
				    "a\x10\x01",
			     5, NULL),
	    SVC_OK);
	assert_int_equal(ops->check("\x0a\x05"
				    "a",
			     3, &err),
	    SVC_E_INVAL);
	assert_string_equal(err.text, "protobuf: byte 2: the value is cut off");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_bytes_are_those_of_protobuf_c),
	    cmocka_unit_test(test_reads_known_bytes),
	    cmocka_unit_test(test_lists_packed_or_not),
	    cmocka_unit_test(test_last_of_a_oneof_wins),
	    cmocka_unit_test(test_refuses_messages_it_cannot_write),
	    cmocka_unit_test(test_check),
	};
	int failed = cmocka_run_group_tests(tests, find, NULL);
	return failed + svc_conformance_codec(&(struct svc_conformance_codec){
			    .codec = "protobuf", .bad = bad});
}
