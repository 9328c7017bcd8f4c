/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_found.h"
#include "mdns_node.h"
#include "mdns_txt.h"

#include <support/scarce.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ID "student-7c9e6679-7425-40de-944b-e07fc1f90ae7"

/* What go-micro puts on the wire for one node: the JSON and the compressed
 * form in both orders of its keys. */
static const char go_json[] =
    "{\"Service\":\"student\",\"Version\":\"1.0.0\",\"Endpoints\":null,"
    "\"Metadata\":{\"broker\":\"http\",\"protocol\":\"mucp\","
    "\"registry\":\"mdns\",\"server\":\"mucp\",\"transport\":\"http\"}}";
static const char go_txt[] =
    "\xf8"
    "789c35cd310bc2400c86e1ff92b994badeeee824b89fbda0876772245f0529fdefa6a2"
    "ebc39b2f2b9dd95e75664ae4580a0b68a00b9b5795b0c3388d53c8514ad72a704ab2b4"
    "36d089914b46a6b4d2d5f4c116f51de8117753e8ac2de4b9ccbb18dfaac3debb14f110"
    "8fb7df9b5f01cbe25d0dff996dfb00c88d343a";
static const char go_txt_newer[] =
    "\xf6"
    "789c35ccb10ec2300c84e177f15c5565cdcec884c41e1a0b22821dd9572454f5dd7111"
    "ac9ffebb954e8c5c3232a595aea60f364a74073a0dd44da1b3b690e732ef627cab0e7b"
    "ef52c4439cedf5ddfc0a5816ef6af8df6c039da3a933873896c282e82e6c5e55c20ee3"
    "344e2147295dabc029c9d2daf6012927343a";

static struct svc_headers *
pairs(const char *const *names)
{
	struct svc_headers *headers = svc_headers_create();
	assert_non_null(headers);
	for (; *names != NULL; names += 2)
		assert_int_equal(
		    svc_headers_set(headers, names[0], names[1]), SVC_OK);
	return headers;
}

static const char *const student_metadata[] = {"broker", "http", "protocol",
    "mucp", "registry", "mdns", "server", "mucp", "transport", "http", NULL};

/** A packet, and the one node that was found in it. */
struct caught {
	size_t nodes;
	size_t lists;
	struct mdns_found found;
	char instance[MDNS_NAME_SIZE];
	char owner[MDNS_NAME_SIZE];
	struct svc_record *record;
	struct svc_error err;
};

static void
catch_node(const struct mdns_found *found, void *arg)
{
	struct caught *caught = arg;
	caught->nodes++;
	caught->found = *found;
	snprintf(
	    caught->instance, sizeof(caught->instance), "%s", found->instance);
	svc_record_destroy(caught->record);
	caught->record = NULL;
	if (found->ttl > 0)
		mdns_found_decode(found, &caught->record, &caught->err);
}

static void
catch_list(const char *owner, void *arg)
{
	struct caught *caught = arg;
	caught->lists++;
	snprintf(caught->owner, sizeof(caught->owner), "%s", owner);
}

static const struct mdns_sink catcher = {
    .node = catch_node, .listed = catch_list};

static void
round_trip(const struct svc_record *record, struct caught *caught)
{
	struct mdns_node *node = NULL;
	struct mdns_writer writer;
	struct svc_error err = {.code = SVC_OK};
	memset(caught, 0, sizeof(*caught));
	svc_err rc = mdns_node_create(record, "host", &node, &err);
	if (rc != SVC_OK)
		fail_msg("%s", err.text);
	assert_int_equal(
	    mdns_go_response(node, MDNS_GO_NODE, 90, 0, NULL, &writer), SVC_OK);
	mdns_response_read(writer.data, writer.len, &catcher, caught);
	mdns_node_destroy(node);
}

static void
txt_is_what_go_micro_writes(void **state)
{
	(void)state;
	struct svc_buf txt, json;
	svc_buf_init(&txt, UINT16_MAX);
	svc_buf_init(&json, MDNS_TXT_MAX);
	assert_int_equal(
	    mdns_txt_encode(go_json, strlen(go_json), &txt), SVC_OK);
	assert_int_equal(txt.len, sizeof(go_txt) - 1);
	assert_memory_equal(txt.data, go_txt, txt.len);
	assert_int_equal(
	    mdns_txt_decode(go_txt, sizeof(go_txt) - 1, &json), SVC_OK);
	assert_string_equal((char *)json.data, go_json);
	svc_buf_fini(&txt);
	svc_buf_fini(&json);
}

