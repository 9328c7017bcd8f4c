/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/base.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

struct watch {
	size_t asked;
	int count;
	bool allow;
};

static bool
see(size_t size, void *arg)
{
	struct watch *watch = arg;
	watch->asked = size;
	watch->count++;
	return watch->allow;
}

static void
memory_passes_the_hook(void **state)
{
	(void)state;
	struct watch watch = {.allow = true};
	svc_mem_set_hook(see, &watch);
	char *block = svc_mem_alloc(5);
	assert_int_equal(watch.asked, 5);
	memcpy(block, "five", 5);
	watch.allow = false;
	assert_null(svc_mem_realloc(block, 50));
	assert_int_equal(watch.asked, 50);
	assert_string_equal(block, "five");
	assert_null(svc_mem_alloc(1));
	assert_null(svc_mem_calloc(3, 7));
	assert_int_equal(watch.asked, 21);
	assert_null(svc_mem_strdup(block));
	assert_int_equal(watch.count, 5);
	svc_mem_set_hook(NULL, NULL);
	block = svc_mem_realloc(block, 50);
	assert_string_equal(block, "five");
	svc_mem_free(block);
	svc_mem_free(NULL);
	assert_int_equal(watch.count, 5);
}

static void
null_means_out_of_memory(void **state)
{
	(void)state;
	void *blocks[] = {svc_mem_alloc(0), svc_mem_calloc(0, 8),
	    svc_mem_calloc(8, 0), svc_mem_realloc(NULL, 0)};
	for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++)
		assert_non_null(blocks[i]);
	blocks[0] = svc_mem_realloc(blocks[0], 0);
	for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
		assert_non_null(blocks[i]);
		svc_mem_free(blocks[i]);
	}
	assert_null(svc_mem_calloc(SIZE_MAX / 2, 3));
	assert_null(svc_mem_strdup(NULL));
}

static void
calloc_is_zero(void **state)
{
	(void)state;
	static const char zero[64];
	char *block = svc_mem_calloc(8, 8);
	assert_memory_equal(block, zero, sizeof(zero));
	svc_mem_free(block);
}

struct ops {
	uint32_t abi;
	uint32_t size;
	const char *name;
	int (*first)(void);
	int (*second)(void);
};

static int
one(void)
{
	return 1;
}

static void
optional_members_are_told_by_size(void **state)
{
	(void)state;
	struct ops ops = {.size = sizeof(ops), .first = one, .second = one};
	assert_true(SVC_OPS_HAS(&ops, second));
	ops.size = offsetof(struct ops, second);
	assert_false(SVC_OPS_HAS(&ops, second));
	assert_true(SVC_OPS_HAS(&ops, first));
	ops.size = sizeof(ops);
	ops.second = NULL;
	assert_false(SVC_OPS_HAS(&ops, second));
}

static void
version_has_three_numbers(void **state)
{
	(void)state;
	const char *at = svc_version();
	for (int i = 0; i < 3; i++) {
		size_t digits = strspn(at, "0123456789");
		assert_true(digits > 0);
		assert_int_equal(at[digits], i < 2 ? '.' : '\0');
		at += digits + 1;
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(memory_passes_the_hook),
	    cmocka_unit_test(null_means_out_of_memory),
	    cmocka_unit_test(calloc_is_zero),
	    cmocka_unit_test(optional_members_are_told_by_size),
	    cmocka_unit_test(version_has_three_numbers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
