/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"
#include "conformance/transport_tls.h"

int
main(void)
{
	static const struct svc_conformance_tls tls[] = {
	    {.plugin = "nng",
		.address = "127.0.0.1:0",
		.time_out = true,
		.rush = 20,
		.reloads = true},
	    {.plugin = "nng",
		.address = "wss://127.0.0.1:0/svc",
		.rush = 5, /* it gives up after some seconds by itself */
		.reloads = true},
	};
	static const struct svc_conformance_transport over_tls[] = {
	    {.plugin = "nng",
		.address = "tls+tcp://127.0.0.1:0",
		.nobody = "tls+tcp://127.0.0.1:1",
		.bad = "tls+tcp://127.0.0.1:http",
		.title = "nng tls+tcp"},
	    {.plugin = "nng",
		.address = "wss://127.0.0.1:0/svc",
		.nobody = "wss://127.0.0.1:1/svc",
		.bad = "wss://127.0.0.1:http/",
		.title = "nng wss"},
	};
	int failed = 0;
	for (int i = 0; i < 2; i++)
		failed += svc_conformance_tls(&tls[i]) +
			  svc_conformance_transport_over_tls(&over_tls[i]);
	return failed;
}
