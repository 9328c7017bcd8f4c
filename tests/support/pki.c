/* SPDX-License-Identifier: Apache-2.0 */
#include "support/pki.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DAY 86400L

const char *
test_pki_path(const struct test_pki *pki, const char *name, const char *ending)
{
	static char places[16][160];
	static unsigned next;
	char *place = places[next++ % 16];
	snprintf(place, sizeof(places[0]), "%s/%s.%s", pki->dir, name, ending);
	return place;
}

static bool
add_extension(X509 *of, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX context;
	X509V3_set_ctx_nodb(&context);
	X509V3_set_ctx(&context, issuer, of, NULL, NULL, 0);
	X509_EXTENSION *extension =
	    X509V3_EXT_conf_nid(NULL, &context, nid, value);
	bool good = extension != NULL && X509_add_ext(of, extension, -1) == 1;
	X509_EXTENSION_free(extension);
	return good;
}

/* Written beside and renamed, so that nobody reads half a file. */
static bool
save(const char *path, X509 *certificate, EVP_PKEY *key)
{
	char fresh[176];
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	FILE *file = fopen(fresh, "w");
	if (file == NULL)
		return false;
	bool good = certificate != NULL ? PEM_write_X509(file, certificate) == 1
					: PEM_write_PrivateKey(file, key, NULL,
					      NULL, 0, NULL, NULL) == 1;
	good = fclose(file) == 0 && good;
	return good && rename(fresh, path) == 0;
}

static EVP_PKEY *
load_key(const struct test_pki *pki, const char *name)
{
	EVP_PKEY *key = NULL;
	FILE *file = fopen(test_pki_path(pki, name, "key"), "r");
	if (file == NULL)
		return NULL;
	key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
	fclose(file);
	return key;
}

static bool
load(const struct test_pki *pki, const char *name, X509 **ret_certificate,
    EVP_PKEY **ret_key)
{
	FILE *file = fopen(test_pki_path(pki, name, "pem"), "r");
	if (file != NULL) {
		*ret_certificate = PEM_read_X509(file, NULL, NULL, NULL);
		fclose(file);
	}
	*ret_key = load_key(pki, name);
	return *ret_certificate != NULL && *ret_key != NULL;
}

static bool
fill(X509 *made, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key,
    const struct test_certificate *from)
{
	const char *cn = from->cn != NULL ? from->cn : from->name;
	long first = from->from_days, last = from->until_days;
	unsigned serial;
	if (first == 0 && last == 0) {
		first = -1;
		last = 1;
	}
	RAND_bytes((unsigned char *)&serial, sizeof(serial));
	X509_NAME *name = X509_get_subject_name(made);
	bool good =
	    X509_set_version(made, X509_VERSION_3) == 1 &&
	    ASN1_INTEGER_set(
		X509_get_serialNumber(made), (long)(serial >> 1)) == 1 &&
	    X509_gmtime_adj(X509_getm_notBefore(made), first * DAY) != NULL &&
	    X509_gmtime_adj(X509_getm_notAfter(made), last * DAY) != NULL &&
	    X509_NAME_add_entry_by_txt(name, *cn != '\0' ? "CN" : "O",
		MBSTRING_UTF8,
		(const unsigned char *)(*cn != '\0' ? cn : "test"), -1, -1,
		0) == 1 &&
	    X509_set_issuer_name(made, X509_get_subject_name(issuer)) == 1 &&
	    X509_set_pubkey(made, key) == 1;
	good = good && add_extension(made, issuer, NID_basic_constraints,
			   from->ca ? "critical,CA:TRUE" : "CA:FALSE");
	if (from->san != NULL)
		good = good && add_extension(made, issuer, NID_subject_alt_name,
				   from->san);
	if (from->usage != NULL)
		good = good && add_extension(made, issuer, NID_ext_key_usage,
				   from->usage);
	/* Ed25519 has a digest of its own. */
	bool is_plain = EVP_PKEY_get_id(issuer_key) == EVP_PKEY_ED25519;
	return good &&
	       X509_sign(made, issuer_key, is_plain ? NULL : EVP_sha256()) > 0;
}

static EVP_PKEY *
make_key(const struct test_pki *pki, const struct test_certificate *from)
{
	const char *kind = from->key != NULL ? from->key : "P-256";
	if (from->key_of != NULL)
		return load_key(pki, from->key_of);
	if (strcmp(kind, "RSA") == 0)
		return EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048);
	if (strcmp(kind, "ED25519") == 0)
		return EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	return EVP_PKEY_Q_keygen(NULL, NULL, "EC", kind);
}

