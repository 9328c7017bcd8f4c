/* SPDX-License-Identifier: Apache-2.0 */
/* A connection that is kept: one thread makes it, and makes it again. Every
 * attempt has a client of paho's of its own, so nothing of an old connection is
 * sent by a new one. Paho calls back with its own lock held, and takes that
 * lock in its functions: so ours is never held while paho is called. */
#include "mqtt.h"

#include <svc/log.h>

#include <stdio.h>
#include <string.h>

#define KEEPALIVE_S 30
/* How long the server keeps subscriptions and events of one that is away. */
#define SESSION_S 3600
#define FIRST_PAUSE_MS 200
#define LONGEST_PAUSE_MS 5000
#define SETTLE_MS 500
#define LONGEST_SETTLE_MS 2000
#define END_MS 3000
#define FIRST_WAKE_MS 1

/* CONNACK codes of both versions. */
enum {
	REFUSED_VERSION_4 = 1,
	REFUSED_USER_4 = 4,
	REFUSED_RIGHTS_4 = 5,
	REFUSED_VERSION_5 = 0x84,
	REFUSED_USER_5 = 0x86,
	REFUSED_RIGHTS_5 = 0x87,
};

/* ------------------------------------------------------- paho's callbacks */

static void
answer(struct link *link, int code, const char *reason)
{
	pthread_mutex_lock(&link->mqtt->lock);
	link->answered = true;
	link->code = code;
	snprintf(link->reason, sizeof(link->reason), "%s",
	    reason != NULL ? reason : "");
	pthread_cond_signal(&link->changed);
	pthread_mutex_unlock(&link->mqtt->lock);
}

static void
on_connected(void *context, MQTTAsync_successData *data)
{
	struct link *link = context;
	(void)data;
	pthread_mutex_lock(&link->mqtt->lock);
	link->has_ids = link->has_shared = false;
	link->max_packet = 0;
	pthread_mutex_unlock(&link->mqtt->lock);
	answer(link, MQTTASYNC_SUCCESS, NULL);
}

static bool
is_available(MQTTProperties *properties, enum MQTTPropertyCodes code)
{
	return !MQTTProperties_hasProperty(properties, code) ||
	       MQTTProperties_getNumericValue(properties, code) != 0;
}

static void
on_connected5(void *context, MQTTAsync_successData5 *data)
{
	struct link *link = context;
	pthread_mutex_lock(&link->mqtt->lock);
	link->has_ids = is_available(&data->properties,
	    MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIERS_AVAILABLE);
	link->has_shared = is_available(
	    &data->properties, MQTTPROPERTY_CODE_SHARED_SUBSCRIPTION_AVAILABLE);
	link->max_packet = 0;
	if (MQTTProperties_hasProperty(
		&data->properties, MQTTPROPERTY_CODE_MAXIMUM_PACKET_SIZE))
		link->max_packet = (uint32_t)MQTTProperties_getNumericValue(
		    &data->properties, MQTTPROPERTY_CODE_MAXIMUM_PACKET_SIZE);
	pthread_mutex_unlock(&link->mqtt->lock);
	answer(link, MQTTASYNC_SUCCESS, NULL);
}

static void
on_refused(void *context, MQTTAsync_failureData *data)
{
	answer(context, data->code != 0 ? data->code : MQTTASYNC_FAILURE,
	    data->message);
}

static void
on_refused5(void *context, MQTTAsync_failureData5 *data)
{
	int code = data->code != 0 ? data->code : (int)data->reasonCode;
	answer(context, code != 0 ? code : MQTTASYNC_FAILURE, data->message);
}

static void
on_lost(void *context, char *cause)
{
	struct link *link = context;
	(void)cause; /* paho never knows one */
	pthread_mutex_lock(&link->mqtt->lock);
	link->lost = true;
	pthread_cond_signal(&link->changed);
	pthread_mutex_unlock(&link->mqtt->lock);
}

static void
on_disconnected(
    void *context, MQTTProperties *properties, enum MQTTReasonCodes code)
{
	struct link *link = context;
	const char *text = MQTTReasonCode_toString(code);
	(void)properties;
	pthread_mutex_lock(&link->mqtt->lock);
	snprintf(link->lost_reason, sizeof(link->lost_reason), "%s",
	    text != NULL ? text : "");
	pthread_mutex_unlock(&link->mqtt->lock);
}

/* ----------------------------------------------------------- one attempt */

