/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_SUPPORT_LACKS_H
#define SVC_TEST_SUPPORT_LACKS_H

/* Include <cmocka.h> before. */

/**
 * Skip a case of a conformance suite because the implementation does not claim
 * the ability, and say which. A plain skip() means that something is missing
 * on this machine, such as a server, and counts as a failure in the merge run;
 * this does not: there is nothing to install.
 */
#define test_lacks(ability)                                  \
	do {                                                 \
		print_message("[    LACKS ] %s\n", ability); \
		skip();                                      \
	} while (0)

#endif
