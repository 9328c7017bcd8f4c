/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/broker.h>, for every broker: which ones there are, and
 * what their tests share. */
#include <conformance/broker_inbox.h>

#include <svc/log.h>

#define MAX_MEMBERS 4

const struct svc_conformance_broker *member_setup;
static unsigned run; /* makes topics unique, whatever a server remembers */

/* ------------------------------------------------------------ participants */

static struct svc_broker *members[MAX_MEMBERS];

struct svc_broker *
member_make_with(unsigned who, int64_t timeout_ms, size_t max_queued)
{
	struct svc_broker_config config = {
	    .timeout_ms = timeout_ms,
	    .max_message = MAX_MESSAGE,
	    .max_queued = max_queued,
	};
	member_setup->configure(member_setup->arg, who, &config);
	struct svc_error err = {0};
	struct svc_broker *broker = NULL;
	svc_err rc = member_setup->ops != NULL
			 ? svc_broker_create_ops(
			       member_setup->ops, &config, &broker, &err)
			 : svc_broker_create(
			       member_setup->plugin, &config, &broker, &err);
	if (rc != SVC_OK)
		fail_msg("create: %s", err.text);
	assert_non_null(broker);
	members[who] = broker;
	if (member_setup->joined != NULL)
		member_setup->joined(member_setup->arg, who, broker);
	return broker;
}

struct svc_broker *
member_make(unsigned who)
{
	return member_make_with(who, WAIT_MS, 100);
}

void
member_connect(struct svc_broker *broker)
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

struct svc_broker *
member_make_connected(unsigned who)
{
	struct svc_broker *broker = member_make(who);
	member_connect(broker);
	return broker;
}

void
member_unmake(unsigned who)
{
	if (members[who] == NULL)
		return;
	/* First: nothing may be carried to one that is going. */
	if (member_setup->left != NULL)
		member_setup->left(member_setup->arg, who);
	svc_broker_destroy(members[who]);
	members[who] = NULL;
}

int
member_before(void **state)
{
	(void)state;
	run++;
	return 0;
}

int
member_after(void **state)
{
	(void)state;
	for (unsigned i = 0; i < MAX_MEMBERS; i++)
		member_unmake(i);
	return 0;
}

const char *
member_topic(const char *name)
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

struct inbox *
inbox_make(void)
{
	struct inbox *inbox = calloc(1, sizeof(*inbox));
	assert_non_null(inbox);
	pthread_mutex_init(&inbox->lock, NULL);
	svc_cond_init(&inbox->changed);
	return inbox;
}

void
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

svc_err
inbox_event(const char *topic, const struct svc_message *message, void *arg)
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
bool
inbox_wait(struct inbox **inboxes, size_t count, size_t n)
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

void
inbox_expect(struct inbox *inbox, size_t n)
{
	if (!inbox_wait(&inbox, 1, n)) {
		pthread_mutex_lock(&inbox->lock);
		size_t have = inbox->n;
		pthread_mutex_unlock(&inbox->lock);
		fail_msg("only %zu of %zu events arrived", have, n);
	}
}

size_t
inbox_count(struct inbox *inbox)
{
	pthread_mutex_lock(&inbox->lock);
	size_t n = inbox->n;
	pthread_mutex_unlock(&inbox->lock);
	return n;
}

void
inbox_unblock(struct inbox *inbox)
{
	pthread_mutex_lock(&inbox->lock);
	inbox->blocked = false;
	pthread_cond_broadcast(&inbox->changed);
	pthread_mutex_unlock(&inbox->lock);
}

struct svc_subscription *
member_subscribe(struct svc_broker *broker, const char *topic,
    const char *queue, struct inbox *inbox)
{
	struct svc_error err = {0};
	struct svc_subscription *subscription = NULL;
	if (svc_broker_subscribe(broker, topic, queue, inbox_event, inbox,
		&subscription, &err) != SVC_OK)
		fail_msg("subscribe: %s", err.text);
	assert_non_null(subscription);
	return subscription;
}

void
member_publish(struct svc_broker *broker, const char *topic, const char *text)
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

/* Whether this text arrives so often within that time, among others. */
bool
inbox_gets(struct inbox *inbox, const char *text, int times, int64_t within_ms)
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

void *
publisher_run(void *arg)
{
	struct publisher *publisher = arg;
	struct svc_message message = {"text/plain", "late", 4, NULL};
	publisher->rc = svc_broker_publish(publisher->broker, publisher->topic,
	    &message, publisher->flags, &publisher->err);
	return NULL;
}

/* ------------------------------------------------------------------- tests */

int
svc_conformance_broker(const struct svc_conformance_broker *given)
{
	member_setup = given;
	svc_log_set_sink(svc_log_to_text, NULL);
	svc_log_set_level(SVC_LOG_INFO);
#define TEST(name) \
	cmocka_unit_test_setup_teardown(name, member_before, member_after)
	const struct CMUnitTest tests[] = {
	    TEST(carries_everything),
	    TEST(any_bytes),
	    TEST(nobody_listens),
	    TEST(everyone_without_queue_gets_all_in_order),
	    TEST(a_queue_gets_each_once),
	    TEST(failure_means_redelivery),
	    TEST(failure_in_a_queue),
	    TEST(members_of_a_queue_leave_side_by_side),
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
