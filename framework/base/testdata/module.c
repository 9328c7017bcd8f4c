/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin module, good or bad as its definitions say. */
#include "toy.h"

#ifdef TOY_ABI
#define ABI TOY_ABI
#else
#define ABI SVC_TOY_ABI
#endif
#ifdef TOY_SIZE
#define SIZE TOY_SIZE
#else
#define SIZE sizeof(struct svc_toy_ops)
#endif

#ifdef TOY_OTHER_NAME
#define NAME TOY_OTHER_NAME
#else
#define NAME TOY_NAME
#endif

#ifdef TOY_NOTHING
extern int toy_nothing;
int toy_nothing;
#else
#ifndef TOY_NO_PLAY
static int
play(void)
{
	return 42;
}
#endif

static const struct svc_toy_ops ops = {
    .abi = ABI,
    .size = SIZE,
    .name = NAME,
#ifndef TOY_NO_PLAY
    .play = play,
#endif
};

SVC_PLUGIN(ops);
#endif
