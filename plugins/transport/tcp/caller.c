/* SPDX-License-Identifier: Apache-2.0 */
/* Calls: the thread that waits for a reply reads the connection itself if
 * nobody else does. */
#include "conn.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>

/* After a call the peer is taken to be there for so long, unless the loop is
 * told that it hung up: a system call less for each of many calls. */
#define FRESH_US 1000

/* Before a call on a connection that nobody reads: has its peer closed it
 * meanwhile, or said that it will? Then nothing is sent that nobody would run.
 */
static SVC_APART bool
is_closed(struct conn *conn)
{
	if (__atomic_load_n(&conn->mux.n_held, __ATOMIC_RELAXED) != 0)
		return false;
	/* A manual clock stands still. */
	int64_t ago_us =
	    svc_now_us() -
	    atomic_load_explicit(&conn->looked_at_us, memory_order_relaxed);
	if (!conn->hung_up && ago_us > 0 && ago_us < FRESH_US)
		return false;
	char byte;
	ssize_t n = recv(conn->source.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return false;
	if (n <= 0) {
		conn_lose(conn, n < 0 ? errno : 0);
		conn_kick(conn);
		return true;
	}
	/* What it says unasked: read it here, and leave what follows to the
	 * loop. */
	lock(conn);
	bool read = conn->reader == READER_NONE && conn->attached;
	if (read)
		conn->reader = READER_CALLER;
	unlock(conn);
	if (!read)
		return false;
	bool drained;
	bool lost = conn_read(conn, false, &drained) < 0 ||
		    conn_handle(conn) != SVC_MUX_OK;
	conn_drop_block(conn);
	lock(conn);
	bool closed = conn->mux.failed || conn->mux.draining;
	bool kick = lost || conn->block != NULL;
	conn->reader = READER_LOOP;
	conn_set_interest(conn);
	unlock(conn);
	if (kick)
		conn_kick(conn);
	return closed;
}

/* A stream that nobody waits for was opened while nobody reads: the loop does.
 */
static SVC_APART void
let_loop_read(struct conn *conn)
{
	lock(conn);
	if (conn->reader == READER_NONE) {
		conn->reader = READER_LOOP;
		conn_set_interest(conn);
	}
	unlock(conn);
}

SVC_HOT svc_err
conn_open(struct conn *conn, const struct svc_part *first, unsigned flags,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err)
{
	if (conn->reader == READER_NONE && is_closed(conn))
		return svc_error_set(err, SVC_E_CLOSED,
		    "connection to %s closed by the peer", conn->mux.peer);
	svc_err rc = svc_mux_open(
	    &conn->mux, first, flags, events, user, ret_stream, err);
	/* Who gives the reading back later than this stream was opened sees
	 * it. */
	if (rc == SVC_OK && !(flags & SVC_OPEN_WAIT) &&
	    conn->reader == READER_NONE)
		let_loop_read(conn);
	return rc;
}

/* The caller is through: let the loop read if anybody else waits. With the
 * lock held; unlocks. */
static void
give_back_locked(struct conn *conn, struct svc_stream_handle *stream)
{
	bool failed = conn->mux.failed || conn->aborted;
	bool left = conn->block != NULL || conn_more(conn);
	uint32_t own = svc_mux_done(stream) ? 0 : 1;
	bool loop = failed || left || conn->mux.n_streams > own;
	conn->reader = loop ? READER_LOOP : READER_NONE;
	if (!loop)
		atomic_store_explicit(
		    &conn->looked_at_us, svc_now_us(), memory_order_relaxed);
	conn_set_interest(conn);
	unlock(conn);
	if (failed || left)
		conn_kick(conn);
}

static void
give_back(struct conn *conn, struct svc_stream_handle *stream)
{
	conn_drop_block(conn);
	lock(conn);
	give_back_locked(conn, stream);
}

/* As the reader: sleeps until there are some, the connection has failed, or it
 * is time to look at the clock. True when anything has come. */
static bool
sleep_for_bytes(struct conn *conn, int64_t left_ms)
{
	/* Who has time sleeps in the read, which saves a system call; not for
	 * long at once, as the clock may be a manual one. */
	struct pollfd wait = {.fd = conn->source.fd, .events = POLLIN};
	bool long_left = left_ms == SVC_FOREVER || left_ms > 2 * CONN_NAP_MS;
	bool drained;
	svc_will_block();
	if (conn->sleeps && long_left)
		return conn_read(conn, true, &drained) != 0;
	if (!conn_more(conn) &&
	    poll(&wait, 1, long_left ? CONN_NAP_MS : (int)left_ms) <= 0)
		return false;
	return conn_read(conn, false, &drained) != 0;
}

static void
await_bytes(struct conn *conn, int64_t left_ms)
{
	int64_t now_us = svc_now_us();
	int64_t until_us = svc_busy_poll_begin(&conn->poll,
	    svc_executor_busy_poll_us(conn->tcp->config.executor), now_us);
	bool come = false, drained;
	while (!come && now_us < until_us) {
		come = conn_read(conn, false, &drained) != 0;
		now_us = svc_now_us();
	}
	svc_busy_poll_looked(&conn->poll, come, false, now_us);
	if (!come) {
		come = sleep_for_bytes(conn, left_ms);
		svc_busy_poll_slept(&conn->poll, come, false, svc_now_us());
	}
}

static svc_err
read_as_caller(
    struct conn *conn, struct svc_stream_handle *stream, int64_t deadline_at_ms)
{
	/* Of what was read before; mostly nothing. */
	bool handled = conn->block != NULL;
	for (;;) {
		if (handled && conn_handle(conn) == SVC_MUX_YIELD) {
			give_back(conn, stream);
			return svc_mux_wait(stream, deadline_at_ms);
		}
		conn_drop_block(conn);
		if (handled) {
			lock(conn);
			bool done = svc_mux_done(stream);
			bool failed = conn->mux.failed || conn->aborted;
			bool interrupted = svc_mux_interrupted(stream);
			if (done || failed || interrupted) {
				give_back_locked(conn, stream);
				if (done)
					return SVC_OK;
				/* After a failure the loop closes the
				 * streams. */
				return interrupted ? SVC_E_CANCELLED
						   : svc_mux_wait(stream,
							 deadline_at_ms);
			}
			unlock(conn);
		}
		handled = true;
		int64_t left = svc_remaining(deadline_at_ms);
		if (left == 0) {
			give_back(conn, stream);
			return SVC_E_TIMEDOUT;
		}
		await_bytes(conn, left);
	}
}

SVC_HOT svc_err
conn_wait(struct svc_stream_handle *stream, int64_t deadline_at_ms)
{
	struct conn *conn = conn_of(svc_mux_of(stream));
	lock(conn);
	bool take =
	    !svc_mux_done(stream) && !conn->mux.failed && !conn->connecting &&
	    conn->attached &&
	    (conn->reader == READER_NONE ||
		(conn->reader == READER_LOOP && conn->mux.n_streams == 1));
	if (take) {
		conn->reader = READER_CALLER;
		conn_set_interest(conn);
	}
	unlock(conn);
	if (!take)
		return svc_mux_wait(stream, deadline_at_ms);
	return read_as_caller(conn, stream, deadline_at_ms);
}
