/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection: who reads its socket and who writes it. life.c makes and
 * ends it.
 *
 * A server's connection is read by its loop. A client's is read by the thread
 * that waits for a reply, if nobody else reads it then, which saves both
 * hand-overs between threads; otherwise by its loop, which wakes the waiters.
 * `reader` says who. Whoever has bytes to send and finds nobody sending writes
 * the socket; when the socket is full the loop goes on with it.
 *
 * mux.lock guards the fields marked so. The descriptor is closed with the
 * last reference, because a reader or writer may still be using it when the
 * connection has failed.
 */
#include "conn.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_BLOCK 65536
#define MAX_READS 8 /* in one turn of the loop */
#define TLS_ALERT 0x15
#define TLS_HANDSHAKE 0x16

void
block_unref(struct block *block)
{
	if (block != NULL &&
	    __atomic_sub_fetch(&block->refs, 1, __ATOMIC_ACQ_REL) == 0)
		svc_mem_free(block);
}

static struct block **
block_place(struct tcp *tcp)
{
	return &tcp->kept[svc_thread_number() % TCP_KEPT];
}

/* An empty one with room for `cap`. NULL when memory ran out. */
static struct block *
block_create(struct tcp *tcp, size_t cap)
{
	struct block **place = block_place(tcp);
	struct block *block = NULL;
	if (__atomic_load_n(place, __ATOMIC_RELAXED) != NULL)
		block = __atomic_exchange_n(place, NULL, __ATOMIC_ACQUIRE);
	if (block == NULL || block->cap < cap) {
		svc_mem_free(block);
		block = svc_mem_alloc(sizeof(*block) + cap);
		if (block == NULL)
			return NULL;
		block->cap = cap;
	}
	block->refs = 1;
	block->len = 0;
	return block;
}

/* Of which nothing is needed any more. */
static void
block_keep(struct tcp *tcp, struct block *block)
{
	struct block *none = NULL;
	if (__atomic_load_n(&block->refs, __ATOMIC_ACQUIRE) != 1 ||
	    block->cap > MAX_BLOCK ||
	    !__atomic_compare_exchange_n(block_place(tcp), &none, block, false,
		__ATOMIC_RELEASE, __ATOMIC_RELAXED))
		block_unref(block);
}

/* A kick holds a reference until the loop is through with it. */
void
conn_kick(struct conn *conn)
{
	lock(conn);
	bool attached = conn->attached;
	unlock(conn);
	if (!attached) /* conn_attach kicks */
		return;
	svc_mux_ref(&conn->mux);
	if (!svc_source_kick(&conn->source))
		svc_mux_unref(&conn->mux);
}

/* With the lock held. */
SVC_HOT void
conn_set_interest(struct conn *conn)
{
	unsigned want = 0;
	if (!conn->attached || conn->source.fd < 0)
		return;
	if (conn->reader >= READER_LOOP && !conn->connecting && !conn->paused)
		want |= SVC_IO_READ;
	if (conn->shake == SHAKE_READ)
		want |= SVC_IO_READ;
	else if (conn->write_blocked || conn->shake == SHAKE_WRITE ||
		 (conn->connecting && conn->shake == SHAKE_NONE))
		want |= SVC_IO_WRITE;
	if (want == 0) /* a peer that closes an idle connection is noticed */
		want = SVC_IO_HANGUP | SVC_IO_ONESHOT;
	if (want != conn->interest) {
		conn->interest = want;
		svc_source_interest(&conn->source, want);
	}
}

/* -------------------------------------------------------------------- writing
 */

void
conn_lose(struct conn *conn, int sys)
{
	struct tls_failure why = {.unheard = false};
	if (conn->tls == NULL || !tls_reason(conn->tls, &why))
		snprintf(why.text, sizeof(why.text),
		    "connection to %s lost: %s", conn->mux.peer,
		    sys != 0 ? strerror(sys) : "closed by the peer");
	static struct svc_log_limit limit;
	if (why.broke)
		svc_log_limited(&limit, SVC_LOG_WARN, "tcp.protocol",
		    "closing the connection of %s: %s", conn->mux.peer,
		    why.text);
	if (why.unheard) { /* then no handler has seen anything */
		lock(conn);
		conn->mux.foreign = true;
		unlock(conn);
	}
	svc_mux_fail(&conn->mux, SVC_E_UNAVAILABLE, why.text);
}

