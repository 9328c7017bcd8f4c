/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that are frozen in the middle of calls, on each transport: their
 * sockets stay open and nothing comes out of them. Of two services one is
 * frozen: no idempotent call fails, for those that it has are given to the
 * other when it has been silent for --keepalive, and when it is thawed it gets
 * calls again. A call that may run only once fails by then, and not by its own
 * deadline. And of a client that is frozen the service ends the streams. The
 * registry goes on naming both all the time.
 *
 * A node that was silent is tried again after half a minute, so the transports
 * have their turn side by side, each in a process.
 */
#include "certificates.h"
#include "child.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 90000
/* Longer than --keepalive, shorter than a test may take: who waits for the
 * frozen one to the end fails. */
#define CALL_MS 20000
#define CLIENTS 4
#define SERVERS 2
#define STREAMS 20

static char keepalive[] = "--keepalive=2", program[] = "frozen";
static char *const arguments[] = {program, keepalive, NULL};

static struct scene {
	const struct child_way *way;
	struct child servers[SERVERS], client; /* of the first server */
} scene;

static void
nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

/* ------------------------------------------------------------------ server */

static atomic_int held; /* streams whose handlers run */

static svc_err
on_who(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	return svc_reply_text(call, rsp, NULL, "%d", (int)getpid());
}

static svc_err
on_held(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	return svc_reply_text(call, rsp, NULL, "%d", atomic_load(&held));
}

/* Until its caller has gone. */
static svc_err
on_wait(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)rsp;
	(void)arg;
	atomic_fetch_add(&held, 1);
	while (!svc_call_cancelled(call))
		nap();
	atomic_fetch_sub(&held, 1);
	return SVC_E_CANCELLED;
}

static svc_err
on_hold(struct svc_stream *stream, void *arg)
{
	struct svc_message message;
	(void)arg;
	atomic_fetch_add(&held, 1);
	while (svc_stream_recv(stream, &message) == SVC_OK)
		;
	atomic_fetch_sub(&held, 1);
	return SVC_OK;
}

static int
serve(int tell, const void *arg)
{
	struct svc_service *service = child_make(arg, "frozen", true);
	svc_handle(service, "Frozen.Who", on_who, NULL);
	svc_handle(service, "Frozen.Held", on_held, NULL);
	svc_handle(service, "Frozen.Wait", on_wait, NULL);
	svc_handle_stream(service, "Frozen.Hold", on_hold, NULL);
	char *argv[] = {arguments[0], arguments[1], NULL};
	return child_serve(service, 2, argv, tell);
}

/* ----------------------------------------------------------------- clients */

/* Knows the first `n` servers; NULL with the reason on stderr. */
static struct svc_service *
make_caller(int n)
{
	struct svc_service *caller = child_make(scene.way, "caller", false);
	char *argv[] = {arguments[0], arguments[1], NULL};
	if (svc_init(caller, 2, argv) != SVC_OK) {
		fprintf(stderr, "%s\n", svc_error_text(caller));
		svc_free(caller);
		return NULL;
	}
	for (int i = 0; i < n; i++) {
		char id[20];
		snprintf(id, sizeof(id), "frozen-%d", i);
		if (child_announce(&scene.servers[i], scene.way, caller,
			"frozen", id) != SVC_OK) {
			svc_free(caller);
			return NULL;
		}
	}
	return caller;
}

/* The number that the endpoint answers with; -1 and why. */
static int
ask(struct svc_service *caller, const char *endpoint, struct svc_error *err)
{
	struct svc_message rsp;
	if (svc_call(svc_client_of(caller), "frozen", endpoint, NULL, &rsp,
		idempotent(), timeout_ms(CALL_MS), retries(5),
		detail(err)) != SVC_OK)
		return -1;
	int number = (int)strtol(rsp.data, NULL, 10);
	svc_message_free(&rsp);
	return number;
}

static void
await_held(struct svc_service *caller, int number)
{
	struct svc_error err = {0};
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	int got;
	while ((got = ask(caller, "Frozen.Held", &err)) != number) {
		if (svc_now_ms() > until_ms)
			fail_msg(
			    "%d are held, not %d: %s", got, number, err.text);
		nap();
	}
}

/* A client that holds streams, in a process of its own. */
static int
hold(int tell, const void *arg)
{
	(void)arg;
	struct svc_service *caller = make_caller(1);
	if (caller == NULL)
		return 1;
	for (int i = 0; i < STREAMS; i++) {
		struct svc_message message = {.data = "", .len = 0};
		struct svc_stream *stream =
		    svc_open(svc_client_of(caller), "frozen", "Frozen.Hold");
		if (stream == NULL ||
		    svc_stream_send(stream, &message) != SVC_OK)
			return 1;
	}
	child_say(tell, "holds");
	for (;;)
		pause();
}

/* ------------------------------------------------------------------- cases */

static struct {
	struct svc_service *caller;
	_Atomic bool ended;
	_Atomic int64_t answers[SERVERS];
} run;

