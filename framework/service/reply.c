/* SPDX-License-Identifier: Apache-2.0 */
/* The reply of one exchange, gathered from the parts in which it comes, and the
 * memory behind messages that are handed out. */
#include "service.h"

#include <string.h>

/* ------------------------------------------------------------------ blocks */

/*
 * The block behind a message that was handed out: the content type begins it.
 * A word before it says whose it is, so that svc_message_free does the right
 * thing with a reply, which is the caller's, and with a message received on a
 * stream, which stays the stream's.
 */
struct reply_block {
	size_t size; /* of `space` */
	bool is_callers;
	_Alignas(16) char space[];
};
#define KEPT_SIZE \
	((size_t)1 << 10) /* at most, by a thread for its next reply */

void *
svc_reply_alloc(size_t size, bool is_callers)
{
	struct reply_block *block = NULL;
	if (size > SIZE_MAX - sizeof(*block))
		return NULL;
	if (is_callers && size <= KEPT_SIZE)
		block = svc_kept_reply();
	if (block != NULL && block->size < size) {
		svc_mem_free(block);
		block = NULL;
	}
	if (block == NULL) {
		block = svc_mem_alloc(sizeof(*block) + size);
		if (block == NULL)
			return NULL;
		block->size = size;
	}
	block->is_callers = is_callers;
	return block->space;
}

static struct reply_block *
block_of(const char *space)
{
	union {
		const char *in;
		char *out;
	} u = {space};
	return (
	    struct reply_block *)(void *)(u.out -
					  offsetof(struct reply_block, space));
}

SVC_HOT void
svc_reply_release(const void *space)
{
	if (space == NULL)
		return;
	struct reply_block *block = block_of(space);
	if (!block->is_callers || block->size > KEPT_SIZE ||
	    !svc_keep_reply(block))
		svc_mem_free(block);
}

SVC_HOT void
svc_message_free(struct svc_message *rsp)
{
	if (rsp == NULL)
		return;
	if (rsp->content_type == NULL ||
	    block_of(rsp->content_type)->is_callers) {
		svc_reply_release(rsp->content_type);
		svc_headers_destroy(rsp->headers);
	}
	*rsp = (struct svc_message){0};
}

/* ------------------------------------------------------------------- reply */

void
svc_reply_init(struct svc_reply *reply, struct svc_error *err)
{
	reply->result = (struct svc_exchange){0};
	reply->err = err;
	reply->block = NULL;
	reply->headers = NULL;
	reply->data_at = 0;
	reply->len = 0;
	reply->has_message = false;
}

static void
free_block(struct svc_reply *reply)
{
	svc_reply_release(reply->block);
	reply->block = NULL;
}

void
svc_reply_fini(struct svc_reply *reply)
{
	free_block(reply);
	if (reply->headers != NULL)
		svc_headers_destroy(reply->headers);
	reply->headers = NULL;
}

static void
out_of_memory(struct svc_reply *reply)
{
	reply->result.code =
	    svc_error_set(reply->err, SVC_E_NOMEM, "out of memory");
}

/* One block holds the content type and the data, so that a reply costs one
 * allocation. */
static SVC_HOT bool
keep(struct svc_reply *reply, const char *type, const void *data, size_t len)
{
	size_t type_size = strlen(type) + 1;
	size_t data_at = (type_size + 15) & ~(size_t)15;
	if (len > SIZE_MAX / 2)
		return false;
	char *block = svc_reply_alloc(data_at + len + 1, true);
	if (block == NULL)
		return false;
	memcpy(block, type, type_size);
	if (len > 0)
		memcpy(block + data_at, data, len);
	block[data_at + len] = '\0'; /* text can be read as a string */
	free_block(reply);
	reply->block = block;
	reply->data_at = data_at;
	reply->len = len;
	return true;
}

/* A stream endpoint may answer with one message, as any other. */
static void
too_many(struct svc_reply *reply)
{
	if (reply->result.code == SVC_OK)
		reply->result.code = svc_error_set(reply->err, SVC_E_INVAL,
		    "the endpoint answers with a stream of messages: use "
		    "svc_open");
}

static void
on_headers(struct svc_reply *reply, const struct svc_part *part)
{
	svc_err code = SVC_OK;
	/* Those of the first part, and the trailers of the last. */
	if (svc_headers_get(part->headers, SVC_NOT_RUN_HEADER) != NULL)
		reply->result.not_run = true;
	if (reply->headers == NULL)
		reply->headers = svc_headers_copy(part->headers);
	else
		code = svc_headers_merge(reply->headers, part->headers);
	if (code == SVC_E_EXHAUSTED)
		reply->result.code = svc_error_set(reply->err, code,
		    "the reply has more headers and trailers than the 256 that "
		    "a message takes: use svc_open");
	else if (code != SVC_OK || reply->headers == NULL)
		out_of_memory(reply);
}

static void
on_end(struct svc_reply *reply, const struct svc_part *part)
{
	reply->result.replied = true;
	if (reply->result.code != SVC_OK)
		return;
	reply->result.code = part->status;
	if (part->status != SVC_OK)
		svc_error_set(reply->err, part->status, "%s",
		    part->status_text != NULL && part->status_text[0] != '\0'
			? part->status_text
			: svc_err_text(part->status));
	else if (reply->block == NULL && !keep(reply, "", NULL, 0))
		out_of_memory(reply);
}

void
svc_reply_part(struct svc_reply *reply, const struct svc_part *part)
{
	if (part->headers != NULL && svc_headers_count(part->headers) > 0)
		on_headers(reply, part);
	if ((part->flags & (SVC_PART_HEADERS | SVC_PART_MESSAGE)) != 0) {
		/* The type comes with the headers, the data perhaps later. */
		const char *type = reply->block != NULL ? reply->block : "";
		if ((part->flags & SVC_PART_HEADERS) != 0 &&
		    part->content_type != NULL)
			type = part->content_type;
		bool message = (part->flags & SVC_PART_MESSAGE) != 0;
		if (message && reply->has_message)
			too_many(reply);
		reply->has_message |= message;
		if ((message || (part->flags & SVC_PART_END) == 0) &&
		    !keep(reply, type, message ? part->data : NULL,
			message ? part->len : 0))
			out_of_memory(reply);
	}
	if ((part->flags & SVC_PART_END) != 0)
		on_end(reply, part);
}

void
svc_reply_closed(struct svc_reply *reply, const struct svc_stream_end *end)
{
	if (reply->result.replied)
		return;
	reply->result.code =
	    end->code != SVC_OK ? end->code : SVC_E_UNAVAILABLE;
	reply->result.not_run = end->not_run;
	reply->result.silent = end->silent;
	svc_error_set(reply->err, reply->result.code, "%s",
	    end->text != NULL && end->text[0] != '\0'
		? end->text
		: svc_err_text(reply->result.code));
}

struct svc_message
svc_reply_message(const struct svc_reply *reply)
{
	struct svc_message message = {.headers = reply->headers};
	if (reply->result.code == SVC_OK) {
		message.content_type = reply->block;
		message.data = reply->block + reply->data_at;
		message.len = reply->len;
	}
	return message;
}

svc_err
svc_reply_copy_headers(const struct svc_headers *from, struct svc_headers *into)
{
	svc_headers_clear(into);
	if (from == NULL)
		return SVC_OK;
	svc_err code = svc_headers_merge(into, from);
	svc_headers_remove(into, SVC_NOT_RUN_HEADER); /* between svc's ends */
	return code;
}
