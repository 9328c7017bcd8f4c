/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_REGISTRY_H
#define SVC_REGISTRY_H

#include <svc/headers.h>
#include <svc/plugin.h>
#include <svc/tls.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ model */

/**
 * What a registry holds, in go-micro's shape (registry.Service and its parts),
 * so that both see each other.
 */
struct svc_value { /* a field of a request or response, recursive */
	const char *name;
	const char *type;
	const struct svc_value *values;
	size_t n_values;
};

struct svc_endpoint {
	const char *name;                /* "Student.Get" */
	const struct svc_value *request; /* NULL when not described */
	const struct svc_value *response;
	struct svc_headers *metadata; /* stream=true; idempotent=true; for a
				       * subscriber: subscriber=true, topic=T
				       * and, when it has one, queue=Q */
};

struct svc_node {
	const char *id;      /* "<service>-<uuid>" */
	const char *address; /* what the transport dials, "host:port" */
	struct svc_headers
	    *metadata; /* transport, protocol, ... and the user's */
};

/** In the metadata of a node that is about to go, with the value "true": it
 * answers still, but is left out where others remain. */
#define SVC_DRAINING "draining"

/** One service at one version, with the nodes that provide it. */
struct svc_record {
	const char *name;
	const char *version;
	struct svc_headers *metadata;
	const struct svc_endpoint *endpoints;
	size_t n_endpoints;
	const struct svc_node *nodes;
	size_t n_nodes;
};

/** A deep copy (one block and the header maps), to be freed with
 * svc_record_destroy; NULL when memory ran out. */
SVC_API struct svc_record *svc_record_copy(const struct svc_record *record);
/**
 * One more hold on a record, in place of a copy, also to be given back with
 * svc_record_destroy. Only for records from svc_record_copy and
 * svc_record_decode and those that svc_registry_watch tells of. Nobody may
 * change the record from now on. Threads: any.
 */
SVC_API struct svc_record *svc_record_hold(const struct svc_record *record);
/** Only for records from svc_record_copy, svc_record_decode and
 * svc_record_hold. NULL is fine. Threads: any, the last one frees it. */
SVC_API void svc_record_destroy(struct svc_record *record);
/** Same content, whatever the order of metadata. */
SVC_API bool svc_record_equal(
    const struct svc_record *a, const struct svc_record *b);
/**
 * Checks names, ids and addresses before they reach a registry: a service name
 * is 1 to 128 of [A-Za-z0-9._-], not "." or ".."; a version 1 to 64 and a node
 * id 1 to 192 characters of printable ASCII without '/' and space (the id not
 * "." or ".."); an address 1 to 255 of printable ASCII without space; at most
 * 1,000 nodes and 1,000 endpoints, each with a name.
 * Errors: SVC_E_INVAL with the name, what is wrong and what is allowed
 */
SVC_API svc_err svc_record_check(
    const struct svc_record *record, struct svc_error *err);
SVC_API svc_err svc_service_name_check(const char *name, struct svc_error *err);

/** go-micro's JSON of a service, as its etcd plugin stores it; to be freed
 * with svc_mem_free. NULL when memory ran out. */
SVC_API char *svc_record_encode(const struct svc_record *record);
/**
 * Reads that JSON as leniently as go-micro does (any key order and case of
 * keys, null for any map or list, unknown keys ignored, a separate integer
 * `port` of old nodes), within limits: 1 MiB, 1,000 nodes, 1,000 endpoints.
 * Values more than 4 deep and metadata that a header map cannot hold are left
 * out; what is missing is "" or NULL.
 * Errors: SVC_E_INVAL with what was wrong, SVC_E_NOMEM
 */
SVC_API svc_err svc_record_decode(const void *data, size_t len,
    struct svc_record **ret_record, struct svc_error *err);
/** The parts, for registries that store them apart (consul's tags, mdns TXT):
 * the JSON of one endpoint. */
