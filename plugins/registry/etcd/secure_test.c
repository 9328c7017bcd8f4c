/* SPDX-License-Identifier: Apache-2.0 */
/* Users, tokens, TLS and client certificates, against a real etcd. */
#include "fixture.h"

#include <support/pki.h>

static struct test_pki pki;

/* etcdctl at `address` as root, when there is a root. */
static void
as_root(const char *address, bool login, const char *const words[])
{
	char endpoints[64];
	char ca[176], cert[176], key[176];
	const char *argv[16] = {"etcdctl", endpoints};
	size_t n = 2;
	int status = -1;
	snprintf(endpoints, sizeof(endpoints), "--endpoints=%s", address);
	if (strncmp(address, "https", 5) == 0) {
		snprintf(ca, sizeof(ca), "--cacert=%s",
		    test_pki_path(&pki, "ca", "pem"));
		snprintf(cert, sizeof(cert), "--cert=%s",
		    test_pki_path(&pki, "client", "pem"));
		snprintf(key, sizeof(key), "--key=%s",
		    test_pki_path(&pki, "client", "key"));
		argv[n++] = ca;
		argv[n++] = cert;
		argv[n++] = key;
	}
	if (login)
		argv[n++] = "--user=root:secret";
	for (size_t i = 0; words[i] != NULL; i++)
		argv[n++] = words[i];
	/* On a busy machine its own token may end before it is used. */
	for (int i = 0; i < 10 && status != 0; i++)
		free(test_run(argv, &status));
	if (status != 0)
		fail_msg("etcdctl %s %s failed", words[0], words[1]);
}
#define AS_ROOT(address, login, ...) \
	as_root(address, login, (const char *const[]){__VA_ARGS__, NULL})

/* "svc" may do what a service does, and nothing else. */
static void
enable_users(const char *address)
{
	AS_ROOT(address, false, "user", "add", "root:secret");
	AS_ROOT(address, false, "role", "add", "root");
	AS_ROOT(address, false, "user", "grant-role", "root", "root");
	AS_ROOT(address, false, "user", "add", "svc:pass");
	AS_ROOT(address, false, "role", "add", "registry");
	AS_ROOT(address, false, "role", "grant-permission", "registry",
	    "readwrite", "--prefix=true", "/micro/registry/");
	AS_ROOT(address, false, "user", "grant-role", "svc", "registry");
	AS_ROOT(address, false, "auth", "enable");
}

static struct svc_registry *
login(const char *address, const char *username, const char *password)
{
	struct svc_registry *registry = NULL;
	struct svc_registry_config config = {.address = address,
	    .username = username,
	    .password = password,
	    .timeout_ms = 4000,
	    .grace_ms = 3000};
	OK(svc_registry_create("etcd", &config, &registry, err));
	return registry;
}

static void
expect_denied(struct svc_registry *registry, const struct sample *sample,
    const char *text)
{
	struct svc_error why = {0};
	assert_int_equal(
	    svc_registry_announce(registry, &sample->record, TTL_MS, &why),
	    SVC_E_DENIED);
	if (strstr(why.text, text) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", why.text, text);
	svc_registry_destroy(registry);
}

static void
users_are_known_by_their_password(void **state)
{
	struct fixture *f = *state;
	expect_denied(make(server->address), &f->a, "user name is empty");
	expect_denied(login(server->address, "svc", "wrong"), &f->a,
	    ": see registry_username and registry_password");
	expect_denied(login(server->address, "svc", "wrong"), &f->a,
	    "invalid user ID or password");
	AS_ROOT(server->address, true, "user", "add", "nobody:pass");
	expect_denied(login(server->address, "nobody", "pass"), &f->a,
	    "permission denied");
	struct svc_registry *registry = login(server->address, "svc", "pass");
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	assert_int_equal(lookup(registry, f->name), SVC_OK);
	svc_registry_destroy(registry);
}

static void
tokens_are_renewed(void **state)
{
	struct fixture *f = *state;
	struct svc_registry *registry = login(server->address, "svc", "pass");
	/* Renewed by a token that ends after two seconds. */
	OK(svc_registry_announce(registry, &f->a.record, 3000, err));
	assert_true(recorder_quiet(f->recorder, 3500));
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	assert_true(recorder_quiet(f->recorder, 3500));
	OK(svc_registry_watch(
	    registry, f->name, recorder_change, f->recorder, &f->watch, err));
	expect(f, SVC_CREATED, &f->a);
	assert_true(
	    recorder_wait(f->recorder, SVC_SYNCED, NULL, NULL, WAIT_MS, NULL));
	assert_true(recorder_quiet(f->recorder, 3500));
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	/* A change of the users makes tokens old, those of a server that
	 * started again are unknown to it. */
	AS_ROOT(server->address, true, "user", "add", "more:pass");
	svc_headers_set(f->b.node.metadata, "weight", "2");
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_UPDATED, &f->b);
	test_server_kill(server);
	assert_true(test_server_start_again(server, true));
	svc_headers_set(f->b.node.metadata, "weight", "3");
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_UPDATED, &f->b);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	svc_registry_destroy(registry);
}

static void
half_a_login_is_refused(void **state)
{
	(void)state;
	struct svc_registry *registry = NULL;
	struct svc_error why = {0};
	struct svc_registry_config config = {
	    .address = server->address, .username = "svc"};
	assert_int_equal(
	    svc_registry_create("etcd", &config, &registry, &why), SVC_E_INVAL);
	assert_string_equal(why.text,
	    "registry etcd has a user name and no password: give "
	    "registry_password as well");
	config.username = NULL;
	config.password = "pass";
	assert_int_equal(
	    svc_registry_create("etcd", &config, &registry, &why), SVC_E_INVAL);
	assert_string_equal(why.text,
	    "registry etcd has a password and no user name: give "
	    "registry_username as well");
}

