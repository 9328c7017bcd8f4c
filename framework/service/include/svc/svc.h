/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_SVC_H
#define SVC_SVC_H

/**
 * svc: a service in twenty lines of C. This is the one header an application
 * includes.
 */

#include <svc/broker.h>
#include <svc/clock.h>
#include <svc/codec.h>
#include <svc/executor.h>
#include <svc/log.h>
#include <svc/message.h>
#include <svc/option.h>
#include <svc/registry.h>
#include <svc/selector.h>
#include <svc/settings.h>
#include <svc/transport.h>

#ifdef __cplusplus
extern "C" {
#endif

struct svc_service;
struct svc_client;
struct svc_server;
struct svc_call;
struct svc_stream;
struct svc_event;

/* ---------------------------------------------------------------- service */

/**
 * Build a service from bare options in any order, or none:
 *
 *     svc_new(name("student"), registry(etcd), ttl(10))
 *
 *     name(str) version(str) id(str)    "svc.server", "latest", the name and a
 *                                       random UUID
 *     address("host:port")              to listen on; ":0": any, a free port
 *     advertise(str)                    to register: a host, an IP address or
 *                                       an interface; the one that fits best
 *     metadata("key", "value")          of the node, any number
 *     weight(n)                         1 to 1,000,000; 1
 *     registry(plugin[, "addr,addr"])   mdns
 *     registry_tls("cert", "key", "ca") registry_option("key", "value")
 *     registry_fallback(plugin[, "addr"]) registry_snapshot("file")
 *     ttl(s) interval(s)                whole seconds; 30, and a third of it
 *     transport(plugin[, "addr"])       tcp; the address is that of address()
 *     tls("cert", "key", "ca")          none
 *     selector(strategy)                random
 *     broker(plugin[, "addr"])          p2p
 *     codec("content/type")             of messages that do not say theirs;
 *                                       application/json
 *     wrap_handler(fn, arg) wrap_stream_handler(fn, arg) wrap_call(fn, arg)
 *     wrap_open(fn, arg) wrap_publish(fn, arg) wrap_subscribe(fn, arg)
 *     flag("name", "help", &variable)   a flag of the program's own: an int,
 *                                       long, long long, double, bool or const
 *                                       char *, with its default in it
 *     log_level(str) config("file")     "info"; none
 *
 * What stands behind them is what counts without the option. Plugins are bare
 * words; up to 48 options are taken.
 *
 * tls() names PEM files: a certificate, its key, and the CAs that peers must be
 * certified by. A program that only calls may give NULL for the first two;
 * without a CA those of the system count for services called, and callers are
 * not asked for certificates. registry_tls() is the same for the connections
 * to the registry. docs/security.md has the rest. registry_option() sets what
 * only the chosen registry knows, see docs/configuration.md; the two that
 * follow are what to go on with while it cannot be reached, see docs/static.md.
 *
 * Nothing is connected yet. A bad option is remembered and returned by
 * svc_init with its text. Texts are copied; the variables of flag() and the
 * arguments of wrappers are borrowed until svc_free. NULL when memory ran out;
 * every function below takes that NULL and returns SVC_E_NOMEM.
 */
#ifndef __cplusplus
#define svc_new(...) svc_new_options(SVC_OPTIONS_(SVC_OPT, __VA_ARGS__))
#endif
/** The same from an array ended by SVC_OPTION_END; NULL is the empty list. */
SVC_API struct svc_service *svc_new_options(const struct svc_option *options);

/**
 * Read flags, environment and config file over the options, then make the
 * plugins. Flags that are not known are an error; --help and --version print
 * and return SVC_E_DONE. argc 0 and argv NULL read no flags. Called once; the
 * functions below that need it call it so when it was not.
 * Errors: SVC_E_INVAL (usage, a plugin or file that is not there), SVC_E_DONE,
 * SVC_E_ABI, SVC_E_NOMEM; the line for the user is svc_error_text.
 * Threads: one, as for svc_handle and svc_subscribe before svc_start.
 */
SVC_API svc_err svc_init(struct svc_service *service, int argc, char *argv[]);
/** Listen, connect the broker, subscribe, register; returns when discoverable.
 * A registry or broker that cannot be reached is no failure: it is logged and
 * tried again until it is there.
 * Errors: SVC_E_EXISTS (address in use), SVC_E_INVAL, SVC_E_DENIED, ... */
SVC_API svc_err svc_start(struct svc_service *service);
/** Start, wait for SIGINT, SIGTERM or svc_stop, then drain: withdraw, let the
 * watchers see it, refuse new calls, finish running ones (up to
 * --drain_timeout), close. A second signal, half a second after the first or
 * later, ends it at once; one that comes sooner is ignored, even where svc_run
 * has returned by then. After that signals do again what they did before.
 * Errors: of svc_start; SVC_E_PRECONDITION (it runs or has ended),
 * SVC_E_EXHAUSTED (64 services of this process run) */
SVC_API svc_err svc_run(struct svc_service *service);
/** Ends svc_run. From any thread or a signal handler. */
SVC_API void svc_stop(struct svc_service *service);
/** Stops what svc_start began, draining, and frees. NULL is fine. Not from what
 * svc runs for this service, which it waits for (a handler, a wrapper, the
 * `done` of a call), and not while another thread calls, publishes or opens
 * streams with it: join those first. */
SVC_API void svc_free(struct svc_service *service);
/** init + run + free, errors printed: the exit status 0, 1, or 2 for usage. */
SVC_API int svc_main(struct svc_service *service, int argc, char *argv[]);
/** Why building, init or start failed, with the cause; "" when nothing did.
 * Valid until the next failing call. */
SVC_API const char *svc_error_text(const struct svc_service *service);
/** The exit status for what svc_init or svc_run returned: 0 for SVC_OK and
 * SVC_E_DONE, 2 for SVC_E_INVAL, 1 for others. */
SVC_API int svc_exit_status(svc_err err);

/** The effective options, for reading back. Valid until svc_free; complete
 * after svc_init, `address` and `advertise` after svc_start. */
struct svc_options {
	const char *name, *version, *id; /* id of the node: "<name>-<uuid>" */
	const char *address;             /* bound */
	const char *advertise;           /* as registered */
	const struct svc_headers *metadata;
	const char *registry, *registry_address;
	const char *selector;
	const char *transport;
	const char *broker, *broker_address;
	const char *codec;
	int64_t ttl_ms, interval_ms;
	int64_t request_timeout_ms;
	int retries;
	int64_t max_message_size;
	int weight;
	/* Limits, as docs/configuration.md describes them. */
	int64_t max_header_size, max_streams, max_connections;
	int64_t handshake_timeout_ms;
	int64_t idle_timeout_ms, keepalive_ms; /* 0: never */
	int64_t stream_window, connection_window;
	int threads, loops;
	int busy_poll_us;
	int64_t max_handlers; /* 0: any number */
	int64_t queue_timeout_ms;
};
SVC_API const struct svc_options *svc_options_of(
    const struct svc_service *service);
/** Works after svc_init, without svc_start too (a pure client). Freed with the
 * service. NULL before. */
SVC_API struct svc_client *svc_client_of(struct svc_service *service);
SVC_API struct svc_server *svc_server_of(struct svc_service *service);
SVC_API struct svc_registry *svc_registry_of(struct svc_service *service);
SVC_API struct svc_broker *svc_broker_of(struct svc_service *service);
/** The settings table of the service, to add own settings before svc_init. */
SVC_API struct svc_settings *svc_settings_of(struct svc_service *service);
/** The implementation's name: "svc". */
SVC_API const char *svc_string(const struct svc_service *service);
/** Whether the registry holds the service now. */
SVC_API bool svc_registered(const struct svc_service *service);

/** Add an implementation that the program links itself, of any interface.
 * Errors: of svc_catalogue_add */
SVC_API svc_err svc_plugin_add(const void *ops);

/* --------------------------------------------------------------- handlers */

/**
 * Handles a call. `req` lives as long as the call; unlike those of replies and
 * streams its data have no NUL behind them. Fill `rsp` with memory that
 * lives as long as the call (svc_alloc_in, svc_printf, svc_reply_text) or
 * longer; rsp->content_type NULL or "" means that of the request. rsp->headers
 * is an empty map to fill. Whatever is returned, and the text of svc_fail, is
 * what the caller reads (SVC_E_UNKNOWN for a number that is no code). It may
 * block.
 */
typedef svc_err (*svc_handler)(struct svc_call *call,
    const struct svc_message *req, struct svc_message *rsp, void *arg);

/** Options: idempotent() (published with the endpoint: clients may retry it)
 * limit(n) (calls at once; beyond it callers get SVC_E_EXHAUSTED at once)
 * never_blocks() (the handler, with its wrappers, returns soon and takes no
 * lock that a caller may hold: over the transport "memory" svc_call runs it on
 * the caller's own thread, which takes no switch of threads; if it blocks all
 * the same, such a caller waits beyond its deadline; not for streams)
 * metadata("key", "value") types(&request_descriptor, &response_descriptor)
 * (protobuf-c descriptors, published with the endpoint).
 * `endpoint` is "Type.Method". Before svc_start.
 * Errors: SVC_E_INVAL, SVC_E_EXISTS, SVC_E_PRECONDITION (started),
 * SVC_E_NOMEM; the text is svc_error_text, and svc_start logs the first one
 * (service.refused) for who does not look
 * Threads: one, as for svc_init
 */
#ifndef __cplusplus
#define svc_handle(service, endpoint, fn, ...) \
	SVC_HANDLE_ARG_(service, endpoint, fn, __VA_ARGS__, end())
#define SVC_HANDLE_ARG_(service, endpoint, fn, arg, ...) \
	svc_handle_options(service, endpoint, fn, arg,   \
	    SVC_OPTIONS_(SVC_HANDLE_OPT, __VA_ARGS__))
#endif
/** The function behind svc_handle: options as an array ended by
 * SVC_OPTION_END, or NULL for none. */
SVC_API svc_err svc_handle_options(struct svc_service *service,
    const char *endpoint, svc_handler fn, void *arg,
    const struct svc_option *options);

/* The functions that take a call, an event or a stream take NULL for it: they
 * return NULL, "", 0, true for "cancelled" or SVC_E_INVAL. */

/** Memory that lives as long as the call, not zeroed, aligned for any type;
 * NULL when memory ran out. Threads: of those that follow, only the handler's.
 */
SVC_API void *svc_alloc_in(struct svc_call *call, size_t size);
/** A text of that memory; NULL when it ran out. */
SVC_API char *svc_printf(struct svc_call *call, const char *format, ...)
    SVC_PRINTF(2, 3);
/** Fill `rsp` with a printed text, without its NUL, and a content type (NULL:
 * that of the request), both copied. Its headers stay.
 * Errors: SVC_E_NOMEM, with the call's text set: return what this returns */
SVC_API svc_err svc_reply_text(struct svc_call *call, struct svc_message *rsp,
    const char *content_type, const char *format, ...) SVC_PRINTF(4, 5);
/** An error the caller will read: `return svc_fail(call, SVC_E_INVAL, "...")`.
 * Returns `code`, also without a call. The text is one line of up to 247 bytes;
 * what is longer is cut. */
SVC_API svc_err svc_fail(struct svc_call *call, svc_err code,
    const char *format, ...) SVC_PRINTF(3, 4);
/** Decode the request into a new message of this type by the codec of its
 * content type; it lives as long as the call. On failure the call's text is
 * set: return the code. */
SVC_API svc_err svc_read(struct svc_call *call, const struct svc_message *req,
    const struct ProtobufCMessageDescriptor *type,
    struct ProtobufCMessage **ret_message);
/** Encode the answer by the codec of the request's content type. */
SVC_API svc_err svc_write(struct svc_call *call, struct svc_message *rsp,
    const struct ProtobufCMessage *message);

/** The service that is called, and the endpoint, "Type.Method". */
SVC_API struct svc_service *svc_call_service(const struct svc_call *call);
SVC_API const char *svc_call_endpoint(const struct svc_call *call);
/** A header of the request, or NULL. */
SVC_API const char *svc_call_header(
    const struct svc_call *call, const char *name);
/** Milliseconds the caller still waits; SVC_FOREVER without a deadline. */
SVC_API int64_t svc_call_remaining_ms(const struct svc_call *call);
/** The caller has gone or its deadline has passed, or the handler's stream was
 * ended by svc_stream_cancel or a stop: give up. What the handler returns then
 * is not taken for an answer. */
SVC_API bool svc_call_cancelled(const struct svc_call *call);
/** "host:port" of the caller; "" when the transport has none. */
SVC_API const char *svc_call_peer(const struct svc_call *call);
/** Who the caller is, by the certificate it has shown and that was verified:
 * its first DNS name, else its common name; "" when it showed none (see
 * --tls_ca) or the transport cannot tell. Valid until the handler returns. */
SVC_API const char *svc_call_identity(const struct svc_call *call);

/** Around every handler, the first given outermost. Call `next` to go on, with
 * `req` or a changed copy of it, which is then what svc_call_header and
 * svc_write go by. */
typedef svc_err (*svc_handler_wrapper)(struct svc_call *call,
    const struct svc_message *req, struct svc_message *rsp, svc_handler next,
    void *next_arg, void *arg);

/* ------------------------------------------------------------------ calls */

/**
 * Call `endpoint` of `service` and wait for the reply. Options after the fixed
 * arguments: timeout_ms(n) retries(n) header("k", "v") version("1.2")
 * label("zone", "a") (up to 8, which all must fit) node("id or host:port")
 * key("user-42") content_type(str) idempotent() detail(&err)
 * reply_headers(map) within(call).
 *
 * A retry goes to another node, only when the request certainly did not run or
 * the endpoint is idempotent, and within the deadline, which is timeout_ms()
 * from now (at least 1, or SVC_FOREVER), else --client_request_timeout, for all
 * tries together. On SVC_OK `rsp` must be freed with svc_message_free, and its
 * data have a NUL behind them that `len` does not count; on failure it is
 * empty. `req` is borrowed for the call. `req` and `rsp` may be NULL, or one.
 * What the handler failed with is what is returned; its text is in detail.
 * reply_headers() names a struct svc_headers that is cleared and gets the
 * headers of the reply, those of a failure too (rsp->headers has them on
 * success). within(call) is for a handler: the call gets no more time than the
 * handler's caller still waits, none begins when it has gone, and when it
 * leaves before the handler has returned, the call ends with SVC_E_CANCELLED.
 *
 * It is a macro, as all that take options: an argument with commas of its own
 * goes into parentheses, as in (&(struct svc_message){"text/plain", "Ada", 3}).
 * Errors: SVC_E_NOT_FOUND "service not found: NAME", SVC_E_UNAVAILABLE,
 * SVC_E_TIMEDOUT, SVC_E_EXHAUSTED (a limit), SVC_E_AGAIN (too much waits to be
 * sent), SVC_E_UNIMPLEMENTED (no such endpoint), what the handler returned, ...
 * Threads: any, handlers included.
 */
#ifndef __cplusplus
#define svc_call(client, service, endpoint, req, ...) \
	SVC_CALL_ARG_(client, service, endpoint, req, __VA_ARGS__, end())
#define SVC_CALL_ARG_(client, service, endpoint, req, rsp, ...) \
	svc_call_options(client, service, endpoint, req, rsp,   \
	    SVC_OPTIONS_(SVC_CALL_OPT, __VA_ARGS__))
#endif
/** The function behind svc_call: options as an array ended by
 * SVC_OPTION_END, or NULL for none. */
SVC_API svc_err svc_call_options(struct svc_client *client, const char *service,
    const char *endpoint, const struct svc_message *req,
    struct svc_message *rsp, const struct svc_option *options);
/**
 * Tells how a call of svc_call_async has ended. Once, on a thread of svc and
 * never inside the call that began it. `rsp` and `detail` are never NULL and
 * live until it returns: after a failure `rsp` has only the headers of the
 * reply, if any; `detail` has code and text, SVC_OK and "" on success. The
 * bytes of a reply have a NUL behind them, as with svc_call. It may block, and
 * it may make calls of either kind; one that blocks holds one of --threads.
 */
typedef void (*svc_done_cb)(svc_err err, const struct svc_message *rsp,
    const struct svc_error *detail, void *arg);

/**
 * Begin a call and return at once; `done` tells the end. Options, choice of
 * the node, retries and errors are those of svc_call; the deadline is that of
 * timeout_ms(), else --client_request_timeout, and its passing is told at most
 * 12 ms late on a machine that keeps up. `req` and all texts are borrowed only
 * for this call; what detail() and reply_headers() name, until `done`.
 *
 * SVC_OK: `done` will run exactly once, whatever happens, before svc_free
 * returns: that ends open calls with SVC_E_CLOSED. (A wrapper that keeps the
 * call back promises this in its turn, see docs/wrappers.md.) Anything else: it
 * will never run, and the call has not begun. What is found out later (no such
 * service, no connection, SVC_E_AGAIN because too much waits to be sent,
 * SVC_E_EXHAUSTED because too many calls are open on the connection) comes
 * through `done`, so a caller that keeps many calls open should bound their
 * number. Calls begun in `done` leave together in one write.
 * Errors: SVC_E_INVAL (options, names), SVC_E_EXHAUSTED (a request above
 * --max_message_size), SVC_E_CLOSED (after svc_free began), SVC_E_NOMEM, what a
 * wrapper returned; with within(): SVC_E_TIMEDOUT, SVC_E_CANCELLED
 * Threads: any, handlers and `done` included; never blocks.
 */
#ifndef __cplusplus
#define svc_call_async(client, service, endpoint, req, done, ...) \
	SVC_ASYNC_ARG_(client, service, endpoint, req, done, __VA_ARGS__, end())
#define SVC_ASYNC_ARG_(client, service, endpoint, req, done, arg, ...)    \
	svc_call_async_options(client, service, endpoint, req, done, arg, \
	    SVC_OPTIONS_(SVC_CALL_OPT, __VA_ARGS__))
#endif
/** The function behind svc_call_async: options as an array ended by
 * SVC_OPTION_END, or NULL for none. */
SVC_API svc_err svc_call_async_options(struct svc_client *client,
    const char *service, const char *endpoint, const struct svc_message *req,
    svc_done_cb done, void *arg, const struct svc_option *options);
/** Frees what svc_call filled. NULL and an empty message are fine, and so is
 * what svc_stream_recv gave, which stays the stream's. */
SVC_API void svc_message_free(struct svc_message *rsp);

/** A call on its way through the wrappers. */
struct svc_outgoing {
	const char *service;
	const char *endpoint;
	const struct svc_message *req; /* with the call's headers in it */
	struct svc_message *rsp;       /* of svc_call: filled when next returns
					* SVC_OK; what it held is freed before */
	const struct svc_option *options; /* header() counts no more: see req */
	struct svc_error *err;
	svc_done_cb done; /* of svc_call_async; NULL: svc_call */
	void *done_arg;
};
typedef svc_err (*svc_call_next)(const struct svc_outgoing *call, void *arg);
/**
 * Around every call, the first given outermost. It runs on the thread that
 * calls. It goes on by `next` with `call`, or with a changed copy of it, or
 * stops the call by returning an error (and its text in call->err).
 *
 * `next` of a svc_call (call->done is NULL) returns when the call has ended. Of
 * a svc_call_async it returns when the call has begun; the end is told to
 * call->done, which a wrapper may replace in its copy. svc_call_then spares it
 * the difference. A call with the given `done` begins once: a further `next`
 * returns SVC_E_PRECONDITION, and what the wrapper returns then is not heard.
 */
typedef svc_err (*svc_call_wrapper)(const struct svc_outgoing *call,
    svc_call_next next, void *next_arg, void *arg);

/** The end of a call, for a wrapper: returns what the call shall end with,
 * mostly `code`; `err` is the text to that, which it may change. */
typedef svc_err (*svc_call_ended)(svc_err code, const struct svc_message *rsp,
    struct svc_error *err, void *arg);
/**
 * For a wrapper: go on with the call, and run `end` exactly once when it has
 * ended, for calls of both kinds, also when it never began. Return what this
 * returns.
 * Errors: SVC_E_INVAL (a NULL: nothing was run), what the call ends with
 */
SVC_API svc_err svc_call_then(const struct svc_outgoing *call,
    svc_call_next next, void *next_arg, svc_call_ended end, void *arg);
/* ---------------------------------------------------------------- streams */

/**
 * A stream: any number of messages each way, in order, over the connection
 * that calls use too. docs/streams.md shows what they are good for.
 *
 * A client opens one with svc_open and gives it back with svc_stream_free; a
 * handler is called with one, and its return ends it: SVC_OK (or SVC_E_EOF, as
 * svc_stream_recv gave it) is a clean end, anything else a failure that the
 * client reads, with the text of svc_fail(svc_stream_call(stream), ...).
 *
 * What a stream holds is bounded. A peer may have sent
 * svc_transport_limits.stream_window bytes that were not received yet (512 KiB
 * of it unless the receiver is quick); beyond it svc_stream_send waits at its
 * side. Over a transport without credit what
 * waits here is limited to 8 MiB and one message; a peer that passes that ends
 * the stream with SVC_E_EXHAUSTED.
 *
 * Threads: one may send while another receives, and any may cancel or ask.
 * Two may not send at once, nor receive at once, and nobody may use a stream
 * while it is freed or once its handler has returned. Different streams have
 * nothing to do with each other.
 */
typedef svc_err (*svc_stream_handler)(struct svc_stream *stream, void *arg);

/**
 * Serve a stream endpoint; options as for svc_handle. `fn` is called when a
 * stream was opened, on a thread of its own, and may block. A plain svc_call
 * to it is a stream with one message each way: the call takes the single
 * answer and fails when there are more. The endpoint is published with the
 * metadata stream=true. Before svc_start.
 * Errors: as svc_handle
 */
#ifndef __cplusplus
#define svc_handle_stream(service, endpoint, fn, ...) \
	SVC_HANDLE_STREAM_ARG_(service, endpoint, fn, __VA_ARGS__, end())
#define SVC_HANDLE_STREAM_ARG_(service, endpoint, fn, arg, ...) \
	svc_handle_stream_options(service, endpoint, fn, arg,   \
	    SVC_OPTIONS_(SVC_HANDLE_OPT, __VA_ARGS__))
#endif
/** The function behind svc_handle_stream: options as an array ended by
 * SVC_OPTION_END, or NULL for none. */
SVC_API svc_err svc_handle_stream_options(struct svc_service *service,
    const char *endpoint, svc_stream_handler fn, void *arg,
    const struct svc_option *options);

/**
 * Open a stream to `endpoint` of `service`; options as for svc_call but for
 * reply_headers(), and they are borrowed for the call, `detail` too.
 *
 * Returns once the stream was sent on its way, before the other side answered:
 * what fails later is told by svc_stream_send, svc_stream_recv and
 * svc_stream_error. Until the first answer the stream moves to another node
 * when it certainly did not run, and takes the messages sent so far with it,
 * as long as they are no more than 64 KiB.
 *
 * timeout_ms(n) bounds the whole life of the stream, at both sides, and so does
 * the deadline of the call in within(call); without them there is none. A
 * stream within a call ends with SVC_E_CANCELLED when the caller of that call
 * leaves before its handler has returned; then the stream goes on by itself.
 * Connecting is bounded by --client_request_timeout. content_type(str) is that
 * of all messages sent; without it the service's default. Streams must be freed
 * before the service is.
 *
 * NULL on failure, with the reason in detail(&err): SVC_E_NOT_FOUND,
 * SVC_E_UNAVAILABLE, SVC_E_INVAL (an option), SVC_E_NOMEM, ...
 * Threads: any, handlers included.
 */
#ifndef __cplusplus
#define svc_open(client, service, ...) \
	SVC_OPEN_ARG_(client, service, __VA_ARGS__, end())
#define SVC_OPEN_ARG_(client, service, endpoint, ...) \
	svc_open_options(client, service, endpoint,   \
	    SVC_OPTIONS_(SVC_CALL_OPT, __VA_ARGS__))
#endif
/** The function behind svc_open: options as an array ended by SVC_OPTION_END,
 * or NULL for none. */
SVC_API struct svc_stream *svc_open_options(struct svc_client *client,
    const char *service, const char *endpoint,
    const struct svc_option *options);

/**
 * Send one message, whole or not at all; borrowed for the call. Waits while
 * the peer takes no more. Returning SVC_OK says that it is on its way, not
 * that it arrived.
 *
 * A direction has one content type: a client's is said at svc_open, a
 * handler's is that of its first message, or the client's. `message->headers`
 * are not sent: headers go once (svc_stream_set_header).
 * Errors: SVC_E_EOF (the handler has ended the stream, well), what the stream
 * ended with (SVC_E_CANCELLED, SVC_E_TIMEDOUT, SVC_E_UNAVAILABLE, the
 * handler's code), SVC_E_EXHAUSTED (a limit: this message was not sent, the
 * stream goes on; if the peer's own limit is not known yet, it ends),
 * SVC_E_INVAL (after svc_stream_close_send, however the stream has ended;
 * another content type; no message, or a length without data), SVC_E_NOMEM; the
 * text is in svc_stream_error.
 */
SVC_API svc_err svc_stream_send(
    struct svc_stream *stream, const struct svc_message *message);
/**
 * Wait for the next message. It belongs to the stream and is valid until the
 * next svc_stream_recv, or the stream's end of life; svc_message_free on it
 * does no harm. `data` is followed by a NUL that `len` does not count. Every
 * message has the peer's content type, the first one also its headers.
 * Errors: SVC_E_EOF (a clean end: the client closed its sending side, the
 * handler returned SVC_OK), what the handler failed with, SVC_E_CANCELLED,
 * SVC_E_TIMEDOUT, SVC_E_UNAVAILABLE (the connection), SVC_E_EXHAUSTED (a
 * limit), SVC_E_NOMEM; the text is in svc_stream_error. What arrived before
 * such an end is delivered first, except after a deadline or a cancel of this
 * side. `ret_message` is empty then.
 */
SVC_API svc_err svc_stream_recv(
    struct svc_stream *stream, struct svc_message *ret_message);
/** No more messages from this side; receiving goes on. A handler that says so
 * still ends the stream by returning. Twice is fine.
 * Errors: what the stream ended with; it ends with SVC_E_EXHAUSTED when a
 * client's trailers are more than --max_header_size allows */
SVC_API svc_err svc_stream_close_send(struct svc_stream *stream);
/** Gives a client's stream back. If it has not ended in both directions, the
 * handler finds it cancelled. NULL is fine, and so is the stream of a handler,
 * where nothing happens. */
SVC_API void svc_stream_free(struct svc_stream *stream);

/** Ends the stream at once: here everything returns SVC_E_CANCELLED, and so
 * it does at the other side. Nothing happens when it has ended. Threads: any.
 */
SVC_API void svc_stream_cancel(struct svc_stream *stream);
/** The stream has failed: cancelled by either side, its deadline passed, its
 * connection lost, the service stopping. For handlers that run long without
 * receiving or sending. Threads: any. */
SVC_API bool svc_stream_cancelled(struct svc_stream *stream);
/** Why a function of this stream failed last, with its text; the code is also
 * returned. SVC_OK when none did. `ret` may be NULL. Threads: any. */
SVC_API svc_err svc_stream_error(
    struct svc_stream *stream, struct svc_error *ret);

/** A header of a handler's answer, before its first send; a client gives its
 * headers by header("k", "v") at svc_open.
 * Errors: SVC_E_PRECONDITION (too late, or a client), SVC_E_INVAL,
 * SVC_E_EXHAUSTED, SVC_E_NOMEM */
SVC_API svc_err svc_stream_set_header(
    struct svc_stream *stream, const char *name, const char *value);
/** A header of the peer, or NULL; a client has them once the handler has sent
 * its first message or ended. Valid as long as the stream. */
SVC_API const char *svc_stream_header(
    struct svc_stream *stream, const char *name);
/** A trailer, sent with the end of this side: svc_stream_close_send of a
 * client, the return of a handler, for which alone it is still early enough.
 * Errors: SVC_E_PRECONDITION (too late), SVC_E_INVAL, SVC_E_EXHAUSTED,
 * SVC_E_NOMEM */
SVC_API svc_err svc_stream_set_trailer(
    struct svc_stream *stream, const char *name, const char *value);
/** A trailer of the peer, or NULL; there once svc_stream_recv has returned its
 * end. Valid as long as the stream. */
SVC_API const char *svc_stream_trailer(
    struct svc_stream *stream, const char *name);

/** In a handler: the call that the stream is, for its peer, deadline, memory
 * and svc_fail; NULL for a client's stream. Its memory lives as long as the
 * stream: see svc_stream_forget. Threads: only the handler's. */
SVC_API struct svc_call *svc_stream_call(struct svc_stream *stream);
/** Frees what svc_alloc_in, svc_printf, svc_read and so on gave for
 * svc_stream_call since the stream began, so that a long stream does not grow.
 * A handler calls it once it is done with a message. Threads: only the
 * handler's. */
SVC_API void svc_stream_forget(struct svc_stream *stream);

/** Around the handler of every stream endpoint, the first given outermost. Call
 * `next` to go on; what is returned ends the stream. */
typedef svc_err (*svc_stream_wrapper)(struct svc_stream *stream,
    svc_stream_handler next, void *next_arg, void *arg);

/** A stream on its way through the wrappers of who opens it. */
struct svc_opening {
	const char *service;
	const char *endpoint;
	const struct svc_option *options;
	struct svc_error *err; /* why it is not opened */
};
typedef struct svc_stream *(*svc_open_next)(
    const struct svc_opening *opening, void *arg);
/** Around every svc_open, the first given outermost. Go on by `next` with
 * `opening` or a changed copy of it; NULL, with code and text in opening->err,
 * stops it. */
typedef struct svc_stream *(*svc_open_wrapper)(
    const struct svc_opening *opening, svc_open_next next, void *next_arg,
    void *arg);

/* ----------------------------------------------------------------- events */

/** SVC_OK acknowledges; anything else asks for redelivery. It may block. */
typedef svc_err (*svc_event_handler)(struct svc_event *event, void *arg);
/** What it was published on, what was published, and a header of that (NULL
 * when there is none of the name); all live as long as the event. */
SVC_API const char *svc_event_topic(const struct svc_event *event);
SVC_API const struct svc_message *svc_event_message(
    const struct svc_event *event);
SVC_API const char *svc_event_header(
    const struct svc_event *event, const char *name);

/** Options: queue("workers"): each queue gets each event once. Before
 * svc_start it is remembered; after it, it takes effect at once.
 * Errors: SVC_E_INVAL (topic), SVC_E_PRECONDITION (it has ended), SVC_E_NOMEM
 */
#ifndef __cplusplus
#define svc_subscribe(service, topic, fn, ...) \
	SVC_SUBSCRIBE_ARG_(service, topic, fn, __VA_ARGS__, end())
#define SVC_SUBSCRIBE_ARG_(service, topic, fn, arg, ...) \
	svc_subscribe_options(service, topic, fn, arg,   \
	    SVC_OPTIONS_(SVC_SUBSCRIBE_OPT, __VA_ARGS__))
#endif
/** The function behind svc_subscribe: options as an array ended by
 * SVC_OPTION_END, or NULL for none. */
SVC_API svc_err svc_subscribe_options(struct svc_service *service,
    const char *topic, svc_event_handler fn, void *arg,
    const struct svc_option *options);
/** Around the handler of every subscription, the first given outermost. Call
 * `next` to go on; what is returned acknowledges or asks for redelivery. */
typedef svc_err (*svc_event_wrapper)(
    struct svc_event *event, svc_event_handler next, void *next_arg, void *arg);

/** An event on its way through the wrappers of the publisher. */
struct svc_publishing {
	const char *topic;
	const struct svc_message *message;
	struct svc_error *err;
};
typedef svc_err (*svc_publish_next)(
    const struct svc_publishing *event, void *arg);
/** Around every svc_publish, the first given outermost. Go on by `next` with
 * `event` or a changed copy of it, or stop it by returning an error. */
typedef svc_err (*svc_publish_wrapper)(const struct svc_publishing *event,
    svc_publish_next next, void *next_arg, void *arg);

/** Publish one event (NULL: one without data); returns when the broker has it
 * (p2p: when every subscriber acknowledged). Works after svc_init; connects on
 * first use. Errors: SVC_E_TIMEDOUT, SVC_E_UNAVAILABLE, SVC_E_INVAL,
 * SVC_E_EXHAUSTED */
SVC_API svc_err svc_publish(struct svc_service *service, const char *topic,
    const struct svc_message *message);
/** The same with the failure's text; `err` may be NULL. */
SVC_API svc_err svc_publish_detail(struct svc_service *service,
    const char *topic, const struct svc_message *message,
    struct svc_error *err);

#ifdef __cplusplus
}
#endif
#endif
