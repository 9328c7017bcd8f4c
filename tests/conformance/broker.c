/* SPDX-License-Identifier: Apache-2.0 */
#include <conformance/broker.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <support/lacks.h>

/* Generous: only a broken broker ever waits this long. */
#define WAIT_MS 20000
#define MAX_MEMBERS 4
#define MAX_EVENTS 512
#define MAX_MESSAGE ((int64_t)1 << 20)

static const struct svc_conformance_broker *setup;
static unsigned run; /* makes topics unique, whatever a server remembers */

static int
number_of(const char *text)
{
	return (int)strtol(text, NULL, 10);
}

/* ------------------------------------------------------------ participants */

static struct svc_broker *members[MAX_MEMBERS];

static struct svc_broker *
make_with(unsigned who, int64_t timeout_ms, size_t max_queued)
{
	struct svc_broker_config config = {
	    .timeout_ms = timeout_ms,
	    .max_message = MAX_MESSAGE,
	    .max_queued = max_queued,
	};
	setup->configure(setup->arg, who, &config);
	struct svc_error err = {0};
	struct svc_broker *broker = NULL;
	svc_err rc =
	    setup->ops != NULL
		? svc_broker_create_ops(setup->ops, &config, &broker, &err)
		: svc_broker_create(setup->plugin, &config, &broker, &err);
	if (rc != SVC_OK)
		fail_msg("create: %s", err.text);
	assert_non_null(broker);
	members[who] = broker;
	if (setup->joined != NULL)
		setup->joined(setup->arg, who, broker);
	return broker;
}

static struct svc_broker *
make(unsigned who)
{
	return make_with(who, WAIT_MS, 100);
}

static void
connect_to(struct svc_broker *broker)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	struct svc_error err = {0};
	svc_err rc;
	/* One whose time is short may need more of it on a busy machine. */
	do
		rc = svc_broker_connect(broker, &err);
	while (rc == SVC_E_UNAVAILABLE && svc_remaining(deadline) > 0);
	if (rc != SVC_OK)
		fail_msg("connect: %s", err.text);
}

static struct svc_broker *
make_connected(unsigned who)
{
	struct svc_broker *broker = make(who);
	connect_to(broker);
	return broker;
}

static void
unmake(unsigned who)
{
	if (members[who] == NULL)
		return;
	/* First: nothing may be carried to one that is going. */
	if (setup->left != NULL)
		setup->left(setup->arg, who);
	svc_broker_destroy(members[who]);
	members[who] = NULL;
}

static int
before(void **state)
{
	(void)state;
	run++;
	return 0;
}

static int
after(void **state)
{
	(void)state;
	for (unsigned i = 0; i < MAX_MEMBERS; i++)
		unmake(i);
	return 0;
}

static const char *
topic_of(const char *name)
{
	static char texts[8][96];
	static unsigned next;
	static char process[37];
	if (process[0] == '\0')
		svc_uuid(process);
	char *text = texts[next++ % 8];
	snprintf(text, sizeof(texts[0]), "test/%s/%u/%s", process, run, name);
	return text;
}

/* ------------------------------------------------------------------- inbox */

/* What a handler got, in order. */
struct got {
	char text[64];
	char id[40];
	char topic[96];
	char type[64];
	char trace[32];
	size_t len;
};
struct inbox {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t n;
	struct got got[MAX_EVENTS];
	void *last;     /* the whole body of the last one */
	int fail_first; /* so many are refused */
	bool blocked;   /* the handler waits until this is false */
	int inside, most_inside;
	struct svc_broker *forward;
	const char *forward_to;
};

static struct inbox *
inbox_make(void)
{
	struct inbox *inbox = calloc(1, sizeof(*inbox));
	assert_non_null(inbox);
	pthread_mutex_init(&inbox->lock, NULL);
	svc_cond_init(&inbox->changed);
	return inbox;
}

static void
inbox_free(struct inbox *inbox)
{
	pthread_mutex_destroy(&inbox->lock);
	pthread_cond_destroy(&inbox->changed);
	free(inbox->last);
	free(inbox);
}

static void
copy(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%s", from != NULL ? from : "");
}

