/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A watch reads everything of its service at some revision and receives the
 * changes from the next one on, so nothing falls between. One thread does that
 * for all watches. Their changes come on one stream, to which a watch is added
 * while it runs; full states are asked for a few at a time, by the side.
 *
 * What goes wrong with one watch (its history was compacted, its question got
 * lost) is its own affair: it asks again, later and later. When the stream
 * breaks, or the server does not answer whether it is alive, or there is no
 * stream and no answer, the server has failed and all begin anew at the next.
 *
 * Something between here and there may drop all that goes through a connection
 * without a word. So a stream that is silent is asked to say something, and
 * opened anew when it does not, which repeats what was missed.
 *
 * Lock: watcher.lock guards the watches that are new, and `ending`, `calling`
 * and `left` of each. It is not held during a call. All else is the thread's.
 */
#include "watcher.h"

#include <address/address.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <inttypes.h>

enum {
	STEADY_MS = 1000, /* what lasted so long was a success */
	MANUAL_MS = 20,   /* between two looks at a manual clock */
};

const char *
watcher_url(const struct watcher *watcher)
{
	return http_servers_url(watcher->etcd->servers, watcher->server);
}

static void
wake_by(struct watcher *watcher, int64_t at_ms)
{
	if (at_ms < watcher->wake_at_ms)
		watcher->wake_at_ms = at_ms;
}

bool
call_begins(struct watcher *watcher, struct watch *watch)
{
	pthread_mutex_lock(&watcher->lock);
	watch->calling = !watch->ending;
	bool may = watch->calling;
	pthread_mutex_unlock(&watcher->lock);
	return may;
}

void
call_ends(struct watcher *watcher, struct watch *watch)
{
	pthread_mutex_lock(&watcher->lock);
	watch->calling = false;
	if (watch->ending)
		pthread_cond_broadcast(&watcher->returned);
	pthread_mutex_unlock(&watcher->lock);
}

/* ----------------------------------------------------------------- failures */

const char *
what(const struct watch *watch)
{
	return watch->service != NULL ? watch->service : "all services";
}

void
lose(struct watcher *watcher, struct watch *watch, const struct svc_error *err)
{
	if (watch->created && svc_now_ms() - watch->synced_at_ms >= STEADY_MS)
		watch->attempt = 0;
	if (watch->state == FOLLOWED)
		stream_unfollow(watcher, watch);
	if (!watch->said_lost)
		svc_log(SVC_LOG_WARN, "etcd.lost",
		    "the watch of %s is broken, known nodes stay: %s",
		    what(watch), err->text);
	watch->said_lost = true;
	watch->created = false;
	watch->state = LOST;
	watch->due_at_ms = svc_deadline(address_pause_ms(watch->attempt++, 1));
	wake_by(watcher, watch->due_at_ms);
}

/* The one that answered others last, unless it is the one that failed. */
static size_t
next_server(const struct watcher *watcher)
{
	size_t current = atomic_load(&watcher->etcd->current);
	if (current != watcher->server)
		return current;
	return (watcher->server + 1) % watcher->etcd->n_servers;
}

void
server_failed(struct watcher *watcher, const struct svc_error *err)
{
	struct watch *watch;
	if (watcher->open && watcher->heard_at_ms != 0 &&
	    svc_now_ms() - watcher->opened_at_ms >= STEADY_MS)
		watcher->attempt = 0;
	stream_end(watcher);
	if (!watcher->said_lost)
		svc_log(SVC_LOG_WARN, "etcd.lost",
		    "all watches are broken, known nodes stay: %s", err->text);
	watcher->said_lost = true;
	watcher->doubted = false;
	watcher->server = next_server(watcher);
	watcher->due_at_ms = svc_deadline(
	    address_pause_ms(watcher->attempt++, watcher->etcd->n_servers));
	wake_by(watcher, watcher->due_at_ms);
	for (size_t i = 0; i < QUESTIONS; i++)
		if (watcher->questions[i].watch == NULL ||
		    watcher->questions[i].call.server != watcher->server)
			question_end(&watcher->questions[i]);
	DL_FOREACH (watcher->watches, watch) {
		if (watch->state == ASKED)
			continue;
		watch->state = LOST;
		watch->due_at_ms = 0;
	}
}

svc_err
check_history(const struct watcher *watcher, int64_t revision, int64_t seen,
    struct svc_error *err)
{
	if (revision == 0 || revision >= seen)
		return SVC_OK;
	return svc_error_set(err, SVC_E_ABORTED,
	    "etcd at %s has lost its data, it is at revision %" PRId64
	    " after %" PRId64,
	    watcher_url(watcher), revision, seen);
}

/* ------------------------------------------------------------- the thread */

static void
watch_free(struct watch *watch)
{
	svc_mem_free(watch->service);
	svc_mem_free(watch);
}

/* With the lock. */
static void
come_and_go(struct watcher *watcher)
{
	struct watch *watch, *next;
	if (watcher->watches == NULL)
		watcher->server = atomic_load(&watcher->etcd->current);
	DL_CONCAT(watcher->watches, watcher->arrivals);
	watcher->arrivals = NULL;
	if (watcher->n_leaving == 0)
		return;
	watcher->n_leaving = 0;
	DL_FOREACH_SAFE (watcher->watches, watch, next) {
		if (!watch->left)
			continue;
		for (size_t i = 0; i < QUESTIONS; i++)
			if (watcher->questions[i].watch == watch)
				question_end(&watcher->questions[i]);
		if (watch->state == FOLLOWED)
			stream_unfollow(watcher, watch);
		DL_DELETE(watcher->watches, watch);
		watch_free(watch);
	}
	if (watcher->watches != NULL)
		return;
	stream_end(watcher);
	for (size_t i = 0; i < QUESTIONS; i++)
		question_end(&watcher->questions[i]);
}

