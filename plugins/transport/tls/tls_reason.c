/* SPDX-License-Identifier: Apache-2.0 */
/* Why a session failed, in words that tell what to do. */
#include "session.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void
session_say(struct tls *tls, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(tls->text, sizeof(tls->text), format, args);
	va_end(args);
}

/* The peer said why it gives up. */
static void
explain_alert(struct tls *tls, int alert)
{
	const char *what = tls->server ? "service" : "client";
	tls->refused = true;
	switch (alert) {
	case SSL_AD_CERTIFICATE_REQUIRED:
		session_say(tls,
		    "%s demands a certificate of this %s: give --tls_cert "
		    "and --tls_key",
		    tls->peer, what);
		break;
	case SSL_AD_BAD_CERTIFICATE:
	case SSL_AD_UNSUPPORTED_CERTIFICATE:
	case SSL_AD_CERTIFICATE_REVOKED:
	case SSL_AD_CERTIFICATE_EXPIRED:
	case SSL_AD_CERTIFICATE_UNKNOWN:
	case SSL_AD_UNKNOWN_CA:
	case SSL_AD_ACCESS_DENIED:
	case SSL_AD_DECRYPT_ERROR:
		session_say(tls, "%s refused the certificate of this %s: %s",
		    tls->peer, what, SSL_alert_desc_string_long(alert));
		break;
	default:
		session_say(tls, "%s ended the TLS handshake: %s", tls->peer,
		    SSL_alert_desc_string_long(alert));
	}
}

static bool
is_missing(int verified)
{
	return verified == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT ||
	       verified == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY;
}

int
session_verify(int good, X509_STORE_CTX *store)
{
	const SSL *ssl = X509_STORE_CTX_get_ex_data(
	    store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls *tls = SSL_get_app_data(ssl);
	X509 *at = X509_STORE_CTX_get_current_cert(store);
	if (good || at == NULL)
		return good;
	const X509_NAME *who = X509_get_subject_name(at);
	if (is_missing(X509_STORE_CTX_get_error(store)))
		who = X509_get_issuer_name(at);
	else if (X509_STORE_CTX_get_error_depth(store) == 0)
		return good;
	X509_NAME_oneline(who, tls->issuer, sizeof(tls->issuer));
	return good;
}

static void
explain_certificate(struct tls *tls, long verified)
{
	if (verified == X509_V_ERR_HOSTNAME_MISMATCH ||
	    verified == X509_V_ERR_IP_ADDRESS_MISMATCH)
		session_say(tls,
		    "certificate of %s was refused: it is not for \"%s\" (see "
		    "--tls_name)",
		    tls->peer, tls->host);
	else if (tls->issuer[0] != 0)
		session_say(tls,
		    "certificate of %s was refused: %s (%s \"%s\")", tls->peer,
		    X509_verify_cert_error_string(verified),
		    is_missing((int)verified)
			? "not in --tls_ca, nor sent along:"
			: "that of",
		    tls->issuer);
	else
		session_say(tls, "certificate of %s was refused: %s", tls->peer,
		    X509_verify_cert_error_string(verified));
}

void
session_explain(struct tls *tls)
{
	unsigned long code = ERR_peek_last_error();
	int reason =
	    ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
	long verified = SSL_get_verify_result(tls->ssl);
	tls->failed = true;
	if (tls->text[0] != 0)
		return;
	if (tls->extras > MOST_EXTRAS) {
		session_say(tls,
		    "%s changes the keys of TLS, or the like, more than %d "
		    "times without data",
		    tls->peer, MOST_EXTRAS);
		return;
	}
	if (reason > SSL_AD_REASON_OFFSET) {
		explain_alert(tls, reason - SSL_AD_REASON_OFFSET);
	} else if (!tls->shaken && reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
		explain_certificate(tls, verified);
	} else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
		session_say(
		    tls, "%s was refused: it showed no certificate", tls->peer);
	} else if (tls->sys != 0 || tls->eof) {
		tls->gone = true;
		session_say(tls,
		    tls->shaken ? "connection to %s lost: %s"
				: "%s left the TLS handshake: %s",
		    tls->peer,
		    tls->sys != 0 ? strerror(tls->sys) : "closed by the peer");
	} else {
		const char *why = ERR_reason_error_string(code);
		session_say(tls, "TLS with %s failed: %s", tls->peer,
		    why != NULL ? why : "unknown reason");
	}
}

bool
tls_reason(struct tls *tls, struct tls_failure *ret)
{
	char scratch[4096];
	size_t n;
	enter(tls);
	/* Whoever finds the connection broken while writing has not read what
	 * the peer said before. */
	if (!tls->failed && tls->ssl != NULL && tls->shaken) {
		ERR_clear_error();
		do {
			tls->drained = false;
			while (SSL_read_ex(
				   tls->ssl, scratch, sizeof(scratch), &n) == 1)
				tls->heard = true;
		} while (tls->drained && SSL_want_read(tls->ssl));
		if (SSL_get_error(tls->ssl, 0) == SSL_ERROR_SSL && !tls->eof &&
		    tls->sys == 0)
			session_explain(tls);
		ERR_clear_error();
	}
	bool has = tls->failed && tls->text[0] != 0;
	memcpy(ret->text, tls->text, sizeof(ret->text));
	ret->unheard = tls->refused && !tls->heard;
	ret->gone = tls->gone;
	ret->broke = tls->extras > MOST_EXTRAS;
	leave(tls);
	return has;
}
