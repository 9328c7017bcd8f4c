/* SPDX-License-Identifier: Apache-2.0 */
/* Bad usage is told by its place, flag, variable, file or option, with what is
 * allowed; and help is given wherever it is asked for. */
#include <svc/svc.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* With one flag, or none for NULL. */
static svc_err
init_with(struct svc_service *service, const char *flag)
{
	char program[] = "program", copy[256] = "";
	char *argv[] = {program, flag != NULL ? copy : NULL, NULL};
	snprintf(copy, sizeof(copy), "%s", flag != NULL ? flag : "");
	return svc_init(service, flag != NULL ? 2 : 1, argv);
}

/* The service must refuse to start, by a text that begins with `start` and
 * has `part`. */
static void
refuses(struct svc_service *service, const char *flag, const char *start,
    const char *part)
{
	svc_err code = init_with(service, flag);
	const char *text = svc_error_text(service);
	if (code != SVC_E_INVAL || strncmp(text, start, strlen(start)) != 0 ||
	    strstr(text, part) == NULL || strchr(text, '\n') != NULL)
		fail_msg("%s in place of %s ... %s", text, start, part);
	svc_free(service);
}

static struct svc_service *
plain(void)
{
	return svc_new(registry(memory), transport(memory), broker(memory));
}

static void
write_file(char path[32], const char *text)
{
	snprintf(path, 32, "/tmp/svc-usage-XXXXXX");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static const struct {
	const char *setting, *bad, *what, *allowed;
} names[] = {
    {"selector", "rand0m", "no strategy \"rand0m\", did you mean \"random\"? ",
	"Allowed: random, round_robin"},
    {"selector", "x", "no strategy \"x\"; ", "allowed: random, round_robin"},
    {"selector", "round-robin",
	"no strategy \"round-robin\", did you mean \"round_robin\"? ",
	"Allowed: random, round_robin"},
    {"registry", "memry", "no registry \"memry\", did you mean \"memory\"? ",
	"memory"},
    {"transport", "memry", "no transport \"memry\", did you mean \"memory\"? ",
	"memory"},
    {"broker", "memry", "no broker \"memry\", did you mean \"memory\"? ",
	"memory"},
    {"registry_fallback", "memry:x",
	"no registry \"memry\", did you mean \"memory\"? ", "memory"},
    {"registry_fallback", ":x", "\":x\" has no plugin; ",
	"allowed: PLUGIN or PLUGIN:ADDRESS"},
    {"codec", "text/plane", "content type \"text/plane\": no codec; ",
	"allowed: "},
    {"codec", "json",
	"content type \"json\": no codec, did you mean "
	"\"application/json\"? ",
	"Allowed: "},
    {"codec", "a b", "content type \"a b\"", ""},
    {"log_level", "inf", "\"inf\" is not possible, did you mean \"info\"? ",
	"Allowed: trace, debug, info, warn, error, off"},
    {"log_format", "jso", "\"jso\" is not possible, did you mean \"json\"? ",
	"Allowed: text, json"},
    {"name", "a/b", "service name \"a/b\"", ""},
    {"version", "a\tb", "version", ""},
    {"id", "a b", "", "\"a b\""},
};
#define N_NAMES (sizeof(names) / sizeof(names[0]))

static void
bad_names_are_told_by_their_place(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_NAMES; i++) {
		const char *setting = names[i].setting, *bad = names[i].bad;
		char place[160], flag[80], variable[40] = "SVC_", path[32];
		size_t len = strlen(variable);

		snprintf(flag, sizeof(flag), "--%s=%s", setting, bad);
		snprintf(
		    place, sizeof(place), "--%s: %s", setting, names[i].what);
		refuses(plain(), flag, place, names[i].allowed);

		for (const char *c = setting; *c != '\0'; c++)
			variable[len++] =
			    (char)(*c == '_' ? '_' : *c - 'a' + 'A');
		variable[len] = '\0';
		snprintf(
		    place, sizeof(place), "%s: %s", variable, names[i].what);
		setenv(variable, bad, 1);
		refuses(plain(), NULL, place, names[i].allowed);
		unsetenv(variable);

		char text[80];
		snprintf(
		    text, sizeof(text), "# one\n%s: \"%s\"\n", setting, bad);
		write_file(path, text);
		snprintf(flag, sizeof(flag), "--config=%s", path);
		snprintf(place, sizeof(place), "%s line 2: %s: %s", path,
		    setting, names[i].what);
		refuses(plain(), flag, place, names[i].allowed);
		unlink(path);
	}
}

