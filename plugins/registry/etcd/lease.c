/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keeper.lock guards everything of the keeper. It is not held during a
 * request: the key that it is about is `busy` meanwhile, which keeps others
 * from it, and so is a lease that is being granted.
 */
#include "lease.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <inttypes.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) svc_mem_alloc(size)
#define uthash_free(block, size) svc_mem_free(block)
#include <uthash.h>

enum { RETRY_MS = 1000, SPREAD_MS = 1000, SMALL_MAX = 1 << 12 };

struct lease { /* one for each TTL, never freed before the keeper */
	struct lease *next;
	int64_t ttl_s;
	int64_t id; /* 0: not granted */
	int64_t renew_at_ms;
	size_t n_keys;
	bool busy;   /* being granted */
	bool unsure; /* the last renewal got no answer */
};

struct key {
	UT_hash_handle hh;
	struct lease *lease; /* NULL: it is to be deleted */
	char *value;
	int64_t until_ms;  /* announced until then */
	int64_t try_at_ms; /* not before */
	bool busy;
	bool lost; /* its lease ended: to be put again */
	char name[];
};

struct keeper {
	struct etcd *etcd;
	struct http *http; /* of the thread */
	pthread_t thread;
	bool running;
	atomic_bool ending;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* something is not busy any longer */
	pthread_cond_t work;    /* of the thread, which wakes at wake_at_ms */
	int64_t wake_at_ms;
	struct lease *leases;
	struct key *keys;
};

/* Who asks, on which connection and until when. */
struct asker {
	struct keeper *keeper;
	struct http *http; /* NULL: any */
	int64_t deadline_at_ms;
};

/* -------------------------------------------------------------- questions */

static svc_err
ask(const struct asker *asker, const char *path, const struct svc_buf *body,
    cJSON **ret_answer, struct svc_error *err)
{
	struct keeper *keeper = asker->keeper;
	if (asker->http == NULL)
		return etcd_ask(keeper->etcd, path, body, asker->deadline_at_ms,
		    ret_answer, err);
	return etcd_ask_on(keeper->etcd, asker->http, path, body,
	    asker->deadline_at_ms, &keeper->ending, ret_answer, err);
}

static svc_err
keep_alive(const struct asker *asker, int64_t id, bool *ret_alive,
    struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, SMALL_MAX);
	svc_buf_printf(&body, "{\"ID\":\"%" PRId64 "\"}", id);
	svc_err rc = ask(asker, "/v3/lease/keepalive", &body, &answer, err);
	svc_buf_fini(&body);
	*ret_alive = rc == SVC_OK && message_keepalive_ttl(answer) > 0;
	cJSON_Delete(answer);
	return rc == SVC_E_NOT_FOUND ? SVC_OK : rc;
}

static svc_err
grant(const struct asker *asker, int64_t ttl_s, int64_t *ret_id,
    struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, SMALL_MAX);
	svc_buf_printf(&body, "{\"TTL\":\"%" PRId64 "\"}", ttl_s);
	svc_err rc = ask(asker, "/v3/lease/grant", &body, &answer, err);
	svc_buf_fini(&body);
	if (rc != SVC_OK)
		return rc;
	*ret_id = message_int(answer, "ID");
	cJSON_Delete(answer);
	if (*ret_id == 0)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "etcd granted no lease of %" PRId64 " s", ttl_s);
	return SVC_OK;
}

/* That it fails does no harm: nobody renews it, so it ends by itself. */
static void
revoke(const struct asker *asker, int64_t id)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, SMALL_MAX);
	svc_buf_printf(&body, "{\"ID\":\"%" PRId64 "\"}", id);
	ask(asker, "/v3/lease/revoke", &body, &answer, NULL);
	svc_buf_fini(&body);
	cJSON_Delete(answer);
}

/* Whether the key has its value and this lease. To look costs etcd far less
 * than to write, and makes no event. */
