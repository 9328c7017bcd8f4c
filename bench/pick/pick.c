/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_pick: what it costs to choose a node, in one thread and in two that
 * choose from the same view. Each thread picks 512 nodes, then gives them back,
 * and both parts are timed by the thread's own processor time, so that other
 * work on the machine counts little. One and two threads take turns in short
 * rounds; medians are printed. "2 : 1" compares the picks of two threads to
 * those of one in the same time: 2 when they do not hinder each other at all.
 *
 * Use: bench_pick [--nodes=N] [--rounds=N] [--ms=N]
 */
#include <svc/clock.h>
#include <svc/selector.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 512
#define MAX_ROUNDS 1001

static const char service[] = "bench";

static int64_t
cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void
must(svc_err code, const struct svc_error *err)
{
	if (code == SVC_OK)
		return;
	fprintf(stderr, "bench_pick: %s\n",
	    err->text[0] != '\0' ? err->text : svc_err_text(code));
	exit(1);
}

struct worker {
	struct svc_selector *selector;
	int64_t until_ms;
	atomic_int *ready; /* threads still to come */
	int64_t pick_ns, done_ns, picks;
	pthread_t thread;
};

static void *
work(void *arg)
{
	struct worker *worker = arg;
	struct svc_target *targets[BATCH];
	struct svc_pick pick = {
	    .service = service, .deadline_at_ms = INT64_MAX};
	struct svc_error err = {0};
	atomic_fetch_sub(worker->ready, 1);
	while (atomic_load(worker->ready) > 0)
		;
	while (svc_now_ms() < worker->until_ms) {
		int64_t began = cpu_ns();
		for (int i = 0; i < BATCH; i++)
			must(svc_selector_pick(
				 worker->selector, &pick, &targets[i], &err),
			    &err);
		int64_t picked = cpu_ns();
		for (int i = 0; i < BATCH; i++)
			svc_target_done(targets[i], SVC_OUTCOME_OK);
		worker->pick_ns += picked - began;
		worker->done_ns += cpu_ns() - picked;
		worker->picks += BATCH;
	}
	return NULL;
}

struct result {
	double pick_ns, done_ns;
};

static struct result
run(struct svc_selector *selector, int threads, int ms)
{
	struct worker workers[2] = {0};
	atomic_int ready = threads;
	struct result result = {0};
	struct svc_error err = {0};
	for (int i = 0; i < threads; i++) {
		workers[i].selector = selector;
		workers[i].until_ms = svc_deadline(ms);
		workers[i].ready = &ready;
		must(svc_thread_start(
			 &workers[i].thread, "pick", work, &workers[i]),
		    &err);
	}
	for (int i = 0; i < threads; i++) {
		svc_thread_join(workers[i].thread);
		int64_t picks = workers[i].picks > 0 ? workers[i].picks : 1;
		result.pick_ns +=
		    (double)workers[i].pick_ns / (double)picks / threads;
		result.done_ns +=
		    (double)workers[i].done_ns / (double)picks / threads;
	}
	return result;
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double
median(double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), compare);
	return values[n / 2];
}

static void
announce(struct svc_registry *registry, int nodes)
{
	for (int i = 0; i < nodes; i++) {
		char id[32], address[32];
		struct svc_error err = {0};
		snprintf(id, sizeof(id), "bench-%d", i);
		snprintf(address, sizeof(address), "10.0.%d.%d:1", i / 250,
		    1 + i % 250);
		struct svc_node node = {.id = id, .address = address};
		struct svc_record record = {.name = service,
		    .version = "1",
		    .nodes = &node,
		    .n_nodes = 1};
		must(
		    svc_registry_announce(registry, &record, 3600 * 1000, &err),
		    &err);
	}
}

static void
compete(struct svc_registry *registry, const char *strategy, int nodes,
    int rounds, int ms)
{
	static double one[MAX_ROUNDS], two[MAX_ROUNDS], ratio[MAX_ROUNDS];
	static double done[MAX_ROUNDS];
	struct svc_selector_config config = {
	    .registry = registry, .strategy = strategy};
	struct svc_selector *selector;
	struct svc_error err = {0};
	must(svc_selector_create(&config, &selector, &err), &err);
	run(selector, 1, 10); /* the view is made */
	for (int i = 0; i < rounds; i++) {
		struct result alone = run(selector, 1, ms);
		struct result both = run(selector, 2, ms);
		one[i] = alone.pick_ns;
		done[i] = alone.done_ns;
		two[i] = both.pick_ns;
		ratio[i] = 2 * (alone.pick_ns + alone.done_ns) /
			   (both.pick_ns + both.done_ns);
	}
	printf("| %s | %d | %.1f | %.1f | %.1f | %.2f |\n", strategy, nodes,
	    median(one, rounds), median(done, rounds), median(two, rounds),
	    median(ratio, rounds));
	svc_selector_destroy(selector);
}

static int
number(const char *arg, const char *flag, int now, int most)
{
	size_t len = strlen(flag);
	if (strncmp(arg, flag, len) != 0)
		return now;
	char *end;
	long value = strtol(arg + len, &end, 10);
	if (*end != '\0' || value < 1 || value > most) {
		fprintf(
		    stderr, "bench_pick: %s must be from 1 to %d\n", arg, most);
		exit(2);
	}
	return (int)value;
}

int
main(int argc, char *argv[])
{
	int nodes = 1000, rounds = 15, ms = 100;
	for (int i = 1; i < argc; i++) {
		nodes = number(argv[i], "--nodes=", nodes, 60000);
		rounds = number(argv[i], "--rounds=", rounds, MAX_ROUNDS);
		ms = number(argv[i], "--ms=", ms, 60000);
	}
	printf("| strategy | nodes | pick ns | done ns | pick ns, 2 threads | "
	       "2 : 1 |\n|---|---|---|---|---|---|\n");
	const int sizes[] = {nodes, 3};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct svc_registry *registry;
		struct svc_error err = {0};
		char address[24];
		snprintf(address, sizeof(address), "bench-%zu", i);
		struct svc_registry_config config = {.address = address};
		must(svc_registry_create("memory", &config, &registry, &err),
		    &err);
		announce(registry, sizes[i]);
		compete(registry, "random", sizes[i], rounds, ms);
		compete(registry, "round_robin", sizes[i], rounds, ms);
		svc_registry_destroy(registry);
	}
	return 0;
}
