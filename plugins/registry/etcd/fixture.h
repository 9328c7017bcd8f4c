/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_FIXTURE_H
#define SVC_ETCD_FIXTURE_H

/* What the tests against a real etcd share. */

#include <support/registry_fixture.h>

/** As begin, with the key of a. */
int begin_etcd(void **state);

/** etcdctl, a second client: its output, to be freed. `a` to `c` may be NULL
 * from the end on. */
char *ctl(const char *address, const char *a, const char *b, const char *c);
void ctl_do(const char *a, const char *b, const char *c);
/** The number behind `name` in etcdctl's JSON. */
long long ctl_number(const char *json, const char *name);
/** The lease of the key of a; 0: it has none or is not there. */
long long lease_of(const struct fixture *f);

#endif
