/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a service costs before any load. As a client: the time from exec to the
 * first call served, by the caller's clock, as latency of `calls` starts. As a
 * server: a service on the default options that waits, to look at its memory.
 */
#include "common/bench.h"
#include "peers/announce.h"

#include <signal.h>
#include <sys/wait.h>

static void
first_call(const struct bench_options *options, struct bench_load *load)
{
	char address[64];
	struct svc_error err = {0};
	struct svc_message rsp, req = {.data = "\0\0\0\0\0\0\0", .len = 8};
	/* One that knows no node yet. */
	struct svc_service *caller = bench_caller(NULL);
	int64_t began = bench_now();
	pid_t pid = bench_spawn_peer(options, "svc", "127.0.0.1:0", address);
	bench_announce(caller, address, "echo-0", false);
	if (svc_call(svc_client_of(caller), "echo", "Echo.Echo", &req, &rsp,
		detail(&err)) != SVC_OK)
		bench_die("%s", err.text);
	bench_note(load, bench_now() - began);
	svc_message_free(&rsp);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	svc_free(caller);
}

static int
drive(const struct bench_options *options, struct bench_load *load)
{
	if (options->pids != NULL) { /* of the service that waits */
		bench_note(load, 0);
		return 0;
	}
	for (int i = 0; i < options->calls; i++)
		first_call(options, load);
	return 0;
}

static int
serve(const struct bench_options *options)
{
	struct svc_service *service = svc_new(
	    name("idle"), registry(mdns, "lo"), address(options->address));
	if (svc_start(service) != SVC_OK)
		bench_die("%s", svc_error_text(service));
	bench_ready(svc_options_of(service)->address, NULL);
	return bench_wait();
}

int
main(int argc, char *argv[])
{
	static const struct bench_peer peer = {
	    .name = "svc",
	    .serve = serve,
	    .drive = drive,
	};
	return bench_main(argc, argv, &peer);
}
