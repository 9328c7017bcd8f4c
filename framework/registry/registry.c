/* SPDX-License-Identifier: Apache-2.0 */
#include "record.h"
#include "registry_private.h"

#include <svc/log.h>

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <utlist.h>

/* --------------------------------------------------------- the interface */

static const struct svc_required required[] = {
    SVC_REQUIRED(struct svc_registry_ops, create),
    SVC_REQUIRED(struct svc_registry_ops, destroy),
    SVC_REQUIRED(struct svc_registry_ops, announce),
    SVC_REQUIRED(struct svc_registry_ops, withdraw),
    SVC_REQUIRED(struct svc_registry_ops, lookup),
    SVC_REQUIRED(struct svc_registry_ops, list),
    {NULL, 0},
};

static const void *const embedded[] = {&svc_registry_memory, NULL};

const struct svc_interface svc_registry_interface = {
    .name = "registry",
    .abi = SVC_REGISTRY_ABI,
    .min_size = offsetof(struct svc_registry_ops, watch),
    .required = required,
    .embedded = embedded,
};

/* -------------------------------------------------------- making, ending */

static bool
is_word_of(const char *words, const char *word)
{
	size_t len = strlen(word);
	while (*words != '\0') {
		size_t n = strcspn(words, " ");
		if (n == len && strncasecmp(words, word, n) == 0)
			return true;
		words += n + (words[n] == ' ');
	}
	return false;
}

static uint32_t
uses_of(const struct svc_registry_ops *ops)
{
	return SVC_OPS_HAS(ops, uses) ? ops->uses : 0;
}

/* That the plugin makes use of all that it is given. */
static svc_err
config_check(const struct svc_registry_ops *ops,
    const struct svc_registry_config *config, struct svc_error *err)
{
	const char *known = SVC_OPS_HAS(ops, options) ? ops->options : "";
	uint32_t uses = uses_of(ops);
	const char *key, *value;
	char quoted[64];
	for (size_t i = 0; svc_headers_at(config->options, i, &key, &value);
	     i++) {
		if (is_word_of(known, key))
			continue;
		svc_log_quote(key, strlen(key), quoted, sizeof(quoted));
		if (*known == '\0')
			return svc_error_set(err, SVC_E_INVAL,
			    "registry %s has no options, but %s was given",
			    ops->name, quoted);
		return svc_error_set(err, SVC_E_INVAL,
		    "registry %s has no option %s; allowed: %s", ops->name,
		    quoted, known);
	}
	if (config->tls != NULL && (uses & SVC_REGISTRY_TLS) == 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "registry %s cannot speak TLS: leave out registry_tls_ca, "
		    "registry_tls_cert and registry_tls_key",
		    ops->name);
	return SVC_OK;
}

svc_err
svc_registry_create(const char *plugin,
    const struct svc_registry_config *config,
    struct svc_registry **ret_registry, struct svc_error *err)
{
	const void *ops = NULL;
	svc_err rc =
	    svc_catalogue_find(&svc_registry_interface, plugin, &ops, err);
	if (rc != SVC_OK)
		return rc;
	return svc_registry_create_ops(ops, config, ret_registry, err);
}

