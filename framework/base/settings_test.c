/* SPDX-License-Identifier: Apache-2.0 */
#include "settings_private.h"

#include <support/scarce.h>

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A set like that of a service, with one setting of each kind. */
struct values {
	struct svc_settings *settings;
	struct svc_error err;
	char *config, *name, *address, *level, *password;
	bool verbose;
	int64_t retries, ttl, interval, limit;
	double jitter;
	struct svc_headers *metadata;
	int students;
	const char *school;
	int argc;
};

static const char *const variables[] = {"SVC_REGISTRY_TTL",
    "MICRO_REGISTRY_TTL", "SVC_REGISTER_TTL", "SVC_NAME", "SVC_VERBOSE",
    "SVC_METADATA", "SVC_CONFIG", "MICRO_SERVER_NAME", "SVC_RETRIES"};

static int
setup(void **state)
{
	for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
		unsetenv(variables[i]);
	struct values *v = svc_mem_calloc(1, sizeof(*v));
	v->settings = svc_settings_create("student");
	v->retries = 1;
	v->ttl = 30000;
	v->interval = 15500;
	v->limit = 4 << 20;
	v->jitter = 0.2;
	v->level = svc_mem_strdup("info");
	v->school = "none";
	const struct svc_setting table[] = {
	    {.name = "name",
		.aliases = "server_name",
		.kind = SVC_SETTING_TEXT,
		.target = &v->name,
		.value = "NAME",
		.help = "What the service is called.",
		.group = "Service"},
	    {.name = "metadata",
		.kind = SVC_SETTING_PAIRS,
		.target = &v->metadata,
		.help = "What is said of this node.",
		.group = "Service"},
	    {.name = "registry_address",
		.kind = SVC_SETTING_TEXT,
		.target = &v->address,
		.group = "Registry"},
	    {.name = "registry_ttl",
		.aliases = "register_ttl",
		.kind = SVC_SETTING_DURATION,
		.target = &v->ttl,
		.unit_ms = 1000,
		.min = 1000,
		.max = 3600000,
		.help = "How long a node stays known that does not renew.",
		.group = "Registry"},
	    {.name = "registry_interval",
		.kind = SVC_SETTING_DURATION,
		.target = &v->interval,
		.unit_ms = 1000,
		.group = "Registry"},
	    {.name = "registry_password",
		.kind = SVC_SETTING_TEXT,
		.target = &v->password,
		.choices = "good better",
		.group = "Registry"},
	    {.name = "retries",
		.kind = SVC_SETTING_INT,
		.target = &v->retries,
		.max = 10,
		.group = "Client"},
	    {.name = "size_limit",
		.kind = SVC_SETTING_SIZE,
		.target = &v->limit,
		.group = "Client"},
	    {.name = "jitter",
		.kind = SVC_SETTING_REAL,
		.target = &v->jitter,
		.max = 1,
		.group = "Client"},
	    {.name = "log_level",
		.kind = SVC_SETTING_TEXT,
		.target = &v->level,
		.choices = "debug info warn",
		.help = "The least level that is written.",
		.group = "Program"},
	    {.name = "verbose",
		.kind = SVC_SETTING_BOOL,
		.target = &v->verbose,
		.group = "Program"},
	    {.name = "config",
		.kind = SVC_SETTING_TEXT,
		.target = &v->config,
		.value = "FILE",
		.group = "Program"},
	    {.name = "max-students",
		.kind = SVC_SETTING_APP_INT,
		.target = &v->students},
	    {.name = "school",
		.kind = SVC_SETTING_APP_TEXT,
		.target = &v->school},
	};
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		assert_int_equal(
		    svc_settings_add(v->settings, &table[i], &v->err), SVC_OK);
	*state = v;
	return 0;
}

static int
teardown(void **state)
{
	struct values *v = *state;
	svc_settings_destroy(v->settings);
	svc_mem_free(v->config);
	svc_mem_free(v->name);
	svc_mem_free(v->address);
	svc_mem_free(v->level);
	svc_mem_free(v->password);
	svc_headers_destroy(v->metadata);
	svc_mem_free(v);
	return 0;
}

