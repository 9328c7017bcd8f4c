/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_EXECUTOR_TEST_H
#define SVC_EXECUTOR_TEST_H

/* What the tests of the executor share. */

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>
#include <svc/executor.h>

#include "clock_private.h"

#define UNUSED __attribute__((unused))
#define WAIT_MS 20000

/* A count that a test waits for. */
struct count {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int value;
};

static UNUSED void
count_init(struct count *count)
{
	pthread_mutex_init(&count->mutex, NULL);
	svc_cond_init(&count->changed);
	count->value = 0;
}

static UNUSED void
count_fini(struct count *count)
{
	pthread_cond_destroy(&count->changed);
	pthread_mutex_destroy(&count->mutex);
}

static UNUSED void
count_up(struct count *count)
{
	pthread_mutex_lock(&count->mutex);
	count->value++;
	pthread_cond_broadcast(&count->changed);
	pthread_mutex_unlock(&count->mutex);
}

static UNUSED void
count_await(struct count *count, int value)
{
	int64_t deadline = svc_deadline(WAIT_MS);
	pthread_mutex_lock(&count->mutex);
	while (count->value < value)
		assert_int_equal(
		    svc_cond_wait(&count->changed, &count->mutex, deadline),
		    SVC_OK);
	pthread_mutex_unlock(&count->mutex);
}

static UNUSED struct svc_executor *
create(int loops, int threads)
{
	struct svc_executor_config config = {
	    .loops = loops, .max_threads = threads};
	struct svc_executor *executor;
	assert_int_equal(svc_executor_create(&config, &executor, NULL), SVC_OK);
	return executor;
}

/* A job that waits until the test lets it go. */
struct waiting {
	struct count began, gate, ended;
};

static UNUSED void
waiting_init(struct waiting *waiting)
{
	count_init(&waiting->began);
	count_init(&waiting->gate);
	count_init(&waiting->ended);
}

static UNUSED void
waiting_fini(struct waiting *waiting)
{
	count_fini(&waiting->began);
	count_fini(&waiting->gate);
	count_fini(&waiting->ended);
}

static UNUSED void
waiting_run(void *arg)
{
	struct waiting *waiting = arg;
	count_up(&waiting->began);
	pthread_mutex_lock(&waiting->gate.mutex);
	while (waiting->gate.value == 0)
		pthread_cond_wait(&waiting->gate.changed, &waiting->gate.mutex);
	pthread_mutex_unlock(&waiting->gate.mutex);
	count_up(&waiting->ended);
}

/* A task with a number, and a count. */
struct numbered {
	struct svc_task task;
	int *expected;
	int number;
	struct count *count;
};

static UNUSED void
task_count(struct svc_task *task)
{
	struct numbered *numbered = (struct numbered *)(void *)task;
	count_up(numbered->count);
}

/* The counts change a moment after what the test can see. */
static UNUSED void
await_counts(struct svc_executor *executor, int threads, int idle)
{
	struct svc_executor_counts counts;
	int64_t deadline = svc_now_us() + (int64_t)WAIT_MS * 1000;
	do {
		svc_executor_count(executor, &counts);
		assert_true(svc_clock_is_manual() || svc_now_us() < deadline);
		sched_yield();
	} while (counts.threads != threads || counts.idle != idle);
}

#endif
