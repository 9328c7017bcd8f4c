/* SPDX-License-Identifier: Apache-2.0 */
/* Files that change, by a clock of the test's: what is in use stays until there
 * is something better. */
#include "support/pki.h"
#include "tls.h"

#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <svc/base.h>
#include <svc/clock.h>
#include <svc/log.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NOBODY 65534

static struct test_pki pki;
static struct svc_tls_config config;
static struct tls_files *files;
static int complaints, changes;
static char complaint[300];

static void
note(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	if (strcmp(line->id, "tls.reload") != 0)
		return;
	if (line->level == SVC_LOG_ERROR) {
		complaints++;
		snprintf(complaint, sizeof(complaint), "%s", line->text);
	} else {
		changes++;
	}
}

/* As a new connection would, two seconds later: the name in the certificate. */
static const char *
name_in_use(void)
{
	static char name[64];
	svc_clock_advance(2000);
	SSL_CTX *context = tls_files_context(files);
	X509_NAME_get_text_by_NID(
	    X509_get_subject_name(SSL_CTX_get0_certificate(context)),
	    NID_commonName, name, sizeof(name));
	SSL_CTX_free(context);
	return name;
}

static void
write_pair(const char *name)
{
	assert_true(test_pki_issue(
	    &pki, &(struct test_certificate){
		      .name = "fresh", .cn = name, .issuer = "ca"}));
}

/* FRESH.pem or .key comes into the place of the one in use. */
static void
put(const char *ending)
{
	char to[160];
	snprintf(to, sizeof(to), "%s", test_pki_path(&pki, "used", ending));
	assert_int_equal(rename(test_pki_path(&pki, "fresh", ending), to), 0);
}

static int
set_up(void **state)
{
	static char paths[3][160];
	struct svc_error err = {0};
	(void)state;
	if (!test_pki_create(&pki))
		return -1;
	write_pair("first");
	put("pem");
	put("key");
	snprintf(paths[0], 160, "%s", test_pki_path(&pki, "used", "pem"));
	snprintf(paths[1], 160, "%s", test_pki_path(&pki, "used", "key"));
	snprintf(paths[2], 160, "%s", test_pki_path(&pki, "ca", "pem"));
	config = (struct svc_tls_config){
	    .cert = paths[0], .key = paths[1], .ca = paths[2]};
	svc_clock_manual();
	svc_log_set_sink(note, NULL);
	complaints = changes = 0;
	return tls_files_create(&config, &files, &err) == SVC_OK ? 0 : -1;
}

static int
tear_down(void **state)
{
	(void)state;
	svc_log_set_sink(NULL, NULL);
	svc_clock_real();
	tls_files_destroy(files);
	test_pki_remove(&pki);
	return 0;
}

static void
assert_still(const char *name, int complained, const char *why)
{
	for (int i = 0; i < 3; i++)
		assert_string_equal(name_in_use(), name);
	assert_int_equal(complaints, complained);
	if (strstr(complaint, why) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", complaint, why);
}

static void
either_of_a_pair_may_come_first(void **state)
{
	(void)state;
	static const char *const orders[][2] = {{"key", "pem"}, {"pem", "key"}};
	const char *before = "first";
	for (int i = 0; i < 2; i++) {
		const char *next = i == 0 ? "second" : "third";
		write_pair(next);
		put(orders[i][0]);
		assert_still(before, i + 1, "does not belong to");
		put(orders[i][1]);
		assert_string_equal(name_in_use(), next);
		assert_int_equal(changes, i + 1);
		before = next;
	}
}

static void
half_a_file_is_none(void **state)
{
	(void)state;
	static const char *const parts[] = {"half"};
	write_pair("second");
	FILE *file = fopen(test_pki_path(&pki, "fresh", "key"), "r");
	char bytes[100];
	assert_non_null(file);
	assert_int_equal(fread(bytes, 1, sizeof(bytes), file), sizeof(bytes));
	fclose(file);
	char path[160];
	snprintf(path, sizeof(path), "%s/half", pki.dir);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, sizeof(bytes), file), sizeof(bytes));
	fclose(file);
	put("pem");
	assert_true(test_pki_join(&pki, "used.key", parts, 1, false));
	assert_still("first", 1, "used.key\" (--tls_key)");
	put("key");
	assert_string_equal(name_in_use(), "second");
	assert_int_equal(complaints, 1);
}

static void
one_that_is_gone_is_missed_once_each_time(void **state)
{
	(void)state;
	static const char *const endings[] = {"pem", "key"};
	char away[160];
	snprintf(away, sizeof(away), "%s/away", pki.dir);
	for (int i = 0; i < 4; i++) {
		char path[160];
		snprintf(path, sizeof(path), "%s",
		    test_pki_path(&pki, "used", endings[i / 2]));
		assert_int_equal(rename(path, away), 0);
		assert_still("first", i + 1, "No such file");
		assert_int_equal(rename(away, path), 0);
		assert_still("first", i + 1, "No such file");
	}
	assert_int_equal(changes, 0);
}

static void
one_that_may_not_be_read_is_taken_when_it_may(void **state)
{
	(void)state;
	bool root = geteuid() == 0;
	write_pair("second");
	assert_int_equal(chmod(pki.dir, 0711), 0);
	assert_int_equal(chmod(config.cert, 0644), 0);
	assert_int_equal(chmod(config.ca, 0644), 0);
	put("pem");
	put("key");
	assert_int_equal(chmod(config.cert, 0644), 0);
	assert_int_equal(chmod(config.key, 0), 0);
	if (root)
		assert_int_equal(seteuid(NOBODY), 0);
	for (int i = 0; i < 3; i++)
		name_in_use();
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(complaints, 1);
	assert_non_null(strstr(complaint, "Permission denied"));
	assert_int_equal(chmod(config.key, 0644), 0);
	if (root)
		assert_int_equal(seteuid(NOBODY), 0);
	const char *name = name_in_use();
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_string_equal(name, "second");
	assert_int_equal(complaints, 1);
}

static void
a_changed_authority_counts(void **state)
{
	(void)state;
	SSL_CTX *before = tls_files_context(files);
	assert_true(test_pki_issue(
	    &pki, &(struct test_certificate){
		      .name = "ca", .cn = "Another authority", .ca = true}));
	name_in_use();
	SSL_CTX *after = tls_files_context(files);
	/* Another context: what was trusted once is not known to it. */
	assert_ptr_not_equal(before, after);
	assert_int_equal(
	    sk_X509_NAME_num(SSL_CTX_get_client_CA_list(after)), 1);
	char name[100];
	X509_NAME_oneline(
	    sk_X509_NAME_value(SSL_CTX_get_client_CA_list(after), 0), name,
	    sizeof(name));
	assert_string_equal(name, "/CN=Another authority");
	SSL_CTX_free(before);
	SSL_CTX_free(after);
}

#define FILES_TEST(function) \
	cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int
main(void)
{
	static const struct CMUnitTest tests[] = {
	    FILES_TEST(either_of_a_pair_may_come_first),
	    FILES_TEST(half_a_file_is_none),
	    FILES_TEST(one_that_is_gone_is_missed_once_each_time),
	    FILES_TEST(one_that_may_not_be_read_is_taken_when_it_may),
	    FILES_TEST(a_changed_authority_counts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
