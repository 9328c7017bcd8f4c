/* SPDX-License-Identifier: Apache-2.0 */
#include "http.h"

#include "servers.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

enum { CONNECT_MS = 2000, LINE_MAX_LEN = 1 << 16, SAID_MAX = 64 << 20 };

/* To so many servers one that asks alone stays connected. */
enum { ALONE_KEEPS = 4 };

struct http_set {
	CURLM *multi;
	bool moved;  /* something came */
	bool broken; /* libcurl said so of the last run */
};

struct http {
	struct http_set *set;
	bool is_alone; /* the set is its own */
	CURL *easy;
	struct curl_slist *headers, *connect_to;
	const struct http_servers *servers;
	size_t server;
	struct svc_buf *answer;
	struct svc_buf said; /* of an open request, and not yet sent */
	bool running, ended;
	bool hungry;   /* for more of an open request */
	CURLcode code; /* when it has ended */
	char reason[CURL_ERROR_SIZE];
};

/* ---------------------------------------------------------- making, ending */

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void
curl_start(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

svc_err
http_set_create(size_t connections, struct http_set **ret_set)
{
	struct http_set *set = svc_mem_calloc(1, sizeof(*set));
	if (set == NULL)
		return SVC_E_NOMEM;
	pthread_once(&curl_once, curl_start);
	set->multi = curl_multi_init();
	if (set->multi == NULL) {
		svc_mem_free(set);
		return SVC_E_NOMEM;
	}
	curl_multi_setopt(set->multi, CURLMOPT_MAXCONNECTS, (long)connections);
	*ret_set = set;
	return SVC_OK;
}

void
http_set_destroy(struct http_set *set)
{
	if (set == NULL)
		return;
	curl_multi_cleanup(set->multi);
	svc_mem_free(set);
}

svc_err
http_create(struct http_set *set, struct http **ret_http)
{
	struct http *http = svc_mem_calloc(1, sizeof(*http));
	if (http == NULL)
		return SVC_E_NOMEM;
	svc_buf_init(&http->said, SAID_MAX);
	http->set = set;
	http->is_alone = set == NULL;
	if (set == NULL && http_set_create(ALONE_KEEPS, &http->set) != SVC_OK) {
		svc_mem_free(http);
		return SVC_E_NOMEM;
	}
	http->easy = curl_easy_init();
	if (http->easy == NULL) {
		http_destroy(http);
		return SVC_E_NOMEM;
	}
	*ret_http = http;
	return SVC_OK;
}

void
http_destroy(struct http *http)
{
	if (http == NULL)
		return;
	http_end(http);
	if (http->easy != NULL)
		curl_easy_cleanup(http->easy);
	if (http->is_alone)
		http_set_destroy(http->set);
	svc_buf_fini(&http->said);
	svc_mem_free(http);
}

/* ---------------------------------------------------------------- requests */

static size_t
receive(char *data, size_t size, size_t count, void *arg)
{
	struct http *http = arg;
	size_t len = size * count;
	http->set->moved = true;
	return svc_buf_append(http->answer, data, len) == SVC_OK ? len : 0;
}

/* Not to be had by programs that this one starts, which would keep the
 * connection, and what its peer takes for our presence. */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *at)
{
	(void)arg;
	(void)purpose;
	return socket(at->family, at->socktype | SOCK_CLOEXEC, at->protocol);
}

static size_t
supply(char *data, size_t size, size_t count, void *arg)
{
	struct http *http = arg;
	size_t len = size * count;
	if (len > http->said.len)
		len = http->said.len;
	http->hungry = len == 0;
	if (len == 0)
		return CURL_READFUNC_PAUSE;
	memcpy(data, http->said.data, len);
	svc_buf_consume(&http->said, len);
	return len;
}

/* A peer that is gone is noticed after 5 s + 3 x 2 s. */
static int
tune_socket(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	int probes = 3;
	(void)arg;
	(void)purpose;
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	return CURL_SOCKOPT_OK;
}

