/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that nobody waits for, over every transport. */
#include "async_test.h"

static void
the_end_is_told(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Greet", greet, NULL);
	must_start(s);
	struct svc_service *c = make_client();
	struct ends ends;
	ends_init(&ends);
	for (int i = 1; i <= 3; i++) {
		/* What was given may go as soon as the call has begun. */
		char *text = strdup("bob"), *endpoint = strdup("Student.Greet");
		struct svc_message req = {.data = text, .len = 3};
		assert_int_equal(svc_call_async(svc_client_of(c), "student",
				     endpoint, &req, on_end, &ends),
		    SVC_OK);
		memset(text, 'x', 3);
		memset(endpoint, 'x', 3);
		free(text);
		free(endpoint);
		gate_wait(&ends.gate, i);
		assert_int_equal(ends.code, SVC_OK);
		assert_string_equal(ends.text, "");
		assert_string_equal(ends.data, "hello bob");
		assert_int_equal(ends.len, 9);
		assert_string_equal(ends.type, "text/plain");
		assert_string_equal(ends.header, "");
	}
	struct svc_headers *own = svc_headers_create();
	struct svc_headers *seen = svc_headers_create();
	svc_headers_set(own, "User", "ann");
	struct svc_message req = {.data = "x", .len = 1, .headers = own};
	assert_int_equal(
	    svc_call_async(svc_client_of(c), "student", "Student.Greet", &req,
		on_end, &ends, reply_headers(seen)),
	    SVC_OK);
	gate_wait(&ends.gate, 4);
	assert_string_equal(ends.header, "ann");
	assert_string_equal(svc_headers_get(seen, "seen"), "ann");
	assert_int_equal(
	    svc_call_async(svc_client_of(c), "student", "Student.Greet", &req,
		on_end, &ends, header("user", "bob"), content_type("a/b")),
	    SVC_OK);
	gate_wait(&ends.gate, 5);
	assert_string_equal(ends.header, "bob");
	/* Nothing is needed. */
	struct svc_error err = {0};
	assert_int_equal(
	    svc_call_async(svc_client_of(c), "student", "Student.Greet", NULL,
		on_end, &ends, header("user", "eve"), detail(&err),
		reply_headers(seen)),
	    SVC_OK);
	gate_wait(&ends.gate, 6);
	assert_int_equal(ends.code, SVC_E_PRECONDITION);
	assert_string_equal(ends.text, "nobody to greet");
	assert_string_equal(ends.header, "eve"); /* of a failure too */
	assert_string_equal(svc_headers_get(seen, "seen"), "eve");
	assert_int_equal(err.code, SVC_E_PRECONDITION);
	assert_string_equal(err.text, "nobody to greet");
	assert_false(ends.in_caller);
	svc_headers_destroy(own);
	svc_headers_destroy(seen);
	svc_free(c);
	svc_free(s);
}

