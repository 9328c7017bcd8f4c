/* SPDX-License-Identifier: Apache-2.0 */
#include "nng_ends.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

static const struct svc_transport_ops *
find(const char *name)
{
	struct svc_error err = {0};
	const void *ops = NULL;
	if (svc_catalogue_find(&svc_transport_interface, name, &ops, &err) !=
	    SVC_OK)
		fail_msg("%s", err.text);
	return ops;
}

void
echo(struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	struct svc_part reply = *first;
	(void)arg;
	reply.flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END;
	reply.status = SVC_OK;
	reply.status_text = NULL;
	stream->ops->send(stream, &reply, NULL);
	stream->ops->release(stream, SVC_E_CANCELLED);
}

void
start_with(struct end *end, const char *plugin, struct svc_tls_config *tls,
    const struct svc_transport_limits *limits, const char *address)
{
	struct svc_transport_config config = {.tls = tls};
	struct svc_error err = {0};
	memset(end, 0, sizeof(*end));
	end->ops = find(plugin);
	assert_int_equal(
	    svc_executor_create(NULL, &end->executor, NULL), SVC_OK);
	config.executor = end->executor;
	if (limits != NULL)
		config.limits = *limits;
	assert_int_equal(end->ops->create(&config, &end->self, NULL), SVC_OK);
	if (address != NULL && end->ops->listen(end->self, address, echo, NULL,
				   &end->listener, &err) != SVC_OK)
		fail_msg("%s", err.text);
}

void
start(struct end *end, const char *plugin,
    const struct svc_transport_limits *limits, const char *address)
{
	start_with(end, plugin, NULL, limits, address);
}

void
stop(struct end *end)
{
	if (end->listener != NULL)
		end->ops->listener_destroy(end->listener);
	end->ops->destroy(end->self);
	svc_executor_destroy(end->executor);
}

static void
got_part(struct svc_stream_handle *stream, const struct svc_part *part)
{
	struct got *got = stream->user;
	got->len += part->len;
	got->code = part->status;
}

static void
got_closed(struct svc_stream_handle *stream, const struct svc_stream_end *end)
{
	struct got *got = stream->user;
	got->code = end->code;
	got->closed = true;
	got->not_run = end->not_run;
	snprintf(got->text, sizeof(got->text), "%s", end->text);
}

struct got
call(const struct svc_transport_ops *ops, void *conn, size_t len)
{
	static const struct svc_stream_events events = {
	    .part = got_part, .closed = got_closed};
	struct got got = {.code = SVC_E_UNKNOWN};
	struct svc_stream_handle *stream = NULL;
	struct svc_error err = {0};
	uint8_t *data = calloc(1, len + 1);
	assert_non_null(data);
	struct svc_part first = {
	    .flags = SVC_PART_HEADERS | SVC_PART_MESSAGE | SVC_PART_END,
	    .service = "student",
	    .endpoint = "Student.Get",
	    .timeout_ms = SVC_FOREVER,
	    .data = data,
	    .len = len,
	};
	svc_err rc = ops->open(
	    conn, &first, SVC_OPEN_WAIT, &events, &got, &stream, &err);
	free(data);
	if (rc != SVC_OK) {
		got.code = rc;
		snprintf(got.text, sizeof(got.text), "%s", err.text);
		return got;
	}
	assert_int_equal(ops->wait(stream, svc_deadline(WAIT_MS)), SVC_OK);
	ops->release(stream, SVC_E_CANCELLED);
	return got;
}

struct got
call_at(const struct end *end, const char *address)
{
	struct svc_error err = {0};
	void *conn;
	if (end->ops->dial(end->self, address, WAIT_MS, &conn, &err) != SVC_OK)
		fail_msg("%s", err.text);
	struct got got = call(end->ops, conn, 10);
	end->ops->conn_destroy(conn);
	return got;
}

int
connect_raw(const struct end *end)
{
	const char *port =
	    strrchr(end->ops->listener_address(end->listener), ':');
	struct sockaddr_in to = {.sin_family = AF_INET,
	    .sin_port = htons((uint16_t)strtoul(port + 1, NULL, 10)),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval limit = {.tv_sec = WAIT_MS / 1000};
	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	assert_int_equal(
	    connect(fd, (const struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

bool
is_closed(int fd)
{
	uint8_t bytes[256];
	ssize_t n;
	do {
		n = recv(fd, bytes, sizeof(bytes), 0);
	} while (n > 0);
	/* Not by the limit above, at any rate. */
	return n == 0 || errno == ECONNRESET;
}