static void
node_is_what_go_micro_writes(void **state)
{
	(void)state;
	struct svc_node nodes[] = {{.id = ID,
	    .address = "127.0.0.1:8080",
	    .metadata = pairs(student_metadata)}};
	struct svc_record record = {.name = "student",
	    .version = "1.0.0",
	    .nodes = nodes,
	    .n_nodes = 1};
	struct mdns_node *node = NULL;
	assert_int_equal(mdns_node_create(&record, "box", &node, NULL), SVC_OK);
	assert_string_equal(node->owner, "student.micro");
	assert_string_equal(node->instance, ID ".student.micro");
	assert_string_equal(node->list, "student._services.micro");
	assert_int_equal(node->port, 8080);
	assert_int_equal(node->txt.len, sizeof(go_txt) - 1);
	assert_memory_equal(node->txt.data, go_txt, node->txt.len);

	struct mdns_writer writer;
	struct mdns_question question = {
	    .type = MDNS_TYPE_PTR, .class = MDNS_CLASS_IN};
	snprintf(
	    question.name.text, sizeof(question.name.text), "student.micro");
	assert_int_equal(
	    mdns_go_response(node, MDNS_GO_NODE, 120, 7, &question, &writer),
	    SVC_OK);
	struct mdns_reader reader;
	struct mdns_question echoed;
	struct mdns_rr rr;
	static const uint16_t types[] = {
	    MDNS_TYPE_PTR, MDNS_TYPE_SRV, MDNS_TYPE_A, MDNS_TYPE_TXT};
	assert_true(mdns_read(&reader, writer.data, writer.len));
	assert_int_equal(reader.header.id, 7);
	assert_int_equal(reader.header.flags, 0x8400);
	assert_true(mdns_read_question(&reader, &echoed));
	assert_string_equal(echoed.name.text, "student.micro");
	assert_int_equal(echoed.type, MDNS_TYPE_PTR);
	for (size_t i = 0; i < 4; i++) {
		assert_true(mdns_read_record(&reader, &rr));
		assert_int_equal(rr.section, MDNS_ANSWER);
		assert_int_equal(rr.type, types[i]);
		assert_int_equal(rr.class, MDNS_CLASS_IN);
		assert_int_equal(rr.ttl, 120);
	}
	assert_false(mdns_read_record(&reader, &rr));
	assert_false(reader.bad);
	mdns_node_destroy(node);
	svc_headers_destroy(nodes[0].metadata);
}

static void
both_key_orders_are_read(void **state)
{
	(void)state;
	static const char *const texts[] = {go_txt, go_txt_newer};
	static const size_t lens[] = {
	    sizeof(go_txt) - 1, sizeof(go_txt_newer) - 1};
	struct svc_headers *metadata = pairs(student_metadata);
	for (size_t i = 0; i < 2; i++) {
		struct svc_record *record = NULL;
		struct mdns_found found = {.instance = ID ".student.micro",
		    .ttl = 120,
		    .address = "127.0.0.1:8080",
		    .txt = (const uint8_t *)texts[i],
		    .txt_len = lens[i]};
		assert_int_equal(
		    mdns_found_decode(&found, &record, NULL), SVC_OK);
		assert_string_equal(record->name, "student");
		assert_string_equal(record->version, "1.0.0");
		assert_int_equal(record->n_endpoints, 0);
		assert_int_equal(record->n_nodes, 1);
		assert_string_equal(record->nodes[0].id, ID);
		assert_string_equal(record->nodes[0].address, "127.0.0.1:8080");
		assert_true(
		    svc_headers_equal(record->nodes[0].metadata, metadata));
		svc_record_destroy(record);
		/* The same data under the name of another service. */
		found.instance = ID ".teacher.micro";
		assert_int_equal(
		    mdns_found_decode(&found, &record, NULL), SVC_E_INVAL);
	}
	svc_headers_destroy(metadata);
}

