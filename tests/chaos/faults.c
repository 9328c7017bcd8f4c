/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to whom. docs/reliability.md says what each row promises. */
#include "plugins.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	LONG_MS = 3 * TTL_MS,
	GRACE_MS = KEPT_MS + 2000,
	SETTLE_MS = 2000,
};

/* -------------------------------------------------------------- a service */

static bool
add_node(struct world *world)
{
	return world_add_node(world) >= 0;
}

static bool
node_stop(struct world *world)
{
	struct node *node = &world->nodes[0];
	world_victim(world, 0);
	int status = proc_end(&node->proc, 30000);
	return status == 0 ||
	       world_fail(world, "%s ended with %d", node->id, status);
}

static const struct fault stop = {
    .name = "stop",
    .what = "a service is stopped in order; another one is started",
    .inject = node_stop,
    .heal = add_node,
    .after_ms = SETTLE_MS,
};

static bool
node_kill(struct world *world)
{
	world_victim(world, 0);
	proc_kill(&world->nodes[0].proc);
	return true;
}

static const struct fault kill_9 = {
    .name = "kill",
    .what = "kill -9 of a service; another one is started",
    .inject = node_kill,
    .heal = add_node,
    .after_ms = SETTLE_MS,
};

static bool
node_freeze(struct world *world)
{
	world_victim(world, 0);
	proc_freeze(&world->nodes[0].proc);
	return true;
}

static bool
node_thaw(struct world *world)
{
	proc_thaw(&world->nodes[0].proc);
	world->nodes[0].expected = true;
	return true;
}

static const struct fault freeze = {
    .name = "freeze",
    .what = "a service is frozen (SIGSTOP) for longer than its TTL, and thawed",
    .inject = node_freeze,
    .hold_ms = 2 * TTL_MS,
    .heal = node_thaw,
    .after_ms = SETTLE_MS,
};

/* -------------------------------------------------------------- the server */

static bool
server_kill(struct world *world)
{
	world->plugin->kill(world);
	return true;
}

static bool
server_with_data(struct world *world)
{
	return world->plugin->again(world, true);
}

static bool
server_empty(struct world *world)
{
	return world->plugin->again(world, false);
}

static const struct fault restart = {
    .name = "restart",
    .what = "kill -9 of the server, which starts again at once with its data",
    .needs = NEEDS_SERVER,
    .inject = server_kill,
    .heal = server_with_data,
    .after_ms = GRACE_MS,
};

static const struct fault restart_empty = {
    .name = "restart-empty",
    .what = "kill -9 of the server, which starts again at once without data",
    .needs = NEEDS_SERVER,
    .inject = server_kill,
    .heal = server_empty,
    .after_ms = GRACE_MS,
};

static const struct fault outage = {
    .name = "outage",
    .what = "the server is gone for 3 TTL and comes back with its data",
    .needs = NEEDS_SERVER,
    .inject = server_kill,
    .hold_ms = LONG_MS,
    .heal = server_with_data,
    .after_ms = GRACE_MS,
};

static const struct fault outage_empty = {
    .name = "outage-empty",
    .what = "the server is gone for 3 TTL and comes back without data",
    .needs = NEEDS_SERVER,
    .inject = server_kill,
    .hold_ms = LONG_MS,
    .heal = server_empty,
    .after_ms = GRACE_MS,
};

static bool
long_outage(struct world *world)
{
	world->plugin->kill(world);
	world_tell_all(world, "clock 60");
	return true;
}

static bool
end_of_long_outage(struct world *world)
{
	world_tell_all(world, "clock 1");
	return world->plugin->again(world, false);
}

static const struct fault outage_10min = {
    .name = "outage-10min",
    .what = "the server is gone for 10 minutes, by the services' and clients' "
	    "clock, and comes back without data",
    .needs = NEEDS_SERVER | FAST_CLOCK,
    .inject = long_outage,
    .hold_ms = 10000,
    .heal = end_of_long_outage,
    .after_ms = GRACE_MS,
};

