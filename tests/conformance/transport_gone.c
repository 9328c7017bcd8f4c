/* SPDX-License-Identifier: Apache-2.0 */
/* A server that is gone while its client writes: what it said before counts,
 * and of what it may have read nobody is told that it was not run. */
#include "transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <semaphore.h>
#include <svc/clock.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "support/lacks.h"

#define HELLO                                       \
	"\xf5svc\x01\x01\x20\0\0\0\x10\0\0\x10\0\0" \
	"\0\0\x04\0\0\0\x40\0\0\0\x01\0\0\0\0\0"
#define HELLO_LEN (sizeof(HELLO) - 1)
#define FRAME_LEN 16
#define BODY 20480 /* more than one read takes */
/* PART with HEADERS, MESSAGE and END: a head of 6 bytes (no content type, no
 * status text) and BODY; stream 1, success. */
#define REPLY "\x06\x50\0\0\1\7\6\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0"
#define REPLY_LEN (sizeof(REPLY) - 1)

#define REQUEST 10000 /* a message that goes in one frame before a hello */
#define MANY 96       /* of them: more than a socket takes */
#define READ 4        /* of them */

/* How a stream ended. */
struct outcome {
	struct svc_stream_handle *stream; /* NULL: it could not be opened */
	sem_t over;
	bool answered, not_run;
};

static void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct outcome *outcome = stream->user;
	outcome->answered =
	    (part->flags & SVC_PART_END) != 0 && part->len == BODY;
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

static const struct svc_conformance_transport *setup;

struct scene {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *conn;
	int listener, peer;
	char address[128]; /* of the listener */
	struct svc_task hold;
	sem_t held, go;
	int n;
	struct outcome outcomes[MANY];
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

static bool
is_local(void)
{
	return strncmp(setup->address, "ipc://", 6) == 0;
}

static void
listen_locally(struct scene *scene)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", setup->address + 6);
	snprintf(scene->address, sizeof(scene->address), "%s", setup->address);
	scene->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	unlink(un.sun_path);
	assert_int_equal(
	    bind(scene->listener, (struct sockaddr *)&un, sizeof(un)), 0);
}

/* `narrow`: little is under way at once. */
static void
listen_on_tcp(struct scene *scene, bool narrow)
{
	struct sockaddr_in in = {
	    .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(in);
	int segment = 536, room = 4096;
	scene->listener = socket(AF_INET, SOCK_STREAM, 0);
	if (narrow) {
		setsockopt(scene->listener, IPPROTO_TCP, TCP_MAXSEG, &segment,
		    sizeof(segment));
		setsockopt(scene->listener, SOL_SOCKET, SO_RCVBUF, &room,
		    sizeof(room));
	}
	assert_int_equal(bind(scene->listener, (struct sockaddr *)&in, len), 0);
	assert_int_equal(
	    getsockname(scene->listener, (struct sockaddr *)&in, &len), 0);
	snprintf(scene->address, sizeof(scene->address), "127.0.0.1:%u",
	    ntohs(in.sin_port));
}

/* The client's loop does nothing until it may go on. */
static void
hold(struct scene *scene)
{
	svc_loop_post(svc_executor_loop(scene->executor), &scene->hold);
	sem_wait(&scene->held);
}

/* `full`: the loop is held from before the client is connected, and what it
 * sends fills the socket. */
static struct scene *
scene_begin(bool full)
{
	struct scene *scene = calloc(1, sizeof(*scene));
	assert_non_null(scene);
	if (is_local())
		listen_locally(scene);
	else
		listen_on_tcp(scene, full);
	assert_int_equal(listen(scene->listener, 1), 0);

	struct svc_executor_config one = {.loops = 1};
	const void *found;
	assert_int_equal(svc_catalogue_find(&svc_transport_interface,
			     setup->plugin, &found, NULL),
	    SVC_OK);
	scene->ops = found;
	assert_int_equal(
	    svc_executor_create(&one, &scene->executor, NULL), SVC_OK);
	sem_init(&scene->held, 0, 0);
	sem_init(&scene->go, 0, 0);
	scene->hold.run = hold_run;
	if (full)
		hold(scene);
	struct svc_transport_config config = {.executor = scene->executor};
	assert_int_equal(
	    scene->ops->create(&config, &scene->self, NULL), SVC_OK);
	assert_int_equal(scene->ops->dial(scene->self, scene->address, 10000,
			     &scene->conn, NULL),
	    SVC_OK);
	scene->peer = accept(scene->listener, NULL, NULL);
	assert_true(scene->peer >= 0);
	return scene;
}

static void
open_stream(struct scene *scene, const void *data, size_t len)
{
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "s",
	    .endpoint = "E.e",
	    .timeout_ms = SVC_FOREVER,
	    .data = data,
	    .len = len};
	struct outcome *outcome = &scene->outcomes[scene->n++];
	sem_init(&outcome->over, 0, 0);
	svc_err code = scene->ops->open(
	    scene->conn, &first, 0, &events, outcome, &outcome->stream, NULL);
	if (code == SVC_E_CLOSED) { /* it has been noticed already */
		outcome->stream = NULL;
		outcome->not_run = true;
		sem_post(&outcome->over);
	} else {
		assert_int_equal(code, SVC_OK);
	}
}

