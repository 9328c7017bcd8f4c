/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many handlers run at once, and the calls that wait for their turn.
 *
 * A handler that runs on a loop needs no thread of its own, and there is at
 * most one a loop. So as long as the threads that run something off the loops
 * and the loops together are no more than the limit, a call is let in without
 * a look at anything that other threads write. Near the limit the handlers are
 * summed up: each call adds itself to the counter of its thread first and then
 * looks at all of them, so two calls may both be kept out of the last place,
 * but never both get it.
 *
 * A call that is kept out is copied into the queue and holds neither thread
 * nor loop. Whoever ends a handler looks at the queue after it has taken itself
 * off the count, and a call looks at the count again after it has joined the
 * queue, so that none is forgotten.
 *
 * `lock` guards the queue. Nothing is called under it.
 */
#include "server.h"

#include <stdio.h>
#include <string.h>

#define MAX_WAITING 1024
#define MAX_BYTES ((size_t)16 << 20)

struct svc_waiting_call {
	struct svc_waiting_call *next;
	struct svc_server *server;
	struct svc_server_shard *shard;
	struct svc_server_endpoint *endpoint; /* NULL: there is none */
	struct svc_stream_handle *stream;
	struct svc_part first; /* with its own texts, headers and data */
	int64_t deadline_at_ms;
	int64_t until_ms; /* then it is refused */
	size_t cost;
	bool taken; /* out of the queue: who took it ends it */
	char texts[];
};

/* ------------------------------------------------------------- begin and end
 */

static void look(struct svc_timer *timer);
static void arm(struct svc_task *task);

void
svc_admission_init(struct svc_admission *admission)
{
	pthread_mutex_init(&admission->lock, NULL);
	admission->last = &admission->first;
	admission->arm.run = arm;
	admission->timer.fire = look;
}

void
svc_admission_start(
    struct svc_admission *admission, struct svc_service *service)
{
	admission->executor = service->executor;
	admission->limit = service->values.max_handlers;
	admission->wait_ms = service->values.queue_timeout_ms;
	admission->unseen =
	    admission->limit - svc_executor_loops(service->executor);
	admission->loop = svc_executor_loop(service->executor);
}

void
svc_admission_fini(struct svc_admission *admission)
{
	pthread_mutex_destroy(&admission->lock);
}

/* -------------------------------------------------------------------- count
 */

static int64_t
handlers(struct svc_server *server)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < SVC_SERVER_SHARDS; i++)
		sum +=
		    atomic_load(&server->shards[i].counts) / SVC_COUNT_HANDLER;
	return (int64_t)sum;
}

/* Of one that is counted: whether it is not too many. */
static bool
fits(struct svc_server *server)
{
	return (svc_loop_held() &&
		   svc_executor_off_loop(server->admission.executor) <=
		       server->admission.unseen) ||
	       handlers(server) <= server->admission.limit;
}

/* Past those that wait. */
static bool
enter(struct svc_server *server, struct svc_server_shard *shard)
{
	atomic_fetch_add(&shard->counts, SVC_COUNT_HANDLER);
	if (fits(server))
		return true;
	atomic_fetch_sub(&shard->counts, SVC_COUNT_HANDLER);
	return false;
}

SVC_HOT bool
svc_admission_enter_counted(
    struct svc_server *server, struct svc_server_shard *shard)
{
	if (server->admission.limit == 0 ||
	    (atomic_load(&server->admission.n_waiting) == 0 && fits(server)))
		return true;
	atomic_fetch_sub(&shard->counts, SVC_COUNT_HANDLER);
	return false;
}

bool
svc_admission_enter(struct svc_server *server, struct svc_server_shard *shard)
{
	atomic_fetch_add(&shard->counts, SVC_COUNT_HANDLER);
	return svc_admission_enter_counted(server, shard);
}

/* The server whose calls this thread takes from the queue. */
static SVC_THREAD_LOCAL struct svc_server *queue_of;

static void run_waiting(void *arg);

/* A thread for the next that waits. Without one, the next handler that ends or
 * the timer tries again. */
static void
call_next(struct svc_server *server)
{
	if (atomic_load(&server->admission.n_waiting) != 0)
		svc_executor_run(
		    server->admission.executor, run_waiting, server);
}

void
svc_admission_left(struct svc_server *server)
{
	/* Who works off the queue takes the next one itself. */
	if (atomic_load(&server->admission.n_waiting) != 0 &&
	    queue_of != server)
		call_next(server);
}

