/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_TEST_SUPPORT_FAKE_HTTP_H
#define SVC_TEST_SUPPORT_FAKE_HTTP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

enum { FAKE_HTTP_OPEN_MAX = 16, FAKE_HTTP_TEXT_MAX = 8192 };

/** Gets what has come of an open request and was not taken yet, with a NUL
 * behind it; gives back how many bytes of it are taken. */
typedef size_t (*fake_http_more)(int fd, const char *text, void *arg);

/* A connection that stays open. */
struct fake_http_open {
	int fd;
	fake_http_more more; /* NULL: what comes is left unread */
	size_t len;
	char text[FAKE_HTTP_TEXT_MAX];
};

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
	struct fake_http_open open[FAKE_HTTP_OPEN_MAX];
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
/** Leaves it open until the peer closes it or the server stops, and calls
 * `more` with the body that `request` begins with, when there is some already,
 * and whenever more of it has come. */
void fake_http_follow(
    struct fake_http *fake, int fd, const char *request, fake_http_more more);

#endif
