/* SPDX-License-Identifier: Apache-2.0 */
/* The command line against a real service in this process, through real
 * registries: mdns on the loopback interface, etcd and consul. */
#include "run_tool.h"
#include "support/servers.h"

#include <svc/svc.h>

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	char event[512]; /* the last one that the service got */
} got = {.lock = PTHREAD_MUTEX_INITIALIZER};

static svc_err
on_get(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	const char *trace = svc_call_header(call, "trace");

	(void)arg;
	return svc_reply_text(call, rsp, "application/json",
	    "{\"got\":%.*s,\"trace\":\"%s\"}", (int)req->len,
	    (const char *)req->data, trace != NULL ? trace : "");
}

static svc_err
on_fail(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)rsp;
	(void)arg;
	return svc_fail(call, SVC_E_NOT_FOUND, "no student %d", 7);
}

static svc_err
on_big(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	return svc_reply_text(call, rsp, "text/plain", "%01000d", 0);
}

static svc_err
on_bytes(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call;
	(void)req;
	(void)arg;
	rsp->content_type = "application/octet-stream";
	rsp->data = "\xff\xfe\xfd!";
	rsp->len = 4;
	return SVC_OK;
}

static svc_err
on_slow(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	int64_t deadline = svc_deadline(LIMIT_MS);

	(void)req;
	(void)rsp;
	(void)arg;
	pthread_mutex_lock(&got.lock);
	while (!svc_call_cancelled(call) && svc_remaining(deadline) > 0)
		svc_cond_wait(&got.cond, &got.lock, svc_deadline(20));
	pthread_mutex_unlock(&got.lock);
	return SVC_E_CANCELLED;
}

static svc_err
on_echo(struct svc_stream *stream, void *arg)
{
	struct svc_call *call = svc_stream_call(stream);
	const char *trace = svc_stream_header(stream, "trace");
	struct svc_message m, answer = {0};
	svc_err rc;

	(void)arg;
	while ((rc = svc_stream_recv(stream, &m)) == SVC_OK) {
		if (m.len == 4 && memcmp(m.data, "null", 4) == 0)
			return svc_fail(call, SVC_E_INVAL, "null is nothing");
		rc = svc_reply_text(call, &answer, "application/json",
		    "{\"got\":%.*s,\"trace\":\"%s\"}", (int)m.len,
		    (const char *)m.data, trace != NULL ? trace : "");
		if (rc == SVC_OK)
			rc = svc_stream_send(stream, &answer);
		if (rc != SVC_OK)
			return rc;
		svc_stream_forget(stream);
	}
	return rc;
}

/* Sends more than anybody wants. */
static svc_err
on_tick(struct svc_stream *stream, void *arg)
{
	struct svc_message m = {
	    .content_type = "application/octet-stream",
	    .data = "\xff\xfe\xfd!",
	    .len = 4,
	};
	svc_err rc;

	(void)arg;
	while ((rc = svc_stream_send(stream, &m)) == SVC_OK)
		;
	return rc;
}

static svc_err
on_event(struct svc_event *event, void *arg)
{
	const struct svc_message *m = svc_event_message(event);
	const char *trace = svc_event_header(event, "trace");

	(void)arg;
	pthread_mutex_lock(&got.lock);
	snprintf(got.event, sizeof(got.event), "%s %.*s %s",
	    svc_event_topic(event), (int)m->len, (const char *)m->data,
	    trace != NULL ? trace : "");
	pthread_cond_broadcast(&got.cond);
	pthread_mutex_unlock(&got.lock);
	return SVC_OK;
}