static void
bad_options_are_told_as_such(void **state)
{
	(void)state;
	refuses(svc_new(registry(memory), transport(memory), broker(memory),
		    selector(x)),
	    NULL, "option selector(x): no strategy \"x\"; ",
	    "allowed: random, round_robin");
	refuses(svc_new(registry(memry)), NULL,
	    "option registry(memry): no registry \"memry\", did you mean ",
	    "memory");
	refuses(svc_new(registry(memory), transport(memry)), NULL,
	    "option transport(memry): no transport \"memry\"", "memory");
	refuses(svc_new(registry(memory), transport(memory), broker(memry)),
	    NULL, "option broker(memry): no broker \"memry\"", "memory");
	refuses(svc_new(registry(memory), registry_fallback(memry, "a")), NULL,
	    "option registry_fallback(memry:a): no registry \"memry\"",
	    "memory");
	refuses(svc_new(registry(memory), transport(memory), broker(memory),
		    codec("text/plane")),
	    NULL, "option codec(text/plane): content type ", "allowed: ");
	refuses(svc_new(registry(memory), transport(memory), broker(memory),
		    log_level("loud")),
	    NULL, "option log_level(loud): \"loud\" is not possible; ",
	    "allowed: trace, debug, info, warn, error, off");
	refuses(svc_new(name("a/b")), NULL, "option name(a/b): ", "a/b");
}

/* The second name of a variable, and that of a setting, are as good a place. */
static void
the_variable_that_was_read_is_named(void **state)
{
	(void)state;
	setenv("MICRO_SERVER_NAME", "a/b", 1);
	refuses(plain(), NULL, "MICRO_SERVER_NAME: ", "a/b");
	unsetenv("MICRO_SERVER_NAME");
	setenv("MICRO_SELECTOR", "x", 1);
	refuses(plain(), NULL, "MICRO_SELECTOR: no strategy \"x\"", "random");
	/* A flag wins, and is good. */
	struct svc_service *s = plain();
	assert_int_equal(init_with(s, "--selector=random"), SVC_OK);
	svc_free(s);
	unsetenv("MICRO_SELECTOR");
}

/* ---------------------------------------------------------------- addresses */

/* A service that cannot listen or be told to others fails at its start. */
static void
does_not_start(const char *flag, const char *start)
{
	struct svc_service *s =
	    svc_new(registry(memory), transport(tcp), broker(memory));
	assert_int_equal(init_with(s, flag), SVC_OK);
	assert_int_equal(svc_start(s), SVC_E_INVAL);
	const char *text = svc_error_text(s);
	if (strncmp(text, start, strlen(start)) != 0)
		fail_msg("%s in place of %s", text, start);
	svc_free(s);
}

