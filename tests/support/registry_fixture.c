/* SPDX-License-Identifier: Apache-2.0 */
#include "support/registry_fixture.h"

#include <stdatomic.h>

struct test_server *server;
int conformance_failures = -1;

static const char *plugin, *version;
static bool global_ids;

void
fixture_of(const char *name, const char *of_version, bool ids_are_global)
{
	plugin = name;
	version = of_version;
	global_ids = ids_are_global;
}

/* ------------------------------------------------------------- instances */

struct svc_registry_config
config_of(const char *address)
{
	return (struct svc_registry_config){
	    .address = address, .timeout_ms = 4000, .grace_ms = GRACE_MS};
}

struct svc_registry *
make_with(const struct svc_registry_config *config)
{
	struct svc_registry *registry = NULL;
	OK(svc_registry_create(plugin, config, &registry, err));
	return registry;
}

struct svc_registry *
make(const char *address)
{
	const struct svc_registry_config config = config_of(address);
	return make_with(&config);
}

struct svc_registry *
make_stranger(const char *address)
{
	static int64_t timeout_ms = 4000;
	struct svc_registry_config config = config_of(address);
	/* Instances may share what they have in common settings. */
	config.timeout_ms = ++timeout_ms;
	return make_with(&config);
}

/* --------------------------------------------------------------- fixture */

int
begin(void **state)
{
	struct fixture *f = svc_mem_calloc(1, sizeof(*f));
	char uuid[37], id[64];
	assert_non_null(f);
	if (server->pid == 0)
		assert_true(test_server_start_again(server, false));
	svc_uuid(uuid);
	snprintf(f->name, sizeof(f->name), "t%.8s", uuid);
	const char *before = global_ids ? f->name : "";
	const char *dash = global_ids ? "-" : "";
	snprintf(id, sizeof(id), "%s%sa", before, dash);
	sample_init(&f->a, f->name, version, id, 1);
	snprintf(id, sizeof(id), "%s%sb", before, dash);
	sample_init(&f->b, f->name, version, id, 2);
	f->registry = make(server->address);
	f->recorder = recorder_create();
	*state = f;
	return 0;
}

int
end(void **state)
{
	struct fixture *f = *state;
	/* A test that failed half way may have left it frozen. */
	test_server_thaw(server);
	svc_registry_unwatch(f->watch);
	svc_registry_destroy(f->registry);
	/* No thread logs any more. */
	svc_log_set_sink(NULL, NULL);
	recorder_destroy(f->recorder);
	sample_fini(&f->a);
	sample_fini(&f->b);
	svc_mem_free(f);
	return 0;
}

void
announce(struct fixture *f, const struct sample *sample)
{
	OK(svc_registry_announce(f->registry, &sample->record, TTL_MS, err));
}

void
withdraw(struct fixture *f, const struct sample *sample)
{
	OK(svc_registry_withdraw(f->registry, &sample->record, err));
}

void
watch_with(struct fixture *f, struct svc_registry *registry, const char *name)
{
	OK(svc_registry_watch(
	    registry, name, recorder_change, f->recorder, &f->watch, err));
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
}

void
watch(struct fixture *f)
{
	watch_with(f, f->registry, f->name);
}

const struct svc_record *
expect(struct fixture *f, svc_change change, const struct sample *sample)
{
	const struct svc_record *record = NULL;
	if (!recorder_wait(
		f->recorder, change, f->name, sample->id, WAIT_MS, &record))
		fail_msg("change %d of node %s did not come", (int)change,
		    sample->id);
	return record;
}

svc_err
lookup(struct svc_registry *registry, const char *name)
{
	struct svc_record_list list = {0};
	svc_err rc = svc_registry_lookup(registry, name, &list, NULL);
	svc_record_list_fini(&list);
	return rc;
}

int
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

/* -------------------------------------------------------------------- log */

static const char *counted_id;
static atomic_int counted;

static void
count_line(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, counted_id) == 0)
		atomic_fetch_add(&counted, 1);
}

