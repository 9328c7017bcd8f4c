/* SPDX-License-Identifier: Apache-2.0 */
/* Streams under load, and when things go wrong: many messages, slow readers,
 * lost nodes, failing allocations. */
#include "nodes_test.h"
#include "stream_test.h"

#include <malloc.h>

/* -------------------------------------------------------- order and count */

/* Each message says its number, and has a length that follows from it. */
#define MAX_NUMBERED 1024
static size_t
number_message(char *out, uint32_t n, size_t size)
{
	size_t len = sizeof(n) + n % (size - sizeof(n));
	memset(out, (int)(n & 0x7f), len);
	memcpy(out, &n, sizeof(n));
	return len;
}

static bool
is_number(const struct svc_message *m, uint32_t n, size_t size)
{
	char want[MAX_NUMBERED];
	size_t len = number_message(want, n, size);
	return m->len == len && memcmp(m->data, want, len) == 0;
}

struct sender {
	struct svc_stream *stream;
	uint32_t n;
	size_t size;
	svc_err code;
	pthread_t thread;
};

static void *
send_numbers(void *arg)
{
	struct sender *sender = arg;
	char out[MAX_NUMBERED];
	for (uint32_t i = 0; i < sender->n && sender->code == SVC_OK; i++) {
		size_t len = number_message(out, i, sender->size);
		struct svc_message m = {.data = out, .len = len};
		sender->code = svc_stream_send(sender->stream, &m);
	}
	if (sender->code == SVC_OK)
		sender->code = svc_stream_close_send(sender->stream);
	return NULL;
}

/* Receives numbers to the end; `pause_ms` every so often. */
static void
receive_numbers(struct svc_stream *stream, uint32_t n, size_t size,
    int64_t pause_ms, size_t *peak)
{
	struct svc_message m;
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t never;
	svc_cond_init(&never);
	for (uint32_t i = 0; i < n; i++) {
		must(stream, svc_stream_recv(stream, &m));
		if (!is_number(&m, i, size))
			fail_msg("message %u is not what was sent", i);
		svc_message_free(&m);
		if (pause_ms == 0 || i % 5000 != 0)
			continue;
		/* The slowness is what is tested. */
		int64_t until_ms = svc_deadline(pause_ms);
		pthread_mutex_lock(&lock);
		while (svc_cond_wait(&never, &lock, until_ms) == SVC_OK)
			;
		pthread_mutex_unlock(&lock);
		struct mallinfo2 now = mallinfo2();
		if (now.uordblks + now.hblkhd > *peak)
			*peak = now.uordblks + now.hblkhd;
	}
	assert_int_equal(svc_stream_recv(stream, &m), SVC_E_EOF);
	pthread_cond_destroy(&never);
}

static uint32_t
messages(uint32_t usual)
{
	const char *wanted = getenv("SVC_STREAM_MESSAGES");
	return wanted != NULL ? (uint32_t)strtoul(wanted, NULL, 10) : usual;
}

static void
order_and_count_are_exact(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct sender sender = {
	    .stream = svc_open(client, "student", "Student.Echo"),
	    .n = messages(100000),
	    .size = 64,
	};
	assert_non_null(sender.stream);
	assert_int_equal(
	    svc_thread_start(&sender.thread, "sender", send_numbers, &sender),
	    SVC_OK);
	receive_numbers(sender.stream, sender.n, sender.size, 0, NULL);
	svc_thread_join(sender.thread);
	must(sender.stream, sender.code);
	svc_stream_free(sender.stream);
	svc_free(c);
	svc_free(s);
}

/* Of both sides, for one stream: what either may have sent that was not
 * received, 2 MiB each way; what waits in the connections, 1 MiB each way, in
 * buffers that double, two for each; and the tables of it all. */
#define MAX_GROWTH ((size_t)14 << 20)

static void *
send_nothing(void *arg)
{
	struct sender *sender = arg;
	struct svc_message nothing = {0};
	for (uint32_t i = 0; i < sender->n && sender->code == SVC_OK; i++)
		sender->code = svc_stream_send(sender->stream, &nothing);
	if (sender->code == SVC_OK)
		sender->code = svc_stream_close_send(sender->stream);
	return NULL;
}

