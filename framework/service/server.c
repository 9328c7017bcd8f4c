/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of endpoints and the listener.
 *
 * The table does not change once the server listens, so calls read it without
 * a lock. `lock` guards only the waits for the first and the last call, with
 * `idle`.
 */
#include "server.h"

#include <stdio.h>
#include <string.h>

#define MAX_ENDPOINT 255
#define MAX_LIMIT INT64_C(1000000)

static uint32_t
hash(const char *name)
{
	uint32_t h = 2166136261u;
	for (; *name != '\0'; name++)
		h = (h ^ (uint8_t)*name) * 16777619u;
	return h;
}

struct svc_server_endpoint *
svc_server_find(const struct svc_server *server, const char *name)
{
	struct svc_server_endpoint *at =
	    server->buckets[hash(name) % SVC_SERVER_BUCKETS];
	while (at != NULL && strcmp(at->name, name) != 0)
		at = at->next;
	return at;
}

struct svc_server_endpoint *
svc_server_find_again(const struct svc_server *server,
    struct svc_server_shard *shard, const char *name)
{
	struct svc_server_endpoint *at =
	    atomic_load_explicit(&shard->last, memory_order_acquire);
	if (at == NULL || strcmp(at->name, name) != 0) {
		at = svc_server_find(server, name);
		if (at != NULL)
			atomic_store_explicit(
			    &shard->last, at, memory_order_release);
	}
	return at;
}

svc_err
svc_server_create(struct svc_service *service)
{
	struct svc_server *server = svc_mem_calloc(1, sizeof(*server));
	if (server == NULL)
		return SVC_E_NOMEM;
	server->service = service;
	pthread_mutex_init(&server->lock, NULL);
	svc_cond_init(&server->idle);
	svc_admission_init(&server->admission);
	service->server = server;
	server->not_run = svc_headers_create();
	if (server->not_run == NULL ||
	    svc_headers_set(server->not_run, SVC_NOT_RUN_HEADER, "true") !=
		SVC_OK)
		return SVC_E_NOMEM;
	return svc_server_add(server, SVC_EVENT_ENDPOINT, svc_event_receive,
	    NULL, NULL, true, NULL);
}

static void
free_endpoint(struct svc_server_endpoint *endpoint)
{
	if (endpoint == NULL)
		return;
	svc_mem_free(endpoint->name);
	svc_mem_free(endpoint->links);
	svc_headers_destroy(endpoint->metadata);
	svc_mem_free(endpoint);
}

void
svc_server_destroy(struct svc_server *server)
{
	if (server == NULL)
		return;
	for (size_t i = 0; i < server->n_endpoints; i++)
		free_endpoint(server->endpoints[i]);
	svc_mem_free(server->endpoints);
	svc_headers_destroy(server->not_run);
	svc_admission_fini(&server->admission);
	pthread_mutex_destroy(&server->lock);
	pthread_cond_destroy(&server->idle);
	svc_mem_free(server);
}

/* --------------------------------------------------------------- endpoints */

static svc_err
check_name(const char *name, bool internal, struct svc_error *err)
{
	size_t len = name != NULL ? strlen(name) : 0;
	const char *dot = len > 0 ? strchr(name, '.') : NULL;
	bool good = len <= MAX_ENDPOINT && dot != NULL && dot != name &&
		    name[len - 1] != '.';
	for (size_t i = 0; good && i < len; i++) {
		char c = name[i];
		good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		       (c >= '0' && c <= '9') || c == '.' || c == '_' ||
		       c == '-';
	}
	char quoted[96];
	if (!good)
		return svc_error_set(err, SVC_E_INVAL,
		    "endpoint %s must be \"Type.Method\": up to %d of "
		    "[A-Za-z0-9._-] with a dot inside",
		    svc_log_quote(
			name != NULL ? name : "", len, quoted, sizeof(quoted)),
		    MAX_ENDPOINT);
	if (!internal && strncmp(name, "Svc.", 4) == 0)
		return svc_error_set(err, SVC_E_INVAL,
		    "endpoint \"%s\": names that begin with \"Svc.\" are the "
		    "framework's own",
		    name);
	return SVC_OK;
}

