/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"
#include "conformance/transport_tls.h"

int
main(void)
{
	static const struct svc_conformance_tls tls[] = {
	    {.plugin = "nng",
		.address = "127.0.0.1:0",
		.identity = true,
		.reasons = true,
		.ip_names = true,
		.time_out = true,
		.rush = 64,
		.reloads = true},
	    {.plugin = "nng",
		.address = "tls+tcp4://127.0.0.1:0",
		.identity = true,
		.reasons = true,
		.ip_names = true,
		.time_out = true,
		.rush = 64,
		.reloads = true},
	};
	static const struct svc_conformance_transport over_tls = {
	    .plugin = "nng",
	    .address = "tls+tcp://127.0.0.1:0",
	    .nobody = "tls+tcp://127.0.0.1:1",
	    .bad = "tls+tcp://127.0.0.1:http",
	    .title = "nng over tls",
	};
	return svc_conformance_tls(&tls[0]) + svc_conformance_tls(&tls[1]) +
	       svc_conformance_transport_over_tls(&over_tls);
}
