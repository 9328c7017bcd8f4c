/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STRESS_H
#define SVC_STRESS_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Objects are closed and freed while other threads use them, in rounds that
 * follow from a seed: which actions, in which order, with how much delay. A
 * round is played by the owner, the main thread, and STRESS_WORKERS others.
 * How the threads of the kernel are scheduled is not repeated by a seed; what
 * they try to do is.
 *
 * A program is a list of scenes and `return stress_main(argc, argv, scenes)`.
 * It prints its seed, and when a round fails or does not end how to repeat it.
 */

#define STRESS_WORKERS 8

/** A thread of the test with its own random numbers. */
struct stress_actor {
	int index; /* 0 .. STRESS_WORKERS - 1; STRESS_WORKERS: the owner */
	uint64_t state;
	_Atomic(const char *) at; /* what it does, for the watchdog */
};

struct stress_scene {
	const char *name;
	int rounds; /* unless told otherwise */
	/** One round on the owner's thread. */
	void (*round)(struct stress_actor *owner, const struct stress_scene *);
	const char *variant; /* of the scene: a transport, a broker */
	bool (*have)(const char *variant); /* NULL: always */
};

/** The list ends with a NULL name. Arguments: --seed N --rounds N --first N
 * SCENE... , or --list, which names them; SVC_STRESS_SEED and SVC_STRESS_ROUNDS
 * in the environment. */
int stress_main(int argc, char *argv[], const struct stress_scene *scenes);

/** Lets the workers run `work`; the owner goes on. */
void stress_go(void (*work)(struct stress_actor *worker, void *arg), void *arg);
/** Waits until all have returned from it. */
void stress_join(struct stress_actor *owner);
/** Both: the owner does nothing meanwhile. */
void stress_all(struct stress_actor *owner,
    void (*work)(struct stress_actor *worker, void *arg), void *arg);

/** Evenly in 0 .. bound - 1. */
uint64_t stress_below(struct stress_actor *actor, uint64_t bound);
bool stress_chance(struct stress_actor *actor, unsigned percent);
/** Lets other threads run, for a random while. */
void stress_dither(struct stress_actor *actor);
/** The same without random numbers, for threads that are not the test's. */
void stress_yield(unsigned times);
/** Says what the actor is about to do. `what` is static. */
void stress_at(struct stress_actor *actor, const char *what);
/** A number for names that must differ between rounds. */
uint64_t stress_unique(void);

/** Ends the program: says what was wrong and how to repeat it. */
void stress_fail(const char *format, ...)
    __attribute__((__format__(__printf__, 1, 2), __noreturn__));
#define STRESS_CHECK(condition)                                              \
	do {                                                                 \
		if (!(condition))                                            \
			stress_fail("%s:%d: not so: %s", __FILE__, __LINE__, \
			    #condition);                                     \
	} while (0)

/**
 * Something that some use while one wants to free it: whoever uses it counts
 * himself in, and the one who ends it waits for them.
 */
struct stress_slot;
struct stress_slot *stress_slot_create(void);
void stress_slot_destroy(struct stress_slot *slot);
/** The thing, now in use, or NULL when there is none or it is being ended. */
void *stress_slot_enter(struct stress_slot *slot);
void stress_slot_leave(struct stress_slot *slot);
/** Puts a thing into an empty slot; false when it is not empty. */
bool stress_slot_put(struct stress_slot *slot, void *thing);
/** Takes the thing out, once nobody uses it; NULL when there is none or
 * another takes it. */
void *stress_slot_take(struct stress_slot *slot);

#endif
