/* SPDX-License-Identifier: Apache-2.0 */
/* How the file of a snapshot is replaced, whoever else is at it. */
#include "snapshot.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	char folder[32], path[48], writing[64];
};

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[1024];

static void
sink(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	pthread_mutex_lock(&log_lock);
	size_t len = strlen(log_text);
	snprintf(log_text + len, sizeof(log_text) - len, "%s\n", line->text);
	pthread_mutex_unlock(&log_lock);
}

static int
begin(void **state)
{
	static struct fixture f;
	snprintf(f.folder, sizeof(f.folder), "/tmp/svc-snapshot-XXXXXX");
	assert_non_null(mkdtemp(f.folder));
	snprintf(f.path, sizeof(f.path), "%s/known", f.folder);
	snprintf(f.writing, sizeof(f.writing), "%s.writing", f.path);
	log_text[0] = '\0';
	svc_log_set_sink(sink, NULL);
	*state = &f;
	return 0;
}

/* The names in the folder; with `remove` they go. */
static int
names(const struct fixture *f, bool remove)
{
	char path[sizeof(f->folder) + 256 + 2];
	int n = 0;
	DIR *dir = opendir(f->folder);
	assert_non_null(dir);
	for (struct dirent *at; (at = readdir(dir)) != NULL;) {
		if (strcmp(at->d_name, ".") == 0 ||
		    strcmp(at->d_name, "..") == 0)
			continue;
		n++;
		snprintf(path, sizeof(path), "%s/%s", f->folder, at->d_name);
		if (remove)
			unlink(path);
	}
	closedir(dir);
	return n;
}

static int
end(void **state)
{
	const struct fixture *f = *state;
	svc_log_set_sink(NULL, NULL);
	names(f, true);
	return rmdir(f->folder);
}

/* Writes so many nodes, of which the first has this port. */
static bool
write_nodes(const struct fixture *f, int nodes, int port)
{
	struct snapshot *snapshot = NULL;
	char id[32], address[32];
	if (snapshot_open(f->path, "it", &snapshot, NULL) != SVC_OK)
		return false;
	for (int i = 0; i < nodes; i++) {
		struct svc_node node = {.id = id, .address = address};
		struct svc_record record = {
		    .name = "s", .version = "1", .nodes = &node, .n_nodes = 1};
		snprintf(id, sizeof(id), "n%d", i);
		snprintf(address, sizeof(address), "h:%d", i + port);
		snapshot_put(snapshot, &record);
	}
	snapshot_close(snapshot);
	return true;
}

static size_t
count_nodes(const struct fixture *f)
{
	struct snapshot *snapshot = NULL;
	assert_int_equal(snapshot_open(f->path, "it", &snapshot, NULL), SVC_OK);
	size_t n = snapshot_count(snapshot);
	snapshot_close(snapshot);
	return n;
}

static void
put_text(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	assert_int_equal(fclose(file), 0);
}

static void
expect_text(const char *path, const char *text)
{
	char has[64] = "";
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	has[fread(has, 1, sizeof(has) - 1, file)] = '\0';
	fclose(file);
	assert_string_equal(has, text);
}

/* When the file was written, in ns; inodes are used again. */
static int64_t
written_at(const char *path)
{
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	return st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec;
}

static _Noreturn void
write_on(const struct fixture *f, int nodes)
{
	int port = 2;
	while (write_nodes(f, nodes, port))
		port++;
	_exit(1);
}

/* Killed at any moment, over and over. */
static void
who_is_killed_leaves_one_file_at_most(void **state)
{
	const struct fixture *f = *state;
	enum { NODES = 2000, KILLS = 30 };
	int left = 0;
	assert_true(write_nodes(f, NODES, 1));
	for (int i = 0; i < KILLS; i++) {
		int64_t before = written_at(f->path);
		int64_t until_ms = svc_deadline(20000);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			write_on(f, NODES);
		/* It has begun, and goes on doing nothing else. */
		while (written_at(f->path) == before && svc_now_ms() < until_ms)
			;
		until_ms = svc_deadline(i);
		while (svc_now_ms() < until_ms)
			;
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		assert_true(written_at(f->path) != before);
		assert_in_range(names(f, false), 1, 2);
		left += names(f, false) == 2;
		assert_int_equal(count_nodes(f), NODES);
	}
	print_message("%d of %d left something\n", left, KILLS);
	/* And the next one takes its place. */
	assert_true(write_nodes(f, NODES, 1));
	assert_int_equal(names(f, false), 1);
	assert_string_equal(log_text, "");
}

static void
what_was_left_is_written_over(void **state)
{
	const struct fixture *f = *state;
	struct stat st;
	put_text(f->writing, "{\"svc_snap");
	assert_int_equal(chmod(f->writing, 0666), 0);
	assert_true(write_nodes(f, 2, 1));
	assert_int_equal(names(f, false), 1);
	assert_int_equal(count_nodes(f), 2);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void
who_comes_second_does_not_disturb(void **state)
{
	const struct fixture *f = *state;
	assert_true(write_nodes(f, 1, 1));
	put_text(f->writing, "{\"svc_snapshot\":1");
	int fd = open(f->writing, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	/* It does not wait for the other one, which may be frozen. */
	assert_true(write_nodes(f, 2, 1));
	expect_text(f->writing, "{\"svc_snapshot\":1");
	assert_int_equal(count_nodes(f), 1);
	assert_string_equal(log_text, "");
	close(fd);
	assert_true(write_nodes(f, 2, 1));
	assert_int_equal(count_nodes(f), 2);
	assert_int_equal(names(f, false), 1);
}

static void
what_is_none_of_ours_is_left_alone(void **state)
{
	const struct fixture *f = *state;
	static const char text[] = "my notes\n";
	put_text(f->writing, text);
	assert_true(write_nodes(f, 1, 1));
	expect_text(f->writing, text);
	if (strstr(log_text, "known.writing is none of svc's: remove it") ==
	    NULL)
		fail_msg("%s", log_text);
	assert_int_equal(names(f, false), 1);
	/* Nor is what a link names. */
	char other[sizeof(f->folder) + 8];
	snprintf(other, sizeof(other), "%s/other", f->folder);
	put_text(other, "");
	assert_int_equal(unlink(f->writing), 0);
	assert_int_equal(symlink(other, f->writing), 0);
	assert_true(write_nodes(f, 1, 1));
	expect_text(other, "");
	assert_int_equal(unlink(f->writing), 0);
	assert_int_equal(link(other, f->writing), 0);
	assert_true(write_nodes(f, 1, 1));
	expect_text(other, "");
	assert_int_equal(names(f, false), 2);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
	    TEST(who_is_killed_leaves_one_file_at_most),
	    TEST(what_was_left_is_written_over),
	    TEST(who_comes_second_does_not_disturb),
	    TEST(what_is_none_of_ours_is_left_alone),
	};
#undef TEST
	return cmocka_run_group_tests(tests, NULL, NULL);
}
