/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/codec.h"

#include <support/scarce.h>
#include <svc/log.h>

#include <codec_types.pb-c.h>
#include <codec_types2.pb-c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void
test_utf8_span(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		size_t len, span;
	} cases[] = {
	    {"", 0, 0}, {"plain text of 20 by", 19, 19}, {"a\0b", 3, 3},
	    {"\xc3\xa4", 2, 2}, {"\xed\x9f\xbf", 3, 3}, {"\xee\x80\x80", 3, 3},
	    {"\xf4\x8f\xbf\xbf", 4, 4}, {"12345678\xc3", 9, 8}, /* cut off */
	    {"a\xe2\x82", 3, 1},                                /* cut off */
	    {"a\xc0\x80", 3, 1},                                /* overlong */
	    {"\xe0\x9f\xbf", 3, 0},                             /* overlong */
	    {"\xf0\x8f\xbf\xbf", 4, 0},                         /* overlong */
	    {"\xed\xa0\x80", 3, 0},          /* a surrogate */
	    {"\xf4\x90\x80\x80", 4, 0},      /* past U+10FFFF */
	    {"\xf5\x80\x80\x80", 4, 0},      /* no such first byte */
	    {"ok\x80", 3, 2},                /* no first byte */
	    {"\xe2\x28\xa1", 3, 0},          /* second byte */
	    {"\xe2\x82\x28", 3, 0},          /* third byte */
	    {"1234567\xff 12345678", 17, 7}, /* within eight */
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		assert_int_equal(
		    svc_utf8_span(cases[i].text, cases[i].len), cases[i].span);
}

static void
test_find_ignores_case_and_parameters(void **state)
{
	struct svc_codecs *codecs = *state;
	static const char *const good[] = {"text/plain", "TEXT/Plain",
	    "text/plain;charset=utf-8", " text/plain ; a=\"b;c\""};
	static const char *const bad[] = {"text/plainer", "text/plai", "",
	    "text", "text/ plain", ";text/plain", "application/json2"};
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		const struct svc_codec_ops *found = NULL;
		assert_int_equal(
		    svc_codecs_find(codecs, good[i], &found, NULL), SVC_OK);
		assert_ptr_equal(found, &svc_codec_text);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		const struct svc_codec_ops *found = &svc_codec_bytes;
		assert_int_equal(svc_codecs_find(codecs, bad[i], &found, NULL),
		    SVC_E_UNIMPLEMENTED);
		assert_ptr_equal(found, &svc_codec_bytes);
	}
}

static void
test_find_says_what_there_is(void **state)
{
	struct svc_codecs *codecs = *state;
	const struct svc_codec_ops *found = NULL;
	struct svc_error err = {0};
	assert_int_equal(
	    svc_codecs_find(codecs, "text/xml\n; q=1", &found, &err),
	    SVC_E_UNIMPLEMENTED);
	assert_int_equal(err.code, SVC_E_UNIMPLEMENTED);
	assert_non_null(strstr(err.text, "\"text/xml"));
	assert_null(strchr(err.text, '\n'));
	assert_non_null(strstr(err.text, "text/plain"));
	assert_non_null(strstr(err.text, "application/octet-stream"));
	assert_int_equal(
	    svc_codecs_find(codecs, NULL, &found, NULL), SVC_E_UNIMPLEMENTED);
}

static int
create_codecs(void **state)
{
	struct svc_codecs *codecs = NULL;
	if (svc_codecs_create(&codecs, NULL) != SVC_OK)
		return -1;
	*state = codecs;
	return 0;
}

static int
destroy_codecs(void **state)
{
	svc_codecs_destroy(*state);
	return 0;
}

static void
test_create_without_memory(void **state)
{
	(void)state;
	svc_err e = SVC_E_NOMEM;
	size_t failures = 0;
	for (long n = 0; e != SVC_OK; n++) {
		struct svc_codecs *codecs = NULL;
		struct svc_error err = {0};
		scarce_begin();
		scarce_at(n);
		e = svc_codecs_create(&codecs, &err);
		scarce_end();
		if (e != SVC_OK) {
			assert_int_equal(e, SVC_E_NOMEM);
			assert_int_equal(err.code, SVC_E_NOMEM);
			assert_null(codecs);
			failures++;
		}
		svc_codecs_destroy(codecs);
		assert_true(n < 1000);
	}
	assert_true(failures > 0);
}

