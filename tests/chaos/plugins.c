/* SPDX-License-Identifier: Apache-2.0 */
/* What the server of each registry can suffer, and how. */
#include "plugins.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------- one server of tests/support
 */

static bool
started(struct world *world, struct test_server *server)
{
	world->server = server;
	if (server == NULL)
		return false;
	world->port = server->port;
	snprintf(world->address, sizeof(world->address), "%s", server->address);
	return true;
}

static void
server_kill(struct world *world)
{
	test_server_kill(world->server);
}

static bool
server_again(struct world *world, bool keep_data)
{
	return test_server_start_again(world->server, keep_data) ||
	       world_fail(world, "the server does not start again");
}

static void
server_freeze(struct world *world)
{
	test_server_freeze(world->server);
}

static void
server_thaw(struct world *world)
{
	test_server_thaw(world->server);
}

/* -------------------------------------------------------------------- etcd */

static bool
etcd_start(struct world *world)
{
	return started(world, start_etcd(NULL));
}

char *
etcd_post(int port, const char *path, const char *body)
{
	char url[96];
	snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", port, path);
	const char *const argv[] = {
	    "curl", "-sS", "-m", "5", url, "-d", body, NULL};
	return test_run(argv, NULL);
}

/* An alarm as etcd raises when its disk quota is full: every write is refused
 * until somebody takes it back. */
static bool
etcd_fill(struct world *world, bool full)
{
	char body[96];
	snprintf(body, sizeof(body),
	    "{\"action\":\"%s\",\"memberID\":\"1\",\"alarm\":\"NOSPACE\"}",
	    full ? "ACTIVATE" : "DEACTIVATE");
	char *answer = etcd_post(world->port, "/v3/maintenance/alarm", body);
	bool ok = answer != NULL && strstr(answer, "\"alarms\"") != NULL;
	if (!ok)
		world_fail(world, "etcd takes no alarm: %.80s",
		    answer != NULL ? answer : "no answer");
	free(answer);
	return ok;
}

static const struct plugin etcd = {
    .label = "etcd",
    .name = "etcd",
    .program = "etcd",
    .start = etcd_start,
    .kill = server_kill,
    .again = server_again,
    .freeze = server_freeze,
    .thaw = server_thaw,
    .fill = etcd_fill,
};

/* ------------------------------------------------------ three nodes of etcd */

static int cluster_ports[SERVERS_MAX][2]; /* clients, peers */

bool
cluster_start_member(struct world *world, int i)
{
	char name[8], data[300], client[48], peer[48], all[160] = "", log[300];
	for (int m = 0; m < SERVERS_MAX; m++)
		snprintf(all + strlen(all), sizeof(all) - strlen(all),
		    "%sn%d=http://127.0.0.1:%d", m > 0 ? "," : "", m,
		    cluster_ports[m][1]);
	snprintf(name, sizeof(name), "n%d", i);
	snprintf(data, sizeof(data), "%s/etcd-%d", world->logs, i);
	snprintf(log, sizeof(log), "%s/etcd-%d.log", world->logs, i);
	snprintf(
	    client, sizeof(client), "http://127.0.0.1:%d", cluster_ports[i][0]);
	snprintf(
	    peer, sizeof(peer), "http://127.0.0.1:%d", cluster_ports[i][1]);
	const char *const argv[] = {"etcd", "--name", name, "--data-dir", data,
	    "--listen-client-urls", client, "--advertise-client-urls", client,
	    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
	    "--initial-cluster", all, "--heartbeat-interval", "50",
	    "--election-timeout", "500", "--unsafe-no-fsync", NULL};
	return proc_start(&world->members[i],
	    &(struct proc_how){.argv = argv, .log = log, .out_to_log = true});
}

int
cluster_leader(struct world *world)
{
	for (int i = 0; i < SERVERS_MAX; i++) {
		char leader[32] = "", member[32] = "-";
		if (world->members[i].pid == 0)
			continue;
		char *answer = etcd_post(
		    cluster_ports[i][0], "/v3/maintenance/status", "{}");
		const char *at =
		    answer != NULL ? strstr(answer, "\"leader\":\"") : NULL;
		if (at != NULL)
			sscanf(at, "\"leader\":\"%31[0-9]", leader);
		at = answer != NULL ? strstr(answer, "\"member_id\":\"") : NULL;
		if (at != NULL)
			sscanf(at, "\"member_id\":\"%31[0-9]", member);
		free(answer);
		if (strcmp(leader, member) == 0)
			return i;
	}
	return -1;
}

