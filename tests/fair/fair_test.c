/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fairness between connections on one loop: a peer that sends a flood has its
 * frames handled in shares, between which others have their turn, and so has
 * one that leaves thousands of streams behind, or a crowd that connects. What
 * is looked at is the order of handling, not time.
 */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <svc/clock.h>
#include <svc/executor.h>
#include <svc/transport.h>

#define WAIT_MS 20000
#define FLOOD 512
#define SHARE 64 /* what one connection gets in one turn */
#define CROWD 64 /* of connections made at once */
#define TAKEN 4  /* of those in one turn of the listener */

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
	struct count held, go, replies, job, written, opened;
	char order[2 * FLOOD + CROWD + 8]; /* endpoints as they were handled */
	_Atomic int n;
} here;

/* Of a stream that its client left behind. */
static void
on_left(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)end;
	here.order[atomic_fetch_add(&here.n, 1)] = 'a';
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static void
on_more(struct svc_stream_handle *stream, const struct svc_part *part)
{
	(void)stream;
	(void)part;
}

static const struct svc_stream_events left_events = {
    .part = on_more, .closed = on_left};

/* On the one loop of the server; but a slow machine may have it taken over. */
static void
accept_call(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	(void)arg;
	if (!(first->flags & SVC_PART_END)) {
		stream->events = &left_events;
		count_up(&here.opened);
		return;
	}
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

/* A server with one loop, and clients that have said hello. */
struct scene {
	const struct svc_transport_ops *ops;
	struct svc_executor *executors[2]; /* the server's, the clients' */
	void *selves[2], *listener, *conns[2];
};

static void
begin(struct scene *scene, const char *plugin, const char *address)
{
	memset(&here, 0, sizeof(here));
	count_init(&here.held);
	count_init(&here.go);
	count_init(&here.replies);
	count_init(&here.job);
	count_init(&here.written);
	count_init(&here.opened);
	const void *found;
	assert_int_equal(
	    svc_catalogue_find(&svc_transport_interface, plugin, &found, NULL),
	    SVC_OK);
	const struct svc_transport_ops *ops = found;
	scene->ops = ops;
	/* The second thread of the server is busy, so that the loop cannot be
	 * taken over while all the calls come in. */
	struct svc_executor_config threads = {.loops = 1, .max_threads = 2};
	for (int i = 0; i < 2; i++) {
		assert_int_equal(
		    svc_executor_create(&threads, &scene->executors[i], NULL),
		    SVC_OK);
		struct svc_transport_config config = {
		    .executor = scene->executors[i]};
		assert_int_equal(
		    ops->create(&config, &scene->selves[i], NULL), SVC_OK);
	}
	assert_int_equal(ops->listen(scene->selves[0], address, accept_call,
			     NULL, &scene->listener, NULL),
	    SVC_OK);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(ops->dial(scene->selves[1],
				     ops->listener_address(scene->listener),
				     WAIT_MS, &scene->conns[i], NULL),
		    SVC_OK);
		call(ops, scene->conns[i],
		    "-"); /* after which both have said hello */
		count_await(&here.replies, i + 1);
	}
	assert_int_equal(
	    svc_executor_run(scene->executors[0], hold_thread, NULL), SVC_OK);
	count_await(&here.job, 1);
}

/* Returns when all connections have ended. */
static void
end_connections(struct scene *scene)
{
	for (int i = 0; i < 2; i++)
		scene->ops->conn_destroy(scene->conns[i]);
	scene->ops->listener_destroy(scene->listener);
}

static void
end(struct scene *scene)
{
	const struct svc_transport_ops *ops = scene->ops;
	for (int i = 0; i < 2; i++) {
		ops->destroy(scene->selves[i]);
		svc_executor_destroy(scene->executors[i]);
	}
}

/* What the clients have called is with the server: of calls in a row the
 * client's loop writes most. */
static void
await_written(struct scene *scene)
{
	struct svc_task written = {.run = tell_written};
	svc_loop_post(svc_executor_loop(scene->executors[1]), &written);
	count_await(&here.written, 1);
}

/* No run of one of them is longer than its share while the other one still has
 * some waiting; twice that, when its kick was just on the way. */
static void
check_shares(void)
{
	assert_int_equal(here.n, 2 + 2 * FLOOD);
	int run = 0, left[2] = {FLOOD, FLOOD};
	for (int i = 2; i < here.n; i++) {
		int which = here.order[i] - 'a';
		run = i > 2 && here.order[i] == here.order[i - 1] ? run + 1 : 1;
		assert_true(which == 0 || which == 1);
		assert_true(run <= 2 * SHARE || left[1 - which] == 0);
		left[which]--;
	}
}

