/* SPDX-License-Identifier: Apache-2.0 */
/* A file that is edited, replaced, broken and removed while it is watched. */
#include <conformance/registry.h>
#include <support/ok.h>
#include <support/scarce.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { WAIT_MS = 30000, QUIET_MS = 100 };

/* ------------------------------------------------------------------- log */

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t log_cond;
static char log_text[65536];

static void
log_line(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	pthread_mutex_lock(&log_lock);
	size_t len = strlen(log_text);
	snprintf(log_text + len, sizeof(log_text) - len, "%s: %s\n", line->id,
	    line->text);
	pthread_cond_broadcast(&log_cond);
	pthread_mutex_unlock(&log_lock);
}

static void
expect_log(const char *part)
{
	int64_t deadline_at_ms = svc_deadline(WAIT_MS);
	pthread_mutex_lock(&log_lock);
	while (strstr(log_text, part) == NULL && svc_now_ms() < deadline_at_ms)
		svc_cond_wait(&log_cond, &log_lock, deadline_at_ms);
	bool there = strstr(log_text, part) != NULL;
	pthread_mutex_unlock(&log_lock);
	if (!there)
		fail_msg("\"%s\" was not logged, but:\n%s", part, log_text);
}

/* --------------------------------------------------------------- fixture */

struct fixture {
	char dir[64], path[96], next[96];
	struct svc_registry *registry;
	struct recorder *recorder;
	struct svc_watch *watch;
};

static void
write_to(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

/* As editors and deployments do it. */
static void
replace(struct fixture *f, const char *text)
{
	write_to(f->next, text);
	assert_int_equal(rename(f->next, f->path), 0);
}

static svc_err
make(struct fixture *f, struct svc_error *err)
{
	struct svc_registry_config config = {.address = f->path};
	return svc_registry_create("static", &config, &f->registry, err);
}

static int
begin(void **state)
{
	struct fixture *f = svc_mem_calloc(1, sizeof(*f));
	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "/tmp/svc-static-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/nodes.yaml", f->dir);
	snprintf(f->next, sizeof(f->next), "%s/next", f->dir);
	f->recorder = recorder_create();
	pthread_mutex_lock(&log_lock);
	log_text[0] = '\0';
	pthread_mutex_unlock(&log_lock);
	write_to(f->path, "s: [a:1, b:1]\nt: c:1\n");
	*state = f;
	return 0;
}

static int
end(void **state)
{
	struct fixture *f = *state;
	svc_registry_unwatch(f->watch);
	svc_registry_destroy(f->registry);
	recorder_destroy(f->recorder);
	unlink(f->path);
	unlink(f->next);
	rmdir(f->dir);
	svc_mem_free(f);
	return 0;
}

static void
watch(struct fixture *f, const char *service)
{
	OK(make(f, err));
	OK(svc_registry_watch(f->registry, service, recorder_change,
	    f->recorder, &f->watch, err));
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
}

static void
expect(
    struct fixture *f, svc_change change, const char *service, const char *id)
{
	if (!recorder_wait(f->recorder, change, service, id, WAIT_MS, NULL))
		fail_msg("change %d of node %s did not come", (int)change, id);
}

static size_t
count(struct fixture *f, const char *service)
{
	struct svc_record_list list = {0};
	size_t nodes = 0;
	if (svc_registry_lookup(f->registry, service, &list, NULL) != SVC_OK)
		return 0;
	for (size_t i = 0; i < list.n_records; i++)
		nodes += list.records[i]->n_nodes;
	svc_record_list_fini(&list);
	return nodes;
}

/* ----------------------------------------------------------------- tests */

static int conformance_failures = -1;

static void
it_keeps_the_promises(void **state)
{
	(void)state;
	assert_int_equal(conformance_failures, 0);
}

static void
what_the_file_names_is_found(void **state)
{
	struct fixture *f = *state;
	struct svc_record_list list = {0};
	watch(f, "s");
	assert_int_equal(recorder_nodes(f->recorder, NULL), 2);
	assert_int_equal(count(f, "s"), 2);
	assert_int_equal(count(f, "t"), 1);
	assert_int_equal(count(f, "u"), 0);
	OK(svc_registry_list(f->registry, &list, err));
	assert_int_equal(list.n_records, 2);
	svc_record_list_fini(&list);
}

