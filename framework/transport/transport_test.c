/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void
addresses_split(void **state)
{
	(void)state;
	static const struct {
		const char *address, *host;
		uint16_t port;
	} good[] = {
	    {"127.0.0.1:80", "127.0.0.1", 80},
	    {":0", "", 0},
	    {"[::1]:65535", "::1", 65535},
	    {"[::]:1", "::", 1},
	    {"host.example:7", "host.example", 7},
	};
	char host[64];
	uint16_t port;
	struct svc_error err;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(svc_address_split(good[i].address, host,
				     sizeof(host), &port, &err),
		    SVC_OK);
		assert_string_equal(host, good[i].host);
		assert_int_equal(port, good[i].port);
	}
	static const char *const bad[] = {"", "127.0.0.1",
	    "127.0.0.1:", "h:65536", "h:1x", "h:-1", "::1:80", "[::1]",
	    "[::1:80", "a b:1", "http://h:80",
	    ("0123456789012345678901234567890123456789"
	     "0123456789012345678901234567890123456789:1")};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(
		    svc_address_split(bad[i], host, sizeof(host), &port, &err),
		    SVC_E_INVAL);
		assert_non_null(strstr(err.text, "allowed are host:port"));
	}
}

static void
parts_come_back_as_they_went(void **state)
{
	(void)state;
	struct svc_headers *headers = svc_headers_create(), *read = NULL;
	svc_headers_set(headers, "Trace", "abc");
	svc_headers_set(headers, "empty", "");
	struct svc_part part = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "student",
	    .endpoint = "Student.Get",
	    .content_type = "application/json",
	    .timeout_ms = 1500,
	    .headers = headers,
	    .data = "{}",
	    .len = 2,
	};
	struct svc_buf out;
	struct frame frame;
	struct svc_part back;
	struct svc_error err;
	svc_buf_init(&out, 4096);
	assert_int_equal(part_encode(&out, 7, true, &part, 1000, &err), SVC_OK);
	frame_decode(out.data, &frame);
	assert_int_equal(frame.type, FRAME_PART);
	assert_int_equal(frame.stream, 7);
	assert_int_equal(FRAME_SIZE + frame.length, out.len);
	assert_int_equal(part_decode(&frame, true, out.data + FRAME_SIZE, &back,
			     &read, &err),
	    SVC_OK);
	assert_string_equal(back.service, "student");
	assert_string_equal(back.endpoint, "Student.Get");
	assert_string_equal(back.content_type, "application/json");
	assert_int_equal(back.timeout_ms, 1500);
	assert_int_equal(back.len, 2);
	assert_memory_equal(back.data, "{}", 2);
	assert_true(svc_headers_equal(headers, read));
	svc_headers_destroy(read);

	/* A content type is printable, on one line. */
	char *type = memchr(out.data, '/', out.len);
	static const char no[] = {'\n', '\r', '\t', 0x7f, (char)0xc3};
	for (size_t i = 0; i < sizeof(no); i++) {
		*type = no[i];
		assert_int_equal(part_decode(&frame, true,
				     out.data + FRAME_SIZE, &back, &read, &err),
		    SVC_E_INVAL);
		assert_string_equal(err.text, "malformed text in a frame");
	}

	/* A head above the limit leaves nothing behind. */
	size_t before = out.len;
	assert_int_equal(
	    part_encode(&out, 7, true, &part, 20, &err), SVC_E_EXHAUSTED);
	assert_int_equal(out.len, before);

	/* An answer with its code and text, and no headers. */
	svc_buf_clear(&out);
	part = (struct svc_part){.flags = SVC_PART_HEADERS | SVC_PART_END,
	    .status = SVC_E_NOT_FOUND,
	    .status_text = "no such student"};
	assert_int_equal(
	    part_encode(&out, 9, false, &part, 1000, &err), SVC_OK);
	frame_decode(out.data, &frame);
	assert_int_equal(part_decode(&frame, false, out.data + FRAME_SIZE,
			     &back, &read, &err),
	    SVC_OK);
	assert_null(read);
	assert_null(back.content_type);
	assert_int_equal(back.status, SVC_E_NOT_FOUND);
	assert_string_equal(back.status_text, "no such student");
	svc_buf_fini(&out);
	svc_headers_destroy(headers);
}

