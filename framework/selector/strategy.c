/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/clock.h>
#include <svc/selector.h>

#include <stdatomic.h>

/* --------------------------------------------------------------- random */

static size_t
random_pick(void *state, const struct svc_target *const *candidates, size_t n,
    const struct svc_pick *pick)
{
	(void)state;
	(void)candidates;
	(void)pick;
	return (size_t)svc_random_below(n);
}

const struct svc_strategy_ops svc_strategy_random = {
    .abi = SVC_STRATEGY_ABI,
    .size = sizeof(struct svc_strategy_ops),
    .name = "random",
    .pick = random_pick,
};

/* ---------------------------------------------------------- round robin */

/*
 * Picks with different filters choose among different nodes. If they shared
 * one counter, two kinds of calls that alternate would each see every other
 * number only, and miss half of the nodes.
 */
#define TURNS 16

/*
 * Each thread goes round by itself, which makes the whole go round too, and
 * from places of their own, so that they do not walk in step. So threads share
 * no counter; those with the same place do.
 */
#define PLACES 8

struct turns {
	struct {
		_Atomic uint64_t next[TURNS];
		char room[64];
	} places[PLACES];
};

static svc_err
turns_create(const struct svc_target *const *targets, size_t n,
    const void *previous, void **ret_state)
{
	const struct turns *before = previous;
	struct turns *turns = svc_mem_alloc(sizeof(*turns));

	(void)targets;
	(void)n;
	if (turns == NULL)
		return SVC_E_NOMEM;
	/* The high bits stay free, so that counting up never wraps. */
	for (size_t i = 0; i < PLACES; i++)
		for (size_t j = 0; j < TURNS; j++)
			atomic_init(&turns->places[i].next[j],
			    before != NULL
				? atomic_load(&before->places[i].next[j])
				: svc_random() >> 16);
	*ret_state = turns;
	return SVC_OK;
}

static void
turns_destroy(void *state)
{
	svc_mem_free(state);
}

static uint32_t
mix(uint32_t hash, const char *text)
{
	if (text == NULL)
		return hash * 16777619u;
	for (; *text != '\0'; text++)
		hash = (hash ^ (unsigned char)*text) * 16777619u;
	return (hash ^ 0xffu) * 16777619u;
}

static size_t
turns_pick(void *state, const struct svc_target *const *candidates, size_t n,
    const struct svc_pick *pick)
{
	struct turns *turns = state;
	size_t which = 0;
	uint32_t hash;

	(void)candidates;
	if (pick->n_avoid > 0) {
		which = 1;
	} else if (pick->version != NULL || pick->n_labels != 0 ||
		   pick->node != NULL) {
		hash = mix(2166136261u, pick->version);
		for (size_t i = 0; i < pick->n_labels; i++) {
			hash = mix(hash, pick->labels[i].name);
			hash = mix(hash, pick->labels[i].value);
		}
		hash = mix(hash, pick->node);
		which = 2 + (hash >> 8) % (TURNS - 2);
	}
	uint64_t turn = atomic_fetch_add_explicit(
	    &turns->places[svc_thread_number() % PLACES].next[which], 1,
	    memory_order_relaxed);
	/* A division of half the width takes half the time. */
	return n <= UINT32_MAX ? (uint32_t)turn % (uint32_t)n
			       : (size_t)(turn % n);
}

const struct svc_strategy_ops svc_strategy_round_robin = {
    .abi = SVC_STRATEGY_ABI,
    .size = sizeof(struct svc_strategy_ops),
    .name = "round_robin",
    .create = turns_create,
    .destroy = turns_destroy,
    .pick = turns_pick,
};

/* ------------------------------------------------------------ interface */

static const struct svc_required required[] = {
    SVC_REQUIRED(struct svc_strategy_ops, pick),
    {NULL, 0},
};

static const void *const embedded[] = {
    &svc_strategy_random,
    &svc_strategy_round_robin,
    NULL,
};

const struct svc_interface svc_strategy_interface = {
    .name = "strategy",
    .abi = SVC_STRATEGY_ABI,
    .min_size = sizeof(struct svc_strategy_ops),
    .required = required,
    .embedded = embedded,
};
