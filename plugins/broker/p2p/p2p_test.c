/* SPDX-License-Identifier: Apache-2.0 */
/* The host here is a mesh in memory: it knows who subscribes to what and hands
 * events from one instance to another. */
#include <conformance/broker.h>

#include <svc/clock.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_NODES 4
#define MAX_ADVERTS 256

struct node {
	struct svc_broker *broker;
	char id[16];
	struct svc_broker_host host;
	int n_users;      /* deliveries that are in it */
	int n_advertised; /* calls of advertise */
	int fail;         /* so many deliveries fail with `fail_with` */
	svc_err fail_with;
	int n_delivered;
	bool hang; /* deliveries last their whole timeout */
};

struct advert {
	int who;
	char topic[256];
	char queue[64];
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct node nodes[MAX_NODES];
	struct advert adverts[MAX_ADVERTS];
	size_t n_adverts;
} mesh = {.lock = PTHREAD_MUTEX_INITIALIZER};

static svc_err
mesh_advertise(void *self, const char *topic, const char *queue, bool on,
    struct svc_error *err)
{
	struct node *node = self;
	int who = (int)(node - mesh.nodes);
	(void)err;
	pthread_mutex_lock(&mesh.lock);
	node->n_advertised++;
	struct advert *found = NULL;
	for (size_t i = 0; i < mesh.n_adverts; i++) {
		struct advert *a = &mesh.adverts[i];
		if (a->who == who && strcmp(a->topic, topic) == 0 &&
		    strcmp(a->queue, queue) == 0)
			found = a;
	}
	assert_int_equal(found != NULL, !on);
	if (on) {
		assert_true(mesh.n_adverts < MAX_ADVERTS);
		struct advert *a = &mesh.adverts[mesh.n_adverts++];
		a->who = who;
		snprintf(a->topic, sizeof(a->topic), "%s", topic);
		snprintf(a->queue, sizeof(a->queue), "%s", queue);
	} else {
		*found = mesh.adverts[--mesh.n_adverts];
	}
	pthread_mutex_unlock(&mesh.lock);
	return SVC_OK;
}

static svc_err
mesh_peers(void *self, const char *topic,
    void (*each)(const struct svc_broker_peer *peer, void *arg), void *arg,
    struct svc_error *err)
{
	(void)self;
	(void)err;
	pthread_mutex_lock(&mesh.lock);
	for (size_t i = 0; i < mesh.n_adverts; i++) {
		const struct advert *a = &mesh.adverts[i];
		struct svc_broker_peer peer = {mesh.nodes[a->who].id, a->queue};
		if (mesh.nodes[a->who].broker != NULL &&
		    strcmp(a->topic, topic) == 0)
			each(&peer, arg);
	}
	pthread_mutex_unlock(&mesh.lock);
	return SVC_OK;
}

static svc_err
mesh_deliver(void *self, const char *node_id, const char *queue,
    const char *topic, const struct svc_message *message, int64_t timeout_ms,
    struct svc_error *err)
{
	(void)self;
	struct node *node = NULL;
	pthread_mutex_lock(&mesh.lock);
	for (int i = 0; i < MAX_NODES; i++) {
		if (mesh.nodes[i].broker != NULL &&
		    strcmp(mesh.nodes[i].id, node_id) == 0)
			node = &mesh.nodes[i];
	}
	if (node == NULL) {
		pthread_mutex_unlock(&mesh.lock);
		return svc_error_set(err, SVC_E_NOT_FOUND, "node is gone");
	}
	node->n_delivered++;
	svc_err rc = SVC_OK;
	if (node->hang) {
		int64_t deadline = svc_deadline(timeout_ms);
		while (node->hang && svc_remaining(deadline) > 0)
			(void)svc_cond_wait(
			    &mesh.changed, &mesh.lock, deadline);
		if (node->hang)
			rc = SVC_E_TIMEDOUT;
	} else if (node->fail != 0) {
		node->fail--;
		rc = node->fail_with;
	}
	if (rc != SVC_OK) {
		pthread_mutex_unlock(&mesh.lock);
		return svc_error_set(err, rc, "as the test wants");
	}
	node->n_users++;
	struct svc_broker *broker = node->broker;
	pthread_mutex_unlock(&mesh.lock);
	rc = svc_broker_receive(broker, queue, topic, message, err);
	pthread_mutex_lock(&mesh.lock);
	node->n_users--;
	pthread_cond_broadcast(&mesh.changed);
	pthread_mutex_unlock(&mesh.lock);
	return rc;
}

