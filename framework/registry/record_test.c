/* SPDX-License-Identifier: Apache-2.0 */
/* Records, their JSON and the checks of them. */
#include <conformance/registry.h>
#include <support/scarce.h>

#include <svc/buf.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ------------------------------------------------------------------ JSON */

/* As go-micro up to 4.10 writes it, and as later ones do. */
static const char student_old[] =
    "{\"name\":\"student\",\"version\":\"1.0.0\",\"metadata\":null,"
    "\"endpoints\":[{\"name\":\"Student.Get\",\"request\":{\"name\":"
    "\"GetRequest\",\"type\":\"GetRequest\",\"values\":[{\"name\":\"id\","
    "\"type\":\"string\",\"values\":null}]},\"response\":{\"name\":"
    "\"GetResponse\",\"type\":\"GetResponse\",\"values\":[{\"name\":\"name\","
    "\"type\":\"string\",\"values\":null}]},\"metadata\":{}}],\"nodes\":[{"
    "\"id\":\"student-7c9e6679-7425-40de-944b-e07fc1f90ae7\",\"address\":"
    "\"127.0.0.1:8080\",\"metadata\":{\"broker\":\"http\",\"protocol\":"
    "\"mucp\",\"registry\":\"etcd\",\"server\":\"mucp\",\"transport\":"
    "\"http\"}}]}";
static const char student_new[] =
    "{\"name\":\"student\",\"version\":\"1.0.0\",\"metadata\":null,"
    "\"endpoints\":[{\"request\":{\"name\":\"GetRequest\",\"type\":"
    "\"GetRequest\",\"values\":[{\"name\":\"id\",\"type\":\"string\","
    "\"values\":null}]},\"response\":{\"name\":\"GetResponse\",\"type\":"
    "\"GetResponse\",\"values\":[{\"name\":\"name\",\"type\":\"string\","
    "\"values\":null}]},\"metadata\":{},\"name\":\"Student.Get\"}],\"nodes\":"
    "[{\"metadata\":{\"broker\":\"http\",\"protocol\":\"mucp\",\"registry\":"
    "\"etcd\",\"server\":\"mucp\",\"transport\":\"http\"},\"id\":"
    "\"student-7c9e6679-7425-40de-944b-e07fc1f90ae7\",\"address\":"
    "\"127.0.0.1:8080\"}]}";

static struct svc_record *
decode(const char *text)
{
	struct svc_record *record = NULL;
	struct svc_error err = {0};
	svc_err rc = svc_record_decode(text, strlen(text), &record, &err);
	if (rc != SVC_OK)
		fail_msg("%s: %s", text, err.text);
	return record;
}

static void
student(struct svc_headers *metadata, struct svc_headers *empty,
    void (*then)(const struct svc_record *record))
{
	const struct svc_value id = {.name = "id", .type = "string"};
	const struct svc_value name = {.name = "name", .type = "string"};
	const struct svc_value request = {"GetRequest", "GetRequest", &id, 1};
	const struct svc_value response = {
	    "GetResponse", "GetResponse", &name, 1};
	const struct svc_endpoint endpoint = {
	    "Student.Get", &request, &response, empty};
	const struct svc_node node = {
	    "student-7c9e6679-7425-40de-944b-e07fc1f90ae7", "127.0.0.1:8080",
	    metadata};
	const struct svc_record record = {
	    .name = "student",
	    .version = "1.0.0",
	    .endpoints = &endpoint,
	    .n_endpoints = 1,
	    .nodes = &node,
	    .n_nodes = 1,
	};
	then(&record);
}

static void
check_student(const struct svc_record *record)
{
	char *text = svc_record_encode(record);
	assert_non_null(text);
	assert_string_equal(text, student_old);
	svc_mem_free(text);
	struct svc_record *old = decode(student_old);
	struct svc_record *new = decode(student_new);
	assert_true(svc_record_equal(record, old));
	assert_true(svc_record_equal(record, new));
	text = svc_record_encode(new);
	assert_string_equal(text, student_old);
	svc_mem_free(text);
	struct svc_record *copy = svc_record_copy(old);
	svc_record_destroy(old);
	svc_record_destroy(new);
	assert_true(svc_record_equal(record, copy));
	/* What is null stays null in a copy, what is empty stays empty. */
	assert_null(copy->metadata);
	assert_non_null(copy->endpoints[0].metadata);
	svc_record_destroy(copy);
}