/* Codecs of a program's own. */

static svc_err
own_encode(
    const ProtobufCMessage *message, struct svc_buf *out, struct svc_error *err)
{
	(void)message;
	(void)out;
	return svc_error_set(err, SVC_E_INVAL, "carries nothing");
}

static svc_err
own_decode(const ProtobufCMessageDescriptor *descriptor, const void *data,
    size_t len, ProtobufCMessage **ret_message, struct svc_error *err)
{
	(void)descriptor;
	(void)data;
	(void)len;
	(void)ret_message;
	return svc_error_set(err, SVC_E_INVAL, "carries nothing");
}

static const char *const own_types[] = {"application/x-own",
    "Application/Upper", "application/own; a=b", "nothing", "text/plain", NULL};

/* As an older release would have compiled it: without `check`. */
static const struct svc_codec_ops own = {
    .abi = SVC_CODEC_ABI,
    .size = offsetof(struct svc_codec_ops, check),
    .name = "zz_own",
    .content_types = own_types,
    .encode = own_encode,
    .decode = own_decode,
};

static size_t warnings;

static void
count_warnings(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "codec.type") == 0 ||
	    strcmp(line->id, "codec.twice") == 0)
		warnings++;
}

static void
test_added_codec(void **state)
{
	(void)state;
	struct svc_codecs *codecs = NULL;
	const struct svc_codec_ops *found = NULL;
	assert_int_equal(
	    svc_catalogue_add(&svc_codec_interface, &own, NULL), SVC_OK);
	svc_log_set_sink(count_warnings, NULL);
	assert_int_equal(svc_codecs_create(&codecs, NULL), SVC_OK);
	svc_log_set_sink(NULL, NULL);
	assert_int_equal(warnings, 4);
	assert_int_equal(
	    svc_codecs_find(codecs, "application/X-Own", &found, NULL), SVC_OK);
	assert_ptr_equal(found, &own);
	assert_false(SVC_OPS_HAS(found, check));
	assert_int_equal(
	    svc_codecs_find(codecs, "text/plain", &found, NULL), SVC_OK);
	assert_ptr_equal(found, &svc_codec_text);
	svc_codecs_destroy(codecs);
}

static void
test_incomplete_codec_is_refused(void **state)
{
	(void)state;
	struct svc_codec_ops ops = own;
	ops.name = "incomplete";
	ops.decode = NULL;
	assert_int_equal(
	    svc_catalogue_check(&svc_codec_interface, &ops, NULL), SVC_E_ABI);
	ops = own;
	ops.content_types = NULL;
	assert_int_equal(
	    svc_catalogue_check(&svc_codec_interface, &ops, NULL), SVC_E_ABI);
}

/* What the embedded codecs cannot carry, and how presence is kept. */

static void
assert_refused(const struct svc_codec_ops *ops, const ProtobufCMessage *message,
    const char *says)
{
	struct svc_error err = {0};
	struct svc_buf out;
	svc_buf_init(&out, 1000);
	assert_int_equal(ops->encode(message, &out, &err), SVC_E_INVAL);
	if (strstr(err.text, says) == NULL)
		fail_msg("expected \"%s\", got \"%s\"", says, err.text);
	assert_int_equal(out.len, 0);
	svc_buf_fini(&out);
}

