/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The certificates of a transport. A context is never changed: when a file has
 * changed a new one is made, and sessions that use the old one keep it.
 *
 * files->mutex guards the current context and when the files were looked at;
 * nothing blocks under it.
 */
#include "tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <svc/clock.h>
#include <svc/log.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_MS 1000

struct stamp { /* of one file, as it was when last looked at */
	struct timespec changed;
	off_t size;
	ino_t inode;
};
#define N_STAMPS 3

struct tls_files {
	const struct svc_tls_config *config;
	pthread_mutex_t mutex;
	SSL_CTX *context;
	struct stamp stamps[N_STAMPS]; /* what `context` was made of */
	struct stamp bad[N_STAMPS];    /* what could not be used */
	int64_t looked_at_ms;
};

static void
look(const struct svc_tls_config *config, struct stamp stamps[N_STAMPS])
{
	const char *paths[N_STAMPS] = {config->cert, config->key, config->ca};
	memset(stamps, 0, N_STAMPS * sizeof(*stamps));
	for (int i = 0; i < N_STAMPS; i++) {
		struct stat st;
		if (paths[i] == NULL || stat(paths[i], &st) != 0)
			continue;
		stamps[i].changed = st.st_mtim;
		stamps[i].size = st.st_size;
		stamps[i].inode = st.st_ino;
	}
}

static bool
same(const struct stamp a[N_STAMPS], const struct stamp b[N_STAMPS])
{
	for (int i = 0; i < N_STAMPS; i++)
		if (a[i].changed.tv_sec != b[i].changed.tv_sec ||
		    a[i].changed.tv_nsec != b[i].changed.tv_nsec ||
		    a[i].size != b[i].size || a[i].inode != b[i].inode)
			return false;
	return true;
}

/* ------------------------------------------------------------- one context */

/* The first error is the cause; those above it say in which part it was met. */
static const char *
first_reason(void)
{
	unsigned long code = ERR_peek_error();
	const char *reason = ERR_reason_error_string(code);
	int library = ERR_GET_LIB(code), number = ERR_GET_REASON(code);
	if ((library == ERR_LIB_PEM && number == PEM_R_NO_START_LINE) ||
	    (library == ERR_LIB_OSSL_DECODER && number == ERR_R_UNSUPPORTED))
		return "none is in it, in PEM";
	if (library == ERR_LIB_CRYPTO &&
	    number == ERR_R_INTERRUPTED_OR_CANCELLED)
		return "it has a passphrase";
	return reason != NULL ? reason : "unknown reason";
}

static svc_err
check_file(
    const char *path, const char *what, const char *flag, struct svc_error *err)
{
	struct stat st;
	/* Other than access() this asks with the rights that count. */
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int sys = fd < 0 ? errno : 0;
	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		sys = EISDIR;
	if (fd >= 0)
		close(fd);
	if (sys == 0)
		return SVC_OK;
	return svc_error_set(err, SVC_E_INVAL, "%s \"%s\" (%s): %s", what, path,
	    flag, strerror(sys));
}

static svc_err
load_own(SSL_CTX *context, const struct svc_tls_config *config,
    struct svc_error *err)
{
	svc_err rc = check_file(config->cert, "certificate", "--tls_cert", err);
	if (rc == SVC_OK)
		rc = check_file(config->key, "key", "--tls_key", err);
	if (rc != SVC_OK)
		return rc;
	ERR_clear_error();
	if (SSL_CTX_use_certificate_chain_file(context, config->cert) != 1)
		return svc_error_set(err, SVC_E_INVAL,
		    "certificate \"%s\" (--tls_cert): %s; it must hold PEM "
		    "certificates, the service's own first",
		    config->cert, first_reason());
	ERR_clear_error();
	bool fits = SSL_CTX_use_PrivateKey_file(
			context, config->key, SSL_FILETYPE_PEM) == 1;
	if (!fits &&
	    ERR_GET_REASON(ERR_peek_last_error()) != X509_R_KEY_VALUES_MISMATCH)
		return svc_error_set(err, SVC_E_INVAL,
		    "key \"%s\" (--tls_key): %s; it must be a PEM private key "
		    "without a passphrase",
		    config->key, first_reason());
	if (!fits || SSL_CTX_check_private_key(context) != 1)
		return svc_error_set(err, SVC_E_INVAL,
		    "key \"%s\" (--tls_key) does not belong to certificate "
		    "\"%s\" (--tls_cert); give the two of one pair",
		    config->key, config->cert);
	return SVC_OK;
}

