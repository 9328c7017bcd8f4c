/* SPDX-License-Identifier: Apache-2.0 */
/* Calls from client to handler and back, over every transport at hand. */
#include "service_test.h"

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

static svc_err
greet(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	return svc_reply_text(call, rsp, "text/plain", "%s %.*s",
	    (const char *)arg, (int)req->len, (const char *)req->data);
}

static svc_err
fails(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)rsp;
	atomic_int *runs = arg;
	if (runs != NULL)
		atomic_fetch_add(runs, 1);
	if (req->len == 0)
		return SVC_E_ABORTED;
	return svc_fail(call, SVC_E_PRECONDITION, "no %.*s today",
	    (int)req->len, (const char *)req->data);
}

static svc_err
call_text(struct svc_client *client, const char *service, const char *endpoint,
    const char *text, char *out, size_t size, struct svc_error *err)
{
	struct svc_message req = {.data = text, .len = strlen(text)};
	struct svc_message rsp;
	svc_err code =
	    svc_call(client, service, endpoint, &req, &rsp, detail(err));
	if (code == SVC_OK)
		snprintf(
		    out, size, "%.*s", (int)rsp.len, (const char *)rsp.data);
	svc_message_free(&rsp);
	return code;
}

/* ------------------------------------------------------------------ basics */

static void
a_call_is_answered(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	static char hello[] = "hello";
	assert_int_equal(svc_handle(s, "Student.Greet", greet, hello), SVC_OK);
	assert_int_equal(svc_handle(s, "Student.Echo", echo, NULL), SVC_OK);
	must_start(s);
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct svc_client *client = svc_client_of(c);

	struct svc_message req = {.data = "bob", .len = 3}, rsp;
	assert_int_equal(
	    svc_call(client, "student", "Student.Greet", &req, &rsp), SVC_OK);
	assert_string_equal(rsp.content_type, "text/plain");
	assert_int_equal(rsp.len, 9);
	assert_memory_equal(rsp.data, "hello bob", 10); /* with a NUL */
	svc_message_free(&rsp);
	assert_null(rsp.data);
	svc_message_free(&rsp);

	/* The reply has the type of the request, that of the option, that of
	 * the service. */
	assert_int_equal(svc_call(client, "student", "Student.Echo", &req, &rsp,
			     content_type("a/b")),
	    SVC_OK);
	assert_string_equal(rsp.content_type, "a/b");
	svc_message_free(&rsp);
	assert_int_equal(
	    svc_call(client, "student", "Student.Echo", &req, &rsp), SVC_OK);
	assert_string_equal(rsp.content_type, "application/json");
	svc_message_free(&rsp);

	/* Neither a request nor a reply is needed. */
	assert_int_equal(
	    svc_call(client, "student", "Student.Echo", NULL, &rsp), SVC_OK);
	assert_int_equal(rsp.len, 0);
	assert_non_null(rsp.data);
	svc_message_free(&rsp);
	assert_int_equal(
	    svc_call(client, "student", "Student.Echo", &req, NULL), SVC_OK);
	svc_message_free(NULL);

	/* One message may be both. */
	rsp = req;
	assert_int_equal(
	    svc_call(client, "student", "Student.Echo", &rsp, &rsp), SVC_OK);
	assert_string_equal(rsp.data, "bob");
	svc_message_free(&rsp);

	/* A service may call itself. */
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Echo", &req, &rsp),
	    SVC_OK);
	svc_message_free(&rsp);
	svc_free(c);
	svc_free(s);
}

static void
big_messages_pass_whole(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	const size_t sizes[] = {1, 4095, 4096, 4097, 65536, 1 << 20, 4 << 20};
	char *data = malloc(4 << 20);
	for (size_t i = 0; i < (4 << 20); i++)
		data[i] = (char)(i * 31 + i / 251);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct svc_message req = {.data = data, .len = sizes[i]}, rsp;
		struct svc_error err = {0};
		svc_err code =
		    svc_call(svc_client_of(s), "student", "Student.Echo", &req,
			&rsp, timeout_ms(PATIENCE_MS), detail(&err));
		assert_string_equal(err.text, "");
		assert_int_equal(code, SVC_OK);
		assert_int_equal(rsp.len, sizes[i]);
		assert_memory_equal(rsp.data, data, sizes[i]);
		svc_message_free(&rsp);
	}
	free(data);
	svc_free(s);
}