/* They take none of the window's bytes, but must not pass it by either. */
static void
empty_messages_flow_too(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct sender sender = {
	    .stream = svc_open(
		client, "student", "Student.Echo", timeout_ms(PATIENCE_MS)),
	    .n = 50000,
	};
	assert_non_null(sender.stream);
	assert_int_equal(
	    svc_thread_start(&sender.thread, "sender", send_nothing, &sender),
	    SVC_OK);
	struct svc_message m;
	for (uint32_t i = 0; i < sender.n; i++) {
		must(sender.stream, svc_stream_recv(sender.stream, &m));
		assert_int_equal(m.len, 0);
	}
	assert_int_equal(svc_stream_recv(sender.stream, &m), SVC_E_EOF);
	svc_thread_join(sender.thread);
	must(sender.stream, sender.code);
	svc_stream_free(sender.stream);
	svc_free(c);
	svc_free(s);
}

static void
a_slow_reader_stops_the_writer(void **state)
{
	(void)state;
	if (!has_credit()) {
		test_lacks("credit");
		return;
	}
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct sender sender = {
	    .stream = svc_open(client, "student", "Student.Echo"),
	    .n = messages(40000),
	    .size = MAX_NUMBERED,
	};
	assert_non_null(sender.stream);
	struct mallinfo2 before = mallinfo2();
	size_t peak = 0;
	assert_int_equal(
	    svc_thread_start(&sender.thread, "sender", send_numbers, &sender),
	    SVC_OK);
	receive_numbers(sender.stream, sender.n, sender.size, 20, &peak);
	svc_thread_join(sender.thread);
	must(sender.stream, sender.code);
	svc_stream_free(sender.stream);
	size_t grown = peak - (before.uordblks + before.hblkhd);
	if (peak > before.uordblks + before.hblkhd) {
		print_message("grown by %zu bytes at most, for %u messages\n",
		    grown, sender.n);
		assert_true(grown < MAX_GROWTH);
	}
	svc_free(c);
	svc_free(s);
}

/* -------------------------------------------------------------------- sizes */

static void
large_messages_pass_whole(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct svc_stream *stream = svc_open(client, "student", "Student.Echo");
	const size_t most = (size_t)svc_options_of(c)->max_message_size;
	const size_t sizes[] = {1 << 20, 0, most, 1, most / 2, 65536};
	char *data = malloc(most);
	for (size_t i = 0; i < most; i++)
		data[i] = (char)(i * 31 + i / 251);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct svc_message m = {.data = data, .len = sizes[i]};
		must(stream, svc_stream_send(stream, &m));
		must(stream, svc_stream_recv(stream, &m));
		assert_int_equal(m.len, sizes[i]);
		assert_memory_equal(m.data, data, sizes[i]);
	}
	svc_stream_free(stream);
	free(data);
	svc_free(c);
	svc_free(s);
}

static void
a_size_limit_ends_no_stream(void **state)
{
	(void)state;
	static char flag[] = "--max_message_size=1000";
	char *argv[] = {flag, flag, NULL};
	struct svc_service *s = make("student", NULL);
	struct svc_service *c = make("caller", NULL), *d;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	assert_int_equal(svc_init(c, 2, argv), SVC_OK);
	struct svc_stream *stream =
	    svc_open(svc_client_of(c), "student", "Student.Echo");
	char data[2000] = {0};
	struct svc_message m = {.data = data, .len = 1001};
	struct svc_error err;
	assert_int_equal(svc_stream_send(stream, &m), SVC_E_EXHAUSTED);
	svc_stream_error(stream, &err);
	assert_string_equal(err.text,
	    "the message has 1001 bytes, more than max_message_size (1000); "
	    "raise --max_message_size");
	m.len = 1000;
	must(stream, svc_stream_send(stream, &m));
	must(stream, svc_stream_recv(stream, &m));
	assert_int_equal(m.len, 1000);
	svc_stream_free(stream);
	svc_free(s);

	/* The limit of the other side is known too. */
	s = make("teacher", NULL);
	svc_handle_stream(s, "Teacher.Echo", echo, NULL);
	assert_int_equal(svc_init(s, 2, argv), SVC_OK);
	must_start(s);
	struct svc_client *client = client_of(&d);
	stream = svc_open(client, "teacher", "Teacher.Echo");
	m = (struct svc_message){.data = data, .len = 10};
	must(stream, svc_stream_send(stream, &m));
	must(stream, svc_stream_recv(stream, &m));
	m = (struct svc_message){.data = data, .len = 2000};
	assert_int_equal(svc_stream_send(stream, &m), SVC_E_EXHAUSTED);
	svc_stream_error(stream, &err);
	assert_non_null(strstr(err.text, "max_message_size"));
	m.len = 20;
	must(stream, svc_stream_send(stream, &m));
	must(stream, svc_stream_recv(stream, &m));
	assert_int_equal(m.len, 20);
	svc_stream_free(stream);
	svc_free(d);
	svc_free(c);
	svc_free(s);
}

