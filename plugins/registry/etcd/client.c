/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks: etcd.lock guards the idle connections, the token, the leases and the
 * count of what was skipped. It is never held during a request or a callback.
 */
#include "client.h"

#include "lease.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

enum {
	PORT_DEFAULT = 2379,
	HOST_MAX = 253,
	TRY_MIN_MS = 200,
	TRY_MAX_MS = 2000
};

/* ------------------------------------------------------------- addresses */

static svc_err
bad_address(
    const char *text, size_t len, const char *why, struct svc_error *err)
{
	char quoted[64];
	svc_log_quote(text, len, quoted, sizeof(quoted));
	return svc_error_set(err, SVC_E_INVAL,
	    "etcd address %s %s: use \"host\", \"host:port\" or "
	    "\"http://host:port\", several separated by commas",
	    quoted, why);
}

static bool
is_host_char(char c, bool v6)
{
	if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') ||
	    (c >= 'A' && c <= 'F') || c == '.')
		return true;
	if (v6)
		return c == ':';
	return (c >= 'g' && c <= 'z') || (c >= 'G' && c <= 'Z') || c == '-' ||
	       c == '_';
}

/* One of the list: [text, text + len). */
static svc_err
parse_address(
    const char *text, size_t len, char **ret_url, struct svc_error *err)
{
	static const char scheme[] = "http://";
	const char *host = text, *end = text + len;
	long port = PORT_DEFAULT;
	if (len > sizeof(scheme) - 1 &&
	    strncmp(host, scheme, sizeof(scheme) - 1) == 0)
		host += sizeof(scheme) - 1;
	else if (memmem(text, len, "://", 3) != NULL)
		return bad_address(text, len, "has an unknown scheme", err);
	if (end > host && end[-1] == '/')
		end--;
	bool v6 = host < end && *host == '[';
	const char *first = host + (v6 ? 1 : 0), *p = first;
	while (p < end && is_host_char(*p, v6))
		p++;
	size_t host_len = (size_t)(p - first);
	if (host_len == 0 || host_len > HOST_MAX ||
	    (v6 && (p == end || *p++ != ']')))
		return bad_address(text, len, "has no valid host", err);
	const char *host_end = p;
	if (p < end) {
		if (*p++ != ':')
			return bad_address(text, len, "has no valid host", err);
		port = 0;
		const char *digits = p;
		while (p < end && *p >= '0' && *p <= '9' && p - digits < 6)
			port = port * 10 + (*p++ - '0');
		if (p < end || p == digits || port < 1 || port > 65535)
			return bad_address(
			    text, len, "has no port from 1 to 65535", err);
	}
	struct svc_buf url;
	svc_buf_init(&url, 512);
	svc_buf_printf(
	    &url, "http://%.*s:%ld", (int)(host_end - host), host, port);
	*ret_url = url.failed == SVC_OK ? svc_buf_take(&url, NULL) : NULL;
	svc_buf_fini(&url);
	if (*ret_url == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry etcd");
	return SVC_OK;
}

static svc_err
parse_addresses(struct etcd *etcd, const char *list, struct svc_error *err)
{
	size_t count = 1;
	if (list == NULL || *list == '\0')
		list = "127.0.0.1:2379";
	for (const char *p = list; *p != '\0'; p++)
		count += *p == ',';
	etcd->urls = svc_mem_calloc(count, sizeof(char *));
	if (etcd->urls == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry etcd");
	for (const char *p = list;;) {
		size_t len = strcspn(p, ",");
		const char *next = p + len;
		while (len > 0 && *p == ' ') {
			p++;
			len--;
		}
		while (len > 0 && p[len - 1] == ' ')
			len--;
		if (len == 0)
			return bad_address(
			    list, strlen(list), "has an empty part", err);
		svc_err rc =
		    parse_address(p, len, &etcd->urls[etcd->n_urls], err);
		if (rc != SVC_OK)
			return rc;
		etcd->n_urls++;
		if (*next == '\0')
			return SVC_OK;
		p = next + 1;
	}
}

/* -------------------------------------------------------- making, ending */

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void
curl_start(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

svc_err
etcd_create(const struct svc_registry_config *config, struct etcd **ret_etcd,
    struct svc_error *err)
{
	struct etcd *etcd = svc_mem_calloc(1, sizeof(*etcd));
	if (etcd == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry etcd");
	pthread_once(&curl_once, curl_start);
	pthread_mutex_init(&etcd->lock, NULL);
	svc_err rc = parse_addresses(etcd, config->address, err);
	if (rc == SVC_OK && config->username != NULL) {
		etcd->username = svc_mem_strdup(config->username);
		etcd->password = svc_mem_strdup(
		    config->password != NULL ? config->password : "");
		if (etcd->username == NULL || etcd->password == NULL)
			rc = svc_error_set(
			    err, SVC_E_NOMEM, "no memory for registry etcd");
	}
	if (rc != SVC_OK) {
		etcd_destroy(etcd);
		return rc;
	}
	/* A server that lost its leader may swallow a request, so the time
	 * must do for a second attempt, or for one at each server. */
	size_t tries = etcd->n_urls > 2 ? etcd->n_urls : 2;
	etcd->timeout_ms = config->timeout_ms;
	etcd->try_ms = etcd->timeout_ms / (int64_t)tries;
	if (etcd->try_ms > TRY_MAX_MS)
		etcd->try_ms = TRY_MAX_MS;
	if (etcd->try_ms < TRY_MIN_MS)
		etcd->try_ms = TRY_MIN_MS;
	*ret_etcd = etcd;
	return SVC_OK;
}

void
etcd_destroy(struct etcd *etcd)
{
	if (etcd == NULL)
		return;
	for (size_t i = 0; i < etcd->n_idle; i++)
		http_destroy(etcd->idle[i]);
	for (size_t i = 0; i < etcd->n_urls; i++)
		svc_mem_free(etcd->urls[i]);
	svc_mem_free(etcd->urls);
	svc_mem_free(etcd->username);
	svc_mem_free(etcd->password);
	lease_forget_all(etcd);
	pthread_mutex_destroy(&etcd->lock);
	svc_mem_free(etcd);
}

static struct http *
take_idle(struct etcd *etcd)
{
	struct http *http = NULL;
	pthread_mutex_lock(&etcd->lock);
	if (etcd->n_idle > 0)
		http = etcd->idle[--etcd->n_idle];
	pthread_mutex_unlock(&etcd->lock);
	if (http == NULL && http_create(&http) != SVC_OK)
		return NULL;
	return http;
}

static void
give_idle(struct etcd *etcd, struct http *http)
{
	pthread_mutex_lock(&etcd->lock);
	if (etcd->n_idle < IDLE_MAX) {
		etcd->idle[etcd->n_idle++] = http;
		http = NULL;
	}
	pthread_mutex_unlock(&etcd->lock);
	http_destroy(http);
}

/* --------------------------------------------------------------- answers */

int64_t
etcd_int(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
	if (cJSON_IsString(item))
		return strtoll(item->valuestring, NULL, 10);
	if (cJSON_IsNumber(item))
		return (int64_t)item->valuedouble;
	return 0;
}

int64_t
etcd_revision(const cJSON *answer)
{
	return etcd_int(
	    cJSON_GetObjectItemCaseSensitive(answer, "header"), "revision");
}

/* The gateway's {"error", "message", "code"} with gRPC's codes. */
static svc_err
refused(int status, const cJSON *answer, const char *url, bool *ret_next,
    struct svc_error *err)
{
	char quoted[120];
	const cJSON *text = cJSON_GetObjectItemCaseSensitive(answer, "message");
	if (!cJSON_IsString(text))
		text = cJSON_GetObjectItemCaseSensitive(answer, "error");
	const char *said =
	    cJSON_IsString(text) ? text->valuestring : "no reason given";
	svc_log_quote(said, strlen(said), quoted, sizeof(quoted));
	svc_err rc = SVC_E_UNAVAILABLE;
	int code = (int)etcd_int(answer, "code");
	switch (code) {
	case 3:
		rc = strstr(said, "authentication failed") != NULL ||
			     strstr(said, "user name is empty") != NULL
			 ? SVC_E_DENIED
			 : SVC_E_INVAL;
		break;
	case 5:
		rc = SVC_E_NOT_FOUND;
		break;
	case 7:
		rc = SVC_E_DENIED;
		break;
	case 8:
		rc = SVC_E_EXHAUSTED;
		break;
	case 11:
		rc = SVC_E_RANGE;
		break;
	case 16:
		rc = SVC_E_UNAUTHENTICATED;
		break;
	default:
		break;
	}
	*ret_next = rc == SVC_E_UNAVAILABLE;
	svc_error_set(err, rc, "etcd at %s refused: %s (HTTP status %d)", url,
	    quoted, status);
	if (err != NULL)
		err->sys = status;
	return rc;
}

static svc_err
post(struct etcd *etcd, struct http *http, size_t server, const char *path,
    const char *token, const struct svc_buf *body, int64_t timeout_ms,
    const atomic_bool *stop, cJSON **ret_answer, bool *ret_next,
    struct svc_error *err)
{
	struct svc_buf url, answer;
	struct svc_error detail = {0};
	int status = 0;
	const char *base = etcd->urls[server];
	svc_buf_init(&url, 1024);
	svc_buf_init(&answer, ANSWER_MAX);
	svc_buf_printf(&url, "%s%s", base, path);
	*ret_next = true;
	svc_err rc = SVC_E_NOMEM;
	if (url.failed == SVC_OK && body->failed == SVC_OK)
		rc = http_begin(http, (const char *)url.data, token, body,
		    timeout_ms, &answer, &detail);
	if (rc == SVC_OK) {
		do {
			rc = http_run(http, timeout_ms, &status, &detail);
			if (rc == SVC_E_AGAIN && stop != NULL &&
			    atomic_load(stop))
				rc = SVC_E_CANCELLED;
		} while (rc == SVC_E_AGAIN);
		http_end(http);
	}
	cJSON *json = NULL;
	if (rc == SVC_OK) {
		json = cJSON_ParseWithLength(
		    answer.len > 0 ? (const char *)answer.data : "",
		    answer.len);
		if (status != 200) {
			rc = refused(status, json, base, ret_next, err);
		} else if (!cJSON_IsObject(json)) {
			rc = svc_error_set(err, SVC_E_UNAVAILABLE,
			    "%s does not answer as etcd does: is it etcd 3.4 "
			    "or later?",
			    base);
		}
	} else {
		*ret_next = rc == SVC_E_UNAVAILABLE || rc == SVC_E_TIMEDOUT;
		svc_error_set(err, rc, "etcd at %s: %s", base,
		    detail.text[0] != '\0' ? detail.text : svc_err_text(rc));
		if (err != NULL)
			err->sys = detail.sys;
	}
	svc_buf_fini(&url);
	svc_buf_fini(&answer);
	if (rc == SVC_OK)
		*ret_answer = json;
	else
		cJSON_Delete(json);
	return rc;
}

/* ---------------------------------------------------------------- asking */

svc_err
etcd_token(struct etcd *etcd, struct http *http, size_t server, bool refresh,
    char ret_token[TOKEN_SIZE], int64_t timeout_ms, const atomic_bool *stop,
    struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	bool next;
	ret_token[0] = '\0';
	if (etcd->username == NULL)
		return SVC_OK;
	pthread_mutex_lock(&etcd->lock);
	if (!refresh)
		memcpy(ret_token, etcd->token, TOKEN_SIZE);
	pthread_mutex_unlock(&etcd->lock);
	if (ret_token[0] != '\0')
		return SVC_OK;
	svc_buf_init(&body, BODY_MAX);
	svc_buf_puts(&body, "{\"name\":");
	svc_buf_json_string(&body, etcd->username, strlen(etcd->username));
	svc_buf_puts(&body, ",\"password\":");
	svc_buf_json_string(&body, etcd->password, strlen(etcd->password));
	svc_buf_puts(&body, "}");
	svc_err rc = post(etcd, http, server, "/v3/auth/authenticate", NULL,
	    &body, timeout_ms, stop, &answer, &next, err);
	svc_buf_fini(&body);
	if (rc != SVC_OK)
		return rc;
	const cJSON *token = cJSON_GetObjectItemCaseSensitive(answer, "token");
	size_t len = cJSON_IsString(token) ? strlen(token->valuestring) : 0;
	if (len == 0 || len >= TOKEN_SIZE) {
		rc = svc_error_set(err, SVC_E_DENIED,
		    "etcd at %s gave no usable token for its user",
		    etcd->urls[server]);
	} else {
		memcpy(ret_token, token->valuestring, len + 1);
		pthread_mutex_lock(&etcd->lock);
		memcpy(etcd->token, ret_token, len + 1);
		pthread_mutex_unlock(&etcd->lock);
	}
	cJSON_Delete(answer);
	return rc;
}

svc_err
etcd_ask_at(struct etcd *etcd, struct http *http, size_t server,
    const char *path, const struct svc_buf *body, int64_t timeout_ms,
    const atomic_bool *stop, cJSON **ret_answer, bool *ret_next,
    struct svc_error *err)
{
	char token[TOKEN_SIZE];
	svc_err rc = SVC_OK;
	/* A token that has expired is fetched anew once. */
	for (int round = 0; round < 2; round++) {
		*ret_next = true;
		rc = etcd_token(etcd, http, server, round > 0, token,
		    timeout_ms, stop, err);
		if (rc != SVC_OK) {
			*ret_next =
			    rc == SVC_E_UNAVAILABLE || rc == SVC_E_TIMEDOUT;
			return rc;
		}
		rc = post(etcd, http, server, path, token, body, timeout_ms,
		    stop, ret_answer, ret_next, err);
		if (rc != SVC_E_UNAUTHENTICATED || etcd->username == NULL)
			break;
	}
	return rc == SVC_E_UNAUTHENTICATED ? SVC_E_DENIED : rc;
}

svc_err
etcd_ask(struct etcd *etcd, const char *path, const struct svc_buf *body,
    int64_t deadline_at_ms, cJSON **ret_answer, struct svc_error *err)
{
	struct http *http = take_idle(etcd);
	size_t first = atomic_load(&etcd->current);
	size_t tries = etcd->n_urls > 2 ? etcd->n_urls : 2;
	svc_err rc = SVC_E_NOMEM;
	if (http == NULL)
		return svc_error_set(err, rc, "no memory for a request");
	for (size_t i = 0; i < tries; i++) {
		size_t server = (first + i) % etcd->n_urls;
		int64_t left_ms = svc_remaining(deadline_at_ms);
		bool next;
		if (i > 0 && left_ms == 0)
			break;
		if (left_ms > etcd->try_ms || left_ms == SVC_FOREVER)
			left_ms = etcd->try_ms;
		if (left_ms < 1)
			left_ms = 1;
		rc = etcd_ask_at(etcd, http, server, path, body, left_ms, NULL,
		    ret_answer, &next, err);
		if (rc == SVC_OK || !next) {
			atomic_store(&etcd->current, server);
			break;
		}
	}
	give_idle(etcd, http);
	return rc;
}
