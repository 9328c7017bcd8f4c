/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges on the caller's thread (the ops `call` and `direct`), and how those
 * are reached who are busy with one (`on_cancel` and `interrupt`). */
#include "conformance/transport.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <svc/clock.h>

#include "support/lacks.h"

#define WAIT_MS 20000
#define MOST 4096 /* bytes of a message */

static const struct svc_conformance_transport *setup;

/* A server whose streams are all served by `serve`, or come to `accept`. */
static struct {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *listener, *conn;
	atomic_int accepted, served;
	atomic_bool entered, gone;
} here;

struct answer {
	int n;
	svc_err status, sent;
	char text[128], type[32], header[32];
	char data[64];
	size_t len;
	pthread_t thread;
	bool no_headers;
};

static void
on_answer(const struct svc_part *part, void *user)
{
	struct answer *answer = user;
	answer->n++;
	answer->thread = pthread_self();
	answer->status = part->status;
	answer->no_headers = part->headers == NULL;
	snprintf(answer->text, sizeof(answer->text), "%s",
	    part->status_text != NULL ? part->status_text : "");
	snprintf(answer->type, sizeof(answer->type), "%s",
	    part->content_type != NULL ? part->content_type : "none");
	const char *value = svc_headers_get(part->headers, "trace");
	snprintf(answer->header, sizeof(answer->header), "%s",
	    value != NULL ? value : "none");
	answer->len = part->len;
	if (part->len > 0 && part->len <= sizeof(answer->data))
		memcpy(answer->data, part->data, part->len);
}

static void
echo(struct svc_stream_handle *stream, const struct svc_part *first)
{
	struct svc_part part = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .content_type = first->content_type,
	    .headers = first->headers,
	    .data = first->data,
	    .len = first->len,
	};
	assert_int_equal(stream->ops->send(stream, &part, NULL), SVC_OK);
	stream->ops->release(stream, SVC_OK);
}

static void
await(atomic_bool *it)
{
	int64_t until_ms = svc_deadline(WAIT_MS);
	while (!atomic_load(it) && svc_remaining(until_ms) > 0)
		sched_yield();
	assert_true(atomic_load(it));
}

/* A task that a holder leaves with its stream. */
struct told {
	struct svc_task task;
	atomic_bool it;
};

static void
tell(struct svc_task *task)
{
	struct told *told = (struct told *)(void *)task;
	assert_false(atomic_exchange(&told->it, true));
}

static void
stay_until_cancelled(struct svc_stream_handle *stream)
{
	struct told back = {.task.run = tell}, first = {.task.run = tell},
		    late = {.task.run = tell};
	/* One that is taken back does not come. */
	assert_false(stream->ops->on_cancel(stream, &back.task));
	assert_true(stream->ops->on_cancel(stream, NULL));
	assert_false(stream->ops->on_cancel(stream, NULL));
	assert_false(stream->ops->on_cancel(stream, &first.task));
	svc_will_block();
	atomic_store(&here.entered, true);
	await(&first.it);
	assert_true(stream->ops->cancelled(stream));
	assert_false(stream->ops->on_cancel(stream, NULL));
	/* One that comes late is told all the same. */
	assert_false(stream->ops->on_cancel(stream, &late.task));
	await(&late.it);
	assert_false(atomic_load(&back.it));
	stream->ops->release(stream, SVC_E_CANCELLED);
	atomic_store(&here.gone, true);
}

static void
accept(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	assert_ptr_equal(arg, &here);
	atomic_fetch_add(&here.accepted, 1);
	if (strcmp(first->endpoint, "busy") == 0)
		stay_until_cancelled(stream);
	else
		echo(stream, first);
}

