/* SPDX-License-Identifier: Apache-2.0 */
/* A session by itself, on sockets that take less than a record, and without a
 * socket. */
#include "support/pki.h"
#include "tls.h"

#include <errno.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <svc/base.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* OpenSSL's buffers, for a record each. */
#define LARGE 16384
static int large; /* blocks of that size that OpenSSL has */

static void
count(void *block, int by)
{
	if (block != NULL && malloc_usable_size(block) >= LARGE)
		large += by;
}

static void *
get(size_t size, const char *file, int line)
{
	(void)file, (void)line;
	void *block = malloc(size);
	count(block, 1);
	return block;
}

static void
put(void *block, const char *file, int line)
{
	(void)file, (void)line;
	count(block, -1);
	free(block);
}

static void *
change(void *block, size_t size, const char *file, int line)
{
	(void)file, (void)line;
	count(block, -1);
	void *changed = realloc(block, size);
	count(changed != NULL ? changed : block, 1);
	return changed;
}

struct pair {
	struct test_pki pki;
	struct tls_files *files[2];
	struct tls *tls[2]; /* client, server */
	int fd[2];
};

static void
make(struct pair *pair)
{
	static const struct test_certificate server = {
	    .name = "student", .issuer = "ca", .san = "DNS:student"};
	static struct svc_tls_config configs[2];
	struct svc_error err;
	assert_true(test_pki_create(&pair->pki));
	assert_true(test_pki_issue(&pair->pki, &server));
	configs[0] = (struct svc_tls_config){
	    .ca = test_pki_path(&pair->pki, "ca", "pem")};
	configs[1] = (struct svc_tls_config){
	    .cert = test_pki_path(&pair->pki, "student", "pem"),
	    .key = test_pki_path(&pair->pki, "student", "key")};
	for (int i = 0; i < 2; i++) {
		pair->fd[i] = -1;
		assert_int_equal(
		    tls_files_create(&configs[i], &pair->files[i], &err),
		    SVC_OK);
		pair->tls[i] = tls_create(
		    pair->files[i], i == 0 ? "student" : NULL, "peer");
		assert_non_null(pair->tls[i]);
	}
}

static void
set_up(struct pair *pair)
{
	make(pair);
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair->fd), 0);
	for (int i = 0; i < 2; i++) {
		int size = 4096;
		assert_int_equal(setsockopt(pair->fd[i], SOL_SOCKET, SO_SNDBUF,
				     &size, sizeof(size)),
		    0);
		tls_use_socket(pair->tls[i], pair->fd[i]);
	}
	tls_step step[2] = {TLS_WANT_READ, TLS_WANT_READ};
	for (int turn = 0; turn < 100; turn++)
		for (int i = 0; i < 2; i++) {
			if (step[i] != TLS_DONE)
				step[i] = tls_shake(pair->tls[i]);
			assert_int_not_equal(step[i], TLS_FAILED);
		}
	assert_int_equal(step[0], TLS_DONE);
	assert_int_equal(step[1], TLS_DONE);
}

static void
tear_down(struct pair *pair)
{
	for (int i = 0; i < 2; i++) {
		tls_destroy(pair->tls[i]);
		tls_files_destroy(pair->files[i]);
		if (pair->fd[i] >= 0)
			close(pair->fd[i]);
	}
	test_pki_remove(&pair->pki);
}

static uint8_t
byte_at(size_t at)
{
	return (uint8_t)(at * 7 + at / 251);
}

/* Reads what there is, up to `most`; -1 when there is nothing now. */
static ssize_t
take(struct tls *tls, size_t *at, size_t most)
{
	uint8_t bytes[40000];
	ssize_t n =
	    tls_read(tls, bytes, most < sizeof(bytes) ? most : sizeof(bytes));
	if (n < 0)
		assert_int_equal(errno, EAGAIN);
	for (ssize_t i = 0; i < n; i++)
		if (bytes[i] != byte_at(*at + (size_t)i))
			fail_msg("byte %zu is wrong", *at + (size_t)i);
	*at += n > 0 ? (size_t)n : 0;
	return n;
}

static void
what_does_not_fit_follows(void **state)
{
	(void)state;
	enum { TOTAL = 2000000 };
	struct pair pair;
	set_up(&pair);
	uint8_t *data = malloc(TOTAL);
	assert_non_null(data);
	for (size_t i = 0; i < TOTAL; i++)
		data[i] = byte_at(i);
	static const size_t sizes[] = {
	    1, 100, 16384, 16385, 40000, 81920, 100000, 5};
	for (int from = 0; from < 2; from++) {
		size_t sent = 0, got = 0;
		int full = 0, turn = 0;
		while (sent < TOTAL) {
			size_t len = sizes[turn++ % 8];
			if (len > TOTAL - sent)
				len = TOTAL - sent;
			ssize_t n = tls_write(pair.tls[from], data + sent, len);
			if (n < 0) {
				assert_int_equal(errno, EAGAIN);
				turn--; /* the same bytes again */
				full++;
				take(pair.tls[!from], &got, 1 + got % 30000);
				continue;
			}
			assert_in_range(n, 1, len);
			sent += (size_t)n;
		}
		while (take(pair.tls[!from], &got, TOTAL) > 0)
			;
		assert_int_equal(got, TOTAL);
		assert_true(full > 100);
	}
	free(data);
	tear_down(&pair);
}

