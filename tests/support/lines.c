/* SPDX-License-Identifier: Apache-2.0 */
/* Part of every test program: standard output goes out line by line, so that
 * what cmocka writes to it and to standard error stays in order in a pipe, and
 * tools/run-tests can count the cases. */
#include <stdio.h>

__attribute__((constructor)) static void
write_lines(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
}
