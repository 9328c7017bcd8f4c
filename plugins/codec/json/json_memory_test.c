/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoding with each of its allocations failing once: those of the message
 * (malloc and calloc, wrapped by the linker), of the parser (its hooks), and of
 * svc.
 */
#include <svc/codec.h>

#include <cjson/cJSON.h>
#include <codec_types.pb-c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
const void *svc_plugin(void);

static size_t left = SIZE_MAX;

static bool
now(void)
{
	return left != SIZE_MAX && left-- == 0;
}

void *
__wrap_malloc(size_t size)
{
	return now() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
	return now() ? NULL : __real_calloc(count, size);
}

static bool
hook(size_t size, void *arg)
{
	(void)size;
	(void)arg;
	return !now();
}

static const char text[] =
    "{\"int32_field\":1,\"uint64_field\":18446744073709551615,"
    "\"string_field\":\"a\",\"bytes_field\":\"YWJj\",\"double_field\":\"1.5\","
    "\"leaf_field\":{\"name\":\"a\",\"next\":{\"name\":\"b\"}},"
    "\"string_list\":[\"a\",\"b\"],\"bytes_list\":[\"YQ==\"],"
    "\"leaf_list\":[{},{\"leaves\":[{\"name\":\"c\"}]}],"
    "\"choice_leaf\":{\"name\":\"d\"},\"count_by_name\":{\"a\":1,\"b\":2},"
    "\"leaf_by_id\":{\"1\":{\"name\":\"e\"}},\"text_by_bool\":{\"true\":\"\"},"
    "\"int64_list\":[1,9007199254740993]}";

static void
test_decode_without_memory(void **state)
{
	(void)state;
	const struct svc_codec_ops *ops = svc_plugin();
	size_t failures = 0;
	svc_err e = SVC_E_NOMEM;
	for (size_t nth = 0; e != SVC_OK; nth++) {
		ProtobufCMessage *message = NULL;
		struct svc_error err = {0};
		left = nth;
		e = ops->decode(&codec__everything__descriptor, text,
		    strlen(text), &message, &err);
		left = SIZE_MAX;
		if (e != SVC_OK) {
			assert_int_equal(e, SVC_E_NOMEM);
			assert_int_equal(err.code, SVC_E_NOMEM);
			assert_null(message);
			failures++;
		}
		svc_message_destroy(message);
		assert_true(nth < 10000);
	}
	/* As many as the text has values, at the least. */
	assert_true(failures > 60);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_decode_without_memory),
	};
	cJSON_Hooks hooks = {__wrap_malloc, free};
	cJSON_InitHooks(&hooks);
	svc_mem_set_hook(hook, NULL);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	svc_mem_set_hook(NULL, NULL);
	return failed;
}
