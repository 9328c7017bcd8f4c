/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/broker.h>: a server that is lost and comes back. */
#include <conformance/broker_inbox.h>

#include <support/lacks.h>

void
outlives_a_restart(void **state)
{
	(void)state;
	if (member_setup->kill_server == NULL)
		test_lacks("a server that can be lost");
	struct svc_broker *a = member_make_connected(0),
			  *b = member_make_connected(1);
	struct inbox *inbox = inbox_make(), *queue = inbox_make();
	const char *topic = member_topic("restart");
	member_subscribe(b, topic, NULL, inbox);
	if (!member_setup->no_queues)
		member_subscribe(b, topic, "workers", queue);
	member_publish(a, topic, "before");
	inbox_expect(inbox, 1);
	member_setup->kill_server(member_setup->arg);

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
				     publisher_run, &publishers[i]),
		    SVC_OK);
	}
	member_setup->start_server(member_setup->arg);
	for (int i = 0; i < 3; i++) {
		svc_thread_join(publishers[i].thread);
		if (publishers[i].rc != SVC_OK)
			fail_msg("publish: %s", publishers[i].err.text);
	}
	/* "before" may come twice. */
	assert_true(inbox_gets(inbox, "late", 3, WAIT_MS));
	if (!member_setup->no_queues && !member_setup->forgets_queues)
		assert_true(inbox_gets(queue, "late", 3, WAIT_MS));
	member_publish(a, topic, "after");
	assert_true(inbox_gets(inbox, "after", 1, WAIT_MS));
	/* The queue is there again as well, sooner or later. */
	bool found = member_setup->no_queues;
	int64_t deadline = svc_deadline(WAIT_MS);
	while (!found && svc_remaining(deadline) > 0) {
		member_publish(a, topic, "again");
		found = inbox_gets(queue, "again", 1, 100);
	}
	assert_true(found);
	member_after(state);
	inbox_free(inbox);
	inbox_free(queue);
}

void
starts_without_its_server(void **state)
{
	(void)state;
	if (member_setup->kill_server == NULL)
		test_lacks("a server that can be lost");
	member_setup->kill_server(member_setup->arg);
	struct svc_broker *a = member_make_with(0, 1000, 1);
	struct inbox *inbox = inbox_make();
	const char *topic = member_topic("later");
	struct svc_error err = {0};
	assert_int_equal(svc_broker_connect(a, &err), SVC_E_UNAVAILABLE);
	assert_true(err.text[0] != '\0');
	member_subscribe(a, topic, NULL, inbox);
	struct svc_message message = {"text/plain", "x", 1, NULL};
	int64_t start = svc_now_ms();
	assert_int_equal(
	    svc_broker_publish(a, topic, &message, 0, &err), SVC_E_UNAVAILABLE);
	assert_true(svc_now_ms() - start >= 900);
	member_unmake(0);

	/* One with more patience gets through once it is there. */
	struct svc_broker *b = member_make_with(1, WAIT_MS, 1);
	assert_int_equal(svc_broker_connect(b, &err), SVC_E_UNAVAILABLE);
	struct publisher publisher = {.broker = b, .topic = topic};
	assert_int_equal(svc_thread_start(&publisher.thread, "pub",
			     publisher_run, &publisher),
	    SVC_OK);
	member_setup->start_server(member_setup->arg);
	svc_thread_join(publisher.thread);
	if (publisher.rc != SVC_OK)
		fail_msg("publish: %s", publisher.err.text);
	member_subscribe(b, topic, NULL, inbox);
	member_publish(b, topic, "here");
	inbox_expect(inbox, 1);
	member_after(state);
	inbox_free(inbox);
}

void
waiting_publishes_are_bounded(void **state)
{
	(void)state;
	if (member_setup->kill_server == NULL)
		test_lacks("a server that can be lost");
	struct svc_broker *a = member_make_with(0, 1500, 2);
	member_connect(a);
	const char *topic = member_topic("bounded");
	member_setup->kill_server(member_setup->arg);
	struct svc_message message = {"text/plain", "x", 1, NULL};
	assert_int_equal(
	    svc_broker_publish(a, topic, &message, SVC_PUBLISH_NOWAIT, NULL),
	    SVC_E_AGAIN);
	struct publisher publishers[5];
	for (int i = 0; i < 5; i++) {
		publishers[i] = (struct publisher){.broker = a, .topic = topic};
		assert_int_equal(svc_thread_start(&publishers[i].thread, "pub",
				     publisher_run, &publishers[i]),
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
	member_setup->start_server(member_setup->arg);
}
