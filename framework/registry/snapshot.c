/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lock: snapshot.lock guards the tables and what the thread waits for. It is
 * not held while the file is written or a sink is called.
 */
#include "snapshot.h"

#include "hash.h"
#include "record.h"

#include <svc/buf.h>
#include <svc/clock.h>
#include <svc/log.h>

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VERSION = 1, AGAIN_MS = 10000 };

/* One node and its line of the file. */
struct kept_node {
	UT_hash_handle hh;
	char *json;
	char id[];
};

struct kept_service {
	UT_hash_handle hh;
	struct kept_node *nodes; /* never empty */
	char name[];
};

struct snapshot {
	char *path, *of;
	int64_t saved_unix_ms; /* of what was read; constant */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	pthread_t thread;
	bool has_thread, ending, changed;
	bool foreign; /* the file is somebody else's; constant */
	struct kept_service *services;
	size_t n_nodes;
};

/* ------------------------------------------------------- tables (with lock) */

static void
node_free(struct snapshot *snapshot, struct kept_service *service,
    struct kept_node *node)
{
	HASH_DELETE(hh, service->nodes, node);
	svc_mem_free(node->json);
	svc_mem_free(node);
	snapshot->n_nodes--;
}

static void
service_free(struct snapshot *snapshot, struct kept_service *service)
{
	struct kept_node *node, *next;
	HASH_ITER (hh, service->nodes, node, next)
		node_free(snapshot, service, node);
	HASH_DELETE(hh, snapshot->services, service);
	svc_mem_free(service);
}

static struct kept_service *
service_find(struct snapshot *snapshot, const char *name)
{
	struct kept_service *service;
	HASH_FIND(hh, snapshot->services, name, strlen(name), service);
	return service;
}

static struct kept_service *
service_add(struct snapshot *snapshot, const char *name)
{
	size_t len = strlen(name);
	struct kept_service *service =
	    svc_mem_calloc(1, sizeof(*service) + len + 1);
	if (service == NULL)
		return NULL;
	memcpy(service->name, name, len + 1);
	HASH_ADD_KEYPTR(hh, snapshot->services, service->name, len, service);
	if (service->hh.tbl != NULL)
		return service;
	svc_mem_free(service);
	return NULL;
}

static struct kept_node *
node_find(struct kept_service *service, const char *id)
{
	struct kept_node *node = NULL;
	if (service != NULL)
		HASH_FIND(hh, service->nodes, id, strlen(id), node);
	return node;
}

/* Takes `json`. False when memory ran out; then it is freed. */
static bool
node_set(
    struct snapshot *snapshot, const char *name, const char *id, char *json)
{
	struct kept_service *service = service_find(snapshot, name);
	struct kept_node *node = node_find(service, id);
	if (node != NULL) {
		bool same = strcmp(node->json, json) == 0;
		svc_mem_free(same ? json : node->json);
		if (!same)
			node->json = json;
		snapshot->changed |= !same;
		return true;
	}
	size_t len = strlen(id);
	if (service == NULL && snapshot->n_nodes < SNAPSHOT_MAX_NODES)
		service = service_add(snapshot, name);
	if (service != NULL && snapshot->n_nodes < SNAPSHOT_MAX_NODES)
		node = svc_mem_calloc(1, sizeof(*node) + len + 1);
	if (node != NULL) {
		memcpy(node->id, id, len + 1);
		node->json = json;
		HASH_ADD_KEYPTR(hh, service->nodes, node->id, len, node);
		if (node->hh.tbl != NULL) {
			snapshot->n_nodes++;
			snapshot->changed = true;
			return true;
		}
		svc_mem_free(node);
	}
	if (service != NULL && service->nodes == NULL)
		service_free(snapshot, service);
	svc_mem_free(json);
	return false;
}

/* ------------------------------------------------------------ what is known */

/* Calls the sink with each node alone. */
static void
each_node(const struct svc_record *record, svc_record_sink sink, void *arg)
{
	struct svc_record one = *record;
	one.n_nodes = 1;
	for (size_t i = 0; i < record->n_nodes; i++) {
		one.nodes = &record->nodes[i];
		if (svc_record_check(&one, NULL) == SVC_OK)
			sink(&one, arg);
	}
}

