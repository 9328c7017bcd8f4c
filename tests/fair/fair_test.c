/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fairness between connections on one loop: a peer that sends a flood has its
 * frames handled in shares, between which others have their turn. What is
 * looked at is the order of handling, not time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#include <cmocka.h>
#include <svc/clock.h>
#include <svc/executor.h>
#include <svc/transport.h>

#define WAIT_MS 20000
#define FLOOD 512
#define SHARE 64 /* what one connection gets in one turn */

struct count {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int value;
};

static void
count_init(struct count *count)
{
	pthread_mutex_init(&count->mutex, NULL);
	svc_cond_init(&count->changed);
	count->value = 0;
}

static void
count_up(struct count *count)
{
	pthread_mutex_lock(&count->mutex);
	count->value++;
	pthread_cond_broadcast(&count->changed);
	pthread_mutex_unlock(&count->mutex);
}

static void
count_await(struct count *count, int value)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	pthread_mutex_lock(&count->mutex);
	while (count->value < value)
		assert_int_equal(
		    svc_cond_wait(&count->changed, &count->mutex, deadline),
		    SVC_OK);
	pthread_mutex_unlock(&count->mutex);
}

static struct {
	struct count held, go, replies, job, written;
	char order[2 * FLOOD + 64]; /* endpoints as they were handled */
	_Atomic int n;
} here;

/* On the one loop of the server; but a slow machine may have it taken over. */
static void
accept_call(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	(void)arg;
	if (strcmp(first->endpoint, "hold") == 0) {
		count_up(&here.held);
		count_await(&here.go, 1);
	} else {
		here.order[atomic_fetch_add(&here.n, 1)] = first->endpoint[0];
	}
	struct svc_part reply = {.flags = SVC_PART_HEADERS | SVC_PART_END};
	stream->ops->send(stream, &reply, NULL);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	(void)part;
	stream->ops->release(stream, SVC_E_CANCELLED);
	count_up(&here.replies);
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)end;
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static const struct svc_stream_events events = {
    .part = on_part, .closed = on_closed};

static void
call(const struct svc_transport_ops *ops, void *conn, const char *endpoint)
{
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "s",
	    .endpoint = endpoint,
	    .timeout_ms = -1,
	    .data = "x",
	    .len = 1};
	struct svc_stream_handle *stream;
	struct svc_error err = {0};
	svc_err rc = ops->open(conn, &first, 0, &events, NULL, &stream, &err);
	assert_string_equal(err.text, "");
	assert_int_equal(rc, SVC_OK);
}

static void
hold_thread(void *arg)
{
	(void)arg;
	count_up(&here.job);
	count_await(&here.go, 1);
}

static void
tell_written(struct svc_task *task)
{
	(void)task;
	count_up(&here.written);
}

static void
floods_are_handled_in_shares(const char *plugin, const char *address)
{
	memset(&here, 0, sizeof(here));
	count_init(&here.held);
	count_init(&here.go);
	count_init(&here.replies);
	count_init(&here.job);
	count_init(&here.written);
	const void *found;
	assert_int_equal(
	    svc_catalogue_find(&svc_transport_interface, plugin, &found, NULL),
	    SVC_OK);
	const struct svc_transport_ops *ops = found;
	struct svc_executor *executors[2];
	void *selves[2], *listener, *conns[2];
	/* The second thread of the server is busy, so that the loop cannot be
	 * taken over while all the calls come in. */
	struct svc_executor_config threads = {.loops = 1, .max_threads = 2};
	for (int i = 0; i < 2; i++) {
		assert_int_equal(
		    svc_executor_create(&threads, &executors[i], NULL), SVC_OK);
		struct svc_transport_config config = {.executor = executors[i]};
		assert_int_equal(
		    ops->create(&config, &selves[i], NULL), SVC_OK);
	}
	assert_int_equal(
	    ops->listen(selves[0], address, accept_call, NULL, &listener, NULL),
	    SVC_OK);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(
		    ops->dial(selves[1], ops->listener_address(listener),
			WAIT_MS, &conns[i], NULL),
		    SVC_OK);
		call(ops, conns[i], "-"); /* after which both have said hello */
		count_await(&here.replies, i + 1);
	}
	assert_int_equal(
	    svc_executor_run(executors[0], hold_thread, NULL), SVC_OK);
	count_await(&here.job, 1);
	call(ops, conns[0], "hold");
	count_await(&here.held, 1);
	for (int i = 0; i < FLOOD; i++)
		call(ops, conns[0], "a");
	for (int i = 0; i < FLOOD; i++)
		call(ops, conns[1], "b");
	/* Of calls in a row the client's loop writes most. */
	struct svc_task written = {.run = tell_written};
	svc_loop_post(svc_executor_loop(executors[1]), &written);
	count_await(&here.written, 1);
	count_up(&here.go);
	count_await(&here.replies, 2 + 1 + 2 * FLOOD);

	/* No run of one of them is longer than its share while the other one
	 * still has calls waiting; twice that, when its kick was just on the
	 * way. */
	assert_int_equal(here.n, 2 + 2 * FLOOD);
	int run = 0, left[2] = {FLOOD, FLOOD};
	for (int i = 2; i < here.n; i++) {
		int which = here.order[i] - 'a';
		run = i > 2 && here.order[i] == here.order[i - 1] ? run + 1 : 1;
		assert_true(which == 0 || which == 1);
		assert_true(run <= 2 * SHARE || left[1 - which] == 0);
		left[which]--;
	}
	for (int i = 0; i < 2; i++)
		ops->conn_destroy(conns[i]);
	ops->listener_destroy(listener);
	for (int i = 0; i < 2; i++) {
		ops->destroy(selves[i]);
		svc_executor_destroy(executors[i]);
	}
}

static void
floods_over_tcp(void **state)
{
	(void)state;
	floods_are_handled_in_shares("tcp", "127.0.0.1:0");
}

static void
floods_in_memory(void **state)
{
	(void)state;
	floods_are_handled_in_shares("memory", "");
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(floods_over_tcp),
	    cmocka_unit_test(floods_in_memory),
	};
	return cmocka_run_group_tests_name("fair", tests, NULL, NULL);
}
