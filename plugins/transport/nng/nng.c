/* SPDX-License-Identifier: Apache-2.0 */
/*
 * svc frames over nng: tcp, unix sockets, abstract sockets and websockets, and
 * TLS over the first.
 *
 * Of nng's two faces this takes its byte streams (nng_stream), not its SP
 * sockets. A call must not get lost, and SP sockets lose: pair1 in its
 * polyamorous mode, which a server needs, drops for a peer whose queue is full,
 * bus and pub drop by design, and req repeats a request on its own, so a
 * handler could run twice. What does not drop (pair0, push) knows one peer or
 * does not say which. A stream pushes back as a socket does, tells of its
 * end, and each connection is an object of its own; the engine of svc/mux.h
 * already brings the messages, which SP would have framed a second time. The
 * price is that nng's inproc, which has no streams, cannot be used: addresses
 * inproc://name are served by the memory transport.
 *
 * Over tcp, with TLS or without, the bytes are those of the transport "tcp", so
 * each can call the other. The TLS is ours and not nng's (mbedTLS, in Debian's
 * nng), which does not say why a handshake failed or who the peer is, and finds
 * no addresses in certificates.
 */
#include "nng_private.h"

#include <signal.h>
#include <string.h>
#include <tls/tls.h>

void
nng_conn_made(struct nng *self)
{
	pthread_mutex_lock(&self->mutex);
	self->n_conns++;
	pthread_mutex_unlock(&self->mutex);
}

void
nng_conn_gone(struct nng *self)
{
	pthread_mutex_lock(&self->mutex);
	self->n_conns--;
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
	svc_err rc = svc_transport_memory.create(config, &self->inside, err);
	if (rc == SVC_OK && config->tls != NULL)
		rc = tls_files_create(config->tls, &self->tls, err);
	if (rc == SVC_OK && config->tls != NULL) {
		self->shaker = tls_shaker_create(config->executor);
		if (self->shaker == NULL)
			rc = svc_error_set(err, SVC_E_NOMEM, "out of memory");
	}
	if (rc != SVC_OK) {
		tls_files_destroy(self->tls);
		if (self->inside != NULL)
			svc_transport_memory.destroy(self->inside);
		svc_mem_free(self);
		return rc;
	}
	pthread_mutex_init(&self->mutex, NULL);
	svc_cond_init(&self->changed);
	*ret_self = self;
	return SVC_OK;
}

/* A connection that was given up is closed in the background, and a callback of
 * it that has released its stream may just be returning: after this its loop
 * may be gone. */
static void
destroy(void *arg)
{
	struct nng *self = arg;
	pthread_mutex_lock(&self->mutex);
	while (self->n_conns > 0)
		pthread_cond_wait(&self->changed, &self->mutex);
	pthread_mutex_unlock(&self->mutex);
	svc_transport_memory.destroy(self->inside);
	tls_shaker_destroy(self->shaker);
	tls_files_destroy(self->tls);
	pthread_cond_destroy(&self->changed);
	pthread_mutex_destroy(&self->mutex);
	svc_mem_free(self);
}

/*
 * inproc:// is served by the memory transport, to which an address is a name.
 * So listeners and connections are handed out with whom they belong to. What is
 * done to a stream is the same for both.
 */
struct place {
	const struct svc_transport_ops *inside; /* NULL: nng's */
	void *it;
};

static bool
is_inproc(const char *address)
{
	return strncmp(address, "inproc://", 9) == 0;
}

static svc_err
do_listen(void *arg, const char *address, svc_accept_cb accept,
    void *accept_arg, void **ret_listener, struct svc_error *err)
{
	struct nng *self = arg;
	struct place *place = svc_mem_calloc(1, sizeof(*place));
	svc_err rc;
	if (place == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	if (is_inproc(address)) {
		struct address checked;
		place->inside = &svc_transport_memory;
		rc = address_parse(address, true, false, &checked, err);
		if (rc == SVC_OK)
			rc = place->inside->listen(self->inside, address,
			    accept, accept_arg, &place->it, err);
	} else {
		struct listener *listener = NULL;
		rc = listener_create(
		    self, address, accept, accept_arg, &listener, err);
		place->it = listener;
	}
	if (rc == SVC_OK)
		*ret_listener = place;
	else
		svc_mem_free(place);
	return rc;
}

static const char *
address_of(void *arg)
{
	struct place *place = arg;
	return place->inside != NULL
		   ? place->inside->listener_address(place->it)
		   : listener_address(place->it);
}

static void
drain(void *arg)
{
	struct place *place = arg;
	if (place->inside != NULL)
		place->inside->drain(place->it);
	else
		listener_drain(place->it);
}

static void
linger_until(void *arg, int64_t until_at_ms)
{
	struct place *place = arg;
	if (place->inside != NULL)
		place->inside->linger_until(place->it, until_at_ms);
	else
		__atomic_store_n(
		    listener_linger(place->it), until_at_ms, __ATOMIC_RELAXED);
}

static void
destroy_listener(void *arg)
{
	struct place *place = arg;
	if (place->inside != NULL)
		place->inside->listener_destroy(place->it);
	else
		listener_destroy(place->it);
	svc_mem_free(place);
}

static svc_err
dial(void *arg, const char *address, int64_t timeout_ms, void **ret_conn,
    struct svc_error *err)
{
	struct nng *self = arg;
	struct place *place = svc_mem_calloc(1, sizeof(*place));
	svc_err rc;
	if (place == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	if (is_inproc(address)) {
		struct address checked;
		place->inside = &svc_transport_memory;
		rc = address_parse(address, false, false, &checked, err);
		if (rc == SVC_OK)
			rc = place->inside->dial(
			    self->inside, address, timeout_ms, &place->it, err);
	} else {
		struct conn *conn = NULL;
		rc = conn_dial(self, address, timeout_ms, &conn, err);
		place->it = conn;
	}
	if (rc == SVC_OK)
		*ret_conn = place;
	else
		svc_mem_free(place);
	return rc;
}

static void
destroy_conn(void *arg)
{
	struct place *place = arg;
	if (place->inside != NULL) {
		place->inside->conn_destroy(place->it);
	} else {
		struct svc_mux *mux = conn_mux(place->it);
		svc_mux_finish(mux);
		svc_mux_unref(mux);
	}
	svc_mem_free(place);
}

static svc_err
open_stream(void *arg, const struct svc_part *first, unsigned flags,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err)
{
	struct place *place = arg;
	if (place->inside != NULL)
		return place->inside->open(
		    place->it, first, flags, events, user, ret_stream, err);
	return svc_mux_open(
	    conn_mux(place->it), first, flags, events, user, ret_stream, err);
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
    .credit = svc_mux_credit,
    .on_cancel = svc_mux_on_cancel,
    .interrupt = svc_mux_interrupt,
    .answer = svc_mux_answer,
    .flush = svc_mux_flush,
    .linger_until = linger_until,
    .identity = conn_identity,
};

SVC_PLUGIN(nng_ops);
