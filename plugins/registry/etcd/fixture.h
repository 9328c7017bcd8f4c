/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_FIXTURE_H
#define SVC_ETCD_FIXTURE_H

/* What the tests against a real etcd share. */

#include <conformance/registry.h>
#include <support/servers.h>

#include <svc/clock.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The watch may take 5 s to notice a silence, 6 s between two attempts and the
 * 3 s of grace: WAIT_MS is far beyond. */
enum { TTL_MS = 60000, WAIT_MS = 30000 };

#define OK(call)                                                         \
	do {                                                             \
		struct svc_error err_ = {0};                             \
		struct svc_error *err = &err_;                           \
		svc_err rc_ = (call);                                    \
		if (rc_ != SVC_OK)                                       \
			fail_msg("%s: %s: %s", #call, svc_err_name(rc_), \
			    err_.text);                                  \
	} while (0)

/* One for all tests of a program; each uses names of its own. */
extern struct test_server *server;

struct fixture {
	struct svc_registry *registry;
	struct recorder *recorder;
	struct svc_watch *watch;
	struct sample a, b;
	char name[48];
	char key[128]; /* of a */
};
int begin(void **state);
int end(void **state);

/** etcdctl, a second client: its output, to be freed. `a` to `c` may be NULL
 * from the end on. */
char *ctl(const char *address, const char *a, const char *b, const char *c);
void ctl_do(const char *a, const char *b, const char *c);
/** The number behind `name` in etcdctl's JSON. */
long long ctl_number(const char *json, const char *name);
/** The lease of the key of a; 0: it has none or is not there. */
long long lease_of(const struct fixture *f);

struct svc_registry *make(const char *address);
/** One that shares nothing with those above: as of another process. */
struct svc_registry *make_stranger(const char *address);
void announce(struct fixture *f, const struct sample *sample);
void watch(struct fixture *f);
void expect(struct fixture *f, svc_change change, const struct sample *sample);
svc_err lookup(struct svc_registry *registry, const char *name);

#endif
