/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport_tls.h"
#include "conformance/transport.h"
#include "support/pki.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <svc/clock.h>
#include <svc/log.h>

#include "support/lacks.h"

#define WAIT_MS 20000
#define SOON_MS 8000 /* less than a handshake may take */

static const struct svc_conformance_tls *setup;
static struct test_pki pki;
static int64_t handshake_ms; /* of the ends that are started */

/* ----------------------------------------------------------------- two ends */

/* A transport of its own executor, with a listener or without. */
struct end {
	const struct svc_transport_ops *ops;
	struct svc_executor *executor;
	void *self, *listener;
	struct svc_tls_config tls;
	char paths[3][160]; /* of tls */
	pthread_mutex_t mutex;
	char identity[80]; /* of the last caller; "-" for none */
};

static void
serve(struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	struct end *end = arg;
	const char *who = SVC_OPS_HAS(stream->ops, identity)
			      ? stream->ops->identity(stream)
			      : NULL;
	struct svc_part reply = *first;
	pthread_mutex_lock(&end->mutex);
	snprintf(end->identity, sizeof(end->identity), "%s",
	    who != NULL ? who : "-");
	pthread_mutex_unlock(&end->mutex);
	reply.flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END;
	stream->ops->send(stream, &reply, NULL);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

static struct svc_tls_config
tls_of(const char *name, const char *ca)
{
	struct svc_tls_config tls = {0};
	if (name != NULL) {
		tls.cert = test_pki_path(&pki, name, "pem");
		tls.key = test_pki_path(&pki, name, "key");
	}
	if (ca != NULL)
		tls.ca = test_pki_path(&pki, ca, "pem");
	return tls;
}

static svc_err
try_start(
    struct end *end, const struct svc_tls_config *tls, struct svc_error *err)
{
	const void *ops;
	memset(end, 0, sizeof(*end));
	if (svc_catalogue_find(
		&svc_transport_interface, setup->plugin, &ops, err) != SVC_OK)
		fail_msg("%s", err->text);
	end->ops = ops;
	pthread_mutex_init(&end->mutex, NULL);
	assert_int_equal(
	    svc_executor_create(NULL, &end->executor, err), SVC_OK);
	if (tls != NULL) {
		const char **places[] = {
		    &end->tls.cert, &end->tls.key, &end->tls.ca};
		end->tls = *tls;
		for (int i = 0; i < 3; i++) {
			if (*places[i] == NULL)
				continue;
			snprintf(end->paths[i], sizeof(end->paths[i]), "%s",
			    *places[i]);
			*places[i] = end->paths[i];
		}
	}
	struct svc_transport_config config = {.executor = end->executor,
	    .limits.handshake_ms = handshake_ms,
	    .tls = tls != NULL ? &end->tls : NULL};
	svc_err rc = end->ops->create(&config, &end->self, err);
	if (rc != SVC_OK)
		svc_executor_destroy(end->executor);
	return rc;
}

static void
start(struct end *end, const struct svc_tls_config *tls)
{
	struct svc_error err = {0};
	if (try_start(end, tls, &err) != SVC_OK)
		fail_msg("%s", err.text);
}

static void
start_server(struct end *end, const struct svc_tls_config *tls)
{
	struct svc_error err = {0};
	start(end, tls);
	if (end->ops->listen(end->self, setup->address, serve, end,
		&end->listener, &err) != SVC_OK)
		fail_msg("%s", err.text);
}

static void
stop(struct end *end)
{
	if (end->listener != NULL)
		end->ops->listener_destroy(end->listener);
	end->ops->destroy(end->self);
	svc_executor_destroy(end->executor);
	pthread_mutex_destroy(&end->mutex);
}

struct got {
	bool answered, not_run;
	svc_err code;
	char text[256];
};

static void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct got *got = stream->user;
	got->answered = part->len == 5;
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct got *got = stream->user;
	got->code = end->code;
	got->not_run = end->not_run;
	snprintf(got->text, sizeof(got->text), "%s", end->text);
}

