/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A service on TCP among strangers: garbage, other protocols, halves of
 * frames, floods, and more connections than it takes, while ordinary clients
 * call. The service is a process of its own, so that its descriptors and its
 * memory can be told from ours.
 *
 * The frames are made here by hand, from docs/wire.md; the hello is the
 * server's own, sent back.
 */
#include <svc/svc.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_MS 30000
#define MAX_CONNECTIONS 100
#define CROWD 300
#define CLIENTS 3
#define ROUNDS                                               \
	3 /* of all attacks, by each attacker, in a wave; or \
	   * SVC_STRESS_ROUNDS */
#define ATTACKERS 3

static pid_t server_pid;
static char server_address[64];
static struct svc_service *caller;
static size_t rounds = ROUNDS;

/* ------------------------------------------------------------------ server */

static _Atomic int64_t echoes, sinks; /* of clients, of strangers */

static svc_err
on_echo(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	_Atomic int64_t *count = arg;
	(void)call;
	atomic_fetch_add(count, 1);
	rsp->data = req->data;
	rsp->len = req->len;
	return SVC_OK;
}

struct use {
	int64_t descriptors, bytes, echoes, sinks;
};

static svc_err
on_use(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)arg;
	struct use *use = svc_alloc_in(call, sizeof(*use));
	DIR *dir = opendir("/proc/self/fd");
	if (use == NULL || dir == NULL)
		return SVC_E_NOMEM;
	use->descriptors = 0;
	while (readdir(dir) != NULL)
		use->descriptors++;
	closedir(dir);
	struct mallinfo2 memory = mallinfo2();
	use->bytes = (int64_t)(memory.uordblks + memory.hblkhd);
	use->echoes = atomic_load(&echoes);
	use->sinks = atomic_load(&sinks);
	rsp->data = use;
	rsp->len = sizeof(*use);
	return SVC_OK;
}

static int
serve(int tell)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	struct svc_service *service =
	    svc_new(name("hostile"), transport(tcp), registry(memory),
		broker(memory), address("127.0.0.1:0"), log_level("off"));
	svc_handle(service, "Hostile.Echo", on_echo, &echoes);
	svc_handle(service, "Hostile.Sink", on_echo, &sinks);
	svc_handle(service, "Hostile.Use", on_use, NULL);
	char program[] = "hostile", most[40], hello[] = "--handshake_timeout=1";
	snprintf(most, sizeof(most), "--max_connections=%d", MAX_CONNECTIONS);
	char *argv[] = {program, most, hello, NULL};
	svc_err code = svc_init(service, 3, argv);
	if (code == SVC_OK)
		code = svc_start(service);
	if (code != SVC_OK) {
		fprintf(stderr, "%s\n", svc_error_text(service));
		return 1;
	}
	const char *address = svc_options_of(service)->address;
	if (write(tell, address, strlen(address) + 1) < 0)
		return 1;
	close(tell);
	code = svc_run(service);
	svc_free(service);
	return svc_exit_status(code);
}

/* ------------------------------------------------------------------ frames */

struct bytes {
	uint8_t data[4096];
	size_t len;
};

static void
add(struct bytes *bytes, const void *data, size_t len)
{
	assert_true(bytes->len + len <= sizeof(bytes->data));
	memcpy(bytes->data + bytes->len, data, len);
	bytes->len += len;
}

static void
add_number(struct bytes *bytes, uint32_t value, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));
		add(bytes, &byte, 1);
	}
}

static void
add_frame(struct bytes *bytes, uint32_t length, unsigned type, unsigned flags,
    unsigned head, uint32_t stream, uint32_t value)
{
	add_number(bytes, length, 4);
	add_number(bytes, type, 1);
	add_number(bytes, flags, 1);
	add_number(bytes, head, 2);
	add_number(bytes, stream, 4);
	add_number(bytes, value, 4);
}

enum { PART = 1, RESET = 2, PING = 4 };
enum { HEADERS = 1, MESSAGE = 2, END = 4 };

