/* SPDX-License-Identifier: Apache-2.0 */
/* Events within this process. A hub is what all instances of one address share;
 * `hubs_lock` guards the list of hubs and their counts, `lock` of a hub its
 * groups. Neither is held while an inbox is waited for. */
#include <svc/broker.h>
#include <svc/clock.h>
#include <svc/inbox.h>

#include <string.h>

/* One subscriber without a queue, or all of one queue. */
struct group {
	struct group *next;
	char *topic;
	char *queue;
	struct svc_inbox *inbox;
	size_t n_members;
	size_t n_users; /* members and publishers that hold it */
};

struct hub {
	struct hub *next;
	char *address;
	size_t n_instances; /* under hubs_lock */
	pthread_mutex_t lock;
	struct group *groups;
};

struct memory {
	struct hub *hub;
	int64_t timeout_ms;
};

struct subscription {
	struct group *group;
	struct svc_inbox_member *member;
};

static pthread_mutex_t hubs_lock = PTHREAD_MUTEX_INITIALIZER;
static struct hub *hubs;

static struct hub *
hub_get(const char *address)
{
	pthread_mutex_lock(&hubs_lock);
	struct hub *hub = hubs;
	while (hub != NULL && strcmp(hub->address, address) != 0)
		hub = hub->next;
	if (hub == NULL) {
		hub = svc_mem_calloc(1, sizeof(*hub));
		if (hub != NULL)
			hub->address = svc_mem_strdup(address);
		if (hub != NULL && hub->address == NULL) {
			svc_mem_free(hub);
			hub = NULL;
		}
		if (hub != NULL) {
			pthread_mutex_init(&hub->lock, NULL);
			hub->next = hubs;
			hubs = hub;
		}
	}
	if (hub != NULL)
		hub->n_instances++;
	pthread_mutex_unlock(&hubs_lock);
	return hub;
}

static void
hub_put(struct hub *hub)
{
	pthread_mutex_lock(&hubs_lock);
	bool last = --hub->n_instances == 0;
	if (last) {
		struct hub **at = &hubs;
		while (*at != hub)
			at = &(*at)->next;
		*at = hub->next;
	}
	pthread_mutex_unlock(&hubs_lock);
	if (!last)
		return;
	pthread_mutex_destroy(&hub->lock);
	svc_mem_free(hub->address);
	svc_mem_free(hub);
}

