/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ETCD_WATCHER_H
#define SVC_ETCD_WATCHER_H

/* Inside the watches: all of it is the thread's, but for what the lock guards.
 */

#include "watch.h"

/* An entry that gets no memory is seen by its table, which stays NULL. */
#define HASH_NONFATAL_OOM 1
#define uthash_malloc(size) svc_mem_alloc(size)
#define uthash_free(block, size) svc_mem_free(block)
#include <uthash.h>
#include <utlist.h>

/* At a time, each with a connection. Where packets get lost a question may take
 * a second, and hundreds of watches are to be back soon. */
enum { QUESTIONS = 8 };

struct watch {
	struct watch *prev, *next;
	char *service; /* NULL: all */
	svc_watch_sink sink;
	void *arg;
	bool ending, calling, left; /* see the lock */
	enum {
		LOST,    /* the full state is needed, from due_at_ms on */
		ASKED,   /* for it */
		SYNCED,  /* changes are needed */
		FOLLOWED /* the stream has been told */
	} state;
	int64_t due_at_ms;
	size_t attempt; /* since it went well */
	int64_t synced_at_ms;
	int64_t revision; /* up to which everything has been reported */
	int64_t id;       /* on the stream */
	bool created;     /* the stream has confirmed it */
	bool said_lost;
	UT_hash_handle hh; /* by id, while it is followed */
};

struct question {
	struct http *http;
	bool asked;
	struct etcd_call call;
	struct svc_buf body;
	struct watch *watch; /* whose full state; NULL: is the server alive? */
	struct kv_range range;
	size_t attempt; /* the watcher's, when it was asked */
	/* Is it alive? */
	int64_t asked_at_ms;
	int64_t revision; /* that had been reached then */
};

struct watcher {
	struct etcd *etcd;
	pthread_mutex_t lock;
	pthread_cond_t returned; /* from a call */
	pthread_t thread;
	bool running, ending;
	struct watch *arrivals;
	size_t n_leaving;
	/* The thread's: */
	struct watch *watches;
	struct http_set *set;
	struct question questions[QUESTIONS];
	size_t server;
	size_t attempt;    /* since it went well */
	int64_t due_at_ms; /* of the next one */
	int64_t wake_at_ms;
	bool said_lost;
	bool asks_alive; /* is to ask whether it is, once a question is free */
	bool doubted;    /* one question whether it is alive got lost */
	/* The stream: */
	struct http *http;
	struct etcd_call stream;
	bool open, is_stale;
	size_t scanned; /* bytes of its answer without the end of a line */
	struct watch *followed;
	size_t n_pending; /* of those, not confirmed */
	int64_t last_id;
	int64_t opened_at_ms, heard_at_ms;
	int64_t quiet_at_ms, anew_at_ms, confirm_at_ms;
};

/* ------------------------------------------------------------- watcher.c */

/** The URL of the server that is asked now. */
const char *watcher_url(const struct watcher *watcher);
/** A call of the watch's sink begins; false when it is to hear nothing any
 * more. */
bool call_begins(struct watcher *watcher, struct watch *watch);
void call_ends(struct watcher *watcher, struct watch *watch);
/** It alone asks for its full state again, in a while. */
void lose(
    struct watcher *watcher, struct watch *watch, const struct svc_error *err);
/** All ask for their full state again, at the next server. */
void server_failed(struct watcher *watcher, const struct svc_error *err);
/** History that is younger than what was seen is another one.
 * Errors: SVC_E_ABORTED */
svc_err check_history(const struct watcher *watcher, int64_t revision,
    int64_t seen, struct svc_error *err);
/** What a watch is called in the log. */
const char *what(const struct watch *watch);

/* -------------------------------------------------------------- stream.c */

/** Adds who is SYNCED to the stream, which is opened for that.
 * Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED */
svc_err stream_follow(struct watcher *watcher, struct svc_error *err);
/** Takes one that is FOLLOWED from it. */
void stream_unfollow(struct watcher *watcher, struct watch *watch);
/** Who was on it is SYNCED, and can go on on another one. */
void stream_end(struct watcher *watcher);
/** What came, and what is due, while it is open. */
void stream_look(struct watcher *watcher);

/* ------------------------------------------------------------ question.c */

struct question *question_free(struct watcher *watcher);
/** For the full state of a watch that is LOST. */
void question_ask(
    struct watcher *watcher, struct question *question, struct watch *watch);
/** Whether the server is alive. */
void question_ask_alive(struct watcher *watcher, struct question *question);
/** What became of it. */
void question_look(struct watcher *watcher, struct question *question);
/** Without an answer. */
void question_end(struct question *question);

#endif
