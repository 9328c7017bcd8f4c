/* SPDX-License-Identifier: Apache-2.0 */
/* A session with a peer that is OpenSSL alone and does what none of svc does.
 */
#include "support/pki.h"
#include "tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <svc/base.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct test_pki pki;

/* Our session and a stranger's, with a socket between them. */
struct meeting {
	struct svc_tls_config config;
	struct tls_files *files;
	struct tls *tls;
	SSL *ssl;
	int fd[2];
	tls_step step; /* the last one of ours */
	int done;      /* what SSL_do_handshake said last */
};

static void
prepare(struct meeting *with)
{
	struct svc_error err = {0};
	memset(with, 0, sizeof(*with));
	with->config = (struct svc_tls_config){
	    .cert = test_pki_path(&pki, "student", "pem"),
	    .key = test_pki_path(&pki, "student", "key"),
	    .ca = test_pki_path(&pki, "ca", "pem"),
	    .anonymous = true};
	if (tls_files_create(&with->config, &with->files, &err) != SVC_OK)
		fail_msg("%s", err.text);
	with->fd[0] = with->fd[1] = -1;
}

static SSL_CTX *
make_stranger(bool serves)
{
	SSL_CTX *context =
	    SSL_CTX_new(serves ? TLS_server_method() : TLS_client_method());
	assert_non_null(context);
	assert_int_equal(SSL_CTX_use_certificate_chain_file(
			     context, test_pki_path(&pki, "student", "pem")),
	    1);
	assert_int_equal(
	    SSL_CTX_use_PrivateKey_file(context,
		test_pki_path(&pki, "student", "key"), SSL_FILETYPE_PEM),
	    1);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_BOTH);
	return context;
}

static void
part(struct meeting *with)
{
	tls_destroy(with->tls);
	SSL_free(with->ssl);
	for (int i = 0; i < 2; i++)
		if (with->fd[i] >= 0)
			close(with->fd[i]);
	with->tls = NULL;
	with->ssl = NULL;
}

/* Both shake hands, as far as they come. */
static void
meet(struct meeting *with, SSL_CTX *stranger, const char *host,
    SSL_SESSION *before)
{
	with->ssl = SSL_new(stranger);
	with->tls = tls_create(with->files, host, "peer");
	assert_non_null(with->ssl);
	assert_non_null(with->tls);
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, with->fd), 0);
	tls_use_socket(with->tls, with->fd[0]);
	assert_int_equal(SSL_set_fd(with->ssl, with->fd[1]), 1);
	if (host != NULL)
		SSL_set_accept_state(with->ssl);
	else
		SSL_set_connect_state(with->ssl);
	if (before != NULL)
		assert_int_equal(SSL_set_session(with->ssl, before), 1);
	with->step = TLS_WANT_READ;
	for (int turn = 0; turn < 20; turn++) {
		with->done = SSL_do_handshake(with->ssl);
		if (with->step != TLS_DONE && with->step != TLS_FAILED)
			with->step = tls_shake(with->tls);
	}
}

static void
assert_met(const struct meeting *with)
{
	assert_int_equal(with->step, TLS_DONE);
	assert_int_equal(with->done, 1);
}

/* A few bytes go each way. */
static void
assert_talks(struct meeting *with)
{
	char bytes[16];
	assert_int_equal(tls_write(with->tls, "hello", 5), 5);
	assert_int_equal(SSL_read(with->ssl, bytes, sizeof(bytes)), 5);
	assert_int_equal(SSL_write(with->ssl, "hello you", 9), 9);
	assert_int_equal(tls_read(with->tls, bytes, sizeof(bytes)), 9);
}

static void
part_for_good(struct meeting *with, SSL_CTX *stranger)
{
	part(with);
	tls_files_destroy(with->files);
	SSL_CTX_free(stranger);
}

/* ---------------------------------------------------------------- versions */

static void
older_peers_are_met_with_forward_secrecy(void **state)
{
	(void)state;
	for (int serves = 0; serves < 2; serves++) {
		struct meeting with;
		SSL_CTX *stranger = make_stranger(serves == 1);
		SSL_CTX_set_max_proto_version(stranger, TLS1_2_VERSION);
		prepare(&with);
		meet(&with, stranger, serves ? "student" : NULL, NULL);
		assert_met(&with);
		assert_int_equal(SSL_version(with.ssl), TLS1_2_VERSION);
		assert_non_null(strstr(SSL_get_cipher_name(with.ssl), "ECDHE"));
		assert_talks(&with);
		part_for_good(&with, stranger);
	}
}

