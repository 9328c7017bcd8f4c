/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"
#include "out.h"
#include "tool.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

static const struct command {
	const char *name;
	const char *words; /* as in the usage line */
	const char *about;
	const char *flags; /* of this tool's own, those it takes */
	int min_words, max_words;
	int (*run)(struct tool *tool);
	const char *more; /* for its help */
} commands[] = {
    {"list", "", "List the services in the registry", "json", 0, 0, run_list,
	"With --json an array of {\"name\", \"version\", \"nodes\"}.\n\n"
	"  svc list --registry=etcd --registry_address=10.0.0.5:2379"},
    {"get", "NAME", "Show a service: its nodes, versions and endpoints", "json",
	1, 1, run_get,
	"With --json an array of go-micro's service records, one a version."
	"\n\n  svc get student"},
    {"health", "NAME", "Ask each node of a service how it is", "json timeout",
	1, 1, run_health,
	"By its endpoint Debug.Health, at most 2 s each unless --timeout says "
	"otherwise.\n"
	"Ends with 1 when one does not say \"ok\". With --json an array of "
	"{\"id\",\n\"address\", \"status\"}, or \"error\" in place of the "
	"status.\n\n"
	"  svc health student"},
    {"call", "NAME ENDPOINT [JSON]", "Call an endpoint and print the reply",
	"json header timeout", 2, 3, run_call,
	"JSON is the request, {} when left out; - reads it from standard "
	"input.\n"
	"A reply in JSON is printed as it is, on a terminal in lines; with "
	"--json every\nreply becomes one line of JSON.\n\n"
	"  svc call student Student.Get '{\"name\":\"Mei Chen\"}'\n"
	"  svc call student Student.Get - --timeout=500ms <request.json"},
    {"stream", "NAME ENDPOINT [JSON...]",
	"Open a stream, send messages and print what comes",
	"json header timeout count", 2, INT_MAX, run_stream,
	"Each JSON is one message. Without any, each line of standard input is "
	"one, unless\nit is a terminal. Then the sending side is closed; it "
	"ends when the other side ends.\nWhat comes is printed as by `svc "
	"call`, each message on a line.\n\n"
	"  svc stream student Student.List '{}'\n"
	"  svc stream student Student.Import <students.jsonl"},
    {"publish", "TOPIC [JSON]", "Publish an event", "json header", 1, 2,
	run_publish,
	"JSON is the body, {} when left out; - reads it from standard input."
	"\nIt ends when the broker has the event. With --json {\"topic\", "
	"\"bytes\"}.\n\n"
	"  svc publish student.created '{\"id\":7}' --header trace=abc"},
    {"subscribe", "TOPIC", "Print the events of a topic as they come",
	"json count queue", 1, 1, run_subscribe,
	"With --json each line is {\"topic\", \"content_type\", \"headers\", "
	"\"body\"}; a body\nthat is neither JSON nor text is {\"base64\"}.\n\n"
	"  svc subscribe student.created --count=1"},
    {"watch", "[NAME]", "Print the changes of the registry as they come",
	"json count", 0, 1, run_watch,
	"First everything there is, as created. With --json each line is\n"
	"{\"change\", \"service\"}; the change \"synced\" says that the first "
	"view is complete.\n\n"
	"  svc watch student"},
    {"doctor", "", "Check the registry and the broker from this machine",
	"json timeout", 0, 0, run_doctor,
	"One line a check: ok, warning, failed or skipped, and what to do. It "
	"announces a\nnode of its own and publishes an event of its own, and "
	"leaves nothing behind.\nEach wait is at most 5 s unless --timeout "
	"says otherwise. Ends with 1 when\nsomething failed. With --json "
	"{\"checks\": [{\"check\", \"state\", \"found\",\n\"ms\", "
	"\"advice\"}], \"warnings\", \"failed\"}.\n\n"
	"  svc doctor --registry=etcd --registry_address=10.0.0.5:2379"},
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* Flags of this tool's own; the others are those of every service. */
static const struct flag {
	const char *name, *value, *help;
	svc_setting_kind kind;
	size_t target;
	int64_t min, max, unit_ms;
} flags[] = {
    {"json", NULL, "Print JSON, for programs.", SVC_SETTING_BOOL,
	offsetof(struct tool, json), 0, 0, 0},
    {"header", "NAME=VALUE", "A header to send; may be repeated.",
	SVC_SETTING_PAIRS, offsetof(struct tool, headers), 0, 0, 0},
    {"timeout", "SECONDS",
	"How long the call may take, in place of --client_request_timeout.",
	SVC_SETTING_DURATION, offsetof(struct tool, timeout_ms), 1,
	INT64_C(86400000), 1000},
    {"count", "NUMBER", "End after this many lines.", SVC_SETTING_INT,
	offsetof(struct tool, count), 1, INT64_MAX, 0},
    {"queue", "NAME", "Share the events with the others in this queue.",
	SVC_SETTING_TEXT, offsetof(struct tool, queue), 0, 0, 0},
};
#define N_FLAGS (sizeof(flags) / sizeof(flags[0]))

/* ------------------------------------------------------------------ shared */

int
tool_failed(svc_err code, const struct svc_error *err)
{
	out_error(
	    code, "%s", err->text[0] != '\0' ? err->text : svc_err_text(code));
	return EXIT_FAILED;
}

int
tool_registry_failed(svc_err code, const struct svc_error *err)
{
	if (code == SVC_E_NOT_FOUND || code == SVC_E_INVAL ||
	    code == SVC_E_NOMEM)
		return tool_failed(code, err);
	out_error(code, "%s; `svc doctor` with the same flags says what to do",
	    err->text[0] != '\0' ? err->text : svc_err_text(code));
	return EXIT_FAILED;
}

int
tool_no_memory(void)
{
	out_error(SVC_E_NOMEM, "%s", svc_err_text(SVC_E_NOMEM));
	return EXIT_FAILED;
}

int
tool_print_line(struct svc_buf *line)
{
	int status = EXIT_OK;

	svc_buf_putc(line, '\n');
	if (line->failed != SVC_OK) {
		status = tool_no_memory();
	} else {
		fwrite(line->data, 1, line->len, stdout);
		if (!out_flush()) {
			out_error(SVC_E_INTERNAL,
			    "cannot write to standard output: %s",
			    strerror(errno));
			status = EXIT_FAILED;
		}
	}
	svc_buf_fini(line);
	return status;
}

static svc_err
read_all(struct svc_buf *body, struct svc_error *err)
{
	char chunk[16384];
	ssize_t n;

	while ((n = read(STDIN_FILENO, chunk, sizeof(chunk))) != 0) {
		if (n < 0 && errno != EINTR)
			return svc_error_sys(
			    err, SVC_OK, errno, "cannot read standard input");
		if (n > 0 && svc_buf_append(body, chunk, (size_t)n) != SVC_OK)
			return body->failed;
	}
	return SVC_OK;
}

char *
tool_body(const struct tool *tool, int at, size_t *ret_len, int *ret_status)
{
	const char *word = at < tool->n_words ? tool->words[at] : "{}";
	int64_t max = svc_options_of(tool->service)->max_message_size;
	const char *from = "the JSON";
	struct svc_error err = {.text = ""};
	struct svc_buf body;
	char *text;
	svc_err rc;

	svc_buf_init(&body, (size_t)max);
	if (strcmp(word, "-") == 0) {
		from = "standard input";
		rc = read_all(&body, &err);
	} else {
		rc = svc_buf_puts(&body, word);
	}
	*ret_status = EXIT_FAILED;
	if (rc == SVC_E_EXHAUSTED) {
		out_error(SVC_E_EXHAUSTED,
		    "%s is longer than %lld bytes; raise "
		    "--max_message_size",
		    from, (long long)max);
	} else if (rc != SVC_OK) {
		svc_error_set(&err, rc, "%s",
		    err.text[0] != '\0' ? err.text : svc_err_text(rc));
		tool_failed(rc, &err);
	} else if (json_check(body.data != NULL ? (const char *)body.data : "",
		       body.len, &err) != SVC_OK) {
		out_error(SVC_E_INVAL, "%s is not JSON: %s", from, err.text);
		*ret_status = EXIT_USAGE;
	} else {
		text = svc_buf_take(&body, ret_len);
		if (text == NULL)
			tool_no_memory();
		return text;
	}
	svc_buf_fini(&body);
	return NULL;
}

/* -------------------------------------------------------------------- help */

static const char usage[] = "COMMAND [ARGUMENTS] [--flag=value ...]";

static void
print_usage(FILE *to)
{
	fprintf(to, "Usage: svc %s\n\nCommands:\n", usage);
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(to, "  %-9s %-23s %s\n", commands[i].name,
		    commands[i].words, commands[i].about);
	fprintf(to, "  %-9s %-23s %s\n", "help", "[COMMAND]",
	    "Explain a command, or list all flags");
}

static bool
takes(const struct command *command, const char *flag)
{
	const char *at = command->flags;
	size_t len = strlen(flag);

	while (at != NULL && strncmp(at, flag, len) != 0) {
		at = strchr(at, ' ');
		if (at != NULL)
			at++;
	}
	return at != NULL && (at[len] == ' ' || at[len] == '\0');
}

static void
print_command_help(const struct command *command)
{
	printf("Usage: svc %s%s%s [--flag=value ...]\n\n%s.\n%s\n\nFlags:\n",
	    command->name, command->words[0] != '\0' ? " " : "", command->words,
	    command->about, command->more);
	for (size_t i = 0; i < N_FLAGS; i++) {
		char flag[40];

		if (!takes(command, flags[i].name))
			continue;
		snprintf(flag, sizeof(flag), "--%s%s%s", flags[i].name,
		    flags[i].value != NULL ? "=" : "",
		    flags[i].value != NULL ? flags[i].value : "");
		printf("  %-20s %s\n", flag, flags[i].help);
	}
	printf("\nThe flags of every service too, as --registry, "
	       "--registry_address and --broker:\n`svc help` lists them.\n\n"
	       "A failure is one line on standard error and the status 1, bad "
	       "usage 2. With --json\n{\"error\", \"code\"} is the last "
	       "line of standard output then.\n");
}

static const struct command *
find_command(const char *name)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

static int
unknown_command(const char *name)
{
	const char *nearest = NULL;
	char quoted[80], all[256] = "";
	size_t best = 0;

	for (size_t i = 0; i < N_COMMANDS; i++) {
		size_t len = strlen(all);

		snprintf(all + len, sizeof(all) - len, "%s%s",
		    i > 0 ? ", " : "", commands[i].name);
		if (svc_text_nearer(name, commands[i].name, &best))
			nearest = commands[i].name;
	}
	if (svc_text_nearer(name, "help", &best))
		nearest = "help";
	svc_log_quote(name, strlen(name), quoted, sizeof(quoted));
	if (nearest != NULL)
		out_error(SVC_E_INVAL,
		    "there is no command %s; did you mean \"%s\"?", quoted,
		    nearest);
	else
		out_error(SVC_E_INVAL,
		    "there is no command %s; there are %s and help", quoted,
		    all);
	return EXIT_USAGE;
}

static int
print_help(struct svc_settings *settings)
{
	char *text;

	print_usage(stdout);
	text = svc_settings_help(settings, usage, NULL);
	if (text == NULL)
		return tool_no_memory();
	/* Its first line is the usage again. */
	fputs(strchr(text, '\n') + 1, stdout);
	svc_mem_free(text);
	return EXIT_OK;
}

/* -------------------------------------------------------------------- main */

static svc_err
add_flags(
    struct tool *tool, struct svc_settings *settings, struct svc_error *err)
{
	svc_err rc = SVC_OK;

	for (size_t i = 0; rc == SVC_OK && i < N_FLAGS; i++) {
		struct svc_setting setting = {
		    .name = flags[i].name,
		    .kind = flags[i].kind,
		    .target = (char *)tool + flags[i].target,
		    .value = flags[i].value,
		    .help = flags[i].help,
		    .min = flags[i].min,
		    .max = flags[i].max,
		    .unit_ms = flags[i].unit_ms,
		    .group = "Of the commands",
		};

		rc = svc_settings_add(settings, &setting, err);
	}
	return rc;
}

/* A flag that another command takes says nothing here: better to say so than
 * to do something else than was meant. */
static bool
flags_fit(const struct command *command, struct svc_settings *settings)
{
	for (size_t i = 0; i < N_FLAGS; i++) {
		if (svc_settings_source(settings, flags[i].name) !=
			SVC_SOURCE_FLAG ||
		    takes(command, flags[i].name))
			continue;
		out_error(SVC_E_INVAL,
		    "`svc %s` takes no --%s; see `svc help %s`", command->name,
		    flags[i].name, command->name);
		return false;
	}
	return true;
}

static const struct command *
read_words(int argc, char *argv[], int *ret_status)
{
	const struct command *command;

	*ret_status = EXIT_USAGE;
	if (argc < 2) {
		out_error(
		    SVC_E_INVAL, "a command is missing; `svc help` lists them");
		return NULL;
	}
	command = find_command(argv[1]);
	if (command == NULL) {
		unknown_command(argv[1]);
		return NULL;
	}
	if (argc - 2 < command->min_words) {
		out_error(SVC_E_INVAL, "something is missing: svc %s %s",
		    command->name, command->words);
		return NULL;
	}
	if (argc - 2 > command->max_words) {
		char quoted[80];
		const char *word = argv[2 + command->max_words];

		out_error(SVC_E_INVAL, "%s is one too many: svc %s%s%s",
		    svc_log_quote(word, strlen(word), quoted, sizeof(quoted)),
		    command->name, command->words[0] != '\0' ? " " : "",
		    command->words);
		return NULL;
	}
	return command;
}

static bool
has_flag(int argc, char *argv[], const char *flag, const char *other)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], flag) == 0 || strcmp(argv[i], other) == 0)
			return true;
	return false;
}

