/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/base.h>

#include <stdlib.h>
#include <string.h>

/* Set while one thread runs, so plain variables will do. */
static svc_mem_hook hook;
static void *hook_arg;

static bool
allowed(size_t size)
{
	return hook == NULL || hook(size, hook_arg);
}

/* NULL has to mean that memory ran out, so nothing is asked for as 0 bytes. */
static size_t
at_least_one(size_t size)
{
	return size > 0 ? size : 1;
}

void *
svc_mem_alloc(size_t size)
{
	return allowed(size) ? malloc(at_least_one(size)) : NULL;
}

void *
svc_mem_calloc(size_t count, size_t size)
{
	if (size > 0 && count > SIZE_MAX / size)
		return NULL;
	size *= count;
	return allowed(size) ? calloc(1, at_least_one(size)) : NULL;
}

void *
svc_mem_realloc(void *block, size_t size)
{
	return allowed(size) ? realloc(block, at_least_one(size)) : NULL;
}

void
svc_mem_free(void *block)
{
	free(block);
}

char *
svc_mem_strdup(const char *text)
{
	if (text == NULL)
		return NULL;
	size_t size = strlen(text) + 1;
	char *copy = svc_mem_alloc(size);
	if (copy != NULL)
		memcpy(copy, text, size);
	return copy;
}

void
svc_mem_set_hook(svc_mem_hook new_hook, void *arg)
{
	hook = new_hook;
	hook_arg = arg;
}

const char *
svc_version(void)
{
	return SVC_VERSION;
}