void
svc_admission_leave(struct svc_server *server, struct svc_server_shard *shard)
{
	atomic_fetch_sub(&shard->counts, SVC_COUNT_HANDLER);
	svc_admission_left(server);
}

/* -------------------------------------------------------------------- queue
 */

static void
waiting_free(struct svc_waiting_call *waiting)
{
	union {
		const struct svc_headers *in;
		struct svc_headers *out;
	} headers = {waiting->first.headers};
	svc_headers_destroy(headers.out);
	svc_mem_free(waiting);
}

/* With the lock. */
static void
take(struct svc_admission *admission, struct svc_waiting_call **place)
{
	struct svc_waiting_call *waiting = *place;
	*place = waiting->next;
	if (*place == NULL)
		admission->last = place;
	admission->bytes -= waiting->cost;
	waiting->taken = true;
	atomic_fetch_sub(&admission->n_waiting, 1);
}

static void
waiting_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	(void)stream;
	(void)part;
}

/* The caller has gone. Whoever took the call meanwhile releases it, which
 * waits for the end of this. */
static void
waiting_closed(
    struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	(void)end;
	struct svc_waiting_call *waiting = stream->user;
	struct svc_server *server = waiting->server;
	struct svc_admission *admission = &server->admission;
	pthread_mutex_lock(&admission->lock);
	bool mine = !waiting->taken;
	if (mine) {
		struct svc_waiting_call **place = &admission->first;
		while (*place != waiting)
			place = &(*place)->next;
		take(admission, place);
	}
	pthread_mutex_unlock(&admission->lock);
	if (!mine)
		return;
	stream->ops->release(stream, SVC_E_CANCELLED);
	svc_server_count_out(server, waiting->shard, SVC_COUNT_CALL);
	waiting_free(waiting);
}

static const struct svc_stream_events waiting_events = {
    .part = waiting_part,
    .closed = waiting_closed,
};

static char *
copy_text(char **at, const char *text)
{
	if (text == NULL)
		return NULL;
	size_t size = strlen(text) + 1;
	char *copy = memcpy(*at, text, size);
	*at += size;
	return copy;
}

static struct svc_waiting_call *
waiting_create(struct svc_server *server, struct svc_server_shard *shard,
    struct svc_server_endpoint *endpoint, struct svc_stream_handle *stream,
    const struct svc_part *first, const void *data, size_t len)
{
	const char *const texts[] = {
	    first->service, first->endpoint, first->content_type};
	size_t size = 0;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		size += texts[i] != NULL ? strlen(texts[i]) + 1 : 0;
	struct svc_waiting_call *waiting =
	    svc_mem_calloc(1, sizeof(*waiting) + size + len);
	if (waiting == NULL)
		return NULL;
	char *at = waiting->texts;
	waiting->server = server;
	waiting->shard = shard;
	waiting->endpoint = endpoint;
	waiting->stream = stream;
	waiting->cost = sizeof(*waiting) + size + len;
	waiting->first.flags = SVC_PART_HEADERS;
	waiting->first.service = copy_text(&at, first->service);
	waiting->first.endpoint = copy_text(&at, first->endpoint);
	waiting->first.content_type = copy_text(&at, first->content_type);
	if (data != NULL) {
		waiting->first.data = at;
		waiting->first.len = len;
		memcpy(at, data, len);
	}
	waiting->deadline_at_ms = first->timeout_ms >= 0
				      ? svc_deadline(first->timeout_ms)
				      : INT64_MAX;
	waiting->until_ms = svc_deadline(server->admission.wait_ms);
	if (svc_headers_count(first->headers) > 0) {
		waiting->first.headers = svc_headers_copy(first->headers);
		if (waiting->first.headers == NULL) {
			svc_mem_free(waiting);
			return NULL;
		}
	}
	return waiting;
}

