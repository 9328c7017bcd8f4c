/* SPDX-License-Identifier: Apache-2.0 */
/* Chains of certificates, kinds of keys, what certificates are for, and ways in
 * which files are written. */
#include "conformance/transport_tls_end.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define N_OF(list) (sizeof(list) / sizeof((list)[0]))

/* ------------------------------------------------------------ certificates */

static const char here[] = "DNS:localhost,IP:127.0.0.1";

static bool
issue(void)
{
	const struct test_certificate certificates[] = {
	    {.name = "middle", .issuer = "ca", .ca = true},
	    {.name = "leaf", .issuer = "middle", .san = here},
	    {.name = "old_ca", .ca = true, .from_days = -9, .until_days = -2},
	    {.name = "new_ca", .cn = "old_ca", .ca = true, .key_of = "old_ca"},
	    {.name = "of_old", .issuer = "old_ca", .san = here},
	    {.name = "p384", .issuer = "ca", .san = here, .key = "P-384"},
	    {.name = "ed25519", .issuer = "ca", .san = here, .key = "ED25519"},
	    {.name = "rsa", .issuer = "ca", .san = here, .key = "RSA"},
	    {.name = "ed_ca", .ca = true, .key = "ED25519"},
	    {.name = "of_ed", .issuer = "ed_ca", .san = here},
	    {.name = "calls",
		.issuer = "ca",
		.san = here,
		.usage = "clientAuth"},
	    {.name = "serves",
		.issuer = "ca",
		.san = here,
		.usage = "serverAuth"},
	    {.name = "both",
		.issuer = "ca",
		.san = here,
		.usage = "serverAuth,clientAuth"},
	    {.name = "wild", .issuer = "ca", .san = "DNS:*.far.test"},
	    {.name = "named", .issuer = "ca", .cn = "only.named"},
	    {.name = "renamed",
		.issuer = "ca",
		.cn = "common.name",
		.san = "DNS:other.name"},
	};
	for (size_t i = 0; i < N_OF(certificates); i++)
		if (!test_pki_issue(&tls_suite.pki, &certificates[i]))
			return false;
	return true;
}

static bool
join(void)
{
	static const struct {
		const char *file, *parts[3];
		bool foreign;
	} files[] = {
	    {"chain.pem", {"leaf.pem", "middle.pem"}, false},
	    {"chain.key", {"leaf.key"}, false},
	    {"bundle.pem", {"other_ca.pem", "old_ca.pem", "ca.pem"}, false},
	    {"renewed.pem", {"old_ca.pem", "new_ca.pem"}, false},
	    {"foreign.pem", {"leaf.pem", "middle.pem"}, true},
	    {"foreign.key", {"leaf.key"}, true},
	    {"foreign_ca.pem", {"other_ca.pem", "ca.pem"}, true},
	    {"one.pem", {"leaf.pem", "middle.pem", "leaf.key"}, false},
	    {"one.key", {"leaf.key", "leaf.pem", "middle.pem"}, true},
	};
	for (size_t i = 0; i < N_OF(files); i++) {
		size_t n = 0;
		while (n < 3 && files[i].parts[n] != NULL)
			n++;
		if (!test_pki_join(&tls_suite.pki, files[i].file,
			files[i].parts, n, files[i].foreign))
			return false;
	}
	return test_pki_lock(&tls_suite.pki, "server", "locked", false) &&
	       test_pki_lock(&tls_suite.pki, "server", "formerly", true) &&
	       test_pki_lock(&tls_suite.pki, "rsa", "rsa_formerly", true);
}

/* ------------------------------------------------------------------- cases */

/* A server by `server`, which takes callers by `callers` if that is given, is
 * called with `client`, by whoever trusts `trusts`. `why` NULL: it answers. */
struct meeting {
	const char *server, *callers, *client, *trusts, *name;
	const char *why, *log;
};

static void
meet(const struct meeting *with)
{
	struct svc_tls_config tls = tls_of(with->server, with->callers);
	struct tls_end *server = tls_end_serve(&tls);
	tls = tls_of(with->client, with->trusts);
	tls.name = with->name;
	struct tls_end *client = tls_end_start(&tls);
	svc_log_set_sink(tls_keep_log, NULL);
	tls_clear_log();
	struct tls_got got = tls_call(client, server);
	if (with->why == NULL)
		assert_answered(&got);
	else if (with->log == NULL)
		assert_refused(&got, with->why);
	else
		tls_call_refused(client, server, with->why, with->log);
	tls_end_stop(client);
	tls_end_stop(server);
	svc_log_set_sink(NULL, NULL);
}

#define MEET(list)                                 \
	for (size_t i = 0; i < N_OF(list); i++) {  \
		print_message("meeting %zu\n", i); \
		meet(&(list)[i]);                  \
	}

static void
those_between_are_sent_along(void **state)
{
	(void)state;
	static const char missing[] =
	    "local issuer certificate (not in --tls_ca, nor sent along: "
	    "\"/CN=middle\")";
	static const struct meeting meetings[] = {
	    {.server = "chain", .trusts = "ca"},
	    {.server = "leaf",
		.trusts = "ca",
		.why = missing,
		.log = "refused the certificate of this service: unknown CA"},
	    {.server = "chain",
		.callers = "ca",
		.client = "chain",
		.trusts = "ca"},
	    {.server = "server",
		.callers = "ca",
		.client = "leaf",
		.trusts = "ca",
		.why = "refused the certificate of this client: unknown CA",
		.log = missing},
	    /* Whom one trusts needs nobody above. */
	    {.server = "leaf", .trusts = "middle"},
	    {.server = "chain", .trusts = "middle"},
	    {.server = "server",
		.trusts = "middle",
		.why = "\"/CN=Test authority\""},
	};
	MEET(meetings);
}

