/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a service: built, made, started, stopped, freed.
 *
 * `transports_lock` guards the growth of the list of transports; nothing is
 * called under it. svc_init, svc_start and svc_free belong to one thread.
 */
#include "service.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define GRACE_MIN_MS INT64_C(5000)

svc_err
svc_service_fail(
    struct svc_service *service, svc_err code, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	svc_error_vset(&service->error, code, format, args);
	va_end(args);
	return code;
}

svc_err
svc_service_refuse(struct svc_service *service, svc_err code, const char *text)
{
	if (service->refused.code == SVC_OK &&
	    service->state <= SVC_SERVICE_READY)
		svc_error_set(&service->refused, code, "%s", text);
	return svc_service_fail(service, code, "%s", text);
}

/* ---------------------------------------------------------- build and free */

struct svc_service *
svc_new_options(const struct svc_option *options)
{
	struct svc_service *service = svc_mem_calloc(1, sizeof(*service));
	if (service == NULL)
		return NULL;
	service->wake_fd = -1;
	pthread_mutex_init(&service->transports_lock, NULL);
	svc_registrar_init(&service->registrar, service);
	svc_events_init(service);
	service->client.service = service;

	if (svc_values_init(&service->values) != SVC_OK)
		goto fail;
	service->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (service->wake_fd < 0) /* svc_init tells it */
		svc_error_sys(&service->bad_option, SVC_OK, errno,
		    "no descriptor for the service");
	service->settings = svc_settings_create(program_invocation_short_name);
	if (service->settings == NULL ||
	    svc_flags_add(service->settings, &service->values, NULL) != SVC_OK)
		goto fail;
	if (svc_server_create(service) != SVC_OK)
		goto fail;
	svc_options_take(service, options);
	return service;

fail:
	svc_free(service);
	return NULL;
}

static void
stop(struct svc_service *service)
{
	svc_registrar_stop(&service->registrar);
	svc_server_drain(service->server);
	int64_t limit_ms = service->values.drain_timeout_ms;
	int64_t deadline_at_ms = svc_deadline(limit_ms);
	svc_server_limit(service->server, deadline_at_ms);
	if (!svc_server_wait(service->server, deadline_at_ms)) {
		service->cut = true;
		svc_log(SVC_LOG_WARN, "service.cut",
		    "%lld calls still ran after --drain_timeout (%lld ms)",
		    (long long)svc_server_running(service->server),
		    (long long)limit_ms);
		svc_server_cut_streams(service->server);
	}
	service->state = SVC_SERVICE_STOPPED;
	svc_log(SVC_LOG_INFO, "service.stopped", "%s", service->values.id);
}

void
svc_free(struct svc_service *service)
{
	if (service == NULL)
		return;
	if (service->state == SVC_SERVICE_STARTED)
		stop(service);
	svc_client_close(service);
	/* Handlers may use everything below: none runs from here on. */
	svc_server_close(service->server);
	svc_events_finish(service);
	svc_client_finish(service);
	svc_registry_destroy(service->registry);
	struct svc_transport_use *use = atomic_load(&service->transports);
	while (use != NULL) {
		struct svc_transport_use *next = use->next;
		use->ops->destroy(use->self);
		svc_mem_free(use);
		use = next;
	}
	svc_executor_destroy(service->executor);
	svc_async_destroy(service->client.async); /* its threads used it */
	svc_server_destroy(service->server);
	svc_codecs_destroy(atomic_load(&service->codecs));
	svc_registrar_fini(&service->registrar);
	svc_settings_destroy(service->settings);
	svc_values_fini(&service->values);
	for (size_t i = 0; i < SVC_WRAP_KINDS; i++)
		svc_mem_free(service->wraps[i].list);
	svc_mem_free(service->bound);
	svc_mem_free(service->advertised);
	if (service->wake_fd >= 0)
		close(service->wake_fd);
	pthread_mutex_destroy(&service->transports_lock);
	svc_mem_free(service);
}

/* -------------------------------------------------------------------- init */

static void
start_log(struct svc_service *service)
{
	struct svc_values *v = &service->values;
	svc_log_default_sink(strcmp(v->log_format, "json") == 0
				 ? svc_log_to_json
				 : svc_log_to_text,
	    NULL);
	svc_log_level level;
	bool given = v->log_level_given ||
		     svc_settings_source(service->settings, "log_level") !=
			 SVC_SOURCE_CODE;
	if (given && svc_log_level_parse(v->log_level, &level) == SVC_OK)
		svc_log_set_level(level);
}

