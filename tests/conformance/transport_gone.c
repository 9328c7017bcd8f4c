/* SPDX-License-Identifier: Apache-2.0 */
/* A server that is gone when its client writes: what it said before counts. */
#include "transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <svc/clock.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELLO                                       \
	"\xf5svc\x01\x01\x20\0\0\0\x10\0\0\x10\0\0" \
	"\0\0\x04\0\0\0\x40\0\0\0\x01\0\0\0\0\0"
/* PART of 6 bytes with HEADERS and END, all of it head: no content type, no
 * status text; stream 1, success. */
#define REPLY "\x06\0\0\0\1\5\6\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0"

/* How a stream ended. */
struct outcome {
	sem_t over;
	bool answered, not_run;
};

static void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct outcome *outcome = stream->user;
	outcome->answered = (part->flags & SVC_PART_END) != 0;
	sem_post(&outcome->over);
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct outcome *outcome = stream->user;
	outcome->not_run = end->not_run;
	sem_post(&outcome->over);
}

static const struct svc_stream_events events = {
    .part = on_part, .closed = on_closed};

static const char *plugin;

struct scene {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *conn;
	int listener, peer;
	struct svc_task hold;
	sem_t held, go;
	struct svc_stream_handle *streams[2];
	struct outcome outcomes[2];
};

static void
hold_run(struct svc_task *task)
{
	struct scene *scene =
	    (struct scene *)(void *)((char *)task -
				     offsetof(struct scene, hold));
	sem_post(&scene->held);
	sem_wait(&scene->go);
}

static void
scene_begin(struct scene *scene)
{
	struct sockaddr_in in = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(in);
	memset(scene, 0, sizeof(*scene));
	scene->listener = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(scene->listener, (struct sockaddr *)&in, len), 0);
	assert_int_equal(listen(scene->listener, 1), 0);
	assert_int_equal(
	    getsockname(scene->listener, (struct sockaddr *)&in, &len), 0);
	char address[32];
	snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(in.sin_port));

	struct svc_executor_config one = {.loops = 1};
	const void *found;
	assert_int_equal(
	    svc_catalogue_find(&svc_transport_interface, plugin, &found, NULL),
	    SVC_OK);
	scene->ops = found;
	assert_int_equal(
	    svc_executor_create(&one, &scene->executor, NULL), SVC_OK);
	struct svc_transport_config config = {.executor = scene->executor};
	assert_int_equal(
	    scene->ops->create(&config, &scene->self, NULL), SVC_OK);
	assert_int_equal(
	    scene->ops->dial(scene->self, address, 10000, &scene->conn, NULL),
	    SVC_OK);
	scene->peer = accept(scene->listener, NULL, NULL);
	assert_true(scene->peer >= 0);
	sem_init(&scene->held, 0, 0);
	sem_init(&scene->go, 0, 0);
	scene->hold.run = hold_run;
}

static void
open_stream(struct scene *scene, int i)
{
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "s",
	    .endpoint = "E.e",
	    .timeout_ms = SVC_FOREVER};
	struct outcome *outcome = &scene->outcomes[i];
	sem_init(&outcome->over, 0, 0);
	svc_err code = scene->ops->open(
	    scene->conn, &first, 0, &events, outcome, &scene->streams[i], NULL);
	if (code == SVC_E_CLOSED) { /* it has been noticed already */
		scene->streams[i] = NULL;
		outcome->not_run = true;
		sem_post(&outcome->over);
	} else {
		assert_int_equal(code, SVC_OK);
	}
}

/* The hello and the first request have come; they are left unread, so that the
 * end of the socket is a reset behind the end of what it said. */
static void
await_request(struct scene *scene)
{
	char bytes[64];
	while (recv(scene->peer, bytes, sizeof(bytes), MSG_PEEK) <=
	       (ssize_t)sizeof(HELLO) - 1)
		;
}

/* The peer says this and goes; the client writes before it can read that. */
static void
go_and_be_written_to(struct scene *scene, const char *said, size_t len)
{
	open_stream(scene, 0);
	await_request(scene);
	svc_loop_post(svc_executor_loop(scene->executor), &scene->hold);
	sem_wait(&scene->held);
	assert_int_equal(send(scene->peer, said, len, 0), len);
	shutdown(scene->peer, SHUT_WR);
	close(scene->peer);
	open_stream(scene, 1);
	sem_post(&scene->go);
	for (int i = 0; i < 2; i++)
		sem_wait(&scene->outcomes[i].over);
}

static void
scene_end(struct scene *scene)
{
	for (int i = 0; i < 2; i++) {
		if (scene->streams[i] != NULL)
			scene->ops->release(scene->streams[i], SVC_E_CANCELLED);
		sem_destroy(&scene->outcomes[i].over);
	}
	scene->ops->conn_destroy(scene->conn);
	scene->ops->destroy(scene->self);
	svc_executor_destroy(scene->executor);
	close(scene->listener);
	sem_destroy(&scene->held);
	sem_destroy(&scene->go);
}

static void
who_said_nothing_has_run_nothing(void **state)
{
	(void)state;
	struct scene scene;
	scene_begin(&scene);
	go_and_be_written_to(&scene, "", 0);
	assert_true(scene.outcomes[0].not_run);
	assert_true(scene.outcomes[1].not_run);
	scene_end(&scene);
}

static void
a_reply_that_came_before_the_end_counts(void **state)
{
	(void)state;
	static const char said[] = HELLO REPLY;
	struct scene scene;
	scene_begin(&scene);
	go_and_be_written_to(&scene, said, sizeof(said) - 1);
	assert_true(scene.outcomes[0].answered);
	assert_false(scene.outcomes[1].answered);
	scene_end(&scene);
}

int
svc_conformance_transport_gone(const struct svc_conformance_transport *with)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_said_nothing_has_run_nothing),
	    cmocka_unit_test(a_reply_that_came_before_the_end_counts),
	};
	if (!with->sockets || with->tls != NULL)
		return 0;
	char title[64];
	plugin = with->plugin;
	snprintf(title, sizeof(title), "%s: a peer that is gone", plugin);
	return cmocka_run_group_tests_name(title, tests, NULL, NULL);
}