/* Answers more than it may, then that it cannot. */
static void
answer_too_much(struct svc_stream_handle *stream)
{
	static const char much[MOST + 1];
	struct svc_error err = {0};
	struct svc_part part = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .data = much,
	    .len = sizeof(much),
	};
	assert_int_equal(
	    stream->ops->send(stream, &part, &err), SVC_E_EXHAUSTED);
	assert_non_null(strstr(err.text, "4097 bytes"));
	assert_non_null(strstr(err.text, "4096"));
	part = (struct svc_part){
	    .flags = SVC_PART_HEADERS | SVC_PART_END,
	    .status = SVC_E_EXHAUSTED,
	    .status_text = err.text,
	};
	assert_int_equal(stream->ops->send(stream, &part, NULL), SVC_OK);
	assert_int_equal(stream->ops->send(stream, &part, NULL), SVC_E_INVAL);
	stream->ops->release(stream, SVC_OK);
}

static bool
serve(struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	assert_ptr_equal(arg, &here);
	if (strcmp(first->endpoint, "not-here") == 0)
		return false;
	atomic_fetch_add(&here.served, 1);
	if (strcmp(first->endpoint, "echo") == 0) {
		assert_string_equal(first->service, "student");
		assert_int_equal(first->timeout_ms, 1234);
		assert_non_null(stream->ops->peer(stream));
		assert_false(stream->ops->cancelled(stream));
		echo(stream, first);
	} else if (strcmp(first->endpoint, "much") == 0) {
		answer_too_much(stream);
	} else if (strcmp(first->endpoint, "stay") == 0) {
		/* Until it is told that the listener closes. */
		int64_t until_ms = svc_deadline(WAIT_MS);
		atomic_store(&here.entered, true);
		while (!stream->ops->cancelled(stream) &&
		       svc_remaining(until_ms) > 0)
			sched_yield();
		assert_true(stream->ops->cancelled(stream));
		assert_false(atomic_load(&here.gone));
		echo(stream, first);
	} else {
		stream->ops->release(stream, SVC_E_CANCELLED);
	}
	return true;
}

static int
start(void **state)
{
	(void)state;
	struct svc_error err = {0};
	const void *ops;
	memset(&here, 0, sizeof(here));
	if (svc_catalogue_find(
		&svc_transport_interface, setup->plugin, &ops, &err) != SVC_OK)
		fail_msg("%s", err.text);
	here.ops = ops;
	assert_int_equal(
	    svc_executor_create(NULL, &here.executor, &err), SVC_OK);
	struct svc_transport_config config = {
	    .executor = here.executor,
	    .limits.max_message = MOST,
	    .limits.max_headers = MOST,
	    .tls = setup->tls,
	};
	assert_int_equal(here.ops->create(&config, &here.self, &err), SVC_OK);
	if (here.ops->listen(here.self, setup->address, accept, &here,
		&here.listener, &err) != SVC_OK)
		fail_msg("%s", err.text);
	if (here.ops->dial(here.self, here.ops->listener_address(here.listener),
		WAIT_MS, &here.conn, &err) != SVC_OK)
		fail_msg("%s", err.text);
	return 0;
}

static int
stop(void **state)
{
	(void)state;
	here.ops->conn_destroy(here.conn);
	if (here.listener != NULL)
		here.ops->listener_destroy(here.listener);
	here.ops->destroy(here.self);
	svc_executor_destroy(here.executor);
	return 0;
}

static void
need_calls(void)
{
	bool has_call = SVC_OPS_HAS(here.ops, call);
	bool has_direct = SVC_OPS_HAS(here.ops, direct);
	assert_int_equal(has_call, has_direct);
	if (!has_call)
		test_lacks("calls on the thread of the caller");
}

static struct svc_part
request(const char *endpoint)
{
	return (struct svc_part){
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "student",
	    .endpoint = endpoint,
	    .content_type = "text/plain",
	    .timeout_ms = 1234,
	    .data = "hello",
	    .len = 5,
	};
}

static bool
call(const struct svc_part *part, struct answer *answer)
{
	*answer = (struct answer){0};
	bool taken = here.ops->call(here.conn, part, on_answer, answer);
	assert_int_equal(answer->n, taken ? 1 : 0);
	return taken;
}

