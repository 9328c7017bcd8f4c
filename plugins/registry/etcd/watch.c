/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A watch is one thread with two connections: one asks, the other receives the
 * changes. It reads everything at some revision and receives the changes from
 * the next one on, so nothing falls between. Whatever goes wrong ends that,
 * and it begins anew at the next server. Something between here and there may
 * drop a connection without a word, or all that goes through it, so a stream
 * that says nothing for a minute is replaced, which repeats what was missed.
 *
 * Lock: watch.lock guards nothing but the wait between two attempts; `ending`
 * is atomic, because it is looked at between two reads of a connection.
 */
#include "watch.h"

#include "kv.h"

#include <address/address.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <inttypes.h>
#include <string.h>

enum {
	QUIET_MS = 5000,  /* silence after which the server is asked */
	ANEW_MS = 60000,  /* silence after which the stream is opened anew */
	STEADY_MS = 1000, /* a stream that lasted so long was a success */
};

struct watch {
	struct etcd *etcd;
	char *service;
	svc_watch_sink sink;
	void *arg;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	atomic_bool ending;
	struct http *question; /* asks */
	struct http *stream;   /* receives */
	size_t server;
	int64_t revision; /* up to which everything has been reported */
	int64_t synced_at_ms;
	bool lost;        /* and said so */
	bool stale_token; /* it may be the reason of what went wrong */
	/* The stream: */
	struct svc_buf line;
	size_t scanned; /* bytes of `line` without its end */
	bool opened;
};

static const char *
url_of(const struct watch *watch)
{
	return http_servers_url(watch->etcd->servers, watch->server);
}

/* ------------------------------------------------------------- full state */

static svc_err
ask(void *arg, const char *path, const struct svc_buf *body, cJSON **ret_answer,
    struct svc_error *err)
{
	struct watch *watch = arg;
	bool next;
	return etcd_ask_at(watch->etcd, watch->question, watch->server, path,
	    body, etcd_try_ms(watch->etcd), &watch->ending, ret_answer, &next,
	    err);
}

static void
deliver_node(const struct svc_record *record, void *arg)
{
	struct watch *watch = arg;
	watch->sink(SVC_WATCH_NODE, record, watch->arg);
}

/* ---------------------------------------------------------------- changes */

/* History that is younger than what was seen is another one. */
static svc_err
check_history(
    const struct watch *watch, int64_t revision, struct svc_error *err)
{
	if (revision == 0 || revision >= watch->revision)
		return SVC_OK;
	return svc_error_set(err, SVC_E_ABORTED,
	    "etcd at %s has lost its data, it is at revision %" PRId64
	    " after %" PRId64,
	    url_of(watch), revision, watch->revision);
}

static svc_err
one_line(
    struct watch *watch, const char *text, size_t len, struct svc_error *err)
{
	struct message_watch said;
	const cJSON *event;
	svc_err rc = message_watch_read(text, len, &said);
	if (rc != SVC_OK) {
		rc = svc_error_set(err, SVC_E_UNAVAILABLE,
		    "etcd at %s sent no result on a watch", url_of(watch));
	} else if (said.canceled) {
		/* The connection would stay open and silent. A token that is
		 * no longer valid is one of the reasons. */
		watch->stale_token = true;
		rc = svc_error_set(err, SVC_E_ABORTED,
		    "etcd at %s ended a watch%s", url_of(watch),
		    said.compacted ? " (its history was compacted)" : "");
	} else {
		watch->opened = true;
		rc = check_history(watch, said.revision, err);
	}
	if (rc == SVC_OK) {
		cJSON_ArrayForEach (event, said.events)
			if (rc == SVC_OK)
				rc = kv_deliver_event(&watch->etcd->skips,
				    event, watch->sink, watch->arg);
		if (rc != SVC_OK)
			svc_error_set(err, rc, "no memory for a change");
		/* The head of a line with events may be ahead of them, and
		 * that of the first line of what is still to come. */
		if (said.events == NULL && !said.created)
			said.last_revision = said.revision;
		if (said.last_revision > watch->revision)
			watch->revision = said.last_revision;
	}
	message_watch_fini(&said);
	return rc;
}