static void
records_survive(void **state)
{
	(void)state;
	static const struct {
		const char *name, *id, *address;
	} cases[] = {
	    {"student", ID, "10.1.2.3:8080"},
	    {"go.micro.srv.foo", "go.micro.srv.foo-1", "[fe80::1]:80"},
	    {"student", "a.b.c", "example.org:443"},
	    {"student", "s@1;\"2\\", "unix:/run/x.sock"},
	    {"customer-relationship-management-service",
		"customer-relationship-management-service-"
		"7c9e6679-7425-40de-944b-e07fc1f90ae7",
		"127.0.0.1:1"},
	    {"a..b", "..x", "127.0.0.1:0"},
	    {"_services", "x", "[::1]:08"},
	    {"foo._services", "x", "127.0.0.1:65536"},
	    {"0123456789012345678901234567890123456789012345678901234567"
	     "89012345678901234567890123456789012345678901234567890123456"
	     "78901234567",
		"0123456789012345678901234567890123456789012345678901234567"
		"8.012345678901234567890123456789012345678901234567890123456"
		"7.012345678901234567890123456789012345678901234567890123456"
		"78",
		"h:1"},
	};
	static const char *const service_metadata[] = {"team", "red", NULL};
	struct svc_value field = {.name = "id", .type = "string"};
	struct svc_value request = {.name = "GetRequest",
	    .type = "GetRequest",
	    .values = &field,
	    .n_values = 1};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct svc_headers *metadata = pairs(student_metadata);
		struct svc_headers *team = pairs(service_metadata);
		struct svc_endpoint endpoint = {.name = "Student.Get",
		    .request = &request,
		    .metadata = team};
		struct svc_node node = {.id = cases[i].id,
		    .address = cases[i].address,
		    .metadata = metadata};
		struct svc_record record = {.name = cases[i].name,
		    .version = "1.0.0",
		    .metadata = i % 2 == 0 ? team : NULL,
		    .endpoints = &endpoint,
		    .n_endpoints = 1,
		    .nodes = &node,
		    .n_nodes = 1};
		struct caught caught;
		round_trip(&record, &caught);
		assert_int_equal(caught.nodes, 1);
		if (caught.record == NULL)
			fail_msg("%s: %s", cases[i].name, caught.err.text);
		assert_true(svc_record_equal(caught.record, &record));
		svc_record_destroy(caught.record);
		svc_headers_destroy(metadata);
		svc_headers_destroy(team);
	}
}

static void
lists_name_the_owner(void **state)
{
	(void)state;
	static const char *const names[] = {
	    "student", "a.b", "_services", "x._services"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct svc_node nodes = {.id = "x", .address = "127.0.0.1:1"};
		struct svc_record record = {.name = names[i],
		    .version = "1",
		    .nodes = &nodes,
		    .n_nodes = 1};
		struct mdns_node *node = NULL;
		struct mdns_writer writer;
		struct caught caught = {.nodes = 0};
		assert_int_equal(
		    mdns_node_create(&record, "h", &node, NULL), SVC_OK);
		assert_int_equal(mdns_go_response(node, MDNS_BIT(MDNS_GO_LIST),
				     9, 0, NULL, &writer),
		    SVC_OK);
		mdns_response_read(writer.data, writer.len, &catcher, &caught);
		assert_int_equal(caught.nodes, 0);
		assert_int_equal(caught.lists, 1);
		assert_string_equal(caught.owner, node->owner);
		mdns_node_destroy(node);
	}
}

static void
goodbyes_need_no_data(void **state)
{
	(void)state;
	struct mdns_writer writer;
	struct caught caught = {.nodes = 0};
	mdns_write(&writer, 0, MDNS_FLAG_RESPONSE);
	const struct mdns_record ptr = {.name = "student.micro",
	    .type = MDNS_TYPE_PTR,
	    .target = "x.student.micro"};
	mdns_write_record(&writer, MDNS_ANSWER, &ptr, false);
	assert_int_equal(mdns_write_end(&writer), SVC_OK);
	mdns_response_read(writer.data, writer.len, &catcher, &caught);
	assert_int_equal(caught.nodes, 1);
	assert_int_equal(caught.found.ttl, 0);
	assert_string_equal(caught.instance, "x.student.micro");
}

