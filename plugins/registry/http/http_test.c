/* SPDX-License-Identifier: Apache-2.0 */
/* Against a real HTTP server: etcd, whose old v2 interface has every method,
 * headers of its own and HTTP's login. */
#include "http.h"

#include "servers.h"

#include <support/pki.h>
#include <support/servers.h>

#include <svc/clock.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>
#include <unistd.h>

static struct test_server *server;
static struct test_pki pki;
static struct http_set *set;

struct asking {
	struct http *http;
	struct http_servers *servers;
	struct svc_buf answer;
	struct svc_error err;
	int status;
};

static void
ask_begin(struct asking *asking, const struct svc_registry_config *config)
{
	*asking = (struct asking){0};
	assert_int_equal(http_servers_create("test", config, 2379,
			     &asking->servers, &asking->err),
	    SVC_OK);
	assert_int_equal(http_create(NULL, &asking->http), SVC_OK);
	svc_buf_init(&asking->answer, 1 << 20);
}

static void
ask_end(struct asking *asking)
{
	http_end(asking->http);
	http_destroy(asking->http);
	http_servers_destroy(asking->servers);
	svc_buf_fini(&asking->answer);
}

/* Ends the request before; the answer is text in `answer`. */
static svc_err
ask(struct asking *asking, const struct http_request *request)
{
	struct http_request timed = *request;
	http_end(asking->http);
	svc_buf_clear(&asking->answer);
	timed.timeout_ms = 30000;
	svc_err rc = http_ask(asking->http, asking->servers, 0, &timed, NULL,
	    &asking->answer, &asking->status, &asking->err);
	svc_buf_putc(&asking->answer, '\0');
	return rc;
}

#define ASK(asking, ...) ask(asking, &(struct http_request){__VA_ARGS__})
#define SAYS(asking, part) \
	assert_non_null(strstr((const char *)(asking)->answer.data, part))

static void
every_method(void **state)
{
	(void)state;
	struct asking asking;
	ask_begin(
	    &asking, &(struct svc_registry_config){.address = server->address});
	assert_int_equal(
	    ASK(&asking, .method = "PUT", .path = "/v2/keys/a?value=x%20y"),
	    SVC_OK);
	assert_int_equal(asking.status, 201);
	assert_int_equal(
	    ASK(&asking, .method = "GET", .path = "/v2/keys/a"), SVC_OK);
	assert_int_equal(asking.status, 200);
	SAYS(&asking, "x y");
	assert_int_equal(
	    ASK(&asking, .method = "DELETE", .path = "/v2/keys/a"), SVC_OK);
	assert_int_equal(asking.status, 200);
	SAYS(&asking, "\"delete\"");
	assert_int_equal(
	    ASK(&asking, .method = "GET", .path = "/v2/keys/a"), SVC_OK);
	assert_int_equal(asking.status, 404);
	assert_int_equal(
	    ASK(&asking, .method = "POST", .path = "/v3/lease/grant",
		.body = "{\"TTL\":\"60\"}", .len = 12),
	    SVC_OK);
	assert_int_equal(asking.status, 200);
	SAYS(&asking, "\"TTL\":\"60\"");
	/* A POST without a body is one with an empty body. */
	assert_int_equal(
	    ASK(&asking, .method = "POST", .path = "/v2/keys/list"), SVC_OK);
	assert_int_equal(asking.status, 201);
	ask_end(&asking);
}

static void
headers_go_both_ways(void **state)
{
	(void)state;
	struct asking asking;
	struct svc_headers *headers = svc_headers_create();
	ask_begin(
	    &asking, &(struct svc_registry_config){.address = server->address});
	svc_headers_set(headers, "X-Empty", "");
	assert_int_equal(ASK(&asking, .method = "GET", .path = "/v2/keys/",
			     .headers = headers),
	    SVC_OK);
	const char *index = http_header(asking.http, "x-etcd-index");
	assert_non_null(index);
	assert_true(strtol(index, NULL, 10) >= 0);
	assert_null(http_header(asking.http, "X-Nothing"));
	/* The server refuses what it cannot read, so it was sent. */
	svc_headers_set(headers, "Content-Length", "banana");
	assert_int_equal(ASK(&asking, .method = "GET", .path = "/v2/keys/",
			     .headers = headers),
	    SVC_OK);
	assert_int_equal(asking.status, 400);
	svc_headers_destroy(headers);
	ask_end(&asking);
}

