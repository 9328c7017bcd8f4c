/* SPDX-License-Identifier: Apache-2.0 */
/* What a file of services may hold, and what is said of one that is wrong. */
#include "file.h"
#include "tree.h"

#include <svc/buf.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct file_nodes *
reads(const char *text, unsigned count)
{
	struct file_nodes *nodes = NULL;
	struct svc_error err = {0};
	if (file_read("nodes", text, strlen(text), &nodes, &err) != SVC_OK)
		fail_msg("%s: %s", text, err.text);
	assert_int_equal(HASH_COUNT(nodes->table), count);
	return nodes;
}

static const struct svc_record *
node(const struct file_nodes *nodes, const char *service, const char *id)
{
	char key[256];
	struct file_node *found;
	size_t len = strlen(service) + 1 + strlen(id);
	snprintf(key, sizeof(key), "%s%c%s", service, 0, id);
	HASH_FIND(hh, nodes->table, key, len, found);
	if (found == NULL)
		fail_msg("no node %s of %s", id, service);
	return found->record;
}

static void
a_map_of_addresses_is_enough(void **state)
{
	(void)state;
	struct file_nodes *nodes = reads("# seeds\n"
					 "student: [10.0.0.1:80, '[::1]:80']\n"
					 "teacher: unix:/run/teacher\n"
					 "office:\n"
					 "nobody: []\n",
	    3);
	const struct svc_record *record =
	    node(nodes, "student", "student-10.0.0.1:80");
	assert_string_equal(record->version, "latest");
	assert_string_equal(record->nodes[0].address, "10.0.0.1:80");
	assert_int_equal(record->n_endpoints, 0);
	node(nodes, "student", "student-[::1]:80");
	/* A slash is not allowed in an id. */
	record = node(nodes, "teacher", "teacher-unix:-run-teacher");
	assert_string_equal(record->nodes[0].address, "unix:/run/teacher");
	file_free(nodes);
	file_free(reads("{}", 0));
	file_free(reads("[]", 0));
}

static void
a_list_has_whole_services(void **state)
{
	(void)state;
	struct file_nodes *nodes =
	    reads("- name: student\n"
		  "  version: 1.0\n"
		  "  metadata: {team: red}\n"
		  "  endpoints:\n"
		  "  - name: Student.Get\n"
		  "    request: {name: Get, type: Get,\n"
		  "              values: [{name: id, type: string}]}\n"
		  "    metadata: {idempotent: true}\n"
		  "  nodes:\n"
		  "  - {id: s1, address: a:1, metadata: {weight: 3, empty: }}\n"
		  "  - b:2\n"
		  "- {name: student, version: '2.0', nodes: [c:3]}\n",
		3);
	const struct svc_record *record = node(nodes, "student", "s1");
	assert_string_equal(record->version, "1.0");
	assert_string_equal(svc_headers_get(record->metadata, "team"), "red");
	assert_int_equal(record->n_endpoints, 1);
	assert_string_equal(record->endpoints[0].name, "Student.Get");
	assert_string_equal(
	    record->endpoints[0].request->values[0].type, "string");
	assert_null(record->endpoints[0].response);
	assert_string_equal(
	    svc_headers_get(record->endpoints[0].metadata, "idempotent"),
	    "true");
	assert_string_equal(
	    svc_headers_get(record->nodes[0].metadata, "weight"), "3");
	assert_string_equal(
	    svc_headers_get(record->nodes[0].metadata, "empty"), "");
	record = node(nodes, "student", "student-b:2");
	assert_int_equal(record->n_endpoints, 1);
	record = node(nodes, "student", "student-c:3");
	assert_string_equal(record->version, "2.0");
	file_free(nodes);
}

static void
what_go_micro_writes_is_read(void **state)
{
	(void)state;
	static const char json[] =
	    "{\"name\":\"student\",\"version\":\"1.0.0\",\"metadata\":null,"
	    "\"endpoints\":[{\"request\":null,\"response\":null,\"metadata\":{}"
	    ",\"name\":\"Student.Get\"}],\"nodes\":[{\"metadata\":{"
	    "\"protocol\":\"mucp\"},\"id\":\"student-1\",\"address\":"
	    "\"127.0.0.1:8080\"}]}";
	char list[512];
	struct svc_record *same = NULL;
	assert_int_equal(
	    svc_record_decode(json, strlen(json), &same, NULL), SVC_OK);
	snprintf(list, sizeof(list), "[%s]", json);
	const char *const forms[] = {json, list};
	for (size_t i = 0; i < 2; i++) {
		struct file_nodes *nodes = reads(forms[i], 1);
		assert_true(svc_record_equal(
		    node(nodes, "student", "student-1"), same));
		file_free(nodes);
	}
	svc_record_destroy(same);
}

