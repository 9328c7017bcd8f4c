/* SPDX-License-Identifier: Apache-2.0 */
/* Streams whose client does not read what it is sent. Over every transport. */
#include "stream_test.h"

/* What a transport gives a peer that is silent to read its last answers: five
 * seconds. Who waited less did not wait for that. */
#define SHORT_MS 4500

enum { LARGE = 8 << 20 }; /* more than a connection's window */

struct flood {
	struct gate in, out;
	int before;  /* so many messages of 60,000 bytes, and then */
	size_t size; /* one of so many */
	struct svc_stream *stream;
	svc_err code;
};

static char *bytes;

static int
make_bytes(void **state)
{
	bytes = calloc(1, LARGE);
	return bytes != NULL ? set_registry(state) : -1;
}

static int
free_bytes(void **state)
{
	(void)state;
	free(bytes);
	return 0;
}

static void
flood_init(struct flood *flood, size_t size)
{
	*flood = (struct flood){.size = size};
	gate_init(&flood->in);
	gate_init(&flood->out);
}

/* Sends until it is told not to. */
static svc_err
floods(struct svc_stream *stream, void *arg)
{
	struct flood *flood = arg;
	struct svc_message m = {.data = bytes, .len = flood->size};
	flood->stream = stream;
	gate_add(&flood->in);
	do
		flood->code = svc_stream_send(stream, &m);
	while (flood->code == SVC_OK);
	gate_add(&flood->out);
	return flood->code;
}

/* More than there is credit for, so that the last one waits to be sent. */
static svc_err
sends_and_ends(struct svc_stream *stream, void *arg)
{
	struct flood *flood = arg;
	struct svc_message first = {.data = bytes, .len = 60000};
	struct svc_message last = {.data = bytes, .len = flood->size};
	svc_err code = SVC_OK;
	for (int i = 0; i < flood->before && code == SVC_OK; i++)
		code = svc_stream_send(stream, &first);
	if (code == SVC_OK)
		code = svc_stream_send(stream, &last);
	svc_stream_set_trailer(stream, "why", "told");
	gate_add(&flood->out);
	return code;
}

static svc_err
sends_and_fails(struct svc_stream *stream, void *arg)
{
	svc_err code = sends_and_ends(stream, arg);
	return code == SVC_OK ? svc_fail(svc_stream_call(stream), SVC_E_ABORTED,
				    "enough of that")
			      : code;
}

static struct svc_service *
serve(struct flood *flood, const char *drain)
{
	char flag[64];
	snprintf(flag, sizeof(flag), "--drain_timeout=%s", drain);
	char *argv[] = {flag, flag, NULL};
	struct svc_service *s = make("student", NULL);
	svc_handle_stream(s, "Student.Flood", floods, flood);
	svc_handle_stream(s, "Student.Fail", sends_and_fails, flood);
	svc_handle_stream(s, "Student.End", sends_and_ends, flood);
	assert_int_equal(svc_init(s, 2, argv), SVC_OK);
	must_start(s);
	return s;
}

/* The client is told though it does not read. */
static void
wait_until_ended(struct svc_stream *stream)
{
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	while (!svc_stream_cancelled(stream) && svc_remaining(until_ms) > 0)
		sched_yield();
	assert_true(svc_stream_cancelled(stream));
}

/* What had come is there, then this; returns how many messages that were. */
static int
read_to_end(struct svc_stream *stream, svc_err end, const char *text)
{
	struct svc_message m;
	struct svc_error err;
	svc_err code;
	int n = 0;
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK)
		n++;
	assert_int_equal(code, end);
	svc_stream_error(stream, &err);
	assert_string_equal(err.text, text);
	return n;
}

static void *
free_service(void *arg)
{
	svc_free(arg);
	return NULL;
}

static void
free_soon(struct svc_service *service)
{
	int64_t began_ms = svc_now_ms();
	svc_free(service);
	assert_in_range(svc_now_ms() - began_ms, 0, SHORT_MS);
}

static const size_t sizes[] = {1000, 300000};

static void
a_deadline_drops_what_is_not_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct flood flood;
		flood_init(&flood, sizes[i]);
		struct svc_service *c, *s = serve(&flood, "1h");
		struct svc_client *client = client_of(&c);
		struct svc_stream *stream = svc_open(
		    client, "student", "Student.Flood", timeout_ms(1000));
		gate_wait(&flood.out, 1);
		assert_int_equal(flood.code, SVC_E_TIMEDOUT);
		free_soon(s);
		svc_stream_free(stream);
		svc_free(c);
	}
}

static void
a_cancel_drops_what_is_not_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct flood flood;
		flood_init(&flood, sizes[i]);
		struct svc_service *c, *s = serve(&flood, "1h");
		struct svc_client *client = client_of(&c);
		struct svc_stream *stream =
		    svc_open(client, "student", "Student.Flood");
		gate_wait(&flood.in, 1);
		svc_stream_cancel(flood.stream);
		wait_until_ended(stream);
		gate_wait(&flood.out, 1);
		assert_int_equal(flood.code, SVC_E_CANCELLED);
		read_to_end(
		    stream, SVC_E_CANCELLED, "svc_stream_cancel was called");
		free_soon(s);
		svc_stream_free(stream);
		svc_free(c);
	}
}

