/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_SUPPORT_FAKE_HTTP_H
#define SVC_TEST_SUPPORT_FAKE_HTTP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

enum { FAKE_HTTP_OPEN_MAX = 16 };

/** A server for faults that a real one does not give on demand: it reads one
 * request from each connection, one after the other, and leaves the rest to
 * the test. */
struct fake_http {
	char address[32]; /* "127.0.0.1:PORT" */
	/* The rest is private. */
	pthread_t thread;
	int listener;
	atomic_bool ending;
	void (*answer)(int fd, const char *request, void *arg);
	void *arg;
	int open[FAKE_HTTP_OPEN_MAX];
	size_t n_open;
};

/** `answer` gets the head of a request and, as far as the head says its length,
 * the body; it closes `fd` or keeps it. It runs on the server's thread. Fails
 * the test where there is no port or thread. */
void fake_http_start(struct fake_http *fake,
    void (*answer)(int fd, const char *request, void *arg), void *arg);
/** No answer runs any longer when it returns. */
void fake_http_stop(struct fake_http *fake);

/* Of `answer`. */

/** What the peer does not take any more is dropped. */
void fake_http_send(int fd, const void *data, size_t len);
/** Leaves the connection open and silent until the server stops. */
void fake_http_keep(struct fake_http *fake, int fd);

#endif
