/* SPDX-License-Identifier: Apache-2.0 */
/* The time of calls that nobody waits for, and what a call that is made in the
 * place of another one takes over from it: nothing that it did not say. */
#include "async_test.h"

static struct svc_service *
start_slow(struct slow *slow)
{
	slow_init(slow);
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Slow", waits, slow);
	svc_handle(s, "Student.Greet", greet, NULL);
	must_start(s);
	return s;
}

static void
a_deadline_ends_a_call(void **state)
{
	(void)state;
	struct slow slow;
	struct svc_service *s = start_slow(&slow), *c = make_client();
	struct ends ends;
	ends_init(&ends);
	/* Some of each length, the longer ones first. */
	static const int64_t timeouts[] = {1500, 300, 50, 7, 1};
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(
		    svc_call_async(svc_client_of(c), "student", "Student.Slow",
			NULL, on_end, &ends, timeout_ms(timeouts[i])),
		    SVC_OK);
	gate_wait(&ends.gate, 5);
	assert_int_equal(ends.code, SVC_E_TIMEDOUT);
	/* Those that came to the handler are told. */
	gate_wait(&slow.left, gate_count(&slow.entered));
	assert_true(slow.cancelled);
	/* The connection has not suffered. */
	struct svc_message req = {.data = "bob", .len = 3};
	assert_int_equal(svc_call_async(svc_client_of(c), "student",
			     "Student.Greet", &req, on_end, &ends),
	    SVC_OK);
	gate_wait(&ends.gate, 6);
	assert_string_equal(ends.data, "hello bob");
	svc_free(c);
	svc_free(s);
}

static svc_err
gives_up(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t never;
	svc_cond_init(&never);
	pthread_mutex_lock(&lock);
	while (!svc_call_cancelled(call))
		svc_cond_wait(&never, &lock, svc_deadline(1));
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&never);
	return svc_reply_text(call, rsp, NULL, "half of it");
}

/* The handler knows of the deadline at the same time as the caller, or a moment
 * earlier. */
static void
half_an_answer_is_none(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c = make_client();
	svc_handle(s, "Student.Half", gives_up, NULL);
	must_start(s);
	struct ends ends;
	ends_init(&ends);
	for (int i = 1; i <= 10; i++) {
		assert_int_equal(
		    svc_call_async(svc_client_of(c), "student", "Student.Half",
			NULL, on_end, &ends, timeout_ms(20)),
		    SVC_OK);
		gate_wait(&ends.gate, i);
		assert_int_equal(ends.code, SVC_E_TIMEDOUT);
	}
	svc_free(c);
	svc_free(s);
}

static int
use_manual_clock(void **state)
{
	svc_clock_manual();
	return set_registry(state);
}

static int
use_real_clock(void **state)
{
	(void)state;
	svc_clock_real();
	return 0;
}

static void
deadlines_keep_the_clock(void **state)
{
	(void)state;
	struct slow slow;
	struct svc_service *s = start_slow(&slow), *c = make_client();
	struct ends soon, late, never;
	ends_init(&soon);
	ends_init(&late);
	ends_init(&never);
	struct svc_client *client = svc_client_of(c);
	assert_int_equal(svc_call_async(client, "student", "Student.Slow", NULL,
			     on_end, &never, timeout_ms(SVC_FOREVER)),
	    SVC_OK);
	assert_int_equal(svc_call_async(client, "student", "Student.Slow", NULL,
			     on_end, &late, timeout_ms(3600000)),
	    SVC_OK);
	assert_int_equal(svc_call_async(client, "student", "Student.Slow", NULL,
			     on_end, &soon, timeout_ms(100)),
	    SVC_OK);
	gate_wait(&slow.entered, 3);
	svc_clock_advance(99);
	/* Not yet: a call and its answer pass, and nobody has been told. */
	struct svc_message req = {.data = "bob", .len = 3};
	struct ends other;
	ends_init(&other);
	assert_int_equal(svc_call_async(client, "student", "Student.Greet",
			     &req, on_end, &other, timeout_ms(SVC_FOREVER)),
	    SVC_OK);
	gate_wait(&other.gate, 1);
	assert_int_equal(gate_count(&soon.gate), 0);
	svc_clock_advance(1 + 4);
	gate_wait(&soon.gate, 1);
	assert_int_equal(soon.code, SVC_E_TIMEDOUT);
	/* The handler shares the clock, and may be the one that told. */
	assert_true(strcmp(soon.text, "too late") == 0 ||
		    strstr(soon.text, "no reply from ") != NULL);
	assert_int_equal(gate_count(&late.gate), 0);
	svc_clock_advance(3600000);
	gate_wait(&late.gate, 1);
	assert_int_equal(late.code, SVC_E_TIMEDOUT);
	assert_int_equal(gate_count(&never.gate), 0);
	gate_add(&slow.go);
	gate_wait(&never.gate, 1);
	assert_int_equal(never.code, SVC_OK);
	svc_free(c);
	svc_free(s);
	assert_int_equal(gate_count(&soon.gate), 1);
	assert_int_equal(gate_count(&late.gate), 1);
	assert_int_equal(gate_count(&never.gate), 1);
}

