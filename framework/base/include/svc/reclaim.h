/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_RECLAIM_H
#define SVC_RECLAIM_H

#include <svc/base.h>

#ifndef __cplusplus
#include <pthread.h>
#include <stdatomic.h>

/**
 * Memory that is read without locks and freed once nobody can read it. Internal
 * to libsvc.
 *
 * A thread that reads says so by the era in which it began; an object that was
 * made unreachable carries the era of that moment and is freed when no reader
 * is left that began before. Threads that are not inside a read keep nothing
 * alive.
 */

#define SVC_READER_SLOTS 8

/** Counters that threads keep apart have this many places. Each of the first
 * threads of the process has one to itself, the others share the rest. */
#define SVC_PLACES 16u
#define SVC_OWN_PLACES 8u

/** The private half of one thread. Only `era` is seen by others. */
struct svc_reader {
	char front[64];       /* keeps `era` in a cache line of its own */
	_Atomic uint64_t era; /* shifted left, with BRIEF; 0: not reading */
	unsigned depth;       /* reads within the outermost one */
	unsigned place;       /* below SVC_PLACES */
	bool alone;           /* no other thread has that place */
	struct svc_reader *next, **link;
	struct svc_reader_slot {
		uint64_t owner; /* a number never used twice; 0: empty */
		uint64_t version;
		void *found;
	} slots[SVC_READER_SLOTS];
	unsigned last; /* the slot that was right the last time */
	void **scratch;
	size_t scratch_cap;
	char back[64];
};

/* Of the reader's era: a brief read. */
#define SVC_READER_BRIEF UINT64_C(1)
/* The calling thread's; NULL before its first read. */
extern SVC_THREAD_LOCAL struct svc_reader *svc_reader_self;
extern _Atomic uint64_t svc_reader_era;
extern bool svc_reader_asymmetric; /* the writer's barrier is the readers' */
struct svc_reader *svc_reader_join(void);

static inline struct svc_reader *
svc_reader_begin(uint64_t kind)
{
	struct svc_reader *reader = svc_reader_self;
	if (reader == NULL) {
		reader = svc_reader_join();
		if (reader == NULL)
			return NULL;
	}
	if (atomic_load_explicit(&reader->era, memory_order_relaxed) != 0) {
		reader->depth++;
		return reader;
	}
	uint64_t now =
	    atomic_load_explicit(&svc_reader_era, memory_order_relaxed) << 1 |
	    kind;
	if (svc_reader_asymmetric) {
		atomic_store_explicit(&reader->era, now, memory_order_relaxed);
		atomic_signal_fence(memory_order_seq_cst);
	} else {
		atomic_store(&reader->era, now);
	}
	return reader;
}

/** Begin to read, perhaps within a read, which then is what counts. NULL when
 * memory ran out. Costs no barrier where the system has fences for other
 * threads. */
static inline struct svc_reader *
svc_reader_enter(void)
{
	return svc_reader_begin(0);
}

/** The same for a read that calls nothing and waits for nothing: whoever
 * retires an object waits until it is over, so nothing needs to be collected
 * afterwards. */
static inline struct svc_reader *
svc_reader_enter_briefly(void)
{
	return svc_reader_begin(SVC_READER_BRIEF);
}

static inline void
svc_reader_leave(struct svc_reader *reader)
{
	if (reader->depth > 0)
		reader->depth--;
	else
		atomic_store_explicit(&reader->era, 0, memory_order_release);
}

/** Room for `n` pointers, valid until the next call on this thread; NULL when
 * memory ran out. */
void **svc_reader_scratch(struct svc_reader *reader, size_t n);

/** First member of what is to be freed later. */
struct svc_retired {
	struct svc_retired *next;
	uint64_t era;
	void (*free)(struct svc_retired *object);
};

/** What waits to be freed. */
struct svc_retirement {
	pthread_mutex_t lock;
	struct svc_retired *first;
	atomic_bool waiting; /* first is not NULL */
};
void svc_retirement_init(struct svc_retirement *retirement);
/** Frees all at once: no reader of these objects is left. */
void svc_retirement_fini(struct svc_retirement *retirement);
/** Free `object`, which can no longer be found, as soon as possible; now, when
 * nobody reads. Under no lock. */
void svc_retire(struct svc_retirement *retirement, struct svc_retired *object);
/** Free what can be freed. */
void svc_retirement_collect(struct svc_retirement *retirement);

#endif
#endif
