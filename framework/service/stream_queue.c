/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of a stream that wait to be received. */
#include "stream.h"

#include <string.h>

#define CHUNK ((size_t)16 << 10)
#define ALIGN ((size_t)16)
#define MAX_SPARE 128 /* kept for further use */
#define KEEP_SPARE 12 /* of a receiver that waits */
/* Taken at once: what is taken is given back only when all of it was read. */
#define MAX_TAKEN ((size_t)64 << 10)

struct svc_chunk {
	struct svc_chunk *next;
	size_t size, used; /* of `space` */
	_Alignas(16) char space[];
};
struct record {
	size_t len;
	_Alignas(16) char data[]; /* and a NUL, then up to ALIGN */
};

size_t
svc_stream_queue_cost(size_t len)
{
	if (len > SIZE_MAX / 2)
		return SIZE_MAX;
	return sizeof(struct record) + ((len + ALIGN) & ~(ALIGN - 1));
}

static struct svc_chunk *
new_chunk(struct svc_stream_queue *queue, size_t cost)
{
	struct svc_chunk *chunk = queue->spare;
	if (cost <= CHUNK && chunk != NULL) {
		queue->spare = chunk->next;
		queue->n_spare--;
	} else {
		size_t size = cost > CHUNK ? cost : CHUNK;
		if (size > SIZE_MAX - sizeof(*chunk))
			return NULL;
		chunk = svc_mem_alloc(sizeof(*chunk) + size);
		if (chunk == NULL)
			return NULL;
		chunk->size = size;
	}
	chunk->next = NULL;
	chunk->used = 0;
	return chunk;
}

static void
free_chunks(struct svc_chunk *chunk)
{
	while (chunk != NULL) {
		struct svc_chunk *next = chunk->next;
		svc_mem_free(chunk);
		chunk = next;
	}
}

bool
svc_stream_queue_push(
    struct svc_stream_queue *queue, const void *data, size_t len)
{
	size_t cost = svc_stream_queue_cost(len);
	struct svc_chunk *chunk = queue->last;
	if (chunk == NULL || chunk->size - chunk->used < cost) {
		chunk = new_chunk(queue, cost);
		if (chunk == NULL)
			return false;
		if (queue->last != NULL)
			queue->last->next = chunk;
		else
			queue->first = chunk;
		queue->last = chunk;
	}
	struct record *record =
	    (struct record *)(void *)(chunk->space + chunk->used);
	record->len = len;
	if (len > 0)
		memcpy(record->data, data, len);
	record->data[len] = '\0';
	chunk->used += cost;
	queue->held += cost;
	return true;
}

/* What was read goes back to the spare ones. */
static void
give_back(struct svc_stream_queue *queue)
{
	while (queue->finished != NULL) {
		struct svc_chunk *chunk = queue->finished;
		queue->finished = chunk->next;
		queue->held -= chunk->used;
		if (chunk->size == CHUNK && queue->n_spare < MAX_SPARE) {
			chunk->next = queue->spare;
			queue->spare = chunk;
			queue->n_spare++;
		} else {
			svc_mem_free(chunk);
		}
	}
}

bool
svc_stream_queue_is_fat(const struct svc_stream_queue *queue)
{
	return queue->n_spare > KEEP_SPARE;
}

void
svc_stream_queue_slim(struct svc_stream_queue *queue)
{
	give_back(queue);
	while (queue->n_spare > KEEP_SPARE) {
		struct svc_chunk *chunk = queue->spare;
		queue->spare = chunk->next;
		queue->n_spare--;
		svc_mem_free(chunk);
	}
}

bool
svc_stream_queue_take(struct svc_stream_queue *queue)
{
	give_back(queue);
	struct svc_chunk *last = queue->first;
	if (last == NULL)
		return false;
	size_t taken = last->used;
	while (last->next != NULL && taken + last->next->used <= MAX_TAKEN) {
		last = last->next;
		taken += last->used;
	}
	queue->reading = queue->first;
	queue->first = last->next;
	if (queue->first == NULL)
		queue->last = NULL;
	last->next = NULL;
	queue->at = 0;
	return true;
}

bool
svc_stream_queue_next(
    struct svc_stream_queue *queue, const void **ret_data, size_t *ret_len)
{
	struct svc_chunk *chunk = queue->reading;
	if (chunk != NULL && queue->at == chunk->used) {
		queue->reading = chunk->next;
		chunk->next = queue->finished;
		queue->finished = chunk;
		queue->at = 0;
		chunk = queue->reading;
	}
	if (chunk == NULL)
		return false;
	const struct record *record =
	    (const struct record *)(void *)(chunk->space + queue->at);
	queue->at += svc_stream_queue_cost(record->len);
	*ret_data = record->data;
	*ret_len = record->len;
	return true;
}

void
svc_stream_queue_drop(struct svc_stream_queue *queue)
{
	for (struct svc_chunk *c = queue->first; c != NULL; c = c->next)
		queue->held -= c->used;
	free_chunks(queue->first);
	queue->first = NULL;
	queue->last = NULL;
}

void
svc_stream_queue_fini(struct svc_stream_queue *queue)
{
	free_chunks(queue->first);
	free_chunks(queue->spare);
	free_chunks(queue->reading);
	free_chunks(queue->finished);
	*queue = (struct svc_stream_queue){0};
}