static bool
add_line(struct curl_slist **list, const char *line)
{
	struct curl_slist *more = curl_slist_append(*list, line);
	if (more == NULL)
		return false;
	*list = more;
	return true;
}

static bool
add_headers(struct http *http, const struct http_request *request)
{
	const char *name, *value;
	bool ok = add_line(&http->headers, "Expect:");
	if (request->body != NULL || request->open)
		ok = ok &&
		     add_line(&http->headers, "Content-Type: application/json");
	if (request->open)
		ok = ok &&
		     add_line(&http->headers, "Transfer-Encoding: chunked") &&
		     add_line(&http->headers, "Connection: close");
	for (size_t i = 0;
	     ok && svc_headers_at(request->headers, i, &name, &value); i++) {
		struct svc_buf buf;
		svc_buf_init(&buf, 2 * LINE_MAX_LEN);
		/* An empty value would remove the header. */
		svc_buf_printf(
		    &buf, *value != '\0' ? "%s: %s" : "%s;%s", name, value);
		ok = buf.failed == SVC_OK &&
		     add_line(&http->headers, (const char *)buf.data);
		svc_buf_fini(&buf);
	}
	return ok;
}

static bool
set_url(CURL *easy, const struct http_server *server, const char *path)
{
	struct svc_buf url;
	svc_buf_init(&url, LINE_MAX_LEN);
	svc_buf_printf(&url, "%s%s", server->base, path);
	bool ok = url.failed == SVC_OK &&
		  curl_easy_setopt(easy, CURLOPT_URL, (const char *)url.data) ==
		      CURLE_OK;
	svc_buf_fini(&url);
	return ok;
}

static bool
set_method(struct http *http, const struct http_request *request)
{
	CURL *easy = http->easy;
	if (request->open) {
		curl_easy_setopt(easy, CURLOPT_POST, 1L);
		curl_easy_setopt(easy, CURLOPT_READFUNCTION, supply);
		curl_easy_setopt(easy, CURLOPT_READDATA, http);
		if (request->len > 0 &&
		    svc_buf_append(&http->said, request->body, request->len) !=
			SVC_OK)
			return false;
	} else if (request->body != NULL ||
		   strcmp(request->method, "POST") == 0 ||
		   strcmp(request->method, "PUT") == 0) {
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
		    request->body != NULL ? (const char *)request->body : "");
		curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
		    (curl_off_t)request->len);
	}
	return curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method) ==
	       CURLE_OK;
}

static bool
set_text(CURL *easy, CURLoption option, const char *text)
{
	return text == NULL || curl_easy_setopt(easy, option, text) == CURLE_OK;
}

static bool
set_tls(CURL *easy, const struct http_servers *servers)
{
	curl_easy_setopt(
	    easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	/* So that files which have been replaced are read again. */
	curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, 0L);
	/* A pass phrase would be asked for on the terminal. */
	curl_easy_setopt(easy, CURLOPT_KEYPASSWD, "");
	return set_text(easy, CURLOPT_CAINFO, servers->ca) &&
	       (servers->ca == NULL ||
		   curl_easy_setopt(easy, CURLOPT_CAPATH, NULL) == CURLE_OK) &&
	       set_text(easy, CURLOPT_SSLCERT, servers->cert) &&
	       set_text(easy, CURLOPT_SSLKEY, servers->key);
}