static void
configure(void *arg, unsigned who, struct svc_broker_config *config)
{
	(void)arg;
	struct node *node = &mesh.nodes[who];
	*node = (struct node){0};
	snprintf(node->id, sizeof(node->id), "node-%u", who);
	node->host = (struct svc_broker_host){
	    .self = node,
	    .advertise = mesh_advertise,
	    .peers = mesh_peers,
	    .deliver = mesh_deliver,
	};
	config->client_id = node->id;
	config->host = &node->host;
}

static void
joined(void *arg, unsigned who, struct svc_broker *broker)
{
	(void)arg;
	pthread_mutex_lock(&mesh.lock);
	mesh.nodes[who].broker = broker;
	pthread_mutex_unlock(&mesh.lock);
}

static void
left(void *arg, unsigned who)
{
	(void)arg;
	pthread_mutex_lock(&mesh.lock);
	mesh.nodes[who].broker = NULL;
	while (mesh.nodes[who].n_users > 0)
		(void)svc_cond_wait(&mesh.changed, &mesh.lock, INT64_MAX);
	pthread_mutex_unlock(&mesh.lock);
}

/* ------------------------------------------- what only this broker promises */

static struct svc_broker *
node_make(unsigned who, int64_t timeout_ms)
{
	struct svc_broker_config config = {.timeout_ms = timeout_ms};
	configure(NULL, who, &config);
	struct svc_broker *broker = NULL;
	struct svc_error err = {0};
	if (svc_broker_create("p2p", &config, &broker, &err) != SVC_OK)
		fail_msg("create: %s", err.text);
	joined(NULL, who, broker);
	return broker;
}

static int
nodes_end(void **state)
{
	(void)state;
	for (unsigned i = 0; i < MAX_NODES; i++) {
		struct svc_broker *broker = mesh.nodes[i].broker;
		if (broker == NULL)
			continue;
		left(NULL, i);
		svc_broker_destroy(broker);
	}
	assert_int_equal(mesh.n_adverts, 0);
	return 0;
}

struct counter {
	int n;
	struct svc_broker *publish_with;
	svc_err published;
	struct svc_error err;
};

static const struct svc_message text = {"text/plain", "x", 1, NULL};

static svc_err
count(const char *topic, const struct svc_message *message, void *arg)
{
	struct counter *counter = arg;
	__atomic_add_fetch(&counter->n, 1, __ATOMIC_RELAXED);
	if (counter->publish_with != NULL)
		counter->published = svc_broker_publish(
		    counter->publish_with, topic, message, 0, &counter->err);
	return SVC_OK;
}

static struct svc_subscription *
listen_to(struct svc_broker *broker, const char *topic, const char *queue,
    struct counter *counter)
{
	struct svc_subscription *subscription = NULL;
	assert_int_equal(svc_broker_subscribe(broker, topic, queue, count,
			     counter, &subscription, NULL),
	    SVC_OK);
	return subscription;
}

static void
needs_a_host_and_no_address(void **state)
{
	(void)state;
	struct svc_broker *broker = NULL;
	struct svc_error err = {0};
	assert_int_equal(
	    svc_broker_create("p2p", NULL, &broker, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "service"));
	struct svc_broker_config config = {0};
	configure(NULL, 0, &config);
	config.address = "127.0.0.1:1";
	assert_int_equal(
	    svc_broker_create("p2p", &config, &broker, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "address"));
	assert_null(broker);
}

static void
is_advertised_once(void **state)
{
	(void)state;
	struct svc_broker *a = node_make(0, 1000);
	struct counter counter = {0};
	struct svc_subscription *one = listen_to(a, "t", NULL, &counter);
	struct svc_subscription *two = listen_to(a, "t", "", &counter);
	struct svc_subscription *three = listen_to(a, "t", "q", &counter);
	assert_int_equal(mesh.nodes[0].n_advertised, 2);
	assert_int_equal(mesh.n_adverts, 2);
	svc_broker_unsubscribe(one);
	assert_int_equal(mesh.nodes[0].n_advertised, 2);
	svc_broker_unsubscribe(two);
	assert_int_equal(mesh.nodes[0].n_advertised, 3);
	assert_int_equal(mesh.n_adverts, 1);
	svc_broker_unsubscribe(three);
	assert_int_equal(mesh.n_adverts, 0);
}

