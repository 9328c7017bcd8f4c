/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load and its times, the same for every peer. Each thread counts in a
 * tally of its own, and a call of a closed loop that follows another one in its
 * slot takes no lock, so that threads which answer at once do not wait for each
 * other. One lock guards the rest.
 *
 * The histogram is log-linear: each power of two has 64 buckets, so a latency
 * is known to 1.6 %.
 */
#include "bench.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SUB 64
#define BUCKETS (SUB * 40)

/* Where so many calls are in the air, one in TIMED of each slot is timed: to
 * read the clock for all would be a good part of a short call. */
#define MANY 16
#define TIMED 16

/* Calls that are due less than APART_NS from each other begin when another one
 * has ended, which is often then; the thread that ended the last one in the air
 * waits for the next one's time. By the clock they begin only PATIENCE_NS after
 * they were due: to wake up for each would be most of the work, and an
 * additional thread where replies come on other threads. */
#define APART_NS 20000
#define PATIENCE_NS 1000000

struct slot {
	int64_t began;  /* or when it was due */
	unsigned calls; /* that went on in it */
	bool untimed;
	bool slow;
};

/* What one thread has counted. */
struct tally {
	struct tally *next;
	int64_t calls, max_ns;
	int64_t end_ns; /* the last reply */
	uint64_t buckets[BUCKETS];
};
static _Thread_local struct tally *own; /* there is one load in a process */

struct bench_load {
	pthread_mutex_t lock;
	pthread_cond_t idle; /* no call is in the air, or a slot if starved */
	const struct bench_options *options;
	struct slot *slots;
	int *free; /* a stack: a closed loop stays on its connection */
	int n_slots, n_free;
	int64_t first_ns, start_ns, until_ns; /* warm-up, measured, over */
	int64_t issued;
	_Atomic bool started, ended;
	bool starved; /* bench_run waits until a slot is free */
	void (*start)(void *arg, int slot); /* of bench_run */
	void *arg;
	double cpu_client, cpu_server; /* when the warm-up ended */
	double extra;
	_Atomic(struct tally *) tallies;
};

static int64_t
seconds(double s)
{
	return (int64_t)(s * 1e9);
}

int64_t
bench_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct bench_load *
bench_load_create(const struct bench_options *options)
{
	struct bench_load *load = bench_alloc(sizeof(*load));
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&load->idle, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&load->lock, NULL);
	load->options = options;
	load->n_slots = options->connections * options->outstanding;
	load->slots = bench_alloc((size_t)load->n_slots * sizeof(*load->slots));
	load->free = bench_alloc((size_t)load->n_slots * sizeof(*load->free));
	for (int i = 0; i < load->n_slots; i++)
		load->free[load->n_free++] = load->n_slots - 1 - i;
	return load;
}

void
bench_load_destroy(struct bench_load *load)
{
	pthread_cond_destroy(&load->idle);
	pthread_mutex_destroy(&load->lock);
	for (struct tally *tally = load->tallies, *next; tally != NULL;
	     tally = next) {
		next = tally->next;
		free(tally);
	}
	own = NULL;
	free(load->slots);
	free(load->free);
	free(load);
}

/* ------------------------------------------------------------- histogram */

static int
bucket_of(int64_t ns)
{
	uint64_t v = ns > 0 ? (uint64_t)ns : 0;
	if (v < SUB)
		return (int)v;
	int shift = 63 - __builtin_clzll(v) - 6;
	int i = (shift + 1) * SUB + (int)(v >> shift) - SUB;
	return i < BUCKETS ? i : BUCKETS - 1;
}

/* The middle of a bucket. */
static double
bucket_ns(int i)
{
	if (i < SUB)
		return i;
	int shift = i / SUB - 1;
	return ((double)(i % SUB) + SUB + 0.5) * (double)(1ull << shift);
}

static double
percentile_us(const struct tally *tally, double part)
{
	uint64_t total = 0, below = 0;
	for (int i = 0; i < BUCKETS; i++)
		total += tally->buckets[i];
	for (int i = 0; i < BUCKETS; i++) {
		below += tally->buckets[i];
		if (below > 0 && (double)below >= part * (double)total)
			return bucket_ns(i) / 1e3;
	}
	return 0;
}

