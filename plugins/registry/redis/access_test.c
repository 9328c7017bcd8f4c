/* SPDX-License-Identifier: Apache-2.0 */
/* Who may use a redis, and how it is reached. */
#include "redis_test.h"

#include <support/pki.h>

#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

/* -------------------------------------------- a name with several addresses */

typedef int (*resolve_fn)(
    const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* Of the name two.test, on the loopback; "" while nobody asks for it. */
static char two_ports[2][8];

/* In place of the C library's, for the plugin too. */
__attribute__((visibility("default"))) int
getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
    struct addrinfo **ret_list)
{
	resolve_fn real;
	struct addrinfo *second = NULL;
	*(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
	if (host == NULL || strcmp(host, "two.test") != 0)
		return real(host, port, hints, ret_list);
	int rc = real("127.0.0.1", two_ports[0], hints, ret_list);
	if (rc == 0)
		rc = real("127.0.0.1", two_ports[1], hints, &second);
	if (rc == 0)
		(*ret_list)->ai_next = second;
	return rc;
}

/* A listener that takes no connection, nor says no: its queue is full. */
struct silent {
	int fd, waiting[16];
	size_t n;
};

static void
silent_open(struct silent *silent, char ret_port[8])
{
	struct sockaddr_in at = {.sin_family = AF_INET};
	socklen_t len = sizeof(at);
	*silent = (struct silent){.fd = socket(AF_INET, SOCK_STREAM, 0)};
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(silent->fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(listen(silent->fd, 0), 0);
	assert_int_equal(
	    getsockname(silent->fd, (struct sockaddr *)&at, &len), 0);
	snprintf(ret_port, 8, "%u", (unsigned)ntohs(at.sin_port));
	/* One that is not through at once, on the loopback, never will be. */
	for (int sys = 0; sys != EINPROGRESS; silent->n++) {
		assert_true(silent->n < 16);
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		silent->waiting[silent->n] = fd;
		const struct timeval limit = {.tv_usec = 300000};
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
		sys = connect(fd, (struct sockaddr *)&at, len) == 0 ? 0 : errno;
		assert_true(sys == 0 || sys == EINPROGRESS);
	}
}

static void
silent_close(struct silent *silent)
{
	close(silent->fd);
	for (size_t i = 0; i < silent->n; i++)
		close(silent->waiting[i]);
}

static svc_err
announce_as(struct fixture *f, const char *address, const char *username,
    const char *password, struct svc_error *err)
{
	struct svc_registry_config config = config_of(address);
	config.username = username;
	config.password = password;
	struct svc_registry *registry = make_with(&config);
	svc_err rc = svc_registry_announce(registry, &f->a.record, TTL_MS, err);
	svc_registry_destroy(registry);
	return rc;
}

static void
users_are_known_by_their_password(void **state)
{
	struct fixture *f = *state;
	struct svc_error why = {0};
	struct test_server *closed = start_redis("--requirepass secret");
	assert_non_null(closed);
	/* What docs/redis.md says that a user needs. */
	free(cli_at(
	    closed, (const char *const[]){"-a", "secret", "acl", "setuser",
			"student", "on", ">pass", "~{svc}:*", "&{svc}:*",
			"+eval", "+get", "+set", "+del", "+exists", "+type",
			"+ttl", "+pttl", "+pexpire", "+time", "+mget", "+zadd",
			"+zrem", "+zrange", "+zscore", "+zremrangebyscore",
			"+publish", "+subscribe", "+ping", "+role", NULL}));
	assert_int_equal(
	    announce_as(f, closed->address, NULL, NULL, &why), SVC_E_DENIED);
	assert_int_equal(
	    announce_as(f, closed->address, NULL, "wrong", &why), SVC_E_DENIED);
	assert_null(strstr(why.text, "wrong"));
	assert_int_equal(
	    announce_as(f, closed->address, NULL, "secret", &why), SVC_OK);
	assert_int_equal(
	    announce_as(f, closed->address, "student", "nopass", &why),
	    SVC_E_DENIED);
	OK(announce_as(f, closed->address, "student", "pass", err));
	struct svc_registry_config config = config_of(closed->address);
	config.username = "student";
	config.password = "pass";
	struct svc_registry *registry = make_with(&config);
	struct svc_watch *all = NULL;
	struct recorder *recorder = recorder_create();
	watch_with(f, registry, f->name);
	OK(svc_registry_watch(
	    registry, NULL, recorder_change, recorder, &all, err));
	assert_true(
	    recorder_wait(recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	assert_true(
	    recorder_wait(recorder, SVC_CREATED, f->name, "b", WAIT_MS, NULL));
	assert_int_equal(nodes_of(registry, f->name), 2);
	OK(svc_registry_withdraw(registry, &f->b.record, err));
	expect(f, SVC_REMOVED, &f->b);
	svc_registry_unwatch(all);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	recorder_destroy(recorder);
	svc_registry_destroy(registry);
	/* A user that may not ask for the role, or do anything else. */
	free(cli_at(closed, (const char *const[]){"-a", "secret", "acl",
				"setuser", "student", "-role", NULL}));
	OK(announce_as(f, closed->address, "student", "pass", err));
	free(cli_at(closed, (const char *const[]){"-a", "secret", "acl",
				"setuser", "student", "-eval", NULL}));
	assert_int_equal(
	    announce_as(f, closed->address, "student", "pass", &why),
	    SVC_E_DENIED);
	assert_non_null(strstr(why.text, "NOPERM"));
	test_server_stop(closed);
}

/* As a host with an IPv6 address that a firewall drops, before its IPv4. */
static void
a_silent_address_is_left_for_the_next(void **state)
{
	struct fixture *f = *state;
	struct silent silent;
	silent_open(&silent, two_ports[0]);
	snprintf(two_ports[1], sizeof(two_ports[1]), "%d", server->port);
	struct svc_registry_config config = config_of("two.test");
	struct svc_registry *registry = make_with(&config);
	watch_with(f, registry, f->name);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->a);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	svc_registry_destroy(registry);
	silent_close(&silent);
}

static void
it_goes_by_tls(void **state)
{
	struct fixture *f = *state;
	struct test_pki pki;
	char args[512], address[40], named[40];
	struct svc_error why = {0};
	assert_true(test_pki_create(&pki));
	assert_true(
	    test_pki_issue(&pki, &(struct test_certificate){.name = "server",
				     .issuer = "ca",
				     .san = "DNS:registry.test,IP:127.0.0.1"}));
	assert_true(test_pki_issue(&pki,
	    &(struct test_certificate){.name = "client", .issuer = "ca"}));
	int port = test_free_port();
	snprintf(args, sizeof(args),
	    "--tls-port %d --tls-cert-file %s --tls-key-file %s "
	    "--tls-ca-cert-file %s --tls-auth-clients yes",
	    port, test_pki_path(&pki, "server", "pem"),
	    test_pki_path(&pki, "server", "key"),
	    test_pki_path(&pki, "ca", "pem"));
	struct test_server *secure = start_redis(args);
	assert_non_null(secure);
	snprintf(address, sizeof(address), "127.0.0.1:%d", port);
	snprintf(named, sizeof(named), "rediss://localhost:%d", port);
	struct svc_tls_config tls = {.ca = test_pki_path(&pki, "ca", "pem"),
	    .cert = test_pki_path(&pki, "client", "pem"),
	    .key = test_pki_path(&pki, "client", "key")};
	struct svc_registry_config config = config_of(address);
	config.tls = &tls;
	struct svc_registry *registry = make_with(&config);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	watch_with(f, registry, f->name);
	/* Records that take many TLS records. */
	char big[8192];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	for (int i = 0; i < 8; i++) {
		char name[8];
		snprintf(name, sizeof(name), "big%d", i);
		svc_headers_set(f->b.node.metadata, name, big);
	}
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	assert_int_equal(nodes_of(registry, f->name), 2);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	svc_registry_destroy(registry);

	/* By a name that the certificate has, whatever was dialled. */
	config.address = named;
	tls.name = "registry.test";
	registry = make_with(&config);
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	svc_registry_destroy(registry);
	tls.name = NULL;
	registry = make_with(&config);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "hostname mismatch"));
	svc_registry_destroy(registry);
	/* Without a certificate, with the system's CAs, and without TLS. */
	config.address = address;
	tls.cert = tls.key = NULL;
	registry = make_with(&config);
	assert_int_not_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_OK);
	/* Its alert may be overtaken by the end of the connection. */
	if (strstr(why.text, "it demands a client certificate") == NULL ||
	    strstr(why.text, "see registry_tls_cert") == NULL)
		fail_msg("%s", why.text);
	svc_registry_destroy(registry);
	tls.ca = NULL;
	registry = make_with(&config);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "certificate"));
	svc_registry_destroy(registry);
	config.tls = NULL;
	registry = make_with(&config);
	assert_int_not_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_OK);
	assert_non_null(strstr(why.text, "if it speaks TLS, use rediss://"));
	svc_registry_destroy(registry);
	/* And the other way round: redis waits for the end of a line. */
	config = config_of(server->address);
	config.tls = &tls;
	config.timeout_ms = 1000;
	registry = make_with(&config);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_TIMEDOUT);
	assert_non_null(strstr(why.text, "does not answer to TLS"));
	svc_registry_destroy(registry);
	config = config_of(address);
	/* Files that are replaced are read again by the next connection. */
	config.tls = &tls;
	tls.ca = test_pki_path(&pki, "trusted", "pem");
	tls.cert = test_pki_path(&pki, "client", "pem");
	tls.key = test_pki_path(&pki, "client", "key");
	assert_true(test_pki_issue(
	    &pki, &(struct test_certificate){.name = "trusted", .ca = true}));
	registry = make_with(&config);
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "certificate"));
	assert_true(test_pki_copy(&pki, "ca", "trusted"));
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	svc_registry_destroy(registry);
	/* Files that are none are an error of the start. */
	config.tls = &tls;
	tls.ca = "/nowhere";
	registry = NULL;
	assert_int_equal(svc_registry_create("redis", &config, &registry, &why),
	    SVC_E_INVAL);
	assert_non_null(strstr(why.text, "registry_tls_ca /nowhere cannot"));
	test_server_stop(secure);
	test_pki_remove(&pki);
}