static void
a_login_of_http(void **state)
{
	(void)state;
	struct test_server *closed = start_etcd("--enable-v2=true");
	static const char root[] = "{\"user\":\"root\",\"password\":\"pw\"}";
	struct asking asking;
	assert_non_null(closed);
	ask_begin(
	    &asking, &(struct svc_registry_config){.address = closed->address});
	assert_int_equal(
	    ASK(&asking, .method = "PUT", .path = "/v2/auth/users/root",
		.body = root, .len = strlen(root)),
	    SVC_OK);
	assert_int_equal(asking.status, 201);
	assert_int_equal(
	    ASK(&asking, .method = "PUT", .path = "/v2/auth/enable"), SVC_OK);
	assert_int_equal(asking.status, 200);
	assert_int_equal(
	    ASK(&asking, .method = "DELETE", .path = "/v2/auth/enable"),
	    SVC_OK);
	assert_int_equal(asking.status, 401);
	assert_int_equal(
	    ASK(&asking, .method = "DELETE", .path = "/v2/auth/enable",
		.username = "root", .password = "wrong"),
	    SVC_OK);
	assert_int_equal(asking.status, 401);
	assert_int_equal(
	    ASK(&asking, .method = "DELETE", .path = "/v2/auth/enable",
		.username = "root", .password = "pw"),
	    SVC_OK);
	assert_int_equal(asking.status, 200);
	ask_end(&asking);
	test_server_stop(closed);
}

struct waiting {
	struct asking asking;
	atomic_bool stop;
	svc_err rc;
};

static void *
wait_for_a_change(void *arg)
{
	struct waiting *waiting = arg;
	struct http_request request = {.method = "GET",
	    .path = "/v2/keys/never?wait=true",
	    .timeout_ms = SVC_FOREVER};
	waiting->rc = http_ask(waiting->asking.http, waiting->asking.servers, 0,
	    &request, &waiting->stop, &waiting->asking.answer,
	    &waiting->asking.status, &waiting->asking.err);
	return NULL;
}

static void
waiting_can_be_ended(void **state)
{
	(void)state;
	struct waiting waiting = {0};
	pthread_t thread;
	ask_begin(&waiting.asking,
	    &(struct svc_registry_config){.address = server->address});
	assert_int_equal(
	    svc_thread_start(&thread, "waits", wait_for_a_change, &waiting),
	    SVC_OK);
	atomic_store(&waiting.stop, true);
	http_wake(waiting.asking.http);
	svc_thread_join(thread);
	assert_int_equal(waiting.rc, SVC_E_CANCELLED);
	ask_end(&waiting.asking);
}

/* Until the answer has so many lines, of which the last is the id's. */
static void
await_created(struct asking *asking, size_t lines, int id)
{
	int64_t deadline_at_ms = svc_deadline(30000);
	char text[32];
	snprintf(text, sizeof(text), "\"watch_id\":\"%d\"", id);
	for (size_t have = 0; have < lines;) {
		http_set_run(set, 1000);
		assert_int_equal(
		    http_look(asking->http, &asking->status, &asking->err),
		    SVC_E_AGAIN);
		assert_true(svc_remaining(deadline_at_ms) > 0);
		have = 0;
		const char *at = (const char *)asking->answer.data;
		while (at != NULL && (at = strchr(at, '\n')) != NULL) {
			have++;
			at++;
		}
	}
	SAYS(asking, text);
}

static void
say_create(struct asking *asking, int first, int n)
{
	struct svc_buf buf;
	svc_buf_init(&buf, 1 << 20);
	for (int id = first; id < first + n; id++)
		svc_buf_printf(&buf,
		    "{\"create_request\":{\"key\":\"YQ==\",\"watch_id\":"
		    "\"%d\"}}\n",
		    id);
	assert_int_equal(http_say(asking->http, buf.data, buf.len), SVC_OK);
	svc_buf_fini(&buf);
}