static svc_err
use_headers(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	const char *user = svc_call_header(call, "user");
	assert_null(svc_call_header(call, "nothing"));
	assert_int_equal(svc_headers_count(rsp->headers), 0);
	svc_headers_set(rsp->headers, "Seen", user != NULL ? user : "nobody");
	svc_headers_set(rsp->headers, "Peer", svc_call_peer(call));
	assert_string_equal(svc_call_endpoint(call), "Student.Headers");
	return SVC_OK;
}

static void
headers_pass_both_ways(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Headers", use_headers, NULL);
	must_start(s);
	struct svc_client *client = svc_client_of(s);
	struct svc_headers *own = svc_headers_create();
	svc_headers_set(own, "User", "ann");
	struct svc_message req = {.headers = own}, rsp;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(
		    svc_call(client, "student", "Student.Headers", &req, &rsp),
		    SVC_OK);
		assert_string_equal(
		    svc_headers_get(rsp.headers, "seen"), "ann");
		if (strcmp(transport_name, "tcp") == 0)
			assert_int_equal(
			    strncmp(svc_headers_get(rsp.headers, "peer"),
				"127.0.0.1:", 10),
			    0);
		svc_message_free(&rsp);
		assert_int_equal(
		    svc_call(client, "student", "Student.Headers", &req, &rsp,
			header("user", "bob"), header("x", "y")),
		    SVC_OK);
		assert_string_equal(
		    svc_headers_get(rsp.headers, "seen"), "bob");
		svc_message_free(&rsp);
	}
	/* The caller's map is as it was. */
	assert_string_equal(svc_headers_get(own, "user"), "ann");
	assert_int_equal(svc_headers_count(own), 1);
	svc_headers_destroy(own);

	struct svc_error err = {0};
	assert_int_equal(svc_call(client, "student", "Student.Headers", NULL,
			     &rsp, header("a b", "c"), detail(&err)),
	    SVC_E_INVAL);
	assert_string_equal(err.text,
	    "header(\"a b\"): a name has 1 to 255 printable characters "
	    "without space, ':' and '=', a value is one line");
	svc_free(s);
}

/* ------------------------------------------------------------------ errors */

static void
errors_say_what_to_do(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Get", echo, NULL);
	svc_handle(s, "Student.Add", echo, NULL);
	svc_handle(s, "Student.Fails", fails, NULL);
	must_start(s);
	struct svc_client *client = svc_client_of(s);
	char out[64];
	struct svc_error err = {0};
	assert_int_equal(call_text(client, "student", "Student.X", "", out,
			     sizeof(out), &err),
	    SVC_E_UNIMPLEMENTED);
	assert_int_equal(err.code, SVC_E_UNIMPLEMENTED);
	assert_string_equal(err.text,
	    "service \"student\" has no endpoint \"Student.X\"; it has: "
	    "Student.Add, Student.Fails, Student.Get");
	assert_int_equal(call_text(client, "student", "Student.Fails", "milk",
			     out, sizeof(out), &err),
	    SVC_E_PRECONDITION);
	assert_string_equal(err.text, "no milk today");
	assert_int_equal(call_text(client, "student", "Student.Fails", "", out,
			     sizeof(out), &err),
	    SVC_E_ABORTED);
	assert_string_equal(err.text, "aborted");
	assert_int_equal(call_text(client, "nobody", "Student.Get", "", out,
			     sizeof(out), &err),
	    SVC_E_NOT_FOUND);
	assert_string_equal(err.text, "service not found: nobody");
	assert_int_equal(
	    call_text(client, "", "Student.Get", "", out, sizeof(out), &err),
	    SVC_E_INVAL);
	assert_int_equal(
	    call_text(client, "student", "", "", out, sizeof(out), &err),
	    SVC_E_INVAL);
	assert_string_equal(
	    err.text, "a call needs the names of a service and an endpoint");
	assert_int_equal(
	    call_text(NULL, "student", "A.B", "", out, sizeof(out), &err),
	    SVC_E_PRECONDITION);
	assert_string_equal(
	    err.text, "there is no client: svc_init has not succeeded");
	/* Nobody asks for the detail. */
	assert_int_equal(
	    svc_call(client, "student", "Student.Fails", NULL, NULL),
	    SVC_E_ABORTED);
	svc_free(s);
}

