/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc frames over nng: tcp, unix sockets, abstract sockets and websockets.
 *
 * Of nng's two faces this takes its byte streams (nng_stream), not its SP
 * sockets. A call must not get lost, and SP sockets lose: pair1 in its
 * polyamorous mode, which a server needs, drops for a peer whose queue is full,
 * bus and pub drop by design, and req repeats a request on its own, so a
 * handler could run twice. What does not drop (pair0, push) knows one peer or
 * does not say which. A stream pushes back as a socket does, tells of its
 * end, and each connection is an object of its own; the engine of svc/mux.h
 * already brings the messages, which SP would have framed a second time. The
 * price is that nng's inproc, which has no streams, is not there: the memory
 * transport is for that.
 *
 * Over a plain tcp address the bytes are those of the transport "tcp", so each
 * can call the other.
 */
#include "nng_private.h"

#include <signal.h>

void
nng_busy(struct nng *self)
{
	pthread_mutex_lock(&self->mutex);
	self->n_busy++;
	pthread_mutex_unlock(&self->mutex);
}

void
nng_idle(struct nng *self)
{
	pthread_mutex_lock(&self->mutex);
	self->n_busy--;
	pthread_cond_broadcast(&self->changed);
	pthread_mutex_unlock(&self->mutex);
}

svc_err
nng_err(int rv)
{
	switch (rv) {
	case 0:
		return SVC_OK;
	case NNG_ENOMEM:
		return SVC_E_NOMEM;
	case NNG_EADDRINUSE:
		return SVC_E_EXISTS;
	case NNG_EPERM:
		return SVC_E_DENIED;
	case NNG_ENOFILES:
		return SVC_E_EXHAUSTED;
	case NNG_EINVAL:
	case NNG_EADDRINVAL:
	case NNG_ENOTSUP:
	case NNG_ENOENT:
		return SVC_E_INVAL;
	default:
		return SVC_E_UNAVAILABLE;
	}
}

/* nng starts its threads on first use, and they take signals if the thread
 * that starts them does. */
static int
start_library(void)
{
	sigset_t all, before;
	nng_aio *aio;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rv = nng_aio_alloc(&aio, NULL, NULL);
	if (rv == 0)
		nng_aio_free(aio);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rv;
}

static svc_err
create(const struct svc_transport_config *config, void **ret_self,
    struct svc_error *err)
{
	int rv = start_library();
	if (rv != 0)
		return svc_error_set(
		    err, nng_err(rv), "cannot start nng: %s", nng_strerror(rv));
	struct nng *self = svc_mem_calloc(1, sizeof(*self));
	if (self == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	self->config = *config;
	self->config.limits = svc_transport_limits_fill(&config->limits);
	pthread_mutex_init(&self->mutex, NULL);
	svc_cond_init(&self->changed);
	*ret_self = self;
	return SVC_OK;
}

/* A connection that was given up is closed in the background: after this its
 * loop may be gone. */
static void
destroy(void *arg)
{
	struct nng *self = arg;
	pthread_mutex_lock(&self->mutex);
	while (self->n_busy > 0)
		pthread_cond_wait(&self->changed, &self->mutex);
	pthread_mutex_unlock(&self->mutex);
	pthread_cond_destroy(&self->changed);
	pthread_mutex_destroy(&self->mutex);
	svc_mem_free(self);
}

static svc_err
do_listen(void *self, const char *address, svc_accept_cb accept, void *arg,
    void **ret_listener, struct svc_error *err)
{
	struct listener *listener;
	svc_err rc =
	    listener_create(self, address, accept, arg, &listener, err);
	if (rc == SVC_OK)
		*ret_listener = listener;
	return rc;
}

static const char *
address_of(void *listener)
{
	return listener_address(listener);
}

static void
drain(void *listener)
{
	listener_drain(listener);
}

static void
destroy_listener(void *listener)
{
	listener_destroy(listener);
}

static svc_err
dial(void *self, const char *address, int64_t timeout_ms, void **ret_conn,
    struct svc_error *err)
{
	struct conn *conn;
	svc_err rc = conn_dial(self, address, timeout_ms, &conn, err);
	if (rc == SVC_OK)
		*ret_conn = conn;
	return rc;
}

static void
destroy_conn(void *conn)
{
	struct svc_mux *mux = conn_mux(conn);
	svc_mux_finish(mux);
	svc_mux_unref(mux);
}

static svc_err
open_stream(void *conn, const struct svc_part *first, unsigned flags,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err)
{
	return svc_mux_open(
	    conn_mux(conn), first, flags, events, user, ret_stream, err);
}

const struct svc_transport_ops nng_ops = {
    .abi = SVC_TRANSPORT_ABI,
    .size = sizeof(struct svc_transport_ops),
    .name = "nng",
    .create = create,
    .destroy = destroy,
    .listen = do_listen,
    .listener_address = address_of,
    .drain = drain,
    .listener_destroy = destroy_listener,
    .dial = dial,
    .conn_destroy = destroy_conn,
    .open = open_stream,
    .send = svc_mux_send,
    .wait = svc_mux_wait,
    .release = svc_mux_release,
    .peer = svc_mux_peer,
    .cancelled = svc_mux_cancelled,
};

SVC_PLUGIN(nng_ops);
