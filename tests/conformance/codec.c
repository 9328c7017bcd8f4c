/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What svc/codec.h promises of every codec. Messages are compared by the bytes
 * that bare protobuf-c packs them to, which no codec under test had a hand in.
 */
#include "codec.h"

#include <svc/clock.h>

#include <codec_types.pb-c.h>
#include <codec_types2.pb-c.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <support/lacks.h>
#include <support/scarce.h>

#define ROOM ((size_t)16 << 20)
#define SEED UINT64_C(0x5eed)

static const struct svc_conformance_codec *setup;
static const struct svc_codec_ops *ops;
static const ProtobufCMessage *const *samples; /* ended by NULL */

/* Messages */

static void *
storage(ProtobufCMessage *message, unsigned offset)
{
	return (uint8_t *)message + offset;
}

static char *
some_text(void)
{
	static const char *const pieces[] = {"a", "Zz", "\"", "\\", "/", "\n",
	    "\x01", "\x7f", " ", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x8e\x88",
	    "<&>", "\xe2\x80\xa8", "0"};
	size_t n = svc_random_below(12);
	char *text = calloc(n * 4 + 1, 1);
	assert_non_null(text);
	size_t at = 0;
	for (size_t i = 0; i < n; i++) {
		const char *piece = pieces[svc_random_below(15)];
		memcpy(text + at, piece, strlen(piece));
		at += strlen(piece);
	}
	return text;
}

static ProtobufCBinaryData
some_bytes(void)
{
	ProtobufCBinaryData bytes = {svc_random_below(40), NULL};
	if (bytes.len > 0) {
		bytes.data = malloc(bytes.len);
		assert_non_null(bytes.data);
	}
	for (size_t i = 0; i < bytes.len; i++)
		bytes.data[i] = (uint8_t)svc_random();
	return bytes;
}

/* All magnitudes alike, and the limits often. */
static uint64_t
some_bits(void)
{
	switch (svc_random_below(8)) {
	case 0:
		return 0;
	case 1:
		return UINT64_MAX;
	case 2:
		return (uint64_t)INT64_MAX + svc_random_below(2);
	case 3:
		return (uint64_t)INT32_MAX + svc_random_below(2);
	case 4:
		return (UINT64_C(1) << 53) + svc_random_below(3);
	default:
		return svc_random() >> svc_random_below(64);
	}
}

static ProtobufCMessage *some_message(
    const ProtobufCMessageDescriptor *descriptor, unsigned levels);

static void
some_value(const ProtobufCFieldDescriptor *field, void *out, unsigned levels)
{
	uint64_t bits = some_bits();
	uint32_t half = (uint32_t)bits;
	double real;
	float single;
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		memcpy(out, &bits, sizeof(bits));
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		/* What sort of NaN it is no text can say. */
		memcpy(&real, &bits, sizeof(real));
		if (isnan(real))
			real = NAN;
		*(double *)out = real;
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		memcpy(&single, &half, sizeof(single));
		if (isnan(single))
			single = NAN;
		*(float *)out = single;
		break;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)out = (protobuf_c_boolean)(bits & 1);
		break;
	case PROTOBUF_C_TYPE_STRING:
		*(char **)out = some_text();
		break;
	case PROTOBUF_C_TYPE_BYTES:
		*(ProtobufCBinaryData *)out = some_bytes();
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		*(ProtobufCMessage **)out = some_message(
		    field->descriptor, levels > 0 ? levels - 1 : 0);
		break;
	default:
		memcpy(out, &half, sizeof(half));
	}
}

static size_t
size_of(const ProtobufCFieldDescriptor *field)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	default:
		return 4;
	}
}