static void
own_handlers_are_called_directly(void **state)
{
	(void)state;
	struct svc_broker *a = node_make(0, 1000);
	struct counter counter = {0};
	listen_to(a, "t", NULL, &counter);
	listen_to(a, "t", "q", &counter);
	assert_int_equal(svc_broker_publish(a, "t", &text, 0, NULL), SVC_OK);
	assert_int_equal(counter.n, 2);
	assert_int_equal(mesh.nodes[0].n_delivered, 0);
}

static void
tries_again_until_it_is_taken(void **state)
{
	(void)state;
	struct svc_broker *a = node_make(0, 10000), *b = node_make(1, 1000);
	struct counter counter = {0};
	listen_to(b, "t", NULL, &counter);
	mesh.nodes[1].fail = 3;
	mesh.nodes[1].fail_with = SVC_E_UNAVAILABLE;
	assert_int_equal(svc_broker_publish(a, "t", &text, 0, NULL), SVC_OK);
	assert_int_equal(counter.n, 1);
	assert_int_equal(mesh.nodes[1].n_delivered, 4);

	mesh.nodes[1].fail = 1;
	struct svc_error err = {0};
	assert_int_equal(
	    svc_broker_publish(a, "t", &text, SVC_PUBLISH_NOWAIT, &err),
	    SVC_E_AGAIN);
	assert_non_null(strstr(err.text, "node-1"));
	assert_int_equal(counter.n, 1);
}

static void
gives_up_after_its_time(void **state)
{
	(void)state;
	struct svc_broker *a = node_make(0, 300), *b = node_make(1, 300);
	struct counter counter = {0};
	listen_to(b, "t", NULL, &counter);
	mesh.nodes[1].fail = -1;
	mesh.nodes[1].fail_with = SVC_E_UNAVAILABLE;
	struct svc_error err = {0};
	int64_t start = svc_now_ms();
	assert_int_equal(
	    svc_broker_publish(a, "t", &text, 0, &err), SVC_E_UNAVAILABLE);
	assert_true(svc_now_ms() - start >= 290);
	assert_non_null(strstr(err.text, "node-1"));
	assert_non_null(strstr(err.text, "as the test wants"));
	mesh.nodes[1].fail_with = SVC_E_INTERNAL;
	assert_int_equal(
	    svc_broker_publish(a, "t", &text, 0, &err), SVC_E_TIMEDOUT);
	assert_int_equal(counter.n, 0);
}

static void
another_of_the_queue_takes_over(void **state)
{
	(void)state;
	struct svc_broker *a = node_make(0, 1000);
	struct counter counters[3] = {{0}};
	for (unsigned i = 1; i < 4; i++)
		listen_to(node_make(i, 1000), "t", "q", &counters[i - 1]);
	mesh.nodes[1].fail = mesh.nodes[2].fail = -1;
	mesh.nodes[1].fail_with = SVC_E_UNAVAILABLE;
	mesh.nodes[2].fail_with = SVC_E_INTERNAL;
	for (int i = 0; i < 6; i++)
		assert_int_equal(
		    svc_broker_publish(a, "t", &text, SVC_PUBLISH_NOWAIT, NULL),
		    SVC_OK);
	assert_int_equal(counters[2].n, 6);
	/* Each is asked first in its turn. */
	assert_int_equal(mesh.nodes[1].n_delivered, 2 + 0);
	assert_int_equal(mesh.nodes[2].n_delivered, 4);
	mesh.nodes[1].fail = mesh.nodes[2].fail = 0;
	for (int i = 0; i < 6; i++)
		assert_int_equal(
		    svc_broker_publish(a, "t", &text, 0, NULL), SVC_OK);
	assert_int_equal(counters[0].n, 2);
	assert_int_equal(counters[1].n, 2);
	assert_int_equal(counters[2].n, 8);
}

struct publishing {
	struct svc_broker *broker;
	svc_err rc;
	pthread_t thread;
};

static void *
run_publishing(void *arg)
{
	struct publishing *publishing = arg;
	publishing->rc =
	    svc_broker_publish(publishing->broker, "t", &text, 0, NULL);
	return NULL;
}

/* One that hangs keeps the event from nobody else; and once it is no longer
 * listed, nobody waits for it. */
