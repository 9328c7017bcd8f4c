/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch of all services.
 *
 * A blocking query for each service would need a connection for each, of which
 * an agent allows a host 200. So there are two, whatever the number of
 * services, and a third connection to ask on: on the catalogue's list, which
 * consul answers whenever an instance of any service comes, goes or changes,
 * and on the checks that do not pass. What they say is compared with what they
 * said before, and the services that differ are asked for at once. The list has
 * names and tags only; that a node moved or that one like the others came does
 * not show in it. So after each change of the list all the others are asked for
 * too, one after the other, and never so often that this takes more than a
 * tenth of the time.
 *
 * One thread asks and reports; the two queries leave their answers with it.
 * Lock: watch.lock guards what they leave and nothing else.
 */
#include "watch.h"

#include "follow.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <string.h>

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) svc_mem_alloc(size)
#define uthash_free(block, size) svc_mem_free(block)
#include <uthash.h>

enum {
	SWEEP_MS = 1000,  /* between two rounds through all, at least */
	SWEEP_SHARE = 10, /* and so many times as long as one takes */
	PAUSE_MS = 500,   /* after a question that failed */
};

/* A service whose nodes were reported. */
struct known {
	UT_hash_handle hh;
	struct ids ids;
	bool dirty;
	uint64_t round; /* of the sweep that fetched it last */
	char name[];
};

/* The latest answer of one of the two queries. */
struct slot {
	struct watch_all *watch;
	svc_err (*read)(const void *data, size_t len, struct marks *ret_marks,
	    struct svc_error *err);
	struct follow *follow;
	struct marks marks;
	bool fresh;   /* it was not looked at yet */
	bool present; /* it is an answer since the last break */
};

struct watch_all {
	struct consul *consul;
	svc_watch_sink sink;
	void *arg;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	atomic_bool ending;
	struct http *http;
	struct slot services, checks;
	bool broken; /* one of them was lost */
	/* Of the thread. */
	struct known *known;
	struct marks seen_services, seen_checks;
	bool complete; /* the full state was reported, and changes follow */
	/* The sweep: whether there is to be one, whether it has begun, and
	 * whether there is to be another one after it. */
	bool sweep, sweeping, sweep_again;
	uint64_t round;
	int64_t sweep_at_ms; /* when it may begin */
	int64_t sweep_ms;    /* how long it took until now */
};

/* ----------------------------------------------------------- the two queries
 */

static void
on_lost(void *arg)
{
	struct slot *slot = arg;
	struct watch_all *watch = slot->watch;
	pthread_mutex_lock(&watch->lock);
	slot->present = false;
	watch->broken = true;
	pthread_cond_broadcast(&watch->cond);
	pthread_mutex_unlock(&watch->lock);
}

static svc_err
on_answer(
    const struct svc_buf *answer, bool fresh, void *arg, struct svc_error *err)
{
	struct slot *slot = arg;
	struct watch_all *watch = slot->watch;
	struct marks marks = {0};
	(void)fresh;
	svc_err rc = slot->read(answer->data, answer->len, &marks, err);
	if (rc != SVC_OK)
		return rc;
	pthread_mutex_lock(&watch->lock);
	marks_fini(&slot->marks);
	slot->marks = marks;
	slot->fresh = true;
	slot->present = true;
	pthread_cond_broadcast(&watch->cond);
	pthread_mutex_unlock(&watch->lock);
	return SVC_OK;
}

static const struct follow_ops ops = {.lost = on_lost, .answer = on_answer};

/* With the lock: moves an answer that was not looked at to the thread. */
static bool
take(struct slot *slot, struct marks *ret_marks)
{
	if (!slot->fresh)
		return false;
	*ret_marks = slot->marks;
	slot->marks = (struct marks){0};
	slot->fresh = false;
	return true;
}

/* ------------------------------------------------------------------ services
 */

static struct known *
find(struct watch_all *watch, const char *name)
{
	struct known *known;
	HASH_FIND_STR(watch->known, name, known);
	return known;
}

