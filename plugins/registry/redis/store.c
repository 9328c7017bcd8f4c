/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <address/hash.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256, NODES_MAX = 200000 };

/*
 * The scripts run as one: a key and its place in the sets never part. What
 * other programs left in the place of a set is removed.
 *
 * A redis that has used up its memory refuses a script at its first write, if
 * this one needs memory, and lets a script go on that has begun with another
 * one. So the renewal of a node that is there begins with PEXPIRE, and passes;
 * that of a new node begins with SET.
 *
 * KEYS: the node, its service's set, the set of services
 */
static const char announce_script[] =
    /* ARGV: record, ttl, id, service, channel, channel of all */
    "local t = redis.call('TIME') "
    "local now = t[1] * 1000 + math.floor(t[2] / 1000) "
    "local ttl = tonumber(ARGV[2]) "
    "local function keep(key, member) "
    "  local kind = redis.call('TYPE', key).ok "
    "  if kind ~= 'none' and kind ~= 'zset' then redis.call('DEL', key) end "
    "  local old = redis.call('ZSCORE', key, member) "
    "  if key == KEYS[2] or not old or tonumber(old) < now + ttl then "
    "    redis.call('ZADD', key, string.format('%.0f', now + ttl), member) "
    "  end "
    "  redis.call('ZREMRANGEBYSCORE', key, '-inf', "
    "    string.format('%.0f', now)) "
    "  if redis.call('PTTL', key) < ttl then "
    "    redis.call('PEXPIRE', key, ARGV[2]) "
    "  end "
    "  return old "
    "end "
    "local old = false "
    "if redis.call('TYPE', KEYS[1]).ok == 'string' then "
    "  old = redis.call('GET', KEYS[1]) "
    "  redis.call('PEXPIRE', KEYS[1], ARGV[2]) "
    "end "
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) "
    "local known = keep(KEYS[2], ARGV[3]) "
    "keep(KEYS[3], ARGV[4]) "
    "if old ~= ARGV[1] or not known then "
    "  redis.call('PUBLISH', ARGV[5], ARGV[4] .. '/' .. ARGV[3]) "
    "  redis.call('PUBLISH', ARGV[6], ARGV[4] .. '/' .. ARGV[3]) "
    "end "
    "return 1";

static const char withdraw_script[] =
    /* ARGV: id, service, channel, channel of all */
    "local function drop(key, member) "
    "  if redis.call('TYPE', key).ok ~= 'zset' then return 0 end "
    "  return redis.call('ZREM', key, member) "
    "end "
    "local n = redis.call('DEL', KEYS[1]) + drop(KEYS[2], ARGV[1]) "
    "if redis.call('EXISTS', KEYS[2]) == 0 then drop(KEYS[3], ARGV[2]) end "
    "if n > 0 then "
    "  redis.call('PUBLISH', ARGV[3], ARGV[2] .. '/' .. ARGV[1]) "
    "  redis.call('PUBLISH', ARGV[4], ARGV[2] .. '/' .. ARGV[1]) "
    "end "
    "return n";

/* --------------------------------------------------------------------- keys */

static const char *
node_key(const struct redis *redis, const char *service, const char *id,
    struct store_key *key)
{
	snprintf(key->text, sizeof(key->text), "{%s}:node:%s/%s", redis->space,
	    service, id);
	return key->text;
}

static const char *
nodes_key(const struct redis *redis, const char *service, struct store_key *key)
{
	snprintf(key->text, sizeof(key->text), "{%s}:nodes:%s", redis->space,
	    service);
	return key->text;
}

static const char *
services_key(const struct redis *redis, struct store_key *key)
{
	snprintf(key->text, sizeof(key->text), "{%s}:services", redis->space);
	return key->text;
}

const char *
store_channel(
    const struct redis *redis, const char *service, struct store_key *key)
{
	/* Channels are the same in all databases of a server. */
	snprintf(key->text, sizeof(key->text), "{%s}:change:%s%s%s",
	    redis->space, redis->database, service != NULL ? ":" : "",
	    service != NULL ? service : "");
	return key->text;
}

/* ------------------------------------------------------- announce, withdraw */

static svc_err
run_script(struct link *link, const char *script,
    const struct store_key keys[3], int n, const char *const args[],
    int64_t deadline_at_ms, struct svc_error *err)
{
	const char *argv[12] = {
	    "EVAL", script, "3", keys[0].text, keys[1].text, keys[2].text};
	int argc = 6;
	redisReply *reply = NULL;
	for (int i = 0; i < n; i++)
		argv[argc++] = args[i];
	link_send(link, argc, argv, NULL);
	svc_err rc = link_receive(link, deadline_at_ms, &reply, err);
	if (rc == SVC_OK)
		freeReplyObject(reply);
	return rc;
}