static svc_err
on_event(const char *topic, const struct svc_message *message, void *arg)
{
	struct inbox *inbox = arg;
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&inbox->lock);
	if (++inbox->inside > inbox->most_inside)
		inbox->most_inside = inbox->inside;
	if (inbox->n < MAX_EVENTS) {
		struct got *got = &inbox->got[inbox->n];
		snprintf(got->text, sizeof(got->text), "%.*s",
		    (int)(message->len < 60 ? message->len : 60),
		    (const char *)message->data);
		copy(got->id, sizeof(got->id),
		    svc_headers_get(message->headers, "Micro-Id"));
		copy(got->topic, sizeof(got->topic),
		    svc_headers_get(message->headers, "Micro-Topic"));
		copy(got->trace, sizeof(got->trace),
		    svc_headers_get(message->headers, "trace"));
		copy(got->type, sizeof(got->type), message->content_type);
		got->len = message->len;
		if (strcmp(topic, got->topic) != 0)
			copy(got->topic, sizeof(got->topic), "another topic");
	}
	inbox->n++;
	free(inbox->last);
	inbox->last = malloc(message->len + 1);
	if (inbox->last != NULL && message->len > 0)
		memcpy(inbox->last, message->data, message->len);
	if (inbox->fail_first > 0) {
		inbox->fail_first--;
		rc = SVC_E_INTERNAL;
	}
	pthread_cond_broadcast(&inbox->changed);
	while (inbox->blocked)
		pthread_cond_wait(&inbox->changed, &inbox->lock);
	pthread_mutex_unlock(&inbox->lock);
	if (inbox->forward != NULL)
		rc = svc_broker_publish(
		    inbox->forward, inbox->forward_to, message, 0, NULL);
	pthread_mutex_lock(&inbox->lock);
	inbox->inside--;
	pthread_cond_broadcast(&inbox->changed);
	pthread_mutex_unlock(&inbox->lock);
	return rc;
}

/* Waits until the handler ran n times (in all of `count` inboxes together) and
 * is not running. */
static bool
wait_for(struct inbox **inboxes, size_t count, size_t n)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	for (;;) {
		size_t sum = 0;
		for (size_t i = 0; i < count; i++) {
			pthread_mutex_lock(&inboxes[i]->lock);
			sum += inboxes[i]->n;
			pthread_mutex_unlock(&inboxes[i]->lock);
		}
		if (sum >= n)
			return true;
		if (svc_remaining(deadline) == 0)
			return false;
		/* One inbox is waited on for a little while; the others are
		 * looked at again then. */
		pthread_mutex_lock(&inboxes[0]->lock);
		(void)svc_cond_wait(
		    &inboxes[0]->changed, &inboxes[0]->lock, svc_deadline(20));
		pthread_mutex_unlock(&inboxes[0]->lock);
	}
}

static void
expect(struct inbox *inbox, size_t n)
{
	if (!wait_for(&inbox, 1, n)) {
		pthread_mutex_lock(&inbox->lock);
		size_t have = inbox->n;
		pthread_mutex_unlock(&inbox->lock);
		fail_msg("only %zu of %zu events arrived", have, n);
	}
}

static size_t
count_of(struct inbox *inbox)
{
	pthread_mutex_lock(&inbox->lock);
	size_t n = inbox->n;
	pthread_mutex_unlock(&inbox->lock);
	return n;
}

static void
unblock(struct inbox *inbox)
{
	pthread_mutex_lock(&inbox->lock);
	inbox->blocked = false;
	pthread_cond_broadcast(&inbox->changed);
	pthread_mutex_unlock(&inbox->lock);
}

static struct svc_subscription *
subscribe(struct svc_broker *broker, const char *topic, const char *queue,
    struct inbox *inbox)
{
	struct svc_error err = {0};
	struct svc_subscription *subscription = NULL;
	if (svc_broker_subscribe(broker, topic, queue, on_event, inbox,
		&subscription, &err) != SVC_OK)
		fail_msg("subscribe: %s", err.text);
	assert_non_null(subscription);
	return subscription;
}

static void
publish(struct svc_broker *broker, const char *topic, const char *text)
{
	struct svc_message message = {
	    .content_type = "text/plain",
	    .data = text,
	    .len = strlen(text),
	};
	struct svc_error err = {0};
	if (svc_broker_publish(broker, topic, &message, 0, &err) != SVC_OK)
		fail_msg("publish %s: %s", text, err.text);
}

/* ------------------------------------------------------------------- tests */