/* What the program set for its registry or broker is nothing for the one that
 * a flag chose instead. */
static void
drop_stale(struct svc_service *service, const char *setting, char **value)
{
	if (*value != NULL && svc_settings_source(service->settings, setting) ==
				  SVC_SOURCE_CODE) {
		svc_mem_free(*value);
		*value = NULL;
	}
}

static void
drop_stale_registry(struct svc_service *service)
{
	struct svc_values *v = &service->values;
	drop_stale(service, "registry_address", &v->registry_address);
	drop_stale(service, "registry_tls_cert", &v->registry_tls_cert);
	drop_stale(service, "registry_tls_key", &v->registry_tls_key);
	drop_stale(service, "registry_tls_ca", &v->registry_tls_ca);
}

/* Below what the other layers have set. */
static svc_err
merge_below(struct svc_headers *pairs, const struct svc_headers *below)
{
	const char *name, *value;
	svc_err code = SVC_OK;
	for (size_t i = 0;
	     code == SVC_OK && svc_headers_at(below, i, &name, &value); i++)
		if (svc_headers_get(pairs, name) == NULL)
			code = svc_headers_set(pairs, name, value);
	return code;
}

static svc_err
load(struct svc_service *service, int argc, char *argv[], struct svc_error *err)
{
	struct svc_values *v = &service->values;
	char *registry = svc_mem_strdup(v->registry);
	char *broker = svc_mem_strdup(v->broker);
	/* Aside until it is known for which registry they are. */
	struct svc_headers *options = svc_headers_copy(v->registry_options);
	svc_err code = SVC_E_NOMEM;
	if (registry == NULL || broker == NULL || options == NULL)
		goto out;
	svc_headers_clear(v->registry_options);
	code = svc_settings_load(service->settings, argc, argv, NULL, err);
	if (code == SVC_OK)
		code = svc_flags_help(service);
	if (code != SVC_OK)
		goto out;
	if (strcmp(registry, v->registry) != 0)
		drop_stale_registry(service);
	else
		code = merge_below(v->registry_options, options);
	if (strcmp(broker, v->broker) != 0)
		drop_stale(service, "broker_address", &v->broker_address);
	if (code == SVC_OK)
		code = svc_values_settle(service, err);
	if (code == SVC_OK)
		code = svc_tls_settle(service, err);
out:
	svc_mem_free(registry);
	svc_mem_free(broker);
	svc_headers_destroy(options);
	return code;
}

static svc_err
check_codec(struct svc_service *service, struct svc_error *err)
{
	const char *type = service->values.codec;
	/* Loading every codec takes time that the usual case need not pay. */
	if (strcmp(type, "application/json") == 0)
		return SVC_OK;
	const struct svc_codecs *codecs;
	const struct svc_codec_ops *ops;
	struct svc_error why = {0};
	svc_err code = svc_content_type_check(type, &why);
	if (code == SVC_OK) {
		code = svc_service_codecs(service, &codecs, err);
		if (code != SVC_OK)
			return code;
		code = svc_codecs_find(codecs, type, &ops, &why);
	}
	if (code == SVC_OK)
		return SVC_OK;
	if (code == SVC_E_UNIMPLEMENTED)
		why.code = SVC_E_INVAL;
	return svc_setting_refuse(service, "codec", type, &why, err);
}

static svc_err
make(struct svc_service *service, struct svc_error *err)
{
	struct svc_values *v = &service->values;
	struct svc_executor_config threads = {
	    .loops = (int)v->loops,
	    .max_threads = (int)v->threads,
	    .busy_poll_us = v->busy_poll_us > 0 ? (int)v->busy_poll_us : -1,
	};
	svc_err code = svc_executor_create(&threads, &service->executor, err);
	if (code != SVC_OK)
		return code;
	v->loops = svc_executor_loops(service->executor);
	if (v->max_handlers < 0) {
		/* Each may hold a thread, beside those of the loops and a few
		 * for other work. */
		v->max_handlers = v->threads - v->loops - v->threads / 16;
		if (v->max_handlers < 1)
			v->max_handlers = 1;
	}
	struct svc_transport_use *use;
	code = svc_transport_get(service, v->transport, &use, err);
	if (code != SVC_OK)
		return code;
	struct svc_registry_config config = {
	    .address = v->registry_address,
	    .timeout_ms = v->registry_timeout_ms,
	    /* The others' TTL is mostly ours: within it, who lives has come
	     * back to a registry that lost its data. */
	    .grace_ms = v->ttl_ms > GRACE_MIN_MS ? v->ttl_ms : GRACE_MIN_MS,
	    .username = v->registry_username,
	    .password = v->registry_password,
	    .tls = service->registry_has_tls ? &service->registry_tls : NULL,
	    .options = v->registry_options,
	    .fallback = v->registry_fallback,
	    .snapshot = v->registry_snapshot,
	};
	code =
	    svc_registry_create(v->registry, &config, &service->registry, err);
	if (code != SVC_OK)
		return code;
	code = svc_client_start(service, err);
	if (code != SVC_OK)
		return code;
	code = svc_events_make(service, err);
	if (code != SVC_OK)
		return code;
	return check_codec(service, err);
}