static struct tally *
own_tally(struct bench_load *load)
{
	if (own != NULL)
		return own;
	own = bench_alloc(sizeof(*own));
	own->next = atomic_load(&load->tallies);
	while (!atomic_compare_exchange_weak(&load->tallies, &own->next, own))
		;
	return own;
}

static void
tally_add(struct tally *tally, int64_t ns)
{
	tally->calls++;
	tally->buckets[bucket_of(ns)]++;
	if (ns > tally->max_ns)
		tally->max_ns = ns;
}

/* Of all threads; they have ended, or count nothing any more. */
static struct tally *
sum(const struct bench_load *load)
{
	struct tally *all = bench_alloc(sizeof(*all));
	for (const struct tally *tally = load->tallies; tally != NULL;
	     tally = tally->next) {
		all->calls += tally->calls;
		if (tally->max_ns > all->max_ns)
			all->max_ns = tally->max_ns;
		if (tally->end_ns > all->end_ns)
			all->end_ns = tally->end_ns;
		for (int i = 0; i < BUCKETS; i++)
			all->buckets[i] += tally->buckets[i];
	}
	return all;
}

/* -------------------------------------------------------------- the load */

static double
server_cpu(const struct bench_options *options)
{
	return options->pids != NULL ? bench_cpu(options->pids) : 0;
}

/* Called locked, at the first moment of the part that is measured. */
static void
start_measuring(struct bench_load *load, int64_t now)
{
	if (load->first_ns == load->start_ns)
		load->start_ns = now;
	load->cpu_client = bench_cpu(NULL);
	load->cpu_server = server_cpu(load->options);
	atomic_store(&load->started, true);
}

static void
look_at_clock(struct bench_load *load, int64_t now)
{
	if (load->first_ns == 0) {
		const struct bench_options *o = load->options;
		load->first_ns = now;
		load->start_ns = now + seconds(o->warmup);
		load->until_ns = o->calls > 0
				     ? INT64_MAX
				     : load->start_ns + seconds(o->duration);
	}
	if (!load->started && now >= load->start_ns)
		start_measuring(load, now);
}

/* When the next call of an open loop is due. */
static int64_t
due_ns(const struct bench_load *load)
{
	return load->first_ns +
	       (int64_t)((double)load->issued * 1e9 / load->options->rate);
}

/* Whether the next call belongs to this run at all. What an open loop owes it
 * still sends after the time, but not for ever. */
static bool
wanted(const struct bench_load *load, int64_t now)
{
	const struct bench_options *o = load->options;
	if (o->calls > 0)
		return load->issued < o->calls;
	if (o->rate > 0)
		return due_ns(load) < load->until_ns &&
		       now < load->until_ns + seconds(o->duration);
	return now < load->until_ns;
}

static int
begin(struct bench_load *load, int64_t now)
{
	look_at_clock(load, now);
	if (load->n_free == 0 || !wanted(load, now))
		return -1;
	int64_t began = now;
	if (load->options->rate > 0) {
		began = due_ns(load);
		if (began > now)
			return -1;
	}
	int slot = load->free[--load->n_free];
	int slow = load->options->slow;
	load->slots[slot] = (struct slot){
	    .began = began,
	    .calls = (unsigned)slot, /* their turns are spread */
	    .slow = slow > 0 && load->issued % slow == slow / 2,
	};
	load->issued++;
	return slot;
}

/* Not locked: the slot is its call's. */
static void
count_end(struct bench_load *load, int slot, int64_t now)
{
	const struct slot *one = &load->slots[slot];
	struct tally *tally = own_tally(load);
	if (one->untimed)
		tally->calls++;
	else if (load->started && one->began >= load->start_ns && !one->slow)
		tally_add(tally, now - one->began);
	tally->end_ns = now;
}

static bool
over(struct bench_load *load, int64_t now)
{
	look_at_clock(load, now);
	return load->n_free == load->n_slots && !wanted(load, now);
}

int
bench_begin(struct bench_load *load, int64_t now)
{
	pthread_mutex_lock(&load->lock);
	int slot = begin(load, now);
	pthread_mutex_unlock(&load->lock);
	return slot;
}

void
bench_end(struct bench_load *load, int slot, int64_t now)
{
	count_end(load, slot, now);
	pthread_mutex_lock(&load->lock);
	load->free[load->n_free++] = slot;
	pthread_mutex_unlock(&load->lock);
}

