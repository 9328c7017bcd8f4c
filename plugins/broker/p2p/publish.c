/* SPDX-License-Identifier: Apache-2.0 */
/* The publishing side: who has to get an event, and trying until they have.
 * A publish is worked on in rounds. In each the peers are listed again, so that
 * those that have gone no longer count, and every target that has not
 * acknowledged yet is tried, several at a time. */
#include "p2p.h"

#include <svc/log.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 16
#define FIRST_PAUSE_MS 50
#define LONGEST_PAUSE_MS 1000
#define MIN_ATTEMPT_MS 50
/* A listed peer that says so often in a row that it is not there counts as
 * gone: the list is a cache and may be behind. */
#define MAX_NOT_FOUND 2

struct peer {
	char *node_id;
	char *queue;
};

struct peers {
	struct peer *list;
	size_t n, cap;
	bool failed;
};

/* One subscriber without a queue, or one queue. */
struct target {
	const char *node_id; /* NULL for a queue */
	const char *queue;
	const struct peer *candidates; /* of this round: one node, or the
					* queue's */
	size_t n_candidates;
	size_t turn;
	int n_not_found;
	bool done;
	svc_err rc;
	struct svc_error err;
	char *failed_node; /* points into the peers of this round */
};

struct round {
	struct p2p *p2p;
	const char *topic;
	const struct svc_message *message;
	int64_t deadline_at_ms;
	struct target *targets;
	size_t n_targets;
	atomic_size_t next;
};

static void
peers_fini(struct peers *peers)
{
	for (size_t i = 0; i < peers->n; i++) {
		svc_mem_free(peers->list[i].node_id);
		svc_mem_free(peers->list[i].queue);
	}
	svc_mem_free(peers->list);
	*peers = (struct peers){0};
}

static void
add_peer(const struct svc_broker_peer *peer, void *arg)
{
	struct peers *peers = arg;
	if (peers->n == peers->cap) {
		size_t cap = peers->cap > 0 ? peers->cap * 2 : 8;
		struct peer *list =
		    svc_mem_realloc(peers->list, cap * sizeof(*list));
		if (list == NULL) {
			peers->failed = true;
			return;
		}
		peers->list = list;
		peers->cap = cap;
	}
	struct peer *added = &peers->list[peers->n];
	added->node_id = svc_mem_strdup(peer->node_id);
	added->queue = svc_mem_strdup(peer->queue != NULL ? peer->queue : "");
	if (added->node_id == NULL || added->queue == NULL) {
		svc_mem_free(added->node_id);
		svc_mem_free(added->queue);
		peers->failed = true;
		return;
	}
	peers->n++;
}

static int
compare_peers(const void *a, const void *b)
{
	const struct peer *left = a, *right = b;
	int order = strcmp(left->queue, right->queue);
	return order != 0 ? order : strcmp(left->node_id, right->node_id);
}

/* By queue and node, each pair once. */
static svc_err
list_peers(struct p2p *p2p, const char *topic, struct peers *peers,
    struct svc_error *err)
{
	*peers = (struct peers){0};
	svc_err rc =
	    p2p->host->peers(p2p->host->self, topic, add_peer, peers, err);
	if (rc == SVC_OK && peers->failed)
		rc = svc_error_set(err, SVC_E_NOMEM, "out of memory");
	if (rc != SVC_OK) {
		peers_fini(peers);
		return rc;
	}
	if (peers->n > 1)
		qsort(peers->list, peers->n, sizeof(peers->list[0]),
		    compare_peers);
	size_t kept = 0;
	for (size_t i = 0; i < peers->n; i++) {
		if (kept > 0 && compare_peers(&peers->list[i],
				    &peers->list[kept - 1]) == 0) {
			svc_mem_free(peers->list[i].node_id);
			svc_mem_free(peers->list[i].queue);
			continue;
		}
		peers->list[kept++] = peers->list[i];
	}
	peers->n = kept;
	return SVC_OK;
}

