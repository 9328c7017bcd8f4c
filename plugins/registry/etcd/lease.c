/* SPDX-License-Identifier: Apache-2.0 */
#include "lease.h"

#include "kv.h"

#include <svc/clock.h>

#include <inttypes.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) svc_mem_alloc(size)
#define uthash_free(block, size) svc_mem_free(block)
#include <uthash.h>

struct lease {
	UT_hash_handle hh;
	int64_t id; /* 0: not granted */
	int64_t ttl_s;
	char key[];
};

void
lease_forget_all(struct etcd *etcd)
{
	struct lease *lease, *next;
	HASH_ITER (hh, etcd->leases, lease, next) {
		HASH_DELETE(hh, etcd->leases, lease);
		svc_mem_free(lease);
	}
}

/* The lease of a key, made when there is none; with the lock. */
static struct lease *
lease_of(struct etcd *etcd, const char *key)
{
	struct lease *lease;
	size_t len = strlen(key);
	HASH_FIND(hh, etcd->leases, key, len, lease);
	if (lease != NULL)
		return lease;
	lease = svc_mem_calloc(1, sizeof(*lease) + len + 1);
	if (lease == NULL)
		return NULL;
	memcpy(lease->key, key, len + 1);
	HASH_ADD_KEYPTR(hh, etcd->leases, lease->key, len, lease);
	if (lease->hh.tbl != NULL)
		return lease;
	svc_mem_free(lease);
	return NULL;
}

static bool
remember(struct etcd *etcd, const char *key, int64_t id, int64_t ttl_s)
{
	pthread_mutex_lock(&etcd->lock);
	struct lease *lease = lease_of(etcd, key);
	if (lease != NULL) {
		lease->id = id;
		lease->ttl_s = ttl_s;
	}
	pthread_mutex_unlock(&etcd->lock);
	return lease != NULL;
}

static void
forget(struct etcd *etcd, const char *key)
{
	struct lease *lease;
	pthread_mutex_lock(&etcd->lock);
	HASH_FIND(hh, etcd->leases, key, strlen(key), lease);
	if (lease != NULL) {
		HASH_DELETE(hh, etcd->leases, lease);
		svc_mem_free(lease);
	}
	pthread_mutex_unlock(&etcd->lock);
}

/* The gateway answers {"result": {...}}; an unknown lease has no TTL. */
static svc_err
keep_alive(struct etcd *etcd, int64_t id, int64_t deadline_at_ms,
    bool *ret_alive, struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, BODY_MAX);
	svc_buf_printf(&body, "{\"ID\":\"%" PRId64 "\"}", id);
	svc_err rc = etcd_ask(
	    etcd, "/v3/lease/keepalive", &body, deadline_at_ms, &answer, err);
	svc_buf_fini(&body);
	if (rc == SVC_E_NOT_FOUND) {
		*ret_alive = false;
		return SVC_OK;
	}
	if (rc != SVC_OK)
		return rc;
	*ret_alive =
	    etcd_int(
		cJSON_GetObjectItemCaseSensitive(answer, "result"), "TTL") > 0;
	cJSON_Delete(answer);
	return SVC_OK;
}

static svc_err
grant(struct etcd *etcd, int64_t ttl_s, int64_t deadline_at_ms, int64_t *ret_id,
    struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, BODY_MAX);
	svc_buf_printf(&body, "{\"TTL\":\"%" PRId64 "\"}", ttl_s);
	svc_err rc = etcd_ask(
	    etcd, "/v3/lease/grant", &body, deadline_at_ms, &answer, err);
	svc_buf_fini(&body);
	if (rc != SVC_OK)
		return rc;
	int64_t id = etcd_int(answer, "ID");
	cJSON_Delete(answer);
	if (id == 0)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "etcd granted no lease of %" PRId64 " s", ttl_s);
	*ret_id = id;
	return SVC_OK;
}

/* After the key has moved to another lease. That it fails does no harm: the
 * lease ends by itself. */
static void
revoke(struct etcd *etcd, int64_t id, int64_t deadline_at_ms)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, BODY_MAX);
	svc_buf_printf(&body, "{\"ID\":\"%" PRId64 "\"}", id);
	if (etcd_ask(etcd, "/v3/lease/revoke", &body, deadline_at_ms, &answer,
		NULL) == SVC_OK)
		cJSON_Delete(answer);
	svc_buf_fini(&body);
}

