/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONFORMANCE_TRANSPORT_TLS_END_H
#define SVC_CONFORMANCE_TRANSPORT_TLS_END_H

/* Two ends of connections with TLS, for the suite of transport_tls.h, and what
 * they log. */

#include "conformance/transport_tls.h"
#include "support/pki.h"

#include <pthread.h>

#include <svc/clock.h>
#include <svc/log.h>

#define WAIT_MS 20000
#define SOON_MS 8000 /* less than a handshake may take */

struct tls_suite {
	const struct svc_conformance_tls *setup;
	struct test_pki pki;
	int64_t handshake_ms; /* of the ends that are started; 0: default */
};
extern struct tls_suite tls_suite;

/* A transport of its own executor, with a listener or without. */
struct tls_end {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *listener;
	struct svc_tls_config tls;
	char paths[3][160]; /* of tls */
	pthread_mutex_t mutex;
	char identity[80]; /* of the last caller; "-" for none */
};

/* Files of the suite's certificates of these names; NULL: none. Valid for the
 * next few calls. */
struct svc_tls_config tls_of(const char *name, const char *ca);
/* A transport with this TLS, or NULL for none. Nothing is left of one that
 * fails. */
svc_err tls_end_try(struct tls_end *end, const struct svc_tls_config *tls,
    struct svc_error *err);
void tls_end_start(struct tls_end *end, const struct svc_tls_config *tls);
/* Answers who calls, and keeps who that was. */
svc_err tls_end_listen(struct tls_end *end, struct svc_error *err);
/* Both. */
void tls_end_serve(struct tls_end *end, const struct svc_tls_config *tls);
void tls_end_stop(struct tls_end *end);

struct tls_got {
	bool answered, not_run;
	svc_err code;
	char text[256];
};

void *tls_dial(struct tls_end *client, const char *address);
struct tls_got tls_call_on(struct tls_end *client, void *conn);
/* Dials anew and calls once. */
struct tls_got tls_call(struct tls_end *client, struct tls_end *server);
void assert_answered(const struct tls_got *got);
/* With `why` in the text, unless that is NULL. */
void assert_refused(const struct tls_got *got, const char *why);

/* A sink of the log that keeps all lines, as "id: text". */
void tls_keep_log(const struct svc_log_line *line, void *arg);
void tls_log_init(void);
void tls_clear_log(void);
bool tls_was_logged(const char *what);
bool tls_comes_to_be_logged(const char *what); /* before long */

/* How handshakes that are not finished, or many at once, are borne; a group of
 * the suite. */
int svc_conformance_tls_handshake(const char *title);

#endif