static void
carries_everything(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0), *b = make_connected(1);
	struct inbox *inbox = inbox_make();
	const char *topic = topic_of("greet");
	subscribe(b, topic, NULL, inbox);

	struct svc_headers *headers = svc_headers_create();
	assert_int_equal(
	    svc_headers_set(headers, "trace", "<\"\xc3\xbc\">"), SVC_OK);
	struct svc_message message = {
	    "application/json", "{\"a\":1}\n", 8, headers};
	struct svc_error err = {0};
	assert_int_equal(
	    svc_broker_publish(a, topic, &message, 0, &err), SVC_OK);
	expect(inbox, 1);
	assert_string_equal(inbox->got[0].text, "{\"a\":1}\n");
	assert_int_equal(inbox->got[0].len, 8);
	assert_string_equal(inbox->got[0].type, "application/json");
	assert_string_equal(inbox->got[0].trace, "<\"\xc3\xbc\">");
	assert_string_equal(inbox->got[0].topic, topic);
	assert_int_equal(strlen(inbox->got[0].id), 36);
	/* The publisher's own headers are left alone. */
	assert_int_equal(svc_headers_count(headers), 1);

	/* An id that is there already is kept. */
	assert_int_equal(svc_headers_set(headers, "Micro-Id", "mine"), SVC_OK);
	assert_int_equal(
	    svc_broker_publish(a, topic, &message, 0, &err), SVC_OK);
	expect(inbox, 2);
	assert_string_equal(inbox->got[1].id, "mine");
	svc_headers_destroy(headers);
	after(state);
	inbox_free(inbox);
}

static void
any_bytes(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0), *b = make_connected(1);
	struct inbox *inbox = inbox_make();
	const char *topic = topic_of("bytes");
	subscribe(b, topic, NULL, inbox);

	size_t sizes[] = {0, 1, 2, 3, 255, 256, 70000, (size_t)MAX_MESSAGE};
	unsigned char *data = malloc((size_t)MAX_MESSAGE);
	assert_non_null(data);
	for (size_t i = 0; i < (size_t)MAX_MESSAGE; i++)
		data[i] = (unsigned char)(i * 7 + (i >> 8));
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct svc_message message = {NULL, data, sizes[i], NULL};
		struct svc_error err = {0};
		if (svc_broker_publish(a, topic, &message, 0, &err) != SVC_OK)
			fail_msg("%zu bytes: %s", sizes[i], err.text);
		expect(inbox, i + 1);
		assert_int_equal(inbox->got[i].len, sizes[i]);
		assert_string_equal(inbox->got[i].type, "");
		pthread_mutex_lock(&inbox->lock);
		assert_memory_equal(inbox->last, data, sizes[i]);
		pthread_mutex_unlock(&inbox->lock);
	}
	free(data);
	after(state);
	inbox_free(inbox);
}

static void
nobody_listens(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0);
	publish(a, topic_of("nobody"), "lost");
}

static void
everyone_without_queue_gets_all_in_order(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0), *b = make_connected(1);
	struct inbox *inboxes[3] = {inbox_make(), inbox_make(), inbox_make()};
	const char *topic = topic_of("all");
	subscribe(a, topic, NULL, inboxes[0]); /* the publisher's own */
	subscribe(b, topic, "", inboxes[1]);
	subscribe(b, topic, NULL, inboxes[2]);
	for (int i = 0; i < 50; i++) {
		char text[16];
		snprintf(text, sizeof(text), "%d", i);
		publish(a, topic, text);
	}
	for (int k = 0; k < 3; k++) {
		expect(inboxes[k], 50);
		for (int i = 0; i < 50; i++)
			assert_int_equal(number_of(inboxes[k]->got[i].text), i);
	}
	after(state);
	for (int k = 0; k < 3; k++) {
		assert_int_equal(inboxes[k]->n, 50);
		inbox_free(inboxes[k]);
	}
}

