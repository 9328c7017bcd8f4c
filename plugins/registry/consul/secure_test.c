/* SPDX-License-Identifier: Apache-2.0 */
/* Who may use a consul, how it is reached, and what it may be told. */
#include "consul_test.h"

#include <support/pki.h>

static void
a_token_opens_what_acls_close(void **state)
{
	struct fixture *f = *state;
	static const char master[] = "11111111-2222-3333-4444-555555555555";
	struct test_server *closed = start_consul(
	    "acl {\n  enabled = true\n  default_policy = \"deny\"\n"
	    "  tokens {\n    master = \"11111111-2222-3333-4444-555555555555\""
	    "\n  }\n}\n");
	struct svc_registry_config config = {.grace_ms = 3000};
	struct svc_registry *registry = NULL;
	struct svc_error why = {0};
	assert_non_null(closed);
	config.address = closed->address;
	OK(svc_registry_create("consul", &config, &registry, err));
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_DENIED);
	assert_non_null(strstr(why.text, "registry_password"));
	svc_registry_destroy(registry);
	config.password = "wrong";
	OK(svc_registry_create("consul", &config, &registry, err));
	assert_int_equal(lookup(registry, f->name), SVC_E_DENIED);
	svc_registry_destroy(registry);
	config.password = NULL;
	/* As the password and as an option. */
	for (int i = 0; i < 2; i++) {
		struct svc_headers *options = svc_headers_create();
		const struct sample *sample = i == 0 ? &f->a : &f->b;
		svc_headers_set(options, "token", master);
		config.options = i == 0 ? options : NULL;
		config.password = i == 0 ? NULL : master;
		OK(svc_registry_create("consul", &config, &registry, err));
		svc_headers_destroy(options);
		config.options = NULL;
		OK(svc_registry_watch(registry, i == 0 ? f->name : NULL,
		    recorder_change, f->recorder, &f->watch, err));
		OK(svc_registry_announce(
		    registry, &sample->record, TTL_MS, err));
		expect(f, SVC_CREATED, sample);
		OK(svc_registry_announce(
		    registry, &sample->record, TTL_MS, err));
		OK(svc_registry_withdraw(registry, &sample->record, err));
		expect(f, SVC_REMOVED, sample);
		svc_registry_destroy(registry);
		f->watch = NULL;
	}
	/* Withdrawing what is not there: other words, the same meaning. */
	config.password = master;
	OK(svc_registry_create("consul", &config, &registry, err));
	OK(svc_registry_withdraw(registry, &f->a.record, err));
	svc_registry_destroy(registry);
	test_server_stop(closed);
}

static void
tls_is_spoken_and_checked(void **state)
{
	struct fixture *f = *state;
	struct test_pki pki;
	char config[1024], address[64];
	int port = test_free_port();
	assert_true(test_pki_create(&pki));
	const struct test_certificate certificates[] = {
	    {.name = "server", .issuer = "ca", .san = "IP:127.0.0.1"},
	    {.name = "client", .issuer = "ca"},
	    {.name = "other", .ca = true},
	};
	for (size_t i = 0; i < 3; i++)
		assert_true(test_pki_issue(&pki, &certificates[i]));
	snprintf(config, sizeof(config),
	    "ports {\n  https = %d\n}\nverify_incoming_https = true\n"
	    "ca_file = \"%s\"\ncert_file = \"%s\"\nkey_file = \"%s\"\n",
	    port, test_pki_path(&pki, "ca", "pem"),
	    test_pki_path(&pki, "server", "pem"),
	    test_pki_path(&pki, "server", "key"));
	struct test_server *secure = start_consul(config);
	assert_non_null(secure);
	snprintf(address, sizeof(address), "127.0.0.1:%d", port);
	struct svc_tls_config tls = {.ca = test_pki_path(&pki, "ca", "pem"),
	    .cert = test_pki_path(&pki, "client", "pem"),
	    .key = test_pki_path(&pki, "client", "key")};
	struct svc_registry_config with = {
	    .address = address, .tls = &tls, .grace_ms = 3000};
	struct svc_registry *registry = NULL;
	OK(svc_registry_create("consul", &with, &registry, err));
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	watch_with(f, registry, f->name);
	OK(svc_registry_announce(registry, &f->b.record, TTL_MS, err));
	expect(f, SVC_CREATED, &f->b);
	svc_registry_destroy(registry);
	f->watch = NULL;
	/* Another CA than its own; no certificate; no TLS at all. */
	struct svc_error why = {0};
	tls.ca = test_pki_path(&pki, "other", "pem");
	OK(svc_registry_create("consul", &with, &registry, err));
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	assert_non_null(strstr(why.text, "registry_tls_ca"));
	svc_registry_destroy(registry);
	tls.ca = test_pki_path(&pki, "ca", "pem");
	tls.cert = tls.key = NULL;
	OK(svc_registry_create("consul", &with, &registry, err));
	assert_int_equal(
	    svc_registry_announce(registry, &f->a.record, TTL_MS, &why),
	    SVC_E_UNAVAILABLE);
	svc_registry_destroy(registry);
	with.tls = NULL;
	OK(svc_registry_create("consul", &with, &registry, err));
	assert_int_not_equal(lookup(registry, f->name), SVC_OK);
	svc_registry_destroy(registry);
	test_server_stop(secure);
	test_pki_remove(&pki);
}