static struct svc_service *
start_service(const char *called)
{
	struct svc_service *s = svc_new(name(called), version("1.2"),
	    metadata("zone", "north"), log_level("error"));
	char registry[64], address[64], listen[] = "--address=127.0.0.1:0";
	char program[] = "cli_test";
	char *argv[] = {program, listen, registry, address, NULL};

	memcpy(registry, where[0], sizeof(registry));
	memcpy(address, where[1], sizeof(address));
	assert_int_equal(svc_handle(s, "Student.Get", on_get, NULL), SVC_OK);
	assert_int_equal(svc_handle(s, "Student.Fail", on_fail, NULL), SVC_OK);
	assert_int_equal(svc_handle(s, "Student.Big", on_big, NULL), SVC_OK);
	assert_int_equal(
	    svc_handle(s, "Student.Bytes", on_bytes, NULL), SVC_OK);
	assert_int_equal(svc_handle(s, "Student.Slow", on_slow, NULL), SVC_OK);
	assert_int_equal(
	    svc_handle_stream(s, "Student.Echo", on_echo, NULL), SVC_OK);
	assert_int_equal(
	    svc_handle_stream(s, "Student.Tick", on_tick, NULL), SVC_OK);
	assert_int_equal(
	    svc_subscribe(s, "student.seen", on_event, NULL), SVC_OK);
	if (svc_init(s, 4, argv) != SVC_OK || svc_start(s) != SVC_OK)
		fail_msg("%s", svc_error_text(s));
	return s;
}

static void
publish(struct svc_service *s, const char *topic, const char *body)
{
	struct svc_message m = {.content_type = "application/json",
	    .data = body,
	    .len = strlen(body),
	    .headers = svc_headers_create()};
	struct svc_error err;

	assert_int_equal(svc_headers_set(m.headers, "trace", "t1"), SVC_OK);
	if (svc_publish_detail(s, topic, &m, &err) != SVC_OK)
		fail_msg("%s", err.text);
	svc_headers_destroy(m.headers);
}

static void
check_calls(void)
{
	expect(WORDS("call", "student", "Student.Get"), NULL, 0,
	    "{\"got\":{},\"trace\":\"\"}\n", "");
	expect(WORDS("call", "student", "Student.Get", "{\"id\":7}",
		   "--header=trace=abc", "--timeout=60s"),
	    NULL, 0, "{\"got\":{\"id\":7},\"trace\":\"abc\"}\n", "");
	expect(WORDS("call", "student", "Student.Get", "-", "--json"),
	    "{\n  \"id\": [1, 12345678901234567890]\n}\n", 0,
	    "{\"got\":{\"id\":[1,12345678901234567890]},\"trace\":\"\"}\n", "");
	expect(WORDS("call", "student", "Student.Fail"), NULL, 1, "",
	    "svc: no student 7\n");
	expect(WORDS("call", "student", "Student.Nope"), NULL, 1, "",
	    "svc: student has no endpoint Student.Nope; it has Student.Big, "
	    "Student.Bytes, Student.Echo, Student.Fail, Student.Get, "
	    "Student.Slow, Student.Tick\n");
	expect(WORDS("call", "student", "Student.Bytes"), NULL, 0,
	    "\xff\xfe\xfd!", "");
	expect(WORDS("call", "student", "Student.Bytes", "--json"), NULL, 0,
	    "{\"base64\":\"//79IQ==\"}\n", "");
	expect_part(WORDS("call", "student", "Student.Big"), 0, "00000\n", "");
	expect_part(
	    WORDS("call", "student", "Student.Big", "--max_message_size=500"),
	    1, "", "500");
	expect_part(WORDS("call", "student", "Student.Slow", "--timeout=200ms"),
	    1, "", "svc: ");
}