static void
bad_call_options(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	must_start(s);
	struct svc_client *client = svc_client_of(s);
	struct svc_error err = {0};
	assert_int_equal(svc_call(client, "student", "A.B", NULL, NULL,
			     timeout_ms(0), detail(&err)),
	    SVC_E_INVAL);
	assert_string_equal(
	    err.text, "timeout_ms(0) must be at least 1, or SVC_FOREVER");
	assert_int_equal(svc_call(client, "student", "A.B", NULL, NULL,
			     retries(101), detail(&err)),
	    SVC_E_INVAL);
	assert_string_equal(err.text, "retries(101) must be from 0 to 100");
	assert_int_equal(
	    svc_call(client, "student", "A.B", NULL, NULL, label("a", "1"),
		label("b", "1"), label("c", "1"), label("d", "1"),
		label("e", "1"), label("f", "1"), label("g", "1"),
		label("h", "1"), label("i", "1"), detail(&err)),
	    SVC_E_INVAL);
	assert_string_equal(
	    err.text, "label(\"i\") is one too many: a call takes 8");
	const struct {
		struct svc_option option;
		const char *name;
	} empty[] = {
	    {SVC_CALL_OPT_version(""), "version"},
	    {SVC_CALL_OPT_label(NULL, "x"), "label"},
	    {SVC_CALL_OPT_node(""), "node"},
	    {SVC_CALL_OPT_content_type(NULL), "content_type"},
	};
	for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++) {
		struct svc_option list[] = {
		    empty[i].option, SVC_CALL_OPT_detail(&err), SVC_OPT_end()};
		char text[80];
		snprintf(text, sizeof(text),
		    "option %s() needs a text that is not empty",
		    empty[i].name);
		assert_int_equal(svc_call_options(client, "student", "A.B",
				     NULL, NULL, list),
		    SVC_E_INVAL);
		assert_string_equal(err.text, text);
	}
	struct svc_option foreign[] = {
	    SVC_OPT_ttl(3), SVC_CALL_OPT_detail(&err), SVC_OPT_end()};
	assert_int_equal(
	    svc_call_options(client, "student", "A.B", NULL, NULL, foreign),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text, "is not one of a call"));
	svc_free(s);
}

static struct svc_error refused;

static void
see_refused(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "service.refused") == 0)
		svc_error_set(&refused, SVC_E_INVAL, "%s", line->text);
}

static void
bad_endpoints(void **state)
{
	(void)state;
	svc_log_set_sink(see_refused, NULL);
	struct svc_service *s = make("student", MORE(log_level("warn")));
	const char *const bad[] = {
	    "", "Get", ".Get", "Student.", "Stu dent.Get", NULL};
	for (size_t i = 0; i < 6; i++)
		assert_int_equal(
		    svc_handle(s, bad[i], echo, NULL), SVC_E_INVAL);
	assert_int_equal(svc_handle(s, "Get", echo, NULL), SVC_E_INVAL);
	assert_string_equal(svc_error_text(s),
	    "endpoint \"Get\" must be \"Type.Method\": up to 255 of "
	    "[A-Za-z0-9._-] with a dot inside");
	assert_int_equal(svc_handle(s, "Svc.Get", echo, NULL), SVC_E_INVAL);
	assert_int_equal(
	    svc_handle(s, "A.Get", echo, NULL, limit(0)), SVC_E_INVAL);
	assert_int_equal(svc_handle(s, "A.Get", NULL, NULL), SVC_E_INVAL);
	assert_int_equal(svc_handle(s, "A.Get", echo, NULL), SVC_OK);
	assert_int_equal(svc_handle(s, "A.Get", echo, NULL), SVC_E_EXISTS);
	assert_string_equal(
	    svc_error_text(s), "endpoint \"A.Get\" has a handler already");
	/* Who has not looked learns of the first one at the start. */
	must_start(s);
	assert_string_equal(refused.text,
	    "the service starts without what it was given: endpoint \"\" must "
	    "be \"Type.Method\": up to 255 of [A-Za-z0-9._-] with a dot "
	    "inside");
	svc_log_set_sink(NULL, NULL);
	assert_int_equal(
	    svc_handle(s, "A.Put", echo, NULL), SVC_E_PRECONDITION);
	assert_int_equal(svc_start(s), SVC_E_PRECONDITION);
	assert_int_equal(svc_init(s, 0, NULL), SVC_E_PRECONDITION);
	svc_free(s);
}

static svc_err
large(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	(void)req;
	rsp->len = 2000;
	rsp->data = svc_alloc_in(call, rsp->len);
	memset(svc_alloc_in(call, rsp->len), 'x', rsp->len);
	memset((char *)(uintptr_t)rsp->data, 'y', rsp->len);
	return SVC_OK;
}

