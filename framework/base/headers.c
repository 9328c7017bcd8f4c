/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All texts lie one after the other in one block, and an array of pairs says
 * where. Both begin inside the object, so the few headers of an ordinary call
 * cost one allocation. What is replaced or removed leaves a gap in the block;
 * the gaps vanish when it next has to grow.
 */
#include <svc/headers.h>

#include "text_private.h"

#include <string.h>

#define MAX_NAME 255
#define MAX_VALUE (64 * 1024)
#define MAX_PAIRS 256
#define OWN_PAIRS 8
#define OWN_TEXT 320

struct pair {
	uint32_t name; /* offsets into the text */
	uint32_t value;
	uint32_t name_len;
	uint32_t value_len;
};

struct svc_headers {
	struct pair *pairs;
	char *text;
	size_t count, pairs_cap;
	size_t len, text_cap;
	struct pair own_pairs[OWN_PAIRS];
	char own_text[OWN_TEXT];
};

struct svc_headers *
svc_headers_create(void)
{
	struct svc_headers *headers = svc_mem_alloc(sizeof(*headers));
	if (headers == NULL)
		return NULL;
	headers->pairs = headers->own_pairs;
	headers->pairs_cap = OWN_PAIRS;
	headers->text = headers->own_text;
	headers->text_cap = OWN_TEXT;
	svc_headers_clear(headers);
	return headers;
}

void
svc_headers_destroy(struct svc_headers *headers)
{
	if (headers == NULL)
		return;
	if (headers->pairs != headers->own_pairs)
		svc_mem_free(headers->pairs);
	if (headers->text != headers->own_text)
		svc_mem_free(headers->text);
	svc_mem_free(headers);
}

static size_t
text_size(const struct pair *pair)
{
	return (size_t)pair->name_len + 1 + pair->value_len + 1;
}

static bool
name_ok(const char *name, size_t len)
{
	if (len == 0 || len > MAX_NAME)
		return false;
	for (size_t i = 0; i < len; i++)
		if (name[i] <= ' ' || name[i] > '~' || name[i] == ':' ||
		    name[i] == '=')
			return false;
	return true;
}

static bool
value_ok(const char *value, size_t len)
{
	if (len > MAX_VALUE)
		return false;
	for (size_t i = 0; i < len; i++)
		if (value[i] == '\0' || value[i] == '\r' || value[i] == '\n')
			return false;
	return true;
}

static struct pair *
find(const struct svc_headers *headers, const char *name, size_t len)
{
	if (headers == NULL)
		return NULL;
	for (size_t i = 0; i < headers->count; i++) {
		struct pair *pair = &headers->pairs[i];
		if (pair->name_len != len)
			continue;
		const char *own = headers->text + pair->name;
		size_t same = 0;
		while (same < len && (own[same] == name[same] ||
					 svc_text_lower(own[same]) ==
					     svc_text_lower(name[same])))
			same++;
		if (same == len)
			return pair;
	}
	return NULL;
}

static char *
put(char *at, const char *text, size_t len)
{
	if (len > 0)
		memmove(at, text, len);
	at[len] = '\0';
	return at + len + 1;
}

/* Makes room for `more` bytes of text. A former block is returned in `old`
 * instead of being freed: what is to be copied may lie in it. */
static svc_err
grow_text(struct svc_headers *headers, size_t more, char **old)
{
	*old = NULL;
	if (headers->text_cap - headers->len >= more)
		return SVC_OK;
	size_t need = more;
	for (size_t i = 0; i < headers->count; i++)
		need += text_size(&headers->pairs[i]);
	char *text = svc_mem_alloc(need * 2);
	if (text == NULL)
		return SVC_E_NOMEM;
	char *at = text;
	for (size_t i = 0; i < headers->count; i++) {
		struct pair *pair = &headers->pairs[i];
		const char *name = headers->text + pair->name;
		const char *value = headers->text + pair->value;
		pair->name = (uint32_t)(at - text);
		at = put(at, name, pair->name_len);
		pair->value = (uint32_t)(at - text);
		at = put(at, value, pair->value_len);
	}
	if (headers->text != headers->own_text)
		*old = headers->text;
	headers->text = text;
	headers->text_cap = need * 2;
	headers->len = (size_t)(at - text);
	return SVC_OK;
}

static svc_err
grow_pairs(struct svc_headers *headers, size_t count)
{
	if (count <= headers->pairs_cap)
		return SVC_OK;
	if (count > MAX_PAIRS)
		return SVC_E_EXHAUSTED;
	size_t cap = headers->pairs_cap;
	while (cap < count)
		cap *= 2;
	bool own = headers->pairs == headers->own_pairs;
	struct pair *pairs =
	    svc_mem_realloc(own ? NULL : headers->pairs, cap * sizeof(*pairs));
	if (pairs == NULL)
		return SVC_E_NOMEM;
	if (own)
		memcpy(pairs, headers->own_pairs, sizeof(headers->own_pairs));
	headers->pairs = pairs;
	headers->pairs_cap = cap;
	return SVC_OK;
}

