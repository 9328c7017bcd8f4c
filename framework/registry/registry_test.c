/* SPDX-License-Identifier: Apache-2.0 */
/* Records, their JSON, and what the framework adds to a plugin. */
#include "diff.h"

#include <conformance/registry.h>

#include <svc/buf.h>
#include <svc/clock.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
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

/* ----------------------------------------------------------- differences */

struct told {
	char text[256];
};

/* "+a" created, "~a" updated, "-a" removed, "=" synced. */
static void
tell(svc_change change, const struct svc_record *record, void *arg)
{
	struct told *told = arg;
	size_t len = strlen(told->text);
	snprintf(told->text + len, sizeof(told->text) - len, "%c%s",
	    "+~-="[change], record != NULL ? record->nodes[0].id : "");
}

static void
expect(struct told *told, const char *text)
{
	assert_string_equal(told->text, text);
	told->text[0] = '\0';
}

static void
node(struct diff *diff, const char *service, const char *id, int port)
{
	struct sample sample;
	sample_init(&sample, service, "1", id, port);
	assert_int_equal(diff_node(diff, &sample.record), SVC_OK);
	sample_fini(&sample);
}

static void
gone(struct diff *diff, const char *service, const char *id)
{
	struct sample sample;
	sample_init(&sample, service, "", id, 1);
	diff_gone(diff, &sample.record);
	sample_fini(&sample);
}

static void
only_true_changes_are_told(void **state)
{
	(void)state;
	struct told told = {""};
	struct diff diff;
	diff_init(&diff, "s", tell, &told);
	diff_begin(&diff);
	node(&diff, "s", "a", 1);
	node(&diff, "s2", "x", 1);
	diff_sync(&diff, 1000);
	expect(&told, "+a=");
	node(&diff, "s", "a", 1);
	expect(&told, "");
	node(&diff, "s", "a", 2);
	expect(&told, "~a");
	node(&diff, "s", "b", 1);
	gone(&diff, "s", "c");
	gone(&diff, "s2", "a");
	expect(&told, "+b");
	gone(&diff, "s", "a");
	gone(&diff, "s", "a");
	expect(&told, "-a");
	/* Another full state is no news, and no second SYNCED. */
	diff_begin(&diff);
	node(&diff, "s", "b", 1);
	diff_sync(&diff, 1000);
	expect(&told, "");
	assert_true(diff_next_at(&diff) == INT64_MAX);
	diff_fini(&diff);
	expect(&told, "");
}

static void
nodes_outlive_a_registry_that_forgot(void **state)
{
	(void)state;
	struct told told = {""};
	struct diff diff;
	svc_clock_manual();
	diff_init(&diff, NULL, tell, &told);
	diff_begin(&diff);
	node(&diff, "s", "a", 1);
	node(&diff, "s", "b", 1);
	node(&diff, "s", "c", 1);
	node(&diff, "s", "d", 1);
	diff_sync(&diff, 1000);
	expect(&told, "+a+b+c+d=");
	/* It comes back empty. */
	diff_begin(&diff);
	diff_sync(&diff, 1000);
	expect(&told, "");
	svc_clock_advance(500);
	node(&diff, "s", "a", 1);
	node(&diff, "s", "b", 2);
	gone(&diff, "s", "d");
	expect(&told, "~b-d");
	diff_expire(&diff, false);
	expect(&told, "");
	svc_clock_advance(501);
	assert_true(diff_next_at(&diff) <= svc_now_ms());
	diff_expire(&diff, false);
	expect(&told, "-c");
	assert_true(diff_next_at(&diff) == INT64_MAX);

	/* Broken again while something waits: nothing is taken away before
	 * there is a full state, and the time counts from that on. */
	diff_begin(&diff);
	diff_sync(&diff, 1000);
	svc_clock_advance(900);
	diff_begin(&diff);
	svc_clock_advance(5000);
	diff_expire(&diff, false);
	assert_true(diff_next_at(&diff) == INT64_MAX);
	node(&diff, "s", "a", 1);
	diff_sync(&diff, 1000);
	svc_clock_advance(999);
	diff_expire(&diff, false);
	expect(&told, "");
	svc_clock_advance(1);
	diff_expire(&diff, false);
	expect(&told, "-b");

	/* Without a break, what a full state lacks is gone. */
	diff_begin(&diff);
	diff_sync(&diff, 0);
	expect(&told, "-a");
	diff_fini(&diff);
	svc_clock_real();
}

