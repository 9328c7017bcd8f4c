/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection to a node: one for all threads, dialled when first used,
 * replaced when lost.
 *
 * `current` is looked at in a read (svc/reclaim.h), which lasts until the
 * stream is open. Whoever finds that the connection takes no more streams
 * retires it: it is closed once no read is left that may have found it.
 */
#include "service.h"

#include <stdio.h>
#include <string.h>
#include <svc/reclaim.h>

/* A node that swallows packets must leave time for another. */
#define MAX_DIAL_MS INT64_C(5000)
#define MIN_DIAL_MS INT64_C(1000)

struct conn {
	struct svc_retired retired; /* first */
	const struct svc_transport_ops *ops;
	void *handle;
};

struct svc_link {
	_Atomic int refs;
	struct svc_transport_use *use;
	_Atomic(struct conn *) current;
	struct svc_retirement retirement;
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
	svc_retirement_init(&link->retirement);
	memcpy(link->address, address, size);
	*ret_link = link;
	return SVC_OK;
}

void
svc_link_ref(struct svc_link *link)
{
	atomic_fetch_add(&link->refs, 1);
}

static void
conn_free(struct svc_retired *retired)
{
	struct conn *conn = (struct conn *)(void *)retired;
	conn->ops->conn_destroy(conn->handle);
	svc_mem_free(conn);
}

void
svc_link_unref(struct svc_link *link)
{
	if (link == NULL || atomic_fetch_sub(&link->refs, 1) != 1)
		return;
	/* Nobody who reads has it: he would have a reference. */
	struct conn *conn = atomic_load(&link->current);
	if (conn != NULL)
		conn_free(&conn->retired);
	svc_retirement_fini(&link->retirement);
	svc_mem_free(link);
}

const char *
svc_link_address(const struct svc_link *link)
{
	return link->address;
}

static int64_t
dial_ms(const struct svc_dial_time *time)
{
	int64_t ms = time->left_ms == SVC_FOREVER ? MAX_DIAL_MS
						  : time->left_ms / time->tries;
	return ms > MAX_DIAL_MS   ? MAX_DIAL_MS
	       : ms < MIN_DIAL_MS ? MIN_DIAL_MS
				  : ms;
}

static svc_err
dial(struct svc_link *link, int64_t timeout_ms, struct svc_error *err)
{
	const struct svc_transport_ops *ops = link->use->ops;
	struct conn *conn = svc_mem_alloc(sizeof(*conn)), *none = NULL;
	if (conn == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	*conn = (struct conn){.retired.free = conn_free, .ops = ops};
	svc_err code = ops->dial(
	    link->use->self, link->address, timeout_ms, &conn->handle, err);
	if (code != SVC_OK)
		svc_mem_free(conn);
	/* Of the node, which somebody has registered so, and not of the call:
	 * others may serve it. */
	if (code == SVC_E_INVAL)
		err->code = SVC_E_UNAVAILABLE;
	if (code == SVC_OK &&
	    !atomic_compare_exchange_strong(&link->current, &none, conn))
		conn_free(&conn->retired); /* another thread was faster */
	return code;
}

/* The current connection, in a read that the caller ends by conn_leave; NULL:
 * there is none, nor is a read. */
static inline struct conn *
conn_find(struct svc_link *link, struct svc_reader **ret_reader)
{
	struct svc_reader *reader = svc_reader_enter();
	if (reader == NULL)
		return NULL;
	struct conn *conn = atomic_load(&link->current);
	if (conn == NULL)
		svc_reader_leave(reader);
	*ret_reader = reader;
	return conn;
}

/* The same after dialling, again if need be; on failure NULL. */
static SVC_COLD struct conn *
conn_make(struct svc_link *link, const struct svc_dial_time *dial_time,
    struct svc_reader **ret_reader, struct svc_error *err)
{
	struct conn *conn = NULL;
	while (conn == NULL) {
		if (dial(link, dial_ms(dial_time), err) != SVC_OK)
			return NULL;
		conn = conn_find(link, ret_reader);
		if (conn == NULL && svc_reader_self == NULL) {
			svc_error_set(err, SVC_E_NOMEM, "out of memory");
			return NULL;
		}
	}
	return conn;
}

static inline void
conn_leave(struct svc_link *link, struct svc_reader *reader)
{
	svc_reader_leave(reader);
	if (atomic_load_explicit(
		&link->retirement.waiting, memory_order_relaxed))
		svc_retirement_collect(&link->retirement);
}

/* As conn_leave, for a connection that is closed. */
static void
conn_retire(struct svc_link *link, struct svc_reader *reader, struct conn *conn)
{
	struct conn *expected = conn;
	bool mine =
	    atomic_compare_exchange_strong(&link->current, &expected, NULL);
	conn_leave(link, reader);
	if (mine)
		svc_retire(&link->retirement, &conn->retired);
}

/* ---------------------------------------------------------------- exchange */

/* What a failure to open means to the caller. */
static SVC_COLD svc_err
not_opened(struct svc_link *link, svc_err code, struct svc_error *err)
{
	if (err->text[0] == '\0' && code == SVC_E_CLOSED)
		svc_error_set(err, SVC_E_UNAVAILABLE,
		    "the connection to %s was closed", link->address);
	else if (err->text[0] == '\0')
		svc_error_set(err, code, "%s", svc_err_text(code));
	return err->code = code == SVC_E_CLOSED ? SVC_E_UNAVAILABLE : code;
}

SVC_TAKEN_IN svc_err
svc_link_open(struct svc_link *link, const struct svc_part *first,
    unsigned flags, const struct svc_dial_time *dial_time,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err)
{
	const struct svc_transport_ops *ops = link->use->ops;
	err->text[0] = '\0';
	/* A kept connection may be closed by now, and so may be the one that
	 * another thread dialled at the same time. */
	svc_err code = SVC_E_CLOSED;
	for (int i = 0; i < 3 && code == SVC_E_CLOSED; i++) {
		struct svc_reader *reader;
		struct conn *conn = conn_find(link, &reader);
		if (conn == NULL)
			conn = conn_make(link, dial_time, &reader, err);
		if (conn == NULL)
			return err->code;
		code = ops->open(
		    conn->handle, first, flags, events, user, ret_stream, err);
		/* A stream keeps its connection by itself. */
		if (code == SVC_E_CLOSED)
			conn_retire(link, reader, conn);
		else
			conn_leave(link, reader);
	}
	return code == SVC_OK ? SVC_OK : not_opened(link, code, err);
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
    const struct svc_dial_time *dial_time, struct svc_reply *reply,
    struct svc_error *err)
{
	const struct svc_transport_ops *ops = link->use->ops;
	struct svc_reader *reader;
	if (!SVC_OPS_HAS(ops, call))
		return false;
	struct conn *conn = conn_find(link, &reader);
	if (conn == NULL)
		conn = conn_make(link, dial_time, &reader, err);
	if (conn == NULL)
		return false;
	bool here = ops->call(conn->handle, first, on_answer, reply);
	conn_leave(link, reader);
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
    int64_t deadline_at_ms, const struct svc_dial_time *dial_time,
    struct svc_call *within, struct svc_reply *reply, struct svc_error *err)
{
	const struct svc_transport_ops *ops = link->use->ops;
	struct svc_stream_handle *stream;
	svc_reply_init(reply, err);
	if (exchange_here(link, first, dial_time, reply, err))
		return;
	svc_err code = svc_link_open(link, first, SVC_OPEN_WAIT, dial_time,
	    &events, reply, &stream, err);
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
