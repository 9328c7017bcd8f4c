/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is waited for may take so long on a busy machine; no bound of a row. */
enum { PATIENCE_MS = 60000, LOOK_MS = 50, WARM_CALLS = 20 };

bool
world_fail(struct world *world, const char *format, ...)
{
	struct result *result = world->result;
	size_t at = strlen(result->reason);
	if (at > 0 && at + 2 < sizeof(result->reason))
		at += (size_t)snprintf(
		    result->reason + at, sizeof(result->reason) - at, "; ");
	va_list args;
	va_start(args, format);
	if (at < sizeof(result->reason))
		vsnprintf(result->reason + at, sizeof(result->reason) - at,
		    format, args);
	va_end(args);
	return false;
}

bool
world_command(struct world *world, const char *const argv[])
{
	int status = -1;
	char *out = test_run(argv, &status);
	bool ok = out != NULL && status == 0;
	if (!ok) {
		char line[200] = "";
		for (size_t i = 0; argv[i] != NULL; i++)
			snprintf(line + strlen(line),
			    sizeof(line) - strlen(line), "%s ", argv[i]);
		world_fail(world, "%sended with %d", line, status);
	}
	free(out);
	return ok;
}

/* ---------------------------------------------------------------- children */

static const char *
log_of(const struct world *world, const char *name, char *path, size_t size)
{
	snprintf(path, size, "%s/%s.log", world->logs, name);
	return path;
}

static bool
start_child(struct world *world, struct proc *proc, const char *kind,
    const char *id, int gid)
{
	char path[320], registry[64], address[160], id_flag[64], plugins[512];
	char ttl[40], interval[40], clock[320];
	const struct fault *fault = world->fault;
	unsigned needs = fault->needs;
	snprintf(
	    registry, sizeof(registry), "--registry=%s", world->plugin->name);
	snprintf(
	    address, sizeof(address), "--registry_address=%s", world->address);
	snprintf(id_flag, sizeof(id_flag), "--id=%s", id);
	snprintf(ttl, sizeof(ttl), "--registry_ttl=%dms",
	    fault->ttl_ms > 0 ? fault->ttl_ms
	    : world->busy     ? BUSY_TTL_MS
			      : TTL_MS);
	snprintf(interval, sizeof(interval), "--registry_interval=%dms",
	    fault->interval_ms > 0 ? fault->interval_ms : INTERVAL_MS);
	snprintf(
	    plugins, sizeof(plugins), "SVC_PLUGIN_PATH=%s", world->plugins);
	snprintf(clock, sizeof(clock), CHAOS_WALL_CLOCK "=%s",
	    world->wall_clock_file);
	/* A node that says nothing is found out before calls give up. */
	const char *keepalive = "--keepalive=1s";
	const char *timeout = "--client_request_timeout=10s";
	if (world->busy) {
		keepalive = "--keepalive=5s";
		timeout = "--client_request_timeout=30s";
	} else if (needs & FAST_CLOCK) {
		keepalive = "--keepalive=20s";
		timeout = "--client_request_timeout=120s";
	}
	const char *argv[] = {world->self, kind, registry, address, ttl,
	    interval, id_flag, keepalive, timeout, "--broker=memory", NULL};
	const char *env[8] = {plugins};
	size_t n = 1;
	if (needs & FAST_CLOCK)
		env[n++] = CHAOS_CLOCK "=1";
	if (needs & WALL_CLOCK) {
		env[n++] = "LD_PRELOAD=" CHAOS_WALL_CLOCK_LIB;
		env[n++] = clock;
	}
	env[n] = NULL;
	return proc_start(
	    proc, &(struct proc_how){
		      .argv = argv,
		      .log = log_of(world, id, path, sizeof(path)),
		      .gid = world->own_network ? gid : 0,
		      .env = env,
		  });
}

int
world_add_node(struct world *world)
{
	if (world->n_nodes == NODES_MAX)
		return -1;
	int i = world->n_nodes++;
	struct node *node = &world->nodes[i];
	node->gid = GID_NODE + i;
	snprintf(node->id, sizeof(node->id), "node-%d", i + 1);
	if (!start_child(world, &node->proc, "node", node->id, node->gid)) {
		world_fail(world, "%s cannot be started", node->id);
		return -1;
	}
	node->expected = true;
	return i;
}

void
world_victim(struct world *world, int i)
{
	world->victim = i;
	world->nodes[i].expected = false;
	world->injected_at_ms = real_ms();
	for (int c = 0; c < CLIENTS; c++)
		world->clients[c].gone_at_ms[i] = 0;
}

void
world_tell_all(struct world *world, const char *line)
{
	for (int i = 0; i < world->n_nodes; i++)
		proc_tell(&world->nodes[i].proc, line);
	for (int i = 0; i < CLIENTS; i++)
		proc_tell(&world->clients[i].proc, line);
}