static svc_err
look(const struct asker *asker, const struct key *key, int64_t id,
    bool *ret_same, struct svc_error *err)
{
	struct svc_buf body, wanted;
	cJSON *answer = NULL;
	svc_buf_init(&body, BODY_MAX);
	svc_buf_init(&wanted, BODY_MAX);
	svc_buf_puts(&body, "{\"key\":");
	message_put_bytes(&body, key->name, strlen(key->name));
	svc_buf_putc(&body, '}');
	message_put_bytes(&wanted, key->value, strlen(key->value));
	svc_err rc = wanted.failed;
	if (rc == SVC_OK)
		rc = ask(asker, "/v3/kv/range", &body, &answer, err);
	if (rc == SVC_OK) {
		const cJSON *kv =
		    cJSON_GetArrayItem(message_get(answer, "kvs"), 0);
		const cJSON *value = message_get(kv, "value");
		*ret_same = message_int(kv, "lease") == id &&
			    cJSON_IsString(value) &&
			    strlen(value->valuestring) + 2 == wanted.len &&
			    memcmp(value->valuestring, wanted.data + 1,
				wanted.len - 2) == 0;
	}
	svc_buf_fini(&body);
	svc_buf_fini(&wanted);
	cJSON_Delete(answer);
	return rc;
}

/* Errors: also SVC_E_NOT_FOUND, there is no such lease */
static svc_err
put(const struct asker *asker, const struct key *key, int64_t id,
    struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, BODY_MAX);
	svc_buf_puts(&body, "{\"key\":");
	message_put_bytes(&body, key->name, strlen(key->name));
	svc_buf_puts(&body, ",\"value\":");
	message_put_bytes(&body, key->value, strlen(key->value));
	svc_buf_printf(&body, ",\"lease\":\"%" PRId64 "\"}", id);
	svc_err rc = ask(asker, "/v3/kv/put", &body, &answer, err);
	svc_buf_fini(&body);
	cJSON_Delete(answer);
	return rc;
}

static svc_err
erase(const struct asker *asker, const char *name, struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, SMALL_MAX);
	svc_buf_puts(&body, "{\"key\":");
	message_put_bytes(&body, name, strlen(name));
	svc_buf_putc(&body, '}');
	svc_err rc = ask(asker, "/v3/kv/deleterange", &body, &answer, err);
	svc_buf_fini(&body);
	cJSON_Delete(answer);
	return rc;
}

/* ---------------------------------------------- the tables; under the lock */

/* Something is due at at_ms. The thread looks at everything when it wakes, so
 * it is woken for what comes earlier than what it waits for, and for nothing
 * else.
 */
static void
call_for(struct keeper *keeper, int64_t at_ms)
{
	if (at_ms >= keeper->wake_at_ms)
		return;
	keeper->wake_at_ms = at_ms;
	pthread_cond_signal(&keeper->work);
}

static struct lease *
lease_of(struct keeper *keeper, int64_t ttl_s)
{
	struct lease *lease = keeper->leases;
	while (lease != NULL && lease->ttl_s != ttl_s)
		lease = lease->next;
	if (lease != NULL)
		return lease;
	lease = svc_mem_calloc(1, sizeof(*lease));
	if (lease == NULL)
		return NULL;
	lease->ttl_s = ttl_s;
	lease->next = keeper->leases;
	keeper->leases = lease;
	return lease;
}

static svc_err
took_too_long(struct svc_error *err)
{
	return svc_error_set(err, SVC_E_TIMEDOUT,
	    "etcd did not answer in time what was asked before");
}

/* Waits until nobody else is at it. NULL: there is none. When that takes too
 * long it is given all the same, busy. */
static svc_err
find(struct keeper *keeper, const char *name, int64_t deadline_at_ms,
    struct key **ret_key, struct svc_error *err)
{
	struct key *key;
	for (;;) {
		HASH_FIND(hh, keeper->keys, name, strlen(name), key);
		*ret_key = key;
		if (key == NULL || !key->busy)
			return SVC_OK;
		if (svc_cond_wait(&keeper->changed, &keeper->lock,
			deadline_at_ms) == SVC_E_TIMEDOUT)
			return took_too_long(err);
	}
}

