/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches. Those of the same service share a feed: the plugin's watch and the
 * difference engine between its events and the watchers. A thread polls for
 * plugins without watch. Another one, the helper, is made when there is
 * something for it: it takes away the nodes a registry did not repeat after a
 * break, and tells those who join a feed what is there.
 *
 * Lock: feed.lock guards busy, ending, answered and the newcomers. Whoever sets
 * busy has the turn: the engine, the list of watches and the right to call them
 * are his until he clears it, so no lock is held during a callback. The
 * registry's lock, which guards its watches and how many a feed has, is never
 * taken inside it.
 */
#include "diff.h"
#include "record.h"
#include "registry_private.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <utlist.h>

void
turn_take(struct feed *feed)
{
	pthread_mutex_lock(&feed->lock);
	while (feed->busy)
		svc_cond_wait(&feed->cond, &feed->lock, INT64_MAX);
	feed->busy = true;
	pthread_mutex_unlock(&feed->lock);
}

void
turn_give(struct feed *feed)
{
	pthread_mutex_lock(&feed->lock);
	feed->busy = false;
	pthread_cond_broadcast(&feed->cond);
	pthread_mutex_unlock(&feed->lock);
}

/* False when the watch ends. */
static bool
sleep_until(struct feed *feed, int64_t at_ms)
{
	pthread_mutex_lock(&feed->lock);
	while (!feed->ending && svc_now_ms() < at_ms)
		svc_cond_wait(&feed->cond, &feed->lock, at_ms);
	bool go_on = !feed->ending;
	pthread_mutex_unlock(&feed->lock);
	return go_on;
}

static void
log_no_memory(const struct feed *feed)
{
	svc_log(SVC_LOG_ERROR, "registry.memory",
	    "no memory to keep a node of %s: it is tried again",
	    feed->service != NULL ? feed->service : "the registry");
}

/* ------------------------------------------------------ for the snapshot */

static bool
is_told(const char *service, const char *id, void *arg)
{
	return diff_has(arg, service, id);
}

static void
remember(struct feed *feed, const struct svc_record *record)
{
	if (feed->registry->snapshot != NULL)
		snapshot_put(feed->registry->snapshot, record);
}

/* With the turn: a full state is complete. */
static void
note_answer(struct feed *feed)
{
	struct svc_registry *registry = feed->registry;
	if (registry->snapshot != NULL)
		snapshot_sweep(
		    registry->snapshot, feed->service, is_told, &feed->diff);
	fallback_answered(registry);
	pthread_mutex_lock(&feed->lock);
	feed->answered = true;
	pthread_cond_broadcast(&feed->cond);
	pthread_mutex_unlock(&feed->lock);
}

/* What the watchers are told to be gone is gone. */
static void
on_change(svc_change change, const struct svc_record *record, void *arg)
{
	struct feed *feed = arg;
	const struct svc_watch *watch;
	if (change == SVC_REMOVED && feed->answered &&
	    feed->registry->snapshot != NULL)
		snapshot_remove(feed->registry->snapshot, record);
	DL_FOREACH (feed->watches, watch)
		watch->cb(change, record, watch->cb_arg);
}

/* ------------------------------------------------------------------ nodes */

/*
 * With the turn, in the plugin's thread. A plugin tells of a node once, so when
 * memory is short it is tried until there is some; what the plugin has to tell
 * after that waits with it.
 */
static void
keep_node(struct feed *feed, const struct svc_record *record)
{
	bool said = false, go_on = true;
	remember(feed, record);
	while (go_on && diff_node(&feed->diff, record) != SVC_OK) {
		if (!said)
			log_no_memory(feed);
		int64_t again_at_ms = said ? svc_deadline(RETRY_MS) : 0;
		said = true;
		go_on = sleep_until(feed, again_at_ms);
	}
}

/* ----------------------------------------------------------- the helper */

/* With the turn. */
static void
greet(struct feed *feed)
{
	for (;;) {
		pthread_mutex_lock(&feed->lock);
		struct svc_watch *watch = feed->newcomers;
		if (watch != NULL) {
			DL_DELETE(feed->newcomers, watch);
			watch->is_new = false;
		}
		pthread_mutex_unlock(&feed->lock);
		if (watch == NULL)
			return;
		DL_APPEND(feed->watches, watch);
		diff_repeat(&feed->diff, watch->cb, watch->cb_arg);
	}
}

static void *
helper_run(void *arg)
{
	struct feed *feed = arg;
	pthread_mutex_lock(&feed->lock);
	while (!feed->ending) {
		/* The engine may be looked at only while nobody has the turn,
		 * and who gives it back signals. */
		int64_t at_ms = feed->busy ? INT64_MAX
				: feed->newcomers != NULL
				    ? 0
				    : diff_next_at(&feed->diff);
		if (at_ms > svc_now_ms()) {
			svc_cond_wait(&feed->cond, &feed->lock, at_ms);
			continue;
		}
		feed->busy = true;
		pthread_mutex_unlock(&feed->lock);
		greet(feed);
		diff_expire(&feed->diff, false);
		turn_give(feed);
		pthread_mutex_lock(&feed->lock);
	}
	pthread_mutex_unlock(&feed->lock);
	return NULL;
}