/*
 * Looks and writes in one transaction, so that a key which somebody deleted or
 * changed by hand comes back, and one that is as it should be makes no event.
 * Errors: SVC_E_NOT_FOUND when there is no such lease
 */
static svc_err
put(struct etcd *etcd, const char *key, const char *value, int64_t id,
    int64_t deadline_at_ms, struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, 3 * BODY_MAX);
	svc_buf_puts(&body, "{\"compare\":[{\"target\":\"LEASE\",\"key\":");
	kv_put_base64(&body, key, strlen(key));
	svc_buf_printf(&body,
	    ",\"lease\":\"%" PRId64 "\"},{\"target\":\"VALUE\",\"key\":", id);
	kv_put_base64(&body, key, strlen(key));
	svc_buf_puts(&body, ",\"value\":");
	kv_put_base64(&body, value, strlen(value));
	svc_buf_puts(&body, "}],\"failure\":[{\"request_put\":{\"key\":");
	kv_put_base64(&body, key, strlen(key));
	svc_buf_puts(&body, ",\"value\":");
	kv_put_base64(&body, value, strlen(value));
	svc_buf_printf(&body, ",\"lease\":\"%" PRId64 "\"}}]}", id);
	svc_err rc =
	    etcd_ask(etcd, "/v3/kv/txn", &body, deadline_at_ms, &answer, err);
	svc_buf_fini(&body);
	if (rc == SVC_OK)
		cJSON_Delete(answer);
	return rc;
}

svc_err
lease_announce(struct etcd *etcd, const char *key, const char *value,
    int64_t ttl_ms, struct svc_error *err)
{
	int64_t deadline_at_ms = svc_deadline(etcd->timeout_ms);
	/* Whole seconds, no shorter than asked. */
	int64_t ttl_s = ttl_ms / 1000 + (ttl_ms % 1000 != 0);
	int64_t id = 0, old_id = 0;
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&etcd->lock);
	struct lease *lease = lease_of(etcd, key);
	if (lease != NULL && lease->ttl_s == ttl_s)
		id = lease->id;
	else if (lease != NULL)
		old_id = lease->id;
	pthread_mutex_unlock(&etcd->lock);
	if (lease == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory to announce a node");
	if (id != 0) {
		bool alive = false;
		rc = keep_alive(etcd, id, deadline_at_ms, &alive, err);
		if (rc != SVC_OK)
			return rc;
		if (!alive)
			id = 0;
	}
	/* The lease may end between two requests, hence the second round. */
	for (int round = 0; round < 2; round++) {
		if (id == 0)
			rc = grant(etcd, ttl_s, deadline_at_ms, &id, err);
		if (rc != SVC_OK)
			return rc;
		rc = put(etcd, key, value, id, deadline_at_ms, err);
		if (rc != SVC_E_NOT_FOUND)
			break;
		id = 0;
	}
	if (rc == SVC_E_NOT_FOUND)
		return svc_error_set(err, SVC_E_UNAVAILABLE,
		    "etcd forgets leases as soon as it has granted them");
	/* Also after a failed put: the next attempt goes on with the lease. */
	if (!remember(etcd, key, id, ttl_s) && rc == SVC_OK)
		rc = svc_error_set(
		    err, SVC_E_NOMEM, "no memory to announce a node");
	if (rc == SVC_OK && old_id != 0)
		revoke(etcd, old_id, deadline_at_ms);
	return rc;
}

svc_err
lease_withdraw(struct etcd *etcd, const char *key, struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	svc_buf_init(&body, BODY_MAX);
	svc_buf_puts(&body, "{\"key\":");
	kv_put_base64(&body, key, strlen(key));
	svc_buf_putc(&body, '}');
	svc_err rc = etcd_ask(etcd, "/v3/kv/deleterange", &body,
	    svc_deadline(etcd->timeout_ms), &answer, err);
	svc_buf_fini(&body);
	if (rc != SVC_OK)
		return rc;
	cJSON_Delete(answer);
	forget(etcd, key);
	return SVC_OK;
}
