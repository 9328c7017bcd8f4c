/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/clock.h>
#include <svc/log.h>

#include <fcntl.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct caught {
	int count;
	svc_log_level level;
	int64_t unix_ms;
	char id[40];
	char text[2000];
};

static void catch (const struct svc_log_line *line, void *arg)
{
	struct caught *caught = arg;
	caught->count++;
	caught->level = line->level;
	caught->unix_ms = line->unix_ms;
	snprintf(caught->id, sizeof(caught->id), "%s", line->id);
	snprintf(caught->text, sizeof(caught->text), "%s", line->text);
}

static void
catch_first(const struct svc_log_line *line, void *arg)
{
	struct caught *caught = arg;
	if (caught->count == 0)
		catch (line, arg);
	else
		caught->count++;
}

static int
quiet(void **state)
{
	(void)state;
	svc_log_set_sink(NULL, NULL);
	svc_log_set_level(SVC_LOG_INFO);
	svc_clock_real();
	return 0;
}

static void
nothing_without_a_sink(void **state)
{
	(void)state;
	svc_log_set_level(SVC_LOG_TRACE);
	assert_false(svc_log_enabled(SVC_LOG_ERROR));
	svc_log(SVC_LOG_ERROR, "test", "goes nowhere");
}

static void
levels_hold_back(void **state)
{
	(void)state;
	struct caught caught = {0};
	svc_log_set_sink(catch, &caught);
	svc_clock_manual();
	svc_log(SVC_LOG_DEBUG, "test.one", "below the level");
	assert_int_equal(caught.count, 0);
	svc_log(SVC_LOG_WARN, "test.two", "%s is %d", "n", 5);
	assert_int_equal(caught.count, 1);
	assert_int_equal(caught.level, SVC_LOG_WARN);
	assert_int_equal(caught.unix_ms, svc_now_unix_ms());
	assert_string_equal(caught.id, "test.two");
	assert_string_equal(caught.text, "n is 5");
	svc_log_set_level(SVC_LOG_TRACE);
	assert_true(svc_log_enabled(SVC_LOG_TRACE));
	svc_log_set_level(SVC_LOG_OFF);
	assert_false(svc_log_enabled(SVC_LOG_ERROR));
	assert_false(svc_log_enabled(SVC_LOG_OFF));
	svc_log(SVC_LOG_ERROR, "test.three", "off");
	svc_log(SVC_LOG_OFF, "test.three", "no level of a line");
	assert_int_equal(caught.count, 1);
}

static void
a_default_gives_way(void **state)
{
	(void)state;
	struct caught chosen = {0}, fallback = {0};
	svc_log_default_sink(catch, &fallback);
	svc_log(SVC_LOG_INFO, "test", "one");
	assert_int_equal(fallback.count, 1);
	svc_log_set_sink(catch, &chosen);
	svc_log_default_sink(catch, &fallback);
	svc_log(SVC_LOG_INFO, "test", "two");
	assert_int_equal(fallback.count, 1);
	assert_int_equal(chosen.count, 1);
}

static void
a_line_is_one_line(void **state)
{
	(void)state;
	struct caught caught = {0};
	svc_log_set_sink(catch, &caught);
	svc_log(SVC_LOG_INFO, "test", "a\nb\r\x1b[31m");
	assert_string_equal(caught.text, "a b  [31m");
	char big[3000];
	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	svc_log(SVC_LOG_INFO, "test", "%s", big);
	assert_int_equal(strlen(caught.text), 1023);
}

