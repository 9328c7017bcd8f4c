/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/clock.h>
#include <svc/inbox.h>
#include <svc/log.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct handler {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int calls;
	int room_calls;
	bool fail;
	bool blocked;
	char last[16];
};

static void
handler_init(struct handler *handler)
{
	*handler = (struct handler){0};
	pthread_mutex_init(&handler->lock, NULL);
	pthread_cond_init(&handler->changed, NULL);
}

static svc_err
on_event(const char *topic, const struct svc_message *message, void *arg)
{
	struct handler *handler = arg;
	(void)topic;
	pthread_mutex_lock(&handler->lock);
	handler->calls++;
	snprintf(handler->last, sizeof(handler->last), "%.*s",
	    (int)message->len, (const char *)message->data);
	svc_err rc = handler->fail ? SVC_E_INTERNAL : SVC_OK;
	pthread_cond_broadcast(&handler->changed);
	while (handler->blocked)
		pthread_cond_wait(&handler->changed, &handler->lock);
	pthread_mutex_unlock(&handler->lock);
	return rc;
}

static void
on_room(void *arg)
{
	struct handler *handler = arg;
	pthread_mutex_lock(&handler->lock);
	handler->room_calls++;
	pthread_cond_broadcast(&handler->changed);
	pthread_mutex_unlock(&handler->lock);
}

static void
wait_calls(struct handler *handler, int n)
{
	pthread_mutex_lock(&handler->lock);
	while (handler->calls < n)
		pthread_cond_wait(&handler->changed, &handler->lock);
	pthread_mutex_unlock(&handler->lock);
}

static void
set(struct handler *handler, bool *flag, bool value)
{
	pthread_mutex_lock(&handler->lock);
	*flag = value;
	pthread_cond_broadcast(&handler->changed);
	pthread_mutex_unlock(&handler->lock);
}

static int
calls_of(struct handler *handler)
{
	pthread_mutex_lock(&handler->lock);
	int n = handler->calls;
	pthread_mutex_unlock(&handler->lock);
	return n;
}

static const struct svc_message one = {"text/plain", "one", 3, NULL};
static const struct svc_message two = {"text/plain", "two", 3, NULL};

static int given_up;

static void
on_line(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	given_up += strcmp(line->id, "broker.given_up") == 0;
}

/* By a clock that only the test moves. */
static void
pauses_grow_and_end(void **state)
{
	(void)state;
	svc_clock_manual();
	svc_log_set_sink(on_line, NULL);
	given_up = 0;
	struct handler handler;
	handler_init(&handler);
	handler.fail = true;
	struct svc_inbox_config config = {.name = "t"};
	struct svc_inbox *inbox;
	struct svc_inbox_member *member;
	assert_int_equal(svc_inbox_create(&config, &inbox), SVC_OK);
	assert_int_equal(
	    svc_inbox_join(inbox, on_event, &handler, &member), SVC_OK);
	assert_int_equal(svc_inbox_put(inbox, "t", &one, 0), SVC_OK);
	int64_t pause_ms = SVC_INBOX_FIRST_MS;
	for (int n = 1; n < SVC_INBOX_ATTEMPTS; n++) {
		wait_calls(&handler, n);
		assert_int_equal(svc_inbox_drain(inbox, INT64_MAX), SVC_OK);
		svc_clock_advance(pause_ms - 1);
		assert_int_equal(calls_of(&handler), n);
		/* Another event is not held up meanwhile. */
		if (n == 3) {
			set(&handler, &handler.fail, false);
			assert_int_equal(
			    svc_inbox_put(inbox, "t", &two, 0), SVC_OK);
			assert_int_equal(
			    svc_inbox_drain(inbox, INT64_MAX), SVC_OK);
			assert_string_equal(handler.last, "two");
			pthread_mutex_lock(&handler.lock);
			handler.fail = true;
			handler.calls--;
			pthread_mutex_unlock(&handler.lock);
		}
		svc_clock_advance(1);
		pause_ms = pause_ms * 2 < SVC_INBOX_LONGEST_MS
			       ? pause_ms * 2
			       : SVC_INBOX_LONGEST_MS;
	}
	wait_calls(&handler, SVC_INBOX_ATTEMPTS);
	assert_int_equal(svc_inbox_drain(inbox, INT64_MAX), SVC_OK);
	assert_int_equal(given_up, 1);
	svc_clock_advance(100000);
	svc_inbox_leave(member);
	assert_int_equal(handler.calls, SVC_INBOX_ATTEMPTS);
	svc_inbox_destroy(inbox);
	svc_log_set_sink(NULL, NULL);
	svc_clock_real();
}