static void
bad_addresses_are_told_by_their_place(void **state)
{
	(void)state;
	char path[32], flag[48], start[96];
	does_not_start(
	    "--address=foo", "--address: address \"foo\" has no port");
	does_not_start("--server_address=[fe80::1]:80",
	    "--address: address \"[fe80::1]:80\" is of a link");
	does_not_start("--advertise=0.0.0.0",
	    "--advertise: \"0.0.0.0\" names every address");
	setenv("MICRO_SERVER_ADDRESS", "foo", 1);
	does_not_start(
	    NULL, "MICRO_SERVER_ADDRESS: address \"foo\" has no port");
	unsetenv("MICRO_SERVER_ADDRESS");
	setenv("SVC_ADVERTISE", "a b", 1);
	does_not_start(NULL, "SVC_ADVERTISE: \"a b\" has a character");
	unsetenv("SVC_ADVERTISE");
	write_file(path, "version: 1\nadvertise: x:0\n");
	snprintf(flag, sizeof(flag), "--config=%s", path);
	snprintf(start, sizeof(start),
	    "%s line 2: advertise: \"x:0\" has port 0", path);
	does_not_start(flag, start);
	unlink(path);

	struct svc_service *s = svc_new(registry(memory), transport(tcp),
	    broker(memory), advertise("0.0.0.0"));
	assert_int_equal(svc_start(s), SVC_E_INVAL);
	assert_non_null(strstr(svc_error_text(s),
	    "option advertise(0.0.0.0): \"0.0.0.0\" names every address"));
	svc_free(s);
	/* The program's own speaks for itself. */
	s = svc_new(
	    registry(memory), transport(tcp), broker(memory), address("foo"));
	assert_int_equal(svc_start(s), SVC_E_INVAL);
	assert_string_equal(svc_error_text(s),
	    "address \"foo\" has no port; allowed are host:port, :port and "
	    "[v6]:port");
	svc_free(s);
}

/* ------------------------------------------------------------------- help */

/* What init with this flag answers; what it prints is in `text`. */
static svc_err
printed(const char *flag, char *text, size_t size)
{
	struct svc_service *s = plain();
	FILE *file = tmpfile();
	fflush(stdout);
	int saved = dup(1);
	dup2(fileno(file), 1);
	svc_err code = init_with(s, flag);
	fflush(stdout);
	dup2(saved, 1);
	close(saved);
	rewind(file);
	size_t len = fread(text, 1, size - 1, file);
	text[len] = '\0';
	fclose(file);
	if (code != SVC_OK)
		assert_null(svc_client_of(s));
	svc_free(s);
	return code;
}

static void
help_is_a_setting_like_others(void **state)
{
	(void)state;
	static char text[65536];
	const char *const flags[] = {"--help", "-h", "--help=yes"};
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(
		    printed(flags[i], text, sizeof(text)), SVC_E_DONE);
		assert_non_null(strstr(text, "--registry_ttl=SECONDS"));
		assert_non_null(strstr(text, "\nPlugins:\n"));
	}
	setenv("SVC_HELP", "1", 1);
	assert_int_equal(printed(NULL, text, sizeof(text)), SVC_E_DONE);
	assert_non_null(strstr(text, "--registry_ttl=SECONDS"));
	assert_int_equal(printed("--help=no", text, sizeof(text)), SVC_OK);
	assert_string_equal(text, "");
	setenv("SVC_HELP", "maybe", 1);
	refuses(plain(), NULL, "SVC_HELP: \"maybe\" is neither", "true");
	unsetenv("SVC_HELP");

	char path[32], flag[48];
	write_file(path, "registry_ttl: 77s\nhelp: true\n");
	snprintf(flag, sizeof(flag), "--config=%s", path);
	assert_int_equal(printed(flag, text, sizeof(text)), SVC_E_DONE);
	assert_non_null(strstr(text, "1m17s, from"));
	unlink(path);
}

/* It was read already when a file is: a second one would not be. */
static void
a_file_names_no_other_file(void **state)
{
	(void)state;
	char path[32], flag[48], start[96];
	write_file(path, "name: student\nconfig: other.yaml\n");
	snprintf(flag, sizeof(flag), "--config=%s", path);
	snprintf(start, sizeof(start),
	    "%s line 2: config: a config file cannot name another", path);
	refuses(plain(), flag, start, "");
	unlink(path);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(bad_names_are_told_by_their_place),
	    cmocka_unit_test(bad_options_are_told_as_such),
	    cmocka_unit_test(the_variable_that_was_read_is_named),
	    cmocka_unit_test(bad_addresses_are_told_by_their_place),
	    cmocka_unit_test(help_is_a_setting_like_others),
	    cmocka_unit_test(a_file_names_no_other_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