static struct key *
make(struct keeper *keeper, const char *name)
{
	size_t len = strlen(name);
	struct key *key = svc_mem_calloc(1, sizeof(*key) + len + 1);
	if (key == NULL)
		return NULL;
	memcpy(key->name, name, len + 1);
	HASH_ADD_KEYPTR(hh, keeper->keys, key->name, len, key);
	if (key->hh.tbl != NULL)
		return key;
	svc_mem_free(key);
	return NULL;
}

static void
forget(struct keeper *keeper, struct key *key)
{
	HASH_DELETE(hh, keeper->keys, key);
	svc_mem_free(key->value);
	svc_mem_free(key);
}

/* The key hangs on `lease` from now on; NULL: it is to go. Gives back the id of
 * a lease on which nothing is left, to be revoked, else 0. */
static int64_t
move_to(struct key *key, struct lease *lease)
{
	struct lease *old = key->lease;
	int64_t id = 0;
	if (old == lease)
		return 0;
	key->lease = lease;
	if (lease != NULL)
		lease->n_keys++;
	if (old != NULL && --old->n_keys == 0) {
		id = old->id;
		old->id = 0;
	}
	return id;
}

/* The lease is no more: all that hung on it is to be put again. After an
 * outage, which hit others as well, everybody takes a moment of his own. Gives
 * back how many keys that are, for say_lost. */
static size_t
lose(struct keeper *keeper, struct lease *lease, int64_t id)
{
	struct key *key, *next;
	if (lease->id != id)
		return 0;
	uint64_t spread = lease->unsure ? SPREAD_MS : 0;
	int64_t at_ms = svc_now_ms() + (int64_t)svc_random_below(spread);
	lease->id = 0;
	lease->unsure = false;
	HASH_ITER (hh, keeper->keys, key, next) {
		if (key->lease == lease) {
			key->lost = true;
			key->try_at_ms = at_ms;
		}
	}
	call_for(keeper, at_ms);
	return lease->n_keys;
}

/* ---------------------------------------------------------- without it */

static void
say_lost(size_t n_keys)
{
	if (n_keys > 0)
		svc_log(SVC_LOG_INFO, "etcd.lease",
		    "etcd has forgotten a lease with %zu keys: they are put "
		    "again",
		    n_keys);
}

/* The id of the lease, which is granted when there is none. */
static svc_err
hold(const struct asker *asker, struct lease *lease, int64_t *ret_id,
    struct svc_error *err)
{
	struct keeper *keeper = asker->keeper;
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&keeper->lock);
	while (rc == SVC_OK && lease->busy)
		rc = svc_cond_wait(
		    &keeper->changed, &keeper->lock, asker->deadline_at_ms);
	*ret_id = lease->id;
	if (rc == SVC_OK)
		lease->busy = lease->id == 0;
	pthread_mutex_unlock(&keeper->lock);
	if (rc != SVC_OK)
		return took_too_long(err);
	if (*ret_id != 0)
		return SVC_OK;
	int64_t since_ms = svc_now_ms();
	rc = grant(asker, lease->ttl_s, ret_id, err);
	pthread_mutex_lock(&keeper->lock);
	lease->busy = false;
	if (rc == SVC_OK) {
		lease->id = *ret_id;
		lease->renew_at_ms = since_ms + lease->ttl_s * 1000 / 3;
		call_for(keeper, lease->renew_at_ms);
	}
	pthread_cond_broadcast(&keeper->changed);
	pthread_mutex_unlock(&keeper->lock);
	return rc;
}

/* The thread renews leases one after the other, on one connection. When one of
 * them is overdue, for packets were lost or another question holds the thread
 * up, whoever looks after a key of it renews it on the connection that he has.
 */
