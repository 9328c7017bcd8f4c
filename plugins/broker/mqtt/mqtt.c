/* SPDX-License-Identifier: Apache-2.0 */
/* A broker on an MQTT server, QoS 1 both ways, with go-micro's JSON as payload.
 * Queues are shared subscriptions, which MQTT has from version 5 on. */
#include "mqtt.h"

#include <svc/buf.h>
#include <svc/log.h>

#include <stdio.h>
#include <string.h>

#define MAX_ID 268435455
/* The longest an unsubscribe waits for the server's answer. */
#define LEAVE_MS 2000

struct subscription {
	struct group *group;
	struct box *box;
	struct svc_inbox_member *member;
};

/* ------------------------------------------------------- life of instances */

static svc_err
link_init(
    struct link *link, struct mqtt *mqtt, bool inbound, const char *client_id)
{
	link->mqtt = mqtt;
	link->inbound = inbound;
	svc_cond_init(&link->changed);
	struct svc_buf buf;
	svc_buf_init(&buf, 1024);
	svc_buf_printf(&buf, "%s%s", client_id, inbound ? "-in" : "");
	svc_err rc = buf.failed;
	if (rc == SVC_OK)
		link->client_id = svc_buf_take(&buf, NULL);
	svc_buf_fini(&buf);
	return link->client_id != NULL ? SVC_OK : SVC_E_NOMEM;
}

static void
group_free(struct group *group)
{
	svc_mem_free(group->topic);
	svc_mem_free(group->queue);
	svc_mem_free(group->filter);
	svc_mem_free(group);
}

static void
mqtt_destroy(void *self)
{
	struct mqtt *mqtt = self;
	pthread_mutex_lock(&mqtt->lock);
	mqtt->stopping = true;
	mqtt_wake_pendings(mqtt);
	pthread_mutex_unlock(&mqtt->lock);
	/* The inbound one still uses the outbound one when it ends. */
	mqtt_link_stop(&mqtt->in);
	mqtt_link_stop(&mqtt->out);
	while (mqtt->groups != NULL) {
		struct group *group = mqtt->groups;
		mqtt->groups = group->next;
		group_free(group);
	}
	pthread_cond_destroy(&mqtt->in.changed);
	pthread_cond_destroy(&mqtt->out.changed);
	pthread_cond_destroy(&mqtt->changed);
	pthread_mutex_destroy(&mqtt->lock);
	svc_mem_free(mqtt->in.client_id);
	svc_mem_free(mqtt->out.client_id);
	mqtt_addresses_free(mqtt->uris, mqtt->n_uris);
	svc_mem_free(mqtt->client_id);
	svc_mem_free(mqtt->username);
	svc_mem_free(mqtt->password);
	svc_mem_free(mqtt);
}

static svc_err
mqtt_create(const struct svc_broker_config *config, void **ret_self,
    struct svc_error *err)
{
	if (!mqtt_start_paho())
		return mqtt_no_memory(err);
	char **uris;
	size_t n_uris;
	svc_err rc = mqtt_addresses_parse(config->address, &uris, &n_uris, err);
	if (rc != SVC_OK)
		return rc;
	struct mqtt *mqtt = svc_mem_calloc(1, sizeof(*mqtt));
	if (mqtt == NULL) {
		mqtt_addresses_free(uris, n_uris);
		return mqtt_no_memory(err);
	}
	mqtt->uris = uris;
	mqtt->n_uris = n_uris;
	mqtt->timeout_ms = config->timeout_ms;
	mqtt->max_queued = config->max_queued;
	pthread_mutex_init(&mqtt->lock, NULL);
	svc_cond_init(&mqtt->changed);
	mqtt->client_id = svc_mem_strdup(config->client_id);
	mqtt->username = svc_mem_strdup(config->username);
	mqtt->password = svc_mem_strdup(config->password);
	svc_err out = link_init(&mqtt->out, mqtt, false, config->client_id);
	svc_err in = link_init(&mqtt->in, mqtt, true, config->client_id);
	if (mqtt->client_id == NULL ||
	    (config->username != NULL && mqtt->username == NULL) ||
	    (config->password != NULL && mqtt->password == NULL) ||
	    out != SVC_OK || in != SVC_OK) {
		mqtt_destroy(mqtt);
		return mqtt_no_memory(err);
	}
	*ret_self = mqtt;
	return SVC_OK;
}