void
lines_count(const char *id)
{
	counted_id = id;
	atomic_store(&counted, 0);
	svc_log_set_sink(count_line, NULL);
}

int
lines_counted(void)
{
	return atomic_load(&counted);
}

/* ------------------------------------------------------ tests that all have */

void
it_keeps_the_promises(void **state)
{
	(void)state;
	assert_int_equal(conformance_failures, 0);
}

void
an_emptied_registry_heals_and_nobody_is_forgotten(void **state)
{
	struct fixture *f = *state;
	struct svc_registry *stranger = make_stranger(server->address);
	announce(f, &f->a);
	OK(svc_registry_announce(stranger, &f->b.record, TTL_MS, err));
	watch(f);
	test_server_kill(server);
	svc_registry_destroy(stranger);
	assert_int_equal(
	    svc_registry_announce(f->registry, &f->a.record, TTL_MS, NULL),
	    SVC_E_UNAVAILABLE);
	assert_true(test_server_start_again(server, false));
	/* a lives and announces itself at its next interval; b does not. */
	announce(f, &f->a);
	assert_int_equal(nodes_of(f->registry, f->name), 1);
	expect(f, SVC_REMOVED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, f->name, f->a.id), 0);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, f->name, f->a.id), 1);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_SYNCED, NULL, NULL), 1);
	/* The watch follows the new one. */
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
}

void
an_absent_server_is_an_error_of_the_ops(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	struct svc_error why = {0};
	char address[32];
	snprintf(address, sizeof(address), "127.0.0.1:%d", test_free_port());
	struct svc_registry *registry = make(address);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, address));
	assert_int_equal(svc_registry_withdraw(registry, &f->a.record, NULL),
	    SVC_E_UNAVAILABLE);
	assert_int_equal(svc_registry_lookup(registry, f->name, &list, NULL),
	    SVC_E_UNAVAILABLE);
	assert_int_equal(
	    svc_registry_list(registry, &list, NULL), SVC_E_UNAVAILABLE);
	/* A watch waits for it, and ends when it is told. */
	for (int i = 0; i < 2; i++) {
		OK(svc_registry_watch(registry, i == 0 ? f->name : NULL,
		    recorder_change, f->recorder, &f->watch, err));
		assert_true(recorder_quiet(f->recorder, 300));
		svc_registry_unwatch(f->watch);
		f->watch = NULL;
	}
	svc_registry_destroy(registry);
}

void
a_frozen_server_costs_no_more_than_the_timeout(void **state)
{
	struct fixture *f = *state;
	struct svc_registry_config config = config_of(server->address);
	struct svc_watch *brief = NULL;
	config.timeout_ms = 1000;
	struct svc_registry *registry = make_with(&config);
	assert_int_equal(lookup(registry, f->name), SVC_E_NOT_FOUND);
	announce(f, &f->a);
	watch(f);
	test_server_freeze(server);
	int64_t since_ms = svc_now_ms();
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, NULL),
	    SVC_E_TIMEDOUT);
	/* Its own and not the 4 s of the others. */
	assert_in_range(svc_now_ms() - since_ms, 900, 3900);
	/* That of one op goes before. */
	since_ms = svc_now_ms();
	assert_int_equal(svc_registry_announce_within(
			     f->registry, &f->a.record, TTL_MS, 600, NULL),
	    SVC_E_TIMEDOUT);
	assert_int_equal(
	    svc_registry_withdraw_within(f->registry, &f->a.record, 600, NULL),
	    SVC_E_TIMEDOUT);
	assert_in_range(svc_now_ms() - since_ms, 900, 3900);
	/* Ending a watch does not wait until the server is found silent. */
	OK(svc_registry_watch(
	    f->registry, NULL, recorder_change, f->recorder, &brief, err));
	since_ms = svc_now_ms();
	svc_registry_unwatch(brief);
	assert_true(svc_now_ms() - since_ms < 3000);
	test_server_thaw(server);
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
	svc_registry_destroy(registry);
}
