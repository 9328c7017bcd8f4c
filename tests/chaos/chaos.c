/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chaos suite: registries under fault, with services and clients as
 * processes of their own and every call counted. docs/reliability.md explains
 * the rows. Each row runs in a process of its own, which has its own network
 * where it may, so several can run at once.
 */
#include "child.h"
#include "report.h"

#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS_MAX = 256, JOBS_MAX = 16, SKIPPED = 77 };
/* They prove that things heal, not how fast, since they run on machines that
 * are busy. */
static const struct {
	const char *plugin, *fault;
} quick[] = {{"etcd", "kill"}, {"etcd", "outage-empty"}, {"mdns", "kill"},
    {"mdns", "freeze"}};

struct job {
	pid_t pid;
	int result;
	struct row *row;
	char logs[256];
};

static struct {
	const char *plugin, *fault, *report, *logs;
	bool is_quick, json, list;
	int jobs;
	char self[4096];
} options = {.jobs = 4};

/* ------------------------------------------------------------------- flags */

static const char usage[] =
    "usage: chaos [OPTION...]\n"
    "  --plugin=NAME[,NAME]  only these registries\n"
    "  --fault=NAME[,NAME]   only these faults\n"
    "  --quick               a few rows with generous bounds\n"
    "  --jobs=N              rows at once, 1 to 16 (4)\n"
    "  --json                one JSON object for each row\n"
    "  --report=FILE         write the table into this markdown file\n"
    "  --logs=FOLDER         keep the logs of all rows there\n"
    "  --list                say which rows there are\n";

/* Whether `name` is in a list of names; NULL has all. */
static bool
is_among(const char *names, const char *name)
{
	size_t len = strlen(name);
	if (names == NULL)
		return true;
	for (const char *at = names; at != NULL;) {
		if (strncmp(at, name, len) == 0 &&
		    (at[len] == ',' || at[len] == '\0'))
			return true;
		at = strchr(at, ',');
		if (at != NULL)
			at++;
	}
	return false;
}

static const char *
plugin_name(size_t i)
{
	return chaos_plugins[i] != NULL ? chaos_plugins[i]->label : NULL;
}

static const char *
fault_name(size_t i)
{
	return chaos_faults[i] != NULL ? chaos_faults[i]->name : NULL;
}

/* Ends the program when a list names something that is not there. */
static void
check_names(const char *flag, const char *names, const char *(*name)(size_t i))
{
	char *copy = names != NULL ? strdup(names) : NULL, *save = NULL;
	if (copy == NULL)
		return;
	for (char *word = strtok_r(copy, ",", &save); word != NULL;
	     word = strtok_r(NULL, ",", &save)) {
		size_t i = 0;
		while (name(i) != NULL && strcmp(name(i), word) != 0)
			i++;
		if (name(i) != NULL)
			continue;
		fprintf(stderr, "chaos: %s=%s is not possible; allowed:", flag,
		    word);
		for (i = 0; name(i) != NULL; i++)
			fprintf(stderr, "%s %s", i > 0 ? "," : "", name(i));
		fprintf(stderr, "\n");
		exit(2);
	}
	free(copy);
}

static void
read_flags(int argc, char *argv[])
{
	for (int i = 1; i < argc; i++) {
		const char *value = strchr(argv[i], '=');
		size_t len = value != NULL ? (size_t)(value++ - argv[i])
					   : strlen(argv[i]);
		char *end;
		if (strncmp(argv[i], "--plugin", len) == 0 && value != NULL)
			options.plugin = value;
		else if (strncmp(argv[i], "--fault", len) == 0 && value != NULL)
			options.fault = value;
		else if (strncmp(argv[i], "--report", len) == 0 &&
			 value != NULL)
			options.report = value;
		else if (strncmp(argv[i], "--logs", len) == 0 && value != NULL)
			options.logs = value;
		else if (strncmp(argv[i], "--jobs", len) == 0 &&
			 value != NULL &&
			 (options.jobs = (int)strtol(value, &end, 10)) > 0 &&
			 *end == '\0' && options.jobs <= JOBS_MAX)
			continue;
		else if (strcmp(argv[i], "--quick") == 0)
			options.is_quick = true;
		else if (strcmp(argv[i], "--json") == 0)
			options.json = true;
		else if (strcmp(argv[i], "--list") == 0)
			options.list = true;
		else {
			fprintf(stderr, "chaos: %s is not possible\n%s",
			    argv[i], usage);
			exit(2);
		}
	}
	check_names("--plugin", options.plugin, plugin_name);
	check_names("--fault", options.fault, fault_name);
}

static bool
is_quick(const char *plugin, const char *fault)
{
	for (size_t i = 0; i < sizeof(quick) / sizeof(quick[0]); i++)
		if (strcmp(quick[i].plugin, plugin) == 0 &&
		    strcmp(quick[i].fault, fault) == 0)
			return true;
	return false;
}

static size_t
choose_rows(struct row rows[ROWS_MAX])
{
	size_t n = 0;
	for (size_t p = 0; chaos_plugins[p] != NULL; p++) {
		const struct plugin *plugin = chaos_plugins[p];
		if (!is_among(options.plugin, plugin->label))
			continue;
		for (size_t f = 0; chaos_faults[f] != NULL; f++) {
			const struct fault *fault = chaos_faults[f];
			bool its_own = fault->only != NULL &&
				       strcmp(fault->only, plugin->label) == 0;
			if (!its_own &&
			    (fault->only != NULL || plugin->own_faults))
				continue;
			if (is_among(options.fault, fault->name) &&
			    (!options.is_quick ||
				is_quick(plugin->label, fault->name)) &&
			    n < ROWS_MAX)
				rows[n++] = (struct row){
				    .plugin = plugin, .fault = fault};
		}
	}
	return n;
}

