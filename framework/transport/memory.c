/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport within a process: svc frames handed from one connection's end to
 * the other's inbox. A call whose handler does not block needs none of this: it
 * is a call of a function on the caller's thread (memory_call).
 *
 * Locks: names_mutex guards the listeners' names and each listener's list of
 * ends; end->mutex an end's inbox and peer. names_mutex is taken first; no
 * callback runs under either.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <svc/clock.h>
#include <svc/log.h>
#include <svc/mux.h>

#include "frame.h"

#define MAX_NAME 64
#define KEEP_INBOX 65536 /* storage that is used again */

struct memory {
	struct svc_transport_config config;
	_Atomic size_t n_ends; /* falls under names_mutex */
};

struct listener {
	struct memory *memory;
	struct listener *next;
	char name[MAX_NAME + 1];
	svc_accept_cb accept;
	void *arg;
	_Atomic(svc_direct_cb) direct;
	_Atomic bool draining;
	int64_t linger_until_ms; /* atomic */
	struct end *ends;
};

struct end {
	struct svc_mux mux;
	struct svc_source source;
	struct memory *memory;
	struct listener *listener; /* of a server's end */
	struct end *prev, *next;
	pthread_mutex_t mutex;
	struct end *peer; /* with a reference */
	struct svc_buf inbox;
	bool hung_up;          /* by the peer */
	bool gone;             /* from its loop; under mutex */
	struct svc_buf outbox; /* of the flusher */
	/* of the reader */
	struct block *block;
	size_t offset;
	bool shares; /* the rest of the block is for its next turn */
	bool attached, detached;
	_Atomic bool close_asked;
};

/* Bytes being handled. The end holds one reference, and so does the thread
 * that handles them, which may lose the loop meanwhile. */
struct block {
	int refs;
	struct svc_buf bytes;
};

static pthread_mutex_t names_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t names_changed = PTHREAD_COND_INITIALIZER;
static struct listener *names;
static uint64_t next_name;

static void
block_unref(struct block *block)
{
	if (block != NULL &&
	    __atomic_sub_fetch(&block->refs, 1, __ATOMIC_ACQ_REL) == 0) {
		svc_buf_fini(&block->bytes);
		svc_mem_free(block);
	}
}

static struct end *
end_of(struct svc_mux *mux)
{
	return (struct end *)(void *)mux;
}

/* An end that has left its loop is not kicked any more: the loop may be gone
 * before its peer's. */
static void
kick(struct end *end)
{
	svc_mux_ref(&end->mux);
	pthread_mutex_lock(&end->mutex);
	bool kicked = !end->gone && svc_source_kick(&end->source);
	pthread_mutex_unlock(&end->mutex);
	if (!kicked)
		svc_mux_unref(&end->mux);
}

static void
end_flush(struct svc_mux *mux)
{
	struct end *end = end_of(mux);
	while (svc_mux_begin_flush(mux, &end->outbox)) {
		size_t sent = 0;
		pthread_mutex_lock(&end->mutex);
		struct end *peer = end->peer;
		if (peer != NULL)
			svc_mux_ref(&peer->mux);
		pthread_mutex_unlock(&end->mutex);
		if (peer != NULL) {
			pthread_mutex_lock(&peer->mutex);
			if (svc_buf_append(&peer->inbox, end->outbox.data,
				end->outbox.len) == SVC_OK)
				sent = end->outbox.len;
			else
				peer->hung_up = true;
			pthread_mutex_unlock(&peer->mutex);
			kick(peer);
			svc_mux_unref(&peer->mux);
		}
		svc_mux_end_flush(mux, &end->outbox, sent);
	}
}

