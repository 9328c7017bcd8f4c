/* SPDX-License-Identifier: Apache-2.0 */
/* A stream that is moved to another node while others use it. */
#include "stream_test.h"

#include "stream.h"

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
	user->code = svc_stream_recv(user->stream, &m);
	gate_add(&user->done);
	return NULL;
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
	const struct svc_stream_end lost = {
	    .code = SVC_E_UNAVAILABLE, .not_run = true, .text = "gone"};
	stream->handle->events->closed(stream->handle, &lost);
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

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_cancel_ends_a_move),
	};
	transport_name = "memory";
	return cmocka_run_group_tests(tests, NULL, NULL);
}
