/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: subscriptions, publishing, and what a broker without a server asks
 * of its service.
 *
 * `lock` guards the lists and the state of the connection. Nothing is called
 * under it.
 */
#include "server.h"

#include <string.h>

#define MAX_QUEUED 1000

static svc_err host_advertise(void *self, const char *topic, const char *queue,
    bool on, struct svc_error *err);
static svc_err host_peers(void *self, const char *topic,
    void (*each)(const struct svc_broker_peer *peer, void *arg), void *arg,
    struct svc_error *err);
static svc_err host_deliver(void *self, const char *node_id, const char *queue,
    const char *topic, const struct svc_message *message, int64_t timeout_ms,
    struct svc_error *err);

/* --------------------------------------------------------------- lifecycle */

void
svc_events_init(struct svc_service *service)
{
	struct svc_events *events = &service->events;
	pthread_mutex_init(&events->lock, NULL);
	svc_cond_init(&events->changed);
	events->host = (struct svc_broker_host){
	    .self = service,
	    .advertise = host_advertise,
	    .peers = host_peers,
	    .deliver = host_deliver,
	};
}

svc_err
svc_events_make(struct svc_service *service, struct svc_error *err)
{
	const struct svc_values *v = &service->values;
	struct svc_broker_config config = {
	    .address = v->broker_address,
	    .client_id = v->id,
	    .username = v->broker_username,
	    .password = v->broker_password,
	    .timeout_ms = v->request_timeout_ms,
	    .max_message = v->max_message_size,
	    .max_queued = MAX_QUEUED,
	    .host = &service->events.host,
	};
	return svc_broker_create(v->broker, &config, &service->broker, err);
}

static void
free_advertised(struct svc_advertised *advertised)
{
	svc_mem_free(advertised->topic);
	svc_mem_free(advertised->queue);
	svc_mem_free(advertised);
}

void
svc_events_finish(struct svc_service *service)
{
	struct svc_events *events = &service->events;
	svc_broker_destroy(service->broker);
	service->broker = NULL;
	svc_peers_destroy(events->peers);
	while (events->subscribers != NULL) {
		struct svc_subscriber *next = events->subscribers->next;
		svc_mem_free(events->subscribers->topic);
		svc_mem_free(events->subscribers->queue);
		svc_mem_free(events->subscribers);
		events->subscribers = next;
	}
	while (events->advertised != NULL) {
		struct svc_advertised *next = events->advertised->next;
		free_advertised(events->advertised);
		events->advertised = next;
	}
	pthread_mutex_destroy(&events->lock);
	pthread_cond_destroy(&events->changed);
}

/* Connect once, whoever needs it first; the others wait for that. A broker
 * that is not there yet is tried on by the plugin. */
static svc_err
connect(struct svc_service *service, struct svc_error *err)
{
	struct svc_events *events = &service->events;
	pthread_mutex_lock(&events->lock);
	while (events->connected == SVC_BROKER_CONNECTING)
		svc_cond_wait(&events->changed, &events->lock, INT64_MAX);
	bool mine = events->connected == SVC_BROKER_NEW;
	if (mine)
		events->connected = SVC_BROKER_CONNECTING;
	pthread_mutex_unlock(&events->lock);
	if (!mine)
		return SVC_OK;
	struct svc_error why = {0};
	svc_err code = svc_broker_connect(service->broker, &why);
	bool trying = code == SVC_E_UNAVAILABLE || code == SVC_E_TIMEDOUT;
	pthread_mutex_lock(&events->lock);
	events->connected =
	    code == SVC_OK || trying ? SVC_BROKER_ON : SVC_BROKER_NEW;
	pthread_cond_broadcast(&events->changed);
	pthread_mutex_unlock(&events->lock);
	if (trying) {
		svc_log(SVC_LOG_WARN, "broker.lost",
		    "broker %s cannot be reached, going on trying: %s",
		    service->values.broker, why.text);
		return SVC_OK;
	}
	if (code != SVC_OK && err != NULL)
		*err = why;
	return code;
}

/* ----------------------------------------------------------- subscriptions */

const char *
svc_event_topic(const struct svc_event *event)
{
	return event != NULL ? event->topic : NULL;
}

const struct svc_message *
svc_event_message(const struct svc_event *event)
{
	return event != NULL ? event->message : NULL;
}

const char *
svc_event_header(const struct svc_event *event, const char *name)
{
	return event != NULL ? svc_headers_get(event->message->headers, name)
			     : NULL;
}

/* An event on its way through the wrappers: which is next. */
struct event_step {
	const struct svc_subscriber *subscriber;
	size_t index;
};