/* False when memory ran out. */
static bool
put_node(struct snapshot *snapshot, const struct svc_record *one)
{
	char *json = svc_record_encode(one);
	if (json == NULL)
		return false;
	pthread_mutex_lock(&snapshot->lock);
	bool there = node_set(snapshot, one->name, one->nodes[0].id, json) ||
		     snapshot->n_nodes >= SNAPSHOT_MAX_NODES;
	if (snapshot->changed)
		pthread_cond_signal(&snapshot->cond);
	pthread_mutex_unlock(&snapshot->lock);
	return there;
}

static void
put_one(const struct svc_record *one, void *arg)
{
	/* What is lost for want of memory comes with the next full state. */
	put_node(arg, one);
}

void
snapshot_put(struct snapshot *snapshot, const struct svc_record *record)
{
	each_node(record, put_one, snapshot);
}

void
snapshot_remove(struct snapshot *snapshot, const struct svc_record *record)
{
	pthread_mutex_lock(&snapshot->lock);
	struct kept_service *service = service_find(snapshot, record->name);
	for (size_t i = 0; service != NULL && i < record->n_nodes; i++) {
		struct kept_node *node =
		    node_find(service, record->nodes[i].id);
		if (node == NULL)
			continue;
		node_free(snapshot, service, node);
		snapshot->changed = true;
	}
	if (service != NULL && service->nodes == NULL)
		service_free(snapshot, service);
	if (snapshot->changed)
		pthread_cond_signal(&snapshot->cond);
	pthread_mutex_unlock(&snapshot->lock);
}

static void
sweep_service(struct snapshot *snapshot, struct kept_service *service,
    snapshot_known known, void *arg)
{
	struct kept_node *node, *next;
	bool any = false;
	for (node = service->nodes; node != NULL && !any; node = node->hh.next)
		any = known(service->name, node->id, arg);
	if (!any)
		return;
	HASH_ITER (hh, service->nodes, node, next)
		if (!known(service->name, node->id, arg)) {
			node_free(snapshot, service, node);
			snapshot->changed = true;
		}
}

void
snapshot_sweep(struct snapshot *snapshot, const char *service,
    snapshot_known known, void *arg)
{
	struct kept_service *one, *next;
	pthread_mutex_lock(&snapshot->lock);
	HASH_ITER (hh, snapshot->services, one, next)
		if (service == NULL || strcmp(service, one->name) == 0)
			sweep_service(snapshot, one, known, arg);
	if (snapshot->changed)
		pthread_cond_signal(&snapshot->cond);
	pthread_mutex_unlock(&snapshot->lock);
}

svc_err
snapshot_read(struct snapshot *snapshot, const char *service,
    svc_record_sink sink, void *arg, size_t *ret_n)
{
	struct kept_service *one, *next;
	struct kept_node *node;
	size_t n = 0, told = 0;
	svc_err failed = SVC_OK;
	pthread_mutex_lock(&snapshot->lock);
	char **lines = svc_mem_calloc(snapshot->n_nodes + 1, sizeof(*lines));
	if (lines == NULL)
		failed = SVC_E_NOMEM;
	else
		HASH_ITER (hh, snapshot->services, one, next) {
			if (service != NULL && strcmp(service, one->name) != 0)
				continue;
			for (node = one->nodes; node != NULL;
			     node = node->hh.next) {
				lines[n] = svc_mem_strdup(node->json);
				if (lines[n] != NULL)
					n++;
				else
					failed = SVC_E_NOMEM;
			}
		}
	pthread_mutex_unlock(&snapshot->lock);
	for (size_t i = 0; i < n; i++) {
		struct svc_record *record = NULL;
		svc_err rc = svc_record_decode(
		    lines[i], strlen(lines[i]), &record, NULL);
		if (rc == SVC_OK) {
			sink(record, arg);
			told++;
		} else if (rc == SVC_E_NOMEM) {
			failed = rc;
		}
		svc_record_destroy(record);
		svc_mem_free(lines[i]);
	}
	svc_mem_free(lines);
	*ret_n = told;
	return failed;
}

bool
snapshot_has(struct snapshot *snapshot, const char *service)
{
	pthread_mutex_lock(&snapshot->lock);
	bool has = service_find(snapshot, service) != NULL;
	pthread_mutex_unlock(&snapshot->lock);
	return has;
}

