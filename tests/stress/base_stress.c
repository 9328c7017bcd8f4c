/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Executors that end while their jobs start jobs, sources that are kicked,
 * written to and detached, tasks and timers; and the log, whose sink is
 * swapped.
 *
 * An executor's functions are called by the test's threads only before
 * svc_executor_destroy, and by the executor's own threads until it returns.
 */
#include "stress.h"

#include <svc/biased_lock.h>
#include <svc/clock.h>
#include <svc/executor.h>
#include <svc/log.h>

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SOURCES 6
#define ACTIONS 40

struct world {
	struct svc_executor *executor;
	_Atomic int64_t accepted, ran; /* jobs */
	struct stress_slot *sources[SOURCES];
	pthread_mutex_t lock; /* guards `attached` */
	pthread_cond_t changed;
	int attached; /* sources that are not freed yet */
};

/* -------------------------------------------------------------------- jobs */

struct job {
	struct world *world;
	int generations; /* of jobs that it begins */
	unsigned yields;
};

static void
run_job(void *arg)
{
	struct job *job = arg;
	struct world *world = job->world;
	stress_yield(job->yields);
	for (int i = 0; i < 2 && job->generations > 0; i++) {
		struct job *next = svc_mem_alloc(sizeof(*next));
		STRESS_CHECK(next != NULL);
		*next = *job;
		next->generations--;
		svc_err code = svc_executor_run(world->executor, run_job, next);
		if (code == SVC_OK) {
			atomic_fetch_add(&world->accepted, 1);
			continue;
		}
		STRESS_CHECK(code == SVC_E_CLOSED || code == SVC_E_EXHAUSTED);
		svc_mem_free(next);
	}
	svc_mem_free(job);
	atomic_fetch_add(&world->ran, 1);
}

static void
begin_job(struct stress_actor *actor, struct world *world)
{
	struct job *job = svc_mem_alloc(sizeof(*job));
	STRESS_CHECK(job != NULL);
	job->world = world;
	job->generations = (int)stress_below(actor, 5);
	job->yields = (unsigned)stress_below(actor, 20);
	stress_at(actor, "svc_executor_run");
	svc_err code = svc_executor_run(world->executor, run_job, job);
	if (code == SVC_OK) {
		atomic_fetch_add(&world->accepted, 1);
		return;
	}
	STRESS_CHECK(code == SVC_E_EXHAUSTED);
	svc_mem_free(job);
}

/* ----------------------------------------------------------------- sources */

/* One that is kicked, written to and timed. The loop refers to it until it is
 * detached, and so does each kick until it has come. */
struct source {
	struct svc_source source;
	struct svc_timer timer;
	struct svc_loop *loop;
	struct world *world;
	_Atomic int refs;
	_Atomic bool ending;
	bool detached;
	bool foreign; /* it runs foreign code, which may lose the loop */
	unsigned yields;
};

static struct source *
source_of(struct svc_source *source)
{
	return (struct source *)(void *)((char *)source -
					 offsetof(struct source, source));
}

static void
fired(struct svc_timer *timer)
{
	struct source *source =
	    (struct source *)(void *)((char *)timer -
				      offsetof(struct source, timer));
	STRESS_CHECK(!source->detached);
	STRESS_CHECK(svc_loop_current() == source->loop);
}

static void
unref(struct source *source)
{
	struct world *world = source->world;
	if (atomic_fetch_sub(&source->refs, 1) != 1)
		return;
	STRESS_CHECK(source->detached);
	close(source->source.fd);
	svc_mem_free(source);
	pthread_mutex_lock(&world->lock);
	world->attached--;
	pthread_cond_broadcast(&world->changed);
	pthread_mutex_unlock(&world->lock);
}

static void
ready(struct svc_source *of, unsigned events)
{
	struct source *source = source_of(of);
	struct svc_loop *loop = source->loop;
	STRESS_CHECK(svc_loop_current() == loop);
	if (events & SVC_IO_READ) {
		uint64_t count;
		STRESS_CHECK(!source->detached);
		ssize_t n = read(of->fd, &count, sizeof(count));
		STRESS_CHECK(n == sizeof(count) || n < 0);
	}
	if (atomic_load(&source->ending)) {
		if (!source->detached) {
			source->detached = true;
			svc_timer_stop(loop, &source->timer);
			svc_source_detach(of);
			unref(source);
		}
	} else {
		unsigned yields = source->yields;
		svc_timer_start(loop, &source->timer, svc_deadline(yields % 3));
		if (source->foreign && (events & SVC_IO_KICK) == 0) {
			svc_loop_enter(loop);
			if (yields % 4 == 0)
				svc_will_block();
			stress_yield(yields);
			/* Once the loop is lost the source is another's. */
			if (!svc_loop_leave(loop))
				return;
		}
	}
	if (events & SVC_IO_KICK)
		unref(source);
}