svc_err
svc_admission_wait(struct svc_server *server, struct svc_server_shard *shard,
    struct svc_server_endpoint *endpoint, struct svc_stream_handle *stream,
    const struct svc_part *first, const void *data, size_t len, char *text,
    size_t size)
{
	struct svc_admission *admission = &server->admission;
	struct svc_waiting_call *waiting = NULL;
	const struct svc_stream_events *events = stream->events;
	if (admission->wait_ms > 0 &&
	    atomic_load(&admission->n_waiting) < MAX_WAITING && len < MAX_BYTES)
		waiting = waiting_create(
		    server, shard, endpoint, stream, first, data, len);
	if (waiting != NULL) {
		stream->user = waiting;
		stream->events = &waiting_events;
	}
	pthread_mutex_lock(&admission->lock);
	bool queued = waiting != NULL &&
		      atomic_load(&admission->n_waiting) < MAX_WAITING &&
		      admission->bytes + waiting->cost <= MAX_BYTES;
	bool post = queued && !admission->armed;
	if (queued) {
		*admission->last = waiting;
		admission->last = &waiting->next;
		admission->bytes += waiting->cost;
		admission->armed = true;
		atomic_fetch_add(&admission->n_waiting, 1);
	}
	pthread_mutex_unlock(&admission->lock);
	if (!queued) {
		snprintf(text, size,
		    "the service runs %lld handlers, its limit "
		    "(--max_handlers), and %s",
		    (long long)admission->limit,
		    admission->wait_ms == 0 ? "no call may wait for one to end"
					    : "has no room for calls to wait");
		stream->events = events;
		stream->user = NULL;
		if (waiting != NULL)
			waiting_free(waiting);
		return SVC_E_EXHAUSTED;
	}
	if (post)
		svc_loop_post(admission->loop, &admission->arm);
	/* One may have ended in between. */
	if (handlers(server) < admission->limit)
		call_next(server);
	return SVC_OK;
}

/* As a job: on a thread where handlers may block. */
static void
run_waiting(void *arg)
{
	struct svc_server *server = arg;
	struct svc_admission *admission = &server->admission;
	for (;;) {
		struct svc_waiting_call *waiting = NULL;
		pthread_mutex_lock(&admission->lock);
		if (admission->first != NULL &&
		    enter(server, admission->first->shard)) {
			waiting = admission->first;
			take(admission, &admission->first);
		}
		pthread_mutex_unlock(&admission->lock);
		if (waiting == NULL)
			return;
		waiting->first.timeout_ms =
		    waiting->deadline_at_ms != INT64_MAX
			? svc_remaining(waiting->deadline_at_ms)
			: -1;
		struct svc_server *outer = queue_of;
		queue_of = server;
		svc_server_serve(server, waiting->shard, waiting->endpoint,
		    waiting->stream, &waiting->first, waiting->first.data,
		    waiting->first.len, svc_now_ms());
		queue_of = outer;
		waiting_free(waiting);
	}
}

/* --------------------------------------------------------------------- time
 */

/* On the loop: refuses those that have waited long enough. */
static void
look(struct svc_timer *timer)
{
	struct svc_admission *admission =
	    (struct svc_admission *)(void *)((char *)timer -
					     offsetof(
						 struct svc_admission, timer));
	int64_t now_ms = svc_now_ms();
	struct svc_waiting_call *late = NULL, **end = &late;
	pthread_mutex_lock(&admission->lock);
	/* All wait equally long, so the first is the first to go. */
	while (
	    admission->first != NULL && admission->first->until_ms <= now_ms) {
		*end = admission->first;
		take(admission, &admission->first);
		(*end)->next = NULL;
		end = &(*end)->next;
	}
	admission->armed = admission->first != NULL;
	int64_t next_ms = admission->armed ? admission->first->until_ms : 0;
	struct svc_server *server =
	    admission->armed ? admission->first->server : NULL;
	pthread_mutex_unlock(&admission->lock);
	while (late != NULL) {
		struct svc_waiting_call *waiting = late;
		late = waiting->next;
		char text[160];
		snprintf(text, sizeof(text),
		    "the service runs %lld handlers, its limit "
		    "(--max_handlers), and none ended in %lld ms "
		    "(--queue_timeout)",
		    (long long)admission->limit, (long long)admission->wait_ms);
		svc_server_refuse(waiting->server, waiting->shard,
		    waiting->stream, SVC_E_EXHAUSTED, true, text);
		waiting_free(waiting);
	}
	if (server == NULL)
		return;
	call_next(server);
	/* Without memory for a timer the next call in the queue tries. */
	if (svc_timer_start(admission->loop, &admission->timer, next_ms) !=
	    SVC_OK) {
		pthread_mutex_lock(&admission->lock);
		admission->armed = false;
		pthread_mutex_unlock(&admission->lock);
	}
}

static void
arm(struct svc_task *task)
{
	struct svc_admission *admission =
	    (struct svc_admission *)(void *)((char *)task -
					     offsetof(
						 struct svc_admission, arm));
	look(&admission->timer);
}