static struct got
call_on(struct end *client, void *conn)
{
	static const struct svc_stream_events events = {
	    .part = on_part, .closed = on_closed};
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "s",
	    .endpoint = "E.e",
	    .timeout_ms = SVC_FOREVER,
	    .data = "hello",
	    .len = 5};
	struct svc_stream_handle *stream;
	struct svc_error err = {0};
	struct got got = {0};
	svc_err rc = client->ops->open(
	    conn, &first, SVC_OPEN_WAIT, &events, &got, &stream, &err);
	if (rc != SVC_OK) {
		/* It may have failed before it could be used. */
		got.code = rc == SVC_E_CLOSED ? SVC_E_UNAVAILABLE : rc;
		got.not_run = true;
		snprintf(got.text, sizeof(got.text), "%s", err.text);
		return got;
	}
	rc = client->ops->wait(stream, svc_deadline(WAIT_MS));
	client->ops->release(stream, SVC_E_CANCELLED);
	assert_int_equal(rc, SVC_OK);
	return got;
}

static void *
dial(struct end *client, const char *address)
{
	struct svc_error err = {0};
	void *conn;
	if (client->ops->dial(client->self, address, WAIT_MS, &conn, &err) !=
	    SVC_OK)
		fail_msg("%s", err.text);
	return conn;
}

/* Dials anew and calls once. */
static struct got
call(struct end *client, struct end *server)
{
	void *conn =
	    dial(client, server->ops->listener_address(server->listener));
	struct got got = call_on(client, conn);
	client->ops->conn_destroy(conn);
	return got;
}

static void
assert_answered(const struct got *got)
{
	if (!got->answered)
		fail_msg("%s", got->text);
}

static void
assert_refused(const struct got *got, const char *why)
{
	assert_false(got->answered);
	assert_int_equal(got->code, SVC_E_UNAVAILABLE);
	if (why != NULL && strstr(got->text, why) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", got->text, why);
}

/* --------------------------------------------------------------------- log */

static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t log_changed;
static char logged[16384];

static void
keep_log(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	pthread_mutex_lock(&log_mutex);
	size_t len = strlen(logged);
	snprintf(logged + len, sizeof(logged) - len, "%s: %s\n", line->id,
	    line->text);
	pthread_cond_broadcast(&log_changed);
	pthread_mutex_unlock(&log_mutex);
}

static bool
was_logged(const char *what)
{
	pthread_mutex_lock(&log_mutex);
	bool found = strstr(logged, what) != NULL;
	pthread_mutex_unlock(&log_mutex);
	return found;
}

static bool
comes_to_be_logged(const char *what)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&log_mutex);
	while (strstr(logged, what) == NULL && rc == SVC_OK)
		rc = svc_cond_wait(&log_changed, &log_mutex, deadline);
	pthread_mutex_unlock(&log_mutex);
	return rc == SVC_OK;
}

static void
clear_log(void)
{
	pthread_mutex_lock(&log_mutex);
	logged[0] = 0;
	pthread_mutex_unlock(&log_mutex);
}

/* ------------------------------------------------------------------- cases */

static void
both_sides_are_verified_and_known(void **state)
{
	(void)state;
	struct end server, client, nobody;
	struct svc_tls_config tls = tls_of("server", "ca");
	start_server(&server, &tls);
	tls = tls_of("client", "ca");
	start(&client, &tls);
	struct got got = call(&client, &server);
	assert_answered(&got);
	if (setup->identity)
		assert_string_equal(server.identity, "student.client");
	stop(&client);
	stop(&server);

	/* Callers need no certificate where none is asked for. */
	tls = tls_of("server", "ca");
	tls.anonymous = true;
	start_server(&server, &tls);
	tls = tls_of(NULL, "ca");
	start(&nobody, &tls);
	got = call(&nobody, &server);
	assert_answered(&got);
	assert_string_equal(server.identity, "-");
	tls = tls_of("plain", "ca");
	start(&client, &tls);
	got = call(&client, &server);
	assert_answered(&got);
	if (setup->identity)
		assert_string_equal(server.identity, "common name");
	stop(&client);
	stop(&nobody);
	stop(&server);
}

