/* SPDX-License-Identifier: Apache-2.0 */
/* A listener that closes while a connection comes: nng is the test's, and says
 * so at that moment. */
#include "nng_private.h"

#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <cmocka.h>

#define PATIENCE 10000 /* how often the loop lets others run */

static struct nng self;
static struct svc_loop *loop;
static int anything; /* its address is all that is needed */

/* Of the listener's aio. */
static void (*accepted)(void *);
static void *accepted_arg;

static atomic_bool returned, early;

struct settler {
	struct svc_task task;
	sem_t done;
};

static void
settle_run(struct svc_task *task)
{
	sem_post(&((struct settler *)(void *)task)->done);
}

/* The loop does what was asked of it before. */
static void
settle(void)
{
	struct settler settler = {.task.run = settle_run};
	sem_init(&settler.done, 0, 0);
	svc_loop_post(loop, &settler.task);
	sem_wait(&settler.done);
	sem_destroy(&settler.done);
}

/* While the loop is here nobody can know that it is through. */
static void
linger(struct svc_task *task)
{
	(void)task;
	for (int i = 0; i < PATIENCE && !atomic_load(&returned); i++)
		sched_yield();
	atomic_store(&early, atomic_load(&returned));
}

/* ---------------------------------------------------------------------- nng */

int
nng_aio_alloc(nng_aio **ret, void (*callback)(void *), void *arg)
{
	*ret = (nng_aio *)(void *)&anything;
	accepted = callback;
	accepted_arg = arg;
	return 0;
}

int
nng_stream_listener_alloc(nng_stream_listener **ret, const char *url)
{
	(void)url;
	*ret = (nng_stream_listener *)(void *)&anything;
	return 0;
}

/* A connection comes, and the loop hears of it, before it is closed. */
void
nng_stream_listener_close(nng_stream_listener *listener)
{
	(void)listener;
	accepted(accepted_arg);
	settle();
}

void
nng_aio_stop(nng_aio *aio)
{
	static struct svc_task task = {.run = linger};
	(void)aio;
	svc_loop_post(loop, &task);
}

int
nng_aio_result(nng_aio *aio)
{
	(void)aio;
	return 0;
}

void *
nng_aio_get_output(nng_aio *aio, unsigned index)
{
	(void)aio;
	(void)index;
	return &anything;
}

int
nng_stream_listener_set_bool(
    nng_stream_listener *listener, const char *name, bool value)
{
	(void)listener;
	(void)name;
	(void)value;
	return 0;
}

int
nng_stream_listener_listen(nng_stream_listener *listener)
{
	(void)listener;
	return 0;
}

void
nng_stream_listener_accept(nng_stream_listener *listener, nng_aio *aio)
{
	(void)listener;
	(void)aio;
}

void
nng_stream_listener_free(nng_stream_listener *listener)
{
	(void)listener;
}

void
nng_aio_free(nng_aio *aio)
{
	(void)aio;
}

void
nng_stream_free(nng_stream *stream)
{
	(void)stream;
}

int
nng_stream_listener_get_addr(
    nng_stream_listener *listener, const char *name, nng_sockaddr *ret)
{
	(void)listener;
	(void)name;
	(void)ret;
	return NNG_ENOTSUP;
}

int
nng_stream_get_addr(nng_stream *stream, const char *name, nng_sockaddr *ret)
{
	(void)stream;
	(void)name;
	(void)ret;
	return NNG_ENOTSUP;
}

const char *
nng_strerror(int rv)
{
	(void)rv;
	return "";
}

/* ------------------------------------------- what no connection comes to use
 */

svc_err
nng_err(int rv)
{
	(void)rv;
	abort();
}

struct conn_link *
conn_link(struct conn *conn)
{
	(void)conn;
	abort();
}

struct svc_mux *
conn_mux(struct conn *conn)
{
	(void)conn;
	abort();
}

svc_err
conn_accept(struct nng *nng, struct listener *listener, nng_stream *stream,
    const struct address *address, svc_accept_cb accept, void *arg,
    const char *peer, struct conn **ret_conn)
{
	(void)nng;
	(void)listener;
	(void)stream;
	(void)address;
	(void)accept;
	(void)arg;
	(void)peer;
	(void)ret_conn;
	abort();
}

void
conn_start(struct conn *conn)
{
	(void)conn;
	abort();
}

void
conn_abort(struct conn *conn)
{
	(void)conn;
	abort();
}

nng_http_server *
websocket_server(nng_stream_listener *listener, const char *url)
{
	(void)listener;
	(void)url;
	abort();
}

void
websocket_server_stop(nng_http_server *server)
{
	(void)server;
	abort();
}

void
websocket_listener_free(nng_stream_listener *listener)
{
	(void)listener;
	abort();
}

/* ----------------------------------------------------------------- the test */

static void
one_that_closes_is_left_by_the_loop(void **state)
{
	(void)state;
	static const struct svc_executor_config one = {.loops = 1};
	struct listener *listener;
	assert_int_equal(
	    svc_executor_create(&one, &self.config.executor, NULL), SVC_OK);
	self.config.limits.max_connections = 1;
	loop = svc_executor_loop(self.config.executor);
	assert_int_equal(listener_create(&self, "abstract://listener", NULL,
			     NULL, &listener, NULL),
	    SVC_OK);
	listener_drain(listener);
	atomic_store(&returned, true);
	settle();
	assert_false(early);
	listener_destroy(listener);
	svc_executor_destroy(self.config.executor);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(one_that_closes_is_left_by_the_loop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