static void
an_answer_comes_on_the_callers_thread(void **state)
{
	(void)state;
	need_calls();
	struct answer answer;
	struct svc_part part = request("echo");
	/* Nobody serves before it is asked for. */
	assert_false(call(&part, &answer));
	here.ops->direct(here.listener, serve);
	struct svc_headers *headers = svc_headers_create();
	svc_headers_set(headers, "Trace", "abc");
	part.headers = headers;
	assert_true(call(&part, &answer));
	assert_int_equal(answer.status, SVC_OK);
	assert_string_equal(answer.type, "text/plain");
	assert_string_equal(answer.header, "abc");
	assert_int_equal(answer.len, 5);
	assert_memory_equal(answer.data, "hello", 5);
	assert_true(pthread_equal(answer.thread, pthread_self()));
	/* What is empty looks as it does when it comes over a stream. */
	svc_headers_clear(headers);
	part.content_type = "";
	part.data = NULL;
	part.len = 0;
	assert_true(call(&part, &answer));
	assert_true(answer.no_headers);
	assert_string_equal(answer.type, "none");
	assert_int_equal(answer.len, 0);
	assert_int_equal(here.accepted, 0);
	svc_headers_destroy(headers);
}

static atomic_int replies;

static void
reply_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	(void)stream;
	assert_int_equal(part->status, SVC_OK);
	atomic_fetch_add(&replies, 1);
}

static void
reply_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)stream;
	fail_msg("%s", end->text);
}

static void
what_is_not_taken_goes_by_a_stream(void **state)
{
	(void)state;
	need_calls();
	static const struct svc_stream_events events = {
	    .part = reply_part, .closed = reply_closed};
	struct answer answer;
	struct svc_part part = request("not-here");
	here.ops->direct(here.listener, serve);
	assert_false(call(&part, &answer));
	assert_int_equal(here.served, 0);
	struct svc_stream_handle *stream;
	assert_int_equal(here.ops->open(here.conn, &part, SVC_OPEN_WAIT,
			     &events, NULL, &stream, NULL),
	    SVC_OK);
	assert_int_equal(here.ops->wait(stream, svc_deadline(WAIT_MS)), SVC_OK);
	here.ops->release(stream, SVC_E_CANCELLED);
	assert_int_equal(replies, 1);
	assert_int_equal(here.accepted, 1);
	/* A drained listener takes no more calls, one that has gone neither. */
	part = request("echo");
	assert_true(call(&part, &answer));
	here.ops->drain(here.listener);
	assert_false(call(&part, &answer));
	here.ops->listener_destroy(here.listener);
	here.listener = NULL;
	assert_false(call(&part, &answer));
	assert_int_equal(here.served, 1);
}

static void
sizes_have_limits(void **state)
{
	(void)state;
	need_calls();
	static const char much[MOST + 1];
	struct answer answer;
	here.ops->direct(here.listener, serve);
	struct svc_part part = request("echo");
	part.data = much;
	part.len = MOST;
	assert_true(call(&part, &answer));
	assert_int_equal(answer.len, MOST);
	part.len = MOST + 1; /* what is wrong with it, open tells */
	assert_false(call(&part, &answer));
	char value[MOST];
	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = 0;
	struct svc_headers *headers = svc_headers_create();
	assert_int_equal(svc_headers_set(headers, "Long", value), SVC_OK);
	part = request("echo");
	part.headers = headers;
	assert_false(call(&part, &answer));
	svc_headers_destroy(headers);
	assert_int_equal(here.served, 1);
	part = request("much");
	assert_true(call(&part, &answer));
	assert_int_equal(answer.status, SVC_E_EXHAUSTED);
	assert_non_null(strstr(answer.text, "4097 bytes"));
}

static void
a_release_without_an_answer_is_one(void **state)
{
	(void)state;
	need_calls();
	struct answer answer;
	struct svc_part part = request("leave");
	here.ops->direct(here.listener, serve);
	assert_true(call(&part, &answer));
	assert_int_equal(answer.status, SVC_E_CANCELLED);
}

static void *
call_to_stay(void *arg)
{
	struct svc_part part = request("stay");
	assert_true(call(&part, arg));
	return NULL;
}