/* One that came before may detach it as soon as it is to end: so who kicks
 * holds it first. */
static void
kick(struct source *source, bool ends)
{
	atomic_fetch_add(&source->refs, 1);
	if (ends)
		atomic_store(&source->ending, true);
	if (!svc_source_kick(&source->source))
		unref(source);
}

static void
attach(
    struct stress_actor *actor, struct world *world, struct stress_slot *slot)
{
	struct source *source = svc_mem_calloc(1, sizeof(*source));
	STRESS_CHECK(source != NULL);
	source->source.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	STRESS_CHECK(source->source.fd >= 0);
	source->source.ready = ready;
	source->timer.fire = fired;
	source->world = world;
	atomic_init(&source->refs, 1);
	source->foreign = stress_chance(actor, 50);
	source->yields = (unsigned)stress_below(actor, 40);
	source->loop = svc_executor_loop(world->executor);
	pthread_mutex_lock(&world->lock);
	world->attached++;
	pthread_mutex_unlock(&world->lock);
	stress_at(actor, "svc_source_attach");
	STRESS_CHECK(svc_source_attach(source->loop, &source->source,
			 SVC_IO_READ, NULL) == SVC_OK);
	if (!stress_slot_put(slot, source))
		kick(source, true);
}

static void
end_source(struct stress_actor *actor, struct stress_slot *slot)
{
	struct source *source = stress_slot_take(slot);
	stress_at(actor, "ends a source");
	if (source != NULL)
		kick(source, true);
}

static void
use_source(
    struct stress_actor *actor, struct world *world, struct stress_slot *slot)
{
	struct source *source = stress_slot_enter(slot);
	if (source == NULL) {
		attach(actor, world, slot);
		return;
	}
	stress_at(actor, "uses a source");
	uint64_t one = 1;
	switch (stress_below(actor, 3)) {
	case 0:
		STRESS_CHECK(
		    write(source->source.fd, &one, sizeof(one)) == sizeof(one));
		break;
	case 1:
		svc_source_interest(&source->source, SVC_IO_READ);
		break;
	default:
		kick(source, false);
	}
	stress_slot_leave(slot);
}

/* ------------------------------------------------------------------- tasks */

struct task {
	struct svc_task task;
	struct world *world;
};

static void
run_task(struct svc_task *of)
{
	struct task *task = (struct task *)(void *)of;
	atomic_fetch_add(&task->world->ran, 1);
	svc_mem_free(task);
}

static void
post(struct stress_actor *actor, struct world *world)
{
	struct task *task = svc_mem_calloc(1, sizeof(*task));
	STRESS_CHECK(task != NULL);
	task->task.run = run_task;
	task->world = world;
	stress_at(actor, "svc_loop_post");
	atomic_fetch_add(&world->accepted, 1);
	svc_loop_post(svc_executor_loop(world->executor), &task->task);
}

/* ------------------------------------------------------------------- round */

static void
look(struct world *world)
{
	struct svc_executor_counts counts;
	svc_executor_count(world->executor, &counts);
	STRESS_CHECK(counts.idle <= counts.threads);
	STRESS_CHECK(svc_executor_off_loop(world->executor) >= 0);
}

static void
work(struct stress_actor *actor, void *arg)
{
	struct world *world = arg;
	for (int i = 0; i < ACTIONS; i++) {
		struct stress_slot *slot =
		    world->sources[stress_below(actor, SOURCES)];
		stress_dither(actor);
		uint64_t dice = stress_below(actor, 100);
		if (dice < 15)
			begin_job(actor, world);
		else if (dice < 35)
			post(actor, world);
		else if (dice < 83)
			use_source(actor, world, slot);
		else if (dice < 85)
			look(world);
		else
			end_source(actor, slot);
	}
}