struct svc_headers *
svc_headers_copy(const struct svc_headers *headers)
{
	struct svc_headers *copy = svc_headers_create();
	if (copy == NULL || headers == NULL)
		return copy;
	char *old;
	if (grow_pairs(copy, headers->count) != SVC_OK ||
	    grow_text(copy, headers->len, &old) != SVC_OK) {
		svc_headers_destroy(copy);
		return NULL;
	}
	memcpy(copy->pairs, headers->pairs,
	    headers->count * sizeof(*headers->pairs));
	memcpy(copy->text, headers->text, headers->len);
	copy->count = headers->count;
	copy->len = headers->len;
	return copy;
}

svc_err
svc_headers_set(
    struct svc_headers *headers, const char *name, const char *value)
{
	if (name == NULL || value == NULL)
		return SVC_E_INVAL;
	return svc_headers_set_n(
	    headers, name, strlen(name), value, strlen(value));
}

svc_err
svc_headers_set_n(struct svc_headers *headers, const char *name,
    size_t name_len, const char *value, size_t value_len)
{
	if (!name_ok(name, name_len) || !value_ok(value, value_len))
		return SVC_E_INVAL;
	struct pair *pair = find(headers, name, name_len);
	if (pair != NULL && value_len <= pair->value_len) {
		pair->value_len = (uint32_t)value_len;
		put(headers->text + pair->value, value, value_len);
		return SVC_OK;
	}

	size_t more = value_len + 1;
	if (pair == NULL) {
		svc_err err = grow_pairs(headers, headers->count + 1);
		if (err != SVC_OK)
			return err;
		more += name_len + 1;
	}
	char *old;
	svc_err err = grow_text(headers, more, &old);
	if (err != SVC_OK)
		return err;
	char *at = headers->text + headers->len;
	if (pair == NULL) {
		pair = &headers->pairs[headers->count++];
		pair->name = (uint32_t)(at - headers->text);
		pair->name_len = (uint32_t)name_len;
		at = put(at, name, name_len);
	}
	pair->value = (uint32_t)(at - headers->text);
	pair->value_len = (uint32_t)value_len;
	put(at, value, value_len);
	headers->len += more;
	svc_mem_free(old);
	return SVC_OK;
}

svc_err
svc_headers_merge(struct svc_headers *headers, const struct svc_headers *from)
{
	if (from == NULL || from == headers)
		return SVC_OK;
	for (size_t i = 0; i < from->count; i++) {
		const struct pair *pair = &from->pairs[i];
		svc_err err = svc_headers_set_n(headers,
		    from->text + pair->name, pair->name_len,
		    from->text + pair->value, pair->value_len);
		if (err != SVC_OK)
			return err;
	}
	return SVC_OK;
}

const char *
svc_headers_get(const struct svc_headers *headers, const char *name)
{
	const struct pair *pair = find(headers, name, strlen(name));
	return pair != NULL ? headers->text + pair->value : NULL;
}

void
svc_headers_remove(struct svc_headers *headers, const char *name)
{
	struct pair *pair = find(headers, name, strlen(name));
	if (pair == NULL)
		return;
	size_t after = (size_t)(headers->pairs + headers->count - (pair + 1));
	memmove(pair, pair + 1, after * sizeof(*pair));
	headers->count--;
}

void
svc_headers_clear(struct svc_headers *headers)
{
	headers->count = 0;
	headers->len = 0;
}

size_t
svc_headers_count(const struct svc_headers *headers)
{
	return headers != NULL ? headers->count : 0;
}

bool
svc_headers_at(const struct svc_headers *headers, size_t index,
    const char **ret_name, const char **ret_value)
{
	if (index >= svc_headers_count(headers))
		return false;
	const struct pair *pair = &headers->pairs[index];
	*ret_name = headers->text + pair->name;
	*ret_value = headers->text + pair->value;
	return true;
}

bool
svc_headers_equal(const struct svc_headers *a, const struct svc_headers *b)
{
	if (svc_headers_count(a) != svc_headers_count(b))
		return false;
	for (size_t i = 0; i < svc_headers_count(a); i++) {
		const struct pair *one = &a->pairs[i];
		const struct pair *other =
		    find(b, a->text + one->name, one->name_len);
		if (other == NULL || one->value_len != other->value_len ||
		    memcmp(a->text + one->value, b->text + other->value,
			one->value_len) != 0)
			return false;
	}
	return true;
}