static void
greet_often(struct svc_client *client, int64_t ms)
{
	struct svc_message req = {.data = "bob", .len = 3};
	struct ends ends;
	ends_init(&ends);
	for (int i = 1; i <= 20; i++) {
		assert_int_equal(
		    svc_call_async(client, "student", "Student.Greet", &req,
			on_end, &ends, timeout_ms(ms)),
		    SVC_OK);
		gate_wait(&ends.gate, i);
		assert_int_equal(ends.code, SVC_OK);
	}
}

/* A call takes the place of one that has ended, whatever deadline that had. */
static void
each_call_has_its_own_deadline(void **state)
{
	(void)state;
	struct slow slow;
	struct svc_service *s = start_slow(&slow), *c = make_client();
	struct svc_client *client = svc_client_of(c);
	struct ends far, near;
	ends_init(&far);
	ends_init(&near);
	greet_often(client, 2500);
	assert_int_equal(svc_call_async(client, "student", "Student.Slow", NULL,
			     on_end, &far, timeout_ms(3600000)),
	    SVC_OK);
	greet_often(client, 3600000);
	assert_int_equal(svc_call_async(client, "student", "Student.Slow", NULL,
			     on_end, &near, timeout_ms(5000)),
	    SVC_OK);
	gate_wait(&slow.entered, 2);
	svc_clock_advance(4999);
	greet_often(client, 3600000);
	assert_int_equal(gate_count(&near.gate), 0);
	svc_clock_advance(1 + 4);
	gate_wait(&near.gate, 1);
	assert_int_equal(near.code, SVC_E_TIMEDOUT);
	assert_int_equal(gate_count(&far.gate), 0);
	svc_clock_advance(3600000);
	gate_wait(&far.gate, 1);
	assert_int_equal(far.code, SVC_E_TIMEDOUT);
	gate_wait(&slow.left, 2);
	svc_free(c);
	svc_free(s);
}

/* ------------------------------------------------- a wait for the first view
 */

static struct gate late_asked, late_go;

/* Tells nothing before it is let go. */
static svc_err
watch_late(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	gate_add(&late_asked);
	gate_wait(&late_go, 1);
	return svc_registry_memory.watch(
	    self, service, sink, arg, ret_watch, err);
}

static struct svc_service *
make_late_client(void)
{
	static struct svc_registry_ops late;
	if (late.name == NULL) {
		late = svc_registry_memory;
		late.name = "late";
		late.watch = watch_late;
		assert_int_equal(svc_plugin_add(&late), SVC_OK);
	}
	gate_init(&late_asked);
	gate_init(&late_go);
	const struct svc_option more[] = {
	    {SVC_OPTION_REGISTRY, "late", registry_name, 0, 0, 0, 0},
	    SVC_OPT_end(),
	};
	struct svc_service *c = make("caller", more);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	return c;
}

static svc_err
tell_time(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	return svc_reply_text(
	    call, rsp, NULL, "%lld", (long long)svc_call_remaining_ms(call));
}

struct asker {
	struct svc_client *client;
	svc_err code;
	char told[32];
};

static void *
ask_time(void *arg)
{
	struct asker *asker = arg;
	struct svc_message rsp;
	asker->code = svc_call(asker->client, "student", "Student.Time", NULL,
	    &rsp, timeout_ms(5000));
	if (asker->code == SVC_OK)
		snprintf(asker->told, sizeof(asker->told), "%s",
		    (const char *)rsp.data);
	svc_message_free(&rsp);
	return NULL;
}

/* The time that passed before there was a node to send it to is not there any
 * more, be it the call that waits for the view or one that waits behind it. */
