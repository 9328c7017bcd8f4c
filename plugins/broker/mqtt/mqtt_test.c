/* SPDX-License-Identifier: Apache-2.0 */
/* Against a real mosquitto, with its own clients as the other side. */
#include <conformance/broker.h>
#include <support/servers.h>

#include <svc/clock.h>
#include <svc/inbox.h>
#include <svc/log.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 20000

static struct test_server *server;
static char ids[4][64];

static void
configure(void *arg, unsigned who, struct svc_broker_config *config)
{
	(void)arg;
	char uuid[37];
	svc_uuid(uuid);
	snprintf(ids[who], sizeof(ids[who]), "svc-%s", uuid);
	config->client_id = ids[who];
	config->address = server->address;
}

static void
kill_server(void *arg)
{
	(void)arg;
	/* Its sessions are saved on every change, a moment later: a client that
	 * subscribes again anyway does not depend on that. */
	test_server_kill(server);
}

static void
start_server(void *arg)
{
	(void)arg;
	assert_true(test_server_start_again(server, true));
}

static const char *
port(void)
{
	static char text[8];
	snprintf(text, sizeof(text), "%d", server->port);
	return text;
}

static void
inject(void *arg, const char *topic, const void *data, size_t len)
{
	(void)arg;
	char path[] = "/tmp/svc-mqtt-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	close(fd);
	const char *argv[] = {"timeout", "5", "mosquitto_pub", "-h",
	    "127.0.0.1", "-p", port(), "-q", "1", "-t", topic, "-f", path,
	    NULL};
	int status = -1;
	char *out = test_run(argv, &status);
	free(out);
	unlink(path);
	assert_int_equal(status, 0);
}

/* ------------------------------------------------- what only MQTT promises */

static struct svc_broker *
broker_make(const char *address, int64_t timeout_ms)
{
	struct svc_broker_config config = {0};
	configure(NULL, 0, &config);
	if (address != NULL)
		config.address = address;
	config.timeout_ms = timeout_ms;
	struct svc_broker *broker = NULL;
	struct svc_error err = {0};
	if (svc_broker_create("mqtt", &config, &broker, &err) != SVC_OK)
		fail_msg("create: %s", err.text);
	return broker;
}

/* Instead of the server of all tests one that takes any number of events and
 * saves them once a second: at each change, all of them, that takes half a
 * minute. */
static struct test_server *
roomy_server(void)
{
	struct test_server *shared = server;
	server = start_mosquitto(
	    "max_queued_messages 0\nautosave_on_changes false\n");
	assert_non_null(server);
	return shared;
}

static void
back_to(struct test_server *shared)
{
	test_server_stop(server);
	server = shared;
}

static struct svc_broker *
broker_connected(void)
{
	struct svc_broker *broker = broker_make(NULL, WAIT_MS);
	struct svc_error err = {0};
	if (svc_broker_connect(broker, &err) != SVC_OK)
		fail_msg("connect: %s", err.text);
	return broker;
}

struct reader {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t n;
	bool blocked;
	char body[128];
	char type[64];
	char foo[64];
};

static void
reader_init(struct reader *reader)
{
	*reader = (struct reader){0};
	pthread_mutex_init(&reader->lock, NULL);
	svc_cond_init(&reader->changed);
}

static svc_err
read_event(const char *topic, const struct svc_message *message, void *arg)
{
	struct reader *reader = arg;
	(void)topic;
	const char *foo = svc_headers_get(message->headers, "Foo");
	pthread_mutex_lock(&reader->lock);
	reader->n++;
	snprintf(reader->body, sizeof(reader->body), "%.*s", (int)message->len,
	    (const char *)message->data);
	snprintf(reader->type, sizeof(reader->type), "%s",
	    message->content_type != NULL ? message->content_type : "");
	snprintf(
	    reader->foo, sizeof(reader->foo), "%s", foo != NULL ? foo : "");
	pthread_cond_broadcast(&reader->changed);
	while (reader->blocked)
		(void)svc_cond_wait(&reader->changed, &reader->lock, INT64_MAX);
	pthread_mutex_unlock(&reader->lock);
	return SVC_OK;
}