static void
sizes_have_a_limit_that_is_named(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Large", large, NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	char program[] = "program", flag[] = "--max_message_size=1000";
	char *argv[] = {program, flag, NULL};
	assert_int_equal(svc_init(s, 2, argv), SVC_OK);
	must_start(s);
	struct svc_error err = {0};
	char out[16];
	assert_int_equal(call_text(svc_client_of(s), "student", "Student.Large",
			     "", out, sizeof(out), &err),
	    SVC_E_EXHAUSTED);
	assert_string_equal(err.text,
	    "the reply of Student.Large has 2000 bytes, more than "
	    "max_message_size (1000); raise --max_message_size");
	char data[1001] = {0};
	struct svc_message req = {.data = data, .len = sizeof(data)};
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Echo",
			     &req, NULL, detail(&err)),
	    SVC_E_EXHAUSTED);
	assert_string_equal(err.text,
	    "the request has 1001 bytes, more than max_message_size (1000); "
	    "raise --max_message_size");
	/* Where the two sides differ, the smaller one counts. */
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	assert_int_equal(svc_call(svc_client_of(c), "student", "Student.Echo",
			     &req, NULL, detail(&err)),
	    SVC_E_EXHAUSTED);
	assert_non_null(strstr(err.text, "1000"));
	assert_non_null(strstr(err.text, "max_message_size"));
	/* The connection has not suffered. */
	req.len = 1000;
	assert_int_equal(
	    svc_call(svc_client_of(c), "student", "Student.Echo", &req, NULL),
	    SVC_OK);
	svc_free(c);
	svc_free(s);
}

/* --------------------------------------------------------------- deadlines */

struct slow {
	struct gate entered, go, left;
	_Atomic int64_t remaining_ms;
	atomic_bool cancelled, until_cancelled;
};

static svc_err
wait_for_gate(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct slow *slow = arg;
	(void)req;
	(void)rsp;
	slow->remaining_ms = svc_call_remaining_ms(call);
	gate_add(&slow->entered);
	gate_wait(&slow->go, 1);
	slow->cancelled = svc_call_cancelled(call);
	int64_t deadline = svc_deadline(PATIENCE_MS);
	while (slow->until_cancelled && !slow->cancelled &&
	       svc_now_ms() < deadline)
		slow->cancelled = svc_call_cancelled(call);
	gate_add(&slow->left);
	return SVC_OK;
}

static void
slow_init(struct slow *slow)
{
	memset(slow, 0, sizeof(*slow));
	gate_init(&slow->entered);
	gate_init(&slow->go);
	gate_init(&slow->left);
}

static void
deadlines_pass_to_the_handler(void **state)
{
	(void)state;
	struct slow slow;
	slow_init(&slow);
	slow.until_cancelled = true;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Slow", wait_for_gate, &slow);
	must_start(s);
	struct svc_error err = {0};
	int64_t brief_ms = 150;
	/* Until the handler has begun in time. */
	while (slow.remaining_ms == 0) {
		brief_ms *= 2;
		int64_t began = svc_now_ms();
		assert_int_equal(
		    svc_call(svc_client_of(s), "student", "Student.Slow", NULL,
			NULL, timeout_ms(brief_ms), detail(&err)),
		    SVC_E_TIMEDOUT);
		assert_true(svc_now_ms() - began >= brief_ms);
		assert_true(svc_now_ms() - began < PATIENCE_MS);
	}
	assert_non_null(strstr(err.text, "no reply from "));
	assert_non_null(strstr(err.text, " before the deadline"));
	gate_add(&slow.go);
	gate_wait(&slow.left, gate_count(&slow.entered));
	assert_true(slow.remaining_ms <= brief_ms);
	assert_true(slow.cancelled);
	/* Without a deadline. */
	slow.until_cancelled = false;
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Slow",
			     NULL, NULL, timeout_ms(SVC_FOREVER)),
	    SVC_OK);
	assert_int_equal(slow.remaining_ms, SVC_FOREVER);
	assert_false(slow.cancelled);
	svc_free(s);
}

struct caller {
	struct svc_client *client;
	const char *service, *endpoint;
	svc_err code;
	struct svc_error err;
	pthread_t thread;
};

static void *
call_in_thread(void *arg)
{
	struct caller *caller = arg;
	caller->code =
	    svc_call(caller->client, caller->service, caller->endpoint, NULL,
		NULL, timeout_ms(PATIENCE_MS), detail(&caller->err));
	return NULL;
}

