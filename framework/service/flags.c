/* SPDX-License-Identifier: Apache-2.0 */
/* The settings of a service: flags, environment and config file over what the
 * program set in code. Names are go-micro's or have its names as aliases. */
#include "service.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DAY_MS (INT64_C(24) * 3600 * 1000)

static const struct {
	const char *name, *aliases;
	svc_setting_kind kind;
	size_t target; /* offset in struct svc_values */
	const char *value, *help, *choices;
	int64_t min, max, unit_ms;
	const char *group;
} table[] = {
#define AT(field) offsetof(struct svc_values, field)
    {"name", "server_name", SVC_SETTING_TEXT, AT(name), "NAME",
	"Name by which the service is found", NULL, 0, 0, 0, "Service"},
    {"version", "server_version", SVC_SETTING_TEXT, AT(version), "VERSION",
	"Version to register; without a value the versions are printed", NULL,
	0, 0, 0, "Service"},
    {"id", "server_id", SVC_SETTING_TEXT, AT(id), "ID",
	"Id of this node (default: the name and a random UUID)", NULL, 0, 0, 0,
	"Service"},
    {"address", "server_address transport_address", SVC_SETTING_TEXT,
	AT(address), "HOST:PORT",
	"Address to listen on; port 0 takes a free one, no host means every "
	"interface",
	NULL, 0, 0, 0, "Service"},
    {"advertise", "server_advertise", SVC_SETTING_TEXT, AT(advertise),
	"HOST[:PORT]",
	"Address to register in place of the one bound: a host name, an IP "
	"address or an interface of this host",
	NULL, 0, 0, 0, "Service"},
    {"metadata", "server_metadata", SVC_SETTING_PAIRS, AT(metadata),
	"KEY=VALUE", "Metadata of this node; may be repeated", NULL, 0, 0, 0,
	"Service"},
    {"weight", NULL, SVC_SETTING_INT, AT(weight), "NUMBER",
	"Share of the calls that strategies with weights give this node", NULL,
	1, 1000000, 0, "Service"},
    {"codec", "content_type", SVC_SETTING_TEXT, AT(codec), "TYPE",
	"Content type of messages that do not say theirs", NULL, 0, 0, 0,
	"Service"},
    {"drain_timeout", NULL, SVC_SETTING_DURATION, AT(drain_timeout_ms),
	"SECONDS",
	"How long running calls may take when the service stops, and clients "
	"to read the answers",
	NULL, 0, DAY_MS, 1000, "Service"},
    {"registry", NULL, SVC_SETTING_TEXT, AT(registry), "PLUGIN",
	"Where services are registered and found", NULL, 0, 0, 0, "Registry"},
    {"registry_address", NULL, SVC_SETTING_TEXT, AT(registry_address),
	"ADDRESS[,ADDRESS]", "Address of the registry", NULL, 0, 0, 0,
	"Registry"},
    {"registry_ttl", "register_ttl", SVC_SETTING_DURATION, AT(ttl_ms),
	"SECONDS", "After this long without a renewal the node is gone", NULL,
	100, 3650 * DAY_MS, 1000, "Registry"},
    {"registry_interval", "register_interval", SVC_SETTING_DURATION,
	AT(interval_ms), "SECONDS",
	"Time between renewals (default: a third of the ttl)", NULL, 10,
	3650 * DAY_MS, 1000, "Registry"},
    {"registry_timeout", NULL, SVC_SETTING_DURATION, AT(registry_timeout_ms),
	"SECONDS", "The longest that one question to the registry may take",
	NULL, 1, DAY_MS, 1000, "Registry"},
    {"registry_username", NULL, SVC_SETTING_TEXT, AT(registry_username), "NAME",
	"Name to log in to the registry with", NULL, 0, 0, 0, "Registry"},
    {"registry_password", NULL, SVC_SETTING_TEXT, AT(registry_password), "TEXT",
	"Password for the registry; better set in the environment", NULL, 0, 0,
	0, "Registry"},
    {"registry_tls_ca", NULL, SVC_SETTING_TEXT, AT(registry_tls_ca), "FILE",
	"CA certificates, PEM, by which the registry must be signed, or "
	"\"system\"; turns TLS on",
	NULL, 0, 0, 0, "Registry"},
    {"registry_tls_cert", NULL, SVC_SETTING_TEXT, AT(registry_tls_cert), "FILE",
	"Certificate that the registry is shown, PEM; turns TLS on", NULL, 0, 0,
	0, "Registry"},
    {"registry_tls_key", NULL, SVC_SETTING_TEXT, AT(registry_tls_key), "FILE",
	"Private key of that certificate, PEM without a passphrase", NULL, 0, 0,
	0, "Registry"},
    {"registry_tls_name", NULL, SVC_SETTING_TEXT, AT(registry_tls_name), "NAME",
	"Name or IP address in the registry's certificate (default: the host "
	"of its address)",
	NULL, 0, 0, 0, "Registry"},
    {"registry_fallback", NULL, SVC_SETTING_TEXT, AT(registry_fallback),
	"PLUGIN[:ADDRESS]",
	"Registry to ask while the first cannot be reached, as static:FILE",
	NULL, 0, 0, 0, "Registry"},
    {"registry_snapshot", NULL, SVC_SETTING_TEXT, AT(registry_snapshot), "FILE",
	"File to keep what was known last in, for a start while the registry "
	"cannot be reached",
	NULL, 0, 0, 0, "Registry"},
    {"registry_options", NULL, SVC_SETTING_PAIRS, AT(registry_options),
	"KEY=VALUE", "What only the chosen registry knows; may be repeated",
	NULL, 0, 0, 0, "Registry"},
    {"transport", NULL, SVC_SETTING_TEXT, AT(transport), "PLUGIN",
	"What carries the calls", NULL, 0, 0, 0, "Calls"},
    {"selector", NULL, SVC_SETTING_TEXT, AT(selector), "STRATEGY",
	"How the node of a call is chosen", NULL, 0, 0, 0, "Calls"},
    {"client_request_timeout", NULL, SVC_SETTING_DURATION,
	AT(request_timeout_ms), "SECONDS",
	"How long a call may take, retries included", NULL, 1, DAY_MS, 1000,
	"Calls"},
    {"client_retries", NULL, SVC_SETTING_INT, AT(retries), "NUMBER",
	"How often a failed call is tried on another node", NULL, 0, 100, 0,
	"Calls"},
    {"max_message_size", NULL, SVC_SETTING_SIZE, AT(max_message_size), "BYTES",
	"The largest request, reply or event", NULL, 1, INT64_C(1) << 30, 0,
	"Limits"},
    {"threads", NULL, SVC_SETTING_INT, AT(threads), "NUMBER",
	"The most threads for event loops and for handlers that block", NULL, 2,
	10000, 0, "Limits"},
    {"loops", NULL, SVC_SETTING_INT, AT(loops), "NUMBER",
	"Event loops; 0 means one a processor", NULL, 0, 64, 0, "Limits"},
    {"busy_poll", NULL, SVC_SETTING_INT, AT(busy_poll_us), "MICROSECONDS",
	"How long input is looked for before sleeping, while it mostly comes "
	"so soon; 0 means never",
	NULL, 0, 1000, 0, "Limits"},
    {"max_handlers", NULL, SVC_SETTING_INT, AT(max_handlers), "NUMBER",
	"Handlers that may run at once; 0 means any number, -1 as many as "
	"--threads leaves room for",
	NULL, -1, 1000000, 0, "Limits"},
    {"queue_timeout", NULL, SVC_SETTING_DURATION, AT(queue_timeout_ms),
	"SECONDS",
	"How long a call waits when --max_handlers run, before it is refused",
	NULL, 0, DAY_MS, 1000, "Limits"},
    {"max_header_size", NULL, SVC_SETTING_SIZE, AT(max_header_size), "BYTES",
	"The largest header block of a message", NULL, 256, 65536, 0, "Limits"},
    {"max_streams", NULL, SVC_SETTING_INT, AT(max_streams), "NUMBER",
	"Calls and streams that may be open at once in one connection", NULL, 1,
	1000000, 0, "Limits"},
    {"max_connections", NULL, SVC_SETTING_INT, AT(max_connections), "NUMBER",
	"Connections that the service accepts at once", NULL, 1, 10000000, 0,
	"Limits"},
    {"handshake_timeout", NULL, SVC_SETTING_DURATION, AT(handshake_timeout_ms),
	"SECONDS", "A new connection that says no hello for so long is closed",
	NULL, 1, DAY_MS, 1000, "Limits"},
    {"idle_timeout", NULL, SVC_SETTING_DURATION, AT(idle_timeout_ms), "SECONDS",
	"An accepted connection without calls for so long is closed; 0 means "
	"never",
	NULL, 0, 3650 * DAY_MS, 1000, "Limits"},
    {"keepalive", NULL, SVC_SETTING_DURATION, AT(keepalive_ms), "SECONDS",
	"A peer that gives no sign of life for so long during a call is dead; "
	"0 means never",
	NULL, 0, DAY_MS, 1000, "Limits"},
    {"stream_window", NULL, SVC_SETTING_SIZE, AT(stream_window), "BYTES",
	"What a peer may send ahead on one stream; more than 512k only while "
	"its receiver is quick",
	NULL, 1024, INT64_C(1) << 30, 0, "Limits"},
    {"connection_window", NULL, SVC_SETTING_SIZE, AT(connection_window),
	"BYTES", "What a peer may send ahead on all streams of a connection",
	NULL, 1024, INT64_C(1) << 30, 0, "Limits"},
    {"tls_cert", NULL, SVC_SETTING_TEXT, AT(tls_cert), "FILE",
	"Certificate that this service shows, PEM, with those between it and "
	"its CA behind it; turns TLS on",
	NULL, 0, 0, 0, "TLS"},
    {"tls_key", NULL, SVC_SETTING_TEXT, AT(tls_key), "FILE",
	"Private key of the certificate, PEM without a passphrase", NULL, 0, 0,
	0, "TLS"},
    {"tls_ca", NULL, SVC_SETTING_TEXT, AT(tls_ca), "FILE",
	"CA certificates, PEM, by which peers must be signed; \"system\": the "
	"services called by those of this system, callers by nobody",
	NULL, 0, 0, 0, "TLS"},
    {"tls_name", NULL, SVC_SETTING_TEXT, AT(tls_name), "NAME",
	"Name or IP address in the certificates of the services called "
	"(default: the host of their address)",
	NULL, 0, 0, 0, "TLS"},
    {"tls_client_auth", NULL, SVC_SETTING_TEXT, AT(tls_client_auth), "WHEN",
	"Whether callers must show a certificate (default: required when "
	"tls_ca is a file)",
	"required none", 0, 0, 0, "TLS"},
    {"broker", NULL, SVC_SETTING_TEXT, AT(broker), "PLUGIN",
	"What carries the events", NULL, 0, 0, 0, "Events"},
    {"broker_address", NULL, SVC_SETTING_TEXT, AT(broker_address), "ADDRESS",
	"Address of the broker", NULL, 0, 0, 0, "Events"},
    {"broker_username", NULL, SVC_SETTING_TEXT, AT(broker_username), "NAME",
	"Name to log in to the broker with", NULL, 0, 0, 0, "Events"},
    {"broker_password", NULL, SVC_SETTING_TEXT, AT(broker_password), "TEXT",
	"Password for the broker; better set in the environment", NULL, 0, 0, 0,
	"Events"},
    {"log_level", NULL, SVC_SETTING_TEXT, AT(log_level), "LEVEL",
	"The least important lines to log", "trace debug info warn error off",
	0, 0, 0, "General"},
    {"log_format", NULL, SVC_SETTING_TEXT, AT(log_format), "FORMAT",
	"How log lines look on standard error", "text json", 0, 0, 0,
	"General"},
    {"config", NULL, SVC_SETTING_TEXT, AT(config), "FILE",
	"YAML or JSON file with these settings", NULL, 0, 0, 0, "General"},
    {"help", NULL, SVC_SETTING_BOOL, AT(help), NULL, "Print this and end", NULL,
	0, 0, 0, "General"},
#undef AT
};

