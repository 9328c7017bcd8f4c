/* SPDX-License-Identifier: Apache-2.0 */
#include "http.h"

#include <curl/curl.h>
#include <string.h>

enum { CONNECT_MS = 2000, HEADER_MAX = 4096 };

struct http {
	CURLM *multi;
	CURL *easy;
	struct curl_slist *headers;
	struct svc_buf *answer;
	bool running;
	char reason[CURL_ERROR_SIZE];
};

svc_err
http_create(struct http **ret_http)
{
	struct http *http = svc_mem_calloc(1, sizeof(*http));
	if (http == NULL)
		return SVC_E_NOMEM;
	http->multi = curl_multi_init();
	http->easy = curl_easy_init();
	if (http->multi == NULL || http->easy == NULL) {
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
	if (http->multi != NULL)
		curl_multi_cleanup(http->multi);
	svc_mem_free(http);
}

static size_t
receive(char *data, size_t size, size_t count, void *arg)
{
	struct http *http = arg;
	size_t len = size * count;
	return svc_buf_append(http->answer, data, len) == SVC_OK ? len : 0;
}

static bool
add_header(struct http *http, const char *line)
{
	struct curl_slist *more = curl_slist_append(http->headers, line);
	if (more == NULL)
		return false;
	http->headers = more;
	return true;
}

static bool
add_headers(struct http *http, const char *token)
{
	if (!add_header(http, "Content-Type: application/json") ||
	    !add_header(http, "Expect:"))
		return false;
	if (token == NULL || *token == '\0')
		return true;
	struct svc_buf buf;
	svc_buf_init(&buf, HEADER_MAX);
	svc_buf_printf(&buf, "Authorization: %s", token);
	bool ok =
	    buf.failed == SVC_OK && add_header(http, (const char *)buf.data);
	svc_buf_fini(&buf);
	return ok;
}

svc_err
http_begin(struct http *http, const char *url, const char *token,
    const struct svc_buf *body, int64_t timeout_ms, struct svc_buf *answer,
    struct svc_error *err)
{
	CURL *easy = http->easy;
	bool stream = timeout_ms == SVC_FOREVER;
	long connect_ms = CONNECT_MS;
	if (!stream && timeout_ms < connect_ms)
		connect_ms = (long)timeout_ms;
	http->answer = answer;
	http->reason[0] = '\0';
	curl_easy_reset(easy);
	bool ok = add_headers(http, token);
	ok = ok && curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK;
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, http->headers);
	curl_easy_setopt(easy, CURLOPT_POST, 1L);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, (const char *)body->data);
	curl_easy_setopt(
	    easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
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
	/* A registry is never behind the proxy of the environment. */
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	if (ok && curl_multi_add_handle(http->multi, easy) == CURLM_OK) {
		http->running = true;
		return SVC_OK;
	}
	http_end(http);
	return svc_error_set(err, SVC_E_NOMEM, "no memory for a request");
}

static svc_err
translate(const struct http *http, CURLcode code, struct svc_error *err)
{
	svc_err rc = SVC_E_UNAVAILABLE;
	if (code == CURLE_OPERATION_TIMEDOUT)
		rc = SVC_E_TIMEDOUT;
	else if (code == CURLE_OUT_OF_MEMORY)
		rc = SVC_E_NOMEM;
	else if (code == CURLE_WRITE_ERROR)
		rc = http->answer->failed == SVC_E_NOMEM ? SVC_E_NOMEM
							 : SVC_E_EXHAUSTED;
	svc_error_set(err, rc, "%s",
	    http->reason[0] != '\0' ? http->reason : curl_easy_strerror(code));
	if (err != NULL)
		err->sys = (int)code;
	return rc;
}

static bool
is_complete(struct http *http, CURLcode *ret_code)
{
	CURLMsg *message;
	int left;
	while ((message = curl_multi_info_read(http->multi, &left)) != NULL) {
		if (message->msg == CURLMSG_DONE) {
			*ret_code = message->data.result;
			return true;
		}
	}
	return false;
}

svc_err
http_run(
    struct http *http, int64_t wait_ms, int *ret_status, struct svc_error *err)
{
	size_t had = http->answer->len;
	CURLcode code = CURLE_OK;
	/* Once before the wait and once after it. */
	for (int turn = 0; turn < 2; turn++) {
		int running = 0;
		if (curl_multi_perform(http->multi, &running) != CURLM_OK)
			return svc_error_set(
			    err, SVC_E_INTERNAL, "libcurl lost its state");
		if (is_complete(http, &code)) {
			long status = 0;
			if (code != CURLE_OK)
				return translate(http, code, err);
			curl_easy_getinfo(
			    http->easy, CURLINFO_RESPONSE_CODE, &status);
			*ret_status = (int)status;
			return SVC_OK;
		}
		if (turn == 0 && http->answer->len == had)
			curl_multi_poll(http->multi, NULL, 0,
			    wait_ms > INT32_MAX ? INT32_MAX : (int)wait_ms,
			    NULL);
	}
	return SVC_E_AGAIN;
}

void
http_end(struct http *http)
{
	if (http->running)
		curl_multi_remove_handle(http->multi, http->easy);
	http->running = false;
	curl_slist_free_all(http->headers);
	http->headers = NULL;
}

void
http_wake(struct http *http)
{
	curl_multi_wakeup(http->multi);
}