static void
records_are_written_as_go_micro_does(void **state)
{
	(void)state;
	struct svc_headers *metadata = svc_headers_create();
	struct svc_headers *empty = svc_headers_create();
	/* In no order: maps are written sorted. */
	svc_headers_set(metadata, "transport", "http");
	svc_headers_set(metadata, "protocol", "mucp");
	svc_headers_set(metadata, "server", "mucp");
	svc_headers_set(metadata, "broker", "http");
	svc_headers_set(metadata, "registry", "etcd");
	student(metadata, empty, check_student);
	svc_headers_destroy(metadata);
	svc_headers_destroy(empty);
}

static void
reading_is_lenient(void **state)
{
	(void)state;
	struct svc_record *r = decode(" { \"NAME\" : \"a\", \"x\":[1,{}],"
				      "\"Nodes\":[{\"Id\":\"n\",\"address\":"
				      "\"h\",\"port\":80,\"metadata\":{\"k\":"
				      "null,\"a b\":\"no\",\"u\":\"\\u003c\"}}"
				      "],\"endpoints\":null} \n");
	assert_string_equal(r->name, "a");
	assert_string_equal(r->version, "");
	assert_int_equal(r->n_endpoints, 0);
	assert_string_equal(r->nodes[0].id, "n");
	assert_string_equal(r->nodes[0].address, "h:80");
	assert_string_equal(svc_headers_get(r->nodes[0].metadata, "k"), "");
	assert_string_equal(svc_headers_get(r->nodes[0].metadata, "u"), "<");
	assert_int_equal(svc_headers_count(r->nodes[0].metadata), 2);
	svc_record_destroy(r);

	static const char *const ports[][2] = {
	    {"\"h:1\",\"port\":2", "h:1"},
	    {"\"::1\",\"port\":2", "[::1]:2"},
	    {"\"[::1]\",\"port\":2", "[::1]:2"},
	    {"\"[::1]:3\",\"port\":2", "[::1]:3"},
	    {"\"h\",\"port\":0", "h"},
	    {"\"h\",\"port\":70000", "h"},
	};
	for (size_t i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		char text[128];
		snprintf(text, sizeof(text), "{\"nodes\":[{\"address\":%s}]}",
		    ports[i][0]);
		r = decode(text);
		assert_string_equal(r->nodes[0].address, ports[i][1]);
		svc_record_destroy(r);
	}

	/* What is no text becomes U+FFFD: NUL, half a surrogate pair, bytes
	 * that are not UTF-8. */
	r = decode("{\"name\":\"a\\u0000b\\ud800c\xff\xed\xa0\x80"
		   "\xc3\xb6\\ud83d\\ude00\"}");
	assert_string_equal(r->name,
	    "a\xef\xbf\xbd"
	    "b\xef\xbf\xbd"
	    "c\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
	    "\xc3\xb6\xf0\x9f\x98\x80");
	svc_record_destroy(r);

	/* Deeper values only describe. */
	r = decode("{\"endpoints\":[{\"name\":\"e\",\"request\":{\"values\":[{"
		   "\"values\":[{\"values\":[{\"values\":[{\"name\":\"5\"}]}]}"
		   "]}]}}]}");
	const struct svc_value *value = r->endpoints[0].request;
	for (int depth = 1; depth < 4; depth++) {
		assert_int_equal(value->n_values, 1);
		value = &value->values[0];
	}
	assert_int_equal(value->n_values, 0);
	svc_record_destroy(r);
}