static bool
rare_restart(struct world *world)
{
	world_tell_all(world, "clock 10");
	world->plugin->kill(world);
	return world->plugin->again(world, false);
}

static const struct fault restart_rare = {
    .name = "restart-rare",
    .what = "as restart-empty, with a TTL of 60 s and an interval of 30 s, by "
	    "a clock that runs ten times as fast",
    .needs = NEEDS_SERVER | FAST_CLOCK,
    .inject = rare_restart,
    .after_ms = 10000, /* 100 s */
    .ttl_ms = 60000,
    .interval_ms = 30000,
    .back_more_ms = 3000, /* 60 s in all */
};

static bool
server_freeze(struct world *world)
{
	world->plugin->freeze(world);
	return true;
}

static bool
server_thaw(struct world *world)
{
	world->plugin->thaw(world);
	return true;
}

static const struct fault hang = {
    .name = "hang",
    .what = "the server is frozen (SIGSTOP) for 3 TTL",
    .needs = NEEDS_SERVER,
    .inject = server_freeze,
    .hold_ms = LONG_MS,
    .heal = server_thaw,
    .after_ms = GRACE_MS,
};

static const struct fault hang_short = {
    .name = "hang-short",
    .what = "the server is frozen for a little longer than the TTL, so that "
	    "nobody has given up its connection yet",
    .needs = NEEDS_SERVER,
    .inject = server_freeze,
    .hold_ms = TTL_MS + 1500,
    .heal = server_thaw,
    .after_ms = GRACE_MS,
};

static bool
fill_and_kill(struct world *world)
{
	return world->plugin->fill(world, true) && node_kill(world) &&
	       add_node(world);
}

static bool
make_room(struct world *world)
{
	return world->plugin->fill(world, false);
}

static const struct fault full = {
    .name = "full",
    .what = "the server refuses writes (disk full); a service is killed and "
	    "another one started meanwhile",
    .needs = NEEDS_SERVER | OWN_DISK,
    .inject = fill_and_kill,
    .hold_ms = LONG_MS,
    .heal = make_room,
    .after_ms = SETTLE_MS,
};

/* -------------------------------------------------------------- the network */

/* Everything of the registry that children of this group have to do with; gid
 * 0: all children. What a server says to itself is nobody's. `target` ends with
 * NULL. It holds where packets arrive, as on a wire: who sends them does not
 * notice. */
static bool
rule(struct world *world, const char *change, int gid,
    const char *const target[])
{
	static const char *const sides[] = {"--dport", "--sport"};
	char port[16], mark[16];
	snprintf(port, sizeof(port), "%d", world->port);
	snprintf(mark, sizeof(mark), "%d", gid);
	for (size_t side = 0; side < 2; side++) {
		const char *argv[32] = {"iptables", "-w", change, "INPUT", "-p",
		    world->plugin->udp ? "udp" : "tcp", sides[side], port, "-m",
		    "connmark"};
		size_t n = 10;
		if (gid == 0)
			argv[n++] = "!";
		argv[n++] = "--mark";
		argv[n++] = mark;
		for (size_t i = 0; target[i] != NULL; i++)
			argv[n++] = target[i];
		argv[n] = NULL;
		if (!world_command(world, argv))
			return false;
	}
	return true;
}

static const char *const drop[] = {"-j", "DROP", NULL};

static bool
cut_node(struct world *world)
{
	world_victim(world, 0);
	return rule(world, "-A", world->nodes[0].gid, drop);
}

static bool
join_node(struct world *world)
{
	world->nodes[0].expected = true;
	return rule(world, "-D", world->nodes[0].gid, drop);
}

static const struct fault cut_node_fault = {
    .name = "cut-node",
    .what = "one service is cut off from the registry, and lives",
    .needs = NEEDS_NETWORK,
    .inject = cut_node,
    .hold_ms = LONG_MS,
    .heal = join_node,
    .after_ms = SETTLE_MS,
    /* Packets sent again wait longer and longer. */
    .back_more_ms = 1000,
};

