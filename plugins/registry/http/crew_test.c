/* SPDX-License-Identifier: Apache-2.0 */
/* Tasks that share a thread, against a listener that takes connections and
 * says only what it is told to. */
#include "crew.h"

#include <svc/clock.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { TASKS = 50, WAIT_MS = 20000 };

static int listener;
static struct http_servers *servers;

struct asking {
	struct crew_task task;
	struct crew *crew;
	struct http *http;
	struct svc_buf answer;
	bool begun, questions; /* it asks on the common connection */
	int64_t due_at_ms;
	pthread_t thread;
	atomic_int turns, status, cancelled, ended;
};

static const struct http_request request = {
    .method = "GET", .path = "/", .timeout_ms = 60000};

static int64_t
turn(struct crew_task *task)
{
	struct asking *asking = (struct asking *)task;
	int status = 0;
	asking->thread = pthread_self();
	atomic_fetch_add(&asking->turns, 1);
	if (asking->questions) {
		struct http *http = crew_question(asking->crew);
		svc_err rc = http_ask(http, servers, 0, &request,
		    crew_stop(asking->crew), &asking->answer, &status, NULL);
		http_end(http);
		if (rc == SVC_E_CANCELLED)
			atomic_fetch_add(&asking->cancelled, 1);
		return 0;
	}
	if (asking->http == NULL)
		return asking->due_at_ms;
	if (!asking->begun)
		assert_int_equal(http_begin(asking->http, servers, 0, &request,
				     &asking->answer, NULL),
		    SVC_OK);
	asking->begun = true;
	if (http_look(asking->http, &status, NULL) == SVC_OK)
		atomic_store(&asking->status, status);
	return INT64_MAX;
}

static void
end(struct crew_task *task)
{
	struct asking *asking = (struct asking *)task;
	http_destroy(asking->http);
	atomic_store(&asking->ended, 1);
}

static const struct crew_ops ops = {.turn = turn, .end = end};

static void
join(struct crew *crew, struct asking *asking)
{
	svc_buf_init(&asking->answer, 1 << 16);
	asking->task.ops = &ops;
	asking->crew = crew;
	assert_int_equal(crew_join(crew, &asking->task), SVC_OK);
}

static void
leave(struct asking *asking)
{
	crew_leave(asking->crew, &asking->task);
	assert_int_equal(atomic_load(&asking->ended), 1);
	svc_buf_fini(&asking->answer);
}

static void
await(atomic_int *what, int value)
{
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	while (atomic_load(what) < value) {
		if (svc_remaining(deadline_at_ms) == 0)
			fail_msg("%d in place of %d", atomic_load(what), value);
		sched_yield();
	}
}

static void
requests_of_all_run_together(void **state)
{
	(void)state;
	static const char text[] = "HTTP/1.1 204 X\r\n\r\n";
	static struct asking tasks[TASKS];
	int fds[TASKS];
	struct crew *crew = NULL;
	assert_int_equal(crew_create("crew", &crew), SVC_OK);
	for (size_t i = 0; i < TASKS; i++) {
		assert_int_equal(
		    http_create(crew_set(crew), &tasks[i].http), SVC_OK);
		join(crew, &tasks[i]);
	}
	/* Nobody is answered before all have asked. */
	for (size_t i = 0; i < TASKS; i++) {
		fds[i] = accept(listener, NULL, NULL);
		assert_true(fds[i] >= 0);
	}
	for (size_t i = 0; i < TASKS; i++)
		assert_int_equal(
		    send(fds[i], text, sizeof(text) - 1, 0), sizeof(text) - 1);
	for (size_t i = 0; i < TASKS; i++)
		await(&tasks[i].status, 204);
	for (size_t i = 0; i < TASKS; i++) {
		leave(&tasks[i]);
		close(fds[i]);
		assert_true(pthread_equal(tasks[i].thread, tasks[0].thread));
	}
	crew_destroy(crew);
}

static void
turns_come_when_they_are_due(void **state)
{
	(void)state;
	static struct asking soon, never;
	struct crew *crew = NULL;
	assert_int_equal(crew_create("crew", &crew), SVC_OK);
	never.due_at_ms = INT64_MAX;
	join(crew, &never);
	join(crew, &soon); /* always due */
	await(&soon.turns, 100);
	leave(&soon);
	/* Nobody runs by himself any more, and one can still leave. */
	leave(&never);
	crew_destroy(crew);
	crew_destroy(NULL);
}

static void
leaving_waits_for_no_question(void **state)
{
	(void)state;
	static struct asking asking, other, third;
	struct crew *crew = NULL;
	assert_int_equal(crew_create("crew", &crew), SVC_OK);
	other.due_at_ms = INT64_MAX;
	join(crew, &other);
	asking.questions = third.questions = true;
	join(crew, &asking);
	/* It has been asked, and will not be answered for a minute; nor will
	 * the third, whose turn is the next. */
	int fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	join(crew, &third);
	int64_t since_ms = svc_now_ms();
	leave(&other);
	await(&asking.cancelled, 1);
	leave(&asking);
	leave(&third);
	assert_true(svc_now_ms() - since_ms < WAIT_MS);
	close(fd);
	crew_destroy(crew);
}

static int
listen_here(void **state)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);
	char address[32];
	(void)state;
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&in, len) != 0 ||
	    listen(listener, TASKS) != 0 ||
	    getsockname(listener, (struct sockaddr *)&in, &len) != 0)
		return -1;
	snprintf(address, sizeof(address), "127.0.0.1:%d", ntohs(in.sin_port));
	struct svc_registry_config config = {.address = address};
	return http_servers_create("test", &config, 80, &servers, NULL) ==
		       SVC_OK
		   ? 0
		   : -1;
}

static int
listen_no_more(void **state)
{
	(void)state;
	close(listener);
	http_servers_destroy(servers);
	return 0;
}

int
main(void)
{
#define TEST(name) \
	cmocka_unit_test_setup_teardown(name, listen_here, listen_no_more)
	const struct CMUnitTest tests[] = {
	    TEST(requests_of_all_run_together),
	    TEST(turns_come_when_they_are_due),
	    TEST(leaving_waits_for_no_question),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
