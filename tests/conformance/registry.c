/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/registry.h>, for every registry: which ones there are,
 * and what their tests share. */
#include <conformance/registry_pair.h>

#include <support/lacks.h>
#include <support/scarce.h>

const struct svc_conformance_registry *pair_setup;

int64_t
pair_ttl_ms(void)
{
	return pair_setup->ttl_ms > 0 ? pair_setup->ttl_ms : 1000;
}

svc_err
pair_make(struct svc_registry **ret_registry, struct svc_error *err)
{
	if (pair_setup->ops != NULL)
		return svc_registry_create_ops(
		    pair_setup->ops, &pair_setup->config, ret_registry, err);
	return svc_registry_create(
	    pair_setup->plugin, &pair_setup->config, ret_registry, err);
}

void
pair_choose_name(struct pair *f)
{
	char uuid[37];
	svc_uuid(uuid);
	snprintf(f->name, sizeof(f->name), "t%.8s", uuid);
}

int
pair_begin(void **state)
{
	struct pair *f = svc_mem_calloc(1, sizeof(*f));
	struct svc_error err = {0};
	if (f == NULL)
		return -1;
	if (pair_make(&f->here, &err) != SVC_OK ||
	    pair_make(&f->there, &err) != SVC_OK) {
		print_error("registry: %s\n", err.text);
		svc_registry_destroy(f->here);
		svc_mem_free(f);
		return -1;
	}
	pair_choose_name(f);
	f->recorder = recorder_create();
	*state = f;
	return 0;
}

int
pair_end(void **state)
{
	struct pair *f = *state;
	svc_registry_unwatch(f->watch);
	svc_registry_destroy(f->here);
	svc_registry_destroy(f->there);
	recorder_destroy(f->recorder);
	svc_mem_free(f);
	return 0;
}

void
pair_announce(struct pair *f, const struct sample *sample, int64_t for_ms)
{
	OK(svc_registry_announce(f->here, &sample->record, for_ms, err));
}

void
pair_withdraw(struct pair *f, const struct sample *sample)
{
	OK(svc_registry_withdraw(f->here, &sample->record, err));
}

static void
watch(struct pair *f, const char *service)
{
	OK(svc_registry_watch(
	    f->there, service, recorder_change, f->recorder, &f->watch, err));
}

void
pair_watch_synced(struct pair *f, const char *service)
{
	watch(f, service);
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
}

/* How many nodes an answer has; -1 for none. An announced node may take as
 * long as an event until others can look it up. */
int
pair_looked_up(
    struct pair *f, const char *service, struct svc_record_list *ret_list)
{
	struct svc_record_list list = {0};
	int nodes = 0;
	svc_err rc = svc_registry_lookup(f->there, service, &list, NULL);
	if (rc == SVC_E_NOT_FOUND)
		return -1;
	assert_int_equal(rc, SVC_OK);
	for (size_t i = 0; i < list.n_records; i++) {
		assert_string_equal(list.records[i]->name, service);
		nodes += (int)list.records[i]->n_nodes;
	}
	if (ret_list != NULL)
		*ret_list = list;
	else
		svc_record_list_fini(&list);
	return nodes;
}

void
pair_expect_nodes(struct pair *f, const char *service, int nodes,
    struct svc_record_list *ret_list)
{
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	struct svc_record_list list = {0};
	int got;
	while ((got = pair_looked_up(f, service, &list)) != nodes) {
		svc_record_list_fini(&list);
		if (svc_now_ms() >= deadline_at_ms)
			break;
		recorder_quiet(f->recorder, 20);
	}
	if (ret_list != NULL)
		*ret_list = list;
	else
		svc_record_list_fini(&list);
	assert_int_equal(got, nodes);
}

static void
is_not_able(void **state)
{
	(void)state;
	test_lacks("taking announcements");
}

int
svc_conformance_registry(const struct svc_conformance_registry *with)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, pair_begin, pair_end)
#define ANNOUNCES(name)                                                        \
	{                                                                      \
#name, with->fixed ? is_not_able : name, pair_begin, pair_end, \
		    NULL                                                       \
	}
	const struct CMUnitTest tests[] = {
	    ANNOUNCES(an_announced_node_is_found_as_it_is),
	    TEST(an_unknown_service_is_not_found),
	    ANNOUNCES(announcing_again_changes_nothing),
	    ANNOUNCES(a_node_not_renewed_goes_in_time),
	    ANNOUNCES(a_node_that_renews_stays),
	    ANNOUNCES(a_withdrawn_node_is_gone_at_once),
	    ANNOUNCES(a_watch_tells_what_is_there_then_syncs),
	    ANNOUNCES(a_watch_tells_every_change),
	    ANNOUNCES(services_with_a_common_beginning_do_not_mix),
	    ANNOUNCES(versions_and_ids_do_not_mix),
	    ANNOUNCES(a_watch_of_all_sees_all),
	    ANNOUNCES(a_list_has_everything),
	    TEST(bad_arguments_are_refused),
	    ANNOUNCES(an_ended_watch_is_silent),
	    ANNOUNCES(many_threads_may_use_it),
	    ANNOUNCES(what_lacks_memory_says_so),
	    ANNOUNCES(a_watch_that_lacks_memory_misses_nothing),
	};
#undef TEST
#undef ANNOUNCES
	pair_setup = with;
	scarce_begin();
	int failed = cmocka_run_group_tests_name("registry", tests, NULL, NULL);
	scarce_end();
	return failed;
}
