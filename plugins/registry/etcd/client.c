/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks: `all_lock` guards which clients there are, etcd.lock the idle
 * connections and the token. Neither is held during a request or a callback.
 */
#include "client.h"

#include "lease.h"
#include "watch.h"

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
	watcher_destroy(etcd->watcher);
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
	if (rc == SVC_OK)
		rc = watcher_create(etcd, &etcd->watcher, err);
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

/* ------------------------------------------------------------------- login */

/* A server without users serves everybody, as long as it has none. */
static void
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

/* False when a login has to give one first. */
static bool
find_token(struct etcd *etcd, char ret_token[TOKEN_SIZE])
{
	pthread_mutex_lock(&etcd->lock);
	memcpy(ret_token, etcd->token, TOKEN_SIZE);
	bool known =
	    etcd->username == NULL || etcd->no_users || ret_token[0] != '\0';
	pthread_mutex_unlock(&etcd->lock);
	return known;
}

static svc_err
take_token(struct etcd_call *call, const cJSON *answer, struct svc_error *err)
{
	struct etcd *etcd = call->etcd;
	const cJSON *token = message_get(answer, "token");
	size_t len = cJSON_IsString(token) ? strlen(token->valuestring) : 0;
	if (len == 0 || len >= TOKEN_SIZE)
		return svc_error_set(err, SVC_E_DENIED,
		    "etcd at %s gave no usable token for its user",
		    http_servers_url(etcd->servers, call->server));
	memcpy(call->token, token->valuestring, len + 1);
	pthread_mutex_lock(&etcd->lock);
	memcpy(etcd->token, call->token, len + 1);
	pthread_mutex_unlock(&etcd->lock);
	return SVC_OK;
}

/* A token that was refused, or for which there was no answer: a server that
 * has lost data waits for the moment when a token of its former life was
 * given. */
static void
drop_token(struct etcd_call *call, bool refused)
{
	struct etcd *etcd = call->etcd;
	pthread_mutex_lock(&etcd->lock);
	if (strcmp(etcd->token, call->token) == 0)
		etcd->token[0] = '\0';
	if (refused)
		etcd->no_users = false;
	pthread_mutex_unlock(&etcd->lock);
}

bool
etcd_has_new_token(const struct etcd_call *call)
{
	char token[TOKEN_SIZE];
	find_token(call->etcd, token);
	return strcmp(token, call->token) != 0;
}

/* ------------------------------------------------------------------ asking */

static svc_err
post(struct etcd_call *call, const char *path, const struct svc_buf *body,
    struct svc_error *err)
{
	struct etcd *etcd = call->etcd;
	bool open = call->open && !call->logs_in;
	http_end(call->http);
	svc_headers_destroy(call->headers);
	svc_buf_clear(&call->answer);
	call->headers = svc_headers_create();
	if (call->headers == NULL || (body != NULL && body->failed != SVC_OK) ||
	    (call->token[0] != '\0' &&
		svc_headers_set(call->headers, "Authorization", call->token) !=
		    SVC_OK))
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a request");
	struct http_request request = {.method = "POST",
	    .path = path,
	    .headers = call->headers,
	    .body = body != NULL ? body->data : NULL,
	    .len = body != NULL ? body->len : 0,
	    .timeout_ms = open ? SVC_FOREVER : call->timeout_ms,
	    .open = open};
	return http_begin(call->http, etcd->servers, call->server, &request,
	    &call->answer, err);
}

/* The question itself, or the login that it needs first. */
static svc_err
post_next(struct etcd_call *call, struct svc_error *err)
{
	if (find_token(call->etcd, call->token))
		return post(call, call->path, call->body, err);
	call->logs_in = true;
	svc_buf_clear(&call->login);
	put_login(&call->login, call->etcd);
	return post(call, "/v3/auth/authenticate", &call->login, err);
}

static svc_err
begin_within(struct etcd_call *call, struct etcd *etcd, struct http *http,
    size_t server, const char *path, const struct svc_buf *body, bool open,
    int64_t timeout_ms, struct svc_error *err)
{
	*call = (struct etcd_call){.etcd = etcd,
	    .http = http,
	    .server = server,
	    .path = path,
	    .body = body,
	    .open = open,
	    .timeout_ms = timeout_ms};
	svc_buf_init(&call->answer, ANSWER_MAX);
	svc_buf_init(&call->login, BODY_MAX);
	return post_next(call, err);
}

