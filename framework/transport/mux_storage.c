/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What small outputs are stored in. Most are written soon after they are made,
 * by the same thread: it uses the same few storages for all its connections,
 * which stay in the processor's cache, and connections with nothing to send
 * have none.
 */
#include "mux_private.h"

#define MAX_KEPT (1u << 17) /* bytes, by a thread */

/* One that is not in use, in its own first bytes. */
struct storage {
	struct storage *next;
	size_t cap;
};

static SVC_THREAD_LOCAL struct kept {
	struct storage *first; /* the last that was in use */
	size_t total;
	bool freed_at_end; /* of the thread */
} mine;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;

static void
free_at_end(void *arg)
{
	struct kept *kept = arg;
	while (kept->first != NULL) {
		struct storage *storage = kept->first;
		kept->first = storage->next;
		svc_mem_free(storage);
	}
	*kept = (struct kept){0};
}

static void
make_key(void)
{
	have_key = pthread_key_create(&key, free_at_end) == 0;
}

static SVC_APART void
become_keeper(void)
{
	pthread_once(&once, make_key);
	mine.freed_at_end = have_key && pthread_setspecific(key, &mine) == 0;
}

SVC_HOT void
mux_take_storage(struct svc_buf *out)
{
	struct storage *storage = mine.first;
	if (storage == NULL)
		return;
	mine.first = storage->next;
	mine.total -= storage->cap;
	out->cap = storage->cap;
	out->data = (uint8_t *)storage;
}

SVC_HOT void
mux_give_storage(struct svc_buf *out)
{
	struct storage *storage = (struct storage *)(void *)out->data;
	if (!mine.freed_at_end)
		become_keeper();
	if (out->cap < sizeof(*storage) || mine.total + out->cap > MAX_KEPT ||
	    !mine.freed_at_end) {
		svc_buf_fini(out);
		return;
	}
	storage->next = mine.first;
	storage->cap = out->cap;
	mine.first = storage;
	mine.total += storage->cap;
	svc_buf_init(out, out->max);
}
