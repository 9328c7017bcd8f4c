/* SPDX-License-Identifier: Apache-2.0 */
/* What the peer in Python calls. */
#include <svc/svc.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Atomic int64_t sent, cancelled;

/* Streams of Wire.Hold read nothing before Wire.Release. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool released;

static svc_err
on_echo(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	const char *ask = svc_call_header(call, "ask");
	int64_t left_ms = svc_call_remaining_ms(call);
	if (ask != NULL)
		svc_headers_set(rsp->headers, "seen", ask);
	if (left_ms != SVC_FOREVER)
		svc_headers_set(rsp->headers, "left",
		    svc_printf(call, "%" PRId64, left_ms));
	rsp->data = req->data;
	rsp->len = req->len;
	return SVC_OK;
}

static svc_err
on_fail(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)arg;
	svc_headers_set(rsp->headers, "why", "asked");
	return svc_fail(call, SVC_E_PRECONDITION, "not %.*s", (int)req->len,
	    (const char *)req->data);
}

static svc_err
on_release(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)call, (void)req, (void)rsp, (void)arg;
	pthread_mutex_lock(&lock);
	released = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return SVC_OK;
}

static svc_err
on_tally(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	(void)req, (void)arg;
	return svc_reply_text(call, rsp, "text/plain", "%" PRId64 " %" PRId64,
	    atomic_load(&sent), atomic_load(&cancelled));
}

/* Messages in both directions. */
static svc_err
on_each(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message message;
	svc_err err;
	int count = 0;
	svc_stream_set_header(stream, "kind", "each");
	while ((err = svc_stream_recv(stream, &message)) == SVC_OK) {
		err = svc_stream_send(stream, &message);
		if (err != SVC_OK)
			break;
		count++;
	}
	if (err == SVC_E_CANCELLED)
		atomic_fetch_add(&cancelled, 1);
	const char *end = svc_stream_trailer(stream, "bye");
	struct svc_call *call = svc_stream_call(stream);
	svc_stream_set_trailer(stream, "count", svc_printf(call, "%d", count));
	svc_stream_set_trailer(stream, "bye", end != NULL ? end : "none");
	if (end != NULL && strcmp(end, "badly") == 0)
		return svc_fail(call, SVC_E_DENIED, "ended %s", end);
	return err;
}

/* As many messages of 1,000 bytes as the request says, which it then fails
 * with unless all could be sent. */
static svc_err
on_count(struct svc_stream *stream, void *arg)
{
	(void)arg;
	struct svc_message message;
	char text[1001];
	svc_err err = svc_stream_recv(stream, &message);
	if (err != SVC_OK)
		return err;
	int count = (int)strtol(message.data, NULL, 10);
	for (int i = 0; i < count && err == SVC_OK; i++) {
		snprintf(text, sizeof(text), "%01000d", i);
		message = (struct svc_message){.data = text, .len = 1000};
		err = svc_stream_send(stream, &message);
		atomic_fetch_add(&sent, err == SVC_OK);
	}
	return err;
}

static svc_err
count_all(struct svc_stream *stream)
{
	struct svc_message message;
	size_t bytes = 0, count = 0;
	svc_err err;
	while ((err = svc_stream_recv(stream, &message)) == SVC_OK) {
		bytes += message.len;
		count++;
	}
	if (err != SVC_E_EOF)
		return err;
	const char *text = svc_printf(
	    svc_stream_call(stream), "%zu messages, %zu bytes", count, bytes);
	message = (struct svc_message){.data = text, .len = strlen(text)};
	return svc_stream_send(stream, &message);
}

/* One answer to many messages. */
static svc_err
on_sum(struct svc_stream *stream, void *arg)
{
	(void)arg;
	return count_all(stream);
}

static svc_err
on_hold(struct svc_stream *stream, void *arg)
{
	(void)arg;
	pthread_mutex_lock(&lock);
	while (!released)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	return count_all(stream);
}

int
main(int argc, char *argv[])
{
	struct svc_service *s = svc_new(name("wire"), address("127.0.0.1:0"),
	    registry(memory), codec("application/octet-stream"));
	svc_handle(s, "Wire.Echo", on_echo, NULL);
	svc_handle(s, "Wire.Fail", on_fail, NULL);
	svc_handle(s, "Wire.Release", on_release, NULL);
	svc_handle(s, "Wire.Tally", on_tally, NULL);
	svc_handle_stream(s, "Wire.Each", on_each, NULL);
	svc_handle_stream(s, "Wire.Count", on_count, NULL);
	svc_handle_stream(s, "Wire.Sum", on_sum, NULL);
	svc_handle_stream(s, "Wire.Hold", on_hold, NULL);
	return svc_main(s, argc, argv);
}