static void
settings_are_checked(void **state)
{
	(void)state;
	static const struct {
		const char *address, *key, *value, *says;
	} cases[] = {
	    {"127.0.0.1:x", NULL, NULL, "has no port from 1 to 65535"},
	    {"a,,b", NULL, NULL, "has an empty part"},
	    {"http://a", NULL, NULL, "has an unknown scheme"},
	    {"redis://u:p@a", NULL, NULL, "holds a login"},
	    {"redis://a/3", NULL, NULL, "has a path"},
	    {"[::1", NULL, NULL, "has no valid host"},
	    {NULL, "namespace", "", "1 to 128 printable characters"},
	    {NULL, "namespace", "a*", "1 to 128 printable characters"},
	    {NULL, "namespace", "a:b", "1 to 128 printable characters"},
	    {NULL, "database", "-1", "a number from 0 to 999999"},
	    {NULL, "database", "1x", "a number from 0 to 999999"},
	    {NULL, "pull", "1ms", "a time from 100ms to 60s"},
	    {NULL, "pull", "soon", "a time from 100ms to 60s"},
	    {NULL, "ttl", "1", "allowed: namespace database pull"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct svc_headers *options = svc_headers_create();
		struct svc_registry_config config = config_of(cases[i].address);
		struct svc_registry *registry = NULL;
		struct svc_error err = {0};
		if (cases[i].key != NULL)
			svc_headers_set(options, cases[i].key, cases[i].value);
		config.options = options;
		svc_err rc =
		    svc_registry_create("redis", &config, &registry, &err);
		svc_headers_destroy(options);
		if (rc != SVC_E_INVAL ||
		    strstr(err.text, cases[i].says) == NULL)
			fail_msg("%s: %s", cases[i].says, err.text);
	}
	struct svc_registry_config config =
	    config_of("localhost, [::1]:6380 ,redis://a.b:1/,rediss://c");
	svc_registry_destroy(make_with(&config));
	config.username = "u";
	struct svc_registry *registry = NULL;
	assert_int_equal(svc_registry_create("redis", &config, &registry, NULL),
	    SVC_E_INVAL);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_redis, end)
	const struct CMUnitTest tests[] = {
	    TEST(users_are_known_by_their_password),
	    TEST(a_silent_address_is_left_for_the_next),
	    TEST(it_goes_by_tls),
	    TEST(settings_are_checked),
	};
#undef TEST
	if (!test_server_have("redis-server") ||
	    !test_server_have("redis-cli")) {
		fprintf(
		    stderr, "SKIPPED: redis-server and redis-cli are needed\n");
		return 77;
	}
	server = start_redis(NULL);
	if (server == NULL)
		return 1;
	int failed = cmocka_run_group_tests_name("access", tests, NULL, NULL);
	test_server_stop(server);
	return failed;
}