static void
a_deadline_that_has_passed_is_not_none(void **state)
{
	(void)state;
	struct svc_part part = {.flags = SVC_PART_HEADERS | SVC_PART_END,
	    .service = "s",
	    .endpoint = "E.e"};
	struct svc_buf out;
	struct frame frame;
	static const int64_t given[] = {0, -5, 1, SVC_FOREVER, INT64_MAX};
	static const uint32_t sent[] = {1, 1, 1, 0, UINT32_MAX};
	svc_buf_init(&out, 4096);
	for (size_t i = 0; i < sizeof(given) / sizeof(given[0]); i++) {
		svc_buf_clear(&out);
		part.timeout_ms = given[i];
		assert_int_equal(
		    part_encode(&out, 1, true, &part, 1000, NULL), SVC_OK);
		frame_decode(out.data, &frame);
		assert_int_equal(frame.value, sent[i]);
	}
	svc_buf_fini(&out);
}

static void
trailers_come_with_the_end_alone(void **state)
{
	(void)state;
	struct svc_headers *headers = svc_headers_create(), *read = NULL;
	svc_headers_set(headers, "Checksum", "77");
	struct svc_part part = {.flags = SVC_PART_END,
	    .status = SVC_E_ABORTED,
	    .status_text = "half way",
	    .headers = headers};
	struct svc_part back;
	struct frame frame;
	struct svc_buf out;
	struct svc_error err;
	svc_buf_init(&out, 4096);
	for (int request = 0; request < 2; request++) {
		svc_buf_clear(&out);
		assert_int_equal(
		    part_encode(&out, 3, request != 0, &part, 1000, &err),
		    SVC_OK);
		frame_decode(out.data, &frame);
		assert_int_equal(part_decode(&frame, request != 0,
				     out.data + FRAME_SIZE, &back, &read, &err),
		    SVC_OK);
		assert_string_equal(svc_headers_get(read, "checksum"), "77");
		svc_headers_destroy(read);
		/* A request has no status. */
		assert_int_equal(back.status, request ? SVC_OK : SVC_E_ABORTED);
	}
	/* A message alone has no head. */
	svc_buf_clear(&out);
	part.flags = SVC_PART_MESSAGE;
	assert_int_equal(
	    part_encode(&out, 3, false, &part, 1000, &err), SVC_OK);
	frame_decode(out.data, &frame);
	assert_int_equal(frame.head, 0);
	frame.head = 1;
	frame.length = 1;
	assert_int_equal(
	    part_decode(&frame, false, out.data, &back, &read, &err),
	    SVC_E_INVAL);
	svc_buf_fini(&out);
	svc_headers_destroy(headers);
}

/* Not of one name either, again and again: each is looked for among those
 * before it. */
static void
a_head_has_at_most_256_headers(void **state)
{
	(void)state;
	static const char texts[] = "\0\0\0\0\0\0\0\0"; /* and one more */
	static const char pair[] = "\1\0n\0\0\0";       /* its zero, too */
	struct svc_buf head;
	svc_buf_init(&head, 65535);
	svc_buf_append(&head, texts, sizeof(texts));
	for (int n = 1; n <= 257; n++) {
		struct svc_part part;
		struct svc_headers *headers = NULL;
		struct svc_error err;
		svc_buf_append(&head, pair, sizeof(pair));
		struct frame frame = {.length = (uint32_t)head.len,
		    .type = FRAME_PART,
		    .flags = SVC_PART_HEADERS,
		    .head = (uint16_t)head.len,
		    .stream = 1};
		svc_err code =
		    part_decode(&frame, true, head.data, &part, &headers, &err);
		assert_int_equal(code, n <= 256 ? SVC_OK : SVC_E_INVAL);
		if (code == SVC_OK)
			assert_int_equal(svc_headers_count(headers), 1);
		if (code == SVC_OK)
			svc_headers_destroy(headers);
	}
	svc_buf_fini(&head);
}

