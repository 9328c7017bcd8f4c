/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_OPTION_H
#define SVC_OPTION_H

/**
 * The option lists of the public face: `svc_new(name("student"), ttl(10))`.
 *
 * Each element x of a list expands through a macro whose name is the list's
 * prefix with x pasted on, so `name("student")` becomes
 * SVC_OPT_name("student"). Words such as name and ttl are therefore not macros
 * themselves, and the user's own variables of these names are left alone. An
 * argument that holds a comma outside parentheses (a compound literal) must be
 * put in parentheses.
 */

#include <svc/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** One option, as the lists make them; programs in C++ write them out. A list
 * is ended by SVC_OPTION_END. */
struct svc_option {
	int kind;
	const char *text; /* borrowed for the call */
	const char *text2;
	const char *text3;
	int64_t number;
	void *pointer;
	void (*function)(void);
};

/** What an option says is in `text`, where nothing else stands behind it. */
enum svc_option_kind {
	SVC_OPTION_END,
	SVC_OPTION_NONE, /* the empty list */
	/* of a service */
	SVC_OPTION_NAME,
	SVC_OPTION_VERSION,
	SVC_OPTION_ID,
	SVC_OPTION_ADDRESS,
	SVC_OPTION_ADVERTISE,
	SVC_OPTION_METADATA, /* text = text2 */
	SVC_OPTION_REGISTRY, /* plugin text at address text2 */
	SVC_OPTION_SELECTOR,
	SVC_OPTION_TRANSPORT, /* plugin text at address text2 */
	SVC_OPTION_BROKER,    /* plugin text at address text2 */
	SVC_OPTION_CODEC,
	SVC_OPTION_TTL,      /* number: seconds */
	SVC_OPTION_INTERVAL, /* number: seconds */
	SVC_OPTION_WEIGHT,   /* number */
	SVC_OPTION_FLAG_INT, /* name text, help text2, variable pointer; the
			      * four that follow too */
	SVC_OPTION_FLAG_INT64,
	SVC_OPTION_FLAG_BOOL,
	SVC_OPTION_FLAG_REAL,
	SVC_OPTION_FLAG_TEXT,
	SVC_OPTION_WRAP_HANDLER, /* function, argument pointer; the five that
				  * follow too */
	SVC_OPTION_WRAP_CALL,
	SVC_OPTION_WRAP_PUBLISH,
	SVC_OPTION_WRAP_SUBSCRIBE,
	SVC_OPTION_WRAP_STREAM_HANDLER,
	SVC_OPTION_WRAP_OPEN,
	SVC_OPTION_TLS, /* certificate text, key text2, CA text3 */
	SVC_OPTION_LOG_LEVEL,
	SVC_OPTION_CONFIG,
	SVC_OPTION_REGISTRY_TLS,      /* as SVC_OPTION_TLS */
	SVC_OPTION_REGISTRY_OPTION,   /* text = text2 */
	SVC_OPTION_REGISTRY_FALLBACK, /* plugin text at address text2 */
	SVC_OPTION_REGISTRY_SNAPSHOT,
	/* of a call */
	SVC_OPTION_TIMEOUT_MS, /* number */
	SVC_OPTION_RETRIES,    /* number */
	SVC_OPTION_HEADER,     /* text: text2 */
	SVC_OPTION_LABEL,      /* text = text2 */
	SVC_OPTION_NODE,
	SVC_OPTION_KEY,
	SVC_OPTION_CONTENT_TYPE,
	SVC_OPTION_IDEMPOTENT,    /* nothing */
	SVC_OPTION_DETAIL,        /* struct svc_error * in pointer */
	SVC_OPTION_REPLY_HEADERS, /* struct svc_headers * in pointer */
	SVC_OPTION_WITHIN,        /* struct svc_call * in pointer */
	/* of a handler or a subscription */
	SVC_OPTION_LIMIT, /* number: calls at once */
	SVC_OPTION_TYPES, /* descriptors of request, text, and response, text2,
			   * cast to const char * */
	SVC_OPTION_QUEUE,
	SVC_OPTION_NEVER_BLOCKS, /* nothing */
};

#ifndef __cplusplus