svc_err
svc_registry_create_ops(const struct svc_registry_ops *ops,
    const struct svc_registry_config *config,
    struct svc_registry **ret_registry, struct svc_error *err)
{
	struct svc_registry_config full = {0};
	if (config != NULL)
		full = *config;
	if (full.timeout_ms <= 0)
		full.timeout_ms = TIMEOUT_DEFAULT_MS;
	if (full.grace_ms <= 0)
		full.grace_ms = GRACE_DEFAULT_MS;
	svc_err rc = svc_catalogue_check(&svc_registry_interface, ops, err);
	if (rc == SVC_OK)
		rc = config_check(ops, &full, err);
	if (rc != SVC_OK)
		return rc;
	struct svc_registry *registry = svc_mem_calloc(1, sizeof(*registry));
	if (registry == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry %s", ops->name);
	registry->ops = ops;
	registry->grace_ms = full.grace_ms;
	registry->timeout_ms = full.timeout_ms;
	rc = ops->create(&full, &registry->self, err);
	if (rc != SVC_OK) {
		svc_mem_free(registry);
		return rc;
	}
	pthread_mutex_init(&registry->lock, NULL);
	rc = fallback_open(registry, &full, err);
	if (rc != SVC_OK) {
		svc_registry_destroy(registry);
		return rc;
	}
	*ret_registry = registry;
	return SVC_OK;
}

void
svc_registry_destroy(struct svc_registry *registry)
{
	if (registry == NULL)
		return;
	while (registry->watches != NULL)
		svc_registry_unwatch(registry->watches);
	registry->ops->destroy(registry->self);
	fallback_close(registry);
	pthread_mutex_destroy(&registry->lock);
	svc_mem_free(registry);
}

const char *
svc_registry_name(const struct svc_registry *registry)
{
	return registry->ops->name;
}

uint32_t
svc_registry_uses(const struct svc_registry *registry)
{
	return uses_of(registry->ops);
}

/* ------------------------------------------------------------ announcing */

static svc_err
one_node_check(const struct svc_record *record, struct svc_error *err)
{
	svc_err rc = svc_record_check(record, err);
	if (rc == SVC_OK && record->n_nodes != 1)
		return svc_error_set(err, SVC_E_INVAL,
		    "service %s has %zu nodes: exactly one is announced or "
		    "withdrawn at a time",
		    record->name, record->n_nodes);
	return rc;
}

svc_err
svc_registry_announce_within(struct svc_registry *registry,
    const struct svc_record *record, int64_t ttl_ms, int64_t timeout_ms,
    struct svc_error *err)
{
	const struct svc_registry_ops *ops = registry->ops;
	svc_err rc = one_node_check(record, err);
	if (rc != SVC_OK)
		return rc;
	if (ttl_ms <= 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "the TTL is %lld ms: it must be positive",
		    (long long)ttl_ms);
	if (!SVC_OPS_HAS(ops, announce_within))
		return ops->announce(registry->self, record, ttl_ms, err);
	return ops->announce_within(registry->self, record, ttl_ms,
	    timeout_ms > 0 ? timeout_ms : 1, err);
}

svc_err
svc_registry_announce(struct svc_registry *registry,
    const struct svc_record *record, int64_t ttl_ms, struct svc_error *err)
{
	return svc_registry_announce_within(
	    registry, record, ttl_ms, registry->timeout_ms, err);
}

svc_err
svc_registry_withdraw_within(struct svc_registry *registry,
    const struct svc_record *record, int64_t timeout_ms, struct svc_error *err)
{
	const struct svc_registry_ops *ops = registry->ops;
	svc_err rc = one_node_check(record, err);
	if (rc != SVC_OK)
		return rc;
	if (!SVC_OPS_HAS(ops, withdraw_within))
		return ops->withdraw(registry->self, record, err);
	return ops->withdraw_within(
	    registry->self, record, timeout_ms > 0 ? timeout_ms : 1, err);
}

svc_err
svc_registry_withdraw(struct svc_registry *registry,
    const struct svc_record *record, struct svc_error *err)
{
	return svc_registry_withdraw_within(
	    registry, record, registry->timeout_ms, err);
}

/* ---------------------------------------------------------------- asking */

void
collect(const struct svc_record *record, void *arg)
{
	struct collector *collector = arg;
	if (collector->no_memory || text_equal(record->name, "") ||
	    (collector->service != NULL &&
		!text_equal(collector->service, record->name)))
		return;
	if (collector->n == collector->cap) {
		size_t cap = collector->cap > 0 ? collector->cap * 2 : 16;
		void *more = svc_mem_realloc(
		    collector->records, cap * sizeof(struct svc_record *));
		if (more == NULL) {
			collector->no_memory = true;
			return;
		}
		collector->records = more;
		collector->cap = cap;
	}
	struct svc_record *copy = svc_record_copy(record);
	if (copy == NULL)
		collector->no_memory = true;
	else
		collector->records[collector->n++] = copy;
}

void
collector_fini(struct collector *collector)
{
	for (size_t i = 0; i < collector->n; i++)
		svc_record_destroy(collector->records[i]);
	svc_mem_free(collector->records);
	*collector = (struct collector){0};
}

void
svc_record_list_fini(struct svc_record_list *list)
{
	if (list == NULL)
		return;
	for (size_t i = 0; i < list->n_records; i++)
		svc_record_destroy(list->records[i]);
	svc_mem_free(list->records);
	*list = (struct svc_record_list){0};
}

static int
group_compare(const struct svc_record *a, const struct svc_record *b)
{
	int order = text_compare(a->name, b->name);
	return order != 0 ? order : text_compare(a->version, b->version);
}

/* A record and where in the answer it came: the first of a group describes
 * the service, the last with an id describes the node. */
struct ranked {
	struct svc_record *record;
	size_t rank;
};

static int
ranked_compare(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	int order = group_compare(x->record, y->record);
	return order != 0 ? order : (x->rank > y->rank) - (x->rank < y->rank);
}

struct ranked_node {
	struct svc_node node;
	size_t rank;
};

static int
node_compare(const void *a, const void *b)
{
	const struct ranked_node *x = a, *y = b;
	int order = text_compare(x->node.id, y->node.id);
	return order != 0 ? order : (x->rank > y->rank) - (x->rank < y->rank);
}

/* One record of the `n` at `first`, which are of one name and version. */
static struct svc_record *
merge(const struct ranked *first, size_t n)
{
	struct svc_record *merged = NULL;
	size_t count = 0, used = 0;
	for (size_t i = 0; i < n; i++)
		count += first[i].record->n_nodes;
	struct ranked_node *ranked = svc_mem_calloc(count, sizeof(*ranked));
	struct svc_node *nodes = svc_mem_calloc(count, sizeof(*nodes));
	if (count > 0 && (ranked == NULL || nodes == NULL))
		goto out;
	count = 0;
	for (size_t i = 0; i < n; i++) {
		const struct svc_record *record = first[i].record;
		for (size_t k = 0; k < record->n_nodes; k++) {
			if (text_equal(record->nodes[k].id, ""))
				continue;
			ranked[count].node = record->nodes[k];
			ranked[count].rank = count;
			count++;
		}
	}
	if (count > 0)
		qsort(ranked, count, sizeof(*ranked), node_compare);
	for (size_t i = 0; i < count; i++)
		if (i + 1 == count ||
		    !text_equal(ranked[i].node.id, ranked[i + 1].node.id))
			nodes[used++] = ranked[i].node;
	struct svc_record whole = *first->record;
	whole.nodes = nodes;
	whole.n_nodes = used;
	merged = svc_record_copy(&whole);
out:
	svc_mem_free(ranked);
	svc_mem_free(nodes);
	return merged;
}

/* Groups what was collected; both are emptied or owned by the list. */
static svc_err
group(struct collector *collector, struct svc_record_list *ret_list,
    struct svc_error *err)
{
	struct svc_record_list list = {0};
	struct ranked *ranked = NULL;
	size_t n = collector->n;
	bool ok = !collector->no_memory;
	if (ok && n > 0) {
		ranked = svc_mem_calloc(n, sizeof(*ranked));
		list.records = svc_mem_calloc(n, sizeof(struct svc_record *));
		ok = ranked != NULL && list.records != NULL;
	}
	if (ok && n > 0) {
		for (size_t i = 0; i < n; i++)
			ranked[i] = (struct ranked){collector->records[i], i};
		qsort(ranked, n, sizeof(*ranked), ranked_compare);
	}
	for (size_t i = 0, end; ok && i < n; i = end) {
		end = i + 1;
		while (end < n &&
		       group_compare(ranked[i].record, ranked[end].record) == 0)
			end++;
		struct svc_record *merged = merge(&ranked[i], end - i);
		if (merged != NULL)
			list.records[list.n_records++] = merged;
		else
			ok = false;
	}
	svc_mem_free(ranked);
	if (!ok) {
		svc_record_list_fini(&list);
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for the registry's answer");
	}
	*ret_list = list;
	return SVC_OK;
}

/* A record without nodes says that nobody provides it. */
static void
drop_empty(struct svc_record_list *list)
{
	size_t kept = 0;
	for (size_t i = 0; i < list->n_records; i++) {
		if (list->records[i]->n_nodes > 0)
			list->records[kept++] = list->records[i];
		else
			svc_record_destroy(list->records[i]);
	}
	list->n_records = kept;
}

/* For the snapshot: what an answer has is there. What it has not is gone,
 * unless a watch keeps it for a while. */
static bool
is_listed(const char *service, const char *id, void *arg)
{
	const struct svc_record_list *list = arg;
	(void)service;
	for (size_t i = 0; i < list->n_records; i++)
		for (size_t k = 0; k < list->records[i]->n_nodes; k++)
			if (text_equal(list->records[i]->nodes[k].id, id))
				return true;
	return false;
}

static bool
is_watched(struct svc_registry *registry, const char *service)
{
	const struct svc_watch *watch;
	pthread_mutex_lock(&registry->lock);
	DL_FOREACH2(registry->watches, watch, after)
	if (watch->feed->service == NULL ||
	    text_equal(watch->feed->service, service))
		break;
	pthread_mutex_unlock(&registry->lock);
	return watch != NULL;
}

static void
learn(struct svc_registry *registry, const char *service,
    struct svc_record_list *list)
{
	fallback_answered(registry);
	if (registry->snapshot == NULL)
		return;
	for (size_t i = 0; i < list->n_records; i++)
		snapshot_put(registry->snapshot, list->records[i]);
	if (service != NULL && !is_watched(registry, service))
		snapshot_sweep(registry->snapshot, service, is_listed, list);
}

/* Asks the registry, and when that is away what else there is. */
static svc_err
ask(struct svc_registry *registry, const char *service,
    struct svc_record_list *ret_list, struct svc_error *err)
{
	const struct svc_registry_ops *ops = registry->ops;
	struct collector collector = {.service = service};
	struct svc_record_list list = {0};
	struct svc_error why = {0};
	svc_err rc = service != NULL
			 ? ops->lookup(registry->self, service, collect,
			       &collector, &why)
			 : ops->list(registry->self, collect, &collector, &why);
	bool away = fallback_is_for(registry, rc);
	if (away) {
		fallback_away(registry, why.text);
		collector_fini(&collector);
		collector.service = service;
		rc = fallback_ask(registry, service, collect, &collector, rc);
		if (rc == SVC_E_NOMEM)
			svc_error_set(&why, rc,
			    "no memory for what was known of the registry");
	}
	if (rc == SVC_OK)
		rc = group(&collector, &list, &why);
	collector_fini(&collector);
	if (rc != SVC_OK) {
		if (err != NULL)
			*err = why;
		return rc;
	}
	if (!away)
		learn(registry, service, &list);
	*ret_list = list;
	return SVC_OK;
}

svc_err
svc_registry_lookup(struct svc_registry *registry, const char *service,
    struct svc_record_list *ret_list, struct svc_error *err)
{
	struct svc_record_list list = {0};
	svc_err rc = svc_service_name_check(service, err);
	if (rc == SVC_OK)
		rc = ask(registry, service, &list, err);
	if (rc != SVC_OK)
		return rc;
	drop_empty(&list);
	if (list.n_records == 0) {
		svc_record_list_fini(&list);
		return svc_error_set(err, SVC_E_NOT_FOUND,
		    "registry %s knows no node of service \"%s\"",
		    registry->ops->name, service);
	}
	*ret_list = list;
	return SVC_OK;
}

svc_err
svc_registry_list(struct svc_registry *registry,
    struct svc_record_list *ret_list, struct svc_error *err)
{
	return ask(registry, NULL, ret_list, err);
}
