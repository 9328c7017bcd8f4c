/* SPDX-License-Identifier: Apache-2.0 */
/* Faults that a real consul does not give on demand: indexes that go back or
 * are 0 or missing, answers one upon the other, rubbish, half an answer, a
 * leader that changes behind a parked question. */
#include <conformance/registry.h>
#include <support/fake_http.h>

#include <svc/buf.h>
#include <svc/clock.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { WAIT_MS = 30000 };

/* How the questions for service "s" must come and are answered, one after the
 * other; `nodes` of them, "n1" to "nN". */
static const struct step {
	const char *index; /* that must be asked with; NULL: none */
	const char *answer_index;
	int nodes;
	int status; /* 0: 200 */
	enum { WHOLE, HALF, RUBBISH, PARKED } how;
} steps[] = {
    {NULL, "10", 1, 0, WHOLE},
    {"10", "12", 2, 0, WHOLE},
    /* It goes back: what this answer says does not count. */
    {"12", "5", 1, 0, WHOLE},
    {NULL, "5", 3, 0, WHOLE},
    /* 0 after a number has gone back, too. */
    {"5", "0", 1, 0, WHOLE},
    {NULL, "0", 4, 0, WHOLE},
    /* With 0 nobody would wait, and what lacks counts as 0. */
    {"1", NULL, 5, 0, WHOLE},
    {"1", "x", 6, 0, WHOLE},
    {"1", "20", 7, 0, WHOLE},
    {"20", "21", 0, 0, RUBBISH},
    {NULL, NULL, 0, 500, RUBBISH},
    {NULL, NULL, 0, 429, RUBBISH},
    {NULL, "30", 8, 0, WHOLE},
    {"30", "31", 1, 0, HALF},
    {NULL, "40", 9, 0, WHOLE},
    /* Nothing comes, and then there is another leader. */
    {"40", NULL, 0, 0, PARKED},
    {NULL, "41", 10, 0, WHOLE},
    {"41", NULL, 0, 0, PARKED},
};
enum { STEPS = sizeof(steps) / sizeof(steps[0]), LAST_NODES = 10 };

struct faulty {
	struct fake_http http;
	bool flood;         /* every answer at once, with a new index */
	atomic_int n_asked; /* questions for the service */
	int n_leader;       /* and for the leader */
	char wrong[256];    /* a question that was not as it should be */
};

static void
answer(int fd, int status, const char *index, const struct svc_buf *body,
    size_t more)
{
	struct svc_buf head;
	svc_buf_init(&head, 1 << 10);
	svc_buf_printf(&head, "HTTP/1.1 %d X\r\nConnection: close\r\n", status);
	if (index != NULL)
		svc_buf_printf(&head, "X-Consul-Index: %s\r\n", index);
	svc_buf_printf(&head, "Content-Length: %zu\r\n\r\n", body->len + more);
	fake_http_send(fd, head.data, head.len);
	fake_http_send(fd, body->data, body->len);
	svc_buf_fini(&head);
	close(fd);
}

static void
put_nodes(struct svc_buf *body, int nodes)
{
	svc_buf_puts(body, "[");
	for (int i = 1; i <= nodes; i++)
		svc_buf_printf(body,
		    "%s{\"Service\":{\"ID\":\"s/n%d\",\"Service\":\"s\","
		    "\"Tags\":[\"v=1\"],\"Address\":\"h\",\"Port\":1}}",
		    i > 1 ? "," : "", i);
	svc_buf_puts(body, "]");
}

/* Whether the request asks with this index, and to wait with it. */
static bool
is_asked(const char *request, const char *index)
{
	char expected[64];
	const char *end = strstr(request, " HTTP/");
	const char *at = strstr(request, "index=");
	if (index == NULL)
		return at == NULL || at > end;
	snprintf(expected, sizeof(expected), "&index=%s&wait=60s HTTP/", index);
	return strstr(request, "?passing=1&index=") != NULL &&
	       strstr(request, expected) != NULL;
}

