/* SPDX-License-Identifier: Apache-2.0 */
/* Publishing and subscribing through a service, with the broker of this
 * process and with peers over every transport. */
#include "service_test.h"

static const char *broker_name; /* of the group that runs */

struct heard {
	struct gate gate;
	atomic_int n;
	char topic[64], text[64], type[64], header[64];
	svc_err answer; /* to the first event */
};

static svc_err
hear(struct svc_event *event, void *arg)
{
	struct heard *heard = arg;
	const struct svc_message *m = svc_event_message(event);
	int n = atomic_fetch_add(&heard->n, 1);
	snprintf(
	    heard->topic, sizeof(heard->topic), "%s", svc_event_topic(event));
	snprintf(heard->text, sizeof(heard->text), "%.*s", (int)m->len,
	    (const char *)m->data);
	snprintf(heard->type, sizeof(heard->type), "%s",
	    m->content_type != NULL ? m->content_type : "");
	const char *value = svc_event_header(event, "colour");
	snprintf(heard->header, sizeof(heard->header), "%s",
	    value != NULL ? value : "");
	gate_add(&heard->gate);
	return n == 0 ? heard->answer : SVC_OK;
}

static void
heard_init(struct heard *heard)
{
	memset(heard, 0, sizeof(*heard));
	gate_init(&heard->gate);
}

static struct svc_service *
make_with_broker(const char *name)
{
	struct svc_option more[] = {
	    {SVC_OPTION_BROKER, broker_name, 0, 0, 0, 0, 0}, SVC_OPT_end()};
	if (strcmp(broker_name, "memory") == 0)
		more[0].text2 = registry_name; /* each test's own */
	return make(name, more);
}

static void
must_publish(struct svc_service *service, const char *topic, const char *text)
{
	struct svc_message message = {.data = text, .len = strlen(text)};
	struct svc_error err = {0};
	svc_err code = svc_publish_detail(service, topic, &message, &err);
	assert_string_equal(err.text, "");
	assert_int_equal(code, SVC_OK);
}

static void
events_reach_those_who_subscribe(void **state)
{
	(void)state;
	struct heard own, other, elsewhere;
	heard_init(&own);
	heard_init(&other);
	heard_init(&elsewhere);
	struct svc_service *a = make_with_broker("a");
	struct svc_service *b = make_with_broker("b");
	assert_int_equal(svc_subscribe(a, "greet", hear, &own), SVC_OK);
	assert_int_equal(svc_subscribe(b, "greet", hear, &other), SVC_OK);
	assert_int_equal(svc_subscribe(b, "part", hear, &elsewhere), SVC_OK);
	must_start(a);
	must_start(b);
	struct svc_headers *headers = svc_headers_create();
	svc_headers_set(headers, "Colour", "red");
	struct svc_message message = {.content_type = "text/plain",
	    .data = "hi",
	    .len = 2,
	    .headers = headers};
	struct svc_error err = {0};
	svc_err code = svc_publish_detail(a, "greet", &message, &err);
	assert_string_equal(err.text, "");
	assert_int_equal(code, SVC_OK);
	gate_wait(&own.gate, 1);
	gate_wait(&other.gate, 1);
	svc_headers_destroy(headers);
	for (int i = 0; i < 2; i++) {
		const struct heard *heard = i == 0 ? &own : &other;
		assert_string_equal(heard->topic, "greet");
		assert_string_equal(heard->text, "hi");
		assert_string_equal(heard->type, "text/plain");
		assert_string_equal(heard->header, "red");
	}
	/* Without a type it is that of the service. */
	must_publish(b, "greet", "ho");
	gate_wait(&own.gate, 2);
	gate_wait(&other.gate, 2);
	assert_string_equal(other.type, "application/json");
	assert_string_equal(other.text, "ho");
	assert_int_equal(atomic_load(&elsewhere.n), 0);
	svc_free(b);
	svc_free(a);
	assert_int_equal(atomic_load(&own.n), 2);
	assert_int_equal(atomic_load(&other.n), 2);
}

