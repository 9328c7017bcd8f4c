/* SPDX-License-Identifier: Apache-2.0 */
/* What stands in consul, byte by byte, and what is made of what others put
 * there. */
#include "answer.h"
#include "node.h"

#include <pack/pack.h>
#include <support/scarce.h>
#include <svc/log.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ------------------------------------------------------------------- packing
 */

/* The same texts as go-micro packs them and as zlib does. */
static const struct {
	const char *text, *go, *zlib;
} packed[] = {
    {"1.0.0", "789c32d433d03300040000ffff02ce00ee",
	"789c33d433d033000002ce00ee"},
    {"latest", "789cca492c492d2e01040000ffff08cc028e",
	"789ccb492c492d2e010008cc028e"},
    {"{\"broker\":\"http\"}",
	"789caa564a2acacf4e2d52b252ca28292950aa05040000ffff364d0600",
	"789cab564a2acacf4e2d52b252ca28292950aa0500364d0600"},
    {"{\"protocol\":\"mucp\"}",
	"789caa562a28ca2fc94fcecf51b252ca2d4d2e50aa05040000ffff46a906e2",
	"789cab562a28ca2fc94fcecf51b252ca2d4d2e50aa050046a906e2"},
    {"{\"registry\":\"consul\"}",
	"789caa562a4a4dcf2c2e29aa54b2524acecf2b2ecd51aa05040000ffff"
	"560f07c8",
	"789cab562a4a4dcf2c2e29aa54b2524acecf2b2ecd51aa0500560f07c8"},
    {"{\"server\":\"mucp\"}",
	"789caa562a4e2d2a4b2d52b252ca2d4d2e50aa05040000ffff37200607",
	"789cab562a4e2d2a4b2d52b252ca2d4d2e50aa050037200607"},
    {"{\"transport\":\"http\"}",
	"789caa562a294acc2b2ec82f2a51b252ca28292950aa05040000ffff4f930768",
	"789cab562a294acc2b2ec82f2a51b252ca28292950aa05004f930768"},
};
enum { PACKED = sizeof(packed) / sizeof(packed[0]) };

static const char endpoint_tag[] =
    "e-789c8d8d4b0a80300c44ef92b578805ec0bd2ec545a04184367e9a0a22bdbb55fcbb7135"
    "e165863703a325505088d7c492662490c040bd2727a0e6e31f79bec30464ea3e6c44132f"
    "50e53969f4557532345cdf6aec8d09555855ae6bd9d1dbb5d3a7ec845fdb163f7c960435"
    "0a465f080bfe9656c6";

static void
texts_are_packed_as_go_micro_does(void **state)
{
	(void)state;
	for (size_t i = 0; i < PACKED; i++) {
		const char *const forms[] = {packed[i].go, packed[i].zlib};
		struct svc_buf buf;
		svc_buf_init(&buf, 1 << 16);
		assert_int_equal(
		    pack_encode(packed[i].text, strlen(packed[i].text), &buf),
		    SVC_OK);
		assert_string_equal((char *)buf.data, packed[i].zlib);
		for (size_t k = 0; k < 2; k++) {
			svc_buf_clear(&buf);
			assert_int_equal(
			    pack_decode(forms[k], strlen(forms[k]), &buf),
			    SVC_OK);
			assert_string_equal((char *)buf.data, packed[i].text);
		}
		svc_buf_fini(&buf);
	}
}

