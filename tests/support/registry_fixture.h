/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_SUPPORT_REGISTRY_FIXTURE_H
#define SVC_TEST_SUPPORT_REGISTRY_FIXTURE_H

/* What the tests of registries against a real server share. */

#include <conformance/registry.h>
#include <support/ok.h>
#include <support/servers.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A watch may take 6 s to notice a silence, 6 s between two attempts and the
 * 3 s of grace: WAIT_MS is far beyond. */
enum { TTL_MS = 60000, WAIT_MS = 30000, GRACE_MS = 3000 };

/** One for all tests of a program, which each use names of their own. */
extern struct test_server *server;

/** Which plugin the fixtures are of and which version their nodes have, before
 * the first. `ids_are_global` where
 * two services may not have nodes of the same id. */
void fixture_of(const char *plugin, const char *version, bool ids_are_global);

/** Of one test. */
struct fixture {
	struct svc_registry *registry;
	struct recorder *recorder;
	struct svc_watch *watch;
	struct sample a, b;      /* nodes, not yet announced */
	char name[48];           /* of their service */
	char key[128], set[128]; /* for the plugin's tests: of a, of all */
};
/** A server that the test before has ended is started again, empty. */
int begin(void **state);
/** Thaws the server, and takes back a log sink. */
int end(void **state);

struct svc_registry_config config_of(const char *address);
struct svc_registry *make(const char *address);
struct svc_registry *make_with(const struct svc_registry_config *config);
/** One that shares nothing with those above: as of another process. */
struct svc_registry *make_stranger(const char *address);
void announce(struct fixture *f, const struct sample *sample);
void withdraw(struct fixture *f, const struct sample *sample);
/** Watches the service of the fixture, until its full state has come. */
void watch(struct fixture *f);
/** The same of another instance and another service, or of all for NULL. */
void watch_with(
    struct fixture *f, struct svc_registry *registry, const char *name);
/** Waits for a change; the record lives as long as the recorder. */
const struct svc_record *expect(
    struct fixture *f, svc_change change, const struct sample *sample);
svc_err lookup(struct svc_registry *registry, const char *name);
/** How many nodes a lookup finds. */
int nodes_of(struct svc_registry *registry, const char *name);

/** Counts the log's lines of this id from now on, until the test ends. */
void lines_count(const char *id);
int lines_counted(void);

/** Tests that all have. The first needs what the suite returned. */
extern int conformance_failures;
void it_keeps_the_promises(void **state);
void an_emptied_registry_heals_and_nobody_is_forgotten(void **state);
void an_absent_server_is_an_error_of_the_ops(void **state);
void a_frozen_server_costs_no_more_than_the_timeout(void **state);

#endif
