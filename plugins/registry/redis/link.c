/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to redis. hiredis writes commands and reads replies; the socket
 * and TLS are handled here, since its own need a connection that may block, and
 * Debian's has no TLS.
 */
#include "link.h"

#include <svc/buf.h>
#include <svc/clock.h>
#include <svc/log.h>

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	REPLY_MAX = 64 << 20, /* bytes of one reply */
	OUTPUT_MAX = 64 << 20,
	READ_SIZE = 16384,
	KEEP_IDLE_S = 10,
	KEEP_INTERVAL_S = 5,
	KEEP_COUNT = 3,
	USER_TIMEOUT_MS = 20000,
};

struct link {
	struct redis *redis;
	size_t server;
	int fd, wake_fd;
	SSL *ssl;
	redisReader *reader;
	size_t pending; /* bytes since the last whole reply */
	struct svc_buf out;
	int64_t patience_ms;
	bool bad;
	bool sent, heard;   /* anything at all */
	size_t outstanding; /* commands whose reply has not come */
};

static const char *
text_of(const struct link *link)
{
	return link->redis->servers[link->server].text;
}

/* What to do about it, where that can be told. */
static const char *
advice(const struct link *link, const char *why)
{
	if (strstr(why, "certificate required") != NULL ||
	    strstr(why, "alert bad certificate") != NULL)
		return "it demands a client certificate that it trusts: see "
		       "registry_tls_cert: ";
	if (strstr(why, "alert unknown ca") != NULL)
		return "it does not trust the CA of our certificate: see "
		       "registry_tls_cert: ";
	/* What TLS has to say may be lost with the connection. */
	if (link->ssl != NULL && !link->heard)
		return "it hung up: if it demands a client certificate, see "
		       "registry_tls_cert: ";
	if (link->sent && !link->heard)
		return "it hung up: if it speaks TLS, use rediss://: ";
	return "";
}

static svc_err
lost(struct link *link, struct svc_error *err, const char *why, int sys)
{
	const char *hint = advice(link, why);
	link->bad = true;
	if (sys != 0)
		return svc_error_sys(err, SVC_E_UNAVAILABLE, sys,
		    "redis at %s: %s%s", text_of(link), hint, why);
	return svc_error_set(err, SVC_E_UNAVAILABLE, "redis at %s: %s%s",
	    text_of(link), hint, why);
}

/* ------------------------------------------------------------------ waiting */

/* Every wait is one for the next sign of life, so a server that is far away but
 * answers is not given up. Errors: SVC_E_TIMEDOUT, SVC_E_CANCELLED */
static svc_err
wait_for(struct link *link, short events, int64_t deadline_at_ms,
    struct svc_error *err)
{
	int64_t silent_at_ms = svc_deadline(link->patience_ms);
	if (deadline_at_ms > silent_at_ms)
		deadline_at_ms = silent_at_ms;
	for (;;) {
		struct pollfd fds[2] = {
		    {.fd = link->fd, .events = events},
		    {.fd = link->wake_fd, .events = POLLIN},
		};
		int64_t left_ms = svc_remaining(deadline_at_ms);
		int timeout = left_ms > 60000 ? 60000 : (int)left_ms;
		int n = poll(fds, 2, timeout);
		if (n > 0 && fds[1].revents != 0) {
			link->bad = true;
			return svc_error_set(
			    err, SVC_E_CANCELLED, "it is over");
		}
		if (n > 0)
			return SVC_OK;
		if (svc_remaining(deadline_at_ms) == 0)
			return svc_error_set(err, SVC_E_TIMEDOUT,
			    "redis at %s does not answer in time",
			    text_of(link));
	}
}

/* ---------------------------------------------------------------------- TLS */

static const char *
tls_reason(const SSL *ssl)
{
	long verified = ssl != NULL ? SSL_get_verify_result(ssl) : X509_V_OK;
	unsigned long code = ERR_peek_last_error();
	const char *why = NULL;
	if (verified != X509_V_OK)
		why = X509_verify_cert_error_string(verified);
	else if (code != 0)
		why = ERR_reason_error_string(code);
	return why != NULL ? why : "the connection was closed";
}