svc_err
svc_flags_add(struct svc_settings *settings, struct svc_values *values,
    struct svc_error *err)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct svc_setting setting = {
		    .name = table[i].name,
		    .aliases = table[i].aliases,
		    .kind = table[i].kind,
		    .target = (char *)values + table[i].target,
		    .value = table[i].value,
		    .help = table[i].help,
		    .choices = table[i].choices,
		    .min = table[i].min,
		    .max = table[i].max,
		    .unit_ms = table[i].unit_ms,
		    .group = table[i].group,
		};
		svc_err code = svc_settings_add(settings, &setting, err);
		if (code != SVC_OK)
			return code;
	}
	return SVC_OK;
}

/* ------------------------------------------------------- help and version */

/* The settings that name a plugin. */
static const struct {
	const char *setting;
	const struct svc_interface *interface;
	size_t target; /* offset in struct svc_values */
} plugins[] = {
    {"registry", &svc_registry_interface,
	offsetof(struct svc_values, registry)},
    {"transport", &svc_transport_interface,
	offsetof(struct svc_values, transport)},
    {"selector", &svc_strategy_interface,
	offsetof(struct svc_values, selector)},
    {"broker", &svc_broker_interface, offsetof(struct svc_values, broker)},
};
#define N_PLUGINS (sizeof(plugins) / sizeof(plugins[0]))

