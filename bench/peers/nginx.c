/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nginx as one process: POST with a body, answered by a body of the same
 * length from its configuration, on connections that are kept. The client is
 * that of the raw peer, speaking HTTP/1.1.
 */
#include "common/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD 256 /* more than the head of a request */
#define MOST                                                            \
	((size_t)2048) /* nginx takes no longer text in a configuration \
			*/

static void
write_config(
    const char *folder, const char *path, const char *address, size_t size)
{
	FILE *f = fopen(path, "we");
	if (f == NULL)
		bench_die("cannot write %s: %s", path, strerror(errno));
	fprintf(f,
	    "daemon off;\nmaster_process off;\npid %s/pid;\n"
	    "events { worker_connections 4096; }\nhttp {\n"
	    "access_log off;\nkeepalive_requests 1000000000;\n"
	    "client_body_temp_path %s/body;\nproxy_temp_path %s/proxy;\n"
	    "fastcgi_temp_path %s/fastcgi;\nuwsgi_temp_path %s/uwsgi;\n"
	    "scgi_temp_path %s/scgi;\n"
	    "server { listen %s; location / { return 200 \"",
	    folder, folder, folder, folder, folder, folder, address);
	for (size_t i = 0; i < size; i++)
		fputc('x', f);
	fputs("\"; } } }\n", f);
	fclose(f);
}

static int
serve(const struct bench_options *options)
{
	char address[64], folder[128], path[160], pid[16];
	const char *scratch = getenv("TMPDIR");
	if (options->size > MOST)
		bench_die("sizes up to %zu only", MOST);
	snprintf(folder, sizeof(folder), "%s/bench-nginx-XXXXXX",
	    scratch != NULL ? scratch : "/tmp");
	if (mkdtemp(folder) == NULL)
		bench_die("cannot make %s: %s", folder, strerror(errno));
	snprintf(path, sizeof(path), "%s/nginx.conf", folder);
	snprintf(address, sizeof(address), "127.0.0.1:%d", bench_free_port());
	write_config(folder, path, address, options->size);
	const char *const command[] = {
	    "nginx", "-c", path, "-p", folder, "-e", "/dev/null", NULL};
	snprintf(pid, sizeof(pid), "%d", (int)bench_spawn(command, address));
	bench_ready(address, pid);
	return bench_wait();
}

static size_t
write_request(
    uint8_t *out, const struct bench_options *options, int slot, bool slow)
{
	(void)slot, (void)slow;
	int n = snprintf((char *)out, HEAD,
	    "POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: %zu\r\n\r\n",
	    options->size);
	memset(out + n, 'x', options->size);
	return (size_t)n + options->size;
}

static size_t
read_reply(const uint8_t *in, size_t len, int *slot)
{
	static const char name[] = "\r\nContent-Length: ";
	(void)slot; /* one call at a time on a connection */
	const uint8_t *body = memmem(in, len, "\r\n\r\n", 4);
	if (body == NULL)
		return 0;
	size_t head = (size_t)(body - in) + 4;
	const uint8_t *length = memmem(in, head, name, sizeof(name) - 1);
	if (len < 12 || memcmp(in + 9, "200", 3) != 0 || length == NULL)
		bench_die("nginx answers: %.*s", (int)head, (const char *)in);
	size_t body_size =
	    strtoul((const char *)length + sizeof(name) - 1, NULL, 10);
	return len - head >= body_size ? head + body_size : 0;
}

static int
drive(const struct bench_options *options, struct bench_load *load)
{
	const struct bench_wire wire = {
	    .request = HEAD + options->size,
	    .write = write_request,
	    .read = read_reply,
	};
	return bench_drive_sockets(options, load, &wire);
}

int
main(int argc, char *argv[])
{
	static const struct bench_peer peer = {
	    .name = "nginx",
	    .abilities = BENCH_OPEN_LOOP,
	    .serve = serve,
	    .drive = drive,
	};
	return bench_main(argc, argv, &peer);
}
