/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SELECTOR_H
#define SVC_SELECTOR_H

#include <svc/plugin.h>
#include <svc/registry.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Chooses the node of a call. It keeps, per service, an immutable snapshot of
 * the nodes that a registry watch feeds; a registry that is down makes the
 * snapshot older, not empty. Picking takes no lock that threads share.
 *
 * Promises: never returns a blacklisted node while another is left; never
 * blacklists everyone (beyond half of the nodes, it goes on choosing among
 * all); a blacklisted node is tried again after its time; a node gone from the
 * registry is not picked any more once the watch has said so.
 */

/** A node as a pick sees it. Valid while held. */
struct svc_target {
	const struct svc_record *record; /* name, version, endpoints */
	const struct svc_node *node;
};

/** Node metadata that a pick asks for. */
struct svc_label {
	const char *name;
	const char *value; /* NULL: any */
};

/** What the call asks for. Texts are borrowed for the call; NULL: any. */
struct svc_pick {
	const char *service;
	const char *version;
	const struct svc_label *labels; /* a node must have them all */
	size_t n_labels;
	const char *node; /* this node's id or address only */
	const char *key;  /* for strategies that hash */
	const struct svc_target *const *avoid; /* tried already: only if no
						* other is left */
	size_t n_avoid;
	int64_t deadline_at_ms; /* how long the first view may take */
	bool dont_wait; /* SVC_E_AGAIN in place of a wait for the view */
	/** Asked while it waits, ten times a second: true gives up. Optional.
	 */
	bool (*given_up)(const void *arg);
	const void *arg;
};

#define SVC_STRATEGY_ABI SVC_ABI(2, 2)
/**
 * A strategy chooses among candidates, already filtered; it is not asked about
 * one alone. Static const, never freed. Threads: any, concurrently; pick must
 * not lock.
 */
struct svc_strategy_ops {
	uint32_t abi;
	uint32_t size;
	const char *name;
	/** State for one service, made anew for each snapshot. `previous` is
	 * the state of the snapshot before, or NULL. Optional with destroy. */
	svc_err (*create)(const struct svc_target *const *targets, size_t n,
	    const void *previous, void **ret_state);
	void (*destroy)(void *state);
	/** The index of the chosen one. */
	size_t (*pick)(void *state, const struct svc_target *const *candidates,
	    size_t n, const struct svc_pick *pick);
};
extern SVC_API const struct svc_interface svc_strategy_interface;
extern SVC_API const struct svc_strategy_ops svc_strategy_random;
extern SVC_API const struct svc_strategy_ops svc_strategy_round_robin;

struct svc_selector_config {
	struct svc_registry *registry; /* borrowed until destroy */
	const char *strategy;          /* NULL: "random" */
	int failures;                  /* consecutive, up to 1000; 0: 3 */
	int64_t window_ms;             /* within; and out for; 0: 30,000 */
	/** Called when a target is freed whose link was set. Never under a
	 * lock. */
	void (*unlink)(void *link, void *arg);
	void *arg;
};
struct svc_selector;

/** Errors: of svc_catalogue_find, SVC_E_INVAL (failures, window_ms),
 * SVC_E_NOMEM */
SVC_API svc_err svc_selector_create(const struct svc_selector_config *config,
    struct svc_selector **ret_selector, struct svc_error *err);
/** From now on nothing waits for a view: who does and who would have to gets
 * SVC_E_CLOSED. Never blocks. Threads: any; before destroy. */
SVC_API void svc_selector_close(struct svc_selector *selector);
/** All holds have been given back. NULL is fine. */
SVC_API void svc_selector_destroy(struct svc_selector *selector);

/**
 * Choose a node and hold it. The first pick of a service starts its watch and
 * waits for a node or for the full first view, up to the deadline. When the
 * last node has gone less than 2 s ago, it waits for another until these 2 s
 * are over: a registry that stood still may forget everybody for a moment.
 * Errors: SVC_E_NOT_FOUND "service not found: NAME" (nobody provides it),
 * SVC_E_UNAVAILABLE (nodes, but none fits: the text says which filter left
 * none), SVC_E_TIMEDOUT (the registry gave no view yet), SVC_E_INVAL (name),
 * SVC_E_AGAIN (with dont_wait: it would have had to wait), SVC_E_CLOSED (the
 * same after svc_selector_close), SVC_E_CANCELLED (given up)
 * Threads: any
 */
SVC_API svc_err svc_selector_pick(struct svc_selector *selector,
    const struct svc_pick *pick, struct svc_target **ret_target,
    struct svc_error *err);

/** What whoever picks the same service of the same selector again and again
 * keeps, so that its name is looked up once. Zeroed, it knows nothing. */
struct svc_pick_memo {
	void *found;
	uint64_t version;
};

/**
 * The same if that takes no waiting and no thinking: all nodes will do, or that
 * with the id `node`, and none has failed of late. Else NULL, and nothing has
 * happened. `key` is for strategies that hash; NULL: none.
 * Threads: any; the memo is used by one at a time
 */
SVC_API struct svc_target *svc_selector_pick_at_once(
    struct svc_selector *selector, const char *service, const char *node,
    const char *key, struct svc_pick_memo *memo);

typedef enum svc_outcome {
	SVC_OUTCOME_OK,
	SVC_OUTCOME_FAILED,  /* the node failed, not the application */
	SVC_OUTCOME_NEUTRAL, /* says nothing of the node */
	SVC_OUTCOME_SILENT,  /* it is frozen or cut off: left out at once, for
			      * each call that finds that out waits long */
} svc_outcome;
/** Say how it went and give the hold back. */
SVC_API void svc_target_done(struct svc_target *target, svc_outcome outcome);
/** One more hold. */
SVC_API void svc_target_hold(struct svc_target *target);

/** What the client keeps with a target (its connection): read, and replaced
 * when it still is `expected`. A target keeps its link while the registry
 * keeps the node, through changes of metadata, but not of its address. */
SVC_API void *svc_target_link(const struct svc_target *target);
SVC_API bool svc_target_relink(
    struct svc_target *target, void *expected, void *link);

/** Call `each` for every node of the service in the present snapshot, without
 * holds. Starts the watch and waits like pick. For tools and brokers. */
SVC_API svc_err svc_selector_each(struct svc_selector *selector,
    const char *service, int64_t deadline_at_ms,
    void (*each)(const struct svc_target *target, bool blacklisted, void *arg),
    void *arg, struct svc_error *err);

#ifdef __cplusplus
}
#endif
#endif