static void
show_options(struct svc_service *service)
{
	struct svc_values *v = &service->values;
	service->options = (struct svc_options){
	    .name = v->name,
	    .version = v->version,
	    .id = v->id,
	    .address = service->bound != NULL ? service->bound : v->address,
	    .advertise = service->advertised != NULL ? service->advertised
						     : v->advertise,
	    .metadata = v->metadata,
	    .registry = v->registry,
	    .registry_address = v->registry_address,
	    .selector = v->selector,
	    .transport = v->transport,
	    .broker = v->broker,
	    .broker_address = v->broker_address,
	    .codec = v->codec,
	    .ttl_ms = v->ttl_ms,
	    .interval_ms = v->interval_ms,
	    .request_timeout_ms = v->request_timeout_ms,
	    .retries = (int)v->retries,
	    .max_message_size = v->max_message_size,
	    .max_header_size = v->max_header_size,
	    .max_streams = v->max_streams,
	    .max_connections = v->max_connections,
	    .handshake_timeout_ms = v->handshake_timeout_ms,
	    .idle_timeout_ms = v->idle_timeout_ms,
	    .keepalive_ms = v->keepalive_ms,
	    .stream_window = v->stream_window,
	    .connection_window = v->connection_window,
	    .threads = (int)v->threads,
	    .loops = (int)v->loops,
	    .busy_poll_us = (int)v->busy_poll_us,
	    .max_handlers = v->max_handlers,
	    .queue_timeout_ms = v->queue_timeout_ms,
	    .weight = (int)v->weight,
	};
}

/* What the service cannot go on from, for who asks it to later. */
static svc_err
note_failure(struct svc_service *service, const char *function, svc_err code)
{
	return svc_error_set(&service->failed, code, "%s has failed: %s",
	    function, service->error.text);
}

static svc_err
init(struct svc_service *service, int argc, char *argv[])
{
	int given = 0;
	while (argv != NULL && given < argc && argv[given] != NULL)
		given++;
	argc = given;
	if (service->bad_option.code != SVC_OK) {
		service->error = service->bad_option;
		return service->error.code;
	}
	svc_err code = svc_flags_answer(service, argc, argv);
	if (code != SVC_OK)
		return code;
	struct svc_error err = {0};
	code = load(service, argc, argv, &err);
	if (code == SVC_E_DONE)
		return code;
	if (code == SVC_OK) {
		start_log(service);
		code = make(service, &err);
	}
	/* To name a plugin or file that is not there is bad usage as well. */
	if (code == SVC_E_NOT_FOUND)
		code = SVC_E_INVAL;
	if (code != SVC_OK)
		return svc_service_fail(service, code, "%s",
		    err.text[0] != '\0' ? err.text : svc_err_text(code));
	service->state = SVC_SERVICE_READY;
	show_options(service);
	return SVC_OK;
}

svc_err
svc_init(struct svc_service *service, int argc, char *argv[])
{
	if (service == NULL)
		return SVC_E_NOMEM;
	if (service->state != SVC_SERVICE_NEW)
		return svc_service_fail(
		    service, SVC_E_PRECONDITION, "svc_init was called before");
	service->state = SVC_SERVICE_FAILED;
	svc_err code = init(service, argc, argv);
	return code == SVC_OK || code == SVC_E_DONE
		   ? code
		   : note_failure(service, "svc_init", code);
}

/* ------------------------------------------------------------------- start */

static svc_err
find_advertised(struct svc_service *service, struct svc_error *err)
{
	const char *wanted = service->values.advertise;
	struct svc_error why = {0};
	svc_err code = svc_advertise_address(
	    service->bound, wanted, &service->advertised, &why);
	if (code != SVC_E_INVAL)
		return code;
	if (wanted != NULL)
		return svc_setting_refuse(
		    service, "advertise", wanted, &why, err);
	return svc_address_refuse(service, &why, err);
}