size_t
snapshot_count(struct snapshot *snapshot)
{
	pthread_mutex_lock(&snapshot->lock);
	size_t n = snapshot->n_nodes;
	pthread_mutex_unlock(&snapshot->lock);
	return n;
}

int64_t
snapshot_saved_unix_ms(const struct snapshot *snapshot)
{
	return snapshot->saved_unix_ms;
}

/* ------------------------------------------------------------------ writing */

static void
put_lines(struct snapshot *snapshot, struct svc_buf *buf)
{
	struct kept_service *service;
	struct kept_node *node;
	svc_buf_printf(buf, SNAPSHOT_MARK "%d,\"registry\":", VERSION);
	svc_buf_json_string(buf, snapshot->of, strlen(snapshot->of));
	svc_buf_printf(
	    buf, ",\"saved_unix_ms\":%" PRId64 "}\n", svc_now_unix_ms());
	for (service = snapshot->services; service != NULL;
	     service = service->hh.next)
		for (node = service->nodes; node != NULL; node = node->hh.next)
			if (strlen(node->json) <= RECORD_MAX_BYTES) {
				svc_buf_puts(buf, node->json);
				svc_buf_putc(buf, '\n');
			}
}

/* With the lock, which is let go meanwhile. */
static svc_err
save(struct snapshot *snapshot, struct svc_error *err)
{
	struct svc_buf buf;
	svc_buf_init(&buf, SNAPSHOT_MAX_BYTES);
	put_lines(snapshot, &buf);
	snapshot->changed = false;
	pthread_mutex_unlock(&snapshot->lock);
	svc_err rc = buf.failed;
	if (rc == SVC_E_EXHAUSTED)
		svc_error_set(err, rc,
		    "the snapshot %s would have more than 64 MiB",
		    snapshot->path);
	else if (rc != SVC_OK)
		svc_error_set(err, rc, "no memory to write %s", snapshot->path);
	else
		rc = snapshot_replace(snapshot->path, &buf, err);
	svc_buf_fini(&buf);
	pthread_mutex_lock(&snapshot->lock);
	return rc;
}

static void *
run(void *arg)
{
	struct snapshot *snapshot = arg;
	int64_t at_ms = 0;
	bool said = false;
	pthread_mutex_lock(&snapshot->lock);
	while (!snapshot->ending || snapshot->changed) {
		if (!snapshot->ending &&
		    (!snapshot->changed || svc_now_ms() < at_ms)) {
			svc_cond_wait(&snapshot->cond, &snapshot->lock,
			    snapshot->changed ? at_ms : INT64_MAX);
			continue;
		}
		struct svc_error err = {0};
		if (snapshot->foreign) {
			snapshot->changed = false;
			continue;
		}
		svc_err rc = save(snapshot, &err);
		/* Another process writes this file just now. */
		bool busy = rc == SVC_E_AGAIN;
		bool ok = rc == SVC_OK || busy;
		at_ms = svc_deadline(ok ? SNAPSHOT_WRITE_MS : AGAIN_MS);
		/* At the end one attempt has to do. */
		if (rc != SVC_OK && !snapshot->ending)
			snapshot->changed = true;
		if (!ok && !said)
			svc_log(
			    SVC_LOG_WARN, "registry.snapshot", "%s", err.text);
		said = !ok;
	}
	pthread_mutex_unlock(&snapshot->lock);
	return NULL;
}

/* ------------------------------------------------------------------ reading */

/* The next line of [at, end), without its end. */
static const char *
line_end(const char *at, const char *end)
{
	const char *newline = memchr(at, '\n', (size_t)(end - at));
	return newline != NULL ? newline : end;
}

