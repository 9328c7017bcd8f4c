/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A watch reads everything at some revision and receives the changes from the
 * next one on, so nothing falls between. Whatever goes wrong ends that, and it
 * begins anew at the next server. Something between here and there may drop a
 * connection without a word, or all that goes through it, so a stream that says
 * nothing for a minute is replaced, which repeats what was missed.
 *
 * One thread runs all watches, each of which has the connection of its stream;
 * they ask one after the other on another one. Only that thread comes here,
 * but for starting and stopping.
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
	FRESH_MS = 2500,  /* so long what a server answered is believed */
};

struct watch {
	struct crew_task task;
	struct etcd *etcd;
	char *service;
	svc_watch_sink sink;
	void *arg;
	enum {
		LOST,   /* the full state is needed, from due_at_ms on */
		SYNCED, /* and a stream is */
		STREAMING
	} state;
	size_t server;
	size_t attempt; /* since it went well */
	int64_t due_at_ms;
	int64_t revision; /* up to which everything has been reported */
	int64_t synced_at_ms;
	bool said_lost;
	bool stale_token; /* it may be the reason of what went wrong */
	/* The stream: */
	struct http *stream;
	struct svc_buf line;
	size_t scanned; /* bytes of `line` without its end */
	bool opened;
	int64_t quiet_at_ms, anew_at_ms;
	uint64_t failures; /* of its server, when it was opened */
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
	struct etcd *etcd = watch->etcd;
	bool next;
	return etcd_ask_at(etcd, crew_question(etcd->crew), watch->server, path,
	    body, etcd_try_ms(etcd), crew_stop(etcd->crew), ret_answer, &next,
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

/*
 * Asks for a read that the majority agrees to, so that a server which is cut
 * off from the others is left as well as one that is frozen. The answer is one
 * for all whose streams are as silent: none of them has heard anything that is
 * younger. A server that fails has failed them all.
 */
static svc_err
is_alive(struct watch *watch, struct svc_error *err)
{
	struct etcd_health *health = &watch->etcd->health[watch->server];
	struct svc_buf body;
	cJSON *answer = NULL;
	if (health->asked_at_ms != 0 &&
	    svc_now_ms() - health->asked_at_ms < FRESH_MS)
		return check_history(watch, health->revision, err);
	svc_buf_init(&body, BODY_MAX);
	svc_buf_putc(&body, '{');
	kv_put_first(&body, watch->service);
	svc_buf_putc(&body, '}');
	svc_err rc = ask(watch, "/v3/kv/range", &body, &answer, err);
	svc_buf_fini(&body);
	if (rc == SVC_OK) {
		health->asked_at_ms = svc_now_ms();
		health->revision = message_revision(answer);
		rc = check_history(watch, health->revision, err);
	} else if (rc == SVC_E_UNAVAILABLE || rc == SVC_E_TIMEDOUT) {
		health->failures++;
	}
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

static void
heard(struct watch *watch)
{
	watch->quiet_at_ms = svc_deadline(QUIET_MS);
	watch->anew_at_ms = svc_deadline(ANEW_MS);
}

/* Reports what has come. A stream that has been silent for long is closed, to
 * be opened anew. */
static svc_err
receive(struct watch *watch, struct svc_error *err)
{
	bool fresh = watch->line.len > watch->scanned;
	int status = 0;
	svc_err rc = http_look(watch->stream, &status, err);
	svc_err read = whole_lines(watch, err);
	if (read != SVC_OK)
		return read;
	if (rc == SVC_OK)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "etcd at %s ended a watch (HTTP status %d)", url_of(watch),
		    status);
	if (rc != SVC_E_AGAIN)
		return rc;
	if (watch->failures != watch->etcd->health[watch->server].failures)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "etcd at %s does not answer", url_of(watch));
	if (fresh) {
		heard(watch);
	} else if (svc_remaining(watch->anew_at_ms) == 0) {
		http_end(watch->stream);
		watch->state = SYNCED;
	} else if (svc_remaining(watch->quiet_at_ms) == 0) {
		/* A frozen server keeps its connections. */
		rc = is_alive(watch, err);
		if (rc != SVC_OK)
			return rc;
		watch->quiet_at_ms =
		    watch->etcd->health[watch->server].asked_at_ms + QUIET_MS;
	}
	return SVC_OK;
}

/* Begins to receive changes from watch->revision + 1 on. */
static svc_err
open_stream(struct watch *watch, struct svc_error *err)
{
	struct etcd *etcd = watch->etcd;
	char token[TOKEN_SIZE];
	struct svc_buf body;
	svc_err rc = etcd_token(etcd, crew_question(etcd->crew), watch->server,
	    watch->stale_token, token, etcd_try_ms(etcd), crew_stop(etcd->crew),
	    err);
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
	svc_headers_destroy(headers);
	svc_buf_fini(&body);
	if (rc == SVC_OK) {
		watch->state = STREAMING;
		watch->failures = etcd->health[watch->server].failures;
		heard(watch);
	}
	return rc;
}

/* --------------------------------------------------------------- the turns */

static const char *
what(const struct watch *watch)
{
	return watch->service != NULL ? watch->service : "all services";
}

static void
say_lost(struct watch *watch, const struct svc_error *err)
{
	if (!watch->said_lost)
		svc_log(SVC_LOG_WARN, "etcd.lost",
		    "the watch of %s is broken, known nodes stay: %s",
		    what(watch), err->text);
	watch->said_lost = true;
}

static void
say_back(struct watch *watch)
{
	if (watch->said_lost)
		svc_log(SVC_LOG_INFO, "etcd.back",
		    "the watch of %s goes on at %s", what(watch),
		    url_of(watch));
	watch->said_lost = false;
}

static svc_err
full_state(struct watch *watch, struct svc_error *err)
{
	struct etcd *etcd = watch->etcd;
	watch->opened = false;
	watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
	svc_err rc = kv_range(&etcd->skips, watch->service, ask, watch,
	    deliver_node, watch, &watch->revision, err);
	if (rc != SVC_OK)
		return rc;
	atomic_store(&etcd->current, watch->server);
	watch->sink(SVC_WATCH_SYNC, NULL, watch->arg);
	watch->synced_at_ms = svc_now_ms();
	watch->state = SYNCED;
	say_back(watch);
	return SVC_OK;
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

static void
broken(struct watch *watch, const struct svc_error *err)
{
	http_end(watch->stream);
	if (watch->opened && svc_now_ms() - watch->synced_at_ms >= STEADY_MS)
		watch->attempt = 0;
	say_lost(watch, err);
	watch->state = LOST;
	watch->server = next_server(watch);
	watch->due_at_ms = svc_deadline(
	    address_pause_ms(watch->attempt++, watch->etcd->n_servers));
}

static int64_t
turn(struct crew_task *task)
{
	struct watch *watch = (struct watch *)task;
	struct svc_error err = {0};
	svc_err rc = SVC_OK;
	if (watch->state == LOST && svc_remaining(watch->due_at_ms) > 0)
		return watch->due_at_ms;
	if (watch->state == STREAMING)
		rc = receive(watch, &err);
	if (rc == SVC_OK && watch->state == LOST)
		rc = full_state(watch, &err);
	if (rc == SVC_OK && watch->state == SYNCED)
		rc = open_stream(watch, &err);
	if (rc == SVC_E_CANCELLED)
		return 0; /* somebody leaves; it is tried again */
	if (rc != SVC_OK)
		broken(watch, &err);
	return watch->state == STREAMING ? watch->quiet_at_ms
					 : watch->due_at_ms;
}

static void
end(struct crew_task *task)
{
	struct watch *watch = (struct watch *)task;
	http_destroy(watch->stream);
	watch->stream = NULL;
}

static const struct crew_ops ops = {.turn = turn, .end = end};

/* ------------------------------------------------------- starting, stopping */

static void
watch_free(struct watch *watch)
{
	http_destroy(watch->stream);
	svc_buf_fini(&watch->line);
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
	svc_buf_init(&watch->line, ANSWER_MAX);
	watch->task.ops = &ops;
	watch->etcd = etcd;
	watch->sink = sink;
	watch->arg = arg;
	watch->server = atomic_load(&etcd->current);
	watch->service = svc_mem_strdup(service);
	svc_err rc = SVC_E_NOMEM;
	if ((service == NULL || watch->service != NULL) &&
	    http_create(crew_set(etcd->crew), &watch->stream) == SVC_OK)
		rc = crew_join(etcd->crew, &watch->task);
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
	crew_leave(watch->etcd->crew, &watch->task);
	watch_free(watch);
}
