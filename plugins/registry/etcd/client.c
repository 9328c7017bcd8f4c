/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks: etcd.lock guards the idle connections, the token, the leases and the
 * count of what was skipped. It is never held during a request or a callback.
 */
#include "client.h"

#include "lease.h"

#include <svc/clock.h>
#include <svc/log.h>

#include <stdlib.h>
#include <string.h>

enum { PORT_DEFAULT = 2379, TRY_MIN_MS = 200, TRY_MAX_MS = 2000 };

/* -------------------------------------------------------- making, ending */

svc_err
etcd_create(const struct svc_registry_config *config, struct etcd **ret_etcd,
    struct svc_error *err)
{
	struct etcd *etcd = svc_mem_calloc(1, sizeof(*etcd));
	if (etcd == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry etcd");
	pthread_mutex_init(&etcd->lock, NULL);
	svc_err rc = http_servers_create(
	    "etcd", config, PORT_DEFAULT, &etcd->servers, err);
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
	etcd->n_servers = http_servers_count(etcd->servers);
	size_t tries = etcd->n_servers > 2 ? etcd->n_servers : 2;
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
	http_servers_destroy(etcd->servers);
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
refused(int status, const cJSON *answer, const struct svc_buf *body,
    const char *url, bool *ret_next, struct svc_error *err)
{
	char quoted[120];
	const cJSON *text = cJSON_GetObjectItemCaseSensitive(answer, "message");
	if (!cJSON_IsString(text))
		text = cJSON_GetObjectItemCaseSensitive(answer, "error");
	/* What does not know the gateway says it in plain text. */
	const char *said = cJSON_IsString(text) ? text->valuestring : "";
	if (*said != '\0')
		svc_log_quote(said, strlen(said), quoted, sizeof(quoted));
	else
		svc_log_quote((const char *)body->data, body->len, quoted,
		    sizeof(quoted));
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

struct svc_headers *
etcd_headers(const char *token)
{
	struct svc_headers *headers = svc_headers_create();
	if (headers != NULL && *token != '\0' &&
	    svc_headers_set(headers, "Authorization", token) != SVC_OK) {
		svc_headers_destroy(headers);
		return NULL;
	}
	return headers;
}

static svc_err
post(struct etcd *etcd, struct http *http, size_t server, const char *path,
    const char *token, const struct svc_buf *body, int64_t timeout_ms,
    const atomic_bool *stop, cJSON **ret_answer, bool *ret_next,
    struct svc_error *err)
{
	struct svc_buf answer;
	int status = 0;
	const char *url = http_servers_url(etcd->servers, server);
	svc_buf_init(&answer, ANSWER_MAX);
	svc_err rc = SVC_E_NOMEM;
	struct svc_headers *headers = etcd_headers(token);
	struct http_request request = {.method = "POST",
	    .path = path,
	    .headers = headers,
	    .body = body->data,
	    .len = body->len,
	    .timeout_ms = timeout_ms};
	if (headers != NULL && body->failed == SVC_OK) {
		rc = http_ask(http, etcd->servers, server, &request, stop,
		    &answer, &status, err);
		http_end(http);
	} else {
		svc_error_set(err, rc, "no memory for a request");
	}
	*ret_next = rc == SVC_E_UNAVAILABLE || rc == SVC_E_TIMEDOUT;
	cJSON *json = NULL;
	if (rc == SVC_OK) {
		json = cJSON_ParseWithLength(
		    answer.len > 0 ? (const char *)answer.data : "",
		    answer.len);
		if (status != 200) {
			rc = refused(status, json, &answer, url, ret_next, err);
		} else if (!cJSON_IsObject(json)) {
			*ret_next = true;
			rc = svc_error_set(err, SVC_E_UNAVAILABLE,
			    "%s does not answer as etcd does: is it etcd 3.4 "
			    "or later?",
			    url);
		}
	}
	svc_headers_destroy(headers);
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
	svc_err rc = post(etcd, http, server, "/v3/auth/authenticate", "",
	    &body, timeout_ms, stop, &answer, &next, err);
	svc_buf_fini(&body);
	if (rc != SVC_OK)
		return rc;
	const cJSON *token = cJSON_GetObjectItemCaseSensitive(answer, "token");
	size_t len = cJSON_IsString(token) ? strlen(token->valuestring) : 0;
	if (len == 0 || len >= TOKEN_SIZE) {
		rc = svc_error_set(err, SVC_E_DENIED,
		    "etcd at %s gave no usable token for its user",
		    http_servers_url(etcd->servers, server));
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
	size_t tries = etcd->n_servers > 2 ? etcd->n_servers : 2;
	svc_err rc = SVC_E_NOMEM;
	if (http == NULL)
		return svc_error_set(err, rc, "no memory for a request");
	for (size_t i = 0; i < tries; i++) {
		size_t server = (first + i) % etcd->n_servers;
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
