/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void
test_good(void **state)
{
	static const char *const good[] = {
	    "{}",
	    " [ ] ",
	    "0",
	    "-0.5e+10",
	    "null",
	    "true",
	    "\"\\u00e9\\n\xc3\xa9\"",
	    "{\"a\":[1,{\"b\":\"}\"}],\"c\":false}\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(
		    json_check(good[i], strlen(good[i]), NULL), SVC_OK);
}

static void
test_bad(void **state)
{
	static const struct {
		const char *text, *wrong;
	} bad[] = {
	    {"", "line 1, column 1: a value is missing"},
	    {"{\"a\":}", "line 1, column 6: expected a value: a text in "
			 "\"\", a number, {, [, true, false or null"},
	    {"{a:1}", "line 1, column 2: expected a name in \"\""},
	    {"{\"a\" 1}", "line 1, column 6: expected : after a name"},
	    {"{\"a\":1,}", "line 1, column 8: expected a name in \"\""},
	    {"[1\n 2]", "line 2, column 2: expected , or ]"},
	    {"{\"a\":[1}", "line 1, column 8: expected , or ]"},
	    {"{\"\xc3\xa9\":1", "line 1, column 7: expected , or }"},
	    {"01", "line 1, column 2: a number begins with 0"},
	    {"1.", "line 1, column 3: a digit is missing in a number"},
	    {"-", "line 1, column 2: a digit is missing in a number"},
	    {"\"a", "line 1, column 3: a text without its closing \""},
	    {"\"\\x\"", "line 1, column 3: no such escape in a text"},
	    {"\"\\u12\"", "line 1, column 6: \\u needs four hexadecimal "
			  "digits"},
	    {"\"\t\"", "line 1, column 2: a control character in a text; "
		       "write \\n or \\u0000"},
	    {"[\n\"\xc3\xa9\xff\"]",
		"line 2, column 3: bytes that are not UTF-8"},
	    {"\"\xed\xa0\x80\"", "line 1, column 2: bytes that are not UTF-8"},
	    {"{} x", "line 1, column 4: something follows the value"},
	    {"nul", "line 1, column 1: expected a value: a text in \"\", a "
		    "number, {, [, true, false or null"},
	};
	struct svc_error err;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(
		    json_check(bad[i].text, strlen(bad[i].text), &err),
		    SVC_E_INVAL);
		assert_string_equal(err.text, bad[i].wrong);
	}
}

static void
test_depth(void **state)
{
	char text[1026];
	struct svc_error err;

	(void)state;
	memset(text, '[', 512);
	memset(text + 512, ']', 512);
	assert_int_equal(json_check(text, 1024, NULL), SVC_OK);
	memset(text, '[', 513);
	memset(text + 513, ']', 513);
	assert_int_equal(json_check(text, 1026, &err), SVC_E_INVAL);
	assert_string_equal(
	    err.text, "line 1, column 513: nested too deep (512)");
}

static void
test_format(void **state)
{
	static const char text[] =
	    " { \"a\" : [ 1 , {} , [ ] ], \"b\":\"x, y\" , "
	    "\"n\": 12345678901234567890.10 }";
	struct svc_buf out;

	(void)state;
	svc_buf_init(&out, 4096);
	assert_int_equal(
	    json_format(&out, text, sizeof(text) - 1, false), SVC_OK);
	assert_string_equal((const char *)out.data,
	    "{\"a\":[1,{},[]],\"b\":\"x, y\",\"n\":12345678901234567890.10}");
	svc_buf_clear(&out);
	assert_int_equal(
	    json_format(&out, text, sizeof(text) - 1, true), SVC_OK);
	assert_string_equal((const char *)out.data,
	    "{\n  \"a\": [\n    1,\n    {},\n    []\n  ],\n"
	    "  \"b\": \"x, y\",\n  \"n\": 12345678901234567890.10\n}");
	svc_buf_fini(&out);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_good),
	    cmocka_unit_test(test_bad),
	    cmocka_unit_test(test_depth),
	    cmocka_unit_test(test_format),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
