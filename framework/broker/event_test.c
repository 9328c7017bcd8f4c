/* SPDX-License-Identifier: Apache-2.0 */
#include <support/scarce.h>
#include <svc/broker.h>
#include <svc/buf.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct svc_event_data
decoded(const char *json)
{
	struct svc_event_data event;
	struct svc_error err = {0};
	if (svc_event_decode(json, strlen(json), &event, &err) != SVC_OK)
		fail_msg("%s: %s", json, err.text);
	return event;
}

/* What go-micro writes for a client's publish. */
static const char go_micro[] =
    "{\"Header\":{\"Content-Type\":\"application/json\","
    "\"Micro-Id\":\"0a57a2b4-22b3-4d7a-a44b-9bb5fb1fd1a3\","
    "\"Micro-Topic\":\"greet\"},\"Body\":\"eyJuYW1lIjoiam9obiJ9Cg==\"}";

static void
as_go_micro_writes_it(void **state)
{
	(void)state;
	struct svc_headers *headers = svc_headers_create();
	/* not in the order in which Go writes a map */
	svc_headers_set(headers, "Micro-Topic", "greet");
	svc_headers_set(headers, "content-type", "text/plain");
	svc_headers_set(
	    headers, "Micro-Id", "0a57a2b4-22b3-4d7a-a44b-9bb5fb1fd1a3");
	struct svc_message message = {
	    "application/json", "{\"name\":\"john\"}\n", 16, headers};
	char *json = NULL;
	size_t len = 0;
	assert_int_equal(svc_event_encode(&message, &json, &len), SVC_OK);
	assert_string_equal(json, go_micro);
	assert_int_equal(len, sizeof(go_micro) - 1);
	svc_mem_free(json);
	svc_headers_destroy(headers);
}

static void
reads_what_go_micro_writes(void **state)
{
	(void)state;
	struct svc_event_data event = decoded(go_micro);
	assert_string_equal(event.message.content_type, "application/json");
	assert_int_equal(event.message.len, 16);
	assert_memory_equal(event.message.data, "{\"name\":\"john\"}\n", 16);
	assert_string_equal(
	    svc_headers_get(event.message.headers, "Micro-Topic"), "greet");
	assert_null(svc_headers_get(event.message.headers, "Content-Type"));
	assert_int_equal(svc_headers_count(event.message.headers), 2);
	svc_event_data_fini(&event);
	assert_null(event.storage);
	svc_event_data_fini(&event);
}

static void
reads_leniently(void **state)
{
	(void)state;
	struct {
		const char *json;
		const char *body;
		const char *type;
		size_t headers;
	} cases[] = {
	    {"{\"Header\":null,\"Body\":null}", "", NULL, 0},
	    {"{\"Body\":\"\"}", "", NULL, 0},
	    {" {\"header\":{\"a\":\"b\"},\"BODY\":\"aGk=\"}\r\n", "hi", NULL,
		1},
	    {"{\"body\":\"aGkh\",\"x\":[{}],\"Header\":{}}", "hi!", NULL, 0},
	    {"{\"Body\":\"aA==\"}", "h", NULL, 0},
	    {"{\"Body\":\"a\\nA\\r\\n==\"}", "h", NULL, 0},
	    {"{\"Body\":\"aA==\",\"body\":\"aGk=\"}", "hi", NULL, 0},
	    {"{\"Header\":{\"content-type\":\"a/b\",\"n\":null}}", "", "a/b",
		1},
	    {"{\"Header\":{\"content-type\":\"a/b\\u0007\",\"c\":\"d\"}}", "",
		NULL, 1},
	    /* cannot be headers of ours; the event counts all the same */
	    {"{\"Header\":{\"a b\":\"c\",\"d\":\"e\\nf\",\"\":\"g\",\"h\":"
	     "\"i\"}}",
		"", NULL, 1},
	    {"{\"Header\":{\"Micro-ID\":\"1\",\"Micro-Id\":\"2\"}}", "", NULL,
		1},
	    {"{\"Header\":{\"t\":\"\\u003ca\\u003e\"}}", "", NULL, 1},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct svc_event_data event = decoded(cases[i].json);
		assert_int_equal(event.message.len, strlen(cases[i].body));
		assert_memory_equal(
		    event.message.data, cases[i].body, event.message.len);
		if (cases[i].type == NULL)
			assert_null(event.message.content_type);
		else
			assert_string_equal(
			    event.message.content_type, cases[i].type);
		assert_int_equal(
		    svc_headers_count(event.message.headers), cases[i].headers);
		svc_event_data_fini(&event);
	}
}

