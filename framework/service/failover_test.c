/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller notices when nodes fail: nothing, where it can be helped. */
#include "nodes_test.h"

#include <poll.h>

static void
calls_go_on_beside(const char *address)
{
	struct svc_service *s = make("student", MORE(id("alive")));
	svc_handle(s, "Student.Name", name_of_node, NULL);
	must_start(s);
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	/* Not idempotent: that it did not run is certain all the same. */
	announce(c, "student", "dead", address, false);
	for (int i = 0; i < 50; i++) {
		struct svc_message rsp;
		struct svc_error err = {0};
		svc_err code =
		    svc_call(svc_client_of(c), "student", "Student.Name", NULL,
			&rsp, timeout_ms(PATIENCE_MS), detail(&err));
		assert_string_equal(err.text, "");
		assert_int_equal(code, SVC_OK);
		assert_string_equal(rsp.data, "alive");
		svc_message_free(&rsp);
	}
	/* Without retries it shows, until the node is left out. */
	struct svc_error err = {0};
	assert_int_equal(
	    svc_call(svc_client_of(c), "student", "Student.Name", NULL, NULL,
		node("dead"), retries(0), detail(&err)),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, address));
	svc_free(c);
	svc_free(s);
}

static void
calls_go_on_beside_a_dead_node(void **state)
{
	(void)state;
	char address[64];
	dead_address(address);
	calls_go_on_beside(address);
}

/* Somebody else has written it: it is not the call that is bad. */
static void
calls_go_on_beside_an_address_that_is_none(void **state)
{
	(void)state;
	static const char *const addresses[] = {
	    "nowhere", "127.0.0.1:0", ":80", "[fe80::1]:80", "x://y"};
	/* Within a process any text is an address. */
	if (strcmp(transport_name, "memory") == 0)
		return;
	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
		calls_go_on_beside(addresses[i]);
}

static void
a_node_of_another_service_is_passed_over(void **state)
{
	(void)state;
	struct svc_service *s = make("student", MORE(id("s1")));
	svc_handle(s, "Student.Name", name_of_node, NULL);
	must_start(s);
	struct svc_service *t = make("teacher", MORE(id("t1")));
	svc_handle(t, "Student.Name", name_of_node, NULL);
	must_start(t);
	struct svc_client *client = svc_client_of(s);
	/* An old record: by now the student lives at that address. */
	announce(s, "teacher", "old", svc_options_of(s)->advertise, false);
	struct svc_error err = {0};
	assert_int_equal(svc_call(client, "teacher", "Student.Name", NULL, NULL,
			     node("old"), retries(0), detail(&err)),
	    SVC_E_UNAVAILABLE);
	assert_string_equal(err.text,
	    "service \"student\" lives at this address, not \"teacher\"");
	for (int i = 0; i < 20; i++) {
		struct svc_message rsp;
		assert_int_equal(
		    svc_call(client, "teacher", "Student.Name", NULL, &rsp),
		    SVC_OK);
		assert_string_equal(rsp.data, "t1");
		svc_message_free(&rsp);
	}
	svc_free(t);
	svc_free(s);
}

static svc_err
unavailable(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req;
	(void)rsp;
	atomic_fetch_add((atomic_int *)arg, 1);
	return svc_fail(call, SVC_E_UNAVAILABLE, "the library is closed");
}

static void
what_a_handler_answers_is_not_tried_again(void **state)
{
	(void)state;
	atomic_int runs = 0;
	struct svc_service *s[2];
	for (int i = 0; i < 2; i++) {
		s[i] = make("student", NULL);
		svc_handle(
		    s[i], "Student.Name", unavailable, &runs, idempotent());
		must_start(s[i]);
	}
	struct svc_error err = {0};
	/* Nor is any node blamed for it. */
	for (int i = 1; i <= 20; i++) {
		assert_int_equal(
		    svc_call(svc_client_of(s[0]), "student", "Student.Name",
			NULL, NULL, retries(5), detail(&err)),
		    SVC_E_UNAVAILABLE);
		assert_string_equal(err.text, "the library is closed");
		assert_int_equal(atomic_load(&runs), i);
	}
	svc_free(s[0]);
	svc_free(s[1]);
}

/* Takes connections, and hangs up once it has been sent a request. */
struct hanger {
	int fd;
	char address[64];
	atomic_int count;
	atomic_bool stop;
	pthread_t thread;
};