static void
keys_of(const struct redis *redis, const struct svc_record *record,
    struct store_key keys[3])
{
	node_key(redis, record->name, record->nodes[0].id, &keys[0]);
	nodes_key(redis, record->name, &keys[1]);
	services_key(redis, &keys[2]);
}

svc_err
store_announce(struct redis *redis, struct link *link,
    const struct svc_record *record, const char *json, int64_t ttl_ms,
    int64_t deadline_at_ms, struct svc_error *err)
{
	struct store_key keys[3], one, all;
	char ttl[32];
	snprintf(ttl, sizeof(ttl), "%" PRId64, ttl_ms);
	const char *const args[] = {json, ttl, record->nodes[0].id,
	    record->name, store_channel(redis, record->name, &one),
	    store_channel(redis, NULL, &all)};
	keys_of(redis, record, keys);
	return run_script(
	    link, announce_script, keys, 6, args, deadline_at_ms, err);
}

svc_err
store_withdraw(struct redis *redis, struct link *link,
    const struct svc_record *record, int64_t deadline_at_ms,
    struct svc_error *err)
{
	struct store_key keys[3], one, all;
	const char *const args[] = {record->nodes[0].id, record->name,
	    store_channel(redis, record->name, &one),
	    store_channel(redis, NULL, &all)};
	keys_of(redis, record, keys);
	return run_script(
	    link, withdraw_script, keys, 4, args, deadline_at_ms, err);
}

/* ------------------------------------------------------------------ reading */

/* A key that holds something else is said once. */
static void
skip(struct redis *redis, const char *key, const char *why)
{
	char quoted[96];
	size_t count;
	if (skips_add(&redis->skips, hash_text(HASH_START, key), &count))
		svc_log(SVC_LOG_WARN, "redis.skipped",
		    "%s is skipped, as %zu before: %s",
		    svc_log_quote(key, strlen(key), quoted, sizeof(quoted)),
		    count - 1, why);
}

svc_err
store_record(struct redis *redis, const char *service, const char *id,
    const void *value, size_t len, struct svc_record **ret_record)
{
	struct svc_record *record = NULL;
	struct svc_error err = {0};
	struct store_key key;
	svc_err rc = svc_record_decode(value, len, &record, &err);
	if (rc == SVC_OK)
		rc = svc_record_check(record, &err);
	if (rc == SVC_OK &&
	    (record->n_nodes != 1 || strcmp(record->name, service) != 0 ||
		strcmp(record->nodes[0].id, id) != 0))
		rc = svc_error_set(
		    &err, SVC_E_INVAL, "it is of another service or node");
	if (rc != SVC_OK) {
		svc_record_destroy(record);
		record = NULL;
	}
	if (rc == SVC_E_NOMEM)
		return rc;
	if (rc != SVC_OK)
		skip(redis, node_key(redis, service, id, &key), err.text);
	*ret_record = record;
	return SVC_OK;
}

/* The server's clock in milliseconds. */
static svc_err
read_time(struct link *link, int64_t deadline_at_ms, int64_t *ret_now_ms,
    struct svc_error *err)
{
	redisReply *reply = NULL;
	svc_err rc = link_receive(link, deadline_at_ms, &reply, err);
	if (rc != SVC_OK)
		return rc;
	*ret_now_ms = 0;
	if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
	    reply->element[0]->type == REDIS_REPLY_STRING &&
	    reply->element[1]->type == REDIS_REPLY_STRING)
		*ret_now_ms = strtoll(reply->element[0]->str, NULL, 10) * 1000 +
			      strtoll(reply->element[1]->str, NULL, 10) / 1000;
	freeReplyObject(reply);
	return SVC_OK;
}

static void
send_time(struct link *link)
{
	const char *const time[] = {"TIME"};
	link_send(link, 1, time, NULL);
}

/* A score of a set, which others may have written. */
static int64_t
score_of(const redisReply *reply)
{
	double score = 0;
	if (reply->type == REDIS_REPLY_STRING)
		score = strtod(reply->str, NULL);
	return score > 0 && score < 9e15 ? (int64_t)score : 0;
}

/* By our own clock. */
static int64_t
expiry_at(int64_t score, int64_t server_ms)
{
	int64_t left_ms = score - server_ms;
	return left_ms > 0 ? svc_deadline(left_ms) : svc_now_ms();
}

