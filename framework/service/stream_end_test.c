/* SPDX-License-Identifier: Apache-2.0 */
/* How streams end before their time: cancelled, late, or with their service.
 * Over every transport. */
#include "stream_test.h"

/* -------------------------------------------------------- cancel, deadlines */

struct running {
	struct gate in, out;
	struct svc_stream *stream; /* of the handler that began last */
};

/* Goes on though its stream is cancelled, until the test says so. */
static svc_err
runs_on(struct svc_stream *stream, void *arg)
{
	struct running *running = arg;
	running->stream = stream;
	gate_add(&running->in);
	gate_wait(&running->out, 1);
	return SVC_OK;
}

/* What it was sent and has not read is nobody's any more, and must not hold up
 * the other streams of the connection. */
static void
a_cancelled_stream_holds_nothing_up(void **state)
{
	(void)state;
	static char stream_window[] = "--stream_window=64k";
	static char window[] = "--connection_window=256k";
	char *argv[] = {window, window, stream_window, NULL};
	enum { STREAMS = 8, SIZE = 15000 };
	static char data[SIZE];
	struct svc_message m = {.data = data, .len = SIZE};
	for (int by_handler = 0; by_handler < 2; by_handler++) {
		struct svc_service *s = make("student", NULL), *c;
		struct running running = {.stream = NULL};
		gate_init(&running.in);
		gate_init(&running.out);
		svc_handle_stream(s, "Student.RunsOn", runs_on, &running);
		svc_handle_stream(s, "Student.Echo", echo, NULL);
		assert_int_equal(svc_init(s, 3, argv), SVC_OK);
		must_start(s);
		struct svc_client *client = client_of(&c);
		for (int i = 0; i < STREAMS; i++) {
			struct svc_stream *stream = svc_open(client, "student",
			    "Student.RunsOn", timeout_ms(PATIENCE_MS));
			for (int n = 0; n < 4; n++)
				must(stream, svc_stream_send(stream, &m));
			gate_wait(&running.in, i + 1);
			svc_stream_cancel(by_handler ? running.stream : stream);
			svc_stream_free(stream);
		}
		struct svc_stream *stream = svc_open(
		    client, "student", "Student.Echo", timeout_ms(PATIENCE_MS));
		for (int n = 0; n < 50; n++) {
			must(stream, svc_stream_send(stream, &m));
			struct svc_message back;
			must(stream, svc_stream_recv(stream, &back));
			assert_int_equal(back.len, SIZE);
		}
		gate_add(&running.out);
		svc_stream_free(stream);
		svc_free(c);
		svc_free(s);
	}
}

static void *
cancel_it(void *arg)
{
	svc_stream_cancel(arg);
	return NULL;
}

static void
a_client_cancels(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Waits", waits, &seen);
	must_start(s);
	struct svc_client *client = client_of(&c);
	/* By freeing. */
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Waits");
	gate_wait(&seen.in, 1);
	svc_stream_free(stream);
	gate_wait(&seen.out, 1);
	assert_int_equal(seen.recv, SVC_E_CANCELLED);
	assert_int_equal(seen.send, SVC_E_CANCELLED);
	assert_string_equal(
	    seen.err.text, "the caller has cancelled the stream or is gone");
	assert_true(seen.cancelled);

	/* By another thread, while this one receives. */
	stream = svc_open(client, "student", "Student.Waits");
	gate_wait(&seen.in, 2);
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "cancel", cancel_it, stream), SVC_OK);
	must_end(stream, SVC_E_CANCELLED, "svc_stream_cancel was called");
	svc_thread_join(thread);
	svc_stream_cancel(stream);
	assert_true(svc_stream_cancelled(stream));
	assert_int_equal(send_text(stream, "x"), SVC_E_CANCELLED);
	gate_wait(&seen.out, 2);
	assert_int_equal(seen.recv, SVC_E_CANCELLED);
	svc_stream_free(stream);

	/* With the connection. */
	stream = svc_open(client, "student", "Student.Waits");
	gate_wait(&seen.in, 3);
	svc_stream_free(stream);
	svc_free(c);
	gate_wait(&seen.out, 3);
	assert_int_equal(seen.recv, SVC_E_CANCELLED);
	svc_free(s);
}