static svc_err
memory_create(const struct svc_broker_config *config, void **ret_self,
    struct svc_error *err)
{
	struct memory *memory = svc_mem_calloc(1, sizeof(*memory));
	if (memory == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	memory->timeout_ms = config->timeout_ms;
	memory->hub =
	    hub_get(config->address != NULL ? config->address : "default");
	if (memory->hub == NULL) {
		svc_mem_free(memory);
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	}
	*ret_self = memory;
	return SVC_OK;
}

static void
memory_destroy(void *self)
{
	struct memory *memory = self;
	hub_put(memory->hub);
	svc_mem_free(memory);
}

static svc_err
memory_connect(void *self, struct svc_error *err)
{
	(void)self;
	(void)err;
	return SVC_OK;
}

static void
group_free(struct group *group)
{
	svc_inbox_destroy(group->inbox);
	svc_mem_free(group->topic);
	svc_mem_free(group->queue);
	svc_mem_free(group);
}

static void
group_unref(struct hub *hub, struct group *group)
{
	pthread_mutex_lock(&hub->lock);
	bool last = --group->n_users == 0;
	pthread_mutex_unlock(&hub->lock);
	if (last)
		group_free(group);
}

static svc_err
memory_publish(void *self, const char *topic, const struct svc_message *message,
    unsigned flags, struct svc_error *err)
{
	struct memory *memory = self;
	struct hub *hub = memory->hub;
	int64_t deadline_at_ms = svc_deadline(
	    (flags & SVC_PUBLISH_NOWAIT) != 0 ? 0 : memory->timeout_ms);
	svc_err rc = SVC_OK;

	pthread_mutex_lock(&hub->lock);
	size_t n = 0;
	for (struct group *g = hub->groups; g != NULL; g = g->next)
		n += strcmp(g->topic, topic) == 0;
	struct group **found = svc_mem_calloc(n + 1, sizeof(struct group *));
	size_t filled = 0;
	for (struct group *g = hub->groups; found != NULL && g != NULL;
	     g = g->next) {
		if (strcmp(g->topic, topic) == 0) {
			g->n_users++;
			found[filled++] = g;
		}
	}
	pthread_mutex_unlock(&hub->lock);
	if (found == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");

	for (size_t i = 0; i < filled; i++) {
		svc_err put = svc_inbox_put(
		    found[i]->inbox, topic, message, deadline_at_ms);
		/* Closed: its subscribers have just gone. */
		if (put != SVC_OK && put != SVC_E_CLOSED && rc == SVC_OK)
			rc = put;
		group_unref(hub, found[i]);
	}
	svc_mem_free(found);
	if (rc == SVC_E_TIMEDOUT && (flags & SVC_PUBLISH_NOWAIT) != 0)
		return svc_error_set(
		    err, SVC_E_AGAIN, "the subscribers' queue is full");
	if (rc == SVC_E_TIMEDOUT)
		return svc_error_set(err, rc,
		    "the subscribers' queue stayed full for %lld ms",
		    (long long)memory->timeout_ms);
	return rc == SVC_OK ? SVC_OK
			    : svc_error_set(err, rc, "%s", svc_err_text(rc));
}

/* A group nobody sees yet, or NULL. */
static struct group *
group_create(const char *topic, const char *queue)
{
	struct group *group = svc_mem_calloc(1, sizeof(*group));
	if (group == NULL)
		return NULL;
	group->topic = svc_mem_strdup(topic);
	group->queue = svc_mem_strdup(queue);
	struct svc_inbox_config config = {.name = topic};
	if (group->topic == NULL || group->queue == NULL ||
	    svc_inbox_create(&config, &group->inbox) != SVC_OK) {
		group_free(group);
		return NULL;
	}
	return group;
}

/* True for the last member: nobody finds the group any more. */
static bool
group_leave(struct hub *hub, struct group *group)
{
	pthread_mutex_lock(&hub->lock);
	bool last = --group->n_members == 0;
	if (last) {
		struct group **at = &hub->groups;
		while (*at != group)
			at = &(*at)->next;
		*at = group->next;
	}
	pthread_mutex_unlock(&hub->lock);
	if (last)
		svc_inbox_close(group->inbox);
	return last;
}

static svc_err
memory_subscribe(void *self, const char *topic, const char *queue,
    svc_broker_handler handler, void *arg, void **ret_subscription,
    struct svc_error *err)
{
	struct memory *memory = self;
	struct hub *hub = memory->hub;
	struct subscription *subscription =
	    svc_mem_calloc(1, sizeof(*subscription));
	struct group *made = group_create(topic, queue);
	if (subscription == NULL || made == NULL) {
		svc_mem_free(subscription);
		if (made != NULL)
			group_free(made);
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	}

	struct group *group = NULL;
	pthread_mutex_lock(&hub->lock);
	struct group **end = &hub->groups;
	for (; *end != NULL; end = &(*end)->next) {
		if (queue[0] != '\0' && strcmp((*end)->queue, queue) == 0 &&
		    strcmp((*end)->topic, topic) == 0)
			group = *end;
	}
	if (group == NULL) {
		group = made;
		*end = made;
		made = NULL;
	}
	group->n_members++;
	group->n_users++;
	pthread_mutex_unlock(&hub->lock);
	if (made != NULL)
		group_free(made);

	subscription->group = group;
	svc_err rc =
	    svc_inbox_join(group->inbox, handler, arg, &subscription->member);
	if (rc != SVC_OK) {
		group_leave(hub, group);
		group_unref(hub, group);
		svc_mem_free(subscription);
		return svc_error_set(
		    err, rc, "no thread for the subscriber of topic %s", topic);
	}
	*ret_subscription = subscription;
	return SVC_OK;
}

static void
memory_unsubscribe(void *self, void *handle)
{
	struct memory *memory = self;
	struct subscription *subscription = handle;
	struct group *group = subscription->group;
	/* What was accepted is handled, unless the handler is too slow. */
	if (group_leave(memory->hub, group))
		(void)svc_inbox_drain(
		    group->inbox, svc_deadline(memory->timeout_ms));
	svc_inbox_leave(subscription->member);
	group_unref(memory->hub, group);
	svc_mem_free(subscription);
}

const struct svc_broker_ops svc_broker_memory = {
    .abi = SVC_BROKER_ABI,
    .size = sizeof(struct svc_broker_ops),
    .name = "memory",
    .create = memory_create,
    .destroy = memory_destroy,
    .connect = memory_connect,
    .publish = memory_publish,
    .subscribe = memory_subscribe,
    .unsubscribe = memory_unsubscribe,
};