static void
a_server_that_cannot_prove_itself_is_refused(void **state)
{
	(void)state;
	static const struct {
		const char *server, *ca, *name, *why;
	} cases[] = {
	    {"server", "other_ca", NULL, "local issuer"},
	    {"expired", "ca", NULL, "certificate has expired"},
	    {"early", "ca", NULL, "not yet valid"},
	    {"stranger", "ca", NULL, "it is not for \"127.0.0.1\""},
	    {"server", "ca", "teacher", "it is not for \"teacher\""},
	    {"self", "ca", NULL, "self-signed certificate"},
	    {"server", NULL, NULL, "local issuer"}, /* the system's */
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct end server, client, good;
		struct svc_tls_config tls = tls_of(cases[i].server, NULL);
		start_server(&server, &tls);
		tls = tls_of(NULL, cases[i].ca);
		tls.name = cases[i].name;
		start(&client, &tls);
		int64_t began_ms = svc_now_ms();
		struct got got = call(&client, &server);
		assert_true(svc_now_ms() - began_ms < SOON_MS);
		assert_refused(&got, setup->reasons ? cases[i].why : NULL);
		assert_true(got.not_run);
		if (setup->reasons) {
			char start_of_text[160];
			snprintf(start_of_text, sizeof(start_of_text),
			    "certificate of %s was refused: ",
			    server.ops->listener_address(server.listener));
			assert_non_null(strstr(got.text, start_of_text));
		}
		stop(&client);
		stop(&server);

		tls = tls_of("server", NULL);
		start_server(&server, &tls);
		tls = tls_of(NULL, "ca");
		start(&good, &tls);
		got = call(&good, &server);
		assert_answered(&got);
		stop(&good);
		stop(&server);
	}
}

static void
a_name_is_taken_for_the_host(void **state)
{
	(void)state;
	struct end server, client;
	struct svc_tls_config tls = tls_of("stranger", NULL);
	start_server(&server, &tls);
	tls = tls_of(NULL, "ca");
	tls.name = "student.far";
	start(&client, &tls);
	struct got got = call(&client, &server);
	assert_answered(&got);
	stop(&client);
	stop(&server);
}

static void
a_client_that_cannot_prove_itself_is_refused(void **state)
{
	(void)state;
	static const struct {
		const char *client, *why, *log;
	} cases[] = {
	    {NULL, "demands a certificate", "it showed no certificate"},
	    {"other_client", "refused the certificate", "local issuer"},
	    {"expired", "refused the certificate",
		"was refused: certificate has expired"},
	    {"self", "refused the certificate", "self-signed"},
	};
	struct end server, client, good;
	struct svc_tls_config tls = tls_of("server", "ca");
	start_server(&server, &tls);
	tls = tls_of("client", "ca");
	start(&good, &tls);
	svc_log_set_sink(keep_log, NULL);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		clear_log();
		tls = tls_of(cases[i].client, "ca");
		start(&client, &tls);
		struct got got = call(&client, &server);
		assert_refused(&got, setup->reasons ? cases[i].why : NULL);
		assert_true(got.not_run);
		if (setup->reasons) {
			assert_true(comes_to_be_logged(cases[i].log));
			assert_true(was_logged("127.0.0.1:"));
		}
		stop(&client);
		got = call(&good, &server);
		assert_answered(&got);
	}
	svc_log_set_sink(NULL, NULL);
	stop(&good);
	stop(&server);
}

static void
with_and_without_tls_part_at_once(void **state)
{
	(void)state;
	struct end server, client;
	struct svc_tls_config tls = tls_of("server", NULL);
	start_server(&server, &tls);
	start(&client, NULL);
	if (strstr(setup->address, "://") != NULL) {
		/* A URL says what it is: it is not even dialled. */
		struct svc_error err = {0};
		void *conn;
		assert_int_equal(
		    client.ops->dial(client.self,
			server.ops->listener_address(server.listener), 5000,
			&conn, &err),
		    SVC_E_INVAL);
		assert_non_null(strstr(err.text, "needs TLS"));
		stop(&client);
		stop(&server);
		return;
	}
	int64_t began_ms = svc_now_ms();
	struct got got = call(&client, &server);
	assert_refused(&got, setup->reasons ? "speaks TLS" : NULL);
	assert_true(svc_now_ms() - began_ms < SOON_MS);
	stop(&client);
	stop(&server);

	/* The service speaks first: at whatever moment of the client's. */
	start_server(&server, NULL);
	tls = tls_of(NULL, "ca");
	start(&client, &tls);
	for (int i = 0; i < 100; i++) {
		began_ms = svc_now_ms();
		got = call(&client, &server);
		assert_refused(&got, setup->reasons ? "without TLS" : NULL);
		assert_true(svc_now_ms() - began_ms < SOON_MS);
	}
	stop(&client);
	stop(&server);
}

