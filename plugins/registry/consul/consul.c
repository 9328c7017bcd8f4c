/* SPDX-License-Identifier: Apache-2.0 */
/* The registry "consul": what go-micro's own plugin keeps there, so that both
 * see each other. */
#include "announce.h"
#include "watch.h"

#include <svc/clock.h>

static svc_err
plugin_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	struct consul *consul = NULL;
	svc_err rc = consul_create(config, &consul, err);
	if (rc == SVC_OK)
		*ret_self = consul;
	return rc;
}

static void
plugin_destroy(void *self)
{
	consul_destroy(self);
}

static svc_err
announce_within(void *self, const struct svc_record *record, int64_t ttl_ms,
    int64_t timeout_ms, struct svc_error *err)
{
	return consul_announce(self, record, ttl_ms, timeout_ms, err);
}

static svc_err
announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	struct consul *consul = self;
	return consul_announce(consul, record, ttl_ms, consul->timeout_ms, err);
}

static svc_err
withdraw_within(void *self, const struct svc_record *record, int64_t timeout_ms,
    struct svc_error *err)
{
	return consul_withdraw(self, record, timeout_ms, err);
}

static svc_err
withdraw(void *self, const struct svc_record *record, struct svc_error *err)
{
	struct consul *consul = self;
	return consul_withdraw(consul, record, consul->timeout_ms, err);
}

/* Questions that any server may answer, also without a leader, so that who
 * starts during an outage finds the others. */
static svc_err
ask(struct consul *consul, const struct svc_buf *path, struct svc_buf *answer,
    struct svc_error *err)
{
	struct question question = {
	    .method = "GET", .path = (const char *)path->data};
	if (path->failed != SVC_OK)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a request");
	svc_err rc = consul_ask(consul, NULL, NULL, &question,
	    svc_deadline(consul->timeout_ms), answer, err);
	/* No consul lacks these paths. */
	return rc == SVC_E_NOT_FOUND ? SVC_E_UNAVAILABLE : rc;
}

static svc_err
lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	struct consul *consul = self;
	struct svc_buf path, answer;
	svc_buf_init(&path, 1024);
	svc_buf_init(&answer, ANSWER_MAX);
	watch_put_path(consul, service, &path);
	svc_buf_puts(&path, "&stale");
	svc_err rc = ask(consul, &path, &answer, err);
	if (rc == SVC_OK)
		rc = answer_nodes(&consul->skips, service, answer.data,
		    answer.len, NULL, sink, arg, NULL, err);
	svc_buf_fini(&path);
	svc_buf_fini(&answer);
	return rc;
}

static svc_err
list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	struct consul *consul = self;
	struct svc_buf path, answer;
	svc_buf_init(&path, 1024);
	svc_buf_init(&answer, ANSWER_MAX);
	svc_buf_printf(
	    &path, "/v1/catalog/services?stale%s", consul->datacenter);
	svc_err rc = ask(consul, &path, &answer, err);
	if (rc == SVC_OK)
		rc = answer_versions(answer.data, answer.len, sink, arg, err);
	svc_buf_fini(&path);
	svc_buf_fini(&answer);
	return rc;
}

/* What the framework gets as a watch. */
struct watch {
	struct watch_one *one;
	struct watch_all *all;
};

static svc_err
watch(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	struct watch *made = svc_mem_calloc(1, sizeof(*made));
	if (made == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	svc_err rc =
	    service != NULL
		? watch_one_start(self, service, sink, arg, &made->one, err)
		: watch_all_start(self, sink, arg, &made->all, err);
	if (rc == SVC_OK)
		*ret_watch = made;
	else
		svc_mem_free(made);
	return rc;
}

static void
unwatch(void *self, void *which)
{
	struct watch *made = which;
	(void)self;
	if (made->one != NULL)
		watch_one_stop(made->one);
	else
		watch_all_stop(made->all);
	svc_mem_free(made);
}

static const struct svc_registry_ops consul_ops = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "consul",
    .create = plugin_create,
    .destroy = plugin_destroy,
    .announce = announce,
    .withdraw = withdraw,
    .lookup = lookup,
    .list = list,
    .watch = watch,
    .unwatch = unwatch,
    .options = CONSUL_OPTIONS,
    .uses = SVC_REGISTRY_TLS | SVC_REGISTRY_SERVERS,
    .announce_within = announce_within,
    .withdraw_within = withdraw_within,
};
SVC_PLUGIN(consul_ops);