static svc_err
mqtt_connect(void *self, struct svc_error *err)
{
	struct mqtt *mqtt = self;
	int64_t deadline_at_ms = svc_deadline(mqtt->timeout_ms);
	pthread_mutex_lock(&mqtt->lock);
	mqtt->connecting = true;
	svc_err rc = mqtt_link_start(&mqtt->out);
	if (rc == SVC_OK && mqtt->groups != NULL)
		rc = mqtt_link_start(&mqtt->in);
	if (rc != SVC_OK) {
		pthread_mutex_unlock(&mqtt->lock);
		return svc_error_set(err, rc, "no thread for the connection");
	}
	while (mqtt->out.state != LINK_UP && !mqtt->out.failed_once &&
	       svc_cond_wait(&mqtt->changed, &mqtt->lock, deadline_at_ms) ==
		   SVC_OK)
		continue;
	if (mqtt->out.state != LINK_UP)
		rc = svc_error_set(err, SVC_E_UNAVAILABLE, "%s",
		    mqtt->out.why.text[0] != '\0' ? mqtt->out.why.text
						  : "no answer from the MQTT "
						    "server yet");
	pthread_mutex_unlock(&mqtt->lock);
	return rc;
}

/* --------------------------------------------- subscriptions at the server */

/* Which subscription an answer is for; freed by the answer. */
struct ticket {
	struct mqtt *mqtt;
	int id;
	unsigned generation;
	bool subscribing;
};

static struct group *
group_by_id(struct mqtt *mqtt, int id)
{
	struct group *group = mqtt->groups;
	while (group != NULL && group->id != id)
		group = group->next;
	return group;
}

static void
answered(struct ticket *ticket, int code)
{
	struct mqtt *mqtt = ticket->mqtt;
	pthread_mutex_lock(&mqtt->lock);
	struct group *group = group_by_id(mqtt, ticket->id);
	if (group != NULL && ticket->generation == mqtt->in.generation &&
	    mqtt->in.state == LINK_UP) {
		group->busy = false;
		if (ticket->subscribing && code == 0) {
			group->made_in = ticket->generation;
		} else if (ticket->subscribing && code > 0) {
			group->refused_in = ticket->generation;
			group->on_server = false;
			mqtt_refusal(code, group->topic, &group->refusal);
		} else if (!ticket->subscribing) {
			group->on_server = false;
			group->made_in = 0;
		}
		pthread_cond_signal(&mqtt->in.changed);
		pthread_cond_signal(&mqtt->out.changed);
		pthread_cond_broadcast(&mqtt->changed);
	}
	pthread_mutex_unlock(&mqtt->lock);
	svc_mem_free(ticket);
}

static void
on_answer(void *context, MQTTAsync_successData *data)
{
	(void)data;
	answered(context, 0);
}

static void
on_answer5(void *context, MQTTAsync_successData5 *data)
{
	(void)data;
	answered(context, 0);
}

/* Without a code of the server's the connection is going; the next one will
 * see to it. */
static void
on_no(void *context, MQTTAsync_failureData *data)
{
	answered(context, data->code == MQTT_BAD_SUBSCRIBE
			      ? MQTTREASONCODE_NOT_AUTHORIZED
			      : -1);
}

static void
on_no5(void *context, MQTTAsync_failureData5 *data)
{
	answered(context, data->reasonCode >= MQTTREASONCODE_UNSPECIFIED_ERROR
			      ? (int)data->reasonCode
			      : -1);
}

static void
unlink_group(struct mqtt *mqtt, struct group *group)
{
	struct group **at = &mqtt->groups;
	while (*at != group)
		at = &(*at)->next;
	*at = group->next;
}

