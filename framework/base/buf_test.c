/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/buf.h>

#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static bool
refuse_all(size_t size, void *arg)
{
	(void)size;
	++*(int *)arg;
	return false;
}

static void
appends_and_reads_as_text(void **state)
{
	(void)state;
	struct svc_buf buf;
	svc_buf_init(&buf, 1000);
	assert_int_equal(svc_buf_puts(&buf, ""), SVC_OK);
	assert_string_equal((char *)buf.data, "");
	svc_buf_puts(&buf, "one");
	svc_buf_putc(&buf, ' ');
	svc_buf_printf(&buf, "%d %s", 2, "three");
	svc_buf_append(&buf, "\0x", 2);
	assert_int_equal(buf.len, 13);
	assert_memory_equal(buf.data, "one 2 three\0x\0", 14);
	svc_buf_consume(&buf, 4);
	assert_memory_equal(buf.data, "2 three\0x\0", 10);
	svc_buf_consume(&buf, 1000);
	assert_int_equal(buf.len, 0);
	assert_string_equal((char *)buf.data, "");
	svc_buf_fini(&buf);
	svc_buf_fini(&buf);
}

static void
grows_through_reserve(void **state)
{
	(void)state;
	struct svc_buf buf;
	svc_buf_init(&buf, 100000);
	for (size_t n = 0; n < 100; n++) {
		assert_int_equal(svc_buf_reserve(&buf, n), SVC_OK);
		memset(buf.data + buf.len, 'x', n);
		buf.len += n;
	}
	assert_int_equal(svc_buf_putc(&buf, '!'), SVC_OK);
	assert_int_equal(buf.len, 4951);
	assert_int_equal(strspn((char *)buf.data, "x"), 4950);
	assert_string_equal((char *)buf.data + 4950, "!");
	svc_buf_fini(&buf);
}

static void
never_passes_its_maximum(void **state)
{
	(void)state;
	for (size_t max = 0; max < 200; max++) {
		struct svc_buf buf;
		svc_buf_init(&buf, max);
		for (size_t i = 0; i < max; i++)
			assert_int_equal(svc_buf_putc(&buf, 'a'), SVC_OK);
		assert_int_equal(buf.failed, SVC_OK);
		assert_int_equal(svc_buf_putc(&buf, 'b'), SVC_E_EXHAUSTED);
		assert_int_equal(
		    svc_buf_printf(&buf, "%d", 1), SVC_E_EXHAUSTED);
		assert_int_equal(
		    svc_buf_json_string(&buf, "", 0), SVC_E_EXHAUSTED);
		assert_int_equal(
		    svc_buf_reserve(&buf, SIZE_MAX), SVC_E_EXHAUSTED);
		assert_int_equal(buf.failed, SVC_E_EXHAUSTED);
		assert_int_equal(buf.len, max);
		assert_true(buf.cap <= max + 1);
		if (max > 0)
			assert_int_equal(strspn((char *)buf.data, "a"), max);
		svc_buf_clear(&buf);
		assert_int_equal(buf.failed, SVC_OK);
		assert_int_equal(buf.len, 0);
		svc_buf_fini(&buf);
	}
}

static void
failed_append_changes_nothing(void **state)
{
	(void)state;
	struct svc_buf buf;
	svc_buf_init(&buf, 12);
	svc_buf_puts(&buf, "0123456789");
	assert_int_equal(svc_buf_puts(&buf, "abc"), SVC_E_EXHAUSTED);
	assert_int_equal(svc_buf_printf(&buf, "%s", "abc"), SVC_E_EXHAUSTED);
	assert_int_equal(svc_buf_json_string(&buf, "a", 1), SVC_E_EXHAUSTED);
	assert_string_equal((char *)buf.data, "0123456789");
	assert_int_equal(svc_buf_puts(&buf, "ab"), SVC_OK);
	assert_int_equal(buf.failed, SVC_E_EXHAUSTED);
	svc_buf_fini(&buf);

	int asked = 0;
	svc_buf_init(&buf, SIZE_MAX);
	svc_mem_set_hook(refuse_all, &asked);
	assert_int_equal(svc_buf_puts(&buf, "x"), SVC_E_NOMEM);
	assert_int_equal(svc_buf_printf(&buf, "x"), SVC_E_NOMEM);
	assert_null(svc_buf_take(&buf, NULL));
	svc_mem_set_hook(NULL, NULL);
	assert_true(asked > 0);
	assert_int_equal(svc_buf_reserve(&buf, SIZE_MAX - 1), SVC_E_NOMEM);
	svc_buf_fini(&buf);
}

static void
hands_over_its_storage(void **state)
{
	(void)state;
	struct svc_buf buf;
	size_t len = 99;
	svc_buf_init(&buf, 100);
	char *text = svc_buf_take(&buf, &len);
	assert_string_equal(text, "");
	assert_int_equal(len, 0);
	svc_mem_free(text);
	svc_buf_puts(&buf, "mine");
	text = svc_buf_take(&buf, &len);
	assert_string_equal(text, "mine");
	assert_int_equal(len, 4);
	svc_mem_free(text);
	assert_int_equal(buf.len, 0);
	assert_null(buf.data);
	assert_int_equal(buf.max, 100);
}

static void
json(const char *text, size_t len, const char *expected)
{
	struct svc_buf buf;
	svc_buf_init(&buf, 1000);
	assert_int_equal(svc_buf_json_string(&buf, text, len), SVC_OK);
	assert_string_equal((char *)buf.data, expected);
	svc_buf_fini(&buf);
}

static void
quotes_json(void **state)
{
	(void)state;
	json("", 0, "\"\"");
	json("plain", 5, "\"plain\"");
	json("a\"b\\c/", 6, "\"a\\\"b\\\\c/\"");
	json("\b\f\n\r\t\x01\x1f\0", 8,
	    "\"\\b\\f\\n\\r\\t\\u0001\\u001f\\u0000\"");
	json("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9,
	    "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
	/* A lone byte, a cut character, an overlong one, a surrogate. */
	json("a\xff", 2, "\"a\xef\xbf\xbd\"");
	json("\xe2\x82", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\"");
	json("\xc0\xaf", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\"");
	json("\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
	json("\xf4\x90\x80\x80", 1, "\"\xef\xbf\xbd\"");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(appends_and_reads_as_text),
	    cmocka_unit_test(grows_through_reserve),
	    cmocka_unit_test(never_passes_its_maximum),
	    cmocka_unit_test(failed_append_changes_nothing),
	    cmocka_unit_test(hands_over_its_storage),
	    cmocka_unit_test(quotes_json),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
