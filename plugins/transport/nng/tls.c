/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nng takes certificates as texts, into an object for each dialer or listener.
 * It does not say what it dislikes, and takes a key that belongs to another
 * certificate; so the texts are tried here first, with the library that nng
 * itself uses.
 *
 * self->mutex guards all that changes: the texts and what is known of the
 * files.
 */
#include "tls.h"

#include <errno.h>
#include <mbedtls/error.h>
#include <mbedtls/pk.h>
#include <mbedtls/x509_crt.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <svc/buf.h>
#include <svc/clock.h>
#include <svc/log.h>
#include <sys/stat.h>

#define LOOK_MS 1000
#define MAX_FILE (4u << 20)

/* Where systems keep the CAs they trust. */
static const char *const system_files[] = {
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
};

enum { CERT, KEY, CA, N_FILES };
static const struct {
	const char *what, *flag;
} names[N_FILES] = {
    [CERT] = {"certificate", "--tls_cert"},
    [KEY] = {"key", "--tls_key"},
    [CA] = {"CA certificate", "--tls_ca"},
};

struct stamp {
	struct timespec changed;
	off_t size;
	ino_t inode;
};

struct certificates {
	const struct svc_tls_config *config;
	pthread_mutex_t mutex;
	char *texts[N_FILES]; /* NULL: not given */
	struct stamp stamps[N_FILES], bad[N_FILES];
	int64_t looked_at_ms;
	unsigned generation;
};

static void
paths_of(const struct svc_tls_config *config, const char *paths[N_FILES])
{
	paths[CERT] = config->cert;
	paths[KEY] = config->key;
	paths[CA] = config->ca;
}

static void
look(const struct svc_tls_config *config, struct stamp stamps[N_FILES])
{
	const char *paths[N_FILES];
	paths_of(config, paths);
	memset(stamps, 0, N_FILES * sizeof(*stamps));
	for (int i = 0; i < N_FILES; i++) {
		struct stat st;
		if (paths[i] == NULL || stat(paths[i], &st) != 0)
			continue;
		stamps[i].changed = st.st_mtim;
		stamps[i].size = st.st_size;
		stamps[i].inode = st.st_ino;
	}
}

static bool
same(const struct stamp *a, const struct stamp *b)
{
	for (int i = 0; i < N_FILES; i++)
		if (a[i].changed.tv_sec != b[i].changed.tv_sec ||
		    a[i].changed.tv_nsec != b[i].changed.tv_nsec ||
		    a[i].size != b[i].size || a[i].inode != b[i].inode)
			return false;
	return true;
}

static svc_err
read_file(int which, const char *path, char **ret_text, struct svc_error *err)
{
	struct svc_buf text;
	char piece[4096];
	size_t n;
	errno = 0;
	FILE *file = fopen(path, "re");
	svc_buf_init(&text, MAX_FILE);
	while (file != NULL && (n = fread(piece, 1, sizeof(piece), file)) > 0)
		svc_buf_append(&text, piece, n);
	int sys = errno;
	bool good = file != NULL && ferror(file) == 0;
	if (file != NULL)
		fclose(file);
	svc_buf_putc(&text, 0);
	if (good && text.failed == SVC_OK) {
		*ret_text = svc_buf_take(&text, &n);
		return SVC_OK;
	}
	svc_buf_fini(&text);
	return svc_error_set(err, SVC_E_INVAL, "%s \"%s\" (%s): %s",
	    names[which].what, path, names[which].flag,
	    good ? "it is too large" : strerror(sys));
}

static svc_err
refuse(
    const char *const paths[N_FILES], int which, int rv, struct svc_error *err)
{
	char reason[128] = "only some of it can be read";
	if (rv < 0)
		mbedtls_strerror(rv, reason, sizeof(reason));
	return svc_error_set(err, SVC_E_INVAL, "%s \"%s\" (%s): %s; it must %s",
	    names[which].what, paths[which], names[which].flag, reason,
	    which == KEY ? "be a PEM private key without a passphrase"
			 : "hold PEM certificates");
}

