/* SPDX-License-Identifier: Apache-2.0 */
/* A registry that is away: what was known last, and who else is asked. */
#include "snapshot.h"

#include <conformance/registry.h>
#include <support/ok.h>
#include <support/scarce.h>

#include <svc/buf.h>
#include <svc/clock.h>
#include <svc/log.h>

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* The grace is far above what a step takes, so that what is said to be kept is
 * kept for it and not by chance. */
enum { TTL_MS = 600000, WAIT_MS = 30000, GRACE_MS = 1500 };

/* ------------------------------------------------------------------- log */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[65536];

static void
log_line(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	pthread_mutex_lock(&log_lock);
	size_t len = strlen(log_text);
	snprintf(log_text + len, sizeof(log_text) - len, "%s: %s\n", line->id,
	    line->text);
	pthread_mutex_unlock(&log_lock);
}

static size_t
logged(const char *part)
{
	size_t n = 0;
	pthread_mutex_lock(&log_lock);
	for (const char *p = log_text; (p = strstr(p, part)) != NULL; p++)
		n++;
	pthread_mutex_unlock(&log_lock);
	return n;
}

/* ------------------------------------------------ a registry that goes away */

/* The nodes are those of the memory registry at its address. While it is away
 * every op fails; a watch made meanwhile begins when it is back. */
static struct {
	pthread_mutex_t lock;
	bool away;
	struct distant_watch *waiting;
} distant = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct distant_watch {
	struct distant_watch *next;
	void *self;
	char *service;
	svc_watch_sink sink;
	void *arg;
	void *real; /* the memory registry's watch, once there is one */
};

static svc_err
refused(struct svc_error *err)
{
	pthread_mutex_lock(&distant.lock);
	bool away = distant.away;
	pthread_mutex_unlock(&distant.lock);
	return away ? svc_error_set(err, SVC_E_UNAVAILABLE, "it is away")
		    : SVC_OK;
}

static svc_err
distant_announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	svc_err rc = refused(err);
	return rc != SVC_OK
		   ? rc
		   : svc_registry_memory.announce(self, record, ttl_ms, err);
}

static svc_err
distant_lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	svc_err rc = refused(err);
	return rc != SVC_OK
		   ? rc
		   : svc_registry_memory.lookup(self, service, sink, arg, err);
}

static svc_err
distant_list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	svc_err rc = refused(err);
	return rc != SVC_OK ? rc
			    : svc_registry_memory.list(self, sink, arg, err);
}

/* With the lock. */
static void
begin_watch(struct distant_watch *watch)
{
	OK(svc_registry_memory.watch(watch->self, watch->service, watch->sink,
	    watch->arg, &watch->real, err));
}

static svc_err
distant_watch(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	(void)err;
	scarce_exempt(true);
	struct distant_watch *watch = svc_mem_calloc(1, sizeof(*watch));
	assert_non_null(watch);
	watch->self = self;
	watch->service = svc_mem_strdup(service);
	scarce_exempt(false);
	watch->sink = sink;
	watch->arg = arg;
	*ret_watch = watch;
	pthread_mutex_lock(&distant.lock);
	if (distant.away) {
		watch->next = distant.waiting;
		distant.waiting = watch;
	} else {
		begin_watch(watch);
	}
	pthread_mutex_unlock(&distant.lock);
	return SVC_OK;
}

static void
distant_unwatch(void *self, void *which)
{
	struct distant_watch *watch = which, **at;
	pthread_mutex_lock(&distant.lock);
	for (at = &distant.waiting; *at != NULL; at = &(*at)->next)
		if (*at == watch) {
			*at = watch->next;
			break;
		}
	pthread_mutex_unlock(&distant.lock);
	if (watch->real != NULL)
		svc_registry_memory.unwatch(self, watch->real);
	svc_mem_free(watch->service);
	svc_mem_free(watch);
}

static void
set_away(bool away)
{
	pthread_mutex_lock(&distant.lock);
	distant.away = away;
	while (!away && distant.waiting != NULL) {
		struct distant_watch *watch = distant.waiting;
		distant.waiting = watch->next;
		begin_watch(watch);
	}
	pthread_mutex_unlock(&distant.lock);
}