static void
packed_requests_are_sent_the_same(void **state)
{
	(void)state;
	char service[] = "student", endpoint[] = "Student.Get", data[] = "{12}";
	struct svc_headers *headers = svc_headers_create();
	svc_headers_set(headers, "Trace", "abc");
	struct svc_part part = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = service,
	    .endpoint = endpoint,
	    .timeout_ms = 1500,
	    .data = data,
	    .len = 4,
	};
	struct svc_buf plain, packed;
	struct svc_error err;
	svc_buf_init(&plain, 4096);
	svc_buf_init(&packed, 4096);
	for (int i = 0; i < 3; i++) {
		struct svc_part own = part;
		size_t lens[3];
		char space[64];
		own.headers = part.headers = i == 2 ? headers : NULL;
		own.content_type = part.content_type = i == 0 ? NULL : "t/j";
		svc_buf_clear(&plain);
		svc_buf_clear(&packed);
		assert_int_equal(
		    part_encode(&plain, 7, true, &part, 1000, &err), SVC_OK);
		size_t size = svc_part_packed_size(&own, lens);
		assert_true(size <= sizeof(space));
		assert_ptr_equal(
		    svc_part_pack(&own, space, lens), space + size);
		assert_string_equal(own.endpoint, endpoint);
		assert_int_equal(own.content_type == NULL, i == 0);
		/* Nothing of the original is needed any more. */
		service[0] = endpoint[0] = data[0] = 'X';
		assert_int_equal(
		    part_encode(&packed, 7, true, &own, 1000, &err), SVC_OK);
		assert_int_equal(part_encode(&packed, 7, true, &own, 20, &err),
		    SVC_E_EXHAUSTED);
		service[0] = 's', endpoint[0] = 'S', data[0] = '{';
		assert_int_equal(packed.len, plain.len);
		assert_memory_equal(packed.data, plain.data, plain.len);
		if (i < 2) { /* without headers: as it lies */
			memset(packed.data, 0, packed.len);
			part_put_packed(packed.data, 7, &own);
			assert_memory_equal(packed.data, plain.data, plain.len);
		}
	}
	svc_buf_fini(&plain);
	svc_buf_fini(&packed);
	svc_headers_destroy(headers);
}

static void
known_heads_are_read_the_same(void **state)
{
	(void)state;
	static const char *const endpoints[] = {"A.b", "A.b", "A.c", "A.c"};
	struct svc_mux_memo memo = {.flags = 0};
	struct svc_headers *headers;
	struct svc_part back;
	struct svc_buf out;
	struct svc_error err;
	struct frame frame;
	svc_buf_init(&out, 4096);
	for (unsigned i = 0; i < 4; i++) {
		struct svc_part part = {
		    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
		    .service = "s",
		    .endpoint = endpoints[i],
		    .content_type = "t/j",
		    .timeout_ms = i,
		    .data = "12345",
		    .len = i,
		};
		svc_buf_clear(&out);
		part_encode(&out, i + 1, true, &part, 1000, &err);
		frame_decode(out.data, &frame);
		const uint8_t *payload = out.data + FRAME_SIZE;
		assert_int_equal(part_decode_again(&memo, &frame, true, payload,
				     &back, &headers, &err),
		    SVC_OK);
		assert_null(headers);
		assert_string_equal(back.service, "s");
		assert_string_equal(back.endpoint, endpoints[i]);
		assert_string_equal(back.content_type, "t/j");
		assert_int_equal(back.timeout_ms, i == 0 ? 1 : i);
		assert_int_equal(back.len, i);
		assert_memory_equal(back.data, "12345", i);
		assert_int_equal(memo.len, frame.head);
		assert_memory_equal(memo.bytes, payload, frame.head);
	}
	/* As long as the one before, but malformed. */
	out.data[FRAME_SIZE] = 0xff;
	assert_int_equal(part_decode_again(&memo, &frame, true,
			     out.data + FRAME_SIZE, &back, &headers, &err),
	    SVC_E_INVAL);
	/* Replies: the same head with another code. */
	for (unsigned i = 0; i < 2; i++) {
		struct svc_part part = {
		    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
		    .status = i == 0 ? SVC_OK : SVC_E_ABORTED,
		    .status_text = "so",
		};
		svc_buf_clear(&out);
		part_encode(&out, 1, false, &part, 1000, &err);
		frame_decode(out.data, &frame);
		assert_int_equal(
		    part_decode_again(&memo, &frame, false,
			out.data + FRAME_SIZE, &back, &headers, &err),
		    SVC_OK);
		assert_int_equal(back.status, part.status);
		assert_string_equal(back.status_text, "so");
		struct svc_part known = PART_NONE;
		assert_int_equal(part_decode_known(&memo, &frame,
				     out.data + FRAME_SIZE, &known),
		    i == 0);
		if (i == 0) {
			assert_int_equal(known.flags, back.flags);
			assert_ptr_equal(known.status_text, back.status_text);
			assert_ptr_equal(known.data, back.data);
			assert_int_equal(known.len, back.len);
			assert_null(known.content_type);
		}
		assert_null(back.content_type);
	}
	svc_buf_fini(&out);
}