static void
what_is_not_packed_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = {"", "7", "789c", "zz",
	    "789c33d433d033000002ce00e", "789c33d433d033000002ce00ef",
	    "789c33d433d033000002ce00", "ffff", "31"};
	struct svc_buf buf, digits;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		svc_buf_init(&buf, 1 << 16);
		assert_int_equal(
		    pack_decode(bad[i], strlen(bad[i]), &buf), SVC_E_INVAL);
		svc_buf_fini(&buf);
	}
	/* What grows beyond all measure is stopped on the way. */
	svc_buf_init(&buf, 8 << 20);
	svc_buf_init(&digits, 8 << 20);
	assert_int_equal(svc_buf_reserve(&buf, 4 << 20), SVC_OK);
	memset(buf.data, 'a', 4 << 20);
	assert_int_equal(pack_encode(buf.data, 4 << 20, &digits), SVC_OK);
	svc_buf_fini(&buf);
	svc_buf_init(&buf, 1 << 20);
	assert_int_equal(
	    pack_decode(digits.data, digits.len, &buf), SVC_E_EXHAUSTED);
	svc_buf_fini(&buf);
	svc_buf_init(&buf, 4 << 20);
	assert_int_equal(pack_decode(digits.data, digits.len, &buf), SVC_OK);
	assert_int_equal(buf.len, 4 << 20);
	svc_buf_fini(&buf);
	svc_buf_fini(&digits);
}

/* ------------------------------------------------------------------- writing
 */

static const char student_id[] = "student-7c9e6679-7425-40de-944b-e07fc1f90ae7";

/* The worked example: one endpoint, five pairs of metadata. */
struct student {
	struct svc_record record;
	struct svc_node node;
	struct svc_endpoint endpoint;
};

static const struct svc_value student_in = {.name = "id", .type = "string"};
static const struct svc_value student_out = {.name = "name", .type = "string"};
static const struct svc_value student_request = {
    "GetRequest", "GetRequest", &student_in, 1};
static const struct svc_value student_response = {
    "GetResponse", "GetResponse", &student_out, 1};

static void
student_init(struct student *student)
{
	struct svc_headers *metadata = svc_headers_create();
	assert_non_null(metadata);
	svc_headers_set(metadata, "transport", "http");
	svc_headers_set(metadata, "broker", "http");
	svc_headers_set(metadata, "server", "mucp");
	svc_headers_set(metadata, "protocol", "mucp");
	svc_headers_set(metadata, "registry", "consul");
	*student = (struct student){0};
	student->endpoint.name = "Student.Get";
	student->endpoint.request = &student_request;
	student->endpoint.response = &student_response;
	student->node.id = student_id;
	student->node.address = "127.0.0.1:8080";
	student->node.metadata = metadata;
	student->record.name = "student";
	student->record.version = "1.0.0";
	student->record.endpoints = &student->endpoint;
	student->record.n_endpoints = 1;
	student->record.nodes = &student->node;
	student->record.n_nodes = 1;
}

static void
nodes_are_written_as_go_micro_does(void **state)
{
	(void)state;
	struct student student;
	struct svc_buf body, expected;
	char zone[] = "zone-a";
	char *extra[] = {zone};
	student_init(&student);
	svc_buf_init(&body, 1 << 20);
	svc_buf_init(&expected, 1 << 20);
	assert_int_equal(
	    node_encode(&student.record, 90000, extra, 1, &body), SVC_OK);
	svc_buf_printf(&expected,
	    "{\"ID\":\"%s\",\"Name\":\"student\",\"Tags\":[", student_id);
	for (size_t i = 2; i < PACKED; i++)
		svc_buf_printf(&expected, "\"t-%s\",", packed[i].zlib);
	svc_buf_printf(&expected,
	    "\"%s\",\"v-%s\",\"zone-a\"],\"Port\":8080,"
	    "\"Address\":\"127.0.0.1\",\"Check\":{\"TTL\":\"1m30s\","
	    "\"DeregisterCriticalServiceAfter\":\"1m35s\","
	    "\"Status\":\"passing\"}}",
	    endpoint_tag, packed[0].zlib);
	assert_string_equal((char *)body.data, (char *)expected.data);
	svc_headers_destroy(student.node.metadata);
	svc_buf_fini(&body);
	svc_buf_fini(&expected);
}

