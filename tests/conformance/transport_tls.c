/* SPDX-License-Identifier: Apache-2.0 */
/* Who is verified by what, and what of that is told. */
#include "conformance/transport.h"
#include "conformance/transport_tls_end.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ------------------------------------------------------------------- cases */

static void
both_sides_are_verified_and_known(void **state)
{
	(void)state;
	struct tls_end *server, *client, *nobody;
	struct svc_tls_config tls = tls_of("server", "ca");
	server = tls_end_serve(&tls);
	tls = tls_of("client", "ca");
	client = tls_end_start(&tls);
	struct tls_got got = tls_call(client, server);
	assert_answered(&got);
	assert_string_equal(server->identity, "student.client");
	tls_end_stop(client);
	tls_end_stop(server);

	/* Callers need no certificate where none is asked for. */
	tls = tls_of("server", "ca");
	tls.anonymous = true;
	server = tls_end_serve(&tls);
	tls = tls_of(NULL, "ca");
	nobody = tls_end_start(&tls);
	got = tls_call(nobody, server);
	assert_answered(&got);
	assert_string_equal(server->identity, "-");
	tls = tls_of("plain", "ca");
	client = tls_end_start(&tls);
	got = tls_call(client, server);
	assert_answered(&got);
	assert_string_equal(server->identity, "common name");
	tls_end_stop(client);
	tls_end_stop(nobody);
	tls_end_stop(server);
}

static void
a_server_that_cannot_prove_itself_is_refused(void **state)
{
	(void)state;
	static const struct {
		const char *server, *ca, *name, *why;
	} cases[] = {
	    {"server", "other_ca", NULL, "local issuer"},
	    {"expired", "ca", NULL, "certificate has expired"},
	    {"early", "ca", NULL, "not yet valid"},
	    {"stranger", "ca", NULL, "it is not for \"127.0.0.1\""},
	    {"server", "ca", "teacher", "it is not for \"teacher\""},
	    {"self", "ca", NULL, "self-signed certificate"},
	    {"server", NULL, NULL, "local issuer"}, /* the system's */
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct tls_end *server, *client, *good;
		struct svc_tls_config tls = tls_of(cases[i].server, NULL);
		server = tls_end_serve(&tls);
		tls = tls_of(NULL, cases[i].ca);
		tls.name = cases[i].name;
		client = tls_end_start(&tls);
		struct tls_got got = tls_call(client, server);
		assert_refused(&got, cases[i].why);
		assert_true(got.not_run);
		char start_of_text[160];
		snprintf(start_of_text, sizeof(start_of_text),
		    "certificate of %s was refused: ", tls_end_address(server));
		assert_non_null(strstr(got.text, start_of_text));
		tls_end_stop(client);
		tls_end_stop(server);

		tls = tls_of("server", NULL);
		server = tls_end_serve(&tls);
		tls = tls_of(NULL, "ca");
		good = tls_end_start(&tls);
		got = tls_call(good, server);
		assert_answered(&got);
		tls_end_stop(good);
		tls_end_stop(server);
	}
}

/* Who looks for this name is served by one with this certificate. */
static void
check_name(const char *certificate, const char *name)
{
	struct svc_tls_config tls = tls_of(certificate, NULL);
	struct tls_end *server = tls_end_serve(&tls);
	tls = tls_of(NULL, "ca");
	tls.name = name;
	struct tls_end *client = tls_end_start(&tls);
	struct tls_got got = tls_call(client, server);
	assert_answered(&got);
	tls_end_stop(client);
	tls_end_stop(server);
}

static void
a_name_is_taken_for_the_host(void **state)
{
	(void)state;
	check_name("stranger", "student.far");
}

/* Of an address of a link the interface is the caller's own matter. */
static void
an_interface_is_not_in_a_certificate(void **state)
{
	(void)state;
	check_name("link", "fe80::1%eth0");
}