static svc_err
start(struct svc_service *service, struct svc_error *err)
{
	svc_err code = svc_debug_add(service, err);
	if (code == SVC_OK)
		code = svc_server_listen(service->server, err);
	if (code == SVC_OK)
		code = find_advertised(service, err);
	if (code != SVC_OK)
		return code;
	if (svc_registry_uses(service->registry) & SVC_REGISTRY_SERVERS)
		svc_advertise_warn(
		    service->advertised, service->values.registry_address);
	else
		svc_advertise_warn(service->advertised, NULL);
	show_options(service);
	svc_server_open(service->server);
	code = svc_events_start(service, err);
	if (code != SVC_OK)
		return code;
	return svc_registrar_start(&service->registrar, err);
}

/* Neither init nor start is done twice, and whoever tries is told why the first
 * one has failed. */
static svc_err
may_not_start(struct svc_service *service)
{
	const char *why = service->state == SVC_SERVICE_STARTED
			      ? "the service has been started before"
			      : "the service has ended; make a new one";
	if (service->state == SVC_SERVICE_FAILED &&
	    service->failed.text[0] != '\0')
		why = service->failed.text;
	return svc_service_fail(service, SVC_E_PRECONDITION, "%s", why);
}

svc_err
svc_start(struct svc_service *service)
{
	if (service == NULL)
		return SVC_E_NOMEM;
	svc_err code = SVC_OK;
	if (service->state == SVC_SERVICE_NEW)
		code = svc_init(service, 0, NULL);
	if (code != SVC_OK)
		return code;
	if (service->state != SVC_SERVICE_READY)
		return may_not_start(service);
	if (service->refused.code != SVC_OK)
		svc_log(SVC_LOG_WARN, "service.refused",
		    "the service starts without what it was given: %s",
		    service->refused.text);
	/* What fails half-way is undone by svc_free. */
	struct svc_error err = {0};
	code = start(service, &err);
	if (code != SVC_OK) {
		service->state = SVC_SERVICE_FAILED;
		svc_registrar_stop(&service->registrar);
		svc_server_close(service->server);
		svc_service_fail(service, code, "%s",
		    err.text[0] != '\0' ? err.text : svc_err_text(code));
		return note_failure(service, "svc_start", code);
	}
	service->state = SVC_SERVICE_STARTED;
	svc_log(SVC_LOG_INFO, "service.started",
	    "%s %s at %s (%s), registry %s", service->values.id,
	    service->values.version, service->advertised,
	    service->values.transport, service->values.registry);
	return SVC_OK;
}

svc_err
svc_run(struct svc_service *service)
{
	if (service == NULL)
		return SVC_E_NOMEM;
	/* First, so that a signal during the start is not lost. */
	svc_err code = svc_run_begin(service);
	if (code != SVC_OK)
		return code;
	if (service->state != SVC_SERVICE_STARTED)
		code = svc_start(service);
	if (code == SVC_OK) {
		svc_run_wait(service);
		stop(service);
		if (!service->cut)
			svc_server_close(service->server);
	}
	svc_run_end(service);
	return code;
}

int
svc_exit_status(svc_err err)
{
	if (err == SVC_OK || err == SVC_E_DONE)
		return 0;
	return err == SVC_E_INVAL ? 2 : 1;
}

int
svc_main(struct svc_service *service, int argc, char *argv[])
{
	svc_err code = svc_init(service, argc, argv);
	if (code == SVC_OK)
		code = svc_run(service);
	if (code != SVC_OK && code != SVC_E_DONE)
		fprintf(stderr, "%s: %s\n", program_invocation_short_name,
		    svc_error_text(service));
	/* A handler that does not end must not keep the process: what it uses
	 * is left to the end of the process. */
	if (service == NULL || !service->cut)
		svc_free(service);
	return svc_exit_status(code);
}

/* --------------------------------------------------------------- accessors */

const char *
svc_error_text(const struct svc_service *service)
{
	return service != NULL ? service->error.text : "out of memory";
}

const struct svc_options *
svc_options_of(const struct svc_service *service)
{
	return service != NULL ? &service->options : NULL;
}

static bool
is_made(const struct svc_service *service)
{
	return service != NULL && (service->state == SVC_SERVICE_READY ||
				      service->state == SVC_SERVICE_STARTED ||
				      service->state == SVC_SERVICE_STOPPED);
}

