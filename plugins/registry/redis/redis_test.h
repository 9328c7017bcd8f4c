/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REDIS_TEST_H
#define REDIS_TEST_H

/* What the tests against a real redis share. */

#include <conformance/registry.h>
#include <support/servers.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A watch may take 2 s and a pull to notice a silence, 6 s between two attempts
 * and the 3 s of grace: WAIT_MS is far beyond. */
enum { TTL_MS = 60000, WAIT_MS = 30000, GRACE_MS = 3000 };

/* One for all tests of a program; each uses names of its own. */
static struct test_server *server;

#define OK(call)                                                         \
	do {                                                             \
		struct svc_error err_ = {0};                             \
		struct svc_error *err = &err_;                           \
		svc_err rc_ = (call);                                    \
		if (rc_ != SVC_OK)                                       \
			fail_msg("%s: %s: %s", #call, svc_err_name(rc_), \
			    err_.text);                                  \
	} while (0)

/* A second client. */
static inline char *
cli_at(const struct test_server *at, const char *const words[])
{
	char port[16];
	int status = -1;
	snprintf(port, sizeof(port), "%d", at->port);
	const char *argv[48] = {"redis-cli", "-p", port, "--no-auth-warning"};
	size_t n = 4;
	for (; *words != NULL && n < 47; words++)
		argv[n++] = *words;
	argv[n] = NULL;
	char *out = test_run(argv, &status);
	if (out == NULL || status != 0)
		fail_msg("redis-cli %s: status %d", argv[4], status);
	return out;
}

static inline long long
number_of(char *out)
{
	long long number = strtoll(out, NULL, 10);
	free(out);
	return number;
}

struct fixture {
	struct svc_registry *registry;
	struct recorder *recorder;
	struct svc_watch *watch;
	struct sample a, b;
	char name[48];
	char key[128], set[128]; /* of a, and of its service */
};

static inline struct svc_registry_config
config_of(const char *address)
{
	return (struct svc_registry_config){
	    .address = address, .timeout_ms = 4000, .grace_ms = GRACE_MS};
}

static inline struct svc_registry *
make(const struct svc_registry_config *config)
{
	struct svc_registry *registry = NULL;
	OK(svc_registry_create("redis", config, &registry, err));
	return registry;
}

static inline int
begin(void **state)
{
	struct fixture *f = svc_mem_calloc(1, sizeof(*f));
	struct svc_registry_config config = config_of(server->address);
	char uuid[37];
	assert_non_null(f);
	if (server->pid == 0)
		assert_true(test_server_start_again(server, false));
	svc_uuid(uuid);
	snprintf(f->name, sizeof(f->name), "t%.8s", uuid);
	sample_init(&f->a, f->name, "1", "a", 1);
	sample_init(&f->b, f->name, "1", "b", 2);
	snprintf(f->key, sizeof(f->key), "{svc}:node:%s/a", f->name);
	snprintf(f->set, sizeof(f->set), "{svc}:nodes:%s", f->name);
	f->registry = make(&config);
	f->recorder = recorder_create();
	*state = f;
	return 0;
}

static inline int
end(void **state)
{
	struct fixture *f = *state;
	/* A test that failed half way may have left it frozen. */
	test_server_thaw(server);
	svc_log_set_sink(NULL, NULL);
	svc_registry_unwatch(f->watch);
	svc_registry_destroy(f->registry);
	recorder_destroy(f->recorder);
	sample_fini(&f->a);
	sample_fini(&f->b);
	svc_mem_free(f);
	return 0;
}

static inline void
watch_with(struct fixture *f, struct svc_registry *registry)
{
	OK(svc_registry_watch(
	    registry, f->name, recorder_change, f->recorder, &f->watch, err));
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
}

static inline void
expect(struct fixture *f, svc_change change, const struct sample *sample)
{
	if (!recorder_wait(
		f->recorder, change, f->name, sample->id, WAIT_MS, NULL))
		fail_msg("change %d of node %s did not come", (int)change,
		    sample->id);
}

static inline int
nodes_of(struct svc_registry *registry, const char *name)
{
	struct svc_record_list list = {0};
	struct svc_error err = {0};
	int nodes = 0;
	svc_err rc = svc_registry_lookup(registry, name, &list, &err);
	if (rc != SVC_OK && rc != SVC_E_NOT_FOUND)
		fail_msg("%s", err.text);
	for (size_t i = 0; i < list.n_records; i++)
		nodes += (int)list.records[i]->n_nodes;
	svc_record_list_fini(&list);
	return nodes;
}

#endif