static bool
for_clients(struct world *world, const char *change)
{
	for (int i = 0; i < CLIENTS; i++)
		if (!rule(world, change, world->clients[i].gid, drop))
			return false;
	return true;
}

static bool
cut_clients(struct world *world)
{
	return for_clients(world, "-A");
}

static bool
join_clients(struct world *world)
{
	return for_clients(world, "-D");
}

static const struct fault cut_clients_fault = {
    .name = "cut-clients",
    .what = "all clients are cut off from the registry",
    .needs = NEEDS_NETWORK,
    .inject = cut_clients,
    .hold_ms = LONG_MS,
    .heal = join_clients,
    .after_ms = GRACE_MS,
};

static bool
cut_all(struct world *world)
{
	return rule(world, "-A", 0, drop);
}

static bool
join_all(struct world *world)
{
	return rule(world, "-D", 0, drop);
}

static const struct fault cut_all_fault = {
    .name = "cut-server",
    .what = "the server is cut off from everybody, and lives",
    .needs = NEEDS_NETWORK | NEEDS_SERVER,
    .inject = cut_all,
    .hold_ms = LONG_MS,
    .heal = join_all,
    .after_ms = GRACE_MS,
    .back_more_ms = 1000,
};

static bool
lose_and_kill(struct world *world)
{
	static const char *const lossy[] = {"-m", "statistic", "--mode",
	    "random", "--probability", "0.2", "-j", "DROP", NULL};
	return rule(world, "-A", 0, lossy) && node_kill(world);
}

static const struct fault lossy = {
    .name = "lossy",
    .what = "20 % of the registry's packets are lost; a service is killed and "
	    "another one started meanwhile",
    .needs = NEEDS_NETWORK,
    .inject = lose_and_kill,
    .heal = add_node,
    .after_ms = LONG_MS,
    .gone_more_ms = 2000,
    /* Who starts opens a connection, and TCP waits a second, then two, for each
     * of its first packets that is lost: more than 5 s in one case of fifty. */
    .back_more_ms = 5000,
};

static bool
is_delaying(struct world *world)
{
	char line[64];
	return proc_line(&world->delay, line, sizeof(line)) &&
	       strcmp(line, "ready") == 0;
}

static bool
delay_and_kill(struct world *world)
{
	static const char *const argv[] = {
	    CHAOS_NFQ_DELAY, "0", "200", "100", NULL};
	static const char *const queue[] = {
	    "-j", "NFQUEUE", "--queue-num", "0", NULL};
	char log[300];
	snprintf(log, sizeof(log), "%s/delay.log", world->logs);
	if (!proc_start(
		&world->delay, &(struct proc_how){.argv = argv, .log = log}) ||
	    !world_until(world, is_delaying, 10000))
		return world_fail(world, "nfq_delay does not start");
	return rule(world, "-A", 0, queue) && node_kill(world);
}

static const struct fault slow = {
    .name = "slow",
    .what = "the registry's packets take 200 to 300 ms each way, out of order; "
	    "a service is killed and another one started meanwhile",
    .needs = NEEDS_NETWORK | NEEDS_DELAY,
    .inject = delay_and_kill,
    .heal = add_node,
    .after_ms = LONG_MS,
    .gone_more_ms = 1000,
    .back_more_ms = 1000,
};

/* --------------------------------------------------------------- the clock */

static bool
clock_forward(struct world *world)
{
	*world->wall_clock = 3600;
	return true;
}

static bool
clock_back(struct world *world)
{
	*world->wall_clock = -3600;
	return true;
}

static const struct fault clock_jumps = {
    .name = "clock",
    .what = "the wall clock of services and clients jumps an hour forward, "
	    "then two back",
    .needs = WALL_CLOCK,
    .inject = clock_forward,
    .hold_ms = 2 * TTL_MS,
    .heal = clock_back,
    .after_ms = 2 * TTL_MS,
};

