/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches: the difference engine between a plugin's events and the watcher,
 * a thread that polls for plugins without watch, and one that takes away the
 * nodes a registry did not repeat after a break.
 *
 * Lock: svc_watch.lock guards busy, ending and answered. Whoever sets busy has
 * the turn: the engine and the right to call the watcher are his until he
 * clears it, so no lock is held during a callback. The registry's lock is never
 * taken inside it.
 */
#include "diff.h"
#include "record.h"
#include "registry_private.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <utlist.h>

void
turn_take(struct svc_watch *watch)
{
	pthread_mutex_lock(&watch->lock);
	while (watch->busy)
		svc_cond_wait(&watch->cond, &watch->lock, INT64_MAX);
	watch->busy = true;
	pthread_mutex_unlock(&watch->lock);
}

void
turn_give(struct svc_watch *watch)
{
	pthread_mutex_lock(&watch->lock);
	watch->busy = false;
	pthread_cond_broadcast(&watch->cond);
	pthread_mutex_unlock(&watch->lock);
}

/* False when the watch ends. */
static bool
sleep_until(struct svc_watch *watch, int64_t at_ms)
{
	pthread_mutex_lock(&watch->lock);
	while (!watch->ending && svc_now_ms() < at_ms)
		svc_cond_wait(&watch->cond, &watch->lock, at_ms);
	bool go_on = !watch->ending;
	pthread_mutex_unlock(&watch->lock);
	return go_on;
}

static void
log_no_memory(const struct svc_watch *watch)
{
	svc_log(SVC_LOG_ERROR, "registry.memory",
	    "no memory to keep a node of %s: it is tried again",
	    watch->service != NULL ? watch->service : "the registry");
}

/* ------------------------------------------------------ for the snapshot */

static bool
is_told(const char *service, const char *id, void *arg)
{
	return diff_has(arg, service, id);
}

static void
remember(struct svc_watch *watch, const struct svc_record *record)
{
	if (watch->registry->snapshot != NULL)
		snapshot_put(watch->registry->snapshot, record);
}

/* With the turn: a full state is complete. */
static void
note_answer(struct svc_watch *watch)
{
	struct svc_registry *registry = watch->registry;
	if (registry->snapshot != NULL)
		snapshot_sweep(
		    registry->snapshot, watch->service, is_told, &watch->diff);
	fallback_answered(registry);
	pthread_mutex_lock(&watch->lock);
	watch->answered = true;
	pthread_cond_broadcast(&watch->cond);
	pthread_mutex_unlock(&watch->lock);
}

/* What the watcher is told to be gone is gone. */
static void
on_change(svc_change change, const struct svc_record *record, void *arg)
{
	struct svc_watch *watch = arg;
	if (change == SVC_REMOVED && watch->answered &&
	    watch->registry->snapshot != NULL)
		snapshot_remove(watch->registry->snapshot, record);
	watch->cb(change, record, watch->cb_arg);
}

/* ------------------------------------------------------------------ nodes */

/*
 * With the turn, in the plugin's thread. A plugin tells of a node once, so when
 * memory is short it is tried until there is some; what the plugin has to tell
 * after that waits with it.
 */
static void
keep_node(struct svc_watch *watch, const struct svc_record *record)
{
	bool said = false, go_on = true;
	remember(watch, record);
	while (go_on && diff_node(&watch->diff, record) != SVC_OK) {
		if (!said)
			log_no_memory(watch);
		int64_t again_at_ms = said ? svc_deadline(RETRY_MS) : 0;
		said = true;
		go_on = sleep_until(watch, again_at_ms);
	}
}

/* ------------------------------------------------- taking away after a break
 */

static void *
expire_run(void *arg)
{
	struct svc_watch *watch = arg;
	pthread_mutex_lock(&watch->lock);
	while (!watch->ending) {
		/* The engine may be looked at only while nobody has the turn,
		 * and who gives it back signals. */
		int64_t at_ms =
		    watch->busy ? INT64_MAX : diff_next_at(&watch->diff);
		if (at_ms > svc_now_ms()) {
			svc_cond_wait(&watch->cond, &watch->lock, at_ms);
			continue;
		}
		watch->busy = true;
		pthread_mutex_unlock(&watch->lock);
		diff_expire(&watch->diff, false);
		turn_give(watch);
		pthread_mutex_lock(&watch->lock);
	}
	pthread_mutex_unlock(&watch->lock);
	return NULL;
}

/* With the turn. The thread is made only when something waits for it. */
static void
expire_later(struct svc_watch *watch)
{
	if (watch->has_thread || diff_next_at(&watch->diff) == INT64_MAX)
		return;
	if (svc_thread_start(
		&watch->thread, "svc-reg-grace", expire_run, watch) == SVC_OK) {
		watch->has_thread = true;
		return;
	}
	svc_log(SVC_LOG_WARN, "registry.grace",
	    "no thread to wait for nodes that the registry did not repeat: "
	    "they are removed at once");
	diff_expire(&watch->diff, true);
}

