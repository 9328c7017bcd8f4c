/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nodes that subscribe to events, from a watch of the whole registry, and
 * the connections to them.
 *
 * `lock` guards the table. A peer does not change once it is in it: an update
 * puts a new one in its place, which takes the connection over when the
 * address is the same. Nothing is called under the lock; who uses a peer holds
 * a reference.
 */
#include "service.h"

#include <string.h>

#define BUCKETS 1024

struct peer_sub {
	char *topic, *queue;
};
struct peer {
	_Atomic int refs;
	struct peer *next; /* of the same bucket */
	char *node_id, *service, *transport, *address;
	char *refusal; /* why it cannot be called; NULL: it can */
	struct peer_sub *subs;
	size_t n_subs;
	/* Made on first use; shared with the peer that replaces this one. */
	_Atomic(struct svc_link *) link;
};
struct svc_peers {
	struct svc_service *service;
	struct svc_watch *watch;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool synced;
	struct peer *buckets[BUCKETS];
};

static size_t
bucket_of(const char *id)
{
	uint32_t h = 2166136261u;
	for (; *id != '\0'; id++)
		h = (h ^ (uint8_t)*id) * 16777619u;
	return h % BUCKETS;
}

static void
peer_unref(struct peer *peer)
{
	if (peer == NULL || atomic_fetch_sub(&peer->refs, 1) != 1)
		return;
	for (size_t i = 0; i < peer->n_subs; i++) {
		svc_mem_free(peer->subs[i].topic);
		svc_mem_free(peer->subs[i].queue);
	}
	svc_mem_free(peer->subs);
	svc_mem_free(peer->node_id);
	svc_mem_free(peer->service);
	svc_mem_free(peer->transport);
	svc_mem_free(peer->address);
	svc_mem_free(peer->refusal);
	svc_link_unref(atomic_load(&peer->link));
	svc_mem_free(peer);
}

static const char *
subscribed_topic(const struct svc_endpoint *endpoint)
{
	const char *said = svc_headers_get(endpoint->metadata, "subscriber");
	if (said == NULL || strcmp(said, "true") != 0)
		return NULL;
	return svc_headers_get(endpoint->metadata, "topic");
}

/* A peer, or NULL when the node subscribes to nothing (SVC_OK). */
static svc_err
peer_create(struct svc_peers *peers, const struct svc_record *record,
    struct peer **ret_peer)
{
	const struct svc_node *node = &record->nodes[0];
	const struct svc_values *v = &peers->service->values;
	*ret_peer = NULL;
	size_t n = 0;
	for (size_t i = 0; i < record->n_endpoints; i++)
		n += subscribed_topic(&record->endpoints[i]) != NULL;
	const char *broker = svc_headers_get(node->metadata, "broker");
	if (n == 0 || broker == NULL || strcmp(broker, v->broker) != 0)
		return SVC_OK;
	const char *transport = svc_headers_get(node->metadata, "transport");
	struct peer *peer = svc_mem_calloc(1, sizeof(*peer));
	if (peer == NULL)
		return SVC_E_NOMEM;
	atomic_init(&peer->refs, 1);
	peer->node_id = svc_mem_strdup(node->id);
	peer->service = svc_mem_strdup(record->name);
	peer->address = svc_mem_strdup(node->address);
	peer->transport = svc_mem_strdup(
	    transport != NULL && transport[0] != '\0' ? transport
						      : v->transport);
	peer->subs = svc_mem_calloc(n, sizeof(*peer->subs));
	bool good = peer->node_id != NULL && peer->service != NULL &&
		    peer->address != NULL && peer->transport != NULL &&
		    peer->subs != NULL;
	struct svc_error why = {0};
	if (good && svc_tls_check(peers->service, node, peer->transport,
			&why) != SVC_OK) {
		peer->refusal = svc_mem_strdup(why.text);
		good = peer->refusal != NULL;
	}
	for (size_t i = 0; good && i < record->n_endpoints; i++) {
		const struct svc_endpoint *e = &record->endpoints[i];
		const char *topic = subscribed_topic(e);
		if (topic == NULL)
			continue;
		const char *queue = svc_headers_get(e->metadata, "queue");
		struct peer_sub *sub = &peer->subs[peer->n_subs++];
		sub->topic = svc_mem_strdup(topic);
		sub->queue = svc_mem_strdup(queue != NULL ? queue : "");
		good = sub->topic != NULL && sub->queue != NULL;
	}
	if (!good) {
		peer_unref(peer);
		return SVC_E_NOMEM;
	}
	*ret_peer = peer;
	return SVC_OK;
}

