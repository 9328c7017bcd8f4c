/* SPDX-License-Identifier: Apache-2.0 */
/* Leases against a real etcd: shared, renewed, lost and made again. */
#include "fixture.h"

static void
sample_beside(const struct fixture *f, struct sample *sample)
{
	char name[64];
	snprintf(name, sizeof(name), "%s-other", f->name);
	sample_init(sample, name, "1", "x", 3);
}

static long long
lease_of_key(const char *service, const char *id)
{
	struct fixture f;
	snprintf(f.key, sizeof(f.key), "/micro/registry/%s/%s", service, id);
	return lease_of(&f);
}

/* Waits, without a call of announce, until the key of a has another lease. */
static long long
wait_for_another_lease(const struct fixture *f, long long old)
{
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	for (;;) {
		long long lease = lease_of(f);
		if (lease != 0 && lease != old)
			return lease;
		assert_true(svc_now_ms() < deadline_at_ms);
	}
}

static void
revoke(long long lease)
{
	char id[32];
	snprintf(id, sizeof(id), "%llx", lease);
	ctl_do("lease", "revoke", id);
}

static size_t
leases(void)
{
	char *out = ctl(server->address, "lease", "list", "--write-out=json");
	size_t n = 0;
	for (const char *at = out; (at = strstr(at, "\"id\":")) != NULL; at++)
		n++;
	free(out);
	return n;
}

static void
a_process_has_one_lease(void **state)
{
	struct fixture *f = *state;
	struct sample other;
	struct svc_registry *again = make(server->address);
	sample_beside(f, &other);
	size_t before = leases();
	announce(f, &f->a);
	announce(f, &f->b);
	announce(f, &other);
	/* Also through another registry object, as of another service. */
	OK(svc_registry_announce(again, &f->b.record, TTL_MS, err));
	long long lease = lease_of(f);
	assert_true(lease != 0);
	assert_true(lease_of_key(f->name, "b") == lease);
	assert_true(lease_of_key(other.service, "x") == lease);
	assert_int_equal(leases(), before + 1);
	/* One that goes takes nobody along, the last one takes the lease. */
	OK(svc_registry_withdraw(f->registry, &f->a.record, err));
	assert_true(lease_of_key(f->name, "b") == lease);
	OK(svc_registry_withdraw(f->registry, &f->b.record, err));
	assert_int_equal(leases(), before + 1);
	OK(svc_registry_withdraw(again, &other.record, err));
	assert_int_equal(leases(), before);
	svc_registry_destroy(again);
	sample_fini(&other);
}

static void
it_is_renewed_whatever_the_interval(void **state)
{
	struct fixture *f = *state;
	char id[32];
	/* Announced for a minute, and for three seconds: both leases live on
	 * beyond the three without another announcement of the first. */
	OK(svc_registry_announce(f->registry, &f->a.record, 3000, err));
	long long lease = lease_of(f);
	snprintf(id, sizeof(id), "%llx", lease);
	watch(f);
	/* Renewed at 1 s, the lease has more left at 1.5 s than it had of its
	 * grant: the granted time is 3 s, and 1.5 s are gone. */
	int64_t since_ms = svc_now_ms();
	bool renewed = false;
	while (!renewed && svc_now_ms() - since_ms < 2900) {
		char *out = ctl(server->address, "lease", "timetolive", id);
		const char *left = strstr(out, "remaining(");
		int64_t age_ms = svc_now_ms() - since_ms;
		/* Whole seconds, cut: without a renewal at most 3 s - age. */
		if (left != NULL &&
		    1000 * strtol(left + 10, NULL, 10) > 3000 - age_ms + 200)
			renewed = true;
		free(out);
	}
	assert_true(renewed);
	/* Not announced again, the node goes at its time all the same. */
	expect(f, SVC_REMOVED, &f->a);
	assert_true(svc_now_ms() - since_ms < 10000);
}

static void
one_that_is_not_announced_leaves_alone(void **state)
{
	struct fixture *f = *state;
	watch(f);
	OK(svc_registry_announce(f->registry, &f->a.record, 2000, err));
	OK(svc_registry_announce(f->registry, &f->b.record, 2000, err));
	expect(f, SVC_CREATED, &f->b);
	int64_t since_ms = svc_now_ms();
	while (recorder_count(f->recorder, SVC_REMOVED, f->name, "a") == 0) {
		OK(svc_registry_announce(f->registry, &f->b.record, 2000, err));
		recorder_quiet(f->recorder, 300);
		assert_true(svc_now_ms() - since_ms < WAIT_MS);
	}
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, f->name, "b"), 0);
	assert_true(lease_of_key(f->name, "b") != 0);
}