/* What an SSL call that returned `n` waits for; 0 when it has failed. */
static short
tls_wants(const struct link *link, int n)
{
	switch (SSL_get_error(link->ssl, n)) {
	case SSL_ERROR_WANT_READ:
		return POLLIN;
	case SSL_ERROR_WANT_WRITE:
		return POLLOUT;
	default:
		return 0;
	}
}

static bool
tls_expect(SSL *ssl, const char *name)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	if (X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1)
		return true;
	ERR_clear_error();
	/* The macro that is meant for it casts const away. */
	return SSL_set1_host(ssl, name) == 1 &&
	       SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME,
		   TLSEXT_NAMETYPE_host_name, (void *)(uintptr_t)name) == 1;
}

static svc_err
tls_begin(struct link *link, int64_t deadline_at_ms, struct svc_error *err)
{
	const struct redis *redis = link->redis;
	const char *name = redis->name != NULL
			       ? redis->name
			       : redis->servers[link->server].host;
	SSL_CTX *context = NULL;
	svc_err rc = redis_tls(redis, &context, err);
	if (rc != SVC_OK)
		return rc;
	link->ssl = SSL_new(context);
	SSL_CTX_free(context);
	if (link->ssl == NULL || !tls_expect(link->ssl, name) ||
	    SSL_set_fd(link->ssl, link->fd) != 1)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a TLS session");
	for (;;) {
		ERR_clear_error();
		int n = SSL_connect(link->ssl);
		if (n == 1)
			return SVC_OK;
		short events = tls_wants(link, n);
		if (events == 0) {
			link->bad = true;
			return svc_error_set(err, SVC_E_UNAVAILABLE,
			    "TLS with redis at %s as \"%s\": %s", text_of(link),
			    name, tls_reason(link->ssl));
		}
		rc = wait_for(link, events, deadline_at_ms, err);
		if (rc == SVC_E_TIMEDOUT)
			svc_error_set(err, rc,
			    "redis at %s does not answer to TLS: if it speaks "
			    "none, leave out rediss:// and registry_tls_*",
			    text_of(link));
		if (rc != SVC_OK)
			return rc;
	}
}

/* -------------------------------------------------------------------- bytes */

/* SVC_E_AGAIN with what to wait for. */
static svc_err
read_some(struct link *link, char *data, size_t size, size_t *ret_len,
    short *ret_events, struct svc_error *err)
{
	*ret_events = POLLIN;
	if (link->ssl != NULL) {
		ERR_clear_error();
		int n = SSL_read(link->ssl, data, (int)size);
		if (n > 0) {
			link->heard = true;
			*ret_len = (size_t)n;
			return SVC_OK;
		}
		*ret_events = tls_wants(link, n);
		if (*ret_events == 0)
			return lost(link, err, tls_reason(NULL), 0);
		return SVC_E_AGAIN;
	}
	ssize_t n = recv(link->fd, data, size, 0);
	if (n > 0) {
		link->heard = true;
		*ret_len = (size_t)n;
		return SVC_OK;
	}
	if (n == 0)
		return lost(link, err, "the connection was closed", 0);
	if (errno == EAGAIN || errno == EINTR)
		return SVC_E_AGAIN;
	return lost(link, err, "the connection is lost", errno);
}

static svc_err
write_some(struct link *link, size_t *ret_len, short *ret_events,
    struct svc_error *err)
{
	*ret_events = POLLOUT;
	if (link->ssl != NULL) {
		ERR_clear_error();
		size_t len =
		    link->out.len < (1 << 20) ? link->out.len : 1 << 20;
		int n = SSL_write(link->ssl, link->out.data, (int)len);
		if (n > 0) {
			*ret_len = (size_t)n;
			return SVC_OK;
		}
		*ret_events = tls_wants(link, n);
		if (*ret_events == 0)
			return lost(link, err, tls_reason(NULL), 0);
		return SVC_E_AGAIN;
	}
	ssize_t n = send(link->fd, link->out.data, link->out.len, MSG_NOSIGNAL);
	if (n >= 0) {
		link->sent = true;
		*ret_len = (size_t)n;
		return SVC_OK;
	}
	if (errno == EAGAIN || errno == EINTR)
		return SVC_E_AGAIN;
	return lost(link, err, "the connection is lost", errno);
}