static ssize_t
put(struct conn *conn, const void *data, size_t len)
{
	if (conn->tls != NULL)
		return tls_write(conn->tls, data, len);
	return send(conn->source.fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static ssize_t
get(struct conn *conn, void *data, size_t room, bool sleep)
{
	if (conn->tls != NULL)
		return tls_read(conn->tls, data, room);
	return recv(conn->source.fd, data, room, sleep ? 0 : MSG_DONTWAIT);
}

/* A client's peer that is gone has mostly said something before, which is still
 * to be read: replies, or an end in good order. So the reader comes upon the
 * end, and this only notes it. */
static bool
reader_tells(struct conn *conn, int sys)
{
	if (conn->listener != NULL || (sys != EPIPE && sys != ECONNRESET))
		return false;
	lock(conn);
	if (conn->gone == 0) /* later ones fail by EPIPE whatever it was */
		conn->gone = sys;
	unlock(conn);
	return true;
}

/* As the flusher, who is through. TLS may have sent more than it told. */
static bool
end_writing(struct conn *conn)
{
	struct svc_buf *out = &conn->output;
	return svc_mux_end_flush(
	    &conn->mux, out, conn->tls != NULL ? out->len : conn->written);
}

/* As the flusher: true when all is written and the role given back. */
static SVC_HOT bool
write_output(struct conn *conn, bool *ret_more)
{
	struct svc_buf *out = &conn->output;
	while (conn->written < out->len) {
		ssize_t n = put(
		    conn, out->data + conn->written, out->len - conn->written);
		if (n >= 0) {
			conn->written += (size_t)n;
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			lock(conn);
			conn->write_blocked = true;
			conn_set_interest(conn);
			unlock(conn);
			return false;
		} else if (errno != EINTR) {
			int sys = errno;
			bool told = reader_tells(conn, sys);
			end_writing(conn);
			if (told)
				return false;
			conn_lose(conn, sys);
			shutdown(conn->source.fd, SHUT_RDWR);
			conn_kick(conn);
			return false;
		}
	}
	*ret_more = end_writing(conn);
	return true;
}

SVC_HOT void
conn_flush(struct svc_mux *mux)
{
	struct conn *conn = conn_of(mux);
	bool more = true;
	while (more && svc_mux_begin_flush(mux, &conn->output)) {
		conn->written = 0;
		if (!write_output(conn, &more))
			return;
	}
}

/* -------------------------------------------------------------------- reading
 */

/* Makes room for the next read. False without memory. */
static bool
make_room(struct conn *conn)
{
	struct block *block = conn->block;
	size_t left = block != NULL ? block->len - conn->offset : 0;
	size_t need = svc_mux_need(&conn->mux);
	/* With a handler that has lost the loop. */
	bool shared = block != NULL &&
		      __atomic_load_n(&block->refs, __ATOMIC_ACQUIRE) > 1;
	if (block != NULL && left == 0 && !shared) {
		block->len = 0;
		conn->offset = 0;
	}
	/* A little room is worth a move of little. */
	if (block != NULL && block->cap - conn->offset >= need &&
	    block->len < block->cap &&
	    (block->cap - block->len >= block->cap / 4 ||
		left > block->cap / 4))
		return true;
	if (block != NULL && block->cap >= need && left < block->cap &&
	    block->cap >= conn->block_size && !shared) {
		memmove(block->data, block->data + conn->offset, left);
		block->len = left;
		conn->offset = 0;
		return true;
	}
	size_t cap = conn->block_size > need ? conn->block_size : need;
	struct block *fresh = block_create(conn->tcp, cap);
	if (fresh == NULL)
		return false;
	fresh->len = left;
	if (left > 0)
		memcpy(fresh->data, block->data + conn->offset, left);
	conn->block = fresh;
	conn->offset = 0;
	block_unref(block);
	return true;
}

/* As the reader, who has come to the end. A write that failed before has taken
 * the error: by EPIPE, when the end had come before a reset. One that is under
 * way may be about to say so. */
static void
conn_ended(struct conn *conn)
{
	lock(conn);
	bool in_order = conn->gone != ECONNRESET;
	bool known = in_order && (!conn->mux.flushing || conn->write_blocked);
	unlock(conn);
	if (known && conn->tls == NULL && !conn->mux.greeted)
		svc_mux_unheard(&conn->mux);
	conn_lose(conn, in_order ? 0 : ECONNRESET);
}

SVC_HOT ssize_t
conn_read(struct conn *conn, bool sleep, bool *ret_drained)
{
	*ret_drained = false;
	if (!make_room(conn)) {
		svc_mux_fail(&conn->mux, SVC_E_NOMEM, "out of memory");
		return -1;
	}
	struct block *block = conn->block;
	size_t room = block->cap - block->len;
	for (;;) {
		ssize_t n = get(conn, block->data + block->len, room, sleep);
		if (n > 0) {
			block->len += (size_t)n;
			if ((size_t)n == room && conn->block_size < MAX_BLOCK)
				conn->block_size *= 2;
			*ret_drained = (size_t)n < room && conn->tls == NULL;
			return n;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n == 0)
			conn_ended(conn);
		else
			conn_lose(conn, errno);
		return -1;
	}
}

SVC_HOT svc_mux_result
conn_handle(struct conn *conn)
{
	struct svc_error err; /* set when it fails */
	struct block *block = conn->block;
	if (block == NULL || conn->offset == block->len)
		return SVC_MUX_OK;
	__atomic_add_fetch(&block->refs, 1, __ATOMIC_RELAXED);
	svc_mux_result result = svc_mux_input(
	    &conn->mux, block->data, block->len, &conn->offset, &err);
	if (result == SVC_MUX_FAILED) {
		/* Only one of the two has TLS? Its first byte tells. */
		uint8_t first = conn->mux.foreign && conn->tls == NULL
				    ? block->data[conn->offset]
				    : 0;
		if (first == TLS_ALERT)
			svc_error_set(&err, SVC_E_UNAVAILABLE,
			    "%s speaks TLS, this client does not: give "
			    "--tls_ca (and --tls_cert, --tls_key)",
			    conn->mux.peer);
		else if (first == TLS_HANDSHAKE)
			svc_error_set(&err, SVC_E_UNAVAILABLE,
			    "%s speaks TLS, this service does not: give "
			    "--tls_cert and --tls_key",
			    conn->mux.peer);
		static struct svc_log_limit limit;
		svc_log_limited(&limit, SVC_LOG_WARN, "tcp.protocol",
		    "closing the connection of %s: %s", conn->mux.peer,
		    err.text);
		svc_mux_fail(&conn->mux, SVC_E_UNAVAILABLE, err.text);
	}
	block_unref(block);
	return result;
}

/* An idle connection keeps no read storage. */
void
conn_drop_block(struct conn *conn)
{
	if (conn->block != NULL && conn->offset == conn->block->len) {
		block_keep(conn->tcp, conn->block);
		conn->block = NULL;
		conn->offset = 0;
	}
}

/* On the loop. False when it was lost. */
static SVC_HOT bool
read_on_loop(struct conn *conn)
{
	for (int i = 0; i < MAX_READS; i++) {
		svc_mux_result result = conn_handle(conn);
		if (result == SVC_MUX_LOST)
			return false;
		if (result == SVC_MUX_FAILED)
			return true;
		if (result == SVC_MUX_SHARE) {
			conn->shares = true;
			return true;
		}
		if (result == SVC_MUX_YIELD) {
			lock(conn);
			conn->paused = true;
			unlock(conn);
			return true;
		}
		bool drained;
		ssize_t n = conn_read(conn, false, &drained);
		if (n < 0)
			return true;
		if (n == 0 || drained)
			break;
	}
	svc_mux_result result = conn_handle(conn);
	if (result == SVC_MUX_LOST)
		return false;
	conn->shares = result == SVC_MUX_SHARE;
	if (result == SVC_MUX_OK)
		svc_mux_rest(&conn->mux);
	if (result == SVC_MUX_YIELD) {
		lock(conn);
		conn->paused = true;
		unlock(conn);
	}
	conn_drop_block(conn);
	if (conn_more(conn))
		conn_kick(conn);
	return true;
}

/* ------------------------------------------------------------------- the loop
 */

void
conn_connected(struct conn *conn)
{
	lock(conn);
	conn->connecting = false;
	conn->shake = SHAKE_NONE;
	conn->mux.flushing = false; /* it held back the output till now */
	conn_set_interest(conn);
	unlock(conn);
	conn_flush(&conn->mux);
}

static void
connected(struct conn *conn)
{
	int sys = 0;
	socklen_t len = sizeof(sys);
	getsockopt(conn->source.fd, SOL_SOCKET, SO_ERROR, &sys, &len);
	if (sys != 0) {
		char text[160];
		snprintf(text, sizeof(text), "cannot connect to %s: %s",
		    conn->mux.peer, strerror(sys));
		svc_mux_fail(&conn->mux, SVC_E_UNAVAILABLE, text);
		return;
	}
	if (conn->tls != NULL) {
		tls_use_socket(conn->tls, conn->source.fd);
		conn_shake(conn, 0);
	} else {
		/* A caller that waits sleeps in the read itself. */
		struct timeval nap = {.tv_usec = CONN_NAP_MS * 1000};
		int fd = conn->source.fd, flags = fcntl(fd, F_GETFL);
		conn->sleeps = flags >= 0 &&
			       setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &nap,
				   sizeof(nap)) == 0 &&
			       fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) == 0;
		conn_connected(conn);
	}
}

