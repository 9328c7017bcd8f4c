/* SPDX-License-Identifier: Apache-2.0 */
/* What travels beside the messages, and what options say: over every
 * transport, for calls that wait and for calls that do not. */
#include "nodes_test.h"

static bool async; /* how the group that runs calls */

/* The end of a call of either kind. */
struct end {
	struct gate gate;
	svc_err code;
	char text[256], data[64], type[64], header[64];
};

static void
keep_end(struct end *end, svc_err code, const struct svc_message *rsp,
    const char *text)
{
	const char *header = svc_headers_get(rsp->headers, "seen");
	end->code = code;
	snprintf(end->text, sizeof(end->text), "%s", text);
	snprintf(end->data, sizeof(end->data), "%s",
	    rsp->data != NULL ? (const char *)rsp->data : "");
	snprintf(end->type, sizeof(end->type), "%s",
	    rsp->content_type != NULL ? rsp->content_type : "");
	snprintf(end->header, sizeof(end->header), "%s",
	    header != NULL ? header : "");
}

static void
on_end(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct end *end = arg;
	keep_end(end, code, rsp, detail->text);
	gate_add(&end->gate);
}

static struct end
call_with(struct svc_client *client, const char *endpoint,
    const struct svc_message *req, const struct svc_option *options)
{
	struct end end = {0};
	gate_init(&end.gate);
	struct svc_option list[16];
	size_t n = 0;
	struct svc_error err = {0};
	for (; options != NULL && options->kind != SVC_OPTION_END; options++)
		list[n++] = *options;
	list[n++] = (struct svc_option)SVC_CALL_OPT_detail(&err);
	list[n] = (struct svc_option)SVC_OPT_end();
	if (async) {
		svc_err code = svc_call_async_options(
		    client, "student", endpoint, req, on_end, &end, list);
		if (code == SVC_OK)
			gate_wait(&end.gate, 1);
		else
			keep_end(
			    &end, code, &(struct svc_message){0}, err.text);
		return end;
	}
	struct svc_message rsp;
	svc_err code =
	    svc_call_options(client, "student", endpoint, req, &rsp, list);
	keep_end(&end, code, &rsp, err.text);
	svc_message_free(&rsp);
	return end;
}
#define WITH(...) SVC_OPTIONS_(SVC_CALL_OPT, __VA_ARGS__)

/* ------------------------------------------------------------------- errors */

static svc_err
fails_with(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	int number = (int)strtol(svc_call_header(call, "number") != NULL
				     ? svc_call_header(call, "number")
				     : "2",
	    NULL, 10);
	svc_headers_set(rsp->headers, "Seen", "by the handler");
	if (req->len == 0) /* without a text */
		return (svc_err)number;
	return svc_fail(call, (svc_err)number, "%.*s: reason %d", (int)req->len,
	    (const char *)req->data, number);
}

static void
an_error_arrives_as_it_was_given(void **state)
{
	(void)state;
	atomic_int runs = 0;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Fail", fails_with, &runs, idempotent());
	must_start(s);
	static const struct {
		int number;
		const char *text;
	} errors[] = {
#define ROW(name, number, grpc, http, text) {number, text},
	    SVC_ERRORS(ROW)
#undef ROW
	};
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (errors[i].number == SVC_OK)
			continue;
		char number[16], text[64];
		snprintf(number, sizeof(number), "%d", errors[i].number);
		snprintf(text, sizeof(text), "why: reason %s", number);
		struct svc_message req = {.data = "why", .len = 3};
		struct svc_headers *seen = svc_headers_create();
		struct end end = call_with(svc_client_of(s), "Student.Fail",
		    &req, WITH(header("number", number), reply_headers(seen)));
		assert_int_equal(end.code, errors[i].number);
		assert_string_equal(end.text, text);
		/* Headers that were set before the failure come too. */
		assert_string_equal(
		    svc_headers_get(seen, "seen"), "by the handler");
		assert_int_equal(svc_headers_count(seen), 1);
		svc_headers_destroy(seen);
		end = call_with(svc_client_of(s), "Student.Fail", NULL,
		    WITH(header("number", number)));
		assert_int_equal(end.code, errors[i].number);
		assert_string_equal(end.text, errors[i].text);
	}
	/* Headers of an earlier reply are not left in the map. */
	struct svc_headers *seen = svc_headers_create();
	svc_headers_set(seen, "old", "x");
	struct end end = call_with(svc_client_of(s), "Student.Nothing", NULL,
	    WITH(reply_headers(seen)));
	assert_int_equal(end.code, SVC_E_UNIMPLEMENTED);
	assert_int_equal(svc_headers_count(seen), 0);
	svc_headers_destroy(seen);
	svc_free(s);
}