static void
await_ends(struct scene *scene)
{
	for (int i = 0; i < scene->n; i++)
		sem_wait(&scene->outcomes[i].over);
}

/* The hello and the first request have come; they are left unread, so that the
 * end of the socket is a reset behind the end of what it said. */
static void
await_request(struct scene *scene)
{
	char bytes[64];
	while (recv(scene->peer, bytes, sizeof(bytes), MSG_PEEK) <=
	       (ssize_t)HELLO_LEN)
		;
}

/* What was said is on its way before the end is, whenever the system sends it:
 * the end drops what is not. */
static void
go(struct scene *scene)
{
	int unsent = 1;
	while (!is_local() && unsent > 0)
		assert_int_equal(ioctl(scene->peer, SIOCOUTQNSD, &unsent), 0);
	close(scene->peer);
}

/* The peer goes, and the client writes twice before it reads what was said. */
static void
be_written_to(struct scene *scene)
{
	go(scene);
	open_stream(scene, NULL, 0);
	open_stream(scene, NULL, 0);
	sem_post(&scene->go);
	await_ends(scene);
}

static void
say(struct scene *scene, const char *said, size_t len, size_t zeros)
{
	static const char zero[BODY];
	assert_int_equal(send(scene->peer, said, len, MSG_NOSIGNAL), len);
	assert_int_equal(send(scene->peer, zero, zeros, MSG_NOSIGNAL), zeros);
}

static void
scene_end(struct scene *scene)
{
	for (int i = 0; i < scene->n; i++) {
		struct outcome *outcome = &scene->outcomes[i];
		if (outcome->stream != NULL)
			scene->ops->release(outcome->stream, SVC_E_CANCELLED);
		sem_destroy(&outcome->over);
	}
	scene->ops->conn_destroy(scene->conn);
	scene->ops->destroy(scene->self);
	svc_executor_destroy(scene->executor);
	close(scene->listener);
	if (is_local())
		unlink(setup->address + 6);
	sem_destroy(&scene->held);
	sem_destroy(&scene->go);
	free(scene);
}

static void
who_said_nothing_has_run_nothing(void **state)
{
	(void)state;
	struct scene *scene = scene_begin(false);
	open_stream(scene, NULL, 0);
	await_request(scene);
	hold(scene);
	shutdown(scene->peer, SHUT_WR);
	be_written_to(scene);
	for (int i = 0; i < 3; i++)
		assert_true(scene->outcomes[i].not_run);
	scene_end(scene);
}

static void
a_reply_that_came_before_the_end_counts(void **state)
{
	(void)state;
	struct scene *scene = scene_begin(false);
	open_stream(scene, NULL, 0);
	await_request(scene);
	hold(scene);
	say(scene, HELLO REPLY, HELLO_LEN + REPLY_LEN, BODY);
	shutdown(scene->peer, SHUT_WR);
	be_written_to(scene);
	assert_true(scene->outcomes[0].answered);
	assert_false(scene->outcomes[1].answered);
	scene_end(scene);
}

