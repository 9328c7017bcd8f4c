/* SPDX-License-Identifier: Apache-2.0 */
/* Publishing: each event waits until the server has acknowledged it. */
#include "mqtt.h"

#include <svc/log.h>

#include <stdio.h>
#include <string.h>

void
mqtt_wake_pendings(struct mqtt *mqtt)
{
	for (struct pending *p = mqtt->pendings; p != NULL; p = p->next)
		pthread_cond_signal(&p->changed);
}

/* Called with the lock. */
static void
pending_unref(struct pending *pending)
{
	if (--pending->n_refs > 0)
		return;
	pthread_cond_destroy(&pending->changed);
	svc_mem_free(pending);
}

/* Paho is through with it. A code of -1 means: not known, send it again. */
static void
settle(struct pending *pending, int code)
{
	struct mqtt *mqtt = pending->mqtt;
	pthread_mutex_lock(&mqtt->lock);
	if (code >= 0) {
		pending->state = PENDING_DONE;
		pending->code = code;
	} else if (pending->state == PENDING_SENT) {
		pending->state = PENDING_IDLE;
	}
	pthread_cond_signal(&pending->changed);
	pending_unref(pending);
	pthread_mutex_unlock(&mqtt->lock);
}

static void
on_published(void *context, MQTTAsync_successData *data)
{
	(void)data;
	settle(context, 0);
}

static void
on_published5(void *context, MQTTAsync_successData5 *data)
{
	(void)data;
	settle(context, 0);
}

static void
on_unpublished(void *context, MQTTAsync_failureData *data)
{
	(void)data;
	settle(context, -1);
}

static void
on_unpublished5(void *context, MQTTAsync_failureData5 *data)
{
	settle(context, data->reasonCode >= MQTTREASONCODE_UNSPECIFIED_ERROR
			    ? (int)data->reasonCode
			    : -1);
}

static svc_err
refusal_code(int code)
{
	switch (code) {
	case MQTTREASONCODE_NOT_AUTHORIZED:
		return SVC_E_DENIED;
	case MQTTREASONCODE_TOPIC_NAME_INVALID:
	case MQTTREASONCODE_TOPIC_FILTER_INVALID:
		return SVC_E_INVAL;
	case MQTTREASONCODE_PACKET_TOO_LARGE:
	case MQTTREASONCODE_QUOTA_EXCEEDED:
		return SVC_E_EXHAUSTED;
	case MQTTREASONCODE_SHARED_SUBSCRIPTIONS_NOT_SUPPORTED:
		return SVC_E_UNIMPLEMENTED;
	default:
		return SVC_E_UNAVAILABLE;
	}
}

svc_err
mqtt_refusal(int code, const char *topic, struct svc_error *err)
{
	const char *text = MQTTReasonCode_toString((enum MQTTReasonCodes)code);
	char quoted[80];
	return svc_error_set(err, refusal_code(code),
	    "the MQTT server refuses topic %s: %s (0x%x)",
	    svc_log_quote(topic, strlen(topic), quoted, sizeof(quoted)),
	    text != NULL ? text : "for a reason of its own", (unsigned)code);
}

/* Hands it to paho. Called with the lock, which is let go meanwhile, while the
 * connection is up. */
static svc_err
send_pending(struct pending *pending, const char *topic, const char *json,
    size_t len, struct svc_error *err)
{
	struct mqtt *mqtt = pending->mqtt;
	struct link *out = &mqtt->out;
	/* Fixed header, topic, packet id and properties besides the payload. */
	if (out->max_packet > 0 && len + strlen(topic) + 16 > out->max_packet)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "event of %zu bytes as JSON is larger than the MQTT server "
		    "takes: %u",
		    len, (unsigned)out->max_packet);
	MQTTAsync handle = out->handle;
	MQTTAsync_responseOptions options =
	    MQTTAsync_responseOptions_initializer;
	if (out->version == MQTTVERSION_5) {
		options.onSuccess5 = on_published5;
		options.onFailure5 = on_unpublished5;
	} else {
		options.onSuccess = on_published;
		options.onFailure = on_unpublished;
	}
	options.context = pending;
	pending->state = PENDING_SENT;
	pending->n_refs++;
	out->n_users++;
	pthread_mutex_unlock(&mqtt->lock);
	int rc = MQTTAsync_send(handle, topic, (int)len, json, 1, 0, &options);
	pthread_mutex_lock(&mqtt->lock);
	if (--out->n_users == 0)
		pthread_cond_signal(&out->changed);
	if (rc == MQTTASYNC_SUCCESS)
		return SVC_OK;
	pending_unref(pending);
	pending->state = PENDING_IDLE;
	if (rc == MQTTASYNC_DISCONNECTED || rc == MQTTASYNC_FAILURE) {
		/* Its thread will be told by paho as well. */
		out->lost = true;
		pthread_cond_signal(&out->changed);
		return SVC_OK;
	}
	if (rc == MQTTASYNC_NO_MORE_MSGIDS ||
	    rc == MQTTASYNC_MAX_BUFFERED_MESSAGES)
		return svc_error_set(err, SVC_E_AGAIN,
		    "65,535 events wait for the MQTT server already");
	return svc_error_set(
	    err, SVC_E_INTERNAL, "MQTT client: %s", MQTTAsync_strerror(rc));
}

