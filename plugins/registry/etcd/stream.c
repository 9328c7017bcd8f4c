/* SPDX-License-Identifier: Apache-2.0 */
/* The stream on which the changes of all watches come. */
#include "watcher.h"

#include <svc/clock.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
	QUIET_MS = 5000, /* silence after which server and stream are asked */
	ANEW_MS = 15000, /* silence after which it is opened anew */
};

static void
forget_followed(struct watcher *watcher, struct watch *watch)
{
	HASH_DEL(watcher->followed, watch);
	watcher->n_pending -= !watch->created;
}

void
stream_end(struct watcher *watcher)
{
	struct watch *watch, *next;
	if (!watcher->open)
		return;
	etcd_call_end(&watcher->stream);
	watcher->open = watcher->asks_alive = false;
	HASH_ITER (hh, watcher->followed, watch, next) {
		forget_followed(watcher, watch);
		watch->state = SYNCED;
	}
}

/* From SYNCED on it goes on where it was. */
static svc_err
stream_open(struct watcher *watcher, struct svc_error *err)
{
	watcher->open = true;
	watcher->is_stale = false;
	watcher->scanned = 0;
	watcher->opened_at_ms = svc_now_ms();
	watcher->heard_at_ms = 0;
	watcher->quiet_at_ms = svc_deadline(QUIET_MS);
	watcher->anew_at_ms = watcher->confirm_at_ms = svc_deadline(ANEW_MS);
	return etcd_call_begin(&watcher->stream, watcher->etcd, watcher->http,
	    watcher->server, "/v3/watch", NULL, true, err);
}

static void
put_create(struct svc_buf *body, const struct watch *watch)
{
	svc_buf_puts(body, "{\"create_request\":{");
	kv_put_range(body, watch->service);
	svc_buf_printf(body,
	    ",\"watch_id\":\"%" PRId64 "\",\"start_revision\":\"%" PRId64
	    "\",\"prev_kv\":true,\"progress_notify\":true}}\n",
	    watch->id, watch->revision + 1);
}

svc_err
stream_follow(struct watcher *watcher, struct svc_error *err)
{
	struct svc_buf creates;
	struct watch *watch;
	svc_err rc = SVC_OK;
	svc_buf_init(&creates, ANSWER_MAX);
	DL_FOREACH (watcher->watches, watch) {
		if (watch->state != SYNCED)
			continue;
		if (!watcher->open)
			rc = stream_open(watcher, err);
		if (rc != SVC_OK || watcher->stream.logs_in)
			break;
		watch->id = ++watcher->last_id;
		HASH_ADD(hh, watcher->followed, id, sizeof(watch->id), watch);
		if (watch->hh.tbl == NULL) {
			creates.failed = SVC_E_NOMEM;
			break;
		}
		watch->created = false;
		watch->state = FOLLOWED;
		if (watcher->n_pending++ == 0)
			watcher->confirm_at_ms = svc_deadline(ANEW_MS);
		put_create(&creates, watch);
	}
	if (rc == SVC_OK) {
		rc = creates.failed;
		if (rc == SVC_OK && creates.len > 0)
			rc = http_say(watcher->http, creates.data, creates.len);
		if (rc != SVC_OK)
			svc_error_set(err, rc, "no memory for a watch");
	}
	svc_buf_fini(&creates);
	return rc;
}

void
stream_unfollow(struct watcher *watcher, struct watch *watch)
{
	char text[80];
	int len = snprintf(text, sizeof(text),
	    "{\"cancel_request\":{\"watch_id\":\"%" PRId64 "\"}}\n", watch->id);
	forget_followed(watcher, watch);
	/* When there is no memory for it, its changes are ignored. */
	http_say(watcher->http, text, (size_t)len);
}

static struct watch *
find_followed(struct watcher *watcher, const struct message_watch *said)
{
	struct watch *watch;
	HASH_FIND(hh, watcher->followed, &said->id, sizeof(said->id), watch);
	/* A watch that is refused is not named by some, but they are answered
	 * in the order in which they were made. */
	if (watch == NULL && said->canceled && said->created)
		for (watch = watcher->followed; watch != NULL && watch->created;
		     watch = watch->hh.next)
			;
	return watch;
}

/* It was refused, or its history is gone. */
static void
canceled(struct watcher *watcher, struct watch *watch, bool compacted)
{
	struct svc_error err = {0};
	svc_error_set(&err, SVC_E_ABORTED, "etcd at %s ended a watch%s",
	    watcher_url(watcher),
	    compacted ? " (its history was compacted)" : "");
	lose(watcher, watch, &err);
	/* A stream keeps the token that it was opened with. */
	watcher->is_stale =
	    watcher->is_stale || etcd_has_new_token(&watcher->stream);
}