static svc_err
load_ca(SSL_CTX *context, const struct svc_tls_config *config,
    struct svc_error *err)
{
	if (config->ca == NULL) {
		SSL_CTX_set_default_verify_paths(context);
		return SVC_OK;
	}
	svc_err rc = check_file(config->ca, "CA certificate", "--tls_ca", err);
	if (rc != SVC_OK)
		return rc;
	STACK_OF(X509_NAME) *names = NULL;
	if (SSL_CTX_load_verify_file(context, config->ca) == 1)
		names = SSL_load_client_CA_file(config->ca);
	if (names == NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "CA certificate \"%s\" (--tls_ca): %s; it must hold PEM "
		    "certificates",
		    config->ca, first_reason());
	/* Sent to clients, so that they can tell which one to show. */
	SSL_CTX_set_client_CA_list(context, names);
	/* Whoever is in the file is trusted, also without its own issuer. */
	X509_VERIFY_PARAM_set_flags(
	    SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
	return SVC_OK;
}

static int
no_passphrase(char *buf, int size, int writing, void *arg)
{
	(void)buf;
	(void)size;
	(void)writing;
	(void)arg;
	return -1;
}

/* A peer that offers protocols must offer ours; one that offers none is
 * known by its hello (not every TLS library can). */
static int
choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
    const unsigned char *in, unsigned in_len, void *arg)
{
	(void)ssl;
	(void)arg;
	for (unsigned at = 0; at < in_len; at += 1u + in[at]) {
		if (in[at] == 5 && in_len - at > 5 &&
		    memcmp(in + at + 1, "svc/1", 5) == 0) {
			*out = in + at + 1;
			*out_len = 5;
			return SSL_TLSEXT_ERR_OK;
		}
	}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static svc_err
load(const struct svc_tls_config *config, SSL_CTX **ret_context,
    struct svc_error *err)
{
	static const unsigned char protocols[] = "\x05svc/1";
	static const unsigned char session_id[] = "svc";
	ERR_clear_error();
	SSL_CTX *context = SSL_CTX_new(TLS_method());
	if (context == NULL)
		return svc_error_set(err, SVC_E_NOMEM,
		    "cannot start OpenSSL: %s", first_reason());
	SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
	/* Nothing is resumed: what was trusted once would not be verified
	 * again, and tickets are bytes that no client of ours uses. */
	SSL_CTX_set_options(context,
	    SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
	SSL_CTX_set_num_tickets(context, 0);
	SSL_CTX_set_mode(context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
				      SSL_MODE_ENABLE_PARTIAL_WRITE);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_session_id_context(
	    context, session_id, sizeof(session_id) - 1);
	SSL_CTX_set_alpn_protos(context, protocols, sizeof(protocols) - 1);
	SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
	SSL_CTX_set_default_passwd_cb(context, no_passphrase);
	svc_err rc =
	    SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1
		? SVC_OK
		: svc_error_set(
		      err, SVC_E_INTERNAL, "OpenSSL: %s", first_reason());
	if (rc == SVC_OK)
		rc = load_ca(context, config, err);
	if (rc == SVC_OK && config->cert != NULL)
		rc = load_own(context, config, err);
	ERR_clear_error();
	if (rc != SVC_OK)
		SSL_CTX_free(context);
	else
		*ret_context = context;
	return rc;
}

/* Peers will refuse it, but that is theirs to decide. */
static void
warn_of_dates(SSL_CTX *context, const char *path)
{
	const X509 *own = SSL_CTX_get0_certificate(context);
	if (own == NULL)
		return;
	if (X509_cmp_current_time(X509_get0_notAfter(own)) < 0)
		svc_log(SVC_LOG_WARN, "tls.expired",
		    "certificate \"%s\" has expired: peers will refuse it; "
		    "replace the file, no restart is needed",
		    path);
	else if (X509_cmp_current_time(X509_get0_notBefore(own)) > 0)
		svc_log(SVC_LOG_WARN, "tls.early",
		    "certificate \"%s\" is not valid yet: peers will refuse it",
		    path);
}

/* ------------------------------------------------------------------- files */

svc_err
tls_files_create(const struct svc_tls_config *config,
    struct tls_files **ret_files, struct svc_error *err)
{
	if ((config->cert == NULL) != (config->key == NULL))
		return svc_error_set(err, SVC_E_INVAL,
		    "TLS needs a certificate and its key: %s is missing",
		    config->cert == NULL ? "--tls_cert" : "--tls_key");
	struct tls_files *files = svc_mem_calloc(1, sizeof(*files));
	if (files == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	files->config = config;
	files->looked_at_ms = svc_now_ms();
	look(config, files->stamps);
	svc_err rc = load(config, &files->context, err);
	if (rc != SVC_OK) {
		svc_mem_free(files);
		return rc;
	}
	warn_of_dates(files->context, config->cert);
	pthread_mutex_init(&files->mutex, NULL);
	*ret_files = files;
	return SVC_OK;
}

void
tls_files_destroy(struct tls_files *files)
{
	if (files == NULL)
		return;
	SSL_CTX_free(files->context);
	pthread_mutex_destroy(&files->mutex);
	svc_mem_free(files);
}

const struct svc_tls_config *
tls_files_config(const struct tls_files *files)
{
	return files->config;
}

/* Makes a new context if the files have changed. One thread at a time: the
 * one that found the second over. */
static void
refresh(struct tls_files *files)
{
	struct stamp now[N_STAMPS];
	look(files->config, now);
	if (same(now, files->stamps)) {
		memset(files->bad, 0, sizeof(files->bad));
		return;
	}
	SSL_CTX *fresh = NULL;
	struct svc_error err = {0};
	if (load(files->config, &fresh, &err) != SVC_OK) {
		/* It may be half written: it is tried again, and said once. */
		if (!same(now, files->bad))
			svc_log(SVC_LOG_ERROR, "tls.reload",
			    "the changed certificate files cannot be used, the "
			    "old ones stay in use: %s",
			    err.text);
		memcpy(files->bad, now, sizeof(now));
		return;
	}
	memcpy(files->stamps, now, sizeof(now));
	svc_log(SVC_LOG_INFO, "tls.reload",
	    "the certificate files have changed: new connections use them");
	warn_of_dates(fresh, files->config->cert);
	pthread_mutex_lock(&files->mutex);
	SSL_CTX *old = files->context;
	files->context = fresh;
	pthread_mutex_unlock(&files->mutex);
	SSL_CTX_free(old);
}

void *
tls_files_context(struct tls_files *files)
{
	int64_t now_ms = svc_now_ms();
	pthread_mutex_lock(&files->mutex);
	bool due = now_ms - files->looked_at_ms >= LOOK_MS;
	if (due)
		files->looked_at_ms = INT64_MAX / 2; /* until it is done */
	pthread_mutex_unlock(&files->mutex);
	if (due)
		refresh(files);
	pthread_mutex_lock(&files->mutex);
	if (due)
		files->looked_at_ms = now_ms;
	SSL_CTX *context = files->context;
	SSL_CTX_up_ref(context);
	pthread_mutex_unlock(&files->mutex);
	return context;
}
