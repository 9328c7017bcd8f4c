/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks: `all_lock` guards which clients there are, etcd.lock the idle
 * connections and the token. Neither is held during a request or a callback.
 */
#include "client.h"

#include "lease.h"

#include <address/address.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <string.h>

enum {
	PORT_DEFAULT = 2379,
	PAUSE_MS = 100,
	STATUS_MIN = 100 /* of HTTP, in an error's `sys` */
};

/* -------------------------------------------------------- making, ending */

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct etcd *all;

static void
destroy(struct etcd *etcd)
{
	keeper_destroy(etcd->keeper);
	for (size_t i = 0; i < etcd->n_idle; i++)
		http_destroy(etcd->idle[i]);
	http_servers_destroy(etcd->servers);
	svc_mem_free(etcd->username);
	svc_mem_free(etcd->password);
	svc_mem_free(etcd->identity);
	skips_fini(&etcd->skips);
	pthread_mutex_destroy(&etcd->lock);
	svc_mem_free(etcd);
}

static svc_err
create(const struct svc_registry_config *config, struct etcd **ret_etcd,
    struct svc_error *err)
{
	struct etcd *etcd = svc_mem_calloc(1, sizeof(*etcd));
	if (etcd == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry etcd");
	pthread_mutex_init(&etcd->lock, NULL);
	skips_init(&etcd->skips);
	etcd->timeout_ms = config->timeout_ms;
	svc_err rc = http_servers_create(
	    "etcd", config, PORT_DEFAULT, &etcd->servers, err);
	if (rc == SVC_OK) {
		etcd->n_servers = http_servers_count(etcd->servers);
		rc = keeper_create(etcd, &etcd->keeper, err);
	}
	if (rc == SVC_OK && config->username != NULL) {
		etcd->username = svc_mem_strdup(config->username);
		etcd->password = svc_mem_strdup(
		    config->password != NULL ? config->password : "");
		if (etcd->username == NULL || etcd->password == NULL)
			rc = svc_error_set(
			    err, SVC_E_NOMEM, "no memory for registry etcd");
	}
	if (rc != SVC_OK) {
		destroy(etcd);
		return rc;
	}
	*ret_etcd = etcd;
	return SVC_OK;
}

/* The config as one text, to be freed with svc_mem_free. */
static char *
identity_of(const struct svc_registry_config *config)
{
	static const struct svc_tls_config none;
	const struct svc_tls_config *tls =
	    config->tls != NULL ? config->tls : &none;
	const char *const texts[] = {config->address, config->username,
	    config->password, tls->ca, tls->cert, tls->key, tls->name,
	    config->tls != NULL ? "tls" : ""};
	struct svc_buf buf;
	svc_buf_init(&buf, 1 << 20);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		svc_buf_printf(&buf, "%s\n", texts[i] != NULL ? texts[i] : "");
	svc_buf_printf(&buf, "%lld", (long long)config->timeout_ms);
	char *text = buf.failed == SVC_OK ? svc_buf_take(&buf, NULL) : NULL;
	svc_buf_fini(&buf);
	return text;
}

svc_err
etcd_obtain(const struct svc_registry_config *config, struct etcd **ret_etcd,
    struct svc_error *err)
{
	char *identity = identity_of(config);
	if (identity == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for registry etcd");
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&all_lock);
	struct etcd *etcd = all;
	while (etcd != NULL && strcmp(etcd->identity, identity) != 0)
		etcd = etcd->next;
	if (etcd == NULL) {
		rc = create(config, &etcd, err);
		if (rc == SVC_OK) {
			etcd->identity = identity;
			identity = NULL;
			etcd->next = all;
			all = etcd;
		}
	}
	if (rc == SVC_OK) {
		etcd->users++;
		*ret_etcd = etcd;
	}
	pthread_mutex_unlock(&all_lock);
	svc_mem_free(identity);
	return rc;
}

void
etcd_release(struct etcd *etcd)
{
	struct etcd **at = &all;
	pthread_mutex_lock(&all_lock);
	bool last = --etcd->users == 0;
	while (last && *at != etcd)
		at = &(*at)->next;
	if (last)
		*at = etcd->next;
	pthread_mutex_unlock(&all_lock);
	if (last)
		destroy(etcd);
}

static struct http *
take_idle(struct etcd *etcd)
{
	struct http *http = NULL;
	pthread_mutex_lock(&etcd->lock);
	if (etcd->n_idle > 0)
		http = etcd->idle[--etcd->n_idle];
	pthread_mutex_unlock(&etcd->lock);
	if (http == NULL && http_create(NULL, &http) != SVC_OK)
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

/* ------------------------------------------------------------ one question */

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

/* What the answer says; it goes to `ret_answer` on success. */
static svc_err
judge(const char *url, int status, const struct svc_buf *answer,
    cJSON **ret_answer, struct svc_error *err)
{
	char quoted[120];
	const char *text = answer->len > 0 ? (const char *)answer->data : "";
	cJSON *json = cJSON_ParseWithLength(text, answer->len);
	svc_err rc = message_error(
	    status, json, text, answer->len, quoted, sizeof(quoted));
	/* Of another program at this address, or of an etcd before 3.4. */
	bool strange =
	    !cJSON_IsObject(json) &&
	    (status == 200 || status == 404 || status == 405 || status == 501);
	if (strange) {
		rc = svc_error_set(err, SVC_E_UNAVAILABLE,
		    "%s does not answer as etcd does (HTTP status %d): is it "
		    "etcd 3.4 or later?",
		    url, status);
	} else if (rc != SVC_OK) {
		bool login = rc == SVC_E_DENIED || rc == SVC_E_UNAUTHENTICATED;
		svc_error_set(err, rc,
		    "etcd at %s refused: %s (HTTP status %d)%s", url, quoted,
		    status,
		    login ? ": see registry_username and registry_password"
			  : "");
		if (err != NULL)
			err->sys = status;
	}
	if (rc == SVC_OK)
		*ret_answer = json;
	else
		cJSON_Delete(json);
	return rc;
}

static svc_err
post(struct etcd *etcd, struct http *http, size_t server, const char *path,
    const char *token, const struct svc_buf *body, int64_t timeout_ms,
    const atomic_bool *stop, cJSON **ret_answer, struct svc_error *err)
{
	struct svc_buf answer;
	int status = 0;
	struct svc_headers *headers = etcd_headers(token);
	struct http_request request = {.method = "POST",
	    .path = path,
	    .headers = headers,
	    .body = body->data,
	    .len = body->len,
	    .timeout_ms = timeout_ms};
	if (headers == NULL || body->failed != SVC_OK) {
		svc_headers_destroy(headers);
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a request");
	}
	svc_buf_init(&answer, ANSWER_MAX);
	svc_err rc = http_ask(
	    http, etcd->servers, server, &request, stop, &answer, &status, err);
	http_end(http);
	if (rc == SVC_OK)
		rc = judge(http_servers_url(etcd->servers, server), status,
		    &answer, ret_answer, err);
	svc_headers_destroy(headers);
	svc_buf_fini(&answer);
	return rc;
}

/* ------------------------------------------------------------------- login */

/* A server without users serves everybody, as long as it has none. */
static bool
go_without(struct etcd *etcd, size_t server)
{
	pthread_mutex_lock(&etcd->lock);
	bool was = etcd->no_users;
	etcd->no_users = true;
	pthread_mutex_unlock(&etcd->lock);
	if (!was)
		svc_log(SVC_LOG_WARN, "etcd.no_users",
		    "etcd at %s has no users: it is asked without a login",
		    http_servers_url(etcd->servers, server));
	return true;
}

static void
put_login(struct svc_buf *body, const struct etcd *etcd)
{
	svc_buf_puts(body, "{\"name\":");
	svc_buf_json_string(body, etcd->username, strlen(etcd->username));
	svc_buf_puts(body, ",\"password\":");
	svc_buf_json_string(body, etcd->password, strlen(etcd->password));
	svc_buf_puts(body, "}");
}

svc_err
etcd_token(struct etcd *etcd, struct http *http, size_t server, bool refresh,
    char ret_token[TOKEN_SIZE], int64_t timeout_ms, const atomic_bool *stop,
    struct svc_error *err)
{
	struct svc_buf body;
	cJSON *answer = NULL;
	bool known = true;
	ret_token[0] = '\0';
	if (etcd->username == NULL)
		return SVC_OK;
	pthread_mutex_lock(&etcd->lock);
	if (refresh)
		etcd->no_users = known = false;
	else
		memcpy(ret_token, etcd->token, TOKEN_SIZE);
	known = known && (etcd->no_users || ret_token[0] != '\0');
	pthread_mutex_unlock(&etcd->lock);
	if (known)
		return SVC_OK;
	svc_buf_init(&body, BODY_MAX);
	put_login(&body, etcd);
	svc_err rc = post(etcd, http, server, "/v3/auth/authenticate", "",
	    &body, timeout_ms, stop, &answer, err);
	svc_buf_fini(&body);
	ret_token[0] = '\0';
	if (rc == MESSAGE_NO_USERS && go_without(etcd, server))
		return SVC_OK;
	if (rc != SVC_OK)
		return rc;
	const cJSON *token = message_get(answer, "token");
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

/* A server that has lost data waits, without an answer, for the moment when a
 * token of its former life was given. */
static void
drop_token(struct etcd *etcd, const char *token)
{
	pthread_mutex_lock(&etcd->lock);
	if (strcmp(etcd->token, token) == 0)
		etcd->token[0] = '\0';
	pthread_mutex_unlock(&etcd->lock);
}

/* ------------------------------------------------------------------ asking */

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
		rc = etcd_token(etcd, http, server, round > 0, token,
		    timeout_ms, stop, err);
		if (rc != SVC_OK)
			break;
		rc = post(etcd, http, server, path, token, body, timeout_ms,
		    stop, ret_answer, err);
		if (rc == SVC_E_TIMEDOUT)
			drop_token(etcd, token);
		if (rc != SVC_E_UNAUTHENTICATED || etcd->username == NULL)
			break;
	}
	*ret_next = rc == SVC_E_UNAVAILABLE || rc == SVC_E_TIMEDOUT;
	return rc == SVC_E_UNAUTHENTICATED ? SVC_E_DENIED : rc;
}

int64_t
etcd_try_ms(const struct etcd *etcd)
{
	return address_try_ms(etcd->timeout_ms, etcd->n_servers);
}

svc_err
etcd_ask_on(struct etcd *etcd, struct http *http, const char *path,
    const struct svc_buf *body, int64_t deadline_at_ms, const atomic_bool *stop,
    cJSON **ret_answer, struct svc_error *err)
{
	size_t first = atomic_load(&etcd->current);
	size_t tries = address_tries(etcd->n_servers);
	int64_t try_ms =
	    address_try_ms(svc_remaining(deadline_at_ms), etcd->n_servers);
	struct svc_error why = {0};
	svc_err rc = SVC_OK;
	for (size_t i = 0;; i++) {
		size_t server = (first + i) % etcd->n_servers;
		/* Once around; and on when there is somebody who is silent or
		 * says no, for they may be choosing a leader. */
		bool somebody = rc == SVC_E_TIMEDOUT || why.sys >= STATUS_MIN;
		if (i >= tries && somebody && server == first)
			http_wait(http, PAUSE_MS);
		int64_t left_ms = svc_remaining(deadline_at_ms);
		bool next;
		if (i > 0 && (left_ms == 0 || (i >= tries && !somebody)))
			break;
		if (left_ms > try_ms)
			left_ms = try_ms;
		if (left_ms < 1)
			left_ms = 1;
		why.sys = 0;
		rc = etcd_ask_at(etcd, http, server, path, body, left_ms, stop,
		    ret_answer, &next, &why);
		if (rc == SVC_OK || !next) {
			atomic_store(&etcd->current, server);
			break;
		}
	}
	if (rc != SVC_OK && err != NULL)
		*err = why;
	return rc;
}

svc_err
etcd_ask(struct etcd *etcd, const char *path, const struct svc_buf *body,
    int64_t deadline_at_ms, cJSON **ret_answer, struct svc_error *err)
{
	struct http *http = take_idle(etcd);
	if (http == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a request");
	svc_err rc = etcd_ask_on(
	    etcd, http, path, body, deadline_at_ms, NULL, ret_answer, err);
	give_idle(etcd, http);
	return rc;
}