static void
a_queue_gets_each_once(void **state)
{
	(void)state;
	if (setup->no_queues) {
		struct svc_broker *a = make_connected(0);
		struct inbox *inbox = inbox_make();
		struct svc_subscription *subscription = NULL;
		struct svc_error err = {0};
		assert_int_equal(
		    svc_broker_subscribe(a, topic_of("jobs"), "workers",
			on_event, inbox, &subscription, &err),
		    SVC_E_UNIMPLEMENTED);
		assert_null(subscription);
		assert_non_null(strstr(err.text, "workers"));
		after(state);
		inbox_free(inbox);
		return;
	}
	struct svc_broker *a = make_connected(0), *b = make_connected(1),
			  *c = make_connected(2);
	struct inbox *queue[3] = {inbox_make(), inbox_make(), inbox_make()};
	struct inbox *other = inbox_make(), *all = inbox_make();
	const char *topic = topic_of("jobs");
	subscribe(b, topic, "workers", queue[0]);
	subscribe(c, topic, "workers", queue[1]);
	subscribe(c, topic, "workers", queue[2]);
	subscribe(c, topic, "others", other);
	subscribe(b, topic, NULL, all);
	bool seen[60] = {false};
	for (int i = 0; i < 60; i++) {
		char text[16];
		snprintf(text, sizeof(text), "%d", i);
		publish(a, topic, text);
	}
	assert_true(wait_for(queue, 3, 60));
	expect(other, 60);
	expect(all, 60);
	/* Ends every subscription: whatever comes too often has come. */
	after(state);
	assert_int_equal(queue[0]->n + queue[1]->n + queue[2]->n, 60);
	assert_int_equal(other->n, 60);
	assert_int_equal(all->n, 60);
	for (int k = 0; k < 3; k++) {
		for (size_t i = 0; i < queue[k]->n; i++) {
			int number = number_of(queue[k]->got[i].text);
			assert_in_range(number, 0, 59);
			assert_false(seen[number]);
			seen[number] = true;
		}
	}
	if (setup->deals_out) {
		assert_true(queue[0]->n > 0);
		assert_true(queue[1]->n + queue[2]->n > 0);
	}
	for (int k = 0; k < 3; k++)
		inbox_free(queue[k]);
	inbox_free(other);
	inbox_free(all);
}

static void
failure_means_redelivery(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0), *b = make_connected(1);
	struct inbox *inbox = inbox_make();
	const char *topic = topic_of("flaky");
	inbox->fail_first = 3;
	subscribe(b, topic, NULL, inbox);
	publish(a, topic, "again");
	expect(inbox, 4);
	for (int i = 0; i < 4; i++) {
		assert_string_equal(inbox->got[i].text, "again");
		assert_string_equal(inbox->got[i].id, inbox->got[0].id);
		assert_string_equal(inbox->got[i].type, "text/plain");
	}
	/* What follows is not held up for ever. */
	publish(a, topic, "next");
	expect(inbox, 5);
	assert_string_equal(inbox->got[4].text, "next");
	after(state);
	assert_int_equal(inbox->n, 5);
	inbox_free(inbox);
}

static void
failure_in_a_queue(void **state)
{
	(void)state;
	if (setup->no_queues)
		test_lacks("queues");
	struct svc_broker *a = make_connected(0), *b = make_connected(1),
			  *c = make_connected(2);
	struct inbox *queue[2] = {inbox_make(), inbox_make()};
	const char *topic = topic_of("flaky-jobs");
	queue[0]->fail_first = 2;
	queue[1]->fail_first = 2;
	subscribe(b, topic, "workers", queue[0]);
	subscribe(c, topic, "workers", queue[1]);
	for (int i = 0; i < 10; i++) {
		char text[16];
		snprintf(text, sizeof(text), "%d", i);
		publish(a, topic, text);
	}
	/* Each is handled in the end; those refused came once more each. */
	int refused = 0, handled_once = 0;
	int64_t deadline = svc_deadline(WAIT_MS);
	while (handled_once < 10 && svc_remaining(deadline) > 0) {
		size_t n = 0;
		refused = 0;
		for (int k = 0; k < 2; k++) {
			pthread_mutex_lock(&queue[k]->lock);
			refused += 2 - queue[k]->fail_first;
			n += queue[k]->n;
			pthread_mutex_unlock(&queue[k]->lock);
		}
		handled_once = (int)n - refused;
		if (handled_once < 10)
			(void)wait_for(queue, 2, n + 1);
	}
	assert_int_equal(handled_once, 10);
	after(state);
	bool handled[10] = {false};
	assert_int_equal(queue[0]->n + queue[1]->n, 10 + refused);
	for (int k = 0; k < 2; k++) {
		for (size_t i = 0; i < queue[k]->n; i++)
			handled[number_of(queue[k]->got[i].text)] = true;
	}
	for (int i = 0; i < 10; i++)
		assert_true(handled[i]);
	inbox_free(queue[0]);
	inbox_free(queue[1]);
}