static bool
none(size_t size, void *arg)
{
	(void)size, (void)arg;
	return false;
}

static void
records_that_fit_are_not_copied(void **state)
{
	(void)state;
	struct pair pair;
	set_up(&pair);
	int size = 1 << 20;
	assert_int_equal(
	    setsockopt(pair.fd[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)),
	    0);
	static uint8_t data[81920];
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = byte_at(i);
	/* There is no memory for a copy. */
	svc_mem_set_hook(none, NULL);
	assert_int_equal(
	    tls_write(pair.tls[0], data, sizeof(data)), sizeof(data));
	svc_mem_set_hook(NULL, NULL);
	size_t got = 0;
	while (take(pair.tls[1], &got, sizeof(data)) > 0)
		;
	assert_int_equal(got, sizeof(data));
	tear_down(&pair);
}

static void
an_idle_session_keeps_no_buffers(void **state)
{
	(void)state;
	struct pair pair;
	uint8_t data[1000];
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = byte_at(i);
	int before = large;
	set_up(&pair);
	for (int turn = 0; turn < 3; turn++) {
		for (int i = 0; i < 2; i++) {
			size_t at = 0;
			assert_int_equal(
			    tls_write(pair.tls[i], data, sizeof(data)),
			    sizeof(data));
			assert_int_equal(take(pair.tls[!i], &at, sizeof(data)),
			    sizeof(data));
		}
		for (int i = 0; i < 2; i++) {
			size_t at = 0;
			assert_int_equal(take(pair.tls[i], &at, 1), -1);
			assert_false(tls_more(pair.tls[i]));
		}
		assert_int_equal(large, before);
	}
	tear_down(&pair);
}

/* What one session has to send comes to the other one, so much at a time. */
static void
carry(struct pair *pair, int from, size_t most)
{
	struct svc_buf wire;
	svc_buf_init(&wire, SIZE_MAX / 2);
	assert_int_equal(tls_take(pair->tls[from], &wire), SVC_OK);
	for (size_t at = 0, n; at < wire.len; at += n) {
		n = wire.len - at < most ? wire.len - at : most;
		assert_int_equal(
		    tls_put(pair->tls[!from], wire.data + at, n), SVC_OK);
		assert_int_not_equal(tls_shake(pair->tls[!from]), TLS_FAILED);
	}
	svc_buf_fini(&wire);
}

static void
nothing_else_moves_its_bytes(void **state)
{
	(void)state;
	static const size_t pieces[] = {1, 7, 1000, 100000};
	enum { TOTAL = 300000 };
	uint8_t *data = malloc(TOTAL);
	assert_non_null(data);
	for (size_t i = 0; i < TOTAL; i++)
		data[i] = byte_at(i);
	for (size_t k = 0; k < sizeof(pieces) / sizeof(*pieces); k++) {
		struct pair pair;
		make(&pair);
		assert_int_equal(tls_shake(pair.tls[0]), TLS_WANT_READ);
		for (int turn = 0; turn < 4; turn++)
			carry(&pair, turn % 2, pieces[k]);
		assert_int_equal(tls_shake(pair.tls[0]), TLS_DONE);
		assert_int_equal(tls_shake(pair.tls[1]), TLS_DONE);
		for (int from = 0; from < 2; from++) {
			size_t got = 0;
			for (size_t sent = 0; sent < TOTAL;) {
				ssize_t n = tls_write(
				    pair.tls[from], data + sent, TOTAL - sent);
				assert_in_range(n, 1, TOTAL - sent);
				sent += (size_t)n;
			}
			carry(&pair, from, pieces[k]);
			while (take(pair.tls[!from], &got, TOTAL) > 0)
				;
			assert_int_equal(got, TOTAL);
		}
		tls_close(pair.tls[0]);
		carry(&pair, 0, pieces[k]);
		assert_int_equal(tls_read(pair.tls[1], data, 1), 0);
		tear_down(&pair);
	}
	free(data);
}

