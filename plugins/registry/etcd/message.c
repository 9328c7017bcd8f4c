/* SPDX-License-Identifier: Apache-2.0 */
#include "message.h"

#include <svc/log.h>

#include <stdlib.h>
#include <string.h>

/* ----------------------------------------------------------------- members */

const cJSON *
message_get(const cJSON *object, const char *name)
{
	return cJSON_GetObjectItemCaseSensitive(object, name);
}

int64_t
message_int(const cJSON *object, const char *name)
{
	const cJSON *item = message_get(object, name);
	if (cJSON_IsString(item))
		return strtoll(item->valuestring, NULL, 10);
	if (cJSON_IsNumber(item) && item->valuedouble > -9e18 &&
	    item->valuedouble < 9e18)
		return (int64_t)item->valuedouble;
	return 0;
}

bool
message_true(const cJSON *object, const char *name)
{
	return cJSON_IsTrue(message_get(object, name));
}

int64_t
message_revision(const cJSON *answer)
{
	return message_int(message_get(answer, "header"), "revision");
}

/* ------------------------------------------------------------------ base64 */

static const char alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void
message_put_bytes(struct svc_buf *body, const void *data, size_t len)
{
	const uint8_t *p = data;
	if (svc_buf_reserve(body, len / 3 * 4 + 8) != SVC_OK)
		return;
	svc_buf_putc(body, '"');
	for (size_t i = 0; i < len; i += 3) {
		size_t n = len - i < 3 ? len - i : 3;
		uint32_t bits = (uint32_t)p[i] << 16;
		if (n > 1)
			bits |= (uint32_t)p[i + 1] << 8;
		if (n > 2)
			bits |= p[i + 2];
		char out[4] = {alphabet[bits >> 18], alphabet[bits >> 12 & 63],
		    n > 1 ? alphabet[bits >> 6 & 63] : '=',
		    n > 2 ? alphabet[bits & 63] : '='};
		svc_buf_append(body, out, sizeof(out));
	}
	svc_buf_putc(body, '"');
}

svc_err
message_bytes(
    const cJSON *object, const char *name, char **ret_bytes, size_t *ret_len)
{
	const cJSON *item = message_get(object, name);
	const char *text = cJSON_IsString(item) ? item->valuestring : "";
	size_t len = strlen(text), used = 0;
	char *out = svc_mem_alloc(len / 4 * 3 + 4);
	uint32_t bits = 0;
	unsigned have = 0;
	/* The place in the alphabet and one more; 0 for what is none of it. */
	uint8_t places[256] = {0};
	if (out == NULL)
		return SVC_E_NOMEM;
	for (uint8_t i = 0; i < 64; i++)
		places[(uint8_t)alphabet[i]] = (uint8_t)(i + 1);
	while (len > 0 && text[len - 1] == '=')
		len--;
	for (size_t i = 0; i < len; i++) {
		uint32_t place = places[(uint8_t)text[i]];
		if (place == 0) {
			svc_mem_free(out);
			return SVC_E_INVAL;
		}
		bits = bits << 6 | (place - 1);
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[used++] = (char)(bits >> have & 0xff);
		}
	}
	out[used] = '\0';
	*ret_bytes = out;
	*ret_len = used;
	return SVC_OK;
}

/* ------------------------------------------------------------------ errors */

static svc_err
code_of(int64_t code, const char *said)
{
	switch (code) {
	case 3:
		/* Users were switched on, or changed, since the token. */
		if (strstr(said, "user name is empty") != NULL ||
		    strstr(said, "revision of auth store") != NULL)
			return SVC_E_UNAUTHENTICATED;
		return strstr(said, "authentication failed") != NULL
			   ? SVC_E_DENIED
			   : SVC_E_INVAL;
	case 5:
		return SVC_E_NOT_FOUND;
	case 7:
		return SVC_E_DENIED;
	case 8:
		return SVC_E_EXHAUSTED;
	case 9:
		return strstr(said, "authentication is not enabled") != NULL
			   ? MESSAGE_NO_USERS
			   : SVC_E_UNAVAILABLE;
	case 11:
		return SVC_E_RANGE;
	case 16:
		return SVC_E_UNAUTHENTICATED;
	default:
		return SVC_E_UNAVAILABLE;
	}
}

svc_err
message_error(int status, const cJSON *json, const void *body, size_t len,
    char *ret_text, size_t text_size)
{
	const cJSON *error = message_get(json, "error");
	bool nested = cJSON_IsObject(error);
	if (status == 200 && error == NULL)
		return SVC_OK;
	const cJSON *text = message_get(nested ? error : json, "message");
	if (!cJSON_IsString(text))
		text = error;
	const char *said = cJSON_IsString(text) ? text->valuestring : "";
	if (*said != '\0')
		svc_log_quote(said, strlen(said), ret_text, text_size);
	else
		svc_log_quote(len > 0 ? body : "", len, ret_text, text_size);
	return code_of(nested ? message_int(error, "grpc_code")
			      : message_int(json, "code"),
	    said);
}

/* ------------------------------------------------------------------ leases */

int64_t
message_keepalive_ttl(const cJSON *answer)
{
	return message_int(message_get(answer, "result"), "TTL");
}

/* ----------------------------------------------------------------- watches */

svc_err
message_watch_read(
    const char *text, size_t len, struct message_watch *ret_watch)
{
	cJSON *json = cJSON_ParseWithLength(text, len);
	const cJSON *result = message_get(json, "result");
	const cJSON *events = message_get(result, "events");
	const cJSON *event;
	*ret_watch = (struct message_watch){.json = json};
	if (!cJSON_IsObject(result))
		return SVC_E_INVAL;
	ret_watch->id = message_int(result, "watch_id");
	ret_watch->created = message_true(result, "created");
	ret_watch->canceled = message_true(result, "canceled");
	ret_watch->compacted = message_int(result, "compact_revision") > 0;
	ret_watch->revision = message_revision(result);
	ret_watch->events = cJSON_IsArray(events) ? events : NULL;
	cJSON_ArrayForEach (event, ret_watch->events) {
		int64_t revision =
		    message_int(message_get(event, "kv"), "mod_revision");
		if (revision > ret_watch->last_revision)
			ret_watch->last_revision = revision;
	}
	return SVC_OK;
}

void
message_watch_fini(struct message_watch *watch)
{
	cJSON_Delete(watch->json);
	*watch = (struct message_watch){0};
}
