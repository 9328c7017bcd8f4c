/* SPDX-License-Identifier: Apache-2.0 */
#include "stress.h"

#include <svc/clock.h>

#include <dirent.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* A round that takes longer hangs. */
#define PATIENCE_S 60
#define PROGRESS_MS 10000 /* between two lines about it */

static struct {
	uint64_t seed;
	int64_t rounds, first, patience_s;
	const char *program;
	const struct stress_scene *scene;
	_Atomic int64_t round;
	_Atomic uint64_t unique;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct stress_actor actors[STRESS_WORKERS + 1];
	void (*work)(struct stress_actor *worker, void *arg);
	void *arg;
	uint64_t go; /* how often stress_go was called */
	int working;
	bool end;
	int64_t late_at_ms; /* when the watchdog bites */
} stress;

/* ------------------------------------------------------------------ random */

static uint64_t
mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

uint64_t
stress_below(struct stress_actor *actor, uint64_t bound)
{
	actor->state = mix(actor->state);
	return bound == 0 ? 0 : (actor->state >> 11) % bound;
}

bool
stress_chance(struct stress_actor *actor, unsigned percent)
{
	return stress_below(actor, 100) < percent;
}

void
stress_yield(unsigned times)
{
	while (times-- > 0)
		sched_yield();
}

void
stress_dither(struct stress_actor *actor)
{
	/* Mostly not at all, rarely long. */
	unsigned range = 1u << stress_below(actor, 7);
	if (stress_chance(actor, 60))
		stress_yield((unsigned)stress_below(actor, range));
}

uint64_t
stress_unique(void)
{
	return atomic_fetch_add(&stress.unique, 1) + 1;
}

/* ----------------------------------------------------------------- failing */

static void
say_how_to_repeat(void)
{
	fprintf(stderr,
	    "stress: scene %s, round %lld; again by: %s --seed %llu "
	    "--first %lld --rounds 1 %s (or more rounds)\n",
	    stress.scene->name, (long long)atomic_load(&stress.round),
	    stress.program, (unsigned long long)stress.seed,
	    (long long)atomic_load(&stress.round), stress.scene->name);
}

void
stress_fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fputs("stress: ", stderr);
	vfprintf(stderr, format, args);
	fputs("\n", stderr);
	va_end(args);
	say_how_to_repeat();
	abort();
}

void
stress_at(struct stress_actor *actor, const char *what)
{
	atomic_store_explicit(&actor->at, what, memory_order_relaxed);
}

/* ---------------------------------------------------------------- watchdog */

static void
show_thread(const char *tid)
{
	char path[64], name[32] = "?", in[32] = "?";
	snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", tid);
	FILE *file = fopen(path, "re");
	if (file != NULL) {
		if (fscanf(file, "%31[^\n]", name) != 1)
			name[0] = '\0';
		fclose(file);
	}
	snprintf(path, sizeof(path), "/proc/self/task/%.20s/wchan", tid);
	file = fopen(path, "re");
	if (file != NULL) {
		if (fscanf(file, "%31s", in) != 1)
			in[0] = '\0';
		fclose(file);
	}
	fprintf(stderr, "thread %s %s in %s\n", tid, name, in);
}

/* Their stacks, where there is a debugger. */
static void
show_stacks(void)
{
	char self[16];
	snprintf(self, sizeof(self), "%d", (int)getpid());
	char program[] = "gdb", batch[] = "-batch", bare[] = "-nx", to[] = "-p";
	char then[] = "-ex", show[] = "thread apply all backtrace 20";
	char *argv[] = {program, batch, bare, to, self, then, show, NULL};
	pid_t pid;
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	if (posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ) == 0)
		waitpid(pid, NULL, 0);
}

static void
show_threads(void)
{
	for (int i = 0; i <= STRESS_WORKERS; i++) {
		const char *at = atomic_load(&stress.actors[i].at);
		fprintf(stderr, "%s %d: %s\n",
		    i == STRESS_WORKERS ? "owner" : "worker", i,
		    at != NULL ? at : "-");
	}
	DIR *dir = opendir("/proc/self/task");
	if (dir == NULL)
		return;
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
		if (entry->d_name[0] != '.')
			show_thread(entry->d_name);
	closedir(dir);
}

static void *
watchdog(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&stress.lock);
	while (!stress.end) {
		int64_t late_at_ms = stress.late_at_ms;
		svc_err code =
		    svc_cond_wait(&stress.changed, &stress.lock, late_at_ms);
		if (code != SVC_E_TIMEDOUT || stress.end ||
		    stress.late_at_ms != late_at_ms)
			continue;
		pthread_mutex_unlock(&stress.lock);
		show_threads();
		show_stacks();
		stress_fail("the round has not ended after %lld s",
		    (long long)stress.patience_s);
	}
	pthread_mutex_unlock(&stress.lock);
	return NULL;
}

