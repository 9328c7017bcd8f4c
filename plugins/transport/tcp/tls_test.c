/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"
#include "conformance/transport_tls.h"

int
main(void)
{
	static const struct svc_conformance_tls tls = {
	    .plugin = "tcp", .address = "127.0.0.1:0"};
	static const struct svc_conformance_transport over_tls = {
	    .plugin = "tcp",
	    .address = "127.0.0.1:0",
	    .nobody = "127.0.0.1:1",
	    .bad = "127.0.0.1",
	    .title = "tcp over tls",
	};
	return svc_conformance_tls(&tls) +
	       svc_conformance_transport_over_tls(&over_tls);
}
