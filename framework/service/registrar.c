/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps this node in the registry: announces it every interval, tries again
 * each second after a failure, and says once that the registry is lost and once
 * that it is back. Whatever was lost meanwhile is there again within a second
 * of the registry's return, and a thousand services that have waited for it
 * come spread over that second. A registry that answers, and says no, is not
 * asked as often: to check a password costs it more than all else.
 *
 * `lock` guards every member. No op of the registry runs under it: `busy`
 * keeps a second one out meanwhile.
 */
#include "service.h"

#include <string.h>

#define FIRST_RETRY_MS INT64_C(100)
#define LAST_RETRY_MS INT64_C(1000)
#define LAST_REFUSED_MS INT64_C(10000)
#define SEEN_WAIT_MS INT64_C(500)

void
svc_registrar_init(struct svc_registrar *registrar, struct svc_service *service)
{
	registrar->service = service;
	pthread_mutex_init(&registrar->lock, NULL);
	svc_cond_init(&registrar->changed);
}

void
svc_registrar_fini(struct svc_registrar *registrar)
{
	pthread_mutex_destroy(&registrar->lock);
	pthread_cond_destroy(&registrar->changed);
}

/* Up to a tenth earlier, so that nodes started together spread. */
static int64_t
jitter(int64_t ms)
{
	return ms - (int64_t)svc_random_below((uint64_t)ms / 10 + 1);
}

/* It has answered, and will not answer anything else by itself. */
static bool
is_refusal(svc_err code)
{
	return code == SVC_E_INVAL || code == SVC_E_DENIED ||
	       code == SVC_E_UNAUTHENTICATED;
}

static bool
is_final(svc_err code)
{
	return is_refusal(code) || code == SVC_E_NOMEM;
}

/* Before the next attempt after so many failures and one: a random part of
 * what grows to a second, so that those who wait for the same do not ask at the
 * same time. */
static int64_t
retry_wait(int failures, svc_err code, int64_t interval_ms)
{
	int64_t last_ms = is_refusal(code) ? LAST_REFUSED_MS : LAST_RETRY_MS;
	int64_t most_ms = last_ms;
	if (failures < 7)
		most_ms = FIRST_RETRY_MS << failures;
	if (most_ms > last_ms)
		most_ms = last_ms;
	if (most_ms > interval_ms)
		most_ms = interval_ms;
	int64_t half_ms = most_ms / 2;
	return half_ms +
	       (int64_t)svc_random_below((uint64_t)(most_ms - half_ms) + 1);
}

static svc_err
announce(struct svc_service *service, int64_t timeout_ms, struct svc_error *err)
{
	struct svc_record_built built;
	svc_err code = svc_record_build(service, &built);
	if (code != SVC_OK)
		return svc_error_set(err, code,
		    "the record cannot be built: %s", svc_err_text(code));
	code = svc_registry_announce_within(service->registry, &built.record,
	    service->values.ttl_ms, timeout_ms, err);
	svc_record_built_fini(&built);
	return code;
}

/* Notes how an announcement went that began at `since_ms`; the lock is held.
 * The TTL passes from when the registry took it, perhaps long before its answer
 * came, so the next one is due by when this one began. Returns what to log. */
static const char *
note(struct svc_registrar *registrar, svc_err code, int64_t since_ms)
{
	int64_t interval_ms = registrar->service->values.interval_ms;
	const char *id = NULL;
	if (code == SVC_OK) {
		if (registrar->lost)
			id = "registry.back";
		registrar->lost = false;
		registrar->failures = 0;
		registrar->next_at_ms = since_ms + jitter(interval_ms);
	} else {
		registrar->next_at_ms = svc_deadline(
		    retry_wait(registrar->failures++, code, interval_ms));
		if (!registrar->lost)
			id = "registry.lost";
		registrar->lost = true;
	}
	atomic_store(&registrar->registered, code == SVC_OK);
	/* What got no answer may have been done nevertheless. */
	registrar->reached = registrar->reached || !is_refusal(code);
	return id;
}