/* Loads the words of `line`, which ends up in pieces. */
static svc_err
load(struct values *v, char *line, char **words, bool keep)
{
	char program[] = "student";
	char *own[32] = {program};
	char **argv = words != NULL ? words : own;
	argv[0] = program;
	int argc = 1;
	char *save = NULL;
	for (char *word = strtok_r(line, " ", &save); word != NULL;
	     word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	return svc_settings_load(
	    v->settings, argc, argv, keep ? &v->argc : NULL, &v->err);
}

static void
accepts(struct values *v, const char *line)
{
	char copy[400];
	snprintf(copy, sizeof(copy), "%s", line);
	if (load(v, copy, NULL, false) != SVC_OK)
		fail_msg("%s: %s", line, v->err.text);
}

static void
refuses(struct values *v, const char *line, const char *text)
{
	char copy[400];
	snprintf(copy, sizeof(copy), "%s", line);
	assert_int_equal(load(v, copy, NULL, false), SVC_E_INVAL);
	assert_string_equal(v->err.text, text);
}

static void
flags_of_every_kind(void **state)
{
	struct values *v = *state;
	accepts(v,
	    "--name=a=b --registry_address x:1,y:2 --registry_ttl 1m30s "
	    "--registry-interval=7 --retries 3 --size_limit 2m --jitter 0.5 "
	    "--log_level warn --verbose --metadata zone=a --metadata rack=1=2 "
	    "--max_students=-5 --school Latin");
	assert_string_equal(v->name, "a=b");
	assert_string_equal(v->address, "x:1,y:2");
	assert_int_equal(v->ttl, 90000);
	assert_int_equal(v->interval, 7000);
	assert_int_equal(v->retries, 3);
	assert_int_equal(v->limit, 2 << 20);
	assert_true(v->jitter == 0.5);
	assert_string_equal(v->level, "warn");
	assert_true(v->verbose);
	assert_string_equal(svc_headers_get(v->metadata, "zone"), "a");
	assert_string_equal(svc_headers_get(v->metadata, "rack"), "1=2");
	assert_int_equal(v->students, -5);
	assert_string_equal(v->school, "Latin");
	accepts(v, "--verbose=no --max-students -6 --server_name other");
	assert_false(v->verbose);
	assert_int_equal(v->students, -6);
	assert_string_equal(v->name, "other");
	accepts(v, "--verbose true --name x");
	assert_true(v->verbose);
	assert_int_equal(
	    svc_settings_source(v->settings, "server_name"), SVC_SOURCE_FLAG);
	assert_int_equal(
	    svc_settings_source(v->settings, "nothing"), SVC_SOURCE_CODE);
}

static void
words_are_left_in_order(void **state)
{
	struct values *v = *state;
	char *argv[16];
	char line[] = "get --retries 2 - -5 --verbose x -- --name -- y";
	assert_int_equal(load(v, line, argv, true), SVC_OK);
	static const char *const left[] = {
	    "get", "-", "-5", "x", "--name", "--", "y"};
	assert_int_equal(v->argc, 8);
	for (int i = 1; i < v->argc; i++)
		assert_string_equal(argv[i], left[i - 1]);
	assert_null(v->name);
	assert_int_equal(v->retries, 2);
	assert_true(v->verbose);
	assert_int_equal(
	    svc_settings_load(v->settings, 0, NULL, &v->argc, &v->err), SVC_OK);
	assert_int_equal(v->argc, 0);
	refuses(v, "--verbose get",
	    "unexpected argument \"get\"; flags begin with --");
}

static void
bad_flags_are_explained(void **state)
{
	struct values *v = *state;
	refuses(v, "--registr_ttl=5",
	    "unknown flag \"--registr_ttl\", did you mean "
	    "--registry_ttl?");
	refuses(v, "--zzzzz", "unknown flag \"--zzzzz\"");
	refuses(v, "-x", "unknown flag \"-x\"");
	refuses(v, "-h", "unknown flag \"-h\"");
	refuses(v, "--=5", "unknown flag \"--\"");
	refuses(v, "--registry_ttl",
	    "--registry_ttl needs a value: --registry_ttl=VALUE");
	refuses(v, "--name --verbose", "--name needs a value: --name=NAME");
	refuses(v, "--registry_ttl=soon",
	    "--registry_ttl: \"soon\" is no duration; allowed: as in "
	    "500ms, 5s, 1m30s, 2h, or a number of seconds");
	refuses(v, "--registry_ttl=2h",
	    "--registry_ttl: \"2h\" is out of range; allowed: 1s to "
	    "1h");
	refuses(v, "--retries=11",
	    "--retries: \"11\" is out of range; allowed: 0 to 10");
	refuses(v, "--retries=+1",
	    "--retries: \"+1\" is no whole number; allowed: 0 to 10");
	refuses(v, "--retries=99999999999999999999",
	    "--retries: \"99999999999999999999\" is no whole number; "
	    "allowed: 0 to 10");
	refuses(v, "--size_limit=5t",
	    "--size_limit: \"5t\" is no size; allowed: a number of "
	    "bytes, or as in 64k, 4m, 1g");
	refuses(v, "--jitter=nan",
	    "--jitter: \"nan\" is no number; allowed: as in 2, 0.5 or "
	    "1e-3");
	refuses(v, "--jitter=1.5",
	    "--jitter: \"1.5\" is out of range; allowed: 0 to 1");
	refuses(v, "--log_level=loud",
	    "--log_level: \"loud\" is not possible; allowed: debug, "
	    "info, warn");
	refuses(v, "--log_level=inf",
	    "--log_level: \"inf\" is not possible, did you mean \"info\"? "
	    "Allowed: debug, info, warn");
	refuses(v, "--verbose=maybe",
	    "--verbose: \"maybe\" is neither yes nor no; allowed: "
	    "true, false, yes, no, on, off, 1, 0");
	refuses(v, "--metadata=zone",
	    "--metadata: \"zone\" is no pair; allowed: key=value");
	refuses(v, "--max-students=2147483648",
	    "--max-students: \"2147483648\" is out of range; allowed: "
	    "-2147483648 to 2147483647");
	refuses(v, "--registry_password=god",
	    "--registry_password: its value is not possible; allowed: "
	    "good, better");
	refuses(v, "--registry_password=swordfish",
	    "--registry_password: its value is not possible; allowed: "
	    "good, better");
}

static void
the_environment_is_read(void **state)
{
	struct values *v = *state;
	setenv("MICRO_REGISTRY_TTL", "5", 1);
	accepts(v, "");
	assert_int_equal(v->ttl, 5000);
	assert_int_equal(svc_settings_source(v->settings, "registry_ttl"),
	    SVC_SOURCE_ENVIRONMENT);
	setenv("SVC_REGISTER_TTL", "6", 1);
	accepts(v, "");
	assert_int_equal(v->ttl, 6000);
	setenv("SVC_REGISTRY_TTL", "7", 1);
	accepts(v, "");
	assert_int_equal(v->ttl, 7000);
	accepts(v, "--registry_ttl=8");
	assert_int_equal(v->ttl, 8000);
	setenv("SVC_REGISTRY_TTL", "", 1);
	accepts(v, "");
	assert_int_equal(v->ttl, 6000);
	setenv("SVC_REGISTRY_TTL", "x", 1);
	refuses(v, "",
	    "SVC_REGISTRY_TTL: \"x\" is no duration; allowed: as in "
	    "500ms, 5s, 1m30s, 2h, or a number of seconds");
	unsetenv("SVC_REGISTRY_TTL");
	setenv("SVC_METADATA", "zone=a,,rack=2", 1);
	accepts(v, "--metadata=zone=b");
	assert_string_equal(svc_headers_get(v->metadata, "zone"), "b");
	assert_string_equal(svc_headers_get(v->metadata, "rack"), "2");
	setenv("SVC_METADATA", "zone", 1);
	refuses(v, "", "SVC_METADATA: \"zone\" is no pair; allowed: key=value");
}

/* Reads `text` as a config file. */
static svc_err
read_text(struct values *v, const char *text)
{
	for (size_t i = 0; i < v->settings->count; i++)
		v->settings->list[i].line = 0;
	return svc_settings_read(
	    v->settings, "my.yaml", text, strlen(text), &v->err);
}

static void
file_refused(struct values *v, const char *text, const char *why)
{
	if (read_text(v, text) != SVC_E_INVAL)
		fail_msg("accepted: %s", text);
	assert_string_equal(v->err.text, why);
}

static void
a_file_may_nest(void **state)
{
	struct values *v = *state;
	assert_int_equal(read_text(v, "name: school.student # a comment\n"
				      "registry:\n"
				      "  address: [10.0.0.1:1, '10.0.0.2:2']\n"
				      "  ttl: 1m\n"
				      "retries:\n"
				      "verbose: yes\n"
				      "metadata: {zone: a, rack: \"\"}\n"
				      "max-students: 30\n"
				      "school: ~\n"),
	    SVC_OK);
	assert_string_equal(v->name, "school.student");
	assert_string_equal(v->address, "10.0.0.1:1,10.0.0.2:2");
	assert_int_equal(v->ttl, 60000);
	assert_int_equal(v->retries, 1);
	assert_true(v->verbose);
	assert_string_equal(svc_headers_get(v->metadata, "zone"), "a");
	assert_string_equal(svc_headers_get(v->metadata, "rack"), "");
	assert_int_equal(v->students, 30);
	assert_string_equal(v->school, "none");
	assert_int_equal(
	    svc_settings_source(v->settings, "name"), SVC_SOURCE_FILE);
	assert_int_equal(
	    svc_settings_source(v->settings, "retries"), SVC_SOURCE_CODE);

	/* JSON is YAML; lists of pairs will do as well. */
	assert_int_equal(
	    read_text(v, "{\"server_name\": \"j\\u00e9\", "
			 "\"registry\": {\"ttl\": 5, \"address\": []},\n"
			 "\"metadata\": [\"zone=b\"]}"),
	    SVC_OK);
	assert_string_equal(v->name, "j\xc3\xa9");
	assert_string_equal(v->address, "");
	assert_string_equal(svc_headers_get(v->metadata, "zone"), "b");
	assert_int_equal(read_text(v, ""), SVC_OK);
	assert_int_equal(read_text(v, "# nothing\n---\n"), SVC_OK);
}

static void
a_bad_file_is_explained(void **state)
{
	struct values *v = *state;
	file_refused(v, "name: a\nregistry:\n  tll: 5\n",
	    "my.yaml line 3: unknown key \"registry_tll\", did you "
	    "mean registry_ttl?");
	file_refused(v, "zzz: [1]\n", "my.yaml line 1: unknown key \"zzz\"");
	file_refused(v, "name: a\n\nretries: many\n",
	    "my.yaml line 3: retries: \"many\" is no whole number; "
	    "allowed: 0 to 10");
	file_refused(v, "name: a\nserver_name: b\n",
	    "my.yaml line 2: name is set again, first in line 1");
	file_refused(v, "registry_ttl: 5\nregistry: {ttl: 6}\n",
	    "my.yaml line 2: registry_ttl is set again, first in line "
	    "1");
	file_refused(v, "retries: [1]",
	    "my.yaml line 1: retries takes one value, not a list");
	file_refused(v, "name: [a, [b]]",
	    "my.yaml line 1: a list holds something but texts");
	file_refused(v, "metadata: {a: {b: c}}",
	    "my.yaml line 1: the value of a pair must be a text");
	file_refused(
	    v, "metadata: {a=b: c}", "my.yaml line 1: a key holds a =");
	file_refused(
	    v, "[a]", "my.yaml line 1: the file must be a map of settings");
	file_refused(v, "? [a]\n: b", "my.yaml line 1: a key must be a text");
	file_refused(v, "name: &x a\nschool: *x\n",
	    "my.yaml line 2: aliases (*name) are not supported");
	file_refused(v, "name: a\n---\nname: b\n",
	    "my.yaml line 2: there is a second document");
	file_refused(
	    v, "name: \"a\\0b\"", "my.yaml line 1: a text holds a zero byte");
	file_refused(v, "a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}",
	    "my.yaml line 1: maps are nested more than 8 deep");
	char text[400];
	memset(text, 'k', sizeof(text));
	memcpy(text + 300, ": 1", 4);
	file_refused(v, text, "my.yaml line 1: a key is longer than 256 bytes");
	assert_int_equal(read_text(v, "name: [a\n"), SVC_E_INVAL);
	assert_non_null(strstr(v->err.text, "my.yaml line "));
	assert_int_equal(read_text(v, "\xff\xfe\xff"), SVC_E_INVAL);
}

static void
layers_are_in_order(void **state)
{
	struct values *v = *state;
	char path[] = "/tmp/svc-settings-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	static const char text[] = "name: file\nretries: 4\nschool: file\n"
				   "metadata: {a: file, b: file}\n";
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	char line[200];
	setenv("SVC_NAME", "environment", 1);
	setenv("SVC_RETRIES", "5", 1);
	snprintf(line, sizeof(line),
	    "--retries=6 --metadata b=flag --config %s", path);
	accepts(v, line);
	assert_string_equal(v->school, "file");
	assert_string_equal(v->name, "environment");
	assert_int_equal(v->retries, 6);
	assert_int_equal(v->ttl, 30000);
	assert_string_equal(svc_headers_get(v->metadata, "a"), "file");
	assert_string_equal(svc_headers_get(v->metadata, "b"), "flag");
	static const struct {
		const char *name;
		svc_setting_source source;
	} sources[] = {{"school", SVC_SOURCE_FILE},
	    {"name", SVC_SOURCE_ENVIRONMENT}, {"retries", SVC_SOURCE_FLAG},
	    {"registry_ttl", SVC_SOURCE_CODE}};
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(
		    svc_settings_source(v->settings, sources[i].name),
		    sources[i].source);

	/* The file may be named by the environment, and a flag wins. */
	setenv("SVC_CONFIG", path, 1);
	accepts(v, "");
	assert_int_equal(v->retries, 5);
	unlink(path);
	char copy[] = "--config=/nowhere/at/all";
	assert_int_equal(load(v, copy, NULL, false), SVC_E_NOT_FOUND);
	assert_string_equal(v->err.text,
	    "cannot open the config file /nowhere/at/all: No such "
	    "file or directory");
	char folder[] = "--config=/";
	assert_int_equal(load(v, folder, NULL, false), SVC_E_INVAL);
	assert_string_equal(
	    v->err.text, "cannot read the config file /: Is a directory");
}

static void
tables_are_checked(void **state)
{
	struct values *v = *state;
	struct svc_setting setting = {
	    .name = "name", .kind = SVC_SETTING_INT, .target = &v->retries};
	assert_int_equal(
	    svc_settings_add(v->settings, &setting, &v->err), SVC_E_EXISTS);
	assert_string_equal(v->err.text, "there are two settings \"name\"");
	setting.name = "max_students";
	assert_int_equal(
	    svc_settings_add(v->settings, &setting, NULL), SVC_E_EXISTS);
	setting.name = "new";
	setting.aliases = " newer  register_ttl";
	assert_int_equal(
	    svc_settings_add(v->settings, &setting, NULL), SVC_E_EXISTS);
	setting.aliases = "newer N";
	assert_int_equal(
	    svc_settings_add(v->settings, &setting, NULL), SVC_E_INVAL);
	setting.aliases = NULL;
	static const char *const bad[] = {"", "1a", "a b", "a.b", "A", NULL};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		setting.name = bad[i];
		assert_int_equal(
		    svc_settings_add(v->settings, &setting, NULL), SVC_E_INVAL);
	}
	setting.name = "new";
	setting.target = NULL;
	assert_int_equal(
	    svc_settings_add(v->settings, &setting, NULL), SVC_E_INVAL);
}