/* A stranger cannot fill a disk. */
static void
limited_lines_are_few(void **state)
{
	(void)state;
	struct caught caught = {0};
	struct svc_log_limit limit = {0}, other = {0};
	svc_clock_manual();
	svc_log_set_sink(catch, &caught);
	for (int i = 0; i < 1000; i++)
		svc_log_limited(&limit, SVC_LOG_WARN, "test", "%d", i);
	assert_int_equal(caught.count, SVC_LOG_BURST);
	assert_string_equal(caught.text, "4");
	/* Others have a share of their own. */
	svc_log_limited(&other, SVC_LOG_ERROR, "test.other", "other");
	assert_int_equal(caught.count, SVC_LOG_BURST + 1);
	assert_string_equal(caught.text, "other");
	/* What nobody wants uses up nothing. */
	svc_log_limited(&other, SVC_LOG_DEBUG, "test.other", "unwanted");
	assert_int_equal(other.written, 1);

	svc_clock_advance(1000);
	caught.count = 0;
	svc_log_set_level(SVC_LOG_OFF);
	svc_log_limited(&limit, SVC_LOG_WARN, "test", "off");
	svc_log_set_level(SVC_LOG_INFO);
	struct caught told = {0};
	svc_log_set_sink(catch_first, &told);
	svc_log_limited(&limit, SVC_LOG_WARN, "test", "again");
	assert_int_equal(told.count, 2);
	assert_int_equal(told.level, SVC_LOG_WARN);
	assert_string_equal(told.id, "test");
	assert_string_equal(told.text, "995 more of these lines were left out");
	svc_log_set_sink(catch, &caught);
	for (int i = 1; i < SVC_LOG_BURST; i++)
		svc_log_limited(&limit, SVC_LOG_WARN, "test", "%d", i);
	assert_int_equal(caught.count, SVC_LOG_BURST - 1);
	/* Nothing was left out meanwhile, so nothing is said. */
	svc_clock_advance(5000);
	svc_log_limited(&limit, SVC_LOG_WARN, "test", "late");
	assert_int_equal(caught.count, SVC_LOG_BURST);
	assert_string_equal(caught.text, "late");
}

static void
levels_have_names(void **state)
{
	(void)state;
	static const char *const names[] = {
	    "trace", "debug", "info", "warn", "error", "off"};
	svc_log_level level = SVC_LOG_OFF;
	for (int i = 0; i < 6; i++) {
		assert_int_equal(svc_log_level_parse(names[i], &level), SVC_OK);
		assert_int_equal(level, i);
	}
	assert_int_equal(svc_log_level_parse("loud", &level), SVC_E_INVAL);
	assert_int_equal(svc_log_level_parse("", &level), SVC_E_INVAL);
	assert_int_equal(level, SVC_LOG_OFF);
}

/* What a sink writes to standard error. */
static void
written(
    svc_log_sink sink, const struct svc_log_line *line, char *out, size_t size)
{
	int pipes[2];
	assert_int_equal(pipe(pipes), 0);
	int saved = dup(STDERR_FILENO);
	assert_true(saved >= 0);
	assert_int_equal(dup2(pipes[1], STDERR_FILENO), STDERR_FILENO);
	sink(line, NULL);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(pipes[1]);
	ssize_t len = read(pipes[0], out, size - 1);
	close(pipes[0]);
	assert_true(len >= 0);
	out[len] = '\0';
}

static void
ready_sinks_write_a_line(void **state)
{
	(void)state;
	struct svc_log_line line = {.level = SVC_LOG_WARN,
	    .unix_ms = INT64_C(1700000000042),
	    .id = "registry.lost",
	    .text = "no \"etcd\""};
	char out[400];
	written(svc_log_to_text, &line, out, sizeof(out));
	assert_string_equal(
	    out, "2023-11-14T22:13:20.042Z warn  registry.lost: no \"etcd\"\n");
	written(svc_log_to_json, &line, out, sizeof(out));
	assert_string_equal(out,
	    "{\"time\":\"2023-11-14T22:13:20.042Z\",\"level\":\"warn\","
	    "\"id\":\"registry.lost\",\"text\":\"no \\\"etcd\\\"\"}\n");
}