static void
wait_reader(struct reader *reader, size_t n)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&reader->lock);
	while (reader->n < n && rc == SVC_OK)
		rc = svc_cond_wait(&reader->changed, &reader->lock, deadline);
	size_t have = reader->n;
	pthread_mutex_unlock(&reader->lock);
	if (have < n)
		fail_msg("%zu of %zu events", have, n);
}

static void
subscribe(struct svc_broker *broker, const char *topic, const char *queue,
    struct reader *reader)
{
	struct svc_subscription *subscription;
	struct svc_error err = {0};
	if (svc_broker_subscribe(broker, topic, queue, read_event, reader,
		&subscription, &err) != SVC_OK)
		fail_msg("subscribe: %s", err.text);
}

static void
addresses_are_checked(void **state)
{
	(void)state;
	const char *good[] = {NULL, "", "localhost", "localhost:1",
	    "tcp://127.0.0.1", "ssl://a.b-c_d:8883", "ws://h:80/mqtt",
	    "wss://h/x", "TCP://h", "[::1]:1883", "tcp://[fe80::1%lo]",
	    "a:1, tcp://b:2 ,c", "mqtt://h", "h:65535"};
	const char *bad[] = {"http://h", "tcp://", ":1883", "h:", "h:0",
	    "h:65536", "h:99999999999", "h:1x", "h h", "a,,b", ",", "[::1",
	    "[::1]x", "tcp://h/path", "ws://h/ x", "h:1:2", "u@h", "h?x",
	    "mqtt://u:secret@h", "mqtt://u:secret,x@h", "http://u:secret@h",
	    "ws://u:secret/x@h"};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct svc_broker_config config = {.address = good[i]};
		struct svc_broker *broker = NULL;
		struct svc_error err = {0};
		if (svc_broker_create("mqtt", &config, &broker, &err) != SVC_OK)
			fail_msg("%s: %s", good[i], err.text);
		svc_broker_destroy(broker);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct svc_broker_config config = {.address = bad[i]};
		struct svc_broker *broker = NULL;
		struct svc_error err = {0};
		if (svc_broker_create("mqtt", &config, &broker, &err) !=
		    SVC_E_INVAL)
			fail_msg("%s was taken", bad[i]);
		assert_null(broker);
		assert_non_null(strstr(err.text, "allowed is"));
		assert_non_null(strstr(err.text, "tcp://"));
		assert_null(strstr(err.text, "secret"));
	}
}

/* mosquitto_sub in the background; its output is in the file then. */
static pid_t
start_sub(const char *topic, const char *path)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	if (freopen(path, "w", stdout) == NULL)
		_exit(126);
	execlp("timeout", "timeout", "15", "mosquitto_sub", "-h", "127.0.0.1",
	    "-p", port(), "-q", "1", "-t", topic, "-C", "1", "-F",
	    "%t %q %r %p", (char *)NULL);
	_exit(127);
}

static void
others_see_go_micros_json(void **state)
{
	(void)state;
	struct svc_broker *broker = broker_connected();
	char path[] = "/tmp/svc-mqtt-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	pid_t pid = start_sub("greet", path);
	assert_true(pid > 0);

	struct svc_headers *headers = svc_headers_create();
	svc_headers_set(headers, "Micro-Id", "1-2-3");
	svc_headers_set(headers, "Foo", "bar");
	struct svc_message message = {
	    "application/json", "{\"name\":\"john\"}\n", 16, headers};
	/* Again until mosquitto_sub is there and has had one. */
	int status = 0;
	int64_t deadline = svc_deadline(WAIT_MS);
	while (
	    waitpid(pid, &status, WNOHANG) == 0 && svc_remaining(deadline) > 0)
		assert_int_equal(
		    svc_broker_publish(broker, "greet", &message, 0, NULL),
		    SVC_OK);
	svc_headers_destroy(headers);
	svc_broker_destroy(broker);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	char got[512] = "";
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	assert_non_null(fgets(got, sizeof(got), file));
	fclose(file);
	unlink(path);
	assert_string_equal(got,
	    "greet 1 0 {\"Header\":{\"Content-Type\":\"application/json\","
	    "\"Foo\":\"bar\",\"Micro-Id\":\"1-2-3\",\"Micro-Topic\":\"greet\"},"
	    "\"Body\":\"eyJuYW1lIjoiam9obiJ9Cg==\"}\n");
}