/* A closed loop that ends by the clock goes on in its slot. */
static bool
goes_on(const struct bench_load *load, int64_t now)
{
	const struct bench_options *o = load->options;
	return load->started && o->rate <= 0 && o->calls == 0 && o->slow == 0 &&
	       now < load->until_ns;
}

static bool
is_timed(const struct bench_load *load, unsigned call)
{
	return load->n_slots < MANY || call % TIMED == 0;
}

/* With goes_on: the next call of the slot begins. */
static void
go_on(struct bench_load *load, int slot, int64_t now)
{
	struct slot *one = &load->slots[slot];
	one->began = now;
	one->untimed = !is_timed(load, ++one->calls);
}

/* Goes on without a look at the clock, where neither the call that has ended
 * nor the next one is timed, and no thread has seen that the time is over. */
static bool
goes_on_untimed(struct bench_load *load, int slot)
{
	struct slot *one = &load->slots[slot];
	if (!one->untimed || is_timed(load, one->calls + 1) ||
	    atomic_load_explicit(&load->ended, memory_order_relaxed))
		return false;
	one->calls++;
	own_tally(load)->calls++;
	return true;
}

static bool
is_dense(const struct bench_load *load)
{
	return load->options->rate * APART_NS > 1e9;
}

/* The last call in the air has ended, and the next one is due in a moment: in
 * less time than another thread would take to begin it. -1: it is not. */
static int
begin_soon(struct bench_load *load)
{
	int slot = -1;
	bool wait = true;
	while (slot < 0 && wait) {
		pthread_mutex_lock(&load->lock);
		int64_t now = bench_now();
		slot = begin(load, now);
		bool none = load->n_free == load->n_slots;
		wait = none && wanted(load, now);
		if (none && !wait)
			pthread_cond_signal(&load->idle);
		pthread_mutex_unlock(&load->lock);
	}
	return slot;
}

/* What was due then, but the last of it, which is the caller's to begin. */
static int
begin_all(struct bench_load *load, int slot, int64_t now)
{
	int more;
	if (load->options->rate <= 0 || load->start == NULL)
		return slot;
	if (slot < 0 && is_dense(load))
		slot = begin_soon(load);
	while (slot >= 0 && (more = bench_begin(load, now)) >= 0) {
		load->start(load->arg, slot);
		slot = more;
	}
	return slot;
}

int
bench_next(struct bench_load *load, int slot, int64_t now)
{
	count_end(load, slot, now);
	if (goes_on(load, now)) {
		go_on(load, slot, now);
		return slot;
	}
	if (now >= load->until_ns)
		atomic_store_explicit(&load->ended, true, memory_order_relaxed);
	pthread_mutex_lock(&load->lock);
	load->free[load->n_free++] = slot;
	slot = begin(load, now);
	/* The slot is free again; what is due next is bench_run's to begin. */
	if (slot < 0 && (load->starved || (load->n_free == load->n_slots &&
					      !is_dense(load)))) {
		load->starved = false;
		pthread_cond_signal(&load->idle);
	}
	pthread_mutex_unlock(&load->lock);
	return slot;
}

int
bench_again(struct bench_load *load, int slot)
{
	if (goes_on_untimed(load, slot))
		return slot;
	int64_t now = bench_now();
	return begin_all(load, bench_next(load, slot, now), now);
}

bool
bench_is_slow(struct bench_load *load, int slot)
{
	/* Its own call's, so nobody else writes it. */
	return load->slots[slot].slow;
}

bool
bench_over(struct bench_load *load, int64_t now)
{
	pthread_mutex_lock(&load->lock);
	bool is_over = over(load, now);
	pthread_mutex_unlock(&load->lock);
	return is_over;
}

/* How late a call may be before it is begun by the clock. Who waits for replies
 * and for the clock in one place (there is no `start`) can begin at once when
 * none is in the air. */
static int64_t
patience_ns(const struct bench_load *load)
{
	bool none = load->n_free == load->n_slots && load->start == NULL;
	return is_dense(load) && load->issued > 0 && !none ? PATIENCE_NS : 0;
}

static int64_t
idle_ns(const struct bench_load *load, int64_t now)
{
	if (load->options->rate <= 0 || load->n_free == 0 || !wanted(load, now))
		return -1;
	int64_t due = due_ns(load) + patience_ns(load);
	return due > now ? due - now : 0;
}