static void
users_may_be_switched_off_and_on(void **state)
{
	struct fixture *f = *state;
	struct svc_registry *registry = login(server->address, "svc", "pass");
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	AS_ROOT(server->address, true, "auth", "disable");
	svc_registry_destroy(registry);
	registry = login(server->address, "svc", "pass");
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	AS_ROOT(server->address, false, "auth", "enable");
	svc_headers_set(f->b.node.metadata, "weight", "4");
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	svc_registry_destroy(registry);
}

static void
tls_with_certificates_of_both_and_a_login(void **state)
{
	struct fixture *f = *state;
	char args[640], url[64];
	snprintf(args, sizeof(args),
	    "--cert-file=%s --key-file=%s --trusted-ca-file=%s "
	    "--client-cert-auth --auth-token=simple",
	    test_pki_path(&pki, "server", "pem"),
	    test_pki_path(&pki, "server", "key"),
	    test_pki_path(&pki, "ca", "pem"));
	struct test_server *secure = start_etcd(args);
	assert_non_null(secure);
	snprintf(url, sizeof(url), "https://%s", secure->address);
	enable_users(url);
	struct svc_tls_config tls = {.ca = test_pki_path(&pki, "ca", "pem")};
	struct svc_registry_config config = {.address = secure->address,
	    .tls = &tls,
	    .username = "svc",
	    .password = "pass",
	    .timeout_ms = 4000,
	    .grace_ms = 3000};
	struct svc_registry *registry = NULL;
	struct svc_error why = {0};
	OK(svc_registry_create("etcd", &config, &registry, err));
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "it demands a client certificate"));
	svc_registry_destroy(registry);
	tls.cert = test_pki_path(&pki, "client", "pem");
	tls.key = test_pki_path(&pki, "client", "key");
	OK(svc_registry_create("etcd", &config, &registry, err));
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	OK(svc_registry_watch(
	    registry, f->name, recorder_change, f->recorder, &f->watch, err));
	expect(f, SVC_CREATED, &f->a);
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	OK(svc_registry_withdraw(registry, &f->a.record, err));
	expect(f, SVC_REMOVED, &f->a);
	/* Who asks without TLS is told. */
	struct svc_registry *bare = make(secure->address);
	assert_int_not_equal(
	    svc_registry_announce(bare, &f->a.record, TTL_MS, &why), SVC_OK);
	assert_non_null(strstr(why.text, "use https://"));
	svc_registry_destroy(bare);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	svc_registry_destroy(registry);
	test_server_stop(secure);
}

/* An instance that goes on, while its files are replaced under it: the CA, then
 * its own certificate, which had expired. */
static void
replaced_files_are_read_again(void **state)
{
	struct fixture *f = *state;
	char args[640];
	struct svc_error why = {0};
	const struct test_certificate wrong = {.name = "trusted", .ca = true};
	struct test_certificate own = {
	    .name = "own", .issuer = "ca", .from_days = -9, .until_days = -2};
	assert_true(test_pki_issue(&pki, &wrong));
	assert_true(test_pki_issue(&pki, &own));
	snprintf(args, sizeof(args),
	    "--cert-file=%s --key-file=%s --trusted-ca-file=%s "
	    "--client-cert-auth",
	    test_pki_path(&pki, "server", "pem"),
	    test_pki_path(&pki, "server", "key"),
	    test_pki_path(&pki, "ca", "pem"));
	struct test_server *secure = start_etcd(args);
	assert_non_null(secure);
	struct svc_tls_config tls = {
	    .ca = test_pki_path(&pki, "trusted", "pem"),
	    .cert = test_pki_path(&pki, "own", "pem"),
	    .key = test_pki_path(&pki, "own", "key"),
	};
	struct svc_registry_config config = {.address = secure->address,
	    .tls = &tls,
	    .timeout_ms = 4000,
	    .grace_ms = 3000};
	struct svc_registry *registry = NULL;
	OK(svc_registry_create("etcd", &config, &registry, err));
	OK(svc_registry_watch(
	    registry, f->name, recorder_change, f->recorder, &f->watch, err));
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "--registry_tls_ca"));
	assert_true(test_pki_copy(&pki, "ca", "trusted"));
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "--registry_tls_cert"));
	own.from_days = own.until_days = 0;
	assert_true(test_pki_issue(&pki, &own));
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->a);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	svc_registry_destroy(registry);
	test_server_stop(secure);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_etcd, end)
	const struct CMUnitTest tests[] = {
	    TEST(users_are_known_by_their_password),
	    TEST(half_a_login_is_refused),
	    TEST(tokens_are_renewed),
	    TEST(users_may_be_switched_off_and_on),
	    TEST(tls_with_certificates_of_both_and_a_login),
	    TEST(replaced_files_are_read_again),
	};
#undef TEST
	/* With users, etcd's gateway takes no certificate that has a common
	 * name. */
	static const struct test_certificate certificates[] = {
	    {.name = "server", .issuer = "ca", .san = "IP:127.0.0.1"},
	    {.name = "client", .issuer = "ca", .cn = ""},
	};
	if (!test_server_have("etcd") || !test_server_have("etcdctl")) {
		fprintf(stderr, "SKIPPED: etcd and etcdctl are needed\n");
		return 77;
	}
	if (!test_pki_create(&pki) || !test_pki_issue(&pki, &certificates[0]) ||
	    !test_pki_issue(&pki, &certificates[1]))
		return 1;
	/* Tokens that end while the test runs. */
	server = start_etcd("--auth-token=simple --auth-token-ttl=2");
	if (server == NULL)
		return 1;
	enable_users(server->address);
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	test_server_stop(server);
	test_pki_remove(&pki);
	return failed;
}
