/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/transport_tls_end.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct tls_suite tls_suite;

static void
serve(struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	struct tls_end *end = arg;
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
	atomic_fetch_add(&end->served, 1);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

struct svc_tls_config
tls_of(const char *name, const char *ca)
{
	struct svc_tls_config tls = {0};
	if (name != NULL) {
		tls.cert = test_pki_path(&tls_suite.pki, name, "pem");
		tls.key = test_pki_path(&tls_suite.pki, name, "key");
	}
	if (ca != NULL)
		tls.ca = test_pki_path(&tls_suite.pki, ca, "pem");
	return tls;
}

static struct tls_end ends[8];

static struct tls_end *
free_end(void)
{
	size_t i = 0;
	while (i < sizeof(ends) / sizeof(ends[0]) && ends[i].used)
		i++;
	assert_true(i < sizeof(ends) / sizeof(ends[0]));
	memset(&ends[i], 0, sizeof(ends[i]));
	return &ends[i];
}

/* It is made with copies of the paths. */
static void
keep_config(struct tls_end *end, const struct svc_tls_config *tls)
{
	const char **places[] = {&end->tls.cert, &end->tls.key, &end->tls.ca};
	end->tls = *tls;
	for (int i = 0; i < 3; i++) {
		if (*places[i] == NULL)
			continue;
		snprintf(
		    end->paths[i], sizeof(end->paths[i]), "%s", *places[i]);
		*places[i] = end->paths[i];
	}
}

svc_err
tls_end_try(const struct svc_tls_config *tls, struct tls_end **ret_end,
    struct svc_error *err)
{
	const void *ops;
	struct tls_end *end = free_end();
	if (svc_catalogue_find(&svc_transport_interface,
		tls_suite.setup->plugin, &ops, err) != SVC_OK)
		fail_msg("%s", err->text);
	end->ops = ops;
	struct svc_executor_config loops = {.loops = tls_suite.loops};
	assert_int_equal(
	    svc_executor_create(&loops, &end->executor, err), SVC_OK);
	if (tls != NULL)
		keep_config(end, tls);
	struct svc_transport_config config = {.executor = end->executor,
	    .limits.handshake_ms =
		tls_suite.handshake_ms != 0 ? tls_suite.handshake_ms : WAIT_MS,
	    .limits.keepalive_ms = -1,
	    .tls = tls != NULL ? &end->tls : NULL};
	svc_err rc = end->ops->create(&config, &end->self, err);
	if (rc != SVC_OK) {
		svc_executor_destroy(end->executor);
		return rc;
	}
	pthread_mutex_init(&end->mutex, NULL);
	end->used = true;
	*ret_end = end;
	return SVC_OK;
}

struct tls_end *
tls_end_start(const struct svc_tls_config *tls)
{
	struct svc_error err = {0};
	struct tls_end *end = NULL;
	if (tls_end_try(tls, &end, &err) != SVC_OK)
		fail_msg("%s", err.text);
	return end;
}

svc_err
tls_end_listen(struct tls_end *end, struct svc_error *err)
{
	return end->ops->listen(end->self, tls_suite.setup->address, serve, end,
	    &end->listener, err);
}

struct tls_end *
tls_end_serve(const struct svc_tls_config *tls)
{
	struct svc_error err = {0};
	struct tls_end *end = tls_end_start(tls);
	if (tls_end_listen(end, &err) != SVC_OK)
		fail_msg("%s", err.text);
	return end;
}

const char *
tls_end_address(const struct tls_end *server)
{
	return server->ops->listener_address(server->listener);
}

void
tls_end_stop(struct tls_end *end)
{
	for (int i = 0; i < TLS_MOST_CONNS; i++)
		if (end->conns[i] != NULL)
			end->ops->conn_destroy(end->conns[i]);
	if (end->listener != NULL)
		end->ops->listener_destroy(end->listener);
	end->ops->destroy(end->self);
	svc_executor_destroy(end->executor);
	pthread_mutex_destroy(&end->mutex);
	end->used = false;
}

int
tls_clean_up(void **state)
{
	(void)state;
	/* Those that were started last call the others. */
	for (size_t i = sizeof(ends) / sizeof(ends[0]); i > 0; i--)
		if (ends[i - 1].used)
			tls_end_stop(&ends[i - 1]);
	svc_log_set_sink(NULL, NULL);
	tls_suite.handshake_ms = 0;
	tls_suite.loops = 0;
	return 0;
}

static void
on_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct tls_got *got = stream->user;
	got->answered = part->len == 5;
}

