/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What to go on with while a registry cannot be reached: the snapshot of what
 * was known last, and behind it another registry for services that the snapshot
 * does not know. A watch that its registry does not answer is told what they
 * have, as a belief; the first answer replaces it, with the grace that any
 * full state after a break has.
 */
#include "record.h"
#include "registry_private.h"

#include <svc/buf.h>
#include <svc/clock.h>
#include <svc/log.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* -------------------------------------------------------- making, ending */

/* Of which registry a snapshot is: its name, address and options, but for
 * what is secret in them. */
static char *
name_of(const struct svc_registry *registry,
    const struct svc_registry_config *config)
{
	const char *key, *value;
	struct svc_buf buf;
	svc_buf_init(&buf, 1 << 20);
	svc_buf_puts(&buf, registry->ops->name);
	if (config->address != NULL && *config->address != '\0')
		svc_buf_printf(&buf, " at %s", config->address);
	for (size_t i = 0; svc_headers_at(config->options, i, &key, &value);
	     i++)
		if (strcasestr(key, "password") == NULL &&
		    strcasestr(key, "token") == NULL &&
		    strcasestr(key, "secret") == NULL)
			svc_buf_printf(&buf, " %s=%s", key, value);
	char *name = svc_buf_take(&buf, NULL);
	svc_buf_fini(&buf);
	return name;
}

/* `text` is "PLUGIN" or "PLUGIN:ADDRESS". */
static svc_err
open_other(struct svc_registry *registry, const char *text,
    const struct svc_registry_config *config, struct svc_error *err)
{
	struct svc_registry_config other = {
	    .timeout_ms = config->timeout_ms,
	    .grace_ms = config->grace_ms,
	};
	struct svc_error why = {0};
	const char *colon = strchrnul(text, ':');
	char plugin[64], quoted[64];
	if (colon == text || (size_t)(colon - text) >= sizeof(plugin))
		return svc_error_set(err, SVC_E_INVAL,
		    "the fallback %s is none: use PLUGIN or PLUGIN:ADDRESS, as "
		    "static:nodes.yaml",
		    svc_log_quote(text, strlen(text), quoted, sizeof(quoted)));
	memcpy(plugin, text, (size_t)(colon - text));
	plugin[colon - text] = '\0';
	if (*colon == ':' && colon[1] != '\0')
		other.address = colon + 1;
	svc_err rc =
	    svc_registry_create(plugin, &other, &registry->fallback, &why);
	if (rc != SVC_OK)
		return svc_error_set(
		    err, rc, "the fallback of the registry: %s", why.text);
	return SVC_OK;
}

svc_err
fallback_open(struct svc_registry *registry,
    const struct svc_registry_config *config, struct svc_error *err)
{
	svc_err rc = SVC_OK;
	if (config->fallback != NULL && *config->fallback != '\0')
		rc = open_other(registry, config->fallback, config, err);
	if (rc == SVC_OK && config->snapshot != NULL &&
	    *config->snapshot != '\0') {
		char *name = name_of(registry, config);
		if (name == NULL)
			return svc_error_set(
			    err, SVC_E_NOMEM, "no memory for a snapshot");
		rc = snapshot_open(
		    config->snapshot, name, &registry->snapshot, err);
		svc_mem_free(name);
	}
	return rc;
}

void
fallback_close(struct svc_registry *registry)
{
	svc_registry_destroy(registry->fallback);
	snapshot_close(registry->snapshot);
}

/* ------------------------------------------------------- whether it answers */

bool
fallback_is_for(const struct svc_registry *registry, svc_err code)
{
	return (code == SVC_E_UNAVAILABLE || code == SVC_E_TIMEDOUT) &&
	       (registry->fallback != NULL || registry->snapshot != NULL);
}

