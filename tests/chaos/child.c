/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service, the client, and the clock of both.
 *
 * A client says on standard output, one line each and with the time of
 * CLOCK_MONOTONIC in milliseconds:
 *   there ID AT      its watch has the node
 *   gone ID AT       its watch has lost the node
 *   calls N FAILED   calls that have ended until now
 *   failed CODE AT   a call that failed; the text is in the log
 */
#include "child.h"

#include "proc.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORKERS = 4, PAUSE_MS = 80, TICK_MS = 5, SAY_MS = 100 };

/* ------------------------------------------------------------------- clock */

static atomic_int clock_rate = 1;

static void *
move_clock(void *arg)
{
	(void)arg;
	int64_t last_ms = real_ms();
	for (;;) {
		poll(NULL, 0, TICK_MS);
		int64_t now_ms = real_ms();
		svc_clock_advance((now_ms - last_ms) * clock_rate);
		last_ms = now_ms;
	}
	return NULL;
}

static void *
listen_to_suite(void *arg)
{
	(void)arg;
	char line[64];
	int rate;
	while (fgets(line, sizeof(line), stdin) != NULL)
		if (sscanf(line, "clock %d", &rate) == 1)
			clock_rate = rate;
	return NULL;
}

void
chaos_child_begin(void)
{
	pthread_t thread;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (getenv(CHAOS_CLOCK) != NULL) {
		svc_clock_manual();
		svc_thread_start(&thread, "chaos-clock", move_clock, NULL);
	}
	svc_thread_start(&thread, "chaos-stdin", listen_to_suite, NULL);
}

/* -------------------------------------------------------------------- node */

static svc_err
on_ping(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	return svc_reply_text(call, rsp, "text/plain", "%s",
	    svc_options_of(svc_call_service(call))->id);
}

int
chaos_node(int argc, char *argv[])
{
	struct svc_service *service =
	    svc_new(name(CHAOS_SERVICE), address("127.0.0.1:0"));
	svc_handle(service, CHAOS_ENDPOINT, on_ping, NULL, idempotent());
	return svc_main(service, argc, argv);
}

/* ------------------------------------------------------------------ client */

static struct svc_service *client;
static atomic_bool ending;
static _Atomic int64_t n_calls, n_failed;

static void
on_change(svc_change change, const struct svc_record *record, void *arg)
{
	(void)arg;
	if (change == SVC_SYNCED || record->n_nodes == 0 ||
	    change == SVC_UPDATED)
		return;
	printf("%s %s %lld\n", change == SVC_CREATED ? "there" : "gone",
	    record->nodes[0].id, (long long)real_ms());
}

static void
one_call(void)
{
	struct svc_message req = {.content_type = "text/plain"};
	struct svc_message rsp = {0};
	struct svc_error err = {0};
	svc_err code = svc_call(svc_client_of(client), CHAOS_SERVICE,
	    CHAOS_ENDPOINT, &req, &rsp, detail(&err));
	if (code == SVC_OK && (rsp.len == 0 || rsp.len > 64))
		code = SVC_E_DATA_LOSS;
	if (code != SVC_OK) {
		int64_t now_ms = real_ms();
		fprintf(stderr, "%lld %s: %s\n", (long long)now_ms,
		    svc_err_name(code), err.text);
		printf(
		    "failed %s %lld\n", svc_err_name(code), (long long)now_ms);
		n_failed++;
	}
	n_calls++;
	svc_message_free(&rsp);
}

static void *
work(void *arg)
{
	(void)arg;
	while (!ending) {
		one_call();
		poll(NULL, 0, PAUSE_MS);
	}
	return NULL;
}

static void *
count(void *arg)
{
	(void)arg;
	while (!ending) {
		poll(NULL, 0, SAY_MS);
		printf("calls %lld %lld\n", (long long)n_calls,
		    (long long)n_failed);
	}
	return NULL;
}

static int
run_client(void)
{
	pthread_t workers[WORKERS], counter;
	struct svc_watch *watch = NULL;
	struct svc_error err = {0};
	sigset_t ends;
	int got, n = 0;
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);
	if (svc_registry_watch(svc_registry_of(client), CHAOS_SERVICE,
		on_change, NULL, &watch, &err) != SVC_OK) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	while (n < WORKERS && svc_thread_start(&workers[n], "chaos-work", work,
				  NULL) == SVC_OK)
		n++;
	bool counts =
	    svc_thread_start(&counter, "chaos-count", count, NULL) == SVC_OK;
	sigwait(&ends, &got);
	ending = true;
	for (int i = 0; i < n; i++)
		svc_thread_join(workers[i]);
	if (counts)
		svc_thread_join(counter);
	svc_registry_unwatch(watch);
	printf("calls %lld %lld\n", (long long)n_calls, (long long)n_failed);
	return n == WORKERS && counts ? 0 : 1;
}

int
chaos_client(int argc, char *argv[])
{
	client = svc_new(name("chaos.client"));
	svc_err code = svc_init(client, argc, argv);
	if (code != SVC_OK)
		fprintf(stderr, "%s\n", svc_error_text(client));
	int status = code == SVC_OK ? run_client() : svc_exit_status(code);
	svc_free(client);
	return status;
}