/* A queue where the server has none: said once in a connection. */
static bool
refuse_queue(struct mqtt *mqtt, struct group *group)
{
	struct link *in = &mqtt->in;
	if (group->queue[0] == '\0' || in->has_shared)
		return false;
	group->refused_in = in->generation;
	char quoted[80];
	svc_error_set(&group->refusal, SVC_E_UNIMPLEMENTED,
	    "queue %s needs an MQTT server with shared subscriptions (MQTT 5); "
	    "this one %s",
	    svc_log_quote(
		group->queue, strlen(group->queue), quoted, sizeof(quoted)),
	    in->version == MQTTVERSION_5 ? "has none" : "speaks 3.1.1");
	struct svc_error said = group->refusal;
	pthread_cond_broadcast(&mqtt->changed);
	pthread_mutex_unlock(&mqtt->lock);
	svc_log(SVC_LOG_ERROR, "mqtt.queue", "%s", said.text);
	pthread_mutex_lock(&mqtt->lock);
	return true;
}

static void
request(struct mqtt *mqtt, struct group *group, bool subscribing)
{
	struct link *in = &mqtt->in;
	struct ticket *ticket = svc_mem_calloc(1, sizeof(*ticket));
	char *filter = svc_mem_strdup(group->filter);
	if (ticket == NULL || filter == NULL) {
		/* As if the connection were bad: tried again with the next. */
		svc_mem_free(ticket);
		svc_mem_free(filter);
		in->lost = true;
		return;
	}
	*ticket = (struct ticket){mqtt, group->id, in->generation, subscribing};
	bool five = in->version == MQTTVERSION_5;
	MQTTAsync_responseOptions options =
	    MQTTAsync_responseOptions_initializer;
	options.context = ticket;
	if (five) {
		options.onSuccess5 = on_answer5;
		options.onFailure5 = on_no5;
	} else {
		options.onSuccess = on_answer;
		options.onFailure = on_no;
	}
	if (five && subscribing) {
		/* Retained messages only when it is new. */
		options.subscribeOptions.retainHandling = 1;
		if (in->has_ids) {
			MQTTProperty id = {
			    .identifier =
				MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER,
			    .value.integer4 = (unsigned)group->id,
			};
			(void)MQTTProperties_add(&options.properties, &id);
		}
	}
	MQTTAsync handle = in->handle;
	group->busy = true;
	if (subscribing)
		group->on_server = true;
	pthread_mutex_unlock(&mqtt->lock);
	int rc = subscribing ? MQTTAsync_subscribe(handle, filter, 1, &options)
			     : MQTTAsync_unsubscribe(handle, filter, &options);
	MQTTProperties_free(&options.properties);
	svc_mem_free(filter);
	pthread_mutex_lock(&mqtt->lock);
	if (rc != MQTTASYNC_SUCCESS) {
		svc_mem_free(ticket);
		in->lost = true;
	}
}

bool
mqtt_has_subscriptions(struct mqtt *mqtt)
{
	const struct link *in = &mqtt->in;
	for (struct group *g = mqtt->groups; g != NULL; g = g->next) {
		bool answered =
		    mqtt_link_is_up(in) && (g->made_in == in->generation ||
					       g->refused_in == in->generation);
		if (g->n_staying > 0 && !answered)
			return false;
	}
	return true;
}

bool
mqtt_reconcile(struct mqtt *mqtt)
{
	struct link *in = &mqtt->in;
	for (struct group *g = mqtt->groups; g != NULL; g = g->next) {
		if (g->busy)
			continue;
		if (g->n_users == 0 && !g->on_server) {
			unlink_group(mqtt, g);
			group_free(g);
			return true;
		}
		if (g->n_staying == 0 && g->on_server) {
			request(mqtt, g, false);
			return true;
		}
		if (g->n_staying > 0 && g->made_in != in->generation &&
		    g->refused_in != in->generation) {
			if (!refuse_queue(mqtt, g))
				request(mqtt, g, true);
			return true;
		}
	}
	return false;
}