/* ------------------------------------------------------ what clients report */

static int
node_by_id(const struct world *world, const char *id)
{
	for (int i = 0; i < world->n_nodes; i++)
		if (strcmp(world->nodes[i].id, id) == 0)
			return i;
	return -1;
}

/* Adds to "CODE n, CODE n". */
static void
tally(char *codes, size_t size, const char *code)
{
	char made[160] = "", one[64];
	bool found = false;
	const char *at = codes;
	int count, used;
	while (sscanf(at, "%63[^ ,] %d%n", one, &count, &used) == 2) {
		if (strcmp(one, code) == 0) {
			count++;
			found = true;
		}
		snprintf(made + strlen(made), sizeof(made) - strlen(made),
		    "%s%s %d", made[0] != '\0' ? ", " : "", one, count);
		at += used;
		at += strspn(at, ", ");
	}
	if (!found)
		snprintf(made + strlen(made), sizeof(made) - strlen(made),
		    "%s%s 1", made[0] != '\0' ? ", " : "", code);
	snprintf(codes, size, "%s", made);
}

static void
heard(struct world *world, struct client *client, const char *line)
{
	char word[64];
	long long a, b;
	int i;
	if (sscanf(line, "calls %lld %lld", &a, &b) == 2) {
		client->calls = a;
		client->failed = b;
	} else if (sscanf(line, "failed SVC_%63s %lld", word, &a) == 2) {
		tally(world->result->codes, sizeof(world->result->codes), word);
	} else if (sscanf(line, "there %63s %lld", word, &a) == 2 &&
		   (i = node_by_id(world, word)) >= 0) {
		client->there[i] = true;
	} else if (sscanf(line, "gone %63s %lld", word, &a) == 2 &&
		   (i = node_by_id(world, word)) >= 0) {
		client->there[i] = false;
		if (client->gone_at_ms[i] == 0 && world->injected_at_ms > 0)
			client->gone_at_ms[i] = a;
		if (world->nodes[i].expected)
			world->result->dropped++;
	}
}

static void
listen_to(struct world *world)
{
	char line[256];
	for (int i = 0; i < CLIENTS; i++) {
		struct client *client = &world->clients[i];
		while (proc_line(&client->proc, line, sizeof(line)))
			heard(world, client, line);
	}
}

bool
world_until(
    struct world *world, bool (*done)(struct world *world), int64_t limit_ms)
{
	int64_t until_ms = real_ms() + limit_ms;
	for (;;) {
		listen_to(world);
		if (done != NULL && done(world))
			return true;
		int64_t left_ms = until_ms - real_ms();
		if (left_ms <= 0)
			return false;
		struct pollfd p[CLIENTS];
		for (int i = 0; i < CLIENTS; i++)
			p[i] = (struct pollfd){
			    .fd = world->clients[i].proc.out, .events = POLLIN};
		poll(p, CLIENTS, left_ms < 20 ? (int)left_ms : 20);
	}
}

/* -------------------------------------------------------------- conditions */

static bool
all_are_warm(struct world *world)
{
	for (int c = 0; c < CLIENTS; c++)
		if (world->clients[c].calls < WARM_CALLS)
			return false;
	return true;
}

static bool
clients_see_all(struct world *world)
{
	for (int c = 0; c < CLIENTS; c++)
		for (int i = 0; i < world->n_nodes; i++)
			if (world->nodes[i].expected &&
			    !world->clients[c].there[i])
				return false;
	return true;
}

static bool
victim_is_gone(struct world *world)
{
	for (int c = 0; c < CLIENTS; c++)
		if (world->clients[c].gone_at_ms[world->victim] == 0)
			return false;
	return true;
}

/* Whether the registry itself names every node that is expected: asked by
 * somebody who has asked nothing before. */
static bool
registry_has_all(struct world *world)
{
	if (real_ms() < world->looked_at_ms + LOOK_MS)
		return false;
	struct svc_record_list list = {0};
	bool has[NODES_MAX] = {false};
	if (svc_registry_lookup(world->observer, CHAOS_SERVICE, &list, NULL) ==
	    SVC_OK) {
		for (size_t r = 0; r < list.n_records; r++) {
			const struct svc_record *record = list.records[r];
			for (size_t n = 0; n < record->n_nodes; n++) {
				int i = node_by_id(world, record->nodes[n].id);
				if (i >= 0)
					has[i] = true;
			}
		}
		svc_record_list_fini(&list);
	}
	world->looked_at_ms = real_ms();
	for (int i = 0; i < world->n_nodes; i++)
		if (world->nodes[i].expected && !has[i])
			return false;
	return true;
}

static bool
all_is_back(struct world *world)
{
	return clients_see_all(world) && registry_has_all(world);
}