static void
add_request(struct bytes *bytes, uint32_t stream, unsigned flags, size_t len)
{
	static const char *const texts[] = {
	    "hostile", "Hostile.Sink", "text/plain"};
	static const uint8_t body[1024];
	uint32_t head = 0;
	for (int i = 0; i < 3; i++)
		head += (uint32_t)strlen(texts[i]) + 3;
	add_frame(bytes, head + (uint32_t)len, PART, flags, head, stream, 0);
	for (int i = 0; i < 3; i++) {
		add_number(bytes, (uint32_t)strlen(texts[i]), 2);
		add(bytes, texts[i], strlen(texts[i]) + 1);
	}
	add(bytes, body, len);
}

/* ----------------------------------------------------------------- sockets */

static int
dial(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port = htons(
	    (uint16_t)strtoul(strrchr(server_address, ':') + 1, NULL, 10));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
		print_error("connect: %s\n", strerror(errno));
		abort();
	}
	return fd;
}

/* How much the server took before it had enough. */
static size_t
say(int fd, const void *data, size_t len)
{
	size_t sent = 0;
	while (sent < len) {
		ssize_t n = send(fd, (const char *)data + sent, len - sent,
		    MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			sent += (size_t)n;
			continue;
		}
		struct pollfd wait = {.fd = fd, .events = POLLOUT};
		if (errno != EAGAIN || poll(&wait, 1, 100) <= 0)
			break;
	}
	return sent;
}

/* Reads until the server closes; false when it does not. */
static bool
is_closed(int fd, int patience_ms)
{
	char bytes[4096];
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	while (poll(&wait, 1, patience_ms) > 0)
		if (recv(fd, bytes, sizeof(bytes), 0) <= 0)
			return true;
	return false;
}

/* The server's hello; false when it closed the connection without one. */
static bool
hear_hello(int fd, struct bytes *hello)
{
	hello->len = 0;
	size_t size = 8;
	while (hello->len < size) {
		ssize_t n = recv(fd, hello->data + hello->len,
		    size - hello->len, MSG_WAITALL);
		if (n <= 0)
			return false;
		hello->len += (size_t)n;
		if (hello->len == 8)
			size = hello->data[6] | (size_t)hello->data[7] << 8;
	}
	return true;
}

/* ----------------------------------------------------------------- attacks */

/* Each gets a fresh connection that is closed behind it. */

static void
must_close(int fd, const char *what)
{
	if (is_closed(fd, PATIENCE_MS))
		return;
	print_error(
	    "the server does not close the connection after %s\n", what);
	abort();
}

static void
garbage(int fd)
{
	uint8_t bytes[2000];
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)svc_random();
	bytes[0] = 0;
	say(fd, bytes, sizeof(bytes));
	must_close(fd, "garbage");
}

static void
http(int fd)
{
	static const char text[] = "GET /Hostile.Echo HTTP/1.1\r\n"
				   "Host: hostile\r\n\r\n";
	say(fd, text, sizeof(text) - 1);
	must_close(fd, "an HTTP request");
}

static void
tls(int fd)
{
	uint8_t bytes[517] = {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3};
	say(fd, bytes, sizeof(bytes));
	must_close(fd, "a ClientHello");
}

static void
wrong_version(int fd)
{
	struct bytes hello;
	if (!hear_hello(fd, &hello))
		return;
	hello.data[4] = hello.data[5] = 99;
	say(fd, hello.data, hello.len);
	must_close(fd, "a hello of version 99");
}

static void
unknown_frame(int fd)
{
	struct bytes out;
	if (!hear_hello(fd, &out))
		return;
	add_frame(&out, 4, 77, 0, 0, 1, 0);
	add_number(&out, 0, 4);
	say(fd, out.data, out.len);
	must_close(fd, "a frame of type 77");
}

