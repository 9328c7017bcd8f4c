/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node stands at an agent, which tells the servers about it. It is announced
 * at the agent that has it as long as that one answers, and at another one
 * then; what the first one keeps ends by its check.
 */
#include "announce.h"

#include "node.h"

#include <address/address.h>
#include <address/hash.h>

#include <svc/clock.h>

#include <cjson/cJSON.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) svc_mem_alloc(size)
#define uthash_free(block, size) svc_mem_free(block)
#include <uthash.h>

enum { CONTENT_SIZE = 64, PATH_MAX_LEN = 2048 };

/* What is known of an instance that was announced. */
struct state {
	uint64_t body; /* the hash of what was registered; 0: nothing yet */
	/* The agent's own hash of what it has; "" when it has none. */
	char content[CONTENT_SIZE];
	uint64_t servers; /* a bit for each agent that may have it */
	bool placed;      /* and `server` is the one that had it last */
	size_t server;
};

struct registration {
	UT_hash_handle hh;
	struct state state;
	char instance[];
};

void
registrations_forget(struct consul *consul)
{
	struct registration *one, *next;
	HASH_ITER (hh, consul->registrations, one, next) {
		HASH_DELETE(hh, consul->registrations, one);
		svc_mem_free(one);
	}
}

/* Leaves `state` as it is when nothing is known. */
static void
recall(struct consul *consul, const char *instance, struct state *state)
{
	struct registration *one;
	pthread_mutex_lock(&consul->lock);
	HASH_FIND_STR(consul->registrations, instance, one);
	if (one != NULL)
		*state = one->state;
	pthread_mutex_unlock(&consul->lock);
}

static bool
remember(struct consul *consul, const char *instance, const struct state *state)
{
	struct registration *one;
	size_t len = strlen(instance);
	bool ok = true;
	pthread_mutex_lock(&consul->lock);
	HASH_FIND_STR(consul->registrations, instance, one);
	if (one == NULL) {
		one = svc_mem_calloc(1, sizeof(*one) + len + 1);
		ok = one != NULL;
		if (ok) {
			memcpy(one->instance, instance, len + 1);
			HASH_ADD_KEYPTR(
			    hh, consul->registrations, one->instance, len, one);
			ok = one->hh.tbl != NULL;
			if (!ok)
				svc_mem_free(one);
		}
	}
	if (ok)
		one->state = *state;
	pthread_mutex_unlock(&consul->lock);
	return ok;
}

static void
forget(struct consul *consul, const char *instance)
{
	struct registration *one;
	pthread_mutex_lock(&consul->lock);
	HASH_FIND_STR(consul->registrations, instance, one);
	if (one != NULL)
		HASH_DELETE(hh, consul->registrations, one);
	pthread_mutex_unlock(&consul->lock);
	svc_mem_free(one);
}

/* --------------------------------------------------------------- at one agent
 */

/* One node, the agent that is asked and until when. */
struct attempt {
	struct consul *consul;
	size_t server;
	const char *instance;
	int64_t deadline_at_ms;
	struct svc_buf answer;
	bool next; /* whether another agent may do better */
};

static svc_err
ask(struct attempt *attempt, const char *method, const char *path,
    bool with_instance, const struct svc_buf *body, struct svc_error *err)
{
	struct svc_buf whole;
	svc_buf_init(&whole, PATH_MAX_LEN);
	svc_buf_puts(&whole, path);
	if (with_instance)
		consul_put_escaped(&whole, attempt->instance);
	struct question question = {
	    .method = method, .path = (const char *)whole.data, .body = body};
	svc_err rc = SVC_E_NOMEM;
	attempt->next = false;
	if (whole.failed == SVC_OK)
		rc = consul_ask_at(attempt->consul, NULL, attempt->server, NULL,
		    &question, attempt->deadline_at_ms, &attempt->answer,
		    &attempt->next, err);
	else
		svc_error_set(err, rc, "no memory for a request");
	svc_buf_fini(&whole);
	return rc;
}