static svc_err
parse_head(const char *of, const char *line, size_t len,
    int64_t *ret_saved_unix_ms, struct svc_error *err)
{
	cJSON *head = cJSON_ParseWithLength(line, len);
	const cJSON *version =
	    cJSON_GetObjectItemCaseSensitive(head, "svc_snapshot");
	const cJSON *from = cJSON_GetObjectItemCaseSensitive(head, "registry");
	const cJSON *saved =
	    cJSON_GetObjectItemCaseSensitive(head, "saved_unix_ms");
	char quoted[100], wanted[100];
	svc_err rc = SVC_E_INVAL;
	if (!cJSON_IsNumber(version) || !cJSON_IsString(from))
		svc_error_set(
		    err, rc, "its first line is not that of a snapshot");
	else if (version->valueint != VERSION)
		rc = svc_error_set(err, SVC_E_PRECONDITION,
		    "it is of version %d, this release reads version %d",
		    version->valueint, VERSION);
	else if (strcmp(from->valuestring, of) != 0)
		rc = svc_error_set(err, SVC_E_PRECONDITION,
		    "it is of the registry %s, not of %s",
		    svc_log_quote(from->valuestring, strlen(from->valuestring),
			quoted, sizeof(quoted)),
		    svc_log_quote(of, strlen(of), wanted, sizeof(wanted)));
	else
		rc = SVC_OK;
	if (rc == SVC_OK) {
		double unix_ms = cJSON_IsNumber(saved) ? saved->valuedouble : 0;
		*ret_saved_unix_ms =
		    unix_ms > 0 && unix_ms < 9e15 ? (int64_t)unix_ms : 0;
	}
	cJSON_Delete(head);
	return rc;
}

svc_err
snapshot_parse(const char *of, const void *data, size_t len,
    svc_record_sink sink, void *arg, int64_t *ret_saved_unix_ms,
    size_t *ret_skipped, struct svc_error *err)
{
	const char *at = data, *end = at + len;
	size_t skipped = 0;
	if (len == 0)
		return svc_error_set(
		    err, SVC_E_PRECONDITION, "there is nothing in it");
	if (len > SNAPSHOT_MAX_BYTES)
		return svc_error_set(
		    err, SVC_E_INVAL, "it has more than 64 MiB");
	const char *stop = line_end(at, end);
	/* A head is short; what is longer is none. */
	size_t head_len = (size_t)(stop - at) < 65536 ? (size_t)(stop - at) : 0;
	svc_err rc = parse_head(of, at, head_len, ret_saved_unix_ms, err);
	if (rc != SVC_OK)
		return rc;
	for (at = stop; at < end; at = stop) {
		at++;
		stop = line_end(at, end);
		struct svc_record *record = NULL;
		if (stop == at)
			continue;
		rc = svc_record_decode(at, (size_t)(stop - at), &record, NULL);
		if (rc == SVC_E_NOMEM)
			return svc_error_set(
			    err, rc, "no memory for the nodes");
		if (rc == SVC_OK && svc_record_check(record, NULL) == SVC_OK)
			sink(record, arg);
		else
			skipped++;
		svc_record_destroy(record);
	}
	*ret_skipped = skipped;
	return SVC_OK;
}

static svc_err
read_file(int fd, struct svc_buf *buf, struct svc_error *err)
{
	struct stat st;
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
		return svc_error_set(err, SVC_E_INVAL, "it is no file");
	if (st.st_size > SNAPSHOT_MAX_BYTES)
		return svc_error_set(
		    err, SVC_E_INVAL, "it has more than 64 MiB");
	svc_err rc = svc_buf_reserve(buf, (size_t)st.st_size);
	if (rc != SVC_OK)
		return svc_error_set(err, rc, "no memory for it");
	while (buf->len < (size_t)st.st_size) {
		ssize_t n = read(
		    fd, buf->data + buf->len, (size_t)st.st_size - buf->len);
		if (n == 0)
			break;
		if (n < 0 && errno != EINTR)
			return svc_error_sys(
			    err, SVC_E_INVAL, errno, "it cannot be read");
		if (n > 0)
			buf->len += (size_t)n;
	}
	return SVC_OK;
}

struct loading {
	struct snapshot *snapshot;
	bool no_memory;
};

static void
load_one(const struct svc_record *one, void *arg)
{
	struct loading *loading = arg;
	if (!put_node(loading->snapshot, one))
		loading->no_memory = true;
}

static void
load_record(const struct svc_record *record, void *arg)
{
	each_node(record, load_one, arg);
}

