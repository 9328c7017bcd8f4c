/* SPDX-License-Identifier: Apache-2.0 */
#include "run_tool.h"

#include <svc/clock.h>

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_WORDS 32

extern char **environ;

char where[2][64];

struct program
start_tool(const char *input, const char *const words[])
{
	struct program p = {.pid = 0};
	posix_spawn_file_actions_t actions;
	const char *argv[MAX_WORDS];
	char path[4096], *const *args;
	int out[2], err[2], in[2], n = 0;

	snprintf(path, sizeof(path), "%s/bin/svc", getenv("SVC_BUILD_DIR"));
	argv[n++] = "svc";
	/* Before the command, so that the words may override them. */
	for (int i = 0; i < 2; i++)
		if (where[i][0] != '\0')
			argv[n++] = where[i];
	for (; *words != NULL; words++)
		argv[n++] = *words;
	argv[n] = NULL;
	assert_true(n < MAX_WORDS);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(err, O_CLOEXEC), 0);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in[0], 0);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	posix_spawn_file_actions_adddup2(&actions, err[1], 2);
	memcpy(&args, &(const char *const *){argv}, sizeof(args));
	assert_int_equal(
	    posix_spawn(&p.pid, path, &actions, NULL, args, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	/* Small enough for the pipe. */
	if (input != NULL)
		assert_int_equal(
		    write(in[1], input, strlen(input)), (ssize_t)strlen(input));
	close(in[1]);
	p.fds[0] = out[0];
	p.fds[1] = err[0];
	for (int i = 0; i < 2; i++) {
		svc_buf_init(&p.text[i], 1 << 20);
		svc_buf_puts(&p.text[i], "");
	}
	return p;
}

const char *
text_of(const struct program *p, int which)
{
	return p->text[which].len > 0 ? (const char *)p->text[which].data : "";
}

void
read_until(struct program *p, int which, const char *text)
{
	int64_t deadline = svc_deadline(LIMIT_MS);

	while (text == NULL ? p->fds[0] >= 0 || p->fds[1] >= 0
			    : strstr(text_of(p, which), text) == NULL) {
		struct pollfd polled[2] = {
		    {.fd = p->fds[0], .events = POLLIN},
		    {.fd = p->fds[1], .events = POLLIN},
		};

		if (svc_remaining(deadline) == 0 ||
		    (text != NULL && p->fds[which] < 0)) {
			kill(p->pid, SIGKILL);
			fail_msg("waited for %s; out: %s err: %s",
			    text != NULL ? text : "the end", text_of(p, 0),
			    text_of(p, 1));
		}
		poll(polled, 2, (int)svc_remaining(deadline));
		for (int i = 0; i < 2; i++) {
			char chunk[4096];
			ssize_t len;

			if (polled[i].revents == 0)
				continue;
			len = read(p->fds[i], chunk, sizeof(chunk));
			if (len > 0) {
				svc_buf_append(&p->text[i], chunk, (size_t)len);
			} else {
				close(p->fds[i]);
				p->fds[i] = -1;
			}
		}
	}
}

void
end_tool(struct program *p, int status)
{
	int got;

	read_until(p, 0, NULL);
	assert_int_equal(waitpid(p->pid, &got, 0), p->pid);
	if (!WIFEXITED(got) || WEXITSTATUS(got) != status)
		fail_msg("status %x in place of %d; out: %s err: %s",
		    (unsigned)got, status, text_of(p, 0), text_of(p, 1));
}

void
free_tool(struct program *p)
{
	svc_buf_fini(&p->text[0]);
	svc_buf_fini(&p->text[1]);
}

void
expect(const char *const words[], const char *input, int status,
    const char *out, const char *err)
{
	struct program p = start_tool(input, words);

	end_tool(&p, status);
	if (out != NULL)
		assert_string_equal(text_of(&p, 0), out);
	if (err != NULL)
		assert_string_equal(text_of(&p, 1), err);
	free_tool(&p);
}

void
expect_part(
    const char *const words[], int status, const char *out, const char *err)
{
	struct program p = start_tool(NULL, words);

	end_tool(&p, status);
	if (out != NULL && strstr(text_of(&p, 0), out) == NULL)
		fail_msg("no %s in: %s", out, text_of(&p, 0));
	if (err != NULL && strstr(text_of(&p, 1), err) == NULL)
		fail_msg("no %s in: %s", err, text_of(&p, 1));
	/* An error is one line. */
	if (status == 1)
		assert_ptr_equal(strchr(text_of(&p, 1), '\n') + 1,
		    text_of(&p, 1) + p.text[1].len);
	free_tool(&p);
}
