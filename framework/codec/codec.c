/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/codec.h>
#include <svc/log.h>

#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct svc_required required[] = {
    SVC_REQUIRED(struct svc_codec_ops, content_types),
    SVC_REQUIRED(struct svc_codec_ops, encode),
    SVC_REQUIRED(struct svc_codec_ops, decode),
    {NULL, 0},
};

static const void *const embedded[] = {
    &svc_codec_bytes,
    &svc_codec_text,
    NULL,
};

const struct svc_interface svc_codec_interface = {
    .name = "codec",
    .abi = SVC_CODEC_ABI,
    .min_size = offsetof(struct svc_codec_ops, check),
    .required = required,
    .embedded = embedded,
};

struct entry {
	const char *content_type; /* of the ops: static */
	const struct svc_codec_ops *ops;
};

/* A handful of entries: a walk through them is quicker than hashing. */
struct svc_codecs {
	struct entry *entries;
	size_t n, cap;
	svc_err failed;
};

static char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* The part of a content type before its parameters, without blanks around. */
static size_t
essence(const char **content_type)
{
	const char *p = *content_type;
	p += strspn(p, " \t");
	size_t len = strcspn(p, ";");
	while (len > 0 && (p[len - 1] == ' ' || p[len - 1] == '\t'))
		len--;
	*content_type = p;
	return len;
}

static const struct entry *
lookup(const struct svc_codecs *codecs, const char *content_type, size_t len)
{
	for (size_t i = 0; i < codecs->n; i++) {
		const char *have = codecs->entries[i].content_type;
		size_t at = 0;
		while (at < len && lower(content_type[at]) == have[at])
			at++;
		if (at == len && have[at] == '\0')
			return &codecs->entries[i];
	}
	return NULL;
}

static bool
is_plain(const char *content_type)
{
	const char *slash = strchr(content_type, '/');
	if (slash == NULL || slash == content_type || slash[1] == '\0')
		return false;
	for (const char *p = content_type; *p != '\0'; p++) {
		if (*p <= ' ' || *p >= 0x7f || *p == ';' || *p != lower(*p))
			return false;
	}
	return true;
}

static svc_err
add(struct svc_codecs *codecs, const struct svc_codec_ops *ops)
{
	for (size_t i = 0; ops->content_types[i] != NULL; i++) {
		const char *type = ops->content_types[i];
		if (!is_plain(type)) {
			svc_log(SVC_LOG_WARN, "codec.type",
			    "codec %s: content type \"%s\" must be lower case "
			    "and without parameters, so it is left out",
			    ops->name, type);
			continue;
		}
		const struct entry *other = lookup(codecs, type, strlen(type));
		if (other != NULL) {
			svc_log(SVC_LOG_WARN, "codec.twice",
			    "codec %s: %s is served by codec %s already",
			    ops->name, type, other->ops->name);
			continue;
		}
		if (codecs->n == codecs->cap) {
			size_t cap = codecs->cap == 0 ? 8 : codecs->cap * 2;
			struct entry *entries = svc_mem_realloc(
			    codecs->entries, cap * sizeof(*entries));
			if (entries == NULL)
				return SVC_E_NOMEM;
			codecs->entries = entries;
			codecs->cap = cap;
		}
		codecs->entries[codecs->n++] = (struct entry){type, ops};
	}
	return SVC_OK;
}

static void
add_named(const char *name, void *arg)
{
	struct svc_codecs *codecs = arg;
	struct svc_error why = {0};
	const void *ops = NULL;
	if (codecs->failed != SVC_OK)
		return;
	svc_err e = svc_catalogue_find(&svc_codec_interface, name, &ops, &why);
	if (e == SVC_E_NOMEM)
		codecs->failed = e;
	else if (e != SVC_OK)
		svc_log(SVC_LOG_WARN, "codec.load", "codec %s is left out: %s",
		    name, why.text);
	else
		codecs->failed = add(codecs, ops);
}

svc_err
svc_codecs_create(struct svc_codecs **ret_codecs, struct svc_error *err)
{
	struct svc_codecs *codecs = svc_mem_calloc(1, sizeof(*codecs));
	if (codecs == NULL)
		return svc_error_set(err, SVC_E_NOMEM, "codecs: out of memory");
	svc_err e = svc_catalogue_list(&svc_codec_interface, add_named, codecs);
	if (e == SVC_OK)
		e = codecs->failed;
	if (e != SVC_OK) {
		svc_codecs_destroy(codecs);
		return svc_error_set(err, e, "codecs: %s", svc_err_text(e));
	}
	*ret_codecs = codecs;
	return SVC_OK;
}

void
svc_codecs_destroy(struct svc_codecs *codecs)
{
	if (codecs == NULL)
		return;
	svc_mem_free(codecs->entries);
	svc_mem_free(codecs);
}

/* As "json" of "application/json". */
static bool
is_second_half(const char *type, size_t len, const char *of)
{
	const char *slash = strchr(of, '/');
	return slash != NULL && strlen(slash + 1) == len &&
	       strncasecmp(slash + 1, type, len) == 0;
}

/* With as many of those there are as fit. */
static svc_err
no_codec(const struct svc_codecs *codecs, const char *type, size_t len,
    struct svc_error *err)
{
	if (err == NULL)
		return SVC_E_UNIMPLEMENTED;
	char quoted[72], list[160], near[96] = "; allowed";
	size_t at = 0;
	list[0] = '\0';
	for (size_t i = 0; i < codecs->n; i++) {
		const char *have = codecs->entries[i].content_type;
		size_t need = strlen(have) + (at > 0 ? 2 : 0);
		if (is_second_half(type, len, have))
			snprintf(near, sizeof(near),
			    ", did you mean \"%.48s\"? Allowed", have);
		if (need >= sizeof(list) - at)
			continue;
		if (at > 0) {
			memcpy(list + at, ", ", 2);
			at += 2;
			need -= 2;
		}
		memcpy(list + at, have, need + 1);
		at += need;
	}
	return svc_error_set(err, SVC_E_UNIMPLEMENTED,
	    "content type %s: no codec%s: %s",
	    svc_log_quote(type, len, quoted, sizeof(quoted)), near, list);
}

svc_err
svc_codecs_find(const struct svc_codecs *codecs, const char *content_type,
    const struct svc_codec_ops **ret_codec, struct svc_error *err)
{
	const char *type = content_type != NULL ? content_type : "";
	size_t len = essence(&type);
	const struct entry *entry = lookup(codecs, type, len);
	if (entry != NULL) {
		*ret_codec = entry->ops;
		return SVC_OK;
	}
	return no_codec(codecs, type, len, err);
}