static void
end_free(struct svc_mux *mux)
{
	struct end *end = end_of(mux);
	struct memory *memory = end->memory;
	if (end->listener != NULL) {
		pthread_mutex_lock(&names_mutex);
		if (end->prev != NULL)
			end->prev->next = end->next;
		else
			end->listener->ends = end->next;
		if (end->next != NULL)
			end->next->prev = end->prev;
		pthread_cond_broadcast(&names_changed);
		pthread_mutex_unlock(&names_mutex);
	}
	block_unref(end->block);
	svc_buf_fini(&end->inbox);
	svc_buf_fini(&end->outbox);
	pthread_mutex_destroy(&end->mutex);
	svc_mux_fini(mux);
	svc_mem_free(end);
	pthread_mutex_lock(&names_mutex);
	memory->n_ends--;
	pthread_cond_broadcast(&names_changed);
	pthread_mutex_unlock(&names_mutex);
}

static void
ask_close(struct end *end)
{
	atomic_store(&end->close_asked, true);
	kick(end);
}

static void
end_ask_close(struct svc_mux *mux)
{
	ask_close(end_of(mux));
}

static const struct svc_mux_ops mux_ops = {
    .flush = end_flush,
    .free = end_free,
    .close = end_ask_close,
};

/* Hang up: the peer reads what is there, then sees the end. On the loop. */
static void
end_close(struct end *end)
{
	if (end->detached)
		return;
	end->detached = true;
	svc_mux_detach(&end->mux);
	svc_source_detach(&end->source);
	pthread_mutex_lock(&end->mutex);
	struct end *peer = end->peer;
	end->peer = NULL;
	end->gone = true;
	pthread_mutex_unlock(&end->mutex);
	if (peer != NULL) {
		pthread_mutex_lock(&peer->mutex);
		peer->hung_up = true;
		pthread_mutex_unlock(&peer->mutex);
		kick(peer);
		svc_mux_unref(&peer->mux);
	}
	svc_mux_unref(&end->mux);
}

/* Bytes for the reader: what is left of the block and what has come, without a
 * copy unless something is left. NULL when nothing has come. */
static struct block *
next_block(struct end *end, bool resume)
{
	struct block *old = end->block;
	size_t left = old != NULL ? old->bytes.len - end->offset : 0;
	pthread_mutex_lock(&end->mutex);
	if (end->inbox.len == 0 && !resume) {
		pthread_mutex_unlock(&end->mutex);
		return NULL;
	}
	struct block *block = svc_mem_calloc(1, sizeof(*block));
	if (block != NULL) {
		block->refs = 1;
		svc_buf_init(&block->bytes, SIZE_MAX / 2);
	}
	if (block != NULL && left > 0) {
		svc_buf_append(
		    &block->bytes, old->bytes.data + end->offset, left);
		svc_buf_append(&block->bytes, end->inbox.data, end->inbox.len);
		if (block->bytes.failed != SVC_OK) {
			block_unref(block);
			block = NULL;
		}
	} else if (block != NULL) { /* nearly always: frames come whole */
		struct svc_buf taken = end->inbox;
		end->inbox = block->bytes;
		block->bytes = taken;
		if (old != NULL && old->bytes.cap <= KEEP_INBOX &&
		    __atomic_load_n(&old->refs, __ATOMIC_ACQUIRE) == 1) {
			/* Nobody handles bytes of it any more. */
			end->inbox = old->bytes;
			svc_buf_init(&old->bytes, SIZE_MAX / 2);
		}
	}
	if (block == NULL)
		end->hung_up = true; /* without memory it cannot go on */
	svc_buf_clear(&end->inbox);
	pthread_mutex_unlock(&end->mutex);
	end->block = block;
	end->offset = 0;
	block_unref(old);
	return block;
}

/* False when the loop was lost: then `end` may be gone. */
static bool
end_read(struct end *end, bool resume)
{
	struct svc_error err; /* set when it fails */
	struct block *block;
	bool same = end->shares && !resume;
	end->shares = false;
	while ((block = same ? end->block : next_block(end, resume)) != NULL) {
		resume = same = false;
		svc_mux_result result = SVC_MUX_OK;
		__atomic_add_fetch(&block->refs, 1, __ATOMIC_RELAXED);
		if (end->offset < block->bytes.len)
			result = svc_mux_input(&end->mux, block->bytes.data,
			    block->bytes.len, &end->offset, &err);
		block_unref(block);
		if (result == SVC_MUX_LOST)
			return false;
		if (result == SVC_MUX_FAILED)
			svc_mux_fail(&end->mux, err.code, err.text);
		if (result == SVC_MUX_YIELD) {
			end_flush(&end->mux);
			resume = true;
		}
		if (result == SVC_MUX_SHARE) {
			end->shares = true;
			svc_mux_yield(&end->mux, &end->source);
			break;
		}
	}
	end_flush(&end->mux);
	return true;
}