bool
test_pki_issue(struct test_pki *pki, const struct test_certificate *certificate)
{
	EVP_PKEY *key = make_key(pki, certificate);
	EVP_PKEY *issuer_key = NULL;
	X509 *made = X509_new(), *issuer = NULL;
	bool own = certificate->issuer == NULL;
	bool good =
	    key != NULL && made != NULL &&
	    (own || load(pki, certificate->issuer, &issuer, &issuer_key)) &&
	    fill(made, key, own ? made : issuer, own ? key : issuer_key,
		certificate) &&
	    save(test_pki_path(pki, certificate->name, "pem"), made, NULL) &&
	    save(test_pki_path(pki, certificate->name, "key"), NULL, key);
	if (!good) {
		fprintf(stderr, "pki: cannot make \"%s\": %s\n",
		    certificate->name, strerror(errno));
		ERR_print_errors_fp(stderr);
	}
	EVP_PKEY_free(key);
	EVP_PKEY_free(issuer_key);
	X509_free(made);
	X509_free(issuer);
	return good;
}

bool
test_pki_copy(const struct test_pki *pki, const char *other, const char *name)
{
	X509 *certificate = NULL;
	FILE *file = fopen(test_pki_path(pki, other, "pem"), "r");
	if (file != NULL) {
		certificate = PEM_read_X509(file, NULL, NULL, NULL);
		fclose(file);
	}
	bool good = certificate != NULL &&
		    save(test_pki_path(pki, name, "pem"), certificate, NULL);
	X509_free(certificate);
	return good;
}

static void
write_part(FILE *from, FILE *to, bool foreign)
{
	int c;
	if (foreign)
		fputs("subject=/CN=a comment\r\n\r\n", to);
	while ((c = getc(from)) != EOF) {
		if (c == '\n' && foreign)
			putc('\r', to);
		putc(c, to);
	}
}

bool
test_pki_join(const struct test_pki *pki, const char *file,
    const char *const *parts, size_t n, bool foreign)
{
	char path[176], fresh[184];
	snprintf(path, sizeof(path), "%s/%s", pki->dir, file);
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	FILE *to = fopen(fresh, "w");
	bool good = to != NULL;
	for (size_t i = 0; i < n && good; i++) {
		char part[176];
		snprintf(part, sizeof(part), "%s/%s", pki->dir, parts[i]);
		FILE *from = fopen(part, "r");
		good = from != NULL;
		if (good) {
			write_part(from, to, foreign);
			fclose(from);
		}
	}
	good = to != NULL && fclose(to) == 0 && good;
	return good && rename(fresh, path) == 0;
}

bool
test_pki_lock(const struct test_pki *pki, const char *name, const char *locked,
    bool formerly)
{
	unsigned char word[] = "word";
	EVP_PKEY *key = load_key(pki, name);
	BIO *file = BIO_new_file(test_pki_path(pki, locked, "key"), "w");
	int done = 0;
	if (key != NULL && file != NULL && formerly)
		done = PEM_write_bio_PrivateKey_traditional(
		    file, key, EVP_aes_128_cbc(), word, 4, NULL, NULL);
	else if (key != NULL && file != NULL)
		done = PEM_write_bio_PKCS8PrivateKey(
		    file, key, EVP_aes_128_cbc(), (char *)word, 4, NULL, NULL);
	EVP_PKEY_free(key);
	BIO_free(file);
	return done == 1;
}

bool
test_pki_create(struct test_pki *pki)
{
	snprintf(pki->dir, sizeof(pki->dir), "/tmp/svc-pki-XXXXXX");
	if (mkdtemp(pki->dir) == NULL) {
		fprintf(stderr, "pki: %s: %s\n", pki->dir, strerror(errno));
		return false;
	}
	return test_pki_issue(
	    pki, &(struct test_certificate){
		     .name = "ca", .cn = "Test authority", .ca = true});
}

void
test_pki_remove(struct test_pki *pki)
{
	DIR *dir = opendir(pki->dir);
	struct dirent *entry;
	while (dir != NULL && (entry = readdir(dir)) != NULL)
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir != NULL)
		closedir(dir);
	rmdir(pki->dir);
}