static struct known *
add(struct watch_all *watch, const char *name)
{
	size_t len = strlen(name);
	struct known *known = svc_mem_calloc(1, sizeof(*known) + len + 1);
	if (known == NULL)
		return NULL;
	memcpy(known->name, name, len + 1);
	HASH_ADD_KEYPTR(hh, watch->known, known->name, len, known);
	if (known->hh.tbl == NULL) {
		svc_mem_free(known);
		return NULL;
	}
	return known;
}

static void
forget(struct watch_all *watch, struct known *known)
{
	HASH_DELETE(hh, watch->known, known);
	ids_fini(&known->ids);
	svc_mem_free(known);
}

static void
forget_all(struct watch_all *watch)
{
	struct known *known, *next;
	HASH_ITER (hh, watch->known, known, next)
		forget(watch, known);
}

static void
on_node(const struct svc_record *record, void *arg)
{
	struct watch_all *watch = arg;
	watch->sink(SVC_WATCH_NODE, record, watch->arg);
}

static void
on_gone(const struct svc_record *record, void *arg)
{
	struct watch_all *watch = arg;
	watch->sink(SVC_WATCH_GONE, record, watch->arg);
}

/* Asks for the nodes of one service and reports them. */
static svc_err
fetch(struct watch_all *watch, struct known *known, struct svc_error *err)
{
	struct consul *consul = watch->consul;
	struct svc_buf path, answer;
	struct ids ids = {0};
	svc_buf_init(&path, 1024);
	svc_buf_init(&answer, ANSWER_MAX);
	watch_put_path(consul, known->name, &path);
	struct question question = {
	    .method = "GET", .path = (const char *)path.data};
	svc_err rc = SVC_E_NOMEM;
	if (path.failed == SVC_OK)
		rc = consul_ask(consul, watch->http, &watch->ending, &question,
		    svc_deadline(consul->timeout_ms), &answer, err);
	if (rc == SVC_OK)
		rc = answer_nodes(&consul->skips, known->name, answer.data,
		    answer.len, &known->ids, on_node, watch, &ids, err);
	if (rc == SVC_OK) {
		ids_gone(known->name, &known->ids, &ids, on_gone, watch);
		ids_fini(&known->ids);
		known->ids = ids;
		known->dirty = false;
	}
	svc_buf_fini(&path);
	svc_buf_fini(&answer);
	return rc;
}

/* Those that are marked, or all. */
static svc_err
fetch_some(struct watch_all *watch, bool all, struct svc_error *err)
{
	struct known *known, *next;
	svc_err rc = SVC_OK;
	HASH_ITER (hh, watch->known, known, next) {
		if (rc == SVC_OK && (all || known->dirty))
			rc = fetch(watch, known, err);
	}
	return rc;
}

/* -------------------------------------------------------------- what differs
 */

struct difference {
	struct watch_all *watch;
	bool all, no_memory;
};

static void
service_differs(const char *name, void *arg)
{
	struct difference *difference = arg;
	struct known *known = find(difference->watch, name);
	if (known == NULL)
		known = add(difference->watch, name);
	if (known != NULL)
		known->dirty = true;
	else
		difference->no_memory = true;
}

static void
check_differs(const char *name, void *arg)
{
	struct difference *difference = arg;
	/* A host's own check is every service's. */
	if (*name == '\0')
		difference->all = true;
	struct known *known = find(difference->watch, name);
	if (known != NULL)
		known->dirty = true;
}

/* ----------------------------------------------------------------- the thread
 */

static svc_err
full_state(struct watch_all *watch, struct svc_error *err)
{
	struct difference difference = {.watch = watch};
	const struct marks none = {0};
	watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
	forget_all(watch);
	marks_compare(
	    &none, &watch->seen_services, service_differs, &difference);
	if (difference.no_memory)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for the registry's answer");
	svc_err rc = fetch_some(watch, true, err);
	if (rc == SVC_OK)
		watch->sink(SVC_WATCH_SYNC, NULL, watch->arg);
	return rc;
}

static svc_err
changes(struct watch_all *watch, const struct marks *services,
    const struct marks *checks, struct svc_error *err)
{
	struct difference difference = {.watch = watch};
	if (services != NULL)
		marks_compare(services, &watch->seen_services, service_differs,
		    &difference);
	if (checks != NULL)
		marks_compare(
		    checks, &watch->seen_checks, check_differs, &difference);
	if (difference.no_memory)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for the registry's answer");
	return fetch_some(watch, difference.all, err);
}

