/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of registries use: sample records, and a memory of what a watch
 * reports. */
#include <conformance/registry.h>
#include <support/scarce.h>

#include <svc/clock.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { CHANGES_MAX = 4096 };

/* --------------------------------------------------------------- samples */

void
sample_init(struct sample *sample, const char *service, const char *version,
    const char *id, int port)
{
	memset(sample, 0, sizeof(*sample));
	snprintf(sample->service, sizeof(sample->service), "%s", service);
	snprintf(sample->id, sizeof(sample->id), "%s", id);
	snprintf(
	    sample->address, sizeof(sample->address), "127.0.0.1:%d", port);
	sample->node.id = sample->id;
	sample->node.address = sample->address;
	sample->node.metadata = svc_headers_create();
	svc_headers_set(sample->node.metadata, "transport", "http");
	svc_headers_set(sample->node.metadata, "protocol", "mucp");
	sample->record.name = sample->service;
	sample->record.version = version;
	sample->record.nodes = &sample->node;
	sample->record.n_nodes = 1;
}

void
sample_fini(struct sample *sample)
{
	svc_headers_destroy(sample->node.metadata);
	sample->node.metadata = NULL;
}

/* -------------------------------------------------------------- recorder */

struct recorder {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	size_t n, seen;
	struct {
		svc_change change;
		struct svc_record *record;
	} changes[CHANGES_MAX];
};

struct recorder *
recorder_create(void)
{
	struct recorder *recorder = svc_mem_calloc(1, sizeof(*recorder));
	assert_non_null(recorder);
	pthread_mutex_init(&recorder->lock, NULL);
	svc_cond_init(&recorder->cond);
	return recorder;
}

void
recorder_destroy(struct recorder *recorder)
{
	for (size_t i = 0; i < recorder->n; i++)
		svc_record_destroy(recorder->changes[i].record);
	pthread_cond_destroy(&recorder->cond);
	pthread_mutex_destroy(&recorder->lock);
	svc_mem_free(recorder);
}

void
recorder_change(svc_change change, const struct svc_record *record, void *arg)
{
	struct recorder *recorder = arg;
	scarce_exempt(true);
	struct svc_record *copy =
	    record != NULL ? svc_record_copy(record) : NULL;
	scarce_exempt(false);
	pthread_mutex_lock(&recorder->lock);
	if (recorder->n < CHANGES_MAX) {
		recorder->changes[recorder->n].change = change;
		recorder->changes[recorder->n++].record = copy;
		copy = NULL;
	}
	pthread_cond_broadcast(&recorder->cond);
	pthread_mutex_unlock(&recorder->lock);
	svc_record_destroy(copy);
}

static bool
is_change(const struct recorder *recorder, size_t i, svc_change change,
    const char *service, const char *id)
{
	const struct svc_record *record = recorder->changes[i].record;
	if (recorder->changes[i].change != change)
		return false;
	if (change == SVC_SYNCED)
		return record == NULL;
	return record != NULL && record->n_nodes == 1 &&
	       (service == NULL || strcmp(record->name, service) == 0) &&
	       (id == NULL || strcmp(record->nodes[0].id, id) == 0);
}

bool
recorder_wait(struct recorder *recorder, svc_change change, const char *service,
    const char *id, int64_t timeout_ms, const struct svc_record **ret_record)
{
	int64_t deadline_at_ms = svc_deadline(timeout_ms);
	bool found = false;
	pthread_mutex_lock(&recorder->lock);
	for (;;) {
		while (!found && recorder->seen < recorder->n) {
			size_t i = recorder->seen++;
			found = is_change(recorder, i, change, service, id);
			if (found && ret_record != NULL)
				*ret_record = recorder->changes[i].record;
		}
		if (found || svc_now_ms() >= deadline_at_ms)
			break;
		svc_cond_wait(&recorder->cond, &recorder->lock, deadline_at_ms);
	}
	pthread_mutex_unlock(&recorder->lock);
	return found;
}

size_t
recorder_count(struct recorder *recorder, svc_change change,
    const char *service, const char *id)
{
	size_t count = 0;
	pthread_mutex_lock(&recorder->lock);
	for (size_t i = 0; i < recorder->n; i++)
		count += is_change(recorder, i, change, service, id);
	pthread_mutex_unlock(&recorder->lock);
	return count;
}

bool
recorder_quiet(struct recorder *recorder, int64_t timeout_ms)
{
	int64_t deadline_at_ms = svc_deadline(timeout_ms);
	pthread_mutex_lock(&recorder->lock);
	size_t had = recorder->n;
	while (recorder->n == had && svc_now_ms() < deadline_at_ms)
		svc_cond_wait(&recorder->cond, &recorder->lock, deadline_at_ms);
	bool quiet = recorder->n == had;
	pthread_mutex_unlock(&recorder->lock);
	return quiet;
}

int
recorder_nodes(struct recorder *recorder, const char *service)
{
	int nodes = 0;
	pthread_mutex_lock(&recorder->lock);
	for (size_t i = 0; i < recorder->n && nodes >= 0; i++) {
		const struct svc_record *record = recorder->changes[i].record;
		if (record == NULL ||
		    (service != NULL && strcmp(record->name, service) != 0))
			continue;
		/* What became of this node before? */
		bool there = false;
		for (size_t k = 0; k < i; k++) {
			if (is_change(recorder, k, SVC_CREATED, record->name,
				record->nodes[0].id))
				there = true;
			if (is_change(recorder, k, SVC_REMOVED, record->name,
				record->nodes[0].id))
				there = false;
		}
		svc_change change = recorder->changes[i].change;
		if (there == (change == SVC_CREATED))
			nodes = -1;
		else if (change == SVC_CREATED)
			nodes++;
		else if (change == SVC_REMOVED)
			nodes--;
	}
	pthread_mutex_unlock(&recorder->lock);
	return nodes;
}
