/* SPDX-License-Identifier: Apache-2.0 */
#include <support/scarce.h>
#include <svc/clock.h>
#include <svc/headers.h>

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void
keeps_order_and_spelling(void **state)
{
	(void)state;
	struct svc_headers *map = svc_headers_create();
	const char *name, *value;
	assert_int_equal(svc_headers_set(map, "Content-Type", "a"), SVC_OK);
	assert_int_equal(svc_headers_set(map, "x", ""), SVC_OK);
	assert_int_equal(
	    svc_headers_set(map, "CONTENT-TYPE", "longer"), SVC_OK);
	assert_int_equal(svc_headers_count(map), 2);
	assert_true(svc_headers_at(map, 0, &name, &value));
	assert_string_equal(name, "Content-Type");
	assert_string_equal(value, "longer");
	assert_true(svc_headers_at(map, 1, &name, &value));
	assert_string_equal(value, "");
	assert_false(svc_headers_at(map, 2, &name, &value));
	assert_string_equal(svc_headers_get(map, "content-type"), "longer");
	assert_null(svc_headers_get(map, "content-typ"));
	svc_headers_remove(map, "content-TYPE");
	svc_headers_remove(map, "nothing");
	assert_null(svc_headers_get(map, "Content-Type"));
	assert_int_equal(svc_headers_count(map), 1);
	svc_headers_clear(map);
	assert_int_equal(svc_headers_count(map), 0);
	svc_headers_destroy(map);
}

static void
null_is_an_empty_map(void **state)
{
	(void)state;
	const char *name, *value;
	assert_int_equal(svc_headers_count(NULL), 0);
	assert_null(svc_headers_get(NULL, "a"));
	assert_false(svc_headers_at(NULL, 0, &name, &value));
	assert_true(svc_headers_equal(NULL, NULL));
	struct svc_headers *map = svc_headers_copy(NULL);
	assert_int_equal(svc_headers_count(map), 0);
	assert_true(svc_headers_equal(map, NULL));
	assert_int_equal(svc_headers_merge(map, NULL), SVC_OK);
	svc_headers_destroy(map);
	svc_headers_destroy(NULL);
}

static void
refuses_what_is_not_allowed(void **state)
{
	(void)state;
	static const char *const names[] = {
	    "", "a b", "a:b", "a=b", "\x7f", "a\n", "\xc3\xa9"};
	struct svc_headers *map = svc_headers_create();
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_int_equal(
		    svc_headers_set(map, names[i], "v"), SVC_E_INVAL);
	assert_int_equal(svc_headers_set(map, "a", "x\ny"), SVC_E_INVAL);
	assert_int_equal(svc_headers_set(map, "a", "x\r"), SVC_E_INVAL);
	assert_int_equal(svc_headers_set_n(map, "a", 1, "x\0", 2), SVC_E_INVAL);
	assert_int_equal(svc_headers_set(map, "a", NULL), SVC_E_INVAL);

	char *big = svc_mem_calloc(1, 64 * 1024 + 2);
	memset(big, 'v', 64 * 1024 + 1);
	assert_int_equal(svc_headers_set(map, "a", big), SVC_E_INVAL);
	assert_int_equal(svc_headers_set_n(map, big, 256, "v", 1), SVC_E_INVAL);
	assert_int_equal(svc_headers_count(map), 0);
	assert_int_equal(svc_headers_set_n(map, big, 255, "v", 1), SVC_OK);
	assert_int_equal(
	    svc_headers_set_n(map, "a", 1, big, 64 * 1024), SVC_OK);
	assert_int_equal(strlen(svc_headers_get(map, "a")), 64 * 1024);
	svc_mem_free(big);
	svc_headers_destroy(map);
}

static void
holds_256_pairs(void **state)
{
	(void)state;
	struct svc_headers *map = svc_headers_create();
	char name[16];
	for (int i = 0; i < 256; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_int_equal(svc_headers_set(map, name, name), SVC_OK);
	}
	assert_int_equal(svc_headers_set(map, "more", "x"), SVC_E_EXHAUSTED);
	assert_int_equal(svc_headers_set(map, "N255", "replaced"), SVC_OK);
	for (int i = 0; i < 255; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_string_equal(svc_headers_get(map, name), name);
	}
	assert_string_equal(svc_headers_get(map, "n255"), "replaced");
	struct svc_headers *copy = svc_headers_copy(map);
	assert_true(svc_headers_equal(map, copy));
	svc_headers_set(copy, "n3", "other");
	assert_false(svc_headers_equal(map, copy));
	assert_string_equal(svc_headers_get(map, "n3"), "n3");
	svc_headers_destroy(copy);
	svc_headers_destroy(map);
}

