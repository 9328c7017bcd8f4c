/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_CONSUL_ANSWER_H
#define SVC_CONSUL_ANSWER_H

#include <address/skips.h>

#include <svc/registry.h>

/* What consul's answers say. Pure functions over bytes, but for the count of
 * what they skip. */

/* ------------------------------------------------------------------- nodes */

/** Ids of nodes, sorted, each once, with a hash of what was said of them. All
 * zero is none. */
struct ids {
	struct id {
		char *text;
		uint64_t hash;
	} * list;
	size_t n;
};
void ids_fini(struct ids *ids);
/** Calls `sink` with the service and an id for each that is in `before` and not
 * in `now`. */
void ids_gone(const char *service, const struct ids *before,
    const struct ids *now, svc_record_sink sink, void *arg);

/**
 * Calls `sink` with every node of an answer of /v1/health/service/<service> of
 * which not the same was said in the answer of `before`. Instances of other
 * programs are passed over; what claims to be a node and does not decode is
 * skipped. Of two with the same id, which stand at different agents, the one
 * changed last counts.
 *
 * before   NULL: none
 * ret_ids  those that there are; may be NULL
 *
 * Errors: SVC_E_UNAVAILABLE (no such answer), SVC_E_NOMEM; `sink` may have been
 * called
 */
svc_err answer_nodes(struct skips *skips, const char *service, const void *data,
    size_t len, const struct ids *before, svc_record_sink sink, void *arg,
    struct ids *ret_ids, struct svc_error *err);

/* ------------------------------------------------------------ names, checks */

/** A name and a hash of what was said under it. */
struct mark {
	char *name;
	uint64_t hash;
};
/** Sorted by name, each once. All zero is none. */
struct marks {
	struct mark *list;
	size_t n;
};
void marks_fini(struct marks *marks);
/** Calls `differ` for every name whose hash is not the same in both, or that
 * is in one only. */
void marks_compare(const struct marks *a, const struct marks *b,
    void (*differ)(const char *name, void *arg), void *arg);

/** The services of an answer of /v1/catalog/services that have nodes of ours,
 * with a hash of their tags. Errors: SVC_E_UNAVAILABLE (no such answer),
 * SVC_E_NOMEM */
svc_err answer_services(const void *data, size_t len, struct marks *ret_marks,
    struct svc_error *err);
/** The services in an answer of /v1/health/state/<state> with checks that do
 * not pass, with a hash of these; under "" the checks of whole hosts. Errors:
 * as answer_services */
svc_err answer_checks(const void *data, size_t len, struct marks *ret_marks,
    struct svc_error *err);
/** Calls `sink` with every version of every service of ours in an answer of
 * /v1/catalog/services, without nodes. Errors: as answer_services */
svc_err answer_versions(const void *data, size_t len, svc_record_sink sink,
    void *arg, struct svc_error *err);

#endif
