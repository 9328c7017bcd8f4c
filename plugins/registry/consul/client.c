/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks: consul.lock guards the idle connections and the registrations. It is
 * never held during a request or a callback.
 */
#include "client.h"

#include "announce.h"
#include "node.h"

#include <address/address.h>

#include <svc/clock.h>
#include <svc/log.h>

#include <ctype.h>
#include <string.h>

enum {
	PORT_DEFAULT = 8500,
	TAGS_LIST_MAX = 64,
	TEXT_MAX = 255,
};

/* ------------------------------------------------------------------ options */

static svc_err
no_memory(struct svc_error *err)
{
	return svc_error_set(err, SVC_E_NOMEM, "no memory for registry consul");
}

/* The token goes out as a header, so it is checked where it comes in. */
static svc_err
take_token(struct consul *consul, const struct svc_registry_config *config,
    struct svc_error *err)
{
	const char *token = svc_headers_get(config->options, "token");
	if (config->username != NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "consul has no user names: leave out registry_username and "
		    "give the ACL token as registry_password");
	if (token != NULL && config->password != NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "consul has one ACL token: give registry_password or the "
		    "option token, not both");
	if (token == NULL)
		token = config->password;
	consul->headers = svc_headers_create();
	if (consul->headers == NULL)
		return no_memory(err);
	if (token == NULL)
		return SVC_OK;
	size_t len = strlen(token);
	bool ok = len > 0 && len <= TEXT_MAX;
	for (const char *p = token; *p != '\0'; p++)
		ok = ok && *p > ' ' && *p <= '~';
	if (!ok)
		return svc_error_set(err, SVC_E_INVAL,
		    "the ACL token for consul is 1 to %d of printable ASCII "
		    "without space",
		    TEXT_MAX);
	return svc_headers_set(consul->headers, "X-Consul-Token", token) ==
		       SVC_OK
		   ? SVC_OK
		   : no_memory(err);
}

static svc_err
take_datacenter(struct consul *consul, const char *name, struct svc_error *err)
{
	struct svc_buf query;
	char quoted[64];
	bool ok = true;
	svc_buf_init(&query, 1024);
	svc_buf_puts(&query, name != NULL ? "&dc=" : "");
	if (name != NULL) {
		size_t len = strlen(name);
		ok = len > 0 && len <= 64;
		for (const char *p = name; *p != '\0'; p++)
			ok = ok && (isalnum((unsigned char)*p) || *p == '-' ||
				       *p == '_');
		svc_buf_puts(&query, name);
	}
	consul->datacenter = svc_buf_take(&query, NULL);
	svc_buf_fini(&query);
	if (!ok)
		return svc_error_set(err, SVC_E_INVAL,
		    "consul datacenter %s: use 1 to 64 of A-Z a-z 0-9 _ -",
		    svc_log_quote(name, strlen(name), quoted, sizeof(quoted)));
	return consul->datacenter != NULL ? SVC_OK : no_memory(err);
}

/* "zone-a,team-b" */
static svc_err
take_tags(struct consul *consul, const char *list, struct svc_error *err)
{
	svc_err rc = SVC_OK;
	size_t count = 1;
	if (list == NULL)
		return SVC_OK;
	for (const char *p = list; *p != '\0'; p++)
		count += *p == ',';
	if (count > TAGS_LIST_MAX)
		return svc_error_set(err, SVC_E_INVAL,
		    "%zu tags for consul: at most %d are allowed", count,
		    TAGS_LIST_MAX);
	consul->tags = svc_mem_calloc(count, sizeof(char *));
	if (consul->tags == NULL)
		return no_memory(err);
	for (const char *p = list; rc == SVC_OK; p++) {
		size_t len = strcspn(p, ",");
		char *tag = svc_mem_alloc(len + 1);
		if (tag == NULL)
			return no_memory(err);
		memcpy(tag, p, len);
		tag[len] = '\0';
		consul->tags[consul->n_tags++] = tag;
		rc = node_tag_check(tag, err);
		p += len;
		if (*p == '\0')
			break;
	}
	return rc;
}

/* ----------------------------------------------------------- making, ending */

svc_err
consul_create(const struct svc_registry_config *config,
    struct consul **ret_consul, struct svc_error *err)
{
	const struct svc_headers *options = config->options;
	struct consul *consul = svc_mem_calloc(1, sizeof(*consul));
	if (consul == NULL)
		return no_memory(err);
	pthread_mutex_init(&consul->lock, NULL);
	skips_init(&consul->skips);
	svc_err rc = http_servers_create(
	    "consul", config, PORT_DEFAULT, &consul->servers, err);
	if (rc == SVC_OK) {
		consul->n_servers = http_servers_count(consul->servers);
		if (consul->n_servers > SERVERS_MAX)
			rc = svc_error_set(err, SVC_E_INVAL,
			    "%zu consul addresses: at most %d are allowed",
			    consul->n_servers, SERVERS_MAX);
	}
	if (rc == SVC_OK)
		rc = take_token(consul, config, err);
	if (rc == SVC_OK)
		rc = take_datacenter(
		    consul, svc_headers_get(options, "datacenter"), err);
	if (rc == SVC_OK)
		rc = take_tags(consul, svc_headers_get(options, "tags"), err);
	if (rc != SVC_OK) {
		consul_destroy(consul);
		return rc;
	}
	consul->timeout_ms = config->timeout_ms;
	consul->try_ms = address_try_ms(consul->timeout_ms, consul->n_servers);
	*ret_consul = consul;
	return SVC_OK;
}

