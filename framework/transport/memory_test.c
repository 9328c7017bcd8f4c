/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport.h"

int
main(void)
{
	static const struct svc_conformance_transport setup = {
	    .plugin = "memory",
	    .address = "",
	    .nobody = "nobody",
	    .bad = "a name with spaces",
	};
	return svc_conformance_transport(&setup);
}
