/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A watch is a thread with a connection that hears of changes, and another from
 * the idle ones on which it asks. What it hears names a node and no more: the
 * node is looked up then, so that only what redis holds is ever told. Every few
 * seconds all nodes are pulled, and also when the first of them would expire,
 * because redis tells nobody of that.
 *
 * A node that has gone before its time, without a word, was not withdrawn: the
 * data was lost, or somebody deleted the key. It is kept until its time is
 * over, so that whoever lives can announce itself again.
 */
#include "watch.h"

#include "store.h"

#include <address/address.h>
#include <address/hash.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) svc_mem_alloc(size)
#define uthash_free(block, size) svc_mem_free(block)
#include <uthash.h>

enum {
	STEADY_MS = 5000,
	/* Between two pulls for nodes that expire, and how much later than
	 * they do. */
	GAP_MS = 200,
	LATE_MS = 20,
	HEARD_MAX = 256, /* nodes; of words there may be some more */
};

/* A node that was told. */
struct told {
	UT_hash_handle hh;
	int64_t expires_at_ms;
	uint64_t round; /* of the pull that saw it last */
	uint64_t hash;  /* of the value that was told */
	const char *id; /* within the key */
	char key[];     /* service, NUL, id, NUL */
};

struct watch {
	struct redis *redis;
	char *service;
	svc_watch_sink sink;
	void *arg;
	pthread_t thread;
	atomic_bool ending;
	int wake_fd; /* can be read from the end's beginning on */
	/* Of the thread. */
	size_t server;
	struct link *ear;
	struct told *nodes;
	uint64_t round;
	int64_t next_expiry_at_ms; /* no node expires before */
	bool no_memory;
	bool lost; /* and that was said */
	struct store_name heard[HEARD_MAX];
	size_t n_heard;
};

/* ------------------------------------------------------------- nodes told */

static struct told *
told_find(struct watch *watch, const char *service, const char *id)
{
	char key[512];
	struct told *told = NULL;
	size_t s = strlen(service) + 1, n = strlen(id) + 1;
	if (s + n > sizeof(key))
		return NULL;
	memcpy(key, service, s);
	memcpy(key + s, id, n);
	HASH_FIND(hh, watch->nodes, key, s + n, told);
	return told;
}

static struct told *
told_add(struct watch *watch, const char *service, const char *id)
{
	size_t s = strlen(service) + 1, n = strlen(id) + 1;
	struct told *told = svc_mem_calloc(1, sizeof(*told) + s + n);
	if (told == NULL)
		return NULL;
	memcpy(told->key, service, s);
	memcpy(told->key + s, id, n);
	told->id = told->key + s;
	HASH_ADD_KEYPTR(hh, watch->nodes, told->key, s + n, told);
	if (told->hh.tbl != NULL)
		return told;
	svc_mem_free(told);
	return NULL;
}

static void
told_forget(struct watch *watch, struct told *told)
{
	HASH_DELETE(hh, watch->nodes, told);
	svc_mem_free(told);
}

static void
forget_all(struct watch *watch)
{
	struct told *told, *next;
	HASH_ITER (hh, watch->nodes, told, next)
		told_forget(watch, told);
	watch->next_expiry_at_ms = INT64_MAX;
}

static void
tell_gone(struct watch *watch, struct told *told)
{
	const struct svc_node node = {.id = told->id, .address = ""};
	const struct svc_record record = {
	    .name = told->key, .version = "", .nodes = &node, .n_nodes = 1};
	watch->sink(SVC_WATCH_GONE, &record, watch->arg);
	told_forget(watch, told);
}

/* A value that was told before is not even read again, which is what most of
 * a pull consists of. */
