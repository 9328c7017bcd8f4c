/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a service: exit statuses, signals, draining, and how it keeps
 * itself registered. Programs run as children of the test. */
#include "service_test.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define HERE \
	registry(memory), transport(memory), broker(memory), log_level("off")

/* ---------------------------------------------------------- exit statuses */

/* Runs svc_main in a child: its exit status, and what it wrote to standard
 * error. A signal is sent once the service is up when `number` is not 0. */
struct program {
	pid_t pid;
	int err_fd, up_fd;
};

static svc_err
hang(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call;
	(void)req;
	(void)rsp;
	/* Says that it runs, then never returns. */
	if (write(*(int *)arg, "h", 1) < 0)
		return SVC_E_INTERNAL;
	for (;;)
		pause();
}

static void *
call_hang(void *arg)
{
	svc_call(svc_client_of(arg), "child", "Child.Hang", NULL, NULL,
	    timeout_ms(SVC_FOREVER));
	return NULL;
}

static void *
tell_up(void *arg)
{
	int64_t deadline = svc_deadline(PATIENCE_MS);
	struct svc_service *service = ((void **)arg)[0];
	int fd = *(int *)((void **)arg)[1];
	bool hangs = ((void **)arg)[2] != NULL;
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t cond;
	svc_cond_init(&cond);
	pthread_mutex_lock(&lock);
	/* The start tells nobody but the caller of svc_run: look for it. */
	while (!svc_registered(service) && svc_now_ms() < deadline)
		svc_cond_wait(&cond, &lock, svc_deadline(5));
	pthread_mutex_unlock(&lock);
	if (hangs)
		call_hang(service);
	else if (write(fd, "u", 1) < 0)
		_exit(99);
	return NULL;
}

static struct program
start_program(const char *const flags[], bool watch, bool hangs)
{
	struct program program;
	int err[2], up[2];
	assert_int_equal(pipe(err), 0);
	assert_int_equal(pipe(up), 0);
	fflush(NULL);
	program.pid = fork();
	assert_true(program.pid >= 0);
	if (program.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(err[1], 2);
		close(err[0]);
		char *argv[16] = {0};
		int argc = 1;
		argv[0] = strdup("program");
		for (; flags != NULL && flags[argc - 1] != NULL; argc++)
			argv[argc] = strdup(flags[argc - 1]);
		struct svc_service *s = svc_new(name("child"), registry(memory),
		    transport(memory), broker(memory), log_level("off"));
		svc_handle(s, "Child.Hang", hang, &up[1]);
		static void *watched[3];
		watched[0] = s;
		watched[1] = &up[1];
		watched[2] = hangs ? s : NULL;
		pthread_t thread;
		if (watch) {
			svc_thread_start(&thread, "watch", tell_up, watched);
			pthread_detach(thread);
		}
		int status = svc_main(s, argc, argv);
		if (hangs) {
			/* The thread that hangs is no leak of this test. */
			char digit = (char)('0' + status);
			if (write(up[1], &digit, 1) == 1)
				raise(SIGKILL);
		}
		for (int i = 0; i < argc; i++)
			free(argv[i]);
		_exit(status);
	}
	close(err[1]);
	close(up[1]);
	program.err_fd = err[0];
	program.up_fd = up[0];
	return program;
}

static void
wait_up(struct program *program)
{
	char c;
	assert_int_equal(read(program->up_fd, &c, 1), 1);
}

