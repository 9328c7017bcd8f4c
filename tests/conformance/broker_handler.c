/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/broker.h>: handlers and subscriptions, which come and
 * go. */
#include <conformance/broker_inbox.h>

void
unsubscribed_hears_nothing(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0);
	struct inbox *gone = inbox_make(), *stays = inbox_make();
	const char *topic = member_topic("gone");
	member_subscribe(a, topic, NULL, stays);
	struct svc_subscription *subscription =
	    member_subscribe(a, topic, NULL, gone);
	member_publish(a, topic, "one");
	inbox_expect(gone, 1);
	svc_broker_unsubscribe(subscription);
	member_publish(a, topic, "two");
	inbox_expect(stays, 2);
	assert_int_equal(inbox_count(gone), 1);
	/* And back again. */
	member_subscribe(a, topic, NULL, gone);
	member_publish(a, topic, "three");
	inbox_expect(stays, 3);
	inbox_expect(gone, 2);
	assert_string_equal(gone->got[1].text, "three");
	member_after(state);
	inbox_free(gone);
	inbox_free(stays);
}

void
handled_before_the_end(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0);
	struct inbox *inbox = inbox_make();
	const char *topic = member_topic("end");
	struct svc_subscription *subscription =
	    member_subscribe(a, topic, NULL, inbox);
	for (int i = 0; i < 20; i++)
		member_publish(a, topic, "x");
	inbox_expect(inbox, 1);
	svc_broker_unsubscribe(subscription);
	pthread_mutex_lock(&inbox->lock);
	assert_int_equal(inbox->inside, 0);
	pthread_mutex_unlock(&inbox->lock);
	member_after(state);
	inbox_free(inbox);
}

void
handlers_may_publish(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0),
			  *b = member_make_connected(1);
	struct inbox *first = inbox_make(), *second = inbox_make();
	const char *from = member_topic("from"), *to = member_topic("to");
	first->forward = b;
	first->forward_to = to;
	member_subscribe(a, to, NULL, second);
	member_subscribe(b, from, NULL, first);
	for (int i = 0; i < 10; i++)
		member_publish(a, from, "hop");
	inbox_expect(second, 10);
	member_after(state);
	assert_int_equal(first->n, 10);
	/* It is still the same event, on another topic. */
	assert_string_equal(second->got[0].id, first->got[0].id);
	inbox_free(first);
	inbox_free(second);
}

void
a_handler_runs_once_at_a_time(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0);
	struct inbox *inbox = inbox_make();
	const char *topic = member_topic("once");
	member_subscribe(a, topic, NULL, inbox);
	struct publisher publishers[8];
	for (int i = 0; i < 8; i++) {
		publishers[i] = (struct publisher){.broker = a, .topic = topic};
		assert_int_equal(svc_thread_start(&publishers[i].thread, "pub",
				     publisher_run, &publishers[i]),
		    SVC_OK);
	}
	for (int i = 0; i < 8; i++) {
		svc_thread_join(publishers[i].thread);
		assert_int_equal(publishers[i].rc, SVC_OK);
	}
	inbox_expect(inbox, 8);
	member_after(state);
	assert_int_equal(inbox->most_inside, 1);
	assert_int_equal(inbox->n, 8);
	inbox_free(inbox);
}

void
a_slow_handler_stops_nobody_else(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0);
	struct inbox *slow = inbox_make(), *fast = inbox_make();
	const char *slow_topic = member_topic("slow"),
		   *topic = member_topic("fast");
	slow->blocked = true;
	member_subscribe(a, slow_topic, NULL, slow);
	member_subscribe(a, topic, NULL, fast);
	struct publisher publisher = {.broker = a, .topic = slow_topic};
	assert_int_equal(svc_thread_start(&publisher.thread, "pub",
			     publisher_run, &publisher),
	    SVC_OK);
	inbox_expect(slow, 1);
	for (int i = 0; i < 10; i++)
		member_publish(a, topic, "quick");
	inbox_expect(fast, 10);
	assert_int_equal(inbox_count(slow), 1);
	inbox_unblock(slow);
	svc_thread_join(publisher.thread);
	assert_int_equal(publisher.rc, SVC_OK);
	member_after(state);
	inbox_free(slow);
	inbox_free(fast);
}

void
subscribing_before_connecting(void **state)
{
	(void)state;
	struct svc_broker *a = member_make(0);
	struct inbox *inbox = inbox_make();
	const char *topic = member_topic("early");
	member_subscribe(a, topic, NULL, inbox);
	member_connect(a);
	/* The subscription is made in the background then: whoever publishes
	 * too early is not heard. */
	int64_t deadline = svc_deadline(WAIT_MS);
	while (inbox_count(inbox) == 0 && svc_remaining(deadline) > 0) {
		member_publish(a, topic, "hello");
		pthread_mutex_lock(&inbox->lock);
		if (inbox->n == 0)
			(void)svc_cond_wait(
			    &inbox->changed, &inbox->lock, svc_deadline(50));
		pthread_mutex_unlock(&inbox->lock);
	}
	assert_true(inbox_count(inbox) > 0);
	member_after(state);
	inbox_free(inbox);
}

void
a_new_topic_of_an_ended_member(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0),
			  *b = member_make_connected(1);
	struct inbox *inbox = inbox_make(), *dead = inbox_make();
	const char *topic = member_topic("reborn");
	member_subscribe(b, topic, NULL, dead);
	member_publish(a, topic, "one");
	inbox_expect(dead, 1);
	member_unmake(1);
	member_publish(a, topic, "to nobody");
	b = member_make_connected(1);
	member_subscribe(b, topic, NULL, inbox);
	member_publish(a, topic, "two");
	inbox_expect(inbox, 1);
	member_after(state);
	assert_int_equal(dead->n, 1);
	assert_string_equal(inbox->got[inbox->n - 1].text, "two");
	inbox_free(inbox);
	inbox_free(dead);
}

void
ends_with_everything_open(void **state)
{
	(void)state;
	struct svc_broker *a = member_make_connected(0);
	struct inbox *inboxes[3] = {inbox_make(), inbox_make(), inbox_make()};
	const char *topic = member_topic("open");
	for (int i = 0; i < 3; i++)
		member_subscribe(a, topic, NULL, inboxes[i]);
	member_publish(a, topic, "x");
	member_unmake(0);
	size_t n[3];
	for (int i = 0; i < 3; i++) {
		n[i] = inboxes[i]->n;
		assert_int_equal(inboxes[i]->inside, 0);
	}
	struct svc_broker *b = member_make_connected(1);
	member_publish(b, topic, "y");
	member_after(state);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(inboxes[i]->n, n[i]);
		inbox_free(inboxes[i]);
	}
}