/* ---------------------------------------------------------------- the nodes */

static void
streams_move_from_a_dead_node(void **state)
{
	(void)state;
	struct svc_service *s = make("student", MORE(id("alive"))), *c;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	char address[64];
	dead_address(address);
	announce(c, "student", "dead", address, false);
	for (uint32_t i = 0; i < 30; i++) {
		struct sender sender = {
		    .stream = svc_open(client, "student", "Student.Echo"),
		    .n = 50,
		    .size = MAX_NUMBERED,
		};
		assert_non_null(sender.stream);
		send_numbers(&sender);
		must(sender.stream, sender.code);
		receive_numbers(sender.stream, sender.n, sender.size, 0, NULL);
		svc_stream_free(sender.stream);
	}
	/* Without another it shows, at once or a little later. */
	struct svc_error err = {0};
	struct svc_stream *stream = svc_open(client, "student", "Student.Echo",
	    node("dead"), retries(0), detail(&err));
	if (stream != NULL) {
		struct svc_message m;
		svc_stream_recv(stream, &m);
		svc_stream_error(stream, &err);
	}
	assert_int_equal(err.code, SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, address));
	svc_stream_free(stream);
	svc_free(c);
	svc_free(s);
}

static void
serve_echo(struct svc_service *service)
{
	svc_handle_stream(service, "Student.Echo", echo, NULL);
}

static void
a_killed_node_is_told(void **state)
{
	(void)state;
	char address[64];
	pid_t pid = start_child_with(serve_echo, address);
	struct svc_service *c;
	struct svc_client *client = client_of(&c);
	announce(c, "student", "killed", address, false);
	struct svc_stream *stream = svc_open(client, "student", "Student.Echo");
	assert_non_null(stream);
	struct svc_message m = {.data = "hi", .len = 2};
	must(stream, svc_stream_send(stream, &m));
	must(stream, svc_stream_recv(stream, &m));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(svc_stream_recv(stream, &m), SVC_E_UNAVAILABLE);
	struct svc_error err;
	svc_stream_error(stream, &err);
	assert_string_not_equal(err.text, "");
	assert_int_equal(svc_stream_send(stream, &(struct svc_message){0}),
	    SVC_E_UNAVAILABLE);
	svc_stream_free(stream);
	svc_free(c);
}

/* ------------------------------------------------------------ many at once */

#define THREADS 8

struct user {
	struct svc_client *client;
	uint64_t seed;
	int rounds;
	pthread_t thread;
	svc_err code;
};

/* What may come of a stream that somebody cancels at any moment. */
static bool
is_expected(svc_err code)
{
	return code == SVC_OK || code == SVC_E_CANCELLED || code == SVC_E_EOF;
}

static void *
cancel_it(void *arg)
{
	svc_stream_cancel(arg);
	return NULL;
}

static svc_err
use_one(struct svc_client *client, char *data, size_t size)
{
	struct svc_stream *stream =
	    svc_open(client, "student", "Student.Echo", retries(0));
	if (stream == NULL)
		return SVC_E_INTERNAL;
	pthread_t thread;
	bool cancelled = svc_random_below(4) == 0;
	svc_err code = SVC_OK;
	if (cancelled)
		code = svc_thread_start(&thread, "cancel", cancel_it, stream);
	if (code != SVC_OK)
		return code;
	uint64_t n = svc_random_below(10), sent = 0, got = 0;
	struct svc_message m;
	for (; sent < n && code == SVC_OK; sent++) {
		m = (struct svc_message){
		    .data = data, .len = svc_random_below(size)};
		code = svc_stream_send(stream, &m);
	}
	if (svc_random_below(2) == 0 && code == SVC_OK)
		code = svc_stream_close_send(stream);
	uint64_t wanted = svc_random_below(n + 1);
	for (; got < wanted && code == SVC_OK; got++)
		code = svc_stream_recv(stream, &m);
	if (cancelled)
		svc_thread_join(thread);
	svc_stream_free(stream);
	return cancelled ? is_expected(code) ? SVC_OK : code : code;
}

static void *
use_many(void *arg)
{
	struct user *user = arg;
	char data[3000] = {0};
	svc_random_seed(user->seed);
	for (int i = 0; i < user->rounds && user->code == SVC_OK; i++)
		user->code = use_one(user->client, data, sizeof(data));
	return NULL;
}

