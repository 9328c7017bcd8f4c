/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steps of handshakes. Their arithmetic would hold up the other connections of
 * a loop, a signature for a millisecond and a flood of them for as long as it
 * lasts. So a step is put into the shaker's queue, which a few threads work
 * off beside the loops. Half the cores are left for calls, however many peers
 * ask for a handshake at once.
 *
 * shaker->mutex guards the queue and `workers`; it is taken under no other
 * lock and none is taken under it.
 */
#include "tls.h"

#include <svc/clock.h>
#include <svc/executor.h>

#define MAX_WORKERS 8

struct tls_shaker {
	struct svc_executor *executor;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct svc_task *first, **last;
	int workers, most;
};

struct tls_shaker *
tls_shaker_create(struct svc_executor *executor)
{
	struct tls_shaker *shaker = svc_mem_calloc(1, sizeof(*shaker));
	if (shaker == NULL)
		return NULL;
	int n = svc_thread_processors() / 2;
	shaker->executor = executor;
	shaker->last = &shaker->first;
	shaker->most = n < 1 ? 1 : n > MAX_WORKERS ? MAX_WORKERS : n;
	pthread_mutex_init(&shaker->mutex, NULL);
	svc_cond_init(&shaker->changed);
	return shaker;
}

void
tls_shaker_destroy(struct tls_shaker *shaker)
{
	if (shaker == NULL)
		return;
	/* The last worker may be on its way out still. */
	pthread_mutex_lock(&shaker->mutex);
	while (shaker->workers > 0)
		pthread_cond_wait(&shaker->changed, &shaker->mutex);
	pthread_mutex_unlock(&shaker->mutex);
	pthread_cond_destroy(&shaker->changed);
	pthread_mutex_destroy(&shaker->mutex);
	svc_mem_free(shaker);
}

static struct svc_task *
next(struct tls_shaker *shaker)
{
	pthread_mutex_lock(&shaker->mutex);
	struct svc_task *step = shaker->first;
	if (step != NULL) {
		shaker->first = step->next;
		if (shaker->first == NULL)
			shaker->last = &shaker->first;
	} else {
		shaker->workers--;
		pthread_cond_broadcast(&shaker->changed);
	}
	pthread_mutex_unlock(&shaker->mutex);
	return step;
}

static void
work(void *arg)
{
	struct tls_shaker *shaker = arg;
	struct svc_task *step;
	while ((step = next(shaker)) != NULL)
		step->run(step);
}

void
tls_shaker_run(struct tls_shaker *shaker, struct svc_task *step)
{
	pthread_mutex_lock(&shaker->mutex);
	step->next = NULL;
	*shaker->last = step;
	shaker->last = &step->next;
	bool start = shaker->workers < shaker->most;
	if (start)
		shaker->workers++;
	pthread_mutex_unlock(&shaker->mutex);
	/* Without a thread to spare it is done here. */
	if (start && svc_executor_run(shaker->executor, work, shaker) != SVC_OK)
		work(shaker);
}