static int
help(int argc, char *argv[], struct svc_settings *settings)
{
	const struct command *command = NULL;

	for (int i = 1; i < argc && command == NULL; i++)
		command = find_command(argv[i]);
	if (command == NULL)
		return print_help(settings);
	print_command_help(command);
	return EXIT_OK;
}

/* By its flag with a value, the environment or a config file. */
static bool
wants_help(const struct svc_settings *settings)
{
	char *values = svc_settings_json(settings);
	bool wanted = values != NULL && strstr(values, "\"help\":true") != NULL;

	svc_mem_free(values);
	return wanted;
}

/* Why nothing is found may be in the log alone: a registry that does not
 * answer, a record that does not decode. Who watches is told also when it goes
 * on; the doctor says it all himself. */
static void
set_log(const struct command *command, struct svc_settings *settings)
{
	if (command->run == run_doctor ||
	    svc_settings_source(settings, "log_level") != SVC_SOURCE_CODE)
		return;
	svc_log_set_level(
	    command->run == run_watch ? SVC_LOG_INFO : SVC_LOG_WARN);
}

/* The words are taken out of the arguments, which then are flags only. */
static int
take_words_out(int argc, char *argv[], char *words[], int n_words)
{
	int kept = 1;

	for (int i = 1, w = 1; i < argc; i++) {
		if (w < n_words && words[w] == argv[i])
			w++;
		else
			argv[kept++] = argv[i];
	}
	argv[kept] = NULL;
	return kept;
}