static svc_err
load(struct snapshot *snapshot, struct svc_error *err)
{
	struct svc_buf buf;
	struct loading loading = {snapshot, false};
	size_t skipped = 0;
	int fd = open(snapshot->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return SVC_OK; /* the first start */
	if (fd < 0)
		return svc_error_sys(
		    err, SVC_E_INVAL, errno, "it cannot be opened");
	svc_buf_init(&buf, SNAPSHOT_MAX_BYTES + 1);
	svc_err rc = read_file(fd, &buf, err);
	close(fd);
	if (rc == SVC_OK)
		rc = snapshot_parse(snapshot->of,
		    buf.data != NULL ? (void *)buf.data : "", buf.len,
		    load_record, &loading, &snapshot->saved_unix_ms, &skipped,
		    err);
	svc_buf_fini(&buf);
	if (rc == SVC_OK && loading.no_memory)
		rc = svc_error_set(err, SVC_E_NOMEM, "no memory for the nodes");
	if (rc == SVC_OK && skipped > 0)
		svc_log(SVC_LOG_WARN, "registry.snapshot",
		    "%zu lines of the snapshot %s are no records and are left "
		    "out",
		    skipped, snapshot->path);
	/* It is as the file has it. */
	snapshot->changed = false;
	return rc;
}

/* -------------------------------------------------------- making, ending */

static svc_err
check_folder(const char *path, struct svc_error *err)
{
	const char *slash = strrchr(path, '/');
	char *folder = svc_mem_strdup(slash != NULL ? path : ".");
	if (folder == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a snapshot");
	if (slash != NULL)
		folder[slash == path ? 1 : slash - path] = '\0';
	svc_err rc = SVC_OK;
	if (access(folder, W_OK | X_OK) != 0)
		rc = svc_error_sys(err, SVC_E_INVAL, errno,
		    "the snapshot %s cannot be kept: its folder must be there "
		    "and writable",
		    path);
	svc_mem_free(folder);
	return rc;
}

svc_err
snapshot_open(const char *path, const char *of, struct snapshot **ret_snapshot,
    struct svc_error *err)
{
	struct svc_error why = {0};
	svc_err rc = check_folder(path, err);
	if (rc != SVC_OK)
		return rc;
	struct snapshot *snapshot = svc_mem_calloc(1, sizeof(*snapshot));
	if (snapshot == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a snapshot");
	pthread_mutex_init(&snapshot->lock, NULL);
	svc_cond_init(&snapshot->cond);
	snapshot->path = svc_mem_strdup(path);
	snapshot->of = svc_mem_strdup(of);
	rc = SVC_E_NOMEM;
	if (snapshot->path != NULL && snapshot->of != NULL)
		rc = load(snapshot, &why);
	/* A file that is good would be replaced by what is left of it. */
	if (rc != SVC_E_NOMEM) {
		/* Whoever gave the wrong path would lose what he has there. */
		snapshot->foreign = rc == SVC_E_INVAL;
		if (rc != SVC_OK)
			svc_log(SVC_LOG_WARN, "registry.snapshot",
			    "the snapshot %s is not used%s: %s", path,
			    snapshot->foreign
				? ", and none is kept: name another file, or "
				  "remove this one"
				: "",
			    why.text);
		rc = svc_thread_start(
		    &snapshot->thread, "svc-snapshot", run, snapshot);
	}
	snapshot->has_thread = rc == SVC_OK;
	if (rc != SVC_OK) {
		snapshot_close(snapshot);
		return svc_error_set(
		    err, rc, "no memory or thread for a snapshot");
	}
	*ret_snapshot = snapshot;
	return SVC_OK;
}

void
snapshot_close(struct snapshot *snapshot)
{
	struct kept_service *service, *next;
	if (snapshot == NULL)
		return;
	if (snapshot->has_thread) {
		pthread_mutex_lock(&snapshot->lock);
		snapshot->ending = true;
		pthread_cond_signal(&snapshot->cond);
		pthread_mutex_unlock(&snapshot->lock);
		svc_thread_join(snapshot->thread);
	}
	HASH_ITER (hh, snapshot->services, service, next)
		service_free(snapshot, service);
	pthread_cond_destroy(&snapshot->cond);
	pthread_mutex_destroy(&snapshot->lock);
	svc_mem_free(snapshot->path);
	svc_mem_free(snapshot->of);
	svc_mem_free(snapshot);
}
