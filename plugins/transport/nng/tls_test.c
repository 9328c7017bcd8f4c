/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"
#include "conformance/transport_tls.h"

int
main(void)
{
	static const struct svc_conformance_tls plain = {
	    .plugin = "nng", .address = "127.0.0.1:0"};
	static const struct svc_conformance_tls url = {
	    .plugin = "nng", .address = "tls+tcp4://127.0.0.1:0"};
	static const struct svc_conformance_transport over_tls = {
	    .plugin = "nng",
	    .address = "tls+tcp://127.0.0.1:0",
	    .nobody = "tls+tcp://127.0.0.1:1",
	    .bad = "tls+tcp://127.0.0.1:http",
	    .title = "nng over tls",
	};
	return svc_conformance_tls(&plain) + svc_conformance_tls(&url) +
	       svc_conformance_transport_over_tls(&over_tls);
}
