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

/* A service and a client whose stream is open. */
struct scene {
	struct flood flood;
	struct svc_service *s, *c;
	struct svc_stream *stream;
};

static void
scene_open(struct scene *scene, const char *endpoint, int64_t ms, int before,
    size_t size, const char *drain)
{
	char flag[64];
	snprintf(flag, sizeof(flag), "--drain_timeout=%s", drain);
	char *argv[] = {flag, flag, NULL};
	struct flood *flood = &scene->flood;
	*flood = (struct flood){.before = before, .size = size};
	gate_init(&flood->in);
	gate_init(&flood->out);
	scene->s = make("student", NULL);
	svc_handle_stream(scene->s, "Student.Flood", floods, flood);
	svc_handle_stream(scene->s, "Student.Fail", sends_and_fails, flood);
	svc_handle_stream(scene->s, "Student.End", sends_and_ends, flood);
	assert_int_equal(svc_init(scene->s, 2, argv), SVC_OK);
	must_start(scene->s);
	scene->stream =
	    svc_open(client_of(&scene->c), "student", endpoint, timeout_ms(ms));
	assert_non_null(scene->stream);
}

static void
scene_close(struct scene *scene)
{
	svc_stream_free(scene->stream);
	svc_free(scene->c);
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

/* What had come is there, then this end with this text (NULL: with any);
 * returns how many messages that were. */
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
	if (text != NULL)
		assert_string_equal(err.text, text);
	else
		assert_string_not_equal(err.text, "");
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

/* What the handler sends for ever. */
static const size_t sizes[] = {1000, 300000};

static void
a_deadline_drops_what_is_not_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct scene scene;
		scene_open(&scene, "Student.Flood", 1000, 0, sizes[i], "1h");
		gate_wait(&scene.flood.out, 1);
		assert_int_equal(scene.flood.code, SVC_E_TIMEDOUT);
		free_soon(scene.s);
		scene_close(&scene);
	}
}

static void
a_cancel_drops_what_is_not_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct scene scene;
		scene_open(
		    &scene, "Student.Flood", SVC_FOREVER, 0, sizes[i], "1h");
		gate_wait(&scene.flood.in, 1);
		svc_stream_cancel(scene.flood.stream);
		wait_until_ended(scene.stream);
		gate_wait(&scene.flood.out, 1);
		assert_int_equal(scene.flood.code, SVC_E_CANCELLED);
		read_to_end(scene.stream, SVC_E_CANCELLED,
		    "svc_stream_cancel was called");
		free_soon(scene.s);
		scene_close(&scene);
	}
}

static void
a_service_that_stops_cuts_what_is_not_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct scene scene;
		scene_open(
		    &scene, "Student.Flood", SVC_FOREVER, 0, sizes[i], "50ms");
		gate_wait(&scene.flood.in, 1);
		free_soon(scene.s);
		assert_int_equal(scene.flood.code, SVC_E_UNAVAILABLE);
		wait_until_ended(scene.stream);
		read_to_end(
		    scene.stream, SVC_E_UNAVAILABLE, "the service is stopping");
		scene_close(&scene);
	}
}

/* When the handler has ended, its last message waits for credit, or is half
 * sent. */
static void
scene_wait(struct scene *scene, const char *endpoint, int i, const char *drain)
{
	static const struct {
		int before;
		size_t size;
	} waiting[] = {{9, 60000}, {5, LARGE}};
	scene_open(scene, endpoint, SVC_FOREVER, waiting[i].before,
	    waiting[i].size, drain);
	gate_wait(&scene->flood.out, 1);
}

/* All, and behind it the end. */
static void
read_all(struct scene *scene, svc_err end, const char *text)
{
	assert_int_equal(
	    read_to_end(scene->stream, end, text), scene->flood.before + 1);
	assert_string_equal(svc_stream_trailer(scene->stream, "why"), "told");
}

/* What had been sent when the service stopped, without the last message. */
static void
read_until_cut(struct scene *scene, svc_err end, const char *text)
{
	free_soon(scene->s);
	wait_until_ended(scene->stream);
	assert_int_equal(
	    read_to_end(scene->stream, end, text), scene->flood.before);
	scene_close(scene);
}

/* A handler's own failure comes behind what it sent. */
static void
a_failure_waits_for_its_reader(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct scene scene;
		scene_wait(&scene, "Student.Fail", i, "1h");
		read_all(&scene, SVC_E_ABORTED, "enough of that");
		free_soon(scene.s);
		scene_close(&scene);
	}
}

/* But a service that stops does not. */
static void
a_failure_does_not_hold_up_a_stop(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct scene scene;
		scene_wait(&scene, "Student.Fail", i, "1h");
		read_until_cut(&scene, SVC_E_ABORTED, "enough of that");
	}
}

/* Its handler has ended well: the rest goes on by itself. */
static void
a_good_end_waits_for_its_reader(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct scene scene;
		pthread_t thread;
		scene_wait(&scene, "Student.End", i, "1h");
		assert_int_equal(
		    svc_thread_start(&thread, "free", free_service, scene.s),
		    SVC_OK);
		read_all(&scene, SVC_E_EOF, "the stream has ended");
		scene_close(&scene);
		svc_thread_join(thread);
	}
}

/* But a service that stops does not wait for longer than --drain_timeout. */
static void
a_good_end_waits_as_long_as_a_drain(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct scene scene;
		scene_wait(&scene, "Student.End", i, "50ms");
		read_until_cut(&scene, SVC_E_UNAVAILABLE, NULL);
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