SVC_API char *svc_endpoint_encode(const struct svc_endpoint *endpoint);
/** A record that holds only this endpoint. */
SVC_API svc_err svc_endpoint_decode(const void *data, size_t len,
    struct svc_record **ret_record, struct svc_error *err);
/** Sets in `into` the pairs of a JSON object of texts, replacing those that are
 * there, as leniently as metadata in a record is read. After an error some may
 * have been set. Errors: SVC_E_INVAL, SVC_E_NOMEM */
SVC_API svc_err svc_metadata_decode(const void *data, size_t len,
    struct svc_headers *into, struct svc_error *err);

/* ----------------------------------------------------------- the interface */

#define SVC_REGISTRY_ABI SVC_ABI(1, 1)

/** What a plugin gets at its making. Texts are borrowed for the call. */
struct svc_registry_config {
	const char *address;  /* as the user gave it, NULL for the default */
	int64_t timeout_ms;   /* the longest one op may take; 0: 5 s */
	const char *username; /* NULL when there is none */
	const char *password;
	/** How long a watch keeps a node that the full state after a break
	 * does not repeat, see svc_registry_watch; 0: 15 s. It should be no
	 * less than the TTL of the nodes. Used by the framework; plugins
	 * ignore it. */
	int64_t grace_ms;
	/** NULL: TLS only where an address says so (https://). Otherwise
	 * addresses without a scheme mean TLS, and those that say they are
	 * without it are refused. Reaches only plugins with SVC_REGISTRY_TLS.
	 */
	const struct svc_tls_config *tls;
	/** Settings of the plugin's own, all of which it has said that it
	 * knows (see `options` of its ops); NULL is none. */
	const struct svc_headers *options;
	/** What to go on with while the registry cannot be reached (errors
	 * SVC_E_UNAVAILABLE and SVC_E_TIMEDOUT); used by the framework only.
	 *
	 * snapshot  path of a file that keeps what was watched and looked up
	 *           last, for the next start
	 * fallback  "PLUGIN" or "PLUGIN:ADDRESS", another registry: asked for
	 *           services that the snapshot does not know
	 *
	 * A lookup or list is answered from them then. A watch that gets no
	 * answer within a second is told what they have, and SYNCED if that is
	 * anything; changes of the fallback are followed. The registry's first
	 * answer replaces all of it, with the grace of svc_registry_watch. What
	 * is announced goes to the registry alone. NULL: none. */
	const char *snapshot;
	const char *fallback;
};

/**
 * What a watch reports. After BEGIN a full state follows; SYNC ends it, and
 * what it did not repeat is gone. Between full states come single changes. A
 * plugin reports BEGIN .. SYNC once at the start and again after any break
 * (reconnect, compaction, overflow), so it need not remember anything.
 *
 * BEGIN may come as soon as a break is noticed, long before the server answers
 * again, and may be repeated: a full state begins anew then. From BEGIN to
 * SYNC the framework takes nothing away except by GONE.
 */
typedef enum svc_watch_event {
	SVC_WATCH_BEGIN, /* record is NULL */
	SVC_WATCH_NODE, /* a record with one node, new or changed or the same */
	SVC_WATCH_GONE, /* name and one node with its id; the rest may be empty
			 */
	SVC_WATCH_SYNC, /* record is NULL */
} svc_watch_event;
/** Called by one thread at a time for one watch; the record lives only for
 * the call. It must not call back into the registry. */
typedef void (*svc_watch_sink)(
    svc_watch_event event, const struct svc_record *record, void *arg);

/** For every record of an answer; lives only for the call. A record may have
 * many nodes or one; the framework groups them. */
typedef void (*svc_record_sink)(const struct svc_record *record, void *arg);

/**
 * What a registry plugin provides: static const, never freed.
 *
 * Promises, proved by tests/conformance/registry*.c: announce is idempotent; a
 * node that stops renewing is gone from every answer and watch within its TTL
 * + 1 s; a watch loses no event (see svc_watch_event); two services, versions
 * or ids never mix; records that do not decode are skipped, counted and logged
 * once; nothing that other programs put into the registry stops it.
 *
 * Threads: every op from any thread, concurrently, except destroy. Ops may
 * block up to timeout_ms. Names were checked by the caller.
 */