/* A copy has no room to spare, and gets some when it is changed. */
/* Whatever room a copy has. */
static void
copies_hold_256_pairs_too(void **state)
{
	(void)state;
	const int counts[] = {1, 100, 129, 200, 255, 256};
	char name[16];
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct svc_headers *map = svc_headers_create();
		for (int n = 0; n < counts[i]; n++) {
			snprintf(name, sizeof(name), "name%d", n);
			assert_int_equal(
			    svc_headers_set(map, name, "v"), SVC_OK);
		}
		struct svc_headers *copy = svc_headers_copy(map);
		for (int n = counts[i]; n < 256; n++) {
			snprintf(name, sizeof(name), "name%d", n);
			assert_int_equal(
			    svc_headers_set(copy, name, "v"), SVC_OK);
		}
		assert_int_equal(
		    svc_headers_set(copy, "more", "v"), SVC_E_EXHAUSTED);
		assert_int_equal(svc_headers_count(copy), 256);
		svc_headers_destroy(copy);
		svc_headers_destroy(map);
	}
}

static void
a_copy_can_grow(void **state)
{
	(void)state;
	for (int n = 0; n < 40; n++) {
		struct svc_headers *map = svc_headers_create();
		char name[16], value[64];
		for (int i = 0; i < n; i++) {
			snprintf(name, sizeof(name), "n%d", i);
			svc_headers_set(map, name, "a value that shrinks");
			svc_headers_set(map, name, "value");
		}
		struct svc_headers *copy = svc_headers_copy(map);
		assert_true(svc_headers_equal(map, copy));
		for (int i = 0; i < n + 20; i++) {
			snprintf(name, sizeof(name), "n%d", i);
			snprintf(value, sizeof(value), "another value %d", i);
			assert_int_equal(
			    svc_headers_set(copy, name, value), SVC_OK);
			assert_string_equal(svc_headers_get(copy, name), value);
		}
		assert_int_equal(svc_headers_count(copy), n + 20);
		assert_int_equal(svc_headers_count(map), n);
		svc_headers_destroy(copy);
		svc_headers_destroy(map);
	}
}

static void
equal_whatever_the_order(void **state)
{
	(void)state;
	struct svc_headers *a = svc_headers_create();
	struct svc_headers *b = svc_headers_create();
	svc_headers_set(a, "one", "1");
	svc_headers_set(a, "two", "2");
	svc_headers_set(b, "TWO", "2");
	assert_false(svc_headers_equal(a, b));
	svc_headers_set(b, "One", "1");
	assert_true(svc_headers_equal(a, b));
	svc_headers_set(b, "one", "I");
	assert_false(svc_headers_equal(a, b));
	assert_int_equal(svc_headers_merge(a, b), SVC_OK);
	assert_true(svc_headers_equal(a, b));
	assert_int_equal(svc_headers_merge(a, a), SVC_OK);
	assert_int_equal(svc_headers_count(a), 2);
	svc_headers_destroy(a);
	svc_headers_destroy(b);
}

static bool
count_allocations(size_t size, void *arg)
{
	(void)size;
	++*(int *)arg;
	return true;
}

static void
ordinary_headers_take_one_allocation(void **state)
{
	(void)state;
	int allocations = 0;
	svc_mem_set_hook(count_allocations, &allocations);
	struct svc_headers *map = svc_headers_create();
	svc_headers_set(map, "Micro-Service", "go.micro.srv.student");
	svc_headers_set(map, "Micro-Endpoint", "Student.Get");
	svc_headers_set(map, "Micro-Id", "0b2c6f5e-7a1c-4f58-9f0e-1d2c3b4a59");
	svc_headers_set(map, "Content-Type", "application/protobuf");
	svc_headers_set(map, "Timeout", "5000000000");
	svc_headers_set(map, "Timeout", "4000000000");
	struct svc_headers *copy = svc_headers_copy(map);
	svc_mem_set_hook(NULL, NULL);
	assert_int_equal(allocations, 2);
	svc_headers_destroy(copy);
	svc_headers_destroy(map);
}

/* Replacing for ever must not grow for ever. */
static void
gaps_are_used_again(void **state)
{
	(void)state;
	struct svc_headers *map = svc_headers_create();
	char value[200] = "";
	int allocations = 0;
	svc_headers_set(map, "kept", "k");
	svc_mem_set_hook(count_allocations, &allocations);
	for (int round = 0; round < 1000; round++) {
		memset(value, 'a' + round % 26, sizeof(value) - 1);
		value[round % 199] = '\0';
		assert_int_equal(
		    svc_headers_set(map, "changing", value), SVC_OK);
		if (round % 3 == 0)
			svc_headers_remove(map, "changing");
		assert_string_equal(svc_headers_get(map, "kept"), "k");
	}
	svc_mem_set_hook(NULL, NULL);
	assert_true(allocations > 0 && allocations < 1000);
	svc_headers_destroy(map);
}

