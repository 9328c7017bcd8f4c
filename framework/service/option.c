/* SPDX-License-Identifier: Apache-2.0 */
/* From the option list of svc_new to the values of the service. */
#include "service.h"

#include <svc/buf.h>

#include <string.h>

#define MAX_SECONDS (INT64_C(10) * 365 * 24 * 3600)
#define MAX_WEIGHT INT64_C(1000000)

svc_err
svc_values_init(struct svc_values *values)
{
	*values = (struct svc_values){
	    .ttl_ms = 30000,
	    .interval_ms = 10000,
	    .registry_timeout_ms = 5000,
	    .request_timeout_ms = 5000,
	    .retries = 1,
	    .max_message_size = INT64_C(64) << 20,
	    .max_header_size = 65536,
	    .max_streams = 4096,
	    .max_connections = 65536,
	    .handshake_timeout_ms = 10000,
	    .idle_timeout_ms = 300000,
	    .keepalive_ms = 10000,
	    .stream_window = INT64_C(2) << 20,
	    .connection_window = INT64_C(4) << 20,
	    .threads = 256,
	    .busy_poll_us = SVC_BUSY_POLL_US,
	    .max_handlers = -1, /* as many as the threads allow */
	    .queue_timeout_ms = 100,
	    .weight = 1,
	    .drain_timeout_ms = 10000,
	};
	const struct {
		char **field;
		const char *text;
	} defaults[] = {
	    {&values->name, "svc.server"},
	    {&values->version, "latest"},
	    {&values->address, ":0"},
	    {&values->registry, "mdns"},
	    {&values->selector, "random"},
	    {&values->transport, "tcp"},
	    {&values->broker, "p2p"},
	    {&values->codec, "application/json"},
	    {&values->log_level, "info"},
	    {&values->log_format, "text"},
	};
	for (size_t i = 0; i < sizeof(defaults) / sizeof(defaults[0]); i++) {
		*defaults[i].field = svc_mem_strdup(defaults[i].text);
		if (*defaults[i].field == NULL)
			goto nomem;
	}
	values->metadata = svc_headers_create();
	values->registry_options = svc_headers_create();
	if (values->metadata == NULL || values->registry_options == NULL)
		goto nomem;
	return SVC_OK;

nomem:
	svc_values_fini(values);
	return SVC_E_NOMEM;
}

void
svc_values_fini(struct svc_values *values)
{
	char *texts[] = {values->name, values->version, values->id,
	    values->address, values->advertise, values->registry,
	    values->registry_address, values->registry_username,
	    values->registry_password, values->registry_tls_cert,
	    values->registry_tls_key, values->registry_tls_ca,
	    values->registry_tls_name, values->registry_fallback,
	    values->registry_snapshot, values->selector, values->transport,
	    values->broker, values->broker_address, values->broker_username,
	    values->broker_password, values->codec, values->tls_cert,
	    values->tls_key, values->tls_ca, values->tls_name,
	    values->tls_client_auth, values->log_level, values->log_format,
	    values->config};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		svc_mem_free(texts[i]);
	svc_headers_destroy(values->metadata);
	svc_headers_destroy(values->registry_options);
	*values = (struct svc_values){0};
}

static void SVC_PRINTF(3, 4)
    reject(struct svc_service *service, svc_err code, const char *format, ...)
{
	if (service->bad_option.code != SVC_OK)
		return;
	va_list args;
	va_start(args, format);
	svc_error_vset(&service->bad_option, code, format, args);
	va_end(args);
}

static void
take_text(struct svc_service *service, char **field, const char *option,
    const char *text)
{
	if (text == NULL || text[0] == '\0') {
		reject(service, SVC_E_INVAL,
		    "option %s() needs a text that is not empty", option);
		return;
	}
	char *copy = svc_mem_strdup(text);
	if (copy == NULL) {
		reject(service, SVC_E_NOMEM, "out of memory");
		return;
	}
	svc_mem_free(*field);
	*field = copy;
}

static void
take_plugin(struct svc_service *service, char **field, char **address,
    const char *option, const struct svc_option *from)
{
	if (from->text != NULL && from->text[0] == '"') {
		int len = (int)strcspn(from->text + 1, "\"");
		reject(service, SVC_E_INVAL,
		    "option %s(%s): a plugin is a bare word, %s(%.*s); one "
		    "that is chosen at run time is given by --%s or by "
		    "svc_new_options",
		    option, from->text, option, len, from->text + 1, option);
		return;
	}
	take_text(service, field, option, from->text);
	if (from->text2 == NULL)
		return;
	if (address != NULL)
		take_text(service, address, option, from->text2);
	else
		reject(service, SVC_E_INVAL,
		    "option %s(%s) takes no address, but \"%s\" was given",
		    option, from->text, from->text2);
}

