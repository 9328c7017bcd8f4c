/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One TLS session, on a socket that does not block or on what is put and taken.
 *
 * OpenSSL asks for the head of a record and then for its body. What is read
 * beyond a body goes to `ahead`: so a record costs one system call, the body of
 * a large one goes to where OpenSSL decrypts it, and small ones come several at
 * a time. (OpenSSL's own reading ahead moves all that it has read to the front
 * of its buffer, for each record.) A record is sent from where it was
 * encrypted, and the kernel is told when another one follows at once
 * (MSG_MORE), so that it sends them together without a copy of them here. Only
 * what the socket does not take, and what a handshake writes, is gathered in
 * `out`; without a socket all is gathered there, and what comes in `in`.
 *
 * OpenSSL's own buffers, 16 KiB each way, are kept from record to record and
 * given back when a call leaves nothing to do.
 *
 * A session cannot be used by two threads at once, so tls->mutex is held while
 * one reads or writes, which never blocks: for as long as it takes to encrypt
 * or decrypt 80 KiB. It guards everything but what the handshake leaves
 * unchanged (identity) and `more`, which is the reader's. Nothing is called
 * under it. tls->gate is held only to wait for it.
 */
#include "session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define CHUNK 81920         /* sent in one piece: a burst is 64 KiB and a bit */
#define KEEP_OUT 4096       /* of `out`, when it is empty */
#define MAX_DISCARD 1048576 /* of what a refused peer has sent already */
#define EXTRA_BYTES ((size_t)1 << 20) /* of data, for one of those more */
#define SVC_HELLO 0xf5 /* first byte of a connection without TLS */

/* ------------------------------------------------------ OpenSSL's way out */

/* Whether the peer's first byte shows that it has no TLS. */
static bool
is_bare(struct tls *tls, const char *data)
{
	if (!tls->seen) {
		tls->seen = true;
		tls->bare = (uint8_t)data[0] == SVC_HELLO;
	}
	return tls->bare;
}

/* Of what was put; as recv. */
static ssize_t
receive_put(struct tls *tls, char *data, size_t size)
{
	size_t left = tls->in.len - tls->in_at;
	if (left == 0) {
		errno = EAGAIN;
		return -1;
	}
	if (is_bare(tls, (char *)tls->in.data + tls->in_at)) {
		errno = EPROTO;
		return -1;
	}
	if (size > left)
		size = left;
	memcpy(data, tls->in.data + tls->in_at, size);
	tls->in_at += size;
	return (ssize_t)size;
}

/* Reads what is asked for, and into `ahead`, which is empty, what comes
 * behind it. As recv, and 0 at the end. */
