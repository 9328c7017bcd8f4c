/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nng 1.5 hangs when a listener of websockets is closed while peers are in the
 * middle of their handshakes (its issue 1733): it stops its HTTP server while
 * it holds the listener's lock, and then waits for handshakes that need that
 * lock. An HTTP server stops once it was stopped as often as it was started. So
 * it is started once more, and what stops it is our call, without the lock.
 */
#include "nng_private.h"

#include <arpa/inet.h>
#include <stdio.h>

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
	nng_url_free(url);
	if (server != NULL && nng_http_server_start(server) != 0) {
		nng_http_server_release(server);
		server = NULL;
	}
	return server;
}

void
websocket_server_stop(nng_http_server *server)
{
	nng_http_server_stop(server);
	nng_http_server_release(server);
}