static int
parse_key(mbedtls_pk_context *key, const char *text)
{
	return mbedtls_pk_parse_key(
	    key, (const unsigned char *)text, strlen(text) + 1, NULL, 0);
}

/* Whether mbedTLS can use the texts, and the key is the certificate's. */
static svc_err
try(const struct svc_tls_config *config, char *const texts[N_FILES],
    struct svc_error *err)
{
	const char *paths[N_FILES];
	svc_err rc = SVC_OK;
	mbedtls_x509_crt cert, ca;
	mbedtls_pk_context key;
	mbedtls_x509_crt_init(&cert);
	mbedtls_x509_crt_init(&ca);
	mbedtls_pk_init(&key);
	paths_of(config, paths);
	int rv = 0;
	if (config->ca != NULL) {
		rv = mbedtls_x509_crt_parse(&ca,
		    (const unsigned char *)texts[CA], strlen(texts[CA]) + 1);
		if (rv != 0)
			rc = refuse(paths, CA, rv, err);
	}
	if (rc == SVC_OK && config->cert != NULL) {
		rv = mbedtls_x509_crt_parse(&cert,
		    (const unsigned char *)texts[CERT],
		    strlen(texts[CERT]) + 1);
		if (rv != 0)
			rc = refuse(paths, CERT, rv, err);
		rv = parse_key(&key, texts[KEY]);
		if (rc == SVC_OK && rv != 0)
			rc = refuse(paths, KEY, rv, err);
		if (rc == SVC_OK && mbedtls_pk_check_pair(&cert.pk, &key) != 0)
			rc = svc_error_set(err, SVC_E_INVAL,
			    "key \"%s\" (--tls_key) does not belong to "
			    "certificate \"%s\" (--tls_cert); give the two of "
			    "one pair",
			    config->key, config->cert);
		if (rc == SVC_OK && mbedtls_x509_time_is_past(&cert.valid_to))
			svc_log(SVC_LOG_WARN, "tls.expired",
			    "certificate \"%s\" has expired: peers will refuse "
			    "it; replace the file, no restart is needed",
			    config->cert);
	}
	mbedtls_pk_free(&key);
	mbedtls_x509_crt_free(&ca);
	mbedtls_x509_crt_free(&cert);
	return rc;
}

static void
free_texts(char *texts[N_FILES])
{
	for (int i = 0; i < N_FILES; i++) {
		if (texts[i] != NULL)
			explicit_bzero(texts[i], strlen(texts[i]));
		svc_mem_free(texts[i]);
		texts[i] = NULL;
	}
}

static svc_err
load(const struct svc_tls_config *config, char *texts[N_FILES],
    struct svc_error *err)
{
	const char *paths[N_FILES];
	svc_err rc = SVC_OK;
	paths_of(config, paths);
	for (int i = 0; i < N_FILES && rc == SVC_OK; i++)
		if (paths[i] != NULL)
			rc = read_file(i, paths[i], &texts[i], err);
	for (size_t i = 0; i < sizeof(system_files) / sizeof(*system_files) &&
			   rc == SVC_OK && texts[CA] == NULL;
	     i++)
		read_file(CA, system_files[i], &texts[CA], NULL);
	if (rc == SVC_OK)
		rc = try(config, texts, err);
	if (rc != SVC_OK)
		free_texts(texts);
	return rc;
}

