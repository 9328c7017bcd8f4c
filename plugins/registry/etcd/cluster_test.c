/* SPDX-License-Identifier: Apache-2.0 */
/* Three servers of one etcd: who loses one loses nothing. */
#include "fixture.h"

static struct test_server *members[3];
static char addresses[128];

static void
revive(void)
{
	for (size_t i = 0; i < 3; i++) {
		test_server_thaw(members[i]);
		if (members[i]->pid == 0)
			assert_true(test_server_start_again(members[i], true));
	}
}

static int
begin_here(void **state)
{
	revive();
	begin_etcd(state);
	struct fixture *f = *state;
	svc_registry_destroy(f->registry);
	/* Time to choose a leader on a busy machine. */
	struct svc_registry_config config = {
	    .address = addresses, .timeout_ms = 12000, .grace_ms = 3000};
	OK(svc_registry_create("etcd", &config, &f->registry, err));
	return 0;
}

static bool
leads(const struct test_server *member)
{
	char *out =
	    ctl(member->address, "endpoint", "status", "--write-out=json");
	/* Numbers of 64 bits without a sign: compared as texts. */
	const char *id = strstr(out, "\"member_id\":");
	const char *of = strstr(out, "\"leader\":");
	bool is_leader = false;
	if (id != NULL && of != NULL) {
		id += strlen("\"member_id\":");
		of += strlen("\"leader\":");
		size_t len = strspn(id, "0123456789");
		is_leader = len == strspn(of, "0123456789") &&
			    strncmp(id, of, len) == 0;
	}
	free(out);
	return is_leader;
}

/* The place of the leader among the members, once they have one. */
static size_t
leader(void)
{
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	for (size_t i = 0;; i = (i + 1) % 3) {
		if (leads(members[i]))
			return i;
		assert_true(svc_now_ms() < deadline_at_ms);
	}
}

/* A change that all must see, announced once: no retry hides a failure. */
static void
change(struct fixture *f, int weight)
{
	char text[16];
	snprintf(text, sizeof(text), "%d", weight);
	svc_headers_set(f->b.node.metadata, "weight", text);
	announce(f, &f->b);
}

static void
the_leader_may_be_killed(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	announce(f, &f->b);
	watch(f);
	/* Three times, so that each place in the list is once the dead one. */
	for (int round = 0; round < 3; round++) {
		test_server_kill(members[leader()]);
		/* At once: the servers that are left have no leader yet. */
		change(f, round + 1);
		expect(f, SVC_UPDATED, &f->b);
		assert_int_equal(lookup(f->registry, f->name), SVC_OK);
		revive();
	}
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
}

static void
a_frozen_member_is_passed_over(void **state)
{
	struct fixture *f = *state;
	announce(f, &f->a);
	announce(f, &f->b);
	watch(f);
	for (size_t i = 0; i < 3; i++) {
		test_server_freeze(members[i]);
		change(f, 10 + (int)i);
		expect(f, SVC_UPDATED, &f->b);
		/* The one that answered is asked first from now on. */
		int64_t since_ms = svc_now_ms();
		for (int k = 0; k < 5; k++)
			announce(f, &f->a);
		assert_true(svc_now_ms() - since_ms < 4000);
		test_server_thaw(members[i]);
	}
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
}

/* Questions for the full states of new watches fill all connections: that must
 * not hide that the member does not answer. */
static void
new_watches_pass_over_a_frozen_member(void **state)
{
	enum { NEW = 12 };
	struct fixture *f = *state;
	struct svc_watch *watches[NEW];
	char names[NEW][64];
	watch(f);
	for (size_t i = 0; i < 3; i++) {
		test_server_freeze(members[i]);
		int64_t since_ms = svc_now_ms();
		for (size_t k = 0; k < NEW; k++) {
			snprintf(names[k], sizeof(names[k]), "%s-%zu-%zu",
			    f->name, i, k);
			OK(svc_registry_watch(f->registry, names[k],
			    recorder_change, f->recorder, &watches[k], err));
		}
		for (size_t k = 0; k < NEW; k++)
			assert_true(recorder_wait(f->recorder, SVC_SYNCED, NULL,
			    NULL, WAIT_MS, NULL));
		/* 2 s for a question and 2 s for whether it is alive. */
		assert_true(svc_now_ms() - since_ms < 12000);
		for (size_t k = 0; k < NEW; k++)
			svc_registry_unwatch(watches[k]);
		test_server_thaw(members[i]);
	}
}

static void
without_a_majority_what_is_known_can_be_looked_up(void **state)
{
	struct fixture *f = *state;
	struct svc_error why = {0};
	announce(f, &f->a);
	watch(f);
	size_t first = leader();
	/* The one that is left may be a moment behind the others. */
	struct svc_registry *last = make(members[(first + 2) % 3]->address);
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	while (lookup(last, f->name) != SVC_OK)
		assert_true(svc_now_ms() < deadline_at_ms);
	svc_registry_destroy(last);
	test_server_kill(members[first]);
	test_server_kill(members[(first + 1) % 3]);
	assert_int_equal(lookup(f->registry, f->name), SVC_OK);
	svc_err rc =
	    svc_registry_announce(f->registry, &f->b.record, TTL_MS, &why);
	assert_true(rc == SVC_E_TIMEDOUT || rc == SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "etcd at http://127.0.0.1:"));
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
	revive();
	/* Back by itself, for it was announced. */
	announce(f, &f->b);
	expect(f, SVC_CREATED, &f->b);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_here, end)
	const struct CMUnitTest tests[] = {
	    TEST(the_leader_may_be_killed),
	    TEST(a_frozen_member_is_passed_over),
	    TEST(new_watches_pass_over_a_frozen_member),
	    TEST(without_a_majority_what_is_known_can_be_looked_up),
	};
#undef TEST
	if (!test_server_have("etcd") || !test_server_have("etcdctl")) {
		fprintf(stderr, "SKIPPED: etcd and etcdctl are needed\n");
		return 77;
	}
	if (!start_etcd_cluster(NULL, members))
		return 1;
	server = members[0];
	snprintf(addresses, sizeof(addresses), "%s,%s,%s", members[0]->address,
	    members[1]->address, members[2]->address);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	for (size_t i = 0; i < 3; i++)
		test_server_stop(members[i]);
	return failed;
}