/* ------------------------------------------------------------------- headers
 */

static svc_err
claims_not_to_have_run(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	atomic_fetch_add((atomic_int *)arg, 1);
	svc_headers_set(rsp->headers, "Svc-Not-Run", "true");
	svc_headers_set(rsp->headers, "mood", "calm");
	return svc_fail(call, SVC_E_UNAVAILABLE, "no chalk");
}

static svc_err
streams_not_to_have_run(struct svc_stream *stream, void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
	svc_err header = svc_stream_set_header(stream, "svc-not-run", "true");
	svc_err trailer = svc_stream_set_trailer(stream, "Svc-Not-Run", "true");
	return header == SVC_E_INVAL && trailer == SVC_E_INVAL
		   ? SVC_E_UNAVAILABLE
		   : SVC_OK;
}

static void
no_handler_says_that_it_has_not_run(void **state)
{
	(void)state;
	atomic_int runs = 0;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Claim", claims_not_to_have_run, &runs);
	svc_handle_stream(s, "Student.List", streams_not_to_have_run, &runs);
	must_start(s);
	struct svc_headers *headers = svc_headers_create();
	struct end end = call_with(svc_client_of(s), "Student.Claim", NULL,
	    WITH(retries(3), reply_headers(headers)));
	assert_int_equal(end.code, SVC_E_UNAVAILABLE);
	assert_string_equal(end.text, "no chalk");
	assert_string_equal(svc_headers_get(headers, "mood"), "calm");
	assert_int_equal(runs, 1);
	svc_headers_destroy(headers);
	struct svc_stream *stream =
	    svc_open(svc_client_of(s), "student", "Student.List", retries(3));
	struct svc_message message;
	assert_int_equal(svc_stream_recv(stream, &message), SVC_E_UNAVAILABLE);
	assert_int_equal(runs, 2);
	svc_stream_free(stream);
	svc_free(s);
}

static svc_err
answers_too_much(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	char *value = svc_alloc_in(call, 40001);
	memset(value, 'x', 40000);
	value[40000] = '\0';
	svc_headers_set(rsp->headers, "one", value);
	svc_headers_set(rsp->headers, "two", value);
	return req->len == 0 ? SVC_OK
			     : svc_fail(call, SVC_E_ABORTED, "for a reason");
}

static void
headers_beyond_the_limit_are_refused_by_name(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Much", answers_too_much, NULL);
	must_start(s);
	struct svc_message req = {.data = "fail", .len = 4};
	/* A failure is no other than a success. */
	for (size_t len = 0; len <= 4; len += 4) {
		req.len = len;
		struct end end =
		    call_with(svc_client_of(s), "Student.Much", &req, NULL);
		assert_int_equal(end.code, SVC_E_EXHAUSTED);
		assert_non_null(strstr(end.text, "--max_header_size"));
	}
	struct svc_headers *headers = svc_headers_create();
	char *value = malloc(65537);
	assert_non_null(value);
	memset(value, 'x', 65536);
	value[65536] = '\0';
	assert_int_equal(svc_headers_set(headers, "one", value), SVC_OK);
	free(value);
	req.headers = headers;
	struct end end =
	    call_with(svc_client_of(s), "Student.Much", &req, NULL);
	assert_int_equal(end.code, SVC_E_EXHAUSTED);
	assert_non_null(strstr(end.text, "--max_header_size"));
	svc_headers_destroy(headers);
	svc_free(s);
}

static svc_err
mirror(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	const char *user = svc_call_header(call, "user");
	svc_headers_set(rsp->headers, "Seen", user != NULL ? user : "nobody");
	rsp->data = req->data;
	rsp->len = req->len;
	return SVC_OK;
}

static void
headers_pass_with_every_content_type(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Mirror", mirror, NULL);
	must_start(s);
	static const char *const types[] = {"application/json",
	    "application/protobuf", "application/octet-stream", "text/plain",
	    "application/x-own"};
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		struct svc_message req = {.data = "{}", .len = 2};
		struct end end = call_with(svc_client_of(s), "Student.Mirror",
		    &req, WITH(header("user", "ann"), content_type(types[i])));
		assert_string_equal(end.text, "");
		assert_string_equal(end.header, "ann");
		assert_string_equal(end.type, types[i]);
		assert_string_equal(end.data, "{}");
		/* That of the message, unless the option says another. */
		req.content_type = types[i];
		end = call_with(svc_client_of(s), "Student.Mirror", &req, NULL);
		assert_string_equal(end.header, "nobody");
		assert_string_equal(end.type, types[i]);
	}
	svc_free(s);
}