static void
check_streams(void)
{
	expect(WORDS("stream", "student", "Student.Echo", "1", "[2, 3]",
		   "--header=trace=abc"),
	    "\"not read\"", 0,
	    "{\"got\":1,\"trace\":\"abc\"}\n"
	    "{\"got\":[2, 3],\"trace\":\"abc\"}\n",
	    "");
	/* Lines of standard input, the last one without an end. */
	expect(WORDS("stream", "student", "Student.Echo", "--json"),
	    "{\"id\": 1}\n\n[\"b\"]\r\n2", 0,
	    "{\"got\":{\"id\":1},\"trace\":\"\"}\n"
	    "{\"got\":[\"b\"],\"trace\":\"\"}\n"
	    "{\"got\":2,\"trace\":\"\"}\n",
	    "");
	expect(WORDS("stream", "student", "Student.Echo"), NULL, 0, "", "");
	expect(WORDS("stream", "student", "Student.Echo", "1", "null", "2"),
	    NULL, 1, "{\"got\":1,\"trace\":\"\"}\n", "svc: null is nothing\n");
	expect(WORDS("stream", "student", "Student.Echo"), "{]\n", 2, "",
	    "svc: a line of standard input is not JSON: line 1, column 2: "
	    "expected a name in \"\"\n");
	expect(
	    WORDS("stream", "student", "Student.Tick", "--count=2", "--json"),
	    NULL, 0, "{\"base64\":\"//79IQ==\"}\n{\"base64\":\"//79IQ==\"}\n",
	    "");
	expect(WORDS("stream", "student", "Student.Nope", "1"), NULL, 1, "",
	    "svc: student has no endpoint Student.Nope; it has Student.Big, "
	    "Student.Bytes, Student.Echo, Student.Fail, Student.Get, "
	    "Student.Slow, Student.Tick\n");
	/* The other way round, each takes one message. */
	expect(WORDS("stream", "student", "Student.Get", "7"), NULL, 0,
	    "{\"got\":7,\"trace\":\"\"}\n", "");
	expect(WORDS("call", "student", "Student.Echo", "7"), NULL, 0,
	    "{\"got\":7,\"trace\":\"\"}\n", "");
	/* A busy machine may need more time until the stream has begun. */
	bool begun = false;
	for (int ms = 200; !begun; ms *= 2) {
		char timeout[32];
		assert_true(ms < LIMIT_MS);
		snprintf(timeout, sizeof(timeout), "--timeout=%dms", ms);
		struct program p =
		    start_tool(NULL, WORDS("stream", "student", "Student.Tick",
					 "--json", timeout));
		end_tool(&p, 1);
		begun = p.text[0].len > 0;
		if (begun)
			assert_string_equal(text_of(&p, 1),
			    "svc: the deadline of the stream passed\n");
		free_tool(&p);
	}
}

static void
check_discovery(void)
{
	struct program p;

	expect_part(WORDS("list"), 0, "student  1.2      1\n", "");
	expect(WORDS("list", "--json"), NULL, 0,
	    "[{\"name\":\"student\",\"version\":\"1.2\",\"nodes\":1}]\n", "");
	expect_part(WORDS("get", "student"), 0, "student version 1.2", "");
	expect_part(WORDS("get", "student"), 0, "zone=north", "");
	expect_part(WORDS("get", "student"), 0, "Student.Get", "");
	expect_part(WORDS("get", "student", "--json"), 0,
	    "[{\"name\":\"student\",\"version\":\"1.2\"", "");

	expect_part(WORDS("health", "student"), 0, "  ok\n", "");
	expect_part(WORDS("health", "student", "--json"), 0,
	    ",\"status\":\"ok\"}]\n", "");
	expect(WORDS("health", "nobody"), NULL, 1, "",
	    "svc: service not found: nobody\n");

	p = start_tool(NULL, WORDS("watch", "student", "--json", "--count=1"));
	end_tool(&p, 0);
	assert_ptr_equal(strstr(text_of(&p, 0),
			     "{\"change\":\"created\",\"service\":{\"name\":"
			     "\"student\""),
	    text_of(&p, 0));
	free_tool(&p);
}

static void
check_watch(void)
{
	struct program p = start_tool(NULL, WORDS("watch", "teacher"));
	struct program j = start_tool(NULL, WORDS("watch", "--json"));
	struct svc_service *teacher;

	read_until(&j, 0, "{\"change\":\"synced\"}\n");
	teacher = start_service("teacher");
	read_until(&p, 0, "created teacher 1.2 teacher-");
	read_until(&j, 0, "{\"change\":\"created\",\"service\":{\"name\":\"te");
	svc_free(teacher);
	read_until(&p, 0, "removed teacher 1.2 teacher-");
	kill(p.pid, SIGTERM);
	kill(j.pid, SIGINT);
	end_tool(&p, 0);
	end_tool(&j, 0);
	free_tool(&p);
	free_tool(&j);
}

