/* SPDX-License-Identifier: Apache-2.0 */
#include "skips.h"

void
skips_init(struct skips *skips)
{
	*skips = (struct skips){0};
	pthread_mutex_init(&skips->lock, NULL);
}

void
skips_fini(struct skips *skips)
{
	pthread_mutex_destroy(&skips->lock);
}

bool
skips_add(struct skips *skips, uint64_t hash, size_t *ret_count)
{
	pthread_mutex_lock(&skips->lock);
	bool is_new = skips->n_warned < SKIPS_WARNED_MAX;
	for (size_t i = 0; is_new && i < skips->n_warned; i++)
		is_new = skips->warned[i] != hash;
	if (is_new)
		skips->warned[skips->n_warned++] = hash;
	*ret_count = ++skips->count;
	pthread_mutex_unlock(&skips->lock);
	return is_new;
}