/* -------------------------------------------------------------- receiving */

/* Called with the lock. False when memory ran out before anybody had it. */
static bool
put_into(
    struct group *group, const char *topic, const struct svc_message *message)
{
	struct mqtt *mqtt = NULL;
	for (struct box *box = group->boxes; box != NULL; box = box->next) {
		bool full = false;
		svc_err rc = svc_inbox_force(box->inbox, topic, message, &full);
		if (rc == SVC_E_NOMEM)
			return false;
		mqtt = box->mqtt;
		if (full && !box->full) {
			box->full = true;
			mqtt->n_full++;
			pthread_cond_signal(&mqtt->in.changed);
		}
	}
	return true;
}

/* Which subscription it came by: the server says so, if it knows how. */
static bool
dispatch(struct mqtt *mqtt, const char *topic,
    const struct svc_message *message, MQTTProperties *properties)
{
	size_t n_found = 0;
	int n_ids = MQTTProperties_propertyCount(
	    properties, MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER);
	for (int i = 0; i < n_ids; i++) {
		struct group *group = group_by_id(
		    mqtt, MQTTProperties_getNumericValueAt(properties,
			      MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER, i));
		if (group == NULL || strcmp(group->topic, topic) != 0)
			continue;
		n_found++;
		if (!put_into(group, topic, message))
			return false;
	}
	/* Without: those without a queue, or the first queue. */
	struct group *found = NULL;
	for (struct group *g = mqtt->groups; n_found == 0 && g != NULL;
	     g = g->next) {
		if (strcmp(g->topic, topic) == 0 &&
		    (found == NULL || g->queue[0] == '\0'))
			found = g;
	}
	if (found != NULL)
		return put_into(found, topic, message);
	if (n_found == 0 && mqtt->n_unmatched++ == 0) {
		svc_log_quote(topic, strlen(topic), mqtt->unmatched,
		    sizeof(mqtt->unmatched));
		pthread_cond_signal(&mqtt->in.changed);
	}
	return true;
}

int
mqtt_on_message(
    void *context, char *topic, int topic_len, MQTTAsync_message *message)
{
	struct link *link = context;
	struct mqtt *mqtt = link->mqtt;
	struct svc_event_data event;
	struct svc_error err = {0};
	bool taken = true;
	svc_err rc = SVC_E_INVAL;
	if (topic_len > 0 && strlen(topic) != (size_t)topic_len)
		svc_error_set(&err, rc, "a zero byte in the topic");
	else
		rc = svc_event_decode(message->payload,
		    (size_t)message->payloadlen, &event, &err);
	pthread_mutex_lock(&mqtt->lock);
	if (rc == SVC_OK) {
		taken =
		    dispatch(mqtt, topic, &event.message, &message->properties);
	} else if (rc == SVC_E_NOMEM) {
		taken = false;
	} else if (mqtt->n_undecodable++ == 0) {
		mqtt->undecodable = err;
		pthread_cond_signal(&mqtt->in.changed);
	}
	pthread_mutex_unlock(&mqtt->lock);
	if (rc == SVC_OK)
		svc_event_data_fini(&event);
	/* Paho keeps it and comes again. */
	if (!taken)
		return 0;
	MQTTAsync_freeMessage(&message);
	MQTTAsync_free(topic);
	return 1;
}

/* ----------------------------------------------------------- subscriptions */

static void
on_room(void *arg)
{
	struct box *box = arg;
	struct mqtt *mqtt = box->mqtt;
	pthread_mutex_lock(&mqtt->lock);
	if (box->full) {
		box->full = false;
		mqtt->n_full--;
		pthread_cond_signal(&mqtt->in.changed);
	}
	pthread_mutex_unlock(&mqtt->lock);
}