struct candidates {
	struct candidate {
		char *service, *id;
		int64_t expires_at_ms;
	} * list;
	size_t n, cap;
};

static void
candidates_fini(struct candidates *all)
{
	for (size_t i = 0; i < all->n; i++) {
		svc_mem_free(all->list[i].service);
		svc_mem_free(all->list[i].id);
	}
	svc_mem_free(all->list);
}

static bool
candidates_add(struct candidates *all, const char *service, const char *id,
    int64_t expires_at_ms)
{
	if (all->n == all->cap) {
		size_t cap = all->cap > 0 ? 2 * all->cap : 64;
		void *more =
		    svc_mem_realloc(all->list, cap * sizeof(*all->list));
		if (more == NULL)
			return false;
		all->list = more;
		all->cap = cap;
	}
	struct candidate *one = &all->list[all->n];
	*one = (struct candidate){
	    svc_mem_strdup(service), svc_mem_strdup(id), expires_at_ms};
	all->n++;
	return one->service != NULL && one->id != NULL;
}

/* A text of a set that may be part of a key of ours. */
static bool
is_name(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_STRING && reply->len > 0 &&
	       strlen(reply->str) == reply->len && reply->len < 256 &&
	       memchr(reply->str, '/', reply->len) == NULL;
}

/* The members of a set that have not expired, with `take`. What is no set is
 * none of ours. */
static svc_err
read_set(struct redis *redis, struct link *link, const char *key,
    int64_t deadline_at_ms, redisReply **ret_reply, struct svc_error *err)
{
	svc_err rc = link_receive(link, deadline_at_ms, ret_reply, err);
	if (rc == SVC_E_PRECONDITION) {
		skip(redis, key, "it is no sorted set");
		*ret_reply = NULL;
		return SVC_OK;
	}
	if (rc == SVC_OK && (*ret_reply)->type != REDIS_REPLY_ARRAY) {
		freeReplyObject(*ret_reply);
		*ret_reply = NULL;
	}
	return rc;
}

static void
send_set(struct link *link, const char *key)
{
	const char *const range[] = {"ZRANGE", key, "0", "-1", "WITHSCORES"};
	link_send(link, 5, range, NULL);
}

/* Reads the set of a service, which was asked for. */
static svc_err
read_nodes(struct redis *redis, struct link *link, const char *service,
    int64_t server_ms, struct candidates *all, int64_t deadline_at_ms,
    struct svc_error *err)
{
	struct store_key key;
	redisReply *reply = NULL;
	svc_err rc = read_set(redis, link, nodes_key(redis, service, &key),
	    deadline_at_ms, &reply, err);
	for (size_t i = 0;
	     rc == SVC_OK && reply != NULL && i + 1 < reply->elements; i += 2) {
		const redisReply *id = reply->element[i];
		int64_t score = score_of(reply->element[i + 1]);
		if (!is_name(id) || score <= server_ms)
			continue;
		if (all->n >= NODES_MAX)
			break;
		if (!candidates_add(
			all, service, id->str, expiry_at(score, server_ms)))
			rc = svc_error_set(
			    err, SVC_E_NOMEM, "no memory for redis's nodes");
	}
	freeReplyObject(reply);
	return rc;
}

static svc_err
find_in_all(struct redis *redis, struct link *link, int64_t deadline_at_ms,
    struct candidates *all, struct svc_error *err)
{
	struct store_key key, name;
	redisReply *reply = NULL;
	int64_t server_ms = 0;
	send_time(link);
	send_set(link, services_key(redis, &key));
	svc_err rc = read_time(link, deadline_at_ms, &server_ms, err);
	if (rc == SVC_OK)
		rc = read_set(
		    redis, link, key.text, deadline_at_ms, &reply, err);
	size_t n = rc == SVC_OK && reply != NULL ? reply->elements / 2 : 0;
	for (size_t from = 0; rc == SVC_OK && from < n; from += CHUNK) {
		size_t to = from + CHUNK < n ? from + CHUNK : n;
		const char *names[CHUNK];
		size_t used = 0;
		for (size_t i = from; i < to; i++) {
			const redisReply *one = reply->element[2 * i];
			if (!is_name(one) ||
			    svc_service_name_check(one->str, NULL) != SVC_OK)
				continue;
			names[used++] = one->str;
			send_set(link, nodes_key(redis, one->str, &name));
		}
		for (size_t i = 0; rc == SVC_OK && i < used; i++)
			rc = read_nodes(redis, link, names[i], server_ms, all,
			    deadline_at_ms, err);
	}
	freeReplyObject(reply);
	return rc;
}

