/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SERVICE_PRIVATE_H
#define SVC_SERVICE_PRIVATE_H

/* What the files of this room share. */

#include <svc/svc.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A function that its few callers take in whole, in a build that is optimised
 * as one (by gcc): for a step of each call whose arguments would cost as much
 * as it does. It is defined with this after its declaration. */
#if defined(__GNUC__) && !defined(__clang__)
#define SVC_TAKEN_IN inline __attribute__((__always_inline__))
#else
#define SVC_TAKEN_IN SVC_HOT
#endif

/* ---------------------------------------------------------------- options */

/* What options, config file, environment and flags write into. Texts belong
 * to it. */
struct svc_values {
	char *name, *version, *id, *address, *advertise;
	struct svc_headers *metadata;
	int64_t weight;
	char *registry, *registry_address;
	char *registry_username, *registry_password;
	char *registry_tls_cert, *registry_tls_key, *registry_tls_ca;
	char *registry_tls_name;
	char *registry_fallback, *registry_snapshot;
	struct svc_headers *registry_options;
	int64_t ttl_ms, interval_ms, registry_timeout_ms;
	char *selector;
	char *transport;
	char *broker, *broker_address;
	char *broker_username, *broker_password;
	char *codec;
	char *tls_cert, *tls_key, *tls_ca, *tls_name, *tls_client_auth;
	int64_t request_timeout_ms, retries;
	int64_t max_message_size, drain_timeout_ms;
	/* Of struct svc_transport_limits; times of 0 mean never. */
	int64_t max_header_size, max_streams, max_connections;
	int64_t handshake_timeout_ms, idle_timeout_ms, keepalive_ms;
	int64_t stream_window, connection_window;
	int64_t threads, loops; /* loops 0: one a processor */
	int64_t busy_poll_us;
	int64_t max_handlers; /* 0: none */
	int64_t queue_timeout_ms;
	char *log_level, *log_format;
	char *config;
	bool help; /* by --help it is given before the rest is read */
	/* Said in code; what settings say, they know themselves. */
	bool ttl_given, interval_given, log_level_given;
};

svc_err svc_values_init(struct svc_values *values);
void svc_values_fini(struct svc_values *values);
/* Adds every setting of svc to the table. */
svc_err svc_flags_add(struct svc_settings *settings, struct svc_values *values,
    struct svc_error *err);
/* Answers --help and --version on standard output: SVC_E_DONE, or SVC_OK when
 * neither was asked for. */
svc_err svc_flags_answer(struct svc_service *service, int argc, char *argv[]);
/* The same for help that another layer asks for, once all have been read. */
svc_err svc_flags_help(struct svc_service *service);
/* Checks the values once all layers have been read, and fills in what follows
 * from others. */
svc_err svc_values_settle(struct svc_service *service, struct svc_error *err);
/* Fails as `why` does, and names where the value of the setting stood. */
svc_err svc_setting_refuse(const struct svc_service *service,
    const char *setting, const char *value, const struct svc_error *why,
    struct svc_error *err);
/* The same for `address`, which is the program's own mostly: then `why` says
 * enough. */
svc_err svc_address_refuse(const struct svc_service *service,
    const struct svc_error *why, struct svc_error *err);

/* Wrappers of one kind, the outermost first. `fn` is of the kind's type. */
struct svc_wrap {
	void (*fn)(void);
	void *arg;
};
struct svc_wraps {
	struct svc_wrap *list;
	size_t n;
};
enum svc_wrap_kind { /* as the options from SVC_OPTION_WRAP_HANDLER on */
	SVC_WRAP_HANDLER,
	SVC_WRAP_CALL,
	SVC_WRAP_PUBLISH,
	SVC_WRAP_SUBSCRIBE,
	SVC_WRAP_STREAM_HANDLER,
	SVC_WRAP_OPEN,
	SVC_WRAP_KINDS
};

/* Takes the list over into the service; the first bad option is remembered. */
void svc_options_take(
    struct svc_service *service, const struct svc_option *options);