/* ------------------------------------------------------------------ actors */

static void *
worker(void *arg)
{
	struct stress_actor *actor = arg;
	char name[16];
	snprintf(name, sizeof(name), "worker %d", actor->index);
	prctl(PR_SET_NAME, name);
	uint64_t seen = 0;
	pthread_mutex_lock(&stress.lock);
	for (;;) {
		while (stress.go == seen && !stress.end)
			pthread_cond_wait(&stress.changed, &stress.lock);
		if (stress.go == seen)
			break;
		seen = stress.go;
		pthread_mutex_unlock(&stress.lock);
		stress.work(actor, stress.arg);
		stress_at(actor, "idle");
		pthread_mutex_lock(&stress.lock);
		if (--stress.working == 0)
			pthread_cond_broadcast(&stress.changed);
	}
	pthread_mutex_unlock(&stress.lock);
	return NULL;
}

void
stress_go(void (*work)(struct stress_actor *worker, void *arg), void *arg)
{
	pthread_mutex_lock(&stress.lock);
	stress.work = work;
	stress.arg = arg;
	stress.working = STRESS_WORKERS;
	stress.go++;
	pthread_cond_broadcast(&stress.changed);
	pthread_mutex_unlock(&stress.lock);
}

void
stress_join(struct stress_actor *owner)
{
	stress_at(owner, "waits for the workers");
	pthread_mutex_lock(&stress.lock);
	while (stress.working > 0)
		pthread_cond_wait(&stress.changed, &stress.lock);
	pthread_mutex_unlock(&stress.lock);
	stress_at(owner, "after the workers");
}

void
stress_all(struct stress_actor *owner,
    void (*work)(struct stress_actor *worker, void *arg), void *arg)
{
	stress_go(work, arg);
	stress_join(owner);
}

/* ------------------------------------------------------------------- slots */

struct stress_slot {
	pthread_mutex_t lock;
	pthread_cond_t left;
	void *thing;
	int users;
	bool ending;
};

struct stress_slot *
stress_slot_create(void)
{
	struct stress_slot *slot = svc_mem_calloc(1, sizeof(*slot));
	STRESS_CHECK(slot != NULL);
	pthread_mutex_init(&slot->lock, NULL);
	pthread_cond_init(&slot->left, NULL);
	return slot;
}

void
stress_slot_destroy(struct stress_slot *slot)
{
	STRESS_CHECK(slot->thing == NULL && slot->users == 0);
	pthread_cond_destroy(&slot->left);
	pthread_mutex_destroy(&slot->lock);
	svc_mem_free(slot);
}

void *
stress_slot_enter(struct stress_slot *slot)
{
	pthread_mutex_lock(&slot->lock);
	void *thing = slot->ending ? NULL : slot->thing;
	if (thing != NULL)
		slot->users++;
	pthread_mutex_unlock(&slot->lock);
	return thing;
}

void
stress_slot_leave(struct stress_slot *slot)
{
	pthread_mutex_lock(&slot->lock);
	if (--slot->users == 0)
		pthread_cond_broadcast(&slot->left);
	pthread_mutex_unlock(&slot->lock);
}

bool
stress_slot_put(struct stress_slot *slot, void *thing)
{
	pthread_mutex_lock(&slot->lock);
	bool empty = slot->thing == NULL;
	if (empty)
		slot->thing = thing;
	pthread_mutex_unlock(&slot->lock);
	return empty;
}

void *
stress_slot_take(struct stress_slot *slot)
{
	pthread_mutex_lock(&slot->lock);
	void *thing = slot->ending ? NULL : slot->thing;
	if (thing != NULL) {
		slot->ending = true;
		while (slot->users > 0)
			pthread_cond_wait(&slot->left, &slot->lock);
		slot->thing = NULL;
		slot->ending = false;
	}
	pthread_mutex_unlock(&slot->lock);
	return thing;
}

/* -------------------------------------------------------------------- main */