svc_err
certificates_create(const struct svc_tls_config *config,
    struct certificates **ret, struct svc_error *err)
{
	if ((config->cert == NULL) != (config->key == NULL))
		return svc_error_set(err, SVC_E_INVAL,
		    "TLS needs a certificate and its key: %s is missing",
		    config->cert == NULL ? "--tls_cert" : "--tls_key");
	struct certificates *self = svc_mem_calloc(1, sizeof(*self));
	if (self == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	self->config = config;
	self->looked_at_ms = svc_now_ms();
	look(config, self->stamps);
	svc_err rc = load(config, self->texts, err);
	if (rc != SVC_OK) {
		svc_mem_free(self);
		return rc;
	}
	pthread_mutex_init(&self->mutex, NULL);
	*ret = self;
	return SVC_OK;
}

void
certificates_destroy(struct certificates *self)
{
	if (self == NULL)
		return;
	free_texts(self->texts);
	pthread_mutex_destroy(&self->mutex);
	svc_mem_free(self);
}

/* With the mutex. */
static void
refresh(struct certificates *self)
{
	int64_t now_ms = svc_now_ms();
	if (now_ms - self->looked_at_ms < LOOK_MS)
		return;
	self->looked_at_ms = now_ms;
	struct stamp now[N_FILES];
	look(self->config, now);
	if (same(now, self->stamps))
		return;
	char *texts[N_FILES] = {0};
	struct svc_error err = {0};
	if (load(self->config, texts, &err) != SVC_OK) {
		if (!same(now, self->bad))
			svc_log(SVC_LOG_ERROR, "tls.reload",
			    "the changed certificate files cannot be used, the "
			    "old ones stay in use: %s",
			    err.text);
		memcpy(self->bad, now, sizeof(now));
		return;
	}
	svc_log(SVC_LOG_INFO, "tls.reload",
	    "the certificate files have changed: new connections use them");
	free_texts(self->texts);
	memcpy(self->texts, texts, sizeof(texts));
	memcpy(self->stamps, now, sizeof(now));
	self->generation++;
}

bool
certificates_changed(struct certificates *self, unsigned generation)
{
	pthread_mutex_lock(&self->mutex);
	refresh(self);
	bool changed = self->generation != generation;
	pthread_mutex_unlock(&self->mutex);
	return changed;
}

/* With the mutex. */
static int
fill(struct certificates *self, const char *host, nng_tls_config *into)
{
	const struct svc_tls_config *config = self->config;
	/* In nng's "optional" a certificate that is no good would be taken as
	 * well as none; so it is all or nothing. */
	bool verify =
	    host != NULL || (config->ca != NULL && !config->anonymous);
	int rv = nng_tls_config_version(into, NNG_TLS_1_2, NNG_TLS_1_3);
	if (rv != 0) /* this nng knows no 1.3 */
		rv = nng_tls_config_version(into, NNG_TLS_1_2, NNG_TLS_1_2);
	if (rv == 0 && self->texts[CA] != NULL && verify)
		rv = nng_tls_config_ca_chain(into, self->texts[CA], NULL);
	if (rv == 0 && self->texts[CERT] != NULL)
		rv = nng_tls_config_own_cert(
		    into, self->texts[CERT], self->texts[KEY], NULL);
	if (rv == 0 && host != NULL)
		rv = nng_tls_config_server_name(
		    into, config->name != NULL ? config->name : host);
	if (rv == 0)
		rv = nng_tls_config_auth_mode(
		    into, verify ? NNG_TLS_AUTH_MODE_REQUIRED
				 : NNG_TLS_AUTH_MODE_NONE);
	return rv;
}

int
certificates_config(struct certificates *self, const char *host,
    nng_tls_config **ret_config, unsigned *ret_generation)
{
	nng_tls_config *made;
	int rv = nng_tls_config_alloc(
	    &made, host != NULL ? NNG_TLS_MODE_CLIENT : NNG_TLS_MODE_SERVER);
	if (rv != 0)
		return rv;
	pthread_mutex_lock(&self->mutex);
	refresh(self);
	rv = fill(self, host, made);
	*ret_generation = self->generation;
	pthread_mutex_unlock(&self->mutex);
	if (rv != 0)
		nng_tls_config_free(made);
	else
		*ret_config = made;
	return rv;
}