static void
print_plugin(const char *name, void *arg)
{
	(void)arg;
	printf(" %s", name);
}

static void
print_help(struct svc_service *service)
{
	char usage[160];
	snprintf(usage, sizeof(usage), "%s [--flag=value ...]",
	    program_invocation_short_name);
	char *help = svc_settings_help(service->settings, usage, NULL);
	if (help == NULL)
		return;
	fputs(help, stdout);
	svc_mem_free(help);
	printf("\nPlugins:\n");
	for (size_t i = 0; i < N_PLUGINS; i++) {
		printf("  --%-10s", plugins[i].setting);
		svc_catalogue_list(plugins[i].interface, print_plugin, NULL);
		printf("\n");
	}
	fflush(stdout);
}

static bool
is_help(const char *arg)
{
	return strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0;
}

/* So that the values shown are those in effect. What is wrong with them is no
 * reason to refuse the help that may tell what is right. */
static void
load_what_is_right(struct svc_service *service, int argc, char *argv[])
{
	char **copy = svc_mem_calloc((size_t)argc + 1, sizeof(*copy));
	if (copy == NULL)
		return;
	int n = 0, rest = 0;
	for (int i = 0; i < argc; i++)
		if (i == 0 || !is_help(argv[i]))
			copy[n++] = argv[i];
	svc_settings_load(service->settings, n, copy, &rest, NULL);
	svc_mem_free(copy);
}

