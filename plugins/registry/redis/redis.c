/* SPDX-License-Identifier: Apache-2.0 */
/* The registry "redis": its settings, its connections, and the ops. */
#include "redis.h"

#include "link.h"
#include "store.h"
#include "watch.h"

#include <address/address.h>

#include <svc/buf.h>
#include <svc/clock.h>
#include <svc/log.h>
#include <svc/settings.h>

#include <openssl/err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE_MAX = 1 << 20 };

static svc_err
no_memory(struct svc_error *err)
{
	return svc_error_set(err, SVC_E_NOMEM, "no memory for registry redis");
}

/* ------------------------------------------------------------- addresses */

static svc_err
take_addresses(struct redis *redis, const struct svc_registry_config *config,
    struct svc_error *err)
{
	const struct address_form form = {.registry = "redis",
	    .scheme = "redis",
	    .port = 6379,
	    .tls = config->tls != NULL};
	struct address *list = NULL;
	size_t n = 0;
	svc_err rc = address_list_read(&form, config->address, &list, &n, err);
	if (rc != SVC_OK)
		return rc;
	redis->servers = svc_mem_calloc(n, sizeof(*redis->servers));
	if (redis->servers == NULL)
		rc = no_memory(err);
	for (size_t i = 0; rc == SVC_OK && i < n; i++) {
		struct redis_server *server =
		    &redis->servers[redis->n_servers++];
		size_t size = strlen(list[i].host) + 16;
		bool v6 = strchr(list[i].host, ':') != NULL;
		server->secure = list[i].secure;
		snprintf(
		    server->port, sizeof(server->port), "%u", list[i].port);
		server->host = svc_mem_strdup(list[i].host);
		server->text = svc_mem_calloc(1, size);
		if (server->host == NULL || server->text == NULL)
			rc = no_memory(err);
		else
			snprintf(server->text, size, v6 ? "[%s]:%s" : "%s:%s",
			    server->host, server->port);
	}
	address_list_free(list, n);
	return rc;
}

/* ------------------------------------------------------------------ options */

/* It becomes part of keys and channels, and of the patterns of an ACL. */
static svc_err
take_namespace(struct redis *redis, const char *text, struct svc_error *err)
{
	char quoted[64];
	size_t len = text != NULL ? strlen(text) : 0;
	bool good = len <= NAMESPACE_MAX;
	for (size_t i = 0; good && i < len; i++)
		good = text[i] > ' ' && text[i] <= '~' &&
		       strchr(":{}*?[]\\^", text[i]) == NULL;
	if (text != NULL && (len == 0 || !good))
		return svc_error_set(err, SVC_E_INVAL,
		    "option namespace of registry redis is %s: use 1 to %d "
		    "printable characters without space and : { } * ? [ ] \\ "
		    "^, "
		    "as \"game/env/version\"",
		    svc_log_quote(text, len, quoted, sizeof(quoted)),
		    NAMESPACE_MAX);
	redis->space = svc_mem_strdup(text != NULL ? text : "svc");
	return redis->space != NULL ? SVC_OK : no_memory(err);
}

static svc_err
take_database(struct redis *redis, const char *text, struct svc_error *err)
{
	char quoted[64], *end = NULL;
	long number = text != NULL ? strtol(text, &end, 10) : 0;
	if (text != NULL && (end == text || *end != '\0' || *text < '0' ||
				*text > '9' || number < 0 || number > 999999))
		return svc_error_set(err, SVC_E_INVAL,
		    "option database of registry redis is %s: use a number "
		    "from 0 to 999999",
		    svc_log_quote(text, strlen(text), quoted, sizeof(quoted)));
	snprintf(redis->database, sizeof(redis->database), "%ld", number);
	return SVC_OK;
}

static svc_err
take_pull(struct redis *redis, const char *text, struct svc_error *err)
{
	char quoted[64];
	redis->pull_ms = PULL_MS;
	if (text != NULL &&
	    (svc_duration_parse(text, 1000, &redis->pull_ms) != SVC_OK ||
		redis->pull_ms < PULL_MIN_MS || redis->pull_ms > PULL_MAX_MS))
		return svc_error_set(err, SVC_E_INVAL,
		    "option pull of registry redis is %s: use a time from "
		    "100ms to 60s",
		    svc_log_quote(text, strlen(text), quoted, sizeof(quoted)));
	return SVC_OK;
}

static bool
copy_text(char **to, const char *text)
{
	*to = svc_mem_strdup(text);
	return text == NULL || *to != NULL;
}