/* What is allowed, for why a header or metadata was not taken. */
const char *svc_pair_rule(svc_err code);
/* Whether this names a content type; an empty one names none. */
static inline bool
svc_says_type(const char *type)
{
	return type != NULL && type[0] != '\0';
}

/* -------------------------------------------------------------------- TLS */

/* From the values, which must go together: fills service->tls and
 * service->registry_tls. */
svc_err svc_tls_settle(struct svc_service *service, struct svc_error *err);
/* Whether this service's address is one of TLS, once it is bound. */
bool svc_tls_served(const struct svc_service *service);
/* Whether both of us have TLS or neither has, so far as the record tells. */
svc_err svc_tls_check(const struct svc_service *service,
    const struct svc_node *node, const char *transport, struct svc_error *err);

/* ------------------------------------------------------------ connections */

/* A transport of the service, made on first use and kept. */
struct svc_transport_use {
	const struct svc_transport_ops *ops;
	void *self;
	struct svc_transport_use *next;
};
svc_err svc_transport_get(struct svc_service *service, const char *name,
    struct svc_transport_use **ret_use, struct svc_error *err);

/* The connection to one node, dialled on first use and anew when it is lost.
 * Threads: any. */
struct svc_link;
svc_err svc_link_create(struct svc_service *service, const char *transport,
    const char *address, struct svc_link **ret_link, struct svc_error *err);
void svc_link_ref(struct svc_link *link);
/* With the last reference the connection is closed. NULL is fine. */
void svc_link_unref(struct svc_link *link);
const char *svc_link_address(const struct svc_link *link);

/* What there is for so many tries. Connecting may take one's share of it, but
 * from 1 to 5 s in any case. */
struct svc_dial_time {
	int64_t left_ms; /* SVC_FOREVER: without end */
	int64_t tries;
};

/* Open a stream by its first part, dialling when there is no connection that
 * takes it. On failure nothing was sent and `err` says why not; SVC_E_CLOSED is
 * not among the codes. Never blocks. */
svc_err svc_link_open(struct svc_link *link, const struct svc_part *first,
    unsigned flags, const struct svc_dial_time *dial_time,
    const struct svc_stream_events *events, void *user,
    struct svc_stream_handle **ret_stream, struct svc_error *err);

/* One unary exchange, as it ended. */
struct svc_exchange {
	svc_err code;
	bool replied; /* `code` is what the peer answered */
	bool not_run; /* certain: no handler has seen it */
	bool silent;  /* the node gave no sign of life */
};
/* The header by which a server says that no handler has seen the call. */
#define SVC_NOT_RUN_HEADER "Svc-Not-Run"

/* What has come of a reply. */
struct svc_reply {
	struct svc_exchange result;
	struct svc_error *err; /* for the text of a failure */
	char *block;           /* content type, then data at data_at */
	size_t data_at, len;
	struct svc_headers *headers;
	bool has_message;
};
void svc_reply_init(struct svc_reply *reply, struct svc_error *err);
/* What svc_reply_message handed over must not be finished. */
void svc_reply_fini(struct svc_reply *reply);
void svc_reply_part(struct svc_reply *reply, const struct svc_part *part);
void svc_reply_closed(
    struct svc_reply *reply, const struct svc_stream_end *end);
/* As the caller sees it: of a failure only the headers. It is the reply's own
 * memory; svc_message_free frees it. */
struct svc_message svc_reply_message(const struct svc_reply *reply);
/* For a caller that asked for the headers of the reply. Errors: SVC_E_NOMEM */
svc_err svc_reply_copy_headers(
    const struct svc_headers *from, struct svc_headers *into);

/* Send `first` (whole) and wait for the reply, or for why there is none: in
 * reply->result and `err`. It ends with the caller of `within` (or NULL). The
 * reply must be finished. */
void svc_link_exchange(struct svc_link *link, const struct svc_part *first,
    int64_t deadline_at_ms, const struct svc_dial_time *dial_time,
    struct svc_call *within, struct svc_reply *reply, struct svc_error *err);

