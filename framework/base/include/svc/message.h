/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SVC_MESSAGE_H
#define SVC_MESSAGE_H

#include <svc/headers.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * What a call, a reply or an event carries: bytes of a content type, with
 * headers. A plain struct of borrowed pointers; who owns what is behind them
 * is said where a message is handed over. `data` may be NULL only when `len`
 * is 0, and the content type is one by svc_content_type_check: else whoever is
 * given the message says SVC_E_INVAL.
 */
struct svc_message {
	const char
	    *content_type; /* "application/json"; NULL: the default one */
	const void *data;
	size_t len;
	struct svc_headers *headers; /* NULL when there are none */
};

#ifdef __cplusplus
}
#endif
#endif