svc_err
etcd_call_begin(struct etcd_call *call, struct etcd *etcd, struct http *http,
    size_t server, const char *path, const struct svc_buf *body, bool open,
    struct svc_error *err)
{
	return begin_within(
	    call, etcd, http, server, path, body, open, etcd_try_ms(etcd), err);
}

/* What comes of the login: the question begins. */
static svc_err
after_login(struct etcd_call *call, svc_err rc, const cJSON *answer,
    struct svc_error *err)
{
	call->logs_in = false;
	if (rc == MESSAGE_NO_USERS) {
		go_without(call->etcd, call->server);
		rc = SVC_OK;
	} else if (rc == SVC_OK) {
		rc = take_token(call, answer, err);
	}
	call->shut_out = rc != SVC_OK;
	if (rc == SVC_OK)
		rc = post(call, call->path, call->body, err);
	return rc == SVC_OK ? SVC_E_AGAIN : rc;
}

svc_err
etcd_call_look(
    struct etcd_call *call, cJSON **ret_answer, struct svc_error *err)
{
	const char *url = http_servers_url(call->etcd->servers, call->server);
	cJSON *answer = NULL;
	int status = 0;
	svc_err rc = http_look(call->http, &status, err);
	if (rc == SVC_E_AGAIN)
		return rc;
	if (rc == SVC_OK && status == 200 && call->open && !call->logs_in)
		rc = svc_error_set(
		    err, SVC_E_UNAVAILABLE, "etcd at %s ended a watch", url);
	else if (rc == SVC_OK)
		rc = judge(url, status, &call->answer, &answer, err);
	if (call->logs_in) {
		rc = after_login(call, rc, answer, err);
		cJSON_Delete(answer);
	} else if (rc == SVC_OK) {
		*ret_answer = answer;
	} else if (rc == SVC_E_TIMEDOUT || rc == SVC_E_UNAUTHENTICATED) {
		drop_token(call, rc == SVC_E_UNAUTHENTICATED);
		if (rc == SVC_E_UNAUTHENTICATED && !call->again &&
		    !call->open && call->etcd->username != NULL) {
			call->again = true;
			rc = post_next(call, err);
			rc = rc == SVC_OK ? SVC_E_AGAIN : rc;
		}
	}
	return rc == SVC_E_UNAUTHENTICATED ? SVC_E_DENIED : rc;
}

void
etcd_call_end(struct etcd_call *call)
{
	http_end(call->http);
	svc_headers_destroy(call->headers);
	svc_buf_fini(&call->answer);
	svc_buf_fini(&call->login);
}

bool
etcd_is_absent(svc_err rc)
{
	return rc == SVC_E_UNAVAILABLE || rc == SVC_E_TIMEDOUT;
}

/* Until it is answered, or `stop` (may be NULL) is set. */
static svc_err
ask_at(struct etcd *etcd, struct http *http, size_t server, const char *path,
    const struct svc_buf *body, int64_t timeout_ms, const atomic_bool *stop,
    cJSON **ret_answer, struct svc_error *err)
{
	struct etcd_call call;
	int status;
	svc_err rc = begin_within(
	    &call, etcd, http, server, path, body, false, timeout_ms, err);
	if (rc == SVC_OK)
		rc = SVC_E_AGAIN;
	while (rc == SVC_E_AGAIN) {
		http_run(http, timeout_ms, &status, NULL);
		rc = etcd_call_look(&call, ret_answer, err);
		if (rc == SVC_E_AGAIN && stop != NULL && atomic_load(stop))
			rc = svc_error_set(err, SVC_E_CANCELLED, "%s",
			    svc_err_text(SVC_E_CANCELLED));
	}
	etcd_call_end(&call);
	return rc;
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
		if (i > 0 && (left_ms == 0 || (i >= tries && !somebody)))
			break;
		if (left_ms > try_ms)
			left_ms = try_ms;
		if (left_ms < 1)
			left_ms = 1;
		why.sys = 0;
		rc = ask_at(etcd, http, server, path, body, left_ms, stop,
		    ret_answer, &why);
		if (!etcd_is_absent(rc)) {
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