static void
floods_are_handled_in_shares(const char *plugin, const char *address)
{
	struct scene scene;
	begin(&scene, plugin, address);
	call(scene.ops, scene.conns[0], "hold");
	count_await(&here.held, 1);
	for (int i = 0; i < FLOOD; i++)
		call(scene.ops, scene.conns[0], "a");
	for (int i = 0; i < FLOOD; i++)
		call(scene.ops, scene.conns[1], "b");
	await_written(&scene);
	count_up(&here.go);
	count_await(&here.replies, 2 + 1 + 2 * FLOOD);
	check_shares();
	end_connections(&scene);
	end(&scene);
}

/* A client with `n` requests, which are not finished unless it says so. */
static int
open_streams(const char *address, int n, bool whole)
{
	static const char hello[32] = "\xf5svc\1\1\x20\0"
				      "\0\0\x10\0\0\x10\0\0"
				      "\0\0\1\0\0\0\4\0"
				      "\0\x40\0";
	/* PART with HEADERS: service "s", endpoint "u", no content type. */
	char open[] = "\xd\0\0\0\1\1\xd\0"
		      "\0\0\0\0\0\0\0\0"
		      "\1\0s\0\1\0u\0\0\0";
	struct sockaddr_in to = {.sin_family = AF_INET};
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port =
	    htons((uint16_t)strtoul(strrchr(address, ':') + 1, NULL, 10));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	assert_int_equal(send(fd, hello, sizeof(hello), 0), sizeof(hello));
	open[0] = open[6] = sizeof(open) - 16;
	if (whole)
		open[5] |= SVC_PART_END;
	for (int id = 1; id <= n; id++) {
		open[8] = (char)(id & 0xff);
		open[9] = (char)(id >> 8);
		assert_int_equal(send(fd, open, sizeof(open), 0), sizeof(open));
	}
	return fd;
}

static void
streams_left_behind_end_in_shares(void **state)
{
	(void)state;
	struct scene scene;
	begin(&scene, "tcp", "127.0.0.1:0");
	int fd = open_streams(
	    scene.ops->listener_address(scene.listener), FLOOD, false);
	count_await(&here.opened, FLOOD);
	call(scene.ops, scene.conns[0], "hold");
	count_await(&here.held, 1);
	close(fd);
	for (int i = 0; i < FLOOD; i++)
		call(scene.ops, scene.conns[1], "b");
	await_written(&scene);
	count_up(&here.go);
	count_await(&here.replies, 2 + 1 + FLOOD);
	int64_t deadline = svc_deadline(WAIT_MS);
	while (atomic_load(&here.n) < 2 + 2 * FLOOD)
		assert_true(svc_remaining(deadline) > 0);
	check_shares();
	end_connections(&scene);
	end(&scene);
}

/* Behind its share there is nobody who would read an answer. */
static void
a_flood_of_who_hung_up_is_not_read(void **state)
{
	(void)state;
	struct scene scene;
	begin(&scene, "tcp", "127.0.0.1:0");
	call(scene.ops, scene.conns[0], "hold");
	count_await(&here.held, 1);
	close(open_streams(
	    scene.ops->listener_address(scene.listener), FLOOD, false));
	count_up(&here.go);
	count_await(&here.opened, SHARE);
	int64_t deadline = svc_deadline(WAIT_MS);
	while (atomic_load(&here.n) < 2 + SHARE)
		assert_true(svc_remaining(deadline) > 0);
	end_connections(&scene);
	assert_true(here.opened.value <= 2 * SHARE);
	end(&scene);
}

/* A listener has its turn among its connections. */
static void
a_crowd_that_connects_is_taken_in_shares(void **state)
{
	(void)state;
	struct scene scene;
	int fds[CROWD];
	begin(&scene, "tcp", "127.0.0.1:0");
	call(scene.ops, scene.conns[0], "hold");
	count_await(&here.held, 1);
	for (int i = 0; i < CROWD; i++)
		fds[i] = open_streams(
		    scene.ops->listener_address(scene.listener), 1, true);
	for (int i = 0; i < 2 * FLOOD; i++)
		call(scene.ops, scene.conns[1], "b");
	await_written(&scene);
	count_up(&here.go);
	count_await(&here.replies, 2 + 1 + 2 * FLOOD);
	int run = 0, left = 2 * FLOOD;
	for (int i = 2; i < here.n && left > 0; i++) {
		run = here.order[i] == 'u' ? run + 1 : 0;
		left -= here.order[i] == 'b';
		assert_true(run <= 2 * TAKEN);
	}
	for (int i = 0; i < CROWD; i++)
		close(fds[i]);
	end_connections(&scene);
	end(&scene);
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
	    cmocka_unit_test(streams_left_behind_end_in_shares),
	    cmocka_unit_test(a_flood_of_who_hung_up_is_not_read),
	    cmocka_unit_test(a_crowd_that_connects_is_taken_in_shares),
	};
	return cmocka_run_group_tests_name("fair", tests, NULL, NULL);
}