static int64_t
due_at(const struct watcher *watcher, const struct watch *watch)
{
	return watch->due_at_ms > watcher->due_at_ms ? watch->due_at_ms
						     : watcher->due_at_ms;
}

static void
turn(struct watcher *watcher)
{
	struct svc_error err = {0};
	struct question *question;
	struct watch *watch;
	watcher->wake_at_ms = INT64_MAX;
	for (size_t i = 0; i < QUESTIONS; i++)
		if (watcher->questions[i].asked)
			question_look(watcher, &watcher->questions[i]);
	if (watcher->open)
		stream_look(watcher);
	/* Before the others, which may be many and go unanswered. */
	if (watcher->asks_alive && (question = question_free(watcher)) != NULL)
		question_ask_alive(watcher, question);
	DL_FOREACH (watcher->watches, watch) {
		if (watch->state != LOST)
			continue;
		if (svc_remaining(due_at(watcher, watch)) > 0)
			wake_by(watcher, due_at(watcher, watch));
		else if ((question = question_free(watcher)) != NULL)
			question_ask(watcher, question, watch);
	}
	if (stream_follow(watcher, &err) != SVC_OK)
		server_failed(watcher, &err);
	if (watcher->open) {
		wake_by(watcher, watcher->quiet_at_ms);
		wake_by(watcher, watcher->anew_at_ms);
		if (watcher->n_pending > 0)
			wake_by(watcher, watcher->confirm_at_ms);
	}
}

static void *
run(void *arg)
{
	struct watcher *watcher = arg;
	pthread_mutex_lock(&watcher->lock);
	while (!watcher->ending) {
		come_and_go(watcher);
		pthread_mutex_unlock(&watcher->lock);
		turn(watcher);
		int64_t wait_ms = svc_remaining(watcher->wake_at_ms);
		if (svc_clock_is_manual())
			wait_ms = MANUAL_MS;
		http_set_run(watcher->set, wait_ms);
		pthread_mutex_lock(&watcher->lock);
	}
	pthread_mutex_unlock(&watcher->lock);
	return NULL;
}

/* ----------------------------------------------------------- from outside */

svc_err
watcher_create(
    struct etcd *etcd, struct watcher **ret_watcher, struct svc_error *err)
{
	struct watcher *watcher = svc_mem_calloc(1, sizeof(*watcher));
	svc_err rc = SVC_E_NOMEM;
	if (watcher != NULL) {
		watcher->etcd = etcd;
		pthread_mutex_init(&watcher->lock, NULL);
		svc_cond_init(&watcher->returned);
		rc = http_set_create(1 + QUESTIONS, &watcher->set);
	}
	if (rc == SVC_OK)
		rc = http_create(watcher->set, &watcher->http);
	for (size_t i = 0; rc == SVC_OK && i < QUESTIONS; i++)
		rc = http_create(watcher->set, &watcher->questions[i].http);
	if (rc != SVC_OK) {
		watcher_destroy(watcher);
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry etcd");
	}
	*ret_watcher = watcher;
	return SVC_OK;
}

void
watcher_destroy(struct watcher *watcher)
{
	struct watch *watch, *next;
	if (watcher == NULL)
		return;
	pthread_mutex_lock(&watcher->lock);
	watcher->ending = true;
	pthread_mutex_unlock(&watcher->lock);
	if (watcher->running) {
		http_set_wake(watcher->set);
		svc_thread_join(watcher->thread);
	}
	stream_end(watcher);
	http_destroy(watcher->http);
	for (size_t i = 0; i < QUESTIONS; i++) {
		question_end(&watcher->questions[i]);
		kv_range_fini(&watcher->questions[i].range);
		http_destroy(watcher->questions[i].http);
	}
	http_set_destroy(watcher->set);
	DL_CONCAT(watcher->watches, watcher->arrivals);
	DL_FOREACH_SAFE (watcher->watches, watch, next)
		watch_free(watch);
	pthread_cond_destroy(&watcher->returned);
	pthread_mutex_destroy(&watcher->lock);
	svc_mem_free(watcher);
}

svc_err
watch_start(struct watcher *watcher, const char *service, svc_watch_sink sink,
    void *arg, struct watch **ret_watch, struct svc_error *err)
{
	struct watch *watch = svc_mem_calloc(1, sizeof(*watch));
	svc_err rc = SVC_E_NOMEM;
	if (watch != NULL) {
		watch->sink = sink;
		watch->arg = arg;
		watch->service = svc_mem_strdup(service);
	}
	pthread_mutex_lock(&watcher->lock);
	if (watch != NULL && (service == NULL || watch->service != NULL))
		rc = watcher->running ? SVC_OK
				      : svc_thread_start(&watcher->thread,
					    "svc-etcd", run, watcher);
	if (rc == SVC_OK) {
		watcher->running = true;
		DL_APPEND(watcher->arrivals, watch);
	}
	pthread_mutex_unlock(&watcher->lock);
	if (rc != SVC_OK) {
		if (watch != NULL)
			watch_free(watch);
		return svc_error_set(
		    err, rc, "no memory or thread for a watch");
	}
	http_set_wake(watcher->set);
	*ret_watch = watch;
	return SVC_OK;
}

void
watch_stop(struct watcher *watcher, struct watch *watch)
{
	pthread_mutex_lock(&watcher->lock);
	watch->ending = true;
	while (watch->calling)
		svc_cond_wait(&watcher->returned, &watcher->lock, INT64_MAX);
	watch->left = true; /* the thread frees it */
	watcher->n_leaving++;
	pthread_mutex_unlock(&watcher->lock);
	http_set_wake(watcher->set);
}