/* The wait status; what was written to standard error in `text`. */
static int
end_program(struct program *program, char *text, size_t size)
{
	size_t len = 0;
	ssize_t n;
	while (len + 1 < size &&
	       (n = read(program->err_fd, text + len, size - len - 1)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	int status;
	assert_int_equal(waitpid(program->pid, &status, 0), program->pid);
	close(program->err_fd);
	close(program->up_fd);
	return status;
}

static void
usage_errors_are_one_line_and_status_2(void **state)
{
	(void)state;
	const struct {
		const char *flag;
		int status;
		const char *part;
	} cases[] = {
	    {"--registy=mdns", 2, "registry"},
	    {"--registry_ttl=banana", 2, "banana"},
	    {"--registry_interval=9h", 2, NULL},
	    {"--name=", 2, NULL},
	    {"--registry=nosuch", 2, "nosuch"},
	    {"--config=/nonexistent/file.yaml", 2, "/nonexistent/file.yaml"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *flags[] = {
		    cases[i].flag, "--registry_ttl=10", NULL};
		if (cases[i].part != NULL)
			flags[1] = NULL;
		if (strcmp(cases[i].flag, "--name=") == 0)
			flags[0] = "--name=a b", flags[1] = NULL;
		struct program program = start_program(flags, false, false);
		char text[1024];
		int status = end_program(&program, text, sizeof(text));
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), cases[i].status);
		char *end = strchr(text, '\n');
		assert_non_null(end);
		assert_string_equal(end, "\n"); /* one line, the only one */
		char prefix[64];
		snprintf(prefix, sizeof(prefix),
		    "%s: ", program_invocation_short_name);
		assert_int_equal(strncmp(text, prefix, strlen(prefix)), 0);
		if (cases[i].part != NULL)
			assert_non_null(strstr(text, cases[i].part));
	}
}

/* Who looks only at the end still reads what went wrong first. */
static void
a_start_after_a_failure_tells_why(void **state)
{
	(void)state;
	char program[] = "student", flag[] = "--registr=etcd";
	char *argv[] = {program, flag, NULL};
	struct svc_service *s = svc_new(registry(memory), broker(memory));
	assert_int_equal(svc_init(s, 2, argv), SVC_E_INVAL);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(svc_start(s), SVC_E_PRECONDITION);
		assert_string_equal(svc_error_text(s),
		    "svc_init has failed: unknown flag \"--registr\", did you "
		    "mean --registry?");
	}
	assert_int_equal(svc_run(s), SVC_E_PRECONDITION);
	svc_free(s);
	s = svc_new(registry(memory), broker(memory),
	    address("127.0.0.1:99999"), log_level("off"));
	assert_int_equal(svc_start(s), SVC_E_INVAL);
	char why[300];
	snprintf(
	    why, sizeof(why), "svc_start has failed: %s", svc_error_text(s));
	assert_int_equal(svc_start(s), SVC_E_PRECONDITION);
	assert_string_equal(svc_error_text(s), why);
	svc_free(s);
}

static void
an_address_in_use_is_told(void **state)
{
	(void)state;
	struct svc_service *a =
	    svc_new(HERE, name("student"), address("memory:taken"));
	assert_int_equal(svc_start(a), SVC_OK);
	struct svc_service *b =
	    svc_new(HERE, name("student"), address("memory:taken"));
	assert_int_equal(svc_start(b), SVC_E_EXISTS);
	assert_non_null(strstr(svc_error_text(b), "memory:taken"));
	assert_false(svc_registered(b));
	assert_int_equal(svc_start(b), SVC_E_PRECONDITION);
	svc_free(b);
	svc_free(a);
}

/* ----------------------------------------------------------------- signals */