static void
play(const struct stress_scene *scene)
{
	if (scene->have != NULL && !scene->have(scene->variant)) {
		printf("scene %s: left out, %s is not there\n", scene->name,
		    scene->variant);
		return;
	}
	uint64_t of_scene = 0;
	for (const char *c = scene->name; *c != '\0'; c++)
		of_scene = mix(of_scene ^ (unsigned char)*c);
	stress.scene = scene;
	int64_t began_ms = svc_now_ms();
	int64_t told_at_ms = began_ms;
	int64_t rounds = stress.rounds > 0 ? stress.rounds : scene->rounds;
	for (int64_t i = 0; i < rounds; i++) {
		int64_t round = stress.first + i;
		atomic_store(&stress.round, round);
		for (int a = 0; a <= STRESS_WORKERS; a++)
			stress.actors[a].state =
			    mix(stress.seed ^ mix(of_scene ^ (uint64_t)round) ^
				mix((uint64_t)a));
		pthread_mutex_lock(&stress.lock);
		stress.late_at_ms = svc_deadline(stress.patience_s * 1000);
		pthread_cond_broadcast(&stress.changed);
		pthread_mutex_unlock(&stress.lock);
		scene->round(&stress.actors[STRESS_WORKERS], scene);
		if (svc_now_ms() - told_at_ms < PROGRESS_MS)
			continue;
		told_at_ms = svc_now_ms();
		printf("scene %s: %lld of %lld rounds after %.0f s\n",
		    scene->name, (long long)i + 1, (long long)rounds,
		    (double)(told_at_ms - began_ms) / 1000.0);
		fflush(stdout);
	}
	printf("scene %s: %lld rounds in %.1f s\n", scene->name,
	    (long long)rounds, (double)(svc_now_ms() - began_ms) / 1000.0);
	fflush(stdout);
}

static bool
number(const char *text, int64_t *ret_number)
{
	char *end;
	if (text == NULL)
		return false;
	*ret_number = (int64_t)strtoull(text, &end, 10);
	return *end == '\0' && end != text;
}

static int
usage(const struct stress_scene *scenes)
{
	fprintf(stderr,
	    "usage: %s [--seed N] [--rounds N] [--first N] [SCENE...]\n"
	    "       %s --list\n"
	    "SVC_STRESS_SEED, SVC_STRESS_ROUNDS and SVC_STRESS_PATIENCE "
	    "(seconds that one\nround may take) are read from the "
	    "environment.\n"
	    "Scenes:",
	    stress.program, stress.program);
	for (; scenes->name != NULL; scenes++)
		fprintf(stderr, " %s", scenes->name);
	fputs("\n", stderr);
	return 2;
}

static bool
wanted(const char *scene, int n, char *names[])
{
	for (int i = 0; i < n; i++)
		if (strcmp(scene, names[i]) == 0)
			return true;
	return n == 0;
}

int
stress_main(int argc, char *argv[], const struct stress_scene *scenes)
{
	stress.program = argv[0];
	if (argc == 2 && strcmp(argv[1], "--list") == 0) {
		for (; scenes->name != NULL; scenes++)
			puts(scenes->name);
		return 0;
	}
	int64_t seed = (int64_t)(svc_random() >> 32);
	const char *env = getenv("SVC_STRESS_SEED");
	if (env != NULL && !number(env, &seed))
		return usage(scenes);
	env = getenv("SVC_STRESS_ROUNDS");
	if (env != NULL && !number(env, &stress.rounds))
		return usage(scenes);
	stress.patience_s = PATIENCE_S;
	env = getenv("SVC_STRESS_PATIENCE");
	if (env != NULL && !number(env, &stress.patience_s))
		return usage(scenes);
	int at = 1;
	for (; at < argc && argv[at][0] == '-'; at += 2) {
		int64_t *target =
		    strcmp(argv[at], "--seed") == 0     ? &seed
		    : strcmp(argv[at], "--rounds") == 0 ? &stress.rounds
		    : strcmp(argv[at], "--first") == 0  ? &stress.first
							: NULL;
		if (target == NULL || at + 1 >= argc ||
		    !number(argv[at + 1], target))
			return usage(scenes);
	}
	stress.seed = (uint64_t)seed;
	printf("seed %llu\n", (unsigned long long)stress.seed);
	fflush(stdout);

	pthread_mutex_init(&stress.lock, NULL);
	svc_cond_init(&stress.changed);
	stress.late_at_ms = INT64_MAX;
	pthread_t threads[STRESS_WORKERS + 1];
	for (int i = 0; i <= STRESS_WORKERS; i++) {
		stress.actors[i].index = i;
		bool dog = i == STRESS_WORKERS;
		if (pthread_create(&threads[i], NULL, dog ? watchdog : worker,
			dog ? NULL : &stress.actors[i]) != 0)
			return 1;
	}
	for (; scenes->name != NULL; scenes++)
		if (wanted(scenes->name, argc - at, argv + at))
			play(scenes);
	pthread_mutex_lock(&stress.lock);
	stress.end = true;
	pthread_cond_broadcast(&stress.changed);
	pthread_mutex_unlock(&stress.lock);
	for (int i = 0; i <= STRESS_WORKERS; i++)
		pthread_join(threads[i], NULL);
	pthread_cond_destroy(&stress.changed);
	pthread_mutex_destroy(&stress.lock);
	return 0;
}