/* --------------------------------------- a plugin that does as it is told */

/* Only faults that a real registry does not give on demand. */
struct puppet {
	pthread_mutex_t lock;
	svc_watch_sink sink;
	void *arg;
	struct sample *nodes[4];
	atomic_bool down;
	atomic_int asked;
};
static struct puppet puppet = {.lock = PTHREAD_MUTEX_INITIALIZER};

static svc_err
puppet_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	(void)err;
	assert_true(config->timeout_ms > 0);
	*ret_self = &puppet;
	return SVC_OK;
}

static void
puppet_destroy(void *self)
{
	(void)self;
}

static svc_err
puppet_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	(void)self;
	(void)record;
	(void)ttl_ms;
	return svc_error_set(err, SVC_E_DENIED, "no");
}

static svc_err
puppet_withdraw(
    void *self, const struct svc_record *record, struct svc_error *err)
{
	return puppet_announce(self, record, 0, err);
}

static svc_err
puppet_lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	struct puppet *p = self;
	(void)service;
	atomic_fetch_add(&p->asked, 1);
	if (atomic_load(&p->down))
		return svc_error_set(err, SVC_E_UNAVAILABLE, "down");
	pthread_mutex_lock(&p->lock);
	for (size_t i = 0; i < 4; i++)
		if (p->nodes[i] != NULL)
			sink(&p->nodes[i]->record, arg);
	pthread_mutex_unlock(&p->lock);
	return SVC_OK;
}

/* Names only, as registries do that would need a question for each. */
static svc_err
puppet_list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	const struct svc_record bare = {.name = "s", .version = "1"};
	(void)self;
	(void)err;
	sink(&bare, arg);
	return SVC_OK;
}

static svc_err
puppet_watch(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	struct puppet *p = self;
	(void)service;
	(void)err;
	p->sink = sink;
	p->arg = arg;
	*ret_watch = p;
	return SVC_OK;
}

static void
puppet_unwatch(void *self, void *watch)
{
	struct puppet *p = self;
	(void)watch;
	p->sink = NULL;
}

static const struct svc_registry_ops puppet_ops = {
    SVC_REGISTRY_ABI,
    sizeof(struct svc_registry_ops),
    "puppet",
    puppet_create,
    puppet_destroy,
    puppet_announce,
    puppet_withdraw,
    puppet_lookup,
    puppet_list,
    puppet_watch,
    puppet_unwatch,
};

static void
full_state(struct sample *a, struct sample *b)
{
	puppet.sink(SVC_WATCH_BEGIN, NULL, puppet.arg);
	if (a != NULL)
		puppet.sink(SVC_WATCH_NODE, &a->record, puppet.arg);
	if (b != NULL)
		puppet.sink(SVC_WATCH_NODE, &b->record, puppet.arg);
	puppet.sink(SVC_WATCH_SYNC, NULL, puppet.arg);
}

static void
a_watch_keeps_nodes_for_its_grace(void **state)
{
	(void)state;
	struct svc_registry *registry = NULL;
	struct svc_watch *watch = NULL;
	struct recorder *recorder = recorder_create();
	struct svc_registry_config config = {.grace_ms = 300};
	struct sample a, b;
	sample_init(&a, "s", "1", "a", 1);
	sample_init(&b, "s", "1", "b", 2);
	assert_int_equal(
	    svc_registry_create_ops(&puppet_ops, &config, &registry, NULL),
	    SVC_OK);
	assert_int_equal(svc_registry_watch(registry, NULL, recorder_change,
			     recorder, &watch, NULL),
	    SVC_OK);
	full_state(&a, &b);
	assert_true(
	    recorder_wait(recorder, SVC_SYNCED, NULL, NULL, 1000, NULL));
	/* Empty, then one of the two announces itself again. */
	int64_t since_ms = svc_now_ms();
	full_state(NULL, NULL);
	puppet.sink(SVC_WATCH_NODE, &a.record, puppet.arg);
	assert_true(recorder_wait(recorder, SVC_REMOVED, "s", "b", 5000, NULL));
	assert_true(svc_now_ms() - since_ms >= 300);
	assert_int_equal(recorder_count(recorder, SVC_CREATED, NULL, NULL), 2);
	assert_int_equal(recorder_count(recorder, SVC_REMOVED, NULL, NULL), 1);
	/* A single GONE is immediate, and later breaks work as well. */
	puppet.sink(SVC_WATCH_GONE, &a.record, puppet.arg);
	assert_true(recorder_wait(recorder, SVC_REMOVED, "s", "a", 0, NULL));
	full_state(&b, NULL);
	full_state(NULL, NULL);
	assert_true(recorder_wait(recorder, SVC_REMOVED, "s", "b", 5000, NULL));
	svc_registry_unwatch(watch);
	assert_null(puppet.sink);
	svc_registry_destroy(registry);
	recorder_destroy(recorder);
	sample_fini(&a);
	sample_fini(&b);
}