/* ------------------------------------------------------------------- options
 */

static char picked_key[64];

static size_t
pick_by_key(void *state, const struct svc_target *const *candidates, size_t n,
    const struct svc_pick *pick)
{
	(void)state;
	(void)candidates;
	snprintf(picked_key, sizeof(picked_key), "%s",
	    pick->key != NULL ? pick->key : "(none)");
	return pick->key != NULL ? (size_t)pick->key[0] % n : 0;
}

static const struct svc_strategy_ops by_key = {
    .abi = SVC_STRATEGY_ABI,
    .size = sizeof(struct svc_strategy_ops),
    .name = "by_key",
    .pick = pick_by_key,
};

static void
options_choose_the_node(void **state)
{
	(void)state;
	struct svc_service *s[3];
	s[0] =
	    make("student", MORE(id("a"), version("1"), metadata("zone", "x"),
				metadata("rack", "1")));
	s[1] =
	    make("student", MORE(id("b"), version("2"), metadata("zone", "x"),
				metadata("rack", "2")));
	s[2] =
	    make("student", MORE(id("c"), version("2"), metadata("zone", "y"),
				metadata("rack", "2")));
	for (int i = 0; i < 3; i++) {
		svc_handle(s[i], "Student.Name", name_of_node, NULL);
		must_start(s[i]);
	}
	static bool added;
	if (!added)
		assert_int_equal(svc_plugin_add(&by_key), SVC_OK);
	added = true;
	struct svc_service *c = make("caller", MORE(selector(by_key)));
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct svc_client *client = svc_client_of(c);
	const struct svc_option *choices[] = {
	    WITH(version("1")),
	    WITH(label("zone", "y")),
	    WITH(label("rack", "2"), label("zone", "x")),
	    WITH(label("rack", "2"), label("zone", "x"), version("2")),
	    WITH(node("c")),
	    WITH(node(svc_options_of(s[0])->advertise)),
	};
	static const char *const names[] = {"a", "c", "b", "b", "c", "a"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct end end =
		    call_with(client, "Student.Name", NULL, choices[i]);
		assert_string_equal(end.text, "");
		assert_string_equal(end.data, names[i]);
	}
	struct end end = call_with(client, "Student.Name", NULL,
	    WITH(label("rack", "1"), label("zone", "y")));
	assert_int_equal(end.code, SVC_E_UNAVAILABLE);
	assert_string_equal(end.text,
	    "service \"student\" has no node with label rack=1, zone=y (3 "
	    "without)");
	end = call_with(client, "Student.Name", NULL, WITH(node("z")));
	assert_int_equal(end.code, SVC_E_UNAVAILABLE);
	assert_non_null(strstr(end.text, "\"z\""));
	call_with(client, "Student.Name", NULL, NULL);
	assert_string_equal(picked_key, "(none)");
	end = call_with(client, "Student.Name", NULL, WITH(key("user-42")));
	assert_string_equal(end.text, "");
	assert_string_equal(picked_key, "user-42");
	svc_free(c);
	for (int i = 0; i < 3; i++)
		svc_free(s[i]);
}

static void
retries_are_counted(void **state)
{
	(void)state;
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	char address[64];
	dead_address(address);
	announce(c, "student", "dead", address, false);
	struct svc_service *s = make("student", MORE(id("alive")));
	svc_handle(s, "Student.Name", name_of_node, NULL);
	must_start(s);
	/* Without a retry some calls fail, with one none does. */
	int failed = 0;
	for (int i = 0; i < 200 && failed == 0; i++) {
		struct end end = call_with(svc_client_of(c), "Student.Name",
		    NULL, WITH(retries(0), timeout_ms(PATIENCE_MS)));
		failed += end.code == SVC_E_UNAVAILABLE;
	}
	assert_int_equal(failed, 1);
	for (int i = 0; i < 50; i++) {
		struct end end = call_with(svc_client_of(c), "Student.Name",
		    NULL, WITH(retries(1), timeout_ms(PATIENCE_MS)));
		assert_string_equal(end.text, "");
		assert_string_equal(end.data, "alive");
	}
	svc_free(s);
	svc_free(c);
}

/* ------------------------------------------------- deadlines and cancelling
 */

struct slow {
	struct gate entered, go, left;
	_Atomic int64_t remaining_ms;
	atomic_bool cancelled;
};