/* One announcement; the lock is held, but not during it. What ends the start
 * is told by the start. */
static svc_err
announce_locked(
    struct svc_registrar *registrar, bool starting, struct svc_error *err)
{
	struct svc_service *service = registrar->service;
	while (registrar->busy)
		svc_cond_wait(&registrar->changed, &registrar->lock, INT64_MAX);
	if (registrar->stopping)
		return svc_error_set(
		    err, SVC_E_CANCELLED, "the service is stopping");
	registrar->busy = true;
	pthread_mutex_unlock(&registrar->lock);
	int64_t since_ms = svc_now_ms();
	svc_err code =
	    announce(service, service->values.registry_timeout_ms, err);
	pthread_mutex_lock(&registrar->lock);
	registrar->busy = false;
	const char *id = note(registrar, code, since_ms);
	pthread_cond_broadcast(&registrar->changed);
	if (id == NULL || (starting && is_final(code)))
		return code;
	pthread_mutex_unlock(&registrar->lock);
	if (code == SVC_OK)
		svc_log(SVC_LOG_INFO, id, "registry %s has %s again",
		    service->values.registry, service->values.id);
	else
		svc_log(SVC_LOG_WARN, id,
		    "registry %s does not take %s, going on trying: %s",
		    service->values.registry, service->values.id, err->text);
	pthread_mutex_lock(&registrar->lock);
	return code;
}

static void *
run(void *arg)
{
	struct svc_registrar *registrar = arg;
	pthread_mutex_lock(&registrar->lock);
	while (!registrar->stopping) {
		if (registrar->busy || svc_now_ms() < registrar->next_at_ms) {
			svc_cond_wait(&registrar->changed, &registrar->lock,
			    registrar->busy ? INT64_MAX
					    : registrar->next_at_ms);
			continue;
		}
		struct svc_error err = {0};
		announce_locked(registrar, false, &err);
	}
	pthread_mutex_unlock(&registrar->lock);
	return NULL;
}

svc_err
svc_registrar_start(struct svc_registrar *registrar, struct svc_error *err)
{
	struct svc_error why = {0};
	pthread_mutex_lock(&registrar->lock);
	svc_err code = announce_locked(registrar, true, &why);
	if (is_final(code)) {
		pthread_mutex_unlock(&registrar->lock);
		if (err != NULL)
			*err = why;
		return code;
	}
	registrar->stopping = false;
	pthread_mutex_unlock(&registrar->lock);
	code = svc_thread_start(
	    &registrar->thread, "svc-registrar", run, registrar);
	if (code != SVC_OK)
		return svc_error_set(err, code, "no thread for the registrar");
	pthread_mutex_lock(&registrar->lock);
	registrar->running = true;
	pthread_mutex_unlock(&registrar->lock);
	return SVC_OK;
}

void
svc_registrar_again(struct svc_registrar *registrar)
{
	struct svc_error err = {0};
	pthread_mutex_lock(&registrar->lock);
	if (registrar->running && !registrar->stopping)
		announce_locked(registrar, false, &err);
	pthread_mutex_unlock(&registrar->lock);
}

const char *
svc_registrar_status(const struct svc_registrar *registrar)
{
	if (atomic_load(&registrar->draining))
		return "draining";
	return atomic_load(&registrar->registered) ? "ok" : "not registered";
}

/* -------------------------------------------------------------------- stop */

/* How a watch of our own sees this node. */
enum sight { GONE, THERE, MARKED };
struct seen {
	const char *id;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool synced;
	enum sight sight;
};

static void
on_change(svc_change change, const struct svc_record *record, void *arg)
{
	struct seen *seen = arg;
	pthread_mutex_lock(&seen->lock);
	if (change == SVC_SYNCED) {
		seen->synced = true;
	} else if (record->n_nodes > 0 &&
		   strcmp(record->nodes[0].id, seen->id) == 0) {
		seen->sight = THERE;
		if (change == SVC_REMOVED)
			seen->sight = GONE;
		else if (svc_headers_get(
			     record->nodes[0].metadata, SVC_DRAINING) != NULL)
			seen->sight = MARKED;
	}
	pthread_cond_broadcast(&seen->changed);
	pthread_mutex_unlock(&seen->lock);
}