static svc_err
whole_lines(struct watch *watch, struct svc_error *err)
{
	struct svc_buf *line = &watch->line;
	svc_err rc = SVC_OK;
	size_t done = 0;
	while (rc == SVC_OK && watch->scanned < line->len) {
		const char *data = (const char *)line->data;
		const char *end = memchr(
		    data + watch->scanned, '\n', line->len - watch->scanned);
		if (end == NULL) {
			watch->scanned = line->len;
			break;
		}
		size_t next = (size_t)(end - data) + 1;
		if (next - done > 1)
			rc = one_line(watch, data + done, next - done - 1, err);
		done = next;
		watch->scanned = next;
	}
	svc_buf_consume(line, done);
	watch->scanned -= done;
	return rc;
}

/* Asks for a read that the majority agrees to, so that a server which is cut
 * off from the others is left as well as one that is frozen. */
static svc_err
is_alive(struct watch *watch, struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, BODY_MAX);
	svc_buf_putc(&body, '{');
	kv_put_first(&body, watch->service);
	svc_buf_putc(&body, '}');
	svc_err rc = ask(watch, "/v3/kv/range", &body, &answer, err);
	svc_buf_fini(&body);
	if (rc == SVC_OK)
		rc = check_history(watch, message_revision(answer), err);
	cJSON_Delete(answer);
	return rc;
}

static void
put_create(struct svc_buf *body, const struct watch *watch)
{
	svc_buf_puts(body, "{\"create_request\":{");
	kv_put_range(body, watch->service);
	svc_buf_printf(body,
	    ",\"start_revision\":\"%" PRId64 "\",\"prev_kv\":true,"
	    "\"progress_notify\":true}}",
	    watch->revision + 1);
}

/* Receives what comes, until the stream has been silent for so long that it is
 * better opened anew (SVC_OK), or until it is broken. */
static svc_err
receive(struct watch *watch, struct svc_error *err)
{
	int64_t quiet_at_ms = svc_deadline(QUIET_MS);
	int64_t anew_at_ms = svc_deadline(ANEW_MS);
	int status = 0;
	for (;;) {
		size_t had = watch->line.len;
		svc_err rc = http_run(
		    watch->stream, svc_remaining(quiet_at_ms), &status, err);
		if (atomic_load(&watch->ending))
			return SVC_E_CANCELLED;
		bool fresh = watch->line.len > had;
		svc_err read = whole_lines(watch, err);
		if (read != SVC_OK)
			return read;
		if (rc == SVC_OK)
			return svc_error_set(err, SVC_E_UNAVAILABLE,
			    "etcd at %s ended a watch (HTTP status %d)",
			    url_of(watch), status);
		if (rc != SVC_E_AGAIN)
			return rc;
		if (fresh)
			anew_at_ms = svc_deadline(ANEW_MS);
		else if (svc_remaining(quiet_at_ms) > 0)
			continue;
		else if (svc_remaining(anew_at_ms) == 0)
			return SVC_OK;
		else if ((rc = is_alive(watch, err)) != SVC_OK)
			/* A frozen server keeps its connections. */
			return rc;
		quiet_at_ms = svc_deadline(QUIET_MS);
	}
}

/* Receives changes from watch->revision + 1 on. Returns SVC_OK when it may go
 * on from there, else the full state is needed again. */
static svc_err
follow(struct watch *watch, struct svc_error *err)
{
	struct etcd *etcd = watch->etcd;
	char token[TOKEN_SIZE];
	struct svc_buf body;
	svc_err rc = etcd_token(etcd, watch->question, watch->server,
	    watch->stale_token, token, etcd_try_ms(etcd), &watch->ending, err);
	if (rc != SVC_OK)
		return rc;
	watch->stale_token = false;
	svc_buf_init(&body, BODY_MAX);
	put_create(&body, watch);
	svc_buf_clear(&watch->line);
	watch->scanned = 0;
	watch->opened = false;
	struct svc_headers *headers = etcd_headers(token);
	struct http_request request = {.method = "POST",
	    .path = "/v3/watch",
	    .headers = headers,
	    .body = body.data,
	    .len = body.len,
	    .timeout_ms = SVC_FOREVER};
	rc = SVC_E_NOMEM;
	if (headers != NULL && body.failed == SVC_OK)
		rc = http_begin(watch->stream, etcd->servers, watch->server,
		    &request, &watch->line, err);
	if (rc == SVC_OK)
		rc = receive(watch, err);
	http_end(watch->stream);
	svc_headers_destroy(headers);
	svc_buf_fini(&body);
	return rc;
}

/* ------------------------------------------------------------- the thread */