static ssize_t
receive(struct tls *tls, char *data, size_t size)
{
	if (tls->fd < 0)
		return receive_put(tls, data, size);
	struct iovec to[2] = {{data, size}, {tls->ahead, AHEAD}};
	struct msghdr message = {.msg_iov = to, .msg_iovlen = 2};
	ssize_t n;
	do
		n = recvmsg(tls->fd, &message, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	/* Whoever watches it is told when there is more. */
	tls->drained = n > 0 && n < (ssize_t)(size + AHEAD);
	if (n > 0 && is_bare(tls, data)) {
		errno = EPROTO;
		return -1;
	}
	if (n > (ssize_t)size) {
		tls->ahead_at = 0;
		tls->ahead_len = (size_t)n - size;
		n = (ssize_t)size;
	}
	return n;
}

static int
bio_read(BIO *bio, char *data, int size)
{
	struct tls *tls = BIO_get_data(bio);
	size_t had = tls->ahead_len;
	BIO_clear_retry_flags(bio);
	if (tls->extras > MOST_EXTRAS) {
		tls->sys = EPROTO;
		return -1;
	}
	if (had > 0) { /* OpenSSL asks for the rest by itself */
		if (had > (size_t)size)
			had = (size_t)size;
		memcpy(data, tls->ahead + tls->ahead_at, had);
		tls->ahead_at += had;
		tls->ahead_len -= had;
		return (int)had;
	}
	if (tls->drained)
		errno = EAGAIN;
	ssize_t n = tls->drained ? -1 : receive(tls, data, (size_t)size);
	if (n == 0)
		tls->eof = true;
	else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		BIO_set_retry_read(bio);
	else if (n < 0)
		tls->sys = errno;
	return (int)n;
}

/* Bytes that went, perhaps 0; -1 when the socket failed. */
static ssize_t
transmit(struct tls *tls, const void *data, size_t size, int more)
{
	ssize_t n;
	do
		n = send(
		    tls->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT | more);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return 0;
	tls->unsent = errno;
	return -1;
}

static int
bio_write(BIO *bio, const char *data, int size)
{
	struct tls *tls = BIO_get_data(bio);
	ssize_t n = 0;
	BIO_clear_retry_flags(bio);
	if (tls->direct && tls->out.len == 0 && tls->fd >= 0)
		n = transmit(tls, data, (size_t)size, tls->last ? 0 : MSG_MORE);
	if (n < 0) /* OpenSSL would not read any more; see push */
		n = 0;
	if (n == size ||
	    svc_buf_append(&tls->out, data + n, (size_t)(size - n)) == SVC_OK)
		return size;
	tls->sys = ENOMEM;
	return -1;
}

static long
bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	struct tls *tls = BIO_get_data(bio);
	(void)number;
	(void)pointer;
	if (command == BIO_CTRL_EOF)
		return tls->eof;
	return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

static void
make_method(void)
{
	method = BIO_meth_new(
	    BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "svc socket");
	if (method == NULL)
		return;
	BIO_meth_set_read(method, bio_read);
	BIO_meth_set_write(method, bio_write);
	BIO_meth_set_ctrl(method, bio_ctrl);
}

/* Storage that a large piece needed is not kept for small ones. */
static void
empty(struct svc_buf *buf)
{
	if (buf->cap > KEEP_OUT && buf->len <= KEEP_OUT) {
		size_t max = buf->max;
		svc_buf_fini(buf);
		svc_buf_init(buf, max);
	} else {
		svc_buf_clear(buf);
	}
}

/* With the mutex: send what is gathered. 1 when all went, or is left to be
 * taken, 0 when the socket is full, -1 when it failed. */
static int
push(struct tls *tls)
{
	if (tls->fd < 0)
		return 1;
	while (tls->sent < tls->out.len) {
		ssize_t n = transmit(tls, tls->out.data + tls->sent,
		    tls->out.len - tls->sent, 0);
		if (n <= 0)
			return (int)n;
		tls->sent += (size_t)n;
	}
	tls->sent = 0;
	empty(&tls->out);
	return 1;
}

/* ---------------------------------------------------------- making, ending */

struct tls *
tls_create(struct tls_files *files, const char *host, const char *peer)
{
	const struct svc_tls_config *config = tls_files_config(files);
	struct tls *tls = svc_mem_calloc(1, sizeof(*tls));
	pthread_once(&method_once, make_method);
	if (tls == NULL || method == NULL) {
		svc_mem_free(tls);
		return NULL;
	}
	tls->files = files;
	tls->fd = -1;
	tls->server = host == NULL;
	if (host != NULL && config->name != NULL)
		host = config->name;
	snprintf(tls->peer, sizeof(tls->peer), "%s", peer);
	snprintf(tls->host, sizeof(tls->host), "%s", host != NULL ? host : "");
	svc_buf_init(&tls->out, SIZE_MAX / 2);
	svc_buf_init(&tls->in, SIZE_MAX / 2);
	pthread_mutex_init(&tls->gate, NULL);
	pthread_mutex_init(&tls->mutex, NULL);
	return tls;
}

void
tls_destroy(struct tls *tls)
{
	if (tls == NULL)
		return;
	SSL_free(tls->ssl);
	svc_buf_fini(&tls->out);
	svc_buf_fini(&tls->in);
	svc_mem_free(tls->identity);
	pthread_mutex_destroy(&tls->gate);
	pthread_mutex_destroy(&tls->mutex);
	svc_mem_free(tls);
}

void
tls_use_socket(struct tls *tls, int fd)
{
	tls->fd = fd;
}

svc_err
tls_put(struct tls *tls, const void *data, size_t len)
{
	enter(tls);
	if (tls->in_at == tls->in.len) {
		empty(&tls->in);
		tls->in_at = 0;
	}
	svc_err rc = svc_buf_append(&tls->in, data, len);
	leave(tls);
	return rc;
}

svc_err
tls_take(struct tls *tls, struct svc_buf *into)
{
	svc_err rc = SVC_OK;
	enter(tls);
	if (tls->out.len > 0)
		rc = svc_buf_append(into, tls->out.data, tls->out.len);
	empty(&tls->out);
	leave(tls);
	return rc;
}

/* OpenSSL tells of each record, and of what is in those of TLS 1.3. */
static void
watch_records(int written, int version, int type, const void *data, size_t len,
    SSL *ssl, void *arg)
{
	struct tls *tls = arg;
	(void)version;
	(void)ssl;
	if (!written && tls->shaken && len > 0 &&
	    (type == SSL3_RT_HEADER || type == SSL3_RT_INNER_CONTENT_TYPE) &&
	    *(const uint8_t *)data != SSL3_RT_APPLICATION_DATA)
		tls->extras++;
}

/* Data was read. */
static void
count_data(struct tls *tls, size_t n)
{
	tls->heard = true;
	tls->data += n;
	for (; tls->data >= EXTRA_BYTES; tls->data -= EXTRA_BYTES)
		if (tls->extras > 0)
			tls->extras--;
}

/* With the certificates of this moment. */
static bool
start(struct tls *tls)
{
	const struct svc_tls_config *config = tls_files_config(tls->files);
	SSL_CTX *context = tls_files_context(tls->files);
	BIO *bio = BIO_new(method);
	tls->ssl = SSL_new(context);
	SSL_CTX_free(context);
	if (tls->ssl == NULL || bio == NULL) {
		BIO_free(bio);
		return false;
	}
	BIO_set_data(bio, tls);
	BIO_set_init(bio, 1);
	SSL_set_bio(tls->ssl, bio, bio);
	SSL_set_app_data(tls->ssl, tls);
	SSL_set_msg_callback(tls->ssl, watch_records);
	SSL_set_msg_callback_arg(tls->ssl, tls);
	if (tls->server) {
		int mode = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
		if (config->anonymous)
			mode = SSL_VERIFY_PEER;
		if (config->ca == NULL)
			mode = SSL_VERIFY_NONE;
		SSL_set_verify(tls->ssl, mode, session_verify);
		SSL_set_accept_state(tls->ssl);
		return true;
	}
	SSL_set_verify(tls->ssl, SSL_VERIFY_PEER, session_verify);
	SSL_set_connect_state(tls->ssl);
	unsigned char ip[16];
	char plain[INET6_ADDRSTRLEN];
	/* A certificate knows nothing of this host's interfaces. */
	snprintf(plain, sizeof(plain), "%.*s", (int)strcspn(tls->host, "%"),
	    tls->host);
	if (inet_pton(AF_INET, plain, ip) == 1 ||
	    inet_pton(AF_INET6, plain, ip) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(
			   SSL_get0_param(tls->ssl), plain) == 1;
	SSL_set_hostflags(tls->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(tls->ssl, tls->host) == 1 &&
	       SSL_set_tlsext_host_name(tls->ssl, tls->host) == 1;
}

/* -------------------------------------------------------------- handshake */

static char *
copy_name(const ASN1_STRING *name)
{
	unsigned char *utf8 = NULL;
	int len = ASN1_STRING_to_UTF8(&utf8, name);
	char *copy = NULL;
	/* A name with a zero byte is meant to be taken for another. */
	if (len > 0 && strlen((char *)utf8) == (size_t)len)
		copy = svc_mem_strdup((char *)utf8);
	OPENSSL_free(utf8);
	return copy;
}

static char *
name_of(X509 *certificate)
{
	GENERAL_NAMES *names =
	    X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
	char *found = NULL;
	for (int i = 0; i < sk_GENERAL_NAME_num(names) && found == NULL; i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		if (name->type == GEN_DNS)
			found = copy_name(name->d.dNSName);
	}
	GENERAL_NAMES_free(names);
	const X509_NAME *subject = X509_get_subject_name(certificate);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	if (found == NULL && at >= 0)
		found = copy_name(
		    X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	return found;
}

/* The peer speaks svc frames without TLS: its first byte told. */
static void
explain_bare(struct tls *tls)
{
	if (tls->server) {
		/* An alert of version 1.2: "protocol version". */
		static const uint8_t alert[] = {0x15, 3, 3, 0, 2, 2, 70};
		session_say(tls,
		    "%s was refused: it speaks without TLS, which this "
		    "service demands",
		    tls->peer);
		svc_buf_append(&tls->out, alert, sizeof(alert));
	} else {
		session_say(tls,
		    "%s speaks without TLS, which this client demands: "
		    "give that service --tls_cert and --tls_key",
		    tls->peer);
	}
}

/* Ends what failed so that the peer gets to read why: a socket that is closed
 * with bytes unread is reset. */
static tls_step
give_up(struct tls *tls)
{
	char scratch[4096];
	size_t n = 0;
	ssize_t got;
	tls->failed = true;
	push(tls);
	if (tls->fd < 0)
		return TLS_FAILED;
	shutdown(tls->fd, SHUT_WR);
	while (n < MAX_DISCARD && (got = recv(tls->fd, scratch, sizeof(scratch),
				       MSG_DONTWAIT)) > 0)
		n += (size_t)got;
	return TLS_FAILED;
}

static tls_step
shake(struct tls *tls)
{
	if (tls->ssl == NULL && !start(tls)) {
		session_say(tls,
		    "cannot begin TLS with %s: out of memory, or \"%s\" "
		    "is no host",
		    tls->peer, tls->host);
		return give_up(tls);
	}
	ERR_clear_error();
	tls->drained = false;
	int rc = tls->shaken ? 1 : SSL_do_handshake(tls->ssl);
	if (rc != 1 && SSL_get_error(tls->ssl, rc) != SSL_ERROR_WANT_READ) {
		if (tls->bare)
			explain_bare(tls);
		session_explain(tls);
		ERR_clear_error();
		return give_up(tls);
	}
	if (rc == 1 && !tls->shaken) {
		X509 *peer = SSL_get0_peer_certificate(tls->ssl);
		tls->shaken = true;
		if (peer != NULL &&
		    SSL_get_verify_result(tls->ssl) == X509_V_OK)
			tls->identity = name_of(peer);
		/* Bytes may have been read already. */
		tls->more = true;
	}
	int pushed = push(tls);
	if (pushed < 0) {
		tls->sys = tls->unsent;
		session_explain(tls);
		return TLS_FAILED;
	}
	if (pushed == 0)
		return TLS_WANT_WRITE;
	return rc == 1 ? TLS_DONE : TLS_WANT_READ;
}

tls_step
tls_shake(struct tls *tls)
{
	enter(tls);
	tls_step step = shake(tls);
	leave(tls);
	return step;
}

/* ------------------------------------------------------------------- bytes */

/* With the mutex, after OpenSSL did not do it: the errno for the caller. */
static int
break_down(struct tls *tls)
{
	session_explain(tls);
	ERR_clear_error();
	return tls->sys != 0 ? tls->sys : EPROTO;
}

/* Records of what there is, until the socket is full. False when OpenSSL
 * failed. */
static bool
encrypt(struct tls *tls, const uint8_t *data, size_t len)
{
	size_t n = len < CHUNK ? len : CHUNK, written = 0;
	bool well = true;
	ERR_clear_error();
	tls->direct = true;
	while (well && tls->taken < n && (tls->out.len == 0 || tls->fd < 0)) {
		tls->last = n - tls->taken <= SSL3_RT_MAX_PLAIN_LENGTH;
		well = SSL_write_ex(tls->ssl, data + tls->taken, n - tls->taken,
			   &written) == 1;
		if (well)
			tls->taken += written;
	}
	tls->direct = false;
	return well;
}

ssize_t
tls_write(struct tls *tls, const void *data, size_t len)
{
	ssize_t done = -1;
	int error = EAGAIN;
	enter(tls);
	int pushed = tls->failed ? -1 : push(tls);
	if (pushed > 0 && tls->taken == 0) {
		if (!encrypt(tls, data, len))
			error = break_down(tls);
		pushed = tls->failed ? -1 : push(tls);
	}
	if (pushed > 0) {
		done = (ssize_t)tls->taken;
		tls->taken = 0;
		SSL_free_buffers(tls->ssl);
	} else if (pushed < 0 && !tls->failed) {
		error = tls->unsent;
	} else if (pushed < 0) {
		error = tls->sys != 0 ? tls->sys : EPROTO;
	}
	leave(tls);
	if (done < 0)
		errno = error;
	return done;
}

ssize_t
tls_read(struct tls *tls, void *data, size_t room)
{
	size_t got = 0, n = 0;
	int error = 0;
	bool closed = false;
	enter(tls);
	tls->more = false;
	tls->drained = false;
	ERR_clear_error();
	while (!tls->failed && got < room) {
		if (SSL_read_ex(
			tls->ssl, (uint8_t *)data + got, room - got, &n) == 1) {
			got += n;
			count_data(tls, n);
			tls->more = tls->ahead_len > 0 ||
				    tls->in.len > tls->in_at ||
				    SSL_pending(tls->ssl) > 0;
			if (!tls->more && tls->drained)
				break;
			continue;
		}
		tls->more = false;
		int why = SSL_get_error(tls->ssl, 0);
		if (why == SSL_ERROR_WANT_READ)
			error = EAGAIN;
		else if (why == SSL_ERROR_ZERO_RETURN ||
			 (tls->eof && tls->sys == 0))
			closed = true;
		else
			error = break_down(tls);
		break;
	}
	if (tls->failed && error == 0)
		error = tls->sys != 0 ? tls->sys : EPROTO;
	if (got > 0 && (closed || tls->failed))
		tls->more = true; /* the next read tells of it */
	/* An answer to the peer's change of keys, seldom. */
	if (tls->out.len > tls->sent && tls->taken == 0 && !tls->failed)
		push(tls);
	if (!tls->more)
		SSL_free_buffers(tls->ssl);
	leave(tls);
	ERR_clear_error();
	if (got > 0)
		return (ssize_t)got;
	if (closed)
		return 0;
	errno = error;
	return -1;
}

bool
tls_more(const struct tls *tls)
{
	return tls->more;
}

void
tls_close(struct tls *tls)
{
	enter(tls);
	if (tls->shaken && !tls->failed && tls->out.len == tls->sent) {
		ERR_clear_error();
		SSL_shutdown(tls->ssl);
		push(tls);
		ERR_clear_error();
	}
	leave(tls);
}

const char *
tls_identity(const struct tls *tls)
{
	return tls->identity;
}

/* -------------------------------------------------------------- the module */

static const struct tls_ops openssl = {
    .abi = TLS_ABI,
    .size = sizeof(struct tls_ops),
    .name = "openssl",
    .files_create = tls_files_create,
    .files_destroy = tls_files_destroy,
    .create = tls_create,
    .destroy = tls_destroy,
    .use_socket = tls_use_socket,
    .shake = tls_shake,
    .write = tls_write,
    .read = tls_read,
    .more = tls_more,
    .close = tls_close,
    .reason = tls_reason,
    .identity = tls_identity,
    .put = tls_put,
    .take = tls_take,
};

SVC_PLUGIN(openssl);
