/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry "static": the services that a file names. One thread looks
 * after the file and calls the watches.
 *
 * Each watch holds the state that it was told last; when the file's is another
 * one, the thread tells it the differences. So states that come faster than
 * they can be told are passed over.
 *
 * Lock: static_registry.lock guards the present state, all refs, the watches
 * and `calling`. It is not held while a sink is called or the file is read.
 */
#include "file.h"

#include <svc/buf.h>
#include <svc/clock.h>
#include <svc/log.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

enum {
	SIZE_MAX_BYTES = 16 << 20,
	/* File systems of the network tell nothing of changes elsewhere. */
	LOOK_MS = 5000,
	/* A file that is still being written keeps changing. */
	SETTLE_MS = 1000,
};

/* Which content of the file: another one differs in one of them. */
struct stamp {
	bool there;
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec modified, changed;
};

struct static_watch {
	struct static_watch *prev, *next;
	char *service;
	svc_watch_sink sink;
	void *arg;
	struct file_nodes *told; /* NULL before the first full state */
};

struct static_registry {
	char *path;
	const char *base; /* the file's name without its folder */
	int notify_fd, wake_fd;
	int folder; /* the inotify watch; -1 when there is none */
	pthread_mutex_t lock;
	pthread_cond_t delivered; /* `calling` has changed */
	pthread_t thread;
	bool has_thread, ending;
	struct file_nodes *now;
	struct static_watch *watches, *calling;
	uint64_t unlisted; /* of the node that was said to be missing */
	/* Of the thread. */
	struct stamp taken; /* read last, whether or not it was good */
	struct stamp seen;  /* at the last look */
};

/* ---------------------------------------------------------------- the file */

static struct stamp
stamp_of(const struct stat *st)
{
	return (struct stamp){
	    .there = true,
	    .dev = st->st_dev,
	    .ino = st->st_ino,
	    .size = st->st_size,
	    .modified = st->st_mtim,
	    .changed = st->st_ctim,
	};
}

