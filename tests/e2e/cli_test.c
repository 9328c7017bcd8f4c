/* SPDX-License-Identifier: Apache-2.0 */
/* The command line against a real service in this process, through real
 * registries: mdns on the loopback interface and etcd. */
#include "support/servers.h"

#include <svc/svc.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* The framework's defaults leave mdns's cache and a busy machine ample time;
 * a test that reaches this has failed. */
#define LIMIT_MS 30000
#define MAX_WORDS 32

extern char **environ;

/* ------------------------------------------------------- running the tool */

struct program {
	pid_t pid;
	int fds[2]; /* what it writes to standard output and error */
	struct svc_buf text[2];
};

/* The flags that say where everybody meets; "" when there are none. */
static char where[2][64];

static struct program
start_tool(const char *input, const char *const words[])
{
	struct program p = {.pid = 0};
	posix_spawn_file_actions_t actions;
	const char *argv[MAX_WORDS];
	char path[4096], *const *args;
	int out[2], err[2], in[2], n = 0;

	snprintf(path, sizeof(path), "%s/bin/svc", getenv("SVC_BUILD_DIR"));
	argv[n++] = "svc";
	/* Before the command, so that the words may override them. */
	for (int i = 0; i < 2; i++)
		if (where[i][0] != '\0')
			argv[n++] = where[i];
	for (; *words != NULL; words++)
		argv[n++] = *words;
	argv[n] = NULL;
	assert_true(n < MAX_WORDS);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(err, O_CLOEXEC), 0);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in[0], 0);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	posix_spawn_file_actions_adddup2(&actions, err[1], 2);
	memcpy(&args, &(const char *const *){argv}, sizeof(args));
	assert_int_equal(
	    posix_spawn(&p.pid, path, &actions, NULL, args, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	/* Small enough for the pipe. */
	if (input != NULL)
		assert_int_equal(
		    write(in[1], input, strlen(input)), (ssize_t)strlen(input));
	close(in[1]);
	p.fds[0] = out[0];
	p.fds[1] = err[0];
	for (int i = 0; i < 2; i++) {
		svc_buf_init(&p.text[i], 1 << 20);
		svc_buf_puts(&p.text[i], "");
	}
	return p;
}

static const char *
text_of(const struct program *p, int which)
{
	return p->text[which].len > 0 ? (const char *)p->text[which].data : "";
}

/* Reads until `text` is there, or, with NULL, until both are closed. */
static void
read_until(struct program *p, int which, const char *text)
{
	int64_t deadline = svc_deadline(LIMIT_MS);

	while (text == NULL ? p->fds[0] >= 0 || p->fds[1] >= 0
			    : strstr(text_of(p, which), text) == NULL) {
		struct pollfd polled[2] = {
		    {.fd = p->fds[0], .events = POLLIN},
		    {.fd = p->fds[1], .events = POLLIN},
		};

		if (svc_remaining(deadline) == 0 ||
		    (text != NULL && p->fds[which] < 0)) {
			kill(p->pid, SIGKILL);
			fail_msg("waited for %s; out: %s err: %s",
			    text != NULL ? text : "the end", text_of(p, 0),
			    text_of(p, 1));
		}
		poll(polled, 2, (int)svc_remaining(deadline));
		for (int i = 0; i < 2; i++) {
			char chunk[4096];
			ssize_t len;

			if (polled[i].revents == 0)
				continue;
			len = read(p->fds[i], chunk, sizeof(chunk));
			if (len > 0) {
				svc_buf_append(&p->text[i], chunk, (size_t)len);
			} else {
				close(p->fds[i]);
				p->fds[i] = -1;
			}
		}
	}
}

/* Waits for the end and compares the exit status. */
static void
end_tool(struct program *p, int status)
{
	int got;

	read_until(p, 0, NULL);
	assert_int_equal(waitpid(p->pid, &got, 0), p->pid);
	if (!WIFEXITED(got) || WEXITSTATUS(got) != status)
		fail_msg("status %x in place of %d; out: %s err: %s",
		    (unsigned)got, status, text_of(p, 0), text_of(p, 1));
}

static void
free_tool(struct program *p)
{
	svc_buf_fini(&p->text[0]);
	svc_buf_fini(&p->text[1]);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Runs it; `out` and `err` are what it must print, NULL for anything. */
static void
expect(const char *const words[], const char *input, int status,
    const char *out, const char *err)
{
	struct program p = start_tool(input, words);

	end_tool(&p, status);
	if (out != NULL)
		assert_string_equal(text_of(&p, 0), out);
	if (err != NULL)
		assert_string_equal(text_of(&p, 1), err);
	free_tool(&p);
}

/* The same with parts of what it must print. */
static void
expect_part(
    const char *const words[], int status, const char *out, const char *err)
{
	struct program p = start_tool(NULL, words);

	end_tool(&p, status);
	if (out != NULL && strstr(text_of(&p, 0), out) == NULL)
		fail_msg("no %s in: %s", out, text_of(&p, 0));
	if (err != NULL && strstr(text_of(&p, 1), err) == NULL)
		fail_msg("no %s in: %s", err, text_of(&p, 1));
	/* An error is one line. */
	if (status == 1)
		assert_ptr_equal(strchr(text_of(&p, 1), '\n') + 1,
		    text_of(&p, 1) + p.text[1].len);
	free_tool(&p);
}

/* ------------------------------------------------------------- by itself */

static void
test_usage(void **state)
{
	(void)state;
	snprintf(where[0], sizeof(where[0]), "--registry=memory");
	where[1][0] = '\0';
	expect_part(WORDS("--version"), 0, svc_version(), "");
	expect_part(WORDS("--help"), 0, "  subscribe TOPIC", "");
	expect_part(WORDS("help"), 0, "--registry_address", "");
	expect_part(WORDS("help", "call"), 0,
	    "Usage: svc call NAME ENDPOINT [JSON]", "");
	expect_part(WORDS("call", "--help"), 0, "--timeout", "");
	expect_part(
	    WORDS("call", "a", "A.B", "--help=yes"), 0, "--timeout", "");
	expect_part(WORDS("help", "cal"), 2, "", "did you mean \"call\"?");
	expect(WORDS("lst"), NULL, 2, "",
	    "svc: there is no command \"lst\"; did you mean \"list\"?\n");
	expect(WORDS("frobnicate"), NULL, 2, "",
	    "svc: there is no command \"frobnicate\"; there are list, get, "
	    "health, call, stream, publish, subscribe, watch, doctor and "
	    "help\n");
	expect_part(WORDS("help", "stream"), 0,
	    "Usage: svc stream NAME ENDPOINT [JSON...]", "");
	expect(WORDS("stream", "a", "A.B", "1", "{]"), NULL, 2, "",
	    "svc: a message is not JSON: line 1, column 2: expected a name in "
	    "\"\"\n");
	expect(WORDS("call", "student"), NULL, 2, "",
	    "svc: something is missing: svc call NAME ENDPOINT [JSON]\n");
	expect(WORDS("list", "more"), NULL, 2, "",
	    "svc: \"more\" is one too many: svc list\n");
	expect(WORDS("list", "--count=3"), NULL, 2, "",
	    "svc: `svc list` takes no --count; see `svc help list`\n");
	expect_part(WORDS("list", "--registri=mdns"), 2, "", "--registry");
	expect_part(WORDS("watch", "--count=many"), 2, "", "count");
	expect_part(WORDS("list", "--registry=no_such"), 2, "", "no_such");
	expect_part(WORDS("get", "a/b"), 2, "", "a/b");
	expect_part(WORDS("call", "a/b", "A.B"), 2, "", "a/b");
	expect_part(WORDS("stream", "a/b", "A.B", "1"), 2, "", "a/b");
	expect(WORDS("call", "a", ""), NULL, 2, "",
	    "svc: the name of the endpoint is empty\n");
	expect(WORDS("call", "a", "A.B", "{\"id\":7,}"), NULL, 2, "",
	    "svc: the JSON is not JSON: line 1, column 9: expected a name in "
	    "\"\"\n");
	expect(WORDS("publish", "t", "-"), "[1\n2]", 2, "",
	    "svc: standard input is not JSON: line 2, column 1: expected , or "
	    "]\n");
	expect(WORDS("publish", "t", "-", "--max_message_size=9"),
	    "\"1234567890\"", 1, "",
	    "svc: standard input is longer than 9 bytes; raise "
	    "--max_message_size\n");
}

static void
test_nobody(void **state)
{
	(void)state;
	snprintf(where[0], sizeof(where[0]), "--registry=memory");
	where[1][0] = '\0';
	expect(
	    WORDS("list"), NULL, 0, "", "no services in the registry memory\n");
	expect(WORDS("list", "--json"), NULL, 0, "[]\n", "");
	expect(WORDS("get", "nobody"), NULL, 1, "",
	    "svc: service not found: nobody\n");
	expect(WORDS("call", "nobody", "A.B"), NULL, 1, "",
	    "svc: service not found: nobody\n");
	expect(WORDS("call", "nobody", "A.B", "--json"), NULL, 1,
	    "{\"error\":\"service not found: nobody\","
	    "\"code\":\"SVC_E_NOT_FOUND\"}\n",
	    "svc: service not found: nobody\n");
	expect(WORDS("stream", "nobody", "A.B", "1"), NULL, 1, "",
	    "svc: service not found: nobody\n");
}

/* Why, and what to do, where nobody listens. */
static void
test_away(void **state)
{
	struct program p;

	(void)state;
	snprintf(where[0], sizeof(where[0]), "--registry=redis");
	snprintf(where[1], sizeof(where[1]), "--registry_address=127.0.0.1:%d",
	    test_free_port());
	expect_part(WORDS("list"), 1, "", "Connection refused; `svc doctor`");
	expect_part(WORDS("get", "nobody"), 1, "", "; `svc doctor` with");
	expect_part(WORDS("health", "nobody"), 1, "", "; `svc doctor` with");
	/* A call waits for somebody to come, and says why nobody did. */
	p = start_tool(NULL, WORDS("call", "nobody", "A.B", "--timeout=300ms"));
	end_tool(&p, 1);
	assert_non_null(strstr(text_of(&p, 1), "redis.lost: "));
	free_tool(&p);
	p = start_tool(NULL, WORDS("watch"));
	read_until(&p, 1, "Connection refused");
	kill(p.pid, SIGTERM);
	end_tool(&p, 0);
	free_tool(&p);
	/* Unless another level is asked for. */
	expect_part(WORDS("call", "nobody", "A.B", "--timeout=300ms",
			"--log_level=off"),
	    1, "", "svc: registry redis");
}

/* ------------------------------------------------------------ with a service
 */

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

/* Of many nodes, which all are this process. None answers before as many are
 * asked as shall be at once, and then all do. */
enum { NODES = 40, AT_ONCE = 32 };
static struct {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int asked, open, most;
} crowd = {.lock = PTHREAD_MUTEX_INITIALIZER};

static svc_err
on_health(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	int64_t deadline = svc_deadline(LIMIT_MS);

	(void)req;
	(void)arg;
	pthread_mutex_lock(&crowd.lock);
	crowd.asked++;
	crowd.open++;
	if (crowd.open > crowd.most)
		crowd.most = crowd.open;
	pthread_cond_broadcast(&crowd.cond);
	while (crowd.asked < AT_ONCE && svc_remaining(deadline) > 0)
		svc_cond_wait(&crowd.cond, &crowd.lock, deadline);
	crowd.open--;
	pthread_mutex_unlock(&crowd.lock);
	return svc_reply_text(
	    call, rsp, "application/json", "{\"status\":\"ok\"}");
}

/* A line for each node, in the order of the registry: those that answer, and
 * one that does not. */
static void
test_health_of_many(void **state)
{
	struct svc_service *s = svc_new(name("many"), registry(memory, "many"),
	    broker(memory), address("127.0.0.1:0"));
	char path[] = "/tmp/svc-cli-XXXXXX", expected[64], silent[16];
	struct program p;
	FILE *file;
	int fd, port = test_free_port();

	(void)state;
	svc_cond_init(&crowd.cond);
	assert_int_equal(
	    svc_handle(s, "Debug.Health", on_health, NULL), SVC_OK);
	assert_int_equal(svc_start(s), SVC_OK);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	file = fdopen(fd, "w");
	fprintf(file, "many:\n  nodes:\n");
	for (int i = 0; i < NODES; i++)
		fprintf(file, "    - {id: n%02d, address: %s}\n", i,
		    svc_options_of(s)->address);
	snprintf(silent, sizeof(silent), "127.0.0.1:%d", port);
	fprintf(file, "    - {id: gone, address: %s}\n", silent);
	assert_int_equal(fclose(file), 0);
	snprintf(where[0], sizeof(where[0]), "--registry=static");
	snprintf(where[1], sizeof(where[1]), "--registry_address=%s", path);

	p = start_tool(NULL, WORDS("health", "many", "--timeout=20s"));
	end_tool(&p, 1);
	const char *at = strstr(text_of(&p, 0), silent);
	assert_non_null(at);
	assert_null(strstr(at, "gone"));
	for (int i = 0; i < NODES; i++) {
		snprintf(expected, sizeof(expected), "\nn%02d ", i);
		at = strstr(at, expected);
		assert_non_null(at);
		assert_ptr_equal(
		    strstr(at, "  ok\n"), strchr(at + 1, '\n') - 4);
	}
	pthread_mutex_lock(&crowd.lock);
	assert_int_equal(crowd.asked, NODES);
	assert_int_equal(crowd.most, AT_ONCE);
	pthread_mutex_unlock(&crowd.lock);
	free_tool(&p);

	p = start_tool(NULL, WORDS("health", "many", "--json"));
	end_tool(&p, 1);
	at = strstr(text_of(&p, 0), "{\"id\":\"gone\",\"address\":\"");
	assert_non_null(at);
	assert_non_null(strstr(at, "\",\"error\":\""));
	for (int i = 0; i < NODES; i++) {
		snprintf(expected, sizeof(expected), "{\"id\":\"n%02d\",", i);
		at = strstr(at, expected);
		assert_non_null(at);
		assert_ptr_equal(
		    strstr(at, ",\"status\":\"ok\"}") + 14, strchr(at, '}'));
	}
	free_tool(&p);
	svc_free(s);
	unlink(path);
	pthread_cond_destroy(&crowd.cond);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_usage),
	    cmocka_unit_test(test_nobody),
	    cmocka_unit_test(test_away),
	    cmocka_unit_test(test_health_of_many),
	    cmocka_unit_test(test_mdns),
	    cmocka_unit_test(test_etcd),
	    cmocka_unit_test(test_consul),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