static void
an_edited_file_is_read_again(void **state)
{
	struct fixture *f = *state;
	watch(f, NULL);
	/* In place, as `>` of a shell does it. */
	write_to(f->path, "s: [b:1, d:1]\nt: c:1\n");
	expect(f, SVC_CREATED, "s", "s-d:1");
	expect(f, SVC_REMOVED, "s", "s-a:1");
	assert_int_equal(count(f, "s"), 2);
	/* Only what differs was told. */
	assert_int_equal(
	    recorder_count(f->recorder, SVC_CREATED, NULL, NULL), 4);
	assert_int_equal(
	    recorder_count(f->recorder, SVC_UPDATED, NULL, NULL), 0);
	replace(f, "s: {version: 2, nodes: [b:1, d:1]}\n");
	expect(f, SVC_UPDATED, "s", NULL);
	expect(f, SVC_REMOVED, "t", "t-c:1");
	assert_int_equal(
	    recorder_count(f->recorder, SVC_UPDATED, "s", NULL), 2);
	/* And again, after it is another file. */
	replace(f, "s: e:1\n");
	expect(f, SVC_CREATED, "s", "s-e:1");
	expect(f, SVC_REMOVED, "s", NULL);
	expect(f, SVC_REMOVED, "s", NULL);
	assert_int_equal(recorder_nodes(f->recorder, NULL), 1);
}

static void
a_bad_content_changes_nothing_and_is_told(void **state)
{
	struct fixture *f = *state;
	char line[160];
	watch(f, NULL);
	write_to(f->path, "s: [a:1,\nt: [b:1\n");
	snprintf(line, sizeof(line),
	    "static.bad: the former nodes stay: %s "
	    "line ",
	    f->path);
	expect_log(line);
	assert_int_equal(count(f, "s"), 2);
	/* What truncates a file and then writes it is no reason either. */
	write_to(f->path, "");
	expect_log("there is nothing in it");
	assert_int_equal(count(f, "s"), 2);
	write_to(f->path, "s: [a:1]\nt: c:1\n");
	expect(f, SVC_REMOVED, "s", "s-b:1");
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 1);
	expect_log("names 2 nodes now");
}

static void
a_file_that_vanishes_changes_nothing(void **state)
{
	struct fixture *f = *state;
	watch(f, NULL);
	assert_int_equal(unlink(f->path), 0);
	expect_log("static.gone: ");
	assert_int_equal(count(f, "s"), 2);
	write_to(f->path, "s: [a:1, b:1, d:1]\nt: c:1\n");
	expect(f, SVC_CREATED, "s", "s-d:1");
	assert_int_equal(
	    recorder_count(f->recorder, SVC_REMOVED, NULL, NULL), 0);
}

/* A folder that is switched by a link, as Kubernetes mounts its files. */
static void
a_file_behind_links_is_read_again(void **state)
{
	struct fixture *f = *state;
	char one[96], two[96], data[96], data_next[96], file[128];
	snprintf(one, sizeof(one), "%s/1", f->dir);
	snprintf(two, sizeof(two), "%s/2", f->dir);
	snprintf(data, sizeof(data), "%s/data", f->dir);
	snprintf(data_next, sizeof(data_next), "%s/data_next", f->dir);
	assert_int_equal(mkdir(one, 0700), 0);
	assert_int_equal(mkdir(two, 0700), 0);
	snprintf(file, sizeof(file), "%s/nodes.yaml", one);
	write_to(file, "s: a:1\n");
	snprintf(file, sizeof(file), "%s/nodes.yaml", two);
	write_to(file, "s: b:1\n");
	assert_int_equal(unlink(f->path), 0);
	assert_int_equal(symlink("1", data), 0);
	assert_int_equal(symlink("data/nodes.yaml", f->path), 0);
	watch(f, NULL);
	assert_int_equal(recorder_nodes(f->recorder, "s"), 1);
	assert_int_equal(symlink("2", data_next), 0);
	assert_int_equal(rename(data_next, data), 0);
	expect(f, SVC_CREATED, "s", "s-b:1");
	expect(f, SVC_REMOVED, "s", "s-a:1");
	snprintf(file, sizeof(file), "%s/nodes.yaml", one);
	unlink(file);
	snprintf(file, sizeof(file), "%s/nodes.yaml", two);
	unlink(file);
	unlink(data);
	rmdir(one);
	rmdir(two);
}

static void
a_bad_file_at_the_start_is_an_error(void **state)
{
	struct fixture *f = *state;
	struct svc_error err = {0};
	write_to(f->path, "s: a\n");
	assert_int_equal(make(f, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "line 1: address \"a\" has no port"));
	unlink(f->path);
	assert_int_equal(make(f, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "nodes.yaml cannot be opened"));
	snprintf(f->path, sizeof(f->path), "%s", f->dir);
	assert_int_equal(make(f, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "is no file"));
	f->path[0] = '\0';
	assert_int_equal(make(f, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "--registry_address=FILE"));
}

