/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TLS_SESSION_H
#define SVC_TLS_SESSION_H

/* A session, between tls.c, which moves its bytes, and tls_reason.c, which says
 * why it failed. */
#include "tls.h"

#include <openssl/ssl.h>
#include <pthread.h>
#include <svc/base.h>
#include <svc/buf.h>

#define AHEAD 2048 /* read beyond the record that is asked for */
/* Changes of keys and the like cost the one who reads them a hundred times as
 * much as their bytes: a peer has so many, and one more for so much data. */
#define MOST_EXTRAS 32

struct tls {
	struct tls_files *files;
	pthread_mutex_t gate, mutex;
	SSL *ssl;
	int fd; /* -1: there is none */
	bool server;
	bool shaken; /* the handshake is done */
	bool seen;   /* the peer's first byte was looked at */
	bool bare;   /* it was that of svc frames without TLS */
	bool heard;  /* something the peer said was read */
	bool eof, failed;
	bool refused; /* by an alert of the peer */
	bool gone;    /* the socket failed, not TLS */
	int extras;   /* records without data since the handshake */
	size_t data;  /* bytes that were read and count against those yet */
	bool more;
	bool drained; /* the socket had no more in this call */
	int sys;      /* errno of the socket */
	int unsent;   /* the same when it did not take something: what the peer
		       * said before can still be read */
	uint8_t ahead[AHEAD];
	size_t ahead_at, ahead_len; /* of what is left of it */
	struct svc_buf out;         /* to be sent, from `sent` on */
	size_t sent;
	struct svc_buf in; /* that came, from `in_at` on; without a socket */
	size_t in_at;
	size_t taken;      /* bytes of the caller's that were encrypted */
	bool direct, last; /* a record goes to the socket; no other follows */
	char *identity;
	char peer[80];
	char host[256];  /* that was dialled, or the name asked for */
	char issuer[80]; /* what is wrong with the peer's certificate is its
			  * issuer, or that of its issuer; "": it is not */
	char text[248];  /* why it failed */
};

/* In turn: without the gate a thread that writes without a pause would have the
 * mutex again before the one that waits for it has woken up. */
static inline void
enter(struct tls *tls)
{
	pthread_mutex_lock(&tls->gate);
	pthread_mutex_lock(&tls->mutex);
	pthread_mutex_unlock(&tls->gate);
}

static inline void
leave(struct tls *tls)
{
	pthread_mutex_unlock(&tls->mutex);
}

/* Why it failed, for tls_reason. */
void SVC_PRINTF(2, 3) session_say(struct tls *tls, const char *format, ...);
/* OpenSSL's callback for each certificate that is looked at. */
int session_verify(int good, X509_STORE_CTX *store);
/* With the mutex: after OpenSSL gave up. */
void session_explain(struct tls *tls);

#endif
