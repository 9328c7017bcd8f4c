/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CHAOS_WORLD_H
#define SVC_CHAOS_WORLD_H

#include "proc.h"

#include <support/servers.h>

/**
 * The world of one row: a registry server, services, clients that call them
 * all the time, and one fault. A plugin is a struct of what its server can
 * suffer, a fault one of what is done to whom; neither knows the other beyond
 * these structs.
 */
enum { NODES = 3, NODES_MAX = 6, CLIENTS = 2, SERVERS_MAX = 3 };
enum { TTL_MS = 3000, INTERVAL_MS = 1000 };
/* For so long a watch of these clients keeps what a registry that came back
 * does not repeat. */
enum { KEPT_MS = 5000 };
/* On a machine that may stand still for seconds. */
enum { BUSY_TTL_MS = 6000, BUSY_SLACK_MS = 15000 };
/* Groups by which the packet filter tells children apart. */
enum { GID_NODE = 6001, GID_CLIENT = 7001 };

struct world;

/** What is different with a plugin in a fault, and why. */
struct remark {
	const char *fault, *why;
};

struct plugin {
	const char *label;   /* in the table */
	const char *name;    /* --registry */
	bool own_faults;     /* only faults made for it */
	const char *program; /* of its server, looked for in PATH; NULL: none */
	/** Starts the server (or servers) and sets the address. */
	bool (*start)(struct world *world);
	/** What the server as a whole does: of several, all of them. */
	void (*kill)(struct world *world);
	bool (*again)(struct world *world, bool keep_data);
	void (*freeze)(struct world *world);
	void (*thaw)(struct world *world);
	/** Writes are refused as with a full disk, and possible again. */
	bool (*fill)(struct world *world, bool full);
	/** It is filled by a disk of its own (OWN_DISK). While that is full it
	 * cannot drop who dies, and may lose its watchers: who died has to
	 * leave when there is room, and when the watches have forgotten it. */
	bool fills_disk;
	/** Packets of the registry are of this kind. */
	bool udp;
	/** Faults that it cannot suffer, and those in which calls must fail.
	 * Both end with a NULL fault. */
	const struct remark *lacks;
};

enum {
	NEEDS_SERVER = 1,
	NEEDS_NETWORK = 2, /* a network of its own: root and iptables */
	NEEDS_DELAY = 4,   /* nfq_delay */
	WALL_CLOCK = 8,    /* children have a wall clock that can be set */
	SERVER_CLOCK = 32, /* the server has one that can be set */
	FAST_CLOCK = 16,   /* children live by a clock that can be told to run
			    * fast */
	OWN_DISK = 64, /* plugins with `fills_disk` have a small one: root */
};

struct fault {
	const char *name;
	const char *what; /* one line */
	unsigned needs;
	const char *only; /* label of the plugin that has it; NULL: all */
	/** Names a victim (world_victim) if a node is to leave every client. */
	bool (*inject)(struct world *world);
	/** The fault lasts so long, and until the victim has left. */
	int64_t hold_ms;
	bool (*heal)(struct world *world);
	/** Calls go on so long after everything is healed. */
	int64_t after_ms;
	/** Of the services; 0: TTL_MS and INTERVAL_MS. */
	int ttl_ms, interval_ms;
	/** More than TTL + 1 s and TTL, for faults that slow everything. */
	int64_t gone_more_ms, back_more_ms;
};

struct node {
	struct proc proc;
	char id[24];
	int gid;
	bool expected; /* it serves and can reach the registry */
};

struct client {
	struct proc proc;
	int gid;
	int64_t calls, failed;
	bool there[NODES_MAX];
	int64_t gone_at_ms[NODES_MAX]; /* 0: not since the fault began */
};

enum { REASON_SIZE = 400 };

/** What came of a row; copied between processes. */
struct result {
	bool ran, passed;
	int64_t calls, failed;
	char codes[160];                /* "E_NOT_FOUND 12, E_TIMEDOUT 1" */
	int64_t gone_ms, gone_bound_ms; /* -1: nobody was to leave */
	int64_t back_ms, back_bound_ms;
	int dropped; /* times a client lost sight of a living node */
	char reason[REASON_SIZE]; /* why it failed or was left out */
};

struct world {
	const struct plugin *plugin;
	const struct fault *fault;
	bool busy; /* machine: longer times, and more than all bounds */
	bool own_network;
	const char *self;    /* this executable */
	const char *plugins; /* SVC_PLUGIN_PATH */
	char logs[256];
	volatile long long
	    *wall_clock; /* seconds ahead, shared with children */
	char wall_clock_file[280];
	char disk[280]; /* the folder of OWN_DISK; "": there is none */

	char address[128];
	int port;
	struct test_server *server;
	struct proc members[SERVERS_MAX]; /* of a cluster */
	struct node nodes[NODES_MAX];
	int n_nodes;
	struct client clients[CLIENTS];
	int victim; /* -1: none */
	int64_t injected_at_ms, healed_at_ms;
	struct proc delay;
	struct svc_registry *observer;
	int64_t looked_at_ms;
	struct result *result;
};

extern const struct plugin *const chaos_plugins[];
extern const struct fault *const chaos_faults[];

/** Run one row. The process should have been forked for it: it gets a network
 * of its own where that is possible. */
void world_run(struct world *world);

/* ------------------------------------------- for the functions of the tables
 */

/** Gives the row a reason to fail; returns false. */
bool world_fail(struct world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/** This node is to leave every client, from now on; it is not expected. */
void world_victim(struct world *world, int node);
/** Starts one more node, which is expected; its number, or -1. */
int world_add_node(struct world *world);
/** Reads what the clients say until `done` is true; false after limit_ms. */
bool world_until(
    struct world *world, bool (*done)(struct world *world), int64_t limit_ms);
/** Runs a program to its end; true when it ends with 0. */
bool world_command(struct world *world, const char *const argv[]);
void world_tell_all(struct world *world, const char *line);

#endif