static void
end_ready(struct svc_source *source, unsigned events)
{
	struct end *end = (struct end *)(void *)((char *)source -
						 offsetof(struct end, source));
	bool resume = (events & SVC_IO_RESUME) != 0;
	if (!end->attached) {
		end->attached = true;
		svc_mux_attach(&end->mux);
	}
	if (resume)
		end_flush(&end->mux);
	if (!end->detached && !svc_mux_failed(&end->mux) &&
	    !end_read(end, resume && end->block != NULL))
		return;
	pthread_mutex_lock(&end->mutex);
	bool hung_up = end->hung_up && end->inbox.len == 0 && !end->shares;
	pthread_mutex_unlock(&end->mutex);
	bool close = atomic_load(&end->close_asked);
	/* What a handler answered after it lost the loop may still be with its
	 * thread: let it be sent before the end. */
	if (close && !end->detached && svc_mux_linger(&end->mux))
		close = false;
	if (close)
		svc_mux_fail(&end->mux, SVC_E_CLOSED, "closed");
	else if (hung_up)
		svc_mux_fail(&end->mux, SVC_E_UNAVAILABLE,
		    "the peer closed the connection");
	if (svc_mux_failed(&end->mux)) {
		svc_mux_result closed = svc_mux_close_streams(&end->mux);
		if (closed == SVC_MUX_LOST)
			return;
		if (closed == SVC_MUX_SHARE)
			svc_mux_yield(&end->mux, &end->source);
		else
			end_close(end);
	}
	/* The reference of the kick; a resumed call finishes a kicked one. */
	svc_mux_unref(&end->mux);
}

static svc_err
end_create(struct memory *memory, struct listener *listener, const char *peer,
    struct svc_loop *loop, struct end **ret_end)
{
	struct end *end = svc_mem_calloc(1, sizeof(*end));
	if (end == NULL)
		return SVC_E_NOMEM;
	struct svc_mux_config config = {
	    .ops = &mux_ops,
	    .transport = &svc_transport_memory,
	    .loop = loop,
	    .limits = memory->config.limits,
	    .server = listener != NULL,
	    .accept = listener != NULL ? listener->accept : NULL,
	    .accept_arg = listener != NULL ? listener->arg : NULL,
	    .linger_until_ms =
		listener != NULL ? &listener->linger_until_ms : NULL,
	};
	if (svc_mux_init(&end->mux, &config, peer) != SVC_OK) {
		svc_mem_free(end);
		return SVC_E_NOMEM;
	}
	end->memory = memory;
	memory->n_ends++;
	pthread_mutex_init(&end->mutex, NULL);
	svc_buf_init(&end->inbox, SIZE_MAX / 2);
	svc_buf_init(&end->outbox, SIZE_MAX / 2);
	end->source.fd = -1;
	end->source.ready = end_ready;
	svc_source_attach(loop, &end->source, 0, NULL);
	svc_mux_ref(&end->mux); /* of the loop, until end_close */
	*ret_end = end;
	return SVC_OK;
}

/* ------------------------------------------------------------------------ ops
 */

