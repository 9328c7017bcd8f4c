/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_OK_H
#define SVC_TEST_OK_H

#include <svc/error.h>

/** Fails the test with the text of the error unless `call` returns SVC_OK;
 * within it `err` is where the error goes. For files that include cmocka.h. */
#define OK(call)                                                         \
	do {                                                             \
		struct svc_error err_ = {0};                             \
		struct svc_error *err = &err_;                           \
		svc_err rc_ = (call);                                    \
		if (rc_ != SVC_OK)                                       \
			fail_msg("%s: %s: %s", #call, svc_err_name(rc_), \
			    err_.text);                                  \
	} while (0)

#endif
