/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a handler sees of its call, and the memory that lives as long as it.
 *
 * A call's memory starts in the call itself, on the stack; what does not fit
 * goes into blocks. Each thread keeps one block, one header map and the memory
 * of one reply for its next call, so that an ordinary call allocates nothing.
 */
#include "service.h"

#include <stdio.h>
#include <string.h>

#define BLOCK_SIZE ((size_t)16 << 10)
#define KEPT_SIZE ((size_t)64 << 10)
#define ALIGN ((size_t)16)

struct svc_call_block {
	struct svc_call_block *next;
	size_t size; /* of `space` */
	_Alignas(16) char space[];
};
struct svc_call_owned { /* freed with the call */
	struct svc_call_owned *next;
	struct ProtobufCMessage *message;
	void *memory;
};

/* ------------------------------------------------- what a thread keeps */

static SVC_THREAD_LOCAL struct kept {
	struct svc_call_block *block;
	struct svc_headers *headers;
	void *reply;  /* see svc_keep_reply */
	bool watched; /* its end is known to `at_exit` */
} kept;
static pthread_key_t at_exit;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
thread_ends(void *arg)
{
	struct kept *mine = arg;
	svc_mem_free(mine->block);
	svc_headers_destroy(mine->headers);
	svc_mem_free(mine->reply);
	*mine = (struct kept){0};
}

static void
make_key(void)
{
	pthread_key_create(&at_exit, thread_ends);
}

static bool
watch_thread(void)
{
	if (!kept.watched) {
		pthread_once(&once, make_key);
		kept.watched = pthread_setspecific(at_exit, &kept) == 0;
	}
	return kept.watched;
}

bool
svc_keep_reply(void *memory)
{
	if (kept.reply != NULL || !watch_thread())
		return false;
	kept.reply = memory;
	return true;
}

void *
svc_kept_reply(void)
{
	void *memory = kept.reply;
	kept.reply = NULL;
	return memory;
}

/* --------------------------------------------------------- begin and end */

svc_err
svc_call_begin(
    struct svc_call *call, struct svc_service *service, struct svc_message *rsp)
{
	call->service = service;
	call->endpoint = "";
	call->req = NULL;
	call->deadline_at_ms = INT64_MAX;
	atomic_init(&call->late, false);
	atomic_init(&call->cut, false);
	call->fail.code = SVC_OK;
	call->fail.text[0] = '\0';
	call->at = call->space;
	call->end = call->space + sizeof(call->space);
	call->blocks = NULL;
	call->owned = NULL;
	atomic_init(&call->scope, NULL);
	/* Taken, so that a call within this one makes its own. */
	call->spare = kept.headers;
	kept.headers = NULL;
	if (call->spare == NULL)
		call->spare = svc_headers_create();
	*rsp = (struct svc_message){.headers = call->spare};
	return call->spare != NULL ? SVC_OK : SVC_E_NOMEM;
}

void
svc_call_forget(struct svc_call *call)
{
	for (struct svc_call_owned *owned = call->owned; owned != NULL;
	     owned = owned->next) {
		svc_message_destroy(owned->message);
		svc_mem_free(owned->memory);
	}
	struct svc_call_block *block = call->blocks;
	while (block != NULL) {
		struct svc_call_block *next = block->next;
		if (kept.block == NULL && block->size <= KEPT_SIZE &&
		    watch_thread())
			kept.block = block;
		else
			svc_mem_free(block);
		block = next;
	}
	call->at = call->space;
	call->end = call->space + sizeof(call->space);
	call->blocks = NULL;
	call->owned = NULL;
}

SVC_HOT void
svc_call_end(struct svc_call *call)
{
	if (call->blocks != NULL || call->owned != NULL)
		svc_call_forget(call);
	if (call->spare == NULL)
		return;
	if (kept.headers == NULL && watch_thread()) {
		if (svc_headers_count(call->spare) != 0)
			svc_headers_clear(call->spare);
		kept.headers = call->spare;
	} else {
		svc_headers_destroy(call->spare);
	}
}

/* ------------------------------------------------------------------ memory */