static void
on_a_terminal_levels_are_coloured(void **state)
{
	(void)state;
	struct svc_log_line line = {
	    .level = SVC_LOG_ERROR, .id = "test", .text = "x"};
	int terminal = posix_openpt(O_RDWR | O_NOCTTY);
	assert_true(terminal >= 0);
	assert_int_equal(grantpt(terminal), 0);
	assert_int_equal(unlockpt(terminal), 0);
	int line_end = open(ptsname(terminal), O_RDWR | O_NOCTTY);
	assert_true(line_end >= 0);
	int saved = dup(STDERR_FILENO);
	char out[400] = "";
	unsetenv("NO_COLOR");
	dup2(line_end, STDERR_FILENO);
	svc_log_to_text(&line, NULL);
	dup2(saved, STDERR_FILENO);
	assert_true(read(terminal, out, sizeof(out) - 1) > 0);
	assert_non_null(strstr(out, "\033[31merror\033[0m test: x"));

	memset(out, 0, sizeof(out));
	setenv("NO_COLOR", "1", 1);
	dup2(line_end, STDERR_FILENO);
	svc_log_to_text(&line, NULL);
	dup2(saved, STDERR_FILENO);
	assert_true(read(terminal, out, sizeof(out) - 1) > 0);
	assert_null(strchr(out, '\033'));
	unsetenv("NO_COLOR");
	close(saved);
	close(line_end);
	close(terminal);
}

static void
quotes(const char *text, size_t len, size_t size, const char *expected)
{
	char out[64];
	memset(out, '#', sizeof(out));
	assert_ptr_equal(svc_log_quote(text, len, out, size), out);
	assert_string_equal(out, expected);
	/* Not a byte past the size. */
	for (size_t i = size; i < sizeof(out); i++)
		assert_int_equal(out[i], '#');
}

static void
quoting_escapes_and_cuts(void **state)
{
	(void)state;
	quotes("", 0, 40, "\"\"");
	quotes(NULL, 0, 40, "\"\"");
	quotes("plain", 5, 40, "\"plain\"");
	quotes("plain", 3, 40, "\"pla\"");
	quotes("plain", 40, 40, "\"plain\"");
	quotes("a\"b\\\n\xff", 6, 40, "\"a\\\"b\\\\\\x0a\\xff\"");
	quotes("\xc3\xa9\x1b", 3, 40, "\"\xc3\xa9\\x1b\"");
	quotes("12345", 5, 8, "\"12345\"");
	quotes("123456", 6, 8, "\"12\"...");
	quotes("\xc3\xa9\xc3\xa9\xc3\xa9", 6, 8, "\"\xc3\xa9\"...");
	quotes("\n\n\n", 3, 11, "\"\\x0a\"...");
	quotes("x", 1, 5, "");
	for (size_t size = 1; size < 40; size++) {
		char out[64];
		svc_log_quote(
		    "a\n\xc3\xa9\"a\n\xc3\xa9\"a\n\xc3\xa9", 14, out, size);
		assert_true(strlen(out) < size);
	}
}

/* Sinks are exchanged while others log. */
static atomic_int heard;

static void
count(const struct svc_log_line *line, void *arg)
{
	(void)line;
	++*(atomic_int *)arg;
}

static void *
log_many(void *arg)
{
	for (int i = 0; i < 2000; i++)
		svc_log(SVC_LOG_INFO, "test", "%d", i);
	return arg;
}

static void
sinks_may_be_exchanged(void **state)
{
	(void)state;
	pthread_t threads[3];
	atomic_int other = 0;
	svc_log_set_sink(count, &heard);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(
		    svc_thread_start(&threads[i], "svc-log", log_many, NULL),
		    SVC_OK);
	for (int i = 0; i < 500; i++)
		svc_log_set_sink(count, i % 2 == 0 ? &other : &heard);
	for (size_t i = 0; i < 3; i++)
		svc_thread_join(threads[i]);
	assert_int_equal(heard + other, 6000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_teardown(nothing_without_a_sink, quiet),
	    cmocka_unit_test_teardown(levels_hold_back, quiet),
	    cmocka_unit_test_teardown(a_default_gives_way, quiet),
	    cmocka_unit_test_teardown(a_line_is_one_line, quiet),
	    cmocka_unit_test_teardown(limited_lines_are_few, quiet),
	    cmocka_unit_test(levels_have_names),
	    cmocka_unit_test(ready_sinks_write_a_line),
	    cmocka_unit_test(on_a_terminal_levels_are_coloured),
	    cmocka_unit_test(quoting_escapes_and_cuts),
	    cmocka_unit_test_teardown(sinks_may_be_exchanged, quiet),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
