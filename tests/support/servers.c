/* SPDX-License-Identifier: Apache-2.0 */
#include <support/servers.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KIND_ETCD, KIND_MOSQUITTO, KIND_REDIS, KIND_CONSUL };
static const char *const programs[] = {
    "etcd", "mosquitto", "redis-server", "consul"};
enum { READY_MS = 15000, MAX_ARGS = 64 };

static long long
now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (long long)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int
remaining_ms(long long deadline)
{
	long long left = deadline - now_ms();
	return left > 0 ? (int)left : 0;
}

/* ----------------------------------------------------------------- ports */

static int
ephemeral_low(void)
{
	int low = 32768;
	FILE *f = fopen("/proc/sys/net/ipv4/ip_local_port_range", "r");
	if (f != NULL) {
		if (fscanf(f, "%d", &low) != 1)
			low = 32768;
		fclose(f);
	}
	return low > 16000 ? low : 32768;
}

static struct sockaddr_in
loopback(int port)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	in.sin_port = htons((uint16_t)port);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return in;
}

int
test_free_port(void)
{
	int low = 15000, high = ephemeral_low();
	for (int i = 0; i < 200; i++) {
		uint32_t r;
		if (getrandom(&r, sizeof(r), 0) != (ssize_t)sizeof(r))
			return 0;
		int port = low + (int)(r % (uint32_t)(high - low));
		struct sockaddr_in in = loopback(port);
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0)
			return 0;
		int rc = bind(fd, (struct sockaddr *)&in, sizeof(in));
		close(fd);
		if (rc == 0)
			return port;
	}
	return 0;
}

/* -------------------------------------------------------------- programs */

/* Debian keeps some servers in sbin, which a user's PATH may lack, and consul
 * not at all: see tools/get-consul. */
static bool
find_program(const char *program, char *path, size_t size)
{
	char dirs[4096];
	const char *env = getenv("PATH"), *source = getenv("SVC_SOURCE_DIR");
	snprintf(dirs, sizeof(dirs),
	    "%s:/usr/local/sbin:/usr/sbin:/sbin:%s/build/consul/usr/bin",
	    env != NULL ? env : "/usr/bin:/bin", source != NULL ? source : "");
	char *save = NULL;
	for (char *dir = strtok_r(dirs, ":", &save); dir != NULL;
	     dir = strtok_r(NULL, ":", &save)) {
		int n = snprintf(path, size, "%s/%s", dir, program);
		if (n > 0 && (size_t)n < size && access(path, X_OK) == 0)
			return true;
	}
	return false;
}

bool
test_server_have(const char *program)
{
	char path[4096];
	return find_program(program, path, sizeof(path));
}

/* Forks and runs argv with its output in `out_fd`. Everything is prepared
 * before the fork, because other threads may hold locks at that moment. */
static pid_t
spawn(const char *path, char *const argv[], int out_fd, bool also_stderr)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(out_fd, STDOUT_FILENO);
	if (also_stderr)
		dup2(out_fd, STDERR_FILENO);
	execv(path, argv);
	_exit(127);
}

char *
test_run(const char *const argv[], int *ret_status)
{
	char path[4096];
	int pipes[2];
	if (!find_program(argv[0], path, sizeof(path)) ||
	    pipe2(pipes, O_CLOEXEC) != 0)
		return NULL;
	char *args[MAX_ARGS];
	size_t n = 0;
	for (; argv[n] != NULL && n < MAX_ARGS - 1; n++)
		args[n] = strdup(argv[n]);
	args[n] = NULL;
	pid_t pid = spawn(path, args, pipes[1], false);
	for (size_t i = 0; i < n; i++)
		free(args[i]);
	close(pipes[1]);
	if (pid < 0) {
		close(pipes[0]);
		return NULL;
	}
	long long deadline = now_ms() + READY_MS;
	size_t len = 0, cap = 65536;
	char *out = malloc(cap);
	bool ended = false;
	while (out != NULL && !ended) {
		struct pollfd p = {.fd = pipes[0], .events = POLLIN};
		if (poll(&p, 1, remaining_ms(deadline)) <= 0)
			break;
		ssize_t got = read(pipes[0], out + len, cap - len - 1);
		if (got <= 0) {
			ended = true;
			break;
		}
		len += (size_t)got;
		if (cap - len < 2) {
			char *more = realloc(out, cap * 2);
			if (more == NULL)
				break;
			out = more;
			cap *= 2;
		}
	}
	close(pipes[0]);
	if (!ended)
		kill(pid, SIGKILL);
	int status = 0;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!ended) {
		free(out);
		return NULL;
	}
	out[len] = '\0';
	if (ret_status != NULL)
		*ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
	return out;
}