static void
help_shows_everything(void **state)
{
	struct values *v = *state;
	setenv("SVC_NAME", "student", 1);
	accepts(
	    v, "--registry_password=good --metadata zone=a --metadata Token=b");
	char *help = svc_settings_help(v->settings, NULL, "Keeps students.");
	assert_string_equal(help,
	    "Usage: student [flags]\n"
	    "\n"
	    "Keeps students.\n"
	    "\n"
	    "Service:\n"
	    "  --name=NAME                   What the service is called. (also "
	    "--server_name;\n"
	    "                                student, from the environment)\n"
	    "  --metadata=KEY=VALUE          What is said of this node. "
	    "(zone=a,Token=***,\n"
	    "                                from a flag)\n"
	    "\n"
	    "Registry:\n"
	    "  --registry_address=TEXT\n"
	    "  --registry_ttl=TIME           How long a node stays known that "
	    "does not renew.\n"
	    "                                (also --register_ttl; default: "
	    "30s)\n"
	    "  --registry_interval=TIME      (default: 15.5s)\n"
	    "  --registry_password=TEXT      (good, better; ***, from a flag)\n"
	    "\n"
	    "Client:\n"
	    "  --retries=NUMBER              (default: 1)\n"
	    "  --size_limit=BYTES            (default: 4m)\n"
	    "  --jitter=NUMBER               (default: 0.2)\n"
	    "\n"
	    "Program:\n"
	    "  --log_level=TEXT              The least level that is written. "
	    "(debug, info,\n"
	    "                                warn; default: info)\n"
	    "  --verbose                     (default: false)\n"
	    "  --config=FILE\n"
	    "\n"
	    "Flags:\n"
	    "  --max-students=NUMBER         (default: 0)\n"
	    "  --school=TEXT                 (default: none)\n"
	    "\n"
	    "Each flag --some_name is also the environment variable "
	    "SVC_SOME_NAME (or\n"
	    "MICRO_SOME_NAME) and the key some_name of the config file. Flags "
	    "win over the\n"
	    "environment, and that over the file.\n");
	svc_mem_free(help);
}