static void
absurd_head(int fd)
{
	struct bytes out;
	if (!hear_hello(fd, &out))
		return;
	add_frame(&out, 10, PART, HEADERS | END, 60000, 1, 0);
	say(fd, out.data, out.len);
	must_close(fd, "a head longer than its frame");
}

static void
absurd_length(int fd)
{
	struct bytes out;
	if (!hear_hello(fd, &out))
		return;
	add_frame(&out, UINT32_MAX, PART, HEADERS | MESSAGE | END, 10, 1, 0);
	say(fd, out.data, out.len);
	memset(out.data, 0, sizeof(out.data));
	for (int i = 0; i < 20; i++)
		say(fd, out.data, sizeof(out.data));
}

static void
half_hello(int fd)
{
	struct bytes hello;
	if (hear_hello(fd, &hello))
		say(fd, hello.data, hello.len / 2);
}

static void
half_frame(int fd)
{
	struct bytes out;
	if (!hear_hello(fd, &out))
		return;
	size_t hello = out.len;
	add_request(&out, 1, HEADERS | MESSAGE | END, 500);
	say(fd, out.data,
	    hello + 1 + (size_t)svc_random_below(out.len - hello - 1));
}

static void
hang_up_by_reset(int fd)
{
	struct linger at_once = {.l_onoff = 1};
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}

static void
flood_of_resets(int fd)
{
	struct bytes out;
	if (!hear_hello(fd, &out))
		return;
	for (uint32_t stream = 1; stream < 3000; stream++) {
		add_request(&out, stream, HEADERS | MESSAGE | END, 16);
		add_frame(&out, 0, RESET, 0, 0, stream, SVC_E_CANCELLED);
		if (out.len > sizeof(out.data) - 200) {
			if (say(fd, out.data, out.len) < out.len)
				return;
			out.len = 0;
		}
	}
}

static void
flood_of_pings(int fd)
{
	struct bytes out;
	if (!hear_hello(fd, &out))
		return;
	size_t total = 0;
	while (total < (16u << 20)) { /* and no PONG is read */
		while (out.len < sizeof(out.data) - 1100) {
			static const uint8_t body[1000];
			add_frame(&out, sizeof(body), PING, 0, 0, 0, 0);
			add(&out, body, sizeof(body));
		}
		if (say(fd, out.data, out.len) < out.len)
			return;
		total += out.len;
		out.len = 0;
	}
}

static void
requests_whose_answers_nobody_reads(int fd)
{
	struct bytes out;
	if (!hear_hello(fd, &out))
		return;
	for (uint32_t stream = 1; stream < 8000; stream++) {
		add_request(&out, stream, HEADERS | MESSAGE | END, 1024);
		if (say(fd, out.data, out.len) < out.len)
			return;
		out.len = 0;
	}
}

static void
streams_without_end(int fd)
{
	struct bytes out;
	if (!hear_hello(fd, &out))
		return;
	for (uint32_t stream = 1; stream < 5000; stream++) {
		add_request(&out, stream, HEADERS | MESSAGE, 64);
		if (say(fd, out.data, out.len) < out.len)
			return;
		out.len = 0;
	}
}

static void (*const attacks[])(int fd) = {garbage, http, tls, wrong_version,
    unknown_frame, absurd_head, absurd_length, half_hello, half_frame,
    hang_up_by_reset, flood_of_resets, flood_of_pings,
    requests_whose_answers_nobody_reads, streams_without_end};
#define N_ATTACKS (sizeof(attacks) / sizeof(attacks[0]))

static void *
attack(void *arg)
{
	size_t at = (size_t)(uintptr_t)arg;
	for (size_t i = 0; i < rounds * N_ATTACKS; i++) {
		int fd = dial();
		attacks[(i + at) % N_ATTACKS](fd);
		close(fd);
		/* Some that only come and go. */
		for (int k = 0; k < 5; k++)
			close(dial());
	}
	return NULL;
}

