/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_BASE_H
#define SVC_BASE_H

/**
 * What every other header stands on: visibility, memory, and the test for
 * optional members of an interface.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SVC_API __attribute__((visibility("default")))
#define SVC_PRINTF(text, first) \
	__attribute__((__format__(__printf__, text, first)))

/** A function for what rarely happens: the code that calls it is laid apart
 * from what runs on every call. */
#define SVC_COLD __attribute__((__cold__, __noinline__))
/** A function that is called now and then by a hot one, which need not save
 * registers for it on all other ways. */
#define SVC_APART __attribute__((__noinline__))
/** A function that each call runs through: these are laid next to each other. A
 * call that comes alone finds the caches and page tables cold, and takes the
 * longer the more of them it touches. */
#define SVC_HOT __attribute__((__hot__))

/** A variable of each thread that is used on every call: reached without the
 * function call that a shared library otherwise needs for it. All of these
 * together must stay below some hundred bytes, so that a program may still load
 * libsvc while it runs. Internal. */
#ifndef __cplusplus
#define SVC_THREAD_LOCAL \
	_Thread_local __attribute__((tls_model("initial-exec")))
#endif

/** A duration without end, where a `_ms` parameter allows one. */
#define SVC_FOREVER INT64_C(-1)

/** Whether an ops struct has an optional member: it is as long as that and the
 * member is set. Everything handed out by the plugin catalogue has its
 * required members; only optional ones need this. */
#define SVC_OPS_HAS(ops, member)                               \
	((ops)->size >= offsetof(__typeof__(*(ops)), member) + \
			    sizeof((ops)->member) &&           \
	    (ops)->member != 0)

/**
 * Memory. All of svc allocates through these, so that a test can make the Nth
 * allocation fail. They set no errno; a NULL return means out of memory.
 * Threads: any.
 */
SVC_API void *svc_mem_alloc(size_t size);
/** Zeroed memory for `count` objects of `size` bytes; NULL on overflow too. */
SVC_API void *svc_mem_calloc(size_t count, size_t size);
/** As realloc(3); on failure the old block is untouched. */
SVC_API void *svc_mem_realloc(void *block, size_t size);
/** NULL is fine. */
SVC_API void svc_mem_free(void *block);
/** A copy of `text`, to be freed with svc_mem_free; NULL for NULL. */
SVC_API char *svc_mem_strdup(const char *text);

/** Called before each allocation; returning false makes it fail. */
typedef bool (*svc_mem_hook)(size_t size, void *arg);
/** Install the hook (NULL removes it). Only while one thread is running. */
SVC_API void svc_mem_set_hook(svc_mem_hook hook, void *arg);

/** The release of the linked library, "1.2.3". */
SVC_API const char *svc_version(void);

#ifdef __cplusplus
}
#endif
#endif