/* --------------------------------------------------------------- fixture */

static struct svc_registry_ops distant_ops;
static const bool polled = true, watched = false;

struct fixture {
	bool polled;
	char dir[64], path[96], address[48], spare_address[48];
	struct svc_registry *truth; /* the nodes, never away */
	struct svc_registry *spare;
	struct svc_registry *client;
	struct recorder *recorder;
	struct svc_watch *watch;
	struct sample a, b;
};

static struct svc_registry *
make_memory(const char *address)
{
	struct svc_registry *registry = NULL;
	struct svc_registry_config config = {.address = address};
	OK(svc_registry_create_ops(
	    &svc_registry_memory, &config, &registry, err));
	return registry;
}

static int
begin(void **state)
{
	struct fixture *f = svc_mem_calloc(1, sizeof(*f));
	char uuid[37];
	assert_non_null(f);
	f->polled = *state == &polled;
	svc_uuid(uuid);
	snprintf(f->dir, sizeof(f->dir), "/tmp/svc-away-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/known", f->dir);
	snprintf(f->address, sizeof(f->address), "away-%s", uuid);
	snprintf(f->spare_address, sizeof(f->spare_address), "spare-%s", uuid);
	f->truth = make_memory(f->address);
	f->spare = make_memory(f->spare_address);
	f->recorder = recorder_create();
	sample_init(&f->a, "s", "1", "a", 1);
	sample_init(&f->b, "s", "1", "b", 2);
	pthread_mutex_lock(&log_lock);
	log_text[0] = '\0';
	pthread_mutex_unlock(&log_lock);
	*state = f;
	return 0;
}

static void
end_client(struct fixture *f)
{
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	svc_registry_destroy(f->client);
	f->client = NULL;
}

static int
end(void **state)
{
	struct fixture *f = *state;
	end_client(f);
	set_away(false);
	svc_registry_destroy(f->truth);
	svc_registry_destroy(f->spare);
	recorder_destroy(f->recorder);
	sample_fini(&f->a);
	sample_fini(&f->b);
	unlink(f->path);
	assert_int_equal(rmdir(f->dir), 0); /* nothing else was left there */
	svc_mem_free(f);
	return 0;
}

enum { WITH_SNAPSHOT = 1, WITH_SPARE = 2 };

static svc_err
try_client(struct fixture *f, int with, struct svc_error *err)
{
	char spare[64];
	snprintf(spare, sizeof(spare), "memory:%s", f->spare_address);
	struct svc_registry_config config = {
	    .address = f->address,
	    .grace_ms = GRACE_MS,
	    .snapshot = with & WITH_SNAPSHOT ? f->path : NULL,
	    .fallback = with & WITH_SPARE ? spare : NULL,
	};
	struct svc_registry_ops *ops = &distant_ops;
	*ops = svc_registry_memory;
	ops->name = "distant";
	ops->announce = distant_announce;
	ops->lookup = distant_lookup;
	ops->list = distant_list;
	ops->watch = f->polled ? NULL : distant_watch;
	ops->unwatch = f->polled ? NULL : distant_unwatch;
	return svc_registry_create_ops(ops, &config, &f->client, err);
}

static void
make_client(struct fixture *f, int with)
{
	OK(try_client(f, with, err));
}

static void
make_watch(struct fixture *f, const char *service)
{
	OK(svc_registry_watch(
	    f->client, service, recorder_change, f->recorder, &f->watch, err));
}

static void
announce(struct svc_registry *registry, const struct sample *sample)
{
	OK(svc_registry_announce(registry, &sample->record, TTL_MS, err));
}

static void
withdraw(struct svc_registry *registry, const struct sample *sample)
{
	OK(svc_registry_withdraw(registry, &sample->record, err));
}

static void
expect(struct fixture *f, svc_change change, const char *id)
{
	if (!recorder_wait(f->recorder, change, NULL, id, WAIT_MS, NULL))
		fail_msg("change %d of node %s did not come", (int)change,
		    id != NULL ? id : "(any)");
}

static size_t
changes(struct fixture *f, svc_change change, const char *id)
{
	return recorder_count(f->recorder, change, NULL, id);
}