static void
hellos_find_a_common_version(void **state)
{
	(void)state;
	const struct hello ours = {.version = FRAME_VERSION,
	    .oldest = FRAME_VERSION,
	    .max_message = 77,
	    .max_streams = 5,
	    .stream_window = 1000,
	    .conn_window = 5000,
	    .piece = 16384,
	    .features = 3};
	struct hello hello = ours, read;
	struct svc_error err;
	uint8_t bytes[HELLO_SIZE];
	hello_encode(&hello, bytes);
	assert_int_equal(hello_decode(bytes, &read, &err), SVC_OK);
	assert_int_equal(read.size, HELLO_SIZE);
	assert_int_equal(read.max_message, 77);
	assert_int_equal(read.max_streams, 5);
	assert_int_equal(read.stream_window, 1000);
	assert_int_equal(read.conn_window, 5000);
	assert_int_equal(read.piece, 16384);
	assert_int_equal(read.features, 3);
	hello.version = FRAME_VERSION + 3; /* newer, but it knows ours */
	hello_encode(&hello, bytes);
	bytes[6] = 0; /* and longer: 256 */
	bytes[7] = 1;
	assert_int_equal(hello_decode(bytes, &read, &err), SVC_OK);
	assert_int_equal(read.size, 256);
	hello.oldest = FRAME_VERSION + 1;
	hello_encode(&hello, bytes);
	assert_int_equal(hello_decode(bytes, &read, &err), SVC_E_UNIMPLEMENTED);
	static const uint8_t sizes[][2] = {
	    {0, 0}, {16, 0}, {31, 0}, {1, 4}, {255, 255}};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		hello_encode(&ours, bytes);
		memcpy(bytes + 6, sizes[i], 2);
		assert_int_equal(hello_decode(bytes, &read, &err), SVC_E_INVAL);
		assert_non_null(strstr(err.text, "32 to 1024 are allowed"));
	}
	for (int i = 0; i < 3; i++) {
		hello = ours;
		*(i == 0     ? &hello.stream_window
		    : i == 1 ? &hello.conn_window
			     : &hello.piece) = 255;
		hello_encode(&hello, bytes);
		assert_int_equal(hello_decode(bytes, &read, &err), SVC_E_INVAL);
		assert_non_null(
		    strstr(err.text, "at least 256, 256 and 16384"));
	}
	static const char http[HELLO_SIZE + 1] =
	    "GET / HTTP/1.1\r\nHost: student\r\n";
	memcpy(bytes, http, sizeof(bytes));
	assert_int_equal(hello_decode(bytes, &read, &err), SVC_E_INVAL);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(addresses_split),
	    cmocka_unit_test(parts_come_back_as_they_went),
	    cmocka_unit_test(a_deadline_that_has_passed_is_not_none),
	    cmocka_unit_test(trailers_come_with_the_end_alone),
	    cmocka_unit_test(a_head_has_at_most_256_headers),
	    cmocka_unit_test(packed_requests_are_sent_the_same),
	    cmocka_unit_test(known_heads_are_read_the_same),
	    cmocka_unit_test(hellos_find_a_common_version),
	};
	return cmocka_run_group_tests_name("transport", tests, NULL, NULL);
}
