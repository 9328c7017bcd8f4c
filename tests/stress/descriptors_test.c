/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A service whose process has no descriptors left: those who are connected are
 * served, it waits without using its processor or filling the log, and takes
 * new connections when there are descriptors again. Strangers who only connect
 * cannot bring it there. At a websocket nng accepts, of which that is not true
 * (see docs/security.md), so there only those who are connected are looked at.
 */
#include "certificates.h"
#include "child.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 30000
#define DESCRIPTORS 200
#define STRANGERS 400
#define OUTAGE_MS 1500
#define LATECOMERS 20

static struct child servers[CHILD_WAYS];

/* ------------------------------------------------------------------ server */

struct use {
	int64_t cpu_ms, lines;
	bool has_descriptors;
};

static _Atomic int64_t lines; /* about connections that cannot be taken */

static void
count_lines(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strstr(line->id, ".accept") != NULL)
		atomic_fetch_add(&lines, 1);
}

static svc_err
on_use(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	struct timespec cpu;
	struct use *use = svc_alloc_in(call, sizeof(*use));
	if (use == NULL)
		return SVC_E_NOMEM;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	use->cpu_ms = (int64_t)cpu.tv_sec * 1000 + cpu.tv_nsec / 1000000;
	use->lines = atomic_load(&lines);
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	use->has_descriptors = fd >= 0;
	if (fd >= 0)
		close(fd);
	rsp->data = use;
	rsp->len = sizeof(*use);
	return SVC_OK;
}

static int taken[DESCRIPTORS];

static svc_err
on_take(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call;
	(void)req;
	(void)rsp;
	(void)arg;
	for (int i = 0; i < DESCRIPTORS; i++)
		if (taken[i] <= 0)
			taken[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return SVC_OK;
}

static svc_err
on_give(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call;
	(void)req;
	(void)rsp;
	(void)arg;
	for (int i = 0; i < DESCRIPTORS; i++) {
		if (taken[i] > 0)
			close(taken[i]);
		taken[i] = 0;
	}
	return SVC_OK;
}

static int
serve(int tell, const void *arg)
{
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = DESCRIPTORS;
	setrlimit(RLIMIT_NOFILE, &limit);
	svc_log_set_sink(count_lines, NULL);
	struct svc_service *service = child_make(arg, "few", true);
	svc_handle(service, "Few.Use", on_use, NULL);
	svc_handle(service, "Few.Take", on_take, NULL);
	svc_handle(service, "Few.Give", on_give, NULL);
	return child_serve(service, 0, NULL, tell);
}

/* ----------------------------------------------------------------- clients */

static struct svc_service *
caller_of(size_t way)
{
	struct svc_service *caller =
	    child_make(&child_ways[way], "caller", false);
	if (svc_init(caller, 0, NULL) != SVC_OK)
		fail_msg("%s", svc_error_text(caller));
	assert_int_equal(child_announce(&servers[way], &child_ways[way], caller,
			     "few", "few-1"),
	    SVC_OK);
	return caller;
}

static struct use
call(struct svc_service *caller, const char *endpoint)
{
	struct svc_message rsp;
	struct svc_error err = {0};
	struct use use = {0};
	if (svc_call(svc_client_of(caller), "few", endpoint, NULL, &rsp,
		timeout_ms(PATIENCE_MS), retries(0), detail(&err)) != SVC_OK)
		fail_msg("%s: %s", endpoint, err.text);
	if (rsp.len == sizeof(use))
		memcpy(&use, rsp.data, sizeof(use));
	svc_message_free(&rsp);
	return use;
}

/* Somebody who has not been connected before; as often as it takes. */
static void
newcomer_is_served(size_t way)
{
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	svc_err code = SVC_E_UNKNOWN;
	while (code != SVC_OK && svc_now_ms() < until_ms) {
		struct svc_service *caller = caller_of(way);
		code = svc_call(svc_client_of(caller), "few", "Few.Use", NULL,
		    NULL, timeout_ms(2000));
		svc_free(caller);
	}
	assert_int_equal(code, SVC_OK);
}

static int
dial(const char *address)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port =
	    htons((uint16_t)strtoul(strrchr(address, ':') + 1, NULL, 10));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

/* ------------------------------------------------------------------- cases */

static bool
is_ours(size_t way)
{
	return strncmp(child_ways[way].address, "ws:", 3) != 0;
}

static void
strangers_leave_descriptors(void **state)
{
	size_t way = (size_t)((struct child *)*state - servers);
	struct svc_service *caller = caller_of(way);
	int fds[STRANGERS];
	call(caller, "Few.Use");
	for (int i = 0; i < STRANGERS; i++)
		fds[i] = dial(servers[way].said);
	for (int i = 0; i < 200; i++)
		assert_true(call(caller, "Few.Use").has_descriptors);
	assert_int_equal(call(caller, "Few.Use").lines, 0);
	for (int i = 0; i < STRANGERS; i++)
		close(fds[i]);
	newcomer_is_served(way);
	svc_free(caller);
}

static void
an_outage_is_waited_for(void **state)
{
	size_t way = (size_t)((struct child *)*state - servers);
	struct svc_service *caller = caller_of(way);
	struct use before;
	/* Who has just gone still gives some back. */
	do {
		call(caller, "Few.Take");
		before = call(caller, "Few.Use");
	} while (before.has_descriptors);
	int fds[LATECOMERS]; /* they wait to be accepted */
	for (int i = 0; i < LATECOMERS; i++)
		fds[i] = dial(servers[way].said);
	int64_t until_ms = svc_deadline(OUTAGE_MS);
	struct use after = before;
	while (svc_now_ms() < until_ms) {
		after = call(caller, "Few.Use");
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	if (is_ours(way)) {
		assert_true(after.cpu_ms - before.cpu_ms < OUTAGE_MS / 2);
		assert_int_equal(after.lines, 1);
	}
	call(caller, "Few.Give");
	newcomer_is_served(way);
	for (int i = 0; i < LATECOMERS; i++)
		close(fds[i]);
	svc_free(caller);
}

#define TEST(f, way)                                                       \
	(struct CMUnitTest)                                                \
	{                                                                  \
		.name = #f, .test_func = f, .initial_state = &servers[way] \
	}

static int
end(void **state)
{
	(void)state;
	int result = 0;
	for (size_t way = 0; way < CHILD_WAYS; way++)
		if (!child_end(&servers[way]))
			result = -1;
	certificates_remove();
	return result;
}

int
main(void)
{
	if (!certificates_make())
		return 1;
	for (size_t way = 0; way < CHILD_WAYS; way++)
		if (!child_start(&servers[way], serve, &child_ways[way]))
			return 1;
	struct CMUnitTest tests[2 * CHILD_WAYS];
	size_t n = 0;
	for (size_t way = 0; way < CHILD_WAYS; way++) {
		if (servers[way].said[0] == '\0')
			continue;
		if (is_ours(way))
			tests[n++] = TEST(strangers_leave_descriptors, way);
		tests[n++] = TEST(an_outage_is_waited_for, way);
	}
	return _cmocka_run_group_tests("descriptors", tests, n, NULL, end);
}