static void
renew_when_late(const struct asker *asker, struct lease *lease, int64_t id)
{
	struct keeper *keeper = asker->keeper;
	int64_t since_ms = svc_now_ms(), ttl_ms = lease->ttl_s * 1000;
	size_t n_lost = 0;
	bool alive = false;
	pthread_mutex_lock(&keeper->lock);
	bool late =
	    lease->id == id && since_ms >= lease->renew_at_ms + ttl_ms / 12;
	pthread_mutex_unlock(&keeper->lock);
	if (!late || keep_alive(asker, id, &alive, NULL) != SVC_OK)
		return;
	pthread_mutex_lock(&keeper->lock);
	if (!alive)
		n_lost = lose(keeper, lease, id);
	else if (lease->id == id)
		lease->renew_at_ms = since_ms + ttl_ms / 3;
	pthread_mutex_unlock(&keeper->lock);
	say_lost(n_lost);
}

/* Sees to it that the key, which is busy, is as it should be. */
static svc_err
settle(const struct asker *asker, const struct key *key, struct svc_error *err)
{
	struct keeper *keeper = asker->keeper;
	/* The lease may have ended unseen, hence the second round. */
	for (int round = 0; round < 2; round++) {
		int64_t id;
		bool same = false;
		svc_err rc = hold(asker, key->lease, &id, err);
		if (rc == SVC_OK) {
			renew_when_late(asker, key->lease, id);
			rc = look(asker, key, id, &same, err);
		}
		if (rc != SVC_OK || same)
			return rc;
		rc = put(asker, key, id, err);
		if (rc != SVC_E_NOT_FOUND)
			return rc;
		pthread_mutex_lock(&keeper->lock);
		size_t n_keys = lose(keeper, key->lease, id);
		pthread_mutex_unlock(&keeper->lock);
		say_lost(n_keys);
	}
	return svc_error_set(err, SVC_E_UNAVAILABLE,
	    "etcd forgets leases as soon as it has granted them");
}

/* -------------------------------------------------------------- the thread */

/* What is due, or when something will be. */
static struct lease *
due_lease(const struct keeper *keeper, int64_t now_ms, int64_t *wake_at_ms)
{
	for (struct lease *lease = keeper->leases; lease != NULL;
	     lease = lease->next) {
		if (lease->id == 0 || lease->n_keys == 0)
			continue;
		if (lease->renew_at_ms <= now_ms)
			return lease;
		if (lease->renew_at_ms < *wake_at_ms)
			*wake_at_ms = lease->renew_at_ms;
	}
	return NULL;
}

static struct key *
due_key(const struct keeper *keeper, int64_t now_ms, int64_t *wake_at_ms)
{
	struct key *key, *next;
	HASH_ITER (hh, keeper->keys, key, next) {
		int64_t at_ms = key->until_ms;
		if (key->lost ||
		    (key->until_ms <= now_ms && key->try_at_ms > at_ms))
			at_ms = key->try_at_ms;
		if (key->busy)
			continue;
		if (at_ms <= now_ms)
			return key;
		if (at_ms < *wake_at_ms)
			*wake_at_ms = at_ms;
	}
	return NULL;
}

static int64_t
soon(int64_t ms)
{
	return svc_now_ms() + ms / 2 +
	       (int64_t)svc_random_below((uint64_t)ms / 2 + 1);
}

/* The functions below are called with the lock and give it up meanwhile. */

static void
renew(struct keeper *keeper, struct lease *lease)
{
	int64_t id = lease->id, third_ms = lease->ttl_s * 1000 / 3;
	int64_t since_ms = svc_now_ms();
	int64_t limit_ms = keeper->etcd->timeout_ms;
	bool alive;
	struct svc_error err = {0};
	if (limit_ms > 2 * third_ms)
		limit_ms = 2 * third_ms;
	struct asker asker = {keeper, keeper->http, svc_deadline(limit_ms)};
	pthread_mutex_unlock(&keeper->lock);
	svc_err rc = keep_alive(&asker, id, &alive, &err);
	pthread_mutex_lock(&keeper->lock);
	lease->renew_at_ms = since_ms + third_ms;
	if (rc != SVC_OK) {
		/* A login that is refused will be refused again, and costs
		 * etcd more than all else. */
		bool patient = rc == SVC_E_DENIED || third_ms < RETRY_MS;
		lease->unsure = true;
		lease->renew_at_ms = soon(patient ? third_ms : RETRY_MS);
	} else if (alive) {
		lease->unsure = false;
	} else {
		size_t n_keys = lose(keeper, lease, id);
		pthread_mutex_unlock(&keeper->lock);
		say_lost(n_keys);
		pthread_mutex_lock(&keeper->lock);
	}
}

