/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/codec.h"

#include <cjson/cJSON.h>
#include <codec_types.pb-c.h>
#include <codec_types2.pb-c.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BAD(type, text, says)                                     \
	{                                                         \
		&type##__descriptor, text, sizeof(text) - 1, says \
	}

static const struct svc_conformance_bad bad[] = {
    /* What is no JSON, though lenient parsers take some of it. */
    BAD(codec__student, " ", "line 1 column 2: expected a value, got the end"),
    BAD(codec__student, "{\"name\":\"a\"\n,}", "line 2 column 2"),
    BAD(codec__student, "{\"name\" \"a\"}", "expected ':', got \"\\\"\""),
    BAD(codec__student, "{\"name\":\"a\"]", "expected ',' or '}'"),
    BAD(codec__student, "{\"courses\":[\"a\"}", "expected ',' or ']'"),
    BAD(codec__student, "{\"courses\":[\"a\",]}", "expected a value"),
    BAD(codec__student, "{} {}", "nothing after the value"),
    BAD(codec__student, "{\"grade\":01}", "line 1 column 11"),
    BAD(codec__student, "{\"grade\":1.}", "a number such as"),
    BAD(codec__student, "{\"grade\":-}", "a number such as"),
    BAD(codec__student, "{\"grade\":1e}", "a number such as"),
    BAD(codec__student, "{\"grade\":+1}", "expected a value"),
    BAD(codec__student, "{\"grade\":NaN}", "expected a value"),
    BAD(codec__student, "{'name':\"a\"}", "a name or '}'"),
    BAD(codec__student, "{\"name\":\"a\tb\"}", "control characters"),
    BAD(codec__student, "{\"name\":\"a\xff\"}", "column 11: expected UTF-8"),
    BAD(codec__student, "{\"name\":\"\\x\"}", "after a backslash"),
    BAD(codec__student, "{\"name\":\"\\u12g4\"}", "four hexadecimal"),
    BAD(codec__student, "{\"name\":\"\\ud800\"}", "surrogate"),
    BAD(codec__student, "{\"name\":\"\\ud800\\u0041\"}", "surrogate"),
    BAD(codec__student, "{\"name\":\"\\udc00\"}", "surrogate"),
    BAD(codec__student, "{\"name\":\"abc", "the end of the string begun"),
    BAD(codec__student, "{\"name\":tru}", "expected a value"),
    BAD(codec__student, "\xef\xbb\xbf{}", "expected a value"),
    BAD(codec__student, "{\"name\":\"a\\u0000b\"}", "\\u0000"),
    BAD(codec__student,
	"{\"grade\":1."
	"0000000000000000000000000000000000000000000000000000000000000001}",
	"at most 63"),

    /* What is JSON, but not this message. */
    BAD(codec__student, "[]",
	"codec.Student: expected an object, got an array"),
    BAD(codec__student, "null", "codec.Student: expected an object, got null"),
    BAD(codec__student, "{\"grade\":true}",
	"grade: expected a number, got a boolean"),
    BAD(codec__student, "{\"grade\":\"high\"}", "grade: expected a number"),
    BAD(codec__student, "{\"grade\":\" 1\"}", "grade: expected a number"),
    BAD(codec__student, "{\"grade\":\"\"}", "grade: expected a number"),
    BAD(codec__student, "{\"grade\":1e400}", "within double's range"),
    BAD(codec__student, "{\"name\":1}",
	"name: expected a string, got a number"),
    BAD(codec__student, "{\"id\":1.5}", "id: expected a whole number"),
    BAD(codec__student, "{\"id\":9223372036854775808}",
	"-9223372036854775808 to 9223372036854775807, got "
	"\"9223372036854775808\""),
    BAD(codec__student, "{\"id\":-9223372036854775809}",
	"id: expected a whole"),
    BAD(codec__student, "{\"id\":1e-1}", "id: expected a whole number"),
    BAD(codec__student, "{\"id\":1e999999999999999999999}", "id: expected"),
    BAD(codec__student, "{\"id\":\"1 \"}", "id: expected a whole number"),
    BAD(codec__student, "{\"id\":\"0x10\"}", "id: expected a whole number"),
    BAD(codec__student, "{\"courses\":\"a\"}",
	"courses: expected an array, got a string"),
    BAD(codec__student, "{\"courses\":[\"a\",null]}",
	"courses[1]: expected a string, got null"),
    BAD(codec__student, "{\"name\":\"a\",\"name\":\"b\"}",
	"name: is there twice"),
    BAD(codec__everything, "{\"int32Field\":1,\"int32_field\":1}",
	"int32_field: is there twice"),
    BAD(codec__everything, "{\"int32_field\":2147483648}",
	"int32_field: expected a whole number from -2147483648 to 2147483647, "
	"got \"2147483648\""),
    BAD(codec__everything, "{\"uint32_field\":-1}", "from 0 to 4294967295"),
    BAD(codec__everything, "{\"uint64_field\":18446744073709551616}",
	"from 0 to 18446744073709551615"),
    BAD(codec__everything, "{\"float_field\":3.5e38}", "within float's range"),
    BAD(codec__everything, "{\"bool_field\":\"true\"}",
	"bool_field: expected true or false, got a string"),
    BAD(codec__everything, "{\"bool_field\":1}", "expected true or false"),
    BAD(codec__everything, "{\"enum_field\":\"LEVEL_UP\"}",
	"enum_field: expected one of LEVEL_BELOW, LEVEL_HIGH, LEVEL_LOW, "
	"LEVEL_NONE, got \"LEVEL_UP\""),
    BAD(codec__everything, "{\"enum_field\":[]}",
	"enum_field: expected a name"),
    BAD(codec__everything, "{\"bytes_field\":\"a\"}", "expected base64"),
    BAD(codec__everything, "{\"bytes_field\":\"YQ=\"}", "expected base64"),
    BAD(codec__everything, "{\"bytes_field\":\"YQ===\"}", "expected base64"),
    BAD(codec__everything, "{\"bytes_field\":\"Y Q=\"}", "expected base64"),
    BAD(codec__everything, "{\"bytes_field\":\"====\"}", "expected base64"),
    BAD(codec__everything, "{\"bytes_field\":1}", "a string of base64"),
    BAD(codec__everything, "{\"leaf_list\":[{},{\"next\":{\"name\":1}}]}",
	"leaf_list[1].next.name: expected a string"),
    BAD(codec__everything, "{\"leaf_by_id\":{\"7\":{\"name\":1}}}",
	"leaf_by_id[\"7\"].name: expected a string"),
    BAD(codec__everything, "{\"leaf_by_id\":{\"x\":{}}}",
	"leaf_by_id[\"x\"]: expected a whole number"),
    BAD(codec__everything, "{\"text_by_bool\":{\"1\":\"\"}}",
	"text_by_bool[\"1\"]: expected the key true or false"),
    BAD(codec__everything, "{\"count_by_name\":{\"a\":null}}",
	"count_by_name[\"a\"]: expected a number, got null"),
    BAD(codec__everything, "{\"count_by_name\":1}", "expected an object"),
    BAD(codec__everything, "{\"choice_text\":\"\",\"choice_number\":0}",
	"choice_number: only one of it and choice_text"),
    BAD(codec2__presence, "", "id: is required"),
    BAD(codec2__presence, "{\"id\":1,\"name\":null}", "name: is required"),
    BAD(codec2__presence, "{\"id\":1,\"name\":\"\",\"inner\":{}}",
	"inner.id: is required"),
    {NULL, NULL, 0, NULL},
};