static void
a_wait_for_the_view_counts(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.Time", tell_time, NULL);
	must_start(s);
	struct svc_service *c = make_late_client();
	struct ends ends[3];
	for (int i = 0; i < 3; i++) {
		ends_init(&ends[i]);
		assert_int_equal(
		    svc_call_async(svc_client_of(c), "student", "Student.Time",
			NULL, on_end, &ends[i], timeout_ms(5000)),
		    SVC_OK);
	}
	gate_wait(&late_asked, 1);
	svc_clock_advance(300);
	gate_add(&late_go);
	for (int i = 0; i < 3; i++) {
		gate_wait(&ends[i].gate, 1);
		assert_int_equal(ends[i].code, SVC_OK);
		assert_string_equal(ends[i].data, "4700");
	}
	svc_free(c);

	c = make_late_client();
	struct asker asker = {.client = svc_client_of(c)};
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "ask", ask_time, &asker), SVC_OK);
	gate_wait(&late_asked, 1);
	svc_clock_advance(300);
	gate_add(&late_go);
	svc_thread_join(thread);
	assert_int_equal(asker.code, SVC_OK);
	assert_string_equal(asker.told, "4700");
	svc_free(c);
	svc_free(s);
}

/* ---------------------------------------------------- one after the other */

/* Which endpoint, of what type, with how much time, and what it was sent. */
static svc_err
tell_all(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	const char *user = svc_call_header(call, "user");
	int64_t left_ms = svc_call_remaining_ms(call);
	return svc_reply_text(call, rsp, "text/plain", "%s %s %s %s %zu %.*s",
	    (const char *)arg, req->content_type,
	    left_ms == SVC_FOREVER ? "ever"
	    : left_ms > 60000      ? "long"
				   : "short",
	    user != NULL ? user : "nobody", req->len,
	    req->len < 9 ? (int)req->len : 0, (const char *)req->data);
}

static void
a_call_takes_nothing_of_the_last(void **state)
{
	(void)state;
	static char a[] = "A", b[] = "B";
	struct svc_service *s = make("student", NULL);
	svc_handle(s, "Student.A", tell_all, a);
	svc_handle(s, "Student.B", tell_all, b);
	must_start(s);
	struct svc_service *c = make_client();
	struct svc_client *client = svc_client_of(c);
	struct svc_headers *own = svc_headers_create();
	svc_headers_set(own, "User", "ann");
	static char large[3000];
	struct ends ends;
	ends_init(&ends);
	int n = 0;
	/* Each follows one that differs from it in one thing. */
#define SAYS(expected, endpoint, type, message, len, headers, ...)           \
	do {                                                                 \
		struct svc_message req = {type, message, len, headers};      \
		assert_int_equal(svc_call_async(client, "student", endpoint, \
				     &req, on_end, __VA_ARGS__),             \
		    SVC_OK);                                                 \
		gate_wait(&ends.gate, ++n);                                  \
		assert_int_equal(ends.code, SVC_OK);                         \
		assert_string_equal(ends.data, expected);                    \
	} while (0)
	for (int i = 0; i < 2; i++) {
		SAYS("A application/json short nobody 3 one", "Student.A", NULL,
		    "one", 3, NULL, &ends);
		SAYS("A application/json short nobody 5 three", "Student.A",
		    NULL, "three", 5, NULL, &ends);
		SAYS("B application/json short nobody 3 one", "Student.B", NULL,
		    "one", 3, NULL, &ends);
		SAYS("B a/b short nobody 3 one", "Student.B", "a/b", "one", 3,
		    NULL, &ends);
		SAYS("B a/b short ann 3 one", "Student.B", "a/b", "one", 3, own,
		    &ends);
		SAYS("B a/b short nobody 3 one", "Student.B", "a/b", "one", 3,
		    NULL, &ends);
		SAYS("B a/b long nobody 3 one", "Student.B", "a/b", "one", 3,
		    NULL, &ends, timeout_ms(3600000));
		SAYS("B a/b short nobody 3 one", "Student.B", "a/b", "one", 3,
		    NULL, &ends);
		SAYS("B a/b short bob 3 one", "Student.B", "a/b", "one", 3,
		    NULL, &ends, header("user", "bob"));
		SAYS("B a/b short nobody 3000 ", "Student.B", "a/b", large,
		    sizeof(large), NULL, &ends);
		SAYS("B a/b short nobody 0 ", "Student.B", "a/b", NULL, 0, NULL,
		    &ends);
		SAYS("B a/b ever nobody 3 one", "Student.B", "a/b", "one", 3,
		    NULL, &ends, timeout_ms(SVC_FOREVER));
		SAYS("B application/json short nobody 3 one", "Student.B", NULL,
		    "one", 3, NULL, &ends);
	}
#undef SAYS
	/* Nor what it was refused for. */
	struct svc_message too_much = {.data = large, .len = (size_t)65 << 20};
	assert_int_equal(svc_call_async(client, "student", "Student.B",
			     &too_much, on_end, &ends),
	    SVC_E_EXHAUSTED);
	assert_int_equal(
	    svc_call_async(client, "student", "Nobody.Is", NULL, on_end, &ends),
	    SVC_OK);
	gate_wait(&ends.gate, ++n);
	assert_int_not_equal(ends.code, SVC_OK);
	assert_int_equal(
	    svc_call_async(client, "student", NULL, NULL, on_end, &ends),
	    SVC_E_INVAL);
	assert_int_equal(
	    svc_call_async(client, "student", "Student.A", NULL, on_end, &ends),
	    SVC_OK);
	gate_wait(&ends.gate, ++n);
	assert_int_equal(ends.code, SVC_OK);
	svc_headers_destroy(own);
	svc_free(c);
	svc_free(s);
}