static bool
has_news(struct watch_all *watch)
{
	pthread_mutex_lock(&watch->lock);
	bool news = watch->broken || watch->services.fresh ||
		    watch->checks.fresh || atomic_load(&watch->ending);
	pthread_mutex_unlock(&watch->lock);
	return news;
}

/* Once through all, after the list has changed and when it is time. News go
 * first; it goes on after them. */
static svc_err
sweep(struct watch_all *watch, struct svc_error *err)
{
	struct known *known, *next;
	int64_t now_ms = svc_now_ms();
	svc_err rc = SVC_OK;
	if (!watch->sweep || now_ms < watch->sweep_at_ms)
		return SVC_OK;
	watch->sweeping = true;
	HASH_ITER (hh, watch->known, known, next) {
		if (known->round == watch->round)
			continue;
		if (has_news(watch))
			return SVC_OK;
		rc = fetch(watch, known, err);
		if (rc != SVC_OK)
			return rc;
		known->round = watch->round;
		watch->sweep_ms += svc_now_ms() - now_ms;
		now_ms = svc_now_ms();
	}
	int64_t rest_ms = watch->sweep_ms * SWEEP_SHARE;
	watch->sweep_at_ms =
	    svc_deadline(rest_ms > SWEEP_MS ? rest_ms : SWEEP_MS);
	watch->sweep_ms = 0;
	watch->round++;
	watch->sweep = watch->sweep_again;
	watch->sweeping = watch->sweep_again = false;
	return SVC_OK;
}

/* Every service is to be asked for once more. A round that has begun may have
 * been through some of them already. */
static void
sweep_later(struct watch_all *watch)
{
	watch->sweep_again = watch->sweeping;
	watch->sweep = true;
}

/* Services without nodes whose name is not in the list any more. */
static void
tidy(struct watch_all *watch, const struct marks *services)
{
	struct known *known, *next;
	size_t i = 0;
	if (HASH_COUNT(watch->known) <= services->n)
		return;
	HASH_ITER (hh, watch->known, known, next) {
		if (known->ids.n > 0)
			continue;
		for (i = 0; i < services->n; i++)
			if (strcmp(services->list[i].name, known->name) == 0)
				break;
		if (i == services->n)
			forget(watch, known);
	}
}

/* Waits until there is something to do; false when it ends. */
static bool
wait_for_work(struct watch_all *watch)
{
	pthread_mutex_lock(&watch->lock);
	while (!atomic_load(&watch->ending)) {
		bool both = watch->services.present && watch->checks.present;
		int64_t until_ms = INT64_MAX;
		if (watch->broken)
			break;
		if (both && (!watch->complete || watch->services.fresh ||
				watch->checks.fresh))
			break;
		if (both && watch->sweep) {
			until_ms = watch->sweep_at_ms;
			if (svc_now_ms() >= until_ms)
				break;
		}
		svc_cond_wait(&watch->cond, &watch->lock, until_ms);
	}
	pthread_mutex_unlock(&watch->lock);
	return !atomic_load(&watch->ending);
}

static svc_err
turn(struct watch_all *watch, struct svc_error *err)
{
	struct marks services = {0}, checks = {0};
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&watch->lock);
	bool broken = watch->broken;
	bool both = watch->services.present && watch->checks.present;
	watch->broken = false;
	bool has_services = both && take(&watch->services, &services);
	bool has_checks = both && take(&watch->checks, &checks);
	pthread_mutex_unlock(&watch->lock);
	if (broken) {
		watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
		watch->complete = false;
	}
	/* From now on `services` and `checks` are those before. */
	if (has_services) {
		struct marks now = services;
		services = watch->seen_services;
		watch->seen_services = now;
		sweep_later(watch);
	}
	if (has_checks) {
		struct marks now = checks;
		checks = watch->seen_checks;
		watch->seen_checks = now;
	}
	if (both && !watch->complete) {
		rc = full_state(watch, err);
		watch->complete = rc == SVC_OK;
		watch->sweep = watch->sweeping = watch->sweep_again = false;
		watch->sweep_ms = 0;
		watch->round++;
	} else if (both) {
		rc = changes(watch, has_services ? &services : NULL,
		    has_checks ? &checks : NULL, err);
		if (rc == SVC_OK)
			rc = sweep(watch, err);
		if (rc == SVC_OK)
			tidy(watch, &watch->seen_services);
	}
	marks_fini(&services);
	marks_fini(&checks);
	return rc;
}

