/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks for each student of a roster and enrols them, and reports what came of
 * it. Ends with 0 only if no call failed and each answer was what the roster
 * says. --codec chooses between JSON and protobuf.
 *
 * `lock` guards what has come of it; nothing is called under it but output.
 */
#include "roster.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WORKERS 64
#define MAX_NODES 64
#define MAX_TOLD 10 /* failures that are printed */
#define NODE_HEADER "Student-Node"

struct node {
	char *id;
	uint64_t calls;
};
struct client {
	struct svc_service *service;
	const struct svc_codec_ops *codec;
	const char *content_type;
	struct roster roster;

	/* The flags. */
	const char *path;
	int rounds, rate, workers;
	bool json, progress;

	pthread_t waiter; /* the thread that waits for signals */
	int64_t began_us;
	_Atomic uint64_t next; /* student, counted over all rounds */
	_Atomic bool stopping;
	_Atomic int running; /* workers */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t students, get, enrol, failed;
	size_t enrolled; /* different students whose enrolment was confirmed */
	bool *is_enrolled;
	int64_t longest_us;
	struct node nodes[MAX_NODES];
	size_t n_nodes;
};

/* ------------------------------------------------------------ one call */

static bool
same(const School__Student *a, const School__Student *b)
{
	return strcmp(a->name, b->name) == 0 &&
	       strcmp(a->classes, b->classes) == 0 && a->grade == b->grade &&
	       strcmp(a->phone, b->phone) == 0;
}

static svc_err
check(const struct client *client, const struct svc_message *rsp,
    const School__Student *wanted, struct svc_error *err)
{
	struct ProtobufCMessage *got;
	svc_err code = client->codec->decode(
	    &school__student__descriptor, rsp->data, rsp->len, &got, err);
	if (code != SVC_OK)
		return code;
	if (!same((const School__Student *)got, wanted))
		code = svc_error_set(err, SVC_E_DATA_LOSS,
		    "the answer is not what the roster says");
	svc_message_destroy(got);
	return code;
}

static svc_err
ask(const struct client *client, const char *endpoint,
    const School__Student *student, struct svc_message *rsp,
    struct svc_error *err)
{
	School__Name request = SCHOOL__NAME__INIT;
	struct svc_buf body;
	request.name = student->name;
	svc_buf_init(&body, SIZE_MAX);
	svc_err code = client->codec->encode(&request.base, &body, err);
	if (code == SVC_OK) {
		struct svc_message req = {
		    .content_type = client->content_type,
		    .data = body.data,
		    .len = body.len,
		};
		code = svc_call(svc_client_of(client->service), "student",
		    endpoint, &req, rsp, detail(err));
	}
	if (code == SVC_OK)
		code = check(client, rsp, student, err);
	svc_buf_fini(&body);
	return code;
}

/* The lock is held. */
static void
count_node(struct client *client, const char *id)
{
	size_t i = 0;
	if (id == NULL)
		id = "unknown";
	while (i < client->n_nodes && strcmp(client->nodes[i].id, id) != 0)
		i++;
	if (i == client->n_nodes) {
		if (i == MAX_NODES ||
		    (client->nodes[i].id = svc_mem_strdup(id)) == NULL)
			return;
		client->n_nodes++;
	}
	client->nodes[i].calls++;
}

static bool
call(struct client *client, const char *endpoint, uint64_t *calls,
    const School__Student *student)
{
	struct svc_message rsp = {0};
	struct svc_error why = {0};
	int64_t began_us = svc_now_us();
	svc_err code = ask(client, endpoint, student, &rsp, &why);
	int64_t took_us = svc_now_us() - began_us;
	pthread_mutex_lock(&client->lock);
	++*calls;
	if (took_us > client->longest_us)
		client->longest_us = took_us;
	if (code == SVC_OK)
		count_node(client, svc_headers_get(rsp.headers, NODE_HEADER));
	else if (client->failed++ < MAX_TOLD)
		fprintf(stderr, "%s: %s of \"%s\" failed: %s\n",
		    program_invocation_short_name, endpoint, student->name,
		    why.text[0] != '\0' ? why.text : svc_err_text(code));
	pthread_mutex_unlock(&client->lock);
	svc_message_free(&rsp);
	return code == SVC_OK;
}

/* ------------------------------------------------------------- workers */