static svc_err
run_event_wrap(struct svc_event *event, void *arg)
{
	const struct event_step *step = arg;
	const struct svc_subscriber *subscriber = step->subscriber;
	const struct svc_wraps *wraps =
	    &subscriber->service->wraps[SVC_WRAP_SUBSCRIBE];
	if (step->index == wraps->n)
		return subscriber->fn(event, subscriber->arg);
	const struct svc_wrap *wrap = &wraps->list[step->index];
	struct event_step next = {subscriber, step->index + 1};
	return ((svc_event_wrapper)wrap->fn)(
	    event, run_event_wrap, &next, wrap->arg);
}

static svc_err
on_event(const char *topic, const struct svc_message *message, void *arg)
{
	struct svc_event event = {.topic = topic, .message = message};
	struct event_step first = {arg, 0};
	return run_event_wrap(&event, &first);
}

static svc_err
subscribe(struct svc_subscriber *subscriber, struct svc_error *err)
{
	return svc_broker_subscribe(subscriber->service->broker,
	    subscriber->topic,
	    subscriber->queue[0] != '\0' ? subscriber->queue : NULL, on_event,
	    subscriber, &subscriber->subscription, err);
}

svc_err
svc_events_start(struct svc_service *service, struct svc_error *err)
{
	struct svc_events *events = &service->events;
	svc_err code = connect(service, err);
	/* Handlers run already: who subscribes from here on does so itself, and
	 * stands behind `end`. */
	pthread_mutex_lock(&events->lock);
	events->open = true;
	struct svc_subscriber *at = events->subscribers, *end = at;
	while (end != NULL && end->next != NULL)
		end = end->next;
	pthread_mutex_unlock(&events->lock);
	while (at != NULL && code == SVC_OK) {
		code = subscribe(at, err);
		at = at != end ? at->next : NULL;
	}
	return code;
}

/* Into the list, if the start or who asks has subscribed it or will. */
static bool
remember(struct svc_subscriber *made, bool subscribed)
{
	struct svc_events *events = &made->service->events;
	pthread_mutex_lock(&events->lock);
	bool fits = subscribed || !events->open;
	struct svc_subscriber **end = &events->subscribers;
	while (*end != NULL)
		end = &(*end)->next;
	if (fits)
		*end = made;
	pthread_mutex_unlock(&events->lock);
	return fits;
}

static svc_err
check_topic(const char *topic, struct svc_error *err)
{
	/* The rest is checked where the events pass; this comes early. */
	if (topic == NULL || topic[0] == '\0' || strlen(topic) > 255 ||
	    strpbrk(topic, "+#\r\n") != NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "topic \"%.40s\" must be 1 to 255 bytes without control "
		    "characters, '+' and '#'",
		    topic != NULL ? topic : "");
	return SVC_OK;
}

svc_err
svc_subscribe_options(struct svc_service *service, const char *topic,
    svc_event_handler fn, void *arg, const struct svc_option *option)
{
	if (service == NULL)
		return SVC_E_NOMEM;
	if (service->state == SVC_SERVICE_STOPPED)
		return svc_service_fail(service, SVC_E_PRECONDITION,
		    "the service has ended; make a new one");
	struct svc_error err = {0};
	const char *queue = "";
	svc_err code = check_topic(topic, &err);
	if (code == SVC_OK && fn == NULL)
		code = svc_error_set(&err, SVC_E_INVAL,
		    "the subscription to \"%s\" needs a function", topic);
	for (;
	     code == SVC_OK && option != NULL && option->kind != SVC_OPTION_END;
	     option++) {
		if (option->kind == SVC_OPTION_QUEUE)
			queue = option->text != NULL ? option->text : "";
		else if (option->kind != SVC_OPTION_NONE)
			code = svc_error_set(&err, SVC_E_INVAL,
			    "option number %d is not one of a subscription",
			    option->kind);
	}
	if (code != SVC_OK)
		return svc_service_refuse(service, code, err.text);

	struct svc_subscriber *made = svc_mem_calloc(1, sizeof(*made));
	if (made == NULL)
		return svc_service_fail(service, SVC_E_NOMEM, "out of memory");
	made->service = service;
	made->topic = svc_mem_strdup(topic);
	made->queue = svc_mem_strdup(queue);
	made->fn = fn;
	made->arg = arg;
	code =
	    made->topic != NULL && made->queue != NULL ? SVC_OK : SVC_E_NOMEM;
	bool kept = code == SVC_OK && remember(made, false);
	if (code == SVC_OK && !kept) {
		code = subscribe(made, &err);
		kept = code == SVC_OK && remember(made, true);
	}
	if (!kept) {
		svc_mem_free(made->topic);
		svc_mem_free(made->queue);
		svc_mem_free(made);
		return svc_service_fail(service, code, "%s",
		    err.text[0] != '\0' ? err.text : svc_err_text(code));
	}
	return SVC_OK;
}

/* -------------------------------------------------------------- publishing */

