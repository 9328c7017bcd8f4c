/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_BROKER_H
#define SVC_BROKER_H

#include <svc/message.h>
#include <svc/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SVC_BROKER_ABI SVC_ABI(5, 1)

/** Handles one event; the message lives only for the call. SVC_OK
 * acknowledges; anything else asks for redelivery. It may block. */
typedef svc_err (*svc_broker_handler)(
    const char *topic, const struct svc_message *message, void *arg);

/**
 * What a broker without a server asks of the service it lives in: to find the
 * services that subscribe and to carry an event to one of them. Every function
 * from any thread; they may block.
 */
struct svc_broker_peer {
	const char *node_id; /* borrowed for the call */
	const char *queue;   /* "" for a subscriber without a queue */
};
struct svc_broker_host {
	void *self;
	/** Make it known (through the registry) that this service subscribes,
	 * or no longer does. Called once per (topic, queue). */
	svc_err (*advertise)(void *self, const char *topic, const char *queue,
	    bool on, struct svc_error *err);
	/** Calls `each` for every (node, queue) that subscribes to the topic
	 * now, this service's own included. */
	svc_err (*peers)(void *self, const char *topic,
	    void (*each)(const struct svc_broker_peer *peer, void *arg),
	    void *arg, struct svc_error *err);
	/** Carry an event to that node's `receive` and return its answer.
	 * Errors: SVC_E_NOT_FOUND (the node is gone), SVC_E_UNAVAILABLE,
	 * SVC_E_TIMEDOUT, or what the handler answered */
	svc_err (*deliver)(void *self, const char *node_id, const char *queue,
	    const char *topic, const struct svc_message *message,
	    int64_t timeout_ms, struct svc_error *err);
};

struct svc_broker_config {
	const char *address;   /* as the user gave it, NULL for the default */
	const char *client_id; /* unique, e.g. the node's id */
	const char *username;  /* NULL when there is none */
	const char *password;
	int64_t timeout_ms;  /* the longest one op may take */
	int64_t max_message; /* bytes of one event */
	size_t max_queued;   /* publishes that may wait for a lost connection */
	const struct svc_broker_host *host; /* borrowed until destroy */
};
/* svc_broker_create fills in what is 0 or NULL: a random client_id, 5 s, 64
 * MiB, 1,000. A plugin always gets these set. */

#define SVC_PUBLISH_NOWAIT 1u /* fail with SVC_E_AGAIN instead of waiting */

/**
 * What a broker plugin provides: static const, never freed.
 *
 * Promises, proved by tests/conformance/broker.c: at least once where the
 * broker can: a handler's failure means redelivery, and a publish that returned
 * SVC_OK survives a restart of the broker. A lost connection is resumed with
 * its subscriptions. Each queue gets each event once, each subscriber without
 * a queue gets every event. Events of one publisher on one topic arrive in
 * order as long as nothing is redelivered. Payloads that do not decode are
 * skipped, counted and logged once.
 *
 * Threads: every op from any thread, concurrently, except destroy.
 * Handlers run on threads where they may block; one subscription's handler
 * runs once at a time.
 */
struct svc_broker_ops {
	uint32_t abi;
	uint32_t size;
	const char *name;