/* More callbacks that wait for a call of their own than there are threads:
 * nobody is left who would read the answers. */
#define THREADS 6

struct crowd {
	struct svc_client *client;
	struct gate left;
	atomic_int timed_out, explained;
};

static void
waits_for_a_call(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct crowd *crowd = arg;
	struct svc_message req = {.data = "eve", .len = 3};
	struct svc_error err = {0};
	(void)rsp;
	assert_string_equal(detail->text, "");
	assert_int_equal(code, SVC_OK);
	code = svc_call(crowd->client, "student", "Student.Greet", &req, NULL,
	    timeout_ms(500), detail(&err));
	if (code == SVC_E_TIMEDOUT)
		atomic_fetch_add(&crowd->timed_out, 1);
	if (strstr(err.text, "--threads") != NULL)
		atomic_fetch_add(&crowd->explained, 1);
	gate_add(&crowd->left);
}

static void
a_lack_of_threads_is_told(void **state)
{
	(void)state;
	struct slow slow;
	struct svc_service *s = start_slow(&slow);
	struct svc_service *c = make("caller", NULL);
	char program[] = "caller", loops[] = "--loops=1", threads[40];
	snprintf(threads, sizeof(threads), "--threads=%d", THREADS);
	char *argv[] = {program, loops, threads, NULL};
	assert_int_equal(svc_init(c, 3, argv), SVC_OK);
	struct crowd crowd = {.client = svc_client_of(c)};
	gate_init(&crowd.left);
	struct svc_message req = {.data = "bob", .len = 3};
	/* One node is known before. */
	assert_int_equal(
	    svc_call(crowd.client, "student", "Student.Greet", &req, NULL),
	    SVC_OK);
	for (int i = 0; i < 3 * THREADS; i++)
		assert_int_equal(svc_call_async(crowd.client, "student",
				     "Student.Greet", &req, waits_for_a_call,
				     &crowd, timeout_ms(PATIENCE_MS)),
		    SVC_OK);
	gate_wait(&crowd.left, 3 * THREADS);
	assert_true(atomic_load(&crowd.timed_out) == 0 ||
		    atomic_load(&crowd.explained) > 0);
	svc_free(c);
	svc_free(s);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(a_deadline_ends_a_call),
	    TEST(half_an_answer_is_none),
	    cmocka_unit_test_setup_teardown(
		deadlines_keep_the_clock, use_manual_clock, use_real_clock),
	    cmocka_unit_test_setup_teardown(each_call_has_its_own_deadline,
		use_manual_clock, use_real_clock),
	    cmocka_unit_test_setup_teardown(
		a_wait_for_the_view_counts, use_manual_clock, use_real_clock),
	    TEST(a_call_takes_nothing_of_the_last),
	    TEST(a_lack_of_threads_is_told),
	};
	static const char *const transports[] = {"nng", "tcp", "memory"};
	int failed = 0;
	set_registry(NULL);
	for (size_t i = 0; i < 3; i++) {
		transport_name = transports[i];
		failed += cmocka_run_group_tests_name(
		    transport_name, tests, NULL, NULL);
	}
	return failed;
}