static void
durations_are_written_as_go_does(void **state)
{
	(void)state;
	static const struct {
		int64_t ttl_ms;
		const char *ttl, *after;
	} rows[] = {
	    {1, "1ms", "1m5s"},
	    {999, "999ms", "1m5s"},
	    {1000, "1s", "1m5s"},
	    {1500, "1.5s", "1m5s"},
	    {59999, "59.999s", "1m5s"},
	    {60000, "1m0s", "1m5s"},
	    {90500, "1m30.5s", "1m35.5s"},
	    {3600000, "1h0m0s", "1h0m5s"},
	    {90061001, "25h1m1.001s", "25h1m6.001s"},
	};
	struct student student;
	student_init(&student);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct svc_buf body;
		char expected[160];
		svc_buf_init(&body, 1 << 20);
		assert_int_equal(node_encode(&student.record, rows[i].ttl_ms,
				     NULL, 0, &body),
		    SVC_OK);
		snprintf(expected, sizeof(expected),
		    "{\"TTL\":\"%s\",\"DeregisterCriticalServiceAfter\":"
		    "\"%s\",",
		    rows[i].ttl, rows[i].after);
		assert_non_null(strstr((char *)body.data, expected));
		svc_buf_fini(&body);
	}
	svc_headers_destroy(student.node.metadata);
}

static void
own_tags_may_not_look_like_ours(void **state)
{
	(void)state;
	static const char *const good[] = {
	    "a", "zone=a", "traefik.enable=true", "test", "vip", "T-1"};
	static const char *const bad[] = {
	    "", "t", "e", "v", "t-1", "e=1", "v-2", "v=", "a b", "k\xc3\xb6ln"};
	struct svc_error err = {0};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(node_tag_check(good[i], &err), SVC_OK);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err.text[0] = '\0';
		assert_int_equal(node_tag_check(bad[i], &err), SVC_E_INVAL);
		assert_non_null(strstr(err.text, "use 1 to"));
	}
}

static void
an_id_is_alone_at_its_agent(void **state)
{
	(void)state;
	static const struct {
		const char *service, *id, *instance;
	} rows[] = {
	    {"student", "student-1", "student-1"},
	    {"student", "1", "student/1"},
	    {"student", "student", "student/student"},
	    {"student", "students-1", "student/students-1"},
	};
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *instance = node_instance(rows[i].service, rows[i].id);
		assert_string_equal(instance, rows[i].instance);
		svc_mem_free(instance);
	}
}

/* ------------------------------------------------------------------- reading
 */

/* Copies of what a sink was given. */
struct taken {
	struct svc_record *records[16];
	size_t n;
};

static void
take(const struct svc_record *record, void *arg)
{
	struct taken *taken = arg;
	assert_true(taken->n < 16);
	taken->records[taken->n] = svc_record_copy(record);
	assert_non_null(taken->records[taken->n++]);
}

static void
taken_fini(struct taken *taken)
{
	for (size_t i = 0; i < taken->n; i++)
		svc_record_destroy(taken->records[i]);
	*taken = (struct taken){0};
}

static struct skips skips;

/* Reads an answer of service "student" that came after another. */
static struct taken
read_nodes_after(
    const char *answer, const struct ids *before, struct ids *ret_ids)
{
	struct taken taken = {0};
	struct svc_error err = {0};
	svc_err rc = answer_nodes(&skips, "student", answer, strlen(answer),
	    before, take, &taken, ret_ids, &err);
	if (rc != SVC_OK)
		fail_msg("%s: %s", svc_err_name(rc), err.text);
	return taken;
}

static struct taken
read_nodes(const char *answer, struct ids *ret_ids)
{
	return read_nodes_after(answer, NULL, ret_ids);
}

/* An entry as consul answers it; `more` goes into Service. */
#define ENTRY(id, more)                                                     \
	"{\"Node\":{\"Node\":\"n\",\"Address\":\"10.0.0.9\"},\"Service\":{" \
	"\"ID\":\"" id "\",\"Service\":\"student\"," more                   \
	"},\"Checks\":[{\"Status\":\"passing\"}]}"
#define V1 "v-789c33d433d033000002ce00ee"
#define GO_PROTOCOL \
	"t-789caa562a28ca2fc94fcecf51b252ca2d4d2e50aa05040000ffff46a906e2"
