/* SPDX-License-Identifier: Apache-2.0 */
/* One allocation that fails, in turn each of all. */
#include <support/scarce.h>

#include <svc/base.h>

#include <limits.h>
#include <stdatomic.h>

static atomic_long left = LONG_MAX;
static atomic_bool hit;
static _Thread_local int exempt;

static bool
fail_one(size_t size, void *arg)
{
	(void)size;
	(void)arg;
	if (exempt > 0)
		return true;
	if (atomic_fetch_sub(&left, 1) != 0)
		return true;
	atomic_store(&hit, true);
	return false;
}

void
scarce_begin(void)
{
	svc_mem_set_hook(fail_one, NULL);
}

void
scarce_end(void)
{
	svc_mem_set_hook(NULL, NULL);
	scarce_at(-1);
}

void
scarce_at(long n)
{
	if (n >= 0)
		atomic_store(&hit, false);
	atomic_store(&left, n >= 0 ? n : LONG_MAX);
}

bool
scarce_hit(void)
{
	return atomic_load(&hit);
}

void
scarce_exempt(bool on)
{
	exempt += on ? 1 : -1;
}