/* -------------------------------------------------------------------- rows */

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static bool
make_logs(struct job *job)
{
	const char *tmp = getenv("TMPDIR");
	if (options.logs != NULL) {
		mkdir(options.logs, 0755);
		snprintf(job->logs, sizeof(job->logs), "%s/%s-%s", options.logs,
		    job->row->plugin->label, job->row->fault->name);
		nftw(job->logs, remove_one, 16, FTW_DEPTH | FTW_PHYS);
		return mkdir(job->logs, 0777) == 0;
	}
	snprintf(job->logs, sizeof(job->logs), "%s/svc-chaos-XXXXXX",
	    tmp != NULL && strlen(tmp) < 200 ? tmp : "/tmp");
	return mkdtemp(job->logs) != NULL;
}

/* In the process of the row. */
static void
run_row(const struct job *job, int out)
{
	struct result result;
	struct world world = {
	    .plugin = job->row->plugin,
	    .fault = job->row->fault,
	    .busy = options.is_quick,
	    .self = options.self,
	    .plugins = CHAOS_PLUGIN_PATH,
	    .result = &result,
	};
	snprintf(world.logs, sizeof(world.logs), "%s", job->logs);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	setenv("SVC_PLUGIN_PATH", CHAOS_PLUGIN_PATH, 0);
	/* Below which servers lie that the system does not have. */
	setenv("SVC_SOURCE_DIR", CHAOS_SOURCE_DIR, 0);
	world_run(&world);
	if (write(out, &result, sizeof(result)) != (ssize_t)sizeof(result))
		_exit(1);
	exit(0);
}

static bool
start_row(struct job *job, struct row *row)
{
	int pipes[2];
	job->row = row;
	if (!make_logs(job) || pipe(pipes) != 0) {
		perror(job->logs);
		return false;
	}
	fflush(NULL);
	job->pid = fork();
	if (job->pid == 0) {
		close(pipes[0]);
		run_row(job, pipes[1]);
	}
	close(pipes[1]);
	job->result = pipes[0];
	return job->pid > 0;
}

static void
show_logs(const char *folder)
{
	char command[400];
	fprintf(stderr, "---- logs in %s\n", folder);
	snprintf(command, sizeof(command),
	    "cd '%s' && tail -n 12 client-*.log node-*.log >&2", folder);
	if (system(command) != 0)
		fprintf(stderr, "no logs\n");
}

static void
end_row(struct job *job)
{
	struct result *result = &job->row->result;
	if (read(job->result, result, sizeof(*result)) !=
	    (ssize_t)sizeof(*result))
		*result = (struct result){.ran = true,
		    .gone_ms = -1,
		    .back_ms = -1,
		    .reason = "the row's process died"};
	close(job->result);
	while (waitpid(job->pid, NULL, 0) < 0 && errno == EINTR)
		;
	job->pid = 0;
	if (options.json)
		report_json(job->row);
	else
		report_row(job->row);
	if (result->ran && !result->passed)
		show_logs(job->logs);
	if (options.logs == NULL)
		nftw(job->logs, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Several at once, and told in the order in which they end. */
static bool
run_rows(struct row *rows, size_t n)
{
	struct job jobs[JOBS_MAX] = {{0}};
	size_t next = 0, running = 0;
	while (next < n || running > 0) {
		struct pollfd p[JOBS_MAX];
		for (int i = 0; i < options.jobs; i++) {
			if (jobs[i].pid == 0 && next < n) {
				if (!start_row(&jobs[i], &rows[next++]))
					return false;
				running++;
			}
			p[i] = (struct pollfd){
			    .fd = jobs[i].pid != 0 ? jobs[i].result : -1,
			    .events = POLLIN};
		}
		if (poll(p, (nfds_t)options.jobs, -1) < 0 && errno != EINTR)
			return false;
		for (int i = 0; i < options.jobs; i++)
			if (jobs[i].pid != 0 && p[i].revents != 0) {
				end_row(&jobs[i]);
				running--;
			}
	}
	return true;
}

static int
suite(void)
{
	static struct row rows[ROWS_MAX];
	size_t n = choose_rows(rows), passed = 0, left_out = 0;
	if (n == 0) {
		fprintf(stderr, "chaos: no such row; --list shows all\n");
		return 2;
	}
	for (size_t i = 0; options.list && i < n; i++)
		printf("%-8s %-14s %s\n", rows[i].plugin->label,
		    rows[i].fault->name, rows[i].fault->what);
	if (options.list)
		return 0;
	if (!options.json)
		report_head();
	if (!run_rows(rows, n))
		return 1;
	for (size_t i = 0; i < n; i++) {
		passed += rows[i].result.passed;
		left_out += !rows[i].result.ran;
	}
	if (options.report != NULL && !report_write(options.report, rows, n))
		return 1;
	if (!options.json)
		printf("%zu passed, %zu failed, %zu left out\n", passed,
		    n - passed - left_out, left_out);
	if (passed + left_out < n)
		return 1;
	/* The subset is for machines that have all it needs. */
	return options.is_quick && left_out > 0 ? SKIPPED : 0;
}

int
main(int argc, char *argv[])
{
	if (argc > 1 && strcmp(argv[1], "node") == 0) {
		chaos_child_begin();
		return chaos_node(argc - 1, argv + 1);
	}
	if (argc > 1 && strcmp(argv[1], "client") == 0) {
		chaos_child_begin();
		return chaos_client(argc - 1, argv + 1);
	}
	ssize_t len =
	    readlink("/proc/self/exe", options.self, sizeof(options.self) - 1);
	if (len <= 0) {
		perror("/proc/self/exe");
		return 1;
	}
	read_flags(argc, argv);
	return suite();
}
