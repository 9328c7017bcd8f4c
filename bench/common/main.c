/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of every benchmark program, and what processes have used.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *program = "bench";

void
bench_die(const char *format, ...)
{
	va_list args;
	fprintf(stderr, "%s: ", program);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

void *
bench_alloc(size_t size)
{
	void *memory = calloc(1, size > 0 ? size : 1);
	if (memory == NULL)
		bench_die("out of memory");
	return memory;
}

/* -------------------------------------------------------------- processes */

static bool
next_pid(const char **list, pid_t *ret_pid)
{
	char *end;
	long pid = strtol(*list, &end, 10);
	if (end == *list)
		return false;
	*ret_pid = (pid_t)pid;
	*list = *end == ',' ? end + 1 : end;
	return true;
}

double
bench_cpu(const char *pids)
{
	double sum = 0;
	pid_t pid = 0;
	const char *own = "0", *list = pids != NULL ? pids : own;
	while (next_pid(&list, &pid)) {
		clockid_t clock;
		struct timespec t;
		if (clock_getcpuclockid(pid, &clock) == 0 &&
		    clock_gettime(clock, &t) == 0)
			sum += (double)t.tv_sec + (double)t.tv_nsec / 1e9;
	}
	return sum;
}

int64_t
bench_status_kib(const char *pids, const char *field)
{
	int64_t sum = 0;
	pid_t pid = 0;
	const char *own = "0", *list = pids != NULL ? pids : own;
	size_t len = strlen(field);
	while (next_pid(&list, &pid)) {
		char path[64], line[256];
		snprintf(path, sizeof(path), "/proc/%d/status",
		    pid != 0 ? (int)pid : (int)getpid());
		FILE *f = fopen(path, "re");
		if (f == NULL)
			continue;
		while (fgets(line, sizeof(line), f) != NULL) {
			if (strncmp(line, field, len) == 0 && line[len] == ':')
				sum += strtoll(line + len + 1, NULL, 10);
		}
		fclose(f);
	}
	return sum;
}

pid_t
bench_spawn(const char *const argv[], const char *address)
{
	const struct timespec while_it_starts = {.tv_nsec = 10000000};
	pid_t pid = fork();
	if (pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		/* execvp does not write to what it is given. */
		char *const *args = (char *const *)(uintptr_t)argv;
		execvp(argv[0], args);
		_exit(127);
	}
	for (int i = 0; i < 1000 && !bench_listens(address); i++) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			bench_die("%s does not run", argv[0]);
		nanosleep(&while_it_starts, NULL);
	}
	return pid;
}