	/** Make an instance; nothing is connected yet.
	 * Errors: SVC_E_INVAL (a bad address: say what is allowed), SVC_E_NOMEM
	 */
	svc_err (*create)(const struct svc_broker_config *config,
	    void **ret_self, struct svc_error *err);
	/** Disconnects; no handler runs after it. */
	void (*destroy)(void *self);
	/** Connect, and stay connected until destroy. A broker that is not
	 * there yet is SVC_E_UNAVAILABLE: it goes on trying by itself. */
	svc_err (*connect)(void *self, struct svc_error *err);
	/** Publish one event; waits until the broker has it. While the
	 * connection is lost it waits (up to timeout_ms).
	 * Errors: SVC_E_INVAL (topic), SVC_E_EXHAUSTED (size), SVC_E_AGAIN
	 * (told not to wait, or too many wait already), SVC_E_UNAVAILABLE (no
	 * connection all that time), SVC_E_TIMEDOUT (the broker may have it),
	 * SVC_E_DENIED, SVC_E_NOMEM */
	svc_err (*publish)(void *self, const char *topic,
	    const struct svc_message *message, unsigned flags,
	    struct svc_error *err);
	/** `queue` NULL or "" for none. It is remembered and made as soon as
	 * there is a connection; waits for it up to timeout_ms when there is.
	 * Errors: SVC_E_INVAL (topic), SVC_E_UNIMPLEMENTED (this broker has no
	 * queues), SVC_E_DENIED, SVC_E_NOMEM */
	svc_err (*subscribe)(void *self, const char *topic, const char *queue,
	    svc_broker_handler handler, void *arg, void **ret_subscription,
	    struct svc_error *err);
	/** The handler does not run after this returns. Not from a handler. */
	void (*unsubscribe)(void *self, void *subscription);

	/** An event that host->deliver of a peer carried here. Optional: only
	 * for brokers without a server. Returns the handler's answer;
	 * SVC_E_NOT_FOUND when nobody subscribes here. */
	svc_err (*receive)(void *self, const char *queue, const char *topic,
	    const struct svc_message *message, struct svc_error *err);
};

extern SVC_API const struct svc_interface svc_broker_interface;
/** Events within this process; instances of one address (default "default")
 * share their topics. */
extern SVC_API const struct svc_broker_ops svc_broker_memory;

/** A made broker: checks topics and queues (1 to 255 bytes of UTF-8 without
 * control characters, '+' and '#') and sizes before the plugin sees them. To
 * each event it adds the headers Micro-Topic and, unless there is one already,
 * Micro-Id (a UUID); a redelivered event has the same id again. */
struct svc_broker;
struct svc_subscription;
/** Errors: of svc_catalogue_find and of the plugin's create */
SVC_API svc_err svc_broker_create(const char *plugin,
    const struct svc_broker_config *config, struct svc_broker **ret_broker,
    struct svc_error *err);
SVC_API svc_err svc_broker_create_ops(const struct svc_broker_ops *ops,
    const struct svc_broker_config *config, struct svc_broker **ret_broker,
    struct svc_error *err);
/** Ends its subscriptions first. NULL is fine. */
SVC_API void svc_broker_destroy(struct svc_broker *broker);
SVC_API const char *svc_broker_name(const struct svc_broker *broker);
/** As the ops of these names. */
SVC_API svc_err svc_broker_connect(
    struct svc_broker *broker, struct svc_error *err);
SVC_API svc_err svc_broker_publish(struct svc_broker *broker, const char *topic,
    const struct svc_message *message, unsigned flags, struct svc_error *err);
SVC_API svc_err svc_broker_subscribe(struct svc_broker *broker,
    const char *topic, const char *queue, svc_broker_handler handler, void *arg,
    struct svc_subscription **ret_subscription, struct svc_error *err);
SVC_API void svc_broker_unsubscribe(struct svc_subscription *subscription);
/** Errors: also SVC_E_UNIMPLEMENTED (the plugin takes no events from peers) */
SVC_API svc_err svc_broker_receive(struct svc_broker *broker, const char *queue,
    const char *topic, const struct svc_message *message,
    struct svc_error *err);

/** go-micro's JSON form of an event, {"Header":{...},"Body":"base64"}, as its
 * MQTT and NATS brokers carry it. The content type is the header
 * "Content-Type". */
SVC_API svc_err svc_event_encode(
    const struct svc_message *message, char **ret_json, size_t *ret_len);
/** A decoded event; `message` points into it. */
struct svc_event_data {
	struct svc_message message;
	void *storage;
};
/** Errors: SVC_E_INVAL with what was wrong, SVC_E_NOMEM */
SVC_API svc_err svc_event_decode(const void *data, size_t len,
    struct svc_event_data *ret_event, struct svc_error *err);
SVC_API void svc_event_data_fini(struct svc_event_data *event);

#ifdef __cplusplus
}
#endif
#endif