static void
settings_are_checked(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *key, *value, *part;
	} bad[] = {
	    {"datacenter", "a/b", "consul datacenter \"a/b\": use 1 to 64"},
	    {"datacenter", "", "use 1 to 64"},
	    {"tags", "a,,b", "consul tag \"\": use 1 to"},
	    {"tags", "t-1", "consul tag \"t-1\": use 1 to"},
	    {"token", "a b", "the ACL token for consul is 1 to"},
	    {"dc", "x", "allowed: datacenter tags token"},
	};
	struct svc_registry *registry = NULL;
	struct svc_registry_config config = {.address = "ftp://a"};
	struct svc_error why = {0};
	assert_int_equal(
	    svc_registry_create("consul", &config, &registry, &why),
	    SVC_E_INVAL);
	assert_non_null(strstr(why.text, "consul address \"ftp://a\""));
	config.address = server->address;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct svc_headers *options = svc_headers_create();
		svc_headers_set(options, bad[i].key, bad[i].value);
		config.options = options;
		assert_int_equal(
		    svc_registry_create("consul", &config, &registry, &why),
		    SVC_E_INVAL);
		if (strstr(why.text, bad[i].part) == NULL)
			fail_msg(
			    "%s=%s: %s", bad[i].key, bad[i].value, why.text);
		svc_headers_destroy(options);
	}
	config.options = NULL;
	config.username = "root";
	assert_int_equal(
	    svc_registry_create("consul", &config, &registry, &why),
	    SVC_E_INVAL);
	assert_non_null(strstr(why.text, "registry_password"));
	config.username = NULL;

	/* Tags for others, and a datacenter: ours, and one there is none of. */
	struct svc_headers *options = svc_headers_create();
	svc_headers_set(options, "tags", "zone=a,team-b");
	svc_headers_set(options, "datacenter", "dc1");
	config.options = options;
	OK(svc_registry_create("consul", &config, &registry, err));
	OK(svc_registry_announce(registry, &f->a.record, TTL_MS, err));
	char path[256];
	snprintf(path, sizeof(path), "/v1/agent/service/%s", f->a.id);
	char *out = ask(server->address, "GET", path, NULL);
	assert_non_null(strstr(out,
	    "\"v-789c33d433d033000002ce00ee\",\n        \"zone=a\",\n"
	    "        \"team-b\"\n    ]"));
	free(out);
	watch_with(f, registry, f->name);
	assert_int_equal(recorder_nodes(f->recorder, f->name), 1);
	svc_registry_unwatch(f->watch);
	f->watch = NULL;
	struct svc_record_list list = {0};
	OK(svc_registry_lookup(registry, f->name, &list, err));
	assert_true(svc_record_equal(list.records[0], &f->a.record));
	svc_record_list_fini(&list);
	svc_registry_destroy(registry);
	svc_headers_set(options, "datacenter", "elsewhere");
	OK(svc_registry_create("consul", &config, &registry, err));
	assert_int_equal(lookup(registry, f->name), SVC_E_UNAVAILABLE);
	svc_registry_destroy(registry);
	svc_headers_destroy(options);
	svc_registry_destroy(make(NULL));
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {
	    TEST(a_token_opens_what_acls_close),
	    TEST(tls_is_spoken_and_checked),
	    TEST(settings_are_checked),
	};
#undef TEST
	if (!test_server_have("consul") || !test_server_have("curl")) {
		fprintf(stderr,
		    "SKIPPED: consul (tools/get-consul) and curl are needed\n");
		return 77;
	}
	fixture_of("consul", "1.0.0", true);
	server = start_consul(NULL);
	if (server == NULL)
		return 1;
	int failed = cmocka_run_group_tests_name("secure", tests, NULL, NULL);
	test_server_stop(server);
	return failed;
}
