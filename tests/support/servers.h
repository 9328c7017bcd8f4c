/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_SUPPORT_SERVERS_H
#define SVC_TEST_SUPPORT_SERVERS_H

#include <stdbool.h>
#include <sys/types.h>

/**
 * Real servers for tests, started on free loopback ports with a scratch folder
 * of their own. They die with the test program, even when it crashes; what is
 * not stopped when it ends is stopped then, and its folder removed. Time is
 * real time here, whatever clock the code under test has.
 *
 * Call from the main thread: a server ends with the thread that started it.
 */
struct test_server {
	int port;
	char address[32]; /* "127.0.0.1:PORT" */
	pid_t pid;        /* 0 while it is not running */
	char dir[64];     /* scratch folder: data and the file "log" */
	/* The rest is private. */
	int kind;
	int peer_port, health_port;
	char *config;
	char member[8], *cluster; /* of etcd */
	struct test_server *next;
};

/** Whether a program of this name is in PATH (or the sbin folders, or where
 * tools/get-consul puts consul). A test whose server is missing must skip
 * visibly. */
bool test_server_have(const char *program);
/** A loopback TCP port on which nothing listens, below the kernel's ephemeral
 * range; 0 when none was found. Somebody may still take it before it is used:
 * who sees "address in use" asks again. */
int test_free_port(void);

/**
 * Start a server and wait until it answers, at most 15 s. NULL with the reason
 * and the server's log on standard error.
 *
 * args    more command line arguments separated by single spaces, or NULL
 * config  more lines of the configuration file, or NULL; each line ends in \n.
 *         Mosquitto's listener allows anonymous clients unless `config` begins
 * with a line "allow_anonymous".
 *
 * An etcd that is given --cert-file listens with TLS.
 */
struct test_server *start_etcd(const char *args);
/** Three of one cluster, with short times until a leader is missed; false when
 * they do not start. One that starts again needs one of the others. */
bool start_etcd_cluster(const char *args, struct test_server *ret_members[3]);
struct test_server *start_redis(const char *args);
struct test_server *start_mosquitto(const char *config);
/** An agent that is its own only server. It has its data in memory alone,
 * unless `config` (HCL) has a line "server = true", and then in its scratch
 * folder, unless there is a line "data_dir = ..." too. */
struct test_server *start_consul(const char *config);

/** End it at once, as kill -9 does, and wait for its end. Data stays. */
void test_server_kill(struct test_server *server);
/** Ask it to end (SIGTERM) and wait; after 10 s kill it. Data stays. */
void test_server_end(struct test_server *server);
/** Start it again on its old port, with its data or without; true when it
 * answers. It must not be running. */
bool test_server_start_again(struct test_server *server, bool keep_data);
/** Freeze and thaw it: a server that is there but says nothing, from the moment
 * freeze returns. */
void test_server_freeze(struct test_server *server);
void test_server_thaw(struct test_server *server);
/** End it, remove its folder, free it. NULL is fine. */
void test_server_stop(struct test_server *server);

/** Run a program and give its standard output (to be freed with free) and exit
 * status; NULL when it could not be run or did not end within 15 s. `argv` ends
 * with NULL. */
char *test_run(const char *const argv[], int *ret_status);

#endif