static svc_err
take_option(struct svc_server_endpoint *endpoint,
    const struct svc_option *option, struct svc_error *err)
{
	svc_err code = SVC_OK;
	switch (option->kind) {
	case SVC_OPTION_NONE:
		break;
	case SVC_OPTION_IDEMPOTENT:
		code =
		    svc_headers_set(endpoint->metadata, "idempotent", "true");
		break;
	case SVC_OPTION_NEVER_BLOCKS:
		if (endpoint->stream_fn != NULL)
			return svc_error_set(err, SVC_E_INVAL,
			    "endpoint \"%s\": never_blocks() is not for the "
			    "handler of a stream, which has a thread of its "
			    "own",
			    endpoint->name);
		endpoint->never_blocks = true;
		break;
	case SVC_OPTION_LIMIT:
		if (option->number < 1 || option->number > MAX_LIMIT)
			return svc_error_set(err, SVC_E_INVAL,
			    "endpoint \"%s\": limit(%lld) must be from 1 to "
			    "%lld",
			    endpoint->name, (long long)option->number,
			    (long long)MAX_LIMIT);
		endpoint->limit = option->number;
		break;
	case SVC_OPTION_METADATA:
		code = option->text == NULL || option->text2 == NULL
			   ? SVC_E_INVAL
			   : svc_headers_set(endpoint->metadata, option->text,
				 option->text2);
		break;
	case SVC_OPTION_TYPES:
		endpoint->request = (const void *)option->text;
		endpoint->response = (const void *)option->text2;
		break;
	default:
		return svc_error_set(err, SVC_E_INVAL,
		    "endpoint \"%s\": option number %d is not one of a handler",
		    endpoint->name, option->kind);
	}
	if (code != SVC_OK)
		return svc_error_set(err, code,
		    "endpoint \"%s\": metadata(\"%s\"): %s", endpoint->name,
		    option->text != NULL ? option->text : "",
		    svc_pair_rule(code));
	return SVC_OK;
}

static svc_err
insert(struct svc_server *server, struct svc_server_endpoint *endpoint)
{
	struct svc_server_endpoint **all = svc_mem_realloc(server->endpoints,
	    (server->n_endpoints + 1) * sizeof(struct svc_server_endpoint *));
	if (all == NULL)
		return SVC_E_NOMEM;
	server->endpoints = all;
	/* Sorted by name, as they are published. */
	size_t at = server->n_endpoints++;
	for (; at > 0 && strcmp(all[at - 1]->name, endpoint->name) > 0; at--)
		all[at] = all[at - 1];
	all[at] = endpoint;
	size_t bucket = hash(endpoint->name) % SVC_SERVER_BUCKETS;
	endpoint->next = server->buckets[bucket];
	server->buckets[bucket] = endpoint;
	return SVC_OK;
}