#define GO_TRANSPORT \
	"t-789caa562a294acc2b2ec82f2a51b252ca28292950aa05040000ffff4f930768"

static void
what_go_micro_wrote_is_read(void **state)
{
	(void)state;
	struct student student;
	struct svc_buf answer;
	student_init(&student);
	/* In its own framing and another order than ours. */
	svc_buf_init(&answer, 1 << 16);
	svc_buf_printf(&answer,
	    "[{\"Node\":{\"Address\":\"10.0.0.9\"},\"Service\":{\"ID\":\"%s\","
	    "\"Service\":\"student\",\"Address\":\"127.0.0.1\",\"Port\":8080,"
	    "\"Tags\":[",
	    student_id);
	for (size_t i = PACKED - 1; i >= 2; i--)
		svc_buf_printf(&answer, "\"t-%s\",", packed[i].go);
	svc_buf_printf(
	    &answer, "\"%s\",\"v-%s\"]}}]", endpoint_tag, packed[0].go);
	struct ids ids = {0};
	struct taken taken = read_nodes((char *)answer.data, &ids);
	assert_int_equal(taken.n, 1);
	assert_true(svc_record_equal(taken.records[0], &student.record));
	assert_int_equal(ids.n, 1);
	assert_string_equal(ids.list[0].text, student_id);
	ids_fini(&ids);
	taken_fini(&taken);
	svc_buf_fini(&answer);
	svc_headers_destroy(student.node.metadata);
}

static void
the_form_of_old_is_read_too(void **state)
{
	(void)state;
	struct taken taken = read_nodes(
	    "[" ENTRY("student-1",
		"\"Port\":80,\"Address\":\"h\",\"Tags\":[\"x\",\"tea\",\"t\","
		"\"t={\\\"zone\\\":\\\"a\\\",\\\"b\\\":\\\"c\\\"}\","
		/* The first form decides for its kind, and only for it. */
		"\"" GO_PROTOCOL "\",\"e={\\\"name\\\":\\\"S.Get\\\"}\","
		"\"v-789cca492c492d2e01040000ffff08cc028e\",\"v=2\"]") "]",
	    NULL);
	assert_int_equal(taken.n, 1);
	const struct svc_record *record = taken.records[0];
	assert_string_equal(record->version, "latest");
	assert_int_equal(svc_headers_count(record->nodes[0].metadata), 2);
	assert_string_equal(
	    svc_headers_get(record->nodes[0].metadata, "zone"), "a");
	assert_int_equal(record->n_endpoints, 1);
	assert_string_equal(record->endpoints[0].name, "S.Get");
	taken_fini(&taken);
	taken = read_nodes(
	    "[" ENTRY("student-1",
		"\"Port\":80,\"Address\":\"h\",\"Tags\":[\"v=2\"]") "]",
	    NULL);
	assert_int_equal(taken.n, 1);
	assert_string_equal(taken.records[0]->version, "2");
	taken_fini(&taken);
}