static void
a_lost_lease_is_made_again(void **state)
{
	struct fixture *f = *state;
	/* Renewed each two seconds; nobody announces again meanwhile. Of the
	 * six a busy machine needs some for etcdctl. */
	OK(svc_registry_announce(f->registry, &f->a.record, 6000, err));
	OK(svc_registry_announce(f->registry, &f->b.record, 6000, err));
	watch(f);
	long long lease = lease_of(f);
	revoke(lease);
	expect(f, SVC_REMOVED, &f->a);
	/* Each within its own time, announced again as a service would. */
	OK(svc_registry_announce(f->registry, &f->b.record, 60000, err));
	expect(f, SVC_CREATED, &f->a);
	assert_true(lease_of(f) != lease);
	expect(f, SVC_REMOVED, &f->a);
}

static void
an_emptied_server_gets_everything_back(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	OK(svc_registry_announce(f->registry, &f->a.record, 6000, err));
	long long lease = lease_of(f);
	for (int i = 0; i < 20; i++) {
		char id[16];
		struct sample sample;
		snprintf(id, sizeof(id), "n%d", i);
		sample_init(&sample, f->name, "1", id, i + 10);
		OK(svc_registry_announce(
		    f->registry, &sample.record, TTL_MS, err));
		sample_fini(&sample);
	}
	test_server_kill(server);
	assert_true(test_server_start_again(server, false));
	/* By the keeper alone for the 20, whose next renewal is due after 20 s,
	 * when the first of them is announced and finds its lease unknown. */
	OK(svc_registry_announce(f->registry, &f->a.record, TTL_MS, err));
	assert_true(wait_for_another_lease(f, lease) != lease);
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	size_t n = 0;
	while (n < 21) {
		assert_true(svc_now_ms() < deadline_at_ms);
		OK(svc_registry_lookup(f->registry, f->name, &list, err));
		n = list.records[0]->n_nodes;
		svc_record_list_fini(&list);
	}
}

static void
a_failed_withdrawal_is_made_up_for(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	announce(f, &f->b);
	watch(f);
	test_server_kill(server);
	assert_int_not_equal(
	    svc_registry_withdraw(f->registry, &f->a.record, NULL), SVC_OK);
	assert_true(test_server_start_again(server, true));
	/* b keeps their lease alive, so a would stay for ever. */
	announce(f, &f->b);
	expect(f, SVC_REMOVED, &f->a);
	assert_true(lease_of_key(f->name, "b") != 0);
}

static void
a_frozen_server_does_not_hold_up_the_end(void **state)
{
	struct fixture *f = *state;
	struct svc_registry *stranger = make_stranger(server->address);
	OK(svc_registry_announce(stranger, &f->a.record, 2000, err));
	test_server_freeze(server);
	/* It is renewed each 2/3 s: by now it waits for an answer, or is about
	 * to. */
	recorder_quiet(f->recorder, 900);
	int64_t since_ms = svc_now_ms();
	svc_registry_destroy(stranger);
	assert_true(svc_now_ms() - since_ms < 3000);
	test_server_thaw(server);
}

struct announcing {
	struct fixture *f;
	struct svc_registry *registry;
	pthread_t thread;
	int64_t ended_at_ms;
	svc_err rc;
	struct svc_error err;
};

static void *
announce_briefly(void *arg)
{
	struct announcing *announcing = arg;
	announcing->rc = svc_registry_announce(announcing->registry,
	    &announcing->f->a.record, 2000, &announcing->err);
	announcing->ended_at_ms = svc_now_ms();
	return NULL;
}

/* It is there for its TTL from then on, and not at its end already. */
static void
an_announcement_may_take_longer_than_the_ttl(void **state)
{
	struct fixture *f = *state;
	struct svc_registry_config config = config_of(server->address);
	config.timeout_ms = WAIT_MS;
	struct announcing announcing = {.f = f, .registry = make_with(&config)};
	watch(f);
	test_server_freeze(server);
	assert_int_equal(svc_thread_start(&announcing.thread, "announces",
			     announce_briefly, &announcing),
	    SVC_OK);
	assert_true(recorder_quiet(f->recorder, 2500));
	test_server_thaw(server);
	svc_thread_join(announcing.thread);
	if (announcing.rc != SVC_OK)
		fail_msg("%s", announcing.err.text);
	expect(f, SVC_CREATED, &f->a);
	expect(f, SVC_REMOVED, &f->a);
	assert_true(svc_now_ms() - announcing.ended_at_ms >= 1500);
	svc_registry_destroy(announcing.registry);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_etcd, end)
	const struct CMUnitTest tests[] = {
	    TEST(a_process_has_one_lease),
	    TEST(it_is_renewed_whatever_the_interval),
	    TEST(one_that_is_not_announced_leaves_alone),
	    TEST(a_lost_lease_is_made_again),
	    TEST(an_emptied_server_gets_everything_back),
	    TEST(a_failed_withdrawal_is_made_up_for),
	    TEST(a_frozen_server_does_not_hold_up_the_end),
	    TEST(an_announcement_may_take_longer_than_the_ttl),
	};
#undef TEST
	if (!test_server_have("etcd") || !test_server_have("etcdctl")) {
		fprintf(stderr, "SKIPPED: etcd and etcdctl are needed\n");
		return 77;
	}
	server = start_etcd(NULL);
	if (server == NULL)
		return 1;
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	test_server_stop(server);
	return failed;
}