static bool
observe(struct world *world)
{
	struct svc_error err = {0};
	struct svc_registry_config config = {
	    .address = world->address, .timeout_ms = 2000};
	svc_registry_destroy(world->observer);
	world->observer = NULL;
	if (svc_registry_create(
		world->plugin->name, &config, &world->observer, &err) != SVC_OK)
		return world_fail(world, "%s", err.text);
	return true;
}

/* ------------------------------------------------------------------- a row */

/* The TTL, and more on a busy machine. */
static int64_t
ttl_bound_ms(const struct world *world)
{
	return world->busy ? BUSY_TTL_MS + BUSY_SLACK_MS : TTL_MS;
}

static bool
set_up_network(struct world *world)
{
	static const char *const commands[][8] = {
	    {"ip", "link", "set", "lo", "up"},
	    {"ip", "link", "set", "lo", "multicast", "on"},
	    {"ip", "route", "add", "224.0.0.0/4", "dev", "lo"},
	};
	char gid[16];
	if (geteuid() != 0 || unshare(CLONE_NEWNET) != 0)
		return true; /* rows that need it are left out */
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!world_command(world, commands[i]))
			return false;
	world->own_network = true;
	if (!(world->fault->needs & NEEDS_NETWORK))
		return true;
	/* Marks what each child sends, and with it the answers. */
	for (int i = 0; i < NODES_MAX + CLIENTS; i++) {
		snprintf(gid, sizeof(gid), "%d",
		    i < NODES_MAX ? GID_NODE + i : GID_CLIENT + i - NODES_MAX);
		const char *const mark[] = {"iptables", "-w", "-t", "mangle",
		    "-A", "OUTPUT", "-m", "owner", "--gid-owner", gid, "-j",
		    "CONNMARK", "--set-mark", gid, NULL};
		if (!world_command(world, mark))
			return false;
	}
	return true;
}