static void
on_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct tls_got *got = stream->user;
	got->code = end->code;
	got->not_run = end->not_run;
	snprintf(got->text, sizeof(got->text), "%s", end->text);
}

struct tls_got
tls_call_on(struct tls_end *client, void *conn)
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
	struct tls_got got = {0};
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
	if (rc != SVC_OK) {
		got = (struct tls_got){.code = rc};
		snprintf(got.text, sizeof(got.text), "no answer: %s",
		    svc_err_text(rc));
	}
	return got;
}

/* Puts `with` into the place of `what`. */
static void
keep_conn(struct tls_end *client, const void *what, void *with)
{
	int i = 0;
	pthread_mutex_lock(&client->mutex);
	while (i < TLS_MOST_CONNS && client->conns[i] != what)
		i++;
	if (i < TLS_MOST_CONNS)
		client->conns[i] = with;
	pthread_mutex_unlock(&client->mutex);
	assert_true(i < TLS_MOST_CONNS);
}

void *
tls_dial(struct tls_end *client, const char *address, struct tls_got *got)
{
	struct svc_error err = {0};
	void *conn = NULL;
	svc_err rc =
	    client->ops->dial(client->self, address, WAIT_MS, &conn, &err);
	if (rc == SVC_OK) {
		keep_conn(client, NULL, conn);
	} else if (got != NULL) {
		*got = (struct tls_got){.code = rc, .not_run = true};
		snprintf(got->text, sizeof(got->text), "%s", err.text);
	} else {
		fail_msg("%s", err.text);
	}
	return conn;
}

void
tls_hang_up(struct tls_end *client, void *conn)
{
	keep_conn(client, conn, NULL);
	client->ops->conn_destroy(conn);
}

struct tls_got
tls_call(struct tls_end *client, struct tls_end *server)
{
	struct tls_got got;
	void *conn = tls_dial(client, tls_end_address(server), &got);
	if (conn == NULL)
		return got;
	got = tls_call_on(client, conn);
	tls_hang_up(client, conn);
	return got;
}

void
assert_answered(const struct tls_got *got)
{
	if (!got->answered)
		fail_msg("%s", got->text);
}

void
assert_refused(const struct tls_got *got, const char *why)
{
	assert_false(got->answered);
	assert_int_equal(got->code, SVC_E_UNAVAILABLE);
	if (why != NULL && strstr(got->text, why) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", got->text, why);
}

/* --------------------------------------------------------------------- log */

static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static char logged[16384];

void
tls_keep_log(const struct svc_log_line *line, void *arg)
{
	(void)arg;
	pthread_mutex_lock(&log_mutex);
	size_t len = strlen(logged);
	if (len > sizeof(logged) / 2) { /* there is always room for one more */
		memmove(logged, logged + len / 2, len - len / 2 + 1);
		len -= len / 2;
	}
	snprintf(logged + len, sizeof(logged) - len, "%s: %s\n", line->id,
	    line->text);
	pthread_mutex_unlock(&log_mutex);
}

bool
tls_was_logged(const char *what)
{
	pthread_mutex_lock(&log_mutex);
	bool found = strstr(logged, what) != NULL;
	pthread_mutex_unlock(&log_mutex);
	return found;
}

void
tls_clear_log(void)
{
	pthread_mutex_lock(&log_mutex);
	logged[0] = 0;
	pthread_mutex_unlock(&log_mutex);
}

void
tls_call_refused(struct tls_end *client, struct tls_end *server,
    const char *why, const char *log)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	do {
		struct tls_got got = tls_call(client, server);
		assert_refused(&got, why);
		assert_true(got.not_run);
		if (svc_remaining(deadline) == 0)
			fail_msg("\"%s\" was not logged", log);
	} while (!tls_was_logged(log));
}
