/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_CREW_H
#define SVC_REGISTRY_CREW_H

#include "http.h"

/**
 * Tasks that wait for answers and for moments, all run by one thread: the
 * watches of a registry. A task has requests of the crew's set, which run
 * together, and asks questions one after the other on a connection that all
 * share. The thread begins with the first task.
 */
struct crew;

/** The first member of what it is a part of; zero but for `ops`. */
struct crew_task {
	const struct crew_ops *ops;
	/* The rest is private. */
	struct crew_task *prev, *next;
	bool leaving, gone;
};

/** Both in the crew's thread. */
struct crew_ops {
	/** Does what can be done now, and returns when to be called again at
	 * the latest; it may be called at any time before. */
	int64_t (*turn)(struct crew_task *task);
	/** The last call: ends the task's requests. */
	void (*end)(struct crew_task *task);
};

/** name: of the thread, a literal. Errors: SVC_E_NOMEM */
svc_err crew_create(const char *name, struct crew **ret_crew);
/** All tasks must have left. NULL is fine. */
void crew_destroy(struct crew *crew);
/** Where the tasks' own requests are made: http_create. */
struct http_set *crew_set(struct crew *crew);
/** For questions within a turn, with crew_stop: SVC_E_CANCELLED means that the
 * task is to leave, or that the question is to be asked in a later turn. */
struct http *crew_question(struct crew *crew);
const atomic_bool *crew_stop(struct crew *crew);

/** Its turn comes soon. Errors: of svc_thread_start. Threads: any */
svc_err crew_join(struct crew *crew, struct crew_task *task);
/** No call of the task runs or comes after this returns. Threads: any but the
 * crew's */
void crew_leave(struct crew *crew, struct crew_task *task);

#endif