svc_err
svc_flags_answer(struct svc_service *service, int argc, char *argv[])
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (is_help(argv[i])) {
			load_what_is_right(service, argc, argv);
			print_help(service);
			return SVC_E_DONE;
		}
		/* With a value it sets the version of the service. */
		if (strcmp(argv[i], "--version") == 0 &&
		    (i + 1 == argc || argv[i + 1][0] == '-')) {
			printf("%s %s (svc %s)\n", service->values.name,
			    service->values.version, svc_version());
			fflush(stdout);
			return SVC_E_DONE;
		}
	}
	return SVC_OK;
}

svc_err
svc_flags_help(struct svc_service *service)
{
	if (!service->values.help)
		return SVC_OK;
	print_help(service);
	return SVC_E_DONE;
}

/* ----------------------------------------------------------------- checks */

svc_err
svc_setting_refuse(const struct svc_service *service, const char *setting,
    const char *value, const struct svc_error *why, struct svc_error *err)
{
	char place[sizeof(err->text)];
	if (!svc_settings_place(
		service->settings, setting, place, sizeof(place)))
		snprintf(place, sizeof(place), "option %s(%s)", setting, value);
	return svc_error_set(err, why->code, "%s: %s", place, why->text);
}

svc_err
svc_address_refuse(const struct svc_service *service,
    const struct svc_error *why, struct svc_error *err)
{
	if (svc_settings_source(service->settings, "address") ==
	    SVC_SOURCE_CODE)
		return svc_error_set(err, why->code, "%s", why->text);
	return svc_setting_refuse(
	    service, "address", service->values.address, why, err);
}

/* "PLUGIN" or "PLUGIN:ADDRESS". */
static svc_err
check_fallback(const char *fallback, struct svc_error *why)
{
	char plugin[64], quoted[64];
	const void *ops;
	if (fallback == NULL || fallback[0] == '\0')
		return SVC_OK;
	snprintf(plugin, sizeof(plugin), "%.*s", (int)strcspn(fallback, ":"),
	    fallback);
	if (plugin[0] == '\0')
		return svc_error_set(why, SVC_E_INVAL,
		    "%s has no plugin; allowed: PLUGIN or PLUGIN:ADDRESS, as "
		    "static:nodes.yaml",
		    svc_log_quote(
			fallback, strlen(fallback), quoted, sizeof(quoted)));
	return svc_catalogue_find(&svc_registry_interface, plugin, &ops, why);
}

