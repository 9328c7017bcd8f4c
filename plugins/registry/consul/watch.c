/* SPDX-License-Identifier: Apache-2.0 */
/* The watch of one service: each answer has all its healthy nodes, and what an
 * answer does not repeat is gone. */
#include "watch.h"

#include "follow.h"

struct watch_one {
	struct consul *consul;
	char *service;
	svc_watch_sink sink;
	void *arg;
	struct follow *follow;
	/* Of the follow's thread. */
	struct ids ids; /* that were reported and are not gone */
};

void
watch_put_path(struct consul *consul, const char *service, struct svc_buf *path)
{
	svc_buf_puts(path, "/v1/health/service/");
	consul_put_escaped(path, service);
	svc_buf_printf(path, "?passing=1%s", consul->datacenter);
}

static void
on_node(const struct svc_record *record, void *arg)
{
	struct watch_one *watch = arg;
	watch->sink(SVC_WATCH_NODE, record, watch->arg);
}

static void
on_gone(const struct svc_record *record, void *arg)
{
	struct watch_one *watch = arg;
	watch->sink(SVC_WATCH_GONE, record, watch->arg);
}

static void
on_lost(void *arg)
{
	struct watch_one *watch = arg;
	watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
}

static svc_err
on_answer(
    const struct svc_buf *answer, bool fresh, void *arg, struct svc_error *err)
{
	struct watch_one *watch = arg;
	struct ids ids = {0};
	if (fresh)
		watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
	svc_err rc = answer_nodes(&watch->consul->skips, watch->service,
	    answer->data, answer->len, fresh ? NULL : &watch->ids, on_node,
	    watch, &ids, err);
	if (rc != SVC_OK)
		return rc;
	if (fresh)
		watch->sink(SVC_WATCH_SYNC, NULL, watch->arg);
	else
		ids_gone(watch->service, &watch->ids, &ids, on_gone, watch);
	ids_fini(&watch->ids);
	watch->ids = ids;
	return SVC_OK;
}

static const struct follow_ops ops = {.lost = on_lost, .answer = on_answer};

static void
watch_free(struct watch_one *watch)
{
	ids_fini(&watch->ids);
	svc_mem_free(watch->service);
	svc_mem_free(watch);
}

svc_err
watch_one_start(struct consul *consul, const char *service, svc_watch_sink sink,
    void *arg, struct watch_one **ret_watch, struct svc_error *err)
{
	struct svc_buf path;
	struct watch_one *watch = svc_mem_calloc(1, sizeof(*watch));
	if (watch == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	watch->consul = consul;
	watch->sink = sink;
	watch->arg = arg;
	watch->service = svc_mem_strdup(service);
	svc_buf_init(&path, 1024);
	watch_put_path(consul, service, &path);
	svc_err rc = SVC_E_NOMEM;
	if (watch->service != NULL && path.failed == SVC_OK)
		rc = follow_start(consul, (const char *)path.data, service,
		    &ops, watch, &watch->follow, err);
	else
		svc_error_set(err, rc, "no memory for a watch");
	svc_buf_fini(&path);
	if (rc != SVC_OK) {
		watch_free(watch);
		return rc;
	}
	*ret_watch = watch;
	return SVC_OK;
}

void
watch_one_stop(struct watch_one *watch)
{
	follow_stop(watch->follow);
	watch_free(watch);
}