static void
tell_node(const char *service, const char *id, const void *value, size_t len,
    int64_t expires_at_ms, void *arg)
{
	struct watch *watch = arg;
	struct told *told = told_find(watch, service, id);
	struct svc_record *record = NULL;
	uint64_t hash = hash_bytes(HASH_START, value, len);
	if (told == NULL || told->hash != hash) {
		svc_err rc = store_record(
		    watch->redis, service, id, value, len, &record);
		watch->no_memory = watch->no_memory || rc != SVC_OK;
		if (record == NULL)
			return;
		if (told == NULL)
			told = told_add(watch, service, id);
	}
	if (told == NULL) {
		/* It would never be taken back: it has to wait. */
		watch->no_memory = true;
	} else {
		told->hash = hash;
		told->expires_at_ms = expires_at_ms;
		told->round = watch->round;
		if (expires_at_ms < watch->next_expiry_at_ms)
			watch->next_expiry_at_ms = expires_at_ms;
		if (record != NULL)
			watch->sink(SVC_WATCH_NODE, record, watch->arg);
	}
	svc_record_destroy(record);
}

/* -------------------------------------------------------------------- pulls */

static svc_err
pull_op(struct redis *redis, struct link *link, int64_t deadline_at_ms,
    void *arg, struct svc_error *err)
{
	struct watch *watch = arg;
	watch->round++;
	watch->next_expiry_at_ms = INT64_MAX;
	return store_pull(
	    redis, link, watch->service, deadline_at_ms, tell_node, watch, err);
}

static svc_err
ask(struct watch *watch, redis_op op, struct svc_error *err)
{
	watch->no_memory = false;
	svc_err rc = redis_run_at(
	    watch->redis, watch->server, op, watch, watch->wake_fd, err);
	if (rc == SVC_OK && watch->no_memory)
		rc =
		    svc_error_set(err, SVC_E_NOMEM, "no memory to keep a node");
	return rc;
}

/* What the pull did not see and whose time is over. */
static void
sweep(struct watch *watch)
{
	struct told *told, *next;
	int64_t now_ms = svc_now_ms();
	HASH_ITER (hh, watch->nodes, told, next) {
		if (told->round == watch->round)
			continue;
		if (told->expires_at_ms <= now_ms + LATE_MS)
			tell_gone(watch, told);
		else if (told->expires_at_ms < watch->next_expiry_at_ms)
			watch->next_expiry_at_ms = told->expires_at_ms;
	}
}

/* ------------------------------------------------------------------ hearing */

static svc_err
subscribe(struct watch *watch, int64_t deadline_at_ms, struct svc_error *err)
{
	struct store_key key;
	redisReply *reply = NULL;
	const char *const argv[] = {
	    "SUBSCRIBE", store_channel(watch->redis, watch->service, &key)};
	link_send(watch->ear, 2, argv, NULL);
	svc_err rc = link_receive(watch->ear, deadline_at_ms, &reply, err);
	if (rc == SVC_OK)
		freeReplyObject(reply);
	return rc;
}

static void
heard_clear(struct watch *watch)
{
	for (size_t i = 0; i < watch->n_heard; i++) {
		svc_mem_free(watch->heard[i].service);
		svc_mem_free(watch->heard[i].id);
	}
	watch->n_heard = 0;
}

static bool
is_text(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_STRING &&
	       strlen(reply->str) == reply->len;
}

/* ["message", channel, "service/id"]. Anybody may publish anything there; what
 * makes no sense is left. */
static svc_err
note_heard(struct watch *watch, const redisReply *reply, struct svc_error *err)
{
	char service[256];
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 3 ||
	    !is_text(reply->element[0]) || !is_text(reply->element[2]) ||
	    strcmp(reply->element[0]->str, "message") != 0)
		return SVC_OK;
	const char *said = reply->element[2]->str;
	const char *id = strchrnul(said, '/');
	size_t len = (size_t)(id - said);
	if (*id++ == '\0' || len >= sizeof(service) || *id == '\0' ||
	    strlen(id) > 255 || strchr(id, '/') != NULL)
		return SVC_OK;
	memcpy(service, said, len);
	service[len] = '\0';
	if (svc_service_name_check(service, NULL) != SVC_OK)
		return SVC_OK;
	for (size_t i = 0; i < watch->n_heard; i++)
		if (strcmp(watch->heard[i].id, id) == 0 &&
		    strcmp(watch->heard[i].service, service) == 0)
			return SVC_OK;
	struct store_name *name = &watch->heard[watch->n_heard++];
	name->service = svc_mem_strdup(service);
	name->id = svc_mem_strdup(id);
	if (name->service != NULL && name->id != NULL)
		return SVC_OK;
	heard_clear(watch);
	return svc_error_set(
	    err, SVC_E_NOMEM, "no memory for what redis tells");
}

