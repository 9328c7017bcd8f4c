/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STREAM_TEST_H
#define SVC_STREAM_TEST_H

/* What the tests of streams share: sending and receiving texts, and handlers.
 */

#include "service_test.h"

static UNUSED struct svc_client *
client_of(struct svc_service **ret_service)
{
	*ret_service = make("caller", NULL);
	assert_int_equal(svc_init(*ret_service, 0, NULL), SVC_OK);
	return svc_client_of(*ret_service);
}

static UNUSED svc_err
send_text(struct svc_stream *stream, const char *text)
{
	struct svc_message m = {.data = text, .len = strlen(text)};
	return svc_stream_send(stream, &m);
}

/* When it fails, the stream says why. */
static UNUSED void
must(struct svc_stream *stream, svc_err code)
{
	if (code != SVC_OK) {
		struct svc_error err;
		svc_stream_error(stream, &err);
		print_error("%s: %s\n", svc_err_name(code), err.text);
	}
	assert_int_equal(code, SVC_OK);
}

static UNUSED void
must_send(struct svc_stream *stream, const char *text)
{
	must(stream, send_text(stream, text));
}

static UNUSED void
must_receive(struct svc_stream *stream, const char *text)
{
	struct svc_message m;
	must(stream, svc_stream_recv(stream, &m));
	assert_string_equal(m.data, text);
	assert_int_equal(m.len, strlen(text));
	svc_message_free(&m); /* does no harm */
}

/* The stream ends with this code and text, for the receiver. */
static UNUSED void
must_end(struct svc_stream *stream, svc_err code, const char *text)
{
	struct svc_message m = {.len = 1};
	struct svc_error err;
	assert_int_equal(svc_stream_recv(stream, &m), code);
	assert_null(m.data);
	assert_null(m.content_type);
	assert_int_equal(m.len, 0);
	assert_int_equal(svc_stream_error(stream, &err), code);
	assert_int_equal(err.code, code);
	if (text != NULL)
		assert_string_equal(err.text, text);
	else
		assert_string_not_equal(err.text, "");
}

/* ---------------------------------------------------------------- handlers */

static UNUSED svc_err
echo(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message m;
	svc_err code;
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK) {
		code = svc_stream_send(stream, &m);
		if (code != SVC_OK)
			break;
	}
	return code;
}

/* Sends "1" to "n", which the client asks for. */
static UNUSED svc_err
count_up(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_call *call = svc_stream_call(stream);
	struct svc_message m;
	svc_err code = svc_stream_recv(stream, &m);
	long n = code == SVC_OK ? strtol(m.data, NULL, 10) : 0;
	for (long i = 1; i <= n && code == SVC_OK; i++)
		code = send_text(stream, svc_printf(call, "%ld", i));
	return code;
}

/* Answers the sum of what it was sent, once. */
static UNUSED svc_err
sum(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message m;
	svc_err code;
	long total = 0;
	while ((code = svc_stream_recv(stream, &m)) == SVC_OK)
		total += strtol(m.data, NULL, 10);
	if (code != SVC_E_EOF)
		return code;
	return send_text(
	    stream, svc_printf(svc_stream_call(stream), "%ld", total));
}

static UNUSED svc_err
fails(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message m;
	svc_err code = svc_stream_recv(stream, &m);
	if (code != SVC_OK)
		return code;
	send_text(stream, "one");
	send_text(stream, "two");
	if (m.len == 0)
		return SVC_E_ABORTED;
	return svc_fail(svc_stream_call(stream), SVC_E_PRECONDITION,
	    "no %s today", (const char *)m.data);
}

/* What a handler that waits for a message was told. */
struct seen {
	struct gate in, out;
	svc_err recv, send;
	struct svc_error err;
	bool cancelled;
};

static UNUSED svc_err
waits(struct svc_stream *stream, void *arg)
{
	struct seen *seen = arg;
	struct svc_message m;
	struct svc_error err;
	svc_err received, sent;
	gate_add(&seen->in);
	do
		received = svc_stream_recv(stream, &m);
	while (received == SVC_OK);
	svc_stream_error(stream, &err);
	sent = send_text(stream, "too late");
	pthread_mutex_lock(&seen->out.lock);
	seen->recv = received;
	seen->err = err;
	seen->send = sent;
	seen->cancelled = svc_stream_cancelled(stream);
	pthread_mutex_unlock(&seen->out.lock);
	gate_add(&seen->out);
	return received;
}

static UNUSED void
seen_init(struct seen *seen)
{
	*seen = (struct seen){0};
	gate_init(&seen->in);
	gate_init(&seen->out);
}

#endif