static svc_err
lookup(struct fixture *f, const char *service, size_t *ret_nodes)
{
	struct svc_record_list list = {0};
	svc_err rc = svc_registry_lookup(f->client, service, &list, NULL);
	*ret_nodes = 0;
	for (size_t i = 0; i < list.n_records; i++)
		*ret_nodes += list.records[i]->n_nodes;
	svc_record_list_fini(&list);
	return rc;
}

static void
expect_nodes(struct fixture *f, const char *service, size_t nodes)
{
	size_t got;
	assert_int_equal(
	    lookup(f, service, &got), nodes > 0 ? SVC_OK : SVC_E_NOT_FOUND);
	assert_int_equal(got, nodes);
}

/* Lets a client see a, so that the snapshot has it. */
static void
remember_a(struct fixture *f)
{
	announce(f->truth, &f->a);
	make_client(f, WITH_SNAPSHOT);
	expect_nodes(f, "s", 1);
	end_client(f);
}

/* ------------------------------------------------------------- snapshots */

static void
a_start_during_an_outage_has_what_was_known(void **state)
{
	struct fixture *f = *state;
	remember_a(f);
	set_away(true);
	make_client(f, WITH_SNAPSHOT);
	make_watch(f, "s");
	expect(f, SVC_CREATED, "a");
	expect(f, SVC_SYNCED, NULL);
	expect_nodes(f, "s", 1);
	assert_true(logged("registry.away: registry distant does not answer, "
			   "going on with what was known last (saved ") > 0);
	/* Back again, with one more. */
	announce(f->truth, &f->b);
	set_away(false);
	expect(f, SVC_CREATED, "b");
	assert_true(
	    recorder_quiet(f->recorder, GRACE_MS + 100)); /* a is repeated */
	assert_int_equal(recorder_nodes(f->recorder, "s"), 2);
	assert_int_equal(changes(f, SVC_SYNCED, NULL), 1);
	assert_int_equal(logged("registry.away"), 1);
	assert_int_equal(logged("registry.answers"), 1);
}

static void
the_truth_replaces_it_with_grace(void **state)
{
	struct fixture *f = *state;
	remember_a(f);
	withdraw(f->truth, &f->a);
	announce(f->truth, &f->b);
	set_away(true);
	make_client(f, WITH_SNAPSHOT);
	make_watch(f, NULL);
	expect(f, SVC_CREATED, "a");
	expect(f, SVC_SYNCED, NULL);
	int64_t back_at_ms = svc_now_ms();
	set_away(false);
	expect(f, SVC_CREATED, "b");
	/* After it, and not before. */
	expect(f, SVC_REMOVED, "a");
	assert_true(svc_now_ms() - back_at_ms >= GRACE_MS);
	/* And so it is in the file. */
	end_client(f);
	set_away(true);
	make_client(f, WITH_SNAPSHOT);
	expect_nodes(f, "s", 1);
}

/* A registry that has lost its data and dies again. */
static void
an_empty_truth_is_not_believed_at_once(void **state)
{
	struct fixture *f = *state;
	size_t nodes;
	remember_a(f);
	withdraw(f->truth, &f->a);
	make_client(f, WITH_SNAPSHOT);
	make_watch(f, "s");
	expect(f, SVC_SYNCED, NULL);
	assert_int_equal(lookup(f, "s", &nodes), SVC_E_NOT_FOUND);
	end_client(f);
	set_away(true);
	make_client(f, WITH_SNAPSHOT);
	expect_nodes(f, "s", 1);
}