static void
addresses_come_out_as_they_went_in(void **state)
{
	(void)state;
	static const char *const addresses[] = {"127.0.0.1:8080", "[::1]:80",
	    "[fe80::1%eth0]:80", "host.example:65535", "host", "host:080",
	    "host:65536", "host:", ":80", "::1", "a:b:1", "[::1]", "[x]:1",
	    "ipc:///tmp/a.sock", "tcp://h:1", "host:0"};
	struct student student;
	student_init(&student);
	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		struct svc_buf body;
		char head[64];
		svc_buf_init(&body, 1 << 16);
		student.node.address = addresses[i];
		assert_int_equal(
		    node_encode(&student.record, 1000, NULL, 0, &body), SVC_OK);
		/* Consul answers what it was told, with other names. */
		cJSON *entry = cJSON_CreateObject();
		cJSON *service = cJSON_Parse((char *)body.data);
		cJSON_AddItemToObject(entry, "Service", service);
		cJSON_AddStringToObject(service, "Service", "student");
		struct node node;
		assert_int_equal(
		    node_decode(&node, "student", entry, NULL), SVC_OK);
		assert_string_equal(node.record.nodes[0].address, addresses[i]);
		assert_true(svc_record_equal(&node.record, &student.record));
		if (i == 1) {
			snprintf(head, sizeof(head),
			    "\"Port\":80,\"Address\":\"::1\"");
			assert_non_null(strstr((char *)body.data, head));
		}
		node_fini(&node);
		cJSON_Delete(entry);
		svc_buf_fini(&body);
	}
	svc_headers_destroy(student.node.metadata);
	/* Without an address it is that of the host. */
	struct taken taken = read_nodes(
	    "[" ENTRY("student-1",
		"\"Port\":80,\"Address\":\"\",\"Tags\":[\"" V1 "\"]") "]",
	    NULL);
	assert_int_equal(taken.n, 1);
	assert_string_equal(taken.records[0]->nodes[0].address, "10.0.0.9:80");
	taken_fini(&taken);
}

static int lines;
static char last_line[512];

static void
on_line(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	lines++;
	snprintf(last_line, sizeof(last_line), "%s: %s", line->id, line->text);
}

static void
what_is_no_node_stops_nothing(void **state)
{
	(void)state;
	static const char answer[] = "[" ENTRY("student-2",
	    "\"Port\":80,\"Address\":\"h\",\"Tags\":[\"" V1 "\"]") ","
	    /* Other programs: no word is said. */
	    ENTRY("pg",
		"\"Port\":5432,\"Address\":\"h\",\"Tags\":null") "," ENTRY("pq",
		"\"Port\":5432,\"Address\":\"h\",\"Tags\":[\"master\","
		"7,\"t\",\"e\",\"v\",\"\"]") ",7,null,[],{},"
					     "{\"Service\":null},{\"Service\":{"
					     "\"Tags\":[\"" V1 "\"]}},"
	    /* These claim to be nodes. */
	    ENTRY("student-3", "\"Port\":1,\"Address\":\"h\",\"Tags\":"
			       "[\"v-00\"]") "," ENTRY("student-4",
		"\"Port\":-1,\"Address\":\"h\",\"Tags\":[\"" V1
		"\"]") "," ENTRY("student-5",
		"\"Port\":70000,\"Address\":\"h\",\"Tags\":[\"" V1
		"\"]") "," ENTRY("student 6",
		"\"Port\":1,\"Address\":\"h\",\"Tags\":[\"" V1
		"\"]") ","
		       "{\"Service\":{\"ID\":\"student-7\",\"Service\":"
		       "\"student\","
		       "\"Port\":1,\"Tags\":[\"" V1 "\"]}},"
		       "{\"Service\":{\"ID\":\"other-1\",\"Service\":\"other\","
		       "\"Port\":1,"
		       "\"Address\":\"h\",\"Tags\":[\"" V1 "\"]}},"
	    /* Of this one some tags are good. */
	    ENTRY("student-8",
		"\"Port\":1,\"Address\":\"h\",\"Tags\":[\"t-zz\",\"t=\",\"e-\","
		"\"" GO_TRANSPORT "\",\"v-\",\"" V1 "\",\"e-789c\"]") "]";
	skips_fini(&skips);
	skips_init(&skips);
	lines = 0;
	svc_log_set_sink(on_line, NULL);
	for (int i = 0; i < 3; i++) {
		struct taken taken = read_nodes(answer, NULL);
		assert_int_equal(taken.n, 2);
		assert_string_equal(taken.records[0]->nodes[0].id, "student-2");
		assert_string_equal(taken.records[1]->nodes[0].id, "student-8");
		assert_string_equal(
		    svc_headers_get(
			taken.records[1]->nodes[0].metadata, "transport"),
		    "http");
		assert_int_equal(taken.records[1]->n_endpoints, 0);
		taken_fini(&taken);
	}
	svc_log_set_sink(NULL, NULL);
	assert_int_equal(lines, 8);
	assert_int_equal(skips.count, 3 * 8);
	assert_string_equal(last_line,
	    "consul.tags: passed over 4 tags of instance \"student-8\" of "
	    "service \"student\" that do not decode (number 8)");
}

