/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin between processes, all on lo and a port of their own. Run with
 * arguments, this program is the other process.
 */
#include <conformance/registry.h>

#include <svc/clock.h>
#include <svc/registry.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define GROUP "224.0.0.251"
#define PATIENCE_MS 10000
#define SKIPPED 77

static char address[32]; /* "lo:PORT" */
static uint16_t port;

/* ---------------------------------------------------------------- helpers */

static int
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
static int
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

static void
send_to(
    int fd, const char *host, uint16_t to_port, const void *data, size_t len)
{
	struct sockaddr_in to = {
	    .sin_family = AF_INET, .sin_port = htons(to_port)};
	inet_pton(AF_INET, host, &to.sin_addr);
	sendto(fd, data, len, 0, (struct sockaddr *)&to, sizeof(to));
}

/* A datagram within `timeout_ms`, or -1. */
static ssize_t
receive(int fd, void *data, size_t size, struct sockaddr_in *from,
    int64_t timeout_ms)
{
	struct pollfd one = {.fd = fd, .events = POLLIN};
	socklen_t len = sizeof(*from);
	if (poll(&one, 1, (int)timeout_ms) != 1)
		return -1;
	return recvfrom(fd, data, size, 0, (struct sockaddr *)from, &len);
}

static struct svc_registry *
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

static svc_err
announce(struct svc_registry *registry, const char *service, const char *id,
    const char *color, int64_t ttl_ms)
{
	struct svc_error err = {.code = SVC_OK};
	struct svc_headers *metadata = svc_headers_create();
	svc_headers_set(metadata, "color", color);
	struct svc_node node = {
	    .id = id, .address = "127.0.0.1:4242", .metadata = metadata};
	struct svc_record record = {
	    .name = service, .version = "1.0.0", .nodes = &node, .n_nodes = 1};
	svc_err rc = svc_registry_announce(registry, &record, ttl_ms, &err);
	if (rc != SVC_OK)
		fprintf(stderr, "%s\n", err.text);
	svc_headers_destroy(metadata);
	return rc;
}

