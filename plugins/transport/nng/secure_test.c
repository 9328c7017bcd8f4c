/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a handshake: the session and what moves its bytes are the
 * test's. */
#include "conn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct svc_task *queued; /* of the shaker's */
static int shaken, reads;
static bool freed;

void
tls_shaker_run(struct tls_shaker *shaker, struct svc_task *step)
{
	(void)shaker;
	queued = step;
}

tls_step
tls_shake(struct tls *tls)
{
	(void)tls;
	shaken++;
	return TLS_WANT_READ;
}

svc_err
tls_take(struct tls *tls, struct svc_buf *into)
{
	(void)tls;
	(void)into;
	return SVC_OK;
}

bool
conn_receive(struct conn *conn, void *data, size_t size)
{
	(void)conn;
	(void)data;
	(void)size;
	reads++;
	return true;
}

/* What a handshake that neither fails nor ends does not use. */

svc_err
tls_put(struct tls *tls, const void *data, size_t len)
{
	(void)tls;
	(void)data;
	(void)len;
	abort();
}

ssize_t
tls_write(struct tls *tls, const void *data, size_t len)
{
	(void)tls;
	(void)data;
	(void)len;
	abort();
}

ssize_t
tls_read(struct tls *tls, void *data, size_t room)
{
	(void)tls;
	(void)data;
	(void)room;
	abort();
}

bool
tls_reason(struct tls *tls, struct tls_failure *ret)
{
	(void)tls;
	(void)ret;
	abort();
}

const char *
tls_identity(const struct tls *tls)
{
	(void)tls;
	abort();
}

bool
conn_send(struct conn *conn)
{
	(void)conn;
	abort();
}

void
conn_kick(struct conn *conn)
{
	(void)conn;
	abort();
}

void
conn_flush(struct svc_mux *mux)
{
	(void)mux;
	abort();
}

void
conn_lose(struct conn *conn, int rv)
{
	(void)conn;
	(void)rv;
	abort();
}

static void
note_freed(struct svc_mux *mux)
{
	(void)mux;
	freed = true;
}

static void
make(struct conn *conn)
{
	static const struct svc_mux_ops ops = {.free = note_freed};
	static const struct svc_transport_ops transport = {.name = "test"};
	static struct nng self;
	struct svc_mux_config config = {.ops = &ops, .transport = &transport};
	memset(conn, 0, sizeof(*conn));
	assert_int_equal(
	    svc_mux_init(&conn->mux, &config, "the service"), SVC_OK);
	conn->self = &self;
	conn->shaking = true;
	svc_buf_init(&conn->cipher, SIZE_MAX / 2);
	queued = NULL;
	shaken = reads = 0;
	freed = false;
}

static void
end(struct conn *conn)
{
	svc_mux_unref(&conn->mux);
	assert_true(freed); /* no step holds it */
	svc_mux_fini(&conn->mux);
}

static void
a_step_is_computed(void **state)
{
	(void)state;
	struct conn conn;
	make(&conn);
	secure_shake(&conn);
	assert_int_equal(shaken, 0);
	queued->run(queued);
	assert_int_equal(shaken, 1);
	assert_int_equal(reads, 1);
	end(&conn);
}

static void
what_was_given_up_in_the_queue_is_not_computed(void **state)
{
	(void)state;
	struct conn conn;
	make(&conn);
	secure_shake(&conn);
	svc_mux_fail(&conn.mux, SVC_E_CLOSED, "closed");
	queued->run(queued);
	assert_int_equal(shaken, 0);
	assert_int_equal(reads, 0);
	end(&conn);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_step_is_computed),
	    cmocka_unit_test(what_was_given_up_in_the_queue_is_not_computed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
