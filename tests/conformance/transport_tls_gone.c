/* SPDX-License-Identifier: Apache-2.0 */
/* A service that is gone while its client writes, with TLS: see
 * transport_gone.c. */
#include "conformance/transport_tls_end.h"

#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define BODY 20480 /* more than one read takes */
#define CALLS 4

/* How a call ended. */
struct outcome {
	struct svc_stream_handle *stream; /* NULL: it could not be opened */
	sem_t over;
	bool answered;
};

/* Keeps the client's loop. */
struct holder {
	struct svc_task task;
	sem_t held, go;
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
	(void)end;
	sem_post(&outcome->over);
}

static void
open_call(struct tls_end *client, void *conn, struct outcome *outcome)
{
	static const struct svc_stream_events events = {
	    .part = on_part, .closed = on_closed};
	static const char body[BODY];
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "s",
	    .endpoint = "E.e",
	    .timeout_ms = SVC_FOREVER,
	    .data = body,
	    .len = BODY};
	sem_init(&outcome->over, 0, 0);
	outcome->answered = false;
	if (client->ops->open(conn, &first, 0, &events, outcome,
		&outcome->stream, NULL) != SVC_OK) {
		outcome->stream = NULL;
		sem_post(&outcome->over);
	}
}

static void
hold(struct svc_task *task)
{
	struct holder *holder = (struct holder *)(void *)task;
	sem_post(&holder->held);
	sem_wait(&holder->go);
}

static void
a_reply_that_came_before_the_end_counts(void **state)
{
	(void)state;
	struct holder holder = {.task.run = hold};
	struct outcome calls[CALLS];
	struct tls_end *server, *client;
	struct svc_tls_config tls = tls_of("server", "ca");
	server = tls_end_serve(&tls);
	tls = tls_of("client", "ca");
	tls_suite.loops = 1;
	client = tls_end_start(&tls);
	void *conn = tls_dial(client, tls_end_address(server), NULL);
	struct tls_got got = tls_call_on(client, conn);
	assert_answered(&got);
	sem_init(&holder.held, 0, 0);
	sem_init(&holder.go, 0, 0);
	svc_loop_post(svc_executor_loop(client->executor), &holder.task);
	sem_wait(&holder.held);
	open_call(client, conn, &calls[0]);
	while (atomic_load(&server->served) < 2)
		sched_yield();
	tls_end_stop(server);
	/* The first is answered by a reset, the others fail. */
	for (int i = 1; i < CALLS; i++)
		open_call(client, conn, &calls[i]);
	sem_post(&holder.go);
	for (int i = 0; i < CALLS; i++) {
		sem_wait(&calls[i].over);
		if (calls[i].stream != NULL)
			client->ops->release(calls[i].stream, SVC_E_CANCELLED);
		sem_destroy(&calls[i].over);
	}
	tls_hang_up(client, conn);
	tls_end_stop(client);
	sem_destroy(&holder.held);
	sem_destroy(&holder.go);
	assert_true(calls[0].answered);
	for (int i = 1; i < CALLS; i++)
		assert_false(calls[i].answered);
}

int
svc_conformance_tls_gone(const char *title)
{
	static const struct CMUnitTest tests[] = {
	    tls_test(a_reply_that_came_before_the_end_counts),
	};
	return cmocka_run_group_tests_name(title, tests, NULL, NULL);
}
