/* SPDX-License-Identifier: Apache-2.0 */
/* The wrapper: what plugins are given, and what never reaches them. */
#include <support/scarce.h>
#include <svc/broker.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct svc_broker_config seen;
static char seen_id[64];
static int alive, subscribed, published;

static svc_err
fake_create(const struct svc_broker_config *config, void **ret_self,
    struct svc_error *err)
{
	if (config->address != NULL && strcmp(config->address, "bad") == 0)
		return svc_error_set(err, SVC_E_INVAL, "address bad");
	seen = *config;
	strncpy(seen_id, config->client_id, sizeof(seen_id) - 1);
	alive++;
	*ret_self = &alive;
	return SVC_OK;
}

static void
fake_destroy(void *self)
{
	(void)self;
	assert_int_equal(subscribed, 0);
	alive--;
}

static svc_err
fake_connect(void *self, struct svc_error *err)
{
	(void)self;
	return svc_error_set(err, SVC_E_UNAVAILABLE, "nobody there");
}

static svc_err
fake_publish(void *self, const char *topic, const struct svc_message *message,
    unsigned flags, struct svc_error *err)
{
	(void)self;
	(void)err;
	assert_string_equal(
	    svc_headers_get(message->headers, "Micro-Topic"), topic);
	assert_int_equal(
	    strlen(svc_headers_get(message->headers, "Micro-Id")), 36);
	assert_true(flags == 0 || flags == SVC_PUBLISH_NOWAIT);
	published++;
	return SVC_OK;
}

static svc_err
fake_subscribe(void *self, const char *topic, const char *queue,
    svc_broker_handler handler, void *arg, void **ret_subscription,
    struct svc_error *err)
{
	(void)self;
	(void)handler;
	(void)arg;
	assert_non_null(queue);
	if (strcmp(topic, "no") == 0)
		return svc_error_set(err, SVC_E_DENIED, "not you");
	subscribed++;
	*ret_subscription = &subscribed;
	return SVC_OK;
}

static void
fake_unsubscribe(void *self, void *subscription)
{
	(void)self;
	assert_ptr_equal(subscription, &subscribed);
	subscribed--;
}

static struct svc_broker_ops fake = {
    .abi = SVC_BROKER_ABI,
    .size = sizeof(struct svc_broker_ops),
    .name = "fake",
    .create = fake_create,
    .destroy = fake_destroy,
    .connect = fake_connect,
    .publish = fake_publish,
    .subscribe = fake_subscribe,
    .unsubscribe = fake_unsubscribe,
};

static svc_err
handler(const char *topic, const struct svc_message *message, void *arg)
{
	(void)topic;
	(void)message;
	(void)arg;
	return SVC_OK;
}

static void
fills_in_what_is_not_given(void **state)
{
	(void)state;
	struct svc_broker *broker;
	struct svc_broker_config config = {.address = ""};
	assert_int_equal(
	    svc_broker_create_ops(&fake, &config, &broker, NULL), SVC_OK);
	assert_null(seen.address);
	assert_int_equal(strlen(seen_id), 40);
	assert_true(seen.timeout_ms > 0);
	assert_true(seen.max_message > 0);
	assert_true(seen.max_queued > 0);
	svc_broker_destroy(broker);
	assert_int_equal(
	    svc_broker_create_ops(&fake, NULL, &broker, NULL), SVC_OK);
	assert_string_equal(svc_broker_name(broker), "fake");
	svc_broker_destroy(broker);
	assert_int_equal(alive, 0);
	svc_broker_destroy(NULL);
}

static void
passes_failures_on(void **state)
{
	(void)state;
	struct svc_broker *broker = NULL;
	struct svc_broker_config config = {.address = "bad"};
	struct svc_error err = {0};
	assert_int_equal(
	    svc_broker_create_ops(&fake, &config, &broker, &err), SVC_E_INVAL);
	assert_null(broker);
	assert_int_equal(
	    svc_broker_create("nosuch", NULL, &broker, &err), SVC_E_NOT_FOUND);
	assert_non_null(strstr(err.text, "memory"));

	struct svc_broker_ops old = fake;
	old.abi++;
	assert_int_equal(
	    svc_broker_create_ops(&old, NULL, &broker, &err), SVC_E_ABI);
	old = fake;
	old.unsubscribe = NULL;
	assert_int_equal(
	    svc_broker_create_ops(&old, NULL, &broker, &err), SVC_E_ABI);
	assert_non_null(strstr(err.text, "unsubscribe"));

	assert_int_equal(
	    svc_broker_create_ops(&fake, NULL, &broker, NULL), SVC_OK);
	assert_int_equal(svc_broker_connect(broker, &err), SVC_E_UNAVAILABLE);
	assert_string_equal(err.text, "nobody there");
	struct svc_subscription *subscription = NULL;
	assert_int_equal(svc_broker_subscribe(broker, "no", NULL, handler, NULL,
			     &subscription, &err),
	    SVC_E_DENIED);
	struct svc_message message = {NULL, "x", 1, NULL};
	assert_int_equal(svc_broker_receive(broker, "", "t", &message, &err),
	    SVC_E_UNIMPLEMENTED);
	assert_non_null(strstr(err.text, "fake"));
	svc_broker_destroy(broker);
}

