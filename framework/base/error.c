/* SPDX-License-Identifier: Apache-2.0 */
#include <svc/error.h>

#include "text_private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *
svc_err_name(svc_err err)
{
	switch (err) {
#define NAME(name, number, grpc, http, text) \
	case SVC_##name:                     \
		return "SVC_" #name;
		SVC_ERRORS(NAME)
#undef NAME
	}
	return "SVC_E_?";
}

const char *
svc_err_text(svc_err err)
{
	switch (err) {
#define TEXT(name, number, grpc, http, text) \
	case SVC_##name:                     \
		return text;
		SVC_ERRORS(TEXT)
#undef TEXT
	}
	return "error of an unknown number";
}

svc_err
svc_err_from_name(const char *name)
{
	static const struct {
		svc_err err;
		const char *name;
	} list[] = {
#define ENTRY(name, number, grpc, http, text) {SVC_##name, "SVC_" #name},
	    SVC_ERRORS(ENTRY)
#undef ENTRY
	};
	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		const char *full = list[i].name;
		const char *bare = full + strlen("SVC_");
		if (svc_text_same(name, full) || svc_text_same(name, bare))
			return list[i].err;
		if (strncmp(bare, "E_", 2) == 0 &&
		    svc_text_same(name, bare + 2))
			return list[i].err;
	}
	return SVC_E_UNKNOWN;
}

svc_err
svc_err_from_number(uint32_t number)
{
	switch (number) {
#define NUMBER(name, number, grpc, http, text) \
	case number:                           \
		return SVC_##name;
		SVC_ERRORS(NUMBER)
#undef NUMBER
	}
	return SVC_E_UNKNOWN;
}

int
svc_err_to_grpc(svc_err err)
{
	switch (err) {
#define GRPC(name, number, grpc, http, text) \
	case SVC_##name:                     \
		return grpc;
		SVC_ERRORS(GRPC)
#undef GRPC
	}
	return SVC_E_UNKNOWN;
}

svc_err
svc_err_from_grpc(int status)
{
	/* The first codes of the list are gRPC's, with its numbers. */
	if (status < SVC_OK || status > SVC_E_UNAUTHENTICATED)
		return SVC_E_UNKNOWN;
	return (svc_err)status;
}

int
svc_err_to_http(svc_err err)
{
	switch (err) {
#define HTTP(name, number, grpc, http, text) \
	case SVC_##name:                     \
		return http;
		SVC_ERRORS(HTTP)
#undef HTTP
	}
	return 500;
}

svc_err
svc_err_from_http(int status)
{
	/* Several codes share a status; this picks the plainest of each. */
	switch (status) {
	case 401:
		return SVC_E_UNAUTHENTICATED;
	case 403:
		return SVC_E_DENIED;
	case 404:
	case 410:
		return SVC_E_NOT_FOUND;
	case 405:
	case 501:
		return SVC_E_UNIMPLEMENTED;
	case 408:
	case 504:
		return SVC_E_TIMEDOUT;
	case 409:
		return SVC_E_EXISTS;
	case 412:
		return SVC_E_PRECONDITION;
	case 413:
	case 429:
		return SVC_E_EXHAUSTED;
	case 416:
		return SVC_E_RANGE;
	case 499:
		return SVC_E_CANCELLED;
	case 500:
		return SVC_E_INTERNAL;
	case 502:
	case 503:
		return SVC_E_UNAVAILABLE;
	}
	if (status >= 200 && status <= 299)
		return SVC_OK;
	if (status >= 400 && status <= 499)
		return SVC_E_INVAL;
	return SVC_E_UNKNOWN;
}

svc_err
svc_error_vset(
    struct svc_error *error, svc_err code, const char *format, va_list args)
{
	if (error == NULL)
		return code;
	/* Written aside first: an argument may be error->text itself, where a
	 * caller adds to what failed below it. */
	char text[sizeof(error->text)];
	int wanted = vsnprintf(text, sizeof(text), format, args);
	if (wanted < 0)
		text[0] = '\0';
	else if ((size_t)wanted >= sizeof(text))
		text[svc_text_cut(text, sizeof(text) - 1)] = '\0';
	svc_text_one_line(text);
	memcpy(error->text, text, sizeof(text));
	error->code = code;
	error->sys = 0;
	return code;
}

svc_err
svc_error_set(struct svc_error *error, svc_err code, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	svc_error_vset(error, code, format, args);
	va_end(args);
	return code;
}

static svc_err
code_of_errno(int sys)
{
	switch (sys) {
	case ENOMEM:
		return SVC_E_NOMEM;
	case EMFILE:
	case ENFILE:
	case ENOSPC:
	case ENOBUFS:
	case EDQUOT:
		return SVC_E_EXHAUSTED;
	case EACCES:
	case EPERM:
	case EROFS:
		return SVC_E_DENIED;
	case ENOENT:
	case ESRCH:
	case ENODEV:
	case ENXIO:
		return SVC_E_NOT_FOUND;
	case EEXIST:
	case EADDRINUSE:
		return SVC_E_EXISTS;
	case ETIMEDOUT:
		return SVC_E_TIMEDOUT;
	case ECANCELED:
		return SVC_E_CANCELLED;
	case EAGAIN:
	case EINTR:
	case EBUSY:
		return SVC_E_AGAIN;
	case ECONNREFUSED:
	case ECONNRESET:
	case ECONNABORTED:
	case ENOTCONN:
	case EPIPE:
	case EHOSTUNREACH:
	case EHOSTDOWN:
	case ENETUNREACH:
	case ENETDOWN:
		return SVC_E_UNAVAILABLE;
	case EINVAL:
	case EBADF:
	case ENOTDIR:
	case EISDIR:
	case ENAMETOOLONG:
	case EADDRNOTAVAIL:
		return SVC_E_INVAL;
	case ERANGE:
	case EOVERFLOW:
	case EFBIG:
		return SVC_E_RANGE;
	case ENOSYS:
	case EOPNOTSUPP:
	case EAFNOSUPPORT:
	case EPROTONOSUPPORT:
		return SVC_E_UNIMPLEMENTED;
	}
	return SVC_E_UNKNOWN;
}

svc_err
svc_error_sys(
    struct svc_error *error, svc_err code, int sys, const char *format, ...)
{
	if (code == SVC_OK)
		code = code_of_errno(sys);
	if (error == NULL)
		return code;
	va_list args;
	va_start(args, format);
	svc_error_vset(error, code, format, args);
	va_end(args);
	char reason[80];
	svc_error_set(error, code, "%s: %s", error->text,
	    strerror_r(sys, reason, sizeof(reason)));
	error->sys = sys;
	return code;
}