pid_t
bench_spawn_peer(const struct bench_options *options, const char *name,
    const char *address, char ret_address[64])
{
	char path[512], line[160] = "";
	const char *slash = strrchr(options->program, '/');
	int folder = slash != NULL ? (int)(slash - options->program) + 1 : 0;
	int out[2];
	snprintf(
	    path, sizeof(path), "%.*sbench_%s", folder, options->program, name);
	if (pipe2(out, O_CLOEXEC) != 0)
		bench_die("pipe: %s", strerror(errno));
	pid_t pid = fork();
	if (pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		execl(path, path, "server", address, (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	FILE *f = fdopen(out[0], "r");
	if (pid < 0 || f == NULL || fgets(line, sizeof(line), f) == NULL ||
	    sscanf(line, "ready %63s", ret_address) != 1)
		bench_die("%s does not start", path);
	fclose(f);
	return pid;
}

void
bench_ready(const char *address, const char *pids)
{
	if (pids != NULL)
		printf("ready %s %s\n", address, pids);
	else
		printf("ready %s %d\n", address, (int)getpid());
	fflush(stdout);
}

int
bench_wait(void)
{
	for (;;)
		pause();
}

/* ----------------------------------------------------------- command line */

enum {
	OPT_SIZE = 256,
	OPT_OUTSTANDING,
	OPT_CONNECTIONS,
	OPT_RATE,
	OPT_DURATION,
	OPT_WARMUP,
	OPT_CALLS,
	OPT_SLOW,
	OPT_STREAM,
	OPT_NEXT,
	OPT_CERT,
	OPT_KEY,
	OPT_PIDS
};

static const struct option names[] = {
    {"size", required_argument, NULL, OPT_SIZE},
    {"outstanding", required_argument, NULL, OPT_OUTSTANDING},
    {"connections", required_argument, NULL, OPT_CONNECTIONS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"duration", required_argument, NULL, OPT_DURATION},
    {"warmup", required_argument, NULL, OPT_WARMUP},
    {"calls", required_argument, NULL, OPT_CALLS},
    {"slow", required_argument, NULL, OPT_SLOW},
    {"stream", no_argument, NULL, OPT_STREAM},
    {"next", required_argument, NULL, OPT_NEXT},
    {"cert", required_argument, NULL, OPT_CERT},
    {"key", required_argument, NULL, OPT_KEY},
    {"pids", required_argument, NULL, OPT_PIDS},
    {NULL, 0, NULL, 0},
};

static const char usage[] =
    "usage: %s server|client ADDRESS [OPTION...]\n"
    "       %s header\n"
    "  --size=BYTES       of a request and of its reply (1024)\n"
    "  --outstanding=N    calls in the air on each connection (1)\n"
    "  --connections=N    (1)\n"
    "  --rate=N           calls begun each second: an open loop (0: closed)\n"
    "  --duration=S       seconds that are measured (1)\n"
    "  --warmup=S         seconds before them (0.1)\n"
    "  --calls=N          end after so many calls instead (0: by the clock)\n"
    "  --slow=N           the handler of one call in N sleeps 5 ms (0: none)\n"
    "  --stream           messages one way, without replies\n"
    "  --next=ADDRESS     a server that asks another before it answers\n"
    "  --cert=F --key=F   PEM files: TLS\n"
    "  --pids=PID,PID     the server's processes, to measure their cost\n";

static double
number(const char *name, const char *text, double least, double most)
{
	char *end;
	double value = strtod(text, &end);
	if (end == text || *end != '\0' || !(value >= least && value <= most)) {
		fprintf(stderr, "%s: --%s=%s: give a number from %g to %g\n",
		    program, name, text, least, most);
		exit(2);
	}
	return value;
}

static void
read_option(struct bench_options *o, int option, const char *name)
{
	switch (option) {
	case OPT_SIZE:
		o->size = (size_t)number(name, optarg, 8, 1 << 20);
		break;
	case OPT_OUTSTANDING:
		o->outstanding = (int)number(name, optarg, 1, 4096);
		break;
	case OPT_CONNECTIONS:
		o->connections = (int)number(name, optarg, 1, 20000);
		break;
	case OPT_RATE:
		o->rate = number(name, optarg, 0, 1e8);
		break;
	case OPT_DURATION:
		o->duration = number(name, optarg, 0.001, 3600);
		break;
	case OPT_WARMUP:
		o->warmup = number(name, optarg, 0, 3600);
		break;
	case OPT_CALLS:
		o->calls = (int64_t)number(name, optarg, 0, 1e12);
		break;
	case OPT_SLOW:
		o->slow = (int)number(name, optarg, 0, 1e6);
		break;
	case OPT_STREAM:
		o->stream = true;
		break;
	case OPT_NEXT:
		o->next = optarg;
		break;
	case OPT_CERT:
		o->cert = optarg;
		break;
	case OPT_KEY:
		o->key = optarg;
		break;
	case OPT_PIDS:
		o->pids = optarg;
		break;
	default:
		fprintf(stderr, usage, program, program);
		exit(2);
	}
}

static void
check(const struct bench_options *o, const struct bench_peer *peer)
{
	const struct {
		bool asked;
		unsigned ability;
		const char *what;
	} needs[] = {
	    {o->stream, BENCH_STREAM, "streams"},
	    {o->cert != NULL, BENCH_TLS, "TLS"},
	    {o->next != NULL, BENCH_NEXT, "chains"},
	    {o->slow > 0, BENCH_SLOW, "slow handlers"},
	    {o->outstanding > 1, BENCH_PIPELINE,
		"more than one call at a time on a connection"},
	    {o->rate > 0, BENCH_OPEN_LOOP, "open loop"},
	};
	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
		if (needs[i].asked && (peer->abilities & needs[i].ability) == 0)
			bench_die("%s has no %s", peer->name, needs[i].what);
	}
	if ((o->cert == NULL) != (o->key == NULL))
		bench_die("--cert and --key go together");
}

int
bench_main(int argc, char *argv[], const struct bench_peer *peer)
{
	struct bench_options o = {
	    .size = 1024,
	    .outstanding = 1,
	    .connections = 1,
	    .duration = 1,
	    .warmup = 0.1,
	    .program = argv[0],
	};
	const char *slash = strrchr(argv[0], '/');
	program = slash != NULL ? slash + 1 : argv[0];
	int option, index = 0;
	while ((option = getopt_long(argc, argv, "", names, &index)) != -1)
		read_option(&o, option, names[index].name);
	if (argc - optind == 1 && strcmp(argv[optind], "header") == 0) {
		bench_print_header();
		return 0;
	}
	bool server = argc - optind == 2 && strcmp(argv[optind], "server") == 0;
	bool client = argc - optind == 2 && strcmp(argv[optind], "client") == 0;
	if (!server && !client) {
		fprintf(stderr, usage, program, program);
		return 2;
	}
	o.address = argv[optind + 1];
	check(&o, peer);
	signal(SIGPIPE, SIG_IGN);
	/* An open loop begins its calls when they are due, not up to 50 us
	 * later. */
	prctl(PR_SET_TIMERSLACK, 1);
	if (server) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		return peer->serve(&o);
	}
	struct bench_load *load = bench_load_create(&o);
	int status = peer->drive(&o, load);
	if (status == 0)
		bench_print(load, peer->name);
	bench_load_destroy(load);
	return status;
}