static const char *
code_text(int code, const char *reason)
{
	switch (code) {
	case REFUSED_VERSION_4:
	case REFUSED_VERSION_5:
		return "the server does not speak this version of MQTT";
	case 2:
		return "the server refuses the client id";
	case 3:
		return "the server is not available";
	case REFUSED_USER_4:
	case REFUSED_USER_5:
		return "bad user name or password";
	case REFUSED_RIGHTS_4:
	case REFUSED_RIGHTS_5:
		return "not authorized; check user name and password";
	default:
		break;
	}
	if (code >= 0x80) {
		const char *text =
		    MQTTReasonCode_toString((enum MQTTReasonCodes)code);
		return text != NULL ? text : "refused";
	}
	return reason != NULL && reason[0] != '\0' ? reason : "no connection";
}

static bool
is_definite(int code)
{
	return code > 0;
}

/* One connection to one address by one version. `clean` leaves no session. On
 * failure the reason is in err, and sys has the code. */
static svc_err
attempt(struct link *link, const char *uri, int version, bool clean,
    int64_t timeout_ms, bool *give_up, MQTTAsync *ret_handle,
    struct svc_error *err)
{
	struct mqtt *mqtt = link->mqtt;
	bool five = version == MQTTVERSION_5;
	MQTTAsync_createOptions create = MQTTAsync_createOptions_initializer5;
	create.MQTTVersion = version;
	create.maxBufferedMessages = 65535; /* ours is the limit */
	MQTTAsync handle = NULL;
	int rc = MQTTAsync_createWithOptions(&handle, uri, link->client_id,
	    MQTTCLIENT_PERSISTENCE_NONE, NULL, &create);
	if (rc != MQTTASYNC_SUCCESS) {
		svc_error_set(err, SVC_E_UNAVAILABLE, "%s: no client: %s", uri,
		    MQTTAsync_strerror(rc));
		err->sys = rc;
		return SVC_E_UNAVAILABLE;
	}
	(void)MQTTAsync_setCallbacks(
	    handle, link, on_lost, mqtt_on_message, NULL);
	(void)MQTTAsync_setDisconnected(handle, link, on_disconnected);

	MQTTAsync_connectOptions options =
	    MQTTAsync_connectOptions_initializer5;
	MQTTAsync_connectOptions options4 =
	    MQTTAsync_connectOptions_initializer;
	MQTTAsync_SSLOptions ssl = MQTTAsync_SSLOptions_initializer;
	MQTTProperties properties = MQTTProperties_initializer;
	if (five) {
		options.cleanstart = clean;
		options.onSuccess5 = on_connected5;
		options.onFailure5 = on_refused5;
		if (!clean) {
			MQTTProperty expiry = {
			    .identifier =
				MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL,
			    .value.integer4 = SESSION_S,
			};
			(void)MQTTProperties_add(&properties, &expiry);
			options.connectProperties = &properties;
		}
	} else {
		options = options4;
		options.MQTTVersion = version;
		options.cleansession = clean;
		options.onSuccess = on_connected;
		options.onFailure = on_refused;
	}
	options.context = link;
	options.keepAliveInterval = KEEPALIVE_S;
	options.connectTimeout = (int)((timeout_ms + 999) / 1000);
	options.username = mqtt->username;
	options.password = mqtt->password;
	ssl.verify = 1;
	if (strncmp(uri, "ssl", 3) == 0 || strncmp(uri, "mqtts", 5) == 0 ||
	    strncmp(uri, "wss", 3) == 0)
		options.ssl = &ssl;

	pthread_mutex_lock(&mqtt->lock);
	link->answered = false;
	link->lost = false;
	link->lost_reason[0] = '\0';
	pthread_mutex_unlock(&mqtt->lock);
	/* Before the first connection of all, so that there is who wakes it. */
	mqtt_wake_paho();
	rc = MQTTAsync_connect(handle, &options);
	MQTTProperties_free(&properties);
	if (rc != MQTTASYNC_SUCCESS)
		answer(link, rc, MQTTAsync_strerror(rc));

	int64_t deadline_at_ms = svc_deadline(timeout_ms);
	int64_t wake_ms = FIRST_WAKE_MS;
	char reason[sizeof(link->reason)] = "";
	int code = MQTTASYNC_FAILURE;
	pthread_mutex_lock(&mqtt->lock);
	while (
	    !link->answered && !*give_up && svc_remaining(deadline_at_ms) > 0) {
		int64_t at_ms = svc_deadline(wake_ms);
		if (at_ms > deadline_at_ms)
			at_ms = deadline_at_ms;
		if (svc_cond_wait(&link->changed, &mqtt->lock, at_ms) == SVC_OK)
			continue;
		pthread_mutex_unlock(&mqtt->lock);
		mqtt_wake_paho();
		pthread_mutex_lock(&mqtt->lock);
		wake_ms *= 2;
	}
	if (link->answered) {
		code = link->code;
		memcpy(reason, link->reason, sizeof(reason));
	} else {
		snprintf(reason, sizeof(reason), "no answer within %lld ms",
		    (long long)timeout_ms);
	}
	pthread_mutex_unlock(&mqtt->lock);
	if (code == MQTTASYNC_SUCCESS) {
		*ret_handle = handle;
		return SVC_OK;
	}
	MQTTAsync_destroy(&handle);
	svc_error_set(
	    err, SVC_E_UNAVAILABLE, "%s: %s", uri, code_text(code, reason));
	err->sys = code;
	return SVC_E_UNAVAILABLE;
}