static const struct fault server_clock = {
    .name = "server-clock",
    .what = "the wall clock of the server jumps an hour forward",
    .only = "redis",
    .needs = SERVER_CLOCK,
    .inject = clock_forward,
    .after_ms = 2 * TTL_MS,
};

/* ------------------------------------------------------------- etcd's own */

/* Forgets every revision before the present one. */
static bool
compact(struct world *world)
{
	char body[64];
	long long revision = 0;
	char *answer = etcd_post(world->port, "/v3/kv/put",
	    "{\"key\":\"L290aGVy\",\"value\":\"eA==\"}");
	const char *at =
	    answer != NULL ? strstr(answer, "\"revision\":\"") : NULL;
	if (at != NULL)
		sscanf(at, "\"revision\":\"%lld", &revision);
	free(answer);
	snprintf(body, sizeof(body),
	    "{\"revision\":\"%lld\",\"physical\":true}", revision);
	answer = etcd_post(world->port, "/v3/kv/compaction", body);
	bool ok = revision > 0 && answer != NULL &&
		  strstr(answer, "\"header\"") != NULL;
	free(answer);
	return ok || world_fail(world, "etcd does not compact");
}

static bool
compact_often(struct world *world)
{
	for (int round = 0; round < 3; round++) {
		world->plugin->kill(world);
		if (!world->plugin->again(world, true))
			return false;
		/* While the watchers come back. */
		for (int i = 0; i < 30; i++) {
			if (!compact(world))
				return false;
			world_until(world, NULL, 0);
		}
	}
	return node_kill(world);
}

static const struct fault compaction = {
    .name = "compaction",
    .what = "the history is compacted again and again while watchers lose "
	    "their connection and come back; then kill -9 of a service",
    .only = "etcd",
    .inject = compact_often,
    .heal = add_node,
    .after_ms = SETTLE_MS,
};

static int leader; /* a process runs one row */

static bool
leader_found(struct world *world)
{
	leader = cluster_leader(world);
	return leader >= 0 || world_fail(world, "nobody leads");
}

static bool
leader_kill(struct world *world)
{
	if (!leader_found(world))
		return false;
	proc_kill(&world->members[leader]);
	return node_kill(world);
}

static bool
leader_again(struct world *world)
{
	proc_close(&world->members[leader]);
	return cluster_start_member(world, leader) && add_node(world);
}

static const struct fault leader_kill_fault = {
    .name = "leader-kill",
    .what = "the leader of three is killed, and a service with it; later both "
	    "are replaced",
    .only = "etcd-x3",
    .inject = leader_kill,
    .hold_ms = LONG_MS,
    .heal = leader_again,
    .after_ms = SETTLE_MS,
    /* A new leader gives every lease its whole TTL again, and the time of an
     * election. */
    .gone_more_ms = TTL_MS + 1000,
};

static bool
leader_freeze(struct world *world)
{
	if (!leader_found(world))
		return false;
	proc_freeze(&world->members[leader]);
	return true;
}

static bool
leader_thaw(struct world *world)
{
	proc_thaw(&world->members[leader]);
	return true;
}

static const struct fault leader_freeze_fault = {
    .name = "leader-hang",
    .what = "the leader of three is frozen for 3 TTL",
    .only = "etcd-x3",
    .inject = leader_freeze,
    .hold_ms = LONG_MS,
    .heal = leader_thaw,
    .after_ms = GRACE_MS,
};

const struct fault *const chaos_faults[] = {&stop, &kill_9, &freeze, &restart,
    &restart_empty, &restart_rare, &outage, &outage_empty, &outage_10min, &hang,
    &hang_short, &full, &cut_node_fault, &cut_clients_fault, &cut_all_fault,
    &lossy, &slow, &clock_jumps, &server_clock, &compaction, &leader_kill_fault,
    &leader_freeze_fault, NULL};