static void
answer_health(struct faulty *faulty, int fd, const char *request)
{
	int number = atomic_fetch_add(&faulty->n_asked, 1);
	const struct step *step = &steps[number < STEPS ? number : STEPS - 1];
	struct svc_buf body;
	char index[16];
	svc_buf_init(&body, 1 << 16);
	if (faulty->flood) {
		snprintf(index, sizeof(index), "%d", number + 1);
		put_nodes(&body, number % 3 + 1);
		answer(fd, 200, index, &body, 0);
		svc_buf_fini(&body);
		return;
	}
	if (faulty->wrong[0] == '\0' &&
	    (number >= STEPS || !is_asked(request, step->index)))
		snprintf(faulty->wrong, sizeof(faulty->wrong),
		    "question %d: %.150s", number, request);
	if (step->how == PARKED) {
		fake_http_keep(&faulty->http, fd);
		return;
	}
	if (step->how == RUBBISH)
		svc_buf_puts(&body, "no cluster leader [{");
	else
		put_nodes(&body, step->nodes);
	answer(fd, step->status != 0 ? step->status : 200, step->answer_index,
	    &body, step->how == HALF ? 10 : 0);
	svc_buf_fini(&body);
}

static void
answer_leader(struct faulty *faulty, int fd)
{
	struct svc_buf body;
	svc_buf_init(&body, 256);
	/* The second that asks the same hears of another one. */
	svc_buf_printf(
	    &body, "\"10.0.0.%d:8300\"", faulty->n_leader++ == 0 ? 1 : 2);
	answer(fd, 200, NULL, &body, 0);
	svc_buf_fini(&body);
}

static void
answer_any(int fd, const char *request, void *arg)
{
	struct faulty *faulty = arg;
	if (strstr(request, "/v1/status/leader ") != NULL)
		answer_leader(faulty, fd);
	else
		answer_health(faulty, fd, request);
}

static struct svc_registry *
make(const struct faulty *faulty)
{
	struct svc_registry *registry = NULL;
	struct svc_registry_config config = {.address = faulty->http.address};
	assert_int_equal(
	    svc_registry_create("consul", &config, &registry, NULL), SVC_OK);
	return registry;
}

static void
every_break_brings_the_full_state_again(void **state)
{
	(void)state;
	static struct faulty faulty;
	struct recorder *recorder = recorder_create();
	struct svc_watch *watch = NULL;
	fake_http_start(&faulty.http, answer_any, &faulty);
	struct svc_registry *registry = make(&faulty);
	assert_int_equal(svc_registry_watch(registry, "s", recorder_change,
			     recorder, &watch, NULL),
	    SVC_OK);
	for (int i = 1; i <= LAST_NODES; i++) {
		char id[16];
		snprintf(id, sizeof(id), "n%d", i);
		if (!recorder_wait(
			recorder, SVC_CREATED, "s", id, WAIT_MS, NULL))
			fail_msg("node %s did not come, after question %d %s",
			    id, atomic_load(&faulty.n_asked), faulty.wrong);
	}
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	fake_http_stop(&faulty.http);
	assert_string_equal(faulty.wrong, "");
	assert_int_equal(recorder_nodes(recorder, "s"), LAST_NODES);
	assert_int_equal(recorder_count(recorder, SVC_SYNCED, NULL, NULL), 1);
	/* Nothing of what did not count was believed. */
	assert_int_equal(recorder_count(recorder, SVC_REMOVED, NULL, NULL), 0);
	recorder_destroy(recorder);
}

static void
answers_one_upon_the_other_are_rationed(void **state)
{
	(void)state;
	static struct faulty faulty = {.flood = true};
	struct recorder *recorder = recorder_create();
	struct svc_watch *watch = NULL;
	fake_http_start(&faulty.http, answer_any, &faulty);
	struct svc_registry *registry = make(&faulty);
	int64_t since_ms = svc_now_ms();
	assert_int_equal(svc_registry_watch(registry, "s", recorder_change,
			     recorder, &watch, NULL),
	    SVC_OK);
	/* At first they are taken as quickly as they come. */
	while (svc_now_ms() - since_ms < WAIT_MS &&
	       atomic_load(&faulty.n_asked) < 12)
		recorder_quiet(recorder, 20);
	int asked = atomic_load(&faulty.n_asked);
	int64_t took_ms = svc_now_ms() - since_ms;
	assert_true(asked >= 12);
	/* Four a second, and a few more at the beginning. */
	assert_true(asked <= 4 + took_ms / 250 + 2);
	assert_true(took_ms >= 1250);
	/* One that waits for its turn ends at once. */
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	fake_http_stop(&faulty.http);
	recorder_destroy(recorder);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_break_brings_the_full_state_again),
	    cmocka_unit_test(answers_one_upon_the_other_are_rationed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