static void *
run(void *arg)
{
	struct watch_all *watch = arg;
	bool said = false;
	while (wait_for_work(watch)) {
		struct svc_error err = {0};
		svc_err rc = turn(watch, &err);
		if (rc == SVC_OK) {
			said = false;
			continue;
		}
		if (atomic_load(&watch->ending))
			break;
		if (!said)
			svc_log(SVC_LOG_WARN, "consul.lost",
			    "the watch of all services is broken, known nodes "
			    "stay: %s",
			    err.text);
		said = true;
		watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
		watch->complete = false;
		int64_t until_ms = svc_deadline(PAUSE_MS);
		pthread_mutex_lock(&watch->lock);
		while (!atomic_load(&watch->ending) && svc_now_ms() < until_ms)
			svc_cond_wait(&watch->cond, &watch->lock, until_ms);
		pthread_mutex_unlock(&watch->lock);
	}
	return NULL;
}

/* ------------------------------------------------------------ making, ending
 */

static void
watch_free(struct watch_all *watch)
{
	follow_stop(watch->services.follow);
	follow_stop(watch->checks.follow);
	http_destroy(watch->http);
	forget_all(watch);
	marks_fini(&watch->services.marks);
	marks_fini(&watch->checks.marks);
	marks_fini(&watch->seen_services);
	marks_fini(&watch->seen_checks);
	pthread_cond_destroy(&watch->cond);
	pthread_mutex_destroy(&watch->lock);
	svc_mem_free(watch);
}

static svc_err
start_query(struct slot *slot, const char *path, const char *what,
    struct svc_error *err)
{
	struct svc_buf whole;
	struct consul *consul = slot->watch->consul;
	svc_buf_init(&whole, 1024);
	svc_buf_printf(&whole, "%s%s", path, consul->datacenter);
	svc_err rc = SVC_E_NOMEM;
	if (whole.failed == SVC_OK)
		rc = follow_start(consul, (const char *)whole.data, what, &ops,
		    slot, &slot->follow, err);
	else
		svc_error_set(err, rc, "no memory for a watch");
	svc_buf_fini(&whole);
	return rc;
}

svc_err
watch_all_start(struct consul *consul, svc_watch_sink sink, void *arg,
    struct watch_all **ret_watch, struct svc_error *err)
{
	struct watch_all *watch = svc_mem_calloc(1, sizeof(*watch));
	if (watch == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	pthread_mutex_init(&watch->lock, NULL);
	svc_cond_init(&watch->cond);
	watch->consul = consul;
	watch->sink = sink;
	watch->arg = arg;
	watch->services =
	    (struct slot){.watch = watch, .read = answer_services};
	watch->checks = (struct slot){.watch = watch, .read = answer_checks};
	svc_err rc = http_create(NULL, &watch->http);
	if (rc == SVC_OK)
		rc = start_query(&watch->services, "/v1/catalog/services?",
		    "the list of services", err);
	else
		svc_error_set(err, rc, "no memory for a watch");
	/* An agent that does not know filters answers with all checks. */
	if (rc == SVC_OK)
		rc = start_query(&watch->checks,
		    "/v1/health/state/any?filter=Status%20%21%3D%20%22passing"
		    "%22",
		    "the checks of all services", err);
	if (rc == SVC_OK) {
		rc = svc_thread_start(
		    &watch->thread, "svc-consul-all", run, watch);
		if (rc != SVC_OK)
			svc_error_set(err, rc, "no thread for a watch");
	}
	if (rc != SVC_OK) {
		watch_free(watch);
		return rc;
	}
	*ret_watch = watch;
	return SVC_OK;
}

void
watch_all_stop(struct watch_all *watch)
{
	pthread_mutex_lock(&watch->lock);
	atomic_store(&watch->ending, true);
	pthread_cond_broadcast(&watch->cond);
	pthread_mutex_unlock(&watch->lock);
	http_wake(watch->http);
	svc_thread_join(watch->thread);
	watch_free(watch);
}