static void
changes_are_in_the_file_a_second_later(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	struct stat st, again;
	make_client(f, WITH_SNAPSHOT);
	make_watch(f, "s");
	expect(f, SVC_SYNCED, NULL);
	announce(f->truth, &f->a);
	expect(f, SVC_CREATED, "a");
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	while (stat(f->path, &st) != 0 && svc_now_ms() < deadline_at_ms)
		recorder_quiet(f->recorder, 10);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* What changes nothing writes nothing. */
	for (int i = 0; i < 3; i++) {
		announce(f->truth, &f->a);
		OK(svc_registry_list(f->client, &list, err));
		svc_record_list_fini(&list);
	}
	recorder_quiet(f->recorder, SNAPSHOT_WRITE_MS + 200);
	assert_int_equal(stat(f->path, &again), 0);
	assert_int_equal(st.st_ino, again.st_ino);
	assert_int_equal(st.st_mtim.tv_nsec, again.st_mtim.tv_nsec);
	/* A withdrawn node is none to go on with. */
	announce(f->truth, &f->b);
	expect(f, SVC_CREATED, "b");
	withdraw(f->truth, &f->a);
	expect(f, SVC_REMOVED, "a");
	end_client(f);
	set_away(true);
	make_client(f, WITH_SNAPSHOT);
	OK(svc_registry_lookup(f->client, "s", &list, err));
	assert_int_equal(list.n_records, 1);
	assert_int_equal(list.records[0]->n_nodes, 1);
	assert_true(svc_record_equal(list.records[0], &f->b.record));
	svc_record_list_fini(&list);
}

static void
lookups_alone_keep_it_as_well(void **state)
{
	struct fixture *f = *state;
	announce(f->truth, &f->a);
	announce(f->truth, &f->b);
	make_client(f, WITH_SNAPSHOT);
	expect_nodes(f, "s", 2);
	withdraw(f->truth, &f->a);
	expect_nodes(f, "s", 1);
	end_client(f);
	set_away(true);
	make_client(f, WITH_SNAPSHOT);
	expect_nodes(f, "s", 1);
}