/* --------------------------------------------------------------- the link */

/* MQTT 5 where the server speaks it. One that does not may say so, or just
 * hang up, which is also what a server does that is about to end. So hanging
 * up counts only when the same server takes 3.1.1 right before it refuses 5
 * once more. */
static svc_err
connect_address(struct link *link, const char *uri, int *ret_version,
    MQTTAsync *ret_handle, struct svc_error *err)
{
	struct mqtt *mqtt = link->mqtt;
	bool clean = !link->inbound;
	int64_t timeout_ms = mqtt->timeout_ms;
	bool *give_up = &link->stop;
	svc_err rc;

	pthread_mutex_lock(&mqtt->lock);
	bool five = mqtt->speaks_5, four = mqtt->only_speaks_4;
	pthread_mutex_unlock(&mqtt->lock);
	if (!four) {
		*ret_version = MQTTVERSION_5;
		rc = attempt(link, uri, MQTTVERSION_5, clean, timeout_ms,
		    give_up, ret_handle, err);
		bool refuses =
		    rc != SVC_OK && (err->sys == REFUSED_VERSION_4 ||
					err->sys == REFUSED_VERSION_5);
		if (rc == SVC_OK ||
		    (!refuses && (five || is_definite(err->sys))))
			goto seen;
		four = refuses;
	}
	*ret_version = MQTTVERSION_3_1_1;
	rc = attempt(link, uri, MQTTVERSION_3_1_1, clean, timeout_ms, give_up,
	    ret_handle, err);
	if (rc != SVC_OK || four)
		goto seen;
	MQTTAsync handle = NULL;
	struct svc_error ignored;
	MQTTAsync_destroy(ret_handle);
	if (attempt(link, uri, MQTTVERSION_5, clean, timeout_ms, give_up,
		&handle, &ignored) == SVC_OK) {
		*ret_version = MQTTVERSION_5;
		*ret_handle = handle;
	} else {
		rc = attempt(link, uri, MQTTVERSION_3_1_1, clean, timeout_ms,
		    give_up, ret_handle, err);
	}
seen:
	if (rc == SVC_OK) {
		pthread_mutex_lock(&mqtt->lock);
		mqtt->speaks_5 = *ret_version == MQTTVERSION_5;
		mqtt->only_speaks_4 = *ret_version != MQTTVERSION_5;
		pthread_mutex_unlock(&mqtt->lock);
	}
	return rc;
}

/* Tries every address once. Called with the lock, which is let go meanwhile. */
static bool
connect_round(struct link *link)
{
	struct mqtt *mqtt = link->mqtt;
	svc_log_level level = link->inbound ? SVC_LOG_DEBUG : SVC_LOG_INFO;
	bool was_up = link->generation > 0;
	for (size_t i = 0; i < mqtt->n_uris && !link->stop; i++) {
		struct svc_error err = {0};
		MQTTAsync handle = NULL;
		int version = 0;
		pthread_mutex_unlock(&mqtt->lock);
		svc_err rc = connect_address(
		    link, mqtt->uris[i], &version, &handle, &err);
		if (rc == SVC_OK)
			svc_log(level,
			    was_up ? "mqtt.resumed" : "mqtt.connected",
			    "connected to %s by MQTT %s", mqtt->uris[i],
			    version == MQTTVERSION_5 ? "5" : "3.1.1");
		pthread_mutex_lock(&mqtt->lock);
		if (rc == SVC_OK) {
			link->handle = handle;
			link->uri = mqtt->uris[i];
			link->version = version;
			link->state = LINK_UP;
			link->generation++;
			link->failed_once = false;
			link->settling = was_up && !link->inbound;
			link->settled_at_ms = svc_deadline(SETTLE_MS);
			mqtt_wake_pendings(mqtt);
			pthread_cond_broadcast(&mqtt->changed);
			return true;
		}
		link->why = err;
	}
	/* Another server may be there next time, speaking another version. */
	mqtt->only_speaks_4 = false;
	bool first = !link->failed_once;
	link->failed_once = true;
	mqtt_wake_pendings(mqtt);
	pthread_cond_broadcast(&mqtt->changed);
	if (first && !link->stop) {
		struct svc_error why = link->why;
		pthread_mutex_unlock(&mqtt->lock);
		svc_log(link->inbound ? SVC_LOG_DEBUG : SVC_LOG_WARN,
		    "mqtt.unreachable", "%s; trying on", why.text);
		pthread_mutex_lock(&mqtt->lock);
	}
	return false;
}