static int
run(struct tool *tool, int argc, char *argv[], char *words[])
{
	struct svc_settings *settings = svc_settings_of(tool->service);
	const struct command *command;
	struct svc_error err = {.text = ""};
	int n_words, status;
	svc_err rc;

	if (add_flags(tool, settings, &err) != SVC_OK)
		return tool_failed(err.code, &err);
	if (has_flag(argc, argv, "--help", "-h"))
		return help(argc, argv, settings);
	/* Also of what is wrong with the flags. */
	out_errors_in_json(has_flag(argc, argv, "--json", "--json=true"));
	memcpy(words, argv, ((size_t)argc + 1) * sizeof(*words));
	rc = svc_settings_load(settings, argc, words, &n_words, &err);
	if (rc != SVC_OK) {
		tool_failed(rc, &err);
		return svc_exit_status(rc);
	}
	out_errors_in_json(tool->json);
	if (wants_help(settings))
		return help(n_words, words, settings);
	if (n_words > 1 && strcmp(words[1], "help") == 0) {
		if (n_words > 2 && find_command(words[2]) == NULL)
			return unknown_command(words[2]);
		return help(n_words, words, settings);
	}
	command = read_words(n_words, words, &status);
	if (command == NULL)
		return status;
	if (!flags_fit(command, settings))
		return EXIT_USAGE;
	argc = take_words_out(argc, argv, words, n_words);
	rc = svc_init(tool->service, argc, argv);
	if (rc != SVC_OK && command->run != run_doctor) {
		out_error(rc, "%s", svc_error_text(tool->service));
		return svc_exit_status(rc);
	}
	if (rc != SVC_OK)
		tool->unfit = svc_error_text(tool->service);
	set_log(command, settings);
	tool->words = &words[2];
	tool->n_words = n_words - 2;
	status = command->run(tool);
	if (!out_flush() && status == EXIT_OK) {
		out_error(SVC_E_INTERNAL, "cannot write to standard output: %s",
		    strerror(errno));
		status = EXIT_FAILED;
	}
	return status;
}

int
main(int argc, char *argv[])
{
	struct tool tool = {0};
	char uuid[37], own_name[] = "svc-cli-01234567";
	char **words;
	int status;

	if (argc < 2) {
		print_usage(stderr);
		return EXIT_USAGE;
	}
	if (has_flag(argc, argv, "--version", "-V")) {
		printf("svc %s\n", svc_version());
		return EXIT_OK;
	}
	svc_uuid(uuid);
	memcpy(own_name + sizeof("svc-cli-") - 1, uuid, 8);
	words = svc_mem_calloc((size_t)argc + 1, sizeof(*words));
	tool.service = svc_new(
	    name(own_name), metadata(TOOL_MARK, "true"), log_level("off"));
	if (words == NULL || tool.service == NULL)
		status = tool_no_memory();
	else
		status = run(&tool, argc, argv, words);
	svc_free(tool.service);
	svc_headers_destroy(tool.headers);
	svc_mem_free(tool.queue);
	svc_mem_free(words);
	return status;
}