/* The targets of a publish; their texts point into `peers`. */
static svc_err
make_targets(struct p2p *p2p, const char *topic, const struct peers *peers,
    struct target **ret_targets, size_t *ret_n)
{
	struct target *targets = svc_mem_calloc(peers->n + 1, sizeof(*targets));
	if (targets == NULL)
		return SVC_E_NOMEM;
	size_t n = 0;
	for (size_t i = 0; i < peers->n; i++) {
		const struct peer *peer = &peers->list[i];
		bool queue = peer->queue[0] != '\0';
		if (queue && i > 0 &&
		    strcmp(peer->queue, peers->list[i - 1].queue) == 0)
			continue;
		targets[n].node_id = queue ? NULL : peer->node_id;
		targets[n].queue = peer->queue;
		if (queue)
			targets[n].turn = p2p_turn(p2p, topic, peer->queue);
		n++;
	}
	*ret_targets = targets;
	*ret_n = n;
	return SVC_OK;
}

/* Who may take it in this round; a target without anybody no longer counts. */
static void
find_candidates(struct target *target, const struct peers *peers)
{
	target->n_candidates = 0;
	for (size_t i = 0; i < peers->n; i++) {
		const struct peer *peer = &peers->list[i];
		if (strcmp(peer->queue, target->queue) != 0 ||
		    (target->node_id != NULL &&
			strcmp(peer->node_id, target->node_id) != 0))
			continue;
		if (target->n_candidates++ == 0)
			target->candidates = peer;
	}
	if (target->n_candidates == 0)
		target->done = true;
}

static svc_err
deliver_to(struct round *round, const char *node_id, const char *queue,
    struct svc_error *err)
{
	struct p2p *p2p = round->p2p;
	/* Half of what is left, so that one that hangs leaves time for another
	 * try. */
	int64_t left_ms = svc_remaining(round->deadline_at_ms);
	int64_t timeout_ms = left_ms / 2;
	if (timeout_ms < MIN_ATTEMPT_MS)
		timeout_ms =
		    left_ms < MIN_ATTEMPT_MS ? left_ms : MIN_ATTEMPT_MS;
	if (strcmp(node_id, p2p->node_id) == 0)
		return p2p_deliver_here(p2p, queue, round->topic,
		    round->message, svc_deadline(timeout_ms), err);
	return p2p->host->deliver(p2p->host->self, node_id, queue, round->topic,
	    round->message, timeout_ms, err);
}

/* One try: of the node, or of all of the queue from the one whose turn it is.
 */
static void
try_target(struct round *round, struct target *target)
{
	size_t n_not_found = 0;
	for (size_t i = 0; i < target->n_candidates; i++) {
		size_t at = (target->turn + i) % target->n_candidates;
		char *node_id = target->candidates[at].node_id;
		struct svc_error err = {0};
		svc_err rc = deliver_to(round, node_id, target->queue, &err);
		if (rc == SVC_OK) {
			target->done = true;
			return;
		}
		if (rc == SVC_E_NOT_FOUND)
			n_not_found++;
		target->rc = rc;
		target->err = err;
		target->failed_node = node_id;
		char quoted[64];
		svc_log(SVC_LOG_DEBUG, "p2p.retry",
		    "event for node %s comes again: %s",
		    svc_log_quote(
			node_id, strlen(node_id), quoted, sizeof(quoted)),
		    err.text[0] != '\0' ? err.text : svc_err_text(rc));
		if (svc_remaining(round->deadline_at_ms) == 0)
			return;
	}
	target->turn++;
	if (n_not_found < target->n_candidates)
		target->n_not_found = 0;
	else if (++target->n_not_found == MAX_NOT_FOUND)
		target->done = true;
}

static void *
run_round(void *arg)
{
	struct round *round = arg;
	for (;;) {
		size_t i = atomic_fetch_add(&round->next, 1);
		if (i >= round->n_targets)
			return NULL;
		if (!round->targets[i].done)
			try_target(round, &round->targets[i]);
	}
}

/* Tries every target that is left; the calling thread takes part. Returns how
 * many are left then. */