/* Memory of a reply that the thread keeps until its next one, or its end; false
 * when it has one already. svc_kept_reply gives it back; NULL when there is
 * none. */
bool svc_keep_reply(void *memory);
void *svc_kept_reply(void);

/* Memory whose start is the content type of a message that is handed out, and
 * whether svc_message_free is to free it with the message. */
void *svc_reply_alloc(size_t size, bool is_callers);
/* NULL is fine. */
void svc_reply_release(const void *space);

/* ----------------------------------------------------------------- client */

struct svc_call_link { /* one wrapper's place in the chain */
	struct svc_client *client;
	size_t index;
};
struct svc_client {
	struct svc_service *service;
	struct svc_selector *selector;
	const struct svc_wraps *wraps; /* the service's */
	struct svc_call_link *links;
	/* Retries that may be made, in thousandths: each call adds 100 up to
	 * the maximum, each retry takes 1,000. */
	_Atomic int64_t budget;
	_Atomic int64_t budget_at_ms;
	struct svc_async *async;     /* the calls of svc_call_async */
	struct svc_call_plan *plain; /* of a call without options */
};
#define SVC_BUDGET_MAX INT64_C(200000) /* thousandths of a retry */
svc_err svc_client_start(struct svc_service *service, struct svc_error *err);
/* End the calls of svc_call_async that are open, and wait for their `done`.
 * Others get SVC_E_CLOSED when they would have to wait for a view. */
void svc_client_close(struct svc_service *service);
void svc_client_finish(struct svc_service *service);

struct svc_call_plan;
svc_err svc_async_create(
    struct svc_client *client, struct svc_async **ret_async);
void svc_async_close(struct svc_async *async);
void svc_async_destroy(struct svc_async *async);
/* The end of the chain of wrappers for a call with `done`. */
svc_err svc_async_call(struct svc_async *async,
    const struct svc_call_plan *plan, const struct svc_outgoing *out);

/* ----------------------------------------------------------------- server */

struct svc_handler_link { /* one wrapper's place in the chain of an endpoint */
	const struct svc_wrap *wrap;
	svc_handler next;
	svc_stream_handler stream_next; /* instead of `next`, for streams */
	void *next_arg;
};

/* How fast the handler of an endpoint has been; pace.c. */
struct svc_pace {
	_Atomic int32_t score;
	_Atomic uint32_t since_probe, probe_every;
};

/* The limit of handlers and the queue before it; admission.c. */
struct svc_waiting_call;
struct svc_admission {
	struct svc_executor *executor;
	int64_t limit;  /* 0: none */
	int64_t unseen; /* with no more threads off the loops, no counting */
	int64_t wait_ms;
	_Atomic int64_t n_waiting;
	pthread_mutex_t lock; /* guards what follows */
	struct svc_waiting_call *first, **last;
	size_t bytes;
	bool armed; /* the timer runs, or `arm` is posted */
	struct svc_loop *loop;
	struct svc_task arm;
	struct svc_timer timer;
};

struct svc_server_endpoint {
	char *name;
	svc_handler fn; /* the outermost wrapper once the server runs */
	svc_stream_handler stream_fn; /* instead of `fn`, for streams */
	void *arg;
	struct svc_handler_link *links;
	bool internal;           /* not published */
	bool never_blocks;       /* may run on the thread of its caller */
	int64_t limit;           /* calls at once; 0: any number */
	_Atomic int64_t running; /* counted when there is a limit */
	struct svc_pace pace;
	struct svc_headers *metadata;
	const struct ProtobufCMessageDescriptor *request, *response;
	struct svc_server_endpoint *next; /* of the same bucket */
};

