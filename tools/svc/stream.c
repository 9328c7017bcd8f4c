/* SPDX-License-Identifier: Apache-2.0 */
/* stream: messages go out from one thread while another prints what comes. */
#include "json.h"
#include "out.h"
#include "tool.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct streaming {
	const struct tool *tool;
	struct svc_stream *stream;
	int ended_fd; /* readable once nothing more is to be sent */
	/* Of the sender; told when it has ended, for nothing follows then. */
	struct svc_error failed;
	pthread_t sender;
};

static bool
send_text(struct streaming *streaming, const char *text, size_t len)
{
	struct svc_message message = {
	    .content_type = "application/json", .data = text, .len = len};

	/* Why the stream ended is told by who receives. */
	return svc_stream_send(streaming->stream, &message) == SVC_OK;
}

static bool
is_json(const char *from, const char *text, size_t len, struct svc_error *err)
{
	struct svc_error why = {.text = ""};

	if (json_check(text, len, &why) == SVC_OK)
		return true;
	svc_error_set(err, SVC_E_INVAL, "%s is not JSON: %s", from, why.text);
	return false;
}

static bool
send_line(struct streaming *streaming, const char *line, size_t len)
{
	while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == ' '))
		len--;
	if (len == 0)
		return true;
	if (!is_json("a line of standard input", line, len, &streaming->failed))
		return false;
	return send_text(streaming, line, len);
}

/* Sends the whole lines of the buffer and leaves the rest in it. */
static bool
send_lines(struct streaming *streaming, struct svc_buf *input)
{
	const char *data = (const char *)input->data, *end;
	size_t at = 0;
	bool good = true;

	while (good && (end = memchr(data + at, '\n', input->len - at))) {
		good = send_line(
		    streaming, data + at, (size_t)(end - (data + at)));
		at = (size_t)(end - data) + 1;
	}
	memmove(input->data, input->data + at, input->len - at);
	input->len -= at;
	return good;
}

/* False at the end of the input, or when nothing more is to be sent. */
static bool
wait_for_input(const struct streaming *streaming)
{
	struct pollfd polled[2] = {
	    {.fd = STDIN_FILENO, .events = POLLIN},
	    {.fd = streaming->ended_fd, .events = POLLIN},
	};

	while (poll(polled, 2, -1) < 0 && errno == EINTR)
		;
	return polled[1].revents == 0;
}

static void
send_input(struct streaming *streaming)
{
	int64_t max =
	    svc_options_of(streaming->tool->service)->max_message_size;
	struct svc_buf input;
	char chunk[16384];
	ssize_t n = 0;
	bool good = true;

	svc_buf_init(&input, (size_t)max);
	while (good && wait_for_input(streaming)) {
		n = read(STDIN_FILENO, chunk, sizeof(chunk));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		good = svc_buf_append(&input, chunk, (size_t)n) == SVC_OK;
		if (good) {
			good = send_lines(streaming, &input);
			continue;
		}
		svc_error_set(&streaming->failed, SVC_E_EXHAUSTED,
		    "a line of standard input is longer than %lld bytes; "
		    "raise --max_message_size",
		    (long long)max);
	}
	if (n < 0)
		svc_error_sys(&streaming->failed, SVC_OK, errno,
		    "cannot read standard input");
	/* The last line may lack its end. */
	if (good && input.len > 0)
		send_line(streaming, (const char *)input.data, input.len);
	svc_buf_fini(&input);
}

static void *
send_all(void *arg)
{
	struct streaming *streaming = arg;
	const struct tool *tool = streaming->tool;
	bool good = true;

	for (int i = 2; good && i < tool->n_words; i++)
		good = send_text(
		    streaming, tool->words[i], strlen(tool->words[i]));
	if (tool->n_words == 2 && !isatty(STDIN_FILENO))
		send_input(streaming);
	if (streaming->failed.code == SVC_OK)
		svc_stream_close_send(streaming->stream);
	else
		svc_stream_cancel(streaming->stream);
	return NULL;
}

/* Prints what comes until the end, which `rc` gets. */
static int
print_all(struct streaming *streaming, svc_err *rc)
{
	struct svc_message message;
	int status = EXIT_OK;
	int64_t left = streaming->tool->count;

	while ((*rc = svc_stream_recv(streaming->stream, &message)) == SVC_OK) {
		status = tool_print_message(streaming->tool, &message);
		if (status != EXIT_OK || --left == 0) {
			*rc = SVC_E_EOF;
			break;
		}
	}
	return status;
}

static int
converse(struct streaming *streaming)
{
	const struct tool *tool = streaming->tool;
	struct svc_error err = {.text = ""};
	uint64_t one = 1;
	int status;
	svc_err rc;

	rc = svc_thread_start(
	    &streaming->sender, "svc-sender", send_all, streaming);
	if (rc != SVC_OK)
		return tool_failed(rc, &err);
	status = print_all(streaming, &rc);
	svc_stream_error(streaming->stream, &err);
	/* A sender may wait for input, or for room. */
	if (write(streaming->ended_fd, &one, sizeof(one)) < 0)
		status = EXIT_FAILED;
	svc_stream_cancel(streaming->stream);
	svc_thread_join(streaming->sender);
	if (streaming->failed.code != SVC_OK) {
		tool_failed(streaming->failed.code, &streaming->failed);
		return svc_exit_status(streaming->failed.code);
	}
	if (rc == SVC_E_EOF)
		return status;
	if (rc == SVC_E_UNIMPLEMENTED &&
	    tool_explain_endpoint(tool, tool->words[0], tool->words[1]))
		return EXIT_FAILED;
	return tool_failed(rc, &err);
}

int
run_stream(struct tool *tool)
{
	struct streaming streaming = {.tool = tool, .ended_fd = -1};
	struct svc_error err = {.text = ""};
	struct svc_option *options;
	int status;

	if (!tool_names_fit(tool))
		return EXIT_USAGE;
	for (int i = 2; i < tool->n_words; i++)
		if (!is_json("a message", tool->words[i],
			strlen(tool->words[i]), &err)) {
			tool_failed(SVC_E_INVAL, &err);
			return EXIT_USAGE;
		}
	options = tool_call_options(tool, &err);
	if (options == NULL)
		return tool_no_memory();
	streaming.ended_fd = eventfd(0, EFD_CLOEXEC);
	if (streaming.ended_fd >= 0)
		streaming.stream =
		    svc_open_options(svc_client_of(tool->service),
			tool->words[0], tool->words[1], options);
	else
		svc_error_sys(&err, SVC_OK, errno, "cannot open an eventfd");
	status = streaming.stream != NULL ? converse(&streaming)
					  : tool_failed(err.code, &err);
	svc_stream_free(streaming.stream);
	svc_mem_free(options);
	if (streaming.ended_fd >= 0)
		close(streaming.ended_fd);
	return status;
}