/* Puts a key that was lost, or deletes one whose time has passed. */
static void
mend(struct keeper *keeper, struct key *key)
{
	struct svc_error err = {0};
	struct asker asker = {
	    keeper, keeper->http, svc_deadline(keeper->etcd->timeout_ms)};
	bool is_over = key->until_ms <= svc_now_ms();
	int64_t unused = is_over ? move_to(key, NULL) : 0;
	key->busy = true;
	key->lost = false; /* unless it is lost again meanwhile */
	pthread_mutex_unlock(&keeper->lock);
	svc_err rc = is_over ? erase(&asker, key->name, &err)
			     : settle(&asker, key, &err);
	if (unused != 0)
		revoke(&asker, unused);
	pthread_mutex_lock(&keeper->lock);
	key->busy = false;
	bool again = rc == SVC_E_UNAVAILABLE || rc == SVC_E_TIMEDOUT;
	if (is_over && !again) {
		forget(keeper, key);
	} else {
		/* Whatever it is, the next announcement says it. */
		key->lost = !is_over && again;
		if (again)
			key->try_at_ms = soon(RETRY_MS);
	}
	pthread_cond_broadcast(&keeper->changed);
}

static void *
run(void *arg)
{
	struct keeper *keeper = arg;
	pthread_mutex_lock(&keeper->lock);
	while (!atomic_load(&keeper->ending)) {
		int64_t now_ms = svc_now_ms(), wake_at_ms = INT64_MAX;
		struct lease *lease = due_lease(keeper, now_ms, &wake_at_ms);
		struct key *key =
		    lease == NULL ? due_key(keeper, now_ms, &wake_at_ms) : NULL;
		if (lease != NULL) {
			renew(keeper, lease);
		} else if (key != NULL) {
			mend(keeper, key);
		} else {
			keeper->wake_at_ms = wake_at_ms;
			svc_cond_wait(&keeper->work, &keeper->lock, wake_at_ms);
		}
	}
	pthread_mutex_unlock(&keeper->lock);
	return NULL;
}

/* ----------------------------------------------------------- from outside */

svc_err
keeper_create(
    struct etcd *etcd, struct keeper **ret_keeper, struct svc_error *err)
{
	struct keeper *keeper = svc_mem_calloc(1, sizeof(*keeper));
	if (keeper == NULL || http_create(NULL, &keeper->http) != SVC_OK) {
		svc_mem_free(keeper);
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry etcd");
	}
	keeper->etcd = etcd;
	pthread_mutex_init(&keeper->lock, NULL);
	svc_cond_init(&keeper->changed);
	svc_cond_init(&keeper->work);
	keeper->wake_at_ms = INT64_MAX;
	*ret_keeper = keeper;
	return SVC_OK;
}

void
keeper_destroy(struct keeper *keeper)
{
	struct key *key, *next;
	if (keeper == NULL)
		return;
	pthread_mutex_lock(&keeper->lock);
	atomic_store(&keeper->ending, true);
	pthread_cond_signal(&keeper->work);
	pthread_mutex_unlock(&keeper->lock);
	http_wake(keeper->http);
	if (keeper->running)
		svc_thread_join(keeper->thread);
	HASH_ITER (hh, keeper->keys, key, next)
		forget(keeper, key);
	while (keeper->leases != NULL) {
		struct lease *lease = keeper->leases;
		keeper->leases = lease->next;
		svc_mem_free(lease);
	}
	http_destroy(keeper->http);
	pthread_cond_destroy(&keeper->changed);
	pthread_cond_destroy(&keeper->work);
	pthread_mutex_destroy(&keeper->lock);
	svc_mem_free(keeper);
}

static svc_err
no_memory(struct svc_error *err)
{
	return svc_error_set(err, SVC_E_NOMEM, "no memory to announce a node");
}