static void *
hang_up(void *arg)
{
	struct hanger *hanger = arg;
	while (!atomic_load(&hanger->stop)) {
		struct pollfd wait = {.fd = hanger->fd, .events = POLLIN};
		if (poll(&wait, 1, 20) <= 0)
			continue;
		int fd = accept(hanger->fd, NULL, NULL);
		if (fd < 0)
			continue;
		/* The hello may come apart from the request. */
		char bytes[1024];
		ssize_t n = 1;
		size_t len = 0;
		while (n > 0 && memmem(bytes, len, "Student.Name", 12) == NULL)
			len += (size_t)(n = recv(fd, bytes + len,
					    sizeof(bytes) - len, 0));
		atomic_fetch_add(&hanger->count, n > 0);
		close(fd);
	}
	return NULL;
}

static void
hanger_start(struct hanger *hanger)
{
	memset(hanger, 0, sizeof(*hanger));
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	hanger->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(
	    bind(hanger->fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(hanger->fd, 64), 0);
	getsockname(hanger->fd, (struct sockaddr *)&in, &len);
	snprintf(hanger->address, sizeof(hanger->address), "127.0.0.1:%d",
	    ntohs(in.sin_port));
	assert_int_equal(
	    svc_thread_start(&hanger->thread, "hanger", hang_up, hanger),
	    SVC_OK);
}

static void
hanger_stop(struct hanger *hanger)
{
	atomic_store(&hanger->stop, true);
	svc_thread_join(hanger->thread);
	close(hanger->fd);
}

static void
retries_are_limited_to_a_tenth(void **state)
{
	(void)state;
	if (strcmp(transport_name, "tcp") != 0) {
		test_lacks("connections that can be counted from outside");
		return;
	}
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct hanger hanger;
	hanger_start(&hanger);
	announce(c, "student", "hanger", hanger.address, true);
	/* 500 calls of an idempotent endpoint could make 1,500 retries. The
	 * budget allows 200 saved up, 50 earned, and one a second. */
	int64_t began = svc_now_ms();
	for (int i = 0; i < 500; i++)
		assert_int_equal(
		    svc_call(svc_client_of(c), "student", "Student.Name", NULL,
			NULL, retries(3), timeout_ms(PATIENCE_MS)),
		    SVC_E_UNAVAILABLE);
	int seconds = (int)((svc_now_ms() - began) / 1000);
	int retried = atomic_load(&hanger.count) - 500;
	if (retried < 200 || retried > 250 + seconds + 1)
		fail_msg("%d retries in %d s", retried, seconds);
	svc_free(c);
	hanger_stop(&hanger);
}

static void
a_node_of_an_unknown_transport(void **state)
{
	(void)state;
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	const char *own = transport_name;
	transport_name = "pigeon";
	announce(c, "student", "far", "127.0.0.1:1", false);
	transport_name = own;
	struct svc_error err = {0};
	assert_int_equal(svc_call(svc_client_of(c), "student", "Student.Name",
			     NULL, NULL, detail(&err)),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, "node far cannot be reached: "));
	assert_non_null(strstr(err.text, "pigeon"));
	svc_free(c);
}

static void
a_version_and_a_label_choose(void **state)
{
	(void)state;
	struct svc_service *a =
	    make("student", MORE(id("a"), version("1"), metadata("zone", "x")));
	struct svc_service *b =
	    make("student", MORE(id("b"), version("2"), metadata("zone", "y")));
	svc_handle(a, "Student.Name", name_of_node, NULL);
	svc_handle(b, "Student.Name", name_of_node, NULL);
	must_start(a);
	must_start(b);
	struct svc_client *client = svc_client_of(a);
	for (int i = 0; i < 10; i++) {
		struct svc_message rsp;
		assert_int_equal(svc_call(client, "student", "Student.Name",
				     NULL, &rsp, version("2")),
		    SVC_OK);
		assert_string_equal(rsp.data, "b");
		svc_message_free(&rsp);
		assert_int_equal(svc_call(client, "student", "Student.Name",
				     NULL, &rsp, label("zone", "x")),
		    SVC_OK);
		assert_string_equal(rsp.data, "a");
		svc_message_free(&rsp);
		assert_int_equal(
		    svc_call(client, "student", "Student.Name", NULL, &rsp,
			node(svc_options_of(b)->advertise)),
		    SVC_OK);
		assert_string_equal(rsp.data, "b");
		svc_message_free(&rsp);
	}
	struct svc_error err = {0};
	assert_int_equal(svc_call(client, "student", "Student.Name", NULL, NULL,
			     version("3"), detail(&err)),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, "3"));
	svc_free(b);
	svc_free(a);
}