static void
a_signal_ends_it_with_status_0(void **state)
{
	(void)state;
	const int numbers[] = {SIGTERM, SIGINT};
	for (size_t i = 0; i < 2; i++) {
		struct program program = start_program(NULL, true, false);
		wait_up(&program);
		assert_int_equal(kill(program.pid, numbers[i]), 0);
		char text[1024];
		int status = end_program(&program, text, sizeof(text));
		assert_string_equal(text, "");
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

static void
a_second_signal_ends_it_at_once(void **state)
{
	(void)state;
	const char *const flags[] = {"--drain_timeout=1h", NULL};
	struct program program = start_program(flags, true, true);
	wait_up(&program); /* the handler that never returns */
	assert_int_equal(kill(program.pid, SIGTERM), 0);
	int status = 0;
	int64_t deadline = svc_deadline(PATIENCE_MS);
	while (waitpid(program.pid, &status, WNOHANG) == 0 &&
	       svc_now_ms() < deadline)
		kill(program.pid, SIGTERM);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGTERM);
	close(program.err_fd);
	close(program.up_fd);
}

/* As timeout(1) sends it: the node would stay in the registry. */
static void
a_signal_that_comes_twice_is_one(void **state)
{
	(void)state;
	for (int i = 0; i < 3;) {
		struct program program = start_program(NULL, true, false);
		wait_up(&program);
		/* Two, for of one kind they could become one on the way. */
		int64_t since_ms = svc_now_ms();
		assert_int_equal(kill(program.pid, SIGINT), 0);
		kill(program.pid, SIGTERM);
		bool behind = svc_now_ms() - since_ms < 200;
		char text[1024];
		int status = end_program(&program, text, sizeof(text));
		if (!behind) /* a busy machine: nothing was shown */
			continue;
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
		i++;
	}
}

static int told_fd;

static void
mine(int number)
{
	(void)number;
	_exit(write(told_fd, "m", 1) == 1 ? 0 : 98);
}

static void *
interrupt_it(void *arg)
{
	while (!svc_registered(arg))
		sched_yield();
	kill(getpid(), SIGINT);
	return NULL;
}

/* The second comes when the service has ended, before the process has; after
 * that it is the program's own matter again. Time stands still meanwhile. */
static void
a_signal_that_comes_twice_is_one_after_the_end_too(void **state)
{
	(void)state;
	int told[2], status;
	char text[3] = "";
	assert_int_equal(pipe(told), 0);
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		pthread_t thread;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		told_fd = told[1];
		signal(SIGTERM, mine);
		svc_clock_manual();
		struct svc_service *s = svc_new(HERE, name("child"));
		svc_thread_start(&thread, "interrupt", interrupt_it, s);
		if (svc_run(s) != SVC_OK)
			_exit(97);
		svc_thread_join(thread);
		raise(SIGTERM);
		if (write(told_fd, "t", 1) != 1)
			_exit(98);
		svc_clock_advance(1000);
		raise(SIGTERM);
		_exit(96);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(read(told[0], text, 2), 2);
	assert_string_equal(text, "tm");
	close(told[0]);
	close(told[1]);
}

static void
a_handler_that_hangs_does_not_keep_the_process(void **state)
{
	(void)state;
	const char *const flags[] = {"--drain_timeout=50ms", NULL};
	struct program program = start_program(flags, true, true);
	wait_up(&program);
	assert_int_equal(kill(program.pid, SIGTERM), 0);
	char digit;
	assert_int_equal(read(program.up_fd, &digit, 1), 1);
	assert_int_equal(digit, '0');
	char text[1024];
	end_program(&program, text, sizeof(text));
}

static void
a_service_without_a_descriptor_says_so(void **state)
{
	(void)state;
	struct rlimit old, none;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	struct svc_service *s = svc_new(HERE, name("poor"));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_non_null(s);
	svc_stop(s);
	assert_int_equal(svc_run(s), SVC_E_EXHAUSTED);
	assert_string_equal(svc_error_text(s),
	    "no descriptor for the service: Too many open files");
	svc_free(s);
}

/* Both would wait for one svc_stop, and one of them would miss it. */
static svc_err
run_again(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)rsp;
	(void)arg;
	svc_err code = svc_run(svc_call_service(call));
	return svc_fail(
	    call, code, "%s", svc_error_text(svc_call_service(call)));
}

static void *
ask_to_run_again(void *arg)
{
	struct svc_error why = {0};
	while (!svc_registered(arg))
		sched_yield();
	assert_int_equal(svc_call(svc_client_of(arg), "again", "Again.Run",
			     NULL, NULL, timeout_ms(5000), detail(&why)),
	    SVC_E_PRECONDITION);
	assert_string_equal(why.text, "svc_run runs already");
	svc_stop(arg);
	return NULL;
}

static void
a_service_runs_once(void **state)
{
	(void)state;
	pthread_t thread;
	struct svc_service *s = svc_new(HERE, name("again"));
	svc_handle(s, "Again.Run", run_again, NULL);
	assert_int_equal(svc_init(s, 0, NULL), SVC_OK);
	assert_int_equal(
	    svc_thread_start(&thread, "again", ask_to_run_again, s), 0);
	assert_int_equal(svc_run(s), SVC_OK);
	svc_thread_join(thread);
	svc_free(s);
}

static void *
run_it(void *arg)
{
	assert_int_equal(svc_run(arg), SVC_OK);
	return NULL;
}

static void
svc_stop_ends_svc_run(void **state)
{
	(void)state;
	struct sigaction before, after;
	sigaction(SIGTERM, NULL, &before);
	struct svc_service *s[3];
	pthread_t threads[3];
	for (int i = 0; i < 3; i++) {
		s[i] = svc_new(HERE, name("student"));
		/* Also when it comes before the start. */
		if (i == 0)
			svc_stop(s[i]);
		assert_int_equal(
		    svc_thread_start(&threads[i], "run", run_it, s[i]), SVC_OK);
	}
	for (int i = 2; i >= 0; i--) {
		svc_stop(s[i]);
		svc_thread_join(threads[i]);
		assert_false(svc_registered(s[i]));
	}
	for (int i = 0; i < 3; i++)
		svc_free(s[i]);
	sigaction(SIGTERM, NULL, &after);
	assert_true(before.sa_handler == after.sa_handler);
}

/* ------------------------------------------------------------------ drain */

