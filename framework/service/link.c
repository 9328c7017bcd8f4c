/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection to a node: one for all threads, dialled when first used,
 * replaced when lost.
 *
 * `current` is read without a lock. A thread counts itself in, then looks
 * whether the connection is still the current one; a connection that was
 * retired is closed by the last thread that counts itself out. The small
 * struct around it stays until the link goes, so counting in on one that has
 * just been retired is harmless. `lock` guards the list of these structs;
 * nothing is called under it.
 */
#include "service.h"

#include <stdio.h>
#include <string.h>

struct conn {
	void *handle;
	_Atomic uint32_t state;
	struct conn *next; /* in the list of all */
};
/* The state: a count of users in steps of USER, and these. */
#define RETIRED 1u
#define CLOSING 2u /* by the one who set it */
#define DEAD 4u    /* closed: the struct may serve another connection */
#define USER 8u
#define FLAGS (RETIRED | CLOSING | DEAD)

struct svc_link {
	_Atomic int refs;
	struct svc_transport_use *use;
	_Atomic(struct conn *) current;
	pthread_mutex_t lock;
	struct conn *all;
	char address[];
};

svc_err
svc_link_create(struct svc_service *service, const char *transport,
    const char *address, struct svc_link **ret_link, struct svc_error *err)
{
	struct svc_transport_use *use;
	svc_err code = svc_transport_get(service, transport, &use, err);
	if (code != SVC_OK)
		return code;
	size_t size = strlen(address) + 1;
	struct svc_link *link = svc_mem_calloc(1, sizeof(*link) + size);
	if (link == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	atomic_init(&link->refs, 1);
	link->use = use;
	pthread_mutex_init(&link->lock, NULL);
	memcpy(link->address, address, size);
	*ret_link = link;
	return SVC_OK;
}

void
svc_link_ref(struct svc_link *link)
{
	atomic_fetch_add(&link->refs, 1);
}

void
svc_link_unref(struct svc_link *link)
{
	if (link == NULL || atomic_fetch_sub(&link->refs, 1) != 1)
		return;
	struct conn *conn = link->all;
	while (conn != NULL) {
		struct conn *next = conn->next;
		if ((atomic_load(&conn->state) & CLOSING) == 0)
			link->use->ops->conn_destroy(conn->handle);
		svc_mem_free(conn);
		conn = next;
	}
	pthread_mutex_destroy(&link->lock);
	svc_mem_free(link);
}

const char *
svc_link_address(const struct svc_link *link)
{
	return link->address;
}

static void
conn_leave(struct svc_link *link, struct conn *conn)
{
	uint32_t left = atomic_fetch_sub(&conn->state, USER) - USER;
	uint32_t idle = RETIRED;
	if (left == RETIRED && atomic_compare_exchange_strong(
				   &conn->state, &idle, RETIRED | CLOSING)) {
		link->use->ops->conn_destroy(conn->handle);
		atomic_fetch_or(&conn->state, DEAD);
	}
}

static void
conn_retire(struct svc_link *link, struct conn *conn)
{
	struct conn *expected = conn;
	if (atomic_compare_exchange_strong(&link->current, &expected, NULL))
		atomic_fetch_or(&conn->state, RETIRED);
}

/* A struct for a new connection, used once by the caller already: one whose
 * connection is long closed, or a new one. */
static struct conn *
conn_slot(struct svc_link *link)
{
	pthread_mutex_lock(&link->lock);
	struct conn *conn = link->all;
	for (; conn != NULL; conn = conn->next) {
		uint32_t dead = FLAGS;
		if (atomic_compare_exchange_strong(
			&conn->state, &dead, FLAGS | USER))
			break;
	}
	pthread_mutex_unlock(&link->lock);
	if (conn != NULL)
		return conn;
	conn = svc_mem_calloc(1, sizeof(*conn));
	if (conn == NULL)
		return NULL;
	atomic_init(&conn->state, FLAGS | USER);
	pthread_mutex_lock(&link->lock);
	conn->next = link->all;
	link->all = conn;
	pthread_mutex_unlock(&link->lock);
	return conn;
}

static SVC_HOT svc_err
conn_enter(struct svc_link *link, int64_t dial_timeout_ms,
    struct conn **ret_conn, struct svc_error *err)
{
	for (;;) {
		struct conn *conn = atomic_load(&link->current);
		if (conn != NULL) {
			atomic_fetch_add(&conn->state, USER);
			if (atomic_load(&link->current) == conn) {
				*ret_conn = conn;
				return SVC_OK;
			}
			conn_leave(link, conn);
			continue;
		}
		void *handle;
		svc_err code = link->use->ops->dial(link->use->self,
		    link->address, dial_timeout_ms, &handle, err);
		if (code != SVC_OK)
			return code;
		conn = conn_slot(link);
		if (conn == NULL) {
			link->use->ops->conn_destroy(handle);
			return svc_error_set(err, SVC_E_NOMEM, "out of memory");
		}
		conn->handle = handle;
		atomic_fetch_and(&conn->state, ~FLAGS);
		struct conn *none = NULL;
		if (atomic_compare_exchange_strong(
			&link->current, &none, conn)) {
			*ret_conn = conn;
			return SVC_OK;
		}
		/* Another thread dialled meanwhile: use its connection. */
		atomic_fetch_or(&conn->state, RETIRED);
		conn_leave(link, conn);
	}
}

/* ---------------------------------------------------------------- exchange */

SVC_HOT svc_err
svc_link_open(struct svc_link *link, const struct svc_part *first,
    unsigned flags, int64_t dial_timeout_ms,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err)
{
	const struct svc_transport_ops *ops = link->use->ops;
	err->text[0] = '\0';
	/* A kept connection may be closed by now, and so may be the one that
	 * another thread dialled at the same time. */
	for (int i = 0; i < 3; i++) {
		struct conn *conn = NULL;
		svc_err code = conn_enter(link, dial_timeout_ms, &conn, err);
		if (code != SVC_OK)
			return code;
		code = ops->open(
		    conn->handle, first, flags, events, user, ret_stream, err);
		if (code == SVC_E_CLOSED)
			conn_retire(link, conn);
		/* A stream keeps its connection by itself. */
		conn_leave(link, conn);
		if (code == SVC_OK)
			return code;
		if (code != SVC_E_CLOSED) {
			if (err->text[0] == '\0')
				svc_error_set(
				    err, code, "%s", svc_err_text(code));
			return code;
		}
	}
	if (err->text[0] == '\0')
		svc_error_set(err, SVC_E_UNAVAILABLE,
		    "the connection to %s was closed", link->address);
	return err->code = SVC_E_UNAVAILABLE;
}

static SVC_HOT void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	svc_reply_part(stream->user, part);
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	svc_reply_closed(stream->user, end);
}