static void
a_new_node_at_an_old_address_is_dialled_anew(void **state)
{
	(void)state;
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	char address[64] = "";
	for (int i = 0; i < 5; i++) {
		struct svc_option same[] = {
		    SVC_OPT_id("fixed"), SVC_OPT_end(), SVC_OPT_end()};
		if (address[0] != '\0')
			same[1] = (struct svc_option)SVC_OPT_address(address);
		struct svc_service *s = make("student", same);
		svc_handle(s, "Student.Name", name_of_node, NULL);
		must_start(s);
		snprintf(
		    address, sizeof(address), "%s", svc_options_of(s)->address);
		/* The record stays, as when a node dies and comes back within
		 * its ttl. */
		announce(c, "student", "stays", address, true);
		struct svc_message rsp;
		struct svc_error err = {0};
		svc_err code = svc_call(svc_client_of(c), "student",
		    "Student.Name", NULL, &rsp, node("stays"),
		    timeout_ms(PATIENCE_MS), detail(&err));
		assert_string_equal(err.text, "");
		assert_int_equal(code, SVC_OK);
		svc_message_free(&rsp);
		svc_free(s);
	}
	svc_free(c);
}

static void
no_call_fails_when_a_node_is_killed(void **state)
{
	(void)state;
	if (strcmp(transport_name, "tcp") != 0) {
		test_lacks("other processes");
		return;
	}
	char address[64];
	pid_t pid = start_child(address);
	struct svc_service *s = make("student", MORE(id("alive")));
	svc_handle(s, "Student.Name", name_of_node, NULL, idempotent());
	must_start(s);
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	announce(c, "student", "killed", address, true);
	int by_killed = 0, after = 0;
	for (int i = 0; after < 100; i++) {
		struct svc_message rsp;
		struct svc_error err = {0};
		svc_err code =
		    svc_call(svc_client_of(c), "student", "Student.Name", NULL,
			&rsp, timeout_ms(PATIENCE_MS), detail(&err));
		assert_string_equal(err.text, "");
		assert_int_equal(code, SVC_OK);
		bool killed = strcmp(rsp.data, "killed") == 0;
		svc_message_free(&rsp);
		if (pid == 0) {
			assert_false(killed);
			after++;
		} else if (killed && ++by_killed == 10) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
			pid = 0;
		}
		assert_true(i < 10000);
	}
	svc_free(c);
	svc_free(s);
}

static svc_err
counts(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call;
	(void)req;
	(void)rsp;
	atomic_fetch_add((atomic_int *)arg, 1);
	return SVC_OK;
}

/* Calls Student.Die until the child has died of it. Returns how that call
 * ended; `runs` counts those that the other node ran. */
static svc_err
call_until_death(bool is_idempotent, int *ret_after)
{
	char address[64];
	pid_t pid = start_child(address);
	atomic_int runs = 0;
	struct svc_service *s = make("student", MORE(id("alive")));
	svc_handle(s, "Student.Die", counts, &runs);
	must_start(s);
	struct svc_service *c = make("caller", NULL);
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	announce(c, "student", "killed", address, false);
	svc_err code;
	int ran;
	do {
		ran = atomic_load(&runs);
		const struct svc_option with[] = {
		    SVC_CALL_OPT_idempotent(), SVC_OPT_end()};
		code = svc_call_options(svc_client_of(c), "student",
		    "Student.Die", NULL, NULL, is_idempotent ? with : NULL);
	} while (waitpid(pid, NULL, WNOHANG) == 0 && code == SVC_OK);
	*ret_after = atomic_load(&runs) - ran;
	waitpid(pid, NULL, 0);
	svc_free(c);
	svc_free(s);
	return code;
}

static void
only_what_is_idempotent_runs_twice(void **state)
{
	(void)state;
	if (strcmp(transport_name, "tcp") != 0) {
		test_lacks("other processes");
		return;
	}
	int after;
	assert_int_equal(call_until_death(false, &after), SVC_E_UNAVAILABLE);
	assert_int_equal(after, 0);
	assert_int_equal(call_until_death(true, &after), SVC_OK);
	assert_int_equal(after, 1);
}