static void
put_age(char *text, size_t size, int64_t unix_ms)
{
	int64_t age_s = (svc_now_unix_ms() - unix_ms) / 1000;
	if (age_s < 0)
		age_s = 0;
	if (age_s < 120)
		snprintf(text, size, "%" PRId64 " s", age_s);
	else if (age_s < 7200)
		snprintf(text, size, "%" PRId64 " min", age_s / 60);
	else if (age_s < 172800)
		snprintf(text, size, "%" PRId64 " h", age_s / 3600);
	else
		snprintf(text, size, "%" PRId64 " days", age_s / 86400);
}

void
fallback_away(struct svc_registry *registry, const char *why)
{
	char snapshot[96] = "", age[32];
	/* 0 would mean that it answers. */
	int64_t now_ms = svc_now_ms();
	if (atomic_exchange(&registry->away_at_ms, now_ms > 0 ? now_ms : 1) !=
	    0)
		return;
	bool known = registry->snapshot != NULL &&
		     snapshot_count(registry->snapshot) > 0;
	const char *other =
	    registry->fallback != NULL ? registry->fallback->ops->name : NULL;
	if (known) {
		int64_t saved = snapshot_saved_unix_ms(registry->snapshot);
		put_age(age, sizeof(age), saved);
		snprintf(snapshot, sizeof(snapshot),
		    "what was known last%s%s%s", saved != 0 ? " (saved " : "",
		    saved != 0 ? age : "",
		    saved != 0 ? " before the start)" : "");
	}
	svc_log(SVC_LOG_WARN, "registry.away",
	    "registry %s does not answer, %s%s%s%s%s: %s", registry->ops->name,
	    known || other != NULL ? "going on with "
				   : "and nothing is known of it",
	    snapshot, known && other != NULL ? " and " : "",
	    other != NULL ? "registry " : "", other != NULL ? other : "", why);
}

void
fallback_answered(struct svc_registry *registry)
{
	if (atomic_load(&registry->away_at_ms) != 0 &&
	    atomic_exchange(&registry->away_at_ms, 0) != 0)
		svc_log(SVC_LOG_INFO, "registry.answers",
		    "registry %s answers: what it says replaces what was "
		    "known",
		    registry->ops->name);
}

/* ------------------------------------------------------------------- asking */

struct passing {
	struct svc_registry *registry;
	svc_record_sink sink;
	void *arg;
	size_t n;
};

static void
pass(const struct svc_record *record, void *arg)
{
	struct passing *passing = arg;
	passing->n++;
	passing->sink(record, passing->arg);
}

/* Of the other registry: what the snapshot knows is newer. */
static void
pass_other(const struct svc_record *record, void *arg)
{
	struct passing *passing = arg;
	struct snapshot *snapshot = passing->registry->snapshot;
	if (snapshot == NULL || record->name == NULL ||
	    !snapshot_has(snapshot, record->name))
		pass(record, passing);
}

svc_err
fallback_ask(struct svc_registry *registry, const char *service,
    svc_record_sink sink, void *arg, svc_err away)
{
	struct passing passing = {registry, sink, arg, 0};
	const struct svc_registry *other = registry->fallback;
	svc_err rc = SVC_OK;
	size_t n = 0;
	if (registry->snapshot != NULL)
		rc = snapshot_read(
		    registry->snapshot, service, pass, &passing, &n);
	if (rc == SVC_OK && other != NULL && service == NULL)
		rc = other->ops->list(other->self, pass_other, &passing, NULL);
	else if (rc == SVC_OK && other != NULL && n == 0)
		rc = other->ops->lookup(
		    other->self, service, pass_other, &passing, NULL);
	if (rc == SVC_E_NOMEM)
		return rc;
	return passing.n > 0 ? SVC_OK : away;
}

/* ----------------------------------------------------------------- watching */

/* The turn, unless the registry has answered meanwhile. */
static bool
belief_begin(struct feed *feed)
{
	turn_take(feed);
	if (!feed->answered)
		return true;
	turn_give(feed);
	return false;
}

static bool
wait_for_answer(struct feed *feed, int64_t at_ms)
{
	pthread_mutex_lock(&feed->lock);
	while (!feed->ending && !feed->answered && svc_now_ms() < at_ms)
		svc_cond_wait(&feed->cond, &feed->lock, at_ms);
	bool over = feed->ending || feed->answered;
	pthread_mutex_unlock(&feed->lock);
	return over;
}