/* A message with about half of its fields set, from svc_random. */
static ProtobufCMessage *
some_message(const ProtobufCMessageDescriptor *descriptor, unsigned levels)
{
	ProtobufCMessage *message = malloc(descriptor->sizeof_message);
	assert_non_null(message);
	protobuf_c_message_init(descriptor, message);
	/* Whoever writes a map writes the key and the value of each entry. */
	const char *name = descriptor->short_name;
	bool entry =
	    strlen(name) > 5 && strcmp(name + strlen(name) - 5, "Entry") == 0;
	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
		bool required =
		    entry || field->label == PROTOBUF_C_LABEL_REQUIRED;
		void *value = storage(message, field->offset);
		void *quantifier = storage(message, field->quantifier_offset);
		if (!required && svc_random_below(2) == 0)
			continue;
		if (!required && field->type == PROTOBUF_C_TYPE_MESSAGE &&
		    levels == 0)
			continue;
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = svc_random_below(4);
			size_t size = size_of(field);
			if (n == 0)
				continue;
			uint8_t *list = calloc(n, size);
			assert_non_null(list);
			for (size_t k = 0; k < n; k++)
				some_value(field, list + k * size, levels);
			*(size_t *)quantifier = n;
			*(uint8_t **)value = list;
			continue;
		}
		if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
			if (*(uint32_t *)quantifier != 0)
				continue;
			*(uint32_t *)quantifier = field->id;
		} else if (field->label == PROTOBUF_C_LABEL_OPTIONAL &&
			   field->type != PROTOBUF_C_TYPE_STRING &&
			   field->type != PROTOBUF_C_TYPE_MESSAGE) {
			*(protobuf_c_boolean *)quantifier = 1;
		}
		some_value(field, value, levels);
	}
	return message;
}

static uint8_t *
pack(const ProtobufCMessage *message, size_t *ret_len)
{
	*ret_len = protobuf_c_message_get_packed_size(message);
	uint8_t *bytes = malloc(*ret_len + 1);
	assert_non_null(bytes);
	assert_int_equal(protobuf_c_message_pack(message, bytes), *ret_len);
	return bytes;
}

static void
assert_same(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	size_t a_len, b_len;
	uint8_t *a_bytes = pack(a, &a_len), *b_bytes = pack(b, &b_len);
	assert_ptr_equal(a->descriptor, b->descriptor);
	assert_int_equal(a_len, b_len);
	assert_memory_equal(a_bytes, b_bytes, a_len);
	free(a_bytes);
	free(b_bytes);
}

/* Filled by hand: what a random choice may leave out. */

static const ProtobufCMessage *const *
filled(void)
{
	static Codec__Leaf leaf = CODEC__LEAF__INIT;
	static Codec__Leaf inner = CODEC__LEAF__INIT;
	static Codec__Everything nothing = CODEC__EVERYTHING__INIT;
	static Codec__Everything low = CODEC__EVERYTHING__INIT;
	static Codec__Everything high = CODEC__EVERYTHING__INIT;
	static Codec__Everything zero_choice = CODEC__EVERYTHING__INIT;
	static Codec__Everything lists = CODEC__EVERYTHING__INIT;
	static Codec2__Presence absent = CODEC2__PRESENCE__INIT;
	static Codec2__Presence zeros = CODEC2__PRESENCE__INIT;
	static Codec2__Inner zero_inner = CODEC2__INNER__INIT;
	static int64_t int64s[] = {
	    INT64_MIN, -1, 0, 1, INT64_MAX, INT64_C(9007199254740993)};
	static uint64_t uint64s[] = {0, UINT64_MAX, UINT64_C(9007199254740993)};
	static double doubles[] = {
	    0.1, -0.0, 5e-324, 1.7976931348623157e308, 1e22, 123456789.125};
	static float floats[] = {0.1f, 3.40282347e+38f, 1e-45f, 16777216.0f};
	static char text[] =
	    "a\"b\\c/d\b\f\n\r\t\x01\x7f \xc3\xa4 \xe2\x82\xac "
	    "\xf0\x9f\x8e\x88 </script>";
	static char empty[] = "";
	static char *texts[] = {empty, text, empty};
	static uint8_t raw[256];
	static ProtobufCBinaryData blobs[] = {
	    {0, NULL}, {1, raw}, {2, raw}, {3, raw}, {256, raw}};
	static Codec__Leaf *leaves[] = {&leaf, &inner};
	static const ProtobufCMessage *const all[] = {&leaf.base, &nothing.base,
	    &low.base, &high.base, &zero_choice.base, &lists.base, &absent.base,
	    &zeros.base, NULL};

	for (size_t i = 0; i < sizeof(raw); i++)
		raw[i] = (uint8_t)(255 - i);
	inner.name = text;
	leaf.next = &inner;

	low.int32_field = low.sint32_field = low.sfixed32_field = INT32_MIN;
	low.int64_field = low.sint64_field = low.sfixed64_field = INT64_MIN;
	low.float_field = -INFINITY;
	low.double_field = -INFINITY;
	low.enum_field = CODEC__LEVEL__LEVEL_BELOW;
	low.leaf_field = &leaf;
	low.choice_case = CODEC__EVERYTHING__CHOICE_CHOICE_LEAF;
	low.choice_leaf = &leaf;

	high.int32_field = high.sint32_field = high.sfixed32_field = INT32_MAX;
	high.uint32_field = high.fixed32_field = UINT32_MAX;
	high.int64_field = high.sint64_field = high.sfixed64_field = INT64_MAX;
	high.uint64_field = high.fixed64_field = UINT64_MAX;
	high.float_field = NAN;
	high.double_field = INFINITY;
	high.bool_field = 1;
	high.enum_field = CODEC__LEVEL__LEVEL_HIGH;
	high.string_field = text;
	high.bytes_field = blobs[4];
	high.choice_case = CODEC__EVERYTHING__CHOICE_CHOICE_DOUBLE;
	high.choice_double = NAN;

	zero_choice.choice_case = CODEC__EVERYTHING__CHOICE_CHOICE_NUMBER;

	lists.n_int64_list = sizeof(int64s) / sizeof(*int64s);
	lists.int64_list = int64s;
	lists.n_fixed64_list = sizeof(uint64s) / sizeof(*uint64s);
	lists.fixed64_list = uint64s;
	lists.n_double_list = sizeof(doubles) / sizeof(*doubles);
	lists.double_list = doubles;
	lists.n_float_list = sizeof(floats) / sizeof(*floats);
	lists.float_list = floats;
	lists.n_string_list = 3;
	lists.string_list = texts;
	lists.n_bytes_list = 5;
	lists.bytes_list = blobs;
	lists.n_leaf_list = 2;
	lists.leaf_list = leaves;

	/* Nothing but what is required; then everything there, and zero. */
	absent.name = zeros.name = empty;
	zeros.has_number = zeros.has_real = zeros.has_flag = 1;
	zeros.has_data = zeros.has_big = 1;
	zeros.text = empty;
	zeros.inner = &zero_inner;
	zeros.has_number_with_default = 1;
	zeros.number_with_default = 0;
	zeros.text_with_default = empty;
	zeros.has_data_with_default = 1;
	zeros.data_with_default = blobs[0];
	zeros.choice_case = CODEC2__PRESENCE__CHOICE_CHOICE_TEXT;
	zeros.choice_text = empty;
	return all;
}