#define SVC_SERVER_SHARDS 16
#define SVC_COUNT_CALL UINT64_C(1)
#define SVC_COUNT_HANDLER (UINT64_C(1) << 32)
#define SVC_SERVER_BUCKETS 128
struct svc_server {
	struct svc_service *service;
	struct svc_server_endpoint **endpoints;
	size_t n_endpoints;
	/* Calls that run, and how many of them are in their handler
	 * (admission.c), counted apart by thread so that they share nothing.
	 */
	struct svc_server_shard {
		_Atomic uint64_t counts; /* in SVC_COUNT_... */
		_Atomic(struct svc_server_endpoint *) last; /* called */
		char pad[64 - 2 * sizeof(uint64_t)];
	} shards[SVC_SERVER_SHARDS];
	struct svc_server_endpoint *buckets[SVC_SERVER_BUCKETS];
	struct svc_admission admission;
	struct svc_headers *not_run; /* what a refused call is answered with */
	const struct svc_transport_ops *ops;
	void *listener;
	_Atomic bool open; /* handlers may run: what they can ask for is set */
	_Atomic bool draining;
	pthread_mutex_t lock; /* only for `idle` and what follows */
	pthread_cond_t idle;  /* a call or a stream has ended, or `open` was
			       * set */
	struct svc_server_stream *streams;
	int n_streams;
	bool cut; /* streams end at once */
};
svc_err svc_server_create(struct svc_service *service);
void svc_server_destroy(struct svc_server *server);
svc_err svc_server_add(struct svc_server *server, const char *endpoint,
    svc_handler fn, void *arg, const struct svc_option *options, bool internal,
    struct svc_error *err);
/* The same for a stream endpoint. */
svc_err svc_server_add_stream(struct svc_server *server, const char *endpoint,
    svc_stream_handler fn, void *arg, const struct svc_option *options,
    struct svc_error *err);
svc_err svc_server_listen(struct svc_server *server, struct svc_error *err);
/* Let the calls run that came since svc_server_listen. */
void svc_server_open(struct svc_server *server);
/* Take no new calls. */
void svc_server_drain(struct svc_server *server);
/* When it is closed: until then, or a little later, wait for clients that have
 * not taken all that they were sent. */
void svc_server_limit(struct svc_server *server, int64_t deadline_at_ms);
/* Wait for running calls; false when the deadline passed before they ended. */
bool svc_server_wait(struct svc_server *server, int64_t deadline_at_ms);
int64_t svc_server_running(struct svc_server *server);
/* End the streams that still run, and wait a little until their handlers have
 * seen it. */
void svc_server_cut_streams(struct svc_server *server);
/* Close the listener and its connections. */
void svc_server_close(struct svc_server *server);

struct svc_call_block;
struct svc_call_owned;
#define SVC_CALL_INLINE 4096
/* A call as its handler sees it; lives on the stack of its thread. */
struct svc_call {
	struct svc_service *service;
	const char *endpoint;
	struct svc_stream_handle *stream;
	const struct svc_message *req;
	int64_t deadline_at_ms;
	/* svc_call_cancelled has said that the deadline passed. */
	_Atomic bool late;
	_Atomic bool cut; /* its stream was ended here, and not by its handler
			   */
	struct svc_headers *spare; /* the map given to the handler to fill */
	struct svc_error fail;     /* what svc_fail said; only code and text */
	char *at, *end;            /* what is left of the newest block */
	struct svc_call_block *blocks;
	struct svc_call_owned *owned;
	_Atomic(struct svc_scope *) scope; /* of calls within; NULL: none yet */
	_Alignas(16) char space[SVC_CALL_INLINE];
};
svc_err svc_call_begin(struct svc_call *call, struct svc_service *service,
    struct svc_message *rsp);
void svc_call_end(struct svc_call *call);
/* Frees the memory that it gave so far. */
void svc_call_forget(struct svc_call *call);

/* The text of a call that its outer caller left. */
extern const char svc_cancelled_within[];

/* A call within another; scope.c. `cancel` is told once, from any thread, that
 * the outer caller has left; it must not block. */
