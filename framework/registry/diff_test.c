/* SPDX-License-Identifier: Apache-2.0 */
/* The difference engine: what is told, kept for a grace, and shared. */
#include "diff.h"

#include <conformance/registry.h>
#include <support/scarce.h>

#include <svc/clock.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct told {
	char text[256];
};

/* "+a" created, "~a" updated, "-a" removed, "=" synced. */
static void
tell(svc_change change, const struct svc_record *record, void *arg)
{
	struct told *told = arg;
	size_t len = strlen(told->text);
	snprintf(told->text + len, sizeof(told->text) - len, "%c%s",
	    "+~-="[change], record != NULL ? record->nodes[0].id : "");
}

static void
expect(struct told *told, const char *text)
{
	assert_string_equal(told->text, text);
	told->text[0] = '\0';
}

static void
node(struct diff *diff, const char *service, const char *id, int port)
{
	struct sample sample;
	sample_init(&sample, service, "1", id, port);
	assert_int_equal(diff_node(diff, &sample.record), SVC_OK);
	sample_fini(&sample);
}

static void
gone(struct diff *diff, const char *service, const char *id)
{
	struct sample sample;
	sample_init(&sample, service, "", id, 1);
	diff_gone(diff, &sample.record);
	sample_fini(&sample);
}

static void
only_true_changes_are_told(void **state)
{
	(void)state;
	struct told told = {""};
	struct diff diff;
	diff_init(&diff, "s", tell, &told);
	diff_begin(&diff);
	node(&diff, "s", "a", 1);
	node(&diff, "s2", "x", 1);
	diff_sync(&diff, 1000);
	expect(&told, "+a=");
	node(&diff, "s", "a", 1);
	expect(&told, "");
	node(&diff, "s", "a", 2);
	expect(&told, "~a");
	node(&diff, "s", "b", 1);
	gone(&diff, "s", "c");
	gone(&diff, "s2", "a");
	expect(&told, "+b");
	gone(&diff, "s", "a");
	gone(&diff, "s", "a");
	expect(&told, "-a");
	/* Another full state is no news, and no second SYNCED. */
	diff_begin(&diff);
	node(&diff, "s", "b", 1);
	diff_sync(&diff, 1000);
	expect(&told, "");
	assert_true(diff_next_at(&diff) == INT64_MAX);
	diff_fini(&diff);
	expect(&told, "");
}

static void
nodes_outlive_a_registry_that_forgot(void **state)
{
	(void)state;
	struct told told = {""};
	struct diff diff;
	svc_clock_manual();
	diff_init(&diff, NULL, tell, &told);
	diff_begin(&diff);
	node(&diff, "s", "a", 1);
	node(&diff, "s", "b", 1);
	node(&diff, "s", "c", 1);
	node(&diff, "s", "d", 1);
	diff_sync(&diff, 1000);
	expect(&told, "+a+b+c+d=");
	/* It comes back empty. */
	diff_begin(&diff);
	diff_sync(&diff, 1000);
	expect(&told, "");
	svc_clock_advance(500);
	node(&diff, "s", "a", 1);
	node(&diff, "s", "b", 2);
	gone(&diff, "s", "d");
	expect(&told, "~b-d");
	diff_expire(&diff, false);
	expect(&told, "");
	svc_clock_advance(501);
	assert_true(diff_next_at(&diff) <= svc_now_ms());
	diff_expire(&diff, false);
	expect(&told, "-c");
	assert_true(diff_next_at(&diff) == INT64_MAX);

	/* Broken again while something waits: nothing is taken away before
	 * there is a full state, and the time counts from that on. */
	diff_begin(&diff);
	diff_sync(&diff, 1000);
	svc_clock_advance(900);
	diff_begin(&diff);
	svc_clock_advance(5000);
	diff_expire(&diff, false);
	assert_true(diff_next_at(&diff) == INT64_MAX);
	node(&diff, "s", "a", 1);
	diff_sync(&diff, 1000);
	svc_clock_advance(999);
	diff_expire(&diff, false);
	expect(&told, "");
	svc_clock_advance(1);
	diff_expire(&diff, false);
	expect(&told, "-b");

	/* Without a break, what a full state lacks is gone. */
	diff_begin(&diff);
	diff_sync(&diff, 0);
	expect(&told, "-a");
	diff_fini(&diff);
	svc_clock_real();
}

struct held {
	struct svc_record *records[8];
	size_t n;
};