/* The agent's hash of what it has under this id. */
static svc_err
look(struct attempt *attempt, char ret_content[CONTENT_SIZE],
    struct svc_error *err)
{
	svc_err rc = ask(attempt, "GET", "/v1/agent/service/", true, NULL, err);
	ret_content[0] = '\0';
	if (rc != SVC_OK)
		return rc;
	cJSON *json = cJSON_ParseWithLength(
	    attempt->answer.len > 0 ? (const char *)attempt->answer.data : "",
	    attempt->answer.len);
	const cJSON *hash =
	    cJSON_GetObjectItemCaseSensitive(json, "ContentHash");
	if (cJSON_IsString(hash) && strlen(hash->valuestring) < CONTENT_SIZE)
		memcpy(ret_content, hash->valuestring,
		    strlen(hash->valuestring) + 1);
	cJSON_Delete(json);
	return SVC_OK;
}

/* Passes the check of what this agent has. SVC_E_NOT_FOUND: it does not have
 * it, or not as it was registered, so it must be registered. */
static svc_err
renew(struct attempt *attempt, const struct state *state, struct svc_error *err)
{
	char content[CONTENT_SIZE];
	svc_err rc = ask(
	    attempt, "PUT", "/v1/agent/check/pass/service:", true, NULL, err);
	if (rc == SVC_OK)
		rc = look(attempt, content, err);
	if (rc == SVC_OK && strcmp(content, state->content) != 0)
		rc = SVC_E_NOT_FOUND;
	return rc;
}

/* An agent that knows the check already, and be it from its disk, keeps the
 * status that it has: so it is passed besides. */
static svc_err
enter(
    struct attempt *attempt, const struct svc_buf *body, struct svc_error *err)
{
	svc_err rc =
	    ask(attempt, "PUT", "/v1/agent/service/register", false, body, err);
	if (rc == SVC_OK)
		rc = ask(attempt, "PUT", "/v1/agent/check/pass/service:", true,
		    NULL, err);
	if (rc != SVC_E_NOT_FOUND)
		return rc;
	/* No agent lacks these. */
	attempt->next = true;
	return SVC_E_UNAVAILABLE;
}

static svc_err
announce_at(struct attempt *attempt, const struct svc_buf *body,
    uint64_t body_hash, struct state *state, struct svc_error *err)
{
	bool known = state->body == body_hash && state->placed &&
		     state->server == attempt->server;
	svc_err rc = known ? renew(attempt, state, err) : SVC_E_NOT_FOUND;
	if (rc != SVC_E_NOT_FOUND)
		return rc;
	/* An agent that does not answer may have done it nevertheless. */
	state->servers |= UINT64_C(1) << attempt->server;
	rc = enter(attempt, body, err);
	if (rc != SVC_OK)
		return rc;
	state->body = body_hash;
	state->placed = true;
	state->server = attempt->server;
	/* It is there. Should this fail, then it is registered once more. */
	if (look(attempt, state->content, NULL) != SVC_OK)
		state->body = 0;
	return SVC_OK;
}

/* ------------------------------------------------------------- announcing */

static svc_err
announce_somewhere(struct attempt *attempt, const struct svc_buf *body,
    struct state *state, struct svc_error *err)
{
	struct consul *consul = attempt->consul;
	uint64_t hash = hash_bytes(HASH_START, body->data, body->len);
	size_t first =
	    state->placed ? state->server : atomic_load(&consul->current);
	size_t tries = address_tries(consul->n_servers);
	svc_err rc = SVC_E_UNAVAILABLE;
	for (size_t i = 0; i < tries; i++) {
		if (i > 0 && svc_remaining(attempt->deadline_at_ms) == 0)
			break;
		attempt->server = (first + i) % consul->n_servers;
		rc = announce_at(attempt, body, hash, state, err);
		if (rc == SVC_OK || !attempt->next) {
			atomic_store(&consul->current, attempt->server);
			break;
		}
	}
	return rc;
}