static svc_err
find_in_one(struct redis *redis, struct link *link, const char *service,
    int64_t deadline_at_ms, struct candidates *all, struct svc_error *err)
{
	struct store_key key;
	int64_t server_ms = 0;
	send_time(link);
	send_set(link, nodes_key(redis, service, &key));
	svc_err rc = read_time(link, deadline_at_ms, &server_ms, err);
	if (rc == SVC_OK)
		rc = read_nodes(
		    redis, link, service, server_ms, all, deadline_at_ms, err);
	return rc;
}

/* The records of up to CHUNK candidates. */
static svc_err
read_records(struct redis *redis, struct link *link,
    const struct candidate *list, size_t n, int64_t deadline_at_ms,
    store_sink sink, void *arg, struct svc_error *err)
{
	const char *argv[CHUNK + 1] = {"MGET"};
	redisReply *reply = NULL;
	struct store_key *keys = svc_mem_calloc(n, sizeof(*keys));
	if (keys == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for redis's nodes");
	for (size_t i = 0; i < n; i++)
		argv[i + 1] =
		    node_key(redis, list[i].service, list[i].id, &keys[i]);
	link_send(link, (int)n + 1, argv, NULL);
	svc_mem_free(keys);
	svc_err rc = link_receive(link, deadline_at_ms, &reply, err);
	for (size_t i = 0; rc == SVC_OK && reply->type == REDIS_REPLY_ARRAY &&
			   i < n && i < reply->elements;
	     i++) {
		const redisReply *value = reply->element[i];
		if (value->type == REDIS_REPLY_STRING)
			sink(list[i].service, list[i].id, value->str,
			    value->len, list[i].expires_at_ms, arg);
	}
	if (rc == SVC_OK)
		freeReplyObject(reply);
	return rc;
}

svc_err
store_pull(struct redis *redis, struct link *link, const char *service,
    int64_t deadline_at_ms, store_sink sink, void *arg, struct svc_error *err)
{
	struct candidates all = {0};
	svc_err rc =
	    service != NULL
		? find_in_one(redis, link, service, deadline_at_ms, &all, err)
		: find_in_all(redis, link, deadline_at_ms, &all, err);
	for (size_t i = 0; rc == SVC_OK && i < all.n; i += CHUNK)
		rc = read_records(redis, link, all.list + i,
		    all.n - i < CHUNK ? all.n - i : CHUNK, deadline_at_ms, sink,
		    arg, err);
	candidates_fini(&all);
	return rc;
}

/* One node, asked for by GET and ZSCORE. */
static svc_err
look_one(struct link *link, const struct store_name *name, int64_t server_ms,
    int64_t deadline_at_ms, store_sink sink, void *arg, struct svc_error *err)
{
	redisReply *value = NULL, *score = NULL;
	svc_err rc = link_receive(link, deadline_at_ms, &value, err);
	/* Of another type: none of ours. */
	bool foreign = rc == SVC_E_PRECONDITION;
	if (rc == SVC_OK || foreign) {
		rc = link_receive(link, deadline_at_ms, &score, err);
		foreign = foreign || rc == SVC_E_PRECONDITION;
		if (rc == SVC_E_PRECONDITION)
			rc = SVC_OK;
	}
	if (rc == SVC_OK) {
		int64_t at = foreign ? 0 : score_of(score);
		bool there =
		    at > server_ms && value->type == REDIS_REPLY_STRING;
		sink(name->service, name->id, there ? value->str : NULL,
		    there ? value->len : 0, expiry_at(at, server_ms), arg);
	}
	freeReplyObject(value);
	freeReplyObject(score);
	return rc;
}

svc_err
store_look(struct redis *redis, struct link *link,
    const struct store_name *names, size_t n, int64_t deadline_at_ms,
    store_sink sink, void *arg, struct svc_error *err)
{
	struct store_key key;
	int64_t server_ms = 0;
	send_time(link);
	for (size_t i = 0; i < n; i++) {
		const char *const get[] = {"GET",
		    node_key(redis, names[i].service, names[i].id, &key)};
		link_send(link, 2, get, NULL);
		const char *const score[] = {"ZSCORE",
		    nodes_key(redis, names[i].service, &key), names[i].id};
		link_send(link, 3, score, NULL);
	}
	svc_err rc = read_time(link, deadline_at_ms, &server_ms, err);
	for (size_t i = 0; rc == SVC_OK && i < n; i++)
		rc = look_one(
		    link, &names[i], server_ms, deadline_at_ms, sink, arg, err);
	return rc;
}