static bool
add_block(struct svc_call *call, size_t size)
{
	struct svc_call_block *block = kept.block;
	if (block != NULL && block->size >= size) {
		kept.block = NULL;
	} else {
		size_t space = size > BLOCK_SIZE ? size : BLOCK_SIZE;
		if (space > SIZE_MAX - sizeof(*block))
			return false;
		block = svc_mem_alloc(sizeof(*block) + space);
		if (block == NULL)
			return false;
		block->size = space;
	}
	block->next = call->blocks;
	call->blocks = block;
	call->at = block->space;
	call->end = block->space + block->size;
	return true;
}

void *
svc_alloc_in(struct svc_call *call, size_t size)
{
	if (call == NULL || size > SIZE_MAX - ALIGN)
		return NULL;
	size = size == 0 ? ALIGN : (size + ALIGN - 1) & ~(ALIGN - 1);
	if ((size_t)(call->end - call->at) < size && !add_block(call, size))
		return NULL;
	void *memory = call->at;
	call->at += size;
	return memory;
}

static char *SVC_PRINTF(2, 0) vprint(
    struct svc_call *call, const char *format, va_list args, size_t *ret_len)
{
	if (call == NULL || format == NULL)
		return NULL;
	/* Printed in place; only what does not fit is printed twice. */
	size_t room = (size_t)(call->end - call->at);
	va_list again;
	va_copy(again, args);
	int wanted = vsnprintf(call->at, room, format, args);
	char *text = NULL;
	if (wanted < 0)
		goto out;
	bool fitted = (size_t)wanted < room;
	text = svc_alloc_in(call, (size_t)wanted + 1);
	/* What fitted is there already: blocks are whole multiples of ALIGN. */
	if (text != NULL && !fitted)
		vsnprintf(text, (size_t)wanted + 1, format, again);
	*ret_len = (size_t)wanted;
out:
	va_end(again);
	return text;
}

char *
svc_printf(struct svc_call *call, const char *format, ...)
{
	size_t len;
	va_list args;
	va_start(args, format);
	char *text = vprint(call, format, args, &len);
	va_end(args);
	return text;
}

svc_err
svc_reply_text(struct svc_call *call, struct svc_message *rsp,
    const char *content_type, const char *format, ...)
{
	size_t len = 0;
	va_list args;
	if (call == NULL)
		return SVC_E_INVAL;
	if (rsp == NULL || format == NULL)
		return svc_fail(call, SVC_E_INVAL, "svc_reply_text needs a %s",
		    rsp == NULL ? "message to fill" : "format");
	va_start(args, format);
	char *text = vprint(call, format, args, &len);
	va_end(args);
	char *type = NULL;
	if (content_type != NULL) {
		size_t size = strlen(content_type) + 1;
		type = svc_alloc_in(call, size);
		if (type != NULL)
			memcpy(type, content_type, size);
	}
	if (text == NULL || (content_type != NULL && type == NULL))
		return svc_fail(call, SVC_E_NOMEM,
		    "out of memory for a reply of %zu bytes", len);
	rsp->content_type = type;
	rsp->data = text;
	rsp->len = len;
	return SVC_OK;
}

svc_err
svc_fail(struct svc_call *call, svc_err code, const char *format, ...)
{
	va_list args;
	if (call == NULL)
		return code;
	if (format == NULL)
		return svc_error_set(
		    &call->fail, code, "%s", svc_err_text(code));
	va_start(args, format);
	svc_error_vset(&call->fail, code, format, args);
	va_end(args);
	return code;
}

/* ------------------------------------------------------------------ codecs */

static svc_err
find_codec(struct svc_call *call, const char *content_type,
    const struct svc_codec_ops **ret_codec)
{
	const struct svc_codecs *codecs;
	struct svc_error err = {0};
	svc_err code = svc_service_codecs(call->service, &codecs, &err);
	if (code == SVC_OK)
		code = svc_codecs_find(codecs, content_type, ret_codec, &err);
	if (code != SVC_OK)
		call->fail = err;
	return code;
}