static svc_err
helper_start(struct feed *feed)
{
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&feed->lock);
	if (!feed->has_helper)
		rc = svc_thread_start(
		    &feed->helper, "svc-reg-helper", helper_run, feed);
	feed->has_helper = rc == SVC_OK;
	pthread_mutex_unlock(&feed->lock);
	return rc;
}

/* With the turn. */
static void
expire_later(struct feed *feed)
{
	if (diff_next_at(&feed->diff) == INT64_MAX ||
	    helper_start(feed) == SVC_OK)
		return;
	svc_log(SVC_LOG_WARN, "registry.grace",
	    "no thread to wait for nodes that the registry did not repeat: "
	    "they are removed at once");
	diff_expire(&feed->diff, true);
}

static void
on_event(svc_watch_event event, const struct svc_record *record, void *arg)
{
	struct feed *feed = arg;
	turn_take(feed);
	switch (event) {
	case SVC_WATCH_BEGIN:
		diff_begin(&feed->diff);
		break;
	case SVC_WATCH_NODE:
		keep_node(feed, record);
		break;
	case SVC_WATCH_GONE:
		diff_gone(&feed->diff, record);
		break;
	case SVC_WATCH_SYNC:
		diff_sync(&feed->diff, feed->registry->grace_ms);
		note_answer(feed);
		expire_later(feed);
		break;
	}
	turn_give(feed);
}

/* --------------------------------------------------------------- polling */

static bool
poll_once(struct feed *feed, struct collector *found, struct svc_error *err)
{
	const struct svc_registry_ops *ops = feed->registry->ops;
	void *self = feed->registry->self;
	struct collector names = {0};
	svc_err rc;
	found->service = feed->service;
	if (feed->service != NULL) {
		rc = ops->lookup(self, feed->service, collect, found, err);
	} else {
		rc = ops->list(self, collect, &names, err);
		for (size_t i = 0; rc == SVC_OK && i < names.n; i++) {
			const struct svc_record *record = names.records[i];
			if (record->n_nodes > 0)
				collect(record, found);
			else
				rc = ops->lookup(
				    self, record->name, collect, found, err);
		}
	}
	if (rc == SVC_OK && (found->no_memory || names.no_memory))
		rc = svc_error_set(
		    err, SVC_E_NOMEM, "no memory for the registry's answer");
	collector_fini(&names);
	return rc == SVC_OK;
}

/*
 * While answers come one after the other, what one of them lacks is gone. The
 * first after a failure is a full state after a break.
 */
static void *
poll_run(void *arg)
{
	struct feed *feed = arg;
	struct diff *diff = &feed->diff;
	bool broken = true, said = false;
	do {
		struct collector found = {0};
		struct svc_error err = {0};
		if (poll_once(feed, &found, &err)) {
			turn_take(feed);
			diff_begin(diff);
			for (size_t i = 0; i < found.n; i++) {
				remember(feed, found.records[i]);
				if (diff_node(diff, found.records[i]) != SVC_OK)
					log_no_memory(feed);
			}
			diff_sync(diff, broken ? feed->registry->grace_ms : 0);
			note_answer(feed);
			diff_expire(diff, false);
			turn_give(feed);
			broken = false;
			said = false;
		} else {
			broken = true;
			if (!said)
				svc_log(SVC_LOG_WARN, "registry.poll",
				    "registry %s does not answer: %s",
				    feed->registry->ops->name, err.text);
			said = true;
		}
		collector_fini(&found);
	} while (sleep_until(feed, svc_deadline(POLL_MS)));
	return NULL;
}

/* -------------------------------------------------------- making, ending */

static bool
has_watch(const struct svc_registry_ops *ops)
{
	return SVC_OPS_HAS(ops, watch) && SVC_OPS_HAS(ops, unwatch);
}

static void
feed_free(struct feed *feed)
{
	diff_fini(&feed->diff);
	pthread_cond_destroy(&feed->cond);
	pthread_mutex_destroy(&feed->lock);
	svc_mem_free(feed->service);
	svc_mem_free(feed);
}

static void
feed_end(struct feed *feed)
{
	const struct svc_registry_ops *ops = feed->registry->ops;
	pthread_mutex_lock(&feed->lock);
	feed->ending = true;
	pthread_cond_broadcast(&feed->cond);
	pthread_mutex_unlock(&feed->lock);
	if (feed->has_fallback)
		svc_thread_join(feed->fallback);
	/* Which waits for a sink that may have waited for memory until now. */
	if (feed->has_plugin_watch)
		ops->unwatch(feed->registry->self, feed->plugin_watch);
	if (feed->has_poller)
		svc_thread_join(feed->poller);
	if (feed->has_helper)
		svc_thread_join(feed->helper);
	feed_free(feed);
}

