/* SPDX-License-Identifier: Apache-2.0 */
/* The same service, set up for etcd by its own code. Flags still win. */
#include "school.h"

int
main(int argc, char *argv[])
{
	struct school school;
	struct svc_service *s =
	    svc_new(name("student"), registry(etcd), ttl(10));
	svc_err err = school_open(&school, s, argc, argv);
	if (err == SVC_OK)
		err = school_serve(&school, s);
	if (err == SVC_OK)
		err = svc_run(s);
	return school_close(&school, s, err);
}
