/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/clock.h>

#include <sys/random.h>

/* xoshiro256** of Blackman and Vigna (public domain), one state a thread. */
static SVC_THREAD_LOCAL struct {
	uint64_t s[4];
	bool seeded;
} state;

/* splitmix64: spreads one number over a state that must not be all zero. */
void
svc_random_seed(uint64_t seed)
{
	for (int i = 0; i < 4; i++) {
		seed += UINT64_C(0x9e3779b97f4a7c15);
		uint64_t z = seed;
		z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
		z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
		state.s[i] = z ^ (z >> 31);
	}
	state.seeded = true;
}

/* A child must not make the ids of its parent. The thread that forked is the
 * only one it has. */
static void
forget(void)
{
	state.seeded = false;
}

static void
watch_fork(void)
{
	pthread_atfork(NULL, NULL, forget);
}

static void
seed_from_kernel(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, watch_fork);
	/* Without a generator in the kernel, at least no two threads, moments
	 * or processes are alike. */
	svc_random_seed((uint64_t)svc_now_us() ^ (uintptr_t)&state << 16);
	uint64_t seed[4];
	if (getrandom(seed, sizeof(seed), 0) == (ssize_t)sizeof(seed))
		for (int i = 0; i < 4; i++)
			state.s[i] ^= seed[i];
}

static uint64_t
rotate(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static inline uint64_t
next(void)
{
	if (!state.seeded)
		seed_from_kernel();
	uint64_t *s = state.s;
	uint64_t result = rotate(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate(s[3], 45);
	return result;
}

uint64_t
svc_random(void)
{
	return next();
}

/* What would make some results likelier is drawn again. */
static SVC_APART uint64_t
draw_evenly(uint64_t product, uint32_t bound)
{
	uint32_t uneven = -bound % bound;
	while ((uint32_t)product < uneven)
		product = (svc_random() >> 32) * bound;
	return product >> 32;
}

static SVC_APART uint64_t
below_large(uint64_t bound)
{
	uint64_t uneven = -bound % bound;
	uint64_t number;
	do
		number = svc_random();
	while (number < uneven);
	return number % bound;
}

SVC_HOT uint64_t
svc_random_below(uint64_t bound)
{
	if (bound > UINT32_MAX)
		return below_large(bound);
	/* Lemire's method: a product instead of a division. */
	uint64_t product = bound != 0 ? (next() >> 32) * bound : 0;
	return (uint32_t)product >= bound
		   ? product >> 32
		   : draw_evenly(product, (uint32_t)bound);
}

void
svc_uuid(char ret_text[37])
{
	static const char hex[] = "0123456789abcdef";
	uint64_t high = svc_random(), low = svc_random();
	high = (high & ~UINT64_C(0xf000)) | UINT64_C(0x4000);
	low = (low & (UINT64_MAX >> 2)) | UINT64_C(1) << 63;
	char *at = ret_text;
	for (int i = 0; i < 32; i++) {
		if (i == 8 || i == 12 || i == 16 || i == 20)
			*at++ = '-';
		uint64_t half = i < 16 ? high : low;
		*at++ = hex[half >> (60 - i % 16 * 4) & 15];
	}
	*at = '\0';
}
