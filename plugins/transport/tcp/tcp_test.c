/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"

int
main(void)
{
	static const struct svc_conformance_transport setup = {
	    .plugin = "tcp",
	    .address = "127.0.0.1:0",
	    .nobody = "127.0.0.1:1",
	    .bad = "127.0.0.1",
	};
	return svc_conformance_transport(&setup);
}