static void
only_an_answer_is_an_answer(void **state)
{
	(void)state;
	static const char *const bad[] = {
	    "", "{", "[", "\"\"", "null", "rpc error", "[]]x["};
	struct taken taken = {0};
	struct marks marks = {0};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]) - 1; i++) {
		size_t len = strlen(bad[i]);
		struct svc_error err = {0};
		assert_int_equal(answer_nodes(&skips, "student", bad[i], len,
				     NULL, take, &taken, NULL, &err),
		    SVC_E_UNAVAILABLE);
		assert_true(err.text[0] != '\0');
		assert_int_equal(answer_services(bad[i], len, &marks, &err),
		    SVC_E_UNAVAILABLE);
		assert_int_equal(answer_checks(bad[i], len, &marks, &err),
		    SVC_E_UNAVAILABLE);
		assert_int_equal(
		    answer_versions(bad[i], len, take, &taken, &err),
		    SVC_E_UNAVAILABLE);
	}
	assert_int_equal(
	    answer_services("[]", 2, &marks, NULL), SVC_E_UNAVAILABLE);
	assert_int_equal(
	    answer_checks("{}", 2, &marks, NULL), SVC_E_UNAVAILABLE);
	taken = read_nodes("[]", NULL);
	assert_int_equal(taken.n, 0);
}

/* Of what a node is made of, each part counts; what else an entry says does
 * not. */
static void
what_is_as_it_was_is_not_told_again(void **state)
{
	(void)state;
#define NODE(host, port, tags) \
	"\"Address\":\"" host "\",\"Port\":" port ",\"Tags\":[" tags "]"
	static const char first[] =
	    "[" ENTRY("student-1", NODE("h", "1", "\"" V1 "\"")) "," ENTRY(
		"student-2", NODE("h", "2", "\"" V1 "\"")) "]";
	static const char *const second[][2] = {
	    {"[" ENTRY("student-1",
		 NODE("h", "1", "\"" V1 "\"") ",\"ModifyIndex\":7") "]",
		""},
	    {"[" ENTRY("student-1", NODE("i", "1", "\"" V1 "\"")) "]", "i:1"},
	    {"[" ENTRY("student-1", NODE("h", "3", "\"" V1 "\"")) "]", "h:3"},
	    {"[" ENTRY("student-1",
		 NODE("h", "1", "\"" V1 "\",\"" GO_PROTOCOL "\"")) "]",
		"h:1"},
	    {"[" ENTRY("student-3", NODE("h", "1", "\"" V1 "\"")) "]", "h:1"},
	    {"[" ENTRY("student-1", NODE("", "1", "\"" V1 "\"")) "]",
		"10.0.0.9:1"},
	};
#undef NODE
	struct ids before = {0};
	struct taken taken = read_nodes(first, &before);
	assert_int_equal(taken.n, 2);
	taken_fini(&taken);
	for (size_t i = 0; i < sizeof(second) / sizeof(second[0]); i++) {
		struct ids ids = {0};
		taken = read_nodes_after(second[i][0], &before, &ids);
		assert_int_equal(ids.n, 1);
		assert_int_equal(taken.n, second[i][1][0] != '\0');
		if (taken.n > 0)
			assert_string_equal(
			    taken.records[0]->nodes[0].address, second[i][1]);
		taken_fini(&taken);
		ids_fini(&ids);
	}
	ids_fini(&before);
}

