/* SPDX-License-Identifier: Apache-2.0 */
/* A broker without a server: events go from node to node over the services'
 * own transport. This file has the subscribing side. `lock` guards everything
 * in struct p2p and is never held while the host or a handler is called. */
#include "p2p.h"

#include <string.h>

static svc_err
p2p_create(const struct svc_broker_config *config, void **ret_self,
    struct svc_error *err)
{
	if (config->host == NULL || config->host->peers == NULL ||
	    config->host->deliver == NULL || config->host->advertise == NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "broker p2p works only inside a service, which finds its "
		    "peers");
	if (config->address != NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "broker p2p takes no address: peers are found through the "
		    "registry");
	struct p2p *p2p = svc_mem_calloc(1, sizeof(*p2p));
	if (p2p == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	p2p->node_id = svc_mem_strdup(config->client_id);
	if (p2p->node_id == NULL) {
		svc_mem_free(p2p);
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	}
	p2p->host = config->host;
	p2p->timeout_ms = config->timeout_ms;
	pthread_mutex_init(&p2p->lock, NULL);
	svc_cond_init(&p2p->changed);
	*ret_self = p2p;
	return SVC_OK;
}

static void
local_free(struct local *local)
{
	svc_mem_free(local->topic);
	svc_mem_free(local->queue);
	svc_mem_free(local);
}

static void
p2p_destroy(void *self)
{
	struct p2p *p2p = self;
	while (p2p->turns != NULL) {
		struct turn *turn = p2p->turns;
		p2p->turns = turn->next;
		svc_mem_free(turn->topic);
		svc_mem_free(turn->queue);
		svc_mem_free(turn);
	}
	while (p2p->locals != NULL) {
		struct local *local = p2p->locals;
		p2p->locals = local->next;
		local_free(local);
	}
	pthread_cond_destroy(&p2p->changed);
	pthread_mutex_destroy(&p2p->lock);
	svc_mem_free(p2p->node_id);
	svc_mem_free(p2p);
}

static svc_err
p2p_connect(void *self, struct svc_error *err)
{
	(void)self;
	(void)err;
	return SVC_OK;
}

size_t
p2p_turn(struct p2p *p2p, const char *topic, const char *queue)
{
	pthread_mutex_lock(&p2p->lock);
	struct turn *turn = p2p->turns;
	while (turn != NULL && (strcmp(turn->topic, topic) != 0 ||
				   strcmp(turn->queue, queue) != 0))
		turn = turn->next;
	if (turn == NULL) {
		turn = svc_mem_calloc(1, sizeof(*turn));
		if (turn != NULL) {
			turn->topic = svc_mem_strdup(topic);
			turn->queue = svc_mem_strdup(queue);
			turn->n = (size_t)svc_random_below(1000);
		}
		if (turn != NULL &&
		    (turn->topic == NULL || turn->queue == NULL)) {
			svc_mem_free(turn->topic);
			svc_mem_free(turn->queue);
			svc_mem_free(turn);
			turn = NULL;
		}
		if (turn != NULL) {
			turn->next = p2p->turns;
			p2p->turns = turn;
		}
	}
	size_t n = turn != NULL ? turn->n++ : (size_t)svc_random_below(1000);
	pthread_mutex_unlock(&p2p->lock);
	return n;
}

static bool
is_of(const struct local *local, const char *topic, const char *queue)
{
	return !local->gone && strcmp(local->topic, topic) == 0 &&
	       strcmp(local->queue, queue) == 0;
}

/* Runs one handler, once at a time. Called with the lock, which is let go
 * meanwhile; the caller counts as a user of `local`. */
static svc_err
run_local(struct p2p *p2p, struct local *local, const char *topic,
    const struct svc_message *message, int64_t deadline_at_ms,
    struct svc_error *err)
{
	while (local->busy && !local->gone) {
		if (svc_cond_wait(&p2p->changed, &p2p->lock, deadline_at_ms) !=
			SVC_OK &&
		    local->busy)
			return svc_error_set(err, SVC_E_TIMEDOUT,
			    "the handler of topic %s is still busy with an "
			    "earlier event",
			    topic);
	}
	if (local->gone)
		return svc_error_set(err, SVC_E_NOT_FOUND,
		    "the subscription to topic %s has ended", topic);
	local->busy = true;
	local->runner = pthread_self();
	pthread_mutex_unlock(&p2p->lock);
	svc_err rc = local->handler(topic, message, local->arg);
	pthread_mutex_lock(&p2p->lock);
	local->busy = false;
	pthread_cond_broadcast(&p2p->changed);
	if (rc != SVC_OK)
		return svc_error_set(err, rc, "the handler of topic %s: %s",
		    topic, svc_err_text(rc));
	return SVC_OK;
}

static void
local_unuse(struct p2p *p2p, struct local *local)
{
	if (--local->n_users == 0 && local->gone)
		pthread_cond_broadcast(&p2p->changed);
}

/* The member of a queue to run: one that is free if there is one. */
static struct local *
pick_member(struct p2p *p2p, const char *topic, const char *queue)
{
	struct local *first = NULL;
	for (struct local *l = p2p->locals; l != NULL; l = l->next) {
		if (!is_of(l, topic, queue))
			continue;
		if (!l->busy && l->n_users == 0)
			return l;
		if (first == NULL || l->n_users < first->n_users)
			first = l;
	}
	return first;
}

svc_err
p2p_deliver_here(struct p2p *p2p, const char *queue, const char *topic,
    const struct svc_message *message, int64_t deadline_at_ms,
    struct svc_error *err)
{
	size_t n_run = 0;
	svc_err result = SVC_OK;
	pthread_mutex_lock(&p2p->lock);
	if (queue[0] != '\0') {
		struct local *local = pick_member(p2p, topic, queue);
		if (local != NULL) {
			n_run++;
			local->n_users++;
			result = run_local(
			    p2p, local, topic, message, deadline_at_ms, err);
			local_unuse(p2p, local);
		}
	} else {
		/* A local that is used stays in the list, so going on from it
		 * is safe. */
		struct local *l = p2p->locals;
		while (l != NULL) {
			if (!is_of(l, topic, "")) {
				l = l->next;
				continue;
			}
			l->n_users++;
			svc_err rc = run_local(p2p, l, topic, message,
			    deadline_at_ms, result == SVC_OK ? err : NULL);
			struct local *next = l->next;
			local_unuse(p2p, l);
			l = next;
			if (rc == SVC_E_NOT_FOUND)
				continue;
			n_run++;
			if (result == SVC_OK)
				result = rc;
		}
	}
	pthread_mutex_unlock(&p2p->lock);
	if (n_run == 0)
		return svc_error_set(err, SVC_E_NOT_FOUND,
		    "nobody subscribes to topic %s here", topic);
	return result;
}

static svc_err
p2p_receive(void *self, const char *queue, const char *topic,
    const struct svc_message *message, struct svc_error *err)
{
	struct p2p *p2p = self;
	return p2p_deliver_here(
	    p2p, queue, topic, message, svc_deadline(p2p->timeout_ms), err);
}

/* How many handlers (topic, queue) has. Called with the lock. */
static size_t
count(const struct p2p *p2p, const char *topic, const char *queue)
{
	size_t n = 0;
	for (const struct local *l = p2p->locals; l != NULL; l = l->next)
		n += is_of(l, topic, queue);
	return n;
}

/* Called with the lock: waits until nobody else is telling the host. */
static void
begin_advertising(struct p2p *p2p)
{
	while (p2p->advertising)
		(void)svc_cond_wait(&p2p->changed, &p2p->lock, INT64_MAX);
	p2p->advertising = true;
}

static void
end_advertising(struct p2p *p2p)
{
	p2p->advertising = false;
	pthread_cond_broadcast(&p2p->changed);
}

/* Takes it out of the list once nobody uses it. Called with the lock. */
static void
remove_local(struct p2p *p2p, struct local *local)
{
	local->gone = true;
	pthread_cond_broadcast(&p2p->changed);
	while (local->n_users > 0)
		(void)svc_cond_wait(&p2p->changed, &p2p->lock, INT64_MAX);
	struct local **at = &p2p->locals;
	while (*at != local)
		at = &(*at)->next;
	*at = local->next;
}

static svc_err
p2p_subscribe(void *self, const char *topic, const char *queue,
    svc_broker_handler handler, void *arg, void **ret_subscription,
    struct svc_error *err)
{
	struct p2p *p2p = self;
	struct local *local = svc_mem_calloc(1, sizeof(*local));
	if (local == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	local->topic = svc_mem_strdup(topic);
	local->queue = svc_mem_strdup(queue);
	if (local->topic == NULL || local->queue == NULL) {
		local_free(local);
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	}
	local->handler = handler;
	local->arg = arg;

	svc_err rc = SVC_OK;
	pthread_mutex_lock(&p2p->lock);
	begin_advertising(p2p);
	bool first = count(p2p, topic, queue) == 0;
	/* First the handler, then the news of it. */
	struct local **end = &p2p->locals;
	while (*end != NULL)
		end = &(*end)->next;
	*end = local;
	if (first) {
		pthread_mutex_unlock(&p2p->lock);
		rc = p2p->host->advertise(
		    p2p->host->self, topic, queue, true, err);
		pthread_mutex_lock(&p2p->lock);
	}
	if (rc != SVC_OK)
		remove_local(p2p, local);
	end_advertising(p2p);
	pthread_mutex_unlock(&p2p->lock);
	if (rc != SVC_OK)
		local_free(local);
	else
		*ret_subscription = local;
	return rc;
}

static void
p2p_unsubscribe(void *self, void *subscription)
{
	struct p2p *p2p = self;
	struct local *local = subscription;
	pthread_mutex_lock(&p2p->lock);
	begin_advertising(p2p);
	if (count(p2p, local->topic, local->queue) == 1) {
		pthread_mutex_unlock(&p2p->lock);
		/* If that fails peers will find nobody here, which is an
		 * answer too. */
		(void)p2p->host->advertise(
		    p2p->host->self, local->topic, local->queue, false, NULL);
		pthread_mutex_lock(&p2p->lock);
	}
	end_advertising(p2p);
	remove_local(p2p, local);
	pthread_mutex_unlock(&p2p->lock);
	local_free(local);
}

static const struct svc_broker_ops p2p_ops = {
    .abi = SVC_BROKER_ABI,
    .size = sizeof(struct svc_broker_ops),
    .name = "p2p",
    .create = p2p_create,
    .destroy = p2p_destroy,
    .connect = p2p_connect,
    .publish = p2p_publish,
    .subscribe = p2p_subscribe,
    .unsubscribe = p2p_unsubscribe,
    .receive = p2p_receive,
};
SVC_PLUGIN(p2p_ops);
