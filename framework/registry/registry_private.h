/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_PRIVATE_H
#define SVC_REGISTRY_PRIVATE_H

#include "diff.h"
#include "snapshot.h"

#include <svc/registry.h>

#include <pthread.h>
#include <stdatomic.h>

enum {
	TIMEOUT_DEFAULT_MS = 5000,
	GRACE_DEFAULT_MS = 15000,
	POLL_MS = 500,
	RETRY_MS = 100,
	/* So long a registry may take to answer a watch before others are
	 * asked; and so long they are asked at once after it did not. */
	FALLBACK_MS = 1000,
	AWAY_MS = 10000,
};

struct svc_registry {
	const struct svc_registry_ops *ops;
	void *self;
	int64_t grace_ms, timeout_ms;
	pthread_mutex_t lock; /* guards watches */
	struct svc_watch *watches;
	/* What to go on with when it is away; NULL when there is none. */
	struct svc_registry *fallback;
	struct snapshot *snapshot;
	atomic_int_fast64_t away_at_ms; /* 0: it answers, as far as is known */
};

/** What all watches of one service, or of all, have in common: they hear it by
 * one watch of the plugin and one difference engine. */
struct feed {
	struct svc_registry *registry;
	char *service;
	size_t n_watches; /* guarded by the registry's lock */
	void *plugin_watch;
	bool has_plugin_watch;
	struct diff diff;
	struct svc_watch *watches; /* of whoever has the turn */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct svc_watch *newcomers; /* have not been told what is there */
	bool busy;
	bool ending;
	bool answered; /* the registry has told its full state */
	bool other_synced;
	/* Threads, joined by whoever ends it. */
	bool has_poller, has_helper, has_fallback;
	pthread_t poller, helper, fallback;
};

struct svc_watch {
	struct feed *feed;
	svc_change_cb cb;
	void *cb_arg;
	bool is_new;                      /* among the newcomers */
	struct svc_watch *prev, *next;    /* of the feed */
	struct svc_watch *before, *after; /* of the registry */
};

/** The right to use the feed's engine and to call its watchers. */
void turn_take(struct feed *feed);
void turn_give(struct feed *feed);

/* ------------------------------------------------------- while it is away */

/** Makes what the config asks for. Errors: SVC_E_INVAL, SVC_E_NOMEM */
svc_err fallback_open(struct svc_registry *registry,
    const struct svc_registry_config *config, struct svc_error *err);
void fallback_close(struct svc_registry *registry);
/** Looks after a new feed until the registry has answered it.
 * Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED */
svc_err fallback_watch(struct feed *feed, struct svc_error *err);
/** Whether an op that failed so did not reach the registry. */
bool fallback_is_for(const struct svc_registry *registry, svc_err code);
/** What others know of `service`, or of all when NULL. `away` when that is
 * nothing. Errors: SVC_E_NOMEM */
svc_err fallback_ask(struct svc_registry *registry, const char *service,
    svc_record_sink sink, void *arg, svc_err away);
/** The registry has answered, or has not. */
void fallback_answered(struct svc_registry *registry);
void fallback_away(struct svc_registry *registry, const char *why);

/** Copies of an answer's records. */
struct collector {
	struct svc_record **records;
	size_t n, cap;
	bool no_memory;
	const char *service; /* others are left out; NULL takes all */
};
/** A svc_record_sink; `arg` is the collector. */
void collect(const struct svc_record *record, void *arg);
void collector_fini(struct collector *collector);

#endif
