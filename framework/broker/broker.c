/* SPDX-License-Identifier: Apache-2.0 */
/* What every broker has in common: arguments are checked, defaults filled in
 * and go-micro's headers added before a plugin sees them, and subscriptions end
 * before their broker. `lock` guards only the list of subscriptions. */
#include <svc/broker.h>
#include <svc/clock.h>
#include <svc/executor.h>
#include <svc/log.h>

#include <string.h>

#define DEFAULT_TIMEOUT_MS 5000
#define DEFAULT_MESSAGE ((int64_t)64 << 20)
#define DEFAULT_QUEUED 1000
#define MAX_TOPIC 255

static const struct svc_required required[] = {
    SVC_REQUIRED(struct svc_broker_ops, create),
    SVC_REQUIRED(struct svc_broker_ops, destroy),
    SVC_REQUIRED(struct svc_broker_ops, connect),
    SVC_REQUIRED(struct svc_broker_ops, publish),
    SVC_REQUIRED(struct svc_broker_ops, subscribe),
    SVC_REQUIRED(struct svc_broker_ops, unsubscribe),
    {NULL, 0},
};

static const void *const embedded[] = {&svc_broker_memory, NULL};

const struct svc_interface svc_broker_interface = {
    .name = "broker",
    .abi = SVC_BROKER_ABI,
    .min_size = offsetof(struct svc_broker_ops, receive),
    .required = required,
    .embedded = embedded,
};

struct svc_subscription {
	struct svc_broker *broker;
	void *handle; /* the plugin's */
	struct svc_subscription *next, **at;
};

struct svc_broker {
	const struct svc_broker_ops *ops;
	void *self;
	int64_t max_message;
	pthread_mutex_t lock;
	struct svc_subscription *subscriptions;
};

/* How many bytes the UTF-8 character at `text` has; 0 when it is none. */
static size_t
character(const unsigned char *text)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = text[0] < 0x80       ? 1
		   : text[0] >> 5 == 6  ? 2
		   : text[0] >> 4 == 14 ? 3
		   : text[0] >> 3 == 30 ? 4
					: 0;
	if (n < 2)
		return n;
	uint32_t code = text[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if (text[i] >> 6 != 2)
			return 0;
		code = code << 6 | (text[i] & 63u);
	}
	if (code < least[n] || code > 0x10ffff ||
	    (code >= 0xd800 && code <= 0xdfff) || (code >= 0x80 && code < 0xa0))
		return 0;
	return n;
}

static svc_err
check_name(const char *what, const char *name, struct svc_error *err)
{
	const char *reason = NULL;
	if (name == NULL)
		name = "";
	const unsigned char *text = (const unsigned char *)name;
	size_t len = 0;
	while (reason == NULL && text[len] != '\0') {
		size_t n = character(text + len);
		if (n == 0)
			reason = "is not UTF-8";
		else if (text[len] < 0x20 || text[len] == 0x7f)
			reason = "has a control character";
		else if (text[len] == '+' || text[len] == '#')
			reason = "has a wildcard";
		else if (len + n > MAX_TOPIC)
			reason = "is too long";
		len += n;
	}
	if (len == 0 && reason == NULL)
		reason = "is empty";
	if (reason == NULL)
		return SVC_OK;
	char quoted[64];
	return svc_error_set(err, SVC_E_INVAL,
	    "%s %s %s; allowed are 1 to %d bytes of UTF-8 without control "
	    "characters, '+' and '#'",
	    what, svc_log_quote(name, strlen(name), quoted, sizeof(quoted)),
	    reason, MAX_TOPIC);
}

svc_err
svc_broker_create(const char *plugin, const struct svc_broker_config *config,
    struct svc_broker **ret_broker, struct svc_error *err)
{
	const void *ops;
	svc_err rc =
	    svc_catalogue_find(&svc_broker_interface, plugin, &ops, err);
	if (rc != SVC_OK)
		return rc;
	return svc_broker_create_ops(ops, config, ret_broker, err);
}

svc_err
svc_broker_create_ops(const struct svc_broker_ops *ops,
    const struct svc_broker_config *config, struct svc_broker **ret_broker,
    struct svc_error *err)
{
	svc_err rc = svc_catalogue_check(&svc_broker_interface, ops, err);
	if (rc != SVC_OK)
		return rc;

	struct svc_broker_config filled = {0};
	if (config != NULL)
		filled = *config;
	char client_id[37 + 4] = "svc-";
	if (filled.client_id == NULL || filled.client_id[0] == '\0') {
		svc_uuid(client_id + 4);
		filled.client_id = client_id;
	}
	if (filled.address != NULL && filled.address[0] == '\0')
		filled.address = NULL;
	if (filled.timeout_ms <= 0)
		filled.timeout_ms = DEFAULT_TIMEOUT_MS;
	if (filled.max_message <= 0)
		filled.max_message = DEFAULT_MESSAGE;
	if (filled.max_queued == 0)
		filled.max_queued = DEFAULT_QUEUED;