static void
refuses_what_is_something_else(void **state)
{
	(void)state;
	const char *cases[] = {
	    "",
	    "hello",
	    "42",
	    "[]",
	    "null",
	    "{}",
	    "{\"temperature\":21}",
	    "{\"Body\":\"aGk=\"",
	    "{\"Body\":\"aGk=\"} x",
	    "{\"Body\":\"aGk=\"}{\"Body\":\"aGk=\"}",
	    "{\"Body\":1}",
	    "{\"Body\":[1,2]}",
	    "{\"Body\":\"a\"}",
	    "{\"Body\":\"aG\"}",
	    "{\"Body\":\"aGk\"}",
	    "{\"Body\":\"=aGk\"}",
	    "{\"Body\":\"a===\"}",
	    "{\"Body\":\"aGk=aGk=\"}",
	    "{\"Body\":\"aGk==\"}",
	    "{\"Body\":\"====\"}",
	    "{\"Body\":\"aG-_\"}",
	    "{\"Header\":[],\"Body\":\"\"}",
	    "{\"Header\":\"x\",\"Body\":\"\"}",
	    "{\"Header\":{\"a\":1},\"Body\":\"\"}",
	    "{\"Header\":{\"a\":{}},\"Body\":\"\"}",
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct svc_event_data event;
		struct svc_error err = {0};
		svc_err rc =
		    svc_event_decode(cases[i], strlen(cases[i]), &event, &err);
		if (rc != SVC_E_INVAL)
			fail_msg("%s was read", cases[i]);
		assert_non_null(strstr(err.text, "vent"));
		assert_int_equal(
		    svc_event_decode(cases[i], strlen(cases[i]), &event, NULL),
		    SVC_E_INVAL);
	}
	/* A zero byte and what follows it belong to the payload. */
	struct svc_event_data event;
	assert_int_equal(
	    svc_event_decode("{\"Body\":\"\"}\0x", 13, &event, NULL),
	    SVC_E_INVAL);
}

static void
has_limits(void **state)
{
	(void)state;
	for (int n = 256; n <= 257; n++) {
		struct svc_buf json;
		svc_buf_init(&json, 300 * 24 + 64);
		svc_buf_puts(&json, "{\"Header\":{");
		for (int i = 0; i < n; i++)
			svc_buf_printf(&json, "%s\"name-%d\":\"%d\"",
			    i > 0 ? "," : "", i, i);
		svc_buf_puts(&json, "}}");
		assert_int_equal(json.failed, SVC_OK);
		struct svc_event_data event;
		struct svc_error err = {0};
		svc_err rc =
		    svc_event_decode(json.data, json.len, &event, &err);
		assert_int_equal(rc, n == 256 ? SVC_OK : SVC_E_INVAL);
		if (rc == SVC_OK)
			svc_event_data_fini(&event);
		else
			assert_non_null(strstr(err.text, "256"));
		svc_buf_fini(&json);
	}
	/* Deep nesting is refused, not followed until the stack ends. */
	size_t deep = 100000;
	char *json = malloc(deep);
	assert_non_null(json);
	memset(json, '[', deep);
	struct svc_event_data event;
	assert_int_equal(
	    svc_event_decode(json, deep, &event, NULL), SVC_E_INVAL);
	free(json);
}

static void
comes_back_as_it_went(void **state)
{
	(void)state;
	unsigned char bytes[300];
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)(i * 31);
	struct svc_headers *headers = svc_headers_create();
	svc_headers_set(headers, "Quote", "\"\\/\t\xc3\xbc<&>");
	for (size_t len = 0; len < sizeof(bytes); len++) {
		struct svc_message message = {
		    len % 2 ? "a/b" : NULL, bytes, len, headers};
		char *json;
		size_t json_len;
		assert_int_equal(
		    svc_event_encode(&message, &json, &json_len), SVC_OK);
		struct svc_event_data event;
		assert_int_equal(
		    svc_event_decode(json, json_len, &event, NULL), SVC_OK);
		assert_int_equal(event.message.len, len);
		assert_memory_equal(event.message.data, bytes, len);
		assert_true(svc_headers_equal(event.message.headers, headers));
		assert_int_equal(event.message.content_type != NULL, len % 2);
		svc_event_data_fini(&event);
		svc_mem_free(json);
	}
	svc_headers_destroy(headers);
}

static void
survives_lack_of_memory(void **state)
{
	(void)state;
	bool whole = false;
	for (long n = 0; !whole; n++) {
		scarce_begin();
		scarce_at(n);
		struct svc_event_data event;
		svc_err rc = svc_event_decode(
		    go_micro, sizeof(go_micro) - 1, &event, NULL);
		bool hit = scarce_hit();
		char *json = NULL;
		if (rc == SVC_OK) {
			scarce_at(n);
			svc_err rc2 =
			    svc_event_encode(&event.message, &json, NULL);
			hit |= scarce_hit();
			if (rc2 != SVC_OK)
				assert_int_equal(rc2, SVC_E_NOMEM);
			whole = rc2 == SVC_OK && !hit;
		} else {
			assert_int_equal(rc, SVC_E_NOMEM);
		}
		scarce_end();
		svc_mem_free(json);
		if (rc == SVC_OK)
			svc_event_data_fini(&event);
		assert_true(n < 1000);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(as_go_micro_writes_it),
	    cmocka_unit_test(reads_what_go_micro_writes),
	    cmocka_unit_test(reads_leniently),
	    cmocka_unit_test(refuses_what_is_something_else),
	    cmocka_unit_test(has_limits),
	    cmocka_unit_test(comes_back_as_it_went),
	    cmocka_unit_test(survives_lack_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
