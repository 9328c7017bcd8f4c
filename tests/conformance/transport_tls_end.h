/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONFORMANCE_TRANSPORT_TLS_END_H
#define SVC_CONFORMANCE_TRANSPORT_TLS_END_H

/* Two ends of connections with TLS, for the suite of transport_tls.h, and what
 * they log. */

#include "conformance/transport_tls.h"
#include "support/pki.h"

#include <pthread.h>
#include <stdatomic.h>

#include <svc/clock.h>
#include <svc/log.h>

/* A test waits for other threads at most this long, and no limit of the ends is
 * less: what does not end by itself is told by the text of a limit, however
 * slow the machine is. */
#define WAIT_MS 120000

struct tls_suite {
	const struct svc_conformance_tls *setup;
	struct test_pki pki;
	int64_t handshake_ms; /* of the ends that are started; 0: default */
	int loops;            /* of their executors; 0: default */
};
extern struct tls_suite tls_suite;

#define TLS_MOST_CONNS 96

/* A transport of its own executor, with a listener or without. It is not on the
 * stack of its test: one that fails leaves it to tls_clean_up. */
struct tls_end {
	bool used;
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *listener;
	struct svc_tls_config tls;
	char paths[3][160]; /* of tls */
	pthread_mutex_t mutex;
	char identity[80];           /* of the last caller; "-" for none */
	void *conns[TLS_MOST_CONNS]; /* that were dialled, under the mutex */
	atomic_int served;           /* calls that were answered */
};

/* Files of the suite's certificates of these names; NULL: none. Valid for the
 * next few calls. */
struct svc_tls_config tls_of(const char *name, const char *ca);
/* A transport with this TLS, or NULL for none. Nothing is left of one that
 * fails. */
svc_err tls_end_try(const struct svc_tls_config *tls, struct tls_end **ret_end,
    struct svc_error *err);
struct tls_end *tls_end_start(const struct svc_tls_config *tls);
/* Answers who calls, and keeps who that was. */
svc_err tls_end_listen(struct tls_end *end, struct svc_error *err);
/* Both. */
struct tls_end *tls_end_serve(const struct svc_tls_config *tls);
const char *tls_end_address(const struct tls_end *server);
/* With all that it has dialled. */
void tls_end_stop(struct tls_end *end);

/* A test of the suite, after which nothing is left even if it failed. */
#define tls_test(function) cmocka_unit_test_teardown(function, tls_clean_up)
int tls_clean_up(void **state);

struct tls_got {
	bool answered, not_run;
	svc_err code;
	char text[256];
};

/* NULL with the reason in `got`, which may be NULL: then the test fails. */
void *tls_dial(
    struct tls_end *client, const char *address, struct tls_got *got);
void tls_hang_up(struct tls_end *client, void *conn);
struct tls_got tls_call_on(struct tls_end *client, void *conn);
/* Dials anew and calls once. */
struct tls_got tls_call(struct tls_end *client, struct tls_end *server);
void assert_answered(const struct tls_got *got);
/* With `why` in the text, unless that is NULL. */
void assert_refused(const struct tls_got *got, const char *why);

/* Calls until the server has logged the refusal, too: of so many lines a second
 * it leaves some out. */
void tls_call_refused(struct tls_end *client, struct tls_end *server,
    const char *why, const char *log);

/* A sink of the log that keeps the newest lines, as "id: text". */
void tls_keep_log(const struct svc_log_line *line, void *arg);
void tls_clear_log(void);
bool tls_was_logged(const char *what);

/* How handshakes that are not finished, or many at once, are borne; a group of
 * the suite. */
int svc_conformance_tls_handshake(const char *title);
/* What becomes of replies when a service is gone; another. */
int svc_conformance_tls_gone(const char *title);
/* What certificates and keys may be; another. */
int svc_conformance_tls_chain(const char *title);

#endif