static svc_err
flush(struct link *link, int64_t deadline_at_ms, struct svc_error *err)
{
	if (link->out.failed != SVC_OK) {
		link->bad = true;
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a command to redis");
	}
	while (link->out.len > 0) {
		size_t n = 0;
		short events;
		svc_err rc = write_some(link, &n, &events, err);
		if (rc == SVC_OK)
			svc_buf_consume(&link->out, n);
		else if (rc == SVC_E_AGAIN)
			rc = wait_for(link, events, deadline_at_ms, err);
		if (rc != SVC_OK) {
			/* Part of a command may be on its way. */
			link->bad = true;
			return rc;
		}
	}
	return SVC_OK;
}

/* ----------------------------------------------------------------- commands */

void
link_send(
    struct link *link, int argc, const char *const argv[], const size_t lens[])
{
	char *command = NULL;
	/* It does not change them. */
	int len = redisFormatCommandArgv(
	    &command, argc, (const char **)(uintptr_t)argv, lens);
	if (len < 0) {
		link->out.failed = SVC_E_NOMEM;
		return;
	}
	svc_buf_append(&link->out, command, (size_t)len);
	redisFreeCommand(command);
	link->outstanding++;
}

/* What the server refuses, by the first word of what it says. */
static svc_err
refused(struct link *link, const redisReply *reply, struct svc_error *err)
{
	static const struct {
		const char *word;
		svc_err code;
	} words[] = {
	    {"NOAUTH", SVC_E_DENIED},
	    {"WRONGPASS", SVC_E_DENIED},
	    {"NOPERM", SVC_E_DENIED},
	    {"DENIED", SVC_E_DENIED},
	    {"WRONGTYPE", SVC_E_PRECONDITION},
	};
	char quoted[140];
	/* Before redis 7 what a script meets comes later in the text. */
	if (strstr(reply->str, "OOM command not allowed") != NULL)
		return svc_error_set(err, SVC_E_EXHAUSTED,
		    "redis at %s is full: raise its maxmemory or free some; "
		    "what is registered stays, what is new waits",
		    text_of(link));
	svc_err rc = SVC_E_UNAVAILABLE;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strncmp(reply->str, words[i].word, strlen(words[i].word)) ==
		    0)
			rc = words[i].code;
	/* Before redis 6 a wrong password has no word of its own. */
	if (strstr(reply->str, "invalid password") != NULL ||
	    strstr(reply->str, "without any password") != NULL)
		rc = SVC_E_DENIED;
	if (strstr(reply->str, "unknown command") != NULL)
		rc = SVC_E_UNIMPLEMENTED;
	return svc_error_set(err, rc, "redis at %s refused: %s", text_of(link),
	    svc_log_quote(reply->str, reply->len, quoted, sizeof(quoted)));
}

/* A reply of those that have been read; NULL when there is none yet. */
static svc_err
next_reply(struct link *link, redisReply **ret_reply, struct svc_error *err)
{
	void *reply = NULL;
	if (redisReaderGetReply(link->reader, &reply) != REDIS_OK)
		return lost(link, err, "what it sent is no reply of redis", 0);
	*ret_reply = reply;
	if (reply == NULL)
		return SVC_OK;
	link->pending = 0;
	if (link->outstanding > 0)
		link->outstanding--;
	if ((*ret_reply)->type == REDIS_REPLY_ERROR) {
		svc_err rc = refused(link, *ret_reply, err);
		freeReplyObject(reply);
		*ret_reply = NULL;
		return rc;
	}
	return SVC_OK;
}