static void
is_bounded(void **state)
{
	(void)state;
	struct handler handler;
	handler_init(&handler);
	handler.blocked = true;
	struct svc_inbox_config config = {
	    .name = "t",
	    .max_events = 4,
	    .room = on_room,
	    .arg = &handler,
	};
	struct svc_inbox *inbox;
	struct svc_inbox_member *member;
	assert_int_equal(svc_inbox_create(&config, &inbox), SVC_OK);
	assert_int_equal(
	    svc_inbox_join(inbox, on_event, &handler, &member), SVC_OK);
	for (int i = 0; i < 4; i++)
		assert_int_equal(svc_inbox_put(inbox, "t", &one, 0), SVC_OK);
	assert_int_equal(svc_inbox_put(inbox, "t", &one, 0), SVC_E_TIMEDOUT);
	assert_int_equal(
	    svc_inbox_put(inbox, "t", &one, svc_deadline(20)), SVC_E_TIMEDOUT);
	bool full = false;
	assert_int_equal(svc_inbox_force(inbox, "t", &two, &full), SVC_OK);
	assert_true(full);
	wait_calls(&handler, 1);
	assert_int_equal(
	    svc_inbox_drain(inbox, svc_deadline(10)), SVC_E_TIMEDOUT);
	set(&handler, &handler.blocked, false);
	/* Now it waits until there is room. */
	assert_int_equal(svc_inbox_put(inbox, "t", &one, INT64_MAX), SVC_OK);
	assert_int_equal(svc_inbox_drain(inbox, INT64_MAX), SVC_OK);
	pthread_mutex_lock(&handler.lock);
	while (handler.room_calls == 0)
		pthread_cond_wait(&handler.changed, &handler.lock);
	pthread_mutex_unlock(&handler.lock);
	svc_inbox_close(inbox);
	assert_int_equal(svc_inbox_put(inbox, "t", &one, 0), SVC_E_CLOSED);
	assert_int_equal(
	    svc_inbox_force(inbox, "t", &one, &full), SVC_E_CLOSED);
	svc_inbox_leave(member);
	assert_int_equal(handler.calls, 6);
	assert_int_equal(handler.room_calls, 1);
	svc_inbox_destroy(inbox);
}

struct putter {
	struct svc_inbox *inbox;
	pthread_t thread;
	svc_err rc;
};

static void *
run_putter(void *arg)
{
	struct putter *putter = arg;
	putter->rc = svc_inbox_put(putter->inbox, "t", &one, INT64_MAX);
	return NULL;
}

static void
closing_frees_those_who_wait(void **state)
{
	(void)state;
	struct svc_inbox_config config = {.name = "t", .max_bytes = 1};
	struct svc_inbox *inbox;
	assert_int_equal(svc_inbox_create(&config, &inbox), SVC_OK);
	assert_int_equal(svc_inbox_put(inbox, "t", &one, 0), SVC_OK);
	struct putter putter = {.inbox = inbox};
	assert_int_equal(
	    svc_thread_start(&putter.thread, "put", run_putter, &putter),
	    SVC_OK);
	svc_inbox_close(inbox);
	svc_thread_join(putter.thread);
	assert_int_equal(putter.rc, SVC_E_CLOSED);
	svc_inbox_destroy(inbox);
}

/* While one member is busy the other works, and what the one that leaves did
 * not begin is the other's. */
static void
members_share(void **state)
{
	(void)state;
	struct handler slow, fast;
	handler_init(&slow);
	handler_init(&fast);
	slow.blocked = true;
	struct svc_inbox_config config = {.name = "t"};
	struct svc_inbox *inbox;
	struct svc_inbox_member *a, *b;
	assert_int_equal(svc_inbox_create(&config, &inbox), SVC_OK);
	assert_int_equal(svc_inbox_join(inbox, on_event, &slow, &a), SVC_OK);
	assert_int_equal(svc_inbox_put(inbox, "t", &one, 0), SVC_OK);
	wait_calls(&slow, 1);
	assert_int_equal(svc_inbox_join(inbox, on_event, &fast, &b), SVC_OK);
	for (int i = 0; i < 100; i++)
		assert_int_equal(svc_inbox_put(inbox, "t", &two, 0), SVC_OK);
	wait_calls(&fast, 100);
	set(&slow, &slow.blocked, false);
	svc_inbox_leave(a);
	assert_int_equal(slow.calls, 1);
	assert_int_equal(svc_inbox_put(inbox, "t", &two, 0), SVC_OK);
	wait_calls(&fast, 101);
	svc_inbox_leave(b);
	svc_inbox_destroy(inbox);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(pauses_grow_and_end),
	    cmocka_unit_test(is_bounded),
	    cmocka_unit_test(closing_frees_those_who_wait),
	    cmocka_unit_test(members_share),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
