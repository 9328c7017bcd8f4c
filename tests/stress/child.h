/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_STRESS_CHILD_H
#define SVC_STRESS_CHILD_H

/* Services and clients that are processes of their own: they can be frozen or
 * run out of descriptors, and nobody else is. They are made before the first
 * thread, since threads do not follow a fork. */

#include <svc/svc.h>

#include <sys/types.h>

/** How a service and its clients speak. */
struct child_way {
	const char *name;
	const char *transport, *address;
	bool tls; /* with the certificates of certificates.h */
};
extern const struct child_way child_ways[];
#define CHILD_WAYS 5

struct child {
	pid_t pid;
	char said[96]; /* where a service listens; "" of one that cannot be */
};

/** Runs `run` in a process that ends with this one, and waits until that has
 * called child_say. False when it ended before. */
bool child_start(struct child *child, int (*run)(int tell, const void *arg),
    const void *arg);
/** `tell` is closed then. */
void child_say(int tell, const char *text);
/** A service that speaks so, or one to call with; not initialised yet. */
struct svc_service *child_make(
    const struct child_way *way, const char *name, bool serves);
/** In a child: initialises and starts the service, says where it listens and
 * runs until it is told to end. Its exit status. */
int child_serve(struct svc_service *service, int argc, char *argv[], int tell);
/** Puts a child where `caller`, which is initialised, looks for `service`. */
svc_err child_announce(const struct child *child, const struct child_way *way,
    struct svc_service *caller, const char *service, const char *id);
/** SIGSTOP, and waits until it stands still. */
void child_freeze(const struct child *child);
/** SIGTERM; false when it does not end with status 0. */
bool child_end(const struct child *child);

#endif