static void
topics_do_not_mix(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0);
	const char *names[] = {
	    "x", "x/y", "x.y", "X", "x y", "\xc3\xa4", "a:b=c"};
	enum { N = sizeof(names) / sizeof(names[0]) };
	struct inbox *inboxes[N];
	for (int i = 0; i < N; i++) {
		inboxes[i] = inbox_make();
		subscribe(a, topic_of(names[i]), NULL, inboxes[i]);
	}
	for (int i = 0; i < N; i++)
		publish(a, topic_of(names[i]), names[i]);
	for (int i = 0; i < N; i++)
		expect(inboxes[i], 1);
	after(state);
	for (int i = 0; i < N; i++) {
		assert_int_equal(inboxes[i]->n, 1);
		assert_string_equal(inboxes[i]->got[0].text, names[i]);
		inbox_free(inboxes[i]);
	}
}

static void
unsubscribed_hears_nothing(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0);
	struct inbox *gone = inbox_make(), *stays = inbox_make();
	const char *topic = topic_of("gone");
	subscribe(a, topic, NULL, stays);
	struct svc_subscription *subscription = subscribe(a, topic, NULL, gone);
	publish(a, topic, "one");
	expect(gone, 1);
	svc_broker_unsubscribe(subscription);
	publish(a, topic, "two");
	expect(stays, 2);
	assert_int_equal(count_of(gone), 1);
	/* And back again. */
	subscribe(a, topic, NULL, gone);
	publish(a, topic, "three");
	expect(stays, 3);
	expect(gone, 2);
	assert_string_equal(gone->got[1].text, "three");
	after(state);
	inbox_free(gone);
	inbox_free(stays);
}

static void
handled_before_the_end(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0);
	struct inbox *inbox = inbox_make();
	const char *topic = topic_of("end");
	struct svc_subscription *subscription =
	    subscribe(a, topic, NULL, inbox);
	for (int i = 0; i < 20; i++)
		publish(a, topic, "x");
	expect(inbox, 1);
	svc_broker_unsubscribe(subscription);
	pthread_mutex_lock(&inbox->lock);
	assert_int_equal(inbox->inside, 0);
	pthread_mutex_unlock(&inbox->lock);
	after(state);
	inbox_free(inbox);
}

static void
bad_arguments(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0);
	struct inbox *inbox = inbox_make();
	char longest[257];
	memset(longest, 'x', sizeof(longest));
	longest[256] = '\0';
	const char *bad[] = {"", "a+b", "a/#", "a\nb", "a\x7f", "\xff",
	    "\xc0\x80", "\xed\xa0\x80", longest};
	struct svc_message message = {NULL, "x", 1, NULL};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct svc_error err = {0};
		struct svc_subscription *subscription = NULL;
		assert_int_equal(
		    svc_broker_publish(a, bad[i], &message, 0, &err),
		    SVC_E_INVAL);
		assert_non_null(strstr(err.text, "allowed"));
		assert_int_equal(svc_broker_subscribe(a, bad[i], NULL, on_event,
				     inbox, &subscription, &err),
		    SVC_E_INVAL);
		if (bad[i][0] != '\0')
			assert_int_equal(
			    svc_broker_subscribe(a, topic_of("q"), bad[i],
				on_event, inbox, &subscription, &err),
			    SVC_E_INVAL);
		assert_null(subscription);
	}
	char *big = calloc(1, (size_t)MAX_MESSAGE + 1);
	assert_non_null(big);
	struct svc_message too_big = {NULL, big, (size_t)MAX_MESSAGE + 1, NULL};
	struct svc_error err = {0};
	assert_int_equal(
	    svc_broker_publish(a, topic_of("big"), &too_big, 0, &err),
	    SVC_E_EXHAUSTED);
	assert_non_null(strstr(err.text, "1048577"));
	free(big);
	longest[255] = '\0';
	publish(a, longest, "fits");
	after(state);
	inbox_free(inbox);
}

static void
handlers_may_publish(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0), *b = make_connected(1);
	struct inbox *first = inbox_make(), *second = inbox_make();
	const char *from = topic_of("from"), *to = topic_of("to");
	first->forward = b;
	first->forward_to = to;
	subscribe(a, to, NULL, second);
	subscribe(b, from, NULL, first);
	for (int i = 0; i < 10; i++)
		publish(a, from, "hop");
	expect(second, 10);
	after(state);
	assert_int_equal(first->n, 10);
	/* It is still the same event, on another topic. */
	assert_string_equal(second->got[0].id, first->got[0].id);
	inbox_free(first);
	inbox_free(second);
}