/* As --count of the tool svc: 1 and more, or as many as there are. */
static void
help_names_no_default_that_cannot_be_given(void **state)
{
	struct values *v = *state;
	int64_t count = 0;
	const struct svc_setting setting = {
	    .name = "count",
	    .kind = SVC_SETTING_INT,
	    .target = &count,
	    .help = "End after so many.",
	    .min = 1,
	    .max = 9,
	};
	assert_int_equal(svc_settings_add(v->settings, &setting, NULL), SVC_OK);
	char *help = svc_settings_help(v->settings, NULL, NULL);
	assert_non_null(strstr(help, "End after so many.\n"));
	svc_mem_free(help);
	accepts(v, "--count=3");
	help = svc_settings_help(v->settings, NULL, NULL);
	assert_non_null(strstr(help, "End after so many. (3, from a flag)\n"));
	svc_mem_free(help);
}

static void
json_shows_everything(void **state)
{
	struct values *v = *state;
	accepts(v, "--registry_password=good --metadata zone=\"a\" "
		   "--metadata my_secret=b");
	char *json = svc_settings_json(v->settings);
	assert_string_equal(json,
	    "{\"config\":null,\"jitter\":0.2,\"log_level\":\"info\","
	    "\"max-students\":0,\"metadata\":{\"zone\":\"\\\"a\\\"\","
	    "\"my_secret\":\"***\"},"
	    "\"name\":null,\"registry_address\":null,"
	    "\"registry_interval\":\"15.5s\",\"registry_password\":\"***\","
	    "\"registry_ttl\":\"30s\",\"retries\":1,\"school\":\"none\","
	    "\"size_limit\":4194304,\"verbose\":false}");
	svc_mem_free(json);
}