static struct box *
box_create(struct mqtt *mqtt, const char *topic)
{
	struct box *box = svc_mem_calloc(1, sizeof(*box));
	if (box == NULL)
		return NULL;
	box->mqtt = mqtt;
	struct svc_inbox_config config = {
	    .name = topic,
	    .room = on_room,
	    .arg = box,
	};
	if (svc_inbox_create(&config, &box->inbox) != SVC_OK) {
		svc_mem_free(box);
		return NULL;
	}
	return box;
}

static void
box_destroy(struct box *box)
{
	if (box == NULL)
		return;
	svc_inbox_destroy(box->inbox);
	svc_mem_free(box);
}

static struct group *
group_create(struct mqtt *mqtt, const char *topic, const char *queue)
{
	struct group *group = svc_mem_calloc(1, sizeof(*group));
	if (group == NULL)
		return NULL;
	struct svc_buf buf;
	svc_buf_init(&buf, 1024);
	if (queue[0] != '\0')
		svc_buf_printf(&buf, "$share/%s/", queue);
	svc_buf_puts(&buf, topic);
	if (buf.failed == SVC_OK)
		group->filter = svc_buf_take(&buf, NULL);
	svc_buf_fini(&buf);
	group->topic = svc_mem_strdup(topic);
	group->queue = svc_mem_strdup(queue);
	if (group->filter == NULL || group->topic == NULL ||
	    group->queue == NULL) {
		group_free(group);
		return NULL;
	}
	do {
		mqtt->next_id = mqtt->next_id % MAX_ID + 1;
	} while (group_by_id(mqtt, mqtt->next_id) != NULL);
	group->id = mqtt->next_id;
	return group;
}

/* Joins the group and its box, making what is not there. Called with the lock;
 * takes over `spare` when it needs a box. */
static svc_err
join(struct mqtt *mqtt, struct subscription *subscription, const char *topic,
    const char *queue, struct box **spare)
{
	struct group **at = &mqtt->groups;
	while (*at != NULL && (strcmp((*at)->topic, topic) != 0 ||
				  strcmp((*at)->queue, queue) != 0))
		at = &(*at)->next;
	if (*at == NULL)
		*at = group_create(mqtt, topic, queue);
	struct group *group = *at;
	if (group == NULL)
		return SVC_E_NOMEM;
	if (queue[0] != '\0' && group->boxes != NULL) {
		subscription->box = group->boxes;
	} else {
		subscription->box = *spare;
		(*spare)->next = group->boxes;
		group->boxes = *spare;
		*spare = NULL;
	}
	subscription->group = group;
	subscription->box->n_members++;
	subscription->box->n_users++;
	group->n_staying++;
	group->n_users++;
	return SVC_OK;
}

/* Leaves both; `member` may be NULL. Called without the lock. */
static void
leave(struct mqtt *mqtt, struct subscription *subscription)
{
	struct group *group = subscription->group;
	struct box *box = subscription->box;
	int64_t deadline_at_ms = svc_deadline(mqtt->timeout_ms);
	int64_t answer_at_ms = svc_deadline(
	    mqtt->timeout_ms < LEAVE_MS ? mqtt->timeout_ms : LEAVE_MS);

	pthread_mutex_lock(&mqtt->lock);
	group->n_staying--;
	pthread_cond_signal(&mqtt->in.changed);
	/* What a queue still sends here until it knows must be handled here. */
	while (
	    group->n_staying == 0 && group->on_server &&
	    mqtt_link_is_up(&mqtt->in) && mqtt->n_full == 0 &&
	    svc_cond_wait(&mqtt->changed, &mqtt->lock, answer_at_ms) == SVC_OK)
		continue;
	bool last = --box->n_members == 0;
	if (last) {
		struct box **at = &group->boxes;
		while (*at != box)
			at = &(*at)->next;
		*at = box->next;
	}
	pthread_mutex_unlock(&mqtt->lock);

	if (last && subscription->member != NULL)
		(void)svc_inbox_drain(box->inbox, deadline_at_ms);
	if (subscription->member != NULL)
		svc_inbox_leave(subscription->member);

	pthread_mutex_lock(&mqtt->lock);
	if (last && box->full) {
		box->full = false;
		mqtt->n_full--;
	}
	/* Another one that left before may still be at its last event. */
	bool unused = --box->n_users == 0;
	if (--group->n_users == 0 && !group->on_server && !group->busy) {
		unlink_group(mqtt, group);
		group_free(group);
	}
	pthread_cond_signal(&mqtt->in.changed);
	pthread_mutex_unlock(&mqtt->lock);
	if (unused)
		box_destroy(box);
}

