/* SPDX-License-Identifier: Apache-2.0 */
#include <conformance/broker.h>

static void
configure(void *arg, unsigned who, struct svc_broker_config *config)
{
	(void)arg;
	(void)who;
	config->address = "conformance";
}

int
main(void)
{
	struct svc_conformance_broker setup = {
	    .plugin = "memory",
	    .configure = configure,
	};
	return svc_conformance_broker(&setup);
}
