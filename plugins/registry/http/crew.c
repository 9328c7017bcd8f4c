/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lock: crew.lock guards the list of tasks, `leaving` and `gone` of each, and
 * `n_leaving`. It is not held during a call of a task. Only the crew's thread
 * takes tasks out of the list and touches the set, which is libcurl's rule.
 */
#include "crew.h"

#include <svc/clock.h>

#include <pthread.h>
#include <utlist.h>

struct crew {
	const char *name;
	struct http_set *set;
	struct http *question;
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a task is gone */
	struct crew_task *tasks;
	size_t n_leaving;
	/* Somebody wants to leave, or the crew is to end: what waits stops. */
	atomic_bool stop;
	bool ending;
	bool running;
	pthread_t thread;
};

svc_err
crew_create(const char *name, struct crew **ret_crew)
{
	struct crew *crew = svc_mem_calloc(1, sizeof(*crew));
	if (crew == NULL)
		return SVC_E_NOMEM;
	crew->name = name;
	pthread_mutex_init(&crew->lock, NULL);
	svc_cond_init(&crew->changed);
	if (http_set_create(&crew->set) != SVC_OK ||
	    http_create(NULL, &crew->question) != SVC_OK) {
		crew_destroy(crew);
		return SVC_E_NOMEM;
	}
	*ret_crew = crew;
	return SVC_OK;
}

/* With the lock, after a change of what the thread looks at. */
static void
wake(struct crew *crew)
{
	atomic_store(&crew->stop, crew->ending || crew->n_leaving > 0);
	http_set_wake(crew->set);
	if (atomic_load(&crew->stop))
		http_wake(crew->question);
}

void
crew_destroy(struct crew *crew)
{
	if (crew == NULL)
		return;
	pthread_mutex_lock(&crew->lock);
	crew->ending = true;
	if (crew->running)
		wake(crew);
	pthread_mutex_unlock(&crew->lock);
	if (crew->running)
		svc_thread_join(crew->thread);
	http_destroy(crew->question);
	http_set_destroy(crew->set);
	pthread_cond_destroy(&crew->changed);
	pthread_mutex_destroy(&crew->lock);
	svc_mem_free(crew);
}

struct http_set *
crew_set(struct crew *crew)
{
	return crew->set;
}

struct http *
crew_question(struct crew *crew)
{
	return crew->question;
}

const atomic_bool *
crew_stop(struct crew *crew)
{
	return &crew->stop;
}

/* With the lock, which it gives away meanwhile. */
static void
take_leave(struct crew *crew, struct crew_task *task)
{
	DL_DELETE(crew->tasks, task);
	pthread_mutex_unlock(&crew->lock);
	task->ops->end(task);
	pthread_mutex_lock(&crew->lock);
	crew->n_leaving--;
	atomic_store(&crew->stop, crew->ending || crew->n_leaving > 0);
	task->gone = true;
	pthread_cond_broadcast(&crew->changed);
}

/* Everybody's turn; returns when the next one is due. While somebody wants to
 * leave that comes first, and no question is begun. With the lock, which it
 * gives away for each. */
static int64_t
turns(struct crew *crew)
{
	int64_t due_at_ms = INT64_MAX;
	struct crew_task *task = crew->tasks, *next;
	for (; task != NULL; task = next) {
		int64_t at_ms = 0;
		if (crew->n_leaving == 0) {
			pthread_mutex_unlock(&crew->lock);
			at_ms = task->ops->turn(task);
			pthread_mutex_lock(&crew->lock);
		}
		next = task->next;
		if (task->leaving)
			take_leave(crew, task);
		else if (at_ms < due_at_ms)
			due_at_ms = at_ms;
	}
	/* Who left after his turn, or comes before one who did not have his. */
	return crew->n_leaving > 0 ? 0 : due_at_ms;
}

static void *
run(void *arg)
{
	struct crew *crew = arg;
	pthread_mutex_lock(&crew->lock);
	while (!crew->ending) {
		int64_t due_at_ms = turns(crew);
		pthread_mutex_unlock(&crew->lock);
		int64_t wait_ms = svc_remaining(due_at_ms);
		http_set_run(crew->set,
		    wait_ms < 0 || wait_ms > INT32_MAX ? INT32_MAX : wait_ms);
		pthread_mutex_lock(&crew->lock);
	}
	pthread_mutex_unlock(&crew->lock);
	return NULL;
}

svc_err
crew_join(struct crew *crew, struct crew_task *task)
{
	svc_err rc = SVC_OK;
	pthread_mutex_lock(&crew->lock);
	if (!crew->running)
		rc = svc_thread_start(&crew->thread, crew->name, run, crew);
	if (rc == SVC_OK) {
		crew->running = true;
		task->leaving = task->gone = false;
		DL_APPEND(crew->tasks, task);
		wake(crew);
	}
	pthread_mutex_unlock(&crew->lock);
	return rc;
}

void
crew_leave(struct crew *crew, struct crew_task *task)
{
	pthread_mutex_lock(&crew->lock);
	task->leaving = true;
	crew->n_leaving++;
	wake(crew);
	while (!task->gone)
		svc_cond_wait(&crew->changed, &crew->lock, INT64_MAX);
	pthread_mutex_unlock(&crew->lock);
}