static void
start_caller(struct caller *caller, struct svc_client *client,
    const char *service, const char *endpoint)
{
	memset(caller, 0, sizeof(*caller));
	caller->client = client;
	caller->service = service;
	caller->endpoint = endpoint;
	assert_int_equal(
	    svc_thread_start(&caller->thread, "caller", call_in_thread, caller),
	    SVC_OK);
}

static void
an_endpoint_has_its_limit(void **state)
{
	(void)state;
	struct slow slow;
	slow_init(&slow);
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Slow", wait_for_gate, &slow, limit(2));
	must_start(s);
	struct caller callers[2];
	for (int i = 0; i < 2; i++)
		start_caller(
		    &callers[i], svc_client_of(s), "student", "Student.Slow");
	gate_wait(&slow.entered, 2);
	struct svc_error err = {0};
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Slow",
			     NULL, NULL, detail(&err)),
	    SVC_E_EXHAUSTED);
	assert_string_equal(
	    err.text, "endpoint \"Student.Slow\" runs 2 calls, its limit");
	gate_add(&slow.go);
	for (int i = 0; i < 2; i++) {
		svc_thread_join(callers[i].thread);
		assert_int_equal(callers[i].code, SVC_OK);
	}
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Slow", NULL, NULL),
	    SVC_OK);
	svc_free(s);
}

/* ------------------------------------------------------------------ memory */

static svc_err
allocates(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	char *parts[64];
	size_t size = req->len;
	for (size_t i = 0; i < 64; i++) {
		parts[i] = svc_alloc_in(call, size);
		assert_non_null(parts[i]);
		assert_int_equal((uintptr_t)parts[i] % 16, 0);
		memset(parts[i], (int)i, size);
	}
	for (size_t i = 0; i < 64; i++)
		for (size_t k = 0; k < size; k++)
			assert_int_equal(parts[i][k], (char)i);
	char *text = svc_printf(call, "%0*d", (int)size, 7);
	assert_int_equal(strlen(text), size);
	return svc_reply_text(call, rsp, NULL, "%s", text);
}

static void
memory_lives_as_long_as_the_call(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Alloc", allocates, NULL);
	must_start(s);
	static const char zeros[100000];
	const size_t sizes[] = {
	    1, 15, 16, 17, 63, 64, 65, 1000, 4096, 20000, 100000, 3};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct svc_message req = {.data = zeros, .len = sizes[i]}, rsp;
		assert_int_equal(
		    svc_call(svc_client_of(s), "student", "Student.Alloc", &req,
			&rsp, timeout_ms(PATIENCE_MS)),
		    SVC_OK);
		assert_int_equal(rsp.len, sizes[i]);
		svc_message_free(&rsp);
	}
	svc_free(s);
}

/* ---------------------------------------------------------------- wrappers */

static char order[64];

static void
add_order(const char *who)
{
	size_t len = strlen(order);
	snprintf(order + len, sizeof(order) - len, "%s", who);
}

static svc_err
around(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, svc_handler next, void *next_arg, void *arg)
{
	add_order(arg);
	if (svc_call_header(call, "stop") != NULL)
		return svc_fail(
		    call, SVC_E_DENIED, "stopped by %s", (const char *)arg);
	svc_err code = next(call, req, rsp, next_arg);
	add_order(arg);
	return code;
}

static svc_err
around_call(const struct svc_outgoing *out, svc_call_next next, void *next_arg,
    void *arg)
{
	add_order(arg);
	assert_string_equal(out->endpoint, "Student.Echo");
	assert_string_equal(svc_headers_get(out->req->headers, "token"), "t");
	svc_err code = next(out, next_arg);
	add_order(arg);
	return code;
}

static svc_err
blocks_all(const struct svc_outgoing *out, svc_call_next next, void *next_arg,
    void *arg)
{
	(void)next;
	(void)next_arg;
	(void)arg;
	return svc_error_set(out->err, SVC_E_UNAUTHENTICATED, "not today");
}

