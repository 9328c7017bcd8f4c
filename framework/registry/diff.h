/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_DIFF_H
#define SVC_REGISTRY_DIFF_H

#include <svc/registry.h>

/**
 * The difference engine of a watch: remembers what was reported, and turns
 * full states and single changes into true changes, each reported once. Not
 * thread-safe.
 */
struct diff {
	struct diff_entry *entries;
	struct diff_service *services; /* what their records share */
	const char *service;           /* borrowed; NULL for all */
	svc_change_cb cb;
	void *arg;
	uint64_t round; /* of the full state that is coming or came last */
	bool incomplete;
	bool synced;
	int64_t next_at_ms;
};

void diff_init(
    struct diff *diff, const char *service, svc_change_cb cb, void *arg);
/** Reports nothing. */
void diff_fini(struct diff *diff);

/** Tells `cb` alone what `cb` of diff_init has been told and still holds. */
void diff_repeat(const struct diff *diff, svc_change_cb cb, void *arg);

/** A full state follows; until diff_sync nothing expires. */
void diff_begin(struct diff *diff);
/** Every node of `record` is there. Errors: SVC_E_NOMEM (not reported) */
svc_err diff_node(struct diff *diff, const struct svc_record *record);
/**
 * Every node of `record` is believed to be there by somebody else than the
 * registry. What the registry has told counts more; what it does not repeat in
 * its next full state goes as after any break. Errors: SVC_E_NOMEM
 */
svc_err diff_assume(struct diff *diff, const struct svc_record *record);
/** Nobody believes that any more; what the registry has told stays. */
void diff_unassume(struct diff *diff, const struct svc_record *record);
/** What is assumed has to do: reports SYNCED if there is anything and it was
 * not reported before. */
void diff_assumed(struct diff *diff);
/** Every node of `record` is gone, now. */
void diff_gone(struct diff *diff, const struct svc_record *record);
/**
 * The full state is complete. What it did not repeat is removed at once when
 * `grace_ms` is 0, and else only after that time; what waits already keeps
 * waiting when grace_ms is 0, and begins anew else.
 */
void diff_sync(struct diff *diff, int64_t grace_ms);
/** Remove what waited long enough; everything that waits when `all`. */
void diff_expire(struct diff *diff, bool all);
/** Whether this node is there as far as the watcher knows. */
bool diff_has(const struct diff *diff, const char *service, const char *id);
/** When diff_expire has something to do; INT64_MAX for never. */
int64_t diff_next_at(const struct diff *diff);

#endif