static void *
call(void *arg)
{
	struct svc_error err = {0};
	(void)arg;
	while (!atomic_load(&run.ended)) {
		int who = ask(run.caller, "Frozen.Who", &err);
		if (who < 0) {
			print_error("%s\n", err.text);
			abort();
		}
		for (int i = 0; i < SERVERS; i++)
			if (scene.servers[i].pid == who)
				atomic_fetch_add(&run.answers[i], 1);
		nap();
	}
	return NULL;
}

/* Waits until this one has answered so many times more; how often it has in
 * all. */
static int64_t
await_answers(int server, int64_t more)
{
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	int64_t enough = atomic_load(&run.answers[server]) + more;
	while (atomic_load(&run.answers[server]) < enough) {
		if (svc_now_ms() > until_ms)
			fail_msg("server %d has not answered %lld more calls",
			    server, (long long)more);
		nap();
	}
	return atomic_load(&run.answers[server]);
}

static void
a_frozen_server_is_left_and_found_again(void **state)
{
	pthread_t threads[CLIENTS];
	(void)state;
	memset(&run, 0, sizeof(run));
	run.caller = make_caller(SERVERS);
	assert_non_null(run.caller);
	for (int i = 0; i < CLIENTS; i++)
		assert_int_equal(
		    pthread_create(&threads[i], NULL, call, NULL), 0);
	await_answers(0, 50);
	await_answers(1, 50);

	child_freeze(&scene.servers[0]);
	/* All clients are stuck in it once, and then go to the other. */
	await_answers(1, 200);
	int64_t frozen = await_answers(0, 0);
	await_answers(1, 200);
	assert_int_equal(await_answers(0, 0), frozen);

	kill(scene.servers[0].pid, SIGCONT);
	await_answers(0, 50);
	await_answers(1, 50);
	atomic_store(&run.ended, true);
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(threads[i], NULL);
	svc_free(run.caller);
}

static void *
call_once(void *arg)
{
	struct svc_error *err = arg;
	svc_err code =
	    svc_call(svc_client_of(run.caller), "frozen", "Frozen.Wait", NULL,
		NULL, timeout_ms(CALL_MS), node("frozen-0"), detail(err));
	assert_int_not_equal(code, SVC_OK);
	return NULL;
}

static void
what_a_frozen_server_has_fails_by_keepalive(void **state)
{
	(void)state;
	struct svc_error err = {0};
	pthread_t thread;
	run.caller = make_caller(1);
	assert_non_null(run.caller);
	await_held(run.caller, 0);
	assert_int_equal(pthread_create(&thread, NULL, call_once, &err), 0);
	await_held(run.caller, 1);
	child_freeze(&scene.servers[0]);
	pthread_join(thread, NULL);
	assert_int_equal(err.code, SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, "no sign of life"));
	/* It comes back, and has given up what it had. */
	kill(scene.servers[0].pid, SIGCONT);
	await_held(run.caller, 0);
	svc_free(run.caller);
}

static void
a_frozen_client_holds_nothing(void **state)
{
	(void)state;
	struct svc_service *caller = make_caller(1);
	assert_non_null(caller);
	await_held(caller, STREAMS);
	child_freeze(&scene.client);
	await_held(caller, 0);
	svc_free(caller);
}

/* -------------------------------------------------------------- beginning */

static int
end(void **state)
{
	(void)state;
	int result = 0;
	for (int i = 0; i < SERVERS; i++)
		if (!child_end(&scene.servers[i]))
			result = -1;
	kill(scene.client.pid, SIGKILL);
	waitpid(scene.client.pid, NULL, 0);
	return result;
}

/* How many failed; in a process of its own. */
static int
test_way(const struct child_way *way)
{
	const struct CMUnitTest tests[] = {
	    /* First what the client holds, which is there from now on. */
	    cmocka_unit_test(a_frozen_client_holds_nothing),
	    cmocka_unit_test(a_frozen_server_is_left_and_found_again),
	    cmocka_unit_test(what_a_frozen_server_has_fails_by_keepalive),
	};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	scene.way = way;
	for (int i = 0; i < SERVERS; i++)
		if (!child_start(&scene.servers[i], serve, way))
			return 1;
	if (scene.servers[0].said[0] == '\0') {
		print_message("[    LACKS ] %s\n", way->name);
		return 0;
	}
	if (!child_start(&scene.client, hold, NULL))
		return 1;
	return cmocka_run_group_tests_name(way->name, tests, NULL, end);
}

int
main(void)
{
	pid_t pids[CHILD_WAYS];
	int failed = 0;
	if (!certificates_make())
		return 1;
	for (size_t i = 0; i < CHILD_WAYS; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			exit(test_way(&child_ways[i]));
	}
	for (size_t i = 0; i < CHILD_WAYS; i++) {
		int status = 1;
		waitpid(pids[i], &status, 0);
		failed += status != 0;
	}
	certificates_remove();
	return failed;
}