static void
confirmed(struct watcher *watcher, struct watch *watch)
{
	if (watch->created)
		return;
	watch->created = true;
	watcher->n_pending--;
	watcher->confirm_at_ms = svc_deadline(ANEW_MS);
}

static void
deliver(
    struct watcher *watcher, struct watch *watch, struct message_watch *said)
{
	const cJSON *event;
	struct svc_error err = {0};
	svc_err rc = SVC_OK;
	if (said->events != NULL && call_begins(watcher, watch)) {
		cJSON_ArrayForEach (event, said->events)
			if (rc == SVC_OK)
				rc = kv_deliver_event(&watcher->etcd->skips,
				    event, watch->sink, watch->arg);
		call_ends(watcher, watch);
	}
	/* The head of a line with events may be ahead of them, and that of the
	 * first line of what is still to come. */
	if (said->events == NULL && !said->created)
		said->last_revision = said->revision;
	if (said->last_revision > watch->revision)
		watch->revision = said->last_revision;
	if (rc != SVC_OK) {
		svc_error_set(&err, rc, "no memory for a change");
		lose(watcher, watch, &err);
	}
}

static svc_err
one_line(struct watcher *watcher, const char *text, size_t len,
    struct svc_error *err)
{
	struct message_watch said;
	svc_err rc = message_watch_read(text, len, &said);
	if (rc != SVC_OK) {
		rc = svc_error_set(err, SVC_E_UNAVAILABLE,
		    "etcd at %s sent no result on a watch",
		    watcher_url(watcher));
		message_watch_fini(&said);
		return rc;
	}
	/* NULL: of one that has left, or an answer to `progress`. */
	struct watch *watch = find_followed(watcher, &said);
	if (watch != NULL && said.canceled) {
		canceled(watcher, watch, said.compacted);
	} else if (watch != NULL) {
		rc =
		    check_history(watcher, said.revision, watch->revision, err);
		confirmed(watcher, watch);
		if (rc == SVC_OK)
			deliver(watcher, watch, &said);
	}
	message_watch_fini(&said);
	return rc;
}

static svc_err
whole_lines(struct watcher *watcher, struct svc_error *err)
{
	struct svc_buf *line = &watcher->stream.answer;
	svc_err rc = SVC_OK;
	size_t done = 0;
	while (rc == SVC_OK && watcher->scanned < line->len) {
		const char *data = (const char *)line->data;
		const char *end = memchr(data + watcher->scanned, '\n',
		    line->len - watcher->scanned);
		if (end == NULL) {
			watcher->scanned = line->len;
			break;
		}
		size_t next = (size_t)(end - data) + 1;
		if (next - done > 1)
			rc = one_line(
			    watcher, data + done, next - done - 1, err);
		done = next;
		watcher->scanned = next;
	}
	svc_buf_consume(line, done);
	watcher->scanned -= done;
	return rc;
}

static svc_err
receive(struct watcher *watcher, struct svc_error *err)
{
	svc_err rc = SVC_OK;
	if (!watcher->stream.logs_in &&
	    watcher->stream.answer.len > watcher->scanned) {
		watcher->heard_at_ms = svc_now_ms();
		watcher->quiet_at_ms = svc_deadline(QUIET_MS);
		watcher->anew_at_ms = svc_deadline(ANEW_MS);
		rc = whole_lines(watcher, err);
	}
	if (rc == SVC_OK)
		rc = etcd_call_look(&watcher->stream, NULL, err);
	return rc == SVC_E_AGAIN ? SVC_OK : rc;
}

/* The stream to say something, and whether the server is alive. */
static void
ask_both(struct watcher *watcher)
{
	static const char progress[] = "{\"progress_request\":{}}\n";
	watcher->quiet_at_ms = svc_deadline(QUIET_MS);
	if (!watcher->stream.logs_in)
		http_say(watcher->http, progress, sizeof(progress) - 1);
	watcher->asks_alive = true;
}

void
stream_look(struct watcher *watcher)
{
	struct svc_error err = {0};
	svc_err rc = receive(watcher, &err);
	if (rc == SVC_OK && watcher->n_pending > 0 &&
	    svc_remaining(watcher->confirm_at_ms) == 0)
		rc = svc_error_set(&err, SVC_E_UNAVAILABLE,
		    "etcd at %s does not answer a watch", watcher_url(watcher));
	if (rc != SVC_OK)
		server_failed(watcher, &err);
	else if (watcher->is_stale || svc_remaining(watcher->anew_at_ms) == 0)
		stream_end(watcher);
	else if (svc_remaining(watcher->quiet_at_ms) == 0)
		ask_both(watcher);
}
