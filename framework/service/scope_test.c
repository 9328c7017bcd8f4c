/* SPDX-License-Identifier: Apache-2.0 */
/* Calls within a call end when its caller leaves, over every transport. */
#include "service_test.h"

struct mesh {
	struct svc_service *server, *client;
	struct svc_service *blind; /* whose registry tells nothing */
	struct gate held, left;    /* handlers of "Hold" that began and ended */
	struct gate inner;         /* ends of calls within */
	struct gate outer;         /* ends of outer calls */
	struct gate go;
	struct gate lent; /* an outer call is there to be used by the test */
	struct gate brief;
	struct svc_stream *stream; /* within, of "Keep" */
	struct svc_stream *outer_stream;
	svc_err far; /* what the other end of one was told */
	struct svc_call *outer_call;
	svc_err inner_code, outer_code;
	struct svc_error inner_err;
	atomic_bool saw;
};

/* Runs until its caller has left, or the test says so. */
static svc_err
hold(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct mesh *mesh = arg;
	(void)req;
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	gate_add(&mesh->held);
	while (!svc_call_cancelled(call) && gate_count(&mesh->go) == 0 &&
	       svc_remaining(until_ms) > 0)
		sched_yield();
	mesh->saw = svc_call_cancelled(call);
	gate_add(&mesh->left);
	return svc_reply_text(call, rsp, "text/plain", "held");
}

static svc_err
ask_and_wait(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct mesh *mesh = arg;
	(void)req, (void)rsp;
	mesh->inner_code = svc_call(svc_client_of(mesh->server), "student",
	    "Student.Hold", NULL, NULL, within(call), idempotent(),
	    detail(&mesh->inner_err));
	gate_add(&mesh->inner);
	return mesh->inner_code;
}

/* Of two calls, perhaps on two threads at once. */
static void
inner_ended(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct mesh *mesh = arg;
	(void)rsp;
	pthread_mutex_lock(&lock);
	mesh->inner_code = code;
	mesh->inner_err = *detail;
	pthread_mutex_unlock(&lock);
	gate_add(&mesh->inner);
}

/* Stays until all of its calls have ended. */
static svc_err
ask_twice(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct mesh *mesh = arg;
	(void)req, (void)rsp;
	for (int i = 0; i < 2; i++)
		assert_int_equal(
		    svc_call_async(svc_client_of(mesh->server), "student",
			"Student.Hold", NULL, inner_ended, mesh, within(call),
			idempotent()),
		    SVC_OK);
	gate_wait(&mesh->inner, 2);
	return SVC_OK;
}

/* Answers while its call is under way. */
static svc_err
ask_and_leave(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct mesh *mesh = arg;
	(void)req, (void)rsp;
	return svc_call_async(svc_client_of(mesh->server), "student",
	    "Student.Hold", NULL, inner_ended, mesh, within(call));
}

/* The other end of the streams within. */
static svc_err
hold_stream(struct svc_stream *stream, void *arg)
{
	struct mesh *mesh = arg;
	struct svc_message m;
	svc_err code;
	gate_add(&mesh->held);
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK &&
	       strcmp(m.data, "answer") != 0)
		;
	if (code == SVC_OK)
		return svc_stream_send(stream, &m);
	mesh->far = code;
	gate_add(&mesh->left);
	return code;
}

/* Waits in one of these: for a message, for room, or in no function. */
enum { RECEIVE, SEND, ASK };

static svc_err
use_stream(struct mesh *mesh, struct svc_call *call, int how)
{
	static char data[60000];
	struct svc_message m = {.data = data, .len = sizeof(data)};
	svc_err code = SVC_OK;
	struct svc_stream *stream =
	    svc_open(svc_client_of(mesh->server), "student",
		how == SEND ? "Student.Deaf" : "Student.Streams", within(call));
	assert_non_null(stream);
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	while (how == SEND && code == SVC_OK)
		code = svc_stream_send(stream, &m);
	while (how == ASK && !svc_stream_cancelled(stream) &&
	       svc_remaining(until_ms) > 0)
		sched_yield();
	if (how != SEND)
		code = svc_stream_recv(stream, &m);
	mesh->inner_code = code;
	svc_stream_error(stream, &mesh->inner_err);
	svc_stream_free(stream);
	gate_add(&mesh->inner);
	return code;
}