/* The last message waits for credit, or is half sent. */
static const struct {
	int before;
	size_t size;
} waiting[] = {{9, 60000}, {5, LARGE}};

/* A handler's own failure comes behind what it sent. */
static void
a_failure_waits_for_its_reader(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct flood flood;
		flood_init(&flood, waiting[i].size);
		flood.before = waiting[i].before;
		struct svc_service *c, *s = serve(&flood, "1h");
		struct svc_client *client = client_of(&c);
		struct svc_stream *stream =
		    svc_open(client, "student", "Student.Fail");
		gate_wait(&flood.out, 1);
		assert_int_equal(
		    read_to_end(stream, SVC_E_ABORTED, "enough of that"),
		    flood.before + 1);
		assert_string_equal(svc_stream_trailer(stream, "why"), "told");
		free_soon(s);
		svc_stream_free(stream);
		svc_free(c);
	}
}

/* But a service that stops does not. */
static void
a_failure_does_not_hold_up_a_stop(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct flood flood;
		flood_init(&flood, waiting[i].size);
		flood.before = waiting[i].before;
		struct svc_service *c, *s = serve(&flood, "1h");
		struct svc_client *client = client_of(&c);
		struct svc_stream *stream =
		    svc_open(client, "student", "Student.Fail");
		gate_wait(&flood.out, 1);
		free_soon(s);
		wait_until_ended(stream);
		assert_int_equal(
		    read_to_end(stream, SVC_E_ABORTED, "enough of that"),
		    flood.before);
		svc_stream_free(stream);
		svc_free(c);
	}
}

static void
a_service_that_stops_cuts_what_is_not_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct flood flood;
		flood_init(&flood, sizes[i]);
		struct svc_service *c, *s = serve(&flood, "50ms");
		struct svc_client *client = client_of(&c);
		struct svc_stream *stream =
		    svc_open(client, "student", "Student.Flood");
		gate_wait(&flood.in, 1);
		free_soon(s);
		assert_int_equal(flood.code, SVC_E_UNAVAILABLE);
		wait_until_ended(stream);
		read_to_end(
		    stream, SVC_E_UNAVAILABLE, "the service is stopping");
		svc_stream_free(stream);
		svc_free(c);
	}
}

/* Its handler has ended well: the rest goes on by itself. */
static void
a_good_end_waits_for_its_reader(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct flood flood;
		flood_init(&flood, waiting[i].size);
		flood.before = waiting[i].before;
		struct svc_service *c, *s = serve(&flood, "1h");
		struct svc_client *client = client_of(&c);
		struct svc_stream *stream =
		    svc_open(client, "student", "Student.End");
		gate_wait(&flood.out, 1);
		pthread_t thread;
		assert_int_equal(
		    svc_thread_start(&thread, "free", free_service, s), SVC_OK);
		assert_int_equal(
		    read_to_end(stream, SVC_E_EOF, "the stream has ended"),
		    flood.before + 1);
		assert_string_equal(svc_stream_trailer(stream, "why"), "told");
		svc_stream_free(stream);
		svc_thread_join(thread);
		svc_free(c);
	}
}

/* But a service that stops does not wait for longer than --drain_timeout. */
static void
a_good_end_waits_as_long_as_a_drain(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct flood flood;
		flood_init(&flood, waiting[i].size);
		flood.before = waiting[i].before;
		struct svc_service *c, *s = serve(&flood, "50ms");
		struct svc_client *client = client_of(&c);
		struct svc_stream *stream =
		    svc_open(client, "student", "Student.End");
		gate_wait(&flood.out, 1);
		free_soon(s);
		wait_until_ended(stream);
		struct svc_message m;
		for (int n = 0; n < flood.before; n++)
			must(stream, svc_stream_recv(stream, &m));
		must_end(stream, SVC_E_UNAVAILABLE, NULL);
		svc_stream_free(stream);
		svc_free(c);
	}
}

int
main(void)
{
#define UNREAD(f) cmocka_unit_test_setup_teardown(f, make_bytes, free_bytes)
	const struct CMUnitTest tests[] = {
	    UNREAD(a_deadline_drops_what_is_not_read),
	    UNREAD(a_cancel_drops_what_is_not_read),
	    UNREAD(a_failure_waits_for_its_reader),
	    UNREAD(a_failure_does_not_hold_up_a_stop),
	    UNREAD(a_service_that_stops_cuts_what_is_not_read),
	    UNREAD(a_good_end_waits_for_its_reader),
	    UNREAD(a_good_end_waits_as_long_as_a_drain),
	};
	int failed = 0;
	EACH_TRANSPORT(failed, tests);
	return failed;
}