struct svc_registry_ops {
	uint32_t abi;
	uint32_t size;
	const char *name;

	/** Make an instance. It must not need the server: one that is not
	 * there yet is an error of the ops, not of create.
	 * Errors: SVC_E_INVAL (a bad address: say what is allowed), SVC_E_NOMEM
	 */
	svc_err (*create)(const struct svc_registry_config *config,
	    void **ret_self, struct svc_error *err);
	/** All watches have been ended before. Announced nodes stay until
	 * their TTL passes. */
	void (*destroy)(void *self);

	/** Announce the one node of `record` for `ttl_ms`, or renew it.
	 * Called each interval; after any loss in the registry the next call
	 * puts it back.
	 * Errors: SVC_E_UNAVAILABLE, SVC_E_TIMEDOUT, SVC_E_DENIED, SVC_E_NOMEM
	 */
	svc_err (*announce)(void *self, const struct svc_record *record,
	    int64_t ttl_ms, struct svc_error *err);
	/** Remove the one node of `record` now; fine when it is not there. */
	svc_err (*withdraw)(
	    void *self, const struct svc_record *record, struct svc_error *err);
	/** Everything known of one service. Nothing found is SVC_OK without a
	 * call of `sink`. */
	svc_err (*lookup)(void *self, const char *service, svc_record_sink sink,
	    void *arg, struct svc_error *err);
	/** Everything there is. Records may have no nodes if the registry
	 * would need a question for each; then lookup has them. */
	svc_err (*list)(
	    void *self, svc_record_sink sink, void *arg, struct svc_error *err);

	/** Report the changes of `service`, or of all when NULL, until
	 * unwatch. Returns at once; the first full state comes as soon as the
	 * server answers. Optional with unwatch: without it the framework asks
	 * lookup (or list and lookup) twice a second.
	 * Errors: SVC_E_NOMEM, SVC_E_EXHAUSTED */
	svc_err (*watch)(void *self, const char *service, svc_watch_sink sink,
	    void *arg, void **ret_watch, struct svc_error *err);
	/** No call of the sink runs or comes after this returns. Not from the
	 * sink. */
	void (*unwatch)(void *self, void *watch);

	/** Keys of `options` in its config that the plugin knows, separated
	 * by single spaces, lower case: "datacenter tags". NULL: none. Others
	 * are refused before `create`, which checks the values. */
	const char *options;
	/** SVC_REGISTRY_*: what else of the config it makes use of. TLS that
	 * it does not know is refused rather than left out. */
	uint32_t uses;

	/** As announce and withdraw, with `timeout_ms` (positive) in place of
	 * the config's. Each is optional: a service that stops gives what is
	 * left of one timeout_ms to these, and calls the others, which may take
	 * longer, where they are absent. */
	svc_err (*announce_within)(void *self, const struct svc_record *record,
	    int64_t ttl_ms, int64_t timeout_ms, struct svc_error *err);
	svc_err (*withdraw_within)(void *self, const struct svc_record *record,
	    int64_t timeout_ms, struct svc_error *err);
};
#define SVC_REGISTRY_TLS 1u
/** `address` names servers, [SCHEME://]HOST[:PORT] separated by commas; none is
 * one on this host. */
#define SVC_REGISTRY_SERVERS 2u

extern SVC_API const struct svc_interface svc_registry_interface;
/** Nodes of this process only: for tests and services in one process. All
 * instances with the same address (default "default") share one state. */
extern SVC_API const struct svc_registry_ops svc_registry_memory;

/* --------------------------------------------------- using a registry */

/** A made registry: checks arguments, gives watches their difference engine,
 * polls for plugins without watch. */
struct svc_registry;

/** Errors: of svc_catalogue_find and of the plugin's create; SVC_E_INVAL (TLS
 * or an option that this plugin does not know, with those it does) */