static svc_err
receive_within(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req, (void)rsp;
	return use_stream(arg, call, RECEIVE);
}

static svc_err
send_within(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req, (void)rsp;
	return use_stream(arg, call, SEND);
}

static svc_err
ask_within(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req, (void)rsp;
	return use_stream(arg, call, ASK);
}

static svc_err
stream_within(struct svc_stream *stream, void *arg)
{
	struct mesh *mesh = arg;
	mesh->outer_stream = stream;
	return use_stream(mesh, svc_stream_call(stream), RECEIVE);
}

/* Takes nothing, until its caller has left. */
static svc_err
deaf(struct svc_stream *stream, void *arg)
{
	struct mesh *mesh = arg;
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	gate_add(&mesh->held);
	while (!svc_stream_cancelled(stream) && svc_remaining(until_ms) > 0)
		sched_yield();
	struct svc_message m;
	mesh->far = svc_stream_recv(stream, &m);
	gate_add(&mesh->left);
	return mesh->far;
}

/* Leaves the stream to the test. */
static svc_err
keep_stream(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct mesh *mesh = arg;
	(void)req, (void)rsp;
	mesh->stream = svc_open(svc_client_of(mesh->server), "student",
	    "Student.Streams", within(call));
	return SVC_OK;
}

/* The test makes the call within. */
static svc_err
lend(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct mesh *mesh = arg;
	(void)req, (void)rsp;
	mesh->outer_call = call;
	gate_add(&mesh->lent);
	gate_wait(&mesh->inner, 1);
	return SVC_OK;
}

static void
brief_ended(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct mesh *mesh = arg;
	(void)code, (void)rsp, (void)detail;
	gate_add(&mesh->brief);
}

/* All wait for a view of the service that never comes. */
static svc_err
seek(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct mesh *mesh = arg;
	(void)req, (void)rsp;
	gate_add(&mesh->held);
	mesh->inner_code = svc_call(svc_client_of(mesh->blind), "teacher",
	    "Teacher.Name", NULL, NULL, within(call), timeout_ms(PATIENCE_MS),
	    detail(&mesh->inner_err));
	gate_add(&mesh->inner);
	return mesh->inner_code;
}

static svc_err
seek_stream(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct mesh *mesh = arg;
	(void)req, (void)rsp;
	gate_add(&mesh->held);
	struct svc_stream *stream = svc_open(svc_client_of(mesh->blind),
	    "teacher", "Teacher.Name", within(call), detail(&mesh->inner_err));
	assert_null(stream);
	mesh->inner_code = mesh->inner_err.code;
	gate_add(&mesh->inner);
	return mesh->inner_code;
}