static void
a_client_that_cannot_prove_itself_is_refused(void **state)
{
	(void)state;
	static const struct {
		const char *client, *why, *log;
	} cases[] = {
	    {NULL, "demands a certificate", "it showed no certificate"},
	    {"other_client", "refused the certificate", "local issuer"},
	    {"expired", "refused the certificate",
		"was refused: certificate has expired"},
	    {"self", "refused the certificate", "self-signed"},
	};
	struct tls_end *server, *client, *good;
	struct svc_tls_config tls = tls_of("server", "ca");
	server = tls_end_serve(&tls);
	tls = tls_of("client", "ca");
	good = tls_end_start(&tls);
	svc_log_set_sink(tls_keep_log, NULL);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		tls_clear_log();
		tls = tls_of(cases[i].client, "ca");
		client = tls_end_start(&tls);
		tls_call_refused(client, server, cases[i].why, cases[i].log);
		assert_true(tls_was_logged("127.0.0.1:"));
		tls_end_stop(client);
		struct tls_got got = tls_call(good, server);
		assert_answered(&got);
	}
	tls_end_stop(good);
	tls_end_stop(server);
}

static void
with_and_without_tls_part_at_once(void **state)
{
	(void)state;
	struct tls_end *server, *client;
	struct svc_tls_config tls = tls_of("server", NULL);
	server = tls_end_serve(&tls);
	client = tls_end_start(NULL);
	if (strstr(tls_suite.setup->address, "://") != NULL) {
		/* A URL says what it is: it is not even dialled. */
		struct svc_error err = {0};
		void *conn;
		assert_int_equal(
		    client->ops->dial(client->self, tls_end_address(server),
			5000, &conn, &err),
		    SVC_E_INVAL);
		assert_non_null(strstr(err.text, "needs TLS"));
		tls_end_stop(client);
		tls_end_stop(server);
		return;
	}
	struct tls_got got = tls_call(client, server);
	assert_refused(&got, "speaks TLS");
	tls_end_stop(client);
	tls_end_stop(server);

	/* The service speaks first: at whatever moment of the client's. */
	server = tls_end_serve(NULL);
	tls = tls_of(NULL, "ca");
	client = tls_end_start(&tls);
	for (int i = 0; i < 100; i++) {
		got = tls_call(client, server);
		assert_refused(&got, "without TLS");
	}
	tls_end_stop(client);
	tls_end_stop(server);
}