static void
wrong_files_are_named(void **state)
{
	(void)state;
	static const struct {
		const char *cert, *key, *ca, *names;
	} cases[] = {
	    {"server.pem", "client.key", NULL, "client.key"},
	    {"nowhere.pem", "server.key", NULL, "nowhere.pem"},
	    {"server.pem", "nowhere.key", NULL, "nowhere.key"},
	    {"server.key", "server.key", NULL, "server.key"},
	    {"server.pem", "server.pem", NULL, "server.pem"},
	    {"server.pem", "server.key", "nowhere.pem", "nowhere.pem"},
	    {"server.pem", "server.key", "server.key", "server.key"},
	    {"server.pem", NULL, NULL, "--tls_key"},
	    {NULL, "server.key", NULL, "--tls_cert"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *names[] = {
		    cases[i].cert, cases[i].key, cases[i].ca};
		char paths[3][160];
		struct svc_tls_config tls = {0};
		const char **places[] = {&tls.cert, &tls.key, &tls.ca};
		for (int k = 0; k < 3; k++) {
			if (names[k] == NULL)
				continue;
			snprintf(paths[k], sizeof(paths[k]), "%s/%s", pki.dir,
			    names[k]);
			*places[k] = paths[k];
		}
		struct end end;
		struct svc_error err = {0};
		assert_int_equal(try_start(&end, &tls, &err), SVC_E_INVAL);
		if (strstr(err.text, cases[i].names) == NULL)
			fail_msg("\"%s\" does not name %s", err.text,
			    cases[i].names);
	}
	/* Who only calls needs no certificate, who listens does. */
	struct end end;
	struct svc_error err = {0};
	struct svc_tls_config tls = tls_of(NULL, "ca");
	start(&end, &tls);
	assert_int_equal(end.ops->listen(end.self, setup->address, serve, &end,
			     &end.listener, &err),
	    SVC_E_INVAL);
	assert_non_null(strstr(err.text, "--tls_cert"));
	stop(&end);
}

/* ------------------------------------------------------------------ reload */

struct caller {
	struct end *client;
	const char *address;
	_Atomic bool *stop;
	pthread_t thread;
	int calls, failed;
	char text[256];
};

/* Calls on a kept connection and, now and then, on a new one. */
static void *
call_until_told(void *arg)
{
	struct caller *me = arg;
	void *conn = dial(me->client, me->address);
	while (!atomic_load(me->stop)) {
		if (me->calls++ % 20 == 19) {
			me->client->ops->conn_destroy(conn);
			conn = dial(me->client, me->address);
		}
		struct got got = call_on(me->client, conn);
		if (!got.answered) {
			me->failed++;
			memcpy(me->text, got.text, sizeof(me->text));
		}
	}
	me->client->ops->conn_destroy(conn);
	return NULL;
}

/* Whether a caller that expects this name is answered before long. */
static bool
comes_to_be(struct end *server, const char *name)
{
	struct svc_tls_config tls = tls_of(NULL, "ca");
	struct end client;
	bool answered = false;
	tls.name = name;
	start(&client, &tls);
	int64_t deadline = svc_deadline(WAIT_MS);
	while (!answered && svc_remaining(deadline) > 0)
		answered = call(&client, server).answered;
	stop(&client);
	return answered;
}

static void
spoil(const char *path)
{
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs("-----BEGIN PRIVATE KEY-----\nhalf", file);
	fclose(file);
}

static void
changed_files_serve_new_connections(void **state)
{
	(void)state;
	if (!setup->reloads)
		test_lacks("reading changed certificates again");
	struct test_certificate certificate = {.name = "changing",
	    .issuer = "ca",
	    .san = "DNS:first,DNS:both,IP:127.0.0.1"};
	assert_true(test_pki_issue(&pki, &certificate));
	struct end server, client;
	struct svc_tls_config tls = tls_of("changing", NULL);
	start_server(&server, &tls);
	tls = tls_of(NULL, "ca");
	tls.name = "both";
	start(&client, &tls);
	svc_log_set_sink(keep_log, NULL);
	clear_log();

	_Atomic bool enough = false;
	struct caller callers[2];
	for (int i = 0; i < 2; i++) {
		callers[i] = (struct caller){.client = &client,
		    .address = server.ops->listener_address(server.listener),
		    .stop = &enough};
		assert_int_equal(svc_thread_start(&callers[i].thread, "caller",
				     call_until_told, &callers[i]),
		    SVC_OK);
	}
	assert_true(comes_to_be(&server, "first"));
	certificate.san = "DNS:second,DNS:both,IP:127.0.0.1";
	assert_true(test_pki_issue(&pki, &certificate));
	assert_true(comes_to_be(&server, "second"));

	/* Half a key is none: the old pair stays, and that is said. */
	spoil(test_pki_path(&pki, "changing", "key"));
	int64_t deadline = svc_deadline(WAIT_MS);
	while (!was_logged("cannot be used") && svc_remaining(deadline) > 0)
		assert_true(comes_to_be(&server, "second"));
	assert_true(was_logged("cannot be used"));
	assert_true(comes_to_be(&server, "second"));
	certificate.san = "DNS:third,DNS:both,IP:127.0.0.1";
	assert_true(test_pki_issue(&pki, &certificate));
	assert_true(comes_to_be(&server, "third"));

	atomic_store(&enough, true);
	int calls = 0;
	for (int i = 0; i < 2; i++) {
		svc_thread_join(callers[i].thread);
		if (callers[i].failed != 0)
			fail_msg("%d of %d calls failed: %s", callers[i].failed,
			    callers[i].calls, callers[i].text);
		calls += callers[i].calls;
	}
	assert_true(calls > 0);
	svc_log_set_sink(NULL, NULL);
	stop(&client);
	stop(&server);
}

/* --------------------------------------------------------- what harms none */

static int
connect_raw(struct end *server)
{
	const char *address = server->ops->listener_address(server->listener);
	const char *host = strstr(address, "127.0.0.1:");
	assert_non_null(host);
	struct sockaddr_in in = {.sin_family = AF_INET,
	    .sin_port =
		htons((uint16_t)strtol(strchr(host, ':') + 1, NULL, 10)),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	return fd;
}

static void
half_handshakes_harm_nobody(void **state)
{
	(void)state;
	/* The head of a client's first message, and what is none. */
	static const char said[][32] = {
	    "",
	    "\x16",
	    "\x16\x03\x01\x02",
	    "\x16\x03\x01\x01\x04\x01",
	    "\x16\x03\x01\xff\xff\x01\xff\xff",
	    "GET / HTTP/1.1\r\n\r\n",
	    "\xf5svc\x01\x01\x10",
	    "\x15\x03\x03",
	    "\x17\x03\x03\x7f\xff",
	};
	enum { MANY = 90 };
	int fds[MANY];
	struct end server, client;
	struct svc_tls_config tls = tls_of("server", "ca");
	start_server(&server, &tls);
	tls = tls_of("client", "ca");
	start(&client, &tls);
	void *conn =
	    dial(&client, server.ops->listener_address(server.listener));
	struct got got = call_on(&client, conn);
	assert_answered(&got);
	for (int i = 0; i < MANY; i++) {
		const char *text =
		    said[(size_t)i % (sizeof(said) / sizeof(said[0]))];
		fds[i] = connect_raw(&server);
		send(fds[i], text, strlen(text), MSG_NOSIGNAL);
		if (i % 10 == 0) {
			got = call_on(&client, conn);
			assert_answered(&got);
		}
	}
	got = call(&client, &server);
	assert_answered(&got);
	got = call_on(&client, conn);
	assert_answered(&got);
	for (int i = 0; i < MANY; i++)
		close(fds[i]);
	got = call_on(&client, conn);
	assert_answered(&got);
	client.ops->conn_destroy(conn);
	stop(&client);
	stop(&server);
}

static bool
is_closed(int fd)
{
	struct timeval limit = {.tv_sec = WAIT_MS / 1000};
	char bytes[256];
	ssize_t n;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
		;
	bool closed = n == 0 || errno == ECONNRESET;
	close(fd);
	return closed;
}

/* Whether one that does finish it was served: on a slow machine an honest
 * handshake may come too late as well. */
static bool
drops_who_does_not_finish(int64_t within_ms)
{
	struct end server, client;
	struct svc_tls_config tls = tls_of("server", "ca");
	handshake_ms = within_ms;
	start_server(&server, &tls);
	handshake_ms = 0;
	int silent = connect_raw(&server), half = connect_raw(&server);
	assert_int_equal(
	    send(half, "\x16\x03\x01\x02\x00\x01", 6, MSG_NOSIGNAL), 6);
	assert_true(is_closed(silent));
	assert_true(is_closed(half));
	tls = tls_of("client", "ca");
	start(&client, &tls);
	struct got got = call(&client, &server);
	stop(&client);
	stop(&server);
	return got.answered;
}

static void
who_does_not_finish_a_handshake_is_dropped(void **state)
{
	(void)state;
	if (!setup->time_out)
		test_lacks("a time-out of handshakes");
	int64_t within_ms = 300;
	while (!drops_who_does_not_finish(within_ms)) {
		within_ms *= 2;
		assert_true(within_ms < WAIT_MS);
	}
}

static void
a_rush_of_handshakes_is_served(void **state)
{
	(void)state;
	enum { MOST = 64 };
	void *conns[MOST];
	int many = setup->rush;
	assert_in_range(many, 1, MOST);
	struct end server, client;
	struct svc_tls_config tls = tls_of("server", "ca");
	start_server(&server, &tls);
	tls = tls_of("client", "ca");
	start(&client, &tls);
	const char *address = server.ops->listener_address(server.listener);
	void *kept = dial(&client, address);
	struct got got = call_on(&client, kept);
	assert_answered(&got);
	for (int i = 0; i < many; i++)
		conns[i] = dial(&client, address);
	for (int i = 0; i < many; i++) {
		got = call_on(&client, kept);
		assert_answered(&got);
		got = call_on(&client, conns[i]);
		assert_answered(&got);
		client.ops->conn_destroy(conns[i]);
	}
	client.ops->conn_destroy(kept);
	stop(&client);
	stop(&server);
}

static void
a_server_that_closes_ends_its_connections(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		struct end server, client;
		struct svc_tls_config tls = tls_of("server", "ca");
		start_server(&server, &tls);
		tls = tls_of("client", "ca");
		start(&client, &tls);
		void *conn = dial(
		    &client, server.ops->listener_address(server.listener));
		struct got got = call_on(&client, conn);
		assert_answered(&got);
		server.ops->listener_destroy(server.listener);
		server.listener = NULL;
		got = call_on(&client, conn);
		assert_refused(&got, NULL);
		client.ops->conn_destroy(conn);
		stop(&client);
		stop(&server);
	}
}

/* -------------------------------------------------------------------- main */

static bool
make_certificates(void)
{
	const char *here = setup == NULL || setup->ip_names
			       ? "DNS:localhost,IP:127.0.0.1"
			       : "DNS:127.0.0.1,DNS:localhost";
	const struct test_certificate certificates[] = {
	    {.name = "other_ca", .ca = true},
	    {.name = "server", .issuer = "ca", .san = here},
	    {.name = "client",
		.issuer = "ca",
		.cn = "a client",
		.san = "IP:127.0.0.1,DNS:student.client,DNS:other"},
	    {.name = "plain", .issuer = "ca", .cn = "common name"},
	    {.name = "other_client", .issuer = "other_ca"},
	    {.name = "stranger", .issuer = "ca", .san = "DNS:student.far"},
	    {.name = "expired",
		.issuer = "ca",
		.san = here,
		.from_days = -9,
		.until_days = -2},
	    {.name = "early",
		.issuer = "ca",
		.san = here,
		.from_days = 2,
		.until_days = 9},
	    {.name = "self", .san = here},
	};
	if (!test_pki_create(&pki))
		return false;
	for (size_t i = 0; i < sizeof(certificates) / sizeof(certificates[0]);
	     i++)
		if (!test_pki_issue(&pki, &certificates[i]))
			return false;
	return true;
}

int
svc_conformance_transport_over_tls(const struct svc_conformance_transport *base)
{
	if (!make_certificates())
		return 1;
	struct svc_tls_config tls = tls_of("server", "ca");
	struct svc_conformance_transport with = *base;
	with.tls = &tls;
	int failed = svc_conformance_transport(&with);
	test_pki_remove(&pki);
	return failed;
}

int
svc_conformance_tls(const struct svc_conformance_tls *with)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(both_sides_are_verified_and_known),
	    cmocka_unit_test(a_server_that_cannot_prove_itself_is_refused),
	    cmocka_unit_test(a_name_is_taken_for_the_host),
	    cmocka_unit_test(a_client_that_cannot_prove_itself_is_refused),
	    cmocka_unit_test(with_and_without_tls_part_at_once),
	    cmocka_unit_test(wrong_files_are_named),
	    cmocka_unit_test(changed_files_serve_new_connections),
	    cmocka_unit_test(half_handshakes_harm_nobody),
	    cmocka_unit_test(who_does_not_finish_a_handshake_is_dropped),
	    cmocka_unit_test(a_rush_of_handshakes_is_served),
	    cmocka_unit_test(a_server_that_closes_ends_its_connections),
	};
	setup = with;
	svc_cond_init(&log_changed);
	if (!make_certificates())
		return 1;
	char title[64];
	snprintf(
	    title, sizeof(title), "%s tls %s", with->plugin, with->address);
	int failed = cmocka_run_group_tests_name(title, tests, NULL, NULL);
	test_pki_remove(&pki);
	return failed;
}