static void
durations(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int64_t unit_ms, ms;
	} good[] = {{"500ms", 1000, 500}, {"5s", 1, 5000}, {"1m30s", 1, 90000},
	    {"2h", 1, 7200000}, {"10", 1000, 10000}, {"10", 0, 10},
	    {"0", 1000, 0}, {"1.5s", 1, 1500}, {"1.5", 1000, 1500},
	    {"0.001s", 1, 1}, {"1h1m1s1ms", 1, 3661001}};
	static const char *const bad[] = {"", "s", "-1", "+1", "1x", "1m30",
	    "1 s", " 1", "1.", ".5s", "1..5s", "1d", "99999999999999999999",
	    "9999999999999999h", "1.0000000001s", "1S"};
	int64_t ms = -1;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(
		    svc_duration_parse(good[i].text, good[i].unit_ms, &ms),
		    SVC_OK);
		assert_int_equal(ms, good[i].ms);
	}
	ms = -1;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(
		    svc_duration_parse(bad[i], 1000, &ms), SVC_E_INVAL);
	assert_int_equal(ms, -1);
}

/* Whatever is shown can be given back. */
static void
shown_durations_read_back(void **state)
{
	struct values *v = *state;
	struct setting *setting =
	    svc_settings_find(v->settings, "registry_interval");
	static const int64_t some[] = {0, 1, 999, 1000, 1001, 59999, 60000,
	    90000, 3600000, 3661001, 86400000, INT64_C(31536000000)};
	for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
		struct svc_buf out;
		int64_t ms = -1;
		svc_buf_init(&out, 100);
		v->interval = some[i];
		svc_settings_show(setting, &out);
		assert_int_equal(
		    svc_duration_parse((char *)out.data, 1, &ms), SVC_OK);
		assert_int_equal(ms, some[i]);
		svc_buf_fini(&out);
	}
}