static void
hears_what_others_publish(void **state)
{
	(void)state;
	struct svc_broker *broker = broker_connected();
	struct reader reader;
	reader_init(&reader);
	subscribe(broker, "go.micro.topic", NULL, &reader);
	const char json[] =
	    "{\"Header\":{\"Content-Type\":\"application/json\","
	    "\"Foo\":\"bar\",\"Micro-Id\":\"x\",\"Micro-Topic"
	    "\":\"go.micro.topic\"},\"Body\":"
	    "\"eyJuYW1lIjoiam9obiJ9Cg==\"}";
	inject(NULL, "go.micro.topic", json, sizeof(json) - 1);
	wait_reader(&reader, 1);
	assert_string_equal(reader.body, "{\"name\":\"john\"}\n");
	assert_string_equal(reader.type, "application/json");
	assert_string_equal(reader.foo, "bar");
	svc_broker_destroy(broker);
}

/* More than an inbox holds: the flow is stopped and started again, nothing is
 * lost, and publishing goes on meanwhile. */
static void
slow_handlers_stop_the_flow(void **state)
{
	(void)state;
	enum { N = 3000 };
	struct test_server *shared = roomy_server();
	struct svc_broker *broker = broker_connected();
	struct reader reader;
	reader_init(&reader);
	reader.blocked = true;
	subscribe(broker, "flood", NULL, &reader);
	struct svc_message message = {"text/plain", "x", 1, NULL};
	for (int i = 0; i < N; i++) {
		struct svc_error err = {0};
		if (svc_broker_publish(broker, "flood", &message, 0, &err) !=
		    SVC_OK)
			fail_msg("event %d: %s", i, err.text);
	}
	wait_reader(&reader, 1);
	pthread_mutex_lock(&reader.lock);
	reader.blocked = false;
	pthread_cond_broadcast(&reader.changed);
	pthread_mutex_unlock(&reader.lock);
	wait_reader(&reader, N);
	svc_broker_destroy(broker);
	back_to(shared);
}

static void
topics_of_the_server_are_refused(void **state)
{
	(void)state;
	struct svc_broker *broker = broker_connected();
	struct svc_message message = {NULL, "x", 1, NULL};
	struct svc_error err = {0};
	struct svc_subscription *subscription = NULL;
	assert_int_equal(
	    svc_broker_publish(broker, "$SYS/x", &message, 0, &err),
	    SVC_E_INVAL);
	assert_int_equal(svc_broker_subscribe(broker, "$share/a/b", NULL,
			     read_event, NULL, &subscription, &err),
	    SVC_E_INVAL);
	assert_int_equal(svc_broker_subscribe(broker, "t", "a/b", read_event,
			     NULL, &subscription, &err),
	    SVC_E_INVAL);
	svc_broker_destroy(broker);
}

static void
the_next_address_is_tried(void **state)
{
	(void)state;
	char address[96];
	snprintf(address, sizeof(address), "127.0.0.1:%d,tcp://%s",
	    test_free_port(), server->address);
	struct svc_broker *broker = broker_make(address, WAIT_MS);
	struct svc_error err = {0};
	if (svc_broker_connect(broker, &err) != SVC_OK)
		fail_msg("%s", err.text);
	struct svc_message message = {NULL, "x", 1, NULL};
	assert_int_equal(
	    svc_broker_publish(broker, "t", &message, 0, NULL), SVC_OK);
	svc_broker_destroy(broker);
}

/* Paho by itself looks at a new connection once a second, and twice until it is
 * made. The first of a process is seen sooner. */
