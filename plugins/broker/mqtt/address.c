/* SPDX-License-Identifier: Apache-2.0 */
#include "mqtt.h"

#include <svc/buf.h>
#include <svc/log.h>

#include <string.h>
#include <strings.h>

static const struct scheme {
	const char *name;
	int port;
	bool path;
} schemes[] = {
    {"tcp://", 1883, false},
    {"mqtt://", 1883, false},
    {"ssl://", 8883, false},
    {"mqtts://", 8883, false},
    {"ws://", 80, true},
    {"wss://", 443, true},
};

/* What may hold a password, up to the end of the list, is not repeated. */
static svc_err
refuse(const char *text, size_t len, const char *reason, struct svc_error *err)
{
	char quoted[64];
	if (strchr(text, '@') != NULL) {
		text = "...";
		len = 3;
	}
	return svc_error_set(err, SVC_E_INVAL,
	    "MQTT address %s %s; allowed is [tcp://, ssl://, ws:// or wss://]"
	    "host[:port], several separated by commas",
	    svc_log_quote(text, len, quoted, sizeof(quoted)), reason);
}

static bool
is_host(const char *text, size_t len, bool bracketed)
{
	for (size_t i = 0; i < len; i++) {
		char c = text[i];
		bool ok = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
			  (c >= 'A' && c <= 'Z') || c == '.' || c == '-' ||
			  c == '_' || (bracketed && (c == ':' || c == '%'));
		if (!ok)
			return false;
	}
	return len > 0 && len <= 253;
}

/* One address of `len` bytes, made whole: scheme://host:port[/path]. */
static svc_err
parse_one(const char *text, size_t len, char **ret_uri, struct svc_error *err)
{
	const struct scheme *scheme = &schemes[0];
	const char *at = text, *end = text + len;
	const char *mark = memmem(text, len, "://", 3);
	if (mark != NULL) {
		size_t n = (size_t)(mark - text) + 3, i = 0;
		size_t count = sizeof(schemes) / sizeof(schemes[0]);
		while (i < count &&
		       (strlen(schemes[i].name) != n ||
			   strncasecmp(schemes[i].name, text, n) != 0))
			i++;
		if (i == count)
			return refuse(text, len, "has an unknown scheme", err);
		scheme = &schemes[i];
		at = text + n;
	}

	const char *path = memchr(at, '/', (size_t)(end - at));
	if (path == NULL)
		path = end;
	else if (!scheme->path)
		return refuse(text, len, "has a path", err);
	for (const char *p = path; p < end; p++) {
		if (*p <= ' ' || *p > '~')
			return refuse(text, len, "has a bad path", err);
	}

	if (memchr(at, '@', (size_t)(path - at)) != NULL)
		return refuse(text, len,
		    "holds a login, which belongs into broker_username and "
		    "broker_password",
		    err);

	bool bracketed = at < path && *at == '[';
	const char *host = bracketed ? at + 1 : at;
	const char *host_end =
	    memchr(host, bracketed ? ']' : ':', (size_t)(path - host));
	const char *port_at = host_end;
	if (host_end == NULL) {
		if (bracketed)
			return refuse(text, len, "lacks a ']'", err);
		host_end = port_at = path;
	} else if (bracketed) {
		port_at = host_end + 1;
	}
	if (!is_host(host, (size_t)(host_end - host), bracketed))
		return refuse(text, len,
		    host == host_end ? "has no host" : "has a bad host", err);

	int port = scheme->port;
	if (port_at < path) {
		if (*port_at != ':')
			return refuse(text, len, "has a bad port", err);
		port = 0;
		for (const char *p = port_at + 1; p < path; p++) {
			if (*p < '0' || *p > '9' || port > 65535)
				return refuse(text, len, "has a bad port", err);
			port = port * 10 + (*p - '0');
		}
		if (port < 1 || port > 65535)
			return refuse(text, len, "has a bad port", err);
	}

	struct svc_buf buf;
	svc_buf_init(&buf, 1024);
	svc_buf_printf(&buf, bracketed ? "%s[%.*s]:%d" : "%s%.*s:%d",
	    scheme->name, (int)(host_end - host), host, port);
	svc_buf_append(&buf, path, (size_t)(end - path));
	svc_err rc = buf.failed;
	char *uri = rc == SVC_OK ? svc_buf_take(&buf, NULL) : NULL;
	svc_buf_fini(&buf);
	if (rc == SVC_E_EXHAUSTED)
		return refuse(text, len, "is too long", err);
	if (uri == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	*ret_uri = uri;
	return SVC_OK;
}

svc_err
mqtt_addresses_parse(
    const char *text, char ***ret_uris, size_t *ret_n, struct svc_error *err)
{
	if (text == NULL)
		text = "127.0.0.1";
	size_t n = 1;
	for (const char *p = text; *p != '\0'; p++)
		n += *p == ',';
	char **uris = svc_mem_calloc(n, sizeof(*uris));
	if (uris == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	const char *at = text;
	for (size_t i = 0; i < n; i++) {
		size_t len = strcspn(at, ",");
		const char *next = at + len + 1;
		while (len > 0 && *at == ' ') {
			at++;
			len--;
		}
		while (len > 0 && at[len - 1] == ' ')
			len--;
		svc_err rc = parse_one(at, len, &uris[i], err);
		if (rc != SVC_OK) {
			mqtt_addresses_free(uris, i);
			return rc;
		}
		at = next;
	}
	*ret_uris = uris;
	*ret_n = n;
	return SVC_OK;
}

void
mqtt_addresses_free(char **uris, size_t n)
{
	for (size_t i = 0; i < n; i++)
		svc_mem_free(uris[i]);
	svc_mem_free(uris);
}
