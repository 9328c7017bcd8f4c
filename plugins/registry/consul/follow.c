/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lock: follow.lock guards nothing but the waits of the thread; `ending` is
 * atomic, because it is looked at between two reads of a connection.
 */
#include "follow.h"

#include <address/address.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
	WAIT_S = 60,      /* how long the server is to hold an answer back */
	QUIET_MS = 5000,  /* silence after which the agent is asked */
	SLACK_MS = 5000,  /* for an answer that is on its way */
	SPACING_MS = 250, /* of answers, on the average */
	BURST = 4,        /* so many may come at once before */
	LEADER_SIZE = 128,
};

struct follow {
	struct consul *consul;
	char *path, *what;
	const struct follow_ops *ops;
	void *arg;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	atomic_bool ending;
	struct http *parked; /* waits for the answer */
	struct http *probe;  /* asks meanwhile whether somebody is there */
	struct svc_headers *probe_headers;
	size_t server;
	uint64_t index;        /* of the last answer; 0: there is none */
	int64_t due_at_ms;     /* of the next answer, if they came evenly */
	bool lost;             /* and said so */
	struct svc_buf answer; /* the latest */
	char leader[LEADER_SIZE];
};

static const char *
url_of(const struct follow *follow)
{
	return http_servers_url(follow->consul->servers, follow->server);
}

/* False when it ends. */
static bool
sleep_until(struct follow *follow, int64_t at_ms)
{
	pthread_mutex_lock(&follow->lock);
	while (!atomic_load(&follow->ending) && svc_now_ms() < at_ms)
		svc_cond_wait(&follow->cond, &follow->lock, at_ms);
	pthread_mutex_unlock(&follow->lock);
	return !atomic_load(&follow->ending);
}

/* --------------------------------------------------------------- one question
 */

/*
 * A frozen agent keeps its connections, and one that is cut off from its
 * servers, or whose servers have a new leader, may hold back an answer that is
 * long there: so the agent is asked for the leader.
 */
static svc_err
is_alive(struct follow *follow, struct svc_error *err)
{
	struct consul *consul = follow->consul;
	struct svc_buf answer;
	int status = 0;
	bool next;
	/* Nothing is kept for it: an agent counts the connections of a host. */
	struct http_request request = {.method = "GET",
	    .path = "/v1/status/leader",
	    .headers = follow->probe_headers,
	    .timeout_ms = consul->try_ms};
	svc_buf_init(&answer, 1 << 12);
	svc_err rc = http_ask(follow->probe, consul->servers, follow->server,
	    &request, &follow->ending, &answer, &status, err);
	http_end(follow->probe);
	if (rc == SVC_OK)
		rc = consul_status(
		    consul, follow->server, status, &answer, &next, err);
	if (rc == SVC_OK) {
		const char *leader =
		    answer.len > 0 ? (const char *)answer.data : "";
		bool first = follow->leader[0] == '\0';
		if (strchr(leader, ':') == NULL || answer.len >= LEADER_SIZE)
			rc = svc_error_set(err, SVC_E_UNAVAILABLE,
			    "consul at %s has no leader", url_of(follow));
		else if (!first && strcmp(leader, follow->leader) != 0)
			rc = svc_error_set(err, SVC_E_ABORTED,
			    "consul at %s has a new leader", url_of(follow));
		else
			memcpy(follow->leader, leader, answer.len + 1);
	}
	svc_buf_fini(&answer);
	return rc;
}

static svc_err
ask(struct follow *follow, struct svc_error *err)
{
	struct consul *consul = follow->consul;
	struct svc_buf path;
	int64_t timeout_ms = consul->timeout_ms;
	int64_t quiet_at_ms = svc_deadline(QUIET_MS);
	int status = 0;
	bool next;
	svc_buf_init(&path, 2048);
	svc_buf_puts(&path, follow->path);
	if (follow->index > 0) {
		/* The server adds up to a sixteenth, so that not all wake at
		 * once. */
		timeout_ms = WAIT_S * 1000 / 16 * 17 + SLACK_MS;
		svc_buf_printf(&path, "&index=%" PRIu64 "&wait=%ds",
		    follow->index, WAIT_S);
	}
	struct http_request request = {.method = "GET",
	    .path = (const char *)path.data,
	    .headers = consul->headers,
	    .timeout_ms = timeout_ms};
	svc_buf_clear(&follow->answer);
	svc_err rc = SVC_E_NOMEM;
	if (path.failed == SVC_OK)
		rc = http_begin(follow->parked, consul->servers, follow->server,
		    &request, &follow->answer, err);
	else
		svc_error_set(err, rc, "no memory for a request");
	if (rc == SVC_OK)
		rc = SVC_E_AGAIN;
	while (rc == SVC_E_AGAIN) {
		size_t had = follow->answer.len;
		rc = http_run(
		    follow->parked, svc_remaining(quiet_at_ms), &status, err);
		if (atomic_load(&follow->ending))
			rc = SVC_E_CANCELLED;
		if (follow->answer.len > had)
			quiet_at_ms = svc_deadline(QUIET_MS);
		if (rc == SVC_E_AGAIN && svc_remaining(quiet_at_ms) == 0) {
			svc_err alive = is_alive(follow, err);
			if (alive != SVC_OK)
				rc = alive;
			quiet_at_ms = svc_deadline(QUIET_MS);
		}
	}
	if (rc == SVC_OK)
		rc = consul_status(consul, follow->server, status,
		    &follow->answer, &next, err);
	svc_buf_fini(&path);
	return rc;
}