static void
pause_for(struct watch *watch, int64_t ms)
{
	int64_t until_ms = svc_deadline(ms);
	pthread_mutex_lock(&watch->lock);
	while (!atomic_load(&watch->ending) && svc_now_ms() < until_ms)
		svc_cond_wait(&watch->cond, &watch->lock, until_ms);
	pthread_mutex_unlock(&watch->lock);
}

static const char *
what(const struct watch *watch)
{
	return watch->service != NULL ? watch->service : "all services";
}

static void
say_lost(struct watch *watch, const struct svc_error *err)
{
	if (!watch->lost)
		svc_log(SVC_LOG_WARN, "etcd.lost",
		    "the watch of %s is broken, known nodes stay: %s",
		    what(watch), err->text);
	watch->lost = true;
}

static void
say_back(struct watch *watch)
{
	if (watch->lost)
		svc_log(SVC_LOG_INFO, "etcd.back",
		    "the watch of %s goes on at %s", what(watch),
		    url_of(watch));
	watch->lost = false;
}

/* The full state and what changes from there on, until that is broken. */
static svc_err
one_life(struct watch *watch, struct svc_error *err)
{
	struct etcd *etcd = watch->etcd;
	watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
	svc_err rc = kv_range(&etcd->skips, watch->service, ask, watch,
	    deliver_node, watch, &watch->revision, err);
	if (rc != SVC_OK)
		return rc;
	atomic_store(&etcd->current, watch->server);
	watch->sink(SVC_WATCH_SYNC, NULL, watch->arg);
	watch->synced_at_ms = svc_now_ms();
	say_back(watch);
	while (rc == SVC_OK)
		rc = follow(watch, err);
	return rc;
}

/* The one that answered others last, unless it is the one that failed. */
static size_t
next_server(const struct watch *watch)
{
	size_t current = atomic_load(&watch->etcd->current);
	if (current != watch->server)
		return current;
	return (watch->server + 1) % watch->etcd->n_servers;
}

static void *
run(void *arg)
{
	struct watch *watch = arg;
	size_t failures = 0;
	while (!atomic_load(&watch->ending)) {
		struct svc_error err = {0};
		watch->opened = false;
		one_life(watch, &err);
		if (watch->opened &&
		    svc_now_ms() - watch->synced_at_ms >= STEADY_MS)
			failures = 0;
		if (atomic_load(&watch->ending))
			break;
		say_lost(watch, &err);
		watch->server = next_server(watch);
		pause_for(watch,
		    address_pause_ms(failures++, watch->etcd->n_servers));
	}
	return NULL;
}

static void
watch_free(struct watch *watch)
{
	if (watch == NULL)
		return;
	http_destroy(watch->question);
	http_destroy(watch->stream);
	svc_buf_fini(&watch->line);
	pthread_cond_destroy(&watch->cond);
	pthread_mutex_destroy(&watch->lock);
	svc_mem_free(watch->service);
	svc_mem_free(watch);
}

svc_err
watch_start(struct etcd *etcd, const char *service, svc_watch_sink sink,
    void *arg, struct watch **ret_watch, struct svc_error *err)
{
	struct watch *watch = svc_mem_calloc(1, sizeof(*watch));
	if (watch == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	pthread_mutex_init(&watch->lock, NULL);
	svc_cond_init(&watch->cond);
	svc_buf_init(&watch->line, ANSWER_MAX);
	watch->etcd = etcd;
	watch->sink = sink;
	watch->arg = arg;
	watch->server = atomic_load(&etcd->current);
	watch->service = svc_mem_strdup(service);
	svc_err rc = SVC_E_NOMEM;
	if ((service == NULL || watch->service != NULL) &&
	    http_create(NULL, &watch->question) == SVC_OK &&
	    http_create(NULL, &watch->stream) == SVC_OK)
		rc = svc_thread_start(&watch->thread, "svc-etcd", run, watch);
	if (rc != SVC_OK) {
		watch_free(watch);
		return svc_error_set(
		    err, rc, "no memory or thread for a watch");
	}
	*ret_watch = watch;
	return SVC_OK;
}

void
watch_stop(struct watch *watch)
{
	pthread_mutex_lock(&watch->lock);
	atomic_store(&watch->ending, true);
	pthread_cond_broadcast(&watch->cond);
	pthread_mutex_unlock(&watch->lock);
	http_wake(watch->question);
	http_wake(watch->stream);
	svc_thread_join(watch->thread);
	watch_free(watch);
}
