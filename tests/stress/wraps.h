/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STRESS_WRAPS_H
#define SVC_STRESS_WRAPS_H

#include <svc/svc.h>

/** One wrapper of every kind for one service: each counts what passes it in
 * and out, and now and then stops it with SVC_E_ABORTED. */
struct wraps;
#define WRAPS 6

struct wraps *wraps_create(void);
/** The options that put them around a service. */
void wraps_options(struct wraps *wraps, struct svc_option ret_options[WRAPS]);
/** Once the service is freed: all that went in has come out. Whoever still
 * comes uses freed memory. NULL is fine. */
void wraps_destroy(struct wraps *wraps);

#endif