/* The socket is full or empty again: the loop is the flusher. */
static void
write_on_loop(struct conn *conn)
{
	bool more = false;
	if (write_output(conn, &more) && more)
		conn_flush(&conn->mux);
	if (svc_mux_backlog(&conn->mux) == 0) {
		lock(conn);
		conn->paused = false;
		unlock(conn);
	}
}

/* The connection has failed: a write that waits for the socket does not go on.
 */
static void
drop_write(struct conn *conn)
{
	lock(conn);
	bool blocked = conn->write_blocked;
	conn->write_blocked = false;
	unlock(conn);
	if (blocked)
		end_writing(conn);
}

static void
finish(struct conn *conn)
{
	if (conn->finished)
		return;
	conn->finished = true;
	svc_mux_detach(&conn->mux);
	/* A caller that gives the reading back may want it watched still. */
	lock(conn);
	conn->attached = false;
	bool tls = conn->tls != NULL && !conn->connecting;
	unlock(conn);
	svc_source_detach(&conn->source);
	if (tls)
		tls_close(conn->tls);
	if (conn->source.fd >= 0)
		shutdown(conn->source.fd, SHUT_RDWR);
	drop_write(conn);
	svc_mux_unref(&conn->mux);
}

/* The end of a turn on the loop. `run`: it was the reader; `waits`: for its
 * turn, which is to come. */
