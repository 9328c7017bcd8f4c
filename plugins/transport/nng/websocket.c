/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nng 1.5 hangs when a listener of websockets is closed while peers are in the
 * middle of their handshakes (its issue 1733): it stops its HTTP server while
 * it holds the listener's lock, and then waits for handshakes that need that
 * lock. An HTTP server stops once it was stopped as often as it was started. So
 * it is started once more, and what stops it is our call, without the lock.
 *
 * To free such a listener is to wait until the replies to its handshakes are
 * out, and of one that fails while the listener waits nng 1.5 does not tell it.
 * So that is waited for on a thread of its own, and not for ever.
 *
 * nng finds a listener by the host that a request names, unless it listens on
 * every address, and that cannot be turned off. Where it finds none it answers
 * as if the path were wrong; so a handler for every other host tells the two
 * apart.
 */
#include "nng_private.h"

#include <arpa/inet.h>
#include <stdio.h>

#define FREE_MS 5000

/* A listener that is being freed. */
struct ending {
	nng_stream_listener *listener;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool freed, left; /* by the one who waits */
};

/* A request for a host that is not the listener's. */
static void
refuse_host(nng_aio *aio)
{
	static const char text[] =
	    "This service is called by another name: by the name or number of "
	    "the host that it listens on, in the header Host.\n";
	nng_http_res *answer = NULL;
	int rv = nng_http_res_alloc(&answer);
	if (rv == 0)
		rv = nng_http_res_set_status(answer, NNG_HTTP_STATUS_FORBIDDEN);
	if (rv == 0)
		rv = nng_http_res_set_header(
		    answer, "Content-Type", "text/plain");
	if (rv == 0)
		rv = nng_http_res_copy_data(answer, text, sizeof(text) - 1);
	if (rv == 0)
		nng_aio_set_output(aio, 0, answer);
	else
		nng_http_res_free(answer);
	nng_aio_finish(aio, rv);
}

/* The server keeps it. Without it the answer is less to the point. */
static void
add_refusal(nng_http_server *server, const nng_url *url)
{
	nng_http_handler *handler;
	if (nng_http_handler_alloc(&handler, url->u_path, refuse_host) != 0)
		return;
	/* It is there, when another listener shares the server; or there are no
	 * other hosts, when this one listens on every address. */
	if (nng_http_server_add_handler(server, handler) != 0)
		nng_http_handler_free(handler);
}

nng_http_server *
websocket_server(nng_stream_listener *listener, const char *given)
{
	nng_http_server *server = NULL;
	nng_url *url;
	nng_sockaddr at;
	char port[8];
	if (nng_stream_listener_get_addr(listener, NNG_OPT_LOCADDR, &at) != 0 ||
	    nng_url_parse(&url, given) != 0)
		return NULL;
	/* It is found by host and real port. */
	snprintf(port, sizeof(port), "%u",
	    ntohs(at.s_family == NNG_AF_INET6 ? at.s_in6.sa_port
					      : at.s_in.sa_port));
	nng_url real = *url;
	real.u_port = port;
	if (nng_http_server_hold(&server, &real) != 0)
		server = NULL;
	if (server != NULL && nng_http_server_start(server) != 0) {
		nng_http_server_release(server);
		server = NULL;
	}
	if (server != NULL)
		add_refusal(server, url);
	nng_url_free(url);
	return server;
}

void
websocket_server_stop(nng_http_server *server)
{
	nng_http_server_stop(server);
	nng_http_server_release(server);
}

static void
ending_destroy(struct ending *ending)
{
	pthread_cond_destroy(&ending->changed);
	pthread_mutex_destroy(&ending->mutex);
	svc_mem_free(ending);
}

static void *
end_listener(void *arg)
{
	struct ending *ending = arg;
	nng_stream_listener_free(ending->listener);
	pthread_mutex_lock(&ending->mutex);
	ending->freed = true;
	bool left = ending->left;
	pthread_cond_signal(&ending->changed);
	pthread_mutex_unlock(&ending->mutex);
	if (left)
		ending_destroy(ending);
	return NULL;
}

void
websocket_listener_free(nng_stream_listener *listener)
{
	struct ending *ending = svc_mem_calloc(1, sizeof(*ending));
	if (ending == NULL) {
		nng_stream_listener_free(listener);
		return;
	}
	ending->listener = listener;
	pthread_mutex_init(&ending->mutex, NULL);
	svc_cond_init(&ending->changed);
	pthread_t thread;
	if (svc_thread_start(&thread, "svc-nng-end", end_listener, ending) !=
	    SVC_OK) {
		nng_stream_listener_free(listener);
		ending_destroy(ending);
		return;
	}
	int64_t until_ms = svc_deadline(FREE_MS);
	svc_err code = SVC_OK;
	pthread_mutex_lock(&ending->mutex);
	while (!ending->freed && code == SVC_OK)
		code =
		    svc_cond_wait(&ending->changed, &ending->mutex, until_ms);
	bool freed = ending->freed;
	ending->left = !freed;
	pthread_mutex_unlock(&ending->mutex);
	if (freed) {
		svc_thread_join(thread);
		ending_destroy(ending);
		return;
	}
	pthread_detach(thread);
	svc_log(SVC_LOG_WARN, "nng.listener",
	    "a listener of websockets could not be freed in %d ms: nng was not "
	    "told how a handshake ended",
	    FREE_MS);
}