static void
too_large_a_record_is_refused(void **state)
{
	(void)state;
	struct svc_headers *metadata = svc_headers_create();
	for (unsigned i = 0; i < 200; i++) {
		char name[16], value[64];
		snprintf(name, sizeof(name), "key%u", i);
		unsigned long long a = (i + 1) * 0x9e3779b97f4a7c15ULL;
		unsigned long long b = (a ^ a >> 29) * 0xbf58476d1ce4e5b9ULL;
		snprintf(value, sizeof(value), "%016llx%016llx", a, b);
		svc_headers_set(metadata, name, value);
	}
	struct svc_node nodes = {
	    .id = "x", .address = "127.0.0.1:1", .metadata = metadata};
	struct svc_record record = {
	    .name = "student", .version = "1", .nodes = &nodes, .n_nodes = 1};
	struct mdns_node *node = NULL;
	struct svc_error err = {.code = SVC_OK};
	assert_int_equal(
	    mdns_node_create(&record, "h", &node, &err), SVC_E_INVAL);
	assert_int_equal(err.code, SVC_E_INVAL);
	assert_non_null(strstr(err.text, "student"));
	assert_non_null(strstr(err.text, "9000"));
	svc_headers_destroy(metadata);
}

static void
bombs_and_rubbish_in_txt_are_refused(void **state)
{
	(void)state;
	static const char *const bad[] = {"\x01", "\x02zz",
	    "\x01"
	    "7",
	    "\x04"
	    "789c",
	    "\x00", "",
	    "\x08"
	    "789c0000",
	    "\x06"
	    "ffffff"};
	static const size_t lens[] = {1, 3, 2, 5, 1, 0, 9, 7};
	struct svc_buf out;
	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		svc_buf_init(&out, MDNS_TXT_MAX);
		assert_int_equal(
		    mdns_txt_decode(bad[i], lens[i], &out), SVC_E_INVAL);
		svc_buf_fini(&out);
	}
	/* Eight megabytes of one letter are a few kilobytes on the wire. */
	const size_t len = 8 * 1024 * 1024;
	char *zeros = calloc(1, len);
	struct svc_buf txt;
	assert_non_null(zeros);
	svc_buf_init(&txt, UINT16_MAX);
	assert_int_equal(mdns_txt_encode(zeros, len, &txt), SVC_OK);
	free(zeros);
	svc_buf_init(&out, MDNS_TXT_MAX);
	assert_int_equal(
	    mdns_txt_decode(txt.data, txt.len, &out), SVC_E_EXHAUSTED);
	assert_true(out.len <= MDNS_TXT_MAX);
	svc_buf_fini(&out);
	svc_buf_fini(&txt);
}

static void
malformed_packets_end(void **state)
{
	(void)state;
	struct mdns_reader reader;
	struct mdns_question question;
	struct mdns_rr rr;
	/* A pointer to itself, one forward, one into the header. */
	static const uint8_t targets[] = {12, 13, 60};
	for (size_t i = 0; i < sizeof(targets); i++) {
		uint8_t loop[18] = {[5] = 1, [12] = 0xc0, [13] = targets[i]};
		assert_true(mdns_read(&reader, loop, sizeof(loop)));
		assert_false(mdns_read_question(&reader, &question));
		assert_true(reader.bad);
		assert_false(mdns_read_record(&reader, &rr));
	}
	/* Two names that point at each other. */
	static const uint8_t pair[] = {0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1,
	    'a', 0xc0, 18, 0, 1, 0, 1, 1, 'b', 0xc0, 12};
	assert_true(mdns_read(&reader, pair, sizeof(pair)));
	assert_false(mdns_read_question(&reader, &question));
	/* Counts that promise more than there is. */
	static const uint8_t huge[12] = {
	    0, 0, 0x84, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	struct caught caught = {.nodes = 0};
	assert_true(mdns_read(&reader, huge, sizeof(huge)));
	assert_false(mdns_read_question(&reader, &question));
	assert_true(reader.bad);
	mdns_response_read(huge, sizeof(huge), &catcher, &caught);
	assert_int_equal(caught.nodes + caught.lists, 0);
	assert_false(mdns_read(&reader, huge, 11));
}

static void
names_have_limits(void **state)
{
	(void)state;
	struct mdns_writer writer;
	char name[300];
	static const char label_of_64[] =
	    "0123456789012345678901234567890123456789012345678901234567890123";
	static const char *const bad[] = {"a..b", ".a", "a.", label_of_64};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		mdns_write(&writer, 0, 0);
		mdns_write_question(&writer, bad[i], 1, 1);
		assert_int_equal(mdns_write_end(&writer), SVC_E_INVAL);
	}
	/* 253 characters are 255 bytes on the wire; one more is too long. */
	for (size_t len = 253; len <= 254; len++) {
		struct mdns_reader reader;
		struct mdns_question question;
		for (size_t i = 0; i < len; i++)
			name[i] = i % 2 == 0 || i == len - 1 ? 'a' : '.';
		name[len] = '\0';
		mdns_write(&writer, 0, 0);
		mdns_write_question(&writer, name, 1, 1);
		assert_int_equal(
		    mdns_write_end(&writer), len == 253 ? SVC_OK : SVC_E_INVAL);
		if (len == 253) {
			assert_true(
			    mdns_read(&reader, writer.data, writer.len));
			assert_true(mdns_read_question(&reader, &question));
			assert_string_equal(question.name.text, name);
		}
	}
}