/* A text of the map may be given back to it, also where the map has to move. */
static void
may_be_set_from_itself(void **state)
{
	(void)state;
	struct svc_headers *map = svc_headers_create();
	char text[101], name[16];
	memset(text, 'v', 100);
	text[100] = '\0';
	svc_headers_set(map, "n0", text);
	for (int i = 1; i < 50; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_int_equal(
		    svc_headers_set(map, name, svc_headers_get(map, "n0")),
		    SVC_OK);
		assert_string_equal(svc_headers_get(map, name), text);
	}
	svc_headers_set(map, "n7", svc_headers_get(map, "n7") + 90);
	assert_string_equal(svc_headers_get(map, "n7"), "vvvvvvvvvv");
	svc_headers_destroy(map);
}

/* Against the plainest possible model. */
static void
agrees_with_a_model(void **state)
{
	(void)state;
	enum { NAMES = 20 };
	char model[NAMES][64];
	bool there[NAMES] = {false};
	svc_random_seed(7);
	struct svc_headers *map = svc_headers_create();
	for (int round = 0; round < 20000; round++) {
		size_t i = svc_random_below(NAMES);
		char name[8];
		snprintf(name, sizeof(name), "k%zu", i);
		if (svc_random_below(4) == 0) {
			svc_headers_remove(map, name);
			there[i] = false;
		} else {
			size_t len = svc_random_below(63);
			memset(model[i], 'a' + round % 26, len);
			model[i][len] = '\0';
			there[i] = true;
			svc_headers_set(map, name, model[i]);
		}
		size_t count = 0;
		for (size_t j = 0; j < NAMES; j++) {
			snprintf(name, sizeof(name), "K%zu", j);
			const char *value = svc_headers_get(map, name);
			count += there[j];
			if (there[j])
				assert_string_equal(value, model[j]);
			else
				assert_null(value);
		}
		assert_int_equal(svc_headers_count(map), count);
	}
	svc_headers_destroy(map);
}

static void
survives_each_failing_allocation(void **state)
{
	(void)state;
	bool hit = true;
	long swept = 0;
	scarce_begin();
	for (; hit; swept++) {
		scarce_at(swept);
		struct svc_headers *map = svc_headers_create();
		size_t set = 0;
		for (int i = 0; map != NULL && i < 100; i++) {
			char name[40];
			snprintf(
			    name, sizeof(name), "a-name-with-number-%d", i);
			svc_err err = svc_headers_set(map, name, name);
			assert_true(err == SVC_OK || err == SVC_E_NOMEM);
			set += err == SVC_OK;
			assert_int_equal(svc_headers_count(map), set);
		}
		struct svc_headers *copy = svc_headers_copy(map);
		if (copy != NULL)
			assert_true(svc_headers_equal(map, copy));
		svc_headers_destroy(copy);
		svc_headers_destroy(map);
		hit = scarce_hit();
	}
	scarce_end();
	assert_true(swept > 5);
}

static void
a_content_type_is_one_printable_line(void **state)
{
	(void)state;
	static const char rule[] =
	    ": allowed are up to 255 characters from space to '~'";
	static const struct {
		const char *type, *quoted;
	} bad[] = {
	    {"a/b\r\nc: d", "\"a/b\\x0d\\x0ac: d\""},
	    {"a/b\n", "\"a/b\\x0a\""},
	    {"\ta/b", "\"\\x09a/b\""},
	    {"a/\x7f", "\"a/\\x7f\""},
	    {"a/\xc3\xa4", "\"a/\xc3\xa4\""},
	};
	char longest[258], text[256];
	struct svc_error err = {0};
	assert_int_equal(svc_content_type_check(NULL, &err), SVC_OK);
	assert_int_equal(svc_content_type_check("", &err), SVC_OK);
	assert_int_equal(
	    svc_content_type_check("a/b; c=\"d ~\"", &err), SVC_OK);
	memset(longest, 'a', sizeof(longest));
	longest[255] = '\0';
	assert_int_equal(svc_content_type_check(longest, &err), SVC_OK);
	assert_string_equal(err.text, "");
	longest[255] = 'a';
	longest[256] = '\0';
	assert_int_equal(svc_content_type_check(longest, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, rule));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(
		    svc_content_type_check(bad[i].type, &err), SVC_E_INVAL);
		snprintf(text, sizeof(text), "content type %s%s", bad[i].quoted,
		    rule);
		assert_string_equal(err.text, text);
		assert_int_equal(
		    svc_content_type_check(bad[i].type, NULL), SVC_E_INVAL);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(keeps_order_and_spelling),
	    cmocka_unit_test(null_is_an_empty_map),
	    cmocka_unit_test(refuses_what_is_not_allowed),
	    cmocka_unit_test(holds_256_pairs),
	    cmocka_unit_test(copies_hold_256_pairs_too),
	    cmocka_unit_test(a_copy_can_grow),
	    cmocka_unit_test(equal_whatever_the_order),
	    cmocka_unit_test(ordinary_headers_take_one_allocation),
	    cmocka_unit_test(gaps_are_used_again),
	    cmocka_unit_test(may_be_set_from_itself),
	    cmocka_unit_test(agrees_with_a_model),
	    cmocka_unit_test(survives_each_failing_allocation),
	    cmocka_unit_test(a_content_type_is_one_printable_line),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