static void
paho_is_woken_for_new_connections(void **state)
{
	(void)state;
	int64_t least_ms = INT64_MAX;
	struct svc_broker *idle = broker_connected();
	for (int i = 0; i < 10; i++) {
		int64_t began_ms = svc_now_ms();
		struct svc_broker *broker = broker_connected();
		int64_t took_ms = svc_now_ms() - began_ms;
		svc_broker_destroy(broker);
		if (took_ms < least_ms)
			least_ms = took_ms;
	}
	svc_broker_destroy(idle);
	/* A busy machine is late at times, but not each time. */
	assert_true(least_ms < 500);
}

/* A server that is there but says nothing. */
static void
a_frozen_server_times_out(void **state)
{
	(void)state;
	struct svc_broker *broker = broker_make(NULL, 4000);
	struct svc_error err = {0};
	if (svc_broker_connect(broker, &err) != SVC_OK)
		fail_msg("%s", err.text);
	struct svc_message message = {NULL, "x", 1, NULL};
	test_server_freeze(server);
	svc_err rc = svc_broker_publish(broker, "t", &message, 0, &err);
	test_server_thaw(server);
	assert_int_equal(rc, SVC_E_TIMEDOUT);
	assert_non_null(strstr(err.text, "acknowledge"));
	svc_broker_destroy(broker);
}

static void
wrong_passwords_are_named(void **state)
{
	(void)state;
	struct test_server *closed = start_mosquitto("allow_anonymous false\n");
	assert_non_null(closed);
	struct svc_broker *broker = broker_make(closed->address, 3000);
	struct svc_error err = {0};
	assert_int_equal(svc_broker_connect(broker, &err), SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, "password"));
	svc_broker_destroy(broker);
	test_server_stop(closed);
}

/* Waits for so many messages of a topic; the first as a number. */
static int
number_of(const char *topic, const char *n_messages)
{
	const char *argv[] = {"timeout", "14", "mosquitto_sub", "-h",
	    "127.0.0.1", "-p", port(), "-t", topic, "-C", n_messages, NULL};
	int status = -1;
	char *out = test_run(argv, &status);
	assert_non_null(out);
	assert_int_equal(status, 0);
	int number = (int)strtol(out, NULL, 10);
	free(out);
	return number;
}

/* The server publishes its counts every second, those that have changed. Two
 * times after the one that is known already what it says is new. */
static bool
sessions_become(int n)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	number_of("$SYS/broker/uptime", "3");
	while (number_of("$SYS/broker/clients/disconnected", "1") != n) {
		if (svc_remaining(deadline) == 0)
			return false;
	}
	return true;
}

/* Nothing of ours stays in the server, not even when the flow is stopped just
 * then. */
static void
sessions_end_with_us(void **state)
{
	(void)state;
	struct test_server *shared = roomy_server();
	struct svc_broker *broker = broker_connected();
	struct reader reader;
	reader_init(&reader);
	subscribe(broker, "session", NULL, &reader);
	subscribe(broker, "session", "q", &reader);
	svc_broker_destroy(broker);
	assert_true(sessions_become(0));

	broker = broker_connected();
	reader.blocked = true;
	subscribe(broker, "session", NULL, &reader);
	struct svc_message message = {"text/plain", "x", 1, NULL};
	for (int i = 0; i < 1100; i++)
		assert_int_equal(
		    svc_broker_publish(broker, "session", &message, 0, NULL),
		    SVC_OK);
	assert_true(sessions_become(1));
	pthread_mutex_lock(&reader.lock);
	reader.blocked = false;
	pthread_cond_broadcast(&reader.changed);
	pthread_mutex_unlock(&reader.lock);
	svc_broker_destroy(broker);
	assert_true(sessions_become(0));
	back_to(shared);
}

/* ---------------------------------------------- a server without MQTT 5 */

/* Stands before the real server and lets MQTT 3.1.1 through. A CONNECT of
 * another version is refused with a code, or answered by hanging up. */
struct doorman {
	int fd;
	int port;
	bool hangs_up;
	pthread_t thread;
	pthread_mutex_t lock;
	int n_refused, n_passed;
	struct doorman_pair {
		int client, server;
	} pairs[32];
	size_t n_pairs;
	bool stop;
};

