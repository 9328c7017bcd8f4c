/* SPDX-License-Identifier: Apache-2.0 */
/* Calls while single allocations fail, on either side: each call ends, by an
 * answer or an error, and the next one is well. */
#include "nodes_test.h"

/* Counts down to the allocation that fails; 0: none does. */
static _Atomic int64_t countdown;
static _Atomic int64_t counted;

static bool
fail_one(size_t size, void *arg)
{
	(void)size;
	(void)arg;
	atomic_fetch_add(&counted, 1);
	return atomic_load(&countdown) == 0 ||
	       atomic_fetch_sub(&countdown, 1) != 1;
}

static svc_err
echo(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	const char *user = svc_call_header(call, "user");
	if (user != NULL &&
	    svc_headers_set(rsp->headers, "Seen", user) != SVC_OK)
		return svc_fail(call, SVC_E_NOMEM, "out of memory");
	return svc_reply_text(
	    call, rsp, NULL, "%.*s", (int)req->len, (const char *)req->data);
}

struct end {
	struct gate gate;
	svc_err code;
	char data[256];
};

static void
on_end(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct end *end = arg;
	end->code = code;
	snprintf(end->data, sizeof(end->data), "%s",
	    code == SVC_OK ? (const char *)rsp->data : detail->text);
	gate_add(&end->gate);
}

static svc_err
call_once(struct svc_client *client, bool async, char text[256])
{
	struct svc_message req = {.data = "hello", .len = 5}, rsp;
	struct svc_error err = {0};
	if (!async) {
		svc_err code = svc_call(client, "student", "Student.Echo", &req,
		    &rsp, header("user", "ann"), timeout_ms(PATIENCE_MS),
		    node("own"), idempotent(), detail(&err));
		snprintf(text, 256, "%s",
		    code == SVC_OK ? (const char *)rsp.data : err.text);
		svc_message_free(&rsp);
		return code;
	}
	struct end end = {0};
	gate_init(&end.gate);
	svc_err code = svc_call_async(client, "student", "Student.Echo", &req,
	    on_end, &end, header("user", "ann"), timeout_ms(PATIENCE_MS),
	    node("own"), idempotent(), detail(&err));
	if (code != SVC_OK) {
		snprintf(text, 256, "%s", err.text);
		return code;
	}
	gate_wait(&end.gate, 1);
	snprintf(text, 256, "%s", end.data);
	return end.code;
}

static void
sweep(bool async)
{
	struct svc_service *s = make("student", MORE(id("own")));
	svc_handle(s, "Student.Echo", echo, NULL);
	must_start(s);
	/* The same under other names, which get connections of their own. */
	long loops = sysconf(_SC_NPROCESSORS_ONLN);
	for (long i = 0; i < loops; i++) {
		char id[32];
		snprintf(id, sizeof(id), "other-%ld", i);
		announce(s, "student", id, svc_options_of(s)->advertise, true);
	}
	int64_t total = 1;
	int failed = 0;
	/* A client of its own each time: connecting and the memory that is
	 * kept for later calls are part of it. The other threads make a few
	 * allocations more or less each time. */
	for (int64_t n = 0; n <= total; n++) {
		struct svc_service *c = make("caller", NULL);
		assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
		/* The view is there, and the loops have their threads. */
		for (long i = 0; i < loops; i++) {
			char id[32];
			snprintf(id, sizeof(id), "other-%ld", i);
			assert_int_equal(
			    svc_call(svc_client_of(c), "student",
				"Student.Echo", NULL, NULL, node(id)),
			    SVC_OK);
		}
		char text[256] = "";
		atomic_store(&counted, 0);
		atomic_store(&countdown, n);
		svc_err code = call_once(svc_client_of(c), async, text);
		if (n == 0)
			total = atomic_load(&counted) + 20;
		atomic_store(&countdown, 0);
		if (code == SVC_E_TIMEDOUT)
			print_error("allocation %lld of %lld: %s\n",
			    (long long)n, (long long)total, text);
		assert_true(text[0] != '\0');
		assert_int_not_equal(code, SVC_E_TIMEDOUT);
		if (n == 0)
			assert_int_equal(code, SVC_OK);
		if (code == SVC_OK)
			assert_string_equal(text, "hello");
		else
			failed++;
		/* A connection or a view that was lost by it is made anew. */
		code = call_once(svc_client_of(c), async, text);
		if (code != SVC_OK)
			print_error("after allocation %lld of %lld: %s\n",
			    (long long)n, (long long)total, text);
		assert_int_equal(code, SVC_OK);
		svc_free(c);
	}
	assert_true(failed > 0);
	svc_free(s);
}

static void
a_waiting_call_without_memory(void **state)
{
	(void)state;
	sweep(false);
}

static void
a_call_that_does_not_wait_without_memory(void **state)
{
	(void)state;
	sweep(true);
}

int
main(void)
{
	/* While one thread runs. */
	svc_mem_set_hook(fail_one, NULL);
	const struct CMUnitTest tests[] = {
	    TEST(a_waiting_call_without_memory),
	    TEST(a_call_that_does_not_wait_without_memory),
	};
	static const char *const transports[] = {"memory", "tcp", "nng"};
	int failed = 0;
	for (size_t i = 0; i < 3; i++) {
		transport_name = transports[i];
		failed += cmocka_run_group_tests_name(
		    transport_name, tests, NULL, NULL);
	}
	return failed;
}
