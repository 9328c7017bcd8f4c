/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All texts lie one after the other in one block, and an array of pairs says
 * where. Both begin inside the object, so the few headers of an ordinary call
 * cost one allocation, and a copy, which has no room to spare, never more. What
 * is replaced or removed leaves a gap in the block; the gaps vanish when it
 * next has to grow.
 *
 * Names may come from a stranger, who can choose 256 long ones that differ at
 * their ends only: so a hash of each is compared before its letters.
 */
#include <svc/headers.h>
#include <svc/log.h>

#include "text_private.h"

#include <string.h>

#define MAX_NAME 255
#define MAX_VALUE (64 * 1024)
#define MAX_PAIRS 256
#define MAX_TYPE 255
#define OWN_PAIRS 8
#define OWN_TEXT 320

struct pair {
	uint32_t name; /* offsets into the text */
	uint32_t value;
	uint32_t name_len;
	uint32_t value_len;
	uint32_t hash; /* of the name */
};

struct svc_headers {
	struct pair *pairs;
	char *text;
	uint32_t count, pairs_cap;
	uint32_t len, text_cap;
	bool text_apart;   /* a block of its own; the pairs when not own[] */
	struct pair own[]; /* and behind them the text */
};

static struct svc_headers *
create(uint32_t pairs, uint32_t text)
{
	struct svc_headers *headers = svc_mem_alloc(
	    sizeof(*headers) + pairs * sizeof(headers->own[0]) + text);
	if (headers == NULL)
		return NULL;
	headers->pairs = headers->own;
	headers->pairs_cap = pairs;
	headers->text = (char *)&headers->own[pairs];
	headers->text_cap = text;
	headers->text_apart = false;
	svc_headers_clear(headers);
	return headers;
}

struct svc_headers *
svc_headers_create(void)
{
	return create(OWN_PAIRS, OWN_TEXT);
}

void
svc_headers_destroy(struct svc_headers *headers)
{
	if (headers == NULL)
		return;
	if (headers->pairs != headers->own)
		svc_mem_free(headers->pairs);
	if (headers->text_apart)
		svc_mem_free(headers->text);
	svc_mem_free(headers);
}

static size_t
text_size(const struct pair *pair)
{
	return (size_t)pair->name_len + 1 + pair->value_len + 1;
}

/* FNV-1a, from where this process happens to lie: nobody outside knows which
 * names have the same. */
static uint32_t
hash_begin(void)
{
	static const char here;
	return (uint32_t)((uintptr_t)&here >> 4) ^ 0x811c9dc5u;
}

static uint32_t
hash_more(uint32_t hash, char c)
{
	return (hash ^ (uint8_t)svc_text_lower(c)) * 0x01000193u;
}