static void
those_that_vanish_do_not_count(void **state)
{
	(void)state;
	struct svc_broker *a = node_make(0, 30000), *b = node_make(1, 1000),
			  *c = node_make(2, 1000);
	struct counter hangs = {0}, hears = {0};
	listen_to(b, "t", NULL, &hangs);
	listen_to(c, "t", NULL, &hears);
	mesh.nodes[1].fail = -1;
	mesh.nodes[1].fail_with = SVC_E_UNAVAILABLE;
	struct publishing publishing = {.broker = a};
	assert_int_equal(svc_thread_start(&publishing.thread, "pub",
			     run_publishing, &publishing),
	    SVC_OK);
	pthread_mutex_lock(&mesh.lock);
	while (mesh.nodes[2].n_delivered == 0 || mesh.nodes[1].n_delivered < 3)
		(void)svc_cond_wait(&mesh.changed, &mesh.lock, svc_deadline(5));
	pthread_mutex_unlock(&mesh.lock);
	left(NULL, 1);
	svc_thread_join(publishing.thread);
	assert_int_equal(publishing.rc, SVC_OK);
	assert_int_equal(hears.n, 1);
	assert_int_equal(hangs.n, 0);
	svc_broker_destroy(b);
}

static void
one_that_hangs_stops_nobody_else(void **state)
{
	(void)state;
	struct svc_broker *a = node_make(0, 60000);
	struct counter counters[3] = {{0}};
	for (unsigned i = 1; i < 4; i++)
		listen_to(node_make(i, 1000), "t", NULL, &counters[i - 1]);
	mesh.nodes[1].hang = true;
	struct publishing publishing = {.broker = a};
	assert_int_equal(svc_thread_start(&publishing.thread, "pub",
			     run_publishing, &publishing),
	    SVC_OK);
	pthread_mutex_lock(&mesh.lock);
	while (mesh.nodes[2].n_delivered == 0 ||
	       mesh.nodes[3].n_delivered == 0 || mesh.nodes[1].n_delivered == 0)
		(void)svc_cond_wait(&mesh.changed, &mesh.lock, svc_deadline(5));
	mesh.nodes[1].hang = false;
	pthread_cond_broadcast(&mesh.changed);
	pthread_mutex_unlock(&mesh.lock);
	svc_thread_join(publishing.thread);
	assert_int_equal(publishing.rc, SVC_OK);
	for (int i = 0; i < 3; i++)
		assert_int_equal(counters[i].n, 1);
}

static void
a_stale_list_costs_little(void **state)
{
	(void)state;
	struct svc_broker *a = node_make(0, 30000), *b = node_make(1, 1000);
	struct counter counter = {0};
	listen_to(b, "t", NULL, &counter);
	mesh.nodes[1].fail = -1;
	mesh.nodes[1].fail_with = SVC_E_NOT_FOUND;
	int64_t start = svc_now_ms();
	assert_int_equal(svc_broker_publish(a, "t", &text, 0, NULL), SVC_OK);
	assert_true(svc_now_ms() - start < 10000);
	assert_int_equal(mesh.nodes[1].n_delivered, 2);
}

static void
waiting_for_oneself_is_refused(void **state)
{
	(void)state;
	struct svc_broker *a = node_make(0, 5000);
	struct counter counter = {.publish_with = a};
	listen_to(a, "t", NULL, &counter);
	assert_int_equal(svc_broker_publish(a, "t", &text, 0, NULL), SVC_OK);
	assert_int_equal(counter.n, 1);
	assert_int_equal(counter.published, SVC_E_PRECONDITION);
	assert_non_null(strstr(counter.err.text, "topic t"));
	struct svc_error err = {0};
	assert_int_equal(
	    svc_broker_receive(a, "", "other", &text, &err), SVC_E_NOT_FOUND);
	assert_int_equal(
	    svc_broker_receive(a, "q", "t", &text, &err), SVC_E_NOT_FOUND);
}

int
main(void)
{
	svc_cond_init(&mesh.changed);
	struct svc_conformance_broker setup = {
	    .plugin = "p2p",
	    .configure = configure,
	    .joined = joined,
	    .left = left,
	    .deals_out = true,
	};
	int failed = svc_conformance_broker(&setup);
#define TEST(name) cmocka_unit_test_teardown(name, nodes_end)
	const struct CMUnitTest tests[] = {
	    TEST(needs_a_host_and_no_address),
	    TEST(is_advertised_once),
	    TEST(own_handlers_are_called_directly),
	    TEST(tries_again_until_it_is_taken),
	    TEST(gives_up_after_its_time),
	    TEST(another_of_the_queue_takes_over),
	    TEST(those_that_vanish_do_not_count),
	    TEST(one_that_hangs_stops_nobody_else),
	    TEST(a_stale_list_costs_little),
	    TEST(waiting_for_oneself_is_refused),
	};
#undef TEST
	return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
