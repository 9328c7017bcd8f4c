/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked by the side: full states, and whether the server is alive. */
#include "watcher.h"

#include <svc/clock.h>
#include <svc/log.h>

static void
deliver_node(const struct svc_record *record, void *arg)
{
	struct watch *watch = arg;
	watch->sink(SVC_WATCH_NODE, record, watch->arg);
}

void
question_end(struct question *question)
{
	if (!question->asked)
		return;
	etcd_call_end(&question->call);
	svc_buf_fini(&question->body);
	question->asked = false;
	if (question->watch != NULL)
		question->watch->state = LOST;
}

struct question *
question_free(struct watcher *watcher)
{
	for (size_t i = 0; i < QUESTIONS; i++)
		if (!watcher->questions[i].asked)
			return &watcher->questions[i];
	return NULL;
}

/* What is in its body. */
static svc_err
ask(struct watcher *watcher, struct question *question, struct svc_error *err)
{
	question->asked = true;
	question->attempt = watcher->attempt;
	question->asked_at_ms = svc_now_ms();
	return etcd_call_begin(&question->call, watcher->etcd, question->http,
	    watcher->server, "/v3/kv/range", &question->body, false, err);
}

static svc_err
ask_page(
    struct watcher *watcher, struct question *question, struct svc_error *err)
{
	svc_buf_init(&question->body, KV_RANGE_MAX);
	kv_range_put(&question->range, &question->body);
	return ask(watcher, question, err);
}

static void
range_failed(struct watcher *watcher, const struct question *question,
    svc_err rc, const struct svc_error *err)
{
	bool absent = etcd_is_absent(rc), refused = question->call.shut_out;
	if (!refused && (watcher->open || !absent)) {
		lose(watcher, question->watch, err);
		/* It alone got lost, or the server is no more. */
		if (absent && watcher->heard_at_ms < question->asked_at_ms)
			watcher->asks_alive = true;
		return;
	}
	/* Those that were asked together fail together, and those who are
	 * refused do not log in one after the other, which costs etcd more
	 * than all else. */
	if (question->attempt == watcher->attempt)
		server_failed(watcher, err);
}

void
question_ask(
    struct watcher *watcher, struct question *question, struct watch *watch)
{
	struct svc_error err = {0};
	if (!call_begins(watcher, watch))
		return;
	watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
	call_ends(watcher, watch);
	question->watch = watch;
	watch->state = ASKED;
	kv_range_begin(&question->range, watch->service);
	svc_err rc = ask_page(watcher, question, &err);
	if (rc == SVC_OK)
		return;
	question_end(question);
	range_failed(watcher, question, rc, &err);
}

static void
synced(struct watcher *watcher, struct watch *watch, int64_t revision)
{
	watch->revision = revision;
	watch->state = SYNCED;
	watch->synced_at_ms = svc_now_ms();
	watcher->due_at_ms = 0;
	atomic_store(&watcher->etcd->current, watcher->server);
	if (watcher->said_lost)
		svc_log(SVC_LOG_INFO, "etcd.back", "watches go on at %s",
		    watcher_url(watcher));
	else if (watch->said_lost)
		svc_log(SVC_LOG_INFO, "etcd.back",
		    "the watch of %s goes on at %s", what(watch),
		    watcher_url(watcher));
	watcher->said_lost = watch->said_lost = false;
}

static void
range_answered(struct watcher *watcher, struct question *question, svc_err rc,
    const cJSON *answer, struct svc_error *err)
{
	struct watch *watch = question->watch;
	struct kv_range *range = &question->range;
	if (!call_begins(watcher, watch))
		return;
	if (rc == SVC_OK)
		rc = kv_range_take(range, &watcher->etcd->skips, answer,
		    deliver_node, watch, err);
	if (rc == SVC_OK && !range->more)
		watch->sink(SVC_WATCH_SYNC, NULL, watch->arg);
	call_ends(watcher, watch);
	if (rc == SVC_OK && range->more) {
		watch->state = ASKED;
		rc = ask_page(watcher, question, err);
		if (rc == SVC_OK)
			return;
		question_end(question);
	}
	if (rc == SVC_OK)
		synced(watcher, watch, range->revision);
	else
		range_failed(watcher, question, rc, err);
}

/* A read that the majority must agree to, so that a server which is cut off
 * from the others is left as well as one that is frozen. One at a time: that
 * two got lost is to mean something. */
void
question_ask_alive(struct watcher *watcher, struct question *question)
{
	struct svc_error err = {0};
	/* One that may be read, when there is one. */
	const struct watch *watch =
	    watcher->followed != NULL ? watcher->followed : watcher->watches;
	watcher->asks_alive = false;
	for (size_t i = 0; i < QUESTIONS; i++)
		if (watcher->questions[i].asked &&
		    watcher->questions[i].watch == NULL)
			return;
	if (watch == NULL)
		return;
	const char *service = watch->service;
	question->watch = NULL;
	question->revision = 0;
	for (watch = watcher->followed; watch != NULL; watch = watch->hh.next)
		if (watch->revision > question->revision)
			question->revision = watch->revision;
	svc_buf_init(&question->body, KV_RANGE_MAX);
	svc_buf_putc(&question->body, '{');
	kv_put_first(&question->body, service);
	svc_buf_putc(&question->body, '}');
	if (ask(watcher, question, &err) != SVC_OK)
		question_end(question);
}

static void
alive_answered(struct watcher *watcher, const struct question *question,
    svc_err rc, const cJSON *answer, struct svc_error *err)
{
	if (rc == SVC_OK)
		rc = check_history(
		    watcher, message_revision(answer), question->revision, err);
	if (rc == SVC_E_TIMEDOUT && !watcher->doubted &&
	    watcher->heard_at_ms >= question->asked_at_ms) {
		/* It says something: perhaps the question got lost. */
		watcher->doubted = true;
		watcher->quiet_at_ms = 0;
		return;
	}
	watcher->doubted = false;
	/* Who says anything else is alive. */
	if (etcd_is_absent(rc) || rc == SVC_E_ABORTED ||
	    question->call.shut_out)
		server_failed(watcher, err);
}

void
question_look(struct watcher *watcher, struct question *question)
{
	struct svc_error err = {0};
	cJSON *answer = NULL;
	svc_err rc = etcd_call_look(&question->call, &answer, &err);
	if (rc == SVC_E_AGAIN)
		return;
	question_end(question);
	if (question->watch != NULL)
		range_answered(watcher, question, rc, answer, &err);
	else
		alive_answered(watcher, question, rc, answer, &err);
	cJSON_Delete(answer);
}