static void
on_looked(const char *service, const char *id, const void *value, size_t len,
    int64_t expires_at_ms, void *arg)
{
	struct watch *watch = arg;
	struct told *told;
	if (watch->service != NULL && strcmp(watch->service, service) != 0)
		return;
	if (value != NULL) {
		tell_node(service, id, value, len, expires_at_ms, watch);
		return;
	}
	told = told_find(watch, service, id);
	if (told != NULL)
		tell_gone(watch, told);
}

static svc_err
look_op(struct redis *redis, struct link *link, int64_t deadline_at_ms,
    void *arg, struct svc_error *err)
{
	struct watch *watch = arg;
	return store_look(redis, link, watch->heard, watch->n_heard,
	    deadline_at_ms, on_looked, watch, err);
}

/* Waits for news until `until_ms`, takes what has come, and looks it up. */
static svc_err
hear(
    struct watch *watch, int64_t until_ms, bool *ret_any, struct svc_error *err)
{
	svc_err rc = SVC_OK;
	*ret_any = false;
	/* A flood of words must not keep the pulls from their turn. */
	for (int i = 0; i < 4 * HEARD_MAX && watch->n_heard < HEARD_MAX; i++) {
		redisReply *reply = NULL;
		rc = link_receive(watch->ear, until_ms, &reply, err);
		if (rc != SVC_OK)
			break;
		rc = note_heard(watch, reply, err);
		freeReplyObject(reply);
		if (rc != SVC_OK)
			return rc;
		*ret_any = true;
		until_ms = 0; /* only what is there already */
	}
	if (rc == SVC_E_TIMEDOUT)
		rc = SVC_OK;
	if (rc == SVC_OK && watch->n_heard > 0)
		rc = ask(watch, look_op, err);
	heard_clear(watch);
	return rc;
}

/* --------------------------------------------------------------- the thread */

/* From one full state to the next break. */
static svc_err
follow(struct watch *watch, struct svc_error *err)
{
	static const char *const ping[] = {"PING"};
	const struct redis *redis = watch->redis;
	svc_err rc = SVC_OK;
	bool pinged = false;
	while (rc == SVC_OK && !atomic_load(&watch->ending)) {
		/* Together they would ask together. */
		int64_t tenth = redis->pull_ms / 10;
		int64_t pulled_at_ms = svc_now_ms();
		int64_t pull_at_ms =
		    svc_deadline(redis->pull_ms - (int64_t)svc_random_below(
						      (uint64_t)tenth + 1));
		bool any = false;
		for (;;) {
			int64_t at_ms = pull_at_ms;
			if (watch->next_expiry_at_ms < INT64_MAX - LATE_MS &&
			    watch->next_expiry_at_ms + LATE_MS < at_ms)
				at_ms = watch->next_expiry_at_ms + LATE_MS;
			if (at_ms < pulled_at_ms + GAP_MS)
				at_ms = pulled_at_ms + GAP_MS;
			rc = hear(watch, at_ms, &any, err);
			/* The answer to a ping is heard as well. */
			pinged = pinged && !any;
			if (rc != SVC_OK || svc_now_ms() >= at_ms)
				break;
		}
		/* An ear that hears nothing may be dead. */
		if (rc == SVC_OK && pinged &&
		    svc_now_ms() - pulled_at_ms >= redis->pull_ms / 2)
			rc = svc_error_set(err, SVC_E_UNAVAILABLE,
			    "redis at %s is silent where it tells of changes",
			    redis->servers[watch->server].text);
		if (rc == SVC_OK)
			rc = ask(watch, pull_op, err);
		if (rc != SVC_OK)
			break;
		sweep(watch);
		link_send(watch->ear, 1, ping, NULL);
		pinged = true;
	}
	return rc;
}

