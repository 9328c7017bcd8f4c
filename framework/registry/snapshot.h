/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_SNAPSHOT_H
#define SVC_REGISTRY_SNAPSHOT_H

#include <svc/buf.h>
#include <svc/registry.h>

/**
 * What was known last of a registry, in memory and in a file: JSON lines, of
 * which the first says what they are and each other is a record in go-micro's
 * JSON with one node. The file is replaced as a whole, at most once a second
 * and only after a change, by a thread. Threads: any.
 */
struct snapshot;

enum {
	SNAPSHOT_MAX_BYTES = 64 << 20,
	SNAPSHOT_MAX_NODES = 100000,
	SNAPSHOT_WRITE_MS = 1000,
};

/**
 * Read what is there. A file that cannot be used is logged and ignored. It is
 * replaced later when it is a snapshot of another registry or version, or
 * empty; what is something else is left as it is, and nothing is kept.
 *
 * of  which registry it is of: what another one left is not used
 *
 * Errors: SVC_E_INVAL (no such folder, or it may not be written), SVC_E_NOMEM
 */
svc_err snapshot_open(const char *path, const char *of,
    struct snapshot **ret_snapshot, struct svc_error *err);
/** Writes what has changed since. NULL is fine. */
void snapshot_close(struct snapshot *snapshot);

/** The nodes of `record` are there. */
void snapshot_put(struct snapshot *snapshot, const struct svc_record *record);
/** The nodes of `record` are gone. */
void snapshot_remove(
    struct snapshot *snapshot, const struct svc_record *record);
/**
 * Forget the nodes that are not `known`; of `service`, or of all when NULL.
 * Services of which no node is known are left as they are: a registry that has
 * lost its data is not to be believed at once.
 */
typedef bool (*snapshot_known)(const char *service, const char *id, void *arg);
void snapshot_sweep(struct snapshot *snapshot, const char *service,
    snapshot_known known, void *arg);

/** Every node of `service`, or of all when NULL; how many there were. The sink
 * is called without a lock. Errors: SVC_E_NOMEM (some were not told) */
svc_err snapshot_read(struct snapshot *snapshot, const char *service,
    svc_record_sink sink, void *arg, size_t *ret_n);
bool snapshot_has(struct snapshot *snapshot, const char *service);
/** How many nodes it has. */
size_t snapshot_count(struct snapshot *snapshot);
/** When what was read from the file was saved; 0 when there was none. */
int64_t snapshot_saved_unix_ms(const struct snapshot *snapshot);

/** With which every file begins. */
#define SNAPSHOT_MARK "{\"svc_snapshot\":"
/**
 * Replace the file as a whole, by one with mode 0600 that is written as
 * PATH.writing first. Whoever is killed meanwhile leaves that one, and the next
 * writes it over. A lock keeps others from it, in this process or another.
 * Errors: SVC_E_AGAIN (somebody is writing it), SVC_E_UNKNOWN (the system's, or
 * PATH.writing is none of ours), SVC_E_NOMEM
 */
svc_err snapshot_replace(
    const char *path, const struct svc_buf *buf, struct svc_error *err);

/** The lines of a file. Those that do not decode are left out; returns how
 * many did. Errors: SVC_E_PRECONDITION when the first line is that of another
 * version or registry, or there is none, SVC_E_INVAL when it is no snapshot's,
 * SVC_E_NOMEM */
svc_err snapshot_parse(const char *of, const void *data, size_t len,
    svc_record_sink sink, void *arg, int64_t *ret_saved_unix_ms,
    size_t *ret_skipped, struct svc_error *err);

#endif