static struct sockaddr_in
loopback(int number)
{
	return (struct sockaddr_in){
	    .sin_family = AF_INET,
	    .sin_port = htons((uint16_t)number),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

/* The protocol level is the byte after the name: 10 LEN 00 04 "MQTT" LEVEL,
 * with a LEN of one or two bytes. */
static void
let_in(struct doorman *doorman, int client)
{
	unsigned char start[16];
	ssize_t n = recv(client, start, 10, MSG_PEEK | MSG_WAITALL);
	size_t level = n == 10 && start[1] >= 0x80 ? 9 : 8;
	struct sockaddr_in to = loopback(server->port);
	int fd = -1;
	pthread_mutex_lock(&doorman->lock);
	if (n == 10 && start[level] == 4 && doorman->n_pairs < 32) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0) {
			doorman->n_passed++;
			doorman->pairs[doorman->n_pairs++] =
			    (struct doorman_pair){client, fd};
			pthread_mutex_unlock(&doorman->lock);
			return;
		}
		close(fd);
	} else if (n == 10) {
		doorman->n_refused++;
		if (!doorman->hangs_up)
			(void)!write(client, "\x20\x02\x00\x01", 4);
	}
	pthread_mutex_unlock(&doorman->lock);
	close(client);
}

static bool
copy_bytes(int from, int to)
{
	char bytes[4096];
	ssize_t n = recv(from, bytes, sizeof(bytes), 0);
	for (ssize_t at = 0; at < n;) {
		ssize_t sent =
		    send(to, bytes + at, (size_t)(n - at), MSG_NOSIGNAL);
		if (sent <= 0)
			return false;
		at += sent;
	}
	return n > 0;
}

static void *
run_doorman(void *arg)
{
	struct doorman *doorman = arg;
	for (;;) {
		struct pollfd fds[65] = {{doorman->fd, POLLIN, 0}};
		size_t n = doorman->n_pairs;
		for (size_t i = 0; i < n; i++) {
			fds[1 + 2 * i].fd = doorman->pairs[i].client;
			fds[2 + 2 * i].fd = doorman->pairs[i].server;
			fds[1 + 2 * i].events = fds[2 + 2 * i].events = POLLIN;
		}
		poll(fds, (nfds_t)(1 + 2 * n), 50);
		pthread_mutex_lock(&doorman->lock);
		bool stop = doorman->stop;
		pthread_mutex_unlock(&doorman->lock);
		if (stop)
			break;
		for (size_t i = n; i-- > 0;) {
			struct doorman_pair pair = doorman->pairs[i];
			bool open = true;
			if (fds[1 + 2 * i].revents != 0)
				open = copy_bytes(pair.client, pair.server);
			if (open && fds[2 + 2 * i].revents != 0)
				open = copy_bytes(pair.server, pair.client);
			if (open)
				continue;
			close(pair.client);
			close(pair.server);
			doorman->pairs[i] = doorman->pairs[--doorman->n_pairs];
		}
		if (fds[0].revents != 0)
			let_in(doorman, accept(doorman->fd, NULL, NULL));
	}
	for (size_t i = 0; i < doorman->n_pairs; i++) {
		close(doorman->pairs[i].client);
		close(doorman->pairs[i].server);
	}
	close(doorman->fd);
	return NULL;
}