static void
the_latest_of_two_agents_counts(void **state)
{
	(void)state;
	struct ids ids = {0};
	struct taken taken = read_nodes(
	    "[" ENTRY("student-1",
		"\"Port\":2,\"Address\":\"new\",\"ModifyIndex\":"
		"90,\"Tags\":[\"" V1 "\"]") "," ENTRY("student-1",
		"\"Port\":1,\"Address\":\"old\",\"ModifyIndex\":17,\"Tags\":["
		"\"" V1 "\"]") "," ENTRY("student/a",
		"\"Port\":3,\"Address\":\"h\",\"Tags\":[\"" V1 "\"]") "]",
	    &ids);
	assert_int_equal(taken.n, 2);
	assert_string_equal(taken.records[0]->nodes[0].address, "new:2");
	/* The service in front is not part of the id. */
	assert_string_equal(taken.records[1]->nodes[0].id, "a");
	taken_fini(&taken);
	assert_int_equal(ids.n, 2);
	assert_string_equal(ids.list[0].text, "a");
	/* Who is gone, compared with a later answer. */
	struct ids now = {0};
	struct taken later = read_nodes(
	    "[" ENTRY("student-0",
		"\"Port\":1,\"Address\":\"h\",\"Tags\":[\"" V1
		"\"]") "," ENTRY("student-1",
		"\"Port\":1,\"Address\":\"h\",\"Tags\":[\"" V1 "\"]") "]",
	    &now);
	ids_gone("student", &ids, &now, take, &taken);
	assert_int_equal(taken.n, 1);
	assert_string_equal(taken.records[0]->nodes[0].id, "a");
	assert_string_equal(taken.records[0]->name, "student");
	taken_fini(&taken);
	taken_fini(&later);
	ids_fini(&ids);
	ids_fini(&now);
}

/* -------------------------------------------------------------------- marks */

static void
note(const char *name, void *arg)
{
	struct svc_buf *text = arg;
	svc_buf_printf(text, "[%s]", name);
}

static const char *
differences(const struct marks *a, const struct marks *b)
{
	static char text[256];
	struct svc_buf buf;
	svc_buf_init(&buf, sizeof(text) - 1);
	svc_buf_puts(&buf, "");
	marks_compare(a, b, note, &buf);
	snprintf(text, sizeof(text), "%s", buf.len > 0 ? (char *)buf.data : "");
	svc_buf_fini(&buf);
	return text;
}

static struct marks
services(const char *answer)
{
	struct marks marks = {0};
	assert_int_equal(
	    answer_services(answer, strlen(answer), &marks, NULL), SVC_OK);
	return marks;
}

static struct marks
checks(const char *answer)
{
	struct marks marks = {0};
	assert_int_equal(
	    answer_checks(answer, strlen(answer), &marks, NULL), SVC_OK);
	return marks;
}

static void
services_of_ours_are_told_from_others(void **state)
{
	(void)state;
	struct marks none = {0};
	struct marks a =
	    services("{\"consul\":[],\"pg\":[\"master\"],\"b\":[\"" V1
		     "\",\"t-1\",\"t-2\"],\"a\":[\"" V1 "\"],\"x/y\":[\"" V1
		     "\"],\"c\":null}");
	struct marks b =
	    services("{\"a\":[\"" V1 "\",\"z\"],\"b\":[\"t-2\",\"" V1
		     "\",\"t-1\"],\"d\":[\"v=1\"]}");
	assert_int_equal(a.n, 2);
	assert_string_equal(differences(&a, &a), "");
	assert_string_equal(differences(&none, &a), "[a][b]");
	assert_string_equal(differences(&a, &none), "[a][b]");
	/* The order of tags is none of theirs. */
	assert_string_equal(differences(&a, &b), "[a][d]");
	marks_fini(&a);
	marks_fini(&b);

	static const char both[] = "{\"consul\":[],\"a\":[\"v=2\",\"" V1
				   "\",\"v-zz\"],\"b\":[\"v=3\"]}";
	struct taken taken = {0};
	assert_int_equal(
	    answer_versions(both, sizeof(both) - 1, take, &taken, NULL),
	    SVC_OK);
	assert_int_equal(taken.n, 3);
	assert_string_equal(taken.records[0]->name, "a");
	assert_string_equal(taken.records[0]->version, "2");
	assert_string_equal(taken.records[1]->version, "1.0.0");
	assert_string_equal(taken.records[2]->name, "b");
	taken_fini(&taken);
}

