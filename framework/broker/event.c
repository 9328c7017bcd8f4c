/* SPDX-License-Identifier: Apache-2.0 */
/* go-micro's JSON form of an event. Its decoder reads what strangers publish:
 * everything has a limit and nothing in it is trusted. */
#include <svc/broker.h>
#include <svc/buf.h>

#include <cjson/cJSON.h>

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The JSON of one event; a body takes four thirds of its size. */
#define MAX_JSON ((size_t)96 << 20)
#define MAX_HEADERS 256

static const char content_type_name[] = "Content-Type";

static const char alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static svc_err
append_base64(struct svc_buf *buf, const uint8_t *data, size_t len)
{
	svc_err rc = svc_buf_reserve(buf, (len + 2) / 3 * 4);
	if (rc != SVC_OK)
		return rc;
	for (size_t i = 0; i < len; i += 3) {
		size_t n = len - i < 3 ? len - i : 3;
		uint32_t bits = (uint32_t)data[i] << 16;
		if (n > 1)
			bits |= (uint32_t)data[i + 1] << 8;
		if (n > 2)
			bits |= data[i + 2];
		char out[4] = {
		    alphabet[bits >> 18],
		    alphabet[bits >> 12 & 63],
		    n > 1 ? alphabet[bits >> 6 & 63] : '=',
		    n > 2 ? alphabet[bits & 63] : '=',
		};
		rc = svc_buf_append(buf, out, sizeof(out));
		if (rc != SVC_OK)
			return rc;
	}
	return SVC_OK;
}

static int
base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+')
		return 62;
	return c == '/' ? 63 : -1;
}

/* Standard base64 with padding, line ends ignored, as Go reads it. `out` has
 * room for three quarters of the text. */
static bool
decode_base64(const char *text, uint8_t *out, size_t *ret_len)
{
	uint32_t bits = 0;
	unsigned have = 0, pad = 0;
	size_t len = 0;
	for (; *text != '\0'; text++) {
		if (*text == '\r' || *text == '\n')
			continue;
		if (*text == '=') {
			/* only as the third or fourth of a group, at the end */
			if (have + pad < 2 || have + pad > 3)
				return false;
			pad++;
			continue;
		}
		int value = base64_value(*text);
		if (value < 0 || pad > 0)
			return false;
		bits = bits << 6 | (uint32_t)value;
		if (++have == 4) {
			out[len++] = (uint8_t)(bits >> 16);
			out[len++] = (uint8_t)(bits >> 8);
			out[len++] = (uint8_t)bits;
			have = 0;
			bits = 0;
		}
	}
	if (have + pad != 0 && have + pad != 4)
		return false;
	if (have == 2) {
		out[len++] = (uint8_t)(bits >> 4);
	} else if (have == 3) {
		out[len++] = (uint8_t)(bits >> 10);
		out[len++] = (uint8_t)(bits >> 2);
	}
	*ret_len = len;
	return true;
}

struct pair {
	const char *name;
	const char *value;
};

static int
compare_pairs(const void *a, const void *b)
{
	const struct pair *left = a, *right = b;
	return strcmp(left->name, right->name);
}

svc_err
svc_event_encode(
    const struct svc_message *message, char **ret_json, size_t *ret_len)
{
	/* Sorted by name, as Go writes a map. */
	struct pair pairs[MAX_HEADERS + 1];
	size_t n = 0;
	const char *name, *value;
	for (size_t i = 0; n < MAX_HEADERS &&
			   svc_headers_at(message->headers, i, &name, &value);
	     i++) {
		if (message->content_type != NULL &&
		    strcasecmp(name, content_type_name) == 0)
			continue;
		pairs[n++] = (struct pair){name, value};
	}
	if (message->content_type != NULL)
		pairs[n++] =
		    (struct pair){content_type_name, message->content_type};
	qsort(pairs, n, sizeof(pairs[0]), compare_pairs);

	struct svc_buf buf;
	svc_buf_init(&buf, MAX_JSON);
	svc_buf_puts(&buf, "{\"Header\":{");
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			svc_buf_putc(&buf, ',');
		svc_buf_json_string(&buf, pairs[i].name, strlen(pairs[i].name));
		svc_buf_putc(&buf, ':');
		svc_buf_json_string(
		    &buf, pairs[i].value, strlen(pairs[i].value));
	}
	svc_buf_puts(&buf, "},\"Body\":\"");
	append_base64(&buf, message->data, message->len);
	svc_buf_puts(&buf, "\"}");
	svc_err rc = buf.failed;
	if (rc == SVC_OK) {
		size_t len;
		char *json = svc_buf_take(&buf, &len);
		if (json == NULL) {
			rc = SVC_E_NOMEM;
		} else {
			*ret_json = json;
			if (ret_len != NULL)
				*ret_len = len;
		}
	}
	svc_buf_fini(&buf);
	return rc;
}

/* What an event points into. */
struct storage {
	struct svc_headers *headers;
	char *content_type;
	uint8_t *body;
};

static void
storage_destroy(struct storage *storage)
{
	if (storage == NULL)
		return;
	svc_headers_destroy(storage->headers);
	svc_mem_free(storage->content_type);
	svc_mem_free(storage->body);
	svc_mem_free(storage);
}