struct svc_scoped {
	struct svc_scope *scope; /* NULL: in none */
	struct svc_scoped *prev, *next;
	bool told;
	void (*cancel)(struct svc_scoped *inner);
};
/* With `cancel` set. Where the transport cannot tell, nothing happens. */
void svc_scope_join(struct svc_call *outer, struct svc_scoped *inner);
/* After this `cancel` does not run any more. Nothing happens in none. */
void svc_scope_leave(struct svc_scoped *inner);
/* The outer call's stream was ended here: what is within is to end as if its
 * caller had left. First hold it, while svc_scope_end is not called, then
 * cancel all that are held, under no lock. */
void svc_scope_hold(struct svc_call *outer, struct svc_scope **held);
void svc_scope_cancel(struct svc_scope *held);
/* The handler has returned, and the stream is not released yet: what is still
 * under way is left alone from now on. */
void svc_scope_end(struct svc_call *outer);

/* ----------------------------------------------------- record and registry */

struct svc_record_built {
	struct svc_record record;
	struct svc_node node;
	struct svc_endpoint *endpoints;
	size_t n_endpoints, cap_endpoints;
	struct svc_headers *node_metadata;
	struct svc_record_memory *memory; /* of names and values */
};
/* The record of this service as it is announced. */
svc_err svc_record_build(
    struct svc_service *service, struct svc_record_built *ret_built);
void svc_record_built_fini(struct svc_record_built *built);

struct svc_registrar {
	struct svc_service *service;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	bool running; /* the thread */
	bool stopping;
	bool busy;    /* one op at a time, and none under the lock */
	bool lost;    /* said so */
	bool reached; /* the registry may have the node */
	int failures; /* in a row */
	int64_t next_at_ms;
	_Atomic bool registered, draining;
};
void svc_registrar_init(
    struct svc_registrar *registrar, struct svc_service *service);
void svc_registrar_fini(struct svc_registrar *registrar);
/* Announces for the first time, then goes on in a thread of its own. A
 * registry that does not answer is logged and no failure. */
svc_err svc_registrar_start(
    struct svc_registrar *registrar, struct svc_error *err);
/* What the record holds has changed: announce it now, if started. */
void svc_registrar_again(struct svc_registrar *registrar);
/* Mark the node as draining, then withdraw it, and wait a little each time
 * until a watch has seen it. The registry has registry_timeout for all of that;
 * what it did not take back by then is logged. */
void svc_registrar_stop(struct svc_registrar *registrar);
/* "ok", "not registered" or "draining". Threads: any. */
const char *svc_registrar_status(const struct svc_registrar *registrar);

/* ----------------------------------------------------------------- events */

struct svc_subscriber {
	struct svc_service *service;
	char *topic, *queue; /* queue "" for none */
	svc_event_handler fn;
	void *arg;
	struct svc_subscription *subscription;
	struct svc_subscriber *next;
};
struct svc_advertised {
	char *topic, *queue;
	struct svc_advertised *next;
};
struct svc_event {
	const char *topic;
	const struct svc_message *message;
};
struct svc_peers;
struct svc_events {
	pthread_mutex_t lock; /* guards the lists, `connected` and `open` */
	pthread_cond_t changed;
	bool open; /* the start subscribes, or has: nothing is remembered */
	struct svc_subscriber *subscribers;
	struct svc_advertised *advertised;
	enum { SVC_BROKER_NEW, SVC_BROKER_CONNECTING, SVC_BROKER_ON } connected;
	struct svc_broker_host host;
	struct svc_peers *peers; /* made on first use */
};
#define SVC_EVENT_ENDPOINT "Svc.Event"
#define SVC_TOPIC_HEADER "Micro-Topic"
#define SVC_QUEUE_HEADER "Svc-Queue"
void svc_events_init(struct svc_service *service);
/* Make the broker; after init of the options. */
svc_err svc_events_make(struct svc_service *service, struct svc_error *err);
/* Connect and subscribe what was remembered. */
svc_err svc_events_start(struct svc_service *service, struct svc_error *err);
void svc_events_finish(struct svc_service *service);
/* Calls `each` for every (topic, queue), topics descending. */
svc_err svc_events_each(struct svc_service *service,
    svc_err (*each)(const char *topic, const char *queue, void *arg),
    void *arg);