static void
check_events(struct svc_service *s)
{
	int64_t deadline = svc_deadline(LIMIT_MS);
	struct program p, j;

	expect(WORDS("publish", "student.seen", "{\"id\": 8}",
		   "--header=trace=xyz"),
	    NULL, 0, "published 9 bytes to student.seen\n", "");
	pthread_mutex_lock(&got.lock);
	while (got.event[0] == '\0')
		assert_int_equal(
		    svc_cond_wait(&got.cond, &got.lock, deadline), SVC_OK);
	assert_string_equal(got.event, "student.seen {\"id\": 8} xyz");
	got.event[0] = '\0';
	pthread_mutex_unlock(&got.lock);
	expect(WORDS("publish", "nobody.listens", "--json"), NULL, 0,
	    "{\"topic\":\"nobody.listens\",\"bytes\":2}\n", "");

	p = start_tool(NULL, WORDS("subscribe", "cli.one", "--count=2"));
	j = start_tool(
	    NULL, WORDS("subscribe", "cli.one", "--json", "--count=1"));
	read_until(&p, 1, "subscribed to cli.one\n");
	read_until(&j, 1, "subscribed to cli.one\n");
	/* It provides a service while it listens, but lists do not show it. */
	expect(WORDS("list", "--json"), NULL, 0,
	    "[{\"name\":\"student\",\"version\":\"1.2\",\"nodes\":1}]\n", "");
	/* The publisher's view may be a little behind the subscriber's. */
	while (j.text[0].len == 0 || p.text[0].len == 0) {
		struct pollfd polled[2] = {
		    {.fd = p.fds[0], .events = POLLIN},
		    {.fd = j.fds[0], .events = POLLIN},
		};

		assert_true(svc_remaining(deadline) > 0);
		publish(s, "cli.one", "{\n \"n\": 1\n}");
		poll(polled, 2, 100);
		if (polled[0].revents != 0)
			read_until(&p, 0, "{\"n\":1}\n");
		if (polled[1].revents != 0)
			read_until(&j, 0, "\n");
	}
	end_tool(&j, 0);
	assert_non_null(
	    strstr(text_of(&j, 0), "{\"topic\":\"cli.one\",\"content_type\":"
				   "\"application/json\",\"headers\":{"));
	assert_non_null(strstr(text_of(&j, 0), "\"trace\":\"t1\""));
	assert_non_null(strstr(text_of(&j, 0), ",\"body\":{\"n\":1}}\n"));
	publish(s, "cli.one", "{\"n\":1}");
	end_tool(&p, 0);
	assert_string_equal(text_of(&p, 0), "{\"n\":1}\n{\"n\":1}\n");
	free_tool(&p);
	free_tool(&j);

	p = start_tool(NULL, WORDS("subscribe", "cli.two"));
	read_until(&p, 1, "subscribed to cli.two\n");
	kill(p.pid, SIGINT);
	end_tool(&p, 0);
	assert_string_equal(text_of(&p, 0), "");
	free_tool(&p);
}

static void
check_all(void)
{
	struct svc_service *s;

	svc_cond_init(&got.cond);
	s = start_service("student");
	check_calls();
	check_streams();
	check_discovery();
	check_watch();
	check_events(s);
	svc_free(s);
	expect(WORDS("list", "--json"), NULL, 0, "[]\n", "");
	pthread_cond_destroy(&got.cond);
}

static void
test_mdns(void **state)
{
	(void)state;
	snprintf(where[0], sizeof(where[0]), "--registry=mdns");
	snprintf(where[1], sizeof(where[1]), "--registry_address=lo:%d",
	    test_free_port());
	check_all();
}

static void
test_etcd(void **state)
{
	struct test_server *etcd;

	(void)state;
	if (!test_server_have("etcd")) {
		print_message("etcd is not installed\n");
		skip();
	}
	etcd = start_etcd(NULL);
	assert_non_null(etcd);
	snprintf(where[0], sizeof(where[0]), "--registry=etcd");
	snprintf(
	    where[1], sizeof(where[1]), "--registry_address=%s", etcd->address);
	check_all();
	/* A registry that does not answer is one clear line. */
	test_server_kill(etcd);
	expect_part(
	    WORDS("list", "--registry_timeout=300ms"), 1, "", etcd->address);
	test_server_stop(etcd);
}

static void
test_consul(void **state)
{
	struct test_server *consul;

	(void)state;
	if (!test_server_have("consul")) {
		print_message("consul is not installed\n");
		skip();
	}
	consul = start_consul(NULL);
	assert_non_null(consul);
	snprintf(where[0], sizeof(where[0]), "--registry=consul");
	snprintf(where[1], sizeof(where[1]), "--registry_address=%s",
	    consul->address);
	check_all();
	test_server_stop(consul);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_mdns),
	    cmocka_unit_test(test_etcd),
	    cmocka_unit_test(test_consul),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