svc_err
link_receive(struct link *link, int64_t deadline_at_ms, redisReply **ret_reply,
    struct svc_error *err)
{
	redisReply *reply = NULL;
	char data[READ_SIZE];
	svc_err rc = link->bad ? lost(link, err, "it is of no use any more", 0)
			       : flush(link, deadline_at_ms, err);
	while (rc == SVC_OK) {
		size_t n = 0;
		short events;
		rc = next_reply(link, &reply, err);
		if (rc != SVC_OK || reply != NULL)
			break;
		rc = read_some(link, data, sizeof(data), &n, &events, err);
		if (rc == SVC_E_AGAIN) {
			rc = wait_for(link, events, deadline_at_ms, err);
			continue;
		}
		link->pending += n;
		if (rc == SVC_OK && link->pending > REPLY_MAX)
			rc = lost(
			    link, err, "its reply has more than 64 MiB", 0);
		if (rc == SVC_OK &&
		    redisReaderFeed(link->reader, data, n) != REDIS_OK) {
			link->bad = true;
			rc = svc_error_set(
			    err, SVC_E_NOMEM, "no memory for redis's reply");
		}
	}
	if (rc == SVC_OK)
		*ret_reply = reply;
	return rc;
}

/* ------------------------------------------------------------------ opening */

static void
set_options(int fd)
{
	const struct {
		int level, name, value;
	} options[] = {
	    {SOL_SOCKET, SO_KEEPALIVE, 1},
	    {IPPROTO_TCP, TCP_NODELAY, 1},
	    {IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S},
	    {IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S},
	    {IPPROTO_TCP, TCP_KEEPCNT, KEEP_COUNT},
	    {IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS},
	};
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		setsockopt(fd, options[i].level, options[i].name,
		    &options[i].value, sizeof(options[i].value));
}

static svc_err
connect_one(struct link *link, const struct addrinfo *to,
    int64_t deadline_at_ms, struct svc_error *err)
{
	link->fd = socket(to->ai_family,
	    SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, to->ai_protocol);
	if (link->fd < 0)
		return lost(link, err, "no socket", errno);
	set_options(link->fd);
	int sys = 0;
	if (connect(link->fd, to->ai_addr, to->ai_addrlen) != 0) {
		sys = errno;
		if (sys == EINPROGRESS) {
			socklen_t len = sizeof(sys);
			svc_err rc =
			    wait_for(link, POLLOUT, deadline_at_ms, err);
			if (rc != SVC_OK)
				return rc;
			if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &sys,
				&len) != 0)
				sys = errno;
		}
	}
	return sys == 0 ? SVC_OK : lost(link, err, "cannot connect", sys);
}

static svc_err
connect_any(struct link *link, int64_t deadline_at_ms, struct svc_error *err)
{
	const struct redis_server *server = &link->redis->servers[link->server];
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	int failed = getaddrinfo(server->host, server->port, &hints, &list);
	if (failed != 0)
		return lost(link, err, gai_strerror(failed), 0);
	svc_err rc = SVC_E_UNAVAILABLE;
	int64_t patience_ms = link->patience_ms, n = 0;
	for (const struct addrinfo *to = list; to != NULL; to = to->ai_next)
		n++;
	/* They share the time, so that one which is silent, as IPv6 behind a
	 * router that drops it, leaves some for the next. */
	link->patience_ms = n > 1 ? patience_ms / n : patience_ms;
	for (const struct addrinfo *to = list; to != NULL; to = to->ai_next) {
		if (link->fd >= 0)
			close(link->fd);
		link->fd = -1;
		link->bad = false;
		rc = connect_one(link, to, deadline_at_ms, err);
		if (rc == SVC_OK || rc == SVC_E_CANCELLED)
			break;
	}
	link->patience_ms = patience_ms;
	freeaddrinfo(list);
	return rc;
}

/* One command and its reply. */
static svc_err
ask(struct link *link, int argc, const char *const argv[],
    int64_t deadline_at_ms, redisReply **ret_reply, struct svc_error *err)
{
	link_send(link, argc, argv, NULL);
	return link_receive(link, deadline_at_ms, ret_reply, err);
}

