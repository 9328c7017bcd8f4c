/* SPDX-License-Identifier: Apache-2.0 */
/* The student service on the defaults, which need no server: it is found by
 * mDNS, and events go from peer to peer. Flags move it to anything else. */
#include "school.h"

int
main(int argc, char *argv[])
{
	struct school school;
	struct svc_service *s = svc_new(name("student"));
	svc_err err = school_open(&school, s, argc, argv);
	if (err == SVC_OK)
		err = school_serve(&school, s);
	if (err == SVC_OK)
		err = svc_run(s);
	return school_close(&school, s, err);
}