static void
streams_come_and_go(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Echo", echo, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	struct user users[THREADS];
	for (uint64_t i = 0; i < THREADS; i++) {
		users[i] = (struct user){
		    .client = client, .seed = i + 1, .rounds = 250};
		assert_int_equal(svc_thread_start(&users[i].thread, "user",
				     use_many, &users[i]),
		    SVC_OK);
	}
	for (size_t i = 0; i < THREADS; i++) {
		svc_thread_join(users[i].thread);
		if (users[i].code != SVC_OK)
			print_error("seed %zu: %s\n", i + 1,
			    svc_err_name(users[i].code));
		assert_int_equal(users[i].code, SVC_OK);
	}
	svc_free(c);
	svc_free(s);
}

/* ------------------------------------------------------ failing allocations */

/* Counts down to the one that fails; below 0 none does. */
static _Atomic int64_t until_failure = -1;

static bool
fail_one(size_t size, void *arg)
{
	(void)size;
	(void)arg;
	if (atomic_load_explicit(&until_failure, memory_order_relaxed) < 0)
		return true;
	return atomic_fetch_sub(&until_failure, 1) != 0;
}

/* A whole stream; true when everything went well. */
static bool
converse(struct svc_client *client)
{
	struct svc_error err = {0};
	struct svc_stream *stream = svc_open(client, "student", "Student.Echo",
	    header("token", "t"), timeout_ms(2000), retries(0), detail(&err));
	if (stream == NULL) {
		assert_int_not_equal(err.code, SVC_OK);
		assert_string_not_equal(err.text, "");
		return false;
	}
	char data[20000] = {0};
	svc_err code = SVC_OK;
	for (int i = 0; i < 3 && code == SVC_OK; i++) {
		struct svc_message m = {.data = data, .len = sizeof(data)};
		code = svc_stream_send(stream, &m);
		if (code == SVC_OK)
			code = svc_stream_recv(stream, &m);
		if (code == SVC_OK)
			assert_int_equal(m.len, sizeof(data));
	}
	if (code == SVC_OK)
		code = svc_stream_set_trailer(stream, "end", "soon");
	if (code == SVC_OK)
		code = svc_stream_close_send(stream);
	struct svc_message m;
	if (code == SVC_OK)
		code = svc_stream_recv(stream, &m);
	if (code != SVC_E_EOF) {
		assert_int_not_equal(code, SVC_OK);
		assert_int_equal(svc_stream_error(stream, &err), code);
		assert_string_not_equal(err.text, "");
	}
	svc_stream_free(stream);
	return code == SVC_E_EOF;
}

static svc_err
echo_with_trailers(struct svc_stream *stream, void *arg)
{
	svc_err code = svc_stream_set_header(stream, "mood", "calm");
	if (code == SVC_OK)
		code = svc_stream_set_trailer(stream, "count", "many");
	return code == SVC_OK ? echo(stream, arg) : code;
}

static void
each_failed_allocation_is_an_error(void **state)
{
	(void)state;
	struct svc_service *s = make("student", NULL), *c;
	svc_handle_stream(s, "Student.Echo", echo_with_trailers, NULL);
	must_start(s);
	struct svc_client *client = client_of(&c);
	assert_true(converse(client));
	int64_t n = 0;
	int failed = 0, well = 0;
	/* Until a few in a row have not met the failure any more. */
	while (well < 3) {
		atomic_store(&until_failure, n++);
		bool good = converse(client);
		bool met = atomic_exchange(&until_failure, -1) < 0;
		failed += !good;
		well = met ? 0 : well + 1;
		/* Whatever was lost, the next one works. */
		for (int i = 0; i < 3 && !converse(client); i++)
			;
		assert_true(converse(client));
		assert_true(n < 2000);
	}
	assert_true(failed > 10);
	svc_free(c);
	svc_free(s);
}

int
main(void)
{
	svc_mem_set_hook(fail_one, NULL);
	const struct CMUnitTest forks[] = {
	    /* First: it forks, and threads do not follow. */
	    TEST(a_killed_node_is_told),
	};
	transport_name = "tcp";
	int failed =
	    cmocka_run_group_tests_name("processes", forks, NULL, NULL);
	const struct CMUnitTest tests[] = {
	    TEST(order_and_count_are_exact),
	    TEST(empty_messages_flow_too),
	    TEST(a_slow_reader_stops_the_writer),
	    TEST(large_messages_pass_whole),
	    TEST(a_size_limit_ends_no_stream),
	    TEST(streams_move_from_a_dead_node),
	    TEST(streams_come_and_go),
	    TEST(each_failed_allocation_is_an_error),
	};
	EACH_TRANSPORT(failed, tests);
	return failed;
}