/* Under the lock; the key is busy on success. */
static svc_err
take_up(struct keeper *keeper, const char *name, const char *value,
    int64_t ttl_ms, int64_t deadline_at_ms, struct key **ret_key,
    int64_t *ret_unused, struct svc_error *err)
{
	struct key *key = NULL;
	svc_err rc = find(keeper, name, deadline_at_ms, &key, err);
	if (rc != SVC_OK)
		return rc;
	char *copy = svc_mem_strdup(value);
	/* Whole seconds, no shorter than asked. */
	struct lease *lease =
	    lease_of(keeper, ttl_ms / 1000 + (ttl_ms % 1000 != 0));
	if (key == NULL && copy != NULL && lease != NULL)
		key = make(keeper, name);
	if (key == NULL || copy == NULL || lease == NULL) {
		svc_mem_free(copy);
		return no_memory(err);
	}
	svc_mem_free(key->value);
	key->value = copy;
	*ret_unused = move_to(key, lease);
	key->until_ms = svc_deadline(ttl_ms);
	key->try_at_ms = 0;
	key->busy = true;
	key->lost = false;
	*ret_key = key;
	if (keeper->running)
		return SVC_OK;
	rc = svc_thread_start(&keeper->thread, "svc-etcd", run, keeper);
	keeper->running = rc == SVC_OK;
	if (rc == SVC_OK)
		return SVC_OK;
	move_to(key, NULL);
	forget(keeper, key);
	return svc_error_set(err, rc, "no thread to renew leases of etcd");
}

svc_err
keeper_announce(struct keeper *keeper, const char *name, const char *value,
    int64_t ttl_ms, int64_t timeout_ms, struct svc_error *err)
{
	struct asker asker = {keeper, NULL, svc_deadline(timeout_ms)};
	struct key *key = NULL;
	int64_t unused = 0;
	pthread_mutex_lock(&keeper->lock);
	svc_err rc = take_up(keeper, name, value, ttl_ms, asker.deadline_at_ms,
	    &key, &unused, err);
	pthread_mutex_unlock(&keeper->lock);
	if (rc != SVC_OK)
		return rc;
	rc = settle(&asker, key, err);
	pthread_mutex_lock(&keeper->lock);
	key->busy = false;
	/* From now on, for until now somebody has wanted it, and answers may
	 * take longer than the TTL. */
	key->until_ms = svc_deadline(ttl_ms);
	key->lost = key->lost && rc != SVC_OK;
	call_for(keeper, key->lost ? key->try_at_ms : key->until_ms);
	pthread_cond_broadcast(&keeper->changed);
	pthread_mutex_unlock(&keeper->lock);
	/* Once the key is on another. Else it ends when its time is over. */
	if (rc == SVC_OK && unused != 0)
		revoke(&asker, unused);
	return rc;
}

svc_err
keeper_withdraw(struct keeper *keeper, const char *name, int64_t timeout_ms,
    struct svc_error *err)
{
	struct asker asker = {keeper, NULL, svc_deadline(timeout_ms)};
	struct key *key = NULL;
	int64_t unused = 0;
	pthread_mutex_lock(&keeper->lock);
	svc_err rc = find(keeper, name, asker.deadline_at_ms, &key, err);
	/* The thread deletes whatever is over. */
	if (key != NULL)
		key->until_ms = svc_now_ms();
	if (key != NULL && rc == SVC_OK) {
		unused = move_to(key, NULL);
		key->lost = false;
		key->busy = true;
	}
	pthread_mutex_unlock(&keeper->lock);
	if (rc != SVC_OK)
		return rc;
	rc = erase(&asker, name, err);
	if (unused != 0)
		revoke(&asker, unused);
	if (key == NULL)
		return rc;
	pthread_mutex_lock(&keeper->lock);
	key->busy = false;
	if (rc == SVC_OK) {
		forget(keeper, key);
	} else {
		key->try_at_ms = soon(RETRY_MS);
		call_for(keeper, key->try_at_ms);
	}
	pthread_cond_broadcast(&keeper->changed);
	pthread_mutex_unlock(&keeper->lock);
	return rc;
}