/* --------------------------------------------------------------- folders */

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void
remove_tree(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void
print_log(const struct test_server *server)
{
	char path[96], line[1024];
	snprintf(path, sizeof(path), "%s/log", server->dir);
	FILE *f = fopen(path, "r");
	if (f == NULL)
		return;
	fprintf(stderr, "---- %s\n", path);
	while (fgets(line, sizeof(line), f) != NULL)
		fputs(line, stderr);
	fprintf(stderr, "----\n");
	fclose(f);
}

/* --------------------------------------------------------------- running */

static bool
read_at_least(int fd, void *data, size_t want, size_t size, long long deadline,
    size_t *ret_len)
{
	size_t len = 0;
	while (len < want) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		if (poll(&p, 1, remaining_ms(deadline)) <= 0)
			return false;
		ssize_t n = recv(fd, (char *)data + len, size - len, 0);
		if (n <= 0)
			return false;
		len += (size_t)n;
	}
	*ret_len = len;
	return true;
}

/* One question in the server's own protocol. */
static bool
answers(const struct test_server *server, long long deadline)
{
	static const char health[] =
	    "GET /health HTTP/1.1\r\nHost: localhost\r\n"
	    "Connection: close\r\n\r\n";
	static const char leader[] =
	    "GET /v1/status/leader HTTP/1.1\r\nHost: localhost\r\n"
	    "Connection: close\r\n\r\n";
	/* MQTT 3.1.1 CONNECT, clean session, client id "ready". */
	static const unsigned char hello[] = {0x10, 17, 0, 4, 'M', 'Q', 'T',
	    'T', 4, 2, 0, 10, 0, 5, 'r', 'e', 'a', 'd', 'y'};
	struct sockaddr_in in = loopback(
	    server->kind == KIND_ETCD ? server->health_port : server->port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	bool ok = false;
	char answer[2048] = "";
	size_t len = 0;
	if (connect(fd, (struct sockaddr *)&in, sizeof(in)) != 0)
		goto out;
	if (server->kind == KIND_ETCD || server->kind == KIND_CONSUL) {
		bool etcd = server->kind == KIND_ETCD;
		if (send(fd, etcd ? health : leader,
			etcd ? sizeof(health) - 1 : sizeof(leader) - 1,
			MSG_NOSIGNAL) < 0)
			goto out;
		while (len < sizeof(answer) - 1) {
			size_t more;
			if (!read_at_least(fd, answer + len, 1,
				sizeof(answer) - 1 - len, deadline, &more))
				break;
			len += more;
		}
		ok = strstr(answer,
			 etcd ? "\"health\":\"true\"" : "\r\n\"127.") != NULL;
	} else if (server->kind == KIND_REDIS) {
		if (send(fd, "PING\r\n", 6, MSG_NOSIGNAL) < 0)
			goto out;
		/* One that wants a password answers as well. While it still
		 * reads its data it says that it is loading. */
		ok = read_at_least(
			 fd, answer, 7, sizeof(answer) - 1, deadline, &len) &&
		     (strncmp(answer, "+PONG", 5) == 0 ||
			 strncmp(answer, "-NOAUTH", 7) == 0);
	} else {
		if (send(fd, hello, sizeof(hello), MSG_NOSIGNAL) < 0)
			goto out;
		ok = read_at_least(
			 fd, answer, 4, sizeof(answer), deadline, &len) &&
		     answer[0] == 0x20;
	}
out:
	close(fd);
	return ok;
}

static bool
has_ended(struct test_server *server)
{
	int status;
	if (waitpid(server->pid, &status, WNOHANG) != server->pid)
		return false;
	server->pid = 0;
	return true;
}

static bool
wait_ready(struct test_server *server)
{
	long long deadline = now_ms() + READY_MS;
	while (now_ms() < deadline) {
		if (has_ended(server))
			return false;
		long long probe = now_ms() + 1000;
		if (answers(server, probe < deadline ? probe : deadline))
			return true;
		poll(NULL, 0, 10);
	}
	fprintf(stderr, "no answer from %s within %d ms\n", server->address,
	    READY_MS);
	test_server_kill(server);
	return false;
}

static bool
write_mosquitto_config(const struct test_server *server, const char *path)
{
	FILE *f = fopen(path, "w");
	if (f == NULL)
		return false;
	const char *more = server->config != NULL ? server->config : "";
	/* Saving at each change, so that a crash loses nothing. As root it
	 * would give up its rights and could not read the folder. */
	fprintf(f,
	    "per_listener_settings true\n"
	    "%spersistence true\n"
	    "persistence_location %s/data/\n"
	    "autosave_interval 1\nautosave_on_changes true\n"
	    "sys_interval 1\nlog_dest stderr\nlog_type all\n"
	    "listener %d 127.0.0.1\n%s%s",
	    geteuid() == 0 ? "user root\n" : "", server->dir, server->port,
	    strncmp(more, "allow_anonymous", 15) == 0 ? ""
						      : "allow_anonymous "
							"true\n",
	    more);
	return fclose(f) == 0;
}

/* Appends words that are separated by single spaces; `words` is changed. */
static size_t
add_words(char *argv[], size_t n, char *words)
{
	char *save = NULL;
	for (char *word = strtok_r(words, " ", &save);
	     word != NULL && n < MAX_ARGS - 1;
	     word = strtok_r(NULL, " ", &save))
		argv[n++] = word;
	return n;
}

/* The command line of etcd, to be freed. Its health is asked for without TLS
 * and without a certificate, at an address of its own. */
static char *
etcd_words(const struct test_server *server, const char *data)
{
	const char *more = server->config != NULL ? server->config : "";
	const char *scheme =
	    strstr(more, "--cert-file") != NULL ? "https" : "http";
	char alone[64];
	char *words = NULL;
	snprintf(alone, sizeof(alone), "%s=http://127.0.0.1:%d", server->member,
	    server->peer_port);
	const char *cluster = server->cluster != NULL ? server->cluster : alone;
	if (asprintf(&words,
		"--name %s --data-dir %s --listen-client-urls "
		"%s://127.0.0.1:%d --advertise-client-urls %s://127.0.0.1:%d "
		"--listen-metrics-urls http://127.0.0.1:%d "
		"--listen-peer-urls http://127.0.0.1:%d "
		"--initial-advertise-peer-urls http://127.0.0.1:%d "
		"--initial-cluster %s --unsafe-no-fsync%s%s%s",
		server->member, data, scheme, server->port, scheme,
		server->port, server->health_port, server->peer_port,
		server->peer_port, cluster,
		server->cluster != NULL
		    ? " --heartbeat-interval 50 --election-timeout 500"
		    : "",
		*more != '\0' ? " " : "", more) < 0)
		return NULL;
	return words;
}

/* The same for redis: every change is on disk before it is answered. */
static char *
redis_words(const struct test_server *server, const char *data)
{
	const char *more = server->config != NULL ? server->config : "";
	char *words = NULL;
	if (asprintf(&words,
		"--bind 127.0.0.1 --port %d --dir %s --appendonly yes "
		"--appendfsync always%s%s",
		server->port, data, *more != '\0' ? " " : "", more) < 0)
		return NULL;
	return words;
}

/* Writes consul's configuration and gives its command line, to be freed. What
 * the test adds is a file of its own: a section may stand in both. */
static char *
consul_words(
    const struct test_server *server, const char *data, const char *conf)
{
	const char *more = server->config != NULL ? server->config : "";
	char *words = NULL, added[96];
	snprintf(added, sizeof(added), "%s/conf2", server->dir);
	FILE *f = fopen(added, "w");
	if (f == NULL)
		return NULL;
	fputs(more, f);
	if (fclose(f) != 0)
		return NULL;
	f = fopen(conf, "w");
	if (f == NULL)
		return NULL;
	fprintf(f,
	    "disable_update_check = true\nnode_name = \"t1\"\n"
	    "disable_host_node_id = true\nbind_addr = \"127.0.0.1\"\n"
	    "client_addr = \"127.0.0.1\"\n"
	    "performance {\n  raft_multiplier = 1\n}\n"
	    "ports {\n  http = %d\n  server = %d\n  serf_lan = %d\n"
	    "  serf_wan = -1\n  dns = -1\n  grpc = -1\n}\n",
	    server->port, server->peer_port, server->health_port);
	bool keeps = strstr(more, "server = true") != NULL;
	if (keeps)
		fprintf(f, "data_dir = \"%s\"\n", data);
	if (fclose(f) != 0)
		return NULL;
	if (asprintf(&words,
		"agent -config-format hcl -config-file %s -config-file %s %s",
		conf, added, keeps ? "-bootstrap" : "-dev") < 0)
		return NULL;
	return words;
}

static bool
begin(struct test_server *server)
{
	const char *program = programs[server->kind];
	char path[4096], data[96], log[96], conf[96];
	char *words = NULL;
	char *argv[MAX_ARGS];
	size_t n = 0;
	if (!find_program(program, path, sizeof(path))) {
		fprintf(stderr, "%s is not installed\n", program);
		return false;
	}
	snprintf(data, sizeof(data), "%s/data", server->dir);
	snprintf(log, sizeof(log), "%s/log", server->dir);
	snprintf(conf, sizeof(conf), "%s/conf", server->dir);
	if (mkdir(data, 0700) != 0 && errno != EEXIST) {
		perror(data);
		return false;
	}
	argv[n++] = path;
	if (server->kind != KIND_MOSQUITTO) {
		words = server->kind == KIND_ETCD ? etcd_words(server, data)
			: server->kind == KIND_REDIS
			    ? redis_words(server, data)
			    : consul_words(server, data, conf);
		if (words == NULL)
			return false;
		n = add_words(argv, n, words);
	} else {
		static char flag[] = "-c";
		if (!write_mosquitto_config(server, conf)) {
			perror(conf);
			return false;
		}
		argv[n++] = flag;
		argv[n++] = conf;
	}
	argv[n] = NULL;
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0) {
		server->pid = spawn(path, argv, fd, true);
		close(fd);
	}
	free(words);
	if (fd < 0 || server->pid < 0) {
		server->pid = 0;
		perror(program);
		return false;
	}
	return true;
}

