/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/registry.h>: what lacks memory fails, and harms nothing.
 * Each allocation is made to fail in turn. */
#include <conformance/registry_pair.h>
#include <support/scarce.h>

/* Whether it went well, when it did not for want of memory. */
static bool
is_well(const char *what, long n, svc_err rc, const struct svc_error *err)
{
	if (rc != SVC_OK && rc != SVC_E_NOT_FOUND && rc != SVC_E_NOMEM)
		fail_msg("allocation %ld of %s fails with %s: %s", n, what,
		    svc_err_name(rc), err->text);
	return rc == SVC_OK;
}

/* What a service does, from its start to its end. */
static void
one_life(const struct sample *a, long n)
{
	struct svc_registry *registry = NULL;
	struct svc_record_list list = {0};
	struct svc_error why = {0};
	const char *service = a->record.name;
	if (!is_well("create", n, pair_make(&registry, &why), &why))
		return;
	if (is_well("announce", n,
		svc_registry_announce(registry, &a->record, TTL_LONG_MS, &why),
		&why)) {
		if (is_well("lookup", n,
			svc_registry_lookup(registry, service, &list, &why),
			&why))
			svc_record_list_fini(&list);
		if (is_well("list", n, svc_registry_list(registry, &list, &why),
			&why))
			svc_record_list_fini(&list);
	}
	is_well("withdraw", n,
	    svc_registry_withdraw(registry, &a->record, &why), &why);
	scarce_at(-1);
	OK(svc_registry_withdraw(registry, &a->record, err));
	svc_registry_destroy(registry);
}

void
what_lacks_memory_says_so(void **state)
{
	struct pair *f = *state;
	struct sample a;
	bool hit = true;
	sample_init(&a, f->name, "1", "a", 1);
	long n = 0;
	for (; hit; n++) {
		scarce_at(n);
		one_life(&a, n);
		hit = scarce_hit();
	}
	print_message("%ld allocations\n", n - 1);
	assert_true(n > 5);
	/* Nothing is left, and everything still works. */
	pair_expect_nodes(f, f->name, -1, NULL);
	pair_announce(f, &a, TTL_LONG_MS);
	pair_expect_nodes(f, f->name, 1, NULL);
	pair_withdraw(f, &a);
	sample_fini(&a);
}

/* What a registry does in threads of its own may be what lacks memory. */
static void
try_announce(struct pair *f, const struct sample *sample)
{
	svc_err rc = SVC_E_NOMEM;
	while (rc == SVC_E_NOMEM)
		rc = svc_registry_announce(
		    f->here, &sample->record, TTL_LONG_MS, NULL);
	assert_int_equal(rc, SVC_OK);
}

static void
try_withdraw(struct pair *f, const struct sample *sample)
{
	svc_err rc = SVC_E_NOMEM;
	while (rc == SVC_E_NOMEM)
		rc = svc_registry_withdraw(f->here, &sample->record, NULL);
	assert_int_equal(rc, SVC_OK);
}

static void
try_watch(struct pair *f)
{
	svc_err rc = SVC_E_NOMEM;
	while (rc == SVC_E_NOMEM)
		rc = svc_registry_watch(f->there, f->name, recorder_change,
		    f->recorder, &f->watch, NULL);
	assert_int_equal(rc, SVC_OK);
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
}

/* The changes of a node come whatever the watch lacks meanwhile. */
static void
one_watch(struct pair *f, const struct sample *a, const struct sample *b)
{
	try_announce(f, a);
	try_watch(f);
	if (recorder_count(f->recorder, SVC_CREATED, f->name, a->id) == 0)
		CREATED(f, a);
	try_announce(f, b);
	CREATED(f, b);
	try_withdraw(f, b);
	REMOVED(f, b);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	assert_int_equal(recorder_nodes(f->recorder, f->name), 1);
	recorder_destroy(f->recorder);
	f->recorder = recorder_create();
}

void
a_watch_that_lacks_memory_misses_nothing(void **state)
{
	struct pair *f = *state;
	struct sample a, b;
	bool hit = true;
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, f->name, "1", "b", 2);
	/* The allocations that fail are those of the plugin's threads. */
	scarce_exempt(true);
	long n = 0;
	for (; hit; n++) {
		scarce_at(n);
		one_watch(f, &a, &b);
		hit = scarce_hit();
		scarce_at(-1);
	}
	print_message("%ld allocations\n", n - 1);
	scarce_exempt(false);
	pair_withdraw(f, &a);
	sample_fini(&a);
	sample_fini(&b);
}