static void
a_file_may_have_several_authorities(void **state)
{
	(void)state;
	static const struct meeting meetings[] = {
	    {.server = "server", .trusts = "bundle"},
	    {.server = "server",
		.callers = "bundle",
		.client = "other_client",
		.trusts = "bundle"},
	    /* It is said whose time is over. */
	    {.server = "of_old",
		.trusts = "bundle",
		.why = "certificate has expired (that of \"/CN=old_ca\")"},
	    {.server = "server",
		.callers = "bundle",
		.client = "of_old",
		.trusts = "ca",
		.why = "certificate expired",
		.log = "has expired (that of \"/CN=old_ca\")"},
	    /* Of two with one name the one that is valid counts. */
	    {.server = "of_old", .trusts = "renewed"},
	};
	MEET(meetings);
}

static void
keys_may_be_of_any_kind(void **state)
{
	(void)state;
	static const struct meeting meetings[] = {
	    {.server = "p384",
		.callers = "ca",
		.client = "rsa",
		.trusts = "ca"},
	    {.server = "ed25519",
		.callers = "ca",
		.client = "p384",
		.trusts = "ca"},
	    {.server = "rsa",
		.callers = "ca",
		.client = "ed25519",
		.trusts = "ca"},
	    {.server = "of_ed", .trusts = "ed_ca"},
	};
	MEET(meetings);
}

static void
files_may_be_written_in_several_ways(void **state)
{
	(void)state;
	static const struct meeting meetings[] = {
	    {.server = "foreign",
		.callers = "foreign_ca",
		.client = "foreign",
		.trusts = "foreign_ca"},
	};
	MEET(meetings);
	/* Certificate and key in one file, whichever is first. */
	for (int i = 0; i < 2; i++) {
		struct svc_tls_config tls = tls_of("one", NULL);
		if (i == 0)
			tls.key = tls.cert;
		else
			tls.cert = tls.key;
		struct tls_end *server = tls_end_serve(&tls);
		tls = tls_of(NULL, "ca");
		struct tls_end *client = tls_end_start(&tls);
		struct tls_got got = tls_call(client, server);
		assert_answered(&got);
		tls_end_stop(client);
		tls_end_stop(server);
	}
}

static void
a_certificate_is_for_what_it_says(void **state)
{
	(void)state;
	static const struct meeting meetings[] = {
	    {.server = "serves",
		.callers = "ca",
		.client = "calls",
		.trusts = "ca"},
	    {.server = "both",
		.callers = "ca",
		.client = "both",
		.trusts = "ca"},
	    {.server = "calls",
		.trusts = "ca",
		.why = "was refused: unsuitable certificate purpose",
		.log = "refused the certificate of this service: unsupported "
		       "certificate"},
	    {.server = "serves",
		.callers = "ca",
		.client = "serves",
		.trusts = "ca",
		.why = "refused the certificate of this client: unsupported "
		       "certificate",
		.log = "was refused: unsuitable certificate purpose"},
	};
	MEET(meetings);
}

static void
names_are_compared_whole(void **state)
{
	(void)state;
	static const struct meeting meetings[] = {
	    {.server = "wild", .trusts = "ca", .name = "student.far.test"},
	    {.server = "wild", .trusts = "ca", .name = "STUDENT.far.test"},
	    {.server = "wild",
		.trusts = "ca",
		.name = "a.student.far.test",
		.why = "it is not for \"a.student.far.test\""},
	    {.server = "wild",
		.trusts = "ca",
		.name = "far.test",
		.why = "it is not for \"far.test\""},
	    {.server = "server", .trusts = "ca", .name = "127.0.0.1"},
	    {.server = "server",
		.trusts = "ca",
		.name = "127.0.0.2",
		.why = "it is not for \"127.0.0.2\""},
	    /* The common name counts where there is no other. */
	    {.server = "named", .trusts = "ca", .name = "only.named"},
	    {.server = "renamed",
		.trusts = "ca",
		.name = "common.name",
		.why = "it is not for \"common.name\""},
	};
	MEET(meetings);
}

static void
a_key_with_a_passphrase_is_refused(void **state)
{
	(void)state;
	static const struct {
		const char *cert, *key, *why;
	} cases[] = {
	    {"server", "locked", "it has a passphrase"},
	    {"server", "formerly", "it has a passphrase"},
	    {"rsa", "rsa_formerly", "it has a passphrase"},
	    {"rsa", "server", "does not belong to"},
	    {"rsa", "ed25519", "does not belong to"},
	    {"server", "p384", "does not belong to"},
	};
	for (size_t i = 0; i < N_OF(cases); i++) {
		struct svc_tls_config tls = {
		    .cert = test_pki_path(&tls_suite.pki, cases[i].cert, "pem"),
		    .key = test_pki_path(&tls_suite.pki, cases[i].key, "key")};
		struct tls_end *end;
		struct svc_error err = {0};
		assert_int_equal(tls_end_try(&tls, &end, &err), SVC_E_INVAL);
		if (strstr(err.text, cases[i].why) == NULL)
			fail_msg("\"%s\" does not say \"%s\"", err.text,
			    cases[i].why);
	}
}

int
svc_conformance_tls_chain(const char *title)
{
	static const struct CMUnitTest tests[] = {
	    tls_test(those_between_are_sent_along),
	    tls_test(a_file_may_have_several_authorities),
	    tls_test(keys_may_be_of_any_kind),
	    tls_test(files_may_be_written_in_several_ways),
	    tls_test(a_certificate_is_for_what_it_says),
	    tls_test(names_are_compared_whole),
	    tls_test(a_key_with_a_passphrase_is_refused),
	};
	if (!issue() || !join())
		return 1;
	return cmocka_run_group_tests_name(title, tests, NULL, NULL);
}