static const struct svc_codec_ops *ops;

static int
find(void **state)
{
	(void)state;
	const void *found = NULL;
	if (svc_catalogue_find(&svc_codec_interface, "json", &found, NULL) !=
	    SVC_OK)
		return -1;
	ops = found;
	return 0;
}

static void
assert_writes(const ProtobufCMessage *message, const char *text)
{
	struct svc_buf out;
	svc_buf_init(&out, 100000);
	assert_int_equal(ops->encode(message, &out, NULL), SVC_OK);
	assert_string_equal((const char *)out.data, text);
	svc_buf_fini(&out);
}

static void *
read_text(const ProtobufCMessageDescriptor *descriptor, const char *text)
{
	struct svc_error err = {0};
	ProtobufCMessage *message = NULL;
	if (ops->decode(descriptor, text, strlen(text), &message, &err) !=
	    SVC_OK)
		fail_msg("%s: %s", text, err.text);
	return message;
}

/* Reads the one and expects the other to be written. */
static void
assert_becomes(const ProtobufCMessageDescriptor *descriptor, const char *text,
    const char *expected)
{
	ProtobufCMessage *message = read_text(descriptor, text);
	assert_writes(message, expected);
	svc_message_destroy(message);
}

static void
test_writes_as_go_micro_reads(void **state)
{
	(void)state;
	static char name[] = "Ann \"A\" \xc3\x84";
	static char maths[] = "maths", empty[] = "";
	static char *courses[] = {maths, empty};
	Codec__Student student = CODEC__STUDENT__INIT;
	assert_writes(&student.base, "{}");
	student.name = name;
	student.grade = 1.7;
	student.id = INT64_C(9007199254740993);
	student.n_courses = 2;
	student.courses = courses;
	assert_writes(&student.base,
	    "{\"name\":\"Ann \\\"A\\\" \xc3\x84\",\"grade\":1.7,"
	    "\"id\":9007199254740993,\"courses\":[\"maths\",\"\"]}");
}