struct slow {
	struct gate entered, go;
};

static svc_err
waits(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	struct slow *slow = arg;
	gate_add(&slow->entered);
	gate_wait(&slow->go, 1);
	return svc_reply_text(call, rsp, "text/plain", "finished");
}

struct stopping {
	struct svc_service *service;
	svc_err code;
	struct svc_error err;
	char text[32];
	pthread_t thread;
};

static void *
call_slow(void *arg)
{
	struct stopping *stopping = arg;
	struct svc_message rsp;
	stopping->code = svc_call(svc_client_of(stopping->service), "student",
	    "Student.Slow", NULL, &rsp, timeout_ms(PATIENCE_MS),
	    detail(&stopping->err));
	snprintf(stopping->text, sizeof(stopping->text), "%.*s", (int)rsp.len,
	    rsp.data != NULL ? (const char *)rsp.data : "");
	svc_message_free(&rsp);
	return NULL;
}

static void
running_calls_finish_while_new_ones_go_elsewhere(void **state)
{
	(void)state;
	const char *const transports[] = {"memory", "tcp"};
	for (size_t t = 0; t < 2; t++) {
		transport_name = transports[t];
		struct slow slow;
		gate_init(&slow.entered);
		gate_init(&slow.go);
		struct svc_service *s = make("student", NULL);
		svc_handle(s, "Student.Slow", waits, &slow);
		struct svc_service *c = make("caller", NULL);
		assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
		pthread_t runner;
		assert_int_equal(
		    svc_thread_start(&runner, "run", run_it, s), SVC_OK);
		struct stopping stopping = {.service = c};
		while (!svc_registered(s))
			sched_yield();
		assert_int_equal(svc_thread_start(&stopping.thread, "call",
				     call_slow, &stopping),
		    SVC_OK);
		gate_wait(&slow.entered, 1);
		svc_stop(s);
		/* Gone from the registry while the call still runs ... */
		int64_t deadline = svc_deadline(PATIENCE_MS);
		svc_err code = SVC_OK;
		struct svc_error err = {0};
		while (code != SVC_E_NOT_FOUND && svc_now_ms() < deadline)
			code = svc_call(svc_client_of(c), "student",
			    "Student.None", NULL, NULL, detail(&err));
		assert_int_equal(code, SVC_E_NOT_FOUND);
		/* ... which is answered all the same. */
		gate_add(&slow.go);
		svc_thread_join(stopping.thread);
		assert_string_equal(stopping.err.text, "");
		assert_int_equal(stopping.code, SVC_OK);
		assert_string_equal(stopping.text, "finished");
		svc_thread_join(runner);
		svc_free(c);
		svc_free(s);
	}
}

static void
plugins_are_added_by_their_interface(void **state)
{
	(void)state;
	static struct svc_broker_ops broker;
	broker = svc_broker_memory;
	broker.name = "mine";
	assert_int_equal(svc_plugin_add(&broker), SVC_OK);
	struct svc_service *s =
	    svc_new(registry(memory), transport(memory), broker(mine));
	assert_int_equal(svc_init(s, 0, NULL), SVC_OK);
	assert_string_equal(svc_broker_name(svc_broker_of(s)), "mine");
	svc_free(s);
	static struct svc_broker_ops other;
	other = broker;
	assert_int_equal(svc_plugin_add(&other), SVC_E_EXISTS);
	other.abi = SVC_ABI(77, 1);
	assert_int_equal(svc_plugin_add(&other), SVC_E_ABI);
	other.abi = SVC_ABI(5, 99);
	assert_int_equal(svc_plugin_add(&other), SVC_E_ABI);
	assert_int_equal(svc_plugin_add(NULL), SVC_E_INVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    /* First those that fork: threads do not follow. */
	    TEST(usage_errors_are_one_line_and_status_2),
	    TEST(a_signal_ends_it_with_status_0),
	    TEST(a_second_signal_ends_it_at_once),
	    TEST(a_signal_that_comes_twice_is_one),
	    TEST(a_signal_that_comes_twice_is_one_after_the_end_too),
	    TEST(a_handler_that_hangs_does_not_keep_the_process),
	    TEST(a_start_after_a_failure_tells_why),
	    TEST(an_address_in_use_is_told),
	    TEST(svc_stop_ends_svc_run),
	    TEST(a_service_runs_once),
	    TEST(a_service_without_a_descriptor_says_so),
	    TEST(running_calls_finish_while_new_ones_go_elsewhere),
	    TEST(plugins_are_added_by_their_interface),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