static void
an_open_request_is_answered_while_it_goes_on(void **state)
{
	(void)state;
	struct asking asking;
	ask_begin(
	    &asking, &(struct svc_registry_config){.address = server->address});
	assert_int_equal(http_set_create(4, &set), SVC_OK);
	http_destroy(asking.http);
	assert_int_equal(http_create(set, &asking.http), SVC_OK);
	struct http_request request = {.method = "POST",
	    .path = "/v3/watch",
	    .timeout_ms = SVC_FOREVER,
	    .open = true};
	assert_int_equal(http_begin(asking.http, asking.servers, 0, &request,
			     &asking.answer, &asking.err),
	    SVC_OK);
	/* All that is said at once is taken, and what is said later. */
	say_create(&asking, 1, 300);
	await_created(&asking, 300, 300);
	say_create(&asking, 301, 1);
	await_created(&asking, 301, 301);
	ask_end(&asking);
	http_set_destroy(set);
}

static void
silence_and_absence_are_errors(void **state)
{
	(void)state;
	struct asking asking;
	char text[64];
	ask_begin(
	    &asking, &(struct svc_registry_config){.address = server->address});
	struct http_request request = {.method = "GET",
	    .path = "/v2/keys/never?wait=true",
	    .timeout_ms = 50};
	assert_int_equal(http_ask(asking.http, asking.servers, 0, &request,
			     NULL, &asking.answer, &asking.status, &asking.err),
	    SVC_E_TIMEDOUT);
	snprintf(text, sizeof(text), "test at http://%s: ", server->address);
	assert_int_equal(strncmp(asking.err.text, text, strlen(text)), 0);
	/* More than the buffer may hold. */
	http_end(asking.http);
	struct svc_buf small;
	svc_buf_init(&small, 16);
	request.path = "/metrics";
	request.timeout_ms = 30000;
	assert_int_equal(http_ask(asking.http, asking.servers, 0, &request,
			     NULL, &small, &asking.status, &asking.err),
	    SVC_E_EXHAUSTED);
	svc_buf_fini(&small);
	ask_end(&asking);
	snprintf(text, sizeof(text), "127.0.0.1:%d", test_free_port());
	ask_begin(&asking, &(struct svc_registry_config){.address = text});
	assert_int_equal(ASK(&asking, .method = "GET", .path = "/version"),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(asking.err.text, ": Connection refused ("));
	ask_end(&asking);
}

/* ------------------------------------------------------------------- TLS */

static svc_err
ask_version(const char *address, const struct svc_tls_config *tls,
    struct svc_error *ret_err)
{
	struct asking asking;
	ask_begin(&asking,
	    &(struct svc_registry_config){.address = address, .tls = tls});
	svc_err rc = ASK(&asking, .method = "GET", .path = "/version");
	if (rc == SVC_OK) {
		assert_int_equal(asking.status, 200);
		SAYS(&asking, "etcdserver");
	}
	*ret_err = asking.err;
	ask_end(&asking);
	return rc;
}