static bool
cluster_start(struct world *world)
{
	int64_t until_ms = real_ms() + 30000;
	for (int i = 0; i < SERVERS_MAX; i++) {
		cluster_ports[i][0] = test_free_port();
		cluster_ports[i][1] = test_free_port();
	}
	for (int i = 0; i < SERVERS_MAX; i++) {
		if (!cluster_start_member(world, i))
			return false;
		snprintf(world->address + strlen(world->address),
		    sizeof(world->address) - strlen(world->address),
		    "%s127.0.0.1:%d", i > 0 ? "," : "", cluster_ports[i][0]);
	}
	while (cluster_leader(world) < 0) {
		if (real_ms() > until_ms)
			return false;
		poll(NULL, 0, 50);
	}
	return true;
}

static const struct plugin etcd_cluster = {
    .label = "etcd-x3",
    .name = "etcd",
    .own_faults = true,
    .program = "etcd",
    .start = cluster_start,
};

/* ------------------------------------------------------------------- redis */

static bool
redis_start(struct world *world)
{
	return started(world, start_redis(NULL));
}

/* It refuses writes when it may use no more memory. */
static bool
redis_fill(struct world *world, bool full)
{
	char port[16];
	snprintf(port, sizeof(port), "%d", world->port);
	const char *const argv[] = {"redis-cli", "-p", port, "config", "set",
	    "maxmemory", full ? "1" : "0", NULL};
	return world_command(world, argv);
}

static const struct plugin redis = {
    .label = "redis",
    .name = "redis",
    .program = "redis-server",
    .start = redis_start,
    .kill = server_kill,
    .again = server_again,
    .freeze = server_freeze,
    .thaw = server_thaw,
    .fill = redis_fill,
};

/* ------------------------------------------------------------------ consul */

static bool
consul_start(struct world *world)
{
	char config[400];
	/* An agent without a leader keeps renewals waiting for 7 s, unless it
	 * is told another time: a tenth, as is the TTL. */
	snprintf(config, sizeof(config),
	    "server = true\ndata_dir = \"%s\"\n"
	    "performance {\n  rpc_hold_timeout = \"700ms\"\n}\n",
	    world->disk);
	return started(
	    world, start_consul(world->disk[0] != '\0' ? config : NULL));
}

/* Its log has pages left in which it can still write. */
static bool
takes_writes(const struct world *world)
{
	char url[96], body[1024];
	memset(body, 'x', sizeof(body) - 1);
	body[sizeof(body) - 1] = '\0';
	snprintf(
	    url, sizeof(url), "http://127.0.0.1:%d/v1/kv/ballast", world->port);
	const char *const argv[] = {
	    "curl", "-sS", "-m", "5", "-X", "PUT", url, "-d", body, NULL};
	char *answer = test_run(argv, NULL);
	bool taken = answer != NULL && strcmp(answer, "true") == 0;
	free(answer);
	return taken;
}

/* No setting makes it refuse writes, and a full disk does. */
static bool
consul_fill(struct world *world, bool full)
{
	static const char nothing[4096];
	char path[300];
	snprintf(path, sizeof(path), "%s/ballast", world->disk);
	if (!full)
		return unlink(path) == 0 ||
		       world_fail(world, "%s: %s", path, strerror(errno));
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return world_fail(world, "%s: %s", path, strerror(errno));
	ssize_t wrote;
	do {
		wrote = write(fd, nothing, sizeof(nothing));
	} while (wrote > 0 || (wrote < 0 && errno == EINTR));
	bool filled = wrote < 0 && errno == ENOSPC;
	close(fd);
	for (int i = 0; filled && takes_writes(world); i++)
		filled = i < 1000;
	return filled || world_fail(world, "consul's disk is not full");
}

static const struct plugin consul = {
    .label = "consul",
    .name = "consul",
    .program = "consul",
    .start = consul_start,
    .kill = server_kill,
    .again = server_again,
    .freeze = server_freeze,
    .thaw = server_thaw,
    .fill = consul_fill,
    .fills_disk = true,
};

/* -------------------------------------------------------------------- mdns */

static bool
mdns_start(struct world *world)
{
	/* A port of its own is a world of its own. */
	world->port = test_free_port();
	snprintf(world->address, sizeof(world->address), "lo:%d", world->port);
	return world->port != 0;
}

static const struct remark mdns_lacks[] = {
    {"cut-clients",
	"a client that hears no announcement for a TTL cannot tell it from the "
	"death of all"},
    {NULL, NULL},
};

static const struct plugin mdns = {
    .label = "mdns",
    .name = "mdns",
    .start = mdns_start,
    .udp = true,
    .lacks = mdns_lacks,
};

const struct plugin *const chaos_plugins[] = {
    &etcd, &etcd_cluster, &redis, &consul, &mdns, NULL};
