/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ends svc_run: signals and svc_stop.
 *
 * The first SIGINT or SIGTERM wakes every running service. A second one ends
 * the process at once, whatever the drain waits for; one that comes right
 * behind the first is the same wish told twice, as by timeout(1), which signals
 * the process and its group, and by wrappers that pass on what both were sent.
 * It may come when the service has already ended: so the handler stays that
 * long, and then gives what comes to the action that was there before.
 *
 * `lock` guards changes of `runners` and the actions; the handler takes no
 * lock.
 */
#include "service.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#define MAX_RUNNERS 64
#define TWICE_MS 500

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int runners;
static struct sigaction old_int, old_term; /* never ours */
/* Descriptor + 1 of each running service; 0 is an empty place. */
static atomic_int fds[MAX_RUNNERS];
/* When the first signal came; 0: none. */
static _Atomic int64_t first_at_ms;

static void
wake(int fd)
{
	int saved = errno;
	uint64_t one = 1;
	ssize_t written = write(fd, &one, sizeof(one));
	(void)written; /* full means it was woken already */
	errno = saved;
}

static void
on_signal(int number)
{
	int64_t now_ms = svc_now_ms(), first_ms = atomic_load(&first_at_ms);
	if (first_ms != 0) {
		struct sigaction plain = {.sa_handler = SIG_DFL};
		const struct sigaction *old =
		    number == SIGINT ? &old_int : &old_term;
		if (now_ms - first_ms < TWICE_MS)
			return;
		sigaction(
		    number, atomic_load(&runners) > 0 ? &plain : old, NULL);
		raise(number);
		return;
	}
	atomic_store(&first_at_ms, now_ms != 0 ? now_ms : 1);
	for (size_t i = 0; i < MAX_RUNNERS; i++) {
		int fd = atomic_load(&fds[i]);
		if (fd != 0)
			wake(fd - 1);
	}
}

static void
install(int number, struct sigaction *old)
{
	struct sigaction action = {
	    .sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct sigaction before;
	sigemptyset(&action.sa_mask);
	sigaddset(&action.sa_mask, SIGINT);
	sigaddset(&action.sa_mask, SIGTERM);
	sigaction(number, NULL, &before);
	if (before.sa_handler != on_signal)
		*old = before;
	sigaction(number, &action, NULL);
}

/* MAX_RUNNERS: there is none like it. */
static size_t
find(int fd)
{
	size_t place = 0;
	while (place < MAX_RUNNERS && atomic_load(&fds[place]) != fd)
		place++;
	return place;
}

static svc_err
may_run(struct svc_service *service)
{
	if (service->wake_fd >= 0 && find(service->wake_fd + 1) < MAX_RUNNERS)
		return svc_service_fail(
		    service, SVC_E_PRECONDITION, "svc_run runs already");
	if (find(0) == MAX_RUNNERS)
		return svc_service_fail(service, SVC_E_EXHAUSTED,
		    "more than %d services run in this process", MAX_RUNNERS);
	return SVC_OK;
}

svc_err
svc_run_begin(struct svc_service *service)
{
	/* Before there is a handler, because the thread sanitizer loses signals
	 * that come when a thread waits for the first time. */
	poll(NULL, 0, 0);
	pthread_mutex_lock(&lock);
	svc_err code = may_run(service);
	if (code != SVC_OK) {
		pthread_mutex_unlock(&lock);
		return code;
	}
	atomic_store(&fds[find(0)], service->wake_fd + 1);
	if (atomic_fetch_add(&runners, 1) == 0) {
		atomic_store(&first_at_ms, 0);
		install(SIGINT, &old_int);
		install(SIGTERM, &old_term);
	}
	pthread_mutex_unlock(&lock);
	return SVC_OK;
}

void
svc_run_wait(struct svc_service *service)
{
	/* Not read at once: SA_RESTART would go on with it, and a sanitizer
	 * that runs handlers between calls only would never run ours. */
	struct pollfd polled = {.fd = service->wake_fd, .events = POLLIN};
	while (poll(&polled, 1, -1) < 0 && errno == EINTR)
		;
	uint64_t count;
	ssize_t got = read(service->wake_fd, &count, sizeof(count));
	(void)got; /* it only empties the counter */
}

void
svc_run_end(struct svc_service *service)
{
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < MAX_RUNNERS; i++) {
		int mine = service->wake_fd + 1;
		if (atomic_compare_exchange_strong(&fds[i], &mine, 0))
			break;
	}
	int64_t first_ms = atomic_load(&first_at_ms);
	bool told = first_ms != 0 && svc_now_ms() - first_ms < TWICE_MS;
	if (atomic_fetch_sub(&runners, 1) == 1 && !told) {
		sigaction(SIGINT, &old_int, NULL);
		sigaction(SIGTERM, &old_term, NULL);
	}
	pthread_mutex_unlock(&lock);
}

void
svc_stop(struct svc_service *service)
{
	if (service != NULL)
		wake(service->wake_fd);
}