/* ---------------------------------------------------------------------- TLS */

static svc_err
bad_file(const char *what, const char *path, struct svc_error *err)
{
	char reason[120];
	unsigned long code = ERR_peek_last_error();
	const char *text = ERR_reason_error_string(code);
	snprintf(reason, sizeof(reason), "%s",
	    text != NULL ? text : "it cannot be read");
	ERR_clear_error();
	return svc_error_set(err, SVC_E_INVAL,
	    "%s %s cannot be used: %s (a PEM file is wanted)", what, path,
	    reason);
}

static int
no_passphrase(char *buf, int size, int writing, void *arg)
{
	(void)buf;
	(void)size;
	(void)writing;
	(void)arg;
	return 0;
}

svc_err
redis_tls(
    const struct redis *redis, SSL_CTX **ret_context, struct svc_error *err)
{
	ERR_clear_error();
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	svc_err rc = SVC_OK;
	if (context == NULL)
		return no_memory(err);
	SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
				      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_default_passwd_cb(context, no_passphrase);
	if (redis->ca == NULL)
		SSL_CTX_set_default_verify_paths(context);
	else if (SSL_CTX_load_verify_file(context, redis->ca) != 1)
		rc = bad_file("registry_tls_ca", redis->ca, err);
	if (rc == SVC_OK && redis->cert != NULL &&
	    SSL_CTX_use_certificate_chain_file(context, redis->cert) != 1)
		rc = bad_file("registry_tls_cert", redis->cert, err);
	if (rc == SVC_OK && redis->cert != NULL &&
	    (SSL_CTX_use_PrivateKey_file(
		 context, redis->key, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_check_private_key(context) != 1))
		rc = bad_file("registry_tls_key", redis->key, err);
	if (rc != SVC_OK) {
		SSL_CTX_free(context);
		return rc;
	}
	*ret_context = context;
	return SVC_OK;
}

/* -------------------------------------------------------- making, ending */

void
redis_destroy(struct redis *redis)
{
	if (redis == NULL)
		return;
	for (size_t i = 0; i < redis->n_idle; i++)
		link_close(redis->idle[i]);
	for (size_t i = 0; i < redis->n_servers; i++) {
		svc_mem_free(redis->servers[i].host);
		svc_mem_free(redis->servers[i].text);
	}
	char *texts[] = {redis->username, redis->password, redis->space,
	    redis->cert, redis->key, redis->ca, redis->name};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		svc_mem_free(texts[i]);
	svc_mem_free(redis->servers);
	skips_fini(&redis->skips);
	pthread_mutex_destroy(&redis->lock);
	svc_mem_free(redis);
}

static svc_err
take_config(struct redis *redis, const struct svc_registry_config *config,
    struct svc_error *err)
{
	const struct svc_tls_config none = {0};
	const struct svc_tls_config *tls =
	    config->tls != NULL ? config->tls : &none;
	const struct svc_headers *options = config->options;
	bool secure = false;
	svc_err rc = take_addresses(redis, config, err);
	if (rc == SVC_OK)
		rc = take_namespace(
		    redis, svc_headers_get(options, "namespace"), err);
	if (rc == SVC_OK)
		rc = take_database(
		    redis, svc_headers_get(options, "database"), err);
	if (rc == SVC_OK)
		rc = take_pull(redis, svc_headers_get(options, "pull"), err);
	if (rc != SVC_OK)
		return rc;
	if (config->username != NULL && config->password == NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "registry redis has a user name and no password: give "
		    "registry_password as well");
	if (!copy_text(&redis->username, config->username) ||
	    !copy_text(&redis->password, config->password) ||
	    !copy_text(&redis->cert, tls->cert) ||
	    !copy_text(&redis->key, tls->key) ||
	    !copy_text(&redis->ca, tls->ca) ||
	    !copy_text(&redis->name, tls->name))
		return no_memory(err);
	for (size_t i = 0; i < redis->n_servers; i++)
		secure = secure || redis->servers[i].secure;
	if (secure) {
		/* The files are read anew by each connection; what is wrong
		 * with them from the beginning is said at the start. */
		SSL_CTX *context = NULL;
		rc = redis_tls(redis, &context, err);
		if (rc == SVC_OK)
			SSL_CTX_free(context);
	}
	return rc;
}

svc_err
redis_create(const struct svc_registry_config *config, struct redis **ret_redis,
    struct svc_error *err)
{
	struct redis *redis = svc_mem_calloc(1, sizeof(*redis));
	if (redis == NULL)
		return no_memory(err);
	pthread_mutex_init(&redis->lock, NULL);
	skips_init(&redis->skips);
	svc_err rc = take_config(redis, config, err);
	if (rc != SVC_OK) {
		redis_destroy(redis);
		return rc;
	}
	redis->timeout_ms = config->timeout_ms;
	redis->try_ms = address_try_ms(redis->timeout_ms, redis->n_servers);
	*ret_redis = redis;
	return SVC_OK;
}

/* -------------------------------------------------------------- connections */

static struct link *
take_idle(struct redis *redis, size_t server)
{
	struct link *link = NULL;
	pthread_mutex_lock(&redis->lock);
	for (size_t i = redis->n_idle; i > 0 && link == NULL; i--) {
		if (link_server(redis->idle[i - 1]) != server)
			continue;
		link = redis->idle[i - 1];
		redis->idle[i - 1] = redis->idle[--redis->n_idle];
	}
	pthread_mutex_unlock(&redis->lock);
	return link;
}

static void
give_idle(struct redis *redis, struct link *link)
{
	if (!link_is_bad(link)) {
		link_set_wake(link, -1);
		pthread_mutex_lock(&redis->lock);
		if (redis->n_idle < IDLE_MAX) {
			redis->idle[redis->n_idle++] = link;
			link = NULL;
		}
		pthread_mutex_unlock(&redis->lock);
	}
	link_close(link);
}

static svc_err
run_until(struct redis *redis, size_t server, redis_op op, void *arg,
    int64_t deadline_at_ms, int wake_fd, struct svc_error *err)
{
	for (;;) {
		struct link *link = take_idle(redis, server);
		bool fresh = link == NULL;
		svc_err rc = SVC_OK;
		if (fresh)
			rc = link_open(
			    redis, server, deadline_at_ms, wake_fd, &link, err);
		if (rc != SVC_OK)
			return rc;
		link_set_wake(link, wake_fd);
		rc = op(redis, link, deadline_at_ms, arg, err);
		/* A reply that was not waited for is not for the next op. */
		bool bad = link_is_bad(link);
		if (rc != SVC_OK && bad)
			link_close(link);
		else
			give_idle(redis, link);
		/* A kept one may have died long ago. */
		if (rc == SVC_E_UNAVAILABLE && bad && !fresh)
			continue;
		return rc;
	}
}

svc_err
redis_run_at(struct redis *redis, size_t server, redis_op op, void *arg,
    int wake_fd, struct svc_error *err)
{
	svc_err rc = run_until(
	    redis, server, op, arg, svc_deadline(ASK_MAX_MS), wake_fd, err);
	if (rc == SVC_OK)
		atomic_store(&redis->current, server);
	return rc;
}

svc_err
redis_run(struct redis *redis, redis_op op, void *arg, int64_t timeout_ms,
    struct svc_error *err)
{
	int64_t deadline_at_ms = svc_deadline(timeout_ms);
	size_t server = atomic_load(&redis->current), tries = 0;
	for (;;) {
		svc_err rc =
		    run_until(redis, server, op, arg, deadline_at_ms, -1, err);
		if (rc == SVC_OK)
			atomic_store(&redis->current, server);
		/* The next one may do better, and so may the same one when it
		 * was only slow. */
		bool again =
		    rc == SVC_E_TIMEDOUT ||
		    (rc == SVC_E_UNAVAILABLE && tries + 1 < redis->n_servers);
		if (!again || svc_remaining(deadline_at_ms) == 0)
			return rc;
		tries++;
		server = (server + 1) % redis->n_servers;
	}
}

void
redis_wait(int wake_fd, int64_t at_ms)
{
	struct pollfd fd = {.fd = wake_fd, .events = POLLIN};
	while (svc_remaining(at_ms) > 0 &&
	       poll(&fd, 1, (int)svc_remaining(at_ms)) <= 0)
		;
}

/* ------------------------------------------------------------------ the ops */

static svc_err
plugin_create(const struct svc_registry_config *config, void **ret_self,
    struct svc_error *err)
{
	struct redis *redis = NULL;
	svc_err rc = redis_create(config, &redis, err);
	if (rc == SVC_OK)
		*ret_self = redis;
	return rc;
}

static void
plugin_destroy(void *self)
{
	redis_destroy(self);
}

struct announcement {
	const struct svc_record *record;
	const char *json;
	int64_t ttl_ms;
};

static svc_err
announce_op(struct redis *redis, struct link *link, int64_t deadline_at_ms,
    void *arg, struct svc_error *err)
{
	const struct announcement *a = arg;
	return store_announce(
	    redis, link, a->record, a->json, a->ttl_ms, deadline_at_ms, err);
}

static svc_err
announce_within(void *self, const struct svc_record *record, int64_t ttl_ms,
    int64_t timeout_ms, struct svc_error *err)
{
	char *json = svc_record_encode(record);
	struct announcement a = {record, json, ttl_ms};
	svc_err rc;
	if (json == NULL)
		return svc_error_set(
		    err, SVC_E_NOMEM, "no memory to announce %s", record->name);
	if (strlen(json) > VALUE_MAX)
		rc = svc_error_set(err, SVC_E_INVAL,
		    "the record of %s has %zu bytes: at most %d are allowed",
		    record->name, strlen(json), VALUE_MAX);
	else
		rc = redis_run(self, announce_op, &a, timeout_ms, err);
	svc_mem_free(json);
	return rc;
}

static svc_err
announce(void *self, const struct svc_record *record, int64_t ttl_ms,
    struct svc_error *err)
{
	const struct redis *redis = self;
	return announce_within(self, record, ttl_ms, redis->timeout_ms, err);
}

static svc_err
withdraw_op(struct redis *redis, struct link *link, int64_t deadline_at_ms,
    void *arg, struct svc_error *err)
{
	const struct announcement *a = arg;
	return store_withdraw(redis, link, a->record, deadline_at_ms, err);
}

static svc_err
withdraw_within(void *self, const struct svc_record *record, int64_t timeout_ms,
    struct svc_error *err)
{
	struct announcement a = {record, NULL, 0};
	return redis_run(self, withdraw_op, &a, timeout_ms, err);
}

static svc_err
withdraw(void *self, const struct svc_record *record, struct svc_error *err)
{
	const struct redis *redis = self;
	return withdraw_within(self, record, redis->timeout_ms, err);
}

struct question {
	struct redis *redis;
	const char *service;
	svc_record_sink sink;
	void *arg;
	bool no_memory;
};

static void
on_found(const char *service, const char *id, const void *value, size_t len,
    int64_t expires_at_ms, void *arg)
{
	struct question *question = arg;
	struct svc_record *record = NULL;
	if (store_record(question->redis, service, id, value, len, &record) !=
	    SVC_OK)
		question->no_memory = true;
	(void)expires_at_ms;
	if (record != NULL)
		question->sink(record, question->arg);
	svc_record_destroy(record);
}

static svc_err
lookup_op(struct redis *redis, struct link *link, int64_t deadline_at_ms,
    void *arg, struct svc_error *err)
{
	const struct question *question = arg;
	return store_pull(
	    redis, link, question->service, deadline_at_ms, on_found, arg, err);
}

static svc_err
lookup(void *self, const char *service, svc_record_sink sink, void *arg,
    struct svc_error *err)
{
	struct question question = {self, service, sink, arg, false};
	svc_err rc = redis_run(
	    self, lookup_op, &question, question.redis->timeout_ms, err);
	return rc == SVC_OK && question.no_memory ? no_memory(err) : rc;
}

static svc_err
list(void *self, svc_record_sink sink, void *arg, struct svc_error *err)
{
	return lookup(self, NULL, sink, arg, err);
}

static svc_err
watch(void *self, const char *service, svc_watch_sink sink, void *arg,
    void **ret_watch, struct svc_error *err)
{
	struct watch *made = NULL;
	svc_err rc = watch_start(self, service, sink, arg, &made, err);
	if (rc == SVC_OK)
		*ret_watch = made;
	return rc;
}

static void
unwatch(void *self, void *which)
{
	(void)self;
	watch_stop(which);
}

static const struct svc_registry_ops redis_ops = {
    .abi = SVC_REGISTRY_ABI,
    .size = sizeof(struct svc_registry_ops),
    .name = "redis",
    .create = plugin_create,
    .destroy = plugin_destroy,
    .announce = announce,
    .withdraw = withdraw,
    .lookup = lookup,
    .list = list,
    .watch = watch,
    .unwatch = unwatch,
    .options = "namespace database pull",
    .uses = SVC_REGISTRY_TLS | SVC_REGISTRY_SERVERS,
    .announce_within = announce_within,
    .withdraw_within = withdraw_within,
};
SVC_PLUGIN(redis_ops);
