/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_BROKER_P2P_H
#define SVC_BROKER_P2P_H

#include <svc/broker.h>
#include <svc/clock.h>

/* One handler of ours. It stays until it is gone and nobody uses it. */
struct local {
	struct local *next;
	char *topic;
	char *queue;
	svc_broker_handler handler;
	void *arg;
	size_t n_users;
	bool gone;
	bool busy;
	pthread_t runner; /* while busy */
};

/* Whose turn it is in a queue. */
struct turn {
	struct turn *next;
	char *topic;
	char *queue;
	size_t n;
};

struct p2p {
	const struct svc_broker_host *host;
	char *node_id;
	int64_t timeout_ms;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct local *locals;
	struct turn *turns;
	bool advertising; /* one call of host->advertise at a time */
};

/* The op of this name. */
svc_err p2p_publish(void *self, const char *topic,
    const struct svc_message *message, unsigned flags, struct svc_error *err);
/* Runs our own handlers, waiting for busy ones until the deadline. */
svc_err p2p_deliver_here(struct p2p *p2p, const char *queue, const char *topic,
    const struct svc_message *message, int64_t deadline_at_ms,
    struct svc_error *err);
/* A number that grows with each event for this queue. */
size_t p2p_turn(struct p2p *p2p, const char *topic, const char *queue);

#endif
