/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"

int
main(void)
{
	static const struct svc_conformance_transport setup = {
	    .plugin = "nng",
	    .address = "127.0.0.1:0",
	    .nobody = "127.0.0.1:1",
	    .bad = "127.0.0.1:http",
	};
	return svc_conformance_transport(&setup);
}