/* clang-format off */
#define SVC_OPT_ { SVC_OPTION_NONE, 0, 0, 0, 0, 0, 0 }
#define SVC_OPT_end() { SVC_OPTION_END, 0, 0, 0, 0, 0, 0 }
#define SVC_OPT_TEXT_(kind, text) { kind, text, 0, 0, 0, 0, 0 }
#define SVC_OPT_PAIR_(kind, a, b) { kind, a, b, 0, 0, 0, 0 }
#define SVC_OPT_NUMBER_(kind, n) { kind, 0, 0, 0, n, 0, 0 }
#define SVC_OPT_POINTER_(kind, p) { kind, 0, 0, 0, 0, p, 0 }
/* A bare word and an optional address. */
#define SVC_OPT_PLUGIN_(kind, ...) SVC_OPT_PLUGIN_1_(kind, __VA_ARGS__, 0, 0)
#define SVC_OPT_PLUGIN_1_(kind, plugin, address, ...)                       \
	{ kind, #plugin, address, 0, 0, 0, 0 }

#define SVC_OPT_name(s) SVC_OPT_TEXT_(SVC_OPTION_NAME, s)
#define SVC_OPT_version(s) SVC_OPT_TEXT_(SVC_OPTION_VERSION, s)
#define SVC_OPT_id(s) SVC_OPT_TEXT_(SVC_OPTION_ID, s)
#define SVC_OPT_address(s) SVC_OPT_TEXT_(SVC_OPTION_ADDRESS, s)
#define SVC_OPT_advertise(s) SVC_OPT_TEXT_(SVC_OPTION_ADVERTISE, s)
#define SVC_OPT_metadata(k, v) SVC_OPT_PAIR_(SVC_OPTION_METADATA, k, v)
#define SVC_OPT_registry(...) SVC_OPT_PLUGIN_(SVC_OPTION_REGISTRY, __VA_ARGS__)
#define SVC_OPT_selector(...) SVC_OPT_PLUGIN_(SVC_OPTION_SELECTOR, __VA_ARGS__)
#define SVC_OPT_transport(...)                                              \
	SVC_OPT_PLUGIN_(SVC_OPTION_TRANSPORT, __VA_ARGS__)
#define SVC_OPT_broker(...) SVC_OPT_PLUGIN_(SVC_OPTION_BROKER, __VA_ARGS__)
#define SVC_OPT_codec(s) SVC_OPT_TEXT_(SVC_OPTION_CODEC, s)
#define SVC_OPT_ttl(s) SVC_OPT_NUMBER_(SVC_OPTION_TTL, s)
#define SVC_OPT_interval(s) SVC_OPT_NUMBER_(SVC_OPTION_INTERVAL, s)
#define SVC_OPT_weight(n) SVC_OPT_NUMBER_(SVC_OPTION_WEIGHT, n)
#define SVC_OPT_flag(name, help, variable)                                  \
	{ _Generic((variable), int *: SVC_OPTION_FLAG_INT,                  \
	      long *: SVC_OPTION_FLAG_INT64,                                \
	      long long *: SVC_OPTION_FLAG_INT64,                           \
	      bool *: SVC_OPTION_FLAG_BOOL,                                 \
	      double *: SVC_OPTION_FLAG_REAL,                               \
	      const char **: SVC_OPTION_FLAG_TEXT),                         \
	  name, help, 0, 0, (void *)(variable), 0 }
#define SVC_OPT_wrap_handler(fn, arg)                                       \
	{ SVC_OPTION_WRAP_HANDLER, 0, 0, 0, 0, arg,                         \
	  (void (*)(void))(svc_handler_wrapper){ fn } }
#define SVC_OPT_wrap_call(fn, arg)                                          \
	{ SVC_OPTION_WRAP_CALL, 0, 0, 0, 0, arg,                            \
	  (void (*)(void))(svc_call_wrapper){ fn } }
#define SVC_OPT_wrap_publish(fn, arg)                                       \
	{ SVC_OPTION_WRAP_PUBLISH, 0, 0, 0, 0, arg,                         \
	  (void (*)(void))(svc_publish_wrapper){ fn } }
#define SVC_OPT_wrap_subscribe(fn, arg)                                     \
	{ SVC_OPTION_WRAP_SUBSCRIBE, 0, 0, 0, 0, arg,                       \
	  (void (*)(void))(svc_event_wrapper){ fn } }
#define SVC_OPT_wrap_stream_handler(fn, arg)                                \
	{ SVC_OPTION_WRAP_STREAM_HANDLER, 0, 0, 0, 0, arg,                  \
	  (void (*)(void))(svc_stream_wrapper){ fn } }
#define SVC_OPT_wrap_open(fn, arg)                                          \
	{ SVC_OPTION_WRAP_OPEN, 0, 0, 0, 0, arg,                            \
	  (void (*)(void))(svc_open_wrapper){ fn } }
#define SVC_OPT_tls(cert, key, ca) { SVC_OPTION_TLS, cert, key, ca, 0, 0, 0 }
#define SVC_OPT_registry_tls(cert, key, ca)                                 \
	{ SVC_OPTION_REGISTRY_TLS, cert, key, ca, 0, 0, 0 }
#define SVC_OPT_registry_option(k, v)                                       \
	SVC_OPT_PAIR_(SVC_OPTION_REGISTRY_OPTION, k, v)
#define SVC_OPT_registry_fallback(...)                                      \
	SVC_OPT_PLUGIN_(SVC_OPTION_REGISTRY_FALLBACK, __VA_ARGS__)
#define SVC_OPT_registry_snapshot(s)                                        \
	SVC_OPT_TEXT_(SVC_OPTION_REGISTRY_SNAPSHOT, s)
#define SVC_OPT_log_level(s) SVC_OPT_TEXT_(SVC_OPTION_LOG_LEVEL, s)
#define SVC_OPT_config(s) SVC_OPT_TEXT_(SVC_OPTION_CONFIG, s)

#define SVC_CALL_OPT_end() SVC_OPT_end()
#define SVC_CALL_OPT_timeout_ms(n) SVC_OPT_NUMBER_(SVC_OPTION_TIMEOUT_MS, n)
#define SVC_CALL_OPT_retries(n) SVC_OPT_NUMBER_(SVC_OPTION_RETRIES, n)
#define SVC_CALL_OPT_header(k, v) SVC_OPT_PAIR_(SVC_OPTION_HEADER, k, v)
#define SVC_CALL_OPT_version(s) SVC_OPT_TEXT_(SVC_OPTION_VERSION, s)
#define SVC_CALL_OPT_label(k, v) SVC_OPT_PAIR_(SVC_OPTION_LABEL, k, v)
#define SVC_CALL_OPT_node(s) SVC_OPT_TEXT_(SVC_OPTION_NODE, s)
#define SVC_CALL_OPT_key(s) SVC_OPT_TEXT_(SVC_OPTION_KEY, s)
#define SVC_CALL_OPT_content_type(s) SVC_OPT_TEXT_(SVC_OPTION_CONTENT_TYPE, s)
#define SVC_CALL_OPT_idempotent() SVC_OPT_NUMBER_(SVC_OPTION_IDEMPOTENT, 1)
#define SVC_CALL_OPT_detail(e) SVC_OPT_POINTER_(SVC_OPTION_DETAIL, e)
#define SVC_CALL_OPT_reply_headers(h)                                       \
	SVC_OPT_POINTER_(SVC_OPTION_REPLY_HEADERS, h)
#define SVC_CALL_OPT_within(call) SVC_OPT_POINTER_(SVC_OPTION_WITHIN, call)

#define SVC_HANDLE_OPT_end() SVC_OPT_end()
#define SVC_HANDLE_OPT_idempotent() SVC_OPT_NUMBER_(SVC_OPTION_IDEMPOTENT, 1)
#define SVC_HANDLE_OPT_never_blocks()                                       \
	SVC_OPT_NUMBER_(SVC_OPTION_NEVER_BLOCKS, 1)
#define SVC_HANDLE_OPT_limit(n) SVC_OPT_NUMBER_(SVC_OPTION_LIMIT, n)
#define SVC_HANDLE_OPT_metadata(k, v) SVC_OPT_PAIR_(SVC_OPTION_METADATA, k, v)
#define SVC_HANDLE_OPT_types(request, response)                             \
	{ SVC_OPTION_TYPES, (const char *)(request),                        \
	  (const char *)(response), 0, 0, 0, 0 }

#define SVC_SUBSCRIBE_OPT_end() SVC_OPT_end()
#define SVC_SUBSCRIBE_OPT_queue(s) SVC_OPT_TEXT_(SVC_OPTION_QUEUE, s)

/* SVC_EACH_(P, a, b) is P_a, P_b, for up to 48 elements. */
#define SVC_EACH_1_(P, a) P##_##a
#define SVC_EACH_2_(P, a, ...) P##_##a, SVC_EACH_1_(P, __VA_ARGS__)
#define SVC_EACH_3_(P, a, ...) P##_##a, SVC_EACH_2_(P, __VA_ARGS__)
#define SVC_EACH_4_(P, a, ...) P##_##a, SVC_EACH_3_(P, __VA_ARGS__)
#define SVC_EACH_5_(P, a, ...) P##_##a, SVC_EACH_4_(P, __VA_ARGS__)
#define SVC_EACH_6_(P, a, ...) P##_##a, SVC_EACH_5_(P, __VA_ARGS__)
#define SVC_EACH_7_(P, a, ...) P##_##a, SVC_EACH_6_(P, __VA_ARGS__)
#define SVC_EACH_8_(P, a, ...) P##_##a, SVC_EACH_7_(P, __VA_ARGS__)
#define SVC_EACH_9_(P, a, ...) P##_##a, SVC_EACH_8_(P, __VA_ARGS__)
#define SVC_EACH_10_(P, a, ...) P##_##a, SVC_EACH_9_(P, __VA_ARGS__)
#define SVC_EACH_11_(P, a, ...) P##_##a, SVC_EACH_10_(P, __VA_ARGS__)
#define SVC_EACH_12_(P, a, ...) P##_##a, SVC_EACH_11_(P, __VA_ARGS__)
#define SVC_EACH_13_(P, a, ...) P##_##a, SVC_EACH_12_(P, __VA_ARGS__)
#define SVC_EACH_14_(P, a, ...) P##_##a, SVC_EACH_13_(P, __VA_ARGS__)
#define SVC_EACH_15_(P, a, ...) P##_##a, SVC_EACH_14_(P, __VA_ARGS__)
#define SVC_EACH_16_(P, a, ...) P##_##a, SVC_EACH_15_(P, __VA_ARGS__)
#define SVC_EACH_17_(P, a, ...) P##_##a, SVC_EACH_16_(P, __VA_ARGS__)
#define SVC_EACH_18_(P, a, ...) P##_##a, SVC_EACH_17_(P, __VA_ARGS__)
#define SVC_EACH_19_(P, a, ...) P##_##a, SVC_EACH_18_(P, __VA_ARGS__)
#define SVC_EACH_20_(P, a, ...) P##_##a, SVC_EACH_19_(P, __VA_ARGS__)
#define SVC_EACH_21_(P, a, ...) P##_##a, SVC_EACH_20_(P, __VA_ARGS__)
#define SVC_EACH_22_(P, a, ...) P##_##a, SVC_EACH_21_(P, __VA_ARGS__)
#define SVC_EACH_23_(P, a, ...) P##_##a, SVC_EACH_22_(P, __VA_ARGS__)
#define SVC_EACH_24_(P, a, ...) P##_##a, SVC_EACH_23_(P, __VA_ARGS__)
#define SVC_EACH_25_(P, a, ...) P##_##a, SVC_EACH_24_(P, __VA_ARGS__)
#define SVC_EACH_26_(P, a, ...) P##_##a, SVC_EACH_25_(P, __VA_ARGS__)
#define SVC_EACH_27_(P, a, ...) P##_##a, SVC_EACH_26_(P, __VA_ARGS__)
#define SVC_EACH_28_(P, a, ...) P##_##a, SVC_EACH_27_(P, __VA_ARGS__)
#define SVC_EACH_29_(P, a, ...) P##_##a, SVC_EACH_28_(P, __VA_ARGS__)
#define SVC_EACH_30_(P, a, ...) P##_##a, SVC_EACH_29_(P, __VA_ARGS__)
#define SVC_EACH_31_(P, a, ...) P##_##a, SVC_EACH_30_(P, __VA_ARGS__)
#define SVC_EACH_32_(P, a, ...) P##_##a, SVC_EACH_31_(P, __VA_ARGS__)
#define SVC_EACH_33_(P, a, ...) P##_##a, SVC_EACH_32_(P, __VA_ARGS__)
#define SVC_EACH_34_(P, a, ...) P##_##a, SVC_EACH_33_(P, __VA_ARGS__)
#define SVC_EACH_35_(P, a, ...) P##_##a, SVC_EACH_34_(P, __VA_ARGS__)
#define SVC_EACH_36_(P, a, ...) P##_##a, SVC_EACH_35_(P, __VA_ARGS__)
#define SVC_EACH_37_(P, a, ...) P##_##a, SVC_EACH_36_(P, __VA_ARGS__)
#define SVC_EACH_38_(P, a, ...) P##_##a, SVC_EACH_37_(P, __VA_ARGS__)
#define SVC_EACH_39_(P, a, ...) P##_##a, SVC_EACH_38_(P, __VA_ARGS__)
#define SVC_EACH_40_(P, a, ...) P##_##a, SVC_EACH_39_(P, __VA_ARGS__)
#define SVC_EACH_41_(P, a, ...) P##_##a, SVC_EACH_40_(P, __VA_ARGS__)
#define SVC_EACH_42_(P, a, ...) P##_##a, SVC_EACH_41_(P, __VA_ARGS__)
#define SVC_EACH_43_(P, a, ...) P##_##a, SVC_EACH_42_(P, __VA_ARGS__)
#define SVC_EACH_44_(P, a, ...) P##_##a, SVC_EACH_43_(P, __VA_ARGS__)
#define SVC_EACH_45_(P, a, ...) P##_##a, SVC_EACH_44_(P, __VA_ARGS__)
#define SVC_EACH_46_(P, a, ...) P##_##a, SVC_EACH_45_(P, __VA_ARGS__)
#define SVC_EACH_47_(P, a, ...) P##_##a, SVC_EACH_46_(P, __VA_ARGS__)
#define SVC_EACH_48_(P, a, ...) P##_##a, SVC_EACH_47_(P, __VA_ARGS__)
#define SVC_PICK_(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, \
    _15, _16, _17, _18, _19, _20, _21, _22, _23, _24, _25, _26, _27, _28, \
    _29, _30, _31, _32, _33, _34, _35, _36, _37, _38, _39, _40, _41, _42, \
    _43, _44, _45, _46, _47, _48, N, ...) N