static int
find(void **state)
{
	(void)state;
	struct svc_error err = {0};
	const void *found = NULL;
	svc_err e = svc_catalogue_find(
	    &svc_codec_interface, setup->codec, &found, &err);
	if (e != SVC_OK) {
		print_error("%s\n", err.text);
		return -1;
	}
	ops = found;
	samples = setup->samples != NULL ? setup->samples : filled();
	return 0;
}

/* The promises */

static void
test_head(void **state)
{
	(void)state;
	assert_string_equal(ops->name, setup->codec);
	assert_non_null(ops->content_types[0]);
	for (size_t i = 0; ops->content_types[i] != NULL; i++) {
		const char *type = ops->content_types[i];
		assert_non_null(strchr(type, '/'));
		assert_null(strpbrk(type, "; ABCDEFGHIJKLMNOPQRSTUVWXYZ"));
	}
}

static void
test_found_by_content_type(void **state)
{
	(void)state;
	struct svc_codecs *codecs = NULL;
	assert_int_equal(svc_codecs_create(&codecs, NULL), SVC_OK);
	for (size_t i = 0; ops->content_types[i] != NULL; i++) {
		char type[128];
		const struct svc_codec_ops *found = NULL;
		snprintf(type, sizeof(type), "%s; charset=utf-8",
		    ops->content_types[i]);
		type[0] = (char)(type[0] - 'a' + 'A');
		assert_int_equal(
		    svc_codecs_find(codecs, type, &found, NULL), SVC_OK);
		assert_ptr_equal(found, ops);
	}
	svc_codecs_destroy(codecs);
}

