/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STRESS_CERTIFICATES_H
#define SVC_STRESS_CERTIFICATES_H

#include <stdbool.h>

/* Certificates of the scenes with TLS, good for both sides. */

struct certificates {
	char cert[80], key[80], ca[80]; /* paths */
};

/** False with the reason on stderr. */
bool certificates_make(void);
void certificates_remove(void);
const struct certificates *certificates_get(void);
/** Puts new ones in their place while others read them. */
void certificates_renew(void);

#endif
