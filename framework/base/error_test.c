/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/error.h>

#include <errno.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define ROW(name, number, grpc, http, text) SVC_##name,
static const svc_err all[] = {SVC_ERRORS(ROW)};
#undef ROW
#define COUNT (sizeof(all) / sizeof(all[0]))

static void
names_read_back(void **state)
{
	(void)state;
	for (size_t i = 0; i < COUNT; i++) {
		const char *name = svc_err_name(all[i]);
		assert_int_equal(svc_err_from_name(name), all[i]);
		assert_int_equal(svc_err_from_number((uint32_t)all[i]), all[i]);
		assert_true(strlen(svc_err_text(all[i])) > 0);
	}
	assert_string_equal(svc_err_name(SVC_E_TIMEDOUT), "SVC_E_TIMEDOUT");
	assert_string_equal(svc_err_text(SVC_E_TIMEDOUT), "deadline exceeded");
	assert_int_equal(svc_err_from_name("e_timedout"), SVC_E_TIMEDOUT);
	assert_int_equal(svc_err_from_name("Timedout"), SVC_E_TIMEDOUT);
	assert_int_equal(svc_err_from_name("ok"), SVC_OK);
	assert_int_equal(svc_err_from_name(""), SVC_E_UNKNOWN);
	assert_int_equal(svc_err_from_name("SVC_E_TIMEDOUT2"), SVC_E_UNKNOWN);
	assert_int_equal(svc_err_from_number(17), SVC_E_UNKNOWN);
	assert_int_equal(svc_err_from_number(UINT32_MAX), SVC_E_UNKNOWN);
	assert_string_equal(svc_err_name((svc_err)17), "SVC_E_?");
}

static void
canonical_codes_survive_grpc(void **state)
{
	(void)state;
	for (int i = 0; i <= 16; i++) {
		assert_int_equal(svc_err_from_grpc(i), i);
		assert_int_equal(svc_err_to_grpc((svc_err)i), i);
	}
	assert_int_equal(svc_err_from_grpc(-1), SVC_E_UNKNOWN);
	assert_int_equal(svc_err_from_grpc(17), SVC_E_UNKNOWN);
	assert_int_equal(svc_err_to_grpc(SVC_E_AGAIN), SVC_E_UNAVAILABLE);
	assert_int_equal(svc_err_to_grpc((svc_err)999), SVC_E_UNKNOWN);
}

static void
http_keeps_the_meaning(void **state)
{
	(void)state;
	/* What comes back from a status has that status again. */
	for (size_t i = 0; i < COUNT; i++) {
		int status = svc_err_to_http(all[i]);
		svc_err back = svc_err_from_http(status);
		assert_int_equal(svc_err_to_http(back), status);
	}
	assert_int_equal(svc_err_from_http(204), SVC_OK);
	assert_int_equal(svc_err_from_http(500), SVC_E_INTERNAL);
	assert_int_equal(svc_err_from_http(504), SVC_E_TIMEDOUT);
	assert_int_equal(svc_err_from_http(418), SVC_E_INVAL);
	assert_int_equal(svc_err_from_http(302), SVC_E_UNKNOWN);
	assert_int_equal(svc_err_from_http(599), SVC_E_UNKNOWN);
}

static void
detail_is_one_line_that_fits(void **state)
{
	(void)state;
	struct svc_error error = {.sys = 5};
	assert_int_equal(
	    svc_error_set(&error, SVC_E_INVAL, "ttl is %d", 7), SVC_E_INVAL);
	assert_int_equal(error.code, SVC_E_INVAL);
	assert_int_equal(error.sys, 0);
	assert_string_equal(error.text, "ttl is 7");
	svc_error_set(&error, SVC_E_INVAL, "a\nb\tc\x7f");
	assert_string_equal(error.text, "a b c ");
	assert_int_equal(svc_error_set(NULL, SVC_E_NOMEM, "x"), SVC_E_NOMEM);

	/* An error may be told with more in front. */
	svc_error_set(&error, SVC_E_INVAL, "below");
	svc_error_set(&error, SVC_E_INVAL, "above: %s", error.text);
	assert_string_equal(error.text, "above: below");
}

static void
long_detail_is_cut_between_characters(void **state)
{
	(void)state;
	static const char *const characters[] = {
	    "x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
	char text[400];
	for (size_t c = 0; c < 4; c++) {
		for (size_t shift = 0; shift < 4; shift++) {
			size_t size = strlen(characters[c]);
			memset(text, '.', shift);
			size_t at = shift;
			for (; at < 300; at += size)
				memcpy(text + at, characters[c], size);
			text[at] = '\0';
			struct svc_error error;
			svc_error_set(&error, SVC_E_INVAL, "%s", text);
			size_t len = strlen(error.text);
			assert_int_equal((len - shift) % size, 0);
			assert_true(len + size >= sizeof(error.text));
			assert_memory_equal(error.text, text, len);
		}
	}
}

static void
errno_picks_the_code(void **state)
{
	(void)state;
	struct svc_error error;
	assert_int_equal(svc_error_sys(&error, SVC_OK, ECONNREFUSED, "dial %s",
			     "10.0.0.1:1"),
	    SVC_E_UNAVAILABLE);
	assert_string_equal(error.text, "dial 10.0.0.1:1: Connection refused");
	assert_int_equal(error.sys, ECONNREFUSED);
	assert_int_equal(
	    svc_error_sys(NULL, SVC_OK, EACCES, "x"), SVC_E_DENIED);
	assert_int_equal(
	    svc_error_sys(NULL, SVC_OK, EMFILE, "x"), SVC_E_EXHAUSTED);
	assert_int_equal(svc_error_sys(NULL, SVC_OK, 9999, "x"), SVC_E_UNKNOWN);
	assert_int_equal(
	    svc_error_sys(&error, SVC_E_ABI, ENOENT, "x"), SVC_E_ABI);
	assert_int_equal(error.code, SVC_E_ABI);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(names_read_back),
	    cmocka_unit_test(canonical_codes_survive_grpc),
	    cmocka_unit_test(http_keeps_the_meaning),
	    cmocka_unit_test(detail_is_one_line_that_fits),
	    cmocka_unit_test(long_detail_is_cut_between_characters),
	    cmocka_unit_test(errno_picks_the_code),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