/* Waits for the moment that --rate gives this student, unless it is over. */
static void
wait_for_turn(struct client *client, uint64_t turn)
{
	if (client->rate == 0)
		return;
	/* Two calls each. */
	int64_t due_us = client->began_us +
			 (int64_t)(turn * 2 * 1000000 / (uint64_t)client->rate);
	pthread_mutex_lock(&client->lock);
	while (!atomic_load(&client->stopping)) {
		int64_t left_us = due_us - svc_now_us();
		if (left_us <= 0)
			break;
		svc_cond_wait(&client->changed, &client->lock,
		    svc_deadline((left_us + 999) / 1000));
	}
	pthread_mutex_unlock(&client->lock);
}

static void
handle_student(struct client *client, size_t index)
{
	const School__Student *student = client->roster.entries[index].student;
	call(client, "Student.Get", &client->get, student);
	bool enrolled = call(client, "Student.Enrol", &client->enrol, student);
	pthread_mutex_lock(&client->lock);
	client->students++;
	if (enrolled && !client->is_enrolled[index]) {
		client->is_enrolled[index] = true;
		client->enrolled++;
	}
	if (client->progress) {
		printf("{\"students\":%" PRIu64 ",\"calls\":%" PRIu64 "}\n",
		    client->students, client->get + client->enrol);
		fflush(stdout);
	}
	pthread_mutex_unlock(&client->lock);
}

static void *
work(void *arg)
{
	struct client *client = arg;
	uint64_t end = (uint64_t)client->rounds * client->roster.n;
	for (;;) {
		uint64_t turn = atomic_fetch_add(&client->next, 1);
		if (end != 0 && turn >= end)
			break;
		wait_for_turn(client, turn);
		if (atomic_load(&client->stopping))
			break;
		handle_student(client, turn % client->roster.n);
	}
	if (atomic_fetch_sub(&client->running, 1) == 1)
		pthread_kill(client->waiter, SIGUSR1);
	return NULL;
}

/* Runs the workers to their end, or until a signal says that it is enough. */
static svc_err
run(struct client *client, const sigset_t *signals, struct svc_error *err)
{
	pthread_t threads[MAX_WORKERS];
	int n = 0, number;
	svc_err code = SVC_OK;
	client->waiter = pthread_self();
	client->began_us = svc_now_us();
	atomic_store(&client->running, client->workers);
	while (n < client->workers && code == SVC_OK) {
		code = svc_thread_start(&threads[n], "client", work, client);
		n += code == SVC_OK;
	}
	if (code == SVC_OK)
		sigwait(signals, &number);
	else
		svc_error_set(err, code, "a thread cannot be started: %s",
		    svc_err_text(code));
	atomic_store(&client->stopping, true);
	pthread_mutex_lock(&client->lock);
	pthread_cond_broadcast(&client->changed);
	pthread_mutex_unlock(&client->lock);
	while (n > 0)
		svc_thread_join(threads[--n]);
	return code;
}

/* -------------------------------------------------------------- report */

static int
compare_nodes(const void *a, const void *b)
{
	const struct node *left = a, *right = b;
	return strcmp(left->id, right->id);
}

static void
put_number(struct svc_buf *out, const char *key, uint64_t value)
{
	svc_buf_printf(out, "\"%s\":%" PRIu64 ",", key, value);
}

static svc_err
report_json(const struct client *client, int64_t took_us)
{
	struct svc_buf out;
	svc_buf_init(&out, SIZE_MAX);
	svc_buf_putc(&out, '{');
	put_number(&out, "calls", client->get + client->enrol);
	put_number(&out, "failed", client->failed);
	put_number(&out, "get", client->get);
	put_number(&out, "enrol", client->enrol);
	put_number(&out, "enrolled", client->enrolled);
	svc_buf_puts(&out, "\"content_type\":");
	svc_buf_json_string(
	    &out, client->content_type, strlen(client->content_type));
	svc_buf_puts(&out, ",\"nodes\":{");
	for (size_t i = 0; i < client->n_nodes; i++) {
		const struct node *node = &client->nodes[i];
		svc_buf_puts(&out, i > 0 ? "," : "");
		svc_buf_json_string(&out, node->id, strlen(node->id));
		svc_buf_printf(&out, ":%" PRIu64, node->calls);
	}
	svc_buf_puts(&out, "},");
	put_number(
	    &out, "longest_ms", (uint64_t)(client->longest_us + 999) / 1000);
	svc_buf_printf(&out, "\"ms\":%lld}", (long long)(took_us / 1000));
	svc_err code = out.failed;
	if (code == SVC_OK)
		puts((const char *)out.data);
	svc_buf_fini(&out);
	return code;
}