/* The index of the answer that came. Without one, or with 0, the server would
 * not wait the next time, and 1 is always right for what may still come. */
static uint64_t
index_of(struct follow *follow)
{
	const char *text = http_header(follow->parked, "X-Consul-Index");
	uint64_t index = 0;
	if (text != NULL && *text >= '0' && *text <= '9')
		index = strtoull(text, NULL, 10);
	return index > 0 ? index : 1;
}

/* ----------------------------------------------------------------- the thread
 */

/* Answers may come quickly one after the other, but not on and on: then
 * everything that changed meanwhile comes at once. */
static bool
keep_spacing(struct follow *follow)
{
	int64_t now_ms = svc_now_ms();
	if (follow->due_at_ms < now_ms)
		follow->due_at_ms = now_ms;
	follow->due_at_ms += SPACING_MS;
	return sleep_until(
	    follow, follow->due_at_ms - (int64_t)BURST * SPACING_MS);
}

static void
say_lost(struct follow *follow, const struct svc_error *err)
{
	if (!follow->lost)
		svc_log(SVC_LOG_WARN, "consul.lost",
		    "the watch of %s is broken, known nodes stay: %s",
		    follow->what, err->text);
	follow->lost = true;
}

static void
say_back(struct follow *follow)
{
	if (follow->lost)
		svc_log(SVC_LOG_INFO, "consul.back",
		    "the watch of %s goes on at %s", follow->what,
		    url_of(follow));
	follow->lost = false;
}

/* Asks and hands over what comes, until something goes wrong. Counts the
 * answers that had been waited for. */
static svc_err
go_on(struct follow *follow, size_t *ret_waited, struct svc_error *err)
{
	bool fresh = true;
	*ret_waited = 0;
	follow->index = 0;
	follow->leader[0] = '\0';
	for (;;) {
		svc_err rc = ask(follow, err);
		uint64_t index = rc == SVC_OK ? index_of(follow) : 0;
		http_end(follow->parked);
		if (rc != SVC_OK)
			return rc;
		if (index < follow->index)
			return svc_error_set(err, SVC_E_ABORTED,
			    "consul at %s went back from index %" PRIu64
			    " to %" PRIu64,
			    url_of(follow), follow->index, index);
		rc = follow->ops->answer(
		    &follow->answer, fresh, follow->arg, err);
		if (rc != SVC_OK)
			return rc;
		say_back(follow);
		*ret_waited += !fresh;
		fresh = false;
		follow->index = index;
		if (!keep_spacing(follow))
			return SVC_E_CANCELLED;
	}
}

static void *
run(void *arg)
{
	struct follow *follow = arg;
	size_t failures = 0, waited;
	while (!atomic_load(&follow->ending)) {
		struct svc_error err = {0};
		svc_err rc = go_on(follow, &waited, &err);
		if (atomic_load(&follow->ending))
			break;
		follow->ops->lost(follow->arg);
		if (waited > 0)
			failures = 0;
		/* Then the agent is well, but what it said is not so. */
		if (rc != SVC_E_ABORTED) {
			say_lost(follow, &err);
			follow->server =
			    (follow->server + 1) % follow->consul->n_servers;
		}
		sleep_until(follow, svc_deadline(address_pause_ms(failures++,
					follow->consul->n_servers)));
		keep_spacing(follow);
	}
	return NULL;
}

/* ------------------------------------------------------------ making, ending
 */

static void
follow_free(struct follow *follow)
{
	http_destroy(follow->parked);
	http_destroy(follow->probe);
	svc_headers_destroy(follow->probe_headers);
	svc_buf_fini(&follow->answer);
	pthread_cond_destroy(&follow->cond);
	pthread_mutex_destroy(&follow->lock);
	svc_mem_free(follow->path);
	svc_mem_free(follow->what);
	svc_mem_free(follow);
}

svc_err
follow_start(struct consul *consul, const char *path, const char *what,
    const struct follow_ops *ops, void *arg, struct follow **ret_follow,
    struct svc_error *err)
{
	struct follow *follow = svc_mem_calloc(1, sizeof(*follow));
	if (follow == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	pthread_mutex_init(&follow->lock, NULL);
	svc_cond_init(&follow->cond);
	svc_buf_init(&follow->answer, ANSWER_MAX);
	follow->consul = consul;
	follow->ops = ops;
	follow->arg = arg;
	follow->server = atomic_load(&consul->current);
	follow->path = svc_mem_strdup(path);
	follow->what = svc_mem_strdup(what);
	follow->probe_headers = svc_headers_copy(consul->headers);
	svc_err rc = SVC_E_NOMEM;
	if (follow->path != NULL && follow->what != NULL &&
	    follow->probe_headers != NULL &&
	    svc_headers_set(follow->probe_headers, "Connection", "close") ==
		SVC_OK &&
	    http_create(NULL, &follow->parked) == SVC_OK &&
	    http_create(NULL, &follow->probe) == SVC_OK)
		rc = svc_thread_start(
		    &follow->thread, "svc-consul", run, follow);
	if (rc != SVC_OK) {
		follow_free(follow);
		return svc_error_set(
		    err, rc, "no memory or thread for a watch");
	}
	*ret_follow = follow;
	return SVC_OK;
}

void
follow_stop(struct follow *follow)
{
	if (follow == NULL)
		return;
	pthread_mutex_lock(&follow->lock);
	atomic_store(&follow->ending, true);
	pthread_cond_broadcast(&follow->cond);
	pthread_mutex_unlock(&follow->lock);
	http_wake(follow->parked);
	http_wake(follow->probe);
	svc_thread_join(follow->thread);
	follow_free(follow);
}