static void
survives_each_failing_allocation(void **state)
{
	(void)state;
	bool hit = true;
	long swept = 0;
	for (; hit; swept++) {
		char *name = NULL;
		const char *school = NULL;
		struct svc_headers *pairs = NULL;
		const struct svc_setting table[] = {
		    {.name = "name",
			.aliases = "other",
			.kind = SVC_SETTING_TEXT,
			.help = "Help.",
			.target = &name},
		    {.name = "school",
			.kind = SVC_SETTING_APP_TEXT,
			.target = &school},
		    {.name = "metadata",
			.kind = SVC_SETTING_PAIRS,
			.target = &pairs},
		};
		char program[] = "p", flag[] = "--name=x", word[] = "word";
		char *argv[] = {program, flag, word, NULL};
		static const char file[] =
		    "name: [a, b]\nmetadata: {a: b}\nschool: s\n";
		int argc = 3;
		svc_err err = SVC_OK;
		setenv("SVC_METADATA", "c=d", 1);
		scarce_begin();
		scarce_at(swept);
		struct svc_settings *set = svc_settings_create("p");
		for (int i = 0; set != NULL && err == SVC_OK && i < 3; i++)
			err = svc_settings_add(set, &table[i], NULL);
		if (set != NULL && err == SVC_OK)
			err = svc_settings_read(
			    set, "f", file, strlen(file), NULL);
		if (set != NULL && err == SVC_OK)
			err = svc_settings_load(set, argc, argv, &argc, NULL);
		if (set != NULL && err == SVC_OK) {
			char *help = svc_settings_help(set, NULL, NULL);
			char *json = svc_settings_json(set);
			assert_true(
			    scarce_hit() == (help == NULL || json == NULL));
			svc_mem_free(help);
			svc_mem_free(json);
		} else {
			assert_true(scarce_hit());
			assert_true(set == NULL || err == SVC_E_NOMEM);
		}
		scarce_end();
		svc_settings_destroy(set);
		svc_mem_free(name);
		svc_headers_destroy(pairs);
		hit = scarce_hit();
	}
	unsetenv("SVC_METADATA");
	assert_true(swept > 20);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(flags_of_every_kind),
	    TEST(words_are_left_in_order),
	    TEST(bad_flags_are_explained),
	    TEST(the_environment_is_read),
	    TEST(a_file_may_nest),
	    TEST(a_bad_file_is_explained),
	    TEST(layers_are_in_order),
	    TEST(tables_are_checked),
	    TEST(help_shows_everything),
	    TEST(help_names_no_default_that_cannot_be_given),
	    TEST(json_shows_everything),
	    TEST(shown_durations_read_back),
	    cmocka_unit_test(durations),
	    cmocka_unit_test(survives_each_failing_allocation),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