static void
hold(svc_change change, const struct svc_record *record, void *arg)
{
	struct held *held = arg;
	(void)change;
	if (record != NULL)
		held->records[held->n++] = svc_record_hold(record);
}

/* A node with `count` endpoints and metadata, of its service and its own. */
static void
described(struct diff *diff, const char *id, size_t count, const char *name,
    const char *value)
{
	static const struct svc_value request = {.name = "R", .type = "R"};
	struct svc_headers *metadata = svc_headers_create();
	struct svc_endpoint endpoints[2] = {
	    {.name = "S.Get", .request = &request, .metadata = metadata},
	    {.name = "S.Put"}};
	struct svc_node one = {
	    .id = id, .address = "h:1", .metadata = metadata};
	struct svc_record record = {.name = "s",
	    .version = "1",
	    .metadata = metadata,
	    .endpoints = endpoints,
	    .n_endpoints = count,
	    .nodes = &one,
	    .n_nodes = 1};
	assert_int_equal(svc_headers_set(metadata, name, value), SVC_OK);
	assert_int_equal(diff_node(diff, &record), SVC_OK);
	svc_headers_destroy(metadata);
}

static void
nodes_share_what_their_service_has(void **state)
{
	(void)state;
	struct held held = {.n = 0};
	struct svc_record **records = held.records;
	struct diff diff;
	diff_init(&diff, NULL, hold, &held);
	diff_begin(&diff);
	described(&diff, "a", 2, "zone", "east");
	described(&diff, "b", 2, "Zone", "east");
	described(&diff, "c", 1, "zone", "east");
	described(&diff, "d", 2, "zone", "west");
	/* The same values under another name have the same hash. */
	described(&diff, "e", 2, "area", "east");
	described(&diff, "f", 2, "area", "east");
	diff_sync(&diff, 0);
	assert_int_equal(held.n, 6);
	assert_ptr_equal(records[0]->endpoints, records[1]->endpoints);
	for (size_t i = 1; i < 6; i++)
		for (size_t k = i + 1; k < 6; k++)
			assert_ptr_not_equal(
			    records[i]->endpoints, records[k]->endpoints);
	assert_string_equal(records[1]->nodes[0].id, "b");
	assert_string_equal(
	    svc_headers_get(records[4]->metadata, "area"), "east");
	assert_null(svc_headers_get(records[4]->metadata, "zone"));
	/* It leaves those with which it shared. */
	described(&diff, "b", 1, "zone", "east");
	assert_int_equal(held.n, 7);
	assert_ptr_equal(records[6]->endpoints, records[2]->endpoints);
	/* What is held outlives the watch, and those that shared it. */
	diff_fini(&diff);
	for (size_t i = 0; i < held.n; i++) {
		struct svc_record *copy = svc_record_copy(records[i]);
		assert_true(svc_record_equal(copy, records[i]));
		svc_record_destroy(copy);
		assert_string_equal(
		    records[i]->endpoints[0].request->type, "R");
		svc_record_destroy(records[i]);
	}
}

/* ------------------------------------------------------ allocation sweep */

/* A change is told exactly when it is remembered. */
static void
one_run(const struct svc_record *first, const struct svc_record *second)
{
	struct told told = {""};
	struct diff diff;
	diff_init(&diff, NULL, tell, &told);
	diff_begin(&diff);
	bool created = diff_node(&diff, first) == SVC_OK;
	assert_int_equal(created, told.text[0] == '+');
	told.text[0] = '\0';
	bool there = diff_node(&diff, second) == SVC_OK;
	assert_int_equal(there, told.text[0] == (created ? '~' : '+'));
	told.text[0] = '\0';
	diff_gone(&diff, second);
	assert_int_equal(created || there, told.text[0] == '-');
	diff_fini(&diff);
}

static void
no_memory_is_no_harm(void **state)
{
	(void)state;
	struct sample a, b;
	sample_init(&a, "s", "1", "a", 1);
	sample_init(&b, "s", "1", "a", 2);
	bool hit = true;
	long n = 0;
	scarce_begin();
	for (; hit; n++) {
		scarce_at(n);
		one_run(&a.record, &b.record);
		hit = scarce_hit();
	}
	scarce_end();
	assert_true(n > 5);
	sample_fini(&a);
	sample_fini(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(only_true_changes_are_told),
	    cmocka_unit_test(nodes_outlive_a_registry_that_forgot),
	    cmocka_unit_test(nodes_share_what_their_service_has),
	    cmocka_unit_test(no_memory_is_no_harm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