static void
failures_are_told_as_of_a_call(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Greet", greet, NULL);
	must_start(s);
	struct svc_service *c = make_client();
	struct svc_client *client = svc_client_of(c);
	struct ends ends;
	ends_init(&ends);
	int n = 0;
	assert_int_equal(svc_call_async(client, "nobody", "Student.Greet", NULL,
			     on_end, &ends),
	    SVC_OK);
	gate_wait(&ends.gate, ++n);
	assert_int_equal(ends.code, SVC_E_NOT_FOUND);
	assert_string_equal(ends.text, "service not found: nobody");
	assert_int_equal(
	    svc_call_async(client, "student", "Student.X", NULL, on_end, &ends),
	    SVC_OK);
	gate_wait(&ends.gate, ++n);
	assert_int_equal(ends.code, SVC_E_UNIMPLEMENTED);
	assert_string_equal(ends.text,
	    "service \"student\" has no endpoint \"Student.X\"; it has: "
	    "Student.Greet");
	assert_int_equal(svc_call_async(client, "student", "Student.Greet",
			     NULL, on_end, &ends, label("zone", "x")),
	    SVC_OK);
	gate_wait(&ends.gate, ++n);
	assert_int_equal(ends.code, SVC_E_UNAVAILABLE);
	assert_string_equal(ends.text,
	    "service \"student\" has no node with label zone=x (1 without)");
	assert_int_equal(
	    svc_call_async(client, "", "Student.Greet", NULL, on_end, &ends),
	    SVC_OK);
	gate_wait(&ends.gate, ++n);
	assert_int_equal(ends.code, SVC_E_INVAL);

	/* What is wrong from the start is returned, and nothing follows. */
	struct svc_error err = {0};
	assert_int_equal(svc_call_async(client, "student", "Student.Greet",
			     NULL, on_end, &ends, timeout_ms(0), detail(&err)),
	    SVC_E_INVAL);
	assert_string_equal(
	    err.text, "timeout_ms(0) must be at least 1, or SVC_FOREVER");
	assert_int_equal(svc_call_async(client, "student", "", NULL, on_end,
			     &ends, detail(&err)),
	    SVC_E_INVAL);
	assert_string_equal(
	    err.text, "a call needs the names of a service and an endpoint");
	assert_int_equal(svc_call_async(client, "student", "Student.Greet",
			     NULL, NULL, NULL, detail(&err)),
	    SVC_E_INVAL);
	assert_string_equal(
	    err.text, "svc_call_async needs a function that is told the end");
	assert_int_equal(svc_call_async(NULL, "student", "Student.Greet", NULL,
			     on_end, &ends, detail(&err)),
	    SVC_E_PRECONDITION);
	/* Refused by its length alone. */
	struct svc_message req = {
	    .data = "", .len = (size_t)svc_options_of(c)->max_message_size + 1};
	assert_int_equal(svc_call_async(client, "student", "Student.Greet",
			     &req, on_end, &ends, detail(&err)),
	    SVC_E_EXHAUSTED);
	svc_free(c);
	assert_int_equal(gate_count(&ends.gate), n);
	assert_false(ends.in_caller);
	svc_free(s);
}

/* ---------------------------------------------------------------- many calls
 */

static svc_err
echo(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call;
	(void)arg;
	rsp->data = req->data;
	rsp->len = req->len;
	return SVC_OK;
}

#define OUTSTANDING 64

/* Calls that follow one another, OUTSTANDING of them at once. */
struct flood {
	struct svc_client *client;
	int total;
	atomic_int next;
	atomic_int failed;
	atomic_int *ends; /* how often each has ended */
	struct gate all;  /* counts the chains that are through */
};
struct flood_call {
	struct flood *flood;
	int number;
};

static void flood_next(struct flood *flood, struct flood_call *call);

static void
flood_done(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct flood_call *call = arg;
	struct flood *flood = call->flood;
	int number = -1;
	if (code == SVC_OK && rsp->len >= sizeof(number))
		memcpy(&number, rsp->data, sizeof(number));
	if (code != SVC_OK)
		print_error("call %d: %s\n", call->number, detail->text);
	if (code != SVC_OK || number != call->number)
		atomic_fetch_add(&flood->failed, 1);
	atomic_fetch_add(&flood->ends[call->number], 1);
	flood_next(flood, call);
}

static void
flood_next(struct flood *flood, struct flood_call *call)
{
	call->number = atomic_fetch_add(&flood->next, 1);
	if (call->number >= flood->total) {
		gate_add(&flood->all); /* the last touch */
		return;
	}
	char data[64] = {0};
	memcpy(data, &call->number, sizeof(call->number));
	struct svc_message req = {.data = data, .len = sizeof(data)};
	if (svc_call_async(flood->client, "student", "Student.Echo", &req,
		flood_done, call, timeout_ms(PATIENCE_MS)) != SVC_OK) {
		atomic_fetch_add(&flood->failed, 1);
		gate_add(&flood->all);
	}
}

/* As long as calls end: a busy machine takes long for many. */
static void
flood_wait(struct flood *flood)
{
	svc_err code = SVC_OK;
	pthread_mutex_lock(&flood->all.lock);
	while (flood->all.count < OUTSTANDING && code == SVC_OK) {
		int before = atomic_load(&flood->next);
		code = svc_cond_wait(&flood->all.changed, &flood->all.lock,
		    svc_deadline(PATIENCE_MS));
		if (atomic_load(&flood->next) > before)
			code = SVC_OK;
	}
	pthread_mutex_unlock(&flood->all.lock);
	assert_int_equal(code, SVC_OK);
}