static void
a_queue_gets_each_event_once(void **state)
{
	(void)state;
	enum { WORKERS = 3, EVENTS = 60 };
	struct heard workers[WORKERS], all[WORKERS];
	struct svc_service *s[WORKERS];
	for (int i = 0; i < WORKERS; i++) {
		heard_init(&workers[i]);
		heard_init(&all[i]);
		s[i] = make_with_broker("worker");
		assert_int_equal(svc_subscribe(s[i], "job", hear, &workers[i],
				     queue("workers")),
		    SVC_OK);
		assert_int_equal(
		    svc_subscribe(s[i], "job", hear, &all[i]), SVC_OK);
		must_start(s[i]);
	}
	for (int i = 0; i < EVENTS; i++)
		must_publish(s[0], "job", "work");
	int sum = 0;
	for (int i = 0; i < WORKERS; i++) {
		gate_wait(&all[i].gate, EVENTS);
		sum += atomic_load(&workers[i].n);
	}
	/* Memory's queue may still be at the last one. */
	int64_t deadline = svc_deadline(PATIENCE_MS);
	while (sum < EVENTS && svc_now_ms() < deadline) {
		sum = 0;
		for (int k = 0; k < WORKERS; k++)
			sum += atomic_load(&workers[k].n);
		sched_yield();
	}
	for (int i = 0; i < WORKERS; i++)
		svc_free(s[i]);
	sum = 0;
	for (int i = 0; i < WORKERS; i++) {
		assert_int_equal(atomic_load(&all[i].n), EVENTS);
		sum += atomic_load(&workers[i].n);
	}
	assert_int_equal(sum, EVENTS);
}

static void
what_a_handler_refuses_comes_again(void **state)
{
	(void)state;
	struct heard heard;
	heard_init(&heard);
	heard.answer = SVC_E_AGAIN;
	struct svc_service *a = make_with_broker("a");
	struct svc_service *b = make_with_broker("b");
	assert_int_equal(
	    svc_subscribe(b, "job", hear, &heard, queue("q")), SVC_OK);
	must_start(a);
	must_start(b);
	must_publish(a, "job", "again");
	gate_wait(&heard.gate, 2);
	assert_string_equal(heard.text, "again");
	svc_free(b);
	svc_free(a);
}

static void
subscribing_and_publishing_need_no_order(void **state)
{
	(void)state;
	struct heard heard;
	heard_init(&heard);
	struct svc_service *s = make_with_broker("s");
	must_start(s);
	must_publish(s, "late", "nobody hears");
	/* After the start it takes effect at once. */
	assert_int_equal(svc_subscribe(s, "late", hear, &heard), SVC_OK);
	must_publish(s, "late", "one");
	gate_wait(&heard.gate, 1);
	assert_string_equal(heard.text, "one");
	/* A publisher need not be started, nor even be told to init. */
	struct svc_service *p = make_with_broker("p");
	must_publish(p, "late", "two");
	gate_wait(&heard.gate, 2);
	assert_string_equal(heard.text, "two");
	svc_free(p);
	svc_free(s);
	assert_int_equal(atomic_load(&heard.n), 2);
}

static void
bad_events_are_told(void **state)
{
	(void)state;
	struct heard heard;
	heard_init(&heard);
	struct svc_service *s = make_with_broker("s");
	const char *const bad[] = {"", "a+b", "a#", "a\nb", NULL};
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(
		    svc_subscribe(s, bad[i], hear, &heard), SVC_E_INVAL);
	assert_int_equal(svc_subscribe(s, "t", NULL, NULL), SVC_E_INVAL);
	assert_string_equal(
	    svc_error_text(s), "the subscription to \"t\" needs a function");
	must_start(s);
	struct svc_error err = {0};
	struct svc_message message = {.data = "x", .len = 1};
	assert_int_equal(
	    svc_publish_detail(s, "a+b", &message, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "a+b"));
	const size_t most = (size_t)svc_options_of(s)->max_message_size;
	char *large = calloc(1, most + 1);
	message.data = large;
	message.len = most + 1;
	assert_int_equal(
	    svc_publish_detail(s, "t", &message, &err), SVC_E_EXHAUSTED);
	assert_non_null(strstr(err.text, "67108864"));
	assert_int_equal(svc_publish(s, "t", &message), SVC_E_EXHAUSTED);
	free(large);
	svc_free(s);
}