static svc_err
seek_later(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	struct mesh *mesh = arg;
	(void)req, (void)rsp;
	assert_int_equal(svc_call_async(svc_client_of(mesh->blind), "teacher",
			     "Teacher.Name", NULL, inner_ended, mesh,
			     within(call), timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	gate_add(&mesh->held);
	gate_wait(&mesh->inner, 1);
	return mesh->inner_code;
}

static svc_err
watch_nothing(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	(void)service, (void)sink, (void)arg, (void)err;
	*ret_watch = self;
	return SVC_OK;
}

static void
unwatch_nothing(void *self, void *watch)
{
	(void)self, (void)watch;
}

static void
outer_ended(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	struct mesh *mesh = arg;
	(void)rsp, (void)detail;
	mesh->outer_code = code;
	gate_add(&mesh->outer);
}

static void
mesh_start(struct mesh *mesh)
{
	memset(mesh, 0, sizeof(*mesh));
	gate_init(&mesh->held);
	gate_init(&mesh->left);
	gate_init(&mesh->inner);
	gate_init(&mesh->outer);
	gate_init(&mesh->go);
	gate_init(&mesh->lent);
	gate_init(&mesh->brief);
	mesh->server = make("student", NULL);
	svc_handle(mesh->server, "Student.Hold", hold, mesh);
	svc_handle(mesh->server, "Student.Lend", lend, mesh);
	svc_handle(mesh->server, "Student.Seek", seek, mesh);
	svc_handle(mesh->server, "Student.Open", seek_stream, mesh);
	svc_handle(mesh->server, "Student.Later", seek_later, mesh);
	svc_handle(mesh->server, "Student.Wait", ask_and_wait, mesh);
	svc_handle(mesh->server, "Student.Twice", ask_twice, mesh);
	svc_handle(mesh->server, "Student.Leave", ask_and_leave, mesh);
	svc_handle(mesh->server, "Student.Receive", receive_within, mesh);
	svc_handle(mesh->server, "Student.Send", send_within, mesh);
	svc_handle(mesh->server, "Student.Ask", ask_within, mesh);
	svc_handle(mesh->server, "Student.Keep", keep_stream, mesh);
	svc_handle_stream(mesh->server, "Student.Streams", hold_stream, mesh);
	svc_handle_stream(mesh->server, "Student.Deaf", deaf, mesh);
	svc_handle_stream(mesh->server, "Student.Within", stream_within, mesh);
	must_start(mesh->server);
	mesh->client = make("client", NULL);
	assert_int_equal(svc_init(mesh->client, 0, NULL), SVC_OK);
}

static void
begin(struct mesh *mesh, const char *endpoint)
{
	assert_int_equal(
	    svc_call_async(svc_client_of(mesh->client), "student", endpoint,
		NULL, outer_ended, mesh, timeout_ms(SVC_FOREVER)),
	    SVC_OK);
}

/* The caller of the outer call is gone when this returns. */
static void
leave(struct mesh *mesh)
{
	svc_free(mesh->client);
	mesh->client = NULL;
	assert_int_equal(gate_count(&mesh->outer), 1);
	assert_int_equal(mesh->outer_code, SVC_E_CLOSED);
}

static void
mesh_stop(struct mesh *mesh)
{
	svc_free(mesh->client);
	svc_free(mesh->server);
}

static void
a_call_that_waits_ends_with_its_outer_caller(void **state)
{
	(void)state;
	struct mesh mesh;
	mesh_start(&mesh);
	begin(&mesh, "Student.Wait");
	gate_wait(&mesh.held, 1);
	leave(&mesh);
	gate_wait(&mesh.inner, 1);
	assert_int_equal(mesh.inner_code, SVC_E_CANCELLED);
	assert_string_equal(mesh.inner_err.text,
	    "the call that is being handled was cancelled");
	/* Its handler is told, and there is no other try. */
	gate_wait(&mesh.left, 1);
	assert_true(mesh.saw);
	assert_int_equal(gate_count(&mesh.held), 1);
	mesh_stop(&mesh);
}

static void
calls_that_do_not_wait_end_too(void **state)
{
	(void)state;
	struct mesh mesh;
	mesh_start(&mesh);
	begin(&mesh, "Student.Twice");
	gate_wait(&mesh.held, 2);
	leave(&mesh);
	gate_wait(&mesh.inner, 2);
	assert_int_equal(mesh.inner_code, SVC_E_CANCELLED);
	assert_string_equal(mesh.inner_err.text,
	    "the call that is being handled was cancelled");
	gate_wait(&mesh.left, 2);
	assert_true(mesh.saw);
	assert_int_equal(gate_count(&mesh.held), 2);
	mesh_stop(&mesh);
}

static void
a_search_for_a_node_ends_too(void **state)
{
	(void)state;
	static struct svc_registry_ops silent;
	static bool added;
	static char timeout[] = "--client_request_timeout=60s";
	char *argv[] = {timeout, timeout, NULL};
	struct mesh mesh;
	if (!added) {
		silent = svc_registry_memory;
		silent.name = "silent";
		silent.watch = watch_nothing;
		silent.unwatch = unwatch_nothing;
		assert_int_equal(svc_plugin_add(&silent), SVC_OK);
		added = true;
	}
	static const char *const endpoints[] = {
	    "Student.Seek", "Student.Open", "Student.Later"};
	for (size_t i = 0; i < 3; i++) {
		mesh_start(&mesh);
		mesh.blind = make("blind", MORE(registry(silent)));
		if (svc_init(mesh.blind, 2, argv) != SVC_OK)
			fail_msg("%s", svc_error_text(mesh.blind));
		begin(&mesh, endpoints[i]);
		gate_wait(&mesh.held, 1);
		int64_t began_ms = svc_now_ms();
		leave(&mesh);
		gate_wait(&mesh.inner, 1);
		assert_true(svc_now_ms() - began_ms < PATIENCE_MS / 2);
		assert_int_equal(mesh.inner_code, SVC_E_CANCELLED);
		assert_string_equal(mesh.inner_err.text,
		    "the call that is being handled was cancelled");
		svc_free(mesh.blind);
		mesh_stop(&mesh);
	}
}

static void
must_have_ended(struct mesh *mesh)
{
	gate_wait(&mesh->inner, 1);
	assert_int_equal(mesh->inner_code, SVC_E_CANCELLED);
	assert_string_equal(mesh->inner_err.text,
	    "the call that is being handled was cancelled");
	/* The far end is told. */
	gate_wait(&mesh->left, 1);
	assert_int_equal(mesh->far, SVC_E_CANCELLED);
	assert_int_equal(gate_count(&mesh->held), 1);
}

static void
a_stream_ends_with_its_outer_caller(void **state)
{
	(void)state;
	static const char *const endpoints[] = {
	    "Student.Receive", "Student.Send", "Student.Ask"};
	for (size_t i = 0; i < 3; i++) {
		struct mesh mesh;
		mesh_start(&mesh);
		begin(&mesh, endpoints[i]);
		gate_wait(&mesh.held, 1);
		leave(&mesh);
		must_have_ended(&mesh);
		mesh_stop(&mesh);
	}
}

static void
a_stream_ends_with_its_outer_stream(void **state)
{
	(void)state;
	enum { FREE, CANCEL, CANCEL_HERE, WAYS };
	for (int way = 0; way < WAYS; way++) {
		struct mesh mesh;
		mesh_start(&mesh);
		struct svc_stream *stream = svc_open(
		    svc_client_of(mesh.client), "student", "Student.Within");
		gate_wait(&mesh.held, 1);
		if (way == FREE)
			svc_stream_free(stream);
		else
			svc_stream_cancel(
			    way == CANCEL ? stream : mesh.outer_stream);
		must_have_ended(&mesh);
		if (way != FREE)
			svc_stream_free(stream);
		mesh_stop(&mesh);
	}
}

/* A service that stops ends the streams within those that it cuts, or their
 * handlers would wait on. */
static void
a_stream_ends_when_its_service_stops(void **state)
{
	(void)state;
	static char drain[] = "--drain_timeout=50ms";
	char *argv[] = {drain, drain, NULL};
	struct mesh mesh;
	mesh_start(&mesh);
	struct svc_service *relay = make("relay", NULL);
	svc_handle_stream(relay, "Relay.Within", stream_within, &mesh);
	assert_int_equal(svc_init(relay, 2, argv), SVC_OK);
	must_start(relay);
	struct svc_stream *stream =
	    svc_open(svc_client_of(mesh.client), "relay", "Relay.Within");
	gate_wait(&mesh.held, 1);
	svc_free(relay);
	must_have_ended(&mesh);
	struct svc_message m;
	assert_int_equal(svc_stream_recv(stream, &m), SVC_E_UNAVAILABLE);
	svc_stream_free(stream);
	mesh_stop(&mesh);
}

/* Whose handler has returned belongs to nobody's call. */
static void
a_stream_outlives_its_outer_call(void **state)
{
	(void)state;
	struct mesh mesh;
	mesh_start(&mesh);
	begin(&mesh, "Student.Keep");
	gate_wait(&mesh.outer, 1);
	assert_int_equal(mesh.outer_code, SVC_OK);
	gate_wait(&mesh.held, 1);
	svc_free(mesh.client);
	mesh.client = NULL;
	struct svc_message m = {.data = "answer", .len = 6};
	assert_int_equal(svc_stream_send(mesh.stream, &m), SVC_OK);
	assert_int_equal(svc_stream_recv(mesh.stream, &m), SVC_OK);
	assert_string_equal(m.data, "answer");
	assert_int_equal(svc_stream_recv(mesh.stream, &m), SVC_E_EOF);
	svc_stream_free(mesh.stream);
	mesh_stop(&mesh);
}

/* The memory of a cancelled call serves the next one, not its end. */
static void
the_next_call_is_another(void **state)
{
	(void)state;
	struct mesh mesh;
	mesh_start(&mesh);
	struct svc_client *client = svc_client_of(mesh.server);
	begin(&mesh, "Student.Lend");
	gate_wait(&mesh.lent, 1);
	assert_int_equal(svc_call_async(client, "student", "Student.Hold", NULL,
			     inner_ended, &mesh, within(mesh.outer_call)),
	    SVC_OK);
	gate_wait(&mesh.held, 1);
	leave(&mesh);
	gate_wait(&mesh.inner, 1);
	gate_wait(&mesh.left, 1);
	int64_t began_ms = svc_now_ms();
	assert_int_equal(svc_call_async(client, "student", "Student.Hold", NULL,
			     inner_ended, &mesh, timeout_ms(900)),
	    SVC_OK);
	/* When this one is over, so would be all that were due before it. */
	assert_int_equal(svc_call_async(client, "student", "Student.Hold", NULL,
			     brief_ended, &mesh, timeout_ms(20)),
	    SVC_OK);
	gate_wait(&mesh.brief, 1);
	int ended = gate_count(&mesh.inner);
	if (svc_now_ms() - began_ms < 800)
		assert_int_equal(ended, 1);
	gate_add(&mesh.go);
	gate_wait(&mesh.inner, 2);
	mesh_stop(&mesh);
}

static void
who_was_answered_has_not_left(void **state)
{
	(void)state;
	struct mesh mesh;
	mesh_start(&mesh);
	begin(&mesh, "Student.Leave");
	gate_wait(&mesh.outer, 1);
	assert_int_equal(mesh.outer_code, SVC_OK);
	gate_wait(&mesh.held, 1);
	svc_free(mesh.client);
	mesh.client = NULL;
	gate_add(&mesh.go);
	gate_wait(&mesh.inner, 1);
	assert_int_equal(mesh.inner_code, SVC_OK);
	assert_false(mesh.saw);
	mesh_stop(&mesh);
}

static void
a_call_that_ended_is_not_told(void **state)
{
	(void)state;
	struct mesh mesh;
	mesh_start(&mesh);
	gate_add(&mesh.go);
	for (int i = 1; i <= 50; i++) {
		begin(&mesh, i % 2 == 0 ? "Student.Wait" : "Student.Leave");
		gate_wait(&mesh.outer, i);
		assert_int_equal(mesh.outer_code, SVC_OK);
		gate_wait(&mesh.inner, i);
		assert_int_equal(mesh.inner_code, SVC_OK);
	}
	mesh_stop(&mesh);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(a_call_that_waits_ends_with_its_outer_caller),
	    TEST(calls_that_do_not_wait_end_too),
	    TEST(a_search_for_a_node_ends_too),
	    TEST(a_stream_ends_with_its_outer_caller),
	    TEST(a_stream_ends_with_its_outer_stream),
	    TEST(a_stream_ends_when_its_service_stops),
	    TEST(a_stream_outlives_its_outer_call),
	    TEST(the_next_call_is_another),
	    TEST(who_was_answered_has_not_left),
	    TEST(a_call_that_ended_is_not_told),
	};
	int failed = 0;
	EACH_TRANSPORT(failed, tests);
	return failed;
}
