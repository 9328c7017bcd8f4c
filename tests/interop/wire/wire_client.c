/* SPDX-License-Identifier: Apache-2.0 */
/* Calls what the peer in Python serves, and prints a line for each answer. */
#include <svc/svc.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGE 3000000

static struct svc_client *client;

static struct svc_message
text_of(const char *text)
{
	return (struct svc_message){"text/plain", text, strlen(text), NULL};
}

static void
call(const char *endpoint, const char *text)
{
	struct svc_message req = text_of(text), rsp;
	struct svc_headers *headers = svc_headers_create();
	struct svc_error err = {0};
	svc_err code =
	    svc_call(client, "wire", endpoint, &req, &rsp, header("ask", "me"),
		timeout_ms(9000), detail(&err), reply_headers(headers));
	const char *seen = svc_headers_get(headers, "seen");
	printf("%s %d %s %s\n", endpoint, (int)code,
	    code == SVC_OK ? (const char *)rsp.data : err.text,
	    seen != NULL ? seen : "-");
	svc_message_free(&rsp);
	svc_headers_destroy(headers);
}

/* A message of many pieces each way. */
static void
call_large(void)
{
	char *data = calloc(1, LARGE);
	if (data == NULL)
		return;
	for (size_t i = 0; i < LARGE; i++)
		data[i] = (char)(i % 251);
	struct svc_message rsp;
	struct svc_message req = {
	    "application/octet-stream", data, LARGE, NULL};
	svc_err code = svc_call(client, "wire", "Wire.Echo", &req, &rsp);
	printf("large %d %s\n", (int)code,
	    code == SVC_OK && rsp.len == LARGE &&
		    memcmp(rsp.data, data, LARGE) == 0
		? "same"
		: "different");
	svc_message_free(&rsp);
	free(data);
}

/* Sends `count` messages while nothing of the answers is read, then reads. */
static void
converse(const char *endpoint, int count)
{
	struct svc_error err = {0};
	struct svc_message message;
	int got = 0;
	struct svc_stream *stream = svc_open(client, "wire", endpoint,
	    header("ask", "me"), content_type("text/plain"), detail(&err));
	if (stream == NULL) {
		printf("%s not opened: %s\n", endpoint, err.text);
		return;
	}
	for (int i = 0; i < count; i++) {
		char text[32];
		snprintf(text, sizeof(text), "message %d", i);
		message = text_of(text);
		if (svc_stream_send(stream, &message) != SVC_OK)
			break;
	}
	svc_stream_close_send(stream);
	svc_err code;
	while ((code = svc_stream_recv(stream, &message)) == SVC_OK) {
		if (got++ == 0 || count == 1)
			printf("%s first %s\n", endpoint,
			    (const char *)message.data);
	}
	svc_stream_error(stream, &err);
	const char *kind = svc_stream_header(stream, "kind");
	const char *bye = svc_stream_trailer(stream, "bye");
	printf("%s %d got %d, kind %s, bye %s, %s\n", endpoint, (int)code, got,
	    kind != NULL ? kind : "-", bye != NULL ? bye : "-",
	    code == SVC_E_EOF ? "-" : err.text);
	svc_stream_free(stream);
}

int
main(int argc, char *argv[])
{
	struct svc_service *s = svc_new(name("wire-client"));
	svc_err err = svc_init(s, argc, argv);
	if (err == SVC_OK) {
		client = svc_client_of(s);
		call("Wire.Echo", "hello");
		call("Wire.Fail", "so");
		call("Wire.None", "x");
		call_large();
		converse("Wire.Each", 1000);
		converse("Wire.Sum", 50);
		converse("Wire.Count", 1);
		converse("Wire.Break", 3);
		/* The peer drains after this one, so the next is on a
		 * connection of its own. */
		call("Wire.Drain", "now");
		call("Wire.Echo", "again");
	} else {
		fprintf(stderr, "wire_client: %s\n", svc_error_text(s));
	}
	svc_free(s);
	return svc_exit_status(err);
}