/* Ends when its caller has gone, or when told to. */
static svc_err
until_cancelled(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct slow *slow = arg;
	(void)req;
	(void)rsp;
	slow->remaining_ms = svc_call_remaining_ms(call);
	gate_add(&slow->entered);
	svc_will_block();
	while (gate_count(&slow->go) == 0 && !svc_call_cancelled(call))
		sched_yield();
	bool cancelled = svc_call_cancelled(call);
	slow->cancelled = cancelled;
	gate_add(&slow->left);
	/* It may see the deadline pass before its caller does. */
	return cancelled ? svc_fail(call, SVC_E_TIMEDOUT, "too late") : SVC_OK;
}

static void
slow_init(struct slow *slow)
{
	memset(slow, 0, sizeof(*slow));
	gate_init(&slow->entered);
	gate_init(&slow->go);
	gate_init(&slow->left);
}

/* Calls with so little time that it passes while "Student.Slow" runs, and
 * returns how much that was: a busy machine may need more to begin it. */
static int64_t
times_out(struct svc_client *client, const char *endpoint, struct slow *slow)
{
	int64_t brief_ms = 100;
	while (slow->remaining_ms == 0) {
		brief_ms *= 2;
		assert_true(brief_ms < PATIENCE_MS);
		struct end end = call_with(
		    client, endpoint, NULL, WITH(timeout_ms(brief_ms)));
		assert_int_equal(end.code, SVC_E_TIMEDOUT);
		gate_wait(&slow->left, gate_count(&slow->entered));
	}
	return brief_ms;
}

static void
a_handler_hears_that_its_caller_has_gone(void **state)
{
	(void)state;
	struct slow slow;
	slow_init(&slow);
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Slow", until_cancelled, &slow);
	must_start(s);
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	int64_t brief_ms = times_out(svc_client_of(c), "Student.Slow", &slow);
	assert_true(slow.cancelled);
	assert_true(slow.remaining_ms <= brief_ms);
	svc_free(c);
	svc_free(s);
}

static svc_err
passes_on(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)rsp;
	(void)arg;
	struct end end = call_with(svc_client_of(svc_call_service(call)),
	    "Student.Slow", NULL, WITH(within(call), timeout_ms(600000)));
	return svc_fail(call, end.code, "%s", end.text);
}

struct late {
	struct gate begun, gone;
	struct end end;
};

static svc_err
calls_too_late(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)rsp;
	struct late *late = arg;
	gate_add(&late->begun);
	svc_will_block();
	while (!svc_call_cancelled(call))
		sched_yield();
	late->end = call_with(svc_client_of(svc_call_service(call)),
	    "Student.Slow", NULL, WITH(within(call)));
	gate_add(&late->gone);
	return svc_fail(call, SVC_E_TIMEDOUT, "too late");
}

static void
a_call_within_another_has_no_more_time(void **state)
{
	(void)state;
	struct slow slow;
	slow_init(&slow);
	struct late late = {0};
	gate_init(&late.begun);
	gate_init(&late.gone);
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Slow", until_cancelled, &slow);
	svc_handle(s, "Student.Relay", passes_on, NULL);
	svc_handle(s, "Student.Late", calls_too_late, &late);
	must_start(s);
	int64_t brief_ms = times_out(svc_client_of(s), "Student.Relay", &slow);
	assert_true(slow.remaining_ms <= brief_ms);
	int entered = gate_count(&slow.entered);
	for (brief_ms = 100; gate_count(&late.begun) == 0; brief_ms *= 2) {
		assert_true(brief_ms < PATIENCE_MS);
		struct end end = call_with(svc_client_of(s), "Student.Late",
		    NULL, WITH(timeout_ms(brief_ms)));
		assert_int_equal(end.code, SVC_E_TIMEDOUT);
	}
	gate_wait(&late.gone, gate_count(&late.begun));
	assert_int_equal(gate_count(&slow.entered), entered);
	/* By the clock or by the caller's word, whichever came first. */
	assert_true(late.end.code == SVC_E_TIMEDOUT ||
		    late.end.code == SVC_E_CANCELLED);
	assert_non_null(strstr(late.end.text, "call that is being handled"));
	svc_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(an_error_arrives_as_it_was_given),
	    TEST(no_handler_says_that_it_has_not_run),
	    TEST(headers_beyond_the_limit_are_refused_by_name),
	    TEST(headers_pass_with_every_content_type),
	    TEST(options_choose_the_node),
	    TEST(retries_are_counted),
	    TEST(a_handler_hears_that_its_caller_has_gone),
	    TEST(a_call_within_another_has_no_more_time),
	};
	static const char *const transports[] = {"memory", "tcp", "nng"};
	int failed = 0;
	for (size_t i = 0; i < 6; i++) {
		async = i >= 3;
		transport_name = transports[i % 3];
		char name[32];
		snprintf(name, sizeof(name), "%s%s", transport_name,
		    async ? ", not waiting" : "");
		failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
	}
	return failed;
}
