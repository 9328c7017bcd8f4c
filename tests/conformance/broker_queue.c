/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/broker.h>: who gets an event, and who gets it again. */
#include <conformance/broker_inbox.h>

#include <support/lacks.h>

#include <time.h>

static int
number_of(const char *text)
{
	return (int)strtol(text, NULL, 10);
}

void
everyone_without_queue_gets_all_in_order(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0),
			  *b = member_make_connected(1);
	struct inbox *inboxes[3] = {inbox_make(), inbox_make(), inbox_make()};
	const char *topic = member_topic("all");
	member_subscribe(a, topic, NULL, inboxes[0]); /* the publisher's own */
	member_subscribe(b, topic, "", inboxes[1]);
	member_subscribe(b, topic, NULL, inboxes[2]);
	for (int i = 0; i < 50; i++) {
		char text[16];
		snprintf(text, sizeof(text), "%d", i);
		member_publish(a, topic, text);
	}
	for (int k = 0; k < 3; k++) {
		inbox_expect(inboxes[k], 50);
		for (int i = 0; i < 50; i++)
			assert_int_equal(number_of(inboxes[k]->got[i].text), i);
	}
	member_after(state);
	for (int k = 0; k < 3; k++) {
		assert_int_equal(inboxes[k]->n, 50);
		inbox_free(inboxes[k]);
	}
}

void
a_queue_gets_each_once(void **state)
{
	(void)state;
	if (member_setup->no_queues) {
		struct svc_broker *a = member_make_connected(0);
		struct inbox *inbox = inbox_make();
		struct svc_subscription *subscription = NULL;
		struct svc_error err = {0};
		assert_int_equal(
		    svc_broker_subscribe(a, member_topic("jobs"), "workers",
			inbox_event, inbox, &subscription, &err),
		    SVC_E_UNIMPLEMENTED);
		assert_null(subscription);
		assert_non_null(strstr(err.text, "workers"));
		member_after(state);
		inbox_free(inbox);
		return;
	}
	struct svc_broker *a = member_make_connected(0),
			  *b = member_make_connected(1),
			  *c = member_make_connected(2);
	struct inbox *queue[3] = {inbox_make(), inbox_make(), inbox_make()};
	struct inbox *other = inbox_make(), *all = inbox_make();
	const char *topic = member_topic("jobs");
	member_subscribe(b, topic, "workers", queue[0]);
	member_subscribe(c, topic, "workers", queue[1]);
	member_subscribe(c, topic, "workers", queue[2]);
	member_subscribe(c, topic, "others", other);
	member_subscribe(b, topic, NULL, all);
	bool seen[60] = {false};
	for (int i = 0; i < 60; i++) {
		char text[16];
		snprintf(text, sizeof(text), "%d", i);
		member_publish(a, topic, text);
	}
	assert_true(inbox_wait(queue, 3, 60));
	inbox_expect(other, 60);
	inbox_expect(all, 60);
	/* Ends every subscription: whatever comes too often has come. */
	member_after(state);
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
	if (member_setup->deals_out) {
		assert_true(queue[0]->n > 0);
		assert_true(queue[1]->n + queue[2]->n > 0);
	}
	for (int k = 0; k < 3; k++)
		inbox_free(queue[k]);
	inbox_free(other);
	inbox_free(all);
}

void
failure_means_redelivery(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0),
			  *b = member_make_connected(1);
	struct inbox *inbox = inbox_make();
	const char *topic = member_topic("flaky");
	inbox->fail_first = 3;
	member_subscribe(b, topic, NULL, inbox);
	member_publish(a, topic, "again");
	inbox_expect(inbox, 4);
	for (int i = 0; i < 4; i++) {
		assert_string_equal(inbox->got[i].text, "again");
		assert_string_equal(inbox->got[i].id, inbox->got[0].id);
		assert_string_equal(inbox->got[i].type, "text/plain");
	}
	/* What follows is not held up for ever. */
	member_publish(a, topic, "next");
	inbox_expect(inbox, 5);
	assert_string_equal(inbox->got[4].text, "next");
	member_after(state);
	assert_int_equal(inbox->n, 5);
	inbox_free(inbox);
}

void
failure_in_a_queue(void **state)
{
	(void)state;
	if (member_setup->no_queues)
		test_lacks("queues");
	struct svc_broker *a = member_make_connected(0),
			  *b = member_make_connected(1),
			  *c = member_make_connected(2);
	struct inbox *queue[2] = {inbox_make(), inbox_make()};
	const char *topic = member_topic("flaky-jobs");
	queue[0]->fail_first = 2;
	queue[1]->fail_first = 2;
	member_subscribe(b, topic, "workers", queue[0]);
	member_subscribe(c, topic, "workers", queue[1]);
	for (int i = 0; i < 10; i++) {
		char text[16];
		snprintf(text, sizeof(text), "%d", i);
		member_publish(a, topic, text);
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
			(void)inbox_wait(queue, 2, n + 1);
	}
	assert_int_equal(handled_once, 10);
	member_after(state);
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

static void *
unsubscribe_run(void *arg)
{
	svc_broker_unsubscribe(arg);
	return NULL;
}

/* The second leaves while the first one is still at its last event, and waits
 * for it no longer than it must. */
void
members_of_a_queue_leave_side_by_side(void **state)
{
	if (member_setup->no_queues)
		test_lacks("queues");
	struct svc_broker *a = member_make_with(0, 1000, 100);
	member_connect(a);
	struct inbox *first = inbox_make(), *second = inbox_make();
	const char *topic = member_topic("leaving-jobs");
	first->blocked = true;
	struct svc_subscription *busy =
	    member_subscribe(a, topic, "workers", first);
	struct publisher publisher = {.broker = a, .topic = topic};
	assert_int_equal(svc_thread_start(&publisher.thread, "pub",
			     publisher_run, &publisher),
	    SVC_OK);
	inbox_expect(first, 1);
	struct svc_subscription *idle =
	    member_subscribe(a, topic, "workers", second);
	pthread_t thread;
	assert_int_equal(
	    svc_thread_start(&thread, "leaver", unsubscribe_run, busy), SVC_OK);
	/* So that it is not the first one that leaves last. */
	const struct timespec moment = {.tv_nsec = 200000000};
	nanosleep(&moment, NULL);
	svc_broker_unsubscribe(idle);
	inbox_unblock(first);
	svc_thread_join(thread);
	svc_thread_join(publisher.thread);
	member_after(state);
	inbox_free(first);
	inbox_free(second);
}