static void
after_reading(struct conn *conn, bool run, bool waits)
{
	bool failed = svc_mux_failed(&conn->mux);
	if (failed)
		drop_write(conn);
	svc_mux_result closed =
	    failed ? svc_mux_close_streams(&conn->mux) : SVC_MUX_OK;
	if (closed == SVC_MUX_LOST)
		return;
	if (failed)
		conn->shares = closed == SVC_MUX_SHARE;
	bool again = false;
	lock(conn);
	if (run && conn->reader == READER_RUNNING)
		conn->reader = READER_LOOP;
	if (conn->paused && !conn->write_blocked) {
		/* The socket took everything after all. */
		conn->paused = false;
		again = true;
	}
	conn_set_interest(conn);
	unlock(conn);
	/* The references of the kick and of the loop may be the last. */
	bool kicked = conn->kicked;
	conn->kicked = false;
	if (again && !failed)
		conn_kick(conn);
	if (conn->shares && !waits)
		svc_mux_yield(&conn->mux, &conn->source);
	if (failed && closed == SVC_MUX_OK)
		finish(conn);
	if (kicked)
		svc_mux_unref(&conn->mux);
}

static void
flush_run(struct svc_task *task)
{
	struct conn *conn =
	    (struct conn *)(void *)((char *)task -
				    offsetof(struct conn, flush_task));
	conn->flush_due = false;
	conn_flush(&conn->mux);
	svc_mux_unref(&conn->mux);
}