svc_err
svc_read(struct svc_call *call, const struct svc_message *req,
    const struct ProtobufCMessageDescriptor *type,
    struct ProtobufCMessage **ret_message)
{
	if (call == NULL || req == NULL || type == NULL || ret_message == NULL)
		return svc_fail(call, SVC_E_INVAL,
		    "svc_read needs a request, a type and a place for the "
		    "message");
	const char *content_type = svc_says_type(req->content_type)
				       ? req->content_type
				       : call->service->values.codec;
	const struct svc_codec_ops *codec;
	svc_err code = find_codec(call, content_type, &codec);
	if (code != SVC_OK)
		return code;
	struct svc_call_owned *owned = svc_alloc_in(call, sizeof(*owned));
	if (owned == NULL)
		return svc_fail(call, SVC_E_NOMEM, "out of memory");
	struct svc_error err = {0};
	struct ProtobufCMessage *message;
	code = codec->decode(type, req->data, req->len, &message, &err);
	if (code != SVC_OK)
		return svc_fail(call, code, "%s", err.text);
	*owned =
	    (struct svc_call_owned){.next = call->owned, .message = message};
	call->owned = owned;
	*ret_message = message;
	return SVC_OK;
}

svc_err
svc_write(struct svc_call *call, struct svc_message *rsp,
    const struct ProtobufCMessage *message)
{
	if (call == NULL || rsp == NULL || message == NULL)
		return svc_fail(call, SVC_E_INVAL,
		    "svc_write needs an answer and a message");
	const char *content_type =
	    call->req != NULL && svc_says_type(call->req->content_type)
		? call->req->content_type
		: call->service->values.codec;
	const struct svc_codec_ops *codec;
	svc_err code = find_codec(call, content_type, &codec);
	if (code != SVC_OK)
		return code;
	struct svc_call_owned *owned = svc_alloc_in(call, sizeof(*owned));
	if (owned == NULL)
		return svc_fail(call, SVC_E_NOMEM, "out of memory");
	struct svc_buf out;
	svc_buf_init(&out, (size_t)call->service->values.max_message_size);
	struct svc_error err = {0};
	code = codec->encode(message, &out, &err);
	if (code != SVC_OK) {
		svc_buf_fini(&out);
		if (code == SVC_E_EXHAUSTED)
			return svc_fail(call, code,
			    "the reply of %s is larger than max_message_size "
			    "(%lld bytes); raise --max_message_size",
			    call->endpoint,
			    (long long)call->service->values.max_message_size);
		return svc_fail(call, code, "%s", err.text);
	}
	*owned =
	    (struct svc_call_owned){.next = call->owned, .memory = out.data};
	call->owned = owned;
	rsp->content_type = content_type;
	rsp->data = out.data;
	rsp->len = out.len;
	return SVC_OK;
}

/* --------------------------------------------------------------- accessors */

struct svc_service *
svc_call_service(const struct svc_call *call)
{
	return call != NULL ? call->service : NULL;
}

const char *
svc_call_endpoint(const struct svc_call *call)
{
	return call != NULL ? call->endpoint : "";
}

const char *
svc_call_header(const struct svc_call *call, const char *name)
{
	return call != NULL && call->req != NULL
		   ? svc_headers_get(call->req->headers, name)
		   : NULL;
}

int64_t
svc_call_remaining_ms(const struct svc_call *call)
{
	return call != NULL ? svc_remaining(call->deadline_at_ms) : 0;
}

bool
svc_call_cancelled(const struct svc_call *call)
{
	if (call == NULL)
		return true;
	const struct svc_transport_ops *ops = call->stream->ops;
	if (SVC_OPS_HAS(ops, cancelled) && ops->cancelled(call->stream))
		return true;
	if (atomic_load(&call->cut))
		return true;
	if (svc_remaining(call->deadline_at_ms) != 0)
		return false;
	union {
		const struct svc_call *in;
		struct svc_call *out;
	} u = {call};
	atomic_store_explicit(&u.out->late, true, memory_order_relaxed);
	return true;
}

const char *
svc_call_peer(const struct svc_call *call)
{
	if (call == NULL)
		return "";
	const struct svc_transport_ops *ops = call->stream->ops;
	const char *peer =
	    SVC_OPS_HAS(ops, peer) ? ops->peer(call->stream) : NULL;
	return peer != NULL ? peer : "";
}