#define SVC_EACH_(P, ...) \
    SVC_PICK_(__VA_ARGS__, SVC_EACH_48_, SVC_EACH_47_, SVC_EACH_46_, \
    SVC_EACH_45_, SVC_EACH_44_, SVC_EACH_43_, SVC_EACH_42_, SVC_EACH_41_, \
    SVC_EACH_40_, SVC_EACH_39_, SVC_EACH_38_, SVC_EACH_37_, SVC_EACH_36_, \
    SVC_EACH_35_, SVC_EACH_34_, SVC_EACH_33_, SVC_EACH_32_, SVC_EACH_31_, \
    SVC_EACH_30_, SVC_EACH_29_, SVC_EACH_28_, SVC_EACH_27_, SVC_EACH_26_, \
    SVC_EACH_25_, SVC_EACH_24_, SVC_EACH_23_, SVC_EACH_22_, SVC_EACH_21_, \
    SVC_EACH_20_, SVC_EACH_19_, SVC_EACH_18_, SVC_EACH_17_, SVC_EACH_16_, \
    SVC_EACH_15_, SVC_EACH_14_, SVC_EACH_13_, SVC_EACH_12_, SVC_EACH_11_, \
    SVC_EACH_10_, SVC_EACH_9_, SVC_EACH_8_, SVC_EACH_7_, SVC_EACH_6_, \
    SVC_EACH_5_, SVC_EACH_4_, SVC_EACH_3_, SVC_EACH_2_, SVC_EACH_1_, 0)(P, \
    __VA_ARGS__)

#define SVC_OPTIONS_(P, ...)                                                \
	((const struct svc_option[]){ SVC_EACH_(P, __VA_ARGS__),            \
	    SVC_OPT_end() })

/* clang-format on */
#endif /* __cplusplus */

#ifdef __cplusplus
}
#endif
#endif
