/* SPDX-License-Identifier: Apache-2.0 */
#include "mdns_kit.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

char address[32];
uint16_t port;
const char *node_address = "127.0.0.1:4242";
int other_network = -1;

int
udp_socket(const char *bind_to, uint16_t bind_port, bool share)
{
	struct sockaddr_in in = {
	    .sin_family = AF_INET, .sin_port = htons(bind_port)};
	int yes = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct in_addr lo = {.s_addr = htonl(INADDR_LOOPBACK)};
	inet_pton(AF_INET, bind_to, &in.sin_addr);
	if (share) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes));
	}
	setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof(lo));
	if (bind(fd, (struct sockaddr *)&in, sizeof(in)) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A socket as any other mDNS program of this host has it. */
int
group_socket(void)
{
	struct ip_mreq join = {.imr_interface.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = udp_socket("0.0.0.0", port, true);
	assert_true(fd >= 0);
	inet_pton(AF_INET, GROUP, &join.imr_multiaddr);
	assert_int_equal(
	    setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join)),
	    0);
	return fd;
}

void
send_to(
    int fd, const char *host, uint16_t to_port, const void *data, size_t len)
{
	struct sockaddr_in to = {
	    .sin_family = AF_INET, .sin_port = htons(to_port)};
	inet_pton(AF_INET, host, &to.sin_addr);
	sendto(fd, data, len, 0, (struct sockaddr *)&to, sizeof(to));
}

/* A datagram within `timeout_ms`, or -1. */
ssize_t
receive(int fd, void *data, size_t size, struct sockaddr_in *from,
    int64_t timeout_ms)
{
	struct pollfd one = {.fd = fd, .events = POLLIN};
	socklen_t len = sizeof(*from);
	if (poll(&one, 1, (int)timeout_ms) != 1)
		return -1;
	return recvfrom(fd, data, size, 0, (struct sockaddr *)from, &len);
}

struct svc_registry *
registry_at(const char *where)
{
	struct svc_registry_config config = {
	    .address = where, .timeout_ms = 5000};
	struct svc_registry *registry = NULL;
	struct svc_error err = {.code = SVC_OK};
	if (svc_registry_create("mdns", &config, &registry, &err) != SVC_OK)
		fprintf(stderr, "%s\n", err.text);
	return registry;
}

svc_err
announce(struct svc_registry *registry, const char *service, const char *id,
    const char *color, int64_t ttl_ms)
{
	struct svc_error err = {.code = SVC_OK};
	struct svc_headers *metadata = svc_headers_create();
	svc_headers_set(metadata, "color", color);
	struct svc_node node = {
	    .id = id, .address = node_address, .metadata = metadata};
	struct svc_record record = {
	    .name = service, .version = "1.0.0", .nodes = &node, .n_nodes = 1};
	svc_err rc = svc_registry_announce(registry, &record, ttl_ms, &err);
	if (rc != SVC_OK)
		fprintf(stderr, "%s\n", err.text);
	svc_headers_destroy(metadata);
	return rc;
}

svc_err
withdraw(struct svc_registry *registry, const char *service, const char *id)
{
	struct svc_node node = {.id = id, .address = node_address};
	struct svc_record record = {
	    .name = service, .version = "1.0.0", .nodes = &node, .n_nodes = 1};
	return svc_registry_withdraw(registry, &record, NULL);
}

/* How many nodes the list has of the service. */
static size_t
count(const struct svc_record_list *list, const char *service)
{
	size_t n = 0;
	for (size_t i = 0; i < list->n_records; i++)
		if (strcmp(list->records[i]->name, service) == 0)
			n += list->records[i]->n_nodes;
	return n;
}

/* Nodes of a service; with list instead of lookup when `all`. */
size_t
nodes_of(struct svc_registry *registry, const char *service, bool all)
{
	struct svc_record_list list = {.n_records = 0};
	struct svc_error err = {.code = SVC_OK};
	svc_err rc = all ? svc_registry_list(registry, &list, &err)
			 : svc_registry_lookup(registry, service, &list, &err);
	if (rc == SVC_E_NOT_FOUND)
		return 0;
	if (rc != SVC_OK)
		fail_msg("%s", err.text);
	size_t n = count(&list, service);
	svc_record_list_fini(&list);
	return n;
}

bool
nodes_become(
    struct svc_registry *registry, const char *service, bool all, size_t n)
{
	int64_t deadline = svc_deadline(PATIENCE_MS);
	while (nodes_of(registry, service, all) != n)
		if (svc_remaining(deadline) == 0)
			return false;
	return true;
}

static void
seen_change(svc_change change, const struct svc_record *record, void *arg)
{
	struct seen *seen = arg;
	pthread_mutex_lock(&seen->lock);
	seen->counts[change]++;
	if (record != NULL) {
		const struct svc_node *node = &record->nodes[0];
		const char *color = svc_headers_get(node->metadata, "color");
		snprintf(seen->id, sizeof(seen->id), "%s", node->id);
		snprintf(seen->color, sizeof(seen->color), "%s",
		    color != NULL ? color : "");
		snprintf(seen->version, sizeof(seen->version), "%s",
		    record->version);
		snprintf(
		    seen->address, sizeof(seen->address), "%s", node->address);
	}
	pthread_cond_broadcast(&seen->cond);
	pthread_mutex_unlock(&seen->lock);
}