/* Equal names are of equal nodes, also where DNS knows no difference. */
static void
dns_sd_names_are_unique(void **state)
{
	(void)state;
	static const struct {
		const char *service, *id, *label; /* NULL: shortened */
	} cases[] = {
	    {"student", ID, ID "@student"},
	    {"student", "s-1", "s-1@student"},
	    {"student", "S-1", NULL},
	    {"Student", "s-1", NULL},
	    {"student", "s.1", NULL},
	    {"student-s", "1", "1@student-s"},
	    {"student", "s-1@student", "s-1@student@student"},
	    {"student-with-a-longer-name", ID, NULL},
	    {"go.micro.srv.foo", "x", NULL},
	};
	enum { N = sizeof(cases) / sizeof(cases[0]) };
	char names[N][MDNS_NAME_SIZE];
	for (size_t i = 0; i < N; i++) {
		char want[MDNS_NAME_SIZE];
		mdns_sd_instance_name(cases[i].service, cases[i].id, names[i]);
		assert_true(mdns_ends_with(names[i], "." MDNS_SD_TYPE));
		assert_true(strcspn(names[i], ".") <= 63);
		assert_int_equal(strlen(names[i]) - strlen("." MDNS_SD_TYPE),
		    strcspn(names[i], "."));
		if (cases[i].label != NULL) {
			snprintf(want, sizeof(want), "%s." MDNS_SD_TYPE,
			    cases[i].label);
			assert_string_equal(names[i], want);
		}
		for (size_t j = 0; j < i; j++)
			assert_false(mdns_name_same(names[i], names[j]));
	}
	char name[MDNS_NAME_SIZE];
	mdns_sd_subtype_name("go.micro.srv", name);
	assert_string_equal(name, "_go-micro-srv._sub._svc._tcp.local");
}

/* Nodes that a network address leads to are there for DNS-SD. */
static void
dns_sd_has_what_can_be_dialled(void **state)
{
	(void)state;
	static const struct {
		const char *address, *host; /* NULL: not there */
		uint16_t type;              /* of the host's address */
	} cases[] = {
	    {"10.1.2.3:80", "svc-10-1-2-3.local", MDNS_TYPE_A},
	    {"[fd00::1]:80", "svc-fd00--1.local", MDNS_TYPE_AAAA},
	    {"example.org:80", "example.org", 0},
	    {"10.1.2.3", NULL, 0},
	    {"unix:/run/x.sock", NULL, 0},
	    {"tcp://a:b:80", NULL, 0},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct svc_node nodes = {
		    .id = "x", .address = cases[i].address};
		struct svc_record record = {.name = "student",
		    .version = "1",
		    .nodes = &nodes,
		    .n_nodes = 1};
		struct mdns_node *node = NULL;
		struct mdns_record r;
		assert_int_equal(
		    mdns_node_create(&record, "h", &node, NULL), SVC_OK);
		bool has = mdns_node_record(node, MDNS_SD_SRV, 7, &r);
		assert_int_equal(has, cases[i].host != NULL);
		if (has) {
			assert_string_equal(r.target, cases[i].host);
			assert_int_equal(r.port, 80);
			assert_int_equal(r.ttl, 7);
			assert_true(r.unique);
			has = mdns_node_record(node, MDNS_SD_ADDRESS, 7, &r);
			assert_int_equal(has, cases[i].type != 0);
			if (has)
				assert_int_equal(r.type, cases[i].type);
		} else {
			assert_int_equal(mdns_node_answers(
					     node, MDNS_SD_TYPE, MDNS_TYPE_PTR),
			    0);
		}
		/* go-micro's records are there anyway. */
		assert_int_equal(
		    mdns_node_answers(node, "student.micro", MDNS_TYPE_PTR),
		    MDNS_BIT(MDNS_GO_PTR));
		mdns_node_destroy(node);
	}
}