/* Callbacks of several connections send requests together: whoever serves them
 * is woken once and finds more to do. A server's answers are not held back,
 * since a handler takes longer than a callback. */
static void
flush_on_loop(struct conn *conn)
{
	if (conn->listener != NULL) {
		conn_flush(&conn->mux);
	} else if (!conn->flush_due) {
		conn->flush_due = true;
		conn->flush_task.run = flush_run;
		svc_mux_ref(&conn->mux);
		svc_loop_defer(conn->loop, &conn->flush_task);
	}
}

/* The loop becomes the reader if that needs no thought. Only it reads a
 * server's connection. */
static inline bool
begin_reading(struct conn *conn)
{
	if (conn->listener != NULL)
		return true;
	lock(conn);
	bool may =
	    conn->reader == READER_LOOP && !conn->connecting && !conn->aborted;
	if (may)
		conn->reader = READER_RUNNING;
	unlock(conn);
	return may;
}

/* A bare connection has bytes to read and nothing else is to be done. False
 * when there is more to it. */
static SVC_HOT bool
read_plainly(struct conn *conn, unsigned events)
{
	if (events != SVC_IO_READ || conn->tls != NULL || !conn->timed ||
	    conn->finished || conn->shares || conn->paused ||
	    svc_mux_failed(&conn->mux) || !begin_reading(conn))
		return false;
	if (!read_on_loop(conn))
		return true;
	flush_on_loop(conn);
	if (conn->shares || conn->paused || svc_mux_failed(&conn->mux))
		after_reading(conn, true, false);
	else if (conn->listener == NULL)
		/* Nobody else touches it while it is RUNNING, and the loop
		 * watched for bytes before. */
		atomic_store_explicit(
		    &conn->reader, READER_LOOP, memory_order_release);
	return true;
}

SVC_HOT void
conn_ready(struct svc_source *source, unsigned events)
{
	struct conn *conn =
	    (struct conn *)(void *)((char *)source -
				    offsetof(struct conn, source));
	if (read_plainly(conn, events))
		return;
	bool resume = (events & SVC_IO_RESUME) != 0;
	if (events & SVC_IO_KICK)
		conn->kicked = true;
	if (events & SVC_IO_HANGUP)
		conn->hung_up = true;
	/* Nobody waits for an answer to what is left of a client's flood. */
	if (conn->hung_up && conn->shares && conn->listener != NULL)
		conn_lose(conn, 0);
	if (events & (SVC_IO_KICK | SVC_IO_RESUME))
		conn->shares = false;
	bool waits = conn->shares; /* for its turn to read, which is to come */
	if (!conn->timed && !conn->finished) {
		conn->timed = true;
		svc_mux_attach(&conn->mux);
	}

	lock(conn);
	bool run = resume;
	if (!resume && !waits && !conn->connecting &&
	    (conn->reader == READER_LOOP || conn->reader == READER_NONE)) {
		conn->reader = READER_RUNNING;
		run = true;
	} else if (resume) {
		run = conn->reader == READER_RUNNING || conn->listener != NULL;
	}
	bool connecting = conn->connecting;
	bool shaking = conn->shake != SHAKE_NONE;
	bool writes = (events & SVC_IO_WRITE) != 0 && conn->write_blocked;
	if (writes)
		conn->write_blocked = false;
	bool aborted = conn->aborted;
	unlock(conn);

	if (resume)
		conn_flush(&conn->mux);
	if (aborted && !conn->finished && !svc_mux_linger(&conn->mux))
		svc_mux_fail(&conn->mux, SVC_E_CLOSED, "closed");
	if (shaking && !aborted)
		conn_shake(conn, events);
	else if (connecting && (events & SVC_IO_WRITE))
		connected(conn);
	if (writes)
		write_on_loop(conn);
	if (run && !svc_mux_failed(&conn->mux)) {
		if (!conn->paused && !read_on_loop(conn))
			return;
		flush_on_loop(conn);
	}
	after_reading(conn, run, waits);
}