/* With the turn. It is told once, so it is tried until there is memory. */
static void
believe(struct feed *feed, const struct svc_record *record)
{
	bool over = false;
	while (!over && diff_assume(&feed->diff, record) != SVC_OK)
		over = wait_for_answer(feed, svc_deadline(RETRY_MS));
}

static void
on_snapshot(const struct svc_record *record, void *arg)
{
	struct feed *feed = arg;
	if (!belief_begin(feed))
		return;
	believe(feed, record);
	turn_give(feed);
}

/* The other registry's changes. It tells SYNCED before what comes later. */
static void
on_other(svc_change change, const struct svc_record *record, void *arg)
{
	struct feed *feed = arg;
	struct snapshot *snapshot = feed->registry->snapshot;
	bool known = record != NULL && snapshot != NULL &&
		     snapshot_has(snapshot, record->name);
	if (known || !belief_begin(feed))
		return;
	switch (change) {
	case SVC_CREATED:
	case SVC_UPDATED:
		believe(feed, record);
		break;
	case SVC_REMOVED:
		diff_unassume(&feed->diff, record);
		break;
	case SVC_SYNCED:
		feed->other_synced = true;
		break;
	}
	if (feed->other_synced)
		diff_assumed(&feed->diff);
	turn_give(feed);
}

/* What an outage left is told by a snapshot and by the other registry. What
 * lacks memory for it tries again, until the registry itself answers. */
static size_t
tell_snapshot(struct feed *feed)
{
	size_t n = 0;
	while (feed->registry->snapshot != NULL &&
	       snapshot_read(feed->registry->snapshot, feed->service,
		   on_snapshot, feed, &n) != SVC_OK &&
	       !wait_for_answer(feed, svc_deadline(RETRY_MS)))
		;
	return n;
}

static struct svc_watch *
watch_other(struct feed *feed)
{
	struct svc_watch *other = NULL;
	struct svc_error err = {0};
	svc_err rc;
	do
		rc = svc_registry_watch(feed->registry->fallback, feed->service,
		    on_other, feed, &other, &err);
	while (rc == SVC_E_NOMEM &&
	       !wait_for_answer(feed, svc_deadline(RETRY_MS)));
	if (rc != SVC_OK)
		svc_log(SVC_LOG_ERROR, "registry.fallback",
		    "the fallback cannot be watched: %s", err.text);
	return other;
}

static void *
run(void *arg)
{
	struct feed *feed = arg;
	struct svc_registry *registry = feed->registry;
	struct svc_watch *other = NULL;
	int64_t away_at_ms = atomic_load(&registry->away_at_ms);
	bool away = away_at_ms != 0 && svc_now_ms() - away_at_ms < AWAY_MS;
	if (wait_for_answer(feed, svc_deadline(away ? 0 : FALLBACK_MS)))
		return NULL;
	fallback_away(registry, "a watch got no answer within a second");
	size_t n = tell_snapshot(feed);
	if (registry->fallback != NULL && (feed->service == NULL || n == 0))
		other = watch_other(feed);
	/* What the snapshot knows has to do until the other one says more. */
	if ((other == NULL || n > 0) && belief_begin(feed)) {
		diff_assumed(&feed->diff);
		turn_give(feed);
	}
	wait_for_answer(feed, INT64_MAX);
	svc_registry_unwatch(other);
	return NULL;
}

svc_err
fallback_watch(struct feed *feed, struct svc_error *err)
{
	struct svc_registry *registry = feed->registry;
	if (registry->fallback == NULL && registry->snapshot == NULL)
		return SVC_OK;
	svc_err rc =
	    svc_thread_start(&feed->fallback, "svc-reg-away", run, feed);
	if (rc != SVC_OK)
		return svc_error_set(err, rc,
		    "no thread to look after a watch of registry %s",
		    registry->ops->name);
	feed->has_fallback = true;
	return SVC_OK;
}