/* Takes the connection down; called with the lock, which is let go meanwhile.
 */
static void
drop(struct link *link)
{
	struct mqtt *mqtt = link->mqtt;
	link->state = LINK_DOWN;
	mqtt_wake_pendings(mqtt);
	pthread_cond_broadcast(&mqtt->changed);
	while (link->n_users > 0)
		(void)svc_cond_wait(&link->changed, &mqtt->lock, INT64_MAX);
	MQTTAsync handle = link->handle;
	link->handle = NULL;
	pthread_mutex_unlock(&mqtt->lock);
	MQTTAsync_destroy(&handle);
	pthread_mutex_lock(&mqtt->lock);
	for (struct group *g = mqtt->groups; link->inbound && g != NULL;
	     g = g->next)
		g->busy = false;
}

static void
on_ended(void *context, MQTTAsync_successData5 *data)
{
	(void)data;
	answer(context, MQTTASYNC_SUCCESS, NULL);
}

/* Leaves no session behind at the server: the process that could take it up
 * again is about to end. Called with the lock, as drop. */
static void
end_session(struct link *link)
{
	struct mqtt *mqtt = link->mqtt;
	int64_t deadline_at_ms = svc_deadline(END_MS);
	if (link->version == MQTTVERSION_5 && link->state == LINK_UP) {
		MQTTAsync_disconnectOptions options =
		    MQTTAsync_disconnectOptions_initializer5;
		MQTTProperty expiry = {
		    .identifier = MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL,
		    .value.integer4 = 0,
		};
		(void)MQTTProperties_add(&options.properties, &expiry);
		options.onSuccess5 = on_ended;
		options.context = link;
		link->answered = false;
		pthread_mutex_unlock(&mqtt->lock);
		if (MQTTAsync_disconnect(link->handle, &options) !=
		    MQTTASYNC_SUCCESS)
			answer(link, MQTTASYNC_FAILURE, NULL);
		MQTTProperties_free(&options.properties);
		pthread_mutex_lock(&mqtt->lock);
		while (!link->answered &&
		       svc_cond_wait(&link->changed, &mqtt->lock,
			   deadline_at_ms) == SVC_OK)
			continue;
		drop(link);
		return;
	}
	/* In 3.1.1, or without a connection, a clean one ends the session. */
	if (link->state == LINK_UP)
		drop(link);
	pthread_mutex_unlock(&mqtt->lock);
	MQTTAsync handle = NULL;
	struct svc_error err = {0};
	bool never = false;
	if (attempt(link, link->uri, link->version, true, END_MS, &never,
		&handle, &err) == SVC_OK)
		MQTTAsync_destroy(&handle);
	else
		svc_log(SVC_LOG_DEBUG, "mqtt.session",
		    "the session was not ended: %s", err.text);
	pthread_mutex_lock(&mqtt->lock);
}

/* What paho's thread noticed. Called with the lock, which is let go. */
static void
say_oddities(struct mqtt *mqtt)
{
	if (mqtt->n_undecodable > 0 && !mqtt->said_undecodable) {
		mqtt->said_undecodable = true;
		struct svc_error reason = mqtt->undecodable;
		pthread_mutex_unlock(&mqtt->lock);
		svc_log(SVC_LOG_WARN, "mqtt.skipped",
		    "an event was skipped, as all like it will be: %s",
		    reason.text);
		pthread_mutex_lock(&mqtt->lock);
	}
	if (mqtt->n_unmatched > 0 && !mqtt->said_unmatched) {
		mqtt->said_unmatched = true;
		char topic[sizeof(mqtt->unmatched)];
		memcpy(topic, mqtt->unmatched, sizeof(topic));
		pthread_mutex_unlock(&mqtt->lock);
		svc_log(SVC_LOG_WARN, "mqtt.unmatched",
		    "an event of topic %s was dropped, as all like it will "
		    "be: nobody here subscribes to it",
		    topic);
		pthread_mutex_lock(&mqtt->lock);
	}
}