svc_err
consul_announce(struct consul *consul, const struct svc_record *record,
    int64_t ttl_ms, int64_t timeout_ms, struct svc_error *err)
{
	struct state state = {0};
	struct svc_buf body;
	struct attempt attempt = {
	    .consul = consul,
	    .deadline_at_ms = svc_deadline(timeout_ms),
	};
	char *instance = node_instance(record->name, record->nodes[0].id);
	svc_buf_init(&attempt.answer, ANSWER_MAX);
	svc_buf_init(&body, BODY_MAX);
	svc_err rc = instance == NULL
			 ? SVC_E_NOMEM
			 : node_encode(record, ttl_ms, consul->tags,
			       consul->n_tags, &body);
	if (rc == SVC_OK) {
		attempt.instance = instance;
		recall(consul, instance, &state);
		rc = announce_somewhere(&attempt, &body, &state, err);
		if (!remember(consul, instance, &state) && rc == SVC_OK)
			rc = svc_error_set(err, SVC_E_NOMEM,
			    "no memory to announce %s", record->name);
	} else if (rc == SVC_E_EXHAUSTED) {
		rc = svc_error_set(err, SVC_E_INVAL,
		    "the record of %s is too big for consul: at most %d bytes "
		    "are allowed",
		    record->name, BODY_MAX);
	} else {
		svc_error_set(
		    err, rc, "no memory to announce %s", record->name);
	}
	svc_buf_fini(&attempt.answer);
	svc_buf_fini(&body);
	svc_mem_free(instance);
	return rc;
}

/* ------------------------------------------------------------- withdrawing */

/*
 * At every agent that may have it: which are all when this process did not
 * announce it. The one that had it last must agree; of the others one that
 * does not answer is as good as gone, since nobody passes its check. One that
 * is alone may only have been slow, and is asked once more.
 */
static svc_err
withdraw_everywhere(
    struct attempt *attempt, struct state *state, struct svc_error *err)
{
	struct consul *consul = attempt->consul;
	uint64_t servers = state->servers != 0 ? state->servers : UINT64_MAX;
	size_t tries = address_tries(consul->n_servers);
	bool agreed = false;
	svc_err failed = SVC_OK;
	for (size_t i = 0; i < tries; i++) {
		struct svc_error why = {0};
		attempt->server = i % consul->n_servers;
		uint64_t bit = UINT64_C(1) << attempt->server;
		bool must = state->placed && state->server == attempt->server;
		bool last = i + consul->n_servers >= tries;
		if ((servers & bit) == 0)
			continue;
		svc_err rc = ask(attempt, "PUT",
		    "/v1/agent/service/deregister/", true, NULL, &why);
		if (rc == SVC_OK || rc == SVC_E_NOT_FOUND) {
			agreed = true;
			servers &= ~bit;
			state->servers &= ~bit;
			continue;
		}
		failed = rc;
		if (err != NULL)
			*err = why;
		if (must && (last || !attempt->next))
			return rc;
	}
	return agreed ? SVC_OK : failed;
}

svc_err
consul_withdraw(struct consul *consul, const struct svc_record *record,
    int64_t timeout_ms, struct svc_error *err)
{
	struct state state = {0};
	struct attempt attempt = {
	    .consul = consul,
	    .deadline_at_ms = svc_deadline(timeout_ms),
	};
	char *instance = node_instance(record->name, record->nodes[0].id);
	if (instance == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory to withdraw %s", record->name);
	attempt.instance = instance;
	svc_buf_init(&attempt.answer, ANSWER_MAX);
	recall(consul, instance, &state);
	svc_err rc = withdraw_everywhere(&attempt, &state, err);
	if (rc == SVC_OK)
		forget(consul, instance);
	svc_buf_fini(&attempt.answer);
	svc_mem_free(instance);
	return rc;
}