/* Metadata that DNS-SD's pairs cannot hold is left out there. */
static void
dns_sd_pairs_keep_their_limits(void **state)
{
	(void)state;
	char longest[300];
	memset(longest, 'v', sizeof(longest));
	longest[255 - 2] = '\0'; /* "k=" and 253 */
	struct svc_headers *metadata = svc_headers_create();
	svc_headers_set(metadata, "k", longest);
	svc_headers_set(metadata, "l", longest);
	svc_headers_set(metadata, "m", longest);
	svc_headers_set(metadata, "too-long", longest);
	svc_headers_set(metadata, "z", "last");
	struct svc_node nodes = {
	    .id = "x", .address = "10.1.2.3:80", .metadata = metadata};
	struct svc_record record = {
	    .name = "student", .version = "1", .nodes = &nodes, .n_nodes = 1};
	struct mdns_node *node = NULL;
	struct mdns_record r;
	assert_int_equal(mdns_node_create(&record, "h", &node, NULL), SVC_OK);
	assert_true(mdns_node_record(node, MDNS_SD_TXT, 7, &r));
	const uint8_t *txt = r.data;
	size_t n = 0, n_long = 0;
	bool last = false;
	for (size_t at = 0; at < r.len; at += 1u + txt[at]) {
		assert_true(at + 1 + txt[at] <= r.len);
		n++;
		n_long += txt[at] == 255;
		last = txt[at] == 6 && memcmp(txt + at + 1, "z=last", 6) == 0;
	}
	assert_int_equal(n, 4 + 3 + 1);
	assert_int_equal(n_long, 3);
	assert_true(last);
	mdns_node_destroy(node);
	svc_headers_destroy(metadata);
}

static void
every_allocation_may_fail(void **state)
{
	(void)state;
	struct svc_node nodes = {.id = ID, .address = "h:1"};
	struct svc_endpoint endpoint = {.name = "Student.Get"};
	struct svc_record record = {.name = "student",
	    .version = "1",
	    .endpoints = &endpoint,
	    .n_endpoints = 1,
	    .nodes = &nodes,
	    .n_nodes = 1};
	for (long n = 0;; n++) {
		struct mdns_node *node = NULL;
		struct svc_error err = {.code = SVC_OK};
		scarce_begin();
		scarce_at(n);
		svc_err rc = mdns_node_create(&record, "h", &node, &err);
		scarce_end();
		if (!scarce_hit()) {
			assert_int_equal(rc, SVC_OK);
			assert_true(n > 4);
			mdns_node_destroy(node);
			break;
		}
		assert_int_equal(rc, SVC_E_NOMEM);
		assert_int_equal(err.code, SVC_E_NOMEM);
	}
	for (long n = 0;; n++) {
		struct svc_record *read = NULL;
		struct mdns_found found = {.instance = ID ".student.micro",
		    .ttl = 1,
		    .address = "127.0.0.1:8080",
		    .txt = (const uint8_t *)go_txt,
		    .txt_len = sizeof(go_txt) - 1};
		scarce_begin();
		scarce_at(n);
		svc_err rc = mdns_found_decode(&found, &read, NULL);
		scarce_end();
		if (!scarce_hit()) {
			assert_int_equal(rc, SVC_OK);
			assert_true(n > 4);
			svc_record_destroy(read);
			break;
		}
		assert_int_equal(rc, SVC_E_NOMEM);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(txt_is_what_go_micro_writes),
	    cmocka_unit_test(node_is_what_go_micro_writes),
	    cmocka_unit_test(both_key_orders_are_read),
	    cmocka_unit_test(records_survive),
	    cmocka_unit_test(lists_name_the_owner),
	    cmocka_unit_test(goodbyes_need_no_data),
	    cmocka_unit_test(too_large_a_record_is_refused),
	    cmocka_unit_test(bombs_and_rubbish_in_txt_are_refused),
	    cmocka_unit_test(malformed_packets_end),
	    cmocka_unit_test(names_have_limits),
	    cmocka_unit_test(dns_sd_names_are_unique),
	    cmocka_unit_test(dns_sd_has_what_can_be_dialled),
	    cmocka_unit_test(dns_sd_pairs_keep_their_limits),
	    cmocka_unit_test(every_allocation_may_fail),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