static const struct svc_stream_events events = {
    .part = on_part, .closed = on_closed};

static void
on_answer(const struct svc_part *part, void *user)
{
	svc_reply_part(user, part);
}

/* By a node in this process whose handler can run on this thread; false: it
 * cannot. */
static bool
exchange_here(struct svc_link *link, const struct svc_part *first,
    int64_t dial_timeout_ms, struct svc_reply *reply, struct svc_error *err)
{
	const struct svc_transport_ops *ops = link->use->ops;
	struct conn *conn;
	if (!SVC_OPS_HAS(ops, call) ||
	    conn_enter(link, dial_timeout_ms, &conn, err) != SVC_OK)
		return false;
	bool here = ops->call(conn->handle, first, on_answer, reply);
	conn_leave(link, conn);
	return here;
}

/* A call that waits, within another. */
struct waiter {
	struct svc_scoped scoped; /* first */
	struct svc_stream_handle *stream;
};

static void
interrupt(struct svc_scoped *scoped)
{
	struct svc_stream_handle *stream =
	    ((struct waiter *)(void *)scoped)->stream;
	if (SVC_OPS_HAS(stream->ops, interrupt))
		stream->ops->interrupt(stream);
}

SVC_HOT void
svc_link_exchange(struct svc_link *link, const struct svc_part *first,
    int64_t deadline_at_ms, int64_t dial_timeout_ms, struct svc_call *within,
    struct svc_reply *reply, struct svc_error *err)
{
	const struct svc_transport_ops *ops = link->use->ops;
	struct svc_stream_handle *stream;
	svc_reply_init(reply, err);
	if (exchange_here(link, first, dial_timeout_ms, reply, err))
		return;
	svc_err code = svc_link_open(link, first, SVC_OPEN_WAIT,
	    dial_timeout_ms, &events, reply, &stream, err);
	if (code != SVC_OK) {
		reply->result =
		    (struct svc_exchange){.code = code, .not_run = true};
		return;
	}
	struct waiter waiter = {.scoped.cancel = interrupt, .stream = stream};
	if (within != NULL)
		svc_scope_join(within, &waiter.scoped);
	code = ops->wait(stream, deadline_at_ms);
	svc_scope_leave(&waiter.scoped);
	ops->release(stream, SVC_E_CANCELLED);
	if (code != SVC_OK && reply->result.code == SVC_OK) {
		reply->result = (struct svc_exchange){.code = code};
		if (code == SVC_E_CANCELLED)
			svc_error_set(err, code, "%s", svc_cancelled_within);
		else
			svc_error_set(err, code,
			    "no reply from %s before the deadline",
			    link->address);
	}
}