/* A pair that our headers cannot hold (a name with a space, a value with a line
 * end) is left out: the event matters more than it. */
static svc_err
read_header(
    struct svc_headers *headers, const cJSON *object, struct svc_error *err)
{
	svc_headers_clear(headers);
	if (cJSON_IsNull(object))
		return SVC_OK;
	if (!cJSON_IsObject(object))
		return svc_error_set(err, SVC_E_INVAL,
		    "\"Header\" of the event is not an object of texts");
	const cJSON *pair;
	cJSON_ArrayForEach (pair, object) {
		const char *value = "";
		if (cJSON_IsString(pair))
			value = pair->valuestring;
		else if (!cJSON_IsNull(pair))
			return svc_error_set(err, SVC_E_INVAL,
			    "a value in \"Header\" of the event is not a text");
		svc_err rc = svc_headers_set(headers, pair->string, value);
		if (rc == SVC_E_NOMEM)
			return svc_error_set(err, rc, "out of memory");
		if (rc == SVC_E_EXHAUSTED)
			return svc_error_set(err, SVC_E_INVAL,
			    "\"Header\" of the event has more than %d pairs",
			    MAX_HEADERS);
	}
	return SVC_OK;
}

static svc_err
read_body(struct storage *storage, size_t *ret_len, const cJSON *text,
    struct svc_error *err)
{
	svc_mem_free(storage->body);
	storage->body = NULL;
	*ret_len = 0;
	if (cJSON_IsNull(text))
		return SVC_OK;
	if (!cJSON_IsString(text))
		return svc_error_set(err, SVC_E_INVAL,
		    "\"Body\" of the event is not a base64 text");
	size_t room = strlen(text->valuestring) / 4 * 3 + 3;
	storage->body = svc_mem_alloc(room);
	if (storage->body == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	if (!decode_base64(text->valuestring, storage->body, ret_len))
		return svc_error_set(err, SVC_E_INVAL,
		    "\"Body\" of the event is not base64 with padding");
	return SVC_OK;
}

svc_err
svc_event_decode(const void *data, size_t len, struct svc_event_data *ret_event,
    struct svc_error *err)
{
	svc_err rc = SVC_OK;
	cJSON *root = NULL;
	struct storage *storage = NULL;
	size_t body_len = 0;
	bool known = false;

	if (len > MAX_JSON)
		return svc_error_set(err, SVC_E_INVAL,
		    "event of %zu bytes is longer than %zu", len, MAX_JSON);
	const char *end = NULL;
	if (len > 0)
		root = cJSON_ParseWithLengthOpts(data, len, &end, false);
	if (root == NULL)
		return svc_error_set(err, SVC_E_INVAL,
		    "event is not JSON of the form "
		    "{\"Header\":{...},\"Body\":\"base64\"}");
	for (const char *stop = (const char *)data + len; end < stop; end++) {
		if (strchr(" \t\r\n", *end) == NULL || *end == '\0') {
			rc = svc_error_set(
			    err, SVC_E_INVAL, "event has bytes after its JSON");
			goto out;
		}
	}
	if (!cJSON_IsObject(root)) {
		rc = svc_error_set(err, SVC_E_INVAL,
		    "event is not a JSON object with Header and Body");
		goto out;
	}
	storage = svc_mem_calloc(1, sizeof(*storage));
	if (storage != NULL)
		storage->headers = svc_headers_create();
	if (storage == NULL || storage->headers == NULL) {
		rc = svc_error_set(err, SVC_E_NOMEM, "out of memory");
		goto out;
	}
	const cJSON *member;
	cJSON_ArrayForEach (member, root) {
		if (strcasecmp(member->string, "Header") == 0)
			rc = read_header(storage->headers, member, err);
		else if (strcasecmp(member->string, "Body") == 0)
			rc = read_body(storage, &body_len, member, err);
		else
			continue;
		if (rc != SVC_OK)
			goto out;
		known = true;
	}
	/* Go would read any object as an empty event; but JSON with neither key
	 * is somebody else's and not for our handlers. */
	if (!known) {
		rc = svc_error_set(err, SVC_E_INVAL,
		    "event has neither \"Header\" nor \"Body\"");
		goto out;
	}
	const char *type = svc_headers_get(storage->headers, content_type_name);
	/* One that cannot be ours is left out, as such headers are. */
	if (svc_content_type_check(type, NULL) == SVC_OK && type != NULL) {
		storage->content_type = svc_mem_strdup(type);
		if (storage->content_type == NULL) {
			rc = svc_error_set(err, SVC_E_NOMEM, "out of memory");
			goto out;
		}
	}
	svc_headers_remove(storage->headers, content_type_name);
	*ret_event = (struct svc_event_data){
	    .message =
		{
		    .content_type = storage->content_type,
		    .data = storage->body != NULL ? (const void *)storage->body
						  : "",
		    .len = body_len,
		    .headers = storage->headers,
		},
	    .storage = storage,
	};
	storage = NULL;
out:
	storage_destroy(storage);
	cJSON_Delete(root);
	return rc;
}

void
svc_event_data_fini(struct svc_event_data *event)
{
	storage_destroy(event->storage);
	*event = (struct svc_event_data){0};
}