static void
set_node(size_t i, struct sample *sample)
{
	pthread_mutex_lock(&puppet.lock);
	puppet.nodes[i] = sample;
	pthread_mutex_unlock(&puppet.lock);
}

static void
a_plugin_without_watch_is_asked(void **state)
{
	(void)state;
	struct svc_registry_ops ops = puppet_ops;
	struct svc_registry *registry = NULL;
	struct svc_watch *watch = NULL;
	struct recorder *recorder = recorder_create();
	struct svc_registry_config config = {.grace_ms = 60000};
	struct sample a, b;
	sample_init(&a, "s", "1", "a", 1);
	sample_init(&b, "s", "1", "b", 2);
	/* As a plugin that was compiled before there were watches. */
	ops.size = (uint32_t)offsetof(struct svc_registry_ops, watch);
	set_node(0, &a);
	set_node(1, &b);
	assert_int_equal(
	    svc_registry_create_ops(&ops, &config, &registry, NULL), SVC_OK);
	assert_int_equal(svc_registry_watch(registry, NULL, recorder_change,
			     recorder, &watch, NULL),
	    SVC_OK);
	assert_true(
	    recorder_wait(recorder, SVC_SYNCED, NULL, NULL, 5000, NULL));
	assert_int_equal(recorder_count(recorder, SVC_CREATED, NULL, NULL), 2);
	set_node(0, NULL);
	assert_true(recorder_wait(recorder, SVC_REMOVED, "s", "a", 5000, NULL));
	/* Down for some questions, then back and empty: b is kept. */
	atomic_store(&puppet.down, true);
	int asked = atomic_load(&puppet.asked);
	while (atomic_load(&puppet.asked) < asked + 2)
		recorder_quiet(recorder, 50);
	set_node(1, NULL);
	atomic_store(&puppet.down, false);
	asked = atomic_load(&puppet.asked);
	while (atomic_load(&puppet.asked) < asked + 3)
		recorder_quiet(recorder, 50);
	assert_int_equal(recorder_count(recorder, SVC_REMOVED, "s", "b"), 0);
	/* It announces itself again, and then really goes. */
	set_node(1, &b);
	asked = atomic_load(&puppet.asked);
	while (atomic_load(&puppet.asked) < asked + 2)
		recorder_quiet(recorder, 50);
	set_node(1, NULL);
	assert_true(recorder_wait(recorder, SVC_REMOVED, "s", "b", 5000, NULL));
	assert_int_equal(recorder_count(recorder, SVC_CREATED, NULL, NULL), 2);
	/* Ends the watch by itself. */
	svc_registry_destroy(registry);
	recorder_destroy(recorder);
	sample_fini(&a);
	sample_fini(&b);
}