/* Waits for the server's answer while there is a connection. */
static svc_err
await(struct mqtt *mqtt, struct group *group, struct svc_error *err)
{
	int64_t deadline_at_ms = svc_deadline(mqtt->timeout_ms);
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&mqtt->lock);
	while (mqtt_link_is_up(&mqtt->out) && rc == SVC_OK) {
		struct link *in = &mqtt->in;
		bool up = mqtt_link_is_up(in);
		if (up && group->made_in == in->generation)
			break;
		if (up && group->refused_in == in->generation) {
			rc = group->refusal.code;
			if (err != NULL)
				*err = group->refusal;
			break;
		}
		if (svc_cond_wait(
			&mqtt->changed, &mqtt->lock, deadline_at_ms) != SVC_OK)
			break;
	}
	pthread_mutex_unlock(&mqtt->lock);
	return rc;
}

static svc_err
mqtt_subscribe(void *self, const char *topic, const char *queue,
    svc_broker_handler handler, void *arg, void **ret_subscription,
    struct svc_error *err)
{
	struct mqtt *mqtt = self;
	svc_err rc = mqtt_check_topic(topic, err);
	if (rc != SVC_OK)
		return rc;
	if (strchr(queue, '/') != NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "queue %s has a '/', which MQTT does not allow", queue);
	struct subscription *subscription =
	    svc_mem_calloc(1, sizeof(*subscription));
	struct box *spare = box_create(mqtt, topic);
	if (subscription == NULL || spare == NULL) {
		svc_mem_free(subscription);
		box_destroy(spare);
		return mqtt_no_memory(err);
	}
	pthread_mutex_lock(&mqtt->lock);
	rc = join(mqtt, subscription, topic, queue, &spare);
	pthread_mutex_unlock(&mqtt->lock);
	box_destroy(spare);
	if (rc != SVC_OK) {
		svc_mem_free(subscription);
		return mqtt_no_memory(err);
	}

	rc = svc_inbox_join(
	    subscription->box->inbox, handler, arg, &subscription->member);
	if (rc == SVC_OK) {
		pthread_mutex_lock(&mqtt->lock);
		if (mqtt->connecting)
			rc = mqtt_link_start(&mqtt->in);
		pthread_cond_signal(&mqtt->in.changed);
		pthread_mutex_unlock(&mqtt->lock);
	}
	if (rc != SVC_OK)
		svc_error_set(err, rc, "no thread for the subscription: %s",
		    svc_err_text(rc));
	else
		rc = await(mqtt, subscription->group, err);
	if (rc != SVC_OK) {
		leave(mqtt, subscription);
		svc_mem_free(subscription);
		return rc;
	}
	*ret_subscription = subscription;
	return SVC_OK;
}

static void
mqtt_unsubscribe(void *self, void *handle)
{
	struct mqtt *mqtt = self;
	struct subscription *subscription = handle;
	leave(mqtt, subscription);
	svc_mem_free(subscription);
}

static const struct svc_broker_ops mqtt_ops = {
    .abi = SVC_BROKER_ABI,
    .size = sizeof(struct svc_broker_ops),
    .name = "mqtt",
    .create = mqtt_create,
    .destroy = mqtt_destroy,
    .connect = mqtt_connect,
    .publish = mqtt_publish,
    .subscribe = mqtt_subscribe,
    .unsubscribe = mqtt_unsubscribe,
};
SVC_PLUGIN(mqtt_ops);