static void
checks_that_do_not_pass_are_compared(void **state)
{
	(void)state;
#define CHECK(id, status, service)                                    \
	"{\"Node\":\"n\",\"CheckID\":\"" id "\",\"Status\":\"" status \
	"\",\"ServiceName\":\"" service "\"}"
	struct marks a = checks("[" CHECK("1", "critical", "s") "," CHECK(
	    "2", "passing", "t") "," CHECK("3", "warning", "u") "]");
	struct marks b = checks("[" CHECK("3", "critical", "u") "," CHECK(
	    "4", "critical", "s") "," CHECK("1", "critical",
	    "s") "," CHECK("serfHealth", "critical", "") "]");
	assert_string_equal(differences(&a, &b), "[][s]");
	assert_string_equal(differences(&a, &a), "");
	marks_fini(&a);
	marks_fini(&b);
}

/* ------------------------------------------------------------------- memory */

static void
count_one(const struct svc_record *record, void *arg)
{
	(void)record;
	(*(size_t *)arg)++;
}

static void
one_run(struct student *student)
{
	static const char answer[] = "[" ENTRY("student-1",
	    "\"Port\":80,\"Address\":\"h\",\"Tags\":[\"" GO_TRANSPORT "\","
	    "\"e={\\\"name\\\":\\\"S.Get\\\"}\",\"" V1 "\"]") "]";
	static const char names[] = "{\"a\":[\"" V1 "\"]}";
	struct svc_buf body;
	struct ids ids = {0};
	struct marks marks = {0};
	size_t nodes = 0;
	svc_buf_init(&body, 1 << 16);
	svc_err rc = node_encode(&student->record, 1000, NULL, 0, &body);
	assert_true(rc == SVC_OK || rc == SVC_E_NOMEM);
	svc_buf_fini(&body);
	rc = answer_nodes(&skips, "student", answer, sizeof(answer) - 1, NULL,
	    count_one, &nodes, &ids, NULL);
	assert_true(rc == SVC_E_NOMEM || (rc == SVC_OK && nodes == 1));
	ids_fini(&ids);
	rc = answer_services(names, sizeof(names) - 1, &marks, NULL);
	assert_true(rc == SVC_OK || rc == SVC_E_NOMEM);
	marks_fini(&marks);
}

static void
every_allocation_may_fail(void **state)
{
	(void)state;
	struct student student;
	student_init(&student);
	bool hit = true;
	long n = 0;
	scarce_begin();
	for (; hit; n++) {
		scarce_at(n);
		one_run(&student);
		hit = scarce_hit();
	}
	scarce_end();
	assert_true(n > 20);
	svc_headers_destroy(student.node.metadata);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(texts_are_packed_as_go_micro_does),
	    cmocka_unit_test(what_is_not_packed_is_refused),
	    cmocka_unit_test(nodes_are_written_as_go_micro_does),
	    cmocka_unit_test(durations_are_written_as_go_does),
	    cmocka_unit_test(own_tags_may_not_look_like_ours),
	    cmocka_unit_test(an_id_is_alone_at_its_agent),
	    cmocka_unit_test(what_go_micro_wrote_is_read),
	    cmocka_unit_test(the_form_of_old_is_read_too),
	    cmocka_unit_test(addresses_come_out_as_they_went_in),
	    cmocka_unit_test(what_is_no_node_stops_nothing),
	    cmocka_unit_test(only_an_answer_is_an_answer),
	    cmocka_unit_test(what_is_as_it_was_is_not_told_again),
	    cmocka_unit_test(the_latest_of_two_agents_counts),
	    cmocka_unit_test(services_of_ours_are_told_from_others),
	    cmocka_unit_test(checks_that_do_not_pass_are_compared),
	    cmocka_unit_test(every_allocation_may_fail),
	};
	skips_init(&skips);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	skips_fini(&skips);
	return failed;
}