/* Begins at once, for the one watch. */
static svc_err
feed_start(struct svc_registry *registry, const char *service,
    struct svc_watch *watch, struct feed **ret_feed, struct svc_error *err)
{
	struct feed *feed = svc_mem_calloc(1, sizeof(*feed));
	if (feed == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	feed->registry = registry;
	feed->n_watches = 1;
	pthread_mutex_init(&feed->lock, NULL);
	svc_cond_init(&feed->cond);
	feed->service = svc_mem_strdup(service);
	diff_init(&feed->diff, feed->service, on_change, feed);
	DL_APPEND(feed->watches, watch);
	if (service != NULL && feed->service == NULL) {
		feed_free(feed);
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	}
	/* First, since unlike a watch it can be ended by `ending` alone. */
	svc_err rc = fallback_watch(feed, err);
	if (rc == SVC_OK && has_watch(registry->ops)) {
		rc = registry->ops->watch(registry->self, feed->service,
		    on_event, feed, &feed->plugin_watch, err);
		feed->has_plugin_watch = rc == SVC_OK;
	} else if (rc == SVC_OK) {
		rc = svc_thread_start(
		    &feed->poller, "svc-reg-poll", poll_run, feed);
		feed->has_poller = rc == SVC_OK;
		if (rc != SVC_OK)
			svc_error_set(err, rc, "no thread to poll registry %s",
			    registry->ops->name);
	}
	if (rc != SVC_OK) {
		feed_end(feed);
		return rc;
	}
	*ret_feed = feed;
	return SVC_OK;
}

/* One of this service that has begun, with one more watch; NULL when there is
 * none. */
static struct feed *
feed_find(struct svc_registry *registry, const char *service)
{
	struct feed *feed = NULL;
	const struct svc_watch *watch;
	pthread_mutex_lock(&registry->lock);
	DL_FOREACH2(registry->watches, watch, after)
	{
		const char *other = watch->feed->service;
		if ((service == NULL) != (other == NULL) ||
		    !text_equal(service, other))
			continue;
		feed = watch->feed;
		feed->n_watches++;
		break;
	}
	pthread_mutex_unlock(&registry->lock);
	return feed;
}

/* The one who leaves last ends it. */
static void
feed_leave(struct feed *feed)
{
	pthread_mutex_lock(&feed->registry->lock);
	bool last = --feed->n_watches == 0;
	pthread_mutex_unlock(&feed->registry->lock);
	if (last)
		feed_end(feed);
}

/* The helper tells it what is there, then it hears of changes. */
static svc_err
feed_join(struct feed *feed, struct svc_watch *watch)
{
	svc_err rc = helper_start(feed);
	if (rc != SVC_OK)
		return rc;
	pthread_mutex_lock(&feed->lock);
	watch->is_new = true;
	DL_APPEND(feed->newcomers, watch);
	pthread_cond_broadcast(&feed->cond);
	pthread_mutex_unlock(&feed->lock);
	return SVC_OK;
}

svc_err
svc_registry_watch(struct svc_registry *registry, const char *service,
    svc_change_cb cb, void *arg, struct svc_watch **ret_watch,
    struct svc_error *err)
{
	svc_err rc = SVC_OK;
	if (service != NULL)
		rc = svc_service_name_check(service, err);
	if (rc != SVC_OK)
		return rc;
	if (cb == NULL)
		return svc_error_set(
		    err, SVC_E_INVAL, "a watch needs a callback");
	struct svc_watch *watch = svc_mem_calloc(1, sizeof(*watch));
	if (watch == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	watch->cb = cb;
	watch->cb_arg = arg;
	struct feed *feed = feed_find(registry, service);
	if (feed != NULL && feed_join(feed, watch) != SVC_OK) {
		feed_leave(feed);
		feed = NULL;
	}
	if (feed == NULL)
		rc = feed_start(registry, service, watch, &feed, err);
	if (rc != SVC_OK) {
		svc_mem_free(watch);
		return rc;
	}
	watch->feed = feed;
	pthread_mutex_lock(&registry->lock);
	DL_APPEND2(registry->watches, watch, before, after);
	pthread_mutex_unlock(&registry->lock);
	*ret_watch = watch;
	return SVC_OK;
}

void
svc_registry_unwatch(struct svc_watch *watch)
{
	if (watch == NULL)
		return;
	struct feed *feed = watch->feed;
	pthread_mutex_lock(&feed->registry->lock);
	DL_DELETE2(feed->registry->watches, watch, before, after);
	bool last = feed->n_watches == 1;
	pthread_mutex_unlock(&feed->registry->lock);
	/* The last one need not wait for a turn, nobody finds the feed. */
	if (!last) {
		turn_take(feed);
		pthread_mutex_lock(&feed->lock);
		if (watch->is_new)
			DL_DELETE(feed->newcomers, watch);
		else
			DL_DELETE(feed->watches, watch);
		pthread_mutex_unlock(&feed->lock);
		turn_give(feed);
	}
	feed_leave(feed);
	svc_mem_free(watch);
}
