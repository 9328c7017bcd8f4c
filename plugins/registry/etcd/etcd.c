/* SPDX-License-Identifier: Apache-2.0 */
/* The registry "etcd": what go-micro's own plugin keeps there, so that both
 * see each other. */
#include "kv.h"
#include "lease.h"
#include "watch.h"

#include <svc/clock.h>

#include <string.h>

enum { VALUE_MAX = 1 << 20 };

static svc_err
plugin_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	struct etcd *etcd = NULL;
	/* One alone would be no login, and a slip that nobody is told. */
	if ((config->username == NULL) != (config->password == NULL))
		return svc_error_set(err, SVC_E_INVAL,
		    "registry etcd has a %s: give registry_%s as well",
		    config->username != NULL ? "user name and no password"
					     : "password and no user name",
		    config->username != NULL ? "password" : "username");
	svc_err rc = etcd_obtain(config, &etcd, err);
	if (rc == SVC_OK)
		*ret_self = etcd;
	return rc;
}

static void
plugin_destroy(void *self)
{
	etcd_release(self);
}

static svc_err
announce_within(void *self, const struct svc_record *record, int64_t ttl_ms,
    int64_t timeout_ms, struct svc_error *err)
{
	struct etcd *etcd = self;
	char *key = kv_key(record->name, record->nodes[0].id);
	char *value = svc_record_encode(record);
	svc_err rc;
	if (key == NULL || value == NULL)
		rc = svc_error_set(
		    err, SVC_E_NOMEM, "no memory to announce %s", record->name);
	else if (strlen(value) > VALUE_MAX)
		rc = svc_error_set(err, SVC_E_INVAL,
		    "the record of %s has %zu bytes: at most %d are allowed",
		    record->name, strlen(value), VALUE_MAX);
	else
		rc = keeper_announce(
		    etcd->keeper, key, value, ttl_ms, timeout_ms, err);
	svc_mem_free(key);
	svc_mem_free(value);
	return rc;
}

static svc_err
announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	const struct etcd *etcd = self;
	return announce_within(self, record, ttl_ms, etcd->timeout_ms, err);
}

static svc_err
withdraw_within(void *self, const struct svc_record *record, int64_t timeout_ms,
    struct svc_error *err)
{
	struct etcd *etcd = self;
	char *key = kv_key(record->name, record->nodes[0].id);
	if (key == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory to withdraw %s", record->name);
	svc_err rc = keeper_withdraw(etcd->keeper, key, timeout_ms, err);
	svc_mem_free(key);
	return rc;
}

static svc_err
withdraw(void *self, const struct svc_record *record, struct svc_error *err)
{
	const struct etcd *etcd = self;
	return withdraw_within(self, record, etcd->timeout_ms, err);
}

/* A question to any server, within the time of one op. */
struct question {
	struct etcd *etcd;
	int64_t deadline_at_ms;
};

static svc_err
ask_any(void *arg, const char *path, const struct svc_buf *body,
    cJSON **ret_answer, struct svc_error *err)
{
	struct question *question = arg;
	return etcd_ask(question->etcd, path, body, question->deadline_at_ms,
	    ret_answer, err);
}

static svc_err
lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	struct etcd *etcd = self;
	struct question question = {etcd, svc_deadline(etcd->timeout_ms)};
	svc_err rc = SVC_E_RANGE;
	/* Once more when history is compacted between two of its pages. */
	for (int round = 0; round < 2 && rc == SVC_E_RANGE; round++)
		rc = kv_range(
		    &etcd->skips, service, ask_any, &question, sink, arg, err);
	return rc;
}

static svc_err
list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	return lookup(self, NULL, sink, arg, err);
}

static svc_err
watch(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	struct etcd *etcd = self;
	struct watch *made = NULL;
	svc_err rc = watch_start(etcd->watcher, service, sink, arg, &made, err);
	if (rc == SVC_OK)
		*ret_watch = made;
	return rc;
}

static void
unwatch(void *self, void *which)
{
	struct etcd *etcd = self;
	watch_stop(etcd->watcher, which);
}

static const struct svc_registry_ops etcd_ops = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "etcd",
    .create = plugin_create,
    .destroy = plugin_destroy,
    .announce = announce,
    .withdraw = withdraw,
    .lookup = lookup,
    .list = list,
    .watch = watch,
    .unwatch = unwatch,
    .uses = SVC_REGISTRY_TLS | SVC_REGISTRY_SERVERS,
    .announce_within = announce_within,
    .withdraw_within = withdraw_within,
};
SVC_PLUGIN(etcd_ops);