static void
replace(struct svc_peers *peers, const char *id, struct peer *peer)
{
	pthread_mutex_lock(&peers->lock);
	struct peer **at = &peers->buckets[bucket_of(id)];
	while (*at != NULL && strcmp((*at)->node_id, id) != 0)
		at = &(*at)->next;
	struct peer *old = *at;
	if (old != NULL)
		*at = old->next;
	if (peer != NULL) {
		peer->next = peers->buckets[bucket_of(id)];
		peers->buckets[bucket_of(id)] = peer;
	}
	if (old != NULL && peer != NULL &&
	    strcmp(old->address, peer->address) == 0 &&
	    strcmp(old->transport, peer->transport) == 0) {
		struct svc_link *link = atomic_load(&old->link);
		if (link != NULL) {
			svc_link_ref(link);
			atomic_store(&peer->link, link);
		}
	}
	pthread_mutex_unlock(&peers->lock);
	peer_unref(old);
}

static void
on_change(svc_change change, const struct svc_record *record, void *arg)
{
	struct svc_peers *peers = arg;
	if (change == SVC_SYNCED) {
		pthread_mutex_lock(&peers->lock);
		peers->synced = true;
		pthread_cond_broadcast(&peers->changed);
		pthread_mutex_unlock(&peers->lock);
		return;
	}
	if (record->n_nodes == 0)
		return;
	const char *id = record->nodes[0].id;
	/* The service knows its own subscriptions better. */
	if (strcmp(id, peers->service->values.id) == 0)
		return;
	struct peer *peer = NULL;
	if (change != SVC_REMOVED &&
	    peer_create(peers, record, &peer) != SVC_OK) {
		svc_log(SVC_LOG_ERROR, "events.nomem",
		    "out of memory: node %s gets no events", id);
		peer = NULL;
	}
	replace(peers, id, peer);
}