static void
subscribers_stand_in_the_record(void **state)
{
	(void)state;
	if (strcmp(broker_name, "p2p") != 0) {
		test_lacks("subscribers in the record");
		return;
	}
	struct heard heard;
	heard_init(&heard);
	struct svc_service *s = make_with_broker("s");
	svc_subscribe(s, "alpha", hear, &heard, queue("q"));
	svc_subscribe(s, "beta", hear, &heard);
	must_start(s);
	svc_subscribe(s, "gamma", hear, &heard);
	struct svc_record_list list;
	assert_int_equal(
	    svc_registry_lookup(svc_registry_of(s), "s", &list, NULL), SVC_OK);
	const struct svc_record *record = list.records[0];
	assert_int_equal(record->n_endpoints, 3);
	const char *const topics[] = {"gamma", "beta", "alpha"};
	for (size_t i = 0; i < 3; i++) {
		const struct svc_endpoint *e = &record->endpoints[i];
		assert_string_equal(e->name, topics[i]);
		assert_string_equal(
		    svc_headers_get(e->metadata, "subscriber"), "true");
		assert_string_equal(
		    svc_headers_get(e->metadata, "topic"), topics[i]);
		const char *queue = svc_headers_get(e->metadata, "queue");
		if (i == 2)
			assert_string_equal(queue, "q");
		else
			assert_null(queue);
	}
	svc_record_list_fini(&list);
	svc_free(s);
}

/* A service may be called, and its handlers may subscribe, before svc_start has
 * returned: here while it announces itself. */
static struct svc_service *announcing;
static struct heard early;

static svc_err
subscribe_meanwhile(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	if (announcing != NULL)
		assert_int_equal(
		    svc_subscribe(announcing, "early", hear, &early), SVC_OK);
	announcing = NULL;
	return svc_registry_memory.announce(self, record, ttl_ms, err);
}

static void
who_subscribes_during_the_start_hears(void **state)
{
	(void)state;
	static struct svc_registry_ops ops;
	if (ops.name == NULL) {
		ops = svc_registry_memory;
		ops.name = "meanwhile";
		ops.announce = subscribe_meanwhile;
		assert_int_equal(svc_plugin_add(&ops), SVC_OK);
	}
	heard_init(&early);
	struct svc_option more[] = {
	    {SVC_OPTION_REGISTRY, "meanwhile", registry_name, 0, 0, 0, 0},
	    {SVC_OPTION_BROKER, broker_name, registry_name, 0, 0, 0, 0},
	    SVC_OPT_end()};
	if (strcmp(broker_name, "memory") != 0)
		more[1].text2 = NULL;
	struct svc_service *s = make("s", more);
	announcing = s;
	must_start(s);
	assert_null(announcing);
	must_publish(s, "early", "hi");
	gate_wait(&early.gate, 1);
	svc_free(s);
}

static void
who_subscribes_after_the_end_is_told(void **state)
{
	(void)state;
	struct svc_service *s = make_with_broker("s");
	svc_stop(s);
	assert_int_equal(svc_run(s), SVC_OK);
	assert_int_equal(
	    svc_subscribe(s, "late", hear, NULL), SVC_E_PRECONDITION);
	assert_string_equal(
	    svc_error_text(s), "the service has ended; make a new one");
	svc_free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(events_reach_those_who_subscribe),
	    TEST(a_queue_gets_each_event_once),
	    TEST(what_a_handler_refuses_comes_again),
	    TEST(subscribing_and_publishing_need_no_order),
	    TEST(bad_events_are_told),
	    TEST(subscribers_stand_in_the_record),
	    TEST(who_subscribes_during_the_start_hears),
	    TEST(who_subscribes_after_the_end_is_told),
	};
	const struct {
		const char *name, *broker, *transport;
	} groups[] = {
	    {"memory", "memory", "memory"},
	    {"p2p over memory", "p2p", "memory"},
	    {"p2p over tcp", "p2p", "tcp"},
	};
	int failed = 0;
	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
		broker_name = groups[i].broker;
		transport_name = groups[i].transport;
		failed += cmocka_run_group_tests_name(
		    groups[i].name, tests, NULL, NULL);
	}
	return failed;
}