static bool
set_up_clock(struct world *world)
{
	size_t size = sizeof(*world->wall_clock);
	snprintf(world->wall_clock_file, sizeof(world->wall_clock_file),
	    "%s/clock", world->logs);
	int fd =
	    open(world->wall_clock_file, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	void *at = MAP_FAILED;
	if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
		at =
		    mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (at == MAP_FAILED)
		return world_fail(
		    world, "%s cannot be made", world->wall_clock_file);
	world->wall_clock = at;
	return true;
}

static bool
has_own_disk(const struct world *world)
{
	return (world->fault->needs & OWN_DISK) && world->plugin->fills_disk;
}

/* Seen by this process and its children alone, and gone with them. */
static bool
set_up_disk(struct world *world)
{
	if (!has_own_disk(world))
		return true;
	snprintf(world->disk, sizeof(world->disk), "%s/disk", world->logs);
	return (mkdir(world->disk, 0755) == 0 && unshare(CLONE_NEWNS) == 0 &&
		   mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
		   mount("tmpfs", world->disk, "tmpfs", 0, "size=16m") == 0) ||
	       world_fail(
		   world, "no disk in %s: %s", world->disk, strerror(errno));
}

static bool
set_up(struct world *world)
{
	char id[24];
	if (!set_up_network(world) || !set_up_clock(world) ||
	    !set_up_disk(world))
		return false;
	if (world->fault->needs & SERVER_CLOCK) {
		setenv(CHAOS_WALL_CLOCK, world->wall_clock_file, 1);
		setenv("LD_PRELOAD", CHAOS_WALL_CLOCK_LIB, 1);
	}
	bool ok = world->plugin->start(world);
	unsetenv("LD_PRELOAD");
	if (!ok)
		return world_fail(world, "the registry does not start");
	while (world->n_nodes < NODES)
		if (world_add_node(world) < 0)
			return false;
	if (!observe(world))
		return false;
	if (!world_until(world, registry_has_all, PATIENCE_MS))
		return world_fail(world, "the nodes were never registered");
	for (int i = 0; i < CLIENTS; i++) {
		struct client *client = &world->clients[i];
		client->gid = GID_CLIENT + i;
		snprintf(id, sizeof(id), "client-%d", i + 1);
		if (!start_child(
			world, &client->proc, "client", id, client->gid))
			return world_fail(world, "%s cannot be started", id);
	}
	if (!world_until(world, clients_see_all, PATIENCE_MS) ||
	    !world_until(world, all_are_warm, PATIENCE_MS))
		return world_fail(world, "the clients found nobody to call");
	return true;
}

static void
measure_gone(struct world *world)
{
	struct result *result = world->result;
	if (world->victim < 0)
		return;
	result->gone_bound_ms = ttl_bound_ms(world) + 1000 +
				(has_own_disk(world) ? KEPT_MS : 0) +
				world->fault->gone_more_ms;
	if (!world_until(
		world, victim_is_gone, PATIENCE_MS + result->gone_bound_ms)) {
		world_fail(world, "%s never left every client",
		    world->nodes[world->victim].id);
		return;
	}
	for (int c = 0; c < CLIENTS; c++) {
		int64_t took_ms = world->clients[c].gone_at_ms[world->victim] -
				  (has_own_disk(world) ? world->healed_at_ms
						       : world->injected_at_ms);
		if (took_ms > result->gone_ms)
			result->gone_ms = took_ms;
	}
	if (result->gone_ms > result->gone_bound_ms)
		world_fail(world, "%s left after %lld ms",
		    world->nodes[world->victim].id, (long long)result->gone_ms);
}

static void
measure_back(struct world *world)
{
	struct result *result = world->result;
	world->healed_at_ms = real_ms();
	result->back_bound_ms =
	    ttl_bound_ms(world) + world->fault->back_more_ms;
	if (!observe(world))
		return;
	if (!world_until(world, all_is_back, PATIENCE_MS)) {
		world_fail(world, "not everybody is back in %s",
		    registry_has_all(world) ? "every client" : "the registry");
		return;
	}
	result->back_ms = real_ms() - world->healed_at_ms;
	if (result->back_ms > result->back_bound_ms)
		world_fail(
		    world, "back after %lld ms", (long long)result->back_ms);
}

static void
tear_down(struct world *world)
{
	struct result *result = world->result;
	for (int i = 0; i < CLIENTS; i++) {
		struct client *client = &world->clients[i];
		if (client->proc.pid == 0)
			continue;
		int status = proc_end(&client->proc, PATIENCE_MS / 2);
		listen_to(world);
		if (status != 0)
			world_fail(
			    world, "client-%d ended with %d", i + 1, status);
		result->calls += client->calls;
		result->failed += client->failed;
		proc_close(&client->proc);
	}
	for (int i = 0; i < world->n_nodes; i++) {
		struct node *node = &world->nodes[i];
		proc_thaw(&node->proc);
		int status = proc_end(&node->proc, PATIENCE_MS / 2);
		if (node->expected && status != 0)
			world_fail(world, "%s ended with %d", node->id, status);
		proc_close(&node->proc);
	}
	svc_registry_destroy(world->observer);
	proc_kill(&world->delay);
	for (int i = 0; i < SERVERS_MAX; i++) {
		proc_thaw(&world->members[i]);
		proc_kill(&world->members[i]);
	}
	test_server_stop(world->server);
}

static const char *
remark_on(const struct remark *remark, const struct fault *fault)
{
	for (; remark != NULL && remark->fault != NULL; remark++)
		if (strcmp(remark->fault, fault->name) == 0)
			return remark->why;
	return NULL;
}

/* A row whose means are not there says so; NULL when all are. */
static const char *
missing(const struct world *world)
{
	const struct fault *fault = world->fault;
	const struct plugin *plugin = world->plugin;
	const char *lack = remark_on(plugin->lacks, fault);
	if (lack != NULL)
		return lack;
	if ((fault->needs & NEEDS_SERVER) && plugin->program == NULL)
		return "there is no server";
	if (plugin->program != NULL && !test_server_have(plugin->program))
		return "the server is not installed";
	if ((fault->needs & NEEDS_NETWORK) &&
	    (geteuid() != 0 || !test_server_have("iptables") ||
		!test_server_have("ip")))
		return "needs root, iproute2 and iptables";
	if (has_own_disk(world) && geteuid() != 0)
		return "needs root";
	if ((fault->needs & NEEDS_DELAY) && access(CHAOS_NFQ_DELAY, X_OK) != 0)
		return "needs libnetfilter-queue";
	return NULL;
}

void
world_run(struct world *world)
{
	struct result *result = world->result;
	const struct fault *fault = world->fault;
	const char *lack = missing(world);
	*result = (struct result){.gone_ms = -1, .back_ms = -1};
	world->victim = -1;
	if (lack != NULL) {
		snprintf(result->reason, sizeof(result->reason), "%s", lack);
		return;
	}
	result->ran = true;
	if (set_up(world)) {
		world->injected_at_ms = real_ms();
		if (fault->inject(world)) {
			world_until(world, NULL, fault->hold_ms);
			if (!has_own_disk(world))
				measure_gone(world);
			if (fault->heal == NULL || fault->heal(world))
				measure_back(world);
			if (has_own_disk(world))
				measure_gone(world);
			world_until(world, NULL, fault->after_ms);
		}
	}
	tear_down(world);
	if (result->failed > 0)
		world_fail(world, "calls failed: %s", result->codes);
	if (result->calls == 0)
		world_fail(world, "no call was made");
	result->passed = result->reason[0] == '\0';
}
