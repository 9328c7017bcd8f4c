/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two service processes, one of which is frozen in the middle of calls: its
 * sockets stay open and nothing comes out of them. No call fails, for the ones
 * that it has are given to the other when it has been silent for --keepalive;
 * and when it is thawed it gets calls again. The registry goes on naming both
 * all the time.
 */
#include <svc/svc.h>

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 90000
#define CLIENTS 4
#define SERVERS 2

static struct {
	pid_t pid;
	char address[64];
	int64_t answers;
} servers[SERVERS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the answers */
static pthread_cond_t changed;
static struct svc_service *caller;

/* ------------------------------------------------------------------ server */

static svc_err
on_who(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	return svc_reply_text(call, rsp, NULL, "%d", (int)getpid());
}

static int
serve(int tell)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct svc_service *service =
	    svc_new(name("frozen"), transport(tcp), registry(memory),
		broker(memory), address("127.0.0.1:0"), log_level("off"));
	svc_handle(service, "Frozen.Who", on_who, NULL);
	if (svc_start(service) != SVC_OK) {
		fprintf(stderr, "%s\n", svc_error_text(service));
		return 1;
	}
	const char *address = svc_options_of(service)->address;
	if (write(tell, address, strlen(address) + 1) < 0)
		return 1;
	close(tell);
	svc_err code = svc_run(service);
	svc_free(service);
	return svc_exit_status(code);
}

/* ----------------------------------------------------------------- clients */

static _Atomic bool ended;

static void *
call(void *arg)
{
	(void)arg;
	while (!atomic_load(&ended)) {
		struct svc_message rsp;
		struct svc_error err = {0};
		/* Longer than --keepalive, shorter than a test may take: who
		 * waits for the frozen one to the end fails. */
		svc_err code = svc_call(svc_client_of(caller), "frozen",
		    "Frozen.Who", NULL, &rsp, idempotent(), timeout_ms(20000),
		    retries(5), detail(&err));
		if (code != SVC_OK) {
			print_error("%s: %s\n", svc_err_name(code), err.text);
			abort();
		}
		pid_t who = (pid_t)strtol(rsp.data, NULL, 10);
		svc_message_free(&rsp);
		pthread_mutex_lock(&lock);
		for (int i = 0; i < SERVERS; i++)
			servers[i].answers += servers[i].pid == who;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

/* Waits until this one has answered so many times more; how often it has in
 * all. */
static int64_t
await_answers(int server, int64_t more)
{
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	svc_err code = SVC_OK;
	pthread_mutex_lock(&lock);
	int64_t enough = servers[server].answers + more;
	while (servers[server].answers < enough && code == SVC_OK)
		code = svc_cond_wait(&changed, &lock, until_ms);
	int64_t answers = servers[server].answers;
	pthread_mutex_unlock(&lock);
	if (code != SVC_OK)
		fail_msg("server %d has not answered %lld more calls", server,
		    (long long)more);
	return answers;
}

static void
a_frozen_server_is_left_and_found_again(void **state)
{
	(void)state;
	pthread_t threads[CLIENTS];
	for (int i = 0; i < CLIENTS; i++)
		assert_int_equal(
		    pthread_create(&threads[i], NULL, call, NULL), 0);
	await_answers(0, 100);
	await_answers(1, 100);

	siginfo_t info;
	kill(servers[0].pid, SIGSTOP);
	assert_int_equal(
	    waitid(P_PID, (id_t)servers[0].pid, &info, WSTOPPED), 0);
	/* All clients are stuck in it once, and then go to the other. */
	await_answers(1, 500);
	int64_t frozen = await_answers(0, 0);
	await_answers(1, 500);
	assert_int_equal(await_answers(0, 0), frozen);

	kill(servers[0].pid, SIGCONT);
	await_answers(0, 100);
	await_answers(1, 100);
	atomic_store(&ended, true);
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(threads[i], NULL);
}

/* -------------------------------------------------------------- beginning */

static int
make_caller(void **state)
{
	(void)state;
	caller = svc_new(name("caller"), transport(tcp), registry(memory),
	    broker(memory), selector(round_robin), log_level("error"));
	char program[] = "frozen", keepalive[] = "--keepalive=1";
	char *argv[] = {program, keepalive, NULL};
	if (svc_init(caller, 2, argv) != SVC_OK) {
		print_error("%s\n", svc_error_text(caller));
		return -1;
	}
	struct svc_headers *metadata = svc_headers_create();
	svc_headers_set(metadata, "transport", "tcp");
	svc_err code = SVC_OK;
	for (int i = 0; i < SERVERS && code == SVC_OK; i++) {
		char id[20];
		snprintf(id, sizeof(id), "frozen-%d", i);
		struct svc_node node = {.id = id,
		    .address = servers[i].address,
		    .metadata = metadata};
		struct svc_record record = {.name = "frozen",
		    .version = "latest",
		    .nodes = &node,
		    .n_nodes = 1};
		code = svc_registry_announce(
		    svc_registry_of(caller), &record, 3600000, NULL);
	}
	svc_headers_destroy(metadata);
	return code == SVC_OK ? 0 : -1;
}

static int
end(void **state)
{
	(void)state;
	svc_free(caller);
	int result = 0;
	for (int i = 0; i < SERVERS; i++) {
		int status = 0;
		kill(servers[i].pid, SIGTERM);
		if (waitpid(servers[i].pid, &status, 0) != servers[i].pid ||
		    status != 0) {
			print_error("server %d ended with status %x\n", i,
			    (unsigned)status);
			result = -1;
		}
	}
	return result;
}

int
main(void)
{
	for (int i = 0; i < SERVERS; i++) {
		int tell[2];
		if (pipe(tell) != 0)
			return 1;
		servers[i].pid = fork();
		if (servers[i].pid == 0) {
			close(tell[0]);
			exit(serve(tell[1]));
		}
		close(tell[1]);
		ssize_t n = read(tell[0], servers[i].address,
		    sizeof(servers[i].address) - 1);
		close(tell[0]);
		if (servers[i].pid < 0 || n <= 0)
			return 1;
	}
	svc_cond_init(&changed);
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_frozen_server_is_left_and_found_again),
	};
	return cmocka_run_group_tests_name("frozen", tests, make_caller, end);
}
