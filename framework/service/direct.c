/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that run on the thread of their caller, in the same process.
 *
 * A caller cannot leave a handler that runs on its stack: nothing could take
 * the thread over at the deadline, as another thread takes a loop over. So only
 * handlers that were added with never_blocks() run here; all others run where
 * a loop has read their call. What would have to wait, for a place among the
 * handlers or for the start of the service, goes that way too.
 */
#include "server.h"

/* Calls within calls on one stack. Deeper ones take the other way, whose
 * threads are limited, so that a circle ends in a refusal. */
#define MAX_DEPTH 8

static SVC_THREAD_LOCAL int depth;

bool
svc_server_direct(
    struct svc_stream_handle *stream, const struct svc_part *first, void *arg)
{
	struct svc_server *server = arg;
	if (depth >= MAX_DEPTH ||
	    !atomic_load_explicit(&server->open, memory_order_acquire))
		return false;
	struct svc_server_endpoint *endpoint = svc_server_find(
	    server, first->endpoint != NULL ? first->endpoint : "");
	if (endpoint == NULL || !endpoint->never_blocks)
		return false;
	struct svc_server_shard *shard =
	    svc_server_count_in(server, SVC_COUNT_CALL + SVC_COUNT_HANDLER);
	if (!svc_admission_enter_counted(server, shard)) {
		svc_server_count_out(server, shard, SVC_COUNT_CALL);
		return false;
	}
	bool message = (first->flags & SVC_PART_MESSAGE) != 0;
	depth++;
	svc_server_serve(server, shard, endpoint, stream, first,
	    message ? first->data : NULL, message ? first->len : 0,
	    svc_now_ms());
	depth--;
	return true;
}
