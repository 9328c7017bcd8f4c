/* SPDX-License-Identifier: Apache-2.0 */
#include <conformance/registry.h>

int
main(void)
{
	return svc_conformance_registry(&(struct svc_conformance_registry){
	    .plugin = "memory",
	    .config = {.address = "conformance"},
	    .ttl_ms = 300,
	});
}