static void
bad_records_are_refused(void **state)
{
	(void)state;
	static const char *const texts[] = {"", "null", "[]", "{", "{} x",
	    "{\"name\":1}", "{\"nodes\":{}}", "{\"nodes\":[1]}",
	    "{\"nodes\":[null]}", "{\"metadata\":[]}",
	    "{\"metadata\":{\"a\":1}}", "{\"endpoints\":[{\"request\":[]}]}"};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct svc_record *record = NULL;
		struct svc_error err = {0};
		assert_int_equal(svc_record_decode(
				     texts[i], strlen(texts[i]), &record, &err),
		    SVC_E_INVAL);
		assert_null(record);
		assert_int_not_equal(strlen(err.text), 0);
	}
	/* Limits: nesting, size, counts. */
	struct svc_buf buf;
	struct svc_record *record = NULL;
	svc_buf_init(&buf, 4 << 20);
	svc_buf_puts(&buf, "{\"x\":");
	for (int i = 0; i < 100; i++)
		svc_buf_putc(&buf, '[');
	assert_int_equal(
	    svc_record_decode(buf.data, buf.len, &record, NULL), SVC_E_INVAL);
	svc_buf_clear(&buf);
	svc_buf_puts(&buf, "{\"nodes\":[{}");
	for (int i = 1; i < 1000; i++)
		svc_buf_puts(&buf, ",{}");
	svc_buf_puts(&buf, "]}");
	assert_int_equal(
	    svc_record_decode(buf.data, buf.len, &record, NULL), SVC_OK);
	assert_int_equal(record->n_nodes, 1000);
	svc_record_destroy(record);
	record = NULL;
	buf.len -= 2;
	svc_buf_puts(&buf, ",{}]}");
	assert_int_equal(
	    svc_record_decode(buf.data, buf.len, &record, NULL), SVC_E_INVAL);
	svc_buf_clear(&buf);
	svc_buf_puts(&buf, "{\"name\":\"");
	while (buf.len <= 1 << 20)
		svc_buf_puts(&buf, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
	svc_buf_puts(&buf, "\"}");
	assert_int_equal(
	    svc_record_decode(buf.data, buf.len, &record, NULL), SVC_E_INVAL);
	assert_null(record);
	svc_buf_fini(&buf);
}

static void
endpoints_go_alone_too(void **state)
{
	(void)state;
	const struct svc_endpoint endpoint = {.name = "A.B"};
	struct svc_record *record = NULL;
	char *text = svc_endpoint_encode(&endpoint);
	assert_string_equal(text, "{\"name\":\"A.B\",\"request\":null,"
				  "\"response\":null,\"metadata\":{}}");
	assert_int_equal(
	    svc_endpoint_decode(text, strlen(text), &record, NULL), SVC_OK);
	assert_int_equal(record->n_endpoints, 1);
	assert_string_equal(record->endpoints[0].name, "A.B");
	assert_int_equal(record->n_nodes, 0);
	svc_record_destroy(record);
	svc_mem_free(text);
	assert_int_equal(
	    svc_endpoint_decode("[]", 2, &record, NULL), SVC_E_INVAL);
}

static void
metadata_goes_alone_too(void **state)
{
	(void)state;
	static const char *const bad[] = {"", "[]", "{\"a\":1}",
	    "{\"a\":[\"b\"]}", "{\"a\":\"b\"", "\"a\"", "{\"a\":\"b\"}x"};
	struct svc_headers *into = svc_headers_create();
	struct svc_error err = {0};
	static const char good[] =
	    "{\"zone\":\"\\u003ca\\u003e\",\"none\":null,"
	    "\"no name\":\"x\"}";
	assert_non_null(into);
	svc_headers_set(into, "zone", "b");
	svc_headers_set(into, "kept", "yes");
	assert_int_equal(
	    svc_metadata_decode(good, sizeof(good) - 1, into, &err), SVC_OK);
	assert_string_equal(svc_headers_get(into, "zone"), "<a>");
	assert_string_equal(svc_headers_get(into, "none"), "");
	assert_string_equal(svc_headers_get(into, "kept"), "yes");
	assert_int_equal(svc_headers_count(into), 3);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(
		    svc_metadata_decode(bad[i], strlen(bad[i]), into, &err),
		    SVC_E_INVAL);
		assert_true(err.text[0] != '\0');
	}
	svc_headers_destroy(into);
}