int64_t
bench_idle_ns(struct bench_load *load, int64_t now)
{
	pthread_mutex_lock(&load->lock);
	int64_t ns = idle_ns(load, now);
	pthread_mutex_unlock(&load->lock);
	return ns;
}

void
bench_run(
    struct bench_load *load, void (*start)(void *arg, int slot), void *arg)
{
	load->start = start;
	load->arg = arg;
	pthread_mutex_lock(&load->lock);
	for (;;) {
		int64_t now = bench_now();
		int slot = begin(load, now - patience_ns(load));
		if (slot >= 0) {
			pthread_mutex_unlock(&load->lock);
			start(arg, slot);
			pthread_mutex_lock(&load->lock);
			continue;
		}
		if (over(load, now))
			break;
		/* Callbacks begin what is due while no slot is free. */
		int64_t ns = idle_ns(load, now);
		load->starved = ns < 0;
		int64_t at = now + (ns >= 0 ? ns : seconds(0.1));
		struct timespec until = {
		    .tv_sec = (time_t)(at / 1000000000),
		    .tv_nsec = (long)(at % 1000000000),
		};
		pthread_cond_timedwait(&load->idle, &load->lock, &until);
	}
	pthread_mutex_unlock(&load->lock);
}

int
bench_batch(const struct bench_options *options)
{
	return (int)(65536 / (16 + options->size)) + 1;
}

bool
bench_sent(struct bench_load *load, int messages)
{
	pthread_mutex_lock(&load->lock);
	int64_t now = bench_now();
	look_at_clock(load, now);
	if (load->started)
		own_tally(load)->calls += messages;
	load->issued += messages;
	bool more = wanted(load, now);
	pthread_mutex_unlock(&load->lock);
	return more;
}

void
bench_delivered(struct bench_load *load)
{
	own_tally(load)->end_ns = bench_now();
}

void
bench_note(struct bench_load *load, int64_t ns)
{
	pthread_mutex_lock(&load->lock);
	int64_t now = bench_now();
	look_at_clock(load, now);
	load->issued++;
	pthread_mutex_unlock(&load->lock);
	tally_add(own_tally(load), ns);
	own_tally(load)->end_ns = now;
}

void
bench_extra(struct bench_load *load, double extra)
{
	load->extra = extra;
}

/* --------------------------------------------------------------- results */

static const char fields[] =
    "peer,size,outstanding,connections,rate,seconds,calls,missed,rps,p50_us,"
    "p99_us,p999_us,max_us,cpu_client_s,cpu_server_s,rss_client_kib,"
    "rss_server_kib,extra,histogram_ns";

void
bench_print_header(void)
{
	puts(fields);
}

void
bench_print(const struct bench_load *load, const char *peer)
{
	const struct bench_options *o = load->options;
	struct tally *all = sum(load);
	double s = (double)(all->end_ns - load->start_ns) / 1e9;
	double owed = 0;
	if (o->rate > 0 && o->calls == 0)
		owed =
		    o->rate * (o->warmup + o->duration) - (double)load->issued;
	printf("%s,%zu,%d,%d,%.0f,%.6f,%" PRId64 ",%.0f,%.1f", peer, o->size,
	    o->outstanding, o->connections, o->rate, s, all->calls,
	    owed > 1 ? owed : 0, s > 0 ? (double)all->calls / s : 0);
	printf(",%.3f,%.3f,%.3f,%.3f", percentile_us(all, 0.5),
	    percentile_us(all, 0.99), percentile_us(all, 0.999),
	    (double)all->max_ns / 1e3);
	printf(",%.6f,%.6f,%" PRId64 ",%" PRId64 ",%g,",
	    bench_cpu(NULL) - load->cpu_client,
	    server_cpu(o) - load->cpu_server, bench_status_kib(NULL, "VmHWM"),
	    bench_status_kib(o->pids, "VmHWM"), load->extra);
	const char *space = "";
	for (int i = 0; i < BUCKETS; i++) {
		if (all->buckets[i] == 0)
			continue;
		printf("%s%.0f:%" PRIu64, space, bucket_ns(i), all->buckets[i]);
		space = " ";
	}
	putchar('\n');
	free(all);
}
