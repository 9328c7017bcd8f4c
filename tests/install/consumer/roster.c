/* SPDX-License-Identifier: Apache-2.0 */
/* A registry plugin made outside the project: a list in memory, guarded by one
 * lock. It has no watch, so the framework polls it. */
#include <svc/registry.h>

#include <pthread.h>
#include <string.h>

#define ROSTER_MAX 64

struct roster {
	pthread_mutex_t lock;                   /* guards what follows */
	struct svc_record *records[ROSTER_MAX]; /* one node each; no gaps */
	size_t n;
};

static svc_err
roster_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	(void)config;
	struct roster *self = svc_mem_calloc(1, sizeof(*self));
	if (self == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "roster: out of memory");
	pthread_mutex_init(&self->lock, NULL);
	*ret_self = self;
	return SVC_OK;
}

static void
roster_destroy(void *arg)
{
	struct roster *self = arg;
	while (self->n > 0)
		svc_record_destroy(self->records[--self->n]);
	pthread_mutex_destroy(&self->lock);
	svc_mem_free(self);
}

/* The place of the node in the list, or its end. With the lock. */
static size_t
place(const struct roster *self, const struct svc_record *record)
{
	size_t i = 0;
	while (
	    i < self->n &&
	    (strcmp(self->records[i]->nodes[0].id, record->nodes[0].id) != 0 ||
		strcmp(self->records[i]->name, record->name) != 0))
		i++;
	return i;
}

static svc_err
roster_announce(void *arg, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	struct roster *self = arg;
	(void)ttl_ms; /* the list lives no longer than its process */
	struct svc_record *copy = svc_record_copy(record);
	if (copy == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "roster: out of memory");
	pthread_mutex_lock(&self->lock);
	size_t i = place(self, record);
	if (i == ROSTER_MAX) {
		pthread_mutex_unlock(&self->lock);
		svc_record_destroy(copy);
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "roster: holds %d nodes and no more", ROSTER_MAX);
	}
	struct svc_record *old = NULL;
	if (i < self->n)
		old = self->records[i];
	else
		self->n++;
	self->records[i] = copy;
	pthread_mutex_unlock(&self->lock);
	svc_record_destroy(old);
	return SVC_OK;
}

static svc_err
roster_withdraw(
    void *arg, const struct svc_record *record, struct svc_error *err)
{
	struct roster *self = arg;
	(void)err;
	struct svc_record *old = NULL;
	pthread_mutex_lock(&self->lock);
	size_t i = place(self, record);
	if (i < self->n) {
		old = self->records[i];
		self->records[i] = self->records[--self->n];
	}
	pthread_mutex_unlock(&self->lock);
	svc_record_destroy(old);
	return SVC_OK;
}

/* Copies what fits out of the list, so that the sink runs without the lock. */
static svc_err
report(struct roster *self, const char *service, svc_record_sink sink,
    void *sink_arg, struct svc_error *err)
{
	struct svc_record *found[ROSTER_MAX];
	size_t n = 0;
	bool whole = true;
	pthread_mutex_lock(&self->lock);
	for (size_t i = 0; i < self->n && whole; i++) {
		if (service != NULL &&
		    strcmp(self->records[i]->name, service) != 0)
			continue;
		found[n] = svc_record_copy(self->records[i]);
		whole = found[n] != NULL;
		if (whole)
			n++;
	}
	pthread_mutex_unlock(&self->lock);
	for (size_t i = 0; i < n; i++) {
		if (whole)
			sink(found[i], sink_arg);
		svc_record_destroy(found[i]);
	}
	if (!whole)
		return svc_error_set(err, SVC_E_NOMEM, "roster: out of memory");
	return SVC_OK;
}

static svc_err
roster_lookup(void *arg, const char *service, svc_record_sink sink,
    void *sink_arg, struct svc_error *err)
{
	return report(arg, service, sink, sink_arg, err);
}

static svc_err
roster_list(
    void *arg, svc_record_sink sink, void *sink_arg, struct svc_error *err)
{
	return report(arg, NULL, sink, sink_arg, err);
}

static const struct svc_registry_ops roster_ops = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "roster",
    .create = roster_create,
    .destroy = roster_destroy,
    .announce = roster_announce,
    .withdraw = roster_withdraw,
    .lookup = roster_lookup,
    .list = roster_list,
};
SVC_PLUGIN(roster_ops);