static void
announcing_is_accepted_and_changes_nothing(void **state)
{
	struct fixture *f = *state;
	struct sample listed, other;
	watch(f, "s");
	sample_init(&listed, "s", "1", "s-uuid", 1);
	sample_init(&other, "s", "1", "s-uuid2", 2);
	listed.node.address = "a:1";
	OK(svc_registry_announce(f->registry, &listed.record, 1000, err));
	pthread_mutex_lock(&log_lock);
	assert_null(strstr(log_text, "static.unlisted"));
	pthread_mutex_unlock(&log_lock);
	for (int i = 0; i < 3; i++)
		OK(svc_registry_announce(
		    f->registry, &other.record, 1000, err));
	expect_log("does not name s at 127.0.0.1:2: nobody finds this node");
	pthread_mutex_lock(&log_lock);
	char *first = strstr(log_text, "static.unlisted");
	assert_null(strstr(first + 1, "static.unlisted"));
	pthread_mutex_unlock(&log_lock);
	OK(svc_registry_withdraw(f->registry, &listed.record, err));
	assert_int_equal(count(f, "s"), 2);
	assert_true(recorder_quiet(f->recorder, QUIET_MS));
	sample_fini(&listed);
	sample_fini(&other);
}

/* From the start to the end of an instance. */
static void
one_life(struct fixture *f, long n)
{
	struct svc_registry *registry = NULL;
	struct svc_registry_config config = {.address = f->path};
	struct svc_record_list list = {0};
	struct svc_error why = {0};
	svc_err rc = svc_registry_create("static", &config, &registry, &why);
	if (rc == SVC_OK)
		rc = svc_registry_lookup(registry, "s", &list, &why);
	if (rc == SVC_OK) {
		assert_int_equal(list.records[0]->n_nodes, 2);
		svc_record_list_fini(&list);
		rc = svc_registry_list(registry, &list, &why);
	}
	if (rc == SVC_OK)
		svc_record_list_fini(&list);
	svc_registry_destroy(registry);
	if (rc != SVC_OK && rc != SVC_E_NOMEM)
		fail_msg("allocation %ld fails with %s: %s", n,
		    svc_err_name(rc), why.text);
}

static void
want_of_memory_is_an_error_and_no_bad_file(void **state)
{
	struct fixture *f = *state;
	long n = 0;
	for (bool hit = true; hit; n++) {
		scarce_at(n);
		one_life(f, n);
		hit = scarce_hit();
		scarce_at(-1);
	}
	assert_true(n > 10);
	/* What is read again is read until there is memory for it. */
	char former[32] = "s-a:1";
	watch(f, "s");
	n = 0;
	for (bool hit = true; hit; n++) {
		char text[64], id[32];
		snprintf(text, sizeof(text), "s: [n%ld:1]\n", n);
		snprintf(id, sizeof(id), "s-n%ld:1", n);
		scarce_at(n);
		replace(f, text);
		expect(f, SVC_CREATED, "s", id);
		/* Those that went are told after those that came. */
		expect(f, SVC_REMOVED, "s", former);
		snprintf(former, sizeof(former), "%s", id);
		hit = scarce_hit();
		scarce_at(-1);
	}
	assert_true(n > 5);
	assert_int_equal(recorder_nodes(f->recorder, NULL), 1);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
	    TEST(it_keeps_the_promises),
	    TEST(what_the_file_names_is_found),
	    TEST(an_edited_file_is_read_again),
	    TEST(a_bad_content_changes_nothing_and_is_told),
	    TEST(a_file_that_vanishes_changes_nothing),
	    TEST(a_file_behind_links_is_read_again),
	    TEST(a_bad_file_at_the_start_is_an_error),
	    TEST(announcing_is_accepted_and_changes_nothing),
	    TEST(want_of_memory_is_an_error_and_no_bad_file),
	};
#undef TEST
	char path[] = "/tmp/svc-static-XXXXXX";
	int fd = mkstemp(path);
	if (fd < 0 || write(fd, "{}", 2) != 2)
		return 1;
	close(fd);
	conformance_failures =
	    svc_conformance_registry(&(struct svc_conformance_registry){
		.plugin = "static",
		.config = {.address = path},
		.fixed = true,
	    });
	unlink(path);
	svc_cond_init(&log_cond);
	svc_log_set_sink(log_line, NULL);
	scarce_begin();
	return cmocka_run_group_tests_name("static", tests, NULL, NULL);
}