static void
test_writes_every_kind(void **state)
{
	(void)state;
	static uint8_t raw[] = {0xfb, 0xff, 0xfe, 0x00};
	static Codec__Leaf leaf = CODEC__LEAF__INIT;
	static Codec__Everything__LeafByIdEntry entry =
	    CODEC__EVERYTHING__LEAF_BY_ID_ENTRY__INIT;
	static Codec__Everything__LeafByIdEntry *entries[] = {&entry};
	Codec__Everything all = CODEC__EVERYTHING__INIT;
	all.int64_field = INT64_MIN;
	all.uint64_field = UINT64_MAX;
	all.float_field = 0.1f;
	all.double_field = -INFINITY;
	all.bool_field = 1;
	all.enum_field = CODEC__LEVEL__LEVEL_BELOW;
	all.bytes_field = (ProtobufCBinaryData){4, raw};
	all.leaf_field = &leaf;
	all.choice_case = CODEC__EVERYTHING__CHOICE_CHOICE_BOOL;
	entry.key = -3;
	all.n_leaf_by_id = 1;
	all.leaf_by_id = entries;
	assert_writes(&all.base,
	    "{\"int64_field\":-9223372036854775808,"
	    "\"uint64_field\":18446744073709551615,\"float_field\":0.1,"
	    "\"double_field\":\"-Infinity\",\"bool_field\":true,"
	    "\"enum_field\":-5,\"bytes_field\":\"+//+AA==\",\"leaf_field\":{},"
	    "\"choice_bool\":false,\"leaf_by_id\":{\"-3\":{}}}");
}