/* The nodes that subscribe, by a watch of the whole registry. */
svc_err svc_peers_create(struct svc_service *service,
    struct svc_peers **ret_peers, struct svc_error *err);
void svc_peers_destroy(struct svc_peers *peers);
/* Those of a topic on other nodes; waits for the first full view. */
svc_err svc_peers_each(struct svc_peers *peers, const char *topic,
    int64_t deadline_at_ms,
    void (*each)(const struct svc_broker_peer *peer, void *arg), void *arg,
    struct svc_error *err);
svc_err svc_peers_deliver(struct svc_peers *peers, const char *node_id,
    const struct svc_part *event, int64_t timeout_ms, struct svc_error *err);

/* ---------------------------------------------------------------- service */

typedef enum svc_service_state {
	SVC_SERVICE_NEW,
	SVC_SERVICE_READY, /* svc_init succeeded */
	SVC_SERVICE_STARTED,
	SVC_SERVICE_STOPPED,
	SVC_SERVICE_FAILED,
} svc_service_state;

struct svc_service {
	/* Handlers read it while svc_start has not returned yet. */
	_Atomic(svc_service_state) state;
	struct svc_values values;
	struct svc_settings *settings;
	struct svc_error bad_option; /* the first one */
	/* Why svc_handle or svc_subscribe first failed: told at the start, for
	 * who has not looked. */
	struct svc_error refused;
	struct svc_error error;     /* what svc_error_text says */
	struct svc_error failed;    /* why it cannot be started */
	struct svc_options options; /* what svc_options_of shows */
	/* Their texts are those of `values`. */
	bool has_tls, registry_has_tls;
	struct svc_tls_config tls, registry_tls;
	char *bound, *advertised;
	struct svc_wraps wraps[SVC_WRAP_KINDS];

	struct svc_executor *executor;
	pthread_mutex_t transports_lock; /* guards the list's growth */
	_Atomic(struct svc_transport_use *) transports;
	struct svc_registry *registry;
	struct svc_broker *broker;
	_Atomic(struct svc_codecs *) codecs; /* made on first use */
	struct svc_client client;
	struct svc_server *server;
	struct svc_registrar registrar;
	struct svc_events events;

	int wake_fd; /* an eventfd that ends svc_run */
	bool cut;    /* handlers still ran when the drain ended */
};

/* Fills the service's error and returns the code. */
svc_err svc_service_fail(struct svc_service *service, svc_err code,
    const char *format, ...) SVC_PRINTF(3, 4);
/* The same for what is added to a service, and it is told again at the start.
 */
svc_err svc_service_refuse(
    struct svc_service *service, svc_err code, const char *text);
svc_err svc_service_codecs(struct svc_service *service,
    const struct svc_codecs **ret_codecs, struct svc_error *err);
/* The value of `address` (bound) as others reach it, or as is `wanted`: a host,
 * an IP address or an interface, each also with a port; NULL chooses. To be
 * freed with svc_mem_free. Errors: SVC_E_INVAL (also what nobody could dial),
 * SVC_E_NOMEM */
svc_err svc_advertise_address(const char *bound, const char *wanted,
    char **ret_address, struct svc_error *err);
/* Logs what some of those who are told the address could not dial. `servers` is
 * where the registry is, as by SVC_REGISTRY_SERVERS; NULL: on this host. */
void svc_advertise_warn(const char *advertised, const char *servers);
/* The endpoint Debug.Health, unless the service has one. Before listening. */
svc_err svc_debug_add(struct svc_service *service, struct svc_error *err);

/* Signals and the wait of svc_run. */
svc_err svc_run_begin(struct svc_service *service);
void svc_run_wait(struct svc_service *service);
void svc_run_end(struct svc_service *service);

#endif