static void
what_is_no_tls_is_told_apart(void **state)
{
	(void)state;
	static const struct {
		const char *bytes, *client, *server;
	} cases[] = {
	    {"\xf5svc frames", "speaks without TLS, which this client demands",
		"was refused: it speaks without TLS"},
	    {"GET / HTTP/1.1\r\n\r\n", "TLS with peer failed",
		"TLS with peer failed"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct pair pair;
		make(&pair);
		for (int side = 0; side < 2; side++) {
			struct tls_failure why;
			struct svc_buf wire;
			svc_buf_init(&wire, SIZE_MAX / 2);
			assert_int_equal(
			    tls_shake(pair.tls[side]), TLS_WANT_READ);
			assert_int_equal(tls_put(pair.tls[side], cases[i].bytes,
					     strlen(cases[i].bytes)),
			    SVC_OK);
			assert_int_equal(tls_shake(pair.tls[side]), TLS_FAILED);
			assert_true(tls_reason(pair.tls[side], &why));
			assert_non_null(strstr(why.text,
			    side == 0 ? cases[i].client : cases[i].server));
			assert_int_equal(
			    tls_take(pair.tls[side], &wire), SVC_OK);
			if (side == 1 && i == 0) { /* an alert says it */
				assert_true(wire.len > 0);
				assert_int_equal(wire.data[0], 0x15);
			}
			svc_buf_fini(&wire);
		}
		tear_down(&pair);
	}
}

/* A client that is OpenSSL alone, with the server of the pair. */
static SSL *
stranger(struct pair *pair, int *ret_fd)
{
	int fd[2];
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(context);
	SSL_CTX_free(context);
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	tls_use_socket(pair->tls[1], fd[1]);
	assert_int_equal(SSL_set_fd(ssl, fd[0]), 1);
	tls_step step = TLS_WANT_READ;
	for (int turn = 0; turn < 100; turn++) {
		SSL_connect(ssl);
		if (step != TLS_DONE)
			step = tls_shake(pair->tls[1]);
	}
	assert_int_equal(step, TLS_DONE);
	pair->fd[0] = fd[0];
	pair->fd[1] = fd[1];
	*ret_fd = fd[0];
	return ssl;
}

static void
change_keys(SSL *ssl)
{
	assert_int_equal(SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
	assert_int_equal(SSL_do_handshake(ssl), 1);
}

static void
keys_are_not_changed_without_end(void **state)
{
	(void)state;
	enum { MOST = 32, LEN = 16384 };
	static uint8_t bytes[LEN];
	struct pair pair;
	struct tls_failure why = {.gone = false};
	int fd;
	make(&pair);
	SSL *ssl = stranger(&pair, &fd);
	for (int i = 0; i < MOST - 1; i++)
		change_keys(ssl);
	assert_int_equal(tls_read(pair.tls[1], bytes, LEN), -1);
	assert_int_equal(errno, EAGAIN);
	/* As often as one likes, with data. */
	for (int i = 0; i < 4; i++) {
		size_t left = 1 << 20, n;
		while (left > 0) {
			ssize_t got;
			if (SSL_write_ex(ssl, bytes, LEN, &n) == 1)
				left -= n;
			while ((got = tls_read(pair.tls[1], bytes, LEN)) > 0)
				;
			assert_true(got < 0 && errno == EAGAIN);
		}
		change_keys(ssl);
	}
	assert_int_equal(tls_read(pair.tls[1], bytes, LEN), -1);
	assert_int_equal(errno, EAGAIN);
	/* But not for nothing. */
	for (int i = 0; i < MOST; i++)
		change_keys(ssl);
	assert_int_equal(tls_read(pair.tls[1], bytes, LEN), -1);
	assert_int_equal(errno, EPROTO);
	assert_true(tls_reason(pair.tls[1], &why));
	assert_true(why.broke);
	assert_non_null(strstr(why.text, "changes the keys"));
	SSL_free(ssl);
	tear_down(&pair);
}

static void
says(const struct svc_tls_config *config, const char *what)
{
	struct tls_files *files;
	struct svc_error err = {0};
	assert_int_equal(tls_files_create(config, &files, &err), SVC_E_INVAL);
	if (strstr(err.text, what) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", err.text, what);
}

/* Not in which part of OpenSSL it was found out. */
static void
it_is_said_what_a_file_lacks(void **state)
{
	(void)state;
	struct pair pair;
	char locked[128], command[400];
	make(&pair);
	struct svc_tls_config good = *tls_files_config(pair.files[1]);
	struct svc_tls_config bad = good;
	bad.cert = good.key;
	says(&bad, "none is in it");
	bad = good;
	bad.key = good.cert;
	says(&bad, "none is in it");
	bad.key = pair.pki.dir;
	says(&bad, "Is a directory");
	snprintf(locked, sizeof(locked), "%s/locked.key", pair.pki.dir);
	snprintf(command, sizeof(command),
	    "openssl pkey -in %s -aes128 -passout pass:word -out %s", good.key,
	    locked);
	assert_int_equal(system(command), 0);
	bad.key = locked;
	says(&bad, "it has a passphrase");
	tear_down(&pair);
}

int
main(void)
{
	if (CRYPTO_set_mem_functions(get, change, put) != 1)
		return 1;
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_does_not_fit_follows),
	    cmocka_unit_test(records_that_fit_are_not_copied),
	    cmocka_unit_test(an_idle_session_keeps_no_buffers),
	    cmocka_unit_test(nothing_else_moves_its_bytes),
	    cmocka_unit_test(what_is_no_tls_is_told_apart),
	    cmocka_unit_test(keys_are_not_changed_without_end),
	    cmocka_unit_test(it_is_said_what_a_file_lacks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