static void
equality_looks_at_everything(void **state)
{
	(void)state;
	static const char *const others[] = {
	    "{\"name\":\"b\",\"version\":\"1\",\"nodes\":[{\"id\":\"n\"}]}",
	    "{\"name\":\"a\",\"version\":\"2\",\"nodes\":[{\"id\":\"n\"}]}",
	    "{\"name\":\"a\",\"version\":\"1\",\"nodes\":[{\"id\":\"m\"}]}",
	    "{\"name\":\"a\",\"version\":\"1\",\"nodes\":[]}",
	    "{\"name\":\"a\",\"version\":\"1\",\"nodes\":[{\"id\":\"n\","
	    "\"address\":\"h\"}]}",
	    "{\"name\":\"a\",\"version\":\"1\",\"nodes\":[{\"id\":\"n\","
	    "\"metadata\":{\"k\":\"v\"}}]}",
	    "{\"name\":\"a\",\"version\":\"1\",\"nodes\":[{\"id\":\"n\"}],"
	    "\"metadata\":{\"k\":\"v\"}}",
	    "{\"name\":\"a\",\"version\":\"1\",\"nodes\":[{\"id\":\"n\"}],"
	    "\"endpoints\":[{\"name\":\"e\"}]}",
	};
	struct svc_record *one = decode(
	    "{\"name\":\"a\",\"version\":\"1\",\"nodes\":[{\"id\":\"n\"}]}");
	assert_true(svc_record_equal(one, one));
	assert_false(svc_record_equal(one, NULL));
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		struct svc_record *other = decode(others[i]);
		assert_false(svc_record_equal(one, other));
		assert_false(svc_record_equal(other, one));
		svc_record_destroy(other);
	}
	svc_record_destroy(one);
}

/* --------------------------------------------------------------- checks */

static void
checks_name_what_is_wrong(void **state)
{
	(void)state;
	struct svc_error err = {0};
	struct sample a;
	char text[300];
	sample_init(&a, "student", "1", "student-1", 1);
	assert_int_equal(svc_record_check(&a.record, &err), SVC_OK);
	a.node.address = "unix:/run/a.sock";
	assert_int_equal(svc_record_check(&a.record, &err), SVC_OK);

	assert_int_equal(svc_service_name_check("a/b", &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "\"a/b\""));
	assert_non_null(strstr(err.text, "position 2"));
	memset(text, 'a', sizeof(text));
	text[128] = '\0';
	assert_int_equal(svc_service_name_check(text, &err), SVC_OK);
	text[128] = 'a';
	text[129] = '\0';
	assert_int_equal(svc_service_name_check(text, &err), SVC_E_INVAL);
	assert_int_equal(svc_service_name_check(NULL, &err), SVC_E_INVAL);

	a.record.version = "1 0";
	assert_int_equal(svc_record_check(&a.record, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "version"));
	a.record.version = NULL;
	assert_int_equal(svc_record_check(&a.record, &err), SVC_E_INVAL);
	a.record.version = "1";
	a.node.id = "..";
	assert_int_equal(svc_record_check(&a.record, &err), SVC_E_INVAL);
	a.node.id = "a\x7f";
	assert_int_equal(svc_record_check(&a.record, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "node id"));
	a.node.id = "a";
	a.node.address = "a b";
	assert_int_equal(svc_record_check(&a.record, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "address"));
	sample_fini(&a);
}

/* ------------------------------------------------------ allocation sweep */

static void
one_run(void)
{
	struct svc_record *record = NULL, *copy;
	struct svc_error err = {0};
	svc_err rc =
	    svc_record_decode(student_new, strlen(student_new), &record, &err);
	if (rc != SVC_OK) {
		assert_int_equal(rc, SVC_E_NOMEM);
		assert_null(record);
		return;
	}
	copy = svc_record_copy(record);
	if (copy != NULL)
		assert_true(svc_record_equal(copy, record));
	svc_record_destroy(copy);
	svc_mem_free(svc_record_encode(record));
	svc_record_destroy(record);
}

static void
no_memory_is_no_harm(void **state)
{
	(void)state;
	bool hit = true;
	long n = 0;
	scarce_begin();
	for (; hit; n++) {
		scarce_at(n);
		one_run();
		hit = scarce_hit();
	}
	scarce_end();
	assert_true(n > 10);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(records_are_written_as_go_micro_does),
	    cmocka_unit_test(reading_is_lenient),
	    cmocka_unit_test(bad_records_are_refused),
	    cmocka_unit_test(endpoints_go_alone_too),
	    cmocka_unit_test(metadata_goes_alone_too),
	    cmocka_unit_test(equality_looks_at_everything),
	    cmocka_unit_test(checks_name_what_is_wrong),
	    cmocka_unit_test(no_memory_is_no_harm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
