/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_BROKER_MQTT_H
#define SVC_BROKER_MQTT_H

#include <svc/broker.h>
#include <svc/clock.h>
#include <svc/inbox.h>

#include <MQTTAsync.h>

/*
 * Two connections. Paho acknowledges an event when its callback returns, and
 * that callback must not block: all clients of a process share its thread. So
 * the only way to stop the flow while handlers are slow is to disconnect and
 * let the server keep the events in the session. That must not stop what we
 * publish, which therefore has a connection of its own.
 */

/* A handler of ours, or the handlers of one queue, with what waits for them. */
struct box {
	struct box *next; /* in its group */
	struct mqtt *mqtt;
	struct svc_inbox *inbox;
	size_t n_members; /* that are not leaving */
	size_t n_users;   /* all that hold it */
	bool full;
};

/* One subscription at the server. */
struct group {
	struct group *next;
	char *topic;
	char *queue;
	char *filter;      /* with $share/QUEUE/ */
	int id;            /* MQTT 5 subscription identifier */
	struct box *boxes; /* at most one for a queue */
	size_t n_staying;  /* members that are not leaving */
	size_t n_users;    /* all calls and members that hold it */
	bool on_server;    /* it may be there */
	bool busy;         /* an answer is awaited */
	unsigned made_in;  /* the connection in which it was acknowledged */
	unsigned refused_in;
	struct svc_error refusal;
};

enum link_state { LINK_DOWN, LINK_UP };

struct link {
	struct mqtt *mqtt;
	bool inbound;
	char *client_id;
	bool running;
	bool stop;
	pthread_t thread;
	pthread_cond_t changed; /* something for the thread to do */

	enum link_state state;
	unsigned generation; /* counts connections; of this one while up */
	MQTTAsync handle;
	const char *uri; /* of the latest connection */
	size_t n_users;  /* threads inside of paho with the handle */
	bool lost;
	/* Outbound, after a loss: publishing waits a little longer, because a
	 * server that was started again may have forgotten subscriptions, and
	 * those who had them are on their way back too. */
	bool settling;
	int64_t settled_at_ms;
	char lost_reason[64];
	int version;
	bool has_ids;        /* server knows subscription identifiers */
	bool has_shared;     /* and shared subscriptions */
	uint32_t max_packet; /* 0: none known */

	/* of the attempt going on */
	bool answered;
	int code;
	char reason[96];

	bool failed_once;     /* all addresses were tried in vain */
	struct svc_error why; /* it is down */
};

/* A publish that waits for the server; one reference is its thread's, one
 * paho's. */
struct pending {
	struct pending *next, **at;
	struct mqtt *mqtt;
	int n_refs;
	pthread_cond_t changed;
	enum { PENDING_IDLE, PENDING_SENT, PENDING_DONE } state;
	int code; /* reason code when done */
};

struct mqtt {
	char **uris;
	size_t n_uris;
	char *client_id;
	char *username;
	char *password;
	int64_t timeout_ms;
	size_t max_queued;

	pthread_mutex_t lock; /* guards all below and both links */
	pthread_cond_t changed;
	bool stopping;
	bool connecting; /* connect was called */
	struct link out, in;
	bool speaks_5;      /* the server was seen to */
	bool only_speaks_4; /* it was seen not to */
	struct group *groups;
	int next_id;
	struct pending *pendings;
	size_t n_waiting; /* publishes without a connection */
	size_t n_full;    /* boxes */

	/* said by the inbound thread, because paho's must not log */
	size_t n_undecodable, n_unmatched;
	bool said_undecodable, said_unmatched;
	struct svc_error undecodable;
	char unmatched[80];
};

/* Splits and checks "tcp://a:1883,b"; NULL is the default. */
svc_err mqtt_addresses_parse(
    const char *text, char ***ret_uris, size_t *ret_n, struct svc_error *err);
void mqtt_addresses_free(char **uris, size_t n);

/* Starts the thread that makes and keeps the connection. Called with the
 * lock. */
svc_err mqtt_link_start(struct link *link);
/* Ends it; not with the lock. */
void mqtt_link_stop(struct link *link);
/* The events that paho hands over. */
int mqtt_on_message(
    void *context, char *topic, int topic_len, MQTTAsync_message *message);
/* Called with the lock, which is let go for a while: brings one subscription
 * at the server into line. False when there was nothing to do. */
bool mqtt_reconcile(struct mqtt *mqtt);
/* Whether the server has all of our subscriptions. Called with the lock. */
bool mqtt_has_subscriptions(struct mqtt *mqtt);
/* Before anything else of paho's, without any lock. False when there is no
 * memory. */
bool mqtt_start_paho(void);
/* Makes paho look at its sockets now. Called without any lock. */
void mqtt_wake_paho(void);
/* Called with the lock. */
void mqtt_wake_pendings(struct mqtt *mqtt);
/* Whether it is connected. Called with the lock. */
bool mqtt_link_is_up(const struct link *link);

/* The op of this name. */
svc_err mqtt_publish(void *self, const char *topic,
    const struct svc_message *message, unsigned flags, struct svc_error *err);
/* What a reason code of the server means for a topic. */
svc_err mqtt_refusal(int code, const char *topic, struct svc_error *err);
/* Errors: SVC_E_INVAL, for what MQTT keeps for itself */
svc_err mqtt_check_topic(const char *topic, struct svc_error *err);

static inline svc_err
mqtt_no_memory(struct svc_error *err)
{
	return svc_error_set(err, SVC_E_NOMEM, "out of memory");
}

#endif