static svc_err
cancels(struct svc_stream *stream, void *arg)
{
	struct seen *seen = arg;
	send_text(stream, "one");
	svc_stream_cancel(stream);
	svc_stream_free(stream); /* does nothing */
	struct svc_message m;
	seen->recv = svc_stream_recv(stream, &m);
	seen->send = send_text(stream, "two");
	svc_stream_error(stream, &seen->err);
	gate_add(&seen->out);
	return SVC_OK;
}

static svc_err
ends_at_once(struct svc_stream *stream, void *arg)
{
	(void)arg;
	(void)stream;
	return SVC_OK;
}

static void
a_handler_ends_before_its_client(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Cancels", cancels, &seen);
	svc_handle_stream(s, "Student.Ends", ends_at_once, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Cancels");
	must_receive(stream, "one");
	must_end(stream, SVC_E_CANCELLED, "svc_stream_cancel was called");
	assert_int_equal(svc_stream_close_send(stream), SVC_E_CANCELLED);
	assert_int_equal(send_text(stream, "late"), SVC_E_INVAL);
	svc_stream_free(stream);
	gate_wait(&seen.out, 1);
	assert_int_equal(seen.recv, SVC_E_CANCELLED);
	assert_int_equal(seen.send, SVC_E_CANCELLED);
	assert_string_equal(seen.err.text, "svc_stream_cancel was called");

	/* A client that only sends learns it too, though nobody takes
	 * what it sends. */
	stream = svc_open(client, "student", "Student.Ends");
	svc_err code;
	while ((code = send_text(stream, "more and more")) == SVC_OK)
		;
	assert_int_equal(code, SVC_E_EOF);
	must_end(stream, SVC_E_EOF, NULL);
	assert_int_equal(svc_stream_close_send(stream), SVC_OK);
	assert_int_equal(send_text(stream, "late"), SVC_E_INVAL);
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

static svc_err
tells_what_is_left(struct svc_stream *stream, void *arg)
{
	(void)arg;
	return send_text(stream,
	    svc_call_remaining_ms(svc_stream_call(stream)) == SVC_FOREVER
		? "for ever"
		: "less");
}

static svc_err
asks_what_is_left(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	struct svc_message m;
	struct svc_stream *stream =
	    svc_open(arg, "student", "Student.Left", within(call));
	svc_err code = svc_stream_recv(stream, &m);
	if (code == SVC_OK)
		code =
		    svc_reply_text(call, rsp, NULL, "%s", (const char *)m.data);
	svc_stream_free(stream);
	return code;
}

static void
a_stream_within_a_call_has_its_deadline(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct svc_client *client = client_of(&c);
	svc_handle_stream(s, "Student.Left", tells_what_is_left, NULL);
	svc_handle(s, "Student.Ask", asks_what_is_left, client);
	must_start(s);
	static const struct {
		int64_t timeout_ms;
		const char *left;
	} rows[] = {{PATIENCE_MS, "less"}, {SVC_FOREVER, "for ever"}};
	for (size_t i = 0; i < 2; i++) {
		struct svc_message rsp;
		assert_int_equal(
		    svc_call(client, "student", "Student.Ask", NULL, &rsp,
			timeout_ms(rows[i].timeout_ms)),
		    SVC_OK);
		assert_string_equal(rsp.data, rows[i].left);
		svc_message_free(&rsp);
	}
	svc_free(s);
	svc_free(c);
}

/* A busy machine may begin the handler of a stream that was given up late. So
 * each try has an endpoint of its own. */
#define TRIES 16
struct brief {
	char endpoint[24];
	struct seen seen;
};

/* A stream of so little time that it passes while the handler has it: a busy
 * machine may need more to begin it. *try becomes the one behind it. */
static struct svc_stream *
open_briefly(struct svc_client *client, struct brief **try)
{
	for (int64_t brief_ms = 100; brief_ms < PATIENCE_MS; brief_ms *= 2) {
		struct brief *brief = (*try)++;
		int64_t until_ms = svc_deadline(brief_ms);
		struct svc_stream *stream = svc_open(
		    client, "student", brief->endpoint, timeout_ms(brief_ms));
		if (stream != NULL && send_text(stream, "early") == SVC_OK)
			while (gate_count(&brief->seen.in) == 0 &&
			       svc_remaining(until_ms) > 0)
				sched_yield();
		if (gate_count(&brief->seen.in) > 0)
			return stream;
		svc_stream_free(stream);
	}
	fail_msg("no handler begins within %d ms", PATIENCE_MS);
	return NULL;
}

static void
a_deadline_ends_both_sides(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	static struct brief tries[TRIES];
	struct brief *next = tries;
	for (int i = 0; i < TRIES; i++) {
		snprintf(tries[i].endpoint, sizeof(tries[i].endpoint),
		    "Student.Waits%d", i);
		seen_init(&tries[i].seen);
		svc_handle_stream(s, tries[i].endpoint, waits, &tries[i].seen);
	}
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream = open_briefly(client, &next);
	struct seen *seen = &next[-1].seen;
	must_end(stream, SVC_E_TIMEDOUT, "the deadline of the stream passed");
	assert_int_equal(send_text(stream, "late"), SVC_E_TIMEDOUT);
	assert_true(svc_stream_cancelled(stream));
	gate_wait(&seen->out, 1);
	assert_int_equal(seen->recv, SVC_E_TIMEDOUT);
	assert_int_equal(seen->send, SVC_E_TIMEDOUT);
	svc_stream_free(stream);

	/* The handler watches it as well, though its client sleeps. */
	stream = open_briefly(client, &next);
	seen = &next[-1].seen;
	gate_wait(&seen->out, 1);
	assert_int_equal(seen->recv, SVC_E_TIMEDOUT);
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

static void
a_stopping_service_ends_its_streams(void **state)
{
	(void)state;
	static char flag[] = "--drain_timeout=50ms";
	char *argv[] = {flag, flag, NULL};
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Waits", waits, &seen);
	assert_int_equal(svc_init(s, 2, argv), SVC_OK);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Waits");
	gate_wait(&seen.in, 1);
	svc_free(s);
	assert_int_equal(seen.recv, SVC_E_UNAVAILABLE);
	assert_int_equal(seen.send, SVC_E_UNAVAILABLE);
	must_end(stream, SVC_E_UNAVAILABLE, "the service is stopping");
	svc_stream_free(stream);
	svc_free(c);
}

static void *
free_service(void *arg)
{
	svc_free(arg);
	return NULL;
}

static void
a_stopping_service_finishes_its_streams(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream = svc_open(client, "student", "Student.Echo");
	must_send(stream, "before");
	must_receive(stream, "before");
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "free", free_service, s), SVC_OK);
	/* New ones are refused once it drains; this one goes on. */
	struct svc_stream *other;
	while ((other = svc_open(client, "student", "Student.Echo")) != NULL) {
		struct svc_message m;
		svc_err code = send_text(other, "x");
		if (code == SVC_OK)
			code = svc_stream_recv(other, &m);
		svc_stream_free(other);
		if (code != SVC_OK)
			break;
	}
	must_send(stream, "after");
	must_receive(stream, "after");
	svc_stream_close_send(stream);
	must_end(stream, SVC_E_EOF, NULL);
	svc_stream_free(stream);
	svc_thread_join(thread);
	svc_free(c);
}

/* What cannot be sent with the end is no end, for which both would wait. */
static void
trailers_beyond_the_limit_end_the_stream(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	struct seen seen;
	seen_init(&seen);
	svc_handle_stream(s, "Student.Waits", waits, &seen);
	must_start(s);
	struct svc_stream *stream = svc_open(
	    client_of(&c), "student", "Student.Waits", timeout_ms(PATIENCE_MS));
	must_send(stream, "one");
	gate_wait(&seen.in, 1);
	static char value[40001];
	memset(value, 'x', sizeof(value) - 1);
	assert_int_equal(svc_stream_set_trailer(stream, "a", value), SVC_OK);
	assert_int_equal(svc_stream_set_trailer(stream, "b", value), SVC_OK);
	assert_int_equal(svc_stream_close_send(stream), SVC_E_EXHAUSTED);
	struct svc_error err;
	svc_stream_error(stream, &err);
	assert_non_null(strstr(err.text, "--max_header_size"));
	must_end(stream, SVC_E_EXHAUSTED, err.text);
	gate_wait(&seen.out, 1);
	assert_int_equal(seen.recv, SVC_E_CANCELLED);
	assert_true(seen.cancelled);
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_client_cancels),
	    TEST(a_cancelled_stream_holds_nothing_up),
	    TEST(a_stream_within_a_call_has_its_deadline),
	    TEST(a_handler_ends_before_its_client),
	    TEST(trailers_beyond_the_limit_end_the_stream),
	    TEST(a_deadline_ends_both_sides),
	    TEST(a_stopping_service_ends_its_streams),
	    TEST(a_stopping_service_finishes_its_streams),
	};
	int failed = 0;
	EACH_TRANSPORT(failed, tests);
	return failed;
}
