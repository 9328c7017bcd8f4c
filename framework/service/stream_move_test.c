/* SPDX-License-Identifier: Apache-2.0 */
/* A stream that is moved to another node while others use it. */
#include "stream_test.h"

#include "stream.h"

#include <sys/syscall.h>
#include <unistd.h>

static struct gate sending, go;
static struct svc_transport_ops held; /* whose `send` waits to be let go */
static svc_err (*real_send)(struct svc_stream_handle *stream,
    const struct svc_part *part, struct svc_error *err);

static svc_err
held_send(struct svc_stream_handle *stream, const struct svc_part *part,
    struct svc_error *err)
{
	gate_add(&sending);
	gate_wait(&go, 1);
	return real_send(stream, part, err);
}

struct user {
	struct svc_stream *stream;
	struct gate done;
	svc_err code;
	_Atomic long thread; /* as the system numbers it; 0: not yet */
};

static void *
send_one(void *arg)
{
	struct user *user = arg;
	user->code = send_text(user->stream, "one");
	gate_add(&user->done);
	return NULL;
}

static void *
receive_one(void *arg)
{
	struct user *user = arg;
	struct svc_message m;
	user->thread = syscall(SYS_gettid);
	user->code = svc_stream_recv(user->stream, &m);
	gate_add(&user->done);
	return NULL;
}

/* As if the node had not taken it. */
static void
lose(struct svc_stream *stream)
{
	const struct svc_stream_end lost = {
	    .code = SVC_E_UNAVAILABLE, .not_run = true, .text = "gone"};
	stream->handle->events->closed(stream->handle, &lost);
}

static void
wait_until_moving(struct svc_stream *stream)
{
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	bool moving = false;
	while (!moving && svc_remaining(until_ms) > 0) {
		pthread_mutex_lock(&stream->lock);
		moving = stream->moving;
		pthread_mutex_unlock(&stream->lock);
		sched_yield();
	}
	assert_true(moving);
}

/* Its receiver is to move it and waits for a sender, who is slow to leave the
 * transport. Who cancels it leaves the handle to that sender, after whom the
 * receiver has to go on. */
static void
a_cancel_ends_a_move(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Waits", waits, &seen);
	must_start(s);
	struct svc_stream *stream =
	    svc_open(client_of(&c), "student", "Student.Waits");
	assert_non_null(stream);
	gate_wait(&seen.in, 1);
	gate_init(&sending);
	gate_init(&go);
	held = *stream->handle->ops;
	real_send = held.send;
	held.send = held_send;
	stream->handle->ops = &held;

	struct user sender = {.stream = stream}, receiver = sender;
	pthread_t threads[2];
	gate_init(&sender.done);
	gate_init(&receiver.done);
	assert_int_equal(
	    svc_thread_start(&threads[0], "send", send_one, &sender), SVC_OK);
	gate_wait(&sending, 1);
	lose(stream);
	assert_int_equal(
	    svc_thread_start(&threads[1], "receive", receive_one, &receiver),
	    SVC_OK);
	wait_until_moving(stream);
	svc_stream_cancel(stream);
	gate_add(&go);
	gate_wait(&sender.done, 1);
	gate_wait(&receiver.done, 1);
	assert_int_equal(receiver.code, SVC_E_CANCELLED);
	svc_thread_join(threads[0]);
	svc_thread_join(threads[1]);
	svc_stream_free(stream);
	gate_wait(&seen.out, 1);
	svc_free(c);
	svc_free(s);
}

/* ------------------------------------------- a search for the other node */

static bool
is_asleep(long thread)
{
	char path[64], line[128] = "";
	snprintf(path, sizeof(path), "/proc/self/task/%ld/stat", thread);
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	assert_non_null(fgets(line, sizeof(line), file));
	fclose(file);
	const char *state = strrchr(line, ')');
	return state != NULL && strncmp(state, ") S", 3) == 0;
}

/* A registry that never says that it has told everything, so that who looks
 * for a node waits for it. */
static svc_watch_sink real_sink;

static void
sink_without_sync(
    svc_watch_event event, const struct svc_record *record, void *arg)
{
	if (event != SVC_WATCH_SYNC)
		real_sink(event, record, arg);
}

static svc_err
watch_without_sync(void *self, const char *service, svc_watch_sink sink,
    void *arg, void **ret_watch, struct svc_error *err)
{
	real_sink = sink; /* the same for all */
	return svc_registry_memory.watch(
	    self, service, sink_without_sync, arg, ret_watch, err);
}

/* A client that looks for a node for a minute. */
static struct svc_service *
make_seeker(void)
{
	static struct svc_registry_ops endless;
	static char timeout[] = "--client_request_timeout=60s";
	char *argv[] = {timeout, timeout, NULL};
	if (endless.name == NULL) {
		endless = svc_registry_memory;
		endless.name = "endless";
		endless.watch = watch_without_sync;
		assert_int_equal(svc_plugin_add(&endless), SVC_OK);
	}
	const struct svc_option more[] = {
	    {SVC_OPTION_REGISTRY, "endless", registry_name, 0, 0, 0, 0},
	    SVC_OPT_end(),
	};
	struct svc_service *c = make("seeker", more);
	assert_int_equal(svc_init(c, 2, argv), SVC_OK);
	return c;
}