svc_err
http_begin(struct http *http, const struct http_servers *servers, size_t server,
    const struct http_request *request, struct svc_buf *answer,
    struct svc_error *err)
{
	CURL *easy = http->easy;
	const struct http_server *to = &servers->list[server];
	int64_t timeout_ms = request->timeout_ms;
	bool stream = timeout_ms == SVC_FOREVER;
	long connect_ms = CONNECT_MS;
	if (!stream && timeout_ms < connect_ms)
		connect_ms = (long)timeout_ms;
	http->servers = servers;
	http->server = server;
	http->answer = answer;
	http->reason[0] = '\0';
	http->ended = http->hungry = false;
	svc_buf_clear(&http->said);
	curl_easy_reset(easy);
	bool ok =
	    add_headers(http, request) && set_url(easy, to, request->path);
	ok = ok && set_method(http, request) && set_tls(easy, servers);
	ok = ok && set_text(easy, CURLOPT_USERNAME, request->username) &&
	     set_text(easy, CURLOPT_PASSWORD, request->password);
	if (ok && to->connect_to != NULL)
		ok = add_line(&http->connect_to, to->connect_to);
	curl_easy_setopt(easy, CURLOPT_CONNECT_TO, http->connect_to);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, http->headers);
	curl_easy_setopt(
	    easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, http);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, receive);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, http);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, http->reason);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
	if (!stream)
		curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 5L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 2L);
	curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, tune_socket);
	/* A registry is never behind the proxy of the environment. */
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	if (ok && curl_multi_add_handle(http->set->multi, easy) == CURLM_OK) {
		http->running = true;
		return SVC_OK;
	}
	http_end(http);
	return svc_error_set(err, SVC_E_NOMEM, "no memory for a request");
}

/* ------------------------------------------------------------------ errors */

/* What is behind the library's words, and what to do. */
static const char *
advice(const char *url, CURLcode code, const char *reason)
{
	if (strstr(reason, "wrong version number") != NULL ||
	    strstr(reason, "packet length too long") != NULL)
		return "it does not speak TLS: use http://";
	/* As etcd does, which looks for what is spoken first. */
	if (strstr(reason, "SSL_ERROR_SYSCALL") != NULL ||
	    strstr(reason, "unexpected eof") != NULL ||
	    (code == CURLE_SSL_CONNECT_ERROR &&
		strstr(reason, "Connection reset by peer") != NULL))
		return "it broke off: does it speak TLS? if not, use http://";
	if (strstr(reason, "certificate required") != NULL ||
	    (strstr(reason, "alert bad certificate") != NULL))
		return "it demands a client certificate that it trusts: see "
		       "--registry_tls_cert";
	if (strstr(reason, "alert unknown ca") != NULL)
		return "it does not trust the CA of our certificate: see "
		       "--registry_tls_cert";
	if (code == CURLE_GOT_NOTHING && strncmp(url, "http:", 5) == 0)
		return "it hung up: if it speaks TLS, use https://";
	if (strstr(reason, "certificate has expired") != NULL ||
	    strstr(reason, "certificate is not yet valid") != NULL)
		return "its certificate is out of date, or the clock of this "
		       "host is";
	if (code == CURLE_PEER_FAILED_VERIFICATION)
		return strstr(reason, "subject name") != NULL
			   ? "its certificate is for another name: see "
			     "--registry_tls_name"
			   : "its certificate is not trusted: see "
			     "--registry_tls_ca";
	if (code == CURLE_SSL_CERTPROBLEM)
		return "see --registry_tls_cert and --registry_tls_key";
	if (code == CURLE_SSL_CACERT_BADFILE)
		return "see --registry_tls_ca";
	return NULL;
}

static svc_err
translate(const struct http *http, CURLcode code, struct svc_error *err)
{
	const char *reason =
	    http->reason[0] != '\0' ? http->reason : curl_easy_strerror(code);
	const char *url = http_servers_url(http->servers, http->server);
	const char *more = advice(url, code, reason);
	/* Which the library keeps to itself: refused, no route, ... */
	long sys = 0;
	if (code == CURLE_COULDNT_CONNECT &&
	    curl_easy_getinfo(http->easy, CURLINFO_OS_ERRNO, &sys) ==
		CURLE_OK &&
	    sys > 0)
		more = strerror((int)sys);
	svc_err rc = SVC_E_UNAVAILABLE;
	if (code == CURLE_OPERATION_TIMEDOUT)
		rc = SVC_E_TIMEDOUT;
	else if (code == CURLE_OUT_OF_MEMORY)
		rc = SVC_E_NOMEM;
	else if (code == CURLE_SSL_CERTPROBLEM ||
		 code == CURLE_SSL_CACERT_BADFILE)
		rc = SVC_E_INVAL;
	else if (code == CURLE_WRITE_ERROR)
		rc = http->answer->failed == SVC_E_NOMEM ? SVC_E_NOMEM
							 : SVC_E_EXHAUSTED;
	/* The advice first: the library's words may be long. */
	svc_error_set(err, rc, "%s at %s: %s%s%s%s", http->servers->registry,
	    url, more != NULL ? more : "", more != NULL ? " (" : "", reason,
	    more != NULL ? ")" : "");
	if (err != NULL)
		err->sys = (int)code;
	return rc;
}