svc_err
svc_peers_create(struct svc_service *service, struct svc_peers **ret_peers,
    struct svc_error *err)
{
	struct svc_peers *peers = svc_mem_calloc(1, sizeof(*peers));
	if (peers == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	peers->service = service;
	pthread_mutex_init(&peers->lock, NULL);
	svc_cond_init(&peers->changed);
	svc_err code = svc_registry_watch(
	    service->registry, NULL, on_change, peers, &peers->watch, err);
	if (code != SVC_OK) {
		svc_peers_destroy(peers);
		return code;
	}
	*ret_peers = peers;
	return SVC_OK;
}

void
svc_peers_destroy(struct svc_peers *peers)
{
	if (peers == NULL)
		return;
	svc_registry_unwatch(peers->watch);
	for (size_t i = 0; i < BUCKETS; i++) {
		struct peer *peer = peers->buckets[i];
		while (peer != NULL) {
			struct peer *next = peer->next;
			peer_unref(peer);
			peer = next;
		}
	}
	pthread_mutex_destroy(&peers->lock);
	pthread_cond_destroy(&peers->changed);
	svc_mem_free(peers);
}

/* -------------------------------------------------------------------- use */

struct match {
	struct peer *peer;
	const char *queue; /* in the peer */
};

/* The matches of a topic, with references; the lock is held. */
static bool
collect(struct svc_peers *peers, const char *topic, struct match **ret_matches,
    size_t *ret_n)
{
	struct match *matches = NULL;
	size_t n = 0, cap = 0;
	bool good = true;
	for (size_t i = 0; good && i < BUCKETS; i++) {
		struct peer *peer = peers->buckets[i];
		for (; peer != NULL; peer = peer->next) {
			for (size_t k = 0; k < peer->n_subs; k++) {
				if (strcmp(peer->subs[k].topic, topic) != 0)
					continue;
				if (n == cap) {
					cap = 2 * cap + 8;
					struct match *grown = svc_mem_realloc(
					    matches, cap * sizeof(*matches));
					if (grown == NULL) {
						good = false;
						break;
					}
					matches = grown;
				}
				atomic_fetch_add(&peer->refs, 1);
				matches[n++] =
				    (struct match){peer, peer->subs[k].queue};
			}
		}
	}
	*ret_matches = matches;
	*ret_n = n;
	return good;
}

svc_err
svc_peers_each(struct svc_peers *peers, const char *topic,
    int64_t deadline_at_ms,
    void (*each)(const struct svc_broker_peer *peer, void *arg), void *arg,
    struct svc_error *err)
{
	pthread_mutex_lock(&peers->lock);
	while (!peers->synced) {
		if (svc_cond_wait(&peers->changed, &peers->lock,
			deadline_at_ms) == SVC_E_TIMEDOUT)
			break;
	}
	if (!peers->synced) {
		pthread_mutex_unlock(&peers->lock);
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "registry %s has not said yet who subscribes",
		    peers->service->values.registry);
	}
	struct match *matches;
	size_t n;
	bool good = collect(peers, topic, &matches, &n);
	pthread_mutex_unlock(&peers->lock);
	for (size_t i = 0; i < n; i++) {
		struct svc_broker_peer peer = {
		    matches[i].peer->node_id, matches[i].queue};
		if (good)
			each(&peer, arg);
		peer_unref(matches[i].peer);
	}
	svc_mem_free(matches);
	return good ? SVC_OK : svc_error_set(err, SVC_E_NOMEM, "out of memory");
}

static svc_err
link_of(struct svc_peers *peers, struct peer *peer, struct svc_link **ret_link,
    struct svc_error *err)
{
	struct svc_link *link = atomic_load(&peer->link);
	if (peer->refusal != NULL)
		return svc_error_set(
		    err, SVC_E_UNAVAILABLE, "%s", peer->refusal);
	if (link == NULL) {
		struct svc_link *made;
		svc_err code = svc_link_create(
		    peers->service, peer->transport, peer->address, &made, err);
		if (code != SVC_OK)
			return code;
		if (atomic_compare_exchange_strong(&peer->link, &link, made))
			link = made;
		else
			svc_link_unref(made);
	}
	*ret_link = link;
	return SVC_OK;
}

svc_err
svc_peers_deliver(struct svc_peers *peers, const char *node_id,
    const struct svc_part *event, int64_t timeout_ms, struct svc_error *err)
{
	pthread_mutex_lock(&peers->lock);
	struct peer *peer = peers->buckets[bucket_of(node_id)];
	while (peer != NULL && strcmp(peer->node_id, node_id) != 0)
		peer = peer->next;
	if (peer != NULL)
		atomic_fetch_add(&peer->refs, 1);
	pthread_mutex_unlock(&peers->lock);
	if (peer == NULL)
		return svc_error_set(
		    err, SVC_E_NOT_FOUND, "node %s is gone", node_id);
	struct svc_link *link = NULL;
	svc_err code = link_of(peers, peer, &link, err);
	if (code == SVC_OK) {
		struct svc_part first = *event;
		first.service = peer->service;
		first.timeout_ms = timeout_ms;
		struct svc_dial_time dial_time = {timeout_ms, 1};
		struct svc_reply reply;
		struct svc_error why;
		why.text[0] = '\0';
		svc_link_exchange(link, &first, svc_deadline(timeout_ms),
		    &dial_time, NULL, &reply, &why);
		code = reply.result.code;
		svc_reply_fini(&reply);
		if (code != SVC_OK)
			svc_error_set(err, code, "%s", why.text);
	}
	peer_unref(peer);
	return code;
}
