/* SPDX-License-Identifier: Apache-2.0 */
#include "proc.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int64_t
real_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* In the child. execvp takes pointers to char that it does not write to. */
static void
become(const struct proc_how *how, int in, int out, int log)
{
	union {
		const char *const *given;
		char *const *taken;
	} argv = {.given = how->argv};
	dup2(in, STDIN_FILENO);
	dup2(how->out_to_log ? log : out, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	if (how->gid != 0 &&
	    (setgroups(0, NULL) != 0 || setgid((gid_t)how->gid) != 0))
		_exit(126);
	for (size_t i = 0; how->env != NULL && how->env[i] != NULL; i++) {
		char *pair = strdup(how->env[i]);
		if (pair == NULL || putenv(pair) != 0)
			_exit(126);
	}
	execvp(argv.taken[0], argv.taken);
	perror(argv.taken[0]);
	_exit(127);
}

bool
proc_start(struct proc *proc, const struct proc_how *how)
{
	int in[2] = {-1, -1}, out[2] = {-1, -1};
	int log =
	    open(how->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	*proc = (struct proc){.in = -1, .out = -1};
	if (log < 0 || pipe2(in, O_CLOEXEC) != 0 ||
	    pipe2(out, O_CLOEXEC) != 0) {
		perror(how->log);
		return false;
	}
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(127);
		become(how, in[0], out[1], log);
	}
	close(log);
	close(in[0]);
	close(out[1]);
	proc->in = in[1];
	proc->out = out[0];
	if (pid < 0) {
		perror("fork");
		proc_close(proc);
		return false;
	}
	proc->pid = pid;
	return true;
}

bool
proc_line(struct proc *proc, char *line, size_t size)
{
	for (;;) {
		char *end = memchr(proc->text, '\n', proc->len);
		if (end != NULL) {
			size_t n = (size_t)(end - proc->text);
			snprintf(line, size, "%.*s", (int)n, proc->text);
			proc->len -= n + 1;
			memmove(proc->text, end + 1, proc->len);
			return true;
		}
		struct pollfd p = {.fd = proc->out, .events = POLLIN};
		if (proc->out < 0 || proc->len == sizeof(proc->text) ||
		    poll(&p, 1, 0) <= 0)
			return false;
		ssize_t got = read(proc->out, proc->text + proc->len,
		    sizeof(proc->text) - proc->len);
		if (got <= 0)
			return false;
		proc->len += (size_t)got;
	}
}

void
proc_tell(const struct proc *proc, const char *line)
{
	if (proc->pid != 0 && dprintf(proc->in, "%s\n", line) < 0)
		perror("a child does not listen");
}

void
proc_freeze(const struct proc *proc)
{
	siginfo_t info;
	if (proc->pid == 0)
		return;
	kill(proc->pid, SIGSTOP);
	while (waitid(P_PID, (id_t)proc->pid, &info,
		   WSTOPPED | WEXITED | WNOWAIT) != 0 &&
	       errno == EINTR)
		;
}

void
proc_thaw(const struct proc *proc)
{
	if (proc->pid != 0)
		kill(proc->pid, SIGCONT);
}

static int
reap(struct proc *proc)
{
	int status = 0;
	while (waitpid(proc->pid, &status, 0) < 0 && errno == EINTR)
		;
	proc->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void
proc_kill(struct proc *proc)
{
	if (proc->pid == 0)
		return;
	kill(proc->pid, SIGKILL);
	reap(proc);
}

int
proc_end(struct proc *proc, int64_t limit_ms)
{
	siginfo_t info = {0};
	int64_t until_ms = real_ms() + limit_ms;
	if (proc->pid == 0)
		return 0;
	kill(proc->pid, SIGTERM);
	while (real_ms() < until_ms) {
		info.si_pid = 0;
		if (waitid(P_PID, (id_t)proc->pid, &info,
			WEXITED | WNOHANG | WNOWAIT) == 0 &&
		    info.si_pid != 0)
			return reap(proc);
		poll(NULL, 0, 5);
	}
	proc_kill(proc);
	return -1;
}

void
proc_close(struct proc *proc)
{
	if (proc->in >= 0)
		close(proc->in);
	if (proc->out >= 0)
		close(proc->out);
	proc->in = proc->out = -1;
}