static void
on_event(svc_watch_event event, const struct svc_record *record, void *arg)
{
	struct svc_watch *watch = arg;
	turn_take(watch);
	switch (event) {
	case SVC_WATCH_BEGIN:
		diff_begin(&watch->diff);
		break;
	case SVC_WATCH_NODE:
		keep_node(watch, record);
		break;
	case SVC_WATCH_GONE:
		diff_gone(&watch->diff, record);
		break;
	case SVC_WATCH_SYNC:
		diff_sync(&watch->diff, watch->registry->grace_ms);
		note_answer(watch);
		expire_later(watch);
		break;
	}
	turn_give(watch);
}

/* --------------------------------------------------------------- polling */

static bool
poll_once(
    struct svc_watch *watch, struct collector *found, struct svc_error *err)
{
	const struct svc_registry_ops *ops = watch->registry->ops;
	void *self = watch->registry->self;
	struct collector names = {0};
	svc_err rc;
	found->service = watch->service;
	if (watch->service != NULL) {
		rc = ops->lookup(self, watch->service, collect, found, err);
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
	struct svc_watch *watch = arg;
	struct diff *diff = &watch->diff;
	bool broken = true, said = false;
	do {
		struct collector found = {0};
		struct svc_error err = {0};
		if (poll_once(watch, &found, &err)) {
			turn_take(watch);
			diff_begin(diff);
			for (size_t i = 0; i < found.n; i++) {
				remember(watch, found.records[i]);
				if (diff_node(diff, found.records[i]) != SVC_OK)
					log_no_memory(watch);
			}
			diff_sync(diff, broken ? watch->registry->grace_ms : 0);
			note_answer(watch);
			diff_expire(diff, false);
			turn_give(watch);
			broken = false;
			said = false;
		} else {
			broken = true;
			if (!said)
				svc_log(SVC_LOG_WARN, "registry.poll",
				    "registry %s does not answer: %s",
				    watch->registry->ops->name, err.text);
			said = true;
		}
		collector_fini(&found);
	} while (sleep_until(watch, svc_deadline(POLL_MS)));
	return NULL;
}

/* -------------------------------------------------------- making, ending */

/* Before the plugin's watch is ended, since the plugin waits for a sink that
 * waits for memory. */
static void
end(struct svc_watch *watch)
{
	pthread_mutex_lock(&watch->lock);
	watch->ending = true;
	pthread_cond_broadcast(&watch->cond);
	pthread_mutex_unlock(&watch->lock);
	if (watch->has_fallback_thread)
		svc_thread_join(watch->fallback_thread);
}

static void
watch_free(struct svc_watch *watch)
{
	diff_fini(&watch->diff);
	pthread_cond_destroy(&watch->cond);
	pthread_mutex_destroy(&watch->lock);
	svc_mem_free(watch->service);
	svc_mem_free(watch);
}

static bool
has_watch(const struct svc_registry_ops *ops)
{
	return SVC_OPS_HAS(ops, watch) && SVC_OPS_HAS(ops, unwatch);
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
	watch->registry = registry;
	pthread_mutex_init(&watch->lock, NULL);
	svc_cond_init(&watch->cond);
	watch->service = svc_mem_strdup(service);
	watch->cb = cb;
	watch->cb_arg = arg;
	diff_init(&watch->diff, watch->service, on_change, watch);
	if (service != NULL && watch->service == NULL) {
		watch_free(watch);
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	}
	/* First, since unlike a watch it can be ended by `ending` alone. */
	rc = fallback_watch(watch, err);
	if (rc != SVC_OK) {
		watch_free(watch);
		return rc;
	}
	if (has_watch(registry->ops)) {
		rc = registry->ops->watch(registry->self, watch->service,
		    on_event, watch, &watch->plugin_watch, err);
	} else {
		rc = svc_thread_start(
		    &watch->thread, "svc-reg-poll", poll_run, watch);
		watch->has_thread = rc == SVC_OK;
		if (rc != SVC_OK)
			svc_error_set(err, rc, "no thread to poll registry %s",
			    registry->ops->name);
	}
	if (rc != SVC_OK) {
		end(watch);
		watch_free(watch);
		return rc;
	}
	pthread_mutex_lock(&registry->lock);
	DL_APPEND(registry->watches, watch);
	pthread_mutex_unlock(&registry->lock);
	*ret_watch = watch;
	return SVC_OK;
}

void
svc_registry_unwatch(struct svc_watch *watch)
{
	if (watch == NULL)
		return;
	struct svc_registry *registry = watch->registry;
	pthread_mutex_lock(&registry->lock);
	DL_DELETE(registry->watches, watch);
	pthread_mutex_unlock(&registry->lock);
	end(watch);
	if (has_watch(registry->ops))
		registry->ops->unwatch(registry->self, watch->plugin_watch);
	if (watch->has_thread)
		svc_thread_join(watch->thread);
	watch_free(watch);
}