static void
refuses_before_the_plugin_sees_it(void **state)
{
	(void)state;
	struct svc_broker *broker;
	struct svc_broker_config config = {.max_message = 4};
	assert_int_equal(
	    svc_broker_create_ops(&fake, &config, &broker, NULL), SVC_OK);
	published = 0;
	struct svc_error err = {0};
	struct svc_message message = {NULL, "12345", 5, NULL};
	assert_int_equal(svc_broker_publish(broker, "t", &message, 0, &err),
	    SVC_E_EXHAUSTED);
	message.len = 4;
	assert_int_equal(
	    svc_broker_publish(broker, "t", &message, 2, &err), SVC_E_INVAL);
	assert_int_equal(
	    svc_broker_publish(broker, "t/+", &message, 0, &err), SVC_E_INVAL);
	message.data = NULL;
	assert_int_equal(
	    svc_broker_publish(broker, "t", &message, 0, &err), SVC_E_INVAL);
	/* No room for two more headers. */
	message.data = "1234";
	message.headers = svc_headers_create();
	for (int i = 0; i < 256; i++) {
		char name[4] = {(char)('a' + i / 16), (char)('a' + i % 16)};
		assert_int_equal(
		    svc_headers_set(message.headers, name, ""), SVC_OK);
	}
	assert_int_equal(svc_broker_publish(broker, "t", &message, 0, &err),
	    SVC_E_EXHAUSTED);
	svc_headers_destroy(message.headers);
	message.headers = NULL;
	assert_int_equal(published, 0);
	assert_int_equal(
	    svc_broker_publish(broker, "t", &message, SVC_PUBLISH_NOWAIT, &err),
	    SVC_OK);
	assert_int_equal(published, 1);
	svc_broker_destroy(broker);
}

static void
ends_subscriptions_first(void **state)
{
	(void)state;
	struct svc_broker *broker;
	assert_int_equal(
	    svc_broker_create_ops(&fake, NULL, &broker, NULL), SVC_OK);
	struct svc_subscription *subscriptions[4];
	for (int i = 0; i < 4; i++)
		assert_int_equal(
		    svc_broker_subscribe(broker, "t", i % 2 ? "q" : NULL,
			handler, NULL, &subscriptions[i], NULL),
		    SVC_OK);
	assert_int_equal(subscribed, 4);
	svc_broker_unsubscribe(subscriptions[1]);
	svc_broker_unsubscribe(subscriptions[3]);
	svc_broker_unsubscribe(NULL);
	assert_int_equal(subscribed, 2);
	svc_broker_destroy(broker); /* checks the rest in fake_destroy */
	assert_int_equal(alive, 0);
}

static void
survives_lack_of_memory(void **state)
{
	(void)state;
	bool whole = false;
	for (long n = 0; !whole; n++) {
		scarce_begin();
		scarce_at(n);
		struct svc_broker *broker = NULL;
		struct svc_subscription *subscription = NULL;
		struct svc_message message = {NULL, "x", 1, NULL};
		svc_err rc = svc_broker_create_ops(&fake, NULL, &broker, NULL);
		if (rc == SVC_OK)
			rc = svc_broker_subscribe(broker, "t", NULL, handler,
			    NULL, &subscription, NULL);
		if (rc == SVC_OK)
			rc = svc_broker_publish(broker, "t", &message, 0, NULL);
		whole = rc == SVC_OK;
		if (!whole)
			assert_int_equal(rc, SVC_E_NOMEM);
		svc_broker_destroy(broker);
		scarce_end();
		assert_int_equal(alive, 0);
		assert_true(n < 1000);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(fills_in_what_is_not_given),
	    cmocka_unit_test(passes_failures_on),
	    cmocka_unit_test(refuses_before_the_plugin_sees_it),
	    cmocka_unit_test(ends_subscriptions_first),
	    cmocka_unit_test(survives_lack_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