static bool
launch(struct test_server *server)
{
	return begin(server) && wait_ready(server);
}

/* Those that run, for the program's end: a test that fails may leave some. */
static struct test_server *servers;
static pid_t servers_of;

static void
stop_all(void)
{
	/* A forked child that exits is not the end. */
	if (getpid() != servers_of)
		return;
	while (servers != NULL)
		test_server_stop(servers);
}

static void
add_server(struct test_server *server)
{
	if (servers_of == 0 && atexit(stop_all) == 0)
		servers_of = getpid();
	server->next = servers;
	servers = server;
}

static void
remove_server(struct test_server *server)
{
	struct test_server **at = &servers;
	while (*at != NULL && *at != server)
		at = &(*at)->next;
	if (*at != NULL)
		*at = server->next;
}

/* A port that is none of the first `n` of `taken`. */
static int
another_port(const int *taken, size_t n)
{
	for (;;) {
		int port = test_free_port();
		bool is_new = true;
		for (size_t i = 0; i < n; i++)
			is_new = is_new && taken[i] != port;
		if (is_new)
			return port;
	}
}

/* Everything of a server but its start; NULL with the reason on stderr. */
static struct test_server *
prepare(int kind, const char *config)
{
	const char *tmp = getenv("TMPDIR");
	struct test_server *server = calloc(1, sizeof(*server));
	if (server == NULL)
		return NULL;
	server->kind = kind;
	server->config = config != NULL ? strdup(config) : NULL;
	int len =
	    snprintf(server->dir, sizeof(server->dir), "%s/svc-test-XXXXXX",
		tmp != NULL && strlen(tmp) < 40 ? tmp : "/tmp");
	if (len < 0 || mkdtemp(server->dir) == NULL) {
		perror(server->dir);
		free(server->config);
		free(server);
		return NULL;
	}
	int ports[3];
	for (size_t i = 0; i < 3; i++)
		ports[i] = another_port(ports, i);
	server->port = ports[0];
	server->peer_port = ports[1];
	server->health_port = ports[2];
	snprintf(server->member, sizeof(server->member), "n1");
	snprintf(server->address, sizeof(server->address), "127.0.0.1:%d",
	    server->port);
	return server;
}