static void
flood(struct svc_client *client, int total)
{
	struct flood flood = {.client = client,
	    .total = total,
	    .ends = calloc((size_t)total, sizeof(*flood.ends))};
	struct flood_call calls[OUTSTANDING];
	gate_init(&flood.all);
	for (int i = 0; i < OUTSTANDING; i++) {
		calls[i].flood = &flood;
		flood_next(&flood, &calls[i]);
	}
	flood_wait(&flood);
	assert_int_equal(atomic_load(&flood.failed), 0);
	for (int i = 0; i < total; i++)
		assert_int_equal(atomic_load(&flood.ends[i]), 1);
	free(flood.ends);
}

static int
many(void)
{
	const char *text = getenv("SVC_TEST_CALLS");
	int n = text != NULL ? (int)strtol(text, NULL, 10) : 100000;
	return n > 0 ? n : 100000;
}

static void
each_of_many_calls_ends_once(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_service *c = make_client();
	flood(svc_client_of(c), many());
	svc_free(c);
	svc_free(s);
}

/* More calls than there are threads, before anything is known of the service.
 */
static void
calls_wait_for_the_first_view_together(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_service *c = make_client();
	struct ends ends;
	ends_init(&ends);
	struct svc_message req = {.data = "x", .len = 1};
	for (int i = 0; i < 1000; i++)
		assert_int_equal(
		    svc_call_async(svc_client_of(c), "student", "Student.Echo",
			&req, on_end, &ends, timeout_ms(PATIENCE_MS)),
		    SVC_OK);
	gate_wait(&ends.gate, 1000);
	assert_int_equal(ends.code, SVC_OK);
	svc_free(c);
	assert_int_equal(gate_count(&ends.gate), 1000);
	svc_free(s);
}

/* ----------------------------------------------------------- done may block */

struct blocker {
	struct svc_client *client;
	struct gate entered, go, left;
};

static void
blocks(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct blocker *blocker = arg;
	assert_string_equal(detail->text, "");
	assert_int_equal(code, SVC_OK);
	gate_add(&blocker->entered);
	gate_wait(&blocker->go, 1);
	/* What it was given is still there. */
	assert_string_equal(rsp->data, "hello bob");
	/* And it may wait for a call of its own. */
	struct svc_message req = {.data = "eve", .len = 3}, answer;
	struct svc_error err = {0};
	code = svc_call(blocker->client, "student", "Student.Greet", &req,
	    &answer, timeout_ms(PATIENCE_MS), detail(&err));
	assert_string_equal(err.text, "");
	assert_int_equal(code, SVC_OK);
	assert_string_equal(answer.data, "hello eve");
	assert_string_equal(rsp->data, "hello bob");
	svc_message_free(&answer);
	gate_add(&blocker->left);
}

static void
done_may_block(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Greet", greet, NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_service *c = make_client();
	struct blocker blocker = {.client = svc_client_of(c)};
	gate_init(&blocker.entered);
	gate_init(&blocker.go);
	gate_init(&blocker.left);
	struct svc_message req = {.data = "bob", .len = 3};
	for (int i = 0; i < 3; i++)
		assert_int_equal(
		    svc_call_async(svc_client_of(c), "student", "Student.Greet",
			&req, blocks, &blocker, timeout_ms(PATIENCE_MS)),
		    SVC_OK);
	gate_wait(&blocker.entered, 3);
	/* The others go on meanwhile, on the same connection. */
	flood(svc_client_of(c), 1000);
	assert_int_equal(gate_count(&blocker.left), 0);
	gate_add(&blocker.go);
	gate_wait(&blocker.left, 3);
	svc_free(c);
	svc_free(s);
}

/* ------------------------------------------------------------- other nodes */