/* As the flag has it: PLUGIN or PLUGIN:ADDRESS. */
static void
take_fallback(struct svc_service *service, const struct svc_option *from)
{
	char **field = &service->values.registry_fallback;
	if (from->text == NULL || from->text2 == NULL) {
		take_text(service, field, "registry_fallback", from->text);
		return;
	}
	struct svc_buf both;
	svc_buf_init(&both, 65536);
	svc_buf_printf(&both, "%s:%s", from->text, from->text2);
	if (both.failed == SVC_OK)
		take_text(service, field, "registry_fallback",
		    (const char *)both.data);
	else
		reject(service, SVC_E_NOMEM, "out of memory");
	svc_buf_fini(&both);
}

static void
take_seconds(struct svc_service *service, int64_t *field, bool *given,
    const char *option, int64_t seconds)
{
	if (seconds < 1 || seconds > MAX_SECONDS) {
		reject(service, SVC_E_INVAL,
		    "option %s(%lld): seconds must be from 1 to %lld", option,
		    (long long)seconds, (long long)MAX_SECONDS);
		return;
	}
	*field = seconds * 1000;
	*given = true;
}

static void
take_flag(struct svc_service *service, const struct svc_option *from)
{
	struct svc_setting setting = {
	    .name = from->text,
	    .target = from->pointer,
	    .help = from->text2 != NULL ? from->text2 : "",
	    .group = "Application",
	};
	switch (from->kind) {
	case SVC_OPTION_FLAG_INT:
		setting.kind = SVC_SETTING_APP_INT;
		setting.value = "NUMBER";
		break;
	case SVC_OPTION_FLAG_INT64:
		setting.kind = SVC_SETTING_INT;
		setting.value = "NUMBER";
		break;
	case SVC_OPTION_FLAG_BOOL:
		setting.kind = SVC_SETTING_BOOL;
		break;
	case SVC_OPTION_FLAG_REAL:
		setting.kind = SVC_SETTING_REAL;
		setting.value = "NUMBER";
		break;
	default:
		setting.kind = SVC_SETTING_APP_TEXT;
		setting.value = "TEXT";
		break;
	}
	if (setting.name == NULL || setting.target == NULL) {
		reject(service, SVC_E_INVAL,
		    "option flag() needs a name and a variable");
		return;
	}
	struct svc_error err = {0};
	svc_err code = svc_settings_add(service->settings, &setting, &err);
	if (code != SVC_OK)
		reject(service, code == SVC_E_NOMEM ? code : SVC_E_INVAL,
		    "option flag(\"%s\"): %s", from->text,
		    err.text[0] != '\0' ? err.text : svc_err_text(code));
}

static void
take_wrap(struct svc_service *service, const struct svc_option *from)
{
	static const char *const names[SVC_WRAP_KINDS] = {
	    [SVC_WRAP_HANDLER] = "handler",
	    [SVC_WRAP_CALL] = "call",
	    [SVC_WRAP_PUBLISH] = "publish",
	    [SVC_WRAP_SUBSCRIBE] = "subscribe",
	    [SVC_WRAP_STREAM_HANDLER] = "stream_handler",
	    [SVC_WRAP_OPEN] = "open",
	};
	enum svc_wrap_kind kind =
	    (enum svc_wrap_kind)(from->kind - SVC_OPTION_WRAP_HANDLER);
	if (from->function == NULL) {
		reject(service, SVC_E_INVAL,
		    "option wrap_%s() needs a function", names[kind]);
		return;
	}
	struct svc_wraps *wraps = &service->wraps[kind];
	/* Powers of two, so that n tells when there is no room. */
	if ((wraps->n & (wraps->n - 1)) == 0) {
		size_t cap = wraps->n == 0 ? 1 : 2 * wraps->n;
		struct svc_wrap *list =
		    svc_mem_realloc(wraps->list, cap * sizeof(*list));
		if (list == NULL) {
			reject(service, SVC_E_NOMEM, "out of memory");
			return;
		}
		wraps->list = list;
	}
	wraps->list[wraps->n++] =
	    (struct svc_wrap){from->function, from->pointer};
}

const char *
svc_pair_rule(svc_err code)
{
	switch (code) {
	case SVC_E_INVAL:
		return "a name has 1 to 255 printable characters without "
		       "space, ':' and '=', a value is one line";
	case SVC_E_EXHAUSTED:
		return "there are 256 already, which is all there may be";
	default:
		return svc_err_text(code);
	}
}

static void
take_pair(struct svc_service *service, struct svc_headers *pairs,
    const char *option, const struct svc_option *from)
{
	svc_err code = from->text == NULL || from->text2 == NULL
			   ? SVC_E_INVAL
			   : svc_headers_set(pairs, from->text, from->text2);
	if (code != SVC_OK)
		reject(service, code, "option %s(\"%s\", \"%s\"): %s", option,
		    from->text != NULL ? from->text : "",
		    from->text2 != NULL ? from->text2 : "",
		    svc_pair_rule(code));
}