static void
test_reads_what_proto_json_allows(void **state)
{
	(void)state;
	const ProtobufCMessageDescriptor *all = &codec__everything__descriptor;
	static const struct {
		const char *text, *becomes;
	} cases[] = {
	    {"", "{}"},
	    {" {\n}\t", "{}"},
	    {"{\"int64Field\":\"-9223372036854775808\"}",
		"{\"int64_field\":-9223372036854775808}"},
	    {"{\"int64_field\":9223372036854775807}",
		"{\"int64_field\":9223372036854775807}"},
	    {"{\"uint64_list\":[18446744073709551615,9007199254740993,"
	     "\"9007199254740993\",900719925474099.30e1,1]}",
		"{\"uint64_list\":[18446744073709551615,9007199254740993,"
		"9007199254740993,9007199254740993,1]}"},
	    {"{\"int32_list\":[1.0,-0,1e3,\"12\",\"1.50e1\",10e-1,0e99999]}",
		"{\"int32_list\":[1,0,1000,12,15,1,0]}"},
	    {"{\"double_list\":[\"NaN\",\"Infinity\",\"-Infinity\",\"1.5\",-0."
	     "0,"
	     "12345678901234567890,1e22]}",
		"{\"double_list\":[\"NaN\",\"Infinity\",\"-Infinity\",1.5,-0,"
		"1.2345678901234567e+19,1e+22]}"},
	    {"{\"enum_list\":[\"LEVEL_LOW\",-5,77,\"LEVEL_NONE\"]}",
		"{\"enum_list\":[1,-5,77,0]}"},
	    {"{\"bytes_list\":[\"-__-AA\",\"+//+AA==\",\"\",\"YQ\",\"YWI\"]}",
		"{\"bytes_list\":[\"+//+AA==\",\"+//+AA==\",\"\",\"YQ==\","
		"\"YWI=\"]}"},
	    {"{\"stringField\":\"\\u00e4\\ud83c\\udf88\\/\"}",
		"{\"string_field\":\"\xc3\xa4\xf0\x9f\x8e\x88/\"}"},
	    {"{\"int32_field\":null,\"leaf_list\":null,\"choice_text\":null,"
	     "\"choice_number\":0}",
		"{\"choice_number\":0}"},
	    {"{\"count_by_name\":{\"a\":1,\"\":-2}}",
		"{\"count_by_name\":{\"a\":1,\"\":-2}}"},
	    {"{\"countByName\":[{\"key\":\"a\",\"value\":1}]}",
		"{\"count_by_name\":{\"a\":1}}"},
	    {"{\"text_by_bool\":{\"true\":\"yes\",\"false\":\"\"}}",
		"{\"text_by_bool\":{\"true\":\"yes\",\"false\":\"\"}}"},
	    /* Names of a newer peer, whatever they hold. */
	    {"{\"unknown\":{\"a\":[1,{\"b\":null}]},\"int32_field\":7,"
	     "\"x\":12345678901234567890}",
		"{\"int32_field\":7}"},
	    /* A oneof as Go's encoding/json writes it. */
	    {"{\"Choice\":{\"ChoiceText\":\"a\"}}", "{\"choice_text\":\"a\"}"},
	    {"{\"Choice\":{\"ChoiceLeaf\":{\"name\":\"a\"}}}",
		"{\"choice_leaf\":{\"name\":\"a\"}}"},
	    {"{\"Choice\":null}", "{}"},
	    {"{\"Choice\":{\"Other\":\"a\"}}", "{}"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		assert_becomes(all, cases[i].text, cases[i].becomes);
}

static void
test_texts_of_large_numbers_go_to_their_own_fields(void **state)
{
	(void)state;
	/* Numbers with and without a text of their own, in skipped, nested and
	 * repeated places: each must land where it stood. */
	assert_becomes(&codec__everything__descriptor,
	    "{\"skipped\":[1,9007199254740995,{\"a\":9007199254740997}],"
	    "\"int64_field\":9007199254740999,\"int32_field\":5,"
	    "\"count_by_name\":{\"a\":6},"
	    "\"int64_list\":[1,9007199254741001,2,9007199254741003],"
	    "\"double_field\":0.5,\"uint64_field\":9007199254741005}",
	    "{\"int32_field\":5,\"int64_field\":9007199254740999,"
	    "\"uint64_field\":9007199254741005,\"double_field\":0.5,"
	    "\"int64_list\":[1,9007199254741001,2,9007199254741003],"
	    "\"count_by_name\":{\"a\":6}}");
}

static void
test_keeps_presence_and_defaults(void **state)
{
	(void)state;
	const ProtobufCMessageDescriptor *type = &codec2__presence__descriptor;
	Codec2__Presence *m = read_text(type, "{\"id\":0,\"name\":\"\"}");
	assert_false(m->has_number);
	assert_false(m->has_number_with_default);
	assert_int_equal(m->number_with_default, 42);
	assert_string_equal(m->text_with_default, "hello");
	assert_int_equal(m->data_with_default.len, 3);
	assert_null(m->text);
	assert_writes(&m->base, "{\"id\":0,\"name\":\"\"}");
	svc_message_destroy(&m->base);

	m = read_text(type,
	    "{\"id\":1,\"name\":\"a\",\"number\":0,\"text\":\"\","
	    "\"data\":\"\",\"numberWithDefault\":0,\"text_with_default\":"
	    "\"hello\",\"data_with_default\":\"\",\"colour\":\"GREEN\"}");
	assert_true(m->has_number);
	assert_true(m->has_data);
	assert_int_equal(m->data_with_default.len, 0);
	assert_writes(&m->base,
	    "{\"id\":1,\"name\":\"a\",\"number\":0,\"colour\":2,\"text\":\"\","
	    "\"data\":\"\",\"number_with_default\":0,"
	    "\"text_with_default\":\"hello\",\"data_with_default\":\"\"}");
	svc_message_destroy(&m->base);
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
	    err.text, "leaf_list[1]: is NULL, a message is needed");
	leaves[1] = &leaf;
	leaf.name = bad_text;
	assert_int_equal(ops->encode(&all.base, &out, &err), SVC_E_INVAL);
	assert_string_equal(err.text, "leaf_list[0].name: is not UTF-8");
	all.n_leaf_list = 0;
	all.bytes_field.len = 1;
	assert_int_equal(ops->encode(&all.base, &out, &err), SVC_E_INVAL);
	assert_string_equal(err.text, "bytes_field: has a length but no data");
	assert_int_equal(ops->encode(&presence.base, &out, &err), SVC_E_INVAL);
	assert_string_equal(err.text, "name: is NULL, a string is needed");
	assert_int_equal(out.len, 0);
	svc_buf_fini(&out);
}

static void
test_check(void **state)
{
	(void)state;
	static const char *const good[] = {"", "null", "[]", "{}", " 1 ",
	    "\"a\\u0000b\"", "[1,[2,[{\"a\":-0.5E+10}]],true,false]",
	    "{\"a\":{\"b\":[]},\"a\":2}", "\"\x7f\xf0\x9f\x8e\x88\""};
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_int_equal(
		    ops->check(good[i], strlen(good[i]), NULL), SVC_OK);
	struct svc_error err = {0};
	const char text[] = "{\n  \"a\": [1,\n  2}\n";
	assert_int_equal(ops->check(text, strlen(text), &err), SVC_E_INVAL);
	assert_string_equal(
	    err.text, "JSON line 3 column 4: expected ',' or ']', got \"}\"");
	/* A NUL is a byte like others, not the end. */
	assert_int_equal(ops->check("{}\0", 3, &err), SVC_E_INVAL);
}

static void
test_limits(void **state)
{
	(void)state;
	char deep[600];
	struct svc_error err = {0};
	memset(deep, '[', 300);
	memset(deep + 300, ']', 300);
	assert_int_equal(ops->check(deep, 600, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "nested deeper than 256"));
	assert_int_equal(ops->check(deep + 44, 512, NULL), SVC_OK);

	size_t n = (size_t)5 << 20;
	char *wide = malloc(n * 2 + 1);
	assert_non_null(wide);
	for (size_t i = 0; i < n; i++)
		memcpy(wide + i * 2, i == 0 ? "[0" : ",0", 2);
	wide[n * 2] = ']';
	assert_int_equal(ops->check(wide, n * 2 + 1, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "more than 4194304 values"));
	free(wide);
}

/* Another reader of JSON must see the same in what is written. */
static void
test_another_reader_agrees(void **state)
{
	(void)state;
	static const double doubles[] = {
	    0.1, 1e22, 5e-324, 123456.789, 1.7976931348623157e308, -2.5e-7};
	static char text[] = "\b\f\n\r\t\x01\x1f\"\\/\x7f\xe2\x80\xa8";
	for (size_t i = 0; i < sizeof(doubles) / sizeof(*doubles); i++) {
		Codec__Student student = CODEC__STUDENT__INIT;
		struct svc_buf out;
		student.name = text;
		student.grade = doubles[i];
		svc_buf_init(&out, 10000);
		assert_int_equal(
		    ops->encode(&student.base, &out, NULL), SVC_OK);
		cJSON *json = cJSON_Parse((const char *)out.data);
		assert_non_null(json);
		assert_string_equal(
		    cJSON_GetStringValue(cJSON_GetObjectItem(json, "name")),
		    text);
		double grade =
		    cJSON_GetNumberValue(cJSON_GetObjectItem(json, "grade"));
		assert_memory_equal(&grade, &doubles[i], sizeof(grade));
		cJSON_Delete(json);
		svc_buf_fini(&out);
	}
}

/* Makes a locale in which the decimal point is a comma, and takes it. */
static bool
use_commas(char *folder)
{
	static const char source[] = "LC_NUMERIC\ndecimal_point \"<U002C>\"\n"
				     "thousands_sep \"\"\ngrouping -1\n"
				     "END LC_NUMERIC\n";
	char path[64], command[200];
	snprintf(path, sizeof(path), "%s/source", folder);
	FILE *file = fopen(path, "w");
	if (file == NULL)
		return false;
	bool good = fputs(source, file) >= 0;
	good = fclose(file) == 0 && good;
	/* It warns of the categories that are not there. */
	snprintf(command, sizeof(command),
	    "localedef -c -i %s %s/comma >/dev/null 2>&1", path, folder);
	int status = system(command);
	(void)status;
	setenv("LOCPATH", folder, 1);
	good = setlocale(LC_NUMERIC, "comma") != NULL && good;
	unsetenv("LOCPATH");
	return good;
}

static void
test_locale_does_not_matter(void **state)
{
	(void)state;
	char folder[] = "/tmp/svc-locale-XXXXXX", command[64];
	assert_non_null(mkdtemp(folder));
	bool good = use_commas(folder);
	snprintf(command, sizeof(command), "rm -r %s", folder);
	assert_int_equal(system(command), 0);
	if (!good)
		skip(); /* there is no localedef */
	char text[8];
	snprintf(text, sizeof(text), "%.1f", 2.5);
	assert_string_equal(text, "2,5");
	assert_becomes(&codec__student__descriptor, "{\"grade\":\"2.5\"}",
	    "{\"grade\":2.5}");
	assert_becomes(
	    &codec__student__descriptor, "{\"grade\":0.1}", "{\"grade\":0.1}");
	setlocale(LC_NUMERIC, "C");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_writes_as_go_micro_reads),
	    cmocka_unit_test(test_writes_every_kind),
	    cmocka_unit_test(test_reads_what_proto_json_allows),
	    cmocka_unit_test(
		test_texts_of_large_numbers_go_to_their_own_fields),
	    cmocka_unit_test(test_keeps_presence_and_defaults),
	    cmocka_unit_test(test_refuses_messages_it_cannot_write),
	    cmocka_unit_test(test_check),
	    cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_another_reader_agrees),
	    cmocka_unit_test(test_locale_does_not_matter),
	};
	int failed = cmocka_run_group_tests(tests, find, NULL);
	return failed + svc_conformance_codec(&(struct svc_conformance_codec){
			    .codec = "json", .bad = bad});
}
