/* SPDX-License-Identifier: Apache-2.0 */
#include "child.h"

#include "certificates.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

const struct child_way child_ways[CHILD_WAYS] = {
    {"tcp", "tcp", "127.0.0.1:0", false},
    {"tcp with TLS", "tcp", "127.0.0.1:0", true},
    {"nng", "nng", "127.0.0.1:0", false},
    {"nng with TLS", "nng", "127.0.0.1:0", true},
    {"nng by websocket", "nng", "ws://127.0.0.1:0/svc", false},
};

bool
child_start(
    struct child *child, int (*run)(int tell, const void *arg), const void *arg)
{
	int tell[2];
	if (pipe(tell) != 0)
		return false;
	child->pid = fork();
	if (child->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(tell[0]);
		exit(run(tell[1], arg));
	}
	close(tell[1]);
	ssize_t n = read(tell[0], child->said, sizeof(child->said) - 1);
	close(tell[0]);
	child->said[n > 0 ? n : 0] = '\0';
	return child->pid > 0 && n > 0;
}

void
child_say(int tell, const char *text)
{
	if (write(tell, text, strlen(text) + 1) < 0)
		exit(1);
	close(tell);
}

struct svc_service *
child_make(const struct child_way *way, const char *name, bool serves)
{
	const struct certificates *files = certificates_get();
	struct svc_option list[] = {
	    {SVC_OPTION_TRANSPORT, way->transport, 0, 0, 0, 0, 0},
	    SVC_OPT_registry(memory),
	    SVC_OPT_broker(memory),
	    SVC_OPT_selector(round_robin),
	    SVC_OPT_name(name),
	    SVC_OPT_log_level("warn"),
	    SVC_OPT_end(),
	    SVC_OPT_end(),
	    SVC_OPT_end(),
	};
	size_t n = sizeof(list) / sizeof(list[0]) - 3;
	if (way->tls)
		list[n++] = (struct svc_option)SVC_OPT_tls(
		    files->cert, files->key, files->ca);
	if (serves)
		list[n++] = (struct svc_option)SVC_OPT_address(way->address);
	return svc_new_options(list);
}

int
child_serve(struct svc_service *service, int argc, char *argv[], int tell)
{
	svc_err code = svc_init(service, argc, argv);
	if (code == SVC_E_NOT_FOUND) { /* the plugin was not built */
		child_say(tell, "");
		svc_free(service);
		return 0;
	}
	if (code == SVC_OK)
		code = svc_start(service);
	if (code != SVC_OK) {
		fprintf(stderr, "%s\n", svc_error_text(service));
		return 1;
	}
	child_say(tell, svc_options_of(service)->address);
	code = svc_run(service);
	svc_free(service);
	return svc_exit_status(code);
}

svc_err
child_announce(const struct child *child, const struct child_way *way,
    struct svc_service *caller, const char *service, const char *id)
{
	struct svc_headers *metadata = svc_headers_create();
	svc_headers_set(metadata, "transport", way->transport);
	svc_headers_set(metadata, "svc", "1");
	if (way->tls)
		svc_headers_set(metadata, "tls", "true");
	struct svc_node node = {
	    .id = id, .address = child->said, .metadata = metadata};
	struct svc_record record = {
	    .name = service, .version = "latest", .nodes = &node, .n_nodes = 1};
	svc_err code = svc_registry_announce(
	    svc_registry_of(caller), &record, 3600000, NULL);
	svc_headers_destroy(metadata);
	return code;
}

void
child_freeze(const struct child *child)
{
	siginfo_t info;
	kill(child->pid, SIGSTOP);
	waitid(P_PID, (id_t)child->pid, &info, WSTOPPED);
}

bool
child_end(const struct child *child)
{
	int status = 0;
	kill(child->pid, SIGTERM);
	kill(child->pid, SIGCONT);
	if (waitpid(child->pid, &status, 0) == child->pid && status == 0)
		return true;
	fprintf(stderr, "a child ended with status %x\n", (unsigned)status);
	return false;
}
