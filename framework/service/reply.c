/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block behind a message that was handed out: the content type begins it.
 * A word before it says whose it is, so that svc_message_free does the right
 * thing with a reply, which is the caller's, and with a message received on a
 * stream, which stays the stream's.
 */
#include "service.h"

struct reply_block {
	bool is_callers;
	_Alignas(16) char space[];
};

void *
svc_reply_alloc(size_t size, bool is_callers)
{
	if (size > SIZE_MAX - sizeof(struct reply_block))
		return NULL;
	struct reply_block *block = svc_mem_alloc(sizeof(*block) + size);
	if (block == NULL)
		return NULL;
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

void
svc_reply_release(const void *space)
{
	if (space != NULL)
		svc_mem_free(block_of(space));
}

void
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