static struct test_server *
start(int kind, const char *config)
{
	/* Another program may take the port between choice and use. */
	for (int attempt = 0; attempt < 5; attempt++) {
		struct test_server *server = prepare(kind, config);
		if (server == NULL)
			return NULL;
		if (launch(server)) {
			add_server(server);
			return server;
		}
		if (attempt == 4)
			print_log(server);
		test_server_stop(server);
	}
	return NULL;
}

static bool
start_members(const char *args, struct test_server *members[3])
{
	char *cluster = NULL;
	bool good = true;
	for (size_t i = 0; good && i < 3; i++) {
		members[i] = prepare(KIND_ETCD, args);
		good = members[i] != NULL;
	}
	good = good && asprintf(&cluster,
			   "n1=http://127.0.0.1:%d,n2=http://127.0.0.1:%d,"
			   "n3=http://127.0.0.1:%d",
			   members[0]->peer_port, members[1]->peer_port,
			   members[2]->peer_port) > 0;
	for (size_t i = 0; good && i < 3; i++) {
		snprintf(members[i]->member, sizeof(members[i]->member), "n%zu",
		    i + 1);
		members[i]->cluster = strdup(cluster);
		good = members[i]->cluster != NULL && begin(members[i]);
	}
	for (size_t i = 0; good && i < 3; i++)
		good = wait_ready(members[i]);
	free(cluster);
	return good;
}