	struct svc_broker *broker = svc_mem_calloc(1, sizeof(*broker));
	if (broker == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	broker->ops = ops;
	broker->max_message = filled.max_message;
	rc = ops->create(&filled, &broker->self, err);
	if (rc != SVC_OK) {
		svc_mem_free(broker);
		return rc;
	}
	pthread_mutex_init(&broker->lock, NULL);
	*ret_broker = broker;
	return SVC_OK;
}

void
svc_broker_destroy(struct svc_broker *broker)
{
	if (broker == NULL)
		return;
	while (broker->subscriptions != NULL)
		svc_broker_unsubscribe(broker->subscriptions);
	broker->ops->destroy(broker->self);
	pthread_mutex_destroy(&broker->lock);
	svc_mem_free(broker);
}

const char *
svc_broker_name(const struct svc_broker *broker)
{
	return broker->ops->name;
}

svc_err
svc_broker_connect(struct svc_broker *broker, struct svc_error *err)
{
	svc_will_block();
	return broker->ops->connect(broker->self, err);
}

/* go-micro dispatches by the header Micro-Topic and names events by Micro-Id;
 * an id that is there already stays, for an event that is passed on. */
static svc_err
add_headers(struct svc_headers *headers, const char *topic)
{
	svc_err rc = svc_headers_set(headers, "Micro-Topic", topic);
	if (rc == SVC_OK && svc_headers_get(headers, "Micro-Id") == NULL) {
		char id[37];
		svc_uuid(id);
		rc = svc_headers_set(headers, "Micro-Id", id);
	}
	return rc;
}

svc_err
svc_broker_publish(struct svc_broker *broker, const char *topic,
    const struct svc_message *message, unsigned flags, struct svc_error *err)
{
	svc_err rc = check_name("topic", topic, err);
	if (rc != SVC_OK)
		return rc;
	if (message->len > (uint64_t)broker->max_message)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "event of %zu bytes is larger than the allowed %lld",
		    message->len, (long long)broker->max_message);
	if (message->data == NULL && message->len > 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "event has %zu bytes but no data", message->len);
	rc = svc_content_type_check(message->content_type, err);
	if (rc != SVC_OK)
		return rc;
	if ((flags & ~SVC_PUBLISH_NOWAIT) != 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "publish flags 0x%x are not known; allowed is "
		    "SVC_PUBLISH_NOWAIT",
		    flags & ~SVC_PUBLISH_NOWAIT);

	struct svc_message sent = *message;
	sent.headers = svc_headers_copy(message->headers);
	if (sent.headers == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	rc = add_headers(sent.headers, topic);
	if (rc != SVC_OK) {
		svc_error_set(err, rc,
		    "Micro-Topic and Micro-Id cannot be added to the headers: "
		    "%s",
		    svc_err_text(rc));
	} else {
		svc_will_block();
		rc = broker->ops->publish(
		    broker->self, topic, &sent, flags, err);
	}
	svc_headers_destroy(sent.headers);
	return rc;
}

svc_err
svc_broker_subscribe(struct svc_broker *broker, const char *topic,
    const char *queue, svc_broker_handler handler, void *arg,
    struct svc_subscription **ret_subscription, struct svc_error *err)
{
	svc_err rc = check_name("topic", topic, err);
	if (rc == SVC_OK && queue != NULL && queue[0] != '\0')
		rc = check_name("queue", queue, err);
	if (rc != SVC_OK)
		return rc;
	struct svc_subscription *subscription =
	    svc_mem_calloc(1, sizeof(*subscription));
	if (subscription == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	svc_will_block();
	rc = broker->ops->subscribe(broker->self, topic,
	    queue != NULL ? queue : "", handler, arg, &subscription->handle,
	    err);
	if (rc != SVC_OK) {
		svc_mem_free(subscription);
		return rc;
	}
	subscription->broker = broker;
	pthread_mutex_lock(&broker->lock);
	subscription->next = broker->subscriptions;
	subscription->at = &broker->subscriptions;
	if (subscription->next != NULL)
		subscription->next->at = &subscription->next;
	broker->subscriptions = subscription;
	pthread_mutex_unlock(&broker->lock);
	*ret_subscription = subscription;
	return SVC_OK;
}

void
svc_broker_unsubscribe(struct svc_subscription *subscription)
{
	if (subscription == NULL)
		return;
	struct svc_broker *broker = subscription->broker;
	pthread_mutex_lock(&broker->lock);
	*subscription->at = subscription->next;
	if (subscription->next != NULL)
		subscription->next->at = subscription->at;
	pthread_mutex_unlock(&broker->lock);
	svc_will_block();
	broker->ops->unsubscribe(broker->self, subscription->handle);
	svc_mem_free(subscription);
}

svc_err
svc_broker_receive(struct svc_broker *broker, const char *queue,
    const char *topic, const struct svc_message *message, struct svc_error *err)
{
	if (!SVC_OPS_HAS(broker->ops, receive))
		return svc_error_set(err, SVC_E_UNIMPLEMENTED,
		    "broker %s takes no events from peers", broker->ops->name);
	svc_err rc = check_name("topic", topic, err);
	if (rc == SVC_OK && queue != NULL && queue[0] != '\0')
		rc = check_name("queue", queue, err);
	if (rc != SVC_OK)
		return rc;
	if (message->len > (uint64_t)broker->max_message)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "event of %zu bytes is larger than the allowed %lld",
		    message->len, (long long)broker->max_message);
	svc_will_block();
	return broker->ops->receive(
	    broker->self, queue != NULL ? queue : "", topic, message, err);
}
