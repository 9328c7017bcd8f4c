/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_NODES_TEST_H
#define SVC_NODES_TEST_H

/* Nodes that are not what the registry says, and nodes in processes of their
 * own that can be killed. */

#include "service_test.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static UNUSED svc_err
name_of_node(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	return svc_reply_text(call, rsp, "text/plain", "%s",
	    svc_options_of(svc_call_service(call))->id);
}

static UNUSED svc_err
dies(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call;
	(void)req;
	(void)rsp;
	(void)arg;
	raise(SIGKILL);
	return SVC_OK;
}

/* A node in a process of its own, which can be killed; `serve` gives it its
 * handlers. */
static UNUSED pid_t
start_child_with(void (*serve)(struct svc_service *service), char address[64])
{
	int pipes[2];
	assert_int_equal(pipe(pipes), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		struct svc_service *s = make("student", MORE(id("killed")));
		serve(s);
		if (svc_start(s) != SVC_OK)
			_exit(1);
		const char *bound = svc_options_of(s)->address;
		if (write(pipes[1], bound, strlen(bound) + 1) < 0)
			_exit(1);
		svc_run(s);
		_exit(0);
	}
	close(pipes[1]);
	assert_true(read(pipes[0], address, 64) > 0);
	close(pipes[0]);
	return pid;
}

static UNUSED void
serve_name_and_death(struct svc_service *service)
{
	svc_handle(service, "Student.Name", name_of_node, NULL);
	svc_handle(service, "Student.Die", dies, NULL);
}

/* Dies in the middle of a call of Student.Die. */
static UNUSED pid_t
start_child(char address[64])
{
	return start_child_with(serve_name_and_death, address);
}

#endif
