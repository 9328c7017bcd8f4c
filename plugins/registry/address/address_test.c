/* SPDX-License-Identifier: Apache-2.0 */
#include <address/address.h>
#include <address/hash.h>
#include <address/skips.h>

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct address_form form = {"test", "redis", 6379, false};
static const struct address_form form_tls = {"test", "redis", 6379, true};

static void
addresses_are_read(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		size_t n;
		const char *host; /* of the last */
		unsigned port;
		bool secure;
	} good[] = {
	    {NULL, 1, "127.0.0.1", 6379, false},
	    {"", 1, "127.0.0.1", 6379, false},
	    {"a.b-c_d", 1, "a.b-c_d", 6379, false},
	    {"a:1, b:65535 ", 2, "b", 65535, false},
	    {"redis://a/", 1, "a", 6379, false},
	    {"a,rediss://b:7", 2, "b", 7, true},
	    {"REDIS://a", 1, "a", 6379, false},
	    {"RedisS://a", 1, "a", 6379, true},
	    {"[::1]", 1, "::1", 6379, false},
	    {"rediss://[fe80::1]:7/", 1, "fe80::1", 7, true},
	};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct address *list = NULL;
		size_t n = 0;
		assert_int_equal(
		    address_list_read(&form, good[i].text, &list, &n, NULL),
		    SVC_OK);
		assert_int_equal(n, good[i].n);
		assert_string_equal(list[n - 1].host, good[i].host);
		assert_int_equal(list[n - 1].port, good[i].port);
		assert_int_equal(list[n - 1].secure, good[i].secure);
		address_list_free(list, n);
	}
	/* TLS that is asked for elsewhere is that of all. */
	struct address *list = NULL;
	size_t n = 0;
	assert_int_equal(
	    address_list_read(&form_tls, "a,rediss://b", &list, &n, NULL),
	    SVC_OK);
	assert_true(list[0].secure && list[1].secure);
	address_list_free(list, n);
	address_list_free(NULL, 0);
}

static void
what_is_no_address_is_told(void **state)
{
	(void)state;
	static const struct {
		const char *text, *says;
	} bad[] = {
	    {"http://a", "\"http://a\" has an unknown scheme"},
	    {"redisss://a", "has an unknown scheme"},
	    {"://a", "has an unknown scheme"},
	    {"a:0", "has no port from 1 to 65535"},
	    {"a:65536", "has no port"},
	    {"a:1000000", "has no port"},
	    {"a:x", "has no port"},
	    {"a:", "has no port"},
	    {"a:1:2", "lacks the brackets"},
	    {":1", "has no valid host"},
	    {"a b", "has no valid host"},
	    {"[::1", "has no valid host"},
	    {"[::1]x", "has no valid host"},
	    {"[g]", "has no valid host"},
	    {"redis://", "has no valid host"},
	    {"a/b", "has a path"},
	    {"redis://a/3", "has a path"},
	    {"a,,b", "has an empty part"},
	    {"a,", "has an empty part"},
	    {" ", "has an empty part"},
	    {"redis://u:secret@a", "holds a login"},
	    {"http://u:secret@a", "holds a login"},
	    {"redis://u:secret,x@a", "holds a login"},
	    {",redis://u:secret@a", "holds a login"},
	    {"a/x,redis://u:secret@a", "holds a login"},
	    {"::1", "\"::1\" lacks the brackets of an IPv6 address"},
	    {"fd00::1:6379", "lacks the brackets"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct address *list = NULL;
		struct svc_error err = {0};
		size_t n = 0;
		assert_int_equal(
		    address_list_read(&form, bad[i].text, &list, &n, &err),
		    SVC_E_INVAL);
		if (strstr(err.text, bad[i].says) == NULL ||
		    strstr(err.text, "secret") != NULL ||
		    strstr(err.text, "\"redis(s)://host:port\"") == NULL)
			fail_msg("%s: %s", bad[i].text, err.text);
	}
	struct address *list = NULL;
	struct svc_error err = {0};
	size_t n = 0;
	assert_int_equal(
	    address_list_read(&form_tls, "redis://a", &list, &n, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text, "without the TLS"));
}

static void
attempts_share_the_time(void **state)
{
	(void)state;
	assert_int_equal(address_tries(1), 2);
	assert_int_equal(address_tries(2), 2);
	assert_int_equal(address_tries(5), 5);
	assert_int_equal(address_try_ms(3000, 1), 1500);
	assert_int_equal(address_try_ms(3000, 3), 1000);
	assert_int_equal(address_try_ms(60000, 3), 2000);
	assert_int_equal(address_try_ms(0, 1), 200);
}

static void
what_is_skipped_is_said_once(void **state)
{
	static struct skips skips;
	size_t count = 0;
	(void)state;
	skips_init(&skips);
	for (uint64_t i = 1; i <= SKIPS_WARNED_MAX; i++) {
		assert_true(skips_add(&skips, i, &count));
		assert_false(skips_add(&skips, i, &count));
	}
	/* And no more than so much. */
	assert_false(skips_add(&skips, 0, &count));
	assert_int_equal(count, 2 * SKIPS_WARNED_MAX + 1);
	skips_fini(&skips);
	assert_true(hash_text(hash_text(HASH_START, "a"), "bc") !=
		    hash_text(hash_text(HASH_START, "ab"), "c"));
	assert_true(hash_bytes(HASH_START, "a", 1) == 0xaf63dc4c8601ec8c);
}

static void
pauses_grow_with_the_rounds(void **state)
{
	(void)state;
	for (size_t n = 1; n <= 3; n++) {
		int64_t least = INT64_MAX, most = 0;
		for (size_t i = 0; i < n; i++)
			assert_int_equal(address_pause_ms(i, n), 0);
		for (size_t i = n; i < 2 * n; i++)
			assert_in_range(address_pause_ms(i, n), 80, 120);
		for (size_t i = 2 * n; i < 3 * n; i++)
			assert_in_range(address_pause_ms(i, n), 128, 192);
		for (int i = 0; i < 100; i++) {
			int64_t ms = address_pause_ms(SIZE_MAX - (size_t)i, n);
			assert_in_range(ms, 4000, 6000);
			least = ms < least ? ms : least;
			most = ms > most ? ms : most;
		}
		assert_true(most - least >= 500);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(addresses_are_read),
	    cmocka_unit_test(what_is_no_address_is_told),
	    cmocka_unit_test(attempts_share_the_time),
	    cmocka_unit_test(what_is_skipped_is_said_once),
	    cmocka_unit_test(pauses_grow_with_the_rounds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