struct svc_client *
svc_client_of(struct svc_service *service)
{
	return is_made(service) ? &service->client : NULL;
}

struct svc_server *
svc_server_of(struct svc_service *service)
{
	return is_made(service) ? service->server : NULL;
}

struct svc_registry *
svc_registry_of(struct svc_service *service)
{
	return is_made(service) ? service->registry : NULL;
}

struct svc_broker *
svc_broker_of(struct svc_service *service)
{
	return is_made(service) ? service->broker : NULL;
}

struct svc_settings *
svc_settings_of(struct svc_service *service)
{
	return service != NULL ? service->settings : NULL;
}

const char *
svc_string(const struct svc_service *service)
{
	(void)service;
	return "svc";
}

bool
svc_registered(const struct svc_service *service)
{
	return service != NULL && atomic_load(&service->registrar.registered);
}

/* ------------------------------------------------------ plugins, transports */

svc_err
svc_plugin_add(const void *ops)
{
	static const struct svc_interface *const interfaces[] = {
	    &svc_registry_interface, &svc_strategy_interface,
	    &svc_codec_interface, &svc_transport_interface,
	    &svc_broker_interface};
	if (ops == NULL)
		return SVC_E_INVAL;
	uint32_t abi;
	memcpy(&abi, ops, sizeof(abi));
	for (size_t i = 0; i < sizeof(interfaces) / sizeof(interfaces[0]);
	     i++) {
		if (interfaces[i]->abi >> 16 == abi >> 16)
			return svc_catalogue_add(interfaces[i], ops, NULL);
	}
	return SVC_E_ABI;
}

static struct svc_transport_use *
find_transport(struct svc_service *service, const char *name)
{
	struct svc_transport_use *use = atomic_load(&service->transports);
	while (use != NULL && strcmp(use->ops->name, name) != 0)
		use = use->next;
	return use;
}

svc_err
svc_transport_get(struct svc_service *service, const char *name,
    struct svc_transport_use **ret_use, struct svc_error *err)
{
	struct svc_transport_use *found = find_transport(service, name);
	if (found != NULL) {
		*ret_use = found;
		return SVC_OK;
	}
	const void *ops;
	svc_err code =
	    svc_catalogue_find(&svc_transport_interface, name, &ops, err);
	if (code != SVC_OK)
		return code;
	struct svc_transport_use *use = svc_mem_calloc(1, sizeof(*use));
	if (use == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	use->ops = ops;
	const struct svc_values *v = &service->values;
	struct svc_transport_config config = {
	    .executor = service->executor,
	    .limits =
		{
		    .max_message = v->max_message_size,
		    .max_headers = (uint32_t)v->max_header_size,
		    .max_streams = (uint32_t)v->max_streams,
		    .max_connections = (uint32_t)v->max_connections,
		    .handshake_ms = v->handshake_timeout_ms,
		    .stream_window = (uint32_t)v->stream_window,
		    .conn_window = (uint32_t)v->connection_window,
		    .keepalive_ms =
			v->keepalive_ms > 0 ? v->keepalive_ms : SVC_FOREVER,
		    .idle_ms = v->idle_timeout_ms > 0 ? v->idle_timeout_ms
						      : SVC_FOREVER,
		},
	    .tls = service->has_tls ? &service->tls : NULL,
	};
	code = use->ops->create(&config, &use->self, err);
	if (code != SVC_OK) {
		svc_mem_free(use);
		return code;
	}
	pthread_mutex_lock(&service->transports_lock);
	found = find_transport(service, name);
	if (found == NULL) {
		use->next = atomic_load(&service->transports);
		atomic_store(&service->transports, use);
	}
	pthread_mutex_unlock(&service->transports_lock);
	if (found != NULL) { /* another thread was faster */
		use->ops->destroy(use->self);
		svc_mem_free(use);
		use = found;
	}
	*ret_use = use;
	return SVC_OK;
}

svc_err
svc_service_codecs(struct svc_service *service,
    const struct svc_codecs **ret_codecs, struct svc_error *err)
{
	struct svc_codecs *codecs = atomic_load(&service->codecs);
	if (codecs == NULL) {
		struct svc_codecs *made;
		svc_err code = svc_codecs_create(&made, err);
		if (code != SVC_OK)
			return code;
		if (atomic_compare_exchange_strong(
			&service->codecs, &codecs, made))
			codecs = made;
		else
			svc_codecs_destroy(made);
	}
	*ret_codecs = codecs;
	return SVC_OK;
}