bool
start_etcd_cluster(const char *args, struct test_server *ret_members[3])
{
	for (int attempt = 0; attempt < 5; attempt++) {
		struct test_server *members[3] = {0};
		bool good = start_members(args, members);
		for (size_t i = 0; i < 3; i++) {
			if (good)
				add_server(members[i]);
			else if (attempt == 4 && members[i] != NULL)
				print_log(members[i]);
			if (!good)
				test_server_stop(members[i]);
			ret_members[i] = members[i];
		}
		if (good)
			return true;
	}
	return false;
}

struct test_server *
start_etcd(const char *args)
{
	return start(KIND_ETCD, args);
}

struct test_server *
start_redis(const char *args)
{
	return start(KIND_REDIS, args);
}

struct test_server *
start_consul(const char *config)
{
	return start(KIND_CONSUL, config);
}

struct test_server *
start_mosquitto(const char *config)
{
	return start(KIND_MOSQUITTO, config);
}

static void
reap(struct test_server *server)
{
	int status;
	while (waitpid(server->pid, &status, 0) < 0 && errno == EINTR)
		;
	server->pid = 0;
}

void
test_server_kill(struct test_server *server)
{
	if (server->pid == 0)
		return;
	kill(server->pid, SIGKILL);
	reap(server);
}

void
test_server_end(struct test_server *server)
{
	if (server->pid == 0)
		return;
	kill(server->pid, SIGCONT);
	kill(server->pid, SIGTERM);
	long long deadline = now_ms() + 10000;
	while (now_ms() < deadline) {
		if (has_ended(server))
			return;
		poll(NULL, 0, 10);
	}
	test_server_kill(server);
}

bool
test_server_start_again(struct test_server *server, bool keep_data)
{
	char data[96];
	snprintf(data, sizeof(data), "%s/data", server->dir);
	if (!keep_data)
		remove_tree(data);
	if (launch(server))
		return true;
	print_log(server);
	return false;
}

void
test_server_freeze(struct test_server *server)
{
	siginfo_t info;
	if (server->pid == 0)
		return;
	kill(server->pid, SIGSTOP);
	/* On a busy machine threads of it run on, and answer, until the one
	 * that takes the signal gets its turn. What is waited for is left
	 * for the one who reaps it. */
	while (waitid(P_PID, (id_t)server->pid, &info,
		   WSTOPPED | WEXITED | WNOWAIT) != 0 &&
	       errno == EINTR)
		;
}

void
test_server_thaw(struct test_server *server)
{
	if (server->pid != 0)
		kill(server->pid, SIGCONT);
}

void
test_server_stop(struct test_server *server)
{
	if (server == NULL)
		return;
	remove_server(server);
	test_server_kill(server);
	remove_tree(server->dir);
	free(server->config);
	free(server->cluster);
	free(server);
}