/* An event on its way out through the wrappers: which is next. */
struct publish_step {
	struct svc_service *service;
	size_t index;
};

static svc_err
run_publish_wrap(const struct svc_publishing *event, void *arg)
{
	const struct publish_step *step = arg;
	struct svc_service *service = step->service;
	const struct svc_wraps *wraps = &service->wraps[SVC_WRAP_PUBLISH];
	if (step->index < wraps->n) {
		const struct svc_wrap *wrap = &wraps->list[step->index];
		struct publish_step next = {service, step->index + 1};
		return ((svc_publish_wrapper)wrap->fn)(
		    event, run_publish_wrap, &next, wrap->arg);
	}
	/* A wrapper may have left these away. */
	struct svc_message none = {.content_type = service->values.codec};
	struct svc_error untold;
	struct svc_error *err = event->err != NULL ? event->err : &untold;
	svc_err code = connect(service, err);
	if (code != SVC_OK)
		return code;
	svc_will_block();
	return svc_broker_publish(service->broker, event->topic,
	    event->message != NULL ? event->message : &none, 0, err);
}

svc_err
svc_publish_detail(struct svc_service *service, const char *topic,
    const struct svc_message *message, struct svc_error *err)
{
	if (service == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	struct svc_error why = {0};
	svc_err code = SVC_OK;
	if (service->state == SVC_SERVICE_NEW) {
		code = svc_init(service, 0, NULL);
		why = service->error;
	}
	if (code == SVC_OK && topic == NULL)
		code =
		    svc_error_set(&why, SVC_E_INVAL, "an event needs a topic");
	if (code == SVC_OK && service->broker == NULL)
		code = svc_error_set(
		    &why, SVC_E_PRECONDITION, "svc_init has not succeeded");
	if (code == SVC_OK) {
		struct svc_message sent = {0};
		if (message != NULL)
			sent = *message;
		if (!svc_says_type(sent.content_type))
			sent.content_type = service->values.codec;
		struct svc_publishing event = {topic, &sent, &why};
		struct publish_step first = {service, 0};
		code = run_publish_wrap(&event, &first);
	}
	if (code != SVC_OK && err != NULL) {
		*err = why;
		err->code = code;
		if (err->text[0] == '\0') /* a wrapper said no more */
			svc_error_set(err, code, "%s", svc_err_text(code));
	}
	return code;
}

svc_err
svc_publish(struct svc_service *service, const char *topic,
    const struct svc_message *message)
{
	return svc_publish_detail(service, topic, message, NULL);
}

/* ---------------------------------------------- the host of a p2p broker */

static struct svc_advertised **
find_advertised(struct svc_events *events, const char *topic, const char *queue)
{
	struct svc_advertised **at = &events->advertised;
	while (*at != NULL && (strcmp((*at)->topic, topic) != 0 ||
				  strcmp((*at)->queue, queue) != 0))
		at = &(*at)->next;
	return at;
}

static svc_err
host_advertise(void *self, const char *topic, const char *queue, bool on,
    struct svc_error *err)
{
	struct svc_service *service = self;
	struct svc_events *events = &service->events;
	queue = queue != NULL ? queue : "";
	struct svc_advertised *made = NULL;
	if (on) {
		made = svc_mem_calloc(1, sizeof(*made));
		if (made != NULL) {
			made->topic = svc_mem_strdup(topic);
			made->queue = svc_mem_strdup(queue);
		}
		if (made == NULL || made->topic == NULL ||
		    made->queue == NULL) {
			if (made != NULL)
				free_advertised(made);
			return svc_error_set(err, SVC_E_NOMEM, "out of memory");
		}
	}
	pthread_mutex_lock(&events->lock);
	struct svc_advertised **at = find_advertised(events, topic, queue);
	struct svc_advertised *unused = made;
	if (on && *at == NULL) {
		/* Topics descending, as go-micro has them. */
		at = &events->advertised;
		while (*at != NULL && strcmp((*at)->topic, topic) > 0)
			at = &(*at)->next;
		made->next = *at;
		*at = made;
		unused = NULL;
	} else if (!on && *at != NULL) {
		unused = *at;
		*at = unused->next;
	}
	pthread_mutex_unlock(&events->lock);
	if (unused != NULL)
		free_advertised(unused);
	svc_registrar_again(&service->registrar);
	return SVC_OK;
}

svc_err
svc_events_each(struct svc_service *service,
    svc_err (*each)(const char *topic, const char *queue, void *arg), void *arg)
{
	/* `each` only builds a record: it calls nothing that could come back.
	 */
	struct svc_events *events = &service->events;
	svc_err code = SVC_OK;
	pthread_mutex_lock(&events->lock);
	for (struct svc_advertised *at = events->advertised;
	     at != NULL && code == SVC_OK; at = at->next)
		code = each(at->topic, at->queue, arg);
	pthread_mutex_unlock(&events->lock);
	return code;
}

static svc_err
get_peers(struct svc_service *service, struct svc_peers **ret_peers,
    struct svc_error *err)
{
	struct svc_events *events = &service->events;
	pthread_mutex_lock(&events->lock);
	struct svc_peers *peers = events->peers;
	pthread_mutex_unlock(&events->lock);
	if (peers == NULL) {
		svc_err code = svc_peers_create(service, &peers, err);
		if (code != SVC_OK)
			return code;
		pthread_mutex_lock(&events->lock);
		struct svc_peers *first = events->peers;
		if (first == NULL)
			events->peers = peers;
		pthread_mutex_unlock(&events->lock);
		if (first != NULL) {
			svc_peers_destroy(peers);
			peers = first;
		}
	}
	*ret_peers = peers;
	return SVC_OK;
}

struct own_peers { /* queues of this node that subscribe to the topic */
	const char *topic;
	char **queues;
	size_t n;
};

static svc_err
collect_own(const char *topic, const char *queue, void *arg)
{
	struct own_peers *own = arg;
	if (strcmp(topic, own->topic) != 0)
		return SVC_OK;
	char **grown =
	    svc_mem_realloc(own->queues, (own->n + 1) * sizeof(char *));
	if (grown == NULL)
		return SVC_E_NOMEM;
	own->queues = grown;
	grown[own->n] = svc_mem_strdup(queue);
	return grown[own->n++] != NULL ? SVC_OK : SVC_E_NOMEM;
}

static svc_err
host_peers(void *self, const char *topic,
    void (*each)(const struct svc_broker_peer *peer, void *arg), void *arg,
    struct svc_error *err)
{
	struct svc_service *service = self;
	struct svc_peers *peers;
	svc_err code = get_peers(service, &peers, err);
	if (code != SVC_OK)
		return code;
	/* This node's own need no registry. */
	struct own_peers own = {.topic = topic};
	code = svc_events_each(service, collect_own, &own);
	if (code != SVC_OK)
		svc_error_set(err, code, "out of memory");
	for (size_t i = 0; i < own.n; i++) {
		struct svc_broker_peer peer = {
		    service->values.id, own.queues[i]};
		if (code == SVC_OK)
			each(&peer, arg);
		svc_mem_free(own.queues[i]);
	}
	svc_mem_free(own.queues);
	if (code != SVC_OK)
		return code;
	return svc_peers_each(peers, topic,
	    svc_deadline(service->values.request_timeout_ms), each, arg, err);
}

static svc_err
host_deliver(void *self, const char *node_id, const char *queue,
    const char *topic, const struct svc_message *message, int64_t timeout_ms,
    struct svc_error *err)
{
	struct svc_service *service = self;
	queue = queue != NULL ? queue : "";
	if (strcmp(node_id, service->values.id) == 0)
		return svc_broker_receive(
		    service->broker, queue, topic, message, err);
	struct svc_peers *peers;
	svc_err code = get_peers(service, &peers, err);
	if (code != SVC_OK)
		return code;
	struct svc_part event = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .endpoint = SVC_EVENT_ENDPOINT,
	    .content_type = message->content_type,
	    .headers = message->headers,
	    .data = message->data,
	    .len = message->len,
	};
	/* Without a queue the headers are mostly complete as they are. */
	const char *said = svc_headers_get(message->headers, SVC_TOPIC_HEADER);
	struct svc_headers *headers = NULL;
	if (queue[0] != '\0' || said == NULL || strcmp(said, topic) != 0) {
		headers = svc_headers_copy(message->headers);
		code = headers != NULL
			   ? svc_headers_set(headers, SVC_TOPIC_HEADER, topic)
			   : SVC_E_NOMEM;
		if (code == SVC_OK && queue[0] != '\0')
			code =
			    svc_headers_set(headers, SVC_QUEUE_HEADER, queue);
		event.headers = headers;
	}
	if (code == SVC_OK)
		code =
		    svc_peers_deliver(peers, node_id, &event, timeout_ms, err);
	else
		svc_error_set(
		    err, code, "topic or queue: %s", svc_err_text(code));
	svc_headers_destroy(headers);
	return code;
}

svc_err
svc_event_receive(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	(void)rsp;
	const char *topic = svc_headers_get(req->headers, SVC_TOPIC_HEADER);
	const char *queue = svc_headers_get(req->headers, SVC_QUEUE_HEADER);
	if (topic == NULL)
		return svc_fail(call, SVC_E_INVAL,
		    "an event needs the header " SVC_TOPIC_HEADER);
	struct svc_error err = {0};
	svc_err code = svc_broker_receive(call->service->broker,
	    queue != NULL ? queue : "", topic, req, &err);
	return code == SVC_OK ? code : svc_fail(call, code, "%s", err.text);
}