struct publisher {
	struct svc_broker *broker;
	const char *topic;
	unsigned flags;
	svc_err rc;
	struct svc_error err;
	pthread_t thread;
};

static void *
run_publisher(void *arg)
{
	struct publisher *publisher = arg;
	struct svc_message message = {"text/plain", "late", 4, NULL};
	publisher->rc = svc_broker_publish(publisher->broker, publisher->topic,
	    &message, publisher->flags, &publisher->err);
	return NULL;
}

static void
a_handler_runs_once_at_a_time(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0);
	struct inbox *inbox = inbox_make();
	const char *topic = topic_of("once");
	subscribe(a, topic, NULL, inbox);
	struct publisher publishers[8];
	for (int i = 0; i < 8; i++) {
		publishers[i] = (struct publisher){.broker = a, .topic = topic};
		assert_int_equal(svc_thread_start(&publishers[i].thread, "pub",
				     run_publisher, &publishers[i]),
		    SVC_OK);
	}
	for (int i = 0; i < 8; i++) {
		svc_thread_join(publishers[i].thread);
		assert_int_equal(publishers[i].rc, SVC_OK);
	}
	expect(inbox, 8);
	after(state);
	assert_int_equal(inbox->most_inside, 1);
	assert_int_equal(inbox->n, 8);
	inbox_free(inbox);
}

static void
a_slow_handler_stops_nobody_else(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0);
	struct inbox *slow = inbox_make(), *fast = inbox_make();
	const char *slow_topic = topic_of("slow"), *topic = topic_of("fast");
	slow->blocked = true;
	subscribe(a, slow_topic, NULL, slow);
	subscribe(a, topic, NULL, fast);
	struct publisher publisher = {.broker = a, .topic = slow_topic};
	assert_int_equal(svc_thread_start(&publisher.thread, "pub",
			     run_publisher, &publisher),
	    SVC_OK);
	expect(slow, 1);
	for (int i = 0; i < 10; i++)
		publish(a, topic, "quick");
	expect(fast, 10);
	assert_int_equal(count_of(slow), 1);
	unblock(slow);
	svc_thread_join(publisher.thread);
	assert_int_equal(publisher.rc, SVC_OK);
	after(state);
	inbox_free(slow);
	inbox_free(fast);
}

static void
subscribing_before_connecting(void **state)
{
	(void)state;
	struct svc_broker *a = make(0);
	struct inbox *inbox = inbox_make();
	const char *topic = topic_of("early");
	subscribe(a, topic, NULL, inbox);
	connect_to(a);
	/* The subscription is made in the background then: whoever publishes
	 * too early is not heard. */
	int64_t deadline = svc_deadline(WAIT_MS);
	while (count_of(inbox) == 0 && svc_remaining(deadline) > 0) {
		publish(a, topic, "hello");
		pthread_mutex_lock(&inbox->lock);
		if (inbox->n == 0)
			(void)svc_cond_wait(
			    &inbox->changed, &inbox->lock, svc_deadline(50));
		pthread_mutex_unlock(&inbox->lock);
	}
	assert_true(count_of(inbox) > 0);
	after(state);
	inbox_free(inbox);
}

static void
a_new_topic_of_an_ended_member(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0), *b = make_connected(1);
	struct inbox *inbox = inbox_make(), *dead = inbox_make();
	const char *topic = topic_of("reborn");
	subscribe(b, topic, NULL, dead);
	publish(a, topic, "one");
	expect(dead, 1);
	unmake(1);
	publish(a, topic, "to nobody");
	b = make_connected(1);
	subscribe(b, topic, NULL, inbox);
	publish(a, topic, "two");
	expect(inbox, 1);
	after(state);
	assert_int_equal(dead->n, 1);
	assert_string_equal(inbox->got[inbox->n - 1].text, "two");
	inbox_free(inbox);
	inbox_free(dead);
}