struct svc_watch *
seen_start(
    struct seen *seen, struct svc_registry *registry, const char *service)
{
	struct svc_watch *watch = NULL;
	memset(seen, 0, sizeof(*seen));
	pthread_mutex_init(&seen->lock, NULL);
	svc_cond_init(&seen->cond);
	assert_int_equal(svc_registry_watch(registry, service, seen_change,
			     seen, &watch, NULL),
	    SVC_OK);
	return watch;
}

/* Whether that many of a kind came in time. */
bool
seen_wait(struct seen *seen, svc_change change, size_t n, int64_t timeout_ms)
{
	int64_t deadline = svc_deadline(timeout_ms);
	pthread_mutex_lock(&seen->lock);
	while (seen->counts[change] < n &&
	       svc_cond_wait(&seen->cond, &seen->lock, deadline) == SVC_OK)
		;
	bool ok = seen->counts[change] >= n;
	pthread_mutex_unlock(&seen->lock);
	return ok;
}

size_t
seen_count(struct seen *seen, svc_change change)
{
	pthread_mutex_lock(&seen->lock);
	size_t n = seen->counts[change];
	pthread_mutex_unlock(&seen->lock);
	return n;
}

struct other
other_start(const char *const args[])
{
	struct other other;
	int in[2], out[2];
	char self[] = "/proc/self/exe";
	char *argv[8] = {self};
	for (size_t i = 0; args[i] != NULL; i++)
		argv[i + 1] = strdup(args[i]);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	other.pid = fork();
	assert_true(other.pid >= 0);
	if (other.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (other_network >= 0 &&
		    setns(other_network, CLONE_NEWNET) != 0)
			_exit(126);
		dup2(in[0], 0);
		dup2(out[1], 1);
		execv(self, argv);
		_exit(127);
	}
	for (size_t i = 0; args[i] != NULL; i++)
		free(argv[i + 1]);
	close(in[0]);
	close(out[1]);
	other.in = in[1];
	other.out = out[0];
	return other;
}

/* Waits for its next line, one character long. */
void
other_says(const struct other *other, char what)
{
	char line[2] = "";
	struct pollfd one = {.fd = other->out, .events = POLLIN};
	assert_int_equal(poll(&one, 1, PATIENCE_MS), 1);
	assert_int_equal(read(other->out, line, 2), 2);
	assert_int_equal(line[0], what);
}

void
other_do(const struct other *other, char what)
{
	assert_int_equal(write(other->in, &what, 1), 1);
	other_says(other, what);
}

int
other_end(struct other *other, int signal)
{
	int status = -1;
	if (signal != 0)
		kill(other->pid, signal);
	close(other->in);
	close(other->out);
	waitpid(other->pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* Announces a node and renews it three times in its TTL; does what standard
 * input says. */
int
other_announces(
    const char *where, const char *service, const char *id, int64_t ttl_ms)
{
	struct svc_registry *registry = registry_at(where);
	const char *color = "red";
	struct svc_record_list list = {.n_records = 0};
	bool on = true;
	char what = 'a';
	if (registry == NULL)
		return 1;
	for (;;) {
		svc_err rc = SVC_OK;
		if (what == 'b')
			color = "blue";
		if (what == 'w') {
			on = false;
			rc = withdraw(registry, service, id);
		}
		if (what == 's') /* stop renewing */
			on = false;
		if (what == 'l') { /* look for the others' service */
			int64_t deadline = svc_deadline(PATIENCE_MS);
			do
				rc = svc_registry_lookup(
				    registry, "theirs", &list, NULL);
			while (rc == SVC_E_NOT_FOUND &&
			       svc_remaining(deadline) > 0);
			svc_record_list_fini(&list);
		}
		if (on && rc == SVC_OK)
			rc = announce(registry, service, id, color, ttl_ms);
		if (rc != SVC_OK)
			what = '!';
		if (what != 0 && (putchar(what) < 0 || putchar('\n') < 0 ||
				     fflush(stdout) != 0))
			return 1;
		struct pollfd one = {.fd = 0, .events = POLLIN};
		what = 0;
		if (poll(&one, 1, (int)(ttl_ms / 3)) == 1 &&
		    read(0, &what, 1) != 1)
			break;
	}
	svc_registry_destroy(registry);
	return 0;
}

struct other
announcer(const char *service, const char *id, const char *ttl_ms)
{
	const char *args[] = {"announce", address, service, id, ttl_ms, NULL};
	struct other other = other_start(args);
	other_says(&other, 'a');
	return other;
}

/* A port on which no other test of this host speaks. */
bool
port_pick(void)
{
	for (int i = 0; i < 100; i++) {
		port = (uint16_t)(15000 + svc_random_below(15000));
		int fd = udp_socket("0.0.0.0", port, false);
		if (fd < 0)
			continue;
		close(fd);
		snprintf(address, sizeof(address), "lo:%u", (unsigned)port);
		return true;
	}
	return false;
}