/* Encodes behind bytes that are there, and decodes again. */
static void
round_trip(const ProtobufCMessage *message)
{
	struct svc_error err = {0};
	struct svc_buf out;
	svc_buf_init(&out, ROOM);
	assert_int_equal(svc_buf_puts(&out, "before"), SVC_OK);
	if (ops->encode(message, &out, &err) != SVC_OK)
		fail_msg("%s: %s", message->descriptor->name, err.text);
	assert_memory_equal(out.data, "before", 6);
	assert_int_equal(out.data[out.len], 0);

	/* A block of its own, so that a read past its end shows. */
	size_t len = out.len - 6;
	uint8_t *bytes = malloc(len + (len == 0));
	assert_non_null(bytes);
	memcpy(bytes, out.data + 6, len);
	if (SVC_OPS_HAS(ops, check) && ops->check(bytes, len, &err) != SVC_OK)
		fail_msg("check: %s", err.text);
	ProtobufCMessage *copy = NULL;
	if (ops->decode(message->descriptor, bytes, len, &copy, &err) != SVC_OK)
		fail_msg("%s: %s", message->descriptor->name, err.text);
	free(bytes);
	assert_same(message, copy);
	svc_message_destroy(copy);
	svc_buf_fini(&out);
}

static void
test_round_trip(void **state)
{
	(void)state;
	for (size_t i = 0; samples[i] != NULL; i++)
		round_trip(samples[i]);
}

static void
test_random_messages(void **state)
{
	(void)state;
	static const ProtobufCMessageDescriptor *const types[] = {
	    &codec__everything__descriptor, &codec2__presence__descriptor};
	if (setup->samples != NULL)
		test_lacks("messages of any type");
	print_message("seed %llu\n", (unsigned long long)SEED);
	svc_random_seed(SEED);
	for (size_t i = 0; i < 600; i++) {
		ProtobufCMessage *message = some_message(types[i % 2], 3);
		round_trip(message);
		svc_message_destroy(message);
	}
}

static void
test_deep_messages(void **state)
{
	(void)state;
	static Codec__Leaf chain[2000];
	if (setup->samples != NULL)
		test_lacks("messages of any type");
	for (size_t i = 0; i < 2000; i++) {
		codec__leaf__init(&chain[i]);
		if (i > 0)
			chain[i].next = &chain[i - 1];
	}
	/* Ninety are well within everybody's limit; two thousand are past
	 * it, both ways, and nothing is left in the buffer. */
	round_trip(&chain[89].base);
	struct svc_error err = {0};
	struct svc_buf out;
	svc_buf_init(&out, ROOM);
	assert_int_equal(svc_buf_puts(&out, "before"), SVC_OK);
	assert_int_equal(
	    ops->encode(&chain[1999].base, &out, &err), SVC_E_INVAL);
	assert_int_equal(out.len, 6);
	assert_non_null(strstr(err.text, "next.next"));
	svc_buf_fini(&out);
}

static void
test_refuses_bad_bytes(void **state)
{
	(void)state;
	const struct svc_conformance_bad *bad = setup->bad;
	assert_non_null(bad);
	for (; bad->descriptor != NULL; bad++) {
		ProtobufCMessage mark;
		ProtobufCMessage *untouched = &mark;
		struct svc_error err = {0};
		svc_err e = ops->decode(
		    bad->descriptor, bad->data, bad->len, &untouched, &err);
		if (e != SVC_E_INVAL || strstr(err.text, bad->says) == NULL)
			fail_msg("expected \"%s\", got %s \"%s\"", bad->says,
			    svc_err_name(e), err.text);
		assert_int_equal(err.code, e);
		assert_ptr_equal(untouched, &mark);
		/* Nobody has to listen. */
		assert_int_equal(ops->decode(bad->descriptor, bad->data,
				     bad->len, &untouched, NULL),
		    SVC_E_INVAL);
	}
}

/* Whatever comes is a message or an error, and a message can go out again. */
static void
try_bytes(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
    size_t len)
{
	struct svc_error err = {0};
	uint8_t *bytes = malloc(len + (len == 0));
	assert_non_null(bytes);
	if (len > 0)
		memcpy(bytes, data, len);
	ProtobufCMessage *message = NULL;
	svc_err e = ops->decode(descriptor, bytes, len, &message, &err);
	if (e == SVC_OK) {
		if (SVC_OPS_HAS(ops, check))
			assert_int_equal(ops->check(bytes, len, NULL), SVC_OK);
		round_trip(message);
		svc_message_destroy(message);
	} else {
		assert_int_equal(e, SVC_E_INVAL);
		assert_int_equal(err.code, e);
		assert_true(err.text[0] != '\0');
		assert_null(message);
	}
	free(bytes);
}