void
consul_destroy(struct consul *consul)
{
	if (consul == NULL)
		return;
	for (size_t i = 0; i < consul->n_idle; i++)
		http_destroy(consul->idle[i]);
	for (size_t i = 0; i < consul->n_tags; i++)
		svc_mem_free(consul->tags[i]);
	svc_mem_free(consul->tags);
	svc_mem_free(consul->datacenter);
	svc_headers_destroy(consul->headers);
	http_servers_destroy(consul->servers);
	registrations_forget(consul);
	skips_fini(&consul->skips);
	pthread_mutex_destroy(&consul->lock);
	svc_mem_free(consul);
}

static struct http *
take_idle(struct consul *consul)
{
	struct http *http = NULL;
	pthread_mutex_lock(&consul->lock);
	if (consul->n_idle > 0)
		http = consul->idle[--consul->n_idle];
	pthread_mutex_unlock(&consul->lock);
	if (http == NULL && http_create(NULL, &http) != SVC_OK)
		return NULL;
	return http;
}

static void
give_idle(struct consul *consul, struct http *http)
{
	pthread_mutex_lock(&consul->lock);
	if (consul->n_idle < IDLE_MAX) {
		consul->idle[consul->n_idle++] = http;
		http = NULL;
	}
	pthread_mutex_unlock(&consul->lock);
	http_destroy(http);
}

/* ------------------------------------------------------------------- asking */

void
consul_put_escaped(struct svc_buf *path, const char *text)
{
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;
		if (isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~')
			svc_buf_putc(path, (char)c);
		else
			svc_buf_printf(path, "%%%02X", c);
	}
}

/* With and without ACLs, and from release to release, an agent has different
 * words for what it does not know (and 404 or 500 for a status). */
static bool
is_unknown(int status, const struct svc_buf *answer)
{
	const char *text = answer->len > 0 ? (const char *)answer->data : "";
	return status == 404 ||
	       (status == 500 &&
		   (strcasestr(text, "unknown check") != NULL ||
		       strcasestr(text, "unknown service") != NULL ||
		       strcasestr(text, "does not have associated TTL") !=
			   NULL));
}

svc_err
consul_status(struct consul *consul, size_t server, int status,
    const struct svc_buf *answer, bool *ret_next, struct svc_error *err)
{
	char quoted[120];
	const char *more = "";
	svc_err rc = SVC_E_UNAVAILABLE;
	*ret_next = false;
	if (status == 200)
		return SVC_OK;
	if (is_unknown(status, answer)) {
		rc = SVC_E_NOT_FOUND;
	} else if (status == 401 || status == 403) {
		rc = SVC_E_DENIED;
		more = ": see registry_password, the ACL token";
	} else if (status == 400) {
		rc = SVC_E_INVAL;
	} else if (status == 429) {
		more = ": its limits.http_max_conns_per_client may be too low";
	}
	*ret_next = rc == SVC_E_UNAVAILABLE;
	svc_log_quote(answer->len > 0 ? (const char *)answer->data : "",
	    answer->len, quoted, sizeof(quoted));
	svc_error_set(err, rc, "consul at %s refused: %s (HTTP status %d)%s",
	    http_servers_url(consul->servers, server), quoted, status, more);
	if (err != NULL)
		err->sys = status;
	return rc;
}

svc_err
consul_ask_at(struct consul *consul, struct http *http, size_t server,
    const atomic_bool *stop, const struct question *question,
    int64_t deadline_at_ms, struct svc_buf *answer, bool *ret_next,
    struct svc_error *err)
{
	const struct svc_buf *body = question->body;
	struct http *mine = http == NULL ? take_idle(consul) : http;
	int64_t left_ms = svc_remaining(deadline_at_ms);
	int status = 0;
	*ret_next = false;
	svc_buf_clear(answer);
	if (mine == NULL || (body != NULL && body->failed != SVC_OK)) {
		http_destroy(http == NULL ? mine : NULL);
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory for a request");
	}
	if (left_ms > consul->try_ms || left_ms == SVC_FOREVER)
		left_ms = consul->try_ms;
	struct http_request request = {.method = question->method,
	    .path = question->path,
	    .headers = consul->headers,
	    .body = body != NULL ? body->data : NULL,
	    .len = body != NULL ? body->len : 0,
	    .timeout_ms = left_ms > 0 ? left_ms : 1};
	svc_err rc = http_ask(mine, consul->servers, server, &request, stop,
	    answer, &status, err);
	http_end(mine);
	if (http == NULL)
		give_idle(consul, mine);
	if (rc == SVC_OK)
		return consul_status(
		    consul, server, status, answer, ret_next, err);
	*ret_next = rc == SVC_E_UNAVAILABLE || rc == SVC_E_TIMEDOUT;
	return rc;
}

svc_err
consul_ask(struct consul *consul, struct http *http, const atomic_bool *stop,
    const struct question *question, int64_t deadline_at_ms,
    struct svc_buf *answer, struct svc_error *err)
{
	size_t first = atomic_load(&consul->current);
	size_t tries = address_tries(consul->n_servers);
	svc_err rc = SVC_E_UNAVAILABLE;
	for (size_t i = 0; i < tries; i++) {
		size_t server = (first + i) % consul->n_servers;
		bool next;
		if (i > 0 && svc_remaining(deadline_at_ms) == 0)
			break;
		rc = consul_ask_at(consul, http, server, stop, question,
		    deadline_at_ms, answer, &next, err);
		if (!next) {
			atomic_store(&consul->current, server);
			break;
		}
	}
	return rc;
}