static bool
time_same(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool
stamp_same(const struct stamp *a, const struct stamp *b)
{
	if (!a->there || !b->there)
		return a->there == b->there;
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       time_same(a->modified, b->modified) &&
	       time_same(a->changed, b->changed);
}

/* All bytes of an open file. */
static svc_err
read_all(int fd, const char *path, struct svc_buf *buf, struct svc_error *err)
{
	for (;;) {
		svc_err rc = svc_buf_reserve(buf, 65536);
		if (rc == SVC_E_EXHAUSTED)
			return svc_error_set(err, SVC_E_INVAL,
			    "%s is too large: at most %d bytes are allowed",
			    path, SIZE_MAX_BYTES);
		if (rc != SVC_OK)
			return svc_error_set(
			    err, rc, "no memory to read %s", path);
		ssize_t n = read(fd, buf->data + buf->len, 65536);
		if (n == 0)
			return SVC_OK;
		if (n < 0 && errno != EINTR)
			return svc_error_sys(
			    err, SVC_E_INVAL, errno, "%s cannot be read", path);
		if (n > 0)
			buf->len += (size_t)n;
	}
}

/* ret_stamp is set in any case. */
static svc_err
file_load(const char *path, struct stamp *ret_stamp,
    struct file_nodes **ret_nodes, struct svc_error *err)
{
	struct svc_buf buf;
	struct stat st;
	*ret_stamp = (struct stamp){0};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return svc_error_sys(
		    err, SVC_E_INVAL, errno, "%s cannot be opened", path);
	svc_err rc = SVC_OK;
	if (fstat(fd, &st) != 0)
		rc = svc_error_sys(
		    err, SVC_E_INVAL, errno, "%s cannot be read", path);
	else if (!S_ISREG(st.st_mode))
		rc = svc_error_set(err, SVC_E_INVAL,
		    "%s is no file: registry static reads a YAML or JSON file",
		    path);
	if (rc != SVC_OK) {
		close(fd);
		return rc;
	}
	*ret_stamp = stamp_of(&st);
	svc_buf_init(&buf, SIZE_MAX_BYTES + 65536 + 1);
	rc = read_all(fd, path, &buf, err);
	close(fd);
	if (rc == SVC_OK)
		rc = file_read(path, buf.data, buf.len, ret_nodes, err);
	svc_buf_fini(&buf);
	return rc;
}

/* ------------------------------------------------------------------ telling */

/* With the lock. */
static void
nodes_unref(struct file_nodes *nodes)
{
	if (nodes != NULL && --nodes->refs == 0)
		file_free(nodes);
}

static struct file_nodes *
nodes_ref(struct file_nodes *nodes)
{
	nodes->refs++;
	return nodes;
}

static bool
is_of(const char *service, const struct svc_record *record)
{
	return service == NULL || strcmp(service, record->name) == 0;
}

static void
tell(const struct static_watch *watch, const struct file_nodes *told,
    const struct file_nodes *now)
{
	const struct file_node *node, *other;
	if (told == NULL)
		watch->sink(SVC_WATCH_BEGIN, NULL, watch->arg);
	/* Those that came, before those that went: so that a service whose
	 * nodes are all replaced is never without any. */
	for (node = now->table; node != NULL; node = node->hh.next) {
		if (!is_of(watch->service, node->record))
			continue;
		other = told != NULL ? file_find(told, node) : NULL;
		if (other == NULL ||
		    !svc_record_equal(other->record, node->record))
			watch->sink(SVC_WATCH_NODE, node->record, watch->arg);
	}
	if (told == NULL) {
		watch->sink(SVC_WATCH_SYNC, NULL, watch->arg);
		return;
	}
	for (node = told->table; node != NULL; node = node->hh.next)
		if (is_of(watch->service, node->record) &&
		    file_find(now, node) == NULL)
			watch->sink(SVC_WATCH_GONE, node->record, watch->arg);
}

static void
tell_all(struct static_registry *self)
{
	pthread_mutex_lock(&self->lock);
	for (;;) {
		struct static_watch *watch;
		DL_FOREACH (self->watches, watch)
			if (watch->told != self->now)
				break;
		if (watch == NULL || self->ending)
			break;
		struct file_nodes *now = nodes_ref(self->now);
		self->calling = watch;
		pthread_mutex_unlock(&self->lock);
		tell(watch, watch->told, now);
		pthread_mutex_lock(&self->lock);
		nodes_unref(watch->told);
		watch->told = now;
		self->calling = NULL;
		pthread_cond_broadcast(&self->delivered);
	}
	pthread_mutex_unlock(&self->lock);
}

/* --------------------------------------------------------- looking after it */

static void
take(struct static_registry *self)
{
	struct file_nodes *nodes = NULL;
	struct svc_error err = {0};
	svc_err rc = file_load(self->path, &self->taken, &nodes, &err);
	if (rc == SVC_E_NOMEM)
		self->taken = (struct stamp){0}; /* to be tried again */
	if (rc != SVC_OK) {
		svc_log(SVC_LOG_WARN, "static.bad", "the former nodes stay: %s",
		    err.text);
		return;
	}
	svc_log(SVC_LOG_INFO, "static.read", "%s names %u nodes now",
	    self->path, HASH_COUNT(nodes->table));
	pthread_mutex_lock(&self->lock);
	nodes_unref(self->now);
	self->now = nodes;
	pthread_mutex_unlock(&self->lock);
}

/* Returns how long it may be until the next look. */
static int64_t
look(struct static_registry *self, bool finished)
{
	struct stat st;
	struct stamp stamp = {0};
	bool was_there = self->seen.there;
	if (stat(self->path, &st) == 0)
		stamp = stamp_of(&st);
	bool settled = finished || stamp_same(&stamp, &self->seen);
	self->seen = stamp;
	if (!stamp.there) {
		if (was_there)
			svc_log(SVC_LOG_WARN, "static.gone",
			    "%s is not there any more: the former nodes stay",
			    self->path);
		return LOOK_MS;
	}
	/* Two changes within one tick of the clock have the same stamp. */
	if (!finished && stamp_same(&stamp, &self->taken))
		return LOOK_MS;
	if (!settled)
		return SETTLE_MS;
	take(self);
	/* What could not be taken is not there. */
	return self->taken.there ? LOOK_MS : SETTLE_MS;
}

static void
listen_to_folder(struct static_registry *self)
{
	char folder[4096] = ".";
	size_t len = (size_t)(self->base - self->path);
	if (self->notify_fd < 0 || self->folder >= 0 || len >= sizeof(folder))
		return;
	if (len > 0) {
		memcpy(folder, self->path, len);
		folder[len] = '\0';
	}
	self->folder = inotify_add_watch(self->notify_fd, folder,
	    IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE |
		IN_MOVED_FROM | IN_ONLYDIR);
}

/* Reads what inotify has; tells whether the file was closed by its writer or
 * put into place. */
static bool
read_events(struct static_registry *self)
{
	_Alignas(struct inotify_event) char buf[4096];
	bool finished = false;
	ssize_t n;
	while ((n = read(self->notify_fd, buf, sizeof(buf))) > 0) {
		const char *at = buf;
		while (at < buf + n) {
			const struct inotify_event *event =
			    (const struct inotify_event *)(const void *)at;
			if ((event->mask & (IN_CLOSE_WRITE | IN_MOVED_TO)) &&
			    event->len > 0 &&
			    strcmp(event->name, self->base) == 0)
				finished = true;
			/* The folder itself went away. */
			if ((event->mask & IN_IGNORED) != 0)
				self->folder = -1;
			at += sizeof(*event) + event->len;
		}
	}
	return finished;
}

static void *
run(void *arg)
{
	struct static_registry *self = arg;
	int64_t look_at_ms = svc_deadline(LOOK_MS);
	for (;;) {
		tell_all(self);
		pthread_mutex_lock(&self->lock);
		bool ending = self->ending;
		pthread_mutex_unlock(&self->lock);
		if (ending)
			return NULL;
		listen_to_folder(self);
		struct pollfd fds[2] = {
		    {.fd = self->wake_fd, .events = POLLIN},
		    {.fd = self->notify_fd, .events = POLLIN},
		};
		int n = poll(fds, 2, (int)svc_remaining(look_at_ms));
		bool told = n > 0 && fds[1].revents != 0;
		if (n > 0 && fds[0].revents != 0) {
			uint64_t count;
			ssize_t got =
			    read(self->wake_fd, &count, sizeof(count));
			(void)got;
		}
		if (told || svc_remaining(look_at_ms) == 0) {
			bool finished = told && read_events(self);
			look_at_ms = svc_deadline(look(self, finished));
		}
	}
}

static void
wake(struct static_registry *self)
{
	uint64_t one = 1;
	ssize_t put = write(self->wake_fd, &one, sizeof(one));
	(void)put; /* full is awake */
}

/* -------------------------------------------------------- making, ending */

static void
static_destroy(void *arg)
{
	struct static_registry *self = arg;
	if (self->has_thread) {
		pthread_mutex_lock(&self->lock);
		self->ending = true;
		pthread_mutex_unlock(&self->lock);
		wake(self);
		svc_thread_join(self->thread);
	}
	nodes_unref(self->now);
	if (self->notify_fd >= 0)
		close(self->notify_fd);
	if (self->wake_fd >= 0)
		close(self->wake_fd);
	pthread_cond_destroy(&self->delivered);
	pthread_mutex_destroy(&self->lock);
	svc_mem_free(self->path);
	svc_mem_free(self);
}

static svc_err
static_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	if (config->address == NULL || *config->address == '\0')
		return svc_error_set(err, SVC_E_INVAL,
		    "registry static needs the path of a file as its address: "
		    "registry(static, \"FILE\") or --registry_address=FILE");
	struct static_registry *self = svc_mem_calloc(1, sizeof(*self));
	if (self == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry static");
	pthread_mutex_init(&self->lock, NULL);
	svc_cond_init(&self->delivered);
	self->folder = -1;
	self->notify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	self->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	self->path = svc_mem_strdup(config->address);
	svc_err rc = SVC_OK;
	if (self->path == NULL) {
		rc = svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry static");
	} else if (self->wake_fd < 0) {
		rc = svc_error_sys(err, SVC_E_EXHAUSTED, errno,
		    "registry static cannot make an eventfd");
	} else {
		const char *slash = strrchr(self->path, '/');
		self->base = slash != NULL ? slash + 1 : self->path;
		/* Before it is read, so that no change is missed. */
		listen_to_folder(self);
		rc = file_load(self->path, &self->taken, &self->now, err);
		self->seen = self->taken;
	}
	if (rc == SVC_OK) {
		rc = svc_thread_start(&self->thread, "svc-static", run, self);
		self->has_thread = rc == SVC_OK;
		if (rc != SVC_OK)
			svc_error_set(err, rc, "no thread for registry static");
	}
	if (rc != SVC_OK) {
		static_destroy(self);
		return rc;
	}
	*ret_self = self;
	return SVC_OK;
}

/* ------------------------------------------------------- announce, answer */

/*
 * A file cannot be announced to: what it names is there, and nothing else. A
 * node that it does not name is told to whoever runs it, once.
 */
static svc_err
static_announce(void *arg, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	struct static_registry *self = arg;
	const struct svc_node *node = &record->nodes[0];
	const struct file_node *known;
	bool listed = false;
	(void)ttl_ms;
	(void)err;
	uint64_t hash = 14695981039346656037u;
	for (const char *p = node->address; *p != '\0'; p++)
		hash = (hash ^ (unsigned char)*p) * 1099511628211u;
	pthread_mutex_lock(&self->lock);
	for (known = self->now->table; known != NULL && !listed;
	     known = known->hh.next)
		listed =
		    strcmp(known->record->name, record->name) == 0 &&
		    strcmp(known->record->nodes[0].address, node->address) == 0;
	bool say = !listed && self->unlisted != hash;
	self->unlisted = listed ? 0 : hash;
	pthread_mutex_unlock(&self->lock);
	if (say)
		svc_log(SVC_LOG_WARN, "static.unlisted",
		    "%s does not name %s at %s: nobody finds this node "
		    "through it",
		    self->path, record->name, node->address);
	return SVC_OK;
}

static svc_err
static_withdraw(
    void *self, const struct svc_record *record, struct svc_error *err)
{
	(void)self;
	(void)record;
	(void)err;
	return SVC_OK;
}

static svc_err
static_lookup(void *arg, const char *service, svc_record_sink sink,
    void *sink_arg, struct svc_error *err)
{
	struct static_registry *self = arg;
	const struct file_node *node;
	(void)err;
	pthread_mutex_lock(&self->lock);
	struct file_nodes *now = nodes_ref(self->now);
	pthread_mutex_unlock(&self->lock);
	for (node = now->table; node != NULL; node = node->hh.next)
		if (is_of(service, node->record))
			sink(node->record, sink_arg);
	pthread_mutex_lock(&self->lock);
	nodes_unref(now);
	pthread_mutex_unlock(&self->lock);
	return SVC_OK;
}

static svc_err
static_list(
    void *arg, svc_record_sink sink, void *sink_arg, struct svc_error *err)
{
	return static_lookup(arg, NULL, sink, sink_arg, err);
}

/* -------------------------------------------------------------------- watch */

static svc_err
static_watch(void *arg, const char *service, svc_watch_sink sink,
    void *sink_arg, void **ret_watch, struct svc_error *err)
{
	struct static_registry *self = arg;
	struct static_watch *watch = svc_mem_calloc(1, sizeof(*watch));
	if (watch != NULL)
		watch->service = svc_mem_strdup(service);
	if (watch == NULL || (service != NULL && watch->service == NULL)) {
		svc_mem_free(watch);
		return svc_error_set(err, SVC_E_NOMEM, "no memory for a watch");
	}
	watch->sink = sink;
	watch->arg = sink_arg;
	/* Before the thread can call, so that the caller has it then. */
	*ret_watch = watch;
	pthread_mutex_lock(&self->lock);
	DL_APPEND(self->watches, watch);
	pthread_mutex_unlock(&self->lock);
	wake(self);
	return SVC_OK;
}

static void
static_unwatch(void *arg, void *which)
{
	struct static_registry *self = arg;
	struct static_watch *watch = which;
	pthread_mutex_lock(&self->lock);
	DL_DELETE(self->watches, watch);
	while (self->calling == watch)
		svc_cond_wait(&self->delivered, &self->lock, INT64_MAX);
	nodes_unref(watch->told);
	pthread_mutex_unlock(&self->lock);
	svc_mem_free(watch->service);
	svc_mem_free(watch);
}

static const struct svc_registry_ops static_ops = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "static",
    .create = static_create,
    .destroy = static_destroy,
    .announce = static_announce,
    .withdraw = static_withdraw,
    .lookup = static_lookup,
    .list = static_list,
    .watch = static_watch,
    .unwatch = static_unwatch,
};
SVC_PLUGIN(static_ops);