static void
test_cut_and_changed_bytes(void **state)
{
	(void)state;
	svc_random_seed(SEED);
	for (size_t i = 0; samples[i] != NULL; i++) {
		const ProtobufCMessage *message = samples[i];
		struct svc_buf out;
		svc_buf_init(&out, ROOM);
		assert_int_equal(ops->encode(message, &out, NULL), SVC_OK);
		for (size_t len = 0; len < out.len; len++)
			try_bytes(message->descriptor, out.data, len);
		for (size_t at = 0; at < out.len; at++) {
			uint8_t was = out.data[at];
			out.data[at] = (uint8_t)svc_random();
			try_bytes(message->descriptor, out.data, out.len);
			out.data[at] = was ^ (uint8_t)(1u << at % 8);
			try_bytes(message->descriptor, out.data, out.len);
			out.data[at] = was;
		}
		svc_buf_fini(&out);
	}
}

static void
test_buffer_limit(void **state)
{
	(void)state;
	for (size_t i = 0; samples[i] != NULL; i++) {
		const ProtobufCMessage *message = samples[i];
		struct svc_buf out;
		svc_buf_init(&out, ROOM);
		assert_int_equal(ops->encode(message, &out, NULL), SVC_OK);
		size_t len = out.len;
		svc_buf_fini(&out);

		svc_buf_init(&out, len);
		assert_int_equal(ops->encode(message, &out, NULL), SVC_OK);
		assert_int_equal(out.len, len);
		svc_buf_fini(&out);

		for (size_t max = 0; max < len; max++) {
			struct svc_error err = {0};
			svc_buf_init(&out, max);
			assert_int_equal(
			    ops->encode(message, &out, &err), SVC_E_EXHAUSTED);
			assert_int_equal(err.code, SVC_E_EXHAUSTED);
			assert_int_equal(out.len, 0);
			svc_buf_fini(&out);
		}
	}
}

static void
test_encode_without_memory(void **state)
{
	(void)state;
	size_t failures = 0;
	for (size_t i = 0; samples[i] != NULL; i++) {
		svc_err e = SVC_E_NOMEM;
		for (long n = 0; e != SVC_OK; n++) {
			struct svc_buf out;
			svc_buf_init(&out, ROOM);
			scarce_begin();
			scarce_at(n);
			e = ops->encode(samples[i], &out, NULL);
			scarce_end();
			if (e != SVC_OK) {
				assert_int_equal(e, SVC_E_NOMEM);
				assert_int_equal(out.len, 0);
				failures++;
			}
			svc_buf_fini(&out);
			assert_true(n < 10000);
		}
	}
	assert_true(failures > 0);
}

/* On a thread of its own, where a failed assertion could not be caught. */
static void *
many_round_trips(void *arg)
{
	bool *good = arg;
	for (size_t n = 0; n < 50; n++) {
		for (size_t i = 0; samples[i] != NULL; i++) {
			ProtobufCMessage *copy = NULL;
			struct svc_buf out, again;
			svc_buf_init(&out, ROOM);
			svc_buf_init(&again, ROOM);
			*good = *good &&
				ops->encode(samples[i], &out, NULL) == SVC_OK &&
				ops->decode(samples[i]->descriptor, out.data,
				    out.len, &copy, NULL) == SVC_OK &&
				ops->encode(copy, &again, NULL) == SVC_OK &&
				out.len == again.len &&
				(out.len == 0 ||
				    memcmp(out.data, again.data, out.len) == 0);
			svc_message_destroy(copy);
			svc_buf_fini(&out);
			svc_buf_fini(&again);
		}
	}
	return NULL;
}

static void
test_threads(void **state)
{
	(void)state;
	pthread_t threads[4];
	bool good[4] = {true, true, true, true};
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(svc_thread_start(&threads[i], "codec",
				     many_round_trips, &good[i]),
		    SVC_OK);
	for (size_t i = 0; i < 4; i++)
		svc_thread_join(threads[i]);
	for (size_t i = 0; i < 4; i++)
		assert_true(good[i]);
}

int
svc_conformance_codec(const struct svc_conformance_codec *with)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_head),
	    cmocka_unit_test(test_found_by_content_type),
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_random_messages),
	    cmocka_unit_test(test_deep_messages),
	    cmocka_unit_test(test_refuses_bad_bytes),
	    cmocka_unit_test(test_cut_and_changed_bytes),
	    cmocka_unit_test(test_buffer_limit),
	    cmocka_unit_test(test_encode_without_memory),
	    cmocka_unit_test(test_threads),
	};
	setup = with;
	return cmocka_run_group_tests_name(with->codec, tests, find, NULL);
}