/* ----------------------------------------------------------------- running */

static void
perform(struct http_set *set)
{
	CURLMsg *message;
	int running, left;
	set->broken = curl_multi_perform(set->multi, &running) != CURLM_OK;
	while ((message = curl_multi_info_read(set->multi, &left)) != NULL) {
		char *private = NULL;
		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(
		    message->easy_handle, CURLINFO_PRIVATE, &private);
		struct http *http = (void *)private;
		http->code = message->data.result;
		http->ended = true;
		set->moved = true;
	}
}

void
http_set_run(struct http_set *set, int64_t wait_ms)
{
	set->moved = false;
	perform(set);
	if (set->moved)
		return;
	curl_multi_poll(set->multi, NULL, 0,
	    wait_ms < 0 || wait_ms > INT32_MAX ? INT32_MAX : (int)wait_ms,
	    NULL);
	perform(set);
}

void
http_set_wake(struct http_set *set)
{
	curl_multi_wakeup(set->multi);
}

svc_err
http_look(struct http *http, int *ret_status, struct svc_error *err)
{
	long status = 0;
	if (!http->ended)
		return http->set->broken ? svc_error_set(err, SVC_E_INTERNAL,
					       "libcurl lost its state")
					 : SVC_E_AGAIN;
	if (http->code != CURLE_OK)
		return translate(http, http->code, err);
	curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &status);
	*ret_status = (int)status;
	return SVC_OK;
}

svc_err
http_run(
    struct http *http, int64_t wait_ms, int *ret_status, struct svc_error *err)
{
	http_set_run(http->set, wait_ms);
	return http_look(http, ret_status, err);
}

svc_err
http_say(struct http *http, const void *data, size_t len)
{
	svc_err rc = svc_buf_append(&http->said, data, len);
	if (rc == SVC_OK && http->hungry) {
		http->hungry = false;
		curl_easy_pause(http->easy, CURLPAUSE_CONT);
	}
	return rc;
}

const char *
http_header(struct http *http, const char *name)
{
	struct curl_header *header = NULL;
	if (curl_easy_header(http->easy, name, 0, CURLH_HEADER, -1, &header) !=
	    CURLHE_OK)
		return NULL;
	return header->value;
}

void
http_end(struct http *http)
{
	if (http->running)
		curl_multi_remove_handle(http->set->multi, http->easy);
	http->running = false;
	curl_slist_free_all(http->headers);
	curl_slist_free_all(http->connect_to);
	http->headers = NULL;
	http->connect_to = NULL;
}

void
http_wait(struct http *http, int64_t wait_ms)
{
	curl_multi_poll(http->set->multi, NULL, 0, (int)wait_ms, NULL);
}

void
http_wake(struct http *http)
{
	http_set_wake(http->set);
}

svc_err
http_ask(struct http *http, const struct http_servers *servers, size_t server,
    const struct http_request *request, const atomic_bool *stop,
    struct svc_buf *answer, int *ret_status, struct svc_error *err)
{
	svc_err rc = http_begin(http, servers, server, request, answer, err);
	if (rc != SVC_OK)
		return rc;
	do {
		rc = http_run(http, request->timeout_ms, ret_status, err);
		if (rc == SVC_E_AGAIN && stop != NULL && atomic_load(stop))
			rc = svc_error_set(err, SVC_E_CANCELLED, "%s",
			    svc_err_text(SVC_E_CANCELLED));
	} while (rc == SVC_E_AGAIN);
	return rc;
}