static svc_err
withdraw(struct svc_registry *registry, const char *service, const char *id)
{
	struct svc_node node = {.id = id, .address = "127.0.0.1:4242"};
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
static size_t
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

/** What a watch has told so far. */
struct seen {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	size_t counts[SVC_SYNCED + 1];
	char id[200];
	char color[64];
	char version[64];
	char address[64];
};

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

static struct svc_watch *
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
static bool
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

static size_t
seen_count(struct seen *seen, svc_change change)
{
	pthread_mutex_lock(&seen->lock);
	size_t n = seen->counts[change];
	pthread_mutex_unlock(&seen->lock);
	return n;
}

/* What the last change said of its node. */
#define assert_seen(seen, field, value)                              \
	do {                                                         \
		char text_[200];                                     \
		pthread_mutex_lock(&(seen)->lock);                   \
		snprintf(text_, sizeof(text_), "%s", (seen)->field); \
		pthread_mutex_unlock(&(seen)->lock);                 \
		assert_string_equal(text_, value);                   \
	} while (0)

/* ------------------------------------------------------ the other process */

/** This program, started again with arguments. */
struct other {
	pid_t pid;
	int in;  /* its standard input */
	int out; /* its standard output */
};

static struct other
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
static void
other_says(const struct other *other, char what)
{
	char line[2] = "";
	struct pollfd one = {.fd = other->out, .events = POLLIN};
	assert_int_equal(poll(&one, 1, PATIENCE_MS), 1);
	assert_int_equal(read(other->out, line, 2), 2);
	assert_int_equal(line[0], what);
}

static void
other_do(const struct other *other, char what)
{
	assert_int_equal(write(other->in, &what, 1), 1);
	other_says(other, what);
}

static int
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
static int
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
			rc = svc_registry_lookup(
			    registry, "theirs", &list, NULL);
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

static struct other
announcer(const char *service, const char *id, const char *ttl_ms)
{
	const char *args[] = {"announce", address, service, id, ttl_ms, NULL};
	struct other other = other_start(args);
	other_says(&other, 'a');
	return other;
}

/* In a network of its own that has nothing but lo, and with the default
 * address and port. */
static int
other_alone(void)
{
	struct ifreq lo = {.ifr_name = "lo"};
	if (unshare(CLONE_NEWNET) != 0 &&
	    unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
		return SKIPPED;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	lo.ifr_flags = IFF_UP | IFF_RUNNING;
	if (fd < 0)
		return 1;

	/* Nothing to speak on yet: that is an error of the op, and it passes
	 * when there is. */
	struct svc_registry *first = registry_at(NULL);
	if (first == NULL || announce(first, "lonely", "lonely-1", "red",
				 5000) != SVC_E_UNAVAILABLE)
		return 1;
	if (ioctl(fd, SIOCSIFFLAGS, &lo) != 0)
		return SKIPPED;
	close(fd);
	if (announce(first, "lonely", "lonely-1", "red", 5000) != SVC_OK)
		return 1;
	struct svc_registry *second = registry_at("");
	if (second == NULL)
		return 1;
	if (nodes_of(second, "lonely", false) != 1 ||
	    nodes_of(second, "lonely", true) != 1)
		return 1;
	svc_registry_destroy(first);
	svc_registry_destroy(second);
	return 0;
}

/* ------------------------------------------------------------------ tests */

static void
bad_addresses_are_named(void **state)
{
	(void)state;
	static const char *const bad[] = {"nosuch0", "lo:", "lo:0", "lo:65536",
	    "lo:x", "203.0.113.77", "0.0.0.0", "[::1]:5353",
	    "a-very-long-interface-name", "127.0.0.1:5353:1", " lo"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct svc_registry_config config = {
		    .address = bad[i], .timeout_ms = 1000};
		struct svc_registry *registry = NULL;
		struct svc_error err = {.code = SVC_OK};
		assert_int_equal(
		    svc_registry_create("mdns", &config, &registry, &err),
		    SVC_E_INVAL);
		assert_null(registry);
		assert_non_null(strstr(err.text, "allowed"));
		assert_non_null(strstr(err.text, "lo"));
	}
	char text[32];
	snprintf(text, sizeof(text), "127.0.0.1:%u", (unsigned)port);
	struct svc_registry *registry = registry_at(text);
	assert_non_null(registry);
	svc_registry_destroy(registry);
}

static void
processes_see_each_other(void **state)
{
	(void)state;
	struct svc_registry *registry = registry_at(address);
	struct other first = announcer("ours", "ours-1", "30000");
	struct other second = announcer("ours", "ours-2", "30000");
	struct other third = announcer("a.b.ours", "ours-1", "30000");
	assert_int_equal(nodes_of(registry, "ours", false), 2);
	assert_int_equal(nodes_of(registry, "a.b.ours", false), 1);
	assert_int_equal(nodes_of(registry, "ours", true), 2);
	assert_int_equal(nodes_of(registry, "a.b.ours", true), 1);
	assert_int_equal(nodes_of(registry, "our", false), 0);
	assert_int_equal(
	    announce(registry, "theirs", "x", "red", 30000), SVC_OK);
	other_do(&first, 'l');
	other_do(&second, 'l');
	other_do(&third, 'l');
	assert_int_equal(nodes_of(registry, "theirs", false), 1);
	assert_int_equal(other_end(&first, 0), 0);
	assert_int_equal(other_end(&second, 0), 0);
	assert_int_equal(other_end(&third, 0), 0);
	svc_registry_destroy(registry);
}

static void
watch_follows_changes(void **state)
{
	(void)state;
	struct seen one, all;
	struct svc_registry *registry = registry_at(address);
	struct other other = announcer("ours", "ours-1", "30000");
	struct svc_watch *watch = seen_start(&one, registry, "ours");
	struct svc_watch *watch_all = seen_start(&all, registry, NULL);
	assert_true(seen_wait(&one, SVC_SYNCED, 1, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_SYNCED, 1, PATIENCE_MS));
	assert_true(seen_wait(&one, SVC_CREATED, 1, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_CREATED, 1, PATIENCE_MS));
	assert_seen(&one, id, "ours-1");
	assert_seen(&one, color, "red");
	assert_seen(&one, address, "127.0.0.1:4242");

	other_do(&other, 'b');
	assert_true(seen_wait(&one, SVC_UPDATED, 1, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_UPDATED, 1, PATIENCE_MS));
	assert_seen(&one, color, "blue");

	/* A watch of what is known already has it at once. */
	struct seen late;
	struct svc_watch *watch_late = seen_start(&late, registry, "ours");
	assert_true(seen_wait(&late, SVC_SYNCED, 1, PATIENCE_MS));
	assert_int_equal(seen_count(&late, SVC_CREATED), 1);
	svc_registry_unwatch(watch_late);

	struct other second = announcer("ours", "ours-2", "30000");
	assert_true(seen_wait(&one, SVC_CREATED, 2, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_CREATED, 2, PATIENCE_MS));

	other_do(&other, 'w');
	assert_true(seen_wait(&one, SVC_REMOVED, 1, PATIENCE_MS));
	assert_true(seen_wait(&all, SVC_REMOVED, 1, PATIENCE_MS));
	assert_seen(&one, id, "ours-1");
	assert_int_equal(nodes_of(registry, "ours", false), 1);

	/* Another's service is no business of this watch. */
	assert_int_equal(
	    announce(registry, "theirs", "x", "red", 30000), SVC_OK);
	assert_true(seen_wait(&all, SVC_CREATED, 3, PATIENCE_MS));
	assert_int_equal(seen_count(&one, SVC_CREATED), 2);
	assert_int_equal(seen_count(&one, SVC_UPDATED), 1);
	assert_int_equal(seen_count(&all, SVC_UPDATED), 1);
	assert_int_equal(seen_count(&all, SVC_REMOVED), 1);

	svc_registry_unwatch(watch);
	svc_registry_unwatch(watch_all);
	other_end(&other, 0);
	other_end(&second, 0);
	svc_registry_destroy(registry);
}

/* How soon, the conformance suite times. */
static void
the_killed_are_gone(void **state)
{
	(void)state;
	struct seen seen;
	struct svc_registry *registry = registry_at(address);
	struct svc_registry *asking = registry_at(address);
	struct svc_watch *watch = seen_start(&seen, registry, "ours");
	struct other other = announcer("ours", "ours-1", "2000");
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	/* While it renews, it stays. */
	assert_false(seen_wait(&seen, SVC_REMOVED, 1, 3000));
	int64_t killed_at = svc_now_ms();
	other_end(&other, SIGKILL);
	/* Those who remember keep it until its TTL passes; those who ask
	 * now have no answer. */
	assert_int_equal(nodes_of(asking, "ours", false), 0);
	size_t removed = seen_count(&seen, SVC_REMOVED);
	if (svc_now_ms() - killed_at < 500)
		assert_int_equal(removed, 0);
	assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
	assert_int_equal(nodes_of(registry, "ours", false), 0);
	assert_int_equal(seen_count(&seen, SVC_CREATED), 1);
	assert_int_equal(seen_count(&seen, SVC_UPDATED), 0);
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	svc_registry_destroy(asking);
}

static void
the_unrenewed_are_gone(void **state)
{
	(void)state;
	struct seen seen;
	struct svc_registry *registry = registry_at(address);
	struct svc_watch *watch = seen_start(&seen, registry, "ours");
	struct other other = announcer("ours", "ours-1", "1500");
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	other_do(&other, 's');
	assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
	/* Though it still runs and could answer. */
	assert_int_equal(nodes_of(registry, "ours", false), 0);
	svc_registry_unwatch(watch);
	assert_int_equal(nodes_of(registry, "ours", false), 0);
	other_end(&other, 0);
	svc_registry_destroy(registry);
}

/* A goodbye must not be overtaken by an answer that was sent before it. */
static void
withdrawn_nodes_stay_away(void **state)
{
	(void)state;
	struct svc_registry *ours = registry_at(address);
	struct svc_registry *theirs = registry_at(address);
	for (int i = 0; i < 20; i++) {
		struct seen seen;
		assert_int_equal(
		    announce(theirs, "ours", "x", "red", 30000), SVC_OK);
		struct svc_watch *watch = seen_start(&seen, ours, "ours");
		if (i % 2 == 0)
			assert_true(
			    seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
		assert_int_equal(withdraw(theirs, "ours", "x"), SVC_OK);
		assert_true(seen_wait(&seen, SVC_SYNCED, 1, PATIENCE_MS));
		assert_true(seen_wait(&seen, SVC_REMOVED,
		    seen_count(&seen, SVC_CREATED), PATIENCE_MS));
		assert_int_equal(nodes_of(ours, "ours", false), 0);
		svc_registry_unwatch(watch);
	}
	svc_registry_destroy(ours);
	svc_registry_destroy(theirs);
}

/* The question of a go-micro client for service "ours". */
static const uint8_t go_question[] = {0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
    4, 'o', 'u', 'r', 's', 5, 'm', 'i', 'c', 'r', 'o', 0, 0, 12, 0, 1};

static void
go_micro_clients_are_answered(void **state)
{
	(void)state;
	struct svc_registry *registry = registry_at(address);
	uint8_t data[9000];
	struct sockaddr_in from;
	assert_int_equal(
	    announce(registry, "ours", "ours-1", "red", 30000), SVC_OK);
	assert_int_equal(
	    announce(registry, "ours", "ours-2", "red", 30000), SVC_OK);
	int fd = udp_socket("127.0.0.1", 0, false);
	assert_true(fd >= 0);
	send_to(fd, GROUP, port, go_question, sizeof(go_question));
	for (int i = 0; i < 2; i++) {
		ssize_t n = receive(fd, data, sizeof(data), &from, PATIENCE_MS);
		assert_true(n > (ssize_t)sizeof(go_question));
		assert_int_equal(ntohs(from.sin_port), port);
		static const uint8_t header[12] = {
		    0x12, 0x34, 0x84, 0, 0, 1, 0, 4, 0, 0, 0, 0};
		assert_memory_equal(data, header, sizeof(header));
		/* Only an answer that repeats the question is taken. */
		assert_memory_equal(
		    data + 12, go_question + 12, sizeof(go_question) - 12);
	}
	/* One packet for each node, and nothing else. */
	assert_int_equal(receive(fd, data, sizeof(data), &from, 200), -1);
	/* What cannot be a question for us. */
	uint8_t other[sizeof(go_question)];
	memcpy(other, go_question, sizeof(other));
	other[2] = 0x10; /* another operation */
	send_to(fd, GROUP, port, other, sizeof(other));
	memcpy(other, go_question, sizeof(other));
	other[13] = 'O';
	send_to(fd, GROUP, port, other, sizeof(other));
	memcpy(other, go_question, sizeof(other));
	other[27] = 3; /* another class */
	send_to(fd, GROUP, port, other, sizeof(other));
	memcpy(other, go_question, sizeof(other));
	other[25] = 16; /* the service has no TXT */
	send_to(fd, GROUP, port, other, sizeof(other));
	assert_int_equal(receive(fd, data, sizeof(data), &from, 200), -1);
	close(fd);
	svc_registry_destroy(registry);
}

/* What a go-micro node "student" answers, as in a capture: PTR, SRV, A, TXT,
 * without compression of names in the data. */
static size_t
go_answer(
    uint8_t *out, const uint8_t *question, size_t question_len, uint32_t ttl)
{
	static const char txt[] =
	    "\xf8"
	    "789c35cd310bc2400c86e1ff92b994badeeee824b89fbda0876772245f0529fdef"
	    "a6a2ebc39b2f2b9dd95e75664ae4580a0b68a00b9b5795b0c3388d53c8514ad72a"
	    "704ab2b436d089914b46a6b4d2d5f4c116f51de8117753e8ac2de4b9ccbb18dfaa"
	    "c3debb14f1108fb7df9b5f01cbe25d0dff996dfb00c88d343a";
	static const char owner[] = "\7student\5micro";
	static const char instance[] =
	    "\54student-7c9e6679-7425-40de-944b-e07fc1f90ae7\7student\5micro";
	static const char host[] = "\3box";
	struct {
		const char *name;
		size_t name_len;
		uint8_t type;
		const char *data;
		size_t len;
	} records[] = {
	    {owner, sizeof(owner), 12, instance, sizeof(instance)},
	    {instance, sizeof(instance), 33, "\0\12\0\1\37\220\3box", 11},
	    {host, sizeof(host), 1, "\177\0\0\1", 4},
	    {instance, sizeof(instance), 16, txt, sizeof(txt) - 1},
	};
	uint8_t header[12] = {0, 0, 0x84, 0, 0, question_len > 0 ? 1 : 0, 0, 4};
	size_t n = sizeof(header);
	memcpy(out, header, n);
	if (question_len > 0)
		memcpy(out + n, question, question_len);
	n += question_len;
	for (size_t i = 0; i < 4; i++) {
		uint8_t fixed[10] = {0, records[i].type, 0, 1,
		    (uint8_t)(ttl >> 24), (uint8_t)(ttl >> 16),
		    (uint8_t)(ttl >> 8), (uint8_t)ttl,
		    (uint8_t)(records[i].len >> 8), (uint8_t)records[i].len};
		memcpy(out + n, records[i].name, records[i].name_len);
		n += records[i].name_len;
		memcpy(out + n, fixed, sizeof(fixed));
		n += sizeof(fixed);
		memcpy(out + n, records[i].data, records[i].len);
		n += records[i].len;
	}
	return n;
}

/* The next question that holds this label; its sender in `from`. */
static size_t
next_question(int fd, uint8_t *data, size_t size, const char *label,
    struct sockaddr_in *from, int64_t timeout_ms)
{
	int64_t deadline = svc_deadline(timeout_ms);
	for (;;) {
		int64_t left = svc_remaining(deadline);
		ssize_t n = receive(fd, data, size, from, left);
		if (n < 0)
			return 0;
		if (n > 16 && (data[2] & 0x80) == 0 &&
		    memcmp(data + 12, label, strlen(label)) == 0)
			return (size_t)n;
	}
}

static void
go_micro_nodes_are_seen(void **state)
{
	(void)state;
	struct seen seen;
	uint8_t question[9000], packet[9000];
	struct sockaddr_in from;
	int fd = group_socket();
	struct svc_registry *registry = registry_at(address);
	struct svc_watch *watch = seen_start(&seen, registry, "student");
	size_t n = next_question(
	    fd, question, sizeof(question), "\7student", &from, PATIENCE_MS);
	assert_true(n > 12);
	/* Answered to where it was asked from, with a TTL of five seconds. */
	int64_t answered_at = svc_now_ms();
	size_t len = go_answer(packet, question + 12, n - 12, 5);
	send_to(fd, "127.0.0.1", ntohs(from.sin_port), packet, len);
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	assert_seen(&seen, id, "student-7c9e6679-7425-40de-944b-e07fc1f90ae7");
	assert_seen(&seen, address, "127.0.0.1:8080");
	assert_seen(&seen, version, "1.0.0");
	/* go-micro announces only once: before the TTL ends it is asked
	 * again, and whoever answers stays. Questions that only repeat the
	 * first, after one and three seconds, are left unanswered. */
	do {
		n = next_question(fd, question, sizeof(question), "\7student",
		    &from, PATIENCE_MS);
		assert_true(n > 12);
	} while (svc_now_ms() - answered_at < 3800);
	assert_int_equal(seen_count(&seen, SVC_REMOVED), 0);
	len = go_answer(packet, question + 12, n - 12, 60);
	send_to(fd, "127.0.0.1", ntohs(from.sin_port), packet, len);
	assert_false(seen_wait(&seen, SVC_REMOVED, 1, 1500));
	/* Its goodbye goes to the group. */
	len = go_answer(packet, NULL, 0, 0);
	send_to(fd, GROUP, port, packet, len);
	assert_true(seen_wait(&seen, SVC_REMOVED, 1, PATIENCE_MS));
	/* So does the announcement of a new start. */
	len = go_answer(packet, NULL, 0, 60);
	send_to(fd, GROUP, port, packet, len);
	assert_true(seen_wait(&seen, SVC_CREATED, 2, PATIENCE_MS));
	svc_registry_unwatch(watch);
	svc_registry_destroy(registry);
	close(fd);
}

/* Whoever only listens hears announcements, changes and goodbyes. */
static void
listeners_hear_announcements(void **state)
{
	(void)state;
	uint8_t data[9000];
	struct sockaddr_in from;
	int fd = group_socket();
	struct svc_registry *registry = registry_at(address);
	int64_t started_at = svc_now_ms();
	assert_int_equal(
	    announce(registry, "ours", "ours-1", "red", 30000), SVC_OK);
	for (int i = 0; i < 3; i++) {
		assert_true(
		    receive(fd, data, sizeof(data), &from, PATIENCE_MS) > 12);
		assert_int_equal(data[2], 0x84);
		assert_int_equal(data[5], 0);
		assert_int_equal(data[7], 4);
		assert_int_equal(ntohs(from.sin_port), port);
	}
	assert_true(svc_now_ms() - started_at >= 2900);
	/* A renewal is one more. */
	assert_int_equal(
	    announce(registry, "ours", "ours-1", "red", 30000), SVC_OK);
	assert_true(receive(fd, data, sizeof(data), &from, PATIENCE_MS) > 12);
	assert_int_equal(receive(fd, data, sizeof(data), &from, 1200), -1);
	assert_int_equal(withdraw(registry, "ours", "ours-1"), SVC_OK);
	assert_int_equal(withdraw(registry, "ours", "ours-1"), SVC_OK);
	assert_true(receive(fd, data, sizeof(data), &from, PATIENCE_MS) > 12);
	static const uint8_t goodbye[] = {4, 'o', 'u', 'r', 's', 5, 'm', 'i',
	    'c', 'r', 'o', 0, 0, 12, 0, 1, 0, 0, 0, 0};
	assert_memory_equal(data + 12, goodbye, sizeof(goodbye));
	assert_int_equal(receive(fd, data, sizeof(data), &from, 200), -1);
	svc_registry_destroy(registry);
	close(fd);
}

static void
garbage_harms_nothing(void **state)
{
	(void)state;
	struct seen seen;
	uint8_t data[1200], good[9000];
	size_t good_len = go_answer(good, NULL, 0, 60);
	int fd = group_socket();
	struct svc_registry *registry = registry_at(address);
	struct other other = announcer("ours", "ours-1", "30000");
	struct svc_watch *watch = seen_start(&seen, registry, NULL);
	assert_true(seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS));
	svc_random_seed(20240229);
	for (int i = 0; i < 20000; i++) {
		size_t len = (size_t)svc_random_below(sizeof(data));
		if (i % 2 == 0) {
			for (size_t at = 0; at < len; at++)
				data[at] = (uint8_t)svc_random();
			if (len > 2 && i % 4 == 0)
				data[2] = 0x84, data[3] = 0;
		} else {
			len = (size_t)svc_random_below(good_len) + 1;
			memcpy(data, good, len);
			data[svc_random_below(len)] = (uint8_t)svc_random();
		}
		send_to(fd, GROUP, port, data, len);
		if (i % 5000 == 0)
			assert_int_equal(nodes_of(registry, "ours", false), 1);
	}
	/* What was known is known, and what comes is seen. */
	assert_int_equal(nodes_of(registry, "ours", false), 1);
	other_do(&other, 'w');
	int64_t deadline = svc_deadline(PATIENCE_MS);
	while (nodes_of(registry, "ours", false) != 0)
		assert_true(svc_remaining(deadline) > 0);
	svc_registry_unwatch(watch);
	other_end(&other, 0);
	svc_registry_destroy(registry);
	close(fd);
}

static void
many_nodes_are_found(void **state)
{
	(void)state;
	struct svc_registry *ours = registry_at(address);
	struct svc_registry *theirs = registry_at(address);
	for (int i = 0; i < 100; i++) {
		char id[32];
		snprintf(id, sizeof(id), "many-%d", i);
		assert_int_equal(
		    announce(theirs, "many", id, "red", 60000), SVC_OK);
	}
	assert_int_equal(nodes_of(ours, "many", false), 100);
	assert_int_equal(nodes_of(ours, "many", true), 100);
	svc_registry_destroy(ours);
	svc_registry_destroy(theirs);
}

static void *
busy_run(void *arg)
{
	struct svc_registry *registry = arg;
	char id[32];
	snprintf(id, sizeof(id), "busy-%u", (unsigned)svc_random_below(1000));
	for (int i = 0; i < 15; i++) {
		struct seen seen;
		struct svc_watch *watch = seen_start(&seen, registry, "busy");
		announce(
		    registry, "busy", id, i % 2 == 0 ? "red" : "blue", 30000);
		nodes_of(registry, "busy", false);
		seen_wait(&seen, SVC_CREATED, 1, PATIENCE_MS);
		withdraw(registry, "busy", id);
		svc_registry_unwatch(watch);
	}
	return NULL;
}

static void
ops_run_from_many_threads(void **state)
{
	(void)state;
	struct svc_registry *registry = registry_at(address);
	pthread_t threads[4];
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(
		    svc_thread_start(&threads[i], "busy", busy_run, registry),
		    SVC_OK);
	for (size_t i = 0; i < 4; i++)
		svc_thread_join(threads[i]);
	assert_int_equal(nodes_of(registry, "busy", false), 0);
	svc_registry_destroy(registry);
}

static void
lo_alone_is_enough(void **state)
{
	(void)state;
	const char *args[] = {"alone", NULL};
	struct other other = other_start(args);
	int status = other_end(&other, 0);
	if (status == SKIPPED) {
		print_message("no network namespace to be had\n");
		skip();
	}
	assert_int_equal(status, 0);
}

/* A port on which no other test of this host speaks. */
static bool
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

int
main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(bad_addresses_are_named),
	    cmocka_unit_test(processes_see_each_other),
	    cmocka_unit_test(watch_follows_changes),
	    cmocka_unit_test(the_killed_are_gone),
	    cmocka_unit_test(the_unrenewed_are_gone),
	    cmocka_unit_test(withdrawn_nodes_stay_away),
	    cmocka_unit_test(go_micro_clients_are_answered),
	    cmocka_unit_test(go_micro_nodes_are_seen),
	    cmocka_unit_test(listeners_hear_announcements),
	    cmocka_unit_test(garbage_harms_nothing),
	    cmocka_unit_test(many_nodes_are_found),
	    cmocka_unit_test(ops_run_from_many_threads),
	    cmocka_unit_test(lo_alone_is_enough),
	};
	if (argc == 6 && strcmp(argv[1], "announce") == 0)
		return other_announces(
		    argv[2], argv[3], argv[4], strtol(argv[5], NULL, 10));
	if (argc == 2 && strcmp(argv[1], "alone") == 0)
		return other_alone();
	if (!port_pick())
		return 1;
	const struct svc_conformance_registry promises = {
	    .plugin = "mdns",
	    .config = {.address = address, .timeout_ms = 5000},
	};
	int failed = cmocka_run_group_tests_name("mdns", tests, NULL, NULL);
	return failed + svc_conformance_registry(&promises);
}