SVC_API svc_err svc_registry_create(const char *plugin,
    const struct svc_registry_config *config,
    struct svc_registry **ret_registry, struct svc_error *err);
SVC_API svc_err svc_registry_create_ops(const struct svc_registry_ops *ops,
    const struct svc_registry_config *config,
    struct svc_registry **ret_registry, struct svc_error *err);
/** Ends its watches first. NULL is fine. Not from a watch callback. */
SVC_API void svc_registry_destroy(struct svc_registry *registry);
SVC_API const char *svc_registry_name(const struct svc_registry *registry);
/** Of the plugin: SVC_REGISTRY_*. */
SVC_API uint32_t svc_registry_uses(const struct svc_registry *registry);

/** As the ops of these names, after checking the arguments.
 * Errors: also SVC_E_INVAL (names; ttl_ms must be positive) */
SVC_API svc_err svc_registry_announce(struct svc_registry *registry,
    const struct svc_record *record, int64_t ttl_ms, struct svc_error *err);
SVC_API svc_err svc_registry_withdraw(struct svc_registry *registry,
    const struct svc_record *record, struct svc_error *err);
/** The same with a timeout of their own, as far as the plugin has these ops;
 * what is not positive is one attempt that waits for nothing. */
SVC_API svc_err svc_registry_announce_within(struct svc_registry *registry,
    const struct svc_record *record, int64_t ttl_ms, int64_t timeout_ms,
    struct svc_error *err);
SVC_API svc_err svc_registry_withdraw_within(struct svc_registry *registry,
    const struct svc_record *record, int64_t timeout_ms, struct svc_error *err);

/** An answer, grouped by name and version and sorted by both, nodes sorted by
 * id. */
struct svc_record_list {
	struct svc_record **records;
	size_t n_records;
};
SVC_API void svc_record_list_fini(struct svc_record_list *list);
/** Errors: SVC_E_NOT_FOUND (nobody provides it) and those of the op */
SVC_API svc_err svc_registry_lookup(struct svc_registry *registry,
    const char *service, struct svc_record_list *ret_list,
    struct svc_error *err);
SVC_API svc_err svc_registry_list(struct svc_registry *registry,
    struct svc_record_list *ret_list, struct svc_error *err);

/** What a watcher is told: only true changes, each once. */
typedef enum svc_change {
	SVC_CREATED,
	SVC_UPDATED,
	SVC_REMOVED, /* with the node as it was last known */
	SVC_SYNCED,  /* record is NULL; the first full state is complete */
} svc_change;
/** One node with its record; lives only for the call unless it is held
 * (svc_record_hold). One call at a time per watch. It must not block nor call
 * the registry. */
typedef void (*svc_change_cb)(
    svc_change change, const struct svc_record *record, void *arg);
struct svc_watch;
/**
 * `service` NULL watches all. Returns at once; what is there comes as CREATED,
 * then SYNCED as soon as the registry has answered in full, then the changes.
 *
 * A node that is withdrawn or whose TTL passes is REMOVED at once. While the
 * registry cannot be reached nothing is reported. When it is back and its full
 * state does not repeat a node (it may have come back empty, while the node
 * lives and announces itself again within its interval), the node is kept for
 * grace_ms from then on; if it is repeated within that time nothing is
 * reported, else it is REMOVED. So a registry that loses its data makes nobody
 * forget anybody who is alive.
 *
 * Watches of the same service in one registry hear of a change by one thread,
 * one after the other; one that is made later is told what the others know,
 * SYNCED if they were, without a question to the registry.
 *
 * Errors: SVC_E_INVAL, SVC_E_NOMEM, SVC_E_EXHAUSTED */
SVC_API svc_err svc_registry_watch(struct svc_registry *registry,
    const char *service, svc_change_cb cb, void *arg,
    struct svc_watch **ret_watch, struct svc_error *err);
/** No callback runs or comes after this returns, for which it may wait until
 * those of other watches of the service have returned. NULL is fine. */
SVC_API void svc_registry_unwatch(struct svc_watch *watch);

#ifdef __cplusplus
}
#endif
#endif