/* A certificate with its key, a CA, or all three. */
static void
take_tls(struct svc_service *service, const char *option, char **cert,
    char **key, char **ca, const struct svc_option *from)
{
	if ((from->text == NULL) != (from->text2 == NULL) ||
	    (from->text == NULL && from->text3 == NULL)) {
		reject(service, SVC_E_INVAL,
		    "option %s(cert, key, ca) needs a certificate with its "
		    "key, or both NULL and a CA for a program that only calls",
		    option);
		return;
	}
	if (from->text != NULL) {
		take_text(service, cert, option, from->text);
		take_text(service, key, option, from->text2);
	}
	if (from->text3 != NULL)
		take_text(service, ca, option, from->text3);
}

static void
take(struct svc_service *service, const struct svc_option *from)
{
	struct svc_values *v = &service->values;
	switch (from->kind) {
	case SVC_OPTION_NONE:
		break;
	case SVC_OPTION_NAME:
		take_text(service, &v->name, "name", from->text);
		break;
	case SVC_OPTION_VERSION:
		take_text(service, &v->version, "version", from->text);
		break;
	case SVC_OPTION_ID:
		take_text(service, &v->id, "id", from->text);
		break;
	case SVC_OPTION_ADDRESS:
		take_text(service, &v->address, "address", from->text);
		break;
	case SVC_OPTION_ADVERTISE:
		take_text(service, &v->advertise, "advertise", from->text);
		break;
	case SVC_OPTION_METADATA:
		take_pair(service, v->metadata, "metadata", from);
		break;
	case SVC_OPTION_REGISTRY:
		take_plugin(service, &v->registry, &v->registry_address,
		    "registry", from);
		break;
	case SVC_OPTION_SELECTOR:
		take_plugin(service, &v->selector, NULL, "selector", from);
		break;
	case SVC_OPTION_TRANSPORT:
		take_plugin(
		    service, &v->transport, &v->address, "transport", from);
		break;
	case SVC_OPTION_BROKER:
		take_plugin(
		    service, &v->broker, &v->broker_address, "broker", from);
		break;
	case SVC_OPTION_CODEC:
		take_text(service, &v->codec, "codec", from->text);
		break;
	case SVC_OPTION_TTL:
		take_seconds(
		    service, &v->ttl_ms, &v->ttl_given, "ttl", from->number);
		break;
	case SVC_OPTION_INTERVAL:
		take_seconds(service, &v->interval_ms, &v->interval_given,
		    "interval", from->number);
		break;
	case SVC_OPTION_WEIGHT:
		if (from->number < 1 || from->number > MAX_WEIGHT)
			reject(service, SVC_E_INVAL,
			    "option weight(%lld): it must be from 1 to %lld",
			    (long long)from->number, (long long)MAX_WEIGHT);
		else
			v->weight = from->number;
		break;
	case SVC_OPTION_FLAG_INT:
	case SVC_OPTION_FLAG_INT64:
	case SVC_OPTION_FLAG_BOOL:
	case SVC_OPTION_FLAG_REAL:
	case SVC_OPTION_FLAG_TEXT:
		take_flag(service, from);
		break;
	case SVC_OPTION_WRAP_HANDLER:
	case SVC_OPTION_WRAP_CALL:
	case SVC_OPTION_WRAP_PUBLISH:
	case SVC_OPTION_WRAP_SUBSCRIBE:
	case SVC_OPTION_WRAP_STREAM_HANDLER:
	case SVC_OPTION_WRAP_OPEN:
		take_wrap(service, from);
		break;
	case SVC_OPTION_TLS:
		take_tls(service, "tls", &v->tls_cert, &v->tls_key, &v->tls_ca,
		    from);
		break;
	case SVC_OPTION_REGISTRY_TLS:
		take_tls(service, "registry_tls", &v->registry_tls_cert,
		    &v->registry_tls_key, &v->registry_tls_ca, from);
		break;
	case SVC_OPTION_REGISTRY_FALLBACK:
		take_fallback(service, from);
		break;
	case SVC_OPTION_REGISTRY_SNAPSHOT:
		take_text(service, &v->registry_snapshot, "registry_snapshot",
		    from->text);
		break;
	case SVC_OPTION_REGISTRY_OPTION:
		take_pair(
		    service, v->registry_options, "registry_option", from);
		break;
	case SVC_OPTION_LOG_LEVEL:
		take_text(service, &v->log_level, "log_level", from->text);
		v->log_level_given = true;
		break;
	case SVC_OPTION_CONFIG:
		take_text(service, &v->config, "config", from->text);
		break;
	default:
		reject(service, SVC_E_INVAL,
		    "option number %d is not one of a service", from->kind);
		break;
	}
}

void
svc_options_take(struct svc_service *service, const struct svc_option *options)
{
	if (options == NULL)
		return;
	for (; options->kind != SVC_OPTION_END; options++)
		take(service, options);
}