static void
report_text(const struct client *client, int64_t took_us)
{
	printf("%" PRIu64 " calls in %.3f s by %s, %" PRIu64
	       " failed, the longest %.1f ms\n",
	    client->get + client->enrol, (double)took_us / 1e6,
	    client->content_type, client->failed,
	    (double)client->longest_us / 1e3);
	for (size_t i = 0; i < client->n_nodes; i++)
		printf("  %8" PRIu64 " by %s\n", client->nodes[i].calls,
		    client->nodes[i].id);
	printf("%zu of %zu students enrolled\n", client->enrolled,
	    client->roster.n);
}

static svc_err
report(struct client *client)
{
	int64_t took_us = svc_now_us() - client->began_us;
	svc_err code = SVC_OK;
	if (client->n_nodes > 1)
		qsort(client->nodes, client->n_nodes, sizeof(client->nodes[0]),
		    compare_nodes);
	if (client->json)
		code = report_json(client, took_us);
	else
		report_text(client, took_us);
	return fflush(stdout) == 0 ? code : SVC_E_INTERNAL;
}

/* ---------------------------------------------------------------- main */

static svc_err
flags_check(const struct client *client, struct svc_error *err)
{
	if (client->rounds < 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "--rounds=%d must be 0 (until a signal) or more",
		    client->rounds);
	if (client->rate < 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "--rate=%d must be 0 (as fast as possible) or more",
		    client->rate);
	if (client->workers < 1 || client->workers > MAX_WORKERS)
		return svc_error_set(err, SVC_E_INVAL,
		    "--workers=%d must be from 1 to %d", client->workers,
		    MAX_WORKERS);
	return SVC_OK;
}

static svc_err
go(struct client *client, int argc, char *argv[], struct svc_error *err)
{
	struct svc_codecs *codecs = NULL;
	sigset_t signals;
	/* For all threads that are started from now on. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGUSR1); /* from the last worker */
	pthread_sigmask(SIG_BLOCK, &signals, NULL);

	svc_err code = svc_init(client->service, argc, argv);
	if (code == SVC_OK)
		code = flags_check(client, err);
	if (code == SVC_OK)
		code = roster_load(&client->roster, client->path, err);
	if (code == SVC_OK)
		code = svc_codecs_create(&codecs, err);
	if (code == SVC_OK) {
		client->content_type = svc_options_of(client->service)->codec;
		code = svc_codecs_find(
		    codecs, client->content_type, &client->codec, err);
	}
	if (code == SVC_OK) {
		client->is_enrolled = svc_mem_calloc(
		    client->roster.n, sizeof(client->is_enrolled[0]));
		if (client->is_enrolled == NULL)
			code = svc_error_set(err, SVC_E_NOMEM, "out of memory");
	}
	if (code == SVC_OK)
		code = run(client, &signals, err);
	if (code == SVC_OK)
		code = report(client);
	svc_codecs_destroy(codecs);
	return code;
}

int
main(int argc, char *argv[])
{
	struct client client = {
	    .path = ROSTER_FILE,
	    .rounds = 1,
	    .workers = 4,
	    .lock = PTHREAD_MUTEX_INITIALIZER,
	};
	struct svc_error why = {0};
	svc_cond_init(&client.changed);
	client.service = svc_new(name("student-client"),
	    flag(
		"roster", "The students, one JSON object a line", &client.path),
	    flag("rounds",
		"How often to go through the roster; 0: until a signal",
		&client.rounds),
	    flag(
		"rate", "Calls a second; 0: as many as possible", &client.rate),
	    flag("workers", "Students looked after at once", &client.workers),
	    flag("json", "Report as one line of JSON", &client.json),
	    flag("progress", "A line of JSON after each student",
		&client.progress));
	svc_err err = go(&client, argc, argv, &why);
	if (err != SVC_OK && err != SVC_E_DONE)
		fprintf(stderr, "%s: %s\n", program_invocation_short_name,
		    why.text[0] != '\0' ? why.text
					: svc_error_text(client.service));
	svc_free(client.service);
	roster_free(&client.roster);
	svc_mem_free(client.is_enrolled);
	for (size_t i = 0; i < client.n_nodes; i++)
		svc_mem_free(client.nodes[i].id);
	pthread_cond_destroy(&client.changed);
	return err == SVC_OK && client.failed > 0 ? EXIT_FAILURE
						  : svc_exit_status(err);
}