/* It takes connections, for its system does that, and says nothing. */
static void
a_frozen_node_costs_one_call(void **state)
{
	(void)state;
	if (strcmp(transport_name, "tcp") != 0) {
		test_lacks("other processes");
		return;
	}
	char address[64];
	pid_t pid = start_child(address);
	struct svc_service *s = make("student", MORE(id("alive")));
	svc_handle(s, "Student.Name", name_of_node, NULL);
	must_start(s);
	struct svc_service *c = make("caller", NULL);
	/* Long enough that a busy machine does not look dead. */
	char program[] = "caller", keepalive[] = "--keepalive=2s";
	char *argv[] = {program, keepalive, NULL};
	assert_int_equal(svc_init(c, 2, argv), SVC_OK);
	announce(c, "student", "frozen", address, false);
	struct svc_client *client = svc_client_of(c);
	assert_int_equal(svc_call(client, "student", "Student.Name", NULL, NULL,
			     node("frozen"), timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	kill(pid, SIGSTOP);
	int status;
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	struct svc_error err = {0};
	assert_int_equal(
	    svc_call(client, "student", "Student.Name", NULL, NULL,
		node("frozen"), timeout_ms(PATIENCE_MS), detail(&err)),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(err.text, "no sign of life"));
	for (int i = 0; i < 30; i++) {
		struct svc_message rsp;
		assert_int_equal(svc_call(client, "student", "Student.Name",
				     NULL, &rsp, timeout_ms(PATIENCE_MS)),
		    SVC_OK);
		assert_string_equal(rsp.data, "alive");
		svc_message_free(&rsp);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	svc_free(c);
	svc_free(s);
}

/* A fresh client, which comes upon the full node in its first calls. */
static void
call_beside_a_full_node(void)
{
	struct svc_service *c = make("caller", MORE(selector(round_robin)));
	assert_int_equal(svc_init(c, 0, NULL), SVC_OK);
	struct svc_client *client = svc_client_of(c);
	for (int i = 0; i < 2; i++) {
		struct svc_message rsp;
		struct svc_error err = {0};
		svc_err code = svc_call(client, "student", "Student.Name", NULL,
		    &rsp, timeout_ms(PATIENCE_MS), detail(&err));
		assert_string_equal(err.text, "");
		assert_int_equal(code, SVC_OK);
		assert_string_equal(rsp.data, "roomy");
		svc_message_free(&rsp);
	}
	for (int i = 0; i < 2; i++) {
		struct svc_message rsp;
		struct svc_stream *stream =
		    svc_open(client, "student", "Student.Name");
		assert_non_null(stream);
		svc_stream_close_send(stream);
		assert_int_equal(svc_stream_recv(stream, &rsp), SVC_OK);
		assert_string_equal(rsp.data, "roomy");
		svc_stream_free(stream);
	}
	svc_free(c);
}

static void
a_node_without_room_for_connections_is_passed_over(void **state)
{
	(void)state;
	char program[] = "student", flag[] = "--max_connections=1";
	char *argv[] = {program, flag, NULL};
	struct svc_service *full = make("student", MORE(id("full")));
	assert_int_equal(svc_init(full, 2, argv), SVC_OK);
	svc_handle(full, "Student.Name", name_of_node, NULL);
	must_start(full);
	struct svc_service *first = make("caller", NULL);
	assert_int_equal(svc_init(first, 0, NULL), SVC_OK);
	assert_int_equal(
	    svc_call(svc_client_of(first), "student", "Student.Name", NULL,
		NULL, timeout_ms(PATIENCE_MS)),
	    SVC_OK);
	struct svc_service *roomy = make("student", MORE(id("roomy")));
	svc_handle(roomy, "Student.Name", name_of_node, NULL);
	must_start(roomy);
	for (int i = 0; i < 5; i++)
		call_beside_a_full_node();
	svc_free(first);
	svc_free(roomy);
	svc_free(full);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    /* First: it forks, and threads do not follow. */
	    TEST(no_call_fails_when_a_node_is_killed),
	    TEST(only_what_is_idempotent_runs_twice),
	    TEST(a_frozen_node_costs_one_call),
	    TEST(calls_go_on_beside_a_dead_node),
	    TEST(calls_go_on_beside_an_address_that_is_none),
	    TEST(a_node_of_another_service_is_passed_over),
	    TEST(what_a_handler_answers_is_not_tried_again),
	    TEST(retries_are_limited_to_a_tenth),
	    TEST(a_node_of_an_unknown_transport),
	    TEST(a_version_and_a_label_choose),
	    TEST(a_new_node_at_an_old_address_is_dialled_anew),
	};
	/* There are no connections to be counted in one process. */
	const struct CMUnitTest connected[] = {
	    TEST(a_node_without_room_for_connections_is_passed_over),
	};
	transport_name = "tcp";
	int failed = cmocka_run_group_tests_name("tcp", tests, NULL, NULL);
	failed += cmocka_run_group_tests_name("tcp", connected, NULL, NULL);
	transport_name = "nng";
	if (has_transport("nng"))
		failed +=
		    cmocka_run_group_tests_name("nng", connected, NULL, NULL);
	transport_name = "memory";
	return failed +
	       cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
