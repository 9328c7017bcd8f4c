/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_HTTP_SERVERS_H
#define SVC_REGISTRY_HTTP_SERVERS_H

#include "http.h"

struct http_server {
	char *url;  /* "https://host:port" as it was given, for texts */
	char *base; /* what requests begin with: the host is tls_name, if set */
	char *connect_to; /* "::host:port", when `base` has another host */
};

struct http_servers {
	const char *registry;
	struct http_server *list;
	size_t n;
	char *ca, *cert, *key; /* NULL: none */
};

#endif
