/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_hosts.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int networks[2] = {-1, -1};
static pid_t there;
static const char *lack = "hosts_start was not called";

static bool
file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok =
	    fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	if (fd >= 0)
		close(fd);
	return ok;
}

/* As root a network namespace is enough; anybody else needs a user namespace
 * in which he is root. */
static bool
leave(void)
{
	char map[64];
	unsigned uid = getuid(), gid = getgid();
	if (unshare(CLONE_NEWNET) == 0)
		return true;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
		return false;
	snprintf(map, sizeof(map), "0 %u 1", uid);
	if (!file_write("/proc/self/setgroups", "deny") ||
	    !file_write("/proc/self/uid_map", map))
		return false;
	snprintf(map, sizeof(map), "0 %u 1", gid);
	return file_write("/proc/self/gid_map", map);
}

/* A process that does nothing but be in the other namespace. */
static bool
there_start(void)
{
	int ready[2];
	char byte = 0;
	if (pipe2(ready, O_CLOEXEC) != 0)
		return false;
	there = fork();
	if (there == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWNET) == 0 && write(ready[1], "r", 1) == 1)
			for (;;)
				pause();
		_exit(1);
	}
	close(ready[1]);
	bool ok = there > 0 && read(ready[0], &byte, 1) == 1;
	close(ready[0]);
	return ok;
}

static int
network_of(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

bool
hosts_start(void)
{
	const char *path = getenv("PATH");
	char longer[4096];
	snprintf(longer, sizeof(longer), "%s:/usr/local/sbin:/usr/sbin:/sbin",
	    path != NULL ? path : "/usr/bin:/bin");
	setenv("PATH", longer, 1);
	if (system("ip -V >/dev/null 2>&1") != 0) {
		lack = "the program ip is not installed";
		return false;
	}
	if (!leave() || !there_start()) {
		lack = "network namespaces are not permitted here";
		return false;
	}
	networks[HERE] = network_of(getpid());
	networks[THERE] = network_of(there);
	host_run(HERE, "ip link set lo up");
	host_run(THERE, "ip link set lo up");
	lack = NULL;
	return true;
}

const char *
hosts_lack(void)
{
	return lack;
}

int
hosts_network(enum host host)
{
	return networks[host];
}

void
hosts_connect(bool v4)
{
	host_run(
	    HERE, "ip link add v1 type veth peer name v2 netns %d", (int)there);
	host_run(HERE, "ip link set v1 up");
	host_run(THERE, "ip link set v2 up");
	if (!v4)
		return;
	host_run(HERE, "ip addr add 10.99.0.1/24 dev v1");
	host_run(THERE, "ip addr add 10.99.0.2/24 dev v2");
}

void
hosts_disconnect(void)
{
	host_run(HERE, "ip link del v1");
}

static pid_t
start(enum host host, const char *command, int out)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (setns(networks[host], CLONE_NEWNET) != 0)
		_exit(126);
	dup2(out, 1);
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

__attribute__((format(printf, 1, 0))) static char *
command_of(const char *format, va_list args)
{
	char *command = NULL;
	if (vasprintf(&command, format, args) < 0)
		abort();
	return command;
}

static int
wait_for(pid_t pid)
{
	int status = -1;
	waitpid(pid, &status, 0);
	return status;
}

void
host_run(enum host host, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	char *command = command_of(format, args);
	va_end(args);
	if (wait_for(start(host, command, 2)) != 0)
		fail_msg("on host %d: %s", host, command);
	free(command);
}

char *
host_output(enum host host, const char *format, ...)
{
	va_list args;
	int out[2];
	va_start(args, format);
	char *command = command_of(format, args);
	va_end(args);
	if (pipe2(out, O_CLOEXEC) != 0)
		abort();
	pid_t pid = start(host, command, out[1]);
	close(out[1]);
	free(command);
	size_t len = 0, cap = 65536;
	char *text = malloc(cap);
	ssize_t n;
	while (text != NULL && len + 1 < cap &&
	       (n = read(out[0], text + len, cap - len - 1)) > 0)
		len += (size_t)n;
	close(out[0]);
	if (text != NULL)
		text[len] = '\0';
	if (wait_for(pid) == 0)
		return text;
	free(text);
	return NULL;
}

static void
settle(enum host host, const char *device)
{
	host_run(host,
	    "i=0; while ip -6 addr show dev %s | grep -q tentative; do "
	    "i=$((i + 1)); [ $i -lt 200 ] || exit 1; sleep 0.05; done",
	    device);
}

void
hosts_connect_settled(bool v4)
{
	hosts_connect(v4);
	settle(HERE, "v1");
	settle(THERE, "v2");
}

int
hosts_cut(void **state)
{
	(void)state;
	if (lack == NULL)
		host_run(HERE, "ip link del v1 2>/dev/null || true");
	return 0;
}

pid_t
host_start(enum host host, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	char *command = command_of(format, args);
	va_end(args);
	pid_t pid = start(host, command, 2);
	free(command);
	assert_true(pid > 0);
	return pid;
}

void
host_end(pid_t pid)
{
	kill(pid, SIGTERM);
	wait_for(pid);
}