/* With one of `fn` and `stream_fn`. */
static svc_err
add(struct svc_server *server, const char *name, svc_handler fn,
    svc_stream_handler stream_fn, void *arg, const struct svc_option *options,
    bool internal, struct svc_error *err)
{
	svc_err code = check_name(name, internal, err);
	if (code != SVC_OK)
		return code;
	if (fn == NULL && stream_fn == NULL)
		return svc_error_set(
		    err, SVC_E_INVAL, "endpoint \"%s\" needs a function", name);
	if (svc_server_find(server, name) != NULL)
		return svc_error_set(err, SVC_E_EXISTS,
		    "endpoint \"%s\" has a handler already", name);
	struct svc_server_endpoint *endpoint =
	    svc_mem_calloc(1, sizeof(*endpoint));
	if (endpoint == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	endpoint->name = svc_mem_strdup(name);
	endpoint->metadata = svc_headers_create();
	endpoint->fn = fn;
	endpoint->stream_fn = stream_fn;
	endpoint->arg = arg;
	endpoint->internal = internal;
	code = endpoint->name != NULL && endpoint->metadata != NULL
		   ? SVC_OK
		   : SVC_E_NOMEM;
	if (code == SVC_OK && stream_fn != NULL)
		code = svc_headers_set(endpoint->metadata, "stream", "true");
	if (code != SVC_OK)
		svc_error_set(err, code, "out of memory");
	for (; code == SVC_OK && options != NULL &&
	       options->kind != SVC_OPTION_END;
	     options++)
		code = take_option(endpoint, options, err);
	if (code == SVC_OK && insert(server, endpoint) != SVC_OK)
		code = svc_error_set(err, SVC_E_NOMEM, "out of memory");
	if (code != SVC_OK)
		free_endpoint(endpoint);
	return code;
}

svc_err
svc_server_add(struct svc_server *server, const char *name, svc_handler fn,
    void *arg, const struct svc_option *options, bool internal,
    struct svc_error *err)
{
	return add(server, name, fn, NULL, arg, options, internal, err);
}

svc_err
svc_server_add_stream(struct svc_server *server, const char *name,
    svc_stream_handler fn, void *arg, const struct svc_option *options,
    struct svc_error *err)
{
	return add(server, name, NULL, fn, arg, options, false, err);
}

static svc_err
may_add(struct svc_service *service, const char *endpoint)
{
	if (service->state <= SVC_SERVICE_READY)
		return SVC_OK;
	return svc_service_fail(service, SVC_E_PRECONDITION,
	    "endpoint \"%s\": handlers are added before svc_start",
	    endpoint != NULL ? endpoint : "");
}

svc_err
svc_handle_options(struct svc_service *service, const char *endpoint,
    svc_handler fn, void *arg, const struct svc_option *options)
{
	if (service == NULL)
		return SVC_E_NOMEM;
	struct svc_error err = {0};
	svc_err code = may_add(service, endpoint);
	if (code != SVC_OK)
		return code;
	code = svc_server_add(
	    service->server, endpoint, fn, arg, options, false, &err);
	return code == SVC_OK ? code
			      : svc_service_refuse(service, code, err.text);
}

svc_err
svc_handle_stream_options(struct svc_service *service, const char *endpoint,
    svc_stream_handler fn, void *arg, const struct svc_option *options)
{
	if (service == NULL)
		return SVC_E_NOMEM;
	struct svc_error err = {0};
	svc_err code = may_add(service, endpoint);
	if (code != SVC_OK)
		return code;
	code = svc_server_add_stream(
	    service->server, endpoint, fn, arg, options, &err);
	return code == SVC_OK ? code
			      : svc_service_refuse(service, code, err.text);
}

/* ---------------------------------------------------------------- wrappers */

static svc_err
run_wrap(struct svc_call *call, const struct svc_message *req,
    struct svc_message *rsp, void *arg)
{
	static const struct svc_message none = {0};
	const struct svc_handler_link *link = arg;
	if (req == NULL) /* a wrapper has left it away */
		req = &none;
	/* What the functions of a call are asked about is what came here. */
	const struct svc_message *outer = call->req;
	call->req = req;
	svc_err code =
	    link->wrap != NULL
		? ((svc_handler_wrapper)link->wrap->fn)(call, req, rsp,
		      link->next, link->next_arg, link->wrap->arg)
		: link->next(call, req, rsp, link->next_arg);
	call->req = outer;
	return code;
}

static svc_err
run_stream_wrap(struct svc_stream *stream, void *arg)
{
	const struct svc_handler_link *link = arg;
	return ((svc_stream_wrapper)link->wrap->fn)(
	    stream, link->stream_next, link->next_arg, link->wrap->arg);
}

/* The chains are built once, so that a call costs nothing for being wrapped
 * but the wrappers. */
static svc_err
wrap(struct svc_service *service, struct svc_server_endpoint *endpoint)
{
	bool streams = endpoint->stream_fn != NULL;
	const struct svc_wraps *wraps =
	    &service
		 ->wraps[streams ? SVC_WRAP_STREAM_HANDLER : SVC_WRAP_HANDLER];
	if (wraps->n == 0 || endpoint->internal)
		return SVC_OK;
	/* Below the wrappers of calls there is one link for the handler. */
	size_t n = streams ? wraps->n : wraps->n + 1;
	endpoint->links = svc_mem_calloc(n, sizeof(*endpoint->links));
	if (endpoint->links == NULL)
		return SVC_E_NOMEM;
	for (size_t i = n; i-- > 0;) {
		endpoint->links[i] = (struct svc_handler_link){
		    .wrap = i < wraps->n ? &wraps->list[i] : NULL,
		    .next = endpoint->fn,
		    .stream_next = endpoint->stream_fn,
		    .next_arg = endpoint->arg,
		};
		if (streams)
			endpoint->stream_fn = run_stream_wrap;
		else
			endpoint->fn = run_wrap;
		endpoint->arg = &endpoint->links[i];
	}
	return SVC_OK;
}

/* ---------------------------------------------------------------- listener */

svc_err
svc_server_listen(struct svc_server *server, struct svc_error *err)
{
	struct svc_service *service = server->service;
	for (size_t i = 0; i < server->n_endpoints; i++) {
		if (wrap(service, server->endpoints[i]) != SVC_OK)
			return SVC_E_NOMEM;
	}
	struct svc_transport_use *use;
	svc_err code =
	    svc_transport_get(service, service->values.transport, &use, err);
	if (code != SVC_OK)
		return code;
	server->ops = use->ops;
	svc_admission_start(&server->admission, service);
	struct svc_error why = {0};
	code = use->ops->listen(use->self, service->values.address,
	    svc_server_accept, server, &server->listener, &why);
	if (code != SVC_OK && why.code == SVC_OK)
		svc_error_set(&why, code, "%s", svc_err_text(code));
	if (code != SVC_OK)
		return svc_address_refuse(service, &why, err);
	if (SVC_OPS_HAS(use->ops, direct))
		use->ops->direct(server->listener, svc_server_direct);
	service->bound =
	    svc_mem_strdup(use->ops->listener_address(server->listener));
	return service->bound != NULL ? SVC_OK : SVC_E_NOMEM;
}

void
svc_server_open(struct svc_server *server)
{
	pthread_mutex_lock(&server->lock);
	atomic_store(&server->open, true);
	pthread_cond_broadcast(&server->idle);
	pthread_mutex_unlock(&server->lock);
}

void
svc_server_drain(struct svc_server *server)
{
	if (server->listener != NULL)
		server->ops->drain(server->listener);
}

int64_t
svc_server_running(struct svc_server *server)
{
	int64_t sum = 0;
	for (size_t i = 0; i < SVC_SERVER_SHARDS; i++)
		sum += (uint32_t)atomic_load(&server->shards[i].counts);
	return sum;
}

void
svc_server_limit(struct svc_server *server, int64_t deadline_at_ms)
{
	if (server->listener != NULL && SVC_OPS_HAS(server->ops, linger_until))
		server->ops->linger_until(server->listener, deadline_at_ms);
}

bool
svc_server_wait(struct svc_server *server, int64_t deadline_at_ms)
{
	pthread_mutex_lock(&server->lock);
	atomic_store(&server->draining, true);
	svc_err code = SVC_OK;
	while (svc_server_running(server) > 0 && code == SVC_OK)
		code =
		    svc_cond_wait(&server->idle, &server->lock, deadline_at_ms);
	bool ended = svc_server_running(server) == 0;
	pthread_mutex_unlock(&server->lock);
	return ended;
}

void
svc_server_close(struct svc_server *server)
{
	if (server == NULL || server->listener == NULL)
		return;
	svc_server_open(server); /* in case the start failed before */
	server->ops->listener_destroy(server->listener);
	server->listener = NULL;
	/* Handlers that were cut off still use the service. */
	svc_server_wait(server, INT64_MAX);
}