static void
found(const struct svc_target *target, bool blacklisted, void *arg)
{
	(void)target, (void)blacklisted, (void)arg;
}

/* Its service does not register again during the test. */
static struct svc_service *
make_once(void)
{
	return make("student", MORE(ttl(7200), interval(3600)));
}

/* The registry forgets the only node, and the seeker has heard of that. */
static void
withdraw(struct svc_service *s, struct svc_service *seeker)
{
	struct svc_record_built built;
	assert_int_equal(svc_record_build(s, &built), SVC_OK);
	assert_int_equal(
	    svc_registry_withdraw(svc_registry_of(s), &built.record, NULL),
	    SVC_OK);
	svc_record_built_fini(&built);
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	while (svc_selector_each(svc_client_of(seeker)->selector, "student", 0,
		   found, NULL, NULL) == SVC_OK)
		assert_true(svc_remaining(until_ms) > 0);
}

static void
wait_until_seeking(struct user *user)
{
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	wait_until_moving(user->stream);
	while (!is_asleep(user->thread))
		assert_true(svc_remaining(until_ms) > 0);
}

static void
a_cancel_ends_the_search_of_a_move(void **state)
{
	(void)state;
	struct svc_service *s = make_once(), *c = make_seeker();
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Waits", waits, &seen);
	must_start(s);
	struct user user = {
	    .stream = svc_open(svc_client_of(c), "student", "Student.Waits")};
	assert_non_null(user.stream);
	gate_init(&user.done);
	gate_wait(&seen.in, 1);
	withdraw(s, c);
	lose(user.stream);
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "receive", receive_one, &user), SVC_OK);
	wait_until_seeking(&user);
	int64_t began_ms = svc_now_ms();
	svc_stream_cancel(user.stream);
	gate_wait(&user.done, 1);
	assert_true(svc_now_ms() - began_ms < PATIENCE_MS / 2);
	assert_int_equal(user.code, SVC_E_CANCELLED);
	svc_thread_join(thread);
	must_end(user.stream, SVC_E_CANCELLED, "svc_stream_cancel was called");
	svc_stream_free(user.stream);
	svc_free(c);
	svc_free(s);
}

struct relay {
	struct svc_service *seeker;
	struct user user;
	struct gate open, lost;
};

static svc_err
receive_within(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req, (void)rsp;
	struct relay *relay = arg;
	relay->user.stream = svc_open(svc_client_of(relay->seeker), "student",
	    "Student.Waits", within(call));
	assert_non_null(relay->user.stream);
	gate_add(&relay->open);
	gate_wait(&relay->lost, 1);
	receive_one(&relay->user);
	return relay->user.code;
}

static void
outer_ended(svc_err code, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg)
{
	(void)code, (void)rsp, (void)detail, (void)arg;
}

static void
an_outer_caller_ends_the_search_of_a_move(void **state)
{
	(void)state;
	struct svc_service *s = make_once(), *r = make("relay", NULL), *c;
	struct relay relay = {.seeker = make_seeker()};
	struct seen seen;
	seen_init(&seen);
	gate_init(&relay.user.done);
	gate_init(&relay.open);
	gate_init(&relay.lost);
	svc_handle_stream(s, "Student.Waits", waits, &seen);
	svc_handle(r, "Relay.Receive", receive_within, &relay);
	must_start(s);
	must_start(r);
	assert_int_equal(svc_call_async(client_of(&c), "relay", "Relay.Receive",
			     NULL, outer_ended, NULL, timeout_ms(SVC_FOREVER)),
	    SVC_OK);
	gate_wait(&relay.open, 1);
	gate_wait(&seen.in, 1);
	withdraw(s, relay.seeker);
	lose(relay.user.stream);
	gate_add(&relay.lost);
	wait_until_seeking(&relay.user);
	int64_t began_ms = svc_now_ms();
	svc_free(c);
	gate_wait(&relay.user.done, 1);
	assert_true(svc_now_ms() - began_ms < PATIENCE_MS / 2);
	assert_int_equal(relay.user.code, SVC_E_CANCELLED);
	must_end(relay.user.stream, SVC_E_CANCELLED,
	    "the call that is being handled was cancelled");
	svc_stream_free(relay.user.stream);
	svc_free(r);
	svc_free(relay.seeker);
	svc_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_cancel_ends_a_move),
	    TEST(a_cancel_ends_the_search_of_a_move),
	    TEST(an_outer_caller_ends_the_search_of_a_move),
	};
	transport_name = "memory";
	return cmocka_run_group_tests(tests, NULL, NULL);
}
