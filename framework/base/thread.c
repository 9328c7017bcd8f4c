/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/clock.h>

#include <errno.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

struct start {
	void *(*run)(void *arg);
	void *arg;
	char name[16];
};

static bool can_fence;
static pthread_once_t fences_asked_for = PTHREAD_ONCE_INIT;

static void
ask_for_fences(void)
{
	can_fence = syscall(SYS_membarrier,
			MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

static void *
begin(void *arg)
{
	struct start start = *(struct start *)arg;
	svc_mem_free(arg);
	pthread_setname_np(pthread_self(), start.name);
	return start.run(start.arg);
}

svc_err
svc_thread_start(
    pthread_t *ret_thread, const char *name, void *(*run)(void *arg), void *arg)
{
	static const int faults[] = {
	    SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
	struct start *start = svc_mem_alloc(sizeof(*start));
	if (start == NULL)
		return SVC_E_NOMEM;
	start->run = run;
	start->arg = arg;
	snprintf(start->name, sizeof(start->name), "%s", name);

	/* A thread begins with the mask of the one that starts it. */
	sigset_t mask, before;
	sigfillset(&mask);
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigdelset(&mask, faults[i]);
	/* Later it would hold up a call; see the header. */
	pthread_once(&fences_asked_for, ask_for_fences);
	pthread_sigmask(SIG_SETMASK, &mask, &before);
	pthread_t thread;
	int failed = pthread_create(&thread, NULL, begin, start);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed != 0) {
		svc_mem_free(start);
		return failed == ENOMEM ? SVC_E_NOMEM : SVC_E_EXHAUSTED;
	}
	*ret_thread = thread;
	return SVC_OK;
}

int
svc_thread_processors(void)
{
	cpu_set_t set;
	int n =
	    sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
	return n > 0 ? n : 1;
}

SVC_HOT unsigned
svc_thread_number(void)
{
	static atomic_uint threads;
	static SVC_THREAD_LOCAL unsigned mine; /* plus 1; 0: not asked yet */
	if (mine == 0)
		mine = atomic_fetch_add(&threads, 1) + 1;
	return mine - 1;
}

bool
svc_thread_fence_others(void)
{
	pthread_once(&fences_asked_for, ask_for_fences);
	if (can_fence)
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	return can_fence;
}

void
svc_thread_join(pthread_t thread)
{
	pthread_join(thread, NULL);
}