static void
foreign_payloads_are_skipped(void **state)
{
	(void)state;
	if (setup->inject == NULL)
		test_lacks("payloads of other programs");
	struct svc_broker *a = make_connected(0);
	struct inbox *inbox = inbox_make();
	const char *topic = topic_of("foreign");
	subscribe(a, topic, NULL, inbox);
	setup->inject(setup->arg, topic, "no json at all", 14);
	setup->inject(setup->arg, topic, "{\"Body\":\"%%%\"}", 14);
	setup->inject(setup->arg, topic, "", 0);
	const char good[] = "{\"header\":{\"Content-Type\":\"text/plain\","
			    "\"Micro-Topic\":\"x\"},\"body\":\"aGkh\"}";
	setup->inject(setup->arg, topic, good, sizeof(good) - 1);
	expect(inbox, 1);
	assert_string_equal(inbox->got[0].text, "hi!");
	assert_string_equal(inbox->got[0].type, "text/plain");
	publish(a, topic, "still here");
	expect(inbox, 2);
	after(state);
	assert_int_equal(inbox->n, 2);
	inbox_free(inbox);
}

/* Whether this text arrives so often within that time, among others. */
static bool
gets_event(struct inbox *inbox, const char *text, int times, int64_t within_ms)
{
	int64_t deadline = svc_deadline(within_ms);
	bool found = false;
	pthread_mutex_lock(&inbox->lock);
	for (;;) {
		int n = 0;
		for (size_t i = 0; i < inbox->n && i < MAX_EVENTS; i++)
			n += strcmp(inbox->got[i].text, text) == 0;
		found = n >= times;
		if (found || svc_remaining(deadline) == 0)
			break;
		(void)svc_cond_wait(&inbox->changed, &inbox->lock, deadline);
	}
	pthread_mutex_unlock(&inbox->lock);
	return found;
}

static void
outlives_a_restart(void **state)
{
	(void)state;
	if (setup->kill_server == NULL)
		test_lacks("a server that can be lost");
	struct svc_broker *a = make_connected(0), *b = make_connected(1);
	struct inbox *inbox = inbox_make(), *queue = inbox_make();
	const char *topic = topic_of("restart");
	subscribe(b, topic, NULL, inbox);
	if (!setup->no_queues)
		subscribe(b, topic, "workers", queue);
	publish(a, topic, "before");
	expect(inbox, 1);
	setup->kill_server(setup->arg);

	/* A publish that may not wait says so, sooner or later (the loss must
	 * have been noticed); one that may waits for the server. */
	struct svc_message message = {"text/plain", "now", 3, NULL};
	struct svc_error err = {0};
	assert_int_equal(
	    svc_broker_publish(a, topic, &message, SVC_PUBLISH_NOWAIT, &err),
	    SVC_E_AGAIN);
	struct publisher publishers[3];
	for (int i = 0; i < 3; i++) {
		publishers[i] = (struct publisher){.broker = a, .topic = topic};
		assert_int_equal(svc_thread_start(&publishers[i].thread, "pub",
				     run_publisher, &publishers[i]),
		    SVC_OK);
	}
	setup->start_server(setup->arg);
	for (int i = 0; i < 3; i++) {
		svc_thread_join(publishers[i].thread);
		if (publishers[i].rc != SVC_OK)
			fail_msg("publish: %s", publishers[i].err.text);
	}
	/* "before" may come twice. */
	assert_true(gets_event(inbox, "late", 3, WAIT_MS));
	if (!setup->no_queues && !setup->forgets_queues)
		assert_true(gets_event(queue, "late", 3, WAIT_MS));
	publish(a, topic, "after");
	assert_true(gets_event(inbox, "after", 1, WAIT_MS));
	/* The queue is there again as well, sooner or later. */
	bool found = setup->no_queues;
	int64_t deadline = svc_deadline(WAIT_MS);
	while (!found && svc_remaining(deadline) > 0) {
		publish(a, topic, "again");
		found = gets_event(queue, "again", 1, 100);
	}
	assert_true(found);
	after(state);
	inbox_free(inbox);
	inbox_free(queue);
}

