/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_ERROR_H
#define SVC_ERROR_H

#include <svc/base.h>

#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * One list for local and remote failures: X(name, number, grpc, http, text).
 *
 * 0 to 16 are the canonical codes of gRPC with their numbers; those from 32 on
 * are svc's own. Numbers cross processes: they are explicit and never reused.
 * grpc and http say what a code becomes in those worlds. go-micro's `code` is
 * the HTTP status. Source: grpc/doc/statuscodes.md, and the HTTP mapping of
 * google.rpc.Code.
 */
#define SVC_ERRORS(X)                                            \
	X(OK, 0, 0, 200, "ok")                                   \
	X(E_CANCELLED, 1, 1, 499, "cancelled by the caller")     \
	X(E_UNKNOWN, 2, 2, 500, "unknown error")                 \
	X(E_INVAL, 3, 3, 400, "invalid argument")                \
	X(E_TIMEDOUT, 4, 4, 408, "deadline exceeded")            \
	X(E_NOT_FOUND, 5, 5, 404, "not found")                   \
	X(E_EXISTS, 6, 6, 409, "already exists")                 \
	X(E_DENIED, 7, 7, 403, "permission denied")              \
	X(E_EXHAUSTED, 8, 8, 429, "resource exhausted")          \
	X(E_PRECONDITION, 9, 9, 412, "failed precondition")      \
	X(E_ABORTED, 10, 10, 409, "aborted")                     \
	X(E_RANGE, 11, 11, 400, "out of range")                  \
	X(E_UNIMPLEMENTED, 12, 12, 501, "unimplemented")         \
	X(E_INTERNAL, 13, 13, 500, "internal error")             \
	X(E_UNAVAILABLE, 14, 14, 503, "unavailable")             \
	X(E_DATA_LOSS, 15, 15, 500, "data loss")                 \
	X(E_UNAUTHENTICATED, 16, 16, 401, "unauthenticated")     \
	X(E_EOF, 32, 11, 400, "end of stream")                   \
	X(E_AGAIN, 33, 14, 503, "not possible now, try again")   \
	X(E_ABI, 34, 9, 412, "plugin does not fit this release") \
	X(E_NOMEM, 35, 8, 500, "out of memory")                  \
	X(E_CLOSED, 36, 1, 499, "closed")                        \
	X(E_DONE, 37, 0, 200, "help or version was printed")

typedef enum svc_err {
#define SVC_ERROR_ENUM_(name, number, grpc, http, text) SVC_##name = number,
	SVC_ERRORS(SVC_ERROR_ENUM_)
#undef SVC_ERROR_ENUM_
} svc_err;

/**
 * The detail of a failure, in the caller's storage: never allocated, because
 * reporting a failure must not fail; never thread-local, because completions
 * arrive on other threads. `text` is one line without a full stop and says
 * what was wrong and what is allowed or to be done.
 */
struct svc_error {
	svc_err code;
	int sys; /* errno, HTTP status or a library's own code; 0 when none */
	char text[248];
};

/** "SVC_E_TIMEDOUT"; "SVC_E_?" for a number not in the list. Static. */
SVC_API const char *svc_err_name(svc_err err);
/** "deadline exceeded"; static. */
SVC_API const char *svc_err_text(svc_err err);
/** From "SVC_E_TIMEDOUT", "E_TIMEDOUT" or "TIMEDOUT", in any case;
 * SVC_E_UNKNOWN for another word. */
SVC_API svc_err svc_err_from_name(const char *name);
/** The code of a number a peer sent: SVC_E_UNKNOWN when not in the list. */
SVC_API svc_err svc_err_from_number(uint32_t number);

/** To the status of gRPC and HTTP that is nearest, and from one; what has none
 * is UNKNOWN, and 500. */
SVC_API int svc_err_to_grpc(svc_err err);
SVC_API svc_err svc_err_from_grpc(int status);
SVC_API int svc_err_to_http(svc_err err);
SVC_API svc_err svc_err_from_http(int status);

/**
 * Fill `error` (NULL is fine) with a code and a text, and return the code:
 * `return svc_error_set(err, SVC_E_INVAL, "ttl is %d, must be ...", ttl);`
 * Text that does not fit is cut at a UTF-8 boundary and control characters
 * become spaces. A remote text must be an argument, never the format; an
 * argument may be error->text itself, to put something in front of it.
 */
SVC_API SVC_COLD svc_err svc_error_set(struct svc_error *error, svc_err code,
    const char *format, ...) SVC_PRINTF(3, 4);
SVC_API SVC_COLD svc_err svc_error_vset(struct svc_error *error, svc_err code,
    const char *format, va_list args) SVC_PRINTF(3, 0);
/** The same from an errno, whose own text is appended. `code` SVC_OK picks the
 * fitting code by itself. */
SVC_API SVC_COLD svc_err svc_error_sys(struct svc_error *error, svc_err code,
    int sys, const char *format, ...) SVC_PRINTF(4, 5);

#ifdef __cplusplus
}
#endif
#endif