static void
test_embedded_refuse_what_they_cannot_carry(void **state)
{
	(void)state;
	static char bad_text[] = "a\xff";
	Codec__Student student = CODEC__STUDENT__INIT;
	Codec__Text text = CODEC__TEXT__INIT;
	Codec__Bytes bytes = CODEC__BYTES__INIT;
	Codec2__Bytes absent = CODEC2__BYTES__INIT;
	Codec2__Text default_text = CODEC2__TEXT__INIT;
	Codec__TextChoice choice = CODEC__TEXT_CHOICE__INIT;
	assert_refused(&svc_codec_text, &student.base, "codec.Student");
	assert_refused(
	    &svc_codec_text, &bytes.base, "one field of type string");
	assert_refused(&svc_codec_bytes, &text.base, "one field of type bytes");
	assert_refused(&svc_codec_bytes, &absent.base, "bytes: is not set");
	assert_refused(&svc_codec_text, &default_text.base, "text: is not set");
	assert_refused(&svc_codec_text, &choice.base, "text: is not set");
	text.text = bad_text;
	assert_refused(&svc_codec_text, &text.base, "not UTF-8 from byte 1");
	bytes.bytes.len = 3;
	assert_refused(&svc_codec_bytes, &bytes.base, "no data");
}

static void
test_text_may_hold_nul_only_outside_of_messages(void **state)
{
	(void)state;
	assert_int_equal(svc_codec_text.check("a\0b", 3, NULL), SVC_OK);
	assert_int_equal(svc_codec_text.check("a\xff", 2, NULL), SVC_E_INVAL);
	assert_int_equal(svc_codec_text.check(NULL, 0, NULL), SVC_OK);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_utf8_span),
	    cmocka_unit_test_setup_teardown(
		test_find_ignores_case_and_parameters, create_codecs,
		destroy_codecs),
	    cmocka_unit_test_setup_teardown(
		test_find_says_what_there_is, create_codecs, destroy_codecs),
	    cmocka_unit_test(test_create_without_memory),
	    cmocka_unit_test(test_incomplete_codec_is_refused),
	    cmocka_unit_test(test_embedded_refuse_what_they_cannot_carry),
	    cmocka_unit_test(test_text_may_hold_nul_only_outside_of_messages),
	    cmocka_unit_test(test_added_codec),
	};
	static uint8_t raw[] = {0, 255, 10, 0};
	static char word[] = "gr\xc3\xbc\xc3\x9f dich";
	Codec__Bytes no_bytes = CODEC__BYTES__INIT;
	Codec__Bytes bytes = CODEC__BYTES__INIT;
	Codec2__Bytes maybe = CODEC2__BYTES__INIT;
	Codec2__Bytes maybe_empty = CODEC2__BYTES__INIT;
	Codec2__Required required = CODEC2__REQUIRED__INIT;
	Codec__Text no_text = CODEC__TEXT__INIT;
	Codec__Text text = CODEC__TEXT__INIT;
	Codec2__Text maybe_text = CODEC2__TEXT__INIT;
	Codec__TextChoice choice = CODEC__TEXT_CHOICE__INIT;
	bytes.bytes = maybe.bytes = required.bytes =
	    (ProtobufCBinaryData){sizeof(raw), raw};
	maybe.has_bytes = maybe_empty.has_bytes = 1;
	text.text = maybe_text.text = choice.text = word;
	choice.choice_case = CODEC__TEXT_CHOICE__CHOICE_TEXT;
	const ProtobufCMessage *const byte_samples[] = {&no_bytes.base,
	    &bytes.base, &maybe.base, &maybe_empty.base, &required.base, NULL};
	const ProtobufCMessage *const text_samples[] = {
	    &no_text.base, &text.base, &maybe_text.base, &choice.base, NULL};
	static const struct svc_conformance_bad bad_bytes[] = {
	    {&codec__student__descriptor, "a", 1, "codec.Student"},
	    {&codec__text__descriptor, "a", 1, "one field of type bytes"},
	    {NULL, NULL, 0, NULL},
	};
	static const struct svc_conformance_bad bad_text[] = {
	    {&codec__student__descriptor, "a", 1, "codec.Student"},
	    {&codec__text__descriptor, "abc\xc3", 4, "byte 3: not UTF-8"},
	    {&codec__text__descriptor, "ab\0c", 4, "byte 2: a NUL"},
	    {NULL, NULL, 0, NULL},
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	failed += svc_conformance_codec(
	    &(struct svc_conformance_codec){"bytes", byte_samples, bad_bytes});
	failed += svc_conformance_codec(
	    &(struct svc_conformance_codec){"text", text_samples, bad_text});
	return failed;
}