static void
doorman_start(struct doorman *doorman, bool hangs_up)
{
	*doorman = (struct doorman){.hangs_up = hangs_up};
	pthread_mutex_init(&doorman->lock, NULL);
	struct sockaddr_in at = loopback(0);
	socklen_t len = sizeof(at);
	doorman->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(doorman->fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(listen(doorman->fd, 16), 0);
	assert_int_equal(
	    getsockname(doorman->fd, (struct sockaddr *)&at, &len), 0);
	doorman->port = ntohs(at.sin_port);
	assert_int_equal(
	    svc_thread_start(&doorman->thread, "doorman", run_doorman, doorman),
	    SVC_OK);
}

static void
doorman_stop(struct doorman *doorman)
{
	pthread_mutex_lock(&doorman->lock);
	doorman->stop = true;
	pthread_mutex_unlock(&doorman->lock);
	svc_thread_join(doorman->thread);
	pthread_mutex_destroy(&doorman->lock);
}

static void
old_servers_do(bool hangs_up)
{
	struct test_server *shared = server;
	server = start_mosquitto(NULL);
	assert_non_null(server);
	struct doorman doorman;
	doorman_start(&doorman, hangs_up);
	char address[32];
	snprintf(address, sizeof(address), "127.0.0.1:%d", doorman.port);
	struct svc_broker *broker = broker_make(address, WAIT_MS);
	struct svc_error err = {0};
	struct svc_message message = {"text/plain", "x", 1, NULL};
	/* The first round of attempts may not get there, the next ones do. */
	svc_err rc = svc_broker_connect(broker, &err);
	if (rc != SVC_OK && rc != SVC_E_UNAVAILABLE)
		fail_msg("connect: %s", err.text);
	if (svc_broker_publish(broker, "old", &message, 0, &err) != SVC_OK)
		fail_msg("publish: %s", err.text);
	pthread_mutex_lock(&doorman.lock);
	int n_refused = doorman.n_refused;
	pthread_mutex_unlock(&doorman.lock);
	assert_true(n_refused > 0);
	struct reader reader;
	reader_init(&reader);
	subscribe(broker, "old", NULL, &reader);
	for (size_t i = 1; i <= 10; i++) {
		assert_int_equal(
		    svc_broker_publish(broker, "old", &message, 0, NULL),
		    SVC_OK);
		wait_reader(&reader, i);
	}
	struct svc_subscription *subscription = NULL;
	assert_int_equal(svc_broker_subscribe(broker, "old", "workers",
			     read_event, &reader, &subscription, &err),
	    SVC_E_UNIMPLEMENTED);
	assert_non_null(strstr(err.text, "workers"));
	assert_non_null(strstr(err.text, "3.1.1"));
	assert_null(subscription);
	svc_broker_destroy(broker);
	assert_true(sessions_become(0));
	doorman_stop(&doorman);
	back_to(shared);
}

static void
old_servers_that_refuse(void **state)
{
	(void)state;
	old_servers_do(false);
}

static void
old_servers_that_hang_up(void **state)
{
	(void)state;
	old_servers_do(true);
}

int
main(void)
{
	if (!test_server_have("mosquitto") ||
	    !test_server_have("mosquitto_pub")) {
		printf("SKIPPED: mosquitto is not installed\n");
		return 77;
	}
	server = start_mosquitto("max_queued_messages 0\nsys_interval 1\n");
	if (server == NULL)
		return 1;
	struct svc_conformance_broker setup = {
	    .plugin = "mqtt",
	    .configure = configure,
	    .kill_server = kill_server,
	    .start_server = start_server,
	    .inject = inject,
	    .deals_out = true,
	    /* mosquitto 2.0 keeps sessions, but not shared subscriptions */
	    .forgets_queues = true,
	};
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(addresses_are_checked),
	    cmocka_unit_test(others_see_go_micros_json),
	    cmocka_unit_test(hears_what_others_publish),
	    cmocka_unit_test(slow_handlers_stop_the_flow),
	    cmocka_unit_test(topics_of_the_server_are_refused),
	    cmocka_unit_test(the_next_address_is_tried),
	    cmocka_unit_test(paho_is_woken_for_new_connections),
	    cmocka_unit_test(a_frozen_server_times_out),
	    cmocka_unit_test(wrong_passwords_are_named),
	    cmocka_unit_test(sessions_end_with_us),
	    cmocka_unit_test(old_servers_that_refuse),
	    cmocka_unit_test(old_servers_that_hang_up),
	};
	int failed = svc_conformance_broker(&setup);
	failed += cmocka_run_group_tests_name("mqtt", tests, NULL, NULL);
	test_server_stop(server);
	return failed;
}