static void
expect_refusal(const char *address, const struct svc_tls_config *tls,
    svc_err code, const char *text)
{
	struct svc_error err = {0};
	assert_int_equal(ask_version(address, tls, &err), code);
	if (strstr(err.text, text) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void
tls_verifies_and_says_what_is_wrong(void **state)
{
	(void)state;
	char args[512], url[64];
	struct svc_error err = {0};
	snprintf(args, sizeof(args), "--cert-file=%s --key-file=%s",
	    test_pki_path(&pki, "server", "pem"),
	    test_pki_path(&pki, "server", "key"));
	struct test_server *secure = start_etcd(args);
	assert_non_null(secure);
	struct svc_tls_config tls = {.ca = test_pki_path(&pki, "ca", "pem")};
	assert_int_equal(ask_version(secure->address, &tls, &err), SVC_OK);
	snprintf(url, sizeof(url), "https://localhost:%d", secure->port);
	expect_refusal(url, &tls, SVC_E_UNAVAILABLE,
	    "its certificate is for another name: see --registry_tls_name");
	tls.name = "127.0.0.1";
	assert_int_equal(ask_version(url, &tls, &err), SVC_OK);
	tls.name = NULL;
	tls.ca = test_pki_path(&pki, "other", "pem");
	expect_refusal(secure->address, &tls, SVC_E_UNAVAILABLE,
	    "its certificate is not trusted: see --registry_tls_ca");
	/* https:// alone trusts those of the system, which ours is not. */
	snprintf(url, sizeof(url), "https://%s", secure->address);
	expect_refusal(url, NULL, SVC_E_UNAVAILABLE, "see --registry_tls_ca");
	tls.ca = test_pki_path(&pki, "ca", "key"); /* no certificate in it */
	expect_refusal(
	    secure->address, &tls, SVC_E_INVAL, "see --registry_tls_ca");
	tls.ca = test_pki_path(&pki, "ca", "pem");
	expect_refusal(server->address, &tls, SVC_E_UNAVAILABLE,
	    "does it speak TLS? if not, use http://");
	test_server_stop(secure);
}

static void
a_server_may_demand_a_certificate(void **state)
{
	(void)state;
	char args[512];
	struct svc_error err = {0};
	snprintf(args, sizeof(args),
	    "--cert-file=%s --key-file=%s --trusted-ca-file=%s "
	    "--client-cert-auth",
	    test_pki_path(&pki, "server", "pem"),
	    test_pki_path(&pki, "server", "key"),
	    test_pki_path(&pki, "ca", "pem"));
	struct test_server *secure = start_etcd(args);
	assert_non_null(secure);
	struct svc_tls_config tls = {.ca = test_pki_path(&pki, "ca", "pem")};
	expect_refusal(secure->address, &tls, SVC_E_UNAVAILABLE,
	    "it demands a client certificate that it trusts: see "
	    "--registry_tls_cert");
	tls.cert = test_pki_path(&pki, "client", "pem");
	tls.key = test_pki_path(&pki, "client", "key");
	assert_int_equal(ask_version(secure->address, &tls, &err), SVC_OK);
	tls.key = test_pki_path(&pki, "server", "key");
	expect_refusal(secure->address, &tls, SVC_E_INVAL,
	    "see --registry_tls_cert and --registry_tls_key");
	/* Nobody is asked for the pass phrase. */
	int said[2], before = dup(STDIN_FILENO);
	assert_true(test_pki_lock(&pki, "client", "locked", false));
	assert_int_equal(pipe(said), 0);
	assert_int_equal(write(said[1], "word\n", 5), 5);
	dup2(said[0], STDIN_FILENO);
	tls.key = test_pki_path(&pki, "locked", "key");
	expect_refusal(secure->address, &tls, SVC_E_INVAL,
	    "see --registry_tls_cert and --registry_tls_key");
	dup2(before, STDIN_FILENO);
	close(before);
	close(said[0]);
	close(said[1]);
	tls.cert = test_pki_path(&pki, "other", "pem");
	tls.key = test_pki_path(&pki, "other", "key");
	expect_refusal(secure->address, &tls, SVC_E_UNAVAILABLE,
	    "see --registry_tls_cert");
	test_server_stop(secure);
}

/* A program that this one starts has no connection to the registry. */
static void
connections_are_not_inherited(void **state)
{
	(void)state;
	struct asking asking;
	int found = 0;
	ask_begin(
	    &asking, &(struct svc_registry_config){.address = server->address});
	assert_int_equal(
	    ASK(&asking, .method = "GET", .path = "/version"), SVC_OK);
	for (int fd = 3; fd < 1024; fd++) {
		struct sockaddr_in peer = {0};
		socklen_t len = sizeof(peer);
		if (getpeername(fd, (struct sockaddr *)&peer, &len) != 0 ||
		    peer.sin_family != AF_INET ||
		    ntohs(peer.sin_port) != server->port)
			continue;
		found++;
		assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
	}
	assert_true(found > 0);
	ask_end(&asking);
}

/* -------------------------------------------------------------- addresses */

static void
addresses_become_urls(void **state)
{
	(void)state;
	static const struct svc_tls_config tls = {.name = "n"};
	static const struct svc_tls_config v6 = {.name = "::1"};
	static const struct {
		const char *address;
		const struct svc_tls_config *tls;
		size_t n;
		const char *url, *base, *connect_to;
	} good[] = {
	    {NULL, NULL, 1, "http://127.0.0.1:2379", NULL, NULL},
	    {"", NULL, 1, "http://127.0.0.1:2379", NULL, NULL},
	    {"a", NULL, 1, "http://a:2379", NULL, NULL},
	    {"HTTPS://a.b/", NULL, 1, "https://a.b:2379", NULL, NULL},
	    {"http://a.b/", NULL, 1, "http://a.b:2379", NULL, NULL},
	    {"https://a:1", NULL, 1, "https://a:1", NULL, NULL},
	    {"[::1]", NULL, 1, "http://[::1]:2379", NULL, NULL},
	    {"https://[::1]:7, b", NULL, 2, "https://[::1]:7", NULL, NULL},
	    {"a:9", &tls, 1, "https://a:9", "https://n:9", "::a:9"},
	    {"[::2]:9", &v6, 1, "https://[::2]:9", "https://[::1]:9",
		"::[::2]:9"},
	};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct http_servers *servers = NULL;
		struct svc_registry_config config = {
		    .address = good[i].address, .tls = good[i].tls};
		assert_int_equal(
		    http_servers_create("test", &config, 2379, &servers, NULL),
		    SVC_OK);
		assert_int_equal(http_servers_count(servers), good[i].n);
		assert_string_equal(http_servers_url(servers, 0), good[i].url);
		assert_string_equal(servers->list[0].base,
		    good[i].base != NULL ? good[i].base : good[i].url);
		if (good[i].connect_to != NULL)
			assert_string_equal(
			    servers->list[0].connect_to, good[i].connect_to);
		else
			assert_null(servers->list[0].connect_to);
		http_servers_destroy(servers);
	}
}

static void
bad_addresses_and_files_are_told(void **state)
{
	(void)state;
	static const struct svc_tls_config tls = {0};
	static const struct svc_tls_config no_file = {.ca = "/nowhere"};
	static const struct {
		const char *address;
		const struct svc_tls_config *tls;
		const char *text;
	} bad[] = {
	    {"ftp://a", NULL, "\"ftp://a\" has an unknown scheme"},
	    {"a:0", NULL, "has no port from 1 to 65535"},
	    {"a:65536", NULL, "has no port"},
	    {"a:x", NULL, "has no port"},
	    {"a:", NULL, "has no port"},
	    {":1", NULL, "has no valid host"},
	    {"a,,b", NULL, "has an empty part"},
	    {"a b", NULL, "has no valid host"},
	    {"a/b", NULL, "has a path"},
	    {"[::1", NULL, "has no valid host"},
	    {"https://", NULL, "has no valid host"},
	    {"a:1:2", NULL, "lacks the brackets"},
	    {"http://a", &tls,
		"is without the TLS that registry_tls_* asks for"},
	    {"a", &no_file,
		"\"/nowhere\" (--registry_tls_ca): No such file or directory"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct http_servers *servers = NULL;
		struct svc_registry_config config = {
		    .address = bad[i].address, .tls = bad[i].tls};
		struct svc_error err = {0};
		assert_int_equal(
		    http_servers_create("test", &config, 2379, &servers, &err),
		    SVC_E_INVAL);
		if (strstr(err.text, bad[i].text) == NULL)
			fail_msg("\"%s\" does not say \"%s\"", err.text,
			    bad[i].text);
	}
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(addresses_become_urls),
	    cmocka_unit_test(bad_addresses_and_files_are_told),
	    cmocka_unit_test(every_method),
	    cmocka_unit_test(headers_go_both_ways),
	    cmocka_unit_test(a_login_of_http),
	    cmocka_unit_test(waiting_can_be_ended),
	    cmocka_unit_test(an_open_request_is_answered_while_it_goes_on),
	    cmocka_unit_test(silence_and_absence_are_errors),
	    cmocka_unit_test(tls_verifies_and_says_what_is_wrong),
	    cmocka_unit_test(a_server_may_demand_a_certificate),
	    cmocka_unit_test(connections_are_not_inherited),
	};
	static const struct test_certificate certificates[] = {
	    {.name = "server", .issuer = "ca", .san = "IP:127.0.0.1"},
	    {.name = "client", .issuer = "ca", .cn = ""},
	    {.name = "other", .ca = true},
	};
	if (!test_server_have("etcd")) {
		fprintf(stderr, "SKIPPED: etcd is needed\n");
		return 77;
	}
	if (!test_pki_create(&pki))
		return 1;
	for (size_t i = 0; i < 3; i++)
		if (!test_pki_issue(&pki, &certificates[i]))
			return 1;
	server = start_etcd("--enable-v2=true");
	if (server == NULL)
		return 1;
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	test_server_stop(server);
	test_pki_remove(&pki);
	return failed;
}