static void
play(struct stress_actor *owner, const struct stress_scene *scene)
{
	(void)scene;
	struct world world = {0};
	struct svc_executor_config config = {
	    .loops = 1 + (int)stress_below(owner, 3),
	    .max_threads = stress_chance(owner, 30) ? 6 : 0,
	};
	STRESS_CHECK(
	    svc_executor_create(&config, &world.executor, NULL) == SVC_OK);
	pthread_mutex_init(&world.lock, NULL);
	pthread_cond_init(&world.changed, NULL);
	for (int i = 0; i < SOURCES; i++)
		world.sources[i] = stress_slot_create();
	stress_all(owner, work, &world);
	for (int i = 0; i < SOURCES; i++)
		end_source(owner, world.sources[i]);
	stress_at(owner, "waits for the sources");
	pthread_mutex_lock(&world.lock);
	while (world.attached > 0)
		pthread_cond_wait(&world.changed, &world.lock);
	pthread_mutex_unlock(&world.lock);
	/* Jobs still begin jobs, and tasks wait. */
	stress_at(owner, "svc_executor_destroy");
	svc_executor_destroy(world.executor);
	STRESS_CHECK(world.accepted == world.ran);
	for (int i = 0; i < SOURCES; i++)
		stress_slot_destroy(world.sources[i]);
	pthread_cond_destroy(&world.changed);
	pthread_mutex_destroy(&world.lock);
}

/* ------------------------------------------------------------- biased lock */

struct biased {
	struct svc_biased_lock lock;
	_Atomic int inside;
	int64_t count; /* plain: only the lock guards it */
	_Atomic int64_t must;
};

/* In runs that are mostly long enough for the bias. */
static void
work_biased(struct stress_actor *actor, void *arg)
{
	struct biased *biased = arg;
	for (int i = 0; i < ACTIONS; i++) {
		uint64_t times = stress_below(actor, 120);
		stress_at(actor, "svc_biased_lock_take");
		for (uint64_t n = times; n > 0; n--) {
			svc_biased_lock_take(&biased->lock);
			STRESS_CHECK(atomic_fetch_add(&biased->inside, 1) == 0);
			biased->count++;
			if (stress_chance(actor, 2)) /* others find it taken */
				stress_yield(1);
			atomic_fetch_sub(&biased->inside, 1);
			svc_biased_lock_leave(&biased->lock);
		}
		atomic_fetch_add(&biased->must, (int64_t)times);
		stress_dither(actor);
	}
}

static void
play_biased(struct stress_actor *owner, const struct stress_scene *scene)
{
	struct biased biased = {0};
	(void)scene;
	svc_biased_lock_init(&biased.lock);
	stress_all(owner, work_biased, &biased);
	STRESS_CHECK(biased.count == biased.must);
	svc_biased_lock_destroy(&biased.lock);
}

/* --------------------------------------------------------------------- log */

/* Two sinks that are swapped under those who write. */
static _Atomic int64_t lines[2];

static void
count_line(const struct svc_log_line *line, void *arg)
{
	STRESS_CHECK(strncmp(line->text, "line of ", 8) == 0 ||
		     strstr(line->text, "more") != NULL);
	atomic_fetch_add((_Atomic int64_t *)arg, 1);
}

static void
work_log(struct stress_actor *actor, void *arg)
{
	static struct svc_log_limit limit;
	(void)arg;
	for (int i = 0; i < 10 * ACTIONS; i++) {
		stress_dither(actor);
		svc_log_level level =
		    stress_chance(actor, 50) ? SVC_LOG_DEBUG : SVC_LOG_WARN;
		stress_at(actor, "svc_log");
		if (stress_chance(actor, 50))
			svc_log(level, "stress", "line of %d", actor->index);
		else
			svc_log_limited(&limit, level, "stress",
			    "line of %d more", actor->index);
		(void)svc_log_enabled(level);
	}
}

static void
play_log(struct stress_actor *owner, const struct stress_scene *scene)
{
	(void)scene;
	atomic_store(&lines[0], 0);
	svc_log_set_level(SVC_LOG_INFO);
	svc_log_set_sink(count_line, &lines[0]);
	stress_go(work_log, NULL);
	for (uint64_t n = stress_below(owner, 30); n > 0; n--) {
		stress_dither(owner);
		svc_log_set_sink(stress_chance(owner, 80) ? count_line : NULL,
		    &lines[n % 2]);
		svc_log_set_level(
		    stress_chance(owner, 50) ? SVC_LOG_INFO : SVC_LOG_DEBUG);
	}
	svc_log_set_sink(count_line, &lines[0]);
	stress_join(owner);
	svc_log(SVC_LOG_ERROR, "stress", "line of the owner");
	STRESS_CHECK(atomic_load(&lines[0]) > 0);
	svc_log_set_sink(NULL, NULL);
}

int
main(int argc, char *argv[])
{
	static const struct stress_scene scenes[] = {
	    {"executor", 60, play, NULL, NULL},
	    {"biased_lock", 60, play_biased, NULL, NULL},
	    {"log", 20, play_log, NULL, NULL},
	    {0},
	};
	return stress_main(argc, argv, scenes);
}