static size_t
play_round(struct round *round)
{
	size_t left = 0;
	for (size_t i = 0; i < round->n_targets; i++)
		left += !round->targets[i].done;
	pthread_t threads[MAX_THREADS];
	size_t n = 0;
	atomic_init(&round->next, 0);
	while (n < MAX_THREADS && n + 1 < left &&
	       svc_thread_start(&threads[n], "svc-p2p", run_round, round) ==
		   SVC_OK)
		n++;
	run_round(round);
	for (size_t i = 0; i < n; i++)
		svc_thread_join(threads[i]);
	left = 0;
	for (size_t i = 0; i < round->n_targets; i++)
		left += !round->targets[i].done;
	return left;
}

/* A handler without a queue that publishes to its own topic would wait for
 * itself. */
static bool
waits_for_itself(struct p2p *p2p, const char *topic)
{
	bool found = false;
	pthread_mutex_lock(&p2p->lock);
	for (struct local *l = p2p->locals; l != NULL; l = l->next)
		found |= l->busy && l->queue[0] == '\0' &&
			 pthread_equal(l->runner, pthread_self()) &&
			 strcmp(l->topic, topic) == 0;
	pthread_mutex_unlock(&p2p->lock);
	return found;
}

static void
pause_for(int64_t ms)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t never;
	svc_cond_init(&never);
	int64_t at_ms = svc_deadline(ms);
	pthread_mutex_lock(&lock);
	while (svc_remaining(at_ms) > 0)
		(void)svc_cond_wait(&never, &lock, at_ms);
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&never);
	pthread_mutex_destroy(&lock);
}

static svc_err
report(const struct round *round, unsigned flags, struct svc_error *err)
{
	const struct target *target = round->targets;
	while (target->done)
		target++;
	svc_err rc = target->rc == SVC_E_UNAVAILABLE ? SVC_E_UNAVAILABLE
						     : SVC_E_TIMEDOUT;
	if ((flags & SVC_PUBLISH_NOWAIT) != 0)
		rc = SVC_E_AGAIN;
	char quoted[64];
	return svc_error_set(err, rc, "node %s did not take the event: %s",
	    svc_log_quote(target->failed_node, strlen(target->failed_node),
		quoted, sizeof(quoted)),
	    target->err.text[0] != '\0' ? target->err.text
					: svc_err_text(target->rc));
}

svc_err
p2p_publish(void *self, const char *topic, const struct svc_message *message,
    unsigned flags, struct svc_error *err)
{
	struct p2p *p2p = self;
	if (waits_for_itself(p2p, topic))
		return svc_error_set(err, SVC_E_PRECONDITION,
		    "a handler of topic %s cannot publish to it: with broker "
		    "p2p a publish waits for the handlers",
		    topic);
	struct round round = {
	    .p2p = p2p,
	    .topic = topic,
	    .message = message,
	    .deadline_at_ms = svc_deadline(p2p->timeout_ms),
	};
	struct peers first, now = {0};
	svc_err rc = list_peers(p2p, topic, &first, err);
	if (rc != SVC_OK)
		return rc;
	rc = make_targets(p2p, topic, &first, &round.targets, &round.n_targets);
	if (rc != SVC_OK) {
		peers_fini(&first);
		return svc_error_set(err, rc, "out of memory");
	}
	for (size_t i = 0; i < round.n_targets; i++)
		find_candidates(&round.targets[i], &first);

	int64_t pause_ms = FIRST_PAUSE_MS;
	while (play_round(&round) > 0) {
		int64_t left_ms = svc_remaining(round.deadline_at_ms);
		if (left_ms == 0 || (flags & SVC_PUBLISH_NOWAIT) != 0) {
			rc = report(&round, flags, err);
			break;
		}
		pause_for(pause_ms < left_ms ? pause_ms : left_ms);
		pause_ms = pause_ms * 2 < LONGEST_PAUSE_MS ? pause_ms * 2
							   : LONGEST_PAUSE_MS;
		struct peers again;
		/* Without a new list the old one has to do. */
		if (list_peers(p2p, topic, &again, NULL) != SVC_OK)
			continue;
		for (size_t i = 0; i < round.n_targets; i++) {
			if (!round.targets[i].done)
				find_candidates(&round.targets[i], &again);
		}
		peers_fini(&now);
		now = again;
	}
	svc_mem_free(round.targets);
	peers_fini(&first);
	peers_fini(&now);
	return rc;
}
