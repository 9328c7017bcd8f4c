/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOY_H
#define TOY_H

#include <svc/plugin.h>

/** An interface of the tests: one required member, one optional. */
#define SVC_TOY_ABI SVC_ABI(77, 3)

struct svc_toy_ops {
	uint32_t abi;
	uint32_t size;
	const char *name;
	int (*play)(void);
	int (*rest)(void); /* optional */
};

#endif