static svc_err
login(struct link *link, int64_t deadline_at_ms, struct svc_error *err)
{
	const struct redis *redis = link->redis;
	const char *auth[3] = {"AUTH"};
	int n = 1;
	redisReply *reply = NULL;
	svc_err rc = SVC_OK;
	if (redis->username != NULL)
		auth[n++] = redis->username;
	if (redis->password != NULL)
		auth[n++] = redis->password;
	if (n > 1) {
		rc = ask(link, n, auth, deadline_at_ms, &reply, err);
		freeReplyObject(reply);
	}
	reply = NULL;
	if (rc == SVC_OK && strcmp(redis->database, "0") != 0) {
		const char *const select[] = {"SELECT", redis->database};
		rc = ask(link, 2, select, deadline_at_ms, &reply, err);
		freeReplyObject(reply);
		/* There is none of this number, and so it stays. */
		if (rc == SVC_E_UNAVAILABLE && !link->bad)
			rc = SVC_E_INVAL;
	}
	return rc;
}

static svc_err
check_role(struct link *link, int64_t deadline_at_ms, struct svc_error *err)
{
	const char *const role[] = {"ROLE"};
	redisReply *reply = NULL;
	struct svc_error why = {0};
	svc_err rc = ask(link, 1, role, deadline_at_ms, &reply, &why);
	bool replica = rc == SVC_OK && reply->type == REDIS_REPLY_ARRAY &&
		       reply->elements > 0 &&
		       reply->element[0]->type == REDIS_REPLY_STRING &&
		       strcmp(reply->element[0]->str, "slave") == 0;
	freeReplyObject(rc == SVC_OK ? reply : NULL);
	if (replica)
		return lost(link, err,
		    "it is a replica: give the address of its master as well",
		    0);
	/* A user who may not ask is let through; so is a kin of redis that
	 * has no roles. */
	if (rc == SVC_OK || rc == SVC_E_UNIMPLEMENTED ||
	    (rc == SVC_E_DENIED && strstr(why.text, "NOPERM") != NULL))
		return SVC_OK;
	if (err != NULL)
		*err = why;
	return rc;
}

svc_err
link_open(struct redis *redis, size_t server, int64_t deadline_at_ms,
    int wake_fd, struct link **ret_link, struct svc_error *err)
{
	struct link *link = svc_mem_calloc(1, sizeof(*link));
	if (link == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a connection to redis");
	link->redis = redis;
	link->server = server;
	link->fd = -1;
	link->wake_fd = wake_fd;
	link->patience_ms = redis->try_ms;
	svc_buf_init(&link->out, OUTPUT_MAX);
	link->reader = redisReaderCreate();
	svc_err rc = SVC_OK;
	if (link->reader == NULL)
		rc = svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a connection to redis");
	if (rc == SVC_OK)
		rc = connect_any(link, deadline_at_ms, err);
	if (rc == SVC_OK && redis->servers[server].secure)
		rc = tls_begin(link, deadline_at_ms, err);
	if (rc == SVC_OK)
		rc = login(link, deadline_at_ms, err);
	if (rc == SVC_OK)
		rc = check_role(link, deadline_at_ms, err);
	if (rc != SVC_OK) {
		link_close(link);
		return rc;
	}
	*ret_link = link;
	return SVC_OK;
}

void
link_close(struct link *link)
{
	if (link == NULL)
		return;
	SSL_free(link->ssl);
	if (link->fd >= 0)
		close(link->fd);
	if (link->reader != NULL)
		redisReaderFree(link->reader);
	svc_buf_fini(&link->out);
	svc_mem_free(link);
}

size_t
link_server(const struct link *link)
{
	return link->server;
}

void
link_set_wake(struct link *link, int wake_fd)
{
	link->wake_fd = wake_fd;
}

void
link_be_patient(struct link *link)
{
	link->patience_ms = SVC_FOREVER;
}

bool
link_is_bad(const struct link *link)
{
	return link->bad || link->outstanding > 0;
}