bool
mqtt_link_is_up(const struct link *link)
{
	return link->state == LINK_UP && !link->lost;
}

static bool
is_open(const struct mqtt *mqtt)
{
	return mqtt_link_is_up(&mqtt->out) && !mqtt->out.settling;
}

static svc_err
give_up(struct mqtt *mqtt, bool sent, bool nowait, struct svc_error *err)
{
	const char *why = mqtt->out.why.text;
	if (is_open(mqtt))
		return svc_error_set(err, SVC_E_TIMEDOUT,
		    "the MQTT server did not acknowledge the event within "
		    "%lld ms",
		    (long long)mqtt->timeout_ms);
	if (why[0] == '\0')
		why = "not connected to the MQTT server";
	if (nowait)
		return svc_error_set(err, SVC_E_AGAIN, "%s%s", why,
		    sent ? "; it may have the event" : "");
	return svc_error_set(err, sent ? SVC_E_TIMEDOUT : SVC_E_UNAVAILABLE,
	    "%s%s", why, sent ? "; it may have the event" : "");
}

/* Sends and sends again until it is acknowledged. Called with the lock. */
static svc_err
publish_pending(struct pending *pending, const char *topic, const char *json,
    size_t len, bool nowait, struct svc_error *err)
{
	struct mqtt *mqtt = pending->mqtt;
	struct link *out = &mqtt->out;
	int64_t deadline_at_ms = svc_deadline(mqtt->timeout_ms);
	unsigned sent_in = 0;
	for (;;) {
		if (mqtt->stopping)
			return svc_error_set(
			    err, SVC_E_CANCELLED, "the broker is being closed");
		if (pending->state == PENDING_DONE && pending->code == 0)
			return SVC_OK;
		if (pending->state == PENDING_DONE)
			return mqtt_refusal(pending->code, topic, err);
		/* An answer in an old connection will not come. */
		bool up = is_open(mqtt);
		bool awaited = pending->state == PENDING_SENT &&
			       sent_in == out->generation;
		if (up && !awaited) {
			sent_in = out->generation;
			svc_err rc =
			    send_pending(pending, topic, json, len, err);
			if (rc != SVC_OK)
				return rc;
			continue;
		}
		if (!up && nowait)
			return give_up(mqtt, sent_in != 0, true, err);
		bool waits = !up;
		if (waits && sent_in == 0 &&
		    mqtt->n_waiting >= mqtt->max_queued)
			return svc_error_set(err, SVC_E_AGAIN,
			    "%zu events wait for the connection already",
			    mqtt->n_waiting);
		mqtt->n_waiting += waits;
		svc_err rc = SVC_OK;
		while (rc == SVC_OK && !mqtt->stopping &&
		       pending->state != PENDING_DONE && is_open(mqtt) == up &&
		       !(up && (pending->state != PENDING_SENT ||
				   sent_in != out->generation)))
			rc = svc_cond_wait(
			    &pending->changed, &mqtt->lock, deadline_at_ms);
		mqtt->n_waiting -= waits;
		if (rc != SVC_OK && pending->state != PENDING_DONE)
			return give_up(mqtt, sent_in != 0, nowait, err);
	}
}

svc_err
mqtt_check_topic(const char *topic, struct svc_error *err)
{
	if (topic[0] == '$')
		return svc_error_set(err, SVC_E_INVAL,
		    "topic %s begins with '$': such topics belong to the MQTT "
		    "server",
		    topic);
	return SVC_OK;
}

svc_err
mqtt_publish(void *self, const char *topic, const struct svc_message *message,
    unsigned flags, struct svc_error *err)
{
	struct mqtt *mqtt = self;
	svc_err rc = mqtt_check_topic(topic, err);
	if (rc != SVC_OK)
		return rc;
	char *json = NULL;
	size_t len = 0;
	rc = svc_event_encode(message, &json, &len);
	if (rc != SVC_OK)
		return svc_error_set(
		    err, rc, "event cannot be written: %s", svc_err_text(rc));
	struct pending *pending = svc_mem_calloc(1, sizeof(*pending));
	if (pending == NULL) {
		svc_mem_free(json);
		return mqtt_no_memory(err);
	}
	pending->mqtt = mqtt;
	pending->n_refs = 1;
	svc_cond_init(&pending->changed);

	pthread_mutex_lock(&mqtt->lock);
	pending->next = mqtt->pendings;
	pending->at = &mqtt->pendings;
	if (pending->next != NULL)
		pending->next->at = &pending->next;
	mqtt->pendings = pending;
	rc = publish_pending(
	    pending, topic, json, len, (flags & SVC_PUBLISH_NOWAIT) != 0, err);
	*pending->at = pending->next;
	if (pending->next != NULL)
		pending->next->at = pending->at;
	pending_unref(pending);
	pthread_mutex_unlock(&mqtt->lock);
	svc_mem_free(json);
	return rc;
}