static void
calls_go_to_another_node(void **state)
{
	(void)state;
	struct svc_service *s = make("student", MORE(id("alive")));
	svc_handle(s, "Student.Name", name_of_node, NULL);
	must_start(s);
	struct svc_service *c = make_client();
	char address[64];
	dead_address(address);
	announce(c, "student", "dead", address, false);
	struct ends ends;
	ends_init(&ends);
	for (int i = 1; i <= 50; i++) {
		assert_int_equal(
		    svc_call_async(svc_client_of(c), "student", "Student.Name",
			NULL, on_end, &ends, timeout_ms(PATIENCE_MS)),
		    SVC_OK);
		gate_wait(&ends.gate, i);
		assert_string_equal(ends.text, "");
		assert_string_equal(ends.data, "alive");
	}
	/* With nobody else there are pauses between the tries. */
	int64_t began = svc_now_ms();
	assert_int_equal(svc_call_async(svc_client_of(c), "student",
			     "Student.Name", NULL, on_end, &ends, node("dead"),
			     retries(3), timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	gate_wait(&ends.gate, 51);
	assert_int_equal(ends.code, SVC_E_UNAVAILABLE);
	assert_non_null(strstr(ends.text, address));
	assert_true(svc_now_ms() - began >= 25 + 50);
	assert_false(ends.in_caller);
	svc_free(c);
	svc_free(s);
}

/* One after the other, with requests and ids of several sizes. */
static void
calls_go_to_the_node_they_name(void **state)
{
	static const char *const ids[] = {"a", "node-b", "a-node-called-c"};
	static const char text[] = "of some length or none at all";
	struct svc_service *nodes[3];
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		nodes[i] = make("student", MORE(id(ids[i])));
		svc_handle(nodes[i], "Student.Name", name_of_node, NULL);
		must_start(nodes[i]);
	}
	struct svc_service *c = make_client();
	char address[64];
	dead_address(address);
	announce(c, "student", "dead", address, false);
	struct ends ends;
	ends_init(&ends);
	for (int i = 0; i < 120; i++) {
		const char *id = ids[(size_t)i % 3];
		char given[32];
		struct svc_message req = {
		    .data = text, .len = (size_t)i % sizeof(text)};
		snprintf(given, sizeof(given), "%s", id);
		assert_int_equal(
		    svc_call_async(svc_client_of(c), "student", "Student.Name",
			&req, on_end, &ends, node(given),
			timeout_ms(i % 2 ? PATIENCE_MS : SVC_FOREVER)),
		    SVC_OK);
		/* It is the call's own from now on. */
		memset(given, 'x', sizeof(given) - 1);
		gate_wait(&ends.gate, i + 1);
		assert_string_equal(ends.text, "");
		assert_string_equal(ends.data, id);
	}
	/* Other tries are made at the same node, and any call after it may go
	 * to any. */
	char given[] = "dead";
	assert_int_equal(svc_call_async(svc_client_of(c), "student",
			     "Student.Name", NULL, on_end, &ends, node(given),
			     retries(2), timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	memset(given, 'x', sizeof(given) - 1);
	gate_wait(&ends.gate, 121);
	assert_int_equal(ends.code, SVC_E_UNAVAILABLE);
	assert_non_null(strstr(ends.text, address));
	assert_int_equal(
	    svc_call_async(svc_client_of(c), "student", "Student.Name", NULL,
		on_end, &ends, node("nobody"), timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	gate_wait(&ends.gate, 122);
	assert_int_equal(ends.code, SVC_E_UNAVAILABLE);
	assert_non_null(strstr(ends.text, "\"nobody\""));
	assert_int_equal(
	    svc_call_async(svc_client_of(c), "student", "Student.Name", NULL,
		on_end, &ends, timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	gate_wait(&ends.gate, 123);
	assert_string_equal(ends.text, "");
	svc_free(c);
	for (size_t i = 0; i < 3; i++)
		svc_free(nodes[i]);
}

/* Started before all else, since threads do not follow a fork. */
static struct child {
	pid_t pid;
	char address[64];
} over_tcp, over_nng;

struct names {
	struct svc_client *client;
	struct gate done;
	atomic_int by_killed, failed, ended, total, after_alive;
	atomic_bool killed;
};

static void
name_done(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct names *names = arg;
	if (code != SVC_OK) {
		print_error("%s\n", detail->text);
		atomic_fetch_add(&names->failed, 1);
	} else if (strcmp(rsp->data, "killed") == 0) {
		if (atomic_fetch_add(&names->by_killed, 1) == 500)
			gate_add(&names->done);
	} else if (names->killed) {
		atomic_fetch_add(&names->after_alive, 1);
	}
	bool more = names->after_alive < 500 && names->failed == 0;
	if (more &&
	    svc_call_async(names->client, "student", "Student.Name", NULL,
		name_done, names, timeout_ms(PATIENCE_MS)) == SVC_OK)
		return;
	gate_add(&names->done);
}

static void
no_call_fails_when_a_node_is_killed(void **state)
{
	(void)state;
	if (strcmp(transport_name, "memory") == 0) {
		test_lacks("other processes");
		return;
	}
	const struct child *child =
	    strcmp(transport_name, "tcp") == 0 ? &over_tcp : &over_nng;
	struct svc_service *s = make("student", MORE(id("alive")));
	svc_handle(s, "Student.Name", name_of_node, NULL, idempotent());
	must_start(s);
	struct svc_service *c = make_client();
	announce(c, "student", "killed", child->address, true);
	struct names names = {.client = svc_client_of(c)};
	gate_init(&names.done);
	for (int i = 0; i < OUTSTANDING; i++)
		assert_int_equal(
		    svc_call_async(names.client, "student", "Student.Name",
			NULL, name_done, &names, timeout_ms(PATIENCE_MS)),
		    SVC_OK);
	gate_wait(&names.done, 1);
	kill(child->pid, SIGKILL);
	waitpid(child->pid, NULL, 0);
	names.killed = true;
	gate_wait(&names.done, 1 + OUTSTANDING);
	assert_int_equal(names.failed, 0);
	svc_free(c);
	svc_free(s);
}

/* ------------------------------------------------------------------ the end */

static void
open_calls_end_with_their_client(void **state)
{
	(void)state;
	struct slow slow;
	slow_init(&slow);
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Slow", waits, &slow);
	must_start(s);
	struct svc_service *c = make_client();
	struct ends ends;
	ends_init(&ends);
	for (int i = 0; i < 100; i++)
		assert_int_equal(
		    svc_call_async(svc_client_of(c), "student", "Student.Slow",
			NULL, on_end, &ends, timeout_ms(SVC_FOREVER)),
		    SVC_OK);
	gate_wait(&slow.entered, 1);
	svc_free(c);
	assert_int_equal(gate_count(&ends.gate), 100);
	assert_int_equal(ends.code, SVC_E_CLOSED);
	assert_string_equal(ends.text, "the client is closing");
	/* The handlers hear of it. */
	gate_wait(&slow.left, 1);
	gate_add(&slow.go);
	svc_free(s);
}

struct endless {
	struct svc_client *client;
	atomic_int ended, refused;
};

static void
calls_again(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct endless *endless = arg;
	(void)code;
	(void)rsp;
	(void)detail;
	atomic_fetch_add(&endless->ended, 1);
	struct svc_message req = {.data = "x", .len = 1};
	code = svc_call_async(endless->client, "student", "Student.Echo", &req,
	    calls_again, endless, timeout_ms(PATIENCE_MS));
	if (code != SVC_OK) {
		assert_int_equal(code, SVC_E_CLOSED);
		atomic_fetch_add(&endless->refused, 1);
	}
}

static void
a_client_ends_amid_calls(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	for (int round = 0; round < 20; round++) {
		struct svc_service *c = make_client();
		struct endless endless = {.client = svc_client_of(c)};
		struct svc_message req = {.data = "x", .len = 1};
		for (int i = 0; i < OUTSTANDING; i++)
			assert_int_equal(
			    svc_call_async(endless.client, "student",
				"Student.Echo", &req, calls_again, &endless,
				timeout_ms(PATIENCE_MS)),
			    SVC_OK);
		while (endless.ended < round * 100)
			sched_yield();
		svc_free(c);
		assert_int_equal(endless.refused, OUTSTANDING);
	}
	svc_free(s);
}

int
main(void)
{
	set_registry(NULL);
	transport_name = "tcp";
	over_tcp.pid = start_child(over_tcp.address);
	transport_name = "nng";
	over_nng.pid = start_child(over_nng.address);
	const struct CMUnitTest tests[] = {
	    TEST(no_call_fails_when_a_node_is_killed),
	    TEST(the_end_is_told),
	    TEST(failures_are_told_as_of_a_call),
	    TEST(each_of_many_calls_ends_once),
	    TEST(calls_wait_for_the_first_view_together),
	    TEST(done_may_block),
	    TEST(calls_go_to_another_node),
	    TEST(calls_go_to_the_node_they_name),
	    TEST(open_calls_end_with_their_client),
	    TEST(a_client_ends_amid_calls),
	};
	static const char *const transports[] = {"nng", "tcp", "memory"};
	int failed = 0;
	for (size_t i = 0; i < 3; i++) {
		transport_name = transports[i];
		failed += cmocka_run_group_tests_name(
		    transport_name, tests, NULL, NULL);
	}
	return failed;
}