static void
wrong_files_are_named(void **state)
{
	(void)state;
	static const struct {
		const char *cert, *key, *ca, *names;
	} cases[] = {
	    {"server.pem", "client.key", NULL, "client.key"},
	    {"nowhere.pem", "server.key", NULL, "nowhere.pem"},
	    {"server.pem", "nowhere.key", NULL, "nowhere.key"},
	    {"server.key", "server.key", NULL, "server.key"},
	    {"server.pem", "server.pem", NULL, "server.pem"},
	    {"server.pem", "server.key", "nowhere.pem", "nowhere.pem"},
	    {"server.pem", "server.key", "server.key", "server.key"},
	    {"server.pem", NULL, NULL, "--tls_key"},
	    {NULL, "server.key", NULL, "--tls_cert"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *names[] = {
		    cases[i].cert, cases[i].key, cases[i].ca};
		char paths[3][160];
		struct svc_tls_config tls = {0};
		const char **places[] = {&tls.cert, &tls.key, &tls.ca};
		for (int k = 0; k < 3; k++) {
			if (names[k] == NULL)
				continue;
			snprintf(paths[k], sizeof(paths[k]), "%s/%s",
			    tls_suite.pki.dir, names[k]);
			*places[k] = paths[k];
		}
		struct tls_end *end;
		struct svc_error err = {0};
		assert_int_equal(tls_end_try(&tls, &end, &err), SVC_E_INVAL);
		if (strstr(err.text, cases[i].names) == NULL)
			fail_msg("\"%s\" does not name %s", err.text,
			    cases[i].names);
	}
	/* Who only calls needs no certificate, who listens does. */
	struct tls_end *end;
	struct svc_error err = {0};
	struct svc_tls_config tls = tls_of(NULL, "ca");
	end = tls_end_start(&tls);
	assert_int_equal(tls_end_listen(end, &err), SVC_E_INVAL);
	assert_non_null(strstr(err.text, "--tls_cert"));
	tls_end_stop(end);
}

/* ------------------------------------------------------------------ reload */

/* Not on the stack: the test may fail while they are at it. */
static struct caller {
	struct tls_end *client;
	const char *address;
	pthread_t thread;
	bool started;
	int calls, failed;
	char text[256]; /* of the last that failed */
} callers[2];
static _Atomic bool enough;

/* Calls on a kept connection and, now and then, on a new one. Nothing is
 * asserted here: that would not end the test of another thread. */
static void *
call_until_told(void *arg)
{
	struct caller *me = arg;
	void *conn = NULL;
	while (!atomic_load(&enough)) {
		struct tls_got got = {.answered = false};
		if (conn != NULL && me->calls % 20 == 19) {
			tls_hang_up(me->client, conn);
			conn = NULL;
		}
		if (conn == NULL)
			conn = tls_dial(me->client, me->address, &got);
		if (conn != NULL)
			got = tls_call_on(me->client, conn);
		me->calls++;
		if (!got.answered) {
			me->failed++;
			memcpy(me->text, got.text, sizeof(me->text));
		}
	}
	return NULL;
}

static void
start_callers(struct tls_end *client, const char *address)
{
	atomic_store(&enough, false);
	for (int i = 0; i < 2; i++) {
		callers[i] =
		    (struct caller){.client = client, .address = address};
		callers[i].started =
		    svc_thread_start(&callers[i].thread, "caller",
			call_until_told, &callers[i]) == SVC_OK;
		assert_true(callers[i].started);
	}
}

static void
stop_callers(void)
{
	atomic_store(&enough, true);
	for (int i = 0; i < 2; i++)
		if (callers[i].started)
			svc_thread_join(callers[i].thread);
	callers[0].started = callers[1].started = false;
}

static int
clean_up_with_callers(void **state)
{
	stop_callers();
	return tls_clean_up(state);
}

/* Whether a caller that expects this name is answered before long. */
static bool
comes_to_be(struct tls_end *server, const char *name)
{
	struct svc_tls_config tls = tls_of(NULL, "ca");
	struct tls_end *client;
	bool answered = false;
	tls.name = name;
	client = tls_end_start(&tls);
	int64_t deadline = svc_deadline(WAIT_MS);
	while (!answered && svc_remaining(deadline) > 0)
		answered = tls_call(client, server).answered;
	tls_end_stop(client);
	return answered;
}

static void
spoil(const char *path)
{
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs("-----BEGIN PRIVATE KEY-----\nhalf", file);
	fclose(file);
}

static void
changed_files_serve_new_connections(void **state)
{
	(void)state;
	struct test_certificate certificate = {.name = "changing",
	    .issuer = "ca",
	    .san = "DNS:first,DNS:both,IP:127.0.0.1"};
	assert_true(test_pki_issue(&tls_suite.pki, &certificate));
	struct tls_end *server, *client;
	struct svc_tls_config tls = tls_of("changing", NULL);
	server = tls_end_serve(&tls);
	tls = tls_of(NULL, "ca");
	tls.name = "both";
	client = tls_end_start(&tls);
	svc_log_set_sink(tls_keep_log, NULL);
	tls_clear_log();

	start_callers(client, tls_end_address(server));
	assert_true(comes_to_be(server, "first"));
	certificate.san = "DNS:second,DNS:both,IP:127.0.0.1";
	assert_true(test_pki_issue(&tls_suite.pki, &certificate));
	assert_true(comes_to_be(server, "second"));

	/* Half a key is none: the old pair stays, and that is said. */
	spoil(test_pki_path(&tls_suite.pki, "changing", "key"));
	int64_t deadline = svc_deadline(WAIT_MS);
	while (!tls_was_logged("cannot be used") && svc_remaining(deadline) > 0)
		assert_true(comes_to_be(server, "second"));
	assert_true(tls_was_logged("cannot be used"));
	certificate.san = "DNS:third,DNS:both,IP:127.0.0.1";
	assert_true(test_pki_issue(&tls_suite.pki, &certificate));
	assert_true(comes_to_be(server, "third"));

	stop_callers();
	for (int i = 0; i < 2; i++) {
		if (callers[i].failed != 0)
			fail_msg("%d of %d calls failed: %s", callers[i].failed,
			    callers[i].calls, callers[i].text);
		assert_true(callers[i].calls > 0);
	}
	tls_end_stop(client);
	tls_end_stop(server);
}

/* -------------------------------------------------------------------- main */

static bool
make_certificates(void)
{
	static const char here[] = "DNS:localhost,IP:127.0.0.1";
	const struct test_certificate certificates[] = {
	    {.name = "other_ca", .ca = true},
	    {.name = "server", .issuer = "ca", .san = here},
	    {.name = "client",
		.issuer = "ca",
		.cn = "a client",
		.san = "IP:127.0.0.1,DNS:student.client,DNS:other"},
	    {.name = "plain", .issuer = "ca", .cn = "common name"},
	    {.name = "other_client", .issuer = "other_ca"},
	    {.name = "stranger", .issuer = "ca", .san = "DNS:student.far"},
	    {.name = "link", .issuer = "ca", .san = "IP:fe80::1"},
	    {.name = "expired",
		.issuer = "ca",
		.san = here,
		.from_days = -9,
		.until_days = -2},
	    {.name = "early",
		.issuer = "ca",
		.san = here,
		.from_days = 2,
		.until_days = 9},
	    {.name = "self", .san = here},
	};
	if (!test_pki_create(&tls_suite.pki))
		return false;
	for (size_t i = 0; i < sizeof(certificates) / sizeof(certificates[0]);
	     i++)
		if (!test_pki_issue(&tls_suite.pki, &certificates[i]))
			return false;
	return true;
}

int
svc_conformance_transport_over_tls(const struct svc_conformance_transport *base)
{
	if (!make_certificates())
		return 1;
	struct svc_tls_config tls = tls_of("server", "ca");
	struct svc_conformance_transport with = *base;
	with.tls = &tls;
	int failed = svc_conformance_transport(&with);
	test_pki_remove(&tls_suite.pki);
	return failed;
}

int
svc_conformance_tls(const struct svc_conformance_tls *with)
{
	static const struct CMUnitTest tests[] = {
	    tls_test(both_sides_are_verified_and_known),
	    tls_test(a_server_that_cannot_prove_itself_is_refused),
	    tls_test(a_name_is_taken_for_the_host),
	    tls_test(an_interface_is_not_in_a_certificate),
	    tls_test(a_client_that_cannot_prove_itself_is_refused),
	    tls_test(with_and_without_tls_part_at_once),
	    tls_test(wrong_files_are_named),
	    cmocka_unit_test_teardown(
		changed_files_serve_new_connections, clean_up_with_callers),
	};
	tls_suite.setup = with;
	if (!make_certificates())
		return 1;
	char title[64];
	snprintf(
	    title, sizeof(title), "%s tls %s", with->plugin, with->address);
	int failed = cmocka_run_group_tests_name(title, tests, NULL, NULL) +
		     svc_conformance_tls_chain(title) +
		     svc_conformance_tls_gone(title) +
		     svc_conformance_tls_handshake(title);
	test_pki_remove(&tls_suite.pki);
	return failed;
}
