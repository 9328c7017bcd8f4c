/* SPDX-License-Identifier: Apache-2.0 */
/* The promises of <svc/registry.h>: names are kept apart, and lists are whole.
 */
#include <conformance/registry_pair.h>

void
services_with_a_common_beginning_do_not_mix(void **state)
{
	struct pair *f = *state;
	struct sample a, b, c;
	char longer[64], deeper[64];
	snprintf(longer, sizeof(longer), "%s2", f->name);
	snprintf(deeper, sizeof(deeper), "%s.x", f->name);
	/* The same id in all, as wilful a choice as can be. */
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, longer, "1", "a", 2);
	sample_init(&c, deeper, "1", "a", 3);
	pair_watch_synced(f, f->name);
	pair_announce(f, &b, TTL_LONG_MS);
	pair_announce(f, &c, TTL_LONG_MS);
	pair_announce(f, &a, TTL_LONG_MS);
	CREATED(f, &a);
	pair_expect_nodes(f, f->name, 1, NULL);
	pair_expect_nodes(f, longer, 1, NULL);
	pair_expect_nodes(f, deeper, 1, NULL);
	pair_withdraw(f, &b);
	pair_withdraw(f, &c);
	pair_expect_nodes(f, longer, -1, NULL);
	pair_expect_nodes(f, f->name, 1, NULL);
	pair_withdraw(f, &a);
	REMOVED(f, &a);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, NULL, NULL), 1);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 1);
	sample_fini(&a);
	sample_fini(&b);
	sample_fini(&c);
}

void
versions_and_ids_do_not_mix(void **state)
{
	struct pair *f = *state;
	struct svc_record_list list = {0};
	struct sample a, b, c;
	sample_init(&a, f->name, "2", "a", 1);
	sample_init(&b, f->name, "1", "c", 2);
	sample_init(&c, f->name, "1", "b", 3);
	pair_announce(f, &a, TTL_LONG_MS);
	pair_announce(f, &b, TTL_LONG_MS);
	pair_announce(f, &c, TTL_LONG_MS);
	pair_expect_nodes(f, f->name, 3, &list);
	assert_int_equal(list.n_records, 2);
	assert_string_equal(list.records[0]->version, "1");
	assert_int_equal(list.records[0]->n_nodes, 2);
	assert_string_equal(list.records[0]->nodes[0].id, "b");
	assert_string_equal(list.records[0]->nodes[0].address, "127.0.0.1:3");
	assert_string_equal(list.records[0]->nodes[1].id, "c");
	assert_string_equal(list.records[1]->version, "2");
	assert_int_equal(list.records[1]->n_nodes, 1);
	assert_string_equal(list.records[1]->nodes[0].id, "a");
	svc_record_list_fini(&list);
	pair_withdraw(f, &b);
	pair_expect_nodes(f, f->name, 2, NULL);
	pair_withdraw(f, &a);
	pair_withdraw(f, &c);
	sample_fini(&a);
	sample_fini(&b);
	sample_fini(&c);
}

void
a_list_has_everything(void **state)
{
	struct pair *f = *state;
	struct svc_record_list list = {0};
	struct sample a, b, c;
	char other[64];
	size_t found = 0;
	snprintf(other, sizeof(other), "%s-other", f->name);
	sample_init(&a, f->name, "1", "a", 1);
	sample_init(&b, f->name, "1", "b", 2);
	sample_init(&c, other, "1", "a", 3);
	pair_announce(f, &a, TTL_LONG_MS);
	pair_announce(f, &b, TTL_LONG_MS);
	pair_announce(f, &c, TTL_LONG_MS);
	pair_expect_nodes(f, f->name, 2, NULL);
	pair_expect_nodes(f, other, 1, NULL);
	OK(svc_registry_list(f->there, &list, err));
	for (size_t i = 0; i < list.n_records; i++) {
		const struct svc_record *record = list.records[i];
		bool first = strcmp(record->name, f->name) == 0;
		if (!first && strcmp(record->name, other) != 0)
			continue;
		found++;
		if (!pair_setup->list_without_nodes)
			assert_int_equal(record->n_nodes, first ? 2 : 1);
		if (i > 0)
			assert_true(strcmp(list.records[i - 1]->name,
					record->name) <= 0);
	}
	assert_int_equal(found, 2);
	svc_record_list_fini(&list);
	pair_withdraw(f, &a);
	pair_withdraw(f, &b);
	pair_withdraw(f, &c);
	sample_fini(&a);
	sample_fini(&b);
	sample_fini(&c);
}