static void
wrappers_run_in_their_order(void **state)
{
	(void)state;
	static char a[] = "a", b[] = "b", y[] = "y", z[] = "z";
	struct svc_service *s = make(
	    "student", MORE(wrap_handler(around, a), wrap_call(around_call, y),
			   wrap_handler(around, b), wrap_call(around_call, z)));
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	order[0] = '\0';
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Echo",
			     NULL, NULL, header("token", "t")),
	    SVC_OK);
	assert_string_equal(order, "yzabbazy");
	order[0] = '\0';
	struct svc_error err = {0};
	assert_int_equal(
	    svc_call(svc_client_of(s), "student", "Student.Echo", NULL, NULL,
		header("token", "t"), header("stop", "1"), detail(&err)),
	    SVC_E_DENIED);
	assert_string_equal(err.text, "stopped by a");
	assert_string_equal(order, "yzazy");
	svc_free(s);

	s = make("student", MORE(wrap_call(blocks_all, NULL)));
	must_start(s);
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Echo",
			     NULL, NULL, detail(&err)),
	    SVC_E_UNAUTHENTICATED);
	assert_string_equal(err.text, "not today");
	svc_free(s);
}

/* ------------------------------------------------- many threads, and nesting
 */

static svc_err
relay(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	int depth = (int)strtol(req->data, NULL, 10);
	if (depth == 0)
		return svc_reply_text(call, rsp, "text/plain", "bottom");
	char *down = svc_printf(call, "%d", depth - 1);
	struct svc_message next = {.data = down, .len = strlen(down) + 1};
	struct svc_message got;
	svc_err code = svc_call(svc_client_of(svc_call_service(call)),
	    "student", "Student.Relay", &next, &got, timeout_ms(PATIENCE_MS));
	if (code == SVC_OK)
		code = svc_reply_text(call, rsp, "text/plain", "%d %.*s", depth,
		    (int)got.len, (const char *)got.data);
	svc_message_free(&got);
	return code;
}

static void
handlers_may_call(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Relay", relay, NULL);
	must_start(s);
	struct svc_message req = {.data = "8", .len = 2}, rsp;
	assert_int_equal(svc_call(svc_client_of(s), "student", "Student.Relay",
			     &req, &rsp, timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	assert_string_equal(rsp.data, "8 7 6 5 4 3 2 1 bottom");
	svc_message_free(&rsp);
	svc_free(s);
}

#define THREADS 8
#define CALLS 200

static void *
call_many(void *arg)
{
	struct caller *caller = arg;
	for (int i = 0; i < CALLS && caller->code == SVC_OK; i++) {
		char text[64];
		int len = snprintf(text, sizeof(text), "%p %d", arg, i);
		struct svc_message req = {.data = text, .len = (size_t)len};
		struct svc_message rsp;
		caller->code =
		    svc_call(caller->client, "student", "Student.Echo", &req,
			&rsp, timeout_ms(PATIENCE_MS), detail(&caller->err));
		if (caller->code == SVC_OK &&
		    (rsp.len != (size_t)len ||
			memcmp(rsp.data, text, rsp.len) != 0))
			caller->code = SVC_E_DATA_LOSS;
		svc_message_free(&rsp);
	}
	return NULL;
}

static void
many_threads_share_a_client(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct caller callers[THREADS] = {0};
	for (int i = 0; i < THREADS; i++) {
		callers[i].client = svc_client_of(s);
		assert_int_equal(svc_thread_start(&callers[i].thread, "caller",
				     call_many, &callers[i]),
		    SVC_OK);
	}
	for (int i = 0; i < THREADS; i++) {
		svc_thread_join(callers[i].thread);
		assert_string_equal(callers[i].err.text, "");
		assert_int_equal(callers[i].code, SVC_OK);
	}
	svc_free(s);
}

/* -------------------------------------------------------------------- main */

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_call_is_answered),
	    TEST(big_messages_pass_whole),
	    TEST(headers_pass_both_ways),
	    TEST(errors_say_what_to_do),
	    TEST(bad_call_options),
	    TEST(bad_endpoints),
	    TEST(sizes_have_a_limit_that_is_named),
	    TEST(deadlines_pass_to_the_handler),
	    TEST(an_endpoint_has_its_limit),
	    TEST(memory_lives_as_long_as_the_call),
	    TEST(wrappers_run_in_their_order),
	    TEST(handlers_may_call),
	    TEST(many_threads_share_a_client),
	};
	transport_name = "memory";
	int failed = cmocka_run_group_tests_name("memory", tests, NULL, NULL);
	transport_name = "tcp";
	failed += cmocka_run_group_tests_name("tcp", tests, NULL, NULL);
	transport_name = "nng";
	return failed + cmocka_run_group_tests_name("nng", tests, NULL, NULL);
}