static void
the_end_of_a_listener_waits_for_calls(void **state)
{
	(void)state;
	need_calls();
	struct answer answer;
	pthread_t thread;
	here.ops->direct(here.listener, serve);
	assert_int_equal(
	    svc_thread_start(&thread, "caller", call_to_stay, &answer), SVC_OK);
	await(&here.entered);
	here.ops->listener_destroy(here.listener);
	here.listener = NULL;
	atomic_store(&here.gone, true);
	svc_thread_join(thread);
	assert_int_equal(answer.status, SVC_OK);
	assert_int_equal(answer.len, 5);
}

/* --------------------------------------------------------- reaching the busy
 */

static void
need_cancel(void)
{
	bool has_on_cancel = SVC_OPS_HAS(here.ops, on_cancel);
	bool has_interrupt = SVC_OPS_HAS(here.ops, interrupt);
	assert_int_equal(has_on_cancel, has_interrupt);
	if (!has_on_cancel)
		test_lacks("telling a busy holder");
}

static void
ignore_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	(void)stream;
	(void)part;
}

static void
ignore_closed(
    struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)stream;
	(void)end;
}

static const struct svc_stream_events ignore = {
    .part = ignore_part, .closed = ignore_closed};

static struct svc_stream_handle *
open_busy(void)
{
	struct svc_stream_handle *stream;
	struct svc_part part = request("busy");
	assert_int_equal(here.ops->open(here.conn, &part, SVC_OPEN_WAIT,
			     &ignore, NULL, &stream, NULL),
	    SVC_OK);
	return stream;
}

static void
a_busy_holder_is_told_that_its_peer_left(void **state)
{
	(void)state;
	need_cancel();
	struct svc_stream_handle *stream = open_busy();
	await(&here.entered);
	here.ops->release(stream, SVC_E_CANCELLED);
	await(&here.gone);
}

static void
a_busy_holder_is_told_that_its_listener_closes(void **state)
{
	(void)state;
	need_cancel();
	struct svc_stream_handle *stream = open_busy();
	await(&here.entered);
	here.ops->listener_destroy(here.listener);
	here.listener = NULL;
	assert_true(atomic_load(&here.gone));
	here.ops->release(stream, SVC_E_CANCELLED);
}

static void *
wait_for(void *arg)
{
	struct svc_stream_handle *stream = arg;
	assert_int_equal(
	    here.ops->wait(stream, svc_deadline(WAIT_MS)), SVC_E_CANCELLED);
	return NULL;
}

static void
a_wait_can_be_interrupted(void **state)
{
	(void)state;
	need_cancel();
	/* Before the wait begins, and while it lasts. */
	for (int i = 0; i < 2; i++) {
		pthread_t thread;
		atomic_store(&here.entered, false);
		atomic_store(&here.gone, false);
		struct svc_stream_handle *stream = open_busy();
		if (i == 0)
			here.ops->interrupt(stream);
		assert_int_equal(
		    svc_thread_start(&thread, "waiter", wait_for, stream),
		    SVC_OK);
		await(&here.entered);
		if (i == 1)
			here.ops->interrupt(stream);
		svc_thread_join(thread);
		assert_int_equal(here.ops->wait(stream, svc_deadline(WAIT_MS)),
		    SVC_E_CANCELLED);
		here.ops->release(stream, SVC_E_CANCELLED);
		await(&here.gone);
	}
}

int
svc_conformance_transport_call(const struct svc_conformance_transport *with)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, start, stop)
	static const struct CMUnitTest tests[] = {
	    CASE(an_answer_comes_on_the_callers_thread),
	    CASE(what_is_not_taken_goes_by_a_stream),
	    CASE(sizes_have_limits),
	    CASE(a_release_without_an_answer_is_one),
	    CASE(the_end_of_a_listener_waits_for_calls),
	    CASE(a_busy_holder_is_told_that_its_peer_left),
	    CASE(a_busy_holder_is_told_that_its_listener_closes),
	    CASE(a_wait_can_be_interrupted),
	};
	setup = with;
	return cmocka_run_group_tests_name(with->plugin, tests, NULL, NULL);
}