static svc_err
memory_create(const struct svc_transport_config *config, void **ret_self,
    struct svc_error *err)
{
	struct memory *memory = svc_mem_calloc(1, sizeof(*memory));
	if (memory == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	memory->config = *config;
	*ret_self = memory;
	return SVC_OK;
}

static void
memory_destroy(void *self)
{
	struct memory *memory = self;
	/* An end leaves by way of its loop, which may go after this. */
	pthread_mutex_lock(&names_mutex);
	while (memory->n_ends > 0)
		pthread_cond_wait(&names_changed, &names_mutex);
	pthread_mutex_unlock(&names_mutex);
	svc_mem_free(memory);
}

static struct listener *
find_name(const char *name)
{
	struct listener *listener = names;
	while (listener != NULL && strcmp(listener->name, name) != 0)
		listener = listener->next;
	return listener;
}

static svc_err
check_name(const char *name, struct svc_error *err)
{
	char quoted[96];
	size_t len = strlen(name);
	bool good = len >= 1 && len <= MAX_NAME;
	for (const char *p = name; *p != 0; p++)
		good = good && (unsigned char)*p > ' ';
	if (good)
		return SVC_OK;
	return svc_error_set(err, SVC_E_INVAL,
	    "address %s: a name of 1 to %d characters without space is "
	    "allowed",
	    svc_log_quote(name, len, quoted, sizeof(quoted)), MAX_NAME);
}

static svc_err
memory_listen(void *self, const char *address, svc_accept_cb accept, void *arg,
    void **ret_listener, struct svc_error *err)
{
	size_t len = strlen(address);
	bool any =
	    len == 0 || (len >= 2 && strcmp(address + len - 2, ":0") == 0);
	if (!any && check_name(address, err) != SVC_OK)
		return SVC_E_INVAL;
	struct listener *listener = svc_mem_calloc(1, sizeof(*listener));
	if (listener == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	listener->memory = self;
	listener->accept = accept;
	listener->arg = arg;
	listener->linger_until_ms = INT64_MAX;
	pthread_mutex_lock(&names_mutex);
	if (any)
		snprintf(listener->name, sizeof(listener->name),
		    "memory:%" PRIu64, ++next_name);
	else
		memcpy(listener->name, address, len + 1);
	bool taken = find_name(listener->name) != NULL;
	if (!taken) {
		listener->next = names;
		names = listener;
	}
	pthread_mutex_unlock(&names_mutex);
	if (taken) {
		svc_mem_free(listener);
		return svc_error_set(err, SVC_E_EXISTS,
		    "address %s is in use in this process", address);
	}
	*ret_listener = listener;
	return SVC_OK;
}

static const char *
memory_listener_address(void *self)
{
	return ((struct listener *)self)->name;
}

/* Calls `act` for every end of the listener, under no lock. */
static void
each_end(struct listener *listener, void (*act)(struct end *end))
{
	pthread_mutex_lock(&names_mutex);
	size_t n = 0, i = 0;
	for (struct end *end = listener->ends; end != NULL; end = end->next)
		n++;
	struct end **ends = svc_mem_calloc(n + 1, sizeof(struct end *));
	for (struct end *end = listener->ends; end != NULL && ends != NULL;
	     end = end->next) {
		/* An end whose last reference is gone is about to leave. */
		int refs = __atomic_load_n(&end->mux.refs, __ATOMIC_ACQUIRE);
		while (refs > 0 &&
		       !__atomic_compare_exchange_n(&end->mux.refs, &refs,
			   refs + 1, true, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			;
		if (refs > 0)
			ends[i++] = end;
	}
	pthread_mutex_unlock(&names_mutex);
	while (i > 0) {
		act(ends[--i]);
		svc_mux_unref(&ends[i]->mux);
	}
	svc_mem_free(ends);
}

static void
forget_name(struct listener *listener)
{
	pthread_mutex_lock(&names_mutex);
	atomic_store(&listener->draining, true);
	struct listener **place = &names;
	while (*place != NULL && *place != listener)
		place = &(*place)->next;
	if (*place == listener)
		*place = listener->next;
	pthread_mutex_unlock(&names_mutex);
}

static void
drain_end(struct end *end)
{
	svc_mux_drain(&end->mux);
}

static void
memory_drain(void *self)
{
	forget_name(self);
	each_end(self, drain_end);
}

static void
memory_linger_until(void *self, int64_t until_at_ms)
{
	struct listener *listener = self;
	__atomic_store_n(
	    &listener->linger_until_ms, until_at_ms, __ATOMIC_RELAXED);
}

static void
memory_listener_destroy(void *self)
{
	struct listener *listener = self;
	forget_name(listener);
	each_end(listener, ask_close);
	pthread_mutex_lock(&names_mutex);
	while (listener->ends != NULL)
		pthread_cond_wait(&names_changed, &names_mutex);
	pthread_mutex_unlock(&names_mutex);
	svc_mem_free(listener);
}

static svc_err
memory_dial(void *self, const char *address, int64_t timeout_ms,
    void **ret_conn, struct svc_error *err)
{
	(void)timeout_ms; /* nothing here takes time */
	if (check_name(address, err) != SVC_OK)
		return SVC_E_INVAL;
	struct memory *memory = self;
	struct svc_executor *executor = memory->config.executor;
	struct svc_loop *loop = svc_executor_loop(executor);
	struct end *client, *server = NULL;
	if (end_create(memory, NULL, address, loop, &client) != SVC_OK)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	pthread_mutex_lock(&names_mutex);
	struct listener *listener = find_name(address);
	/* On one loop, so that an answer goes from end to end without waking a
	 * thread. */
	if (listener != NULL && listener->memory->config.executor != executor)
		loop = svc_executor_loop(listener->memory->config.executor);
	if (listener != NULL && end_create(listener->memory, listener, "memory",
				    loop, &server) == SVC_OK) {
		server->listener = listener;
		server->next = listener->ends;
		if (server->next != NULL)
			server->next->prev = server;
		listener->ends = server;
		server->peer = client;
		svc_mux_ref(&client->mux);
		client->peer = server;
		svc_mux_ref(&server->mux);
	}
	pthread_mutex_unlock(&names_mutex);
	if (server != NULL) {
		end_flush(&server->mux);
		end_flush(&client->mux);
		svc_mux_unref(&server->mux); /* the loop's is left */
	} else {
		char text[128];
		snprintf(text, sizeof(text),
		    "nothing in this process listens on %s", address);
		svc_mux_fail(&client->mux, SVC_E_UNAVAILABLE, text);
		kick(client);
	}
	*ret_conn = client;
	return SVC_OK;
}

static void
memory_conn_destroy(void *conn)
{
	struct end *end = conn;
	svc_mux_finish(&end->mux);
	svc_mux_unref(&end->mux);
}

static svc_err
memory_open(void *conn, const struct svc_part *first, unsigned flags,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err)
{
	return svc_mux_open(conn, first, flags, events, user, ret_stream, err);
}

/* --------------------------------------------- calls on the caller's thread
 */

struct direct {
	struct svc_stream_handle handle;
	struct end *server;
	svc_answer_cb answer;
	void *user;
	bool answered;
	svc_err release_code;
	/* of both ends, the smaller ones */
	int64_t max_message;
	size_t max_head;
};

static struct direct *
direct_of(struct svc_stream_handle *handle)
{
	return (struct direct *)(void *)handle;
}

/* As it comes when it has gone through frames. */
static struct svc_part
as_received(const struct svc_part *part)
{
	struct svc_part received = *part;
	if (svc_headers_count(part->headers) == 0)
		received.headers = NULL;
	if (part->content_type != NULL && part->content_type[0] == 0)
		received.content_type = NULL;
	return received;
}

static svc_err
direct_send(struct svc_stream_handle *handle, const struct svc_part *part,
    struct svc_error *err)
{
	struct direct *direct = direct_of(handle);
	unsigned whole = SVC_PART_HEADERS | SVC_PART_END;
	if (direct->answered || (part->flags & whole) != whole)
		return svc_error_set(
		    err, SVC_E_INVAL, "a direct call is answered by one part");
	if ((part->flags & SVC_PART_MESSAGE) &&
	    part->len > (uint64_t)direct->max_message)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "message of %zu bytes exceeds the limit of %lld "
		    "(--max_message_size)",
		    part->len, (long long)direct->max_message);
	svc_err rc = part_head_check(
	    part_head_size(part, part->flags, false), direct->max_head, err);
	if (rc != SVC_OK)
		return rc;
	struct svc_part answer = as_received(part);
	direct->answered = true;
	direct->answer(&answer, direct->user);
	return SVC_OK;
}

static void
direct_release(struct svc_stream_handle *handle, svc_err code)
{
	direct_of(handle)->release_code = code;
}

static bool
direct_cancelled(struct svc_stream_handle *handle)
{
	return atomic_load(&direct_of(handle)->server->close_asked);
}

static const char *
direct_peer(struct svc_stream_handle *handle)
{
	return direct_of(handle)->server->mux.peer;
}

/* Of the server's handle, which lives on the caller's stack. */
static const struct svc_transport_ops direct_ops = {
    .abi = SVC_TRANSPORT_ABI,
    .size = sizeof(struct svc_transport_ops),
    .name = "memory",
    .send = direct_send,
    .release = direct_release,
    .peer = direct_peer,
    .cancelled = direct_cancelled,
};

static bool
run_direct(struct direct *direct, const struct end *client,
    const struct svc_part *request)
{
	const struct svc_transport_limits *ours = &client->mux.config.limits;
	const struct svc_transport_limits *theirs =
	    &direct->server->mux.config.limits;
	struct listener *listener = direct->server->listener;
	svc_direct_cb serve = atomic_load(&listener->direct);
	if (serve == NULL || atomic_load(&listener->draining) ||
	    atomic_load(&direct->server->close_asked))
		return false;
	direct->max_message = ours->max_message < theirs->max_message
				  ? ours->max_message
				  : theirs->max_message;
	direct->max_head = ours->max_headers < theirs->max_headers
			       ? ours->max_headers
			       : theirs->max_headers;
	if (request->len > (uint64_t)direct->max_message ||
	    part_head_size(request, request->flags, true) > direct->max_head)
		return false;
	struct svc_part first = as_received(request);
	if (!serve(&direct->handle, &first, listener->arg))
		return false;
	if (direct->answered)
		return true;
	struct svc_part none = {
	    .flags = SVC_PART_HEADERS | SVC_PART_END,
	    .status = direct->release_code != SVC_OK ? direct->release_code
						     : SVC_E_INTERNAL,
	};
	direct->answer(&none, direct->user);
	return true;
}

static bool
memory_call(void *conn, const struct svc_part *request, svc_answer_cb answer,
    void *user)
{
	struct end *client = conn;
	struct direct direct = {
	    .handle.ops = &direct_ops, .answer = answer, .user = user};
	pthread_mutex_lock(&client->mutex);
	direct.server = client->peer;
	if (direct.server != NULL)
		svc_mux_ref(&direct.server->mux);
	pthread_mutex_unlock(&client->mutex);
	if (direct.server == NULL)
		return false;
	bool taken = run_direct(&direct, client, request);
	svc_mux_unref(&direct.server->mux);
	return taken;
}

static void
memory_direct(void *listener, svc_direct_cb direct)
{
	atomic_store(&((struct listener *)listener)->direct, direct);
}

const struct svc_transport_ops svc_transport_memory = {
    .abi = SVC_TRANSPORT_ABI,
    .size = sizeof(struct svc_transport_ops),
    .name = "memory",
    .create = memory_create,
    .destroy = memory_destroy,
    .listen = memory_listen,
    .listener_address = memory_listener_address,
    .drain = memory_drain,
    .listener_destroy = memory_listener_destroy,
    .dial = memory_dial,
    .conn_destroy = memory_conn_destroy,
    .open = memory_open,
    .send = svc_mux_send,
    .wait = svc_mux_wait,
    .release = svc_mux_release,
    .peer = svc_mux_peer,
    .cancelled = svc_mux_cancelled,
    .credit = svc_mux_credit,
    .call = memory_call,
    .direct = memory_direct,
    .on_cancel = svc_mux_on_cancel,
    .interrupt = svc_mux_interrupt,
    .answer = svc_mux_answer,
    .flush = svc_mux_flush,
    .linger_until = memory_linger_until,
};