/* Connections that say nothing, or too little in the time of a hello. */
#define SLOW 20
static void *
be_slow(void *arg)
{
	int fds[SLOW];
	size_t n_open = SLOW;
	struct bytes hello = {.len = 0};
	(void)arg;
	for (int i = 0; i < SLOW; i++)
		fds[i] = dial();
	/* Some are one too many and hear nothing. */
	for (int i = 0; i < SLOW && hello.len < 8; i++)
		hear_hello(fds[i], &hello);
	for (size_t k = 0; n_open > 0; k++) {
		for (int i = 0; i < SLOW; i++) {
			if (fds[i] < 0)
				continue;
			/* One byte in 100 ms: a hello takes 1.6 s and more. */
			if (i % 2 == 0 && k < hello.len - 1)
				say(fds[i], hello.data + k, 1);
			if (is_closed(fds[i], 100 / SLOW)) {
				close(fds[i]);
				fds[i] = -1;
				n_open--;
			}
		}
		if (k > PATIENCE_MS / 100) {
			print_error(
			    "%zu silent connections are not closed\n", n_open);
			abort();
		}
	}
	return NULL;
}

/* More at once than there is room for: those are closed, and no others. */
static void *
crowd(void *arg)
{
	int fds[CROWD];
	(void)arg;
	for (int i = 0; i < CROWD; i++)
		fds[i] = dial();
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	int closed = 0;
	for (int i = 0; closed < CROWD - MAX_CONNECTIONS; i = (i + 1) % CROWD) {
		if (fds[i] >= 0 && is_closed(fds[i], 1)) {
			close(fds[i]);
			fds[i] = -1;
			closed++;
		}
		if (svc_now_ms() > until_ms) {
			print_error("only %d of %d connections were refused\n",
			    closed, CROWD);
			abort();
		}
	}
	for (int i = 0; i < CROWD; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return NULL;
}

/* ----------------------------------------------------------------- clients */

static _Atomic bool attacked; /* while an attack lasts */
static _Atomic int64_t answered;

static void *
call(void *arg)
{
	char data[500];
	(void)arg;
	for (int n = 0; atomic_load(&attacked) || n < 50; n++) {
		memset(data, n, sizeof(data));
		struct svc_message req = {
		    .data = data, .len = (size_t)(n % (int)sizeof(data))};
		struct svc_message rsp;
		struct svc_error err = {0};
		svc_err code = svc_call(svc_client_of(caller), "hostile",
		    "Hostile.Echo", &req, &rsp, retries(0),
		    timeout_ms(PATIENCE_MS), detail(&err));
		if (code != SVC_OK || rsp.len != req.len ||
		    memcmp(rsp.data, data, rsp.len) != 0) {
			print_error("call %d: %s: %s\n", n, svc_err_name(code),
			    err.text);
			abort();
		}
		svc_message_free(&rsp);
		atomic_fetch_add(&answered, 1);
	}
	return NULL;
}

static struct use
ask(void)
{
	struct svc_message rsp;
	struct svc_error err = {0};
	struct use use;
	svc_err code = svc_call(svc_client_of(caller), "hostile", "Hostile.Use",
	    NULL, &rsp, timeout_ms(PATIENCE_MS), detail(&err));
	if (code != SVC_OK)
		fail_msg("%s", err.text);
	assert_int_equal(rsp.len, sizeof(use));
	memcpy(&use, rsp.data, sizeof(use));
	svc_message_free(&rsp);
	return use;
}

/* Asks until only `descriptors` are open: all strangers are gone. */
static struct use
settle(int64_t descriptors)
{
	int64_t until_ms = svc_deadline(PATIENCE_MS);
	struct use use;
	while ((use = ask()).descriptors > descriptors)
		if (svc_now_ms() > until_ms)
			fail_msg("%lld descriptors are open, not %lld",
			    (long long)use.descriptors, (long long)descriptors);
	return use;
}

static pthread_t
start(void *(*run)(void *arg), size_t number)
{
	pthread_t thread;
	void *arg = (void *)(uintptr_t)number;
	assert_int_equal(pthread_create(&thread, NULL, run, arg), 0);
	return thread;
}

static void
wave(void)
{
	pthread_t clients[CLIENTS], attackers[ATTACKERS], slow;
	atomic_store(&attacked, true);
	for (int i = 0; i < CLIENTS; i++)
		clients[i] = start(call, 0);
	for (size_t i = 0; i < ATTACKERS; i++)
		attackers[i] = start(attack, i * 5);
	slow = start(be_slow, 0);
	for (int i = 0; i < ATTACKERS; i++)
		pthread_join(attackers[i], NULL);
	pthread_join(slow, NULL);
	pthread_join(start(crowd, 0), NULL);
	atomic_store(&attacked, false);
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(clients[i], NULL);
}

static void
strangers_disturb_nobody(void **state)
{
	(void)state;
	int64_t descriptors = ask().descriptors;
	wave(); /* what is made on first use is made now */
	struct use before = settle(descriptors);
	enum { WAVES = 2 };
	for (int i = 0; i < WAVES; i++)
		wave();
	struct use after = settle(descriptors);
	assert_int_equal(after.echoes, atomic_load(&answered));
	assert_true(after.sinks > before.sinks);
	print_message("%lld calls; %lld requests of strangers ran; "
		      "%lld bytes in use before, %lld after\n",
	    (long long)after.echoes, (long long)after.sinks,
	    (long long)before.bytes, (long long)after.bytes);
	/* Much less than one connection's state for each there was; what grows
	 * is what the threads of the server keep free. A sanitizer's own
	 * allocator shows 0. */
	int64_t connections =
	    WAVES * (ATTACKERS * (int64_t)(rounds * N_ATTACKS) * 6 + CROWD);
	assert_true(after.bytes - before.bytes < connections * 128);
}

/* Puts the server where the caller looks. */
static int
announce(void **state)
{
	(void)state;
	struct svc_headers *metadata = svc_headers_create();
	svc_headers_set(metadata, "transport", "tcp");
	struct svc_node node = {
	    .id = "hostile-1", .address = server_address, .metadata = metadata};
	struct svc_record record = {.name = "hostile",
	    .version = "latest",
	    .nodes = &node,
	    .n_nodes = 1};
	caller = svc_new(name("caller"), transport(tcp), registry(memory),
	    broker(memory), log_level("error"));
	if (svc_init(caller, 0, NULL) != SVC_OK) {
		print_error("%s\n", svc_error_text(caller));
		return -1;
	}
	struct svc_error err = {0};
	svc_err code = svc_registry_announce(
	    svc_registry_of(caller), &record, 3600000, &err);
	svc_headers_destroy(metadata);
	if (code != SVC_OK)
		print_error("%s\n", err.text);
	return code == SVC_OK ? 0 : -1;
}

static int
end(void **state)
{
	(void)state;
	svc_free(caller);
	int status;
	kill(server_pid, SIGTERM);
	if (waitpid(server_pid, &status, 0) != server_pid || status != 0) {
		print_error(
		    "the server ended with status %x\n", (unsigned)status);
		return -1;
	}
	return 0;
}

int
main(void)
{
	const char *wanted = getenv("SVC_STRESS_ROUNDS");
	if (wanted != NULL && strtoul(wanted, NULL, 10) > 0)
		rounds = strtoul(wanted, NULL, 10);
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
	setrlimit(RLIMIT_NOFILE, &limit);
	int tell[2];
	if (pipe(tell) != 0)
		return 1;
	server_pid = fork();
	if (server_pid == 0) {
		close(tell[0]);
		exit(serve(tell[1]));
	}
	close(tell[1]);
	ssize_t n = read(tell[0], server_address, sizeof(server_address) - 1);
	close(tell[0]);
	if (server_pid < 0 || n <= 0)
		return 1;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(strangers_disturb_nobody),
	};
	return cmocka_run_group_tests_name("hostile", tests, announce, end);
}