static void
say_lost(struct link *link)
{
	struct mqtt *mqtt = link->mqtt;
	char reason[sizeof(link->lost_reason)];
	memcpy(reason, link->lost_reason, sizeof(reason));
	svc_error_set(&link->why, SVC_E_UNAVAILABLE,
	    "the connection to the server was lost%s%s",
	    reason[0] != '\0' ? ": " : "", reason);
	pthread_mutex_unlock(&mqtt->lock);
	svc_log(link->inbound ? SVC_LOG_DEBUG : SVC_LOG_WARN, "mqtt.lost",
	    "the connection to the MQTT server was lost%s%s",
	    reason[0] != '\0' ? ": " : "", reason);
	pthread_mutex_lock(&mqtt->lock);
}

static int64_t
longer(int64_t pause_ms)
{
	pause_ms = pause_ms == 0 ? FIRST_PAUSE_MS : pause_ms * 8 / 5;
	return pause_ms < LONGEST_PAUSE_MS ? pause_ms : LONGEST_PAUSE_MS;
}

/* Lets publishing begin once our own subscriptions are back, or were given
 * long enough. Returns when to look again. */
static int64_t
settle(struct link *link)
{
	struct mqtt *mqtt = link->mqtt;
	int64_t now_ms = svc_now_ms(), at_ms = link->settled_at_ms;
	if (now_ms < at_ms)
		return at_ms;
	at_ms += LONGEST_SETTLE_MS - SETTLE_MS;
	if (now_ms < at_ms && mqtt->n_full == 0 &&
	    !mqtt_has_subscriptions(mqtt))
		return at_ms;
	link->settling = false;
	mqtt_wake_pendings(mqtt);
	return INT64_MAX;
}

static void *
run_link(void *arg)
{
	struct link *link = arg;
	struct mqtt *mqtt = link->mqtt;
	int64_t pause_ms = 0, retry_at_ms = 0;
	pthread_mutex_lock(&mqtt->lock);
	while (!link->stop) {
		bool paused = link->inbound && mqtt->n_full > 0;
		if (link->inbound)
			say_oddities(mqtt);
		if (link->state == LINK_UP && link->lost) {
			say_lost(link);
			drop(link);
			pause_ms = 0;
			retry_at_ms = 0;
		} else if (link->state == LINK_UP && paused) {
			drop(link);
			pthread_mutex_unlock(&mqtt->lock);
			svc_log(SVC_LOG_INFO, "mqtt.paused",
			    "handlers are slow; the server keeps their events "
			    "meanwhile");
			pthread_mutex_lock(&mqtt->lock);
			pause_ms = 0;
			retry_at_ms = 0;
		} else if (link->state == LINK_DOWN && !paused &&
			   svc_now_ms() >= retry_at_ms) {
			if (!connect_round(link)) {
				pause_ms = longer(pause_ms);
				int64_t jitter_ms =
				    (int64_t)svc_random_below(
					(uint64_t)pause_ms * 2 / 5) -
				    pause_ms / 5;
				retry_at_ms =
				    svc_now_ms() + pause_ms + jitter_ms;
			}
		} else if (link->state == LINK_UP && link->inbound &&
			   mqtt_reconcile(mqtt)) {
			continue;
		} else {
			int64_t at_ms = INT64_MAX;
			if (link->state == LINK_DOWN && !paused)
				at_ms = retry_at_ms;
			else if (link->state == LINK_UP && link->settling)
				at_ms = settle(link);

			(void)svc_cond_wait(&link->changed, &mqtt->lock, at_ms);
		}
	}
	if (link->state == LINK_UP && link->lost)
		drop(link);
	/* Not when the server is away as well: that would take its time. */
	if (link->inbound && link->generation > 0 &&
	    (link->state == LINK_UP ||
		(mqtt->out.state == LINK_UP && !mqtt->out.lost)))
		end_session(link);
	else if (link->state == LINK_UP)
		drop(link);
	pthread_mutex_unlock(&mqtt->lock);
	return NULL;
}

svc_err
mqtt_link_start(struct link *link)
{
	if (link->running)
		return SVC_OK;
	svc_err rc = svc_thread_start(&link->thread,
	    link->inbound ? "svc-mqtt-in" : "svc-mqtt-out", run_link, link);
	link->running = rc == SVC_OK;
	return rc;
}

void
mqtt_link_stop(struct link *link)
{
	struct mqtt *mqtt = link->mqtt;
	pthread_mutex_lock(&mqtt->lock);
	link->stop = true;
	pthread_cond_signal(&link->changed);
	bool running = link->running;
	pthread_mutex_unlock(&mqtt->lock);
	if (running)
		svc_thread_join(link->thread);
	link->running = false;
}