/* A registry that does not show this node, as a file in which it is not
 * written, is not waited for. */
static void
wait_for(struct seen *seen, enum sight sight, int64_t deadline_at_ms)
{
	pthread_mutex_lock(&seen->lock);
	while (!seen->synced || (seen->sight != sight && seen->sight != GONE)) {
		if (svc_cond_wait(&seen->changed, &seen->lock,
			deadline_at_ms) == SVC_E_TIMEDOUT)
			break;
	}
	pthread_mutex_unlock(&seen->lock);
}

/* So that nobody chooses this node any longer, while those who have chosen it
 * still find it. A registry that has fallen silent leaves half of the time to
 * the withdrawal. */
static void
mark(struct svc_registrar *registrar, struct seen *seen, int64_t deadline_at_ms,
    int64_t seen_at_ms)
{
	struct svc_error err = {0};
	if (announce(registrar->service, svc_remaining(deadline_at_ms) / 2,
		&err) == SVC_OK)
		wait_for(seen, MARKED, seen_at_ms);
}

/* Withdraws until then. A node that the registry does not have, as far as is
 * known, is neither marked nor waited for. */
static void
withdraw(
    struct svc_registrar *registrar, bool registered, int64_t deadline_at_ms)
{
	struct svc_service *service = registrar->service;
	const struct svc_values *v = &service->values;
	struct svc_record_built built;
	if (svc_record_build(service, &built) != SVC_OK)
		return;
	struct seen seen = {.id = v->id};
	pthread_mutex_init(&seen.lock, NULL);
	svc_cond_init(&seen.changed);
	int64_t seen_at_ms = svc_deadline(SEEN_WAIT_MS);
	struct svc_watch *watch = NULL;
	if (registered && svc_registry_watch(service->registry, v->name,
			      on_change, &seen, &watch, NULL) == SVC_OK)
		mark(registrar, &seen, deadline_at_ms, seen_at_ms);
	struct svc_error err = {0};
	if (svc_registry_withdraw_within(service->registry, &built.record,
		svc_remaining(deadline_at_ms), &err) != SVC_OK)
		svc_log(SVC_LOG_WARN, "registry.withdraw",
		    "registry %s did not take back %s, which may be left in it "
		    "until its ttl (%g s) has passed: %s",
		    v->registry, v->id, (double)v->ttl_ms / 1000, err.text);
	else if (watch != NULL)
		wait_for(&seen, GONE, seen_at_ms);
	svc_registry_unwatch(watch);
	svc_record_built_fini(&built);
	pthread_mutex_destroy(&seen.lock);
	pthread_cond_destroy(&seen.changed);
}

void
svc_registrar_stop(struct svc_registrar *registrar)
{
	int64_t deadline_at_ms =
	    svc_deadline(registrar->service->values.registry_timeout_ms);
	pthread_mutex_lock(&registrar->lock);
	registrar->stopping = true;
	bool running = registrar->running;
	registrar->running = false;
	atomic_store(&registrar->draining, true);
	pthread_cond_broadcast(&registrar->changed);
	pthread_mutex_unlock(&registrar->lock);
	/* An announcement under way began before, so it ends before. */
	if (running)
		svc_thread_join(registrar->thread);
	pthread_mutex_lock(&registrar->lock);
	while (registrar->busy)
		svc_cond_wait(&registrar->changed, &registrar->lock, INT64_MAX);
	bool reached = registrar->reached;
	registrar->reached = false;
	pthread_mutex_unlock(&registrar->lock);
	bool registered = atomic_exchange(&registrar->registered, false);
	if (reached)
		withdraw(registrar, registered, deadline_at_ms);
}