static void
starts_without_its_server(void **state)
{
	(void)state;
	if (setup->kill_server == NULL)
		test_lacks("a server that can be lost");
	setup->kill_server(setup->arg);
	struct svc_broker *a = make_with(0, 1000, 1);
	struct inbox *inbox = inbox_make();
	const char *topic = topic_of("later");
	struct svc_error err = {0};
	assert_int_equal(svc_broker_connect(a, &err), SVC_E_UNAVAILABLE);
	assert_true(err.text[0] != '\0');
	subscribe(a, topic, NULL, inbox);
	struct svc_message message = {"text/plain", "x", 1, NULL};
	int64_t start = svc_now_ms();
	assert_int_equal(
	    svc_broker_publish(a, topic, &message, 0, &err), SVC_E_UNAVAILABLE);
	assert_true(svc_now_ms() - start >= 900);
	unmake(0);

	/* One with more patience gets through once it is there. */
	struct svc_broker *b = make_with(1, WAIT_MS, 1);
	assert_int_equal(svc_broker_connect(b, &err), SVC_E_UNAVAILABLE);
	struct publisher publisher = {.broker = b, .topic = topic};
	assert_int_equal(svc_thread_start(&publisher.thread, "pub",
			     run_publisher, &publisher),
	    SVC_OK);
	setup->start_server(setup->arg);
	svc_thread_join(publisher.thread);
	if (publisher.rc != SVC_OK)
		fail_msg("publish: %s", publisher.err.text);
	subscribe(b, topic, NULL, inbox);
	publish(b, topic, "here");
	expect(inbox, 1);
	after(state);
	inbox_free(inbox);
}

static void
waiting_publishes_are_bounded(void **state)
{
	(void)state;
	if (setup->kill_server == NULL)
		test_lacks("a server that can be lost");
	struct svc_broker *a = make_with(0, 1500, 2);
	connect_to(a);
	const char *topic = topic_of("bounded");
	setup->kill_server(setup->arg);
	struct svc_message message = {"text/plain", "x", 1, NULL};
	assert_int_equal(
	    svc_broker_publish(a, topic, &message, SVC_PUBLISH_NOWAIT, NULL),
	    SVC_E_AGAIN);
	struct publisher publishers[5];
	for (int i = 0; i < 5; i++) {
		publishers[i] = (struct publisher){.broker = a, .topic = topic};
		assert_int_equal(svc_thread_start(&publishers[i].thread, "pub",
				     run_publisher, &publishers[i]),
		    SVC_OK);
	}
	int refused = 0, waited = 0;
	for (int i = 0; i < 5; i++) {
		svc_thread_join(publishers[i].thread);
		refused += publishers[i].rc == SVC_E_AGAIN;
		waited += publishers[i].rc == SVC_E_UNAVAILABLE;
	}
	assert_int_equal(refused, 3);
	assert_int_equal(waited, 2);
	setup->start_server(setup->arg);
}

static void
ends_with_everything_open(void **state)
{
	(void)state;
	struct svc_broker *a = make_connected(0);
	struct inbox *inboxes[3] = {inbox_make(), inbox_make(), inbox_make()};
	const char *topic = topic_of("open");
	for (int i = 0; i < 3; i++)
		subscribe(a, topic, NULL, inboxes[i]);
	publish(a, topic, "x");
	unmake(0);
	size_t n[3];
	for (int i = 0; i < 3; i++) {
		n[i] = inboxes[i]->n;
		assert_int_equal(inboxes[i]->inside, 0);
	}
	struct svc_broker *b = make_connected(1);
	publish(b, topic, "y");
	after(state);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(inboxes[i]->n, n[i]);
		inbox_free(inboxes[i]);
	}
}

int
svc_conformance_broker(const struct svc_conformance_broker *given)
{
	setup = given;
	svc_log_set_sink(svc_log_to_text, NULL);
	svc_log_set_level(SVC_LOG_INFO);
#define TEST(name) cmocka_unit_test_setup_teardown(name, before, after)
	const struct CMUnitTest tests[] = {
	    TEST(carries_everything),
	    TEST(any_bytes),
	    TEST(nobody_listens),
	    TEST(everyone_without_queue_gets_all_in_order),
	    TEST(a_queue_gets_each_once),
	    TEST(failure_means_redelivery),
	    TEST(failure_in_a_queue),
	    TEST(topics_do_not_mix),
	    TEST(unsubscribed_hears_nothing),
	    TEST(handled_before_the_end),
	    TEST(bad_arguments),
	    TEST(handlers_may_publish),
	    TEST(a_handler_runs_once_at_a_time),
	    TEST(a_slow_handler_stops_nobody_else),
	    TEST(subscribing_before_connecting),
	    TEST(a_new_topic_of_an_ended_member),
	    TEST(foreign_payloads_are_skipped),
	    TEST(outlives_a_restart),
	    TEST(starts_without_its_server),
	    TEST(waiting_publishes_are_bounded),
	    TEST(ends_with_everything_open),
	};
#undef TEST
	return cmocka_run_group_tests_name(
	    "broker conformance", tests, NULL, NULL);
}