static void
what_is_wrong_is_named_with_its_line(void **state)
{
	(void)state;
	static const struct {
		const char *text, *says;
	} cases[] = {
	    {"", "nodes line 1: there is nothing in it: {} would say"},
	    {"# nothing\n", "there is nothing in it"},
	    {"student", "nodes line 1: it must be a map"},
	    {"a: x:1\n\nb: [x]\n", "nodes line 3: address \"x\" has no port"},
	    {"a: x:1\nb: [y:1, x:99999]\n",
		"nodes line 2: address \"x:99999\" has "
		"no port from 1 to 65535"},
	    {"a: x:0", "has no port from 1 to 65535"},
	    {"a: \"x:\"", "has no port from 1 to 65535"},
	    {"a: x:8o", "has no port from 1 to 65535"},
	    {"a: \":1\"", "address \":1\" has no host"},
	    {"a: \"fd00::1:80\"", "lacks the brackets of an IPv6 address"},
	    {"a: [\"x y:1\"]", "nodes line 1: address \"x y:1\" has a "
			       "character that is not allowed"},
	    {"a:\n- x:1\n- y:1\n- x:1\n",
		"nodes line 4: service a has node \"a-x:1\" already, in line "
		"2"},
	    {"a: x:1\nb: y:1\na: z:1\n",
		"nodes line 3: \"a\" is there again, first in line 1"},
	    {"a b: x:1", "nodes line 1: service name \"a b\" has a character"},
	    {"a:\n  nods: [x:1]\n",
		"nodes line 2: unknown key \"nods\": a service has name, "
		"version, metadata, endpoints and nodes"},
	    {"a:\n  nodes:\n  - {address: x:1, weight: 3}\n",
		"nodes line 3: unknown key \"weight\": a node has id, address "
		"and metadata"},
	    {"a:\n- {id: a1}\n", "nodes line 2: a node needs an address"},
	    {"a:\n- {id: a/1, address: x:1}\n", "nodes line 2: node id"},
	    {"a:\n- {id: [], address: x:1}\n",
		"nodes line 2: \"id\" must be a text"},
	    {"a:\n- address: x:1\n  metadata:\n    b c: d\n",
		"nodes line 4: \"b c\" is not possible as metadata"},
	    {"a:\n- address: x:1\n  metadata: {b: 1, B: 2}\n",
		"nodes line 3: \"B\" is there already"},
	    {"a:\n- address: x:1\n  metadata: [b]\n",
		"nodes line 3: \"metadata\" must be a map of texts"},
	    {"- version: 1\n  nodes: [x:1]\n", "nodes line 1: the service name "
					       "is empty"},
	    {"- {name: a, version: 'a/b'}\n", "nodes line 1: version"},
	    {"- a\n", "nodes line 1: a service must be a map"},
	    {"- name: a\n  endpoints: [{}]\n",
		"nodes line 2: an endpoint needs a name"},
	    {"- name: a\n  endpoints: [{name: b, request: c}]\n",
		"nodes line 2: a value must be a map"},
	    {"a: {nodes: {b: c}}", "the nodes of a service must be a list"},
	    {"a: &b [x:1]\nc: *b\n", "nodes line 2: aliases"},
	    {"a: x:1\n---\nb: x:1\n", "there is a second document"},
	    {"a: [x:1\n", "nodes line 2: did not find expected"},
	    {"a: \"\\0\"", "nodes line 1: a text holds a zero byte"},
	    {"? [a]\n: b", "nodes line 1: a key must be a text"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct file_nodes *nodes = NULL;
		struct svc_error err = {0};
		svc_err rc = file_read("nodes", cases[i].text,
		    strlen(cases[i].text), &nodes, &err);
		if (rc != SVC_E_INVAL || nodes != NULL ||
		    strstr(err.text, cases[i].says) == NULL)
			fail_msg("%s: %s", cases[i].text, err.text);
	}
}

static void
limits_hold(void **state)
{
	(void)state;
	char deep[64], values[512];
	struct file_nodes *nodes = NULL;
	struct svc_error err = {0};
	memset(deep, '[', 20);
	memset(deep + 20, ']', 20);
	assert_int_equal(
	    file_read("nodes", deep, 40, &nodes, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "nested more than 16 deep"));
	snprintf(values, sizeof(values),
	    "- {name: a, endpoints: [{name: b, request: {values: [{values: "
	    "[{values: [{values: [{name: x}]}]}]}]}}]}");
	assert_int_equal(
	    file_read("nodes", values, strlen(values), &nodes, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text, "nested more than 4 deep"));
	/* An id that does not fit has to be given. */
	struct svc_buf buf;
	svc_buf_init(&buf, 1 << 20);
	svc_buf_puts(&buf, "a: ");
	for (int i = 0; i < 200; i++)
		svc_buf_putc(&buf, 'x');
	svc_buf_puts(&buf, ":1");
	assert_int_equal(
	    file_read("nodes", buf.data, buf.len, &nodes, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "node id"));
	svc_buf_fini(&buf);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_map_of_addresses_is_enough),
	    cmocka_unit_test(a_list_has_whole_services),
	    cmocka_unit_test(what_go_micro_writes_is_read),
	    cmocka_unit_test(what_is_wrong_is_named_with_its_line),
	    cmocka_unit_test(limits_hold),
	};
	return cmocka_run_group_tests_name("static file", tests, NULL, NULL);
}
