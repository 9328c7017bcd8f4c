/* SPDX-License-Identifier: Apache-2.0 */
/* Only the crew's thread comes here, but for starting and stopping. */
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
	FRESH_MS = 2500,  /* so long what an agent answered is believed */
	SLACK_MS = 5000,  /* for an answer that is on its way */
	SPACING_MS = 250, /* of answers, on the average */
	BURST = 4,        /* so many may come at once before */
};

struct follow {
	struct crew_task task;
	struct consul *consul;
	char *path, *what;
	const struct follow_ops *ops;
	void *arg;
	size_t server;
	size_t attempt;     /* since it went well */
	int64_t ask_at_ms;  /* when the next question may be asked */
	int64_t even_at_ms; /* when it would be, if answers came evenly */
	uint64_t index;     /* of the last answer; 0: there is none */
	bool waited;        /* an answer came that had been waited for */
	bool said_lost;
	/* The question: */
	struct http *parked;
	bool asking;
	struct svc_buf answer;
	size_t heard; /* bytes of the answer that were seen */
	int64_t quiet_at_ms;
	uint64_t epoch; /* of the agent, when it was asked */
};

static const char *
url_of(const struct follow *follow)
{
	return http_servers_url(follow->consul->servers, follow->server);
}

/* --------------------------------------------------------------- the agent */

static svc_err
ask_for_leader(
    struct follow *follow, char ret_leader[LEADER_SIZE], struct svc_error *err)
{
	struct consul *consul = follow->consul;
	struct question question = {
	    .method = "GET", .path = "/v1/status/leader"};
	struct svc_buf answer;
	bool next;
	svc_buf_init(&answer, 1 << 12);
	svc_err rc = consul_ask_at(consul, crew_question(consul->crew),
	    follow->server, crew_stop(consul->crew), &question, INT64_MAX,
	    &answer, &next, err);
	const char *leader = answer.len > 0 ? (const char *)answer.data : "";
	if (rc == SVC_OK &&
	    (strchr(leader, ':') == NULL || answer.len >= LEADER_SIZE))
		rc = svc_error_set(err, SVC_E_UNAVAILABLE,
		    "consul at %s has no leader", url_of(follow));
	if (rc == SVC_OK)
		memcpy(ret_leader, leader, answer.len + 1);
	svc_buf_fini(&answer);
	return rc;
}

/*
 * A frozen agent keeps its connections, and one that is cut off from its
 * servers, or whose servers have a new leader, may hold back an answer that is
 * long there: so the agent is asked for the leader, once for all who wait.
 */
static svc_err
check_agent(struct follow *follow)
{
	struct consul_health *health = &follow->consul->health[follow->server];
	char leader[LEADER_SIZE];
	struct svc_error why = {0};
	if (health->asked_at_ms != 0 &&
	    svc_now_ms() - health->asked_at_ms < FRESH_MS)
		return SVC_OK;
	svc_err rc = ask_for_leader(follow, leader, &why);
	if (rc == SVC_E_CANCELLED)
		return rc;
	if (rc == SVC_OK) {
		health->asked_at_ms = svc_now_ms();
		if (health->leader[0] != '\0' &&
		    strcmp(leader, health->leader) != 0)
			rc = svc_error_set(&why, SVC_E_ABORTED,
			    "consul at %s has a new leader", url_of(follow));
		memcpy(health->leader, leader, sizeof(leader));
	}
	if (rc != SVC_OK) {
		health->epoch++;
		health->why = why;
	}
	return SVC_OK;
}

/* ------------------------------------------------------------ the question */