static void
answers_are_grouped(void **state)
{
	(void)state;
	struct svc_registry *registry = NULL;
	struct svc_record_list list = {0};
	struct svc_error err = {0};
	struct sample a, b, c, d;
	sample_init(&a, "s", "2", "b", 1);
	sample_init(&b, "s", "1", "x", 2);
	sample_init(&c, "s", "2", "a", 3);
	/* The same node again: the last word counts. */
	sample_init(&d, "s", "2", "b", 4);
	set_node(0, &a);
	set_node(1, &b);
	set_node(2, &c);
	set_node(3, &d);
	assert_int_equal(
	    svc_registry_create_ops(&puppet_ops, NULL, &registry, NULL),
	    SVC_OK);
	assert_string_equal(svc_registry_name(registry), "puppet");
	assert_int_equal(
	    svc_registry_lookup(registry, "s", &list, NULL), SVC_OK);
	assert_int_equal(list.n_records, 2);
	assert_string_equal(list.records[0]->version, "1");
	assert_int_equal(list.records[1]->n_nodes, 2);
	assert_string_equal(list.records[1]->nodes[0].id, "a");
	assert_string_equal(list.records[1]->nodes[1].address, "127.0.0.1:4");
	svc_record_list_fini(&list);
	assert_int_equal(
	    svc_registry_lookup(registry, "t", &list, NULL), SVC_E_NOT_FOUND);
	assert_int_equal(svc_registry_list(registry, &list, NULL), SVC_OK);
	assert_int_equal(list.n_records, 1);
	assert_int_equal(list.records[0]->n_nodes, 0);
	svc_record_list_fini(&list);
	/* The plugin's errors come through. */
	assert_int_equal(svc_registry_announce(registry, &a.record, 1000, &err),
	    SVC_E_DENIED);
	assert_string_equal(err.text, "no");
	svc_registry_destroy(registry);
	for (size_t i = 0; i < 4; i++)
		set_node(i, NULL);
	sample_fini(&a);
	sample_fini(&b);
	sample_fini(&c);
	sample_fini(&d);
}

static void
unfit_plugins_are_refused(void **state)
{
	(void)state;
	struct svc_registry_ops ops = puppet_ops;
	struct svc_registry *registry = NULL;
	struct svc_error err = {0};
	ops.lookup = NULL;
	assert_int_equal(
	    svc_registry_create_ops(&ops, NULL, &registry, &err), SVC_E_ABI);
	assert_non_null(strstr(err.text, "lookup"));
	ops = puppet_ops;
	ops.abi = SVC_ABI(1, 99);
	assert_int_equal(
	    svc_registry_create_ops(&ops, NULL, &registry, &err), SVC_E_ABI);
	assert_int_equal(svc_registry_create("nosuch", NULL, &registry, &err),
	    SVC_E_NOT_FOUND);
	assert_non_null(strstr(err.text, "memory"));
	svc_registry_destroy(NULL);
	svc_registry_unwatch(NULL);
}

/* ------------------------------------------------------ allocation sweep */

static atomic_long allocations, fail_at;

static bool
fail_one(size_t size, void *arg)
{
	(void)size;
	(void)arg;
	return atomic_fetch_add(&allocations, 1) != atomic_load(&fail_at);
}

static void
one_run(void)
{
	struct svc_record *record = NULL, *copy;
	struct told told = {""};
	struct diff diff;
	if (svc_record_decode(
		student_new, strlen(student_new), &record, NULL) == SVC_OK) {
		copy = svc_record_copy(record);
		if (copy != NULL)
			assert_true(svc_record_equal(copy, record));
		svc_record_destroy(copy);
		svc_mem_free(svc_record_encode(record));
		diff_init(&diff, NULL, tell, &told);
		diff_begin(&diff);
		svc_err rc = diff_node(&diff, record);
		/* Told exactly when remembered. */
		assert_int_equal(rc == SVC_OK, told.text[0] == '+');
		diff_gone(&diff, record);
		diff_fini(&diff);
		svc_record_destroy(record);
	} else {
		assert_null(record);
	}
}

static void
no_memory_is_no_harm(void **state)
{
	(void)state;
	atomic_store(&fail_at, -1);
	atomic_store(&allocations, 0);
	svc_mem_set_hook(fail_one, NULL);
	one_run();
	long count = atomic_load(&allocations);
	assert_true(count > 10);
	for (long i = 0; i < count; i++) {
		atomic_store(&allocations, 0);
		atomic_store(&fail_at, i);
		one_run();
	}
	svc_mem_set_hook(NULL, NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(records_are_written_as_go_micro_does),
	    cmocka_unit_test(reading_is_lenient),
	    cmocka_unit_test(bad_records_are_refused),
	    cmocka_unit_test(endpoints_go_alone_too),
	    cmocka_unit_test(equality_looks_at_everything),
	    cmocka_unit_test(checks_name_what_is_wrong),
	    cmocka_unit_test(only_true_changes_are_told),
	    cmocka_unit_test(nodes_outlive_a_registry_that_forgot),
	    cmocka_unit_test(a_watch_keeps_nodes_for_its_grace),
	    cmocka_unit_test(a_plugin_without_watch_is_asked),
	    cmocka_unit_test(answers_are_grouped),
	    cmocka_unit_test(unfit_plugins_are_refused),
	    cmocka_unit_test(no_memory_is_no_harm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