static bool
name_ok(const char *name, size_t len, uint32_t *ret_hash)
{
	uint32_t hash = hash_begin();
	if (len == 0 || len > MAX_NAME)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (name[i] <= ' ' || name[i] > '~' || name[i] == ':' ||
		    name[i] == '=')
			return false;
		hash = hash_more(hash, name[i]);
	}
	*ret_hash = hash;
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
find_hashed(const struct svc_headers *headers, const char *name, size_t len,
    uint32_t hash)
{
	for (size_t i = 0; i < headers->count; i++) {
		struct pair *pair = &headers->pairs[i];
		if (pair->hash != hash || pair->name_len != len)
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

static struct pair *
find(const struct svc_headers *headers, const char *name, size_t len)
{
	uint32_t hash = hash_begin();
	if (headers == NULL || headers->count == 0)
		return NULL;
	for (size_t i = 0; i < len; i++)
		hash = hash_more(hash, name[i]);
	return find_hashed(headers, name, len, hash);
}

static char *
put(char *at, const char *text, size_t len)
{
	if (len > 0)
		memmove(at, text, len);
	at[len] = '\0';
	return at + len + 1;
}

static size_t
texts_size(const struct svc_headers *headers)
{
	size_t size = 0;
	for (size_t i = 0; i < headers->count; i++)
		size += text_size(&headers->pairs[i]);
	return size;
}

/* Puts all texts of `from` into `text`, where `pairs`, which may be those of
 * `from`, say that they lie. Returns the end. */
static char *
put_all(char *text, struct pair *pairs, const struct svc_headers *from)
{
	char *at = text;
	for (size_t i = 0; i < from->count; i++) {
		struct pair pair = from->pairs[i];
		const char *name = from->text + pair.name;
		const char *value = from->text + pair.value;
		pair.name = (uint32_t)(at - text);
		at = put(at, name, pair.name_len);
		pair.value = (uint32_t)(at - text);
		at = put(at, value, pair.value_len);
		pairs[i] = pair;
	}
	return at;
}

/* Makes room for `more` bytes of text. A former block is returned in `old`
 * instead of being freed: what is to be copied may lie in it. */
static svc_err
grow_text(struct svc_headers *headers, size_t more, char **old)
{
	*old = NULL;
	if (headers->text_cap - headers->len >= more)
		return SVC_OK;
	size_t cap = 2 * (texts_size(headers) + more);
	char *text = svc_mem_alloc(cap);
	if (text == NULL)
		return SVC_E_NOMEM;
	char *end = put_all(text, headers->pairs, headers);
	if (headers->text_apart)
		*old = headers->text;
	headers->text = text;
	headers->text_apart = true;
	headers->text_cap = (uint32_t)cap;
	headers->len = (uint32_t)(end - text);
	return SVC_OK;
}

static svc_err
grow_pairs(struct svc_headers *headers, size_t count)
{
	if (count > MAX_PAIRS)
		return SVC_E_EXHAUSTED;
	if (count <= headers->pairs_cap)
		return SVC_OK;
	uint32_t cap =
	    headers->pairs_cap < OWN_PAIRS ? OWN_PAIRS : 2 * headers->pairs_cap;
	bool own = headers->pairs == headers->own;
	struct pair *pairs =
	    svc_mem_realloc(own ? NULL : headers->pairs, cap * sizeof(*pairs));
	if (pairs == NULL)
		return SVC_E_NOMEM;
	if (own)
		memcpy(pairs, headers->own, headers->count * sizeof(*pairs));
	headers->pairs = pairs;
	headers->pairs_cap = cap;
	return SVC_OK;
}

struct svc_headers *
svc_headers_copy(const struct svc_headers *headers)
{
	if (headers == NULL)
		return svc_headers_create();
	size_t size = texts_size(headers);
	struct svc_headers *copy = create(headers->count, (uint32_t)size);
	if (copy == NULL)
		return NULL;
	put_all(copy->text, copy->pairs, headers);
	copy->count = headers->count;
	copy->len = (uint32_t)size;
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
	uint32_t hash;
	if (!name_ok(name, name_len, &hash) || !value_ok(value, value_len))
		return SVC_E_INVAL;
	struct pair *pair = find_hashed(headers, name, name_len, hash);
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
		pair->hash = hash;
		at = put(at, name, name_len);
	}
	pair->value = (uint32_t)(at - headers->text);
	pair->value_len = (uint32_t)value_len;
	put(at, value, value_len);
	headers->len += (uint32_t)more;
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
	const struct pair *pair =
	    name != NULL ? find(headers, name, strlen(name)) : NULL;
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

/* --------------------------------------------------------- content types */

static SVC_COLD svc_err
refuse_type(const char *type, struct svc_error *err)
{
	char quoted[128];
	return svc_error_set(err, SVC_E_INVAL,
	    "content type %s: allowed are up to %d characters from space to "
	    "'~'",
	    svc_log_quote(type, strlen(type), quoted, sizeof(quoted)),
	    MAX_TYPE);
}

SVC_HOT svc_err
svc_content_type_check(const char *type, struct svc_error *err)
{
	size_t len = 0;
	if (type == NULL)
		return SVC_OK;
	while (type[len] >= ' ' && type[len] <= '~')
		len++;
	return type[len] == '\0' && len <= MAX_TYPE ? SVC_OK
						    : refuse_type(type, err);
}