/* The client is about to read, and may find both at once. */
static void
a_reply_that_came_with_the_end_counts(void **state)
{
	(void)state;
	for (int i = 0; i < 50; i++) {
		struct scene *scene = scene_begin(false);
		open_stream(scene, NULL, 0);
		await_request(scene);
		say(scene, HELLO REPLY, HELLO_LEN + REPLY_LEN, BODY);
		go(scene);
		await_ends(scene);
		assert_true(scene->outcomes[0].answered);
		scene_end(scene);
	}
}

/* Its hello alone does not tell what it has run. */
static void
who_said_hello_may_have_run_it(void **state)
{
	(void)state;
	struct scene *scene = scene_begin(false);
	open_stream(scene, NULL, 0);
	await_request(scene);
	hold(scene);
	say(scene, HELLO, HELLO_LEN, 0);
	shutdown(scene->peer, SHUT_WR);
	be_written_to(scene);
	assert_false(scene->outcomes[0].answered);
	assert_false(scene->outcomes[0].not_run);
	scene_end(scene);
}

/* It may have overtaken what was said. Between processes of one host nothing
 * is under way that could be. */
static void
a_reset_does_not_tell_what_was_run(void **state)
{
	(void)state;
	static const struct linger at_once = {.l_onoff = 1};
	if (is_local())
		test_lacks("resets");
	struct scene *scene = scene_begin(false);
	open_stream(scene, NULL, 0);
	await_request(scene);
	hold(scene);
	setsockopt(
	    scene->peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	be_written_to(scene);
	assert_false(scene->outcomes[0].not_run);
	scene_end(scene);
}

static void
read_all(struct scene *scene, size_t len)
{
	char bytes[16384];
	while (len > 0) {
		size_t n = len < sizeof(bytes) ? len : sizeof(bytes);
		ssize_t got = recv(scene->peer, bytes, n, MSG_WAITALL);
		assert_true(got > 0);
		len -= (size_t)got;
	}
}

static void
read_request(struct scene *scene)
{
	uint8_t length[4], header[FRAME_LEN - sizeof(length)];
	assert_int_equal(
	    recv(scene->peer, length, sizeof(length), MSG_WAITALL), 4);
	read_all(scene, sizeof(header));
	read_all(scene,
	    length[0] + ((size_t)length[1] << 8) + ((size_t)length[2] << 16));
}

/* The peer ends in the middle of one write, whose rest the socket does not
 * take. */
static void
what_was_read_may_have_run(void **state)
{
	(void)state;
	static const char message[REQUEST];
	struct scene *scene = scene_begin(true);
	for (int i = 0; i < MANY; i++)
		open_stream(scene, message, sizeof(message));
	sem_post(&scene->go);
	say(scene, HELLO, HELLO_LEN, 0);
	read_all(scene, HELLO_LEN);
	for (int i = 0; i < READ; i++)
		read_request(scene);
	shutdown(scene->peer, SHUT_WR);
	await_ends(scene);
	close(scene->peer);
	for (int i = 0; i < READ; i++)
		assert_false(scene->outcomes[i].not_run);
	assert_true(scene->outcomes[MANY - 1].not_run);
	scene_end(scene);
}

int
svc_conformance_transport_gone(const struct svc_conformance_transport *with)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_said_nothing_has_run_nothing),
	    cmocka_unit_test(a_reply_that_came_before_the_end_counts),
	    cmocka_unit_test(a_reply_that_came_with_the_end_counts),
	    cmocka_unit_test(who_said_hello_may_have_run_it),
	    cmocka_unit_test(a_reset_does_not_tell_what_was_run),
	    cmocka_unit_test(what_was_read_may_have_run),
	};
	setup = with;
	if ((!with->sockets && !is_local()) || with->tls != NULL)
		return 0;
	char title[96];
	snprintf(title, sizeof(title), "%s, %s: a peer that is gone",
	    with->plugin, with->address);
	return cmocka_run_group_tests_name(title, tests, NULL, NULL);
}