static const char *
what(const struct watch *watch)
{
	return watch->service != NULL ? watch->service : "all services";
}

static svc_err
begin(struct watch *watch, struct svc_error *err)
{
	int64_t deadline_at_ms = svc_deadline(ASK_MAX_MS);
	svc_err rc = link_open(watch->redis, watch->server, deadline_at_ms,
	    watch->wake_fd, &watch->ear, err);
	/* First the ear, so that no change falls between. */
	if (rc == SVC_OK)
		rc = subscribe(watch, deadline_at_ms, err);
	if (rc == SVC_OK) {
		link_be_patient(watch->ear);
		rc = ask(watch, pull_op, err);
	}
	return rc;
}

static void *
run(void *arg)
{
	struct watch *watch = arg;
	struct redis *redis = watch->redis;
	size_t failures = 0;
	while (!atomic_load(&watch->ending)) {
		struct svc_error err = {0};
		watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
		forget_all(watch);
		if (begin(watch, &err) == SVC_OK) {
			int64_t since_ms = svc_now_ms();
			watch->sink(SVC_WATCH_SYNC, NULL, watch->arg);
			if (watch->lost)
				svc_log(SVC_LOG_INFO, "redis.back",
				    "the watch of %s goes on at %s",
				    what(watch),
				    redis->servers[watch->server].text);
			watch->lost = false;
			follow(watch, &err);
			if (svc_now_ms() - since_ms >= STEADY_MS)
				failures = 0;
		}
		link_close(watch->ear);
		watch->ear = NULL;
		if (atomic_load(&watch->ending))
			break;
		if (!watch->lost)
			svc_log(SVC_LOG_WARN, "redis.lost",
			    "the watch of %s is broken, known nodes stay: %s",
			    what(watch), err.text);
		watch->lost = true;
		watch->server = (watch->server + 1) % redis->n_servers;
		redis_wait(watch->wake_fd, svc_deadline(address_pause_ms(
					       failures++, redis->n_servers)));
	}
	return NULL;
}

static void
watch_free(struct watch *watch)
{
	if (watch == NULL)
		return;
	heard_clear(watch);
	forget_all(watch);
	if (watch->wake_fd >= 0)
		close(watch->wake_fd);
	svc_mem_free(watch->service);
	svc_mem_free(watch);
}

svc_err
watch_start(struct redis *redis, const char *service, svc_watch_sink sink,
    void *arg, struct watch **ret_watch, struct svc_error *err)
{
	struct watch *watch = svc_mem_calloc(1, sizeof(*watch));
	if (watch == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	watch->redis = redis;
	watch->sink = sink;
	watch->arg = arg;
	watch->server = atomic_load(&redis->current);
	watch->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	watch->service = svc_mem_strdup(service);
	svc_err rc = watch->wake_fd >= 0 ? SVC_OK : SVC_E_EXHAUSTED;
	if (service != NULL && watch->service == NULL)
		rc = SVC_E_NOMEM;
	if (rc == SVC_OK)
		rc = svc_thread_start(&watch->thread, "svc-redis", run, watch);
	if (rc != SVC_OK) {
		watch_free(watch);
		return svc_error_set(
		    err, rc, "no memory, descriptor or thread for a watch");
	}
	*ret_watch = watch;
	return SVC_OK;
}

void
watch_stop(struct watch *watch)
{
	uint64_t one = 1;
	atomic_store(&watch->ending, true);
	ssize_t put = write(watch->wake_fd, &one, sizeof(one));
	(void)put; /* full is awake */
	svc_thread_join(watch->thread);
	watch_free(watch);
}
