/* SPDX-License-Identifier: Apache-2.0 */
#include "address.h"

#include <svc/base.h>
#include <svc/clock.h>
#include <svc/log.h>

#include <string.h>
#include <strings.h>

enum {
	HOST_MAX = 253,
	TRY_MIN_MS = 200,
	TRY_MAX_MS = 2000,
	PAUSE_FIRST_MS = 100,
	PAUSE_MAX_MS = 5000,
};

static svc_err
bad(const struct address_form *form, const char *text, size_t len,
    const char *why, struct svc_error *err)
{
	char quoted[64];
	svc_log_quote(text, len, quoted, sizeof(quoted));
	return svc_error_set(err, SVC_E_INVAL,
	    "%s address %s %s: use \"host\", \"host:port\" or "
	    "\"%s(s)://host:port\", several separated by commas",
	    form->registry, quoted, why, form->scheme);
}

static svc_err
no_memory(const struct address_form *form, struct svc_error *err)
{
	return svc_error_set(
	    err, SVC_E_NOMEM, "no memory for registry %s", form->registry);
}

static bool
is_host_char(char c, bool v6)
{
	if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') ||
	    (c >= 'A' && c <= 'F') || c == '.')
		return true;
	if (v6)
		return c == ':';
	return (c >= 'g' && c <= 'z') || (c >= 'G' && c <= 'Z') || c == '-' ||
	       c == '_';
}

/* Steps over the scheme at `*at`, if there is one. */
static svc_err
read_scheme(const struct address_form *form, const char *text, size_t len,
    const char **at, bool *ret_secure, struct svc_error *err)
{
	const char *mark = memmem(text, len, "://", 3);
	*ret_secure = form->tls;
	if (mark == NULL)
		return SVC_OK;
	size_t n = (size_t)(mark - text), plain = strlen(form->scheme);
	bool secure = n == plain + 1 && (text[plain] | 0x20) == 's';
	*at = mark + 3;
	if ((n != plain && !secure) ||
	    strncasecmp(text, form->scheme, plain) != 0)
		return bad(form, text, len, "has an unknown scheme", err);
	*ret_secure = secure;
	if (form->tls && !secure)
		return bad(form, text, len,
		    "is without the TLS that registry_tls_* asks for", err);
	return SVC_OK;
}

static svc_err
read_one(const struct address_form *form, const char *text, size_t len,
    struct address *address, struct svc_error *err)
{
	const char *at = text, *end = text + len;
	svc_err rc = read_scheme(form, text, len, &at, &address->secure, err);
	if (rc != SVC_OK)
		return rc;
	if (end > at && end[-1] == '/')
		end--;
	if (at < end && memchr(at, '/', (size_t)(end - at)) != NULL)
		return bad(form, text, len, "has a path", err);
	bool v6 = at < end && *at == '[';
	const char *colon = memchr(at, ':', (size_t)(end - at));
	if (!v6 && colon != NULL &&
	    memchr(colon + 1, ':', (size_t)(end - colon - 1)) != NULL)
		return bad(form, text, len,
		    "lacks the brackets of an IPv6 address, \"[::1]:port\"",
		    err);
	const char *host = at + (v6 ? 1 : 0), *p = host;
	while (p < end && is_host_char(*p, v6))
		p++;
	size_t host_len = (size_t)(p - host);
	if (host_len == 0 || host_len > HOST_MAX ||
	    (v6 && (p == end || *p++ != ']')) || (p < end && *p != ':'))
		return bad(form, text, len, "has no valid host", err);
	address->port = form->port;
	if (p < end) {
		const char *digits = ++p;
		address->port = 0;
		while (p < end && *p >= '0' && *p <= '9' && p - digits < 6)
			address->port =
			    address->port * 10 + (unsigned)(*p++ - '0');
		if (p < end || p == digits || address->port < 1 ||
		    address->port > 65535)
			return bad(form, text, len,
			    "has no port from 1 to 65535", err);
	}
	address->host = svc_mem_calloc(1, host_len + 1);
	if (address->host == NULL)
		return no_memory(form, err);
	memcpy(address->host, host, host_len);
	return SVC_OK;
}

svc_err
address_list_read(const struct address_form *form, const char *text,
    struct address **ret_list, size_t *ret_n, struct svc_error *err)
{
	size_t count = 1, n = 0;
	svc_err rc = SVC_OK;
	if (text == NULL || *text == '\0')
		text = "127.0.0.1";
	/* First of all, and without it: no text of an error is to have a
	 * password, which may hold commas and slashes. */
	if (strchr(text, '@') != NULL)
		return bad(form, "...", 3,
		    "holds a login, which belongs into registry_username and "
		    "registry_password",
		    err);
	for (const char *p = text; *p != '\0'; p++)
		count += *p == ',';
	struct address *list = svc_mem_calloc(count, sizeof(*list));
	if (list == NULL)
		return no_memory(form, err);
	for (const char *p = text; rc == SVC_OK && n < count;) {
		size_t len = strcspn(p, ",");
		const char *next = p + len + 1;
		while (len > 0 && *p == ' ') {
			p++;
			len--;
		}
		while (len > 0 && p[len - 1] == ' ')
			len--;
		rc = len > 0 ? read_one(form, p, len, &list[n], err)
			     : bad(form, text, strlen(text),
				   "has an empty part", err);
		n++;
		p = next;
	}
	if (rc != SVC_OK) {
		address_list_free(list, n);
		return rc;
	}
	*ret_list = list;
	*ret_n = n;
	return SVC_OK;
}

void
address_list_free(struct address *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		svc_mem_free(list[i].host);
	svc_mem_free(list);
}

size_t
address_tries(size_t n_servers)
{
	return n_servers > 2 ? n_servers : 2;
}

int64_t
address_try_ms(int64_t timeout_ms, size_t n_servers)
{
	int64_t try_ms = timeout_ms / (int64_t)address_tries(n_servers);
	if (try_ms > TRY_MAX_MS)
		return TRY_MAX_MS;
	return try_ms < TRY_MIN_MS ? TRY_MIN_MS : try_ms;
}

int64_t
address_pause_ms(size_t failures, size_t n_servers)
{
	size_t round = failures / n_servers;
	int64_t pause_ms = PAUSE_FIRST_MS;
	if (round == 0)
		return 0;
	for (; round > 1 && pause_ms < PAUSE_MAX_MS; round--)
		pause_ms = pause_ms * 8 / 5;
	if (pause_ms > PAUSE_MAX_MS)
		pause_ms = PAUSE_MAX_MS;
	uint64_t fifth = (uint64_t)pause_ms / 5;
	return pause_ms + (int64_t)svc_random_below(2 * fifth + 1) -
	       (int64_t)fifth;
}