static svc_err
check_plugins(struct svc_service *service, struct svc_error *err)
{
	const struct svc_values *v = &service->values;
	struct svc_error why = {0};
	const void *ops;
	for (size_t i = 0; i < N_PLUGINS; i++) {
		const char *name =
		    *(char *const *)((const char *)v + plugins[i].target);
		svc_err code =
		    svc_catalogue_find(plugins[i].interface, name, &ops, &why);
		if (code != SVC_OK)
			return svc_setting_refuse(
			    service, plugins[i].setting, name, &why, err);
	}
	if (check_fallback(v->registry_fallback, &why) != SVC_OK)
		return svc_setting_refuse(service, "registry_fallback",
		    v->registry_fallback, &why, err);
	return SVC_OK;
}

static svc_err
settle_times(struct svc_service *service, struct svc_error *err)
{
	struct svc_values *v = &service->values;
	bool ttl_given = v->ttl_given || svc_settings_source(service->settings,
					     "registry_ttl") != SVC_SOURCE_CODE;
	bool interval_given =
	    v->interval_given || svc_settings_source(service->settings,
				     "registry_interval") != SVC_SOURCE_CODE;
	if (ttl_given && !interval_given) {
		/* A third, at least a second while the ttl allows one. */
		int64_t least = v->ttl_ms / 2 < 1000 ? v->ttl_ms / 2 : 1000;
		int64_t third = v->ttl_ms / 3;
		v->interval_ms = third < least ? least : third;
	} else if (interval_given && !ttl_given) {
		v->ttl_ms = 3 * v->interval_ms;
	}
	if (v->ttl_ms <= v->interval_ms)
		return svc_error_set(err, SVC_E_INVAL,
		    "registry_ttl (%g s) must be above registry_interval "
		    "(%g s), or the node is gone between two renewals; three "
		    "times as much is usual",
		    (double)v->ttl_ms / 1000, (double)v->interval_ms / 1000);
	return SVC_OK;
}

static svc_err
settle_limits(struct svc_values *v, struct svc_error *err)
{
	if (v->threads <= v->loops)
		return svc_error_set(err, SVC_E_INVAL,
		    "threads (%lld) must be more than loops (%lld), so that "
		    "one is left for handlers that block",
		    (long long)v->threads, (long long)v->loops);
	if (v->connection_window < v->stream_window)
		return svc_error_set(err, SVC_E_INVAL,
		    "connection_window (%lld bytes) must not be below "
		    "stream_window (%lld)",
		    (long long)v->connection_window,
		    (long long)v->stream_window);
	return SVC_OK;
}

static svc_err
settle_id(struct svc_values *v)
{
	if (v->id != NULL)
		return SVC_OK;
	size_t size = strlen(v->name) + 1 + 37;
	v->id = svc_mem_alloc(size);
	if (v->id == NULL)
		return SVC_E_NOMEM;
	char uuid[37];
	svc_uuid(uuid);
	snprintf(v->id, size, "%s-%s", v->name, uuid);
	return SVC_OK;
}

/* That what this service is called can be registered. */
static svc_err
check_texts(struct svc_service *service, struct svc_error *err)
{
	const struct svc_values *v = &service->values;
	struct svc_error why = {0};
	struct svc_node node = {.id = "id", .address = "localhost:1"};
	struct svc_record record = {
	    .name = "name", .version = v->version, .nodes = &node};
	record.n_nodes = 1;
	if (svc_service_name_check(v->name, &why) != SVC_OK)
		return svc_setting_refuse(service, "name", v->name, &why, err);
	if (svc_record_check(&record, &why) != SVC_OK)
		return svc_setting_refuse(
		    service, "version", v->version, &why, err);
	node.id = v->id;
	if (svc_record_check(&record, &why) != SVC_OK)
		return svc_setting_refuse(service, "id", v->id, &why, err);
	svc_log_level level;
	if (svc_log_level_parse(v->log_level, &level) == SVC_OK)
		return SVC_OK;
	svc_error_set(&why, SVC_E_INVAL,
	    "\"%s\" is not possible; allowed: trace, debug, info, warn, "
	    "error, off",
	    v->log_level);
	return svc_setting_refuse(
	    service, "log_level", v->log_level, &why, err);
}

svc_err
svc_values_settle(struct svc_service *service, struct svc_error *err)
{
	struct svc_values *v = &service->values;
	svc_err code = settle_times(service, err);
	if (code != SVC_OK)
		return code;
	code = settle_limits(v, err);
	if (code != SVC_OK)
		return code;
	if (settle_id(v) != SVC_OK)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	code = check_texts(service, err);
	return code == SVC_OK ? check_plugins(service, err) : code;
}