static void
put_file(struct fixture *f, const char *text)
{
	FILE *file = fopen(f->path, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static void
a_file_that_cannot_be_used_is_told_and_replaced(void **state)
{
	struct fixture *f = *state;
	size_t nodes;
	static const struct {
		const char *text, *says;
	} cases[] = {
	    {"", "there is nothing in it"},
	    {"{\"svc_snapshot\":2,\"registry\":\"distant at %s\"}\n",
		"it is of version 2, this release reads version 1"},
	    {"{\"svc_snapshot\":1,\"registry\":\"other\"}\n",
		"it is of the registry \"other\", not of \"distant at "},
	    {"{\"svc_snapshot\":1,\"registry\":\"distant at %s\"}\nrubbish\n",
		"1 lines of the snapshot "},
	};
	announce(f->truth, &f->a);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct svc_buf text;
		const char *at = strstr(cases[i].text, "%s");
		svc_buf_init(&text, 4096);
		svc_buf_append(&text, cases[i].text,
		    at != NULL ? (size_t)(at - cases[i].text)
			       : strlen(cases[i].text));
		svc_buf_puts(&text, at != NULL ? f->address : "");
		svc_buf_puts(&text, at != NULL ? at + 2 : "");
		put_file(f, (char *)text.data);
		svc_buf_fini(&text);
		set_away(true);
		make_client(f, WITH_SNAPSHOT);
		assert_int_equal(lookup(f, "s", &nodes), SVC_E_UNAVAILABLE);
		if (logged(cases[i].says) != 1)
			fail_msg("%s: %s", cases[i].says, log_text);
		assert_int_equal(logged("does not answer, and nothing is known "
					"of it: it is away"),
		    i + 1);
		set_away(false);
		expect_nodes(f, "s", 1);
		end_client(f);
		set_away(true);
		make_client(f, WITH_SNAPSHOT);
		expect_nodes(f, "s", 1);
		end_client(f);
	}
}

static void
expect_file(const struct fixture *f, const char *text)
{
	char has[64] = "";
	FILE *file = fopen(f->path, "r");
	assert_non_null(file);
	size_t n = fread(has, 1, sizeof(has) - 1, file);
	fclose(file);
	has[n] = '\0';
	assert_string_equal(has, text);
}

/* The path of something else, given by mistake. */
static void
a_file_that_is_no_snapshot_is_left_alone(void **state)
{
	struct fixture *f = *state;
	static const char nodes[] = "s: [10.0.0.1:8080]\n";
	put_file(f, nodes);
	announce(f->truth, &f->a);
	make_client(f, WITH_SNAPSHOT);
	assert_int_equal(logged("is not used, and none is kept: name another "
				"file, or remove this one: its first line is "
				"not that of a snapshot"),
	    1);
	expect_nodes(f, "s", 1);
	end_client(f);
	expect_file(f, nodes);
	/* Nor is what is no file. */
	assert_int_equal(unlink(f->path), 0);
	assert_int_equal(mkdir(f->path, 0700), 0);
	make_client(f, WITH_SNAPSHOT);
	expect_nodes(f, "s", 1);
	end_client(f);
	assert_int_equal(rmdir(f->path), 0);
}

static void
what_cannot_be_kept_is_an_error(void **state)
{
	struct fixture *f = *state;
	struct svc_registry *none = NULL;
	struct svc_error err = {0};
	struct svc_registry_config config = {.snapshot = "/nowhere/known"};
	assert_int_equal(
	    svc_registry_create_ops(&svc_registry_memory, &config, &none, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text, "/nowhere/known cannot be kept"));
	config = (struct svc_registry_config){.fallback = ":nodes"};
	assert_int_equal(
	    svc_registry_create_ops(&svc_registry_memory, &config, &none, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text, "use PLUGIN or PLUGIN:ADDRESS"));
	config.fallback = "nosuch:nodes";
	assert_int_not_equal(
	    svc_registry_create_ops(&svc_registry_memory, &config, &none, &err),
	    SVC_OK);
	assert_non_null(strstr(err.text, "the fallback of the registry: "));
	assert_non_null(strstr(err.text, "nosuch"));
	assert_null(none);
	(void)f;
}

/* -------------------------------------------------------------- fallbacks */

static void
another_registry_is_asked(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	size_t nodes;
	announce(f->spare, &f->a);
	set_away(true);
	make_client(f, WITH_SPARE);
	expect_nodes(f, "s", 1);
	OK(svc_registry_list(f->client, &list, err));
	assert_int_equal(list.n_records, 1);
	svc_record_list_fini(&list);
	make_watch(f, "s");
	expect(f, SVC_CREATED, "a");
	expect(f, SVC_SYNCED, NULL);
	/* It is followed ... */
	announce(f->spare, &f->b);
	expect(f, SVC_CREATED, "b");
	svc_headers_set(f->b.node.metadata, "weight", "2");
	announce(f->spare, &f->b);
	expect(f, SVC_UPDATED, "b");
	withdraw(f->spare, &f->b);
	expect(f, SVC_REMOVED, "b");
	/* ... until the first one is there, and is not told anything. */
	assert_int_equal(
	    svc_registry_announce(f->client, &f->b.record, TTL_MS, NULL),
	    SVC_E_UNAVAILABLE);
	announce(f->truth, &f->b);
	set_away(false);
	expect(f, SVC_CREATED, "b");
	/* Its first node is told before all it has. */
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	while (logged("registry.answers") == 0 && svc_now_ms() < deadline_at_ms)
		sched_yield();
	withdraw(f->spare, &f->a);
	expect(f, SVC_REMOVED, "a");
	announce(f->spare, &f->a);
	assert_true(recorder_quiet(f->recorder, 100));
	assert_int_equal(lookup(f, "s", &nodes), SVC_OK);
	assert_int_equal(nodes, 1);
	assert_int_equal(changes(f, SVC_SYNCED, NULL), 1);
}

static void
what_is_known_counts_more_than_the_fallback(void **state)
{
	struct fixture *f = *state;
	struct sample other;
	sample_init(&other, "t", "1", "c", 3);
	remember_a(f);
	announce(f->spare, &f->b);
	announce(f->spare, &other);
	set_away(true);
	make_client(f, WITH_SNAPSHOT | WITH_SPARE);
	make_watch(f, NULL);
	expect(f, SVC_CREATED, "a");
	expect(f, SVC_CREATED, "c");
	/* It may come before c, which is believed either way. */
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	while (
	    changes(f, SVC_SYNCED, NULL) == 0 && svc_now_ms() < deadline_at_ms)
		recorder_quiet(f->recorder, 10);
	assert_true(recorder_quiet(f->recorder, 100));
	assert_int_equal(changes(f, SVC_CREATED, "b"), 0);
	assert_int_equal(changes(f, SVC_SYNCED, NULL), 1);
	expect_nodes(f, "s", 1);
	expect_nodes(f, "t", 1);
	/* What the fallback had is not what the registry said. */
	end_client(f);
	make_client(f, WITH_SNAPSHOT);
	size_t nodes;
	assert_int_equal(lookup(f, "t", &nodes), SVC_E_UNAVAILABLE);
	sample_fini(&other);
}

static void
what_nobody_knows_stays_unknown(void **state)
{
	struct fixture *f = *state;
	size_t nodes;
	set_away(true);
	make_client(f, WITH_SNAPSHOT | WITH_SPARE);
	assert_int_equal(lookup(f, "s", &nodes), SVC_E_UNAVAILABLE);
	make_watch(f, "s");
	assert_true(recorder_quiet(f->recorder, 300));
	/* Somebody who learns of it later is believed. */
	announce(f->spare, &f->a);
	expect(f, SVC_CREATED, "a");
	expect(f, SVC_SYNCED, NULL);
}

/* Watches that end before, while and after others are asked. */
static void
watches_end_at_any_time(void **state)
{
	struct fixture *f = *state;
	remember_a(f);
	announce(f->spare, &f->b);
	set_away(true);
	make_client(f, WITH_SNAPSHOT | WITH_SPARE);
	for (int i = 0; i < 40; i++) {
		make_watch(f, i % 2 == 0 ? NULL : "s");
		if (i % 4 == 0)
			expect(f, SVC_SYNCED, NULL);
		if (i % 4 == 1)
			set_away(false);
		if (i % 4 == 2)
			set_away(true);
		svc_registry_unwatch(f->watch);
		f->watch = NULL;
	}
}

/* A client that starts during the outage. */
static void
one_start(struct fixture *f, long n)
{
	size_t nodes;
	svc_err rc = try_client(f, WITH_SNAPSHOT | WITH_SPARE, NULL);
	if (rc == SVC_OK) {
		/* From now on it is known to be away. */
		rc = lookup(f, "s", &nodes);
		if (rc != SVC_E_NOMEM)
			assert_int_equal(nodes, 1);
		rc = svc_registry_watch(f->client, NULL, recorder_change,
		    f->recorder, &f->watch, NULL);
	}
	if (rc != SVC_OK && rc != SVC_E_NOMEM)
		fail_msg("allocation %ld: %s", n, svc_err_name(rc));
	if (rc == SVC_OK) {
		expect(f, SVC_CREATED, "a");
		expect(f, SVC_SYNCED, NULL);
	}
}

/* Whatever the client lacks memory for: what is known of before the outage is
 * told. */
static void
want_of_memory_loses_no_node(void **state)
{
	struct fixture *f = *state;
	long n = 0;
	announce(f->truth, &f->a);
	announce(f->spare, &f->b);
	remember_a(f);
	set_away(true);
	for (bool hit = true; hit; n++) {
		scarce_at(n);
		one_start(f, n);
		hit = scarce_hit();
		scarce_at(-1);
		end_client(f);
		recorder_destroy(f->recorder);
		f->recorder = recorder_create();
	}
	print_message("%ld allocations\n", n - 1);
	assert_true(n > 10);
	withdraw(f->spare, &f->b);
}

int
main(void)
{
#define TEST(name)                                              \
	{#name, name, begin, end, (void *)(uintptr_t)&watched}, \
	{                                                       \
#name " (polled)", name, begin, end,            \
		    (void *)(uintptr_t)&polled                  \
	}
	const struct CMUnitTest tests[] = {
	    TEST(a_start_during_an_outage_has_what_was_known),
	    TEST(the_truth_replaces_it_with_grace),
	    TEST(an_empty_truth_is_not_believed_at_once),
	    TEST(changes_are_in_the_file_a_second_later),
	    TEST(lookups_alone_keep_it_as_well),
	    TEST(a_file_that_cannot_be_used_is_told_and_replaced),
	    TEST(a_file_that_is_no_snapshot_is_left_alone),
	    TEST(what_cannot_be_kept_is_an_error),
	    TEST(another_registry_is_asked),
	    TEST(what_is_known_counts_more_than_the_fallback),
	    TEST(what_nobody_knows_stays_unknown),
	    TEST(watches_end_at_any_time),
	    TEST(want_of_memory_loses_no_node),
	};
#undef TEST
	svc_log_set_sink(log_line, NULL);
	scarce_begin();
	return cmocka_run_group_tests_name("fallback", tests, NULL, NULL);
}