static svc_err
begin_to_ask(struct follow *follow, struct svc_error *err)
{
	struct consul *consul = follow->consul;
	struct svc_buf path;
	int64_t timeout_ms = consul->timeout_ms;
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
	svc_buf_fini(&path);
	if (rc == SVC_OK) {
		follow->asking = true;
		follow->heard = 0;
		follow->epoch = consul->health[follow->server].epoch;
		follow->quiet_at_ms = svc_deadline(QUIET_MS);
	}
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

/* Answers may come quickly one after the other, but not on and on: then
 * everything that changed meanwhile comes at once. */
static int64_t
spaced(struct follow *follow)
{
	int64_t now_ms = svc_now_ms();
	if (follow->even_at_ms < now_ms)
		follow->even_at_ms = now_ms;
	follow->even_at_ms += SPACING_MS;
	return follow->even_at_ms - (int64_t)BURST * SPACING_MS;
}

static void
say_lost(struct follow *follow, const struct svc_error *err)
{
	if (!follow->said_lost)
		svc_log(SVC_LOG_WARN, "consul.lost",
		    "the watch of %s is broken, known nodes stay: %s",
		    follow->what, err->text);
	follow->said_lost = true;
}

static void
say_back(struct follow *follow)
{
	if (follow->said_lost)
		svc_log(SVC_LOG_INFO, "consul.back",
		    "the watch of %s goes on at %s", follow->what,
		    url_of(follow));
	follow->said_lost = false;
}

/* The answer is there: it is handed over, and the next question may come. */
static svc_err
take_answer(struct follow *follow, int status, struct svc_error *err)
{
	bool next, fresh = follow->index == 0;
	svc_err rc = consul_status(follow->consul, follow->server, status,
	    &follow->answer, &next, err);
	if (rc != SVC_OK)
		return rc;
	uint64_t index = index_of(follow);
	http_end(follow->parked);
	follow->asking = false;
	if (index < follow->index)
		return svc_error_set(err, SVC_E_ABORTED,
		    "consul at %s went back from index %" PRIu64 " to %" PRIu64,
		    url_of(follow), follow->index, index);
	rc = follow->ops->answer(&follow->answer, fresh, follow->arg, err);
	if (rc != SVC_OK)
		return rc;
	say_back(follow);
	follow->waited = follow->waited || !fresh;
	follow->index = index;
	follow->ask_at_ms = spaced(follow);
	return SVC_OK;
}

static svc_err
wait_for_answer(struct follow *follow, struct svc_error *err)
{
	const struct consul_health *health =
	    &follow->consul->health[follow->server];
	int status = 0;
	svc_err rc = http_look(follow->parked, &status, err);
	if (rc == SVC_OK)
		return take_answer(follow, status, err);
	if (rc != SVC_E_AGAIN)
		return rc;
	if (follow->answer.len > follow->heard) {
		follow->heard = follow->answer.len;
		follow->quiet_at_ms = svc_deadline(QUIET_MS);
	} else if (svc_remaining(follow->quiet_at_ms) == 0) {
		rc = check_agent(follow);
		if (rc != SVC_OK)
			return rc;
		follow->quiet_at_ms = health->asked_at_ms + QUIET_MS;
	}
	if (follow->epoch == health->epoch)
		return SVC_OK;
	if (err != NULL)
		*err = health->why;
	return health->why.code;
}

/* --------------------------------------------------------------- the turns */

static void
broken(struct follow *follow, svc_err rc, const struct svc_error *err)
{
	http_end(follow->parked);
	follow->asking = false;
	follow->ops->lost(follow->arg);
	if (follow->waited)
		follow->attempt = 0;
	follow->waited = false;
	follow->index = 0;
	/* Then the agent is well, but what it said is not so. */
	if (rc != SVC_E_ABORTED) {
		say_lost(follow, err);
		follow->server =
		    (follow->server + 1) % follow->consul->n_servers;
	}
	int64_t after_ms = svc_deadline(
	    address_pause_ms(follow->attempt++, follow->consul->n_servers));
	follow->ask_at_ms = spaced(follow);
	if (follow->ask_at_ms < after_ms)
		follow->ask_at_ms = after_ms;
}

static int64_t
turn(struct crew_task *task)
{
	struct follow *follow = (struct follow *)task;
	struct svc_error err = {0};
	svc_err rc = SVC_OK;
	if (follow->asking)
		rc = wait_for_answer(follow, &err);
	if (rc == SVC_OK && !follow->asking &&
	    svc_remaining(follow->ask_at_ms) == 0)
		rc = begin_to_ask(follow, &err);
	if (rc == SVC_E_CANCELLED)
		return 0; /* somebody leaves; it is tried again */
	if (rc != SVC_OK)
		broken(follow, rc, &err);
	return follow->asking ? follow->quiet_at_ms : follow->ask_at_ms;
}

static void
end(struct crew_task *task)
{
	struct follow *follow = (struct follow *)task;
	http_destroy(follow->parked);
	follow->parked = NULL;
}

static const struct crew_ops task_ops = {.turn = turn, .end = end};

/* ------------------------------------------------------------ making, ending
 */

static void
follow_free(struct follow *follow)
{
	http_destroy(follow->parked);
	svc_buf_fini(&follow->answer);
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
	follow->task.ops = &task_ops;
	svc_buf_init(&follow->answer, ANSWER_MAX);
	follow->consul = consul;
	follow->ops = ops;
	follow->arg = arg;
	follow->server = atomic_load(&consul->current);
	follow->path = svc_mem_strdup(path);
	follow->what = svc_mem_strdup(what);
	svc_err rc = SVC_E_NOMEM;
	if (follow->path != NULL && follow->what != NULL &&
	    http_create(crew_set(consul->crew), &follow->parked) == SVC_OK)
		rc = crew_join(consul->crew, &follow->task);
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
	crew_leave(follow->consul->crew, &follow->task);
	follow_free(follow);
}