static void
still_older_ones_are_refused(void **state)
{
	(void)state;
	static const struct {
		int most;
		const char *ciphers, *why;
	} cases[] = {
	    {TLS1_1_VERSION, "ALL:@SECLEVEL=0", "unsupported protocol"},
	    {TLS1_2_VERSION, "AES128-GCM-SHA256", "no shared cipher"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct meeting with;
		struct tls_failure why;
		SSL_CTX *stranger = make_stranger(false);
		SSL_CTX_set_min_proto_version(stranger, TLS1_VERSION);
		SSL_CTX_set_max_proto_version(stranger, cases[i].most);
		assert_int_equal(
		    SSL_CTX_set_cipher_list(stranger, cases[i].ciphers), 1);
		prepare(&with);
		meet(&with, stranger, NULL, NULL);
		assert_int_equal(with.step, TLS_FAILED);
		assert_true(tls_reason(with.tls, &why));
		if (strstr(why.text, cases[i].why) == NULL)
			fail_msg("\"%s\" does not say \"%s\"", why.text,
			    cases[i].why);
		part_for_good(&with, stranger);
	}
}

/* ------------------------------------------------------------------- names */

static int
keep_name(SSL *ssl, int *alert, void *arg)
{
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	char *kept = arg;
	(void)alert;
	strncpy(kept, name != NULL ? name : "-", 63);
	return SSL_TLSEXT_ERR_OK;
}

static void
the_name_that_is_asked_for_is_sent(void **state)
{
	(void)state;
	static const struct {
		const char *host, *name, *sent;
	} cases[] = {
	    {"student", NULL, "student"},
	    {"127.0.0.1", "student", "student"},
	    {"127.0.0.1", NULL, "-"}, /* none of numbers: RFC 6066 */
	    {"::1", NULL, "-"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct meeting with;
		char seen[64] = "";
		SSL_CTX *stranger = make_stranger(true);
		SSL_CTX_set_tlsext_servername_callback(stranger, keep_name);
		SSL_CTX_set_tlsext_servername_arg(stranger, seen);
		prepare(&with);
		with.config.name = cases[i].name;
		meet(&with, stranger, cases[i].host, NULL);
		assert_met(&with);
		assert_string_equal(seen, cases[i].sent);
		part_for_good(&with, stranger);
	}
}

/* ------------------------------------------------------- what is not served */

/* Whom a certificate let in once is verified again. */
static void
nothing_is_resumed(void **state)
{
	(void)state;
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	for (size_t i = 0; i < 2; i++) {
		struct meeting with;
		SSL_CTX *stranger = make_stranger(false);
		SSL_CTX_set_max_proto_version(stranger, versions[i]);
		prepare(&with);
		meet(&with, stranger, NULL, NULL);
		assert_met(&with);
		assert_talks(&with);
		SSL_SESSION *session = SSL_get1_session(with.ssl);
		assert_false(SSL_SESSION_has_ticket(session));
		SSL_shutdown(with.ssl);
		part(&with);
		meet(&with, stranger, NULL, session);
		assert_met(&with);
		assert_false(SSL_session_reused(with.ssl));
		assert_string_equal(tls_identity(with.tls), "student");
		SSL_SESSION_free(session);
		part_for_good(&with, stranger);
	}
}

static void
a_handshake_is_not_done_again(void **state)
{
	(void)state;
	for (int serves = 0; serves < 2; serves++) {
		struct meeting with;
		char bytes[16];
		SSL_CTX *stranger = make_stranger(serves == 1);
		SSL_CTX_set_max_proto_version(stranger, TLS1_2_VERSION);
		prepare(&with);
		meet(&with, stranger, serves ? "student" : NULL, NULL);
		assert_met(&with);
		assert_int_equal(SSL_renegotiate(with.ssl), 1);
		SSL_do_handshake(with.ssl);
		assert_int_equal(tls_read(with.tls, bytes, sizeof(bytes)), -1);
		assert_int_equal(errno, EAGAIN);
		/* Who asks is told; that it gives up then is OpenSSL's way. */
		ERR_clear_error();
		assert_int_equal(SSL_read(with.ssl, bytes, sizeof(bytes)), -1);
		assert_int_equal(
		    ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
		assert_int_equal(tls_write(with.tls, "hello", 5), 5);
		part_for_good(&with, stranger);
	}
}

static void
a_certificate_is_not_asked_for_later(void **state)
{
	(void)state;
	struct meeting with;
	SSL_CTX *stranger = make_stranger(true);
	prepare(&with);
	meet(&with, stranger, "student", NULL);
	assert_met(&with);
	SSL_set_verify(with.ssl, SSL_VERIFY_PEER, NULL);
	assert_int_equal(SSL_verify_client_post_handshake(with.ssl), 0);
	assert_talks(&with);
	part_for_good(&with, stranger);
}

static int
set_up(void **state)
{
	static const struct test_certificate student = {.name = "student",
	    .issuer = "ca",
	    .san = "DNS:student,IP:127.0.0.1,IP:::1"};
	(void)state;
	return test_pki_create(&pki) && test_pki_issue(&pki, &student) ? 0 : -1;
}

static int
tear_down(void **state)
{
	(void)state;
	test_pki_remove(&pki);
	return 0;
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(older_peers_are_met_with_forward_secrecy),
	    cmocka_unit_test(still_older_ones_are_refused),
	    cmocka_unit_test(the_name_that_is_asked_for_is_sent),
	    cmocka_unit_test(nothing_is_resumed),
	    cmocka_unit_test(a_handshake_is_not_done_again),
	    cmocka_unit_test(a_certificate_is_not_asked_for_later),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
