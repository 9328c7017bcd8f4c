/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/clock.h>
#include <svc/reclaim.h>

#include <sched.h>

/*
 * readers_lock guards the list of readers (not their eras). Lock order:
 * retirement->lock, readers_lock.
 *
 * Why no reader is missed: it stores its era and then loads the pointers; a
 * writer changes the pointer and then loads the eras, both with a full barrier
 * in between. So when the writer does not see the reader's era, the reader
 * does not see the old pointer. Where the writer can make all threads pass a
 * barrier, the reader has none of its own.
 */

static pthread_mutex_t readers_lock = PTHREAD_MUTEX_INITIALIZER;
static struct svc_reader *readers;
_Atomic uint64_t svc_reader_era = 1;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;
bool svc_reader_asymmetric;
SVC_THREAD_LOCAL struct svc_reader *svc_reader_self;

static void
forget(void *arg)
{
	struct svc_reader *reader = arg;

	svc_reader_self = NULL;
	pthread_mutex_lock(&readers_lock);
	*reader->link = reader->next;
	if (reader->next != NULL)
		reader->next->link = reader->link;
	pthread_mutex_unlock(&readers_lock);
	svc_mem_free(reader->scratch);
	svc_mem_free(reader);
}

static void
make_key(void)
{
	have_key = pthread_key_create(&key, forget) == 0;
	svc_reader_asymmetric = svc_thread_fence_others();
}

struct svc_reader *
svc_reader_join(void)
{
	struct svc_reader *reader;

	pthread_once(&once, make_key);
	if (!have_key)
		return NULL;
	reader = svc_mem_calloc(1, sizeof(*reader));
	if (reader == NULL)
		return NULL;
	unsigned number = svc_thread_number();
	const unsigned shared = SVC_PLACES - SVC_OWN_PLACES;
	reader->alone = number < SVC_OWN_PLACES;
	reader->place =
	    reader->alone ? number : SVC_OWN_PLACES + number % shared;
	if (pthread_setspecific(key, reader) != 0) {
		svc_mem_free(reader);
		return NULL;
	}
	pthread_mutex_lock(&readers_lock);
	reader->next = readers;
	reader->link = &readers;
	if (readers != NULL)
		readers->link = &reader->next;
	readers = reader;
	pthread_mutex_unlock(&readers_lock);
	svc_reader_self = reader;
	return reader;
}

void **
svc_reader_scratch(struct svc_reader *reader, size_t n)
{
	void **more;

	if (n > reader->scratch_cap) {
		n += n / 2 + 16;
		if (n > SIZE_MAX / sizeof(*more))
			return NULL;
		more = svc_mem_realloc(reader->scratch, n * sizeof(*more));
		if (more == NULL)
			return NULL;
		reader->scratch = more;
		reader->scratch_cap = n;
	}
	return reader->scratch;
}

/* The era of the longest running read, and of the longest brief one;
 * UINT64_MAX when nobody reads. */
static uint64_t
oldest_reader(uint64_t *ret_brief)
{
	uint64_t oldest = UINT64_MAX, at;

	*ret_brief = UINT64_MAX;
	svc_thread_fence_others();
	pthread_mutex_lock(&readers_lock);
	for (struct svc_reader *r = readers; r != NULL; r = r->next) {
		at = atomic_load(&r->era);
		if (at == 0)
			continue;
		if ((at & SVC_READER_BRIEF) != 0 && at >> 1 < *ret_brief)
			*ret_brief = at >> 1;
		if (at >> 1 < oldest)
			oldest = at >> 1;
	}
	pthread_mutex_unlock(&readers_lock);
	return oldest;
}

void
svc_retirement_init(struct svc_retirement *retirement)
{
	pthread_mutex_init(&retirement->lock, NULL);
	retirement->first = NULL;
	atomic_init(&retirement->waiting, false);
}

static void
free_all(struct svc_retired *object)
{
	struct svc_retired *next;

	for (; object != NULL; object = next) {
		next = object->next;
		object->free(object);
	}
}

void
svc_retirement_fini(struct svc_retirement *retirement)
{
	struct svc_retired *first;

	/* What is freed may retire more. */
	while ((first = retirement->first) != NULL) {
		retirement->first = NULL;
		free_all(first);
	}
	pthread_mutex_destroy(&retirement->lock);
}

/* True when a brief read is in the way of the rest. */
static bool
collect(struct svc_retirement *retirement)
{
	struct svc_retired *unread = NULL, **at, *object;
	uint64_t oldest, brief;
	bool again = false;

	pthread_mutex_lock(&retirement->lock);
	oldest = oldest_reader(&brief);
	for (at = &retirement->first; (object = *at) != NULL;) {
		if (object->era <= oldest) {
			*at = object->next;
			object->next = unread;
			unread = object;
		} else {
			again = again || object->era > brief;
			at = &object->next;
		}
	}
	atomic_store(&retirement->waiting, retirement->first != NULL);
	pthread_mutex_unlock(&retirement->lock);
	free_all(unread);
	return again;
}

void
svc_retirement_collect(struct svc_retirement *retirement)
{
	while (collect(retirement))
		sched_yield();
}

void
svc_retire(struct svc_retirement *retirement, struct svc_retired *object)
{
	object->era = atomic_fetch_add(&svc_reader_era, 1) + 1;
	pthread_mutex_lock(&retirement->lock);
	object->next = retirement->first;
	retirement->first = object;
	atomic_store(&retirement->waiting, true);
	pthread_mutex_unlock(&retirement->lock);

	/* Whoever reads now collects when it leaves, if by then it sees
	 * `waiting`. Its end may still be on the way to us, hence the few
	 * more looks. */
	for (int i = 0; i < 8; i++) {
		svc_retirement_collect(retirement);
		if (!atomic_load(&retirement->waiting))
			break;
		sched_yield();
	}
}
